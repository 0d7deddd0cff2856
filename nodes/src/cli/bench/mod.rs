//! `bench`: what a node does on this machine, each figure beside its limit, both measured in the same run.
//!
//! ```text
//!   evaluate   a real node            beside  a bare gRPC echo of the same bytes, same client, same connections
//!   flagd      the same by flagd's protocol
//!   facts      a real node            beside  the bare log engine, same bytes, same group commit
//!   lag        a real node, to the first evaluation that serves what was decided
//!   scale      a node of its own process, full and restarted, beside the same process empty
//!   failover   three nodes of their own processes, the leader killed; only when it is asked for
//!   replicated three such nodes   beside  the bare log engine, and a three-member etcd; only when it is asked for
//!   owners     five nodes of their own processes and 1,000 experiments, one killed; only when it is asked for
//!   ledger     the fold alone         beside  bare memory, as large, touched as randomly
//!   fleet      the fold alone, with 38.9 million units; only when it is asked for
//!   analyze    a file of ten million rows   beside  a bare loop over its records; only when it is asked for
//!   peeking    simulated experiments, looked at again and again; only when it is asked for
//! ```
//!
//! Measured and limit take turns (A B A B …), so that whatever else the machine does falls on both; shown is the median,
//! and the median of the rounds' ratios. It measures and does not judge: a figure short of its bar says so, and the
//! command still succeeds.

mod analyze;
mod echo;
mod etcd;
mod evaluate;
mod facts;
mod failover;
mod flagd;
mod flight;
mod fold;
mod lag;
mod ledger;
mod owners;
mod peeking;
mod replicated;
mod report;
mod scale;
mod seats;
mod shared;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::failure::Failure;
use super::page::{Page, Tone};
use super::session::{print, progress};
use super::settings::Output;
use crate::config::NodeConfig;
use crate::telemetry;
use report::{Figure, json, table};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measurement {
    /// Evaluations a second over gRPC, unary and streamed.
    Evaluate,
    /// Evaluations a second by flagd's clients.
    Flagd,
    /// Durable facts a second over gRPC.
    Facts,
    /// From an outcome's acknowledgement to the allocation it leads to.
    Lag,
    /// Memory and start of a node with 10,000 flags.
    Scale,
    /// Bytes a unit, time an outcome and the longest stalls of the ledger.
    Ledger,
    /// From a leader's kill -9 to the next acknowledged write, twenty times; takes a minute.
    Failover,
    /// Facts and flag writes that three nodes replicate a second, the writes beside etcd's.
    Replicated,
    /// From a node's kill -9 to all of its owners running elsewhere, with 1,000 experiments; takes minutes.
    Owners,
    /// The ledger with the units of a whole fleet; takes minutes and a gigabyte.
    Fleet,
    /// A file's analysis, ten million rows; takes a minute and writes 200 MB.
    Analyze,
    /// Error and power of every method of analysis under peeking: a table from simulated experiments.
    Peeking,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure [default: everything but failover, replicated, owners, fleet, analyze and peeking].
    #[arg(value_enum)]
    measurements: Vec<Measurement>,
    /// Seconds under load for each comparison; setting up comes on top.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Folder in which nodes put their data while they are measured: its disk is the one measured [default: the
    /// system's temporary folder].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Simulated experiments of each scenario, for peeking.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Folder with peeking.json to compare with, for peeking.
    #[arg(long, value_name = "FOLDER")]
    golden: Option<PathBuf>,
    /// The etcd that `replicated` measures beside [default: the one on the PATH, if there is one].
    #[arg(long, value_name = "PROGRAM")]
    etcd: Option<PathBuf>,
}

/// What every measurement is given.
#[derive(Debug, Clone)]
struct Plan {
    /// Time under load for each comparison.
    under_load: Duration,
    /// Where nodes put their data.
    data: PathBuf,
    /// The etcd that was named.
    etcd: Option<PathBuf>,
}

impl Plan {
    /// The time of one slice, when `slices` of them share the time under load.
    fn slice(&self, slices: u32) -> Duration {
        (self.under_load / slices.max(1)).max(Duration::from_millis(50))
    }
}

pub async fn run(output: Option<Output>, args: BenchArgs) -> Result<(), Failure> {
    // What a served node pays for its log lines is paid here, too.
    let quiet = NodeConfig { log_filter: "error".to_owned(), ..NodeConfig::default() };
    let _telemetry = telemetry::install(&quiet).map_err(Failure::internal)?;
    if cfg!(debug_assertions) {
        progress("warning: this is a debug build; its figures say nothing: cargo run --release -- bench");
    }
    let plan = Plan {
        under_load: Duration::from_secs(args.seconds),
        data: args.data.unwrap_or_else(std::env::temp_dir),
        etcd: args.etcd,
    };
    let usual = |measurement: &&Measurement| {
        !matches!(
            measurement,
            Measurement::Fleet
                | Measurement::Failover
                | Measurement::Replicated
                | Measurement::Owners
                | Measurement::Analyze
                | Measurement::Peeking
        )
    };
    if args.measurements.contains(&Measurement::Peeking) {
        // A table of its own, and no figures of this machine.
        let as_json = args.json || output == Some(Output::Json);
        peeking::run(as_json, args.runs, args.golden.as_deref())?;
        if args.measurements.iter().all(|measurement| *measurement == Measurement::Peeking) {
            return Ok(());
        }
    }
    let wanted = if args.measurements.is_empty() {
        Measurement::value_variants().iter().filter(usual).copied().collect()
    } else {
        args.measurements
    };
    let load_before = load();
    let mut figures: Vec<Figure> = Vec::new();
    for measurement in Measurement::value_variants() {
        if !wanted.contains(measurement) {
            continue;
        }
        let name = measurement.to_possible_value().map(|value| value.get_name().to_owned());
        progress(&format!("measuring {} …", name.unwrap_or_default()));
        figures.extend(match measurement {
            Measurement::Evaluate => evaluate::measure(&plan).await?,
            Measurement::Flagd => flagd::measure(&plan).await?,
            Measurement::Facts => facts::measure(&plan).await?,
            Measurement::Lag => lag::measure(&plan).await?,
            Measurement::Scale => scale::measure(&plan).await?,
            Measurement::Ledger => ledger::measure().await?,
            Measurement::Failover => failover::measure(&plan).await?,
            Measurement::Replicated => replicated::measure(&plan).await?,
            Measurement::Owners => owners::measure(&plan).await?,
            Measurement::Fleet => ledger::measure_fleet().await?,
            Measurement::Analyze => analyze::measure(&plan)?,
            // Printed above.
            Measurement::Peeking => Vec::new(),
        });
    }
    let machine = Machine { cores: cores(), load_before, load_after: load() };
    if args.json || output == Some(Output::Json) {
        return print(&format!("{:#}\n", json(&machine, &figures)));
    }
    let mut page = Page::new(false);
    page.line(Tone::Plain, machine.text());
    table(&mut page, &figures);
    print(&page.into_text())
}

/// The machine while it was measured: a figure without it says little.
struct Machine {
    cores: usize,
    load_before: String,
    load_after: String,
}

impl Machine {
    fn text(&self) -> String {
        let build = if cfg!(debug_assertions) { "DEBUG build: no figures to go by" } else { "release build" };
        format!(
            "{build}, {} cores, load {} before and {} after (1 minute; the measurement itself included)",
            self.cores, self.load_before, self.load_after
        )
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Processor time that this process has used, in seconds; 0 where the system does not say. Other processes' work is not
/// in it, so it compares where rates are at the mercy of who else runs.
fn processor_seconds() -> f64 {
    // Ticks of 10 ms on every Linux there is; fields 14 and 15, counted behind the name, which may hold spaces.
    let ticks = std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| {
        let fields = text.rsplit_once(')')?.1.to_owned();
        let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        Some(fields.next()?.ok()? + fields.next()?.ok()?)
    });
    ticks.unwrap_or(0) as f64 / 100.0
}

/// Mean number of runnable threads over the last minute, as the system says it.
fn load() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}
