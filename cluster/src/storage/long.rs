//! Chunks of a long value in a file of their own, beside the values' engine.
//!
//! ```text
//!   <values>/long/<generation>    slot 0, slot 1, ...: crc32, length, up to VALUE_BYTES_MAX bytes; 4,104 bytes each
//! ```
//!
//! In the engine a snapshot took several times its size, much of it for good: its pages are written again at every split.
//! Here it takes what it has, twice while one replaces the other.
//!
//! The order is the promise: a file is synced before anything that may name it reaches the engine, and removed after the
//! engine has forgotten it durably. A file that nothing names is left over from a crash, and goes with the next snapshot.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::values::VALUE_BYTES_MAX;

/// Names of such chunks: this, the generation in 16 hexadecimal digits, `/`, the number in 8.
const PREFIX: &str = "snapshot/chunk/";
const GENERATION_DIGITS: usize = 16;
const NUMBER_DIGITS: usize = 8;
/// Checksum and length.
const HEAD_BYTES: usize = 8;
const SLOT_BYTES: u64 = (HEAD_BYTES + VALUE_BYTES_MAX) as u64;

#[derive(Default)]
struct Writing {
    /// The file that grows.
    file: Option<(String, File)>,
    unsynced: bool,
    /// To be removed when the engine has forgotten them.
    doomed: Vec<PathBuf>,
}

/// The files.
pub(super) struct LongValues {
    folder: PathBuf,
    writing: Mutex<Writing>,
}

/// Generation and number of a chunk's name.
fn place(name: &[u8]) -> Option<(&str, u64)> {
    let rest = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
    let (generation, number) = rest.split_once('/')?;
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let formed = generation.len() == GENERATION_DIGITS && number.len() == NUMBER_DIGITS && hex(generation);
    let number = u64::from_str_radix(number, 16).ok().filter(|_| formed && hex(number))?;
    Some((generation, number))
}

fn checksum(length: [u8; 4], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(value);
    hasher.finalize()
}

fn damaged(name: &[u8], why: &str) -> io::Error {
    let name = String::from_utf8_lossy(name).into_owned();
    io::Error::new(io::ErrorKind::InvalidData, format!("value `{name}` {why}"))
}

impl LongValues {
    /// The files below `folder`.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let folder = folder.join("long");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder, writing: Mutex::default() })
    }

    /// Writes a chunk. False: the name is no chunk's.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn put(&self, name: &[u8], value: &[u8]) -> io::Result<bool> {
        let Some((generation, number)) = place(name) else { return Ok(false) };
        let mut writing = self.writing.lock();
        if writing.file.as_ref().is_none_or(|(open, _)| open != generation) {
            self.sync_file(&mut writing)?;
            let path = self.folder.join(generation);
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
            writing.file = Some((generation.to_owned(), file));
        }
        let length = u32::try_from(value.len()).map_err(io::Error::other)?.to_be_bytes();
        let slot = [&checksum(length, value).to_be_bytes(), length.as_slice(), value].concat();
        writing.unsynced = true;
        let written = match &writing.file {
            Some((_, file)) => file.write_all_at(&slot, number.saturating_mul(SLOT_BYTES)),
            None => Err(io::Error::other("no file is open")),
        };
        if let Err(error) = written {
            // Nothing names the file yet, and nobody goes on with it: its room is the disk's again, or the next opening would
            // find none. That the removal fails too changes nothing about the error.
            writing.file = None;
            let _ = std::fs::remove_file(self.folder.join(generation));
            return Err(error);
        }
        Ok(true)
    }

    /// Marks the files whose chunks all lie in a range of names.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn doom(&self, names: &Range<Vec<u8>>) -> io::Result<()> {
        let mut writing = self.writing.lock();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(generation) = entry.file_name().into_string() else { continue };
            let first = format!("{PREFIX}{generation}/").into_bytes();
            // The first name after every chunk of the file: `/` is followed by `0`.
            let end = format!("{PREFIX}{generation}0").into_bytes();
            if names.start <= first && end <= names.end {
                writing.doomed.push(entry.path());
            }
        }
        Ok(())
    }

    /// A chunk; nothing when its file is not there, or the name is no chunk's.
    ///
    /// # Errors
    /// The file system's, or `InvalidData`: it does not match its checksum.
    pub(super) fn get(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some((generation, number)) = place(name) else { return Ok(None) };
        let file = match File::open(self.folder.join(generation)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(name, "is cut off"),
            _ => error,
        };
        let at = number.saturating_mul(SLOT_BYTES);
        let (mut sum, mut length) = ([0; 4], [0; 4]);
        file.read_exact_at(&mut sum, at).map_err(cut)?;
        file.read_exact_at(&mut length, at.saturating_add(4)).map_err(cut)?;
        let bytes = u32::from_be_bytes(length) as usize;
        // A flipped bit in the length must not become an allocation of gigabytes.
        if bytes > VALUE_BYTES_MAX {
            return Err(damaged(name, "is longer than any"));
        }
        let mut value = vec![0; bytes];
        file.read_exact_at(&mut value, at.saturating_add(HEAD_BYTES as u64)).map_err(cut)?;
        if checksum(length, &value) != u32::from_be_bytes(sum) {
            return Err(damaged(name, "does not match its checksum"));
        }
        Ok(Some(value))
    }

    /// Makes every chunk written before durable.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.sync_file(&mut self.writing.lock())
    }

    fn sync_file(&self, writing: &mut Writing) -> io::Result<()> {
        if let Some((_, file)) = &writing.file
            && writing.unsynced
        {
            file.sync_all()?;
            File::open(&self.folder)?.sync_all()?;
            writing.unsynced = false;
        }
        Ok(())
    }

    /// Removes what was doomed; called when the engine has forgotten it durably.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn bury(&self) -> io::Result<()> {
        let mut writing = self.writing.lock();
        let doomed = std::mem::take(&mut writing.doomed);
        if doomed.is_empty() {
            return Ok(());
        }
        for path in doomed {
            if writing.file.as_ref().is_some_and(|(open, _)| path.ends_with(open)) {
                writing.file = None;
                writing.unsynced = false;
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(generation: u64, number: u64) -> Vec<u8> {
        format!("{PREFIX}{generation:016x}/{number:08x}").into_bytes()
    }

    #[test]
    fn chunks_are_read_back_and_a_range_takes_whole_files_once_it_is_buried() {
        let folder = tempfile::tempdir().unwrap();
        let files = LongValues::open(folder.path()).unwrap();
        for generation in 1..4 {
            for number in 0..3 {
                let length = if number == 2 { 7 } else { VALUE_BYTES_MAX };
                assert!(files.put(&name(generation, number), &vec![generation as u8; length]).unwrap());
            }
        }
        files.sync().unwrap();
        assert_eq!(files.get(&name(2, 2)).unwrap(), Some(vec![2; 7]));
        assert!(!files.put(b"snapshot/manifest", b"x").unwrap());
        assert!(files.get(&name(2, 3)).is_err(), "behind the end of a file that is there");
        files.doom(&(PREFIX.as_bytes().to_vec()..format!("{PREFIX}{:016x}/", 3).into_bytes())).unwrap();
        assert!(files.get(&name(1, 0)).unwrap().is_some(), "until the engine has forgotten them");
        files.bury().unwrap();
        let left: Vec<bool> = (1..4).map(|one| files.get(&name(one, 0)).unwrap().is_some()).collect();
        assert_eq!(left, [false, false, true]);
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let files = LongValues::open(folder.path()).unwrap();
        files.put(&name(1, 0), b"held").unwrap();
        let path = folder.path().join("long").join(format!("{:016x}", 1));
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(files.get(&name(1, 0)).unwrap_err().kind(), io::ErrorKind::InvalidData, "bit {bit}");
        }
    }
}
