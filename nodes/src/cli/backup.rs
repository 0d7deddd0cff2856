//! `backup ...` and `restore`: a cluster's state into a file, and a file into a new cluster.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use featureops_cluster::Environment;
use featureops_proto::v1::{
    self, BackupFrame, BackupHead, BackupManifest, BackupManifests, backup_frame::Frame,
};
use prost::Message as _;

use super::failure::{Exit, Failure};
use super::page::{Cell, Page, Tone};
use super::render::count_text;
use super::session::{RequestArgs, Session, progress};
use super::signals::Signals;
use super::span::moment_text;
use crate::backup::file::{Draft, check, peek};
use crate::backup::restore::{Order, restore};
use crate::backup::{Sum, hex};
use crate::rpc::backup_service_client::BackupServiceClient;

/// How a backup's name ends.
const ENDING: &str = "fobackup";
/// Files of a folder that are listed.
const LISTED_MAX: usize = 10_000;

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Write the cluster's state, as it is now, into a file (mode 0600), while the cluster goes on.
    #[command(
        after_help = "A backup holds secrets: the keys that seal receipts, and hashes of tokens. The unit key, by which keys of
units are hashed, is in it only with --with-unit-key; without it a restore needs --unit-key FILE.
  featureops backup create /backups       # names the file itself
  featureops backup verify /backups/NAME.fobackup
  featureops restore /backups/NAME.fobackup --data ./new --unit-key unit.key"
    )]
    Create {
        /// A folder, in which the file is named by cluster and position, or the file itself; one that is there is never replaced.
        #[arg(value_name = "FOLDER|FILE")]
        to: PathBuf,
        /// Also the unit key: whoever has the file and a list of people can then tell who is counted in it.
        #[arg(long)]
        with_unit_key: bool,
        /// The state as the asked node has it, though it may hear no leader.
        #[arg(long)]
        local: bool,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Check a whole file against its checksums and its digest. No server is asked.
    Verify {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List the backups in a folder, oldest first. Their middles are not read without --verify.
    List {
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
        /// Read every file whole, as `backup verify` does; fails if one of them is not whole.
        #[arg(long)]
        verify: bool,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "The new cluster has one node and an id of its own; the nodes of the one before and its own never mix. Flags,
experiments, counts, tokens and the audit are those of the backup's position; experiments get new owners; schedules whose
time has passed run as after a long stop. Receipts of the cluster before count if they were given up to that position.
  featureops restore NAME.fobackup --data ./new
  featureops serve --data ./new"
)]
pub struct RestoreArgs {
    /// The backup.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The new cluster's data folder: empty, or not there.
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// The number of its first node.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_535))]
    node: u64,
    /// unit.key of a node of the cluster before, for a backup without it.
    #[arg(long, value_name = "FILE")]
    unit_key: Option<PathBuf>,
}

pub async fn run(session: &Session, command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::Create { to, with_unit_key, local, request } => {
            // With their handlers a file that may not grow is an error, and an interrupt leaves no half file.
            let mut signals = Signals::install()?;
            tokio::select! {
                created = create(session, &to, with_unit_key, local, &request) => created,
                () = signals.next() => Err(refused("interrupted: nothing was kept".to_owned())),
            }
        }
        BackupCommand::Verify { file } => {
            let manifest = check(&file, &mut |_| Ok(())).map_err(refused)?;
            session.show(&manifest, |page| {
                page.line(Tone::Good, format!("{} is whole", manifest.file));
                describe(page, &manifest);
            })
        }
        BackupCommand::List { folder, verify } => list(session, &folder, verify),
    }
}

fn refused(why: String) -> Failure {
    Failure::new(Exit::Refused, why)
}

async fn create(
    session: &Session,
    to: &Path,
    with_unit_key: bool,
    local: bool,
    request: &RequestArgs,
) -> Result<(), Failure> {
    let request_id = request.id()?;
    let asked = v1::StreamBackupRequest { with_unit_key, local };
    let mut frames = session
        .client
        .stream(asked, |channel, request| async move {
            BackupServiceClient::new(channel).stream_backup(request).await
        })
        .await?;
    let ended = || {
        refused(
            "the node ended the stream before the backup was whole: see its log, and try again".to_owned(),
        )
    };
    let mut next = async || match frames.message().await {
        Ok(frame) => frame.ok_or_else(ended),
        Err(status) => Err(session.client.stream_failure(&status)),
    };
    let first = next().await?;
    let Some(Frame::Head(head)) = first.frame.clone() else { return Err(ended()) };
    let path = if to.is_dir() { to.join(name_of(&head)) } else { to.to_owned() };
    let written = |error: std::io::Error| refused(format!("'{}' cannot be written: {error}", path.display()));
    let mut draft = Draft::begin(&path).map_err(written)?;
    let mut sum = Sum::default();
    let mut frame: BackupFrame = first;
    loop {
        draft.add(&frame).map_err(written)?;
        if let Some(Frame::Tail(tail)) = &frame.frame {
            if tail.sha256 != sum.finish() {
                return Err(refused(
                    "what came is not what the node sent: nothing was kept, try again".to_owned(),
                ));
            }
            break;
        }
        sum.add(&frame.encode_to_vec());
        frame = next().await?;
    }
    let manifest = draft.finish().map_err(refused)?;
    note(session, &manifest, &request_id).await;
    if with_unit_key {
        progress(
            "THIS FILE HOLDS THE UNIT KEY: whoever has it and a list of people can tell who is counted in it. Keep it as you keep unit.key.",
        );
    }
    session.show(&manifest, |page| {
        page.line(Tone::Good, format!("written to {}", manifest.file));
        describe(page, &manifest);
    })
}

/// Notes it in the log; a backup that is not noted is one all the same.
async fn note(session: &Session, manifest: &BackupManifest, request_id: &str) {
    let (head, tail) = (manifest.head.clone().unwrap_or_default(), manifest.tail.clone().unwrap_or_default());
    let backup = v1::BackupRecord {
        position: head.position,
        bytes: manifest.file_bytes,
        digest: tail.digest,
        sha256: tail.sha256,
        ..v1::BackupRecord::default()
    };
    let message = v1::RecordBackupRequest {
        backup: Some(backup),
        request_id: request_id.to_owned(),
        validate_only: false,
    };
    let noted = session.client.write(request_id, message, |channel, request| async move {
        BackupServiceClient::new(channel).record_backup(request).await
    });
    if let Err(failure) = noted.await {
        progress(&format!("the backup is whole; the cluster has no note of it: {}", failure.message));
    }
}

/// `featureops-CLUSTER-pPOSITION.fobackup`: in a folder of one cluster's backups, by rising positions.
fn name_of(head: &BackupHead) -> String {
    let cluster: String = head.cluster.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    format!("featureops-{cluster}-p{:012x}.{ENDING}", head.position)
}

fn describe(page: &mut Page, manifest: &BackupManifest) {
    let (head, tail) = (manifest.head.clone().unwrap_or_default(), manifest.tail.clone().unwrap_or_default());
    page.facts([
        ("cluster", head.cluster),
        ("position", count_text(head.position)),
        ("log time", moment_text(head.log_time.as_ref())),
        (
            "made",
            format!(
                "{} by node {}, release {}",
                moment_text(head.create_time.as_ref()),
                head.node,
                head.release
            ),
        ),
        ("feature level", head.feature_level.to_string()),
        (
            "size",
            format!("{} bytes, {} of the state", count_text(manifest.file_bytes), count_text(tail.bytes)),
        ),
        (
            "unit key",
            match head.has_unit_key {
                true => format!("in it, id {:016x}", head.unit_key_id),
                false => format!("not in it (id {:016x}): a restore takes --unit-key FILE", head.unit_key_id),
            },
        ),
        ("digest", format!("{:016x}", tail.digest)),
        ("sha256", hex(&tail.sha256)),
    ]);
}

fn list(session: &Session, folder: &Path, verify: bool) -> Result<(), Failure> {
    let said =
        |error: std::io::Error| Failure::usage(format!("'{}' cannot be read: {error}", folder.display()));
    let mut backups = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(said)? {
        let path = entry.map_err(said)?.path();
        if path.extension().is_none_or(|ending| ending != ENDING) {
            continue;
        }
        if backups.len() == LISTED_MAX {
            return Err(Failure::usage(format!(
                "'{}' holds more than {LISTED_MAX} backups",
                folder.display()
            )));
        }
        let file = path.display().to_string();
        let read = if verify { check(&path, &mut |_| Ok(())) } else { peek(&path) };
        backups.push(read.unwrap_or_else(|fault| BackupManifest {
            file,
            fault,
            ..BackupManifest::default()
        }));
    }
    let place = |manifest: &BackupManifest| {
        let head = manifest.head.clone().unwrap_or_default();
        (head.cluster, head.position, manifest.file.clone())
    };
    backups.sort_by_key(place);
    let all = BackupManifests { backups };
    session.show(&all, |page| {
        let rows = all.backups.iter().map(|manifest| {
            let head = manifest.head.clone().unwrap_or_default();
            vec![
                Cell::new(&manifest.file),
                Cell::new(&head.cluster),
                Cell::number(count_text(head.position)),
                Cell::new(moment_text(head.log_time.as_ref())),
                Cell::new(&head.release),
                Cell::number(count_text(manifest.file_bytes)),
                Cell::new(&manifest.fault).tone(Tone::Bad),
            ]
        });
        let heads = ["FILE", "CLUSTER", "POSITION", "LOG TIME", "RELEASE", "BYTES", "FAULT"];
        page.table(&heads, rows.collect(), "no backups");
    })?;
    match all.backups.iter().filter(|manifest| !manifest.fault.is_empty()).count() {
        bad if verify && bad > 0 => {
            Err(refused(format!("{bad} of {} backups are not whole: see FAULT", all.backups.len())))
        }
        _ => Ok(()),
    }
}

pub async fn run_restore(session: &Session, args: RestoreArgs) -> Result<(), Failure> {
    let RestoreArgs { file, data, node, unit_key } = args;
    let environment = Environment::production(&data);
    let address = format!("127.0.0.1:{}", crate::config::PORT);
    let order = Order { file, folder: data.clone(), node, address, unit_key };
    let mut signals = Signals::install()?;
    let restored = tokio::select! {
        restored = restore(&environment, order) => restored.map_err(refused)?,
        () = signals.next() => {
            return Err(refused(format!("interrupted: '{}' may be half restored; run it again", data.display())));
        }
    };
    let (head, tail) = (
        restored.manifest.head.clone().unwrap_or_default(),
        restored.manifest.tail.clone().unwrap_or_default(),
    );
    let value = serde_json::json!({
        "cluster": restored.cluster,
        "position": restored.position,
        "fromCluster": head.cluster,
        "fromPosition": head.position,
        "digest": format!("{:016x}", tail.digest),
        "data": data.display().to_string(),
        "node": node,
    });
    session.show_value(&value, |page| {
        page.line(Tone::Good, format!("cluster {} begins in {}", restored.cluster, data.display()));
        page.facts([
            ("from", format!("cluster {}, position {}", head.cluster, count_text(head.position))),
            ("log time", moment_text(head.log_time.as_ref())),
            ("digest", format!("{:016x}, as the backup says", tail.digest)),
            ("tokens", "those of the cluster before".to_owned()),
            (
                "receipts",
                format!(
                    "of the cluster before count if they were given up to position {}",
                    count_text(head.position)
                ),
            ),
        ]);
        let number = if node == 1 { String::new() } else { format!(" --node {node}") };
        page.line(Tone::Plain, format!("start it: featureops serve --data {}{number}", data.display()));
    })
}
