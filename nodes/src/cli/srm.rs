//! `srm`: did units arrive in the shares that were asked for?

use clap::Args;
use featureops_decision::sample_ratio::{Shares, p_value};
use serde_json::json;

use super::analyze::print_value;
use super::failure::Failure;
use super::page::Tone;
use super::render::number_text;
use super::settings::Output;

/// Arms of one test.
const ARMS_MAX: usize = 1_000;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  featureops srm --users 50000,51300 --weights .5,.5 -o json")]
pub struct SrmArgs {
    /// Units of each arm.
    #[arg(long, value_name = "N,N…", value_delimiter = ',', required = true)]
    users: Vec<u64>,
    /// Planned shares on any scale; 0 for an arm that was to have none [default: equal].
    #[arg(long, value_name = "W,W…", value_delimiter = ',')]
    weights: Vec<f64>,
    /// Below this p the shares contradict the plan.
    #[arg(long, value_name = "P", default_value_t = 0.001)]
    threshold: f64,
}

pub fn run(output: Option<Output>, args: &SrmArgs) -> Result<(), Failure> {
    let weights = if args.weights.is_empty() { vec![1.0; args.users.len()] } else { args.weights.clone() };
    if weights.len() != args.users.len() || !(2..=ARMS_MAX).contains(&weights.len()) {
        return Err(Failure::usage(format!(
            "--users has {} arms and --weights {}; both need the same number, 2 to {ARMS_MAX}",
            args.users.len(),
            weights.len()
        )));
    }
    if let Some(wrong) = weights.iter().find(|weight| !weight.is_finite() || **weight < 0.0) {
        return Err(Failure::usage(format!("--weights has {wrong}; a share is a number of at least 0")));
    }
    if !(args.threshold > 0.0 && args.threshold < 1.0) {
        return Err(Failure::usage(format!(
            "--threshold is {}; it must lie between 0 and 1",
            args.threshold
        )));
    }
    let p = p_value(&[Shares { units: &args.users, expected: &weights }]);
    let p = p.ok_or_else(|| Failure::usage("nothing to test: fewer than two arms have units and a share"))?;
    let mismatch = p < args.threshold;
    let value = json!({ "users": args.users, "weights": weights, "p_value": p, "threshold": args.threshold, "mismatch": mismatch });
    print_value(output, &value, |page| {
        if mismatch {
            page.line(
                Tone::Bad,
                format!("MISMATCH: p = {} < {}", number_text(p), number_text(args.threshold)),
            );
            page.line(
                Tone::Plain,
                "The units do not follow the planned shares: find out why before any effect is read.",
            );
        } else {
            page.line(
                Tone::Good,
                format!("as planned: p = {} (threshold {})", number_text(p), number_text(args.threshold)),
            );
        }
    })
}
