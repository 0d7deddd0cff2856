//! What a client sent, as far as a request id stands for it.
//!
//! A command is completed on its way into the log: a mask is merged, a seed drawn, a document compiled. So an honest repeat
//! may come into the log completed otherwise, and its content is compared as it was sent: without the id itself, without
//! `validate_only`, without etags (who reads again before repeating has a new one), and without what only the server fills.

use std::sync::Arc;

use featureops_proto::v1::schedule::Action;
use featureops_proto::v1::{self, Flag};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request};
use xxhash_rust::xxh3::xxh3_64;

use crate::access::grant::{Grant, granted};
use crate::services::{backup, environment, experiment, flag, layer, metric, segment, token};

/// A request that changes something.
pub trait Meant: Message + Clone {
    /// Its message's name.
    const KIND: &'static str;

    /// Its id.
    fn request_id(&self) -> &str;

    /// What it means: the part that an honest repeat has in common with it.
    #[must_use]
    fn meant(self) -> Self;
}

/// Whence a command comes, and what was asked for.
#[derive(Debug, Default)]
pub struct Sent {
    /// The request's metadata; it names the principal.
    pub metadata: MetadataMap,
    /// XXH3-64 over what was meant; none without a request id, which nobody compares.
    pub hash: Option<u64>,
    /// What the caller was let in as; it names the principal where there are tokens.
    pub grant: Option<Arc<Grant>>,
}

impl Sent {
    /// That of a request that did not come by gRPC.
    pub fn of(metadata: MetadataMap, extensions: &Extensions, request: &impl Meant) -> Self {
        let hash = (!request.request_id().is_empty()).then(|| hash_of(request.clone()));
        Self { metadata, hash, grant: granted(extensions).cloned() }
    }

    /// The same, told apart by what its secrets were turned into.
    #[must_use]
    pub fn with(self, turned: &impl Message) -> Self {
        Self { hash: self.hash.map(|of_rest| of_rest ^ hash(turned)), ..self }
    }
}

/// Takes a request apart.
pub fn sent<T: Meant>(request: Request<T>) -> (Sent, T) {
    let (metadata, extensions, request) = request.into_parts();
    (Sent::of(metadata, &extensions, &request), request)
}

fn hash(message: &impl Message) -> u64 {
    xxh3_64(&message.encode_to_vec())
}

/// Of a request, told apart from one of another kind with the same fields.
fn hash_of<T: Meant>(request: T) -> u64 {
    hash(&request.meant()) ^ xxh3_64(T::KIND.as_bytes())
}

macro_rules! meant {
    ($($request:ident { $($etag:ident)? $(; $field:ident: $define:expr)? })*) => {$(
        impl Meant for v1::$request {
            const KIND: &'static str = stringify!($request);

            fn request_id(&self) -> &str {
                &self.request_id
            }

            fn meant(mut self) -> Self {
                self.request_id = String::new();
                self.validate_only = false;
                $(self.$etag = String::new();)?
                $(self.$field = self.$field.map($define);)?
                self
            }
        }
    )*};
}

meant! {
    ApproveDecisionRequest {}
    RejectDecisionRequest {}
    RevertDecisionRequest {}
    RaiseAlarmRequest {}
    TripFlagRequest {}
    ResumeFlagRequest {}
    SetBudgetsRequest { etag }
    SetOversightRequest { etag; oversight: |one| v1::Oversight { etag: String::new(), ..one } }
    SetFlagAutonomyRequest {}
    ArchiveFlagRequest { etag }
    RevertFlagRequest { etag }
    SetMetricRequest { etag; metric: metric::definition }
    CreateExperimentRequest { ; experiment: experiment::definition }
    StartExperimentRequest { etag }
    PauseExperimentRequest { etag }
    StopExperimentRequest { etag }
    SetAllocationRequest { etag }
    SetLayerShareRequest { etag }
    SetLayerRequest { etag; layer: layer::definition }
    DeleteLayerRequest { etag }
    SetHoldoutRequest { etag; holdout: layer::holdout_definition }
    DeleteHoldoutRequest { etag }
    SetSegmentRequest { etag; segment: segment::definition }
    DeleteSegmentRequest { etag }
    SetEnvironmentRequest { etag; environment: environment::definition }
    ImportFlagsRequest {}
    PromoteFlagsRequest {}
    CreateScheduleRequest { ; schedule: scheduled }
    CancelScheduleRequest { etag }
    CreateTokenRequest { ; token: token::definition }
    RevokeTokenRequest {}
    RaiseLevelRequest {}
    RecordBackupRequest { ; backup: backup::noted }
    DrainMemberRequest {}
    SetOwnerWeightRequest {}
}

impl Meant for v1::SetFlagRequest {
    const KIND: &'static str = "SetFlagRequest";

    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn meant(mut self) -> Self {
        self.request_id = String::new();
        self.validate_only = false;
        self.etag = String::new();
        // Of a flag written by a mask only what that names was meant: the rest is as it was read.
        let named = self.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
        if !named.is_empty()
            && named.iter().all(|path| path != "*")
            && let Some(written) = self.flag.clone()
        {
            let none = Flag { name: written.name.clone(), ..Flag::default() };
            // What the mask names wrongly is refused further on, under any id.
            self.flag = flag::merge(none, written, named).ok();
        }
        self.flag = self.flag.map(flag::definition);
        self
    }
}

impl Meant for v1::UpdateSegmentUnitsRequest {
    const KIND: &'static str = "UpdateSegmentUnitsRequest";

    fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Without the units: a hash of few of them, in the log, could be tried out. [`Sent::with`] adds them as the log has them.
    fn meant(mut self) -> Self {
        self.request_id = String::new();
        self.validate_only = false;
        self.add.clear();
        self.remove.clear();
        self
    }
}

impl Meant for v1::EraseUnitRequest {
    const KIND: &'static str = "EraseUnitRequest";

    fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Without the unit, as above.
    fn meant(self) -> Self {
        Self { parent: self.parent, ..Self::default() }
    }
}

fn scheduled(mut schedule: v1::Schedule) -> v1::Schedule {
    if let Some(Action::Change(change)) = &mut schedule.action {
        change.flag = change.flag.take().map(flag::definition);
    }
    v1::Schedule {
        name: schedule.name,
        flag: schedule.flag,
        time: schedule.time,
        description: schedule.description,
        action: schedule.action,
        ..v1::Schedule::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_proto::v1::{ImportFlagsRequest, SetFlagRequest, UpdateSegmentUnitsRequest};
    use prost_types::FieldMask;

    #[test]
    fn requests_with_the_same_fields_are_not_taken_for_one_another() {
        let (name, request_id) = ("environments/p/decisions/2".to_owned(), "r".to_owned());
        let approve = v1::ApproveDecisionRequest {
            name: name.clone(),
            request_id: request_id.clone(),
            ..v1::ApproveDecisionRequest::default()
        };
        let reject = v1::RejectDecisionRequest { name, request_id, ..v1::RejectDecisionRequest::default() };
        assert_eq!(approve.encode_to_vec(), reject.encode_to_vec());
        assert_ne!(hash_of(approve), hash_of(reject));
    }

    fn hash_of(request: impl Meant) -> u64 {
        sent(Request::new(request)).0.hash.unwrap()
    }

    fn set(flag: Flag) -> SetFlagRequest {
        SetFlagRequest { flag: Some(flag), request_id: "r".into(), ..SetFlagRequest::default() }
    }

    #[test]
    fn what_the_server_fills_is_no_content_and_what_a_person_says_is() {
        let flag = Flag { name: "environments/p/flags/f".into(), owner: "a".into(), ..Flag::default() };
        let first = hash_of(set(flag.clone()));
        let filled = Flag { flag_version: 7, etag: "e".into(), archived: true, ..flag.clone() };
        let again = SetFlagRequest { etag: "e".into(), validate_only: true, ..set(filled) };
        assert_eq!(hash_of(again), first);
        assert_ne!(hash_of(set(Flag { owner: "b".into(), ..flag })), first);
        assert_eq!(sent(Request::new(SetFlagRequest::default())).0.hash, None);
    }

    #[test]
    fn of_a_masked_write_what_the_mask_names_counts() {
        let masked = |owner: &str, description: &str| {
            let flag = Flag {
                name: "environments/p/flags/f".into(),
                owner: owner.into(),
                description: description.into(),
                ..Flag::default()
            };
            hash_of(SetFlagRequest {
                update_mask: Some(FieldMask { paths: vec!["owner".into()] }),
                ..set(flag)
            })
        };
        assert_eq!(masked("a", "as read once"), masked("a", "as read later"));
        assert_ne!(masked("a", ""), masked("b", ""));
    }

    #[test]
    fn units_count_as_the_log_has_them_and_a_document_as_it_was_sent() {
        let units = |add: &str| UpdateSegmentUnitsRequest {
            add: vec![add.into()],
            request_id: "r".into(),
            ..UpdateSegmentUnitsRequest::default()
        };
        assert_eq!(hash_of(units("ada")), hash_of(units("bob")), "nothing of a unit by itself");
        let with = |add: &str, hash: u64| {
            let change = featureops_proto::log::UpdateSegmentUnits { add: vec![hash], ..Default::default() };
            sent(Request::new(units(add))).0.with(&change).hash
        };
        assert!(with("ada", 1) == with("ada", 1) && with("ada", 1) != with("bob", 2));
        let import = |document: &str| {
            hash_of(ImportFlagsRequest {
                document: document.into(),
                request_id: "r".into(),
                ..ImportFlagsRequest::default()
            })
        };
        assert_ne!(import("{}"), import("{ }"));
    }
}
