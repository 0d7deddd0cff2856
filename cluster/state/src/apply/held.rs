//! What stands while an experiment holds a flag: what that flag serves, and what it rests on, is for people to change.
//!
//! ```text
//!   served(checkout), held ── rests on ──> served(new-cart) ── rests on ──> served(payments)
//!        │                                      │
//!        └── asks about ──> segments            └── asks about ──> segments        shared rules, source, metadata
//! ```
//!
//! An experiment's caps and floors bound only what its arms divide: a rule in front of them, another value behind them, or
//! another answer of what the flag rests on would go around every one. So every path that writes asks here.

use featureops_proto::log::Refusal;
use featureops_proto::v1::{Environment, Flag};

use super::Context;
use crate::State;
use crate::flags::above;
use crate::state::Key;

impl State {
    /// The flag, or else one that rests on it however far up, if an experiment holds it.
    pub(super) fn held_over(&self, environment: &str, flag: &str) -> Option<String> {
        let held = |id: &str| self.flag_record(environment, id).is_some_and(|record| record.experiment != 0);
        if held(flag) {
            return Some(flag.to_owned());
        }
        self.resting_on(environment, flag).into_iter().find(|id| held(id))
    }

    /// Refuses to anybody but a person a definition by which a held flag would serve something else.
    pub(super) fn check_serves_held(
        &self,
        ctx: &Context,
        key: &Key,
        definition: &Flag,
    ) -> Result<(), Refusal> {
        if ctx.is_human() {
            return Ok(());
        }
        let record = self.flags.get(key).filter(|record| !record.archived);
        let before = record.and_then(|record| record.definition.as_ref());
        if record.is_some_and(|record| record.experiment != 0) {
            if before.is_some_and(|before| shown(before) == shown(definition)) {
                return Ok(());
            }
            return ctx.require_human("changing what a flag serves while an experiment holds it");
        }
        if before.is_some_and(|before| served(before) == served(definition)) {
            return Ok(());
        }
        self.check_rested_on(ctx, key, "changing what a flag serves")
    }

    /// Refuses to anybody but a person what changes the answers of a flag that a held one rests on.
    pub(super) fn check_rested_on(&self, ctx: &Context, key: &Key, what: &str) -> Result<(), Refusal> {
        if ctx.is_human() {
            return Ok(());
        }
        match self.held_over(&key.0, &key.1) {
            None => Ok(()),
            Some(held) => ctx
                .require_human(&format!("{what} while an experiment holds flag {held}, which rests on it,")),
        }
    }

    /// Refuses to anybody but a person what everybody in a segment is then served, where a held flag asks about it.
    pub(super) fn check_asked_by_held(&self, ctx: &Context, segment: &Key) -> Result<(), Refusal> {
        if ctx.is_human() {
            return Ok(());
        }
        let asking = self.flags_asking(&segment.0, &segment.1);
        let found = asking.iter().find_map(|flag| Some((flag, self.held_over(&segment.0, flag)?)));
        match found {
            None => Ok(()),
            Some((flag, held)) if *flag == held => ctx.require_human(&format!(
                "changing a segment that flag {flag} asks about while an experiment holds that flag"
            )),
            Some((flag, held)) => ctx.require_human(&format!(
                "changing a segment that flag {flag} asks about while an experiment holds flag {held}, which rests on that,"
            )),
        }
    }

    /// Refuses to anybody but a person what an environment's flags share, while an experiment runs on one of them: shared
    /// rules that a held flag comes to, and who sees the set at all.
    pub(super) fn check_shared_by_held(
        &self,
        ctx: &Context,
        id: &str,
        given: &Environment,
    ) -> Result<(), Refusal> {
        if ctx.is_human() {
            return Ok(());
        }
        let none = Environment::default();
        let present =
            self.environments.get(id).and_then(|record| record.definition.as_ref()).unwrap_or(&none);
        let flags = || above(&self.flags, id, "");
        if (&present.source, &present.metadata) != (&given.source, &given.metadata)
            && let Some(held) = flags().find(|record| record.experiment != 0)
        {
            return ctx.require_human(&format!(
                "changing an environment's source or metadata while an experiment holds its flag {}",
                held.flag
            ));
        }
        if present.evaluators != given.evaluators {
            let refers = |flag: &Flag| flag.targeting.contains("$ref");
            let resting = flags()
                .filter(|record| record.definition.as_ref().is_some_and(refers))
                .any(|record| self.held_over(id, &record.flag).is_some());
            if resting {
                return ctx.require_human(
                    "changing shared rules while an experiment holds a flag that refers to one",
                );
            }
        }
        Ok(())
    }
}

/// What of a definition decides who is served what.
fn served(flag: &Flag) -> impl PartialEq + use<'_> {
    (
        (flag.r#type, &flag.variants, &flag.rules, &flag.targeting),
        (&flag.default_variant, &flag.safe_variant, flag.disabled, flag.stale_after_seconds),
        (&flag.prerequisites, &flag.forced),
    )
}

/// The same, and what decides which clients see the flag: selectors choose by its metadata.
pub(crate) fn shown(flag: &Flag) -> impl PartialEq + use<'_> {
    (served(flag), &flag.metadata)
}
