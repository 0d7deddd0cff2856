//! A backup's file: written beside its name and moved there when it is whole, read a frame at a time, and never believed.
//!
//! Whatever is not exactly what was written is refused by a sentence that says where: cut off, changed, foreign, or of
//! another format. Nothing of a file is used before all of it was checked.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use featureops_cluster::LAYOUT;
use featureops_proto::v1::{BackupFrame, BackupHead, BackupManifest, BackupTail, backup_frame::Frame};
use featureops_state::SectionDigest;
use prost::Message as _;

use super::{FORMAT, FRAME_BYTES_MAX, Sum, encoded};
use crate::unit_key::KEY_BYTES;

/// First and last bytes of a file.
const MAGIC: &[u8; 8] = b"fobackup";
/// Length and checksum before a frame.
const PREFIX_BYTES: u64 = 8;
/// What stands behind the tail: its place, and the magic.
const TRAILER_BYTES: u64 = 16;
/// Longest name of a section, in bytes.
const NAME_BYTES_MAX: u64 = 256;

/// A file that is being written, under another name.
pub struct Draft {
    path: PathBuf,
    beside: PathBuf,
    file: BufWriter<File>,
    /// What was taken away for it, locked still: who opened it a moment ago finds that a backup is being written.
    _before: Option<File>,
    at: u64,
    tail_at: u64,
    done: bool,
}

impl Draft {
    /// Begins a file that shall be `path`.
    ///
    /// # Errors
    /// One is there, another process writes it, or the operating system's.
    pub fn begin(path: &Path) -> io::Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is such a file; a backup replaces none",
            ));
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let before = left_before(&beside)?;
        // Never one that was there: whoever made it could read what is written, and it may secretly be another file.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        lock(&file)?;
        let mut draft = Self {
            path: path.to_owned(),
            beside,
            _before: before,
            file: BufWriter::with_capacity(1 << 20, file),
            at: 0,
            tail_at: 0,
            done: false,
        };
        draft.write(MAGIC)?;
        Ok(draft)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// The operating system's, or a frame over the bound.
    pub fn add(&mut self, frame: &BackupFrame) -> io::Result<()> {
        let bytes = encoded(frame);
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {} bytes is too long", bytes.len()),
            )
        })?;
        if matches!(frame.frame, Some(Frame::Tail(_))) {
            self.tail_at = self.at;
        }
        self.write(&length.to_be_bytes())?;
        self.write(&crc32(&bytes).to_be_bytes())?;
        self.write(&bytes)
    }

    /// Ends the file: synced, read again and checked, and only then moved to its name.
    ///
    /// # Errors
    /// What it holds is no whole backup, or the operating system's. No file of that name is left.
    pub fn finish(mut self) -> Result<BackupManifest, String> {
        let ended = (|| {
            let trailer = [&self.tail_at.to_be_bytes()[..], &MAGIC[..]].concat();
            self.write(&trailer)?;
            self.file.flush()?;
            self.file.get_ref().sync_all()
        })();
        ended.map_err(|error| format!("'{}' cannot be written: {error}", self.beside.display()))?;
        let manifest = check(&self.beside, &mut |_| Ok(()))?;
        // A link, not a rename: it fails where a file has appeared meanwhile.
        let placed = std::fs::hard_link(&self.beside, &self.path)
            .and_then(|()| std::fs::remove_file(&self.beside))
            .and_then(|()| {
                let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
            });
        placed.map_err(|error| format!("'{}' cannot be written: {error}", self.path.display()))?;
        self.done = true;
        Ok(BackupManifest { file: self.path.display().to_string(), ..manifest })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}

/// Takes away what an attempt left that was cut off; it is given back locked, so that whoever opened it meanwhile does not take
/// away what is made in its place.
///
/// # Errors
/// It is no file of an attempt, another process writes it, or the operating system's.
fn left_before(beside: &Path) -> io::Result<Option<File>> {
    let seen = match beside.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        seen => seen?,
    };
    if !seen.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("'{}' is no file of a backup, perhaps a link: remove it", beside.display()),
        ));
    }
    let file = File::open(beside)?;
    lock(&file)?;
    let (held, now) = (file.metadata()?, beside.symlink_metadata()?);
    if (held.dev(), held.ino()) != (now.dev(), now.ino()) {
        return Err(written_elsewhere());
    }
    std::fs::remove_file(beside)?;
    Ok(Some(file))
}

fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(written_elsewhere()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn written_elsewhere() -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, "another process writes this backup")
}

/// CRC-32 as it stands before a frame.
fn crc32(bytes: &[u8]) -> u32 {
    featureops_cluster::crc32(bytes)
}

/// What is read of a file and where it stands.
struct Frames {
    file: BufReader<File>,
    at: u64,
    end: u64,
    number: u64,
}

impl Frames {
    fn open(path: &Path) -> Result<(Self, u64), String> {
        let said = |error: io::Error| format!("'{}' cannot be read: {error}", path.display());
        let file = File::open(path).map_err(said)?;
        let kind = file.metadata().map_err(said)?;
        if !kind.is_file() {
            return Err(format!("'{}' is no file", path.display()));
        }
        let length = kind.len();
        let mut frames = Self { file: BufReader::new(file), at: 0, end: length, number: 0 };
        let mut magic = [0; 8];
        if length < MAGIC.len() as u64 || frames.take(&mut magic).is_err() || magic != *MAGIC {
            return Err(format!(
                "'{}' is no backup: it does not begin as one; give a file that 'featureops backup create' made",
                path.display()
            ));
        }
        let cut = || {
            format!(
                "'{}' was cut off: it has {length} bytes and does not end as a backup; take another copy of it",
                path.display()
            )
        };
        frames.end = length.checked_sub(TRAILER_BYTES).filter(|end| *end >= frames.at).ok_or_else(cut)?;
        let mut trailer = [0; 16];
        frames.file.seek(SeekFrom::Start(frames.end)).map_err(said)?;
        frames.file.read_exact(&mut trailer).map_err(said)?;
        let (tail_at, magic) = trailer.split_at(8);
        if magic != MAGIC {
            return Err(cut());
        }
        frames.file.seek(SeekFrom::Start(frames.at)).map_err(said)?;
        let tail_at = tail_at.try_into().map(u64::from_be_bytes).unwrap_or_default();
        Ok((frames, tail_at))
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.file
            .read_exact(bytes)
            .map_err(|error| format!("it cannot be read at byte {}: {error}", self.at))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The next frame, as it is encoded and decoded; `None` at the end.
    fn next(&mut self) -> Result<Option<(Vec<u8>, Frame)>, String> {
        if self.at == self.end {
            return Ok(None);
        }
        let (number, begin) = (self.number, self.at);
        self.number += 1;
        let wrong =
            |why: String| format!("frame {number} at byte {begin} {why}: the file was changed or cut");
        let mut prefix = [0; 8];
        if self.end - self.at < PREFIX_BYTES {
            return Err(wrong("has no room for its length".to_owned()));
        }
        self.take(&mut prefix)?;
        let (length, checksum) = prefix.split_at(4);
        let word = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).unwrap_or_default();
        let length = word(length) as usize;
        if length > FRAME_BYTES_MAX || length as u64 > self.end - self.at {
            return Err(wrong(format!("says that it has {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.take(&mut bytes)?;
        if crc32(&bytes) != word(checksum) {
            return Err(wrong("does not match its checksum".to_owned()));
        }
        let frame = BackupFrame::decode(bytes.as_slice()).ok().and_then(|frame| frame.frame);
        match frame {
            Some(frame) => Ok(Some((bytes, frame))),
            None => Err(format!(
                "frame {number} at byte {begin} is of a kind that this release does not know: use the release that made the file"
            )),
        }
    }
}

fn check_head(head: &BackupHead) -> Result<(), String> {
    if head.format != FORMAT {
        return Err(format!(
            "it is of format {}, and this release (level {}) reads format {FORMAT}: use a release that reads it",
            head.format,
            featureops_state::FEATURE_LEVEL
        ));
    }
    Ok(())
}

/// Reads a whole file, checks everything that can be checked without holding the state, and gives each frame of it to `each`.
///
/// # Errors
/// The file is no whole backup, in words; or that of `each`.
pub fn check(
    path: &Path,
    each: &mut dyn FnMut(Frame) -> Result<(), String>,
) -> Result<BackupManifest, String> {
    let named = |why: String| match why.contains(&path.display().to_string()) {
        true => why,
        false => format!("backup '{}': {why}", path.display()),
    };
    checked(path, each).map_err(named)
}

fn checked(path: &Path, each: &mut dyn FnMut(Frame) -> Result<(), String>) -> Result<BackupManifest, String> {
    let (mut frames, tail_at) = Frames::open(path)?;
    let Some((bytes, Frame::Head(head))) = frames.next()? else {
        return Err("it does not begin with a head: the file was changed or cut".to_owned());
    };
    check_head(&head)?;
    let (mut sum, mut sections) = (Sum::default(), Sections::default());
    sum.add(&bytes);
    each(Frame::Head(head.clone()))?;
    let (mut pieces, mut keyed) = (0u64, false);
    let tail: BackupTail = loop {
        let begin = frames.at;
        let Some((bytes, frame)) = frames.next()? else {
            return Err("it has no tail: the file was cut".to_owned());
        };
        match frame {
            Frame::Piece(piece) if !keyed => {
                sections.add(&piece)?;
                pieces += 1;
                sum.add(&bytes);
                each(Frame::Piece(piece))?;
            }
            Frame::UnitKey(key) if !keyed && head.has_unit_key && key.len() == KEY_BYTES => {
                keyed = true;
                sum.add(&bytes);
                each(Frame::UnitKey(key))?;
            }
            Frame::Tail(tail) if begin == tail_at => break tail,
            _ => {
                return Err(format!(
                    "the frame at byte {begin} stands where none of its kind may: the file was changed"
                ));
            }
        }
    };
    if frames.at != frames.end {
        return Err(format!("{} bytes stand behind its tail: the file was changed", frames.end - frames.at));
    }
    if keyed != head.has_unit_key {
        return Err("its head says that the unit key follows, and none does: the file was changed".to_owned());
    }
    if sum.finish() != tail.sha256 {
        return Err("it does not match its SHA-256: the file was changed".to_owned());
    }
    let (bytes, digest) = sections.finish()?;
    for (what, found, said) in [("bytes", bytes, tail.bytes), ("pieces", pieces, tail.pieces)] {
        if found != said {
            return Err(format!("the state has {found} {what}, its tail says {said}: the file was changed"));
        }
    }
    if digest != tail.digest {
        return Err(format!(
            "the state's digest is {digest:016x}, its tail says {:016x}: the file was changed",
            tail.digest
        ));
    }
    Ok(BackupManifest {
        head: Some(head),
        tail: Some(tail),
        file: path.display().to_string(),
        file_bytes: frames.end + TRAILER_BYTES,
        fault: String::new(),
    })
}

/// Head and tail of a file; what lies between is not looked at.
///
/// # Errors
/// The file does not begin or end as a backup, in words.
pub fn peek(path: &Path) -> Result<BackupManifest, String> {
    let (mut frames, tail_at) = Frames::open(path)?;
    let Some((_, Frame::Head(head))) = frames.next()? else {
        return Err("it does not begin with a head: the file was changed".to_owned());
    };
    check_head(&head)?;
    if tail_at < frames.at || tail_at >= frames.end {
        return Err("its end names no place in it: the file was changed".to_owned());
    }
    let sought = frames.file.seek(SeekFrom::Start(tail_at));
    sought.map_err(|error| format!("it cannot be read at byte {tail_at}: {error}"))?;
    frames.at = tail_at;
    let Some((_, Frame::Tail(tail))) = frames.next()? else {
        return Err("it does not end with a tail: the file was changed".to_owned());
    };
    Ok(BackupManifest {
        head: Some(head),
        tail: Some(tail),
        file: path.display().to_string(),
        file_bytes: frames.end + TRAILER_BYTES,
        fault: String::new(),
    })
}

/// Follows the state's bytes through its sections, to sum them, without holding one.
#[derive(Default)]
struct Sections {
    bytes: u64,
    digest: SectionDigest,
    reads: Reads,
    held: Vec<u8>,
}

#[derive(Default)]
enum Reads {
    #[default]
    Layout,
    NameLength,
    Name(u64),
    Length(String),
    Body(u64),
}

impl Sections {
    fn add(&mut self, mut piece: &[u8]) -> Result<(), String> {
        self.bytes += piece.len() as u64;
        while !piece.is_empty() {
            if let Reads::Body(left) = &mut self.reads {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                let (body, rest) = piece.split_at(length);
                self.digest.bytes(body);
                piece = rest;
                *left -= length as u64;
                if *left == 0 {
                    self.reads = Reads::NameLength;
                }
                continue;
            }
            let wanted = match &self.reads {
                Reads::Name(length) => usize::try_from(*length).unwrap_or(usize::MAX),
                _ => 8,
            };
            let length = wanted.saturating_sub(self.held.len()).min(piece.len());
            let (part, rest) = piece.split_at(length);
            self.held.extend_from_slice(part);
            piece = rest;
            if self.held.len() == wanted {
                let held = std::mem::take(&mut self.held);
                let reads = std::mem::take(&mut self.reads);
                self.reads = self.read(reads, held)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, reads: Reads, held: Vec<u8>) -> Result<Reads, String> {
        let number = held.as_slice().try_into().map(u64::from_be_bytes).unwrap_or_default();
        Ok(match reads {
            Reads::Layout if held != LAYOUT => {
                return Err("its state is of a layout that this release does not know".to_owned());
            }
            Reads::Layout => Reads::NameLength,
            Reads::NameLength if number == 0 || number > NAME_BYTES_MAX => {
                return Err(format!("a section's name of {number} bytes: the file was changed"));
            }
            Reads::NameLength => Reads::Name(number),
            Reads::Name(_) => {
                Reads::Length(String::from_utf8(held).map_err(|_| "a section's name is no text".to_owned())?)
            }
            Reads::Length(name) => {
                self.digest.section(&name, number);
                if number == 0 { Reads::NameLength } else { Reads::Body(number) }
            }
            Reads::Body(left) => Reads::Body(left),
        })
    }

    fn finish(self) -> Result<(u64, u64), String> {
        match (self.reads, self.held.is_empty()) {
            (Reads::NameLength, true) => Ok((self.bytes, self.digest.finish())),
            _ => Err("its state ends within a section: the file was changed".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn part_of(path: &Path) -> PathBuf {
        path.with_extension("fobackup.part")
    }

    #[test]
    fn what_lies_in_the_way_of_a_draft_is_never_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.fobackup");
        let (beside, theirs) = (part_of(&path), folder.path().join("theirs"));
        // Somebody keeps a file open that everybody may read, and would read the backup in it.
        std::fs::write(&beside, "before").unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o666)).unwrap();
        let kept = File::open(&beside).unwrap();
        let draft = Draft::begin(&path).unwrap();
        let (own, before) = (std::fs::metadata(&beside).unwrap(), kept.metadata().unwrap());
        assert_eq!(own.permissions().mode() & 0o777, 0o600);
        assert_ne!(own.ino(), before.ino());
        assert_eq!((before.len(), before.nlink()), (6, 0));
        // Another process comes meanwhile, also one that opened the file of before.
        assert_eq!(Draft::begin(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(kept.try_lock(), Err(TryLockError::WouldBlock)));
        assert!(beside.exists(), "the draft is not its to take away");
        drop(draft);
        assert!(!beside.exists());

        std::fs::write(&theirs, "theirs").unwrap();
        std::os::unix::fs::symlink(&theirs, &beside).unwrap();
        let refused = Draft::begin(&path).err().unwrap();
        assert!(refused.to_string().contains("perhaps a link: remove it"), "{refused}");
        assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
        assert!(beside.symlink_metadata().unwrap().is_symlink());
        std::fs::remove_file(&beside).unwrap();
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &beside).unwrap();
        assert!(Draft::begin(&path).is_err() && !folder.path().join("nowhere").exists());
    }
}
