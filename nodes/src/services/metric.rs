//! Metrics: read, listed, written.

use std::sync::Arc;

use featureops_proto::log::{self, entry};
use featureops_proto::v1::{
    GetMetricRequest, ListMetricsRequest, ListMetricsResponse, Metric, SetMetricRequest,
};
use featureops_proto::{Collection, Name, environment_of, id_of};
use tonic::{Request, Response, Status};

use crate::fixed_point::DECIMAL_SCALE_MAX;
use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::metric_service_server::MetricService;
use crate::sent::sent;
use crate::services::{name, required};

/// The service.
pub struct Metrics(pub Arc<Host>);

/// What a person defines of a metric; all that the log adds is left out.
pub fn definition(metric: Metric) -> Metric {
    Metric { etag: String::new(), number: 0, ..metric }
}

#[tonic::async_trait]
impl MetricService for Metrics {
    async fn get_metric(&self, request: Request<GetMetricRequest>) -> Result<Response<Metric>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Metrics, "name")?;
        let metric = self.0.replica.read(|state| state.metric(name.environment, name.id));
        metric.map(Response::new).ok_or_else(|| refusal::not_found("name", &request.name))
    }

    async fn list_metrics(
        &self,
        request: Request<ListMetricsRequest>,
    ) -> Result<Response<ListMetricsResponse>, Status> {
        let request = request.into_inner();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let page = Page::of(request.page_size, &request.page_token, &["metrics", environment])?;
        let read = |after: &str, limit| self.0.replica.read(|state| state.metrics(environment, after, limit));
        let (metrics, next_page_token) =
            page.read(read, |metric| id_of(&metric.name, Collection::Metrics).to_owned());
        Ok(Response::new(ListMetricsResponse { metrics, next_page_token }))
    }

    async fn set_metric(&self, request: Request<SetMetricRequest>) -> Result<Response<Metric>, Status> {
        let (from, request) = sent(request);
        let metric = required(request.metric, "metric")?;
        name(&metric.name, Collection::Metrics, "metric.name")?;
        check(&metric)?;
        let metric = definition(metric);
        let command = entry::Command::SetMetric(log::SetMetric { metric: Some(metric), etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        let read = self.0.write(write, |state, done| {
            let name = Name::parse(&done.name, Collection::Metrics).ok()?;
            state.metric(name.environment, name.id)
        });
        read.await.map(Response::new)
    }
}

/// Form only, so that enum numbers of a newer release and values out of bounds are named here and not deep in the fold.
fn check(metric: &Metric) -> Result<(), Status> {
    use featureops_proto::v1::metric::{Direction, Kind, LateRule};
    let mut faults: Vec<(String, String)> = Vec::new();
    let mut fault = |field: &str, value: String, way_out: &str| {
        faults.push((format!("metric.{field}"), format!("'{value}' {way_out}")));
    };
    if !matches!(Kind::try_from(metric.kind), Ok(Kind::Proportion | Kind::Mean | Kind::Ratio | Kind::Count)) {
        fault("kind", metric.kind.to_string(), "must be PROPORTION, MEAN, RATIO or COUNT");
    }
    if Direction::try_from(metric.direction).is_err() {
        fault("direction", metric.direction.to_string(), "must be HIGHER_IS_BETTER or LOWER_IS_BETTER");
    }
    if LateRule::try_from(metric.late_rule).is_err() {
        fault("late_rule", metric.late_rule.to_string(), "must be COUNT_UNTIL_LIMIT or COUNT_UNTIL_END");
    }
    if let Some(scale) = metric.decimal_scale
        && scale > DECIMAL_SCALE_MAX
    {
        fault("decimal_scale", scale.to_string(), "must be 0 to 9");
    }
    if metric.attribution_window_seconds != 0
        && !(60..=2_592_000).contains(&metric.attribution_window_seconds)
    {
        let window = metric.attribution_window_seconds.to_string();
        fault("attribution_window_seconds", window, "must be 60 to 2,592,000 (30 days); 0 means 7 days");
    }
    if metric.late_limit_seconds != 0 && !(60..=259_200).contains(&metric.late_limit_seconds) {
        let limit = metric.late_limit_seconds.to_string();
        fault("late_limit_seconds", limit, "must be 60 to 259,200 (72 hours); 0 means 72 hours");
    }
    if faults.is_empty() { Ok(()) } else { Err(refusal::invalid_fields(faults)) }
}
