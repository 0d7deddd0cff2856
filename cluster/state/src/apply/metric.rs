//! Metrics: defined once, and fixed in what they mean while an experiment counts them.

use std::sync::Arc;

use featureops_proto::log::{MetricRecord, Refusal, SetMetric};
use featureops_proto::v1::Metric;
use featureops_proto::v1::metric::{Direction, Kind, LateRule};
use featureops_proto::{Collection, ErrorCode};

use super::{Outcome, done, refuse};
use crate::State;
use crate::effect::Effect;
use crate::flags::{check_etag, parse};
use crate::metrics::{MAX_LATE_SECONDS, cap};
use crate::state::{Key, MAX_METRICS, key};

const MAX_WINDOW_SECONDS: i64 = 30 * 86_400;
const MIN_SECONDS: i64 = 60;
const MAX_SCALE: u32 = 9;
const MAX_TEXT_BYTES: usize = 4_096;

impl State {
    pub(super) fn set_metric(
        &mut self,
        c: &SetMetric,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let Some(metric) = &c.metric else {
            return refuse(ErrorCode::InvalidArgument, "metric", "", "missing");
        };
        let id = parse(&metric.name, Collection::Metrics)?;
        self.check_metric(&id, metric)?;
        let definition = Metric { etag: String::new(), number: 0, ..metric.clone() };
        let (number, version) = match self.metrics.get(&id) {
            Some(record) => {
                check_etag(&c.etag, &format!("m{}", record.version))?;
                self.check_meaning(record, &definition)?;
                (record.number, record.version + 1)
            }
            None if self.metrics.len() >= MAX_METRICS => {
                return refuse(
                    ErrorCode::LimitReached,
                    "metric",
                    &metric.name,
                    format!("{MAX_METRICS} metrics are kept"),
                );
            }
            None => (self.metric_keys.len() as u32 + 1, 1),
        };
        let (environment, name) = id.clone();
        let record =
            MetricRecord { environment, metric: name, definition: Some(definition), number, version };
        self.metrics.insert(id.clone(), Arc::new(record));
        self.metric_keys.insert(number, id.clone());
        effects.push(Effect::MetricChanged { environment: id.0, metric: id.1 });
        Ok(done(&metric.name, version, format!("m{version}")).into())
    }

    fn check_metric(&self, id: &Key, metric: &Metric) -> Result<(), Refusal> {
        let bad = |field: &str, value: String, message: &str| {
            refuse(ErrorCode::InvalidArgument, field, value, message)
        };
        if metric.kind() == Kind::Unspecified {
            return bad("metric.kind", metric.kind.to_string(), "PROPORTION, MEAN, RATIO or COUNT");
        }
        if metric.direction() == Direction::Unspecified {
            return bad(
                "metric.direction",
                metric.direction.to_string(),
                "HIGHER_IS_BETTER or LOWER_IS_BETTER",
            );
        }
        if LateRule::try_from(metric.late_rule).is_err() {
            return bad(
                "metric.late_rule",
                metric.late_rule.to_string(),
                "COUNT_UNTIL_LIMIT or COUNT_UNTIL_END; leave it out for the first",
            );
        }
        if let Some(scale) = metric.decimal_scale.filter(|scale| *scale > MAX_SCALE) {
            return bad("metric.decimal_scale", scale.to_string(), "0 to 9");
        }
        let window = metric.attribution_window_seconds;
        if window != 0 && !(MIN_SECONDS..=MAX_WINDOW_SECONDS).contains(&window) {
            return bad(
                "metric.attribution_window_seconds",
                window.to_string(),
                "60 to 2592000 (30 days), 0 for 7 days",
            );
        }
        let late = metric.late_limit_seconds;
        if late != 0 && !(MIN_SECONDS..=MAX_LATE_SECONDS).contains(&late) {
            return bad(
                "metric.late_limit_seconds",
                late.to_string(),
                "60 to 259200 (72 hours), 0 for 72 hours",
            );
        }
        if let Some(given) = metric.cap {
            if !matches!(metric.kind(), Kind::Mean | Kind::Count) {
                return bad("metric.cap", given.to_string(), "only a MEAN or a COUNT has a cap");
            }
            if cap(metric).is_none() {
                let message =
                    "above 0 at the metric's decimal places, and |cap x 10^decimal_scale| at most 2^53";
                return bad("metric.cap", given.to_string(), message);
            }
            let is_half = |other: &Metric| other.numerator == id.1 || other.denominator == id.1;
            let ratio = self
                .metrics
                .iter()
                .find(|(other, record)| other.0 == id.0 && record.definition.as_ref().is_some_and(is_half));
            if let Some(((_, ratio), _)) = ratio {
                let message =
                    format!("it is a part of the RATIO {ratio}: cap another metric of the same events");
                return bad("metric.cap", given.to_string(), &message);
            }
        }
        if metric.description.len() + metric.unit.len() > MAX_TEXT_BYTES {
            return bad("metric.description", String::new(), "at most 4096 bytes with unit");
        }
        if metric.kind() != Kind::Ratio {
            if !metric.numerator.is_empty() || !metric.denominator.is_empty() {
                return bad("metric.numerator", metric.numerator.clone(), "only a RATIO has parts");
            }
            return Ok(());
        }
        for (field, part) in
            [("metric.numerator", &metric.numerator), ("metric.denominator", &metric.denominator)]
        {
            let known = self.metrics.get(&key(&id.0, part)).and_then(|m| m.definition.as_ref());
            if !known.is_some_and(|m| matches!(m.kind(), Kind::Mean | Kind::Count)) {
                return bad(
                    field,
                    part.clone(),
                    "must be the key of a MEAN or COUNT metric of this environment",
                );
            }
            if known.is_some_and(|m| m.cap.is_some()) {
                return bad(field, part.clone(), "has a cap: a part of a RATIO has none; define one without");
            }
        }
        if metric.numerator == metric.denominator {
            return bad("metric.denominator", metric.denominator.clone(), "must differ from the numerator");
        }
        Ok(())
    }

    fn check_meaning(&self, record: &MetricRecord, next: &Metric) -> Result<(), Refusal> {
        let Some(now) = &record.definition else { return Ok(()) };
        // A draft has taken over what the metric means; an ended experiment counts until its windows close.
        let used = self.experiments.values().any(|e| {
            e.environment == record.environment
                && (e.end_ms == 0
                    || self
                        .routes
                        .get(&record.number)
                        .into_iter()
                        .flatten()
                        .any(|r| r.experiment == e.number))
                && (e.slots.iter().any(|slot| slot.metric == record.number)
                    || e.metrics.iter().any(|m| m.metric == record.metric))
        });
        let same = now.kind == next.kind
            && now.direction == next.direction
            && now.decimal_scale == next.decimal_scale
            && now.attribution_window_seconds == next.attribution_window_seconds
            && now.late_rule == next.late_rule
            && cap(now) == cap(next)
            && now.numerator == next.numerator
            && now.denominator == next.denominator;
        if used && !same {
            let message = "an experiment counts it: kind, direction, scale, cap, window, late rule and parts are fixed; define another metric";
            return refuse(ErrorCode::WrongState, "metric", &next.name, message);
        }
        Ok(())
    }
}
