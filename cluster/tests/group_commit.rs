//! Group commit: one sync for all that wait, callbacks in issue order, nothing acknowledged before it is durable.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use featureops_cluster::storage::memory::MemoryDisk;
use featureops_cluster::storage::{Change, Disk, LogEntry, LogLane, LogPosition, Storage, ValueLane, Vote};
use parking_lot::Mutex;

fn entry(index: u64) -> LogEntry {
    LogEntry { position: LogPosition::new(1, index), payload: vec![index as u8; 10].into() }
}

fn slow_disk() -> (MemoryDisk, Disk) {
    let disk = MemoryDisk::new(Arc::new(|| Duration::from_millis(10)));
    let opened = disk.open(1, 7).unwrap();
    (disk, opened)
}

#[tokio::test(start_paused = true)]
async fn one_sync_serves_all_that_wait_in_issue_order() {
    let (disk, opened) = slow_disk();
    let (lane, future) = LogLane::open(Arc::clone(&opened.log), Arc::clone(&opened.marks));
    disk.spawn("log", future).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    for index in 1..=500 {
        opened.log.append(vec![entry(index)]).unwrap();
        assert_eq!(opened.log.extent().last, Some(LogPosition::new(1, index)), "readable at once");
        let order = Arc::clone(&order);
        let done = Box::new(move |result: std::io::Result<()>| order.lock().push((index, result.is_ok())));
        lane.appended(LogPosition::new(1, index), done).await.unwrap();
    }
    lane.settle().await.unwrap();
    assert_eq!(*order.lock(), (1..=500).map(|index| (index, true)).collect::<Vec<_>>());
    assert!(disk.syncs() <= 8, "{} syncs for 500 writes", disk.syncs());
    assert_eq!(opened.marks.current().durable, Some(LogPosition::new(1, 500)));
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_loses_nothing_acknowledged_and_leaves_no_mark_beyond_the_log() {
    for crash_ms in 0..120 {
        let (disk, opened) = slow_disk();
        let (lane, future) = LogLane::open(Arc::clone(&opened.log), Arc::clone(&opened.marks));
        disk.spawn("log", future).unwrap();
        let acknowledged = Arc::new(Mutex::new(0));
        let writer = {
            let (log, acknowledged) = (Arc::clone(&opened.log), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for index in 1..=40 {
                    if log.append(vec![entry(index)]).is_err() {
                        return;
                    }
                    let told = Arc::clone(&acknowledged);
                    let done = Box::new(move |result: std::io::Result<()>| {
                        if result.is_ok() {
                            *told.lock() = index;
                        }
                    });
                    if lane.appended(LogPosition::new(1, index), done).await.is_err() {
                        return;
                    }
                    if index == 20 && lane.truncate_after(Some(LogPosition::new(1, 5))).await.is_ok() {
                        *acknowledged.lock() = 5;
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(crash_ms)).await;
        let told = *acknowledged.lock();
        disk.crash();
        writer.await.unwrap();
        let after = disk.open(1, 8).unwrap_or_else(|error| panic!("crash after {crash_ms} ms: {error}"));
        let last = after.log.extent().last.map_or(0, |last| last.index);
        // Entries 6 to 20 are acknowledged and then truncated on demand: their end is either.
        assert!(last >= told.min(5), "acknowledged {told}, kept {last}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_every_acknowledgement_for_good() {
    let (disk, opened) = slow_disk();
    let (lane, future) = LogLane::open(Arc::clone(&opened.log), Arc::clone(&opened.marks));
    disk.spawn("log", future).unwrap();
    let vote = Vote { term: 1, node: 1, committed: false };
    lane.vote(vote).await.unwrap();
    disk.set_full(true);
    let error = lane.vote(Vote { term: 2, ..vote }).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    // Space comes back; what the failed sync dropped does not.
    disk.set_full(false);
    assert!(lane.vote(Vote { term: 3, ..vote }).await.is_err());
    assert!(lane.fault().get().is_some_and(|why| why.contains("no space")));
    disk.crash();
    assert_eq!(disk.open(1, 9).unwrap().marks.current().vote, Some(vote));
}

#[tokio::test(start_paused = true)]
async fn values_are_grouped_and_a_value_over_the_bound_is_refused() {
    let (disk, opened) = slow_disk();
    let (lane, future) = ValueLane::open(Arc::clone(&opened.values));
    disk.spawn("values", future).unwrap();
    let before = disk.syncs();
    let writes = (0..64u8).map(|name| {
        let lane = lane.clone();
        tokio::spawn(async move { lane.write(vec![Change::Put(vec![name], vec![name; 100])]).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert!(disk.syncs() - before <= 3);
    disk.crash();
    let values = disk.open(1, 7).unwrap().values;
    assert_eq!(values.range(vec![0]..vec![255], 100).unwrap().len(), 64);
    assert_eq!(values.last(vec![0]..vec![10]).unwrap(), Some((vec![9], vec![9; 100])));
    assert!(lane.write(vec![Change::Put(vec![1], vec![0; 200 << 10])]).await.is_err());
}
