//! Segments: what a write may not break, lists of units by their hashes, and the state at rest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock; nothing under test does")]

mod driver;

use std::sync::Arc;
use std::time::Instant;

use driver::{Driver, agent, boolean_flag, human, refusal};
use featureops_proto::log::{self, Entry, entry};
use featureops_proto::v1::condition::Operator;
use featureops_proto::v1::{Condition, Flag, Rule, Segment, SegmentClause, rule};
use featureops_state::{Effect, State};
use prost_types::{Value, value::Kind};

const NAME: &str = "environments/production";

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn asks(operator: Operator, segments: &[&str]) -> Condition {
    let values = segments.iter().map(|segment| text(segment)).collect();
    Condition { attribute: String::new(), operator: operator.into(), values }
}

/// A segment with a clause for each of these.
fn segment(id: &str, names: &[&str]) -> Segment {
    let clause = |name: &&str| SegmentClause { conditions: vec![asks(Operator::InSegment, &[name])] };
    Segment {
        name: format!("{NAME}/segments/{id}"),
        clauses: names.iter().map(clause).collect(),
        ..Segment::default()
    }
}

fn set(segment: Segment) -> entry::Command {
    entry::Command::SetSegment(log::SetSegment { segment: Some(segment), etag: String::new() })
}

fn delete(id: &str) -> entry::Command {
    let name = format!("{NAME}/segments/{id}");
    entry::Command::DeleteSegment(log::DeleteSegment { name, etag: String::new() })
}

fn units(id: &str, add: &[u64], remove: &[u64]) -> entry::Command {
    entry::Command::UpdateSegmentUnits(log::UpdateSegmentUnits {
        name: format!("{NAME}/segments/{id}"),
        unit_key_id: 7,
        add: add.to_vec(),
        remove: remove.to_vec(),
    })
}

fn flag(id: &str, names: &[&str]) -> Flag {
    let rules = names.iter().map(|name| Rule {
        id: (*name).to_owned(),
        conditions: vec![asks(Operator::NotInSegment, &[name])],
        serve: Some(rule::Serve::Variant("on".to_owned())),
    });
    Flag { rules: rules.collect(), ..boolean_flag(id) }
}

fn set_flag(flag: Flag) -> entry::Command {
    entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() })
}

/// Code, field and message.
fn refused(d: &mut Driver, command: entry::Command) -> (String, String, String) {
    let refusal = refusal(d.command(command));
    (refusal.code, refusal.field, refusal.message)
}

/// "c" asks about "b", which asks about "a"; a flag asks about "c".
fn furnished() -> Driver {
    let mut d = Driver::new();
    for (id, names) in [("a", &[][..]), ("b", &["a"]), ("c", &["b"])] {
        d.done(set(segment(id, names)));
    }
    d.done(set_flag(flag("f", &["c"])));
    d
}

/// As a snapshot brings it back.
fn restored(state: &State) -> State {
    State::from_sections(&state.sections()).unwrap()
}

#[test]
fn a_circle_and_a_name_of_nothing_are_refused_with_the_way_around() {
    let mut d = furnished();
    let (code, field, message) = refused(&mut d, set(segment("a", &["c"])));
    assert_eq!((code.as_str(), field.as_str()), ("INVALID_ARGUMENT", "segment.clauses"));
    assert!(message.contains("a -> c -> b -> a"), "{message}");
    assert!(refused(&mut d, set(segment("a", &["a"]))).2.contains("a -> a"));
    let (_, field, message) = refused(&mut d, set(segment("d", &["a", "nobody"])));
    assert_eq!(field, "segment.clauses[1].conditions[0].values[0]");
    assert!(message.contains("create it first"), "{message}");
    let (_, field, _) = refused(&mut d, set_flag(flag("g", &["a", "nobody"])));
    assert_eq!(field, "flag.rules[1].conditions[0].values[0]");
    let import = log::ImportFlags {
        parent: NAME.to_owned(),
        flags: vec![Flag { imported: true, ..flag("g", &["nobody"]) }],
        ..log::ImportFlags::default()
    };
    let (_, field, _) = refused(&mut d, entry::Command::ImportFlags(import));
    assert_eq!(field, "flags.g.rules[0].conditions[0].values[0]");
    let empty = Segment { clauses: vec![SegmentClause::default()], ..segment("d", &[]) };
    assert_eq!(refused(&mut d, set(empty)).1, "segment.clauses[0].conditions");
    d.state.check().unwrap();
}

#[test]
fn sixteen_levels_and_no_more_from_either_end() {
    let mut d = Driver::new();
    d.done(set(segment("s0", &[])));
    for n in 1..=16 {
        d.done(set(segment(&format!("s{n}"), &[&format!("s{}", n - 1)])));
    }
    let (code, _, message) = refused(&mut d, set(segment("s17", &["s16"])));
    assert_eq!(code, "LIMIT_REACHED");
    assert!(message.contains("17 levels") && message.contains("directly"), "{message}");
    // From below: what the lowest would rest on is one too far from the highest.
    d.done(set(segment("ground", &[])));
    assert_eq!(refused(&mut d, set(segment("s0", &["ground"]))).0, "LIMIT_REACHED");
    d.done(set(segment("s16", &[])));
    d.done(set(segment("s0", &["ground"])));
    d.state.check().unwrap();
}

#[test]
fn what_is_asked_about_is_not_deleted() {
    let mut d = furnished();
    let (code, _, message) = refused(&mut d, delete("c"));
    assert_eq!(code, "WRONG_STATE");
    assert!(message.contains("flag f asks about it"), "{message}");
    assert!(refused(&mut d, delete("a")).2.contains("segment b asks about it"));
    let used = d.state.segment("production", "c").unwrap();
    assert_eq!((used.used_by_flags, used.used_by_segments), (vec!["f".to_owned()], vec![]));
    assert_eq!(d.state.flags_asking("production", "a").into_iter().collect::<Vec<_>>(), ["f"]);
    // An archived flag asks about nothing, and does not come back to what is gone.
    let name = format!("{NAME}/flags/f");
    d.done(entry::Command::ArchiveFlag(log::ArchiveFlag { name: name.clone(), etag: String::new() }));
    d.done(units("c", &[1, 2], &[]));
    d.done(delete("c"));
    assert_eq!(d.state.segment("production", "c"), None);
    let revert = log::RevertFlag { name, to_version: 1, etag: String::new() };
    assert_eq!(
        refused(&mut d, entry::Command::RevertFlag(revert)).1,
        "flag.rules[0].conditions[0].values[0]"
    );
    d.done(delete("b"));
    d.done(delete("a"));
    assert_eq!(refused(&mut d, delete("a")).0, "NOT_FOUND");
    d.state.check().unwrap();
    // Brought in again, a segment has an empty list.
    d.done(set(segment("c", &[])));
    assert_eq!(d.state.segment("production", "c").unwrap().unit_count, 0);
}

#[test]
fn a_list_counts_what_changed_and_the_definition_keeps_its_etag() {
    let mut d = furnished();
    let etag = d.state.segment("production", "a").unwrap().etag;
    let mut change = |add: &[u64], remove: &[u64]| {
        let done = d.done(units("a", add, remove));
        let told = done.segment_units.unwrap();
        (told.added, told.removed, told.unit_count, done.took_effect)
    };
    assert_eq!(change(&[5, 3, 5, u64::MAX], &[]), (3, 0, 3, true));
    assert_eq!(change(&[3, 5], &[]), (0, 0, 3, false), "there already");
    assert_eq!(change(&[], &[4]), (0, 0, 3, false), "not there");
    assert_eq!(change(&[0], &[5, 5, 6]), (1, 1, 3, true));
    let (shards, version) = d.state.segment_units("production", "a").unwrap();
    assert_eq!(shards.iter().flat_map(|shard| shard.iter().copied()).collect::<Vec<_>>(), [0, 3, u64::MAX]);
    let read = d.state.segment("production", "a").unwrap();
    assert_eq!((read.etag, read.segment_version, version, read.unit_count), (etag, 3, 3, 3));
    let told =
        d.effects.iter().filter(|e| matches!(e, Effect::SegmentChanged { segment, .. } if segment == "a"));
    assert_eq!(told.count(), 3, "one for the definition, one for each change of the list");

    let both = refused(&mut d, units("a", &[9, 3], &[3]));
    assert_eq!((both.0.as_str(), both.1.as_str()), ("INVALID_ARGUMENT", "remove"));
    let many: Vec<u64> = (0..10_001).collect();
    assert_eq!(refused(&mut d, units("a", &many, &[])).1, "add");
    assert_eq!(refused(&mut d, units("nobody", &[1], &[])).0, "NOT_FOUND");
    let foreign = log::UpdateSegmentUnits {
        name: format!("{NAME}/segments/a"),
        unit_key_id: 8,
        add: vec![1],
        remove: vec![],
    };
    let (code, field, message) = refused(&mut d, entry::Command::UpdateSegmentUnits(foreign));
    assert_eq!((code.as_str(), field.as_str()), ("WRONG_UNIT_KEY", "unit_key_id"));
    assert!(message.contains("0000000000000007"), "{message}");
    assert_eq!(d.state.segment("production", "a").unwrap().unit_count, 3);
    d.done(units("a", &[], &[0, 3, u64::MAX]));
    assert_eq!(d.state.segment_units("production", "a"), None);
    d.state.check().unwrap();
}

#[test]
fn while_an_experiment_holds_a_flag_only_a_person_changes_who_is_in() {
    let mut d = Driver::new();
    d.done(set(segment("staff", &[])));
    d.done(set(segment("beta", &["staff"])));
    d.running();
    let mut held = d.state.flag("production", "checkout").unwrap();
    held.rules = flag("checkout", &["beta"]).rules;
    d.done(set_flag(held));
    for command in [units("staff", &[1], &[]), set(Segment { clauses: vec![], ..segment("beta", &[]) })] {
        let refusal = refusal(d.command_as(agent(), command.clone()));
        assert_eq!(refusal.code, "NOT_PERMITTED");
        assert!(refusal.message.contains("flag checkout"), "{}", refusal.message);
        d.done(command);
    }
    // What changes nobody's membership is anybody's.
    let described = Segment { description: "d".to_owned(), clauses: vec![], ..segment("beta", &[]) };
    driver::done(d.command_as(agent(), set(described)));
    driver::done(d.command_as(agent(), units("staff", &[1], &[])));
}

#[test]
fn a_state_without_segments_has_no_section_of_them_and_one_with_them_comes_back() {
    let mut d = Driver::new();
    assert!(d.state.sections().iter().all(|section| !section.name.starts_with("segments")));
    for (id, names) in [("a", &[][..]), ("b", &["a"])] {
        d.done(set(segment(id, names)));
    }
    d.done(set_flag(flag("f", &["b"])));
    let hashes: Vec<u64> = (1..=9_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    d.done(units("a", &hashes, &[]));
    d.done(units("b", &[0], &[]));
    let names: Vec<String> = d.state.sections().into_iter().map(|section| section.name).collect();
    for name in ["segments", "segments/production/a/00", "segments/production/b/00"] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    let mut back = restored(&d.state);
    assert_eq!((back.digest(), back.sections()), (d.state.digest(), d.state.sections()));
    assert_eq!(back.segment("production", "a"), d.state.segment("production", "a"));
    back.check().unwrap();
    // What is derived came back too.
    let entry = |command| Entry { principal: Some(human("ada")), command: Some(command), ..Entry::default() };
    let bytes = prost::Message::encode_to_vec(&entry(delete("a")));
    let position = back.position() + 1;
    assert_eq!(refusal(back.apply(position, &bytes, &mut Vec::new()).unwrap()).code, "WRONG_STATE");
    assert_eq!(back.environments(), ["production"]);

    let mut sections = d.state.sections();
    sections.retain(|section| section.name != "segments");
    assert!(State::from_sections(&sections).unwrap_err().detail.contains("production/a"));
    let mut sections = d.state.sections();
    let list = sections.iter_mut().find(|section| section.name == "segments/production/a/00").unwrap();
    list.bytes.truncate(list.bytes.len() - 1);
    assert!(State::from_sections(&sections).is_err());
}

/// A million units: what they take, and what a change of ten thousand costs, while a publication shares the list.
#[test]
fn a_million_units_take_nine_bytes_each_and_a_change_is_bounded() {
    const UNITS: u64 = 1_000_000;
    let mut d = Driver::new();
    d.done(set(segment("large", &[])));
    let hashes: Vec<u64> =
        (0..UNITS + 10_000).map(|n| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes())).collect();
    let (mut longest, mut held) = (0.0f64, None);
    for chunk in hashes[..UNITS as usize].chunks(10_000) {
        let command = units("large", chunk, &[]);
        let begun = Instant::now();
        d.done(command);
        longest = longest.max(begun.elapsed().as_secs_f64() * 1e3);
        // As the published snapshot does.
        held = d.state.segment_units("production", "large");
    }
    // The list's head, the head and the pointer of each shard, and the hashes.
    let shards = held.as_ref().map(|(shards, _)| shards).unwrap();
    let bytes = 16 + shards.iter().map(|shard| 32 + 8 * shard.len()).sum::<usize>();
    let bytes = bytes as f64 / UNITS as f64;
    let begun = Instant::now();
    d.done(units("large", &hashes[UNITS as usize..], &hashes[..0]));
    let last = begun.elapsed().as_secs_f64() * 1e3;
    let (before, _) = d.state.segment_units("production", "large").unwrap();
    let begun = Instant::now();
    d.done(units("large", &[], &hashes[..1]));
    let one = begun.elapsed().as_secs_f64() * 1e3;
    let (after, _) = d.state.segment_units("production", "large").unwrap();
    let begun = Instant::now();
    let sections = d.state.sections();
    let written = begun.elapsed().as_secs_f64() * 1e3;
    let at_rest: usize =
        sections.iter().filter(|s| s.name.starts_with("segments/")).map(|s| s.bytes.len()).sum();
    let at_rest = at_rest as f64 / (UNITS + 9_999) as f64;
    println!(
        "{bytes:.2} bytes a unit in memory, {at_rest:.2} in a snapshot; a change of 10,000: {longest:.1} ms at most, \
         {last:.1} ms at a million; of one: {one:.2} ms; sections in {written:.0} ms"
    );
    assert_eq!(d.state.segment("production", "large").unwrap().unit_count, UNITS + 9_999);
    assert!(bytes <= 9.0 && at_rest <= 9.0, "{bytes} {at_rest}");
    // What a change does not touch it does not copy.
    let copied = before.iter().zip(after.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
    assert_eq!((before.len(), copied), (after.len(), 1));
    assert!(
        held.is_some_and(|(shards, _)| shards.iter().map(|shard| shard.len() as u64).sum::<u64>() == UNITS)
    );
    let back = State::from_sections(&sections).unwrap();
    assert_eq!(back.digest(), d.state.digest());
    back.check().unwrap();
}
