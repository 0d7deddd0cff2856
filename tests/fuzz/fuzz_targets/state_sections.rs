//! A snapshot of the state: as one run of bytes, and as one damaged section of a good one.

#![no_main]

use featureops_cluster::Fold;
use featureops_state::State;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = <State as Fold>::decode(input);
    let _ = <State as Fold>::decode(&[b"fostate1", input].concat());

    let Some((which, bytes)) = input.split_first() else { return };
    let mut sections = State::new().sections();
    let which = usize::from(*which) % sections.len();
    sections[which].bytes = bytes.to_vec();
    let _ = State::from_sections(&sections);
});
