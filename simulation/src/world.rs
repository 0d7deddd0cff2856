//! One world, from its plan to its findings.
//!
//! ```text
//!   0 ....... faults_ms ....... + healed_ms ............ all clients done ..... + settle ....... end
//!   | faults  | heal: mend, restart | closing: finish what is under way | audit | check
//! ```
//!
//! First safety under faults, then everything is healed, then service is demanded. The world is one thread; its steps are one
//! millisecond, within which turmoil runs each host in an order drawn from the seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use featureops::unit_key::UnitKeyStore;

use crate::Ambient;
use crate::aim::Follower;
use crate::checks::{self, Finding};
use crate::chronicle::Chronicle;
use crate::defect::Defect;
use crate::disk::Ailment;
use crate::faults::{Fault, ScheduledFault};
use crate::harm::{Harm, Step, aimed, steps};
use crate::history::{Checkpoint, History, Seen};
use crate::house::node;
use crate::leak::Repeats;
use crate::machine::{EPOCH_MS, Machine};
use crate::moments::Marks;
use crate::plan::{Plan, Plant};
use crate::plant::plant;
use crate::refold::refold;
use crate::trace::{Landmark, Trace, TraceSubscriber};
use crate::wires::Wires;
use crate::workload::{
    LeaderCell, Stage, StageCell, Works, World, auditor, crowd, eraser, lister, operator, sentinel, service,
    steward, witness,
};

/// Simulated time after which a world that does not end is ended.
const CLOSING_MS_MAX: u64 = 60_000;
/// Time between the last client's end and the audit.
const SETTLE_MS: u64 = 1_500;
/// How often it is looked who can reach a majority, in milliseconds.
const MINORITY_EVERY_MS: u64 = 20;

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
    /// Faults that fell, by kind.
    pub faults: Vec<(&'static str, u64)>,
    /// What a picture of it shows.
    pub landmarks: Vec<Landmark>,
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
    let machines: Vec<Machine> =
        (1..=plan.all_machines()).map(|number| Machine::new(plan.seed, number)).collect();
    let chronicle = Chronicle::default();
    for machine in &machines {
        machine.disk.tell(&chronicle);
        machine.life.set_powered(machine.number <= plan.machines);
    }
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
        leader: LeaderCell::default(),
        works: Works::default(),
        chronicle,
    };
    let (simulated_ms, fault) = live(&world, ambient, trace);
    let mut seen = history.take();
    if let Some(fault) = fault {
        seen.ended.push(fault);
    }
    read_again(&world, &mut seen);
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
    let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
    for scheduled in seen.done.iter().chain(&seen.struck) {
        let times = faults.entry(scheduled.fault.kind()).or_default();
        *times = times.saturating_add(1);
    }
    let (faults, landmarks) = (faults.into_iter().collect(), trace.landmarks());
    Outcome { digest, events, simulated_ms, findings, marks, faults, landmarks, tail: trace.tail(200) }
}

/// Reads the logs once more: what they say when they are folded from the first entry, and how it compares.
fn read_again(world: &World, seen: &mut Seen) {
    let places: Vec<u64> = seen.checkpoints.iter().map(|checkpoint| checkpoint.position).collect();
    // By the key that the machines have: what was erased is looked for by its hash.
    let key = world.machines.iter().find_map(|machine| UnitKeyStore::read(machine).ok().flatten());
    let hash = |unit: &String| Some((unit.clone(), key.as_ref()?.hash(unit.as_bytes())));
    if key.is_none() && !seen.erased.is_empty() {
        seen.ended.push("no machine has a unit key by which to look for erased units".to_owned());
    }
    let erased: BTreeSet<String> = seen.erased.iter().map(|erased| erased.unit.clone()).collect();
    let erased: Vec<(String, u64)> = erased.iter().filter_map(hash).collect();
    let is_alone = world.machines.len() == 1;
    // The longest log of the newest term is the history of all.
    let last = world.machines.iter().filter_map(|machine| machine.disk.last()).max();
    let entries = match (world.machines.first(), last) {
        (Some(machine), _) if is_alone => machine.disk.archive(),
        (_, Some(last)) => {
            let (chain, is_whole) = world.chronicle.chain(last);
            if !is_whole {
                seen.contradictions.push(format!("no log reaches from the first entry to {last}"));
            }
            chain
        }
        _ => Vec::new(),
    };
    seen.contradictions.extend(world.chronicle.faults());
    let refolded = refold(entries, &places, &erased);
    for (position, digest) in &refolded.digests {
        // The second reading is one more replica, of a life of its own.
        let checkpoint = Checkpoint { machine: 0, life: 0, position: *position, digest: *digest };
        seen.checkpoints.push(checkpoint);
    }
    for machine in world.machines.iter() {
        seen.refolded.push((machine.number, refolded.clone()));
        seen.noticed.push((machine.number, machine.disk.noticed()));
    }
    let mut units: BTreeSet<&String> = seen.reports.iter().flat_map(|report| &report.units).collect();
    units.extend(seen.asked.iter().map(|(_, unit)| unit));
    let units: BTreeSet<String> = units.into_iter().cloned().collect();
    seen.hashes = units.iter().filter_map(hash).collect();
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
    for machine in world.machines.iter() {
        let (machine, world) = (machine.clone(), world.clone());
        sim.host(machine.name.clone(), move || node(machine.clone(), world.clone()));
    }
    let active = Arc::new(AtomicU64::new(0));
    let mut others =
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
    if plan.machines > 1 {
        others.extend(["steward".to_owned(), "witness".to_owned()]);
        sim.client("steward", counted(Arc::clone(&active), steward::run(world.clone())));
        sim.client("witness", counted(Arc::clone(&active), witness::run(world.clone())));
        for machine in world.machines.iter() {
            let watch = sentinel::run(world.clone(), machine.clone());
            sim.client(sentinel::name_of(machine), counted(Arc::clone(&active), watch));
        }
    }

    let mut waiting: VecDeque<ScheduledFault> = plan.faults.clone().into();
    let mut schedule: VecDeque<(u64, u64, Step)> = VecDeque::new();
    let mut harm = Harm {
        machines: &world.machines,
        others,
        wires: Wires::default(),
        latency_max_ms: plan.latency_max_ms,
        standing: BTreeSet::new(),
        trace,
    };
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
                    schedule.extend(steps(&struck, plan.machines));
                    schedule.make_contiguous().sort_by_key(|(at, _, _)| *at);
                    world.history.write(|seen| seen.struck.extend(struck));
                }
            }
            while waiting.front().is_some_and(|next| next.at_ms <= now_ms)
                && let Some(next) = waiting.pop_front()
            {
                let next = sparing(world, aimed(next, world.leader.get()));
                schedule.extend(steps(&[next], plan.machines));
                schedule.make_contiguous().sort_by_key(|(at, _, _)| *at);
                world.history.write(|seen| seen.done.push(next));
            }
            while schedule.front().is_some_and(|(at, _, _)| *at <= now_ms)
                && let Some((_, number, step)) = schedule.pop_front()
            {
                harm.perform(&mut sim, number, keep_plant(plan, step), now_ms);
            }
            plant_live(world, now_ms);
        } else if !healed {
            healed = true;
            let lies = plan.plant == Some(Plant::DroppedSync);
            harm.heal(&mut sim, plan.restarts, lies, now_ms);
            world.stage.enter(Stage::Healed);
        }
        if plan.machines > 1 {
            for machine in world.machines.iter().filter(|machine| machine.life.takes_retirement()) {
                harm.perform(&mut sim, machine.number, Step::Crash, now_ms);
                harm.perform(&mut sim, machine.number, Step::Empty, now_ms);
                harm.perform(&mut sim, machine.number, Step::Start, now_ms);
            }
            if now_ms.is_multiple_of(MINORITY_EVERY_MS) {
                harm.look_for_minorities(plan.machines);
            }
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

/// A disk is lost only while every other one is whole and in use, and nothing else is done to the membership; else power fails.
fn sparing(world: &World, mut scheduled: ScheduledFault) -> ScheduledFault {
    if let Fault::LoseDisk { down_ms } = scheduled.fault {
        let voters = world.machines.iter().filter(|machine| machine.life.is_powered());
        let all_serve = voters.clone().all(|machine| machine.life.serves_from().is_some());
        let votes = voters.clone().any(|machine| machine.number == scheduled.machine);
        if !all_serve || !votes || !world.works.begin(scheduled.machine) {
            scheduled.fault = Fault::Crash { down_ms };
        }
    }
    scheduled
}

/// Defects that begin within the world.
fn plant_live(world: &World, now_ms: u64) {
    let plan = &world.plan;
    let others = || world.machines.iter().filter(|machine| machine.number > 1);
    match plan.plant {
        Some(Plant::NoDedup) if now_ms == 0 => {
            if let Some(machine) = others().next() {
                machine.disk.plant(Defect::ForgetsRepeats(Repeats::default()));
            }
        }
        Some(Plant::VoteForgotten) if now_ms == 0 => {
            world.machines.iter().for_each(|machine| machine.disk.plant(Defect::ForgetsVotes));
        }
        // The copies are some seconds old when power fails in the middle.
        Some(Plant::EarlyAck) if now_ms.saturating_add(3_000) == plan.faults_ms / 2 => {
            world.machines.iter().for_each(|machine| machine.disk.roll_back());
        }
        Some(Plant::MinorityCommit) if now_ms.saturating_add(3_000) == plan.faults_ms / 2 => {
            others().for_each(|machine| machine.disk.roll_back());
        }
        _ => {}
    }
}

async fn counted(active: Arc<AtomicU64>, client: impl Future<Output = turmoil::Result>) -> turmoil::Result {
    active.fetch_add(1, Ordering::SeqCst);
    let ended = client.await;
    active.fetch_sub(1, Ordering::SeqCst);
    ended
}
