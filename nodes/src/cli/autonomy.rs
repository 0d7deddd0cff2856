//! `autonomy get|set|limit` and `freeze list|add|remove`: how far the platform may act alone, and when it may not grow.
//!
//! The effective level of an action is the minimum over the environment's limit, the action class's limit and the flag's
//! level. Limits and freezes live in one record; it is read, changed and written back under its etag, so that two
//! people at once get a conflict and not a lost change.

use clap::{Args, Subcommand, ValueEnum};
use featureops_proto::Collection::Flags;
use featureops_proto::v1;

use super::failure::Failure;
use super::page::{Cell, Page, Tone};
use super::render::{key_of, share_text};
use super::session::{Session, WriteArgs, rehearsed};
use super::span::{moment_text, parse_moment, parse_span};
use crate::rpc::administration_service_client::AdministrationServiceClient;

/// Who may act without a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Off.
    #[value(name = "A0")]
    A0,
    /// Observe: decisions are recorded, never applied.
    #[value(name = "A1")]
    A1,
    /// Recommend: a person approves.
    #[value(name = "A2")]
    A2,
    /// Guarded: may only reduce exposure.
    #[value(name = "A3")]
    A3,
    /// Bounded: reallocates, ramps, adds arms under the cap.
    #[value(name = "A4")]
    A4,
    /// Autopilot: generates, tests, promotes after a confirmatory phase.
    #[value(name = "A5")]
    A5,
}

impl Level {
    pub const fn message(self) -> v1::AutonomyLevel {
        match self {
            Self::A0 => v1::AutonomyLevel::A0Off,
            Self::A1 => v1::AutonomyLevel::A1Observe,
            Self::A2 => v1::AutonomyLevel::A2Recommend,
            Self::A3 => v1::AutonomyLevel::A3Guarded,
            Self::A4 => v1::AutonomyLevel::A4Bounded,
            Self::A5 => v1::AutonomyLevel::A5Autopilot,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum AutonomyCommand {
    /// Show a flag's levels, or without a flag the environment's limits.
    Get { flag: Option<String> },
    /// Set a flag's levels.
    Set {
        flag: String,
        #[command(flatten)]
        levels: LevelArgs,
        #[command(flatten)]
        request: WriteArgs,
    },
    /// Set the environment's limits.
    Limit {
        #[command(flatten)]
        levels: LevelArgs,
        /// A limit of an action class, as reallocate=A3 (reallocate, trip, promote). Repeatable.
        #[arg(long, value_name = "ACTION=LEVEL")]
        action: Vec<String>,
        /// Traffic to arms that are not established never exceeds it in any experiment, in basis points.
        #[arg(long, value_name = "BASIS_POINTS")]
        new_arm_budget: Option<u32>,
        #[command(flatten)]
        request: WriteArgs,
    },
}

#[derive(Debug, Args)]
pub struct LevelArgs {
    /// Actions that move traffic towards an arm.
    #[arg(long, value_enum, ignore_case = true)]
    growth: Option<Level>,
    /// Actions that only reduce exposure, as a trip does.
    #[arg(long, value_enum, ignore_case = true)]
    protection: Option<Level>,
}

impl LevelArgs {
    /// The levels in force with the given ones in their place.
    fn over(&self, now: Option<v1::AutonomyLevels>) -> v1::AutonomyLevels {
        let mut levels = now.unwrap_or_default();
        if let Some(level) = self.growth {
            levels.growth = level.message().into();
        }
        if let Some(level) = self.protection {
            levels.protection = level.message().into();
        }
        levels
    }

    const fn is_empty(&self) -> bool {
        self.growth.is_none() && self.protection.is_none()
    }
}

#[derive(Debug, Subcommand)]
pub enum FreezeCommand {
    /// List the windows.
    List,
    /// Add a window: from a time until a time, or for a span.
    Add {
        /// RFC 3339 or unix seconds [default: now, by log time].
        #[arg(long, value_name = "TIME", value_parser = parse_moment)]
        from: Option<prost_types::Timestamp>,
        #[arg(long, value_name = "TIME", value_parser = parse_moment, conflicts_with = "span")]
        until: Option<prost_types::Timestamp>,
        /// Instead of --until, as 48h.
        #[arg(long = "for", id = "span", value_name = "SPAN", value_parser = parse_span)]
        span: Option<std::time::Duration>,
        /// Why; people see it where a decision is blocked.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        request: WriteArgs,
    },
    /// Remove a window by its number in `freeze list`.
    Remove {
        number: usize,
        #[command(flatten)]
        request: WriteArgs,
    },
}

pub async fn run(session: &Session, command: AutonomyCommand) -> Result<(), Failure> {
    match command {
        AutonomyCommand::Get { flag: Some(key) } => {
            let flag = super::flag::fetch(session, &key).await?;
            session.show(&flag, |page| describe_flag(page, &flag))
        }
        AutonomyCommand::Get { flag: None } => {
            let oversight = oversight(session).await?;
            session.show(&oversight, |page| describe(page, &oversight))
        }
        AutonomyCommand::Set { flag, levels, request } => {
            if levels.is_empty() {
                return Err(Failure::usage("nothing to set: give --growth, --protection or both"));
            }
            // The request carries both levels: the one not given stays as it is.
            let now = if levels.growth.is_some() && levels.protection.is_some() {
                None
            } else {
                super::flag::fetch(session, &flag).await?.autonomy
            };
            let (id, write) = (request.id()?, request);
            let request = v1::SetFlagAutonomyRequest {
                name: session.name(Flags, &flag)?,
                autonomy: Some(levels.over(now)),
                request_id: id.clone(),
                validate_only: write.dry_run,
            };
            let flag = session
                .client
                .write(&id, request, |channel, request| async move {
                    AdministrationServiceClient::new(channel).set_flag_autonomy(request).await
                })
                .await?;
            session.show(&flag, |page| {
                describe_flag(page, &flag);
                rehearsed(page, &write);
            })
        }
        AutonomyCommand::Limit { levels, action, new_arm_budget, request } => {
            if levels.is_empty() && action.is_empty() && new_arm_budget.is_none() {
                return Err(Failure::usage(
                    "nothing to limit: give --growth, --protection, --action or --new-arm-budget",
                ));
            }
            let mut now = oversight(session).await?;
            if !levels.is_empty() {
                now.limits = Some(levels.over(now.limits));
            }
            for text in &action {
                let (action, level) = action_limit(text)?;
                now.action_limits.insert(action, level.message().into());
            }
            if new_arm_budget.is_some() {
                now.new_arm_budget_basis_points = new_arm_budget;
            }
            let written = write(session, now, &request).await?;
            session.show(&written, |page| {
                describe(page, &written);
                rehearsed(page, &request);
            })
        }
    }
}

pub async fn run_freeze(session: &Session, command: FreezeCommand) -> Result<(), Failure> {
    let mut now = oversight(session).await?;
    match command {
        FreezeCommand::List => session.show(&now, |page| freezes(page, &now)),
        FreezeCommand::Add { from, until, span, reason, request } => {
            let start = match from {
                Some(start) => start,
                // The cluster's clock is the one the window is compared with.
                None => super::doctor::fetch(session).await?.log_time.unwrap_or_default(),
            };
            let end = match (until, span) {
                (Some(end), _) => end,
                (None, Some(span)) => prost_types::Timestamp {
                    seconds: start.seconds.saturating_add(i64::try_from(span.as_secs()).unwrap_or(i64::MAX)),
                    nanos: start.nanos,
                },
                (None, None) => {
                    return Err(Failure::usage("a window needs an end: --until TIME or --for SPAN"));
                }
            };
            if end.seconds <= start.seconds {
                return Err(Failure::usage("the window ends before it begins"));
            }
            now.freezes.push(v1::FreezeWindow { start: Some(start), end: Some(end), reason });
            let written = write(session, now, &request).await?;
            session.show(&written, |page| {
                freezes(page, &written);
                rehearsed(page, &request);
            })
        }
        FreezeCommand::Remove { number, request } => {
            if number == 0 || number > now.freezes.len() {
                return Err(Failure::usage(format!(
                    "there is no window {number}; see: featureops freeze list"
                )));
            }
            now.freezes.remove(number - 1);
            let written = write(session, now, &request).await?;
            session.show(&written, |page| {
                freezes(page, &written);
                rehearsed(page, &request);
            })
        }
    }
}

async fn oversight(session: &Session) -> Result<v1::Oversight, Failure> {
    let request = v1::GetOversightRequest { name: format!("{}/oversight", session.parent()) };
    session
        .client
        .read(request, |channel, request| async move {
            AdministrationServiceClient::new(channel).get_oversight(request).await
        })
        .await
}

async fn write(
    session: &Session,
    oversight: v1::Oversight,
    request: &WriteArgs,
) -> Result<v1::Oversight, Failure> {
    let id = request.id()?;
    let etag = oversight.etag.clone();
    let request = v1::SetOversightRequest {
        oversight: Some(oversight),
        request_id: id.clone(),
        etag,
        validate_only: request.dry_run,
    };
    session
        .client
        .write(&id, request, |channel, request| async move {
            AdministrationServiceClient::new(channel).set_oversight(request).await
        })
        .await
}

fn action_limit(text: &str) -> Result<(String, Level), Failure> {
    let parsed = text
        .split_once('=')
        .and_then(|(action, level)| Some((action.to_ascii_lowercase(), Level::from_str(level, true).ok()?)));
    match parsed {
        Some((action, level)) if matches!(action.as_str(), "reallocate" | "trip" | "promote") => {
            Ok((action, level))
        }
        _ => Err(Failure::usage(format!(
            "--action '{text}' is not ACTION=LEVEL, with reallocate, trip or promote and A0 to A5"
        ))),
    }
}

/// `A4`, or `-`.
#[must_use]
pub fn level_text(level: v1::AutonomyLevel) -> &'static str {
    match level {
        v1::AutonomyLevel::Unspecified => "-",
        v1::AutonomyLevel::A0Off => "A0 off",
        v1::AutonomyLevel::A1Observe => "A1 observe",
        v1::AutonomyLevel::A2Recommend => "A2 recommend",
        v1::AutonomyLevel::A3Guarded => "A3 guarded",
        v1::AutonomyLevel::A4Bounded => "A4 bounded",
        v1::AutonomyLevel::A5Autopilot => "A5 autopilot",
    }
}

/// Both levels in a phrase.
#[must_use]
pub fn levels_text(levels: &v1::AutonomyLevels) -> String {
    format!("growth {}, protection {}", level_text(levels.growth()), level_text(levels.protection()))
}

fn describe_flag(page: &mut Page, flag: &v1::Flag) {
    let levels = flag.autonomy.unwrap_or_default();
    let or = |level, default: &str| match level {
        v1::AutonomyLevel::Unspecified => format!("{default}, by default"),
        level => level_text(level).to_owned(),
    };
    page.line(Tone::Strong, key_of(&flag.name));
    page.facts([
        ("growth", or(levels.growth(), "A2 recommend")),
        ("protection", or(levels.protection(), "A3 guarded")),
    ]);
}

fn describe(page: &mut Page, oversight: &v1::Oversight) {
    let limits = oversight.limits.unwrap_or_default();
    let or_none = |level| match level {
        v1::AutonomyLevel::Unspecified => "no limit of its own (A5)".to_owned(),
        level => level_text(level).to_owned(),
    };
    page.line(Tone::Strong, &oversight.name);
    page.facts([
        ("growth", or_none(limits.growth())),
        ("protection", or_none(limits.protection())),
        (
            "new-arm budget",
            oversight
                .new_arm_budget_basis_points
                .map_or_else(|| "no limit of its own".to_owned(), share_text),
        ),
        ("etag", oversight.etag.clone()),
    ]);
    if !oversight.action_limits.is_empty() {
        page.heading("Limits by action");
        let rows = oversight
            .action_limits
            .iter()
            .map(|(action, level)| {
                let level = v1::AutonomyLevel::try_from(*level).unwrap_or_default();
                vec![Cell::new(action), level_text(level).into()]
            })
            .collect();
        page.table(&["ACTION", "LIMIT"], rows, "");
    }
    page.heading("Freezes");
    freezes(page, oversight);
}

fn freezes(page: &mut Page, oversight: &v1::Oversight) {
    let rows = oversight
        .freezes
        .iter()
        .enumerate()
        .map(|(place, freeze)| {
            vec![
                Cell::number((place + 1).to_string()),
                Cell::new(moment_text(freeze.start.as_ref())),
                Cell::new(moment_text(freeze.end.as_ref())),
                Cell::new(&freeze.reason),
            ]
        })
        .collect();
    page.table(&["NUMBER", "FROM", "UNTIL", "REASON"], rows, "no freeze windows");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_not_given_stays() {
        let now = v1::AutonomyLevels {
            growth: v1::AutonomyLevel::A2Recommend.into(),
            protection: v1::AutonomyLevel::A3Guarded.into(),
        };
        let levels = LevelArgs { growth: Some(Level::A4), protection: None }.over(Some(now));
        assert_eq!(levels_text(&levels), "growth A4 bounded, protection A3 guarded");
    }

    #[test]
    fn action_limits_name_known_actions() {
        assert_eq!(action_limit("reallocate=a3").unwrap(), ("reallocate".to_owned(), Level::A3));
        for text in ["reallocate", "delete=A1", "trip=A9"] {
            assert!(action_limit(text).is_err(), "{text}");
        }
    }
}
