//! One change of one flag among 100,000: from the noted effect to the published snapshot, beside the 5 ms that a recompile may
//! take; and what the published snapshot holds of each flag, beside the kibibyte that it may be.
//!
//! `cargo bench -p featureops --bench publish` prints the median and the longest of 101 publications, and the bytes that are
//! allocated for a snapshot of flags with and without rules, over the bytes of their definitions.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock; nothing under test does")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may stop on a wrong setup")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use featureops::publisher::{Publisher, Source};
use featureops_proto::log::{Entry, Initialize, ReceiptKey, SetFlag, entry::Command};
use featureops_proto::v1::condition::Operator;
use featureops_proto::v1::{Condition, Flag, Principal, Rule, ValueType, principal, rule};
use featureops_state::{Effect, State};
use parking_lot::Mutex;
use prost::Message as _;

const FLAGS: u64 = 100_000;
const ROUNDS: usize = 101;
const LIMIT_MS: f64 = 5.0;
const LIMIT_BYTES: usize = 1_024;
/// Rules of a flag that has some, each with two conditions.
const RULES: usize = 3;

/// Counts what is allocated and not freed.
struct Counted;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTED: Counted = Counted;

#[allow(unsafe_code, reason = "an allocator is; it only counts, and hands on to the system's")]
// SAFETY: every call is the system allocator's own.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

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

fn flag(id: &str, disabled: bool, rules: usize) -> Flag {
    let condition = |attribute: &str, value: String| Condition {
        attribute: attribute.to_owned(),
        operator: Operator::Equals.into(),
        values: vec![value.into()],
    };
    let rules = (0..rules).map(|n| Rule {
        id: format!("rule-{n}"),
        conditions: vec![condition("country", format!("C{n}")), condition("plan", format!("plan-{n}"))],
        serve: Some(rule::Serve::Variant("on".to_owned())),
    });
    Flag {
        name: format!("environments/p/flags/{id}"),
        r#type: ValueType::Boolean.into(),
        variants: [("on".to_owned(), true.into())].into(),
        default_variant: Some("on".to_owned()),
        disabled,
        rules: rules.collect(),
        ..Flag::default()
    }
}

fn set(id: &str, disabled: bool, rules: usize) -> Command {
    Command::SetFlag(SetFlag { flag: Some(flag(id, disabled, rules)), etag: String::new() })
}

fn main() {
    size(0);
    size(RULES);
    time();
}

/// 100,000 flags, applied.
fn filled(rules: usize) -> Held {
    let held = Held(Mutex::new((State::default(), 0)));
    let receipt_key = Some(ReceiptKey { id: 1, key: vec![7; 16] });
    held.apply(Command::Initialize(Initialize {
        cluster: "c".to_owned(),
        unit_key_id: 7,
        receipt_key,
        now_ms: 0,
        feature_level: 0,
    }));
    for n in 0..FLAGS {
        held.apply(set(&format!("f{n}"), false, rules));
    }
    held
}

/// What a snapshot holds of each flag.
fn size(rules: usize) {
    let held = filled(rules);
    let publisher = Publisher::default();
    let before = LIVE.load(Ordering::Relaxed);
    publisher.publish(&held);
    let each = LIVE.load(Ordering::Relaxed).saturating_sub(before) / FLAGS as usize;
    let definition = flag("f77777", false, rules).encoded_len();
    println!(
        "{FLAGS} flags of {rules} rules: {each} bytes a flag in the published snapshot, of which the definition has \
         {definition}; limit {LIMIT_BYTES} beyond it"
    );
}

fn time() {
    let held = filled(0);
    let publisher = Publisher::default();
    publisher.publish(&held);
    let mut times_ms: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let (position, effects) = held.apply(set("f777", round % 2 == 0, 0));
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
