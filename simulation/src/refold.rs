//! The second reading of the log: everything that reached a disk, folded again from the beginning.
//!
//! The nodes got to their state by snapshots, restarts and replays. This gets there in one go. What the nodes told the auditor must
//! be what the log says: a snapshot that lost something, an entry applied twice, or a state that differs from its log shows here.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use featureops_cluster::storage::LogEntry;
use featureops_proto::log::{Entry, Reply, entry::Command, reply};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::{ErrorCode, v1};
use featureops_state::State;
use prost::Message;

use crate::folds::{Fold, fold_of, unfolding};
use crate::workload::ENVIRONMENT;

/// As much of a log record as is needed: the proposal, absent in raft's own entries.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(bytes = "bytes", tag = "2")]
    proposal: Bytes,
}

/// The proposal in a log record; none in raft's own entries, or where there is no record.
#[must_use]
pub fn proposal(record: &Bytes) -> Option<Bytes> {
    let proposal = Record::decode(record.clone()).ok()?.proposal;
    (!proposal.is_empty()).then_some(proposal)
}

/// A record of a proposal.
#[must_use]
pub fn with_proposal(proposal: Bytes) -> Bytes {
    Record { proposal }.encode_to_vec().into()
}

/// What the log says.
#[derive(Debug, Clone, Default)]
pub struct Refolded {
    /// Entries folded.
    pub entries: u64,
    /// Why the fold stopped, if it did.
    pub violation: Option<String>,
    /// Digests at the places asked for.
    pub digests: Vec<(u64, u64)>,
    /// Flags at the end.
    pub flags: Vec<v1::Flag>,
    /// Decisions at the end.
    pub decisions: Vec<v1::Decision>,
    /// Audit records at the end, oldest first.
    pub audit: Vec<v1::AuditRecord>,
    /// Experiments at the end.
    pub experiments: Vec<Counted>,
    /// Of the units that were asked about, those that something holds at the end.
    pub held: Vec<String>,
    /// Ledgers that folded, each beside a recomputation.
    pub folds: Vec<Fold>,
    /// Decisions with an owner's stamp, in order.
    pub stamped: Vec<Stamped>,
    /// Batches of facts that were in the log before.
    pub repeated: u64,
    /// Places at which units of half of a ledger's hash space left.
    pub thinnings: Vec<u64>,
}

/// A decision that an owner stamped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// Its place.
    pub position: u64,
    /// The experiment's key.
    pub experiment: String,
    /// The stamp.
    pub epoch: u64,
    /// See `epoch`.
    pub sequence: u64,
    /// The epoch of the experiment's owner right before it; none while it does not run.
    pub current: Option<u64>,
    /// Whether it was refused because its epoch had passed.
    pub late: bool,
    /// Whether it was not refused.
    pub accepted: bool,
}

/// What the log says of one experiment's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Resource name.
    pub name: String,
    /// Events by verdict, sorted.
    pub verdicts: Vec<(String, u64)>,
    /// Units.
    pub rows: u64,
    /// Sums of single units.
    pub entries: u64,
    /// Units that left when a budget was full, and whether sums are held by cluster.
    pub thinned: u64,
    /// See `thinned`.
    pub folded: bool,
    /// Units by arm.
    pub arms: Vec<u64>,
}

/// The epochs of running experiments' owners, by name.
fn epochs(state: &State) -> BTreeMap<String, u64> {
    let experiments = state.experiments(ENVIRONMENT, "", KEPT).into_iter();
    let running = experiments.filter(|experiment| experiment.state() == Phase::Running);
    // Both are in the order of their names.
    let owned = state.running_experiments();
    running.zip(owned).map(|(experiment, owned)| (experiment.name, owned.epoch)).collect()
}

fn stamped(position: u64, entry: &Entry, epochs: &BTreeMap<String, u64>, reply: &Reply) -> Option<Stamped> {
    let stamp = entry.owner.as_ref()?;
    let Some(Command::SubmitDecision(submitted)) = &entry.command else { return None };
    let refusal = match &reply.result {
        Some(reply::Result::Refusal(refusal)) => Some(refusal),
        _ => None,
    };
    let late = refusal
        .is_some_and(|refusal| refusal.code == ErrorCode::Fenced.as_str() && refusal.field == "owner.epoch");
    Some(Stamped {
        position,
        current: epochs.get(&submitted.decision.as_ref()?.experiment).copied(),
        experiment: submitted.decision.as_ref()?.experiment.clone(),
        epoch: stamp.epoch,
        sequence: stamp.sequence,
        late,
        accepted: refusal.is_none(),
    })
}

/// Most records read back.
const KEPT: usize = 100_000;

/// Folds a whole log, takes digests where the nodes took theirs, and looks for units by their hash. Beside it a state
/// is folded whose budgets of sums are never full, by which it is judged what each ledger's fold made.
#[must_use]
pub fn refold(entries: Vec<LogEntry>, places: &[u64], units: &[(String, u64)]) -> Refolded {
    let places: BTreeSet<u64> = places.iter().copied().collect();
    let mut refolded = Refolded::default();
    let (mut state, mut single) = (State::new(), State::new());
    let (mut effects, mut audited) = (Vec::new(), 0);
    let mut batches = BTreeSet::new();
    for entry in entries {
        let Ok(record) = Record::decode(entry.payload) else {
            refolded.violation = Some(format!("entry {} is not a record", entry.position));
            break;
        };
        if record.proposal.is_empty() {
            continue;
        }
        effects.clear();
        let command = Entry::decode(record.proposal.clone()).unwrap_or_default();
        let epochs = if command.owner.is_some() { epochs(&state) } else { BTreeMap::new() };
        let reply = match state.apply(entry.position.index, &record.proposal, &mut effects) {
            Ok(reply) => reply,
            Err(violation) => {
                refolded.violation = Some(format!("{violation:?}"));
                break;
            }
        };
        refolded.stamped.extend(stamped(entry.position.index, &command, &epochs, &reply));
        if let Some(Command::Ingest(ingest)) = command.command {
            for batch in ingest.batches {
                let is_new = batches.insert((batch.producer, batch.sequence));
                refolded.repeated = refolded.repeated.saturating_add(u64::from(!is_new));
            }
        }
        refolded.entries = refolded.entries.saturating_add(1);
        let unfolding = unfolding(&record.proposal);
        if single.apply(entry.position.index, &unfolding, &mut Vec::new()).is_err() {
            refolded.violation = Some(format!("entry {} does not apply without folds", entry.position));
            break;
        }
        for record in state.audit_from(audited + 1, KEPT) {
            audited = record.number;
            match record.action.as_str() {
                "experiment.fold" => {
                    refolded.folds.push(fold_of(&state, &single, &record.resource, record.position));
                }
                "experiment.thin" => refolded.thinnings.push(record.position),
                _ => {}
            }
        }
        if places.contains(&state.position()) {
            refolded.digests.push((state.position(), state.digest()));
        }
    }
    refolded.flags = state.flags(ENVIRONMENT, "", KEPT, true);
    refolded.decisions = state.decisions(ENVIRONMENT, "", 0, KEPT, v1::decision::Status::Unspecified);
    refolded.audit = state.audit_from(1, KEPT);
    for experiment in state.experiments(ENVIRONMENT, "", KEPT) {
        let key = experiment.name.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(view) = state.experiment_view(ENVIRONMENT, &key) {
            refolded.experiments.push(Counted {
                name: experiment.name,
                verdicts: view.verdicts.into_iter().collect(),
                rows: view.rows,
                entries: view.entries,
                thinned: view.thinned,
                folded: view.folded,
                arms: view.arms.into_iter().map(|arm| arm.units).collect(),
            });
        }
    }
    let held = units.iter().filter(|(_, hash)| state.holds_unit(*hash));
    refolded.held = held.map(|(unit, _)| unit.clone()).collect();
    refolded
}
