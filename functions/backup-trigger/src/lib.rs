//! Takes backups, and publishes what is whole.
//!
//! Runs as `PlanBackups`, `TakeBackup` and `ConfirmBackup` in `nightly-backup`; in a Job of the cluster for what is too large
//! for a Lambda. `plan` says what is due and where it is taken, with the figures. `take` takes one: it notes in the evidence
//! bucket that it is at it, streams the artifacts, writes the manifest, and last the receipt with the manifest's digest.
//! `confirm` looks whether one that a Job takes is complete, and takes nothing.
//!
//! Only a receipt makes a backup complete. An attempt that was killed leaves at most an upload, which the next one takes
//! over or ends, and a note of its last sign of life: while that is fresh, another attempt is [`Fault::NotYet`], so two
//! never write one backup. Repeated after its end, it answers what the first one did.

mod confirm;
mod counted;
mod due;
mod job;
mod place;
mod progress;
mod take;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use recovery::{
    backup::{BackupId, BackupStorage, BackupTriggerRequest, Kind, ManifestProblem, PartStore, Place},
    fault::{Classified, Fault},
    plan::Plan,
    store::{ObjectStore, StoreError},
};
use recovery_datapath::{DatapathError, TakeError, Taker};
use serde::Serialize;
use tokio::sync::Notify;

pub use recovery::backup::{BackupTriggerRequest as Request, Due, Outcome};

/// Lambda ends after 15 minutes. <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const LAMBDA: Duration = Duration::from_secs(15 * 60);

/// What the function sees and touches.
pub struct World<'a> {
    /// How each kind is taken, for those that this process can take.
    pub takers: &'a BTreeMap<Kind, Box<dyn Taker>>,
    /// The backups bucket, as artifacts are written to it.
    pub parts: Arc<dyn PartStore>,
    /// The backups bucket, as small objects are read from it.
    pub backups: &'a dyn ObjectStore,
    /// Progress and receipts.
    pub evidence: &'a dyn ObjectStore,
    /// The evidence bucket as one that is listed: how fast earlier backups were.
    pub list: &'a dyn BackupStorage,
    /// Certificate authority of the cluster that runs Jobs, PEM.
    pub authority: &'a str,
    /// What tells the time.
    pub now: fn() -> Timestamp,
    /// How long a backup may take here.
    pub within: Duration,
    /// Somebody asks this process to end.
    pub stop: &'a Notify,
}

impl World<'_> {
    /// Whoever has longer than a Lambda is none.
    fn place(&self) -> Place {
        if self.within > LAMBDA { Place::Job } else { Place::Lambda }
    }
}

/// The answer, by action.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Response {
    /// To `plan`.
    Due(Due),
    /// To `take` and `confirm`.
    Outcome(Outcome),
}

/// A backup was not planned or not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan does not want it.
    #[error("`{kind}` is no kind of backup that the plan has a policy for")]
    NotPlanned {
        /// Which kind.
        kind: Kind,
    },
    /// Nobody here can take it.
    #[error("a backup of kind `{kind}` cannot be taken here")]
    NoTaker {
        /// Which kind.
        kind: Kind,
    },
    /// The id names something else than the plan.
    #[error("`{backup}` is of `{found}`, and the plan's is `{planned}`")]
    OtherSubject {
        /// Which backup.
        backup: BackupId,
        /// What it names.
        found: String,
        /// What the plan has.
        planned: String,
    },
    /// Another attempt is at it.
    #[error("`{backup}` is being taken by `{by}`, which was seen {seconds} s ago")]
    Taken {
        /// Which backup.
        backup: BackupId,
        /// The run of the other attempt.
        by: String,
        /// Age of its last sign of life.
        seconds: i64,
    },
    /// Another attempt went on while this one was not seen.
    #[error("`{backup}` was taken over by another attempt")]
    TakenOver {
        /// Which backup.
        backup: BackupId,
    },
    /// No attempt is seen, and one may begin.
    #[error("no attempt at `{backup}` has been seen for {seconds} s, and its Job may begin one")]
    Awaited {
        /// Which backup.
        backup: BackupId,
        /// Since the last sign of life, or since it is waited for.
        seconds: i64,
    },
    /// No attempt will complete it.
    #[error("`{backup}` is not complete: {ended}")]
    NotTaken {
        /// Which backup.
        backup: BackupId,
        /// How its Job and its last attempt ended.
        ended: String,
    },
    /// This process was asked to end.
    #[error("the attempt at `{backup}` was asked to end")]
    Stopped {
        /// Which backup.
        backup: BackupId,
    },
    /// The source or the datapath failed.
    #[error("`{backup}` was not taken")]
    Take {
        /// Which backup.
        backup: BackupId,
        /// Why.
        #[source]
        source: TakeError,
    },
    /// The size could not be found out.
    #[error("how much a {kind} backup has to move is not known")]
    Size {
        /// Which kind.
        kind: Kind,
        /// Why.
        #[source]
        source: TakeError,
    },
    /// The manifest was not written.
    #[error("the manifest of `{backup}` was not written")]
    Manifest {
        /// Which backup.
        backup: BackupId,
        /// Why.
        #[source]
        source: DatapathError,
    },
    /// There is a manifest that cannot be believed.
    #[error("the manifest of `{backup}` cannot be used")]
    Unreadable {
        /// Which backup.
        backup: BackupId,
        /// Why.
        #[source]
        source: ManifestProblem,
    },
    /// A bucket did not answer.
    #[error("what is known of the backup cannot be read or written")]
    Store(#[from] StoreError),
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::NotPlanned { .. } | Error::NoTaker { .. } | Error::OtherSubject { .. } => Fault::Permanent,
            Error::Taken { .. } | Error::Awaited { .. } => Fault::NotYet,
            Error::TakenOver { .. } | Error::Stopped { .. } => Fault::Transient,
            Error::NotTaken { .. } => Fault::Refused,
            Error::Take { source, .. } | Error::Size { source, .. } => source.fault(),
            Error::Manifest { source, .. } => source.fault(),
            Error::Unreadable { .. } => Fault::Refused,
            Error::Store(error) => error.fault(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::NotPlanned { kind } => format!("add a [[backups.policy]] of kind \"{kind}\", or do not ask for it"),
            Error::NoTaker { kind } => format!("take the {kind} backup where its source can be reached"),
            Error::OtherSubject { planned, .. } => format!("ask for a backup of `{planned}`"),
            Error::Taken { .. } | Error::Awaited { .. } => "wait; the next look tells".to_owned(),
            Error::Stopped { .. } => "let the next attempt go on with what has arrived".to_owned(),
            Error::NotTaken { .. } => {
                "correct that and start the machine again; the Job and its pods stay for a day".to_owned()
            }
            Error::TakenOver { .. } => "look at the other attempt; this one ends".to_owned(),
            Error::Take { source, .. } | Error::Size { source, .. } => source.remedy(),
            Error::Manifest { source, .. } => source.remedy(),
            Error::Unreadable { backup, .. } => {
                format!("look at who wrote `{}`; the next backup gets another id", backup.manifest_key())
            }
            Error::Store(error) => error.remedy(),
        }
    }
}

/// Plans or takes.
///
/// # Errors
/// See [`Error`].
pub async fn backup_trigger(request: &BackupTriggerRequest, plan: &Plan, world: &World<'_>) -> Result<Response, Error> {
    match request {
        BackupTriggerRequest::Plan { run, due_at, kinds } => {
            due::due(run, *due_at, kinds, plan, world).await.map(Response::Due)
        }
        BackupTriggerRequest::Take { run, backup } => take::take(run, backup, plan, world).await.map(Response::Outcome),
        BackupTriggerRequest::Confirm { backup, since, job, .. } => {
            confirm::confirm(backup, *since, job, world).await.map(Response::Outcome)
        }
    }
}
