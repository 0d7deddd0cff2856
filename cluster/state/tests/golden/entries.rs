//! What was proposed: one entry a command, more where a command grew.

use std::collections::BTreeMap;

use featureops_proto::log::{self, Entry, entry};
use featureops_proto::v1::{self, principal};
use featureops_state::Command;

use crate::{Golden, text};

fn metadata(key: &str, value: &str) -> prost_types::Struct {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text(value))) };
    prost_types::Struct { fields: BTreeMap::from([(text(key), value)]) }
}

pub fn environment() -> v1::Environment {
    v1::Environment {
        name: text("environments/production"),
        source: text("flags.json"),
        metadata: Some(metadata("flagSetId", "shop")),
        fractional: v1::FractionalVersion::FractionalVersion3 as i32,
        evaluators: BTreeMap::from([(
            text("staff"),
            text(r#"{"ends_with":[{"var":"email"},"@example.com"]}"#),
        )]),
        description: text("what customers see"),
        ..v1::Environment::default()
    }
}

pub fn segment() -> v1::Segment {
    let asked = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text("contractors"))) };
    let condition = |operator: v1::condition::Operator| v1::Condition {
        attribute: String::new(),
        operator: operator.into(),
        values: vec![asked.clone()],
    };
    v1::Segment {
        name: text("environments/production/segments/staff"),
        description: text("who works here"),
        owner: text("people"),
        tags: vec![text("internal")],
        clauses: vec![v1::SegmentClause {
            conditions: vec![
                condition(v1::condition::Operator::InSegment),
                condition(v1::condition::Operator::NotInSegment),
            ],
        }],
        ..v1::Segment::default()
    }
}

pub fn backup() -> v1::BackupRecord {
    v1::BackupRecord {
        position: 900,
        bytes: 65_536,
        digest: 0xfeed,
        sha256: vec![4; 32],
        record_time: Some(prost_types::Timestamp { seconds: 1_780_272_000, nanos: 0 }),
        recorded_by: Some(v1::Principal {
            kind: principal::Kind::Human as i32,
            id: text("ada"),
            verified: true,
        }),
    }
}

fn entries() -> Vec<(&'static str, entry::Command)> {
    use entry::Command as C;
    let name = || text("environments/production/flags/checkout");
    let experiment = || text("environments/production/experiments/checkout-button");
    let flag = v1::Flag {
        name: name(),
        r#type: v1::ValueType::String as i32,
        variants: BTreeMap::from([(
            text("blue"),
            prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text("#00f"))) },
        )]),
        default_variant: Some(text("blue")),
        safe_variant: Some(text("blue")),
        rules: vec![v1::Rule {
            id: text("eu"),
            conditions: vec![v1::Condition {
                attribute: text("country"),
                operator: v1::condition::Operator::Equals as i32,
                values: vec![prost_types::Value {
                    kind: Some(prost_types::value::Kind::StringValue(text("DE"))),
                }],
            }],
            serve: Some(v1::rule::Serve::Variant(text("blue"))),
        }],
        ..v1::Flag::default()
    };
    let stratum = v1::Stratum {
        generation: 1,
        start_minute: 29_671_200,
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
    };
    vec![
        (
            "initialize",
            C::Initialize(log::Initialize {
                cluster: text("c"),
                unit_key_id: 7,
                receipt_key: Some(log::ReceiptKey { id: 1, key: vec![9; 16] }),
                now_ms: 0,
                feature_level: 0,
            }),
        ),
        (
            "initialize_at",
            C::Initialize(log::Initialize { now_ms: 1_780_272_000_000, ..log::Initialize::default() }),
        ),
        ("tick", C::Tick(log::Tick { now_ms: 1_780_272_000_000, after_restart: true })),
        (
            "ingest",
            C::Ingest(log::Ingest {
                batches: vec![log::Batch {
                    environment: text("production"),
                    producer: text("web-1"),
                    sequence: 42,
                    content_hash: 0xfeed,
                    exposures: vec![log::ExposureFact {
                        index: 0,
                        experiment: 3,
                        arm: 1,
                        unit_hash: 0xabcd,
                        minute: 29_671_200,
                        generation: 1,
                        dimensions: Vec::new(),
                        covariates: Vec::new(),
                    }],
                    outcomes: vec![log::OutcomeFact {
                        index: 1,
                        metric: 2,
                        unit_hash: 0xabcd,
                        value: -1_250,
                        minute: 29_671_201,
                        receipt: Some(log::ReceiptFact {
                            experiment: 3,
                            arm: 1,
                            generation: 1,
                            minute: 29_671_200,
                        }),
                        bad_receipt: false,
                    }],
                    door: vec![log::DoorVerdict { index: 2, verdict: v1::Verdict::NonFinite as i32 }],
                    unit_key_id: 7,
                    ..log::Batch::default()
                }],
            }),
        ),
        (
            "ingest_lost",
            C::Ingest(log::Ingest {
                batches: vec![log::Batch {
                    environment: text("production"),
                    producer: text("node-1"),
                    sequence: 1,
                    unit_key_id: 7,
                    lost: vec![log::LostExposures { experiment: 3, count: 17 }],
                    ..log::Batch::default()
                }],
            }),
        ),
        ("set_flag", C::SetFlag(log::SetFlag { flag: Some(flag), etag: text("d1") })),
        ("archive_flag", C::ArchiveFlag(log::ArchiveFlag { name: name(), etag: text("d2") })),
        ("revert_flag", C::RevertFlag(log::RevertFlag { name: name(), to_version: 3, etag: String::new() })),
        (
            "set_metric",
            C::SetMetric(log::SetMetric {
                metric: Some(v1::Metric {
                    name: text("environments/production/metrics/revenue"),
                    kind: v1::metric::Kind::Mean as i32,
                    direction: v1::metric::Direction::HigherIsBetter as i32,
                    decimal_scale: Some(2),
                    attribution_window_seconds: 86_400,
                    late_rule: v1::metric::LateRule::CountUntilEnd as i32,
                    ..v1::Metric::default()
                }),
                etag: String::new(),
            }),
        ),
        (
            "create_experiment",
            C::CreateExperiment(log::CreateExperiment {
                experiment: Some(v1::Experiment {
                    name: experiment(),
                    flag: text("checkout"),
                    arms: vec![v1::Arm { variant: text("blue"), established: true }],
                    primary_metric: text("revenue"),
                    guardrails: vec![v1::Guardrail {
                        metric: text("errors"),
                        limit_basis_points: 500,
                        minimum_units: 1_000,
                    }],
                    policy: v1::experiment::Policy::Thompson as i32,
                    new_arm_cap_basis_points: Some(2_000),
                    planned_units: 20_000,
                    cool_down_seconds: Some(300),
                    seed: 5,
                    ..v1::Experiment::default()
                }),
            }),
        ),
        (
            "start_experiment",
            C::StartExperiment(log::StartExperiment {
                name: experiment(),
                autonomy: v1::AutonomyLevel::A4Bounded as i32,
                etag: text("e1"),
            }),
        ),
        (
            "pause_experiment",
            C::PauseExperiment(log::PauseExperiment { name: experiment(), etag: String::new() }),
        ),
        (
            "stop_experiment",
            C::StopExperiment(log::StopExperiment {
                name: experiment(),
                serve: Some(text("blue")),
                etag: String::new(),
            }),
        ),
        (
            "set_allocation",
            C::SetAllocation(log::SetAllocation {
                name: experiment(),
                weights_basis_points: vec![9_000, 1_000],
                etag: String::new(),
            }),
        ),
        (
            "set_layer",
            C::SetLayer(log::SetLayer {
                layer: Some(v1::Layer {
                    name: text("environments/production/layers/checkout-page"),
                    description: text("one test a visitor"),
                    ..v1::Layer::default()
                }),
                etag: text("l7"),
            }),
        ),
        (
            "delete_layer",
            C::DeleteLayer(log::DeleteLayer {
                name: text("environments/production/layers/checkout-page"),
                etag: text("l8"),
            }),
        ),
        (
            "set_holdout",
            C::SetHoldout(log::SetHoldout {
                holdout: Some(v1::Holdout {
                    name: text("environments/production/holdouts/q3"),
                    description: text("what all of it brings"),
                    basis_points: 500,
                    everywhere: true,
                    ..v1::Holdout::default()
                }),
                etag: text("h7"),
            }),
        ),
        (
            "delete_holdout",
            C::DeleteHoldout(log::DeleteHoldout {
                name: text("environments/production/holdouts/q3"),
                etag: text("h8"),
            }),
        ),
        (
            "set_layer_share",
            C::SetLayerShare(log::SetLayerShare {
                name: experiment(),
                basis_points: 3_500,
                etag: text("e2"),
            }),
        ),
        (
            "create_experiment_in_layer",
            C::CreateExperiment(log::CreateExperiment {
                experiment: Some(v1::Experiment {
                    name: experiment(),
                    layer: text("checkout-page"),
                    layer_share_basis_points: 3_000,
                    holdouts: vec![text("q3")],
                    ..v1::Experiment::default()
                }),
            }),
        ),
        (
            "submit_decision",
            C::SubmitDecision(log::SubmitDecision {
                decision: Some(v1::Decision {
                    experiment: experiment(),
                    action: v1::decision::Action::Reallocate as i32,
                    generation: 1,
                    policy: text("thompson/1"),
                    inputs: Some(v1::DecisionInputs {
                        frozen_position: 12,
                        digest: 99,
                        strata: vec![stratum],
                        ..v1::DecisionInputs::default()
                    }),
                    weights_after: vec![2_000, 8_000],
                    statistics: vec![v1::Number { name: text("p_best[blue]"), value: text("0.9876543211") }],
                    ..v1::Decision::default()
                }),
            }),
        ),
        (
            "resolve_decision",
            C::ResolveDecision(log::ResolveDecision {
                name: text("environments/production/decisions/1"),
                resolution: log::resolve_decision::Resolution::Revert as i32,
                note: text("no"),
            }),
        ),
        (
            "trip_flag",
            C::TripFlag(log::TripFlag {
                name: name(),
                reason: text("smoke"),
                alarm: true,
                source: text("pager"),
            }),
        ),
        ("resume_flag", C::ResumeFlag(log::ResumeFlag { name: name(), reason: text("fixed") })),
        (
            "set_oversight",
            C::SetOversight(log::SetOversight {
                oversight: Some(v1::Oversight {
                    name: text("environments/production/oversight"),
                    action_limits: BTreeMap::from([(text("trip"), v1::AutonomyLevel::A3Guarded as i32)]),
                    new_arm_budget_basis_points: Some(1_500),
                    ..v1::Oversight::default()
                }),
                etag: String::new(),
            }),
        ),
        (
            "set_flag_autonomy",
            C::SetFlagAutonomy(log::SetFlagAutonomy {
                name: name(),
                autonomy: Some(v1::AutonomyLevels { growth: 3, protection: 4 }),
            }),
        ),
        (
            "assign_owners",
            C::AssignOwners(log::AssignOwners {
                assignments: vec![log::assign_owners::Assignment {
                    experiment: 3,
                    node: 1,
                    from_epoch: None,
                }],
            }),
        ),
        (
            "set_environment",
            C::SetEnvironment(log::SetEnvironment { environment: Some(environment()), etag: text("n1") }),
        ),
        (
            "import_flags",
            C::ImportFlags(log::ImportFlags {
                parent: text("environments/production"),
                environment: Some(environment()),
                flags: vec![v1::Flag {
                    name: name(),
                    r#type: v1::ValueType::Boolean as i32,
                    variants: BTreeMap::from([(
                        text("on"),
                        prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) },
                    )]),
                    targeting: text(r#"{"if":[{"$ref":"staff"},"on"]}"#),
                    metadata: Some(metadata("team", "payments")),
                    purpose: v1::Purpose::Release as i32,
                    imported: true,
                    ..v1::Flag::default()
                }],
                prune: true,
                etag: text("n1"),
                promoted_from: String::new(),
            }),
        ),
        (
            "promote_flags",
            C::ImportFlags(log::ImportFlags {
                parent: text("environments/production"),
                flags: vec![v1::Flag { name: name(), ..v1::Flag::default() }],
                promoted_from: text("environments/staging"),
                ..log::ImportFlags::default()
            }),
        ),
        ("set_segment", C::SetSegment(log::SetSegment { segment: Some(segment()), etag: text("s1") })),
        ("delete_segment", C::DeleteSegment(log::DeleteSegment { name: segment().name, etag: text("s1") })),
        (
            "update_segment_units",
            C::UpdateSegmentUnits(log::UpdateSegmentUnits {
                name: segment().name,
                unit_key_id: 7,
                add: vec![0xabcd, u64::MAX],
                remove: vec![5],
            }),
        ),
        (
            "set_flag_ramp",
            C::SetFlag(log::SetFlag {
                flag: Some(v1::Flag {
                    name: name(),
                    rules: vec![v1::Rule {
                        id: text("all"),
                        conditions: Vec::new(),
                        serve: Some(v1::rule::Serve::Ramp(v1::Ramp {
                            variant: text("blue"),
                            otherwise: text("red"),
                            start_time: Some(prost_types::Timestamp { seconds: 1_780_272_000, nanos: 0 }),
                            end_time: Some(prost_types::Timestamp { seconds: 1_780_358_400, nanos: 0 }),
                            start_basis_points: 100,
                            end_basis_points: Some(5_000),
                        })),
                    }],
                    ..v1::Flag::default()
                }),
                etag: String::new(),
            }),
        ),
        (
            "create_schedule",
            C::CreateSchedule(log::CreateSchedule {
                schedule: Some(v1::Schedule {
                    name: text("environments/production/schedules/launch"),
                    flag: text("checkout"),
                    time: Some(prost_types::Timestamp { seconds: 1_780_272_120, nanos: 500_000_000 }),
                    description: text("the launch"),
                    action: Some(v1::schedule::Action::Change(v1::ScheduledChange {
                        flag: Some(v1::Flag { default_variant: Some(text("blue")), ..v1::Flag::default() }),
                        update_mask: Some(prost_types::FieldMask { paths: vec![text("default_variant")] }),
                    })),
                    ..v1::Schedule::default()
                }),
            }),
        ),
        (
            "create_schedule_archive",
            C::CreateSchedule(log::CreateSchedule {
                schedule: Some(v1::Schedule {
                    name: text("environments/production/schedules/sunset"),
                    flag: text("checkout"),
                    time: Some(prost_types::Timestamp { seconds: 1_780_272_120, nanos: 0 }),
                    action: Some(v1::schedule::Action::Archive(true)),
                    ..v1::Schedule::default()
                }),
            }),
        ),
        (
            "cancel_schedule",
            C::CancelSchedule(log::CancelSchedule {
                name: text("environments/production/schedules/launch"),
                etag: text("s1"),
            }),
        ),
        (
            "execute_schedule",
            C::ExecuteSchedule(log::ExecuteSchedule {
                name: text("environments/production/schedules/launch"),
                flag: Some(v1::Flag {
                    name: name(),
                    default_variant: Some(text("blue")),
                    ..v1::Flag::default()
                }),
                etag: text("d3"),
                environment_etag: text("n1"),
                failure: text("no such variant"),
            }),
        ),
        (
            "rotate_receipt_key",
            C::RotateReceiptKey(log::RotateReceiptKey {
                key: Some(log::ReceiptKey { id: 2, key: vec![3; 16] }),
            }),
        ),
        (
            "create_token",
            C::CreateToken(log::CreateToken {
                token: Some(v1::Token {
                    name: text("tokens/anna"),
                    roles: vec![v1::token::Role::Edit as i32, v1::token::Role::Approve as i32],
                    environments: vec![text("production")],
                    flag_prefix: text("checkout-"),
                    expire_time: Some(prost_types::Timestamp { seconds: 1_780_272_120, nanos: 0 }),
                    description: text("on call"),
                    ..v1::Token::default()
                }),
                secret_hash: vec![7; 32],
                key_id: text("0123456789abcdef"),
            }),
        ),
        ("revoke_token", C::RevokeToken(log::RevokeToken { name: text("tokens/anna") })),
        (
            "set_budgets",
            C::SetBudgets(log::SetBudgets {
                budgets: Some(v1::Budgets {
                    experiment_units: 1_000_000,
                    units: 4_000_000,
                    experiment_sums: 65_536,
                    sums: 1_000_000,
                    experiment_crossed: 10_000,
                    experiment_capped: 0,
                }),
                thin: true,
                etag: text("b0123456789abcdef"),
            }),
        ),
        (
            "note_members",
            C::NoteMembers(log::NoteMembers {
                index: 41,
                members: vec![
                    log::ClusterMember {
                        node: 1,
                        address: text("127.0.0.1:7411"),
                        incarnation: 0xfeed,
                        voter: true,
                    },
                    log::ClusterMember {
                        node: 2,
                        address: text("node-2:7401"),
                        incarnation: 7,
                        voter: false,
                    },
                ],
                ..log::NoteMembers::default()
            }),
        ),
        (
            "note_members_asked",
            C::NoteMembers(log::NoteMembers {
                index: 43,
                members: vec![log::ClusterMember { node: 1, ..log::ClusterMember::default() }],
                asked: text("transfer leadership to node 1"),
            }),
        ),
        (
            "initialize_at_level",
            C::Initialize(log::Initialize { feature_level: 2, ..log::Initialize::default() }),
        ),
        (
            "raise_level",
            C::RaiseLevel(log::RaiseLevel {
                feature_level: 2,
                members: vec![log::MemberLevel { node: 1, release: text("0.1.0"), feature_level: 2 }],
            }),
        ),
        ("note_backup", C::NoteBackup(log::NoteBackup { backup: Some(backup()) })),
        (
            "note_liveness",
            C::NoteLiveness(log::NoteLiveness {
                marks: vec![
                    log::LivenessMark {
                        node: 1,
                        incarnation: 0xfeed,
                        mark: v1::member::Mark::Up.into(),
                        boot: 0xb007,
                        draining: None,
                        owner_weight: None,
                    },
                    log::LivenessMark {
                        node: 2,
                        incarnation: 7,
                        mark: v1::member::Mark::Unspecified.into(),
                        boot: 0,
                        draining: Some(true),
                        owner_weight: Some(50),
                    },
                ],
            }),
        ),
        (
            "assign_owners_from_epoch",
            C::AssignOwners(log::AssignOwners {
                assignments: vec![log::assign_owners::Assignment {
                    experiment: 3,
                    node: 2,
                    from_epoch: Some(4),
                }],
            }),
        ),
    ]
}

#[test]
fn every_command_reads_and_writes_its_golden_bytes() {
    let mut golden = Golden::open("");
    for (name, command) in entries() {
        let bytes = golden.keeps(
            name,
            &Entry {
                principal: Some(v1::Principal {
                    kind: principal::Kind::Human as i32,
                    id: text("ada"),
                    verified: false,
                }),
                request_id: text("r-1"),
                owner: Some(log::OwnerStamp { epoch: 2, sequence: 3, expected_flag_version: 4 }),
                compiled_against: None,
                sent_hash: None,
                command: Some(command.clone()),
            },
        );
        assert_eq!(Command::decode(&bytes).unwrap().kind, command, "{name}: meaning changed");
    }
    let against = log::CompiledAgainst {
        environment: text("environments/production"),
        environment_version: Some(0),
        definitions: Some(7),
    };
    let entry = Entry {
        compiled_against: Some(against.clone()),
        command: Some(entry::Command::SetFlag(log::SetFlag::default())),
        ..Entry::default()
    };
    let bytes = golden.keeps("compiled_against", &entry);
    assert_eq!(Command::decode(&bytes).unwrap().compiled_against, Some(against));
    let entry = Entry {
        request_id: text("r-1"),
        sent_hash: Some(0xfeed),
        command: Some(entry::Command::SetFlag(log::SetFlag::default())),
        ..Entry::default()
    };
    let bytes = golden.keeps("sent_hash", &entry);
    assert_eq!(Command::decode(&bytes).unwrap().sent_hash, Some(0xfeed));
    golden.has_nothing_else();
}
