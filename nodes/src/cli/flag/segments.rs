//! What of segments can never happen, and what clients on their own do not see.

use std::collections::BTreeSet;

use featureops_evaluation::flagd::{What, left_out};
use featureops_proto::v1;

use super::findings::Finding;
use crate::cli::render::key_of;

/// Looks through segments and the flags that ask about them.
pub fn findings(
    flags: &[v1::Flag],
    environment: &v1::Environment,
    segments: &[v1::Segment],
) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut found = |code, segment: &v1::Segment, message: &str| {
        let path = format!("segments.{}", key_of(&segment.name));
        all.push(Finding { flag: String::new(), code, path, message: message.to_owned() });
    };
    for segment in segments {
        if segment.used_by_flags.is_empty() && segment.used_by_segments.is_empty() {
            found("segment-unused", segment, "no flag and no segment asks about it");
        } else if segment.clauses.is_empty() && segment.unit_count == 0 {
            found("segment-empty", segment, "has no clause and nobody on its list: nobody is in it");
        }
    }
    let mut told = BTreeSet::new();
    for lost in left_out(flags, environment, segments) {
        let (code, path) = match lost.what {
            What::SegmentList => ("segment-list", "rules"),
            What::Prerequisite => ("prerequisite-lost", "prerequisites"),
        };
        if told.insert((lost.flag.clone(), lost.message.clone())) {
            all.push(Finding { flag: lost.flag, code, path: path.to_owned(), message: lost.message });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rule::parse_rule;

    #[test]
    fn segments_that_nobody_asks_about_or_is_in_and_lists_that_stay_here() {
        let segment = |id: &str, used: bool, unit_count| v1::Segment {
            name: format!("environments/p/segments/{id}"),
            used_by_flags: if used { vec!["f".to_owned()] } else { vec![] },
            unit_count,
            ..v1::Segment::default()
        };
        let segments = [segment("empty", true, 0), segment("idle", false, 3), segment("listed", true, 3)];
        let rule = parse_rule("in-segment(listed, empty) -> on", "r").unwrap();
        let flag =
            v1::Flag { name: "environments/p/flags/f".to_owned(), rules: vec![rule], ..v1::Flag::default() };
        let found: Vec<_> = findings(&[flag], &v1::Environment::default(), &segments)
            .into_iter()
            .map(|finding| (finding.flag, finding.code, finding.path))
            .collect();
        let of = |flag: &str, code, path: &str| (flag.to_owned(), code, path.to_owned());
        let expected = [
            of("", "segment-empty", "segments.empty"),
            of("", "segment-unused", "segments.idle"),
            of("f", "segment-list", "rules"),
        ];
        assert_eq!(found, expected);
    }
}
