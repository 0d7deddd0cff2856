//! A state, cut into pieces: made when they are asked for, and summed on the way.

use std::sync::Arc;

use featureops_cluster::LAYOUT;
use featureops_state::{SectionDigest, SectionStream, State};

use super::PIECE_BYTES;

/// What is left of a state to be given out.
pub struct Cutter {
    state: Arc<State>,
    sections: SectionStream,
    /// Made and not given yet: never more than a piece and one section.
    held: Vec<u8>,
    /// How much of that was given.
    given: usize,
    digest: SectionDigest,
    bytes: u64,
    pieces: u64,
}

impl Cutter {
    /// All of a state. Takes as long as it takes to encode what is no ledger.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        let sections = SectionStream::of(&state);
        let digest = SectionDigest::default();
        Self { state, sections, held: LAYOUT.to_vec(), given: 0, digest, bytes: 0, pieces: 0 }
    }

    /// The next piece; `None` after the last.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        while self.held.len() - self.given < PIECE_BYTES {
            let Some(section) = self.sections.next(&self.state) else { break };
            self.digest.section(&section.name, section.bytes.len() as u64);
            self.digest.bytes(&section.bytes);
            self.held.drain(..self.given);
            self.given = 0;
            for part in [section.name.as_bytes(), &section.bytes] {
                self.held.extend_from_slice(&(part.len() as u64).to_be_bytes());
                self.held.extend_from_slice(part);
            }
        }
        let end = self.held.len().min(self.given.saturating_add(PIECE_BYTES));
        let piece = self.held.get(self.given..end)?.to_vec();
        if piece.is_empty() {
            return None;
        }
        self.given = end;
        self.bytes += piece.len() as u64;
        self.pieces += 1;
        Some(piece)
    }

    /// Bytes and pieces that were given, and the digest of the sections in them.
    #[must_use]
    pub fn finish(self) -> (u64, u64, u64) {
        (self.bytes, self.pieces, self.digest.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_cluster::Fold as _;

    #[test]
    fn the_pieces_are_the_state_as_snapshots_hold_it() {
        let state = Arc::new(State::new());
        let mut cutter = Cutter::new(Arc::clone(&state));
        let mut all = Vec::new();
        while let Some(piece) = cutter.piece() {
            assert!(piece.len() <= PIECE_BYTES);
            all.extend(piece);
        }
        assert_eq!(all, state.encode());
        assert_eq!(cutter.finish(), (all.len() as u64, 1, state.digest()));
    }
}
