//! `sem_ver`: versions as semver.org orders them.
//!
//! A leading `v` or `V` is allowed; `1` and `1.2` stand for `1.0.0` and `1.2.0`. Build metadata is read and ignored.
//! What is no version has no answer: the operator then returns null, never false.

use std::cmp::Ordering;

/// A version, borrowed from its text. Numbers stay texts: they may be of any length.
#[derive(Debug, Clone, Copy)]
struct Version<'t> {
    numbers: [&'t str; 3],
    /// Empty: a release.
    prerelease: &'t str,
}

impl<'t> Version<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (text, build) = match text.split_once('+') {
            Some((text, build)) => (text, Some(build)),
            None => (text, None),
        };
        let (core, prerelease) = match text.split_once('-') {
            Some((core, prerelease)) => (core, Some(prerelease)),
            None => (text, None),
        };
        let mut numbers = ["0"; 3];
        let mut parts = core.split('.');
        let mut count = 0;
        for (number, part) in numbers.iter_mut().zip(&mut parts) {
            *number = is_number(part).then_some(part)?;
            count += 1;
        }
        // A short version is a release without build metadata, else `1-2` would be two readings of one text.
        let whole = count == 3 || (prerelease.is_none() && build.is_none());
        let named = |given: Option<&str>, numeric_too: bool| {
            given.is_none_or(|given| given.split('.').all(|part| is_identifier(part, numeric_too)))
        };
        (whole && parts.next().is_none() && named(prerelease, true) && named(build, false))
            .then(|| Self { numbers, prerelease: prerelease.unwrap_or_default() })
    }

    fn order(&self, other: &Self) -> Ordering {
        let numbers = self.numbers.iter().zip(&other.numbers).map(|(a, b)| order_of_numbers(a, b));
        let by_numbers = numbers.fold(Ordering::Equal, Ordering::then);
        by_numbers.then_with(|| match (self.prerelease, other.prerelease) {
            ("", "") => Ordering::Equal,
            ("", _) => Ordering::Greater,
            (_, "") => Ordering::Less,
            (a, b) => order_of_prereleases(a, b),
        })
    }
}

fn is_number(part: &str) -> bool {
    let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    digits && (part.len() == 1 || !part.starts_with('0'))
}

/// An identifier; in a prerelease, one of digits only is a number.
fn is_identifier(part: &str, in_prerelease: bool) -> bool {
    let characters =
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    characters && (!in_prerelease || is_number(part) || !part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Without leading zeros, the longer number is the larger.
fn order_of_numbers(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn order_of_prereleases(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (is_number(a), is_number(b)) {
                (true, true) => order_of_numbers(a, b),
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (false, false) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Whether `operator` is one of the eight.
pub(crate) fn is_operator(operator: &str) -> bool {
    matches!(operator, "=" | "!=" | "<" | "<=" | ">" | ">=" | "^" | "~")
}

/// Whether a text is a version.
pub(crate) fn is_version(text: &str) -> bool {
    Version::parse(text).is_some()
}

/// Whether the relation holds; `None` for what is no version or no operator.
pub(crate) fn compare(version: &str, operator: &str, target: &str) -> Option<bool> {
    let (version, target) = (Version::parse(version)?, Version::parse(target)?);
    let order = || version.order(&target);
    let same = |count: usize| version.numbers.iter().zip(&target.numbers).take(count).all(|(a, b)| a == b);
    Some(match operator {
        "=" => order().is_eq(),
        "!=" => order().is_ne(),
        "<" => order().is_lt(),
        "<=" => order().is_le(),
        ">" => order().is_gt(),
        ">=" => order().is_ge(),
        "^" => same(1),
        "~" => same(2),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_specification() {
        let ascending = [
            "0.9.9",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1",
            "1.0.1",
            "1.2",
            "1.10.0",
            "2.0.0",
            "18446744073709551616.0.0",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, "<", b), Some(i < j), "{a} {b}");
                assert_eq!(compare(a, ">=", b), Some(i >= j), "{a} {b}");
                assert_eq!(compare(a, "=", b), Some(i == j), "{a} {b}");
                assert_eq!(compare(a, "!=", b), Some(i != j), "{a} {b}");
            }
        }
    }

    #[test]
    fn ranges_prefixes_and_build_metadata() {
        for (version, operator, target, holds) in [
            ("3.0.1", "~", "3.0.0", true),
            ("3.1.0", "~", "3.0.0", false),
            ("3.1.0", "^", "3.0.0", true),
            ("4.0.0", "^", "3", false),
            ("v1.0.0", "=", "V1", true),
            ("1.0.0+a", "=", "1.0.0+b.0-1", true),
            ("1.0.0+007", "=", "1.0.0", true),
        ] {
            assert_eq!(compare(version, operator, target), Some(holds), "{version} {operator} {target}");
        }
    }

    #[test]
    fn what_is_no_version_has_no_answer() {
        for text in [
            "",
            "v",
            "vv1",
            "1.",
            ".1",
            "1..0",
            "01.0.0",
            "1.0.0.0",
            "1.0.0-",
            "1.0.0+",
            "1-a",
            "1.2+b",
            "1.0.0-01",
            "1.0.0-a..b",
            " 1.0.0",
            "1.0.0-ä",
            "x",
            "-1.0.0",
        ] {
            assert_eq!(compare(text, "=", "1.0.0"), None, "{text}");
            assert_eq!(compare("1.0.0", "=", text), None, "{text}");
        }
        assert_eq!(compare("1.0.0", "==", "1.0.0"), None);
    }
}
