//! What the flags of an environment share, and whole sets of flags: taken in whole or not at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, boolean_flag, done, human, refusal};
use featureops_proto::log::{self, Entry, entry};
use featureops_proto::v1::{Environment, Flag, FractionalVersion};
use featureops_state::{Effect, MAX_ENVIRONMENTS, MAX_IMPORT_BYTES, State};
use prost_types::{Value, value::Kind};

const NAME: &str = "environments/production";

fn environment() -> Environment {
    Environment { name: NAME.to_owned(), ..Environment::default() }
}

fn set(environment: Environment) -> entry::Command {
    entry::Command::SetEnvironment(log::SetEnvironment {
        environment: Some(environment),
        etag: String::new(),
    })
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

fn boolean(value: bool) -> Value {
    Value { kind: Some(Kind::BoolValue(value)) }
}

fn flag(id: &str) -> Flag {
    Flag { safe_variant: None, imported: true, ..boolean_flag(id) }
}

fn import(flags: Vec<Flag>, prune: bool) -> log::ImportFlags {
    log::ImportFlags { parent: NAME.to_owned(), flags, prune, ..log::ImportFlags::default() }
}

fn imported(d: &mut Driver, command: log::ImportFlags) -> log::Imported {
    d.done(entry::Command::ImportFlags(command)).imported.unwrap()
}

fn versions(d: &Driver, flag: &str) -> Vec<String> {
    d.state.flag_history("production", flag).unwrap().newest_first().map(|version| version.change).collect()
}

#[test]
fn an_environment_is_there_with_its_defaults_and_counts_its_changes() {
    let mut d = Driver::new();
    let never = d.state.environment("production");
    assert_eq!((never.environment_version, never.etag.as_str(), never.name.as_str()), (0, "n0", NAME));
    assert!(d.state.environments().is_empty());

    let wanted = Environment {
        source: "flags.json".to_owned(),
        metadata: Some(prost_types::Struct { fields: [("flagSetId".to_owned(), text("shop"))].into() }),
        evaluators: [("staff".to_owned(), "true".to_owned())].into(),
        ..environment()
    };
    let first = d.done(set(Environment { etag: "made up".to_owned(), ..wanted.clone() }));
    assert_eq!((first.version, first.etag.as_str()), (1, "n1"));
    let held = d.state.environment("production");
    assert_eq!((held.source.as_str(), held.environment_version), ("flags.json", 1));
    assert!(held.update_time.is_some());
    assert!(d.effects.contains(&Effect::EnvironmentChanged { environment: "production".to_owned() }));
    assert_eq!(d.state.environments(), ["production"]);

    let stale = log::SetEnvironment { environment: Some(wanted), etag: "n0".to_owned() };
    assert_eq!(d.refused(entry::Command::SetEnvironment(stale)), "ETAG_MISMATCH");
    let record = d.state.audit(0, 2).remove(1);
    assert_eq!((record.action.as_str(), record.resource.as_str()), ("environment.set", NAME));
}

#[test]
fn a_repeated_request_takes_effect_once() {
    let mut d = Driver::new();
    let many = (0..100).map(|n| flag(&format!("f{n:03}"))).collect();
    let entry = |command| Entry {
        principal: Some(human("ada")),
        request_id: "r-1".to_owned(),
        command: Some(entry::Command::ImportFlags(command)),
        ..Entry::default()
    };
    let command = import(many, false);
    let first = done(d.propose(entry(command.clone()))).imported.unwrap();
    assert_eq!((first.changed.len(), first.changed_count), (100, 100));
    let again = done(d.propose(entry(command))).imported.unwrap();
    assert_eq!((again.changed.len(), again.changed_count), (64, 100));
    assert_eq!(d.state.flag("production", "f000").unwrap().flag_version, 1);
}

#[test]
fn environments_are_found_however_their_names_run_into_each_other() {
    let mut d = Driver::new();
    for id in ["b", "a", "a-", "a-b", "ab"] {
        d.done(set(Environment { name: format!("environments/{id}"), ..Environment::default() }));
        d.done(entry::Command::SetFlag(log::SetFlag {
            flag: Some(Flag { name: format!("environments/{id}/flags/f"), ..flag("f") }),
            etag: String::new(),
        }));
    }
    d.furnish();
    assert_eq!(d.state.environments(), ["a", "a-", "a-b", "ab", "b", "production"]);
    assert_eq!(d.state.environments_after("a-", 2), ["a-b", "ab"]);
}

#[test]
fn bounds_are_kept_and_say_what_they_are() {
    let mut d = Driver::new();
    let many = (0..1_001).map(|n| (format!("e{n}"), "true".to_owned())).collect();
    let long: String = "x".repeat(1 << 20);
    for (environment, field) in [
        (Environment { evaluators: many, ..environment() }, "environment.evaluators"),
        (
            Environment { evaluators: [("e".to_owned(), long.clone())].into(), ..environment() },
            "environment.evaluators",
        ),
        (
            Environment {
                metadata: Some(prost_types::Struct { fields: [("k".to_owned(), text(&long))].into() }),
                ..environment()
            },
            "environment.metadata",
        ),
        (Environment { source: "s".repeat(257), ..environment() }, "environment.source"),
        (Environment { description: long.clone(), ..environment() }, "environment.description"),
        (Environment { fractional: 4, ..environment() }, "environment.fractional"),
        (Environment { name: "production".to_owned(), ..Environment::default() }, "environment.name"),
    ] {
        let refused = refusal(d.command(set(environment)));
        assert_eq!((refused.code.as_str(), refused.field.as_str()), ("INVALID_ARGUMENT", field));
    }
    for n in 0..MAX_ENVIRONMENTS {
        d.done(set(Environment { name: format!("environments/e{n}"), ..Environment::default() }));
    }
    assert_eq!(d.refused(set(environment())), "LIMIT_REACHED");
    d.done(set(Environment { name: "environments/e0".to_owned(), ..Environment::default() }));
}

#[test]
fn the_generation_stays_while_an_experiment_runs_on_it() {
    let mut d = Driver::new();
    d.running();
    let third = || Environment { fractional: FractionalVersion::FractionalVersion3 as i32, ..environment() };
    let second = || Environment { fractional: FractionalVersion::FractionalVersion2 as i32, ..environment() };
    assert_eq!(refusal(d.command(set(third()))).field, "environment.fractional");
    // To say what holds anyway is no change, and an import cannot do what a write may not.
    d.done(set(second()));
    let by_import = log::ImportFlags { environment: Some(third()), ..import(vec![flag("new")], false) };
    assert_eq!(d.refused(entry::Command::ImportFlags(by_import)), "WRONG_STATE");
    assert!(d.state.flag("production", "new").is_none());

    let name = "environments/production/experiments/e".to_owned();
    d.done(entry::Command::PauseExperiment(log::PauseExperiment { name: name.clone(), etag: String::new() }));
    assert_eq!(d.refused(set(third())), "WRONG_STATE");
    d.done(entry::Command::StopExperiment(log::StopExperiment { name, serve: None, etag: String::new() }));
    d.done(set(third()));
    assert_eq!(d.state.environment("production").fractional(), FractionalVersion::FractionalVersion3);
}

#[test]
fn an_import_writes_what_is_new_or_changed_and_nothing_else() {
    let mut d = Driver::new();
    let first = imported(&mut d, import(vec![flag("b"), flag("a")], false));
    assert_eq!((first.changed, first.unchanged_count), (vec!["a".to_owned(), "b".to_owned()], 0));
    assert!(d.state.flag("production", "a").unwrap().imported);

    d.effects.clear();
    let other = Flag { targeting: r#"{"if":[true,"on"]}"#.to_owned(), ..flag("b") };
    let environment = Environment { source: "s".to_owned(), ..environment() };
    let command =
        log::ImportFlags { environment: Some(environment), ..import(vec![flag("a"), other], false) };
    let second = imported(&mut d, command.clone());
    assert_eq!((second.changed, second.unchanged_count), (vec!["b".to_owned()], 1));
    assert_eq!(d.state.flag("production", "a").unwrap().flag_version, 1);
    assert_eq!(versions(&d, "b"), ["import", "import"]);
    assert_eq!(d.state.environment("production").environment_version, 1);
    assert_eq!(d.effects.iter().filter(|e| matches!(e, Effect::FlagChanged { .. })).count(), 1);

    let third = imported(&mut d, command);
    assert_eq!((third.changed.len(), third.unchanged_count), (0, 2));
    assert_eq!(d.state.environment("production").environment_version, 1, "what was said before is no change");
    let record = d.state.audit(0, 1).remove(0);
    assert_eq!((record.action.as_str(), record.resource.as_str()), ("flag.import", NAME));
    let late = log::ImportFlags { etag: "n0".to_owned(), ..import(vec![flag("a")], false) };
    assert_eq!(d.refused(entry::Command::ImportFlags(late)), "ETAG_MISMATCH");
    assert_eq!(record.detail, "0 changed, 0 archived, 0 kept, 2 unchanged");
}

#[test]
fn one_refusal_refuses_all_of_an_import() {
    let mut d = Driver::new();
    d.running();
    let source = Environment { source: "s".to_owned(), ..environment() };
    let without_arm = {
        let mut flag = flag("checkout");
        flag.variants.remove("on");
        flag
    };
    let elsewhere = Flag { name: "environments/other/flags/f".to_owned(), ..flag("f") };
    let no_default = Flag { default_variant: Some("nowhere".to_owned()), ..flag("n") };
    let digest = |d: &Driver| (d.state.flag("production", "checkout"), d.state.environment("production"));
    let before = digest(&d);
    for (bad, field, code) in [
        (vec![without_arm], "flags.checkout.variants", "WRONG_STATE"),
        (vec![elsewhere], "flags.name", "INVALID_ARGUMENT"),
        (vec![no_default], "flags.n.default_variant", "INVALID_ARGUMENT"),
        (vec![flag("twice"), flag("twice")], "flags.name", "INVALID_ARGUMENT"),
    ] {
        let flags = [vec![flag("good")], bad].concat();
        let command = log::ImportFlags { environment: Some(source.clone()), ..import(flags, true) };
        let refused = refusal(d.command(entry::Command::ImportFlags(command)));
        assert_eq!((refused.field.as_str(), refused.code.as_str()), (field, code), "{}", refused.message);
        assert!(d.state.flag("production", "good").is_none());
        assert_eq!(digest(&d), before);
    }
    let large = (0..30).map(|n| Flag { targeting: "x".repeat(200_000), ..flag(&format!("f{n}")) }).collect();
    let command = import(large, false);
    assert!(prost::Message::encoded_len(&command) > MAX_IMPORT_BYTES);
    let refused = refusal(d.command(entry::Command::ImportFlags(command)));
    assert!(refused.message.contains("split"), "{}", refused.message);
}

#[test]
fn pruning_leaves_what_a_trip_or_an_experiment_holds() {
    let mut d = Driver::new();
    d.running();
    for id in ["old", "tripped"] {
        let flag = Flag { safe_variant: Some("off".to_owned()), imported: false, ..flag(id) };
        d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }));
    }
    d.done(entry::Command::TripFlag(log::TripFlag {
        name: format!("{NAME}/flags/tripped"),
        reason: "smoke".to_owned(),
        ..log::TripFlag::default()
    }));
    let pruned = imported(&mut d, import(vec![flag("new")], true));
    assert_eq!(pruned.changed, ["new"]);
    assert_eq!(pruned.archived, ["old"]);
    assert_eq!(pruned.kept, ["checkout", "tripped"]);
    assert!(d.state.flag("production", "old").unwrap().archived);
    assert_eq!(versions(&d, "old"), ["archive", "set"]);
    // Back again with the next import that holds it, as a change.
    assert_eq!(imported(&mut d, import(vec![flag("old"), flag("new")], false)).changed, ["old"]);
    assert!(!d.state.flag("production", "old").unwrap().archived);
}

#[test]
fn an_import_keeps_what_its_form_cannot_say_and_a_person_ends_it() {
    let mut d = Driver::new();
    d.running();
    let owned = Flag {
        safe_variant: Some("off".to_owned()),
        owner: "payments".to_owned(),
        tags: vec!["a".to_owned()],
        stale_after_seconds: 60,
        imported: true,
        ..flag("f")
    };
    let command = log::SetFlag { flag: Some(owned.clone()), etag: String::new() };
    d.done(entry::Command::SetFlag(command));
    assert!(!d.state.flag("production", "f").unwrap().imported, "written by hand, it must compile");
    imported(&mut d, import(vec![flag("f")], false));
    let held = d.state.flag("production", "f").unwrap();
    assert!(held.imported);
    assert_eq!((held.owner.as_str(), held.safe_variant.as_deref()), ("payments", Some("off")));
    assert_eq!((held.tags.len(), held.stale_after_seconds), (1, 60));
    // The flag of a running experiment can be imported too: it keeps its arms and its safe variant.
    let mut arms = flag("checkout");
    arms.variants.insert("on2".to_owned(), boolean(true));
    assert_eq!(imported(&mut d, import(vec![arms], false)).changed, ["checkout"]);
    d.state.check().unwrap();
}

#[test]
fn a_growth_decision_made_before_an_import_is_overtaken() {
    let mut d = Driver::new();
    let e = d.running();
    let (stamp, decision) = d.reallocation(e, &[4_000, 6_000]);
    let mut changed = flag("checkout");
    changed.targeting = r#"{"if":[{"==":[{"var":"vip"},true]},"on"]}"#.to_owned();
    imported(&mut d, import(vec![changed], false));
    assert_eq!(refusal(d.submit(stamp, decision)).code, "STALE_DECISION");
}

#[test]
fn a_snapshot_carries_environments_and_an_older_one_has_none() {
    let mut d = Driver::new();
    d.done(set(Environment { source: "s".to_owned(), ..environment() }));
    imported(&mut d, import(vec![flag("a")], false));
    let sections = d.state.sections();
    let restored = State::from_sections(&sections).unwrap();
    assert_eq!(restored.environment("production"), d.state.environment("production"));
    assert_eq!(restored.digest(), d.state.digest());

    let older: Vec<_> = sections.into_iter().filter(|section| section.name != "environments").collect();
    let restored = State::from_sections(&older).unwrap();
    assert_eq!(restored.environment("production").environment_version, 0);
    assert!(restored.flag("production", "a").is_some());
}

#[test]
fn a_command_compiled_against_what_has_moved_is_refused_without_a_trace_and_may_come_again() {
    let mut d = Driver::new();
    d.done(entry::Command::ImportFlags(import(vec![flag("a")], false)));
    let against = |version, definitions| log::CompiledAgainst {
        environment: NAME.to_owned(),
        environment_version: version,
        definitions,
    };
    let entry = |against, command| Entry {
        principal: Some(human("ada")),
        request_id: "r-1".to_owned(),
        compiled_against: Some(against),
        command: Some(command),
        ..Entry::default()
    };
    let set_flag = |of| {
        let flag = Some(flag("b"));
        entry(against(Some(of), None), entry::Command::SetFlag(log::SetFlag { flag, etag: String::new() }))
    };
    let set_environment = |of| {
        let environment = Some(Environment { name: NAME.to_owned(), ..Environment::default() });
        let set = log::SetEnvironment { environment, etag: String::new() };
        Entry {
            request_id: "r-2".to_owned(),
            ..entry(against(None, Some(of)), entry::Command::SetEnvironment(set))
        }
    };
    let seen = d.state.definitions("production");
    assert_eq!((d.state.environment("production").environment_version, seen), (0, 1));

    // The flag first, the environment second: the environment's door has not seen the flag.
    done(d.propose(set_flag(0)));
    let (audited, changed) = (d.state.audit(0, 100).len(), d.state.digest());
    let refused = refusal(d.propose(set_environment(seen)));
    assert_eq!((refused.code.as_str(), refused.field.as_str()), ("FENCED", "compiled_against.definitions"));
    assert_eq!(d.state.audit(0, 100).len(), audited);
    assert_ne!(d.state.digest(), changed, "the position went on");
    done(d.propose(set_environment(d.state.definitions("production"))));

    // The other way round.
    let late = Entry { request_id: "r-3".to_owned(), ..set_flag(0) };
    let refused = refusal(d.propose(late.clone()));
    assert_eq!(refused.field, "compiled_against.environment_version");
    done(d.propose(Entry { request_id: "r-3".to_owned(), ..set_flag(1) }));
    // A repeat of what was done gets its first answer, whatever moved since.
    assert_eq!(done(d.propose(late)).version, 2);
}
