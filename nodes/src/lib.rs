//! The process: serves, publishes snapshots, observes; and the command line.
//!
//! ```text
//!   clients ── serve, front ─> services ──> host ──> replica ──> log, fold          cluster/
//!                                │            ▲          │
//!                             door (facts)    │       effects ──> publisher ──> Published (ArcSwap)
//!                                │            │          └──────> owners ──> actors
//!                             exposures ──────┘
//! ```
//!
//! See README.md for what is deliberately absent.

pub mod access;
pub mod backup;
pub mod budget;
pub mod caller;
pub mod cli;
pub mod config;
pub mod covariates;
pub mod dimensions;
pub mod doctor;
pub mod door;
pub mod exposition;
pub mod exposures;
pub mod face;
pub mod fixed_point;
pub mod freshness;
pub mod front;
pub mod fronts;
pub mod host;
pub mod http;
pub mod identity;
pub mod membership;
pub mod meter;
pub mod nearest;
pub mod node;
pub mod observation;
pub mod outgoing;
pub mod owners;
pub mod page;
pub mod parting;
pub mod peer_key;
pub mod placement;
pub mod publisher;
pub mod recovery;
pub mod refusal;
pub mod registry;
pub mod replica;
pub mod reply;
pub mod schedules;
pub mod sent;
pub mod serve;
pub mod services;
pub mod slice;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod unit_key;
pub mod view;
pub mod vital;
pub mod webhook;

/// Service stubs generated from `proto/`; the messages are `featureops_proto::v1`.
#[allow(clippy::all, clippy::pedantic, clippy::disallowed_types, missing_docs)]
pub mod rpc {
    include!(concat!(env!("OUT_DIR"), "/featureops.v1.rs"));
}

/// flagd's messages and services, generated from `proto/flagd`.
#[allow(clippy::all, clippy::pedantic, clippy::disallowed_types, missing_docs)]
pub mod flagd {
    pub mod evaluation {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/flagd.evaluation.v1.rs"));
        }
        pub mod v2 {
            include!(concat!(env!("OUT_DIR"), "/flagd.evaluation.v2.rs"));
        }
    }
    pub mod sync {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/flagd.sync.v1.rs"));
        }
    }
    /// For reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flagd.bin"));
}
