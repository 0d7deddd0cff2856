//! The witness: reads flags through one node after another, with nobody's writes in hand. By its reads one sees whether the control
//! plane has one order for everybody.

use std::time::Duration;

use featureops::rpc::flag_service_client::FlagServiceClient;
use featureops_proto::v1;

use super::{EXPERIMENTS, PLAIN_FLAG, Stage, World, flag_name};
use crate::dice::Dice;
use crate::history::FlagRead;
use crate::trace::now_micros;

/// Reads until the world closes.
pub async fn run(world: World) -> turmoil::Result {
    let mut caller = world.caller("witness", "human:witness");
    let mut dice = Dice::new(world.plan.seed, "witness");
    while !world.stage.reached(Stage::Closing) {
        let pause = dice.between(20, 250);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if let Some(machine) = dice.pick(&world.machines)
            && machine.life.is_powered()
        {
            caller.move_to(&machine.name);
        }
        let experiment = dice.pick(EXPERIMENTS).copied().unwrap_or(PLAIN_FLAG);
        let flag = if dice.percent(30) { PLAIN_FLAG } else { experiment };
        let (asked, machine) = (now_micros(), caller.machine());
        let request = v1::GetFlagRequest { name: flag_name(flag) };
        let act = |channel, request| async move { FlagServiceClient::new(channel).get_flag(request).await };
        if let Some(answer) = caller.call(&format!("witness {flag}"), request, act).await.ok() {
            let read = FlagRead {
                asked,
                answered: now_micros(),
                machine,
                stale: caller.was_stale,
                flag: flag.to_owned(),
                version: answer.flag_version,
            };
            world.history.write(|seen| seen.reads.push(read));
        }
    }
    Ok(())
}
