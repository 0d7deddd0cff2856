//! `programme`: a year of experiments, and what came of it.

use std::io;

use featureops_simulation::programme::{Size, run};

use crate::Programme;

/// Runs it and prints the score; false when something broke that must hold.
pub fn year(asked: &Programme) -> io::Result<bool> {
    let size = Size { days: asked.days, places: asked.places, length: asked.length };
    match run(asked.seed, asked.teams, size, asked.jobs) {
        Ok(score) if asked.json => println!("{}", score.json()),
        Ok(score) => {
            println!(
                "{} teams, {} days, {} experiments of {} days at once each, seed {}\n",
                asked.teams, asked.days, asked.places, asked.length, asked.seed
            );
            print!("{}", score.table());
        }
        Err(fault) => {
            println!("VIOLATION {fault}");
            println!("again: featureops-sim {}", asked.again());
            return Ok(false);
        }
    }
    Ok(true)
}
