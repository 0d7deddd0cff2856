//! Arms assigned by the node: every unit is evaluated, and its exposure reported with the receipt it was given.
//!
//! Evaluations ask for no implied exposure: those are coalesced and may be shed under load, and this command compares to
//! the last unit.

use featureops_proto::v1;
use tokio::task::JoinSet;

use super::source::Source;
use crate::cli::failure::{Exit, Failure};
use crate::cli::render::word_of;
use crate::cli::session::Session;
use crate::rpc::evaluation_service_client::EvaluationServiceClient;

/// Evaluations in flight.
const WINDOW: usize = 64;

pub async fn assign(
    session: &Session,
    experiment: &v1::Experiment,
    source: &mut Source,
) -> Result<(), Failure> {
    let mut flying: JoinSet<(usize, Result<v1::EvaluateResponse, Failure>)> = JoinSet::new();
    let mut answers: Vec<(usize, usize, String)> = Vec::with_capacity(source.units.len());
    let mut waiting = source.units.iter().enumerate();
    loop {
        while flying.len() < WINDOW
            && let Some((place, unit)) = waiting.next()
        {
            let client = session.client.clone();
            let request = v1::EvaluateRequest {
                environment: session.parent(),
                flag: experiment.flag.clone(),
                context: Some(prost_types::Struct {
                    fields: [("targetingKey".to_owned(), unit.key.clone().into())].into(),
                }),
                no_exposure: true,
                ..v1::EvaluateRequest::default()
            };
            flying.spawn(async move {
                let answer = client
                    .read(request, |channel, request| async move {
                        EvaluationServiceClient::new(channel).evaluate(request).await
                    })
                    .await;
                (place, answer)
            });
        }
        let Some(landed) = flying.join_next().await else { break };
        let (place, answer) =
            landed.map_err(|error| Failure::internal(format!("a task ended early: {error}")))?;
        let answer = answer?;
        let variant = answer.variant.as_deref().unwrap_or_default();
        let Some(arm) = source.arms.iter().position(|arm| arm == variant) else {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "the node answered '{variant}' because {}, which is no arm of the experiment",
                    word_of(answer.reason().as_str_name(), "")
                ),
            )
            .note("a targeting rule may stand before the experiment, or the flag is tripped or disabled")
            .note(format!("see: featureops flag explain {} --unit ...", experiment.flag)));
        };
        answers.push((place, arm, answer.receipt));
    }
    for (place, arm, receipt) in answers {
        if let Some(unit) = source.units.get_mut(place) {
            unit.arm = arm;
            unit.receipt = receipt;
        }
    }
    Ok(())
}
