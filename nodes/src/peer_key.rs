//! The key by which the members of a cluster know each other: 32 bytes in a file beside the unit key, never in the log.
//!
//! Unlike the unit key it may be replaced, by the cluster room alone: a node that is in no cluster yet takes the key of the one
//! that lets it in.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use featureops_cluster::{PEER_KEY_BYTES, PeerKey, PeerKeyStore};

use crate::unit_key::{KeyFile, read_private};

/// Name of the key's file in the data folder.
pub const FILE_NAME: &str = "peer.key";

impl PeerKeyStore for KeyFile {
    fn read_peer_key(&self) -> io::Result<Option<PeerKey>> {
        let path = self.folder().join(FILE_NAME);
        let Some(bytes) = read_private(&path, PEER_KEY_BYTES)? else { return Ok(None) };
        let bytes = <[u8; PEER_KEY_BYTES]>::try_from(bytes).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "'{}' is not a key of {PEER_KEY_BYTES} bytes; put back that of another member's data folder",
                    path.display()
                ),
            )
        })?;
        Ok(Some(PeerKey::new(bytes)))
    }

    fn keep_peer_key(&self, key: &PeerKey) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.folder())?;
        replace_private(self.folder(), FILE_NAME, key.bytes())
    }
}

/// Puts a 0600 file in its place, whole or not at all; what is there stays when it cannot be done.
///
/// # Errors
/// It was not written.
pub fn replace_private(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!("{name}.new"));
    let written = write_beside(&beside, bytes).and_then(|()| std::fs::rename(&beside, folder.join(name)));
    if let Err(error) = written {
        // A part of a secret is of no use to anybody who should have it.
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

/// Writes a 0600 file anew, durably.
///
/// # Errors
/// It was not written; a part of it may be there.
pub fn write_beside(beside: &Path, bytes: &[u8]) -> io::Result<()> {
    match std::fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_kept_for_its_owner_only_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path().join("data"));
        assert!(file.read_peer_key().unwrap().is_none());
        for byte in [1, 2] {
            let key = PeerKey::new([byte; PEER_KEY_BYTES]);
            file.keep_peer_key(&key).unwrap();
            assert_eq!(file.read_peer_key().unwrap(), Some(key));
        }
        let path = folder.path().join("data").join(FILE_NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(file.read_peer_key().unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, [1; 31]).unwrap();
        assert!(file.read_peer_key().unwrap_err().to_string().contains("another member"));
    }
}
