//! `unit erase`.

use clap::Subcommand;
use featureops_proto::v1;

use super::failure::Failure;
use super::page::Tone;
use super::render::count_text;
use super::session::{Session, WriteArgs, verb};
use crate::rpc::ledger_service_client::LedgerServiceClient;

#[derive(Debug, Subcommand)]
pub enum UnitCommand {
    /// Erase a unit: out of experiments, samples and segments' lists. Takes a person.
    #[command(
        after_help = "Its rows, sums, marks and waiting outcomes go, and the experiments' moments become what they would be \
had it never been seen. The audit tells that a unit was erased, not which. A new exposure of it begins afresh: change \
the services that report it first.

Examples:
  featureops unit erase --key user-17 --dry-run
  featureops unit erase --key user-17 --all-environments"
    )]
    Erase {
        /// The unit's key, as services send it.
        #[arg(long)]
        key: String,
        /// In every environment, not only in the one of --environment.
        #[arg(long)]
        all_environments: bool,
        #[command(flatten)]
        write: WriteArgs,
    },
}

pub async fn run(session: &Session, command: UnitCommand) -> Result<(), Failure> {
    let UnitCommand::Erase { key, all_environments, write } = command;
    let id = write.id()?;
    let request = v1::EraseUnitRequest {
        parent: if all_environments { "environments/-".to_owned() } else { session.parent() },
        unit: key,
        request_id: id.clone(),
        validate_only: write.dry_run,
    };
    let erased = session
        .client
        .write(&id, request, |channel, request| async move {
            LedgerServiceClient::new(channel).erase_unit(request).await
        })
        .await?;
    session.show(&erased, |page| {
        let verb = verb(write.dry_run, "erased", "would erase");
        if erased.experiments + erased.waiting + erased.segments == 0 {
            page.line(Tone::Warn, "nothing was held of this unit: is it spelt as services send it?");
        } else {
            page.line(Tone::Good, format!("{verb} the unit, at position {}", erased.position));
        }
        let some = |count: u32| if count == 0 { "none".to_owned() } else { count_text(u64::from(count)) };
        page.facts([
            ("experiments", some(erased.experiments)),
            ("arms it was in", some(erased.stays)),
            ("sums", some(erased.sums)),
            ("fresh marks", some(erased.marks)),
            ("sampled", some(erased.sampled)),
            ("waiting outcomes", some(erased.waiting)),
            ("segments", some(erased.segments)),
        ]);
        page.heading("What stays");
        for stays in &erased.stays_until {
            page.line(Tone::Plain, format!("- {stays}"));
        }
    })
}
