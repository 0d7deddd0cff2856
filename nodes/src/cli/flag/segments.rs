//! What of segments can never happen, and what clients on their own do not see.

use std::collections::BTreeSet;

use featureops_evaluation::flagd::{What, asked, left_out};
use featureops_proto::v1;

use super::findings::Finding;
use super::nature::{Nature, Natures};
use crate::cli::render::key_of;

/// Looks through segments and the flags that ask about them.
pub fn findings(flags: &[v1::Flag], environment: &v1::Environment, segments: &[v1::Segment]) -> Vec<Finding> {
    let natures = Natures::of(segments);
    let used = used(flags, segments);
    let mut all = Vec::new();
    for segment in segments {
        let id = key_of(&segment.name);
        let mut found = |code, place: &str, message: String| {
            let path = format!("segments.{id}{place}");
            all.push(Finding { flag: String::new(), code, path, message });
        };
        let is_used =
            !segment.used_by_flags.is_empty() || !segment.used_by_segments.is_empty() || used.contains(id);
        match natures.get(id) {
            _ if !is_used => {
                found("segment-unused", "", "no flag and no segment asks about it".to_owned());
            }
            Nature::Never(why) => found("segment-empty", "", why.clone()),
            Nature::Always => found("segment-everybody", "", "everybody is in it".to_owned()),
            Nature::Sometimes => {}
        }
        for (at, clause) in segment.clauses.iter().enumerate() {
            if let Nature::Never(why) = natures.clause(&clause.conditions) {
                found("clause-never-holds", &format!(".clauses[{at}]"), why);
            }
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

/// Segments that flags and other segments ask about. A file does not say who uses them.
fn used<'s>(flags: &'s [v1::Flag], segments: &'s [v1::Segment]) -> BTreeSet<&'s str> {
    let rules = flags.iter().filter(|flag| !flag.archived).flat_map(|flag| &flag.rules);
    let clauses = segments.iter().flat_map(|segment| &segment.clauses);
    let conditions = rules.flat_map(|rule| &rule.conditions);
    conditions.chain(clauses.flat_map(|clause| &clause.conditions)).flat_map(asked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rule::{parse_clause, parse_rule};

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

    #[test]
    fn clauses_and_segments_that_say_nothing_and_the_rules_behind_them() {
        let segment = |id: &str, clauses: &[&str], unit_count| v1::Segment {
            name: format!("environments/p/segments/{id}"),
            clauses: clauses
                .iter()
                .map(|text| v1::SegmentClause { conditions: parse_clause(text).unwrap() })
                .collect(),
            unit_count,
            ..v1::Segment::default()
        };
        let flag = |rules: &[&str]| v1::Flag {
            name: "environments/p/flags/f".to_owned(),
            variants: ["off", "on"].map(|name| (name.to_owned(), true.into())).into(),
            default_variant: Some("off".to_owned()),
            safe_variant: Some("off".to_owned()),
            rules: rules.iter().map(|text| parse_rule(text, "r").unwrap()).collect(),
            ..v1::Flag::default()
        };
        let told = |flag: v1::Flag, segments: &[v1::Segment]| -> Vec<(&'static str, String)> {
            let (flags, environment) = ([flag], v1::Environment::default());
            let mut all = super::super::findings::findings(&flags, &environment, segments);
            all.extend(findings(&flags, &environment, segments));
            all.into_iter().map(|finding| (finding.code, finding.path)).collect()
        };
        let segments = [
            segment("against", &["x = \"a\" and x = \"b\""], 0),
            segment("below", &["in-segment(against)", "n > 5 and n < 3"], 0),
            segment("all", &["x = \"a\"", "x != \"a\""], 0),
        ];
        let rules = ["in-segment(below) -> on", "in-segment(all) -> on", "x = \"a\" -> off", "n = 1 -> on"];
        let expected = [
            ("rule-never-matches", "rules[0].conditions"),
            ("rule-never-matches", "rules[2]"),
            ("rule-never-matches", "rules[3]"),
            ("segment-empty", "segments.against"),
            ("clause-never-holds", "segments.against.clauses[0]"),
            ("segment-empty", "segments.below"),
            ("clause-never-holds", "segments.below.clauses[0]"),
            ("clause-never-holds", "segments.below.clauses[1]"),
            ("segment-everybody", "segments.all"),
        ];
        let expected = expected.map(|(code, path)| (code, path.to_owned()));
        assert_eq!(told(flag(&rules), &segments), expected);
        // The same shape, and each may hold.
        let segments = [
            segment("against", &["x = \"a\" and y = \"b\""], 0),
            segment("below", &["in-segment(against)", "n > 3 and n < 5"], 0),
            segment("all", &["x = \"a\"", "x != \"b\""], 0),
        ];
        assert_eq!(told(flag(&rules), &segments), []);
        // What is not known is told nothing of.
        assert_eq!(told(flag(&rules[..1]), &[]), []);
    }
}
