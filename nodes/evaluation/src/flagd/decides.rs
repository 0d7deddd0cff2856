//! Whether targeting has an answer for everybody, so that nothing behind it is ever reached.
//!
//! By its form alone: what may depend on a context counts as undecided, so that whatever is told of a rule is true.

use featureops_proto::v1;
use serde_json::Value as Json;

use super::export::parsed;

/// Levels of a rule, and of shared rules in it, that are looked through.
const DEPTH_MAX: usize = 64;
/// Rules that are looked at: shared ones that name each other twice would be walked through without end.
const LOOKS_MAX: usize = 100_000;

/// Whether targeting of the environment never results in null for a unit.
#[must_use]
pub fn always_decides(targeting: &str, environment: &v1::Environment) -> bool {
    if targeting.trim().is_empty() {
        return false;
    }
    Look { environment, left: LOOKS_MAX }.decides(&parsed(targeting), 0)
}

struct Look<'e> {
    environment: &'e v1::Environment,
    left: usize,
}

impl Look<'_> {
    fn decides(&mut self, rule: &Json, depth: usize) -> bool {
        if depth > DEPTH_MAX || self.left == 0 {
            return false;
        }
        self.left -= 1;
        let fields = match rule {
            Json::Null | Json::Array(_) => return false,
            Json::Bool(_) | Json::Number(_) | Json::String(_) => return true,
            Json::Object(fields) => fields,
        };
        let Some((operator, given)) = fields.iter().next().filter(|_| fields.len() == 1) else {
            return false;
        };
        match (operator.as_str(), given) {
            ("if" | "?:", Json::Array(arguments)) => self.branches(arguments, depth + 1),
            ("fractional", Json::Array(entries)) => self.stretches(entries, depth + 1),
            // What is true is not null; only the last may be what it is.
            ("or", Json::Array(parts)) => parts.last().is_some_and(|last| self.decides(last, depth + 1)),
            ("and", Json::Array(parts)) => {
                !parts.is_empty() && parts.iter().all(|part| self.decides(part, depth + 1))
            }
            ("cat", _) => true,
            ("$ref", Json::String(name)) => {
                let shared = self.environment.evaluators.get(name).map(|text| parsed(text));
                shared.is_some_and(|rule| self.decides(&rule, depth + 1))
            }
            _ => false,
        }
    }

    fn branches(&mut self, arguments: &[Json], depth: usize) -> bool {
        let mut rest = arguments;
        loop {
            match rest {
                [] => return false,
                [last] => return self.decides(last, depth),
                [Json::Bool(true), result, ..] => return self.decides(result, depth),
                [Json::Bool(false), _, more @ ..] => rest = more,
                [_, result, more @ ..] => {
                    if !self.decides(result, depth) {
                        return false;
                    }
                    rest = more;
                }
            }
        }
    }

    /// Units have a bucket. By another attribute not all do, unless it is made a text.
    fn stretches(&mut self, entries: &[Json], depth: usize) -> bool {
        let mut entries = entries;
        if let [hashed, rest @ ..] = entries
            && !hashed.is_array()
        {
            if hashed.get("cat").is_none() {
                return false;
            }
            entries = rest;
        }
        let has_weight = |entry: &Json| entry.get(1).is_none_or(|weight| weight.as_f64() != Some(0.0));
        entries.iter().any(has_weight)
            && entries.iter().all(|entry| entry.get(0).is_some_and(|name| self.decides(name, depth)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_null_is_not_decided() {
        let evaluators = [
            ("on", r#""on""#),
            ("maybe", r#"{"if":[{"var":"a"},"on"]}"#),
            ("round", r#"{"and":[{"$ref":"round"},{"$ref":"round"}]}"#),
        ];
        let evaluators = evaluators.map(|(name, rule)| (name.to_owned(), rule.to_owned())).into();
        let environment = v1::Environment { evaluators, ..v1::Environment::default() };
        let decides = |rule: &str| always_decides(rule, &environment);
        for rule in [
            r#""on""#,
            r#"{"if":[true,"on"]}"#,
            r#"{"if":[{"var":"a"},"on","off"]}"#,
            r#"{"if":[{"var":"a"},"on",{"fractional":[["on",50],["off",50]]}]}"#,
            r#"{"if":[{"var":"a"},{"$ref":"on"},{"$ref":"on"}]}"#,
            r#"{"fractional":[{"cat":["x",{"var":"targetingKey"}]},["on"],["off"]]}"#,
            r#"{"or":[{"var":"a"},"on"]}"#,
        ] {
            assert!(decides(rule), "{rule}");
        }
        for rule in [
            "",
            "{}",
            "null",
            r#"{"if":[{"var":"a"},"on"]}"#,
            r#"{"if":[{"var":"a"},"on",null]}"#,
            r#"{"if":[false,"on"]}"#,
            r#"{"if":[{"var":"a"},null,"on"]}"#,
            r#"{"fractional":[{"var":"email"},["on"],["off"]]}"#,
            r#"{"fractional":[["on",0]]}"#,
            r#"{"fractional":[["on",1],[null,1]]}"#,
            r#"{"fractional":[]}"#,
            r#"{"$ref":"maybe"}"#,
            r#"{"$ref":"nobody"}"#,
            r#"{"$ref":"round"}"#,
            r#"{"var":"variant"}"#,
        ] {
            assert!(!decides(rule), "{rule}");
        }
    }
}
