//! `trip` and `resume`: the safe variant for everybody, and the way back. Both need a reason, which the audit keeps.

use clap::Args;
use featureops_proto::Collection::Flags;
use featureops_proto::v1;

use super::failure::Failure;
use super::page::Tone;
use super::render::key_of;
use super::session::{Session, WriteArgs, verb};
use crate::rpc::administration_service_client::AdministrationServiceClient;

#[derive(Debug, Args)]
pub struct TripArgs {
    /// The flag's key.
    key: String,
    /// Why; the audit keeps it.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn trip(session: &Session, args: TripArgs) -> Result<(), Failure> {
    let id = args.write.id()?;
    let request = v1::TripFlagRequest {
        name: session.name(Flags, &args.key)?,
        reason: args.reason,
        request_id: id.clone(),
        validate_only: args.write.dry_run,
    };
    let flag = session
        .client
        .write(&id, request, |channel, request| async move {
            AdministrationServiceClient::new(channel).trip_flag(request).await
        })
        .await?;
    session.show(&flag, |page| {
        let safe = flag.safe_variant.as_deref().unwrap_or("the caller's code default");
        let verb = verb(args.write.dry_run, "tripped", "would trip");
        page.line(Tone::Bad, format!("{verb} flag {}: everybody gets {safe}", key_of(&flag.name)));
        page.line(Tone::Plain, format!("resume with: featureops resume {} --reason ...", key_of(&flag.name)));
    })
}

pub async fn resume(session: &Session, args: TripArgs) -> Result<(), Failure> {
    let id = args.write.id()?;
    let request = v1::ResumeFlagRequest {
        name: session.name(Flags, &args.key)?,
        reason: args.reason,
        request_id: id.clone(),
        validate_only: args.write.dry_run,
    };
    let flag = session
        .client
        .write(&id, request, |channel, request| async move {
            AdministrationServiceClient::new(channel).resume_flag(request).await
        })
        .await?;
    session.show(&flag, |page| {
        let verb = verb(args.write.dry_run, "resumed", "would resume");
        page.line(Tone::Good, format!("{verb} flag {}, version {}", key_of(&flag.name), flag.flag_version));
    })
}
