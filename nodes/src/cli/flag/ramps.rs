//! Ramps that are over: what is left of them is a variant or a split, and should stand there as one.

use featureops_proto::v1::{self, rule};

use super::findings::Finding;
use crate::cli::render::key_of;
use crate::cli::span::moment_text;

/// Ramps that ended before now; archived flags are left out.
pub fn over(flags: &[v1::Flag], now_ms: i64) -> Vec<Finding> {
    let rules = flags
        .iter()
        .filter(|flag| !flag.archived)
        .flat_map(|flag| flag.rules.iter().enumerate().map(move |(at, rule)| (flag, at, rule)));
    let finding = |(flag, at, rule): (&v1::Flag, usize, &v1::Rule)| {
        let Some(rule::Serve::Ramp(ramp)) = &rule.serve else { return None };
        let end = ramp.end_time.as_ref().filter(|end| end.seconds.saturating_mul(1_000) <= now_ms)?;
        let (share, variant) = (ramp.end_basis_points.unwrap_or(10_000), &ramp.variant);
        let way_out = if share == 10_000 {
            format!("serve {variant} instead")
        } else {
            format!(
                "write a split with {variant}={share} instead (units are dealt anew), or a ramp that goes on from there"
            )
        };
        let message = format!("over since {}: {way_out}", moment_text(Some(end)));
        let flag = key_of(&flag.name).to_owned();
        Some(Finding { flag, code: "ramp-over", path: format!("rules[{at}].ramp"), message })
    };
    rules.filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rule::parse_rule;

    #[test]
    fn a_ramp_is_told_of_when_it_is_over() {
        let rules = ["a = 1 -> ramp on from 100 to 200", "b = 1 -> ramp on from 100 to 50% at 300 else off"];
        let rules = rules.iter().enumerate().map(|(at, text)| parse_rule(text, &format!("r{at}")).unwrap());
        let flag = v1::Flag {
            name: "environments/p/flags/f".to_owned(),
            rules: rules.collect(),
            ..v1::Flag::default()
        };
        let at = |now_ms| {
            over(std::slice::from_ref(&flag), now_ms).into_iter().map(|f| f.path).collect::<Vec<_>>()
        };
        assert!(at(199_999).is_empty());
        assert_eq!(at(200_000), ["rules[0].ramp"]);
        assert_eq!(at(300_000), ["rules[0].ramp", "rules[1].ramp"]);
        assert!(over(&[v1::Flag { archived: true, ..flag.clone() }], 300_000).is_empty());
    }
}
