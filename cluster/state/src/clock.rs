//! Log time: the only clock of the fold. Stamped by the leader, it never goes back.

/// Log time in unix milliseconds; 0 before the first tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogClock {
    now_ms: i64,
}

impl LogClock {
    /// Restores it.
    pub const fn at(now_ms: i64) -> Self {
        Self { now_ms }
    }

    /// Now.
    pub const fn now_ms(self) -> i64 {
        self.now_ms
    }

    /// Now in whole unix minutes.
    pub fn minute(self) -> u32 {
        u32::try_from(self.now_ms / 60_000).unwrap_or(0)
    }

    /// Moves to the stamp, never back. Returns whether time moved.
    pub fn advance(&mut self, stamp_ms: i64) -> bool {
        let moved = stamp_ms > self.now_ms;
        self.now_ms = self.now_ms.max(stamp_ms);
        moved
    }
}

/// As the API's timestamp.
pub fn timestamp(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: ms.div_euclid(1_000), nanos: (ms.rem_euclid(1_000) * 1_000_000) as i32 }
}

/// Absent for zero.
pub fn timestamp_if_set(ms: i64) -> Option<prost_types::Timestamp> {
    (ms != 0).then(|| timestamp(ms))
}

/// Unix milliseconds of an API timestamp, saturating.
pub fn millis(time: &prost_types::Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000).saturating_add(i64::from(time.nanos) / 1_000_000)
}
