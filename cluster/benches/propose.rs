//! Proposals of one node over its real disk: `cargo bench -p featureops-cluster --bench propose`.
//!
//! Prints rate and latency for several numbers of writers and lengths of entries. The fold only counts.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use bytes::Bytes;
use featureops_cluster::environment::{Clock, Environment, SystemClock};
use featureops_cluster::{Cluster, Fold, NoSink, Options, Violation};
use featureops_proto::log::Reply;

#[derive(Clone, Default)]
struct Count(u64);

impl Fold for Count {
    type Effect = ();

    fn apply(&mut self, _position: u64, _entry: &[u8], _effects: &mut Vec<()>) -> Result<Reply, Violation> {
        self.0 += 1;
        Ok(Reply::default())
    }

    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        bytes.try_into().map(|bytes| Self(u64::from_be_bytes(bytes))).map_err(|_| "length".to_owned())
    }
}

const MS: u64 = 3_000;

async fn run(writers: usize, bytes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::production(folder.path());
    let options = Options::new(1, "127.0.0.1:7400");
    let cluster = Cluster::start(environment, options, Count::default(), Arc::new(NoSink)).await.unwrap();
    cluster.ready(5_000).await.unwrap();
    cluster.linearizable().await.unwrap();
    let clock = Arc::new(SystemClock::start());
    let micros = |from: std::time::Duration| from.as_micros() as u64;
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (cluster, clock) = (cluster.clone(), Arc::clone(&clock));
            tokio::spawn(async move {
                let entry = Bytes::from(vec![7; bytes]);
                let mut latencies = Vec::new();
                while clock.monotonic_ms() < MS {
                    let start = tokio::time::Instant::now();
                    cluster.propose(entry.clone()).await.unwrap();
                    latencies.push(micros(start.elapsed()));
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    let elapsed_ms = clock.monotonic_ms();
    latencies.sort_unstable();
    let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or(0);
    println!(
        "{writers:4} writers x {bytes:6} bytes: {:7} proposals/s, p50 {:6} us, p99 {:6} us",
        latencies.len() as u64 * 1000 / elapsed_ms.max(1),
        at(50),
        at(99)
    );
    cluster.shutdown().await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (writers, bytes) in [(1, 100), (64, 100), (256, 100), (1, 8192), (64, 8192)] {
        runtime.block_on(run(writers, bytes));
    }
}
