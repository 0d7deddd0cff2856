//! The file as units: their arm, their outcomes, their time.

use std::collections::BTreeMap;

use featureops_proto::v1;
use prost_types::Timestamp;

use super::ReplayArgs;
use crate::cli::facts::rows::{self, Row, Table};
use crate::cli::failure::Failure;
use crate::nearest::suggestion;

/// Arms of an experiment, as the server bounds them.
const MAX_ARMS: usize = 32;

/// What a column means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Proportion,
    Mean,
}

/// A metric and the column it is read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub metric: String,
    pub column: String,
    pub kind: Kind,
}

/// One unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    pub key: String,
    /// Index into [`Source::arms`].
    pub arm: usize,
    pub time: Option<Timestamp>,
    /// Rows' outcomes: (index into [`Source::outcomes`], value, time).
    pub events: Vec<(usize, f64, Option<Timestamp>)>,
    pub receipt: String,
}

/// A file, read.
#[derive(Debug, Clone)]
pub struct Source {
    /// Variants; the first is control. Empty until the node assigns.
    pub arms: Vec<String>,
    pub outcomes: Vec<Outcome>,
    /// In the order of the file.
    pub units: Vec<Unit>,
    /// Malformed rows, with their lines, where they may be skipped.
    pub faults: Vec<String>,
}

impl Source {
    /// Reads the file as the arguments say.
    ///
    /// # Errors
    /// A missing column, or malformed rows that may not be skipped, with their lines.
    pub fn read(table: &Table, args: &ReplayArgs) -> Result<Self, Failure> {
        let columns = [Some(&args.unit_column), args.arm_column.as_ref(), args.time_column.as_ref()];
        for column in columns.into_iter().flatten() {
            table.require_column(column)?;
        }
        let mut outcomes = Vec::new();
        for text in &args.outcome {
            let Some((metric, column)) = text.split_once('=') else {
                return Err(Failure::usage(format!("--outcome '{text}' must be METRIC=COLUMN")));
            };
            table.require_column(column)?;
            let kind = kind_of(table, column);
            outcomes.push(Outcome { metric: metric.to_owned(), column: column.to_owned(), kind });
        }
        let mut mapping = BTreeMap::new();
        let mut arms: Vec<String> = Vec::new();
        for text in &args.arm {
            let Some((value, variant)) = text.rsplit_once('=') else {
                return Err(Failure::usage(format!(
                    "--arm '{text}' must be VALUE=VARIANT, as gate_30=control"
                )));
            };
            mapping.insert(value.to_owned(), variant.to_owned());
            if !arms.iter().any(|arm| arm == variant) {
                arms.push(variant.to_owned());
            }
        }
        let mut source = Self { arms, outcomes, units: Vec::new(), faults: Vec::new() };
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for row in table.rows() {
            let read = row.as_ref().map_err(Clone::clone).and_then(|row| {
                source.take(row, args, &mapping, &mut places).map_err(|message| row.fault(&message))
            });
            if let Err(fault) = read {
                source.faults.push(fault);
            }
        }
        if !source.faults.is_empty() && !args.skip_malformed {
            let shown = source.faults.iter().take(crate::cli::facts::MAX_SHOWN).cloned().collect();
            let failure = rows::malformed(&args.file, source.faults.len(), table.len(), shown);
            return Err(failure.note("nothing was sent; correct the file, or add --skip-malformed"));
        }
        if source.units.is_empty() {
            return Err(Failure::usage(format!("{}: no rows to replay", args.file.display())));
        }
        if args.arm_column.is_some() && source.arms.len() < 2 {
            return Err(Failure::usage("the arm column has fewer than two arms"));
        }
        Ok(source)
    }

    fn take(
        &mut self,
        row: &Row,
        args: &ReplayArgs,
        mapping: &BTreeMap<String, String>,
        places: &mut BTreeMap<String, usize>,
    ) -> Result<(), String> {
        let key = row.text(&args.unit_column)?.ok_or_else(|| format!("{} is empty", args.unit_column))?;
        let time = match &args.time_column {
            Some(column) => row.moment(column)?,
            None => None,
        };
        let mut events = Vec::with_capacity(self.outcomes.len());
        for (place, outcome) in self.outcomes.iter().enumerate() {
            // An empty cell is no event, not a zero.
            let Some(text) = row.text(&outcome.column)? else { continue };
            let value =
                rows::number(&text).or_else(|| rows::truth(&text).map(|truth| f64::from(u8::from(truth))));
            let value = value.ok_or_else(|| {
                format!("{} '{text}' is neither a number nor true or false", outcome.column)
            })?;
            events.push((place, value, time));
        }
        let arm = match &args.arm_column {
            Some(column) => {
                let value = row.text(column)?.ok_or_else(|| format!("{column} is empty"))?;
                self.arm(&value, mapping)?
            }
            None => 0,
        };
        match places.get(&key).and_then(|place| self.units.get_mut(*place)) {
            Some(unit) if unit.arm != arm => Err(format!("unit {key} is in another arm than before")),
            Some(unit) => {
                // The exposure is the unit's earliest row.
                if seconds(time.as_ref()) < seconds(unit.time.as_ref()) {
                    unit.time = time;
                }
                unit.events.extend(events);
                Ok(())
            }
            None => {
                places.insert(key.clone(), self.units.len());
                self.units.push(Unit { key, arm, time, events, receipt: String::new() });
                Ok(())
            }
        }
    }

    fn arm(&mut self, value: &str, mapping: &BTreeMap<String, String>) -> Result<usize, String> {
        let variant = match mapping.get(value) {
            Some(variant) => variant.as_str(),
            None if mapping.is_empty() => value,
            None => return Err(format!("arm '{value}' is not mapped; add --arm {value}=VARIANT")),
        };
        if let Some(place) = self.arms.iter().position(|arm| arm == variant) {
            return Ok(place);
        }
        if self.arms.len() >= MAX_ARMS {
            return Err(format!(
                "arm '{variant}' would be the {}th; an experiment has at most {MAX_ARMS}",
                MAX_ARMS + 1
            ));
        }
        self.arms.push(variant.to_owned());
        Ok(self.arms.len() - 1)
    }

    /// Puts the arms into the experiment's order, control first.
    ///
    /// # Errors
    /// When the file has an arm the experiment has not.
    pub fn match_arms(&mut self, experiment: &v1::Experiment) -> Result<(), Failure> {
        let theirs: Vec<&str> = experiment.arms.iter().map(|arm| arm.variant.as_str()).collect();
        let mut places = Vec::with_capacity(self.arms.len());
        for arm in &self.arms {
            let Some(place) = theirs.iter().position(|their| their == arm) else {
                return Err(Failure::usage(format!(
                    "the experiment has no arm '{arm}'; {}",
                    suggestion(arm, &theirs)
                ))
                .note("map the file's value with --arm VALUE=VARIANT"));
            };
            places.push(place);
        }
        for unit in &mut self.units {
            unit.arm = places.get(unit.arm).copied().unwrap_or(unit.arm);
        }
        self.arms = theirs.into_iter().map(ToOwned::to_owned).collect();
        Ok(())
    }

    /// From the first time to the last, in seconds; 0 without times.
    #[must_use]
    pub fn span_seconds(&self) -> i64 {
        let times = || self.units.iter().flat_map(|u| u.events.iter().map(|e| e.2).chain([u.time])).flatten();
        let (first, last) = (times().map(|time| time.seconds).min(), times().map(|time| time.seconds).max());
        first.zip(last).map_or(0, |(first, last)| last.saturating_sub(first))
    }

    /// Moves all times so that the latest is `now` (unix seconds).
    pub fn shift_to(&mut self, now: i64) {
        let latest = self.units.iter().flat_map(|u| u.events.iter().map(|e| e.2).chain([u.time])).flatten();
        let Some(latest) = latest.map(|time| time.seconds).max() else { return };
        let by = now.saturating_sub(latest);
        let shift = |time: &mut Option<Timestamp>| {
            if let Some(time) = time {
                time.seconds = time.seconds.saturating_add(by);
            }
        };
        for unit in &mut self.units {
            shift(&mut unit.time);
            unit.events.iter_mut().for_each(|(_, _, time)| shift(time));
        }
    }
}

fn seconds(time: Option<&Timestamp>) -> i64 {
    time.map_or(i64::MAX, |time| time.seconds)
}

/// A column whose every value reads as true or false is a proportion.
fn kind_of(table: &Table, column: &str) -> Kind {
    let mut any = false;
    for row in table.rows().iter().flatten() {
        match row.text(column) {
            Ok(Some(text)) if rows::truth(&text).is_some() => any = true,
            Ok(None) => {}
            _ => return Kind::Mean,
        }
    }
    if any { Kind::Proportion } else { Kind::Mean }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::facts::rows::Format;
    use clap::Parser;

    #[derive(Parser)]
    struct Harness {
        #[command(flatten)]
        args: ReplayArgs,
    }

    pub fn args(extra: &[&str]) -> ReplayArgs {
        let base = [
            "replay",
            "--file",
            "x.csv",
            "--experiment",
            "gate",
            "--unit-column",
            "user",
            "--outcome",
            "kept=kept",
        ];
        Harness::try_parse_from(base.iter().chain(extra)).unwrap_or_else(|error| panic!("{error}")).args
    }

    pub fn source(text: &str, extra: &[&str]) -> Result<Source, Failure> {
        let table = Table::parse(text.as_bytes(), Format::Csv, ',').unwrap();
        Source::read(&table, &args(extra))
    }

    #[test]
    fn rows_of_a_unit_belong_together() {
        let text = "user,arm,kept,spent\nu1,a,TRUE,1.5\nu2,b,FALSE,\nu1,a,FALSE,2\n";
        let source = source(text, &["--arm-column", "arm", "--outcome", "spent=spent"]).unwrap();
        assert_eq!(source.arms, ["a", "b"]);
        assert_eq!(
            source.outcomes.iter().map(|o| o.kind).collect::<Vec<_>>(),
            [Kind::Proportion, Kind::Mean]
        );
        assert_eq!(source.units.len(), 2);
        assert_eq!(source.units[0].events.len(), 4);
        assert_eq!(source.units[1].events.len(), 1);
    }

    #[test]
    fn malformed_rows_are_reported_with_their_lines() {
        let text = "user,arm,kept\nu1,a,TRUE\n,b,TRUE\nu3,b,perhaps\nu4,,TRUE\nu1,b,TRUE\nu5,b,no\n";
        let failure = source(text, &["--arm-column", "arm"]).unwrap_err();
        let shown = failure.render();
        for part in [
            "4 of 6 rows",
            "line 3: user is empty",
            "line 4: kept 'perhaps'",
            "line 5: arm is empty",
            "line 6: unit u1 is in another arm",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        let kept = source(text, &["--arm-column", "arm", "--skip-malformed"]).unwrap();
        assert_eq!((kept.units.len(), kept.faults.len()), (2, 4));
    }

    #[test]
    fn arms_are_mapped_and_put_in_the_experiments_order() {
        let text = "user,arm,kept\nu1,gate_40,1\nu2,gate_30,0\n";
        let mut read =
            source(text, &["--arm-column", "arm", "--arm", "gate_40=later", "--arm", "gate_30=control"])
                .unwrap();
        let arms = ["control", "later"].map(|v| v1::Arm { variant: v.into(), established: true }).to_vec();
        let experiment = v1::Experiment { arms, ..v1::Experiment::default() };
        read.match_arms(&experiment).unwrap();
        assert_eq!(read.arms, ["control", "later"]);
        assert_eq!(read.units.iter().map(|unit| unit.arm).collect::<Vec<_>>(), [1, 0]);
        let failure = source(text, &["--arm-column", "arm", "--arm", "gate_40=later"]).unwrap_err();
        assert!(failure.render().contains("arm 'gate_30' is not mapped"), "{}", failure.render());
        let failure = source(text, &["--arm-column", "amr"]).unwrap_err();
        assert!(failure.message.contains("did you mean 'arm'?"), "{}", failure.message);
    }

    #[test]
    fn times_move_together() {
        let text = "user,arm,kept,at\nu1,a,1,100\nu2,b,0,400\nu1,a,1,50\n";
        let mut read = source(text, &["--arm-column", "arm", "--time-column", "at"]).unwrap();
        let span = read.span_seconds();
        read.shift_to(1_000);
        assert_eq!(read.span_seconds(), span);
        let times: Vec<_> = read.units.iter().map(|unit| unit.time.unwrap().seconds).collect();
        assert_eq!(times, [650, 1_000]);
    }
}
