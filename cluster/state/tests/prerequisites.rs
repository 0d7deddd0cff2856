//! Flags that rest on others: no write makes a circle, reaches too far, or takes away what another names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, boolean_flag, refusal};
use featureops_proto::log::{self, entry};
use featureops_proto::v1::{Flag, Prerequisite};
use featureops_state::State;

const NAME: &str = "environments/production";

fn flag(id: &str, names: &[&str]) -> Flag {
    let named = |other: &&str| Prerequisite { flag: (*other).to_owned(), variants: vec!["on".to_owned()] };
    Flag { prerequisites: names.iter().map(named).collect(), ..boolean_flag(id) }
}

fn set(flag: Flag) -> entry::Command {
    entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() })
}

fn archive(id: &str) -> entry::Command {
    let name = format!("{NAME}/flags/{id}");
    entry::Command::ArchiveFlag(log::ArchiveFlag { name, etag: String::new() })
}

fn revert(id: &str, to_version: u64) -> entry::Command {
    let name = format!("{NAME}/flags/{id}");
    entry::Command::RevertFlag(log::RevertFlag { name, to_version, etag: String::new() })
}

fn import(flags: Vec<Flag>, prune: bool) -> entry::Command {
    let flags = flags.into_iter().map(|flag| Flag { imported: true, ..flag }).collect();
    let parent = NAME.to_owned();
    entry::Command::ImportFlags(log::ImportFlags { parent, flags, prune, ..log::ImportFlags::default() })
}

/// Code, field and message.
fn refused(d: &mut Driver, command: entry::Command) -> (String, String, String) {
    let refusal = refusal(d.command(command));
    (refusal.code, refusal.field, refusal.message)
}

/// "c" rests on "b", which rests on "a".
fn furnished() -> Driver {
    let mut d = Driver::new();
    for (id, names) in [("a", &[][..]), ("b", &["a"]), ("c", &["b"])] {
        d.done(set(flag(id, names)));
    }
    d
}

#[test]
fn a_circle_is_refused_at_every_write_with_the_way_around_it() {
    let mut d = furnished();
    let (code, field, message) = refused(&mut d, set(flag("a", &["c"])));
    assert_eq!((code.as_str(), field.as_str()), ("INVALID_ARGUMENT", "flag.prerequisites"));
    assert!(message.contains("a -> c -> b -> a"), "{message}");
    assert!(refused(&mut d, set(flag("a", &["a"]))).2.contains("a -> a"));

    let (_, field, message) = refused(&mut d, import(vec![flag("a", &["c"])], false));
    assert_eq!(field, "flags.a.prerequisites");
    assert!(message.contains("a -> c -> b -> a"), "{message}");
    // Within one import, too.
    let (_, _, message) = refused(&mut d, import(vec![flag("x", &["y"]), flag("y", &["x"])], false));
    assert!(message.contains("x -> y -> x"), "{message}");

    // The other way round, and then back to the definition of before.
    for (id, names) in [("c", &[][..]), ("b", &[]), ("a", &["b"])] {
        d.done(set(flag(id, names)));
    }
    let (_, _, message) = refused(&mut d, revert("b", 1));
    assert!(message.contains("b -> a -> b"), "{message}");
    d.done(set(flag("a", &[])));
    d.done(revert("b", 1));
    assert_eq!(d.state.flag("production", "b").unwrap().prerequisites.len(), 1);
}

#[test]
fn what_is_named_must_be_there_and_stays_as_long_as_it_is_named() {
    let mut d = furnished();
    let (_, field, _) = refused(&mut d, set(flag("d", &["a", "gone"])));
    assert_eq!(field, "flag.prerequisites[1].flag");
    let mut other = flag("d", &["a"]);
    other.prerequisites[0].variants.push("blue".to_owned());
    let (_, field, message) = refused(&mut d, set(other));
    assert_eq!(field, "flag.prerequisites[0].variants[1]");
    assert!(message.contains("a has off, on"), "{message}");

    let (code, _, message) = refused(&mut d, archive("a"));
    assert_eq!(code, "WRONG_STATE");
    assert!(message.contains("flag b names it"), "{message}");
    let without = || {
        let mut flag = flag("a", &[]);
        flag.variants.remove("on");
        flag
    };
    for command in [set(without()), import(vec![without()], false)] {
        let (code, field, message) = refused(&mut d, command);
        assert_eq!(code, "WRONG_STATE");
        assert!(field.ends_with(".variants") && message.contains("flag b names it"), "{field} {message}");
    }

    // Archived flags rest on nothing; back from the archive they must find what they name.
    d.done(archive("c"));
    d.done(archive("b"));
    d.done(set(without()));
    let (_, field, _) = refused(&mut d, revert("b", 1));
    assert_eq!(field, "flag.prerequisites[0].variants[0]");
    d.done(archive("a"));
    assert_eq!(refused(&mut d, revert("b", 1)).1, "flag.prerequisites[0].flag");
}

#[test]
fn an_import_keeps_what_others_rest_on_and_takes_in_what_rests_on_nothing() {
    let mut d = furnished();
    // "c" is replaced and rests on "b" no more; "b" goes, and then nothing rests on "a".
    let mut probe = d.state.clone();
    let imported = |d: &mut Driver, flags| d.done(import(flags, true)).imported.unwrap();
    let told = imported(&mut d, vec![flag("c", &[])]);
    assert_eq!((told.archived, told.kept), (vec!["a".to_owned(), "b".to_owned()], vec![]));

    // "b" stays as it is, because it is tripped; so "a" stays too.
    std::mem::swap(&mut d.state, &mut probe);
    let name = format!("{NAME}/flags/b");
    d.done(entry::Command::TripFlag(log::TripFlag { name, ..log::TripFlag::default() }));
    let told = imported(&mut d, vec![flag("c", &[])]);
    assert_eq!((told.archived, told.kept), (vec![], vec!["a".to_owned(), "b".to_owned()]));

    // An unknown flag is no reason to refuse a whole set.
    let told = imported(&mut d, vec![flag("c", &["gone"])]);
    assert_eq!(told.changed, ["c"]);
}

#[test]
fn sixteen_levels_and_no_more_from_above_and_from_below() {
    let mut d = Driver::new();
    let id = |at: usize| format!("f{at:02}");
    d.done(set(flag(&id(0), &[])));
    for at in 1..=16 {
        d.done(set(flag(&id(at), &[&id(at - 1)])));
    }
    let (code, _, message) = refused(&mut d, set(flag("f17", &["f16"])));
    assert_eq!(code, "LIMIT_REACHED");
    assert!(message.contains("17 levels"), "{message}");
    // The same chain, made longer at its other end.
    d.done(set(flag("low", &[])));
    assert_eq!(refused(&mut d, set(flag("f00", &["low"]))).0, "LIMIT_REACHED");
    d.done(set(flag("f16", &[])));
    d.done(set(flag("f00", &["low"])));

    let many: Vec<String> = (0..17).map(|at| format!("g{at:02}")).collect();
    for id in &many {
        d.done(set(flag(id, &[])));
    }
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(&mut d, set(flag("wide", &many))).1, "flag.prerequisites");
    d.done(set(flag("wide", &many[1..])));
}

#[test]
fn who_rests_on_a_flag_is_known_however_far_up_and_after_a_restart() {
    let mut d = furnished();
    d.done(set(flag("d", &["a", "c"])));
    let ids = |state: &State, id| Vec::from_iter(state.resting_on("production", id));
    assert_eq!(ids(&d.state, "a"), ["b", "c", "d"]);
    d.done(archive("d"));
    assert_eq!(ids(&d.state, "a"), ["b", "c"]);
    let again = State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(ids(&again, "a"), ["b", "c"]);
    assert_eq!(ids(&again, "c"), [] as [&str; 0]);
    let c = again.flag("production", "c").unwrap();
    let below = again.rested_on("production", std::slice::from_ref(&c));
    assert_eq!(Vec::from_iter(below.keys()), ["a", "b"]);
}
