//! What a request was let in as: a token's name, roles and scope; or a stranger's few environments.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::http::Extensions;
use featureops_proto::log::TokenRecord;
use featureops_proto::v1::token::Role;
use featureops_proto::v1::{Principal, principal::Kind};
use featureops_state::token_expire_ms;
use parking_lot::Mutex;
use tonic::Status;

use super::rates::Bucket;
use super::role_text;
use crate::refusal::{self, clip};

/// Steps in which the last use is kept.
const USE_STEP_MS: i64 = 60_000;

/// What was granted.
pub struct Grant {
    /// Absent: a stranger.
    principal: Option<Principal>,
    roles: Vec<Role>,
    /// Absent: all of them.
    environments: Option<Vec<String>>,
    flag_prefix: String,
    expire_ms: Option<i64>,
    key_id: String,
    /// Log time, to the minute; 0: never, here.
    last_use_ms: AtomicI64,
    /// Writes it may still do now.
    pub(super) writes: Mutex<Bucket>,
    /// Requests with facts it may still send now.
    pub(super) facts: Mutex<Bucket>,
}

/// Nothing of a secret is in it, and little of it is worth a line.
impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("id", &self.id()).field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Grant {
    /// That of a token; `None` for a record without a definition, as none is kept.
    #[must_use]
    pub fn of(record: &TokenRecord) -> Option<Self> {
        let definition = record.definition.as_ref()?;
        let mut roles: Vec<Role> = definition.roles().collect();
        let is_agent = roles.contains(&Role::Agent);
        if roles.contains(&Role::Admin) {
            roles.extend([Role::Evaluate, Role::Track, Role::Edit, Role::Approve, Role::Operate]);
        }
        if is_agent {
            roles.push(Role::Edit);
        }
        if roles.iter().any(|role| matches!(role, Role::Edit | Role::Approve | Role::Operate)) {
            roles.push(Role::View);
        }
        let kind = if is_agent { Kind::Agent } else { Kind::Human };
        let environments = &definition.environments;
        Some(Self {
            principal: Some(Principal { kind: kind.into(), id: record.token.clone(), verified: true }),
            roles,
            environments: (!environments.is_empty()).then(|| environments.clone()),
            flag_prefix: definition.flag_prefix.clone(),
            expire_ms: token_expire_ms(definition),
            key_id: record.key_id.clone(),
            last_use_ms: AtomicI64::new(0),
            writes: Mutex::default(),
            facts: Mutex::default(),
        })
    }

    /// That of whoever shows no token.
    #[must_use]
    pub fn stranger(environments: Vec<String>) -> Self {
        Self {
            principal: None,
            roles: vec![Role::Evaluate],
            environments: Some(environments),
            flag_prefix: String::new(),
            expire_ms: None,
            key_id: String::new(),
            last_use_ms: AtomicI64::new(0),
            writes: Mutex::default(),
            facts: Mutex::default(),
        }
    }

    /// Who acts; absent: a stranger.
    #[must_use]
    pub const fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The token's name.
    #[must_use]
    pub fn id(&self) -> &str {
        self.principal.as_ref().map_or("anonymous", |principal| principal.id.as_str())
    }

    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    pub(super) const fn is_stranger(&self) -> bool {
        self.principal.is_none()
    }

    pub(super) fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    pub(super) fn roles_text(&self) -> String {
        self.roles.iter().map(|role| role_text(*role)).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn is_expired(&self, log_ms: i64) -> bool {
        self.expire_ms.is_some_and(|end_ms| end_ms <= log_ms)
    }

    pub(super) fn used(&self, log_ms: i64) {
        let minute = log_ms.saturating_sub(log_ms.rem_euclid(USE_STEP_MS));
        if self.last_use_ms.load(Ordering::Relaxed) != minute {
            self.last_use_ms.store(minute, Ordering::Relaxed);
        }
    }

    /// Log time of the last use here, to the minute; 0: none.
    #[must_use]
    pub fn last_use_ms(&self) -> i64 {
        self.last_use_ms.load(Ordering::Relaxed)
    }

    /// Whether it is of anything less than everything.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        self.environments.is_some() || !self.flag_prefix.is_empty()
    }

    /// Its environments; absent: all of them.
    #[must_use]
    pub fn environments(&self) -> Option<&[String]> {
        self.environments.as_deref()
    }

    pub(super) fn names_environments(&self) -> bool {
        self.environments.as_ref().is_none_or(|environments| !environments.is_empty())
    }

    /// What its flags' keys begin with; empty: anything.
    #[must_use]
    pub fn flag_prefix(&self) -> &str {
        &self.flag_prefix
    }

    /// Whether an environment, by its id or as `environments/{id}`, is of its scope.
    #[must_use]
    pub fn covers(&self, environment: &str) -> bool {
        let id = environment.strip_prefix("environments/").unwrap_or(environment);
        self.environments.as_ref().is_none_or(|own| own.iter().any(|own| own == id))
    }

    /// Whether a flag's key is of its scope.
    #[must_use]
    pub fn covers_flag(&self, flag: &str) -> bool {
        let key = flag.rsplit_once('/').map_or(flag, |(_, key)| key);
        key.starts_with(&self.flag_prefix)
    }

    /// Refuses an environment beyond the scope.
    ///
    /// # Errors
    /// It is one.
    pub fn check_environment(&self, environment: &str) -> Result<(), Status> {
        if self.covers(environment) {
            return Ok(());
        }
        if self.is_stranger() {
            return Err(super::no_token());
        }
        let own = self.environments.as_deref().unwrap_or_default().join(", ");
        Err(refusal::permission_denied(
            "OUT_OF_SCOPE",
            format!("token '{}' is of environment {own}, not of '{}'", self.id(), clip(environment)),
        ))
    }

    /// Refuses a flag beyond the scope.
    ///
    /// # Errors
    /// It is one.
    pub fn check_flag(&self, flag: &str) -> Result<(), Status> {
        if self.covers_flag(flag) {
            return Ok(());
        }
        Err(refusal::permission_denied(
            "OUT_OF_SCOPE",
            format!("token '{}' is of flags {}*, not of '{}'", self.id(), self.flag_prefix, clip(flag)),
        ))
    }

    /// Refuses what concerns more than some flags.
    ///
    /// # Errors
    /// The token is of some flags only.
    pub fn check_all_flags(&self) -> Result<(), Status> {
        if self.flag_prefix.is_empty() {
            return Ok(());
        }
        Err(refusal::permission_denied(
            "OUT_OF_SCOPE",
            format!(
                "token '{}' is of flags {}* only, and this concerns others too",
                self.id(),
                self.flag_prefix
            ),
        ))
    }
}

/// What a request was let in as; absent: there is nothing to hold it against.
#[must_use]
pub fn granted(extensions: &Extensions) -> Option<&Arc<Grant>> {
    extensions.get::<Arc<Grant>>()
}

/// Refuses an environment, and a flag of it unless empty, beyond what was granted.
///
/// # Errors
/// It is beyond.
pub fn check(grant: Option<&Arc<Grant>>, environment: &str, flag: &str) -> Result<(), Status> {
    let Some(grant) = grant else { return Ok(()) };
    grant.check_environment(environment)?;
    if flag.is_empty() { Ok(()) } else { grant.check_flag(flag) }
}
