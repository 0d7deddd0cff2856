//! How a fault is done, step by step, and how everything is put right again.

use std::collections::BTreeSet;

use crate::disk::Ailment;
use crate::faults::{Fault, LEADER, ScheduledFault};
use crate::machine::Machine;
use crate::trace::Trace;
use crate::wires::Wires;
use crate::workload::sentinel::name_of;

/// One thing the world does to a machine at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Power fails.
    Crash,
    /// The disk is taken out and an empty one put in, if every other disk is whole.
    Empty,
    /// Power is back.
    Start,
    /// The wires are cut, both ways.
    Cut,
    /// Only what the machine sends is lost.
    CutAnswers,
    /// What `Cut` did is taken back.
    Mend,
    /// What `CutAnswers` did is taken back.
    MendAnswers,
    /// Nodes of this side and the others are cut apart.
    Split(u64),
    /// What that did is taken back.
    Join(u64),
    /// What the nodes of this side send to the others is lost.
    SplitOneWay(u64),
    /// What that did is taken back.
    JoinOneWay(u64),
    /// Messages between the machine and this one wait.
    Clog(u64),
    /// They arrive.
    Unclog(u64),
    /// Of a thousand messages between the machine and the other nodes so many are lost.
    Lose(u32),
    /// The slowest message between the machine and the other nodes, in milliseconds; 0: as elsewhere.
    Slow(u64),
    /// Every stream breaks.
    Reset,
    /// The machine stands still.
    Pause,
    /// It moves again.
    Go,
    /// The node ends in order and starts again.
    Restart,
    /// The disk ails so.
    Ail(Ailment),
    /// The wall clock is so far ahead.
    Clock(i64),
    /// The wall clock runs so many parts per million fast.
    Drift(i64),
}

/// The steps of a schedule whose machines are known, by moment; within a moment in the order of the schedule.
#[must_use]
pub fn steps(schedule: &[ScheduledFault], machines: u64) -> Vec<(u64, u64, Step)> {
    let mut steps = Vec::new();
    for ScheduledFault { at_ms, machine, fault } in schedule {
        let mut add = |after: u64, step: Step| steps.push((at_ms.saturating_add(after), *machine, step));
        let mut both = |for_ms: u64, first: Step, last: Step| {
            add(0, first);
            add(for_ms, last);
        };
        match *fault {
            Fault::Crash { down_ms } => both(down_ms, Step::Crash, Step::Start),
            Fault::CrashTwice { between_ms } => {
                add(0, Step::Crash);
                add(100, Step::Start);
                add(between_ms.saturating_add(100), Step::Crash);
                add(between_ms.saturating_add(300), Step::Start);
            }
            Fault::LoseDisk { down_ms } => {
                add(0, Step::Crash);
                add(0, Step::Empty);
                add(down_ms, Step::Start);
            }
            Fault::Cut { for_ms } => both(for_ms, Step::Cut, Step::Mend),
            Fault::CutAnswers { for_ms } => both(for_ms, Step::CutAnswers, Step::MendAnswers),
            Fault::Split { side, for_ms } => both(for_ms, Step::Split(side), Step::Join(side)),
            Fault::SplitOneWay { side, for_ms } => {
                both(for_ms, Step::SplitOneWay(side), Step::JoinOneWay(side));
            }
            Fault::Clog { with, for_ms } => both(for_ms, Step::Clog(with), Step::Unclog(with)),
            Fault::Loss { per_mille, for_ms } => both(for_ms, Step::Lose(per_mille), Step::Lose(0)),
            Fault::Latency { max_ms, for_ms } => both(for_ms, Step::Slow(max_ms), Step::Slow(0)),
            Fault::Reset => add(0, Step::Reset),
            Fault::Pause { for_ms } => both(for_ms, Step::Pause, Step::Go),
            Fault::Restart => add(0, Step::Restart),
            Fault::Rolling { every_ms } => {
                for number in 1..=machines {
                    let after = every_ms.saturating_mul(number.saturating_sub(1));
                    steps.push((at_ms.saturating_add(after), number, Step::Restart));
                }
            }
            Fault::SlowDisk { factor, for_ms } => {
                let slow = Ailment { slowness: factor, ..Ailment::default() };
                both(for_ms, Step::Ail(slow), Step::Ail(Ailment::default()));
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
            Fault::Drift { ppm } => add(0, Step::Drift(ppm)),
        }
    }
    steps.sort_by_key(|(at, _, _)| *at);
    steps
}

/// The fault on the machine that leads, where it is meant for whoever does.
#[must_use]
pub fn aimed(mut scheduled: ScheduledFault, leader: u64) -> ScheduledFault {
    if scheduled.machine == LEADER {
        scheduled.machine = leader.max(1);
    }
    scheduled
}

/// The disk is good again; for every second measure the machine loses power first, else the node is left to itself.
fn recover(for_ms: u64, add: &mut impl FnMut(u64, Step)) {
    if for_ms.is_multiple_of(2) {
        add(for_ms, Step::Crash);
        add(for_ms.saturating_add(100), Step::Start);
    }
    add(for_ms, Step::Ail(Ailment::default()));
}

/// What faults are done to.
pub struct Harm<'a> {
    /// The machines, by number from 1.
    pub machines: &'a [Machine],
    /// Names of the hosts that are not nodes and suffer with them.
    pub others: Vec<String>,
    /// The wires.
    pub wires: Wires,
    /// The slowest message elsewhere, in milliseconds.
    pub latency_max_ms: u64,
    /// Machines that stand still.
    pub standing: BTreeSet<u64>,
    /// Where it is told.
    pub trace: &'a Trace,
}

impl Harm<'_> {
    fn machine(&self, number: u64) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.number == number)
    }

    /// Names of the other machines.
    fn peers(&self, number: u64) -> Vec<String> {
        let others = self.machines.iter().filter(|machine| machine.number != number);
        others.map(|machine| machine.name.clone()).collect()
    }

    /// Pairs of a machine of a side and one of the other.
    fn across(&self, side: u64) -> Vec<(String, String)> {
        let is_in = |machine: &Machine| side >> machine.number.saturating_sub(1) & 1 == 1;
        let (inside, outside): (Vec<&Machine>, Vec<&Machine>) =
            self.machines.iter().partition(|machine| is_in(machine));
        let with = |one: &&Machine| {
            let name = one.name.clone();
            outside.iter().map(move |other| (name.clone(), other.name.clone())).collect::<Vec<_>>()
        };
        inside.iter().flat_map(with).collect()
    }

    /// Does one step. Idempotent where power is: a machine that is down may fail again.
    pub fn perform(&mut self, sim: &mut turmoil::Sim<'_>, number: u64, step: Step, now_ms: u64) {
        let Some(machine) = self.machine(number).cloned() else { return };
        let name = machine.name.as_str();
        let mut text = format!("{name} {step:?}");
        let mut everybody = self.peers(number);
        everybody.extend(self.others.iter().cloned());
        match step {
            Step::Crash => {
                if sim.is_host_running(name) {
                    sim.crash(name);
                }
                machine.life.set_serves(false);
                let lost = machine.disk.crash();
                text.push_str(&format!(" lost {lost} unsynced operations"));
            }
            Step::Empty => machine.empty(),
            Step::Start => {
                if !sim.is_host_running(name) {
                    sim.bounce(name);
                }
            }
            Step::Cut => {
                for other in &everybody {
                    self.wires.cut(sim, name, other);
                    self.wires.cut(sim, other, name);
                }
            }
            Step::Mend => {
                for other in &everybody {
                    self.wires.mend(sim, name, other);
                    self.wires.mend(sim, other, name);
                }
            }
            Step::CutAnswers => everybody.iter().for_each(|other| self.wires.cut(sim, name, other)),
            Step::MendAnswers => everybody.iter().for_each(|other| self.wires.mend(sim, name, other)),
            Step::Split(side) => {
                for (one, other) in self.across(side) {
                    self.wires.cut(sim, &one, &other);
                    self.wires.cut(sim, &other, &one);
                }
            }
            Step::Join(side) => {
                for (one, other) in self.across(side) {
                    self.wires.mend(sim, &one, &other);
                    self.wires.mend(sim, &other, &one);
                }
            }
            Step::SplitOneWay(side) => {
                self.across(side).iter().for_each(|(one, other)| self.wires.cut(sim, one, other));
            }
            Step::JoinOneWay(side) => {
                self.across(side).iter().for_each(|(one, other)| self.wires.mend(sim, one, other));
            }
            Step::Clog(with) | Step::Unclog(with) => {
                let other = self.machine(with).filter(|other| other.number != number);
                if let Some(other) = other.map(|other| other.name.clone()) {
                    match step {
                        Step::Clog(_) => self.wires.clog(sim, name, &other),
                        _ => self.wires.unclog(sim, name, &other),
                    }
                }
            }
            Step::Lose(per_mille) => {
                for other in self.peers(number) {
                    sim.set_link_fail_rate(name, other.as_str(), f64::from(per_mille) / 1_000.0);
                }
            }
            Step::Slow(max_ms) => {
                let max_ms = max_ms.max(self.latency_max_ms);
                for other in self.peers(number) {
                    let slowest = std::time::Duration::from_millis(max_ms);
                    sim.set_link_max_message_latency(name, other.as_str(), slowest);
                }
            }
            Step::Reset => machine.resets.reset(),
            Step::Pause => self.stand(sim, &machine, true, now_ms),
            Step::Go => self.stand(sim, &machine, false, now_ms),
            Step::Restart => machine.life.ask_to_restart(),
            Step::Ail(ailment) => machine.disk.ail(ailment),
            Step::Clock(ahead_ms) => machine.clock.set_ahead_ms(ahead_ms, now_ms),
            Step::Drift(ppm) => machine.clock.set_drift_ppm(ppm, now_ms),
        }
        self.trace.note("fault", &text);
    }

    /// A machine stands still, or moves again. Its timers run on, for they are the simulator's; nothing of them is seen outside.
    fn stand(&mut self, sim: &turmoil::Sim<'_>, machine: &Machine, stands: bool, now_ms: u64) {
        let changes =
            if stands { self.standing.insert(machine.number) } else { self.standing.remove(&machine.number) };
        if !changes {
            return;
        }
        machine.clock.set_stands(stands, now_ms);
        machine.disk.set_stands(stands);
        machine.life.set_stands(stands);
        let mut everybody = self.peers(machine.number);
        everybody.extend(self.others.iter().cloned());
        everybody.push(name_of(machine));
        for other in everybody {
            match stands {
                true => self.wires.clog(sim, &machine.name, &other),
                false => self.wires.unclog(sim, &machine.name, &other),
            }
        }
    }

    /// Everything whole again. With `restart` every machine loses power once more; else a node whose disk had failed must find
    /// its way by itself. A disk that was planted to lie goes on lying.
    pub fn heal(&mut self, sim: &mut turmoil::Sim<'_>, restart: bool, lies: bool, now_ms: u64) {
        let machines: Vec<Machine> = self.machines.to_vec();
        for machine in &machines {
            self.stand(sim, machine, false, now_ms);
        }
        self.wires.heal(sim);
        for machine in &machines {
            let mut step = |step| self.perform(sim, machine.number, step, now_ms);
            if machines.len() > 1 {
                step(Step::Lose(0));
                step(Step::Slow(0));
            }
            step(Step::Drift(0));
            step(Step::Clock(0));
            if restart {
                step(Step::Crash);
            }
            step(Step::Ail(Ailment { sync_lies: lies, ..Ailment::default() }));
            step(Step::Start);
        }
    }

    /// Notes for each machine whether it can reach a majority of the voters.
    pub fn look_for_minorities(&self, voters: u64) {
        let up: BTreeSet<String> = self
            .machines
            .iter()
            .filter(|machine| {
                machine.life.serves_from().is_some() && !self.standing.contains(&machine.number)
            })
            .map(|machine| machine.name.clone())
            .collect();
        for machine in self.machines {
            let reached = u64::try_from(self.wires.reached(&machine.name, &up)).unwrap_or(0);
            machine.life.set_minor(voters > 1 && reached.saturating_mul(2) <= voters);
        }
    }
}
