//! Marks of members: the system says who is up, people say who drains and how much each takes.

use featureops_proto::ErrorCode;
use featureops_proto::log::{ClusterMember, Done, LivenessMark, LivenessRecord, NoteLiveness, Refusal};
use featureops_proto::v1::member::Mark;
use featureops_proto::v1::principal;

use super::{Context, Outcome, refuse};
use crate::State;
use crate::effect::Effect;
use crate::liveness::OWNER_WEIGHT_MAX;
use crate::members::MAX_MEMBERS;

impl State {
    pub(super) fn note_liveness(
        &mut self,
        ctx: &Context,
        c: &NoteLiveness,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        self.check_liveness(ctx, c)?;
        let mut told = Vec::new();
        for mark in &c.marks {
            let before =
                self.liveness.get(&mark.node).filter(|record| record.incarnation == mark.incarnation);
            let before = before.cloned().unwrap_or_else(|| LivenessRecord {
                node: mark.node,
                incarnation: mark.incarnation,
                ..LivenessRecord::default()
            });
            let after = changed(ctx, &before, mark);
            if after == before {
                continue;
            }
            let mut words = changes(&before, &after);
            if after.mark() == Mark::Up && after.boot != before.boot {
                let raised = self.raise_epochs(mark.node, effects);
                words.push(format!("{raised} owners begin anew"));
            }
            told.push(format!("node {} {}", mark.node, words.join(", ")));
            self.liveness.insert(mark.node, after);
        }
        if told.is_empty() {
            return Ok(Outcome { detail: "as it was".to_owned(), ..Outcome::from(Done::default()) });
        }
        effects.push(Effect::LivenessChanged);
        let done = Done { took_effect: true, ..Done::default() };
        Ok(Outcome { detail: told.join("; "), ..Outcome::from(done) })
    }

    fn check_liveness(&self, ctx: &Context, c: &NoteLiveness) -> Result<(), Refusal> {
        let invalid = |field: &str, value: String, message: String| {
            refuse(ErrorCode::InvalidArgument, field, value, message)
        };
        if c.marks.is_empty() || c.marks.len() > MAX_MEMBERS {
            return invalid("marks", c.marks.len().to_string(), format!("1 to {MAX_MEMBERS}"));
        }
        let mut last = 0;
        for mark in &c.marks {
            if mark.node <= last {
                return invalid("marks.node", mark.node.to_string(), "numbers rise from 1".to_owned());
            }
            last = mark.node;
            if self.noted(mark.node).is_none_or(|member| member.incarnation != mark.incarnation) {
                let message =
                    "no member of that number and incarnation is noted; see featureops cluster members";
                return refuse(ErrorCode::NotFound, "node", mark.node, message);
            }
            let says = mark.mark() != Mark::Unspecified;
            if says && ctx.principal.kind() != principal::Kind::System {
                let message = "who is up is what the leader hears, nobody's to say";
                return refuse(ErrorCode::NotPermitted, "principal", ctx.caller(), message);
            }
            if says && mark.boot == 0 && mark.mark() != Mark::Down {
                return invalid("marks.boot", "0".to_owned(), "missing".to_owned());
            }
            if mark.draining.is_some() || mark.owner_weight.is_some() {
                ctx.require_human("to drain a member or to give it a weight")?;
            }
            if let Some(weight) = mark.owner_weight
                && !(1..=OWNER_WEIGHT_MAX).contains(&weight)
            {
                return invalid(
                    "owner_weight",
                    weight.to_string(),
                    format!("1 to {OWNER_WEIGHT_MAX}; a member that shall own nothing is drained"),
                );
            }
            if mark.draining == Some(true) && !self.another_may_own(c) {
                let message = "no other voter is up that could take its owners and the lead: let one join and promote it, or take back \
                               the drain of one (featureops cluster drain NODE --undo)";
                return refuse(ErrorCode::WrongState, "node", mark.node, message);
            }
        }
        Ok(())
    }

    fn noted(&self, node: u64) -> Option<&ClusterMember> {
        self.members
            .members
            .iter()
            .filter_map(|record| record.member.as_ref())
            .find(|member| member.node == node)
    }

    /// Whether a voter is up that does not drain, also once all that the command says is so.
    fn another_may_own(&self, c: &NoteLiveness) -> bool {
        let drained = |node: u64| c.marks.iter().any(|mark| mark.node == node && mark.draining == Some(true));
        let draining = |node: u64| self.liveness.get(&node).is_some_and(|record| record.draining);
        self.candidates().iter().any(|candidate| !drained(candidate.node) && !draining(candidate.node))
    }

    /// A new life of a node owns under new epochs: what the last one had under way is fenced off.
    fn raise_epochs(&mut self, node: u64, effects: &mut Vec<Effect>) -> usize {
        let owns = |record: &featureops_proto::log::ExperimentRecord| {
            record.end_ms == 0 && record.owner.as_ref().is_some_and(|owner| owner.node == node)
        };
        let owned: Vec<u32> =
            self.experiments.values().filter(|record| owns(record)).map(|record| record.number).collect();
        owned.iter().filter(|number| self.assign_owner(**number, node, None, effects)).count()
    }

    /// Marks of who is no member any more, or is another one under its number, go.
    pub(super) fn forget_liveness(&mut self) {
        let members = &self.members.members;
        self.liveness.retain(|node, record| {
            let mut noted = members.iter().filter_map(|noted| noted.member.as_ref());
            noted.any(|noted| noted.node == *node && noted.incarnation == record.incarnation)
        });
    }
}

fn changed(ctx: &Context, before: &LivenessRecord, mark: &LivenessMark) -> LivenessRecord {
    let mut after = before.clone();
    if mark.mark() != Mark::Unspecified {
        after.mark = mark.mark;
        if mark.boot != 0 {
            after.boot = mark.boot;
        }
        if (after.mark, after.boot) != (before.mark, before.boot) {
            after.marked_ms = ctx.now_ms;
        }
    }
    if let Some(draining) = mark.draining
        && draining != before.draining
    {
        after.draining = draining;
        after.drained_by = Some(ctx.principal.clone());
    }
    if let Some(weight) = mark.owner_weight {
        after.owner_weight = weight;
    }
    after
}

/// A change, in words.
fn changes(before: &LivenessRecord, after: &LivenessRecord) -> Vec<String> {
    let mut words = Vec::new();
    if (before.mark, before.boot) != (after.mark, after.boot) {
        words.push(match after.mark() {
            Mark::Up if before.mark() == Mark::Up => "is up in a new life".to_owned(),
            Mark::Up => "is up".to_owned(),
            Mark::Left => "ends by its own word".to_owned(),
            Mark::Down | Mark::Unspecified => "is down".to_owned(),
        });
    }
    match (before.draining, after.draining) {
        (false, true) => words.push("drains".to_owned()),
        (true, false) => words.push("drains no more".to_owned()),
        _ => {}
    }
    if before.owner_weight != after.owner_weight {
        words.push(format!("takes owners by weight {}", after.owner_weight));
    }
    words
}
