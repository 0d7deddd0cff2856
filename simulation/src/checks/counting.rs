//! E1 and E2: the naive second model. It adds up what the answers said and compares with what the experiment shows.
//!
//! An event held for its exposure (WAITING) may be counted later or not, and a batch that was never answered may be counted or
//! not: both widen the range upwards. Everything else is exact: below the range a fact is lost, above it one counts twice.

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

/// E1: clicks, of which every counted event adds one.
pub fn events(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for experiment in EXPERIMENTS {
        let metric = clicks(experiment);
        let (mut least, mut most) = (0_u64, 0_u64);
        for report in &seen.reports {
            let verdicts = verdicts(report);
            for (index, name) in report.metrics.iter().enumerate() {
                if *name != metric || report.refused.is_some() {
                    continue;
                }
                match verdicts.as_ref().and_then(|verdicts| verdicts.get(index)) {
                    Some(Verdict::Counted) => {
                        least = least.saturating_add(1);
                        most = most.saturating_add(1);
                    }
                    None | Some(Verdict::Waiting) => most = most.saturating_add(1),
                    Some(_) => {}
                }
            }
        }
        for (machine, status) in status(seen, experiment) {
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
        let least = counted.get(experiment).map_or(0, BTreeSet::len);
        let most = seen.asked.iter().filter(|(flag, _)| flag == experiment).count();
        for (machine, status) in status(seen, experiment) {
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
