//! Budgets of the ledgers: who sets them, what a full one does, and what never happens.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, batch, done, refusal};
use featureops_proto::log::{ExposureFact, OutcomeFact, SetBudgets, entry};
use featureops_proto::v1::{self, Budgets, Principal, Verdict, principal};
use featureops_state::State;

fn set(budgets: Budgets, thin: bool) -> entry::Command {
    entry::Command::SetBudgets(SetBudgets { budgets: Some(budgets), thin, etag: String::new() })
}

/// Spread as real hashes are.
fn hash(unit: u64) -> u64 {
    let mixed = (unit + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// Exposes units in batches; the verdicts that were not COUNTED.
fn expose(driver: &mut Driver, experiment: u32, units: std::ops::Range<u64>, sequence: &mut u64) -> Vec<i32> {
    let all: Vec<u64> = units.collect();
    let mut verdicts = Vec::new();
    for units in all.chunks(4_000) {
        let mut facts = batch("p", *sequence);
        *sequence += 1;
        facts.exposures = (0..)
            .zip(units)
            .map(|(index, unit)| ExposureFact {
                index,
                experiment,
                arm: (unit % 2) as u32,
                unit_hash: hash(*unit),
                minute: driver.minute(),
                ..ExposureFact::default()
            })
            .collect();
        verdicts.extend(driver.ingest(vec![facts]).remove(0).verdicts.iter().map(|v| v.verdict));
    }
    verdicts
}

#[test]
fn people_set_budgets_and_may_not_lose_units_by_a_slip() {
    let mut driver = Driver::new();
    let number = driver.running();
    let agent = Principal { kind: principal::Kind::Agent as i32, id: "bot".to_owned(), verified: true };
    let refused = driver.command_as(agent, set(Budgets::default(), false));
    assert_eq!(refusal(refused).code, "NOT_PERMITTED");
    let too_many = Budgets { experiment_units: 1 << 40, ..Budgets::default() };
    let refused = refusal(driver.command(set(too_many, false)));
    assert_eq!(
        (refused.code.as_str(), refused.field.as_str()),
        ("INVALID_ARGUMENT", "budgets.experiment_units")
    );
    let etag = entry::Command::SetBudgets(SetBudgets {
        budgets: Some(Budgets::default()),
        thin: false,
        etag: "b0".to_owned(),
    });
    assert_eq!(driver.refused(etag), "ETAG_MISMATCH");

    expose(&mut driver, number, 0..300, &mut 1);
    let small = Budgets { experiment_units: 200, ..Budgets::default() };
    let refused = refusal(driver.command(set(small, false)));
    assert_eq!((refused.code.as_str(), refused.value.as_str()), ("WRONG_STATE", "200"));
    assert!(refused.message.contains("300 are held"), "{}", refused.message);
    assert!(refused.message.contains("of environments/production/experiments/e,"), "{}", refused.message);
    let status = driver.state.budgets_status();
    assert_eq!((status.units, status.budgets.unwrap().experiment_units), (300, 16 << 20));

    let answer = done(driver.command(set(small, true)));
    let view = driver.state.experiment_view("production", "e").unwrap();
    assert_eq!(view.kept, 0.5);
    let whom = &answer.thinned[0];
    assert_eq!((whom.units, whom.kept_parts, answer.thinned_count), (view.thinned, 128, 1));
    assert_eq!(whom.name, "environments/production/experiments/e");
    assert_eq!(view.rows + view.thinned, 300);
    let audit = driver.state.audit(0, 10);
    let told = audit.iter().find(|record| record.action == "experiment.thin").unwrap();
    assert_eq!(told.resource, "environments/production/experiments/e");
    assert_eq!(told.principal.as_ref().unwrap().id, "ledger");
    assert!(
        audit
            .iter()
            .any(|record| record.action == "cluster.set_budgets" && record.detail == "experiment_units 200")
    );
    driver.state.check().unwrap();
}

#[test]
fn who_is_down_to_the_smallest_part_stands_in_no_other_budgets_way() {
    let mut driver = Driver::new();
    let number = driver.running();
    expose(&mut driver, number, 0..3_000, &mut 1);
    let least = Budgets { experiment_units: 1, units: 1, ..Budgets::default() };
    assert_eq!(done(driver.command(set(least, true))).thinned_count, 1);
    assert!(driver.state.experiment_view("production", "e").unwrap().rows > 1, "a part is always counted");
    let other = Budgets { experiment_sums: 9, ..least };
    assert_eq!(done(driver.command(set(other, false))).thinned_count, 0);
    driver.state.check().unwrap();
}

#[test]
fn a_full_experiment_refuses_no_unit_and_evicts_none_by_age() {
    let mut driver = Driver::new();
    let number = driver.running();
    done(driver.command(set(Budgets { experiment_units: 1_000, ..Budgets::default() }, false)));
    let mut sequence = 1;
    let verdicts = expose(&mut driver, number, 0..4_000, &mut sequence);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Thinned as i32), "{verdicts:?}");
    let view = driver.state.experiment_view("production", "e").unwrap();
    // Those of the kept part, old and new alike, each of them.
    let parts = (view.kept * 256.0) as u64;
    let kept = (0..4_000).filter(|unit| hash(*unit) >> 56 < parts).count() as u64;
    assert_eq!((view.rows, parts), (kept, 64));
    assert_eq!(view.inputs.kept_parts, 64);
    assert_eq!(view.inputs.thinned_units, view.thinned);
    assert!(view.rows > 500 && view.lost == 0);

    // Outcomes: of kept ones as ever, of the others a verdict, at once: they do not wait for an exposure.
    let (revenue, minute) = (driver.metric("revenue"), driver.minute());
    let mut facts = batch("p", sequence);
    facts.outcomes = (0..400_u32)
        .map(|index| OutcomeFact {
            index,
            metric: revenue,
            unit_hash: hash(u64::from(index)),
            value: 1,
            minute,
            ..OutcomeFact::default()
        })
        .collect();
    let reply = driver.ingest(vec![facts]).remove(0);
    let kept = (0..400).filter(|unit| hash(*unit) >> 56 < parts).count();
    assert_eq!(reply.counted as usize, kept);
    assert!(reply.verdicts.iter().all(|verdict| verdict.verdict == Verdict::Thinned as i32));
    driver.state.check().unwrap();

    // A loss is of units that mostly would not count.
    let mut facts = batch("p", sequence + 1);
    facts.lost = vec![featureops_proto::log::LostExposures { experiment: number, count: 80 }];
    driver.ingest(vec![facts]);
    assert_eq!(driver.state.experiment_view("production", "e").unwrap().lost, 20);
}

#[test]
fn over_all_the_largest_experiment_gives_way() {
    let mut driver = Driver::new();
    let first = driver.running();
    let second = driver.experiment("f", &[("off", true), ("on", true)]);
    let mut sequence = 1;
    expose(&mut driver, first, 0..600, &mut sequence);
    done(driver.command(entry::Command::StopExperiment(featureops_proto::log::StopExperiment {
        name: "environments/production/experiments/e".to_owned(),
        ..featureops_proto::log::StopExperiment::default()
    })));
    driver.start("f", v1::AutonomyLevel::A4Bounded);
    driver.tick(500);
    done(driver.command(set(Budgets { units: 1_000, ..Budgets::default() }, false)));
    expose(&mut driver, second, 1_000..1_500, &mut sequence);
    let view = |driver: &Driver, name| driver.state.experiment_view("production", name).unwrap();
    assert_eq!((view(&driver, "e").kept, view(&driver, "f").kept), (0.5, 1.0));
    assert_eq!(view(&driver, "f").rows, 500);
    // Now the second is the largest.
    expose(&mut driver, second, 2_000..2_800, &mut sequence);
    assert_eq!((view(&driver, "e").kept, view(&driver, "f").kept), (0.5, 0.5));
    driver.state.check().unwrap();
    let again = State::from_sections(&driver.state.sections()).unwrap();
    assert_eq!(again.digest(), driver.state.digest());
    assert_eq!(again.budgets_status(), driver.state.budgets_status());
}

/// The effect is larger for active units, and active units come first and often: what is left must still tell the mean
/// and the effect of all of them.
#[test]
fn what_is_left_has_the_same_means_and_the_same_effect() {
    let mut differences = Vec::new();
    let mut means = Vec::new();
    for run in 0..40_u64 {
        let mut driver = Driver::new();
        let number = driver.running();
        done(driver.command(set(Budgets { experiment_units: 1_000, ..Budgets::default() }, false)));
        let revenue = driver.metric("revenue");
        // Activity 1 to 8, most active first; spending is activity, a tenth more in the second arm.
        let activity = |unit: u64| 8 - unit / 500;
        let units = || (0..4_000_u64).map(|unit| (unit, hash(unit + 10_000 * run)));
        for (sequence, chunk) in (1..).zip(units().collect::<Vec<_>>().chunks(1_000)) {
            let mut facts = batch("p", sequence);
            for (index, (unit, unit_hash)) in (0_u32..).zip(chunk) {
                let (arm, minute) = ((unit % 2) as u32, driver.minute());
                let exposure = ExposureFact {
                    index,
                    experiment: number,
                    arm,
                    unit_hash: *unit_hash,
                    minute,
                    ..ExposureFact::default()
                };
                facts.exposures.push(exposure);
                let value = (activity(*unit) * if arm == 1 { 110 } else { 100 }) as i64;
                facts.outcomes.push(OutcomeFact {
                    index,
                    metric: revenue,
                    unit_hash: *unit_hash,
                    value,
                    minute,
                    ..OutcomeFact::default()
                });
            }
            driver.ingest(vec![facts]);
        }
        let view = driver.state.experiment_view("production", "e").unwrap();
        assert!(view.kept < 0.5);
        let mean = |arm: usize| view.arms[arm].sums[1] as f64 / view.arms[arm].units as f64;
        differences.push(mean(1) / mean(0) - 1.0);
        means.push(mean(0));
        let (a, b) = (view.arms[0].units as f64, view.arms[1].units as f64);
        assert!((a - b).abs() < 4.0 * (a + b).sqrt(), "arms are kept alike: {a} {b}");
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (difference, mean) = (mean(&differences), mean(&means));
    println!("mean {mean:.2} of 450, lift {difference:.4} of .1");
    assert!((mean - 450.0).abs() < 6.0, "{mean}");
    assert!((difference - 0.1).abs() < 0.02, "{difference}");
}

/// Over all, the experiment with most sums folds first; and one an entry, so that no entry waits for many.
#[test]
fn over_all_the_largest_sums_fold_one_experiment_an_entry() {
    let mut driver = Driver::new();
    let first = driver.running();
    let mut sequence = 1;
    expose(&mut driver, first, 0..50, &mut sequence);
    let (revenue, minute) = (driver.metric("revenue"), driver.minute());
    let outcomes = |driver: &mut Driver, units: std::ops::Range<u64>, sequence: &mut u64| {
        let mut facts = batch("p", *sequence);
        *sequence += 1;
        for (index, unit) in (0_u32..).zip(units) {
            let unit_hash = hash(unit);
            facts.outcomes.push(OutcomeFact {
                index,
                metric: revenue,
                unit_hash,
                value: 3,
                minute,
                ..OutcomeFact::default()
            });
        }
        driver.ingest(vec![facts]).remove(0).counted
    };
    assert_eq!(outcomes(&mut driver, 0..30, &mut sequence), 30);
    done(driver.command(entry::Command::StopExperiment(featureops_proto::log::StopExperiment {
        name: "environments/production/experiments/e".to_owned(),
        ..featureops_proto::log::StopExperiment::default()
    })));
    let second = driver.experiment("f", &[("off", true), ("on", true)]);
    driver.start("f", v1::AutonomyLevel::A4Bounded);
    driver.tick(500);
    expose(&mut driver, second, 100..150, &mut sequence);
    assert_eq!(outcomes(&mut driver, 100..120, &mut sequence), 20);
    assert_eq!(driver.state.budgets_status().sums, 50);
    let folded = |driver: &Driver| {
        ["e", "f"].map(|name| driver.state.experiment_view("production", name).unwrap().folded)
    };
    done(driver.command(set(Budgets { sums: 40, ..Budgets::default() }, false)));
    driver.tick(500);
    assert_eq!((folded(&driver), driver.state.budgets_status().sums), ([true, false], 20));
    // Both over their own budget: one an entry.
    done(driver.command(set(Budgets { experiment_sums: 10, ..Budgets::default() }, false)));
    assert_eq!(folded(&driver), [true, false]);
    driver.tick(500);
    assert_eq!((folded(&driver), driver.state.budgets_status().sums), ([true, true], 0));
    let audit = driver.state.audit(0, 20);
    assert_eq!(audit.iter().filter(|record| record.action == "experiment.fold").count(), 2);
    // Sums go on, in clusters, and what each unit had counts as before.
    assert_eq!(outcomes(&mut driver, 100..120, &mut sequence), 20);
    assert_eq!(
        driver
            .state
            .experiment_view("production", "f")
            .unwrap()
            .arms
            .iter()
            .map(|arm| arm.sums[1])
            .sum::<i128>(),
        120
    );
    driver.state.check().unwrap();
    // A snapshot that lost what the fold made is damage, not a ledger without sums.
    let sections = driver.state.sections();
    assert_eq!(State::from_sections(&sections).unwrap().digest(), driver.state.digest());
    for number in [first, second] {
        let name = format!("clusters/{number:010}");
        let short: Vec<_> = sections.iter().filter(|section| section.name != name).cloned().collect();
        assert_eq!(short.len() + 1, sections.len());
        let refused = State::from_sections(&short).unwrap_err();
        assert_eq!((refused.section, refused.detail.starts_with("missing")), (name, true));
    }
}
