//! Spans and moments of time as people type and read them.

use std::time::Duration;

use featureops_proto::timestamp;
use prost_types::Timestamp;

/// Parses `500ms`, `10s`, `5m`, `72h`, `7d`; a bare number is seconds.
///
/// # Errors
/// Names the accepted forms.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    match digits.parse::<u64>().ok().and_then(|count| count.checked_mul(millis)) {
        Some(total) if millis > 0 => Ok(Duration::from_millis(total)),
        _ => Err(format!("'{text}' is not a span of time: write 500ms, 10s, 5m, 72h or 7d")),
    }
}

/// Parses RFC 3339, or unix time: from 100,000,000,000 on it is milliseconds, below it seconds.
///
/// # Errors
/// Names the accepted forms.
pub fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    let wrong = || format!("'{text}' is not a time: write RFC 3339 (2025-03-01T12:00:00Z) or unix seconds");
    if let Ok(number) = text.parse::<f64>() {
        if !number.is_finite() || number < 0.0 {
            return Err(wrong());
        }
        // Seconds reach that figure in the year 5138; milliseconds passed it in 1973.
        let seconds = if number >= 1e11 { number / 1_000.0 } else { number };
        let nanos = ((seconds.fract() * 1e6).round() as i32).min(999_999).saturating_mul(1_000);
        return Ok(Timestamp { seconds: seconds.trunc() as i64, nanos });
    }
    let moment: Timestamp = text.parse().map_err(|_| wrong())?;
    if moment.seconds < 0 {
        return Err(wrong());
    }
    Ok(moment)
}

/// Parses a moment, or a span from `now_ms` on, as `+2h`.
///
/// # Errors
/// Names the accepted forms.
pub fn parse_moment_from(text: &str, now_ms: i64) -> Result<Timestamp, String> {
    let Some(span) = text.trim().strip_prefix('+') else {
        return parse_moment(text).map_err(|message| format!("{message}, or a span from now on (+2h)"));
    };
    let span = i64::try_from(parse_span(span)?.as_millis()).unwrap_or(i64::MAX);
    Ok(timestamp(now_ms.saturating_add(span)))
}

/// `2025-03-01 12:00:00Z`, to the second: what a table has room for.
#[must_use]
pub fn moment_text(moment: Option<&Timestamp>) -> String {
    let Some(moment) = moment else { return "-".to_owned() };
    let text = Timestamp { seconds: moment.seconds, nanos: 0 }.to_string();
    text.replacen('T', " ", 1)
}

/// `7d`, `72h`, `90s`: the largest unit that divides it.
#[must_use]
pub fn span_text(seconds: i64) -> String {
    for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds != 0 && seconds % unit == 0 {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_parse_and_print() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("7", 7_000), ("5m", 300_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_span(text).unwrap(), Duration::from_millis(millis));
        }
        for text in ["", "s", "1w", "-3s", "1.5h", "99999999999999999999d"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
        assert_eq!(
            (span_text(604_800), span_text(90), span_text(0)),
            ("7d".into(), "90s".into(), "0s".into())
        );
    }

    #[test]
    fn moments_are_rfc_3339_or_unix_seconds_or_milliseconds() {
        for text in ["2024-05-06T07:08:09Z", "2024-05-06T09:08:09+02:00", "1714979289", "1714979289000"] {
            assert_eq!(parse_moment(text).unwrap().seconds, 1_714_979_289, "{text}");
        }
        assert_eq!(parse_moment("1714979289.25").unwrap().nanos, 250_000_000);
        assert_eq!(parse_moment_from("1714979289000", 7).unwrap().seconds, 1_714_979_289);
        assert_eq!(
            parse_moment_from(" +2h ", 1_500).unwrap(),
            Timestamp { seconds: 7_201, nanos: 500_000_000 }
        );
        assert_eq!(parse_moment_from("+2", 0).unwrap().seconds, 2);
        for text in ["+", "2h", "+-2h", "+2 weeks", "++2h"] {
            assert!(parse_moment_from(text, 0).is_err(), "{text}");
        }
        for text in ["", "yesterday", "nan", "-5", "2024-13-01T00:00:00Z"] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
        assert_eq!(moment_text(parse_moment("1714979289").ok().as_ref()), "2024-05-06 07:08:09Z");
    }
}
