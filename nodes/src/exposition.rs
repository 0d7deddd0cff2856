//! `/metrics`: what the node counts, in Prometheus text.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use featureops_proto::unix_ms;
use featureops_proto::v1::{Decision, decision};
use featureops_state::State;

use crate::doctor;
use crate::host::Host;

/// Newest decisions that are counted.
const DECISIONS_COUNTED_MAX: usize = 10_000;

/// The node in Prometheus text. Labels come from fixed lists only.
#[must_use]
pub fn exposition(host: &Host) -> String {
    let mut text = Exposition::default();
    let (observation, health) = (&host.observation, host.replica.health());
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    text.labelled(
        "evaluations_total",
        "counter",
        "evaluations by reason",
        "reason",
        observation.evaluations(),
    );
    text.labelled("facts_total", "counter", "events by verdict", "verdict", observation.facts());
    text.labelled("proposals_total", "counter", "commands by outcome", "outcome", observation.proposals());
    let implied = &observation.exposures_implied;
    text.value("exposures_implied_total", "counter", "exposures implied by evaluations", read(implied));
    let lost = &observation.exposures_lost;
    text.value("exposures_lost_total", "counter", "implied exposures that were lost", read(lost));
    let unusable = &observation.covariates_unusable;
    let what = "values of covariates that are no numbers that can be kept";
    text.value("covariates_unusable_total", "counter", what, read(unusable));
    text.value(
        "exposures_waiting",
        "gauge",
        "implied exposures waiting for the log",
        host.exposures.waiting(),
    );
    text.value("request_bytes_in_flight", "gauge", "bytes that requests in flight hold", host.budget.held());
    text.value("connections", "gauge", "connections served now", read(&observation.connections));
    let turned_away = read(&observation.turned_away);
    text.value("turned_away_total", "counter", "requests that no token let in, or too many", turned_away);
    text.value("connections_total", "counter", "connections taken", read(&observation.connections_taken));
    text.value("applied_position", "gauge", "position of the last applied entry", health.applied);
    text.value("log_last_index", "gauge", "index of the last log entry", health.last_log.unwrap_or_default());
    text.value("raft_term", "gauge", "term of the log", health.term);
    text.value("raft_leads", "gauge", "1 while this node leads", u8::from(health.leads));
    text.value("fold_halted", "gauge", "1 when the fold stopped", u8::from(health.halted.is_some()));
    let log_time_ms = host.replica.read(State::log_time_ms);
    let lag_ms = host.clock.unix_ms().saturating_sub(log_time_ms).max(0);
    text.value("log_time_lag_milliseconds", "gauge", "age of log time by this node's clock", lag_ms);
    let publisher = &host.publisher;
    text.value(
        "published_position",
        "gauge",
        "position evaluations rest on",
        publisher.load().snapshot.position(),
    );
    text.value(
        "publish_lag_milliseconds",
        "gauge",
        "from applied to published, last time",
        publisher.lag_ms(),
    );
    text.value("publications_total", "counter", "snapshots published", publisher.publications());
    let running = publisher.load().registry.running();
    text.value("experiments_running", "gauge", "running experiments", running);
    text.value("owners_running", "gauge", "owners that run on this node", host.owners.running());
    let mut decisions = BTreeMap::new();
    let mut longest_ms = 0;
    let mut count = |decision: &Decision| {
        let key = (decision.action().as_str_name(), decision.status().as_str_name());
        *decisions.entry(key).or_insert(0u64) += 1;
        if decision.action() == decision::Action::Reallocate
            && decision.status() == decision::Status::Applied
            && let (Some(time), Some(inputs)) = (&decision.time, &decision.inputs)
        {
            longest_ms = longest_ms.max(unix_ms(time).saturating_sub(inputs.log_time_ms));
        }
    };
    host.replica.read(|state| state.newest_decisions(DECISIONS_COUNTED_MAX).for_each(&mut count));
    let decisions = decisions.iter().map(|((action, status), count)| (*action, *status, *count));
    let labels = ("action", "status");
    text.labelled_twice("decisions", "gauge", "kept decisions by action and status", labels, decisions);
    text.value(
        "reallocation_lag_milliseconds",
        "gauge",
        "log time from inputs to reallocation, longest kept",
        longest_ms,
    );
    if host.observe_process {
        text.value("process_resident_bytes", "gauge", "memory the process holds", doctor::resident_bytes());
    }
    text.text()
}

/// Prometheus text, one family at a time.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    /// A family with one unlabelled value.
    fn value(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.push(format_args!("featureops_{name} {value}\n"));
    }

    /// A family with one label.
    fn labelled<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.head(name, kind, help);
        for (of, value) in values {
            self.push(format_args!("featureops_{name}{{{label}=\"{of}\"}} {value}\n"));
        }
    }

    /// A family with two labels.
    fn labelled_twice<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        labels: (&str, &str),
        values: impl IntoIterator<Item = (&'a str, &'a str, u64)>,
    ) {
        self.head(name, kind, help);
        for (first, second, value) in values {
            let (one, two) = labels;
            self.push(format_args!("featureops_{name}{{{one}=\"{first}\",{two}=\"{second}\"}} {value}\n"));
        }
    }

    /// The text.
    fn text(self) -> String {
        self.0
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP featureops_{name} {help}\n# TYPE featureops_{name} {kind}\n"));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut self.0, text);
    }
}

#[cfg(test)]
mod tests {
    use featureops_proto::v1::{Reason, Verdict};

    use super::*;
    use crate::observation::{Observation, Proposed};

    #[test]
    fn counts_are_shown_by_the_names_of_the_api() {
        let observation = Observation::default();
        observation.evaluated(Reason::Split);
        observation.judged(Verdict::Oversized.into(), 3);
        observation.judged(9_999, 1);
        observation.proposed(Proposed::Unknown);
        let mut text = Exposition::default();
        text.labelled("evaluations_total", "counter", "evaluations", "reason", observation.evaluations());
        text.labelled("facts_total", "counter", "events", "verdict", observation.facts());
        text.labelled("proposals_total", "counter", "commands", "outcome", observation.proposals());
        let text = text.text();
        for line in [
            "# TYPE featureops_evaluations_total counter",
            "featureops_evaluations_total{reason=\"SPLIT\"} 1",
            "featureops_facts_total{verdict=\"OVERSIZED\"} 3",
            "featureops_facts_total{verdict=\"VERDICT_UNSPECIFIED\"} 1",
            "featureops_proposals_total{outcome=\"unknown\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
