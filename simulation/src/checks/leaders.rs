//! What raft promises, seen from outside: one leader a term, one entry a place, and a vote that is never taken back.

use std::collections::BTreeMap;

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// One leader a term: whoever says who leads a term says the same, and only one says it of itself.
pub fn one_a_term(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let mut leaders: BTreeMap<u64, u64> = BTreeMap::new();
    for standing in seen.standings.iter().filter(|standing| standing.leader != 0) {
        let known = *leaders.entry(standing.term).or_insert(standing.leader);
        finding.case(known == standing.leader, || {
            let (machine, term, leader) = (standing.machine, standing.term, standing.leader);
            format!("term {term}: machine {machine} says that node {leader} leads, node {known} was said to")
        });
    }
    finding
}

/// One entry a place (log matching), over all that any disk was ever given.
pub fn one_entry_a_place(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for contradiction in &seen.contradictions {
        finding.case(false, || contradiction.clone());
    }
    finding.looked = finding.looked.saturating_add(seen.refolded.first().map_or(0, |(_, log)| log.entries));
    finding
}

/// A vote that was durable is found again.
pub fn votes(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (machine, noticed) in &seen.noticed {
        finding.looked = finding.looked.saturating_add(u64::try_from(noticed.opened.len()).unwrap_or(0));
        for (voted, found) in &noticed.votes_back {
            finding.case(false, || {
                format!("machine {machine} voted in term {voted}, and was opened with a vote of term {found}")
            });
        }
    }
    finding
}
