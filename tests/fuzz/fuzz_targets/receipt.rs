//! Receipts: any 32 characters, any unit; and what was sealed is opened by its unit alone.

#![no_main]

use featureops_evaluation::{Key, Receipt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let keys: Vec<Key> = [Key::new(0, [7; 16]), Key::new(15, [8; 16])].into_iter().flatten().collect();
    let (text, unit) = input.split_at(input.len().min(32));
    if let Ok(opened) = Receipt::open(text, unit, &keys) {
        // Not known to happen by chance; if it does, it is the very receipt that this key seals.
        let sealed = keys.iter().filter_map(|key| opened.fields().seal(key, unit));
        assert!(sealed.into_iter().any(|sealed| sealed.as_bytes().as_slice() == text));
    }
});
