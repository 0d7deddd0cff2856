//! The ledger: bytes that a unit takes, time that an outcome takes, and how long the fold ever stands still.
//!
//! ```text
//!   1,000,000 exposures ── then, in turns ──  outcomes by unit through State::apply  |  bare memory, as large, as random
//!   10,000,000 exposures over 64 hours ── outcomes until the sums fold ── a snapshot ── one unit too many: half leave
//! ```
//!
//! No network, no log: entries are encoded beforehand, and `apply` decodes, judges, joins and sums. The limit is one
//! addition to a random word of a block as large as the ledger: what the machine's memory asks for any table at all.
//! `fleet` is the same for ten experiments of five metrics that together have 38.9 million units, and takes a minute or two.

use featureops_proto::log::Batch;
use featureops_proto::v1::metric::Kind;
use tokio::time::Instant;

use super::fold::{BATCH, Fold, exposures, hash, outcomes};
use super::report::{Bar, Figure, median};
use crate::cli::failure::Failure;
use crate::doctor;

const UNITS: u64 = 1_000_000;
/// Batches of one timed slice.
const SLICE: u64 = 25;
/// Units at which the ledger's stalls are measured.
const MANY: u64 = 10_000_000;
/// Experiments, and units of each, of a whole fleet.
const FLEET: (u64, u64) = (10, 3_888_000);
const FLEET_OUTCOMES: u64 = 60_000_000;
const HOUR_MS: i64 = 3_600_000;
/// Between two batches of the first million: six days over all of them, because a row's minute is a part of its bytes.
const BETWEEN_MS: i64 = 34 * 60_000;

pub async fn measure() -> Result<Vec<Figure>, Failure> {
    off_the_runtime(|| {
        let mut figures = run()?;
        figures.extend(stalls()?);
        Ok(figures)
    })
    .await
}

pub async fn measure_fleet() -> Result<Vec<Figure>, Failure> {
    off_the_runtime(fleet).await
}

/// Seconds of work that waits for nothing.
async fn off_the_runtime(
    work: impl FnOnce() -> Result<Vec<Figure>, Failure> + Send + 'static,
) -> Result<Vec<Figure>, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::internal(format!("the ledger's run ended early: {error}")))?
}

fn run() -> Result<Vec<Figure>, Failure> {
    let mut fold = Fold::new()?;
    let (experiment, metrics) = fold.experiment("ledger", &[Kind::Mean])?;
    let metric = metrics.first().copied().unwrap_or_default();
    let mut exposure_ns = Vec::new();
    for first in (0..UNITS).step_by(BATCH as usize) {
        fold.tick(BETWEEN_MS)?;
        let ns = fold.ingest(Batch { exposures: exposures(experiment, first, BATCH), ..Batch::default() })?;
        exposure_ns.push(ns / BATCH as f64);
    }
    let exposed = fold.view("ledger")?.bytes;
    let mut memory = vec![0u64; usize::try_from((exposed / 8).max(1)).unwrap_or(1)];
    let (mut outcome_ns, mut memory_ns, mut longest_ns) = (Vec::new(), Vec::new(), 0.0f64);
    // Every unit once, then once more; on the way the sums fold.
    let mut slice_ns = 0.0;
    for (turn, first) in (0..UNITS).chain(0..UNITS).step_by(BATCH as usize).enumerate() {
        let ns = fold.ingest(Batch { outcomes: outcomes(metric, first, BATCH), ..Batch::default() })?;
        longest_ns = longest_ns.max(ns);
        slice_ns += ns;
        if (turn as u64 + 1).is_multiple_of(SLICE) {
            outcome_ns.push(slice_ns / (BATCH * SLICE) as f64);
            memory_ns.push(touch(&mut memory, turn as u64, BATCH * SLICE));
            slice_ns = 0.0;
        }
    }
    let full_bytes = fold.view("ledger")?.bytes as f64 / UNITS as f64;
    let (snapshot_bytes, _) = snapshot(&fold);
    Ok(vec![
        Figure::new("ledger, a unit", "bytes", exposed as f64 / UNITS as f64).bar(Bar::AtMost(16.0)).note(
            format!("{UNITS} exposed units; {full_bytes:.1} bytes once each has an outcome of a mean, rows and sums together"),
        ),
        Figure::beside("ledger, an outcome by unit", "ns", &outcome_ns, "bare memory, one word", &memory_ns)
            .bar(Bar::AtMost(600.0))
            .note(format!(
                "an exposure {:.0} ns; the longest entry of {BATCH} outcomes {:.1} ms, the fold among them",
                median(&exposure_ns),
                longest_ns / 1e6
            )),
        Figure::new("ledger, snapshot", "MB", snapshot_bytes / 1e6)
            .bar(Bar::AtMost(8.4))
            .note(format!("of {UNITS} units")),
    ])
}

/// What stops everything else while it lasts: growth, the fold, a snapshot's copy-on-write, thinning.
fn stalls() -> Result<Vec<Figure>, Failure> {
    let before = doctor::resident_bytes();
    let mut fold = Fold::new()?;
    let (experiment, metrics) = fold.experiment("many", &[Kind::Mean, Kind::Proportion])?;
    let (metric, seen) =
        (metrics.first().copied().unwrap_or_default(), metrics.last().copied().unwrap_or_default());
    let (mut all_ns, mut longest_ns) = (Vec::new(), 0.0f64);
    for first in (0..MANY).step_by(BATCH as usize) {
        if first.is_multiple_of(MANY / 64 / BATCH * BATCH) {
            fold.tick(HOUR_MS)?;
        }
        let ns = fold.ingest(Batch { exposures: exposures(experiment, first, BATCH), ..Batch::default() })?;
        if first > MANY / 2 {
            longest_ns = longest_ns.max(ns);
            all_ns.push(ns);
        }
    }
    let bytes = fold.view("many")?.bytes as f64 / MANY as f64;
    let usual_ns = median(&all_ns);
    let grow = Figure::new("ledger, a table's growth", "ms", (longest_ns - usual_ns) / 1e6)
        .bar(Bar::AtMost(10.0))
        .note(format!(
            "the longest entry of {BATCH} exposures over the median, from 5 to 10 million; {bytes:.1} bytes a unit then"
        ));

    let (mut fold_ns, mut usual, mut first) = (0.0, Vec::new(), 0);
    while !fold.view("many")?.folded && first < MANY {
        let ns =
            fold.ingest(Batch { outcomes: outcomes(metric, first * 7 % MANY, BATCH), ..Batch::default() })?;
        fold_ns = ns;
        usual.push(ns);
        first += BATCH;
    }
    let sums = Figure::new("ledger, the fold", "ms", (fold_ns - median(&usual)) / 1e6)
        .bar(Bar::AtMost(50.0))
        .note(format!("of 131,072 sums into clusters, at {MANY} units"));

    let resident = doctor::resident_bytes().saturating_sub(before);
    let (snapshot_bytes, snapshot_seconds) = snapshot(&fold);
    let held = fold.state.clone();
    let mut copied_ns = 0.0f64;
    for turn in 0..8 {
        let ns = fold.ingest(Batch { outcomes: outcomes(seen, turn * BATCH, BATCH), ..Batch::default() })?;
        copied_ns = copied_ns.max(ns);
    }
    drop(held);
    let kept = Figure::new("ledger, snapshot of 10 million", "MB", snapshot_bytes / 1e6)
        .bar(Bar::AtMost(77.0))
        .note(format!(
            "in {snapshot_seconds:.2} s; while one is made, the longest entry of {BATCH} conversions takes {:.1} ms, because each page that \
             they touch is copied once; {:.0} MB resident before it",
            copied_ns / 1e6,
            resident as f64 / 1e6
        ));

    // On to the budget of 16 Mi, and one unit too many. Which one is counted, as long as it is not of those that leave.
    let budget = 16 << 20;
    for first in (MANY..budget).step_by(BATCH as usize) {
        let count = BATCH.min(budget - first);
        fold.ingest(Batch { exposures: exposures(experiment, first, count), ..Batch::default() })?;
    }
    let one = || Batch { exposures: exposures(experiment, budget, 1), ..Batch::default() };
    let (thin_ns, _) = fold.offer(one())?;
    let view = fold.view("many")?;
    if view.thinned == 0 {
        return Err(Failure::internal("the budget was full and nobody left"));
    }
    let thin = Figure::new("ledger, thinning", "ms", thin_ns / 1e6)
        .bar(Bar::AtMost(50.0))
        .note(format!("one unit too many: {} of {budget} leave at once", view.thinned));
    Ok(vec![grow, sums, kept, thin])
}

fn fleet() -> Result<Vec<Figure>, Failure> {
    let before = doctor::resident_bytes();
    let (count, units) = FLEET;
    let mut fold = Fold::new()?;
    let kinds = [Kind::Proportion, Kind::Mean, Kind::Count, Kind::Mean, Kind::Proportion];
    let mut experiments = Vec::new();
    for at in 0..count {
        experiments.push(fold.experiment(&format!("fleet-{at}"), &kinds)?);
    }
    let began = Instant::now();
    for first in (0..units).step_by(BATCH as usize) {
        if first.is_multiple_of(units / 64 / BATCH * BATCH) {
            fold.tick(HOUR_MS)?;
        }
        for (at, (experiment, _)) in (0..).zip(&experiments) {
            let first = at * units + first;
            fold.ingest(Batch { exposures: exposures(*experiment, first, BATCH), ..Batch::default() })?;
        }
    }
    let exposed_seconds = began.elapsed().as_secs_f64();
    let mut outcome_ns = Vec::new();
    let mut longest_ns = 0.0f64;
    for turn in 0..FLEET_OUTCOMES / BATCH {
        let (at, metric) = (turn % count, turn / count % kinds.len() as u64);
        let Some((_, metrics)) = experiments.get(at as usize) else { break };
        let first = at * units + (turn * 7_919 * BATCH) % units;
        let metric = metrics.get(metric as usize).copied().unwrap_or_default();
        let ns = fold.ingest(Batch { outcomes: outcomes(metric, first, BATCH), ..Batch::default() })?;
        longest_ns = longest_ns.max(ns);
        outcome_ns.push(ns / BATCH as f64);
    }
    let resident = doctor::resident_bytes().saturating_sub(before) as f64;
    let (snapshot_bytes, snapshot_seconds) = snapshot(&fold);
    let rows = count * units;
    Ok(vec![
        Figure::new("fleet, memory", "MB", resident / 1e6).bar(Bar::AtMost(927.0)).note(format!(
            "resident: {rows} units of {count} experiments, {FLEET_OUTCOMES} outcomes of five metrics each; exposed in {exposed_seconds:.0} s"
        )),
        Figure::new("fleet, an outcome by unit", "ns", median(&outcome_ns)).bar(Bar::AtMost(600.0)).note(format!(
            "the longest entry of {BATCH} {:.1} ms",
            longest_ns / 1e6
        )),
        Figure::new("fleet, snapshot", "MB", snapshot_bytes / 1e6)
            .bar(Bar::AtMost(450.0))
            .note(format!("in {snapshot_seconds:.1} s")),
    ])
}

/// Bytes of a snapshot, and the seconds it takes.
fn snapshot(fold: &Fold) -> (f64, f64) {
    let began = Instant::now();
    let mut bytes = 0;
    fold.state.each_section(|section| bytes += section.name.len() + section.bytes.len());
    (bytes as f64, began.elapsed().as_secs_f64())
}

/// Nanoseconds to add to one random word.
fn touch(memory: &mut [u64], seed: u64, touches: u64) -> f64 {
    let began = Instant::now();
    let length = memory.len() as u64;
    for turn in 0..touches {
        let place = hash(seed.wrapping_mul(touches).wrapping_add(turn)) % length.max(1);
        if let Some(word) = usize::try_from(place).ok().and_then(|place| memory.get_mut(place)) {
            *word = word.wrapping_add(turn);
        }
    }
    std::hint::black_box(&memory);
    began.elapsed().as_nanos() as f64 / touches as f64
}
