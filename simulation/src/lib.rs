//! A world in a box: runs the real node on a simulated disk, clock and network, breaks it on purpose, and checks what its clients
//! saw. One seed is one world; the same seed is the same world, to the microsecond.

#![forbid(unsafe_code)]

pub mod aim;
pub mod caller;
pub mod checks;
pub mod chronicle;
pub mod defect;
pub mod dice;
pub mod disk;
pub mod faults;
pub mod folds;
pub mod harm;
pub mod history;
pub mod house;
pub mod leak;
pub mod machine;
pub mod moments;
pub mod net;
pub mod plan;
pub mod plant;
pub mod programme;
pub mod refold;
pub mod trace;
pub mod wires;
pub mod workload;
pub mod world;

use std::time::Duration;

/// The process's own clock and chance, which the simulator binary has taken over. A library cannot: it would do so for whoever
/// links it.
pub trait Ambient {
    /// From here on the process's chance comes from the seed, and its clock stands at the beginning.
    fn arm(&self, seed: u64);
    /// Turns the process's clock to so long after the beginning.
    fn turn(&self, elapsed: Duration);
}
