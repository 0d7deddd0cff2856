//! The members of the cluster, as they are noted: who changed them, what is refused, and what a snapshot keeps.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, refusal};
use featureops_proto::log::{ClusterMember, NoteMembers, entry};
use featureops_proto::v1::{Principal, principal};
use featureops_state::State;

fn member(node: u64, voter: bool) -> ClusterMember {
    ClusterMember { node, address: format!("node-{node}:7401"), incarnation: 100 + node, voter }
}

fn note(index: u64, members: &[ClusterMember]) -> entry::Command {
    entry::Command::NoteMembers(NoteMembers { index, members: members.to_vec(), ..NoteMembers::default() })
}

fn by(kind: principal::Kind, id: &str) -> Principal {
    Principal { kind: kind.into(), id: id.to_owned(), verified: false }
}

#[test]
fn who_comes_votes_moves_and_goes_is_told_once_under_the_name_of_whoever_did_it() {
    let mut driver = Driver::new();
    let sections = driver.state.sections().len();
    driver.command_as(by(principal::Kind::System, "membership"), note(5, &[member(1, true)]));
    driver.command_as(by(principal::Kind::Human, "ada"), note(9, &[member(1, true), member(2, false)]));
    driver.command_as(by(principal::Kind::Human, "bob"), note(12, &[member(1, true), member(2, true)]));
    let moved = ClusterMember { address: "elsewhere:7401".to_owned(), ..member(2, true) };
    driver.command_as(by(principal::Kind::Human, "eve"), note(15, &[member(1, true), moved.clone()]));
    // Late, and the same again: nothing changes.
    driver
        .command_as(by(principal::Kind::System, "membership"), note(9, &[member(1, true), member(2, false)]));
    assert_eq!(driver.state.members_index(), 15);
    let told = driver.state.audit(0, 5);
    let details: Vec<&str> = told.iter().rev().map(|record| record.detail.as_str()).collect();
    assert_eq!(
        details,
        [
            "node 1 added as a voter at node-1:7401, incarnation 0000000000000065",
            "node 2 added as a learner at node-2:7401, incarnation 0000000000000066",
            "node 2 is a voter now",
            "node 2 moved from node-2:7401 to elsewhere:7401",
            "known since entry 15",
        ]
    );
    // What was asked for is told, also where it changed no member.
    let asked = |index, asked: &str| {
        let (members, asked) = (vec![member(1, true), moved.clone()], asked.to_owned());
        entry::Command::NoteMembers(NoteMembers { index, members, asked })
    };
    driver.command_as(by(principal::Kind::Human, "ida"), asked(15, "transfer leadership to node 2"));
    assert_eq!(driver.state.audit(0, 100)[0].detail, "transfer leadership to node 2");
    let names: Vec<String> =
        driver.state.members().iter().map(|record| record.changed_by.clone().unwrap().id).collect();
    assert_eq!(names, ["membership", "eve"]);

    let again = State::from_sections(&driver.state.sections()).unwrap();
    assert_eq!((again.members(), again.digest()), (driver.state.members(), driver.state.digest()));
    assert_eq!(driver.state.sections().len(), sections + 1, "a section that others do not have");

    // Another incarnation under the same number is another member.
    let emptied = ClusterMember { incarnation: 7, ..moved };
    driver.command_as(by(principal::Kind::Human, "ada"), note(20, &[emptied]));
    let last = &driver.state.audit(0, 1)[0];
    assert_eq!(
        last.detail,
        "node 2 added as a voter at elsewhere:7401, incarnation 0000000000000007; node 1 removed"
    );
    assert_eq!(last.action, "cluster.members");
}

#[test]
fn agents_and_what_is_out_of_bounds_are_refused() {
    let mut driver = Driver::new();
    let agent = by(principal::Kind::Agent, "bot");
    assert_eq!(refusal(driver.command_as(agent, note(5, &[member(1, true)]))).code, "NOT_PERMITTED");
    let long = ClusterMember { address: "x".repeat(256), ..member(1, true) };
    let many: Vec<ClusterMember> = (1..=65).map(|node| member(node, false)).collect();
    for (members, field) in [
        (vec![], "members"),
        (many, "members"),
        (vec![member(0, true)], "members.node"),
        (vec![member(2, true), member(1, true)], "members.node"),
        (vec![long], "members.address"),
    ] {
        let refused = refusal(driver.command(note(5, &members)));
        assert_eq!((refused.code.as_str(), refused.field.as_str()), ("INVALID_ARGUMENT", field));
    }
    assert_eq!((driver.state.members_index(), driver.state.members().len()), (0, 0));
}
