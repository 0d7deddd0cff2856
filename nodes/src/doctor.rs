//! The doctor: what may be wrong with this node, and the way out of each.
//!
//! One examination serves `GetNodeHealth`, `/readyz` and the command line's `doctor`. A node is *ready* when it may be
//! sent new work. Checks that only limit it (facts refused, exposures lost) are shown and leave it ready: evaluation
//! goes on in every one of these states.

mod around;

use std::sync::atomic::Ordering;

use featureops_cluster::storage::is_file_bound;
use featureops_cluster::{Health, Surveyed, Waits};
use featureops_proto::log::ErasuresRecord;
use featureops_proto::v1::member::Mark;
use featureops_proto::v1::{NodeHealth, node_health::Check};
use featureops_proto::{ErrorCode, timestamp_if_set};
use featureops_state::{LEAST_HISTORY, LedgerUsage, MAX_HISTORY, MAX_HISTORY_BYTES};

use crate::host::Host;
use crate::peer_key;
use crate::services;
use crate::tls::Tls;
use crate::tls::peers::PeerTls;
use crate::unit_key::Standing;

/// A state older than this by the node's clock says that ticks do not arrive; one that is younger, that time stands.
const LOG_TIME_LAG_MS_MAX: i64 = 5_000;
/// Evaluations that rest on a state this much older than the one applied here are not current any more.
const SNAPSHOT_LAG_MS_MAX: i64 = 2_000;
/// A publication that took longer is worth a look.
const PUBLISH_LAG_MS_MAX: u64 = 1_000;

/// Days that a certificate should still be good for.
const CERTIFICATE_DAYS_MIN: i64 = 14;
const DAY_MS: i64 = 86_400_000;

/// A check and whether the node is unready without it.
struct Finding {
    name: &'static str,
    fault: Option<String>,
    detail: String,
    remedy: &'static str,
    needed: bool,
}

impl Finding {
    fn new(
        name: &'static str,
        needed: bool,
        fault: Option<String>,
        detail: String,
        remedy: &'static str,
    ) -> Self {
        Self { name, fault, detail, remedy, needed }
    }

    fn check(self) -> Check {
        let ok = self.fault.is_none();
        Check {
            name: self.name.to_owned(),
            ok,
            detail: self.fault.unwrap_or(self.detail),
            remedy: if ok { String::new() } else { self.remedy.to_owned() },
        }
    }
}

/// Examines the node, after it asked its peers.
pub async fn look_around(host: &Host) -> NodeHealth {
    let members = host.replica.member().survey().await;
    examined(host, &members)
}

/// Examines the node by what it knows.
#[must_use]
pub fn examine(host: &Host) -> NodeHealth {
    examined(host, &[])
}

fn examined(host: &Host, members: &[Surveyed]) -> NodeHealth {
    let health = host.replica.health();
    let (initialized, log_time_ms) = host.replica.read(|state| (state.is_initialized(), state.log_time_ms()));
    let mut findings = findings(host, &health, initialized, log_time_ms);
    // Readiness does not rest on these, and they look at every ledger.
    let (usage, erasures, shortened) =
        host.replica.read(|state| (state.ledger_usage(), *state.erasures(), state.shortened_histories()));
    findings.push(ledger_finding(&usage));
    findings.push(history_finding(shortened));
    findings.extend(placement_finding(host));
    findings.push(access_finding(host));
    findings.extend(around::findings(host, &health, log_time_ms, members));
    findings.extend(host.tls.as_ref().map(|tls| certificate_finding(tls, host.clock.unix_ms())));
    findings.extend(peer_findings(host, &health));
    if erasures.count > 0 {
        findings.push(erasure_finding(&erasures, &health));
    }
    let ready = ready(&findings);
    let published = host.publisher.load();
    let snapshot = &published.snapshot;
    let flags = snapshot.environments().map(|environment| snapshot.flags(environment).count() as u64).sum();
    NodeHealth {
        checks: findings.into_iter().map(Finding::check).collect(),
        ready,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: health.node,
        position: services::position(health.applied),
        log_time: timestamp_if_set(log_time_ms),
        flags,
        running_experiments: published.registry.running() as u64,
        resident_bytes: if host.observe_process { resident_bytes() } else { 0 },
    }
}

/// Whether the node may be sent new work.
#[must_use]
pub fn is_ready(host: &Host) -> bool {
    let (initialized, log_time_ms) = host.replica.read(|state| (state.is_initialized(), state.log_time_ms()));
    ready(&findings(host, &host.replica.health(), initialized, log_time_ms))
}

fn ready(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.fault.is_none() || !finding.needed)
}

fn findings(host: &Host, health: &Health, initialized: bool, log_time_ms: i64) -> Vec<Finding> {
    let mut findings = log_findings(health, initialized);
    findings.extend(vital_findings(host, log_time_ms));
    findings.extend(serving_findings(host, health, log_time_ms));
    if host.has_peers {
        let restored = host.replica.read(|state| state.restored().is_some());
        findings.push(membership_finding(health, restored));
    }
    findings
}

/// What must go on for answers to be current.
fn vital_findings(host: &Host, log_time_ms: i64) -> Vec<Finding> {
    let ended = host.vital.ended();
    let behind_ms = log_time_ms.saturating_sub(host.publisher.load().snapshot.log_time_ms());
    vec![
        Finding::new(
            "tasks",
            true,
            (!ended.is_empty()).then(|| format!("ended: {}", ended.join(", "))),
            "running".to_owned(),
            "answers rest on what this node knew then; the process log has the crash: report it, then restart the node",
        ),
        Finding::new(
            "snapshot",
            true,
            (behind_ms > SNAPSHOT_LAG_MS_MAX)
                .then(|| format!("evaluations rest on a state {behind_ms} ms behind the one applied here")),
            format!("{} ms behind the state applied here", behind_ms.max(0)),
            "see 'tasks' and 'publication'; give the node more processor time, or restart it",
        ),
    ]
}

/// What the replicated log needs.
fn log_findings(health: &Health, initialized: bool) -> Vec<Finding> {
    let applied = format!("applied {}", health.applied);
    vec![
        Finding::new(
            "log",
            true,
            health
                .halted
                .as_ref()
                .map(ToString::to_string)
                .or_else(|| health.stopped.as_ref().map(|why| format!("raft has ended: {why}"))),
            applied,
            // A fold that stopped meets the same entry after a restart; a log that stopped for its disk's sake does not.
            match health.halted {
                None => {
                    "evaluation goes on from the last good state; see 'disk' and the process log; if 'disk' is well, restart \
                     the node"
                }
                Some(_) => {
                    "evaluation goes on from the last good state; keep the data folder, upgrade to a release that names \
                     this position in its notes, or restore the last backup from before it into a new cluster (featureops restore)"
                }
            },
        ),
        Finding::new(
            "disk",
            true,
            health.disk_error.clone().map(|why| match health.waits {
                Some(Waits::Tries { attempts }) => {
                    format!("{why} (opened again without success: {attempts} times)")
                }
                _ => why,
            }),
            format!("log up to {}", health.last_log.unwrap_or_default()),
            match health.waits {
                Some(Waits::Person) => {
                    "nothing is acknowledged since, and evaluation goes on; this does not pass by itself: do what it says, \
                     then restart the node"
                }
                _ if health.disk_error.as_deref().is_some_and(is_file_bound) => {
                    "nothing is acknowledged since, and evaluation goes on; a file may not grow further: lift the bound on the \
                     length of files (`ulimit -f`, of a service LimitFSIZE; `prlimit --fsize` for a process that runs): the node \
                     tries it every few seconds and takes writes again by itself"
                }
                _ => {
                    "nothing is acknowledged since, and evaluation goes on; make room on the disk: the node tries it every \
                     few seconds and takes writes again by itself"
                }
            },
        ),
        Finding::new(
            "leader",
            true,
            // A node without its disk stands for nothing and hears nobody: that is the disk's fault, not the peers'.
            (health.leader.is_none() && health.disk_error.is_none()).then(|| "no leader is known".to_owned()),
            match health.leader {
                Some(leader) => format!("node {leader} leads term {}", health.term),
                None => "not asked for while the disk takes no writes: see 'disk'".to_owned(),
            },
            "check that a majority of the nodes runs and that they reach each other",
        ),
        Finding::new(
            "identity",
            true,
            (!initialized).then(|| "the cluster has no identity yet".to_owned()),
            "initialized".to_owned(),
            "wait for the first start to finish; if it does not, see 'log', 'disk' and 'leader'",
        ),
        Finding::new(
            "clock",
            false,
            health.clock_off_ms.map(|off_ms| {
                let way = if off_ms < 0 { "behind" } else { "ahead of" };
                format!(
                    "the wall clock is {} ms {way} the time since start; log time goes on by the latter",
                    off_ms.unsigned_abs()
                )
            }),
            "trusted".to_owned(),
            "mend the machine's clock; if it is right (the machine was suspended, or its clock was set), restart the node to \
             take the new time",
        ),
    ]
}

/// What serving needs.
fn serving_findings(host: &Host, health: &Health, log_time_ms: i64) -> Vec<Finding> {
    let published = host.publisher.load().snapshot.position();
    let standing = host.unit_key_standing();
    let lost = host.observation.exposures_lost.load(Ordering::Relaxed);
    // By the time that log time follows: 'clock' says how far the wall clock is from that.
    let off_ms = health.clock_off_ms.unwrap_or(0);
    let lag_ms = host.clock.unix_ms().saturating_sub(off_ms).saturating_sub(log_time_ms);
    let way = if lag_ms < 0 { "ahead of" } else { "behind" };
    let lag = format!("{} ms {way} this node's clock", lag_ms.unsigned_abs());
    let held = host.owners.held();
    vec![
        Finding::new(
            "drain",
            true,
            match (host.is_draining(), host.is_drained_by_person()) {
                (true, _) => Some("this node is draining".to_owned()),
                (false, true) => Some(format!(
                    "this node is draining by a person's word; it answers (featureops cluster drain {} --undo)",
                    health.node
                )),
                (false, false) => None,
            },
            "taking requests".to_owned(),
            "send new work to another node",
        ),
        Finding::new(
            "log time",
            false,
            (log_time_ms > 0 && lag_ms.abs() > LOG_TIME_LAG_MS_MAX).then(|| lag.clone()),
            lag,
            if lag_ms < 0 {
                "guardrails go on; cool-downs, windows and growth wait until the clock has caught up: mend the machine's clock \
                 and restart the node, or wait"
            } else {
                "answers rest on the last good state and say their age; see 'leader' and 'clock'"
            },
        ),
        Finding::new(
            "publication",
            false,
            (host.publisher.lag_ms() > PUBLISH_LAG_MS_MAX)
                .then(|| format!("the last one took {} ms", host.publisher.lag_ms())),
            format!("position {published}, {} ms after it was applied", host.publisher.lag_ms()),
            "the node is short of processor time; give it more, or fewer requests",
        ),
        Finding::new(
            "compilation",
            false,
            (host.publisher.not_compiled() > 0)
                .then(|| format!("{} committed definitions did not compile", host.publisher.not_compiled())),
            "every committed flag compiles".to_owned(),
            "the log names the flags; write their definitions again, or revert them",
        ),
        Finding::new(
            "unit key",
            false,
            match (&host.unit_key_fault, standing == Standing::Good) {
                (Some(fault), false) => Some(format!("facts are refused: {fault}")),
                (_, false) => Some(format!("facts are refused: {}", standing.fault())),
                (_, true) => None,
            },
            "the cluster's".to_owned(),
            Standing::REMEDY,
        ),
        Finding::new(
            "exposures",
            false,
            (lost > 0).then(|| format!("{lost} implied exposures were lost since the start")),
            format!("{} waiting, none lost", host.exposures.waiting()),
            exposures_remedy(&host.exposures.refused()),
        ),
        Finding::new(
            "owners",
            false,
            (!held.is_empty()).then(|| format!("experiments {held:?} have no owner: it crashed too often")),
            format!("{} running", host.owners.running()),
            "their allocations keep serving; the process log has the crash: report it, then restart the node",
        ),
    ]
}

/// Histories that are shorter than people may expect.
fn history_finding((flags, versions): (u64, u64)) -> Finding {
    let detail = match flags {
        0 => format!("the last {MAX_HISTORY} versions of each flag"),
        _ => format!(
            "{versions} versions of {flags} flags went before there were {MAX_HISTORY}: a flag's history has at most {} KiB, and its last {LEAST_HISTORY} versions however long",
            MAX_HISTORY_BYTES >> 10
        ),
    };
    Finding::new("histories", false, None, detail, "")
}

/// How full the ledgers of experiments are.
fn ledger_finding(usage: &LedgerUsage) -> Finding {
    let (rows, most) = usage.rows;
    let held = format!("{rows} of {most} units over all experiments, {} MiB", usage.bytes >> 20);
    let near =
        usage.near.iter().map(|(name, held, what, most)| format!("{name} has {held} of {most} {what}"));
    let mut faults: Vec<String> = near.collect();
    if usage.is_near() {
        faults.push(held.clone());
    }
    Finding::new(
        "ledger",
        false,
        (!faults.is_empty()).then(|| faults.join("; ")),
        held,
        "when it is full, half of the hash space that is counted leaves for good: stop experiments that have their answer (their \
         units go when their windows close), put fewer units in them by a layer's share, or give room (featureops budget set)",
    )
}

/// Where the owners of all nodes are; nothing to say in a cluster of one.
fn placement_finding(host: &Host) -> Option<Finding> {
    let (owned, marks) = host.replica.read(|state| {
        let marks: Vec<_> = state.liveness().values().cloned().collect();
        (state.running_experiments(), marks)
    });
    if marks.is_empty() {
        return None;
    }
    let stands = |node: u64| marks.iter().find(|record| record.node == node).map(|record| record.mark());
    let orphans = owned.iter().filter(|owned| stands(owned.node).is_none()).count();
    let mut faults = Vec::new();
    if orphans > 0 {
        faults.push(format!("{orphans} running experiments have no owner among the members"));
    }
    for record in marks.iter().filter(|record| record.mark() != Mark::Up) {
        let count = owned.iter().filter(|owned| owned.node == record.node).count();
        if count > 0 {
            faults.push(format!("node {} is not up, and owns {count} running experiments", record.node));
        }
    }
    let up = marks.iter().filter(|record| record.mark() == Mark::Up).count();
    Some(Finding::new(
        "placement",
        false,
        (!faults.is_empty()).then(|| faults.join("; ")),
        format!("{} running experiments on {up} members that are up", owned.len()),
        "their allocations keep serving; the leader places them within seconds: if this stays, see 'leader', and whether a voter is \
         up that does not drain (featureops cluster members)",
    ))
}

/// Who is let in.
fn access_finding(host: &Host) -> Finding {
    let detail = match (host.access.has_tokens(), host.access.is_open()) {
        (true, _) => "callers show tokens".to_owned(),
        (false, true) => {
            "no token yet: whoever is on this machine may do everything (featureops token create NAME --role admin)".to_owned()
        }
        (false, false) => "no token: nobody is let in but whoever may evaluate without one".to_owned(),
    };
    let closed = !host.access.has_tokens() && !host.access.is_open();
    Finding::new(
        "access",
        false,
        closed.then(|| detail.clone()),
        detail,
        "start the node with --recover-admin: it leaves an admin token in the data folder",
    )
}

/// Whether this node is in the cluster that others take it to be in. One that is not must get no work: it would answer from a
/// state of its own.
///
/// Who calls proves nothing here: it is of another cluster. So it is believed only of a node that is alone in a cluster that
/// began empty, as one is whose folder was emptied. A cluster that was restored, or that others have joined, is what it should
/// be, and serves whatever anybody says.
fn membership_finding(health: &Health, restored: bool) -> Finding {
    let members = health.members.len();
    let (needed, remedy) = match (restored, members) {
        (true, _) => (
            false,
            "this cluster was restored from a backup, and nodes of the one before still run: stop them, and give each an empty data \
             folder and --join before it comes into this one; nothing is to be done here",
        ),
        (false, 0 | 1) => (
            true,
            "if its data folder was emptied by mistake, put it back; else empty it again, remove the node from the cluster \
             (featureops cluster remove, on another node) and start it with --join, as every node of a cluster should be",
        ),
        (false, _) => (
            false,
            "this cluster has members and goes on; the caller has this node's number and address from another cluster: stop it, or \
             remove this node there (featureops cluster remove, on a node of that cluster)",
        ),
    };
    Finding::new(
        "membership",
        needed,
        health.estranged.clone(),
        if health.cluster == 0 { "in no cluster yet".to_owned() } else { format!("{members} members") },
        remedy,
    )
}

/// How the nodes of a cluster know each other; nothing where this one has no peers.
fn peer_findings(host: &Host, health: &Health) -> Vec<Finding> {
    if !host.has_peers {
        return Vec::new();
    }
    let lacks = health.cluster != 0 && !health.peer_key;
    let key = Finding::new(
        "peer key",
        false,
        lacks.then(|| {
            format!(
                "this node has no {}: it proves nothing to its peers, and believes whoever calls",
                peer_key::FILE_NAME
            )
        }),
        if health.peer_key { "members prove who they are" } else { "comes with the cluster that lets it in" }
            .to_owned(),
        "a cluster of before there were peer keys gets one as soon as all of its members answer, each of this release; where others \
         have one, copy peer.key (mode 0600) from another member's data folder: the node takes it without a restart",
    );
    let own = host.peer_tls.as_ref().map(|tls| peer_certificate_finding(tls, host.clock.unix_ms()));
    std::iter::once(key).chain(own).collect()
}

/// When the certificates between nodes end: this node's, and those that it was shown.
fn peer_certificate_finding(tls: &PeerTls, now_ms: i64) -> Finding {
    let own = ("this node's".to_owned(), tls.expires_ms());
    let shown = tls.shown().into_iter().map(|(address, end_ms)| (format!("that of {address}"), Some(end_ms)));
    let all: Vec<(String, Option<i64>)> = std::iter::once(own).chain(shown).collect();
    let told = |(whose, end_ms): &(String, Option<i64>)| match end_ms {
        Some(end_ms) => format!("{whose} {}", ends_text(*end_ms, now_ms).1),
        None => format!("when {whose} ends cannot be read"),
    };
    let is_soon = |(_, end_ms): &&(String, Option<i64>)| {
        end_ms.is_some_and(|end_ms| ends_text(end_ms, now_ms).0 < CERTIFICATE_DAYS_MIN)
    };
    let soon: Vec<String> = all.iter().filter(is_soon).map(told).collect();
    let fault = tls.fault().map(|why| format!("the files are not used, those before them are: {why}"));
    Finding::new(
        "peer certificate",
        false,
        fault.or_else(|| (!soon.is_empty()).then(|| soon.join("; "))),
        all.iter().map(told).collect::<Vec<_>>().join("; "),
        "put new files in the place of peer_tls.cert and peer_tls.key of that node: it takes them within seconds, or on SIGHUP",
    )
}

/// In how many days that is, and in words.
fn ends_text(end_ms: i64, now_ms: i64) -> (i64, String) {
    let days = end_ms.saturating_sub(now_ms).div_euclid(DAY_MS);
    let text = timestamp_if_set(end_ms).map(|time| time.to_string()).unwrap_or_default();
    (
        days,
        match days < 0 {
            true => format!("ended {text}, {} days ago", days.saturating_neg()),
            false => format!("ends {text}, in {days} days"),
        },
    )
}

/// When the listeners' certificate ends.
fn certificate_finding(tls: &Tls, now_ms: i64) -> Finding {
    let ends = tls.expires_ms().map(|end_ms| ends_text(end_ms, now_ms));
    let fault = tls.fault().map(|why| format!("the files are not used, those before them are: {why}"));
    let soon = ends.as_ref().filter(|(days, _)| *days < CERTIFICATE_DAYS_MIN).map(|(_, text)| text.clone());
    let detail = ends.map_or_else(|| "in use; when it ends cannot be read".to_owned(), |(_, text)| text);
    Finding::new(
        "certificate",
        false,
        fault.or(soon),
        detail,
        "put new files in the place of tls.cert and tls.key: the node takes them within seconds, or on SIGHUP",
    )
}

/// Whether this node's log and snapshots still hold what came before the last erasure.
fn erasure_finding(erasures: &ErasuresRecord, health: &Health) -> Finding {
    let ErasuresRecord { count, position, .. } = *erasures;
    let at = services::position(position);
    let purged = health.purged.is_some_and(|purged| purged >= position);
    let snapshot = health.snapshot.is_some_and(|snapshot| snapshot >= position);
    let detail = match (snapshot, purged) {
        (_, true) => {
            format!(
                "{count} units erased, the last at {at}: this node's log and snapshot say nothing of them any more; a file of the \
                 log keeps the bytes until it is full (2 MiB) and purged whole"
            )
        }
        (true, false) => format!(
            "{count} units erased, the last at {at}: gone from the snapshot; the log holds what came before until it is purged \
             beyond it, which is with a later snapshot"
        ),
        (false, false) => format!(
            "{count} units erased, the last at {at}: the log holds what came before, and so does the snapshot, until the next \
             one is taken and the log purged (snapshot_every_entries, snapshot_every_bytes)"
        ),
    };
    Finding::new("erasures", false, None, detail, "")
}

/// The way out of lost exposures, by what the newest batch of them was refused with.
fn exposures_remedy(refused: &str) -> &'static str {
    if refused == ErrorCode::TooManyProducers.as_str() {
        return "the bound on producers (65,536, and 1,024 more for nodes) is reached: give senders of facts names that last, \
                and stop whoever makes up new ones; a name leaves 96 h after its last batch";
    }
    "the log takes less than evaluations imply; raise limits.exposure_queue, or report exposures in batches"
}

/// Bytes of memory the process holds; 0 where the system does not say.
#[must_use]
pub fn resident_bytes() -> u64 {
    // Pages of 4 KiB: true on every platform this is built for.
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()))
        .map_or(0, |pages| pages.saturating_mul(4_096))
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_cluster::MemberHealth;

    #[test]
    fn a_call_for_the_node_of_before_unreadies_only_who_is_alone_in_a_cluster_that_began_empty() {
        let health = |members: usize, estranged: Option<&str>| Health {
            cluster: 1,
            members: vec![MemberHealth::default(); members],
            estranged: estranged.map(str::to_owned),
            ..Health::default()
        };
        let called = Some("node 2 calls");
        for (members, restored, needed, way_out) in [
            (1, false, true, "empty it again"),
            (1, true, false, "restored from a backup"),
            (3, true, false, "restored from a backup"),
            (3, false, false, "another cluster"),
        ] {
            let found = membership_finding(&health(members, called), restored);
            assert_eq!((found.fault.as_deref(), found.needed), (called, needed));
            assert!(found.remedy.contains(way_out), "{}", found.remedy);
            assert_eq!(needed, found.remedy.contains("empty it again"));
            assert_eq!(ready(&[found]), !needed);
            assert!(membership_finding(&health(members, None), restored).fault.is_none());
        }
    }

    #[test]
    fn lost_exposures_are_told_what_to_raise_by_why_they_were_lost() {
        assert!(exposures_remedy("TOO_MANY_PRODUCERS").contains("bound on producers"));
        for other in ["", "WRONG_UNIT_KEY"] {
            assert!(exposures_remedy(other).contains("limits.exposure_queue"));
        }
    }
}
