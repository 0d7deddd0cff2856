//! The cluster's feature level, and the backup that was taken last.

use featureops_proto::log::{Done, NoteBackup, RaiseLevel, Refusal};
use featureops_proto::v1::principal;
use featureops_proto::{ErrorCode, timestamp};

use super::{Context, Outcome, refuse};
use crate::State;
use crate::feature_levels::{behind, is_said};
use crate::members::MAX_MEMBERS;

/// Bytes of SHA-256.
const SHA256_BYTES: usize = 32;

impl State {
    pub(super) fn raise_level(&mut self, ctx: &Context, c: &RaiseLevel) -> Result<Outcome, Refusal> {
        ctx.require_human("raising the feature level")?;
        let level = c.feature_level;
        if !is_said(c) {
            let message = format!("1 to {MAX_MEMBERS}: what each member said it knows");
            return refuse(ErrorCode::InvalidArgument, "members", c.members.len(), message);
        }
        if let Some(member) = behind(c) {
            let message = format!(
                "node {} (release {}) knows feature levels up to {}: upgrade it first",
                member.node, member.release, member.feature_level
            );
            return refuse(ErrorCode::WrongState, "feature_level", level, message);
        }
        let noted = self.members().iter().filter_map(|record| record.member.as_ref());
        let mut unheard = noted.filter(|member| c.members.iter().all(|said| said.node != member.node));
        if let Some(member) = unheard.next() {
            let message = format!("node {} is a member and was not asked: try again", member.node);
            return refuse(ErrorCode::WrongState, "members", member.node, message);
        }
        if level <= self.feature_level() {
            let detail = format!("at level {} already", self.feature_level());
            return Ok(Outcome { detail, ..Outcome::from(Done::default()) });
        }
        let detail = format!("from {} to {level}", self.feature_level());
        self.feature_level = level;
        let done = Done { version: u64::from(level), took_effect: true, ..Done::default() };
        Ok(Outcome { detail, ..Outcome::from(done) })
    }

    pub(super) fn note_backup(&mut self, ctx: &Context, c: &NoteBackup) -> Result<Outcome, Refusal> {
        if ctx.principal.kind() == principal::Kind::Agent {
            let message = "an agent takes no backup; act as human:<id>";
            return refuse(ErrorCode::NotPermitted, "principal", ctx.caller(), message);
        }
        let Some(backup) = &c.backup else {
            return refuse(ErrorCode::InvalidArgument, "backup", "", "missing");
        };
        if backup.position == 0 || backup.position >= ctx.position {
            let message = "is of no state that this cluster had: give that of the backup's head";
            return refuse(ErrorCode::InvalidArgument, "backup.position", backup.position, message);
        }
        if backup.sha256.len() != SHA256_BYTES {
            let message = format!("{SHA256_BYTES} bytes, as the backup's tail has them");
            return refuse(ErrorCode::InvalidArgument, "backup.sha256", backup.sha256.len(), message);
        }
        let mut noted = backup.clone();
        noted.record_time = Some(timestamp(ctx.now_ms));
        noted.recorded_by = Some(ctx.principal.clone());
        let mut sum = String::with_capacity(SHA256_BYTES * 2);
        for byte in &noted.sha256 {
            sum.push_str(&format!("{byte:02x}"));
        }
        let detail = format!("at position {}, {} bytes, sha256 {sum}", noted.position, noted.bytes);
        self.backup = Some(noted);
        let done = Done { took_effect: true, ..Done::default() };
        Ok(Outcome { detail, ..Outcome::from(done) })
    }
}
