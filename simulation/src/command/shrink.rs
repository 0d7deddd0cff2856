//! Fewer faults that still make a world fail: halves, quarters, ... single ones are left out while it fails by the same property
//! (delta debugging; Zeller and Hildebrandt 2002, the part that removes).

use std::collections::BTreeSet;
use std::io;

use super::child;
use crate::Kind;

/// Worlds lived through at most.
const WORLDS_MAX: usize = 120;

/// Prints the faults that are left. False, for the world fails; true when it never did.
///
/// # Errors
/// A process cannot be started.
pub fn least(seed: u64, kind: Kind) -> io::Result<bool> {
    let plan = kind.plan(seed);
    let mut kept: Vec<usize> = (0..plan.faults.len()).collect();
    let wanted = violated(seed, kind, &kept)?;
    let Some(first) = wanted.iter().next() else {
        println!("seed {seed} holds every property: there is nothing to shrink");
        return Ok(true);
    };
    println!("seed {seed} fails by {first} with {} faults", kept.len());
    let mut worlds = 1_usize;
    let mut part = kept.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < kept.len() && worlds < WORLDS_MAX {
            let without: Vec<usize> = kept
                .iter()
                .enumerate()
                .filter(|(at, _)| !(from..from.saturating_add(part)).contains(at))
                .map(|(_, fault)| *fault)
                .collect();
            worlds = worlds.saturating_add(1);
            if violated(seed, kind, &without)?.contains(first) {
                println!("  {} faults still do", without.len());
                kept = without;
            } else {
                from = from.saturating_add(part);
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    for (at, scheduled) in plan.faults.iter().enumerate().filter(|(at, _)| kept.contains(at)) {
        println!("  {at}: at {} ms machine {}: {:?}", scheduled.at_ms, scheduled.machine, scheduled.fault);
    }
    let places: Vec<String> = kept.iter().map(ToString::to_string).collect();
    println!("{} --faults {}", plan.replay_command(), places.join(","));
    Ok(false)
}

/// The properties that a world with these faults alone violates.
fn violated(seed: u64, kind: Kind, kept: &[usize]) -> io::Result<BTreeSet<String>> {
    let places: Vec<String> = kept.iter().map(ToString::to_string).collect();
    // An empty list is none of them, which a word has to say.
    let places = if places.is_empty() { usize::MAX.to_string() } else { places.join(",") };
    let output = child(seed, kind)?.args(["--faults", &places]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let id = |line: &str| Some(line.strip_prefix("violation ")?.split(':').next()?.to_owned());
    Ok(text.lines().filter_map(id).collect())
}
