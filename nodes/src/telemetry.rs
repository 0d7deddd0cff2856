//! Telemetry: log lines always, traces and metrics by OTLP when an endpoint is configured.
//!
//! Installed once per process by the command line, never by the node itself: a simulated node has no subscriber of its
//! own, and two nodes in one process share one.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{LogFormat, NodeConfig};
use crate::observation::Observation;

/// Spans that are exported: this product's own, down to single evaluations.
const TRACED: &str = "off,featureops=debug,featureops_cluster=debug,featureops_actors=debug";

/// Keeps the exporters alive; dropping it sends what is left.
#[derive(Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take() {
            let _ = traces.shutdown();
        }
        if let Some(metrics) = self.metrics.take() {
            let _ = metrics.shutdown();
        }
    }
}

/// Installs the process's subscriber. Call inside the runtime: the exporters send from it.
///
/// # Errors
/// The filter or the endpoint cannot be used, or a subscriber is installed already.
pub fn install(config: &NodeConfig) -> Result<Telemetry, String> {
    let filter = EnvFilter::try_new(&config.log_filter).map_err(|error| {
        format!("log_filter: '{}' is not a filter: {error}; write info,featureops=debug", config.log_filter)
    })?;
    let lines = match config.log_format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr).boxed()
        }
        LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    let (telemetry, traced) = match &config.otlp_endpoint {
        None => (Telemetry::default(), None),
        Some(endpoint) => {
            let telemetry = exporters(endpoint)?;
            let tracer = telemetry.traces.as_ref().map(|traces| traces.tracer("featureops"));
            let filter = EnvFilter::try_new(TRACED).map_err(|error| error.to_string())?;
            let layer =
                tracer.map(|tracer| tracing_opentelemetry::layer().with_tracer(tracer).with_filter(filter));
            (telemetry, layer)
        }
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(traced)
        .try_init()
        .map_err(|error| format!("telemetry: {error}"))?;
    Ok(telemetry)
}

fn exporters(endpoint: &str) -> Result<Telemetry, String> {
    let fault = |error: opentelemetry_otlp::ExporterBuildError| {
        format!("otlp_endpoint: '{endpoint}' cannot be used: {error}")
    };
    let resource = Resource::builder().with_service_name("featureops").build();
    let spans = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(fault)?;
    let traces =
        SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(spans).build();
    let points = opentelemetry_otlp::MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(fault)?;
    let metrics = SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(points).build();
    opentelemetry::global::set_meter_provider(metrics.clone());
    Ok(Telemetry { traces: Some(traces), metrics: Some(metrics) })
}

/// Exports a node's counters beside `/metrics`; read when the exporter asks.
pub fn export(observation: &Arc<Observation>) {
    let meter = opentelemetry::global::meter("featureops");
    let seen = Arc::clone(observation);
    let _ = meter
        .u64_observable_counter("featureops.evaluations")
        .with_callback(move |observer| {
            for (reason, count) in seen.evaluations() {
                observer.observe(count, &[KeyValue::new("reason", reason)]);
            }
        })
        .build();
    let seen = Arc::clone(observation);
    let _ = meter
        .u64_observable_counter("featureops.facts")
        .with_callback(move |observer| {
            for (verdict, count) in seen.facts() {
                observer.observe(count, &[KeyValue::new("verdict", verdict)]);
            }
        })
        .build();
    let seen = Arc::clone(observation);
    let _ = meter
        .u64_observable_counter("featureops.proposals")
        .with_callback(move |observer| {
            for (outcome, count) in seen.proposals() {
                observer.observe(count, &[KeyValue::new("outcome", outcome)]);
            }
        })
        .build();
    let seen = Arc::clone(observation);
    let _ = meter
        .u64_observable_counter("featureops.exposures.lost")
        .with_callback(move |observer| observer.observe(seen.exposures_lost.load(Ordering::Relaxed), &[]))
        .build();
}
