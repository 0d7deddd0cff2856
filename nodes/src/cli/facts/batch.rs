//! Events into batches named (producer, sequence), the same names for the same events every time.

use featureops_proto::v1;
use prost::Message as _;

/// Events of a batch. Part of the naming: another size would give the same events other names, and count them twice.
pub const BATCH_EVENTS: usize = 1_000;
/// Batches under one producer. The server remembers 4,096 sequences of a producer; staying below, even the first batch
/// of a very large file is still remembered when its last one is repeated.
pub const PRODUCER_BATCHES: usize = 4_000;

/// Events of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Facts {
    Exposures(Vec<v1::Exposure>),
    Outcomes(Vec<v1::Outcome>),
}

impl Facts {
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Exposures(events) => events.len(),
            Self::Outcomes(events) => events.len(),
        }
    }

    /// Hash of every event as it is sent, and of where to: the same rows for another metric are other facts.
    #[must_use]
    pub fn digest(&self, environment: &str) -> u128 {
        let mut hash = xxhash_rust::xxh3::Xxh3Default::new();
        let mut add = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(environment.as_bytes());
        match self {
            Self::Exposures(events) => events.iter().for_each(|event| add(&event.encode_to_vec())),
            Self::Outcomes(events) => events.iter().for_each(|event| add(&event.encode_to_vec())),
        }
        hash.digest128()
    }

    /// In a producer's name.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Exposures(_) => "exposures",
            Self::Outcomes(_) => "outcomes",
        }
    }
}

/// A batch on its way, with the place of its first event among all.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub first: usize,
    pub facts: v1::FactBatch,
}

impl Batch {
    #[must_use]
    pub fn len(&self) -> usize {
        self.facts.exposures.len().saturating_add(self.facts.outcomes.len())
    }
}

/// Cuts events into batches.
#[must_use]
pub fn batches(environment: &str, producer: &str, facts: Facts) -> Vec<Batch> {
    let frame = |place: usize| v1::FactBatch {
        environment: environment.to_owned(),
        producer: format!("{producer}:{}", place / PRODUCER_BATCHES),
        sequence: (place % PRODUCER_BATCHES) as u64 + 1,
        ..v1::FactBatch::default()
    };
    match facts {
        Facts::Exposures(events) => chunks(events)
            .into_iter()
            .enumerate()
            .map(|(place, exposures)| Batch {
                first: place * BATCH_EVENTS,
                facts: v1::FactBatch { exposures, ..frame(place) },
            })
            .collect(),
        Facts::Outcomes(events) => chunks(events)
            .into_iter()
            .enumerate()
            .map(|(place, outcomes)| Batch {
                first: place * BATCH_EVENTS,
                facts: v1::FactBatch { outcomes, ..frame(place) },
            })
            .collect(),
    }
}

fn chunks<T>(events: Vec<T>) -> Vec<Vec<T>> {
    let mut events = events.into_iter();
    let mut chunks = Vec::new();
    loop {
        let chunk: Vec<T> = events.by_ref().take(BATCH_EVENTS).collect();
        if chunk.is_empty() {
            return chunks;
        }
        chunks.push(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rows_for_another_metric_or_place_are_other_facts() {
        let outcome = |metric: &str| {
            let outcome =
                v1::Outcome { unit: "u".to_owned(), metric: metric.to_owned(), ..v1::Outcome::default() };
            Facts::Outcomes(vec![outcome])
        };
        let named = outcome("a").digest("environments/p");
        assert_eq!(named, outcome("a").digest("environments/p"));
        assert_ne!(named, outcome("b").digest("environments/p"));
        assert_ne!(named, outcome("a").digest("environments/q"));
    }

    #[test]
    fn names_follow_from_the_place_alone() {
        let events = vec![v1::Outcome::default(); BATCH_EVENTS * (PRODUCER_BATCHES + 1) + 1];
        let cut = batches("environments/p", "x", Facts::Outcomes(events));
        let names: Vec<_> =
            cut.iter().map(|b| (b.facts.producer.as_str(), b.facts.sequence, b.len())).collect();
        assert_eq!(names[0], ("x:0", 1, 1_000));
        assert_eq!(names[PRODUCER_BATCHES - 1], ("x:0", 4_000, 1_000));
        assert_eq!(names[PRODUCER_BATCHES], ("x:1", 1, 1_000));
        assert_eq!(names[PRODUCER_BATCHES + 1], ("x:1", 2, 1));
        assert_eq!(cut[1].first, 1_000);
        assert!(batches("e", "x", Facts::Exposures(Vec::new())).is_empty());
    }
}
