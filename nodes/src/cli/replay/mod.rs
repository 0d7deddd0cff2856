//! `replay`: a finished experiment's file through the running node, and the node's numbers beside the file's own.
//!
//! ```text
//! file -> source (units, arms, outcomes) -> plan (exposures, outcomes; shuffled, repeated, duplicated) -> node
//!              \-> analysis (n, mean, difference, SE, computed here, naively) ----- compare ------ status <-/
//! ```
//!
//! The point is distrust: the second computation shares nothing with the node's, so agreement to 1e-6 says that facts
//! were counted once, joined to the right arm, and summed exactly, whatever the order and however often they were sent.

mod analysis;
mod assignment;
mod plan;
mod source;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use featureops_proto::v1;

use super::experiment_status;
use super::facts::batch::{Facts, batches};
use super::facts::rows::Table;
use super::facts::sender::{self, Summary};
use super::failure::{Exit, Failure};
use super::page::Tone;
use super::session::{Session, progress};
use analysis::Comparison;
use plan::Plan;
use source::Source;

#[derive(Debug, Args)]
#[command(after_help = "Example, arms assigned by the file:
  featureops replay --file gates.csv --delimiter ';' --experiment gate --unit-column userid --arm-column version \\
    --arm gate_30=control --arm gate_40=later --outcome retention=retention_7 --outcome rounds=sum_gamerounds --create

Without --arm-column the node assigns the arms. Columns of TRUE/FALSE, yes/no or 1/0 are proportions, other numbers are
means. Rows of one unit belong together: any success, or the sum of the values.")]
pub struct ReplayArgs {
    /// The CSV (or JSONL) with a row or more per unit.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// The column separator.
    #[arg(long, default_value_t = ',')]
    delimiter: char,
    /// The experiment's key.
    #[arg(long, value_name = "KEY")]
    experiment: String,
    #[arg(long, value_name = "COLUMN")]
    unit_column: String,
    /// Arms as the file assigned them; without it the node assigns.
    #[arg(long, value_name = "COLUMN")]
    arm_column: Option<String>,
    /// A value of the arm column and the variant it stands for; the first is control. Repeatable.
    #[arg(long, value_name = "VALUE=VARIANT", requires = "arm_column")]
    arm: Vec<String>,
    /// A metric and the column it is read from; the first is primary. Repeatable.
    #[arg(long, value_name = "METRIC=COLUMN", required = true)]
    outcome: Vec<String>,
    /// When a row happened; without it, when it is sent.
    #[arg(long, value_name = "COLUMN")]
    time_column: Option<String>,
    /// Move all times by one span, so that the latest is now by log time. What happened over more than 72 hours is
    /// replayed without --time-column: a node counts no event that is older.
    #[arg(long, requires = "time_column")]
    shift_time: bool,
    /// Create what is missing of flag, metrics and experiment, and start it.
    #[arg(long)]
    create: bool,
    /// The flag to create the experiment on [default: the experiment's key].
    #[arg(long, value_name = "KEY")]
    flag: Option<String>,
    /// Send events in an order drawn from this seed.
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Send this share of the units' exposures and successes again, as new events that must not change anything.
    /// (A second value of a mean is a second value, so those are not repeated.)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    repeat: f64,
    /// Send every batch twice under its own name; it must count once.
    #[arg(long)]
    duplicate_batches: bool,
    /// The experiment holds units already, from this same replay: send it again, nothing may change.
    #[arg(long)]
    again: bool,
    /// Replay the rows that can be read although others cannot.
    #[arg(long)]
    skip_malformed: bool,
}

/// No metric takes events later than this.
const LATE_SECONDS_MAX: i64 = 72 * 3_600;
/// How long the node's counts may take to show what it acknowledged.
const SETTLE: Duration = Duration::from_secs(15);

pub async fn run(session: &Session, args: ReplayArgs) -> Result<(), Failure> {
    if !(0.0..=1.0).contains(&args.repeat) {
        return Err(Failure::usage("--repeat is a share from 0 to 1"));
    }
    let table = Table::read(&args.file, None, args.delimiter)?;
    let mut source = Source::read(&table, &args)?;
    progress(&format!("{}: {} rows, {} units", args.file.display(), table.len(), source.units.len()));

    let span = source.span_seconds();
    if args.time_column.is_some() && span > LATE_SECONDS_MAX {
        return Err(Failure::usage(format!(
            "--time-column: the file's times span {} hours, and a node counts no event older than {}; leave the column out, \
             and all is counted as of now",
            span / 3_600,
            LATE_SECONDS_MAX / 3_600
        )));
    }

    let experiment = target::prepare(session, &args, &mut source).await?;
    let before = experiment_status::fetch(session, &args.experiment).await?;
    if before.exposed_units > 0 && !args.again {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "experiment {} holds {} units already: the numbers could not be compared",
                args.experiment, before.exposed_units
            ),
        )
        .note("use another --experiment; or, to send the very same replay once more, add --again"));
    }
    if args.shift_time {
        let now = super::doctor::fetch(session).await?.log_time.unwrap_or_default();
        source.shift_to(now.seconds);
    }
    source.match_arms(&experiment)?;
    if args.arm_column.is_none() {
        assignment::assign(session, &experiment, &mut source).await?;
    }

    let producer = format!("replay-{:032x}", identity(&table, &args, &experiment));
    let plan = Plan::new(&source, &args.experiment, args.shuffle, args.repeat);
    let mut summary = Summary::default();
    // Exposures first, and all of them answered: an outcome before its exposure never counts.
    for facts in [Facts::Exposures(plan.exposures), Facts::Outcomes(plan.outcomes)] {
        let producer = format!("{producer}:{}", facts.word());
        let mut cut = batches(&session.parent(), &producer, facts);
        if args.duplicate_batches {
            // Neighbours in the window, so that both copies are in flight at once.
            cut = cut.into_iter().flat_map(|batch| [batch.clone(), batch]).collect();
        }
        sender::send(session, cut, &[], &mut summary)
            .await
            .map_err(|failure| failure.note("with --again, as the experiment may hold a part of it now"))?;
    }

    let expected = analysis::analyse(&source);
    let status = settled(session, &args.experiment, source.units.len() as u64).await?;
    let comparison = Comparison::new(&source, &expected, &status);
    session.show_value(&comparison.json(), |page| {
        summary.describe(page);
        comparison.describe(page);
        for fault in source.faults.iter().take(super::facts::MAX_SHOWN) {
            page.line(Tone::Warn, format!("skipped {fault}"));
        }
    })?;
    if comparison.agrees() {
        return Ok(());
    }
    let mut failure = Failure::new(Exit::Refused, "the node's numbers differ from the file's");
    failure.notes = comparison.differences();
    if summary.refused() > 0 {
        failure = failure.note(format!("{} events were not counted", summary.refused()));
        failure.notes.extend(summary.shown);
    }
    Err(failure)
}

/// The same replay has the same identity, and so the same batch names: repeated, it counts nothing.
fn identity(table: &Table, args: &ReplayArgs, experiment: &v1::Experiment) -> u128 {
    let text = format!(
        "{:032x}|{}|{}|{}|{:?}|{:?}|{:?}|{:?}|{:?}|{}",
        table.digest(),
        experiment.name,
        experiment.number,
        args.unit_column,
        args.arm_column,
        args.arm,
        args.outcome,
        args.time_column,
        args.shuffle,
        args.repeat,
    );
    xxhash_rust::xxh3::xxh3_128(text.as_bytes())
}

/// The status once it shows every unit. Acknowledged means applied; the wait is for a node that answers from behind.
async fn settled(session: &Session, experiment: &str, units: u64) -> Result<v1::ExperimentStatus, Failure> {
    let deadline = tokio::time::Instant::now() + SETTLE;
    loop {
        let status = experiment_status::fetch(session, experiment).await?;
        if status.exposed_units >= units || tokio::time::Instant::now() >= deadline {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
