//! `featureops demo`: the whole line in under a minute, with nothing to set up.
//!
//! ```text
//!   a real node in a temporary folder ── gRPC ──> visitors: evaluate, buy or not, report what came of it
//!   act 1   four buttons, no one knows which is best: the experiment moves the traffic to it
//!   act 2   the winner starts to fail: the guardrail trips the flag, everybody gets the safe variant
//! ```
//!
//! Nothing is staged but the visitors. `--headless --assert` checks that the story was true.

mod screen;
mod shop;
mod traffic;

use std::time::Duration;

use clap::Args;
use featureops_cluster::Environment;
use featureops_proto::v1::decision::Action;
use featureops_proto::v1::{self, AutonomyLevel, ExperimentStatus};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::failure::Failure;
use super::render::share_text;
use super::signals::Signals;
use crate::config::NodeConfig;
use crate::node::Node;
use crate::rpc::administration_service_client::AdministrationServiceClient;
use crate::rpc::decision_service_client::DecisionServiceClient;
use crate::rpc::experiment_service_client::ExperimentServiceClient;
use crate::rpc::flag_service_client::FlagServiceClient;
use crate::rpc::metric_service_client::MetricServiceClient;
use screen::Screen;
use shop::{BEST, BUTTONS, Shop};
use traffic::Traffic;

const ENVIRONMENT: &str = "environments/demo";
const FLAG: &str = "environments/demo/flags/buy-button";
const EXPERIMENT: &str = "environments/demo/experiments/buy-button";
/// Visitors of act 1.
const LEARNING_VISITORS: u64 = 24_000;
/// Visitors of act 2, at most.
const REGRESSION_VISITORS: u64 = 30_000;
/// Weight the best button must hold after act 1, in basis points.
const HELD: u32 = 8_000;
/// How long act 2 waits for the trip after its last visitor.
const TRIP_PATIENCE: Duration = Duration::from_secs(5);
/// Visitors a second, to watch and to wait for.
const RATE: u64 = 1_500;
const HEADLESS_RATE: u64 = 3_000;
/// What the exposures of the last visitors may take to be counted.
const SETTLED: Duration = Duration::from_millis(1_600);
/// Visitors between two looks at the experiment.
const STRIDE: u64 = 250;

/// Options of the demo.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Seed of the visitors' choices.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Visitors a second at most; 0: as fast as it goes, which is faster than the experiment decides.
    #[arg(long)]
    rate: Option<u64>,
    /// No redrawing, and a pace for pipelines.
    #[arg(long)]
    headless: bool,
    /// Fail unless the best button won, the regression tripped, and every visitor was counted once.
    #[arg(long)]
    assert: bool,
}

/// Runs the demo.
///
/// # Errors
/// When the node does not start, a call fails, or `--assert` finds the story untrue.
pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("featureops-demo-")
        .tempdir()
        .map_err(|error| Failure::internal(format!("temporary folder: {error}")))?;
    let config = NodeConfig {
        data: folder.path().to_owned(),
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        ..NodeConfig::default()
    };
    let node = Node::start(Environment::production(folder.path()), config)
        .await
        .map_err(|error| Failure::internal(error.to_string()))?;
    let mut signals = Signals::install()?;
    let told = tokio::select! {
        told = tell(&args, &node) => told,
        // Ended here, so that the folder goes, too.
        () = signals.next() => Err(Failure::internal("interrupted before its end")),
    };
    node.shutdown().await;
    told
}

async fn tell(args: &DemoArgs, node: &Node) -> Result<(), Failure> {
    let address = node.local_addr();
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Failure::internal(error.to_string()))?
        .connect()
        .await
        .map_err(|error| Failure::internal(format!("node at {address}: {error}")))?;
    let mut screen = Screen::new(args.headless);
    screen.say(&format!(
        "A node serves on {address}, its store in a temporary folder. Four buttons, nobody knows which sells best:\n\
         control 10 %, green 9 %, large 11 %, sticky 14 %. Visitors come by gRPC; the experiment may act alone (A4)."
    ));
    furnish(&channel).await?;

    let rate = args.rate.unwrap_or(if args.headless { HEADLESS_RATE } else { RATE });
    let mut story = Story { channel: channel.clone(), began: Instant::now(), screen };
    let mut traffic = Traffic::open(channel.clone(), Shop::new(args.seed), rate).await?;
    let won = story.learn(&mut traffic).await?;
    let counted = Counted { exposed: traffic.exposed(), bought: traffic.bought() };
    let tripped = story.regress(&mut traffic).await?;
    story.screen.say(&format!(
        "\n{} visitors in {:.0} s.",
        traffic.visitors(),
        story.began.elapsed().as_secs_f64()
    ));
    let untrue = story.check(&traffic, &won, &counted, &tripped).await?;
    story.screen.say(
        "\nTry next:\n  featureops serve                                   a node that stays\n  \
         featureops flag set my-flag --type boolean --variant on=true --variant off=false --default off --safe off\n  \
         featureops replay --help                           your own experiment's CSV through it\n  \
         featureops experiment --help, featureops decision --help",
    );
    if args.assert && !untrue.is_empty() {
        return Err(Failure::internal(format!("the demo's story was not true: {}", untrue.join("; "))));
    }
    Ok(())
}

/// What the visitors themselves know after act 1.
struct Counted {
    exposed: u64,
    bought: u64,
}

struct Story {
    channel: Channel,
    began: Instant,
    screen: Screen,
}

impl Story {
    /// Act 1: traffic moves to the best button.
    async fn learn(&mut self, traffic: &mut Traffic) -> Result<ExperimentStatus, Failure> {
        while traffic.visitors() < LEARNING_VISITORS {
            traffic.visit(STRIDE, false).await?;
            self.look().await?;
        }
        // The last outcomes are frozen with the next tick and decided upon right after.
        tokio::time::sleep(SETTLED).await;
        let status = self.look().await?;
        for reason in &status.blocked {
            self.screen.say(&format!("Held back: {reason}"));
        }
        let held = weight(&status, BEST);
        let button = BUTTONS.get(BEST).map_or("", |b| b.variant);
        self.screen
            .say(&format!("\nThe experiment gives {} of the traffic to '{button}' now.", share_text(held)));
        if let Some(decision) = self.newest(None).await? {
            for sentence in &decision.narrative {
                self.screen.say(&format!("  {}", sentence.text));
            }
        }
        Ok(status)
    }

    /// Act 2: the winner fails, the guardrail trips.
    async fn regress(&mut self, traffic: &mut Traffic) -> Result<ExperimentStatus, Failure> {
        self.screen.say(
            "\nNow a release breaks 'sticky': errors go from 2 % to 15 % of its visits. Nobody is told.\n",
        );
        let began = traffic.visitors();
        let mut status = self.look().await?;
        while traffic.visitors() < began + REGRESSION_VISITORS && !is_tripped(&status) {
            traffic.visit(STRIDE, true).await?;
            status = self.look().await?;
        }
        let deadline = Instant::now() + TRIP_PATIENCE;
        while !is_tripped(&status) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(200)).await;
            status = self.look().await?;
        }
        if is_tripped(&status) {
            let after = traffic.visitors() - began;
            self.screen.say(&format!(
                "\nTripped {after} visitors later: everybody gets 'control' until a person resumes."
            ));
            if let Some(decision) = self.newest(Some(Action::Trip)).await? {
                self.screen.say(&format!("  {}: {}", decision.name, decision.reason));
                for sentence in &decision.narrative {
                    self.screen.say(&format!("  {}", sentence.text));
                }
            }
        }
        Ok(status)
    }

    /// What of the story was not so.
    async fn check(
        &mut self,
        traffic: &Traffic,
        won: &ExperimentStatus,
        counted: &Counted,
        tripped: &ExperimentStatus,
    ) -> Result<Vec<String>, Failure> {
        let mut untrue = Vec::new();
        let held = weight(won, BEST);
        if held <= HELD {
            untrue.push(format!(
                "the best button held {} of the traffic, not above {}",
                share_text(held),
                share_text(HELD)
            ));
        }
        if is_tripped(won) {
            untrue.push("it tripped before anything was wrong".to_owned());
        }
        if !is_tripped(tripped) {
            untrue.push("the regression did not trip".to_owned());
        }
        if traffic.serves().await? != "control" && is_tripped(tripped) {
            untrue.push("the tripped flag does not serve control".to_owned());
        }
        // Before the trip: what arrives after it belongs to a closed generation.
        if won.exposed_units != counted.exposed {
            untrue
                .push(format!("{} visitors saw an arm, {} were counted", counted.exposed, won.exposed_units));
        }
        let bought: f64 = won.arms.iter().filter_map(|arm| arm.metrics.first()).map(|m| m.total).sum();
        if bought as u64 != counted.bought {
            untrue.push(format!("{} bought, {bought} were counted", counted.bought));
        }
        let mut administration = AdministrationServiceClient::new(self.channel.clone());
        let audit = administration
            .verify_audit(v1::VerifyAuditRequest {})
            .await
            .map_err(|s| Failure::from_status(&s))?;
        if !audit.get_ref().intact {
            untrue.push(format!("the audit chain is broken: {}", audit.get_ref().fault));
        }
        Ok(untrue)
    }

    async fn look(&mut self) -> Result<ExperimentStatus, Failure> {
        let request = v1::GetExperimentStatusRequest { name: EXPERIMENT.to_owned() };
        let mut experiments = ExperimentServiceClient::new(self.channel.clone());
        let status = experiments
            .get_experiment_status(request)
            .await
            .map_err(|s| Failure::from_status(&s))?
            .into_inner();
        self.screen.show(&status, self.began.elapsed().as_secs_f64());
        Ok(status)
    }

    /// The newest decision that was applied; of a kind, when one is named.
    async fn newest(&self, action: Option<Action>) -> Result<Option<v1::Decision>, Failure> {
        let request =
            v1::ListDecisionsRequest { parent: ENVIRONMENT.to_owned(), page_size: 50, ..Default::default() };
        let mut decisions = DecisionServiceClient::new(self.channel.clone());
        let list =
            decisions.list_decisions(request).await.map_err(|s| Failure::from_status(&s))?.into_inner();
        Ok(list.decisions.into_iter().find(|d| {
            d.status() == v1::decision::Status::Applied && action.is_none_or(|action| d.action() == action)
        }))
    }
}

fn weight(status: &ExperimentStatus, arm: usize) -> u32 {
    status.arms.get(arm).map_or(0, |arm| arm.weight_basis_points)
}

fn is_tripped(status: &ExperimentStatus) -> bool {
    status.experiment.as_ref().is_some_and(|e| e.state() == v1::experiment::State::Tripped)
}

/// The flag, its metrics and the experiment, started at A4.
async fn furnish(channel: &Channel) -> Result<(), Failure> {
    let failed = |status: tonic::Status| Failure::from_status(&status);
    let flag = v1::Flag {
        name: FLAG.to_owned(),
        r#type: v1::ValueType::String as i32,
        variants: BUTTONS.iter().map(|b| (b.variant.to_owned(), b.variant.into())).collect(),
        default_variant: Some("control".to_owned()),
        safe_variant: Some("control".to_owned()),
        description: "the buy button of a shop".to_owned(),
        ..v1::Flag::default()
    };
    let request = v1::SetFlagRequest { flag: Some(flag), ..Default::default() };
    FlagServiceClient::new(channel.clone()).set_flag(request).await.map_err(failed)?;

    use v1::metric::{Direction, Kind};
    for (key, direction) in [("purchase", Direction::HigherIsBetter), ("error", Direction::LowerIsBetter)] {
        let metric = v1::Metric {
            name: format!("{ENVIRONMENT}/metrics/{key}"),
            kind: Kind::Proportion as i32,
            direction: direction as i32,
            ..v1::Metric::default()
        };
        let request = v1::SetMetricRequest { metric: Some(metric), ..Default::default() };
        MetricServiceClient::new(channel.clone()).set_metric(request).await.map_err(failed)?;
    }

    let experiment = v1::Experiment {
        name: EXPERIMENT.to_owned(),
        flag: "buy-button".to_owned(),
        arms: BUTTONS.iter().map(|b| v1::Arm { variant: b.variant.to_owned(), established: true }).collect(),
        primary_metric: "purchase".to_owned(),
        guardrails: vec![v1::Guardrail {
            metric: "error".to_owned(),
            limit_basis_points: 1_000,
            minimum_units: 500,
        }],
        control_floor_basis_points: 500,
        hypothesis: "another button sells more".to_owned(),
        seed: 1,
        ..v1::Experiment::default()
    };
    let mut experiments = ExperimentServiceClient::new(channel.clone());
    let request = v1::CreateExperimentRequest { experiment: Some(experiment), ..Default::default() };
    experiments.create_experiment(request).await.map_err(failed)?;
    let request = v1::StartExperimentRequest {
        name: EXPERIMENT.to_owned(),
        autonomy: AutonomyLevel::A4Bounded as i32,
        ..Default::default()
    };
    experiments.start_experiment(request).await.map_err(failed)?;
    Ok(())
}
