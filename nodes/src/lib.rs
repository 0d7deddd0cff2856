//! The process: serves, publishes snapshots, observes; and the command line.

/// Service stubs generated from `proto/`; the messages are `featureops_proto::v1`.
#[allow(clippy::all, clippy::pedantic, clippy::disallowed_types, missing_docs)]
pub mod rpc {
    include!(concat!(env!("OUT_DIR"), "/featureops.v1.rs"));
}
