//! The commands, one file each. Each says whether all was well; an error is the machine's, not the world's.

pub mod meta;
pub mod programme;
pub mod replay;
pub mod report;
pub mod run;
pub mod shrink;
pub mod sweep;

use std::io;
use std::process::{Command, Stdio};

use crate::Kind;

/// This program, to live through a world in a process of its own.
fn child(seed: u64, kind: Kind) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--seed", &seed.to_string()]).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(plant) = kind.plant {
        command.args(["--plant", plant.name()]);
    }
    if let Some(nodes) = kind.nodes {
        command.args(["--nodes", &nodes.to_string()]);
    }
    Ok(command)
}

/// The digest in what a run printed.
fn digest_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("digest "))?.split(' ').next()
}
