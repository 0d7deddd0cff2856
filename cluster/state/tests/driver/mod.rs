//! Drives a state as a log would: builds entries, applies them at rising positions, keeps them for a replay.

#![allow(dead_code)]

use std::collections::BTreeMap;

use featureops_proto::log::{self, Entry, Reply, entry, reply};
use featureops_proto::v1::{self, Principal, principal};
use featureops_state::{Effect, State};
use prost::Message as _;

/// Log time at which every run begins: 2026-06-01T00:00:00Z.
pub const START_MS: i64 = 1_780_272_000_000;

pub struct Driver {
    pub state: State,
    pub log: Vec<Vec<u8>>,
    pub effects: Vec<Effect>,
    pub now_ms: i64,
}

impl Driver {
    /// Initialized, ticking.
    pub fn new() -> Self {
        let mut driver = Self { state: State::new(), log: Vec::new(), effects: Vec::new(), now_ms: START_MS };
        driver.done(entry::Command::Initialize(log::Initialize {
            cluster: "test".to_owned(),
            unit_key_id: 7,
            receipt_key: Some(log::ReceiptKey { id: 1, key: vec![1; 16] }),
            now_ms: START_MS - 1_000,
            feature_level: 0,
        }));
        driver.tick(0);
        driver
    }

    pub fn propose(&mut self, entry: Entry) -> Reply {
        let bytes = entry.encode_to_vec();
        let position = self.log.len() as u64 + 1;
        let reply = self.state.apply(position, &bytes, &mut self.effects).unwrap();
        self.log.push(bytes);
        reply
    }

    pub fn command_as(&mut self, principal: Principal, command: entry::Command) -> Reply {
        self.propose(Entry { principal: Some(principal), command: Some(command), ..Entry::default() })
    }

    pub fn command(&mut self, command: entry::Command) -> Reply {
        self.command_as(human("ada"), command)
    }

    pub fn done(&mut self, command: entry::Command) -> log::Done {
        done(self.command(command))
    }

    pub fn refused(&mut self, command: entry::Command) -> String {
        refusal(self.command(command)).code
    }

    pub fn tick(&mut self, forward_ms: i64) {
        self.now_ms += forward_ms;
        let now_ms = self.now_ms;
        let tick = entry::Command::Tick(log::Tick { now_ms, after_restart: false });
        self.propose(Entry { command: Some(tick), ..Entry::default() });
    }

    pub fn minute(&self) -> u32 {
        (self.now_ms / 60_000) as u32
    }

    /// A boolean flag with three variants, and proportion, mean, count and ratio metrics.
    pub fn furnish(&mut self) {
        let value = |b| prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(b)) };
        self.done(entry::Command::SetFlag(log::SetFlag {
            flag: Some(v1::Flag {
                name: "environments/production/flags/checkout".to_owned(),
                r#type: v1::ValueType::Boolean as i32,
                variants: BTreeMap::from([
                    ("off".to_owned(), value(false)),
                    ("on".to_owned(), value(true)),
                    ("on2".to_owned(), value(true)),
                ]),
                default_variant: Some("off".to_owned()),
                safe_variant: Some("off".to_owned()),
                ..v1::Flag::default()
            }),
            etag: String::new(),
        }));
        use v1::metric::Kind;
        for (name, kind, parts) in [
            ("conversion", Kind::Proportion, ("", "")),
            ("revenue", Kind::Mean, ("", "")),
            ("clicks", Kind::Count, ("", "")),
            ("revenue_per_click", Kind::Ratio, ("revenue", "clicks")),
        ] {
            self.done(entry::Command::SetMetric(log::SetMetric {
                metric: Some(v1::Metric {
                    name: format!("environments/production/metrics/{name}"),
                    kind: kind as i32,
                    direction: v1::metric::Direction::HigherIsBetter as i32,
                    decimal_scale: Some(2),
                    attribution_window_seconds: 3_600,
                    numerator: parts.0.to_owned(),
                    denominator: parts.1.to_owned(),
                    ..v1::Metric::default()
                }),
                etag: String::new(),
            }));
        }
    }

    pub fn experiment(&mut self, name: &str, arms: &[(&str, bool)]) -> u32 {
        self.done(entry::Command::CreateExperiment(log::CreateExperiment {
            experiment: Some(v1::Experiment {
                name: format!("environments/production/experiments/{name}"),
                flag: "checkout".to_owned(),
                arms: arms
                    .iter()
                    .map(|(variant, established)| v1::Arm {
                        variant: (*variant).to_owned(),
                        established: *established,
                    })
                    .collect(),
                primary_metric: "conversion".to_owned(),
                guardrails: vec![v1::Guardrail { metric: "revenue".to_owned(), ..v1::Guardrail::default() }],
                secondary_metrics: vec!["revenue_per_click".to_owned()],
                cool_down_seconds: Some(60),
                ..v1::Experiment::default()
            }),
        }));
        self.state.experiment("production", name).unwrap().number
    }

    pub fn start(&mut self, name: &str, autonomy: v1::AutonomyLevel) {
        self.done(entry::Command::StartExperiment(log::StartExperiment {
            name: format!("environments/production/experiments/{name}"),
            autonomy: autonomy as i32,
            etag: String::new(),
        }));
        let experiment = self.state.experiment("production", name).unwrap().number;
        let assignments = vec![log::assign_owners::Assignment { experiment, node: 1, from_epoch: None }];
        self.done(entry::Command::AssignOwners(log::AssignOwners { assignments }));
    }

    /// Two arms, running at A4, with an owner of epoch 1.
    pub fn running(&mut self) -> u32 {
        self.furnish();
        let number = self.experiment("e", &[("off", true), ("on", true)]);
        self.start("e", v1::AutonomyLevel::A4Bounded);
        self.tick(500);
        number
    }

    pub fn ingest(&mut self, batches: Vec<log::Batch>) -> Vec<log::BatchReply> {
        let command = entry::Command::Ingest(log::Ingest { batches });
        match self.propose(Entry { command: Some(command), ..Entry::default() }).result {
            Some(reply::Result::Ingested(ingested)) => ingested.batches,
            other => panic!("{other:?}"),
        }
    }

    pub fn metric(&self, name: &str) -> u32 {
        self.state.metric("production", name).unwrap().number
    }

    /// A reallocation as the owner would submit it on the present view.
    pub fn reallocation(&self, number: u32, weights: &[u32]) -> (log::OwnerStamp, v1::Decision) {
        let view = self.state.owner_view(number).unwrap();
        let stamp = log::OwnerStamp {
            epoch: view.epoch,
            sequence: view.last_sequence + 1,
            expected_flag_version: view.inputs.flag_version,
        };
        let decision = v1::Decision {
            experiment: self.state.experiment_by_number(number).unwrap().name,
            action: v1::decision::Action::Reallocate as i32,
            generation: view.inputs.generation,
            inputs: Some(view.inputs),
            weights_after: weights.to_vec(),
            ..v1::Decision::default()
        };
        (stamp, decision)
    }

    pub fn submit(&mut self, stamp: log::OwnerStamp, decision: v1::Decision) -> Reply {
        self.propose(Entry {
            principal: Some(system()),
            owner: Some(stamp),
            command: Some(entry::Command::SubmitDecision(log::SubmitDecision { decision: Some(decision) })),
            ..Entry::default()
        })
    }
}

pub fn batch(producer: &str, sequence: u64) -> log::Batch {
    log::Batch {
        environment: "production".to_owned(),
        producer: producer.to_owned(),
        sequence,
        content_hash: sequence,
        unit_key_id: 7,
        ..log::Batch::default()
    }
}

pub fn human(id: &str) -> Principal {
    Principal { kind: principal::Kind::Human as i32, id: id.to_owned(), verified: false }
}

pub fn agent() -> Principal {
    Principal { kind: principal::Kind::Agent as i32, id: "bot".to_owned(), verified: false }
}

pub fn system() -> Principal {
    Principal { kind: principal::Kind::System as i32, id: "owner".to_owned(), verified: true }
}

/// A boolean flag with the variants off, which is the default and safe, and on.
pub fn boolean_flag(id: &str) -> v1::Flag {
    let value = |b| prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(b)) };
    v1::Flag {
        name: format!("environments/production/flags/{id}"),
        r#type: v1::ValueType::Boolean as i32,
        variants: [("off".to_owned(), value(false)), ("on".to_owned(), value(true))].into(),
        default_variant: Some("off".to_owned()),
        safe_variant: Some("off".to_owned()),
        ..v1::Flag::default()
    }
}

pub fn done(reply: Reply) -> log::Done {
    match reply.result {
        Some(reply::Result::Done(done)) => done,
        other => panic!("not done: {other:?}"),
    }
}

pub fn refusal(reply: Reply) -> log::Refusal {
    match reply.result {
        Some(reply::Result::Refusal(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}
