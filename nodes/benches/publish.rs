//! One change of one flag among 100,000: from the noted effect to the published snapshot, beside the 5 ms that a recompile may
//! take.
//!
//! `cargo bench -p featureops --bench publish` prints the median and the longest of 101 publications.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock; nothing under test does")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may stop on a wrong setup")]

use std::time::Instant;

use featureops::publisher::{Publisher, Source};
use featureops_proto::log::{Entry, Initialize, ReceiptKey, SetFlag, entry::Command};
use featureops_proto::v1::{Flag, Principal, ValueType, principal};
use featureops_state::{Effect, State};
use parking_lot::Mutex;
use prost::Message as _;

const FLAGS: u64 = 100_000;
const ROUNDS: usize = 101;
const LIMIT_MS: f64 = 5.0;

struct Held(Mutex<(State, u64)>);

impl Held {
    /// Applies a command at the next position.
    fn apply(&self, command: Command) -> (u64, Vec<Effect>) {
        let principal =
            Principal { kind: principal::Kind::Human.into(), id: "ada".to_owned(), verified: false };
        let entry = Entry { principal: Some(principal), command: Some(command), ..Entry::default() };
        let mut effects = Vec::new();
        let (state, position) = &mut *self.0.lock();
        *position += 1;
        state.apply(*position, &entry.encode_to_vec(), &mut effects).unwrap();
        (*position, effects)
    }
}

impl Source for Held {
    fn with(&self, read: &mut dyn FnMut(&State)) {
        read(&self.0.lock().0);
    }
}

fn set(id: &str, disabled: bool) -> Command {
    let flag = Flag {
        name: format!("environments/p/flags/{id}"),
        r#type: ValueType::Boolean.into(),
        variants: [("on".to_owned(), true.into())].into(),
        default_variant: Some("on".to_owned()),
        disabled,
        ..Flag::default()
    };
    Command::SetFlag(SetFlag { flag: Some(flag), etag: String::new() })
}

fn main() {
    let held = Held(Mutex::new((State::default(), 0)));
    let receipt_key = Some(ReceiptKey { id: 1, key: vec![7; 16] });
    held.apply(Command::Initialize(Initialize { cluster: "c".to_owned(), unit_key_id: 7, receipt_key }));
    for n in 0..FLAGS {
        held.apply(set(&format!("f{n}"), false));
    }
    let publisher = Publisher::default();
    publisher.publish(&held);
    let mut times_ms: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let (position, effects) = held.apply(set("f777", round % 2 == 0));
            publisher.note(position, 0, &effects);
            let began = Instant::now();
            publisher.publish(&held);
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times_ms.sort_by(f64::total_cmp);
    let (median, longest) = (times_ms[ROUNDS / 2], times_ms[ROUNDS - 1]);
    println!(
        "one change of {FLAGS} flags: {median:.3} ms at the median, {longest:.3} ms at most; limit {LIMIT_MS} ms"
    );
}
