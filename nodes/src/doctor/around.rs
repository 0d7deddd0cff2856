//! What is around the node: its disk's pace, its peers as they answer when they are asked, what is stored, and the last backup.
//!
//! None of it makes a node unready: each limits it, or will.

use featureops_cluster::{Health, Surveyed};
use featureops_proto::unix_ms;
use featureops_proto::v1::BackupRecord;

use super::{DAY_MS, Finding};
use crate::host::Host;

/// A median sync longer than this makes every write wait, in milliseconds.
const SYNC_MS_MAX: u64 = 100;
/// A single one of the last that took longer stood in the way of elections, in milliseconds.
const SYNC_LONGEST_MS_MAX: u64 = 2_000;
/// Clocks of members may differ by so much, beside half the time to the answer, in milliseconds.
const CLOCK_MS_MAX: u64 = 1_000;
/// A member that lacks more entries does not follow.
const LAG_ENTRIES_MAX: u64 = 10_000;
/// Days after which a backup is old.
const BACKUP_DAYS_MAX: i64 = 7;

/// What is looked at here, of a node and the members that it asked; empty: it was not asked to ask.
pub fn findings(host: &Host, health: &Health, log_time_ms: i64, members: &[Surveyed]) -> Vec<Finding> {
    let (level, level_max, backup) = host
        .replica
        .read(|state| (state.feature_level(), state.feature_level_max(), state.last_backup().cloned()));
    let mut all = vec![
        sync_finding(health.sync_ms),
        stored_finding(health, host.snapshot_every_entries),
        backup_finding(backup.as_ref(), level, log_time_ms),
        level_finding(level, level_max),
    ];
    if members.len() > 1 {
        all.extend([reach_finding(members), clock_finding(members), lag_finding(health)]);
    }
    all
}

fn sync_finding(sync_ms: Option<(u64, u64)>) -> Finding {
    let detail = sync_ms.map_or_else(
        || "nothing was written yet".to_owned(),
        |(median, longest)| {
            format!("the log is durable after {median} ms in the middle, {longest} ms at the longest")
        },
    );
    let slow = sync_ms.is_some_and(|(median, longest)| median > SYNC_MS_MAX || longest > SYNC_LONGEST_MS_MAX);
    Finding::new(
        "disk sync",
        false,
        slow.then(|| detail.clone()),
        detail,
        "every write waits for it: give the data folder a disk of its own, with fast syncs, or fewer neighbours on this one",
    )
}

fn stored_finding(health: &Health, every_entries: u64) -> Finding {
    let behind = health.applied.saturating_sub(health.snapshot.unwrap_or_default());
    let detail = match health.snapshot {
        Some(index) => format!("snapshot at {index}, {behind} entries behind the state"),
        None => format!("no snapshot yet, {behind} entries"),
    };
    // Some more come while one is written.
    let old = behind > every_entries.saturating_mul(2).saturating_add(10_000);
    Finding::new(
        "stored snapshot",
        false,
        old.then(|| detail.clone()),
        detail,
        "the log grows and a start takes longer: see 'disk' and 'log', and the process log for why none is stored",
    )
}

fn backup_finding(backup: Option<&BackupRecord>, level: u32, log_time_ms: i64) -> Finding {
    let age_days = backup
        .and_then(|backup| backup.record_time.as_ref())
        .map(|time| log_time_ms.saturating_sub(unix_ms(time)).div_euclid(DAY_MS));
    let detail = match (backup, age_days) {
        (Some(backup), Some(days)) => {
            let by = backup.recorded_by.clone().unwrap_or_default().id;
            format!(
                "the last one is {days} days old: position {}, {} bytes, by {by}",
                backup.position, backup.bytes
            )
        }
        _ if level < 2 => "not noted below feature level 2 (featureops upgrade plan)".to_owned(),
        _ => "none was noted (featureops backup create FOLDER)".to_owned(),
    };
    let old = age_days.is_some_and(|days| days >= BACKUP_DAYS_MAX);
    Finding::new(
        "backup",
        false,
        old.then(|| detail.clone()),
        detail,
        "take one: featureops backup create FOLDER; and look why the one that takes them regularly does not",
    )
}

fn level_finding(level: u32, level_max: u32) -> Finding {
    let detail = match level_max > level {
        true => format!("{level}; this build knows {level_max} (featureops upgrade plan)"),
        false => level.to_string(),
    };
    Finding::new("feature level", false, None, detail, "")
}

fn reach_finding(members: &[Surveyed]) -> Finding {
    let silent: Vec<String> = members
        .iter()
        .filter_map(|member| {
            Some(format!("node {} at {}: {}", member.node, member.address, member.fault.as_ref()?))
        })
        .collect();
    let slowest = members.iter().map(|member| member.answer_ms).max().unwrap_or_default();
    Finding::new(
        "peers",
        false,
        (!silent.is_empty()).then(|| silent.join("; ")),
        format!("all {} members answer this node, the slowest within {slowest} ms", members.len()),
        "start what is down; see that the address each node advertises leads to its peer port from here, through firewalls too",
    )
}

fn clock_finding(members: &[Surveyed]) -> Finding {
    let off = |member: &&Surveyed| {
        let ahead = member.clock_ahead_ms.unsigned_abs();
        member.fault.is_none() && ahead > CLOCK_MS_MAX.saturating_add(member.answer_ms / 2)
    };
    let told = |member: &Surveyed| {
        let way = if member.clock_ahead_ms < 0 { "behind" } else { "ahead of" };
        format!(
            "node {}'s clock is {} ms {way} this one's",
            member.node,
            member.clock_ahead_ms.unsigned_abs()
        )
    };
    let faults: Vec<String> = members.iter().filter(off).map(told).collect();
    let most = members.iter().map(|member| member.clock_ahead_ms.unsigned_abs()).max().unwrap_or_default();
    Finding::new(
        "members' clocks",
        false,
        (!faults.is_empty()).then(|| faults.join("; ")),
        format!("within {most} ms of this one's"),
        "log time is the leader's: mend the clocks (NTP), for it jumps when another one leads",
    )
}

/// Only the leader knows; a follower knows how far it is itself.
fn lag_finding(health: &Health) -> Finding {
    let last = health.last_log.unwrap_or_default();
    let own = last.saturating_sub(health.applied);
    let lags: Vec<(u64, u64)> = match health.leads {
        true => health
            .members
            .iter()
            .map(|member| (member.node, last.saturating_sub(member.matched.unwrap_or_default())))
            .collect(),
        false => vec![(health.node, own)],
    };
    let behind: Vec<String> = lags
        .iter()
        .filter(|(_, lag)| *lag > LAG_ENTRIES_MAX)
        .map(|(node, lag)| format!("node {node} is {lag} entries behind"))
        .collect();
    let most = lags.iter().map(|(_, lag)| *lag).max().unwrap_or_default();
    Finding::new(
        "replication",
        false,
        (!behind.is_empty()).then(|| behind.join("; ")),
        match health.leads {
            true => format!("no member is more than {most} entries behind"),
            false => {
                format!("{own} entries are here and not applied; how far others are only the leader knows")
            }
        },
        "a member that just joined or was away catches up by itself; one that does not is short of disk, network or processor",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_cluster::MemberHealth;
    use featureops_proto::timestamp;

    fn fault(finding: Finding) -> Option<String> {
        let check = finding.check();
        (!check.ok).then_some(check.detail)
    }

    #[test]
    fn what_is_slow_old_silent_or_far_off_is_a_fault_and_says_which() {
        assert_eq!(fault(sync_finding(None)), None);
        assert_eq!(fault(sync_finding(Some((3, 900)))), None);
        assert!(fault(sync_finding(Some((101, 120)))).unwrap().contains("101 ms"));
        assert!(fault(sync_finding(Some((3, 2_001)))).unwrap().contains("2001 ms"));

        let health = |applied, snapshot| Health { applied, snapshot, ..Health::default() };
        assert_eq!(fault(stored_finding(&health(9_000, None), 5_000)), None);
        assert!(
            fault(stored_finding(&health(90_000, Some(60_000)), 5_000)).unwrap().contains("30000 entries")
        );

        let now_ms = 1_800_000_000_000;
        let backup = |days: i64| BackupRecord {
            position: 7,
            record_time: Some(timestamp(now_ms - days * DAY_MS)),
            ..BackupRecord::default()
        };
        assert_eq!(fault(backup_finding(None, 2, now_ms)), None);
        assert_eq!(fault(backup_finding(Some(&backup(6)), 2, now_ms)), None);
        assert!(fault(backup_finding(Some(&backup(8)), 2, now_ms)).unwrap().contains("8 days old"));

        let member = |node, clock_ahead_ms, fault: Option<&str>| Surveyed {
            node,
            clock_ahead_ms,
            answer_ms: 10,
            fault: fault.map(str::to_owned),
            ..Surveyed::default()
        };
        let three = [member(1, 0, None), member(2, 900, None), member(3, -5_000, Some("no answer"))];
        assert!(fault(reach_finding(&three)).unwrap().contains("node 3 at : no answer"));
        assert_eq!(fault(clock_finding(&three)), None, "nobody knows the clock of who is silent");
        let three = [member(1, 0, None), member(2, 1_500, None), member(3, -5_000, None)];
        let told = fault(clock_finding(&three)).unwrap();
        assert!(
            told.contains("node 2's clock is 1500 ms ahead") && told.contains("5000 ms behind"),
            "{told}"
        );

        let members = [(1, Some(20_000)), (2, Some(9_999)), (3, None)].map(|(node, matched)| MemberHealth {
            node,
            matched,
            ..MemberHealth::default()
        });
        let leads =
            Health { leads: true, last_log: Some(20_000), members: members.to_vec(), ..Health::default() };
        let told = fault(lag_finding(&leads)).unwrap();
        assert!(
            told.contains("node 2 is 10001") && told.contains("node 3 is 20000") && !told.contains("node 1")
        );
    }
}
