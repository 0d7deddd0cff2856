//! Bodies of the webhook: an alarm or a message, and an alarm's name is one that the API reads.

#![no_main]

use featureops::webhook::read;
use featureops_proto::{Collection, Name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match read(input) {
    Ok(alarm) => {
        if let Ok(name) = Name::parse(&alarm.name, Collection::Flags) {
            assert_eq!(Name::format(name.environment, Collection::Flags, name.id), alarm.name);
        }
    }
    Err(message) => assert!(message.starts_with("body: ")),
});
