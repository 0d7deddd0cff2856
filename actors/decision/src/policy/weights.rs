//! Weights in basis points: integers that sum to 10,000 and keep the bounds exactly, whatever floating point says.
//!
//! Bounds first in real numbers, then the largest remainder (Hamilton) rounding, then integer repair: rounding can
//! pass a bound by a basis point or two, and a bound that is almost kept is broken.

use crate::error::InputError;

/// All traffic.
pub const WHOLE: u32 = 10_000;

/// What a vector of weights must keep. The first arm is control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Control never falls below it.
    pub control_floor: u32,
    /// All arms that are not established together never exceed it.
    pub new_arm_cap: u32,
    /// Per arm. Control is never counted as new: the cap must leave somewhere to send the rest.
    pub established: Vec<bool>,
}

impl Bounds {
    /// # Errors
    /// When floor or cap exceed the whole, or there are fewer than two arms.
    pub fn new(control_floor: u32, new_arm_cap: u32, established: Vec<bool>) -> Result<Self, InputError> {
        if established.len() < 2 {
            return Err(InputError::Arms(established.len()));
        }
        if control_floor > WHOLE || new_arm_cap > WHOLE {
            return Err(InputError::Range("floor or cap above 10,000 basis points"));
        }
        Ok(Self { control_floor, new_arm_cap, established })
    }

    fn is_new(&self, arm: usize) -> bool {
        arm != 0 && !self.established.get(arm).copied().unwrap_or(false)
    }

    /// Whether weights keep every bound and sum to the whole.
    #[must_use]
    pub fn hold(&self, weights: &[u32]) -> bool {
        let new: u64 = weights
            .iter()
            .enumerate()
            .filter(|(arm, _)| self.is_new(*arm))
            .map(|(_, weight)| u64::from(*weight))
            .sum();
        weights.len() == self.established.len()
            && weights.iter().map(|weight| u64::from(*weight)).sum::<u64>() == u64::from(WHOLE)
            && weights.first().is_some_and(|control| *control >= self.control_floor)
            && new <= u64::from(self.new_arm_cap)
    }

    /// The shares nearest to `shares` in their own proportions that keep the bounds, in real numbers.
    fn bounded(&self, shares: &[f64]) -> Vec<f64> {
        let whole = f64::from(WHOLE);
        let mut bounded = shares.to_vec();
        let new: f64 =
            shares.iter().enumerate().filter(|(arm, _)| self.is_new(*arm)).map(|(_, share)| share).sum();
        let cap = f64::from(self.new_arm_cap) / whole;
        if new > cap {
            let rest = 1.0 - new;
            let known = (0..shares.len()).filter(|arm| !self.is_new(*arm)).count() as f64;
            for (arm, share) in bounded.iter_mut().enumerate() {
                if self.is_new(arm) {
                    *share *= cap / new;
                } else if rest > 0.0 {
                    *share *= (1.0 - cap) / rest;
                } else {
                    *share = (1.0 - cap) / known;
                }
            }
        }
        let floor = f64::from(self.control_floor) / whole;
        let control = bounded.first().copied().unwrap_or(0.0);
        if control < floor {
            let others = 1.0 - control;
            for (arm, share) in bounded.iter_mut().enumerate() {
                *share = if arm == 0 { floor } else { *share * (1.0 - floor) / others };
            }
        }
        bounded
    }

    /// Integer weights for shares that are not negative; they are normalised first.
    ///
    /// # Errors
    /// When lengths differ, or a share is negative, infinite or no number.
    pub fn weights(&self, shares: &[f64]) -> Result<Vec<u32>, InputError> {
        let sum: f64 = shares.iter().sum();
        let fit = shares.iter().all(|share| share.is_finite() && *share >= 0.0);
        if shares.len() != self.established.len() || !fit || sum <= 0.0 || !sum.is_finite() {
            return Err(InputError::Shape("shares of the arms"));
        }
        let shares: Vec<f64> = shares.iter().map(|share| share / sum).collect();
        let mut weights = largest_remainder(&self.bounded(&shares));
        self.repair(&mut weights);
        if self.hold(&weights) {
            Ok(weights)
        } else {
            Err(InputError::Range("weights cannot keep the bounds"))
        }
    }

    /// Moves single basis points until the bounds hold: the floor from the heaviest other arm, the cap to control.
    fn repair(&self, weights: &mut [u32]) {
        for _ in 0..WHOLE {
            let new: u32 = weights
                .iter()
                .enumerate()
                .filter(|(arm, _)| self.is_new(*arm))
                .map(|(_, weight)| *weight)
                .sum();
            let control = weights.first().copied().unwrap_or(0);
            let donor = if new > self.new_arm_cap {
                heaviest(weights, |arm| self.is_new(arm))
            } else if control < self.control_floor {
                heaviest(weights, |arm| arm != 0)
            } else {
                return;
            };
            let Some(place) = donor.and_then(|donor| weights.get_mut(donor)) else { return };
            let Some(less) = place.checked_sub(1) else { return };
            *place = less;
            if let Some(control) = weights.first_mut() {
                *control += 1;
            }
        }
    }
}

fn heaviest(weights: &[u32], allowed: impl Fn(usize) -> bool) -> Option<usize> {
    weights
        .iter()
        .enumerate()
        .filter(|(arm, _)| allowed(*arm))
        .max_by_key(|(arm, weight)| (**weight, std::cmp::Reverse(*arm)))
        .map(|(arm, _)| arm)
}

/// Shares that sum to 1 as integers that sum to 10,000; ties go to the lower arm.
fn largest_remainder(shares: &[f64]) -> Vec<u32> {
    let whole = f64::from(WHOLE);
    let mut parts: Vec<(usize, u32, f64)> = shares
        .iter()
        .enumerate()
        .map(|(arm, share)| {
            let exact = (share * whole).clamp(0.0, whole);
            (arm, exact as u32, exact - exact.floor())
        })
        .collect();
    let given: u32 = parts.iter().map(|part| part.1).sum();
    parts.sort_by(|left, right| right.2.total_cmp(&left.2).then(left.0.cmp(&right.0)));
    // Fewer are missing than there are arms, unless the shares did not sum to 1.
    let missing = WHOLE.saturating_sub(given) as usize;
    let each = (missing / parts.len().max(1)) as u32;
    let extra = missing % parts.len().max(1);
    for (rank, part) in parts.iter_mut().enumerate() {
        part.1 += each + u32::from(rank < extra);
    }
    parts.sort_by_key(|part| part.0);
    parts.into_iter().map(|part| part.1).collect()
}
