//! A node from its first start: proposals, facts, ticks, snapshots, stops and restarts.

#![allow(clippy::unwrap_used, clippy::panic)]

mod toy;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use featureops_cluster::environment::{Clock, Entropy, Environment, Inline, Tcp};
use featureops_cluster::storage::memory::MemoryDisk;
use featureops_cluster::{Cluster, EffectSink, NoSink, Options, ProposeError, StartError};
use featureops_proto::log::{Batch, ExposureFact};
use parking_lot::Mutex;
use toy::Toy;

/// A clock that moves when told.
#[derive(Default)]
struct Hands {
    unix_ms: AtomicI64,
    monotonic_ms: AtomicU64,
}

impl Clock for Hands {
    fn unix_ms(&self) -> i64 {
        self.unix_ms.load(Ordering::SeqCst)
    }
    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::SeqCst) as u8;
        }
    }
}

fn world(disk: &MemoryDisk) -> (Environment, Arc<Hands>) {
    let hands = Arc::new(Hands::default());
    hands.unix_ms.store(1_000_000, Ordering::SeqCst);
    let environment = Environment {
        clock: hands.clone(),
        entropy: Arc::new(Counter::default()),
        storage: Arc::new(disk.clone()),
        transport: Arc::new(Tcp),
        compute: Arc::new(Inline),
    };
    (environment, hands)
}

fn options() -> Options {
    let mut options = Options::new(1, "127.0.0.1:7400");
    options.tick_ms = 3_600_000;
    options
}

async fn start(environment: &Environment, options: Options) -> Cluster<Toy> {
    let cluster =
        Cluster::start(environment.clone(), options, Toy::default(), Arc::new(NoSink)).await.unwrap();
    cluster.ready(5_000).await.unwrap();
    cluster
}

/// Waits until `reached`, ten seconds at most.
async fn eventually(what: &str, reached: impl Fn() -> bool) {
    for _ in 0..1000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within ten seconds: {what}");
}

fn entry(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_brings_back_the_snapshot_and_the_log_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = Vec::new();
    for round in 0..4 {
        let mut options = options();
        options.snapshot_after_entries = 50;
        options.keep_entries = 5;
        let cluster = start(&Environment::production(folder.path()), options).await;
        cluster.linearizable().await.unwrap();
        let found: Vec<_> = cluster.read(|toy| toy.entries.to_vec());
        assert_eq!(found, before, "round {round}");
        for number in 0..70 {
            let text = format!("{round}-{number}");
            let (position, _) = cluster.propose(entry(&text)).await.unwrap();
            before.push((position, text.into_bytes()));
        }
        eventually("a snapshot", || cluster.health().snapshot.is_some()).await;
        let health = cluster.health();
        assert!(health.snapshot.is_some() && health.leads && health.disk_error.is_none(), "{health:?}");
        cluster.shutdown().await;
        assert_eq!(cluster.propose(entry("late")).await, Err(ProposeError::ShuttingDown));
    }
}

#[tokio::test]
async fn every_call_works_from_a_bare_spawn() {
    let (environment, _) = world(&MemoryDisk::default());
    let cluster = start(&environment, options()).await;
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let cluster = cluster.clone();
            tokio::spawn(async move { cluster.propose(entry(&format!("{number}"))).await })
        })
        .collect();
    let mut positions = Vec::new();
    for call in calls {
        positions.push(call.await.unwrap().unwrap().0);
    }
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), 200);
    let other = cluster.clone();
    let read = tokio::spawn(async move {
        let position = other.linearizable().await.unwrap();
        other.snapshot().await.unwrap();
        (position, other.health().applied)
    });
    let (position, applied) = read.await.unwrap();
    assert!(applied >= position && position >= *positions.last().unwrap());
    tokio::spawn(async move { cluster.shutdown().await }).await.unwrap();
}

#[tokio::test]
async fn a_violation_stops_the_fold_and_not_the_node_also_after_a_restart() {
    for poison in ["violate", "panic"] {
        let disk = MemoryDisk::default();
        let (environment, _) = world(&disk);
        let cluster = start(&environment, options()).await;
        eventually("the first tick", || cluster.read(|toy| !toy.ticks.is_empty())).await;
        let (position, _) = cluster.propose(entry("good")).await.unwrap();
        // Both are in raft before the first is applied: the second is in the log too.
        let (stopped, behind) =
            tokio::join!(cluster.propose(entry(poison)), cluster.propose(entry("behind")));
        let Err(ProposeError::Violated(halted)) = stopped else { panic!("{poison}: {stopped:?}") };
        assert_eq!(halted.position, position + 1);
        assert!(
            matches!(&behind, Err(ProposeError::Unknown { why }) if why.contains("in the log")),
            "{behind:?}"
        );
        assert_eq!(cluster.health().last_log, Some(position + 2));
        let refused = ProposeError::Halted(halted.clone());
        assert_eq!(cluster.propose(entry("more")).await, Err(refused.clone()));
        assert!(refused.to_string().contains(&format!("position {}", position + 1)));
        assert_eq!(cluster.read(|toy| toy.entries.len()), 1);
        let health = cluster.health();
        assert_eq!((health.applied, health.halted.as_ref()), (position, Some(&halted)));
        assert_eq!(health.last_log, Some(position + 2), "nothing was written for `more`");
        assert!(health.stopped.is_none());
        cluster.shutdown().await;

        let cluster = start(&environment, options()).await;
        eventually("the stop", || cluster.health().halted.is_some()).await;
        assert_eq!(cluster.health().halted, Some(halted));
        assert_eq!(cluster.read(|toy| toy.entries.len()), 1);
        cluster.shutdown().await;
    }
}

#[tokio::test]
async fn bounds_are_kept() {
    let (environment, _) = world(&MemoryDisk::new(Arc::new(|| Duration::from_millis(20))));
    let mut options = options();
    options.proposals_max = 4;
    let cluster = start(&environment, options).await;
    let large = cluster.propose(Bytes::from(vec![0; (8 << 20) + 1])).await;
    assert!(matches!(large, Err(ProposeError::TooLarge { .. })));
    let calls = (0..40).map(|_| {
        let cluster = cluster.clone();
        tokio::spawn(async move { cluster.propose(entry("x")).await })
    });
    let mut overloaded = 0;
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Ok(_) => {}
            Err(ProposeError::Overloaded { bound: 4, .. }) => overloaded += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(overloaded > 0);
    cluster.shutdown().await;
}

#[tokio::test]
async fn what_is_in_raft_stays_in_flight_when_its_caller_is_gone() {
    let (environment, _) = world(&MemoryDisk::new(Arc::new(|| Duration::from_millis(150))));
    let mut options = options();
    options.proposals_max = 1;
    options.propose_timeout_ms = 1_000;
    let cluster = start(&environment, options).await;
    eventually("the first tick", || cluster.read(|toy| !toy.ticks.is_empty())).await;
    let dropped = tokio::time::timeout(Duration::from_millis(10), cluster.propose(entry("dropped"))).await;
    assert!(dropped.is_err());
    let refused = cluster.propose(entry("more")).await;
    assert!(matches!(refused, Err(ProposeError::Overloaded { bound: 1, .. })), "{refused:?}");
    eventually("the entry", || cluster.read(|toy| toy.entries.len() == 1)).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    cluster.propose(entry("more")).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_call_that_is_out_of_time_keeps_its_place_until_raft_answers() {
    let (environment, _) = world(&MemoryDisk::new(Arc::new(|| Duration::from_millis(200))));
    let mut options = options();
    options.proposals_max = 1;
    let first = start(&environment, options.clone()).await;
    eventually("the first tick", || first.read(|toy| !toy.ticks.is_empty())).await;
    first.shutdown().await;
    options.propose_timeout_ms = 50;
    let cluster = start(&environment, options).await;
    eventually("its leadership", || cluster.health().leads && cluster.health().last_log > Some(3)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let late = cluster.propose(entry("late")).await;
    assert!(matches!(late, Err(ProposeError::Unknown { .. })), "{late:?}");
    let refused = cluster.propose(entry("more")).await;
    assert!(matches!(refused, Err(ProposeError::Overloaded { bound: 1, .. })), "{refused:?}");
    eventually("the entry", || cluster.read(|toy| toy.entries.len() == 1)).await;
    cluster.shutdown().await;
}

fn facts(sequence: u64) -> Batch {
    let exposures = vec![ExposureFact::default(); 2];
    Batch { producer: "p".to_owned(), sequence, exposures, ..Batch::default() }
}

#[tokio::test]
async fn facts_wait_for_the_first_tick_after_a_start() {
    let disk = MemoryDisk::new(Arc::new(|| Duration::from_millis(5)));
    for _ in 0..3 {
        let (environment, _) = world(&disk);
        let sink = Arc::new(NoSink);
        let cluster = Cluster::start(environment, options(), Toy::default(), sink).await.unwrap();
        cluster.ingest(facts(1)).await.unwrap();
        assert!(cluster.read(|toy| toy.ticks_before_facts >= Some(1)), "{:?}", cluster.read(Toy::clone));
        cluster.shutdown().await;
    }
}

#[tokio::test]
async fn facts_that_would_wait_too_long_are_refused_and_the_reason_is_said() {
    let (environment, _) = world(&MemoryDisk::default());
    let mut options = options();
    // Nobody ever leads.
    options.initialize = false;
    options.fact_hold_ms_max = 100;
    let cluster = Cluster::start(environment, options, Toy::default(), Arc::new(NoSink)).await.unwrap();
    let held = cluster.ingest(facts(1)).await;
    assert!(matches!(&held, Err(ProposeError::NotReady { why }) if why.contains("first tick")), "{held:?}");
    cluster.shutdown().await;
    assert_eq!(cluster.ingest(facts(3)).await, Err(ProposeError::ShuttingDown));
}

#[tokio::test]
async fn facts_of_many_become_few_commands_and_each_gets_its_own_reply() {
    let (environment, _) = world(&MemoryDisk::new(Arc::new(|| Duration::from_millis(2))));
    let cluster = start(&environment, options()).await;
    let first = *cluster.applied().borrow();
    let calls: Vec<_> = (0..300u64)
        .map(|sequence| {
            let cluster = cluster.clone();
            tokio::spawn(async move { cluster.ingest(facts(sequence)).await })
        })
        .collect();
    for (sequence, call) in calls.into_iter().enumerate() {
        let reply = call.await.unwrap().unwrap();
        assert_eq!(reply.counted as usize, sequence);
    }
    let commands = *cluster.applied().borrow() - first;
    assert!(commands < 30, "{commands} commands for 300 batches");
    let huge = Batch { producer: "x".repeat(3 << 20), ..Batch::default() };
    assert!(matches!(cluster.ingest(huge).await, Err(ProposeError::TooLarge { .. })));
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_leader_ticks_by_the_time_that_passed_while_its_wall_clock_is_off() {
    for off_ms in [-1_800_000, -5_001, 5_001, 3_600_000] {
        let (environment, hands) = world(&MemoryDisk::default());
        let mut options = options();
        options.tick_ms = 10;
        let cluster = start(&environment, options).await;
        eventually("three ticks", || cluster.read(|toy| toy.ticks.len() >= 3)).await;
        let ticks = cluster.read(|toy| toy.ticks.clone());
        assert_eq!(ticks.first(), Some(&(1_000_000, true)));
        assert!(ticks.iter().skip(1).all(|tick| *tick == (1_000_000, false)));
        assert_eq!(cluster.health().clock_off_ms, None);

        hands.unix_ms.fetch_add(off_ms, Ordering::SeqCst);
        assert_eq!(cluster.health().clock_off_ms, Some(off_ms));
        hands.unix_ms.fetch_add(4_000, Ordering::SeqCst);
        hands.monotonic_ms.fetch_add(4_000, Ordering::SeqCst);
        let last = || cluster.read(|toy| toy.ticks.last().copied());
        eventually("time goes on", || last() == Some((1_004_000, false))).await;

        // Back within the bound, the wall clock is followed again.
        hands.unix_ms.fetch_add(2_000 - off_ms, Ordering::SeqCst);
        eventually("the wall clock", || last() == Some((1_006_000, false))).await;
        assert_eq!(cluster.health().clock_off_ms, None);

        // A small step back is waited for, and time neither goes back nor stands.
        hands.unix_ms.fetch_sub(4_000, Ordering::SeqCst);
        hands.monotonic_ms.fetch_add(1_000, Ordering::SeqCst);
        hands.unix_ms.fetch_add(1_000, Ordering::SeqCst);
        eventually("half speed", || last() == Some((1_006_500, false))).await;
        let ticks = cluster.read(|toy| toy.ticks.clone());
        assert!(ticks.is_sorted_by_key(|(now_ms, _)| *now_ms));
        cluster.shutdown().await;
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_acknowledged_is_lost() {
    let disk = MemoryDisk::default();
    let (environment, _) = world(&disk);
    let mut options = options();
    options.propose_timeout_ms = 500;
    let cluster = start(&environment, options.clone()).await;
    for number in 0..20 {
        cluster.propose(entry(&format!("{number}"))).await.unwrap();
    }
    disk.set_full(true);
    let error = cluster.propose(entry("full")).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown { .. } | ProposeError::Stopped { .. }), "{error}");
    let error = cluster.propose(entry("full again")).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown { .. } | ProposeError::Stopped { .. }), "{error}");
    assert_eq!(cluster.read(|toy| toy.entries.len()), 20, "reads go on");
    let health = cluster.health();
    assert!(health.disk_error.is_some() || health.stopped.is_some(), "{health:?}");
    cluster.shutdown().await;

    disk.set_full(false);
    disk.crash();
    let cluster = start(&environment, options).await;
    cluster.linearizable().await.unwrap();
    assert!(cluster.read(|toy| toy.entries.len()) >= 20);
    cluster.propose(entry("again")).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_with_a_snapshot_starts_on_a_full_disk_and_reads() {
    let disk = MemoryDisk::default();
    let (environment, _) = world(&disk);
    let cluster = start(&environment, options()).await;
    for number in 0..20 {
        cluster.propose(entry(&format!("{number}"))).await.unwrap();
    }
    cluster.snapshot().await.unwrap();
    eventually("a snapshot", || cluster.health().snapshot.is_some()).await;
    cluster.shutdown().await;

    disk.set_full(true);
    let syncs = disk.syncs();
    let cluster = Cluster::start(environment, options(), Toy::default(), Arc::new(NoSink)).await.unwrap();
    assert_eq!(cluster.read(|toy| toy.entries.len()), 20);
    assert_eq!(disk.syncs(), syncs);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_crash_keeps_what_was_acknowledged_and_a_lying_disk_is_refused() {
    let disk = MemoryDisk::new(Arc::new(|| Duration::from_millis(1)));
    let (environment, _) = world(&disk);
    let cluster = start(&environment, options()).await;
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    // Each writes until the first refusal, so that the crash finds some acknowledged and some in flight.
    let writers: Vec<_> = (0..50)
        .map(|writer| {
            let (cluster, acknowledged) = (cluster.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for number in 0..10_000 {
                    let text = format!("{writer}-{number}");
                    if cluster.propose(entry(&text)).await.is_err() {
                        return true;
                    }
                    acknowledged.lock().push(text.into_bytes());
                }
                false
            })
        })
        .collect();
    eventually("some are acknowledged", || !acknowledged.lock().is_empty()).await;
    disk.crash();
    for writer in writers {
        assert!(writer.await.unwrap(), "the crash came after the last write");
    }
    let acknowledged = std::mem::take(&mut *acknowledged.lock());
    drop(cluster);
    let cluster = start(&environment, options()).await;
    cluster.linearizable().await.unwrap();
    let held = cluster.read(|toy| toy.entries.iter().map(|(_, entry)| entry.clone()).collect::<Vec<_>>());
    assert!(!acknowledged.is_empty() && acknowledged.iter().all(|entry| held.contains(entry)));
    cluster.propose(entry("last")).await.unwrap();
    cluster.shutdown().await;

    disk.lose_tail(1);
    let refused = Cluster::start(environment, options(), Toy::default(), Arc::new(NoSink)).await;
    let Err(StartError::Open(error)) = refused else { panic!("a lost tail went unseen") };
    let text = error.to_string();
    assert!(
        text.contains("joins again with an empty folder") && text.contains("below the acknowledged position"),
        "{text}"
    );
}

#[derive(Default)]
struct Ears(Mutex<Vec<(u64, usize)>>, Mutex<Vec<u64>>, Mutex<Vec<u64>>);

impl EffectSink<Toy> for Ears {
    fn applied(&self, state: &Toy, position: u64, effects: &[u64]) {
        if effects.is_empty() {
            self.2.lock().push(position);
            return;
        }
        assert_eq!(effects, [position]);
        self.0.lock().push((position, state.entries.len()));
    }
    fn installed(&self, _state: &Toy, position: u64) {
        self.1.lock().push(position);
    }
}

/// Publishes as a node does: takes what it was told, then reads the state.
#[derive(Default)]
struct Told(Mutex<(u64, usize)>);

impl EffectSink<Toy> for Told {
    fn applied(&self, _state: &Toy, position: u64, effects: &[u64]) {
        let mut told = self.0.lock();
        *told = (position, told.1 + effects.len());
    }
    fn installed(&self, _state: &Toy, _position: u64) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_the_state_finds_that_the_sink_was_told_of_all_of_it() {
    let (environment, _) = world(&MemoryDisk::default());
    let told = Arc::new(Told::default());
    let cluster = Cluster::start(environment, options(), Toy::default(), told.clone()).await.unwrap();
    cluster.ready(5_000).await.unwrap();
    let reader = {
        let cluster = cluster.clone();
        std::thread::spawn(move || {
            let mut looks = 0u64;
            loop {
                let seen = cluster.read(|toy| toy.entries.len());
                let told = told.0.lock().1;
                assert!(told >= seen, "the state held {seen} changes when {told} were told");
                looks += 1;
                if seen == 2_000 {
                    return looks;
                }
            }
        })
    };
    for _ in 0..20 {
        let calls = (0..100).map(|_| cluster.propose(entry("e")));
        for outcome in futures_util::future::join_all(calls).await {
            outcome.unwrap();
        }
    }
    assert!(reader.join().unwrap() > 100);
    cluster.shutdown().await;
}

#[tokio::test]
async fn effects_are_heard_before_the_proposer_is_answered_and_a_snapshot_is_announced() {
    let disk = MemoryDisk::default();
    let (environment, _) = world(&disk);
    let ears = Arc::new(Ears::default());
    let cluster = Cluster::start(environment.clone(), options(), Toy::default(), ears.clone()).await.unwrap();
    cluster.ready(5_000).await.unwrap();
    for number in 1..=10 {
        let (position, _) = cluster.propose(entry("e")).await.unwrap();
        assert_eq!(ears.0.lock().last(), Some(&(position, number)));
    }
    // The tick has no effects here, and is heard all the same.
    eventually("the tick", || ears.2.lock().len() == 1).await;
    cluster.snapshot().await.unwrap();
    eventually("a snapshot", || cluster.health().snapshot.is_some()).await;
    let taken = cluster.health().snapshot.unwrap();
    cluster.shutdown().await;
    let ears = Arc::new(Ears::default());
    let cluster = Cluster::start(environment, options(), Toy::default(), ears.clone()).await.unwrap();
    assert_eq!(*ears.1.lock(), [taken]);
    assert_eq!(cluster.read(|toy| toy.entries.len()), 10);
    cluster.shutdown().await;
}
