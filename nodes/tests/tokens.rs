//! Tokens at the door: who is let in, as whom, for what; and what the hostile get.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use std::time::Duration;

use featureops::config::NodeConfig;
use featureops::rpc::administration_service_client::AdministrationServiceClient;
use featureops::rpc::decision_service_client::DecisionServiceClient;
use featureops::rpc::environment_service_client::EnvironmentServiceClient;
use featureops::rpc::evaluation_service_client::EvaluationServiceClient;
use featureops::rpc::fact_service_client::FactServiceClient;
use featureops::rpc::flag_service_client::FlagServiceClient;
use featureops::rpc::token_service_client::TokenServiceClient;
use featureops_proto::timestamp;
use featureops_proto::v1::principal::Kind;
use featureops_proto::v1::token::Role;
use featureops_proto::v1::{
    CreateTokenRequest, EvaluateAllRequest, FactBatch, ListAuditRequest, ListEnvironmentsRequest,
    ListFlagsRequest, ListTokensRequest, RevokeTokenRequest, TailAuditRequest, Token,
};
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind as FieldKind, MessageDescriptor, Value};
use serde_json::json;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use world::{World, checkout, evaluate, set};

/// A channel that shows a token, or nothing.
type Shown = InterceptedService<Channel, Show>;

#[derive(Clone)]
struct Show(String);

impl tonic::service::Interceptor for Show {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            let value: MetadataValue<_> = format!("Bearer {}", self.0).parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        // What it says of itself must not count.
        request.metadata_mut().insert("featureops-principal", "human:somebody-else".parse().unwrap());
        Ok(request)
    }
}

fn shown(world: &World, secret: &str) -> Shown {
    InterceptedService::new(world.channel.clone(), Show(secret.to_owned()))
}

fn token(id: &str, roles: &[Role]) -> Token {
    let roles = roles.iter().map(|role| *role as i32).collect();
    Token { name: format!("tokens/{id}"), roles, ..Token::default() }
}

/// Makes a token in the name of another; its secret.
async fn create(world: &World, admin: &str, token: Token) -> Result<String, Status> {
    let request = CreateTokenRequest { token: Some(token), ..Default::default() };
    let made = TokenServiceClient::new(shown(world, admin)).create_token(request).await?;
    Ok(made.into_inner().secret)
}

/// A node with a flag and an admin.
async fn started(set_up: impl FnOnce(&mut NodeConfig)) -> (World, String) {
    let world = World::start_set(set_up).await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let root = create(&world, "", token("root", &[Role::Admin])).await.unwrap();
    (world, root)
}

fn closed(config: &mut NodeConfig) {
    config.set("flag", "anonymous_evaluation", "none").unwrap();
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

async fn list(world: &World, secret: &str) -> Result<(), Status> {
    let request = ListFlagsRequest { parent: "environments/test".into(), ..Default::default() };
    FlagServiceClient::new(shown(world, secret)).list_flags(request).await.map(drop)
}

#[tokio::test]
async fn from_the_first_token_on_everybody_needs_one() {
    let world = World::start_set(closed).await;
    list(&world, "").await.unwrap();
    let root = create(&world, "", token("root", &[Role::Admin])).await.unwrap();
    assert!(root.starts_with("fo_") && root.len() == 84, "{}", root.len());
    let turned_away = list(&world, "").await.unwrap_err();
    assert_eq!((turned_away.code(), reason(&turned_away).as_str()), (Code::Unauthenticated, "TOKEN_MISSING"));
    list(&world, &root).await.unwrap();
    // Health needs none; the rest of HTTP neither, as far as nothing is told.
    assert_eq!(world.get("/livez").await.0, 200);
    assert_eq!(world.get("/readyz").await.0, 200);
    // Not what it said, but what it showed.
    FlagServiceClient::new(shown(&world, &root)).set_flag(set(checkout())).await.unwrap();
    let mut administration = AdministrationServiceClient::new(shown(&world, &root));
    let records = administration.list_audit(ListAuditRequest::default()).await.unwrap().into_inner().records;
    let by = records[0].principal.clone().unwrap();
    assert_eq!((by.kind(), by.id.as_str(), by.verified), (Kind::Human, "root", true));
    assert!(records.iter().any(|record| record.action == "token.create"));
    assert!(records.iter().all(|record| !record.detail.contains("fo_")));
}

#[tokio::test]
async fn a_wrong_an_expired_and_a_foreign_token_are_turned_away() {
    let (world, root) = started(closed).await;
    let (other, foreign) = started(closed).await;
    let log_ms = |world: &World| featureops_proto::unix_ms(&world.node.examine().log_time.unwrap());
    let ending =
        Token { expire_time: Some(timestamp(log_ms(&world) + 1_500)), ..token("guest", &[Role::View]) };
    let guest = create(&world, &root, ending).await.unwrap();
    list(&world, &guest).await.unwrap();
    let mut flipped = root.clone();
    let last = if flipped.pop() == Some('0') { '1' } else { '0' };
    flipped.push(last);
    for wrong in [flipped.as_str(), foreign.as_str(), "fo_", "x", "Bearer", &root[..83], &root.to_uppercase()]
    {
        let status = list(&world, wrong).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "TOKEN_UNKNOWN"),
            "{wrong}"
        );
        assert!(!status.message().contains(&root[20..]));
    }
    list(&other, &foreign).await.unwrap();
    let begin = Instant::now();
    let expired = loop {
        match list(&world, &guest).await {
            Err(status) => break status,
            Ok(()) => assert!(begin.elapsed() < Duration::from_secs(10)),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((expired.code(), reason(&expired).as_str()), (Code::Unauthenticated, "TOKEN_EXPIRED"));
    // Whoever goes on trying has to wait, and a good token still passes.
    let mut held = Code::Ok;
    for _ in 0..40 {
        let status = list(&world, "fo_x").await.unwrap_err();
        if status.code() == Code::ResourceExhausted {
            assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
            held = status.code();
        }
    }
    assert_eq!(held, Code::ResourceExhausted);
    list(&world, &root).await.unwrap();
    let twice = world
        .http(format!(
            "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {root}\r\nauthorization: Bearer {root}\r\n\r\n"
        ))
        .await;
    assert_eq!(twice.0, 401, "{}", twice.1);
}

#[tokio::test]
async fn a_token_in_a_url_and_headers_without_end_are_refused() {
    let (world, root) = started(closed).await;
    for path in [format!("/ofrep/v1/events?token={root}"), format!("/readyz?verbose&x={root}")] {
        let (status, text) = world.get(&path).await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains("TOKEN_IN_URL") || text.contains("URL"), "{text}");
        assert!(!text.contains(&root));
    }
    let huge = format!(
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
        "x".repeat(64 << 10)
    );
    let (status, _) = world.http(huge).await;
    assert!(status == 431 || status == 0, "{status}");
    list(&world, &root).await.unwrap();
}

#[tokio::test]
async fn roles_are_what_they_say() {
    let (world, root) = started(closed).await;
    let make = async |id: &str, roles: &[Role]| create(&world, &root, token(id, roles)).await.unwrap();
    let viewer = make("viewer", &[Role::View]).await;
    let editor = make("editor", &[Role::Edit]).await;
    let app = make("app", &[Role::Evaluate, Role::Track]).await;
    list(&world, &viewer).await.unwrap();
    list(&world, &editor).await.unwrap();
    let set_as = async |secret: &str| {
        FlagServiceClient::new(shown(&world, secret)).set_flag(set(checkout())).await.map(drop)
    };
    set_as(&editor).await.unwrap();
    for lesser in [&viewer, &app] {
        let status = set_as(lesser).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "ROLE_MISSING"));
        assert!(status.message().contains("takes edit"), "{}", status.message());
    }
    assert_eq!(list(&world, &app).await.unwrap_err().code(), Code::PermissionDenied);
    let ask = async |secret: &str| {
        let mut client = EvaluationServiceClient::new(shown(&world, secret));
        client.evaluate(evaluate("checkout", "ada")).await.map(drop)
    };
    ask(&app).await.unwrap();
    assert_eq!(ask(&viewer).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(ask("").await.unwrap_err().code(), Code::Unauthenticated);
    for lesser in [&viewer, &editor, &app] {
        let status = create(&world, lesser, token("mine", &[Role::Admin])).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    // Secrets are not in the list, uses are.
    let mut tokens = TokenServiceClient::new(shown(&world, &root));
    let all = tokens.list_tokens(ListTokensRequest::default()).await.unwrap().into_inner().tokens;
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|token| token.last_use_time.is_some() && viewer[3..].starts_with(&all[3].key_id)));
}

#[tokio::test]
async fn an_agent_never_approves_whatever_it_calls_itself() {
    let (world, root) = started(closed).await;
    let agent = create(&world, &root, token("tuner", &[Role::Agent, Role::Operate])).await.unwrap();
    let approve = featureops_proto::v1::ApproveDecisionRequest {
        name: "environments/test/decisions/1".into(),
        ..Default::default()
    };
    let mut decisions = DecisionServiceClient::new(shown(&world, &agent));
    let status = decisions.approve_decision(approve).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "ROLE_MISSING"));
    for roles in [[Role::Agent, Role::Approve], [Role::Agent, Role::Admin]] {
        let status = create(&world, &root, token("other", &roles)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    // It acts as an agent, whatever it calls itself.
    FlagServiceClient::new(shown(&world, &agent)).set_flag(set(checkout())).await.unwrap();
    let resume = featureops_proto::v1::ResumeFlagRequest {
        name: "environments/test/flags/checkout".into(),
        ..Default::default()
    };
    let mut administration = AdministrationServiceClient::new(shown(&world, &agent));
    administration.resume_flag(resume).await.unwrap_err();
    let mut root = AdministrationServiceClient::new(shown(&world, &root));
    let records = root.list_audit(ListAuditRequest::default()).await.unwrap().into_inner().records;
    let by = records[0].principal.clone().unwrap();
    assert_eq!((by.kind(), by.id.as_str(), by.verified), (Kind::Agent, "tuner", true));
    assert!(!records[0].refused.is_empty());
}

#[tokio::test]
async fn a_stream_ends_within_seconds_of_its_tokens_end() {
    let (world, root) = started(closed).await;
    let viewer = create(&world, &root, token("viewer", &[Role::View])).await.unwrap();
    let tracker = create(&world, &root, token("tracker", &[Role::Track, Role::Evaluate])).await.unwrap();
    let mut administration = AdministrationServiceClient::new(shown(&world, &viewer));
    let mut tail = administration.tail_audit(TailAuditRequest::default()).await.unwrap().into_inner();
    let (facts, batches) = tokio::sync::mpsc::channel::<FactBatch>(1);
    let mut client = FactServiceClient::new(shown(&world, &tracker));
    let streaming = tokio::spawn(async move {
        client.stream_facts(tokio_stream::wrappers::ReceiverStream::new(batches)).await.map(drop)
    });
    let (questions, asked) = tokio::sync::mpsc::channel(1);
    let mut evaluation = EvaluationServiceClient::new(shown(&world, &tracker));
    let answers = evaluation.evaluate_stream(tokio_stream::wrappers::ReceiverStream::new(asked));
    questions.send(evaluate("checkout", "ada")).await.unwrap();
    let mut answers = answers.await.unwrap().into_inner();
    assert!(answers.next().await.unwrap().is_ok());
    let begin = Instant::now();
    for id in ["viewer", "tracker"] {
        let revoke = RevokeTokenRequest { name: format!("tokens/{id}"), ..Default::default() };
        TokenServiceClient::new(shown(&world, &root)).revoke_token(revoke).await.unwrap();
    }
    let ended = loop {
        match tail.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => break status,
            None => panic!("ended without a reason"),
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
    assert_eq!(streaming.await.unwrap().unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::Unauthenticated);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    drop((facts, questions));
    assert_eq!(list(&world, &viewer).await.unwrap_err().code(), Code::Unauthenticated);
}

/// A message whose named field, through messages, is this text.
fn with_field(descriptor: MessageDescriptor, field: &str, text: &str) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    match field.split_once('.') {
        None => message.set_field_by_name(field, Value::String(text.to_owned())),
        Some((first, rest)) => {
            let FieldKind::Message(inner) = descriptor.get_field_by_name(first).unwrap().kind() else {
                panic!()
            };
            message.set_field_by_name(first, Value::Message(with_field(inner, rest, text)));
        }
    }
    message
}

/// Bytes in, bytes out.
#[derive(Default)]
struct Bytes;

impl tonic::codec::Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

async fn call(world: &World, secret: &str, path: &str, message: Vec<u8>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(shown(world, secret));
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path: PathAndQuery = path.parse().unwrap();
    // Also of methods that stream their answer: what counts is whether it is an error.
    let mut answers = grpc.server_streaming(Request::new(message), path, Bytes).await?.into_inner();
    match tokio::time::timeout(Duration::from_millis(200), answers.message()).await {
        Ok(Err(status)) => Err(status),
        _ => Ok(()),
    }
}

/// Walks the API: whatever names an environment, named another than the token's, is refused, and so is what concerns all.
#[tokio::test]
async fn no_method_lets_a_token_out_of_its_environment() {
    let (world, root) = started(|config| {
        closed(config);
        config.limits.writes_per_second = 1_000;
    })
    .await;
    let roles = [Role::Evaluate, Role::Track, Role::Edit, Role::Approve, Role::Operate, Role::Admin];
    let scoped = Token { environments: vec!["staging".into()], ..token("staging", &roles) };
    let scoped = create(&world, &root, scoped).await.unwrap();
    let pool = DescriptorPool::decode(featureops_proto::DESCRIPTORS).unwrap();
    let (mut refused, mut passed) = (0, Vec::new());
    for service in pool.services() {
        for method in service.methods().filter(|method| !method.is_client_streaming()) {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let input = method.input();
            let own = method.name().trim_start_matches("Set").trim_start_matches("Create").to_lowercase();
            let fields: Vec<String> = ["name", "parent", "environment", "from"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("{own}.name")])
                .filter(|field| {
                    let first = input.get_field_by_name(field.split('.').next().unwrap());
                    first.is_some_and(|first| {
                        let is_message = matches!(first.kind(), FieldKind::Message(_));
                        !first.is_list()
                            && if field.contains('.') {
                                is_message
                            } else {
                                first.kind() == FieldKind::String
                            }
                    })
                })
                .collect();
            let messages = match fields.is_empty() {
                true => vec![DynamicMessage::new(input)],
                false => fields
                    .iter()
                    .flat_map(|field| {
                        ["environments/test", "environments/test/flags/checkout", "environments/-", "test"]
                            .map(|text| with_field(input.clone(), field, text))
                    })
                    .collect(),
            };
            for message in messages {
                match call(&world, &scoped, &path, message.encode_to_vec()).await {
                    Err(status) if status.code() == Code::PermissionDenied => refused += 1,
                    other => passed.push(format!("{path}: {other:?}")),
                }
            }
        }
    }
    passed.retain(|path| {
        !["GetNodeHealth", "GetBudgets", "GetCluster", "GetUpgradePlan", "ListEnvironments"]
            .iter()
            .any(|open| path.contains(open))
    });
    assert!(passed.is_empty(), "{passed:#?}");
    assert!(refused > 200, "{refused}");
    let mut environments = EnvironmentServiceClient::new(shown(&world, &scoped));
    let seen = environments.list_environments(ListEnvironmentsRequest::default()).await.unwrap().into_inner();
    assert!(seen.environments.iter().all(|environment| environment.name == "environments/staging"));
}

#[tokio::test]
async fn a_token_of_some_flags_sees_and_writes_those() {
    let (world, root) = started(closed).await;
    let roles = [Role::Evaluate, Role::Edit, Role::Operate];
    let scoped = Token { flag_prefix: "team-".into(), ..token("team", &roles) };
    let team = create(&world, &root, scoped).await.unwrap();
    let mut flags = FlagServiceClient::new(shown(&world, &team));
    let own = featureops_proto::v1::Flag { name: "environments/test/flags/team-a".into(), ..checkout() };
    flags.set_flag(set(own)).await.unwrap();
    let status = flags.set_flag(set(checkout())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "OUT_OF_SCOPE"));
    let request = ListFlagsRequest { parent: "environments/test".into(), ..Default::default() };
    let seen = flags.list_flags(request).await.unwrap().into_inner().flags;
    assert_eq!(seen.len(), 1, "{seen:?}");
    let mut environments = EnvironmentServiceClient::new(shown(&world, &team));
    let import = featureops_proto::v1::ImportFlagsRequest {
        parent: "environments/test".into(),
        document: "{\"flags\":{}}".into(),
        prune: true,
        ..Default::default()
    };
    assert_eq!(environments.import_flags(import).await.unwrap_err().code(), Code::PermissionDenied);
    let export = featureops_proto::v1::ExportFlagsRequest { parent: "environments/test".into() };
    assert_eq!(environments.export_flags(export).await.unwrap_err().code(), Code::PermissionDenied);
    let mut evaluation = EvaluationServiceClient::new(shown(&world, &team));
    assert!(evaluation.evaluate(evaluate("team-a", "ada")).await.is_ok());
    assert_eq!(
        evaluation.evaluate(evaluate("checkout", "ada")).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let all = EvaluateAllRequest { environment: "test".into(), ..Default::default() };
    assert_eq!(evaluation.evaluate_all(all).await.unwrap().into_inner().evaluations.len(), 1);
    // An experiment on another's flag is another's, by whatever name.
    root_experiment(&world, &root).await;
    let mut experiments =
        featureops::rpc::experiment_service_client::ExperimentServiceClient::new(shown(&world, &team));
    let get =
        featureops_proto::v1::GetExperimentRequest { name: "environments/test/experiments/button".into() };
    assert_eq!(experiments.get_experiment(get).await.unwrap_err().code(), Code::PermissionDenied);
}

async fn root_experiment(world: &World, root: &str) {
    let mut metrics = featureops::rpc::metric_service_client::MetricServiceClient::new(shown(world, root));
    metrics.set_metric(world::metric("revenue", featureops_proto::v1::metric::Kind::Mean)).await.unwrap();
    let create = featureops_proto::v1::CreateExperimentRequest {
        experiment: Some(world::experiment("button", "checkout")),
        ..Default::default()
    };
    let mut experiments =
        featureops::rpc::experiment_service_client::ExperimentServiceClient::new(shown(world, root));
    experiments.create_experiment(create).await.unwrap();
}

#[tokio::test]
async fn strangers_evaluate_where_they_may_and_tokens_where_theirs_is() {
    let (world, root) = started(|config| {
        config.set("flag", "anonymous_evaluation", "test").unwrap();
        config.set("flag", "flagd_environments", "test").unwrap();
    })
    .await;
    let staging =
        featureops_proto::v1::Flag { name: "environments/staging/flags/checkout".into(), ..checkout() };
    FlagServiceClient::new(shown(&world, &root)).set_flag(set(staging)).await.unwrap();
    let (status, answer) = world::ofrep(&world, "checkout", json!({})).await;
    assert_eq!((status, &answer["variant"]), (200, &json!("off")), "{answer}");
    let mut evaluation = EvaluationServiceClient::new(shown(&world, ""));
    evaluation.evaluate(evaluate("checkout", "ada")).await.unwrap();
    let elsewhere = featureops_proto::v1::EvaluateRequest {
        environment: "staging".into(),
        ..evaluate("checkout", "ada")
    };
    assert_eq!(evaluation.evaluate(elsewhere).await.unwrap_err().code(), Code::Unauthenticated);
    // A selector leads nowhere else either.
    let ask = async |headers: &str| {
        let body = "{}";
        world
            .http(format!(
                "POST /ofrep/v1/evaluate/flags/checkout HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 content-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await
    };
    assert_eq!(ask("flagd-selector: source=staging\r\n").await.0, 404);
    // A token's environment is its view, by either header.
    let app = Token { environments: vec!["staging".into()], ..token("app", &[Role::Evaluate]) };
    let app = create(&world, &root, app).await.unwrap();
    for header in [format!("authorization: Bearer {app}\r\n"), format!("x-api-key: {app}\r\n")] {
        let (status, text) = ask(&header).await;
        assert_eq!(status, 200, "{text}");
    }
    assert_eq!(ask(&format!("x-api-key: {app}\r\nflagd-selector: source=test\r\n")).await.0, 404);
    let (status, text) = ask("authorization: Bearer fo_wrong\r\n").await;
    assert_eq!(status, 401);
    assert!(text.contains("errorDetails") && text.to_lowercase().contains("www-authenticate"), "{text}");
}

#[tokio::test]
async fn writes_have_a_rate_and_reads_have_none() {
    let (world, root) = started(|config| config.limits.writes_per_second = 2).await;
    let editor = create(&world, &root, token("editor", &[Role::Edit])).await.unwrap();
    let mut flags = FlagServiceClient::new(shown(&world, &editor));
    let mut refused = None;
    for _ in 0..10 {
        if let Err(status) = flags.set_flag(set(checkout())).await {
            refused = Some(status);
        }
    }
    let status = refused.unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "TOO_MANY_REQUESTS"));
    let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait <= Duration::from_secs(1));
    for _ in 0..50 {
        list(&world, &editor).await.unwrap();
    }
    tokio::time::sleep(wait + Duration::from_millis(50)).await;
    flags.set_flag(set(checkout())).await.unwrap();
}

#[tokio::test]
async fn a_lost_admin_comes_back_by_the_data_folder() {
    let (world, _lost) = started(closed).await;
    let World { node, folder, .. } = world;
    node.shutdown().await;
    let again = world::start_set(&folder, |config| {
        closed(config);
        config.recover_admin = true;
    })
    .await
    .unwrap();
    let channel = world::channel(again.local_addr()).await;
    let world = World { node: again, folder, channel };
    let file = world.folder.path().join("data").join("admin.token");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let secret = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    list(&world, &secret).await.unwrap();
    let mut administration = AdministrationServiceClient::new(shown(&world, &secret));
    let records = administration.list_audit(ListAuditRequest::default()).await.unwrap().into_inner().records;
    let made = records.iter().find(|record| record.action == "token.create").unwrap();
    let by = made.principal.clone().unwrap();
    assert_eq!((by.kind(), by.id.as_str()), (Kind::System, "recovery"));
}

#[tokio::test]
async fn beyond_loopback_takes_tls_and_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let beyond = |config: &mut NodeConfig| config.listen = "0.0.0.0:0".parse().unwrap();
    let error = world::start_set(&folder, beyond).await.err().unwrap().message;
    assert!(error.contains("--tls-cert") && error.contains("plain_text"), "{error}");
    let error = world::start_set(&folder, |config| {
        beyond(config);
        config.plain_text = true;
    })
    .await
    .err()
    .unwrap()
    .message;
    assert!(error.contains("--role admin") && error.contains("--recover-admin"), "{error}");
    let node = world::start_set(&folder, |config| {
        beyond(config);
        config.plain_text = true;
        config.recover_admin = true;
    })
    .await
    .unwrap();
    let address = format!("127.0.0.1:{}", node.local_addr().port()).parse().unwrap();
    let channel = world::channel(address).await;
    let world = World { node, folder, channel };
    assert_eq!(list(&world, "").await.unwrap_err().code(), Code::Unauthenticated);
    let mut evaluation = EvaluationServiceClient::new(shown(&world, ""));
    assert_eq!(
        evaluation.evaluate(evaluate("checkout", "ada")).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let (status, _) =
        world::http(address, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status, 401);
    let secret = std::fs::read_to_string(world.folder.path().join("data/admin.token")).unwrap();
    list(&world, secret.trim()).await.unwrap();
}
