//! `flag lint`: what a definition says and can never happen. It finds and tells; what to do is a person's to say.

use clap::Args;
use featureops_cluster::environment::{Clock as _, SystemClock};
use serde_json::json;

use super::definitions::{self, DefinitionsArgs, WITH_SEGMENTS};
use super::findings::{Finding, findings};
use super::ramps;
use super::segments;
use crate::cli::failure::{Exit, Failure};
use crate::cli::page::{Cell, Tone};
use crate::cli::render::key_of;
use crate::cli::session::Session;

#[derive(Debug, Args)]
#[command(after_help = "Looks for:
  rule-never-matches    an earlier rule always wins, conditions contradict each other, or nobody is in the segment asked about
  allocation-never-reached  a rule or targeting decides for everybody before the running experiment
  weight                entries of a split or fractional that nobody is served by
  variant-never-served  no rule, split, arm, default or safe variant serves it
  variants-unused       a static flag with two or more variants that nobody is served
  no-default, no-safe   the code default is used; the flag can neither trip nor hold an experiment
  ramp-over             a ramp that has reached its end
  reference             a shared rule nobody refers to, or a reference to a shared rule or segment that is none
  clause-never-holds    a segment's clause whose conditions contradict each other, or that asks about a segment nobody is in
  segment-empty         a segment that nobody is in: no clause that can hold, and an empty list
  segment-everybody     a segment that everybody is in
  segment-unused        a segment that no flag and no other segment asks about
  segment-list          a flag asks about a list: clients that evaluate by themselves do not have it
  prerequisite-lost     a prerequisite that a flagd document cannot say: to clients that evaluate by themselves it does not
                        hold
  targeting             targeting that is not JSON, names a variant that is none, or has a part that cannot work, as an import warns")]
pub struct LintArgs {
    /// Only these flags [default: all].
    keys: Vec<String>,
    #[command(flatten)]
    definitions: DefinitionsArgs,
    /// End with 1 when anything is found.
    #[arg(long)]
    strict: bool,
}

pub async fn run(session: &Session, args: LintArgs) -> Result<(), Failure> {
    let found = match args.definitions.read(&session.settings.environment)? {
        Some(found) => found,
        None => definitions::fetch(session).await?,
    };
    let mut all = findings(&found.flags, &found.environment, &found.segments);
    all.extend(segments::findings(&found.flags, &found.environment, &found.segments));
    all.extend(found.unknown_segments().into_iter().map(|(flag, path, segment)| {
        let message =
            format!("asks about segment {segment}, which is not among the definitions; {WITH_SEGMENTS}");
        Finding { flag, code: "reference", path, message }
    }));
    all.extend(ramps::over(&found.flags, SystemClock::start().unix_ms()));
    if let Some(unknown) =
        args.keys.iter().find(|key| !found.flags.iter().any(|flag| key_of(&flag.name) == *key))
    {
        return Err(Failure::new(
            Exit::NotFound,
            format!("there is no flag {unknown} among the {} looked at", found.flags.len()),
        ));
    }
    if !args.keys.is_empty() {
        all.retain(|finding| args.keys.contains(&finding.flag));
    }
    let flags = found.flags.len();
    let listed: Vec<_> = all.iter().map(Finding::json).collect();
    session.show_value(&json!({ "flags": flags, "findings": listed }), |page| {
        let rows = all
            .iter()
            .map(|finding| {
                vec![
                    Cell::new(&finding.flag),
                    Cell::new(finding.code).tone(Tone::Warn),
                    Cell::new(&finding.path),
                    Cell::new(&finding.message),
                ]
            })
            .collect();
        page.table(&["FLAG", "CODE", "WHERE", "FINDING"], rows, &format!("nothing found in {flags} flags"));
    })?;
    match all.len() {
        0 => Ok(()),
        count if args.strict => Err(Failure::found(format!("{count} findings in {flags} flags"))),
        _ => Ok(()),
    }
}
