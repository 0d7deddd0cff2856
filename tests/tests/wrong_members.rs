//! Who does not belong into a cluster, and a member whose disk lost something: a second node with a member's number, a node of another
//! cluster, a log that was cut, a snapshot whose bytes change on the way. Each is refused with a clear word, the others go on, and
//! what is told as the way out is one.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featureops_tests::chance::Chance;
use featureops_tests::client::Client;
use featureops_tests::line::Line;
use featureops_tests::load::{Known, Load, prepare};
use featureops_tests::several::Several;
use featureops_tests::site::Site;
use featureops_tests::{check, runtime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut found: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !found() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn logged(site: &Site) -> String {
    std::fs::read_to_string(site.beside("node.log")).unwrap_or_default()
}

/// Load for a moment.
async fn loaded(several: &Several) -> Known {
    prepare(&several.site(1).client()).await.unwrap();
    let load = Load::start(&Client::of_any(&several.ports()), 2);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    load.end().await
}

async fn whole(several: &Several, known: &Known, when: &str) {
    for node in several.nodes.keys() {
        let faults = check::settled(&several.site(*node).client(), known).await;
        assert!(faults.is_empty(), "{when}, node {node}: {faults:#?}");
    }
    several.same_digest().await;
}

async fn writes(several: &Several, key: &str) {
    let flag =
        ["flag", "set", key, "--type", "boolean", "--variant", "on=true", "--default", "on", "--safe", "on"];
    several.patiently(&flag).await;
}

#[test]
fn a_members_number_taken_again_and_a_node_of_another_cluster_stay_out() {
    runtime().block_on(async {
        let trio = Several::start(3).await;
        let known = loaded(&trio).await;
        let join = |site: Site| {
            let members: Vec<&str> = (1..=3)
                .map(|node| trio.site(node).variable("FEATUREOPS_PEER_LISTEN").unwrap().to_str().unwrap())
                .collect();
            site.with("FEATUREOPS_JOIN", members.join(","))
                .with("FEATUREOPS_PEER_LISTEN", format!("127.0.0.1:{}", Site::another_port()))
        };

        // An empty folder under the number of a member that runs.
        let again = join(Site::new().with("FEATUREOPS_NODE", "3"));
        let node = again.start_unready().await.unwrap_or_else(|ended| panic!("{ended}"));
        until("the number is said to be taken", || {
            let log = logged(&again);
            log.contains("node number 3 is in use") && log.contains("under another number")
        })
        .await;
        writes(&trio, "meanwhile").await;
        assert_eq!(trio.cluster(1)["members"].as_array().unwrap().len(), 3);
        node.kill();

        // A node that is a cluster of its own, with something in it, and is told to join afterwards.
        let own = Site::new().with("FEATUREOPS_NODE", "4");
        let alone = own.start().await.unwrap_or_else(|ended| panic!("{ended}"));
        let flag = [
            "flag",
            "set",
            "own",
            "--type",
            "boolean",
            "--variant",
            "on=true",
            "--default",
            "on",
            "--safe",
            "on",
        ];
        Line(&own).ends(0, &flag);
        drop(alone.drain().await);
        // It stays what it is, and neither takes anything of the other: what it holds nobody gave up for it.
        let own = join(own);
        let node = own.start().await.unwrap_or_else(|ended| panic!("{ended}"));
        Line(&own).ends(0, &["flag", "get", "own"]);
        Line(&own).says(3, "meanwhile", &["flag", "get", "meanwhile"]);
        assert!(trio.site(1).ask(&["flag", "get", "own"]).is_err());
        // Nor can it be added from the members' side.
        let address = own.variable("FEATUREOPS_PEER_LISTEN").unwrap().to_str().unwrap().to_owned();
        let why = trio.site(1).ask(&["cluster", "add-learner", "4", &address]).unwrap_err();
        println!("added by name: {why}");
        assert!(why.contains("cluster"), "{why}");
        node.kill();
        assert_eq!(trio.cluster(1)["members"].as_array().unwrap().len(), 3);
        writes(&trio, "at-last").await;
        whole(&trio, &known, "after strangers").await;
    });
}

/// The file of the log that was written last.
fn last_log(site: &Site) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(site.data.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.metadata().unwrap().len() > 0)
        .collect();
    files.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    files.pop().unwrap()
}

#[test]
fn a_member_whose_log_was_cut_does_not_start_and_another_takes_its_place() {
    runtime().block_on(async {
        let mut trio = Several::start(3).await;
        let known = loaded(&trio).await;
        trio.nodes.remove(&3).unwrap().kill();
        let log = last_log(trio.site(3));
        let length = log.metadata().unwrap().len();
        std::fs::File::options().write(true).open(&log).unwrap().set_len(length / 2).unwrap();

        let ended = trio.site(3).start().await.map(drop).unwrap_err();
        println!("{ended}");
        assert!(ended.status.is_some_and(|status| !status.success()), "{ended}");
        assert!(ended.output.contains("disk loss") || ended.output.contains("lost"), "{ended}");
        assert!(ended.output.contains("replace") || ended.output.contains("remove"), "the way out: {ended}");
        // Nothing was changed by the attempt: it says the same again.
        let again = trio.site(3).start().await.map(drop).unwrap_err();
        assert!(again.status.is_some(), "{again}");
        assert_eq!(log.metadata().unwrap().len(), length / 2);

        // The others never needed it.
        writes(&trio, "meanwhile").await;
        let fourth = trio.join(|_| {}).await;
        trio.patiently(&["cluster", "replace", "3", &fourth.to_string()]).await;
        let status = trio.cluster(1);
        let members = status["members"].as_array().unwrap();
        assert!(members.len() == 3 && members.iter().all(|member| member["node"] != "3"), "{status:#}");
        whole(&trio, &known, "replaced").await;

        // Emptied, as it was told, it comes back under its number as somebody new.
        std::fs::remove_dir_all(&trio.site(3).data).unwrap();
        trio.power(3).await;
        trio.patiently(&["cluster", "promote", "3"]).await;
        whole(&trio, &known, "back").await;
    });
}

/// A way to a port on which bytes change: one in each of the first large pieces that pass.
async fn garbler(listener: TcpListener, to: u16, changed: Arc<AtomicU64>) {
    const CHANGES: u64 = 8;
    /// Smaller reads are calls and answers; these are pieces of a snapshot.
    const LARGE: usize = 32 << 10;
    let mut chance = Chance::new(1);
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok((outer, _)) = listener.accept().await {
        let (changed, mut chance) = (Arc::clone(&changed), Chance::new(chance.draw()));
        tasks.spawn(async move {
            let Ok(inner) = TcpStream::connect(("127.0.0.1", to)).await else { return };
            let (mut from_outer, mut to_outer) = outer.into_split();
            let (mut from_inner, mut to_inner) = inner.into_split();
            let there = async {
                let mut block = vec![0; 64 << 10];
                loop {
                    let length = match from_outer.read(&mut block).await {
                        Ok(0) | Err(_) => break,
                        Ok(length) => length,
                    };
                    if length >= LARGE && changed.load(Ordering::SeqCst) < CHANGES {
                        changed.fetch_add(1, Ordering::SeqCst);
                        block[chance.below(length as u64) as usize] ^= 1 << chance.below(8);
                    }
                    if to_inner.write_all(&block[..length]).await.is_err() {
                        break;
                    }
                }
                let _ = to_inner.shutdown().await;
            };
            let back = async {
                let _ = tokio::io::copy(&mut from_inner, &mut to_outer).await;
            };
            tokio::join!(there, back);
        });
    }
}

#[test]
fn a_snapshot_whose_bytes_change_on_the_way_is_taken_again_until_it_is_whole() {
    runtime().block_on(async {
        let mut trio = Several::start(1).await;
        let known = loaded(&trio).await;
        // A state of several pieces.
        let list: String = (0..200_000).map(|unit| format!("unit-{unit}\n")).collect();
        let file = Line(trio.site(1)).file("units.txt", &list);
        trio.patiently(&["segment", "set", "many"]).await;
        trio.patiently(&["segment", "add", "many", "--file", &file]).await;
        // So that who joins is given a snapshot, and not the log.
        for number in 0..600 {
            let client = trio.site(1).client();
            let description = format!("written the {number}th time");
            let flag = featureops_proto::v1::Flag {
                name: "environments/production/flags/often".into(),
                r#type: featureops_proto::v1::ValueType::String.into(),
                variants: [("on".to_owned(), "on".into())].into(),
                default_variant: Some("on".into()),
                description,
                ..Default::default()
            };
            let request = featureops_proto::v1::SetFlagRequest { flag: Some(flag), ..Default::default() };
            client.flags.clone().set_flag(request).await.unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = listener.local_addr().unwrap();
        let changed = Arc::new(AtomicU64::new(0));
        let mut way = None;
        let second = trio
            .join(|site| {
                let listens = site.variable("FEATUREOPS_PEER_LISTEN").unwrap().to_str().unwrap();
                let port = listens.rsplit(':').next().unwrap().parse().unwrap();
                way = Some(tokio::spawn(garbler(listener, port, Arc::clone(&changed))));
                site.set("FEATUREOPS_ADVERTISE", door.to_string());
            })
            .await;
        trio.patiently(&["cluster", "promote", &second.to_string()]).await;
        whole(&trio, &known, "through a way that changes bytes").await;
        let changed = changed.load(Ordering::SeqCst);
        println!("{changed} bytes changed on the way");
        assert!(changed > 0, "nothing was changed: the test proves nothing");
        way.unwrap().abort();
    });
}
