//! Facts to a node: exposures and outcomes, in batches, each event counted once or said not to be.
//!
//! ```text
//!   Facts::send ── never waits ──> [bounded queue] ──> gather: by size, by time ──> batch n ──> node
//!        │ full: the event is handed back                   unanswered: the same n again, later ──┘
//!        v                                                  answered: every event's fate, to the callback
//! ```
//!
//! A batch is named by its producer and a sequence that rises by one. One without an answer may have counted or not; sent
//! again under its name it counts once. So a producer is one life of one [`Facts`]: its name ends with chance, and nothing of
//! it needs to be kept over a restart. What a process had not been told of when it ended is lost or counted, never doubled.

#![forbid(unsafe_code)]

mod sender;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use featureops_proto::v1::{Exposure, Outcome, Verdict};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Uri};

/// The messages of the API.
pub use featureops_proto::v1;

use sender::{Item, Sender};

mod rpc {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("featureops.v1");
}

/// Most events of a batch that a node takes.
pub const BATCH_EVENTS_MAX: usize = 4_096;

/// How facts are sent. The defaults suit a service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node, as `http://127.0.0.1:7400`.
    pub url: String,
    /// The environment's id, as `production`.
    pub environment: String,
    /// Who sends; chance is added to it.
    pub producer: String,
    /// Events of a batch, 1 to 4,096.
    pub batch_events: usize,
    /// Encoded bytes of a batch, at most; a single longer event is a batch of its own.
    pub batch_bytes: usize,
    /// Longest wait of an event for others.
    pub linger: Duration,
    /// Events that wait, beyond those in flight.
    pub queue_events: usize,
    /// Batches in flight.
    pub batches_in_flight: usize,
    /// Time for one attempt.
    pub timeout: Duration,
    /// First and longest pause before an unanswered batch is sent again.
    pub backoff: (Duration, Duration),
    /// Shown with every batch, where the node asks for one: of the role `track`.
    pub token: Option<Token>,
    /// Sends the token even over `http` to another machine, where everybody on the way can read it.
    pub insecure_token: bool,
    /// PEM text of the authority that an `https` node's certificate is of.
    pub ca_certificate: Option<String>,
}

/// A token. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// As it is sent; `None`: it cannot be.
    fn bearer(&self) -> Option<MetadataValue<Ascii>> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", self.0).parse().ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Settings {
    /// The defaults, for a node, an environment and a producer.
    #[must_use]
    pub fn new(url: impl Into<String>, environment: impl Into<String>, producer: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            environment: environment.into(),
            producer: producer.into(),
            batch_events: 256,
            batch_bytes: 1 << 20,
            linger: Duration::from_millis(50),
            queue_events: 8_192,
            batches_in_flight: 4,
            timeout: Duration::from_secs(10),
            backoff: (Duration::from_millis(50), Duration::from_secs(5)),
            token: None,
            insecure_token: false,
            ca_certificate: None,
        }
    }
}

/// Whether what is sent there goes over a network in plain text.
fn is_open_way(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_near = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    uri.scheme_str() != Some("https") && !is_near
}

/// One fact.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody was shown an arm. A single evaluation implies its own; only bulk evaluations need one.
    Exposure(Exposure),
    /// Something came of it.
    Outcome(Outcome),
}

impl Event {
    /// An outcome of the evaluation that gave `receipt`: it joins that experiment and arm.
    #[must_use]
    pub fn outcome_of(metric: &str, unit: &str, receipt: &str, value: f64) -> Self {
        Self::Outcome(Outcome {
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            receipt: receipt.to_owned(),
            value: Some(value),
            ..Outcome::default()
        })
    }
}

/// What became of an event that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The node answered.
    Told {
        /// `COUNTED`, or why not.
        verdict: Verdict,
        /// More than the verdict.
        detail: String,
    },
    /// The node refused the batch for good: nothing of it counted.
    Refused(String),
    /// The client ended before the batch was answered: it counted or not.
    Unanswered,
}

/// Told once of every event that was taken, from the sending task: be short. One that panics is told of the next event all the same,
/// and counted in [`Counts::unheard`].
pub type Hear = Box<dyn Fn(&Event, &Fate) + Send + Sync>;

/// Why an event was not taken; it is handed back.
#[derive(Debug, Clone, PartialEq)]
pub enum NotTaken {
    /// The queue is at its bound: the node is slower than the events, or away.
    Full(Box<Event>),
    /// The client was closed.
    Closed(Box<Event>),
}

/// Why a client was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSettings(String);

impl std::fmt::Display for BadSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSettings {}

#[derive(Default)]
struct Counters {
    taken: AtomicU64,
    dropped: AtomicU64,
    counted: AtomicU64,
    not_counted: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    repeats: AtomicU64,
    unheard: AtomicU64,
}

/// What was counted of a client's work. `taken` is the sum of the four fates and of what is still under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that were taken.
    pub taken: u64,
    /// Events that were handed back because the queue was full.
    pub dropped: u64,
    /// Events with the verdict `COUNTED`, or `WAITING`: held for their exposure.
    pub counted: u64,
    /// Events with any other verdict.
    pub not_counted: u64,
    /// Events of batches that were refused for good.
    pub refused: u64,
    /// Events without an answer when the client ended.
    pub unanswered: u64,
    /// Attempts that were made again.
    pub repeats: u64,
    /// Events at whose fate the caller's own [`Hear`] panicked.
    pub unheard: u64,
}

impl Counters {
    fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            taken: read(&self.taken),
            dropped: read(&self.dropped),
            counted: read(&self.counted),
            not_counted: read(&self.not_counted),
            refused: read(&self.refused),
            unanswered: read(&self.unanswered),
            repeats: read(&self.repeats),
            unheard: read(&self.unheard),
        }
    }
}

/// Sends facts from a task of its own. Dropped without [`Facts::close`], what it took goes on being sent for as long as the
/// runtime runs.
pub struct Facts {
    queue: mpsc::Sender<Item>,
    counters: Arc<Counters>,
    ending: Arc<watch::Sender<bool>>,
    sending: JoinHandle<()>,
}

impl Facts {
    /// Starts sending, on the runtime it is called in. The node need not be there yet. `hear` is told what became of events.
    ///
    /// # Errors
    /// A setting is out of its bounds, or the operating system gives no chance for the producer's name.
    pub fn start(settings: Settings, hear: Hear) -> Result<Self, BadSettings> {
        let bad = |what: &str, value: String, way_out: &str| {
            Err(BadSettings(format!("{what}: '{value}' {way_out}")))
        };
        if !(1..=BATCH_EVENTS_MAX).contains(&settings.batch_events) {
            return bad("batch_events", settings.batch_events.to_string(), "must be 1 to 4,096");
        }
        if settings.queue_events == 0 || settings.batches_in_flight == 0 || settings.batches_in_flight > 64 {
            let value = format!("{}, {}", settings.queue_events, settings.batches_in_flight);
            return bad("queue_events, batches_in_flight", value, "must be 1 or more, and 1 to 64");
        }
        if settings.producer.is_empty() || settings.producer.len() > 100 {
            return bad("producer", settings.producer.clone(), "must have 1 to 100 bytes");
        }
        let endpoint = Endpoint::from_shared(settings.url.clone())
            .map_err(|error| BadSettings(format!("url: '{}' is no address: {error}", settings.url)))?;
        let endpoint = match &settings.ca_certificate {
            None => endpoint,
            Some(pem) => endpoint
                .tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
                .map_err(|error| BadSettings(format!("ca_certificate: cannot be used: {error}")))?,
        };
        if settings.token.is_some() && !settings.insecure_token && is_open_way(endpoint.uri()) {
            return bad(
                "token",
                settings.url.clone(),
                "is plain text to another machine, where everybody on the way could read it: use https, or set insecure_token",
            );
        }
        let bearer = match &settings.token {
            None => None,
            Some(token) => match token.bearer() {
                None => {
                    return bad(
                        "token",
                        String::new(),
                        "cannot be sent: it holds other than printable ASCII",
                    );
                }
                bearer => bearer,
            },
        };
        let channel = endpoint.timeout(settings.timeout).connect_timeout(settings.timeout).connect_lazy();
        let chance = chance().map_err(BadSettings)?;
        let (queue, items) = mpsc::channel(settings.queue_events);
        let counters = Arc::new(Counters::default());
        let ending = Arc::new(watch::Sender::new(false));
        let sender = Sender::new(
            settings,
            (channel, bearer),
            chance,
            hear,
            Arc::clone(&counters),
            Arc::clone(&ending),
        );
        let sending = tokio::spawn(sender.run(items));
        Ok(Self { queue, counters, ending, sending })
    }

    /// Takes an event; never waits.
    ///
    /// # Errors
    /// It was not taken, and is handed back.
    pub fn send(&self, event: Event) -> Result<(), NotTaken> {
        match self.queue.try_send(Item::Event(event)) {
            Ok(()) => {
                Counters::add(&self.counters.taken, 1);
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(Item::Event(event))) => {
                Counters::add(&self.counters.dropped, 1);
                Err(NotTaken::Full(Box::new(event)))
            }
            Err(mpsc::error::TrySendError::Closed(Item::Event(event))) => {
                Err(NotTaken::Closed(Box::new(event)))
            }
            // Only events are sent here.
            Err(_) => Ok(()),
        }
    }

    /// Takes an event, and waits for room: for whoever would rather be slow than lose it.
    ///
    /// # Errors
    /// The client was closed; the event is handed back.
    pub async fn send_when_room(&self, event: Event) -> Result<(), NotTaken> {
        match self.queue.reserve().await {
            Ok(place) => {
                place.send(Item::Event(event));
                Counters::add(&self.counters.taken, 1);
                Ok(())
            }
            Err(_) => Err(NotTaken::Closed(Box::new(event))),
        }
    }

    /// Waits until every event that was taken before has its fate; false when the time was over first.
    pub async fn flush(&self, patience: Duration) -> bool {
        let flushed = async {
            let (done, answer) = oneshot::channel();
            self.queue.send(Item::Flush(done)).await.is_ok() && answer.await.is_ok()
        };
        tokio::time::timeout(patience, flushed).await.unwrap_or(false)
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Takes nothing more, waits for the answers of what was taken, and ends. What has none when the time is over is
    /// [`Fate::Unanswered`].
    pub async fn close(self, patience: Duration) -> Counts {
        let Self { queue, counters, ending, sending } = self;
        let (done, answer) = oneshot::channel();
        let closing = tokio::time::timeout(patience, async {
            // Behind everything that was taken.
            if queue.send(Item::Flush(done)).await.is_ok() {
                let _ = answer.await;
            }
        });
        let _ = closing.await;
        // Whatever is in flight or waits is told its fate, and without senders the task ends.
        ending.send_replace(true);
        drop(queue);
        let _ = sending.await;
        counters.read()
    }
}

/// Chance for one life.
fn chance() -> Result<u64, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| format!("no chance for the producer's name: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}
