//! The simulator: `simulate --seed N` runs one world in this process; `simulate --seeds A..B` runs one process per seed.
//!
//! One process per seed, because libraries keep state for the whole process (counters, thread-locals) that no seed resets. It
//! prints the seed, every option drawn from it, the digest of the trace, what each checker looked at and found, and last the
//! command that runs it again.

mod ambient;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::{Child, Command, ExitCode, Stdio};

use featureops_simulation::plan::{Plan, Plant};
use featureops_simulation::trace::Trace;
use featureops_simulation::world::run;

/// Processes at once.
const PROCESSES: usize = 2;
/// Violations shown of one seed.
const SHOWN: usize = 20;

const USAGE: &str = "simulate --seed N [--plant NAME] [--trace] [--tail]
simulate --seeds A..B [--plant NAME] [--twice]
  --plant NAME  plants a defect; a name that is none tells them all
  --twice       runs every seed in two processes and compares their digests
  --trace       writes every event to stderr
  --tail        writes the last events after a violation";

#[derive(Default)]
struct Arguments {
    seeds: Option<(u64, u64)>,
    single: bool,
    plant: Option<Plant>,
    trace: bool,
    tail: bool,
    twice: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("'{text}' is not a whole number"));
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seed" => {
                let seed = number(&value()?)?;
                arguments.seeds = Some((seed, seed.saturating_add(1)));
                arguments.single = true;
            }
            "--seeds" => {
                let text = value()?;
                let (from, to) = text.split_once("..").ok_or_else(|| format!("'{text}' is not A..B"))?;
                arguments.seeds = Some((number(from)?, number(to)?));
            }
            "--plant" => {
                let name = value()?;
                arguments.plant = Some(Plant::parse(&name).ok_or_else(|| {
                    let known: Vec<&str> = Plant::ALL.iter().map(|(_, known)| *known).collect();
                    format!("no plant is called '{name}'; there are {}", known.join(", "))
                })?);
            }
            "--trace" => arguments.trace = true,
            "--tail" => arguments.tail = true,
            "--twice" => arguments.twice = true,
            _ => return Err(format!("'{word}' is not an option")),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(fault) => {
            eprintln!("{fault}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match arguments.seeds {
        Some((seed, _)) if arguments.single => one(seed, &arguments),
        Some((from, to)) => many(from, to, &arguments),
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    let plan = Plan::of(seed, arguments.plant);
    print!("{plan}");
    let replay = plan.replay_command();
    let began = ambient::machine_micros();
    let trace = Trace::new(arguments.trace);
    let outcome = run(plan, &ambient::Process, trace, tracing::Level::INFO);
    let took_ms = ambient::machine_micros().saturating_sub(began) / 1_000;
    for (id, title, finding) in &outcome.findings {
        println!("  {id:<4} {title}: looked at {}, violations {}", finding.looked, finding.violations.len());
    }
    print!("{}", outcome.marks);
    println!(
        "digest {:016x} over {} events, {} ms simulated in {took_ms} ms",
        outcome.digest, outcome.events, outcome.simulated_ms
    );
    let violations: Vec<_> = outcome.violations().collect();
    for (id, text) in violations.iter().take(SHOWN) {
        println!("violation {id}: {text}");
    }
    if violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    if arguments.tail {
        outcome.tail.iter().for_each(|line| eprintln!("{line}"));
    }
    println!("{} violations; again with: {replay}", violations.len());
    ExitCode::FAILURE
}

/// What the children printed, added up.
#[derive(Default)]
struct Sums {
    /// By checker: cases looked at, violations, and the seeds in which it looked at nothing.
    checkers: BTreeMap<String, (u64, u64, u64)>,
    /// By mark: how often, and in how many worlds.
    marks: BTreeMap<String, (u64, u64)>,
    digests: BTreeMap<u64, String>,
    failed: BTreeSet<u64>,
    events: u64,
}

impl Sums {
    fn take(&mut self, seed: u64, text: &str) {
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("digest ") {
                let mut words = rest.split(' ');
                let digest = words.next().unwrap_or_default().to_owned();
                self.events =
                    self.events.saturating_add(words.nth(1).and_then(|n| n.parse().ok()).unwrap_or(0));
                if self.digests.insert(seed, digest.clone()).is_some_and(|before| before != digest) {
                    println!("violation D: seed {seed} gave another digest the second time");
                    self.failed.insert(seed);
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

fn many(from: u64, to: u64, arguments: &Arguments) -> ExitCode {
    let Ok(program) = std::env::current_exe() else {
        eprintln!("the simulator cannot find its own program");
        return ExitCode::from(2);
    };
    let began = ambient::machine_micros();
    let mut sums = Sums::default();
    let mut running: VecDeque<(u64, Child)> = VecDeque::new();
    let times = if arguments.twice { 2 } else { 1 };
    let mut waiting = (from..to).flat_map(|seed| std::iter::repeat_n(seed, times)).peekable();
    let mut done = 0_u64;
    while waiting.peek().is_some() || !running.is_empty() {
        while running.len() < PROCESSES
            && let Some(seed) = waiting.next()
        {
            let mut command = Command::new(&program);
            command.arg("--seed").arg(seed.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
            if let Some(plant) = arguments.plant {
                command.arg("--plant").arg(plant.name());
            }
            match command.spawn() {
                Ok(child) => running.push_back((seed, child)),
                Err(error) => {
                    eprintln!("seed {seed}: {error}");
                    sums.failed.insert(seed);
                }
            }
        }
        let Some((seed, child)) = running.pop_front() else { continue };
        done = done.saturating_add(1);
        match child.wait_with_output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                sums.take(seed, &text);
                if !output.status.success() {
                    sums.failed.insert(seed);
                    println!("{text}");
                }
            }
            Err(error) => {
                eprintln!("seed {seed}: {error}");
                sums.failed.insert(seed);
            }
        }
    }
    for (name, (looked, violations, blind)) in &sums.checkers {
        println!("{name}: {looked} cases, {violations} violations, nothing to look at in {blind} worlds");
    }
    for (name, (times, worlds)) in &sums.marks {
        println!("mark {name}: {times} times in {worlds} worlds");
    }
    let took_ms = ambient::machine_micros().saturating_sub(began) / 1_000;
    println!("{done} worlds, {} events, {took_ms} ms; failed {:?}", sums.events, sums.failed);
    if sums.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
