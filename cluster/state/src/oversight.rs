//! Who may act without a person: the minimum over environment, action class and flag; and freeze windows.

use featureops_proto::unix_ms;
use featureops_proto::v1::{AutonomyLevel, AutonomyLevels, Oversight};

use crate::State;
use crate::state::Key;

/// Freeze windows of an environment.
pub const MAX_FREEZES: usize = 64;

/// What a decision does, as far as autonomy is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionClass {
    /// Moves traffic.
    Reallocate,
    /// Serves the safe variant.
    Trip,
    /// Makes a variant the default.
    Promote,
}

impl ActionClass {
    /// Key of the class in an environment's limits.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reallocate => "reallocate",
            Self::Trip => "trip",
            Self::Promote => "promote",
        }
    }

    const fn protects(self) -> bool {
        matches!(self, Self::Trip)
    }
}

/// A flag's levels until somebody sets them: a person approves growth, protection acts.
pub fn default_levels() -> AutonomyLevels {
    AutonomyLevels { growth: AutonomyLevel::A2Recommend as i32, protection: AutonomyLevel::A3Guarded as i32 }
}

impl State {
    /// The level in force for an action on a flag.
    pub(crate) fn effective_level(&self, flag: &Key, class: ActionClass) -> AutonomyLevel {
        let side = |levels: &AutonomyLevels| if class.protects() { levels.protection } else { levels.growth };
        let own = self.flags.get(flag).and_then(|f| f.autonomy).unwrap_or_else(default_levels);
        let mut level = limit(side(&own));
        if let Some(environment) = self.oversight.get(&flag.0).and_then(|o| o.definition.as_ref()) {
            if let Some(limits) = &environment.limits {
                level = level.min(limit(side(limits)));
            }
            if let Some(action) = environment.action_limits.get(class.name()) {
                level = level.min(limit(*action));
            }
        }
        AutonomyLevel::try_from(level).unwrap_or(AutonomyLevel::A0Off)
    }

    /// End of the freeze window that log time lies in.
    pub(crate) fn frozen_until(&self, environment: &str) -> Option<i64> {
        let now = self.clock.now_ms();
        let windows = &self.oversight.get(environment)?.definition.as_ref()?.freezes;
        windows
            .iter()
            .filter_map(|w| Some((unix_ms(w.start.as_ref()?), unix_ms(w.end.as_ref()?))))
            .filter(|(start, end)| *start <= now && now < *end)
            .map(|(_, end)| end)
            .max()
    }

    /// An environment's limits; empty ones when nobody set any.
    #[must_use]
    pub fn oversight(&self, environment: &str) -> Oversight {
        let record = self.oversight.get(environment);
        let mut oversight = record.and_then(|r| r.definition.clone()).unwrap_or_default();
        oversight.name = format!("environments/{environment}/oversight");
        oversight.etag = format!("o{}", record.map_or(0, |r| r.version));
        oversight
    }
}

/// Unspecified sets no limit.
fn limit(level: i32) -> i32 {
    if level == AutonomyLevel::Unspecified as i32 { AutonomyLevel::A5Autopilot as i32 } else { level }
}
