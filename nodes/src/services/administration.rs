//! Administration: trips and resumes, alarms, oversight, the audit chain, this node's health.

use std::sync::Arc;

use featureops_proto::log::{self, Done, entry};
use featureops_proto::v1::{
    AuditRecord, AutonomyLevel, AutonomyLevels, BudgetsStatus, Flag, GetBudgetsRequest, GetNodeHealthRequest,
    GetOversightRequest, ListAuditRequest, ListAuditResponse, NodeHealth, Oversight, RaiseAlarmRequest,
    RaiseAlarmResponse, ResumeFlagRequest, SetBudgetsRequest, SetFlagAutonomyRequest, SetOversightRequest,
    TailAuditRequest, ThinnedExperiment, TripFlagRequest, VerifyAuditRequest, VerifyAuditResponse,
};
use featureops_proto::{Collection, environment_of};
use featureops_state::State;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::doctor;
use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::administration_service_server::AdministrationService;
use crate::sent::{Sent, sent};
use crate::services::flag::named_flag;
use crate::services::{Streamed, name, required, text, until_drain};

/// Audit records read in one go.
const AUDIT_READ_MAX: usize = 256;
/// Records that wait for a slow tail.
const TAIL_QUEUE: usize = 256;
/// Most freeze windows of an environment.
const FREEZES_MAX: usize = 64;

/// The service.
pub struct Administration(pub Arc<Host>);

/// The environment of `environments/{environment}/oversight`, or of `environments/{environment}`.
fn oversight_of<'a>(text: &'a str, field: &str) -> Result<&'a str, Status> {
    environment_of(text.strip_suffix("/oversight").unwrap_or(text)).map_err(refusal::bad_name(field))
}

fn check_level(level: i32, field: &str) -> Result<(), Status> {
    AutonomyLevel::try_from(level)
        .map(|_| ())
        .map_err(|_| refusal::invalid(field, level, "is no autonomy level; send A0_OFF to A5_AUTOPILOT"))
}

fn check_levels(levels: Option<&AutonomyLevels>, field: &str) -> Result<(), Status> {
    let Some(levels) = levels else { return Ok(()) };
    check_level(levels.growth, &format!("{field}.growth"))?;
    check_level(levels.protection, &format!("{field}.protection"))
}

/// Raises an alarm: the one way for the gRPC method and the webhook.
///
/// # Errors
/// The request is malformed, refused, or got no answer.
pub async fn raise_alarm(
    host: &Host,
    from: &Sent,
    request: RaiseAlarmRequest,
) -> Result<RaiseAlarmResponse, Status> {
    let parsed = name(&request.name, Collection::Flags, "name")?;
    let (environment, flag) = (parsed.environment.to_owned(), parsed.id.to_owned());
    if request.source.is_empty() {
        return Err(refusal::invalid("source", "", "is empty; name the monitor that raises the alarm"));
    }
    let command = entry::Command::TripFlag(log::TripFlag {
        name: request.name.clone(),
        reason: text(&request.reason, "reason")?,
        alarm: true,
        source: text(&request.source, "source")?,
    });
    let write =
        Write { from, request_id: &request.request_id, validate_only: request.validate_only, command };
    host.write(write, |state, done| {
        let tripped = state.flag(&environment, &flag).is_some_and(|flag| flag.trip.is_some());
        Some(RaiseAlarmResponse { decision: done.decision.clone(), tripped })
    })
    .await
}

#[tonic::async_trait]
impl AdministrationService for Administration {
    async fn trip_flag(&self, request: Request<TripFlagRequest>) -> Result<Response<Flag>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Flags, "name")?;
        let command = entry::Command::TripFlag(log::TripFlag {
            name: request.name,
            reason: text(&request.reason, "reason")?,
            alarm: false,
            source: String::new(),
        });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, named_flag).await.map(Response::new)
    }

    async fn resume_flag(&self, request: Request<ResumeFlagRequest>) -> Result<Response<Flag>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Flags, "name")?;
        let reason = text(&request.reason, "reason")?;
        let command = entry::Command::ResumeFlag(log::ResumeFlag { name: request.name, reason });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, named_flag).await.map(Response::new)
    }

    async fn raise_alarm(
        &self,
        request: Request<RaiseAlarmRequest>,
    ) -> Result<Response<RaiseAlarmResponse>, Status> {
        let (from, request) = sent(request);
        raise_alarm(&self.0, &from, request).await.map(Response::new)
    }

    async fn get_oversight(
        &self,
        request: Request<GetOversightRequest>,
    ) -> Result<Response<Oversight>, Status> {
        let request = request.into_inner();
        let environment = oversight_of(&request.name, "name")?;
        Ok(Response::new(self.0.replica.read(|state| state.oversight(environment))))
    }

    async fn set_oversight(
        &self,
        request: Request<SetOversightRequest>,
    ) -> Result<Response<Oversight>, Status> {
        let (from, request) = sent(request);
        let oversight = required(request.oversight, "oversight")?;
        let environment = oversight_of(&oversight.name, "oversight.name")?.to_owned();
        check_levels(oversight.limits.as_ref(), "oversight.limits")?;
        for (class, level) in &oversight.action_limits {
            check_level(*level, &format!("oversight.action_limits['{}']", refusal::clip(class)))?;
        }
        if oversight.freezes.len() > FREEZES_MAX {
            let count = oversight.freezes.len();
            let way_out = format!("freeze windows; keep at most {FREEZES_MAX}");
            return Err(refusal::invalid("oversight.freezes", count, way_out));
        }
        let oversight = Oversight {
            name: format!("environments/{environment}/oversight"),
            etag: String::new(),
            ..oversight
        };
        let command = entry::Command::SetOversight(log::SetOversight {
            oversight: Some(oversight),
            etag: request.etag,
        });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, |state, _| Some(state.oversight(&environment))).await.map(Response::new)
    }

    async fn get_budgets(&self, _: Request<GetBudgetsRequest>) -> Result<Response<BudgetsStatus>, Status> {
        Ok(Response::new(self.0.replica.read(featureops_state::State::budgets_status)))
    }

    async fn set_budgets(
        &self,
        request: Request<SetBudgetsRequest>,
    ) -> Result<Response<BudgetsStatus>, Status> {
        let (from, request) = sent(request);
        let budgets = required(request.budgets, "budgets")?;
        let command = entry::Command::SetBudgets(log::SetBudgets {
            budgets: Some(budgets),
            thin: request.thin,
            etag: request.etag,
        });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        let answer = |state: &State, done: &Done| {
            let thinned = done.thinned.iter().map(|one| ThinnedExperiment {
                name: one.name.clone(),
                units: one.units,
                kept: f64::from(one.kept_parts) / 256.0,
            });
            let (thinned, thinned_count) = (thinned.collect(), done.thinned_count);
            Some(BudgetsStatus { thinned, thinned_count, ..state.budgets_status() })
        };
        self.0.write(write, answer).await.map(Response::new)
    }

    async fn set_flag_autonomy(
        &self,
        request: Request<SetFlagAutonomyRequest>,
    ) -> Result<Response<Flag>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Flags, "name")?;
        let autonomy = required(request.autonomy, "autonomy")?;
        check_levels(Some(&autonomy), "autonomy")?;
        let command = entry::Command::SetFlagAutonomy(log::SetFlagAutonomy {
            name: request.name,
            autonomy: Some(autonomy),
        });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, named_flag).await.map(Response::new)
    }

    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        let request = request.into_inner();
        let page = Page::of(request.page_size, &request.page_token, &["audit"])?;
        page.before()?;
        let read = |before: &str, limit| {
            self.0.replica.read(|state| state.audit(before.parse().unwrap_or_default(), limit))
        };
        let (records, next_page_token) = page.read(read, |record| record.number.to_string());
        Ok(Response::new(ListAuditResponse { records, next_page_token }))
    }

    type TailAuditStream = Streamed<AuditRecord>;

    async fn tail_audit(
        &self,
        request: Request<TailAuditRequest>,
    ) -> Result<Response<Self::TailAuditStream>, Status> {
        let host = Arc::clone(&self.0);
        let last = host.replica.read(|state| state.audit(0, 1).first().map_or(0, |record| record.number));
        let mut next = match request.into_inner().from {
            0 => last.saturating_add(1),
            from => from,
        };
        let (sender, receiver) = mpsc::channel(TAIL_QUEUE);
        // The published position moves with every applied effect, so it rings for new records too.
        let mut positions = host.publisher.positions();
        tokio::spawn(async move {
            loop {
                positions.mark_unchanged();
                let records = host.replica.read(|state| state.audit_from(next, AUDIT_READ_MAX));
                let full = records.len() >= AUDIT_READ_MAX;
                for record in records {
                    next = record.number.saturating_add(1);
                    // A slow reader makes this task wait, nobody else.
                    if sender.send(Ok(record)).await.is_err() {
                        return;
                    }
                }
                if full {
                    continue;
                }
                tokio::select! {
                    () = sender.closed() => return,
                    changed = positions.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Response::new(until_drain(&self.0, ReceiverStream::new(receiver), None)))
    }

    async fn verify_audit(
        &self,
        _request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        // On a copy: hashing 100,000 records would hold apply for as long.
        let replica = self.0.replica.clone();
        self.0.beside(move || replica.copy().verify_audit()).await.map(Response::new)
    }

    async fn get_node_health(
        &self,
        _request: Request<GetNodeHealthRequest>,
    ) -> Result<Response<NodeHealth>, Status> {
        Ok(Response::new(doctor::look_around(&self.0).await))
    }
}
