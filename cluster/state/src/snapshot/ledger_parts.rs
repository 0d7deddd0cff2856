//! Series, samples and erasures at rest, each in sections of its own that are left out while there is nothing in them: a state
//! that uses none has the bytes it always had.

use featureops_proto::log::{ErasuresRecord, SampleRecord, SampledRecord, SeriesRecord};

use super::{Section, SnapshotError, error, records, section};
use crate::State;

/// The one section of erasures.
const ERASURES: &str = "erasures";

/// The number in a section's name, and how many parts the name has.
fn numbered(name: &str) -> Option<(u32, usize)> {
    let mut parts = name.split('/');
    let number = parts.nth(1)?.parse().ok()?;
    Some((number, 2 + parts.count()))
}

impl State {
    /// The sections, in any order.
    pub(super) fn ledger_parts(&self, sections: &mut Vec<Section>) {
        for (number, ledger) in &self.ledgers {
            let series = ledger.series.records();
            if !series.is_empty() {
                sections.push(section(&format!("series/{number:010}"), series.iter()));
            }
            if let Some(sample) = ledger.sample.record() {
                sections.push(section(&format!("sample/{number:010}"), [&sample]));
                for (at, units) in ledger.sample.parts() {
                    sections.push(section(&format!("sample/{number:010}/{at:02}"), units.iter()));
                }
            }
        }
        if self.erasures.count > 0 {
            sections.push(section(ERASURES, [&self.erasures]));
        }
    }

    /// After the ledgers. A sample's head sorts before its parts.
    pub(super) fn restore_ledger_parts(&mut self, sections: &[Section]) -> Result<(), SnapshotError> {
        for section in sections {
            let kind = section.name.split('/').next().unwrap_or_default();
            if section.name == ERASURES {
                self.erasures =
                    records::<ErasuresRecord>(section)?.pop().ok_or_else(|| error(ERASURES, "empty"))?;
            }
            if !matches!(kind, "series" | "sample") {
                continue;
            }
            let bad = |why: &str| error(&section.name, why);
            let (number, parts) = numbered(&section.name).ok_or_else(|| bad("names no experiment"))?;
            let ledger = self.ledgers.get_mut(&number).ok_or_else(|| bad("no such ledger"))?;
            let contradicts = || bad("contradicts its experiment");
            match (kind, parts) {
                ("series", _) => {
                    for record in records::<SeriesRecord>(section)? {
                        ledger.series.restore(&record).ok_or_else(contradicts)?;
                    }
                }
                (_, 2) => {
                    for record in records::<SampleRecord>(section)? {
                        ledger.sample.restore(record).ok_or_else(contradicts)?;
                    }
                }
                _ => {
                    for record in records::<SampledRecord>(section)? {
                        ledger.sample.restore_unit(&record).ok_or_else(contradicts)?;
                    }
                }
            }
        }
        Ok(())
    }
}
