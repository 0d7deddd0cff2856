//! The size of a definition: its bytes, the depth of its values and the numbers in them, bounded before anything of it
//! is copied.

use featureops_proto::v1::{self, rule};
use prost_types::{Value, value::Kind};

use crate::limits;
use crate::number::is_lossless;
use crate::refusal::{Outcome, refused};

/// Bounds the definition's bytes, and the depth and numbers of every value. Says how many bytes there are.
pub(crate) fn check_size(flag: &v1::Flag) -> Outcome<usize> {
    let mut bytes = flag.description.len() + flag.owner.len();
    bytes += flag.targeting.len();
    for (key, value) in flag.metadata.iter().flat_map(|metadata| &metadata.fields) {
        bytes += key.len() + weigh(value, 1, &|| format!("metadata[{key}]"))?;
    }
    bytes += flag.tags.iter().map(|tag| tag.len() + 16).sum::<usize>();
    for prerequisite in &flag.prerequisites {
        let variants = prerequisite.variants.iter().map(|variant| variant.len() + 16);
        bytes += 16 + prerequisite.flag.len() + variants.sum::<usize>();
    }
    bytes += flag.forced.iter().map(|(unit, variant)| unit.len() + variant.len() + 16).sum::<usize>();
    for (name, value) in &flag.variants {
        bytes += name.len() + weigh(value, 1, &|| format!("variants[{name}]"))?;
    }
    for (at, rule) in flag.rules.iter().enumerate() {
        bytes += 16 + rule.id.len();
        bytes += weigh_conditions(&rule.conditions, || format!("rules[{at}].conditions"))?;
        if let Some(rule::Serve::Split(split)) = &rule.serve {
            bytes += split.variants.iter().map(|entry| entry.variant.len() + 16).sum::<usize>();
        }
        if let Some(rule::Serve::Ramp(ramp)) = &rule.serve {
            bytes += ramp.variant.len() + ramp.otherwise.len() + 32;
        }
    }
    if bytes > limits::MAX_FLAG_BYTES {
        let max = limits::MAX_FLAG_BYTES;
        return refused(
            "flag",
            bytes,
            format_args!("a definition has at most {max} bytes; shorten lists or values"),
        );
    }
    Ok(bytes)
}

/// The bytes of a row of conditions at a path.
pub(crate) fn weigh_conditions(conditions: &[v1::Condition], path: impl Fn() -> String) -> Outcome<usize> {
    let mut bytes = 0;
    for (nth, condition) in conditions.iter().enumerate() {
        bytes += 16 + condition.attribute.len();
        for (at, value) in condition.values.iter().enumerate() {
            bytes += weigh(value, 1, &|| format!("{}[{nth}].values[{at}]", path()))?;
        }
    }
    Ok(bytes)
}

/// A value's bytes: its text, and 16 for every value in it.
fn weigh(value: &Value, depth: usize, path: &dyn Fn() -> String) -> Outcome<usize> {
    if depth > limits::MAX_DEPTH {
        let max = limits::MAX_DEPTH;
        return refused(path(), depth, format_args!("values have at most {max} levels; flatten the object"));
    }
    let inner = match &value.kind {
        Some(Kind::NumberValue(number)) if !is_lossless(*number) => {
            return refused(
                path(),
                number,
                "numbers are finite and at most 2^53 - 1 in size, or they would not read back equal; use a string",
            );
        }
        None | Some(Kind::NullValue(_) | Kind::BoolValue(_) | Kind::NumberValue(_)) => 0,
        Some(Kind::StringValue(text)) => text.len(),
        Some(Kind::ListValue(list)) => {
            let mut sum = 0;
            for value in &list.values {
                sum += weigh(value, depth + 1, path)?;
            }
            sum
        }
        Some(Kind::StructValue(object)) => {
            let mut sum = 0;
            for (key, value) in &object.fields {
                sum += key.len() + weigh(value, depth + 1, path)?;
            }
            sum
        }
    };
    Ok(16 + inner)
}
