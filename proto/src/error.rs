//! The few error codes of the API. Each is mapped once to a gRPC status and once to an exit code, in `nodes/`.

macro_rules! codes {
    ($($variant:ident = $text:literal: $meaning:literal;)*) => {
        /// Why a request or command was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode { $(#[doc = $meaning] $variant,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire and in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }

            /// What it means, one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => $meaning,)* } }

            /// The code of a name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
        }
    };
}

codes! {
    InvalidArgument = "INVALID_ARGUMENT": "A field has a value that can never be accepted.";
    NotFound = "NOT_FOUND": "The named resource does not exist.";
    AlreadyExists = "ALREADY_EXISTS": "A resource of that name exists.";
    EtagMismatch = "ETAG_MISMATCH": "The resource changed since it was read: read it again.";
    WrongState = "WRONG_STATE": "The resource's state does not allow the command.";
    Fenced = "FENCED": "The owner's epoch or sequence is stale.";
    StaleDecision = "STALE_DECISION": "The flag changed after the decision was made.";
    DigestMismatch = "DIGEST_MISMATCH": "The decision's inputs are not those frozen at its position.";
    NotPermitted = "NOT_PERMITTED": "The principal may not do this.";
    AutonomyTooLow = "AUTONOMY_TOO_LOW": "The autonomy level does not allow the action.";
    CoolDown = "COOL_DOWN": "A human command holds autonomous changes off for a while.";
    Frozen = "FROZEN": "A freeze window holds autonomous changes off.";
    TooFrequent = "TOO_FREQUENT": "At most one autonomous decision a second for a flag.";
    OverCap = "OVER_CAP": "Traffic to new variants would exceed the cap or the environment's budget.";
    BelowFloor = "BELOW_FLOOR": "Control would fall below its floor.";
    Tripped = "TRIPPED": "The flag is tripped: a person must resume it first.";
    LimitReached = "LIMIT_REACHED": "A stated bound is full.";
    SequenceTooOld = "SEQUENCE_TOO_OLD": "The sequence is below the producer's window; it was not counted.";
    SequenceTooFar = "SEQUENCE_TOO_FAR": "The sequence is too far ahead of the producer's window.";
    ContentMismatch = "CONTENT_MISMATCH": "The sequence or the request id was used before with other content.";
    TooManyProducers = "TOO_MANY_PRODUCERS": "The producer table is full.";
    WrongUnitKey = "WRONG_UNIT_KEY": "The node hashes units with another key than the cluster's.";
    FeatureLevelTooLow = "FEATURE_LEVEL_TOO_LOW": "The cluster is not raised to the feature level that the command needs.";
    NotInitialized = "NOT_INITIALIZED": "The cluster has no identity yet.";
}
