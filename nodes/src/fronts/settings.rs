//! What the flagd and OFREP fronts are told before a node starts, and how each setting is written.
//!
//! A list is written with commas, or, where an entry may hold one, with line breaks: `context_values = "region=eu,tier=2"`.
//! A TOML array of texts is read the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::http::HeaderName;
use axum::http::uri::Authority;
use featureops_proto::environment_of;

use crate::access::Anonymous;

/// The environment that a client sees without further word.
pub const ENVIRONMENT_DEFAULT: &str = "production";
/// Entries of one list.
const ENTRIES_MAX: usize = 256;
/// Bytes of one entry.
const ENTRY_BYTES_MAX: usize = 4_096;

/// The addresses at which flagd's clients look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// `flagd.evaluation.v1` and `v2`; 8013 by default.
    pub evaluation: SocketAddr,
    /// `/healthz`, `/readyz`, `/metrics` and gRPC health; 8014.
    pub management: SocketAddr,
    /// `flagd.sync.v1`; 8015.
    pub sync: SocketAddr,
    /// OFREP; 8016.
    pub ofrep: SocketAddr,
}

impl Default for Ports {
    fn default() -> Self {
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self { evaluation: at(8013), management: at(8014), sync: at(8015), ofrep: at(8016) }
    }
}

impl Ports {
    /// All four, in the order of their default numbers.
    #[must_use]
    pub const fn all(&self) -> [SocketAddr; 4] {
        [self.evaluation, self.management, self.sync, self.ofrep]
    }
}

/// The settings of the fronts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// flagd's usual ports beside the main one; absent: not opened.
    pub ports: Option<Ports>,
    /// What a client without a selector sees; of equal keys the later environment's flag.
    pub environments: Vec<String>,
    /// By which name a client called, in small letters: then these environments and no others.
    pub authorities: BTreeMap<String, Vec<String>>,
    /// By a name in the certificate that a client shows: then these environments and no others, whatever name it called.
    pub certificates: BTreeMap<String, Vec<String>>,
    /// Added to every context, over the caller's own.
    pub context_values: BTreeMap<String, String>,
    /// Header to context key: added over both.
    pub context_headers: BTreeMap<String, String>,
    /// Web pages whose scripts may evaluate, by their origins; `*` for all.
    pub cors_origins: Vec<String>,
    /// How long an event or sync stream may last; absent: as long as the client wants.
    pub stream_deadline: Option<Duration>,
    /// GENERAL is answered as UNKNOWN, as flagd does. Clients try again for seconds then.
    pub strict_errors: bool,
    /// `GetMetadata` answers UNIMPLEMENTED.
    pub disable_sync_metadata: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ports: None,
            environments: vec![ENVIRONMENT_DEFAULT.to_owned()],
            authorities: BTreeMap::new(),
            certificates: BTreeMap::new(),
            context_values: BTreeMap::new(),
            context_headers: BTreeMap::new(),
            cors_origins: Vec::new(),
            stream_deadline: None,
            strict_errors: false,
            disable_sync_metadata: false,
        }
    }
}

type Parsed<T> = Result<T, String>;

/// `true`, `false`, or four addresses in the order evaluation, management, sync, OFREP.
pub fn ports(text: &str) -> Parsed<Option<Ports>> {
    if let Ok(wanted) = truth(text) {
        return Ok(wanted.then(Ports::default));
    }
    let addresses = entries(text)?;
    let parsed: Result<Vec<SocketAddr>, _> = addresses.iter().map(|address| address.parse()).collect();
    match parsed.as_deref() {
        Ok(&[evaluation, management, sync, ofrep]) => Ok(Some(Ports { evaluation, management, sync, ofrep })),
        _ => Err(format!(
            "'{}' is neither true nor false nor four addresses, as \
             127.0.0.1:8013,127.0.0.1:8014,127.0.0.1:8015,127.0.0.1:8016",
            shown(text)
        )),
    }
}

/// One environment or more, the one that wins last.
pub fn environments(text: &str) -> Parsed<Vec<String>> {
    let found = entries(text)?;
    if found.is_empty() {
        return Err("is empty; name one environment or more, as production".to_owned());
    }
    found.into_iter().map(environment).collect()
}

/// `name=environment`, several environments joined by `+`.
pub fn authorities(text: &str) -> Parsed<BTreeMap<String, Vec<String>>> {
    entries(text)?
        .into_iter()
        .map(|entry| {
            let (name, environments) = pair(entry, "eu.flags.example=production+eu")?;
            let name = name.to_ascii_lowercase();
            if name.parse::<Authority>().is_err() {
                return Err(format!(
                    "'{}' is no name that a client can call, as eu.flags.example",
                    shown(&name)
                ));
            }
            let environments = environments.split('+').map(environment).collect::<Parsed<_>>()?;
            Ok((name, environments))
        })
        .collect()
}

/// `name=environment`, several environments joined by `+`; the name as it stands in a certificate.
pub fn certificates(text: &str) -> Parsed<BTreeMap<String, Vec<String>>> {
    entries(text)?
        .into_iter()
        .map(|entry| {
            // A URI may hold the sign itself, an environment's id never does.
            let (name, environments) = match entry.rsplit_once('=') {
                Some((name, environments)) if !name.trim().is_empty() => (name.trim(), environments.trim()),
                _ => return Err(format!("'{}' is not of the form shop=production+eu", shown(entry))),
            };
            let environments = environments.split('+').map(environment).collect::<Parsed<_>>()?;
            Ok((name.to_ascii_lowercase(), environments))
        })
        .collect()
}

/// `key=value`.
pub fn context_values(text: &str) -> Parsed<BTreeMap<String, String>> {
    let own = |entry| pair(entry, "region=eu").map(|(key, value)| (key.to_owned(), value.to_owned()));
    entries(text)?.into_iter().map(own).collect()
}

/// `header=key`.
pub fn context_headers(text: &str) -> Parsed<BTreeMap<String, String>> {
    entries(text)?
        .into_iter()
        .map(|entry| {
            let (header, key) = pair(entry, "X-Region=region")?;
            match header.parse::<HeaderName>() {
                Ok(header) if !key.is_empty() => Ok((header.as_str().to_owned(), key.to_owned())),
                _ => Err(format!("'{}' is no header and context key, as X-Region=region", shown(entry))),
            }
        })
        .collect()
}

/// Origins of web pages, as a browser writes them, or `*`.
pub fn origins(text: &str) -> Parsed<Vec<String>> {
    let origin = |entry: &str| {
        let authority =
            entry.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, authority)| authority);
        let is_origin = authority.is_some_and(|name| name.parse::<Authority>().is_ok());
        if entry == "*" || is_origin {
            return Ok(entry.to_owned());
        }
        Err(format!("'{}' is no origin, as https://shop.example, or * for all", shown(entry)))
    };
    entries(text)?.into_iter().map(origin).collect()
}

/// `500ms`, `30s`, `10m` or `1h`; `0` for none.
pub fn duration(text: &str) -> Parsed<Option<Duration>> {
    let text = text.trim();
    let fault = || format!("'{}' is no time, as 500ms, 30s, 10m or 1h; 0 is none", shown(text));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, unit) = text.split_at_checked(digits).ok_or_else(fault)?;
    let amount: u64 = amount.parse().map_err(|_| fault())?;
    let factor_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if amount == 0 => 0,
        _ => return Err(fault()),
    };
    let total =
        amount.checked_mul(factor_ms).filter(|total| *total <= 366 * 24 * 3_600_000).ok_or_else(fault)?;
    Ok((total > 0).then(|| Duration::from_millis(total)))
}

/// `*`, `none`, or environments.
pub fn anonymous(text: &str) -> Parsed<Anonymous> {
    match text.trim() {
        "*" => Ok(Anonymous::Everywhere),
        "none" => Ok(Anonymous::In(Vec::new())),
        _ => environments(text).map(Anonymous::In),
    }
}

/// `true` or `false`.
pub fn truth(text: &str) -> Parsed<bool> {
    match text.trim() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("'{}' is neither true nor false", shown(text))),
    }
}

fn entries(text: &str) -> Parsed<Vec<&str>> {
    let separator = if text.contains('\n') { '\n' } else { ',' };
    let found: Vec<&str> = text.split(separator).map(str::trim).filter(|entry| !entry.is_empty()).collect();
    if found.len() > ENTRIES_MAX {
        return Err(format!("has {} entries, over the bound of {ENTRIES_MAX}", found.len()));
    }
    match found.iter().find(|entry| entry.len() > ENTRY_BYTES_MAX) {
        Some(long) => Err(format!("'{}' has more than {ENTRY_BYTES_MAX} bytes", shown(long))),
        None => Ok(found),
    }
}

fn pair<'a>(entry: &'a str, example: &str) -> Parsed<(&'a str, &'a str)> {
    match entry.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim(), value.trim())),
        _ => Err(format!("'{}' is not of the form {example}", shown(entry))),
    }
}

fn environment(id: &str) -> Parsed<String> {
    environment_of(&format!("environments/{id}")).map(str::to_owned).map_err(|error| error.to_string())
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_read_as_it_is_documented() {
        assert_eq!(ports("false").unwrap(), None);
        assert_eq!(ports("true").unwrap().unwrap().all().map(|at| at.port()), [8013, 8014, 8015, 8016]);
        let four = ports("127.0.0.1:1, 127.0.0.1:2,127.0.0.1:3,[::1]:4").unwrap().unwrap();
        assert_eq!(four.ofrep.to_string(), "[::1]:4");
        assert_eq!(environments("base,production").unwrap(), ["base", "production"]);
        let mapped = authorities("EU.flags.example=production+eu\nlocalhost:1=test").unwrap();
        assert_eq!(mapped["eu.flags.example"], ["production", "eu"]);
        assert_eq!(context_values("a=1,b=x=y").unwrap()["b"], "x=y");
        assert_eq!(context_values("a=1,2\n").unwrap()["a"], "1,2");
        assert_eq!(context_headers("X-Region=region").unwrap()["x-region"], "region");
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("10m", 600_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text).unwrap(), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("0").unwrap(), None);
        assert_eq!(origins("https://a.example, http://localhost:3000,*").unwrap().len(), 3);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_way_out() {
        for (fault, part) in [
            (ports("8013").unwrap_err(), "127.0.0.1:8013"),
            (ports("127.0.0.1:1,127.0.0.1:2").unwrap_err(), "four addresses"),
            (environments(" ").unwrap_err(), "production"),
            (environments("a b").unwrap_err(), "a b"),
            (authorities("x").unwrap_err(), "eu.flags.example"),
            (context_values("=1").unwrap_err(), "region=eu"),
            (context_headers("X Y=z").unwrap_err(), "X-Region"),
            (duration("5").unwrap_err(), "30s"),
            (origins("a.example").unwrap_err(), "https://shop.example"),
            (origins("https://a.example/path").unwrap_err(), "https://shop.example"),
            (duration("99999999999h").unwrap_err(), "10m"),
            (truth("yes").unwrap_err(), "true"),
        ] {
            assert!(fault.contains(part), "{fault}");
        }
    }
}
