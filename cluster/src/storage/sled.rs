//! The values on disk: sled behind the value port, with the real sync it lacks and a checksum per value.
//!
//! sled's flush writes with `sync_file_range`, which orders no metadata and flushes no device cache; the adapter adds
//! `fdatasync` on the same inode. sled checks its own pages when it opens, not every value, so each value carries a CRC.
//! The chunks of snapshots lie beside it ([`super::long`]); those of an earlier release are read where they are.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::chunks::guarded;
use super::log::SyncFuture;
use super::long::LongValues;
use super::values::{Change, Named, Values, check_sizes};

/// Memory for pages, in bytes.
const CACHE_BYTES_MAX: u64 = 32 << 20;
/// Values that one range call returns at most.
const RANGE_BATCH_MAX: usize = 4096;

/// Values in sled.
pub struct SledValues {
    db: sled::Db,
    tree: sled::Tree,
    data: File,
    long: LongValues,
}

fn seal(value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(value.len().saturating_add(4));
    sealed.extend_from_slice(&crc32fast::hash(value).to_be_bytes());
    sealed.extend_from_slice(value);
    sealed
}

fn unseal(name: &[u8], sealed: &[u8]) -> io::Result<Vec<u8>> {
    match sealed.split_at_checked(4) {
        Some((checksum, value)) if crc32fast::hash(value).to_be_bytes() == checksum => Ok(value.to_vec()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("value `{}` does not match its checksum", String::from_utf8_lossy(name)),
        )),
    }
}

impl SledValues {
    /// Opens, or makes, the values in `folder`.
    ///
    /// # Errors
    /// sled's, its panics among them: a flipped bit can make its open panic.
    pub fn open(folder: &Path) -> io::Result<Self> {
        guarded(|| {
            // Segment collection runs on the flusher thread only, so the interval stays.
            let config =
                sled::Config::new().path(folder).cache_capacity(CACHE_BYTES_MAX).flush_every_ms(Some(500));
            let db = config.open()?;
            let tree = db.open_tree("values")?;
            let data = File::open(folder.join("db"))?;
            let long = LongValues::open(folder)?;
            File::open(folder)?.sync_all()?;
            Ok(Self { db, tree, data, long })
        })
    }
}

impl Values for SledValues {
    fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        check_sizes(&changes)?;
        let mut batch = sled::Batch::default();
        let mut chunks_alone = true;
        for change in changes {
            if let Change::Put(name, value) = &change
                && self.long.put(name, value)?
            {
                continue;
            }
            chunks_alone = false;
            match change {
                Change::Put(name, value) => batch.insert(name, seal(&value)),
                Change::Delete(name) => batch.remove(name),
                Change::DeleteRange(names) => {
                    self.long.doom(&names)?;
                    for found in self.tree.range(names).keys() {
                        batch.remove(found?);
                    }
                }
            }
        }
        if chunks_alone {
            return Ok(());
        }
        // What this names must be there when it is: the engine may write it to the disk at any time from here on.
        self.long.sync()?;
        Ok(self.tree.apply_batch(batch)?)
    }

    fn get(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if let Some(value) = self.long.get(name)? {
            return Ok(Some(value));
        }
        self.tree.get(name)?.map(|sealed| unseal(name, &sealed)).transpose()
    }

    fn range(&self, names: Range<Vec<u8>>, limit: usize) -> io::Result<Vec<Named>> {
        self.tree
            .range(names)
            .take(limit.min(RANGE_BATCH_MAX))
            .map(|found| {
                let (name, sealed) = found?;
                Ok((name.to_vec(), unseal(&name, &sealed)?))
            })
            .collect()
    }

    fn last(&self, names: Range<Vec<u8>>) -> io::Result<Option<Named>> {
        let Some(found) = self.tree.range(names).next_back() else { return Ok(None) };
        let (name, sealed) = found?;
        Ok(Some((name.to_vec(), unseal(&name, &sealed)?)))
    }

    fn sync(&self) -> SyncFuture<'_> {
        Box::pin(async move {
            self.long.sync()?;
            self.db.flush()?;
            self.data.sync_data()?;
            self.long.bury()
        })
    }
}
