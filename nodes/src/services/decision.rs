//! Decisions: read, listed, resolved by a person, replayed.

use std::sync::Arc;

use featureops_proto::log::resolve_decision::Resolution;
use featureops_proto::log::{self, entry};
use featureops_proto::v1::{
    ApproveDecisionRequest, Decision, GetDecisionRequest, ListDecisionsRequest, ListDecisionsResponse,
    RejectDecisionRequest, ReplayDecisionRequest, ReplayDecisionResponse, RevertDecisionRequest, decision,
};
use featureops_proto::{Collection, Name, environment_of, id_of};
use featureops_state::State;
use tonic::{Request, Response, Status};

use crate::access::grant::granted;
use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::decision_service_server::DecisionService;
use crate::sent::{Sent, sent};
use crate::services::{name, text};

/// The service.
pub struct Decisions(pub Arc<Host>);

/// The decision of a name, as State has it.
pub fn named_decision(state: &State, text: &str) -> Option<Decision> {
    let name = Name::parse(text, Collection::Decisions).ok()?;
    state.decision(name.environment, name.id.parse().ok()?)
}

impl Decisions {
    fn find(&self, text: &str) -> Result<Decision, Status> {
        let parsed = name(text, Collection::Decisions, "name")?;
        if parsed.id.parse::<u64>().is_err() {
            return Err(refusal::invalid("name", text, "must end with a decision's number"));
        }
        let found = self.0.replica.read(|state| named_decision(state, text));
        found.ok_or_else(|| refusal::not_found("name", text))
    }

    async fn resolve(
        &self,
        from: &Sent,
        resolution: Resolution,
        (decision, note, request_id, validate_only): (String, String, String, bool),
    ) -> Result<Response<Decision>, Status> {
        self.find(&decision)?;
        let command = entry::Command::ResolveDecision(log::ResolveDecision {
            name: decision.clone(),
            resolution: resolution.into(),
            note: text(&note, "note")?,
        });
        let write = Write { from, request_id: &request_id, validate_only, command };
        self.0.write(write, |state, _| named_decision(state, &decision)).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl DecisionService for Decisions {
    async fn get_decision(&self, request: Request<GetDecisionRequest>) -> Result<Response<Decision>, Status> {
        self.find(&request.into_inner().name).map(Response::new)
    }

    async fn list_decisions(
        &self,
        request: Request<ListDecisionsRequest>,
    ) -> Result<Response<ListDecisionsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let status = decision::Status::try_from(request.status).map_err(|_| {
            refusal::invalid("status", request.status, "is no status of a decision; leave it out for all")
        })?;
        if request.flag.len() > 128 {
            return Err(refusal::invalid("flag", &request.flag, "is no flag's key"));
        }
        let scope = ["decisions", environment, &request.flag, status.as_str_name()];
        let page = Page::of(request.page_size, &request.page_token, &scope)?;
        page.before()?;
        let read = |before: &str, limit| {
            let before = before.parse().unwrap_or_default();
            self.0.replica.read(|state| state.decisions(environment, &request.flag, before, limit, status))
        };
        let (mut decisions, next_page_token) =
            page.read(read, |decision| id_of(&decision.name, Collection::Decisions).to_owned());
        if let Some(grant) = granted(&extensions) {
            decisions.retain(|decision| grant.covers_flag(&decision.flag));
        }
        Ok(Response::new(ListDecisionsResponse { decisions, next_page_token }))
    }

    async fn approve_decision(
        &self,
        request: Request<ApproveDecisionRequest>,
    ) -> Result<Response<Decision>, Status> {
        let (from, request) = sent(request);
        let what = (request.name, request.note, request.request_id, request.validate_only);
        self.resolve(&from, Resolution::Approve, what).await
    }

    async fn reject_decision(
        &self,
        request: Request<RejectDecisionRequest>,
    ) -> Result<Response<Decision>, Status> {
        let (from, request) = sent(request);
        let what = (request.name, request.note, request.request_id, request.validate_only);
        self.resolve(&from, Resolution::Reject, what).await
    }

    async fn revert_decision(
        &self,
        request: Request<RevertDecisionRequest>,
    ) -> Result<Response<Decision>, Status> {
        let (from, request) = sent(request);
        let what = (request.name, request.note, request.request_id, request.validate_only);
        self.resolve(&from, Resolution::Revert, what).await
    }

    async fn replay_decision(
        &self,
        request: Request<ReplayDecisionRequest>,
    ) -> Result<Response<ReplayDecisionResponse>, Status> {
        let recorded = self.find(&request.into_inner().name)?;
        self.0.beside(move || crate::owners::replay(recorded)).await.map(Response::new)
    }
}
