//! The signals that ask a process to stop, and one that must not end it.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// `SIGXFSZ`: a write would pass the process's limit on the length of files. Without a handler it ends the process; with one the
/// write fails like any other on a disk without room. The same number on every system this is built for.
const FILE_TOO_LARGE: i32 = 25;

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn install() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::internal(format!("signals cannot be received: {error}")))
        };
        // A handler stays for as long as the process: there is nothing to listen for.
        drop(listen(SignalKind::from_raw(FILE_TOO_LARGE))?);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
