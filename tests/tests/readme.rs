//! The page a new user reads first: its commands run as they stand, in their order, against one node.
//!
//! Fences that say `sh` are run. The others start a node, build, or show something: among them no command may hide that
//! could be run and is not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use std::process::Command;
use std::time::Duration;

use featureops_tests::line::{text, within};
use featureops_tests::site::Site;
use featureops_tests::{binary, runtime};

/// Longest time of one fence: a dozen commands.
const PATIENCE: Duration = Duration::from_secs(300);
const README: &str = include_str!("../../README.md");

/// The fenced parts of a page: what the fence says, and what stands in it.
fn fences(page: &str) -> Vec<(&str, String)> {
    let mut fences = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(label), None) => open = Some((label, String::new())),
            (Some(_), Some(_)) => fences.extend(open.take()),
            (None, Some((_, body))) => {
                body.push_str(line);
                body.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    fences
}

#[test]
fn what_is_not_run_starts_a_node_or_builds() {
    let may = |line: &str| {
        ["cargo run --release -- demo", "cargo test --workspace", "cargo build --release", "export PATH="]
            .iter()
            .chain(&["featureops serve --data ./data"])
            .any(|known| line.starts_with(known))
    };
    let plain: Vec<String> =
        fences(README).into_iter().filter(|(label, _)| label.is_empty()).map(|(_, body)| body).collect();
    assert!(plain.len() >= 4, "{plain:?}");
    for line in plain.iter().flat_map(|body| body.lines()) {
        let is_command = ["featureops ", "cargo ", "export "].iter().any(|word| line.starts_with(word));
        assert!(!is_command || may(line), "not run by any test: {line}");
    }
}

#[test]
fn the_commands_run_as_they_stand() {
    let site = Site::new();
    let _node = runtime().block_on(site.start()).unwrap_or_else(|ended| panic!("start: {ended}"));
    let folder = site.beside("tour");
    std::fs::create_dir(&folder).unwrap();
    let mut path = binary::featureops().parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());

    let tour: Vec<String> =
        fences(README).into_iter().filter(|(label, _)| *label == "sh").map(|(_, body)| body).collect();
    assert!(
        tour.iter().flat_map(|body| body.lines()).filter(|line| line.starts_with("featureops ")).count() > 40
    );
    for body in tour {
        let mut command = site.own(Command::new("bash"));
        command
            .args(["-euo", "pipefail", "-c", &body])
            .current_dir(&folder)
            .env("PATH", &path)
            .env("FEATUREOPS_SERVER", format!("http://127.0.0.1:{}", site.port));
        let ended = within(command, PATIENCE);
        assert!(ended.status.success(), "{body}\n{}\n{}", text(&ended.stdout), text(&ended.stderr));
    }
}
