//! The check: what a node says, against what its callers were told. Every difference is a sentence.

use featureops_proto::v1::{
    ExperimentStatus, GetExperimentStatusRequest, ListFlagVersionsRequest, VerifyAuditRequest,
};
use tonic::Status;

use crate::client::Client;
use crate::http;
use crate::load::{ARMS, Counts, ENVIRONMENT, EXPERIMENT, Known};

/// Versions of a flag that a node keeps.
const VERSIONS_KEPT: usize = 100;

/// What the node counted.
///
/// # Errors
/// It does not answer.
pub async fn counted(client: &Client) -> Result<Counts, Status> {
    let name = format!("{ENVIRONMENT}/experiments/{EXPERIMENT}");
    let request = GetExperimentStatusRequest { name };
    Ok(counts_of(&client.experiments.clone().get_experiment_status(request).await?.into_inner()))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn counts_of(status: &ExperimentStatus) -> Counts {
    let mut counts = Counts::default();
    for (index, arm) in status.arms.iter().enumerate().take(ARMS.len()) {
        counts.units[index] = arm.units;
        for metric in &arm.metrics {
            let total = metric.total;
            match metric.metric.as_str() {
                "orders" => counts.orders[index] = total.round() as u64,
                "revenue" => counts.revenue_cents[index] = (total * 100.0).round() as u64,
                "converted" => counts.converted[index] = total.round() as u64,
                _ => {}
            }
        }
    }
    counts
}

/// Compares counts: nothing below `least`, nothing above `most`.
fn compare(held: &Counts, least: &Counts, most: &Counts, faults: &mut Vec<String>) {
    let rows = [
        ("units", held.units, least.units, most.units),
        ("orders", held.orders, least.orders, most.orders),
        ("revenue", held.revenue_cents, least.revenue_cents, most.revenue_cents),
        ("converted", held.converted, least.converted, most.converted),
    ];
    for (what, held, least, most) in rows {
        for (arm, variant) in ARMS.iter().enumerate() {
            if held[arm] < least[arm] {
                faults.push(format!(
                    "lost: {what} of {variant}: {} held, {} acknowledged",
                    held[arm], least[arm]
                ));
            }
            if held[arm] > most[arm] {
                faults.push(format!("too many: {what} of {variant}: {} held, {} sent", held[arm], most[arm]));
            }
        }
    }
}

/// What is wrong with the node, given what was known before (`before`) and after (`after`) it is asked.
///
/// With `settled`, no write is under way and the two are the same: then counts and versions must be equal.
pub async fn faults(client: &Client, before: &Known, after: impl Fn() -> Known) -> Vec<String> {
    let mut faults = Vec::new();
    match counted(client).await {
        Ok(held) => compare(&held, &before.acknowledged, &after().sent, &mut faults),
        Err(status) => faults.push(format!("lost: status of the experiment: {status}")),
    }
    for (flag, written) in &before.flags {
        let request = ListFlagVersionsRequest {
            name: format!("{ENVIRONMENT}/flags/{flag}"),
            page_size: 1_000,
            ..ListFlagVersionsRequest::default()
        };
        let versions = match client.flags.clone().list_flag_versions(request).await {
            Ok(answer) => answer.into_inner().versions,
            Err(status) => {
                faults.push(format!("lost: versions of {flag}: {status}"));
                continue;
            }
        };
        let newest = versions.first().map_or(0, |version| version.flag_version);
        // One write of this writer was under way at most when it was asked; how many were answered by then is known now.
        let answered = after().flags.get(flag).and_then(|written| written.keys().next_back().copied());
        let last = answered.unwrap_or(0);
        if newest > last + 1 {
            faults.push(format!("too many: {flag} is at version {newest}, {last} acknowledged"));
        }
        let kept = |version: u64| version + VERSIONS_KEPT as u64 > newest + 1;
        for (version, description) in written.iter().filter(|(version, _)| kept(**version)) {
            let held = versions.iter().find(|held| held.flag_version == *version);
            let held = held.and_then(|held| held.definition.as_ref()).map(|flag| flag.description.as_str());
            if held != Some(description) {
                faults.push(format!("lost: {flag} version {version}: '{description}', held {held:?}"));
            }
        }
    }
    match client.administration.clone().verify_audit(VerifyAuditRequest {}).await {
        Ok(answer) => {
            let audit = answer.into_inner();
            if !audit.intact {
                faults.push(format!("audit: {}", audit.fault));
            }
            if audit.last < before.audit {
                faults.push(format!("lost: audit ends at {}, {} was seen", audit.last, before.audit));
            }
        }
        Err(status) => faults.push(format!("lost: audit: {status}")),
    }
    faults.extend(before.faults.iter().cloned());
    faults
}

/// What is wrong when nothing is under way: every count and version must be exactly what was acknowledged.
pub async fn settled(client: &Client, known: &Known) -> Vec<String> {
    let mut faults = faults(client, known, || known.clone()).await;
    if known.sent != known.acknowledged {
        faults.push("unanswered: a batch never got an answer".to_owned());
    }
    for (flag, written) in &known.flags {
        let versions = written.len() as u64;
        let last = written.keys().next_back().copied().unwrap_or(0);
        if versions != last {
            faults.push(format!("twice: {flag} is at version {last} after {versions} writes"));
        }
    }
    faults
}

/// The last audit record's number.
///
/// # Errors
/// The node does not answer.
pub async fn audit_end(client: &Client) -> Result<u64, Status> {
    Ok(client.administration.clone().verify_audit(VerifyAuditRequest {}).await?.into_inner().last)
}

/// Waits until the node has applied the log up to `position`, as its metrics say.
///
/// # Panics
/// It has not after `patience`.
pub async fn applied(port: u16, position: u64, patience: std::time::Duration) {
    let begin = std::time::Instant::now();
    let mut reached = 0;
    while reached < position {
        assert!(begin.elapsed() < patience, "only {reached} of {position} entries after {patience:?}");
        if let Ok(metrics) = http::get(port, "/metrics").await {
            let line = metrics.body.lines().find(|line| line.starts_with("featureops_applied_position "));
            let text = line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
            reached = text.parse().unwrap_or(reached);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
