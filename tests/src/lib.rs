//! Black-box contracts: a real process, a real socket, a real folder, and what a client was told.
//!
//! ```text
//!   Site (folder, port, variables) ── start ──> Node (child process) ── kill -9 | drain | drop
//!      │                                          ▲
//!      └─ Client (gRPC), http ────────────────────┘
//!   Load: producers and a flag writer that remember every acknowledgement ── check ──> what is missing, in words
//! ```
//!
//! Nothing here reaches into the product: the generated clients are all that is shared with it. Every wait has a bound,
//! and a child process ends with the value that holds it.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "real processes live in real time, and a harness that cannot go on is a failed test"
)]

pub mod authority;
pub mod binary;
pub mod chance;
pub mod check;
pub mod client;
pub mod folder;
pub mod http;
pub mod line;
pub mod load;
pub mod mirror;
pub mod namespaces;
pub mod noise;
pub mod raw;
pub mod several;
pub mod site;
pub mod switch;
pub mod visits;

/// A count that a longer run may raise: the variable's value, or the default.
///
/// # Panics
/// The variable is set and is no whole number.
#[must_use]
pub fn count(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}='{text}' is not a whole number")),
        Err(_) => default,
    }
}

/// The runtime of a test: two threads, as the machines that run it have at least.
///
/// # Panics
/// No thread can be started.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
