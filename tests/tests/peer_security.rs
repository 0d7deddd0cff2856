//! Nodes of one cluster and the network between them: certificates both ways, tokens that let nodes in, and what an operator
//! is told when one is wrong.
//!
//! Certificates are made by the `openssl` command; where there is none, the stories that need them say so and end.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use featureops_tests::authority::{Authority, has_openssl};
use featureops_tests::line::text;
use featureops_tests::site::{Node, Site};
use featureops_tests::{http, runtime};
use serde_json::Value;

/// What a join, a reload, a refusal and its mending may take.
const PATIENCE: Duration = Duration::from_secs(40);

async fn until(what: &str, mut found: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !found() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A node of a cluster: its site, and where its peers reach it.
fn site(node: u64, listens: &str, port: u16) -> Site {
    Site::new()
        .with("FEATUREOPS_NODE", node.to_string())
        .with("FEATUREOPS_PEER_LISTEN", format!("{listens}:{port}"))
        .with("FEATUREOPS_ADVERTISE", format!("127.0.0.1:{port}"))
}

fn certified(site: Site, authority: &Authority<'_>, (cert, key): (PathBuf, PathBuf)) -> Site {
    site.with("FEATUREOPS_PEER_TLS_CERT", cert)
        .with("FEATUREOPS_PEER_TLS_KEY", key)
        .with("FEATUREOPS_PEER_TLS_CA", authority.path("ca.pem"))
}

async fn started(site: &Site) -> Node {
    site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"))
}

/// The secret of a token that is made.
fn made(site: &Site, root: &[&str], arguments: &[&str]) -> String {
    let all = [&["token", "create"], arguments, &["-o", "json"], root].concat();
    let printed: Value = serde_json::from_str(&site.ask(&all).unwrap()).unwrap();
    printed["secret"].as_str().unwrap().to_owned()
}

fn json(site: &Site, arguments: &[&str]) -> Value {
    let all = [arguments, &["-o", "json"]].concat();
    serde_json::from_str(&site.ask(&all).unwrap_or_else(|why| panic!("{arguments:?}: {why}"))).unwrap()
}

/// Why one member does not answer, by another's word.
fn fault(site: &Site, root: &[&str], node: u64) -> String {
    let Ok(told) = site.ask(&[&["cluster", "status", "-o", "json"], root].concat()) else {
        return String::new();
    };
    let cluster: Value = serde_json::from_str(&told).unwrap();
    let members = cluster["members"].as_array().cloned().unwrap_or_default();
    let found = members.iter().find(|member| member["node"] == node.to_string().as_str());
    found.and_then(|member| member["fault"].as_str()).unwrap_or_default().to_owned()
}

fn same_private(one: &Path, two: &Path, name: &str) {
    let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
    assert_eq!(read(one), read(two), "{name}");
    let mode = std::fs::metadata(two.join(name)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{name}");
}

fn logged(site: &Site) -> String {
    std::fs::read_to_string(site.beside("node.log")).unwrap_or_default()
}

#[test]
fn nodes_behind_certificates_join_by_a_token_and_hear_why_when_one_of_the_two_is_wrong() {
    if !has_openssl() {
        return;
    }
    runtime().block_on(async {
        let (ports, home) = ([Site::another_port(), Site::another_port(), Site::another_port()], Site::new());
        let folder = home.beside("");
        let authority = Authority::new(&folder, "ca");
        // Beyond loopback: that is what the certificates are for.
        let first = certified(site(1, "0.0.0.0", ports[0]), &authority, authority.sign("one", 300));
        let one = started(&first).await;
        let root = made(&first, &[], &["root", "--role", "admin"]);
        let root: &[&str] = &["--token", &root];
        first
            .ask(
                &[
                    &[
                        "flag",
                        "set",
                        "f",
                        "--type",
                        "boolean",
                        "--variant",
                        "on=true",
                        "--default",
                        "on",
                        "--safe",
                        "on",
                    ],
                    root,
                ]
                .concat(),
            )
            .unwrap();
        // A token that lets nodes in ends, and does nothing else.
        for (arguments, word) in [
            (&["x", "--role", "join"][..], "--expires"),
            (&["x", "--role", "join", "--role", "view", "--expires", "1h"][..], "does nothing else"),
            (&["x", "--role", "join", "--in", "production", "--expires", "1h"][..], "does nothing else"),
        ] {
            let why = first.ask(&[&["token", "create"], arguments, root].concat()).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
        let door = made(&first, root, &["door", "--role", "join", "--expires", "1h"]);
        let why = first.ask(&["flag", "list", "--token", &door]).unwrap_err();
        assert!(why.contains("has no role"), "{why}");

        // Without one it waits, and says for what.
        let token = home.beside("join.token");
        let second = certified(site(2, "127.0.0.1", ports[1]), &authority, authority.sign("two", 300))
            .with("FEATUREOPS_JOIN", format!("127.0.0.1:{}", ports[0]))
            .with("FEATUREOPS_JOIN_TOKEN", &token);
        std::fs::write(&token, "").unwrap();
        let two = second.start_unready().await.unwrap_or_else(|ended| panic!("{ended}"));
        until("the file is said", || logged(&second).contains("holds no token")).await;
        std::fs::write(&token, format!("fo_0123456789abcdef_{}\n", "0".repeat(64))).unwrap();
        until("a wrong one is said", || logged(&second).contains("revoked, or mistyped")).await;
        assert!(!second.data.join("peer.key").exists() && !second.data.join("unit.key").exists());
        // The right one in its place, without a restart: with it come both keys and all that there is.
        std::fs::write(&token, format!("{door}\n")).unwrap();
        until("it has joined", || second.ask(&[&["flag", "get", "f"], root].concat()).is_ok()).await;
        until("the unit key", || second.data.join("unit.key").exists()).await;
        same_private(&first.data, &second.data, "peer.key");
        same_private(&first.data, &second.data, "unit.key");
        until("it votes", || second.ask(&[&["cluster", "promote", "2"], root].concat()).is_ok()).await;
        let audit = || first.ask(&[&["audit", "list"], root].concat()).unwrap();
        until("the token is named", || {
            audit().lines().any(|line| line.contains("human:door") && line.contains("node 2 added"))
        })
        .await;
        let says = |site: &Site| {
            let server = format!("http://127.0.0.1:{}", site.port);
            let ended = site.command().args(["doctor", "--server", &server]).args(root).output().unwrap();
            format!("{}{}", text(&ended.stdout), text(&ended.stderr))
        };
        let said = says(&second);
        assert!(said.contains("peer certificate") && said.contains("members prove who they are"), "{said}");

        // Revoked: nobody comes in by it any more; an admin may let one in by name, and it gets the keys.
        first.ask(&[&["token", "revoke", "door"], root].concat()).unwrap();
        let third = certified(site(3, "127.0.0.1", ports[2]), &authority, authority.sign("three", 5))
            .with("FEATUREOPS_JOIN", format!("127.0.0.1:{}", ports[1]))
            .with("FEATUREOPS_JOIN_TOKEN", &token);
        let three = third.start_unready().await.unwrap_or_else(|ended| panic!("{ended}"));
        until("revoked", || logged(&third).contains("revoked, or mistyped")).await;
        let address = format!("127.0.0.1:{}", ports[2]);
        until("let in by name", || {
            first.ask(&[&["cluster", "add-learner", "3", &address], root].concat()).is_ok()
        })
        .await;
        until("it has what there is", || third.ask(&[&["flag", "get", "f"], root].concat()).is_ok()).await;
        same_private(&first.data, &third.data, "peer.key");
        // Its certificate ends soon: it says so itself, and so do those that dial it.
        until("soon", || says(&first).contains(&format!("that of {address} ends"))).await;
        assert!(says(&third).contains("this node's ends"), "{}", says(&third));

        // New files in their place are taken on SIGHUP, without a restart.
        authority.sign("three", 200);
        three.hang_up();
        until("new ones are used", || says(&third).contains("in 199 days")).await;
        drop(three.drain().await);

        // A member whose certificate is wrong: each reason in the log and beside the member.
        let other = Authority::new(&folder, "other");
        let expired = authority.sign_between("expired", "20200101000000Z", "20210101000000Z");
        let foreign = other.sign("foreign", 30);
        let misnamed = authority.sign_for("misnamed", "DNS:elsewhere", 30);
        let mut two = two;
        let mut second = second;
        for (files, here, there) in [
            (Some(expired), "its certificate has expired", "has expired"),
            (Some(foreign), "is of another authority", "is of another authority"),
            (Some(misnamed), "", "is not of the name that was dialed"),
            (None, "it speaks no TLS", "speaks no TLS"),
        ] {
            drop(two.drain().await);
            second = match files {
                Some(files) => certified(second, &authority, files),
                None => {
                    for name in ["CERT", "KEY", "CA"] {
                        second.unset(&format!("FEATUREOPS_PEER_TLS_{name}"));
                    }
                    second
                }
            };
            two = second.start_unready().await.unwrap_or_else(|ended| panic!("{ended}"));
            until(there, || fault(&first, root, 2).contains(there)).await;
            until(here, || logged(&first).contains(here)).await;
        }
        // No certificate at all, over TLS.
        let ended = std::process::Command::new("openssl")
            .args(["s_client", "-alpn", "featureops-peer/1", "-connect", &format!("127.0.0.1:{}", ports[0])])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        drop(ended);
        until("no certificate", || logged(&first).contains("it showed no certificate")).await;
        // Plain text is answered by nobody.
        let raw =
            http::exchange(ports[0], b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", Duration::from_secs(3)).await;
        assert!(!text(&raw.unwrap_or_default()).contains("HTTP"));
        // Mended: it follows again, and what was written meanwhile is there.
        drop(two.drain().await);
        second = certified(second, &authority, authority.sign("two", 300));
        let two = started(&second).await;
        until("it is heard", || fault(&first, root, 2).is_empty()).await;
        first.ask(&[&["flag", "archive", "f"], root].concat()).unwrap();
        until("all is there", || {
            second.ask(&[&["flag", "get", "f"], root].concat()).is_ok_and(|said| said.contains("archived"))
        })
        .await;
        drop((one.drain().await, two.drain().await));
        // Secrets stay out of every log, the token's and the key's.
        let key = std::fs::read(first.data.join("peer.key")).unwrap();
        for site in [&first, &second, &third] {
            let log = std::fs::read(site.beside("node.log")).unwrap();
            for secret in [door.as_bytes(), key.as_slice()] {
                assert!(!log.windows(secret.len()).any(|part| part == secret));
            }
        }
    });
}

#[test]
fn what_cannot_be_is_said_at_the_start_and_before_a_token_is_sent() {
    let site = Site::new();
    let bad = site.beside("bad.pem");
    std::fs::write(&bad, "nothing").unwrap();
    let bad = bad.to_str().unwrap();
    for (arguments, word) in [
        (&["--peer-listen", "0.0.0.0:0"][..], "--peer-tls-cert, --peer-tls-key, --peer-tls-ca"),
        (&["--set", "peer_tls.cert=x", "--set", "peer_tls.ca=x"][..], "peer_tls.key: missing"),
        (&["--peer-tls-cert", bad, "--peer-tls-key", bad, "--peer-tls-ca", bad][..], "holds no certificate"),
        (&["--peer-tls-cert", bad][..], "--peer-tls-key"),
        (&["--join-token", "fo_0123"][..], "takes a file"),
        (&["--set", "recover_admin=true"][..], "is not known"),
    ] {
        let ended = site
            .command()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(&site.data)
            .args(arguments)
            .output()
            .unwrap();
        assert!(!ended.status.success(), "{arguments:?}");
        assert!(text(&ended.stderr).contains(word), "{arguments:?}: {}", text(&ended.stderr));
        assert!(!text(&ended.stderr).contains("fo_0123"), "a token is not shown");
    }
    let list = [
        "flag",
        "list",
        "--request-timeout",
        "1s",
        "--server",
        "http://192.0.2.1:7400",
        "--token",
        "fo_0123",
    ];
    let ended = site.command().args(list).output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", text(&ended.stderr));
    assert!(text(&ended.stderr).contains("--insecure-token"), "{}", text(&ended.stderr));
    let ended = site.command().args(list).arg("--insecure-token").output().unwrap();
    assert_ne!(ended.status.code(), Some(2), "{}", text(&ended.stderr));
}

#[test]
fn a_stream_that_was_open_before_the_first_token_ends_when_it_is_made() {
    runtime().block_on(async {
        let site = Site::new();
        let node = started(&site).await;
        let server = format!("http://127.0.0.1:{}", site.port);
        let mut watching = site
            .command()
            .args(["audit", "tail", "--server", &server])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(watching.try_wait().unwrap().is_none(), "it watches");
        made(&site, &[], &["root", "--role", "admin"]);
        until("it ends", || watching.try_wait().unwrap().is_some()).await;
        let ended = watching.wait_with_output().unwrap();
        assert!(text(&ended.stderr).contains("a token is needed"), "{}", text(&ended.stderr));
        drop(node.drain().await);
    });
}

#[test]
fn an_emptied_first_node_that_makes_a_cluster_of_its_own_is_not_ready_and_says_why() {
    runtime().block_on(async {
        let ports = [Site::another_port(), Site::another_port(), Site::another_port()];
        let first = site(1, "127.0.0.1", ports[0]);
        let joins = format!("127.0.0.1:{}", ports[0]);
        let rest: Vec<Site> = [2, 3]
            .into_iter()
            .map(|node| site(node, "127.0.0.1", ports[node as usize - 1]).with("FEATUREOPS_JOIN", &joins))
            .collect();
        let one = started(&first).await;
        let mut nodes = Vec::new();
        for (site, node) in rest.iter().zip(["2", "3"]) {
            nodes.push(started(site).await);
            until("it votes", || first.ask(&["cluster", "promote", node]).is_ok()).await;
        }
        drop(one.drain().await);
        std::fs::remove_dir_all(&first.data).unwrap();
        let one = first.start_unready().await.unwrap_or_else(|ended| panic!("{ended}"));
        until("the log says it", || logged(&first).contains("called by what it is not")).await;
        let ready = http::get(first.port, "/readyz?verbose").await.unwrap();
        assert_eq!(ready.status, 503, "{}", ready.body);
        assert!(ready.body.contains("membership"), "{}", ready.body);
        let said = first.ask(&["doctor"]).unwrap_err();
        assert!(said.contains("--join"), "{said}");
        // The way out that it names.
        drop(one.drain().await);
        std::fs::remove_dir_all(&first.data).unwrap();
        until("removed", || rest[0].ask(&["cluster", "remove", "1"]).is_ok()).await;
        let first = first.with("FEATUREOPS_JOIN", format!("127.0.0.1:{}", ports[1]));
        let one = started(&first).await;
        assert_eq!(
            json(&first, &["cluster", "status"])["cluster"],
            json(&rest[0], &["cluster", "status"])["cluster"]
        );
        drop(one.drain().await);
        for node in nodes {
            drop(node.drain().await);
        }
    });
}
