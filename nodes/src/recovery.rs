//! The way back for whoever has no admin token (any more): the owner of the data folder starts the node so, and finds one in it.
//!
//! ```text
//!   serve --recover-admin ──> secret into admin.token (0600) ──> CreateToken in the log, by system:recovery, audited
//!                                └─ a file that is there is left alone, and no token is made: nobody's is overwritten
//! ```
//!
//! Whoever can write the folder and start the node could change everything in it anyway. The secret is in that file and nowhere else.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use featureops_cluster::environment::Entropy;
use featureops_proto::log::{CreateToken, Entry, entry, reply};
use featureops_proto::v1::Token;
use featureops_proto::v1::token::Role;
use featureops_state::State;
use prost::Message as _;

use crate::access::secret;
use crate::caller;
use crate::peer_key::write_beside;
use crate::replica::Replica;

/// Name of the file in the data folder.
pub const FILE_NAME: &str = "admin.token";
/// Times that the log is asked to take it, a second apart: a cluster may have to find its leader first.
const ATTEMPTS: usize = 15;

/// Makes an admin token and keeps its secret in a file of the folder.
///
/// # Errors
/// What was not done, and why; nothing is left behind then.
pub async fn make(folder: &Path, entropy: &dyn Entropy, replica: &Replica) -> Result<(), String> {
    let made = secret::make(entropy).map_err(|error| format!("no entropy for a secret: {error}"))?;
    let path = folder.join(FILE_NAME);
    match keep(folder, &made.text) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            tracing::warn!(file = %path.display(), "an admin token's file is there already, so no other was made; take it away for that");
            return Ok(());
        }
        Err(error) => return Err(format!("'{}' cannot be written: {error}", path.display())),
    }
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let position = replica.read(State::position);
        let is_free = replica.read(|state| state.token("admin").is_none());
        let id = if is_free { "admin".to_owned() } else { format!("admin-{position}") };
        let token = Token {
            name: format!("tokens/{id}"),
            roles: vec![Role::Admin.into()],
            description: "made by a start with --recover-admin".to_owned(),
            ..Token::default()
        };
        let command = entry::Command::CreateToken(CreateToken {
            token: Some(token),
            secret_hash: made.hash.clone(),
            key_id: made.key_id.clone(),
        });
        let entry =
            Entry { principal: Some(caller::system("recovery")), command: Some(command), ..Entry::default() };
        match replica.propose(entry.encode_to_vec()).await {
            Ok((_, answered)) => match answered.result {
                // Refused by an attempt of which no answer had come: it is there by its key.
                Some(reply::Result::Refusal(_))
                    if replica.read(|state| state.token_records().any(|held| held.key_id == made.key_id)) =>
                {
                    return said(&path, &id);
                }
                Some(reply::Result::Refusal(refusal)) => {
                    last = refusal.message;
                    break;
                }
                _ => return said(&path, &id),
            },
            Err(failure) => last = format!("{failure:?}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let known = replica.read(|state| state.token_records().any(|held| held.key_id == made.key_id));
    if known {
        return said(&path, "admin");
    }
    let _ = std::fs::remove_file(&path);
    Err(format!("no admin token was made: {last}"))
}

fn said(path: &Path, id: &str) -> Result<(), String> {
    tracing::warn!(file = %path.display(), token = id, "an admin token was made; move its file to whoever is to have it");
    Ok(())
}

fn keep(folder: &Path, text: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = folder.join(format!("{FILE_NAME}.new"));
    // A link, not a rename: it fails where a token's file is, so that nobody's is overwritten.
    let kept = write_beside(&beside, format!("{text}\n").as_bytes())
        .and_then(|()| std::fs::hard_link(&beside, folder.join(FILE_NAME)));
    // A part of it would be taken for a token, and keep the next recovery from making one.
    let removed = std::fs::remove_file(&beside);
    kept?;
    removed?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all_and_nobodys_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let names = || {
            let read = std::fs::read_dir(folder.path()).unwrap();
            read.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        // One that a crash left beside it is no hindrance.
        std::fs::write(folder.path().join("admin.token.new"), "fo_ha").unwrap();
        keep(folder.path(), "fo_one").unwrap();
        assert_eq!(names(), [FILE_NAME]);
        assert_eq!(std::fs::read_to_string(folder.path().join(FILE_NAME)).unwrap(), "fo_one\n");
        let error = keep(folder.path(), "fo_two").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(), [FILE_NAME]);
        assert_eq!(std::fs::read_to_string(folder.path().join(FILE_NAME)).unwrap(), "fo_one\n");
        // A write that fails leaves nothing: here the name beside it is a folder's.
        std::fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
        std::fs::create_dir(folder.path().join("admin.token.new")).unwrap();
        assert!(keep(folder.path(), "fo_three").is_err());
        assert_eq!(names(), ["admin.token.new"]);
    }
}
