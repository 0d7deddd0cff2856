//! Time moves: waiting outcomes expire, idle producers leave, and the moments of changed experiments are frozen, so that
//! a decision has a fixed place to rest on.

use std::collections::VecDeque;
use std::sync::Arc;

use featureops_proto::log::{ExperimentRecord, Tick};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{Principal, Verdict, principal};

use super::Context;
use crate::State;
use crate::effect::Effect;
use crate::ramps;
use crate::state::{Frozen, key};

/// Freezes kept for an experiment: a proposal in flight may rest on an earlier one.
const FREEZES: usize = 4;
/// An owner rests this long after a decision; it looks again a tick later.
const PACE_MS: i64 = 1_500;
/// Waiting outcomes that leave with one tick, at most.
const EXPIRED_A_TICK: usize = 65_536;

impl State {
    pub(super) fn tick(&mut self, tick: &Tick, effects: &mut Vec<Effect>) {
        let before = self.clock.now_ms();
        let moved = self.clock.advance(tick.now_ms);
        let now_ms = self.clock.now_ms();
        if moved {
            self.time_moved(tick, before, effects);
        }
        // Also when time stands, as it does after a start with a clock that is behind: a guardrail waits for no clock.
        self.freeze(before, now_ms, effects);
    }

    fn time_moved(&mut self, tick: &Tick, before: i64, effects: &mut Vec<Effect>) {
        let now_ms = self.clock.now_ms();
        effects.push(Effect::Ticked { log_time_ms: now_ms });
        if tick.after_restart && before != 0 {
            let principal =
                Principal { kind: principal::Kind::System as i32, id: "clock".to_owned(), verified: true };
            let ctx = Context { position: self.position, now_ms, principal, owner: None };
            let detail = format!("log time moved by {} ms across a restart", now_ms - before);
            self.record(&ctx, "clock.restart", String::new(), detail, String::new(), effects);
        }
        self.seal(before);
        self.expire_waiting(now_ms);
        self.close_windows(now_ms);
        self.producers.sweep(now_ms);
    }

    /// Log time has entered another minute: what lies before it is sealed in every series.
    fn seal(&mut self, before_ms: i64) {
        let minute = self.clock.minute();
        if before_ms / 60_000 == self.clock.now_ms() / 60_000 {
            return;
        }
        for ledger in self.ledgers.values_mut() {
            ledger.series.seal(minute);
        }
    }

    fn expire_waiting(&mut self, now_ms: i64) {
        for _ in 0..EXPIRED_A_TICK {
            let Some(held) = self.waiting.expire(now_ms) else { break };
            if !held.joined {
                self.count_unjoined(held.metric, Verdict::NoExposure);
            }
        }
    }

    /// Ended experiments stop counting a metric's outcomes one window and its late limit after their end.
    pub(crate) fn close_windows(&mut self, now_ms: i64) {
        while let Some(&(until_ms, metric, number)) = self.ended.first()
            && until_ms <= now_ms
        {
            self.ended.pop_first();
            self.close_route(metric, number);
        }
    }

    fn freeze(&mut self, before_ms: i64, now_ms: i64, effects: &mut Vec<Effect>) {
        let running: Vec<(u32, bool, bool)> = self
            .experiments
            .values()
            .filter(|record| record.state() == Phase::Running)
            .map(|record| {
                let held = ramps::hold_ends_within(record, before_ms, now_ms);
                (record.number, self.looks_again(record, now_ms), held)
            })
            .collect();
        for (number, again, held) in running {
            let Some(ledger) = self.ledgers.get_mut(&number) else { continue };
            ledger.dirty |= ledger.marks.settle(now_ms) | held;
            if !ledger.dirty {
                continue;
            }
            ledger.dirty = again;
            let sample_ratio =
                self.experiments.get(&number).and_then(|record| crate::shares::sample_ratio(record));
            let freezes: &mut VecDeque<Frozen> = self.frozen.entry(number).or_default();
            if freezes.len() >= FREEZES {
                freezes.pop_front();
            }
            freezes.push_back(Frozen {
                position: self.position,
                log_time_ms: now_ms,
                strata: Arc::clone(&ledger.strata),
                marked: ledger.marks.settled(),
                crossed: ledger.crossed,
                lost: ledger.lost,
                rows: ledger.rows,
                sample_ratio,
                kept: ledger.kept,
                thinned: ledger.thinned,
            });
            effects.push(Effect::Frozen { number });
        }
    }

    /// Something holds the owner off that will pass without a new fact: its pace, a cool-down, a freeze window.
    fn looks_again(&self, record: &ExperimentRecord, now_ms: i64) -> bool {
        let paced = record.last_decision_ms.saturating_add(PACE_MS) > now_ms;
        let flag = record.definition.as_ref().map(|d| key(&record.environment, &d.flag));
        paced || flag.is_some_and(|flag| self.growth_held(&flag).is_some())
    }
}
