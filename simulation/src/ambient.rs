//! The process's clock and chance, taken over: the simulator binary brings its own `getrandom` and `clock_gettime`.
//!
//! Product code asks `Environment` for both. What is left are dependencies: the seed of a hash map, the scheduler's first random
//! number, a library's timestamp. The linker prefers these definitions to libc's, so nothing in the process can reach
//! the machine's own. They are compiled into this one binary and nowhere else; that is why no compiler flag is needed.
//!
//! Until `arm` is called, both answer from the machine: the process has to start before it has a seed. Unsafe code is
//! allowed here because these four functions have C's signatures, and each pointer is written only within what C promises.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use featureops_simulation::Ambient;
use featureops_simulation::dice::{STEP, mix};

static ARMED: AtomicBool = AtomicBool::new(false);
static CHANCE: AtomicU64 = AtomicU64::new(0);
static ELAPSED_NANOS: AtomicU64 = AtomicU64::new(0);

/// The moment at which every world begins: 2026-01-01T00:00:00Z.
const EPOCH_SECONDS: u64 = 1_767_225_600;

/// The handle the world turns its clock with.
pub struct Process;

impl Ambient for Process {
    fn arm(&self, seed: u64) {
        CHANCE.store(seed, Ordering::SeqCst);
        ELAPSED_NANOS.store(0, Ordering::SeqCst);
        ARMED.store(true, Ordering::SeqCst);
    }

    fn turn(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        ELAPSED_NANOS.store(nanos, Ordering::SeqCst);
    }
}

/// The machine's own monotonic clock, for telling how long a seed took.
pub fn machine_micros() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which outlives the call.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000)
}

// One atomic step per draw: the world has one thread, and a draw from another would show as a digest that does not repeat.
fn draw() -> u64 {
    mix(CHANCE.fetch_add(STEP, Ordering::SeqCst).wrapping_add(STEP))
}

unsafe fn fill(buffer: *mut libc::c_void, length: usize) {
    let mut at = 0;
    while at < length {
        let word = draw().to_le_bytes();
        let part = word.len().min(length.saturating_sub(at));
        // SAFETY: the caller owns `length` bytes at `buffer`, and at + part never passes that.
        unsafe { std::ptr::copy_nonoverlapping(word.as_ptr(), buffer.cast::<u8>().add(at), part) };
        at = at.saturating_add(part);
    }
}

/// libc's, from the seed.
///
/// # Safety
/// As libc's: `buffer` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if ARMED.load(Ordering::SeqCst) {
        // SAFETY: the caller's promise.
        unsafe { fill(buffer, length) };
        return libc::ssize_t::try_from(length).unwrap_or(-1);
    }
    // SAFETY: the same arguments, handed to the kernel.
    let written = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
    libc::ssize_t::try_from(written).unwrap_or(-1)
}

/// libc's, from the seed.
///
/// # Safety
/// As libc's: `buffer` has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buffer: *mut libc::c_void, length: libc::size_t) -> libc::c_int {
    // SAFETY: the caller's promise.
    let written = unsafe { getrandom(buffer, length, 0) };
    if usize::try_from(written) == Ok(length) { 0 } else { -1 }
}

/// libc's, showing the world's time: wall clocks from the epoch, monotonic ones from one second.
///
/// # Safety
/// As libc's: `time` points to one timespec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if !ARMED.load(Ordering::SeqCst) {
        // SAFETY: the same arguments, handed to the kernel.
        let done = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return libc::c_int::try_from(done).unwrap_or(-1);
    }
    let wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI);
    let elapsed = ELAPSED_NANOS.load(Ordering::SeqCst);
    let seconds = (if wall { EPOCH_SECONDS } else { 1 }).saturating_add(elapsed / 1_000_000_000);
    let shown = libc::timespec {
        tv_sec: libc::time_t::try_from(seconds).unwrap_or(0),
        tv_nsec: libc::c_long::try_from(elapsed % 1_000_000_000).unwrap_or(0),
    };
    // SAFETY: the caller's promise.
    unsafe { time.write(shown) };
    0
}

/// libc's, showing the world's time.
///
/// # Safety
/// As libc's: `time` points to one timeval.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut libc::timeval, _zone: *mut libc::c_void) -> libc::c_int {
    let mut shown = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `shown` outlives the call.
    let done = unsafe { clock_gettime(libc::CLOCK_REALTIME, &raw mut shown) };
    if done == 0 {
        // SAFETY: the caller's promise.
        unsafe { time.write(libc::timeval { tv_sec: shown.tv_sec, tv_usec: shown.tv_nsec / 1_000 }) };
    }
    done
}
