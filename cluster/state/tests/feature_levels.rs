//! Feature levels: a cluster is raised once every member knows the level, commands wait for theirs, and a build that does not
//! know the cluster's level stops instead of guessing. And what a restored state keeps and ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, done, human, refusal, system};
use featureops_proto::log::{
    self, ClusterMember, Entry, MemberLevel, NoteMembers, RaiseLevel, ReceiptKey, entry,
};
use featureops_proto::v1::{self, AutonomyLevel, BackupRecord, Principal, principal};
use featureops_state::placement::Owned;
use featureops_state::{FEATURE_LEVEL, Invariant, Restoration, State};
use prost::Message as _;

fn said(levels: &[(u64, u32)]) -> Vec<MemberLevel> {
    let said = |(node, feature_level): &(u64, u32)| MemberLevel {
        node: *node,
        release: format!("0.{node}"),
        feature_level: *feature_level,
    };
    levels.iter().map(said).collect()
}

fn raise(feature_level: u32, levels: &[(u64, u32)]) -> entry::Command {
    entry::Command::RaiseLevel(RaiseLevel { feature_level, members: said(levels) })
}

fn backup(position: u64) -> entry::Command {
    let backup = BackupRecord { position, bytes: 10, sha256: vec![7; 32], ..BackupRecord::default() };
    entry::Command::NoteBackup(log::NoteBackup { backup: Some(backup) })
}

fn agent() -> Principal {
    Principal { kind: principal::Kind::Agent.into(), id: "bot".into(), verified: true }
}

#[test]
fn a_command_of_a_later_level_waits_until_every_member_knows_it() {
    let mut driver = Driver::new();
    let first = driver.state.sections();
    assert_eq!(driver.state.feature_level(), 1);
    let refused = refusal(driver.command(backup(1)));
    assert_eq!(refused.code, "FEATURE_LEVEL_TOO_LOW");
    assert!(refused.message.contains("cluster.note_backup") && refused.message.contains("raise --to 2"));

    let members = [1, 2].map(|node| ClusterMember {
        node,
        address: format!("node-{node}:7401"),
        incarnation: node,
        voter: true,
    });
    driver.done(entry::Command::NoteMembers(NoteMembers {
        index: 5,
        members: members.to_vec(),
        asked: String::new(),
    }));
    let refused = refusal(driver.command(raise(2, &[(1, 2), (2, 1)])));
    assert!(refused.message.contains("node 2 (release 0.2)"), "{}", refused.message);
    let refused = refusal(driver.command(raise(2, &[(1, 2)])));
    assert!(refused.message.contains("node 2 is a member and was not asked"), "{}", refused.message);
    assert_eq!(driver.refused(raise(2, &[])), "INVALID_ARGUMENT");
    assert_eq!(refusal(driver.command_as(agent(), raise(2, &[(1, 2), (2, 2)]))).code, "NOT_PERMITTED");
    // Nobody that knows it said so: refused on every build alike, and no fold stops.
    assert_eq!(driver.refused(raise(99, &[(1, 2), (2, 2)])), "WRONG_STATE");
    assert_eq!(driver.state.feature_level(), 1);
    assert!(driver.state.sections().len() == first.len() + 1, "a level of 1 is written down nowhere");

    assert!(driver.done(raise(2, &[(1, 2), (2, 2)])).took_effect);
    assert!(!driver.done(raise(2, &[(1, 2), (2, 2)])).took_effect);
    assert_eq!(driver.refused(backup(1_000)), "INVALID_ARGUMENT");
    assert_eq!(refusal(driver.command_as(agent(), backup(3))).code, "NOT_PERMITTED");
    driver.done(backup(3));
    let noted = driver.state.last_backup().unwrap();
    assert_eq!((noted.position, noted.recorded_by.clone().unwrap().id.as_str()), (3, "ada"));
    assert!(driver.state.audit(0, 1)[0].detail.contains("sha256 0707"));
    let again = State::from_sections(&driver.state.sections()).unwrap();
    assert_eq!((again.digest(), again.feature_level()), (driver.state.digest(), 2));
    assert_eq!(again.last_backup(), driver.state.last_backup());
}

#[test]
fn a_build_that_does_not_know_the_level_stops_at_it_and_takes_no_state_of_it() {
    let mut old = State::limited_to(1);
    let initialize = log::Initialize {
        cluster: "c".into(),
        unit_key_id: 7,
        receipt_key: Some(ReceiptKey { id: 1, key: vec![1; 16] }),
        now_ms: 1,
        feature_level: 0,
    };
    let entry = |command| {
        Entry { principal: Some(human("ada")), command: Some(command), ..Entry::default() }.encode_to_vec()
    };
    old.apply(1, &entry(entry::Command::Initialize(initialize.clone())), &mut Vec::new()).unwrap();
    let before = old.digest();
    let stopped = old.apply(2, &entry(raise(2, &[(1, 2)])), &mut Vec::new()).unwrap_err();
    assert_eq!((stopped.invariant, stopped.position), (Invariant::L2Entry, 2));
    assert!(
        stopped.detail.contains("feature level 2") && stopped.detail.contains("up to 1"),
        "{}",
        stopped.detail
    );
    assert_eq!((old.digest(), old.position()), (before, 1));

    // One that begins there, and one whose snapshot is of there.
    let mut founded = State::limited_to(1);
    let at = log::Initialize { feature_level: 2, ..initialize.clone() };
    assert!(founded.apply(1, &entry(entry::Command::Initialize(at.clone())), &mut Vec::new()).is_err());
    let mut new = State::new();
    new.apply(1, &entry(entry::Command::Initialize(at)), &mut Vec::new()).unwrap();
    assert_eq!(new.feature_level(), 2);
    let mut taken = State::from_sections(&new.sections()).unwrap();
    assert!(taken.limit_as(&State::limited_to(1)).unwrap_err().contains("start a release"));
    taken.limit_as(&State::new()).unwrap();
    let beyond = log::Initialize { feature_level: FEATURE_LEVEL + 1, ..initialize };
    let mut new = State::new();
    assert!(new.apply(1, &entry(entry::Command::Initialize(beyond)), &mut Vec::new()).is_err());
}

#[test]
fn a_restored_state_keeps_what_was_counted_and_ends_what_acts() {
    let mut driver = Driver::new();
    driver.furnish();
    let number = driver.experiment("button", &[("off", true), ("on", false)]);
    driver.start("button", AutonomyLevel::A4Bounded);
    driver.done(entry::Command::NoteMembers(NoteMembers {
        index: 9,
        members: vec![ClusterMember { node: 1, address: "a:1".into(), incarnation: 7, voter: true }],
        asked: String::new(),
    }));
    driver.done(raise(2, &[(1, 2)]));
    let mark = log::LivenessMark {
        node: 1,
        incarnation: 7,
        mark: v1::member::Mark::Up.into(),
        boot: 3,
        ..log::LivenessMark::default()
    };
    driver.command_as(system(), entry::Command::NoteLiveness(log::NoteLiveness { marks: vec![mark] }));
    assert_eq!(driver.state.liveness().len(), 1);
    driver.tick(1_000);
    let (position, digest) = (driver.state.position(), driver.state.digest());
    let mut restored = driver.state.clone();
    let new = Restoration {
        cluster: "another".into(),
        receipt_key: ReceiptKey { id: restored.free_receipt_key_id(), key: vec![9; 16] },
        release: "0.1.0".into(),
        position: position + 1,
    };
    for wrong in [
        Restoration { cluster: "test".into(), ..new.clone() },
        Restoration { position, ..new.clone() },
        Restoration { receipt_key: ReceiptKey { id: 1, key: vec![9; 16] }, ..new.clone() },
        Restoration { receipt_key: ReceiptKey { id: 2, key: vec![9; 3] }, ..new.clone() },
    ] {
        restored.restore_as(&wrong).unwrap_err();
        assert_eq!(restored.digest(), digest, "what is refused changes nothing");
    }
    State::new().restore_as(&new).unwrap_err();

    restored.restore_as(&new).unwrap();
    restored.check().unwrap();
    let (was, is) = (driver.state.running_experiments(), restored.running_experiments());
    let epoch = was[0].epoch;
    assert_eq!(was, [Owned { experiment: number, node: 1, epoch }]);
    let higher = Owned { experiment: number, node: 0, epoch: epoch + 1 };
    assert_eq!(is, [higher], "nobody owns it, under a higher epoch");
    assert!(restored.liveness().is_empty());
    assert!(restored.members().is_empty() && restored.members_index() == 0);
    assert_eq!((restored.cluster(), restored.log_time_ms()), ("another", driver.state.log_time_ms()));
    assert_eq!(restored.feature_level(), FEATURE_LEVEL);
    let ids: Vec<u32> = restored.receipt_keys().iter().map(|key| key.id).collect();
    assert_eq!(ids, [2, 1]);
    assert_eq!((restored.receipts_until(1), restored.receipts_until(2)), (Some(position), None));
    let told = &restored.audit(0, 1)[0];
    assert_eq!(told.action, "cluster.restore");
    assert!(told.detail.contains("from cluster test") && told.detail.contains(&format!("{digest:016x}")));
    assert!(restored.verify_audit().intact);
    let again = State::from_sections(&restored.sections()).unwrap();
    assert_eq!((again.digest(), again.receipts_until(1)), (restored.digest(), Some(position)));

    // A key that takes the id of the old one, once that has left, is bounded by nothing.
    let mut later = driver;
    later.state = again;
    let rotate = |id| {
        entry::Command::RotateReceiptKey(log::RotateReceiptKey {
            key: Some(ReceiptKey { id, key: vec![4; 16] }),
        })
    };
    let at = |state: &mut State, position, command| {
        let entry = Entry { principal: Some(human("ada")), command: Some(command), ..Entry::default() };
        done(state.apply(position, &entry.encode_to_vec(), &mut Vec::new()).unwrap())
    };
    at(&mut later.state, position + 2, rotate(3));
    at(&mut later.state, position + 3, rotate(1));
    assert_eq!(later.state.receipts_until(1), None);
}
