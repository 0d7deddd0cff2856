//! H2: the control plane has one order for everybody, and it is that of real time.
//!
//! A flag's version is its position in that order, so no search is needed: whoever asks after an answer of version v was there gets
//! v or a newer one, whichever node either of them asked.

use std::collections::BTreeMap;

use super::Finding;
use crate::history::{CommandOutcome, Seen};
use crate::plan::Plan;

/// H2.
pub fn one_order(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    // By flag: (asked, answered, version, who).
    let mut told: BTreeMap<&str, Vec<(u64, u64, u64, String)>> = BTreeMap::new();
    // One that says that it may be stale promises nothing.
    for read in seen.reads.iter().filter(|read| !read.stale) {
        let who = format!("a read on machine {}", read.machine);
        told.entry(&read.flag).or_default().push((read.asked, read.answered, read.version, who));
    }
    for command in &seen.commands {
        if let CommandOutcome::Done(Some(version)) = command.outcome {
            let who = command.verb.to_owned();
            told.entry(&command.flag).or_default().push((command.asked, command.answered, version, who));
        }
    }
    for (flag, mut told) in told {
        told.sort();
        let mut answered: Vec<(u64, u64)> =
            told.iter().map(|(_, answered, version, _)| (*answered, *version)).collect();
        answered.sort_unstable();
        let mut answered = answered.into_iter().peekable();
        let mut newest = 0;
        for (asked, _, version, who) in &told {
            while let Some((_, before)) = answered.next_if(|(at, _)| at < asked) {
                newest = newest.max(before);
            }
            finding.case(*version >= newest, || {
                format!("{flag}: version {newest} was told, then {who}, asked at {asked} µs, got {version}")
            });
        }
    }
    finding
}
