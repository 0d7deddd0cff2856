//! H5: every evaluation that reaches a node is answered with a declared variant, and a node's versions never go back.

use std::collections::BTreeMap;

use featureops_proto::v1::EvaluationError;

use super::Finding;
use crate::faults::Fault;
use crate::history::{Evaluated, Seen};
use crate::plan::Plan;
use crate::workload::{ARMS, SAFE};

/// H5.
pub fn total(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for failed in &seen.failed_evaluations {
        finding.case(false, || failed.clone());
    }
    for evaluated in &seen.evaluations {
        let answer = &evaluated.answer;
        let declared =
            answer.variant.as_deref().is_some_and(|variant| variant == SAFE || ARMS.contains(&variant));
        let unknown_yet = answer.error() == EvaluationError::FlagNotFound;
        finding.case(declared || unknown_yet, || {
            format!("{} {}: {:?} {}", evaluated.flag, evaluated.unit, answer.variant, answer.error_message)
        });
    }
    finding
}

/// Time a node may take to start, and a client to notice that it is back, in milliseconds.
const RECOVERY_MS: u64 = 4_000;
/// Shorter ailments prove nothing: a client may have been elsewhere.
const WINDOW_MS_MIN: u64 = 300;

/// Times, in simulated microseconds, in which a disk ails and nothing else is wrong.
pub fn ailing_windows(plan: &Plan, seen: &Seen) -> Vec<std::ops::Range<u64>> {
    // Nobody answers while a machine is down or cut off; the recovery counts in.
    let down = |fault: &Fault| match *fault {
        Fault::Crash { down_ms } => Some((0, down_ms)),
        Fault::CrashTwice { between_ms } => Some((0, between_ms.saturating_add(300))),
        Fault::Cut { for_ms } | Fault::CutAnswers { for_ms } => Some((0, for_ms)),
        Fault::FullDisk { for_ms } | Fault::FailingSync { for_ms } => {
            Some((for_ms, for_ms.saturating_add(100)))
        }
        _ => None,
    };
    // Where there are several nodes, their sentinels tell it more exactly.
    if plan.machines > 1 {
        return Vec::new();
    }
    let mut dark: Vec<std::ops::Range<u64>> = Vec::new();
    for scheduled in plan.faults.iter().chain(&seen.struck) {
        if let Some((from, to)) = down(&scheduled.fault) {
            let end = scheduled.at_ms.saturating_add(to).saturating_add(RECOVERY_MS);
            dark.push(scheduled.at_ms.saturating_add(from)..end);
        }
    }
    let ailing = plan.faults.iter().chain(&seen.struck).filter_map(|scheduled| {
        let (Fault::FullDisk { for_ms } | Fault::FailingSync { for_ms } | Fault::SlowDisk { for_ms, .. }) =
            scheduled.fault
        else {
            return None;
        };
        let end = scheduled.at_ms.saturating_add(for_ms).min(plan.faults_ms);
        Some(scheduled.at_ms..end)
    });
    ailing
        .filter(|window| window.end.saturating_sub(window.start) >= WINDOW_MS_MIN)
        .filter(|window| !dark.iter().any(|dark| dark.start < window.end && window.start < dark.end))
        .map(|window| window.start.saturating_mul(1_000)..window.end.saturating_mul(1_000))
        .collect()
}

/// H5 in every fault phase: while a disk is full, slow or failing, evaluations are asked and answered.
pub fn under_ailment(plan: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for window in ailing_windows(plan, seen) {
        let within = |evaluated: &&Evaluated| window.contains(&evaluated.asked);
        let answered = seen.evaluations.iter().filter(within).count();
        finding.case(answered > 0, || {
            format!("no evaluation was answered in {window:?} µs, while a disk ailed")
        });
    }
    finding
}

/// An answer of a version, as the nodes gave it.
struct Told<'a> {
    flag: &'a str,
    machine: u64,
    life: u64,
    asked: u64,
    answered: u64,
    version: u64,
}

/// H5, versions: an answer asked for after another one came is of no older version, within one life of one node.
pub fn versions(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let evaluated = seen.evaluations.iter().filter(|evaluated| evaluated.life > 0).map(|evaluated| Told {
        flag: &evaluated.flag,
        machine: evaluated.machine,
        life: evaluated.life,
        asked: evaluated.asked,
        answered: evaluated.answered,
        version: evaluated.answer.flag_version,
    });
    let probed = seen.probes.iter().filter(|probe| probe.owed).filter_map(|probe| {
        Some(Told {
            flag: &probe.flag,
            machine: probe.machine,
            life: probe.life,
            asked: probe.asked,
            answered: probe.answered,
            version: probe.version?,
        })
    });
    let mut groups: BTreeMap<(&str, u64, u64), Vec<Told<'_>>> = BTreeMap::new();
    for told in evaluated.chain(probed) {
        groups.entry((told.flag, told.machine, told.life)).or_default().push(told);
    }
    for ((flag, machine, life), mut group) in groups {
        group.sort_by_key(|told| told.asked);
        let mut answered: Vec<(u64, u64)> = group.iter().map(|told| (told.answered, told.version)).collect();
        answered.sort_unstable();
        let mut answered = answered.into_iter().peekable();
        let mut newest = 0;
        for told in &group {
            while let Some((_, before)) = answered.next_if(|(at, _)| *at < told.asked) {
                newest = newest.max(before);
            }
            finding.case(told.version >= newest, || {
                let version = told.version;
                format!(
                    "machine {machine} in life {life}: {flag} went back from version {newest} to {version}"
                )
            });
        }
    }
    finding
}

/// H5 on every node, in every phase of every fault: while a node serves and its machine moves, it answers.
pub fn on_every_node(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for probe in seen.probes.iter().filter(|probe| probe.owed) {
        finding.case(probe.version.is_some(), || {
            let (machine, asked, minor) = (probe.machine, probe.asked, probe.minor);
            format!("machine {machine} served and did not answer at {asked} µs (in a minority: {minor})")
        });
    }
    finding
}
