//! Replication: the log, its disk, and the state it folds into, on one node of the cluster.

#![forbid(unsafe_code)]

pub mod storage;
