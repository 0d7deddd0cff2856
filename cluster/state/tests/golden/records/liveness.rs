//! The record of one member's marks.

use featureops_proto::log::LivenessRecord;
use featureops_proto::v1;

use crate::text;

pub fn liveness() -> LivenessRecord {
    LivenessRecord {
        node: 2,
        incarnation: 7,
        mark: v1::member::Mark::Left.into(),
        boot: 0xb007,
        draining: true,
        owner_weight: 50,
        marked_ms: 1_780_272_060_000,
        drained_by: Some(v1::Principal {
            kind: v1::principal::Kind::Human.into(),
            id: text("ada"),
            verified: true,
        }),
    }
}
