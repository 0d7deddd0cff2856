//! Compiled at the door, committed by the log: between the two, what a flag is compiled against may change.
//!
//! The fold compiles nothing. So a command says what its door compiled it against, the fold refuses it when that has moved,
//! and the door looks again. Whoever asked sees none of it.

use featureops_proto::log::CompiledAgainst;
use featureops_proto::v1::Environment;
use tonic::{Response, Status};

use crate::refusal;

/// Looks at one request. Beyond them it is told to come again: somebody else writes all the time.
const LOOKS_MAX: usize = 8;

/// What a flag was compiled against.
#[must_use]
pub fn compiled_against(environment: &Environment) -> CompiledAgainst {
    CompiledAgainst {
        environment: environment.name.clone(),
        environment_version: Some(environment.environment_version),
        definitions: None,
    }
}

/// Looks at a request, again while what it was compiled against moves.
///
/// # Errors
/// Those of the last look.
pub async fn settled<T, F: Future<Output = Result<T, Status>>>(
    look: impl Fn() -> F,
) -> Result<Response<T>, Status> {
    let mut looks = Looks::default();
    loop {
        let done = look().await;
        if !looks.again(&done) {
            return done.map(Response::new);
        }
    }
}

/// Counts the looks at one request.
#[derive(Default)]
struct Looks(usize);

impl Looks {
    /// Whether it is to be looked at again: what it was compiled against moved, and it did not do so too often.
    fn again<T>(&mut self, done: &Result<T, Status>) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0 < LOOKS_MAX && done.as_ref().is_err_and(refusal::is_moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_proto::ErrorCode;
    use featureops_proto::log::Refusal;

    #[test]
    fn it_looks_again_while_things_move_and_not_for_ever() {
        let refused = |field: &str| -> Result<(), Status> {
            Err(refusal::refused(&Refusal::new(ErrorCode::Fenced, field, 1, "moved")))
        };
        let mut looks = Looks::default();
        for _ in 1..LOOKS_MAX {
            assert!(looks.again(&refused("compiled_against.definitions")));
        }
        assert!(!looks.again(&refused("compiled_against.definitions")));
        assert!(!Looks::default().again(&refused("owner.sequence")));
        assert!(!Looks::default().again(&Ok(())));
    }
}
