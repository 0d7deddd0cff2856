//! Whatever bytes a log or a snapshot holds, the fold answers: a reply, a violation, or why it cannot be read.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod driver;

use std::path::Path;
use std::sync::LazyLock;

use driver::Driver;
use featureops_proto::log::{Batch, ExposureFact, OutcomeFact};
use featureops_state::{Command, Section, State};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// A state in the middle of its life, and entries that mean something to it.
struct Lived {
    state: State,
    entries: Vec<Vec<u8>>,
}

static LIVED: LazyLock<Lived> = LazyLock::new(|| {
    let mut driver = Driver::new();
    let experiment = driver.running();
    let metric = driver.metric("revenue");
    for sequence in 1..=20 {
        let (minute, unit_hash) = (driver.minute(), sequence << 20);
        let exposure = ExposureFact {
            experiment,
            arm: sequence as u32 % 2,
            unit_hash,
            minute,
            ..ExposureFact::default()
        };
        let outcome =
            OutcomeFact { index: 1, metric, unit_hash, value: 1_999, minute, ..OutcomeFact::default() };
        let batch =
            Batch { exposures: vec![exposure], outcomes: vec![outcome], ..driver::batch("shop", sequence) };
        driver.ingest(vec![batch]);
        driver.tick(60_000);
    }
    let (stamp, decision) = driver.reallocation(experiment, &[4_000, 6_000]);
    driver.submit(stamp, decision);
    assert!(driver.state.sections().len() > 12, "the ledger is empty: the test reaches too little");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/golden");
    let files = std::fs::read_dir(golden).unwrap().map(|file| file.unwrap().path());
    // Folders hold what is no entry.
    let files = files.filter(|path| path.is_file());
    let mut entries: Vec<Vec<u8>> = files.map(|path| std::fs::read(path).unwrap()).collect();
    entries.sort();
    entries.extend(driver.log.iter().cloned());
    Lived { state: driver.state, entries }
});

/// Applies entries one after another, as a log would, until the fold stops.
fn applied<'a>(state: &State, entries: impl IntoIterator<Item = &'a [u8]>) {
    let mut state = state.clone();
    let mut effects = Vec::new();
    for entry in entries {
        let _ = Command::decode(entry);
        if state.apply(state.position() + 1, entry, &mut effects).is_err() {
            break;
        }
    }
    // What became of it can be written and is read back as the same.
    let back = State::from_sections(&state.sections()).unwrap();
    assert_eq!(back.digest(), state.digest());
}

fn changed(good: &[u8], changes: &[(Index, u8)], cut: Index) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for (at, byte) in changes {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
    }
    bytes.truncate(cut.index(bytes.len() * 4 + 1));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(entry in vec(any::<u8>(), 0..200), name in any::<Index>(), empty: bool) {
        let state = if empty { State::new() } else { LIVED.state.clone() };
        applied(&state, [entry.as_slice()]);
        let mut sections = LIVED.state.sections();
        let which = name.index(sections.len());
        sections[which].bytes = entry.clone();
        let _ = State::from_sections(&sections);
        let _ = State::from_sections(&[Section { name: "header".to_owned(), bytes: entry }]);
    }

    #[test]
    fn good_entries_gone_bad_never_panic(
        picks in vec((any::<Index>(), vec((any::<Index>(), any::<u8>()), 0..4), any::<Index>()), 1..12),
        empty: bool,
    ) {
        let state = if empty { State::new() } else { LIVED.state.clone() };
        let good = LIVED.entries.as_slice();
        let entries: Vec<Vec<u8>> =
            picks.iter().map(|(which, changes, cut)| changed(&good[which.index(good.len())], changes, *cut)).collect();
        applied(&state, entries.iter().map(Vec::as_slice));
    }

    #[test]
    fn good_sections_gone_bad_never_panic(
        which in any::<Index>(),
        changes in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in any::<Index>(),
    ) {
        let mut sections = LIVED.state.sections();
        let which = which.index(sections.len());
        sections[which].bytes = changed(&sections[which].bytes, &changes, cut);
        // What is accepted can be written, and goes on.
        if let Ok(mut state) = State::from_sections(&sections) {
            let _ = State::from_sections(&state.sections());
            for entry in &LIVED.entries {
                let position = state.position().saturating_add(1);
                let _ = state.apply(position, entry, &mut Vec::new());
            }
        }
    }
}
