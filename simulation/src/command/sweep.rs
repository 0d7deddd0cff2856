//! Many worlds, a process each, and what they met together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::process::Child;

use super::child;
use crate::{Kind, ambient};

/// What the children printed, added up.
#[derive(Default)]
struct Sums {
    /// By checker: cases looked at, violations, and the seeds in which it looked at nothing.
    checkers: BTreeMap<String, (u64, u64, u64)>,
    /// By mark: how often, and in how many worlds.
    marks: BTreeMap<String, (u64, u64)>,
    /// Faults that fell, by kind.
    faults: BTreeMap<String, u64>,
    failed: BTreeSet<u64>,
    events: u64,
    simulated_ms: u64,
    /// Added up over processes.
    took_ms: u64,
}

impl Sums {
    fn take(&mut self, text: &str) {
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("digest ") {
                let mut words = rest.split(' ');
                let mut number = |at: usize| words.nth(at).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
                // digest D over N events, M ms simulated in W ms
                self.events = self.events.saturating_add(number(2));
                self.simulated_ms = self.simulated_ms.saturating_add(number(1));
                self.took_ms = self.took_ms.saturating_add(number(3));
            }
            if let Some(kinds) = line.strip_prefix("  faults: ") {
                for (kind, times) in kinds.split(", ").filter_map(|kind| kind.rsplit_once(' ')) {
                    let sum = self.faults.entry(kind.to_owned()).or_default();
                    *sum = sum.saturating_add(times.parse().unwrap_or(0));
                }
            }
            if let Some((name, times)) = line.strip_prefix("  mark ").and_then(|mark| mark.split_once(": "))
                && let Some(times) = times.split(' ').next().and_then(|times| times.parse::<u64>().ok())
            {
                let mark = self.marks.entry(name.to_owned()).or_default();
                *mark = (mark.0.saturating_add(times), mark.1.saturating_add(u64::from(times > 0)));
            }
            let Some((name, counts)) = line.split_once(": looked at ") else { continue };
            let Some((looked, violations)) = counts.split_once(", violations ") else { continue };
            let (Ok(looked), Ok(violations)) = (looked.parse::<u64>(), violations.parse::<u64>()) else {
                continue;
            };
            let sum = self.checkers.entry(name.to_owned()).or_default();
            sum.0 = sum.0.saturating_add(looked);
            sum.1 = sum.1.saturating_add(violations);
            sum.2 = sum.2.saturating_add(u64::from(looked == 0));
        }
    }
}

/// Lives through the worlds of `from` to before `to`. True: all hold every property, and what is rare came.
///
/// # Errors
/// A process cannot be started.
pub fn many((from, to): (u64, u64), jobs: u32, kind: Kind, few: bool) -> io::Result<bool> {
    let began = ambient::machine_micros();
    let mut sums = Sums::default();
    let mut running: VecDeque<(u64, Child)> = VecDeque::new();
    let mut waiting = from..to;
    let jobs = usize::try_from(jobs).unwrap_or(1);
    loop {
        while running.len() < jobs
            && let Some(seed) = waiting.next()
        {
            running.push_back((seed, child(seed, kind)?.spawn()?));
        }
        let Some((seed, child)) = running.pop_front() else { break };
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        sums.take(&text);
        if !output.status.success() {
            sums.failed.insert(seed);
            println!("{text}");
        }
    }
    for (name, (looked, violations, blind)) in &sums.checkers {
        println!("{name}: {looked} cases, {violations} violations, nothing to look at in {blind} worlds");
    }
    let mut never = Vec::new();
    for (name, (times, worlds)) in &sums.marks {
        println!("mark {name}: {times} times in {worlds} worlds");
        if *times == 0 {
            never.push(name.as_str());
        }
    }
    let kinds: Vec<String> = sums.faults.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
    println!("faults: {}", kinds.join(", "));
    let took_ms = ambient::machine_micros().saturating_sub(began) / 1_000;
    let worlds = to.saturating_sub(from);
    println!(
        "{worlds} worlds, {} events, {} s simulated in {} s of processes, {took_ms} ms; failed {:?}",
        sums.events,
        sums.simulated_ms / 1_000,
        sums.took_ms / 1_000,
        sums.failed
    );
    let met = few || never.is_empty();
    if !met {
        println!(
            "never met: {}; a sweep that misses what is rare proves nothing about it (--few lets it pass)",
            never.join(", ")
        );
    }
    Ok(sums.failed.is_empty() && met)
}
