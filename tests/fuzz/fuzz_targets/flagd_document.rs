//! Flagd documents: refused, or taken in; and what was taken in comes out and is taken in again as the same.

#![no_main]

use featureops_evaluation::flagd::{export, export_for_sync, import};
use featureops_proto::v1::Environment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(imported) = import(text, "production", &Environment::default()) else { return };
    let _ = export_for_sync(&imported.flags, &imported.environment);
    let document = export(&imported.flags, &imported.environment).to_string();
    let again = import(&document, "production", &imported.environment);
    assert_eq!(again.map(|again| again.flags), Ok(imported.flags));
});
