//! What a snapshot's sections hold, one message at a time, every field of it set: a number that moves or a type that
//! changes shows in the bytes. A field that is added does not compile here until a further file holds it.

mod decisions;
mod liveness;

use std::collections::BTreeMap;

use featureops_proto::log::{
    ClusterMember, ClustersRecord, EnvironmentRecord, ExperimentRecord, FlagHistoryRecord, FlagRecord,
    FrozenRecord, GenerationRecord, HeaderRecord, HeldRecord, HoldoutRecord, LayerRecord, LedgerRecord,
    MarkRecord, MemberRecord, MembersRecord, MetricRecord, OversightRecord, OwnerRecord, PairRecord,
    ProducerRecord, ReceiptKey, RememberedRecord, RequestRecord, RestoredRecord, ScheduleRecord,
    SegmentRecord, SegmentUnitsRecord, ShardRecord, SideRecord, SlotRecord, TokenRecord,
};
use featureops_proto::v1;
use prost::Message as _;
use prost_types::{Timestamp, Value, value};

use crate::{Golden, replies, text};
use decisions::{audit, decision};
use liveness::liveness;

const ENVIRONMENT: &str = "production";
const FLAG: &str = "environments/production/flags/checkout";
const EXPERIMENT: &str = "environments/production/experiments/checkout-button";
const DECISION: &str = "environments/production/decisions/3";

#[test]
fn every_record_reads_and_writes_its_golden_bytes() {
    let mut golden = Golden::open("records");
    golden.keeps("header", &header());
    golden.keeps("flag", &flag());
    golden.keeps("environment", &environment());
    golden.keeps("segment", &segment());
    golden.keeps("segment_units", &segment_units());
    golden.keeps("flag_history", &flag_history());
    golden.keeps("flag_history_shortened", &FlagHistoryRecord { shortened: 3, ..flag_history() });
    golden.keeps("metric", &metric());
    golden.keeps("experiment", &experiment());
    golden.keeps("experiment_in_layer", &experiment_in_layer());
    golden.keeps("experiment_given_growth", &experiment_given_growth());
    golden.keeps("layer", &layer());
    golden.keeps("holdout", &holdout());
    golden.keeps("flag_sticky", &flag_sticky());
    golden.keeps("schedule", &schedule());
    golden.keeps("token", &token());
    golden.keeps("flag_history", &flag_history());
    golden.keeps("metric", &metric());
    golden.keeps("experiment", &experiment());
    golden.keeps("experiment_ramp", &experiment_ramp());
    golden.keeps("generation", &generation());
    golden.keeps("slot", &slot());
    golden.keeps("pair", &pair());
    golden.keeps("owner", &owner());
    golden.keeps("oversight", &oversight());
    golden.keeps("producer", &producer());
    golden.keeps("remembered", &remembered());
    golden.keeps("request", &request());
    golden.keeps("request_sent", &RequestRecord { sent_hash: Some(0xfeed), ..request() });
    golden.keeps("held", &held());
    golden.keeps("held_at", &held_at());
    golden.keeps("ledger", &ledger());
    golden.keeps("mark", &mark());
    golden.keeps("frozen", &frozen());
    golden.keeps("frozen_shares", &FrozenRecord { sample_ratio: Some(sample_ratio()), ..frozen() });
    golden.keeps("experiment_shares", &experiment_shares());
    golden.keeps("decision_shares", &decision_shares());
    golden.keeps("shard", &shard());
    golden.keeps("side", &side());
    golden.keeps("audit", &audit());
    golden.keeps("decision", &decision());
    golden.keeps("decision_ramp", &decision_ramp());
    let restored = RestoredRecord { from_cluster: text("b"), position: 900, receipt_key_id: Some(1) };
    golden.keeps("header_restored", &HeaderRecord { feature_level: 2, restored: Some(restored), ..header() });
    golden.keeps("backup", &crate::entries::backup());
    golden.keeps("header_budgets", &HeaderRecord { budgets: Some(budgets()), ..header() });
    golden.keeps("ledger_folded", &ledger_folded());
    golden.keeps("clusters", &ClustersRecord { experiment: 3, sums: vec![vec![1, 2], Vec::new()] });
    golden.keeps("shard_packed", &ShardRecord { rows: Vec::new(), packed_rows: vec![7, 8], ..shard() });
    golden.keeps("decision_thinned", &decision_thinned());
    golden.keeps("members", &members());
    golden.keeps("liveness", &liveness());
    golden.has_nothing_else();
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 250_000_000 }
}

fn value(text: &str) -> Value {
    Value { kind: Some(value::Kind::StringValue(text.to_owned())) }
}

fn ada() -> v1::Principal {
    v1::Principal { kind: v1::principal::Kind::Human as i32, id: text("ada"), verified: true }
}

fn levels() -> v1::AutonomyLevels {
    v1::AutonomyLevels {
        growth: v1::AutonomyLevel::A2Recommend as i32,
        protection: v1::AutonomyLevel::A4Bounded as i32,
    }
}

fn learner() -> v1::LearnerRecord {
    v1::LearnerRecord {
        version: 1,
        prior_alpha_millionths: 1_000_000,
        prior_beta_millionths: 19_000_000,
        discount_millionths: 990_000,
        window_start_minute: 29_671_200,
    }
}

fn stratum() -> v1::Stratum {
    v1::Stratum {
        generation: 2,
        start_minute: 120,
        minutes: 60,
        arms: vec![v1::ArmMoments {
            units: 10,
            slots: vec![v1::SlotMoments {
                sum: Some(v1::Int128::new(-5)),
                squares: Some(v1::Int128::new(1 << 70)),
                with_units: None,
            }],
            cross: vec![v1::Int128::new(3)],
            clusters: 0,
            units_squared: 0,
        }],
    }
}

fn header() -> HeaderRecord {
    HeaderRecord {
        position: 1_000,
        clock_ms: 1_780_272_000_000,
        cluster: text("c"),
        unit_key_id: 7,
        initialized: true,
        receipt_keys: vec![ReceiptKey { id: 2, key: vec![3; 16] }, ReceiptKey { id: 1, key: vec![9; 16] }],
        last_decision: 3,
        audit_last: 12,
        audit_head: vec![5; 32],
        producers_swept: text("web-1"),
        budgets: None,
        feature_level: 0,
        restored: None,
    }
}

fn members() -> MembersRecord {
    let member = ClusterMember { node: 2, address: text("node-2:7401"), incarnation: 0xfeed, voter: true };
    let changed_by =
        v1::Principal { kind: v1::principal::Kind::Human.into(), id: text("ada"), verified: false };
    let record =
        MemberRecord { member: Some(member), changed_by: Some(changed_by), changed_ms: 1_800_000_000_000 };
    MembersRecord { index: 41, members: vec![record] }
}

fn budgets() -> v1::Budgets {
    v1::Budgets {
        experiment_units: 1_000_000,
        units: 4_000_000,
        experiment_sums: 65_536,
        sums: 1_000_000,
        experiment_crossed: 10_000,
        experiment_capped: 0,
    }
}

/// Moments of clusters, and half of the hash space.
fn ledger_folded() -> LedgerRecord {
    let mut folded = stratum();
    let arm = &mut folded.arms[0];
    (arm.clusters, arm.units_squared) = (9, 12);
    arm.slots[0].with_units = Some(v1::Int128::new(-7));
    let frozen = FrozenRecord { strata: vec![folded.clone()], kept_parts: 128, thinned: 390, ..frozen() };
    LedgerRecord {
        strata: vec![folded],
        frozen: vec![frozen],
        folded: true,
        kept_parts: 128,
        thinned: 390,
        ..ledger()
    }
}

/// A decision on such moments.
fn decision_thinned() -> v1::Decision {
    let strata = ledger_folded().strata;
    let inputs =
        v1::DecisionInputs { strata, kept_parts: 128, thinned_units: 390, ..v1::DecisionInputs::default() };
    v1::Decision { inputs: Some(inputs), ..v1::Decision::default() }
}

/// The definition as a client may set it; what is output only is kept beside it.
fn flag_definition() -> v1::Flag {
    let split = v1::Split {
        variants: vec![
            v1::WeightedVariant { variant: text("blue"), weight_basis_points: 2_500 },
            v1::WeightedVariant { variant: text("red"), weight_basis_points: 7_500 },
        ],
        ..v1::Split::default()
    };
    let condition = |operator: v1::condition::Operator, values| v1::Condition {
        attribute: text("country"),
        operator: operator as i32,
        values,
    };
    v1::Flag {
        name: text(FLAG),
        r#type: v1::ValueType::String as i32,
        variants: BTreeMap::from([(text("blue"), value("#00f")), (text("red"), value("#f00"))]),
        default_variant: Some(text("blue")),
        safe_variant: Some(text("blue")),
        rules: vec![
            v1::Rule {
                id: text("eu"),
                conditions: vec![
                    condition(v1::condition::Operator::In, vec![value("DE"), value("FR")]),
                    condition(v1::condition::Operator::Exists, Vec::new()),
                ],
                serve: Some(v1::rule::Serve::Variant(text("blue"))),
            },
            v1::Rule { id: text("rest"), conditions: Vec::new(), serve: Some(v1::rule::Serve::Split(split)) },
        ],
        disabled: true,
        description: text("the button"),
        owner: text("shop"),
        tags: vec![text("web"), text("q3")],
        stale_after_seconds: 600,
        ..v1::Flag::default()
    }
}

fn flag() -> FlagRecord {
    FlagRecord {
        environment: text(ENVIRONMENT),
        flag: text("checkout"),
        definition: Some(flag_definition()),
        flag_version: 7,
        definition_version: 5,
        archived: true,
        create_ms: 1_780_272_000_000,
        update_ms: 1_780_272_060_000,
        trip: Some(v1::Trip {
            reason: text("smoke"),
            time: Some(at(1_780_272_060)),
            principal: Some(ada()),
            decision: text(DECISION),
        }),
        autonomy: Some(levels()),
        experiment: 3,
        cool_down_until_ms: 1_780_272_120_000,
    }
}

fn environment() -> EnvironmentRecord {
    EnvironmentRecord {
        environment: text(ENVIRONMENT),
        definition: Some(crate::entries::environment()),
        version: 3,
        update_ms: 1_780_272_060_000,
    }
}

fn token() -> TokenRecord {
    TokenRecord {
        token: text("anna"),
        definition: Some(v1::Token {
            roles: vec![v1::token::Role::Edit as i32],
            environments: vec![text("production")],
            flag_prefix: text("checkout-"),
            expire_time: Some(at(1_780_272_120)),
            description: text("on call"),
            ..v1::Token::default()
        }),
        secret_hash: vec![7; 32],
        key_id: text("0123456789abcdef"),
        author: Some(ada()),
        create_ms: 1_780_272_000_000,
    }
}

fn schedule() -> ScheduleRecord {
    let changed = v1::Flag { default_variant: Some(text("red")), ..v1::Flag::default() };
    let paths = vec![text("default_variant")];
    ScheduleRecord {
        environment: text(ENVIRONMENT),
        schedule: text("launch"),
        definition: Some(v1::Schedule {
            flag: text("checkout"),
            time: Some(at(1_780_272_120)),
            description: text("the launch"),
            action: Some(v1::schedule::Action::Change(v1::ScheduledChange {
                flag: Some(changed),
                update_mask: Some(prost_types::FieldMask { paths }),
            })),
            ..v1::Schedule::default()
        }),
        state: v1::schedule::State::Failed as i32,
        reason: text("flag.default_variant: not among the flag's variants"),
        author: Some(ada()),
        flag_version: 7,
        create_ms: 1_780_272_000_000,
        finish_ms: 1_780_272_120_500,
        finish_position: 41,
        version: 2,
    }
}

fn flag_history() -> FlagHistoryRecord {
    let set = v1::FlagVersionRecord {
        flag_version: 1,
        change: text("set"),
        principal: Some(ada()),
        time: Some(at(1_780_272_000)),
        definition: Some(flag_definition()),
        decision: String::new(),
    };
    let trip = v1::FlagVersionRecord {
        flag_version: 2,
        change: text("trip"),
        principal: Some(ada()),
        time: Some(at(1_780_272_060)),
        definition: None,
        decision: text(DECISION),
    };
    FlagHistoryRecord {
        environment: text(ENVIRONMENT),
        flag: text("checkout"),
        versions: vec![set.encode_to_vec().into(), trip.encode_to_vec().into()],
        ..FlagHistoryRecord::default()
    }
}

fn metric() -> MetricRecord {
    MetricRecord {
        environment: text(ENVIRONMENT),
        metric: text("revenue-per-click"),
        definition: Some(v1::Metric {
            name: text("environments/production/metrics/revenue-per-click"),
            kind: v1::metric::Kind::Ratio as i32,
            direction: v1::metric::Direction::LowerIsBetter as i32,
            decimal_scale: Some(0),
            attribution_window_seconds: 3_600,
            late_rule: v1::metric::LateRule::CountUntilEnd as i32,
            late_limit_seconds: 86_400,
            description: text("what a click brings"),
            unit: text("EUR"),
            numerator: text("revenue"),
            denominator: text("clicks"),
            ..v1::Metric::default()
        }),
        number: 4,
        version: 2,
    }
}

fn experiment_definition() -> v1::Experiment {
    v1::Experiment {
        name: text(EXPERIMENT),
        flag: text("checkout"),
        arms: vec![
            v1::Arm { variant: text("blue"), established: true },
            v1::Arm { variant: text("red"), established: false },
        ],
        primary_metric: text("conversion"),
        guardrails: vec![v1::Guardrail {
            metric: text("revenue"),
            limit_basis_points: 200,
            minimum_units: 1_000,
        }],
        secondary_metrics: vec![text("revenue-per-click")],
        policy: v1::experiment::Policy::Thompson as i32,
        control_floor_basis_points: 1_000,
        new_arm_cap_basis_points: Some(0),
        hypothesis: text("red sells"),
        planned_units: 20_000,
        cool_down_seconds: Some(0),
        bulk_exposes: true,
        seed: u64::MAX,
        ..v1::Experiment::default()
    }
}

fn metric_input() -> v1::MetricInput {
    v1::MetricInput {
        metric: text("revenue-per-click"),
        kind: v1::metric::Kind::Ratio as i32,
        lower_is_better: true,
        decimal_scale: 2,
        slot: 1,
        denominator_slot: 2,
        pair: 1,
        role: v1::Role::Guardrail as i32,
        limit_basis_points: 200,
        minimum_units: 1_000,
        denominator_decimal_scale: 3,
        capped: false,
    }
}

fn ramp_steps() -> Vec<v1::RampStep> {
    let first =
        v1::RampStep { basis_points: 100, hold_seconds: 3_600, minimum_units: 1_000, approval: false };
    vec![first, v1::RampStep { basis_points: 5_000, approval: true, ..first }]
}

/// What a ramp adds.
fn experiment_ramp() -> ExperimentRecord {
    ExperimentRecord {
        definition: Some(v1::Experiment {
            policy: v1::experiment::Policy::Ramp as i32,
            ramp_steps: ramp_steps(),
            ..v1::Experiment::default()
        }),
        allocated_ms: 1_780_272_120_500,
        ..ExperimentRecord::default()
    }
}

fn decision_ramp() -> v1::Decision {
    v1::Decision {
        policy: text("ramp/1"),
        inputs: Some(v1::DecisionInputs {
            ramp_steps: ramp_steps(),
            allocated_ms: 1_780_272_120_500,
            ..v1::DecisionInputs::default()
        }),
        ..v1::Decision::default()
    }
}

fn sample_ratio() -> v1::SampleRatio {
    v1::SampleRatio { units: vec![60, 40], expected: vec![500_000, 500_000], spread: vec![1, 2, 2, 4] }
}

fn experiment_shares() -> ExperimentRecord {
    ExperimentRecord {
        sample_ratio: Some(sample_ratio()),
        units_since_allocation: vec![3, 4],
        shares_since_ms: 1_780_272_120_500,
        ..ExperimentRecord::default()
    }
}

fn decision_shares() -> v1::Decision {
    let inputs = v1::DecisionInputs { sample_ratio: Some(sample_ratio()), ..v1::DecisionInputs::default() };
    v1::Decision { inputs: Some(inputs), ..v1::Decision::default() }
}

fn generation() -> GenerationRecord {
    GenerationRecord { opened_position: 9, opened_ms: 1_780_272_000_000, closed_ms: 1_780_272_060_000 }
}

fn slot() -> SlotRecord {
    SlotRecord { metric: 4, kind: v1::metric::Kind::Mean as i32, cap: 0 }
}

fn pair() -> PairRecord {
    PairRecord { numerator: 1, denominator: 2 }
}

fn owner() -> OwnerRecord {
    OwnerRecord { node: 1, epoch: 2, last_sequence: 3, last_reply: Some(replies::done()) }
}

fn experiment() -> ExperimentRecord {
    ExperimentRecord {
        environment: text(ENVIRONMENT),
        experiment: text("checkout-button"),
        number: 3,
        definition: Some(experiment_definition()),
        state: v1::experiment::State::Running as i32,
        generations: vec![generation(), GenerationRecord { closed_ms: 0, ..generation() }],
        runs: vec![v1::Run { arm: 0, length: 7_500 }, v1::Run { arm: 1, length: 2_500 }],
        allocation_version: 6,
        learner: Some(learner()),
        owner: Some(owner()),
        last_decision_ms: 1_780_272_060_000,
        create_ms: 1_780_272_000_000,
        start_ms: 1_780_272_001_000,
        end_ms: 1_780_272_120_000,
        version: 8,
        slots: vec![slot()],
        pairs: vec![pair()],
        metrics: vec![metric_input()],
        last_decision: 3,
        counts_until_ms: vec![1_780_272_180_000, 0],
        paused_before_trip: true,
        human_allocation_version: 5,
        layer_slots: Vec::new(),
        allocated_ms: 0,
        growth_before: 0,
        sample_ratio: None,
        units_since_allocation: Vec::new(),
        shares_since_ms: 0,
    }
}

fn experiment_given_growth() -> ExperimentRecord {
    ExperimentRecord { growth_before: v1::AutonomyLevel::A2Recommend as i32, ..experiment() }
}

fn experiment_in_layer() -> ExperimentRecord {
    ExperimentRecord {
        definition: Some(v1::Experiment {
            layer: text("checkout-page"),
            layer_share_basis_points: 3_500,
            holdouts: vec![text("q3")],
            ..experiment_definition()
        }),
        layer_slots: vec![
            v1::SlotRange { start: 1_000, length: 3_000 },
            v1::SlotRange { start: 0, length: 500 },
        ],
        ..experiment()
    }
}

fn layer() -> LayerRecord {
    LayerRecord {
        environment: text(ENVIRONMENT),
        layer: text("checkout-page"),
        definition: Some(v1::Layer { description: text("one test a visitor"), ..v1::Layer::default() }),
        version: 2,
        position: 40,
    }
}

fn holdout() -> HoldoutRecord {
    HoldoutRecord {
        environment: text(ENVIRONMENT),
        holdout: text("q3"),
        definition: Some(v1::Holdout {
            description: text("what all of it brings"),
            basis_points: 500,
            everywhere: true,
            ..v1::Holdout::default()
        }),
        version: 2,
        position: 41,
    }
}

/// A split that keeps its map.
fn flag_sticky() -> FlagRecord {
    let entry =
        |variant, weight_basis_points| v1::WeightedVariant { variant: text(variant), weight_basis_points };
    let runs = [(0, 2_000), (1, 7_000), (0, 1_000)].map(|(arm, length)| v1::Run { arm, length });
    let split = v1::Split {
        variants: vec![entry("blue", 3_000), entry("red", 7_000)],
        sticky: true,
        runs: runs.into(),
    };
    let rule =
        v1::Rule { id: text("all"), conditions: Vec::new(), serve: Some(v1::rule::Serve::Split(split)) };
    FlagRecord { definition: Some(v1::Flag { rules: vec![rule], ..flag_definition() }), ..flag() }
}

fn oversight() -> OversightRecord {
    OversightRecord {
        environment: text(ENVIRONMENT),
        definition: Some(v1::Oversight {
            name: text("environments/production/oversight"),
            limits: Some(levels()),
            action_limits: BTreeMap::from([(text("trip"), v1::AutonomyLevel::A3Guarded as i32)]),
            freezes: vec![v1::FreezeWindow {
                start: Some(at(1_780_272_000)),
                end: Some(at(1_780_358_400)),
                reason: text("a holiday"),
            }],
            new_arm_budget_basis_points: Some(1_500),
            ..v1::Oversight::default()
        }),
        version: 4,
    }
}

fn remembered() -> RememberedRecord {
    RememberedRecord { sequence: 41, content_hash: 0xfeed, reply: Some(replies::batch()) }
}

fn producer() -> ProducerRecord {
    ProducerRecord {
        producer: text("web-1"),
        high: 42,
        seen: [0b110, 0, 0, 0, 0, 6, 0, 0].repeat(64),
        replies: vec![remembered()],
        last_used_ms: 1_780_272_060_000,
    }
}

fn request() -> RequestRecord {
    RequestRecord {
        request_id: text("r-1"),
        reply: Some(replies::done()),
        content_hash: 0xbeef,
        sent_hash: None,
    }
}

fn held() -> HeldRecord {
    HeldRecord {
        unit: 0xabcd,
        metric: 2,
        value: -1_250,
        minute: 29_671_201,
        since_ms: 1_780_272_060_000,
        joined: true,
        position: 0,
    }
}

fn held_at() -> HeldRecord {
    HeldRecord { position: 40, ..held() }
}

fn segment() -> SegmentRecord {
    SegmentRecord {
        environment: text(ENVIRONMENT),
        segment: text("staff"),
        definition: Some(crate::entries::segment()),
        version: 4,
        definition_version: 2,
        units_version: 3,
        create_ms: 1_780_272_000_000,
        update_ms: 1_780_272_060_000,
    }
}

/// The bytes inside are another matter: `sections.rs` reads them.
fn segment_units() -> SegmentUnitsRecord {
    SegmentUnitsRecord { environment: text(ENVIRONMENT), segment: text("staff"), units: vec![1, 2, 3] }
}

fn mark() -> MarkRecord {
    MarkRecord { unit: 0xabcd, since_ms: 1_780_272_060_000, arm: 1 }
}

fn frozen() -> FrozenRecord {
    FrozenRecord {
        position: 12,
        log_time_ms: 1_780_272_060_000,
        strata: vec![stratum()],
        marked: vec![0, 1],
        crossed: 2,
        lost: 3,
        rows: 400,
        sample_ratio: None,
        kept_parts: 0,
        thinned: 0,
    }
}

fn ledger() -> LedgerRecord {
    LedgerRecord {
        experiment: 3,
        base_minute: 29_671_200,
        rows: 400,
        crossed: 2,
        marked: vec![0, 1],
        lost: 3,
        verdicts: BTreeMap::from([(v1::Verdict::Counted as i32, 390), (v1::Verdict::WaitingFull as i32, 1)]),
        strata: vec![stratum()],
        dirty: true,
        frozen: vec![frozen()],
        fresh_marks: vec![mark()],
        released: true,
        folded: false,
        kept_parts: 0,
        thinned: 0,
        covariates_missing: Vec::new(),
    }
}

fn side() -> SideRecord {
    SideRecord { hash: 0xab_cdef, arm: 1, minute: 61, generation: 2, seen: 0b101, twice: true }
}

/// The bytes inside are another matter: `sections.rs` reads them.
fn shard() -> ShardRecord {
    ShardRecord {
        experiment: 3,
        shard: 255,
        rows: vec![1, 2, 3],
        entries: vec![vec![4, 5], Vec::new(), vec![6]],
        side: vec![side()],
        packed_rows: Vec::new(),
    }
}
