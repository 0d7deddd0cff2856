//! `alarm`: what an outside monitor runs when it sees harm. The flag trips if its protection level allows, else a
//! decision waits for a person.

use clap::Args;
use featureops_proto::Collection::Flags;
use featureops_proto::v1;

use super::failure::Failure;
use super::page::Tone;
use super::render::key_of;
use super::session::{Session, WriteArgs};
use crate::rpc::administration_service_client::AdministrationServiceClient;

#[derive(Debug, Args)]
pub struct AlarmArgs {
    /// The flag's key.
    key: String,
    /// The monitor that raises it.
    #[arg(long)]
    source: String,
    /// What it saw.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(session: &Session, args: AlarmArgs) -> Result<(), Failure> {
    let id = args.write.id()?;
    let request = v1::RaiseAlarmRequest {
        name: session.name(Flags, &args.key)?,
        source: args.source,
        reason: args.reason,
        request_id: id.clone(),
        validate_only: args.write.dry_run,
    };
    let answer = session
        .client
        .write(&id, request, |channel, request| async move {
            AdministrationServiceClient::new(channel).raise_alarm(request).await
        })
        .await?;
    session.show(&answer, |page| {
        let number = key_of(&answer.decision);
        if args.write.dry_run {
            let what = if answer.tripped { "trip the flag" } else { "wait for a person" };
            page.line(Tone::Good, format!("the alarm would {what}; nothing was changed"));
            return;
        }
        if answer.tripped {
            page.line(Tone::Bad, format!("tripped flag {} by decision {number}", args.key));
        } else {
            page.line(
                Tone::Warn,
                format!("decision {number} waits for a person: the protection level does not allow a trip"),
            );
            page.line(Tone::Plain, format!("approve with: featureops decision approve {number}"));
        }
        page.line(Tone::Plain, format!("read it with: featureops decision show {number}"));
    })
}
