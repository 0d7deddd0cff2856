//! One flipped bit anywhere in a stopped node's folder: the next start refuses and says which file and what to do, or
//! everything acknowledged is there. Never silently short, never a hang, never an end without a word.
//!
//! Positions are drawn from a seed: three of five by size, so that the log and the snapshots are hit where their bytes are,
//! the others by file, so that the small ones (marks, key, the engine's own) are hit as well. `FEATUREOPS_FLIPS` and
//! `FEATUREOPS_SEED` make it longer or other.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use featureops_proto::v1::{Exposure, ReportExposuresRequest};
use featureops_tests::chance::Chance;
use featureops_tests::load::{ARMS, ENVIRONMENT, EXPERIMENT, Known, Load, prepare};
use featureops_tests::site::Site;
use featureops_tests::{check, count, folder, runtime};
use tokio::task::JoinSet;

/// Two snapshots, so that the engine holds a living one and a dead one beside it; and a log that was purged behind it.
const SNAPSHOT_EVERY: &str = "1500";
const ENTRIES: u64 = 3_200;

#[derive(Debug, Clone)]
struct Flip {
    file: PathBuf,
    bit: u64,
}

/// How a start from a damaged folder ended.
#[derive(Debug)]
enum Outcome {
    Refused,
    Whole,
    Wrong(String),
}

/// A folder with flags, facts and a snapshot, and what its callers know.
async fn make() -> (Site, Known) {
    let site = Site::new().with("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", SNAPSHOT_EVERY);
    let node = site.start().await.unwrap_or_else(|ended| panic!("first start: {ended}"));
    let client = site.client();
    prepare(&client).await.unwrap();
    let load = Load::start(&client, 4);
    check::applied(site.port, ENTRIES, Duration::from_secs(90)).await;
    let known = load.end().await;
    let faults = check::settled(&client, &known).await;
    assert!(faults.is_empty(), "before any damage: {faults:#?}");
    let status = node.drain().await.unwrap_or_else(|ended| panic!("drain: {ended}"));
    assert!(status.success(), "drain ended with {status}");
    (site, known)
}

fn flips(data: &Path, number: u64, seed: u64) -> Vec<Flip> {
    let mut chance = Chance::new(seed);
    let files: Vec<(PathBuf, u64)> = folder::files(data)
        .into_iter()
        .map(|path| (path.strip_prefix(data).unwrap().to_path_buf(), fs::metadata(&path).unwrap().len()))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    for (file, bytes) in &files {
        println!("{bytes:>9} bytes in {}", file.display());
    }
    let all: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    (0..number)
        .map(|turn| {
            if turn % 5 < 3 {
                let mut at = chance.below(all);
                let held = files.iter().find(|(_, bytes)| {
                    let inside = at < *bytes;
                    if !inside {
                        at -= bytes;
                    }
                    inside
                });
                Flip { file: held.unwrap().0.clone(), bit: at * 8 + chance.below(8) }
            } else {
                let (file, bytes) = &files[(chance.below(files.len() as u64)) as usize];
                Flip { file: file.clone(), bit: chance.below(bytes * 8) }
            }
        })
        .collect()
}

/// Under another key every unit is a new one, so facts must be refused, by the file's name.
async fn refuses_facts(site: &Site) -> bool {
    let unit = Exposure {
        experiment: EXPERIMENT.into(),
        unit: "shop-0-0".into(),
        variant: ARMS[0].into(),
        ..Exposure::default()
    };
    let request = ReportExposuresRequest {
        environment: ENVIRONMENT.into(),
        producer: "after-damage".into(),
        sequence: 1,
        exposures: vec![unit],
    };
    let answer = site.client().facts.report_exposures(request).await;
    answer.is_err_and(|status| status.message().contains("unit.key"))
}

async fn try_one(site: &Site, original: &Path, flip: &Flip, known: &Known) -> Outcome {
    folder::copy(original, &site.data);
    folder::flip(&site.data.join(&flip.file), flip.bit);
    match site.start().await {
        Ok(node) => {
            let faults = check::settled(&site.client(), known).await;
            let foreign = flip.file.ends_with("unit.key");
            let outcome = match faults.is_empty() {
                true if foreign && !refuses_facts(site).await => {
                    Outcome::Wrong("takes facts under another key: every unit would count twice".to_owned())
                }
                true => Outcome::Whole,
                false => Outcome::Wrong(format!("served with {faults:#?}\n{}", node.output())),
            };
            node.kill();
            outcome
        }
        Err(ended) => {
            // `log`, `values`, `marks` or `unit.key`: the file itself, or the folder it is in.
            let place = flip.file.iter().next().unwrap().to_string_lossy();
            let said = ended.output.contains(place.as_ref()) && ended.output.contains("restore");
            let refused = ended.status.is_some_and(|status| status.code().is_some_and(|code| code != 0));
            match said && refused {
                true => Outcome::Refused,
                false => Outcome::Wrong(format!("{ended}")),
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let (number, seed) = (count("FEATUREOPS_FLIPS", 200), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_FLIPS={number} FEATUREOPS_SEED={seed}");
    runtime().block_on(async {
        let (original, known) = make().await;
        let flips = Arc::new(flips(&original.data, number, seed));
        let begin = Instant::now();
        let turn = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..2 {
            let (flips, turn, known) = (Arc::clone(&flips), Arc::clone(&turn), known.clone());
            let data = original.data.clone();
            let site = Site::new().with("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", SNAPSHOT_EVERY);
            workers.spawn(async move {
                let mut outcomes = Vec::new();
                while let Some(flip) = flips.get(turn.fetch_add(1, Ordering::Relaxed)) {
                    outcomes.push((flip.clone(), try_one(&site, &data, flip, &known).await));
                }
                outcomes
            });
        }
        let outcomes: Vec<(Flip, Outcome)> = workers.join_all().await.into_iter().flatten().collect();
        let mut table: BTreeMap<String, [usize; 3]> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (flip, outcome) in &outcomes {
            let row = table.entry(flip.file.display().to_string()).or_default();
            match outcome {
                Outcome::Refused => row[0] += 1,
                Outcome::Whole => row[1] += 1,
                Outcome::Wrong(why) => {
                    row[2] += 1;
                    wrong.push(format!("bit {} of {}: {why}", flip.bit, flip.file.display()));
                }
            }
        }
        println!("{number} flips in {:.1?}; file: [refused, whole, wrong]", begin.elapsed());
        for (file, row) in &table {
            println!("{file}: {row:?}");
        }
        assert_eq!(outcomes.len() as u64, number);
        assert!(wrong.is_empty(), "{} of {number}:\n{}", wrong.len(), wrong.join("\n\n"));
    });
}
