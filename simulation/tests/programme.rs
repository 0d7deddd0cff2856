//! A programme is the same whoever runs it, finds no fault, and its score is of what was true.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use featureops_simulation::programme::{Size, run};

#[test]
fn a_programme_is_the_same_by_one_and_by_two_and_decides_well() {
    let size = Size { days: 45, places: 3, length: 14 };
    let one = run(11, 2, size, 1).unwrap();
    println!("{}", one.table());
    assert_eq!(one, run(11, 2, size, 2).unwrap());
    assert_ne!(one, run(12, 1, Size { days: 3, ..size }, 2).unwrap());
    let all = one.all();
    assert!(all.experiments >= 18 && all.reallocations > 50, "{}", one.table());
    assert!(one.replayed > 0 && one.checks > 5_000);
    // Far inside what would be bad luck: false winners and trips are bounded at .05 an experiment.
    assert!(all.false_winners <= 4 && all.false_trips <= 4, "{}", one.table());
    assert!(all.missed <= 2, "{}", one.table());
}
