//! The evaluation: one pass from the flag to an answer.
//!
//! ```text
//!   unknown, archived -> FLAG_NOT_FOUND        (does not compile -> GENERAL)
//!   tripped           -> safe variant          over everything below, for everybody
//!   state too old     -> safe variant
//!   disabled          -> no value
//!   forced            -> the unit's own variant, which is no assignment
//!   prerequisites     -> one that does not hold: the default variant, or no value
//!   rules, in order   -> the first whose conditions all hold: its variant, or its split or ramp by bucket
//!   or targeting      -> the variant it names; null leaves the choice open, what cannot be evaluated is an error
//!   allocation        -> (a unit of more than 1,024 bytes: no arm) the arm of the receipt while its generation lives, else
//!                        (outside the experiment's slots of its layer, or held out: no arm) the bucket's arm
//!   default           -> the default variant, or no value
//! ```
//!
//! A rule that matched has decided: when its split finds no unit, the answer is the default, not the next rule. This
//! is what the exported rule does in an in-process client.
//!
//! "No value" tells the caller to use its code default. The walk is written once and told to a [`Trace`]; evaluation
//! passes one that hears nothing, so what [`crate::explain`] shows is what was done.

use featureops_proto::v1::{self, EvaluationError, Reason, ValueType};
use prost_types::Value;

use crate::bucket::{spread, target_of};
use crate::condition::Condition;
use crate::context::{Context, Path, Seen};
use crate::explain::{Trace, Untraced, step};
use crate::flag::{Allocation, CompiledFlag, Rule, Serve, State, find};
use crate::limits::MAX_UNIT_BYTES;
use crate::logic::{Asked, Decision};
use crate::prerequisite::{self, hold};
use crate::ramp::Ramp;
use crate::segment::{Asking, Members, NobodyAsks};
use crate::snapshot::Snapshot;

/// The answer. It borrows from the snapshot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation<'s> {
    /// Absent: the caller's code default.
    pub variant: Option<&'s str>,
    /// Absent exactly when the variant is.
    pub value: Option<&'s Value>,
    /// Why this variant.
    pub reason: Reason,
    /// Set exactly when the reason is `Error`.
    pub error: Option<EvaluationError>,
    /// The version the answer rests on; 0 for an unknown flag.
    pub flag_version: u64,
    /// The unit's bucket, when it was hashed.
    pub bucket: Option<u16>,
    /// Present when an experiment's allocation chose the variant: what an exposure and a receipt are made of.
    pub assignment: Option<Assignment>,
}

/// A unit's arm in a running experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The experiment's number in the cluster.
    pub experiment: u32,
    /// The arm's index.
    pub arm: u16,
    /// The living generation.
    pub generation: u32,
    /// The allocation in force now.
    pub allocation_version: u32,
    /// The arm's share of traffic when the unit was assigned: now, or as the receipt recorded it.
    pub propensity_basis_points: u32,
    /// A receipt chose the arm, not the bucket.
    pub from_receipt: bool,
}

/// Evaluates a flag for a context at a time. Total: it cannot fail, wait, allocate, read a clock or draw a number.
#[must_use]
pub fn evaluate<'s>(
    snapshot: &'s Snapshot,
    environment: &str,
    flag: &str,
    context: &Context<'_>,
    now_ms: i64,
) -> Evaluation<'s> {
    match snapshot.get(environment, flag) {
        Some(flag) => evaluate_flag(snapshot, flag, context, now_ms),
        None => Evaluation::error(EvaluationError::FlagNotFound, 0),
    }
}

/// The same for a flag of the snapshot that is at hand.
#[must_use]
pub fn evaluate_flag<'s>(
    snapshot: &'s Snapshot,
    flag: &'s CompiledFlag,
    context: &Context<'_>,
    now_ms: i64,
) -> Evaluation<'s> {
    walk(flag, context, Now::of(snapshot, now_ms), &mut Untraced)
}

/// Evaluates every flag of an environment that is not archived, sorted by key. As total as [`evaluate`].
pub fn evaluate_all<'s>(
    snapshot: &'s Snapshot,
    environment: &str,
    context: &Context<'_>,
    now_ms: i64,
) -> impl Iterator<Item = (&'s CompiledFlag, Evaluation<'s>)> {
    let now = Now::of(snapshot, now_ms);
    snapshot.flags(environment).map(move |flag| (flag, walk(flag, context, now, &mut Untraced)))
}

impl Evaluation<'_> {
    /// The same answer, or TYPE_MISMATCH when it has a value of another type. `Unspecified` expects nothing.
    ///
    /// A mismatch serves nothing, so it carries no assignment: it is no exposure.
    #[must_use]
    pub fn expecting(self, expected: ValueType) -> Self {
        let Some(value) = self.value else { return self };
        if expected == ValueType::Unspecified || expected == type_of(value) {
            return self;
        }
        Self::error(EvaluationError::TypeMismatch, self.flag_version)
    }

    pub(crate) const fn error(error: EvaluationError, flag_version: u64) -> Self {
        Self { error: Some(error), ..Self::nothing(Reason::Error, flag_version) }
    }

    const fn nothing(reason: Reason, flag_version: u64) -> Self {
        Self { variant: None, value: None, reason, error: None, flag_version, bucket: None, assignment: None }
    }
}

/// A variant's type. Null and lists are no flag's type.
pub(crate) fn type_of(value: &Value) -> ValueType {
    use prost_types::value::Kind;
    match value.kind {
        Some(Kind::BoolValue(_)) => ValueType::Boolean,
        Some(Kind::StringValue(_)) => ValueType::String,
        Some(Kind::NumberValue(_)) => ValueType::Number,
        Some(Kind::StructValue(_)) => ValueType::Object,
        Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => ValueType::Unspecified,
    }
}

/// The present: all flags, the caller's clock, and the age of the state by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now<'s> {
    pub(crate) snapshot: &'s Snapshot,
    ms: i64,
    age_ms: i64,
}

impl<'s> Now<'s> {
    pub(crate) fn of(snapshot: &'s Snapshot, now_ms: i64) -> Self {
        Self { snapshot, ms: now_ms, age_ms: snapshot.age_ms(now_ms) }
    }
}

pub(crate) fn walk<'s>(
    flag: &'s CompiledFlag,
    context: &Context<'_>,
    now: Now<'s>,
    trace: &mut impl Trace,
) -> Evaluation<'s> {
    match before_prerequisites(flag, context, now, trace) {
        Some(evaluation) => evaluation,
        None if flag.prerequisites.is_empty() || hold(flag, context, now, trace) => {
            after_prerequisites(flag, context, now, trace)
        }
        None => serve_default(flag, trace),
    }
}

/// What stands over prerequisites: the flag's state, the state's age, and forced units.
pub(crate) fn before_prerequisites<'s>(
    flag: &'s CompiledFlag,
    context: &Context<'_>,
    now: Now<'s>,
    trace: &mut impl Trace,
) -> Option<Evaluation<'s>> {
    match flag.state {
        State::Unusable => {
            trace.step(|| step("flag", "its definition does not compile", false));
            return Some(Evaluation::error(EvaluationError::General, flag.flag_version));
        }
        State::Archived => {
            trace.step(|| step("flag", "archived: as if it did not exist", false));
            return Some(Evaluation::error(EvaluationError::FlagNotFound, flag.flag_version));
        }
        State::Tripped => {
            trace.step(|| step("trip", "tripped: everybody is served the safe variant", true));
            return Some(serve(flag, flag.safe, Reason::Tripped, trace));
        }
        State::Disabled | State::Serving => {}
    }
    if let Some(limit_ms) = flag.stale_after_ms {
        let age_ms = now.age_ms;
        let stale = age_ms > limit_ms;
        trace.step(|| step("age", format!("state is {age_ms} ms old, limit {limit_ms} ms"), stale));
        if stale {
            return Some(serve(flag, flag.safe, Reason::Stale, trace));
        }
    }
    if flag.state == State::Disabled {
        trace.step(|| step("flag", "disabled: the code default is used", true));
        return Some(Evaluation::nothing(Reason::Disabled, flag.flag_version));
    }
    if flag.forced.is_empty() {
        return None;
    }
    let variant = prerequisite::forced_for(flag, context.unit()?)?;
    trace.step(|| step("forced", "this unit is forced to a variant", true));
    Some(serve(flag, Some(variant), Reason::TargetingMatch, trace))
}

/// Rules or targeting, the allocation, the default.
pub(crate) fn after_prerequisites<'s>(
    flag: &'s CompiledFlag,
    context: &Context<'_>,
    now: Now<'s>,
    trace: &mut impl Trace,
) -> Evaluation<'s> {
    let matching = if flag.asks_segments {
        matching_asking(flag, context, now.snapshot, trace)
    } else {
        matching(flag, context, &mut NobodyAsks, trace)
    };
    match matching {
        Matching::Rule(rule) => {
            return match &rule.serve {
                Serve::Variant(variant) => serve(flag, Some(*variant), Reason::TargetingMatch, trace),
                Serve::Split { stretches, sticky } => match find_bucket(flag, context, trace) {
                    Some(bucket) => {
                        if *sticky {
                            let finding =
                                || format!("sticky: its map of {} stretches is kept", stretches.len());
                            trace.step(|| step("split", finding(), true));
                        }
                        Evaluation {
                            bucket: Some(bucket),
                            ..serve(flag, target_of(stretches, bucket), Reason::Split, trace)
                        }
                    }
                    None => serve_default(flag, trace),
                },
                Serve::Ramp(ramp) => serve_ramp(flag, ramp, context, now, trace),
            };
        }
        Matching::None => {}
        Matching::Miscounted => return Evaluation::error(EvaluationError::General, flag.flag_version),
    }
    if let Some(targeting) = &flag.targeting {
        let asked = Asked { flag_key: &flag.key, seed: flag.seed, now_ms: now.ms };
        match targeting.decide(context, asked, |name| find(&flag.variants, name), trace) {
            Decision::Variant(variant) => return serve(flag, Some(variant), Reason::TargetingMatch, trace),
            Decision::Error(error) => return Evaluation::error(error, flag.flag_version),
            Decision::Nothing => {}
        }
    }
    if let Some(allocation) = flag.allocation.as_ref().filter(|_| counts(context, trace)) {
        if let Some(evaluation) = honour_receipt(flag, allocation, context, trace) {
            return evaluation;
        }
        if admits(allocation, context, trace)
            && let Some(bucket) = find_bucket(flag, context, trace)
            && let Some(arm) = target_of(&allocation.stretches, bucket)
        {
            return Evaluation { bucket: Some(bucket), ..serve_arm(flag, allocation, arm, None, trace) };
        }
    }
    serve_default(flag, trace)
}

/// The first attributes that rules ask about are looked up once, however often they are asked about.
pub(crate) const KEPT: usize = 8;

/// The first rule whose conditions all hold.
enum Matching<'s> {
    Rule(&'s Rule),
    None,
    /// The counts do not sum to the conditions: no rule may seem to have none.
    Miscounted,
}

#[inline(always)]
fn matching<'s>(
    flag: &'s CompiledFlag,
    context: &Context<'_>,
    members: &mut impl Members,
    trace: &mut impl Trace,
) -> Matching<'s> {
    let mut conditions = flag.conditions.as_ref();
    let mut kept = [None; KEPT];
    for rule in &flag.rules {
        let Some((own, rest)) = conditions.split_at_checked(rule.conditions) else {
            return Matching::Miscounted;
        };
        conditions = rest;
        let holds = all_hold(&flag.attributes, own, context, &mut kept, members, trace);
        trace.step(|| {
            step(format!("rule {}", rule.id), if holds { "matches" } else { "does not match" }, holds)
        });
        if holds {
            return Matching::Rule(rule);
        }
    }
    Matching::None
}

/// Out of the way of flags that ask about no segment: what was found lies on the stack.
#[inline(never)]
fn matching_asking<'s>(
    flag: &'s CompiledFlag,
    context: &Context<'_>,
    snapshot: &Snapshot,
    trace: &mut impl Trace,
) -> Matching<'s> {
    matching(flag, context, &mut Asking::new(snapshot, &flag.environment, context), trace)
}

pub(crate) fn all_hold<'c>(
    attributes: &[Path],
    conditions: &[Condition],
    context: &Context<'c>,
    kept: &mut [Option<Seen<'c>>; KEPT],
    members: &mut impl Members,
    trace: &mut impl Trace,
) -> bool {
    for condition in conditions {
        if let Some(holds) = members.ask(&condition.test, trace) {
            if !holds {
                return false;
            }
            continue;
        }
        let attribute = attributes.get(condition.attribute as usize);
        let look_up = || attribute.map_or(Seen::Missing, |path| context.look_up(path));
        let seen = match kept.get_mut(condition.attribute as usize) {
            Some(kept) => *kept.get_or_insert_with(look_up),
            None => look_up(),
        };
        let holds = condition.test.holds(&seen);
        trace.step(|| {
            let verdict = if holds { "holds" } else { "does not hold" };
            let finding = format!("{} {verdict} for {}", condition.test.operator(), seen.describe());
            step(format!("condition {}", attribute.map_or("", |path| &path.text)), finding, holds)
        });
        if !holds {
            return false;
        }
    }
    true
}

/// Its own function, so that the loop over rules stays small.
#[inline(never)]
fn serve_ramp<'s>(
    flag: &'s CompiledFlag,
    ramp: &Ramp,
    context: &Context<'_>,
    now: Now<'s>,
    trace: &mut impl Trace,
) -> Evaluation<'s> {
    // As `$flagd.timestamp`, by which clients that evaluate by themselves follow the ramp.
    let at = now.ms.div_euclid(1_000);
    trace.step(|| step("ramp", ramp.describe(at), true));
    let Some(hash) = find_hash(flag, context, trace) else { return serve_default(flag, trace) };
    let bucket = Some(spread(hash));
    match ramp.serves(hash, at) {
        Some(variant) => Evaluation { bucket, ..serve(flag, Some(variant), Reason::Split, trace) },
        None => Evaluation { bucket, ..serve_default(flag, trace) },
    }
}

fn find_bucket(flag: &CompiledFlag, context: &Context<'_>, trace: &mut impl Trace) -> Option<u16> {
    find_hash(flag, context, trace).map(spread)
}

/// The hash of the unit under the flag's key, told as the bucket it falls into.
fn find_hash(flag: &CompiledFlag, context: &Context<'_>, trace: &mut impl Trace) -> Option<u32> {
    let hash = context.unit().map(|unit| flag.generation.hash_of_unit(flag.seed, unit));
    trace.step(|| match hash {
        Some(hash) => step("bucket", format!("{} of 10,000", spread(hash)), true),
        None => step("bucket", "the context has no targetingKey, so there is no unit to assign", false),
    });
    hash
}

/// Whether a fact could name the unit. One that none can is in no experiment: an arm without a denominator would be shown.
fn counts(context: &Context<'_>, trace: &mut impl Trace) -> bool {
    let counts = context.unit().is_none_or(|unit| unit.len() <= MAX_UNIT_BYTES);
    if !counts {
        trace.step(|| {
            let finding = format!("the targetingKey has more than {MAX_UNIT_BYTES} bytes: no fact can name it, so it gets no arm");
            step("allocation", finding, false)
        });
    }
    counts
}

/// Whether layer and holdouts leave the unit to the experiment. No unit is for the bucket to say.
fn admits(allocation: &Allocation, context: &Context<'_>, trace: &mut impl Trace) -> bool {
    match (&allocation.placement, context.unit()) {
        (Some(placement), Some(unit)) => placement.admits(unit, trace),
        _ => true,
    }
}

/// The receipt's arm, when it is of this experiment and its generation lives.
fn honour_receipt<'s>(
    flag: &'s CompiledFlag,
    allocation: &Allocation,
    context: &Context<'_>,
    trace: &mut impl Trace,
) -> Option<Evaluation<'s>> {
    let receipt = context.receipt()?.fields();
    let arm = u16::from(receipt.arm);
    let honoured = receipt.experiment == allocation.experiment
        && receipt.generation == allocation.generation
        && usize::from(arm) < allocation.arms.len();
    trace.step(|| {
        let finding = if honoured {
            "of the living generation: its arm is kept"
        } else {
            "of another experiment or generation: not used"
        };
        step("receipt", finding, honoured)
    });
    honoured.then(|| serve_arm(flag, allocation, arm, Some(receipt.propensity_basis_points), trace))
}

/// Serves an arm. `recorded` is the propensity in the receipt that chose it.
fn serve_arm<'s>(
    flag: &'s CompiledFlag,
    allocation: &Allocation,
    arm: u16,
    recorded: Option<u32>,
    trace: &mut impl Trace,
) -> Evaluation<'s> {
    let Some(served) = allocation.arms.get(usize::from(arm)) else { return serve_default(flag, trace) };
    let propensity_basis_points = recorded.unwrap_or(served.weight_basis_points);
    trace.step(|| {
        let finding = format!(
            "arm {arm} at {propensity_basis_points} of 10,000, experiment {}, generation {}, allocation {}",
            allocation.experiment, allocation.generation, allocation.allocation_version
        );
        step("allocation", finding, true)
    });
    Evaluation {
        assignment: Some(Assignment {
            experiment: allocation.experiment,
            arm,
            generation: allocation.generation,
            allocation_version: allocation.allocation_version,
            propensity_basis_points,
            from_receipt: recorded.is_some(),
        }),
        ..serve(flag, Some(served.variant), Reason::Split, trace)
    }
}

pub(crate) fn serve_default<'s>(flag: &'s CompiledFlag, trace: &mut impl Trace) -> Evaluation<'s> {
    trace.step(|| {
        let finding =
            if flag.default.is_some() { "the default variant" } else { "none: the code default is used" };
        step("default", finding, true)
    });
    // Clients cache STATIC until they hear of a change, so it must be the same for everybody and at any time.
    let reason = if flag.default.is_some() && flag.is_static() { Reason::Static } else { Reason::Default };
    serve(flag, flag.default, reason, trace)
}

fn serve<'s>(
    flag: &'s CompiledFlag,
    variant: Option<u16>,
    reason: Reason,
    trace: &mut impl Trace,
) -> Evaluation<'s> {
    let nothing = Evaluation::nothing(reason, flag.flag_version);
    match variant.and_then(|index| flag.variants.get(usize::from(index))) {
        Some(variant) => {
            trace.step(|| step("variant", variant.name.as_ref(), true));
            Evaluation { variant: Some(&variant.name), value: Some(&variant.value), ..nothing }
        }
        None => nothing,
    }
}

impl From<&Evaluation<'_>> for v1::EvaluateResponse {
    /// Everything but the flag's key, the receipt, the error's message and the state's age, which are the caller's to add.
    fn from(evaluation: &Evaluation<'_>) -> Self {
        Self {
            value: evaluation.value.cloned(),
            variant: evaluation.variant.map(str::to_owned),
            reason: evaluation.reason.into(),
            flag_version: evaluation.flag_version,
            error: evaluation.error.unwrap_or_default().into(),
            propensity_basis_points: evaluation
                .assignment
                .map(|assignment| assignment.propensity_basis_points),
            ..Self::default()
        }
    }
}
