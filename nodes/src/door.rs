//! The door of facts: what a client sends becomes what the log holds, event by event.
//!
//! ```text
//!   FactBatch ── bounds ──> refused as a whole: nothing was counted, the field is named
//!       │
//!       └─ each event: keys -> numbers, unit -> keyed hash, time -> minute, value -> fixed point, receipt -> verified
//!              ├─ admitted   ExposureFact | OutcomeFact
//!              └─ turned off DoorVerdict; the rest of the batch stands
//! ```
//!
//! Refused events go into the log by index, so that a repeated batch is answered the same. A batch of nothing else, of a
//! producer without a window, is answered here and remembered nowhere: its repeat is judged anew. The content hash covers
//! environment and events as sent, and neither producer nor sequence: those *name* the batch, the hash says what it
//! held, and a retry through another path (unary or stream) is still the same batch.
//!
//! Raw units and attributes end here: neither reaches the log, but for the values of the dimensions and covariates that
//! the experiment declares.

use featureops_evaluation::{Key, Receipt, UnitKey, minute};
use featureops_proto::log::{Batch, BatchReply, DoorVerdict, ExposureFact, OutcomeFact, ReceiptFact};
use featureops_proto::v1::{EventVerdict, Exposure, FactBatch, Outcome, ReportFactsResponse, Verdict};
use featureops_state::is_node_producer;
use prost::Message as _;
use prost_types::{Timestamp, Value};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use crate::covariates;
use crate::dimensions;
use crate::fixed_point::Unscalable;
use crate::publisher::Published;
use crate::refusal;

/// Events of one batch.
pub const EVENTS_MAX: usize = 4_096;
/// Bytes of a unit's key.
pub const UNIT_BYTES_MAX: usize = featureops_evaluation::limits::MAX_UNIT_BYTES;
/// Bytes of any other key (metric, experiment, variant).
pub const KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a producer's name.
pub const PRODUCER_BYTES_MAX: usize = 128;
/// Attributes of one event.
pub const ATTRIBUTES_MAX: usize = 64;
/// Encoded bytes of one event's attributes.
pub const ATTRIBUTE_BYTES_MAX: usize = 8 << 10;

/// What the door knows while it looks at a batch.
pub struct Door<'a> {
    /// Keys, numbers, scales, receipt keys.
    pub published: &'a Published,
    /// By which units are hashed.
    pub unit_key: &'a UnitKey,
    /// Counts values of covariates that cannot be kept.
    pub unusable: &'a AtomicU64,
    /// The node's clock, for the round of a receipt's minute only.
    pub now_ms: i64,
}

impl Door<'_> {
    /// The batch as the log holds it.
    ///
    /// # Errors
    /// The batch as a whole is out of bounds; nothing of it was counted.
    pub fn admit(&self, batch: &FactBatch) -> Result<Batch, Status> {
        let environment = crate::services::environment(&batch.environment, "environment")?;
        check_producer(&batch.producer)?;
        let events = batch.exposures.len().saturating_add(batch.outcomes.len());
        if events == 0 || events > EVENTS_MAX {
            let field = if batch.outcomes.is_empty() { "exposures" } else { "outcomes" };
            return Err(refusal::invalid(
                field,
                events,
                format!("events in a batch: send 1 to {EVENTS_MAX}"),
            ));
        }
        let mut admitted = Batch {
            environment: environment.to_owned(),
            producer: batch.producer.clone(),
            sequence: batch.sequence,
            content_hash: content_hash(environment, batch),
            unit_key_id: self.unit_key.id(),
            ..Batch::default()
        };
        let mut index = 0u32;
        for exposure in &batch.exposures {
            match self.exposure(environment, index, exposure) {
                Ok(fact) => admitted.exposures.push(fact),
                Err(verdict) => admitted.door.push(DoorVerdict { index, verdict: verdict.into() }),
            }
            index += 1;
        }
        for outcome in &batch.outcomes {
            match self.outcome(environment, index, outcome) {
                Ok(fact) => admitted.outcomes.push(fact),
                Err(verdict) => admitted.door.push(DoorVerdict { index, verdict: verdict.into() }),
            }
            index += 1;
        }
        Ok(admitted)
    }

    fn exposure(&self, environment: &str, index: u32, event: &Exposure) -> Result<ExposureFact, Verdict> {
        check_unit(&event.unit)?;
        check_key(&event.experiment)?;
        check_key(&event.variant)?;
        check_attributes(&event.attributes)?;
        if event.forced {
            return Err(Verdict::Forced);
        }
        let Some(experiment) = self.published.registry.experiment(environment, &event.experiment) else {
            return Err(Verdict::UnknownExperiment);
        };
        let arm = experiment.arm(&event.variant).ok_or(Verdict::UnknownVariant)?;
        // A receipt of another experiment or arm proves nothing about this exposure; the running generation counts then.
        let generation = self
            .open(&event.receipt, &event.unit)
            .filter(|receipt| receipt.experiment == experiment.number && u32::from(receipt.arm) == arm)
            .map_or(0, |receipt| receipt.generation);
        Ok(ExposureFact {
            index,
            experiment: experiment.number,
            arm,
            unit_hash: self.unit_key.hash(event.unit.as_bytes()),
            minute: minute_of(event.event_time.as_ref())?,
            generation,
            dimensions: dimensions::of(&experiment.dimensions, |name| event.attributes.get(name)),
            covariates: covariates::of(
                &experiment.covariates,
                |name| event.attributes.get(name),
                self.unusable,
            ),
        })
    }

    fn outcome(&self, environment: &str, index: u32, event: &Outcome) -> Result<OutcomeFact, Verdict> {
        check_unit(&event.unit)?;
        check_key(&event.metric)?;
        check_attributes(&event.attributes)?;
        let Some(metric) = self.published.registry.metric(environment, &event.metric) else {
            return Err(Verdict::UnknownMetric);
        };
        let value = metric.fixed_point(event.value).map_err(|fault| match fault {
            Unscalable::NonFinite => Verdict::NonFinite,
            Unscalable::OutOfScale => Verdict::OutOfScale,
        })?;
        let receipt = self.open(&event.receipt, &event.unit);
        Ok(OutcomeFact {
            index,
            metric: metric.number,
            unit_hash: self.unit_key.hash(event.unit.as_bytes()),
            value,
            minute: minute_of(event.event_time.as_ref())?,
            bad_receipt: receipt.is_none() && !event.receipt.is_empty(),
            receipt: receipt.map(|receipt| ReceiptFact {
                experiment: receipt.experiment,
                arm: u32::from(receipt.arm),
                generation: receipt.generation,
                minute: minute::to_unix_minute(receipt.minute, unix_minute(self.now_ms)),
            }),
        })
    }

    fn open(&self, text: &str, unit: &str) -> Option<Receipt> {
        if text.is_empty() {
            return None;
        }
        let keys: &[Key] = &self.published.receipt_keys;
        Receipt::open(text.as_bytes(), unit.as_bytes(), keys).ok().map(|receipt| *receipt.fields())
    }
}

/// The client's answer to a batch of `events`: apply's reply alone, which holds what the door turned off when the batch
/// was taken first. What the door thinks of a repeated batch today (a metric known since then) is no part of its answer.
#[must_use]
pub fn answer(events: usize, reply: BatchReply) -> ReportFactsResponse {
    let mut verdicts = BTreeMap::new();
    // Answered so long ago that only the sequence is remembered: what each event got then is gone.
    if reply.duplicate && reply.position == 0 {
        verdicts =
            (0..events.min(EVENTS_MAX) as u32).map(|index| (index, Verdict::Duplicate.into())).collect();
    }
    // One an event; that its receipt is forged or another's is told before all else, for only its sender can mend that.
    let forged = |verdict: &&DoorVerdict| verdict.verdict == i32::from(Verdict::BadReceipt);
    let (others, forged) =
        (reply.verdicts.iter().filter(|v| !forged(v)), reply.verdicts.iter().filter(forged));
    verdicts.extend(others.chain(forged).map(|verdict| (verdict.index, verdict.verdict)));
    ReportFactsResponse {
        position: crate::services::position(reply.position),
        counted: reply.counted,
        verdicts: verdicts
            .into_iter()
            .map(|(index, verdict)| EventVerdict { index, verdict, detail: detail(verdict).to_owned() })
            .collect(),
        duplicate: reply.duplicate,
    }
}

/// XXH3-64 over environment and events as sent.
fn content_hash(environment: &str, batch: &FactBatch) -> u64 {
    let length = environment.len()
        + batch.exposures.iter().map(prost::Message::encoded_len).sum::<usize>()
        + batch.outcomes.iter().map(prost::Message::encoded_len).sum::<usize>();
    let mut bytes = Vec::with_capacity(length.saturating_add(16 * EVENTS_MAX).min(8 << 20));
    bytes.extend_from_slice(environment.as_bytes());
    bytes.push(0);
    // Delimited and tagged: no two different batches have the same bytes.
    for exposure in &batch.exposures {
        bytes.push(1);
        bytes.extend_from_slice(&exposure.encode_length_delimited_to_vec());
    }
    for outcome in &batch.outcomes {
        bytes.push(2);
        bytes.extend_from_slice(&outcome.encode_length_delimited_to_vec());
    }
    xxh3_64(&bytes)
}

fn check_producer(producer: &str) -> Result<(), Status> {
    if producer.is_empty() || producer.len() > PRODUCER_BYTES_MAX {
        return Err(refusal::invalid(
            "producer",
            producer,
            format!(
                "has {} bytes; name the sending process by 1 to {PRODUCER_BYTES_MAX} bytes that no other process uses",
                producer.len()
            ),
        ));
    }
    if is_node_producer(producer) {
        return Err(refusal::invalid(
            "producer",
            producer,
            "is of the form that nodes report their own exposures by; name the sending process otherwise",
        ));
    }
    Ok(())
}

fn check_unit(unit: &str) -> Result<(), Verdict> {
    match unit.len() {
        0 => Err(Verdict::MissingUnit),
        1..=UNIT_BYTES_MAX => Ok(()),
        _ => Err(Verdict::Oversized),
    }
}

fn check_key(key: &str) -> Result<(), Verdict> {
    if key.len() > KEY_BYTES_MAX { Err(Verdict::Oversized) } else { Ok(()) }
}

fn check_attributes(attributes: &BTreeMap<String, Value>) -> Result<(), Verdict> {
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(Verdict::Oversized);
    }
    let mut bytes = 0usize;
    for (key, value) in attributes {
        bytes = bytes.saturating_add(key.len()).saturating_add(value.encoded_len());
        if bytes > ATTRIBUTE_BYTES_MAX {
            return Err(Verdict::Oversized);
        }
    }
    Ok(())
}

/// The whole minute of an event's time; 0, meaning log time, when it has none.
fn minute_of(time: Option<&Timestamp>) -> Result<u32, Verdict> {
    let Some(time) = time else { return Ok(0) };
    // Minute 0 is taken for "log time", and nothing that old is counted anyway.
    match u32::try_from(time.seconds.div_euclid(60)) {
        Ok(0) => Err(Verdict::Late),
        Ok(minute) => Ok(minute),
        Err(_) if time.seconds < 0 => Err(Verdict::Late),
        Err(_) => Err(Verdict::Early),
    }
}

/// The unix minute of a time; 0 before 1970.
#[must_use]
pub fn unix_minute(unix_ms: i64) -> u32 {
    u32::try_from(unix_ms.div_euclid(60_000)).unwrap_or(0)
}

/// What a verdict means to whoever sent the event, with the way out where there is one.
#[must_use]
pub fn detail(verdict: i32) -> &'static str {
    match Verdict::try_from(verdict).unwrap_or_default() {
        Verdict::Unspecified => "a verdict this node does not know",
        Verdict::Counted => "",
        Verdict::Waiting => "no exposure of the unit yet: held for 60 s and counted if one comes",
        Verdict::Unused => "no running experiment uses the metric",
        Verdict::Repeated => "the unit was already recorded in this arm",
        Verdict::Duplicate => "the batch was answered before; nothing was counted again",
        Verdict::Late => "event_time is before the metric's late limit (at most 72 hours)",
        Verdict::Early => "event_time is more than 5 minutes ahead of the cluster's time: check the clock",
        Verdict::BeforeExposure => "event_time is before the unit's exposure",
        Verdict::OutsideWindow => "event_time is after the metric's attribution window",
        Verdict::UnknownMetric => "metric is not known in this environment: set it first",
        Verdict::UnknownExperiment => "experiment is not known in this environment",
        Verdict::UnknownVariant => "variant is no arm of the experiment",
        Verdict::NonFinite => "value is NaN or infinite: send a finite number",
        Verdict::OutOfScale => {
            "|value x 10^decimal_scale| is above 2^53: lower the metric's decimal_scale or the value"
        }
        Verdict::Oversized => {
            "a key has more than 1,024 bytes, or the attributes more than 64 entries or 8 KiB"
        }
        Verdict::SumOverflow => "the unit's sum would pass 2^57 at the metric's scale",
        Verdict::CrossedTwice => "the unit has changed arms more than once",
        Verdict::BadReceipt => {
            "the receipt does not verify for this unit; the outcome was joined by unit instead"
        }
        Verdict::ExpiredReceipt => "the receipt's generation closed more than one attribution window ago",
        Verdict::NoRoom => "the budget of the experiment or of the cluster is full",
        Verdict::Forced => "assigned by force: left out of analysis",
        Verdict::NotRunning => "the experiment is not running",
        Verdict::NoExposure => "held for 60 s, and no exposure of the unit came",
        Verdict::MissingUnit => "unit is empty: send the targeting key of the evaluation",
        Verdict::Thinned => {
            "a budget was full, and the unit is in the part of the hash space that the experiment no longer counts"
        }
        Verdict::WaitingFull => "no exposure of the unit, and too many newer events were waiting for theirs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_proto::v1::{Arm, Experiment, Metric, experiment};

    fn published() -> Published {
        let mut published = Published::default();
        published.registry.put_metric(&Metric {
            name: "environments/p/metrics/revenue".into(),
            decimal_scale: Some(2),
            number: 9,
            ..Metric::default()
        });
        published.registry.put_experiment(&Experiment {
            name: "environments/p/experiments/checkout".into(),
            number: 4,
            arms: ["off", "on"].map(|variant| Arm { variant: variant.into(), established: false }).to_vec(),
            state: experiment::State::Running.into(),
            ..Experiment::default()
        });
        published.receipt_keys = vec![Key::new(1, [7; 16]).unwrap()].into();
        published
    }

    fn outcome(metric: &str, unit: &str, value: f64) -> Outcome {
        Outcome { metric: metric.into(), unit: unit.into(), value: Some(value), ..Outcome::default() }
    }

    fn batch(outcomes: Vec<Outcome>) -> FactBatch {
        FactBatch {
            environment: "p".into(),
            producer: "shop-1".into(),
            sequence: 1,
            outcomes,
            ..FactBatch::default()
        }
    }

    fn admit(batch: &FactBatch) -> Result<Batch, Status> {
        let (published, unit_key, unusable) = (published(), UnitKey::new([1; 16]), AtomicU64::new(0));
        let now_ms = 1_800_000_000_000;
        Door { published: &published, unit_key: &unit_key, unusable: &unusable, now_ms }.admit(batch)
    }

    #[test]
    fn bad_events_get_verdicts_and_the_rest_of_the_batch_stands() {
        let long = "x".repeat(100_000);
        let admitted = admit(&batch(vec![
            outcome("revenue", "ada", 19.99),
            outcome("revenue", "", 1.0),
            outcome("revenue", &long, 1.0),
            outcome("nothing", "ada", 1.0),
            outcome("revenue", "ada", f64::NAN),
            outcome("revenue", "ada", 1e30),
            outcome("revenue", "ada", 0.005),
        ]))
        .unwrap();
        let values: Vec<_> =
            admitted.outcomes.iter().map(|fact| (fact.index, fact.metric, fact.value)).collect();
        assert_eq!(values, [(0, 9, 1_999), (6, 9, 0)]);
        let door: Vec<_> = admitted.door.iter().map(|door| (door.index, door.verdict())).collect();
        assert_eq!(
            door,
            [
                (1, Verdict::MissingUnit),
                (2, Verdict::Oversized),
                (3, Verdict::UnknownMetric),
                (4, Verdict::NonFinite),
                (5, Verdict::OutOfScale),
            ]
        );
    }

    #[test]
    fn a_batch_out_of_bounds_is_refused_as_a_whole_and_names_the_field() {
        let fine = batch(vec![outcome("revenue", "ada", 1.0)]);
        for (field, broken) in [
            ("outcomes", batch(vec![outcome("revenue", "ada", 1.0); EVENTS_MAX + 1])),
            ("exposures", batch(vec![])),
            ("producer", FactBatch { producer: String::new(), ..fine.clone() }),
            ("producer", FactBatch { producer: "x".repeat(129), ..fine.clone() }),
            ("producer", FactBatch { producer: featureops_state::node_producer(1, 7), ..fine.clone() }),
            ("environment", FactBatch { environment: "a/b".into(), ..fine.clone() }),
        ] {
            let status = admit(&broken).unwrap_err();
            assert!(status.message().starts_with(field), "{}", status.message());
        }
        assert!(admit(&fine).is_ok());
    }

    #[test]
    fn the_content_hash_is_of_the_content_only() {
        let one = batch(vec![outcome("revenue", "ada", 1.0)]);
        let hash = |batch: &FactBatch| admit(batch).unwrap().content_hash;
        let renamed = FactBatch { producer: "other".into(), sequence: 99, ..one.clone() };
        assert_eq!(hash(&one), hash(&renamed));
        assert_ne!(hash(&one), hash(&batch(vec![outcome("revenue", "ada", 2.0)])));
        let twice = batch(vec![outcome("revenue", "ada", 1.0), outcome("revenue", "ada", 1.0)]);
        assert_ne!(hash(&one), hash(&twice));
    }

    #[test]
    fn a_forged_receipt_is_told_before_whatever_else_became_of_the_event() {
        let of = |verdict: Verdict| DoorVerdict { index: 0, verdict: verdict.into() };
        for other in [Verdict::Waiting, Verdict::NoRoom, Verdict::Thinned] {
            let verdicts = vec![of(other), of(Verdict::BadReceipt)];
            for verdicts in [verdicts.clone(), verdicts.into_iter().rev().collect()] {
                let answered = answer(1, BatchReply { position: 7, verdicts, ..BatchReply::default() });
                let told: Vec<Verdict> = answered.verdicts.iter().map(|one| one.verdict()).collect();
                assert_eq!(told, [Verdict::BadReceipt], "{other:?}");
            }
        }
    }

    #[test]
    fn a_repeated_batch_is_answered_by_what_was_recorded_and_by_nothing_else() {
        let recorded = BatchReply {
            position: 7,
            counted: 1,
            verdicts: vec![DoorVerdict { index: 2, verdict: Verdict::UnknownMetric.into() }],
            duplicate: true,
            refusal: None,
        };
        let answered = answer(3, recorded.clone());
        let verdicts: Vec<_> = answered.verdicts.iter().map(|one| (one.index, one.verdict())).collect();
        assert_eq!((answered.counted, verdicts), (1, vec![(2, Verdict::UnknownMetric)]));
        // So old that only the sequence is remembered.
        let forgotten = answer(3, BatchReply { position: 0, counted: 0, verdicts: vec![], ..recorded });
        assert!(forgotten.verdicts.iter().all(|one| one.verdict() == Verdict::Duplicate));
        assert_eq!(forgotten.verdicts.len(), 3);
    }

    #[test]
    fn a_receipt_is_taken_only_from_whom_it_was_given_to() {
        let key = Key::new(1, [7; 16]).unwrap();
        let receipt = Receipt {
            experiment: 4,
            arm: 1,
            generation: 2,
            minute: minute::of_unix_ms(1_799_999_000_000),
            propensity_basis_points: 5_000,
            position: 77,
        };
        let text = receipt.seal(&key, b"ada").unwrap().to_string();
        let of = |unit: &str| Outcome { receipt: text.clone(), ..outcome("revenue", unit, 1.0) };
        let admitted = admit(&batch(vec![of("ada"), of("bob")])).unwrap();
        let (ada, bob) = (&admitted.outcomes[0], &admitted.outcomes[1]);
        let fact = ada.receipt.as_ref().unwrap();
        assert_eq!((fact.experiment, fact.arm, fact.generation), (4, 1, 2));
        assert_eq!(fact.minute, unix_minute(1_799_999_000_000));
        assert!(!ada.bad_receipt && bob.bad_receipt && bob.receipt.is_none());
        assert_ne!(ada.unit_hash, bob.unit_hash);
    }

    #[test]
    fn times_beyond_reckoning_are_late_or_early() {
        let at = |seconds| minute_of(Some(&Timestamp { seconds, nanos: -5 }));
        assert_eq!(minute_of(None), Ok(0));
        assert_eq!(at(1_800_000_059), Ok(30_000_000));
        for past in [0, 59, -1, i64::MIN] {
            assert_eq!(at(past), Err(Verdict::Late));
        }
        assert_eq!(at(i64::MAX), Err(Verdict::Early));
    }

    #[test]
    fn an_exposure_of_an_unknown_variant_or_by_force_is_turned_off() {
        let exposure = |variant: &str, forced| Exposure {
            experiment: "checkout".into(),
            unit: "ada".into(),
            variant: variant.into(),
            forced,
            ..Exposure::default()
        };
        let exposures = vec![exposure("on", false), exposure("neither", false), exposure("on", true)];
        let admitted = admit(&FactBatch { exposures, ..batch(vec![]) }).unwrap();
        assert_eq!((admitted.exposures[0].experiment, admitted.exposures[0].arm), (4, 1));
        let door: Vec<_> = admitted.door.iter().map(DoorVerdict::verdict).collect();
        assert_eq!(door, [Verdict::UnknownVariant, Verdict::Forced]);
    }
}
