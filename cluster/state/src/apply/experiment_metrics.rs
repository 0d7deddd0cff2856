//! An experiment's metrics: which slots of the ledger they have, and how each is read.

use featureops_proto::ErrorCode;
use featureops_proto::log::{Refusal, SlotRecord};
use featureops_proto::v1::metric::{Direction, Kind};
use featureops_proto::v1::{Experiment, MetricInput, Role};

use super::refuse;
use crate::State;
use crate::ledger::{MAX_PRODUCTS, NO_CAP, Shape};
use crate::metrics::{cap, scale};
use crate::state::{Key, key};

impl State {
    pub(super) fn kind_of(&self, metric: u32) -> Kind {
        self.metric_by_number(metric)
            .and_then(|m| m.definition.as_ref())
            .map_or(Kind::Unspecified, |m| m.kind())
    }

    /// The cap of a metric at its scale.
    fn cap_of(&self, metric: u32) -> Option<i64> {
        self.metric_by_number(metric).and_then(|m| m.definition.as_ref()).and_then(cap)
    }

    /// Of the metrics' slots: covariates are in the definition.
    pub(super) fn slot_records(&self, shape: &Shape) -> Vec<SlotRecord> {
        let metrics = shape.slots.iter().take(shape.slots.len() - shape.covariates);
        metrics
            .map(|(metric, _)| SlotRecord {
                metric: *metric,
                kind: self.kind_of(*metric) as i32,
                cap: self.cap_of(*metric).unwrap_or(0),
            })
            .collect()
    }

    /// Slots and metric inputs in the order primary, guardrails, secondary; covariates' slots behind all of them.
    pub(super) fn shape(&self, id: &Key, given: &Experiment) -> Result<(Shape, Vec<MetricInput>), Refusal> {
        let mut shape = Shape { arms: given.arms.len(), ..Shape::default() };
        let mut inputs: Vec<MetricInput> = Vec::new();
        let primary = std::iter::once((&given.primary_metric, Role::Primary, 0, 0));
        let guardrails = given.guardrails.iter().map(|g| {
            let limit = if g.limit_basis_points == 0 { 500 } else { g.limit_basis_points };
            let minimum = if g.minimum_units == 0 { 1_000 } else { g.minimum_units };
            (&g.metric, Role::Guardrail, limit, minimum)
        });
        let secondary = given.secondary_metrics.iter().map(|metric| (metric, Role::Secondary, 0, 0));
        for (metric, role, limit_basis_points, minimum_units) in primary.chain(guardrails).chain(secondary) {
            let field = format!("experiment.{}", role_field(role));
            let Some(record) = self.metrics.get(&key(&id.0, metric)) else {
                return refuse(ErrorCode::NotFound, &field, metric, "no such metric in this environment");
            };
            let Some(definition) = &record.definition else { continue };
            let full = || {
                Refusal::new(
                    ErrorCode::LimitReached,
                    &field,
                    metric,
                    "at most 16 proportions and 16 summed metrics",
                )
            };
            if let Some(other) = inputs.iter().find(|input| input.metric == *metric) {
                let message = format!(
                    "is in the experiment as {} already: name a metric once",
                    role_field(other.role())
                );
                return refuse(ErrorCode::InvalidArgument, &field, metric, message);
            }
            let mut input = MetricInput {
                metric: metric.clone(),
                kind: definition.kind,
                lower_is_better: definition.direction() == Direction::LowerIsBetter,
                decimal_scale: scale(definition),
                role: role as i32,
                limit_basis_points,
                minimum_units,
                ..MetricInput::default()
            };
            if definition.kind() == Kind::Ratio {
                let mut part = |name: &str| {
                    let part = self.metrics.get(&key(&id.0, name))?;
                    let kind = part.definition.as_ref()?.kind();
                    Some((shape.slot(part.number, kind, NO_CAP)?, part.definition.as_ref().map_or(0, scale)))
                };
                let (numerator, a) = part(&definition.numerator).ok_or_else(full)?;
                let (denominator, b) = part(&definition.denominator).ok_or_else(full)?;
                input.slot = numerator as u32;
                input.denominator_slot = denominator as u32;
                input.pair = shape.pair(numerator, denominator) as u32;
                input.decimal_scale = a;
                input.denominator_decimal_scale = b;
            } else {
                let cap = cap(definition);
                input.capped = cap.is_some();
                let slot = shape.slot(record.number, definition.kind(), cap.unwrap_or(NO_CAP));
                input.slot = slot.ok_or_else(full)? as u32;
            }
            inputs.push(input);
        }
        for _ in &given.covariates {
            shape.covariate();
        }
        let products = shape.pair_covariates();
        if products > MAX_PRODUCTS {
            let message = format!(
                "{products} products of metrics and covariates, at most {MAX_PRODUCTS}: name fewer covariates or metrics"
            );
            return refuse(ErrorCode::LimitReached, "experiment.covariates", given.covariates.len(), message);
        }
        Ok((shape, inputs))
    }
}

fn role_field(role: Role) -> &'static str {
    match role {
        Role::Guardrail => "guardrails.metric",
        Role::Secondary => "secondary_metrics",
        Role::Primary | Role::Unspecified => "primary_metric",
    }
}
