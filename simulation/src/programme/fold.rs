//! The product's fold without a log around it: what a team's people, its services and its owners send, applied in one order.

use featureops_proto::log::{
    self, Batch, Entry, Ingest, Initialize, OwnerStamp, ReceiptKey, Refusal, entry, reply,
};
use featureops_proto::v1::{self, principal};
use featureops_state::{Effect, State};
use prost::Message as _;

/// By which units are hashed; no key is needed where hashes are drawn.
const UNIT_KEY: u64 = 1;
const PRODUCER: &str = "service";
/// 2026-01-01.
const BEGIN_MS: i64 = 1_767_225_600_000;

/// What the fold stopped for, or refused though nobody should have been refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// A state and where its log stands.
#[derive(Clone)]
pub struct Fold {
    /// The product's own.
    pub state: State,
    /// The environment of everything.
    environment: String,
    position: u64,
    sequence: u64,
    now_ms: i64,
}

fn principal(kind: principal::Kind, id: &str) -> v1::Principal {
    v1::Principal { kind: kind.into(), id: id.to_owned(), verified: true }
}

impl Fold {
    /// A cluster that was founded a moment ago.
    pub fn new(environment: &str) -> Result<Self, Fault> {
        let mut fold = Self {
            state: State::new(),
            environment: environment.to_owned(),
            position: 0,
            sequence: 0,
            now_ms: BEGIN_MS,
        };
        fold.person(entry::Command::Initialize(Initialize {
            cluster: "programme".to_owned(),
            unit_key_id: UNIT_KEY,
            receipt_key: Some(ReceiptKey { id: 1, key: vec![1; 16] }),
            now_ms: 0,
            feature_level: 0,
        }))?;
        fold.tick(0)?;
        Ok(fold)
    }

    /// Log time goes on; the experiments that are frozen anew.
    pub fn tick(&mut self, forward_ms: i64) -> Result<Vec<u32>, Fault> {
        self.now_ms = self.now_ms.saturating_add(forward_ms);
        let tick = log::Tick { now_ms: self.now_ms, after_restart: false };
        let (_, effects) =
            self.apply(&Entry { command: Some(entry::Command::Tick(tick)), ..Entry::default() })?;
        let frozen = |effect: &Effect| match effect {
            Effect::Frozen { number } => Some(*number),
            _ => None,
        };
        Ok(effects.iter().filter_map(frozen).collect())
    }

    /// The log's time, in unix milliseconds.
    pub const fn now_ms(&self) -> i64 {
        self.now_ms
    }

    fn apply(&mut self, entry: &Entry) -> Result<(log::Reply, Vec<Effect>), Fault> {
        self.position = self.position.saturating_add(1);
        let mut effects = Vec::new();
        let reply = self.state.apply(self.position, &entry.encode_to_vec(), &mut effects);
        Ok((reply.map_err(|violation| Fault(format!("the fold stopped: {violation}")))?, effects))
    }

    /// What a person asks for, and must get.
    pub fn person(&mut self, command: entry::Command) -> Result<(), Fault> {
        match self.asked(command)? {
            Some(refusal) => Err(Fault(format!("refused: {} ({})", refusal.message, refusal.code))),
            None => Ok(()),
        }
    }

    /// What a person asks for, and may be refused.
    pub fn asked(&mut self, command: entry::Command) -> Result<Option<Refusal>, Fault> {
        let principal = Some(principal(principal::Kind::Human, "analyst"));
        let (reply, _) = self.apply(&Entry { principal, command: Some(command), ..Entry::default() })?;
        Ok(match reply.result {
            Some(reply::Result::Refusal(refusal)) => Some(refusal),
            _ => None,
        })
    }

    /// What an owner proposes, and may be refused.
    pub fn owner(&mut self, stamp: OwnerStamp, decision: v1::Decision) -> Result<Option<Refusal>, Fault> {
        let command = entry::Command::SubmitDecision(log::SubmitDecision { decision: Some(decision) });
        let (reply, _) = self.apply(&Entry {
            principal: Some(principal(principal::Kind::System, "owner")),
            owner: Some(stamp),
            command: Some(command),
            ..Entry::default()
        })?;
        Ok(match reply.result {
            Some(reply::Result::Refusal(refusal)) => Some(refusal),
            _ => None,
        })
    }

    /// Facts, all of which must count: how many did.
    pub fn facts(&mut self, batch: Batch) -> Result<u64, Fault> {
        let events = batch.exposures.len().saturating_add(batch.outcomes.len());
        if events == 0 {
            return Ok(0);
        }
        self.sequence = self.sequence.saturating_add(1);
        let batch = Batch {
            environment: self.environment.clone(),
            producer: PRODUCER.to_owned(),
            sequence: self.sequence,
            content_hash: self.sequence,
            unit_key_id: UNIT_KEY,
            ..batch
        };
        let command = entry::Command::Ingest(Ingest { batches: vec![batch] });
        let (reply, _) = self.apply(&Entry { command: Some(command), ..Entry::default() })?;
        let counted = match reply.result {
            Some(reply::Result::Ingested(ingested)) => {
                ingested.batches.first().map_or(0, |batch| batch.counted as usize)
            }
            _ => 0,
        };
        match counted == events {
            true => Ok(events as u64),
            false => Err(Fault(format!("{counted} of {events} events were counted"))),
        }
    }
}
