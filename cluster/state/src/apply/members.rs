//! Members of the cluster, as they are noted for people and the audit.

use featureops_proto::ErrorCode;
use featureops_proto::log::{ClusterMember, Done, MemberRecord, NoteMembers, Refusal};
use featureops_proto::v1::principal;

use super::{Context, Outcome, refuse};
use crate::State;
use crate::members::{MAX_ADDRESS_BYTES, MAX_MEMBERS};

/// Bytes of what was asked for, in words.
const MAX_ASKED_BYTES: usize = 512;

impl State {
    pub(super) fn note_members(&mut self, ctx: &Context, c: &NoteMembers) -> Result<Outcome, Refusal> {
        if ctx.principal.kind() == principal::Kind::Agent {
            let message = "an agent does not change the cluster; act as human:<id>";
            return refuse(ErrorCode::NotPermitted, "principal", ctx.caller(), message);
        }
        check(c)?;
        if c.index <= self.members.index {
            let known = format!("known since entry {}", self.members.index);
            let detail = if c.asked.is_empty() { known } else { c.asked.clone() };
            return Ok(Outcome { detail, ..Outcome::from(Done::default()) });
        }
        let before = std::mem::take(&mut self.members.members);
        let found = |node: u64| before.iter().find(|record| member(record).node == node);
        let mut told = Vec::new();
        self.members.index = c.index;
        for noted in &c.members {
            let same = found(noted.node).filter(|record| member(record) == *noted);
            if let Some(record) = same {
                self.members.members.push(record.clone());
                continue;
            }
            told.push(change(found(noted.node).map(member).as_ref(), noted));
            self.members.members.push(MemberRecord {
                member: Some(noted.clone()),
                changed_by: Some(ctx.principal.clone()),
                changed_ms: ctx.now_ms,
            });
        }
        for gone in before.iter().map(member) {
            if !c.members.iter().any(|noted| noted.node == gone.node) {
                told.push(format!("node {} removed", gone.node));
            }
        }
        self.forget_liveness();
        let done = Done { version: c.index, took_effect: true, ..Done::default() };
        let asked = Some(c.asked.clone()).filter(|asked| !asked.is_empty());
        let detail = asked.into_iter().chain(told).collect::<Vec<_>>().join("; ");
        Ok(Outcome { detail, ..Outcome::from(done) })
    }
}

fn member(record: &MemberRecord) -> ClusterMember {
    record.member.clone().unwrap_or_default()
}

fn check(c: &NoteMembers) -> Result<(), Refusal> {
    let invalid = |field: &str, value: String, message: String| {
        refuse(ErrorCode::InvalidArgument, field, value, message)
    };
    if c.members.is_empty() || c.members.len() > MAX_MEMBERS {
        return invalid("members", c.members.len().to_string(), format!("1 to {MAX_MEMBERS}"));
    }
    if c.asked.len() > MAX_ASKED_BYTES {
        return invalid("asked", format!("{} bytes", c.asked.len()), format!("at most {MAX_ASKED_BYTES}"));
    }
    let mut last = 0;
    for noted in &c.members {
        if noted.node <= last {
            return invalid("members.node", noted.node.to_string(), "numbers rise from 1".to_owned());
        }
        last = noted.node;
        if noted.address.len() > MAX_ADDRESS_BYTES {
            let bytes = noted.address.len();
            return invalid(
                "members.address",
                format!("{bytes} bytes"),
                format!("at most {MAX_ADDRESS_BYTES}"),
            );
        }
    }
    Ok(())
}

/// A change of one member, in words.
fn change(before: Option<&ClusterMember>, now: &ClusterMember) -> String {
    let ClusterMember { node, address, incarnation, voter } = now;
    let role = if *voter { "voter" } else { "learner" };
    match before {
        Some(before) if before.incarnation == *incarnation => {
            let mut parts = Vec::new();
            if before.voter != *voter {
                parts.push(format!("is a {role} now"));
            }
            if before.address != *address {
                parts.push(format!("moved from {} to {address}", before.address));
            }
            format!("node {node} {}", parts.join(" and "))
        }
        _ => format!("node {node} added as a {role} at {address}, incarnation {incarnation:016x}"),
    }
}
