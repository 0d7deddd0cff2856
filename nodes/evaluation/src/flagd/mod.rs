//! The flagd document: flags as the whole field writes them, in and out.
//!
//! ```text
//!   document --read--> JSON, duplicate keys noted --import--> v1::Environment, v1::Flag ..., warnings
//!   v1::Flag ..., v1::Environment --export----------> document, `$evaluators` and shared metadata apart
//!                                 --export_for_sync-> document, both merged into the flags
//! ```
//!
//! A document is taken in whole or not at all. What flagd would load is kept, and what its schema does not know is
//! warned about; refused is only what could not be kept as it stands: a number that would change, a key that is no
//! resource's name, a default that does not exist.
//!
//! What goes out is evaluated by clients on their own, so it must mean there what it means here: [`rules`], [`segments`] and
//! [`prerequisites`] say how.

mod again;
mod decides;
mod document;
mod export;
mod import;
mod left_out;
mod prerequisites;
mod rules;
mod segments;
mod value;

pub use again::{Again, again};
pub use decides::always_decides;
pub use export::{Others, SyncForm, export, export_for_sync, export_with_segments};
pub use import::{Imported, bounded, import};
pub use left_out::{LeftOut, What, left_out, left_out_of};
pub use segments::asked;

/// Why a document was refused: the path in it, what stands there, the way out.
pub use crate::refusal::CompileError as ImportError;
