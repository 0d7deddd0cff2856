//! A compiled rule: a tree of operators whose names, paths and constants are resolved.

use prost_types::Value;

use crate::condition::Set;

/// Attributes that an evaluation looks up once only, however often they are asked about.
pub(crate) const KEPT: usize = 8;
pub(crate) const UNKEPT: u8 = u8::MAX;

/// One step of a rule.
#[derive(Debug)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    /// A list or an object without logic in it.
    Data(Box<Value>),
    /// A list with logic in it.
    List(Box<[Node]>),
    /// Cannot be evaluated: an unknown operator or a shared rule that is not there.
    Unknown,
    /// Evaluated for its errors only; the answer is null. A custom operator with the wrong number of arguments.
    Void(Box<[Node]>),
    /// One key of the context, and where an evaluation keeps what it found; `UNKEPT` where it does not.
    Attribute(Box<str>, u8),
    FlagKey,
    Timestamp,
    /// All that is in scope.
    Whole,
    Var(Box<Var>),
    /// A path that is computed, and the default.
    Look(Box<[Node; 2]>),
    Missing(Box<[Node]>),
    MissingSome(Box<[Node; 2]>),
    If(Box<[Node]>),
    And(Box<[Node]>),
    Or(Box<[Node]>),
    Not(Box<Node>),
    Truth(Box<Node>),
    Equal(Box<Equality>),
    Order(Box<Ordered>),
    Arithmetic(Arithmetic, Box<[Node]>),
    /// `in` among constants.
    Among(Box<Among>),
    In(Box<[Node; 2]>),
    StartsWith(Box<[Node; 2]>),
    EndsWith(Box<[Node; 2]>),
    SemVer(Box<[Node; 3]>),
    Cat(Box<[Node]>),
    Substr(Box<[Node]>),
    Merge(Box<[Node]>),
    Each(Each, Box<[Node; 2]>),
    Reduce(Box<[Node; 3]>),
    Fractional(Box<Fractional>),
}

/// A path from what is in scope.
#[derive(Debug)]
pub(crate) struct Var {
    pub(crate) keys: Box<[Key]>,
    pub(crate) default: Node,
}

/// A key of an object, or an index into a list.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) text: Box<str>,
    pub(crate) index: Option<u32>,
}

impl Key {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), index: index_of(text) }
    }
}

/// The index that a key names in a list: digits only.
pub(crate) fn index_of(key: &str) -> Option<u32> {
    key.bytes().all(|byte| byte.is_ascii_digit()).then(|| key.parse().ok()).flatten()
}

#[derive(Debug)]
pub(crate) struct Equality {
    pub(crate) strict: bool,
    pub(crate) negated: bool,
    pub(crate) sides: [Node; 2],
}

#[derive(Debug)]
pub(crate) struct Ordered {
    pub(crate) order: Order,
    /// Two, or three that form a chain.
    pub(crate) sides: Box<[Node]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Max,
    Min,
}

#[derive(Debug)]
pub(crate) struct Among {
    pub(crate) needle: Node,
    pub(crate) set: Set,
    pub(crate) has_null: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Each {
    Map,
    Filter,
    All,
    None,
    Some,
}

#[derive(Debug)]
pub(crate) struct Fractional {
    /// What is hashed. `None`: the flag's key and the unit.
    pub(crate) by: Option<Node>,
    pub(crate) entries: Box<[Entry]>,
    /// Where each entry's stretch ends, when all weights are constants and valid.
    pub(crate) ends: Option<Box<[u32]>>,
}

/// One stretch of `fractional`.
#[derive(Debug)]
pub(crate) enum Entry {
    Pair {
        variant: Node,
        weight: Option<Node>,
    },
    /// A list that is computed as a whole; what is no list makes the operator's answer null.
    Computed(Node),
}
