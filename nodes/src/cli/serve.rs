//! `serve`: one node in this process, until a signal.
//!
//! ```text
//! SIGTERM, SIGINT -> drain: no new requests, what is in flight ends, the log is synced, telemetry is sent -> exit 0
//! the same again  -> end at once: what was acknowledged is on disk, what was not is unknown to its caller
//! ```
//!
//! Settings are the node's own (`crate::config`), so `--config` names a node's file here, and what is wrong in it is an
//! error before anything is opened.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use featureops_cluster::Environment;
use featureops_cluster::environment::Clock;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Exit, Failure};
use super::session::{print, progress};
use super::settings::{VARIABLES, read_bounded};
use super::signals::Signals;
use crate::access::secret::PREFIX;
use crate::config::{ENVIRONMENT_PREFIX, FILE_BYTES_MAX, KEYS, NodeConfig, variable_of};
use crate::node::Node;
use crate::telemetry;
use crate::tls::Tls;
use crate::tls::peers::PeerTls;

#[derive(Debug, Args)]
#[command(after_help = settings_help())]
pub struct ServeArgs {
    /// Folder of the log, the snapshots and the unit key [default: featureops-data].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Address and port; port 0 takes a free one. Beyond loopback only with TLS and a token [default: 127.0.0.1:7400].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// This node's number in its cluster, its own for good [default: 1].
    #[arg(long, value_name = "NUMBER")]
    node: Option<u64>,
    /// Address and port for the other nodes of a cluster; without it the node runs alone. Beyond loopback only with --peer-tls-*.
    #[arg(long, value_name = "ADDRESS")]
    peer_listen: Option<String>,
    /// Host and port by which the other nodes reach it [default: that of --peer-listen].
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// Peer addresses of nodes that let it in, with commas between; without it an empty folder makes a cluster of its own.
    #[arg(long, value_name = "ADDRESSES")]
    join: Option<String>,
    /// File that holds a token of the role join, to be let in where the cluster has tokens. Read again at each attempt.
    #[arg(long, value_name = "FILE")]
    join_token: Option<PathBuf>,
    /// PEM file of this node's certificate chain for the other nodes. Read again when it changes, and on SIGHUP.
    #[arg(long, value_name = "FILE", requires_all = ["peer_tls_key", "peer_tls_ca"])]
    peer_tls_cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", requires = "peer_tls_cert")]
    peer_tls_key: Option<PathBuf>,
    /// PEM file of the authority of all nodes: every connection between nodes is of it, both ways.
    #[arg(long, value_name = "FILE", requires = "peer_tls_cert")]
    peer_tls_ca: Option<PathBuf>,
    /// Also listen where flagd's clients look: 8013, 8014, 8015 and 8016, or at four addresses with commas between.
    #[arg(long, value_name = "ADDRESSES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flagd_ports: Option<String>,
    /// PEM file of the certificate chain of all ports. Read again when it changes, and on SIGHUP.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// PEM file of authorities: whoever connects must show a certificate of one of them.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Environments in which callers without a token may evaluate, with commas between; * for all, none for none
    /// [default: all on loopback, none elsewhere].
    #[arg(long, value_name = "ENV,...")]
    anonymous_evaluation: Option<String>,
    /// Make an admin token at the start, into the file admin.token of the data folder: for whoever has none (any more).
    #[arg(long)]
    recover_admin: bool,
    /// Added to every flagd and OFREP context, over the caller's own. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    context_value: Vec<String>,
    /// A header added to the context, over both. Repeatable.
    #[arg(long, value_name = "HEADER=KEY")]
    context_from_header: Vec<String>,
    /// A web page's origin whose scripts may evaluate, as https://shop.example; * for all. Repeatable [default: none].
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// How long an event or sync stream may last, as 10m.
    #[arg(long, value_name = "TIME")]
    stream_deadline: Option<String>,
    /// Any setting by its name. Repeatable.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

/// Every setting, as the node knows them: a new one needs no change here.
fn settings_help() -> String {
    let width = KEYS.iter().map(|key| key.name.len()).max().unwrap_or(0);
    let mut text = String::from("Settings (--config FILE < environment < --set NAME=VALUE):\n");
    for key in KEYS {
        text.push_str(&format!("  {:<width$}  {}\n", key.name, key.meaning));
    }
    text.push_str(&format!("As environment variables: {}, and so on.", variable_of("listen")));
    text
}

pub async fn run(file: Option<&Path>, args: ServeArgs) -> Result<(), Failure> {
    let config = load(file, args, variables())?;
    // Before the disk is touched: an early Ctrl-C must end a start that waits, too.
    let mut signals = Signals::install()?;
    let telemetry = telemetry::install(&config).map_err(Failure::usage)?;
    let environment = Environment::production(&config.data);
    let clock = Arc::clone(&environment.clock);
    let data = config.data.display().to_string();
    let exports = config.otlp_endpoint.is_some();
    let node = tokio::select! {
        started = Node::start(environment, config) => {
            started.map_err(|error| Failure::internal(format!("the node did not start: {error}")))?
        }
        () = signals.next() => return Ok(()),
    };
    if exports {
        telemetry::export(node.observation());
    }
    // On standard output and alone: whoever starts a node on port 0 reads the address here.
    let scheme = if node.tls().is_some() { "https" } else { "http" };
    let peers = node.peer_addr().map(|address| format!(", node {}, its peers on {address}", node.number()));
    print(&format!(
        "serving on {scheme}://{}, data in {data}{}\n",
        node.local_addr(),
        peers.unwrap_or_default()
    ))?;
    if let Some(ports) = node.flagd_addrs() {
        let [evaluation, management, sync, ofrep] = ports.all();
        print(&format!(
            "flagd's clients on {evaluation} (evaluation), {management} (management), {sync} (sync), {ofrep} (OFREP)\n"
        ))?;
    }
    tokio::select! {
        () = signals.next() => {}
        never = follow_hangups(node.tls().cloned(), node.peer_tls().cloned(), clock) => match never {},
    }
    progress("draining; the same signal again ends at once");
    tokio::select! {
        () = node.shutdown() => {}
        () = signals.next() => {
            return Err(Failure::new(Exit::Internal, "ended before the drain was done")
                .note("nothing acknowledged is lost; requests in flight are unknown to their callers and safe to repeat"));
        }
    }
    // The drain is done: a second signal costs the last traces now, and nothing else.
    tokio::select! {
        () = telemetry.end() => {}
        () = signals.next() => {}
    }
    Ok(())
}

/// A hangup reads the certificates again. Without certificates it ends the process, as it does by default.
async fn follow_hangups(
    tls: Option<Arc<Tls>>,
    peer_tls: Option<Arc<PeerTls>>,
    clock: Arc<dyn Clock>,
) -> Infallible {
    let has_any = tls.is_some() || peer_tls.is_some();
    let hangups = has_any.then(|| signal(SignalKind::hangup()).ok()).flatten();
    let Some(mut hangups) = hangups else { return std::future::pending().await };
    loop {
        if hangups.recv().await.is_none() {
            return std::future::pending().await;
        }
        let (tls, peer_tls, now_ms) = (tls.clone(), peer_tls.clone(), clock.unix_ms());
        let looked = tokio::task::spawn_blocking(move || {
            tls.inspect(|tls| tls.look(now_ms));
            peer_tls.inspect(|tls| tls.look(now_ms));
        });
        let _ = looked.await;
    }
}

/// The variables that may be settings. Others may hold any bytes, and are nobody's business here.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))?;
        // What is no text is no value either: its parser says so.
        Some((name, value.to_string_lossy().into_owned()))
    })
}

/// The node's settings: file, then environment, then options.
fn load(
    file: Option<&Path>,
    args: ServeArgs,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<NodeConfig, Failure> {
    let text = file.map(read).transpose()?;
    let mut flags = Vec::new();
    // The option names a file: whoever lists processes would see the token itself.
    if args.join_token.as_ref().is_some_and(|file| file.to_string_lossy().starts_with(PREFIX)) {
        return Err(Failure::usage(
            "--join-token takes a file, not a token, which whoever lists processes would see; or FEATUREOPS_JOIN_TOKEN",
        ));
    }
    for setting in args.settings {
        let Some((name, value)) = setting.split_once('=') else {
            return Err(Failure::usage(format!("--set '{setting}' must be NAME=VALUE, as log_format=json")));
        };
        flags.push((name.to_owned(), value.to_owned()));
    }
    flags.extend(args.data.map(|folder| ("data".to_owned(), folder.to_string_lossy().into_owned())));
    flags.extend(args.listen.map(|address| ("listen".to_owned(), address)));
    for (name, file) in [
        ("tls.cert", args.tls_cert),
        ("tls.key", args.tls_key),
        ("tls.client_ca", args.tls_client_ca),
        ("peer_tls.cert", args.peer_tls_cert),
        ("peer_tls.key", args.peer_tls_key),
        ("peer_tls.ca", args.peer_tls_ca),
        ("join_token", args.join_token),
    ] {
        flags.extend(file.map(|file| (name.to_owned(), file.to_string_lossy().into_owned())));
    }
    flags.extend(args.anonymous_evaluation.map(|text| ("anonymous_evaluation".to_owned(), text)));
    flags.extend(args.node.map(|node| ("node".to_owned(), node.to_string())));
    flags.extend(args.peer_listen.map(|address| ("peer_listen".to_owned(), address)));
    flags.extend(args.advertise.map(|address| ("advertise".to_owned(), address)));
    flags.extend(args.join.map(|addresses| ("join".to_owned(), addresses)));
    flags.extend(args.flagd_ports.map(|ports| ("flagd_ports".to_owned(), ports)));
    flags.extend(args.stream_deadline.map(|time| ("flagd_stream_deadline".to_owned(), time)));
    let repeated = [
        ("context_values", args.context_value),
        ("context_from_headers", args.context_from_header),
        ("cors_origins", args.cors_origin),
    ];
    for (name, entries) in repeated {
        if !entries.is_empty() {
            // A line each: a value may hold a comma.
            flags.push((name.to_owned(), entries.iter().map(|entry| format!("{entry}\n")).collect()));
        }
    }
    let mut config = NodeConfig::load(text.as_deref(), environment, &VARIABLES, flags)
        .map_err(|error| Failure::usage(error.to_string()).note("see: featureops serve --help"))?;
    config.recover_admin = args.recover_admin;
    Ok(config)
}

fn read(path: &Path) -> Result<String, Failure> {
    let fault = |message: String| Failure::usage(format!("configuration {}: {message}", path.display()));
    read_bounded(path, FILE_BYTES_MAX as u64).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Harness {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn loaded(args: &[&str], variables: &[(&str, &str)]) -> Result<NodeConfig, Failure> {
        let args =
            Harness::try_parse_from(["serve"].iter().chain(args)).unwrap_or_else(|e| panic!("{e}")).serve;
        load(None, args, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn options_overrule_the_environment_and_the_clients_variables_are_not_settings() {
        let variables =
            [("FEATUREOPS_LISTEN", "127.0.0.1:1"), ("FEATUREOPS_SERVER", "http://x"), ("PATH", "/bin")];
        let config =
            loaded(&["--listen", "127.0.0.1:0", "--set", "limits.connections=9"], &variables).unwrap();
        assert_eq!(config.listen.port(), 0);
        assert_eq!(config.limits.connections, 9);
    }

    #[test]
    fn a_file_without_an_end_is_refused_at_the_bound() {
        let failure = read(Path::new("/dev/zero")).unwrap_err();
        assert!(failure.render().contains("is larger than 1048576 bytes"), "{}", failure.render());
    }

    #[test]
    fn what_is_wrong_is_a_usage_error_that_names_the_setting() {
        for (args, part) in [
            (["--set", "limits.conections=9"], "limits.connections"),
            (["--set", "listen"], "NAME=VALUE"),
            (["--listen", "nowhere"], "listen"),
        ] {
            let failure = loaded(&args, &[]).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.render().contains(part), "{}", failure.render());
        }
        assert!(settings_help().contains("limits.request_bytes"));
    }
}
