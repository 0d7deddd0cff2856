//! Every bound of a flag, in one place. What lies beyond is refused when the flag is written.

/// Variants of a flag.
pub const MAX_VARIANTS: usize = 64;
/// Rules of a flag.
pub const MAX_RULES: usize = 256;
/// Conditions of a rule.
pub const MAX_CONDITIONS: usize = 64;
/// Values of a condition.
pub const MAX_VALUES: usize = 1_000;
/// Entries of a rule's split; variants may repeat.
pub const MAX_SPLIT: usize = 128;
/// Runs of an allocation.
pub const MAX_RUNS: usize = 128;
/// Arms of an allocation.
pub const MAX_ARMS: usize = 32;
/// Stretches of slots of an experiment in its layer.
pub const MAX_SLOT_RANGES: usize = 64;
/// Holdouts of an experiment, those that are everywhere among them.
pub const MAX_HOLDOUTS: usize = 32;
/// Prerequisites of a flag.
pub const MAX_PREREQUISITES: usize = 16;
/// Links from a flag to the farthest that it rests on.
pub const MAX_PREREQUISITE_LEVELS: usize = 16;
/// Other flags that one evaluation looks at, each once. What it does not come to counts as not holding.
pub const MAX_PREREQUISITE_FLAGS: usize = 256;
/// Clauses of a segment.
pub const MAX_CLAUSES: usize = 64;
/// Bytes of a segment's definition, counted as a flag's.
pub const MAX_SEGMENT_BYTES: usize = 64 * 1024;
/// Links from a segment to the farthest that it rests on.
pub const MAX_SEGMENT_LEVELS: usize = 16;
/// Segments that one evaluation of a flag looks at, each once. Nobody is in one that it does not come to.
pub const MAX_SEGMENTS_ASKED: usize = 256;
/// Units of a flag that are forced to a variant.
pub const MAX_FORCED: usize = 1_000;
/// Levels of a variant's value: a scalar has one, `{"a": 1}` two.
pub const MAX_DEPTH: usize = 32;
/// Bytes of a variant's name or a rule's id.
pub const MAX_NAME_BYTES: usize = 128;
/// Bytes of an attribute's path.
pub const MAX_ATTRIBUTE_BYTES: usize = 256;
/// Keys on an attribute's path.
pub const MAX_ATTRIBUTE_KEYS: usize = 16;
/// Bytes of a flag's definition: its text, and 16 for every value, condition and rule.
pub const MAX_FLAG_BYTES: usize = 256 * 1024;
/// Encoded bytes of a context: what a condition may have to read. The caller checks it, before it evaluates.
pub const MAX_CONTEXT_BYTES: usize = 64 * 1024;
/// Bytes of a unit that can be in an experiment: no fact could name a longer one, so its arm would never be counted.
pub const MAX_UNIT_BYTES: usize = 1_024;
/// Longest `stale_after_seconds`: 366 days.
pub const MAX_STALE_AFTER_SECONDS: i64 = 366 * 24 * 60 * 60;
/// Bytes of a flagd document.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024 * 1024;
/// Values in a flagd document, each object, list and scalar one: a byte of text can become a value of 32.
pub const MAX_DOCUMENT_VALUES: usize = 4_000_000;
/// Flags of a flagd document.
pub const MAX_DOCUMENT_FLAGS: usize = 100_000;
/// Shared rules of an environment.
pub const MAX_EVALUATORS: usize = 1_000;
/// Warnings about a flagd document; of more only the number is told.
pub const MAX_WARNINGS: usize = 1_000;
/// Levels of a targeting rule, shared rules put in.
pub const MAX_TARGETING_DEPTH: usize = 128;
/// Bytes of a targeting rule, shared rules put in: its text, and 16 for every value in it.
pub const MAX_TARGETING_BYTES: usize = 1024 * 1024;
/// Steps of one evaluation of a targeting rule: operators evaluated and items visited.
pub const MAX_TARGETING_STEPS: u32 = 100_000;
/// Items of all lists that one evaluation makes.
pub const MAX_TARGETING_ITEMS: usize = 64 * 1024;
/// Bytes of all texts that one evaluation makes.
pub const MAX_TARGETING_TEXT_BYTES: usize = 256 * 1024;
/// Steps after which an explanation tells no more of a targeting rule's inside.
pub const MAX_EXPLAINED_DETAILS: usize = 1_000;
