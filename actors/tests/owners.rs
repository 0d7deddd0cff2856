//! The shells against ports made of tables: crashes, thousands of owners, two nodes in one process, bounded notices.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say so by failing"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use featureops_actors::Owners;
use featureops_actors::directory::{Notice, OWNERS_MAX, Standing};
use featureops_actors::mind::{Mind, Minds};
use featureops_actors::ports::{
    Answer, Clock, Inline, OwnerView, Ports, Proposal, Proposer, Submission, Views, chance_of,
};
use featureops_actors::supervisor::Restarts;
use featureops_decision::chance::Chance;
use featureops_decision::owner::{Action, Event, FrozenView};
use featureops_proto::{log, v1};
use parking_lot::Mutex;

/// A log of one decision per sequence, with the fence that apply has.
#[derive(Default)]
struct Table {
    views: Mutex<BTreeMap<u32, OwnerView>>,
    accepted: Mutex<BTreeMap<(u32, u64), Vec<u64>>>,
    answers: Mutex<Vec<Answer>>,
    reads: AtomicU64,
}

impl Table {
    fn with(experiments: impl Iterator<Item = u32>) -> Arc<Self> {
        let table = Self::default();
        for experiment in experiments {
            let frozen = FrozenView { epoch: 1, ..FrozenView::default() };
            table.views.lock().insert(experiment, OwnerView { frozen, seed: u64::from(experiment) });
        }
        Arc::new(table)
    }

    /// Sequences accepted for the experiment, over all epochs.
    fn sequences(&self, experiment: u32) -> Vec<u64> {
        let accepted = self.accepted.lock();
        accepted
            .iter()
            .filter(|((number, _), _)| *number == experiment)
            .flat_map(|(_, list)| list.clone())
            .collect()
    }
}

impl Views for Table {
    fn owner_view(&self, experiment: u32) -> Option<OwnerView> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.views.lock().get(&experiment).cloned()
    }
}

impl Proposer for Table {
    fn submit(&self, proposal: Proposal) -> Submission {
        let answer = self.answers.lock().pop().unwrap_or(Answer::Accepted);
        if answer == Answer::Accepted {
            let key = (proposal.experiment, proposal.stamp.epoch);
            let mut accepted = self.accepted.lock();
            let list = accepted.entry(key).or_default();
            // As apply does: a repeated sequence gets its answer again and counts once.
            if list.last().is_none_or(|last| proposal.stamp.sequence > *last) {
                list.push(proposal.stamp.sequence);
            }
            if let Some(view) = self.views.lock().get_mut(&proposal.experiment) {
                view.frozen.last_sequence = proposal.stamp.sequence;
            }
        }
        Box::pin(std::future::ready(answer))
    }
}

struct Stopped;

impl Clock for Stopped {
    fn now_ms(&self) -> i64 {
        0
    }
}

/// Decides at every look, and panics as often as it is told to.
struct Simple {
    panics: Arc<AtomicU64>,
    waiting: Option<log::OwnerStamp>,
}

impl Mind for Simple {
    fn step(&mut self, event: Event, _now_ms: i64, _chance: &mut Chance) -> Vec<Action> {
        let submit = |stamp| Action::Submit { stamp, decision: Box::new(v1::Decision::default()) };
        match event {
            Event::Frozen(view) => {
                let left = self.panics.load(Ordering::SeqCst);
                if left > 0 {
                    self.panics.store(left - 1, Ordering::SeqCst);
                    panic!("planted");
                }
                let stamp = log::OwnerStamp {
                    epoch: view.epoch,
                    sequence: view.last_sequence + 1,
                    expected_flag_version: 0,
                };
                self.waiting = Some(stamp);
                vec![submit(stamp)]
            }
            Event::Unanswered { .. } => self.waiting.map(submit).into_iter().collect(),
            Event::Replied { .. } => {
                self.waiting = None;
                Vec::new()
            }
        }
    }
}

#[derive(Clone, Default)]
struct SimpleMinds(Arc<AtomicU64>);

impl Minds for SimpleMinds {
    fn mind(&self, _experiment: u32) -> Box<dyn Mind> {
        Box::new(Simple { panics: Arc::clone(&self.0), waiting: None })
    }
}

fn ports(table: &Arc<Table>, minds: &SimpleMinds) -> Ports {
    Ports {
        proposer: table.clone(),
        views: table.clone(),
        clock: Arc::new(Stopped),
        compute: Arc::new(Inline),
        minds: Arc::new(minds.clone()),
    }
}

/// Simulated time passes until it is so, or a minute has.
async fn until(so: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come about");
}

#[tokio::test(start_paused = true)]
async fn a_mind_that_panics_is_started_again_from_the_view_and_goes_on() {
    let table = Table::with(1..=1);
    let minds = SimpleMinds::default();
    let owners = Owners::start(ports(&table, &minds), Restarts::default()).await.unwrap();
    owners.assigned(1, 1).unwrap();
    until(|| table.sequences(1) == [1]).await;
    minds.0.store(2, Ordering::SeqCst);
    owners.frozen(1);
    // Two crashes, two pauses; then the sequence goes on where the log left it: nothing lost, nothing twice.
    until(|| table.sequences(1) == [1, 2]).await;
    let health = owners.health();
    assert_eq!((health[0].standing.clone(), health[0].crashes), (Standing::Running, 2));
    owners.stop().await;
}

#[tokio::test(start_paused = true)]
async fn past_the_intensity_bound_an_owner_is_held_until_it_is_assigned_anew() {
    let table = Table::with(1..=2);
    let minds = SimpleMinds::default();
    minds.0.store(5, Ordering::SeqCst);
    let owners = Owners::start(ports(&table, &minds), Restarts::default()).await.unwrap();
    owners.assigned(1, 1).unwrap();
    until(|| matches!(owners.health()[0].standing, Standing::Held { .. })).await;
    let Standing::Held { reason } = owners.health()[0].standing.clone() else { unreachable!() };
    assert!(reason.contains("planted"), "{reason}");
    assert_eq!(owners.frozen(1), Notice::NoOwner);
    // The others go on.
    owners.assigned(2, 1).unwrap();
    until(|| table.sequences(2) == [1]).await;
    // A new epoch is a new start.
    table.views.lock().get_mut(&1).unwrap().frozen.epoch = 2;
    owners.assigned(1, 2).unwrap();
    until(|| table.sequences(1) == [1]).await;
    owners.stop().await;
}

#[tokio::test(start_paused = true)]
async fn thousands_of_owners_start_and_stop_and_none_proposes_afterwards() {
    let table = Table::with(1..=2_000);
    let minds = SimpleMinds::default();
    let owners = Owners::start(ports(&table, &minds), Restarts::default()).await.unwrap();
    for experiment in 1..=2_000 {
        owners.assigned(experiment, 1).unwrap();
    }
    until(|| table.accepted.lock().len() == 2_000).await;
    assert_eq!(owners.running(), 2_000);
    for experiment in 1..=1_000 {
        owners.ended(experiment);
    }
    until(|| owners.running() == 1_000 && owners.frozen(1) == Notice::NoOwner).await;
    owners.stop().await;
    let before = table.reads.load(Ordering::Relaxed);
    for experiment in 1..=2_000 {
        assert_eq!(owners.frozen(experiment), Notice::NoOwner);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(table.reads.load(Ordering::Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn two_nodes_in_one_process_own_the_same_experiments_without_a_collision() {
    let (one, two) = (Table::with(1..=50), Table::with(1..=50));
    let minds = SimpleMinds::default();
    let first = Owners::start(ports(&one, &minds), Restarts::default()).await.unwrap();
    let second = Owners::start(ports(&two, &minds), Restarts::default()).await.unwrap();
    for experiment in 1..=50 {
        first.assigned(experiment, 1).unwrap();
        second.assigned(experiment, 1).unwrap();
    }
    until(|| first.running() == 50 && second.running() == 50).await;
    first.stop().await;
    until(|| two.accepted.lock().len() == 50).await;
    assert_eq!(second.running(), 50);
    assert!(ractor::registry::registered().is_empty(), "an actor was named");
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn notices_are_coalesced_to_one_under_way_and_the_newest_view_is_read() {
    let table = Table::with(1..=1);
    let minds = SimpleMinds::default();
    let owners = Owners::start(ports(&table, &minds), Restarts::default()).await.unwrap();
    owners.assigned(1, 1).unwrap();
    until(|| table.sequences(1) == [1]).await;
    let casts = owners.casts();
    // The owner cannot run between these: nothing here waits.
    let sent = (0..100_000).filter(|_| owners.frozen(1) == Notice::Sent).count();
    assert_eq!((sent, owners.casts() - casts), (1, 1));
    table.views.lock().get_mut(&1).unwrap().frozen.last_sequence = 41;
    until(|| table.sequences(1) == [1, 42]).await;
    owners.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_proposal_is_repeated_under_its_own_sequence() {
    let table = Table::with(1..=1);
    let minds = SimpleMinds::default();
    *table.answers.lock() = vec![Answer::Accepted, Answer::Unknown, Answer::Unknown];
    let owners = Owners::start(ports(&table, &minds), Restarts::default()).await.unwrap();
    owners.assigned(1, 1).unwrap();
    until(|| !table.sequences(1).is_empty()).await;
    assert_eq!(table.sequences(1), [1]);
    owners.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_view_of_another_epoch_is_never_acted_on() {
    let table = Table::with(1..=1);
    table.views.lock().get_mut(&1).unwrap().frozen.epoch = 7;
    let minds = SimpleMinds::default();
    let owners = Owners::start(ports(&table, &minds), Restarts::default()).await.unwrap();
    owners.assigned(1, 6).unwrap();
    until(|| owners.running() == 1).await;
    owners.frozen(1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(table.accepted.lock().is_empty());
    owners.assigned(1, 7).unwrap();
    until(|| table.sequences(1) == [1]).await;
    owners.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_directory_has_a_bound_and_says_so() {
    let table = Table::with(1..=1);
    let owners = Owners::start(ports(&table, &SimpleMinds::default()), Restarts::default()).await.unwrap();
    let admitted =
        (0..=u32::try_from(OWNERS_MAX).unwrap()).filter(|number| owners.assigned(*number, 1).is_ok());
    assert_eq!(admitted.count(), OWNERS_MAX);
    owners.ended(1);
    assert!(owners.assigned(77_777, 1).is_ok());
    owners.stop().await;
}

#[test]
fn chance_is_a_function_of_seed_epoch_and_sequence_and_of_nothing_else() {
    let draw = |seed, epoch, sequence| chance_of(seed, epoch, sequence).bits();
    assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
    let others = [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(3, 2, 1), draw(1, 3, 2)];
    assert!(others.iter().all(|other| *other != draw(1, 2, 3)), "{others:?}");
}
