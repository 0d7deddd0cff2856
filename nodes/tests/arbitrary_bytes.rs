//! Whatever bytes a client calls a batch of facts, the door admits it, turns events off, or refuses it as a whole.

use featureops::door::Door;
use featureops::publisher::Published;
use featureops_evaluation::{Key, UnitKey};
use featureops_proto::v1::{Arm, Experiment, Exposure, FactBatch, Metric, Outcome, experiment};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;

fn published() -> Published {
    let mut published = Published::default();
    published.registry.put_metric(&Metric {
        name: "environments/p/metrics/m".to_owned(),
        decimal_scale: Some(2),
        number: 9,
        ..Metric::default()
    });
    published.registry.put_experiment(&Experiment {
        name: "environments/p/experiments/e".to_owned(),
        number: 4,
        arms: ["off", "on"].map(|variant| Arm { variant: variant.to_owned(), established: false }).to_vec(),
        state: experiment::State::Running.into(),
        ..Experiment::default()
    });
    published.receipt_keys = Key::new(1, [7; 16]).into_iter().collect();
    published
}

fn good() -> FactBatch {
    let exposure = Exposure {
        experiment: "e".to_owned(),
        unit: "ada".to_owned(),
        variant: "on".to_owned(),
        receipt: "HwAAAAcITkhATiAAAAASZ2JY8wAfniWs".to_owned(),
        ..Exposure::default()
    };
    let outcome = Outcome {
        metric: "m".to_owned(),
        unit: "ada".to_owned(),
        value: Some(19.99),
        event_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 5 }),
        ..Outcome::default()
    };
    FactBatch {
        environment: "p".to_owned(),
        producer: "shop".to_owned(),
        sequence: 1,
        exposures: vec![exposure],
        outcomes: vec![outcome],
    }
}

fn admit(bytes: &[u8]) {
    let Ok(batch) = FactBatch::decode(bytes) else { return };
    let (published, unit_key) = (published(), UnitKey::new([1; 16]));
    let door = Door { published: &published, unit_key: &unit_key, now_ms: 1_800_000_000_000 };
    if let Ok(admitted) = door.admit(&batch) {
        let events = batch.exposures.len() + batch.outcomes.len();
        assert_eq!(admitted.exposures.len() + admitted.outcomes.len() + admitted.door.len(), events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_096, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        admit(&bytes);
    }

    #[test]
    fn good_batches_gone_bad_never_panic(changes in vec((any::<Index>(), any::<u8>()), 0..6)) {
        let mut bytes = good().encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        admit(&bytes);
    }
}
