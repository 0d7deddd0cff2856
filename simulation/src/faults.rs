//! What goes wrong, and how it is put right again.

use crate::dice::Dice;
use crate::disk::Ailment;
use crate::machine::Machine;
use crate::trace::Trace;

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
}

impl Fault {
    /// How many kinds there are.
    pub const KINDS: usize = 8;

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
        }
    }
}

/// A fault with its moment and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledFault {
    /// Simulated milliseconds from the beginning.
    pub at_ms: u64,
    /// Number of the machine.
    pub machine: u64,
    /// What happens.
    pub fault: Fault,
}

/// One thing the world does to a machine at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Power fails.
    Crash,
    /// Power is back.
    Start,
    /// The wires are cut, both ways.
    Cut,
    /// Only what the machine sends is lost.
    CutAnswers,
    /// The wires are whole.
    Mend,
    /// The disk ails so.
    Ail(Ailment),
    /// The wall clock is so far ahead.
    Clock(i64),
}

/// The steps of a schedule, by moment; within a moment in the order of the schedule.
#[must_use]
pub fn steps(schedule: &[ScheduledFault]) -> Vec<(u64, u64, Step)> {
    let mut steps = Vec::new();
    for ScheduledFault { at_ms, machine, fault } in schedule {
        let mut add = |after: u64, step: Step| steps.push((at_ms.saturating_add(after), *machine, step));
        match *fault {
            Fault::Crash { down_ms } => {
                add(0, Step::Crash);
                add(down_ms, Step::Start);
            }
            Fault::CrashTwice { between_ms } => {
                add(0, Step::Crash);
                add(100, Step::Start);
                add(between_ms.saturating_add(100), Step::Crash);
                add(between_ms.saturating_add(300), Step::Start);
            }
            Fault::Cut { for_ms } => {
                add(0, Step::Cut);
                add(for_ms, Step::Mend);
            }
            Fault::CutAnswers { for_ms } => {
                add(0, Step::CutAnswers);
                add(for_ms, Step::Mend);
            }
            Fault::SlowDisk { factor, for_ms } => {
                add(0, Step::Ail(Ailment { slowness: factor, ..Ailment::default() }));
                add(for_ms, Step::Ail(Ailment::default()));
            }
            Fault::FullDisk { for_ms } => {
                add(0, Step::Ail(Ailment { full: true, ..Ailment::default() }));
                recover(for_ms, &mut add);
            }
            Fault::FailingSync { for_ms } => {
                add(0, Step::Ail(Ailment { sync_fails: true, ..Ailment::default() }));
                recover(for_ms, &mut add);
            }
            Fault::Clock { ahead_ms } => add(0, Step::Clock(ahead_ms)),
        }
    }
    steps.sort_by_key(|(at, _, _)| *at);
    steps
}

/// The disk is good again; for every second measure the machine loses power first, else the node is left to itself.
fn recover(for_ms: u64, add: &mut impl FnMut(u64, Step)) {
    if for_ms.is_multiple_of(2) {
        add(for_ms, Step::Crash);
        add(for_ms.saturating_add(100), Step::Start);
    }
    add(for_ms, Step::Ail(Ailment::default()));
}

/// Names of the hosts that are not nodes, which a cut separates a machine from.
pub type Others = Vec<String>;

/// Does one step. Idempotent: a machine that is down may fail again, as power does.
pub fn perform(sim: &mut turmoil::Sim<'_>, machine: &Machine, others: &Others, step: Step, trace: &Trace) {
    let name = machine.name.as_str();
    let mut text = format!("{name} {step:?}");
    match step {
        Step::Crash => {
            if sim.is_host_running(name) {
                sim.crash(name);
            }
            let lost = machine.disk.crash();
            text.push_str(&format!(" lost {lost} unsynced operations"));
        }
        Step::Start => {
            if !sim.is_host_running(name) {
                sim.bounce(name);
            }
        }
        Step::Cut => others.iter().for_each(|other| sim.partition(name, other.as_str())),
        Step::CutAnswers => others.iter().for_each(|other| sim.partition_oneway(name, other.as_str())),
        Step::Mend => others.iter().for_each(|other| sim.repair(name, other.as_str())),
        Step::Ail(ailment) => machine.disk.ail(ailment),
        Step::Clock(ahead_ms) => machine.clock.set_ahead_ms(ahead_ms),
    }
    trace.note("fault", &text);
}

/// Everything whole again. With `restart` every machine loses power once more; else a node whose disk had failed must find
/// its way by itself. A disk that was planted to lie goes on lying.
pub fn heal(
    sim: &mut turmoil::Sim<'_>,
    machine: &Machine,
    others: &Others,
    (restart, lies): (bool, bool),
    trace: &Trace,
) {
    perform(sim, machine, others, Step::Mend, trace);
    perform(sim, machine, others, Step::Clock(0), trace);
    if restart {
        perform(sim, machine, others, Step::Crash, trace);
    }
    perform(sim, machine, others, Step::Ail(Ailment { sync_lies: lies, ..Ailment::default() }), trace);
    perform(sim, machine, others, Step::Start, trace);
}
