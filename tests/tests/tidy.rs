//! The house keeps its shape: what each room may depend on, how large a file may grow, what no file may say.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Names of what a package rests on, so many levels deep; dev and build dependencies left out.
fn tree(package: &str, depth: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-e", "normal", "--prefix", "none", "--depth", depth, "-p", package])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Names of everything a package resolves to.
fn resolved(package: &str) -> BTreeSet<String> {
    tree(package, "1000")
}

/// Names a package lists itself.
fn direct(package: &str) -> BTreeSet<String> {
    tree(package, "1")
}

#[test]
fn pure_rooms_resolve_to_nothing_that_waits_or_stores() {
    const IMPURE: [&str; 12] = [
        "tokio",
        "ractor",
        "openraft",
        "sled",
        "tonic",
        "axum",
        "hyper",
        "mio",
        "rand",
        "getrandom",
        "futures",
        "tracing",
    ];
    for package in ["featureops-proto", "featureops-state", "featureops-decision", "featureops-evaluation"] {
        let all = resolved(package);
        assert!(all.contains("prost"), "{package}: the tree was not read");
        for name in IMPURE {
            assert!(!all.contains(name), "{package} resolves to {name}");
        }
    }
}

#[test]
fn dependencies_run_downward() {
    let never = |package: &str, names: &[&str]| {
        let listed = direct(package);
        assert!(listed.contains("featureops-proto"), "{package}: the tree was not read");
        for name in names {
            assert!(!listed.contains(*name), "{package} lists {name}");
        }
    };
    let rooms = ["featureops", "featureops-actors", "featureops-cluster", "simulation"];
    never("featureops-state", &rooms);
    never("featureops-evaluation", &rooms);
    never("featureops-decision", &rooms);
    never("featureops-evaluation", &["featureops-state", "featureops-decision"]);
    never("featureops-decision", &["featureops-state", "featureops-evaluation"]);
    never(
        "featureops-cluster",
        &["ractor", "featureops-actors", "featureops-decision", "featureops-evaluation", "featureops"],
    );
    never(
        "featureops-actors",
        &["statrs", "linfa", "sled", "tonic", "featureops-state", "featureops-cluster", "featureops"],
    );
    never(
        "featureops-client",
        &["featureops", "featureops-state", "featureops-cluster", "featureops-evaluation"],
    );
    never("featureops", &["simulation", "statrs", "sled", "openraft"]);
}

fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let files: Vec<PathBuf> =
        text.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect();
    assert!(files.len() > 50, "run inside a git checkout");
    files
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

#[test]
fn a_file_fits_in_one_head_and_says_what_it_is() {
    for path in tracked().iter().filter(|path| is(path, "rs")) {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        let lines = text.lines().count();
        assert!(lines <= 700, "{} has {lines} lines: split it by concept", path.display());
        assert!(text.starts_with("//!"), "{} does not open with its story", path.display());
    }
}

#[test]
fn rooms_have_one_purpose() {
    for path in tracked() {
        for part in path.components() {
            let name =
                Path::new(part.as_os_str()).file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
            for banned in ["utils", "util", "common", "helpers", "helper", "misc"] {
                assert_ne!(name, banned, "{}: name it by its purpose", path.display());
            }
        }
    }
}

#[test]
fn every_room_says_what_is_absent() {
    for room in [
        "proto",
        "cluster",
        "cluster/state",
        "actors",
        "actors/decision",
        "nodes",
        "nodes/client",
        "nodes/evaluation",
        "simulation",
        "tests",
    ] {
        let text = std::fs::read_to_string(root().join(room).join("README.md"))
            .unwrap_or_else(|error| panic!("{room}/README.md: {error}"));
        let titles: Vec<String> =
            text.lines().filter_map(|l| l.strip_prefix("## ")).map(str::to_lowercase).collect();
        let said = titles.iter().any(|title| title.contains("invariants") || title.contains("absent"));
        assert!(said, "{room}/README.md must say what is deliberately absent");
    }
}

#[test]
fn nothing_is_left_open_and_no_machine_is_named() {
    for path in tracked() {
        if path.ends_with("tidy.rs") || is(&path, "lock") || path.ends_with("LICENSE") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (at, line) in text.lines().enumerate() {
            let place = || format!("{}:{}: {line}", path.display(), at + 1);
            for open in ["todo!(", "unimplemented!(", "FIXME", "XXX"] {
                assert!(!line.contains(open), "{}", place());
            }
            for machine in ["/home/", "/root/", "/work/"] {
                assert!(!line.contains(machine), "{}", place());
            }
        }
    }
}
