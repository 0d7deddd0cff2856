//! Bytes as they were written once must decode to the same meaning and be written the same for ever: what is proposed,
//! what is answered, and what a snapshot holds.
//!
//! `UPDATE_GOLDEN=1` writes files that are missing; it never changes one that is there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod covariates;
#[path = "../driver/mod.rs"]
mod driver;
mod entries;
mod ledger;
mod records;
mod replies;
mod sections;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use prost::Message;

/// A folder of golden files, and which of them were read.
struct Golden {
    folder: PathBuf,
    read: BTreeSet<String>,
}

impl Golden {
    fn open(folder: &str) -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/golden");
        Self { folder: golden.join(folder), read: BTreeSet::new() }
    }

    /// A file's bytes; when it is missing and an update was asked for, they are made first.
    fn bytes(&mut self, name: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        let file = format!("{name}.bin");
        let path = self.folder.join(&file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
            std::fs::create_dir_all(&self.folder).unwrap();
            std::fs::write(&path, make()).unwrap();
        }
        self.read.insert(file);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Asserts that a message and its file are the same, in both directions.
    fn keeps<M: Message + Default + PartialEq + Debug>(&mut self, name: &str, message: &M) -> Vec<u8> {
        let golden = self.bytes(name, || message.encode_to_vec());
        assert_eq!(message.encode_to_vec(), golden, "{name}: bytes changed");
        assert_eq!(M::decode(golden.as_slice()).unwrap(), *message, "{name}: meaning changed");
        golden
    }

    /// Asserts that no file was left unread.
    fn has_nothing_else(self) {
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let is_folder = entry.file_type().unwrap().is_dir();
            assert!(is_folder || self.read.contains(&name), "{name} is not read by any test");
        }
    }
}

fn text(value: &str) -> String {
    value.to_owned()
}
