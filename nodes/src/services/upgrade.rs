//! Upgrades: what each member runs and knows, what is to be done next, and the cluster's feature level.

use std::sync::Arc;

use featureops_cluster::Surveyed;
use featureops_proto::log::{self, MemberLevel, entry};
use featureops_proto::v1::{
    FeatureLevel, GetUpgradePlanRequest, RaiseLevelRequest, UpgradeMember, UpgradePlan, upgrade_member::Role,
};
use featureops_state::{FEATURE_LEVELS, State};
use tonic::{Request, Response, Status};

use crate::host::{Host, Write};
use crate::refusal;
use crate::rpc::upgrade_service_server::UpgradeService;
use crate::sent::sent;
use crate::services::person;

/// The service.
pub struct Upgrades(pub Arc<Host>);

const fn role_of(member: &Surveyed) -> Role {
    match (member.leads, member.voter) {
        (true, _) => Role::Leader,
        (false, true) => Role::Voter,
        (false, false) => Role::Learner,
    }
}

/// A release as it is compared: its numbers (0.10.0 is after 0.9.0), and one with a suffix (0.10.0-rc.1) before the one without.
/// Semantic Versioning 2.0.0, section 11, as far as releases of this program use it; what follows a plus tells none apart. A text
/// that is no release is before every one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release<'t> {
    numbers: Vec<u64>,
    is_final: bool,
    suffix: Vec<Identifier<'t>>,
}

/// A part of a suffix; numbers come before words.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier<'t> {
    Number(u64),
    Word(&'t str),
}

impl<'t> Release<'t> {
    fn of(text: &'t str) -> Self {
        let text = text.split_once('+').map_or(text, |(release, _)| release);
        let (numbers, suffix) = text.split_once('-').unwrap_or((text, ""));
        let mut numbers: Vec<u64> =
            numbers.split('.').map(str::parse).collect::<Result<_, _>>().unwrap_or_default();
        // 0.2 is 0.2.0.
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        let identifier = |part: &'t str| part.parse().map_or(Identifier::Word(part), Identifier::Number);
        let suffix: Vec<_> = suffix.split('.').filter(|part| !part.is_empty()).map(identifier).collect();
        Self { numbers, is_final: suffix.is_empty(), suffix }
    }
}

/// How far a member is: what it knows, and what it runs.
fn reach(member: &Surveyed) -> (u32, Release<'_>) {
    (member.feature_level_max, Release::of(&member.release))
}

/// What is to be done, by what the members said: learners first, for they vote on nothing; the leader last, for whoever leads
/// next should run the new release already.
#[must_use]
pub fn plan(feature_level: u32, mut members: Vec<Surveyed>) -> UpgradePlan {
    members.sort_by_key(|member| (role_of(member) as i32, member.node));
    let heard = || members.iter().filter(|member| member.fault.is_none());
    let newest = heard().max_by_key(|member| reach(member));
    let newest_release = newest.map(|member| member.release.clone()).unwrap_or_default();
    let mut steps = Vec::new();
    for member in members.iter().filter(|member| member.fault.is_some()) {
        let why = member.fault.as_deref().unwrap_or_default();
        steps.push(format!(
            "node {} is not heard ({why}): start it, or remove it for good (featureops cluster remove {})",
            member.node, member.node
        ));
    }
    let next_leader = heard().find(|member| member.voter && !member.leads).map(|member| member.node);
    let behind = |member: &&Surveyed| newest.is_some_and(|newest| reach(member) < reach(newest));
    for member in heard().filter(behind) {
        let node = member.node;
        let hand_over = match next_leader.filter(|_| member.leads) {
            Some(next) => format!("let node {next} lead (featureops cluster transfer-leader {next}); then "),
            None => String::new(),
        };
        steps.push(format!(
            "{hand_over}stop node {node} ({}, release {}, knows level {}), start release {} on its data folder, and wait until \
             'featureops cluster members' shows it caught up",
            role_of(member).as_str_name().to_lowercase(),
            if member.release.is_empty() { "unknown" } else { &member.release },
            member.feature_level_max,
            newest_release
        ));
    }
    let is_heard = members.iter().all(|member| member.fault.is_none());
    let all_know =
        heard().map(|member| member.feature_level_max).min().filter(|_| is_heard).unwrap_or_default();
    if steps.is_empty() && all_know > feature_level {
        steps.push(format!(
            "featureops upgrade raise --to {all_know}: there is no way back, releases that know less are kept out from then on"
        ));
    }
    UpgradePlan {
        feature_level,
        feature_level_max: all_know,
        members: members
            .into_iter()
            .map(|member| UpgradeMember {
                node: member.node,
                role: role_of(&member).into(),
                release: member.release,
                feature_level: member.feature_level_max,
                fault: member.fault.unwrap_or_default(),
            })
            .collect(),
        steps,
        levels: FEATURE_LEVELS
            .iter()
            .map(|(feature_level, brings)| FeatureLevel {
                feature_level: *feature_level,
                brings: (*brings).to_owned(),
            })
            .collect(),
    }
}

/// Refuses a level that a member does not know, or did not say to know.
fn check(level: u32, members: &[Surveyed]) -> Result<(), Status> {
    if let Some(silent) = members.iter().find(|member| member.fault.is_some()) {
        return Err(refusal::not_now(format!(
            "node {} is not heard ({}), so nobody knows whether it knows level {level}: start it, or remove it",
            silent.node,
            silent.fault.as_deref().unwrap_or_default()
        )));
    }
    let behind: Vec<String> = members
        .iter()
        .filter(|member| member.feature_level_max < level)
        .map(|member| {
            format!(
                "node {} (release {}) knows up to {}",
                member.node, member.release, member.feature_level_max
            )
        })
        .collect();
    if behind.is_empty() {
        return Ok(());
    }
    Err(refusal::not_now(format!(
        "not every member knows feature level {level}: {}; upgrade them first (featureops upgrade plan)",
        behind.join(", ")
    )))
}

#[tonic::async_trait]
impl UpgradeService for Upgrades {
    async fn get_upgrade_plan(
        &self,
        _: Request<GetUpgradePlanRequest>,
    ) -> Result<Response<UpgradePlan>, Status> {
        let members = self.0.replica.member().survey().await;
        Ok(Response::new(plan(self.0.replica.read(State::feature_level), members)))
    }

    async fn raise_level(
        &self,
        request: Request<RaiseLevelRequest>,
    ) -> Result<Response<UpgradePlan>, Status> {
        person(&self.0, &request)?;
        let (from, request) = sent(request);
        let level = request.feature_level;
        if level == 0 {
            return Err(refusal::invalid("feature_level", level, "is no level; they begin at 1"));
        }
        self.0.accepts_writes()?;
        let members = self.0.replica.member().survey().await;
        check(level, &members)?;
        let said = members.iter().map(|member| MemberLevel {
            node: member.node,
            release: member.release.clone(),
            feature_level: member.feature_level_max,
        });
        let command =
            entry::Command::RaiseLevel(log::RaiseLevel { feature_level: level, members: said.collect() });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        let raised = self.0.write(write, |state, _| Some(state.feature_level())).await?;
        Ok(Response::new(plan(raised, members)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u64, (voter, leads): (bool, bool), release: &str, level: u32) -> Surveyed {
        Surveyed {
            node,
            voter,
            leads,
            release: release.to_owned(),
            feature_level_max: level,
            ..Surveyed::default()
        }
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        let rising = [
            "",
            "0.1.0",
            "0.2.0",
            "0.9.0",
            "0.10.0-rc.2",
            "0.10.0-rc.10",
            "0.10.0",
            "0.10.1",
            "1.0.0",
            "9.0.0",
            "10.0.0",
        ];
        for (before, after) in rising.iter().zip(&rising[1..]) {
            assert!(Release::of(before) < Release::of(after), "{before} {after}");
        }
        assert_eq!(Release::of("0.2"), Release::of("0.2.0"));
        assert_eq!(Release::of("0.2.0+a"), Release::of("0.2.0+b"));
        let members = vec![member(1, (true, true), "0.9.0", 2), member(2, (true, false), "0.10.0", 2)];
        let steps = plan(2, members).steps;
        assert_eq!(steps.len(), 1, "{steps:#?}");
        assert!(steps[0].contains("stop node 1") && steps[0].contains("start release 0.10.0"), "{steps:#?}");
    }

    #[test]
    fn learners_go_first_the_leader_last_and_the_level_when_all_are_through() {
        let members = vec![
            member(1, (true, true), "0.1", 1),
            member(2, (true, false), "0.1", 1),
            member(3, (true, false), "0.2", 2),
            member(4, (false, false), "0.1", 1),
        ];
        let planned = plan(1, members.clone());
        let order: Vec<u64> = planned.members.iter().map(|member| member.node).collect();
        assert_eq!(order, [4, 2, 3, 1]);
        assert_eq!((planned.feature_level, planned.feature_level_max), (1, 1));
        assert_eq!(planned.steps.len(), 3, "{:#?}", planned.steps);
        assert!(
            planned.steps[0]
                .starts_with("stop node 4 (learner, release 0.1, knows level 1), start release 0.2")
        );
        assert!(planned.steps[1].starts_with("stop node 2"));
        assert!(
            planned.steps[2].starts_with("let node 2 lead") && planned.steps[2].contains("then stop node 1")
        );
        let refused = check(2, &members).unwrap_err();
        for node in ["node 1 ", "node 2 ", "node 4 "] {
            assert!(refused.message().contains(node), "{}", refused.message());
        }
        assert!(!refused.message().contains("node 3 "));

        let through: Vec<Surveyed> = members
            .into_iter()
            .map(|member| Surveyed { release: "0.2".into(), feature_level_max: 2, ..member })
            .collect();
        let planned = plan(1, through.clone());
        assert!(planned.steps.len() == 1 && planned.steps[0].contains("upgrade raise --to 2"));
        check(2, &through).unwrap();
        assert!(plan(2, through.clone()).steps.is_empty());

        let mut silent = through;
        silent[1].fault = Some("no answer".into());
        let planned = plan(1, silent.clone());
        assert!(
            planned.feature_level_max == 0 && planned.steps[0].contains("node 2 is not heard (no answer)")
        );
        assert!(check(2, &silent).unwrap_err().message().contains("node 2 is not heard"));
    }
}
