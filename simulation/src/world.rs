//! One world, from its plan to its findings.
//!
//! ```text
//!   0 ....... faults_ms ....... + healed_ms ............ all clients done ..... + settle ....... end
//!   | faults  | heal: mend, restart | closing: finish what is under way | audit | check
//! ```
//!
//! First safety under faults, then everything is healed, then service is demanded. The world is one thread; its steps are one
//! millisecond, within which turmoil runs each host in an order drawn from the seed.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use featureops::config::NodeConfig;
use featureops::node::Node;
use featureops::unit_key::UnitKeyStore;

use crate::Ambient;
use crate::aim::Follower;
use crate::caller::PORT;
use crate::checks::{self, Finding};
use crate::disk::Ailment;
use crate::faults::{Others, Step, heal, perform, steps};
use crate::history::{Checkpoint, History};
use crate::machine::{EPOCH_MS, Machine};
use crate::moments::Marks;
use crate::plan::{Plan, Plant};
use crate::plant::plant;
use crate::refold::refold;
use crate::trace::{Trace, TraceSubscriber};
use crate::workload::{Stage, StageCell, World, auditor, crowd, eraser, lister, operator, service};

/// Simulated time after which a world that does not end is ended.
const CLOSING_MS_MAX: u64 = 60_000;
/// Time between the last client's end and the audit.
const SETTLE_MS: u64 = 1_500;
/// Time between two digests of a node's state.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(700);

/// What came of a world.
pub struct Outcome {
    /// Digest of its trace.
    pub digest: u64,
    /// Events in it.
    pub events: u64,
    /// Simulated time it took.
    pub simulated_ms: u64,
    /// Findings, in the order of the checkers.
    pub findings: Vec<(&'static str, &'static str, Finding)>,
    /// How often what is rare and matters came.
    pub marks: Marks,
    /// The trace's end.
    pub tail: Vec<String>,
}

impl Outcome {
    /// Every violation, with its property.
    pub fn violations(&self) -> impl Iterator<Item = (&'static str, &String)> {
        self.findings
            .iter()
            .flat_map(|(id, _, finding)| finding.violations.iter().map(move |text| (*id, text)))
    }
}

fn epoch() -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(EPOCH_MS).unwrap_or(0))
}

/// Runs a world to its end.
pub fn run(plan: Plan, ambient: &dyn Ambient, trace: Trace, level: tracing::Level) -> Outcome {
    ambient.arm(plan.seed);
    let subscriber = TraceSubscriber::new(trace.clone(), level);
    tracing::subscriber::with_default(subscriber, || inhabit(plan, ambient, &trace))
}

fn inhabit(plan: Plan, ambient: &dyn Ambient, trace: &Trace) -> Outcome {
    let history = History::default();
    hear_panics(&history, trace);
    let machines: Vec<Machine> = (1..=plan.machines).map(|number| Machine::new(plan.seed, number)).collect();
    if plan.plant == Some(Plant::DroppedSync) {
        machines
            .iter()
            .for_each(|machine| machine.disk.ail(Ailment { sync_lies: true, ..Ailment::default() }));
    }
    let world = World {
        plan: Arc::new(plan),
        machines: Arc::new(machines),
        history: history.clone(),
        trace: trace.clone(),
        stage: StageCell::default(),
    };
    let (simulated_ms, fault) = live(&world, ambient, trace);
    let mut seen = history.take();
    if let Some(fault) = fault {
        seen.ended.push(fault);
    }
    for (number, machine) in (1_u64..).zip(world.machines.iter()) {
        let places: Vec<u64> = seen.checkpoints.iter().map(|checkpoint| checkpoint.position).collect();
        // By the key that the machine has: what was erased is looked for by its hash.
        let key = UnitKeyStore::read(machine).ok().flatten();
        let hash = |unit: &String| Some((unit.clone(), key.as_ref()?.hash(unit.as_bytes())));
        if key.is_none() && !seen.erased.is_empty() {
            seen.ended.push(format!("machine {number} has no unit key by which to look for erased units"));
        }
        let erased: BTreeSet<String> = seen.erased.iter().map(|erased| erased.unit.clone()).collect();
        let erased: Vec<(String, u64)> = erased.iter().filter_map(hash).collect();
        let refolded = refold(&machine.disk, &places, &erased);
        for (position, digest) in &refolded.digests {
            // The second reading is one more replica, of a life of its own.
            let checkpoint = Checkpoint { machine: number, life: 0, position: *position, digest: *digest };
            seen.checkpoints.push(checkpoint);
        }
        seen.refolded.push((number, refolded));
        seen.noticed.push((number, machine.disk.noticed()));
        if number == 1 {
            let mut units: BTreeSet<&String> = seen.reports.iter().flat_map(|report| &report.units).collect();
            units.extend(seen.asked.iter().map(|(_, unit)| unit));
            let units: BTreeSet<String> = units.into_iter().cloned().collect();
            seen.hashes = units.iter().filter_map(hash).collect();
        }
    }
    let marks = Marks::of(&seen);
    if !plant(&world.plan, &mut seen) {
        trace.note("plant", "found no place");
    }
    let judge = |(id, title, check): &(&'static str, &'static str, checks::Check)| {
        (*id, *title, check(&world.plan, &seen))
    };
    let findings: Vec<_> = checks::ALL.iter().map(judge).collect();
    for (id, _, finding) in &findings {
        trace.note("finding", &format!("{id} looked at {} {:?}", finding.looked, finding.violations));
    }
    trace.note("marks", &format!("{marks:?}"));
    let (digest, events) = trace.digest();
    Outcome { digest, events, simulated_ms, findings, marks, tail: trace.tail(200) }
}

/// A panic anywhere in product code is a finding, also where a task swallows it.
fn hear_panics(history: &History, trace: &Trace) {
    let (history, trace) = (history.clone(), trace.clone());
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.to_string();
        trace.note("panic", &text);
        eprintln!("{text}");
        history.write(|seen| seen.ended.push(format!("panic: {text}")));
    }));
}

/// Lives through the plan. Returns the simulated milliseconds, and what ended the world before its time.
fn live(world: &World, ambient: &dyn Ambient, trace: &Trace) -> (u64, Option<String>) {
    let plan = &world.plan;
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .epoch(epoch())
        .enable_random_order()
        .tick_duration(Duration::from_millis(1))
        .simulation_duration(Duration::from_secs(86_400))
        .min_message_latency(Duration::from_millis(plan.latency_min_ms))
        .max_message_latency(Duration::from_millis(plan.latency_max_ms))
        .tcp_capacity(65_536)
        .build();
    for (number, machine) in (1_u64..).zip(world.machines.iter()) {
        let (machine, world) = (machine.clone(), world.clone());
        sim.host(machine.name.clone(), move || node(number, machine.clone(), world.clone()));
    }
    let active = Arc::new(AtomicU64::new(0));
    let mut others: Others =
        vec!["operator".to_owned(), "lister".to_owned(), "eraser".to_owned(), "auditor".to_owned()];
    for number in 1..=plan.services {
        let name = format!("service-{number}");
        others.push(name.clone());
        sim.client(name.clone(), counted(Arc::clone(&active), service::run(world.clone(), name, false)));
    }
    for number in 1..=plan.visitors {
        let name = format!("visitor-{number}");
        others.push(name.clone());
        sim.client(name.clone(), counted(Arc::clone(&active), service::run(world.clone(), name, true)));
    }
    sim.client("operator", counted(Arc::clone(&active), operator::run(world.clone())));
    sim.client("lister", counted(Arc::clone(&active), lister::run(world.clone())));
    sim.client("eraser", counted(Arc::clone(&active), eraser::run(world.clone())));
    if let Some(brim) = &plan.brim {
        others.push("crowd".to_owned());
        sim.client("crowd", counted(Arc::clone(&active), crowd::run(world.clone(), brim.clone())));
    }
    sim.client("auditor", auditor::run(world.clone()));

    let mut schedule: VecDeque<(u64, u64, Step)> = steps(&plan.faults).into();
    let mut followers: Vec<Option<Follower>> =
        (1..=plan.machines).map(|number| Follower::new(plan, number)).collect();
    let mut settled_at = None;
    let mut healed = false;
    loop {
        let now_ms = u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX);
        ambient.turn(sim.elapsed());
        if now_ms < plan.faults_ms {
            for (follower, machine) in followers.iter_mut().zip(world.machines.iter()) {
                let struck = follower.as_mut().map(|follower| follower.look(&machine.disk, now_ms));
                let struck = struck.unwrap_or_default();
                if !struck.is_empty() {
                    trace.note("aimed", &format!("{struck:?}"));
                    schedule.extend(steps(&struck));
                    schedule.make_contiguous().sort_by_key(|(at, _, _)| *at);
                    world.history.write(|seen| seen.struck.extend(struck));
                }
            }
            while schedule.front().is_some_and(|(at, _, _)| *at <= now_ms)
                && let Some((_, number, step)) = schedule.pop_front()
            {
                if let Some(machine) = machine(world, number) {
                    perform(&mut sim, machine, &others, keep_plant(plan, step), trace);
                }
            }
        } else if !healed {
            healed = true;
            for machine in world.machines.iter() {
                let lies = plan.plant == Some(Plant::DroppedSync);
                heal(&mut sim, machine, &others, (plan.restarts, lies), trace);
            }
            world.stage.enter(Stage::Healed);
        }
        if now_ms >= plan.faults_ms.saturating_add(plan.healed_ms) {
            if settled_at.is_none() {
                world.stage.enter(Stage::Closing);
            }
            if active.load(Ordering::SeqCst) == 0 {
                let since = *settled_at.get_or_insert(now_ms);
                if now_ms >= since.saturating_add(SETTLE_MS) {
                    world.stage.enter(Stage::Audit);
                }
            }
        }
        if now_ms > plan.faults_ms.saturating_add(plan.healed_ms).saturating_add(CLOSING_MS_MAX) {
            return (now_ms, Some("the clients did not come to their end".to_owned()));
        }
        match sim.step() {
            Ok(false) => {}
            Ok(true) => return (now_ms, None),
            Err(error) => return (now_ms, Some(error.to_string())),
        }
    }
}

/// A disk that lies goes on lying through every other ailment.
fn keep_plant(plan: &Plan, step: Step) -> Step {
    match step {
        Step::Ail(ailment) => {
            let sync_lies = plan.plant == Some(Plant::DroppedSync);
            Step::Ail(Ailment { sync_lies, ..ailment })
        }
        step => step,
    }
}

fn machine(world: &World, number: u64) -> Option<&Machine> {
    world.machines.get(usize::try_from(number.checked_sub(1)?).ok()?)
}

async fn counted(active: Arc<AtomicU64>, client: impl Future<Output = turmoil::Result>) -> turmoil::Result {
    active.fetch_add(1, Ordering::SeqCst);
    let ended = client.await;
    active.fetch_sub(1, Ordering::SeqCst);
    ended
}

/// How long a machine waits before it starts a node again whose start ended.
const START_AGAIN: Duration = Duration::from_millis(500);

/// A node from its machine's power to its loss. A start that ends while the disk ails is begun again, as a service manager
/// does it; any other that ends leaves the machine idle.
async fn node(number: u64, machine: Machine, world: World) -> turmoil::Result {
    loop {
        let environment = machine.environment();
        let life = machine.life();
        let config = NodeConfig {
            listen: std::net::SocketAddr::from(([0, 0, 0, 0], PORT)),
            snapshot_every_entries: world.plan.snapshot_every_entries,
            snapshot_every_bytes: world.plan.snapshot_every_bytes,
            loopback_only: false,
            observe_process: false,
            ..NodeConfig::default()
        };
        world.trace.note("node", &format!("{} starts life {life}", machine.name));
        match Node::start_with(environment, config, Arc::new(machine.clone())).await {
            Ok(node) => loop {
                let (position, digest) = node.digest();
                world.trace.note("digest", &format!("{} {position} {digest:016x}", machine.name));
                let checkpoint = Checkpoint { machine: number, life, position, digest };
                world.history.write(|seen| seen.checkpoints.push(checkpoint));
                tokio::time::sleep(CHECKPOINT_EVERY).await;
            },
            Err(error) => {
                world.trace.note("node", &format!("{} did not start: {error}", machine.name));
                let ailment = machine.disk.ailment();
                let ails = ailment.full
                    || ailment.sync_fails
                    || error.to_string().contains("first start found no room");
                if !ails || error.to_string().contains("disk loss") {
                    world.history.write(|seen| seen.refused_starts.push(error.to_string()));
                    return std::future::pending().await;
                }
            }
        }
        tokio::time::sleep(START_AGAIN).await;
    }
}
