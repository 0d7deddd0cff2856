//! The experiment to replay into: found, or with `--create` made and started.

use featureops_proto::Collection::{Experiments, Flags, Metrics};
use featureops_proto::v1;

use super::ReplayArgs;
use super::source::{Kind, Source};
use crate::cli::client::new_request_id;
use crate::cli::failure::{Exit, Failure};
use crate::cli::render::{key_of, value_of_json};
use crate::cli::session::{Session, progress};
use crate::cli::{experiment, flag, metric};
use crate::rpc::flag_service_client::FlagServiceClient;

/// The running experiment. Metrics that exist say what kind their column is.
pub async fn prepare(
    session: &Session,
    args: &ReplayArgs,
    source: &mut Source,
) -> Result<v1::Experiment, Failure> {
    for place in 0..source.outcomes.len() {
        prepare_metric(session, args, source, place).await?;
    }
    let found = match experiment::fetch(session, &args.experiment).await {
        Err(failure) if failure.exit == Exit::NotFound && args.create => {
            create(session, args, source).await?
        }
        Err(failure) if failure.exit == Exit::NotFound => {
            return Err(failure.note("add --create to create and start it"));
        }
        other => other?,
    };
    use v1::experiment::State;
    match found.state() {
        State::Running => Ok(found),
        State::Draft | State::Paused if args.create => {
            let request = v1::StartExperimentRequest {
                name: found.name.clone(),
                request_id: new_request_id()?,
                ..v1::StartExperimentRequest::default()
            };
            let started = experiment::start(session, request).await?;
            progress(&format!("started experiment {}", key_of(&started.name)));
            Ok(started)
        }
        state => Err(Failure::new(
            Exit::Refused,
            format!("experiment {} is {}, not running", args.experiment, state.as_str_name().to_lowercase()),
        )
        .note(format!("start it with: featureops experiment start {}, or add --create", args.experiment))),
    }
}

async fn prepare_metric(
    session: &Session,
    args: &ReplayArgs,
    source: &mut Source,
    place: usize,
) -> Result<(), Failure> {
    let Some(outcome) = source.outcomes.get_mut(place) else { return Ok(()) };
    match metric::fetch(session, &outcome.metric).await {
        Ok(metric) => {
            outcome.kind = match metric.kind() {
                v1::metric::Kind::Proportion => Kind::Proportion,
                v1::metric::Kind::Mean => Kind::Mean,
                other => {
                    return Err(Failure::usage(format!(
                        "metric {} is a {}; a replay compares proportions and means",
                        outcome.metric,
                        other.as_str_name().to_lowercase()
                    )));
                }
            };
            Ok(())
        }
        Err(failure) if failure.exit == Exit::NotFound && args.create => {
            let kind = match outcome.kind {
                Kind::Proportion => v1::metric::Kind::Proportion,
                Kind::Mean => v1::metric::Kind::Mean,
            };
            let id = new_request_id()?;
            let created = v1::Metric {
                name: session.name(Metrics, &outcome.metric)?,
                kind: kind.into(),
                direction: v1::metric::Direction::HigherIsBetter.into(),
                description: format!("column {} of {}", outcome.column, file_name(args)),
                ..v1::Metric::default()
            };
            let request = v1::SetMetricRequest {
                metric: Some(created),
                request_id: id.clone(),
                ..v1::SetMetricRequest::default()
            };
            let created = metric::write(session, id, request).await?;
            progress(&format!("created metric {}", key_of(&created.name)));
            Ok(())
        }
        Err(failure) if failure.exit == Exit::NotFound => Err(failure.note("add --create to create it")),
        Err(failure) => Err(failure),
    }
}

/// The file's name without its folders: a description is read by others.
fn file_name(args: &ReplayArgs) -> String {
    args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

async fn create(session: &Session, args: &ReplayArgs, source: &Source) -> Result<v1::Experiment, Failure> {
    // Arms the node assigns still need names.
    let arms = if source.arms.is_empty() {
        vec!["control".to_owned(), "treatment".to_owned()]
    } else {
        source.arms.clone()
    };
    let key = args.flag.as_deref().unwrap_or_else(|| key_of(&args.experiment));
    match flag::fetch(session, key).await {
        Ok(_) => {}
        Err(failure) if failure.exit == Exit::NotFound => create_flag(session, args, key, &arms).await?,
        Err(failure) => return Err(failure),
    }
    let mut metrics = source.outcomes.iter().map(|outcome| outcome.metric.clone());
    let experiment = v1::Experiment {
        name: session.name(Experiments, &args.experiment)?,
        flag: key.to_owned(),
        // Both arms have been served to people already.
        arms: arms.into_iter().map(|variant| v1::Arm { variant, established: true }).collect(),
        primary_metric: metrics.next().unwrap_or_default(),
        secondary_metrics: metrics.collect(),
        // What the file assigned is history: there is nothing to learn to allocate.
        policy: v1::experiment::Policy::Fixed.into(),
        hypothesis: format!("replay of {}", file_name(args)),
        planned_units: source.units.len() as u64,
        ..v1::Experiment::default()
    };
    let created = experiment::create(session, new_request_id()?, experiment, false).await?;
    progress(&format!("created experiment {}", key_of(&created.name)));
    Ok(created)
}

async fn create_flag(
    session: &Session,
    args: &ReplayArgs,
    key: &str,
    arms: &[String],
) -> Result<(), Failure> {
    let id = new_request_id()?;
    let flag = v1::Flag {
        name: session.name(Flags, key)?,
        r#type: v1::ValueType::String.into(),
        variants: arms.iter().map(|arm| (arm.clone(), value_of_json(&arm.as_str().into()))).collect(),
        default_variant: arms.first().cloned(),
        safe_variant: arms.first().cloned(),
        description: format!("arms of the replay of {}", file_name(args)),
        ..v1::Flag::default()
    };
    let request =
        v1::SetFlagRequest { flag: Some(flag), request_id: id.clone(), ..v1::SetFlagRequest::default() };
    let created = session
        .client
        .write(&id, request, |channel, request| async move {
            FlagServiceClient::new(channel).set_flag(request).await
        })
        .await?;
    progress(&format!("created flag {}", key_of(&created.name)));
    Ok(())
}
