//! After a failed write: what the cache shows is made sure of, or looked at without touching the disk.
//!
//! A sync that failed leaves pages in the cache that are marked clean and are not on the disk. A read finds them, and no
//! later sync writes them. So before a folder is opened again in the same process, every file is written over with what
//! a read of it gives, and synced: either all of it is on the disk then, or the disk fails again and nothing is opened.
//! Equal bytes over equal bytes: a crash in between changes nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes read and written at once.
const BLOCK_BYTES: usize = 1 << 18;
/// Folders below a folder: the engines make one.
const DEPTH_MAX: usize = 4;
/// Longest folder that is copied into memory, in bytes.
const COPY_BYTES_MAX: u64 = 2 << 30;
/// Copies made by this process, so that two have two names.
static COPIES: AtomicU64 = AtomicU64::new(0);
/// Name of a copy, before the process and the number.
const COPY_NAME: &str = "featureops-values-";
/// Names that are tried: in a container every process has the same id.
const NAMES_MAX: usize = 1_000;
/// Entries of a place that are looked at for copies that nobody holds.
const LOOKED_AT_MAX: usize = 100_000;

/// Writes every file below `folder` over with its own content, and syncs it. A folder that is not there is settled.
///
/// # Errors
/// The file system's: nothing is sure then.
pub(super) fn settle(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    each_file(folder, DEPTH_MAX, &mut |path| {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut block = vec![0; BLOCK_BYTES];
        let mut offset = 0;
        loop {
            let length = file.read_at(&mut block, offset)?;
            let Some(read) = block.get(..length).filter(|read| !read.is_empty()) else { break };
            file.write_all_at(read, offset)?;
            offset = offset.saturating_add(length as u64);
        }
        file.sync_all()
    })?;
    File::open(folder)?.sync_all()
}

fn each_file(folder: &Path, depth: usize, act: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            act(&entry.path())?;
        } else if kind.is_dir() && depth > 0 {
            each_file(&entry.path(), depth.saturating_sub(1), act)?;
        }
    }
    Ok(())
}

/// A copy of a folder outside the data folder, in memory where the system has such a place; gone when it is dropped, or,
/// where the process was killed, when the next copy is made.
pub(super) struct Copy {
    path: PathBuf,
    /// Its lock says that somebody uses it.
    _held: File,
}

impl Copy {
    /// Copies `folder`. One that is not there gives an empty copy.
    ///
    /// # Errors
    /// It is too long, or no place takes it; the text says which.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let mut bytes = 0_u64;
        if folder.is_dir() {
            each_file(folder, DEPTH_MAX, &mut |path| {
                bytes = bytes.saturating_add(std::fs::metadata(path)?.len());
                Ok(())
            })?;
        }
        if bytes > COPY_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "it has {bytes} bytes, over the bound of {COPY_BYTES_MAX}; make room on the data disk"
                ),
            ));
        }
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in [PathBuf::from("/dev/shm"), std::env::temp_dir()] {
            match Self::into(folder, &place) {
                Ok(copy) => return Ok(copy),
                Err(error) => last = error,
            }
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("neither /dev/shm nor the folder for temporary files takes {bytes} bytes: {last}"),
        ))
    }

    /// The copy.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn into(folder: &Path, place: &Path) -> io::Result<Self> {
        sweep(place);
        let copy = Self::empty(place)?;
        if !folder.is_dir() {
            return Ok(copy);
        }
        each_file(folder, DEPTH_MAX, &mut |path| {
            let below = path.strip_prefix(folder).map_err(io::Error::other)?;
            let to = copy.path.join(below);
            if let Some(parent) = to.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
            io::copy(&mut File::open(path)?, &mut to).map(drop)
        })?;
        Ok(copy)
    }

    fn empty(place: &Path) -> io::Result<Self> {
        for _ in 0..NAMES_MAX {
            let number = COPIES.fetch_add(1, Ordering::Relaxed);
            let path = place.join(format!("{COPY_NAME}{}-{number}", std::process::id()));
            // Not recursive: a name that is taken is somebody else's. Whoever may not read the data may not read the copy.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // A sweep in between has it locked, or has removed it: then another name.
            if let Ok(held) = File::open(&path)
                && held.try_lock().is_ok()
                && is_at(&held, &path)
            {
                return Ok(Self { path, _held: held });
            }
        }
        let why = format!("{NAMES_MAX} names of copies are taken in {}; remove them", place.display());
        Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
    }
}

/// Whether what was opened still stands there.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(found)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (found.dev(), found.ino())
}

/// Removes the copies in a place that nobody holds: their process was killed, and they take memory. What cannot be removed
/// stays; it is only in the way of its own name.
fn sweep(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    for entry in entries.take(LOOKED_AT_MAX).flatten() {
        let is_copy = entry.file_name().to_str().is_some_and(|name| name.starts_with(COPY_NAME));
        if !is_copy || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
            && is_at(&file, &path)
            && let Err(error) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), error = %error, "a copy that nobody holds was not removed");
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %error, "a copy in memory was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settled_folder_holds_what_it_held_and_a_copy_is_gone_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("blobs")).unwrap();
        let long: Vec<u8> = (0..BLOCK_BYTES * 2 + 7).map(|at| at as u8).collect();
        std::fs::write(folder.path().join("db"), &long).unwrap();
        std::fs::write(folder.path().join("blobs/1"), b"one").unwrap();
        settle(folder.path()).unwrap();
        settle(&folder.path().join("absent")).unwrap();
        let copy = Copy::of(folder.path()).unwrap();
        for place in [folder.path(), copy.path()] {
            assert_eq!(std::fs::read(place.join("db")).unwrap(), long);
            assert_eq!(std::fs::read(place.join("blobs/1")).unwrap(), b"one");
        }
        let path = copy.path().to_path_buf();
        drop(copy);
        assert!(!path.exists());
    }

    #[test]
    fn a_name_that_is_taken_is_passed_over_and_what_a_killed_process_left_is_removed() {
        let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("db"), b"values").unwrap();
        // As an earlier process with the same id left them; every other one is another container's and in use.
        let next = COPIES.load(Ordering::Relaxed);
        let mut held = Vec::new();
        for number in next..next + 40 {
            let path = place.path().join(format!("{COPY_NAME}{}-{number}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("db"), number.to_string()).unwrap();
            let file = File::open(&path).unwrap();
            if number % 2 == 0 {
                file.lock().unwrap();
            }
            held.push((number % 2 == 0, path, file));
        }
        let other = place.path().join("featureops-other");
        std::fs::create_dir(&other).unwrap();
        let copies = [0; 30].map(|_| Copy::into(folder.path(), place.path()).unwrap());
        for copy in &copies {
            assert_eq!(std::fs::read(copy.path().join("db")).unwrap(), b"values");
        }
        for (in_use, path, _) in &held {
            let left = std::fs::read(path.join("db")).is_ok_and(|db| db != b"values");
            assert_eq!(left, *in_use, "{}", path.display());
        }
        drop(copies);
        assert!(other.exists());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 21);
    }
}
