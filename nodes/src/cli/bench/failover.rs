//! How long writes stand still when the leader's process is killed, and what evaluations feel of it: three nodes, each a
//! process of its own on this machine.
//!
//! ```text
//!   kill -9 of the leader ── lease over, election ── another leads ── a write through a follower is acknowledged
//!        |<------------------------------------ measured ------------------------------------------>|
//!   evaluations on the two nodes that are left, one every 2 ms on each: as long before, and all the time between
//! ```
//!
//! Writes are tried one after the other at a node that was not killed. Before the next trial the killed node is back and has
//! caught up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use featureops_cluster::Options;
use featureops_proto::v1::{self, EvaluateRequest, SetFlagRequest};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::transport::Channel;

use super::Plan;
use super::report::{Bar, Figure, median};
use super::seats::{NODES, PATIENCE, Seat, found, settled};
use super::world::{ENVIRONMENT, context_of, failed, folder};
use crate::cli::failure::Failure;
use crate::rpc::evaluation_service_client::EvaluationServiceClient;
use crate::rpc::flag_service_client::FlagServiceClient;

const TRIALS: usize = 20;
const FLAG: &str = "written";
/// Between two attempts to write, and between two evaluations on a node.
const PAUSE: Duration = Duration::from_millis(2);
/// How long evaluations are looked at before each kill: about as long as writes then stand still.
const CALM: Duration = Duration::from_millis(900);

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let place = folder(&plan.data)?;
    let mut seats = found(place.path(), NODES).await?;
    let first = seats.first().ok_or_else(|| Failure::internal("there is no node"))?;
    write(&mut FlagServiceClient::new(first.channel().await?), "before").await.map_err(failed)?;
    let mut trials = Trials::default();
    for trial in 0..TRIALS {
        let leader = settled(&seats).await?;
        trials.perform(&mut seats, leader, trial).await?;
    }
    let taken_ms = &trials.taken_ms;
    let worst = taken_ms.iter().copied().fold(0.0, f64::max);
    let best = taken_ms.iter().copied().fold(f64::INFINITY, f64::min);
    let (shortest, longest) = Options::new(1, "").election_ms;
    let note = format!("{TRIALS} kills from {best:.0} to {worst:.0} ms; three processes share this machine");
    let (calm, meanwhile) = (p99(&mut trials.calm_ms), p99(&mut trials.meanwhile_ms));
    let evaluations = format!(
        "{} evaluations before the kills and {} until a write was acknowledged, none failed",
        trials.calm_ms.len(),
        trials.meanwhile_ms.len()
    );
    Ok(vec![
        Figure::new("failover, median", "ms", median(taken_ms))
            .limit("shortest wait before an election", shortest as f64)
            .bar(Bar::AtMost(1_000.0))
            .note(note),
        Figure::new("failover, worst", "ms", worst).limit("longest wait before an election", longest as f64),
        Figure::new("evaluation p99 during a failover", "ms", meanwhile)
            .limit("before it", calm)
            .bar(Bar::AtMost(2.0 * calm))
            .note(evaluations),
    ])
}

/// What the trials came to, in milliseconds.
#[derive(Default)]
struct Trials {
    taken_ms: Vec<f64>,
    calm_ms: Vec<f64>,
    meanwhile_ms: Vec<f64>,
}

impl Trials {
    async fn perform(&mut self, seats: &mut [Seat], leader: usize, trial: usize) -> Result<(), Failure> {
        let other = seats.get((leader + 1) % NODES);
        let other = other.ok_or_else(|| Failure::internal("there is no other node"))?;
        let mut writer = FlagServiceClient::new(other.channel().await?);
        let mut left = Vec::with_capacity(NODES - 1);
        for (at, seat) in seats.iter().enumerate() {
            if at != leader {
                left.push(seat.channel().await?);
            }
        }
        let calm = Evaluations::start(&left);
        tokio::time::sleep(CALM).await;
        self.calm_ms.extend(calm.end().await?);

        let meanwhile = Evaluations::start(&left);
        let killed = seats.get_mut(leader).and_then(|seat| seat.process.take());
        // Its kill returns when the process is gone.
        let began = Instant::now();
        drop(killed);
        let mut attempt = 0;
        loop {
            attempt += 1;
            match write(&mut writer, &format!("{trial}-{attempt}")).await {
                Ok(()) => break,
                Err(status) if began.elapsed() > PATIENCE => return Err(failed(status)),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        self.taken_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
        self.meanwhile_ms.extend(meanwhile.end().await?);
        match seats.get_mut(leader) {
            Some(seat) => seat.power().await,
            None => Err(Failure::internal("there is no such node")),
        }
    }
}

/// One attempt to write.
async fn write(writer: &mut FlagServiceClient<Channel>, attempt: &str) -> Result<(), tonic::Status> {
    let flag = v1::Flag {
        name: format!("{ENVIRONMENT}/flags/{FLAG}"),
        r#type: v1::ValueType::Boolean.into(),
        variants: [("on".to_owned(), true.into())].into(),
        default_variant: Some("on".to_owned()),
        description: format!("attempt {attempt}"),
        ..v1::Flag::default()
    };
    let request = SetFlagRequest {
        flag: Some(flag),
        request_id: format!("failover-{attempt}"),
        ..SetFlagRequest::default()
    };
    writer.set_flag(request).await.map(drop)
}

/// Evaluations at a steady pace, until they are told to end.
struct Evaluations {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<Vec<f64>, tonic::Status>>,
}

impl Evaluations {
    fn start(channels: &[Channel]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for channel in channels {
            let (stop, mut client) = (Arc::clone(&stop), EvaluationServiceClient::new(channel.clone()));
            tasks.spawn(async move {
                let mut pace = tokio::time::interval(PAUSE);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut taken_ms = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let request = EvaluateRequest {
                        environment: ENVIRONMENT.to_owned(),
                        flag: FLAG.to_owned(),
                        context: Some(context_of("unit")),
                        ..EvaluateRequest::default()
                    };
                    let began = Instant::now();
                    client.evaluate(request).await?;
                    taken_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
                }
                Ok(taken_ms)
            });
        }
        Self { stop, tasks }
    }

    /// What each took, in milliseconds; one that failed fails the measurement.
    async fn end(mut self) -> Result<Vec<f64>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(joined) = self.tasks.join_next().await {
            let task = joined.map_err(|error| Failure::internal(format!("a caller ended early: {error}")))?;
            all.extend(task.map_err(failed)?);
        }
        Ok(all)
    }
}

fn p99(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() * 99 / 100).copied().unwrap_or(0.0)
}
