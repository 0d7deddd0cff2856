//! The context an evaluation sees: the caller's, then the node's static values, then what headers say. The later wins, so
//! that no caller can pretend to another region than the node or a proxy before it says.
//!
//! `$flagd` is the engine's own to write, whatever a caller puts there; `featureopsReceipt` is a caller's to send.

use axum::http::{HeaderMap, HeaderName};
use prost_types::{Struct, Value};

use crate::fronts::settings::Settings;

/// What is laid over every caller's context.
pub struct Overlay {
    values: Struct,
    headers: Box<[(HeaderName, String)]>,
}

impl Overlay {
    /// As it is set.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let values = &settings.context_values;
        let fields = values.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
        let headers = &settings.context_headers;
        let headers = headers.iter().filter_map(|(header, key)| Some((header.parse().ok()?, key.clone())));
        Self { values: Struct { fields }, headers: headers.collect() }
    }

    /// The static values, as in-process clients are told them.
    #[must_use]
    pub const fn values(&self) -> &Struct {
        &self.values
    }

    /// The caller's context with the overlay on it.
    #[must_use]
    pub fn over(&self, context: Option<Struct>, headers: &HeaderMap) -> Struct {
        let mut context = context.unwrap_or_default();
        for (key, value) in &self.values.fields {
            context.fields.insert(key.clone(), value.clone());
        }
        for (header, key) in &self.headers {
            if let Some(value) = headers.get(header) {
                // What is not UTF-8 is still what the header said, as far as a text can say it.
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                context.fields.insert(key.clone(), Value::from(value));
            }
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_wins_over_the_caller() {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let settings = Settings {
            context_values: pairs(&[("region", "eu"), ("tier", "1")]),
            context_headers: pairs(&[("x-tier", "tier"), ("x-absent", "mine")]),
            ..Settings::default()
        };
        let own =
            Struct { fields: ["region", "mine"].map(|key| (key.to_owned(), Value::from("own"))).into() };
        let headers = HeaderMap::from_iter([("x-tier".parse().unwrap(), "2".parse().unwrap())]);
        let seen = Overlay::new(&settings).over(Some(own), &headers);
        for (key, value) in [("region", "eu"), ("tier", "2"), ("mine", "own")] {
            assert_eq!(seen.fields[key], Value::from(value), "{key}");
        }
        assert!(Overlay::new(&Settings::default()).over(None, &headers).fields.is_empty());
    }
}
