//! The mirror: what a power loss would leave of a node's folder, kept by the library in `tests/mirror`.
//!
//! The library is loaded into the node's process and copies a file to the mirror when the node syncs it, and never
//! otherwise. After a kill the mirror's `tree` is the disk that the next life starts from. `tests/mirror/src/lib.rs`
//! states the model; the same library moves the wall clock and fills the disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::site::Site;
use crate::{binary, folder};

/// Bytes of the page that test and node share: the clock's offset in milliseconds, then 1 while the disk is full.
const PAGE_BYTES: u64 = 4096;

/// The interposer around one site.
#[derive(Debug)]
pub struct Mirror {
    store: PathBuf,
    page: File,
}

impl Mirror {
    /// Puts the library between the site's node and its disk and clock.
    ///
    /// # Panics
    /// The library cannot be built or the shared page not made.
    pub fn around(site: &mut Site) -> Self {
        let page_path = site.beside("page");
        let page =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&page_path).unwrap();
        page.set_len(PAGE_BYTES).unwrap();
        let store = site.beside("mirror");
        site.set("LD_PRELOAD", binary::interposer());
        site.set("MIRROR_DATA", site.data.clone());
        site.set("MIRROR_PAGE", page_path);
        Self { store, page }
    }

    /// Mirrors what is synced, from the next start on.
    pub fn keep(&self, site: &mut Site) {
        site.set("MIRROR_STORE", self.store.clone());
    }

    /// Whether the name of a new or renamed file is durable only after the sync of its folder.
    pub fn strict(&self, site: &mut Site, strict: bool) {
        site.set("MIRROR_STRICT", if strict { "1" } else { "" });
    }

    /// Takes the sync away from files whose path below the data folder begins with one of these.
    pub fn ignore(&self, site: &mut Site, prefixes: &[&str]) {
        site.set("MIRROR_IGNORE", prefixes.join(":"));
    }

    /// The power is lost: the data folder becomes what was synced. The node must have been killed.
    ///
    /// # Panics
    /// The folders cannot be written.
    pub fn lose_power(&self, site: &Site) {
        let _ = std::fs::remove_dir_all(&site.data);
        let tree = self.tree();
        if tree.is_dir() {
            folder::copy(&tree, &site.data);
        }
        // The next life is mirrored from what it starts with.
        let _ = std::fs::remove_dir_all(&self.store);
    }

    /// The mirrored files.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        Path::new(&self.store).join("tree")
    }

    /// Moves the node's wall clock, at once and until the next call.
    ///
    /// # Panics
    /// The page cannot be written.
    pub fn move_clock(&self, milliseconds: i64) {
        self.page.write_all_at(&milliseconds.to_le_bytes(), 0).unwrap();
    }

    /// Fills the disk, or frees it.
    ///
    /// # Panics
    /// The page cannot be written.
    pub fn fill_disk(&self, full: bool) {
        self.page.write_all_at(&u64::from(full).to_le_bytes(), 8).unwrap();
    }
}
