//! What in a set of flags can never happen.
//!
//! Wanted: everything that is told is true. Where a rule's result cannot be told without a context (JsonLogic may compute
//! it), nothing is told about it. [`super::shadow`] says when one rule leaves nothing to another.

use std::collections::{BTreeMap, BTreeSet};

use featureops_evaluation::flagd::always_decides;
use featureops_proto::v1::{self, rule};
use serde_json::{Value as Json, json};

use super::nature::{Nature, Natures};
use super::shadow;
use crate::cli::render::key_of;

/// Levels of targeting that are looked through; deeper ones are taken for computed.
const DEPTH_MAX: usize = 64;
/// Largest sum of a fractional's weights.
const WEIGHT_MAX: i64 = i32::MAX as i64;

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The flag's key; empty: of the environment.
    pub flag: String,
    pub code: &'static str,
    pub path: String,
    pub message: String,
}

impl Finding {
    pub fn json(&self) -> Json {
        json!({ "flag": self.flag, "code": self.code, "path": self.path, "message": self.message })
    }
}

/// Looks through flags and what they share; archived flags are left out.
pub fn findings(flags: &[v1::Flag], environment: &v1::Environment, segments: &[v1::Segment]) -> Vec<Finding> {
    let natures = Natures::of(segments);
    let shared: BTreeMap<&str, Json> = environment
        .evaluators
        .iter()
        .filter_map(|(name, text)| Some((name.as_str(), serde_json::from_str(text).ok()?)))
        .collect();
    let mut all = Vec::new();
    let mut referred = BTreeSet::new();
    for flag in flags.iter().filter(|flag| !flag.archived) {
        let mut look = Look { flag, shared: &shared, natures: &natures, found: Vec::new() };
        look.run(environment, &mut referred);
        all.append(&mut look.found);
    }
    // What only shared rules refer to is referred to as long as one of those is.
    let mut waiting: Vec<String> = referred.iter().cloned().collect();
    while let Some(name) = waiting.pop() {
        let mut inner = BTreeSet::new();
        if let Some(rule) = shared.get(name.as_str()) {
            references(rule, &mut inner, 0);
        }
        waiting.extend(inner.into_iter().filter(|name| referred.insert(name.clone())));
    }
    for name in environment.evaluators.keys().filter(|name| !referred.contains(*name)) {
        all.push(Finding {
            flag: String::new(),
            code: "reference",
            path: format!("evaluators.{name}"),
            message: "no flag refers to this shared rule".to_owned(),
        });
    }
    all.extend(
        flags.iter().filter(|flag| !flag.archived).filter_map(|flag| before_allocation(flag, environment)),
    );
    all
}

/// Targeting that has an answer for everybody leaves nobody to the running experiment.
fn before_allocation(flag: &v1::Flag, environment: &v1::Environment) -> Option<Finding> {
    let found = flag.allocation.is_some() && always_decides(&flag.targeting, environment);
    found.then(|| Finding {
        flag: key_of(&flag.name).to_owned(),
        code: "allocation-never-reached",
        path: "targeting".to_owned(),
        message: "decides for everybody, so that no unit ever enters the running experiment".to_owned(),
    })
}

struct Look<'f> {
    flag: &'f v1::Flag,
    shared: &'f BTreeMap<&'f str, Json>,
    natures: &'f Natures<'f>,
    found: Vec<Finding>,
}

impl Look<'_> {
    fn found(&mut self, code: &'static str, path: impl Into<String>, message: impl Into<String>) {
        let flag = key_of(&self.flag.name).to_owned();
        self.found.push(Finding { flag, code, path: path.into(), message: message.into() });
    }

    /// What an import warned of: it compiles, and what cannot work answers with an error.
    fn compiled(&mut self, environment: &v1::Environment) {
        for (path, message) in featureops_evaluation::warnings(self.flag, environment) {
            // What this page finds by itself it says in its own words: that the rule is no JSON, and which result is no variant.
            let value = message.split("': ").next().unwrap_or_default();
            let said = |found: &Finding| {
                found.code == "targeting"
                    && (found.message.starts_with("is not JSON")
                        || found.message.contains(&format!("{value}'")))
            };
            if !self.found.iter().any(said) {
                self.found("targeting", path, message);
            }
        }
    }

    fn run(&mut self, environment: &v1::Environment, referred: &mut BTreeSet<String>) {
        let flag = self.flag;
        if flag.default_variant.as_ref().is_none_or(String::is_empty) {
            self.found(
                "no-default",
                "default_variant",
                "missing: without a match callers use their code default",
            );
        }
        if flag.safe_variant.is_none() {
            self.found(
                "no-safe",
                "safe_variant",
                "missing: the flag can neither trip nor hold an experiment",
            );
        }
        self.rules();
        self.placement();
        let mut served = self.served_by_rules();
        let targeting = self.targeting(referred);
        self.compiled(environment);
        if let Some(Results { variants, computed, .. }) = &targeting {
            if *computed {
                // It may name any variant.
                return;
            }
            served.extend(variants.iter().cloned());
        }
        let named = [&flag.default_variant, &flag.safe_variant].into_iter().flatten().cloned();
        served.extend(named);
        served.extend(flag.allocation.iter().flat_map(|allocation| allocation.variants.iter().cloned()));
        let unserved: Vec<&String> = flag.variants.keys().filter(|name| !served.contains(*name)).collect();
        served.extend(flag.forced.values().cloned());
        let varies = !flag.rules.is_empty() || targeting.is_some() || flag.allocation.is_some();
        if varies {
            for name in unserved {
                self.found("variant-never-served", format!("variants.{name}"), "nothing serves this variant");
            }
        } else if unserved.len() >= 2 {
            // One is what a switch keeps for later.
            let names = unserved.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            let default = flag.default_variant.as_deref().unwrap_or("the code default");
            let message = format!("everybody gets {default}; nothing serves {names}");
            self.found("variants-unused", "variants", message);
        }
    }

    fn rules(&mut self) {
        let flag = self.flag;
        for (at, rule) in flag.rules.iter().enumerate() {
            if let Nature::Never(why) = self.natures.clause(&rule.conditions) {
                let message = format!("rule '{}': {why}", rule.id);
                self.found("rule-never-matches", format!("rules[{at}].conditions"), message);
                continue;
            }
            let earlier = flag.rules.iter().take(at).find(|earlier| {
                !matches!(self.natures.clause(&earlier.conditions), Nature::Never(_))
                    && shadow::covers(&self.natures.deciding(&earlier.conditions), &rule.conditions)
            });
            if let Some(earlier) = earlier {
                let message = format!("rule '{}' before it matches whenever it would", earlier.id);
                self.found("rule-never-matches", format!("rules[{at}]"), message);
            }
        }
        let always = |rule: &v1::Rule| self.natures.clause(&rule.conditions) == Nature::Always;
        let everybody = flag.rules.iter().position(always);
        if let Some(at) = everybody
            && flag.allocation.is_some()
        {
            let message = "matches everybody, so that no unit ever enters the running experiment";
            self.found("allocation-never-reached", format!("rules[{at}]"), message);
        }
    }

    /// Whom layer and holdouts leave to the running experiment.
    fn placement(&mut self) {
        let flag = self.flag;
        let Some(allocation) = &flag.allocation else { return };
        for (at, share) in allocation.holdouts.iter().enumerate().filter(|(_, s)| s.basis_points >= 10_000) {
            let message = format!(
                "holdout {} holds everybody, so that no unit ever enters the running experiment",
                share.holdout
            );
            self.found("allocation-never-reached", format!("allocation.holdouts[{at}]"), message);
        }
    }

    fn served_by_rules(&mut self) -> BTreeSet<String> {
        let mut served = BTreeSet::new();
        for (at, rule) in self.flag.rules.iter().enumerate() {
            match &rule.serve {
                Some(rule::Serve::Variant(name)) => {
                    served.insert(name.clone());
                }
                Some(rule::Serve::Split(split)) => {
                    for (nth, entry) in split.variants.iter().enumerate() {
                        if entry.weight_basis_points == 0 {
                            let path = format!("rules[{at}].split.variants[{nth}]");
                            self.found("weight", path, format!("{} has no weight", entry.variant));
                        } else {
                            served.insert(entry.variant.clone());
                        }
                    }
                }
                Some(rule::Serve::Ramp(ramp)) => {
                    served.extend([ramp.variant.clone(), ramp.otherwise.clone()]);
                }
                None => {}
            }
        }
        served
    }

    /// What targeting may result in; `None` when there is none.
    fn targeting(&mut self, referred: &mut BTreeSet<String>) -> Option<Results> {
        let text = self.flag.targeting.trim();
        if text.is_empty() {
            return None;
        }
        let rule = match serde_json::from_str::<Json>(text) {
            Ok(Json::Object(fields)) if fields.is_empty() => return None,
            Ok(rule) => rule,
            Err(error) => {
                self.found("targeting", "targeting", format!("is not JSON: {error}"));
                return Some(Results { computed: true, ..Results::default() });
            }
        };
        let mut own = BTreeSet::new();
        references(&rule, &mut own, 0);
        for name in own.iter().filter(|name| !self.shared.contains_key(name.as_str())) {
            self.found(
                "reference",
                "targeting",
                format!("refers to the shared rule '{name}', which is none"),
            );
        }
        referred.extend(own);
        self.fractionals(&rule, "targeting", 0);
        let mut results = Results::default();
        results.collect(&rule, self.shared, 0);
        let strangers: Vec<String> =
            results.variants.iter().filter(|name| !self.flag.variants.contains_key(*name)).cloned().collect();
        for name in strangers {
            self.found("targeting", "targeting", format!("results in '{name}', which is no variant"));
        }
        Some(results)
    }

    /// Weights of every fractional in a rule. Computed ones (a ramp) are not judged.
    fn fractionals(&mut self, rule: &Json, path: &str, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        match rule {
            Json::Array(list) => {
                for (at, inner) in list.iter().enumerate() {
                    self.fractionals(inner, &format!("{path}[{at}]"), depth + 1);
                }
            }
            Json::Object(fields) => {
                for (operator, given) in fields {
                    let path = format!("{path}.{operator}");
                    if operator == "fractional" {
                        self.weights(given, &path);
                    }
                    self.fractionals(given, &path, depth + 1);
                }
            }
            _ => {}
        }
    }

    fn weights(&mut self, given: &Json, path: &str) {
        let Some(entries) = given.as_array() else { return };
        let mut sum = 0i64;
        for (at, entry) in entries.iter().enumerate() {
            let Some([name, rest @ ..]) = entry.as_array().map(Vec::as_slice) else { continue };
            let weight = match rest.first() {
                None => 1,
                Some(Json::Number(number)) => {
                    let Some(weight) = number.as_i64() else {
                        let message =
                            format!("the weight {number} is no whole number: everybody gets the default");
                        self.found("weight", format!("{path}[{at}]"), message);
                        return;
                    };
                    weight
                }
                Some(_) => return,
            };
            if weight <= 0 {
                self.found("weight", format!("{path}[{at}]"), format!("{} has no weight", text_of(name)));
            }
            sum = sum.saturating_add(weight.max(0));
        }
        if sum > WEIGHT_MAX {
            let message = format!("weights sum to {sum}, more than {WEIGHT_MAX}: everybody gets the default");
            self.found("weight", path, message);
        }
    }
}

/// What a rule may result in.
#[derive(Debug, Default, PartialEq, Eq)]
struct Results {
    variants: BTreeSet<String>,
    /// Something that cannot be told without a context.
    computed: bool,
    /// Shared rules that were followed, and those of them that are being followed.
    seen: BTreeSet<String>,
    open: BTreeSet<String>,
}

impl Results {
    fn collect(&mut self, rule: &Json, shared: &BTreeMap<&str, Json>, depth: usize) {
        if depth > DEPTH_MAX {
            self.computed = true;
            return;
        }
        let fields = match rule {
            Json::Null => return,
            Json::String(name) => {
                self.variants.insert(name.clone());
                return;
            }
            Json::Bool(_) | Json::Number(_) => {
                self.variants.insert(rule.to_string());
                return;
            }
            Json::Array(_) => {
                self.computed = true;
                return;
            }
            Json::Object(fields) => fields,
        };
        let Some((operator, given)) = fields.iter().next().filter(|_| fields.len() == 1) else {
            self.computed = true;
            return;
        };
        match (operator.as_str(), given) {
            ("if" | "?:", Json::Array(branches)) => {
                let last = branches.len().saturating_sub(1);
                for (at, branch) in branches.iter().enumerate() {
                    // Conditions stand at even places, but for the last one: that is "else".
                    if at % 2 == 1 || at == last {
                        self.collect(branch, shared, depth + 1);
                    }
                }
            }
            ("fractional", Json::Array(entries)) => {
                for entry in entries {
                    match entry.as_array().map(Vec::as_slice) {
                        Some([_, Json::Number(weight), ..]) if weight.as_i64().is_some_and(|w| w <= 0) => {}
                        Some([name, ..]) => self.collect(name, shared, depth + 1),
                        // What is bucketed by.
                        _ => {}
                    }
                }
            }
            ("and" | "or", Json::Array(parts)) => {
                for part in parts {
                    self.collect(part, shared, depth + 1);
                }
            }
            ("$ref", Json::String(name)) => match shared.get(name.as_str()) {
                None => self.computed = true,
                // In a circle.
                Some(_) if self.open.contains(name) => self.computed = true,
                // Once is enough: a second time it results in the same. Else a few rules that name others twice are walked
                // through more often than there is time for.
                Some(rule) if self.seen.insert(name.clone()) => {
                    self.open.insert(name.clone());
                    self.collect(rule, shared, depth + 1);
                    self.open.remove(name);
                }
                Some(_) => {}
            },
            _ => self.computed = true,
        }
    }
}

fn references(rule: &Json, into: &mut BTreeSet<String>, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match rule {
        Json::Array(list) => list.iter().for_each(|inner| references(inner, into, depth + 1)),
        Json::Object(fields) => {
            for (key, inner) in fields {
                match inner {
                    Json::String(name) if key == "$ref" => {
                        into.insert(name.clone());
                    }
                    _ => references(inner, into, depth + 1),
                }
            }
        }
        _ => {}
    }
}

fn text_of(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rule::parse_rule;

    fn flag(rules: &[&str], targeting: &str, variants: &[&str]) -> v1::Flag {
        v1::Flag {
            name: "environments/p/flags/f".to_owned(),
            variants: variants.iter().map(|name| ((*name).to_owned(), true.into())).collect(),
            default_variant: Some("off".to_owned()),
            safe_variant: Some("off".to_owned()),
            rules: rules
                .iter()
                .enumerate()
                .map(|(at, text)| parse_rule(text, &format!("r{at}")).unwrap())
                .collect(),
            targeting: targeting.to_owned(),
            ..v1::Flag::default()
        }
    }

    fn codes(flag: &v1::Flag) -> Vec<(&'static str, String)> {
        let found = findings(std::slice::from_ref(flag), &v1::Environment::default(), &[]);
        found.into_iter().map(|finding| (finding.code, finding.path)).collect()
    }

    #[test]
    fn a_holdout_of_everybody_leaves_nobody_to_the_experiment() {
        let share = |basis_points| v1::HoldoutShare { holdout: format!("h{basis_points}"), basis_points };
        let allocation = v1::Allocation {
            variants: vec!["off".to_owned(), "on".to_owned()],
            holdouts: vec![share(9_999), share(10_000)],
            ..v1::Allocation::default()
        };
        let held = v1::Flag { allocation: Some(allocation), ..flag(&[], "", &["off", "on"]) };
        assert_eq!(codes(&held), [("allocation-never-reached", "allocation.holdouts[1]".to_owned())]);
    }

    #[test]
    fn targeting_that_decides_for_everybody_leaves_nobody_to_the_experiment() {
        let variants = ["off", "on"];
        let held = |targeting: &str| {
            let variants = variants.map(ToOwned::to_owned).to_vec();
            let allocation = Some(v1::Allocation { variants, ..v1::Allocation::default() });
            v1::Flag { allocation, ..flag(&[], targeting, &["off", "on"]) }
        };
        let never = [("allocation-never-reached", "targeting".to_owned())];
        assert_eq!(codes(&held(r#"{"fractional":[["off",5000],["on",5000]]}"#)), never);
        assert_eq!(codes(&held(r#"{"if":[{"var":"a"},"on","off"]}"#)), never);
        assert_eq!(codes(&held(r#"{"if":[{"var":"a"},"on"]}"#)), []);
        assert_eq!(codes(&flag(&[], r#"{"if":[true,"on"]}"#, &variants)), []);
    }

    #[test]
    fn rules_behind_others_and_against_themselves() {
        let clean = flag(&["a = 1 -> on", "b = 2 -> on"], "", &["off", "on"]);
        assert_eq!(codes(&clean), []);
        let behind = flag(
            &["a = 1 -> on", "a = 1 and b = 2 -> off", "always -> on", "c exists -> off"],
            "",
            &["off", "on"],
        );
        let never = |path: &str| ("rule-never-matches", path.to_owned());
        assert_eq!(codes(&behind), [never("rules[1]"), never("rules[3]")]);
        let against = flag(&["a = 1 and a = 2 -> on", "a = 1 -> on"], "", &["off", "on"]);
        assert_eq!(codes(&against), [never("rules[0].conditions")], "what never matches hides nothing");
    }

    #[test]
    fn variants_and_weights() {
        let switch = flag(&[], "", &["off", "on"]);
        assert_eq!(codes(&switch), [], "a switch keeps one for later");
        let idle = flag(&[], "", &["off", "on", "on2"]);
        assert_eq!(codes(&idle), [("variants-unused", "variants".to_owned())]);
        let split = flag(&["a = 1 -> split on=10000,on2=0"], "", &["off", "on", "on2"]);
        let expected = [
            ("weight", "rules[0].split.variants[1]".to_owned()),
            ("variant-never-served", "variants.on2".to_owned()),
        ];
        assert_eq!(codes(&split), expected);
        let bare = v1::Flag { default_variant: None, safe_variant: None, ..switch };
        let missing = codes(&bare).into_iter().map(|(code, _)| code).collect::<Vec<_>>();
        assert_eq!(missing, ["no-default", "no-safe", "variants-unused"]);
    }

    #[test]
    fn targeting_is_followed_as_far_as_it_can_be_told() {
        let variants = ["off", "on", "on2"];
        let of = |targeting: &str| codes(&flag(&[], targeting, &variants));
        assert_eq!(of(r#"{"if": [{"==": [{"var": "a"}, 1]}, "on", {"==": [{"var": "a"}, 2]}, "on2"]}"#), []);
        assert_eq!(
            of(r#"{"if": [{"==": [{"var": "a"}, 1]}, "on"]}"#),
            [("variant-never-served", "variants.on2".to_owned())]
        );
        assert_eq!(of(r#"{"var": "variant"}"#), [], "it may be any");
        assert_eq!(
            of(r#"{"fractional": [["on", 0], ["on2", 50], ["off", 50]]}"#),
            [
                ("weight", "targeting.fractional[0]".to_owned()),
                ("variant-never-served", "variants.on".to_owned())
            ]
        );
        let large = of(r#"{"fractional": [["on", 2147483647], ["on2", 1]]}"#);
        assert_eq!(large, [("weight", "targeting.fractional".to_owned())]);
        assert_eq!(of(r#"{"if": [true, "onn", "on", "on2"]}"#)[0].0, "targeting");
        assert_eq!(of("{")[0], ("targeting", "targeting".to_owned()));
        assert_eq!(of("{").iter().filter(|found| found.0 == "targeting").count(), 1);
        // What an import warns of, and evaluations answer with an error.
        let imported = v1::Flag {
            r#type: v1::ValueType::Boolean.into(),
            imported: true,
            ..flag(&[], r#"{"if": [{"nonsense": []}, "on", "on2"]}"#, &variants)
        };
        let told = codes(&imported);
        assert!(told.iter().any(|found| found.0 == "targeting"), "{told:?}");
    }

    #[test]
    fn shared_rules_that_nobody_and_that_only_others_refer_to() {
        let rules = [("a", r#"{"$ref": "b"}"#), ("b", r#""on""#), ("c", "true")];
        let evaluators = rules.map(|(name, rule)| (name.to_owned(), rule.to_owned())).into();
        let environment = v1::Environment { evaluators, ..v1::Environment::default() };
        let flags = [flag(&[], r#"{"if": [true, {"$ref": "a"}]}"#, &["off", "on"])];
        let found = findings(&flags, &environment, &[]);
        assert_eq!(found.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["evaluators.c"]);
        // Twice itself, and rules that each name the next one twice: followed once each.
        let twice = |name: &str| format!(r#"{{"and":[{{"$ref":"{name}"}},{{"$ref":"{name}"}}]}}"#);
        let mut rules: BTreeMap<String, String> = [("a".to_owned(), twice("a"))].into();
        rules.extend((0..60).map(|n| (format!("r{n}"), twice(&format!("r{}", n + 1)))));
        rules.insert("r60".to_owned(), r#""on""#.to_owned());
        let environment = v1::Environment { evaluators: rules, ..v1::Environment::default() };
        let flags = [
            flag(&[], r#"{"$ref": "a"}"#, &["off", "on"]),
            flag(&[], r#"{"$ref": "r30"}"#, &["off", "on", "on2"]),
            flag(&[], r#"{"or": [{"$ref": "r40"}, {"$ref": "a"}]}"#, &["off", "on", "on2"]),
        ];
        let found = findings(&flags, &environment, &[]);
        let unused = (0..30).map(|n| format!("evaluators.r{n}"));
        let mut expected: Vec<String> = unused.collect();
        expected.sort();
        expected.insert(0, "variants.on2".to_owned());
        assert_eq!(
            found.iter().map(|f| f.path.clone()).collect::<Vec<_>>(),
            expected,
            "a circle may result in any"
        );
        let dangling = [flag(&[], r#"{"$ref": "nobody"}"#, &["off", "on"])];
        assert_eq!(findings(&dangling, &v1::Environment::default(), &[])[0].code, "reference");
    }
}
