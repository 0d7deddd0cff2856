//! What a command is given to read: a file or standard input, within a bound.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::Path;

/// Opens a file, or standard input for `-`.
///
/// # Errors
/// What the system says.
pub fn open(path: &Path) -> Result<Box<dyn Read>, String> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(stdin()));
    }
    Ok(Box::new(File::open(path).map_err(|error| error.to_string())?))
}

/// A path as people call it.
#[must_use]
pub fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// All of a source, if it is within the bound. What is read is counted, not what the file system says: a device has no length.
///
/// # Errors
/// It cannot be read, or is larger; then `way_out` says what to do instead.
pub fn read_within(source: impl Read, bytes_max: u64, way_out: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    source.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("is larger than {bytes_max} bytes{way_out}"));
    }
    Ok(bytes)
}

/// The same as text.
///
/// # Errors
/// As [`read_within`], or it is no UTF-8.
pub fn text_within(source: impl Read, bytes_max: u64, way_out: &str) -> Result<String, String> {
    let bytes = read_within(source, bytes_max, way_out)?;
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_reached_and_not_passed() {
        assert_eq!(read_within(&b"ab"[..], 2, ""), Ok(b"ab".to_vec()));
        assert_eq!(
            read_within(&b"abc"[..], 2, "; split it"),
            Err("is larger than 2 bytes; split it".to_owned())
        );
        assert_eq!(text_within(&b"\xff"[..], 2, ""), Err("is not UTF-8".to_owned()));
        assert!(open(Path::new("no-such-file")).is_err());
    }
}
