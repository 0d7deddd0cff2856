//! The mind of an owner: what to serve next, when to stop, and why, from the integers of a frozen position.
//!
//! ```text
//!   DecisionInputs --> moments --> contrast --> policy::thompson --> weights
//!   (integers)         (cells)     (arms at     guardrail        --> trip        --> record --> Decision
//!                                   equal hours) winner          --> proposal
//!                                       |            |
//!                                   confidence    blocks, sample_ratio
//! ```
//!
//! `owner::Owner` is the mind as a step function: events in, actions out. `replay` recomputes a recorded decision.
//! Nothing here reads a clock, draws chance of its own, or keeps what a view of the replicated state does not hold.

#![forbid(unsafe_code)]

pub mod analysis;
pub mod best;
pub mod blocks;
pub mod chance;
pub mod confidence;
pub mod contrast;
pub mod covariates;
pub mod error;
pub mod guardrail;
pub mod matrix;
pub mod moments;
pub mod number;
pub mod owner;
pub mod policy;
pub mod record;
pub mod replay;
pub mod sample_ratio;
pub mod special;
pub mod winner;

/// Version of the mathematics of the decision path. Any change of a recorded number's bits is a new version.
pub const ENGINE: &str = "featureops-decision/1";
