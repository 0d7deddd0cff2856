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
pub fn commands(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for command in &seen.commands {
        let CommandOutcome::Done(Some(version)) = &command.outcome else { continue };
        let changes = changes(seen, &command.flag);
        let Some((oldest, _)) = changes.first_key_value() else { continue };
        if version < oldest {
            continue;
        }
        // A trip of a tripped flag, or a resume of one that is not, is acknowledged and changes nothing.
        let expected = match command.verb {
            "set" => changes.get(version).copied() == Some("set"),
            "trip" => is_tripped(&changes, *version) == Some(true),
            "resume" => is_tripped(&changes, *version) == Some(false),
            _ => true,
        };
        finding.case(expected && changes.contains_key(version), || {
            format!(
                "{} {} was acknowledged as version {version}, which is {:?} in its history",
                command.verb,
                command.flag,
                changes.get(version)
            )
        });
    }
    finding
}
