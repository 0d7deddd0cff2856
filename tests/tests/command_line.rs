//! The command line against a running node: what it prints, how it ends, and that a dry run changes nothing.
//!
//! Exit codes are part of the contract; the table is in every `--help`.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::time::{Duration, Instant};

use featureops_tests::line::{Line, text};
use featureops_tests::load::{Load, prepare};
use featureops_tests::site::Site;
use featureops_tests::{check, runtime};

/// What a command may take where nobody listens: the 2 s it is told to try, and what a busy machine needs to run it.
const NOBODY_MAX: Duration = Duration::from_secs(10);
/// What a drain may take under load: the node's own bound for requests in flight, 10 s, and what it needs to end then.
const DRAIN_MAX: Duration = Duration::from_secs(12);

const SET: &[&str] =
    &["flag", "set", "banner", "--type", "boolean", "--variant", "on=true", "--variant", "off=false"];

#[test]
fn flags_and_exit_codes() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);

        line.ends(3, &["flag", "get", "banner"]);
        line.says(0, "banner", &[SET, &["--default", "off", "--dry-run"]].concat());
        // A dry run says what would be, and nothing is.
        line.ends(3, &["flag", "get", "banner"]);
        line.ends(0, &[SET, &["--default", "off", "--safe", "off"]].concat());
        line.ends(8, &[SET, &["--default", "nowhere"]].concat());
        line.ends(2, &["flag", "set", "banner", "--no-such-option"]);
        line.ends(2, &["flag", "get", "Not A Key"]);

        let flag = line.json(0, &["flag", "get", "banner"]);
        assert_eq!(flag["name"], "environments/production/flags/banner");
        assert_eq!(flag["variants"]["on"], true);
        let etag = flag["etag"].as_str().unwrap().to_owned();
        let yaml = line.ends(0, &["flag", "get", "banner", "-o", "yaml"]);
        assert!(yaml.contains("name: environments/production/flags/banner"), "{yaml}");
        assert!(!yaml.trim_start().starts_with('{'), "{yaml}");
        let table = line.ends(0, &["flag", "list", "-o", "table"]);
        assert!(table.contains("banner") && !table.contains('{'), "{table}");
        assert!(!table.contains('\u{1b}'), "colour without a terminal: {table:?}");

        // What was read can be written again, and an etag guards it.
        line.ends(0, &["flag", "set", "banner", "--file", &line.file("flag.yaml", &yaml)]);
        line.ends(5, &["flag", "set", "banner", "--update", "--disabled", "--etag", &etag]);
        line.ends(0, &["flag", "set", "banner", "--update", "--disabled"]);
        let history = line.ends(0, &["flag", "history", "banner"]);
        assert!(history.lines().count() >= 3, "{history}");
        line.ends(0, &["flag", "revert", "banner", "--to", "1"]);
        assert_ne!(line.json(0, &["flag", "get", "banner"])["disabled"], true);

        line.ends(2, &["--output", "xml", "flag", "list"]);
        line.ends(2, &["--principal", "robot", "flag", "list"]);
        line.says(0, "intact", &["audit", "verify"]);
        line.ends(0, &["doctor"]);
        assert!(line.ends(0, &["--help"]).contains("outcome unknown"));

        drop(node);
        // Nobody there: said at once, and nothing was changed.
        let begin = Instant::now();
        line.ends(6, &["--request-timeout", "2s", "flag", "list"]);
        assert!(begin.elapsed() < NOBODY_MAX, "{:?}", begin.elapsed());
    });
}

/// An unanswered write is repeated as it was sent. What the node adds on the way (the fields a partial write did not name,
/// a drawn seed) is not the caller's, and must not turn the repetition into another command.
#[test]
fn a_repeated_request_takes_effect_once() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);
        line.ends(0, &[SET, &["--default", "off", "--safe", "off"]].concat());
        line.ends(0, &["metric", "set", "clicks", "--kind", "proportion"]);
        let whole = [SET, &["--default", "on", "--safe", "off", "--request-id", "whole"]].concat();
        let create = [
            "experiment",
            "create",
            "try",
            "--flag",
            "banner",
            "--arm",
            "off",
            "--arm",
            "on",
            "--primary-metric",
            "clicks",
            "--request-id",
            "create",
        ];
        let partial = ["flag", "set", "banner", "--update", "--owner", "ann", "--request-id", "partial"];
        let mut wrong = Vec::new();
        for arguments in [whole.as_slice(), &create, &partial] {
            line.ends(0, arguments);
            let version = line.json(0, &["flag", "get", "banner"])["flagVersion"].clone();
            let again = line.run(arguments);
            if again.status.code() != Some(0) {
                wrong.push(format!("{arguments:?} again: {}", text(&again.stderr)));
            }
            assert_eq!(
                line.json(0, &["flag", "get", "banner"])["flagVersion"],
                version,
                "{arguments:?} took effect twice"
            );
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        drop(node);
    });
}

#[test]
fn an_experiment_from_the_command_line() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);
        line.ends(0, &[SET, &["--default", "off", "--safe", "off"]].concat());
        line.ends(0, &["metric", "set", "clicks", "--kind", "proportion"]);
        let create = [
            "experiment",
            "create",
            "try",
            "--flag",
            "banner",
            "--arm",
            "off",
            "--arm",
            "on",
            "--primary-metric",
            "clicks",
            "--policy",
            "fixed",
            "--established",
            "off",
            "--established",
            "on",
        ];
        line.ends(0, &[create.as_slice(), &["--dry-run"]].concat());
        line.ends(3, &["experiment", "get", "try"]);
        line.ends(0, &create);
        line.ends(5, &create);
        line.ends(0, &["experiment", "start", "try"]);
        line.ends(4, &["experiment", "start", "try"]);
        let status = line.json(0, &["experiment", "status", "try"]);
        assert_eq!(status["experiment"]["state"], "RUNNING", "{status:#}");
        line.ends(0, &["trip", "banner", "--reason", "smoke"]);
        let explained = line.ends(0, &["flag", "explain", "banner", "--unit", "u1", "-o", "json"]);
        assert!(explained.contains("TRIPPED"), "{explained}");
        line.ends(0, &["resume", "banner", "--reason", "air is clear"]);
        line.ends(0, &["experiment", "stop", "try"]);
        drop(node);
    });
}

#[test]
fn what_is_wrong_in_the_settings_is_said_before_anything_starts() {
    let site = Site::new();
    let ends = |arguments: &[&str], variables: &[(&str, &str)], word: &str| {
        let mut command = site.command();
        command.args(arguments).env("FEATUREOPS_DATA", &site.data);
        for (name, value) in variables {
            command.env(name, value);
        }
        let ended = command.output().unwrap();
        let err = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(word), "{arguments:?}: no '{word}' in {err}");
        assert!(!site.data.exists(), "{arguments:?} touched the data folder");
    };
    let file = site.beside("node.toml");
    let file_name = file.to_str().unwrap();
    std::fs::write(&file, "lisen = '127.0.0.1:1'\n").unwrap();
    ends(&["serve", "--config", file_name], &[], "listen");
    std::fs::write(&file, "limits.connections = -1\n").unwrap();
    ends(&["serve", "--config", file_name], &[], "limits.connections");
    ends(&["serve", "--set", "limits.conections=1"], &[], "limits.connections");
    ends(&["serve"], &[("FEATUREOPS_LISTENN", "127.0.0.1:1")], "FEATUREOPS_LISTEN");
    ends(&["serve"], &[("FEATUREOPS_LIMITS_REQUEST_BYTES", "1")], "65536");
    ends(&["serve", "--config", "no-such-file.toml"], &[], "no-such-file.toml");
    std::fs::write(&file, "sevrer = 'x'\n").unwrap();
    ends(&["--config", file_name, "flag", "list"], &[], "server");
}

#[test]
fn only_loopback_is_listened_on() {
    let site = Site::new();
    let ended = site
        .command()
        .args(["serve", "--listen", "0.0.0.0:0"])
        .env("FEATUREOPS_DATA", &site.data)
        .output()
        .unwrap();
    assert!(!ended.status.success());
    assert!(text(&ended.stderr).contains("loopback"), "{}", text(&ended.stderr));
}

#[test]
fn sigterm_drains() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let client = site.client();
        prepare(&client).await.unwrap();
        let load = Load::start(&client, 2);
        tokio::time::sleep(Duration::from_millis(400)).await;
        // In the middle of the load: what was answered is there, what was not is repeated at the next life.
        let begin = Instant::now();
        let status = node.drain().await.unwrap_or_else(|ended| panic!("drain: {ended}"));
        assert_eq!(status.code(), Some(0));
        assert!(begin.elapsed() < DRAIN_MAX, "the drain took {:?}", begin.elapsed());
        let node = site.start().await.unwrap_or_else(|ended| panic!("start after a drain: {ended}"));
        let known = load.end().await;
        let faults = check::settled(&client, &known).await;
        assert!(faults.is_empty(), "{faults:#?}");

        // Two nodes on one folder: the second one goes, and says why.
        let second = site
            .command()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("FEATUREOPS_DATA", &site.data)
            .output()
            .unwrap();
        assert!(!second.status.success());
        assert!(text(&second.stderr).contains("in use"), "{}", text(&second.stderr));
        drop(node);
    });
}
