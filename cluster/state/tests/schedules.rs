//! Schedules: executed once, not before their time, not in a freeze window, and as their author or not at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, agent, done, human, refusal, system};
use featureops_proto::log::{self, CreateSchedule, ExecuteSchedule, ExperimentRecord, entry};
use featureops_proto::v1::schedule::{Action, State as Phase};
use featureops_proto::v1::{self, Flag, Schedule, ScheduledChange};
use featureops_proto::{timestamp, unix_ms};
use featureops_state::State;
use prost::Message as _;

const NAME: &str = "environments/production/schedules/s";
const FLAG: &str = "environments/production/flags/checkout";

fn schedule(id: &str, at_ms: i64, default: &str) -> Schedule {
    let flag = Flag { default_variant: Some(default.to_owned()), ..Flag::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["default_variant".to_owned()] });
    Schedule {
        name: format!("environments/production/schedules/{id}"),
        flag: "checkout".to_owned(),
        time: Some(timestamp(at_ms)),
        action: Some(Action::Change(ScheduledChange { flag: Some(flag), update_mask })),
        ..Schedule::default()
    }
}

fn create(schedule: Schedule) -> entry::Command {
    entry::Command::CreateSchedule(CreateSchedule { schedule: Some(schedule) })
}

fn cancel(name: &str) -> entry::Command {
    entry::Command::CancelSchedule(log::CancelSchedule { name: name.to_owned(), etag: String::new() })
}

/// As the leader's node would propose it now.
fn execution(d: &Driver, id: &str) -> entry::Command {
    let schedule = d.state.schedule("production", id).unwrap();
    let held = d.state.flag("production", &schedule.flag).unwrap();
    let Some(Action::Change(change)) = &schedule.action else {
        let etag = held.etag;
        return entry::Command::ExecuteSchedule(ExecuteSchedule {
            name: schedule.name,
            etag,
            ..Default::default()
        });
    };
    let default_variant = change.flag.as_ref().unwrap().default_variant.clone();
    entry::Command::ExecuteSchedule(ExecuteSchedule {
        name: schedule.name,
        etag: held.etag.clone(),
        environment_etag: d.state.environment("production").etag,
        flag: Some(Flag { default_variant, ..held }),
        failure: String::new(),
    })
}

fn execute(d: &mut Driver, id: &str) -> log::Reply {
    let command = execution(d, id);
    d.command_as(system(), command)
}

fn furnished() -> Driver {
    let mut d = Driver::new();
    d.furnish();
    d
}

fn state_of(d: &Driver, id: &str) -> (Phase, String) {
    let schedule = d.state.schedule("production", id).unwrap();
    (schedule.state(), schedule.reason)
}

fn default_of(d: &Driver) -> String {
    d.state.flag("production", "checkout").unwrap().default_variant.unwrap()
}

#[test]
fn executed_once_not_before_its_time_in_the_name_of_its_author() {
    let mut d = furnished();
    let at_ms = d.now_ms + 10_000;
    d.done(create(schedule("s", at_ms, "on")));
    assert_eq!(state_of(&d, "s"), (Phase::Pending, String::new()));
    d.tick(9_999);
    assert!(d.state.due_schedules(9).is_empty() && !d.state.is_schedule_due());
    assert_eq!(refusal(execute(&mut d, "s")).code, "WRONG_STATE");
    assert_eq!(default_of(&d), "off");

    d.tick(1);
    assert_eq!(d.state.due_schedules(9).len(), 1);
    // A caller cannot have it executed, whoever it is.
    let command = execution(&d, "s");
    assert_eq!(d.refused(command.clone()), "NOT_PERMITTED");
    let reply = done(d.command_as(system(), command.clone()));
    assert!(reply.took_effect);
    let ended = d.state.schedule("production", "s").unwrap();
    let flag = d.state.flag("production", "checkout").unwrap();
    assert_eq!((ended.state(), ended.flag_version), (Phase::Done, flag.flag_version));
    assert_eq!(ended.finish_time.as_ref().map(unix_ms), Some(at_ms));
    assert_eq!(default_of(&d), "on");
    let history = d.state.flag_history("production", "checkout").unwrap();
    let newest = history.newest_first().next().unwrap();
    assert_eq!(newest.principal.unwrap().id, "ada");
    assert!(newest.definition.is_some());
    assert_eq!(refusal(d.command_as(system(), command)).code, "WRONG_STATE", "once");
    assert!(!d.state.is_schedule_due());

    let audit = d.state.audit(0, 3);
    let told: Vec<_> =
        audit.iter().map(|r| (r.action.as_str(), r.principal.as_ref().unwrap().id.as_str())).collect();
    assert_eq!(told[1..], [("schedule.execute", "owner"), ("flag.set", "ada")]);
    assert!(audit[1].detail.contains("as human:ada: DONE"), "{}", audit[1].detail);
    assert!(d.state.check().is_ok());
}

#[test]
fn a_flag_that_changed_meanwhile_is_looked_at_again() {
    let mut d = furnished();
    d.done(create(schedule("s", d.now_ms + 1, "on")));
    d.tick(1);
    let looked = execution(&d, "s");
    let flag = Flag { description: "new".to_owned(), ..d.state.flag("production", "checkout").unwrap() };
    d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }));
    assert_eq!(refusal(d.command_as(system(), looked.clone())).code, "ETAG_MISMATCH");
    assert_eq!(state_of(&d, "s").0, Phase::Pending);

    let looked = execution(&d, "s");
    let environment = v1::Environment { name: "environments/production".to_owned(), ..Default::default() };
    d.done(entry::Command::SetEnvironment(log::SetEnvironment {
        environment: Some(environment),
        etag: String::new(),
    }));
    assert_eq!(refusal(d.command_as(system(), looked)).code, "ETAG_MISMATCH", "what it was compiled against");

    done(execute(&mut d, "s"));
    let flag = d.state.flag("production", "checkout").unwrap();
    assert_eq!((flag.default_variant.as_deref(), flag.description.as_str()), (Some("on"), "new"));
}

#[test]
fn a_freeze_window_is_waited_for() {
    let mut d = furnished();
    let from = d.now_ms;
    d.done(create(schedule("s", from + 1_000, "on")));
    let window = v1::FreezeWindow {
        start: Some(timestamp(from)),
        end: Some(timestamp(from + 60_000)),
        ..v1::FreezeWindow::default()
    };
    let oversight = v1::Oversight {
        name: "environments/production/oversight".to_owned(),
        freezes: vec![window],
        ..v1::Oversight::default()
    };
    d.done(entry::Command::SetOversight(log::SetOversight {
        oversight: Some(oversight),
        etag: String::new(),
    }));
    d.tick(2_000);
    assert!(d.state.due_schedules(9).is_empty() && d.state.is_schedule_due());
    assert_eq!(refusal(execute(&mut d, "s")).code, "FROZEN");
    assert_eq!(state_of(&d, "s").0, Phase::Pending);
    d.tick(58_000);
    assert_eq!(d.state.due_schedules(9).len(), 1);
    done(execute(&mut d, "s"));
    assert_eq!(default_of(&d), "on");
}

#[test]
fn what_its_author_may_not_do_then_fails_and_says_why() {
    let mut d = Driver::new();
    d.running();
    done(d.command_as(agent(), create(schedule("s", d.now_ms + 1, "on"))));
    d.tick(1);
    let version = d.state.flag("production", "checkout").unwrap().flag_version;
    let reply = done(execute(&mut d, "s"));
    assert!(!reply.took_effect);
    let (state, reason) = state_of(&d, "s");
    assert_eq!(state, Phase::Failed);
    assert!(reason.contains("takes a person"), "{reason}");
    assert_eq!(d.state.flag("production", "checkout").unwrap().flag_version, version, "nothing was written");
    let refused = d.state.audit(0, 9).into_iter().find(|r| r.action == "flag.set" && !r.refused.is_empty());
    assert_eq!(refused.unwrap().principal.unwrap().id, "bot");

    // A person may; the experiment's growth rests, as after every command of a person.
    d.done(create(schedule("t", d.now_ms + 1, "on")));
    d.tick(1);
    assert!(done(execute(&mut d, "t")).took_effect);
    assert!(d.state.check().is_ok());
}

#[test]
fn a_tripped_flag_stays_tripped_and_one_that_is_gone_fails_it() {
    let mut d = furnished();
    d.done(entry::Command::TripFlag(log::TripFlag {
        name: FLAG.to_owned(),
        reason: "smoke".to_owned(),
        ..Default::default()
    }));
    d.done(create(schedule("s", d.now_ms + 1, "on")));
    let archive = Schedule { action: Some(Action::Archive(true)), ..schedule("a", d.now_ms + 1, "") };
    d.done(create(archive.clone()));
    d.tick(1);
    assert!(done(execute(&mut d, "s")).took_effect);
    assert!(d.state.flag("production", "checkout").unwrap().trip.is_some());
    done(execute(&mut d, "a"));
    let (state, reason) = state_of(&d, "a");
    assert!(state == Phase::Failed && reason.contains("tripped"), "{reason}");

    d.done(entry::Command::ResumeFlag(log::ResumeFlag { name: FLAG.to_owned(), reason: "fixed".to_owned() }));
    d.done(create(Schedule { name: format!("{NAME}2"), time: Some(timestamp(d.now_ms + 1)), ..archive }));
    d.done(create(schedule("late", d.now_ms + 1, "on2")));
    d.tick(1);
    assert!(done(execute(&mut d, "s2")).took_effect);
    assert!(d.state.flag("production", "checkout").unwrap().archived);
    done(execute(&mut d, "late"));
    let (state, reason) = state_of(&d, "late");
    assert!(state == Phase::Failed && reason.contains("archived"), "{reason}");
    assert!(d.state.flag("production", "checkout").unwrap().archived, "it is not brought back");
}

#[test]
fn the_leader_says_what_cannot_compile() {
    let mut d = furnished();
    d.done(create(schedule("s", d.now_ms + 1, "on")));
    d.tick(1);
    let failure = "rules[0].variant 'x': no such variant".to_owned();
    let command = ExecuteSchedule { name: NAME.to_owned(), failure: failure.clone(), ..Default::default() };
    let reply = done(d.command_as(system(), entry::Command::ExecuteSchedule(command)));
    assert!(!reply.took_effect);
    assert_eq!(state_of(&d, "s"), (Phase::Failed, failure));
    assert_eq!(default_of(&d), "off");
}

#[test]
fn cancelled_by_its_author_or_a_person() {
    let mut d = furnished();
    let later = d.now_ms + 5_000;
    d.done(create(schedule("s", later, "on")));
    assert_eq!(refusal(d.command_as(agent(), cancel(NAME))).code, "NOT_PERMITTED");
    done(d.command_as(human("bo"), cancel(NAME)));
    assert_eq!(state_of(&d, "s").0, Phase::Cancelled);
    assert_eq!(d.refused(cancel(NAME)), "WRONG_STATE");
    d.tick(6_000);
    assert_eq!(refusal(execute(&mut d, "s")).code, "WRONG_STATE");
    done(d.command_as(agent(), create(schedule("own", d.now_ms + 9, "on"))));
    done(d.command_as(agent(), cancel("environments/production/schedules/own")));
}

#[test]
fn what_cannot_be_scheduled() {
    let mut d = furnished();
    let later = d.now_ms + 5_000;
    let good = || schedule("s", later, "on");
    let cases: [(Schedule, &str, &str); 7] = [
        (
            Schedule { name: "environments/production/flags/s".to_owned(), ..good() },
            "INVALID_ARGUMENT",
            "name",
        ),
        (Schedule { flag: "nothing".to_owned(), ..good() }, "NOT_FOUND", "schedule.flag"),
        (Schedule { time: None, ..good() }, "INVALID_ARGUMENT", "schedule.time"),
        (Schedule { time: Some(timestamp(d.now_ms)), ..good() }, "INVALID_ARGUMENT", "schedule.time"),
        (Schedule { action: None, ..good() }, "INVALID_ARGUMENT", "schedule.action"),
        (Schedule { action: Some(Action::Archive(false)), ..good() }, "INVALID_ARGUMENT", "schedule.action"),
        (Schedule { description: "x".repeat(5_000), ..good() }, "INVALID_ARGUMENT", "schedule.description"),
    ];
    for (wrong, code, field) in cases {
        let refusal = refusal(d.command(create(wrong)));
        assert_eq!((refusal.code.as_str(), refusal.field.as_str()), (code, field), "{}", refusal.message);
    }
    d.done(create(good()));
    assert_eq!(d.refused(create(good())), "ALREADY_EXISTS");
    for n in 1..100 {
        d.done(create(schedule(&format!("s{n}"), later, "on")));
    }
    assert_eq!(d.refused(create(schedule("one-more", later, "on"))), "LIMIT_REACHED");
    d.done(cancel(NAME));
    d.done(create(schedule("one-more", later, "on")));
}

#[test]
fn a_thousand_that_are_over_are_kept_and_a_snapshot_holds_them_all() {
    let mut d = furnished();
    for n in 0..1_050 {
        let id = format!("s{n}");
        d.done(create(schedule(&id, d.now_ms + 1, "on")));
        d.done(cancel(&format!("environments/production/schedules/{id}")));
    }
    let kept = d.state.schedules("production", "", 9_999, "", true);
    assert_eq!(kept.len(), 1_000);
    assert!(
        d.state.schedule("production", "s49").is_none() && d.state.schedule("production", "s50").is_some()
    );
    d.done(create(schedule("next", d.now_ms + 500, "on")));
    let restored = State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(restored.digest(), d.state.digest());
    d.state = restored;
    assert!(d.state.check().is_ok());
    d.tick(500);
    done(execute(&mut d, "next"));
    assert_eq!(default_of(&d), "on");
    let oldest = |d: &Driver| d.state.schedule("production", "s50").is_some();
    assert!(!oldest(&d), "the order in which they ended came with the snapshot");
    assert_eq!(d.state.schedules("production", "", 9_999, "checkout", false).len(), 0);
}

#[test]
fn a_violation_puts_back_what_was_forgotten_for_the_one_that_ended() {
    let mut d = Driver::new();
    d.running();
    for n in 0..1_000 {
        let id = format!("s{n}");
        d.done(create(schedule(&id, d.now_ms + 1, "on")));
        d.done(cancel(&format!("environments/production/schedules/{id}")));
    }
    d.done(create(schedule("next", d.now_ms + 1, "on")));
    d.tick(1);
    // The experiment that holds the flag has lost a bucket: whatever touches it breaks A1.
    let mut sections = d.state.sections();
    let experiments = sections.iter_mut().find(|section| section.name == "experiments").unwrap();
    let mut record = ExperimentRecord::decode_length_delimited(experiments.bytes.as_slice()).unwrap();
    record.runs[0].length -= 1;
    experiments.bytes = record.encode_length_delimited_to_vec();
    let mut broken = State::from_sections(&sections).unwrap();
    let before = broken.schedules("production", "", 9_999, "", true);
    assert_eq!(before.len(), 1_001);
    let command = Some(execution(&d, "next"));
    let entry = log::Entry { principal: Some(system()), command, ..log::Entry::default() };
    let violation = broken.apply(broken.position() + 1, &entry.encode_to_vec(), &mut Vec::new()).unwrap_err();
    assert!(violation.detail.contains("weights sum to 9999"), "{violation}");
    let after = broken.schedules("production", "", 9_999, "", true);
    let lost: Vec<_> = before.iter().filter(|held| !after.contains(held)).map(|held| &held.name).collect();
    assert!(lost.is_empty() && after.len() == before.len(), "not as before: {lost:?}");
}

#[test]
fn a_state_without_schedules_has_no_section_of_them() {
    let mut d = furnished();
    assert!(!d.state.sections().iter().any(|section| section.name == "schedules"));
    d.done(create(schedule("s", d.now_ms + 1, "on")));
    assert!(d.state.sections().iter().any(|section| section.name == "schedules"));
}
