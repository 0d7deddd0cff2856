//! Policies: from what is believed about the arms to weights in basis points. A policy is named with its version, and a
//! version never changes its arithmetic: a recorded decision must replay to the same bytes, or be refused by name.

pub mod ramp;
pub mod thompson;
pub mod weights;
