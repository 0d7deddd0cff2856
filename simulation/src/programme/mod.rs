//! A programme: a year of a company's experiments through the real fold and the real minds, against a truth they are never told.
//!
//! No network, no log, no faults: worlds have those. What is measured here is whether decisions are good: regret, false winners,
//! false trips, missed regressions, and that no look at the oversight invariants ever finds anything.
//!
//! | file | what it holds |
//! |---|---|
//! | `truth.rs` | lifts, seasons, drift and regressions of an experiment, drawn from the seed |
//! | `year.rs` | a team's year, hour by hour |
//! | `fold.rs` | the product's fold without a log around it |
//! | `score.rs` | what came of it |

pub mod fold;
pub mod score;
pub mod truth;
pub mod year;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

pub use fold::Fault;
pub use score::Score;
pub use year::{Size, Team};

/// Teams of one programme.
pub const TEAMS_MAX: u32 = 10_000;

/// Runs every team, `jobs` at a time. The score does not depend on `jobs`.
///
/// # Errors
/// The first fault of the first team that had one: the fold stopped, an invariant broke, a fact did not count, or a decision does not
/// replay.
pub fn run(seed: u64, teams: u32, size: Size, jobs: u32) -> Result<Score, Fault> {
    let next = AtomicU32::new(0);
    let scores = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, 64) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= teams.min(TEAMS_MAX) {
                        return;
                    }
                    let score = Team::new(seed, number, size).and_then(Team::run);
                    if let Ok(mut scores) = scores.lock() {
                        scores.push((number, score));
                    }
                }
            });
        }
    });
    let mut scores = scores.into_inner().map_err(|_| Fault("a team panicked".to_owned()))?;
    // Sums of floats depend on their order.
    scores.sort_by_key(|(number, _)| *number);
    let mut all = Score::default();
    for (number, score) in scores {
        all.add(&score.map_err(|fault| Fault(format!("team {number}: {fault}")))?);
    }
    Ok(all)
}
