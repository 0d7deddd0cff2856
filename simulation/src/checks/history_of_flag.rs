//! A flag's history as the settled nodes tell it; and H1 for commands: what was acknowledged is in it.

use std::collections::BTreeMap;

use super::Finding;
use crate::history::{CommandOutcome, Seen};
use crate::plan::Plan;
use crate::workload::flag_name;

/// Changes of one flag by version, as far as they are kept.
pub type Changes<'a> = BTreeMap<u64, &'a str>;

/// The changes of a flag, from the first machine: that all tell the same is another checker's matter.
pub fn changes<'a>(seen: &'a Seen, flag: &str) -> Changes<'a> {
    let name = flag_name(flag);
    let settled = seen.settled.first().map(|(_, settled)| settled);
    let flags = settled.into_iter().flat_map(|settled| &settled.flags);
    let records = flags.filter(|(found, _)| found.name == name).flat_map(|(_, records)| records);
    records.map(|record| (record.flag_version, record.change.as_str())).collect()
}

/// Whether the flag is tripped at a version; nothing when the kept history does not reach so far.
pub fn is_tripped(changes: &Changes<'_>, version: u64) -> Option<bool> {
    let (oldest, _) = changes.first_key_value()?;
    let last = changes.range(..=version).rev().find(|(_, change)| matches!(**change, "trip" | "resume"));
    match last {
        Some((_, change)) => Some(*change == "trip"),
        None if *oldest == 1 => Some(false),
        None => None,
    }
}

/// H1 for commands.
///
/// An answer shows the flag as it is when the answer is made: an owner's reallocation may have passed the command by, and
/// reallocations are not in the kept history. So an acknowledged version lies at or below the flag's, every acknowledged
/// definition is one record of the history, and a trip or resume holds at the version it was acknowledged with.
pub fn commands(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let mut definitions: BTreeMap<&str, usize> = BTreeMap::new();
    for command in &seen.commands {
        let CommandOutcome::Done(Some(version)) = &command.outcome else { continue };
        let changes = changes(seen, &command.flag);
        let Some((oldest, _)) = changes.first_key_value() else { continue };
        if command.verb == "set" {
            let acknowledged = definitions.entry(&command.flag).or_default();
            *acknowledged = acknowledged.saturating_add(1);
        }
        if version < oldest {
            continue;
        }
        let holds = match command.verb {
            "trip" => is_tripped(&changes, *version) == Some(true),
            "resume" => is_tripped(&changes, *version) == Some(false),
            _ => true,
        };
        let reached = current(seen, &command.flag).is_some_and(|current| *version <= current);
        finding.case(holds && reached, || {
            format!(
                "{} {} was acknowledged as version {version}, which it never was",
                command.verb, command.flag
            )
        });
    }
    for (flag, acknowledged) in definitions {
        let changes = changes(seen, flag);
        if changes.first_key_value().is_some_and(|(oldest, _)| *oldest == 1) {
            let kept = changes.values().filter(|change| **change == "set").count();
            finding.case(acknowledged <= kept, || {
                format!("{flag}: {acknowledged} definitions were acknowledged, {kept} are in its history")
            });
        }
    }
    finding
}

fn current(seen: &Seen, flag: &str) -> Option<u64> {
    let name = flag_name(flag);
    let (_, settled) = seen.settled.first()?;
    settled.flags.iter().find(|(found, _)| found.name == name).map(|(found, _)| found.flag_version)
}
