//! What a node is told before it starts: file, then environment, then flags, each overriding the one before.
//!
//! Every setting is one row of [`KEYS`]: its name in the file (`listen`), from which the environment's name
//! (`FEATUREOPS_LISTEN`) follows, and one parser for all three sources. A name that is not in the table is an error that
//! names the nearest one that is; a misspelt setting never silently keeps its default.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use featureops_state::{MAX_ADDRESS_BYTES, MAX_MEMBERS};

use crate::access::Anonymous;
use crate::access::secret::PREFIX;
use crate::fronts::settings::{self, Settings};
use crate::nearest::nearest;
use crate::tls;
use crate::tls::peers;

/// Default port of everything a node serves.
pub const PORT: u16 = 7400;
/// Prefix of a setting in the process environment.
pub const ENVIRONMENT_PREFIX: &str = "FEATUREOPS_";
/// Longest configuration file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For a person at a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Bounds of what one node takes on. Each stands for a queue, a map or a buffer somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections served at once; further ones take the place of an idle one, or wait in the kernel's backlog.
    pub connections: usize,
    /// A connection without a request for so long may be closed when another wants its place. No setting.
    pub connection_idle: Duration,
    /// Streams in flight on one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// Bytes of one request's headers.
    pub header_bytes: u32,
    /// Bytes of one request message.
    pub request_bytes: usize,
    /// Bytes of all request messages in flight together; beyond it requests are refused.
    pub request_bytes_in_flight: usize,
    /// Longest time a unary request may take, whatever its own deadline says.
    pub request_timeout: Duration,
    /// (experiment, generation, arm, unit) entries that are known to be committed.
    pub exposure_cache: usize,
    /// Implied exposures waiting for the log; beyond it they are lost, and counted as lost.
    pub exposure_queue: usize,
    /// Commands a second of one token.
    pub writes_per_second: u32,
    /// Requests with facts a second of one token.
    pub fact_requests_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            connection_idle: Duration::from_secs(60),
            streams_per_connection: 256,
            header_bytes: 16 << 10,
            request_bytes: 4 << 20,
            request_bytes_in_flight: 256 << 20,
            request_timeout: Duration::from_secs(30),
            exposure_cache: 1 << 20,
            exposure_queue: 1 << 16,
            writes_per_second: 100,
            fact_requests_per_second: 10_000,
        }
    }
}

/// A token that lets this node into a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum JoinToken {
    /// It shows none.
    #[default]
    None,
    /// In this file, read anew at each attempt.
    File(PathBuf),
    /// Itself.
    Text(Hidden),
}

/// A text that does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

impl JoinToken {
    /// What is shown; empty: nothing.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token; it is named.
    pub fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::None => return Ok(String::new()),
            Self::Text(Hidden(text)) => return Ok(text.clone()),
            Self::File(path) => tls::text("join_token", path)?,
        };
        let text = String::from_utf8_lossy(&text);
        let text = text.trim();
        if text.starts_with(PREFIX) {
            return Ok(text.to_owned());
        }
        Err("join_token: the file holds no token, as 'featureops token create NAME --role join' shows it"
            .to_owned())
    }
}

/// Everything [`crate::node::Node::start`] needs besides its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Folder of the log, the snapshots, the mark file and the unit key.
    pub data: PathBuf,
    /// Where to listen. Beyond loopback only with TLS and tokens.
    pub listen: SocketAddr,
    /// This node's number in its cluster.
    pub node: u64,
    /// Where to listen for the other nodes; without it this node runs alone. Beyond loopback only with `peer_tls`.
    pub peer_listen: Option<SocketAddr>,
    /// Where the other nodes reach it; empty: where it listens for them.
    pub advertise: String,
    /// Peer addresses of nodes that a node outside any cluster asks to let it in; none: it makes its own.
    pub join: Vec<String>,
    /// What it shows to be let in, where the cluster has tokens.
    pub join_token: JoinToken,
    /// Certificates between nodes: all three, or plain text on loopback.
    pub peer_tls: peers::Files,
    /// Entries after which a snapshot of the state is taken.
    pub snapshot_every_entries: u64,
    /// Bytes of entries after which one is taken, too, when the last one is not larger; then after as many as that has.
    pub snapshot_every_bytes: u64,
    /// Entries that stay in the log behind a snapshot, for nodes that lag a little.
    pub log_keep_entries: u64,
    /// How long a drain waits for requests in flight.
    pub drain_timeout: Duration,
    /// Where traces and metrics are sent by OTLP over gRPC; off when absent.
    pub otlp_endpoint: Option<String>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written, as `info,featureops=debug`.
    pub log_filter: String,
    /// The bounds.
    pub limits: Limits,
    /// flagd's and OFREP's fronts.
    pub fronts: Settings,
    /// Where callers without a token may evaluate.
    pub anonymous: Anonymous,
    /// Certificates of the listeners; absent: plain text.
    pub tls: tls::Files,
    /// Listens beyond loopback without TLS of its own: another one speaks it before the node.
    pub plain_text: bool,
    /// A start that makes an admin token, for whoever lost them all. No setting: a file or a variable that stays would make
    /// another one at each start after the first was moved away.
    pub recover_admin: bool,
    /// The highest feature level that it takes part in; absent: that of the build.
    pub feature_level_max: Option<u32>,
    /// Beyond loopback TLS and tokens are needed. No setting: only a simulated network, whose hosts have no
    /// loopback between them, turns it off.
    pub loopback_only: bool,
    /// Ask the operating system about the process. No setting: a simulation turns it off, to see the same each time.
    pub observe_process: bool,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data: PathBuf::from("featureops-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], PORT)),
            node: 1,
            peer_listen: None,
            advertise: String::new(),
            join: Vec::new(),
            join_token: JoinToken::default(),
            peer_tls: peers::Files::default(),
            snapshot_every_entries: 50_000,
            snapshot_every_bytes: 8 << 20,
            log_keep_entries: 1_000,
            drain_timeout: Duration::from_secs(10),
            otlp_endpoint: None,
            log_format: LogFormat::Text,
            // openraft's lines are long, come with every heartbeat to a node that is down, and are nobody's but a developer's.
            log_filter: "info,openraft=error".to_owned(),
            limits: Limits::default(),
            fronts: Settings::default(),
            anonymous: Anonymous::default(),
            tls: tls::Files::default(),
            plain_text: false,
            recover_admin: false,
            feature_level_max: None,
            loopback_only: true,
            observe_process: true,
        }
    }
}

/// A setting that could not be taken: where it stood, what it was, what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// `file`, `environment` or `flag`.
    pub source: &'static str,
    /// The setting's name as it was written.
    pub key: String,
    /// What is wrong, and the way out.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} setting '{}': {}", self.source, self.key, self.message)
    }
}

impl std::error::Error for ConfigError {}

type Parse = fn(&mut NodeConfig, &str) -> Result<(), String>;

/// One setting.
pub struct Key {
    /// Its name in the file; a dot separates a table from its member.
    pub name: &'static str,
    /// What it means, one line.
    pub meaning: &'static str,
    parse: Parse,
}

/// A row: the name and its meaning, the place in [`NodeConfig`], and what reads a text for it.
macro_rules! keys {
    ($($name:literal, $meaning:literal => $($place:ident).+ = $read:expr;)*) => {
        &[$(Key {
            name: $name,
            meaning: $meaning,
            parse: |config, text| {
                config.$($place).+ = $read(text)?;
                Ok(())
            },
        }),*]
    };
}

/// Every setting there is.
pub const KEYS: &[Key] = keys! {
    "data", "folder of the log, the snapshots and the unit key" => data = folder;
    "listen", "address and port, as 127.0.0.1:7400; beyond loopback only with TLS and a token" => listen = address;
    "node", "this node's number in its cluster, its own for good" => node = whole(1..=65_535);
    "peer_listen", "address and port for the other nodes, as 127.0.0.1:7401; beyond loopback only with peer_tls; empty: this node runs alone"
        => peer_listen = peer_address;
    "advertise", "host and port by which the other nodes reach it; empty: peer_listen" => advertise = reachable;
    "join", "peer addresses of nodes to be let in by, as 127.0.0.1:7401,127.0.0.1:7402; empty: it makes a cluster of its own"
        => join = reachables;
    "join_token", "file that holds a token of the role join, or the token itself: shown to be let in where there are tokens"
        => join_token = join_token;
    "peer_tls.cert", "PEM file of this node's certificate chain for the other nodes, read again when it changes"
        => peer_tls.cert = file;
    "peer_tls.key", "PEM file of its private key" => peer_tls.key = file;
    "peer_tls.ca", "PEM file of the authority of all nodes: every connection between nodes is of it, both ways"
        => peer_tls.ca = file;
    "snapshot_every_entries", "log entries between two snapshots of the state"
        => snapshot_every_entries = whole(100..=100_000_000);
    "snapshot_every_bytes", "bytes of log entries between two snapshots; a larger snapshot waits for as many as it has"
        => snapshot_every_bytes = whole(65_536..=1_099_511_627_776);
    "log_keep_entries", "log entries kept behind a snapshot, so that a node that lags a little needs none"
        => log_keep_entries = whole(10..=100_000_000);
    "drain_timeout_seconds", "how long a stopping node waits for requests in flight" => drain_timeout = seconds(0..=600);
    "otlp_endpoint", "where traces and metrics go by OTLP over gRPC, as http://127.0.0.1:4317; empty: nowhere"
        => otlp_endpoint = collector;
    "log_format", "text or json" => log_format = log_format;
    "log_filter", "which log lines are written, as info,featureops=debug,openraft=warn" => log_filter = any;
    "flagd_ports", "true opens 8013 (evaluation), 8014 (management), 8015 (sync), 8016 (OFREP); or four addresses"
        => fronts.ports = settings::ports;
    "flagd_environments", "what flagd and OFREP clients see, as base,production: of equal keys the later one's flag"
        => fronts.environments = settings::environments;
    "flagd_authorities", "the same by the name a client calls, as eu.flags.example=production+eu"
        => fronts.authorities = settings::authorities;
    "flagd_certificates", "the same by a name in the client's certificate (tls.client_ca), as shop=production+eu; one that is not named sees nothing"
        => fronts.certificates = settings::certificates;
    "flagd_stream_deadline", "how long an event or sync stream may last, as 10m; 0: as long as the client wants"
        => fronts.stream_deadline = settings::duration;
    "flagd_strict_errors", "true answers UNKNOWN for GENERAL, as flagd does; its clients then try again for seconds"
        => fronts.strict_errors = settings::truth;
    "flagd_disable_sync_metadata", "true answers UNIMPLEMENTED to the deprecated GetMetadata"
        => fronts.disable_sync_metadata = settings::truth;
    "anonymous_evaluation", "where callers without a token may evaluate: environments, as production,eu; * or none; by default \
                             all of them on loopback and none elsewhere" => anonymous = settings::anonymous;
    "tls.cert", "PEM file of the listeners' certificate chain, read again when it changes; with tls.key"
        => tls.cert = file;
    "tls.key", "PEM file of its private key" => tls.key = file;
    "tls.client_ca", "PEM file of authorities: whoever connects must show a certificate of one of them"
        => tls.client_ca = file;
    "plain_text", "true listens beyond loopback without TLS, behind a proxy that speaks it" => plain_text = settings::truth;
    "feature_level_max", "the highest feature level that this node takes part in, as an older release would: for trying an upgrade out"
        => feature_level_max = level;
    "cors_origins", "web pages whose scripts may evaluate by flagd's protocols and OFREP, as https://shop.example; * for all"
        => fronts.cors_origins = settings::origins;
    "context_values", "added to every flagd and OFREP context over the caller's own, as region=eu,tier=2"
        => fronts.context_values = settings::context_values;
    "context_from_headers", "headers added to the context over both, as X-Region=region"
        => fronts.context_headers = settings::context_headers;
    "limits.connections", "connections served at once" => limits.connections = whole(1..=1_000_000);
    "limits.streams_per_connection", "requests in flight on one HTTP/2 connection"
        => limits.streams_per_connection = whole(1..=65_536);
    "limits.header_bytes", "bytes of one request's headers" => limits.header_bytes = whole(8_192..=1_048_576);
    "limits.request_bytes", "bytes of one request message" => limits.request_bytes = whole(65_536..=6_291_456);
    "limits.request_bytes_in_flight", "bytes of all request messages in flight together"
        => limits.request_bytes_in_flight = whole(16_777_216..=1_099_511_627_776);
    "limits.request_timeout_seconds", "longest time a unary request may take" => limits.request_timeout = seconds(1..=600);
    "limits.exposure_cache", "units per arm remembered as already exposed" => limits.exposure_cache = whole(1..=134_217_728);
    "limits.exposure_queue", "implied exposures that may wait for the log" => limits.exposure_queue = whole(512..=16_777_216);
    "limits.writes_per_second", "commands a second of one token; twice as many at once"
        => limits.writes_per_second = whole(1..=1_000_000);
    "limits.fact_requests_per_second", "requests with facts a second of one token; twice as many at once"
        => limits.fact_requests_per_second = whole(1..=1_000_000);
};

fn level(text: &str) -> Result<Option<u32>, String> {
    whole(featureops_state::FIRST_FEATURE_LEVEL..=featureops_state::FEATURE_LEVEL)(text).map(Some)
}

fn whole<T: FromStr + PartialOrd + fmt::Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> {
    move |text| match text.trim().parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(format!(
            "'{}' is not a whole number from {} to {}",
            text.chars().take(40).collect::<String>(),
            range.start(),
            range.end()
        )),
    }
}

fn seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> {
    let read = whole(range);
    move |text| read(text).map(Duration::from_secs)
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty; name a folder".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn file(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Err("is empty; name a file".to_owned());
    }
    Ok(Some(PathBuf::from(text)))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("'{text}' is not an address and port, as 127.0.0.1:{PORT}"))
}

fn peer_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() { Ok(None) } else { address(text).map(Some) }
}

/// Whether it is a host and a port.
#[must_use]
pub fn is_reachable(text: &str) -> bool {
    let port = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let plain = text.len() <= MAX_ADDRESS_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
    plain && port.is_some_and(|(host, port)| !host.is_empty() && port > 0)
}

/// A host and a port, or nothing.
fn reachable(text: &str) -> Result<String, String> {
    if text.is_empty() || is_reachable(text) {
        return Ok(text.to_owned());
    }
    Err(format!("'{}' is not a host and a port, as node-2:7401", text.chars().take(80).collect::<String>()))
}

fn reachables(text: &str) -> Result<Vec<String>, String> {
    let entries: Vec<&str> =
        text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty()).collect();
    if entries.len() > MAX_MEMBERS {
        return Err(format!("names {} addresses; {MAX_MEMBERS} are enough", entries.len()));
    }
    entries.into_iter().map(reachable).collect()
}

fn join_token(text: &str) -> Result<JoinToken, String> {
    Ok(match text.trim() {
        "" => JoinToken::None,
        secret if secret.starts_with(PREFIX) => JoinToken::Text(Hidden(secret.to_owned())),
        path => JoinToken::File(PathBuf::from(path)),
    })
}

fn collector(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with("https://") {
        return Err(format!(
            "'{text}' asks for TLS, which this release does not speak to a collector; send to one on this machine, as \
             http://127.0.0.1:4317, and let that one send on"
        ));
    }
    if !text.starts_with("http://") {
        return Err(format!("'{text}' does not begin with http://"));
    }
    Ok(Some(text.to_owned()))
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("'{text}' is neither text nor json")),
    }
}

/// Any text: what it means is looked at where it is used.
fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

impl NodeConfig {
    /// Defaults, then the TOML text of a file, then `FEATUREOPS_*` variables, then flags (name in the file's form, value).
    ///
    /// `foreign` names the `FEATUREOPS_*` variables that belong to somebody else (the command line's own).
    ///
    /// # Errors
    /// The first setting that is unknown or has a value that cannot be taken.
    pub fn load(
        file: Option<&str>,
        environment: impl IntoIterator<Item = (String, String)>,
        foreign: &[&str],
        flags: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(text) = file {
            config.take_file(text)?;
        }
        // Sorted, so that of two faults always the same one is named.
        let mut variables: Vec<_> = environment.into_iter().collect();
        variables.sort();
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            if foreign.contains(&name.as_str()) {
                continue;
            }
            match KEYS.iter().find(|key| variable_of(key.name) == name) {
                Some(key) => take(&mut config, key, "environment", &name, &value)?,
                None => return Err(unknown("environment", &name, &rest.to_lowercase(), variable_of)),
            }
        }
        for (name, value) in flags {
            config.set("flag", &name, &value)?;
        }
        Ok(config)
    }

    /// Sets one setting by its name in the file.
    ///
    /// # Errors
    /// The name is unknown or the value cannot be taken.
    pub fn set(&mut self, source: &'static str, name: &str, value: &str) -> Result<(), ConfigError> {
        match KEYS.iter().find(|key| key.name == name) {
            Some(key) => take(self, key, source, name, value),
            None => Err(unknown(source, name, name, str::to_owned)),
        }
    }

    fn take_file(&mut self, text: &str) -> Result<(), ConfigError> {
        let fault = |message: String| ConfigError { source: "file", key: String::new(), message };
        if text.len() > FILE_BYTES_MAX {
            return Err(fault(format!("has {} bytes, over the bound of {FILE_BYTES_MAX}", text.len())));
        }
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| fault(error.message().to_owned()))?;
        for (name, value) in table {
            match value {
                toml::Value::Table(members) => {
                    for (member, value) in members {
                        self.take_value(&format!("{name}.{member}"), &value)?;
                    }
                }
                value => self.take_value(&name, &value)?,
            }
        }
        Ok(())
    }

    fn take_value(&mut self, name: &str, value: &toml::Value) -> Result<(), ConfigError> {
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(truth) => truth.to_string(),
            // Of texts: a list, whose entries may hold commas.
            toml::Value::Array(entries) if entries.iter().all(toml::Value::is_str) => {
                entries.iter().filter_map(|entry| entry.as_str()).map(|entry| format!("{entry}\n")).collect()
            }
            other => {
                return Err(ConfigError {
                    source: "file",
                    key: name.to_owned(),
                    message: format!(
                        "is a {}; a text, a number or a list of texts is accepted",
                        other.type_str()
                    ),
                });
            }
        };
        self.set("file", name, &text)
    }
}

/// The environment variable of a setting: `limits.connections` is `FEATUREOPS_LIMITS_CONNECTIONS`.
#[must_use]
pub fn variable_of(name: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", name.replace('.', "_").to_uppercase())
}

/// Whether an environment variable is a setting of a node.
#[must_use]
pub fn is_variable(name: &str) -> bool {
    KEYS.iter().any(|key| variable_of(key.name) == name)
}

fn take(
    config: &mut NodeConfig,
    key: &Key,
    source: &'static str,
    written: &str,
    value: &str,
) -> Result<(), ConfigError> {
    (key.parse)(config, value).map_err(|message| ConfigError { source, key: written.to_owned(), message })
}

fn unknown(
    source: &'static str,
    written: &str,
    compared: &str,
    render: impl Fn(&str) -> String,
) -> ConfigError {
    let names: Vec<(&str, String)> = KEYS.iter().map(|key| (key.name, key.name.replace('.', "_"))).collect();
    let near = nearest(compared, names.iter().map(|(_, flat)| flat.as_str()));
    let near = near.and_then(|near| names.iter().find(|(_, flat)| flat == near));
    let message = match near {
        Some((name, _)) => format!("is not known; the nearest one is '{}'", render(name)),
        None => {
            let known: Vec<String> = names.iter().map(|(name, _)| render(name)).collect();
            format!("is not known; there are {}", known.join(", "))
        }
    };
    ConfigError { source, key: written.chars().take(80).collect(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Vec<(String, String)> {
        Vec::new()
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let file = "listen = '127.0.0.1:1'\ndrain_timeout_seconds = 3\n[limits]\nconnections = 7";
        let environment = vec![
            ("FEATUREOPS_LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
            ("FEATUREOPS_LIMITS_CONNECTIONS".to_owned(), "8".to_owned()),
            ("PATH".to_owned(), "/bin".to_owned()),
        ];
        let flags = vec![("listen".to_owned(), "127.0.0.1:3".to_owned())];
        let config = NodeConfig::load(Some(file), environment, &[], flags).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.limits.connections, 8);
        assert_eq!(config.drain_timeout, Duration::from_secs(3));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_known_one() {
        let error = NodeConfig::load(Some("lisen = 'x'"), none(), &[], none()).unwrap_err();
        assert_eq!(error.to_string(), "file setting 'lisen': is not known; the nearest one is 'listen'");
        let far = NodeConfig::load(Some("zzz = 'x'"), none(), &[], none()).unwrap_err();
        assert!(far.message.starts_with("is not known; there are data, "), "{far}");
        let variable = vec![("FEATUREOPS_OTLP_ENDPONT".to_owned(), "x".to_owned())];
        let error = NodeConfig::load(None, variable.clone(), &[], none()).unwrap_err();
        assert!(error.message.contains("FEATUREOPS_OTLP_ENDPOINT"), "{error}");
        assert!(NodeConfig::load(None, variable, &["FEATUREOPS_OTLP_ENDPONT"], none()).is_ok());
    }

    #[test]
    fn a_value_out_of_bounds_names_the_bounds() {
        let error = NodeConfig::load(Some("limits.connections = 0"), none(), &[], none()).unwrap_err();
        assert!(error.message.contains("from 1 to 1000000"), "{error}");
    }

    #[test]
    fn a_collector_is_named_by_http() {
        let load = |text: &str| {
            NodeConfig::load(Some(&format!("otlp_endpoint = '{text}'")), none(), &[], none())
                .map(|config| config.otlp_endpoint)
                .map_err(|error| error.message)
        };
        assert_eq!(load("http://127.0.0.1:4317"), Ok(Some("http://127.0.0.1:4317".to_owned())));
        assert_eq!(load(""), Ok(None));
        assert!(load("https://collector:4317").unwrap_err().contains("TLS"));
        assert!(load("collector:4317").unwrap_err().contains("http://"));
    }
}
