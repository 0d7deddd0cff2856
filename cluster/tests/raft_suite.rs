//! openraft's own suite for log stores and state machines, on the production disk and on the one in memory.

#![allow(clippy::unwrap_used)]

mod toy;

use std::any::Any;
use std::sync::Arc;

use featureops_cluster::environment::{Environment, Inline};
use featureops_cluster::fold::NoSink;
use featureops_cluster::raft::log_store::LogStore;
use featureops_cluster::raft::machine::Machine;
use featureops_cluster::raft::open_stores;
use featureops_cluster::raft::types::Types;
use featureops_cluster::storage::memory::MemoryDisk;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft_rt::AsyncRuntime;
use toy::Toy;

#[derive(Clone, Copy)]
enum Disk {
    Folder,
    Memory,
}

impl StoreBuilder<Types, LogStore, Machine<Toy>, Box<dyn Any + Send + Sync>> for Disk {
    async fn build(
        &self,
    ) -> Result<(Box<dyn Any + Send + Sync>, LogStore, Machine<Toy>), StorageError<Types>> {
        let folder = tempfile::tempdir().unwrap();
        let mut environment = Environment::production(folder.path());
        if let Disk::Memory = self {
            environment.storage = Arc::new(MemoryDisk::default());
            environment.compute = Arc::new(Inline);
        }
        let stores = open_stores(&environment, 0, Toy::default(), Arc::new(NoSink)).unwrap();
        Ok((Box::new((folder, stores.hold)), stores.log, stores.machine))
    }
}

fn run(disk: Disk) {
    let mut runtime = <featureops_cluster::raft::types::Runtime as AsyncRuntime>::new(1);
    runtime.block_on(Suite::test_all(disk)).unwrap();
}

#[test]
fn the_suite_passes_on_the_production_disk() {
    run(Disk::Folder);
}

#[test]
fn the_suite_passes_in_memory() {
    run(Disk::Memory);
}
