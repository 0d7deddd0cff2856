//! A cluster's state goes into a file while it serves, and another cluster begins with it: what was counted is there, once; who
//! had a variant keeps it; nobody of the one before acts in the new one. What is not exactly a backup is refused, and then
//! nothing is written.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use featureops::backup::file::{Draft, check};
use featureops_proto::v1::backup_frame::Frame;
use featureops_proto::v1::{
    BackupFrame, BackupHead, EvaluateRequest, Exposure, Outcome, ReportExposuresRequest, ReportFactsResponse,
    ReportOutcomesRequest, Verdict,
};
use featureops_tests::chance::Chance;
use featureops_tests::client::Client;
use featureops_tests::line::within;
use featureops_tests::load::{ENVIRONMENT, EXPERIMENT, Load, prepare};
use featureops_tests::site::Site;
use featureops_tests::{binary, check as checks, count, runtime};
use prost::Message as _;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(40);

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The variant and the receipt that a unit gets, without counting it.
async fn served(client: &Client, unit: &str) -> (String, String) {
    let context =
        prost_types::Struct { fields: [("targetingKey".to_owned(), unit.to_owned().into())].into() };
    let request = EvaluateRequest {
        environment: ENVIRONMENT.into(),
        flag: EXPERIMENT.into(),
        context: Some(context),
        no_exposure: true,
        ..EvaluateRequest::default()
    };
    let answer = client.evaluation.clone().evaluate(request).await.unwrap().into_inner();
    (answer.variant.unwrap_or_default(), answer.receipt)
}

async fn exposed(client: &Client, sequence: u64, units: &[(String, String)]) -> ReportFactsResponse {
    let exposures = units.iter().map(|(unit, variant)| Exposure {
        experiment: EXPERIMENT.into(),
        variant: variant.clone(),
        unit: unit.clone(),
        ..Exposure::default()
    });
    let request = ReportExposuresRequest {
        environment: ENVIRONMENT.into(),
        producer: "shop".into(),
        sequence,
        exposures: exposures.collect(),
    };
    client.facts.clone().report_exposures(request).await.unwrap().into_inner()
}

async fn outcome(client: &Client, sequence: u64, unit: &str, receipt: &str) -> ReportFactsResponse {
    let outcome =
        Outcome { metric: "orders".into(), unit: unit.into(), receipt: receipt.into(), ..Outcome::default() };
    let request = ReportOutcomesRequest {
        environment: ENVIRONMENT.into(),
        producer: "till".into(),
        sequence,
        outcomes: vec![outcome],
    };
    client.facts.clone().report_outcomes(request).await.unwrap().into_inner()
}

async fn units(client: &Client, prefix: &str, count: usize) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for n in 0..count {
        let unit = format!("{prefix}-{n}");
        let (variant, _) = served(client, &unit).await;
        all.push((unit, variant));
    }
    all
}

fn restored(site: &Site, file: &Path, more: &[&str]) -> Result<Value, String> {
    let mut command = site.command();
    command.arg("restore").arg(file).arg("--data").arg(&site.data).args(more).args(["-o", "json"]);
    let ended = within(command, PATIENCE);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ended.status.success() { Ok(json(&text(&ended.stdout))) } else { Err(text(&ended.stderr)) }
}

#[test]
fn a_new_cluster_begins_where_the_backup_was_taken_and_the_old_one_goes_on() {
    runtime().block_on(async {
        let old = Site::new();
        let node = old.start().await.unwrap();
        let client = old.client();
        prepare(&client).await.unwrap();
        let load = Load::start(&client, 2);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let early = units(&client, "early", 8).await;
        assert_eq!(exposed(&client, 1, &early).await.counted, 8);
        let (_, receipt_before) = served(&client, "early-0").await;
        assert!(!receipt_before.is_empty());

        // While facts and flags are written.
        let folder = old.beside("backups");
        fs::create_dir(&folder).unwrap();
        let made = old
            .ask(&["backup", "create", folder.to_str().unwrap(), "--with-unit-key", "-o", "json"])
            .unwrap();
        let manifest = json(&made);
        let file = PathBuf::from(manifest["file"].as_str().unwrap());
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o777,
            0o600
        );
        let known_then = load.known();
        let position: u64 = manifest["head"]["position"].as_str().unwrap().parse().unwrap();
        // Behind the backup: another receipt, other facts.
        let late = units(&client, "late", 8).await;
        assert_eq!(exposed(&client, 2, &late).await.counted, 8);
        let (_, receipt_after) = served(&client, "late-0").await;
        let known = load.end().await;
        assert!(known.acknowledged.units[0] > 0 && known.faults.is_empty(), "{:?}", known.faults);
        let audited = old.ask(&["audit", "list", "--limit", "20"]).unwrap();
        assert!(audited.contains("cluster.note_backup"), "{audited}");
        assert!(old.ask(&["backup", "verify", file.to_str().unwrap()]).unwrap().contains("is whole"));
        let listed = json(&old.ask(&["backup", "list", folder.to_str().unwrap(), "-o", "json"]).unwrap());
        assert_eq!(listed["backups"][0]["tail"]["digest"], manifest["tail"]["digest"]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing lies beside it");
        // A byte of the middle is read by --verify only.
        let bad = folder.join("bad.fobackup");
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&bad, bytes).unwrap();
        old.ask(&["backup", "list", folder.to_str().unwrap()]).unwrap();
        let why = old.ask(&["backup", "list", folder.to_str().unwrap(), "--verify"]).unwrap_err();
        assert!(why.contains("1 of 2 backups are not whole"), "{why}");
        fs::remove_file(&bad).unwrap();
        let again = old.ask(&["backup", "create", file.to_str().unwrap()]).unwrap_err();
        assert!(again.contains("a backup replaces none"), "{again}");

        let address = format!("127.0.0.1:{}", Site::another_port());
        let new = Site::new().with("FEATUREOPS_PEER_LISTEN", &address);
        let done = restored(&new, &file, &[]).unwrap();
        let stated: u64 = manifest["tail"]["digest"].as_str().unwrap().parse().unwrap();
        assert_eq!(done["digest"], format!("{stated:016x}"));
        assert_eq!(done["position"], position + 1);
        let twice = restored(&new, &file, &[]).unwrap_err();
        assert!(twice.contains("is not empty"), "{twice}");

        let mut begun = new.start().await.unwrap();
        let fresh = new.client();
        let status = json(&new.ask(&["cluster", "status", "-o", "json"]).unwrap());
        assert_eq!(status["cluster"], done["cluster"]);
        assert_ne!(status["cluster"], done["fromCluster"]);
        // Everybody keeps their variant, whichever cluster is asked.
        for n in 0..2_000 {
            let unit = format!("visitor-{n}");
            assert_eq!(served(&client, &unit).await.0, served(&fresh, &unit).await.0, "{unit}");
        }
        // All that was acknowledged before the backup was asked for is there, and nothing that was never sent.
        let (there, was) = (checks::counted(&fresh).await.unwrap(), checks::counted(&client).await.unwrap());
        for arm in 0..2 {
            assert!(there.units[arm] > 0 && there.units[arm] <= was.units[arm], "{there:?} {was:?}");
            assert!(there.units[arm] <= known_then.sent.units[arm] + 16, "{there:?} {known_then:?}");
        }
        let audit = new.ask(&["audit", "list", "--limit", "50", "-o", "json"]).unwrap();
        assert!(audit.contains("cluster.restore") && audit.contains(done["fromCluster"].as_str().unwrap()));
        assert!(new.ask(&["audit", "verify"]).unwrap().contains("intact"));

        // Facts go on; what was counted before the backup is a repeat, what came after it is new here.
        let repeated = exposed(&fresh, 1, &early).await;
        assert!(repeated.duplicate, "{repeated:?}");
        let first = exposed(&fresh, 2, &late).await;
        assert!(!first.duplicate && first.counted == 8, "{first:?}");
        // Receipts: of states up to the backup's, and no later ones of the old cluster.
        let counted = outcome(&fresh, 1, "early-0", &receipt_before).await;
        assert_eq!((counted.counted, counted.verdicts.len()), (1, 0), "{counted:?}");
        let refused = outcome(&fresh, 2, "late-0", &receipt_after).await;
        assert_eq!(refused.verdicts[0].verdict(), Verdict::BadReceipt, "{refused:?}");
        let (_, own) = served(&fresh, "late-0").await;
        assert_ne!(own[..4], receipt_after[..4], "another key seals");
        assert_eq!(outcome(&fresh, 3, "late-0", &own).await.counted, 1);
        assert_eq!(
            outcome(&client, 3, "late-0", &receipt_after).await.counted,
            1,
            "in its own cluster it counts"
        );

        // A second node joins, and the first one starts again: the same cluster.
        let second = Site::new()
            .with("FEATUREOPS_NODE", "2")
            .with("FEATUREOPS_PEER_LISTEN", format!("127.0.0.1:{}", Site::another_port()))
            .with("FEATUREOPS_JOIN", address);
        let joined = second.start().await.unwrap();
        assert_eq!(served(&second.client(), "early-0").await.0, served(&fresh, "early-0").await.0);
        let begin = Instant::now();
        while let Err(why) = new.ask(&["cluster", "promote", "2"]) {
            assert!(begin.elapsed() < PATIENCE, "{why}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(begun.runs());
        begun.kill();
        begun = new.start().await.unwrap();
        assert!(new.ask(&["experiment", "status", EXPERIMENT]).unwrap().contains("running"));
        drop((node, begun, joined));
    });
}

/// A small backup with and one without the key, and the folder they lie in.
async fn two_backups(site: &Site) -> (PathBuf, PathBuf) {
    let node = site.start().await.unwrap();
    prepare(&site.client()).await.unwrap();
    let (with, without) = (site.beside("with.fobackup"), site.beside("without.fobackup"));
    site.ask(&["backup", "create", with.to_str().unwrap(), "--with-unit-key"]).unwrap();
    site.ask(&["backup", "create", without.to_str().unwrap()]).unwrap();
    assert!(node.drain().await.unwrap().success());
    (with, without)
}

#[test]
fn what_is_not_exactly_a_backup_is_refused_by_name_and_nothing_is_written() {
    let (flips, seed) = (count("FEATUREOPS_FLIPS", 40), count("FEATUREOPS_SEED", 1));
    runtime().block_on(async {
        let site = Site::new();
        let (with, without) = two_backups(&site).await;
        let bytes = fs::read(&with).unwrap();
        let broken = site.beside("broken.fobackup");
        let to = Site::new();
        let refuse = |content: &[u8], part: &str| {
            fs::write(&broken, content).unwrap();
            let why = restored(&to, &broken, &[]).unwrap_err();
            assert!(why.contains("broken.fobackup") && why.contains(part), "{part}: {why}");
            assert!(!to.data.exists(), "{part}: something was written");
        };
        for length in [0, 7, 8, 20, bytes.len() / 2, bytes.len() - 17, bytes.len() - 1] {
            refuse(&bytes[..length], if length < 8 { "is no backup" } else { "cut off" });
        }
        refuse(b"#!/bin/sh\necho a file of somebody else\n", "is no backup");
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"more");
        refuse(&longer, "cut off");
        let mut chance = Chance::new(seed);
        for _ in 0..flips {
            let (at, bit) = (chance.below(bytes.len() as u64) as usize, chance.below(8));
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            refuse(&flipped, "");
        }
        // Written with every checksum right, and of another format, or a level that nobody knows.
        let rewritten = |change: &dyn Fn(&mut BackupHead)| {
            let _ = fs::remove_file(&broken);
            let mut frames = Vec::new();
            check(&with, &mut |frame| {
                frames.push(frame);
                Ok(())
            })
            .unwrap();
            let tail = check(&with, &mut |_| Ok(())).unwrap().tail.unwrap();
            let mut draft = Draft::begin(&broken).unwrap();
            let mut sum = featureops::backup::Sum::default();
            for mut frame in frames {
                if let Frame::Head(head) = &mut frame {
                    change(head);
                }
                let frame = BackupFrame { frame: Some(frame) };
                sum.add(&frame.encode_to_vec());
                draft.add(&frame).unwrap();
            }
            let tail = featureops_proto::v1::BackupTail { sha256: sum.finish(), ..tail };
            draft.add(&BackupFrame { frame: Some(Frame::Tail(tail)) }).unwrap();
            draft.finish().map(drop)
        };
        let why = rewritten(&|head| head.format = 2).unwrap_err();
        assert!(why.contains("of format 2") && !broken.exists(), "{why}");
        for (change, part) in [
            (
                &(|head: &mut BackupHead| head.feature_level = 99) as &dyn Fn(&mut BackupHead),
                "feature level 99",
            ),
            (&|head| head.position += 1, "not the one that head and tail speak of"),
        ] {
            rewritten(change).unwrap();
            let why = restored(&to, &broken, &[]).unwrap_err();
            assert!(why.contains(part) && !to.data.exists(), "{why}");
        }

        // The unit key: missing, another's, no key; and then the right one.
        let why = restored(&to, &without, &[]).unwrap_err();
        assert!(why.contains("--unit-key FILE") && !to.data.exists(), "{why}");
        let (key, other) = (site.data.join("unit.key"), site.beside("other.key"));
        fs::write(&other, [1; 16]).unwrap();
        let why = restored(&to, &without, &["--unit-key", other.to_str().unwrap()]).unwrap_err();
        assert!(why.contains("was counted under") && !to.data.exists(), "{why}");
        fs::write(&other, [1; 15]).unwrap();
        let why = restored(&to, &without, &["--unit-key", other.to_str().unwrap()]).unwrap_err();
        assert!(why.contains("a key has 16 bytes") && !to.data.exists(), "{why}");
        fs::create_dir(&to.data).unwrap();
        fs::write(to.data.join("letter.txt"), "mine").unwrap();
        let why = restored(&to, &with, &[]).unwrap_err();
        assert!(why.contains("is not empty, it holds `letter.txt`"), "{why}");
        assert_eq!(fs::read_dir(&to.data).unwrap().count(), 1);
        fs::remove_dir_all(&to.data).unwrap();
        restored(&to, &without, &["--unit-key", key.to_str().unwrap()]).unwrap();
        // The new cluster has a key of its own for its members before anybody can call it.
        let peer_key = |site: &Site| fs::read(site.data.join("peer.key")).unwrap();
        assert_eq!(peer_key(&to).len(), 32);
        assert_ne!(peer_key(&to), peer_key(&site));
        let mode = fs::metadata(to.data.join("peer.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(to.start().await.unwrap());
    });
}

#[test]
fn a_disk_without_room_leaves_no_half_file_and_no_folder_that_looks_whole() {
    runtime().block_on(async {
        let site = Site::new();
        let (with, _) = two_backups(&site).await;
        let node = site.start().await.unwrap();
        let folder = site.beside("full");
        fs::create_dir(&folder).unwrap();
        let limited = |line: String| {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("ulimit -f 4 && exec {} {line}", binary::featureops().display()));
            within(site.own(shell), PATIENCE)
        };
        // Files of 2 KiB at most: not even the head's neighbours fit.
        let server = format!("http://127.0.0.1:{}", site.port);
        let ended = limited(format!("backup create {} --server {server}", folder.display()));
        let why = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && why.contains("cannot be written"), "{why}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "nothing is left of it");
        // The node took no harm, and gives another one.
        site.ask(&["backup", "create", folder.to_str().unwrap()]).unwrap();

        let to = Site::new();
        let ended = limited(format!("restore {} --data {}", with.display(), to.data.display()));
        assert!(!ended.status.success());
        let ended = to.start_unready().await.unwrap_err();
        assert!(ended.output.contains("is half restored"), "{ended}");
        restored(&to, &with, &[]).unwrap();
        drop((to.start().await.unwrap(), node));
    });
}

#[test]
fn a_restore_that_is_killed_is_begun_again_or_says_that_it_did_not_end() {
    let (kills, seed) = (count("FEATUREOPS_RESTORE_KILLS", 12), count("FEATUREOPS_SEED", 1));
    runtime().block_on(async {
        let site = Site::new();
        let (with, _) = two_backups(&site).await;
        let to = Site::new();
        let begin = Instant::now();
        restored(&to, &with, &[]).unwrap();
        let whole_us = begin.elapsed().as_micros() as u64;
        fs::remove_dir_all(&to.data).unwrap();
        let mut chance = Chance::new(seed);
        let mut half = 0;
        for round in 0..kills {
            let mut command = to.command();
            command.arg("restore").arg(&with).arg("--data").arg(&to.data);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(chance.below(whole_us)));
            child.kill().unwrap();
            child.wait().unwrap();
            match to.data.join("restoring").exists() {
                true => {
                    half += 1;
                    let ended = to.start_unready().await.unwrap_err();
                    assert!(ended.output.contains("half restored"), "round {round}: {ended}");
                }
                // Before it wrote anything, or after it was through.
                false if to.data.join("marks").exists() => drop(to.start().await.unwrap()),
                false => {}
            }
            if round % 2 == 1 {
                let _ = fs::remove_dir_all(&to.data);
            } else if to.data.join("restoring").exists() {
                restored(&to, &with, &[]).unwrap();
                drop(to.start().await.unwrap());
                fs::remove_dir_all(&to.data).unwrap();
            } else {
                let _ = fs::remove_dir_all(&to.data);
            }
        }
        println!("{half} of {kills} kills left a half restored folder");
        // By hand, whatever the kills met: what lies in a folder that says so goes.
        fs::create_dir(&to.data).unwrap();
        for name in ["restoring", "marks", "unit.key"] {
            fs::write(to.data.join(name), "half of it").unwrap();
        }
        assert!(to.start_unready().await.unwrap_err().output.contains("half restored"));
        restored(&to, &with, &[]).unwrap();
        drop(to.start().await.unwrap());
    });
}
