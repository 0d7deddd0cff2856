//! The key by which this node hashes units: 16 bytes in a file of their own, never in the log and never in a snapshot.
//!
//! It is made once, before the cluster has an identity, and its id is what `Initialize` puts into the log. A node whose
//! key is missing or has another id goes on evaluating and refuses facts: a fact under another key would count every
//! unit twice.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use featureops_cluster::PeerKeys;
use featureops_evaluation::UnitKey;

/// Name of the key's file in the data folder.
pub const FILE_NAME: &str = "unit.key";
/// Bytes of a key.
pub const KEY_BYTES: usize = 16;

/// Where the key is kept. Production keeps it in a file; a simulated machine keeps it as its disk keeps things.
pub trait UnitKeyStore: Send + Sync + 'static {
    /// The key, if one was kept.
    ///
    /// # Errors
    /// It cannot be read, is not a key, or is open to other people of the machine.
    fn read(&self) -> io::Result<Option<UnitKey>>;

    /// The key's bytes, for a node that joins; none where they are not handed out.
    ///
    /// # Errors
    /// As [`UnitKeyStore::read`].
    fn bytes(&self) -> io::Result<Option<[u8; KEY_BYTES]>> {
        Ok(None)
    }

    /// Where the key is kept by which members know each other; none where there are no peers.
    fn peer_keys(&self) -> Option<PeerKeys> {
        None
    }

    /// Keeps a key, durably. One that is there already is never overwritten.
    ///
    /// # Errors
    /// It cannot be written, or one is there.
    fn keep(&self, bytes: [u8; KEY_BYTES]) -> io::Result<()>;
}

/// A 0600 file in the data folder.
#[derive(Debug, Clone)]
pub struct KeyFile {
    folder: PathBuf,
}

impl KeyFile {
    /// The key file of a data folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE_NAME)
    }
}

impl KeyFile {
    fn read_bytes(&self) -> io::Result<Option<Vec<u8>>> {
        read_private(&self.path(), KEY_BYTES)
    }

    /// The data folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// What a file of its owner's alone holds, one byte more than `bytes_max` at most; `None`: there is none.
///
/// # Errors
/// It cannot be read, or others may read it, too.
pub fn read_private(path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("'{}' has mode {:o}; run chmod 600 on it", path.display(), mode & 0o777),
        ));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

impl UnitKeyStore for KeyFile {
    fn read(&self) -> io::Result<Option<UnitKey>> {
        let Some(bytes) = self.read_bytes()? else { return Ok(None) };
        UnitKey::from_bytes(&bytes).map(Some).ok_or_else(|| damaged(&self.path()))
    }

    fn bytes(&self) -> io::Result<Option<[u8; KEY_BYTES]>> {
        let Some(bytes) = self.read_bytes()? else { return Ok(None) };
        bytes.try_into().map(Some).map_err(|_| damaged(&self.path()))
    }

    fn peer_keys(&self) -> Option<PeerKeys> {
        Some(PeerKeys(Arc::new(self.clone())))
    }

    fn keep(&self, bytes: [u8; KEY_BYTES]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let beside = self.folder.join(format!("{FILE_NAME}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        // A link, not a rename: it fails where a key is, so that no second start replaces the first one's key.
        std::fs::hard_link(&beside, self.path())?;
        std::fs::remove_file(&beside)?;
        File::open(&self.folder)?.sync_all()
    }
}

fn damaged(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("'{}' is not a key of {KEY_BYTES} bytes; put back the cluster's key file", path.display()),
    )
}

/// What this node may do with units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The key is the cluster's.
    Good,
    /// The cluster has no identity yet, so there is nothing to compare with.
    Unasked,
    /// There is no key here.
    Missing,
    /// The key has another id than the cluster's.
    Foreign {
        /// This node's.
        held: u64,
        /// The cluster's.
        wanted: u64,
    },
}

impl Standing {
    /// Compares this node's key with the id in the log.
    #[must_use]
    pub fn of(key: Option<&UnitKey>, wanted: u64) -> Self {
        match key {
            None => Self::Missing,
            Some(key) if key.id() == wanted => Self::Good,
            Some(key) => Self::Foreign { held: key.id(), wanted },
        }
    }

    /// What is wrong; empty when nothing is.
    #[must_use]
    pub fn fault(&self) -> String {
        match self {
            Self::Good => String::new(),
            Self::Unasked => "the cluster has no identity yet".to_owned(),
            Self::Missing => format!("this node has no {FILE_NAME}"),
            Self::Foreign { held, wanted } => {
                format!("this node's {FILE_NAME} has id {held:016x}, the cluster's has {wanted:016x}")
            }
        }
    }

    /// The way out.
    pub const REMEDY: &'static str = "copy unit.key (mode 0600) from another node's data folder or from the backup into this node's, and start it again";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path().join("data"));
        assert!(file.read().unwrap().is_none());
        file.keep([3; KEY_BYTES]).unwrap();
        assert_eq!(file.read().unwrap(), Some(UnitKey::new([3; KEY_BYTES])));
        assert_eq!(file.keep([4; KEY_BYTES]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(file.read().unwrap(), Some(UnitKey::new([3; KEY_BYTES])));
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path());
        file.keep([3; KEY_BYTES]).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(file.path(), [1; 17]).unwrap();
        assert_eq!(file.read().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn only_the_clusters_key_is_good() {
        let key = UnitKey::new([3; KEY_BYTES]);
        assert_eq!(Standing::of(Some(&key), key.id()), Standing::Good);
        assert_eq!(Standing::of(None, key.id()), Standing::Missing);
        assert!(Standing::of(Some(&key), 1).fault().contains("0000000000000001"));
    }
}
