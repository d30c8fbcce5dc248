//! The record of a run: one growing value to which each state adds one named field.
//!
//! `$run` in the state machines has these fields in this order. Everything that a report says is computed from it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    backup::{BackupId, Rung},
    cluster::{Applied, Rollout, Writer},
    database::{Closed, Heartbeat, WriteAttempt},
    failover::FailoverPlan,
    holdings::Holdings,
    incident::Consent,
    intervention::Intervention,
    lsn::Lsn,
    names::Answer,
    notice::Stage,
};

/// The record of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Execution name; the idempotency key of everything that the run does.
    pub id: String,
    /// When the engine started it: the declaration.
    pub started_at: Timestamp,
    /// The event that started it, as it came.
    pub event: Value,
    /// `PlanFailover`: every choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<FailoverPlan>,
    /// `AwaitApproval`: who confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalGiven>,
    /// `FencePrimary`: the old primary is closed, or proven out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// `PromoteReplica`: the point of no return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promotion>,
    /// `ScaleNodegroup`: capacity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// `DeployWorkloads`: the recovery overlay runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<WorkloadRollout>,
    /// `VerifyRecovery`: services answer, a write goes through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// `SwapDns`: the switch is thrown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<NamesMoved>,
    /// `VerifyReached`: seen from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// `EditRecords`: what the control planes allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<RecordsEdited>,
    /// `LiftFence` and `ReleaseCapacity`: what a run that stopped in time put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reversal: Option<Reversal>,
    /// `TakeBackups`: what was due, taken and missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<BackupsTaken>,
    /// `ConcludeProofs`: what was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proofs: Option<BackupsProven>,
    /// The first failure that decided the run's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RunFailure>,
    /// Failures that decided nothing, in the order in which they happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<RunFailure>,
    /// Messages that were sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Noticed>,
    /// What people did to the run; no state adds to it, whoever writes the report does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interventions: Vec<Intervention>,
}

/// What a run of `nightly-backup` brought.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupsTaken {
    /// How many were due.
    pub due: u64,
    /// Those that are complete.
    pub taken: Vec<BackupTaken>,
    /// Those that are not.
    pub missed: Vec<BackupMissed>,
}

impl BackupsTaken {
    /// Whether everything that was due is there.
    pub fn is_whole(&self) -> bool {
        self.missed.is_empty()
    }
}

/// A backup that is complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupTaken {
    /// Which.
    pub backup: BackupId,
    /// Its length before encoding.
    pub plain_bytes: u64,
    /// Its length as stored.
    pub stored_bytes: u64,
    /// From its beginning to its end.
    pub took_seconds: f64,
}

/// A backup that could not be taken, or not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupMissed {
    /// Which.
    pub backup: BackupId,
    /// The error's name.
    pub error: String,
    /// What happened.
    pub cause: String,
}

/// What a run of `verify-backups` brought.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupsProven {
    /// One per backup whose proof was kept, good or bad.
    pub proven: Vec<BackupProven>,
    /// What could not be read.
    pub unread: Vec<BackupMissed>,
    /// Kinds of which the newest backup is missing or too old, a sentence each.
    pub stale: Vec<String>,
    /// More was due than one run takes.
    pub more: bool,
    /// How the log stands; absent if the plan keeps none, or nobody could look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogProven>,
    /// How many backups were marked to expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<u64>,
}

impl BackupsProven {
    /// Whether all backups are as they should be.
    pub fn is_good(&self) -> bool {
        self.unread.is_empty()
            && self.stale.is_empty()
            && self.proven.iter().all(|proven| proven.findings == 0)
            && self.log.iter().all(|log| log.says.is_empty())
    }
}

/// How the log stands, in short; the whole of it lies in the evidence bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogProven {
    /// Of which server.
    pub subject: String,
    /// The newest moment that a restore can go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaches_to: Option<Timestamp>,
    /// Segments that lead there from the newest proven base backup; absent where RDS keeps them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<u64>,
    /// What is not as it should be.
    pub says: Vec<String>,
}

/// A proof in short; the whole one lies in the evidence bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupProven {
    /// Of which backup.
    pub backup: BackupId,
    /// The rung that was asked for.
    pub asked: Rung,
    /// The highest rung that all of it reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// Artifacts that the manifest names.
    pub found: u64,
    /// Those that were looked at.
    pub checked: u64,
    /// Those that are as they should be.
    pub valid: u64,
    /// How much is not as it should be.
    pub findings: u64,
    /// The first of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

/// Who confirmed the point of no return.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalGiven {
    /// The person.
    pub by: String,
    /// In their words.
    pub because: String,
    /// When.
    pub at: Timestamp,
    /// What they take upon themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consents: Vec<Consent>,
    /// The others who confirmed, where the plan asks for more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seconded_by: Vec<Seconded>,
}

/// Another person who confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seconded {
    /// The person.
    pub by: String,
    /// In their words.
    pub because: String,
    /// When.
    pub at: Timestamp,
}

/// How the old primary was kept from taking writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FenceOutcome {
    /// It answered and refused a write.
    Closed,
    /// It cannot be reached, so nothing was proven about it; its epoch is over.
    Unreachable,
    /// It still takes writes, and somebody took that upon themselves.
    StillWritable,
}

/// The old primary is closed, or proven out of reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fence {
    /// How it ended.
    pub outcome: FenceOutcome,
    /// Epoch under which this run acts.
    pub epoch: u64,
    /// When the last proof was taken.
    pub observed_at: Timestamp,
    /// What closing the database did; absent if it was not reached.
    pub database: Option<Closed>,
    /// The attempted write that proves it; absent if nothing answered.
    pub proof: Option<WriteAttempt>,
    /// Why the database was not reached.
    pub database_unreachable: Option<String>,
    /// The Deployments that were stopped, with what they had; absent if the cluster was not reached.
    pub writers: Option<Vec<Writer>>,
    /// Why the cluster was not reached.
    pub cluster_unreachable: Option<String>,
    /// Consent to a primary that still takes writes.
    pub consent: Option<Consent>,
}

/// The standby is the primary now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// The server.
    pub server: String,
    /// It had been promoted before this attempt looked.
    pub already: bool,
    /// Its new timeline.
    pub timeline: u32,
    /// Where the old timeline ended on it.
    pub ended_at: Lsn,
    /// The server's clock when a write was committed.
    pub writable_at: Timestamp,
    /// What was lost on the way.
    pub loss: Loss,
}

/// What a promotion lost, as a measurement with its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// The last position that the primary is known to have had.
    pub primary_was_at: Option<Lsn>,
    /// Bytes of write-ahead log between that and what was promoted: all that is missing if the primary was closed, else
    /// the least, since a lost primary may have gone on. Unknown if no position was kept.
    pub bytes: Option<u64>,
    /// Heartbeats that the primary wrote and the promoted server does not have.
    pub heartbeats: Option<i64>,
    /// The newest heartbeat on the promoted server.
    pub newest_heartbeat: Option<Heartbeat>,
    /// Time of writes lost, at the least: between the last heartbeat known and the newest one held.
    pub seconds_at_least: Option<f64>,
    /// Time of writes lost, at the most: from the newest heartbeat held until the primary was away.
    pub seconds_at_most: Option<f64>,
}

/// Nodes of the secondary cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Node group.
    pub node_group: String,
    /// Nodes asked for.
    pub desired: u32,
    /// Nodes that are Ready.
    pub ready: u32,
    /// Nodes with which workloads may start.
    pub enough: u32,
    /// When it was counted.
    pub observed_at: Timestamp,
    /// EKS's words on what is wrong.
    pub issues: Vec<String>,
}

/// The recovery overlay runs in the secondary cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadRollout {
    /// Cluster.
    pub cluster: String,
    /// Server that the workloads were pointed at.
    pub database: String,
    /// What the apply did.
    pub applied: Applied,
    /// The Deployments, all complete.
    pub rollouts: Vec<Rollout>,
    /// When they were.
    pub observed_at: Timestamp,
    /// When the bundle was rendered, from its annotation `recovery.sparc/rendered-at`.
    pub rendered_at: Option<Timestamp>,
    /// Images that the bundle's workloads run from, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
}

/// Services answer in the secondary region, and a write goes through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// One per check of the plan.
    pub answers: Vec<ServiceAnswer>,
    /// The attempted write.
    pub write: WriteAttempt,
    /// When the last answer came.
    pub observed_at: Timestamp,
    /// What the region holds beside the database and the cluster.
    #[serde(default)]
    pub holdings: Holdings,
}

/// One service's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceAnswer {
    /// The objective or component that it speaks for.
    pub service: String,
    /// What it said.
    pub answer: Answer,
}

/// The switch is thrown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamesMoved {
    /// The object that health checks watch, as `s3://bucket/key`.
    pub switch: String,
    /// It was there before this attempt looked.
    pub already: bool,
    /// When it was put there.
    pub at: Timestamp,
}

/// The public name leads to the secondary region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// What was asked.
    pub url: String,
    /// What it said.
    pub answer: Answer,
}

/// What the control planes of Route 53 and CloudFront allowed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordsEdited {
    /// Records that are in sync.
    pub in_sync: Vec<String>,
    /// The CDN's origin points at the secondary region.
    pub cdn: Option<String>,
}

/// What a run that stopped in time put back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reversal {
    /// `LiftFence`.
    pub fence: Option<FenceLifted>,
    /// `ReleaseCapacity`.
    pub capacity: Option<CapacityReleased>,
}

/// The old primary takes writes again, unless the fence has to stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FenceLifted {
    /// Why the fence stays: a promotion was asked for, and may have happened or may still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays: Option<String>,
    /// The attempted write that proves it; absent if the server could not be reached.
    pub proof: Option<WriteAttempt>,
    /// Writers that have their counts back.
    pub writers: Vec<Writer>,
    /// What could not be put back, for a person to do.
    pub left: Vec<String>,
    /// When.
    pub observed_at: Timestamp,
}

/// The node group has the size that it had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapacityReleased {
    /// Nodes asked for now.
    pub desired: u32,
    /// When.
    pub observed_at: Timestamp,
}

/// A state that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFailure {
    /// Name of the state.
    pub state: String,
    /// Error name, such as `Recovery.Refused`.
    pub error: String,
    /// The cause as the engine gives it: for a function, JSON with `errorMessage`.
    #[serde(default)]
    pub cause: String,
}

impl RunFailure {
    /// The sentence inside the cause.
    pub fn message(&self) -> String {
        let parsed: Option<Value> = serde_json::from_str(&self.cause).ok();
        let inner = parsed.as_ref().and_then(|cause| cause.get("errorMessage")).and_then(Value::as_str);
        inner.map_or_else(|| self.cause.clone(), str::to_owned)
    }
}

/// A message that was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noticed {
    /// What it was about.
    pub stage: Stage,
    /// The channel's own identifier.
    pub message: String,
    /// When it was handed over.
    pub at: Timestamp,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// Customers reach the secondary region.
    Recovered,
    /// A guard held before anything had changed for good; everything was put back.
    Refused,
    /// It failed before the point of no return; everything was put back, or the report says what was not.
    Failed,
    /// It failed after the point of no return: go on from here, never back.
    Incomplete,
}

impl Run {
    /// A record in which nothing has happened yet.
    pub fn opened(id: &str, started_at: Timestamp, event: Value) -> Run {
        Run {
            id: id.to_owned(),
            started_at,
            event,
            plan: None,
            approval: None,
            fence: None,
            promotion: None,
            scaling: None,
            rollout: None,
            health: None,
            names: None,
            reached: None,
            records: None,
            reversal: None,
            failure: None,
            troubles: Vec::new(),
            notices: Vec::new(),
            backups: None,
            proofs: None,
            interventions: Vec::new(),
        }
    }

    /// How the run ended, or would if it ended now.
    pub fn outcome(&self) -> RunOutcome {
        let stays =
            self.reversal.iter().filter_map(|reversal| reversal.fence.as_ref()).any(|fence| fence.stays.is_some());
        let promoted = self.promotion.is_some() || stays;
        if self.failure.is_none() && (self.backups.is_some() || self.proofs.is_some()) {
            let good =
                self.backups.iter().all(BackupsTaken::is_whole) && self.proofs.iter().all(BackupsProven::is_good);
            return if good { RunOutcome::Recovered } else { RunOutcome::Incomplete };
        }
        match (&self.failure, &self.reached) {
            (None, Some(_)) => RunOutcome::Recovered,
            _ if promoted => RunOutcome::Incomplete,
            (Some(failure), _) if failure.error == crate::fault::Fault::Refused.error_type() => RunOutcome::Refused,
            _ => RunOutcome::Failed,
        }
    }
}
