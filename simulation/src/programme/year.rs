//! A team's year: experiments one after another on each of its places, hour by hour, through the real fold and the real minds.
//!
//! ```text
//!   hour: units arrive ── arms by the allocation in force ──> exposures, outcomes ──> fold
//!         tick ── frozen ──> mind ── decision ──> fold (bounds, fences, invariants) ──> reply ──> mind
//!         people: approve a promotion a day after it is proposed; look at a trip, and end the experiment
//! ```

use std::collections::BTreeMap;

use featureops::owners::{frozen_view, replay};
use featureops_decision::chance::Chance;
use featureops_decision::owner::{Action, Config, Event, Owner};
use featureops_proto::log::resolve_decision::Resolution;
use featureops_proto::log::{self, Batch, ExposureFact, OutcomeFact, assign_owners, entry};
use featureops_proto::v1::decision::{Action as Kind, Status};
use featureops_proto::v1::experiment::Policy;
use featureops_proto::{ErrorCode, v1};

use super::fold::{Fault, Fold};
use super::score::{Score, Trip};
use super::truth::{Truth, unit};
use crate::dice::Dice;

const HOUR_MS: i64 = 3_600_000;
const ENVIRONMENT: &str = "shop";
/// Buckets of an allocation.
const BUCKETS: u64 = 10_000;
/// Decimal places of a metric, by default.
const SCALE: f64 = 1e6;
/// Hours until somebody looks at what waits for a person.
const PERSON: u32 = 24;
/// Owners decide more than once an hour only after a refusal.
const STEPS_MAX: usize = 4;

/// How large a programme is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Days of the year.
    pub days: u32,
    /// Experiments at once, of a team.
    pub places: u32,
    /// Days of one experiment.
    pub length: u32,
}

/// One experiment that runs.
struct Running {
    truth: Truth,
    id: String,
    number: u32,
    /// Numbers of the primary metric and of the errors.
    metrics: (u32, u32),
    mind: Owner,
    chance: Chance,
    began: u32,
    /// Units that met the regression.
    harmed: u64,
    /// Hour of the first harm.
    first_harm: Option<u32>,
    /// A promotion that waits: its name, and since when.
    waits: Option<(String, u32)>,
    promoted: bool,
    /// Sum over units of their arm's lift, by arm, and their number: what its data say on average.
    lifts: Vec<(f64, u64)>,
}

/// A team.
pub struct Team {
    fold: Fold,
    size: Size,
    dice: Dice,
    /// How many were begun.
    begun: u32,
    units: u64,
    /// What came of it.
    pub score: Score,
}

fn variant(arm: usize) -> String {
    if arm == 0 { "control".to_owned() } else { format!("arm-{arm}") }
}

fn resource(collection: &str, id: &str) -> String {
    format!("environments/{ENVIRONMENT}/{collection}/{id}")
}

fn missing(what: &str) -> Fault {
    Fault(format!("{what} is not in the state"))
}

impl Team {
    /// The team `number` of a programme, before its first day.
    pub fn new(seed: u64, number: u32, size: Size) -> Result<Self, Fault> {
        Ok(Self {
            fold: Fold::new(ENVIRONMENT)?,
            size,
            dice: Dice::new(seed, &format!("team {number}")),
            begun: 0,
            units: 0,
            score: Score::default(),
        })
    }

    /// The whole year.
    pub fn run(mut self) -> Result<Score, Fault> {
        let mut running: Vec<Running> = Vec::new();
        for hour in 0..self.size.days.saturating_mul(24) {
            while running.len() < self.size.places as usize {
                running.push(self.begin(hour)?);
            }
            for experiment in &mut running {
                self.arrive(experiment, hour)?;
            }
            let frozen = self.fold.tick(HOUR_MS)?;
            let mut over = Vec::new();
            for (at, experiment) in running.iter_mut().enumerate() {
                if frozen.contains(&experiment.number) {
                    self.look(experiment, hour)?;
                }
                if self.oversee(experiment, hour)? {
                    over.push(at);
                }
            }
            for at in over.into_iter().rev() {
                let ended = running.swap_remove(at);
                self.end(&ended)?;
            }
        }
        self.fold.state.check().map_err(|violation| Fault(violation.to_string()))?;
        self.score.checks += 1;
        self.score.entries = self.fold.state.position();
        Ok(self.score)
    }

    /// Flag, metrics, experiment, owner.
    fn begin(&mut self, hour: u32) -> Result<Running, Fault> {
        self.begun += 1;
        let id = format!("e{}", self.begun);
        let truth = Truth::draw(&mut self.dice, self.size.length.saturating_mul(24));
        let arms: Vec<String> = (0..truth.lifts.len()).map(variant).collect();
        let variants: BTreeMap<_, _> = arms.iter().map(|arm| (arm.clone(), arm.as_str().into())).collect();
        self.fold.person(entry::Command::SetFlag(log::SetFlag {
            flag: Some(v1::Flag {
                name: resource("flags", &id),
                r#type: v1::ValueType::String.into(),
                variants,
                default_variant: arms.first().cloned(),
                safe_variant: arms.first().cloned(),
                ..v1::Flag::default()
            }),
            etag: String::new(),
        }))?;
        let (primary, errors) = (format!("{id}-value"), format!("{id}-errors"));
        for (metric, kind, direction) in [
            (&primary, truth.kind, v1::metric::Direction::HigherIsBetter),
            (&errors, v1::metric::Kind::Proportion, v1::metric::Direction::LowerIsBetter),
        ] {
            self.fold.person(entry::Command::SetMetric(log::SetMetric {
                metric: Some(v1::Metric {
                    name: resource("metrics", metric),
                    kind: kind.into(),
                    direction: direction.into(),
                    ..v1::Metric::default()
                }),
                etag: String::new(),
            }))?;
        }
        let name = resource("experiments", &id);
        let step = |basis_points, hours: i64| v1::RampStep {
            basis_points,
            hold_seconds: hours * 3_600,
            minimum_units: 200,
            approval: false,
        };
        let ramp = truth.policy == Policy::Ramp;
        // A share of new arms that a person grants; a ramp's steps name their own.
        let cap = if ramp { 10_000 } else { 8_000 };
        self.fold.person(entry::Command::CreateExperiment(log::CreateExperiment {
            experiment: Some(v1::Experiment {
                name: name.clone(),
                flag: id.clone(),
                arms: arms
                    .iter()
                    .enumerate()
                    .map(|(at, arm)| v1::Arm { variant: arm.clone(), established: at == 0 || !truth.is_new })
                    .collect(),
                primary_metric: primary.clone(),
                guardrails: vec![v1::Guardrail { metric: errors.clone(), ..v1::Guardrail::default() }],
                policy: truth.policy.into(),
                new_arm_cap_basis_points: Some(cap),
                control_floor_basis_points: 500,
                ramp_steps: if ramp {
                    vec![step(100, 24), step(500, 24), step(2_000, 48), step(5_000, 0)]
                } else {
                    Vec::new()
                },
                ..v1::Experiment::default()
            }),
        }))?;
        self.fold.person(entry::Command::StartExperiment(log::StartExperiment {
            name,
            autonomy: v1::AutonomyLevel::A4Bounded.into(),
            etag: String::new(),
        }))?;
        let number =
            self.fold.state.experiment(ENVIRONMENT, &id).ok_or_else(|| missing("the experiment"))?.number;
        let assignments = vec![assign_owners::Assignment { experiment: number, node: 1, from_epoch: None }];
        self.fold.person(entry::Command::AssignOwners(log::AssignOwners { assignments }))?;
        let metric = |key: &str| {
            self.fold
                .state
                .metric(ENVIRONMENT, key)
                .map(|metric| metric.number)
                .ok_or_else(|| missing("a metric"))
        };
        let metrics = (metric(&primary)?, metric(&errors)?);
        let of_policy = self.score.of(truth.policy);
        of_policy.experiments += 1;
        of_policy.without_effect += u64::from(truth.lifts.iter().all(|lift| *lift == 0.0));
        Ok(Running {
            lifts: vec![(0.0, 0); truth.lifts.len()],
            chance: Chance::from_seed(self.dice.bits()),
            mind: Owner::new(Config::default()),
            truth,
            id,
            number,
            metrics,
            began: hour,
            harmed: 0,
            first_harm: None,
            waits: None,
            promoted: false,
        })
    }

    /// An hour's units: each new, each by the allocation in force.
    fn arrive(&mut self, experiment: &mut Running, hour: u32) -> Result<(), Fault> {
        let held = self
            .fold
            .state
            .experiment(ENVIRONMENT, &experiment.id)
            .ok_or_else(|| missing("the experiment"))?;
        let runs = held.allocation.map(|allocation| allocation.runs).unwrap_or_default();
        let age = hour.saturating_sub(experiment.began);
        let truth = &experiment.truth;
        let wanted = truth.arrivals(hour);
        let count = wanted as u64 + u64::from(unit(&mut self.dice) < wanted.fract());
        let season = truth.season(hour);
        let best = truth.best(age);
        let even =
            (0..truth.lifts.len()).map(|arm| truth.lift(arm, age)).sum::<f64>() / truth.lifts.len() as f64;
        let (mut exposures, mut outcomes) = (Vec::new(), Vec::new());
        let (mut regret, mut of_even) = (0.0, 0.0);
        for index in (0u32..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
            self.units += 1;
            let unit_hash = crate::dice::mix(self.units.wrapping_mul(crate::dice::STEP));
            let arm = arm_of(&runs, self.dice.between(0, BUCKETS - 1));
            let at = arm as usize;
            let lift = truth.lift(at, age);
            regret += best - lift;
            of_even += best - even;
            if let Some((sum, units)) = experiment.lifts.get_mut(at) {
                *sum += lift;
                *units += 1;
            }
            if truth.regression.is_some_and(|regression| regression.arm == at && age >= regression.from) {
                experiment.harmed += 1;
                experiment.first_harm.get_or_insert(age);
            }
            exposures.push(ExposureFact {
                index,
                experiment: experiment.number,
                arm,
                unit_hash,
                ..ExposureFact::default()
            });
            let value = truth.value(season * (1.0 + lift), &mut self.dice);
            let erred = unit(&mut self.dice) < truth.errors_of(at, age);
            for (metric, value) in
                [(experiment.metrics.0, value), (experiment.metrics.1, f64::from(u8::from(erred)))]
            {
                if value > 0.0 {
                    let index = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
                    outcomes.push(OutcomeFact {
                        index,
                        metric,
                        unit_hash,
                        value: (value * SCALE) as i64,
                        ..OutcomeFact::default()
                    });
                }
            }
        }
        let of_policy = self.score.of(experiment.truth.policy);
        of_policy.units += count;
        of_policy.regret += regret;
        of_policy.regret_of_even += of_even;
        // Outcomes of a unit that was not exposed before do not count: exposures are sent first.
        self.score.facts += self.fold.facts(Batch { exposures, ..Batch::default() })?;
        self.score.facts += self.fold.facts(Batch { outcomes, ..Batch::default() })?;
        Ok(())
    }

    /// The owner looks at a frozen position, until it has nothing more to say.
    fn look(&mut self, experiment: &mut Running, hour: u32) -> Result<(), Fault> {
        for _ in 0..STEPS_MAX {
            let state = &self.fold.state;
            let Some(view) = state.owner_view(experiment.number) else { return Ok(()) };
            let (Some(definition), Some(flag)) =
                (state.experiment_by_number(experiment.number), state.flag(&view.environment, &view.flag))
            else {
                return Ok(());
            };
            let decisions = state.flag_decisions(&view.environment, &view.flag);
            let frozen = frozen_view(view, &definition, &flag, decisions);
            let now_ms = self.fold.now_ms();
            let actions =
                experiment.mind.step(Event::Frozen(Box::new(frozen)), now_ms, &mut experiment.chance);
            let submitted = actions.into_iter().find_map(|action| match action {
                Action::Submit { stamp, decision } => Some((stamp, decision)),
                Action::Note(_) => None,
            });
            let Some((stamp, decision)) = submitted else { return Ok(()) };
            let refusal = self.fold.owner(stamp, (*decision).clone())?;
            self.score.decisions += 1;
            let accepted = match &refusal {
                None => Ok(()),
                Some(refusal) => Err(ErrorCode::parse(&refusal.code).unwrap_or(ErrorCode::WrongState)),
            };
            let is_accepted = accepted.is_ok();
            self.score.refused += u64::from(!is_accepted);
            experiment.mind.step(
                Event::Replied { sequence: stamp.sequence, accepted },
                now_ms,
                &mut experiment.chance,
            );
            if is_accepted {
                self.accepted(experiment, hour)?;
            }
            if !is_accepted || decision.status() != Status::Applied {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What the log holds of the decision that was just accepted.
    fn accepted(&mut self, experiment: &mut Running, hour: u32) -> Result<(), Fault> {
        let held = self.fold.state.flag_decisions(ENVIRONMENT, &experiment.id).next().cloned();
        let held = held.ok_or_else(|| missing("the decision"))?;
        let age = hour.saturating_sub(experiment.began);
        // Each recomputes from what it holds, to the bit.
        if !replay(held.clone()).same {
            return Err(Fault(format!("{} does not replay", held.name)));
        }
        self.score.replayed += 1;
        let arm = (0..experiment.truth.lifts.len()).find(|arm| variant(*arm) == held.variant);
        match held.action() {
            Kind::Promote => {
                experiment.waits = Some((held.name, hour));
                let arm = arm.ok_or_else(|| missing("the promoted arm"))?;
                self.judge_promotion(experiment, arm, age);
            }
            Kind::Trip => {
                let trip = match experiment.truth.regression {
                    Some(regression) if Some(regression.arm) == arm && age >= regression.from => {
                        let since = experiment.first_harm.map_or(0, |first| age.saturating_sub(first));
                        Trip::Right { hours: since, units: experiment.harmed }
                    }
                    _ => Trip::False,
                };
                self.score.of(experiment.truth.policy).trip(trip);
            }
            _ => self.score.of(experiment.truth.policy).reallocations += 1,
        }
        Ok(())
    }

    /// Whether the arm is what it is proposed as: better than control over its own data, and still. A ramp promises less, that the
    /// arm does no harm.
    fn judge_promotion(&mut self, experiment: &Running, arm: usize, age: u32) {
        let truth = &experiment.truth;
        let average =
            |arm: usize| experiment.lifts.get(arm).map_or(0.0, |(sum, units)| sum / (*units).max(1) as f64);
        let of_policy = self.score.of(truth.policy);
        of_policy.promotions += 1;
        if truth.policy == Policy::Ramp {
            of_policy.false_winners += u64::from(truth.errors_of(arm, age) > truth.errors);
        } else if average(arm) <= 0.0 {
            of_policy.false_winners += 1;
        } else if truth.lift(arm, age) <= 0.0 {
            of_policy.overtaken += 1;
        } else if truth.lift(arm, age) < truth.best(age) {
            of_policy.second_best += 1;
        }
    }

    /// People. Whether the experiment is over.
    fn oversee(&mut self, experiment: &mut Running, hour: u32) -> Result<bool, Fault> {
        let held = self
            .fold
            .state
            .experiment(ENVIRONMENT, &experiment.id)
            .ok_or_else(|| missing("the experiment"))?;
        let is_tripped = held.state() == v1::experiment::State::Tripped;
        if is_tripped {
            // Invariant H3 at its root: the flag is held at its safe variant.
            let flag =
                self.fold.state.flag(ENVIRONMENT, &experiment.id).ok_or_else(|| missing("the flag"))?;
            if flag.trip.is_none() {
                return Err(Fault(format!("{} is tripped and its flag is not", experiment.id)));
            }
            return Ok(true);
        }
        let weights = held.allocation.map(|allocation| allocation.weights_basis_points).unwrap_or_default();
        if weights.iter().sum::<u32>() != 10_000 || weights.first().is_none_or(|control| *control < 500) {
            return Err(Fault(format!("{}: weights {weights:?}", experiment.id)));
        }
        self.score.checks += 1;
        let is_due = |waits: &Option<(String, u32)>| {
            waits.as_ref().is_some_and(|(_, since)| hour.saturating_sub(*since) >= PERSON)
        };
        if is_due(&experiment.waits)
            && let Some((name, _)) = experiment.waits.take()
        {
            let refusal = self.fold.asked(entry::Command::ResolveDecision(log::ResolveDecision {
                name,
                resolution: Resolution::Approve.into(),
                note: String::new(),
            }))?;
            let of_policy = self.score.of(experiment.truth.policy);
            match refusal {
                None => {
                    of_policy.approved += 1;
                    experiment.promoted = true;
                }
                Some(_) => of_policy.lapsed += 1,
            }
        }
        let age = hour.saturating_sub(experiment.began);
        Ok(experiment.promoted || age >= self.size.length.saturating_mul(24))
    }

    fn end(&mut self, experiment: &Running) -> Result<(), Fault> {
        let is_tripped = self
            .fold
            .state
            .experiment(ENVIRONMENT, &experiment.id)
            .is_some_and(|held| held.state() == v1::experiment::State::Tripped);
        let of_policy = self.score.of(experiment.truth.policy);
        if let Some(regression) = experiment.truth.regression
            && experiment.harmed > 0
        {
            of_policy.regression(regression.factor, experiment.harmed, is_tripped);
        }
        let ended = self.fold.state.experiment(ENVIRONMENT, &experiment.id);
        if ended.is_some_and(|held| held.state() != v1::experiment::State::Stopped) {
            self.fold.person(entry::Command::StopExperiment(log::StopExperiment {
                name: resource("experiments", &experiment.id),
                serve: None,
                etag: String::new(),
            }))?;
        }
        Ok(())
    }
}

/// The arm of a bucket.
fn arm_of(runs: &[v1::Run], bucket: u64) -> u32 {
    let mut until = 0u64;
    for run in runs {
        until = until.saturating_add(u64::from(run.length));
        if bucket < until {
            return run.arm;
        }
    }
    0
}
