//! What only a drill can know: it owns the clients, so it can compare every acknowledged write with what is left.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The clients' view of a drill, and how far the drill was the real thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// Where it ran: `one machine, PostgreSQL 15.18`.
    pub place: String,
    /// Writes that the primary had acknowledged to clients.
    pub acknowledged_writes: u64,
    /// Those of them that the new primary does not have.
    pub lost_writes: Vec<LostWrite>,
    /// Longest time that no client had a write acknowledged, in seconds.
    pub client_gap_seconds: Option<f64>,
    /// The last acknowledgement before that gap.
    pub last_write_before: Option<Timestamp>,
    /// The first one after it.
    pub first_write_after: Option<Timestamp>,
    /// How the public name moved, for customers behind resolvers.
    #[serde(default)]
    pub names: Option<NamesSeen>,
    /// Faults that were asked for, and how often each did something.
    pub faults: Vec<FaultFired>,
    /// Parts that stood in for the real ones, so that nobody takes the drill for more than it was.
    pub stand_ins: Vec<StandIn>,
}

/// A write that a client was told was safe, and that is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LostWrite {
    /// The client's own name for it.
    pub id: String,
    /// When the client was told.
    pub acknowledged_at: Timestamp,
}

/// When the public name led to the secondary region: at its source, and behind resolvers that keep answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamesSeen {
    /// The name.
    pub name: String,
    /// For a resolver that keeps nothing.
    pub without_cache_at: Timestamp,
    /// For the last of those that keep an answer for its time to live.
    pub with_cache_at: Timestamp,
    /// How much later that was, in seconds of AWS.
    pub later_seconds: f64,
    /// How many of those were asked.
    pub resolvers: usize,
    /// Seconds of the drill for a second of health checks and of answers that are kept.
    pub scale: f64,
}

/// A scripted fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultFired {
    /// What was asked for: `lose-answer PromoteReplica`.
    pub fault: String,
    /// How often it did something.
    pub times: u32,
    /// When it did so first.
    pub first_at: Option<Timestamp>,
}

/// A part that was not the real thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandIn {
    /// The real part: `Amazon EKS`.
    pub part: String,
    /// What stood in for it: `the lab's small Kubernetes API`.
    pub by: String,
}
