//! The mark file: two slots, read as they are, and with the checksums put right so that what lies behind them is reached.

#![no_main]

use featureops_cluster::storage::marks;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = marks::decode(input);
    let _ = marks::read(input);

    let mut file = vec![0; marks::FILE_BYTES];
    let mut halves = input.chunks(input.len().div_ceil(2).max(1));
    for offset in [0, marks::SLOT_STRIDE_BYTES] {
        let body = halves.next().unwrap_or_default();
        let length = body.len().min(marks::SLOT_BYTES);
        file[offset..offset + length].copy_from_slice(&body[..length]);
        if let Some((sequence, mark)) = marks::decode(&file[offset..offset + marks::SLOT_BYTES]) {
            // What was read is written as it was read.
            assert_eq!(marks::decode(&marks::encode(&mark, sequence)), Some((sequence, mark)));
        }
    }
    let _ = marks::read(&file);
});
