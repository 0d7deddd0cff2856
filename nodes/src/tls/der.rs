//! When a certificate ends, and whose it is: all that is read of it here. Whether it is good is rustls's to say.
//!
//! RFC 5280, 4.1: Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version?, serialNumber, signature, issuer,
//! validity SEQUENCE { notBefore, notAfter }, .. } .. }; times are UTCTime (YYMMDDHHMMSSZ, years 1950 to 2049) or
//! GeneralizedTime (YYYYMMDDHHMMSSZ). After them the subject, a SEQUENCE of SETs of SEQUENCE { type, value }, the key, and under [3]
//! the extensions, SEQUENCE { id, critical?, OCTET STRING }; of a subjectAltName (4.2.1.6) that string holds a SEQUENCE of names.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const SET: u8 = 0x31;
const IDENTIFIER: u8 = 0x06;
const OCTETS: u8 = 0x04;
const EXTENSIONS: u8 = 0xa3;
/// 2.5.4.3 and 2.5.29.17.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 29, 17];
/// rfc822Name, dNSName and uniformResourceIdentifier of a subjectAltName.
const ALT_NAMES: [u8; 3] = [0x81, 0x82, 0x86];
/// Names of one certificate that are read, and bytes of one.
const NAMES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 1_024;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate in unix milliseconds; `None`: it has another form.
#[must_use]
pub fn not_after_ms(certificate: &[u8]) -> Option<i64> {
    let (validity, _) = of_subject(certificate)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    time_ms(tag, std::str::from_utf8(time).ok()?)
}

/// Whose a certificate is: its subject's common names, and the DNS names, URIs and mail addresses beside them.
#[must_use]
pub fn names(certificate: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((SEQUENCE, subject, rest)) = of_subject(certificate).and_then(|(_, subject)| element(subject))
    {
        for (_, set) in elements(subject).filter(|(tag, _)| *tag == SET) {
            for (_, attribute) in elements(set).filter(|(tag, _)| *tag == SEQUENCE) {
                let mut parts = elements(attribute);
                if parts.next() == Some((IDENTIFIER, COMMON_NAME)) {
                    names.extend(parts.next().map(|(_, value)| value));
                }
            }
        }
        let extensions = elements(rest).find(|(tag, _)| *tag == EXTENSIONS);
        let extensions =
            extensions.and_then(|(_, listed)| element(listed)).map_or(&[][..], |(_, all, _)| all);
        for (_, extension) in elements(extensions) {
            let mut parts = elements(extension);
            if parts.next() == Some((IDENTIFIER, SUBJECT_ALT_NAME))
                && let Some((_, wrapped)) = parts.find(|(tag, _)| *tag == OCTETS)
                && let Some((SEQUENCE, listed, _)) = element(wrapped)
            {
                names.extend(
                    elements(listed).filter(|(tag, _)| ALT_NAMES.contains(tag)).map(|(_, name)| name),
                );
            }
        }
    }
    let read = names.into_iter().filter(|name| name.len() <= NAME_BYTES_MAX);
    read.filter_map(|name| std::str::from_utf8(name).ok()).map(str::to_owned).take(NAMES_MAX).collect()
}

/// The elements that follow one another in `bytes`; ends at the first that is none.
fn elements(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(bytes)?;
        bytes = rest;
        Some((tag, content))
    })
}

/// A certificate's validity, and what follows it.
fn of_subject(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, certificate, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut rest, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (tag, _, after) = element(rest)?;
    if tag == VERSION {
        rest = after;
    }
    // Serial number, signature's algorithm, issuer.
    for wanted in [INTEGER, SEQUENCE, SEQUENCE] {
        let (tag, _, after) = element(rest)?;
        if tag != wanted {
            return None;
        }
        rest = after;
    }
    let (_, validity, rest) = element(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
    Some((validity, rest))
}

/// Tag, content and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(d, _)| d.len() <= 4)?;
        (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn time_ms(tag: u8, text: &str) -> Option<i64> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2_000 + year } else { 1_900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0).filter(|m| (1..=12).contains(m))?, part(2)?);
    let seconds = part(4)? * 3_600 + part(6)? * 60 + part(8)?;
    Some((days(year, month, day) * 86_400 + seconds) * 1_000)
}

/// Days since 1970-01-01 of a day of the Gregorian calendar (years counted from March, in cycles of 400).
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (cycle, year_of) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    cycle * 146_097 + year_of * 365 + year_of / 4 - year_of / 100 + day_of - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_certificates_write_them() {
        assert_eq!(time_ms(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(time_ms(UTC_TIME, "261122225000Z"), Some(1_795_387_800_000));
        assert_eq!(time_ms(GENERALIZED_TIME, "20500301000001Z"), Some(2_529_705_601_000));
        assert_eq!(time_ms(UTC_TIME, "240229000000Z"), Some(1_709_164_800_000));
        for odd in ["", "Z", "2611222250Z", "261122225000", "261322225000Z", "26112222500éZ"] {
            assert_eq!(time_ms(UTC_TIME, odd), None, "{odd}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for bytes in
            [&[][..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 2, 0x30, 0], &[0xff; 64]]
        {
            assert_eq!(not_after_ms(bytes), None);
            assert_eq!(names(bytes), Vec::<String>::new());
        }
    }
}
