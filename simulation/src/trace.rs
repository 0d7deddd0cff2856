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

struct Kept {
    hasher: Xxh3Default,
    lines: VecDeque<String>,
    events: u64,
    echo: bool,
}

/// The trace of one world. Clones share it.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Kept>>);

impl Trace {
    /// An empty trace; with `echo` each line is also written to stderr as it comes.
    #[must_use]
    pub fn new(echo: bool) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            hasher: Xxh3Default::new(),
            lines: VecDeque::new(),
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
        if kept.echo {
            eprintln!("{line}");
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
            let trace = Trace::new(false);
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
