//! Who may do what: every request is admitted here, once, before anything of it is read.
//!
//! ```text
//!   path ──> rules: which roles, and whether without a token          not in the table: not there
//!   authorization: Bearer fo_..  ──> keys (published by the fold) ──> Grant: name, roles, scope
//!   no token at all in the cluster, listeners on loopback ──> open: callers name themselves
//!   none shown ──> evaluation where the node lets strangers evaluate; else UNAUTHENTICATED
//!                                      │
//!              scope: of a token with one, the request's own names are held against it
//! ```
//!
//! Nothing waits and nothing locks on the way of an evaluation. A secret is in no log line, no error and no metric: what is shown is
//! the key id, its public part.

pub mod grant;
pub mod rates;
pub mod rules;
pub mod scope;
pub mod secret;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use featureops_proto::v1::token::Role;
use featureops_state::State;
use parking_lot::Mutex;
use prost_reflect::DescriptorPool;
use tonic::Status;

use crate::config::Limits;
use crate::refusal;
use grant::Grant;
use rates::{Bucket, Peers, Rate};
use rules::{Kind, Rule, Strangers};

/// Where OFREP's clients may put a token, beside `authorization`.
const API_KEY: &str = "x-api-key";
/// How often a stream's token is looked at again.
const STANDING_INTERVAL: Duration = Duration::from_secs(1);

/// Environments that callers without a token may evaluate in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// All of them where the node listens on loopback only, none elsewhere.
    #[default]
    OnLoopback,
    /// All of them.
    Everywhere,
    /// These; none if there are none.
    In(Vec<String>),
}

/// A token as the node keeps it.
struct Key {
    secret_hash: Vec<u8>,
    grant: Arc<Grant>,
}

/// By key id.
type Keys = BTreeMap<String, Key>;

/// How a request goes on.
#[derive(Clone)]
pub enum Admitted {
    /// There is nothing to hold it against.
    Open,
    /// As somebody, or as a stranger who may evaluate somewhere.
    Granted(Arc<Grant>),
}

/// When a request comes.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Log time, by which tokens expire.
    pub log_ms: i64,
    /// Of this process, by which rates are counted.
    pub monotonic_ms: u64,
}

/// The way past the door.
pub struct Access {
    keys: ArcSwap<Keys>,
    /// Nobody but this machine reaches the node.
    loopback: bool,
    /// What strangers may evaluate; absent: everything.
    strangers: Option<Arc<Grant>>,
    writes: Rate,
    facts: Rate,
    /// Tokens that were wrong, by whence they came.
    wrong: Mutex<Peers>,
    pool: Option<DescriptorPool>,
}

impl Access {
    /// Without tokens yet. `loopback`: every listener is.
    #[must_use]
    pub fn new(anonymous: &Anonymous, loopback: bool, limits: &Limits) -> Self {
        let strangers = match anonymous {
            Anonymous::OnLoopback if loopback => None,
            Anonymous::Everywhere => None,
            Anonymous::OnLoopback => Some(Vec::new()),
            Anonymous::In(environments) => Some(environments.clone()),
        };
        Self {
            keys: ArcSwap::default(),
            loopback,
            strangers: strangers.map(|environments| Arc::new(Grant::stranger(environments))),
            writes: Rate::per_second(limits.writes_per_second),
            facts: Rate::per_second(limits.fact_requests_per_second),
            wrong: Mutex::new(Peers::default()),
            pool: DescriptorPool::decode(featureops_proto::DESCRIPTORS).ok(),
        }
    }

    /// Takes the tokens as they stand. What is known of one that stays (its use, its rate) stays.
    pub fn publish(&self, state: &State) {
        let before = self.keys.load();
        let keys = state.token_records().filter_map(|record| {
            let grant = match before.get(&record.key_id) {
                Some(key) => Arc::clone(&key.grant),
                None => Arc::new(Grant::of(record)?),
            };
            Some((record.key_id.clone(), Key { secret_hash: record.secret_hash.clone(), grant }))
        });
        self.keys.store(Arc::new(keys.collect()));
    }

    /// Whether callers name themselves: there is no token, and only this machine reaches the node.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.loopback && self.keys.load().is_empty()
    }

    /// Whether there is a token in the cluster.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        !self.keys.load().is_empty()
    }

    /// The messages of the API, for whoever looks into one.
    #[must_use]
    pub const fn pool(&self) -> Option<&DescriptorPool> {
        self.pool.as_ref()
    }

    /// Lets a request in, or says why not.
    ///
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED; INVALID_ARGUMENT for a token where it would be written into logs.
    pub fn admit(
        &self,
        rule: Option<&Rule>,
        uri: &Uri,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        now: Now,
    ) -> Result<Admitted, Status> {
        if uri.query().is_some_and(holds_token) {
            return Err(refusal::token_in_query());
        }
        if rule.is_some_and(|rule| rule.strangers == Strangers::Always) {
            return Ok(Admitted::Open);
        }
        let Some(shown) = shown(uri.path(), headers)? else {
            return self.stranger(rule);
        };
        let Some((key_id, secret_hash)) = secret::read(shown) else {
            // A proxy's own credentials, on a node that asks for none.
            if self.is_open() && !shown.starts_with(secret::PREFIX) {
                return Ok(Admitted::Open);
            }
            return Err(self.wrong(peer, now));
        };
        let keys = self.keys.load();
        let known = keys.get(key_id).filter(|key| secret::same(&key.secret_hash, &secret_hash));
        let Some(Key { grant, .. }) = known else { return Err(self.wrong(peer, now)) };
        if grant.is_expired(now.log_ms) {
            return Err(refusal::unauthenticated(
                "TOKEN_EXPIRED",
                format!("token '{}' has expired; ask an admin for another", grant.id()),
            ));
        }
        if let Some(rule) = rule {
            self.check(rule, grant, now)?;
        }
        grant.used(now.log_ms);
        Ok(Admitted::Granted(Arc::clone(grant)))
    }

    fn stranger(&self, rule: Option<&Rule>) -> Result<Admitted, Status> {
        if self.is_open() {
            return Ok(Admitted::Open);
        }
        match rule.map(|rule| rule.strangers) {
            Some(Strangers::Always) => Ok(Admitted::Open),
            Some(Strangers::Loopback) if self.loopback => Ok(Admitted::Open),
            Some(Strangers::Evaluate) => match &self.strangers {
                None => Ok(Admitted::Open),
                Some(grant) if grant.names_environments() => Ok(Admitted::Granted(Arc::clone(grant))),
                Some(_) => Err(no_token()),
            },
            _ => Err(no_token()),
        }
    }

    fn check(&self, rule: &Rule, grant: &Grant, now: Now) -> Result<(), Status> {
        if !rule.roles.iter().any(|role| grant.has(*role)) {
            let needed: Vec<String> = rule.roles.iter().map(|role| role_text(*role)).collect();
            return Err(refusal::permission_denied(
                "ROLE_MISSING",
                format!(
                    "token '{}' has no role for this: it takes {}, and the token has {}",
                    grant.id(),
                    needed.join(" or "),
                    grant.roles_text()
                ),
            ));
        }
        let (bucket, rate, what): (&Mutex<Bucket>, _, _) = match rule.kind() {
            Kind::Read => return Ok(()),
            Kind::Write => (&grant.writes, self.writes, "writes"),
            Kind::Fact => (&grant.facts, self.facts, "requests with facts"),
        };
        match bucket.lock().take(rate, now.monotonic_ms) {
            Ok(()) => Ok(()),
            Err(wait) => {
                let message = format!("token '{}' may do {} {what} a second", grant.id(), rate.a_second());
                Err(refusal::too_many(message, wait))
            }
        }
    }

    /// A token nobody has. Whoever tries many has to wait, and is told nothing more.
    fn wrong(&self, peer: Option<IpAddr>, now: Now) -> Status {
        if let Some(peer) = peer
            && let Err(wait) = self.wrong.lock().take(peer, now.monotonic_ms)
        {
            return refusal::too_many("too many wrong tokens from this address".to_owned(), wait);
        }
        refusal::unauthenticated(
            "TOKEN_UNKNOWN",
            "this cluster knows no such token: it was revoked, or mistyped, or is another cluster's"
                .to_owned(),
        )
    }

    /// When a token was last used on this node; 0: never.
    #[must_use]
    pub fn last_use_ms(&self, key_id: &str) -> i64 {
        self.keys.load().get(key_id).map_or(0, |key| key.grant.last_use_ms())
    }

    /// Whether what was granted still stands.
    #[must_use]
    pub fn holds(&self, grant: &Grant, log_ms: i64) -> bool {
        grant.is_stranger() || (!grant.is_expired(log_ms) && self.keys.load().contains_key(grant.key_id()))
    }

    /// Waits until a caller without a token would not be let in any more, as when the first token is made.
    pub async fn closed(&self, rule: Option<&Rule>) {
        while self.stranger(rule).is_ok() {
            tokio::time::sleep(STANDING_INTERVAL).await;
        }
    }

    /// Waits until what was granted does not stand any more; looked at once a second.
    pub async fn revoked(&self, grant: &Grant, log_ms: impl Fn() -> i64) {
        while self.holds(grant, log_ms()) {
            tokio::time::sleep(STANDING_INTERVAL).await;
        }
    }
}

/// The token that a request shows, whatever its form.
fn shown<'a>(path: &str, headers: &'a HeaderMap) -> Result<Option<&'a str>, Status> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = given.next() else {
        let key = headers.get(API_KEY).filter(|_| path.starts_with("/ofrep/"));
        return Ok(key.and_then(|key| key.to_str().ok()));
    };
    if given.next().is_some() {
        let message = "authorization: is there more than once: show one token".to_owned();
        return Err(refusal::unauthenticated("TOKEN_UNKNOWN", message));
    }
    let text = value.to_str().unwrap_or("?");
    let bearer = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Ok(Some(bearer.map_or(text, |(_, token)| token.trim())))
}

/// Takes the token out of the headers, so that nothing further on can write it anywhere.
pub fn hide(headers: &mut HeaderMap) {
    let is_ours = |value: &HeaderValue| {
        value.as_bytes().windows(secret::PREFIX.len()).any(|part| part == secret::PREFIX.as_bytes())
    };
    for name in [header::AUTHORIZATION.as_str(), API_KEY] {
        if headers.get_all(name).iter().any(is_ours) {
            headers.remove(name);
        }
    }
}

/// URLs are written into logs of every proxy on the way.
fn holds_token(query: &str) -> bool {
    query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        ["token", "access_token", "api_key", "authorization"].iter().any(|bad| name.eq_ignore_ascii_case(bad))
            || secret::read(value).is_some()
    })
}

/// Nothing is shown where something is needed.
#[must_use]
pub fn no_token() -> Status {
    refusal::unauthenticated(
        "TOKEN_MISSING",
        "a token is needed: send authorization: Bearer fo_... (--token, FEATUREOPS_TOKEN); an admin makes one with \
         'featureops token create'"
            .to_owned(),
    )
}

/// `edit`.
#[must_use]
pub fn role_text(role: Role) -> String {
    role.as_str_name().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_a_url_is_seen_by_its_name_and_by_its_form() {
        let secret = format!("fo_{}_{}", "0".repeat(16), "a".repeat(64));
        for query in ["token=x", "a=1&Access_Token=y", &format!("x={secret}"), "token"] {
            assert!(holds_token(query), "{query}");
        }
        for query in ["verbose", "selector=token", "flagConfigEtag=fo_1", "page_token=x"] {
            assert!(!holds_token(query), "{query}");
        }
    }

    #[test]
    fn only_our_token_is_taken_out() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Basic eDp5"));
        headers.insert("x-api-key", HeaderValue::from_static("fo_secret"));
        hide(&mut headers);
        assert!(headers.contains_key("authorization") && !headers.contains_key("x-api-key"));
    }
}
