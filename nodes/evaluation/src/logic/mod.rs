//! Targeting: flagd's dialect of JsonLogic, compiled when the flag is, then evaluated in a budget.
//!
//! ```text
//!   text --parse--> tree of operators (+ issues with their paths) --evaluate(context, now)--> the name of a variant
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `parse`, `node` | JSON to a tree: names, paths, constants and shared rules resolved; what cannot work is an issue |
//! | `evaluate`, `lists` | the walk: scope, logic, comparison, arithmetic; the operators that make texts and lists |
//! | `value` | values, JavaScript's conversions, the bounded arena |
//! | `fractional`, `cbor`, `semver` | flagd's own operators |
//!
//! Comparing, logic, `var`, `in`, prefixes, versions and `fractional` ask for no memory; the other operators use an arena
//! whose first part lies on the stack. Where the engines of the field disagree, this is what holds here: lists and objects
//! equal nothing and are no numbers; an empty object is not true; `var` takes its default also for null; the items of
//! `map` and its kin see themselves only; `cat` keeps white space; `<` and its kin read null as 0.

mod cbor;
mod evaluate;
mod fractional;
mod lists;
mod node;
mod parse;
mod semver;
mod value;

use featureops_proto::v1::EvaluationError;
use prost_types::{ListValue, Struct, Value, value::Kind};

pub(crate) use self::fractional::Generation;
pub(crate) use self::parse::Target;

use self::evaluate::{Machine, Scope, describe};
use self::lists::{Named, name_of};
use self::node::{KEPT, Node};
use self::value::{Arena, Stop, Val};
use crate::context::Context;
use crate::explain::{Trace, step};
use crate::limits;
use crate::murmur::Murmur3;
use crate::refusal::{CompileError, Outcome};

/// A rule, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Program {
    root: Node,
    generation: Generation,
}

/// Compiles a rule. `None`: the text is `{}` or null, which is no rule. The issues are what cannot work, with its path.
///
/// # Errors
/// When the text is no JSON, or nests deeper than any rule.
pub(crate) fn compile(text: &str, target: Target<'_>) -> Outcome<(Option<Program>, Vec<CompileError>)> {
    let (root, issues) = parse::parse(text, target)?;
    Ok((root.map(|root| Program { root, generation: target.generation }), issues))
}

/// What a rule says.
pub(crate) enum Decision {
    /// Null: the allocation, else the default.
    Nothing,
    Variant(u16),
    Error(EvaluationError),
}

/// Of which flag, and when.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) flag_key: &'a str,
    /// The hash state after the flag's key, by the program's generation.
    pub(crate) seed: Murmur3,
    pub(crate) now_ms: i64,
}

impl Program {
    /// Evaluates the rule; `find` finds a variant by its name.
    pub(crate) fn decide<'a>(
        &'a self,
        context: &'a Context<'a>,
        asked: Asked<'a>,
        find: impl FnOnce(&str) -> Option<u16>,
        trace: &mut impl Trace,
    ) -> Decision {
        let mut arena = Arena::default();
        let mut machine = self.machine(context, asked, &mut arena, trace);
        let value = match machine.eval(&self.root, Scope::Context) {
            Ok(value) => value,
            Err(stop) => {
                machine.trace.step(|| step("targeting", stop.describe(), false));
                return Decision::Error(EvaluationError::ParseError);
            }
        };
        let found = match name_of(machine.arena, value) {
            Named::Nothing => {
                machine.trace.step(|| step("targeting", "null: it leaves the choice open", false));
                return Decision::Nothing;
            }
            Named::Text(name) => find(name),
            Named::Number(printed) => find(printed.as_str()),
            Named::Other => None,
        };
        let arena = &*machine.arena;
        machine.trace.step(|| {
            let finding = describe(arena, value);
            match found {
                Some(_) => step("targeting", finding, true),
                None => step("targeting", format!("{finding} is no variant of this flag"), false),
            }
        });
        found.map_or(Decision::Error(EvaluationError::General), Decision::Variant)
    }

    #[inline(always)]
    fn machine<'a, 't, T: Trace>(
        &self,
        context: &'a Context<'a>,
        asked: Asked<'a>,
        arena: &'t mut Arena<'a>,
        trace: &'t mut T,
    ) -> Machine<'a, 't, T> {
        Machine {
            context,
            flag_key: asked.flag_key,
            generation: self.generation,
            seed: asked.seed,
            now_seconds: asked.now_ms.div_euclid(1_000),
            steps: limits::MAX_TARGETING_STEPS,
            kept: [Val::Null; KEPT],
            looked_up: 0,
            arena,
            trace,
        }
    }
}

impl Stop {
    const fn describe(self) -> &'static str {
        match self {
            Self::UnknownOperator => "an operator or a shared rule that does not exist was reached",
            Self::OverBudget => "the budget for one evaluation is spent",
        }
    }
}

/// A rule's result as JSON has it, for tools and tests that ask for more than a variant.
///
/// # Errors
/// PARSE_ERROR, when the rule cannot be compiled or evaluated.
pub fn apply(
    rule: &str,
    environment: &featureops_proto::v1::Environment,
    flag_key: &str,
    context: &Context<'_>,
    now_ms: i64,
) -> Result<Value, EvaluationError> {
    let generation = Generation::of(environment.fractional());
    let target = Target { evaluators: &environment.evaluators, generation, is_variant: &|_| true };
    let (program, _) = compile(rule, target).map_err(|_| EvaluationError::ParseError)?;
    let Some(program) = program else { return Ok(Value { kind: None }) };
    let asked = Asked { flag_key, seed: generation.seed(flag_key), now_ms };
    let mut trace = crate::explain::Untraced;
    let mut arena = Arena::default();
    let mut machine = program.machine(context, asked, &mut arena, &mut trace);
    let value = machine.eval(&program.root, Scope::Context).map_err(|_| EvaluationError::ParseError)?;
    Ok(owned(machine.arena, value))
}

fn owned<'a>(arena: &Arena<'a>, value: Val<'a>) -> Value {
    let kind = match value {
        Val::Null | Val::Root | Val::Flagd | Val::Reduction(_) => Kind::NullValue(0),
        Val::Bool(value) => Kind::BoolValue(value),
        Val::Number(number) => Kind::NumberValue(number),
        Val::Text(_) | Val::MadeText(_) => {
            Kind::StringValue(arena.text(value).unwrap_or_default().to_owned())
        }
        Val::Object(object) => Kind::StructValue(Struct { fields: object.fields.clone() }),
        Val::List(values) => Kind::ListValue(ListValue { values: values.to_vec() }),
        Val::MadeList(_) => {
            let items = (0..Arena::len(value)).filter_map(|nth| arena.item(value, nth));
            // A list holds only what was made before it, so this ends.
            Kind::ListValue(ListValue { values: items.map(|item| owned(arena, item)).collect() })
        }
    };
    Value { kind: Some(kind) }
}
