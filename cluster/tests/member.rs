//! A member outlives its disk's failures: writes come back by themselves, readers see no step back, nothing is lost.

#![allow(clippy::unwrap_used, clippy::panic)]

mod toy;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use featureops_cluster::environment::{Clock, Entropy, Environment, Inline, SystemClock, Tcp};
use featureops_cluster::storage::folder::Folder;
use featureops_cluster::storage::memory::MemoryDisk;
use featureops_cluster::storage::{LogEntry, OpenError, Storage};
use featureops_cluster::{EffectSink, Member, NoSink, Options, ProposeError, StartError, Waits};
use parking_lot::Mutex;
use toy::Toy;

#[derive(Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::SeqCst) as u8;
        }
    }
}

fn world(storage: Arc<dyn Storage>) -> Environment {
    Environment {
        clock: Arc::new(SystemClock::start()) as Arc<dyn Clock>,
        entropy: Arc::new(Counter::default()),
        storage,
        transport: Arc::new(Tcp),
        compute: Arc::new(Inline),
    }
}

fn options() -> Options {
    Options { tick_ms: 3_600_000, ..Options::new(1, "127.0.0.1:7400") }
}

async fn start(disk: &MemoryDisk, sink: Arc<dyn EffectSink<Toy>>) -> Result<Member<Toy>, StartError> {
    Member::start(world(Arc::new(disk.clone())), options(), Toy::default(), sink).await
}

fn entry(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn held(member: &Member<Toy>) -> Vec<String> {
    member.read(|toy| {
        toy.entries.iter().map(|(_, entry)| String::from_utf8_lossy(entry).into_owned()).collect()
    })
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

/// Positions told, and of replacements.
#[derive(Default)]
struct Ears(Mutex<Vec<u64>>, Mutex<Vec<(u64, usize)>>);

impl EffectSink<Toy> for Ears {
    fn applied(&self, _: &Toy, position: u64, _: &[u64]) {
        self.0.lock().push(position);
    }
    fn installed(&self, state: &Toy, position: u64) {
        self.1.lock().push((position, state.entries.len()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_with_room_again_is_opened_again_and_nothing_acknowledged_is_lost_or_doubled() {
    let disk = MemoryDisk::default();
    let ears = Arc::new(Ears::default());
    let member = start(&disk, ears.clone()).await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            let text = format!("{round}-{number}");
            member.propose(entry(&text)).await.unwrap();
            acknowledged.push(text);
        }
        disk.set_full(true);
        let unknown = format!("{round}-unknown");
        let error = member.propose(entry(&unknown)).await.unwrap_err();
        assert!(matches!(error, ProposeError::Unknown { .. } | ProposeError::Waiting { .. }), "{error}");
        eventually("it waits", || member.health().waits.is_some()).await;
        let error = member.propose(entry("refused")).await.unwrap_err();
        assert!(matches!(&error, ProposeError::Waiting { why } if why.contains("no space")), "{error}");
        tokio::time::sleep(Duration::from_secs(20)).await;
        let health = member.health();
        assert!(matches!(health.waits, Some(Waits::Tries { attempts }) if attempts > 2), "{health:?}");
        assert_eq!(held(&member).len(), acknowledged.len(), "reads go on");

        disk.set_full(false);
        eventually("it writes", || member.health().waits.is_none()).await;
        assert!(ears.1.lock().last().is_some_and(|(_, entries)| *entries >= acknowledged.len()));
        let mut expected = acknowledged.clone();
        // What nobody was told of is there once, or not at all.
        if held(&member).contains(&unknown) {
            expected.push(unknown.clone());
            acknowledged.push(unknown);
        }
        assert_eq!(held(&member), expected);
    }
    member.propose(entry("last")).await.unwrap();
    assert!(!held(&member).contains(&"refused".to_owned()));
    let told = ears.0.lock().clone();
    assert!(!told.is_empty());
    assert!(told.is_sorted_by(|a, b| a < b), "an entry was told twice: {told:?}");
    member.shutdown().await;
    assert!(matches!(member.propose(entry("late")).await, Err(ProposeError::ShuttingDown)));
}

#[tokio::test(start_paused = true)]
async fn a_start_without_room_reads_all_that_was_acknowledged_and_writes_when_there_is_room() {
    for snapshot in [false, true] {
        let disk = MemoryDisk::default();
        let member = start(&disk, Arc::new(NoSink)).await.unwrap();
        for number in 0..20 {
            member.propose(entry(&number.to_string())).await.unwrap();
            if snapshot && number == 10 {
                member.snapshot().await.unwrap();
                eventually("a snapshot", || member.health().snapshot.is_some()).await;
            }
        }
        member.shutdown().await;
        disk.set_full(true);
        disk.crash();
        let member = start(&disk, Arc::new(NoSink)).await.unwrap();
        assert_eq!(held(&member).len(), 20);
        assert!(matches!(member.propose(entry("no")).await, Err(ProposeError::Waiting { .. })));
        disk.set_full(false);
        eventually("it writes", || member.health().waits.is_none()).await;
        member.propose(entry("yes")).await.unwrap();
        assert_eq!(held(&member).len(), 21);
        member.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_disk_without_room_is_refused_and_a_lost_tail_is_not_tried_again() {
    let disk = MemoryDisk::default();
    disk.set_full(true);
    assert!(start(&disk, Arc::new(NoSink)).await.is_err());
    disk.set_full(false);
    let member = start(&disk, Arc::new(NoSink)).await.unwrap();
    for number in 0..20 {
        member.propose(entry(&number.to_string())).await.unwrap();
    }
    disk.set_full(true);
    drop(member.propose(entry("full")).await);
    eventually("it waits", || member.health().waits.is_some()).await;
    disk.lose_tail(3);
    disk.set_full(false);
    eventually("it gave up", || member.health().waits == Some(Waits::Person)).await;
    let health = member.health();
    assert!(health.disk_error.is_some_and(|why| why.contains("disk loss")));
    assert_eq!(held(&member).len(), 20, "reads go on");
    member.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_asked_for_while_the_disk_has_failed_is_told_that_the_node_waits() {
    let disk = MemoryDisk::default();
    let member = start(&disk, Arc::new(NoSink)).await.unwrap();
    member.propose(entry("one")).await.unwrap();
    disk.set_full(true);
    let mut asked = Vec::new();
    // Raft ends at once; the keeper looks only some time later.
    while member.health().waits.is_none() {
        drop(member.propose(entry("full")).await);
        asked.extend(member.snapshot().await.err());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!asked.is_empty());
    for error in asked {
        assert!(matches!(error, ProposeError::Waiting { .. }), "{error}");
    }
    member.shutdown().await;
    assert!(matches!(member.snapshot().await, Err(ProposeError::ShuttingDown)));
}

#[test]
fn a_look_at_an_empty_disk_in_memory_leaves_it_to_whoever_opens_it_first() {
    let disk = MemoryDisk::default();
    let Err(OpenError::Io { error, .. }) = disk.glimpse(1) else { panic!("there is nothing to read") };
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(disk.open(2, 9).unwrap().marks.current().incarnation, 9);
    assert!(matches!(disk.glimpse(1), Err(OpenError::OtherNode { found: 2, asked: 1 })));
    assert_eq!(disk.glimpse(2).unwrap().durable, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_looked_into_without_a_write_and_opened_twice_in_one_process() {
    let data = tempfile::tempdir().unwrap();
    let folder = Folder::new(data.path());
    let environment = world(Arc::new(folder.clone()));
    let member = Member::start(environment, options(), Toy::default(), Arc::new(NoSink)).await.unwrap();
    for number in 0..50 {
        member.propose(entry(&number.to_string())).await.unwrap();
        if number == 30 {
            member.snapshot().await.unwrap();
            eventually("a snapshot", || member.health().snapshot.is_some()).await;
        }
    }
    member.shutdown().await;
    drop(member);

    let files = || {
        let mut files = Vec::new();
        let mut folders = vec![data.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for found in std::fs::read_dir(folder).unwrap() {
                let path = found.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push((path.clone(), std::fs::read(path).unwrap()));
                }
            }
        }
        files.sort();
        files
    };
    let before = files();
    let glimpse = folder.glimpse(1).unwrap();
    let durable = glimpse.durable.unwrap();
    let mut read: Vec<LogEntry> = Vec::new();
    (glimpse.replay)(40, &mut |entry| {
        read.push(entry);
        Ok(())
    })
    .unwrap();
    assert_eq!(read.first().map(|entry| entry.position.index), Some(41));
    assert_eq!(read.last().map(|entry| entry.position), Some(durable));
    drop((glimpse.values, glimpse.hold));
    assert_eq!(files(), before, "a look changed the folder");

    let environment = world(Arc::new(folder));
    let member = Member::start(environment, options(), Toy::default(), Arc::new(NoSink)).await.unwrap();
    assert_eq!(held(&member).len(), 50);
    member.propose(entry("again")).await.unwrap();
    member.shutdown().await;
}
