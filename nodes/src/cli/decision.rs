//! `decision list|show|explain|approve|reject|revert|replay`.
//!
//! `show` is for the person who approves or reverts: what was done, the sentences, the numbers, what was not done, and the
//! way back. `explain` is for the person who doubts it: each sentence with its numbers, and the integers the policy saw.

use clap::{Args, Subcommand, ValueEnum};
use featureops_proto::Collection::{Decisions, Flags};
use featureops_proto::Name;
use featureops_proto::v1;

use super::autonomy::level_text;
use super::failure::{Exit, Failure};
use super::listing::{listed, parse_limit};
use super::page::{Cell, Page, Tone};
use super::render::{count_text, key_of, number_text, percent_text, share_text, word_of};
use super::session::{Session, WriteArgs, principal_text, verb};
use super::span::moment_text;
use crate::rpc::decision_service_client::DecisionServiceClient;

#[derive(Debug, Subcommand)]
pub enum DecisionCommand {
    /// List decisions, newest first.
    List {
        /// Only those about this flag.
        #[arg(long)]
        flag: Option<String>,
        #[arg(long, value_enum)]
        status: Option<Status>,
        #[arg(long, default_value_t = 50, value_parser = parse_limit)]
        limit: usize,
    },
    /// Show a decision: what, why, within which bounds, and the way back.
    Show { number: String },
    /// Show each sentence with its numbers, and the inputs the policy saw.
    Explain { number: String },
    /// Apply a proposed decision.
    Approve(ResolveArgs),
    /// Turn a proposed decision down.
    Reject(ResolveArgs),
    /// Restore what was before the decision. Facts stay.
    Revert(ResolveArgs),
    /// Recompute the decision from its recorded inputs and compare.
    Replay { number: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Status {
    Proposed,
    Applied,
    Shadow,
    Rejected,
    Reverted,
    Superseded,
}

#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// The decision's number.
    number: String,
    /// Why; the record keeps it.
    #[arg(long, default_value = "")]
    note: String,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(session: &Session, command: DecisionCommand) -> Result<(), Failure> {
    match command {
        DecisionCommand::List { flag, status, limit } => list(session, flag, status, limit).await,
        DecisionCommand::Show { number } => {
            let decision = fetch(session, &number).await?;
            session.show(&decision, |page| describe(page, &decision))
        }
        DecisionCommand::Explain { number } => {
            let decision = fetch(session, &number).await?;
            session.show(&decision, |page| explain(page, &decision))
        }
        DecisionCommand::Approve(args) => {
            let (name, id) = (session.name(Decisions, &args.number)?, args.write.id()?);
            let request = v1::ApproveDecisionRequest {
                name,
                note: args.note,
                request_id: id.clone(),
                validate_only: args.write.dry_run,
            };
            let decision = session
                .client
                .write(&id, request, |channel, request| async move {
                    DecisionServiceClient::new(channel).approve_decision(request).await
                })
                .await?;
            resolved(session, &decision, args.write.dry_run)
        }
        DecisionCommand::Reject(args) => {
            let (name, id) = (session.name(Decisions, &args.number)?, args.write.id()?);
            let request = v1::RejectDecisionRequest {
                name,
                note: args.note,
                request_id: id.clone(),
                validate_only: args.write.dry_run,
            };
            let decision = session
                .client
                .write(&id, request, |channel, request| async move {
                    DecisionServiceClient::new(channel).reject_decision(request).await
                })
                .await?;
            resolved(session, &decision, args.write.dry_run)
        }
        DecisionCommand::Revert(args) => {
            // Whether it costs the flag its level is no part of the decision: the flag itself says so, before and after.
            let flag = flag_of(&fetch(session, &args.number).await?);
            let before = growth(session, &flag).await;
            let (name, id) = (session.name(Decisions, &args.number)?, args.write.id()?);
            let request = v1::RevertDecisionRequest {
                name,
                note: args.note,
                request_id: id.clone(),
                validate_only: args.write.dry_run,
            };
            let decision = session
                .client
                .write(&id, request, |channel, request| async move {
                    DecisionServiceClient::new(channel).revert_decision(request).await
                })
                .await?;
            resolved(session, &decision, args.write.dry_run)?;
            if args.write.dry_run {
                return Ok(());
            }
            match demotion(key_of(&flag), before, growth(session, &flag).await) {
                Some(words) => session.say(|page| page.line(Tone::Warn, words)),
                None => Ok(()),
            }
        }
        DecisionCommand::Replay { number } => replay(session, &number).await,
    }
}

async fn fetch(session: &Session, number: &str) -> Result<v1::Decision, Failure> {
    let request = v1::GetDecisionRequest { name: session.name(Decisions, number)? };
    session
        .client
        .read(request, |channel, request| async move {
            DecisionServiceClient::new(channel).get_decision(request).await
        })
        .await
}

/// The full name of a decision's flag, which need not be of the session's environment.
fn flag_of(decision: &v1::Decision) -> String {
    Name::parse(&decision.name, Decisions)
        .map_or_else(|_| decision.flag.clone(), |name| Name::format(name.environment, Flags, &decision.flag))
}

/// The level of growth a flag was given; unspecified when it cannot be read.
async fn growth(session: &Session, flag: &str) -> v1::AutonomyLevel {
    let flag = super::flag::fetch(session, flag).await;
    flag.ok().and_then(|flag| flag.autonomy).map_or(v1::AutonomyLevel::Unspecified, |levels| levels.growth())
}

/// What taking an autonomous act back cost.
fn demotion(flag: &str, before: v1::AutonomyLevel, after: v1::AutonomyLevel) -> Option<String> {
    (after != v1::AutonomyLevel::Unspecified && after < before).then(|| {
        let short = |level| level_text(level).split(' ').next().unwrap_or_default();
        format!(
            "an autonomous act was taken back, so growth of flag {flag} went from {} to {}; give it again with: \
             featureops autonomy set {flag} --growth {}",
            level_text(before),
            level_text(after),
            short(before)
        )
    })
}

async fn list(
    session: &Session,
    flag: Option<String>,
    status: Option<Status>,
    limit: usize,
) -> Result<(), Failure> {
    use v1::decision::Status as S;
    let status = match status {
        None => S::Unspecified,
        Some(Status::Proposed) => S::Proposed,
        Some(Status::Applied) => S::Applied,
        Some(Status::Shadow) => S::Shadow,
        Some(Status::Rejected) => S::Rejected,
        Some(Status::Reverted) => S::Reverted,
        Some(Status::Superseded) => S::Superseded,
    };
    let all = listed(limit, 100, async |page_size, page_token| {
        let request = v1::ListDecisionsRequest {
            parent: session.parent(),
            flag: flag.as_deref().map(key_of).unwrap_or_default().to_owned(),
            page_size,
            page_token,
            status: status.into(),
        };
        let act = |channel, request| async move {
            DecisionServiceClient::new(channel).list_decisions(request).await
        };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let rows = all
            .decisions
            .iter()
            .map(|decision| {
                let (status, tone) = status_of(decision);
                vec![
                    Cell::number(key_of(&decision.name)),
                    Cell::new(moment_text(decision.time.as_ref())),
                    Cell::new(status).tone(tone),
                    Cell::new(key_of(&decision.flag)),
                    Cell::new(headline(decision)),
                ]
            })
            .collect();
        page.table(&["NUMBER", "TIME", "STATUS", "FLAG", "WHAT"], rows, "no decisions");
    })
}

fn status_of(decision: &v1::Decision) -> (String, Tone) {
    use v1::decision::Status as S;
    let tone = match decision.status() {
        S::Proposed => Tone::Warn,
        S::Applied => Tone::Good,
        S::Reverted => Tone::Bad,
        S::Unspecified | S::Shadow | S::Rejected | S::Superseded => Tone::Faint,
    };
    (word_of(decision.status().as_str_name(), "STATUS_"), tone)
}

/// The act in a phrase: `reallocate off 75 % → 60 %, on 25 % → 40 %`.
fn headline(decision: &v1::Decision) -> String {
    use v1::decision::Action;
    match decision.action() {
        Action::Trip => {
            // An alarm is about the whole flag, a guardrail about one arm.
            let what = if decision.variant.is_empty() { key_of(&decision.flag) } else { &decision.variant };
            format!("trip {what}: {}", decision.reason)
        }
        Action::Promote => format!("promote {}", decision.variant),
        Action::Reallocate | Action::Unspecified => {
            let moves: Vec<String> = arm_names(decision)
                .iter()
                .enumerate()
                .map(|(place, arm)| {
                    let at = |weights: &[u32]| {
                        weights.get(place).map_or_else(|| "-".to_owned(), |w| share_text(*w))
                    };
                    format!("{arm} {} → {}", at(&decision.weights_before), at(&decision.weights_after))
                })
                .collect();
            format!("reallocate {}", moves.join(", "))
        }
    }
}

/// The arms' variants, or their numbers where the record has no inputs.
fn arm_names(decision: &v1::Decision) -> Vec<String> {
    match &decision.inputs {
        Some(inputs) if !inputs.arms.is_empty() => {
            inputs.arms.iter().map(|arm| arm.variant.clone()).collect()
        }
        _ => (0..decision.weights_after.len()).map(|place| format!("arm {place}")).collect(),
    }
}

fn describe(page: &mut Page, decision: &v1::Decision) {
    let number = key_of(&decision.name);
    let (status, tone) = status_of(decision);
    page.line(tone, format!("decision {number} is {status}: {}", headline(decision)));
    let expected = decision.expected_effect.as_ref().map(|effect| match effect.value.parse::<f64>() {
        Ok(relative) => format!("{}, relative, on the primary metric", percent_text(relative)),
        Err(_) => effect.value.clone(),
    });
    let policy = if decision.engine.is_empty() {
        decision.policy.clone()
    } else {
        format!("{}, engine {}, seed {}", decision.policy, decision.engine, decision.seed)
    };
    let moved = match decision.traffic_moved_basis_points {
        0 => String::new(),
        moved => share_text(moved),
    };
    page.facts([
        ("flag", key_of(&decision.flag).to_owned()),
        ("experiment", key_of(&decision.experiment).to_owned()),
        (
            "made",
            format!(
                "{} by {}",
                moment_text(decision.time.as_ref()),
                principal_text(decision.principal.as_ref())
            ),
        ),
        ("policy", policy),
        ("autonomy", super::autonomy::level_text(decision.autonomy()).to_owned()),
        ("reason", decision.reason.clone()),
        ("expected effect", expected.unwrap_or_default()),
        ("traffic moved", moved),
    ]);
    if !decision.narrative.is_empty() {
        page.heading("Why");
        for sentence in &decision.narrative {
            page.line(Tone::Plain, &sentence.text);
        }
    }
    allocation(page, decision);
    numbers(page, "Numbers", &decision.statistics);
    numbers(page, "Thresholds", &decision.thresholds);
    if !decision.bounds.is_empty() {
        page.heading("Bounds that held");
        for bound in &decision.bounds {
            page.line(Tone::Plain, format!("- {bound}"));
        }
    }
    if !decision.alternatives.is_empty() {
        page.heading("Considered and not done");
        let rows = decision
            .alternatives
            .iter()
            .map(|alternative| {
                let weights: Vec<String> = alternative.weights.iter().map(|w| share_text(*w)).collect();
                vec![Cell::new(weights.join(" / ")), Cell::new(&alternative.reason)]
            })
            .collect();
        page.table(&["WEIGHTS", "WHY NOT"], rows, "");
    }
    page.heading("What you can do");
    way_back(page, decision, number);
}

fn allocation(page: &mut Page, decision: &v1::Decision) {
    if decision.weights_after.is_empty() {
        return;
    }
    page.heading("Traffic");
    let at = |weights: &[u32], place: usize| {
        Cell::number(weights.get(place).map_or_else(|| "-".to_owned(), |weight| share_text(*weight)))
    };
    let rows = arm_names(decision)
        .into_iter()
        .enumerate()
        .map(|(place, arm)| {
            vec![
                Cell::new(arm),
                at(&decision.weights_before, place),
                at(&decision.weights_after, place),
                at(&decision.weights_applied, place),
            ]
        })
        .collect();
    page.table(&["ARM", "BEFORE", "DECIDED", "APPLIED"], rows, "");
}

/// Names that end alike and differ in `lower`/`upper` are one interval to a reader.
fn numbers(page: &mut Page, heading: &str, numbers: &[v1::Number]) {
    if numbers.is_empty() {
        return;
    }
    page.heading(heading);
    let value_of =
        |name: &str| numbers.iter().find(|number| number.name == name).map(|number| short(&number.value));
    let mut rows = Vec::new();
    for number in numbers {
        if number.name.contains("upper") && value_of(&number.name.replace("upper", "lower")).is_some() {
            // Shown with its lower end.
            continue;
        }
        match number
            .name
            .contains("lower")
            .then(|| value_of(&number.name.replace("lower", "upper")))
            .flatten()
        {
            Some(upper) => {
                let name = number.name.replace("lower", "interval");
                rows.push(vec![
                    Cell::new(name),
                    Cell::number(format!("[{}, {upper}]", short(&number.value))),
                ]);
            }
            None => rows.push(vec![Cell::new(&number.name), Cell::number(short(&number.value))]),
        }
    }
    page.table(&["NAME", "VALUE"], rows, "");
}

/// Ten digits are for replay, six for reading.
fn short(value: &str) -> String {
    value.parse::<f64>().map_or_else(|_| value.to_owned(), number_text)
}

fn way_back(page: &mut Page, decision: &v1::Decision, number: &str) {
    use v1::decision::Status as S;
    match decision.status() {
        S::Proposed => {
            page.line(Tone::Plain, format!("apply it:     featureops decision approve {number} --note ..."));
            page.line(Tone::Plain, format!("turn it down: featureops decision reject {number} --note ..."));
        }
        S::Applied => {
            let restores = match &decision.inverse {
                Some(inverse) if inverse.resume => "resumes the flag".to_owned(),
                Some(v1::Inverse { default_variant: Some(variant), .. }) => {
                    format!("makes {variant} the default again")
                }
                Some(_) => "restores the allocation and the learner's record before it".to_owned(),
                None => "restores what was before it".to_owned(),
            };
            page.line(
                Tone::Plain,
                format!("revert it:    featureops decision revert {number} --note ...  ({restores})"),
            );
        }
        S::Unspecified | S::Shadow | S::Rejected | S::Reverted | S::Superseded => {
            let by = decision.resolved_by.as_ref().map(|by| {
                format!(
                    ", by {} at {}",
                    principal_text(Some(by)),
                    moment_text(decision.resolve_time.as_ref())
                )
            });
            let (status, _) = status_of(decision);
            page.line(Tone::Plain, format!("nothing: it is {status}{}", by.unwrap_or_default()));
            if !decision.resolve_note.is_empty() {
                page.line(Tone::Plain, format!("note: {}", decision.resolve_note));
            }
        }
    }
    page.line(
        Tone::Plain,
        format!("doubt it:     featureops decision explain {number}; featureops decision replay {number}"),
    );
}

fn explain(page: &mut Page, decision: &v1::Decision) {
    page.line(Tone::Strong, format!("decision {}: {}", key_of(&decision.name), headline(decision)));
    let all: Vec<&v1::Number> =
        decision.statistics.iter().chain(&decision.thresholds).chain(&decision.expected_effect).collect();
    page.heading("Each sentence and its numbers");
    for sentence in &decision.narrative {
        page.line(Tone::Plain, &sentence.text);
        for name in &sentence.numbers {
            let value =
                all.iter().find(|number| &number.name == name).map_or("(not in the record)", |n| &n.value);
            page.line(Tone::Faint, format!("    {name} = {value}"));
        }
    }
    if decision.narrative.is_empty() {
        page.line(Tone::Faint, "no sentences");
    }
    let Some(inputs) = &decision.inputs else { return };
    page.heading("What the policy was shown");
    page.facts([
        ("frozen position", inputs.frozen_position.to_string()),
        ("digest", format!("{:016x}", inputs.digest)),
        ("generation", inputs.generation.to_string()),
        ("planned units", count_text(inputs.planned_units)),
        ("marked units", count_text(inputs.marked_units)),
        ("crossed units", count_text(inputs.crossed_units)),
        ("lost units", count_text(inputs.lost_units)),
        ("control floor", share_text(inputs.control_floor_basis_points)),
        ("new-arm cap", share_text(inputs.new_arm_cap_basis_points)),
    ]);
    for metric in &inputs.metrics {
        page.heading(&format!(
            "{}, {} ({})",
            metric.metric,
            word_of(metric.kind().as_str_name(), "KIND_"),
            word_of(metric.role().as_str_name(), "ROLE_")
        ));
        page.table(&["ARM", "UNITS", "TOTAL", "MEAN"], metric_rows(inputs, metric), "no arms");
    }
}

/// Per arm the units and totals of the current generation's strata.
fn metric_rows(inputs: &v1::DecisionInputs, metric: &v1::MetricInput) -> Vec<Vec<Cell>> {
    let power = |places: u32| 10_f64.powi(i32::try_from(places.min(9)).unwrap_or(0));
    let (scale, below_scale) = (power(metric.decimal_scale), power(metric.denominator_decimal_scale));
    let is_ratio = metric.kind() == v1::metric::Kind::Ratio;
    inputs
        .arms
        .iter()
        .enumerate()
        .map(|(place, arm)| {
            let moments = inputs
                .strata
                .iter()
                .filter(|stratum| stratum.generation == inputs.generation)
                .filter_map(|stratum| stratum.arms.get(place));
            let (mut units, mut total, mut below) = (0_u64, 0.0_f64, 0.0_f64);
            for arm in moments {
                units = units.saturating_add(arm.units);
                let sum = |slot: u32| {
                    let moments = arm.slots.get(slot as usize).and_then(|slot| slot.sum.as_ref());
                    moments.map_or(0.0, |sum| sum.get() as f64)
                };
                total += sum(metric.slot) / scale;
                below += sum(metric.denominator_slot) / below_scale;
            }
            let over = if is_ratio { below } else { units as f64 };
            let mean = if over == 0.0 { f64::NAN } else { total / over };
            vec![
                Cell::new(&arm.variant),
                Cell::number(count_text(units)),
                Cell::number(number_text(total)),
                Cell::number(number_text(mean)),
            ]
        })
        .collect()
}

fn resolved(session: &Session, decision: &v1::Decision, dry_run: bool) -> Result<(), Failure> {
    session.show(decision, |page| {
        let (status, tone) = status_of(decision);
        let is = verb(dry_run, "is", "would be");
        page.line(tone, format!("decision {} {is} {status}: {}", key_of(&decision.name), headline(decision)));
    })
}

async fn replay(session: &Session, number: &str) -> Result<(), Failure> {
    let request = v1::ReplayDecisionRequest { name: session.name(Decisions, number)? };
    let answer = session
        .client
        .read(request, |channel, request| async move {
            DecisionServiceClient::new(channel).replay_decision(request).await
        })
        .await?;
    session.show(&answer, |page| {
        if !answer.unavailable.is_empty() {
            page.line(Tone::Warn, format!("cannot be replayed: {}", answer.unavailable));
        } else if answer.same {
            page.line(Tone::Good, "the same: the recorded inputs give the recorded decision, byte for byte");
        } else {
            page.line(Tone::Bad, "NOT the same: the recorded inputs give another decision today");
        }
        for (label, decision) in [("recorded", &answer.recorded), ("recomputed", &answer.recomputed)] {
            if let Some(decision) = decision {
                page.line(Tone::Plain, format!("{label:<10}  {}", headline(decision)));
            }
        }
    })?;
    match (answer.same, answer.unavailable.is_empty()) {
        (true, true) => Ok(()),
        (_, false) => Err(Failure::new(
            Exit::Refused,
            format!("decision {number} cannot be replayed: {}", answer.unavailable),
        )),
        (false, true) => {
            Err(Failure::new(Exit::Refused, format!("decision {number} does not recompute from its inputs")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision() -> v1::Decision {
        let number = |name: &str, value: &str| v1::Number { name: name.into(), value: value.into() };
        v1::Decision {
            name: "environments/production/decisions/12".into(),
            flag: "checkout".into(),
            experiment: "checkout-test".into(),
            action: v1::decision::Action::Reallocate.into(),
            status: v1::decision::Status::Applied.into(),
            policy: "thompson/1".into(),
            engine: "libm-0.2".into(),
            seed: 7,
            inputs: Some(v1::DecisionInputs {
                arms: ["off", "on"]
                    .map(|variant| v1::ArmInput { variant: variant.into(), established: true })
                    .to_vec(),
                generation: 1,
                metrics: vec![v1::MetricInput {
                    metric: "kept".into(),
                    kind: v1::metric::Kind::Proportion.into(),
                    role: v1::Role::Primary.into(),
                    ..v1::MetricInput::default()
                }],
                strata: vec![v1::Stratum {
                    generation: 1,
                    arms: [(100, 10), (200, 30)]
                        .map(|(units, sum)| v1::ArmMoments {
                            units,
                            slots: vec![v1::SlotMoments {
                                sum: Some(v1::Int128::new(sum)),
                                ..v1::SlotMoments::default()
                            }],
                            ..v1::ArmMoments::default()
                        })
                        .to_vec(),
                    ..v1::Stratum::default()
                }],
                ..v1::DecisionInputs::default()
            }),
            weights_before: vec![7_500, 2_500],
            weights_after: vec![6_000, 4_000],
            weights_applied: vec![6_000, 4_000],
            statistics: vec![
                number("on.lift", "0.05000000000"),
                number("on.lift.lower", "0.01000000000"),
                number("on.lift.upper", "0.09000000000"),
            ],
            alternatives: vec![v1::Alternative {
                weights: vec![7_500, 2_500],
                reason: "keeps losing conversions".into(),
            }],
            narrative: vec![v1::Sentence {
                text: "on converts better than off.".into(),
                numbers: vec!["on.lift".into()],
            }],
            bounds: vec!["control floor 10 %".into()],
            inverse: Some(v1::Inverse::default()),
            traffic_moved_basis_points: 1_500,
            autonomy: v1::AutonomyLevel::A4Bounded.into(),
            ..v1::Decision::default()
        }
    }

    #[test]
    fn a_decision_reads_as_a_page() {
        let mut page = Page::new(false);
        describe(&mut page, &decision());
        let expected = "\
decision 12 is applied: reallocate off 75 % → 60 %, on 25 % → 40 %
flag           checkout
experiment     checkout-test
made           - by -
policy         thompson/1, engine libm-0.2, seed 7
autonomy       A4 bounded
traffic moved  15 %

Why
on converts better than off.

Traffic
ARM  BEFORE  DECIDED  APPLIED
off    75 %     60 %     60 %
on     25 %     40 %     40 %

Numbers
NAME                     VALUE
on.lift                   0.05
on.lift.interval  [0.01, 0.09]

Bounds that held
- control floor 10 %

Considered and not done
WEIGHTS      WHY NOT
75 % / 25 %  keeps losing conversions

What you can do
revert it:    featureops decision revert 12 --note ...  (restores the allocation and the learner's record before it)
doubt it:     featureops decision explain 12; featureops decision replay 12
";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_revert_that_costs_the_level_says_so_and_the_way_back() {
        use v1::AutonomyLevel::{A2Recommend, A4Bounded, Unspecified};
        assert_eq!(flag_of(&decision()), "environments/production/flags/checkout");
        let words = demotion("checkout", A4Bounded, A2Recommend).unwrap();
        assert!(words.contains("from A4 bounded to A2 recommend"), "{words}");
        assert!(words.ends_with("featureops autonomy set checkout --growth A4"), "{words}");
        for (before, after) in
            [(A2Recommend, A2Recommend), (A4Bounded, Unspecified), (Unspecified, A2Recommend)]
        {
            assert_eq!(demotion("checkout", before, after), None);
        }
    }

    #[test]
    fn an_explanation_ties_sentences_to_numbers_and_shows_the_inputs() {
        let mut page = Page::new(false);
        explain(&mut page, &decision());
        let text = page.into_text();
        assert!(text.contains("on converts better than off.\n    on.lift = 0.05000000000\n"), "{text}");
        assert!(
            text.contains("kept, proportion (primary)\nARM  UNITS  TOTAL  MEAN\noff    100     10   0.1\n"),
            "{text}"
        );
        assert!(text.contains("on     200     30  0.15\n"), "{text}");
    }
}
