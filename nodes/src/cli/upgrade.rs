//! `upgrade ...`: which release each member runs, what is to be done next, and the cluster's feature level.

use clap::Subcommand;
use featureops_proto::v1;

use super::failure::Failure;
use super::page::{Cell, Page, Tone};
use super::render::word_of;
use super::session::{Session, WriteArgs, rehearsed};
use crate::rpc::upgrade_service_client::UpgradeServiceClient;

#[derive(Debug, Subcommand)]
pub enum UpgradeCommand {
    /// Ask every member for its release and feature level, and print what is to be done, in order.
    #[command(
        after_help = "A rolling upgrade: learners, then voters, the leader last, one at a time; then the level.
  featureops upgrade plan                 # repeated after each step
  featureops upgrade raise --to 2 --dry-run
  featureops upgrade raise --to 2"
    )]
    Plan,
    /// Raise the cluster's feature level: from then on the log may hold what it brings. There is no way back.
    Raise {
        /// The level; each member must know it.
        #[arg(long, value_name = "LEVEL")]
        to: u32,
        #[command(flatten)]
        request: WriteArgs,
    },
}

pub async fn run(session: &Session, command: UpgradeCommand) -> Result<(), Failure> {
    match command {
        UpgradeCommand::Plan => {
            let plan = session
                .client
                .read(v1::GetUpgradePlanRequest {}, |channel, request| async move {
                    UpgradeServiceClient::new(channel).get_upgrade_plan(request).await
                })
                .await?;
            session.show(&plan, |page| describe(page, &plan))
        }
        UpgradeCommand::Raise { to, request } => {
            let request_id = request.id()?;
            let message = v1::RaiseLevelRequest {
                feature_level: to,
                request_id: request_id.clone(),
                validate_only: request.dry_run,
            };
            let plan = session
                .client
                .write(&request_id, message, |channel, request| async move {
                    UpgradeServiceClient::new(channel).raise_level(request).await
                })
                .await?;
            session.show(&plan, |page| {
                describe(page, &plan);
                rehearsed(page, &request);
            })
        }
    }
}

fn describe(page: &mut Page, plan: &v1::UpgradePlan) {
    let known = match plan.feature_level_max {
        0 => "not known while a member is not heard".to_owned(),
        level => level.to_string(),
    };
    page.facts([("feature level", plan.feature_level.to_string()), ("every member knows", known)]);
    for level in plan.levels.iter().filter(|level| level.feature_level > plan.feature_level) {
        page.line(Tone::Plain, format!("level {} brings {}", level.feature_level, level.brings));
    }
    let rows = plan.members.iter().map(|member| {
        let level = if member.feature_level == 0 { "-".to_owned() } else { member.feature_level.to_string() };
        vec![
            Cell::new(member.node.to_string()),
            Cell::new(word_of(member.role().as_str_name(), "ROLE_")),
            Cell::new(if member.release.is_empty() { "-" } else { &member.release }),
            Cell::new(level),
            Cell::new(&member.fault).tone(Tone::Bad),
        ]
    });
    page.table(
        &["NODE", "ROLE", "RELEASE", "KNOWS LEVEL", "FAULT"],
        rows.collect(),
        "the node is in no cluster",
    );
    page.heading("Next");
    if plan.steps.is_empty() {
        page.line(Tone::Good, "nothing: every member runs the same release, at the highest level it knows");
    }
    for (number, step) in plan.steps.iter().enumerate() {
        page.line(Tone::Plain, format!("{}. {step}", number + 1));
    }
}
