//! Resource names, as `environments/{environment}/flags/{flag}`.

use std::fmt;

/// Longest environment or resource id, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// Kinds of resources that live in an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collection {
    /// `flags`
    Flags,
    /// `metrics`
    Metrics,
    /// `experiments`
    Experiments,
    /// `decisions`
    Decisions,
    /// `segments`
    Segments,
    /// `layers`
    Layers,
    /// `holdouts`
    Holdouts,
    /// `schedules`
    Schedules,
}

impl Collection {
    /// The segment in a name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flags => "flags",
            Self::Metrics => "metrics",
            Self::Experiments => "experiments",
            Self::Decisions => "decisions",
            Self::Segments => "segments",
            Self::Layers => "layers",
            Self::Holdouts => "holdouts",
            Self::Schedules => "schedules",
        }
    }
}

/// A parsed resource name, borrowing from its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// The environment's id.
    pub environment: &'a str,
    /// The resource's id.
    pub id: &'a str,
}

/// Why a name could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    /// What was wrong, and the form that is accepted.
    pub message: String,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NameError {}

impl<'a> Name<'a> {
    /// Parses `environments/{environment}/{collection}/{id}`.
    ///
    /// # Errors
    /// When the text has another form, or an id is empty, longer than 128 bytes or holds other characters than
    /// letters, digits, `.`, `_`, `-`, `:`.
    pub fn parse(text: &'a str, collection: Collection) -> Result<Self, NameError> {
        let form = || NameError {
            message: format!(
                "name '{}' is not of the form environments/{{environment}}/{}/{{id}}",
                clip(text),
                collection.as_str()
            ),
        };
        let mut parts = text.split('/');
        let (Some("environments"), Some(environment), Some(segment), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        if segment != collection.as_str() {
            return Err(form());
        }
        check_id(environment)?;
        check_id(id)?;
        Ok(Self { environment, id })
    }

    /// Builds the full name.
    #[must_use]
    pub fn format(environment: &str, collection: Collection, id: impl fmt::Display) -> String {
        format!("environments/{environment}/{}/{id}", collection.as_str())
    }
}

/// The id of a resource by its name; empty where the name is malformed, as no stored one is.
#[must_use]
pub fn id_of(name: &str, collection: Collection) -> &str {
    Name::parse(name, collection).map(|name| name.id).unwrap_or_default()
}

/// The environment of `environments/{environment}`.
///
/// # Errors
/// When the text has another form or the id is not acceptable.
pub fn environment_of(parent: &str) -> Result<&str, NameError> {
    match parent.strip_prefix("environments/") {
        Some(environment) => check_id(environment).map(|()| environment),
        None => Err(NameError {
            message: format!("parent '{}' is not of the form environments/{{environment}}", clip(parent)),
        }),
    }
}

fn check_id(id: &str) -> Result<(), NameError> {
    let ok = !id.is_empty()
        && id.len() <= MAX_ID_BYTES
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'));
    // Within a URL or a path these two mean another place: nobody would reach what is so named.
    if matches!(id, "." | "..") {
        return Err(NameError {
            message: format!("id '{id}' means another place in a path; choose another"),
        });
    }
    if ok {
        return Ok(());
    }
    Err(NameError {
        message: format!(
            "id '{}' must have 1 to {MAX_ID_BYTES} letters, digits or . _ - : (it has {} bytes)",
            clip(id),
            id.len()
        ),
    })
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_parses_and_formats_back() {
        let text = "environments/production/flags/checkout.v2";
        let name = Name::parse(text, Collection::Flags).unwrap();
        assert_eq!((name.environment, name.id), ("production", "checkout.v2"));
        assert_eq!(Name::format(name.environment, Collection::Flags, name.id), text);
    }

    #[test]
    fn dots_within_an_id_are_letters_like_others() {
        for id in ["...", ".a", "a.", "..a", "a..b"] {
            let text = Name::format("p", Collection::Flags, id);
            assert_eq!(Name::parse(&text, Collection::Flags).unwrap().id, id);
        }
        assert!(environment_of("environments/..").is_err() && environment_of("environments/..2").is_ok());
    }

    #[test]
    fn other_forms_are_refused_with_the_form_that_is_accepted() {
        for text in [
            "",
            "flags/x",
            "environments//flags/x",
            "environments/p/metrics/x",
            "environments/p/flags/x/y",
            "environments/p/flags/é",
            "environments/p/flags/.",
            "environments/../flags/x",
        ] {
            assert!(Name::parse(text, Collection::Flags).is_err(), "{text}");
        }
    }
}
