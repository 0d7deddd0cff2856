//! Every order in which two nodes, one flag, a leader and a person can act, and messages be late, doubled or lost: an exhaustive
//! model of ownership and fencing, over the product's own fold and mind.
//!
//! ```text
//!   leader: assign A | assign B | tick        person: set weights | trip | resume
//!   node:   what it proposed when it had learned the first n entries arrives, for every n, as often as you like
//! ```
//!
//! What a message holds follows from where its sender stood in the log. A node may have been paused there for any time, its message may
//! have been on its way for any time, arrive twice, or never: all of that is the choice of which message arrives next. So a state of
//! the model is the log alone. An owner that crashes keeps nothing: each proposal is made by a mind that has seen one view.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::BTreeMap;

use featureops::owners::frozen_view;
use featureops_decision::chance::Chance;
use featureops_decision::owner::{Action as Said, Config, Event, Owner};
use featureops_proto::log::{self, Batch, ExposureFact, OutcomeFact, OwnerStamp, assign_owners, entry};
use featureops_proto::{ErrorCode, v1};
use featureops_simulation::programme::fold::Fold;
use stateright::{Checker as _, Model, Property};

/// Entries after the common beginning.
const LOG_MAX: usize = 5;
const EXPERIMENT: &str = "environments/shop/experiments/e";
const FLAG: &str = "environments/shop/flags/e";

/// What stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Command {
    Tick,
    Assign(u8),
    Weights,
    Trip,
    Resume,
    /// What a node proposed where it stood then.
    Decide(Message),
}

/// A proposal: who made it, and how many entries it had learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Message {
    node: u8,
    learned: u8,
}

/// What came of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Applied,
    /// Answered as before; nothing changed.
    Repeated,
    Refused(&'static str),
}

type World = Vec<(Command, Outcome)>;

/// Two nodes and a flag; with a defect an owner stamps a message anew when it is sent, by what the log holds then.
struct Fencing {
    begin: Fold,
    restamps: bool,
}

fn fold() -> Fold {
    let mut fold = Fold::new("shop").unwrap();
    let variants = ["a", "b"].map(|arm| (arm.to_owned(), arm.into()));
    let flag = v1::Flag {
        name: FLAG.to_owned(),
        r#type: v1::ValueType::String.into(),
        variants: BTreeMap::from(variants),
        default_variant: Some("a".to_owned()),
        safe_variant: Some("a".to_owned()),
        ..v1::Flag::default()
    };
    let metric = v1::Metric {
        name: "environments/shop/metrics/m".to_owned(),
        kind: v1::metric::Kind::Proportion.into(),
        direction: v1::metric::Direction::HigherIsBetter.into(),
        ..v1::Metric::default()
    };
    let experiment = v1::Experiment {
        name: EXPERIMENT.to_owned(),
        flag: "e".to_owned(),
        arms: ["a", "b"].map(|arm| v1::Arm { variant: arm.to_owned(), established: true }).to_vec(),
        primary_metric: "m".to_owned(),
        cool_down_seconds: Some(1),
        ..v1::Experiment::default()
    };
    for command in [
        entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }),
        entry::Command::SetMetric(log::SetMetric { metric: Some(metric), etag: String::new() }),
        entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) }),
        entry::Command::StartExperiment(log::StartExperiment {
            name: EXPERIMENT.to_owned(),
            autonomy: v1::AutonomyLevel::A4Bounded.into(),
            etag: String::new(),
        }),
    ] {
        fold.person(command).unwrap();
    }
    append(&mut fold, &[], Command::Assign(0), false);
    // So much better that every look wants to move traffic, and too little for a winner: nothing is promoted.
    let experiment = fold.state.experiment("shop", "e").unwrap().number;
    let metric = fold.state.metric("shop", "m").unwrap().number;
    let hash = |unit: u32| u64::from(unit).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let exposure = |unit: u32| ExposureFact {
        index: unit,
        experiment,
        arm: unit % 2,
        unit_hash: hash(unit),
        ..ExposureFact::default()
    };
    fold.facts(Batch { exposures: (0..400).map(exposure).collect(), ..Batch::default() }).unwrap();
    let converts = (0u32..400).filter(|unit| unit % 20 < if unit % 2 == 0 { 4 } else { 8 });
    let outcome = |(index, unit)| OutcomeFact {
        index,
        metric,
        unit_hash: hash(unit),
        value: 1_000_000,
        ..OutcomeFact::default()
    };
    fold.facts(Batch { outcomes: (0u32..).zip(converts).map(outcome).collect(), ..Batch::default() })
        .unwrap();
    fold.tick(2_000).unwrap();
    fold
}

/// What a mind that has seen nothing else proposes at this state.
fn proposed(fold: &Fold, node: u8) -> Option<(OwnerStamp, v1::Decision)> {
    let state = &fold.state;
    let number = state.experiment("shop", "e")?.number;
    let owner = state.running_experiments().into_iter().find(|owned| owned.experiment == number)?;
    if owner.node != u64::from(node) + 1 {
        return None;
    }
    let view = state.owner_view(number)?;
    let frozen = frozen_view(
        view,
        &state.experiment_by_number(number)?,
        &state.flag("shop", "e")?,
        state.flag_decisions("shop", "e"),
    );
    let said =
        Owner::new(Config::default()).step(Event::Frozen(Box::new(frozen)), 0, &mut Chance::from_seed(1));
    said.into_iter().find_map(|said| match said {
        Said::Submit { stamp, decision } => Some((stamp, *decision)),
        Said::Note(_) => None,
    })
}

/// Applies an entry behind `before`, which this state holds.
fn append(fold: &mut Fold, before: &[Command], command: Command, restamps: bool) -> Outcome {
    let answered = match command {
        Command::Tick => {
            fold.tick(2_000).unwrap();
            None
        }
        Command::Assign(node) => {
            let experiment = fold.state.experiment("shop", "e").unwrap().number;
            let assignment =
                assign_owners::Assignment { experiment, node: u64::from(node) + 1, from_epoch: None };
            let assignments = vec![assignment];
            fold.asked(entry::Command::AssignOwners(log::AssignOwners { assignments })).unwrap()
        }
        Command::Weights => fold
            .asked(entry::Command::SetAllocation(log::SetAllocation {
                name: EXPERIMENT.to_owned(),
                weights_basis_points: vec![5_000, 5_000],
                etag: String::new(),
            }))
            .unwrap(),
        Command::Trip => fold
            .asked(entry::Command::TripFlag(log::TripFlag {
                name: FLAG.to_owned(),
                reason: "a person".to_owned(),
                ..log::TripFlag::default()
            }))
            .unwrap(),
        Command::Resume => fold
            .asked(entry::Command::ResumeFlag(log::ResumeFlag {
                name: FLAG.to_owned(),
                ..log::ResumeFlag::default()
            }))
            .unwrap(),
        Command::Decide(message) => {
            let (stamp, decision) = sent(before, message, restamps);
            let now = proposed(fold, message.node);
            let stamp = match now {
                Some((now, _)) if restamps => now,
                _ if restamps => {
                    let number = fold.state.experiment("shop", "e").unwrap().number;
                    let expected_flag_version = fold.state.flag("shop", "e").unwrap().flag_version;
                    fold.state.owner_view(number).map_or(stamp, |view| OwnerStamp {
                        epoch: view.epoch,
                        sequence: view.last_sequence + 1,
                        expected_flag_version,
                    })
                }
                _ => stamp,
            };
            let held = fold.state.flag_decisions("shop", "e").count();
            let answered = fold.owner(stamp, decision).unwrap();
            if answered.is_none() && fold.state.flag_decisions("shop", "e").count() == held {
                return Outcome::Repeated;
            }
            answered
        }
    };
    match answered {
        None => Outcome::Applied,
        Some(refusal) => Outcome::Refused(ErrorCode::parse(&refusal.code).unwrap().as_str()),
    }
}

/// What a node says, by the entries that it has learned.
type Sent = BTreeMap<(Vec<Command>, u8, bool), Option<(OwnerStamp, v1::Decision)>>;

thread_local! {
    /// The common beginning, and what messages held: a message follows from the entries that its sender had learned.
    static BEGIN: Fold = fold();
    static SENT: std::cell::RefCell<Sent> = const { std::cell::RefCell::new(BTreeMap::new()) };
}

/// The state behind these entries.
fn replayed(begin: &Fold, log: &[Command], restamps: bool) -> Fold {
    let mut fold = begin.clone();
    for at in 0..log.len() {
        append(&mut fold, &log[..at], log[at], restamps);
    }
    fold
}

/// What a node proposes behind these entries.
fn said(learned: &[Command], node: u8, restamps: bool) -> Option<(OwnerStamp, v1::Decision)> {
    let key = (learned.to_vec(), node, restamps);
    if let Some(known) = SENT.with_borrow(|sent| sent.get(&key).cloned()) {
        return known;
    }
    let said = proposed(&BEGIN.with(|begin| replayed(begin, learned, restamps)), node);
    SENT.with_borrow_mut(|sent| sent.insert(key, said.clone()));
    said
}

fn sent(log: &[Command], message: Message, restamps: bool) -> (OwnerStamp, v1::Decision) {
    said(&log[..usize::from(message.learned)], message.node, restamps).unwrap()
}

fn commands(world: &World) -> Vec<Command> {
    world.iter().map(|(command, _)| *command).collect()
}

impl Model for Fencing {
    type State = World;
    type Action = Command;

    fn init_states(&self) -> Vec<World> {
        vec![World::new()]
    }

    fn actions(&self, world: &World, next: &mut Vec<Command>) {
        let log = commands(world);
        if log.len() == LOG_MAX {
            return;
        }
        let count = |wanted: Command| log.iter().filter(|command| **command == wanted).count();
        let standing = count(Command::Trip) > count(Command::Resume);
        next.extend([Command::Tick, Command::Assign(0), Command::Assign(1), Command::Weights]);
        next.push(if standing { Command::Resume } else { Command::Trip });
        for learned in 0u8..=u8::try_from(log.len()).unwrap() {
            let messages = [0u8, 1].map(|node| Message { node, learned });
            let made =
                |message: &Message| said(&log[..usize::from(learned)], message.node, self.restamps).is_some();
            next.extend(messages.into_iter().filter(made).map(Command::Decide));
        }
    }

    fn next_state(&self, world: &World, command: Command) -> Option<World> {
        let before = commands(world);
        let mut fold = replayed(&self.begin, &before, self.restamps);
        let outcome = append(&mut fold, &before, command, self.restamps);
        fold.state.check().unwrap();
        Some([world.as_slice(), &[(command, outcome)]].concat())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "a decision that is applied was made knowing all that binds it",
                |_, world: &World| {
                    accepted(world).all(|(at, message)| {
                        world[usize::from(message.learned)..at].iter().all(|(command, outcome)| {
                            *outcome != Outcome::Applied || *command == Command::Tick
                        })
                    })
                },
            ),
            Property::always("nothing is applied while a person's trip stands", |_, world: &World| {
                accepted(world).all(|(at, _)| {
                    let last = world[..at].iter().rev().find(|(command, outcome)| {
                        *outcome == Outcome::Applied && matches!(command, Command::Trip | Command::Resume)
                    });
                    !matches!(last, Some((Command::Trip, _)))
                })
            }),
            Property::sometimes("a decision is applied", |_, world: &World| accepted(world).next().is_some()),
            Property::sometimes("the other node's is, after a move", |_, world: &World| {
                accepted(world).any(|(_, message)| message.node == 1)
            }),
            Property::sometimes("two are", |_, world: &World| accepted(world).count() == 2),
            Property::sometimes("a late one of the owner before is fenced", |_, world: &World| {
                refused(world, "FENCED")
            }),
            Property::sometimes("one from before a person's command is stale", |_, world: &World| {
                refused(world, "STALE_DECISION")
            }),
            Property::sometimes("one that raced a trip is refused", |_, world: &World| {
                refused(world, "TRIPPED")
            }),
            Property::sometimes("a doubled one is answered as before", |_, world: &World| {
                world.iter().any(|(_, outcome)| *outcome == Outcome::Repeated)
            }),
        ]
    }
}

/// The decisions that were applied, and where.
fn accepted(world: &World) -> impl Iterator<Item = (usize, Message)> {
    world.iter().enumerate().filter_map(|(at, (command, outcome))| match (command, outcome) {
        (Command::Decide(message), Outcome::Applied) => Some((at, *message)),
        _ => None,
    })
}

fn refused(world: &World, code: &str) -> bool {
    world.iter().any(|(command, outcome)| {
        matches!(command, Command::Decide(_)) && matches!(outcome, Outcome::Refused(why) if *why == code)
    })
}

#[test]
fn no_order_of_pauses_and_late_messages_lets_a_stale_owner_decide() {
    let checker = Fencing { begin: fold(), restamps: false }.checker().threads(2).spawn_bfs().join();
    println!("{} states, {} of them different", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 5_000, "{}", checker.unique_state_count());
}

#[test]
fn an_owner_that_stamps_anew_when_it_repeats_is_found() {
    let checker = Fencing { begin: fold(), restamps: true }.checker().spawn_bfs().join();
    let found = checker.discovery("a decision that is applied was made knowing all that binds it");
    println!("{:?}", found.unwrap().into_actions());
}
