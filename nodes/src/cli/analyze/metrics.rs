//! What `--metric` says: `NAME=COLUMN:KIND`.

use crate::cli::failure::Failure;

/// What a column means.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Converted or not; with several rows a unit, converted in any.
    Proportion,
    /// The unit's sum.
    Mean,
    /// A quantile of the units' sums.
    Quantile(f64),
    /// The mean of sums that are cut at this quantile of both arms together.
    Winsorised(f64),
    /// Sum over the sum of this column.
    Ratio(String),
}

impl Kind {
    /// Whether every unit's value must be held until the end.
    #[must_use]
    pub const fn holds_values(&self) -> bool {
        matches!(self, Self::Quantile(_) | Self::Winsorised(_))
    }

    /// As it was written.
    #[must_use]
    pub fn word(&self) -> String {
        match self {
            Self::Proportion => "proportion".to_owned(),
            Self::Mean => "mean".to_owned(),
            Self::Quantile(level) => format!("quantile@{level}"),
            Self::Winsorised(level) => format!("winsorised@{level}"),
            Self::Ratio(column) => format!("ratio/{column}"),
        }
    }
}

/// A metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Its name in the results.
    pub name: String,
    /// Where it is read from.
    pub column: String,
    /// What it means.
    pub kind: Kind,
    /// Less is better.
    pub lower_is_better: bool,
    /// Must not get worse by more than this share.
    pub guardrail: Option<f64>,
}

/// Metrics of one analysis.
const METRICS_MAX: usize = 100;

/// Reads them all.
///
/// # Errors
/// What is wrong with which.
pub fn parse(texts: &[String], guardrails: &[String], lower: &[String]) -> Result<Vec<Metric>, Failure> {
    if texts.is_empty() || texts.len() > METRICS_MAX {
        return Err(Failure::usage(format!(
            "--metric is given {} times; an analysis has 1 to {METRICS_MAX}, as --metric retention=retained:proportion",
            texts.len()
        )));
    }
    let mut metrics: Vec<Metric> = Vec::with_capacity(texts.len());
    for text in texts {
        let wrong = |why: &str| Failure::usage(format!("--metric '{text}': {why}"));
        let (name, rest) = text.split_once('=').ok_or_else(|| wrong("must be NAME=COLUMN:KIND"))?;
        let (column, kind) = rest.rsplit_once(':').ok_or_else(|| wrong("must be NAME=COLUMN:KIND"))?;
        let level = |text: &str| {
            text.parse()
                .ok()
                .filter(|level: &f64| *level > 0.0 && *level < 1.0)
                .ok_or_else(|| wrong("the level after @ must lie above 0 and below 1, as quantile@.9"))
        };
        let kind = match kind.split_once('@') {
            Some(("quantile", at)) => Kind::Quantile(level(at)?),
            Some(("winsorised" | "winsorized", at)) => Kind::Winsorised(level(at)?),
            _ => match (kind, kind.strip_prefix("ratio/")) {
                ("proportion", _) => Kind::Proportion,
                ("mean" | "count", _) => Kind::Mean,
                (_, Some(below)) if !below.is_empty() => Kind::Ratio(below.to_owned()),
                _ => {
                    return Err(wrong(
                        "KIND is proportion, mean, count, quantile@P, winsorised@P or ratio/COLUMN",
                    ));
                }
            },
        };
        if name.is_empty() || column.is_empty() || metrics.iter().any(|metric| metric.name == name) {
            return Err(wrong("needs a name of its own and a column"));
        }
        metrics.push(Metric {
            name: name.to_owned(),
            column: column.to_owned(),
            kind,
            lower_is_better: false,
            guardrail: None,
        });
    }
    let names: Vec<String> = metrics.iter().map(|metric| metric.name.clone()).collect();
    let mut find = |option: &str, name: &str, set: &dyn Fn(&mut Metric)| {
        let metric = metrics.iter_mut().find(|metric| metric.name == name);
        let metric = metric.ok_or_else(|| {
            Failure::usage(format!("{option} '{name}' names no --metric; there are {}", names.join(", ")))
        })?;
        set(metric);
        Ok::<(), Failure>(())
    };
    for name in lower {
        find("--lower-is-better", name, &|metric| metric.lower_is_better = true)?;
    }
    for text in guardrails {
        let (name, margin) = text.split_once('=').unwrap_or((text, "0.01"));
        let margin: f64 =
            margin.parse().ok().filter(|margin| *margin >= 0.0 && *margin < 10.0).ok_or_else(|| {
                Failure::usage(format!("--guardrail '{text}': the margin is a share, as {name}=0.01"))
            })?;
        find("--guardrail", name, &|metric| metric.guardrail = Some(margin))?;
    }
    Ok(metrics)
}
