//! Sends batches with a bounded window, repeats an unanswered one under its own name, and sums up what became of the events.

use std::collections::BTreeMap;
use std::time::Duration;

use featureops_proto::v1;
use tokio::task::JoinSet;

use super::MAX_SHOWN;
use super::batch::Batch;
use crate::cli::client::{Client, Intent};
use crate::cli::failure::Failure;
use crate::cli::page::{Cell, Page, Tone};
use crate::cli::render::count_text;
use crate::cli::session::{Session, progress};
use crate::rpc::fact_service_client::FactServiceClient;

/// Batches in flight: far below the window of 4,096 the server remembers, enough to fill a round trip.
const WINDOW: usize = 8;
/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What became of the events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub events: u64,
    pub batches: u64,
    /// Events by verdict, COUNTED among them.
    pub verdicts: BTreeMap<String, u64>,
    /// Batches the server had answered before: their verdicts are those of the first time.
    pub repeated_batches: u64,
    /// The first refusals, by line.
    pub shown: Vec<String>,
}

/// Verdicts that leave nothing for the sender to correct.
const fn is_fine(verdict: v1::Verdict) -> bool {
    matches!(
        verdict,
        v1::Verdict::Counted
            | v1::Verdict::Waiting
            | v1::Verdict::Repeated
            | v1::Verdict::Duplicate
            | v1::Verdict::Forced
    )
}

/// What a verdict means, for the people whose event it was.
const fn meaning(verdict: v1::Verdict) -> &'static str {
    match verdict {
        v1::Verdict::Unspecified => "",
        v1::Verdict::Counted => "counted",
        v1::Verdict::Waiting => "no exposure yet: held for 60 s, counted if one comes",
        v1::Verdict::Unused => "no running experiment uses the metric",
        v1::Verdict::Repeated => "the unit was already recorded in this arm",
        v1::Verdict::Duplicate => "the batch was answered before",
        v1::Verdict::Late => "event time is before the late limit",
        v1::Verdict::Early => "event time is more than 5 minutes ahead of the cluster's",
        v1::Verdict::BeforeExposure => "event time is before the unit's exposure",
        v1::Verdict::OutsideWindow => "event time is after the attribution window",
        v1::Verdict::UnknownMetric => "no such metric; create it with: featureops metric set",
        v1::Verdict::UnknownExperiment => "no such experiment",
        v1::Verdict::UnknownVariant => "the experiment has no such arm",
        v1::Verdict::NonFinite => "the value is not a finite number",
        v1::Verdict::OutOfScale => "the value is too large for the metric's decimal places",
        v1::Verdict::Oversized => "a key or attribute is too long",
        v1::Verdict::SumOverflow => "the unit's sum would be too large",
        v1::Verdict::CrossedTwice => "the unit has changed arms more than once",
        v1::Verdict::BadReceipt => "the receipt's tag is wrong",
        v1::Verdict::ExpiredReceipt => "the receipt's generation closed too long ago",
        v1::Verdict::NoRoom => "the experiment's budget is full",
        v1::Verdict::Forced => "assigned by force: left out of analysis",
        v1::Verdict::NotRunning => "the experiment is not running",
        v1::Verdict::NoExposure => "held for 60 s and no exposure came",
        v1::Verdict::MissingUnit => "the unit is empty",
        v1::Verdict::Thinned => {
            "a budget was full: the unit is in the part that the experiment no longer counts"
        }
        v1::Verdict::WaitingFull => "too many newer events wait for exposures",
    }
}

impl Summary {
    /// Events that were not counted and should have been.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let refused = |name: &str| !v1::Verdict::from_str_name(name).is_some_and(is_fine);
        self.verdicts.iter().filter(|(name, _)| refused(name)).map(|(_, count)| count).sum()
    }

    fn add(&mut self, verdict: v1::Verdict, count: u64) {
        if count > 0 {
            *self.verdicts.entry(verdict.as_str_name().to_owned()).or_default() += count;
        }
    }

    /// Adds a batch's answer. `line` says where an event came from.
    pub fn take(
        &mut self,
        batch: usize,
        answer: &v1::ReportFactsResponse,
        line: impl Fn(usize) -> Option<u64>,
    ) {
        self.batches += 1;
        self.events += batch as u64;
        if answer.duplicate {
            self.repeated_batches += 1;
        }
        // Answered so long ago that only the fact is remembered.
        if answer.duplicate && answer.counted == 0 && answer.verdicts.is_empty() {
            self.add(v1::Verdict::Duplicate, batch as u64);
        }
        self.add(v1::Verdict::Counted, u64::from(answer.counted));
        for event in &answer.verdicts {
            let verdict = event.verdict();
            self.add(verdict, 1);
            if !is_fine(verdict) && self.shown.len() < MAX_SHOWN {
                let place =
                    line(event.index as usize).map_or_else(String::new, |line| format!("line {line}: "));
                let detail = if event.detail.is_empty() { meaning(verdict) } else { &event.detail };
                self.shown.push(format!("{place}{}: {detail}", verdict.as_str_name()));
            }
        }
    }

    pub fn describe(&self, page: &mut Page) {
        page.line(
            Tone::Strong,
            format!("{} events in {} batches", count_text(self.events), count_text(self.batches)),
        );
        let rows = self
            .verdicts
            .iter()
            .map(|(name, count)| {
                let verdict = v1::Verdict::from_str_name(name).unwrap_or_default();
                let tone = if is_fine(verdict) { Tone::Good } else { Tone::Bad };
                vec![
                    Cell::new(name.to_lowercase()).tone(tone),
                    Cell::number(count_text(*count)),
                    Cell::new(meaning(verdict)),
                ]
            })
            .collect();
        page.table(&["VERDICT", "EVENTS", "MEANING"], rows, "");
        if self.repeated_batches > 0 {
            page.line(
                Tone::Plain,
                format!(
                    "{} batches had been answered before; nothing was counted twice",
                    count_text(self.repeated_batches)
                ),
            );
        }
        for line in &self.shown {
            page.line(Tone::Warn, line);
        }
    }

    /// As JSON. Not an API message: several answers were added up.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "events": self.events,
            "batches": self.batches,
            "verdicts": self.verdicts,
            "repeatedBatches": self.repeated_batches,
            "refused": self.refused(),
        })
    }
}

/// Sends the batches in order with at most [`WINDOW`] unanswered. `lines` are the events' lines in the file.
///
/// # Errors
/// The first batch refused as a whole, or unanswered after all retries; what was answered until then is in `summary`.
pub async fn send(
    session: &Session,
    batches: Vec<Batch>,
    lines: &[u64],
    summary: &mut Summary,
) -> Result<(), Failure> {
    let total: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
    let mut waiting = batches.into_iter();
    let mut flying: JoinSet<(usize, usize, Result<v1::ReportFactsResponse, Failure>)> = JoinSet::new();
    let before = summary.events;
    let mut last_progress = tokio::time::Instant::now();
    loop {
        while flying.len() < WINDOW
            && let Some(batch) = waiting.next()
        {
            let client = session.client.clone();
            flying.spawn(async move { (batch.first, batch.len(), report(&client, batch).await) });
        }
        let Some(landed) = flying.join_next().await else { return Ok(()) };
        let (first, size, answer) =
            landed.map_err(|error| Failure::internal(format!("a sending task ended early: {error}")))?;
        // On failure the others in flight are dropped: their fate is unknown, and repeating the command is safe.
        let answer = answer.map_err(|failure| {
            failure
                .note(format!(
                    "{} of {} events were answered before this",
                    count_text(summary.events.saturating_sub(before)),
                    count_text(total)
                ))
                .note("repeat the same command: what was counted is not counted again")
        })?;
        summary.take(size, &answer, |index| lines.get(first.saturating_add(index)).copied());
        if last_progress.elapsed() >= PROGRESS_EVERY {
            last_progress = tokio::time::Instant::now();
            let answered = count_text(summary.events.saturating_sub(before));
            progress(&format!("{answered} of {} events", count_text(total)));
        }
    }
}

/// One batch, repeated under the same name until answered.
async fn report(client: &Client, batch: Batch) -> Result<v1::ReportFactsResponse, Failure> {
    let facts = batch.facts;
    let intent = Intent::Write { repeat_with: "" };
    if facts.outcomes.is_empty() {
        let request = v1::ReportExposuresRequest {
            environment: facts.environment,
            producer: facts.producer,
            sequence: facts.sequence,
            exposures: facts.exposures,
        };
        return client
            .call(intent, request, |channel, request| async move {
                FactServiceClient::new(channel).report_exposures(request).await
            })
            .await;
    }
    let request = v1::ReportOutcomesRequest {
        environment: facts.environment,
        producer: facts.producer,
        sequence: facts.sequence,
        outcomes: facts.outcomes,
    };
    client
        .call(intent, request, |channel, request| async move {
            FactServiceClient::new(channel).report_outcomes(request).await
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_add_up_and_refusals_name_their_line() {
        let mut summary = Summary::default();
        let answer = v1::ReportFactsResponse {
            counted: 7,
            verdicts: [(1, v1::Verdict::Repeated), (2, v1::Verdict::UnknownMetric)]
                .map(|(index, verdict)| v1::EventVerdict {
                    index,
                    verdict: verdict.into(),
                    detail: String::new(),
                })
                .to_vec(),
            ..v1::ReportFactsResponse::default()
        };
        summary.take(9, &answer, |index| Some(index as u64 + 100));
        summary.take(5, &v1::ReportFactsResponse { duplicate: true, ..Default::default() }, |_| None);
        assert_eq!((summary.events, summary.refused(), summary.repeated_batches), (14, 1, 1));
        assert_eq!(summary.verdicts.get("DUPLICATE"), Some(&5));
        assert_eq!(summary.shown.len(), 1);
        assert!(
            summary.shown[0].starts_with("line 102: UNKNOWN_METRIC: no such metric"),
            "{:?}",
            summary.shown
        );
        let mut page = Page::new(false);
        summary.describe(&mut page);
        let text = page.into_text();
        assert!(text.starts_with("14 events in 2 batches\n"), "{text}");
        assert!(text.contains("unknown_metric       1  no such metric"), "{text}");
    }
}
