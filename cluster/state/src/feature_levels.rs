//! Feature levels: from which level of the cluster on its log may hold which command.
//!
//! ```text
//!   a build knows levels up to FEATURE_LEVEL      the cluster has one, in the log: RaiseLevel, once every member knows it
//!   command above the cluster's level -> refused   level above the build's -> this node's fold stops, and says why
//! ```
//!
//! A change of what a command does is chosen by the level, too. The first level is that of release 0.1 and nothing before it: builds
//! that say no level were never released, and a cluster of them is stopped as a whole and started with this one.
//!
//! So a release may bring commands that the one before cannot read, and both run in one cluster while it is upgraded. A
//! cluster of before there were levels is at the first. The level of the peer protocol is another number: that one says
//! how nodes speak, this one what they may write down for each other.

use featureops_proto::log::entry::Command as C;
use featureops_proto::log::{RaiseLevel, Refusal};
use featureops_proto::{ErrorCode, log};

use crate::State;
use crate::members::MAX_MEMBERS;

/// The level of a cluster that never had another.
pub const FIRST_FEATURE_LEVEL: u32 = 1;
/// The highest level that this build knows.
pub const FEATURE_LEVEL: u32 = 2;

/// From which on owners are placed by marks.
const MARKS_LEVEL: u32 = 2;

/// What each level brings, in one sentence.
pub const FEATURE_LEVELS: [(u32, &str); 2] = [
    (FIRST_FEATURE_LEVEL, "everything up to release 0.1"),
    (
        2,
        "owners are placed over the members by marks of who is up (cluster.liveness); backups are noted in the log \
         (cluster.note_backup); clusters that were restored from one",
    ),
];

/// The level from which on the log may hold a command: the one table. What is not named is of the first.
const fn needed(kind: &C) -> u32 {
    match kind {
        C::NoteBackup(_) => 2,
        C::NoteLiveness(_) => MARKS_LEVEL,
        _ => FIRST_FEATURE_LEVEL,
    }
}

/// The level that a command brings about, if it does.
fn brought(kind: &C) -> u32 {
    match kind {
        C::Initialize(c) => c.feature_level,
        // One that says nothing of the members is refused, and raises nothing.
        C::RaiseLevel(c) if is_said(c) && behind(c).is_none() => c.feature_level,
        _ => 0,
    }
}

/// Whether it says of a bounded number of members what each knows.
pub fn is_said(raise: &RaiseLevel) -> bool {
    (1..=MAX_MEMBERS).contains(&raise.members.len())
}

/// The first member that does not know the level; `None` when all that are named do.
pub fn behind(raise: &RaiseLevel) -> Option<&log::MemberLevel> {
    raise.members.iter().find(|member| member.feature_level < raise.feature_level)
}

impl State {
    /// The level that the cluster is at.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.feature_level.max(FIRST_FEATURE_LEVEL)
    }

    /// Whether the log may hold marks of who is up.
    #[must_use]
    pub fn may_hold_marks(&self) -> bool {
        self.feature_level() >= MARKS_LEVEL
    }

    /// A state that knows levels up to `level_max` only, as an older build would.
    #[must_use]
    pub fn limited_to(level_max: u32) -> Self {
        Self { level_max: Some(level_max), ..Self::default() }
    }

    /// The highest level that this state can be at.
    #[must_use]
    pub fn feature_level_max(&self) -> u32 {
        self.level_max.unwrap_or(FEATURE_LEVEL).min(FEATURE_LEVEL)
    }

    /// Takes over what the state before it was limited to, which no snapshot holds.
    ///
    /// # Errors
    /// The cluster is at a level beyond it.
    pub fn limit_as(&mut self, before: &Self) -> Result<(), String> {
        self.level_max = before.level_max;
        check_known(self.feature_level(), self.feature_level_max())
    }

    /// Why the fold stopped, if it met a level that this build does not know.
    #[must_use]
    pub fn stopped_at_level(&self) -> Option<&str> {
        self.stopped_at_level.as_deref()
    }

    /// What stops this build at a command that leads beyond the levels it knows.
    pub(crate) fn beyond(&self, kind: &C) -> Option<String> {
        check_known(brought(kind), self.feature_level_max()).err()
    }

    /// Refuses what the cluster's level does not allow yet.
    pub(crate) fn check_level(&self, kind: &C, action: &str) -> Result<(), Refusal> {
        let (needed, level) = (needed(kind), self.feature_level());
        if needed <= level {
            return Ok(());
        }
        let message = format!(
            "{action} takes feature level {needed}, and the cluster is at {level}: upgrade every node ('featureops upgrade \
             plan'), then 'featureops upgrade raise --to {needed}'"
        );
        Err(Refusal::new(ErrorCode::FeatureLevelTooLow, "feature_level", level, message))
    }
}

/// Refuses a level that the build does not know.
///
/// # Errors
/// It is beyond `level_max`; the text names both, and the way out.
pub fn check_known(level: u32, level_max: u32) -> Result<(), String> {
    if level <= level_max {
        return Ok(());
    }
    Err(format!(
        "the cluster is at feature level {level}, and this build knows levels up to {level_max}: start a release that knows \
         level {level} (featureops upgrade plan on a node that runs names the releases)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_told_and_none_is_beyond_the_last() {
        assert_eq!(FEATURE_LEVELS.last().map(|(level, _)| *level), Some(FEATURE_LEVEL));
        assert!(FEATURE_LEVELS.iter().map(|(level, _)| *level).eq(FIRST_FEATURE_LEVEL..=FEATURE_LEVEL));
        assert_eq!(needed(&C::NoteBackup(log::NoteBackup::default())), 2);
    }
}
