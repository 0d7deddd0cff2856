//! Definitions of flags: checked and compiled alike, and what compiles is evaluated and explained alike.

#![no_main]

use featureops_evaluation::{Context, Snapshot, check, compile, evaluate, explain};
use featureops_proto::v1::{Environment, Flag};
use featureops_proto::{Collection, Name};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use prost_types::Struct;

fuzz_target!(|input: &[u8]| {
    let Ok(flag) = Flag::decode(input) else { return };
    let environment = Environment::default();
    let compiled = compile(&flag, &environment);
    assert_eq!(check(&flag, &environment).err(), compiled.as_ref().err().cloned());
    let (Ok(compiled), Ok(name)) = (compiled, Name::parse(&flag.name, Collection::Flags)) else { return };
    let snapshot = Snapshot::empty().apply([compiled], 1, 0);
    let attributes = Struct::default();
    let context = Context::new(&attributes).with_targeting_key("ada");
    let evaluation = evaluate(&snapshot, name.environment, name.id, &context, 1);
    assert_eq!(explain(&snapshot, name.environment, name.id, &context, 1).evaluation, evaluation);
});
