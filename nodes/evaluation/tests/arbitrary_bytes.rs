//! Whatever bytes a definition or a receipt is made of, there is an answer: compiled, opened, or why not.

mod generated;

use featureops_evaluation::{Context, Key, Receipt, Snapshot, UnitKey, check, compile, evaluate, explain};
use featureops_proto::v1::Flag;
use generated::{ENVIRONMENT, FLAG};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;
use prost_types::Struct;

fn flag(bytes: &[u8]) {
    let Ok(flag) = Flag::decode(bytes) else { return };
    let compiled = compile(&flag, &featureops_proto::v1::Environment::default());
    assert_eq!(
        check(&flag, &featureops_proto::v1::Environment::default()).err(),
        compiled.as_ref().err().cloned()
    );
    let Ok(compiled) = compiled else { return };
    let snapshot = Snapshot::empty().apply([compiled], 1, 0);
    let attributes = Struct::default();
    let context = Context::new(&attributes).with_targeting_key("ada");
    let evaluation = evaluate(&snapshot, ENVIRONMENT, FLAG, &context, 1);
    assert_eq!(explain(&snapshot, ENVIRONMENT, FLAG, &context, 1).evaluation, evaluation);
}

fn receipt(bytes: &[u8]) {
    let (text, unit) = bytes.split_at(bytes.len().min(32));
    for key in [Key::from_bytes(0, &[7; 16]), Key::from_bytes(1, bytes)].into_iter().flatten() {
        assert!(Receipt::open(text, unit, &[key]).is_err(), "nobody guesses a tag");
    }
    let _ = UnitKey::new([7; 16]).hash(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_096, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        flag(&bytes);
        receipt(&bytes);
    }

    #[test]
    fn good_definitions_gone_bad_never_panic(
        good in generated::flag(),
        changes in vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = good.encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        flag(&bytes);
    }
}
