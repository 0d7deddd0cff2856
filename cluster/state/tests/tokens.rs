//! Tokens in the fold: the first is an admin, who may make which, what expires, and that nobody acts without one once there are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, agent, done, human, refusal, system};
use featureops_proto::log::{self, CreateToken, RevokeToken, entry};
use featureops_proto::timestamp;
use featureops_proto::v1::token::Role;
use featureops_proto::v1::{self, Principal, Token};
use featureops_state::{Effect, MAX_TOKENS, State};

fn verified(principal: Principal) -> Principal {
    Principal { verified: true, ..principal }
}

fn token(id: &str, roles: &[Role]) -> Token {
    let roles = roles.iter().map(|role| *role as i32).collect();
    Token { name: format!("tokens/{id}"), roles, ..Token::default() }
}

/// With a key of its own.
fn create(token: Token) -> entry::Command {
    let key_id =
        format!("{:016x}", token.name.bytes().fold(7_u64, |a, b| a.wrapping_mul(131) ^ u64::from(b)));
    entry::Command::CreateToken(CreateToken { token: Some(token), secret_hash: vec![1; 32], key_id })
}

fn revoke(id: &str) -> entry::Command {
    entry::Command::RevokeToken(RevokeToken { name: format!("tokens/{id}") })
}

/// With an admin named root.
fn with_root() -> Driver {
    let mut driver = Driver::new();
    driver.done(create(token("root", &[Role::Admin])));
    driver
}

#[test]
fn the_first_token_is_an_admin_of_everything_for_ever() {
    let mut d = Driver::new();
    let scoped = Token { environments: vec!["production".into()], ..token("a", &[Role::Admin]) };
    let ending = Token { expire_time: Some(timestamp(d.now_ms + 1_000)), ..token("a", &[Role::Admin]) };
    for other in [token("a", &[Role::Edit]), scoped, ending] {
        assert_eq!(d.refused(create(other)), "WRONG_STATE");
    }
    assert_eq!(refusal(d.command_as(agent(), create(token("a", &[Role::Admin])))).code, "NOT_PERMITTED");
    let before = d.state.digest();
    d.done(create(token("root", &[Role::Admin])));
    assert_ne!(d.state.digest(), before);
    assert!(d.effects.contains(&Effect::TokensChanged));
}

#[test]
fn once_there_are_tokens_nobody_acts_without_one() {
    let mut d = with_root();
    let set = || entry::Command::SetFlag(log::SetFlag::default());
    let said = refusal(d.command_as(human("root"), set()));
    assert_eq!((said.code.as_str(), said.field.as_str()), ("NOT_PERMITTED", "principal"));
    assert_eq!(refusal(d.command_as(verified(human("root")), set())).code, "INVALID_ARGUMENT");
    // The node's own work goes on.
    assert_ne!(refusal(d.command_as(system(), set())).code, "NOT_PERMITTED");
}

#[test]
fn a_token_that_is_gone_acts_no_more_by_a_node_that_lags_nor_by_what_it_scheduled() {
    let mut d = Driver::new();
    d.furnish();
    d.done(create(token("root", &[Role::Admin])));
    let (root, anna) = (|| verified(human("root")), || verified(human("anna")));
    let ending = Token { expire_time: Some(timestamp(d.now_ms + 60_000)), ..token("bert", &[Role::Edit]) };
    done(d.command_as(root(), create(token("anna", &[Role::Edit]))));
    done(d.command_as(root(), create(ending)));
    let schedule = |d: &Driver| v1::Schedule {
        name: "environments/production/schedules/s".to_owned(),
        flag: "checkout".to_owned(),
        time: Some(timestamp(d.now_ms + 5_000)),
        action: Some(v1::schedule::Action::Archive(true)),
        ..v1::Schedule::default()
    };
    let made = log::CreateSchedule { schedule: Some(schedule(&d)) };
    done(d.command_as(anna(), entry::Command::CreateSchedule(made)));
    done(d.command_as(root(), revoke("anna")));
    let set = || entry::Command::SetFlag(log::SetFlag::default());
    assert_eq!(refusal(d.command_as(anna(), set())).code, "NOT_PERMITTED");
    assert_eq!(refusal(d.command_as(verified(human("bert")), set())).code, "INVALID_ARGUMENT");
    d.tick(61_000);
    assert_eq!(refusal(d.command_as(verified(human("bert")), set())).code, "NOT_PERMITTED");
    let etag = d.state.flag("production", "checkout").unwrap().etag;
    let name = schedule(&d).name;
    d.command_as(
        system(),
        entry::Command::ExecuteSchedule(log::ExecuteSchedule { name, etag, ..Default::default() }),
    );
    let schedule = d.state.schedule("production", "s").unwrap();
    assert_eq!(schedule.state(), v1::schedule::State::Failed, "{}", schedule.reason);
    assert!(!d.state.flag("production", "checkout").unwrap().archived);
}

#[test]
fn only_an_admin_of_everything_manages_tokens() {
    let mut d = with_root();
    let root = || verified(human("root"));
    let scoped = Token { environments: vec!["staging".into()], ..token("local-admin", &[Role::Admin]) };
    let prefixed = Token { flag_prefix: "a-".into(), ..token("team-admin", &[Role::Admin]) };
    let ending = Token { expire_time: Some(timestamp(d.now_ms + 5_000)), ..token("guest", &[Role::Admin]) };
    for made in [scoped, prefixed, ending, token("editor", &[Role::Edit, Role::Approve, Role::Operate])] {
        done(d.command_as(root(), create(made)));
    }
    for other in ["local-admin", "team-admin", "editor", "nobody"] {
        let tried = d.command_as(verified(human(other)), create(token("mine", &[Role::Admin])));
        assert_eq!(refusal(tried).code, "NOT_PERMITTED", "{other}");
        assert_eq!(
            refusal(d.command_as(verified(human(other)), revoke("root"))).code,
            "NOT_PERMITTED",
            "{other}"
        );
    }
    done(d.command_as(verified(human("guest")), create(token("last-hour", &[Role::View]))));
    d.tick(6_000);
    assert!(d.state.token("guest").unwrap().expired);
    let late = d.command_as(verified(human("guest")), create(token("later", &[Role::View])));
    assert_eq!(refusal(late).code, "NOT_PERMITTED");
}

#[test]
fn what_cannot_be_kept_is_refused_by_its_field() {
    let mut d = with_root();
    let base = || token("x", &[Role::Edit]);
    for (field, bad) in [
        ("token.name", Token { name: "x".into(), ..base() }),
        ("token.name", Token { name: "tokens/a b".into(), ..base() }),
        ("token.name", Token { name: "tokens/root".into(), ..base() }),
        ("token.roles", token("x", &[])),
        ("token.roles", Token { roles: vec![99], ..base() }),
        ("token.roles", Token { roles: vec![0], ..base() }),
        ("token.roles", token("x", &[Role::Agent, Role::Approve])),
        ("token.roles", token("x", &[Role::Agent, Role::Admin])),
        ("token.roles", token("x", &[Role::Join, Role::View])),
        ("token.roles", Token { environments: vec!["p".into()], ..token("x", &[Role::Join]) }),
        ("token.expire_time", token("x", &[Role::Join])),
        ("token.environments", Token { environments: vec!["a/b".into()], ..base() }),
        ("token.environments", Token { environments: (0..17).map(|n| format!("e{n}")).collect(), ..base() }),
        ("token.flag_prefix", Token { flag_prefix: "a b".into(), ..base() }),
        ("token.expire_time", Token { expire_time: Some(timestamp(d.now_ms - 1)), ..base() }),
        ("token.description", Token { description: "x".repeat(513), ..base() }),
    ] {
        let said = refusal(d.command_as(verified(human("root")), create(bad)));
        assert_eq!(said.field, field, "{said:?}");
    }
    let weak = CreateToken { token: Some(base()), secret_hash: vec![1; 31], key_id: "0".repeat(16) };
    let said = refusal(d.command_as(verified(human("root")), entry::Command::CreateToken(weak)));
    assert_eq!(said.field, "secret_hash");
}

#[test]
fn a_token_of_the_role_join_lets_nodes_in_until_it_ends_or_is_revoked() {
    use featureops_state::JoinRefused;
    let mut d = with_root();
    let ends = |ms| Token { expire_time: Some(timestamp(ms)), ..token("door", &[Role::Join]) };
    done(d.command_as(verified(human("root")), create(ends(d.now_ms + 5_000))));
    let key_id = d.state.token("door").unwrap().key_id;
    let root_key = d.state.token("root").unwrap().key_id;
    assert_eq!(d.state.join_token(&key_id).unwrap().token, "door");
    assert!(
        matches!(d.state.join_token(&root_key), Err(JoinRefused::Role(record)) if record.token == "root")
    );
    assert_eq!(d.state.join_token("0"), Err(JoinRefused::Unknown));
    d.tick(6_000);
    assert!(matches!(d.state.join_token(&key_id), Err(JoinRefused::Expired(_))));
    done(d.command_as(verified(human("root")), revoke("door")));
    assert_eq!(d.state.join_token(&key_id), Err(JoinRefused::Unknown));
}

#[test]
fn the_last_admin_of_everything_leaves_last() {
    let mut d = with_root();
    let root = || verified(human("root"));
    done(d.command_as(root(), create(token("viewer", &[Role::View]))));
    assert_eq!(refusal(d.command_as(root(), revoke("root"))).code, "WRONG_STATE");
    assert_eq!(refusal(d.command_as(root(), revoke("nobody"))).code, "NOT_FOUND");
    done(d.command_as(root(), revoke("viewer")));
    done(d.command_as(root(), revoke("root")));
    assert!(!d.state.has_tokens());
    // Whoever lost them all is let in by the node itself, in its own name.
    done(d.command_as(system(), create(token("root", &[Role::Admin]))));
}

#[test]
fn tokens_are_bounded_and_outlive_a_snapshot() {
    let mut d = with_root();
    let root = || verified(human("root"));
    for n in 1..MAX_TOKENS {
        done(d.command_as(root(), create(token(&format!("t{n}"), &[Role::View]))));
    }
    assert_eq!(refusal(d.command_as(root(), create(token("more", &[Role::View])))).code, "LIMIT_REACHED");
    d.state.check().unwrap();
    let restored = State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(restored.digest(), d.state.digest());
    assert_eq!(restored.tokens("", MAX_TOKENS + 1).len(), MAX_TOKENS);
}
