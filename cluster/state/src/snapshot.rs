//! The state at rest: named sections, each the same bytes on every replica, so that a digest over them compares states
//! and a chunk that did not change need not be sent again.

mod ledger_parts;
mod stream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use featureops_proto::log::{
    ClustersRecord, EnvironmentRecord, ExperimentRecord, FlagHistoryRecord, FlagRecord, FrozenRecord,
    HeaderRecord, HeldRecord, HoldoutRecord, LayerRecord, LedgerRecord, LivenessRecord, MarkRecord,
    MembersRecord, MetricRecord, OversightRecord, ProducerRecord, RequestRecord, ScheduleRecord,
    SegmentRecord, SegmentUnitsRecord, ShardRecord, SideRecord, TokenRecord,
};
use featureops_proto::v1::{self, AuditRecord, Decision, FlagVersionRecord};
use featureops_proto::{Collection, Name};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};

use crate::State;
use crate::audit::Audit;
use crate::clock::LogClock;
use crate::experiments::shape_of;
use crate::feature_levels::{FEATURE_LEVEL, FIRST_FEATURE_LEVEL, check_known};
use crate::ledger::{
    Cell, Clusters, Held, LEAST_KEPT, Ledger, Marks, PACKED_FROM, Row, Rows, SHARDS, Shape, Shard, Side,
    Strata, Stratum, pack, unpack,
};
use crate::prerequisites::links;
use crate::segments::{Units, hashes_of, links_of_flag};
use crate::state::{Frozen, Key, key};
use crate::view::kept_parts;

pub use stream::{SectionDigest, SectionStream};

/// One named part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Unique in a snapshot.
    pub name: String,
    /// Equal states have equal bytes.
    pub bytes: Vec<u8>,
}

/// Why a snapshot cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotError {
    /// The section.
    pub section: String,
    /// What is wrong with it.
    pub detail: String,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot section '{}': {}", self.section, self.detail)
    }
}

impl std::error::Error for SnapshotError {}

impl State {
    /// The whole state, sorted by name.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        self.each_section(|section| sections.push(section));
        sections
    }

    /// The whole state, section by section, sorted by name. Shards, which are most of it, are made one at a time.
    pub fn each_section(&self, mut each: impl FnMut(Section)) {
        let mut stream = SectionStream::of(self);
        while let Some(section) = stream.next(self) {
            each(section);
        }
    }

    /// About as many bytes as all sections have, for whoever lays them end to end.
    #[must_use]
    pub fn size_hint(&self) -> usize {
        usize::try_from(self.rows.saturating_mul(8).saturating_add(self.entries * 8)).unwrap_or(0)
    }

    fn sections_beside_shards(&self) -> Vec<Section> {
        let mut sections = vec![
            section("header", [&self.header()]),
            section("flags", self.flags.values().map(AsRef::as_ref)),
            section("histories", self.histories.values().map(AsRef::as_ref)),
            section("metrics", self.metrics.values().map(AsRef::as_ref)),
            section("experiments", self.experiments.values().map(AsRef::as_ref)),
            section("oversight", self.oversight.values().map(AsRef::as_ref)),
            section("producers", self.producers.records().collect::<Vec<_>>().iter()),
            section("requests", self.requests.records().collect::<Vec<_>>().iter()),
            section("waiting", self.waiting.held().map(held_record).collect::<Vec<_>>().iter()),
            section("audit", self.audit.records()),
            section("decisions", self.decisions.all().map(|(_, _, decision)| decision)),
        ];
        // Left out while there is none, as in the snapshots of releases that knew none.
        if !self.environments.is_empty() {
            sections.push(section("environments", self.environments.values().map(AsRef::as_ref)));
        }
        if !self.segments.is_empty() {
            sections.push(section("segments", self.segments.values().map(AsRef::as_ref)));
        }
        for ((environment, segment), list) in &self.segment_units {
            for (at, units) in list.parts() {
                let (environment, segment) = (environment.clone(), segment.clone());
                let name = format!("segments/{environment}/{segment}/{at:02x}");
                sections.push(section(&name, [&SegmentUnitsRecord { environment, segment, units }]));
            }
        }
        if !self.layers.is_empty() {
            sections.push(section("layers", self.layers.values().map(AsRef::as_ref)));
        }
        if !self.holdouts.is_empty() {
            sections.push(section("holdouts", self.holdouts.values().map(AsRef::as_ref)));
        }
        if !self.schedules.is_empty() {
            sections.push(section("schedules", self.schedules.all()));
        }
        if !self.tokens.is_empty() {
            sections.push(section("tokens", self.tokens.values().map(AsRef::as_ref)));
        }
        if let Some(backup) = &self.backup {
            sections.push(section("backup", [backup]));
        }
        if let Some(members) = self.members_record() {
            sections.push(section("members", [members]));
        }
        if !self.liveness.is_empty() {
            sections.push(section("liveness", self.liveness.values()));
        }
        for (number, ledger) in &self.ledgers {
            sections.push(section(&format!("ledger/{number:010}"), [&self.ledger_record(*number, ledger)]));
            if ledger.clusters.folded() && !ledger.released {
                let name = format!("clusters/{number:010}");
                sections.push(section(&name, [&clusters_record(*number, ledger)]));
            }
        }
        self.ledger_parts(&mut sections);
        sections.sort_by(|a, b| a.name.cmp(&b.name));
        sections
    }

    /// XXH3-64 over the sections.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = SectionDigest::default();
        self.each_section(|section| {
            digest.section(&section.name, section.bytes.len() as u64);
            digest.bytes(&section.bytes);
        });
        digest.finish()
    }

    fn header(&self) -> HeaderRecord {
        HeaderRecord {
            position: self.position,
            clock_ms: self.clock.now_ms(),
            cluster: self.cluster.clone(),
            unit_key_id: self.unit_key_id,
            initialized: self.initialized,
            receipt_keys: self.receipt_keys.clone(),
            last_decision: self.decisions.last(),
            audit_last: self.audit.last(),
            audit_head: self.audit.head().to_vec(),
            producers_swept: self.producers.swept().to_owned(),
            budgets: self.budgets,
            // As in the snapshots of releases that knew no levels.
            feature_level: if self.feature_level() == FIRST_FEATURE_LEVEL { 0 } else { self.feature_level },
            restored: self.restored.clone(),
        }
    }

    fn ledger_record(&self, number: u32, ledger: &Ledger) -> LedgerRecord {
        LedgerRecord {
            experiment: number,
            base_minute: ledger.base_minute,
            rows: ledger.rows,
            crossed: ledger.crossed,
            marked: ledger.marks.all().to_vec(),
            fresh_marks: ledger
                .marks
                .fresh()
                .into_iter()
                .map(|(since_ms, unit, arm)| MarkRecord { unit, since_ms, arm: u32::from(arm) })
                .collect(),
            lost: ledger.lost,
            verdicts: ledger.verdicts.clone(),
            strata: ledger.strata.messages(0, None),
            dirty: ledger.dirty,
            released: ledger.released,
            frozen: self.frozen.get(&number).into_iter().flatten().map(frozen_record).collect(),
            folded: ledger.clusters.folded(),
            kept_parts: kept_parts(ledger.kept),
            thinned: ledger.thinned,
            covariates_missing: ledger.missing.clone(),
        }
    }

    /// Restores a state.
    ///
    /// # Errors
    /// [`SnapshotError`] when a section is missing, malformed, or contradicts another.
    pub fn from_sections(sections: &[Section]) -> Result<Self, SnapshotError> {
        let find =
            |name: &str| sections.iter().find(|s| s.name == name).ok_or_else(|| error(name, "missing"));
        let mut state = Self::new();
        let header: HeaderRecord = records(find("header")?)?.pop().ok_or_else(|| error("header", "empty"))?;
        // Before anything that only a newer build can read.
        check_known(header.feature_level, FEATURE_LEVEL).map_err(|why| error("header", &why))?;
        state.feature_level = header.feature_level;
        state.restored = header.restored;
        state.backup = optional::<v1::BackupRecord>(sections, "backup")?.pop();
        for environment in optional::<EnvironmentRecord>(sections, "environments")? {
            state.environments.insert(environment.environment.clone(), Arc::new(environment));
        }
        state.restore_segments(sections)?;
        for layer in optional::<LayerRecord>(sections, "layers")? {
            state.layers.insert(key(&layer.environment, &layer.layer), Arc::new(layer));
        }
        for holdout in optional::<HoldoutRecord>(sections, "holdouts")? {
            state.holdouts.insert(key(&holdout.environment, &holdout.holdout), Arc::new(holdout));
        }
        for flag in records::<FlagRecord>(find("flags")?)? {
            state.dependents.insert(links(&flag));
            state.segment_users.insert(links_of_flag(&flag));
            state.flags.insert(key(&flag.environment, &flag.flag), Arc::new(flag));
        }
        for history in records::<FlagHistoryRecord>(find("histories")?)? {
            for version in &history.versions {
                FlagVersionRecord::decode(version.as_ref())
                    .map_err(|e| error("histories", &e.to_string()))?;
            }
            state.histories.insert(key(&history.environment, &history.flag), Arc::new(history));
        }
        for metric in records::<MetricRecord>(find("metrics")?)? {
            let id = key(&metric.environment, &metric.metric);
            state.metric_keys.insert(metric.number, id.clone());
            state.metrics.insert(id, Arc::new(metric));
        }
        for experiment in records::<ExperimentRecord>(find("experiments")?)? {
            let id = key(&experiment.environment, &experiment.experiment);
            state.experiment_numbers.insert(id, experiment.number);
            state.experiments.insert(experiment.number, Arc::new(experiment));
        }
        for oversight in records::<OversightRecord>(find("oversight")?)? {
            state.oversight.insert(oversight.environment.clone(), Arc::new(oversight));
        }
        for schedule in optional::<ScheduleRecord>(sections, "schedules")? {
            state.schedules.put(Arc::new(schedule));
        }
        for token in optional::<TokenRecord>(sections, "tokens")? {
            state.tokens.insert(token.token.clone(), Arc::new(token));
        }
        if let Some(members) = optional::<MembersRecord>(sections, "members")?.pop() {
            state.members = members;
        }
        for record in optional::<LivenessRecord>(sections, "liveness")? {
            state.liveness.insert(record.node, record);
        }
        for producer in records::<ProducerRecord>(find("producers")?)? {
            if !state.producers.restore(producer) {
                return Err(error("producers", "a window has the wrong size"));
            }
        }
        for request in records::<RequestRecord>(find("requests")?)? {
            state.requests.remember(
                &request.request_id,
                request.content_hash,
                request.sent_hash,
                &request.reply.unwrap_or_default(),
            );
        }
        for held in records::<HeldRecord>(find("waiting")?)? {
            state.waiting.hold(Held {
                unit: held.unit,
                metric: held.metric,
                value: held.value,
                minute: held.minute,
                since_ms: held.since_ms,
                position: held.position,
                joined: held.joined,
            });
        }
        let audit = records::<AuditRecord>(find("audit")?)?;
        state.audit = Audit::restore(audit, header.audit_last, header.audit_head);
        for decision in records::<Decision>(find("decisions")?)? {
            let (flag, number) =
                decision_key(&decision).ok_or_else(|| error("decisions", "a name is malformed"))?;
            state.decisions.restore(&flag, number, decision);
        }
        state.decisions.set_last(header.last_decision);
        state.position = header.position;
        state.clock = LogClock::at(header.clock_ms);
        state.cluster = header.cluster;
        state.unit_key_id = header.unit_key_id;
        state.initialized = header.initialized;
        state.receipt_keys = header.receipt_keys;
        state.producers.set_swept(&header.producers_swept);
        for section in sections.iter().filter(|s| s.name.starts_with("ledger/")) {
            state.restore_ledger(section)?;
        }
        state.budgets = header.budgets;
        state.restore_clusters(sections)?;
        state.restore_ledger_parts(sections)?;
        state.derive();
        Ok(state)
    }

    /// Absent: there is none.
    fn restore_segments(&mut self, sections: &[Section]) -> Result<(), SnapshotError> {
        let mut lists = BTreeMap::<Key, Vec<u64>>::new();
        for section in sections.iter().filter(|section| section.name.starts_with("segments/")) {
            for part in records::<SegmentUnitsRecord>(section)? {
                let units =
                    hashes_of(&part.units).ok_or_else(|| error(&section.name, "units are cut short"))?;
                lists.entry(key(&part.environment, &part.segment)).or_default().extend(units);
            }
        }
        for record in optional::<SegmentRecord>(sections, "segments")? {
            let id = key(&record.environment, &record.segment);
            let mut units = lists.remove(&id).unwrap_or_default();
            units.sort_unstable();
            if units.windows(2).any(|pair| pair.first() == pair.last()) {
                return Err(error("segments", "a unit stands on a list twice"));
            }
            self.put_segment(&id, Some(Arc::new(record)), Some(Units::of(&units)));
        }
        match lists.pop_first() {
            None => Ok(()),
            Some(((environment, segment), _)) => {
                Err(error("segments", &format!("a list is of {environment}/{segment}, which is none")))
            }
        }
    }

    /// A ledger's header sorts before its shards.
    fn restore_ledger(&mut self, section: &Section) -> Result<(), SnapshotError> {
        if section.name.matches('/').count() == 1 {
            for record in records::<LedgerRecord>(section)? {
                let number = record.experiment;
                let Some(experiment) = self.experiments.get(&number) else {
                    return Err(error(&section.name, "no such experiment"));
                };
                let strata = record.frozen.iter().flat_map(|frozen| &frozen.strata).chain(&record.strata);
                if !strata.into_iter().all(|stratum| in_range(record.base_minute, stratum)) {
                    return Err(error(&section.name, "a stratum ends beyond all time"));
                }
                let shape = shape_of(experiment);
                let kept = kept_of(record.kept_parts)
                    .ok_or_else(|| error(&section.name, "kept parts are 16, 32, 64, 128, or all"))?;
                let frozen = record.frozen.iter().map(|f| frozen_of(f, &shape)).collect::<Option<_>>();
                let frozen: VecDeque<Frozen> =
                    frozen.ok_or_else(|| error(&section.name, "a freeze's kept parts are out of range"))?;
                if !frozen.is_empty() {
                    self.frozen.insert(number, frozen);
                }
                let mut ledger = Ledger::new(record.base_minute, shape.clone());
                if !record.released {
                    self.begin_parts(experiment, &mut ledger);
                }
                ledger.rows = record.rows;
                ledger.crossed = record.crossed;
                let fresh = record.fresh_marks.iter().map(|m| (m.since_ms, m.unit, m.arm as u8));
                ledger.marks = Marks::restore(record.marked, fresh);
                ledger.lost = record.lost;
                ledger.verdicts = record.verdicts;
                ledger.dirty = record.dirty;
                ledger.released = record.released;
                ledger.kept = kept;
                ledger.thinned = record.thinned;
                if record.covariates_missing.len() != shape.covariates {
                    return Err(error(&section.name, "counts other covariates than its experiment"));
                }
                ledger.missing = record.covariates_missing;
                ledger.strata = Arc::new(strata_of(&record.strata, &shape, record.folded));
                ledger.clusters = Arc::new(Clusters::of_strata(&shape, 0, record.folded));
                if !ledger.released {
                    self.rows = self
                        .rows
                        .checked_add(ledger.rows)
                        .ok_or_else(|| error(&section.name, "more rows than can be"))?;
                }
                self.ledgers.insert(number, ledger);
            }
            return Ok(());
        }
        for record in records::<ShardRecord>(section)? {
            let shard = self
                .ledgers
                .get_mut(&record.experiment)
                .and_then(|ledger| ledger.shards.get_mut(record.shard as usize))
                .ok_or_else(|| error(&section.name, "no such shard"))?;
            fill(Arc::make_mut(shard), &record).ok_or_else(|| error(&section.name, "rows are cut short"))?;
        }
        Ok(())
    }

    /// Counts what the shards hold, and takes the sums of folded ledgers in.
    fn restore_clusters(&mut self, sections: &[Section]) -> Result<(), SnapshotError> {
        let most = self.budgets().experiment_sums;
        for (number, ledger) in &mut self.ledgers {
            let folded = ledger.clusters.folded();
            ledger.recount(folded);
            self.entries += ledger.entries;
            if ledger.entries > most {
                self.heavy.insert(*number);
            }
        }
        let mut folded: BTreeSet<u32> = self
            .ledgers
            .iter()
            .filter(|(_, ledger)| ledger.clusters.folded() && !ledger.released)
            .map(|(number, _)| *number)
            .collect();
        for section in sections.iter().filter(|section| section.name.starts_with("clusters/")) {
            for record in records::<ClustersRecord>(section)? {
                let ledger = self
                    .ledgers
                    .get_mut(&record.experiment)
                    .filter(|ledger| ledger.clusters.folded())
                    .ok_or_else(|| error(&section.name, "no such folded ledger"))?;
                folded.remove(&record.experiment);
                if record.sums.len() != ledger.strata.all().len() {
                    return Err(error(&section.name, "sums of other strata than the ledger's"));
                }
                let clusters = Arc::make_mut(&mut ledger.clusters);
                for (at, bytes) in record.sums.iter().enumerate() {
                    zigzags(bytes)
                        .and_then(|sums| clusters.restore_sums(at, &sums))
                        .ok_or_else(|| error(&section.name, "sums are cut short"))?;
                }
            }
        }
        // Its moments say that sums are held by cluster: without them every later one would count from nothing.
        match folded.first() {
            None => Ok(()),
            Some(number) => {
                Err(error(&format!("clusters/{number:010}"), "missing, and the ledger's sums are folded"))
            }
        }
    }

    /// What follows from the records: layers' occupants, routes, and when those of ended experiments close.
    fn derive(&mut self) {
        let all: Vec<Arc<ExperimentRecord>> = self.experiments.values().cloned().collect();
        for record in all.iter().filter(|r| !r.generations.is_empty()) {
            self.occupy(record);
            self.open_routes(record);
            for (slot, until_ms) in record.slots.iter().zip(&record.counts_until_ms) {
                self.ended.insert((*until_ms, slot.metric, record.number));
            }
        }
        self.close_windows(self.clock.now_ms());
    }
}

fn error(section: &str, detail: &str) -> SnapshotError {
    SnapshotError { section: section.to_owned(), detail: detail.to_owned() }
}

fn section<'a, M: Message + 'a>(name: &str, records: impl IntoIterator<Item = &'a M>) -> Section {
    let mut bytes = Vec::new();
    for record in records {
        // Writing to a Vec has no other failure than running out of memory.
        let _ = record.encode_length_delimited(&mut bytes);
    }
    Section { name: name.to_owned(), bytes }
}

fn records<M: Message + Default>(section: &Section) -> Result<Vec<M>, SnapshotError> {
    let mut bytes = section.bytes.as_slice();
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let record =
            M::decode_length_delimited(&mut bytes).map_err(|e| error(&section.name, &e.to_string()))?;
        all.push(record);
    }
    Ok(all)
}

/// The records of a section that is left out while there is none.
fn optional<M: Message + Default>(sections: &[Section], name: &str) -> Result<Vec<M>, SnapshotError> {
    sections.iter().find(|section| section.name == name).map_or(Ok(Vec::new()), records)
}

fn decision_key(decision: &Decision) -> Option<(crate::state::Key, u64)> {
    let number = Name::parse(&decision.name, Collection::Decisions).ok()?.id.parse().ok()?;
    let flag = Name::parse(&decision.flag, Collection::Flags).ok()?;
    Some((key(flag.environment, flag.id), number))
}

fn held_record(held: &Held) -> HeldRecord {
    HeldRecord {
        unit: held.unit,
        metric: held.metric,
        value: held.value,
        minute: held.minute,
        since_ms: held.since_ms,
        position: held.position,
        joined: held.joined,
    }
}

fn frozen_record(frozen: &Frozen) -> FrozenRecord {
    FrozenRecord {
        position: frozen.position,
        log_time_ms: frozen.log_time_ms,
        strata: frozen.strata.messages(0, None),
        marked: frozen.marked.clone(),
        crossed: frozen.crossed,
        lost: frozen.lost,
        rows: frozen.rows,
        sample_ratio: frozen.sample_ratio.clone(),
        kept_parts: kept_parts(frozen.kept),
        thinned: frozen.thinned,
    }
}

fn frozen_of(record: &FrozenRecord, shape: &Shape) -> Option<Frozen> {
    let folded = record.strata.iter().flat_map(|s| &s.arms).any(|arm| arm.clusters > 0);
    Some(Frozen {
        position: record.position,
        log_time_ms: record.log_time_ms,
        strata: Arc::new(strata_of(&record.strata, shape, folded)),
        marked: record.marked.clone(),
        crossed: record.crossed,
        lost: record.lost,
        rows: record.rows,
        sample_ratio: record.sample_ratio.clone(),
        kept: kept_of(record.kept_parts)?,
        thinned: record.thinned,
    })
}

fn kept_of(parts: u32) -> Option<usize> {
    let kept = if parts == 0 { SHARDS } else { parts as usize };
    ((LEAST_KEPT..=SHARDS).contains(&kept) && kept.is_power_of_two()).then_some(kept)
}

fn clusters_record(experiment: u32, ledger: &Ledger) -> ClustersRecord {
    let sums = ledger.clusters.sums().map(|sums| {
        let mut bytes = Vec::new();
        for sum in sums {
            put_signed(sum, &mut bytes);
        }
        bytes
    });
    ClustersRecord { experiment, sums: sums.collect() }
}

/// A number that may be negative, as a zigzag varint.
fn put_signed(value: i64, bytes: &mut Vec<u8>) {
    encode_varint(((value << 1) ^ (value >> 63)) as u64, bytes);
}

fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let zigzag = decode_varint(bytes).ok()?;
    Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
}

fn zigzags(mut bytes: &[u8]) -> Option<Vec<i64>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(take_signed(&mut bytes)?);
    }
    Some(values)
}

/// Its end has a minute, and its generation a number.
fn in_range(base_minute: u32, stratum: &v1::Stratum) -> bool {
    let end = stratum.start_minute.checked_add(stratum.minutes);
    end.and_then(|end| end.checked_add(base_minute)).is_some() && u8::try_from(stratum.generation).is_ok()
}

fn strata_of(messages: &[v1::Stratum], shape: &Shape, folded: bool) -> Strata {
    let all = messages
        .iter()
        .map(|s| Stratum {
            generation: s.generation as u8,
            start: s.start_minute,
            minutes: s.minutes,
            cells: s.arms.iter().map(|arm| Cell::restore(arm, folded)).collect(),
        })
        .collect();
    Strata::restore(all, shape.arms, shape.slots.len(), shape.pairs.len())
}

/// Rows rise by hash, so their differences are short varints; so do sums by (hash, arm).
fn shard_record(experiment: u32, at: usize, shard: &Shard) -> ShardRecord {
    let mut rows = Vec::new();
    let mut packed_rows = Vec::new();
    if shard.rows.len() >= PACKED_FROM {
        packed_rows = pack(&shard.rows.iter().collect::<Vec<_>>());
    }
    let mut last = 0;
    for row in shard.rows.iter().filter(|_| packed_rows.is_empty()) {
        encode_varint(row.hash - last, &mut rows);
        last = row.hash;
        encode_varint(u64::from(row.seen), &mut rows);
        let tail = (u64::from(row.minute) << 11)
            | (u64::from(row.arm) << 6)
            | (u64::from(row.generation - 1) << 1)
            | u64::from(row.crossed);
        encode_varint(tail, &mut rows);
    }
    let entries = shard
        .entries
        .iter()
        .map(|table| {
            let mut bytes = Vec::new();
            let mut last = 0;
            for (hash, arm, value) in table.iter() {
                encode_varint(((hash - last) << 5) | u64::from(arm), &mut bytes);
                last = hash;
                put_signed(value, &mut bytes);
            }
            bytes
        })
        .collect();
    let side = shard
        .side
        .iter()
        .map(|(hash, side)| SideRecord {
            hash: *hash,
            arm: u32::from(side.arm),
            minute: side.minute,
            generation: u32::from(side.generation),
            seen: u32::from(side.seen),
            twice: side.twice,
        })
        .collect();
    ShardRecord { experiment, shard: at as u32, rows, entries, side, packed_rows }
}

fn fill(shard: &mut Shard, record: &ShardRecord) -> Option<()> {
    let mut bytes = record.rows.as_slice();
    let mut rows = Vec::new();
    let mut hash = 0u64;
    while !bytes.is_empty() {
        hash = hash.checked_add(decode_varint(&mut bytes).ok()?)?;
        let seen = u16::try_from(decode_varint(&mut bytes).ok()?).ok()?;
        let tail = decode_varint(&mut bytes).ok()?;
        rows.push(Row {
            hash,
            seen,
            minute: u32::try_from(tail >> 11).ok()?,
            arm: ((tail >> 6) & 31) as u8,
            generation: ((tail >> 1) & 31) as u8 + 1,
            crossed: tail & 1 == 1,
        });
    }
    if !record.packed_rows.is_empty() {
        if !rows.is_empty() {
            return None;
        }
        rows = unpack(&record.packed_rows)?;
    }
    shard.rows = Rows::of(&rows)?;
    for (table, bytes) in shard.entries.iter_mut().zip(&record.entries) {
        let mut bytes = bytes.as_slice();
        let mut hash = 0u64;
        while !bytes.is_empty() {
            let packed = decode_varint(&mut bytes).ok()?;
            hash = hash.checked_add(packed >> 5)?;
            table.put(hash, (packed & 31) as u8, take_signed(&mut bytes)?);
        }
    }
    for side in &record.side {
        shard.side.insert(
            side.hash,
            Side {
                arm: side.arm as u8,
                minute: side.minute,
                generation: side.generation as u8,
                seen: side.seen as u16,
                twice: side.twice,
            },
        );
    }
    Some(())
}
