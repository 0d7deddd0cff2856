//! The nouns every room shares: public API messages, log messages, resource names, error codes. No logic, no services.

#![forbid(unsafe_code)]

mod error;
mod name;
mod time;

pub use error::ErrorCode;
pub use name::{Collection, Name, NameError, environment_of, id_of};
pub use time::{timestamp, timestamp_if_set, unix_ms};

// Nested as the packages are: the generated code refers to its neighbours by relative path.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod featureops {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/featureops.v1.rs"));
    }
    pub mod log {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/featureops.log.v1.rs"));
        }
    }
    pub mod peer {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/featureops.peer.v1.rs"));
        }
    }
}

/// Messages of the replicated log, `featureops.log.v1`.
pub use featureops::log::v1 as log;
/// Messages between the nodes of a cluster, `featureops.peer.v1`.
pub use featureops::peer::v1 as peer;
/// Messages of the public API, `featureops.v1`.
pub use featureops::v1;

/// The encoded `FileDescriptorSet` of all files, for reflection and for rendering messages as JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Policy of the decisions that alarms of outside monitors make: the fold writes it, replay knows it by it.
pub const ALARM_POLICY: &str = "alarm/1";

impl v1::Int128 {
    /// Splits a two's-complement value into its halves.
    #[must_use]
    pub fn new(value: i128) -> Self {
        Self { high: (value >> 64) as i64, low: value as u64 }
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> i128 {
        (i128::from(self.high) << 64) | i128::from(self.low)
    }
}

impl log::Refusal {
    /// A refusal about one field. What a caller sent is cut to 200 characters: refusals are kept and sent in headers.
    #[must_use]
    pub fn new(code: ErrorCode, field: &str, value: impl ToString, message: impl ToString) -> Self {
        Self {
            code: code.as_str().to_owned(),
            field: cut(field, 200),
            value: cut(&value.to_string(), 200),
            message: cut(&message.to_string(), 1_000),
        }
    }
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}
