//! Whatever bytes a client calls a batch of facts, the door admits it, turns events off, or refuses it as a whole; and whatever it
//! sends to OFREP, to the webhook, as a selector, a page token or an entity tag is read or refused.

use axum::http::{HeaderMap, HeaderValue, header};
use featureops::door::Door;
use featureops::fronts::ofrep::{context, has};
use featureops::fronts::selector::Selector;
use featureops::page::Page;
use featureops::publisher::Published;
use featureops::webhook;
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
    let unusable = std::sync::atomic::AtomicU64::new(0);
    let door =
        Door { published: &published, unit_key: &unit_key, unusable: &unusable, now_ms: 1_800_000_000_000 };
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
    fn what_the_fronts_read_is_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        let _ = context(&bytes);
        if let Err(message) = webhook::read(&bytes) {
            prop_assert!(message.starts_with("body: "), "{}", message);
        }
        if let Ok(sent) = HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, sent);
            let _ = has(&headers, "\"f3a9\"");
            headers.append(header::IF_NONE_MATCH, HeaderValue::from_static("W/\"f3a9\""));
            prop_assert!(has(&headers, "\"f3a9\""));
        }
    }

    #[test]
    fn texts_are_read_again_as_they_were_written(text in "(source=|flagSetId=|,|[a-z0-9/.-]){0,12}", key in ".{0,40}") {
        for text in [&text, &key] {
            if let Ok(selector) = Selector::parse(text) {
                prop_assert_eq!(Selector::parse(&selector.text()), Ok(selector));
            }
        }
        let scope = ["flags", "p", "live"];
        let first = Page::of(10, "", &scope).unwrap();
        let token = first.token(&key);
        if let Ok(page) = Page::of(10, &token, &scope) {
            prop_assert_eq!(&page.after, &key);
        }
        if !key.is_empty() {
            prop_assert!(Page::of(10, &token, &["flags", "q", "live"]).is_err());
        }
        let _ = Page::of(10, &key, &scope).map(|page| page.before().is_ok());
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
