//! What was said lately of a peer that is not reached: reasons that take turns, at every heartbeat, would fill the log.

use std::collections::BTreeMap;

/// A reason is said once in this time of a peer, in milliseconds.
pub(super) const SAY_AGAIN_MS: u64 = 30_000;
/// Reasons of one peer in this time: more than these say that it is another one each time.
const REASONS_MAX: usize = 8;
/// Peers that are remembered.
const PEERS_MAX: usize = 256;

/// By peer: each reason and when it was said, in milliseconds of this process.
#[derive(Default)]
pub(super) struct Said(BTreeMap<u64, Vec<(String, u64)>>);

impl Said {
    /// Whether a reason is to be said now; it counts as said then.
    pub(super) fn is_news(&mut self, node: u64, text: &str, now_ms: u64) -> bool {
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&node) {
            return false;
        }
        let said = self.0.entry(node).or_default();
        said.retain(|(_, at_ms)| now_ms.saturating_sub(*at_ms) < SAY_AGAIN_MS);
        if said.len() >= REASONS_MAX || said.iter().any(|(known, _)| known == text) {
            return false;
        }
        said.push((text.to_owned(), now_ms));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_take_turns_are_said_once_in_their_time_each_and_few_of_many() {
        let mut said = Said::default();
        let lines =
            (0..3_000).filter(|turn| said.is_news(1, ["refused", "timed out"][turn % 2], *turn as u64 * 20));
        // A minute of it: each of the two at its begin and after half.
        assert_eq!(lines.count(), 4);
        assert!(said.is_news(2, "refused", 0), "another peer is another matter");
        let many = (0..100).filter(|turn| said.is_news(3, &format!("reason {turn}"), 0));
        assert_eq!(many.count(), REASONS_MAX);
        let peers = (10..1_000).filter(|node| said.is_news(*node, "refused", 0));
        assert_eq!(peers.count(), PEERS_MAX - 3);
    }
}
