//! How often: buckets that fill with time. A bucket holds one second's worth twice over, so that bursts pass and floods do not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Wrong tokens a second that one address may show.
const WRONG_A_SECOND: u32 = 5;
/// Addresses that are remembered for them.
const PEERS_MAX: usize = 4_096;
/// Seconds' worth that a bucket holds.
const BURST_SECONDS: u64 = 2;

/// So many a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u32);

impl Rate {
    /// At least one.
    #[must_use]
    pub fn per_second(many: u32) -> Self {
        Self(many.max(1))
    }

    /// How many.
    #[must_use]
    pub const fn a_second(self) -> u32 {
        self.0
    }
}

/// What one caller may still do: thousandths, so that time in milliseconds adds whole numbers.
#[derive(Debug, Default)]
pub struct Bucket {
    left: u64,
    /// Absent: never asked, and full.
    at_ms: Option<u64>,
}

impl Bucket {
    /// Takes one, or says how long to wait for it.
    ///
    /// # Errors
    /// There is none now.
    pub fn take(&mut self, rate: Rate, now_ms: u64) -> Result<(), Duration> {
        let rate = u64::from(rate.0);
        let most = rate * BURST_SECONDS * 1_000;
        self.left = match self.at_ms {
            None => most,
            Some(at_ms) => {
                self.left.saturating_add(now_ms.saturating_sub(at_ms).saturating_mul(rate)).min(most)
            }
        };
        self.at_ms = Some(now_ms);
        match self.left.checked_sub(1_000) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Duration::from_millis((1_000 - self.left).div_ceil(rate))),
        }
    }
}

/// Buckets by address; one of a whole /64 of IPv6, which one caller may own.
#[derive(Debug, Default)]
pub struct Peers(BTreeMap<IpAddr, Bucket>);

impl Peers {
    /// Takes one of an address.
    ///
    /// # Errors
    /// There is none now.
    pub fn take(&mut self, peer: IpAddr, now_ms: u64) -> Result<(), Duration> {
        let peer = network(peer);
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&peer) {
            // Whose bucket is full again is as good as new.
            self.0.retain(|_, held| {
                held.at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < BURST_SECONDS * 1_000)
            });
            if self.0.len() >= PEERS_MAX {
                return Err(Duration::from_secs(BURST_SECONDS));
            }
        }
        self.0.entry(peer).or_default().take(Rate(WRONG_A_SECOND), now_ms)
    }
}

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_two_seconds_worth_and_fills_with_time() {
        let (mut bucket, rate) = (Bucket::default(), Rate::per_second(3));
        for _ in 0..6 {
            bucket.take(rate, 1_000).unwrap();
        }
        let wait = bucket.take(rate, 1_000).unwrap_err();
        assert_eq!(wait, Duration::from_millis(334));
        assert!(bucket.take(rate, 1_333).is_err() && bucket.take(rate, 1_334).is_ok());
        // Time that goes back gives nothing and takes nothing.
        assert!(bucket.take(rate, 0).is_err());
        for _ in 0..6 {
            bucket.take(rate, 1_000_000).unwrap();
        }
        assert!(bucket.take(rate, 1_000_000).is_err());
    }

    #[test]
    fn addresses_are_bounded_and_a_network_counts_as_one() {
        let mut peers = Peers::default();
        let home = |n: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | n));
        for n in 0..u128::from(2 * WRONG_A_SECOND) {
            peers.take(home(n), 0).unwrap();
        }
        assert!(peers.take(home(99), 0).is_err());
        for n in 0..2 * PEERS_MAX as u32 {
            let _ = peers.take(IpAddr::V4(std::net::Ipv4Addr::from_bits(n)), 1);
            assert!(peers.0.len() <= PEERS_MAX);
        }
        let other = IpAddr::from([9, 9, 9, 9]);
        assert!(peers.take(other, 1).is_err() && peers.take(other, 10_000).is_ok());
    }
}
