//! The leader's tick: the only way time enters the log.
//!
//! A wall clock that ran ahead would push log time ahead for good, since log time never goes back. So the leader does not
//! tick while its wall clock is more than a bound ahead of the time that passed since the node started; health says so.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::{Entry, Tick, entry::Command};
use parking_lot::Mutex;
use prost::Message;
use tokio::time::MissedTickBehavior;

use crate::environment::Clock;
use crate::fold::Fold;
use crate::proposer::Proposer;

/// Compares the wall clock with the monotonic one since start.
#[derive(Clone)]
pub(crate) struct ClockWatch {
    clock: Arc<dyn Clock>,
    start_unix_ms: i64,
    start_monotonic_ms: u64,
    lead_ms_max: u64,
    refused: Arc<Mutex<Option<u64>>>,
}

impl ClockWatch {
    pub(crate) fn start(clock: Arc<dyn Clock>, lead_ms_max: u64) -> Self {
        let (start_unix_ms, start_monotonic_ms) = (clock.unix_ms(), clock.monotonic_ms());
        Self { clock, start_unix_ms, start_monotonic_ms, lead_ms_max, refused: Arc::default() }
    }

    /// The wall clock, unless it runs too far ahead.
    fn now_ms(&self) -> Option<i64> {
        let passed = self.clock.monotonic_ms().saturating_sub(self.start_monotonic_ms);
        let expected = self.start_unix_ms.saturating_add_unsigned(passed);
        let now = self.clock.unix_ms();
        let lead = u64::try_from(now.saturating_sub(expected)).unwrap_or(0);
        let refused = (lead > self.lead_ms_max).then_some(lead);
        let mut before = self.refused.lock();
        if refused.is_some() != before.is_some() {
            tracing::warn!(
                lead_ms = lead,
                refused = refused.is_some(),
                "wall clock against time since start"
            );
        }
        *before = refused;
        refused.is_none().then_some(now)
    }

    /// How far the clock was ahead when it was last refused, in milliseconds; `None` while it is trusted.
    pub(crate) fn refused_lead_ms(&self) -> Option<u64> {
        *self.refused.lock()
    }
}

/// Ticks while this node leads, until it ends.
pub(crate) async fn tick<F: Fold>(proposer: Proposer<F>, clock: ClockWatch) {
    let mut closing = proposer.closing();
    let mut interval = tokio::time::interval(Duration::from_millis(proposer.options().tick_ms.max(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick that arrives after a start may step the log's time: the fold takes it whole and audits it.
    let mut after_restart = true;
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            _ = interval.tick() => {}
        }
        let Some(now_ms) = clock.now_ms() else { continue };
        if !proposer.raft().is_leader() {
            continue;
        }
        let tick = Entry { command: Some(Command::Tick(Tick { now_ms, after_restart })), ..Entry::default() };
        match proposer.write(Bytes::from(tick.encode_to_vec())).await {
            Ok(_) => after_restart = false,
            Err(error) => tracing::debug!(error = %error, "tick not written"),
        }
    }
}
