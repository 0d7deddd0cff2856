//! Entity tags as OFREP's clients send them back: a listed tag is found in any form, and no header ends the process.

#![no_main]

use axum::http::{HeaderMap, HeaderValue, header};
use featureops::fronts::ofrep::has;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(sent) = HeaderValue::from_bytes(input) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_NONE_MATCH, sent);
    let found = has(&headers, "\"f3a9\"");
    headers.append(header::IF_NONE_MATCH, HeaderValue::from_static("W/\"f3a9\""));
    assert!(has(&headers, "\"f3a9\""));
    if found {
        assert!(input.contains(&b'*') || input.windows(4).any(|part| part == b"f3a9"));
    }
});
