//! The leader's tick: the only way time enters the log.
//!
//! A wall clock that ran ahead would push log time ahead for good, since log time never goes back; one that fell behind
//! would hold it, and with it every guardrail. So the leader ticks by a trusted clock: the wall clock while that is within a
//! bound of the time that passed since the node started, else that time itself. It never stops, and never goes back.
//!
//! The first tick after a start catches up an outage in one step. Facts wait for it ([`LogTime`]): judged by the time
//! before the outage, each would look far ahead of the log. So it is tried again soon until there is a leader.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::{Entry, Tick, entry::Command};
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
    /// A tick was written.
    Current,
}

/// Compares the wall clock with the time that passed since start.
#[derive(Clone)]
pub(crate) struct ClockWatch {
    clock: Arc<dyn Clock>,
    start_unix_ms: i64,
    start_monotonic_ms: u64,
    off_ms_max: u64,
}

/// Both clocks at one moment.
struct Look {
    wall_ms: i64,
    /// The wall clock at the start, and what passed since.
    passed_ms: i64,
    monotonic_ms: u64,
}

impl ClockWatch {
    pub(crate) fn start(clock: Arc<dyn Clock>, off_ms_max: u64) -> Self {
        let (start_unix_ms, start_monotonic_ms) = (clock.unix_ms(), clock.monotonic_ms());
        Self { clock, start_unix_ms, start_monotonic_ms, off_ms_max }
    }

    fn look(&self) -> Look {
        let monotonic_ms = self.clock.monotonic_ms();
        let passed = monotonic_ms.saturating_sub(self.start_monotonic_ms);
        let passed_ms = self.start_unix_ms.saturating_add_unsigned(passed);
        Look { wall_ms: self.clock.unix_ms(), passed_ms, monotonic_ms }
    }

    /// How far the wall clock is ahead of the time since start (behind it, when negative), in milliseconds; `None` while it
    /// is trusted.
    pub(crate) fn off_ms(&self) -> Option<i64> {
        self.off(&self.look())
    }

    fn off(&self, look: &Look) -> Option<i64> {
        let off_ms = look.wall_ms.saturating_sub(look.passed_ms);
        (off_ms.unsigned_abs() > self.off_ms_max).then_some(off_ms)
    }
}

/// The time that ticks carry.
struct Trusted {
    watch: ClockWatch,
    /// The last time given, and when by the monotonic clock.
    last: Option<(i64, u64)>,
    off: bool,
}

impl Trusted {
    const fn new(watch: ClockWatch) -> Self {
        Self { watch, last: None, off: false }
    }

    /// Now. Where the clock to follow lies behind what was given before, it is waited for at half speed: time goes on.
    fn now_ms(&mut self) -> i64 {
        let look = self.watch.look();
        let off_ms = self.watch.off(&look);
        if off_ms.is_some() != self.off {
            self.off = off_ms.is_some();
            tracing::warn!(
                off_ms = off_ms.unwrap_or(0),
                trusted = !self.off,
                "wall clock against time since start"
            );
        }
        let followed_ms = if off_ms.is_some() { look.passed_ms } else { look.wall_ms };
        let now_ms = self.last.map_or(followed_ms, |(last_ms, at_ms)| {
            let elapsed = look.monotonic_ms.saturating_sub(at_ms);
            followed_ms.max(last_ms.saturating_add_unsigned(elapsed.div_ceil(2)))
        });
        self.last = Some((now_ms, look.monotonic_ms));
        now_ms
    }
}

/// Ticks while this node leads, until it ends.
pub(crate) async fn tick<F: Fold>(
    proposer: Proposer<F>,
    clock: ClockWatch,
    log_time: watch::Sender<LogTime>,
) {
    let mut closing = proposer.closing();
    let mut clock = Trusted::new(clock);
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
