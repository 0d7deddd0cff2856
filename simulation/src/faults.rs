//! What goes wrong, and when. How it is done and put right again is in `harm.rs`.

use crate::dice::Dice;

/// One kind of harm, with its measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Power fails; it comes back after a while.
    Crash {
        /// How long the machine is down.
        down_ms: u64,
    },
    /// Power fails again while the node is still starting.
    CrashTwice {
        /// From the first restart to the second failure.
        between_ms: u64,
    },
    /// No message passes between the machine and anybody.
    Cut {
        /// For how long.
        for_ms: u64,
    },
    /// Messages from the machine are lost, messages to it arrive: its clients' writes become unknown.
    CutAnswers {
        /// For how long.
        for_ms: u64,
    },
    /// Syncs take many times as long.
    SlowDisk {
        /// How many times.
        factor: u32,
        /// For how long.
        for_ms: u64,
    },
    /// Writes fail for want of space; then there is space again, and either the machine is restarted or the node helps itself.
    FullDisk {
        /// For how long.
        for_ms: u64,
    },
    /// Syncs fail; then the disk is good again, with a restart or without one.
    FailingSync {
        /// For how long.
        for_ms: u64,
    },
    /// The wall clock jumps.
    Clock {
        /// Ahead of the world's time, or behind it.
        ahead_ms: i64,
    },
    /// The wall clock runs fast, or slow.
    Drift {
        /// Parts per million.
        ppm: i64,
    },
    /// No message passes between some nodes and the others; clients reach all.
    Split {
        /// The machines of one side, a bit each: the first machine is the lowest.
        side: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Messages from some nodes to the others are lost, those back arrive.
    SplitOneWay {
        /// See `Split`.
        side: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Messages between two nodes wait, and arrive all at once in their order.
    Clog {
        /// The other one.
        with: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Some messages between the node and the others are lost.
    Loss {
        /// Of a thousand.
        per_mille: u32,
        /// For how long.
        for_ms: u64,
    },
    /// Messages between the node and the others are slow, and pass one another less often than they seem to.
    Latency {
        /// The slowest.
        max_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Every stream of the node breaks.
    Reset,
    /// The machine stands still: nothing comes or goes, nothing is synced, its clocks stand.
    Pause {
        /// For how long.
        for_ms: u64,
    },
    /// The node ends in order and starts again.
    Restart,
    /// Every node does so, one after the other.
    Rolling {
        /// From one to the next.
        every_ms: u64,
    },
    /// Power fails, and comes back with an empty disk; only while every other disk is whole.
    LoseDisk {
        /// How long the machine is down.
        down_ms: u64,
    },
}

/// Whoever leads when the moment comes, in the place of a machine's number.
pub const LEADER: u64 = 0;

impl Fault {
    /// How many kinds there are.
    pub const KINDS: usize = 19;

    /// Draws one.
    #[must_use]
    pub fn draw(dice: &mut Dice) -> Self {
        match dice.between(0, 9) {
            0..=2 => Self::Crash { down_ms: dice.between(50, 1_500) },
            3 => Self::CrashTwice { between_ms: dice.between(1, 200) },
            4 => Self::Cut { for_ms: dice.between(50, 2_000) },
            5 => Self::CutAnswers { for_ms: dice.between(50, 1_500) },
            6 => Self::SlowDisk {
                factor: u32::try_from(dice.between(2, 40)).unwrap_or(2),
                for_ms: dice.between(100, 2_000),
            },
            7 => Self::FullDisk { for_ms: dice.between(50, 1_000) },
            8 => Self::FailingSync { for_ms: dice.between(50, 1_000) },
            _ => {
                let far = i64::try_from(dice.between(100, 3_600_000)).unwrap_or(100);
                Self::Clock { ahead_ms: if dice.percent(50) { far } else { far.saturating_neg() } }
            }
        }
    }

    /// Draws one for a world of several nodes, and the machine that it is for.
    #[must_use]
    pub fn draw_among(dice: &mut Dice, machines: u64) -> (u64, Self) {
        let machine = if dice.percent(35) { LEADER } else { dice.between(1, machines) };
        let for_ms = if dice.percent(60) { dice.between(50, 1_500) } else { dice.between(1_500, 7_000) };
        // Never all on one side.
        let everybody = (1_u64 << machines).saturating_sub(1);
        let side = dice.between(1, everybody.saturating_sub(1));
        let fault = match dice.between(0, 39) {
            0..=5 => Self::Crash { down_ms: for_ms },
            6 => Self::CrashTwice { between_ms: dice.between(1, 200) },
            7 => Self::Cut { for_ms },
            8 => Self::CutAnswers { for_ms },
            9..=10 => Self::SlowDisk { factor: u32::try_from(dice.between(2, 40)).unwrap_or(2), for_ms },
            11..=12 => Self::FullDisk { for_ms },
            13..=14 => Self::FailingSync { for_ms },
            15 => {
                let far = i64::try_from(dice.between(100, 3_600_000)).unwrap_or(100);
                // One machine only: what most clocks say is the time.
                return (
                    1,
                    Self::Clock { ahead_ms: if dice.percent(50) { far } else { far.saturating_neg() } },
                );
            }
            16 => {
                let ppm = i64::try_from(dice.between(1, 2_000)).unwrap_or(1);
                Self::Drift { ppm: if dice.percent(50) { ppm } else { ppm.saturating_neg() } }
            }
            17..=20 => Self::Split { side, for_ms },
            21..=23 => Self::SplitOneWay { side, for_ms },
            24..=26 => Self::Clog { with: dice.between(1, machines), for_ms },
            27..=28 => Self::Loss { per_mille: u32::try_from(dice.between(1, 60)).unwrap_or(1), for_ms },
            29..=30 => Self::Latency { max_ms: dice.between(20, 300), for_ms },
            31..=32 => Self::Reset,
            33..=34 => Self::Pause { for_ms },
            35 => Self::Restart,
            36 => Self::Rolling { every_ms: dice.between(1_500, 4_000) },
            _ => Self::LoseDisk { down_ms: dice.between(50, 1_500) },
        };
        (machine, fault)
    }

    /// Its name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::CrashTwice { .. } => "crash twice",
            Self::Cut { .. } => "cut",
            Self::CutAnswers { .. } => "cut answers",
            Self::SlowDisk { .. } => "slow disk",
            Self::FullDisk { .. } => "full disk",
            Self::FailingSync { .. } => "failing sync",
            Self::Clock { .. } => "clock",
            Self::Drift { .. } => "drift",
            Self::Split { .. } => "split",
            Self::SplitOneWay { .. } => "split one way",
            Self::Clog { .. } => "clog",
            Self::Loss { .. } => "loss",
            Self::Latency { .. } => "latency",
            Self::Reset => "reset",
            Self::Pause { .. } => "pause",
            Self::Restart => "restart",
            Self::Rolling { .. } => "rolling restart",
            Self::LoseDisk { .. } => "lost disk",
        }
    }
}

/// A fault with its moment and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledFault {
    /// Simulated milliseconds from the beginning.
    pub at_ms: u64,
    /// Number of the machine; [`LEADER`]: whoever leads then.
    pub machine: u64,
    /// What happens.
    pub fault: Fault,
}
