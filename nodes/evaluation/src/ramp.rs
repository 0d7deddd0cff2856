//! A ramp: a share that grows evenly between two times, in whole numbers, so that every client which knows the second
//! serves the same.
//!
//! ```text
//!   weight
//!     sum ┤- - - - - - - - - - - -   10,000 * (end - start), over the divisor that all weights have in common
//!         │              ╭────────   at the end's share
//!         │          ╱
//!         │──────╯                   at the start's share
//!         └──────┴───────┴───────> second
//!              start    end
//! ```
//!
//! The growing variant has the first stretch of the hash, `[0, weight)`: it only ever grows, and the sum never changes, so a
//! unit that has it keeps it. The arithmetic is flagd's `fractional`, which bounds the sum by 2^31 − 1.

use featureops_proto::v1;
use prost_types::Timestamp;

use crate::bucket::BUCKETS;
use crate::compile::index_of;
use crate::flag::Variant;
use crate::refusal::{CompileError, Outcome, refused};

/// The largest sum of weights that `fractional` knows.
const MAX_SUM: i64 = i32::MAX as i64;
/// The first second of the year 10,000: what a timestamp can hold ends before it.
const MAX_SECOND: i64 = 253_402_300_800;

/// The weights of a ramp at any second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    start: i64,
    end: i64,
    /// Of the growing variant, at the start.
    at_start: i64,
    /// How much it grows each second.
    a_second: i64,
    /// Of both variants, at any time.
    sum: i64,
}

impl Shares {
    /// Its weights, or what is wrong: field, value and way out.
    pub(crate) fn of(ramp: &v1::Ramp) -> Outcome<Self> {
        let start = second("start_time", ramp.start_time.as_ref())?;
        let end = second("end_time", ramp.end_time.as_ref())?;
        if start >= end {
            return refused("end_time", end, format_args!("must come after start_time, {start}"));
        }
        let (from, to) = (ramp.start_basis_points, ramp.end_basis_points.unwrap_or(BUCKETS));
        if to > BUCKETS {
            return refused("end_basis_points", to, "a share is 0 to 10000 basis points");
        }
        if from >= to {
            return refused(
                "start_basis_points",
                from,
                format_args!(
                    "must be below end_basis_points, {to}: `variant` is the one that grows; to shrink it, name it in \
                     `otherwise`"
                ),
            );
        }
        let (from, to, all) = (i64::from(from), i64::from(to), i64::from(BUCKETS));
        // Below 2^38 seconds and 2^14 basis points, so no product overflows.
        let span = end - start;
        let divisor = divisor(divisor(from * span, to - from), all * span);
        let sum = all * span / divisor;
        if sum > MAX_SUM {
            let longest = MAX_SUM / (sum / span).max(1);
            return refused(
                "end_time",
                end,
                format_args!(
                    "clients compute weights up to {MAX_SUM}, these would sum to {sum}: take a span of at most {longest} \
                     seconds, or rounder shares (0 to 10000 can last 68 years, whole percents 248 days)"
                ),
            );
        }
        Ok(Self { start, end, at_start: from * span / divisor, a_second: (to - from) / divisor, sum })
    }

    pub(crate) const fn start(&self) -> i64 {
        self.start
    }

    pub(crate) const fn end(&self) -> i64 {
        self.end
    }

    pub(crate) const fn at_start(&self) -> i64 {
        self.at_start
    }

    pub(crate) const fn a_second(&self) -> i64 {
        self.a_second
    }

    pub(crate) const fn sum(&self) -> i64 {
        self.sum
    }

    /// The growing variant's weight at a second.
    const fn weight(&self, second: i64) -> i64 {
        let at = if second < self.start {
            self.start
        } else if second > self.end {
            self.end
        } else {
            second
        };
        self.at_start + (at - self.start) * self.a_second
    }

    /// Whether a unit's hash is in the growing part at a second.
    const fn grown_to(&self, hash: u32, second: i64) -> bool {
        // Sum and weight lie within 0 and 2^31 − 1.
        ((hash as u64 * self.sum as u64) >> 32) < self.weight(second) as u64
    }
}

/// A ramp, resolved.
#[derive(Debug)]
pub(crate) struct Ramp {
    shares: Shares,
    grows: u16,
    /// `None`: the flag has no default.
    shrinks: Option<u16>,
}

impl Ramp {
    pub(crate) fn compile(
        given: &v1::Ramp,
        variants: &[Variant],
        default: Option<u16>,
        rule: usize,
    ) -> Outcome<Self> {
        let path = |field: &str| format!("rules[{rule}].ramp.{field}");
        let grows = index_of(variants, &given.variant, || path("variant"))?;
        let shrinks = if given.otherwise.is_empty() {
            default
        } else {
            Some(index_of(variants, &given.otherwise, || path("otherwise"))?)
        };
        if shrinks == Some(grows) {
            return refused(
                path("otherwise"),
                &given.otherwise,
                "a ramp leads from one variant to another; this is the one that grows (empty means the flag's default)",
            );
        }
        let shares = Shares::of(given).map_err(|error| CompileError { path: path(&error.path), ..error })?;
        Ok(Self { shares, grows, shrinks })
    }

    /// What a unit's hash is served at a second.
    pub(crate) const fn serves(&self, hash: u32, second: i64) -> Option<u16> {
        if self.shares.grown_to(hash, second) { Some(self.grows) } else { self.shrinks }
    }

    pub(crate) fn describe(&self, second: i64) -> String {
        let Shares { start, end, sum, .. } = self.shares;
        let weight = self.shares.weight(second);
        let phase = match second {
            _ if second < start => "not begun",
            _ if second >= end => "over",
            _ => "under way",
        };
        let share = weight as f64 * 100.0 / sum as f64;
        format!("{phase} at {second}: {share:.2} % have the growing variant, {weight} of {sum}")
    }
}

fn second(field: &str, time: Option<&Timestamp>) -> Outcome<i64> {
    match time {
        Some(time) if time.nanos == 0 && (0..MAX_SECOND).contains(&time.seconds) => Ok(time.seconds),
        Some(time) if time.nanos != 0 => {
            refused(field, time, "a ramp's times are whole seconds, as clients know no finer time")
        }
        Some(time) => refused(field, time.seconds, "a ramp's times lie between 1970 and 9999"),
        None => refused(field, "", "a ramp has a start_time and an end_time"),
    }
}

/// Euclid's; of zero and a number, the number.
const fn divisor(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
