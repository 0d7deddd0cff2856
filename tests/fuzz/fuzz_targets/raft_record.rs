//! A record of the raft log: an entry, written again as the same, or a reason.

#![no_main]

use bytes::Bytes;
use featureops_cluster::raft::record;
use featureops_cluster::storage::{LogEntry, LogPosition};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let position = LogPosition::new(3, 7);
    let Ok(entry) = record::decode(LogEntry { position, payload: Bytes::copy_from_slice(input) }) else {
        return;
    };
    let written = record::encode(entry.clone());
    assert_eq!(written.position, position);
    assert!(record::decode(written).is_ok_and(|again| again == entry));
});
