//! Backups: a state at one position of the log, as frames that are streamed and kept in a file.
//!
//! ```text
//!   file    magic "fobackup" | frame, frame, ... | where the tail stands, 8 bytes | "fobackup" again
//!   frame   length, 4 bytes | CRC-32, 4 bytes | a BackupFrame: head, pieces, unit key or none, tail
//!   pieces  the state as snapshots hold it: layout, then sections, each name and bytes with their lengths
//! ```
//!
//! The head says what is known before the state is read, the tail what only its end tells: bytes, SHA-256 over every frame
//! before it, and the digest that every node at this position has. Nothing here holds a whole state: a section at a time
//! when it is made ([`cut`]), a frame at a time when it is checked ([`file`]). Only a restore holds it, as the node that then
//! starts on it will ([`restore`]).

pub mod cut;
pub mod file;
pub mod restore;

use featureops_proto::v1::BackupFrame;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// Format of the files.
pub const FORMAT: u32 = 1;
/// Bytes of the state in one piece.
pub const PIECE_BYTES: usize = 256 << 10;
/// Bytes of one encoded frame, at most.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// The frames before the tail, summed.
#[derive(Default)]
pub struct Sum(Sha256);

impl Sum {
    /// The next frame, as it is encoded.
    pub fn add(&mut self, encoded: &[u8]) {
        self.0.update(encoded);
    }

    /// Of all frames so far.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}

/// A frame as it is summed and stored.
#[must_use]
pub fn encoded(frame: &BackupFrame) -> Vec<u8> {
    frame.encode_to_vec()
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
