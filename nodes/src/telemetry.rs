//! Telemetry: log lines always, traces and metrics by OTLP when an endpoint is configured.
//!
//! Installed once per process by the command line, never by the node itself: a simulated node has no subscriber of its
//! own, and two nodes in one process share one.
//!
//! ```text
//!   span ends ── queue, bounded; full: the span is lost ──> exporters' threads ── OTLP ──> collector
//!   counters are read when the next export is due ────────────────┘
//! ```
//!
//! Nothing that serves waits for a collector; only a process that ends does, a little.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{LogFormat, NodeConfig};
use crate::observation::Observation;

/// Spans that are exported: this product's own, down to single evaluations.
const TRACED: &str = "off,featureops=debug,featureops_cluster=debug,featureops_actors=debug";

/// How long an ending process waits for a collector to take what is left. One that hangs would else hold it for ten
/// seconds, on top of the drain, and supervisors kill what does not end.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// The exporters, if there are any. They live as long as the process; [`Telemetry::end`] sends what they still hold.
#[derive(Default)]
pub struct Telemetry {
    exporters: Option<Exporters>,
}

struct Exporters {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Telemetry {
    /// Sends what is left, as far as the collector takes it in time.
    pub async fn end(self) {
        let Some(Exporters { traces, metrics }) = self.exporters else { return };
        // Both block while they send. Side by side, a collector's silence is waited for once.
        let traces = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(END_PATIENCE));
        let metrics = tokio::task::spawn_blocking(move || metrics.shutdown_with_timeout(END_PATIENCE));
        let sent = tokio::time::timeout(END_PATIENCE, async { (traces.await, metrics.await) }).await;
        if !matches!(sent, Ok((Ok(Ok(())), Ok(Ok(()))))) {
            tracing::warn!("the collector did not take the last traces and metrics; they are lost");
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
            let exporters = exporters(endpoint)?;
            let tracer = exporters.traces.tracer("featureops");
            let filter = EnvFilter::try_new(TRACED).map_err(|error| error.to_string())?;
            let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(filter);
            (Telemetry { exporters: Some(exporters) }, Some(layer))
        }
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(traced)
        .try_init()
        .map_err(|error| format!("telemetry: {error}"))?;
    Ok(telemetry)
}

fn exporters(endpoint: &str) -> Result<Exporters, String> {
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
    Ok(Exporters { traces, metrics })
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
    let single = |name, read: fn(&Observation) -> &AtomicU64| {
        let seen = Arc::clone(observation);
        let _ = meter
            .u64_observable_counter(name)
            .with_callback(move |observer| observer.observe(read(&seen).load(Ordering::Relaxed), &[]))
            .build();
    };
    single("featureops.exposures.implied", |seen| &seen.exposures_implied);
    single("featureops.exposures.lost", |seen| &seen.exposures_lost);
    single("featureops.covariates.unusable", |seen| &seen.covariates_unusable);
    single("featureops.connections", |seen| &seen.connections_taken);
    single("featureops.turned_away", |seen| &seen.turned_away);
}

/// The trace that a request says it is part of (W3C `traceparent`); nothing when it names none, or none that can be read.
#[must_use]
pub fn callers_trace(headers: &HeaderMap) -> Option<Context> {
    let trace = TraceContextPropagator::new().extract(&Carrier(headers));
    trace.has_active_span().then_some(trace)
}

struct Carrier<'a>(&'a HeaderMap);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_a_whole_traceparent_is_a_callers_trace() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_static(value));
            callers_trace(&headers).map(|trace| trace.span().span_context().clone())
        };
        let named = of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert_eq!(named.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(named.span_id().to_string(), "b7ad6b7169203331");
        assert!(named.is_sampled() && named.is_remote());
        assert!(!of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").unwrap().is_sampled());
        for odd in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(of(odd), None, "{odd}");
        }
        assert!(callers_trace(&HeaderMap::new()).is_none());
    }
}
