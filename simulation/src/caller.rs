//! A client's end of the wire: real gRPC over the simulated network, with a deadline on everything.
//!
//! A cut wire loses messages for good (the simulated TCP does not send again), so an answer that was lost never comes. After a
//! deadline the connection is thrown away, and the outcome is what it is for every real client: unknown.

use std::future::Future;
use std::time::Duration;

use featureops_proto::ErrorCode;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::trace::Trace;

/// Port of everything a node serves.
pub const PORT: u16 = 7400;
/// How long a call may take.
pub const DEADLINE: Duration = Duration::from_millis(3_000);

/// Metadata of an answer that may be stale.
const STALE: &str = "featureops-stale";

/// What a caller knows after a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer<T> {
    /// It was done.
    Ok(T),
    /// It was refused for good, with the reason.
    Refused(String),
    /// Nobody can say: ask again.
    Unknown(String),
}

impl<T> Answer<T> {
    /// The value, when it was done.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::Ok(value) => Some(value),
            _ => None,
        }
    }
}

/// One client.
pub struct Caller {
    /// Its host name.
    pub name: String,
    /// Whom it says it is.
    pub principal: String,
    /// How long a call may take.
    pub deadline: Duration,
    trace: Trace,
    node: String,
    /// Whether the last answer said that it may lack what was acknowledged elsewhere.
    pub was_stale: bool,
    /// Nodes to turn to in turn when there is no answer.
    nodes: Vec<String>,
    channel: Option<Channel>,
}

impl Caller {
    /// A client that calls `node`.
    #[must_use]
    pub fn new(name: &str, principal: &str, node: &str, trace: Trace) -> Self {
        Self {
            name: name.to_owned(),
            principal: principal.to_owned(),
            deadline: DEADLINE,
            trace,
            node: node.to_owned(),
            was_stale: false,
            nodes: Vec::new(),
            channel: None,
        }
    }

    /// The same, turning to these nodes, one after the other, whenever there is no answer.
    #[must_use]
    pub fn with(mut self, nodes: Vec<String>) -> Self {
        self.nodes = nodes;
        self
    }

    /// Number of the machine that the next call goes to.
    #[must_use]
    pub fn machine(&self) -> u64 {
        self.node.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    fn turn(&mut self) {
        self.channel = None;
        let place = self.nodes.iter().position(|node| *node == self.node);
        let next = place.map_or(0, |place| place.saturating_add(1)) % self.nodes.len().max(1);
        if let Some(node) = self.nodes.get(next) {
            self.node.clone_from(node);
        }
    }

    /// The next calls go to another node.
    pub fn move_to(&mut self, node: &str) {
        if self.node != node {
            node.clone_into(&mut self.node);
            self.channel = None;
        }
    }

    fn channel(&mut self) -> Option<Channel> {
        if self.channel.is_none() {
            let node = self.node.clone();
            let endpoint = Endpoint::from_shared(format!("http://{node}:{PORT}")).ok()?;
            let connector = tower::service_fn(move |_: Uri| {
                let node = node.clone();
                async move { turmoil::net::TcpStream::connect((node.as_str(), PORT)).await.map(TokioIo::new) }
            });
            self.channel = Some(endpoint.connect_with_connector_lazy(connector));
        }
        self.channel.clone()
    }

    /// Makes one call, and writes it into the trace.
    pub async fn call<Q, A, F, R>(&mut self, what: &str, request: Q, act: F) -> Answer<A>
    where
        A: std::fmt::Debug,
        F: FnOnce(Channel, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let answer = self.call_opaque(what, request, act).await;
        self.trace.note("content", &format!("{} {what} {answer:?}", self.name));
        answer
    }

    /// As [`Caller::call`], for an answer that holds a figure of the real machine, as its memory: the trace gets its kind only.
    pub async fn call_opaque<Q, A, F, R>(&mut self, what: &str, request: Q, act: F) -> Answer<A>
    where
        F: FnOnce(Channel, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let Some(channel) = self.channel() else { return Answer::Unknown("no endpoint".to_owned()) };
        let mut request = Request::new(request);
        if let Ok(principal) = self.principal.parse() {
            request.metadata_mut().insert("featureops-principal", principal);
        }
        self.trace.note("ask", &format!("{} {what}", self.name));
        let answer = match tokio::time::timeout(self.deadline, act(channel, request)).await {
            Ok(Ok(response)) => {
                self.was_stale = response.metadata().contains_key(STALE);
                Answer::Ok(response.into_inner())
            }
            Ok(Err(status)) => judge(&status),
            Err(_) => Answer::Unknown("deadline".to_owned()),
        };
        if matches!(answer, Answer::Unknown(_)) {
            self.turn();
        }
        let kind = match &answer {
            Answer::Ok(_) => "ok",
            Answer::Refused(_) => "refused",
            Answer::Unknown(_) => "unknown",
        };
        self.trace.note("answer", &format!("{} {what} {kind}", self.name));
        answer
    }
}

fn judge<T>(status: &Status) -> Answer<T> {
    let reason = status.get_details_error_info().map(|info| info.reason);
    let text = format!("{:?} {}", status.code(), status.message());
    match (status.code(), reason) {
        (
            Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled | Code::Internal,
            _,
        ) => Answer::Unknown(text),
        (_, Some(reason)) if ErrorCode::parse(&reason).is_some() => Answer::Refused(reason),
        (Code::ResourceExhausted, _) => Answer::Unknown(text),
        _ => Answer::Refused(text),
    }
}
