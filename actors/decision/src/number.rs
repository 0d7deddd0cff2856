//! Numbers as the records show them: decimal, ten significant digits, the same text everywhere.

use featureops_proto::v1;

/// A finite value with ten significant digits; `inf`, `-inf` and `nan` by name. Zero has no sign.
#[must_use]
pub fn ten_digits(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.9e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let Ok(exponent) = exponent.parse::<i32>() else { return scientific };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0');
    if !(-7..15).contains(&exponent) {
        let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, ""));
        let point = if rest.is_empty() { "" } else { "." };
        return format!("{sign}{first}{point}{rest}e{exponent}");
    }
    if exponent < 0 {
        let zeros = "0".repeat(usize::try_from(-exponent - 1).unwrap_or(0));
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole = usize::try_from(exponent + 1).unwrap_or(1);
    if digits.len() <= whole {
        return format!("{sign}{digits}{}", "0".repeat(whole - digits.len()));
    }
    let (before, after) = digits.split_at_checked(whole).unwrap_or((digits, ""));
    format!("{sign}{before}.{after}")
}

/// A named number of a record.
#[must_use]
pub fn number(name: impl Into<String>, value: f64) -> v1::Number {
    v1::Number { name: name.into(), value: ten_digits(value) }
}

#[cfg(test)]
mod tests {
    use super::ten_digits;

    #[test]
    fn renders_ten_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-12.5, "-12.5"),
            (10_000.0, "10000"),
            (1.0 / 3.0, "0.3333333333"),
            (0.000_123_456_789_012, "0.000123456789"),
            (1_234_567.891_234_5, "1234567.891"),
            (1e-12, "1e-12"),
            (-2.5e20, "-2.5e20"),
            (0.999_999_999_99, "1"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(ten_digits(value), text);
        }
    }
}
