//! Segments: read, listed, written, deleted; their lists changed; and asked whether a unit is in one.
//!
//! Units come in as texts and end here: what goes on, into the log too, are their keyed hashes.

use std::collections::BTreeSet;
use std::sync::Arc;

use featureops_evaluation::limits::{MAX_CONTEXT_BYTES, MAX_UNIT_BYTES};
use featureops_evaluation::{UnitKey, check_segment, explain_segment};
use featureops_proto::log::{self, Done, entry};
use featureops_proto::v1::{
    DeleteSegmentRequest, DeleteSegmentResponse, GetSegmentRequest, ListSegmentsRequest,
    ListSegmentsResponse, Segment, SetSegmentRequest, TestSegmentRequest, TestSegmentResponse,
    UpdateSegmentUnitsRequest, UpdateSegmentUnitsResponse,
};
use featureops_proto::{Collection, Name, environment_of, id_of};
use featureops_state::{MAX_SEGMENT_UNITS_CHANGED, State};
use prost::Message as _;
use prost_types::Struct;
use tonic::{Request, Response, Status};

use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::segment_service_server::SegmentService;
use crate::sent::sent;
use crate::services::{name, required};
use crate::view::View;

/// The service.
pub struct Segments(pub Arc<Host>);

fn named(state: &State, done: &Done) -> Option<Segment> {
    let name = Name::parse(&done.name, Collection::Segments).ok()?;
    state.segment(name.environment, name.id)
}

#[tonic::async_trait]
impl SegmentService for Segments {
    async fn get_segment(&self, request: Request<GetSegmentRequest>) -> Result<Response<Segment>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Segments, "name")?;
        let segment = self.0.replica.read(|state| state.segment(name.environment, name.id));
        segment.map(Response::new).ok_or_else(|| refusal::not_found("name", &request.name))
    }

    async fn list_segments(
        &self,
        request: Request<ListSegmentsRequest>,
    ) -> Result<Response<ListSegmentsResponse>, Status> {
        let request = request.into_inner();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let page = Page::of(request.page_size, &request.page_token, &["segments", environment])?;
        let read =
            |after: &str, limit| self.0.replica.read(|state| state.segments(environment, after, limit));
        let (segments, next_page_token) =
            page.read(read, |segment| id_of(&segment.name, Collection::Segments).to_owned());
        Ok(Response::new(ListSegmentsResponse { segments, next_page_token }))
    }

    async fn set_segment(&self, request: Request<SetSegmentRequest>) -> Result<Response<Segment>, Status> {
        let (from, request) = sent(request);
        let segment = required(request.segment, "segment")?;
        name(&segment.name, Collection::Segments, "segment.name")?;
        check_segment(&segment).map_err(|error| {
            refusal::invalid(&format!("segment.{}", error.path), &error.value, &error.message)
        })?;
        let segment = Some(definition(segment));
        let command = entry::Command::SetSegment(log::SetSegment { segment, etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, named).await.map(Response::new)
    }

    async fn delete_segment(
        &self,
        request: Request<DeleteSegmentRequest>,
    ) -> Result<Response<DeleteSegmentResponse>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Segments, "name")?;
        let command =
            entry::Command::DeleteSegment(log::DeleteSegment { name: request.name, etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, |_, _| Some(DeleteSegmentResponse {})).await.map(Response::new)
    }

    async fn update_segment_units(
        &self,
        request: Request<UpdateSegmentUnitsRequest>,
    ) -> Result<Response<UpdateSegmentUnitsResponse>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Segments, "name")?;
        let key = self.0.unit_key()?;
        let change = hashed(key, &request)?;
        let from = from.with(&change);
        let command = entry::Command::UpdateSegmentUnits(change);
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        let answer = |_: &State, done: &Done| {
            let told = done.segment_units?;
            let (added, removed, unit_count) = (told.added, told.removed, told.unit_count);
            Some(UpdateSegmentUnitsResponse { added, removed, unit_count })
        };
        self.0.write(write, answer).await.map(Response::new)
    }

    async fn test_segment(
        &self,
        request: Request<TestSegmentRequest>,
    ) -> Result<Response<TestSegmentResponse>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Segments, "name")?;
        let attributes = request.context.unwrap_or_default();
        bounded(&attributes)?;
        let published = self.0.publisher.load();
        let view = View::new(&self.0, &published, name.environment);
        let context = view.context(&attributes);
        let found = explain_segment(&published.snapshot, name.environment, name.id, &context);
        let (contained, steps) = found.ok_or_else(|| refusal::not_found("name", &request.name))?;
        Ok(Response::new(TestSegmentResponse { contained, steps }))
    }
}

/// What clauses read of a context is bounded by its size.
fn bounded(context: &Struct) -> Result<(), Status> {
    let bytes = context.encoded_len();
    if bytes <= MAX_CONTEXT_BYTES {
        return Ok(());
    }
    let way_out = format!(
        "bytes encoded, over the bound of {MAX_CONTEXT_BYTES}: send the attributes that clauses look at"
    );
    Err(refusal::invalid("context", bytes, way_out))
}

/// What a person defines of a segment; all that the log adds is left out.
pub fn definition(segment: Segment) -> Segment {
    Segment {
        segment_version: 0,
        etag: String::new(),
        create_time: None,
        update_time: None,
        unit_count: 0,
        used_by_flags: Vec::new(),
        used_by_segments: Vec::new(),
        ..segment
    }
}

/// The change as the log takes it. What a caller sent is not shown back: units are nobody else's business.
fn hashed(key: &UnitKey, request: &UpdateSegmentUnitsRequest) -> Result<log::UpdateSegmentUnits, Status> {
    let count = request.add.len() + request.remove.len();
    if count == 0 {
        return Err(refusal::invalid("add", "", "names no unit, and neither does remove; name one at least"));
    }
    if count > MAX_SEGMENT_UNITS_CHANGED {
        let way_out =
            format!("units, at most {MAX_SEGMENT_UNITS_CHANGED} at once: send the others after them");
        return Err(refusal::invalid("add", count, way_out));
    }
    let hashes = |field: &str, units: &[String]| {
        let one = |(at, unit): (usize, &String)| {
            if unit.is_empty() || unit.len() > MAX_UNIT_BYTES {
                let way_out = format!("bytes: a unit has 1 to {MAX_UNIT_BYTES}");
                return Err(refusal::invalid(&format!("{field}[{at}]"), unit.len(), way_out));
            }
            Ok(key.hash(unit.as_bytes()))
        };
        units.iter().enumerate().map(one).collect::<Result<Vec<u64>, Status>>()
    };
    let (add, remove) = (hashes("add", &request.add)?, hashes("remove", &request.remove)?);
    let added: BTreeSet<u64> = add.iter().copied().collect();
    if let Some(at) = remove.iter().position(|hash| added.contains(hash)) {
        let field = format!("remove[{at}]");
        return Err(refusal::invalid(&field, "", "is to be added too: name a unit once"));
    }
    Ok(log::UpdateSegmentUnits { name: request.name.clone(), unit_key_id: key.id(), add, remove })
}
