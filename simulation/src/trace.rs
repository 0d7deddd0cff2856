//! The trace: everything the world saw, in order, hashed into one digest.
//!
//! Two runs of one seed must give one digest; that is the test the whole room stands on. Every log event of product code and
//! libraries at level info, every request, answer, fault and checkpoint goes in, each with its simulated microseconds.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber, span};
use xxhash_rust::xxh3::Xxh3Default;

/// Lines kept for a person to read when a seed fails.
const LINES_KEPT: usize = 4_000;

/// Landmarks kept for a picture of the world.
const LANDMARKS_KEPT: usize = 20_000;
/// Kinds of events that are landmarks.
const LANDMARKS: &[&str] = &["fault", "node", "steward", "leader", "panic", "finding"];

/// Where each event is told as it comes.
#[derive(Debug, Default)]
pub enum Echo {
    /// Nowhere.
    #[default]
    Nowhere,
    /// On stderr.
    Stderr,
    /// In a file, one JSON object a line: `at_us`, `kind`, `text`.
    Lines(std::fs::File),
}

/// An event that a picture of the world shows: microseconds, kind, text.
pub type Landmark = (u64, String, String);

struct Kept {
    hasher: Xxh3Default,
    lines: VecDeque<String>,
    landmarks: Vec<Landmark>,
    events: u64,
    echo: Echo,
}

/// The trace of one world. Clones share it.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Kept>>);

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new(echo: Echo) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            hasher: Xxh3Default::new(),
            lines: VecDeque::new(),
            landmarks: Vec::new(),
            events: 0,
            echo,
        })))
    }

    /// Adds one event.
    pub fn note(&self, kind: &str, text: &str) {
        let micros = now_micros();
        let line = format!("{micros} {kind} {text}");
        let mut kept = self.0.lock();
        kept.hasher.update(line.as_bytes());
        kept.hasher.update(b"\n");
        kept.events = kept.events.saturating_add(1);
        match &mut kept.echo {
            Echo::Nowhere => {}
            Echo::Stderr => eprintln!("{line}"),
            Echo::Lines(file) => {
                use std::io::Write as _;
                let event = serde_json::json!({ "at_us": micros, "kind": kind, "text": text });
                if writeln!(file, "{event}").is_err() {
                    // Full, most likely: the world goes on, and whoever compares files sees the end.
                    kept.echo = Echo::Nowhere;
                }
            }
        }
        if LANDMARKS.contains(&kind) && kept.landmarks.len() < LANDMARKS_KEPT {
            kept.landmarks.push((micros, kind.to_owned(), text.to_owned()));
        }
        kept.lines.push_back(line);
        if kept.lines.len() > LINES_KEPT {
            kept.lines.pop_front();
        }
    }

    /// The digest so far, and how many events it covers.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        let kept = self.0.lock();
        (kept.hasher.digest(), kept.events)
    }

    /// The landmarks, oldest first.
    #[must_use]
    pub fn landmarks(&self) -> Vec<Landmark> {
        self.0.lock().landmarks.clone()
    }

    /// The newest lines, oldest first.
    #[must_use]
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let kept = self.0.lock();
        kept.lines.iter().skip(kept.lines.len().saturating_sub(lines)).cloned().collect()
    }
}

/// Simulated microseconds since the world began; 0 outside it.
#[must_use]
pub fn now_micros() -> u64 {
    turmoil::sim_elapsed().map_or(0, |elapsed| u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
}

/// Writes log events into the trace. The only subscriber of the simulator: no exporter, no thread, no wall clock.
pub struct TraceSubscriber {
    trace: Trace,
    level: Level,
}

impl TraceSubscriber {
    /// Events up to `level`.
    #[must_use]
    pub fn new(trace: Trace, level: Level) -> Self {
        Self { trace, level }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for TraceSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        self.trace.note("log", &format!("{} {}{}", metadata.level(), metadata.target(), text.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_every_event_and_its_order() {
        let digest = |notes: &[&str]| {
            let trace = Trace::new(Echo::Nowhere);
            for note in notes {
                trace.note("test", note);
            }
            trace.digest().0
        };
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["b", "a"]));
        assert_ne!(digest(&["a", "b"]), digest(&["a"]));
    }
}
