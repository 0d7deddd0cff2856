//! Tokens made and revoked. Who may is checked here too, by the token that the caller acts under: a door that forgot to ask
//! cannot give anybody more than he has.

use std::collections::BTreeSet;
use std::sync::Arc;

use featureops_proto::log::{CreateToken, Refusal, RevokeToken, TokenRecord};
use featureops_proto::v1::token::Role;
use featureops_proto::v1::{Token, principal};
use featureops_proto::{ErrorCode, environment_of};

use super::{Context, Outcome, done, refuse};
use crate::State;
use crate::effect::Effect;
use crate::tokens::{
    KEY_ID_DIGITS, MAX_TOKEN_DESCRIPTION_BYTES, MAX_TOKEN_ENVIRONMENTS, MAX_TOKENS, SECRET_HASH_BYTES,
    expire_ms, is_whole_admin, token_name,
};

impl State {
    /// Once there are tokens nobody acts without one: what a node of another release or another mind let in ends here.
    pub(super) fn check_verified(&self, ctx: &Context) -> Result<(), Refusal> {
        if self.tokens.is_empty() || ctx.principal.kind() == principal::Kind::System {
            return Ok(());
        }
        // A node that lags may have let in a token that is gone by now.
        let token = self.tokens.get(&ctx.principal.id).and_then(|held| held.definition.as_ref());
        if ctx.principal.verified && token.is_some_and(|token| !self.is_expired(token)) {
            return Ok(());
        }
        let message = "this cluster has tokens, and the caller showed none that stands: send one (--token, FEATUREOPS_TOKEN)";
        refuse(ErrorCode::NotPermitted, "principal", ctx.caller(), message)
    }

    pub(super) fn create_token(
        &mut self,
        ctx: &Context,
        c: &CreateToken,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        self.check_may_manage(ctx)?;
        let Some(given) = &c.token else {
            return refuse(ErrorCode::InvalidArgument, "token", "", "missing");
        };
        let id = id_of(&given.name, "token.name")?;
        if self.tokens.contains_key(id) {
            let message = "there is such a token; revoke it, or choose another name";
            return refuse(ErrorCode::AlreadyExists, "token.name", &given.name, message);
        }
        if self.tokens.len() >= MAX_TOKENS {
            let message =
                format!("{MAX_TOKENS} tokens are there, the most there can be; revoke expired ones");
            return refuse(ErrorCode::LimitReached, "token", &given.name, message);
        }
        let definition = checked(ctx, given)?;
        let is_key_id = c.key_id.len() == KEY_ID_DIGITS
            && c.key_id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if c.secret_hash.len() != SECRET_HASH_BYTES || !is_key_id {
            let message = "a node makes secrets: 32 bytes of hash, 16 hexadecimal digits of key id";
            return refuse(ErrorCode::InvalidArgument, "secret_hash", c.secret_hash.len(), message);
        }
        if self.tokens.values().any(|held| held.key_id == c.key_id) {
            return refuse(ErrorCode::AlreadyExists, "key_id", &c.key_id, "is taken; try again");
        }
        let record = TokenRecord {
            token: id.to_owned(),
            definition: Some(definition),
            secret_hash: c.secret_hash.clone(),
            key_id: c.key_id.clone(),
            author: Some(ctx.principal.clone()),
            create_ms: ctx.now_ms,
        };
        if self.tokens.is_empty() && !is_whole_admin(&record) {
            let message = "the first token is an admin of everything that never expires (--role admin): without one nobody \
                           could make another";
            return refuse(ErrorCode::WrongState, "token.roles", told(given), message);
        }
        let detail = told(given);
        self.tokens.insert(id.to_owned(), Arc::new(record));
        effects.push(Effect::TokensChanged);
        Ok(Outcome { done: done(&given.name, 1, String::new()), detail, touched: Vec::new() })
    }

    pub(super) fn revoke_token(
        &mut self,
        ctx: &Context,
        c: &RevokeToken,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        self.check_may_manage(ctx)?;
        let id = id_of(&c.name, "name")?;
        let Some(held) = self.tokens.get(id) else {
            return refuse(ErrorCode::NotFound, "name", &c.name, "no such token");
        };
        let whole = self.tokens.values().filter(|token| is_whole_admin(token)).count();
        if is_whole_admin(held) && whole == 1 && self.tokens.len() > 1 {
            let message = "is the only admin of everything, and other tokens are there; make another such one first, or \
                           revoke this one last";
            return refuse(ErrorCode::WrongState, "name", &c.name, message);
        }
        let detail = held.definition.as_ref().map(told).unwrap_or_default();
        self.tokens.remove(id);
        effects.push(Effect::TokensChanged);
        Ok(Outcome { done: done(&c.name, 0, String::new()), detail, touched: Vec::new() })
    }

    /// The node itself (a recovery), an admin of everything, or, while there is no token, a person.
    fn check_may_manage(&self, ctx: &Context) -> Result<(), Refusal> {
        if ctx.principal.kind() == principal::Kind::System {
            return Ok(());
        }
        ctx.require_human("managing tokens")?;
        if self.tokens.is_empty() {
            return Ok(());
        }
        let held = self.tokens.get(&ctx.principal.id).and_then(|record| record.definition.as_ref());
        let may = held.is_some_and(|token| {
            token.roles.contains(&(Role::Admin as i32))
                && token.environments.is_empty()
                && token.flag_prefix.is_empty()
                && !self.is_expired(token)
        });
        if may {
            return Ok(());
        }
        let message = "managing tokens takes an admin token without a scope";
        refuse(ErrorCode::NotPermitted, "principal", ctx.caller(), message)
    }
}

/// The id in `tokens/{token}`: it becomes a principal's.
fn id_of<'a>(name: &'a str, field: &str) -> Result<&'a str, Refusal> {
    let id = name.strip_prefix("tokens/").unwrap_or_default();
    // The id's rule is that of every other name.
    match environment_of(&format!("environments/{id}")) {
        Ok(_) => Ok(id),
        Err(_) => {
            let message = "must be tokens/{token}, of 1 to 128 letters, digits or . _ - :";
            refuse(ErrorCode::InvalidArgument, field, name, message)
        }
    }
}

/// The definition without output fields, in one order, if it can be kept.
fn checked(ctx: &Context, given: &Token) -> Result<Token, Refusal> {
    let bad = |field: &str, value: String, message: String| {
        refuse(ErrorCode::InvalidArgument, &format!("token.{field}"), value, message)
    };
    let roles: BTreeSet<i32> = given.roles.iter().copied().collect();
    if roles.is_empty() {
        let message = "evaluate, track, view, edit, approve, operate, admin, agent or join".to_owned();
        return bad("roles", String::new(), message);
    }
    if let Some(unknown) =
        roles.iter().find(|role| !matches!(Role::try_from(**role), Ok(known) if known != Role::Unspecified))
    {
        return bad("roles", unknown.to_string(), "is no role".to_owned());
    }
    let has = |role: Role| roles.contains(&(role as i32));
    if has(Role::Agent) && (has(Role::Approve) || has(Role::Admin)) {
        let message =
            "an agent never approves and is no admin: give a person a token of their own".to_owned();
        return bad("roles", told(given), message);
    }
    if has(Role::Join) {
        if roles.len() > 1 || !given.environments.is_empty() || !given.flag_prefix.is_empty() {
            let message = "join lets nodes into the cluster and does nothing else: no other role, no environment, no flags";
            return bad("roles", told(given), message.to_owned());
        }
        if given.expire_time.is_none() {
            let message = "a token that lets nodes in ends: give it a time, as --expires +1h".to_owned();
            return bad("expire_time", String::new(), message);
        }
    }
    let environments: BTreeSet<&String> = given.environments.iter().collect();
    if environments.len() > MAX_TOKEN_ENVIRONMENTS {
        let message = format!("names at most {MAX_TOKEN_ENVIRONMENTS}; without any it is of all");
        return bad("environments", environments.len().to_string(), message);
    }
    for environment in &environments {
        if let Err(error) = environment_of(&format!("environments/{environment}")) {
            return bad("environments", (*environment).clone(), error.to_string());
        }
    }
    let prefix = &given.flag_prefix;
    if !prefix.is_empty() && environment_of(&format!("environments/{prefix}.")).is_err() {
        let message = "no flag's key begins so: up to 127 letters, digits or . _ - :".to_owned();
        return bad("flag_prefix", prefix.clone(), message);
    }
    if expire_ms(given).is_some_and(|end_ms| end_ms <= ctx.now_ms) {
        let message = "lies in the past; choose a later time, or none".to_owned();
        return bad(
            "expire_time",
            given.expire_time.map(|time| time.to_string()).unwrap_or_default(),
            message,
        );
    }
    if given.description.len() > MAX_TOKEN_DESCRIPTION_BYTES {
        let message = format!("at most {MAX_TOKEN_DESCRIPTION_BYTES} bytes");
        return bad("description", format!("{} bytes", given.description.len()), message);
    }
    Ok(Token {
        name: String::new(),
        roles: roles.into_iter().collect(),
        environments: environments.into_iter().cloned().collect(),
        flag_prefix: prefix.clone(),
        expire_time: given.expire_time,
        description: given.description.clone(),
        ..Token::default()
    })
}

/// Roles and scope in one line, for the audit.
fn told(token: &Token) -> String {
    let roles: Vec<String> = token.roles().map(|role| role.as_str_name().to_ascii_lowercase()).collect();
    let mut text = roles.join("+");
    if !token.environments.is_empty() {
        text.push_str(&format!(" in {}", token.environments.join(", ")));
    }
    if !token.flag_prefix.is_empty() {
        text.push_str(&format!(", flags {}*", token.flag_prefix));
    }
    if let Some(time) = &token.expire_time {
        text.push_str(&format!(", until {time}"));
    }
    text
}

/// For the audit.
pub(super) fn resource_of(c: &CreateToken) -> String {
    c.token.as_ref().map(|token| token.name.clone()).unwrap_or_else(|| token_name(""))
}
