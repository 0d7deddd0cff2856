//! Determinism: one seed in two fresh processes, compared event by event.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use super::{child, digest_of};
use crate::Kind;

/// Lives through the world twice. True: every event of the one is that of the other, byte for byte.
///
/// # Errors
/// A process cannot be started, or a trace not be kept.
pub fn twice(seed: u64, kind: Kind) -> io::Result<bool> {
    let folder = std::env::temp_dir();
    let paths: Vec<PathBuf> = (1..=2)
        .map(|time| folder.join(format!("featureops-sim-{}-{seed}-{time}.jsonl", std::process::id())))
        .collect();
    let mut digests = Vec::new();
    for path in &paths {
        let output = child(seed, kind)?.arg("--history").arg(path).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let digest = digest_of(&text).map(str::to_owned);
        digests.push(digest.ok_or_else(|| io::Error::other(format!("seed {seed} told no digest\n{text}")))?);
    }
    let compared = match paths.as_slice() {
        [one, other] => compare(one, other),
        _ => Err(io::Error::other("there are not two traces")),
    };
    paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
    let digest = digests.first().cloned().unwrap_or_default();
    match compared? {
        Ok(events) if digests.windows(2).all(|pair| matches!(pair, [one, other] if one == other)) => {
            println!("seed {seed}: {events} events, the same twice; digest {digest}");
            Ok(true)
        }
        Ok(events) => {
            println!("seed {seed}: {events} events, the same twice, and digests that are not: {digests:?}");
            Ok(false)
        }
        Err(fork) => {
            println!("{fork}");
            Ok(false)
        }
    }
}

/// How many lines two files share; or where they part.
fn compare(one: &Path, other: &Path) -> io::Result<Result<u64, String>> {
    let mut lines = BufReader::new(File::open(one)?).lines();
    let mut others = BufReader::new(File::open(other)?).lines();
    let mut same = 0_u64;
    loop {
        let (line, other) = (lines.next().transpose()?, others.next().transpose()?);
        if line != other {
            let shown = |line: Option<String>| line.unwrap_or_else(|| "(the end)".to_owned());
            return Ok(Err(format!("event {same} is not the same:\n  {}\n  {}", shown(line), shown(other))));
        }
        if line.is_none() {
            return Ok(Ok(same));
        }
        same = same.saturating_add(1);
    }
}
