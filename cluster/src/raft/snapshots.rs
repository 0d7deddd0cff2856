//! State snapshots among the values: cut into chunks, sealed by a manifest with length and checksum, the old one removed
//! in the same atomic batch that names the new one.
//!
//! ```text
//!   snapshot/manifest                       which generation is current, its place in the log, length, crc32
//!   snapshot/chunk/<generation>/<number>    the state's bytes
//! ```

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::sync::Mutex;

use super::record::{PositionRecord, StoredMembershipRecord};
use super::types::{Snapshot, SnapshotMeta};
use crate::environment::Environment;
use crate::storage::{Change, VALUE_BYTES_MAX, ValueLane, Values};

/// Longest encoded state, in bytes.
pub const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// Chunks of one write: what the group commit holds in memory.
const BATCH_CHUNKS: usize = 512;

const MANIFEST: &[u8] = b"snapshot/manifest";
const CHUNKS: &str = "snapshot/chunk/";
/// The first name after every chunk: `/` is followed by `0`.
const CHUNKS_END: &str = "snapshot/chunk0";

#[derive(Clone, PartialEq, Message)]
struct Manifest {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(message, optional, tag = "2")]
    position: Option<PositionRecord>,
    #[prost(message, optional, tag = "3")]
    membership: Option<StoredMembershipRecord>,
    #[prost(uint64, tag = "4")]
    length: u64,
    #[prost(uint32, tag = "5")]
    crc32: u32,
}

fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

fn folder(generation: u64) -> String {
    format!("{CHUNKS}{generation:016x}/")
}

fn chunk_name(generation: u64, number: usize) -> Vec<u8> {
    format!("{}{number:08x}", folder(generation)).into_bytes()
}

/// The stored snapshots; clones share them.
#[derive(Clone)]
pub struct Snapshots {
    values: Arc<dyn Values>,
    lane: ValueLane,
    /// One writer at a time: a built and a received snapshot may be ready together.
    writing: Arc<Mutex<()>>,
}

impl Snapshots {
    /// Snapshots among `values`, written through `lane`.
    #[must_use]
    pub fn new(values: Arc<dyn Values>, lane: ValueLane) -> Self {
        Self { values, lane, writing: Arc::default() }
    }

    /// Whether a snapshot reaches further than the stored one.
    ///
    /// # Errors
    /// The values'.
    pub fn is_new(&self, meta: &SnapshotMeta) -> io::Result<bool> {
        let stored = self.manifest()?.and_then(|manifest| manifest.position);
        Ok(stored.is_none_or(|stored| Some(stored.read()) < meta.last_log_id))
    }

    fn manifest(&self) -> io::Result<Option<Manifest>> {
        manifest(self.values.as_ref())
    }

    /// Stores a snapshot durably and removes the one before. One that does not reach further than the stored one is left
    /// out: at each start openraft installs the stored snapshot, and a full disk must not stand in a restart's way.
    ///
    /// # Errors
    /// The values', or a state over [`SNAPSHOT_BYTES_MAX`].
    pub async fn save(&self, meta: &SnapshotMeta, state: Bytes) -> io::Result<()> {
        let _writing = self.writing.lock().await;
        let length = state.len() as u64;
        if length > SNAPSHOT_BYTES_MAX {
            return Err(invalid(format!(
                "state of {length} bytes is over the bound of {SNAPSHOT_BYTES_MAX}"
            )));
        }
        let stored = self.manifest()?;
        if let Some(position) = stored.as_ref().and_then(|manifest| manifest.position.as_ref())
            && Some(position.read()) >= meta.last_log_id
        {
            return Ok(());
        }
        // A new generation each time, so that a half-written snapshot never overwrites the current one's chunks.
        let generation = stored.map_or(0, |manifest| manifest.generation).wrapping_add(1);
        let begin = folder(generation);
        let end = folder(generation.wrapping_add(1));
        self.lane
            .write(vec![Change::DeleteRange(begin.clone().into_bytes()..end.clone().into_bytes())])
            .await?;

        let mut batch = Vec::with_capacity(BATCH_CHUNKS);
        for (number, chunk) in state.chunks(VALUE_BYTES_MAX).enumerate() {
            batch.push(Change::Put(chunk_name(generation, number), chunk.to_vec()));
            if batch.len() == BATCH_CHUNKS {
                self.lane.write(std::mem::take(&mut batch)).await?;
            }
        }
        let manifest = Manifest {
            generation,
            position: meta.last_log_id.as_ref().map(PositionRecord::write),
            membership: Some(StoredMembershipRecord::write(&meta.last_membership)),
            length,
            crc32: crc32fast::hash(&state),
        };
        batch.push(Change::Put(MANIFEST.to_vec(), manifest.encode_to_vec()));
        batch.push(Change::DeleteRange(CHUNKS.as_bytes().to_vec()..begin.into_bytes()));
        batch.push(Change::DeleteRange(end.into_bytes()..CHUNKS_END.as_bytes().to_vec()));
        self.lane.write(batch).await
    }

    /// The current snapshot, read beside everything else, and while none is stored: that would remove, piece by piece, what is
    /// being read.
    ///
    /// # Errors
    /// As [`load`].
    pub async fn current(&self, environment: &Environment) -> io::Result<Option<Snapshot>> {
        let _writing = self.writing.lock().await;
        let values = Arc::clone(&self.values);
        let read = environment.run(move || load(values.as_ref())).await;
        read.unwrap_or_else(|| Err(io::Error::other("reading the snapshot panicked")))
    }

    /// The current snapshot, checked against its length and checksum; for whoever knows that none is being stored.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(&self) -> io::Result<Option<Snapshot>> {
        load(self.values.as_ref())
    }
}

fn manifest(values: &dyn Values) -> io::Result<Option<Manifest>> {
    let Some(bytes) = values.get(MANIFEST)? else { return Ok(None) };
    Manifest::decode(bytes.as_slice())
        .map(Some)
        .map_err(|error| invalid(format!("snapshot manifest: {error}")))
}

/// The current snapshot among `values`, checked against its length and checksum.
///
/// # Errors
/// The values', or `InvalidData` when the snapshot is damaged or incomplete.
pub fn load(values: &dyn Values) -> io::Result<Option<Snapshot>> {
    let Some(manifest) = manifest(values)? else { return Ok(None) };
    if manifest.length > SNAPSHOT_BYTES_MAX {
        return Err(invalid(format!("snapshot length {} is over the bound", manifest.length)));
    }
    let mut state = BytesMut::new();
    let mut number = 0;
    while (state.len() as u64) < manifest.length {
        let name = chunk_name(manifest.generation, number);
        let chunk = values.get(&name)?.filter(|chunk| !chunk.is_empty());
        let chunk = chunk.ok_or_else(|| invalid(format!("snapshot chunk {number} is missing")))?;
        state.extend_from_slice(&chunk);
        number = number.saturating_add(1);
    }
    if state.len() as u64 != manifest.length || crc32fast::hash(&state) != manifest.crc32 {
        return Err(invalid("the snapshot does not match its length and checksum"));
    }
    let meta = SnapshotMeta {
        last_log_id: manifest.position.map(|position| position.read()),
        last_membership: manifest.membership.unwrap_or_default().read()?,
    };
    Ok(Some(Snapshot { meta, snapshot: state.freeze() }))
}
