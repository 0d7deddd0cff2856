//! `metric get|list|set`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use featureops_proto::Collection::Metrics;
use featureops_proto::v1;

use super::failure::Failure;
use super::listing::{MAX_LISTED, listed};
use super::page::{Cell, Page, Tone};
use super::render::{self, key_of, word_of};
use super::session::{Session, WriteArgs, verb};
use super::span::{parse_span, span_text};
use crate::rpc::metric_service_client::MetricServiceClient;

#[derive(Debug, Subcommand)]
pub enum MetricCommand {
    /// Show a metric.
    Get { key: String },
    /// List the environment's metrics.
    List,
    /// Define a metric, from a file or from options.
    Set(Box<SetArgs>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Share of units with at least one event that is not zero.
    Proportion,
    /// Sum of a unit's values, per unit.
    Mean,
    /// Sum of the numerator over sum of the denominator.
    Ratio,
    /// Number of a unit's events, per unit.
    Count,
}

impl Kind {
    pub const fn message(self) -> v1::metric::Kind {
        match self {
            Self::Proportion => v1::metric::Kind::Proportion,
            Self::Mean => v1::metric::Kind::Mean,
            Self::Ratio => v1::metric::Kind::Ratio,
            Self::Count => v1::metric::Kind::Count,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Direction {
    Higher,
    Lower,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LateRule {
    UntilLimit,
    UntilEnd,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    key: String,
    /// The whole definition as JSON or YAML; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "direction", "scale", "window", "late_limit", "late_rule", "description", "unit", "numerator", "denominator", "cap"])]
    file: Option<PathBuf>,
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Which way is better.
    #[arg(long, value_enum, default_value = "higher")]
    direction: Direction,
    /// Decimal places kept, 0 to 9 [default: 6].
    #[arg(long, value_name = "PLACES", value_parser = clap::value_parser!(u32).range(0..=9))]
    scale: Option<u32>,
    /// How long after its exposure a unit's outcomes count, 60s to 30d [default: 7d].
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    window: Option<Duration>,
    /// How late an event may come, 60s to 72h [default: 72h].
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    late_limit: Option<Duration>,
    /// Whether late events count until their limit, or only until the experiment's end.
    #[arg(long, value_enum)]
    late_rule: Option<LateRule>,
    #[arg(long)]
    description: Option<String>,
    /// What is counted, as EUR or ms.
    #[arg(long)]
    unit: Option<String>,
    /// For a ratio: a metric's key.
    #[arg(long, value_name = "METRIC")]
    numerator: Option<String>,
    /// For a ratio: a metric's key.
    #[arg(long, value_name = "METRIC")]
    denominator: Option<String>,
    /// Of a mean or a count: the most that one unit's sum is worth, so that a few heavy units cannot hide an effect.
    #[arg(long, value_name = "VALUE")]
    cap: Option<f64>,
    /// Refuse if the metric changed since this etag was read.
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(session: &Session, command: MetricCommand) -> Result<(), Failure> {
    match command {
        MetricCommand::Get { key } => {
            let metric = fetch(session, &key).await?;
            session.show(&metric, |page| describe(page, &metric))
        }
        MetricCommand::List => list(session).await,
        MetricCommand::Set(args) => set(session, *args).await,
    }
}

/// Reads one metric.
pub async fn fetch(session: &Session, key: &str) -> Result<v1::Metric, Failure> {
    let request = v1::GetMetricRequest { name: session.name(Metrics, key)? };
    session
        .client
        .read(request, |channel, request| async move {
            MetricServiceClient::new(channel).get_metric(request).await
        })
        .await
}

/// Writes one metric.
pub async fn write(
    session: &Session,
    id: String,
    request: v1::SetMetricRequest,
) -> Result<v1::Metric, Failure> {
    session
        .client
        .write(&id, request, |channel, request| async move {
            MetricServiceClient::new(channel).set_metric(request).await
        })
        .await
}

async fn list(session: &Session) -> Result<(), Failure> {
    let all = listed(MAX_LISTED, 200, async |page_size, page_token| {
        let request = v1::ListMetricsRequest { parent: session.parent(), page_size, page_token };
        let act =
            |channel, request| async move { MetricServiceClient::new(channel).list_metrics(request).await };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let rows = all
            .metrics
            .iter()
            .map(|metric| {
                vec![
                    Cell::new(key_of(&metric.name)),
                    Cell::new(word_of(metric.kind().as_str_name(), "KIND_")),
                    Cell::new(word_of(metric.direction().as_str_name(), "DIRECTION_")),
                    Cell::new(window(metric)),
                    Cell::new(&metric.unit),
                    Cell::new(&metric.description),
                ]
            })
            .collect();
        let headings = ["METRIC", "KIND", "DIRECTION", "WINDOW", "UNIT", "DESCRIPTION"];
        page.table(&headings, rows, "no metrics in this environment; create one with: featureops metric set");
    })
}

fn window(metric: &v1::Metric) -> String {
    span_text(if metric.attribution_window_seconds == 0 {
        604_800
    } else {
        metric.attribution_window_seconds
    })
}

fn describe(page: &mut Page, metric: &v1::Metric) {
    page.line(Tone::Strong, key_of(&metric.name));
    let parts = if metric.numerator.is_empty() {
        String::new()
    } else {
        format!("{} / {}", metric.numerator, metric.denominator)
    };
    page.facts([
        ("name", metric.name.clone()),
        ("kind", word_of(metric.kind().as_str_name(), "KIND_")),
        ("parts", parts),
        ("cap", metric.cap.map(|cap| format!("{} a unit", render::number_text(cap))).unwrap_or_default()),
        ("direction", word_of(metric.direction().as_str_name(), "DIRECTION_")),
        ("unit", metric.unit.clone()),
        ("decimals", metric.decimal_scale.unwrap_or(6).to_string()),
        ("window", format!("{} after the first exposure", window(metric))),
        (
            "late limit",
            span_text(if metric.late_limit_seconds == 0 { 259_200 } else { metric.late_limit_seconds }),
        ),
        ("description", metric.description.clone()),
        ("etag", metric.etag.clone()),
    ]);
}

async fn set(session: &Session, args: SetArgs) -> Result<(), Failure> {
    let name = session.name(Metrics, &args.key)?;
    let mut metric = match &args.file {
        Some(path) => {
            let metric: v1::Metric = render::read_message(path)?;
            if !metric.name.is_empty() && metric.name != name {
                return Err(Failure::usage(format!("the file defines {}, not {name}", metric.name)));
            }
            metric
        }
        None => definition(&args)?,
    };
    metric.name = name;
    let id = args.write.request.id()?;
    let request = v1::SetMetricRequest {
        metric: Some(metric),
        request_id: id.clone(),
        validate_only: args.write.dry_run,
        etag: args.etag.unwrap_or_default(),
    };
    let metric = write(session, id, request).await?;
    session.show(&metric, |page| {
        let verb = verb(args.write.dry_run, "set", "would set");
        page.line(Tone::Good, format!("{verb} metric {}, etag {}", key_of(&metric.name), metric.etag));
    })
}

fn definition(args: &SetArgs) -> Result<v1::Metric, Failure> {
    let Some(kind) = args.kind else {
        return Err(Failure::usage("a definition needs --kind proportion|mean|ratio|count, or --file"));
    };
    if (kind == Kind::Ratio) != (args.numerator.is_some() && args.denominator.is_some()) {
        return Err(Failure::usage("--numerator and --denominator belong to --kind ratio, both of them"));
    }
    let seconds = |span: Option<Duration>| span.map_or(0, |s| i64::try_from(s.as_secs()).unwrap_or(i64::MAX));
    let direction = match args.direction {
        Direction::Higher => v1::metric::Direction::HigherIsBetter,
        Direction::Lower => v1::metric::Direction::LowerIsBetter,
    };
    let late_rule = match args.late_rule {
        None => v1::metric::LateRule::Unspecified,
        Some(LateRule::UntilLimit) => v1::metric::LateRule::CountUntilLimit,
        Some(LateRule::UntilEnd) => v1::metric::LateRule::CountUntilEnd,
    };
    Ok(v1::Metric {
        kind: kind.message().into(),
        direction: direction.into(),
        decimal_scale: args.scale,
        attribution_window_seconds: seconds(args.window),
        late_rule: late_rule.into(),
        late_limit_seconds: seconds(args.late_limit),
        description: args.description.clone().unwrap_or_default(),
        unit: args.unit.clone().unwrap_or_default(),
        cap: args.cap,
        numerator: args.numerator.clone().unwrap_or_default(),
        denominator: args.denominator.clone().unwrap_or_default(),
        ..v1::Metric::default()
    })
}
