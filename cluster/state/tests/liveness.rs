//! Marks of members: who may say what, what a snapshot keeps, and what they do to owners and to decisions under way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, refusal};
use featureops_proto::log::{self, ClusterMember, LivenessMark, NoteLiveness, NoteMembers, entry};
use featureops_proto::v1::member::Mark;
use featureops_proto::v1::{Principal, principal};
use featureops_state::placement::{Candidate, moves};
use featureops_state::{Effect, FEATURE_LEVEL, State};

fn by(kind: principal::Kind, id: &str) -> Principal {
    Principal { kind: kind.into(), id: id.to_owned(), verified: false }
}

/// At the level from which on the log may hold marks.
fn leveled() -> Driver {
    let mut driver = Driver::new();
    let said = log::MemberLevel { node: 1, release: String::new(), feature_level: FEATURE_LEVEL };
    let raise = log::RaiseLevel { feature_level: FEATURE_LEVEL, members: vec![said] };
    driver.done(entry::Command::RaiseLevel(raise));
    driver
}

fn system() -> Principal {
    by(principal::Kind::System, "placement")
}

fn member(node: u64, voter: bool) -> ClusterMember {
    ClusterMember { node, address: format!("node-{node}:7401"), incarnation: 100 + node, voter }
}

fn marks(marks: Vec<LivenessMark>) -> entry::Command {
    entry::Command::NoteLiveness(NoteLiveness { marks })
}

fn says(node: u64, mark: Mark, boot: u64) -> LivenessMark {
    LivenessMark { node, incarnation: 100 + node, mark: mark.into(), boot, ..LivenessMark::default() }
}

fn drains(node: u64, draining: bool) -> LivenessMark {
    LivenessMark { node, incarnation: 100 + node, draining: Some(draining), ..LivenessMark::default() }
}

fn weighs(node: u64, weight: u32) -> LivenessMark {
    LivenessMark { node, incarnation: 100 + node, owner_weight: Some(weight), ..LivenessMark::default() }
}

/// Three voters and a learner, all of them up, in their first lives.
fn cluster() -> Driver {
    let mut driver = leveled();
    let members = vec![member(1, true), member(2, true), member(3, true), member(4, false)];
    let noted = entry::Command::NoteMembers(NoteMembers { index: 5, members, asked: String::new() });
    driver.command_as(system(), noted);
    let up = (1..=4).map(|node| says(node, Mark::Up, 10 + node)).collect();
    driver.command_as(system(), marks(up));
    driver
}

fn owner(driver: &Driver, number: u32) -> (u64, u64) {
    let owned = driver.state.running_experiments();
    let owned = owned.iter().find(|owned| owned.experiment == number).unwrap();
    (owned.node, owned.epoch)
}

fn assign(driver: &mut Driver, experiment: u32, node: u64, from_epoch: Option<u64>) {
    let assignments = vec![log::assign_owners::Assignment { experiment, node, from_epoch }];
    driver.command_as(system(), entry::Command::AssignOwners(log::AssignOwners { assignments }));
}

fn pause(driver: &mut Driver, number: u32) {
    let name = driver.state.experiment_by_number(number).unwrap().name;
    driver.done(entry::Command::PauseExperiment(log::PauseExperiment { name, ..Default::default() }));
}

#[test]
fn the_system_says_who_is_up_and_people_say_who_drains_and_how_much_each_takes() {
    let mut driver = cluster();
    let human = by(principal::Kind::Human, "ada");
    for (who, mark, code, field) in [
        (human.clone(), says(2, Mark::Down, 0), "NOT_PERMITTED", "principal"),
        (system(), drains(2, true), "NOT_PERMITTED", "principal"),
        (by(principal::Kind::Agent, "bot"), drains(2, true), "NOT_PERMITTED", "principal"),
        (by(principal::Kind::Agent, "bot"), weighs(2, 5), "NOT_PERMITTED", "principal"),
        (human.clone(), weighs(2, 0), "INVALID_ARGUMENT", "owner_weight"),
        (human.clone(), weighs(2, 10_001), "INVALID_ARGUMENT", "owner_weight"),
        (human.clone(), drains(9, true), "NOT_FOUND", "node"),
        (system(), LivenessMark { incarnation: 7, ..says(2, Mark::Down, 0) }, "NOT_FOUND", "node"),
        (system(), says(2, Mark::Up, 0), "INVALID_ARGUMENT", "marks.boot"),
        (system(), says(0, Mark::Down, 0), "INVALID_ARGUMENT", "marks.node"),
    ] {
        let refused = refusal(driver.command_as(who, marks(vec![mark])));
        assert_eq!((refused.code.as_str(), refused.field.as_str()), (code, field), "{mark:?}");
    }
    for many in [vec![], (1..=65).map(|node| says(node, Mark::Down, 0)).collect()] {
        assert_eq!(refusal(driver.command_as(system(), marks(many))).field, "marks");
    }
    let all = marks(vec![drains(1, true), drains(2, true), drains(3, true)]);
    assert_eq!(refusal(driver.command_as(human.clone(), all)).field, "node", "nobody would be left");
    driver.command_as(human.clone(), marks(vec![drains(2, true)]));
    driver.command_as(human.clone(), marks(vec![weighs(3, 300)]));
    let wanted = [(1, 100), (3, 300)].map(|(node, weight)| Candidate { node, weight });
    assert_eq!(driver.state.candidates(), wanted, "no learner, and nobody who drains");
    driver.command_as(system(), marks(vec![says(3, Mark::Down, 0)]));
    assert_eq!(driver.state.candidates(), wanted[..1]);
    // The last one may not go, by a person's word; should it, whoever drains owns.
    let refused = refusal(driver.command_as(human.clone(), marks(vec![drains(1, true)])));
    assert_eq!(refused.code, "WRONG_STATE");
    driver.command_as(system(), marks(vec![says(1, Mark::Left, 11)]));
    assert_eq!(driver.state.candidates(), [Candidate { node: 2, weight: 100 }]);
    driver.command_as(human, marks(vec![drains(2, false)]));
    let told: Vec<String> =
        driver.state.audit(0, 6).iter().rev().map(|record| record.detail.clone()).collect();
    assert_eq!(
        told,
        [
            "node 2 drains",
            "node 3 takes owners by weight 300",
            "node 3 is down",
            "node: no other voter is up that could take its owners and the lead: let one join and promote it, or take back the \
             drain of one (featureops cluster drain NODE --undo)",
            "node 1 ends by its own word",
            "node 2 drains no more",
        ]
    );
    let by = driver.state.liveness_of(2).unwrap().drained_by.clone().unwrap();
    assert_eq!(by.id, "ada");

    let again = State::from_sections(&driver.state.sections()).unwrap();
    assert_eq!((again.liveness(), again.digest()), (driver.state.liveness(), driver.state.digest()));
    driver.state.check().unwrap();
}

#[test]
fn a_state_without_marks_has_no_section_of_them_and_what_is_the_same_changes_nothing() {
    let mut driver = leveled();
    assert!(driver.state.sections().iter().all(|section| section.name != "liveness"));
    let refused = refusal(driver.command_as(system(), marks(vec![says(1, Mark::Up, 5)])));
    assert_eq!(refused.code, "NOT_FOUND", "nobody is noted");
    let mut driver = cluster();
    let (before, effects) = (driver.state.liveness().clone(), driver.effects.len());
    let up = (1..=4).map(|node| says(node, Mark::Up, 10 + node)).collect();
    driver.command_as(system(), marks(up));
    assert_eq!(driver.state.liveness(), &before);
    assert!(!driver.effects[effects..].contains(&Effect::LivenessChanged));
    // Who leaves, or comes back with an empty folder, has no mark any more.
    let emptied = ClusterMember { incarnation: 7, ..member(2, true) };
    let members = vec![member(1, true), emptied, member(4, false)];
    driver.command_as(
        system(),
        entry::Command::NoteMembers(NoteMembers { index: 9, members, asked: String::new() }),
    );
    assert_eq!(driver.state.liveness().keys().copied().collect::<Vec<_>>(), [1, 4]);
}

#[test]
fn a_new_life_begins_new_epochs_and_fences_what_the_last_one_had_under_way() {
    let mut driver = cluster();
    driver.furnish();
    let number = driver.running();
    assign(&mut driver, number, 2, None);
    let (_, epoch) = owner(&driver, number);
    let decision = |driver: &mut Driver, epoch| {
        let stamp = log::OwnerStamp { epoch, sequence: 1, expected_flag_version: 1 };
        let experiment = driver.state.experiment_by_number(number).unwrap().name;
        let decision = featureops_proto::v1::Decision { experiment, ..Default::default() };
        let submit = log::SubmitDecision { decision: Some(decision) };
        let entry = log::Entry {
            principal: Some(by(principal::Kind::System, "owner")),
            owner: Some(stamp),
            command: Some(entry::Command::SubmitDecision(submit)),
            ..log::Entry::default()
        };
        refusal(driver.propose(entry)).code
    };
    driver.command_as(system(), marks(vec![says(2, Mark::Up, 99)]));
    assert_eq!(owner(&driver, number), (2, epoch + 1));
    assert_eq!(decision(&mut driver, epoch), "FENCED");
    // A mark in the same life, or of another member, leaves it.
    driver.command_as(system(), marks(vec![says(2, Mark::Down, 0), says(3, Mark::Up, 98)]));
    driver.command_as(system(), marks(vec![says(2, Mark::Up, 99)]));
    assert_eq!(owner(&driver, number), (2, epoch + 1));
    // Paused, it has an owner too; and one that ended has none to begin anew.
    pause(&mut driver, number);
    driver.command_as(system(), marks(vec![says(2, Mark::Up, 100)]));
    let name = driver.state.experiment_by_number(number).unwrap().name;
    driver.done(entry::Command::StartExperiment(log::StartExperiment { name, ..Default::default() }));
    assert_eq!(owner(&driver, number), (2, epoch + 2));

    // Two leaders after each other decide on the same ground: one assignment.
    assign(&mut driver, number, 3, Some(epoch + 2));
    assign(&mut driver, number, 1, Some(epoch + 2));
    assert_eq!(owner(&driver, number), (3, epoch + 3));
    assert_ne!(decision(&mut driver, epoch + 3), "FENCED", "the owner itself is heard");
    assert_eq!(decision(&mut driver, epoch + 2), "FENCED");
    driver.state.check().unwrap();
}

#[test]
fn who_is_down_drains_or_is_gone_is_moved_from_at_once() {
    let mut driver = cluster();
    driver.furnish();
    let number = driver.running();
    assign(&mut driver, number, 0, None);
    let planned = |driver: &Driver| moves(&driver.state.running_experiments(), &driver.state.candidates());
    let first = planned(&driver);
    assert_eq!((first.len(), first[0].may_wait), (1, false), "it has none");
    let at = first[0].to;
    assign(&mut driver, number, at, None);
    assert_eq!(planned(&driver), []);
    for away in [says(at, Mark::Down, 0), says(at, Mark::Left, 10 + at)] {
        driver.command_as(system(), marks(vec![away]));
        let moved = planned(&driver);
        assert!(moved.len() == 1 && moved[0].to != at && !moved[0].may_wait, "{moved:?}");
        driver.command_as(system(), marks(vec![says(at, Mark::Up, 10 + at)]));
        assert_eq!(planned(&driver), []);
    }
    driver.command_as(by(principal::Kind::Human, "ada"), marks(vec![drains(at, true)]));
    assert!(planned(&driver).len() == 1 && !planned(&driver)[0].may_wait);
    let members =
        [1, 2, 3, 4].into_iter().filter(|node| *node != at).map(|node| member(node, node < 4)).collect();
    driver.command_as(
        system(),
        entry::Command::NoteMembers(NoteMembers { index: 9, members, asked: String::new() }),
    );
    assert!(planned(&driver).len() == 1 && !planned(&driver)[0].may_wait);
}
