//! The simulator's command line: `featureops-sim run --seed N` lives through one world in this process; whatever needs more than one
//! world starts itself again, one process a seed.
//!
//! One process per seed, because libraries keep state for the whole process (counters, thread-locals) that no seed resets.

mod ambient;
mod command;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use featureops_simulation::plan::{Plan, Plant};

/// Runs the real node many times over in a world in a box, breaks it on purpose, and checks what its clients saw.
#[derive(Parser)]
#[command(name = "featureops-sim", version, arg_required_else_help = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lives through one world; prints its options, what each checker looked at and found, and the digest of its trace
    Run(Run),
    /// Lives through many worlds, a process each, and adds up what they met; fails when one fails, or when what is rare came never
    Sweep {
        /// Seeds from A up to B, without B
        #[arg(long, value_name = "A..B", value_parser = seeds)]
        seeds: (u64, u64),
        /// Processes at once
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
        jobs: u32,
        #[command(flatten)]
        kind: Kind,
        /// Do not fail for what came never: for few seeds
        #[arg(long)]
        few: bool,
    },
    /// Lives through one world twice, in two fresh processes, and compares every event of them
    Meta {
        /// The seed
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        kind: Kind,
    },
    /// Lives again through the worlds that once failed, and through those whose digest is committed
    Replay {
        /// One seed of them only
        #[arg(long)]
        seed: Option<u64>,
        /// Write the list with the digests of this build, for a change that is meant to change what worlds do
        #[arg(long, value_name = "FILE", conflicts_with = "seed")]
        renew: Option<PathBuf>,
    },
    /// Finds few faults of a failing world that still make it fail
    Shrink {
        /// The seed
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        kind: Kind,
    },
    /// Runs a year of experiments through the real decisions, against a truth that they are never told: regret, false winners, trips
    Programme(Programme),
    /// Lives through one world and draws it: what was done to each machine when, who led, what was found
    Report {
        /// The seed
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        kind: Kind,
        /// Where to, as an HTML page
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// A year of experiments.
#[derive(Args)]
struct Programme {
    /// The seed
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Teams, each with flags and people of its own
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    teams: u32,
    /// Days of the year
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
    /// Experiments at once, of a team
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    places: u32,
    /// Longest experiment, in days
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u32).range(1..=365))]
    length: u32,
    /// Teams at once; the score does not depend on it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Programme {
    /// The command that does the same.
    fn again(&self) -> String {
        let Self { seed, teams, days, places, length, .. } = self;
        format!("programme --seed {seed} --teams {teams} --days {days} --places {places} --length {length}")
    }
}

/// What is said of a world beside its seed.
#[derive(Args, Clone, Copy, Default)]
pub struct Kind {
    /// Plants a defect, to see that it is found; a name that is none tells them all
    #[arg(long, value_name = "NAME", value_parser = plant)]
    plant: Option<Plant>,
    /// Nodes that vote, whatever the seed says
    #[arg(long, value_name = "1|3|5", value_parser = voters)]
    nodes: Option<u64>,
}

impl Kind {
    fn plan(self, seed: u64) -> Plan {
        Plan::among(seed, self.plant, self.nodes)
    }
}

fn voters(text: &str) -> Result<u64, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err(format!("'{text}' is not 1, 3 or 5")),
    }
}

/// One world.
#[derive(Args)]
struct Run {
    /// The seed
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    kind: Kind,
    /// Print the digest of the trace and nothing else
    #[arg(long)]
    digest: bool,
    /// Write every event to stderr as it comes
    #[arg(long)]
    trace: bool,
    /// Write the last events to stderr when something was wrong
    #[arg(long)]
    tail: bool,
    /// Write every event to a file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Leave out all faults but these, by their place in the list that is printed, from 0
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    faults: Option<Vec<usize>>,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("'{text}' is not a whole number"));
    let (from, to) = text.split_once("..").ok_or_else(|| format!("'{text}' is not A..B, as 0..200"))?;
    let (from, to) = (number(from)?, number(to)?);
    if from < to {
        Ok((from, to))
    } else {
        Err(format!("'{text}' holds no seed; the first is less than the last"))
    }
}

fn plant(name: &str) -> Result<Plant, String> {
    Plant::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Plant::ALL.iter().map(|(_, known)| *known).collect();
        format!("no plant is called '{name}'; there are {}", known.join(", "))
    })
}

fn main() -> ExitCode {
    let done = match Line::parse().command {
        Command::Run(run) => command::run::one(&run),
        Command::Sweep { seeds, jobs, kind, few } => command::sweep::many(seeds, jobs, kind, few),
        Command::Meta { seed, kind } => command::meta::twice(seed, kind),
        Command::Replay { seed, renew } => command::replay::known(seed, renew.as_deref()),
        Command::Shrink { seed, kind } => command::shrink::least(seed, kind),
        Command::Programme(asked) => command::programme::year(&asked),
        Command::Report { seed, kind, out } => command::report::drawn(seed, kind, &out),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
