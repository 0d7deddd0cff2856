//! Which flags a client sees: by the name it called, by its selector, and by the node's own view.
//!
//! ```text
//!   certificate ─> its environments, and no others           (setting flagd_certificates)
//!   :authority ──> the same by the name that was called      (setting flagd_authorities)
//!   else       ──> the view: flagd_environments, in order
//!   selector   ──> source=x    the environments whose source (else id) is x, of all that this name may reach
//!                  flagSetId=x of the above the flags whose metadata says so; empty: that say nothing
//! ```
//!
//! Of flags with the same key the later environment's is seen. `flagSetId` looks into the view alone: another environment
//! that holds a set of the same name must not answer for this one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderMap;
use featureops_evaluation::{CompiledFlag, Snapshot};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::Status;

use crate::access::grant::Grant;
use crate::fronts::settings::Settings;
use crate::publisher::Published;

/// The header, in gRPC and HTTP alike.
pub const HEADER: &str = "flagd-selector";
/// Longest selector, in bytes.
const SELECTOR_BYTES_MAX: usize = 1_024;
const SOURCE: &str = "source";
const FLAG_SET_ID: &str = "flagSetId";

/// What a client asked for. Empty: the whole view.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    source: Option<String>,
    flag_set_id: Option<String>,
}

impl Selector {
    /// `source=x`, `flagSetId=x`, both with a comma between, or a bare `x`, which is a source.
    ///
    /// # Errors
    /// Another key: what is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(format!("has {} bytes, over the bound of {SELECTOR_BYTES_MAX}", text.len()));
        }
        let mut selector = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((SOURCE, part));
            let place = match key.trim() {
                SOURCE => &mut selector.source,
                FLAG_SET_ID => &mut selector.flag_set_id,
                other => {
                    let other: String = other.chars().take(80).collect();
                    return Err(format!(
                        "'{other}' is no key of a selector; use {SOURCE}=x or {FLAG_SET_ID}=x"
                    ));
                }
            };
            if place.replace(value.trim().to_owned()).is_some() {
                return Err(format!("'{}' stands twice; once is enough", key.trim()));
            }
        }
        Ok(selector)
    }

    /// Nothing was asked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.source.is_none() && self.flag_set_id.is_none()
    }

    /// What an answer says of the selector that was used.
    pub fn describe(&self, fields: &mut BTreeMap<String, Value>) {
        for (key, value) in [(FLAG_SET_ID, &self.flag_set_id), (SOURCE, &self.source)] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                fields.insert(key.to_owned(), Value::from(value));
            }
        }
    }

    /// As it is written: [`Selector::parse`] reads it back.
    #[must_use]
    pub fn text(&self) -> String {
        let part = |key: &str, value: &Option<String>| value.as_ref().map(|value| format!("{key}={value}"));
        let parts = [part(SOURCE, &self.source), part(FLAG_SET_ID, &self.flag_set_id)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(",")
    }
}

/// The environments of the certificate that a client showed or of the name that it called, put into a request's extensions where these
/// choose.
#[derive(Debug, Clone)]
pub struct Called(pub Arc<[String]>);

/// The node's own view, and by which names there are others.
pub struct Views {
    own: Arc<[String]>,
    authorities: BTreeMap<String, Arc<[String]>>,
    certificates: BTreeMap<String, Arc<[String]>>,
}

impl Views {
    /// As it is set.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let shared = |environments: &Vec<String>| Arc::from(environments.as_slice());
        let named = |(name, environments): (&String, &Vec<String>)| (name.clone(), shared(environments));
        Self {
            own: shared(&settings.environments),
            authorities: settings.authorities.iter().map(named).collect(),
            certificates: settings.certificates.iter().map(named).collect(),
        }
    }

    /// Whether names or certificates choose environments at all.
    #[must_use]
    pub fn named(&self) -> bool {
        !self.authorities.is_empty() || !self.certificates.is_empty()
    }

    /// The environments of a name, with its port or without.
    #[must_use]
    pub fn called(&self, authority: &str) -> Option<Called> {
        let name = authority.to_ascii_lowercase();
        let host = || name.rsplit_once(':').and_then(|(host, _)| self.authorities.get(host));
        self.authorities.get(&name).or_else(host).map(|environments| Called(Arc::clone(environments)))
    }

    /// The environments of whoever showed a certificate of these names, all of its entries together; nothing where none is named.
    /// `None`: certificates choose nothing here.
    #[must_use]
    pub fn certified(&self, names: &[String]) -> Option<Called> {
        if self.certificates.is_empty() {
            return None;
        }
        let mut seen = Vec::<String>::new();
        for found in names.iter().filter_map(|name| self.certificates.get(&name.to_ascii_lowercase())) {
            seen.extend(found.iter().filter(|id| !seen.contains(id)).cloned().collect::<Vec<_>>());
        }
        Some(Called(seen.into()))
    }

    /// What this request may see. The header wins over the text in the body.
    ///
    /// # Errors
    /// The selector cannot be read.
    pub fn scope(
        &self,
        headers: &HeaderMap,
        called: Option<&Called>,
        grant: Option<&Grant>,
        body: &str,
    ) -> Result<Scope, String> {
        let text = match headers.get(HEADER) {
            Some(value) => value.to_str().map_err(|_| "it is not printable ASCII".to_owned())?,
            None => body,
        };
        let selector = if text.is_empty() { Selector::default() } else { Selector::parse(text)? };
        Ok(Scope {
            environments: self.seen(called, grant),
            confined: called.is_some(),
            selector,
            granted: grant.and_then(|grant| grant.environments().map(<[_]>::to_vec)),
            flag_prefix: grant.map(|grant| grant.flag_prefix().to_owned()).unwrap_or_default(),
        })
    }

    /// The environments that a caller sees without a selector: those of the view that it was granted; where it was granted none of
    /// them, and called no name that has its own, a token's environments are its view.
    fn seen(&self, called: Option<&Called>, grant: Option<&Grant>) -> Arc<[String]> {
        let view = called.map_or(&self.own, |called| &called.0);
        let Some((grant, granted)) = grant.and_then(|grant| Some((grant, grant.environments()?))) else {
            return Arc::clone(view);
        };
        let seen: Vec<String> = view.iter().filter(|id| grant.covers(id)).cloned().collect();
        if seen.is_empty() && called.is_none() && grant.principal().is_some() {
            return granted.into();
        }
        seen.into()
    }

    /// Refuses a caller who was granted none of what it could see here.
    ///
    /// # Errors
    /// As the grant says it.
    pub fn check(&self, called: Option<&Called>, grant: &Grant) -> Result<(), Status> {
        let view = called.map_or(&self.own, |called| &called.0);
        match view.first() {
            Some(first) if self.seen(called, Some(grant)).is_empty() => grant.check_environment(first),
            _ => Ok(()),
        }
    }
}

/// What one client sees, whatever is published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    environments: Arc<[String]>,
    /// No source beyond these environments.
    confined: bool,
    selector: Selector,
    /// No source beyond these either; absent: all that there are.
    granted: Option<Vec<String>>,
    /// No flag whose key begins otherwise.
    flag_prefix: String,
}

impl Scope {
    /// The selector.
    #[must_use]
    pub const fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The environments that are seen in this publication.
    #[must_use]
    pub fn select<'a>(&'a self, published: &'a Published) -> Selection<'a> {
        let environments = match &self.selector.source {
            None => Cow::Borrowed(self.environments.as_ref()),
            Some(source) => {
                let own = self.environments.iter().map(String::as_str);
                let granted =
                    |id: &&str| self.granted.as_ref().is_none_or(|own| own.iter().any(|own| own == id));
                let known = published.snapshot.environments().filter(granted);
                // The view's own last: of equal keys they win.
                let others =
                    known.filter(|id| !self.confined && !self.environments.iter().any(|own| own == id));
                others.chain(own).filter(|id| source_of(published, id) == source).map(str::to_owned).collect()
            }
        };
        Selection {
            published,
            snapshot: &published.snapshot,
            environments,
            flag_set_id: self.selector.flag_set_id.as_deref(),
            flag_prefix: &self.flag_prefix,
        }
    }
}

/// What selectors call the environment.
fn source_of<'a>(published: &'a Published, environment: &'a str) -> &'a str {
    let set = published.registry.environment(environment).map(|environment| environment.source.as_str());
    set.filter(|source| !source.is_empty()).unwrap_or(environment)
}

/// The flags that one client sees in one publication.
pub struct Selection<'a> {
    published: &'a Published,
    snapshot: &'a Snapshot,
    environments: Cow<'a, [String]>,
    flag_set_id: Option<&'a str>,
    flag_prefix: &'a str,
}

impl Selection<'_> {
    /// The flag of a key, of the last environment that has it. Archived flags are not there.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<&CompiledFlag> {
        let flags =
            self.environments.iter().rev().filter_map(|environment| self.snapshot.get(environment, key));
        flags.into_iter().find(|flag| self.admits(flag))
    }

    /// All of them, by key.
    #[must_use]
    pub fn flags(&self) -> BTreeMap<&str, &CompiledFlag> {
        let flags = self.environments.iter().flat_map(|environment| self.snapshot.flags(environment));
        flags.filter(|flag| self.admits(flag)).map(|flag| (flag.key(), flag)).collect()
    }

    /// In their order: of equal keys the later one's flag is seen.
    #[must_use]
    pub fn environments(&self) -> &[String] {
        &self.environments
    }

    /// What a set of answers says of itself: the selector that was used, over it what its environment says, if it is one.
    #[must_use]
    pub fn metadata(&self, scope: &Scope) -> Option<Struct> {
        let mut fields = BTreeMap::new();
        scope.selector().describe(&mut fields);
        if let [environment] = self.environments.as_ref()
            && let Some(shared) = self.published.registry.environment(environment)
        {
            let own = shared.metadata.iter().flat_map(|metadata| &metadata.fields);
            let own = own.filter(|(_, value)| !matches!(value.kind, None | Some(Kind::NullValue(_))));
            fields.extend(own.map(|(key, value)| (key.clone(), value.clone())));
        }
        (!fields.is_empty()).then_some(Struct { fields })
    }

    fn admits(&self, flag: &CompiledFlag) -> bool {
        !flag.is_archived()
            && flag.key().starts_with(self.flag_prefix)
            && self
                .flag_set_id
                .is_none_or(|wanted| flag_set_id(flag.metadata()).unwrap_or_default() == wanted)
    }
}

fn flag_set_id(metadata: Option<&Struct>) -> Option<&str> {
    match &metadata?.fields.get(FLAG_SET_ID)?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fronts::settings;

    #[test]
    fn a_selector_is_read_as_flagd_reads_it() {
        let parsed = |text: &str| Selector::parse(text).unwrap();
        assert!(parsed("").is_empty());
        assert_eq!(parsed("a.json"), parsed("source=a.json"));
        assert_eq!(parsed("rawflags/x.json").source.as_deref(), Some("rawflags/x.json"));
        assert_eq!(parsed("flagSetId=").flag_set_id.as_deref(), Some(""));
        let both = parsed("flagSetId=a, source=b");
        assert_eq!((both.source.as_deref(), both.flag_set_id.as_deref()), (Some("b"), Some("a")));
        for selector in [&both, &parsed("x"), &parsed("flagSetId=")] {
            assert_eq!(&parsed(&selector.text()), selector);
        }
        for (text, part) in [("env=x", "'env'"), ("source=a,source=b", "twice"), (&"x".repeat(2_000), "2000")]
        {
            assert!(Selector::parse(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn a_name_chooses_with_its_port_and_without() {
        let authorities = [("eu.example".to_owned(), vec!["eu".to_owned()])].into();
        let views = Views::new(&Settings { authorities, ..Settings::default() });
        let called = |name| views.called(name).map(|called| called.0.to_vec());
        assert_eq!(called("EU.example:8013"), Some(vec!["eu".to_owned()]));
        assert_eq!(called("eu.example"), called("eu.example:1"));
        assert_eq!(called("us.example"), None);
    }

    #[test]
    fn a_certificate_that_is_not_named_sees_nothing_where_certificates_choose() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(Views::new(&Settings::default()).certified(&names(&["shop"])).is_none());
        let certificates = settings::certificates("Shop=production+eu, spiffe://x/?a=b=eu+test").unwrap();
        let views = Views::new(&Settings { certificates, ..Settings::default() });
        let seen = |given: &[&str]| views.certified(&names(given)).unwrap().0.to_vec();
        assert_eq!(seen(&["shop"]), ["production", "eu"]);
        assert_eq!(seen(&["SHOP", "spiffe://x/?a=b"]), ["production", "eu", "test"]);
        assert_eq!(seen(&["mallory"]), Vec::<String>::new());
        assert_eq!(seen(&[]), Vec::<String>::new());
        for odd in ["shop", "=eu", "shop=Not An Id"] {
            assert!(settings::certificates(odd).is_err(), "{odd}");
        }
    }
}
