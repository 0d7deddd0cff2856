//! `experiment create|start|pause|stop|status|series|sample|list|get|set-allocation|layer-share`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use featureops_proto::Collection::Experiments;
use featureops_proto::v1;

use super::autonomy::Level;
use super::failure::Failure;
use super::layer::{self, PlacementArgs, parse_share};
use super::listing::{MAX_LISTED, listed};
use super::page::{Cell, Page, Tone};
use super::render::{self, basis_points_of_percent, key_of, share_text, word_of};
use super::session::{Session, WriteArgs, progress, verb};
use super::span::{moment_text, parse_span, span_text};
use super::{experiment_ramp, experiment_series, experiment_status};
use crate::rpc::experiment_service_client::ExperimentServiceClient;

#[derive(Debug, Subcommand)]
pub enum ExperimentCommand {
    /// Show an experiment's definition.
    Get { key: String },
    /// List the environment's experiments.
    List,
    /// Define an experiment on a flag; it starts with `start`.
    Create(Box<CreateArgs>),
    /// Open a generation and serve the first allocation.
    Start {
        key: String,
        /// The flag's growth level while it runs: who may move traffic [default: as the flag has it, A2].
        #[arg(long, value_enum, ignore_case = true)]
        autonomy: Option<Level>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Keep serving the allocation as it is, without autonomous decisions.
    Pause {
        key: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// End it; the flag serves its default variant again.
    Stop {
        key: String,
        /// The variant that becomes the flag's default.
        #[arg(long, value_name = "VARIANT")]
        serve: Option<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Show arms, metrics and contrasts with their intervals.
    Status {
        key: String,
        /// Show it again at every change, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Show what arrived in each sealed minute or hour.
    Series(experiment_series::SeriesArgs),
    /// Show the sampled units by their values of the declared dimensions.
    Sample(experiment_series::SampleArgs),
    /// Change how much of its layer an experiment has, or a draft asks for at its start. More keeps every unit it has; less
    /// begins a new generation. Of a running or paused one it starts a cool-down.
    LayerShare {
        key: String,
        /// In basis points or percent, as 3000 or 30%.
        #[arg(value_parser = parse_share)]
        share: u32,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Set the arms' traffic by hand. Starts a cool-down for autonomous decisions.
    SetAllocation {
        key: String,
        /// Every arm with its share in basis points or percent, as off=7500 on=25%.
        #[arg(required = true, value_name = "ARM=SHARE")]
        shares: Vec<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// Options of a change to an existing resource.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Refuse if it changed since this etag was read.
    #[arg(long)]
    pub(super) etag: Option<String>,
    #[command(flatten)]
    pub(super) write: WriteArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Policy {
    /// Each arm's weight follows its probability of being best.
    Thompson,
    /// The starting weights stay.
    Fixed,
    /// The second arm climbs by --step, while no guardrail's metric looks worse than its limit.
    Ramp,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  featureops experiment create checkout-test --flag checkout --arm off --arm on \\
    --primary-metric conversion --guardrail latency:limit=500,minimum=2000 --control-floor 1000
  featureops experiment create new-cart-ramp --flag checkout --arm off --arm on --primary-metric conversion \\
    --guardrail errors --policy ramp --step 1%:1h:1000 --step 5%:1h --step 50%:24h:approve --step 100%:24h")]
pub struct CreateArgs {
    key: String,
    /// The whole definition as JSON or YAML; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["flag", "arm", "established", "primary_metric", "guardrail", "secondary_metric", "policy", "step", "control_floor", "new_arm_cap", "hypothesis", "planned_units", "cool_down", "bulk_exposes", "seed", "layer", "layer_share", "holdout", "dimension", "covariate"])]
    file: Option<PathBuf>,
    /// The flag's key.
    #[arg(long)]
    flag: Option<String>,
    /// A variant of the flag; the first is control. Repeatable.
    #[arg(long, value_name = "VARIANT")]
    arm: Vec<String>,
    /// An arm known to be safe: it does not count against the cap on new variants. Repeatable.
    #[arg(long, value_name = "VARIANT")]
    established: Vec<String>,
    /// The metric that decides.
    #[arg(long, value_name = "METRIC")]
    primary_metric: Option<String>,
    /// A metric that stops an arm when harmed, as latency:limit=500,minimum=1000 (basis points, units). Repeatable.
    #[arg(long, value_name = "METRIC[:OPTIONS]")]
    guardrail: Vec<String>,
    /// A further metric, counted and shown. Repeatable.
    #[arg(long, value_name = "METRIC")]
    secondary_metric: Vec<String>,
    #[arg(long, value_enum, default_value = "thompson")]
    policy: Policy,
    /// A step of --policy ramp: SHARE:HOLD[:UNITS][:approve], as 5%:1h:1000. Repeatable, rising; the first is served at the
    /// start. UNITS of the second arm must be exposed before the next; one with `approve` begins only when a person says yes.
    #[arg(long, value_name = "STEP")]
    step: Vec<String>,
    /// Control's traffic never falls below it, in basis points.
    #[arg(long, value_name = "BASIS_POINTS", default_value_t = 0)]
    control_floor: u32,
    /// Traffic to arms that are not established never exceeds it [default: 2000].
    #[arg(long, value_name = "BASIS_POINTS")]
    new_arm_cap: Option<u32>,
    #[arg(long)]
    hypothesis: Option<String>,
    /// Units planned in all; intervals are tightest there [default: 20000].
    #[arg(long, value_name = "UNITS")]
    planned_units: Option<u64>,
    /// No autonomous growth for this long after a human command [default: 5m].
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    cool_down: Option<Duration>,
    /// Bulk evaluation implies exposures too.
    #[arg(long)]
    bulk_exposes: bool,
    /// Seed of the owner's decisions [default: given at creation].
    #[arg(long)]
    seed: Option<u64>,
    /// A context attribute whose values a sample of units keeps, as country or plan. Repeatable, at most 8.
    #[arg(long, value_name = "ATTRIBUTE")]
    dimension: Vec<String>,
    /// A numeric context attribute that is known of a unit before its exposure, as spend_last_month, by which estimates become more
    /// precise (CUPED); with the decimal places to keep, as spend_last_month:2 [default: 6]. Repeatable, at most 4.
    #[arg(long, value_name = "ATTRIBUTE[:PLACES]")]
    covariate: Vec<String>,
    #[command(flatten)]
    placement: PlacementArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(session: &Session, command: ExperimentCommand) -> Result<(), Failure> {
    match command {
        ExperimentCommand::Get { key } => {
            let experiment = fetch(session, &key).await?;
            session.show(&experiment, |page| describe(page, &experiment))
        }
        ExperimentCommand::List => list(session).await,
        ExperimentCommand::Create(args) => {
            let dry_run = args.write.dry_run;
            let experiment = definition(session, &args)?;
            let created = create(session, args.write.request.id()?, experiment, dry_run).await?;
            show_written(session, &created, verb(dry_run, "created", "would create"))?;
            layer::warn_of_place(session, &created).await
        }
        ExperimentCommand::Start { key, autonomy, change } => {
            let dry_run = change.write.dry_run;
            let request = v1::StartExperimentRequest {
                name: session.name(Experiments, &key)?,
                autonomy: autonomy.map_or(v1::AutonomyLevel::Unspecified, Level::message).into(),
                request_id: change.write.request.id()?,
                validate_only: dry_run,
                etag: change.etag.unwrap_or_default(),
            };
            let started = start(session, request).await?;
            show_written(session, &started, verb(dry_run, "started", "would start"))?;
            if !dry_run {
                // What it may do without a person depends on it, and a start without --autonomy does not say it.
                // It is started, whatever becomes of this question.
                let levels = experiment_status::fetch(session, &key).await.ok().and_then(|s| s.autonomy);
                if let Some(levels) = levels {
                    progress(&format!("while it runs: {}", super::autonomy::levels_text(&levels)));
                }
            }
            Ok(())
        }
        ExperimentCommand::Pause { key, change } => {
            let id = change.write.request.id()?;
            let request = v1::PauseExperimentRequest {
                name: session.name(Experiments, &key)?,
                request_id: id.clone(),
                validate_only: change.write.dry_run,
                etag: change.etag.unwrap_or_default(),
            };
            let paused = session
                .client
                .write(&id, request, |channel, request| async move {
                    ExperimentServiceClient::new(channel).pause_experiment(request).await
                })
                .await?;
            show_written(session, &paused, verb(change.write.dry_run, "paused", "would pause"))
        }
        ExperimentCommand::Stop { key, serve, change } => {
            let id = change.write.request.id()?;
            let request = v1::StopExperimentRequest {
                name: session.name(Experiments, &key)?,
                serve,
                request_id: id.clone(),
                validate_only: change.write.dry_run,
                etag: change.etag.unwrap_or_default(),
            };
            let stopped = session
                .client
                .write(&id, request, |channel, request| async move {
                    ExperimentServiceClient::new(channel).stop_experiment(request).await
                })
                .await?;
            show_written(session, &stopped, verb(change.write.dry_run, "stopped", "would stop"))
        }
        ExperimentCommand::Status { key, watch } => experiment_status::run(session, &key, watch).await,
        ExperimentCommand::Series(args) => experiment_series::series(session, args).await,
        ExperimentCommand::Sample(args) => experiment_series::sample(session, args).await,
        ExperimentCommand::LayerShare { key, share, change } => {
            layer::set_share(session, &key, share, change).await
        }
        ExperimentCommand::SetAllocation { key, shares, change } => {
            set_allocation(session, &key, &shares, change).await
        }
    }
}

/// Reads one experiment.
pub async fn fetch(session: &Session, key: &str) -> Result<v1::Experiment, Failure> {
    let request = v1::GetExperimentRequest { name: session.name(Experiments, key)? };
    session
        .client
        .read(request, |channel, request| async move {
            ExperimentServiceClient::new(channel).get_experiment(request).await
        })
        .await
}

/// Creates one experiment.
pub async fn create(
    session: &Session,
    id: String,
    experiment: v1::Experiment,
    validate_only: bool,
) -> Result<v1::Experiment, Failure> {
    let request =
        v1::CreateExperimentRequest { experiment: Some(experiment), request_id: id.clone(), validate_only };
    session
        .client
        .write(&id, request, |channel, request| async move {
            ExperimentServiceClient::new(channel).create_experiment(request).await
        })
        .await
}

/// Starts one experiment.
pub async fn start(
    session: &Session,
    request: v1::StartExperimentRequest,
) -> Result<v1::Experiment, Failure> {
    let id = request.request_id.clone();
    session
        .client
        .write(&id, request, |channel, request| async move {
            ExperimentServiceClient::new(channel).start_experiment(request).await
        })
        .await
}

async fn list(session: &Session) -> Result<(), Failure> {
    let all = listed(MAX_LISTED, 200, async |page_size, page_token| {
        let request = v1::ListExperimentsRequest { parent: session.parent(), page_size, page_token };
        let act = |channel, request| async move {
            ExperimentServiceClient::new(channel).list_experiments(request).await
        };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let rows = all
            .experiments
            .iter()
            .map(|experiment| {
                let (state, tone) = state(experiment);
                vec![
                    Cell::new(key_of(&experiment.name)),
                    Cell::new(state).tone(tone),
                    Cell::new(&experiment.flag),
                    Cell::new(&experiment.primary_metric),
                    Cell::new(allocation_text(experiment)),
                    Cell::new(moment_text(experiment.start_time.as_ref())),
                ]
            })
            .collect();
        let headings = ["EXPERIMENT", "STATE", "FLAG", "PRIMARY METRIC", "ALLOCATION", "STARTED"];
        page.table(
            &headings,
            rows,
            "no experiments in this environment; create one with: featureops experiment create",
        );
    })
}

/// The state in a word, and how it is meant.
pub fn state(experiment: &v1::Experiment) -> (String, Tone) {
    use v1::experiment::State;
    let tone = match experiment.state() {
        State::Running => Tone::Good,
        State::Paused => Tone::Warn,
        State::Tripped => Tone::Bad,
        State::Unspecified | State::Draft | State::Stopped => Tone::Faint,
    };
    (word_of(experiment.state().as_str_name(), "STATE_"), tone)
}

/// `off 75 %, on 25 %`, or the arms while nothing is allocated.
fn allocation_text(experiment: &v1::Experiment) -> String {
    let arms = experiment.arms.iter().map(|arm| arm.variant.as_str());
    match &experiment.allocation {
        Some(allocation) => arms
            .zip(&allocation.weights_basis_points)
            .map(|(variant, weight)| format!("{variant} {}", share_text(*weight)))
            .collect::<Vec<_>>()
            .join(", "),
        None => arms.collect::<Vec<_>>().join(", "),
    }
}

fn describe(page: &mut Page, experiment: &v1::Experiment) {
    let (state, tone) = state(experiment);
    page.line(tone, format!("{} is {state}", key_of(&experiment.name)));
    page.facts([
        ("name", experiment.name.clone()),
        ("flag", experiment.flag.clone()),
        ("hypothesis", experiment.hypothesis.clone()),
        ("primary metric", experiment.primary_metric.clone()),
        ("secondary", experiment.secondary_metrics.join(", ")),
        ("dimensions", experiment.dimensions.join(", ")),
        (
            "covariates",
            experiment.covariates.iter().map(|c| c.attribute.as_str()).collect::<Vec<_>>().join(", "),
        ),
        ("policy", word_of(experiment.policy().as_str_name(), "POLICY_")),
        ("allocation", allocation_text(experiment)),
        ("layer", layer::layer_text(experiment)),
        ("held out by", layer::holdouts_text(experiment)),
        ("control floor", share_text(experiment.control_floor_basis_points)),
        ("new-arm cap", share_text(experiment_ramp::cap(experiment))),
        (
            "planned units",
            render::count_text(if experiment.planned_units == 0 { 20_000 } else { experiment.planned_units }),
        ),
        ("cool-down", span_text(experiment.cool_down_seconds.unwrap_or(300))),
        ("started", moment_text(experiment.start_time.as_ref())),
        ("ended", moment_text(experiment.end_time.as_ref())),
        ("etag", experiment.etag.clone()),
    ]);
    page.heading("Arms");
    let rows = experiment
        .arms
        .iter()
        .enumerate()
        .map(|(place, arm)| {
            vec![
                Cell::new(&arm.variant),
                Cell::new(if place == 0 { "control" } else { "" }),
                Cell::new(if arm.established { "established" } else { "new" }),
            ]
        })
        .collect();
    page.table(&["ARM", "ROLE", "KNOWN"], rows, "no arms");
    experiment_ramp::steps(page, &experiment.ramp_steps);
    if !experiment.guardrails.is_empty() {
        page.heading("Guardrails");
        let rows = experiment
            .guardrails
            .iter()
            .map(|guardrail| {
                let limit =
                    if guardrail.limit_basis_points == 0 { 500 } else { guardrail.limit_basis_points };
                let units = if guardrail.minimum_units == 0 { 1_000 } else { guardrail.minimum_units };
                vec![
                    Cell::new(&guardrail.metric),
                    Cell::number(share_text(limit)),
                    Cell::number(render::count_text(units)),
                ]
            })
            .collect();
        page.table(&["METRIC", "HARM STOPPED AT", "AFTER UNITS"], rows, "");
    }
}

fn show_written(session: &Session, experiment: &v1::Experiment, verb: &str) -> Result<(), Failure> {
    session.show(experiment, |page| {
        let (state, _) = state(experiment);
        page.line(
            Tone::Good,
            format!(
                "{verb} experiment {}: {state}, {}",
                key_of(&experiment.name),
                allocation_text(experiment)
            ),
        );
        if experiment.state() == v1::experiment::State::Draft && verb == "created" {
            page.line(
                Tone::Plain,
                format!("start it with: featureops experiment start {}", key_of(&experiment.name)),
            );
        }
    })
}

fn definition(session: &Session, args: &CreateArgs) -> Result<v1::Experiment, Failure> {
    let name = session.name(Experiments, &args.key)?;
    if let Some(path) = &args.file {
        let mut experiment: v1::Experiment = render::read_message(path)?;
        if !experiment.name.is_empty() && experiment.name != name {
            return Err(Failure::usage(format!("the file defines {}, not {name}", experiment.name)));
        }
        experiment.name = name;
        return Ok(experiment);
    }
    let (Some(flag), Some(primary_metric)) = (&args.flag, &args.primary_metric) else {
        return Err(Failure::usage(
            "a definition needs --flag, --arm (twice or more) and --primary-metric, or --file",
        ));
    };
    if let Some(stranger) = args.established.iter().find(|variant| !args.arm.contains(variant)) {
        return Err(Failure::usage(format!("--established {stranger} is not an --arm")));
    }
    let guardrails = args.guardrail.iter().map(|text| guardrail(text)).collect::<Result<_, _>>()?;
    Ok(v1::Experiment {
        name,
        flag: flag.clone(),
        arms: args
            .arm
            .iter()
            .map(|variant| v1::Arm {
                variant: variant.clone(),
                established: args.established.contains(variant),
            })
            .collect(),
        primary_metric: primary_metric.clone(),
        guardrails,
        secondary_metrics: args.secondary_metric.clone(),
        policy: match args.policy {
            Policy::Thompson => v1::experiment::Policy::Thompson,
            Policy::Fixed => v1::experiment::Policy::Fixed,
            Policy::Ramp => v1::experiment::Policy::Ramp,
        }
        .into(),
        ramp_steps: args.step.iter().map(|text| experiment_ramp::step(text)).collect::<Result<_, _>>()?,
        control_floor_basis_points: args.control_floor,
        new_arm_cap_basis_points: args.new_arm_cap,
        hypothesis: args.hypothesis.clone().unwrap_or_default(),
        planned_units: args.planned_units.unwrap_or_default(),
        cool_down_seconds: args.cool_down.map(|span| i64::try_from(span.as_secs()).unwrap_or(i64::MAX)),
        bulk_exposes: args.bulk_exposes,
        seed: args.seed.unwrap_or_default(),
        layer: args.placement.layer.clone().unwrap_or_default(),
        layer_share_basis_points: args.placement.layer_share.unwrap_or_default(),
        holdouts: args.placement.holdout.clone(),
        dimensions: args.dimension.clone(),
        covariates: args.covariate.iter().map(|text| covariate(text)).collect::<Result<_, _>>()?,
        ..v1::Experiment::default()
    })
}

/// `spend:2`.
fn covariate(text: &str) -> Result<v1::Covariate, Failure> {
    let (attribute, decimal_scale) = match text.split_once(':') {
        None => (text, None),
        Some((name, places)) => {
            let places = places.parse::<u32>().map_err(|_| {
                Failure::usage(format!(
                    "covariate '{text}': '{places}' is no number of decimal places; give {name}:2"
                ))
            })?;
            (name, Some(places))
        }
    };
    Ok(v1::Covariate { attribute: attribute.to_owned(), decimal_scale })
}

/// `latency:limit=500,minimum=1000`.
fn guardrail(text: &str) -> Result<v1::Guardrail, Failure> {
    let (metric, options) = text.split_once(':').unwrap_or((text, ""));
    let mut guardrail = v1::Guardrail { metric: metric.to_owned(), ..v1::Guardrail::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let parsed = option.split_once('=').and_then(|(key, value)| Some((key, value.parse::<u32>().ok()?)));
        match parsed {
            Some(("limit", value)) => guardrail.limit_basis_points = value,
            Some(("minimum", value)) => guardrail.minimum_units = value.into(),
            _ => {
                return Err(Failure::usage(format!(
                    "--guardrail {metric}: '{option}' is neither limit=BASIS_POINTS nor minimum=UNITS"
                )));
            }
        }
    }
    Ok(guardrail)
}

async fn set_allocation(
    session: &Session,
    key: &str,
    shares: &[String],
    change: ChangeArgs,
) -> Result<(), Failure> {
    // The request wants weights in the order of the arms; people name the arms.
    let experiment = fetch(session, key).await?;
    let arms: Vec<&str> = experiment.arms.iter().map(|arm| arm.variant.as_str()).collect();
    let weights = weights(&arms, shares)?;
    let id = change.write.request.id()?;
    let request = v1::SetAllocationRequest {
        name: experiment.name.clone(),
        weights_basis_points: weights,
        request_id: id.clone(),
        validate_only: change.write.dry_run,
        etag: change.etag.unwrap_or_default(),
    };
    let set = session
        .client
        .write(&id, request, |channel, request| async move {
            ExperimentServiceClient::new(channel).set_allocation(request).await
        })
        .await?;
    show_written(session, &set, verb(change.write.dry_run, "allocated", "would allocate"))
}

/// `off=7500 on=25%` in the order of the arms.
fn weights(arms: &[&str], shares: &[String]) -> Result<Vec<u32>, Failure> {
    let mut given = std::collections::BTreeMap::new();
    for text in shares {
        let wrong = || {
            Failure::usage(format!("'{text}' is not ARM=SHARE, as on=2500 or on=25%"))
                .note(format!("arms: {}", arms.join(", ")))
        };
        let (arm, share) = text.rsplit_once('=').ok_or_else(wrong)?;
        let weight = match share.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().ok().map(basis_points_of_percent),
            None => share.parse::<u32>().ok().map(f64::from),
        };
        let weight = weight.filter(|weight| (0.0..=10_000.0).contains(weight)).ok_or_else(wrong)?;
        if weight.fract() != 0.0 {
            let message = format!("'{text}': a share is a whole number of basis points, as 3333 or 33.33%");
            return Err(Failure::usage(message));
        }
        if !arms.contains(&arm) {
            return Err(Failure::usage(format!(
                "'{arm}' is not an arm; {}",
                crate::nearest::suggestion(arm, arms)
            )));
        }
        // In range and whole: checked just above.
        if given.insert(arm, weight as u32).is_some() {
            return Err(Failure::usage(format!("{arm} is given twice")));
        }
    }
    if let Some(missing) = arms.iter().find(|arm| !given.contains_key(**arm)) {
        return Err(Failure::usage(format!("{missing} is missing: name every arm, with 0 for none")));
    }
    let sum: u32 = given.values().sum();
    if sum != 10_000 {
        return Err(Failure::usage(format!(
            "shares are basis points and sum to 10000 (100 %); these sum to {sum}"
        )));
    }
    Ok(arms.iter().filter_map(|arm| given.get(*arm).copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(texts: &[&str]) -> Result<Vec<u32>, Failure> {
        weights(&["off", "on"], &texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn shares_are_put_in_the_order_of_the_arms() {
        assert_eq!(shares(&["on=25%", "off=7500"]).unwrap(), [7_500, 2_500]);
        assert_eq!(shares(&["on=12.34%", "off=87.66%"]).unwrap(), [8_766, 1_234]);
        for (texts, part) in [
            (vec!["on=25%"], "off is missing"),
            (vec!["on=1", "off=2"], "sum to 3"),
            (vec!["no=1", "off=2"], "did you mean 'on'?"),
            (vec!["on=x", "off=2"], "ARM=SHARE"),
            (vec!["on=1", "on=2"], "twice"),
            (vec!["on=-1%", "off=2"], "ARM=SHARE"),
            (vec!["on=33.333%", "off=66.667%"], "33.33%"),
        ] {
            let failure = shares(&texts).unwrap_err();
            assert!(failure.render().contains(part), "{texts:?}: {}", failure.render());
        }
    }

    #[test]
    fn guardrails_have_named_options() {
        let parsed = guardrail("latency:limit=300,minimum=2000").unwrap();
        assert_eq!((parsed.limit_basis_points, parsed.minimum_units), (300, 2_000));
        assert_eq!(guardrail("latency").unwrap().metric, "latency");
        assert!(guardrail("latency:max=3").is_err());
    }
}
