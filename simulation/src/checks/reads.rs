//! H6 (and H2): a read that was asked for after a write or another read came back is no older than it, or says that it
//! may be.

use super::Finding;
use crate::history::{CommandOutcome, Seen};
use crate::plan::Plan;

/// H6.
pub fn own_writes(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for read in seen.reads.iter().filter(|read| !read.stale) {
        let writes = seen.commands.iter().filter_map(|command| match command.outcome {
            CommandOutcome::Done(Some(version))
                if command.flag == read.flag && command.answered <= read.asked =>
            {
                Some(version)
            }
            _ => None,
        });
        let newest = writes.max().unwrap_or(0);
        finding.case(read.version >= newest, || {
            format!("{}: version {newest} was acknowledged, then {} was read", read.flag, read.version)
        });
    }
    finding
}
