//! Bodies of OFREP: whatever JSON becomes a context is written again to the same context.

#![no_main]

use featureops::fronts::json::Object;
use featureops::fronts::ofrep::context;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(Some(read)) = context(input) else { return };
    let text = serde_json::to_string(&Object(Some(&read))).unwrap_or_default();
    let again = context(format!("{{\"context\":{text}}}").as_bytes());
    // Two levels deeper than it was read at, so one at the bound of the depth is refused.
    if let Ok(again) = again {
        assert_eq!(again, Some(read));
    }
});
