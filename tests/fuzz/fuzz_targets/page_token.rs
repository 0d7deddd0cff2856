//! Page tokens: one that is taken is the one that the page before gave.

#![no_main]

use featureops::page::Page;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let scope = ["flags", "p", "live"];
    let Ok(first) = Page::of(10, "", &scope) else { return };
    if let Ok(key) = std::str::from_utf8(input) {
        let token = first.token(key);
        if let Ok(page) = Page::of(10, &token, &scope) {
            assert_eq!(page.after, key);
        }
        if let Ok(page) = Page::of(10, key, &scope) {
            assert!(key.is_empty() || page.token(&page.after).eq_ignore_ascii_case(key));
            let _ = page.before();
        }
        assert!(key.is_empty() || Page::of(10, &token, &["flags", "q", "live"]).is_err());
    }
});
