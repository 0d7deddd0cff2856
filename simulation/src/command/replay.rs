//! Worlds that are known: those that failed once, with their cause, and those whose digest is committed.

use std::io;
use std::path::Path;

use super::{child, digest_of};
use crate::Kind;

/// One world a line: the seed, the digest or `-`, and why it is there.
const KNOWN: &str = include_str!("../../seeds/known.txt");

/// Lives through them. True: all hold every property, and tell the digest that is committed.
///
/// # Errors
/// A process cannot be started, the list cannot be read, or its renewed form not be written.
pub fn known(only: Option<u64>, renew: Option<&Path>) -> io::Result<bool> {
    let mut holds = true;
    let mut replayed = 0_u64;
    // The list with the digests of this build.
    let mut renewed: String =
        KNOWN.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    for line in KNOWN.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let seed = words.next().and_then(|word| word.parse::<u64>().ok());
        let seed =
            seed.ok_or_else(|| io::Error::other(format!("seeds/known.txt: '{line}' begins with no seed")))?;
        let (expected, cause) = (words.next().unwrap_or("-"), words.next().unwrap_or(""));
        if only.is_some_and(|only| only != seed) {
            continue;
        }
        replayed = replayed.saturating_add(1);
        let output = child(seed, Kind::default())?.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let digest = digest_of(&text).unwrap_or("none");
        renewed.push_str(&format!("{seed} {} {cause}\n", if expected == "-" { "-" } else { digest }));
        let same = expected == "-" || expected == digest;
        println!(
            "seed {seed}: digest {digest}{}; {cause}",
            if same { "" } else { ", committed was another" }
        );
        if !same {
            println!("  committed: {expected}");
        }
        if !output.status.success() {
            println!("{text}");
        }
        holds &= same && output.status.success();
    }
    if replayed == 0 {
        return Err(io::Error::other(format!(
            "no such seed is known; `featureops-sim run --seed {}` lives through any",
            only.unwrap_or_default()
        )));
    }
    if let Some(renew) = renew {
        std::fs::write(renew, renewed)?;
    }
    Ok(holds)
}
