//! Metrics: what a reader gets.

use featureops_proto::log::MetricRecord;
use featureops_proto::v1::Metric;
use featureops_proto::{Collection, Name};

use crate::State;
use crate::flags::above;
use crate::state::key;

/// Attribution window when none is stated.
pub const DEFAULT_WINDOW_SECONDS: i64 = 7 * 86_400;
/// Decimal places when none are stated.
pub const DEFAULT_SCALE: u32 = 6;
/// 2^53: beyond it doubles are not whole numbers one by one.
const MAX_CAP: f64 = 9_007_199_254_740_992.0;
/// Late limit when none is stated, and the longest.
pub const MAX_LATE_SECONDS: i64 = 72 * 3_600;

impl State {
    /// A metric with its output fields.
    #[must_use]
    pub fn metric(&self, environment: &str, metric: &str) -> Option<Metric> {
        self.metrics.get(&key(environment, metric)).map(|record| message(record))
    }

    /// Metrics of an environment whose id is above `after`, by id.
    #[must_use]
    pub fn metrics(&self, environment: &str, after: &str, limit: usize) -> Vec<Metric> {
        above(&self.metrics, environment, after).take(limit).map(|record| message(record)).collect()
    }

    /// A metric by its number.
    pub(crate) fn metric_by_number(&self, number: u32) -> Option<&MetricRecord> {
        self.metrics.get(self.metric_keys.get(&number)?).map(AsRef::as_ref)
    }
}

fn message(record: &MetricRecord) -> Metric {
    let mut metric = record.definition.clone().unwrap_or_default();
    metric.name = Name::format(&record.environment, Collection::Metrics, &record.metric);
    metric.number = record.number;
    metric.etag = format!("m{}", record.version);
    metric
}

/// In whole minutes.
pub fn window_minutes(metric: &Metric) -> u32 {
    let seconds = if metric.attribution_window_seconds == 0 {
        DEFAULT_WINDOW_SECONDS
    } else {
        metric.attribution_window_seconds
    };
    u32::try_from(seconds / 60).unwrap_or(u32::MAX)
}

/// In milliseconds.
pub fn late_limit_ms(metric: &Metric) -> i64 {
    let seconds = if metric.late_limit_seconds == 0 { MAX_LATE_SECONDS } else { metric.late_limit_seconds };
    seconds.saturating_mul(1_000)
}

/// The most that a unit's value may be, at the metric's scale; `None`: no cap, or one that cannot be kept. The only floats of the
/// fold: powers of ten below 2^53, one product and one rounding are exact or correctly rounded by IEEE 754, so their bits are
/// equal on every processor.
pub fn cap(metric: &Metric) -> Option<i64> {
    let places = (0..scale(metric)).fold(1.0, |one, _| one * 10.0);
    let scaled = (metric.cap? * places).round_ties_even();
    (1.0..=MAX_CAP).contains(&scaled).then_some(scaled as i64)
}

/// Decimal places of its values; counts and proportions have none.
pub fn scale(metric: &Metric) -> u32 {
    use featureops_proto::v1::metric::Kind;
    match metric.kind() {
        Kind::Proportion | Kind::Count => 0,
        Kind::Mean | Kind::Ratio | Kind::Unspecified => metric.decimal_scale.unwrap_or(DEFAULT_SCALE),
    }
}
