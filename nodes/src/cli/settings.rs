//! What every command needs to know: which server, which environment, who asks, how to print.
//!
//! The configuration file (TOML) is overruled by `FEATUREOPS_*` environment variables, those by flags. An unknown key in the
//! file is an error that names it: a misspelt `sevrer` silently ignored would send a command to the wrong cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use featureops_cluster::peer::is_loopback;

use super::failure::Failure;
use super::reading::text_within;
use super::secrets::{Tls, Token};
use super::span::parse_span;
use crate::config::{ENVIRONMENT_PREFIX, is_variable};
use crate::nearest::suggestion;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns for people.
    Table,
    /// Canonical proto3 JSON.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Options that every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Where a node listens [default: http://127.0.0.1:7400].
    #[arg(long, global = true, value_name = "URL", env = "FEATUREOPS_SERVER")]
    pub server: Option<String>,
    /// The environment of flags, metrics and experiments [default: production].
    #[arg(long, global = true, value_name = "NAME", env = "FEATUREOPS_ENVIRONMENT")]
    pub environment: Option<String>,
    /// Who asks, as human:ID or agent:ID [default: human:local].
    #[arg(long, global = true, value_name = "KIND:ID", env = "FEATUREOPS_PRINCIPAL")]
    pub principal: Option<String>,
    /// A token, as `featureops token create` shows it; whoever lists processes sees it here: prefer the variable or the file.
    #[arg(long, global = true, value_name = "TOKEN", env = "FEATUREOPS_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds it; a token that is given itself comes first.
    #[arg(long, global = true, value_name = "FILE", env = "FEATUREOPS_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Send the token even where everybody on the way can read it: over http to another machine.
    #[arg(long, global = true, env = "FEATUREOPS_INSECURE_TOKEN")]
    pub insecure_token: bool,
    /// PEM file of the authority that an https server's certificate is of [default: the system's].
    #[arg(long, global = true, value_name = "FILE", env = "FEATUREOPS_CA_CERT")]
    pub ca_cert: Option<PathBuf>,
    /// PEM file of a certificate of one's own, for a server that asks for one.
    #[arg(long, global = true, value_name = "FILE", env = "FEATUREOPS_CLIENT_CERT")]
    pub client_cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, global = true, value_name = "FILE", env = "FEATUREOPS_CLIENT_KEY")]
    pub client_key: Option<PathBuf>,
    /// How results are printed [default: table].
    #[arg(short, long, global = true, value_name = "FORMAT", env = "FEATUREOPS_OUTPUT")]
    pub output: Option<Output>,
    /// How long one request may take, retries included, as 500ms or 10s [default: 10s].
    #[arg(long, global = true, value_name = "SPAN", env = "FEATUREOPS_REQUEST_TIMEOUT")]
    pub request_timeout: Option<String>,
    /// TOML file with these settings [default: featureops/config.toml in the user's configuration directory].
    #[arg(long, global = true, value_name = "FILE", env = "FEATUREOPS_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The settings in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub server: String,
    pub environment: String,
    pub principal: String,
    /// Shown to the server with every request.
    pub token: Option<Token>,
    /// Absent: plain text.
    pub tls: Option<Tls>,
    pub output: Output,
    pub request_timeout: Duration,
}

/// The environment variables that are the command line's own, and not settings of a node.
pub const VARIABLES: [&str; 12] = [
    "FEATUREOPS_SERVER",
    "FEATUREOPS_ENVIRONMENT",
    "FEATUREOPS_PRINCIPAL",
    "FEATUREOPS_TOKEN",
    "FEATUREOPS_TOKEN_FILE",
    "FEATUREOPS_INSECURE_TOKEN",
    "FEATUREOPS_CA_CERT",
    "FEATUREOPS_CLIENT_CERT",
    "FEATUREOPS_CLIENT_KEY",
    "FEATUREOPS_OUTPUT",
    "FEATUREOPS_REQUEST_TIMEOUT",
    "FEATUREOPS_CONFIG",
];

/// Keys of the file.
const KEYS: [&str; 9] = [
    "server",
    "environment",
    "principal",
    "token_file",
    "ca_cert",
    "client_cert",
    "client_key",
    "output",
    "request_timeout",
];
/// A configuration of so few keys is small; something larger is another file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

impl Settings {
    /// Resolves flags (with environment variables already behind them, by clap) over the file over the defaults.
    ///
    /// # Errors
    /// When the file cannot be read or a value is not acceptable, naming the key.
    pub fn resolve(args: &GlobalArgs) -> Result<Self, Failure> {
        check_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        let file = match &args.config {
            Some(path) => read_file(path)?,
            None => match default_path().filter(|path| path.is_file()) {
                Some(path) => read_file(&path)?,
                None => toml::Table::new(),
            },
        };
        let text = |flag: &Option<String>, key: &str, default: &str| -> Result<String, Failure> {
            match (flag, file.get(key)) {
                (Some(given), _) => Ok(given.clone()),
                (None, Some(toml::Value::String(value))) => Ok(value.clone()),
                (None, Some(other)) => Err(Failure::usage(format!(
                    "configuration key '{key}' must be text in quotes, not {other}"
                ))),
                (None, None) => Ok(default.to_owned()),
            }
        };
        let output = match args.output {
            Some(output) => output,
            None => {
                let name = text(&None, "output", "table")?;
                Output::from_str(&name, false)
                    .map_err(|_| Failure::usage(format!("output '{name}' is none of table, json, yaml")))?
            }
        };
        let timeout = text(&args.request_timeout, "request_timeout", "10s")?;
        let request_timeout =
            parse_span(&timeout).map_err(|m| Failure::usage(format!("request_timeout: {m}")))?;
        if request_timeout.is_zero() || request_timeout > Duration::from_secs(3_600) {
            return Err(Failure::usage("request_timeout must be more than 0 and at most 1h"));
        }
        let path = |flag: &Option<PathBuf>, key: &str| -> Result<Option<PathBuf>, Failure> {
            match flag {
                Some(given) => Ok(Some(given.clone())),
                None => text(&None, key, "")
                    .map(|text| Some(PathBuf::from(text)).filter(|p| !p.as_os_str().is_empty())),
            }
        };
        let token_file = path(&args.token_file, "token_file")?;
        let token = match (&args.token, token_file) {
            (Some(token), _) => Some(Token::read(token)?),
            (None, Some(file)) => Some(Token::of_file(&file)?),
            (None, None) => None,
        };
        let server = with_scheme(&text(&args.server, "server", "http://127.0.0.1:7400")?)?;
        if token.is_some() && !args.insecure_token && is_open_way(&server) {
            return Err(Failure::usage(format!(
                "the token is not sent to {server}: everybody on the way could read it; use https (--ca-cert), or a tunnel to the \
                 node's loopback address; --insecure-token sends it all the same"
            )));
        }
        let files = [
            path(&args.ca_cert, "ca_cert")?,
            path(&args.client_cert, "client_cert")?,
            path(&args.client_key, "client_key")?,
        ];
        let tls = if server.starts_with("https://") { Some(Tls::read(files)?) } else { None };
        let settings = Self {
            server,
            environment: text(&args.environment, "environment", "production")?,
            principal: text(&args.principal, "principal", "human:local")?,
            token,
            tls,
            output,
            request_timeout,
        };
        featureops_proto::environment_of(&format!("environments/{}", settings.environment))
            .map_err(|error| Failure::usage(format!("environment: {error}")))?;
        check_principal(&settings.principal)?;
        Ok(settings)
    }
}

fn check_principal(principal: &str) -> Result<(), Failure> {
    match principal.split_once(':') {
        Some(("human" | "agent", id))
            if !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(())
        }
        _ => Err(Failure::usage(format!("principal '{principal}' is not of the form human:ID or agent:ID"))),
    }
}

/// A variable with a slip in its name would leave the default in force: an agent would act as the local human.
fn check_variables(names: impl Iterator<Item = String>) -> Result<(), Failure> {
    for name in names.filter(|name| name.starts_with(ENVIRONMENT_PREFIX)) {
        if !VARIABLES.contains(&name.as_str()) && !is_variable(&name) {
            let shown: String = name.chars().take(80).collect();
            return Err(Failure::usage(format!(
                "environment variable '{shown}' is not known; {}",
                suggestion(&name, &VARIABLES)
            )));
        }
    }
    Ok(())
}

/// `127.0.0.1:7400` is what people type.
fn with_scheme(server: &str) -> Result<String, Failure> {
    let server = server.trim().trim_end_matches('/');
    match server.split_once("://") {
        None => Ok(format!("http://{server}")),
        Some(("http" | "https", _)) => Ok(server.to_owned()),
        Some((scheme, _)) => {
            Err(Failure::usage(format!("server '{server}': '{scheme}' is not spoken, only http and https")))
        }
    }
}

/// Whether what is sent there goes over a network in plain text.
fn is_open_way(server: &str) -> bool {
    let Some(rest) = server.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let has_port =
        authority.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    !is_loopback(&if has_port { authority.to_owned() } else { format!("{authority}:80") })
}

fn default_path() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some(base.join("featureops").join("config.toml"))
}

fn read_file(path: &Path) -> Result<toml::Table, Failure> {
    let fault = |message: String| Failure::usage(format!("configuration {}: {message}", path.display()));
    let text = read_bounded(path, MAX_FILE_BYTES).map_err(fault)?;
    parse_file(&text).map_err(fault)
}

/// A file's text, if it is within the bound.
///
/// # Errors
/// It cannot be read, is larger, or is no UTF-8.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, String> {
    text_within(std::fs::File::open(path).map_err(|error| error.to_string())?, bytes_max, "")
}

fn parse_file(text: &str) -> Result<toml::Table, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    for key in table.keys() {
        if !KEYS.contains(&key.as_str()) {
            return Err(format!("unknown key '{key}'; {}", suggestion(key, &KEYS)));
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn resolve(text: &str, args: GlobalArgs) -> Result<Settings, Failure> {
        let file = file(text);
        Settings::resolve(&GlobalArgs { config: Some(file.path().to_owned()), ..args })
    }

    #[test]
    fn a_slip_in_a_variables_name_is_refused() {
        let check = |name: &str| check_variables([name.to_owned()].into_iter());
        for known in ["PATH", "FEATUREOPS_PRINCIPAL", "FEATUREOPS_LISTEN", "FEATUREOPS_LIMITS_CONNECTIONS"] {
            check(known).unwrap();
        }
        for (unknown, meant) in [
            ("FEATUREOPS_PRINCIPLE", "FEATUREOPS_PRINCIPAL"),
            ("FEATUREOPS_ENVIROMENT", "FEATUREOPS_ENVIRONMENT"),
        ] {
            let said = check(unknown).unwrap_err().render();
            assert!(said.contains(unknown) && said.contains(meant), "{said}");
        }
    }

    #[test]
    fn only_what_is_spoken_is_a_server() {
        assert_eq!(with_scheme("node:7400/").unwrap(), "http://node:7400");
        assert_eq!(with_scheme("http://node").unwrap(), "http://node");
        assert_eq!(with_scheme("https://node:7400/").unwrap(), "https://node:7400");
        assert!(with_scheme("ftp://node").unwrap_err().render().contains("only http"));
    }

    #[test]
    fn a_token_goes_over_http_to_this_machine_only() {
        for near in [
            "http://127.0.0.1:7400",
            "http://localhost",
            "http://[::1]:7400",
            "http://[::1]",
            "https://node:7400",
        ] {
            assert!(!is_open_way(near), "{near}");
        }
        for far in
            ["http://node:7400", "http://10.0.0.1", "http://localhost.example:1", "http://127.0.0.1@node:1"]
        {
            assert!(is_open_way(far), "{far}");
        }
        let with = |server: &str, insecure_token| GlobalArgs {
            server: Some(server.to_owned()),
            token: Some("fo_1".to_owned()),
            insecure_token,
            ..GlobalArgs::default()
        };
        let refused = resolve("", with("http://node:7400", false)).unwrap_err();
        assert!(refused.render().contains("--insecure-token"), "{}", refused.render());
        resolve("", with("http://node:7400", true)).unwrap();
        resolve("", with("http://127.0.0.1:7400", false)).unwrap();
    }

    #[test]
    fn flags_overrule_the_file_and_the_file_the_defaults() {
        let text = "server = \"node-1:7400\"\nenvironment = \"staging\"\noutput = \"json\"\n";
        let args = GlobalArgs { environment: Some("test".into()), ..GlobalArgs::default() };
        let settings = resolve(text, args).unwrap();
        assert_eq!(settings.server, "http://node-1:7400");
        assert_eq!(settings.environment, "test");
        assert_eq!(settings.output, Output::Json);
        assert_eq!(settings.principal, "human:local");
        assert_eq!(settings.request_timeout, Duration::from_secs(10));
    }

    #[test]
    fn a_file_without_an_end_is_refused_at_the_bound() {
        let args = GlobalArgs { config: Some("/dev/zero".into()), ..GlobalArgs::default() };
        let failure = Settings::resolve(&args).unwrap_err();
        assert!(failure.message.contains("is larger than"), "{}", failure.message);
        assert_eq!(read_bounded(file("ab").path(), 2), Ok("ab".to_owned()));
        assert!(read_bounded(file("abc").path(), 2).is_err());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_nearest() {
        let failure = resolve("sevrer = \"x\"\n", GlobalArgs::default()).unwrap_err();
        assert!(
            failure.message.contains("unknown key 'sevrer'; did you mean 'server'?"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused() {
        for (text, part) in [
            ("request_timeout = \"0s\"", "more than 0"),
            ("request_timeout = 10", "text in quotes"),
            ("output = \"xml\"", "none of table"),
            ("principal = \"anna\"", "human:ID"),
            ("environment = \"a b\"", "environment"),
            ("server = ", "configuration"),
        ] {
            let failure = resolve(text, GlobalArgs::default()).unwrap_err();
            assert!(failure.message.contains(part), "{text}: {}", failure.message);
        }
    }
}
