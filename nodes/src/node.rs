//! The node: one value that is started from an environment and drained in order. Production and simulation run the same.
//!
//! ```text
//!   start     unit key ── replica (log, fold) ── identity, on the first start ── publish ── owners ── listen
//!   shutdown  not ready ── no new connections ── in flight, bounded ── exposures flushed ── owners ── replica, last sync
//! ```
//!
//! Time comes from the environment's clock and from tokio's timers, chance from its entropy, connections from its
//! transport. Nothing here starts a thread.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use featureops_cluster::environment::Listener;
use featureops_cluster::{EffectSink, Environment, JoinToken, Member, Options, PeerListener};
use featureops_evaluation::UnitKey;
use featureops_state::{Effect, State};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tonic_health::server::HealthReporter;

use crate::access::Access;
use crate::budget::Budget;
use crate::config::NodeConfig;
use crate::doctor;
use crate::exposures::Exposures;
use crate::fronts::Fronts;
use crate::fronts::settings::Ports;
use crate::host::{Host, ReplicaFacts};
use crate::http;
use crate::identity::{fetch_key, follow_key, give_identity, read_unit_key, secret_of};
use crate::observation::Observation;
use crate::owners::{Bell, Owners};
use crate::parting::Parting;
use crate::placement;
use crate::publisher::Publisher;
use crate::recovery;
use crate::replica::Replica;
use crate::schedules;
use crate::serve::{Leaving, serve};
use crate::services::cluster::follow_members;
use crate::tls::Tls;
use crate::tls::peers::{PeerTls, Secured};
use crate::unit_key::{KeyFile, UnitKeyStore};
use crate::vital::Vital;

/// How long a drain waits for implied exposures.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);
/// How often gRPC health is brought up to date.
const READINESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a start waits to be let into a cluster; after that it serves, and goes on asking.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// Why a node did not start: what failed, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartError {
    /// What failed.
    pub message: String,
}

impl StartError {
    pub(crate) fn new(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string() }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

/// A running node.
pub struct Node {
    host: Arc<Host>,
    address: SocketAddr,
    peer_address: Option<SocketAddr>,
    flagd_addresses: Option<Ports>,
    health: HealthReporter,
    drain: watch::Sender<bool>,
    /// One a port.
    serving: Vec<JoinHandle<()>>,
    /// Ended with the node.
    tasks: JoinSet<()>,
}

/// What apply tells this node: the publisher, the owners, whoever executes schedules and the cache of exposures, none of which
/// makes it wait.
struct Sink {
    publisher: Arc<Publisher>,
    bell: Arc<Bell>,
    schedules: Arc<schedules::Bell>,
    access: Arc<Access>,
    owners: OnceLock<Owners>,
    exposures: OnceLock<Arc<Exposures>>,
}

impl EffectSink<State> for Sink {
    fn applied(&self, state: &State, position: u64, effects: &[Effect]) {
        self.publisher.note(position, state.log_time_ms(), effects);
        self.schedules.note(state, effects);
        if effects.contains(&Effect::TokensChanged) {
            self.access.publish(state);
        }
        if let Some(owners) = self.owners.get() {
            owners.note(effects);
        }
        if let Some(exposures) = self.exposures.get() {
            for effect in effects {
                if let Effect::UnitErased { unit } = effect {
                    exposures.forget(*unit);
                }
            }
        }
    }

    fn installed(&self, state: &State, _position: u64) {
        self.access.publish(state);
        self.publisher.republish();
        self.bell.ring();
        if let Some(exposures) = self.exposures.get() {
            exposures.forget_all();
        }
    }
}

impl Node {
    /// Starts a node whose unit key is the file in its data folder.
    ///
    /// # Errors
    /// See [`Node::start_with`].
    pub async fn start(environment: Environment, config: NodeConfig) -> Result<Self, StartError> {
        let keys = Arc::new(KeyFile::new(&config.data));
        // In a box: a start is many starts deep.
        Box::pin(Self::start_with(environment, config, keys)).await
    }

    /// Starts a node: opens its disk, follows its log, and serves.
    ///
    /// # Errors
    /// An address is beyond loopback without TLS or tokens, or is taken, a certificate cannot be used, the disk was not opened, or
    /// the first start could not make an identity.
    pub async fn start_with(
        environment: Environment,
        config: NodeConfig,
        keys: Arc<dyn UnitKeyStore>,
    ) -> Result<Self, StartError> {
        let tls = Tls::open(&config.tls).map_err(StartError::new)?.map(Arc::new);
        if !config.fronts.certificates.is_empty() && config.tls.client_ca.is_none() {
            return Err(StartError::new(
                "flagd_certificates: needs tls.client_ca, by which clients are asked for theirs",
            ));
        }
        let peer_tls = PeerTls::open(&config.peer_tls).map_err(StartError::new)?.map(Arc::new);
        let is_secret = tls.is_some() || config.plain_text;
        // The ports before the disk: of two nodes started by mistake, the second one touches nothing.
        let (listener, address) = listen(&environment, &config, "listen", config.listen, is_secret).await?;
        let mut flagd = Vec::new();
        for wanted in config.fronts.ports.iter().flat_map(Ports::all) {
            flagd.push(listen(&environment, &config, "flagd_ports", wanted, is_secret).await?);
        }
        let addresses: Vec<SocketAddr> = flagd.iter().map(|(_, address)| *address).collect();
        let flagd_addresses = match *addresses {
            [evaluation, management, sync, ofrep] => Some(Ports { evaluation, management, sync, ofrep }),
            _ => None,
        };

        let everywhere = std::iter::once(address).chain(addresses.iter().copied());
        let on_loopback = everywhere.into_iter().all(|address| address.ip().is_loopback());
        let access =
            Arc::new(Access::new(&config.anonymous, on_loopback || !config.loopback_only, &config.limits));

        let publisher = Arc::new(Publisher::default());
        let bell = Arc::new(Bell::default());
        let due = Arc::new(schedules::Bell::default());
        let sink = Arc::new(Sink {
            publisher: Arc::clone(&publisher),
            bell: Arc::clone(&bell),
            schedules: Arc::clone(&due),
            access: Arc::clone(&access),
            owners: OnceLock::new(),
            exposures: OnceLock::new(),
        });
        // The cluster room hears nothing of it: it gets a transport.
        let between = between(&environment, peer_tls.as_ref());
        let (peers, peer_address) = match config.peer_listen {
            Some(wanted) => {
                let (listener, address) =
                    listen(&between, &config, "peer_listen", wanted, peer_tls.is_some()).await?;
                (Some(PeerListener(Arc::from(listener))), Some(address))
            }
            None if config.join.is_empty() && config.advertise.is_empty() => (None, None),
            None => {
                return Err(StartError::new(
                    "join, advertise: a node of a cluster needs an address for its peers, too: give --peer-listen",
                ));
            }
        };
        // Without peers nobody asks for it.
        let advertised = match peer_address {
            Some(_) if !config.advertise.is_empty() => config.advertise.clone(),
            Some(peers) => peers.to_string(),
            None => address.to_string(),
        };
        let options = Options {
            snapshot_after_entries: config.snapshot_every_entries,
            snapshot_after_bytes: config.snapshot_every_bytes,
            keep_entries: config.log_keep_entries,
            initialize: config.join.is_empty(),
            join: config.join.clone(),
            listener: peers,
            secret: Some(secret_of(&keys)),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            peer_keys: keys.peer_keys(),
            secured: peer_tls.is_some() || !config.loopback_only,
            join_token: Some(shown(&config)),
            ..Options::new(config.node, advertised)
        };
        let heard: Arc<dyn EffectSink<State>> = Arc::<Sink>::clone(&sink);
        let genesis = config.feature_level_max.map_or_else(State::new, State::limited_to);
        let starting = Member::start(between, options, genesis, heard);
        let member = Box::pin(starting).await.map_err(StartError::new)?;
        let replica = Replica::new(member);
        // A build that met a level which it does not know would serve what was before it for ever.
        if let Some(why) = replica.read(|state| state.stopped_at_level().map(str::to_owned)) {
            replica.shutdown().await;
            return Err(StartError::new(why));
        }
        let started = give_identity(&environment.clock, &environment.entropy, &replica, keys.as_ref());
        if let Err(error) = started.await {
            replica.shutdown().await;
            return Err(error);
        }
        if !config.join.is_empty() {
            joined(&replica).await;
            fetch_key(&replica, keys.as_ref()).await;
        }
        if let Err(error) = let_in(&environment, &config, &replica, &access, on_loopback).await {
            replica.shutdown().await;
            return Err(error);
        }
        let (unit_key, unit_key_fault) = read_unit_key(keys.as_ref());
        let (own, needed) = (unit_key.as_ref().map(UnitKey::id), replica.read(State::unit_key_id));
        if unit_key_fault.is_none() && replica.read(State::is_initialized) && own != Some(needed) {
            tracing::error!(
                found = own.map_or_else(|| "none".to_owned(), |id| format!("{id:016x}")),
                needed = format!("{needed:016x}"),
                "the unit key is not the cluster's; facts are refused until its file is put back"
            );
        }
        publisher.publish(&replica);

        let observation = Arc::new(Observation::default());
        let producer = featureops_state::node_producer(config.node, environment.entropy.next_u64());
        let (exposures, sender) = Exposures::new(
            config.limits.exposure_cache,
            config.limits.exposure_queue,
            producer,
            unit_key.as_ref().map_or(0, UnitKey::id),
            Arc::new(ReplicaFacts(replica.clone())),
            Arc::clone(&observation),
        );
        let _ = sink.exposures.set(Arc::clone(&exposures));
        let owners = match Owners::start(&environment, &replica, Arc::clone(&bell)).await {
            Ok(owners) => owners,
            Err(error) => {
                replica.shutdown().await;
                return Err(StartError::new(error));
            }
        };
        let _ = sink.owners.set(owners.clone());

        let drain = watch::Sender::new(false);
        let vital = Arc::new(Vital::default());
        let parting = Arc::new(Parting::default());
        let host = Arc::new(Host {
            replica: replica.clone(),
            publisher: Arc::clone(&publisher),
            exposures,
            unit_key: unit_key.map_or_else(OnceLock::new, OnceLock::from),
            keys,
            unit_key_fault,
            clock: Arc::clone(&environment.clock),
            entropy: Arc::clone(&environment.entropy),
            observation: Arc::clone(&observation),
            owners: owners.clone(),
            limits: config.limits.clone(),
            observe_process: config.observe_process,
            exports_traces: config.otlp_endpoint.is_some(),
            fronts: Fronts::new(config.fronts.clone()),
            access,
            tls: tls.clone(),
            peer_tls: peer_tls.clone(),
            has_peers: peer_address.is_some(),
            loopback_only: config.loopback_only && on_loopback,
            drain: drain.subscribe(),
            parting: Arc::clone(&parting),
            compute: Arc::clone(&environment.compute),
            heavy: Semaphore::new(1),
            snapshot_every_entries: config.snapshot_every_entries,
            backups: Arc::new(Semaphore::new(1)),
            budget: Budget::new(config.limits.request_bytes_in_flight),
            vital: Arc::clone(&vital),
        });
        let health = HealthReporter::new();
        http::set_serving(&health, doctor::is_ready(&host)).await;
        let ways = match http::ways(&host, &health) {
            Ok(ways) => ways,
            Err(error) => {
                owners.stop().await;
                replica.shutdown().await;
                return Err(StartError::new(error));
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(vital.watched("publisher", publisher.run(Arc::new(replica.clone()))));
        tasks.spawn(vital.watched("exposures", sender.run()));
        tasks.spawn(vital.watched("schedules", schedules::run(replica.clone(), due)));
        if peer_address.is_some() {
            let clock = Arc::clone(&environment.clock);
            let placing = placement::run(replica.clone(), clock, Arc::clone(&bell));
            tasks.spawn(vital.watched("placement", placing));
        }
        tasks.spawn(vital.watched("owners", owners.run(replica)));
        if let Some(tls) = tls {
            tasks.spawn(tls.follow(Arc::clone(&environment.compute), Arc::clone(&environment.clock)));
        }
        if let Some(tls) = peer_tls {
            tasks.spawn(tls.follow(Arc::clone(&environment.compute), Arc::clone(&environment.clock)));
        }
        tasks.spawn(follow_readiness(Arc::clone(&host), health.clone()));
        if peer_address.is_some() {
            tasks.spawn(vital.watched("unit key", follow_key(Arc::clone(&host))));
            tasks.spawn(vital.watched("members", follow_members(Arc::clone(&host))));
        }
        let listeners = flagd.into_iter().map(|(listener, _)| listener).zip(ways.flagd);
        let serving = std::iter::once((listener, ways.main)).chain(listeners).map(|(listener, front)| {
            let (limits, observation) = (config.limits.clone(), Arc::clone(&observation));
            let leaving = Leaving { drain: drain.subscribe(), parting: Arc::clone(&parting) };
            let served = serve(listener, front, limits, observation, leaving, config.drain_timeout);
            tokio::spawn(served)
        });
        let serving = serving.collect();
        tracing::info!(address = %address, "serving");
        Ok(Self { host, address, peer_address, flagd_addresses, health, drain, serving, tasks })
    }

    /// Where the node listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where the node listens for its peers, if it does.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer_address
    }

    /// The node's number in its cluster.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.host.replica.health().node
    }

    /// Where flagd's clients are served, beside that.
    #[must_use]
    pub fn flagd_addrs(&self) -> Option<Ports> {
        self.flagd_addresses
    }

    /// The certificates of its listeners; absent: it speaks plain text.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.host.tls.as_ref()
    }

    /// The certificates between nodes; absent: plain text, on loopback.
    #[must_use]
    pub fn peer_tls(&self) -> Option<&Arc<PeerTls>> {
        self.host.peer_tls.as_ref()
    }

    /// What the node counts of its work.
    #[must_use]
    pub fn observation(&self) -> &Arc<Observation> {
        &self.host.observation
    }

    /// What `GetNodeHealth` answers.
    #[must_use]
    pub fn examine(&self) -> featureops_proto::v1::NodeHealth {
        doctor::examine(&self.host)
    }

    /// Position of the last applied entry, and the state's digest there: what two replicas, and two lives of one, must share.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        self.host.replica.read(|state| (state.position(), state.digest()))
    }

    /// Drains and ends the node: nothing that was acknowledged is lost, and what is in flight gets its answer if it is
    /// there within the drain's time.
    pub async fn shutdown(self) {
        let Self { host, health, drain, serving, mut tasks, .. } = self;
        http::set_serving(&health, false).await;
        drain.send_replace(true);
        let served = async {
            for served in serving {
                if let Err(error) = served.await {
                    tracing::error!(error = %error, "serving did not end by itself");
                }
            }
        };
        // Its owners go while requests in flight get their answers.
        tokio::join!(served, placement::leave(&host.replica));
        if !host.exposures.flush(FLUSH_PATIENCE).await {
            tracing::warn!(waiting = host.exposures.waiting(), "implied exposures were lost in the drain");
        }
        host.owners.stop().await;
        tasks.shutdown().await;
        host.replica.shutdown().await;
        tracing::info!("stopped");
    }
}

/// The world as the cluster room sees it: with certificates, its streams are behind TLS.
fn between(environment: &Environment, tls: Option<&Arc<PeerTls>>) -> Environment {
    let Some(tls) = tls else { return environment.clone() };
    let (inner, clock) = (Arc::clone(&environment.transport), Arc::clone(&environment.clock));
    Environment { transport: Arc::new(Secured { inner, tls: Arc::clone(tls), clock }), ..environment.clone() }
}

/// The token that this node shows to be let in, read anew at each attempt.
fn shown(config: &NodeConfig) -> JoinToken {
    let token = config.join_token.clone();
    JoinToken(Arc::new(move || token.read()))
}

/// Who may come in: the tokens as they stand, and the one that a recovery makes.
async fn let_in(
    environment: &Environment,
    config: &NodeConfig,
    replica: &Replica,
    access: &Access,
    on_loopback: bool,
) -> Result<(), StartError> {
    if config.recover_admin {
        let made = recovery::make(&config.data, environment.entropy.as_ref(), replica).await;
        made.map_err(|error| StartError::new(format!("recover_admin: {error}")))?;
    }
    replica.read(|state| access.publish(state));
    // A node that has yet to hear of its cluster lets nobody in until it has.
    let bare = config.loopback_only && !on_loopback && replica.read(State::is_initialized);
    if bare && !access.has_tokens() {
        return Err(StartError::new(
            "listen: beyond loopback a node needs tokens, and there is none: make the first one on loopback (start with --listen \
             127.0.0.1:7400, then 'featureops token create NAME --role admin'), or start once with --recover-admin, which \
             leaves one in the data folder",
        ));
    }
    Ok(())
}

/// Takes an address. Beyond loopback only where what goes there is secret: tokens do.
async fn listen(
    environment: &Environment,
    config: &NodeConfig,
    setting: &str,
    wanted: SocketAddr,
    is_secret: bool,
) -> Result<(Box<dyn Listener>, SocketAddr), StartError> {
    let is_beyond = config.loopback_only && !wanted.ip().is_loopback() && !is_secret;
    if is_beyond && setting == "peer_listen" {
        return Err(StartError::new(format!(
            "{setting}: '{wanted}' is not a loopback address, and what the nodes of a cluster say to each other would go there in \
             plain text, keys among it: give every node certificates (--peer-tls-cert, --peer-tls-key, --peer-tls-ca), or listen on \
             127.0.0.1"
        )));
    }
    if is_beyond {
        return Err(StartError::new(format!(
            "{setting}: '{wanted}' is not a loopback address, and tokens would go there in plain text: give the node \
             certificates (--tls-cert, --tls-key), or listen on 127.0.0.1; behind a proxy that speaks TLS, --set plain_text=true"
        )));
    }
    let listener = environment.transport.listen(wanted).await.map_err(|error| {
        StartError::new(format!("{setting}: '{wanted}' cannot be taken: {error}; choose another port"))
    })?;
    let address = listener.address().map_err(StartError::new)?;
    Ok((listener, address))
}

/// Keeps gRPC health at what `/readyz` says.
async fn follow_readiness(host: Arc<Host>, health: HealthReporter) {
    let mut said = None;
    // One that is drained already when it starts asks nobody to go: whoever comes knows.
    let mut drained = host.is_drained_by_person();
    loop {
        let drains = host.is_drained_by_person();
        if drains && !std::mem::replace(&mut drained, drains) {
            tracing::info!("drained by a person's word: clients are asked to go elsewhere");
            host.parting.begin();
        }
        drained = drains;
        let ready = doctor::is_ready(&host);
        if said.replace(ready) != Some(ready) {
            http::set_serving(&health, ready).await;
        }
        tokio::time::sleep(READINESS_INTERVAL).await;
    }
}

/// Waits until a node that joins is in and knows what its cluster knows, a bounded time.
async fn joined(replica: &Replica) {
    let entered = async {
        loop {
            let health = replica.health();
            if health.cluster != 0 && health.leader.is_some() && replica.current().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(JOIN_PATIENCE, entered).await.is_err() {
        let waits = replica.health().joins.unwrap_or_default();
        tracing::warn!(waits, "not in a cluster yet; serving, and asking on");
    }
}
