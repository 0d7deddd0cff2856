//! Everything else on the port: health, reflection, gRPC-web, readiness, metrics, the webhook; and the drain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod raw;
mod world;

use std::time::Duration;

use featureops_proto::v1::{
    EvaluateResponse, GetFlagRequest, GetNodeHealthRequest, ListAuditRequest, ResumeFlagRequest,
    TailAuditRequest, VerifyAuditRequest,
};
use prost::Message as _;
use raw::framed;
use tokio_stream::StreamExt as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use world::{World, channel, checkout, evaluate, set};

#[tokio::test]
async fn a_node_says_that_it_is_well_in_every_dialect() {
    let world = World::start().await;
    let mut health = HealthClient::new(world.channel.clone());
    for service in ["", "featureops.v1.EvaluationService", "featureops.v1.FactService"] {
        let check = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(check).await.unwrap().into_inner().status, 1, "{service}");
    }
    assert_eq!(world.get("/livez").await.0, 200);
    let (status, text) = world.get("/readyz?verbose").await;
    assert_eq!(status, 200, "{text}");
    for check in
        ["log", "disk", "leader", "identity", "clock", "tasks", "snapshot", "unit key", "exposures", "owners"]
    {
        assert!(text.contains(&format!("[+] {check}: ")), "{check} in {text}");
    }
    let examined =
        world.administration().get_node_health(GetNodeHealthRequest {}).await.unwrap().into_inner();
    assert!(examined.ready && examined.resident_bytes > 1 << 20 && examined.log_time.is_some());
    assert_eq!(world.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let world = World::start().await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(world.channel.clone());
    let asked = client.server_reflection_info(tokio_stream::iter([ask])).await;
    let answer = asked.unwrap().into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    for service in ["Flag", "Metric", "Experiment", "Evaluation", "Fact", "Decision", "Administration"] {
        let name = format!("featureops.v1.{service}Service");
        assert!(list.service.iter().any(|found| found.name == name), "{name}");
    }
}

#[tokio::test]
async fn a_browser_evaluates_by_grpc_web_over_http_1() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let body = framed(&evaluate("checkout", "ada").encode_to_vec());
    let head = format!(
        "POST /featureops.v1.EvaluationService/Evaluate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/grpc-web+proto\r\naccept: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(world.node.local_addr()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &[head.as_bytes(), &body].concat()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await.unwrap();
    // The message's frame stands somewhere in the chunked body: its length is known from decoding.
    let found = (0..bytes.len()).find_map(|at| {
        let length = u32::from_be_bytes(bytes.get(at + 1..at + 5)?.try_into().ok()?) as usize;
        let answer = EvaluateResponse::decode(bytes.get(at + 5..at + 5 + length)?).ok()?;
        (bytes[at] == 0 && answer.flag == "checkout").then_some(answer)
    });
    assert_eq!(found.unwrap().variant.as_deref(), Some("off"));
}

#[tokio::test]
async fn metrics_count_what_was_done() {
    let world = World::start().await;
    world.run_experiment().await;
    world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap();
    let (status, text) = world.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "featureops_evaluations_total{reason=\"SPLIT\"} 1",
        "featureops_experiments_running 1",
        "featureops_exposures_implied_total 1",
        "featureops_exposures_lost_total 0",
        "featureops_fold_halted 0",
        "featureops_proposals_total{outcome=\"done\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn an_outside_monitor_trips_a_flag_until_a_person_resumes() {
    let world = World::start().await;
    world.run_experiment().await;
    let alarm = |body: &str| body.as_bytes().to_vec();
    let (status, text) = world
        .post(
            "/v1/alarms",
            "application/json",
            &alarm(r#"{"environment":"test","flag":"checkout","source":"pager","reason":"errors doubled"}"#),
        )
        .await;
    assert!(status == 200 && text.contains("\"tripped\":true"), "{text}");
    let answer = world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap().into_inner();
    assert_eq!((answer.variant.as_deref(), answer.reason().as_str_name()), (Some("off"), "TRIPPED"));
    // Who did not say who it is was a machine.
    let name = "environments/test/flags/checkout".to_owned();
    let flag = world.flags().get_flag(GetFlagRequest { name }).await.unwrap().into_inner();
    let principal = flag.trip.unwrap().principal.unwrap();
    assert_eq!((principal.kind().as_str_name(), principal.id.as_str()), ("AGENT", "webhook"));

    for (body, code) in [
        (r#"{"environment":"test","flag":"nothing","source":"pager"}"#, 404),
        (r#"{"environment":"test","flag":"checkout"}"#, 400),
        (r#"{"environment":"te st","flag":"checkout","source":"pager"}"#, 400),
        (r#"{"environment":"test","flag":"checkout","source":"pager","sudo":true}"#, 400),
        ("not json", 400),
    ] {
        let (status, text) = world.post("/v1/alarms", "application/json", &alarm(body)).await;
        assert_eq!(status, code, "{body}: {text}");
    }
    assert_eq!(world.post("/v1/alarms", "text/plain", b"{}").await.0, 415);

    let name = "environments/test/flags/checkout".to_owned();
    let resume = ResumeFlagRequest { name, reason: "fixed".into(), ..Default::default() };
    let flag = world.administration().resume_flag(resume).await.unwrap().into_inner();
    assert!(flag.trip.is_none());
}

#[tokio::test]
async fn the_audit_chain_is_listed_tailed_and_verified() {
    let world = World::start().await;
    let mut tail =
        world.administration().tail_audit(TailAuditRequest { from: 0 }).await.unwrap().into_inner();
    world.flags().set_flag(set(checkout())).await.unwrap();
    let record = tokio::time::timeout(Duration::from_secs(5), tail.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(record.resource, "environments/test/flags/checkout");
    let listed = world.administration().list_audit(ListAuditRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.records[0], record);
    let verified = world.administration().verify_audit(VerifyAuditRequest {}).await.unwrap().into_inner();
    assert!(verified.intact && verified.last == record.number, "{verified:?}");
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_a_restart_finds_everything() {
    let world = World::start().await;
    world.run_experiment().await;
    let mut writers = Vec::new();
    for index in 0..20 {
        let mut flags = world.flags();
        writers.push(tokio::spawn(async move {
            let mut flag = checkout();
            flag.name = format!("environments/test/flags/w{index}");
            flags.set_flag(set(flag)).await.map(|written| written.into_inner().name)
        }));
    }
    for unit in 0..50 {
        world.evaluation().evaluate(evaluate("checkout", &format!("u{unit}"))).await.unwrap();
    }
    let World { node, folder, channel: open } = world;
    let address = node.local_addr();
    let ended = tokio::time::timeout(Duration::from_secs(20), node.shutdown()).await;
    assert!(ended.is_ok(), "the drain ends although a client keeps its connection");
    drop(open);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let mut acknowledged = Vec::new();
    for writer in writers {
        if let Ok(name) = writer.await.unwrap() {
            acknowledged.push(name);
        }
    }
    assert!(!acknowledged.is_empty());

    let world = World::start_in(folder).await;
    for name in acknowledged {
        assert!(world.flags().get_flag(GetFlagRequest { name: name.clone() }).await.is_ok(), "{name}");
    }
    let name = "environments/test/experiments/button".to_owned();
    let request = featureops_proto::v1::GetExperimentStatusRequest { name };
    let status = world.experiments().get_experiment_status(request).await.unwrap().into_inner();
    assert_eq!(status.exposed_units, 50);
}

#[tokio::test]
async fn open_streams_end_with_the_drain_and_do_not_hold_it_up() {
    let world = World::start().await;
    world.run_experiment().await;
    let mut tail =
        world.administration().tail_audit(TailAuditRequest { from: 0 }).await.unwrap().into_inner();
    let name = "environments/test/experiments/button".to_owned();
    let request = featureops_proto::v1::GetExperimentStatusRequest { name };
    let mut watch = world.experiments().watch_experiment_status(request).await.unwrap().into_inner();
    let check = HealthCheckRequest { service: String::new() };
    let mut health = HealthClient::new(world.channel.clone()).watch(check).await.unwrap().into_inner();
    let (batches, open) = tokio::sync::mpsc::channel(4);
    let mut facts = world.facts();
    let stream = tokio_stream::wrappers::ReceiverStream::new(open);
    let facts = tokio::spawn(async move { facts.stream_facts(stream).await });
    let batch = world::outcomes("stream", 1, vec![world::outcome("ada", 1.0)]);
    let batch = featureops_proto::v1::FactBatch {
        environment: batch.environment,
        producer: batch.producer,
        sequence: batch.sequence,
        outcomes: batch.outcomes,
        ..Default::default()
    };
    batches.send(batch).await.unwrap();
    assert_eq!(health.next().await.unwrap().unwrap().status, 1);

    let World { node, folder, channel: open } = world;
    // Less than the drain's own ten seconds: it ended because nothing was left.
    let ended = tokio::time::timeout(Duration::from_secs(8), node.shutdown()).await;
    ended.expect("streams do not hold up the drain");
    let unavailable = tonic::Code::Unavailable;
    let ended = loop {
        match watch.next().await.expect("a status says why") {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), unavailable, "{ended:?}");
    let ended = loop {
        match tail.next().await.expect("a status says why") {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert!(ended.code() == unavailable && ended.message().contains("draining"), "{ended:?}");
    let mut last = 1;
    while let Some(Ok(answer)) = health.next().await {
        last = answer.status;
    }
    assert_eq!(last, 2, "a watcher hears that the node no longer serves");
    assert_eq!(facts.await.unwrap().unwrap_err().code(), unavailable);
    drop((folder, open, batches));
}

#[tokio::test]
async fn a_web_page_cannot_reach_the_node_by_a_name_of_its_own() {
    let world = World::start().await;
    let ask =
        |host: &str| world.http(format!("GET /readyz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"));
    let (status, text) = ask("evil.example:7400").await;
    assert!(status == 403 && text.contains("evil.example"), "{text}");
    for host in ["localhost:7400", "127.0.0.1", "[::1]:7400"] {
        assert_eq!(ask(host).await.0, 200, "{host}");
    }
    let address = world.node.local_addr();
    let foreign = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let foreign = foreign.origin("http://evil.example".parse().unwrap()).connect().await.unwrap();
    let mut flags = featureops::rpc::flag_service_client::FlagServiceClient::new(foreign);
    let refused = flags.set_flag(set(checkout())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused:?}");
}

#[tokio::test]
async fn a_deadline_is_kept_and_a_second_node_touches_nothing() {
    let world = World::start().await;
    // By hand: a client that knows the deadline keeps it itself, and the node's own answer is never seen.
    let message = set(checkout()).encode_to_vec();
    let body = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message[..3]].concat();
    let head = "POST /featureops.v1.FlagService/SetFlag HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/grpc-web+proto\r\ngrpc-timeout: 50m\r\ncontent-length: 4000\r\n\r\n";
    let answered = world.http([head.as_bytes(), &body].concat());
    let (_, text) =
        tokio::time::timeout(Duration::from_secs(10), answered).await.expect("a deadline is kept");
    assert!(text.contains("grpc-status: 4") && text.contains("no%20answer%20within%2050%20ms"), "{text}");
    // A webhook's body has its time too, and an answer in its own terms.
    let head = "POST /v1/alarms HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
                grpc-timeout: 50m\r\ncontent-length: 400\r\n\r\n{";
    let (status, text) = world.http(head).await;
    assert!(status == 408 && text.contains("DEADLINE_EXCEEDED"), "{text}");
    let second = world::start(&world.folder).await;
    assert!(second.is_err_and(|error| error.message.contains("in use")), "the folder is locked");
    channel(world.node.local_addr()).await;
}
