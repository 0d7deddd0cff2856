//! `budget get|set`: how much the ledgers of experiments may hold, on every node alike.

use clap::{Args, Subcommand};
use featureops_proto::v1;

use super::failure::Failure;
use super::page::{Cell, Page, Tone};
use super::render::{count_text, share_text};
use super::session::{Session, WriteArgs, rehearsed};
use crate::rpc::administration_service_client::AdministrationServiceClient;

#[derive(Debug, Subcommand)]
pub enum BudgetCommand {
    /// Show the budgets, and what is held.
    Get,
    /// Set budgets; what is not named stays as it is.
    #[command(after_help = "Example: room for more units, where there is the memory (15 bytes each)
  featureops budget set --experiment-units 33554432 --units 134217728")]
    Set {
        #[command(flatten)]
        budgets: BudgetArgs,
        /// Let units leave, for good, where more are held than the new budget allows; the answer names whose, with --dry-run before it.
        #[arg(long)]
        thin: bool,
        #[command(flatten)]
        request: WriteArgs,
    },
}

/// 0 is the starting value.
#[derive(Debug, Args)]
pub struct BudgetArgs {
    /// Exposed units of one experiment; when full, it counts half of the hash space that it counted.
    #[arg(long, value_name = "COUNT")]
    experiment_units: Option<u64>,
    /// Exposed units over all experiments; when full, the one with most gives way so.
    #[arg(long, value_name = "COUNT")]
    units: Option<u64>,
    /// Sums of single units of one experiment; beyond it they are folded into hash clusters.
    #[arg(long, value_name = "COUNT")]
    experiment_sums: Option<u64>,
    /// Sums of single units over all experiments; beyond it those of the one with most are folded.
    #[arg(long, value_name = "COUNT")]
    sums: Option<u64>,
    /// Units of one experiment that changed arms; when full, as --experiment-units.
    #[arg(long, value_name = "COUNT")]
    experiment_crossed: Option<u64>,
    /// Units' sums of metrics with a cap, of one experiment; when full, as --experiment-units.
    #[arg(long, value_name = "COUNT")]
    experiment_capped: Option<u64>,
}

impl BudgetArgs {
    fn over(&self, set: v1::Budgets) -> v1::Budgets {
        v1::Budgets {
            experiment_units: self.experiment_units.unwrap_or(set.experiment_units),
            units: self.units.unwrap_or(set.units),
            experiment_sums: self.experiment_sums.unwrap_or(set.experiment_sums),
            sums: self.sums.unwrap_or(set.sums),
            experiment_crossed: self.experiment_crossed.unwrap_or(set.experiment_crossed),
            experiment_capped: self.experiment_capped.unwrap_or(set.experiment_capped),
        }
    }

    fn is_empty(&self) -> bool {
        let units = [self.experiment_units, self.units, self.experiment_crossed, self.experiment_capped];
        units.iter().chain(&[self.experiment_sums, self.sums]).all(Option::is_none)
    }
}

pub async fn run(session: &Session, command: BudgetCommand) -> Result<(), Failure> {
    match command {
        BudgetCommand::Get => {
            let status = fetch(session).await?;
            session.show(&status, |page| describe(page, &status))
        }
        BudgetCommand::Set { budgets, thin, request } => {
            if budgets.is_empty() {
                return Err(Failure::usage(
                    "nothing to set: give --experiment-units, --units, --experiment-sums, --sums, --experiment-crossed or --experiment-capped",
                ));
            }
            // Read, changed and written back under its etag: two people at once get a conflict and not a lost change.
            let now = fetch(session).await?;
            let id = request.id()?;
            let message = v1::SetBudgetsRequest {
                budgets: Some(budgets.over(now.set.unwrap_or_default())),
                request_id: id.clone(),
                etag: now.etag,
                validate_only: request.dry_run,
                thin,
            };
            let written = session
                .client
                .write(&id, message, |channel, request| async move {
                    AdministrationServiceClient::new(channel).set_budgets(request).await
                })
                .await?;
            session.show(&written, |page| {
                describe(page, &written);
                thinned(page, &written);
                rehearsed(page, &request);
            })
        }
    }
}

async fn fetch(session: &Session) -> Result<v1::BudgetsStatus, Failure> {
    session
        .client
        .read(v1::GetBudgetsRequest {}, |channel, request| async move {
            AdministrationServiceClient::new(channel).get_budgets(request).await
        })
        .await
}

fn describe(page: &mut Page, status: &v1::BudgetsStatus) {
    let budgets = status.budgets.unwrap_or_default();
    page.facts([
        ("units of one experiment", count_text(budgets.experiment_units)),
        ("units over all", format!("{}, {} held", count_text(budgets.units), count_text(status.units))),
        ("sums of one experiment", count_text(budgets.experiment_sums)),
        ("sums over all", format!("{}, {} held", count_text(budgets.sums), count_text(status.sums))),
        ("crossed units of one experiment", count_text(budgets.experiment_crossed)),
        ("capped sums of one experiment", count_text(budgets.experiment_capped)),
    ]);
}

/// Whom units left, or would.
fn thinned(page: &mut Page, status: &v1::BudgetsStatus) {
    if status.thinned.is_empty() {
        return;
    }
    page.heading("Units that leave for good");
    let row = |one: &v1::ThinnedExperiment| {
        vec![
            Cell::new(&one.name),
            Cell::number(count_text(one.units)),
            Cell::number(share_text((one.kept * 10_000.0).round() as u32)),
        ]
    };
    page.table(&["EXPERIMENT", "UNITS", "STILL COUNTED"], status.thinned.iter().map(row).collect(), "");
    let more = (status.thinned_count as usize).saturating_sub(status.thinned.len());
    if more > 0 {
        page.line(Tone::Warn, format!("and of {more} experiments more"));
    }
}
