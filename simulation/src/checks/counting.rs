//! E1 and E2: the naive second model. It adds up what the answers said and compares with what the experiment shows.
//!
//! An event held for its exposure (WAITING) may be counted later or not, and a batch that was never answered may be counted or
//! not: both widen the range upwards. Everything else is exact: below the range a fact is lost, above it one counts twice.
//!
//! A ledger that thinned has only units of the lower part of the hash space, with all that they ever did: the model looks at these
//! units and no others. One that folded keeps what erased units had clicked before.

use std::collections::{BTreeMap, BTreeSet};

use featureops_proto::v1::{self, Verdict};

use super::Finding;
use crate::history::{Reported, Seen};
use crate::plan::Plan;
use crate::workload::{EXPERIMENTS, clicks};

/// Verdict of each event of a batch, from its first answer.
fn verdicts(report: &Reported) -> Option<Vec<Verdict>> {
    let answer = report.answers.first()?;
    let events = report.metrics.len().max(report.exposures.len());
    let mut verdicts = vec![Verdict::Counted; events];
    for said in &answer.verdicts {
        let index = usize::try_from(said.index).unwrap_or(usize::MAX);
        if let Some(verdict) = verdicts.get_mut(index) {
            *verdict = said.verdict();
        }
    }
    Some(verdicts)
}

fn status<'a>(seen: &'a Seen, experiment: &str) -> Vec<(u64, &'a v1::ExperimentStatus)> {
    let of = |status: &&v1::ExperimentStatus| {
        status.experiment.as_ref().is_some_and(|found| found.flag == experiment)
    };
    let settled = seen.settled.iter();
    settled
        .flat_map(|(machine, settled)| settled.experiments.iter().filter(of).map(|status| (*machine, status)))
        .collect()
}

/// Parts that the hash space is divided into.
const PARTS: u64 = 256;

/// Whether what the status shows of a unit's experiment has the unit in it.
fn keeps(seen: &Seen, status: &v1::ExperimentStatus, unit: &str) -> bool {
    if status.thinned_units == 0 && status.kept >= 1.0 {
        return true;
    }
    let part = |hash: &u64| hash >> 56;
    seen.hashes.get(unit).is_none_or(|hash| (part(hash) as f64) < status.kept * PARTS as f64)
}

/// E1: clicks, of which every counted event adds one.
pub fn events(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for experiment in EXPERIMENTS {
        let metric = clicks(experiment);
        // By unit: clicks that were counted, and those that may have been.
        let mut clicked: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for report in &seen.reports {
            let verdicts = verdicts(report);
            for (index, (name, unit)) in report.metrics.iter().zip(&report.units).enumerate() {
                // One that was refused counted nothing, unless an earlier send of it had no answer.
                if *name != metric || (report.refused.is_some() && report.sends == 1) {
                    continue;
                }
                let counts = match verdicts.as_ref().and_then(|verdicts| verdicts.get(index)) {
                    Some(Verdict::Counted) => (1, 1),
                    None | Some(Verdict::Waiting) => (0, 1),
                    Some(_) => continue,
                };
                let unit = clicked.entry(unit).or_default();
                *unit = (unit.0.saturating_add(counts.0), unit.1.saturating_add(counts.1));
            }
        }
        let erased = seen.erased_clicks.iter().filter(|click| click.experiment == *experiment).count();
        for (machine, status) in status(seen, experiment) {
            let kept = clicked.iter().filter(|(unit, _)| keeps(seen, status, unit));
            let (least, most) = kept.fold((0_u64, 0_u64), |(least, most), (_, counts)| {
                (least.saturating_add(counts.0), most.saturating_add(counts.1))
            });
            let most = if status.folded { most.saturating_add(erased as u64) } else { most };
            let totals = status.arms.iter().flat_map(|arm| &arm.metrics);
            let of = totals.filter(|total| total.metric.ends_with(&metric));
            let shown: f64 = of.map(|total| total.total).sum();
            let holds = shown >= least as f64 && shown <= most as f64;
            finding.looked = finding.looked.saturating_add(least);
            finding.case(holds, || {
                format!("machine {machine} {metric}: shows {shown}, acknowledged {least} to {most}")
            });
        }
    }
    finding
}

/// E2: distinct units.
pub fn units(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let mut counted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for report in &seen.reports {
        let Some(verdicts) = verdicts(report) else { continue };
        for ((experiment, unit), verdict) in report.exposures.iter().zip(verdicts) {
            if matches!(verdict, Verdict::Counted | Verdict::Repeated) {
                counted.entry(experiment).or_default().insert(unit);
            }
        }
    }
    for experiment in EXPERIMENTS {
        for (machine, status) in status(seen, experiment) {
            let counted = counted.get(experiment).into_iter().flatten();
            let least = counted.filter(|unit| keeps(seen, status, unit)).count();
            let asked = seen.asked.iter().filter(|(flag, _)| flag == experiment);
            let most = asked.filter(|(_, unit)| keeps(seen, status, unit)).count();
            // A row is a unit; an arm's units are those it was ever counted in.
            let rows = usize::try_from(status.rows).unwrap_or(usize::MAX);
            finding.case((least..=most).contains(&rows), || {
                format!("machine {machine} {experiment}: holds {rows} units, not {least} to {most}")
            });
            let by_arm: u64 = status.arms.iter().map(|arm| arm.units).sum();
            let both = status.rows.saturating_add(status.crossed_units);
            finding.case((status.rows..=both).contains(&by_arm) && status.exposed_units == status.rows, || {
                format!(
                    "machine {machine} {experiment}: arms hold {by_arm} units, {} are shown, rows {}, crossed {}",
                    status.exposed_units, status.rows, status.crossed_units
                )
            });
        }
    }
    finding
}
