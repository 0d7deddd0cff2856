//! The value port: named values for state snapshots and metadata.
//!
//! A batch is atomic; it is readable when `write` returns and durable after `sync`. Whoever needs durability uses
//! [`super::lane::ValueLane`], where one sync serves every waiting write, in issue order.

use std::io;
use std::ops::Range;

use super::log::SyncFuture;

/// Longest value, in bytes. sled writes a page that is longer than a quarter of its segment (128 KiB) to a file of its
/// own under `blobs/`, and never syncs that: a power loss then keeps the manifest and takes the snapshot. A page holds up
/// to 17 values before it splits, so a value may have a seventeenth of that at most; this leaves room for names.
pub const VALUE_BYTES_MAX: usize = 4 << 10;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a value.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a value, if it is there.
    Delete(Vec<u8>),
    /// Removes every value of a range of names.
    DeleteRange(Range<Vec<u8>>),
}

/// A name and its value.
pub type Named = (Vec<u8>, Vec<u8>);

/// Ordered named values of one node.
pub trait Values: Send + Sync + 'static {
    /// Applies all changes, or none.
    ///
    /// # Errors
    /// The engine's own, or a value longer than [`VALUE_BYTES_MAX`].
    fn write(&self, changes: Vec<Change>) -> io::Result<()>;

    /// The value of `name`.
    ///
    /// # Errors
    /// The engine's own, or `InvalidData` when the value's checksum does not match.
    fn get(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// At most `limit` values of a range of names, in order.
    ///
    /// # Errors
    /// As [`Values::get`].
    fn range(&self, names: Range<Vec<u8>>, limit: usize) -> io::Result<Vec<Named>>;

    /// The last value of a range of names.
    ///
    /// # Errors
    /// As [`Values::get`].
    fn last(&self, names: Range<Vec<u8>>) -> io::Result<Option<Named>>;

    /// Makes every write before this call durable.
    fn sync(&self) -> SyncFuture<'_>;
}

/// Refuses a batch that holds a value over the bound.
///
/// # Errors
/// `InvalidInput`, with the length.
pub fn check_sizes(changes: &[Change]) -> io::Result<()> {
    for change in changes {
        if let Change::Put(_, value) = change
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("value of {} bytes is over the bound of {VALUE_BYTES_MAX}", value.len()),
            ));
        }
    }
    Ok(())
}
