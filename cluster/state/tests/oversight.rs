//! What no owner and no bug can exceed: fences, bounds, levels, cool-downs, freezes, trips, reverts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, agent, done, human, refusal};
use featureops_proto::log::{self, entry, resolve_decision::Resolution};
use featureops_proto::v1::decision::{Action, Status};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{self, AutonomyLevel, AutonomyLevels, Principal, principal};
use featureops_state::{Effect, State};

const FLAG: &str = "environments/production/flags/checkout";
const EXPERIMENT: &str = "environments/production/experiments/e";

fn weights(d: &Driver) -> Vec<u32> {
    d.state.experiment("production", "e").unwrap().allocation.unwrap().weights_basis_points
}

fn resolve(d: &mut Driver, name: &str, resolution: Resolution, who: Principal) -> log::Reply {
    d.command_as(
        who,
        entry::Command::ResolveDecision(log::ResolveDecision {
            name: name.to_owned(),
            resolution: resolution as i32,
            note: "because".to_owned(),
        }),
    )
}

fn newest(d: &Driver) -> v1::Decision {
    d.state.decisions("production", "", 0, 1, Status::Unspecified).remove(0)
}

fn autonomy(d: &mut Driver, growth: AutonomyLevel, protection: AutonomyLevel) {
    let autonomy = Some(AutonomyLevels { growth: growth as i32, protection: protection as i32 });
    d.done(entry::Command::SetFlagAutonomy(log::SetFlagAutonomy { name: FLAG.to_owned(), autonomy }));
    d.tick(500);
}

#[test]
fn a_reallocation_is_applied_once_and_recorded_whole() {
    let mut d = Driver::new();
    let e = d.running();
    assert_eq!(weights(&d), [5_000, 5_000]);
    let (stamp, decision) = d.reallocation(e, &[2_000, 8_000]);
    let first = d.submit(stamp, decision.clone());
    assert!(done(first.clone()).took_effect);
    assert_eq!(weights(&d), [2_000, 8_000]);
    // The same sequence gets the same reply and is not done again.
    assert_eq!(d.submit(stamp, decision), first);
    let record = newest(&d);
    assert_eq!(record.status(), Status::Applied);
    assert_eq!(record.weights_before, [5_000, 5_000]);
    assert_eq!(record.weights_applied, [2_000, 8_000]);
    assert_eq!(record.flag_version_after, record.flag_version_before + 1);
    assert!(!record.bounds.is_empty() && record.inverse.is_some());
    assert!(d.state.verify_audit().intact);
}

#[test]
fn fences_refuse_what_is_late_foreign_or_made_up() {
    let mut d = Driver::new();
    let e = d.running();
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    let mut code = |stamp, decision| refusal(d.submit(stamp, decision)).code;
    assert_eq!(code(log::OwnerStamp { epoch: 9, ..stamp }, decision.clone()), "FENCED");
    assert_eq!(code(log::OwnerStamp { sequence: 7, ..stamp }, decision.clone()), "FENCED");
    let mut forged = decision.clone();
    forged.inputs.as_mut().unwrap().strata.push(v1::Stratum::default());
    assert_eq!(code(stamp, forged), "DIGEST_MISMATCH");
    let next = |n| log::OwnerStamp { sequence: n, ..stamp };
    let mut forged = decision.clone();
    forged.inputs.as_mut().unwrap().digest ^= 1;
    assert_eq!(code(next(2), forged), "DIGEST_MISMATCH");
    let mut elsewhere = decision.clone();
    elsewhere.inputs.as_mut().unwrap().frozen_position = 1;
    assert_eq!(code(next(3), elsewhere), "STALE_DECISION");
    assert_eq!(
        code(log::OwnerStamp { expected_flag_version: 1, ..next(4) }, decision.clone()),
        "STALE_DECISION"
    );
    assert_eq!(code(next(5), v1::Decision { generation: 9, ..decision.clone() }), "STALE_DECISION");
    assert_eq!(
        code(next(6), v1::Decision { weights_after: vec![5_000, 5_001], ..decision.clone() }),
        "INVALID_ARGUMENT"
    );
    assert_eq!(
        code(next(7), v1::Decision { weights_after: vec![10_000], ..decision.clone() }),
        "INVALID_ARGUMENT"
    );
    // Without a stamp there is no decision at all.
    let unstamped = entry::Command::SubmitDecision(log::SubmitDecision { decision: Some(decision) });
    assert_eq!(d.refused(unstamped), "FENCED");
    assert_eq!(weights(&d), [5_000, 5_000]);
    // A new owner fences the old one.
    d.done(entry::Command::AssignOwners(log::AssignOwners {
        assignments: vec![log::assign_owners::Assignment { experiment: e, node: 2, from_epoch: None }],
    }));
    d.tick(500);
    let (_, decision) = d.reallocation(e, &[4_000, 6_000]);
    assert_eq!(refusal(d.submit(next(8), decision)).code, "FENCED");
}

#[test]
fn a_human_command_overtakes_what_was_decided_before_it() {
    let mut d = Driver::new();
    let e = d.running();
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    let by_hand = entry::Command::SetAllocation(log::SetAllocation {
        name: EXPERIMENT.to_owned(),
        weights_basis_points: vec![9_000, 1_000],
        etag: String::new(),
    });
    d.done(by_hand);
    assert_eq!(refusal(d.submit(stamp, decision)).code, "STALE_DECISION");
    d.tick(500);
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    assert_eq!(refusal(d.submit(stamp, decision)).code, "COOL_DOWN");
    d.tick(60_500);
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    done(d.submit(stamp, decision));
    // One a second.
    let (stamp, decision) = d.reallocation(e, &[5_000, 5_000]);
    assert_eq!(refusal(d.submit(stamp, decision)).code, "TOO_FREQUENT");
    assert_eq!(weights(&d), [4_000, 6_000]);
}

#[test]
fn caps_floors_and_budgets_bind_people_and_owners_alike() {
    let mut d = Driver::new();
    d.furnish();
    let e = d.experiment("e", &[("off", true), ("on", false), ("on2", false)]);
    d.start("e", AutonomyLevel::A4Bounded);
    d.tick(500);
    assert_eq!(weights(&d), [8_000, 1_000, 1_000]);
    let (stamp, decision) = d.reallocation(e, &[7_000, 2_000, 1_000]);
    assert_eq!(refusal(d.submit(stamp, decision)).code, "OVER_CAP");
    let by_hand = entry::Command::SetAllocation(log::SetAllocation {
        name: EXPERIMENT.to_owned(),
        weights_basis_points: vec![7_900, 2_000, 100],
        etag: String::new(),
    });
    assert_eq!(d.refused(by_hand), "OVER_CAP");
    // An environment's budget below what is served is refused; one at it binds from then on.
    let oversight = |budget| {
        entry::Command::SetOversight(log::SetOversight {
            oversight: Some(v1::Oversight {
                name: "environments/production/oversight".to_owned(),
                new_arm_budget_basis_points: Some(budget),
                ..v1::Oversight::default()
            }),
            etag: String::new(),
        })
    };
    assert_eq!(d.refused(oversight(500)), "OVER_CAP");
    d.done(oversight(2_000));
}

#[test]
fn levels_decide_what_becomes_of_a_decision() {
    use AutonomyLevel as L;
    for (growth, expected) in [
        (L::A0Off, None),
        (L::A1Observe, Some(Status::Shadow)),
        (L::A2Recommend, Some(Status::Proposed)),
        (L::A3Guarded, Some(Status::Proposed)),
        (L::A4Bounded, Some(Status::Applied)),
        (L::A5Autopilot, Some(Status::Applied)),
    ] {
        let mut d = Driver::new();
        let e = d.running();
        autonomy(&mut d, growth, L::A3Guarded);
        let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
        let reply = d.submit(stamp, decision);
        match expected {
            None => assert_eq!(refusal(reply).code, "AUTONOMY_TOO_LOW"),
            Some(status) => {
                assert_eq!(done(reply).took_effect, status == Status::Applied);
                assert_eq!(newest(&d).status(), status, "{growth:?}");
            }
        }
        let applied = expected == Some(Status::Applied);
        assert_eq!(weights(&d), if applied { [4_000, 6_000] } else { [5_000, 5_000] });
    }
}

#[test]
fn the_environment_and_the_action_class_bind_too() {
    let mut d = Driver::new();
    let e = d.running();
    let class = |class: &str, level: AutonomyLevel| {
        entry::Command::SetOversight(log::SetOversight {
            oversight: Some(v1::Oversight {
                name: "environments/production/oversight".to_owned(),
                action_limits: [(class.to_owned(), level as i32)].into(),
                ..v1::Oversight::default()
            }),
            etag: String::new(),
        })
    };
    d.done(class("reallocate", AutonomyLevel::A2Recommend));
    d.tick(500);
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    assert!(!done(d.submit(stamp, decision)).took_effect);
    assert_eq!(d.refused(class("guess", AutonomyLevel::A2Recommend)), "INVALID_ARGUMENT");
    let reply = d.command_as(agent(), class("reallocate", AutonomyLevel::A5Autopilot));
    assert_eq!(refusal(reply).code, "NOT_PERMITTED");
}

#[test]
fn a_proposal_takes_another_person() {
    let mut d = Driver::new();
    let e = d.running();
    autonomy(&mut d, AutonomyLevel::A2Recommend, AutonomyLevel::A3Guarded);
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    d.submit(stamp, decision);
    let name = newest(&d).name;
    assert_eq!(refusal(resolve(&mut d, &name, Resolution::Approve, agent())).code, "NOT_PERMITTED");
    assert_eq!(refusal(resolve(&mut d, &name, Resolution::Revert, human("ada"))).code, "WRONG_STATE");
    done(resolve(&mut d, &name, Resolution::Approve, human("ada")));
    assert_eq!(weights(&d), [4_000, 6_000]);
    let record = newest(&d);
    assert_eq!(record.status(), Status::Applied);
    assert_eq!(record.resolved_by.unwrap().id, "ada");
    assert_eq!(refusal(resolve(&mut d, &name, Resolution::Approve, human("eve"))).code, "WRONG_STATE");
}

#[test]
fn an_edit_voids_what_waits_for_approval() {
    let mut d = Driver::new();
    let e = d.running();
    autonomy(&mut d, AutonomyLevel::A2Recommend, AutonomyLevel::A3Guarded);
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    d.submit(stamp, decision);
    let name = newest(&d).name;
    let flag = d.state.flag("production", "checkout").unwrap();
    let flag = v1::Flag { stale_after_seconds: 60, ..flag };
    d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }));
    assert_eq!(newest(&d).status(), Status::Superseded);
    assert_eq!(refusal(resolve(&mut d, &name, Resolution::Approve, human("ada"))).code, "WRONG_STATE");
}

#[test]
fn revert_restores_the_map_and_demotes() {
    let mut d = Driver::new();
    let e = d.running();
    let runs = d.state.experiment("production", "e").unwrap().allocation.unwrap().runs;
    let (stamp, decision) = d.reallocation(e, &[2_000, 8_000]);
    d.submit(stamp, decision);
    let name = newest(&d).name;
    done(resolve(&mut d, &name, Resolution::Revert, human("ada")));
    assert_eq!(d.state.experiment("production", "e").unwrap().allocation.unwrap().runs, runs);
    assert_eq!(newest(&d).status(), Status::Reverted);
    assert_eq!(
        d.state.flag("production", "checkout").unwrap().autonomy.unwrap().growth(),
        AutonomyLevel::A2Recommend
    );
    let audit = d.state.audit(0, 10);
    assert!(audit.iter().any(|r| r.action == "flag.demote" && r.detail.contains(&name)));
    d.tick(500);
    let (stamp, decision) = d.reallocation(e, &[2_000, 8_000]);
    assert_eq!(refusal(d.submit(stamp, decision)).code, "COOL_DOWN");
}

#[test]
fn a_trip_ignores_cool_downs_and_holds_until_a_person_resumes() {
    let mut d = Driver::new();
    let e = d.running();
    autonomy(&mut d, AutonomyLevel::A4Bounded, AutonomyLevel::A3Guarded);
    let flag = d.state.flag("production", "checkout").unwrap();
    d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }));
    d.tick(500);
    let (stamp, mut decision) = d.reallocation(e, &[]);
    decision.action = Action::Trip as i32;
    decision.variant = "on".to_owned();
    decision.reason = "revenue fell".to_owned();
    assert!(done(d.submit(stamp, decision)).took_effect);
    let flag = d.state.flag("production", "checkout").unwrap();
    assert_eq!(flag.trip.as_ref().unwrap().reason, "revenue fell");
    assert!(flag.allocation.is_none());
    assert_eq!(d.state.experiment("production", "e").unwrap().state(), Phase::Tripped);
    let start = entry::Command::StartExperiment(log::StartExperiment {
        name: EXPERIMENT.to_owned(),
        ..Default::default()
    });
    assert_eq!(d.refused(start), "TRIPPED");
    let resume = |name: &str| {
        entry::Command::ResumeFlag(log::ResumeFlag { name: name.to_owned(), reason: String::new() })
    };
    assert_eq!(refusal(d.command_as(agent(), resume(FLAG))).code, "NOT_PERMITTED");
    d.done(resume(FLAG));
    let experiment = d.state.experiment("production", "e").unwrap();
    assert_eq!((experiment.state(), experiment.allocation.unwrap().generation), (Phase::Running, 2));
}

#[test]
fn an_alarm_trips_proposes_or_is_refused_by_level() {
    use AutonomyLevel as L;
    for (protection, tripped) in [(L::A3Guarded, true), (L::A2Recommend, false), (L::A1Observe, false)] {
        let mut d = Driver::new();
        d.running();
        autonomy(&mut d, L::A4Bounded, protection);
        let alarm = entry::Command::TripFlag(log::TripFlag {
            name: FLAG.to_owned(),
            reason: "error rate".to_owned(),
            alarm: true,
            source: "pager".to_owned(),
        });
        let system =
            Principal { kind: principal::Kind::System as i32, id: "pager".to_owned(), verified: false };
        assert_eq!(done(d.command_as(system, alarm)).took_effect, tripped);
        assert_eq!(d.state.flag("production", "checkout").unwrap().trip.is_some(), tripped);
        let record = newest(&d);
        assert!(record.reason.contains("error rate"));
        if tripped {
            done(resolve(&mut d, &record.name, Resolution::Revert, human("ada")));
            assert!(d.state.flag("production", "checkout").unwrap().trip.is_none());
        }
    }
}

#[test]
fn a_freeze_holds_growth_and_not_protection() {
    let mut d = Driver::new();
    let e = d.running();
    let at = |ms: i64| Some(prost_types::Timestamp { seconds: ms / 1_000, nanos: 0 });
    let window = v1::FreezeWindow {
        start: at(d.now_ms - 1_000),
        end: at(d.now_ms + 60_000),
        reason: "sale".to_owned(),
    };
    d.done(entry::Command::SetOversight(log::SetOversight {
        oversight: Some(v1::Oversight {
            name: "environments/production/oversight".to_owned(),
            freezes: vec![window],
            ..v1::Oversight::default()
        }),
        etag: String::new(),
    }));
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    assert_eq!(refusal(d.submit(stamp, decision)).code, "FROZEN");
    let (stamp, mut decision) = d.reallocation(e, &[]);
    decision.action = Action::Trip as i32;
    decision.variant = "on".to_owned();
    assert!(done(d.submit(stamp, decision)).took_effect);
}

#[test]
fn a_promotion_is_only_proposed_and_ends_the_experiment_when_approved() {
    let mut d = Driver::new();
    let e = d.running();
    autonomy(&mut d, AutonomyLevel::A5Autopilot, AutonomyLevel::A3Guarded);
    let (stamp, mut decision) = d.reallocation(e, &[]);
    decision.action = Action::Promote as i32;
    decision.variant = "on".to_owned();
    assert!(!done(d.submit(stamp, decision)).took_effect);
    let name = newest(&d).name;
    done(resolve(&mut d, &name, Resolution::Approve, human("ada")));
    let flag = d.state.flag("production", "checkout").unwrap();
    assert_eq!(flag.default_variant.as_deref(), Some("on"));
    assert_eq!(d.state.experiment("production", "e").unwrap().state(), Phase::Stopped);
    done(resolve(&mut d, &name, Resolution::Revert, human("ada")));
    assert_eq!(d.state.flag("production", "checkout").unwrap().default_variant.as_deref(), Some("off"));
}

#[test]
fn what_waits_for_a_person_outlives_the_learning() {
    let mut d = Driver::new();
    let e = d.running();
    autonomy(&mut d, AutonomyLevel::A4Bounded, AutonomyLevel::A2Recommend);
    let alarm = entry::Command::TripFlag(log::TripFlag {
        name: FLAG.to_owned(),
        reason: "error rate".to_owned(),
        alarm: true,
        source: "pager".to_owned(),
    });
    let pager = Principal { kind: principal::Kind::System as i32, id: "pager".to_owned(), verified: false };
    assert!(!done(d.command_as(pager, alarm)).took_effect);
    let alarmed = newest(&d).name;
    d.tick(2_000);
    let (stamp, mut decision) = d.reallocation(e, &[]);
    decision.action = Action::Promote as i32;
    decision.variant = "on".to_owned();
    assert!(!done(d.submit(stamp, decision)).took_effect);
    let promotion = newest(&d).name;
    d.tick(2_000);
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    assert!(done(d.submit(stamp, decision)).took_effect);
    let status = |d: &Driver, name: &str| {
        let all = d.state.decisions("production", "checkout", 0, 100, Status::Unspecified);
        all.iter().find(|decision| decision.name == name).unwrap().status()
    };
    assert_eq!((status(&d, &alarmed), status(&d, &promotion)), (Status::Proposed, Status::Proposed));
    // The trip is for everybody, so it ends the rest.
    done(resolve(&mut d, &alarmed, Resolution::Approve, human("ada")));
    assert!(d.state.flag("production", "checkout").unwrap().trip.is_some());
    assert_eq!(status(&d, &promotion), Status::Superseded);
}

#[test]
fn a_changed_limit_wakes_the_owners_of_its_environment() {
    let mut d = Driver::new();
    d.running();
    d.tick(500);
    d.tick(500);
    d.effects.clear();
    d.tick(500);
    let frozen = |d: &Driver| d.effects.iter().any(|effect| matches!(effect, Effect::Frozen { .. }));
    assert!(!frozen(&d), "it rests");
    d.done(entry::Command::SetOversight(log::SetOversight {
        oversight: Some(v1::Oversight {
            name: "environments/production/oversight".to_owned(),
            ..v1::Oversight::default()
        }),
        etag: String::new(),
    }));
    d.tick(500);
    assert!(frozen(&d));
}

#[test]
fn the_first_record_has_the_time_of_its_entry_though_no_tick_had_come() {
    let d = Driver::new();
    let first = &d.state.audit_from(1, 1)[0];
    assert_eq!(first.action, "cluster.initialize");
    assert_eq!(first.time.unwrap().seconds, (driver::START_MS - 1_000) / 1_000);
    assert_eq!(d.state.log_time_ms(), driver::START_MS, "a wall clock is not log time");
}

#[test]
fn a_request_id_is_answered_once() {
    let mut d = Driver::new();
    d.furnish();
    let flag = d.state.flag("production", "checkout").unwrap();
    let entry = log::Entry {
        principal: Some(human("ada")),
        request_id: "r1".to_owned(),
        command: Some(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() })),
        ..log::Entry::default()
    };
    let first = d.propose(entry.clone());
    assert_eq!(d.propose(entry.clone()), first);
    let other = entry::Command::ArchiveFlag(log::ArchiveFlag { name: FLAG.to_owned(), etag: String::new() });
    let other = log::Entry { command: Some(other), ..entry.clone() };
    assert_eq!(refusal(d.propose(other)).code, "CONTENT_MISMATCH");
    // The first had no hash of what was sent, as in a log of an earlier release: nothing is compared.
    assert_eq!(d.propose(log::Entry { sent_hash: Some(1), ..entry.clone() }), first);
    assert_eq!(d.state.flag("production", "checkout").unwrap().flag_version, 2);

    let flag = d.state.flag("production", "checkout").unwrap();
    let hashed = |sent_hash, description: &str| log::Entry {
        request_id: "r2".to_owned(),
        sent_hash,
        command: Some(entry::Command::SetFlag(log::SetFlag {
            flag: Some(v1::Flag { description: description.to_owned(), ..flag.clone() }),
            etag: String::new(),
        })),
        ..entry.clone()
    };
    let first = d.propose(hashed(Some(1), "meant"));
    assert_eq!(d.propose(hashed(Some(1), "completed otherwise")), first);
    assert_eq!(d.propose(hashed(None, "by an earlier release")), first);
    let refused = refusal(d.propose(hashed(Some(2), "something else")));
    assert_eq!((refused.code.as_str(), refused.field.as_str()), ("CONTENT_MISMATCH", "request_id"));
    assert!(refused.message.contains("was not written"), "{}", refused.message);
    assert_eq!(d.state.flag("production", "checkout").unwrap().description, "meant");
    // And so over a snapshot.
    d.state = featureops_state::State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(refusal(d.propose(hashed(Some(2), "something else"))).code, "CONTENT_MISMATCH");
    assert_eq!(d.propose(hashed(Some(1), "meant")), first);
}

#[test]
fn history_diffs_and_revert_to_a_version() {
    let mut d = Driver::new();
    d.furnish();
    let flag = d.state.flag("production", "checkout").unwrap();
    let changed = v1::Flag { description: "second".to_owned(), ..flag.clone() };
    d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(changed.clone()), etag: flag.etag.clone() }));
    let stale = entry::Command::SetFlag(log::SetFlag { flag: Some(changed), etag: flag.etag });
    assert_eq!(d.refused(stale), "ETAG_MISMATCH");
    let to = |to_version| {
        entry::Command::RevertFlag(log::RevertFlag { name: FLAG.to_owned(), to_version, etag: String::new() })
    };
    d.done(to(1));
    assert_eq!(d.state.flag("production", "checkout").unwrap().description, "");
    assert_eq!(d.refused(to(99)), "NOT_FOUND");
    let history = d.state.flag_history("production", "checkout").unwrap();
    let history: Vec<_> = history.newest_first().collect();
    assert_eq!(history.iter().map(|v| v.change.as_str()).collect::<Vec<_>>(), ["revert", "set", "set"]);
}

#[test]
fn a_broken_entry_stops_the_fold_and_changes_nothing() {
    let mut d = Driver::new();
    d.running();
    let digest = d.state.digest();
    let position = d.log.len() as u64 + 1;
    for bytes in [&[0xff, 0xff, 0xff][..], &[][..]] {
        let violation = d.state.apply(position, bytes, &mut Vec::new()).unwrap_err();
        assert_eq!(violation.position, position);
    }
    assert!(d.state.apply(1, &d.log[0], &mut Vec::new()).is_err(), "positions rise");
    assert_eq!(d.state.digest(), digest);
}

/// Who reads again before repeating has another etag, and is to get through.
#[test]
fn a_refused_etag_is_no_answer_to_keep() {
    let mut d = Driver::new();
    d.done(entry::Command::SetFlag(log::SetFlag {
        flag: Some(driver::boolean_flag("checkout")),
        etag: String::new(),
    }));
    let archive = |etag: &str| log::Entry {
        principal: Some(human("ada")),
        request_id: "again".to_owned(),
        command: Some(entry::Command::ArchiveFlag(log::ArchiveFlag {
            name: FLAG.to_owned(),
            etag: etag.to_owned(),
        })),
        ..log::Entry::default()
    };
    assert_eq!(refusal(d.propose(archive("d9"))).code, "ETAG_MISMATCH");
    let first = done(d.propose(archive("d1")));
    assert_eq!(done(d.propose(archive("d1"))), first, "and what took effect is");
}

#[test]
fn a_history_is_bounded_by_its_bytes_too() {
    let mut d = Driver::new();
    d.furnish();
    let versions = |d: &Driver| -> Vec<u64> {
        let history = d.state.flag_history("production", "checkout").unwrap();
        history.newest_first().map(|version| version.flag_version).collect()
    };
    let set = |d: &mut Driver, bytes: usize| {
        let flag = d.state.flag("production", "checkout").unwrap();
        let flag = v1::Flag { description: "x".repeat(bytes), ..flag };
        d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), ..log::SetFlag::default() }));
    };
    assert_eq!((versions(&d), d.state.shortened_histories()), (vec![1], (0, 0)));
    for _ in 0..40 {
        set(&mut d, 60_000);
    }
    // A MiB has 17 of them: the oldest went.
    assert_eq!((versions(&d), d.state.shortened_histories()), ((25..=41).rev().collect(), (1, 24)));
    d.state.check().unwrap();
    let again = State::from_sections(&d.state.sections()).unwrap();
    assert_eq!((again.shortened_histories(), again.digest()), ((1, 24), d.state.digest()));
    // However long they are, there is one to go back to.
    set(&mut d, 800_000);
    set(&mut d, 800_000);
    assert_eq!(versions(&d), [43, 42]);
    d.done(entry::Command::RevertFlag(log::RevertFlag {
        name: FLAG.to_owned(),
        to_version: 42,
        etag: String::new(),
    }));
    d.state.check().unwrap();
    assert_eq!(
        d.refused(entry::Command::RevertFlag(log::RevertFlag {
            name: FLAG.to_owned(),
            to_version: 1,
            etag: String::new()
        })),
        "NOT_FOUND"
    );
}
