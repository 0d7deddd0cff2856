//! Log entries: a command or a reason, and the fold takes it. The input is entries, each with one byte of length before it.

#![no_main]

use featureops_state::{Command, State};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = Command::decode(input);
    let mut state = State::new();
    let _ = state.apply(1, input, &mut Vec::new());

    let mut state = State::new();
    let mut rest = input;
    while let Some((length, after)) = rest.split_first() {
        let (entry, after) = after.split_at(after.len().min(usize::from(*length)));
        if state.apply(state.position() + 1, entry, &mut Vec::new()).is_err() {
            break;
        }
        rest = after;
    }
    // What became of it can be written and is read back as the same.
    let back = State::from_sections(&state.sections());
    assert_eq!(back.map(|back| back.digest()), Ok(state.digest()));
});
