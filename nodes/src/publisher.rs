//! The publisher: what was applied becomes what is evaluated.
//!
//! ```text
//!   apply ── effects ──> Dirty (a set: repeats coalesce) ── every 10 ms, or sooner ──> read State, compile
//!                                                                        for who waits   │
//!                              evaluations <── load ── ArcSwap<Published> <── swap ──────┘
//! ```
//!
//! Effects are hints to look again, so what is published is always State as it is then, never an effect's content: two
//! changes of one flag cost one compilation. The position that is claimed is the one that came with the effects, not the
//! one State has by now: State may be at an entry before the entry's effects are noted. Positions never go back. A start and a snapshot install mark everything
//! dirty. A flag is compiled against its environment, so a change of that makes all its flags dirty; and whoever rests on a
//! flag is dirty with it, as is who asks about a segment. The sink only fills a set and rings a bell: apply never waits for a compilation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use featureops_evaluation::{CompiledFlag, Key, Snapshot, compile};
use featureops_proto::v1::{Environment, Experiment, Flag, Metric};
use featureops_proto::{Collection, Name, id_of, unix_ms};
use featureops_state::{Effect, State};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::face;
use crate::membership;
use crate::registry::Registry;

/// Time between two publications for which nobody waits.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// Shortest time between two publications; and the share of it that publishing may take, when writers wait for it.
const INTERVAL_MIN: Duration = Duration::from_millis(1);
const PAUSE_PER_PUBLICATION: u32 = 3;
/// Names marked dirty one by one; beyond it everything is read again, which is then cheaper too.
const DIRTY_MAX: usize = 4_096;
/// Flags read from State in one go, so that no read holds it for long.
pub(crate) const READ_MAX: usize = 512;

/// What evaluations and the door of facts read. Never changed once published.
#[derive(Default)]
pub struct Published {
    /// The compiled flags.
    pub snapshot: Snapshot,
    /// What environments share; numbers, scales and arms.
    pub registry: Registry,
    /// Newest first.
    pub receipt_keys: Arc<[Key]>,
    /// Id of the key by which the cluster hashes units; absent until the cluster has an identity.
    pub unit_key_id: Option<u64>,
}

#[derive(Default)]
struct Dirty {
    everything: bool,
    environments: BTreeSet<String>,
    flags: BTreeSet<(String, String)>,
    segments: BTreeSet<membership::Id>,
    metrics: BTreeSet<(String, String)>,
    experiments: BTreeSet<u32>,
    since: Option<Instant>,
    /// The last entry whose effects are in here, and the log time after it.
    position: u64,
    log_time_ms: i64,
}

impl Dirty {
    fn bound(&mut self) {
        let named = self.environments.len() + self.flags.len() + self.segments.len();
        if named + self.metrics.len() + self.experiments.len() > DIRTY_MAX {
            let Self { since, position, log_time_ms, .. } = *self;
            *self = Self { everything: true, since, position, log_time_ms, ..Self::default() };
        }
    }
}

/// What one look at State brought.
#[derive(Default)]
struct Seen {
    flags: Vec<CompiledFlag>,
    segments: Vec<membership::Read>,
    metrics: Vec<Metric>,
    experiments: Vec<Experiment>,
    receipt_keys: Vec<Key>,
    unit_key_id: Option<u64>,
    position: u64,
    log_time_ms: i64,
}

/// Reads of the committed state, as the publisher needs them.
pub trait Source: Send + Sync + 'static {
    /// Lends the state for one read.
    fn with(&self, read: &mut dyn FnMut(&State));
}

/// The publisher of one node.
pub struct Publisher {
    current: ArcSwap<Published>,
    dirty: Mutex<Dirty>,
    bell: Notify,
    /// Writers that wait for their position.
    waiting: AtomicU64,
    hurry: Notify,
    position: watch::Sender<u64>,
    /// Milliseconds from the first waiting effect to its publication, the last time.
    lag_ms: AtomicU64,
    publications: AtomicU64,
    not_compiled: AtomicU64,
}

impl Default for Publisher {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Published::default()),
            dirty: Mutex::new(Dirty { everything: true, ..Dirty::default() }),
            bell: Notify::new(),
            waiting: AtomicU64::new(0),
            hurry: Notify::new(),
            position: watch::Sender::new(0),
            lag_ms: AtomicU64::new(0),
            publications: AtomicU64::new(0),
            not_compiled: AtomicU64::new(0),
        }
    }
}

impl Publisher {
    /// What is published now. One atomic load; held no longer than a request.
    pub fn load(&self) -> Guard<Arc<Published>> {
        self.current.load()
    }

    /// Marks what these effects name, and rings. Called by apply, for every entry in its order: never waits.
    pub fn note(&self, position: u64, log_time_ms: i64, effects: &[Effect]) {
        {
            let mut dirty = self.dirty.lock();
            dirty.position = dirty.position.max(position);
            dirty.log_time_ms = dirty.log_time_ms.max(log_time_ms);
            dirty.since.get_or_insert_with(Instant::now);
            for effect in effects {
                match effect {
                    Effect::FlagChanged { environment, flag } => {
                        dirty.flags.insert((environment.clone(), flag.clone()));
                    }
                    Effect::EnvironmentChanged { environment } => {
                        dirty.environments.insert(environment.clone());
                    }
                    Effect::SegmentChanged { environment, segment } => {
                        dirty.segments.insert((environment.clone(), segment.clone()));
                    }
                    Effect::MetricChanged { environment, metric } => {
                        dirty.metrics.insert((environment.clone(), metric.clone()));
                    }
                    Effect::ExperimentChanged { number } => {
                        dirty.experiments.insert(*number);
                    }
                    Effect::Initialized => dirty.everything = true,
                    Effect::Ticked { .. }
                    | Effect::Frozen { .. }
                    | Effect::OwnerAssigned { .. }
                    | Effect::DecisionChanged { .. }
                    | Effect::AuditAppended { .. }
                    | Effect::UnitErased { .. }
                    | Effect::TokensChanged
                    | Effect::LivenessChanged
                    | Effect::OversightChanged { .. } => {}
                }
            }
            dirty.bound();
        }
        self.bell.notify_one();
    }

    /// Everything is to be read again: a start, or a snapshot that was installed.
    pub fn republish(&self) {
        self.dirty.lock().everything = true;
        self.bell.notify_one();
    }

    /// Waits until what is published covers `position`, or the time is over; says whether it does.
    pub async fn reach(&self, position: u64, patience: Duration) -> bool {
        let mut positions = self.position.subscribe();
        if *positions.borrow() >= position {
            return true;
        }
        let _waiting = Waiting::new(self);
        self.bell.notify_one();
        let reached = positions.wait_for(|published| *published >= position);
        tokio::time::timeout(patience, reached).await.is_ok_and(|outcome| outcome.is_ok())
    }

    /// The published position, to be watched.
    pub fn positions(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    /// Publishes until it is dropped.
    pub async fn run(self: Arc<Self>, source: Arc<dyn Source>) {
        loop {
            self.bell.notified().await;
            let began = Instant::now();
            self.publish(source.as_ref());
            self.pause(began.elapsed()).await;
        }
    }

    /// Between two publications: long, unless somebody waits for the next one. Then a few times as long as the last one
    /// took, so that a stream of writes leaves most of the processor to evaluations, however many flags there are.
    async fn pause(&self, taken: Duration) {
        let least = (taken * PAUSE_PER_PUBLICATION).clamp(INTERVAL_MIN, INTERVAL);
        tokio::time::sleep(least).await;
        if self.waiting.load(Ordering::Acquire) == 0 {
            let _ = tokio::time::timeout(INTERVAL.saturating_sub(least), self.hurry.notified()).await;
        }
    }

    /// Publishes once, whatever is dirty now.
    pub fn publish(&self, source: &dyn Source) {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let before = self.current.load();
        let mut registry = before.registry.clone();
        let mut seen = if dirty.everything {
            self.read_everything(source, &before.snapshot, &mut registry)
        } else {
            self.read_dirty(source, &before.snapshot, &dirty, &mut registry)
        };
        // Whoever reads everything holds all that State held when he began. Whoever reads what was noted holds no more
        // than was noted: an entry that State has already applied may not have been noted yet.
        if !dirty.everything {
            (seen.position, seen.log_time_ms) = (dirty.position, dirty.log_time_ms);
        }
        for metric in &seen.metrics {
            registry.put_metric(metric);
        }
        for experiment in &seen.experiments {
            registry.put_experiment(experiment);
        }
        let receipt_keys = if before.receipt_keys.as_ref() == seen.receipt_keys.as_slice() {
            Arc::clone(&before.receipt_keys)
        } else {
            seen.receipt_keys.into()
        };
        let unit_key_id = seen.unit_key_id.unwrap_or_default();
        let segments = seen.segments.into_iter().map(|read| membership::compiled(read, unit_key_id));
        let under = before.snapshot.with_segments(segments);
        face::settle(&mut seen.flags, &under, seen.position);
        let snapshot = under.apply(seen.flags, seen.position, seen.log_time_ms);
        let position = snapshot.position();
        let unit_key_id = seen.unit_key_id;
        self.current.store(Arc::new(Published { snapshot, registry, receipt_keys, unit_key_id }));
        if let Some(since) = dirty.since {
            let lag = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.lag_ms.store(lag, Ordering::Relaxed);
        }
        self.publications.fetch_add(1, Ordering::Relaxed);
        // After the snapshot: who hears of a change and evaluates gets the new answer.
        self.position.send_replace(position);
    }

    /// Compiles a flag against its environment, and notes how clients see it.
    fn take(&self, flag: Flag, registry: &Registry, seen: &mut Seen) {
        let Ok(name) = Name::parse(&flag.name, Collection::Flags) else { return };
        let environment = registry.environment(name.environment);
        let compiled = match environment {
            Some(environment) => compile(&flag, environment),
            None => compile(&flag, &Environment::default()),
        };
        let mut compiled = compiled.unwrap_or_else(|error| {
            self.not_compiled.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(flag = flag.name, error = %error, "committed flag does not compile; it answers GENERAL");
            CompiledFlag::unusable(name.environment, name.id, flag.flag_version)
        });
        let shared = registry.shared(name.environment);
        let update_ms = flag.update_time.as_ref().map_or(0, unix_ms);
        compiled.set_update_ms(update_ms.max(shared.update_ms()));
        compiled.set_face(face::face(flag, shared));
        seen.flags.push(compiled);
    }

    fn read_dirty(
        &self,
        source: &dyn Source,
        before: &Snapshot,
        dirty: &Dirty,
        registry: &mut Registry,
    ) -> Seen {
        let mut seen = Seen::default();
        let mut flags = Vec::new();
        let mut whole = dirty.environments.clone();
        source.with(&mut |state| {
            note_clock(&mut seen, state);
            for environment in &dirty.environments {
                registry.put_environment(state.environment(environment));
            }
            seen.metrics
                .extend(dirty.metrics.iter().filter_map(|(environment, id)| state.metric(environment, id)));
            // An effect on an experiment and one on its flag come together: the flag is compiled once.
            let mut named = dirty.flags.clone();
            for number in &dirty.experiments {
                let Some(experiment) = state.experiment_by_number(*number) else { continue };
                // The experiment's allocation is part of its flag's answer.
                if let Ok(name) = Name::parse(&experiment.name, Collection::Experiments) {
                    named.insert((name.environment.to_owned(), experiment.flag.clone()));
                }
                seen.experiments.push(experiment);
            }
            // Who asks about a segment changes with it, and who rests on a flag.
            for (environment, id) in &dirty.segments {
                let asking = state.flags_asking(environment, id).into_iter();
                named.extend(asking.map(|id| (environment.clone(), id)));
            }
            for (environment, id) in named.clone() {
                let resting = state.resting_on(&environment, &id).into_iter();
                named.extend(resting.map(|id| (environment.clone(), id)));
            }
            if named.len() > DIRTY_MAX {
                whole.extend(named.iter().map(|(environment, _)| environment.clone()));
            }
            for (environment, id) in &named {
                // The first flag of an environment that was never set brings it, with its defaults.
                if registry.environment(environment).is_none() {
                    registry.put_environment(state.environment(environment));
                }
                if !whole.contains(environment) {
                    flags.extend(state.flag(environment, id));
                }
            }
            // State may be ahead of what was noted: what a flag asks about is published no later than the flag.
            let mut segments = dirty.segments.clone();
            for flag in &flags {
                let Ok(name) = Name::parse(&flag.name, Collection::Flags) else { continue };
                let asked = state.segments_asked(name.environment, [flag]).into_iter();
                let new = asked.filter(|id| before.segment(name.environment, id).is_none());
                segments.extend(new.map(|id| (name.environment.to_owned(), id)));
            }
            seen.segments.extend(segments.iter().map(|id| membership::read(state, id)));
        });
        for flag in flags {
            self.take(flag, registry, &mut seen);
        }
        for environment in &whole {
            self.read_flags(source, environment, registry, &mut seen);
            read_segments(source, environment, before, &mut seen);
        }
        seen
    }

    /// Page by page: the messages of all flags at once would be the most memory a start takes.
    fn read_flags(&self, source: &dyn Source, environment: &str, registry: &Registry, seen: &mut Seen) {
        read_pages(
            source,
            |state, after| state.flags(environment, after, READ_MAX, true),
            |flag| id_of(&flag.name, Collection::Flags).to_owned(),
            |flag| self.take(flag, registry, seen),
        );
    }

    fn read_everything(&self, source: &dyn Source, before: &Snapshot, registry: &mut Registry) -> Seen {
        let mut seen = Seen::default();
        let mut environments = Vec::new();
        source.with(&mut |state| {
            note_clock(&mut seen, state);
            environments = state.environments();
            for environment in &environments {
                registry.put_environment(state.environment(environment));
            }
        });
        for environment in &environments {
            self.read_flags(source, environment, registry, &mut seen);
            read_segments(source, environment, before, &mut seen);
            read_pages(
                source,
                |state, after| state.metrics(environment, after, READ_MAX),
                |metric| id_of(&metric.name, Collection::Metrics).to_owned(),
                |metric| seen.metrics.push(metric),
            );
            read_pages(
                source,
                |state, after| state.experiments(environment, after, READ_MAX),
                |experiment| id_of(&experiment.name, Collection::Experiments).to_owned(),
                |experiment| seen.experiments.push(experiment),
            );
        }
        seen
    }

    /// Milliseconds from effect to publication, the last time.
    #[must_use]
    pub fn lag_ms(&self) -> u64 {
        self.lag_ms.load(Ordering::Relaxed)
    }

    /// Publications since the start.
    #[must_use]
    pub fn publications(&self) -> u64 {
        self.publications.load(Ordering::Relaxed)
    }

    /// Compilations of committed flags that failed.
    #[must_use]
    pub fn not_compiled(&self) -> u64 {
        self.not_compiled.load(Ordering::Relaxed)
    }
}

/// One writer that waits, for as long as it does.
struct Waiting<'a>(&'a Publisher);

impl<'a> Waiting<'a> {
    fn new(publisher: &'a Publisher) -> Self {
        publisher.waiting.fetch_add(1, Ordering::AcqRel);
        publisher.hurry.notify_one();
        Self(publisher)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Part of a look's first read: what changes between two reads of one look is noted and comes with the next.
fn note_clock(seen: &mut Seen, state: &State) {
    seen.position = state.position();
    seen.log_time_ms = state.log_time_ms();
    seen.unit_key_id = state.is_initialized().then(|| state.unit_key_id());
    seen.receipt_keys = state.receipt_keys().iter().filter_map(|key| bounded(state, key)).collect();
}

/// A receipt key, for as far as it is this cluster's.
fn bounded(state: &State, key: &featureops_proto::log::ReceiptKey) -> Option<Key> {
    let known = Key::from_bytes(key.id, &key.key)?;
    Some(match state.receipts_until(key.id) {
        Some(position) => known.until(position),
        None => known,
    })
}

/// After the flags: what these ask about is among them.
fn read_segments(source: &dyn Source, environment: &str, before: &Snapshot, seen: &mut Seen) {
    source.with(&mut |state| seen.segments.extend(membership::read_all(state, environment, before)));
}

/// Hands over what `read` gives, page by page of [`READ_MAX`].
pub(crate) fn read_pages<T>(
    source: &dyn Source,
    read: impl Fn(&State, &str) -> Vec<T>,
    id: impl Fn(&T) -> String,
    mut take: impl FnMut(T),
) {
    let mut after = String::new();
    loop {
        let mut page = Vec::new();
        source.with(&mut |state| page = read(state, &after));
        let last = page.last().map(&id);
        let full = page.len() >= READ_MAX;
        page.into_iter().for_each(&mut take);
        match last {
            // The next page begins strictly later, so this ends.
            Some(last) if full && last > after => after = last,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    mod segments;
    mod times;

    use super::*;
    use crate::fronts::changes::between;
    use crate::fronts::selector::Views;
    use crate::fronts::settings::Settings;
    use axum::http::HeaderMap;
    use featureops_proto::log::{Entry, Initialize, ReceiptKey, SetFlag, Tick, entry::Command};
    use featureops_proto::v1::ValueType;
    use prost::Message as _;

    struct Held(Mutex<State>);

    impl Held {
        fn apply(&self, position: u64, command: Command) -> Vec<Effect> {
            let principal = Some(crate::caller::named("human:ada").unwrap());
            let entry = Entry { principal, command: Some(command), ..Entry::default() }.encode_to_vec();
            let mut effects = Vec::new();
            self.0.lock().apply(position, &entry, &mut effects).unwrap();
            effects
        }
    }

    impl Source for Held {
        fn with(&self, read: &mut dyn FnMut(&State)) {
            read(&self.0.lock());
        }
    }

    #[test]
    fn a_position_is_claimed_only_with_its_changes() {
        let held = Held(Mutex::new(State::default()));
        let publisher = Publisher::default();
        let receipt_key = Some(ReceiptKey { id: 1, key: vec![7; 16] });
        let initialize =
            Initialize { cluster: "c".into(), unit_key_id: 7, receipt_key, ..Initialize::default() };
        held.apply(1, Command::Initialize(initialize));
        held.apply(2, Command::Tick(Tick { now_ms: 1_800_000_000_000, after_restart: true }));
        publisher.publish(&held);
        assert_eq!(publisher.load().snapshot.position(), 2);

        let flag = Flag {
            name: "environments/p/flags/f".into(),
            r#type: ValueType::Boolean.into(),
            variants: [("on".to_owned(), true.into())].into(),
            default_variant: Some("on".into()),
            ..Flag::default()
        };
        let effects = held.apply(3, Command::SetFlag(SetFlag { flag: Some(flag), etag: String::new() }));
        assert!(effects.iter().any(|effect| matches!(effect, Effect::FlagChanged { .. })));
        // Applied, and not noted yet: a publication in between must not claim it.
        publisher.publish(&held);
        assert_eq!(publisher.load().snapshot.position(), 2);
        publisher.note(3, 1_800_000_000_000, &effects);
        publisher.publish(&held);
        let published = publisher.load();
        assert_eq!(published.snapshot.position(), 3);
        assert!(published.snapshot.get("p", "f").is_some());
    }

    fn flag(id: &str) -> Flag {
        Flag {
            name: format!("environments/p/flags/{id}"),
            r#type: ValueType::Boolean.into(),
            variants: [("on".to_owned(), true.into())].into(),
            default_variant: Some("on".into()),
            ..Flag::default()
        }
    }

    /// A publisher of three flags, and what it publishes next.
    fn furnished() -> (Held, Publisher, impl FnMut(&Held, &Publisher, Command)) {
        let held = Held(Mutex::new(State::default()));
        let receipt_key = Some(ReceiptKey { id: 1, key: vec![7; 16] });
        let mut position = 0;
        let mut step = move |held: &Held, publisher: &Publisher, command| {
            position += 1;
            let effects = held.apply(position, command);
            publisher.note(position, 0, &effects);
            publisher.publish(held);
        };
        let publisher = Publisher::default();
        let initialize =
            Initialize { cluster: "c".into(), unit_key_id: 7, receipt_key, ..Initialize::default() };
        step(&held, &publisher, Command::Initialize(initialize));
        for id in ["a", "b", "c"] {
            step(&held, &publisher, set(flag(id)));
        }
        (held, publisher, step)
    }

    fn set(flag: Flag) -> Command {
        Command::SetFlag(SetFlag { flag: Some(flag), etag: String::new() })
    }

    /// What a client of this environment hears of, that knew `before`; afterwards it knows what is published.
    fn told(publisher: &Publisher, before: &mut Arc<Published>) -> Vec<(String, &'static str)> {
        let scope = Views::new(&Settings { environments: vec!["p".into()], ..Settings::default() });
        let scope = scope.scope(&HeaderMap::new(), None, None, "").unwrap();
        let now = Arc::clone(&publisher.load());
        let changes = between(&scope, before, &now);
        *before = now;
        changes.into_iter().map(|(flag, change)| (flag, change.as_str())).collect()
    }

    #[test]
    fn flags_are_compiled_against_their_environment_and_clients_hear_what_differs() {
        let (held, publisher, mut step) = furnished();
        let environment = |source: &str, team: &str| {
            let fields = [("team".to_owned(), team.into())].into();
            let name = "environments/p".to_owned();
            let metadata = Some(prost_types::Struct { fields });
            Environment { name, source: source.into(), metadata, ..Environment::default() }
        };
        assert!(publisher.load().registry.environment("p").is_some(), "there as soon as a flag is");
        let mut known = Arc::clone(&publisher.load());
        assert_eq!(told(&publisher, &mut known), []);
        let describe = Flag { description: "new".into(), owner: "o".into(), ..flag("a") };
        step(&held, &publisher, set(describe));
        assert_eq!(told(&publisher, &mut known), [], "clients see neither");

        let set_environment = |environment| {
            let (environment, etag) = (Some(environment), String::new());
            Command::SetEnvironment(featureops_proto::log::SetEnvironment { environment, etag })
        };
        step(&held, &publisher, set_environment(environment("s", "x")));
        let all = |change| ["a", "b", "c"].map(|flag| (flag.to_owned(), change));
        assert_eq!(told(&publisher, &mut known), all("update"));
        let published = publisher.load();
        assert_eq!(published.registry.environment("p").unwrap().source, "s");
        let metadata = published.snapshot.get("p", "b").unwrap().metadata().unwrap();
        assert_eq!(metadata.fields["team"], "x".into());

        step(&held, &publisher, set(Flag { disabled: true, ..flag("b") }));
        step(&held, &publisher, set(flag("d")));
        let archive = featureops_proto::log::ArchiveFlag { name: flag("c").name, etag: String::new() };
        step(&held, &publisher, Command::ArchiveFlag(archive));
        let expected = [("b", "update"), ("c", "delete"), ("d", "write")];
        assert_eq!(told(&publisher, &mut known), expected.map(|(flag, change)| (flag.to_owned(), change)));
        // A start reads everything again: what is the same is no change.
        publisher.republish();
        publisher.publish(&held);
        assert_eq!(told(&publisher, &mut known), []);

        // There and back between two messages: who asked meanwhile holds what is no more.
        step(&held, &publisher, set(Flag { disabled: true, ..flag("a") }));
        step(&held, &publisher, set(flag("a")));
        assert_eq!(told(&publisher, &mut known), [("a".to_owned(), "update")]);
    }

    #[test]
    fn who_rests_on_a_flag_changes_with_it_however_far_up() {
        let (held, publisher, mut step) = furnished();
        let resting = |id: &str, other: &str| {
            let prerequisite = featureops_proto::v1::Prerequisite {
                flag: other.to_owned(),
                variants: vec!["on".to_owned()],
            };
            set(Flag { prerequisites: vec![prerequisite], ..flag(id) })
        };
        // "c" rests on "b", which rests on "a".
        step(&held, &publisher, resting("b", "a"));
        step(&held, &publisher, resting("c", "b"));
        let mut known = Arc::clone(&publisher.load());
        let mut hear = |ids: &[&str]| {
            let expected: Vec<_> = ids.iter().map(|id| ((*id).to_owned(), "update")).collect();
            assert_eq!(told(&publisher, &mut known), expected);
        };
        let safe = || Flag { disabled: true, safe_variant: Some("on".to_owned()), ..flag("a") };
        step(&held, &publisher, set(safe()));
        hear(&["a", "b", "c"]);
        let reason = "smoke".to_owned();
        let trip = featureops_proto::log::TripFlag { name: flag("a").name, reason, ..Default::default() };
        step(&held, &publisher, Command::TripFlag(trip));
        hear(&["a", "b", "c"]);
        step(&held, &publisher, set(Flag { owner: "new".into(), ..safe() }));
        hear(&[]);
        step(&held, &publisher, set(flag("b")));
        hear(&["b", "c"]);
        step(&held, &publisher, set(Flag { disabled: false, ..safe() }));
        hear(&["a"]);
        publisher.republish();
        publisher.publish(&held);
        hear(&[]);
    }

    /// Every node does this within the time a write waits for, so it must not grow with the flags. `cargo bench -p featureops
    /// --bench publish` times it.
    #[test]
    fn of_a_hundred_thousand_flags_one_change_compiles_one() {
        const FLAGS: u64 = 100_000;
        let (held, publisher, _) = furnished();
        for n in 0..FLAGS - 3 {
            held.apply(5 + n, set(flag(&format!("f{n}"))));
        }
        publisher.republish();
        publisher.publish(&held);
        let mut known = Arc::clone(&publisher.load());
        assert_eq!(known.snapshot.flags("p").count() as u64, FLAGS);
        for n in 0..20 {
            let position = 5 + FLAGS + n;
            let effects = held.apply(position, set(Flag { disabled: n % 2 == 0, ..flag("f777") }));
            publisher.note(position, 0, &effects);
            publisher.publish(&held);
            let now = Arc::clone(&publisher.load());
            assert_eq!(now.snapshot.changed_since(&known.snapshot, "p").count(), 1);
            assert_eq!(told(&publisher, &mut known), [("f777".to_owned(), "update")]);
        }
    }
}
