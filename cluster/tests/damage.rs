//! A data folder that is damaged anywhere is refused or complete, never silently short.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod toy;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use featureops_cluster::environment::Environment;
use featureops_cluster::storage::folder::Folder;
use featureops_cluster::storage::marks;
use featureops_cluster::storage::{LogEntry, LogLane, LogPosition, OpenError, Storage, Vote};
use featureops_cluster::{Cluster, NoSink, Options, StartError};
use toy::Toy;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else if entry.metadata().unwrap().len() > 0 {
            found.push(entry.path());
        }
    }
    found.sort();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A small generator: the positions differ, the test does not.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

const ENTRIES: u64 = 300;
const PURGED: u64 = 60;

fn make_log(path: &Path) {
    let folder = Folder::new(path);
    let disk = folder.open(1, 7).unwrap();
    let (lane, future) = LogLane::open(Arc::clone(&disk.log), Arc::clone(&disk.marks));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let running = tokio::spawn(future);
        lane.vote(Vote { term: 3, node: 1, committed: true }).await.unwrap();
        for index in 1..=ENTRIES {
            let payload = vec![index as u8; 40 + (index as usize * 37) % 200].into();
            disk.log.append(vec![LogEntry { position: LogPosition::new(3, index), payload }]).unwrap();
            lane.appended(LogPosition::new(3, index), Box::new(|result| result.unwrap())).await.unwrap();
            if index % 50 == 0 {
                lane.settle().await.unwrap();
            }
        }
        disk.log.purge(LogPosition::new(3, PURGED)).unwrap();
        lane.settle().await.unwrap();
        drop(lane);
        running.await.unwrap();
    });
}

fn complete(folder: &Path) -> Result<bool, OpenError> {
    let disk = Folder::new(folder).open(1, 7)?;
    let entries = disk.log.read(PURGED + 1..ENTRIES + 1, usize::MAX).unwrap_or_default();
    let whole = entries.iter().zip(PURGED + 1..).all(|(entry, index)| {
        entry.position.index == index && entry.payload.iter().all(|byte| *byte == index as u8)
    });
    let vote = disk.marks.current().vote;
    Ok(whole
        && entries.len() as u64 == ENTRIES - PURGED
        && disk.log.extent().last == Some(LogPosition::new(3, ENTRIES))
        && vote == Some(Vote { term: 3, node: 1, committed: true }))
}

fn refused_or_complete(damage: impl Fn(&mut Chance, &mut Vec<u8>), rounds: usize, only: Option<&str>) {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    make_log(&base);
    assert!(complete(&base).unwrap());
    let mut all = Vec::new();
    files(&base, &mut all);
    all.retain(|file| only.is_none_or(|only| file.to_string_lossy().contains(only)));
    let mut chance = Chance(42);
    let mut refused = 0;
    for round in 0..rounds {
        let file = all[round % all.len()].strip_prefix(&base).unwrap();
        let work = home.path().join(format!("work-{round}"));
        copy(&base, &work);
        let mut bytes = std::fs::read(work.join(file)).unwrap();
        damage(&mut chance, &mut bytes);
        std::fs::write(work.join(file), bytes).unwrap();
        match complete(&work) {
            Ok(whole) => assert!(whole, "round {round}: {} opened, and is not whole", file.display()),
            Err(error @ OpenError::DiskLoss { .. }) => {
                assert!(error.to_string().contains("joins again with an empty folder"), "{error}");
                refused += 1;
            }
            Err(error) => panic!("round {round}: {}: {error}", file.display()),
        }
        std::fs::remove_dir_all(&work).unwrap();
    }
    assert!(refused > 0, "no damage was noticed: the test cannot fail");
}

#[test]
fn a_flipped_bit_in_any_file() {
    let flip = |chance: &mut Chance, bytes: &mut Vec<u8>| {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let position = chance.below(used);
        bytes[position] ^= 1 << chance.below(8);
    };
    refused_or_complete(flip, 240, None);
    refused_or_complete(flip, 120, Some("/log/"));
}

#[test]
fn any_file_cut_anywhere() {
    let cut = |chance: &mut Chance, bytes: &mut Vec<u8>| bytes.truncate(chance.below(bytes.len()));
    refused_or_complete(cut, 120, None);
}

#[test]
fn a_run_of_zeros_in_any_file() {
    let zero = |chance: &mut Chance, bytes: &mut Vec<u8>| {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let start = chance.below(used);
        let end = (start + 1 + chance.below(4096)).min(bytes.len());
        bytes[start..end].fill(0);
    };
    refused_or_complete(zero, 120, None);
}

#[test]
fn a_torn_tail_beyond_the_mark_is_cut_silently() {
    let home = tempfile::tempdir().unwrap();
    make_log(home.path());
    let mut all = Vec::new();
    files(&home.path().join("log"), &mut all);
    let last = all.iter().rfind(|file| file.extension().is_some_and(|name| name == "wal")).unwrap();
    // Half a record that nobody was told about.
    let mut bytes = std::fs::read(last).unwrap();
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    std::fs::write(last, bytes).unwrap();
    assert!(complete(home.path()).unwrap());
    assert!(complete(home.path()).unwrap());
}

fn damage_newest_slot(home: &Path) {
    let path = home.join("marks");
    let mut bytes = std::fs::read(&path).unwrap();
    let newest = marks::read(&bytes).unwrap().sequence;
    let offset = if newest.is_multiple_of(2) { 0 } else { marks::SLOT_STRIDE_BYTES };
    bytes[offset + 40] ^= 4;
    assert!(marks::read(&bytes).unwrap().damaged_slot);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn one_damaged_slot_is_survived_and_healed_and_a_torn_log_beside_it_is_not() {
    let home = tempfile::tempdir().unwrap();
    make_log(home.path());
    for _ in 0..3 {
        damage_newest_slot(home.path());
        assert!(complete(home.path()).unwrap());
        let bytes = std::fs::read(home.path().join("marks")).unwrap();
        assert!(!marks::read(&bytes).unwrap().damaged_slot, "healed");
    }
    damage_newest_slot(home.path());
    let mut all = Vec::new();
    files(&home.path().join("log"), &mut all);
    let last = all.iter().rfind(|file| file.extension().is_some_and(|name| name == "wal")).unwrap();
    let mut bytes = std::fs::read(last).unwrap();
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0]);
    std::fs::write(last, bytes).unwrap();
    let error = complete(home.path()).unwrap_err();
    assert!(error.to_string().contains("both damaged"), "{error}");
}

#[test]
fn a_missing_file_is_disk_loss() {
    for name in ["marks", "log"] {
        let home = tempfile::tempdir().unwrap();
        make_log(home.path());
        remove(home.path(), name);
        assert!(matches!(complete(home.path()), Err(OpenError::DiskLoss { .. })), "{name}");
    }
}

fn remove(home: &Path, name: &str) {
    let path = home.join(name);
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
}

fn assert_lost(home: &Path, what: &str) {
    // Also the second time: the first look must not make a new node of what is left.
    for look in 0..2 {
        let found = start(home);
        let lost = matches!(found, Err(StartError::Open(OpenError::DiskLoss { .. })));
        assert!(lost, "look {look} without {what}: {found:?}");
    }
}

#[test]
fn a_node_with_a_snapshot_that_misses_files_is_disk_loss() {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    start(&base).unwrap();
    for names in
        [&["marks"][..], &["log"], &["values"], &["marks", "log"], &["marks", "values"], &["log", "values"]]
    {
        let work = home.path().join(names.join("-"));
        copy(&base, &work);
        names.iter().for_each(|name| remove(&work, name));
        assert_lost(&work, &names.join(" and "));
    }
    // Marks of a new node of the same name, in the place of the lost ones.
    let (work, new) = (home.path().join("strange"), home.path().join("new"));
    copy(&base, &work);
    remove(&work, "log");
    drop(Folder::new(&new).open(1, 9).unwrap());
    std::fs::copy(new.join("marks"), work.join("marks")).unwrap();
    assert_lost(&work, "its own marks");
}

#[test]
fn a_folder_has_one_user_and_one_node() {
    let home = tempfile::tempdir().unwrap();
    let folder = Folder::new(home.path());
    let held = folder.open(1, 7).unwrap();
    assert!(matches!(folder.open(1, 7), Err(OpenError::InUse { .. })));
    drop(held);
    assert!(matches!(folder.open(2, 7), Err(OpenError::OtherNode { found: 1, asked: 2 })));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(home.path().join("marks")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

fn start(folder: &Path) -> Result<Vec<Vec<u8>>, StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = Options::new(1, "127.0.0.1:7400");
        options.snapshot_after_entries = 40;
        options.keep_entries = 10;
        options.tick_ms = 3_600_000;
        let environment = Environment::production(folder);
        let cluster = Cluster::start(environment, options, Toy::default(), Arc::new(NoSink)).await?;
        cluster.ready(5_000).await.unwrap();
        cluster.linearizable().await.unwrap();
        if cluster.read(|toy| toy.entries.is_empty()) {
            for number in 0..100u32 {
                cluster.propose(number.to_be_bytes().repeat(50).into()).await.unwrap();
            }
            for _ in 0..1000 {
                if cluster.health().purged.is_some() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            assert!(cluster.health().purged.is_some());
        }
        let entries = cluster.read(|toy| toy.entries.iter().map(|(_, entry)| entry.clone()).collect());
        cluster.shutdown().await;
        Ok(entries)
    })
}

#[test]
fn a_whole_node_with_snapshots_is_refused_or_complete() {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    let entries = start(&base).unwrap();
    assert_eq!(entries.len(), 100);
    assert_eq!(start(&base).unwrap(), entries);
    let mut all = Vec::new();
    files(&base, &mut all);
    let mut chance = Chance(7);
    let mut refused = 0;
    for round in 0..60 {
        let file = all[round % all.len()].strip_prefix(&base).unwrap();
        let work = home.path().join(format!("work-{round}"));
        copy(&base, &work);
        let mut bytes = std::fs::read(work.join(file)).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let position = chance.below(used);
        bytes[position] ^= 1 << chance.below(8);
        std::fs::write(work.join(file), bytes).unwrap();
        match start(&work) {
            Err(_) => refused += 1,
            Ok(found) => assert_eq!(found, entries, "round {round}: {} at {position}", file.display()),
        }
        std::fs::remove_dir_all(&work).unwrap();
    }
    assert!(refused > 0);
}

/// Appends entries of a mebibyte: sixteen to a file.
fn grow(path: &Path, indexes: std::ops::RangeInclusive<u64>, purge: Option<u64>) {
    let disk = Folder::new(path).open(1, 7).unwrap();
    let (lane, future) = LogLane::open(Arc::clone(&disk.log), Arc::clone(&disk.marks));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let running = tokio::spawn(future);
        lane.vote(Vote { term: 3, node: 1, committed: true }).await.unwrap();
        for index in indexes {
            let position = LogPosition::new(3, index);
            let payload = vec![index as u8; 1 << 20].into();
            disk.log.append(vec![LogEntry { position, payload }]).unwrap();
            lane.appended(position, Box::new(|result| result.unwrap())).await.unwrap();
        }
        if let Some(upto) = purge {
            disk.log.purge(LogPosition::new(3, upto)).unwrap();
        }
        lane.settle().await.unwrap();
        drop(lane);
        running.await.unwrap();
    });
}

fn log_files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&path.join("log"), &mut found);
    found.retain(|file| file.extension().is_some_and(|extension| extension == "wal"));
    found
}

#[test]
fn a_log_of_many_files_opens_again_also_when_the_first_are_purged() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    grow(&path, 1..=40, None);
    assert!(log_files(&path).len() >= 3, "{:?}", log_files(&path));
    grow(&path, 41..=60, Some(38));
    assert!(log_files(&path).len() >= 2, "{:?}", log_files(&path));
    for _ in 0..2 {
        let disk = Folder::new(&path).open(1, 7).unwrap();
        let extent = disk.log.extent();
        assert_eq!(extent.purged, Some(LogPosition::new(3, 38)));
        assert_eq!(extent.last, Some(LogPosition::new(3, 60)));
        assert_eq!(disk.log.read(39..61, usize::MAX).unwrap().len(), 22);
    }
    // A file between two others is missed.
    grow(&path, 61..=80, None);
    let files = log_files(&path);
    std::fs::remove_file(&files[files.len() - 2]).unwrap();
    assert!(matches!(Folder::new(&path).open(1, 7), Err(OpenError::DiskLoss { .. })));
}

#[test]
fn a_tail_that_is_torn_again_and_again_costs_no_start() {
    use std::io::Write as _;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    make_log(&path);
    for index in 1..=5 {
        let last = log_files(&path).pop().unwrap();
        std::fs::OpenOptions::new().append(true).open(last).unwrap().write_all(&[0; 4_096]).unwrap();
        let position = ENTRIES + index;
        grow(&path, position..=position, None);
        let extent = Folder::new(&path).open(1, 7).unwrap().log.extent();
        assert_eq!(extent.last, Some(LogPosition::new(3, position)));
    }
}
