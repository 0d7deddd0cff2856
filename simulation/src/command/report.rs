//! A world as a person can read it: one page, a row a machine, what was done to it and what it did, over simulated time.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use featureops_simulation::trace::{Echo, Trace};
use featureops_simulation::world::{Outcome, run};

use crate::{Kind, ambient};

/// Width of a second, height of a row, and room for the names, in pixels.
const SECOND: u64 = 24;
const ROW: u64 = 46;
const NAMES: u64 = 90;

/// Lives through it and writes the page. True: it holds every property.
///
/// # Errors
/// The page cannot be written.
pub fn drawn(seed: u64, kind: Kind, out: &Path) -> io::Result<bool> {
    let plan = kind.plan(seed);
    let (options, machines) = (plan.to_string(), plan.all_machines());
    let outcome = run(plan, &ambient::Process, Trace::new(Echo::Nowhere), tracing::Level::INFO);
    std::fs::write(out, page(seed, &options, machines, &outcome))?;
    println!("{}: {} events of the world of seed {seed}", out.display(), outcome.landmarks.len());
    Ok(outcome.violations().next().is_none())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn x_of(micros: u64) -> u64 {
    NAMES.saturating_add(micros.saturating_mul(SECOND) / 1_000_000)
}

fn page(seed: u64, options: &str, machines: u64, outcome: &Outcome) -> String {
    let width = x_of(outcome.simulated_ms.saturating_mul(1_000)).saturating_add(40);
    let height = machines.saturating_add(2).saturating_mul(ROW);
    let mut svg = String::new();
    let row_of = |text: &str| {
        let name = text.split(' ').next().unwrap_or_default();
        let number = name.strip_prefix("node-").and_then(|number| number.parse::<u64>().ok());
        number.filter(|number| (1..=machines).contains(number)).unwrap_or(0)
    };
    for row in 0..=machines {
        let y = row.saturating_add(1).saturating_mul(ROW);
        let name = if row == 0 { "world".to_owned() } else { format!("node-{row}") };
        let _ = write!(
            svg,
            "<text x='4' y='{y}'>{name}</text><line x1='{NAMES}' x2='{width}' y1='{y}' y2='{y}' class='row'/>"
        );
    }
    for second in (0..=outcome.simulated_ms / 1_000).step_by(5) {
        let x = x_of(second.saturating_mul(1_000_000));
        let _ = write!(
            svg,
            "<text x='{x}' y='14' class='time'>{second} s</text><line x1='{x}' x2='{x}' y1='18' y2='{height}' class='time'/>"
        );
    }
    let mut rows = String::new();
    for (at, (micros, kind, text)) in outcome.landmarks.iter().enumerate() {
        let (x, row) = (x_of(*micros), row_of(text));
        // Three heights, so that neighbours can be told apart.
        let up = u64::try_from(at % 3).unwrap_or(0).saturating_mul(8);
        let y = row.saturating_add(1).saturating_mul(ROW).saturating_sub(up);
        let _ = write!(
            svg,
            "<circle cx='{x}' cy='{y}' r='4' class='{kind}'><title>{} {}</title></circle>",
            micros / 1_000,
            escaped(text)
        );
        let _ = write!(
            rows,
            "<tr><td>{}</td><td class='{kind}'>{kind}</td><td>{}</td></tr>",
            micros / 1_000,
            escaped(text)
        );
    }
    let mut violations = String::new();
    for (id, text) in outcome.violations().take(100) {
        let _ = write!(violations, "<li>{id}: {}</li>", escaped(text));
    }
    let found = if violations.is_empty() {
        "every property holds".to_owned()
    } else {
        format!("<ul>{violations}</ul>")
    };
    format!(
        "<!doctype html><meta charset='utf-8'><title>seed {seed}</title><style>body{{font:14px sans-serif;margin:1em}}\
         svg{{border:1px solid #ccc}}.row{{stroke:#bbb}}.time{{stroke:#eee;font-size:11px}}text{{stroke:none}}.fault{{fill:#c33;color:#c33}}\
         .node{{fill:#36c;color:#36c}}.leader{{fill:#c80;color:#c80}}.steward{{fill:#283;color:#283}}\
         .panic,.finding{{fill:#000}}div{{overflow-x:auto}}td{{padding:0 .6em}}</style>\
         <h1>seed {seed}, digest {:016x}</h1><p>{found}</p><div><svg width='{width}' height='{height}'>{svg}</svg></div>\
         <pre>{}</pre><table><tr><th>ms<th><th></tr>{rows}</table>\n",
        outcome.digest,
        escaped(options)
    )
}
