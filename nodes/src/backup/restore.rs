//! A backup becomes the first state of a new cluster, in an empty data folder. Everything is checked before anything is written.
//!
//! ```text
//!   folder empty ── file whole ── level known ── state decodes, has the digest, its invariants hold ── unit key is the state's
//!       ──> State::restore_as: new id, nobody owns, membership empty, receipt key new ──> folder (featureops_cluster::restore)
//! ```
//!
//! The folder gets the unit key of before and a peer key of its own: the new cluster believes no caller that does not prove to
//! be of it, from its first start on, and the members of the old one cannot.

use std::path::{Path, PathBuf};

use featureops_cluster::restore::{Beginning, check_empty, found};
use featureops_cluster::{Environment, Fold as _, PeerKey, PeerKeyStore as _};
use featureops_evaluation::UnitKey;
use featureops_proto::log::ReceiptKey;
use featureops_proto::v1::{BackupManifest, backup_frame::Frame};
use featureops_state::{Restoration, State, check_feature_level};

use super::file::check;
use crate::unit_key::{KEY_BYTES, KeyFile, UnitKeyStore as _};

/// Bytes of a receipt key.
const RECEIPT_KEY_BYTES: usize = 16;
/// Most bytes of a state that are taken up before they are there: the tail says how many, and it may lie.
const RESERVED_BYTES_MAX: u64 = 64 << 20;

/// What is restored, and where to.
#[derive(Debug, Clone)]
pub struct Order {
    /// The backup's file.
    pub file: PathBuf,
    /// The data folder, empty or not there.
    pub folder: PathBuf,
    /// The number of the node that founds the cluster.
    pub node: u64,
    /// Where its peers will reach it.
    pub address: String,
    /// The unit key's file, for a backup without the key.
    pub unit_key: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The new cluster's id.
    pub cluster: String,
    /// The backup.
    pub manifest: BackupManifest,
    /// Position of the new cluster's first record: the log goes on behind it.
    pub position: u64,
}

/// Restores.
///
/// # Errors
/// What stands against it, in words. Unless it was the disk that failed in the middle, nothing was written; then the folder
/// is marked as unfinished, and no node starts on it.
pub async fn restore(environment: &Environment, order: Order) -> Result<Restored, String> {
    check_empty(&order.folder).map_err(|error| error.to_string())?;
    let (manifest, bytes, kept_key) = read(&order.file)?;
    let (mut state, key) = judged(&manifest, &bytes, kept_key, order.unit_key.as_deref())?;
    drop(bytes);
    let incarnation = environment.entropy.next_u64().max(1);
    let no_chance =
        |error| format!("no entropy for the new cluster's key: {error}; nothing was written: try again");
    let mut secret = vec![0; RECEIPT_KEY_BYTES];
    environment.entropy.fill_secret(&mut secret).map_err(no_chance)?;
    let peer_key = PeerKey::draw(environment.entropy.as_ref()).map_err(no_chance)?;
    let cluster = format!("{incarnation:016x}");
    let position = state.position().saturating_add(1);
    let head = manifest.head.clone().unwrap_or_default();
    let restoration = Restoration {
        cluster: cluster.clone(),
        receipt_key: ReceiptKey { id: state.free_receipt_key_id(), key: secret },
        release: head.release,
        position,
    };
    state.restore_as(&restoration).map_err(|refusal| refusal.message)?;
    state.check().map_err(|violation| format!("the restored state is not sound: {violation}"))?;
    let encoded = state.encode();
    drop(state);
    let beginning =
        Beginning { node: order.node, incarnation, address: order.address, position, state: encoded.into() };
    let keys = KeyFile::new(&order.folder);
    let kept = move || keys.keep(key).and_then(|()| keys.keep_peer_key(&peer_key));
    let founded = found(environment, &order.folder, beginning, kept);
    founded.await.map_err(|error| error.to_string())?;
    Ok(Restored { cluster, manifest, position })
}

/// A whole file: its manifest, its state's bytes, and the unit key, if it holds it.
type Whole = (BackupManifest, Vec<u8>, Option<Vec<u8>>);

fn read(file: &Path) -> Result<Whole, String> {
    // First without holding any of it: what is damaged costs no memory.
    let whole = check(file, &mut |_| Ok(()))?;
    let length = whole.tail.as_ref().map_or(0, |tail| tail.bytes).min(RESERVED_BYTES_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    let mut key = None;
    let manifest = check(file, &mut |frame| {
        match frame {
            Frame::Piece(piece) => bytes.extend_from_slice(&piece),
            Frame::UnitKey(found) => key = Some(found),
            Frame::Head(_) | Frame::Tail(_) => {}
        }
        Ok(())
    })?;
    Ok((manifest, bytes, key))
}

fn judged(
    manifest: &BackupManifest,
    bytes: &[u8],
    kept_key: Option<Vec<u8>>,
    key_file: Option<&Path>,
) -> Result<(State, [u8; KEY_BYTES]), String> {
    let (head, tail) = (manifest.head.clone().unwrap_or_default(), manifest.tail.clone().unwrap_or_default());
    let named = |why: String| format!("backup '{}': {why}", manifest.file);
    check_feature_level(head.feature_level, State::new().feature_level_max()).map_err(named)?;
    let state = State::decode(bytes).map_err(|why| named(format!("its state cannot be read: {why}")))?;
    let held =
        (state.position(), state.cluster(), state.unit_key_id(), state.feature_level(), state.digest());
    let said = (head.position, head.cluster.as_str(), head.unit_key_id, head.feature_level, tail.digest);
    if held != said {
        return Err(named(
            "its state is not the one that head and tail speak of: the file was changed".to_owned(),
        ));
    }
    state.check().map_err(|violation| named(format!("its state is not sound: {violation}")))?;
    let key = match (kept_key, key_file) {
        (None, None) => {
            return Err(named(
                "it holds no unit key, and without the key nobody keeps their variant: give --unit-key FILE, the unit.key of a node \
                 of the cluster before; or make the backup with --with-unit-key"
                    .to_owned(),
            ));
        }
        (Some(kept), None) => kept,
        (kept, Some(path)) => {
            let given = key_of(path)?;
            if kept.is_some_and(|kept| kept != given) {
                return Err(format!(
                    "'{}' is another key than the backup's own: leave --unit-key out",
                    path.display()
                ));
            }
            given
        }
    };
    let key: [u8; KEY_BYTES] =
        key.try_into().map_err(|_| named(format!("its unit key has not {KEY_BYTES} bytes")))?;
    let id = UnitKey::new(key).id();
    if id != state.unit_key_id() {
        return Err(format!(
            "the unit key has id {id:016x}, and the state was counted under {:016x}: give the unit.key of a node of the cluster before",
            state.unit_key_id()
        ));
    }
    Ok((state, key))
}

/// The bytes of a key's file.
fn key_of(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let said = |error: std::io::Error| format!("--unit-key '{}': {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(said)?;
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() == KEY_BYTES {
        return Ok(bytes);
    }
    Err(format!(
        "--unit-key '{}': a key has {KEY_BYTES} bytes; give the unit.key of a data folder",
        path.display()
    ))
}
