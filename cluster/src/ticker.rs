//! The leader's tick: the only way time enters the log.
//!
//! A wall clock that ran ahead would push log time ahead for good, since log time never goes back. So the leader does not
//! tick while its wall clock is more than a bound ahead of the time that passed since the node started; health says so.
//!
//! The first tick after a start catches up an outage in one step. Facts wait for it ([`LogTime`]): judged by the time
//! before the outage, each would look far ahead of the log. So it is tried again soon until there is a leader.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::{Entry, Tick, entry::Command};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::environment::Clock;
use crate::fold::Fold;
use crate::proposer::Proposer;

/// Wait before the first tick is tried again, in milliseconds.
const FIRST_RETRY_MS: u64 = 50;

/// Whether the log's time has caught up since this node started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogTime {
    /// No tick was written yet.
    Behind,
    /// No tick was written yet, because the wall clock runs this far ahead.
    ClockRefused {
        /// How far, in milliseconds.
        lead_ms: u64,
    },
    /// A tick was written.
    Current,
}

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
pub(crate) async fn tick<F: Fold>(
    proposer: Proposer<F>,
    clock: ClockWatch,
    log_time: watch::Sender<LogTime>,
) {
    let mut closing = proposer.closing();
    let every_ms = proposer.options().tick_ms.max(1);
    // The first tick that arrives after a start may step the log's time: the fold takes it whole and audits it.
    let mut after_restart = true;
    let mut interval = ticks(every_ms.min(FIRST_RETRY_MS));
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            _ = interval.tick() => {}
        }
        let now_ms = clock.now_ms();
        if after_restart {
            let refused = clock.refused_lead_ms();
            let now = refused.map_or(LogTime::Behind, |lead_ms| LogTime::ClockRefused { lead_ms });
            log_time.send_replace(now);
        }
        let Some(now_ms) = now_ms else { continue };
        if !proposer.raft().is_leader() {
            continue;
        }
        let tick = Entry { command: Some(Command::Tick(Tick { now_ms, after_restart })), ..Entry::default() };
        match proposer.write(Bytes::from(tick.encode_to_vec())).await {
            Ok(_) if after_restart => {
                after_restart = false;
                log_time.send_replace(LogTime::Current);
                interval = ticks(every_ms);
                interval.tick().await;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(error = %error, "tick not written"),
        }
    }
}

fn ticks(every_ms: u64) -> Interval {
    let mut interval = tokio::time::interval(Duration::from_millis(every_ms));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
