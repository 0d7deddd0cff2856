//! The table: what each way in takes. What is not in it is not there, so a method that is forgotten is closed, and a test that
//! walks every service fails until somebody has decided.

use featureops_proto::v1::token::Role::{self, Admin, Agent, Approve, Edit, Evaluate, Operate, Track, View};

use At::{Handler, Listed, Names, Nothing, Whole};
use Flags::{All, Any, ByName, In};

/// What one way in takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Any of them.
    pub roles: &'static [Role],
    /// Who needs no token.
    pub strangers: Strangers,
    /// What it is about.
    pub at: At,
    /// Of which flags.
    pub flags: Flags,
}

/// Who is let in without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strangers {
    /// Nobody, once there are tokens.
    Never,
    /// Whoever may evaluate without one.
    Evaluate,
    /// Whoever is on this machine.
    Loopback,
    /// Everybody.
    Always,
}

/// Where a request says which environment it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// It is about none.
    Nothing,
    /// It is about all of them: a token with a scope is refused.
    Whole,
    /// In these fields: a resource's name, or an environment's. Each must be of the token's scope.
    Names(&'static [&'static str]),
    /// It lists, and its handler leaves out what is beyond the scope.
    Listed,
    /// Its handler looks, for there are many requests in one, or no time for a second look.
    Handler,
}

/// What a request concerns, of a token that is of some flags only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    /// No flag of others: it may pass.
    Any,
    /// Others too: it may not.
    All,
    /// The flag that the resource is, or is about.
    ByName,
    /// The flag whose id stands in this field.
    In(&'static str),
    /// Those that its handler leaves in.
    Left,
}

/// What a request is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing.
    Read,
    /// A command.
    Write,
    /// Facts.
    Fact,
}

impl Rule {
    /// What it is counted as.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.roles {
            [Track, ..] => Kind::Fact,
            [View | Evaluate, ..] | [] => Kind::Read,
            _ => Kind::Write,
        }
    }
}

const fn rule(roles: &'static [Role], at: At, flags: Flags) -> Rule {
    Rule { roles, strangers: Strangers::Never, at, flags }
}

const fn view(at: At, flags: Flags) -> Rule {
    rule(&[View], at, flags)
}

const fn edit(at: At, flags: Flags) -> Rule {
    rule(&[Edit], at, flags)
}

const EVALUATE: Rule = Rule { roles: &[Evaluate], strangers: Strangers::Evaluate, at: Handler, flags: Any };
const TRACK: Rule = rule(&[Track], Handler, Any);
const ADMIN: Rule = rule(&[Admin], Whole, All);
const PUBLIC: Rule = Rule { roles: &[], strangers: Strangers::Always, at: Nothing, flags: Any };
const METRICS: Rule = Rule { roles: &[View], strangers: Strangers::Loopback, at: Nothing, flags: Any };
/// The webhook's body is read as the request of `RaiseAlarm`, and held against the scope there.
const ALARM: Rule = rule(&[Operate, Agent], Handler, Any);

/// By service and method. Evaluation first: it is asked for most.
const METHODS: &[(&str, &[(&str, Rule)])] = &[
    (
        "featureops.v1.EvaluationService",
        &[
            ("Evaluate", EVALUATE),
            ("EvaluateAll", EVALUATE),
            ("EvaluateStream", EVALUATE),
            ("Explain", rule(&[Evaluate, View], Handler, Any)),
        ],
    ),
    (
        "flagd.evaluation.v1.Service",
        &[
            ("ResolveAll", EVALUATE),
            ("ResolveBoolean", EVALUATE),
            ("ResolveString", EVALUATE),
            ("ResolveFloat", EVALUATE),
            ("ResolveInt", EVALUATE),
            ("ResolveObject", EVALUATE),
            ("EventStream", EVALUATE),
        ],
    ),
    (
        "flagd.evaluation.v2.Service",
        &[
            ("ResolveBoolean", EVALUATE),
            ("ResolveString", EVALUATE),
            ("ResolveFloat", EVALUATE),
            ("ResolveInt", EVALUATE),
            ("ResolveObject", EVALUATE),
            ("EventStream", EVALUATE),
        ],
    ),
    (
        "featureops.v1.FactService",
        &[("ReportExposures", TRACK), ("ReportOutcomes", TRACK), ("StreamFacts", TRACK)],
    ),
    (
        "featureops.v1.AdministrationService",
        &[
            ("TripFlag", rule(&[Operate, Agent], Names(&["name"]), ByName)),
            ("ResumeFlag", rule(&[Operate], Names(&["name"]), ByName)),
            ("RaiseAlarm", rule(&[Operate, Agent], Names(&["name"]), ByName)),
            ("GetOversight", view(Names(&["name"]), Any)),
            ("SetOversight", rule(&[Operate], Names(&["oversight.name"]), All)),
            ("SetFlagAutonomy", rule(&[Operate, Agent], Names(&["name"]), ByName)),
            ("ListAudit", view(Whole, All)),
            ("TailAudit", view(Whole, All)),
            ("VerifyAudit", view(Whole, All)),
            ("GetNodeHealth", view(Nothing, Any)),
            ("GetBudgets", view(Nothing, Any)),
            ("SetBudgets", ADMIN),
        ],
    ),
    (
        "featureops.v1.TokenService",
        &[("CreateToken", ADMIN), ("GetToken", ADMIN), ("ListTokens", ADMIN), ("RevokeToken", ADMIN)],
    ),
    (
        "featureops.v1.ClusterService",
        &[
            ("GetCluster", view(Nothing, Any)),
            ("InitializeCluster", ADMIN),
            ("JoinCluster", ADMIN),
            ("AddLearner", ADMIN),
            ("PromoteMember", ADMIN),
            ("RemoveMember", ADMIN),
            ("ReplaceMember", ADMIN),
            ("TransferLeadership", ADMIN),
            ("DrainMember", ADMIN),
            ("SetOwnerWeight", ADMIN),
            ("RebalanceOwners", ADMIN),
        ],
    ),
    ("featureops.v1.BackupService", &[("StreamBackup", ADMIN), ("RecordBackup", ADMIN)]),
    ("featureops.v1.UpgradeService", &[("GetUpgradePlan", view(Nothing, Any)), ("RaiseLevel", ADMIN)]),
    (
        "featureops.v1.DecisionService",
        &[
            ("GetDecision", view(Names(&["name"]), ByName)),
            ("ListDecisions", view(Names(&["parent"]), Flags::Left)),
            ("ApproveDecision", rule(&[Approve], Names(&["name"]), ByName)),
            ("RejectDecision", rule(&[Approve], Names(&["name"]), ByName)),
            ("RevertDecision", rule(&[Approve], Names(&["name"]), ByName)),
            ("ReplayDecision", view(Names(&["name"]), ByName)),
        ],
    ),
    (
        "featureops.v1.EnvironmentService",
        &[
            ("GetEnvironment", view(Names(&["name"]), Any)),
            ("ListEnvironments", view(Listed, Any)),
            ("SetEnvironment", edit(Names(&["environment.name"]), All)),
            ("ImportFlags", edit(Names(&["parent"]), All)),
            ("ExportFlags", view(Names(&["parent"]), All)),
            ("PromoteFlags", edit(Names(&["from", "to"]), All)),
        ],
    ),
    (
        "featureops.v1.ExperimentService",
        &[
            ("GetExperiment", view(Names(&["name"]), ByName)),
            ("ListExperiments", view(Names(&["parent"]), Flags::Left)),
            ("CreateExperiment", edit(Names(&["experiment.name"]), In("experiment.flag"))),
            ("StartExperiment", edit(Names(&["name"]), ByName)),
            ("PauseExperiment", edit(Names(&["name"]), ByName)),
            ("StopExperiment", edit(Names(&["name"]), ByName)),
            ("SetAllocation", edit(Names(&["name"]), ByName)),
            ("SetLayerShare", edit(Names(&["name"]), ByName)),
            ("GetExperimentStatus", view(Names(&["name"]), ByName)),
            ("WatchExperimentStatus", view(Names(&["name"]), ByName)),
        ],
    ),
    (
        "featureops.v1.FlagService",
        &[
            ("GetFlag", view(Names(&["name"]), ByName)),
            ("ListFlags", view(Names(&["parent"]), Flags::Left)),
            ("SetFlag", edit(Names(&["flag.name"]), ByName)),
            ("ArchiveFlag", edit(Names(&["name"]), ByName)),
            ("RevertFlag", edit(Names(&["name"]), ByName)),
            ("ListFlagVersions", view(Names(&["name"]), ByName)),
        ],
    ),
    (
        "featureops.v1.LayerService",
        &[
            ("GetLayer", view(Names(&["name"]), Any)),
            ("ListLayers", view(Names(&["parent"]), Any)),
            ("SetLayer", edit(Names(&["layer.name"]), All)),
            ("DeleteLayer", edit(Names(&["name"]), All)),
            ("GetHoldout", view(Names(&["name"]), Any)),
            ("ListHoldouts", view(Names(&["parent"]), Any)),
            ("SetHoldout", edit(Names(&["holdout.name"]), All)),
            ("DeleteHoldout", edit(Names(&["name"]), All)),
        ],
    ),
    (
        "featureops.v1.LedgerService",
        &[
            ("GetExperimentSeries", view(Names(&["name"]), ByName)),
            ("GetExperimentSample", view(Names(&["name"]), ByName)),
            ("EraseUnit", rule(&[Operate], Names(&["parent"]), All)),
        ],
    ),
    (
        "featureops.v1.MetricService",
        &[
            ("GetMetric", view(Names(&["name"]), Any)),
            ("ListMetrics", view(Names(&["parent"]), Any)),
            ("SetMetric", edit(Names(&["metric.name"]), All)),
        ],
    ),
    (
        "featureops.v1.ScheduleService",
        &[
            ("CreateSchedule", edit(Names(&["schedule.name"]), In("schedule.flag"))),
            ("GetSchedule", view(Names(&["name"]), ByName)),
            ("ListSchedules", view(Names(&["parent"]), Flags::Left)),
            ("CancelSchedule", edit(Names(&["name"]), ByName)),
        ],
    ),
    (
        "featureops.v1.SegmentService",
        &[
            ("GetSegment", view(Names(&["name"]), Any)),
            ("ListSegments", view(Names(&["parent"]), Any)),
            ("SetSegment", edit(Names(&["segment.name"]), All)),
            ("DeleteSegment", edit(Names(&["name"]), All)),
            ("UpdateSegmentUnits", edit(Names(&["name"]), All)),
            ("TestSegment", view(Names(&["name"]), Any)),
        ],
    ),
    (
        "flagd.sync.v1.FlagSyncService",
        &[("SyncFlags", EVALUATE), ("FetchAllFlags", EVALUATE), ("GetMetadata", EVALUATE)],
    ),
];

/// Services of everybody: an orchestrator has no token, and what there is to call is no secret.
const PUBLIC_SERVICES: &[&str] = &[
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// What a path takes; `None`: there is no such way in.
#[must_use]
pub fn of(path: &str) -> Option<&'static Rule> {
    let (service, method) = path.strip_prefix('/')?.split_once('/').unwrap_or_default();
    if let Some((_, methods)) = METHODS.iter().find(|(name, _)| *name == service) {
        return methods.iter().find(|(name, _)| *name == method).map(|(_, rule)| rule);
    }
    if PUBLIC_SERVICES.contains(&service) {
        return Some(&PUBLIC);
    }
    match path {
        "/livez" | "/readyz" | "/healthz" => Some(&PUBLIC),
        "/metrics" => Some(&METRICS),
        "/v1/alarms" => Some(&ALARM),
        _ if path.starts_with("/ofrep/v1/") => Some(&EVALUATE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_reflect::{DescriptorPool, Kind as FieldKind};

    use super::*;

    /// Paths of every method that a node serves, of ours with their requests.
    fn served() -> Vec<(String, Option<prost_reflect::MessageDescriptor>)> {
        let own = DescriptorPool::decode(featureops_proto::DESCRIPTORS).unwrap();
        let mut all = Vec::new();
        for service in own.services() {
            for method in service.methods() {
                all.push((format!("/{}/{}", service.full_name(), method.name()), Some(method.input())));
            }
        }
        let flagd = prost_types::FileDescriptorSet::decode(crate::flagd::DESCRIPTORS).unwrap();
        for file in &flagd.file {
            for service in &file.service {
                for method in &service.method {
                    all.push((format!("/{}.{}/{}", file.package(), service.name(), method.name()), None));
                }
            }
        }
        all
    }

    #[test]
    fn every_method_of_every_service_has_a_rule_and_every_rule_a_method() {
        let served = served();
        for (path, _) in &served {
            let rule = of(path).unwrap_or_else(|| panic!("{path} is in no rule: decide which role it takes"));
            assert!(!rule.roles.is_empty() && rule.strangers != Strangers::Always, "{path}");
        }
        let mut ruled = 0;
        for (service, methods) in METHODS {
            for (method, _) in *methods {
                let path = format!("/{service}/{method}");
                assert!(served.iter().any(|(known, _)| *known == path), "{path} is no method");
                ruled += 1;
            }
        }
        assert_eq!(ruled, served.len());
        assert!(ruled > 90, "{ruled}");
    }

    #[test]
    fn every_field_that_a_rule_names_is_there_and_a_text() {
        for (path, request) in served() {
            let (Some(request), Some(rule)) = (request, of(&path)) else { continue };
            let named = match rule.at {
                Names(fields) => fields,
                _ => &[],
            };
            let flag = match rule.flags {
                In(field) => Some(field),
                _ => None,
            };
            for field in named.iter().copied().chain(flag) {
                let (mut message, mut parts) = (request.clone(), field.split('.').peekable());
                while let Some(part) = parts.next() {
                    let found = message.get_field_by_name(part);
                    let kind = found.unwrap_or_else(|| panic!("{path}: no field {field}")).kind();
                    match kind {
                        FieldKind::Message(inner) if parts.peek().is_some() => message = inner,
                        FieldKind::String if parts.peek().is_none() => break,
                        other => panic!("{path}: {field} is {other:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn what_changes_anything_takes_more_than_view() {
        for (path, _) in served() {
            let method = path.rsplit('/').next().unwrap();
            let reads = ["Get", "List", "Watch", "Tail", "Verify", "Export", "Test", "Explain", "Replay"];
            let evaluates = path.contains("valuation") || path.contains("sync");
            let is_read = evaluates || reads.iter().any(|read| method.starts_with(read));
            // An admin's looks at tokens are few, and count as what else there is to do with them.
            let is_read = is_read && !path.contains(".TokenService/");
            assert_eq!(of(&path).unwrap().kind() == Kind::Read, is_read, "{path}");
        }
    }

    #[test]
    fn a_path_of_nothing_has_no_rule() {
        for path in [
            "",
            "/",
            "//",
            "/nothing",
            "/featureops.v1.FlagService",
            "/featureops.v1.FlagService/",
            "/ofrep/v2/x",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(of("/ofrep/v1/evaluate/flags/checkout"), Some(&EVALUATE));
        assert_eq!(of("/grpc.health.v1.Health/Check"), Some(&PUBLIC));
    }
}
