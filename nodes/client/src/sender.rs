//! The sending task: gathers events into batches, sends them, and repeats under its own name what got no answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use featureops_proto::v1::{ReportExposuresRequest, ReportFactsResponse, ReportOutcomesRequest, Verdict};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::rpc::fact_service_client::FactServiceClient;
use crate::{Counters, Event, Fate, Hear, Settings};

/// What comes through the queue.
pub(crate) enum Item {
    Event(Event),
    /// Answered when everything before has its fate.
    Flush(oneshot::Sender<()>),
}

/// Events of one kind that become one batch.
#[derive(Default)]
struct Gathered {
    events: Vec<Event>,
    bytes: usize,
    since: Option<Instant>,
}

/// Shared by the batches in flight.
struct Shared {
    settings: Settings,
    channel: Channel,
    bearer: Option<MetadataValue<Ascii>>,
    producer: String,
    hear: Hear,
    counters: Arc<Counters>,
    /// True when nobody waits for answers any more.
    ending: Arc<watch::Sender<bool>>,
}

pub(crate) struct Sender {
    shared: Arc<Shared>,
    sequence: u64,
    in_flight: JoinSet<()>,
}

impl Sender {
    pub(crate) fn new(
        settings: Settings,
        (channel, bearer): (Channel, Option<MetadataValue<Ascii>>),
        chance: u64,
        hear: Hear,
        counters: Arc<Counters>,
        ending: Arc<watch::Sender<bool>>,
    ) -> Self {
        let producer = format!("{}-{chance:016x}", settings.producer);
        let shared = Shared { settings, channel, bearer, producer, hear, counters, ending };
        Self { shared: Arc::new(shared), sequence: 0, in_flight: JoinSet::new() }
    }

    /// Sends until the queue has no senders; what has no answer then is told so.
    pub(crate) async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        let (mut exposures, mut outcomes) = (Gathered::default(), Gathered::default());
        loop {
            let due = [exposures.since, outcomes.since].into_iter().flatten().min();
            let due = due.map(|since| since + self.shared.settings.linger);
            let item = tokio::select! {
                biased;
                item = items.recv() => item,
                () = until(due), if due.is_some() => {
                    // Exposures first: an outcome that finds its exposure need not wait for it.
                    self.send(&mut exposures).await;
                    self.send(&mut outcomes).await;
                    continue;
                }
            };
            match item {
                Some(Item::Event(event)) => {
                    let into = match event {
                        Event::Exposure(_) => &mut exposures,
                        Event::Outcome(_) => &mut outcomes,
                    };
                    let bytes = match &event {
                        Event::Exposure(exposure) => exposure.encoded_len(),
                        Event::Outcome(outcome) => outcome.encoded_len(),
                    };
                    if into.bytes.saturating_add(bytes) > self.shared.settings.batch_bytes {
                        self.send(into).await;
                    }
                    into.since.get_or_insert_with(Instant::now);
                    into.bytes = into.bytes.saturating_add(bytes);
                    into.events.push(event);
                    if into.events.len() >= self.shared.settings.batch_events {
                        self.send(into).await;
                    }
                }
                Some(Item::Flush(mut done)) => {
                    self.send(&mut exposures).await;
                    self.send(&mut outcomes).await;
                    // Nobody who waits for it: no answer is waited for either.
                    tokio::select! {
                        () = done.closed() => {}
                        () = async { while self.in_flight.join_next().await.is_some() {} } => {
                            let _ = done.send(());
                        }
                    }
                }
                None => break,
            }
        }
        self.shared.ending.send_replace(true);
        for left in [exposures, outcomes] {
            self.shared.tell(&left.events, |_| Fate::Unanswered);
        }
        while self.in_flight.join_next().await.is_some() {}
    }

    /// Sends what was gathered, once there is a place among those in flight.
    async fn send(&mut self, gathered: &mut Gathered) {
        let Gathered { events, .. } = std::mem::take(gathered);
        if events.is_empty() {
            return;
        }
        while self.in_flight.len() >= self.shared.settings.batches_in_flight {
            self.in_flight.join_next().await;
        }
        self.sequence = self.sequence.saturating_add(1);
        let (shared, sequence) = (Arc::clone(&self.shared), self.sequence);
        self.in_flight.spawn(async move { shared.deliver(sequence, events).await });
    }
}

impl Shared {
    /// Sends one batch until it is answered, refused for good, or nobody waits any more.
    async fn deliver(&self, sequence: u64, events: Vec<Event>) {
        let (first, longest) = self.settings.backoff;
        let mut pause = first;
        let mut ending = self.ending.subscribe();
        loop {
            let answered = tokio::select! {
                biased;
                answered = self.attempt(sequence, &events) => answered,
                _ = ending.wait_for(|ending| *ending) => break,
            };
            match answered {
                Ok(answer) => return self.told(&events, &answer),
                Err(status) if is_final(&status) => {
                    let why = format!("{:?}: {}", status.code(), status.message());
                    return self.tell(&events, |_| Fate::Refused(why.clone()));
                }
                Err(_) => Counters::add(&self.counters.repeats, 1),
            }
            // Without chance a pause of three quarters does, too.
            let chance = crate::chance().unwrap_or(512);
            tokio::select! {
                biased;
                _ = ending.wait_for(|ending| *ending) => break,
                () = tokio::time::sleep(jittered(pause, chance)) => {}
            }
            pause = pause.saturating_mul(2).min(longest);
        }
        self.tell(&events, |_| Fate::Unanswered);
    }

    async fn attempt(&self, sequence: u64, events: &[Event]) -> Result<ReportFactsResponse, Status> {
        let mut client =
            FactServiceClient::with_interceptor(self.channel.clone(), |mut request: Request<()>| {
                if let Some(bearer) = &self.bearer {
                    request.metadata_mut().insert("authorization", bearer.clone());
                }
                Ok(request)
            });
        let (environment, producer) = (self.settings.environment.clone(), self.producer.clone());
        let exposures: Vec<_> = events
            .iter()
            .filter_map(
                |event| if let Event::Exposure(exposure) = event { Some(exposure.clone()) } else { None },
            )
            .collect();
        let answered = if exposures.is_empty() {
            let outcomes = events
                .iter()
                .filter_map(
                    |event| if let Event::Outcome(outcome) = event { Some(outcome.clone()) } else { None },
                )
                .collect();
            client.report_outcomes(ReportOutcomesRequest { environment, producer, sequence, outcomes }).await
        } else {
            client
                .report_exposures(ReportExposuresRequest { environment, producer, sequence, exposures })
                .await
        };
        answered.map(tonic::Response::into_inner)
    }

    fn told(&self, events: &[Event], answer: &ReportFactsResponse) {
        // Answered so long ago that the node remembers only that it was.
        let forgotten = answer.duplicate && answer.counted == 0 && answer.verdicts.is_empty();
        let otherwise = if forgotten { Verdict::Duplicate } else { Verdict::Counted };
        let mut verdicts = answer.verdicts.iter().peekable();
        self.tell(events, |index| {
            let given = verdicts.next_if(|given| given.index as usize == index);
            match given {
                Some(given) => Fate::Told { verdict: given.verdict(), detail: given.detail.clone() },
                None => Fate::Told { verdict: otherwise, detail: String::new() },
            }
        });
    }

    /// Tells the fate of each event, by its index.
    fn tell(&self, events: &[Event], mut fate: impl FnMut(usize) -> Fate) {
        for (index, event) in events.iter().enumerate() {
            let fate = fate(index);
            let counter = match &fate {
                Fate::Told { verdict: Verdict::Counted | Verdict::Waiting, .. } => &self.counters.counted,
                Fate::Told { .. } => &self.counters.not_counted,
                Fate::Refused(_) => &self.counters.refused,
                Fate::Unanswered => &self.counters.unanswered,
            };
            Counters::add(counter, 1);
            // It is the caller's code, and what it does must not end this task: all that comes later would be lost.
            let heard = std::panic::catch_unwind(AssertUnwindSafe(|| (self.hear)(event, &fate)));
            if heard.is_err() {
                Counters::add(&self.counters.unheard, 1);
            }
        }
    }
}

/// Whether a batch will never be taken as it is. Everything else passes: the node is away, or full, or starting.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Half of the pause to all of it, so that clients of a node that was away do not come back at one moment.
fn jittered(pause: Duration, chance: u64) -> Duration {
    let half = pause / 2;
    let part = u32::try_from(chance % 1_024).unwrap_or(0);
    half.saturating_add(half.saturating_mul(part) / 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hearer_that_panics_ends_nothing() {
        let heard = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let hears = Arc::clone(&heard);
        let shared = Shared {
            settings: Settings::new("http://127.0.0.1:1", "environments/e", "p"),
            channel: Channel::from_static("http://127.0.0.1:1").connect_lazy(),
            bearer: None,
            producer: "p".to_owned(),
            hear: Box::new(move |_, _| {
                if hears.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
                    std::panic::resume_unwind(Box::new("the caller's own"));
                }
            }),
            counters: Arc::new(Counters::default()),
            ending: Arc::new(watch::Sender::new(false)),
        };
        let event = || Event::Outcome(featureops_proto::v1::Outcome::default());
        shared.tell(&[event(), event(), event()], |_| Fate::Unanswered);
        let counts = shared.counters.read();
        assert_eq!((counts.unanswered, counts.unheard), (3, 1));
        assert_eq!(heard.load(std::sync::atomic::Ordering::Relaxed), 3);
    }

    #[test]
    fn pauses_stay_between_half_and_whole_and_differ() {
        let pause = Duration::from_millis(100);
        let mut seen = std::collections::BTreeSet::new();
        for chance in 0..2_048 {
            let jittered = jittered(pause, chance);
            assert!((pause / 2..=pause).contains(&jittered));
            seen.insert(jittered);
        }
        assert_eq!(seen.len(), 1_024);
    }
}
