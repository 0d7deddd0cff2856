//! Whatever bytes a disk or a peer hands over, a decoder answers: with what they mean, or with why not.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use featureops_cluster::Fold;
use featureops_cluster::raft::record;
use featureops_cluster::raft::types::{Proposal, log_id};
use featureops_cluster::storage::{LogEntry, LogPosition, Mark, Vote, marks};
use featureops_state::State;
use openraft::EntryPayload;
use proptest::collection::vec;
use proptest::prelude::*;

fn raft_record(bytes: &[u8]) {
    let position = LogPosition::new(3, 7);
    let Ok(entry) = record::decode(LogEntry { position, payload: Bytes::copy_from_slice(bytes) }) else {
        return;
    };
    // What was read is written, and read again as the same.
    let written = record::encode(entry.clone());
    assert_eq!(written.position, position);
    assert_eq!(record::decode(written).unwrap(), entry);
}

fn mark_file(bytes: &[u8]) {
    let _ = marks::decode(bytes);
    let _ = marks::read(bytes);
}

fn folded(bytes: &[u8]) {
    if let Ok(state) = <State as Fold>::decode(bytes) {
        assert_eq!(<State as Fold>::decode(&state.encode()).unwrap().digest(), state.digest());
    }
}

fn all(bytes: &[u8]) {
    raft_record(bytes);
    mark_file(bytes);
    folded(bytes);
    folded(&[b"fostate1", bytes].concat());
}

/// Bytes that begin well: what a decoder refuses at once, it never looks into.
fn good() -> Vec<Vec<u8>> {
    let mark = Mark {
        node: 1,
        incarnation: 7,
        vote: Some(Vote { term: 3, node: 1, committed: true }),
        durable: Some(LogPosition::new(3, 9)),
        ..Mark::default()
    };
    let mut file = marks::encode(&mark, 4);
    file.resize(marks::SLOT_STRIDE_BYTES, 0);
    file.extend(marks::encode(&mark, 5));
    let entry = |payload| record::encode(openraft::Entry { log_id: log_id(LogPosition::new(3, 7)), payload });
    let membership = openraft::Membership::new_with_defaults(vec![[1, 2].into(), [2, 3].into()], []);
    vec![
        file,
        entry(EntryPayload::Blank).payload.to_vec(),
        entry(EntryPayload::Normal(Proposal(vec![7; 40].into()))).payload.to_vec(),
        entry(EntryPayload::Membership(membership)).payload.to_vec(),
        Fold::encode(&State::new()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_096, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        all(&bytes);
    }

    #[test]
    fn good_bytes_gone_bad_never_panic(
        which in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let good = good();
        let mut bytes = which.get(&good).clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        all(&bytes);
        all(&bytes[..cut.index(bytes.len())]);
    }
}
