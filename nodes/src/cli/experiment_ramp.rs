//! Steps of a ramp as typed (`5%:1h:1000:approve`), as listed, and where a ramp stands.

use featureops_proto::v1;

use super::failure::Failure;
use super::page::{Cell, Page, Tone};
use super::render::{basis_points_of_percent, count_text, share_text};
use super::span::{moment_text, parse_span, span_text};

/// `SHARE:HOLD[:UNITS][:approve]`.
pub fn step(text: &str) -> Result<v1::RampStep, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "--step '{text}' must be SHARE:HOLD[:UNITS][:approve], as 5%:1h:1000 or 50%:24h:approve"
        ))
    };
    let mut parts = text.split(':');
    let (Some(share), Some(hold)) = (parts.next(), parts.next()) else { return Err(wrong()) };
    let basis_points = match share.strip_suffix('%') {
        Some(percent) => percent.parse().ok().map(basis_points_of_percent),
        None => share.parse::<u32>().ok().map(f64::from),
    };
    let basis_points =
        basis_points.filter(|points| points.fract() == 0.0 && (1.0..=10_000.0).contains(points));
    let hold = parse_span(hold).map_err(|error| Failure::usage(format!("--step '{text}': {error}")))?;
    let mut step = v1::RampStep {
        // In range: checked just above.
        basis_points: basis_points.ok_or_else(wrong)? as u32,
        hold_seconds: i64::try_from(hold.as_secs()).unwrap_or(i64::MAX),
        ..v1::RampStep::default()
    };
    let mut has_units = false;
    for part in parts {
        match part.parse() {
            Ok(units) if !has_units && !step.approval => (step.minimum_units, has_units) = (units, true),
            Err(_) if part == "approve" && !step.approval => step.approval = true,
            _ => return Err(wrong()),
        }
    }
    Ok(step)
}

/// The cap on new arms, as it is when none is stated.
pub fn cap(experiment: &v1::Experiment) -> u32 {
    let highest = experiment.ramp_steps.last().map(|step| step.basis_points);
    experiment.new_arm_cap_basis_points.or(highest).unwrap_or(2_000)
}

/// The steps of a definition; nothing when there are none.
pub fn steps(page: &mut Page, steps: &[v1::RampStep]) {
    if steps.is_empty() {
        return;
    }
    page.heading("Steps");
    let rows = steps
        .iter()
        .enumerate()
        .map(|(at, step)| {
            vec![
                Cell::number((at + 1).to_string()),
                Cell::number(share_text(step.basis_points)),
                Cell::number(span_text(step.hold_seconds)),
                Cell::number(count_text(step.minimum_units.max(1))),
                Cell::new(if step.approval { "a person's approval" } else { "" }),
            ]
        })
        .collect();
    page.table(&["STEP", "TREATMENT", "HELD", "UNITS", "BEGINS WITH"], rows, "");
}

/// Where a ramp stands, and what it waits for.
pub fn status(page: &mut Page, ramp: &v1::RampStatus) {
    page.heading("Ramp");
    let comes_next = match ramp.next_basis_points {
        0 => "promotion, by a person".to_owned(),
        next if ramp.approval => format!("{}, by a person's approval", share_text(next)),
        next => share_text(next),
    };
    page.facts([
        ("step", format!("{} of {}", ramp.step, ramp.steps)),
        ("held until", moment_text(ramp.hold_until.as_ref())),
        ("units", format!("{} of {}", count_text(ramp.units), count_text(ramp.minimum_units))),
        ("comes next", comes_next),
    ]);
    for wait in &ramp.waits_for {
        page.line(Tone::Plain, format!("- waits: {wait}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_typed_in_short() {
        let of = |text| step(text).map(|s| (s.basis_points, s.hold_seconds, s.minimum_units, s.approval));
        assert_eq!(of("1%:1h:1000").unwrap(), (100, 3_600, 1_000, false));
        assert_eq!(of("12.34%:30s").unwrap(), (1_234, 30, 0, false));
        assert_eq!(of("5000:24h:approve").unwrap(), (5_000, 86_400, 0, true));
        assert_eq!(of("100%:0s:5:approve").unwrap(), (10_000, 0, 5, true));
        for text in [
            "",
            "5%",
            "5%:x",
            "x:1h",
            "0%:1h",
            "101%:1h",
            "0.001%:1h",
            "5%:1h:no",
            "5%:1h:1:2",
            "5%:1h:0:7",
            "5%:1h:0:approve:7",
            "5%:1h:approve:1",
        ] {
            assert!(step(text).is_err(), "{text}");
        }
    }

    #[test]
    fn where_it_stands_reads_as_a_page() {
        let mut page = Page::new(false);
        let ramp = v1::RampStatus {
            step: 2,
            steps: 3,
            next_basis_points: 5_000,
            hold_until: Some(prost_types::Timestamp { seconds: 1_796_112_000, nanos: 0 }),
            units: 812,
            minimum_units: 1_000,
            approval: true,
            waits_for: vec!["the treatment has 812 exposed units of 1000 that the step asks for".to_owned()],
        };
        status(&mut page, &ramp);
        let text = page.into_text();
        for line in [
            "step        2 of 3\n",
            "2026-12-01 08:00:00Z\n",
            "812 of 1,000\n",
            "50 %, by a person's approval\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(
            text.ends_with("- waits: the treatment has 812 exposed units of 1000 that the step asks for\n"),
            "{text}"
        );
    }
}
