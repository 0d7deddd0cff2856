//! Prerequisites and forced units: what stands between a flag's state and its rules.
//!
//! A prerequisite asks what another flag of the environment serves for the same context, which may rest on others in turn.
//! Every flag is asked at most once an evaluation, and at most [`limits::MAX_PREREQUISITE_FLAGS`] are: whatever a snapshot
//! holds, circles among it, an evaluation ends. The fold lets no circle in and no more levels than are followed here. What
//! was not come to counts as not holding: a flag is rather served its default than what rests on a guess.
//!
//! An arm of the other flag's experiment is looked at, not shown: it is no exposure.

use featureops_proto::{Collection, Name, v1};

use crate::compile::{check_name, index_of};
use crate::context::Context;
use crate::evaluate::{Now, after_prerequisites, before_prerequisites, serve_default};
use crate::explain::{Trace, Untraced, step};
use crate::flag::{CompiledFlag, Forced, Prerequisite, Variant};
use crate::limits;
use crate::refusal::{Outcome, refused, within};

/// The flag's prerequisites, in their order.
pub(crate) fn prerequisites(flag: &v1::Flag, name: Name<'_>) -> Outcome<Box<[Prerequisite]>> {
    within("prerequisites", flag.prerequisites.len(), limits::MAX_PREREQUISITES, "prerequisites")?;
    let one = |(at, given): (usize, &v1::Prerequisite)| {
        let path = format!("prerequisites[{at}].flag");
        if let Err(error) =
            Name::parse(&Name::format(name.environment, Collection::Flags, &given.flag), Collection::Flags)
        {
            return refused(path, &given.flag, error);
        }
        if given.flag == name.id {
            return refused(path, &given.flag, "a flag cannot be its own prerequisite; name another");
        }
        if flag.prerequisites.iter().take(at).any(|earlier| earlier.flag == given.flag) {
            return refused(path, &given.flag, "named already; name all its variants there");
        }
        let path = format!("prerequisites[{at}].variants");
        if given.variants.is_empty() {
            return refused(path, 0, "name the variants of which the other flag must serve one");
        }
        within(&path, given.variants.len(), limits::MAX_VARIANTS, "variants")?;
        for (nth, variant) in given.variants.iter().enumerate() {
            check_name(|| format!("{path}[{nth}]"), variant)?;
        }
        let variants = given.variants.iter().map(|variant| variant.as_str().into()).collect();
        Ok(Prerequisite { flag: given.flag.as_str().into(), variants })
    };
    flag.prerequisites.iter().enumerate().map(one).collect()
}

/// Units and their variants, sorted by unit.
pub(crate) fn forced(flag: &v1::Flag, variants: &[Variant]) -> Outcome<Box<[Forced]>> {
    within("forced", flag.forced.len(), limits::MAX_FORCED, "forced units")?;
    let one = |(unit, variant): (&String, &String)| {
        if unit.is_empty() || unit.len() > limits::MAX_UNIT_BYTES {
            let max = limits::MAX_UNIT_BYTES;
            return refused("forced", unit, format_args!("a unit has 1 to {max} bytes"));
        }
        let variant =
            index_of(variants, variant, || format!("forced[{}]", unit.chars().take(80).collect::<String>()))?;
        Ok(Forced { unit: unit.as_str().into(), variant })
    };
    flag.forced.iter().map(one).collect()
}

/// The variant that a unit is forced to.
pub(crate) fn forced_for(flag: &CompiledFlag, unit: &str) -> Option<u16> {
    let at = flag.forced.binary_search_by(|forced| forced.unit.as_ref().cmp(unit)).ok()?;
    flag.forced.get(at).map(|forced| forced.variant)
}

/// Whether all prerequisites of a flag hold. Out of the way of flags that have none: what was found lies on the stack.
#[inline(never)]
pub(crate) fn hold(flag: &CompiledFlag, context: &Context<'_>, now: Now<'_>, trace: &mut impl Trace) -> bool {
    let mut asking = Asking { context, now, found: [None; limits::MAX_PREREQUISITE_FLAGS], count: 0 };
    asking.hold(flag, 1, trace)
}

/// What the flags below serve, as far as they were asked.
struct Asking<'s, 'c> {
    context: &'c Context<'c>,
    now: Now<'s>,
    found: [Option<(&'s CompiledFlag, Option<&'s str>)>; limits::MAX_PREREQUISITE_FLAGS],
    count: usize,
}

impl<'s> Asking<'s, '_> {
    fn hold(&mut self, flag: &CompiledFlag, level: usize, trace: &mut impl Trace) -> bool {
        flag.prerequisites.iter().all(|prerequisite| {
            let answer = self.served(&flag.environment, &prerequisite.flag, level);
            let served = answer.ok().flatten();
            let holds = served
                .is_some_and(|served| prerequisite.variants.iter().any(|variant| variant.as_ref() == served));
            trace.step(|| {
                let wanted = prerequisite.variants.join(", ");
                let finding = match (answer, holds) {
                    (Err(why), _) => why.to_owned(),
                    (Ok(Some(served)), true) => format!("serves {served}"),
                    (Ok(Some(served)), false) => format!("serves {served}, not {wanted}"),
                    (Ok(None), _) => format!("serves no variant, not {wanted}"),
                };
                step(format!("prerequisite {}", prerequisite.flag), finding, holds)
            });
            holds
        })
    }

    /// The variant that a flag serves.
    fn served(
        &mut self,
        environment: &str,
        flag: &str,
        level: usize,
    ) -> Result<Option<&'s str>, &'static str> {
        let Some(flag) = self.now.snapshot.get(environment, flag) else {
            return Err("there is no such flag in this environment");
        };
        let known =
            self.found.iter().take(self.count).flatten().find(|(other, _)| std::ptr::eq(*other, flag));
        if let Some((_, served)) = known {
            return Ok(*served);
        }
        if level > limits::MAX_PREREQUISITE_LEVELS {
            return Err("too many levels below; it counts as not holding");
        }
        let at = self.count;
        if at >= limits::MAX_PREREQUISITE_FLAGS {
            return Err("too many flags below; it counts as not holding");
        }
        // Its place is taken before it is asked, so that a circle finds it there, serving nothing.
        self.count += 1;
        if let Some(place) = self.found.get_mut(at) {
            *place = Some((flag, None));
        }
        let (context, now) = (self.context, self.now);
        let evaluation = match before_prerequisites(flag, context, now, &mut Untraced) {
            Some(evaluation) => evaluation,
            None if self.hold(flag, level + 1, &mut Untraced) => {
                after_prerequisites(flag, context, now, &mut Untraced)
            }
            None => serve_default(flag, &mut Untraced),
        };
        if let Some(place) = self.found.get_mut(at) {
            *place = Some((flag, evaluation.variant));
        }
        Ok(evaluation.variant)
    }
}
