//! What a power loss would leave: a library loaded before the node (`LD_PRELOAD`), under its `fsync` and `fdatasync`.
//!
//! ```text
//!   node ── write, pwrite ──> MIRROR_DATA/log/r-0      untouched: the page cache, which a power loss forgets
//!        └─ fdatasync(fd) ──> copy ──> MIRROR_STORE/inodes/7-123    the inode's durable content
//!                                             ▲ hard link
//!                                      MIRROR_STORE/tree/log/r-0    its durable name
//! ```
//!
//! **The model.** It is the strictest disk that keeps its word:
//!
//! - Content is durable after `fsync` or `fdatasync` of the file, and never before: not after `write`, not after
//!   `sync_file_range` (it orders no metadata and flushes no device cache), not after `close` or a while.
//! - A new file's name, and the name it was renamed to, are durable after the sync of the file (as ext4, xfs and btrfs do
//!   it) or of its folder. With `MIRROR_STRICT=1` only after the sync of the folder, as POSIX has it.
//! - That a name is gone is durable after the sync of its folder, or when the same file was synced under another name in
//!   that folder. Until then the old file is back after the loss, with the content it had when it was last synced.
//! - A name that is durable before its content is an empty file.
//!
//! What a node starts with is durable. Real syncs are not done: the page cache survives a kill, and only the mirror
//! matters. Not modelled: writes that reach the disk unasked (a real loss may keep any of them), `msync`, `O_DSYNC`.
//!
//! `MIRROR_IGNORE=log/:marks` answers the syncs of files that begin so with success and does nothing: the planted fault.
//! `MIRROR_PAGE` is a file of two words that the test writes while the node runs: what is added to the wall clock in
//! milliseconds, and whether the disk is full (writes below `MIRROR_DATA` then get ENOSPC).

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use libc::{clockid_t, iovec, off_t, size_t, ssize_t, timespec};

/// Bytes compared and copied at once.
const BLOCK_BYTES: usize = 1 << 16;

struct Settings {
    data: PathBuf,
    store: Option<PathBuf>,
    ignored: Vec<String>,
    strict: bool,
}

static SETTINGS: OnceLock<Option<Settings>> = OnceLock::new();
/// One sync at a time: two of the same file would tear each other's copy.
static STORE: Mutex<()> = Mutex::new(());
static PAGE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

/// Runs before the node's `main`: what is on disk now is durable.
extern "C" fn start() {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = variable("MIRROR_PAGE") {
        map_page(path.as_os_str());
    }
    let settings = variable("MIRROR_DATA").map(|data| Settings {
        data: data.into(),
        store: variable("MIRROR_STORE").map(PathBuf::from),
        ignored: variable("MIRROR_IGNORE")
            .map(|list| list.to_string_lossy().split(':').map(str::to_owned).collect())
            .unwrap_or_default(),
        strict: variable("MIRROR_STRICT").is_some(),
    });
    if let Some(settings) = &settings
        && let Some(store) = &settings.store
    {
        let _ = fs::create_dir_all(store.join("inodes"));
        let _ = fs::create_dir_all(store.join("tree"));
        if settings.data.is_dir() {
            take_all(settings, store, &settings.data);
        }
    }
    let _ = SETTINGS.set(settings);
}

fn map_page(path: &OsStr) {
    let Ok(path) = std::ffi::CString::new(path.as_bytes()) else { return };
    // SAFETY: a fresh shared mapping of a file that the test made a page long; it stays for the process's life.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if file < 0 {
            return;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let page = libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file, 0);
        libc::close(file);
        if page != libc::MAP_FAILED {
            PAGE.store(page, Ordering::Release);
        }
    }
}

fn word(index: usize) -> i64 {
    let page = PAGE.load(Ordering::Acquire).cast::<AtomicI64>();
    if page.is_null() {
        return 0;
    }
    // SAFETY: the mapping is a page long and aligned to one; the other side writes whole words.
    unsafe { (*page.add(index)).load(Ordering::Relaxed) }
}

fn settings() -> Option<&'static Settings> {
    SETTINGS.get().and_then(Option::as_ref)
}

/// Everything below `folder`, names and contents.
fn take_all(settings: &Settings, store: &Path, folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            take_all(settings, store, &path);
        } else if let Ok(file) = File::open(&path) {
            let _ = take_file(settings, store, &file, &path, false);
        }
    }
    let _ = take_folder(settings, store, folder);
}

/// The place of an inode's durable content. Numbers are used again, so the time of birth belongs to it.
fn inode(store: &Path, file: &File) -> std::io::Result<PathBuf> {
    let data = file.metadata()?;
    let born = data.created().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(store.join(format!("inodes/{}-{}", data.ino(), born.map_or(0, |since| since.as_nanos()))))
}

fn name_in_tree(settings: &Settings, store: &Path, path: &Path) -> Option<PathBuf> {
    path.strip_prefix(&settings.data).ok().map(|below| store.join("tree").join(below))
}

/// Makes a file's content durable, and, unless names are strict, its name.
fn take_file(
    settings: &Settings,
    store: &Path,
    file: &File,
    path: &Path,
    strict: bool,
) -> std::io::Result<()> {
    let kept = inode(store, file)?;
    copy_changes(path, &kept)?;
    fs::set_permissions(&kept, file.metadata()?.permissions())?;
    let Some(name) = name_in_tree(settings, store, path) else { return Ok(()) };
    if strict {
        return Ok(());
    }
    if let Some(folder) = name.parent() {
        fs::create_dir_all(folder)?;
        drop_other_names(folder, &kept, &name, path)?;
    }
    link(&kept, &name)
}

/// After a rename inside a folder the old name goes with the new one's durability.
fn drop_other_names(folder: &Path, kept: &Path, name: &Path, path: &Path) -> std::io::Result<()> {
    let number = fs::metadata(kept)?.ino();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let still = path.parent().is_some_and(|real| real.join(entry.file_name()).exists());
        if entry.path() != name && !still && entry.metadata()?.ino() == number {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a folder's names durable: those that are there, and that the others are gone.
fn take_folder(settings: &Settings, store: &Path, folder: &Path) -> std::io::Result<()> {
    let Some(mirrored) = name_in_tree(settings, store, folder) else { return Ok(()) };
    fs::create_dir_all(&mirrored)?;
    if let Ok(data) = fs::metadata(folder) {
        fs::set_permissions(&mirrored, data.permissions())?;
    }
    for entry in fs::read_dir(folder)? {
        let (path, name) = {
            let entry = entry?;
            (entry.path(), mirrored.join(entry.file_name()))
        };
        if path.is_dir() {
            fs::create_dir_all(&name)?;
        } else if let Ok(file) = File::open(&path) {
            let kept = inode(store, &file)?;
            if !kept.exists() {
                // The name is durable and the content is not.
                File::create(&kept)?;
                fs::set_permissions(&kept, file.metadata()?.permissions())?;
            }
            link(&kept, &name)?;
        }
    }
    for entry in fs::read_dir(&mirrored)? {
        let entry = entry?;
        if !folder.join(entry.file_name()).exists() {
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
    }
    Ok(())
}

fn link(kept: &Path, name: &Path) -> std::io::Result<()> {
    let number = fs::metadata(kept)?.ino();
    match fs::symlink_metadata(name) {
        Ok(held) if held.ino() == number => return Ok(()),
        Ok(held) if held.is_dir() => fs::remove_dir_all(name)?,
        Ok(_) => fs::remove_file(name)?,
        Err(_) => {}
    }
    fs::hard_link(kept, name)
}

/// Copies the blocks that differ: most syncs follow a short append.
fn copy_changes(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::options().read(true).write(true).create(true).truncate(false).open(to)?;
    let (mut new, mut old) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut offset = 0u64;
    loop {
        let length = fill(&mut source, &mut new)?;
        if length == 0 {
            break;
        }
        target.seek(SeekFrom::Start(offset))?;
        let held = fill(&mut target, &mut old[..length])?;
        if held != length || old[..length] != new[..length] {
            target.seek(SeekFrom::Start(offset))?;
            raw_write(&mut target, &new[..length])?;
        }
        offset += length as u64;
    }
    target.set_len(offset)
}

/// Our own writes must not pass through the full disk below.
fn raw_write(target: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    target.write_all(bytes)
}

fn fill(file: &mut File, block: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < block.len() {
        match file.read(&mut block[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// The path of a file descriptor, if it lies in the data folder.
fn path_of(settings: &Settings, descriptor: c_int) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    path.starts_with(&settings.data).then_some(path)
}

/// Does a sync; nothing when the file is not ours to mirror.
fn synced(descriptor: c_int) -> Option<c_int> {
    let settings = settings()?;
    let path = path_of(settings, descriptor)?;
    let below = path.strip_prefix(&settings.data).ok()?.to_string_lossy().into_owned();
    if word(1) != 0 {
        return Some(fail(libc::ENOSPC));
    }
    let store = settings.store.as_ref()?;
    if settings.ignored.iter().any(|prefix| below.starts_with(prefix.as_str())) {
        return Some(0);
    }
    let _one = STORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: the descriptor is the caller's, open for the length of this call; it is not closed here.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    let done = match file.metadata() {
        Ok(data) if data.is_dir() => take_folder(settings, store, &path),
        Ok(_) => take_file(settings, store, &file, &path, settings.strict),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => Some(0),
        Err(error) => {
            eprintln!("mirror: {}: {error}", path.display());
            Some(fail(libc::EIO))
        }
    }
}

fn fail(error: c_int) -> c_int {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// Whether a write to this descriptor finds the disk full.
fn is_full(descriptor: c_int) -> bool {
    word(1) != 0 && settings().is_some_and(|settings| path_of(settings, descriptor).is_some())
}

/// The next definition of a symbol, looked up once.
fn next(held: &AtomicU64, name: &CStr) -> u64 {
    let found = held.load(Ordering::Relaxed);
    if found != 0 {
        return found;
    }
    // SAFETY: a look-up by a name that ends with a zero.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as u64;
    held.store(found, Ordering::Relaxed);
    found
}

macro_rules! real {
    ($name:literal, $kind:ty) => {{
        static HELD: AtomicU64 = AtomicU64::new(0);
        // SAFETY: the symbol has this type in every C library of this platform.
        unsafe { std::mem::transmute::<usize, $kind>(next(&HELD, $name) as usize) }
    }};
}

/// # Safety
/// As `fsync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(descriptor: c_int) -> c_int {
    synced(descriptor).unwrap_or_else(|| real!(c"fsync", extern "C" fn(c_int) -> c_int)(descriptor))
}

/// # Safety
/// As `fdatasync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    synced(descriptor).unwrap_or_else(|| real!(c"fdatasync", extern "C" fn(c_int) -> c_int)(descriptor))
}

/// # Safety
/// As `write(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(descriptor: c_int, bytes: *const c_void, length: size_t) -> ssize_t {
    if is_full(descriptor) {
        return fail(libc::ENOSPC) as ssize_t;
    }
    real!(c"write", extern "C" fn(c_int, *const c_void, size_t) -> ssize_t)(descriptor, bytes, length)
}

/// # Safety
/// As `writev(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(descriptor: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    if is_full(descriptor) {
        return fail(libc::ENOSPC) as ssize_t;
    }
    real!(c"writev", extern "C" fn(c_int, *const iovec, c_int) -> ssize_t)(descriptor, parts, count)
}

/// # Safety
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(
    descriptor: c_int,
    bytes: *const c_void,
    length: size_t,
    at: off_t,
) -> ssize_t {
    if is_full(descriptor) {
        return fail(libc::ENOSPC) as ssize_t;
    }
    let real = real!(c"pwrite", extern "C" fn(c_int, *const c_void, size_t, off_t) -> ssize_t);
    real(descriptor, bytes, length, at)
}

/// # Safety
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    descriptor: c_int,
    bytes: *const c_void,
    length: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: the same call; off_t has 64 bits here.
    unsafe { pwrite(descriptor, bytes, length, at) }
}

/// # Safety
/// As `clock_gettime(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let answer = real!(c"clock_gettime", extern "C" fn(clockid_t, *mut timespec) -> c_int)(clock, time);
    let offset_ms = word(0);
    if answer == 0 && clock == libc::CLOCK_REALTIME && offset_ms != 0 {
        // SAFETY: the call has just filled it.
        unsafe { (*time).tv_sec += offset_ms / 1_000 };
    }
    answer
}
