//! Makes the standby of the failover region the primary.
//!
//! Runs as `PromoteReplica` in `regional-failover`, after `FencePrimary`: two primaries are worse than none. Promotion
//! cannot be undone, so every guard that can stop a failover stands before this step, and the permit is checked once more
//! here, at the moment of use.
//!
//! Each invocation looks at the server, does at most one thing, and looks again. It may be repeated at any time;
//! [`Fault::NotYet`] means "repeat me", which is how the state machine waits. That a promotion is asked for is written into
//! the fence object first, so a run that is killed here is never put back. An error from the promoting call says nothing:
//! it may have been cancelled by a recovery conflict while the promotion went on. Promoted means: the server has left
//! recovery on a later timeline of the same system, its API no longer calls it a replica, and a write was committed.

use jiff::Timestamp;
use recovery::{
    database::{Database, DatabaseError, Manner, PrimaryPosition, Replica, ReplicaRole, ServerStatus, WriteAttempt},
    failover::{FailoverPlan, seconds_between},
    fault::{Classified, Fault, chain},
    fence::{self, FenceError, FenceState},
    permit::{Permit, PermitViolation},
    plan::Plan,
    run::{Fence, Loss, Promotion, Run},
    store::ObjectStore,
};
use serde::{Deserialize, Serialize};

/// The run whose plan names the standby and the permit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record so far.
    pub run: Run,
}

/// What this function acts on.
pub struct World<'a> {
    /// The standby.
    pub standby: &'a dyn Database,
    /// The API that promotes it.
    pub replica: &'a dyn Replica,
    /// The fence object.
    pub evidence: &'a dyn ObjectStore,
}

/// The standby is not the primary, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was decided, or nothing was fenced.
    #[error("the run has no {0}")]
    Missing(&'static str),
    /// The plan asks for more people than have confirmed.
    #[error("not promoting: {missing} more of {needed} people must confirm it")]
    Unconfirmed {
        /// How many are missing.
        missing: usize,
        /// How many the plan asks for.
        needed: u8,
    },
    /// The permit does not fit the server.
    #[error("not promoting: {0}")]
    Permit(#[from] PermitViolation),
    /// In a graceful switch the standby still receives what the closed primary wrote.
    #[error("not promoting yet: {0}")]
    CatchingUp(PermitViolation),
    /// It left recovery, and no run of ours asked for it.
    #[error("not promoting: `{0}` was promoted by somebody else")]
    PromotedByAnother(String),
    /// This run does not hold the fence any more.
    #[error("not promoting: the fence is not ours")]
    Fence(#[from] FenceError),
    /// Asked for, and under way.
    #[error("`{server}` is being promoted: {why}")]
    UnderWay {
        /// The standby.
        server: String,
        /// What is missing, and what the promoting call said if it failed.
        why: String,
    },
    /// The server cannot be looked at.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::Missing(_) => Fault::Permanent,
            Error::Unconfirmed { .. } | Error::Permit(_) | Error::PromotedByAnother(_) => Fault::Refused,
            Error::CatchingUp(_) | Error::UnderWay { .. } => Fault::NotYet,
            Error::Fence(error) => error.fault(),
            Error::Database(error) => error.fault(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::Missing(_) => "run the machine from its first state".to_owned(),
            Error::Unconfirmed { .. } => "start a new run and let that many people approve it".to_owned(),
            Error::Permit(_) => "find out which server this is before anything is promoted".to_owned(),
            Error::PromotedByAnother(server) => {
                format!("find out who promoted `{server}` before anything writes to it")
            }
            Error::CatchingUp(_) => "wait, or look at the replication of the standby".to_owned(),
            Error::UnderWay { server, .. } => format!("wait, or read the log of `{server}`"),
            Error::Fence(error) => error.remedy(),
            Error::Database(error) => error.remedy(),
        }
    }
}

/// Promotes the standby, or finds that it is promoted.
///
/// # Errors
/// The permit does not fit, the promotion is under way, or the server cannot be looked at.
pub async fn promote_replica(run: &Run, plan: &Plan, world: &World<'_>, now: Timestamp) -> Result<Promotion, Error> {
    let decided = run.plan.as_ref().ok_or(Error::Missing("plan"))?;
    let fenced = run.fence.as_ref().ok_or(Error::Missing("fence"))?;
    let missing = recovery::approval::missing(plan, run);
    if missing > 0 {
        return Err(Error::Unconfirmed { missing, needed: plan.failover.approvals });
    }
    let standby = world.standby;

    let before = standby.status().await?;
    let mut asked = Ok(());
    if before.in_recovery {
        check(standby.name(), decided, fenced, &before)?;
        let held = fence::advance(world.evidence, &plan.platform, &run.id, FenceState::Promoting, now).await?;
        held.ok_or(Error::Missing("fence object in the evidence bucket"))?;
        asked = world.replica.promote(decided.manner).await;
    } else {
        decided.permit.check_promoted(standby.name(), &before)?;
        refuse_foreign_promotion(run, plan, world).await?;
    }

    let under_way = |what: String| {
        let said = asked.as_ref().err().map(|error| format!("; the call said: {}", chain(error))).unwrap_or_default();
        Error::UnderWay { server: standby.name().to_owned(), why: format!("{what}{said}") }
    };
    let after = standby.status().await?;
    if after.in_recovery {
        let left = after.replayed_to.map_or(0, |replayed| after.holds_to.bytes_since(replayed));
        return Err(under_way(format!("it is in recovery with {left} bytes to replay")));
    }
    match world.replica.role().await? {
        ReplicaRole::Standalone => {}
        ReplicaRole::Following => return Err(under_way("its API still calls it a replica".to_owned())),
        ReplicaRole::Changing(status) => return Err(under_way(format!("its API says `{status}`"))),
    }
    if !after.synchronous_standby_names.is_empty() {
        standby.stand_alone().await?;
    }
    if after.read_only {
        // On RDS the fence of the old primary travelled with replication.
        standby.open().await?;
    }
    let writable_at = match standby.attempt_write(&run.id).await? {
        WriteAttempt::Accepted { at } => at,
        WriteAttempt::Rejected { why } => return Err(under_way(format!("it does not take writes: {why}"))),
    };
    fence::advance(world.evidence, &plan.platform, &run.id, FenceState::Moved, now).await?;
    Ok(Promotion {
        server: standby.name().to_owned(),
        already: !before.in_recovery,
        timeline: after.timeline,
        ended_at: after.replayed_to.unwrap_or(after.holds_to),
        writable_at,
        loss: loss(decided, fenced, &after),
    })
}

/// Checks the permit at the moment of use. In a graceful switch it reaches to where the closed primary ended.
fn check(standby: &str, decided: &FailoverPlan, fenced: &Fence, status: &ServerStatus) -> Result<(), Error> {
    let closed_at = fenced.database.as_ref().map(|closed| closed.lsn).filter(|_| decided.manner == Manner::Graceful);
    let replay_to = decided.permit.replay_to.max(closed_at.unwrap_or_default());
    let permit = Permit { replay_to, ..decided.permit.clone() };
    permit.check(standby, status).map_err(|violation| match violation {
        PermitViolation::Behind { .. } if decided.manner == Manner::Graceful => Error::CatchingUp(violation),
        other => Error::Permit(other),
    })
}

async fn refuse_foreign_promotion(run: &Run, plan: &Plan, world: &World<'_>) -> Result<(), Error> {
    let record = fence::read(world.evidence, &plan.platform).await.map_err(FenceError::from)?;
    match record {
        Some(record) if record.run != run.id => Err(FenceError::HeldByAnother(Box::new(record)).into()),
        Some(record) if matches!(record.state, FenceState::Promoting | FenceState::Moved) => Ok(()),
        _ => Err(Error::PromotedByAnother(world.standby.name().to_owned())),
    }
}

/// What was lost, with bounds: a closed primary says exactly how far it went, a lost one only how far it was seen.
fn loss(decided: &FailoverPlan, fenced: &Fence, promoted: &ServerStatus) -> Loss {
    let ended_at = promoted.replayed_to.unwrap_or(promoted.holds_to);
    let kept: Option<&PrimaryPosition> = decided.survey.position.seen().and_then(Option::as_ref);
    let seen = decided.survey.primary.seen();
    let closed_at = fenced.database.as_ref().map(|closed| closed.lsn);
    let primary_was_at =
        closed_at.into_iter().chain(kept.map(|position| position.lsn)).chain(seen.map(|status| status.holds_to)).max();
    let bytes = primary_was_at.map(|lsn| lsn.bytes_since(ended_at));
    let newest = promoted.heartbeat;
    let known = kept
        .map(|position| position.heartbeat)
        .into_iter()
        .chain(seen.and_then(|status| status.heartbeat))
        .max_by_key(|beat| beat.number);
    let nothing_lost = closed_at.is_some() && bytes == Some(0);
    let since_newest = |until: Timestamp| newest.map(|newest| seconds_between(newest.written_at, until).max(0.0));
    Loss {
        primary_was_at,
        bytes,
        heartbeats: known.zip(newest).map(|(known, newest)| (known.number - newest.number).max(0)),
        newest_heartbeat: newest,
        seconds_at_least: if nothing_lost { Some(0.0) } else { known.and_then(|known| since_newest(known.written_at)) },
        seconds_at_most: if nothing_lost {
            Some(0.0)
        } else {
            // Writes may have gone on after the last heartbeat, but not after the primary was away.
            let gone_by = decided.incident.gone_by.unwrap_or(decided.incident.began_at);
            let last = known.map_or(gone_by, |known| known.written_at.max(gone_by));
            since_newest(last)
        },
    }
}
