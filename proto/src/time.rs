//! Time in the API's form and in the log's: a timestamp, and unix milliseconds.

use prost_types::Timestamp;

/// Unix milliseconds as the API's timestamp.
#[must_use]
pub fn timestamp(unix_ms: i64) -> Timestamp {
    // Below a thousand million.
    let nanos = (unix_ms.rem_euclid(1_000) * 1_000_000) as i32;
    Timestamp { seconds: unix_ms.div_euclid(1_000), nanos }
}

/// The same; absent for zero, which is no time.
#[must_use]
pub fn timestamp_if_set(unix_ms: i64) -> Option<Timestamp> {
    (unix_ms != 0).then(|| timestamp(unix_ms))
}

/// Unix milliseconds of the API's timestamp, saturating.
#[must_use]
pub fn unix_ms(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000).saturating_add(i64::from(time.nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_come_back_also_from_before_1970() {
        for ms in [0, 1, 999, 1_000, 1_800_000_000_123, -1, -1_001] {
            assert_eq!(unix_ms(&timestamp(ms)), ms);
        }
        assert_eq!((timestamp_if_set(0), timestamp_if_set(5)), (None, Some(timestamp(5))));
        assert_eq!(unix_ms(&Timestamp { seconds: i64::MAX, nanos: 0 }), i64::MAX);
    }
}
