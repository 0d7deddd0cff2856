//! The time that a client is told of: it moves with whatever changes an answer, and never goes back.

use featureops_proto::log::{ArchiveFlag, DeleteSegment, SetEnvironment, SetSegment, UpdateSegmentUnits};
use featureops_proto::v1::{
    Condition, FractionalVersion, Prerequisite, Rule, Segment, SegmentClause, condition::Operator, rule,
};

use super::*;
use crate::fronts::sse::Version;

const START_MS: i64 = 1_800_000_000_000;

fn segment(id: &str, conditions: Vec<Condition>) -> Command {
    let clauses = conditions.into_iter().map(|c| SegmentClause { conditions: vec![c] }).collect();
    let segment = Segment { name: format!("environments/p/segments/{id}"), clauses, ..Segment::default() };
    Command::SetSegment(SetSegment { segment: Some(segment), etag: String::new() })
}

fn asks(id: &str) -> Condition {
    Condition { operator: Operator::InSegment.into(), values: vec![id.into()], ..Condition::default() }
}

fn there() -> Condition {
    Condition { attribute: "x".to_owned(), operator: Operator::Exists.into(), ..Condition::default() }
}

fn told_of(publisher: &Publisher, environments: &[&str], selector: &str) -> i64 {
    let environments = environments.iter().map(|id| (*id).to_owned()).collect();
    let views = Views::new(&Settings { environments, ..Settings::default() });
    let scope = views.scope(&HeaderMap::new(), None, None, selector).unwrap();
    Version::of(&publisher.load(), &scope).last_modified()
}

#[test]
fn it_moves_with_what_a_flag_rests_on_and_never_goes_back() {
    let (held, publisher, mut step) = furnished();
    let units = |add: Vec<u64>| {
        let name = "environments/p/segments/inner".to_owned();
        Command::UpdateSegmentUnits(UpdateSegmentUnits { name, unit_key_id: 7, add, remove: vec![] })
    };
    let environment = |source: &str, fractional: FractionalVersion| {
        let name = "environments/p".to_owned();
        let environment = Environment {
            name,
            source: source.into(),
            fractional: fractional.into(),
            ..Environment::default()
        };
        Command::SetEnvironment(SetEnvironment { environment: Some(environment), etag: String::new() })
    };
    let ruled = || {
        let serve = Some(rule::Serve::Variant("on".into()));
        let rules = vec![Rule { id: "r".into(), conditions: vec![asks("outer")], serve }];
        set(Flag { rules, ..flag("a") })
    };
    let resting = || {
        let prerequisite = Prerequisite { flag: "a".to_owned(), variants: vec!["on".to_owned()] };
        set(Flag { prerequisites: vec![prerequisite], ..flag("b") })
    };
    let tagged = |set_id: &str| {
        let fields = [("flagSetId".to_owned(), set_id.into())].into();
        set(Flag { metadata: Some(prost_types::Struct { fields }), ..flag("c") })
    };
    let (two, three) = (FractionalVersion::FractionalVersion2, FractionalVersion::FractionalVersion3);
    let archive = |id: &str| Command::ArchiveFlag(ArchiveFlag { name: flag(id).name, etag: String::new() });
    // (what happens, whether the answers of "b" may be others, whether a client of the set is told of a later time)
    let steps = [
        ("inner", segment("inner", vec![]), false, false),
        ("outer", segment("outer", vec![asks("inner")]), false, false),
        ("a asks", ruled(), false, true),
        ("b rests on a", resting(), true, true),
        ("units", units(vec![1, 2]), true, true),
        ("the same units", units(vec![2]), false, false),
        ("clauses below", segment("inner", vec![there()]), true, true),
        ("clauses", segment("outer", vec![]), true, true),
        ("units that nobody asks about", units(vec![3]), false, false),
        ("the generation", environment("", three), true, true),
        ("and back", environment("", two), true, true),
        ("c of a set", tagged("s"), false, true),
        ("c of another", tagged("t"), false, true),
        ("c goes", archive("c"), false, true),
        ("c comes back", set(flag("c")), false, true),
        ("b lets go", set(flag("b")), true, true),
        ("a lets go", set(flag("a")), false, true),
        (
            "a segment goes",
            Command::DeleteSegment(DeleteSegment {
                name: "environments/p/segments/outer".into(),
                etag: String::new(),
            }),
            false,
            false,
        ),
        ("another source", environment("q", two), true, true),
    ];
    let selectors = ["", "flagSetId=s", "flagSetId=", "source=p"];
    let mut before = selectors.map(|_| 0);
    for (nth, (what, command, b_changes, moves)) in steps.into_iter().enumerate() {
        let now_ms = START_MS + 10_000 * i64::try_from(nth).unwrap();
        step(&held, &publisher, Command::Tick(Tick { now_ms, after_restart: false }));
        step(&held, &publisher, command);
        let b = publisher.load().snapshot.get("p", "b").unwrap().update_ms();
        assert_eq!(b == now_ms, b_changes, "{what}");
        let now = selectors.map(|selector| told_of(&publisher, &["p"], selector));
        assert_eq!(now[0] == now_ms / 1_000, moves, "{what}");
        for ((now, before), selector) in now.iter().zip(before).zip(selectors) {
            assert!(*now >= before, "{what}: {selector} goes back");
        }
        before = now;
        // A start reads the same from State.
        let fresh = Publisher::default();
        fresh.publish(&held);
        assert_eq!(selectors.map(|selector| told_of(&fresh, &["p"], selector)), now, "{what}");
    }
}
