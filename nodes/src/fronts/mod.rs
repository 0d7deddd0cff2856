//! The fronts: flagd's protocols and OFREP, by which every existing OpenFeature client works against a node unchanged.
//!
//! ```text
//!                       connect (JSON)
//!   evaluation_v1  evaluation_v2 ──┐                        ┌─ events   EventStream ──┐
//!                                  ├─ resolve ─> outcome    ├─ sync     SyncFlags ────┼─ changes: latest wins
//!   ofrep ─────────────────────────┘    │                   └─ ofrep    SSE ──────────┘
//!                                       └─ selector, context, View (receipts, exposures)
//! ```
//!
//! A front turns one protocol into an evaluation and back. What an evaluation is, is not decided here.

pub mod changes;
pub mod connect;
pub mod context;
pub mod cors;
pub mod evaluation_v1;
pub mod evaluation_v2;
pub mod events;
pub mod json;
pub mod ofrep;
pub mod outcome;
pub mod selector;
pub mod settings;
pub mod sse;
pub mod sync;
pub mod values;

use std::collections::BTreeMap;

use axum::http::{Extensions, HeaderMap};
use featureops_evaluation::{CompiledFlag, Context, Evaluation, RECEIPT_ATTRIBUTE, evaluate_flag};
use featureops_proto::v1::Reason;
use prost_types::{Struct, Value};
use tonic::Status;

use crate::access::grant::granted;
use crate::fronts::context::Overlay;
use crate::fronts::outcome::{Failure, Outcome};
use crate::fronts::selector::{Called, Scope, Selection, Selector, Views};
use crate::fronts::settings::Settings;
use crate::fronts::sync::Documents;
use crate::host::Host;
use crate::publisher::Published;
use crate::slice::Walk;
use crate::view::View;

/// Bytes of one request, as flagd bounds it.
pub const REQUEST_BYTES_MAX: usize = 1_000_000;
/// In the metadata of a tripped flag's answer: why it is what it is.
const REASON_ATTRIBUTE: &str = "featureopsReason";

/// What the fronts of one node share.
pub struct Fronts {
    /// As they are set.
    pub settings: Settings,
    /// Who sees what.
    pub views: Views,
    /// What is added to every context.
    pub overlay: Overlay,
    /// Documents for clients that evaluate by themselves.
    pub documents: Documents,
}

impl Fronts {
    /// As they are set.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            views: Views::new(&settings),
            overlay: Overlay::new(&settings),
            documents: Documents::default(),
            settings,
        }
    }

    /// What this request may see.
    ///
    /// # Errors
    /// Its selector cannot be read.
    pub fn scope(&self, headers: &HeaderMap, extensions: &Extensions, body: &str) -> Result<Scope, String> {
        self.views.scope(headers, extensions.get::<Called>(), granted(extensions).map(AsRef::as_ref), body)
    }

    fn status(&self, failure: Failure) -> Status {
        failure.status(self.settings.strict_errors)
    }
}

/// An answer to one question, before a protocol writes it.
pub struct Resolved<T> {
    /// Value and variant; absent: the code default.
    pub served: Option<(T, String)>,
    /// In OpenFeature's words.
    pub reason: &'static str,
    /// The flag is off; v1 answers so, and otherwise knows no code default.
    pub disabled: bool,
    /// What clients are told beside the answer; absent: nothing.
    pub metadata: Option<Struct>,
}

/// Evaluates one flag for a client. `read` takes the value out, or says that it is of another type.
pub fn resolve<T>(
    host: &Host,
    scope: &Scope,
    key: &str,
    attributes: &Struct,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Resolved<T>, Failure> {
    let published = host.publisher.load();
    let selection = scope.select(&published);
    let Some(flag) = selection.find(key) else {
        host.observation.evaluated(Reason::Error);
        return Err(Failure::NotFound);
    };
    let view = View::new(host, &published, flag.environment());
    let context = view.context(attributes);
    let evaluation = evaluate_flag(&published.snapshot, flag, &context, view.now_ms());
    let (served, disabled) = match Outcome::of(&evaluation) {
        Outcome::Served(variant, value) => match read(value) {
            Some(value) => (Some((value, variant.to_owned())), false),
            None => {
                host.observation.evaluated(Reason::Error);
                return Err(Failure::TypeMismatch);
            }
        },
        Outcome::CodeDefault => (None, false),
        Outcome::Disabled => (None, true),
        Outcome::Failed(failure) => {
            host.observation.evaluated(Reason::Error);
            return Err(failure);
        }
    };
    host.observation.evaluated(evaluation.reason);
    view.expose(&context, &evaluation);
    Ok(Resolved {
        served,
        reason: outcome::reason(evaluation.reason),
        disabled,
        metadata: metadata(scope.selector(), flag, &view, &context, &evaluation),
    })
}

/// The same for a gRPC request, from its parts.
///
/// # Errors
/// As the outcome table says.
pub fn ask<T>(
    host: &Host,
    headers: &HeaderMap,
    extensions: &Extensions,
    key: &str,
    context: Option<Struct>,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Resolved<T>, Status> {
    let fronts = &host.fronts;
    let scope = fronts.scope(headers, extensions, "").map_err(|fault| outcome::bad_selector(&fault))?;
    let attributes = fronts.overlay.over(context, headers);
    resolve(host, &scope, key, &attributes, read).map_err(|failure| fronts.status(failure))
}

/// Evaluates all flags of a selection, by key. An experiment's arm is an exposure only if the experiment says so.
///
/// # Errors
/// There is no room for the answers.
pub async fn resolve_all<T>(
    host: &Host,
    published: &Published,
    selection: &Selection<'_>,
    (attributes, extensions): (&Struct, &Extensions),
    take: impl Fn(&CompiledFlag, &Evaluation<'_>, Option<Struct>) -> Option<T>,
) -> Result<BTreeMap<String, T>, Status> {
    let view = View::new(host, published, "");
    // A receipt is verified once: its keys are the cluster's.
    let context = view.context(attributes);
    let whole = Selector::default();
    let mut walk = Walk::new(attributes, extensions);
    let mut answers = BTreeMap::new();
    for (key, flag) in selection.flags() {
        let view = view.of(flag.environment());
        let evaluation = evaluate_flag(&published.snapshot, flag, &context, view.now_ms());
        host.observation.evaluated(evaluation.reason);
        if view.bulk_exposes(&evaluation) {
            view.expose(&context, &evaluation);
        }
        let metadata = metadata(&whole, flag, &view, &context, &evaluation);
        if let Some(taken) = take(flag, &evaluation, metadata) {
            answers.insert(key.to_owned(), taken);
        }
        walk.passed(flag, &evaluation).await?;
    }
    Ok(answers)
}

/// The selector, over it the environment's and the flag's metadata, over them what only this node knows: an experiment's
/// receipt, a trip. A flag without any of these has none.
fn metadata(
    selector: &Selector,
    flag: &CompiledFlag,
    view: &View<'_>,
    context: &Context<'_>,
    evaluation: &Evaluation<'_>,
) -> Option<Struct> {
    let mut fields = BTreeMap::new();
    selector.describe(&mut fields);
    if let Some(own) = flag.metadata() {
        if fields.is_empty() {
            fields.clone_from(&own.fields);
        } else {
            fields.extend(own.fields.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
    if let Some(receipt) = view.receipt(context, evaluation) {
        fields.insert(RECEIPT_ATTRIBUTE.to_owned(), Value::from(receipt));
    }
    if evaluation.reason == Reason::Tripped {
        fields.insert(REASON_ATTRIBUTE.to_owned(), Value::from(Reason::Tripped.as_str_name()));
    }
    (!fields.is_empty()).then_some(Struct { fields })
}
