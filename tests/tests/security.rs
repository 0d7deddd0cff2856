//! Tokens and TLS as an operator meets them: made, shown once, refused, revoked; certificates of three kinds; and no secret in any log.
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

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featureops_client::{Event, Facts, Fate, Settings, Token};
use featureops_tests::authority::{Authority, has_openssl};
use featureops_tests::line::{Line, text};
use featureops_tests::site::Site;
use featureops_tests::{folder, http, runtime};

/// What a reload, a revocation and a start may take.
const PATIENCE: Duration = Duration::from_secs(40);

const SET: &[&str] = &[
    "flag",
    "set",
    "checkout",
    "--type",
    "boolean",
    "--variant",
    "on=true",
    "--variant",
    "off=false",
    "--default",
    "off",
    "--safe",
    "off",
];

/// The secret that a creation prints, alone on its line.
fn secret_of(printed: &str) -> String {
    let line = printed.lines().find(|line| line.trim().starts_with("fo_"));
    line.unwrap_or_else(|| panic!("no secret in {printed}")).trim().to_owned()
}

#[test]
fn from_the_first_token_to_the_last_and_no_secret_in_any_log() {
    runtime().block_on(async {
        let site = Site::new()
            .with("FEATUREOPS_LOG_FILTER", "debug,h2=trace,hyper=trace,tonic=trace,tower=trace,rustls=trace")
            .with("FEATUREOPS_ANONYMOUS_EVALUATION", "none");
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);
        line.ends(0, SET);
        line.says(4, "--role admin", &["token", "create", "anna", "--role", "edit"]);
        line.says(0, "would create", &["token", "create", "root", "--role", "admin", "--dry-run"]);
        line.says(0, "no tokens", &["token", "list"]);
        let root = secret_of(&line.ends(0, &["token", "create", "root", "--role", "admin"]));

        line.says(9, "a token is needed", &["flag", "list"]);
        line.says(9, "no such token", &["flag", "list", "--token", "fo_0123"]);
        let ends = |code: i32, arguments: &[&str], token: &str| {
            let with = [arguments, &["--token", token]].concat();
            line.ends(code, &with)
        };
        ends(0, &["flag", "list"], &root);
        let file = line.file("root.token", &format!("{root}\n"));
        line.ends(0, &["flag", "list", "--token-file", &file]);
        let anna =
            secret_of(&ends(0, &["token", "create", "anna", "--role", "edit", "--in", "production"], &root));
        let shop = ends(
            0,
            &["token", "create", "shop", "--role", "evaluate", "--role", "track", "-o", "json"],
            &root,
        );
        let shop: serde_json::Value = serde_json::from_str(&shop).unwrap();
        let shop = shop["secret"].as_str().unwrap().to_owned();

        ends(0, &[SET, &["--description", "anna's"]].concat(), &anna);
        ends(9, &["flag", "get", "checkout", "--environment", "staging"], &anna);
        ends(9, &["token", "list"], &anna);
        ends(9, &["flag", "list"], &shop);
        let listed = ends(0, &["token", "list"], &root);
        assert!(listed.contains("anna") && listed.contains("edit in production"), "{listed}");
        let audit = ends(0, &["audit", "list"], &root);
        assert!(audit.contains("human:anna ") && audit.contains("human:local (unverified)"), "{audit}");
        assert!(!audit.contains("human:anna (unverified)"), "{audit}");
        line.says(0, "callers show tokens", &["doctor", "--token", &root]);

        // A service's client shows one, too.
        let told = Arc::new(AtomicU64::new(0));
        let heard = Arc::clone(&told);
        let settings = Settings {
            token: Some(Token::from(shop.as_str())),
            ..Settings::new(format!("http://127.0.0.1:{}", site.port), "production", "shop")
        };
        assert!(!format!("{settings:?}").contains(&shop));
        let facts = Facts::start(
            settings,
            Box::new(move |_: &Event, fate: &Fate| {
                assert!(matches!(fate, Fate::Told { .. }), "{fate:?}");
                heard.fetch_add(1, Ordering::Relaxed);
            }),
        )
        .unwrap();
        facts.send(Event::outcome_of("purchase", "user-1", "", 1.0)).unwrap();
        facts.close(PATIENCE).await;
        assert_eq!(told.load(Ordering::Relaxed), 1);

        // The webhook of a monitor: with a token, of a role that may.
        let alarm = br#"{"environment": "production", "flag": "checkout", "source": "probe"}"#;
        let raise = async |header: String| {
            let headers = format!("content-type: application/json\r\n{header}");
            http::request(site.port, "POST", "/v1/alarms", &headers, alarm).await.unwrap()
        };
        assert_eq!(raise(String::new()).await.status, 401);
        assert_eq!(raise(format!("authorization: Bearer {shop}\r\n")).await.status, 403);
        let monitor = secret_of(&ends(0, &["token", "create", "probe", "--role", "agent"], &root));
        let answer = raise(format!("authorization: Bearer {monitor}\r\n")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let audit = ends(0, &["audit", "list"], &root);
        assert!(audit.contains("agent:probe"), "{audit}");

        ends(0, &["token", "revoke", "anna"], &root);
        ends(9, &["flag", "list"], &anna);
        line.says(4, "only admin", &["token", "revoke", "root", "--token", &root]);

        // Nothing that is written holds a secret: log lines at their most talkative, the log, snapshots.
        drop(node.drain().await);
        let files = folder::files(site.beside("").as_path());
        for secret in [&root, &anna, &shop, &monitor] {
            let private = &secret["fo_0123456789abcdef_".len()..];
            for path in files.iter().filter(|path| !path.ends_with("root.token")) {
                let bytes = std::fs::read(path).unwrap();
                let found = bytes.windows(private.len()).any(|part| part == private.as_bytes());
                assert!(!found, "a secret stands in {}", path.display());
            }
        }
        let log = std::fs::read_to_string(site.beside("node.log")).unwrap();
        assert!(log.contains(" h2::") && log.contains("TRACE"), "the log was not at its most talkative");
    });
}

/// A node behind TLS, ended with this value.
struct Secured {
    child: Child,
    url: String,
}

impl Secured {
    fn start(site: &Site, arguments: &[&str]) -> Self {
        let mut child = site
            .command()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(&site.data)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(site.beside("node.log")).unwrap())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let url = first.split(' ').nth(2).unwrap_or_default().trim_end_matches(',').to_owned();
        assert!(url.starts_with("https://127.0.0.1:"), "{first}");
        Self { child, url }
    }

    fn run(&self, site: &Site, arguments: &[&str]) -> Output {
        site.command().args(["--server", &self.url]).args(arguments).output().unwrap()
    }

    fn ends(&self, site: &Site, code: i32, arguments: &[&str]) -> String {
        let ended = self.run(site, arguments);
        let (out, err) = (text(&ended.stdout), text(&ended.stderr));
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
        format!("{out}{err}")
    }

    fn port(&self) -> u16 {
        self.url.rsplit(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_behind_tls_is_reached_by_those_who_trust_it_and_takes_new_certificates() {
    if !has_openssl() {
        return;
    }
    let site = Site::new();
    let folder = site.beside("");
    let (authority, other) = (Authority::new(&folder, "ca"), Authority::new(&folder, "other"));
    let (cert, key) = authority.sign("node", 5);
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let (ca, wrong) = (authority.path("ca.pem"), other.path("other.pem"));
    let (ca, wrong) = (ca.to_str().unwrap(), wrong.to_str().unwrap());
    let node = Secured::start(&site, &["--tls-cert", cert, "--tls-key", key]);
    let set = [SET, &["--ca-cert", ca]].concat();
    node.ends(&site, 0, &set);
    // Who does not trust it sends nothing; who speaks plain text is not answered.
    node.ends(&site, 6, &["flag", "list", "--ca-cert", wrong]);
    let plain = Line(&site).run(&[
        "--request-timeout",
        "2s",
        "--server",
        &format!("http://127.0.0.1:{}", node.port()),
        "flag",
        "list",
    ]);
    assert_ne!(plain.status.code(), Some(0));
    runtime().block_on(async {
        let raw = http::exchange(
            node.port(),
            b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
            Duration::from_secs(3),
        );
        assert!(!text(&raw.await.unwrap_or_default()).contains("200 OK"));
    });
    // A certificate that ends soon is said, and what it says after a new one lies in its place.
    let said = node.ends(&site, 4, &["doctor", "--ca-cert", ca]);
    assert!(said.contains("certificate") && said.contains("days"), "{said}");
    std::fs::write(cert, "no certificate").unwrap();
    let until = |what: &str, found: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !found() {
            assert!(begin.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    until("a bad file is said", &|| {
        text(&node.run(&site, &["doctor", "--ca-cert", ca]).stderr).contains("tls.cert")
    });
    authority.sign("node", 300);
    until("a new certificate is taken", &|| node.run(&site, &["doctor", "--ca-cert", ca]).status.success());
    // One that has ended is not taken in place of one that has not.
    authority.sign_between("node", "20200101000000Z", "20210101000000Z");
    until("an ended one is said", &|| {
        text(&node.run(&site, &["doctor", "--ca-cert", ca]).stdout).contains("that lies there now ended")
    });
    node.ends(&site, 0, &["flag", "list", "--ca-cert", ca]);
    // SIGHUP takes it at once.
    authority.sign("node", 3);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(node.child.id()).unwrap()).unwrap(),
        rustix::process::Signal::HUP,
    )
    .unwrap();
    until("a hangup reads them again", &|| !node.run(&site, &["doctor", "--ca-cert", ca]).status.success());
}

#[test]
fn whoever_connects_can_be_asked_for_a_certificate() {
    if !has_openssl() {
        return;
    }
    let site = Site::new();
    let folder = site.beside("");
    let authority = Authority::new(&folder, "ca");
    let other = Authority::new(&folder, "other");
    let (cert, key) = authority.sign("node", 30);
    let (own, own_key) = authority.sign("anna", 30);
    let (foreign, foreign_key) = other.sign("mallory", 30);
    let ca = authority.path("ca.pem");
    let of = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let node = Secured::start(
        &site,
        &["--tls-cert", &of(&cert), "--tls-key", &of(&key), "--tls-client-ca", &of(&ca)],
    );
    let list = ["flag", "list", "--request-timeout", "3s", "--ca-cert", &of(&ca)].map(str::to_owned);
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    assert_eq!(node.run(&site, &list).status.code(), Some(6));
    let with = |cert: &str, key: &str| {
        let mut all = list.clone();
        all.extend(["--client-cert", cert, "--client-key", key]);
        node.run(&site, &all).status.code()
    };
    assert_eq!(with(&of(&foreign), &of(&foreign_key)), Some(6));
    assert_eq!(with(&of(&own), &of(&own_key)), Some(0));
}

/// What OFREP answers about a flag to whoever shows this certificate.
fn evaluated(port: u16, ca: &Path, (cert, key): &(PathBuf, PathBuf), flag: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-servername", "localhost", "-connect", &format!("127.0.0.1:{port}")])
        .arg("-CAfile")
        .arg(ca)
        .arg("-cert")
        .arg(cert)
        .arg("-key")
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let body = "{\"context\":{\"targetingKey\":\"u\"}}";
    let request = format!(
        "POST /ofrep/v1/evaluate/flags/{flag} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut input = client.stdin.take().unwrap();
    input.write_all(request.as_bytes()).unwrap();
    // With -quiet its end does not end the connection: the node closes it, after the answer.
    drop(input);
    text(&client.wait_with_output().unwrap().stdout)
}

#[test]
fn a_certificate_chooses_what_existing_clients_see() {
    if !has_openssl() {
        return;
    }
    let site = Site::new();
    let folder = site.beside("");
    let authority = Authority::new(&folder, "ca");
    let (cert, key) = authority.sign("node", 30);
    let (shop, stage) = (authority.sign("shop", 30), authority.sign("stage", 30));
    let nobody = authority.sign("nobody", 30);
    let ca = authority.path("ca.pem");
    let of = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let certificates =
        ["--tls-cert", &of(&cert), "--tls-key", &of(&key), "--tls-client-ca", &of(&ca)].map(str::to_owned);
    let mut arguments: Vec<&str> = certificates.iter().map(String::as_str).collect();
    arguments.extend(["--set", "flagd_certificates=shop=production,stage=staging"]);
    let node = Secured::start(&site, &arguments);
    let shown = ["--ca-cert", &of(&ca), "--client-cert", &of(&shop.0), "--client-key", &of(&shop.1)]
        .map(str::to_owned);
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    node.ends(&site, 0, &[SET, &shown].concat());
    let mut staged = SET.to_vec();
    staged[2] = "stages";
    node.ends(&site, 0, &[&staged[..], &["--environment", "staging"], &shown].concat());
    let answer = |who, flag| evaluated(node.port(), &ca, who, flag);
    for (who, seen, hidden) in [(&shop, "checkout", "stages"), (&stage, "stages", "checkout")] {
        assert!(answer(who, seen).contains("200 OK"), "{seen}");
        assert!(answer(who, hidden).contains("FLAG_NOT_FOUND"), "{hidden}");
    }
    // Of the authority, and of no entry.
    assert!(answer(&nobody, "checkout").contains("FLAG_NOT_FOUND"));
}

#[test]
fn what_cannot_be_used_is_said_at_the_start() {
    let site = Site::new();
    let bad = site.beside("bad.pem");
    std::fs::write(&bad, "nothing").unwrap();
    let bad = bad.to_str().unwrap();
    for (arguments, word) in [
        (&["--tls-cert", "missing.pem", "--tls-key", bad][..], "tls.cert: 'missing.pem' cannot be read"),
        (&["--tls-cert", bad, "--tls-key", bad][..], "holds no certificate"),
        (&["--tls-cert", bad][..], "--tls-key"),
        (&["--listen", "0.0.0.0:0"][..], "--tls-cert, --tls-key"),
        (&["--set", "tls.client_ca=x"][..], "needs tls.cert"),
        (&["--set", "flagd_certificates=shop=production"][..], "needs tls.client_ca"),
    ] {
        let ended =
            site.command().args(["serve", "--data"]).arg(&site.data).args(arguments).output().unwrap();
        assert!(!ended.status.success(), "{arguments:?}");
        assert!(text(&ended.stderr).contains(word), "{arguments:?}: {}", text(&ended.stderr));
    }
}
