//! The door of facts: a batch as a client sends it becomes what the log holds, or is refused.

#![no_main]

use featureops::door::Door;
use featureops::publisher::Published;
use featureops_evaluation::{Key, UnitKey};
use featureops_proto::v1::{Arm, Experiment, FactBatch, Metric, experiment};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|input: &[u8]| {
    let Ok(mut batch) = FactBatch::decode(input) else { return };
    if batch.environment.is_empty() {
        batch.environment = "p".to_owned();
    }
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
    let unit_key = UnitKey::new([1; 16]);
    let door = Door { published: &published, unit_key: &unit_key, now_ms: 1_800_000_000_000 };
    if let Ok(admitted) = door.admit(&batch) {
        // Each event is admitted or turned off, none twice.
        let events = batch.exposures.len() + batch.outcomes.len();
        assert_eq!(admitted.exposures.len() + admitted.outcomes.len() + admitted.door.len(), events);
    }
});
