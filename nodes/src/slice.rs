//! Long walks in slices: after so much work the others go first, and what was made meanwhile counts.
//!
//! An evaluation of one flag is bounded (see the evaluation crate's limits). One of all flags is as long as there are flags,
//! and a walk that never yields keeps its thread: no deadline fires, and nobody else on it is served.

use std::sync::Arc;

use axum::http::Extensions;
use featureops_evaluation::{CompiledFlag, Evaluation};
use prost::Message as _;
use prost_types::Struct;
use tonic::Status;

use crate::budget::{Account, Held};

/// Work after which the others go first: conditions over small contexts, less than a millisecond of them.
const WORK_MAX: usize = 4_096;
/// Work of a flag without any condition.
const FLAG_WORK: usize = 8;
/// Bytes of a context that a condition reads in the time of one over a small context.
const CONTEXT_STEP_BYTES: usize = 4 << 10;

/// A walk over many flags for one context.
pub struct Walk {
    /// What each condition costs.
    step: usize,
    work: usize,
    bytes: usize,
    account: Option<Arc<Account>>,
    held: Vec<Held>,
}

impl Walk {
    /// A walk that answers a request of these extensions.
    #[must_use]
    pub fn new(context: &Struct, extensions: &Extensions) -> Self {
        Self {
            step: 1 + context.encoded_len() / CONTEXT_STEP_BYTES,
            work: 0,
            bytes: 0,
            account: extensions.get::<Arc<Account>>().cloned(),
            held: Vec::new(),
        }
    }

    /// One flag was evaluated. Lets the others go first when it is time.
    ///
    /// # Errors
    /// There is no room for what the walk has made.
    pub async fn passed(&mut self, flag: &CompiledFlag, evaluation: &Evaluation<'_>) -> Result<(), Status> {
        self.work += FLAG_WORK.saturating_add(flag.conditions_count().saturating_mul(self.step));
        self.bytes += evaluation.value.map_or(0, prost::Message::encoded_len);
        if self.work < WORK_MAX {
            return Ok(());
        }
        self.work = 0;
        // Only a walk that is left standing has something to hold; one of few flags goes through at once.
        if let Some(account) = &self.account {
            self.held.push(account.hold(std::mem::take(&mut self.bytes))?);
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}
