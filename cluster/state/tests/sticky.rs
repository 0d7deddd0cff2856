//! Sticky splits: a variant that grows loses no unit, however often the rule is written.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, refusal};
use featureops_proto::log::{self, entry};
use featureops_proto::v1::{Flag, Rule, Run, Split, ValueType, WeightedVariant, rule};
use proptest::prelude::*;
use prost_types::{Value, value::Kind};

const NAME: &str = "environments/production/flags/banner";
const VARIANTS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn split(entries: &[(&str, u32)], sticky: bool) -> Split {
    let entry = |(variant, weight): &(&str, u32)| WeightedVariant {
        variant: (*variant).to_owned(),
        weight_basis_points: *weight,
    };
    Split { variants: entries.iter().map(entry).collect(), sticky, runs: Vec::new() }
}

fn set(id: &str, split: Split) -> entry::Command {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let flag = Flag {
        name: NAME.to_owned(),
        r#type: ValueType::String as i32,
        variants: VARIANTS.map(|name| (name.to_owned(), value(name))).into(),
        default_variant: Some("a".to_owned()),
        rules: vec![Rule {
            id: id.to_owned(),
            conditions: Vec::new(),
            serve: Some(rule::Serve::Split(split)),
        }],
        ..Flag::default()
    };
    entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() })
}

fn held(d: &Driver) -> Split {
    match d.state.flag("production", "banner").unwrap().rules.remove(0).serve {
        Some(rule::Serve::Split(split)) => split,
        other => panic!("{other:?}"),
    }
}

/// The map as the variant of each bucket.
fn map(d: &Driver) -> Vec<String> {
    let split = held(d);
    let name = |arm: u32| split.variants[arm as usize].variant.clone();
    split.runs.iter().flat_map(|run| std::iter::repeat_n(name(run.arm), run.length as usize)).collect()
}

fn runs(d: &Driver) -> Vec<(u32, u32)> {
    held(d).runs.iter().map(|run| (run.arm, run.length)).collect()
}

#[test]
fn a_map_is_kept_where_a_plain_split_is_cut_anew() {
    let mut d = Driver::new();
    d.done(set("r", split(&[("a", 1_000), ("b", 4_500), ("c", 4_500)], true)));
    assert_eq!(runs(&d), [(0, 1_000), (1, 4_500), (2, 4_500)], "at first as a plain split");
    d.done(set("r", split(&[("a", 2_000), ("b", 4_500), ("c", 3_500)], true)));
    assert_eq!(
        runs(&d),
        [(0, 1_000), (1, 4_500), (2, 3_500), (0, 1_000)],
        "only the donor's last buckets moved"
    );
    // Whatever a writer sends for a map does not count.
    let sent = Split { runs: vec![Run { arm: 1, length: 10_000 }], ..split(&[("a", 1), ("b", 9_999)], true) };
    d.done(set("other", sent));
    assert_eq!(runs(&d), [(0, 1), (1, 9_999)], "another rule begins anew");
    let plain = Split { runs: vec![Run { arm: 1, length: 10_000 }], ..split(&[("a", 10_000)], false) };
    d.done(set("other", plain));
    assert_eq!(runs(&d), []);
    // A plain split that becomes sticky keeps its units too.
    d.done(set("other", split(&[("b", 4_000), ("a", 6_000)], true)));
    assert_eq!(runs(&d), [(1, 6_000), (0, 4_000)]);
}

#[test]
fn a_changed_set_of_variants_moves_only_the_units_of_those_that_go() {
    let mut d = Driver::new();
    d.done(set("r", split(&[("a", 3_000), ("b", 3_000), ("c", 4_000)], true)));
    let before = map(&d);
    d.done(set("r", split(&[("d", 3_500), ("c", 4_000), ("a", 2_500)], true)));
    let after = map(&d);
    let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
    assert_eq!(moved, 3_500, "all of b, and 500 of a");
    assert!(before.iter().zip(&after).all(|(b, a)| b != "c" || a == "c"));
}

#[test]
fn a_revert_brings_back_the_map_of_its_version() {
    let mut d = Driver::new();
    d.done(set("r", split(&[("a", 5_000), ("b", 5_000)], true)));
    d.done(set("r", split(&[("a", 8_000), ("b", 2_000)], true)));
    d.done(set("r", split(&[("a", 2_000), ("b", 8_000)], true)));
    let third = runs(&d);
    d.done(set("r", split(&[("a", 9_000), ("b", 1_000)], true)));
    assert_ne!(runs(&d), third);
    let revert = log::RevertFlag { name: NAME.to_owned(), to_version: 3, etag: String::new() };
    d.done(entry::Command::RevertFlag(revert));
    assert_eq!(runs(&d), third);
}

#[test]
fn a_sticky_split_names_each_variant_once_and_sums_to_all() {
    let mut d = Driver::new();
    let refused =
        |d: &mut Driver, entries: &[(&str, u32)]| refusal(d.command(set("r", split(entries, true)))).field;
    assert_eq!(refused(&mut d, &[("a", 5_000), ("a", 5_000)]), "flag.rules[0].split.variants[1].variant");
    assert_eq!(refused(&mut d, &[("a", 5_000), ("b", 4_999)]), "flag.rules[0].split.variants");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// One variant grows at the expense of another, again and again: exactly the difference moves, only from the donor.
    #[test]
    fn growth_moves_the_difference_and_only_from_the_donor(
        steps in proptest::collection::vec((0usize..5, 1usize..5, 0u32..3_000), 1..20)
    ) {
        let mut weights = [2_000u32; 5];
        let mut d = Driver::new();
        let written = |weights: &[u32; 5]| {
            let entries: Vec<_> = VARIANTS.into_iter().zip(*weights).collect();
            set("r", split(&entries, true))
        };
        d.done(written(&weights));
        for (donor, step, amount) in steps {
            let grows = (donor + step) % 5;
            let amount = amount.min(weights[donor]);
            weights[donor] -= amount;
            weights[grows] += amount;
            let before = map(&d);
            d.done(written(&weights));
            let after = map(&d);
            prop_assert_eq!(after.len(), 10_000);
            let moved: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
            prop_assert_eq!(moved.len(), amount as usize);
            prop_assert!(moved.iter().all(|(b, a)| *b == VARIANTS[donor] && *a == VARIANTS[grows]));
        }
    }
}
