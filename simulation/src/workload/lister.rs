//! The lister: keeps a segment and its list, and asks who is in it.
//!
//! It alone writes this segment, and repeats every change under its request id until it is answered: so what the list must
//! hold is known, unit by unit. A unit of a change that stayed without an answer is not asked about any more.

use std::collections::BTreeMap;
use std::time::Duration;

use featureops::rpc::segment_service_client::SegmentServiceClient;
use featureops_proto::{Collection, Name, v1};

use super::{ENVIRONMENT, Stage, World, text};
use crate::caller::{Answer, Caller};
use crate::dice::Dice;
use crate::history::Membership;

/// The segment.
const SEGMENT: &str = "beta";
/// Units that come and go.
const UNITS: u64 = 24;
/// Sends of one change after which its outcome stays unknown.
const SENDS_MAX: u64 = 200;
/// Pause between two sends.
const PAUSE: Duration = Duration::from_millis(100);

struct Lister {
    world: World,
    caller: Caller,
    dice: Dice,
    request: u64,
    /// Whether a unit is on the list, as far as that is known.
    listed: BTreeMap<u64, bool>,
}

/// Changes the list until the world closes, then asks about every unit.
pub async fn run(world: World) -> turmoil::Result {
    let caller = world.caller("lister", "human:lister");
    let dice = Dice::new(world.plan.seed, "lister");
    let listed = (0..UNITS).map(|unit| (unit, false)).collect();
    let mut lister = Lister { world, caller, dice, request: 0, listed };
    lister.set_up().await;
    while !lister.world.stage.reached(Stage::Closing) {
        let pause = lister.dice.between(100, 1_500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let unit = lister.change().await;
        lister.ask(unit).await;
    }
    for unit in 0..UNITS {
        lister.ask(unit).await;
    }
    Ok(())
}

fn unit_name(unit: u64) -> String {
    format!("listed-{unit}")
}

impl Lister {
    fn name() -> String {
        Name::format(ENVIRONMENT, Collection::Segments, SEGMENT)
    }

    fn request_id(&mut self) -> String {
        self.request = self.request.saturating_add(1);
        format!("lister-{}", self.request)
    }

    async fn set_up(&mut self) {
        let request = v1::SetSegmentRequest {
            segment: Some(v1::Segment { name: Self::name(), ..v1::Segment::default() }),
            request_id: self.request_id(),
            ..v1::SetSegmentRequest::default()
        };
        for _ in 0..SENDS_MAX {
            let request = request.clone();
            let act = |channel, request| async move {
                SegmentServiceClient::new(channel).set_segment(request).await
            };
            match self.caller.call("set segment", request, act).await {
                Answer::Ok(_) | Answer::Refused(_) => return,
                Answer::Unknown(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Some units come and some go; one of them is told.
    async fn change(&mut self) -> u64 {
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for unit in 0..UNITS {
            match self.dice.between(0, 99) {
                0..=14 => add.push(unit),
                15..=29 => remove.push(unit),
                _ => {}
            }
        }
        let one = self.dice.between(0, UNITS.saturating_sub(1));
        if add.is_empty() && remove.is_empty() {
            add.push(one);
        }
        let names = |units: &[u64]| units.iter().map(|unit| unit_name(*unit)).collect();
        let request = v1::UpdateSegmentUnitsRequest {
            name: Self::name(),
            add: names(&add),
            remove: names(&remove),
            request_id: self.request_id(),
            validate_only: false,
        };
        for sends in 1..=SENDS_MAX {
            let request = request.clone();
            let act = |channel, request| async move {
                SegmentServiceClient::new(channel).update_segment_units(request).await
            };
            match self.caller.call("update units", request, act).await {
                Answer::Ok(_) => {
                    self.listed.extend(add.iter().map(|unit| (*unit, true)));
                    self.listed.extend(remove.iter().map(|unit| (*unit, false)));
                    return add.first().or(remove.first()).copied().unwrap_or(one);
                }
                // Nothing was changed, unless an earlier send of it was.
                Answer::Refused(_) if sends == 1 => return one,
                Answer::Refused(_) => break,
                Answer::Unknown(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        for unit in add.iter().chain(&remove) {
            self.listed.remove(unit);
        }
        one
    }

    /// Asks whether a unit is in, and records what must be answered.
    async fn ask(&mut self, unit: u64) {
        let Some(expected) = self.listed.get(&unit).copied() else { return };
        let fields = [("targetingKey".to_owned(), text(&unit_name(unit)))].into();
        let context = Some(prost_types::Struct { fields });
        let request = v1::TestSegmentRequest { name: Self::name(), context };
        let act =
            |channel, request| async move { SegmentServiceClient::new(channel).test_segment(request).await };
        let asked = self.caller.call("test segment", request, act).await.ok();
        if let Some(answer) = asked.filter(|_| !self.caller.was_stale) {
            let membership = Membership { unit: unit_name(unit), expected, told: answer.contained };
            self.world.history.write(|seen| seen.memberships.push(membership));
        }
    }
}
