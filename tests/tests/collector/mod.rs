//! An OpenTelemetry collector of the test's own: takes what a node exports by OTLP over gRPC, and remembers all of it.
//!
//! It runs on a thread of its own, so that it can die as a process does: once [`Collector::kill`] returns, its port and
//! every connection to it are closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use featureops_tests::site::PATIENCE;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What came, all of it.
#[derive(Debug, Default)]
pub struct Seen {
    /// Spans in the order they came.
    pub spans: Vec<Span>,
    /// The last value of each counter, by its name and its labels' values.
    pub counters: BTreeMap<(String, String), i64>,
    /// Requests by the service they said they are from.
    pub services: BTreeMap<String, u64>,
}

impl Seen {
    /// Spans of one name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |span| span.name == name)
    }

    /// A counter's value over all its labels.
    pub fn total(&self, counter: &str) -> i64 {
        self.counters.iter().filter(|((name, _), _)| name == counter).map(|(_, value)| value).sum()
    }

    /// A counter's value at one label.
    pub fn count(&self, counter: &str, label: &str) -> i64 {
        self.counters.get(&(counter.to_owned(), label.to_owned())).copied().unwrap_or_default()
    }

    fn note(&mut self, from: Option<&Resource>) {
        let service = from.map(|resource| attribute(&resource.attributes, "service.name"));
        *self.services.entry(service.unwrap_or_default()).or_default() += 1;
    }

    /// Names and numbers, for a message of a failed test.
    pub fn summary(&self) -> String {
        let mut spans: BTreeMap<&str, u64> = BTreeMap::new();
        for span in &self.spans {
            *spans.entry(span.name.as_str()).or_default() += 1;
        }
        format!("spans {spans:?}, counters {:?}, services {:?}", self.counters, self.services)
    }
}

/// A text attribute; empty when it is not there.
pub fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()) {
        Some(AnyValue { value: Some(any_value::Value::StringValue(text)) }) => text,
        _ => String::new(),
    }
}

#[derive(Clone)]
struct Takes(Arc<Mutex<Seen>>);

#[tonic::async_trait]
impl TraceService for Takes {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut seen = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_spans {
            seen.note(of_resource.resource.as_ref());
            seen.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Takes {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut seen = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_metrics {
            seen.note(of_resource.resource.as_ref());
            for metric in of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let Some(metric::Data::Sum(sum)) = metric.data else { panic!("no counter: {metric:?}") };
                assert!(sum.is_monotonic, "{}", metric.name);
                for point in sum.data_points {
                    let Some(number_data_point::Value::AsInt(value)) = point.value else {
                        panic!("no whole number: {point:?}")
                    };
                    let labels = point.attributes.iter().map(|label| label.key.as_str());
                    let values: Vec<String> = labels.map(|key| attribute(&point.attributes, key)).collect();
                    seen.counters.insert((metric.name.clone(), values.join(",")), value);
                }
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// A running collector.
pub struct Collector {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts one at a free port, or at the port of one that died.
    pub fn start(port: Option<u16>) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port.unwrap_or(0))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let takes = Takes(Arc::clone(&seen));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
                let serving = Server::builder()
                    .add_service(TraceServiceServer::new(takes.clone()))
                    .add_service(MetricsServiceServer::new(takes))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    served = serving => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { port, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a node's setting says to send here.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Looks at what came.
    pub fn read<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Waits until something came.
    pub async fn until(&self, what: &str, came: impl Fn(&Seen) -> bool) {
        let begin = Instant::now();
        while !self.read(&came) {
            assert!(begin.elapsed() < PATIENCE, "{what}: did not come; {}", self.read(Seen::summary));
            tokio::time::sleep(std::time::Duration::from_millis(15)).await;
        }
    }

    /// Ends it and closes its connections, without a word to the node.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Both fail only when the thread panicked, which a failed wait has said by then.
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
