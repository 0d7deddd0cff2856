//! A document that comes back: which of its flags say no more than an export of the present ones.
//!
//! An export writes what flagd's form has no word for as targeting: rules, prerequisites, forced units, ramps, and the
//! allocation of a running experiment. Taken in as it stands that targeting would replace all of them, and stand in front of
//! the allocation, which no unit would reach any more. So a flag whose entry is what its export is stays what it is.
//!
//! | the entry is the flag's export | then |
//! |---|---|
//! | as it is, or before its experiment began, or its trip | [`Again::Same`] |
//! | but for weights of its experiment: these move by themselves | [`Again::OtherWeights`] |

use std::collections::BTreeMap;

use featureops_proto::v1;
use featureops_proto::{Collection, Name};
use serde_json::Value as Json;

use super::export::{SyncForm, entry_of, parsed};
use super::import::entry;
use super::rules;

/// What an entry is to a flag's own export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The same.
    Same,
    /// The same but for the weights of the experiment that holds the flag.
    OtherWeights,
}

/// Flags of a document by name, of those that say what their own export says. `present` holds the flags of that environment
/// that have the same names, and what these rest on.
#[must_use]
pub fn again(
    given: &[v1::Flag],
    present: &[v1::Flag],
    environment: &v1::Environment,
    segments: &[v1::Segment],
) -> BTreeMap<String, Again> {
    let form = SyncForm::of(environment).with_segments(segments);
    let by_name: BTreeMap<&str, &v1::Flag> =
        present.iter().filter(|flag| !flag.archived).map(|flag| (flag.name.as_str(), flag)).collect();
    let same = |given: &v1::Flag| {
        let held = *by_name.get(given.name.as_str())?;
        let name = Name::parse(&held.name, Collection::Flags).ok()?;
        let others =
            |id: &str| by_name.get(Name::format(name.environment, Collection::Flags, id).as_str()).copied();
        earlier(held).into_iter().find_map(|earlier| {
            let written = entry_of(&earlier, &form, &others)?;
            let written = entry(name.id, written, name.environment).ok()?;
            says(given, &written, earlier.allocation.as_ref())
        })
    };
    given.iter().filter_map(|flag| Some((flag.name.clone(), same(flag)?))).collect()
}

/// The flag as it is, and as it was exported before its trip and before its experiment began.
fn earlier(held: &v1::Flag) -> Vec<v1::Flag> {
    let mut all = vec![held.clone()];
    if held.trip.is_some() {
        all.push(v1::Flag { trip: None, ..held.clone() });
    }
    if held.allocation.is_some() {
        all.push(v1::Flag { allocation: None, ..held.clone() });
    }
    all
}

fn says(given: &v1::Flag, written: &v1::Flag, allocation: Option<&v1::Allocation>) -> Option<Again> {
    if given == written {
        return Some(Again::Same);
    }
    let without = |flag: &v1::Flag| v1::Flag { targeting: String::new(), ..flag.clone() };
    if without(given) != without(written) || given.targeting.is_empty() || written.targeting.is_empty() {
        return None;
    }
    let allocation = allocation?;
    let moved = Moved { allocation, written: rules::allocation(allocation) };
    moved.is_alike(&parsed(&written.targeting), &parsed(&given.targeting)).then_some(Again::OtherWeights)
}

/// Compares rules of which one part, the allocation, may have other weights.
struct Moved<'a> {
    allocation: &'a v1::Allocation,
    written: Json,
}

impl Moved<'_> {
    fn is_alike(&self, written: &Json, given: &Json) -> bool {
        if written == given {
            return true;
        }
        if *written == self.written {
            return self.has_weights(written, given);
        }
        same_shape(written, given, |written, given| self.is_alike(written, given))
    }

    fn has_weights(&self, written: &Json, given: &Json) -> bool {
        let stretches = |rule: &Json| rule.get("fractional").and_then(Json::as_array).cloned();
        match (stretches(written), stretches(given)) {
            (Some(written), Some(given)) => self.are_stretches(&written, &given),
            _ => same_shape(written, given, |written, given| self.has_weights(written, given)),
        }
    }

    /// What is hashed is the same, the sum of the weights too, and only arms have some.
    fn are_stretches(&self, written: &[Json], given: &[Json]) -> bool {
        let hashed = |all: &[Json]| all.first().filter(|first| !first.is_array()).cloned();
        let sum = |all: &[Json]| {
            let pairs = all.iter().filter(|entry| entry.is_array());
            pairs.map(|pair| self.weight(pair)).sum::<Option<u64>>()
        };
        let key = hashed(written);
        let (before, after) = (sum(written), sum(given));
        let rest = given.iter().skip(usize::from(key.is_some()));
        key == hashed(given) && before.is_some() && before == after && rest.clone().all(Json::is_array)
    }

    fn weight(&self, pair: &Json) -> Option<u64> {
        let [Json::String(name), Json::Number(weight)] = pair.as_array()?.as_slice() else { return None };
        let known = self.allocation.variants.contains(name) || matches!(name.as_str(), "" | "in" | "out");
        weight.as_u64().filter(|_| known)
    }
}

fn same_shape(written: &Json, given: &Json, mut alike: impl FnMut(&Json, &Json) -> bool) -> bool {
    match (written, given) {
        (Json::Object(written), Json::Object(given)) => {
            written.len() == given.len()
                && written.iter().all(|(key, value)| given.get(key).is_some_and(|other| alike(value, other)))
        }
        (Json::Array(written), Json::Array(given)) => {
            written.len() == given.len() && written.iter().zip(given).all(|(one, other)| alike(one, other))
        }
        _ => written == given,
    }
}
