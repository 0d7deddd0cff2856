//! The ledger's series and samples, read; and units, erased.

use std::sync::Arc;

use featureops_evaluation::limits::MAX_UNIT_BYTES;
use featureops_proto::log::{self, Done, entry};
use featureops_proto::v1::get_experiment_series_request::Resolution;
use featureops_proto::v1::metric::Kind;
use featureops_proto::v1::{
    EraseUnitRequest, EraseUnitResponse, ExperimentSample, ExperimentSeries, GetExperimentSampleRequest,
    GetExperimentSeriesRequest, MetricInput, Role, SampleArm, SampleGroup, SeriesArm, SeriesCell,
    SeriesPeriod,
};
use featureops_proto::{Collection, environment_of, timestamp, timestamp_if_set};
use featureops_state::{Group, PeriodView, SeriesView, State};
use tonic::{Request, Response, Status};

use crate::fixed_point::one;
use crate::host::{Host, Write};
use crate::refusal;
use crate::rpc::ledger_service_server::LedgerService;
use crate::sent::sent;
use crate::services::{self, name};

/// Groups of one answer, and how many when none are asked for.
const GROUPS_MAX: u32 = 1_000;
const GROUPS_DEFAULT: u32 = 100;
/// Flags that an answer names.
const NAMED_MAX: usize = 16;

/// The service.
pub struct Ledgers(pub Arc<Host>);

#[tonic::async_trait]
impl LedgerService for Ledgers {
    async fn get_experiment_series(
        &self,
        request: Request<GetExperimentSeriesRequest>,
    ) -> Result<Response<ExperimentSeries>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Experiments, "name")?;
        let Ok(resolution) = Resolution::try_from(request.resolution) else {
            let way_out = "is no resolution; send MINUTES or HOURS";
            return Err(refusal::invalid("resolution", request.resolution, way_out));
        };
        let hours = resolution == Resolution::Hours;
        let (view, log_time_ms) = self
            .0
            .replica
            .read(|state| Some((state.series(name.environment, name.id, hours)?, state.log_time_ms())))
            .ok_or_else(|| refusal::not_found("name", &request.name))?;
        let metric = chosen(&view, &request.metric, hours)?;
        Ok(Response::new(ExperimentSeries {
            metric: metric.metric.clone(),
            resolution: if hours { Resolution::Hours } else { Resolution::Minutes }.into(),
            periods: view.periods.iter().map(|period| period_of(period, metric)).collect(),
            log_time: timestamp_if_set(log_time_ms),
            variants: view.variants,
            name: request.name,
        }))
    }

    async fn get_experiment_sample(
        &self,
        request: Request<GetExperimentSampleRequest>,
    ) -> Result<Response<ExperimentSample>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Experiments, "name")?;
        if request.groups > GROUPS_MAX {
            let way_out = format!("groups, at most {GROUPS_MAX}: ask for fewer");
            return Err(refusal::invalid("groups", request.groups, way_out));
        }
        let most = if request.groups == 0 { GROUPS_DEFAULT } else { request.groups } as usize;
        // A look over tens of thousands of units: not under the lock that apply waits for.
        let (replica, environment, id) =
            (self.0.replica.clone(), name.environment.to_owned(), name.id.to_owned());
        let view = self.0.beside(move || replica.copy().sample(&environment, &id, most)).await?;
        let view = view.ok_or_else(|| refusal::not_found("name", &request.name))?;
        if view.dimensions.is_empty() {
            let way_out =
                "declares no dimensions, so it has no sample; name some when an experiment is created";
            return Err(refusal::invalid("name", &request.name, way_out));
        }
        let scales: Vec<u32> = view.slots.iter().map(|(_, scale)| *scale).collect();
        Ok(Response::new(ExperimentSample {
            name: request.name,
            dimensions: view.dimensions,
            variants: view.variants,
            metrics: view.slots.into_iter().map(|(metric, _)| metric).collect(),
            status: Some(view.status),
            groups: view.groups.into_iter().map(|group| group_of(group, &scales)).collect(),
        }))
    }

    async fn erase_unit(
        &self,
        request: Request<EraseUnitRequest>,
    ) -> Result<Response<EraseUnitResponse>, Status> {
        let (from, request) = sent(request);
        if request.parent != "environments/-" {
            environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        }
        // What a caller sent is not shown back: units are nobody else's business.
        if request.unit.is_empty() || request.unit.len() > MAX_UNIT_BYTES {
            let way_out = format!("bytes: a unit has 1 to {MAX_UNIT_BYTES}");
            return Err(refusal::invalid("unit", request.unit.len(), way_out));
        }
        let key = self.0.unit_key()?;
        let erase = log::EraseUnit {
            parent: request.parent,
            unit_key_id: key.id(),
            unit_hash: key.hash(request.unit.as_bytes()),
        };
        // Eight bits of the unit, as the fold keeps of it: see there.
        let from = from.with(&log::EraseUnit { unit_hash: erase.unit_hash & 0xff, ..erase.clone() });
        let command = entry::Command::EraseUnit(erase);
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        let unit = &request.unit;
        let answer = |state: &State, done: &Done| Some(answer_of(state, done.erased.as_ref()?, unit));
        self.0.write(write, answer).await.map(Response::new)
    }
}

/// The metric that is asked for.
fn chosen<'v>(view: &'v SeriesView, asked: &str, hours: bool) -> Result<&'v MetricInput, Status> {
    let wanted = |input: &&MetricInput| {
        if asked.is_empty() { input.role() == Role::Primary } else { input.metric == asked }
    };
    let Some(metric) = view.metrics.iter().find(wanted) else {
        let keys: Vec<&str> = view.metrics.iter().map(|input| input.metric.as_str()).collect();
        let way_out = format!("is no metric of the experiment; it has {}", keys.join(", "));
        return Err(refusal::invalid("metric", asked, way_out));
    };
    if hours && !matches!(metric.role(), Role::Primary | Role::Guardrail) {
        let way_out = "is secondary: its hours are not kept; ask for minutes";
        return Err(refusal::invalid("metric", asked, way_out));
    }
    Ok(metric)
}

fn period_of(period: &PeriodView, metric: &MetricInput) -> SeriesPeriod {
    let cell = |arm: usize, slot: u32, scale: u32| {
        let mut cells = period.cells.iter();
        let found = cells.find(|(a, s, _)| (*a as usize, *s) == (arm, slot)).map(|(_, _, cell)| *cell);
        let cell = found.unwrap_or_default();
        let unit = one(scale);
        SeriesCell {
            events: cell.events,
            sum: cell.sum as f64 / unit,
            squares: cell.squares as f64 / (unit * unit),
            converted_units: cell.converted,
            late_events: cell.late,
        }
    };
    let arms = period.units.iter().enumerate().map(|(arm, (fresh, late))| SeriesArm {
        new_units: *fresh,
        late_units: *late,
        metric: Some(cell(arm, metric.slot, metric.decimal_scale)),
        denominator: (metric.kind() == Kind::Ratio)
            .then(|| cell(arm, metric.denominator_slot, metric.denominator_decimal_scale)),
    });
    SeriesPeriod { arms: arms.collect(), start: Some(timestamp(i64::from(period.start_minute) * 60_000)) }
}

fn group_of(group: Group, scales: &[u32]) -> SampleGroup {
    let arm = |(units, sums): (u64, Vec<i128>)| SampleArm {
        units,
        totals: sums.iter().zip(scales).map(|(sum, scale)| *sum as f64 / one(*scale)).collect(),
    };
    SampleGroup {
        other: group.values.is_none() && !group.unknown,
        unknown: group.unknown,
        values: group.values.unwrap_or_default(),
        arms: group.arms.into_iter().map(arm).collect(),
    }
}

/// What went, and what stays until when.
fn answer_of(state: &State, erased: &log::UnitErased, unit: &str) -> EraseUnitResponse {
    let mut stays_until = vec![
        "folded sums, sealed series, counters of events and recorded decisions stay: no unit can be read from them"
            .to_owned(),
        "what the log says of the unit stays until it is purged up to here, and snapshots until the next one replaces \
         them: featureops doctor says when that is so on a node"
            .to_owned(),
        "backups and exports that you made stay until you expire them".to_owned(),
    ];
    let forcing = state.flags_that_force(unit, NAMED_MAX);
    if !forcing.is_empty() {
        stays_until.push(format!(
            "flags that force the unit name it in clear, until you unforce it, and their history keeps it for 100 \
             versions: {}",
            forcing.join(", ")
        ));
    }
    EraseUnitResponse {
        experiments: erased.experiments,
        stays: erased.stays,
        sums: erased.sums,
        marks: erased.marks,
        sampled: erased.sampled,
        waiting: erased.waiting,
        segments: erased.segments,
        position: services::position(erased.position),
        stays_until,
    }
}
