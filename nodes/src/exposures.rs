//! Implied exposures: an evaluation that shows an arm tells the log that the unit saw it, once.
//!
//! ```text
//!   Evaluate ── imply() ──> known? pending? ── no ──> queue (bounded) ──> batches, <= 512 or 5 ms ──> log
//!                 │                            full: lost, counted                     │
//!                 '-- never waits                    known <── committed ──────────────┘
//! ```
//!
//! The cache is exact: an entry says (experiment, generation, arm, unit) was committed, so a repeat may be dropped
//! without a fact ever being missed. It is entered only then; what merely waits stands in `pending`, so that a burst of
//! evaluations of one unit sends one fact. A batch without an answer is sent again under the same sequence, which the log
//! answers once. Nothing here ever makes an evaluation wait: a full queue loses the exposure and says so, to the doctor and,
//! with the next batch, to the log, where the experiment's owner must know how much its denominators lack.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use featureops_cluster::environment::BoxFuture;
use featureops_proto::log::{Batch, BatchReply, CovariateFact, ExposureFact, LostExposures};
use featureops_proto::v1::Verdict;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use crate::observation::Observation;
use crate::refusal::Failure;

/// Exposures of one batch.
pub const BATCH_MAX: usize = 512;
/// Longest wait of an exposure for others to share its batch.
pub const BATCH_WAIT: Duration = Duration::from_millis(5);
/// Batches without an answer at once; far below a producer's window of 4,096.
const IN_FLIGHT_MAX: usize = 16;
/// Pause before a batch is sent again; doubles up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Locks over the cache.
const SHARDS: usize = 16;

/// A unit in an arm of an experiment's generation: what is recorded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exposed {
    /// Number of the experiment.
    pub experiment: u32,
    /// Its living generation, 1 to 32.
    pub generation: u32,
    /// The arm.
    pub arm: u16,
    /// The unit's keyed hash.
    pub unit_hash: u64,
}

impl Exposed {
    fn packed(self) -> u128 {
        let head = u64::from(self.experiment) << 32
            | u64::from(self.generation & 0xffff) << 16
            | u64::from(self.arm);
        u128::from(head) << 64 | u128::from(self.unit_hash)
    }
}

/// The unit's hash is keyed and uniform already: mixing it again would only cost time.
#[derive(Default)]
struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u128(&mut self, packed: u128) {
        self.0 = (packed as u64) ^ ((packed >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Set = HashSet<u128, BuildHasherDefault<Uniform>>;

/// One shard: the younger half, the older half, and what waits. Two halves bound the memory and keep what is used.
#[derive(Default)]
struct Shard {
    young: Set,
    old: Set,
    pending: Set,
}

impl Shard {
    fn knows(&mut self, exposed: u128, half: usize) -> bool {
        if self.young.contains(&exposed) || self.pending.contains(&exposed) {
            return true;
        }
        let known = self.old.contains(&exposed);
        if known {
            self.enter(exposed, half);
        }
        known
    }

    fn enter(&mut self, exposed: u128, half: usize) {
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(exposed);
    }
}

struct Waiting {
    environment: Arc<str>,
    exposed: Exposed,
    minute: u32,
    told: Told,
}

/// What an exposure tells of its unit.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Values of the experiment's dimensions.
    pub dimensions: Vec<String>,
    /// Values of its covariates.
    pub covariates: Vec<CovariateFact>,
}

/// The way of a batch into the log.
pub trait FactLog: Send + Sync + 'static {
    /// Proposes the batch and waits for apply's reply.
    fn record(&self, batch: Batch) -> BoxFuture<'static, Result<BatchReply, Failure>>;
}

/// The door for evaluations.
pub struct Exposures {
    shards: Vec<Mutex<Shard>>,
    half: usize,
    queue: mpsc::Sender<Waiting>,
    waiting: AtomicUsize,
    idle: watch::Sender<bool>,
    /// Exposures that never reached the log, by experiment, and that no batch has told yet. As many entries as
    /// experiments have run meanwhile.
    untold: Mutex<BTreeMap<u32, u64>>,
    /// Code of the refusal that the newest batch met; empty when it was taken.
    refused: Mutex<String>,
    /// Units forgotten: what was on its way meanwhile may be known to nobody any more.
    forgotten: AtomicU64,
    /// Of the key by which the units were hashed.
    unit_key_id: AtomicU64,
    observation: Arc<Observation>,
}

/// How an exposure ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The log holds the unit in this arm.
    Held,
    /// The log gave another verdict, and counted that itself.
    Judged,
    /// The generation it was served in is over, by a trip, a stop or a resume: nothing is left to count it in.
    Closed,
    /// It never reached the log.
    Dropped,
}

/// What sends: to be run to its end.
pub struct Sender {
    exposures: Arc<Exposures>,
    queue: mpsc::Receiver<Waiting>,
    log: Arc<dyn FactLog>,
    producer: String,
}

impl Exposures {
    /// A door with room for `cache_max` known and `queue_max` waiting exposures.
    #[must_use]
    pub fn new(
        cache_max: usize,
        queue_max: usize,
        producer: String,
        unit_key_id: u64,
        log: Arc<dyn FactLog>,
        observation: Arc<Observation>,
    ) -> (Arc<Self>, Sender) {
        let (sender, receiver) = mpsc::channel(queue_max.max(1));
        let exposures = Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            half: (cache_max / SHARDS / 2).max(1),
            queue: sender,
            waiting: AtomicUsize::new(0),
            idle: watch::Sender::new(true),
            untold: Mutex::default(),
            refused: Mutex::default(),
            forgotten: AtomicU64::new(0),
            unit_key_id: AtomicU64::new(unit_key_id),
            observation,
        });
        let sender = Sender { exposures: Arc::clone(&exposures), queue: receiver, log, producer };
        (exposures, sender)
    }

    /// The unit key came after the start, before the first unit.
    pub fn keyed(&self, unit_key_id: u64) {
        self.unit_key_id.store(unit_key_id, Ordering::Relaxed);
    }

    /// Says that the unit was shown the arm, and its values of the experiment's dimensions and covariates. Never waits.
    pub fn imply(&self, environment: &str, exposed: Exposed, minute: u32, told: impl FnOnce() -> Told) {
        let packed = exposed.packed();
        let Some(shard) = self.shard(exposed.unit_hash) else { return };
        {
            let mut shard = shard.lock();
            if shard.knows(packed, self.half) {
                return;
            }
            shard.pending.insert(packed);
        }
        self.observation.exposures_implied.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting { environment: environment.into(), exposed, minute, told: told() };
        if self.queue.try_send(waiting).is_err() {
            self.settle(exposed, End::Dropped);
        }
    }

    /// The unit was erased: that it was recorded is no longer so, and its next exposure is one.
    pub fn forget(&self, unit_hash: u64) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        if let Some(shard) = self.shard(unit_hash) {
            let mut shard = shard.lock();
            shard.young.retain(|packed| *packed as u64 != unit_hash);
            shard.old.retain(|packed| *packed as u64 != unit_hash);
        }
    }

    /// A snapshot took the place of entries that were not seen here; erasures may be among them. Repeats cost a fact each.
    pub fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            let mut shard = shard.lock();
            (shard.young, shard.old) = (Set::default(), Set::default());
        }
    }

    /// Exposures that wait for the log.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Code of the refusal that the newest batch met; empty when it was taken.
    #[must_use]
    pub fn refused(&self) -> String {
        self.refused.lock().clone()
    }

    /// Waits until nothing waits any more, or the time is over; says whether nothing does.
    pub async fn flush(&self, patience: Duration) -> bool {
        let mut idle = self.idle.subscribe();
        let drained = async { while self.waiting() > 0 && idle.changed().await.is_ok() {} };
        tokio::time::timeout(patience, drained).await.is_ok()
    }

    fn owe(&self, experiment: u32, count: u64) {
        let mut untold = self.untold.lock();
        let owed = untold.entry(experiment).or_default();
        *owed = owed.saturating_add(count);
    }

    fn shard(&self, unit_hash: u64) -> Option<&Mutex<Shard>> {
        // High bits: the sets use the low ones.
        self.shards.get((unit_hash >> 60) as usize % SHARDS)
    }

    fn settle(&self, exposed: Exposed, end: End) {
        if let Some(shard) = self.shard(exposed.unit_hash) {
            let mut shard = shard.lock();
            shard.pending.remove(&exposed.packed());
            if end == End::Held {
                shard.enter(exposed.packed(), self.half);
            }
        }
        if end == End::Dropped {
            self.owe(exposed.experiment, 1);
        }
        if matches!(end, End::Judged | End::Dropped) {
            self.observation.exposures_lost.fetch_add(1, Ordering::Relaxed);
        }
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.send_replace(true);
        }
    }
}

impl Sender {
    /// Sends until every door is dropped.
    pub async fn run(mut self) {
        let mut sequence = 0u64;
        let mut in_flight = JoinSet::new();
        let mut gathered = Vec::with_capacity(BATCH_MAX);
        while self.gather(&mut gathered).await {
            // One environment a batch; the rest of the round follows with the next sequence.
            gathered.sort_by(|one: &Waiting, two: &Waiting| one.environment.cmp(&two.environment));
            for chunk in gathered.chunk_by(|one, two| one.environment == two.environment) {
                let Some(environment) = chunk.first().map(|first| Arc::clone(&first.environment)) else {
                    continue;
                };
                sequence = sequence.saturating_add(1);
                let batch = self.batch(&environment, sequence, chunk);
                let exposed: Vec<Exposed> = chunk.iter().map(|waiting| waiting.exposed).collect();
                while in_flight.len() >= IN_FLIGHT_MAX {
                    in_flight.join_next().await;
                }
                in_flight.spawn(send(Arc::clone(&self.exposures), Arc::clone(&self.log), batch, exposed));
            }
            gathered.clear();
            while in_flight.try_join_next().is_some() {}
        }
    }

    async fn gather(&mut self, gathered: &mut Vec<Waiting>) -> bool {
        if self.queue.recv_many(gathered, BATCH_MAX).await == 0 {
            return false;
        }
        let until = Instant::now() + BATCH_WAIT;
        while gathered.len() < BATCH_MAX {
            let room = BATCH_MAX - gathered.len();
            match tokio::time::timeout_at(until, self.queue.recv_many(gathered, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        true
    }

    fn batch(&self, environment: &str, sequence: u64, chunk: &[Waiting]) -> Batch {
        let exposures: Vec<ExposureFact> = (0u32..)
            .zip(chunk)
            .map(|(index, waiting)| ExposureFact {
                index,
                experiment: waiting.exposed.experiment,
                arm: u32::from(waiting.exposed.arm),
                unit_hash: waiting.exposed.unit_hash,
                minute: waiting.minute,
                generation: waiting.exposed.generation,
                dimensions: waiting.told.dimensions.clone(),
                covariates: waiting.told.covariates.clone(),
            })
            .collect();
        let mut batch = Batch {
            environment: environment.to_owned(),
            producer: self.producer.clone(),
            sequence,
            exposures,
            unit_key_id: self.exposures.unit_key_id.load(Ordering::Relaxed),
            lost: std::mem::take(&mut *self.exposures.untold.lock())
                .into_iter()
                .map(|(experiment, count)| LostExposures { experiment, count })
                .collect(),
            ..Batch::default()
        };
        batch.content_hash = xxh3_64(&batch.encode_to_vec());
        batch
    }
}

/// What a verdict makes of an exposure. Unless the log holds the unit in this arm, the next evaluation may imply it again.
fn end_of(verdict: Verdict) -> End {
    match verdict {
        Verdict::Counted | Verdict::Repeated | Verdict::CrossedTwice | Verdict::Thinned => End::Held,
        Verdict::NotRunning | Verdict::ExpiredReceipt => End::Closed,
        _ => End::Judged,
    }
}

/// Sends one batch until it has an answer. Always the same sequence: what was counted is not counted again.
async fn send(exposures: Arc<Exposures>, log: Arc<dyn FactLog>, batch: Batch, exposed: Vec<Exposed>) {
    let mut pause = RETRY_FIRST;
    loop {
        let forgotten = exposures.forgotten.load(Ordering::Acquire);
        match log.record(batch.clone()).await {
            Ok(reply) => {
                // A unit that was erased while the answer was on its way must not come in as known.
                let known = exposures.forgotten.load(Ordering::Acquire) == forgotten;
                *exposures.refused.lock() =
                    reply.refusal.as_ref().map_or_else(String::new, |refusal| refusal.code.clone());
                if let Some(refusal) = &reply.refusal {
                    tracing::warn!(
                        code = refusal.code,
                        message = refusal.message,
                        "implied exposures were refused"
                    );
                    // The log took nothing of the batch, so what it would have told is owed again.
                    batch.lost.iter().for_each(|lost| exposures.owe(lost.experiment, lost.count));
                }
                for (index, exposed) in (0u32..).zip(exposed) {
                    let verdict = reply.verdicts.iter().find(|verdict| verdict.index == index);
                    let verdict = verdict.map_or(Verdict::Counted, |verdict| verdict.verdict());
                    exposures.observation.judged(verdict.into(), 1);
                    let end = match end_of(verdict) {
                        _ if reply.refusal.is_some() => End::Dropped,
                        End::Held if !known => End::Closed,
                        end => end,
                    };
                    exposures.settle(exposed, end);
                }
                return;
            }
            Err(failure) => {
                tracing::debug!(?failure, sequence = batch.sequence, "implied exposures are sent again");
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(RETRY_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_proto::ErrorCode;
    use featureops_proto::log::{DoorVerdict, Refusal};

    /// Answers the n-th attempt as told, and keeps what was recorded by sequence.
    #[derive(Default)]
    struct Recorder {
        refusal: Mutex<Option<Refusal>>,
        failures: Mutex<Vec<Failure>>,
        batches: Mutex<BTreeMap<u64, Batch>>,
        verdict: Mutex<Option<Verdict>>,
        attempts: AtomicUsize,
    }

    impl FactLog for Recorder {
        fn record(&self, batch: Batch) -> BoxFuture<'static, Result<BatchReply, Failure>> {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            let outcome = match self.failures.lock().pop() {
                Some(failure) => Err(failure),
                None => {
                    let of = |index| DoorVerdict {
                        index,
                        verdict: self.verdict.lock().unwrap_or_default().into(),
                    };
                    let judged = self.verdict.lock().is_some();
                    let verdicts = (0..batch.exposures.len() as u32).filter(|_| judged).map(of).collect();
                    self.batches.lock().insert(batch.sequence, batch);
                    let refusal = self.refusal.lock().clone();
                    Ok(BatchReply { verdicts, refusal, ..BatchReply::default() })
                }
            };
            Box::pin(async move { outcome })
        }
    }

    fn exposed(unit: u64) -> Exposed {
        // Spread as a keyed hash spreads units.
        let unit_hash = unit.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Exposed { experiment: 1, generation: 1, arm: 0, unit_hash }
    }

    fn open(recorder: &Arc<Recorder>, cache: usize, queue: usize) -> (Arc<Exposures>, Sender) {
        let log: Arc<dyn FactLog> = Arc::<Recorder>::clone(recorder);
        Exposures::new(cache, queue, "node".into(), 5, log, Arc::default())
    }

    fn lost(exposures: &Exposures) -> u64 {
        exposures.observation.exposures_lost.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_unit_is_recorded_once_however_often_it_is_evaluated() {
        let recorder = Arc::new(Recorder::default());
        let (exposures, sender) = open(&recorder, 1_000, 1_000);
        tokio::spawn(sender.run());
        for _ in 0..3 {
            for unit in 0..200 {
                exposures.imply("p", exposed(unit), 9, Told::default);
            }
            assert!(exposures.flush(Duration::from_secs(1)).await);
        }
        let batches = recorder.batches.lock();
        assert_eq!(batches.values().map(|batch| batch.exposures.len()).sum::<usize>(), 200);
        assert_eq!(lost(&exposures), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_batch_is_sent_again_under_its_sequence() {
        let recorder = Arc::new(Recorder::default());
        *recorder.failures.lock() = vec![Failure::Unknown(String::new()), Failure::NotLeader(String::new())];
        let (exposures, sender) = open(&recorder, 1_000, 1_000);
        tokio::spawn(sender.run());
        exposures.imply("p", exposed(1), 9, Told::default);
        exposures.imply("q", exposed(2), 9, Told::default);
        assert!(exposures.flush(Duration::from_secs(30)).await);
        let batches = recorder.batches.lock();
        assert_eq!(batches.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(recorder.attempts.load(Ordering::Relaxed), 4);
        assert_eq!((batches[&1].environment.as_str(), batches[&2].environment.as_str()), ("p", "q"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_loses_and_says_so_and_what_was_lost_may_come_again() {
        let recorder = Arc::new(Recorder::default());
        let (exposures, sender) = open(&recorder, 1_000, 4);
        for unit in 0..10 {
            exposures.imply("p", exposed(unit), 9, Told::default);
        }
        assert_eq!((lost(&exposures), exposures.waiting()), (6, 4));
        tokio::spawn(sender.run());
        assert!(exposures.flush(Duration::from_secs(1)).await);
        for unit in 6..10 {
            exposures.imply("p", exposed(unit), 9, Told::default);
        }
        assert!(exposures.flush(Duration::from_secs(1)).await);
        let recorded: usize = recorder.batches.lock().values().map(|batch| batch.exposures.len()).sum();
        assert_eq!((recorded, lost(&exposures)), (8, 6));
        // The first batch after the loss told the log, and no other did again.
        let told: Vec<_> = recorder.batches.lock().values().flat_map(|batch| batch.lost.clone()).collect();
        assert_eq!(told, [LostExposures { experiment: 1, count: 6 }]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_the_log_holds_is_known_and_the_rest_may_come_again() {
        use Verdict::{Counted, CrossedTwice, ExpiredReceipt, Late, NoRoom, NotRunning, Repeated, Thinned};
        // Batches sent and exposures lost, when the same unit is served twice.
        for (verdict, seen) in [
            (Counted, (1, 0)),
            (Repeated, (1, 0)),
            (CrossedTwice, (1, 0)),
            // Not counted, and never will be: to say it again would cost the log and change nothing.
            (Thinned, (1, 0)),
            (NotRunning, (2, 0)),
            (ExpiredReceipt, (2, 0)),
            (NoRoom, (2, 2)),
            (Late, (2, 2)),
        ] {
            let recorder = Arc::new(Recorder::default());
            *recorder.verdict.lock() = Some(verdict);
            let (exposures, sender) = open(&recorder, 1_000, 1_000);
            tokio::spawn(sender.run());
            for _ in 0..2 {
                exposures.imply("p", exposed(1), 9, Told::default);
                assert!(exposures.flush(Duration::from_secs(1)).await);
            }
            let batches = recorder.batches.lock().len();
            assert_eq!((batches, lost(&exposures)), seen, "{verdict:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn why_a_batch_was_refused_is_known_until_one_is_taken() {
        let recorder = Arc::new(Recorder::default());
        let (exposures, sender) = open(&recorder, 1_000, 1_000);
        tokio::spawn(sender.run());
        for code in ["TOO_MANY_PRODUCERS", ""] {
            *recorder.refusal.lock() = (!code.is_empty())
                .then(|| Refusal::new(ErrorCode::TooManyProducers, "producer", "node", "full"));
            exposures.imply("p", exposed(1), 9, Told::default);
            assert!(exposures.flush(Duration::from_secs(1)).await);
            assert_eq!(exposures.refused(), code);
        }
    }

    /// Erases the unit while its exposure's answer is on its way.
    #[derive(Default)]
    struct Erasing {
        exposures: std::sync::OnceLock<Arc<Exposures>>,
        batches: AtomicUsize,
    }

    impl FactLog for Erasing {
        fn record(&self, batch: Batch) -> BoxFuture<'static, Result<BatchReply, Failure>> {
            // The first is erased behind its own entry, the later ones are not.
            if self.batches.fetch_add(1, Ordering::Relaxed) == 0
                && let (Some(exposures), Some(fact)) = (self.exposures.get(), batch.exposures.first())
            {
                exposures.forget(fact.unit_hash);
            }
            Box::pin(async { Ok(BatchReply::default()) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_erased_unit_is_not_known_however_late_its_answer_comes() {
        let erasing = Arc::new(Erasing::default());
        let log: Arc<dyn FactLog> = Arc::<Erasing>::clone(&erasing);
        let (exposures, sender) = Exposures::new(1_000, 1_000, "node".into(), 5, log, Arc::default());
        let _ = erasing.exposures.set(Arc::clone(&exposures));
        tokio::spawn(sender.run());
        for batches in [1, 2, 2] {
            exposures.imply("p", exposed(1), 9, Told::default);
            assert!(exposures.flush(Duration::from_secs(1)).await);
            assert_eq!(erasing.batches.load(Ordering::Relaxed), batches);
        }
        assert_eq!(lost(&exposures), 0);
        // Known by now, and forgotten again.
        for forget in [Exposures::forget as fn(&Exposures, u64), |exposures, _| exposures.forget_all()] {
            let before = erasing.batches.load(Ordering::Relaxed);
            forget(&exposures, exposed(1).unit_hash);
            exposures.imply("p", exposed(1), 9, Told::default);
            assert!(exposures.flush(Duration::from_secs(1)).await);
            assert_eq!(erasing.batches.load(Ordering::Relaxed), before + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_is_bounded_and_never_claims_what_it_has_not_seen() {
        let recorder = Arc::new(Recorder::default());
        let (exposures, sender) = open(&recorder, 64, 100_000);
        tokio::spawn(sender.run());
        for unit in 0..5_000u64 {
            exposures.imply("p", exposed(unit), 9, Told::default);
        }
        assert!(exposures.flush(Duration::from_secs(60)).await);
        let sizes = exposures.shards.iter().map(|shard| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        });
        let held: usize = sizes.sum();
        assert!(held <= 64 + SHARDS, "{held}");
        let recorded: usize = recorder.batches.lock().values().map(|batch| batch.exposures.len()).sum();
        assert_eq!(recorded, 5_000);
    }
}
