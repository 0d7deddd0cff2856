//! `token create|list|get|revoke`: who may do what.

use clap::{Args, Subcommand, ValueEnum};
use featureops_cluster::environment::{Clock as _, SystemClock};
use featureops_proto::v1;
use featureops_proto::v1::token::Role;
use prost_types::Timestamp;

use super::failure::Failure;
use super::listing::{MAX_LISTED, listed};
use super::page::{Cell, Page, Tone};
use super::session::{Session, WriteArgs, principal_text, verb};
use super::span::{moment_text, parse_moment_from, parse_span};
use crate::access::role_text;
use crate::rpc::token_service_client::TokenServiceClient;

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token. Its secret is shown once.
    Create(CreateArgs),
    /// List tokens: names, roles, scopes, ends, last uses; never secrets.
    List,
    /// Show a token.
    Get { id: String },
    /// Revoke a token: it stops working within moments, and so do streams that it opened.
    Revoke {
        id: String,
        #[command(flatten)]
        write: WriteArgs,
    },
}

/// A role, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Asks for values: evaluation, flagd's protocols, OFREP
    Evaluate,
    /// Reports exposures and outcomes
    Track,
    /// Reads everything but tokens
    View,
    /// View, and writes flags, segments, metrics, layers, schedules, experiments
    Edit,
    /// View, and approves, rejects and reverts decisions; never its own
    Approve,
    /// View, and trips, resumes, raises alarms, sets autonomy and freezes, erases units
    Operate,
    /// All of these, tokens and budgets
    Admin,
    /// Lets a node into the cluster (serve --join-token), and nothing else: takes --expires
    Join,
    /// View and edit as an agent: what takes a person it may not do; goes with no approve and no admin
    Agent,
}

impl RoleName {
    const fn role(self) -> Role {
        match self {
            Self::Evaluate => Role::Evaluate,
            Self::Track => Role::Track,
            Self::View => Role::View,
            Self::Edit => Role::Edit,
            Self::Approve => Role::Approve,
            Self::Operate => Role::Operate,
            Self::Admin => Role::Admin,
            Self::Join => Role::Join,
            Self::Agent => Role::Agent,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  featureops token create root --role admin                          # the first; from then on everybody needs one
  featureops token create anna --role edit --role approve
  featureops token create shop --role evaluate --role track --in production --expires +90d
  featureops token create tuner --role agent --in staging --flags checkout-
  featureops token create node-4 --role join --expires +1h -o json | jq -r .secret > join.token
  featureops token create ci --role edit --in staging -o json | jq -r .secret > ci.token

The name is whom the audit names; a person and a service have one each. -o json has the secret in `secret`.")]
pub struct CreateArgs {
    /// Under which name it acts.
    id: String,
    /// What it may do. Repeatable.
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<RoleName>,
    /// In this environment only. Repeatable [default: all].
    #[arg(long = "in", value_name = "ENVIRONMENT")]
    environments: Vec<String>,
    /// Of flags whose keys begin so only [default: all].
    #[arg(long = "flags", value_name = "PREFIX", default_value = "", hide_default_value = true)]
    flag_prefix: String,
    /// When it ends: RFC 3339, unix seconds or milliseconds, or a span from now on, as +90d or 90d [default: never].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    expires: Option<Timestamp>,
    /// What it is for.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// A span counts from this machine's clock; the cluster's log time decides when it is over.
fn moment(text: &str) -> Result<Timestamp, String> {
    // `1h` is meant as `+1h`; a bare number is a moment.
    let is_span = text.trim().ends_with(|unit: char| unit.is_ascii_lowercase()) && parse_span(text).is_ok();
    let text = if is_span { format!("+{}", text.trim()) } else { text.to_owned() };
    parse_moment_from(&text, SystemClock::start().unix_ms())
}

fn name_of(id: &str) -> String {
    if id.starts_with("tokens/") { id.to_owned() } else { format!("tokens/{id}") }
}

fn id_of(token: &v1::Token) -> &str {
    token.name.strip_prefix("tokens/").unwrap_or(&token.name)
}

pub async fn run(session: &Session, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(session, args).await,
        TokenCommand::List => list(session).await,
        TokenCommand::Get { id } => {
            let request = v1::GetTokenRequest { name: name_of(&id) };
            let token = session
                .client
                .read(request, |channel, request| async move {
                    TokenServiceClient::new(channel).get_token(request).await
                })
                .await?;
            session.show(&token, |page| describe(page, &token))
        }
        TokenCommand::Revoke { id, write } => {
            let request_id = write.id()?;
            let request = v1::RevokeTokenRequest {
                name: name_of(&id),
                request_id: request_id.clone(),
                validate_only: write.dry_run,
            };
            let answer = session
                .client
                .write(&request_id, request, |channel, request| async move {
                    TokenServiceClient::new(channel).revoke_token(request).await
                })
                .await?;
            let verb = verb(write.dry_run, "revoked", "would revoke");
            session.show(&answer, |page| page.line(Tone::Good, format!("{verb} {id}")))
        }
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let request_id = args.write.id()?;
    let request = v1::CreateTokenRequest {
        token: Some(v1::Token {
            name: name_of(&args.id),
            roles: args.roles.iter().map(|name| name.role().into()).collect(),
            environments: args.environments,
            flag_prefix: args.flag_prefix,
            expire_time: args.expires,
            description: args.note,
            ..v1::Token::default()
        }),
        request_id: request_id.clone(),
        validate_only: args.write.dry_run,
    };
    let answer = session
        .client
        .write(&request_id, request, |channel, request| async move {
            TokenServiceClient::new(channel).create_token(request).await
        })
        .await?;
    let token = answer.token.clone().unwrap_or_default();
    session.show(&answer, |page| {
        let verb = verb(args.write.dry_run, "created", "would create");
        page.line(Tone::Good, format!("{verb} {}: {}", id_of(&token), what(&token)));
        if !answer.secret.is_empty() {
            page.line(Tone::Plain, answer.secret.clone());
            page.line(Tone::Warn, "this is the only time that it is shown; use it by FEATUREOPS_TOKEN or --token-file");
        } else if !args.write.dry_run {
            page.line(
                Tone::Warn,
                format!(
                    "an earlier attempt made it, and its answer had the secret; without it: featureops token revoke {}, and \
                     create it again",
                    id_of(&token)
                ),
            );
        }
    })
}

async fn list(session: &Session) -> Result<(), Failure> {
    let all = listed(MAX_LISTED, 500, async |page_size, page_token| {
        let request = v1::ListTokensRequest { page_size, page_token };
        let act =
            |channel, request| async move { TokenServiceClient::new(channel).list_tokens(request).await };
        session.client.read(request, act).await
    })
    .await?;
    session.show(&all, |page| {
        let rows = all
            .tokens
            .iter()
            .map(|token| {
                let tone = if token.expired { Tone::Warn } else { Tone::Plain };
                vec![
                    Cell::new(id_of(token)),
                    Cell::new(what(token)),
                    Cell::new(ends(token)).tone(tone),
                    Cell::new(token.last_use_time.as_ref().map_or("-".to_owned(), |t| moment_text(Some(t)))),
                    Cell::new(&token.key_id),
                    Cell::new(principal_text(token.author.as_ref())),
                    Cell::new(&token.description),
                ]
            })
            .collect();
        let headings = ["TOKEN", "MAY", "ENDS", "LAST USE HERE", "KEY", "MADE BY", "NOTE"];
        page.table(&headings, rows, "no tokens; the first one: featureops token create NAME --role admin");
    })
}

/// `edit, approve in production of checkout-*`.
fn what(token: &v1::Token) -> String {
    let mut text = token.roles().map(role_text).collect::<Vec<_>>().join(", ");
    if !token.environments.is_empty() {
        text.push_str(&format!(" in {}", token.environments.join(", ")));
    }
    if !token.flag_prefix.is_empty() {
        text.push_str(&format!(" of {}*", token.flag_prefix));
    }
    text
}

fn ends(token: &v1::Token) -> String {
    match &token.expire_time {
        None => "never".to_owned(),
        Some(time) if token.expired => format!("ended {}", moment_text(Some(time))),
        Some(time) => moment_text(Some(time)),
    }
}

fn describe(page: &mut Page, token: &v1::Token) {
    page.facts([
        ("token", id_of(token).to_owned()),
        ("may", what(token)),
        ("ends", ends(token)),
        ("last use here", token.last_use_time.as_ref().map_or("-".to_owned(), |t| moment_text(Some(t)))),
        ("key", token.key_id.clone()),
        ("made", moment_text(token.create_time.as_ref())),
        ("made by", principal_text(token.author.as_ref())),
        ("note", token.description.clone()),
    ]);
}
