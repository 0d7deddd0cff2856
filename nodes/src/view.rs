//! One request's view: what is published, and now. Every protocol's evaluation looks through it, so that a receipt and an
//! exposure are the same thing in all of them.

use featureops_evaluation::{Context, Evaluation, Receipt, minute};
use prost_types::Struct;

use crate::covariates;
use crate::dimensions;
use crate::door::unix_minute;
use crate::exposures::{Exposed, Told};
use crate::host::Host;
use crate::publisher::Published;

/// The view of one environment.
pub struct View<'a> {
    host: &'a Host,
    published: &'a Published,
    environment: &'a str,
    now_ms: i64,
    /// The time that exposures and receipts are stamped with: never ahead of the log's, by which outcomes without a time
    /// are stamped. Else, for half a second around each minute, an outcome would seem to come before its exposure.
    stamp_ms: i64,
}

impl<'a> View<'a> {
    /// A view of an environment, named by its id or as `environments/{id}`.
    pub fn new(host: &'a Host, published: &'a Published, environment: &'a str) -> Self {
        let environment = environment.strip_prefix("environments/").unwrap_or(environment);
        let (now_ms, log_time_ms) = (host.clock.unix_ms(), published.snapshot.log_time_ms());
        let stamp_ms = if log_time_ms > 0 { now_ms.min(log_time_ms) } else { now_ms };
        Self { host, published, environment, now_ms, stamp_ms }
    }

    /// The same view of another environment.
    #[must_use]
    pub const fn of(&self, environment: &'a str) -> Self {
        Self { environment, ..*self }
    }

    /// What the node's services share.
    #[must_use]
    pub const fn host(&self) -> &'a Host {
        self.host
    }

    /// The environment's id.
    #[must_use]
    pub const fn environment(&self) -> &'a str {
        self.environment
    }

    /// The time that evaluations see.
    #[must_use]
    pub const fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// How old the state is that answers rest on.
    #[must_use]
    pub fn state_age_ms(&self) -> i64 {
        self.published.snapshot.age_ms(self.now_ms)
    }

    /// The caller's context, with its receipt if that verifies. One that does not is as if it had not been sent. The unit key
    /// goes with it: lists of segments ask for it.
    #[must_use]
    pub fn context<'c>(&self, attributes: &'c Struct) -> Context<'c>
    where
        'a: 'c,
    {
        let mut context = Context::new(attributes);
        if let Some(key) = self.host.unit_key.get() {
            context = context.with_unit_key(key);
        }
        if let Some(text) = context.receipt_text() {
            let _ = context.open_receipt(text.as_bytes(), &self.published.receipt_keys);
        }
        context
    }

    /// The receipt of an experiment's arm.
    #[must_use]
    pub fn receipt(&self, context: &Context<'_>, evaluation: &Evaluation<'_>) -> Option<String> {
        let assignment = evaluation.assignment?;
        let (unit, key) = (context.unit()?, self.published.receipt_keys.first()?);
        // One that was honoured goes back as it came: its minute is that of the first exposure.
        let receipt = match context.receipt() {
            Some(held) if assignment.from_receipt => *held.fields(),
            _ => Receipt {
                experiment: assignment.experiment,
                arm: u8::try_from(assignment.arm).ok()?,
                generation: assignment.generation,
                minute: minute::of_unix_ms(self.stamp_ms),
                propensity_basis_points: assignment.propensity_basis_points,
                position: self.published.snapshot.position(),
            },
        };
        receipt.seal(key, unit.as_bytes()).map(|sealed| sealed.to_string())
    }

    /// Tells the log that the unit was shown the arm.
    pub fn expose(&self, context: &Context<'_>, evaluation: &Evaluation<'_>) {
        let (Some(assignment), Some(unit), Some(key)) =
            (evaluation.assignment, context.unit(), self.host.unit_key.get())
        else {
            return;
        };
        let exposed = Exposed {
            experiment: assignment.experiment,
            generation: assignment.generation,
            arm: assignment.arm,
            unit_hash: key.hash(unit.as_bytes()),
        };
        let values = || {
            let experiment = self.published.registry.experiment_by_number(assignment.experiment);
            let names = experiment.map(|experiment| &*experiment.dimensions).unwrap_or_default();
            let numbers = experiment.map(|experiment| &*experiment.covariates).unwrap_or_default();
            let unusable = &self.host.observation.covariates_unusable;
            Told {
                dimensions: dimensions::of(names, |name| context.attribute(name)),
                covariates: covariates::of(numbers, |name| context.attribute(name), unusable),
            }
        };
        self.host.exposures.imply(self.environment, exposed, unix_minute(self.stamp_ms), values);
    }

    /// Whether the experiment wants exposures of bulk evaluations too.
    #[must_use]
    pub fn bulk_exposes(&self, evaluation: &Evaluation<'_>) -> bool {
        evaluation
            .assignment
            .and_then(|assignment| self.published.registry.experiment_by_number(assignment.experiment))
            .is_some_and(|experiment| experiment.bulk_exposes)
    }
}
