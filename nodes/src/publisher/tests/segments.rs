//! What clients hear of segments.

use featureops_proto::v1::{Condition, Rule, Segment, SegmentClause, condition::Operator, rule};

use super::*;

#[test]
fn who_asks_about_a_segment_changes_with_it_however_far_and_nobody_else() {
    let (held, publisher, mut step) = furnished();
    let asks = |id: &str| Condition {
        operator: Operator::NotInSegment.into(),
        values: vec![id.into()],
        ..Condition::default()
    };
    let segment = |id: &str, conditions: Vec<Condition>| {
        let clauses = conditions.into_iter().map(|c| SegmentClause { conditions: vec![c] }).collect();
        let segment =
            Segment { name: format!("environments/p/segments/{id}"), clauses, ..Segment::default() };
        let (segment, etag) = (Some(segment), String::new());
        Command::SetSegment(featureops_proto::log::SetSegment { segment, etag })
    };
    step(&held, &publisher, segment("inner", vec![]));
    step(&held, &publisher, segment("outer", vec![asks("inner")]));
    let serve = Some(rule::Serve::Variant("on".into()));
    let rule = Rule { id: "r".into(), conditions: vec![asks("outer")], serve };
    step(&held, &publisher, set(Flag { rules: vec![rule], ..flag("a") }));
    let prerequisite =
        featureops_proto::v1::Prerequisite { flag: "a".to_owned(), variants: vec!["on".to_owned()] };
    step(&held, &publisher, set(Flag { prerequisites: vec![prerequisite], ..flag("b") }));
    let mut known = Arc::clone(&publisher.load());
    let mut hear = |ids: &[&str]| {
        let expected: Vec<_> = ids.iter().map(|id| ((*id).to_owned(), "update")).collect();
        assert_eq!(told(&publisher, &mut known), expected);
    };
    let units = |add: Vec<u64>| {
        let name = "environments/p/segments/inner".to_owned();
        let update = featureops_proto::log::UpdateSegmentUnits { name, unit_key_id: 7, add, remove: vec![] };
        Command::UpdateSegmentUnits(update)
    };
    for (command, heard) in [
        (units(vec![1, 2]), &["a", "b"][..]),
        (units(vec![2]), &[]),
        (segment("outer", vec![asks("inner")]), &[]),
        (segment("outer", vec![]), &["a", "b"]),
        (units(vec![3]), &[]),
        (segment("lonely", vec![]), &[]),
    ] {
        step(&held, &publisher, command);
        hear(heard);
    }
    // The list is shared with State, not copied.
    let (shards, _) = held.0.lock().segment_units("p", "inner").unwrap();
    assert!(Arc::strong_count(&shards) >= 3, "{}", Arc::strong_count(&shards));
    publisher.republish();
    publisher.publish(&held);
    hear(&[]);
    let gone = featureops_proto::log::DeleteSegment {
        name: "environments/p/segments/lonely".into(),
        etag: String::new(),
    };
    step(&held, &publisher, Command::DeleteSegment(gone));
    assert!(publisher.load().snapshot.segment("p", "lonely").is_none());
}
