//! Backups: the state as it stands, streamed a piece at a time, and the note of it in the log.
//!
//! The state is frozen for as long as the stream lasts: what changes meanwhile is kept twice. So there is one stream at a time,
//! and one of which nothing is taken is ended by the front, as every answer is. A person's drain of the node does not end it, that
//! of the process does.

use std::sync::Arc;

use featureops_proto::log::{self, entry};
use featureops_proto::v1::{
    BackupFrame, BackupHead, BackupRecord, BackupTail, RecordBackupRequest, StreamBackupRequest,
    backup_frame::Frame,
};
use featureops_proto::{timestamp, timestamp_if_set};
use featureops_state::State;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::backup::cut::Cutter;
use crate::backup::{FORMAT, Sum, encoded};
use crate::host::{Host, Write};
use crate::refusal::{self, Failure};
use crate::rpc::backup_service_server::BackupService;
use crate::sent::sent;
use crate::services::{Streamed, person, required, until_end};

/// Frames that wait for whoever takes them.
const FRAMES_MAX: usize = 4;

/// The service.
pub struct Backups(pub Arc<Host>);

/// What the log takes of a note: the rest it fills.
pub fn noted(backup: BackupRecord) -> BackupRecord {
    BackupRecord { record_time: None, recorded_by: None, ..backup }
}

impl Host {
    /// Whether what is answered stays on this machine or is told to nobody on the way.
    fn answers_in_secret(&self) -> bool {
        self.tls.is_some() || self.loopback_only
    }
}

#[tonic::async_trait]
impl BackupService for Backups {
    type StreamBackupStream = Streamed<BackupFrame>;

    async fn stream_backup(
        &self,
        request: Request<StreamBackupRequest>,
    ) -> Result<Response<Self::StreamBackupStream>, Status> {
        person(&self.0, &request)?;
        let host = Arc::clone(&self.0);
        let StreamBackupRequest { with_unit_key, local } = request.into_inner();
        host.accepts_writes()?;
        let Ok(permit) = Arc::clone(&host.backups).try_acquire_owned() else {
            return Err(Failure::Overloaded("backups of this node are at their bound of 1".to_owned()).into());
        };
        let key = if with_unit_key { Some(unit_key(&host)?) } else { None };
        if !local {
            host.replica.current().await?;
        }
        let health = host.replica.health();
        let state = host.replica.member().frozen();
        if !state.is_initialized() {
            return Err(refusal::not_now("the cluster has no identity yet: there is nothing to keep"));
        }
        let head = BackupHead {
            format: FORMAT,
            cluster: state.cluster().to_owned(),
            node: health.node,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: state.feature_level(),
            position: state.position(),
            log_time: timestamp_if_set(state.log_time_ms()),
            create_time: Some(timestamp(host.clock.unix_ms())),
            unit_key_id: state.unit_key_id(),
            has_unit_key: key.is_some(),
        };
        let (sender, receiver) = mpsc::channel(FRAMES_MAX);
        tracing::info!(position = head.position, with_unit_key, "a backup is streamed");
        tokio::spawn(stream(Arc::clone(&host), state, head, key, sender, permit));
        Ok(Response::new(until_end(&self.0, ReceiverStream::new(receiver))))
    }

    async fn record_backup(
        &self,
        request: Request<RecordBackupRequest>,
    ) -> Result<Response<BackupRecord>, Status> {
        let (from, request) = sent(request);
        let backup = noted(required(request.backup, "backup")?);
        let command = entry::Command::NoteBackup(log::NoteBackup { backup: Some(backup) });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, |state, _| state.last_backup().cloned()).await.map(Response::new)
    }
}

/// The cluster's unit key, where it may be told.
fn unit_key(host: &Host) -> Result<Vec<u8>, Status> {
    if !host.answers_in_secret() {
        return Err(refusal::not_now(
            "with_unit_key: this node is reached beyond its machine in plain text, and the unit key would be, too: give it certificates \
             (tls.cert, tls.key), or leave the key out and copy unit.key by a way that is secret (restore --unit-key)",
        ));
    }
    // Also says why, where the key is another's or not there.
    host.unit_key()?;
    let bytes = host
        .keys
        .bytes()
        .map_err(|error| refusal::not_now(format!("the unit key cannot be read: {error}")))?;
    let bytes = bytes.ok_or_else(|| refusal::not_now("this node does not hand its unit key out"))?;
    Ok(bytes.to_vec())
}

/// Sends every frame, as fast as they are taken.
async fn stream(
    host: Arc<Host>,
    state: Arc<State>,
    head: BackupHead,
    key: Option<Vec<u8>>,
    sender: mpsc::Sender<Result<BackupFrame, Status>>,
    permit: OwnedSemaphorePermit,
) {
    let mut sum = Sum::default();
    let send = async |frame: Frame, sum: &mut Sum| {
        let frame = BackupFrame { frame: Some(frame) };
        sum.add(&encoded(&frame));
        sender.send(Ok(frame)).await.is_ok()
    };
    if !send(Frame::Head(head), &mut sum).await {
        return;
    }
    let Some(mut cutter) = beside(&host, move || Cutter::new(state)).await else { return };
    loop {
        let cut = beside(&host, move || {
            let piece = cutter.piece();
            (cutter, piece)
        });
        // A stream that ends without its tail is no backup, and its reader says so.
        let Some((back, piece)) = cut.await else { return };
        cutter = back;
        let Some(piece) = piece else { break };
        if !send(Frame::Piece(piece), &mut sum).await {
            return;
        }
    }
    if let Some(key) = key
        && !send(Frame::UnitKey(key), &mut sum).await
    {
        return;
    }
    let (bytes, pieces, digest) = cutter.finish();
    let tail = BackupTail { bytes, pieces, digest, sha256: sum.finish() };
    let _ = sender.send(Ok(BackupFrame { frame: Some(Frame::Tail(tail)) })).await;
    drop(permit);
}

/// Off the event loop; beside other heavy work, for a piece of it is short.
async fn beside<T: Send + 'static>(host: &Host, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    host.compute.run(Box::new(move || drop(sender.send(work())))).await;
    receiver.await.ok()
}
