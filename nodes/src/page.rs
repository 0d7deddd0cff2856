//! Pages of a list: bounded in entries and in bytes, and an opaque token.
//!
//! Entries are read a few at a time, so that what is read and not shown is bounded too.
//!
//! A token holds the last key of the page before and a hash of what was listed (collection, parent, filter), so that a
//! token of another list, or one that was made up, is refused and never silently answers something else.

use prost::Message;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use crate::refusal;

/// Entries of a page when the caller names no size.
pub const SIZE_DEFAULT: usize = 100;
/// Most entries of a page; a larger wish is cut to it.
pub const SIZE_MAX: usize = 1_000;
/// Encoded bytes after which a page ends. An entry alone may be larger: then it is the page.
pub const BYTES_MAX: usize = 1 << 20;
/// Entries that are read at once.
const STEP: usize = 16;
/// Longest token, in characters.
const TOKEN_CHARACTERS_MAX: usize = 1_024;

/// Where a page begins and how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Last key of the page before; empty at the beginning.
    pub after: String,
    /// Most entries.
    pub size: usize,
    scope: u64,
}

impl Page {
    /// The page a request asks for; `scope` names all that the list depends on.
    ///
    /// # Errors
    /// The size is negative or the token is not of this list.
    pub fn of(size: i32, token: &str, scope: &[&str]) -> Result<Self, Status> {
        let size = match usize::try_from(size) {
            Ok(0) => SIZE_DEFAULT,
            Ok(size) => size.min(SIZE_MAX),
            Err(_) => return Err(refusal::invalid("page_size", size, "must be 0 to 1,000; 0 means 100")),
        };
        let scope = xxh3_64(scope.join("\u{0}").as_bytes());
        if token.is_empty() {
            return Ok(Self { after: String::new(), size, scope });
        }
        let bad = || {
            refusal::invalid(
                "page_token",
                token,
                "is not a token of this list; take next_page_token as it was given",
            )
        };
        if token.len() > TOKEN_CHARACTERS_MAX {
            return Err(bad());
        }
        let bytes = from_hex(token).ok_or_else(bad)?;
        let (head, key) = bytes.split_at_checked(8).ok_or_else(bad)?;
        if head != scope.to_be_bytes() {
            return Err(bad());
        }
        let after = String::from_utf8(key.to_vec()).map_err(|_| bad())?;
        Ok(Self { after, size, scope })
    }

    /// The place of a numbered list; 0 at the beginning.
    ///
    /// # Errors
    /// The token is of this list and yet holds no number.
    pub fn before(&self) -> Result<u64, Status> {
        if self.after.is_empty() {
            return Ok(0);
        }
        self.after
            .parse()
            .map_err(|_| refusal::invalid("page_token", &self.after, "does not name a place in this list"))
    }

    /// Reads the page and makes the token of the next one. `read` gives so many entries after a key, or fewer at the end.
    pub fn read<T: Message>(
        &self,
        mut read: impl FnMut(&str, usize) -> Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> (Vec<T>, String) {
        let (mut after, mut left) = (self.after.clone(), usize::MAX);
        let steps = std::iter::from_fn(|| {
            let step = (left >= STEP).then(|| read(&after, STEP))?;
            left = step.len();
            after = step.last().map(&key).unwrap_or_default();
            Some(step)
        });
        self.cut(steps.flatten(), &key)
    }

    /// Cuts a list to the page and makes the token of the next one.
    pub fn cut<T: Message>(
        &self,
        entries: impl Iterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> (Vec<T>, String) {
        let (mut shown, mut bytes) = (Vec::new(), 0_usize);
        for entry in entries {
            bytes = bytes.saturating_add(entry.encoded_len());
            if shown.len() >= self.size || (bytes > BYTES_MAX && !shown.is_empty()) {
                let token = shown.last().map(|last| self.token(&key(last))).unwrap_or_default();
                return (shown, token);
            }
            shown.push(entry);
        }
        (shown, String::new())
    }

    /// The token of the page behind `key`.
    #[must_use]
    pub fn token(&self, key: &str) -> String {
        self.scope.to_be_bytes().iter().chain(key.as_bytes()).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    // Not left to the number's parser: that takes a sign for a digit.
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_walked_page_by_page_to_its_end() {
        let all: Vec<String> = (0..STEP + 3).map(|n| format!("{n:03}")).collect();
        for size in [1, 2, 5, 16, 17, 18, 19, 20, 1_000] {
            assert_eq!(walked(&all, size).concat(), all, "{size}");
        }
        assert_eq!(walked(&[], 5), [[""; 0]]);
        // Bytes end a page too; what alone is too large is a page.
        let large = |length: usize| "x".repeat(length);
        let all = [large(9), large(BYTES_MAX - 99), large(BYTES_MAX + 9), large(BYTES_MAX / 2), large(3)];
        let all: Vec<String> = all.iter().enumerate().map(|(n, text)| format!("{n}{text}")).collect();
        let pages = walked(&all, 100);
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2]);
        assert_eq!(pages.concat(), all);
    }

    /// All pages of a list by the entries' first characters.
    fn walked(all: &[String], size: i32) -> Vec<Vec<String>> {
        let key = |entry: &String| entry.chars().take(3).collect::<String>();
        let (mut token, mut pages) = (String::new(), Vec::new());
        loop {
            let page = Page::of(size, &token, &["flags", "environments/p"]).unwrap();
            let read = |after: &str, limit: usize| {
                all.iter().filter(|entry| key(entry).as_str() > after).take(limit).cloned().collect()
            };
            let (shown, next) = page.read(read, key);
            pages.push(shown);
            if next.is_empty() {
                return pages;
            }
            token = next;
        }
    }

    #[test]
    fn a_token_of_another_list_or_of_nobody_is_refused() {
        let page = Page::of(1, "", &["flags", "environments/p"]).unwrap();
        let (_, token) = page.cut(["a", "b"].map(str::to_owned).into_iter(), String::clone);
        assert!(Page::of(1, &token, &["flags", "environments/p"]).is_ok());
        for (token, parent) in [
            (token.as_str(), "environments/q"),
            ("zz", "environments/p"),
            ("é", "environments/p"),
            ("00", "environments/p"),
        ] {
            assert_eq!(
                Page::of(1, token, &["flags", parent]).unwrap_err().code(),
                tonic::Code::InvalidArgument
            );
        }
        assert!(Page::of(1, &"0".repeat(100_000), &[]).is_err());
        assert!(Page::of(-1, "", &[]).is_err());
        assert_eq!(Page::of(1_000_000, "", &[]).unwrap().size, SIZE_MAX);
    }
}
