//! What makes a cluster itself: its id, its unit key and its receipt key, made by the node that founds it. One that joins
//! takes the id and the receipt key from the log, and the unit key from another node or from a person.
//!
//! The unit key never enters the log. It is handed over between nodes of one machine, or over TLS;
//! elsewhere a person copies the file, and the node finds it without a restart.

use std::sync::Arc;
use std::time::Duration;

use featureops_cluster::environment::{Clock, Entropy};
use featureops_cluster::peer::Secret;
use featureops_cluster::storage::way_out;
use featureops_evaluation::UnitKey;
use featureops_proto::log::{Entry, Initialize, ReceiptKey, entry, reply};
use featureops_state::{FIRST_FEATURE_LEVEL, State};
use prost::Message as _;

use crate::caller;
use crate::host::Host;
use crate::node::StartError;
use crate::replica::Replica;
use crate::unit_key::{KEY_BYTES, UnitKeyStore};

/// How long the first start waits for log time.
const FIRST_TICK_PATIENCE: Duration = Duration::from_secs(5);
/// Attempts to give a new cluster its identity.
const IDENTITY_ATTEMPTS: usize = 5;
/// How often a node without a key looks for one.
const KEY_INTERVAL: Duration = Duration::from_secs(1);

/// What this node hands to a member that asks.
#[must_use]
pub fn secret_of(keys: &Arc<dyn UnitKeyStore>) -> Secret {
    let keys = Arc::clone(keys);
    Secret(Arc::new(move || keys.bytes().ok().flatten().map(|bytes| bytes.to_vec())))
}

/// Takes the key from the leader, if it hands it over and there is none here.
pub async fn fetch_key(replica: &Replica, keys: &dyn UnitKeyStore) {
    if !matches!(keys.read(), Ok(None)) {
        return;
    }
    match replica.member().secret().await {
        Ok(Some(bytes)) => match <[u8; KEY_BYTES]>::try_from(bytes.as_slice()) {
            // One that is kept is kept for good.
            Ok(bytes) if UnitKey::new(bytes).id() != replica.read(State::unit_key_id) => {
                tracing::error!("what the leader sent is another cluster's unit key");
            }
            Ok(bytes) => match keys.keep(bytes) {
                Ok(()) => tracing::info!("the unit key came from the leader"),
                Err(error) => tracing::error!(error = %error, "the unit key was not kept"),
            },
            Err(_) => tracing::error!(length = bytes.len(), "what the leader sent is no unit key"),
        },
        Ok(None) => {}
        Err(why) => tracing::debug!(why, "no unit key from the leader"),
    }
}

/// Looks for the key until there is one.
pub async fn follow_key(host: Arc<Host>) {
    while host.unit_key.get().is_none() && host.unit_key_fault.is_none() {
        if host.replica.read(State::is_initialized) {
            fetch_key(&host.replica, host.keys.as_ref()).await;
            take_key(&host);
        }
        tokio::time::sleep(KEY_INTERVAL).await;
    }
    // What watches over the tasks takes an end for a fault.
    std::future::pending().await
}

/// Takes the key that is kept by now.
pub fn take_key(host: &Host) {
    if let Ok(Some(key)) = host.keys.read()
        && key.id() == host.replica.read(State::unit_key_id)
    {
        host.exposures.keyed(key.id());
        let _ = host.unit_key.set(key);
    }
}

/// On the first start of a cluster: makes its id, its unit key and its receipt key.
///
/// # Errors
/// They were not made, or not written.
pub async fn give_identity(
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
    replica: &Replica,
    keys: &dyn UnitKeyStore,
) -> Result<(), StartError> {
    if replica.read(State::is_initialized) {
        return Ok(());
    }
    let health = replica.health();
    if health.waits.is_some() {
        // Nothing was ever served from here, so there is nothing to serve.
        let why = health.disk_error.unwrap_or_default();
        let way_out = way_out(&why);
        return Err(StartError::new(format!(
            "the first start found no room: {why}; {way_out} and start again"
        )));
    }
    if !health.leads {
        return Ok(());
    }
    let kept = keys.read().map_err(|error| StartError::new(format!("unit key: {error}")))?;
    let no_chance =
        |error| StartError::new(format!("no entropy for the cluster's keys: {error}; start again later"));
    let unit_key = match kept {
        // A start that ended between the key and the log's first entry.
        Some(key) => key,
        None => {
            let mut bytes = [0; KEY_BYTES];
            entropy.fill_secret(&mut bytes).map_err(no_chance)?;
            // Durable before the log names its id: the other way round a crash would leave a cluster without its key.
            keys.keep(bytes).map_err(|error| StartError::new(format!("unit key: {error}")))?;
            UnitKey::new(bytes)
        }
    };
    let mut receipt_key = vec![0; 16];
    entropy.fill_secret(&mut receipt_key).map_err(no_chance)?;
    let initialize = Initialize {
        cluster: format!("{:016x}", health.cluster),
        unit_key_id: unit_key.id(),
        receipt_key: Some(ReceiptKey { id: 1, key: receipt_key }),
        now_ms: clock.unix_ms(),
        // Everybody who will ever join knows what it brings; others are told that they do not.
        feature_level: match replica.read(State::feature_level_max) {
            FIRST_FEATURE_LEVEL => 0,
            level => level,
        },
    };
    let entry = Entry {
        principal: Some(caller::system("start")),
        command: Some(entry::Command::Initialize(initialize)),
        ..Entry::default()
    }
    .encode_to_vec();
    let mut last = String::new();
    for _ in 0..IDENTITY_ATTEMPTS {
        match replica.propose(entry.clone()).await {
            Ok((_, answered)) => match answered.result {
                // Refused by an attempt of which no answer had come.
                Some(reply::Result::Refusal(_)) if replica.read(State::is_initialized) => break,
                Some(reply::Result::Refusal(refusal)) => return Err(StartError::new(refusal.message)),
                _ => break,
            },
            Err(failure) => last = format!("{failure:?}"),
        }
    }
    if !replica.read(State::is_initialized) {
        return Err(StartError::new(format!(
            "the cluster's first entry was not written: {last}; start again"
        )));
    }
    let ticked = async {
        while replica.read(State::log_time_ms) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(FIRST_TICK_PATIENCE, ticked).await.is_err() {
        tracing::warn!("no log time yet; see the leader check of doctor");
    }
    Ok(())
}

/// The key, or why there is none. A node without it evaluates and refuses facts.
#[must_use]
pub fn read_unit_key(keys: &dyn UnitKeyStore) -> (Option<UnitKey>, Option<String>) {
    match keys.read() {
        Ok(Some(key)) => (Some(key), None),
        Ok(None) => (None, None),
        Err(error) => {
            tracing::error!(error = %error, "the unit key cannot be read; facts are refused");
            (None, Some(error.to_string()))
        }
    }
}
