//! `audit tail|list|verify|export`: the hash-linked record of every command, refused ones too.

mod export;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use featureops_proto::v1;

use super::failure::{Exit, Failure};
use super::listing::{listed, parse_limit};
use super::page::{Cell, Tone};
use super::render::count_text;
use super::session::{Session, principal_text};
use super::span::moment_text;
use crate::rpc::administration_service_client::AdministrationServiceClient;

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Follow the records as they are made, until interrupted.
    Tail {
        /// The first number wanted [default: only new ones].
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        from: u64,
        /// Said for those who are used to say it: it follows anyway.
        #[arg(long)]
        follow: bool,
    },
    /// List records, newest first.
    List {
        #[arg(long, default_value_t = 50, value_parser = parse_limit)]
        limit: usize,
    },
    /// Recompute the hash chain: of the records that the node keeps or, of an export, of those in the file; then no node is asked.
    Verify {
        /// An export; - for standard input.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// The head that the export must end with, as 'audit verify' or 'audit export' printed it.
        #[arg(long, value_name = "HASH", requires = "file")]
        head: Option<String>,
    },
    /// Write every kept record, oldest first, with position and hash, as JSON lines or CSV.
    #[command(after_help = "Example:
  featureops audit export audit.jsonl
  featureops audit verify audit.jsonl --head HASH")]
    Export(export::ExportArgs),
}

const HEADINGS: [&str; 7] = ["NUMBER", "TIME", "BY", "ACTION", "RESOURCE", "REFUSED", "DETAIL"];

pub async fn run(session: &Session, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Tail { from, follow: _ } => tail(session, from).await,
        AuditCommand::List { limit } => list(session, limit).await,
        AuditCommand::Verify { file: None, .. } => verify(session).await,
        AuditCommand::Verify { file: Some(file), head } => export::verify(session, &file, head.as_deref()),
        AuditCommand::Export(args) => export::export(session, args).await,
    }
}

/// Who, and whether a token or the node itself stands for it.
fn caller_text(record: &v1::AuditRecord) -> String {
    let name = principal_text(record.principal.as_ref());
    match &record.principal {
        Some(principal) if !principal.verified => format!("{name} (unverified)"),
        _ => name,
    }
}

fn row(record: &v1::AuditRecord) -> Vec<Cell> {
    vec![
        Cell::number(record.number.to_string()),
        Cell::new(moment_text(record.time.as_ref())),
        Cell::new(caller_text(record)),
        Cell::new(&record.action),
        Cell::new(&record.resource),
        Cell::new(record.refused.to_lowercase()).tone(Tone::Warn),
        Cell::new(&record.detail),
    ]
}

async fn tail(session: &Session, from: u64) -> Result<(), Failure> {
    let mut stream = session
        .client
        .stream(v1::TailAuditRequest { from }, |channel, request| async move {
            AdministrationServiceClient::new(channel).tail_audit(request).await
        })
        .await?;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            message = stream.message() => match message {
                // A line each: a stream has no columns to align, as the next record's widths are not known.
                Ok(Some(record)) => session.show_next(&record, |page| {
                    let mut line = format!(
                        "{:>6}  {}  {}  {}  {}",
                        record.number,
                        moment_text(record.time.as_ref()),
                        caller_text(&record),
                        record.action,
                        record.resource,
                    );
                    if !record.detail.is_empty() {
                        let _ = write!(line, "  {}", record.detail);
                    }
                    if !record.refused.is_empty() {
                        let _ = write!(line, "  refused: {}", record.refused.to_lowercase());
                    }
                    page.line(if record.refused.is_empty() { Tone::Plain } else { Tone::Warn }, line);
                })?,
                Ok(None) => return Ok(()),
                Err(status) => return Err(session.client.stream_failure(&status)),
            },
        }
    }
}

async fn list(session: &Session, limit: usize) -> Result<(), Failure> {
    let all = listed(limit, 500, async |page_size, page_token| {
        let request = v1::ListAuditRequest { page_size, page_token };
        let act = |channel, request| async move {
            AdministrationServiceClient::new(channel).list_audit(request).await
        };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| page.table(&HEADINGS, all.records.iter().map(row).collect(), "no records yet"))
}

async fn verify(session: &Session) -> Result<(), Failure> {
    let answer = session
        .client
        .read(v1::VerifyAuditRequest {}, |channel, request| async move {
            AdministrationServiceClient::new(channel).verify_audit(request).await
        })
        .await?;
    let mut head = String::new();
    for byte in &answer.head {
        let _ = write!(head, "{byte:02x}");
    }
    session.show(&answer, |page| {
        if answer.intact {
            page.line(
                Tone::Good,
                format!("intact: records {} to {}", count_text(answer.first), count_text(answer.last)),
            );
        } else {
            page.line(Tone::Bad, format!("broken: {}", answer.fault));
        }
        page.facts([("head", head)]);
    })?;
    if answer.intact {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, format!("the audit chain is broken: {}", answer.fault)).note(
        "records were changed outside the log, or storage is damaged; keep a copy of the data directory",
    ))
}
