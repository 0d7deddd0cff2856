//! The log's bytes on the disk are bounded, however large its entries are.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use featureops_cluster::environment::Environment;
use featureops_cluster::fold::{Fold, Violation};
use featureops_cluster::{Cluster, NoSink, Options};
use featureops_proto::log::Reply;

/// Holds the last large entry, as a flag file that is imported again and again is held once.
#[derive(Clone, Default)]
struct Latest(Arc<Vec<u8>>, u64);

/// Longer than any tick.
const LARGE: usize = 1_000;

impl Fold for Latest {
    type Effect = ();

    fn apply(&mut self, _: u64, entry: &[u8], _: &mut Vec<()>) -> Result<Reply, Violation> {
        if entry.len() > LARGE {
            *self = Self(Arc::new(entry.to_vec()), self.1 + 1);
        }
        Ok(Reply::default())
    }

    fn encode(&self) -> Vec<u8> {
        [&self.1.to_be_bytes(), self.0.as_slice()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (count, rest) = bytes.split_first_chunk().ok_or("too short")?;
        Ok(Self(Arc::new(rest.to_vec()), u64::from_be_bytes(*count)))
    }
}

/// Bytes that the files of a folder take on the disk: one that was made long and not filled takes less than its length.
fn bytes_on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = std::fs::read_dir(folder) else { return 0 };
    // A file that is removed meanwhile takes nothing.
    found
        .flatten()
        .filter_map(|entry| {
            let data = entry.metadata().ok()?;
            Some(if data.is_dir() { bytes_on_disk(&entry.path()) } else { data.blocks() * 512 })
        })
        .sum()
}

async fn eventually(what: &str, reached: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn start(folder: &Path) -> Cluster<Latest> {
    let mut options = Options::new(1, "127.0.0.1:7400");
    // Purged files are gone with the next sync: the tick's, at the latest.
    options.tick_ms = 100;
    let cluster =
        Cluster::start(Environment::production(folder), options, Latest::default(), Arc::new(NoSink));
    let cluster = cluster.await.unwrap();
    cluster.ready(10_000).await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_entries_leave_a_bounded_log_and_a_restart_has_them() {
    const ENTRY: usize = 1_400_000;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut imports = 0;
    for round in 0..3 {
        let cluster = start(folder.path()).await;
        cluster.linearizable().await.unwrap();
        cluster.read(|latest| assert_eq!(latest.1, imports, "round {round}"));
        for _ in 0..35 {
            imports += 1;
            cluster.propose(Bytes::from(vec![imports as u8; ENTRY])).await.unwrap();
            // 8 MiB until a snapshot is due, the entry that passed them, 1 MiB and an entry that are kept, and a file
            // that is not closed, with the entry that will close it.
            eventually("a short log", || bytes_on_disk(&log) < (8 + 1 + 2) * (1 << 20) + 3 * ENTRY as u64)
                .await;
        }
        let all = bytes_on_disk(folder.path());
        // And two snapshots, while one replaces the other.
        println!("{all} bytes on the disk after {imports} entries");
        assert!(all < 24 << 20, "{all} bytes, for {} of entries", imports as usize * ENTRY);
        assert!(cluster.health().snapshot.is_some() && cluster.health().purged.is_some());
        cluster.read(|latest| {
            assert!(latest.1 == imports && *latest.0 == vec![imports as u8; ENTRY], "round {round}");
        });
        cluster.shutdown().await;
    }
}
