//! One world in this process.

use std::fs::File;
use std::io;

use featureops_simulation::trace::{Echo, Trace};
use featureops_simulation::world::{Outcome, run};

use crate::{Run, ambient};

/// Violations shown.
const SHOWN: usize = 20;

/// Lives through it and prints what came of it.
///
/// # Errors
/// The file of the history cannot be written.
pub fn one(asked: &Run) -> io::Result<bool> {
    let mut plan = asked.kind.plan(asked.seed);
    if let Some(kept) = &asked.faults {
        plan.keep_faults(kept);
    }
    let echo = match &asked.history {
        Some(path) => Echo::Lines(File::create(path)?),
        None if asked.trace => Echo::Stderr,
        None => Echo::Nowhere,
    };
    if !asked.digest {
        print!("{plan}");
    }
    let replay = plan.replay_command();
    let began = ambient::machine_micros();
    let outcome = run(plan, &ambient::Process, Trace::new(echo), tracing::Level::INFO);
    let took_ms = ambient::machine_micros().saturating_sub(began) / 1_000;
    if asked.digest {
        println!("{:016x}", outcome.digest);
        return Ok(outcome.violations().next().is_none());
    }
    told(&outcome, took_ms);
    let violations: Vec<_> = outcome.violations().collect();
    for (id, text) in violations.iter().take(SHOWN) {
        println!("violation {id}: {text}");
    }
    if violations.is_empty() {
        return Ok(true);
    }
    if asked.tail {
        outcome.tail.iter().for_each(|line| eprintln!("{line}"));
    }
    println!("{} violations; again with: {replay}", violations.len());
    Ok(false)
}

fn told(outcome: &Outcome, took_ms: u64) {
    for (id, title, finding) in &outcome.findings {
        println!("  {id:<4} {title}: looked at {}, violations {}", finding.looked, finding.violations.len());
    }
    print!("{}", outcome.marks);
    let kinds: Vec<String> = outcome.faults.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
    println!("  faults: {}", kinds.join(", "));
    println!(
        "digest {:016x} over {} events, {} ms simulated in {took_ms} ms",
        outcome.digest, outcome.events, outcome.simulated_ms
    );
}
