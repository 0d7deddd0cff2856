//! A unit's values of an experiment's covariates, as the log takes them: whole numbers at each covariate's decimal scale. What is
//! there and is no number, or none that can be kept, is as if it were absent, and counted.

use std::sync::atomic::{AtomicU64, Ordering};

use featureops_proto::log::CovariateFact;
use prost_types::{Value, value::Kind};

use crate::fixed_point::scaled;

/// A covariate as exposures see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CovariateEntry {
    /// The context attribute.
    pub attribute: Box<str>,
    /// Decimal places kept.
    pub decimal_scale: u32,
}

/// The values of the covariates, in their order; none of an experiment without any. `unusable` counts what is there and cannot
/// be kept.
#[must_use]
pub fn of<'v>(
    covariates: &[CovariateEntry],
    look: impl Fn(&str) -> Option<&'v Value>,
    unusable: &AtomicU64,
) -> Vec<CovariateFact> {
    let fact = |covariate: &CovariateEntry| {
        let value = match look(&covariate.attribute).and_then(|value| value.kind.as_ref()) {
            // Null is how a client says that there is none.
            None | Some(Kind::NullValue(_)) => None,
            Some(Kind::NumberValue(number)) => Some(scaled(*number, covariate.decimal_scale).ok()),
            Some(_) => Some(None),
        };
        if value == Some(None) {
            unusable.fetch_add(1, Ordering::Relaxed);
        }
        CovariateFact { value: value.flatten() }
    };
    covariates.iter().map(fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_missing_and_counted_and_zero_is_a_number() {
        let covariates = [CovariateEntry { attribute: "before".into(), decimal_scale: 2 }];
        let unusable = AtomicU64::new(0);
        let null = Value { kind: Some(Kind::NullValue(0)) };
        for (value, expected, counted) in [
            (Some(Value::from(2.675)), Some(268), 0),
            (Some(Value::from(0.0)), Some(0), 0),
            (Some(Value::from(-0.004)), Some(0), 0),
            (Some(Value::from(-7.5)), Some(-750), 0),
            (None, None, 0),
            (Some(null), None, 0),
            (Some(Value::from(f64::NAN)), None, 1),
            (Some(Value::from(f64::INFINITY)), None, 2),
            (Some(Value::from(1e300)), None, 3),
            (Some(Value::from("12")), None, 4),
            (Some(Value::from(true)), None, 5),
        ] {
            let facts = of(&covariates, |_| value.as_ref(), &unusable);
            assert_eq!(facts, [CovariateFact { value: expected }], "{value:?}");
            assert_eq!(unusable.load(Ordering::Relaxed), counted);
        }
        assert!(of(&[], |_| None, &unusable).is_empty());
    }
}
