//! Reads of the control plane are of what was acknowledged anywhere before them, whichever node is asked.
//!
//! ```text
//!   request ── about evaluation, facts, this node ──────────────────────────────> served
//!           └─ about flags, experiments, decisions ... ── barrier, bounded ─────> served
//!                                                              └ no leader ─────> served, and says that it may be stale
//! ```
//!
//! Writes pass it, too: what they are completed with is read here before the log has them. A node that is alone in its
//! cluster is what there is to know, and waits for nothing.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};

use crate::host::Host;

/// Metadata of an answer that may lack what was acknowledged elsewhere.
pub const STALE: (HeaderName, HeaderValue) =
    (HeaderName::from_static("featureops-stale"), HeaderValue::from_static("true"));
/// Longest wait for a leader that says what is current.
const PATIENCE: Duration = Duration::from_secs(2);
const OURS: &str = "/featureops.v1.";
/// Services and methods that are about this node, or have a door of their own.
const OWN: &[&str] = &[
    "EvaluationService/",
    "FactService/",
    "ClusterService/",
    "BackupService/StreamBackup",
    "UpgradeService/GetUpgradePlan",
    "AdministrationService/GetNodeHealth",
];

/// Waits until the state here is current, as far as the method asks for it; whether it is.
pub async fn reach(host: &Host, path: &str) -> bool {
    let Some(method) = path.strip_prefix(OURS) else { return true };
    if OWN.iter().any(|own| method.starts_with(own)) || host.replica.member().is_alone() {
        return true;
    }
    let reached = tokio::time::timeout(PATIENCE, host.replica.current()).await;
    matches!(reached, Ok(Ok(())))
}
