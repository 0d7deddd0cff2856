//! A measured value becomes a whole number at its metric's decimal scale.
//!
//! Rounding is half-even on the *decimal* the client wrote, not on the binary double it arrived as: 2.675 at scale 2 is a
//! tie and becomes 2.68, although the nearest double lies below it (2.67499999999999982236431605997495353221893310546875).
//! The decimal of a double is its shortest text that reads back as the same double; every language prints that one, so
//! the same literal gives the same fixed-point value from every client, and sums of typed decimals are exact.

use std::fmt::Write as _;

/// What one of a metric is in its fixed point.
#[must_use]
pub fn one(scale: u32) -> f64 {
    10f64.powi(i32::try_from(scale).unwrap_or_default())
}

/// Largest magnitude at scale: 2^53, where doubles stop being whole numbers.
pub const SCALED_MAX: i64 = 1 << 53;
/// Decimal places a metric may keep.
pub const DECIMAL_SCALE_MAX: u32 = 9;

/// Why a value has no fixed-point form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unscalable {
    /// NaN or an infinity.
    NonFinite,
    /// |value x 10^scale| is above [`SCALED_MAX`].
    OutOfScale,
}

/// The text of a double never needs more: 17 digits, a sign, a point, an exponent.
struct Text {
    bytes: [u8; 32],
    length: usize,
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// `value` x 10^`scale`, half-even.
///
/// # Errors
/// The value is not finite, or too large at this scale.
pub fn scaled(value: f64, scale: u32) -> Result<i64, Unscalable> {
    if !value.is_finite() {
        return Err(Unscalable::NonFinite);
    }
    let factor = 10i64.checked_pow(scale.min(DECIMAL_SCALE_MAX)).ok_or(Unscalable::OutOfScale)?;
    // Counts and most amounts are whole: no text is needed.
    #[allow(clippy::cast_possible_truncation)]
    if value.fract() == 0.0 && value.abs() <= SCALED_MAX as f64 {
        return bounded((value as i64).checked_mul(factor).ok_or(Unscalable::OutOfScale)?);
    }
    let mut text = Text { bytes: [0; 32], length: 0 };
    write!(text, "{value:e}").map_err(|_| Unscalable::OutOfScale)?;
    let written = text.bytes.get(..text.length).unwrap_or_default();
    let (mut negative, mut digits, mut places) = (false, 0i128, 0i32);
    let (mut after_point, mut in_exponent, mut exponent, mut exponent_negative) = (false, false, 0i32, false);
    for byte in written {
        match byte {
            b'-' if in_exponent => exponent_negative = true,
            b'-' => negative = true,
            b'.' => after_point = true,
            b'e' => in_exponent = true,
            digit if in_exponent => exponent = exponent * 10 + i32::from(digit.saturating_sub(b'0')),
            digit => {
                digits = digits * 10 + i128::from(digit.saturating_sub(b'0'));
                places += i32::from(after_point);
            }
        }
    }
    let exponent = if exponent_negative { -exponent } else { exponent };
    #[allow(clippy::cast_possible_wrap)]
    let power = exponent - places + scale.min(DECIMAL_SCALE_MAX) as i32;
    let magnitude = if power >= 0 {
        // 10^16 already exceeds the bound, and at most 17 digits times it fits.
        if power > 16 && digits != 0 {
            return Err(Unscalable::OutOfScale);
        }
        digits * 10i128.pow(power.unsigned_abs().min(16))
    } else if power < -18 {
        // At most 17 digits: below one half.
        0
    } else {
        let divisor = 10i128.pow(power.unsigned_abs());
        let (whole, rest) = (digits / divisor, digits % divisor);
        let up = rest * 2 > divisor || (rest * 2 == divisor && whole % 2 == 1);
        whole + i128::from(up)
    };
    let magnitude = i64::try_from(magnitude).map_err(|_| Unscalable::OutOfScale)?;
    bounded(if negative { -magnitude } else { magnitude })
}

fn bounded(value: i64) -> Result<i64, Unscalable> {
    if value.abs() > SCALED_MAX { Err(Unscalable::OutOfScale) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_even_neighbour_of_the_written_decimal() {
        for (value, scale, expected) in [
            (2.675, 2, 268),
            (2.665, 2, 266),
            (-2.675, 2, -268),
            (0.5, 0, 0),
            (1.5, 0, 2),
            (2.5, 0, 2),
            (0.1 + 0.2, 6, 300_000),
            (0.1, 9, 100_000_000),
            (19.99, 2, 1_999),
            (1e-7, 6, 0),
            (5e-7, 6, 0),
            (1.5e-6, 6, 2),
            (-0.0, 6, 0),
            (f64::MIN_POSITIVE, 9, 0),
            (5e-324, 9, 0),
            (123_456_789.123_456_7, 6, 123_456_789_123_457),
        ] {
            assert_eq!(scaled(value, scale), Ok(expected), "{value} at {scale}");
        }
    }

    #[test]
    fn the_bound_is_two_to_the_fifty_third_at_scale() {
        let edge = SCALED_MAX as f64;
        assert_eq!(scaled(edge, 0), Ok(SCALED_MAX));
        assert_eq!(scaled(-edge, 0), Ok(-SCALED_MAX));
        assert_eq!(scaled(edge + 2.0, 0), Err(Unscalable::OutOfScale));
        assert_eq!(scaled(edge, 1), Err(Unscalable::OutOfScale));
        assert_eq!(scaled(9_007_199_254.740_992, 6), Ok(SCALED_MAX));
        assert_eq!(scaled(9_007_199_254.740_994, 6), Err(Unscalable::OutOfScale));
        for huge in [1e300, -1e300, f64::MAX, 1.5e17] {
            assert_eq!(scaled(huge, 9), Err(Unscalable::OutOfScale));
        }
        for not in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(scaled(not, 6), Err(Unscalable::NonFinite));
        }
    }

    #[test]
    fn every_whole_hundredth_is_exact() {
        for cents in -100_000i64..100_000 {
            assert_eq!(scaled(cents as f64 / 100.0, 2), Ok(cents));
        }
    }
}
