//! The same by flagd's protocol, as its clients ask: `ResolveString` of version 2, beside a bare echo of its messages.
//!
//! ```text
//!   4 connections, 64 in flight:   node (a rule decides) | echo | node | … rounds
//! ```

use std::sync::Arc;
use std::time::Duration;

use featureops_proto::v1;
use featureops_proto::v1::condition::Operator;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::Plan;
use super::echo::Echo;
use super::flight::{self, Caller, IN_FLIGHT, Run, Slices};
use super::report::{Bar, Figure, median};
use super::world::{ENVIRONMENT, World, connect, context_of, failed, one_of};
use crate::cli::failure::Failure;
use crate::flagd::evaluation::v2::service_client::ServiceClient;
use crate::flagd::evaluation::v2::service_server::{Service, ServiceServer};
use crate::flagd::evaluation::v2::{
    EventStreamRequest, EventStreamResponse, ResolveBooleanRequest, ResolveBooleanResponse,
    ResolveFloatRequest, ResolveFloatResponse, ResolveIntRequest, ResolveIntResponse, ResolveObjectRequest,
    ResolveObjectResponse, ResolveStringRequest, ResolveStringResponse,
};
use crate::rpc::flag_service_client::FlagServiceClient;
use crate::services::Streamed;

const FLAG: &str = "resolved";
const CONNECTIONS: usize = 4;
const ROUNDS: usize = 9;
/// Units that come back.
const UNITS: u64 = 4_096;

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let world = World::start(&plan.data).await?;
    let node = world.connect(CONNECTIONS).await?;
    let control = one_of(&node, 0)?;
    let request = v1::SetFlagRequest { flag: Some(flag()), ..v1::SetFlagRequest::default() };
    FlagServiceClient::new(control.clone()).set_flag(request).await.map_err(failed)?;

    let answer = ServiceClient::new(control).resolve_string(asked(0)?).await.map_err(failed)?.into_inner();
    if answer.reason != "TARGETING_MATCH" {
        return Err(Failure::internal(format!("the rule did not decide: {}", answer.reason)));
    }
    let bytes = prost::Message::encoded_len(&answer);
    let echo = Echo::start(Routes::new(ServiceServer::new(Constant(Arc::new(answer))))).await?;
    let bare = connect(echo.address(), CONNECTIONS).await?;

    let warm = Duration::from_millis(300);
    unary(&node, warm).await?;
    unary(&bare, warm).await?;
    let slice = plan.slice(2 * ROUNDS as u32);
    let (mut ours, mut echoes) = (Slices::default(), Slices::default());
    for _ in 0..ROUNDS {
        ours.add(unary(&node, slice).await?);
        echoes.add(unary(&bare, slice).await?);
    }
    drop(echo);
    world.stop().await;

    let latency = |slices: &Slices| {
        format!("p50 {:.2} ms, p99 {:.2} ms", median(&slices.p50_ms), median(&slices.p99_ms))
    };
    Ok(vec![
        Figure::beside("flagd ResolveString", "/s", &ours.rates, "bare gRPC echo", &echoes.rates)
            .bar(Bar::Share(0.90))
            .note(format!(
                "{CONNECTIONS} connections, {IN_FLIGHT} in flight, answers of {bytes} bytes; {}; echo {}; processor time \
                 of a call, client included: {:.1} us, echo {:.1} us",
                latency(&ours),
                latency(&echoes),
                ours.processor_us(),
                echoes.processor_us()
            )),
    ])
}

/// Everybody is in one country.
fn flag() -> v1::Flag {
    let condition = v1::Condition {
        attribute: "country".to_owned(),
        operator: Operator::Equals.into(),
        values: vec!["DE".into()],
    };
    let rule = v1::Rule {
        id: "at-home".to_owned(),
        conditions: vec![condition],
        serve: Some(v1::rule::Serve::Variant("on".to_owned())),
    };
    v1::Flag {
        name: format!("{ENVIRONMENT}/flags/{FLAG}"),
        r#type: v1::ValueType::String.into(),
        variants: ["off", "on"].map(|name| (name.to_owned(), name.into())).into(),
        default_variant: Some("off".to_owned()),
        rules: vec![rule],
        ..v1::Flag::default()
    }
}

fn asked(turn: u64) -> Result<Request<ResolveStringRequest>, Failure> {
    let mut context = context_of(&format!("unit-{:010}", turn % UNITS));
    context.fields.insert("country".to_owned(), "DE".into());
    let mut request =
        Request::new(ResolveStringRequest { flag_key: FLAG.to_owned(), context: Some(context) });
    let source = ENVIRONMENT.trim_start_matches("environments/");
    let selector = format!("source={source}").parse().map_err(|_| Failure::internal("no selector"))?;
    request.metadata_mut().insert("flagd-selector", selector);
    Ok(request)
}

/// Asks for the flag.
struct Asking(ServiceClient<Channel>);

impl Caller for Asking {
    async fn call(&mut self, turn: u64) -> Result<(), Status> {
        let request = asked(turn).map_err(|_| Status::internal("no request"))?;
        self.0.resolve_string(request).await.map(drop)
    }
}

async fn unary(channels: &[Channel], slice: Duration) -> Result<Run, Failure> {
    flight::unary(channels, slice, |channel| Asking(ServiceClient::new(channel))).await
}

/// Answers a constant.
struct Constant(Arc<ResolveStringResponse>);

fn only_texts() -> Status {
    Status::unimplemented("the echo resolves texts")
}

#[tonic::async_trait]
impl Service for Constant {
    async fn resolve_string(
        &self,
        _request: Request<ResolveStringRequest>,
    ) -> Result<Response<ResolveStringResponse>, Status> {
        Ok(Response::new(ResolveStringResponse::clone(&self.0)))
    }

    async fn resolve_boolean(
        &self,
        _request: Request<ResolveBooleanRequest>,
    ) -> Result<Response<ResolveBooleanResponse>, Status> {
        Err(only_texts())
    }

    async fn resolve_float(
        &self,
        _request: Request<ResolveFloatRequest>,
    ) -> Result<Response<ResolveFloatResponse>, Status> {
        Err(only_texts())
    }

    async fn resolve_int(
        &self,
        _request: Request<ResolveIntRequest>,
    ) -> Result<Response<ResolveIntResponse>, Status> {
        Err(only_texts())
    }

    async fn resolve_object(
        &self,
        _request: Request<ResolveObjectRequest>,
    ) -> Result<Response<ResolveObjectResponse>, Status> {
        Err(only_texts())
    }

    type EventStreamStream = Streamed<EventStreamResponse>;

    async fn event_stream(
        &self,
        _request: Request<EventStreamRequest>,
    ) -> Result<Response<Self::EventStreamStream>, Status> {
        Err(only_texts())
    }
}
