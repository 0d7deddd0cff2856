//! What an applied entry changed, for this node's publisher, owners and watchers. Effects are hints to look at the
//! state again: losing one to a restart loses nothing.

/// One thing that changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The cluster has its identity.
    Initialized,
    /// Log time moved.
    Ticked {
        /// Unix milliseconds.
        log_time_ms: i64,
    },
    /// A flag's definition, trip, allocation or autonomy changed.
    FlagChanged {
        /// Environment.
        environment: String,
        /// Flag.
        flag: String,
    },
    /// What the flags of an environment share changed: every one of them may answer otherwise.
    EnvironmentChanged {
        /// Environment.
        environment: String,
    },
    /// A segment's definition or list changed, or it is gone: flags that ask about it may answer otherwise.
    SegmentChanged {
        /// Environment.
        environment: String,
        /// Segment.
        segment: String,
    },
    /// A metric was defined or changed.
    MetricChanged {
        /// Environment.
        environment: String,
        /// Metric.
        metric: String,
    },
    /// An experiment's state or allocation changed.
    ExperimentChanged {
        /// Number.
        number: u32,
    },
    /// The moments of an experiment were frozen: its owner may look.
    Frozen {
        /// Number.
        number: u32,
    },
    /// A node owns the experiment's decisions from this epoch on.
    OwnerAssigned {
        /// Number of the experiment.
        number: u32,
        /// The node.
        node: u64,
        /// Rising.
        epoch: u64,
    },
    /// A mark of a member changed, or its weight, or it drains.
    LivenessChanged,
    /// A decision was made or resolved.
    DecisionChanged {
        /// Number.
        number: u64,
    },
    /// The audit chain grew.
    AuditAppended {
        /// Number.
        number: u64,
    },
    /// A unit was erased: what this node remembers of it by its hash goes too.
    UnitErased {
        /// Its keyed hash.
        unit: u64,
    },
    /// A token was made or revoked.
    TokensChanged,
    /// Limits or freezes of an environment changed.
    OversightChanged {
        /// Environment.
        environment: String,
    },
}
