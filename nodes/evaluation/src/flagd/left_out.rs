//! What a document leaves out, and so differs in clients that evaluate by themselves.
//!
//! Told is what a flag's author could not see in it: lists of segments, and prerequisites that the dialect cannot say.

use featureops_proto::v1;

use super::export::{SyncForm, by_key, key};
use super::{prerequisites, segments};
use crate::limits;

/// What is left out of a flag's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Who is on a segment's list.
    SegmentList,
    /// A prerequisite: it counts as not held.
    Prerequisite,
}

/// One thing that a document leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The flag's key.
    pub flag: String,
    /// What is left out.
    pub what: What,
    /// What that means, in words.
    pub message: String,
}

/// What the document of these flags leaves out, as much as is told. `flags` holds all of the environment, for they may rest on each
/// other.
#[must_use]
pub fn left_out(flags: &[v1::Flag], environment: &v1::Environment, segments: &[v1::Segment]) -> Vec<LeftOut> {
    let by_flag = left_out_of(flags, environment, segments);
    let mut all = flags.iter().flat_map(&by_flag);
    let mut told: Vec<LeftOut> = all.by_ref().take(limits::MAX_WARNINGS).collect();
    let more = all.count();
    if let Some(last) = told.last_mut().filter(|_| more > 0) {
        last.message = format!("{}; and {more} more that are not told here", last.message);
    }
    told.shrink_to_fit();
    told
}

/// The same flag by flag: all of it, for whoever asks about some of them.
pub fn left_out_of<'a>(
    flags: &'a [v1::Flag],
    environment: &'a v1::Environment,
    segments: &'a [v1::Segment],
) -> impl Fn(&v1::Flag) -> Vec<LeftOut> + 'a {
    let form = SyncForm::of(environment).with_segments(segments);
    let by_key = by_key(flags);
    move |flag| {
        let others = |id: &str| by_key.get(id).copied();
        let mut all = Vec::new();
        let Some(id) = key(flag).filter(|_| !flag.archived && flag.trip.is_none()) else { return all };
        let mut add = |what, message| all.push(LeftOut { flag: id.to_owned(), what, message });
        let conditions = flag.rules.iter().flat_map(|rule| &rule.conditions);
        for segment in segments::with_lists(conditions, form.segments()) {
            let message = format!(
                "the list of segment {segment} is not in it: to clients that evaluate by themselves nobody is on that list"
            );
            add(What::SegmentList, message);
        }
        // Without a rule of its own a flag serves its default, whether or not they hold.
        let varies = !flag.rules.is_empty() || !flag.targeting.is_empty() || flag.allocation.is_some();
        if varies && !flag.prerequisites.is_empty() {
            for why in prerequisites::lost(flag, &form, &others) {
                let message = format!(
                    "a prerequisite is not in it ({why}): to clients that evaluate by themselves it does not hold"
                );
                add(What::Prerequisite, message);
            }
        }
        all
    }
}
