//! Which members may own experiments: marks that the leader notes of what it hears, and what people say of members.
//!
//! ```text
//!             heard, a boot of its own              silent for DOWN_AFTER_MS
//!   (none) ───────────────────────────> UP ────────────────────────────────> DOWN
//!                                       │ ^                                    │
//!                     its own last word │ └──── heard steadily UP_AFTER_MS ────┤
//!                                       v              (LEFT: another boot)    │
//!                                      LEFT ───────────────────────────────────┘
//! ```
//!
//! Down is quick and up is slow, so that a member that comes and goes is down: its owners move once and stay. Time is what the leader was
//! awake to hear: one that was itself held still for a minute has heard nobody, and accuses nobody.

use std::collections::BTreeMap;

use featureops_proto::log::{LivenessMark, LivenessRecord};
use featureops_proto::v1::member::Mark;

use crate::State;

/// Silence after which a member is down, in milliseconds.
pub const DOWN_AFTER_MS: u64 = 2_000;
/// Steady hearing after which one that was down is up, in milliseconds.
pub const UP_AFTER_MS: u64 = 5_000;
/// Silence that ends steady hearing, in milliseconds: followers answer ten times a second.
pub const STEADY_GAP_MS: u64 = 1_000;
/// How often the leader looks, in milliseconds.
pub const LOOK_MS: u64 = 250;
/// Longest time that passes between two looks, in milliseconds: what is beyond it the leader itself slept through.
const STEP_MS_MAX: u64 = 2 * LOOK_MS;
/// Weight of a member of which nobody said otherwise.
pub const OWNER_WEIGHT: u32 = 100;
/// Greatest weight.
pub const OWNER_WEIGHT_MAX: u32 = 10_000;

/// What the leader knows of a member, itself among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Its number.
    pub node: u64,
    /// Of its present life, as it said last; 0: it said none, as nodes did before there were marks.
    pub boot: u64,
    /// When it was heard last, by the clock of [`Watch::look`], in milliseconds. A time and no age: an age is older by the time
    /// that it is looked at, and would look like news.
    pub at_ms: u64,
}

/// What was heard of one member over the last looks.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    boot: u64,
    /// When it was heard last; absent before the first look.
    at_ms: Option<u64>,
    /// How long it has been silent, and how long it was heard without a gap.
    silent_ms: u64,
    steady_ms: u64,
    /// Since the watch began: what was heard before may be of a life that has ended.
    heard: bool,
}

/// What a leader remembers from look to look; nothing of it is replicated, so a new leader begins anew and gives everybody
/// the whole of [`DOWN_AFTER_MS`].
#[derive(Debug, Clone, Default)]
pub struct Watch {
    last_ms: Option<u64>,
    seen: BTreeMap<u64, Seen>,
}

impl Watch {
    /// One look: the marks to be noted now, by rising numbers; none when nothing is to be changed.
    ///
    /// `now_ms` is a monotonic clock in milliseconds; `members` are the noted ones, as (node, incarnation), by rising numbers;
    /// `marks` what stands of them.
    #[must_use]
    pub fn look(
        &mut self,
        now_ms: u64,
        members: &[(u64, u64)],
        marks: &BTreeMap<u64, LivenessRecord>,
        heard: &[Heard],
    ) -> Vec<LivenessMark> {
        let step_ms = self.last_ms.map_or(0, |last| now_ms.saturating_sub(last)).min(STEP_MS_MAX);
        self.last_ms = Some(now_ms);
        self.seen.retain(|node, _| members.iter().any(|(member, _)| member == node));
        for (node, _) in members {
            let seen = self.seen.entry(*node).or_default();
            let told = heard.iter().find(|heard| heard.node == *node);
            seen.hear(step_ms, told);
        }
        // One that says no boot is of a release that cannot read the entry.
        let old = |seen: &Seen| seen.heard && seen.boot == 0 && seen.silent_ms < DOWN_AFTER_MS;
        if self.seen.values().any(old) {
            return Vec::new();
        }
        let change = |(node, incarnation): &(u64, u64)| {
            let seen = self.seen.get(node).copied().unwrap_or_default();
            let stands = marks.get(node).filter(|record| record.incarnation == *incarnation);
            let mark = seen.judge(stands)?;
            let boot = if mark == Mark::Up { seen.boot } else { 0 };
            let (node, incarnation, mark) = (*node, *incarnation, mark.into());
            Some(LivenessMark { node, incarnation, mark, boot, ..LivenessMark::default() })
        };
        members.iter().filter_map(change).collect()
    }
}

impl Seen {
    fn hear(&mut self, step_ms: u64, heard: Option<&Heard>) {
        let at_ms = heard.map_or(0, |heard| heard.at_ms);
        let before_ms = self.at_ms.replace(at_ms);
        if let Some(heard) = heard
            && before_ms.is_some_and(|before_ms| at_ms > before_ms)
        {
            if heard.boot != self.boot {
                self.steady_ms = 0;
            }
            (self.boot, self.heard, self.silent_ms) = (heard.boot, true, 0);
            self.steady_ms = self.steady_ms.saturating_add(step_ms);
            return;
        }
        self.silent_ms = self.silent_ms.saturating_add(step_ms);
        if self.silent_ms > STEADY_GAP_MS {
            self.steady_ms = 0;
        }
    }

    /// The mark that is to stand instead; `None`: it stays.
    fn judge(&self, stands: Option<&LivenessRecord>) -> Option<Mark> {
        let silent = self.silent_ms >= DOWN_AFTER_MS;
        let here = self.heard && self.boot != 0 && self.silent_ms <= STEADY_GAP_MS;
        let other = stands.is_some_and(|record| record.boot != self.boot);
        let steady = here && self.steady_ms >= UP_AFTER_MS;
        match stands.map_or(Mark::Unspecified, LivenessRecord::mark) {
            Mark::Unspecified if here => Some(Mark::Up),
            // A new life is up at once: it was never missed.
            Mark::Up if here && other => Some(Mark::Up),
            Mark::Unspecified | Mark::Up if silent => Some(Mark::Down),
            Mark::Down if steady => Some(Mark::Up),
            Mark::Left if steady && other => Some(Mark::Up),
            _ => None,
        }
    }
}

impl State {
    /// What is noted of the members, by number; empty in a cluster that never had more than one.
    #[must_use]
    pub fn liveness(&self) -> &BTreeMap<u64, LivenessRecord> {
        &self.liveness
    }

    /// What is noted of one.
    #[must_use]
    pub fn liveness_of(&self, node: u64) -> Option<&LivenessRecord> {
        self.liveness.get(&node)
    }
}

/// Its weight, whether it was ever set or not.
#[must_use]
pub fn weight_of(record: &LivenessRecord) -> u32 {
    if record.owner_weight == 0 { OWNER_WEIGHT } else { record.owner_weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: [(u64, u64); 2] = [(1, 11), (2, 12)];

    /// A leader, node 1, and what stands of both; node 2 is heard as the test says.
    struct Story {
        watch: Watch,
        marks: BTreeMap<u64, LivenessRecord>,
        now_ms: u64,
        heard_ms: Option<u64>,
        boot: u64,
        changes: Vec<(u64, u64, Mark)>,
    }

    impl Story {
        fn new() -> Self {
            let (watch, marks) = Default::default();
            Self { watch, marks, now_ms: 100_000, heard_ms: None, boot: 7, changes: Vec::new() }
        }

        fn look(&mut self) {
            let mut heard = vec![Heard { node: 1, boot: 5, at_ms: self.now_ms }];
            heard.extend(self.heard_ms.map(|at_ms| Heard { node: 2, boot: self.boot, at_ms }));
            for mark in self.watch.look(self.now_ms, &MEMBERS, &self.marks, &heard) {
                self.changes.push((self.now_ms, mark.node, mark.mark()));
                let record = self.marks.entry(mark.node).or_default();
                record.node = mark.node;
                record.incarnation = mark.incarnation;
                record.mark = mark.mark;
                if mark.boot != 0 {
                    record.boot = mark.boot;
                }
            }
        }

        /// Looks for so long; node 2 is heard or not.
        fn pass(&mut self, ms: u64, heard: bool) {
            for _ in 0..ms / LOOK_MS {
                self.now_ms += LOOK_MS;
                if heard {
                    self.heard_ms = Some(self.now_ms - 50);
                }
                self.look();
            }
        }

        fn of(&self, node: u64) -> Vec<(u64, Mark)> {
            let since = self.now_ms;
            let ago = |at: u64| since - at;
            self.changes
                .iter()
                .filter(|(_, of, _)| *of == node)
                .map(|(at, _, mark)| (ago(*at), *mark))
                .collect()
        }
    }

    #[test]
    fn silence_brings_down_within_its_time_and_steady_hearing_up_again() {
        let mut story = Story::new();
        story.pass(10_000, true);
        assert_eq!(story.of(2).len(), 1, "up, once");
        story.pass(1_750, false);
        assert_eq!(story.of(2).len(), 1, "not yet");
        story.pass(250, false);
        assert_eq!(story.of(2).last(), Some(&(0, Mark::Down)));
        story.pass(60_000, false);
        assert_eq!(story.of(2).len(), 2, "said once");
        story.pass(4_750, true);
        assert_eq!(story.of(2).len(), 2, "not yet");
        story.pass(250, true);
        assert_eq!(story.of(2).last(), Some(&(0, Mark::Up)));
        assert!(story.of(1).iter().all(|(_, mark)| *mark == Mark::Up), "a leader hears itself");
    }

    #[test]
    fn one_that_comes_and_goes_is_down_once_and_stays_so() {
        let mut story = Story::new();
        story.pass(10_000, true);
        for _ in 0..50 {
            story.pass(2_000, false);
            story.pass(4_000, true);
        }
        assert_eq!(story.of(2).len(), 2, "{:?}", story.of(2));
        // Shorter silences than that are none.
        let mut story = Story::new();
        for _ in 0..50 {
            story.pass(1_500, false);
            story.pass(500, true);
        }
        assert_eq!(story.of(2).len(), 1);
    }

    #[test]
    fn a_leader_that_was_held_still_accuses_nobody() {
        let mut story = Story::new();
        story.pass(10_000, true);
        story.now_ms += 3_600_000;
        story.look();
        story.pass(1_000, false);
        story.pass(10_000, true);
        assert_eq!(story.of(2).len(), 1, "{:?}", story.of(2));
    }

    #[test]
    fn a_new_life_is_told_at_once_and_one_that_left_is_up_only_in_another() {
        let mut story = Story::new();
        story.pass(1_000, true);
        story.boot = 8;
        story.pass(250, true);
        assert_eq!(story.of(2).last(), Some(&(0, Mark::Up)));
        story.marks.get_mut(&2).unwrap().mark = Mark::Left.into();
        let said = story.of(2).len();
        story.pass(30_000, true);
        assert_eq!(story.of(2).len(), said, "it ends, and is heard till then");
        story.boot = 9;
        story.pass(4_750, true);
        assert_eq!(story.of(2).len(), said);
        story.pass(1_000, true);
        assert_eq!(story.of(2).len(), said + 1);
        assert_eq!(story.marks[&2].boot, 9);
    }

    #[test]
    fn what_was_heard_before_the_watch_began_is_of_another_life() {
        let mut story = Story::new();
        story.pass(1_000, true);
        // Another led since, and noted a life that this one has not heard of; it leads again.
        story.marks.get_mut(&2).unwrap().boot = 8;
        story.watch = Watch::default();
        let said = story.of(2).len();
        story.pass(500, false);
        assert_eq!(story.of(2).len(), said, "{:?}", story.of(2));
        story.boot = 8;
        story.pass(500, true);
        assert_eq!(story.of(2).len(), said);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_heard_a_mark_stands_for_its_time(
            heard in proptest::collection::vec((proptest::bool::ANY, 1_u64..20), 1..60),
        ) {
            let mut story = Story::new();
            story.pass(6_000, true);
            for (heard, looks) in heard {
                story.pass(looks * LOOK_MS, heard);
            }
            let of_two: Vec<_> = story.changes.iter().filter(|(_, node, _)| *node == 2).collect();
            for pair in of_two.windows(2) {
                let [(first, _, was), (second, _, is)] = pair else { continue };
                proptest::prop_assert!(was != is);
                let least = if *is == Mark::Up { UP_AFTER_MS } else { DOWN_AFTER_MS };
                proptest::prop_assert!(second - first >= least, "{:?}", story.changes);
            }
        }
    }

    #[test]
    fn while_a_member_of_before_answers_nothing_is_noted() {
        let mut story = Story::new();
        story.boot = 0;
        story.pass(30_000, true);
        assert_eq!(story.changes, []);
        story.boot = 3;
        story.pass(500, true);
        assert_eq!(story.changes.len(), 2);
        // Another incarnation under the number has no mark.
        story.marks.get_mut(&2).unwrap().incarnation = 99;
        story.pass(250, true);
        assert_eq!(story.changes.len(), 3);
    }
}
