//! A flag's life over the wire: written, read, listed, evaluated, explained, reverted, archived.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use featureops_proto::v1::{
    ArchiveFlagRequest, EvaluateAllRequest, EvaluationError, ExplainRequest, GetFlagRequest,
    ListFlagVersionsRequest, ListFlagsRequest, Reason, RevertFlagRequest, SetFlagRequest, ValueType,
};
use prost_types::{FieldMask, Value, value::Kind};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use world::{World, checkout, context, evaluate, set};

#[tokio::test]
async fn a_flag_is_written_read_back_and_evaluated_at_once() {
    let world = World::start().await;
    let mut request = Request::new(set(checkout()));
    request.metadata_mut().insert("featureops-principal", "human:ada".parse().unwrap());
    let written = world.flags().set_flag(request).await.unwrap().into_inner();
    assert_eq!(written.flag_version, 1);
    assert!(!written.etag.is_empty());

    let name = written.name.clone();
    let read = world.flags().get_flag(GetFlagRequest { name: name.clone() }).await.unwrap().into_inner();
    assert_eq!(read, written);

    // Read-your-writes: the evaluation right after the answer sees it.
    let answer = world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap().into_inner();
    assert_eq!(answer.value.clone().and_then(|value| value.kind), Some(Kind::BoolValue(false)));
    assert_eq!((answer.reason(), answer.flag_version), (Reason::Static, 1));
    assert!(answer.receipt.is_empty());

    let versions = ListFlagVersionsRequest { name, ..Default::default() };
    let versions = world.flags().list_flag_versions(versions).await.unwrap().into_inner().versions;
    assert_eq!(versions[0].principal.as_ref().unwrap().id, "ada");
}

#[tokio::test]
async fn etags_masks_dry_runs_and_request_ids_guard_a_write() {
    let world = World::start().await;
    let first = world.flags().set_flag(set(checkout())).await.unwrap().into_inner();

    let rehearsed = SetFlagRequest { validate_only: true, ..set(checkout()) };
    let mut changed = checkout();
    changed.description = "new".into();
    let would =
        world.flags().set_flag(SetFlagRequest { flag: Some(changed.clone()), ..rehearsed }).await.unwrap();
    assert_eq!(would.into_inner().flag_version, 2);
    let held = GetFlagRequest { name: first.name.clone() };
    assert_eq!(world.flags().get_flag(held.clone()).await.unwrap().into_inner(), first);

    let once = SetFlagRequest { request_id: "r-1".into(), etag: first.etag.clone(), ..set(changed) };
    let second = world.flags().set_flag(once.clone()).await.unwrap().into_inner();
    assert_eq!((second.flag_version, second.description.as_str()), (2, "new"));
    let again = world.flags().set_flag(once.clone()).await.unwrap().into_inner();
    assert_eq!(again.flag_version, 2);
    // Read again before it was repeated: the server's fields and the etag are others, and what is meant is the same.
    let reread = SetFlagRequest { flag: Some(again.clone()), etag: again.etag, ..once.clone() };
    assert_eq!(world.flags().set_flag(reread).await.unwrap().into_inner().flag_version, 2);
    let mut other = checkout();
    other.description = "other".into();
    let other = SetFlagRequest { flag: Some(other), ..once.clone() };
    let refused = world.flags().set_flag(other.clone()).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "CONTENT_MISMATCH");
    assert!(refused.message().contains("request_id") && refused.message().contains("new id"), "{refused}");
    let rehearsed = SetFlagRequest { validate_only: true, etag: String::new(), ..other };
    let refused = world.flags().set_flag(rehearsed.clone()).await.unwrap_err();
    assert_eq!(
        refused.get_details_error_info().unwrap().reason,
        "CONTENT_MISMATCH",
        "rehearsed as it would be"
    );
    let rehearsed = SetFlagRequest { request_id: "r-2".into(), ..rehearsed };
    assert_eq!(world.flags().set_flag(rehearsed).await.unwrap().into_inner().flag_version, 3);
    assert_eq!(world.flags().set_flag(once).await.unwrap().into_inner().flag_version, 2);

    let stale = SetFlagRequest { etag: first.etag, ..set(checkout()) };
    let refused = world.flags().set_flag(stale).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "ETAG_MISMATCH");

    let mut masked = checkout();
    masked.owner = "growth".into();
    let mask = |paths: &[&str]| FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
    let partial =
        SetFlagRequest { flag: Some(masked), update_mask: Some(mask(&["owner"])), ..Default::default() };
    let third = world.flags().set_flag(partial.clone()).await.unwrap().into_inner();
    assert_eq!((third.owner.as_str(), third.description.as_str()), ("growth", "new"));
    let unknown = SetFlagRequest { update_mask: Some(mask(&["trip"])), ..partial };
    assert_eq!(world.flags().set_flag(unknown).await.unwrap_err().code(), Code::InvalidArgument);

    let back = RevertFlagRequest { name: held.name.clone(), to_version: 1, ..Default::default() };
    let reverted = world.flags().revert_flag(back).await.unwrap().into_inner();
    assert_eq!((reverted.flag_version, reverted.description.as_str()), (4, ""));
    let mut whole = checkout();
    whole.description = "whole".into();
    let written = SetFlagRequest { update_mask: Some(mask(&[])), ..set(whole) };
    let written = world.flags().set_flag(written).await.unwrap().into_inner();
    assert_eq!((written.flag_version, written.description.as_str()), (5, "whole"), "no path is no mask");
    let archive = ArchiveFlagRequest { name: held.name, ..Default::default() };
    assert!(world.flags().archive_flag(archive).await.unwrap().into_inner().archived);
    let gone = world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap().into_inner();
    assert_eq!(gone.error(), EvaluationError::FlagNotFound);
}

#[tokio::test]
async fn a_definition_that_cannot_be_served_is_refused_with_its_path() {
    let world = World::start().await;
    let mut flag = checkout();
    flag.default_variant = Some("neither".into());
    let refused = world.flags().set_flag(set(flag)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "flag.default_variant");
    assert!(violations[0].description.contains("neither"), "{}", violations[0].description);

    let mut stranger = Request::new(set(checkout()));
    stranger.metadata_mut().insert("featureops-principal", "system:root".parse().unwrap());
    assert_eq!(world.flags().set_flag(stranger).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_list_is_walked_by_its_tokens_and_by_no_others() {
    let world = World::start().await;
    for index in 0..5 {
        let mut flag = checkout();
        flag.name = format!("environments/test/flags/f{index}");
        world.flags().set_flag(set(flag)).await.unwrap();
    }
    let (mut token, mut names) = (String::new(), Vec::new());
    loop {
        let request = ListFlagsRequest {
            parent: "environments/test".into(),
            page_size: 2,
            page_token: token,
            show_archived: false,
        };
        let page = world.flags().list_flags(request).await.unwrap().into_inner();
        names.extend(page.flags.into_iter().map(|flag| flag.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), 5);
    for (page_size, page_token) in [(2, "nonsense"), (-1, "")] {
        let request = ListFlagsRequest {
            parent: "environments/test".into(),
            page_size,
            page_token: page_token.into(),
            show_archived: false,
        };
        assert_eq!(world.flags().list_flags(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn evaluation_answers_in_every_way_it_is_asked() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();

    let mut typed = evaluate("checkout", "ada");
    typed.expected_type = ValueType::String.into();
    let mismatch = world.evaluation().evaluate(typed).await.unwrap().into_inner();
    assert_eq!((mismatch.error(), mismatch.value.clone()), (EvaluationError::TypeMismatch, None));

    let all = EvaluateAllRequest {
        environment: "environments/test".into(),
        context: Some(context(&[("targetingKey", "ada")])),
        no_exposure: false,
    };
    let all = world.evaluation().evaluate_all(all).await.unwrap().into_inner().evaluations;
    assert_eq!(all.iter().map(|one| one.flag.as_str()).collect::<Vec<_>>(), ["checkout"]);

    let mut odd = evaluate("checkout", "ada");
    odd.expected_type = 77;
    let requests = tokio_stream::iter([evaluate("checkout", "ada"), odd, evaluate("nothing", "ada")]);
    let mut answers = world.evaluation().evaluate_stream(requests).await.unwrap().into_inner();
    let mut errors = Vec::new();
    while let Some(answer) = answers.next().await {
        errors.push(answer.unwrap().error());
    }
    use EvaluationError as E;
    assert_eq!(errors, [E::Unspecified, E::General, E::FlagNotFound]);

    let explain = ExplainRequest {
        environment: "test".into(),
        flag: "checkout".into(),
        context: Some(prost_types::Struct { fields: [("x".to_owned(), Value::from(1.0))].into() }),
    };
    let explained = world.evaluation().explain(explain).await.unwrap().into_inner();
    assert_eq!(explained.evaluation.unwrap().variant.as_deref(), Some("off"));
    assert!(explained.steps.iter().any(|step| step.subject == "default"));
}
