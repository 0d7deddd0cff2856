//! Selectors of flagd's clients: what is read is written so that it is read again.

#![no_main]

use featureops::fronts::selector::Selector;
use libfuzzer_sys::fuzz_target;

/// Writing names the key of a bare source.
const LONGER_BY: usize = "source=".len();

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(selector) = Selector::parse(text)
        && text.len() + LONGER_BY <= 1_024
    {
        assert_eq!(Selector::parse(&selector.text()), Ok(selector));
    }
});
