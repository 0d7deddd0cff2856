//! `fractional`: a weighted stretch of the hash, in both living generations.
//!
//! ```text
//!   hash   = murmur3_32 of   V2: the UTF-8 of the first argument, else of flag key + unit
//!                            V3: the deterministic CBOR of the first argument, else of [flag key, unit]
//!   bucket = hash * sum >> 32;  the first entry whose running end lies beyond it
//! ```
//!
//! Null, and so the default variant, when anything is out of order: no unit, a weight that is no whole number, a sum
//! of 0 or beyond 2^31 − 1. The arguments count as evaluated before the hash is asked, so an error in any of them is an
//! error of the whole. Weights that are constants are added up when the rule is compiled; others are computed twice,
//! because there is no memory to keep them in.

use featureops_proto::v1::FractionalVersion;

use super::cbor;
use super::evaluate::{Machine, Scope};
use super::node::{Entry, Fractional, Node};
use super::value::{Stop, Val};
use crate::explain::{Trace, step};
use crate::murmur::Murmur3;

/// The largest weight and the largest sum.
const MAX_SUM: u64 = i32::MAX as u64;

/// Which bytes are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    V2,
    V3,
}

impl Generation {
    pub(crate) const fn of(version: FractionalVersion) -> Self {
        match version {
            FractionalVersion::Unspecified | FractionalVersion::FractionalVersion2 => Self::V2,
            FractionalVersion::FractionalVersion3 => Self::V3,
        }
    }

    /// The hash state after the flag's key, ready for a unit.
    pub(crate) fn seed(self, flag_key: &str) -> Murmur3 {
        let mut hash = Murmur3::new();
        match self {
            Self::V2 => hash.with(flag_key.as_bytes()),
            Self::V3 => {
                cbor::list_head(&mut hash, 2);
                cbor::text(&mut hash, flag_key);
                hash
            }
        }
    }

    /// The hash of a unit after the seed.
    pub(crate) fn hash_of_unit(self, seed: Murmur3, unit: &str) -> u32 {
        let mut hash = seed;
        match self {
            Self::V2 => hash.with(unit.as_bytes()).finish(),
            Self::V3 => {
                cbor::text(&mut hash, unit);
                hash.finish()
            }
        }
    }

    /// The hash of one text of two parts: of what `cat` of both gives `fractional` to hash.
    pub(crate) fn hash_of_joined(self, first: &str, unit: &str) -> u32 {
        let mut hash = Murmur3::new();
        if self == Self::V3 {
            cbor::text_head(&mut hash, first.len() + unit.len());
        }
        hash.with(first.as_bytes()).with(unit.as_bytes()).finish()
    }
}

/// Where each stretch ends, when all weights are constants and valid.
pub(crate) fn constant_ends(entries: &[Entry], generation: Generation) -> Option<Box<[u32]>> {
    let mut sum = 0;
    let ends = entries.iter().map(|entry| {
        let Entry::Pair { variant, weight } = entry else { return None };
        let scalar = matches!(variant, Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_));
        let weight = match weight {
            None => 1,
            Some(Node::Number(number)) => weight_of(Val::Number(*number), generation)?,
            Some(Node::Null) => weight_of(Val::Null, generation)?,
            Some(_) => return None,
        };
        sum += weight;
        // Within u32, because the sum is below 2^31.
        (scalar && sum <= MAX_SUM).then_some(sum as u32)
    });
    let ends: Option<Box<[u32]>> = ends.collect();
    ends.filter(|_| sum > 0)
}

/// A weight: whole, negative as 0, at most 2^31 − 1.
pub(crate) fn weight_of(value: Val<'_>, generation: Generation) -> Option<u64> {
    match (value, generation) {
        (Val::Number(number), _) if number.trunc() == number && number <= MAX_SUM as f64 => {
            Some(number.max(0.0) as u64)
        }
        // The second generation's engines read a null weight as none given.
        (Val::Null, Generation::V2) => Some(1),
        _ => None,
    }
}

/// What the first argument says to hash.
enum Unit<'a> {
    Hash(u32),
    /// The argument is a stretch, and the unit is the context's.
    Entry(Val<'a>),
    Context,
    Nothing,
}

impl<'a, T: Trace> Machine<'a, '_, T> {
    #[inline(never)]
    pub(super) fn fractional(&mut self, rule: &'a Fractional, scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let unit = match &rule.by {
            None => Unit::Context,
            Some(by) => self.unit_of(by, scope)?,
        };
        let (hash, first) = match unit {
            Unit::Hash(hash) => (Some(hash), None),
            Unit::Entry(entry) => (self.hash_of_context(), Some(entry)),
            Unit::Context => (self.hash_of_context(), None),
            Unit::Nothing => (None, None),
        };
        let answer = match (&rule.ends, first) {
            (Some(ends), None) => match (hash, ends.last()) {
                (Some(hash), Some(sum)) => {
                    let bucket = bucket_of(hash, u64::from(*sum));
                    let at = ends.partition_point(|end| u64::from(*end) <= bucket);
                    self.trace.detail(|| step("fractional", format!("bucket {bucket} of {sum}"), true));
                    match rule.entries.get(at) {
                        Some(Entry::Pair { variant, .. }) => self.eval(variant, scope)?,
                        _ => Val::Null,
                    }
                }
                _ => Val::Null,
            },
            _ => self.computed(rule, first, hash, scope)?,
        };
        if answer.is_null() {
            self.trace
                .detail(|| step("fractional", "null: no unit to hash, or its stretches do not fit", false));
        }
        Ok(answer)
    }

    /// Entries that must be computed: once for the sum, and once to find the bucket's.
    #[inline(never)]
    fn computed(
        &mut self,
        rule: &'a Fractional,
        first: Option<Val<'a>>,
        hash: Option<u32>,
        scope: Scope<'a>,
    ) -> Result<Val<'a>, Stop> {
        let mut sum = Some(0);
        let mut add = |pair: Option<(Val<'a>, u64)>| {
            sum = sum.zip(pair).map(|(sum, (_, weight))| sum + weight).filter(|sum| *sum <= MAX_SUM);
        };
        if let Some(first) = first {
            add(self.pair_of(first));
        }
        for entry in &rule.entries {
            add(self.entry(entry, scope)?);
        }
        let (Some(hash), Some(sum @ 1..)) = (hash, sum) else { return Ok(Val::Null) };
        let bucket = bucket_of(hash, sum);
        self.trace.detail(|| step("fractional", format!("bucket {bucket} of {sum}"), true));
        let mut end = 0;
        if let Some((variant, weight)) = first.and_then(|first| self.pair_of(first)) {
            end += weight;
            if bucket < end {
                return Ok(variant);
            }
        }
        for entry in &rule.entries {
            let Some((variant, weight)) = self.entry(entry, scope)? else { return Ok(Val::Null) };
            end += weight;
            if bucket < end {
                return Ok(variant);
            }
        }
        Ok(Val::Null)
    }

    fn entry(&mut self, entry: &'a Entry, scope: Scope<'a>) -> Result<Option<(Val<'a>, u64)>, Stop> {
        match entry {
            Entry::Pair { variant, weight } => {
                let variant = self.eval(variant, scope)?;
                let weight = match weight {
                    Some(weight) => {
                        let value = self.eval(weight, scope)?;
                        weight_of(value, self.generation)
                    }
                    None => Some(1),
                };
                Ok(scalar(variant).zip(weight))
            }
            Entry::Computed(node) => {
                let value = self.eval(node, scope)?;
                Ok(self.pair_of(value))
            }
        }
    }

    /// A computed list as variant and weight.
    fn pair_of(&self, list: Val<'a>) -> Option<(Val<'a>, u64)> {
        let variant = scalar(if list.is_list() { self.arena.item(list, 0)? } else { return None })?;
        let weight = match self.arena.item(list, 1) {
            Some(weight) => weight_of(weight, self.generation)?,
            None => 1,
        };
        Some((variant, weight))
    }

    fn unit_of(&mut self, by: &'a Node, scope: Scope<'a>) -> Result<Unit<'a>, Stop> {
        let value = self.eval(by, scope)?;
        Ok(match (value, self.generation) {
            (Val::List(_) | Val::MadeList(_), _) => Unit::Entry(value),
            (Val::Null, Generation::V2) => Unit::Context,
            (Val::Null, Generation::V3) => Unit::Nothing,
            (Val::Text(_) | Val::MadeText(_), generation) => match self.arena.text(value) {
                Some(text) => {
                    self.charge_text(text.len())?;
                    let text = self.arena.text(value).unwrap_or_default();
                    Unit::Hash(generation.hash_of_unit(Murmur3::new(), text))
                }
                None => Unit::Nothing,
            },
            (_, Generation::V2) => Unit::Nothing,
            (Val::Bool(value), Generation::V3) => {
                let mut hash = Murmur3::new();
                cbor::boolean(&mut hash, value);
                Unit::Hash(hash.finish())
            }
            (Val::Number(number), Generation::V3) if number.is_finite() => {
                let mut hash = Murmur3::new();
                cbor::number(&mut hash, number);
                Unit::Hash(hash.finish())
            }
            (Val::Object(object), Generation::V3) => {
                let mut hash = Murmur3::new();
                cbor::object(&mut hash, object, 0, &mut self.steps)?;
                Unit::Hash(hash.finish())
            }
            // The whole context holds the present second: no unit.
            _ => Unit::Nothing,
        })
    }

    fn hash_of_context(&self) -> Option<u32> {
        self.context.unit().map(|unit| self.generation.hash_of_unit(self.seed, unit))
    }
}

/// Only scalars name variants.
fn scalar(value: Val<'_>) -> Option<Val<'_>> {
    let is_scalar =
        matches!(value, Val::Null | Val::Bool(_) | Val::Number(_) | Val::Text(_) | Val::MadeText(_));
    is_scalar.then_some(value)
}

/// Below `sum`, because the hash is below 2^32.
const fn bucket_of(hash: u32, sum: u64) -> u64 {
    (hash as u64 * sum) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_whole_and_bounded() {
        for (number, weight) in [
            (0.0, Some(0)),
            (-0.0, Some(0)),
            (-50.0, Some(0)),
            (f64::NEG_INFINITY, Some(0)),
            (25.0, Some(25)),
            (2_147_483_647.0, Some(2_147_483_647)),
            (2_147_483_648.0, None),
            (0.5, None),
            (-0.5, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(weight_of(Val::Number(number), Generation::V3), weight, "{number}");
        }
        assert_eq!(weight_of(Val::Text("1"), Generation::V2), None);
        assert_eq!(weight_of(Val::Null, Generation::V2), Some(1));
        assert_eq!(weight_of(Val::Null, Generation::V3), None);
    }

    #[test]
    fn a_unit_is_hashed_after_its_flags_key() {
        let joined = |generation: Generation| generation.hash_of_unit(generation.seed("flag"), "unit");
        assert_eq!(joined(Generation::V2), Murmur3::new().with(b"flagunit").finish());
        for generation in [Generation::V2, Generation::V3] {
            for unit in ["", "u", "a unit of more than twenty-three bytes", &"ü".repeat(200)] {
                let whole = generation.hash_of_unit(Murmur3::new(), &format!("layer:a:{unit}"));
                assert_eq!(generation.hash_of_joined("layer:a:", unit), whole, "{generation:?} {unit}");
            }
        }
        assert_eq!(joined(Generation::V3), Murmur3::new().with(b"\x82\x64flag\x64unit").finish());
    }
}
