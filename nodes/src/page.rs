//! Pages of a list: a bounded size and an opaque token.
//!
//! A token holds the last key of the page before and a hash of what was listed (collection, parent, filter), so that a
//! token of another list, or one that was made up, is refused and never silently answers something else.

use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use crate::refusal;

/// Entries of a page when the caller names no size.
pub const SIZE_DEFAULT: usize = 100;
/// Most entries of a page; a larger wish is cut to it.
pub const SIZE_MAX: usize = 1_000;
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

    /// How many to read: one more than is shown, to see whether a further page is there.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.size.saturating_add(1)
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

    /// Cuts what was read to the page and makes the token of the next one.
    #[must_use]
    pub fn cut<T>(&self, mut entries: Vec<T>, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
        if entries.len() <= self.size {
            return (entries, String::new());
        }
        entries.truncate(self.size);
        let token = entries.last().map(|last| self.token(&key(last))).unwrap_or_default();
        (entries, token)
    }

    fn token(&self, key: &str) -> String {
        self.scope.to_be_bytes().iter().chain(key.as_bytes()).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
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
        let all = ["a", "b", "c", "d", "e"];
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let page = Page::of(2, &token, &["flags", "environments/p"]).unwrap();
            let read: Vec<&str> =
                all.iter().copied().filter(|key| *key > page.after.as_str()).take(page.wanted()).collect();
            let (shown, next) = page.cut(read, |key| (*key).to_owned());
            assert!(shown.len() <= 2);
            seen.extend(shown);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_token_of_another_list_or_of_nobody_is_refused() {
        let page = Page::of(1, "", &["flags", "environments/p"]).unwrap();
        let (_, token) = page.cut(vec!["a", "b"], |key| (*key).to_owned());
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
