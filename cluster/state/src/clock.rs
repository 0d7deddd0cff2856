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
