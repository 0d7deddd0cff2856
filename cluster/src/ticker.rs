//! The leader's tick: the only way time enters the log.
//!
//! A wall clock that ran ahead would push log time ahead for good, since log time never goes back; one that fell behind
//! would hold it, and with it every guardrail. So the leader ticks by a trusted clock: the wall clock while that is within a
//! bound of the time that passed since the node started, else that time itself. It never stops, and never goes back.
//!
//! Nor may one node's clock run away with a cluster's time, or hold it: a leader stamps at most 5 s beyond the median of the
//! voters' clocks, which it hears with every answer to its entries, and at most 5 s before it. Without the latter a leader an
//! hour behind would stamp what is past already: log time would stand, and every fact of now be ahead of it.
//!
//! A leader's first tick catches up an outage in one step. Facts wait for it ([`LogTime`]): judged by the time
//! before the outage, each would look far ahead of the log. So it is tried again soon.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::{Entry, Tick, entry::Command};
use openraft::async_runtime::watch::WatchReceiver;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::environment::Clock;
use crate::fold::Fold;
use crate::proposer::Proposer;

/// Wait before the first tick is tried again, in milliseconds.
const FIRST_RETRY_MS: u64 = 50;
/// A peer's clock that was heard longer ago says nothing, in milliseconds.
const HEARD_MS_MAX: u64 = 10_000;

/// Whether facts can be judged by the log's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogTime {
    /// Nobody leads, or this node does and has written no tick yet.
    Behind,
    /// This node leads, and wrote a tick.
    Current,
    /// Another node leads, and sees to it.
    Elsewhere,
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

/// The earliest and the latest time that the voters' clocks allow: their lower median, less the bound and more. `None` while
/// fewer than a majority of them were heard, which a new leader soon has, and one that was cut off has no more.
fn allowed_ms<F: Fold>(proposer: &Proposer<F>, own_ms: i64) -> Option<(i64, i64)> {
    let (own, peers) = (proposer.options().node, proposer.peers());
    let voters: Vec<u64> = proposer.raft().voter_ids().collect();
    if voters == [own] {
        return Some((i64::MIN, i64::MAX));
    }
    let now = peers.monotonic_ms();
    let clock = |voter: &u64| {
        if *voter == own {
            return Some(own_ms);
        }
        let heard = peers.heard_of(*voter)?;
        let ago = now.saturating_sub(heard.at_ms);
        (ago <= HEARD_MS_MAX).then(|| heard.clock_ms.saturating_add_unsigned(ago))
    };
    let mut clocks: Vec<i64> = voters.iter().filter_map(clock).collect();
    clocks.sort_unstable();
    let median = clocks.get(clocks.len().saturating_sub(1) / 2)?;
    let bound = i64::try_from(proposer.options().clock_off_ms_max).unwrap_or(i64::MAX);
    (clocks.len() > voters.len() / 2).then(|| (median.saturating_sub(bound), median.saturating_add(bound)))
}

/// Ticks while this node leads, until it ends.
pub(crate) async fn tick<F: Fold>(
    proposer: Proposer<F>,
    clock: ClockWatch,
    log_time: watch::Sender<LogTime>,
) {
    let mut closing = proposer.closing();
    let mut leaders = proposer.raft().server_metrics();
    let mut clock = Trusted::new(clock);
    let every_ms = proposer.options().tick_ms.max(1);
    // The first tick that arrives after a start may step the log's time: the fold takes it whole and audits it. A node that
    // has followed a leader since knows that there was time.
    let mut after_restart = true;
    // The term of which a tick was written.
    let mut ticked = None;
    // Said once, until the clock is back.
    let mut told = false;
    let mut interval = ticks(every_ms.min(FIRST_RETRY_MS));
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            changed = leaders.changed() => if changed.is_err() { return },
            _ = interval.tick() => {}
        }
        let (term, leader) = {
            let metrics = leaders.borrow_watched();
            (metrics.vote.leader_id.term, metrics.current_leader)
        };
        let now_ms = clock.now_ms();
        if !proposer.raft().is_leader() {
            let elsewhere = leader.is_some_and(|leader| leader != proposer.options().node);
            after_restart &= !elsewhere;
            log_time.send_replace(if elsewhere { LogTime::Elsewhere } else { LogTime::Behind });
            continue;
        }
        let first = ticked != Some(term);
        if first {
            log_time.send_replace(LogTime::Behind);
        }
        let Some((earliest_ms, latest_ms)) = allowed_ms(&proposer, clock.watch.clock.unix_ms()) else {
            continue;
        };
        let off = now_ms > latest_ms || now_ms < earliest_ms;
        if off && !std::mem::replace(&mut told, true) {
            tracing::warn!(
                now_ms,
                earliest_ms,
                latest_ms,
                "this node's clock is far from most others: it ticks by theirs"
            );
        }
        told &= off;
        let tick = Tick { now_ms: now_ms.min(latest_ms).max(earliest_ms), after_restart };
        let tick = Entry { command: Some(Command::Tick(tick)), ..Entry::default() };
        match proposer.write(Bytes::from(tick.encode_to_vec())).await {
            Ok(_) if first => {
                after_restart = false;
                ticked = Some(term);
                log_time.send_replace(LogTime::Current);
                interval = ticks(every_ms);
                interval.tick().await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %error, "tick not written");
                // One that lost its lead ticks again soon when it has it again.
                if first {
                    interval = ticks(every_ms.min(FIRST_RETRY_MS));
                    interval.tick().await;
                }
            }
        }
    }
}

fn ticks(every_ms: u64) -> Interval {
    let mut interval = tokio::time::interval(Duration::from_millis(every_ms));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
