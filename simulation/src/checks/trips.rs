//! H3 (and A2): at any version at which the flag is tripped, every answer is the safe variant.

use super::Finding;
use super::history_of_flag::{changes, is_tripped};
use crate::history::Seen;
use crate::plan::Plan;
use crate::workload::{EXPERIMENTS, SAFE};

/// H3.
pub fn safe(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for flag in EXPERIMENTS {
        let changes = changes(seen, flag);
        for evaluated in seen.evaluations.iter().filter(|evaluated| evaluated.flag == *flag) {
            let version = evaluated.answer.flag_version;
            let served = evaluated.answer.variant.as_deref();
            match is_tripped(&changes, version) {
                Some(true) => finding.case(served == Some(SAFE), || {
                    format!("{flag} at version {version}, tripped, served {served:?} to {}", evaluated.unit)
                }),
                Some(false) => finding.case(served != Some(SAFE), || {
                    format!(
                        "{flag} at version {version}, not tripped, served its safe variant to {}",
                        evaluated.unit
                    )
                }),
                None => {}
            }
        }
    }
    finding
}
