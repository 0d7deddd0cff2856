//! Minutes in 21 bits, as receipts and unit rows keep them.
//!
//! Counted from 2026-01-01T00:00Z, 21 bits last until 2029-12-27T08:32Z and then start again. What is compared lies at
//! most a few weeks apart (an attribution window is at most 30 days), so the round is known from the present minute:
//! the count may wrap without losing anything.

/// 2026-01-01T00:00Z in minutes since 1970-01-01T00:00Z.
pub const MINUTE_EPOCH_UNIX_MINUTES: u32 = 29_453_760;

/// Bits of a minute; about four years.
pub const MINUTE_BITS: u32 = 21;

const MASK: u32 = (1 << MINUTE_BITS) - 1;

/// A minute this far ahead of the present still counts as of this round: clocks differ.
const AHEAD_MINUTES: u32 = 24 * 60;

/// The 21-bit minute of a unix time in milliseconds.
#[must_use]
pub fn of_unix_ms(unix_ms: i64) -> u32 {
    // Masked to 21 bits; the remainder of a time before the epoch wraps as well.
    (unix_ms.div_euclid(60_000).wrapping_sub(i64::from(MINUTE_EPOCH_UNIX_MINUTES)) & i64::from(MASK)) as u32
}

/// The unix minute a 21-bit minute stands for, seen from `now_unix_minute`: the latest that is at most a day ahead.
#[must_use]
pub fn to_unix_minute(minute: u32, now_unix_minute: u32) -> u32 {
    let latest = now_unix_minute.saturating_add(AHEAD_MINUTES);
    let back = latest.wrapping_sub(MINUTE_EPOCH_UNIX_MINUTES).wrapping_sub(minute) & MASK;
    latest.saturating_sub(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_the_first_of_january_2026() {
        // 56 years after 1970, 14 of them leap years (1972 to 2024).
        assert_eq!(MINUTE_EPOCH_UNIX_MINUTES, (56 * 365 + 14) * 24 * 60);
        assert_eq!(of_unix_ms(i64::from(MINUTE_EPOCH_UNIX_MINUTES) * 60_000), 0);
        assert_eq!(of_unix_ms(i64::from(MINUTE_EPOCH_UNIX_MINUTES) * 60_000 + 59_999), 0);
        assert_eq!(of_unix_ms(i64::MIN) >> MINUTE_BITS, 0);
        assert_eq!(of_unix_ms(i64::MAX) >> MINUTE_BITS, 0);
    }

    #[test]
    fn a_minute_is_found_again_for_years_behind_and_a_day_ahead_across_the_turn() {
        let turn = MINUTE_EPOCH_UNIX_MINUTES + (1 << MINUTE_BITS);
        for now in [MINUTE_EPOCH_UNIX_MINUTES + 3_000_000, turn - 1, turn, turn + 40_000, turn + 5_000_000] {
            for offset in [-1_000_000i64, -43_200, -1, 0, 1, 1_440] {
                let minute = (i64::from(now) + offset) as u32;
                let kept = of_unix_ms(i64::from(minute) * 60_000);
                assert!(kept < 1 << MINUTE_BITS);
                assert_eq!(to_unix_minute(kept, now), minute, "{now} {offset}");
            }
        }
    }
}
