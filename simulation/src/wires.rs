//! The wires between hosts: what is cut, which way, and what is held back. Faults overlap; each takes back its own only.
//!
//! ```text
//!   whole      messages arrive after their latency
//!   cut        messages of one way, or of both, are lost for good
//!   clogged    messages of both ways wait, and arrive in order when the last clog is gone
//! ```
//!
//! A cut is stronger than a clog: what waited arrives before the cut begins.

use std::collections::{BTreeMap, BTreeSet};

/// Faults that lie on the wire from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Way {
    cuts: u32,
    clogs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Whole,
    Cut,
    CutOneWay,
    Clogged,
}

/// Every wire that a fault lies on.
#[derive(Debug, Default)]
pub struct Wires {
    ways: BTreeMap<(String, String), Way>,
    states: BTreeMap<(String, String), (State, State)>,
}

impl Wires {
    /// Messages from one host to another are lost from now on; one more reason for it.
    pub fn cut(&mut self, sim: &turmoil::Sim<'_>, from: &str, to: &str) {
        let way = self.way(from, to);
        way.cuts = way.cuts.saturating_add(1);
        self.settle(sim, from, to);
    }

    /// One reason less.
    pub fn mend(&mut self, sim: &turmoil::Sim<'_>, from: &str, to: &str) {
        let way = self.way(from, to);
        way.cuts = way.cuts.saturating_sub(1);
        self.settle(sim, from, to);
    }

    /// Messages between two hosts wait from now on; one more reason for it.
    pub fn clog(&mut self, sim: &turmoil::Sim<'_>, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            let way = self.way(from, to);
            way.clogs = way.clogs.saturating_add(1);
        }
        self.settle(sim, one, other);
    }

    /// One reason less.
    pub fn unclog(&mut self, sim: &turmoil::Sim<'_>, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            let way = self.way(from, to);
            way.clogs = way.clogs.saturating_sub(1);
        }
        self.settle(sim, one, other);
    }

    /// Every wire is whole.
    pub fn heal(&mut self, sim: &turmoil::Sim<'_>) {
        let pairs: Vec<(String, String)> = self.states.keys().cloned().collect();
        self.ways.clear();
        for (one, other) in pairs {
            self.settle(sim, &one, &other);
        }
    }

    /// Whether two hosts can talk: both ways, now.
    #[must_use]
    pub fn joins(&self, one: &str, other: &str) -> bool {
        let whole = |from: &str, to: &str| {
            let way = self.ways.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default();
            way.cuts == 0 && way.clogs == 0
        };
        whole(one, other) && whole(other, one)
    }

    /// Those of `hosts` that a host can talk to, itself among them.
    #[must_use]
    pub fn reached(&self, host: &str, hosts: &BTreeSet<String>) -> usize {
        hosts.iter().filter(|other| *other == host || self.joins(host, other)).count()
    }

    fn way(&mut self, from: &str, to: &str) -> &mut Way {
        self.ways.entry((from.to_owned(), to.to_owned())).or_default()
    }

    fn wanted(&self, from: &str, to: &str) -> State {
        let of = |from: &str, to: &str| {
            self.ways.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default()
        };
        let (there, back) = (of(from, to), of(to, from));
        match (there.cuts > 0, back.cuts > 0) {
            (true, true) => State::Cut,
            (true, false) => State::CutOneWay,
            (false, true) => State::Whole,
            (false, false) if there.clogs > 0 => State::Clogged,
            (false, false) => State::Whole,
        }
    }

    fn settle(&mut self, sim: &turmoil::Sim<'_>, one: &str, other: &str) {
        let (one, other) = if one < other { (one, other) } else { (other, one) };
        let wanted = (self.wanted(one, other), self.wanted(other, one));
        let pair = (one.to_owned(), other.to_owned());
        let before = self.states.insert(pair, wanted).unwrap_or_default();
        if before == wanted {
            return;
        }
        if before.0 == State::Clogged {
            sim.release(one, other);
        }
        sim.repair(one, other);
        match wanted {
            (State::Cut, _) => sim.partition(one, other),
            (State::Clogged, _) => sim.hold(one, other),
            (State::CutOneWay, _) => sim.partition_oneway(one, other),
            (_, State::CutOneWay) => sim.partition_oneway(other, one),
            _ => {}
        }
    }
}
