//! Calls that are kept in flight for a time, and what they came to.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::processor_seconds;
use super::world::{failed, one_of};
use crate::cli::failure::Failure;

/// Calls that wait for their answers at any time.
pub const IN_FLIGHT: usize = 64;

/// A client that asks one thing at a time.
pub trait Caller: Send + 'static {
    /// The call of a turn; turns are counted over all clients.
    fn call(&mut self, turn: u64) -> impl Future<Output = Result<(), Status>> + Send;
}

/// What one slice came to.
pub struct Run {
    pub calls: u64,
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub processor_seconds: f64,
}

#[derive(Default)]
pub struct Slices {
    calls: u64,
    processor_seconds: f64,
    pub rates: Vec<f64>,
    pub p50_ms: Vec<f64>,
    pub p99_ms: Vec<f64>,
}

impl Slices {
    pub fn add(&mut self, run: Run) {
        self.calls += run.calls;
        self.processor_seconds += run.processor_seconds;
        self.rates.push(run.rate);
        self.p50_ms.push(run.p50_ms);
        self.p99_ms.push(run.p99_ms);
    }

    pub fn processor_us(&self) -> f64 {
        self.processor_seconds * 1e6 / self.calls.max(1) as f64
    }
}

/// Keeps [`IN_FLIGHT`] calls in flight over the connections.
pub async fn unary<C: Caller>(
    channels: &[Channel],
    slice: Duration,
    caller: impl Fn(Channel) -> C,
) -> Result<Run, Failure> {
    let (began, processor_before) = (Instant::now(), processor_seconds());
    let until = began + slice;
    let turns = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..IN_FLIGHT {
        let mut caller = caller(one_of(channels, task)?);
        let turns = Arc::clone(&turns);
        tasks.spawn(async move {
            let mut latencies_us: Vec<u32> = Vec::new();
            loop {
                let start = Instant::now();
                if start >= until {
                    return Ok(latencies_us);
                }
                caller.call(turns.fetch_add(1, Ordering::Relaxed)).await?;
                latencies_us.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
        });
    }
    let mut latencies_us = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        let task: Result<Vec<u32>, Status> =
            joined.map_err(|error| Failure::internal(format!("a caller ended early: {error}")))?;
        latencies_us.extend(task.map_err(failed)?);
    }
    let seconds = began.elapsed().as_secs_f64();
    latencies_us.sort_unstable();
    let at_ms = |percent: usize| {
        latencies_us.get(latencies_us.len() * percent / 100).map_or(0.0, |us| f64::from(*us) / 1_000.0)
    };
    Ok(Run {
        calls: latencies_us.len() as u64,
        rate: latencies_us.len() as f64 / seconds,
        p50_ms: at_ms(50),
        p99_ms: at_ms(99),
        processor_seconds: processor_seconds() - processor_before,
    })
}
