//! One evaluation's outcome, from a service: `cargo run -p featureops-client --example outcomes -- RECEIPT`.
//!
//! The receipt is the one that `Evaluate` answered with (an OpenFeature client finds it in the flag's metadata).

use std::time::Duration;

use featureops_client::{Event, Facts, Fate, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let receipt = std::env::args().nth(1).unwrap_or_default();
    let settings = Settings::new("http://127.0.0.1:7400", "production", "shop");
    let hear = Box::new(|event: &Event, fate: &Fate| println!("{event:?}: {fate:?}"));
    let facts = Facts::start(settings, hear)?;
    if let Err(not_taken) = facts.send(Event::outcome_of("purchase", "user-1", &receipt, 1.0)) {
        eprintln!("not taken: {not_taken:?}");
    }
    println!("{:?}", facts.close(Duration::from_secs(10)).await);
    Ok(())
}
