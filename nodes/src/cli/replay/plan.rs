//! What is sent, in which order: as the file has it, or shuffled and partly repeated to prove that neither matters.

use featureops_decision::chance::Chance;
use featureops_proto::v1;

use super::source::{Kind, Source};

/// Events to send; all exposures go before all outcomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub exposures: Vec<v1::Exposure>,
    pub outcomes: Vec<v1::Outcome>,
}

impl Plan {
    #[must_use]
    pub fn new(source: &Source, experiment: &str, shuffle: Option<u64>, repeat: f64) -> Self {
        let mut chance = Chance::from_seed(shuffle.unwrap_or(0x5eed));
        let mut plan = Self { exposures: Vec::new(), outcomes: Vec::new() };
        let mut again = Self { exposures: Vec::new(), outcomes: Vec::new() };
        for unit in &source.units {
            let repeated = repeat > 0.0 && chance.unit() < repeat;
            let exposure = v1::Exposure {
                experiment: experiment.rsplit('/').next().unwrap_or(experiment).to_owned(),
                unit: unit.key.clone(),
                variant: source.arms.get(unit.arm).cloned().unwrap_or_default(),
                event_time: unit.time,
                receipt: unit.receipt.clone(),
                ..v1::Exposure::default()
            };
            if repeated {
                again.exposures.push(exposure.clone());
            }
            plan.exposures.push(exposure);
            for (place, value, time) in &unit.events {
                let Some(outcome) = source.outcomes.get(*place) else { continue };
                let event = v1::Outcome {
                    metric: outcome.metric.clone(),
                    unit: unit.key.clone(),
                    value: Some(*value),
                    event_time: *time,
                    receipt: unit.receipt.clone(),
                    ..v1::Outcome::default()
                };
                // A success is one however often it is told; a purchase told twice is two.
                if repeated && outcome.kind == Kind::Proportion {
                    again.outcomes.push(event.clone());
                }
                plan.outcomes.push(event);
            }
        }
        plan.exposures.append(&mut again.exposures);
        plan.outcomes.append(&mut again.outcomes);
        if shuffle.is_some() {
            shuffle_by(&mut chance, &mut plan.exposures);
            shuffle_by(&mut chance, &mut plan.outcomes);
        }
        plan
    }
}

/// Fisher and Yates.
fn shuffle_by<T>(chance: &mut Chance, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        // The bias of a remainder is below 2^-40 at any length held in memory.
        let pick = (chance.bits() % (last as u64 + 1)) as usize;
        items.swap(last, pick);
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::source;
    use super::*;

    const TEXT: &str = "user,arm,kept,spent\nu1,a,TRUE,1.5\nu2,b,FALSE,2\nu3,a,1,\n";
    const ARGS: [&str; 4] = ["--arm-column", "arm", "--outcome", "spent=spent"];

    #[test]
    fn everything_is_sent_once_in_order() {
        let plan = Plan::new(&source(TEXT, &ARGS).unwrap(), "gate", None, 0.0);
        assert_eq!(plan.exposures.iter().map(|e| e.unit.as_str()).collect::<Vec<_>>(), ["u1", "u2", "u3"]);
        assert_eq!(plan.outcomes.len(), 5);
    }

    #[test]
    fn repeats_add_exposures_and_successes_but_never_values() {
        let plan = Plan::new(&source(TEXT, &ARGS).unwrap(), "gate", None, 1.0);
        assert_eq!(plan.exposures.len(), 6);
        assert_eq!(plan.outcomes.iter().filter(|o| o.metric == "kept").count(), 6);
        assert_eq!(plan.outcomes.iter().filter(|o| o.metric == "spent").count(), 2);
    }

    #[test]
    fn a_seed_is_an_order_and_loses_nothing() {
        let source = source(TEXT, &ARGS).unwrap();
        let (one, same, other) = (
            Plan::new(&source, "gate", Some(1), 0.5),
            Plan::new(&source, "gate", Some(1), 0.5),
            Plan::new(&source, "gate", Some(3), 0.0),
        );
        assert_eq!(one, same);
        let mut units: Vec<_> = other.exposures.iter().map(|e| e.unit.clone()).collect();
        units.sort();
        assert_eq!(units, ["u1", "u2", "u3"]);
    }
}
