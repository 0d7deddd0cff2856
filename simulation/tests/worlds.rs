//! The simulator as a user runs it: one process per seed. Determinism first: nothing else here means anything without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say so by failing"
)]

use std::process::{Command, Output};

/// Runs the simulator, or another build of it, and returns what it printed.
fn simulate(words: &[&str]) -> (Output, String) {
    let simulator = std::env::var("FEATUREOPS_SIM");
    let simulator = simulator.unwrap_or_else(|_| env!("CARGO_BIN_EXE_featureops-sim").to_owned());
    let output = Command::new(simulator).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

fn digest(text: &str) -> &str {
    let line = text.lines().find(|line| line.starts_with("digest ")).expect("no digest was printed");
    line.split(' ').nth(1).unwrap()
}

#[test]
fn one_seed_is_one_world_and_another_seed_another() {
    for nodes in ["1", "3"] {
        let (output, text) = simulate(&["meta", "--seed", "1", "--nodes", nodes]);
        assert!(output.status.success() && text.contains("the same twice"), "{text}");
    }
    let (_, first) = simulate(&["run", "--seed", "1", "--nodes", "1"]);
    let (_, other) = simulate(&["run", "--seed", "2", "--nodes", "1"]);
    assert_ne!(digest(&first), digest(&other));
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_few_seeds_hold_every_property() {
    let (output, text) = simulate(&["sweep", "--seeds", "10..16", "--nodes", "1", "--few"]);
    assert!(output.status.success(), "{text}");
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_few_clusters_hold_every_property() {
    let (output, text) = simulate(&["sweep", "--seeds", "0..2", "--nodes", "3", "--few"]);
    assert!(output.status.success(), "{text}");
}

/// What is rare and matters, in a few seeds: a sweep that never meets a fold proves nothing about folds.
#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_few_seeds_meet_every_hard_moment_of_a_ledger() {
    let (output, text) = simulate(&["sweep", "--seeds", "16..24", "--nodes", "1", "--few"]);
    assert!(output.status.success(), "{text}");
    for mark in featureops_simulation::moments::OF_LEDGERS {
        let line = text.lines().find(|line| line.starts_with(&format!("mark {mark}: ")));
        let line = line.unwrap_or_else(|| panic!("no mark '{mark}' in\n{text}"));
        assert!(!line.contains(": 0 times"), "{line}");
    }
}

/// The first of some seeds in which the plant found a place must fail, by the checker it was planted for.
fn caught(plant: &str, by: &[&str]) {
    let mut last = String::new();
    for seed in 1..25_u64 {
        let (output, text) = simulate(&["run", "--seed", &seed.to_string(), "--plant", plant]);
        let hit = by.iter().any(|id| text.contains(&format!("violation {id}:")));
        if hit {
            assert!(!output.status.success());
            assert!(
                text.contains(&format!("--seed {seed} --plant {plant}")),
                "no command to run it again\n{text}"
            );
            return;
        }
        last = text;
    }
    panic!("{plant} went unseen in twenty-four seeds\n{last}");
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_disk_whose_syncs_lie_is_caught() {
    caught("dropped-sync", &["E1", "R3", "H1", "H1c", "R1", "S1", "V"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_batch_that_counts_twice_is_caught() {
    caught("double-count", &["E1"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_treatment_served_under_a_trip_is_caught() {
    caught("treatment-under-trip", &["H3"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn an_arm_that_flips_under_its_receipt_is_caught() {
    caught("flipped-arm", &["H4"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_state_that_differs_after_a_restart_is_caught() {
    caught("wrong-digest", &["S1"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn an_acknowledged_command_that_is_gone_is_caught() {
    caught("lost-command", &["H1c"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_node_that_stops_evaluating_with_its_disk_is_caught() {
    caught("silent-under-ailment", &["H5a"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_fold_that_forgets_a_part_of_a_sum_on_one_life_is_caught() {
    caught("leaky-fold", &["S1"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_ramp_that_skips_a_step_is_caught() {
    caught("skipped-step", &["P1"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_schedule_that_is_early_is_caught() {
    caught("early-schedule", &["P2"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn an_agent_that_approves_is_caught() {
    caught("agent-approved", &["G1"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_unit_that_is_gone_from_its_list_is_caught() {
    caught("lost-unit", &["H8"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_unit_that_is_held_after_its_erasure_is_caught() {
    caught("kept-unit", &["H9"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn each_checker_that_reads_the_record_can_fail() {
    for (plant, by) in [
        ("wrong-weights", "A1"),
        ("over-cap", "A3"),
        ("no-variant", "H5"),
        ("audit-gap", "L1"),
        ("two-owners", "O1"),
        ("stale-decision", "O2"),
        ("bound-broken", "Q1"),
        ("shared-slot", "A4"),
        ("phantom-unit", "E2"),
        ("old-version", "H5v"),
        ("stale-read", "H6"),
        ("other-replay", "H7"),
        ("short-fold", "F1"),
    ] {
        caught(plant, &[by]);
    }
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_vote_that_is_forgotten_is_caught() {
    caught("vote-forgotten", &["R2", "R3", "R4"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_majority_that_acknowledged_what_it_does_not_hold_is_caught() {
    caught("early-ack", &["E1", "H1c", "H2", "R1", "R3", "S1"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn an_acknowledgement_of_one_node_alone_is_caught() {
    caught("minority-commit", &["E1", "H1c", "H2", "R1", "R3", "S1"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn a_replica_that_counts_a_repeat_is_caught() {
    caught("no-dedup", &["E1", "R3", "S1"]);
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "minutes of worlds without optimisation: cargo test --release -p simulation, or FEATUREOPS_SIM"
)]
fn each_checker_of_clusters_can_fail() {
    for (plant, by) in [
        ("fence-skipped", "O3"),
        ("epoch-ignored", "O3"),
        ("two-leaders", "R2"),
        ("silent-replica", "H5n"),
        ("stale-replica", "H2"),
    ] {
        caught(plant, &[by]);
    }
}
