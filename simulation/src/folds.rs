//! What a fold made, beside what it must make: a second reading of the moments, by hand.
//!
//! ```text
//!   log ──> state, folds when its budget is full ──> moments of clusters      held
//!     └──> the same log, budgets of sums never full ──> rows and single sums of its snapshot, added up by hand      expected
//! ```
//!
//! The second state lives through the same events and never folds an experiment's sums; at the entry at which the first one
//! does, its shards have every unit's row and sums. From these the moments of clusters are added up with nothing of the product
//! but its snapshot's layout.

use std::collections::BTreeMap;

use bytes::Bytes;
use featureops_proto::log::{Entry, ExperimentRecord, LedgerRecord, ShardRecord, entry::Command};
use featureops_proto::v1::{Int128, Stratum, metric::Kind};
use featureops_state::{Section, State};
use prost::Message;
use prost::encoding::decode_varint;

use crate::workload::ENVIRONMENT;

/// Shards of a cluster: a shard is the top eight bits of a unit's hash, a cluster the top six.
const CLUSTER_SHARDS: u32 = 4;

/// One fold of one experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Fold {
    /// The experiment's name.
    pub experiment: String,
    /// The entry.
    pub position: u64,
    /// The moments right after it.
    pub held: Vec<Stratum>,
    /// What they must be; `None`: the shards could not be read.
    pub expected: Option<Vec<Stratum>>,
}

/// The proposal, for a state that never folds: budgets of sums are taken out.
#[must_use]
pub fn unfolding(proposal: &Bytes) -> Bytes {
    let Ok(mut entry) = Entry::decode(proposal.clone()) else { return proposal.clone() };
    let Some(Command::SetBudgets(set)) = &mut entry.command else { return proposal.clone() };
    if let Some(budgets) = &mut set.budgets {
        (budgets.experiment_sums, budgets.sums) = (0, 0);
    }
    entry.encode_to_vec().into()
}

/// What the entry that was just applied made of an experiment.
#[must_use]
pub fn fold_of(state: &State, single: &State, experiment: &str, position: u64) -> Fold {
    let key = experiment.rsplit('/').next().unwrap_or_default();
    let held = state.experiment_view(ENVIRONMENT, key).map(|view| view.strata).unwrap_or_default();
    Fold { experiment: experiment.to_owned(), position, held, expected: expected(single, key) }
}

/// One cluster of an arm in a stratum: units, and a sum a table.
type Cluster = (u64, Vec<i128>);
/// By (stratum, arm), by cluster.
type Clusters = BTreeMap<(usize, u32), BTreeMap<u32, Cluster>>;

/// The moments of the state's experiment, as its fold must make them.
fn expected(single: &State, key: &str) -> Option<Vec<Stratum>> {
    let view = single.experiment_view(ENVIRONMENT, key)?;
    let sections = single.sections();
    let named = |name: &str| sections.iter().find(|section| section.name == name);
    let experiments: Vec<ExperimentRecord> = records(named("experiments")?)?;
    let record =
        experiments.into_iter().find(|one| one.environment == ENVIRONMENT && one.experiment == key)?;
    // Sums stand in a table each, in the order of the slots.
    let summed: Vec<usize> = record
        .slots
        .iter()
        .enumerate()
        .filter_map(|(at, slot)| (slot.kind() != Kind::Proportion).then_some(at))
        .collect();
    let head = format!("ledger/{:010}", record.number);
    let ledger: LedgerRecord = records(named(&head)?)?.pop()?;
    let mut clusters = Clusters::new();
    for section in sections.iter().filter(|section| section.name.starts_with(&format!("{head}/"))) {
        for shard in records::<ShardRecord>(section)? {
            add(&shard, &view.strata, ledger.base_minute, summed.len(), &mut clusters)?;
        }
    }
    let mut strata = view.strata;
    for (at, stratum) in strata.iter_mut().enumerate() {
        for (arm, moments) in (0_u32..).zip(&mut stratum.arms) {
            let none = BTreeMap::new();
            let clusters = clusters.get(&(at, arm)).unwrap_or(&none);
            let units = |cluster: &Cluster| i128::from(cluster.0);
            let sum = |cluster: &Cluster, table: usize| cluster.1.get(table).copied().unwrap_or(0);
            let over = |of: &dyn Fn(&Cluster) -> i128| clusters.values().map(of).sum::<i128>();
            moments.clusters = u64::try_from(clusters.len()).ok()?;
            moments.units_squared = u64::try_from(over(&|one| units(one).saturating_pow(2))).ok()?;
            for (slot, moments) in moments.slots.iter_mut().enumerate() {
                let Some(table) = summed.iter().position(|summed| *summed == slot) else { continue };
                moments.squares = Some(Int128::new(over(&|one| sum(one, table).saturating_pow(2))));
                let with_units = over(&|one| sum(one, table).saturating_mul(units(one)));
                // Zero is left out.
                moments.with_units = (with_units != 0).then(|| Int128::new(with_units));
            }
            for (pair, cross) in record.pairs.iter().zip(&mut moments.cross) {
                let table = |slot: u32| summed.iter().position(|summed| u32::try_from(*summed) == Ok(slot));
                if let (Some(one), Some(other)) = (table(pair.numerator), table(pair.denominator)) {
                    *cross = Int128::new(over(&|c| sum(c, one).saturating_mul(sum(c, other))));
                }
            }
        }
    }
    Some(strata)
}

/// Adds a shard's units and sums to their clusters.
fn add(
    shard: &ShardRecord,
    strata: &[Stratum],
    base_minute: u32,
    tables: usize,
    clusters: &mut Clusters,
) -> Option<()> {
    if !shard.packed_rows.is_empty() {
        return None;
    }
    let find = |generation: u32, minute: u32| {
        let minute = base_minute.saturating_add(minute);
        strata.iter().position(|stratum| {
            let end = stratum.start_minute.saturating_add(stratum.minutes);
            stratum.generation == generation && stratum.start_minute <= minute && minute < end
        })
    };
    // By (hash, arm): the stratum of each stay.
    let mut stays: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    let mut bytes = shard.rows.as_slice();
    let mut hash = 0_u64;
    while !bytes.is_empty() {
        hash = hash.checked_add(decode_varint(&mut bytes).ok()?)?;
        decode_varint(&mut bytes).ok()?;
        let tail = decode_varint(&mut bytes).ok()?;
        let (minute, arm) = (u32::try_from(tail >> 11).ok()?, u32::try_from(tail >> 6 & 31).ok()?);
        let generation = u32::try_from(tail >> 1 & 31).ok()?.saturating_add(1);
        stays.insert((hash, arm), find(generation, minute)?);
    }
    for side in &shard.side {
        stays.insert((side.hash, side.arm), find(side.generation, side.minute)?);
    }
    let number = shard.shard / CLUSTER_SHARDS;
    let none = || (0, vec![0; tables]);
    for ((_, arm), at) in &stays {
        let cluster = clusters.entry((*at, *arm)).or_default().entry(number).or_insert_with(none);
        cluster.0 = cluster.0.saturating_add(1);
    }
    for (table, bytes) in shard.entries.iter().enumerate() {
        let (mut bytes, mut hash) = (bytes.as_slice(), 0_u64);
        while !bytes.is_empty() {
            let packed = decode_varint(&mut bytes).ok()?;
            hash = hash.checked_add(packed >> 5)?;
            let zigzag = decode_varint(&mut bytes).ok()?;
            let half = i128::from(zigzag >> 1);
            let value = if zigzag & 1 == 1 { half.saturating_neg().saturating_sub(1) } else { half };
            let arm = u32::try_from(packed & 31).ok()?;
            let at = stays.get(&(hash, arm))?;
            let cluster = clusters.get_mut(&(*at, arm))?.get_mut(&number)?;
            let sum = cluster.1.get_mut(table)?;
            *sum = sum.saturating_add(value);
        }
    }
    Some(())
}

fn records<M: Message + Default>(section: &Section) -> Option<Vec<M>> {
    let mut bytes = section.bytes.as_slice();
    let mut all = Vec::new();
    while !bytes.is_empty() {
        all.push(M::decode_length_delimited(&mut bytes).ok()?);
    }
    Some(all)
}
