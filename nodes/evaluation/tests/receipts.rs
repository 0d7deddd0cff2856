//! A receipt says what it was sealed with, to the unit it was sealed for, and nothing else to anybody.

use featureops_evaluation::{Context, Key, Receipt, ReceiptError};
use proptest::prelude::*;
use prost_types::{Struct, Value};

prop_compose! {
    fn receipts()(
        experiment in any::<u32>(),
        arm in 0u8..32,
        generation in 1u32..=32,
        minute in 0u32..1 << 21,
        propensity_basis_points in 0u32..1 << 14,
        position in 0u64..1 << 43,
    ) -> Receipt {
        Receipt { experiment, arm, generation, minute, propensity_basis_points, position }
    }
}

fn keys() -> [Key; 2] {
    [Key::new(0, [7; 16]), Key::new(15, [8; 16])].map(|key| key.unwrap_or_else(|| unreachable!()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sealed_is_opened_by_its_unit_only(
        receipt in receipts(), which in 0usize..2, unit in ".{0,40}", other in ".{0,40}",
    ) {
        let sealed = receipt.seal(&keys()[which], unit.as_bytes()).unwrap();
        prop_assert_eq!(sealed.as_str().len(), 32);
        prop_assert!(sealed.as_str().bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));
        let opened = Receipt::open(sealed.as_bytes(), unit.as_bytes(), &keys());
        prop_assert_eq!(opened.map(|receipt| *receipt.fields()), Ok(receipt));
        if other != unit {
            let foreign = Receipt::open(sealed.as_bytes(), other.as_bytes(), &keys());
            prop_assert_eq!(foreign, Err(ReceiptError::BadTag));
        }
        prop_assert_eq!(Receipt::open(sealed.as_bytes(), unit.as_bytes(), &[]), Err(ReceiptError::UnknownKey));
        // The same id with other bytes is a forger's key.
        let forged = Key::new(keys()[which].id(), [9; 16]).unwrap();
        prop_assert_eq!(Receipt::open(sealed.as_bytes(), unit.as_bytes(), &[forged]), Err(ReceiptError::BadTag));
    }

    #[test]
    fn no_single_flipped_bit_opens(receipt in receipts(), unit in ".{0,40}") {
        let sealed = receipt.seal(&keys()[0], unit.as_bytes()).unwrap();
        for bit in 0..32 * 8 {
            let mut text = *sealed.as_bytes();
            text[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Receipt::open(&text, unit.as_bytes(), &keys()).is_err(), "bit {}", bit);
        }
        // The unit's bits are under the tag too.
        for bit in 0..unit.len() * 8 {
            let mut bytes = unit.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Receipt::open(sealed.as_bytes(), &bytes, &keys()), Err(ReceiptError::BadTag));
        }
    }

    #[test]
    fn any_bytes_are_answered(text in prop::collection::vec(any::<u8>(), 0..80), unit in prop::collection::vec(any::<u8>(), 0..20)) {
        prop_assert!(Receipt::open(&text, &unit, &keys()).is_err());
    }

    #[test]
    fn any_32_characters_are_answered(text in "[A-Za-z0-9_-]{32}") {
        prop_assert!(Receipt::open(text.as_bytes(), b"ada", &keys()).is_err());
    }
}

const SAMPLE: Receipt = Receipt {
    experiment: 7,
    arm: 1,
    generation: 2,
    minute: 468_000,
    propensity_basis_points: 2_500,
    position: 4_711,
};

/// The bytes on the wire are frozen: clients keep receipts for weeks.
#[test]
fn the_golden_receipt() {
    let sealed = SAMPLE.seal(&keys()[1], b"user-1").unwrap();
    assert_eq!(sealed.as_str(), "HwAAAAcITkhATiAAAAASZ2JY8wAfniWs");
}

#[test]
fn what_does_not_fit_is_not_sealed() {
    let seal = |receipt: Receipt| receipt.seal(&keys()[0], b"ada");
    assert!(seal(SAMPLE).is_some());
    assert_eq!(seal(Receipt { arm: 32, ..SAMPLE }), None);
    assert_eq!(seal(Receipt { generation: 0, ..SAMPLE }), None);
    assert_eq!(seal(Receipt { generation: 33, ..SAMPLE }), None);
    assert_eq!(seal(Receipt { minute: 1 << 21, ..SAMPLE }), None);
    assert_eq!(seal(Receipt { propensity_basis_points: 1 << 14, ..SAMPLE }), None);
    assert_eq!(seal(Receipt { position: 1 << 43, ..SAMPLE }), None);
    assert_eq!(Key::new(16, [0; 16]), None);
}

#[test]
fn a_context_opens_a_receipt_for_its_own_unit_and_drops_it_with_the_unit() {
    let sealed = SAMPLE.seal(&keys()[0], b"ada").unwrap();
    let with = |unit: &str| Struct {
        fields: [
            ("targetingKey".to_owned(), Value::from(unit)),
            ("featureopsReceipt".to_owned(), Value::from(sealed.as_str())),
        ]
        .into(),
    };
    let (ada, bob) = (with("ada"), with("bob"));
    let mut context = Context::new(&ada);
    let text = context.receipt_text().unwrap();
    assert!(context.open_receipt(text.as_bytes(), &keys()).is_ok());
    assert_eq!(context.receipt().map(|receipt| *receipt.fields()), Some(SAMPLE));
    assert_eq!(context.with_targeting_key("bob").receipt(), None);

    let mut foreign = Context::new(&bob);
    assert_eq!(foreign.open_receipt(text.as_bytes(), &keys()), Err(ReceiptError::BadTag));
    assert_eq!(foreign.receipt(), None);
    assert_eq!(Context::empty().open_receipt(text.as_bytes(), &keys()), Err(ReceiptError::NoUnit));
}
