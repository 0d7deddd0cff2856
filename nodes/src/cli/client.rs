//! The way to a node: one channel, the caller's name on every request, retries where repeating cannot count twice.
//!
//! Reads may always be repeated. Writes carry a request id, so the server answers a repetition with the first reply.
//! What remains is honesty at the end: nothing was ever sent (unavailable), or something was and no answer came back
//! (unknown). The two have different exit codes because only the second one needs a second look.

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::failure::{Exit, Failure};
use super::secrets::Token;
use super::settings::Settings;

/// Attempts of one request, the first included.
const MAX_ATTEMPTS: u32 = 5;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Our own patience beyond the deadline the server was given: its answer at the last moment still arrives.
const GRACE: Duration = Duration::from_millis(500);

/// Whether a request changes anything.
#[derive(Debug, Clone, Copy)]
pub enum Intent<'a> {
    Read,
    /// Repeated under the same name, which the failure tells: a request id, or a producer's sequence.
    Write {
        repeat_with: &'a str,
    },
}

/// A connection to a node, made when first used.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    principal: MetadataValue<Ascii>,
    token: Option<MetadataValue<Ascii>>,
    timeout: Duration,
    server: String,
}

impl Client {
    /// Prepares the channel. Nothing is sent before the first request.
    ///
    /// # Errors
    /// When the server's address is not a URL.
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(settings.server.clone())
            .map_err(|_| {
                Failure::usage(format!("server '{}' is not a URL, as http://127.0.0.1:7400", settings.server))
            })?
            .connect_timeout(settings.request_timeout.min(Duration::from_secs(5)))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let endpoint = match &settings.tls {
            None => endpoint,
            Some(tls) => endpoint.tls_config(tls.config()).map_err(|error| {
                Failure::usage(format!("the certificates for {} cannot be used: {error}", settings.server))
            })?,
        };
        let principal = settings
            .principal
            .parse()
            .map_err(|_| Failure::usage(format!("principal '{}' cannot be sent", settings.principal)))?;
        Ok(Self {
            channel: endpoint.connect_lazy(),
            principal,
            token: settings.token.as_ref().map(Token::bearer).transpose()?,
            timeout: settings.request_timeout,
            server: settings.server.clone(),
        })
    }

    /// A read: repeated while the server is unavailable.
    pub async fn read<M, R, F, Fut>(&self, message: M, call: F) -> Result<R, Failure>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        self.call(Intent::Read, message, call).await
    }

    /// A write under a request id.
    pub async fn write<M, R, F, Fut>(&self, request_id: &str, message: M, call: F) -> Result<R, Failure>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let repeat_with = format!("repeat it with --request-id {request_id}: it takes effect once");
        self.call(Intent::Write { repeat_with: &repeat_with }, message, call).await
    }

    /// Calls with retries, all within the request timeout.
    pub async fn call<M, R, F, Fut>(&self, intent: Intent<'_>, message: M, call: F) -> Result<R, Failure>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let mut may_have_arrived = false;
        let mut backoff = FIRST_BACKOFF;
        let mut attempt = 1;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let mut request = self.request(message.clone());
            request.set_timeout(left.max(Duration::from_millis(1)));
            let answer = tokio::time::timeout(left + GRACE, call(self.channel.clone(), request)).await;
            let status = match answer {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(""),
            };
            may_have_arrived |= !never_connected(&status) && !nothing_written(&status);
            let more = attempt < MAX_ATTEMPTS
                && can_repeat(&status)
                && tokio::time::Instant::now() + backoff < deadline;
            if !more {
                return Err(self.failure(intent, &status, may_have_arrived));
            }
            tokio::time::sleep(jittered(backoff)).await;
            backoff = backoff.saturating_mul(2);
            attempt += 1;
        }
    }

    /// Opens a stream of answers. It may stay open for hours, so no timeout is set.
    pub async fn stream<M, R, F, Fut>(&self, message: M, call: F) -> Result<R, Failure>
    where
        F: FnOnce(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        call(self.channel.clone(), self.request(message))
            .await
            .map(Response::into_inner)
            .map_err(|status| self.failure(Intent::Read, &status, false))
    }

    /// The failure of a stream that had begun.
    #[must_use]
    pub fn stream_failure(&self, status: &Status) -> Failure {
        self.failure(Intent::Read, status, false)
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("featureops-principal", self.principal.clone());
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    fn failure(&self, intent: Intent<'_>, status: &Status, may_have_arrived: bool) -> Failure {
        if never_connected(status) && !(matches!(intent, Intent::Write { .. }) && may_have_arrived) {
            return Failure::new(
                Exit::Unavailable,
                format!("no server answers at {}{}", self.server, cause(status)),
            )
            .note("start a node with: featureops serve")
            .note(
                "or name another one: --server URL, FEATUREOPS_SERVER, or `server` in the configuration file",
            );
        }
        let unanswered = matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
        );
        match intent {
            // Said by the server itself, and no earlier attempt is in doubt.
            Intent::Write { .. } if nothing_written(status) && !may_have_arrived => {
                let mut failure = Failure::from_status(status);
                failure.exit = Exit::Unavailable;
                failure
            }
            Intent::Write { repeat_with } if unanswered || may_have_arrived && nothing_written(status) => {
                let mut failure = Failure::from_status(status);
                failure.exit = Exit::Unknown;
                if nothing_written(status) {
                    // Of two attempts: the server speaks of the last one.
                    failure.message = format!(
                        "the change may have taken effect: an attempt of it had no answer, and the one after it was refused: {}",
                        failure.message
                    );
                    return if repeat_with.is_empty() { failure } else { failure.note(repeat_with) };
                }
                let what = if no_words(status) {
                    format!("no answer from {} within {:?}", self.server, self.timeout)
                } else if std::error::Error::source(status).is_some() {
                    // The transport's words; the server said nothing.
                    format!("the connection to {} was lost{}", self.server, cause(status))
                } else {
                    failure.message
                };
                failure.message = format!("{what}: the change may have taken effect");
                if repeat_with.is_empty() { failure } else { failure.note(repeat_with) }
            }
            Intent::Read if unanswered || broke(status) => {
                let mut failure = Failure::from_status(status);
                failure.exit = Exit::Unavailable;
                if broke(status) {
                    // The transport's words; the server said nothing.
                    failure.message = format!("the connection to {} was lost{}", self.server, cause(status));
                    failure = failure.note("the node is gone or hangs; ask it: featureops doctor");
                } else if no_words(status) {
                    failure.message = format!("no answer from {} within {:?}", self.server, self.timeout);
                }
                failure
            }
            _ => Failure::from_status(status),
        }
    }
}

/// The connection broke under the request; an answer of the server has no source.
fn broke(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Internal | Code::Unavailable)
        && std::error::Error::source(status).is_some()
}

/// The transport's own words about a timeout say less than ours.
fn no_words(status: &Status) -> bool {
    status.message().is_empty() || matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

/// Codes of an answer that did not come, or of a server that could not take the request.
fn can_repeat(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        _ if matches!(reason(status).as_str(), "OVERLOADED" | "TOO_MANY_REQUESTS" | "UNKNOWN_OUTCOME") => {
            true
        }
        // A connection broken under the request; an answer of the server has no source.
        Code::Unknown | Code::Cancelled | Code::Internal => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// The server's own word for what happened, if it gave one.
fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Whether the server says that it proposed nothing.
fn nothing_written(status: &Status) -> bool {
    matches!(
        reason(status).as_str(),
        "NOT_LEADER" | "NOT_READY" | "HALTED" | "OVERLOADED" | "TOO_MANY_REQUESTS" | "NOT_INITIALIZED"
    )
}

/// Whether the connection itself failed, so that nothing can have arrived.
fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The innermost reason, as ` (Connection refused)`.
fn cause(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut text = String::new();
    while let Some(error) = source {
        if error.is::<std::io::Error>() {
            text.clear();
            let _ = write!(text, " ({error})");
        }
        source = error.source();
    }
    text
}

/// Half to all of the wait, so that many callers do not return together.
fn jittered(backoff: Duration) -> Duration {
    let chance = entropy().map_or(0.5, |bytes| f64::from(bytes.first().copied().unwrap_or(128)) / 255.0);
    backoff.mul_f64(0.5 + chance / 2.0)
}

/// Sixteen bytes from the operating system.
fn entropy() -> Result<[u8; 16], Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::internal(format!("the operating system gave no entropy: {error}")))?;
    Ok(bytes)
}

/// A request id nobody else has: 128 random bits.
pub fn new_request_id() -> Result<String, Failure> {
    let mut id = String::with_capacity(32);
    for byte in entropy()? {
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings::Output;
    use crate::rpc::flag_service_client::FlagServiceClient;
    use featureops_proto::v1;

    fn settings(server: &str) -> Settings {
        Settings {
            server: server.to_owned(),
            environment: "production".to_owned(),
            principal: "human:test".to_owned(),
            token: None,
            tls: None,
            output: Output::Table,
            request_timeout: Duration::from_secs(2),
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unavailable_and_says_how_to_start_one() {
        // Port 1 is privileged and closed everywhere this runs.
        let client = Client::new(&settings("http://127.0.0.1:1")).unwrap();
        let failure = client
            .write("id-1", v1::SetFlagRequest::default(), |channel, request| async move {
                FlagServiceClient::new(channel).set_flag(request).await
            })
            .await
            .unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable, "{failure:?}");
        assert!(failure.render().contains("featureops serve"), "{}", failure.render());
        assert!(failure.render().contains("refused"), "{}", failure.render());
    }

    #[tokio::test]
    async fn an_unanswered_write_is_unknown_and_an_unanswered_read_is_not() {
        // Accepts connections and never says a word.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                kept.push(socket);
            }
        });
        let mut settings = settings(&format!("http://{address}"));
        settings.request_timeout = Duration::from_millis(300);
        let client = Client::new(&settings).unwrap();
        let write = client
            .write("id-7", v1::SetFlagRequest::default(), |channel, request| async move {
                FlagServiceClient::new(channel).set_flag(request).await
            })
            .await
            .unwrap_err();
        assert_eq!(write.exit, Exit::Unknown, "{write:?}");
        assert!(write.render().contains("--request-id id-7"), "{}", write.render());
        let read = client
            .read(v1::GetFlagRequest::default(), |channel, request| async move {
                FlagServiceClient::new(channel).get_flag(request).await
            })
            .await
            .unwrap_err();
        assert_eq!(read.exit, Exit::Unavailable, "{read:?}");
    }

    #[test]
    fn the_servers_own_refusals_are_not_repeated() {
        assert!(!can_repeat(&Status::failed_precondition("x")));
        assert!(!can_repeat(&Status::internal("x")));
        assert!(can_repeat(&Status::unavailable("no leader")));
        let details = tonic_types::ErrorDetails::with_error_info("NOT_LEADER", "featureops", []);
        let status = <Status as tonic_types::StatusExt>::with_error_details(Code::Unavailable, "x", details);
        assert!(can_repeat(&status) && nothing_written(&status));
        assert_ne!(new_request_id().unwrap(), new_request_id().unwrap());
    }
}
