//! Evaluation: which variant a unit is served, and why.
//!
//! ```text
//!   v1::Flag --compile--> CompiledFlag --apply--> Snapshot --evaluate(context, now)--> Evaluation
//!                                                        \--explain(context, now)----> the same, step by step
//! ```
//!
//! A flag is checked and resolved once, when it is written or published; an evaluation then only looks up, compares
//! and hashes. It takes the time as an argument and returns an answer, never an error: there is nothing in here that
//! can fail, wait, allocate or draw a random number.

#![forbid(unsafe_code)]

mod bucket;
mod compile;
mod condition;
mod context;
mod evaluate;
mod explain;
mod flag;
pub mod flagd;
pub mod limits;
pub mod logic;
pub mod minute;
mod murmur;
mod number;
mod placement;
mod prerequisite;
mod ramp;
mod receipt;
mod refusal;
mod segment;
mod size;
mod snapshot;
mod split;
mod unit;

pub use bucket::{BUCKETS, bucket_of, bucket_of_version};
pub use compile::{check, compile, warnings};
pub use context::{Context, RECEIPT_ATTRIBUTE, TARGETING_KEY_ATTRIBUTE};
pub use evaluate::{Assignment, Evaluation, evaluate, evaluate_all, evaluate_flag};
pub use explain::{Explanation, explain};
pub use flag::CompiledFlag;
pub use murmur::Murmur3;
pub use number::{MAX_SAFE_INTEGER, as_float, as_integer, is_lossless};
pub use receipt::{Key, Receipt, ReceiptError, SealedReceipt, VerifiedReceipt};
pub use refusal::CompileError;
pub use segment::{CompiledSegment, UnitList, check_segment, compile_segment, explain_segment};
pub use snapshot::Snapshot;
pub use unit::UnitKey;
