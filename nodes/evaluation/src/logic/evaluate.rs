//! Evaluation of a compiled rule: a walk over its tree within a budget of steps.
//!
//! Every operator evaluated and every item visited is a step; long texts and objects cost by their length. When the
//! steps or the arena are spent, evaluation stops, so no rule runs away, whatever it iterates.

use featureops_proto::v1::ExplainStep;

use super::fractional::Generation;
use super::node::{Among, Arithmetic, Equality, KEPT, Key, Node, Order, Ordered, Var, index_of};
use super::semver;
use super::value::{Arena, Printed, Stop, Val};
use crate::context::{Context, Seen, TARGETING_KEY_ATTRIBUTE};
use crate::explain::{Trace, step};
use crate::murmur::Murmur3;

/// The key under which a rule finds its flag's key and the time. A caller's own is not seen.
pub(super) const FLAGD: &str = "$flagd";
const FLAG_KEY: &str = "flagKey";
const TIMESTAMP: &str = "timestamp";
const CURRENT: &str = "current";
const ACCUMULATOR: &str = "accumulator";

/// What `var` looks into.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scope<'a> {
    Context,
    Item(Val<'a>),
    Reduce { current: Val<'a>, accumulator: Val<'a> },
}

/// One evaluation under way.
pub(crate) struct Machine<'a, 't, T> {
    pub(super) context: &'a Context<'a>,
    pub(super) flag_key: &'a str,
    pub(super) generation: Generation,
    /// The hash state after the flag's key.
    pub(super) seed: Murmur3,
    pub(super) now_seconds: i64,
    /// What is left of the budget.
    pub(super) steps: u32,
    /// What attributes were found to be, by slot, and a bit for each that was looked up.
    pub(super) kept: [Val<'a>; KEPT],
    pub(super) looked_up: u8,
    pub(super) arena: &'t mut Arena<'a>,
    pub(super) trace: &'t mut T,
}

impl<'a, T: Trace> Machine<'a, '_, T> {
    pub(super) fn charge(&mut self, count: u32) -> Result<(), Stop> {
        self.steps = self.steps.checked_sub(count).ok_or(Stop::OverBudget)?;
        Ok(())
    }

    /// Reading a long text costs; a short one is part of its operator's step.
    pub(super) fn charge_text(&mut self, bytes: usize) -> Result<(), Stop> {
        if bytes < 256 { Ok(()) } else { self.charge(u32::try_from(bytes / 256).unwrap_or(u32::MAX)) }
    }

    pub(crate) fn eval(&mut self, node: &'a Node, scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        self.charge(1)?;
        Ok(match node {
            Node::Null => Val::Null,
            Node::Bool(value) => Val::Bool(*value),
            Node::Number(number) => Val::Number(*number),
            Node::Text(text) => Val::Text(text),
            Node::Data(value) => Val::of(value),
            Node::Attribute(key, slot) => self.attribute(key, *slot),
            Node::FlagKey => Val::Text(self.flag_key),
            Node::Timestamp => self.timestamp(),
            Node::If(branches) => return self.branch(branches, scope),
            Node::And(all) => return self.and_or(all, scope, false),
            Node::Or(any) => return self.and_or(any, scope, true),
            Node::Not(node) => Val::Bool(!self.holds(node, scope)?),
            Node::Truth(node) => Val::Bool(self.holds(node, scope)?),
            Node::Equal(equality) => Val::Bool(self.equal(equality, scope)?),
            Node::Order(ordered) => Val::Bool(self.order(ordered, scope)?),
            Node::Among(among) => Val::Bool(self.among(among, scope)?),
            Node::In(sides) => return self.contained(sides, scope),
            Node::StartsWith(sides) => {
                return self.part(sides, scope, "starts_with", |a, b| a.starts_with(b));
            }
            Node::EndsWith(sides) => return self.part(sides, scope, "ends_with", |a, b| a.ends_with(b)),
            Node::SemVer(sides) => return self.sem_ver(sides, scope),
            Node::Fractional(rule) => return self.fractional(rule, scope),
            Node::Whole => self.whole(scope)?,
            Node::Var(var) => return self.var(var, scope),
            Node::Look(sides) => return self.look(sides, scope),
            Node::List(nodes) => return self.list(nodes, scope),
            Node::Arithmetic(operator, nodes) => return self.arithmetic(*operator, nodes, scope),
            Node::Missing(nodes) => return self.missing(nodes, scope),
            Node::MissingSome(sides) => return self.missing_some(sides, scope),
            Node::Cat(nodes) => return self.cat(nodes, scope),
            Node::Substr(nodes) => return self.substr(nodes, scope),
            Node::Merge(nodes) => return self.merge(nodes, scope),
            Node::Each(each, sides) => return self.each(*each, sides, scope),
            Node::Reduce(sides) => return self.reduce(sides, scope),
            Node::Void(nodes) => {
                for node in nodes {
                    self.eval(node, scope)?;
                }
                Val::Null
            }
            Node::Unknown => return Err(Stop::UnknownOperator),
        })
    }

    /// An operand: what most are is found without another call.
    #[inline(always)]
    pub(super) fn operand(&mut self, node: &'a Node, scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let value = match node {
            Node::Text(text) => Val::Text(text),
            Node::Number(number) => Val::Number(*number),
            Node::Attribute(key, slot) => self.attribute(key, *slot),
            _ => return self.eval(node, scope),
        };
        self.charge(1)?;
        Ok(value)
    }

    /// Whether a condition holds: what most are is decided without making a value of it.
    fn holds(&mut self, node: &'a Node, scope: Scope<'a>) -> Result<bool, Stop> {
        match node {
            Node::Equal(equality) => {
                self.charge(1)?;
                self.equal(equality, scope)
            }
            Node::Among(among) => {
                self.charge(1)?;
                self.among(among, scope)
            }
            Node::Order(ordered) => {
                self.charge(1)?;
                self.order(ordered, scope)
            }
            Node::Not(node) => {
                self.charge(1)?;
                Ok(!self.holds(node, scope)?)
            }
            Node::And(nodes) | Node::Or(nodes) if !nodes.is_empty() => {
                self.charge(1)?;
                let deciding = matches!(node, Node::Or(_));
                for node in nodes {
                    if self.holds(node, scope)? == deciding {
                        return Ok(deciding);
                    }
                }
                Ok(!deciding)
            }
            _ => Ok(Arena::is_true(self.eval(node, scope)?)),
        }
    }

    // What is in scope.

    /// A key of the context: looked up once, then kept.
    #[inline]
    fn attribute(&mut self, key: &str, slot: u8) -> Val<'a> {
        let bit = 1u8.checked_shl(slot.into()).unwrap_or(0);
        let kept = self.kept.get(usize::from(slot)).copied();
        let value = match kept {
            Some(value) if self.looked_up & bit != 0 => value,
            _ => {
                let value = self.root(key).unwrap_or(Val::Null);
                if let Some(kept) = self.kept.get_mut(usize::from(slot)) {
                    *kept = value;
                    self.looked_up |= bit;
                }
                value
            }
        };
        self.trace.detail(|| look_step(key, self.arena, value));
        value
    }

    fn timestamp(&self) -> Val<'a> {
        Val::Number(self.now_seconds as f64)
    }

    /// A key of the context.
    fn root(&self, key: &str) -> Option<Val<'a>> {
        match key {
            FLAGD => Some(Val::Flagd),
            TARGETING_KEY_ATTRIBUTE => {
                self.context.targeting_key().map(Val::Text).or_else(|| self.field(key))
            }
            _ => self.field(key),
        }
    }

    fn field(&self, key: &str) -> Option<Val<'a>> {
        self.context.field(key).map(Val::of)
    }

    #[inline(never)]
    fn whole(&mut self, scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        Ok(match scope {
            Scope::Context => Val::Root,
            Scope::Item(item) => item,
            Scope::Reduce { current, accumulator } => {
                let span = self.arena.reserve(2)?;
                self.arena.fill(span, 0, current);
                self.arena.fill(span, 1, accumulator);
                Val::Reduction(span)
            }
        })
    }

    fn first(&self, scope: Scope<'a>, key: &str, index: Option<u32>) -> Option<Val<'a>> {
        match scope {
            Scope::Context => self.root(key),
            Scope::Item(item) => self.child(item, key, index),
            Scope::Reduce { current, .. } if key == CURRENT => Some(current),
            Scope::Reduce { accumulator, .. } if key == ACCUMULATOR => Some(accumulator),
            Scope::Reduce { .. } => None,
        }
    }

    fn child(&self, parent: Val<'a>, key: &str, index: Option<u32>) -> Option<Val<'a>> {
        match parent {
            Val::Object(object) => object.fields.get(key).map(Val::of),
            Val::List(_) | Val::MadeList(_) => self.arena.item(parent, index? as usize),
            Val::Root => self.root(key),
            Val::Flagd if key == FLAG_KEY => Some(Val::Text(self.flag_key)),
            Val::Flagd if key == TIMESTAMP => Some(self.timestamp()),
            Val::Reduction(_) if key == CURRENT => self.arena.item(parent, 0),
            Val::Reduction(_) if key == ACCUMULATOR => self.arena.item(parent, 1),
            _ => None,
        }
    }

    #[inline(never)]
    fn var(&mut self, var: &'a Var, scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let mut keys = var.keys.iter();
        let mut value = keys.next().and_then(|Key { text, index }| self.first(scope, text, *index));
        for key in keys {
            value = value.and_then(|value| self.child(value, &key.text, key.index));
        }
        self.trace.detail(|| {
            let path: Vec<&str> = var.keys.iter().map(|key| key.text.as_ref()).collect();
            look_step(&path.join("."), self.arena, value.unwrap_or(Val::Null))
        });
        match value {
            Some(Val::Null) | None => self.eval(&var.default, scope),
            Some(value) => Ok(value),
        }
    }

    #[inline(never)]
    fn look(&mut self, sides: &'a [Node; 2], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let [path, default] = sides;
        let path = self.eval(path, scope)?;
        // The default is an argument like others: its errors are errors.
        let default = self.eval(default, scope)?;
        if path.is_null() || self.arena.text(path).is_some_and(str::is_empty) {
            return self.whole(scope);
        }
        Ok(self.find(path, scope)?.unwrap_or(default))
    }

    /// What stands at a computed path, unless it is null.
    #[inline(never)]
    pub(super) fn find(&mut self, path: Val<'a>, scope: Scope<'a>) -> Result<Option<Val<'a>>, Stop> {
        let printed;
        let path = match path {
            Val::Number(number) => {
                printed = Printed::of(number);
                printed.as_str()
            }
            Val::Bool(true) => "true",
            Val::Bool(false) => "false",
            _ => match self.arena.text(path) {
                Some(path) => path,
                None => return Ok(None),
            },
        };
        let bytes = path.len();
        let mut keys = path.split('.');
        let mut value = keys.next().and_then(|key| self.first(scope, key, index_of(key)));
        for key in keys {
            value = value.and_then(|value| self.child(value, key, index_of(key)));
        }
        self.charge_text(bytes)?;
        Ok(value.filter(|value| !value.is_null()))
    }

    // Logic.

    fn branch(&mut self, branches: &'a [Node], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let (pairs, last) = branches.as_chunks::<2>();
        for (nth, [condition, then]) in pairs.iter().enumerate() {
            let holds = self.holds(condition, scope)?;
            self.trace.detail(|| {
                let verdict = if holds { "holds" } else { "does not hold" };
                step("if", format!("condition {} of {} {verdict}", nth + 1, pairs.len()), holds)
            });
            if holds {
                return self.eval(then, scope);
            }
        }
        match last {
            [otherwise] => self.eval(otherwise, scope),
            _ => Ok(Val::Null),
        }
    }

    /// The first value that decides, else the last.
    fn and_or(&mut self, nodes: &'a [Node], scope: Scope<'a>, deciding: bool) -> Result<Val<'a>, Stop> {
        let mut value = Val::Null;
        for node in nodes {
            value = self.eval(node, scope)?;
            if Arena::is_true(value) == deciding {
                break;
            }
        }
        Ok(value)
    }

    fn equal(&mut self, equality: &'a Equality, scope: Scope<'a>) -> Result<bool, Stop> {
        let [a, b] = &equality.sides;
        let (a, b) = (self.operand(a, scope)?, self.operand(b, scope)?);
        let equal = if equality.strict { self.arena.same(a, b) } else { self.arena.equal(a, b) };
        let holds = equal != equality.negated;
        self.trace.detail(|| {
            let name = match (equality.strict, equality.negated) {
                (false, false) => "==",
                (false, true) => "!=",
                (true, false) => "===",
                (true, true) => "!==",
            };
            verdict(name, self.arena, &[a, b], holds)
        });
        Ok(holds)
    }

    fn order(&mut self, ordered: &'a Ordered, scope: Scope<'a>) -> Result<bool, Stop> {
        let mut holds = true;
        let mut before = None;
        for side in &ordered.sides {
            let value = self.operand(side, scope)?;
            if let Some(before) = before {
                let pair = self.in_order(ordered.order, before, value);
                self.trace.detail(|| verdict(ordered.order.name(), self.arena, &[before, value], pair));
                holds &= pair;
            }
            before = Some(value);
        }
        Ok(holds)
    }

    /// Two texts by their characters, everything else as numbers.
    fn in_order(&self, order: Order, a: Val<'a>, b: Val<'a>) -> bool {
        let found = match (self.arena.text(a), self.arena.text(b)) {
            (Some(a), Some(b)) => Some(a.cmp(b)),
            _ => self.arena.number(a).partial_cmp(&self.arena.number(b)),
        };
        found.is_some_and(|found| match order {
            Order::Less => found.is_lt(),
            Order::LessOrEqual => found.is_le(),
            Order::Greater => found.is_gt(),
            Order::GreaterOrEqual => found.is_ge(),
        })
    }

    fn among(&mut self, among: &'a Among, scope: Scope<'a>) -> Result<bool, Stop> {
        let needle = self.operand(&among.needle, scope)?;
        let holds = match needle {
            Val::Null => among.has_null,
            Val::Bool(value) => among.set.holds(&Seen::Boolean(value)),
            Val::Number(number) => among.set.holds(&Seen::Number(number)),
            Val::Text(text) => among.set.holds(&Seen::Text(text)),
            _ => self.arena.text(needle).is_some_and(|text| among.set.holds(&Seen::Text(text))),
        };
        self.trace.detail(|| verdict("in", self.arena, &[needle], holds));
        Ok(holds)
    }

    #[inline(never)]
    fn contained(&mut self, sides: &'a [Node; 2], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let [needle, haystack] = sides;
        let (needle, haystack) = (self.operand(needle, scope)?, self.operand(haystack, scope)?);
        let count = Arena::len(haystack);
        self.charge(u32::try_from(count / 16).unwrap_or(u32::MAX))?;
        let holds = if let Some(text) = self.arena.text(haystack) {
            let holds = match needle {
                Val::Number(number) => text.contains(Printed::of(number).as_str()),
                Val::Bool(value) => text.contains(if value { "true" } else { "false" }),
                _ => self.arena.text(needle).is_some_and(|needle| text.contains(needle)),
            };
            let bytes = text.len();
            self.charge_text(bytes)?;
            holds
        } else {
            let items = if haystack.is_list() { count } else { 0 };
            (0..items)
                .any(|nth| self.arena.item(haystack, nth).is_some_and(|item| self.arena.same(needle, item)))
        };
        self.trace.detail(|| verdict("in", self.arena, &[needle, haystack], holds));
        Ok(Val::Bool(holds))
    }

    /// Null unless both are texts.
    fn part(
        &mut self,
        sides: &'a [Node; 2],
        scope: Scope<'a>,
        name: &str,
        test: fn(&str, &str) -> bool,
    ) -> Result<Val<'a>, Stop> {
        let [text, part] = sides;
        let (text, part) = (self.operand(text, scope)?, self.operand(part, scope)?);
        let holds = self.arena.text(text).zip(self.arena.text(part)).map(|(text, part)| test(text, part));
        self.trace.detail(|| verdict(name, self.arena, &[text, part], holds == Some(true)));
        Ok(holds.map_or(Val::Null, Val::Bool))
    }

    #[inline(never)]
    fn sem_ver(&mut self, sides: &'a [Node; 3], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let [version, operator, target] = sides;
        let version = self.operand(version, scope)?;
        let operator = self.operand(operator, scope)?;
        let target = self.operand(target, scope)?;
        let (mut printed, mut other) = (Printed::of(0.0), Printed::of(0.0));
        let holds = match (
            stringified(self.arena, version, &mut printed),
            self.arena.text(operator),
            stringified(self.arena, target, &mut other),
        ) {
            (Some(version), Some(operator), Some(target)) => semver::compare(version, operator, target),
            _ => None,
        };
        self.trace
            .detail(|| verdict("sem_ver", self.arena, &[version, operator, target], holds == Some(true)));
        Ok(holds.map_or(Val::Null, Val::Bool))
    }

    #[inline(never)]
    fn arithmetic(
        &mut self,
        operator: Arithmetic,
        nodes: &'a [Node],
        scope: Scope<'a>,
    ) -> Result<Val<'a>, Stop> {
        let mut sum = match operator {
            Arithmetic::Add => Some(0.0),
            Arithmetic::Multiply => Some(1.0),
            _ => None,
        };
        for node in nodes {
            let value = self.eval(node, scope)?;
            let number = self.arena.number(value);
            sum = Some(match (sum, operator) {
                (None, Arithmetic::Subtract) if nodes.len() == 1 => -number,
                (None, _) => number,
                (Some(sum), Arithmetic::Add) => sum + number,
                (Some(sum), Arithmetic::Subtract) => sum - number,
                (Some(sum), Arithmetic::Multiply) => sum * number,
                (Some(sum), Arithmetic::Divide) => sum / number,
                (Some(sum), Arithmetic::Remainder) => sum % number,
                // A not-a-number stays one.
                (Some(sum), Arithmetic::Max) if number > sum || number.is_nan() => number,
                (Some(sum), Arithmetic::Min) if number < sum || number.is_nan() => number,
                (Some(sum), Arithmetic::Max | Arithmetic::Min) => sum,
            });
        }
        Ok(sum.map_or(Val::Null, Val::Number))
    }
}

/// A version's text: numbers count as theirs.
fn stringified<'v, 'a: 'v>(
    arena: &'v Arena<'a>,
    value: Val<'a>,
    printed: &'v mut Printed,
) -> Option<&'v str> {
    match value {
        Val::Number(number) => {
            *printed = Printed::of(number);
            Some(printed.as_str())
        }
        _ => arena.text(value),
    }
}

impl Order {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

// For explanations.

/// A value, its texts cut to 80 characters.
pub(super) fn describe<'a>(arena: &Arena<'a>, value: Val<'a>) -> String {
    match value {
        Val::Null => "null".to_owned(),
        Val::Bool(value) => value.to_string(),
        Val::Number(number) => Printed::of(number).as_str().to_owned(),
        Val::List(_) | Val::MadeList(_) => format!("a list of {}", Arena::len(value)),
        Val::Object(_) | Val::Root | Val::Flagd | Val::Reduction(_) => "an object".to_owned(),
        Val::Text(_) | Val::MadeText(_) => {
            let text = arena.text(value).unwrap_or_default();
            format!("'{}'", text.chars().take(80).collect::<String>())
        }
    }
}

fn look_step<'a>(path: &str, arena: &Arena<'a>, value: Val<'a>) -> ExplainStep {
    step(format!("var {path}"), describe(arena, value), !value.is_null())
}

fn verdict<'a>(name: &str, arena: &Arena<'a>, sides: &[Val<'a>], holds: bool) -> ExplainStep {
    let sides: Vec<String> = sides.iter().map(|side| describe(arena, *side)).collect();
    let verdict = if holds { "holds" } else { "does not hold" };
    step(name, format!("{verdict} for {}", sides.join(", ")), holds)
}
