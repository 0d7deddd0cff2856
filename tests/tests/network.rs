//! Three processes on three hosts, and the network between them failing in every way a network fails: cut around the leader, cut
//! around a follower, cut in one direction only, losing frames, garbling them, slow, standing still. Facts and flags go in through every node all the
//! time. Evaluation never fails anywhere; what was acknowledged is there once, on every node; and who reads what is current never
//! reads what is older than an acknowledged write.
//!
//! The hosts are network namespaces, and the network is real frames between real TCP stacks (`src/namespaces.rs`). Where there is no
//! right to make them, the stories say so and end.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featureops_proto::v1::GetFlagRequest;
use featureops_tests::client::Client;
use featureops_tests::load::{ENVIRONMENT, FLAGS, Known, Load, prepare};
use featureops_tests::namespaces::Network;
use featureops_tests::several::{Several, Watch};
use featureops_tests::switch::Way;
use featureops_tests::{check, runtime};
use tokio::task::JoinSet;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a phase lasts at least: much longer than any lease.
const PHASE: Duration = Duration::from_secs(4);
/// Units and flag versions that must be acknowledged in a phase, besides. Few: a call that meets a node without a majority has to give
/// that up first.
const PROGRESS: (u64, u64) = (16, 1);
const CUT: Way = Way::CUT;
const OPEN: Way = Way::OPEN;

/// Reads flags on one node all the time: never older than what was acknowledged before the read began, unless the answer says that
/// it may be.
#[derive(Debug, Default)]
struct Readers {
    stop: Arc<AtomicBool>,
    current: Arc<AtomicU64>,
    stale: Arc<AtomicU64>,
    tasks: JoinSet<Vec<String>>,
}

impl Readers {
    fn start(several: &Several, load: &Load) -> Self {
        let mut readers = Self::default();
        for (node, site) in &several.sites {
            let (node, client, load) = (*node, site.client(), load.watcher());
            let (stop, current, stale) =
                (Arc::clone(&readers.stop), Arc::clone(&readers.current), Arc::clone(&readers.stale));
            readers.tasks.spawn(async move {
                let mut faults = Vec::new();
                for turn in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("written-{}", turn % FLAGS);
                    let least = load.version(&key);
                    let name = format!("{ENVIRONMENT}/flags/{key}");
                    let answer = client.flags.clone().get_flag(GetFlagRequest { name }).await;
                    match answer {
                        Ok(answer) if answer.metadata().contains_key("featureops-stale") => {
                            stale.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) => {
                            let read = answer.into_inner().flag_version;
                            if read < least {
                                faults.push(format!(
                                    "node {node}: {key} read at {read}, {least} was acknowledged"
                                ));
                            }
                            current.fetch_add(1, Ordering::Relaxed);
                        }
                        // No answer is no wrong answer; a flag that nobody has written yet is none either.
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                faults
            });
        }
        readers
    }

    async fn end(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            let faults = ended.unwrap();
            assert!(faults.is_empty(), "{} stale reads: {:#?}", faults.len(), &faults[..faults.len().min(5)]);
        }
        (self.current.load(Ordering::Relaxed), self.stale.load(Ordering::Relaxed))
    }
}

/// Three nodes under load, all watched.
struct World {
    trio: Several,
    network: Network,
    load: Load,
    watch: Watch,
    readers: Readers,
    audit: u64,
}

impl World {
    async fn start(mut network: Network) -> Self {
        let mut trio = Several::default();
        for host in 1..=3 {
            trio.grow(|site| network.place(site, host)).await;
        }
        prepare(&trio.site(3).client()).await.unwrap();
        for site in trio.sites.values() {
            site.ask(&["flag", "get", "checkout", "--environment", "production"]).unwrap();
        }
        let watch = Watch::start(&trio);
        let load = Load::start(&Client::of_any(&trio.ports()), 2);
        let readers = Readers::start(&trio, &load);
        Self { trio, network, load, watch, readers, audit: 0 }
    }

    /// Lets time go by, and writing go on: facts and flags are acknowledged in it.
    async fn phase(&self, what: &str) {
        let (begin, before) = (Instant::now(), written(&self.load.known()));
        let mut now = before;
        while begin.elapsed() < PHASE || now.0 < before.0 + PROGRESS.0 || now.1 < before.1 + PROGRESS.1 {
            assert!(
                begin.elapsed() < PATIENCE,
                "{what}: from {before:?} to {now:?} units and flag versions only"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
            now = written(&self.load.known());
        }
        println!(
            "{what}: {} units and {} flag versions acknowledged in {:.1?}",
            now.0 - before.0,
            now.1 - before.1,
            begin.elapsed()
        );
    }

    /// Everything is well again: every node has what was acknowledged.
    async fn healed(&mut self, what: &str) {
        self.network.switch.all(OPEN);
        self.trio.leader(None).await;
        for node in self.trio.nodes.keys() {
            let client = self.trio.site(*node).client();
            let begin = Instant::now();
            loop {
                let mut before = self.load.known();
                before.audit = self.audit;
                let faults = check::faults(&client, &before, || self.load.known()).await;
                if faults.is_empty() {
                    break;
                }
                // A node that was cut off may not have heard yet that it is not any more.
                let told = faults.iter().any(|fault| fault.starts_with("too many"));
                assert!(!told && begin.elapsed() < PATIENCE, "{what}, node {node}: {faults:#?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        self.audit = check::audit_end(&self.trio.site(1).client()).await.unwrap();
    }

    /// Exact counts, whole audits and one digest everywhere; nobody's evaluation failed, and no read was stale without saying so.
    async fn settle(self) {
        let Self { trio, network, load, watch, readers, .. } = self;
        let known = load.end().await;
        let (current, stale) = readers.end().await;
        for node in trio.nodes.keys() {
            let faults = check::settled(&trio.site(*node).client(), &known).await;
            assert!(faults.is_empty(), "at the end, node {node}: {faults:#?}");
        }
        let (faults, evaluated) = watch.end().await;
        assert!(
            faults.is_empty(),
            "{} evaluations failed: {:#?}",
            faults.len(),
            &faults[..faults.len().min(5)]
        );
        assert!(evaluated.values().all(|count| *count > 100), "{evaluated:?}");
        trio.same_digest().await;
        for site in trio.sites.values() {
            site.ask(&["audit", "verify"]).unwrap();
        }
        println!(
            "{:?} acknowledged, {} flag versions, evaluated {evaluated:?}, {current} reads current and {stale} said to be stale, {:?}",
            known.acknowledged,
            known.flags.values().map(BTreeMap::len).sum::<usize>(),
            network.switch.passed()
        );
        drop(trio);
    }
}

/// Units and flag versions that are acknowledged.
fn written(known: &Known) -> (u64, u64) {
    (known.acknowledged.units.iter().sum(), known.flags.values().map(|versions| versions.len() as u64).sum())
}

fn number(host: u64) -> u8 {
    u8::try_from(host).unwrap()
}

#[test]
fn a_network_is_cut_around_the_leader_around_a_follower_and_in_one_direction_only() {
    let Some(network) = Network::of(3) else { return };
    runtime().block_on(async {
        let mut world = World::start(network).await;
        world.phase("whole").await;

        // Around the leader: the two others go on.
        let leader = world.trio.leader(None).await;
        world.network.switch.around(number(leader), CUT);
        world.trio.leader(Some(leader)).await;
        world.phase("the leader cut off").await;
        world.healed("the leader was cut off").await;

        // Around a follower: nobody notices but who asks it.
        let leader = world.trio.leader(None).await;
        let follower = (1..=3).find(|node| *node != leader).unwrap();
        world.network.switch.around(number(follower), CUT);
        world.phase("a follower cut off").await;
        world.healed("a follower was cut off").await;

        // The leader is heard by nobody, and hears them.
        let leader = world.trio.leader(None).await;
        world.network.switch.from(number(leader), CUT);
        world.trio.leader(Some(leader)).await;
        world.phase("the leader heard by nobody").await;
        world.healed("the leader was heard by nobody").await;

        // The leader hears nobody, and they hear it.
        let leader = world.trio.leader(None).await;
        world.network.switch.to(number(leader), CUT);
        world.trio.leader(Some(leader)).await;
        world.phase("the leader hears nobody").await;
        world.healed("the leader heard nobody").await;

        // One follower in one direction: heard and not hearing, then hearing and not heard.
        let leader = world.trio.leader(None).await;
        let follower = (1..=3).find(|node| *node != leader).unwrap();
        world.network.switch.one_way(number(leader), number(follower), CUT);
        world.phase("a follower that does not hear the leader").await;
        world.healed("a follower did not hear the leader").await;
        let leader = world.trio.leader(None).await;
        let follower = (1..=3).find(|node| *node != leader).unwrap();
        world.network.switch.one_way(number(follower), number(leader), CUT);
        world.phase("a follower that the leader does not hear").await;
        world.healed("a follower was not heard by the leader").await;

        // A chain: the two followers do not reach each other, and both reach the leader.
        let leader = world.trio.leader(None).await;
        let others: Vec<u8> = (1..=3).filter(|node| *node != leader).map(number).collect();
        world.network.switch.one_way(others[0], others[1], CUT);
        world.network.switch.one_way(others[1], others[0], CUT);
        world.phase("the followers apart").await;
        world.healed("the followers were apart").await;

        // Nobody reaches anybody: evaluation only. Then all is there again.
        world.network.switch.all(CUT);
        tokio::time::sleep(PHASE).await;
        world.healed("nobody reached anybody").await;
        world.phase("whole again").await;
        world.settle().await;
    });
}

#[test]
fn a_network_loses_a_twentieth_is_slow_garbles_and_stands_still() {
    let Some(network) = Network::of(4) else { return };
    runtime().block_on(async {
        let mut world = World::start(network).await;
        let lossy = Way { lost_per_mille: 50, ..OPEN };
        world.network.switch.all(lossy);
        world.phase("5 % lost").await;
        world.healed("5 % were lost").await;

        // A way and back are 200 ms.
        let slow = Way { delay: Duration::from_millis(100), ..OPEN };
        world.network.switch.all(slow);
        world.phase("200 ms").await;
        world.healed("200 ms").await;

        world.network.switch.all(Way { lost_per_mille: 50, ..slow });
        world.phase("5 % lost and 200 ms").await;
        world.healed("5 % were lost and 200 ms").await;

        // One node far from the others: they go on at their speed.
        let leader = world.trio.leader(None).await;
        world.network.switch.around(number(leader), Way { delay: Duration::from_millis(200), ..OPEN });
        world.phase("the leader 400 ms away").await;
        world.healed("the leader was 400 ms away").await;

        // Bytes are changed on the way, also so that TCP's checksum is right: that is what the records of TLS are for. A node that
        // joins meanwhile gets its snapshot through it.
        world.network.switch.all(Way { garbled_per_mille: 20, ..OPEN });
        let World { trio, network, .. } = &mut world;
        let fourth = trio.grow(|site| network.place(site, 4)).await;
        world.watch.add(fourth, world.trio.site(fourth).port);
        world.phase("2 % garbled").await;
        world.healed("2 % were garbled").await;

        // Again and again everything stands still for a moment: shorter and longer than a lease.
        let begin = Instant::now();
        for still in [100, 300, 700, 1_500, 300, 3_000] {
            world.network.switch.all(CUT);
            tokio::time::sleep(Duration::from_millis(still)).await;
            world.network.switch.all(OPEN);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        println!("stood still six times in {:.1?}", begin.elapsed());
        world.healed("everything stood still").await;
        world.phase("whole again").await;
        let passed = world.network.switch.passed();
        let all = [&passed.passed, &passed.cut, &passed.lost, &passed.garbled, &passed.delayed];
        assert!(all.iter().all(|count| count.load(Ordering::Relaxed) > 50), "{passed:?}");
        world.settle().await;
    });
}
