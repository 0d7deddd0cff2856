//! `environment promote`: flags of one environment, as another one is to have them.

use clap::Args;
use featureops_proto::v1;

use super::name;
use crate::cli::failure::Failure;
use crate::cli::page::{Cell, Page, Tone};
use crate::cli::render::key_of;
use crate::cli::session::{Session, WriteArgs, verb};
use crate::rpc::environment_service_client::EnvironmentServiceClient;

#[derive(Debug, Args)]
#[command(
    after_help = "Copied are definitions: variants, rules, targeting, prerequisites, and what describes a flag. Not copied are
forced units, trips, experiments and autonomy. It is one change: all of it takes effect, or none.

Examples:
  featureops environment promote --from dev --to prod --dry-run
  featureops environment promote --from dev --to prod --flag checkout --flag new-cart
  featureops environment promote --from dev --to prod --prune"
)]
pub struct PromoteArgs {
    /// The environment whose flags are taken.
    #[arg(long, value_name = "ID")]
    from: String,
    /// The environment that they are written into.
    #[arg(long, value_name = "ID")]
    to: String,
    /// Only this flag. Repeatable. [default: every flag that is not archived]
    #[arg(long, value_name = "ID")]
    flag: Vec<String>,
    /// Archive flags that the first environment does not hold, unless something holds them.
    #[arg(long, conflicts_with = "flag")]
    prune: bool,
    #[command(flatten)]
    write: WriteArgs,
}

pub(super) async fn promote(session: &Session, args: PromoteArgs) -> Result<(), Failure> {
    let id = args.write.request.id()?;
    let request = v1::PromoteFlagsRequest {
        from: name(session, Some(&args.from))?,
        to: name(session, Some(&args.to))?,
        flags: args.flag,
        prune: args.prune,
        request_id: id.clone(),
        validate_only: args.write.dry_run,
    };
    let to = request.to.clone();
    let done = session
        .client
        .write(&id, request, |channel, request| async move {
            EnvironmentServiceClient::new(channel).promote_flags(request).await
        })
        .await?;
    session.show(&done, |page| describe(page, &done, key_of(&to), args.write.dry_run))
}

fn describe(page: &mut Page, done: &v1::PromoteFlagsResponse, to: &str, dry: bool) {
    let (changed, archived, unchanged) = (done.changed_count, done.archived_count, done.unchanged);
    let verb = verb(dry, "changed", "would change");
    page.line(
        Tone::Good,
        format!("{verb} {changed} flags of {to}; {archived} archived, {unchanged} as they are"),
    );
    let differences = done.differences.iter().map(|difference| {
        let what = if difference.created { "new".to_owned() } else { difference.fields.join(", ") };
        vec![Cell::new(&difference.flag), Cell::new(what)]
    });
    let archived = done.archived.iter().map(|id| vec![Cell::new(id), Cell::new("archived")]);
    let kept = done
        .kept
        .iter()
        .map(|id| vec![Cell::new(id), Cell::new("kept: a trip, an experiment or a flag holds it")]);
    let rows: Vec<_> = differences.chain(archived).chain(kept).collect();
    page.table(&["FLAG", "DIFFERENCE"], rows, "nothing differs");
}
