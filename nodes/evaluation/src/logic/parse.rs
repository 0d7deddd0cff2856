//! From JSON to a compiled rule.
//!
//! Only text that is no JSON fails. Everything else that cannot work is an issue with its path, and a node that answers
//! PARSE_ERROR when it is reached: the native door refuses at the first issue, the import door keeps the rule and warns.
//! Depth and size are bounded after shared rules are put in, so neither deep nests nor rules of rules of rules cost
//! more than the limits say.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Value as Json;

use super::fractional::{Generation, constant_ends, weight_of};
use super::node::{
    Among, Arithmetic, Each, Entry, Equality, Fractional, KEPT, Key, Node, Order, Ordered, UNKEPT, Var,
};
use super::value::{Printed, Val};
use super::{evaluate::FLAGD, semver};
use crate::condition::{Scalar, Set};
use crate::limits;
use crate::refusal::{CompileError, Outcome, refused};

const REF: &str = "$ref";
/// More issues than these are of no use to a reader.
const MAX_ISSUES: usize = 64;

/// What a rule is compiled for.
#[derive(Clone, Copy)]
pub(crate) struct Target<'e> {
    pub(crate) evaluators: &'e BTreeMap<String, String>,
    pub(crate) generation: Generation,
    /// The names that a result may have.
    pub(crate) is_variant: &'e dyn Fn(&str) -> bool,
}

/// Reads a rule. `None`: it is `{}` or null, which is no rule.
///
/// # Errors
/// When the text is no JSON, or nests deeper than any rule.
pub(super) fn parse(text: &str, target: Target<'_>) -> Outcome<(Option<Node>, Vec<CompileError>)> {
    let json = json_of("targeting", text)?;
    if json.is_null() || json.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok((None, Vec::new()));
    }
    let mut parser = Parser {
        target,
        path: "targeting".to_owned(),
        issues: Vec::new(),
        bytes: 0,
        open: Vec::new(),
        kept: Vec::new(),
    };
    let place = Place { is_result: true, in_item: false, depth: 0 };
    let node = parser.node(&json, place);
    Ok((Some(node), parser.issues))
}

fn json_of(path: &str, text: &str) -> Outcome<Json> {
    serde_json::from_str(text).or_else(|error| {
        if error.to_string().contains("recursion limit") {
            let max = limits::MAX_TARGETING_DEPTH;
            return refused(path, "…", format_args!("nests deeper than {max} levels; flatten the rule"));
        }
        refused(path, text, format_args!("is not JSON: {error}"))
    })
}

/// Where in a rule.
#[derive(Clone, Copy)]
struct Place {
    /// What stands here may be the rule's result.
    is_result: bool,
    /// `var` looks into an item, not into the context.
    in_item: bool,
    depth: usize,
}

impl Place {
    const fn inner(self) -> Self {
        Self { is_result: false, ..self }
    }

    const fn item(self) -> Self {
        Self { is_result: false, in_item: true, ..self }
    }
}

struct Parser<'e> {
    target: Target<'e>,
    path: String,
    issues: Vec<CompileError>,
    bytes: usize,
    /// The shared rules that are being put in.
    open: Vec<String>,
    /// The attributes that an evaluation keeps.
    kept: Vec<String>,
}

impl Parser<'_> {
    fn issue(&mut self, value: impl std::fmt::Display, message: impl std::fmt::Display) {
        if self.issues.len() < MAX_ISSUES {
            let value = value.to_string().chars().take(80).collect();
            self.issues.push(CompileError { path: self.path.clone(), value, message: message.to_string() });
        }
    }

    fn unknown(&mut self, value: impl std::fmt::Display, message: impl std::fmt::Display) -> Node {
        self.issue(value, message);
        Node::Unknown
    }

    /// Compiles one step further down the path.
    fn at<R>(&mut self, segment: std::fmt::Arguments<'_>, work: impl FnOnce(&mut Self) -> R) -> R {
        use std::fmt::Write as _;
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = self.path.write_fmt(segment);
        let result = work(self);
        self.path.truncate(length);
        result
    }

    /// Counts a value; false once there are too many.
    fn count(&mut self, bytes: usize) -> bool {
        let before = self.bytes;
        self.bytes = self.bytes.saturating_add(16 + bytes);
        let max = limits::MAX_TARGETING_BYTES;
        if before <= max && self.bytes > max {
            self.issue(
                self.bytes,
                format_args!(
                    "a rule has at most {max} bytes with its shared rules put in; use fewer of them"
                ),
            );
        }
        self.bytes <= max
    }

    fn node(&mut self, json: &Json, place: Place) -> Node {
        let place = Place { depth: place.depth + 1, ..place };
        if place.depth > limits::MAX_TARGETING_DEPTH {
            let max = limits::MAX_TARGETING_DEPTH;
            return self.unknown("…", format_args!("nests deeper than {max} levels; flatten the rule"));
        }
        let text = json.as_str().map_or(0, str::len);
        if !self.count(text) {
            return Node::Unknown;
        }
        match json {
            Json::Null => Node::Null,
            Json::Bool(value) => {
                self.result(if *value { "true" } else { "false" }, place);
                Node::Bool(*value)
            }
            Json::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                self.result(Printed::of(number).as_str(), place);
                Node::Number(number)
            }
            Json::String(text) => {
                self.result(text, place);
                Node::Text(text.as_str().into())
            }
            Json::Array(items) if items.iter().any(is_logic) => Node::List(self.nodes(items, place.inner())),
            Json::Array(_) => {
                if place.is_result {
                    self.issue("a list", "a rule's result is the name of a variant");
                }
                self.data(json, place)
            }
            Json::Object(fields) => match fields.iter().next().map(|(key, value)| (key.as_str(), value)) {
                Some((REF, name)) if fields.len() == 1 => self.reference(name, place),
                Some((operator, arguments)) if fields.len() == 1 => {
                    self.at(format_args!(".{operator}"), |parser| parser.operator(operator, arguments, place))
                }
                _ => {
                    self.issue(
                        format_args!("an object of {} keys", fields.len()),
                        "an operator is an object of exactly one key; this is taken as a value",
                    );
                    self.data(json, place)
                }
            },
        }
    }

    /// A constant that may be the result must name a variant.
    fn result(&mut self, name: &str, place: Place) {
        if place.is_result && !(self.target.is_variant)(name) {
            self.issue(name, "no such variant: name one of the flag's, or null for its default");
        }
    }

    fn data(&mut self, json: &Json, place: Place) -> Node {
        match self.value(json, place.depth) {
            Some(value) => Node::Data(Box::new(value)),
            None => Node::Unknown,
        }
    }

    fn value(&mut self, json: &Json, depth: usize) -> Option<Value> {
        let text = json.as_str().map_or(0, str::len);
        if depth > limits::MAX_TARGETING_DEPTH || !self.count(text) {
            return None;
        }
        let kind = match json {
            Json::Null => Kind::NullValue(0),
            Json::Bool(value) => Kind::BoolValue(*value),
            Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => Kind::StringValue(text.clone()),
            Json::Array(items) => {
                let values = items.iter().map(|item| self.value(item, depth + 1)).collect::<Option<_>>()?;
                Kind::ListValue(ListValue { values })
            }
            Json::Object(fields) => {
                let field =
                    |(key, value): (&String, &Json)| Some((key.clone(), self.value(value, depth + 1)?));
                Kind::StructValue(Struct { fields: fields.iter().map(field).collect::<Option<_>>()? })
            }
        };
        Some(Value { kind: Some(kind) })
    }

    fn nodes(&mut self, items: &[Json], place: Place) -> Box<[Node]> {
        let one = |(nth, item)| self.at(format_args!("[{nth}]"), |parser| parser.node(item, place));
        items.iter().enumerate().map(one).collect()
    }

    /// `{"$ref": name}`: the shared rule, put in here.
    fn reference(&mut self, name: &Json, place: Place) -> Node {
        let Some(name) = name.as_str() else {
            return self.unknown(name, "$ref takes the name of a shared rule, as text");
        };
        let evaluators = self.target.evaluators;
        let Some(text) = evaluators.get(name) else {
            return self.at(format_args!(".{REF}"), |parser| {
                parser
                    .unknown(name, "no such shared rule in this environment: add it, or write the rule here")
            });
        };
        if self.open.iter().any(|open| open == name) {
            return self.at(format_args!(".{REF}"), |parser| {
                parser.unknown(name, "a shared rule cannot contain itself")
            });
        }
        // Reading the text costs, also when little comes of it.
        if !self.count(text.len()) {
            return Node::Unknown;
        }
        self.at(format_args!(".{REF}({name})"), |parser| {
            let json = match json_of(&parser.path, text) {
                Ok(json) => json,
                Err(error) => return parser.unknown(error.value, error.message),
            };
            parser.open.push(name.to_owned());
            let node = parser.node(&json, place);
            parser.open.pop();
            node
        })
    }

    /// An operator and its arguments; one that is no list stands for a list of one.
    fn operator(&mut self, operator: &str, arguments: &Json, place: Place) -> Node {
        let Some(arity) = arity(operator) else {
            return self.unknown(operator, format_args!("no such operator; there are {OPERATORS}"));
        };
        let single = [arguments];
        let listed: Vec<&Json>;
        let arguments: &[&Json] = match arguments {
            Json::Array(items) => {
                listed = items.iter().collect();
                &listed
            }
            _ => &single,
        };
        let (least, most) = arity;
        if arguments.len() < least || arguments.len() > most {
            let wanted = match (least, most) {
                (1, usize::MAX) => "at least one argument".to_owned(),
                (least, usize::MAX) => format!("at least {least} arguments"),
                (least, most) if least == most => format!("exactly {least} arguments"),
                (least, most) => format!("{least} to {most} arguments"),
            };
            self.issue(arguments.len(), format_args!("{operator} takes {wanted}"));
        }
        self.compile(operator, arguments, place)
    }

    /// The arguments as nodes, all in the same place.
    fn all(&mut self, arguments: &[&Json], place: Place) -> Box<[Node]> {
        let is_list = arguments.len() != 1;
        let one = |(nth, argument): (usize, &&Json)| {
            if is_list {
                self.at(format_args!("[{nth}]"), |parser| parser.node(argument, place))
            } else {
                self.node(argument, place)
            }
        };
        arguments.iter().enumerate().map(one).collect()
    }

    /// Exactly so many arguments: what is missing is null, what is too much is dropped.
    fn exactly<const N: usize>(&mut self, arguments: &[&Json], place: Place) -> Box<[Node; N]> {
        let mut nodes = self.all(arguments, place).into_vec().into_iter();
        Box::new(std::array::from_fn(|_| nodes.next().unwrap_or(Node::Null)))
    }

    fn compile(&mut self, operator: &str, arguments: &[&Json], place: Place) -> Node {
        let inner = place.inner();
        let equality = |strict, negated, sides: Box<[Node; 2]>| {
            Node::Equal(Box::new(Equality { strict, negated, sides: *sides }))
        };
        match operator {
            "var" => self.var(arguments, place),
            "missing" => Node::Missing(self.all(arguments, inner)),
            "missing_some" => Node::MissingSome(self.exactly(arguments, inner)),
            "if" | "?:" => Node::If(self.branches(arguments, place)),
            "and" => Node::And(self.last_is_result(arguments, place)),
            "or" => Node::Or(self.all(arguments, place)),
            "!" => Node::Not(Box::new(self.first(arguments, inner))),
            "!!" => Node::Truth(Box::new(self.first(arguments, inner))),
            "==" => equality(false, false, self.exactly(arguments, inner)),
            "!=" => equality(false, true, self.exactly(arguments, inner)),
            "===" => equality(true, false, self.exactly(arguments, inner)),
            "!==" => equality(true, true, self.exactly(arguments, inner)),
            "<" => self.order(Order::Less, arguments, inner),
            "<=" => self.order(Order::LessOrEqual, arguments, inner),
            ">" => self.order(Order::Greater, arguments, inner),
            ">=" => self.order(Order::GreaterOrEqual, arguments, inner),
            "+" => Node::Arithmetic(Arithmetic::Add, self.all(arguments, inner)),
            "-" => Node::Arithmetic(Arithmetic::Subtract, self.all(arguments, inner)),
            "*" => Node::Arithmetic(Arithmetic::Multiply, self.all(arguments, inner)),
            "/" => Node::Arithmetic(Arithmetic::Divide, self.all(arguments, inner)),
            "%" => Node::Arithmetic(Arithmetic::Remainder, self.all(arguments, inner)),
            "max" => Node::Arithmetic(Arithmetic::Max, self.all(arguments, inner)),
            "min" => Node::Arithmetic(Arithmetic::Min, self.all(arguments, inner)),
            "merge" => Node::Merge(self.all(arguments, inner)),
            "cat" => Node::Cat(self.all(arguments, inner)),
            "substr" => Node::Substr(self.all(arguments, inner)),
            "in" => self.contained(arguments, inner),
            "map" => self.each(Each::Map, arguments, inner),
            "filter" => self.each(Each::Filter, arguments, inner),
            "all" => self.each(Each::All, arguments, inner),
            "none" => self.each(Each::None, arguments, inner),
            "some" => self.each(Each::Some, arguments, inner),
            "reduce" => self.reduce(arguments, inner),
            "starts_with" | "ends_with" if arguments.len() != 2 => Node::Void(self.all(arguments, inner)),
            "starts_with" => Node::StartsWith(self.exactly(arguments, inner)),
            "ends_with" => Node::EndsWith(self.exactly(arguments, inner)),
            "sem_ver" if arguments.len() != 3 => Node::Void(self.all(arguments, inner)),
            "sem_ver" => self.sem_ver(arguments, inner),
            // The last that `arity` knows.
            _ => self.fractional(arguments, place),
        }
    }

    fn first(&mut self, arguments: &[&Json], place: Place) -> Node {
        let [node] = *self.exactly::<1>(arguments, place);
        node
    }

    /// Arguments of `if`: every second and the last may be the result.
    fn branches(&mut self, arguments: &[&Json], place: Place) -> Box<[Node]> {
        let last = arguments.len().saturating_sub(1);
        let one = |(nth, argument): (usize, &&Json)| {
            let place = if nth % 2 == 1 || nth == last { place } else { place.inner() };
            self.at(format_args!("[{nth}]"), |parser| parser.node(argument, place))
        };
        arguments.iter().enumerate().map(one).collect()
    }

    fn last_is_result(&mut self, arguments: &[&Json], place: Place) -> Box<[Node]> {
        let last = arguments.len().saturating_sub(1);
        let one = |(nth, argument): (usize, &&Json)| {
            let place = if nth == last { place } else { place.inner() };
            self.at(format_args!("[{nth}]"), |parser| parser.node(argument, place))
        };
        arguments.iter().enumerate().map(one).collect()
    }

    fn var(&mut self, arguments: &[&Json], place: Place) -> Node {
        let path = match arguments.first() {
            None | Some(Json::Null) => String::new(),
            Some(Json::String(path)) => path.clone(),
            Some(Json::Number(number)) => {
                Printed::of(number.as_f64().unwrap_or(f64::NAN)).as_str().to_owned()
            }
            Some(Json::Bool(value)) => value.to_string(),
            Some(_) => {
                let [path] = *self.exactly::<1>(arguments.get(..1).unwrap_or_default(), place.inner());
                let default = self.default(arguments, place);
                return Node::Look(Box::new([path, default]));
            }
        };
        if !self.count(path.len()) {
            return Node::Unknown;
        }
        let default = self.default(arguments, place);
        if path.is_empty() {
            return Node::Whole;
        }
        let keys: Vec<&str> = path.split('.').collect();
        match (keys.as_slice(), &default) {
            ([key], Node::Null) if !place.in_item && *key != FLAGD => {
                Node::Attribute((*key).into(), self.slot(key))
            }
            ([FLAGD, "flagKey"], _) if !place.in_item => Node::FlagKey,
            ([FLAGD, "timestamp"], _) if !place.in_item => Node::Timestamp,
            _ => {
                let keys = keys.into_iter().map(Key::new).collect();
                Node::Var(Box::new(Var { keys, default }))
            }
        }
    }

    /// Where an evaluation keeps this attribute.
    fn slot(&mut self, key: &str) -> u8 {
        let known = self.kept.iter().position(|kept| kept == key);
        let slot = known.or_else(|| {
            let room = self.kept.len() < KEPT;
            room.then(|| {
                self.kept.push(key.to_owned());
                self.kept.len() - 1
            })
        });
        // Below `KEPT`.
        slot.map_or(UNKEPT, |slot| slot as u8)
    }

    fn default(&mut self, arguments: &[&Json], place: Place) -> Node {
        match arguments.get(1) {
            Some(default) => self.at(format_args!("[1]"), |parser| parser.node(default, place)),
            None => Node::Null,
        }
    }

    fn order(&mut self, order: Order, arguments: &[&Json], place: Place) -> Node {
        let sides = self.all(arguments.get(..3).unwrap_or(arguments), place);
        if sides.len() < 2 {
            // What is not there has no order.
            return Node::And(sides.into_vec().into_iter().chain([Node::Bool(false)]).collect());
        }
        Node::Order(Box::new(Ordered { order, sides }))
    }

    fn contained(&mut self, arguments: &[&Json], place: Place) -> Node {
        let [needle, haystack] = *self.exactly(arguments, place);
        let Node::Data(data) = &haystack else { return Node::In(Box::new([needle, haystack])) };
        let Some(Kind::ListValue(list)) = &data.kind else { return Node::In(Box::new([needle, haystack])) };
        let is_null = |value: &Value| matches!(value.kind, None | Some(Kind::NullValue(_)));
        let has_null = list.values.iter().any(is_null);
        // Lists and objects are found nowhere.
        let set = Set::new(list.values.iter().filter_map(Scalar::of));
        Node::Among(Box::new(Among { needle, set, has_null }))
    }

    fn each(&mut self, each: Each, arguments: &[&Json], place: Place) -> Node {
        let list = self.nth(arguments, 0, place);
        let body = self.nth(arguments, 1, place.item());
        Node::Each(each, Box::new([list, body]))
    }

    fn reduce(&mut self, arguments: &[&Json], place: Place) -> Node {
        let list = self.nth(arguments, 0, place);
        let body = self.nth(arguments, 1, place.item());
        let start = self.nth(arguments, 2, place);
        Node::Reduce(Box::new([list, body, start]))
    }

    fn nth(&mut self, arguments: &[&Json], nth: usize, place: Place) -> Node {
        match arguments.get(nth) {
            Some(argument) => self.at(format_args!("[{nth}]"), |parser| parser.node(argument, place)),
            None => Node::Null,
        }
    }

    fn sem_ver(&mut self, arguments: &[&Json], place: Place) -> Node {
        let sides: Box<[Node; 3]> = self.exactly(arguments, place);
        let [version, operator, target] = sides.as_ref();
        match operator {
            Node::Text(name) if !semver::is_operator(name) => {
                let name = name.clone();
                self.at(format_args!("[1]"), |parser| {
                    parser.issue(name, "no such relation; there are = != < <= > >= ^ ~");
                });
            }
            _ => {}
        }
        for (nth, side) in [(0, version), (2, target)] {
            if let Node::Text(text) = side
                && !semver::is_version(text)
            {
                let text = text.clone();
                self.at(format_args!("[{nth}]"), |parser| {
                    parser.issue(text, "is no version: write it as 1.2.3, 1.2.3-beta.1, 1.2 or 1");
                });
            }
        }
        Node::SemVer(sides)
    }

    fn fractional(&mut self, arguments: &[&Json], place: Place) -> Node {
        let (by, entries) = match arguments.split_first() {
            Some((first, rest)) if !first.is_array() => {
                let by = self.at(format_args!("[0]"), |parser| parser.node(first, place.inner()));
                (Some(by), rest)
            }
            _ => (None, arguments),
        };
        let skipped = usize::from(by.is_some());
        if entries.is_empty()
            && !arguments.is_empty()
            && !matches!(by, Some(Node::Var(_) | Node::Attribute(..)))
        {
            self.issue(0, "fractional takes at least one [variant, weight]");
        }
        let one = |(nth, entry): (usize, &&Json)| {
            self.at(format_args!("[{}]", nth + skipped), |parser| parser.entry(entry, place))
        };
        let entries: Box<[Entry]> = entries.iter().enumerate().map(one).collect();
        let ends = constant_ends(&entries, self.target.generation);
        let constant = |entry: &Entry| match entry {
            Entry::Pair { weight, .. } => matches!(weight, None | Some(Node::Number(_))),
            Entry::Computed(_) => false,
        };
        if ends.is_none() && !entries.is_empty() && entries.iter().all(constant) && self.issues.is_empty() {
            self.issue(entries.len(), "weights must have a sum of 1 to 2147483647");
        }
        Node::Fractional(Box::new(Fractional { by, entries, ends }))
    }

    fn entry(&mut self, entry: &Json, place: Place) -> Entry {
        let items = match entry {
            Json::Array(items) => items,
            Json::Object(_) => return Entry::Computed(self.node(entry, place.inner())),
            _ => {
                self.issue(entry, "an entry of fractional is a list: [variant, weight]");
                return Entry::Computed(self.node(entry, place.inner()));
            }
        };
        if items.is_empty() || items.len() > 2 {
            self.issue(items.len(), "an entry of fractional is a list: [variant, weight]");
        }
        let Some((variant, rest)) = items.split_first() else { return Entry::Computed(Node::Null) };
        let variant = self.at(format_args!("[0]"), |parser| parser.node(variant, place));
        let weight = rest
            .first()
            .map(|weight| self.at(format_args!("[1]"), |parser| parser.weight(weight, place.inner())));
        Entry::Pair { variant, weight }
    }

    fn weight(&mut self, json: &Json, place: Place) -> Node {
        let node = self.node(json, place);
        let fits = match &node {
            Node::Number(number) => weight_of(Val::Number(*number), self.target.generation).is_some(),
            Node::Null => weight_of(Val::Null, self.target.generation).is_some(),
            Node::Bool(_) | Node::Text(_) | Node::Data(_) | Node::List(_) => false,
            _ => true,
        };
        if !fits {
            self.issue(json, "a weight is a whole number of at most 2147483647");
        }
        node
    }
}

/// Whether there is an operator in it.
fn is_logic(json: &Json) -> bool {
    match json {
        Json::Array(items) => items.iter().any(is_logic),
        Json::Object(fields) => fields.len() == 1,
        _ => false,
    }
}

/// How many arguments can work.
fn arity(operator: &str) -> Option<(usize, usize)> {
    const ANY: usize = usize::MAX;
    Some(match operator {
        "var" => (0, 2),
        "missing" | "merge" | "cat" | "and" | "or" | "max" | "min" | "+" | "*" => (0, ANY),
        "if" | "?:" | "-" | "/" | "fractional" => (1, ANY),
        "!" | "!!" => (1, 1),
        "missing_some" | "==" | "!=" | "===" | "!==" | "%" | "in" => (2, 2),
        "map" | "filter" | "all" | "none" | "some" | "starts_with" | "ends_with" => (2, 2),
        "<" | "<=" | ">" | ">=" | "substr" => (2, 3),
        "reduce" | "sem_ver" => (3, 3),
        _ => return None,
    })
}

const OPERATORS: &str = "var missing missing_some if == === != !== > >= < <= % / * + - max min merge cat substr in map \
    filter all none some reduce ! !! and or fractional starts_with ends_with sem_ver";

#[cfg(test)]
mod tests {
    use super::super::node::index_of;
    use super::*;

    #[test]
    fn every_operator_is_known_and_has_an_arity() {
        let none = BTreeMap::new();
        let target = Target { evaluators: &none, generation: Generation::V2, is_variant: &|_| true };
        for operator in OPERATORS.split_whitespace() {
            assert!(arity(operator).is_some(), "{operator}");
            let (node, _) = parse(&format!("{{\"{operator}\": [1, 2, 3]}}"), target).unwrap();
            assert!(!matches!(node, Some(Node::Unknown)), "{operator}");
        }
        assert_eq!(index_of("12"), Some(12));
        assert_eq!(index_of("-1"), None);
    }
}
