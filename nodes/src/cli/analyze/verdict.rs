//! What to do, by criteria that are said, and sentences that carry their numbers.
//!
//! For each arm, on the first metric (the primary one):
//!
//! | verdict | when |
//! |---|---|
//! | blocked | the data contradict their own plan: sample ratio, units in two arms |
//! | kill | the primary or a guardrail is worse, its interval excludes 0 |
//! | ship | the primary is better, its interval excludes 0, it is believed among all arms (Holm), and every guardrail is shown not to be worse than its margin |
//! | iterate | no effect was found where one that matters would have been (power 80 %), or the horizon is reached |
//! | keep running | anything else; with how many units it takes |

use featureops_decision::analysis::multiplicity::{Correction, correct};
use serde_json::{Value, json};

use super::Method;
use super::report::{Line, Report, Scaled};
use crate::cli::render::{count_text, number_text, part_text, percent_text};

/// A sentence and the numbers it was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    pub text: String,
    /// Ids of results.
    pub statistics: Vec<String>,
}

/// What to do with an arm.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub arm: String,
    /// `ship`, `kill`, `iterate`, `keep_running` or `blocked`.
    pub decision: &'static str,
    /// Why, and what else there is to know.
    pub sentences: Vec<Sentence>,
}

impl Verdict {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "arm": self.arm,
            "decision": self.decision,
            "narrative": self.sentences.iter().map(|sentence| json!({
                "text": sentence.text, "statistics": sentence.statistics,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Power at which "nothing found" means something.
const ENOUGH_POWER: f64 = 0.8;

/// p as people write it.
#[must_use]
pub fn p_text(scaled: &Scaled) -> String {
    let p = scaled.test.p_value();
    if p < 1e-300 { format!("10^{:.0}", scaled.test.ln_p / std::f64::consts::LN_10) } else { number_text(p) }
}

/// `+1.23 % (95 % interval +0.10 % to +2.30 %, p = .01)`.
fn found(line: &Line, report: &Report) -> String {
    let level = number_text((1.0 - report.alpha) * 100.0);
    let (scaled, text): (_, fn(f64) -> String) = match (&line.relative, &line.absolute) {
        (Ok(relative), _) => (relative, percent_text),
        (Err(_), Ok(absolute)) => (absolute, number_text),
        (Err(_), Err(undefined)) => return undefined.meaning().to_owned(),
    };
    let (lower, upper) = scaled.ends();
    let certainty = match &scaled.belief {
        Some(belief) => format!("chance to win {}", part_text(belief.chance_to_win)),
        None => format!("p = {}", p_text(scaled)),
    };
    format!(
        "{} ({level} % interval {} to {}, {certainty})",
        text(scaled.estimate()),
        end(lower, text),
        end(upper, text)
    )
}

fn end(value: f64, text: fn(f64) -> String) -> String {
    if value.is_finite() { text(value) } else { "unbounded".to_owned() }
}

/// A verdict for every arm but control.
#[must_use]
pub fn decide(report: &Report) -> Vec<Verdict> {
    report.arms.iter().skip(1).map(|(arm, _)| verdict(report, arm)).collect()
}

fn verdict(report: &Report, arm: &str) -> Verdict {
    let lines: Vec<&Line> =
        report.lines.iter().filter(|line| line.segment.is_none() && line.arm == arm).collect();
    let mut sentences = Vec::new();
    let mut say = |text: String, statistics: &[&str]| {
        let statistics = statistics.iter().map(|id| (*id).to_owned()).collect();
        sentences.push(Sentence { text, statistics });
    };
    let Some(primary) = lines.first() else {
        return Verdict { arm: arm.to_owned(), decision: "blocked", sentences };
    };
    let control = report.arms.first().map_or("control", |(name, _)| name.as_str());
    say(
        format!(
            "{arm} changes {} by {} against {control}, from {} to {} over {} units.",
            primary.metric.name,
            found(primary, report),
            number_text(primary.control_mean),
            number_text(primary.treatment_mean),
            count_text((primary.control_units + primary.treatment_units) as u64),
        ),
        &[&primary.id],
    );
    let decision = decision(report, primary, &lines, &mut say);
    for line in lines.iter().skip(1) {
        let guard = match (line.metric.guardrail, line.not_worse) {
            (Some(margin), Some(p)) if p < report.alpha => {
                format!("; not worse than {} (p = {})", part_text(margin), number_text(p))
            }
            (Some(margin), Some(p)) => {
                format!(
                    "; it may be worse by more than {} (p = {} for the opposite)",
                    part_text(margin),
                    number_text(p)
                )
            }
            _ => String::new(),
        };
        say(format!("{}: {}{guard}.", line.metric.name, found(line, report)), &[&line.id]);
    }
    for line in report.lines.iter().filter(|line| line.segment.is_some() && line.arm == arm && line.believed)
    {
        if let Some((column, value)) = &line.segment {
            say(
                format!(
                    "Exploratory: with {column} = {value}, {} moves by {}; it holds among all segments together, and needs a run of its own.",
                    line.metric.name,
                    found(line, report)
                ),
                &[&line.id],
            );
        }
    }
    Verdict { arm: arm.to_owned(), decision, sentences }
}

fn decision(
    report: &Report,
    primary: &Line,
    lines: &[&Line],
    say: &mut impl FnMut(String, &[&str]),
) -> &'static str {
    if let Some((id, text, _)) = report.blocked() {
        say(format!("Blocked: {text}."), &[id]);
        return "blocked";
    }
    let guards: Vec<&&Line> = lines.iter().filter(|line| line.metric.guardrail.is_some()).collect();
    if let Some(harmed) = guards.iter().find(|line| line.direction() < 0) {
        say(
            format!("Kill: the guardrail {} got worse, its interval excludes 0.", harmed.metric.name),
            &[&harmed.id],
        );
        return "kill";
    }
    match primary.direction() {
        -1 => {
            say(format!("Kill: {} got worse, its interval excludes 0.", primary.metric.name), &[&primary.id]);
            "kill"
        }
        1 => {
            if !believed_among_arms(report, primary) {
                let text = format!(
                    "Keep running: {} looks better, but one of {} arms does so by chance too often (Holm).",
                    primary.metric.name,
                    report.arms.len().saturating_sub(1)
                );
                say(text, &[&primary.id]);
                return "keep_running";
            }
            let open = guards.iter().find(|line| line.not_worse.is_none_or(|p| p >= report.alpha));
            if let Some(open) = open {
                let text = format!(
                    "Keep running: {} got better, but the guardrail {} is not yet shown to stay within its margin.",
                    primary.metric.name, open.metric.name
                );
                say(text, &[&primary.id, &open.id]);
                return "keep_running";
            }
            let text = format!(
                "Ship: {} got better, its interval excludes 0, and no guardrail speaks against it.",
                primary.metric.name
            );
            say(text, &[&primary.id]);
            "ship"
        }
        _ => undecided(report, primary, say),
    }
}

/// With several arms, one of them looks better by chance more often than the error says: Holm's correction over the arms. A belief
/// is no test; it stands as it is.
fn believed_among_arms(report: &Report, primary: &Line) -> bool {
    if report.method == Method::Bayes {
        return true;
    }
    let rivals: Vec<&Line> = report
        .lines
        .iter()
        .filter(|line| line.segment.is_none() && line.metric.name == primary.metric.name)
        .collect();
    // Spending boundaries are judged by their intervals; their share of the error is not that of the plain p.
    let alpha = if report.method == Method::Obf && rivals.len() < 2 { 1.0 } else { report.alpha };
    let p: Vec<f64> = rivals
        .iter()
        .map(|line| line.absolute.as_ref().map_or(1.0, |scaled| scaled.test.p_value()))
        .collect();
    let reject = correct(&p, alpha, Correction::Holm).reject;
    rivals.iter().zip(reject).any(|(line, reject)| reject && line.id == primary.id)
}

fn undecided(report: &Report, primary: &Line, say: &mut impl FnMut(String, &[&str])) -> &'static str {
    let units = primary.control_units + primary.treatment_units;
    let matters = part_text(report.mde);
    let Some((power, more)) = primary.power else {
        say("Keep running: there is no effect to speak of yet.".to_owned(), &[&primary.id]);
        return "keep_running";
    };
    if power >= ENOUGH_POWER {
        let text = format!(
            "Iterate: a change of {matters} would have been found with a chance of {}, and none was; try something bolder.",
            part_text(power)
        );
        say(text, &[&primary.id]);
        return "iterate";
    }
    if report.horizon.is_some_and(|horizon| units >= horizon as f64) && report.method != Method::Sequential {
        let text = format!(
            "Iterate: the horizon of {} units is reached without an effect; the power for {matters} was {}.",
            count_text(report.horizon.unwrap_or_default()),
            part_text(power)
        );
        say(text, &[&primary.id]);
        return "iterate";
    }
    let more = more.map_or_else(
        || "more units than this comparison will ever see".to_owned(),
        |more| format!("{} more units", count_text(more.ceil() as u64)),
    );
    let text = format!(
        "Keep running: nothing found, and the power for {matters} is {}; 80 % take {more}.",
        part_text(power)
    );
    say(text, &[&primary.id]);
    "keep_running"
}
