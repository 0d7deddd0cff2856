//! `layer get|list|set|delete`, `holdout get|list|set|delete`, and an experiment's place among them.

use clap::{Args, Subcommand};
use featureops_proto::Collection::{Experiments, Holdouts, Layers};
use featureops_proto::v1;

use super::experiment::ChangeArgs;
use super::failure::{Failure, present};
use super::listing::{MAX_LISTED, listed};
use super::page::{Cell, Page, Tone};
use super::render::{basis_points_of_percent, key_of, share_text};
use super::session::{Session, verb};
use crate::rpc::experiment_service_client::ExperimentServiceClient;
use crate::rpc::layer_service_client::LayerServiceClient;

#[derive(Debug, Subcommand)]
pub enum LayerCommand {
    /// Show a layer: which experiments have how much of it.
    Get { key: String },
    /// List the environment's layers.
    List,
    /// Create a layer, or change its description.
    #[command(after_help = "Example: two experiments that never share a visitor
  featureops layer set checkout-page
  featureops experiment create button --layer checkout-page --layer-share 30% --flag button ...
  featureops experiment create prices --layer checkout-page --layer-share 50% --flag prices ...")]
    Set {
        key: String,
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Delete a layer that no experiment names any more.
    Delete {
        key: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

#[derive(Debug, Subcommand)]
pub enum HoldoutCommand {
    /// Show a holdout: how many it holds, out of which experiments.
    Get { key: String },
    /// List the environment's holdouts.
    List,
    /// Create a holdout, or change it; what is not named stays as it is. While experiments use it, it only grows.
    #[command(after_help = "Examples:
  featureops holdout set q3 --share 5% --everywhere true
  featureops holdout set prices --share 200             # basis points: 2 %, for experiments that name it
  featureops experiment create button --holdout prices ...")]
    Set {
        key: String,
        /// How many units it holds, in basis points or percent, as 500 or 5%.
        #[arg(long, value_parser = parse_share)]
        share: Option<u32>,
        /// Out of all experiments of the environment, not only of those that name it.
        #[arg(long, value_name = "BOOLEAN")]
        everywhere: Option<bool>,
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Delete a holdout that no experiment uses any more.
    Delete {
        key: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// Who may be in an experiment.
#[derive(Debug, Args)]
pub struct PlacementArgs {
    /// A layer: experiments in one layer never share a unit.
    #[arg(long, requires = "layer_share")]
    pub layer: Option<String>,
    /// How much of the layer the start takes, in basis points or percent, as 3000 or 30%.
    #[arg(long, value_name = "SHARE", requires = "layer", value_parser = parse_share)]
    pub layer_share: Option<u32>,
    /// A holdout: whom it holds is in no arm, besides whom holdouts hold that are everywhere. Repeatable.
    #[arg(long)]
    pub holdout: Vec<String>,
}

/// `30%` or `3000`.
pub fn parse_share(text: &str) -> Result<u32, String> {
    let basis_points = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().ok().map(basis_points_of_percent),
        None => text.parse::<u32>().ok().map(f64::from),
    };
    match basis_points.filter(|share| share.fract() == 0.0 && (0.0..=10_000.0).contains(share)) {
        // In range and whole: checked just above.
        Some(share) => Ok(share as u32),
        None => Err("a share is basis points or percent, as 3000 or 30%, up to 10000 or 100%".to_owned()),
    }
}

/// `30 % of checkout-page`; empty without a layer.
pub fn layer_text(experiment: &v1::Experiment) -> String {
    if experiment.layer.is_empty() {
        return String::new();
    }
    format!("{} of {}", share_text(experiment.layer_share_basis_points), experiment.layer)
}

/// `q3 5 %` while they hold, the names before that.
pub fn holdouts_text(experiment: &v1::Experiment) -> String {
    match &experiment.allocation {
        Some(allocation) => allocation
            .holdouts
            .iter()
            .map(|share| format!("{} {}", share.holdout, share_text(share.basis_points)))
            .collect::<Vec<_>>()
            .join(", "),
        None => experiment.holdouts.join(", "),
    }
}

pub async fn run(session: &Session, command: LayerCommand) -> Result<(), Failure> {
    match command {
        LayerCommand::Get { key } => {
            let layer = fetch(session, &key).await?;
            session.show(&layer, |page| describe(page, &layer))
        }
        LayerCommand::List => list(session).await,
        LayerCommand::Set { key, description, change } => set(session, &key, description, change).await,
        LayerCommand::Delete { key, change } => {
            let (name, id) = (session.name(Layers, &key)?, change.write.request.id()?);
            let dry_run = change.write.dry_run;
            let request = v1::DeleteLayerRequest {
                name,
                request_id: id.clone(),
                validate_only: dry_run,
                etag: change.etag.unwrap_or_default(),
            };
            let act = |channel, request| async move {
                LayerServiceClient::new(channel).delete_layer(request).await
            };
            let deleted = session.client.write(&id, request, act).await?;
            session.show(&deleted, |page| {
                page.line(Tone::Good, format!("{} layer {key}", verb(dry_run, "deleted", "would delete")));
            })
        }
    }
}

/// Reads one layer.
async fn fetch(session: &Session, key: &str) -> Result<v1::Layer, Failure> {
    let request = v1::GetLayerRequest { name: session.name(Layers, key)? };
    let act = |channel, request| async move { LayerServiceClient::new(channel).get_layer(request).await };
    session.client.read(request, act).await
}

async fn list(session: &Session) -> Result<(), Failure> {
    let all = listed(MAX_LISTED, 200, async |page_size, page_token| {
        let request = v1::ListLayersRequest { parent: session.parent(), page_size, page_token };
        let act =
            |channel, request| async move { LayerServiceClient::new(channel).list_layers(request).await };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let row = |layer: &v1::Layer| {
            vec![
                Cell::new(key_of(&layer.name)),
                Cell::number(layer.occupants.len().to_string()),
                Cell::number(share_text(layer.free_basis_points)),
                Cell::new(&layer.description),
            ]
        };
        let rows = all.layers.iter().map(row).collect();
        let headings = ["LAYER", "EXPERIMENTS", "FREE", "DESCRIPTION"];
        page.table(&headings, rows, "no layers in this environment; create one with: featureops layer set");
    })
}

fn describe(page: &mut Page, layer: &v1::Layer) {
    let key = key_of(&layer.name);
    page.line(Tone::Strong, format!("{key}: {} free", share_text(layer.free_basis_points)));
    page.facts([
        ("name", layer.name.clone()),
        ("description", layer.description.clone()),
        ("etag", layer.etag.clone()),
    ]);
    page.heading("Experiments");
    let rows = layer.occupants.iter().map(|occupant| {
        let slots = occupant.slots.iter().map(|range| {
            let last = range.start.saturating_add(range.length).saturating_sub(1);
            format!("{}-{last}", range.start)
        });
        vec![
            Cell::new(key_of(&occupant.experiment)),
            Cell::number(share_text(occupant.basis_points)),
            Cell::new(slots.collect::<Vec<_>>().join(", ")),
        ]
    });
    page.table(&["EXPERIMENT", "SHARE", "SLOTS"], rows.collect(), "no experiment is in it now");
}

async fn set(
    session: &Session,
    key: &str,
    description: Option<String>,
    change: ChangeArgs,
) -> Result<(), Failure> {
    let held = present(fetch(session, key).await)?;
    // What was read is what is changed: nobody else's change is lost in between.
    let etag = change.etag.or_else(|| held.as_ref().map(|layer| layer.etag.clone())).unwrap_or_default();
    let layer = v1::Layer {
        name: session.name(Layers, key)?,
        description: description.unwrap_or_else(|| held.unwrap_or_default().description),
        ..v1::Layer::default()
    };
    let (id, dry_run) = (change.write.request.id()?, change.write.dry_run);
    let request =
        v1::SetLayerRequest { layer: Some(layer), request_id: id.clone(), validate_only: dry_run, etag };
    let act = |channel, request| async move { LayerServiceClient::new(channel).set_layer(request).await };
    let layer = session.client.write(&id, request, act).await?;
    session.show(&layer, |page| {
        let (verb, key) = (verb(dry_run, "set", "would set"), key_of(&layer.name));
        let free = share_text(layer.free_basis_points);
        page.line(Tone::Good, format!("{verb} layer {key}: {free} free, etag {}", layer.etag));
    })
}

pub async fn run_holdout(session: &Session, command: HoldoutCommand) -> Result<(), Failure> {
    match command {
        HoldoutCommand::Get { key } => {
            let holdout = fetch_holdout(session, &key).await?;
            session.show(&holdout, |page| describe_holdout(page, &holdout))
        }
        HoldoutCommand::List => list_holdouts(session).await,
        HoldoutCommand::Set { key, share, everywhere, description, change } => {
            let held = present(fetch_holdout(session, &key).await)?;
            let mut holdout = match (held, share) {
                (Some(held), _) => held,
                (None, Some(_)) => v1::Holdout { name: session.name(Holdouts, &key)?, ..Default::default() },
                (None, None) => {
                    return Err(Failure::usage(format!("there is no holdout {key} yet: say --share, as 5%")));
                }
            };
            holdout.basis_points = share.unwrap_or(holdout.basis_points);
            holdout.everywhere = everywhere.unwrap_or(holdout.everywhere);
            holdout.description = description.unwrap_or(holdout.description);
            set_holdout(session, holdout, change).await
        }
        HoldoutCommand::Delete { key, change } => {
            let (name, id) = (session.name(Holdouts, &key)?, change.write.request.id()?);
            let dry_run = change.write.dry_run;
            let request = v1::DeleteHoldoutRequest {
                name,
                request_id: id.clone(),
                validate_only: dry_run,
                etag: change.etag.unwrap_or_default(),
            };
            let act = |channel, request| async move {
                LayerServiceClient::new(channel).delete_holdout(request).await
            };
            let deleted = session.client.write(&id, request, act).await?;
            session.show(&deleted, |page| {
                page.line(Tone::Good, format!("{} holdout {key}", verb(dry_run, "deleted", "would delete")));
            })
        }
    }
}

/// Reads one holdout.
async fn fetch_holdout(session: &Session, key: &str) -> Result<v1::Holdout, Failure> {
    let request = v1::GetHoldoutRequest { name: session.name(Holdouts, key)? };
    let act = |channel, request| async move { LayerServiceClient::new(channel).get_holdout(request).await };
    session.client.read(request, act).await
}

async fn list_holdouts(session: &Session) -> Result<(), Failure> {
    let all = listed(MAX_LISTED, 200, async |page_size, page_token| {
        let request = v1::ListHoldoutsRequest { parent: session.parent(), page_size, page_token };
        let act =
            |channel, request| async move { LayerServiceClient::new(channel).list_holdouts(request).await };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let row = |holdout: &v1::Holdout| {
            vec![
                Cell::new(key_of(&holdout.name)),
                Cell::number(share_text(holdout.basis_points)),
                Cell::new(where_text(holdout)),
                Cell::number(holdout.experiments.len().to_string()),
                Cell::new(&holdout.description),
            ]
        };
        let rows = all.holdouts.iter().map(row).collect();
        let headings = ["HOLDOUT", "HOLDS", "OUT OF", "EXPERIMENTS NOW", "DESCRIPTION"];
        page.table(
            &headings,
            rows,
            "no holdouts in this environment; create one with: featureops holdout set",
        );
    })
}

const fn where_text(holdout: &v1::Holdout) -> &'static str {
    if holdout.everywhere { "all experiments" } else { "those that name it" }
}

fn describe_holdout(page: &mut Page, holdout: &v1::Holdout) {
    let (key, share) = (key_of(&holdout.name), share_text(holdout.basis_points));
    page.line(Tone::Strong, format!("{key} holds {share} of units out of experiments"));
    page.facts([
        ("name", holdout.name.clone()),
        ("out of", where_text(holdout).to_owned()),
        ("description", holdout.description.clone()),
        ("etag", holdout.etag.clone()),
    ]);
    page.heading("Experiments");
    let rows = holdout.experiments.iter().map(|name| vec![Cell::new(key_of(name))]).collect();
    page.table(&["EXPERIMENT"], rows, "no live experiment uses it");
}

async fn set_holdout(session: &Session, holdout: v1::Holdout, change: ChangeArgs) -> Result<(), Failure> {
    let etag = change.etag.unwrap_or_else(|| holdout.etag.clone());
    let (id, dry_run) = (change.write.request.id()?, change.write.dry_run);
    let request = v1::SetHoldoutRequest {
        holdout: Some(holdout),
        request_id: id.clone(),
        validate_only: dry_run,
        etag,
    };
    let act = |channel, request| async move { LayerServiceClient::new(channel).set_holdout(request).await };
    let holdout = session.client.write(&id, request, act).await?;
    session.show(&holdout, |page| {
        let (verb, key) = (verb(dry_run, "set", "would set"), key_of(&holdout.name));
        let (share, place) = (share_text(holdout.basis_points), where_text(&holdout));
        page.line(Tone::Good, format!("{verb} holdout {key}: {share} out of {place}, etag {}", holdout.etag));
        if holdout.basis_points == 10_000 {
            page.line(Tone::Warn, "it holds everybody: no unit enters an experiment that uses it");
        }
    })
}

/// Changes how much of its layer an experiment has.
pub async fn set_share(
    session: &Session,
    key: &str,
    basis_points: u32,
    change: ChangeArgs,
) -> Result<(), Failure> {
    let (id, dry_run) = (change.write.request.id()?, change.write.dry_run);
    let request = v1::SetLayerShareRequest {
        name: session.name(Experiments, key)?,
        basis_points,
        request_id: id.clone(),
        validate_only: dry_run,
        etag: change.etag.unwrap_or_default(),
    };
    let act = |channel, request| async move {
        ExperimentServiceClient::new(channel).set_layer_share(request).await
    };
    let set = session.client.write(&id, request, act).await?;
    session.show(&set, |page| {
        let (verb, key) = (verb(dry_run, "gave", "would give"), key_of(&set.name));
        page.line(Tone::Good, format!("{verb} experiment {key} {}", layer_text(&set)));
    })
}

/// Says what of an experiment's place could not be met if it started now.
pub async fn warn_of_place(session: &Session, experiment: &v1::Experiment) -> Result<(), Failure> {
    let mut warnings = Vec::new();
    if !experiment.layer.is_empty()
        && let Some(layer) = present(fetch(session, &experiment.layer).await)?
    {
        let (free, share) = (layer.free_basis_points, experiment.layer_share_basis_points);
        if free < share {
            let (free, share) = (share_text(free), share_text(share));
            warnings.push(format!(
                "layer {} has {free} free, less than {share}: a start is refused until others give some back",
                experiment.layer
            ));
        }
    }
    for id in &experiment.holdouts {
        let holdout = present(fetch_holdout(session, id).await)?;
        if holdout.is_some_and(|holdout| holdout.basis_points == 10_000) {
            warnings.push(format!("holdout {id} holds everybody: no unit would enter the experiment"));
        }
    }
    session.say(|page| {
        for warning in warnings {
            page.line(Tone::Warn, warning);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_basis_points_or_percent() {
        for (text, share) in [("30%", 3_000), ("3000", 3_000), ("12.34%", 1_234), ("100 %", 10_000), ("0", 0)]
        {
            assert_eq!(parse_share(text), Ok(share), "{text}");
        }
        for text in ["", "%", "-1%", "101%", "10001", "0.005%", "30 percent", "NaN%"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_layer_reads_as_a_page() {
        let occupant = v1::LayerOccupant {
            experiment: "environments/p/experiments/button".into(),
            basis_points: 3_500,
            slots: vec![
                v1::SlotRange { start: 1_000, length: 3_000 },
                v1::SlotRange { start: 0, length: 500 },
            ],
        };
        let layer = v1::Layer {
            name: "environments/p/layers/page".into(),
            occupants: vec![occupant],
            free_basis_points: 6_500,
            ..v1::Layer::default()
        };
        let mut page = Page::new(false);
        describe(&mut page, &layer);
        let expected = "\
page: 65 % free
name  environments/p/layers/page

Experiments
EXPERIMENT  SHARE  SLOTS
button       35 %  1000-3999, 0-499
";
        assert_eq!(page.into_text(), expected);
    }
}
