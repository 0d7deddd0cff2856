//! `flag force` and `flag unforce`: a unit's variant, because somebody said so.
//!
//! The flag is read and written back with its etag, so that two who force at once both get what they asked for or hear of
//! it.

use std::collections::BTreeMap;

use clap::Args;
use featureops_proto::Collection::Flags;
use featureops_proto::v1;

use super::{fetch, show_written};
use crate::cli::failure::Failure;
use crate::cli::session::{Session, WriteArgs, verb};
use crate::rpc::flag_service_client::FlagServiceClient;

#[derive(Debug, Args)]
pub struct ForceArgs {
    /// The flag's key.
    key: String,
    /// The targeting key. Repeatable.
    #[arg(long, required = true)]
    unit: Vec<String>,
    /// What it gets.
    #[arg(long)]
    variant: String,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, Args)]
pub struct UnforceArgs {
    /// The flag's key.
    key: String,
    /// The targeting key. Repeatable.
    #[arg(long, required_unless_present = "all")]
    unit: Vec<String>,
    /// All units of the flag.
    #[arg(long, conflicts_with = "unit")]
    all: bool,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn force(session: &Session, args: ForceArgs) -> Result<(), Failure> {
    let flag = fetch(session, &args.key).await?;
    let mut forced = flag.forced.clone();
    forced.extend(args.unit.into_iter().map(|unit| (unit, args.variant.clone())));
    let done = verb(args.write.dry_run, "forced units of", "would force units of");
    write(session, flag, forced, &args.write, done).await
}

pub async fn unforce(session: &Session, args: UnforceArgs) -> Result<(), Failure> {
    let flag = fetch(session, &args.key).await?;
    let forced = if args.all { BTreeMap::new() } else { without(flag.forced.clone(), &args.unit)? };
    let done = verb(args.write.dry_run, "let go of units of", "would let go of units of");
    write(session, flag, forced, &args.write, done).await
}

fn without(
    mut forced: BTreeMap<String, String>,
    units: &[String],
) -> Result<BTreeMap<String, String>, Failure> {
    for unit in units {
        if forced.remove(unit).is_none() {
            return Err(Failure::usage(format!("--unit {unit} is not forced; see featureops flag get")));
        }
    }
    Ok(forced)
}

async fn write(
    session: &Session,
    flag: v1::Flag,
    forced: BTreeMap<String, String>,
    args: &WriteArgs,
    done: &str,
) -> Result<(), Failure> {
    let id = args.request.id()?;
    let name = session.name(Flags, &flag.name)?;
    let request = v1::SetFlagRequest {
        flag: Some(v1::Flag { name, forced, ..v1::Flag::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["forced".to_owned()] }),
        request_id: id.clone(),
        validate_only: args.dry_run,
        etag: flag.etag,
    };
    let flag = session
        .client
        .write(&id, request, |channel, request| async move {
            FlagServiceClient::new(channel).set_flag(request).await
        })
        .await?;
    show_written(session, &flag, done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_forced_is_let_go() {
        let forced =
            BTreeMap::from([("ada", "on"), ("bob", "off")].map(|(u, v)| (u.to_owned(), v.to_owned())));
        let left = without(forced.clone(), &["ada".to_owned()]).unwrap();
        assert_eq!(Vec::from_iter(left.keys()), ["bob"]);
        assert!(without(forced, &["eve".to_owned()]).unwrap_err().message.contains("eve"));
    }
}
