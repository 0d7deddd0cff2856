//! `doctor`: asks the node how it is, and prints the way out of what is wrong.

use featureops_proto::v1;

use super::failure::{Exit, Failure};
use super::page::{Cell, Tone};
use super::render::count_text;
use super::session::Session;
use super::span::moment_text;
use crate::rpc::administration_service_client::AdministrationServiceClient;

/// Reads the node's health.
pub async fn fetch(session: &Session) -> Result<v1::NodeHealth, Failure> {
    session
        .client
        .read(v1::GetNodeHealthRequest {}, |channel, request| async move {
            AdministrationServiceClient::new(channel).get_node_health(request).await
        })
        .await
}

pub async fn run(session: &Session) -> Result<(), Failure> {
    let health = fetch(session).await?;
    session.show(&health, |page| {
        let (word, tone) = if health.ready { ("ready", Tone::Good) } else { ("NOT ready", Tone::Bad) };
        page.line(tone, format!("node {} at {} is {word}", health.node, session.settings.server));
        page.facts([
            ("version", health.version.clone()),
            ("position", health.position.clone()),
            ("log time", moment_text(health.log_time.as_ref())),
            ("flags", count_text(health.flags)),
            ("running", format!("{} experiments", count_text(health.running_experiments))),
            ("memory", format!("{} MiB", count_text(health.resident_bytes / 1_048_576))),
        ]);
        page.heading("Checks");
        let rows = health
            .checks
            .iter()
            .map(|check| {
                let (word, tone) = if check.ok { ("ok", Tone::Good) } else { ("FAILED", Tone::Bad) };
                vec![Cell::new(&check.name), Cell::new(word).tone(tone), Cell::new(&check.detail)]
            })
            .collect();
        page.table(&["CHECK", "RESULT", "DETAIL"], rows, "the node reports no checks");
    })?;
    let failed: Vec<_> = health.checks.iter().filter(|check| !check.ok).collect();
    if health.ready && failed.is_empty() {
        return Ok(());
    }
    let mut failure =
        Failure::new(Exit::Refused, format!("{} of {} checks failed", failed.len(), health.checks.len()));
    if failed.is_empty() {
        failure.message = "the node is not ready".to_owned();
    }
    for check in failed {
        let remedy = if check.remedy.is_empty() { &check.detail } else { &check.remedy };
        failure = failure.note(format!("{}: {remedy}", check.name));
    }
    Err(failure)
}
