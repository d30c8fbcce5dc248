//! Stops writes to the old primary, and proves it or proves that it cannot be reached.
//!
//! Runs as `FencePrimary` before the promotion, because two primaries are worse than none, and as `LiftFence` when a run
//! stops before the point of no return. The fences are independent of each other: the fence object under a new epoch, the
//! database (read-only by default, sessions ended), and the writers in the cluster (scaled to zero, counts remembered).
//! The proof is an attempted write as the role that services use.
//!
//! Repeating is safe: the epoch is taken once per run, counts are remembered once per epoch, closing a closed server
//! changes nothing. Lifting refuses itself once a promotion has been asked for; until then a platform that worked must work
//! again, so what does not answer is asked again for a while before it is left to a person.

use jiff::{SignedDuration, Timestamp};
use recovery::{
    cluster::{ClusterError, Workloads, Writer},
    database::{Closed, Database, DatabaseError, Manner, WriteAttempt},
    failover::FailoverPlan,
    fault::{Classified, Fault, chain},
    fence::{self, FenceError, FenceRecord, FenceState},
    incident::{Consent, Risk},
    plan::Plan,
    run::{Fence, FenceLifted, FenceOutcome, Run},
    store::ObjectStore,
};
use serde::{Deserialize, Serialize};

/// How long after the fence was given up what does not answer is asked again. Less than the looks of `LiftFence` take.
const LIFT_PATIENCE: SignedDuration = SignedDuration::from_secs(20);

/// What is asked of the fence.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Put it up, or take it down.
    pub action: Action,
    /// The record so far.
    pub run: Run,
}

/// Put the fence up, or take it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Stop writes.
    Close,
    /// Let them through again.
    Lift,
}

/// What this function acts on.
pub struct World<'a> {
    /// The old primary.
    pub primary: &'a dyn Database,
    /// The fence object.
    pub evidence: &'a dyn ObjectStore,
    /// Writers of the primary cluster.
    pub workloads: &'a dyn Workloads,
}

/// The old primary is neither closed nor out of reach.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was decided.
    #[error("the run has no plan")]
    NoPlan,
    /// The plan asks for more people than have confirmed.
    #[error("not fencing: {missing} more of {needed} people must confirm it")]
    Unconfirmed {
        /// How many are missing.
        missing: usize,
        /// How many the plan asks for.
        needed: u8,
    },
    /// One failover at a time.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// It took a write after it was closed.
    #[error("not promoting: `{primary}` still takes writes, it committed one at {at}")]
    StillWritable {
        /// The old primary.
        primary: String,
        /// Its clock.
        at: Timestamp,
    },
    /// Sessions that could still write have not ended yet.
    #[error("`{primary}` is closing: {left} sessions that began before have not ended")]
    Closing {
        /// The old primary.
        primary: String,
        /// How many.
        left: u64,
    },
    /// The fence is given up, and not everything behind it has answered.
    #[error("the fence is not down yet: {0}")]
    Lifting(String),
    /// A graceful switch cannot lose the primary on the way.
    #[error("the primary must be closed in a graceful switch")]
    Lost(#[source] DatabaseError),
    /// It answers, but not so that anything is proven.
    #[error("whether `{primary}` is closed cannot be proven")]
    Unproven {
        /// The old primary.
        primary: String,
        /// Its words.
        #[source]
        source: DatabaseError,
    },
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::NoPlan => Fault::Permanent,
            Error::Fence(error) => error.fault(),
            Error::Unconfirmed { .. } | Error::StillWritable { .. } => Fault::Refused,
            Error::Closing { .. } | Error::Lifting(_) => Fault::NotYet,
            Error::Lost(_) => Fault::Transient,
            Error::Unproven { source, .. } => source.fault(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::NoPlan => "run the machine from its first state".to_owned(),
            Error::Unconfirmed { .. } => "start a new run and let that many people approve it".to_owned(),
            Error::Fence(error) => error.remedy(),
            Error::StillWritable { primary, .. } => {
                format!("stop `{primary}` by hand, or request the failover with a recorded consent to `still-writable`")
            }
            Error::Closing { primary, .. } => format!("wait, or end the sessions on `{primary}` by hand"),
            Error::Lifting(_) => "wait; what stays silent is left to you and named in the report".to_owned(),
            Error::Lost(_) => "request it with mode `ungraceful` if the primary is lost".to_owned(),
            Error::Unproven { source, .. } => source.remedy(),
        }
    }
}

/// What the fence is after a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// It is up.
    Closed(Box<Fence>),
    /// It is down, or says why it stays.
    Lifted(FenceLifted),
}

/// Puts the fence up or takes it down.
///
/// # Errors
/// Those of [`close`] and [`lift`].
pub async fn fence_primary(
    request: &Request,
    plan: &Plan,
    world: &World<'_>,
    now: Timestamp,
) -> Result<Response, Error> {
    match request.action {
        Action::Close => close(&request.run, plan, world, now).await.map(|fence| Response::Closed(Box::new(fence))),
        Action::Lift => lift(&request.run, plan, world, now).await.map(Response::Lifted),
    }
}

/// Puts the fence up and proves it.
///
/// # Errors
/// Another run holds the fence, or the old primary is neither closed nor out of reach.
pub async fn close(run: &Run, plan: &Plan, world: &World<'_>, now: Timestamp) -> Result<Fence, Error> {
    let decided = run.plan.as_ref().ok_or(Error::NoPlan)?;
    let missing = recovery::approval::missing(plan, run);
    if missing > 0 {
        return Err(Error::Unconfirmed { missing, needed: plan.failover.approvals });
    }
    let wanted = FenceRecord {
        epoch: decided.epoch,
        run: run.id.clone(),
        state: FenceState::Held,
        from: decided.from.clone(),
        to: decided.to.clone(),
        permit: decided.permit.clone(),
        written_at: now,
    };
    let record = fence::take(world.evidence, &plan.platform, wanted).await?;
    let (database, writers) = tokio::join!(world.primary.close(), stop_writers(plan, world.workloads, record.epoch));
    let proof = match &database {
        // What cannot be reached needs no second time-out to prove it.
        Err(error) if is_out_of_reach(error) => None,
        _ => Some(world.primary.attempt_write(&run.id).await),
    };
    let consent = consent(decided, run);
    let outcome = judge(world.primary.name(), decided.manner, &database, proof.as_ref(), consent.is_some())?;
    Ok(Fence {
        outcome,
        epoch: record.epoch,
        observed_at: proof_time(proof.as_ref()).unwrap_or(now),
        database_unreachable: database.as_ref().err().map(|error| chain(error)),
        database: database.ok(),
        proof: proof.and_then(Result::ok),
        cluster_unreachable: writers.as_ref().err().cloned(),
        writers: writers.ok(),
        consent: consent.filter(|_| outcome == FenceOutcome::StillWritable),
    })
}

/// What the looks add up to. The only place that tells closed, out of reach and still writable apart.
fn judge(
    primary: &str,
    manner: Manner,
    closed: &Result<Closed, DatabaseError>,
    proof: Option<&Result<WriteAttempt, DatabaseError>>,
    consented: bool,
) -> Result<FenceOutcome, Error> {
    match (closed, proof) {
        (_, Some(Ok(WriteAttempt::Accepted { .. }))) if consented => Ok(FenceOutcome::StillWritable),
        (_, Some(Ok(WriteAttempt::Accepted { at }))) => {
            Err(Error::StillWritable { primary: primary.to_owned(), at: *at })
        }
        (Ok(closed), Some(Ok(WriteAttempt::Rejected { .. }))) if closed.sessions_left > 0 => {
            Err(Error::Closing { primary: primary.to_owned(), left: closed.sessions_left })
        }
        (Ok(_), Some(Ok(WriteAttempt::Rejected { .. }))) => Ok(FenceOutcome::Closed),
        // New sessions are refused, but old ones were not ended: not closed yet.
        (Err(error), Some(Ok(WriteAttempt::Rejected { .. }))) => Err(unproven(primary, error)),
        (Err(error), None) => out_of_reach(manner, error),
        (_, Some(Err(error))) if is_out_of_reach(error) => out_of_reach(manner, error),
        (_, Some(Err(error))) => Err(unproven(primary, error)),
        // A server that closed is always asked for a write.
        (Ok(_), None) => Err(Error::Closing { primary: primary.to_owned(), left: 0 }),
    }
}

fn out_of_reach(manner: Manner, error: &DatabaseError) -> Result<FenceOutcome, Error> {
    match manner {
        Manner::Ungraceful => Ok(FenceOutcome::Unreachable),
        Manner::Graceful => Err(Error::Lost(again(error))),
    }
}

fn unproven(primary: &str, error: &DatabaseError) -> Error {
    Error::Unproven { primary: primary.to_owned(), source: again(error) }
}

fn is_out_of_reach(error: &DatabaseError) -> bool {
    matches!(error, DatabaseError::Unreachable { .. } | DatabaseError::TimedOut { .. })
}

/// An error that is kept as evidence and returned as a cause: the same words twice.
fn again(error: &DatabaseError) -> DatabaseError {
    let words = |source: &(dyn std::error::Error + Send + Sync)| chain(source).into();
    match error {
        DatabaseError::Unreachable { server, source } => {
            DatabaseError::Unreachable { server: server.clone(), source: words(source.as_ref()) }
        }
        DatabaseError::TimedOut { server, seconds } => {
            DatabaseError::TimedOut { server: server.clone(), seconds: *seconds }
        }
        DatabaseError::Denied { server, source } => {
            DatabaseError::Denied { server: server.clone(), source: words(source.as_ref()) }
        }
        DatabaseError::Refused { server, why } => DatabaseError::Refused { server: server.clone(), why: why.clone() },
        DatabaseError::Failed { server, doing, source } => {
            DatabaseError::Failed { server: server.clone(), doing, source: words(source.as_ref()) }
        }
    }
}

/// Consent may come with the event or with the approval.
fn consent(decided: &FailoverPlan, run: &Run) -> Option<Consent> {
    let approved = run.approval.iter().flat_map(|approval| &approval.consents);
    decided.incident.consents.iter().chain(approved).find(|consent| consent.to == Risk::StillWritable).cloned()
}

fn proof_time(proof: Option<&Result<WriteAttempt, DatabaseError>>) -> Option<Timestamp> {
    match proof {
        Some(Ok(WriteAttempt::Accepted { at })) => Some(*at),
        _ => None,
    }
}

/// The cluster fence is one of several: where it cannot be reached the others must hold.
async fn stop_writers(plan: &Plan, workloads: &dyn Workloads, epoch: u64) -> Result<Vec<Writer>, String> {
    let limit = plan.failover.look_timeout;
    match tokio::time::timeout(limit.0, workloads.stop_writers(epoch)).await {
        Ok(stopped) => stopped.map_err(|error: ClusterError| chain(&error)),
        Err(_) => Err(format!("no answer within {limit}")),
    }
}

/// Takes the fence down after a run that stopped in time.
///
/// # Errors
/// The fence cannot be read, so nobody can say whether a promotion was asked for.
pub async fn lift(run: &Run, plan: &Plan, world: &World<'_>, now: Timestamp) -> Result<FenceLifted, Error> {
    let nothing = FenceLifted { stays: None, proof: None, writers: Vec::new(), left: Vec::new(), observed_at: now };
    let record = fence::read(world.evidence, &plan.platform).await.map_err(FenceError::from)?;
    // Another run's fence, or none: this run has closed nothing.
    let Some(record) = record.filter(|record| record.run == run.id) else { return Ok(nothing) };
    let stays = || {
        let stays = format!(
            "`{}` was asked to become the primary under epoch {} and may do so at any time; start the run again under the name `{}`",
            plan.postgresql.standby.instance, record.epoch, run.id
        );
        FenceLifted { stays: Some(stays), ..nothing.clone() }
    };
    if !fence::may_become(record.state, FenceState::Lifted) {
        return Ok(stays());
    }
    // First the object, then the server: an attempt to promote that is still under way loses the fence before anything is
    // opened. A lift that is killed in between finds `lifted` and goes on.
    let lifted = match fence::advance(world.evidence, &plan.platform, &run.id, FenceState::Lifted, now).await {
        // Asked for between the two looks, by an attempt that nobody waits for any more.
        Err(FenceError::HeldByAnother(record)) if record.run == run.id => return Ok(stays()),
        lifted => lifted?,
    };
    let given_up_at = lifted.map_or(now, |record| record.written_at);
    let (opened, writers) = tokio::join!(world.primary.open(), world.workloads.restart_writers(record.epoch));
    let proof = match opened {
        Ok(()) => world.primary.attempt_write(&run.id).await,
        Err(error) => Err(error),
    };
    if let Ok(WriteAttempt::Rejected { .. }) = &proof {
        // The setting takes a moment to reach new sessions.
        return Err(Error::Closing { primary: world.primary.name().to_owned(), left: 0 });
    }
    let silent = [
        proof.as_ref().err().filter(|error| may_answer(*error)).map(|error| chain(error)),
        writers.as_ref().err().filter(|error| may_answer(*error)).map(|error| chain(error)),
    ];
    let silent: Vec<String> = silent.into_iter().flatten().collect();
    if !silent.is_empty() && now.duration_since(given_up_at) < LIFT_PATIENCE {
        return Err(Error::Lifting(silent.join("; ")));
    }
    let mut left = Vec::new();
    if let Err(error) = &proof {
        left.push(format!(
            "`{}` was not reached ({}); when it is back, reset default_transaction_read_only on it",
            world.primary.name(),
            chain(error)
        ));
    }
    let writers = writers.unwrap_or_else(|error| {
        left.push(format!(
            "writers in `{}` were not reached ({}); when it is back, give them the replicas of their annotation recovery.sparc/replicas-before",
            plan.kubernetes.primary.name,
            chain(&error)
        ));
        Vec::new()
    });
    Ok(FenceLifted { stays: None, proof: proof.ok(), writers, left, observed_at: now })
}

/// Nothing is wrong with the question, so the next one may be answered.
fn may_answer(error: &dyn Classified) -> bool {
    matches!(error.fault(), Fault::Transient | Fault::NotYet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> DatabaseError {
        DatabaseError::Unreachable { server: "p".to_owned(), source: "connection refused".into() }
    }

    fn denied() -> DatabaseError {
        DatabaseError::Denied { server: "p".to_owned(), source: "28P01".into() }
    }

    #[test]
    fn closed_out_of_reach_and_still_writable_are_told_apart() {
        let closed = |left| Ok(Closed { sessions_ended: 3, sessions_left: left, lsn: recovery::lsn::Lsn(1) });
        let rejected = || Some(Ok(WriteAttempt::Rejected { why: "25006".to_owned() }));
        let accepted = || Some(Ok(WriteAttempt::Accepted { at: Timestamp::UNIX_EPOCH }));
        use Manner::{Graceful, Ungraceful};
        let situations = [
            ("it refuses a write", Graceful, closed(0), rejected(), false, "Closed"),
            ("a session has not ended yet", Graceful, closed(1), rejected(), false, "Recovery.NotYet"),
            ("it takes a write after it was closed", Ungraceful, closed(0), accepted(), false, "Recovery.Refused"),
            ("the same with consent", Ungraceful, closed(0), accepted(), true, "StillWritable"),
            (
                "our role is locked out and services are not",
                Ungraceful,
                Err(denied()),
                accepted(),
                false,
                "Recovery.Refused",
            ),
            (
                "our role is locked out and so are services",
                Ungraceful,
                Err(denied()),
                Some(Err(denied())),
                false,
                "Recovery.Refused",
            ),
            ("nothing answers", Ungraceful, Err(unreachable()), None, false, "Unreachable"),
            (
                "it died between closing and proof",
                Ungraceful,
                closed(0),
                Some(Err(unreachable())),
                false,
                "Unreachable",
            ),
            ("nothing answers in a graceful switch", Graceful, Err(unreachable()), None, false, "Recovery.Transient"),
            ("sessions were not ended", Ungraceful, Err(denied()), rejected(), true, "Recovery.Refused"),
        ];
        for (situation, manner, closed, proof, consented, expected) in situations {
            let judged = match judge("p", manner, &closed, proof.as_ref(), consented) {
                Ok(outcome) => format!("{outcome:?}"),
                Err(error) => error.fault().error_type().to_owned(),
            };
            assert_eq!(judged, expected, "{situation}");
        }
    }
}
