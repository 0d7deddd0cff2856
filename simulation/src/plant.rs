//! Planted defects: what a product with the bug would have shown, put where the checkers look.
//!
//! Three plants are real ones (a disk whose syncs lie, a producer that reports twice, a fold that forgets a part of a sum); they
//! work inside the world. The others change
//! the record of a world that was fine. A plant that finds no place to go says so: it must never pass for a caught one.

use featureops_proto::v1::decision::{Action, Status};
use featureops_proto::v1::{self, Decision};

use crate::checks::tripped_at;
use crate::history::{CommandOutcome, Commanded, Seen, Settled};
use crate::plan::{Plan, Plant};

/// Plants into the record. False when there was no place for it.
pub fn plant(plan: &Plan, seen: &mut Seen) -> bool {
    match plan.plant {
        None
        | Some(
            Plant::DroppedSync
            | Plant::DoubleCount
            | Plant::LostCommand
            | Plant::LeakyFold
            | Plant::NoDedup
            | Plant::VoteForgotten
            | Plant::EarlyAck
            | Plant::MinorityCommit,
        ) => true,
        Some(
            cluster @ (Plant::FenceSkipped
            | Plant::EpochIgnored
            | Plant::TwoLeaders
            | Plant::SilentReplica
            | Plant::StaleReplica),
        ) => plant_in_cluster(cluster, seen),
        Some(Plant::TreatmentUnderTrip) => {
            let place = seen
                .evaluations
                .iter()
                .position(|evaluated| tripped_at(seen, &evaluated.flag, evaluated.answer.flag_version));
            let Some(evaluated) = place.and_then(|place| seen.evaluations.get_mut(place)) else {
                return false;
            };
            evaluated.answer.variant = Some("treatment".to_owned());
            true
        }
        Some(Plant::FlippedArm) => {
            let sent = seen.evaluations.iter_mut().find(|evaluated| {
                let version = evaluated.answer.flag_version;
                let same = |sent: &crate::history::Receipted| sent.flag_version == version;
                evaluated.sent_receipt.as_ref().is_some_and(same) && !evaluated.answer.receipt.is_empty()
            });
            let Some(evaluated) = sent else { return false };
            let control = evaluated.answer.variant.as_deref() == Some("control");
            evaluated.answer.variant = Some(if control { "treatment" } else { "control" }.to_owned());
            true
        }
        Some(Plant::SilentUnderAilment) => {
            let quiet = crate::checks::ailing_windows(plan, seen);
            let before = seen.evaluations.len();
            seen.evaluations
                .retain(|evaluated| !quiet.iter().any(|window| window.contains(&evaluated.asked)));
            seen.evaluations.len() < before
        }
        Some(Plant::AgentApproved) => {
            let mut commands = seen.commands.iter_mut();
            let Some(command) = commands.find(|command| command.verb == "approve as agent") else {
                return false;
            };
            command.outcome = CommandOutcome::Done(None);
            true
        }
        Some(Plant::LostUnit) => {
            let Some(membership) = seen.memberships.iter_mut().find(|one| one.expected) else { return false };
            membership.told = false;
            true
        }
        Some(Plant::KeptUnit) => {
            let Some(erased) = seen.erased.iter().find(|erased| erased.stays > 0) else { return false };
            let Some((_, refolded)) = seen.refolded.first_mut() else { return false };
            refolded.held.push(erased.unit.clone());
            true
        }
        Some(Plant::SkippedStep) => {
            let settled = seen.settled.iter_mut().flat_map(|(_, settled)| &mut settled.decisions);
            let mut steps = settled.filter(|decision| decision.policy == "ramp/1");
            let Some(weights) = steps.find_map(|decision| decision.weights_after.get_mut(1)) else {
                return false;
            };
            *weights = weights.saturating_add(1);
            true
        }
        Some(Plant::EarlySchedule) => {
            let settled = seen.settled.iter_mut().flat_map(|(_, settled)| &mut settled.schedules);
            let done = settled.filter(|schedule| schedule.state() == v1::schedule::State::Done);
            let Some(time) = done.filter_map(|schedule| schedule.finish_time.as_mut()).next() else {
                return false;
            };
            time.seconds = time.seconds.saturating_sub(10);
            true
        }
        Some(Plant::WrongWeights) => weights(seen, [5_000, 5_001]),
        Some(Plant::OverCap) => weights(seen, [3_999, 6_001]),
        Some(Plant::NoVariant) => {
            let Some(evaluated) = seen.evaluations.last_mut() else { return false };
            (evaluated.answer.variant, evaluated.answer.error) = (None, 0);
            true
        }
        Some(Plant::AuditGap) => {
            let mut chains = seen.settled.iter_mut().map(|(_, settled)| &mut settled.records);
            let Some(records) = chains.find(|records| records.len() > 2) else { return false };
            records.remove(records.len() / 2);
            true
        }
        Some(Plant::TwoOwners) => {
            let Some(decision) = reallocation(seen).cloned() else { return false };
            let Some((_, settled)) = seen.settled.first_mut() else { return false };
            settled.decisions.push(decision);
            true
        }
        Some(Plant::StaleDecision) => {
            let Some(decision) = reallocation(seen) else { return false };
            decision.flag_version_before = decision.flag_version_before.saturating_sub(1);
            decision.resolved_by = None;
            true
        }
        Some(Plant::BoundBroken) => {
            let mut statuses = seen.settled.iter_mut().flat_map(|(_, settled)| &mut settled.experiments);
            let Some(status) = statuses.next() else { return false };
            status.rows = plan.units.saturating_add(1);
            true
        }
        Some(Plant::SharedSlot) => seen.settled.iter_mut().any(|(_, settled)| shared_slot(settled)),
        Some(Plant::PhantomUnit) => {
            let mut statuses = seen.settled.iter_mut().flat_map(|(_, settled)| &mut settled.experiments);
            let Some(status) = statuses.next() else { return false };
            status.exposed_units = status.exposed_units.saturating_add(1);
            true
        }
        Some(Plant::OldVersion) => old_version(seen),
        Some(Plant::StaleRead) => {
            let done = |command: &Commanded| match command.outcome {
                CommandOutcome::Done(Some(version)) => {
                    Some((command.flag.clone(), command.answered, version))
                }
                _ => None,
            };
            let written: Vec<_> = seen.commands.iter().filter_map(done).collect();
            let place = seen.reads.iter_mut().find_map(|read| {
                let before = written.iter().filter(|(flag, at, _)| *flag == read.flag && *at <= read.asked);
                let newest = before.map(|(_, _, version)| *version).max().filter(|newest| *newest > 0)?;
                Some((read, newest))
            });
            let Some((read, newest)) = place else { return false };
            read.version = newest.saturating_sub(1);
            true
        }
        Some(Plant::OtherReplay) => {
            let replays = seen.settled.iter_mut().flat_map(|(_, settled)| &mut settled.replays);
            let kept = |replay: &v1::ReplayDecisionResponse| {
                let inputs = replay.recorded.as_ref().and_then(|recorded| recorded.inputs.as_ref());
                inputs.is_some_and(|inputs| !inputs.strata.is_empty())
            };
            let Some((_, replay)) = replays.into_iter().find(|(_, replay)| kept(replay)) else {
                return false;
            };
            replay.same = false;
            true
        }
        Some(Plant::ShortFold) => {
            let folds = seen.refolded.iter_mut().flat_map(|(_, refolded)| &mut refolded.folds);
            let slots = folds.flat_map(|fold| &mut fold.held).flat_map(|stratum| &mut stratum.arms);
            let mut squares = slots.flat_map(|arm| &mut arm.slots).filter_map(|slot| slot.squares.as_mut());
            let Some(squares) = squares.find(|squares| squares.get() > 1) else { return false };
            *squares = v1::Int128::new(squares.get().saturating_sub(1));
            true
        }
        Some(Plant::WrongDigest) => {
            let Some(checkpoint) = seen.checkpoints.last_mut() else { return false };
            checkpoint.digest ^= 1;
            true
        }
    }
}

/// What several nodes would have shown.
fn plant_in_cluster(plant: Plant, seen: &mut Seen) -> bool {
    match plant {
        Plant::FenceSkipped => {
            let Some((_, log)) = seen.refolded.first_mut() else { return false };
            // One that was refused for its epoch, after one that was decided under the next.
            let late = log.stamped.iter().position(|stamped| stamped.late);
            let Some(late) = late.and_then(|late| log.stamped.get_mut(late)) else { return false };
            late.accepted = true;
            true
        }
        Plant::EpochIgnored => {
            let Some((_, log)) = seen.refolded.first_mut() else { return false };
            let accepted = log.stamped.iter_mut().filter(|stamped| stamped.accepted && stamped.epoch > 1);
            let Some(last) = accepted.last() else { return false };
            last.epoch = last.epoch.saturating_sub(1);
            true
        }
        Plant::TwoLeaders => {
            let said = seen.standings.iter().rposition(|standing| standing.leads);
            let Some(said) = said.and_then(|said| seen.standings.get(said)).cloned() else { return false };
            let other = said.leader % 3 + 1;
            seen.standings.push(crate::history::Standing { machine: other, leader: other, ..said });
            true
        }
        Plant::SilentReplica => {
            let mut probes = seen.probes.iter_mut().filter(|probe| probe.owed);
            let Some(probe) = probes.next_back() else { return false };
            probe.version = None;
            true
        }
        Plant::StaleReplica => {
            let newest: Vec<_> = seen
                .reads
                .iter()
                .filter(|read| !read.stale)
                .map(|read| (read.flag.clone(), read.answered, read.machine, read.version))
                .collect();
            let place = seen.reads.iter_mut().rev().filter(|read| !read.stale).find_map(|read| {
                let before = newest.iter().find(|(flag, answered, machine, version)| {
                    *flag == read.flag && *answered < read.asked && *machine != read.machine && *version > 0
                })?;
                Some((read, before.3))
            });
            let Some((read, version)) = place else { return false };
            read.version = version.saturating_sub(1);
            true
        }
        _ => false,
    }
}

/// Gives one flag of a layer a slot that another has.
fn shared_slot(settled: &mut Settled) -> bool {
    let mut allocations = settled
        .flags
        .iter_mut()
        .filter_map(|(flag, _)| flag.allocation.as_mut())
        .filter(|one| !one.slots.is_empty());
    let (Some(first), Some(other)) = (allocations.next(), allocations.next()) else { return false };
    other.slots.extend(first.slots.first().copied());
    true
}

/// Takes a version from an answer that was asked for after another one of its flag and life had come.
fn old_version(seen: &mut Seen) -> bool {
    let came: Vec<_> = seen
        .evaluations
        .iter()
        .filter(|evaluated| evaluated.life > 0 && evaluated.answer.flag_version > 0)
        .map(|one| (one.flag.clone(), one.life, one.answered, one.answer.flag_version))
        .collect();
    let place = seen.evaluations.iter_mut().rev().find_map(|evaluated| {
        let before = came.iter().find(|(flag, life, answered, _)| {
            *flag == evaluated.flag && *life == evaluated.life && *answered < evaluated.asked
        })?;
        Some((evaluated, before.3))
    });
    let Some((evaluated, version)) = place else { return false };
    evaluated.answer.flag_version = version.saturating_sub(1);
    true
}

/// Gives the first allocation that was read these weights, its runs as they are.
fn weights(seen: &mut Seen, weights: [u32; 2]) -> bool {
    let flags = seen.settled.iter_mut().flat_map(|(_, settled)| &mut settled.flags);
    let Some(allocation) = flags.filter_map(|(flag, _)| flag.allocation.as_mut()).next() else {
        return false;
    };
    allocation.weights_basis_points = weights.to_vec();
    true
}

/// A reallocation that took effect, on the first machine.
fn reallocation(seen: &mut Seen) -> Option<&mut Decision> {
    let (_, settled) = seen.settled.first_mut()?;
    settled.decisions.iter_mut().find(|decision| {
        decision.action() == Action::Reallocate
            && decision.status() == Status::Applied
            && decision.flag_version_after > 0
    })
}
