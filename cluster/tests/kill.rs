//! kill -9 in the middle of writing, again and again: what was acknowledged is there, without a hole.

#![allow(clippy::unwrap_used, clippy::panic)]

mod toy;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use featureops_cluster::environment::Environment;
use featureops_cluster::{Cluster, NoSink, Options};
use toy::Toy;

const FOLDER: &str = "FEATUREOPS_KILL_FOLDER";
const ROUNDS: u64 = 12;

async fn start(folder: &str) -> Cluster<Toy> {
    let mut options = Options::new(1, "127.0.0.1:7400");
    options.snapshot_after_entries = 500;
    options.keep_entries = 50;
    let environment = Environment::production(folder);
    let cluster = Cluster::start(environment, options, Toy::default(), Arc::new(NoSink)).await.unwrap();
    cluster.ready(5_000).await.unwrap();
    cluster.linearizable().await.unwrap();
    cluster
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The victim: writes rising numbers from eight writers, prints each one that was acknowledged, and never ends.
#[test]
#[ignore = "runs only as the child of the test below"]
fn victim() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    runtime().block_on(async {
        let cluster = start(&folder).await;
        let writers: Vec<_> = (0..8u64)
            .map(|writer| {
                let cluster = cluster.clone();
                tokio::spawn(async move {
                    for number in 0u64.. {
                        let text = format!("{}-{writer}-{number}", std::process::id());
                        cluster.propose(text.clone().into()).await.unwrap();
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "\nacked {text}").unwrap();
                        out.flush().unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "victim", "--nocapture"])
            .env(FOLDER, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            lines.filter_map(|line| line.strip_prefix("acked ").map(str::to_owned)).collect::<Vec<_>>()
        });
        let alive = Duration::from_millis(300 + 61 * round);
        runtime().block_on(async { tokio::time::sleep(alive).await });
        child.kill().unwrap();
        child.wait().unwrap();
        // The last line may be cut in the middle.
        let mut lines = reader.join().unwrap();
        lines.pop();
        acknowledged.extend(lines);
    }
    assert!(
        acknowledged.len() > 100,
        "only {} were acknowledged: the test proves nothing",
        acknowledged.len()
    );
    runtime().block_on(async {
        let cluster = start(&path).await;
        let held: std::collections::BTreeSet<String> = cluster.read(|toy| {
            toy.entries.iter().map(|(_, entry)| String::from_utf8_lossy(entry).into_owned()).collect()
        });
        let lost = acknowledged.iter().filter(|entry| !held.contains(*entry)).count();
        assert_eq!(lost, 0, "of {} acknowledged", acknowledged.len());
        cluster.shutdown().await;
    });
}
