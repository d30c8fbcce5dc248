//! The fence object: who may act on the platform, under which epoch, and how far it went.
//!
//! One object in the evidence bucket is fence and lease in one. It is written only under a condition, so of two runs one
//! is refused; it outlives both engines, so a failover that moved from Step Functions to a laptop still holds it; and it
//! carries the permit, so a repeated run promotes what the first one was allowed to promote and nothing else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    fault::{Classified, Fault},
    permit::Permit,
    plan::Region,
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
};

/// The fence as it stands in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceRecord {
    /// Rises by one with every run that takes it.
    pub epoch: u64,
    /// The run that holds it.
    pub run: String,
    /// How far it went.
    pub state: FenceState,
    /// The region that may not write any more.
    pub from: Region,
    /// The region that takes over.
    pub to: Region,
    /// What may be promoted under this epoch.
    pub permit: Permit,
    /// When this state was written.
    pub written_at: Timestamp,
}

/// How far a run went with the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FenceState {
    /// A run is at work; no other may start.
    Held,
    /// A promotion was asked for and may happen at any time: the point of no return.
    Promoting,
    /// The database has moved: the fence stays until a failback.
    Moved,
    /// The run ended before the point of no return and put everything back.
    Lifted,
}

/// Key of the fence object in the evidence bucket.
pub fn key(platform: &str) -> String {
    format!("fence/{platform}.json")
}

/// What a run may do with the fence as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody holds it: take it under this epoch.
    Take(u64),
    /// This run holds it already, from an earlier attempt.
    Held(Box<FenceRecord>),
    /// Another run holds it, or the platform has already moved.
    Refused(Box<FenceRecord>),
}

/// Decides what `run` may do with the fence.
pub fn claim(existing: Option<&FenceRecord>, run: &str) -> Claim {
    match existing {
        None => Claim::Take(1),
        Some(record) if record.run == run && record.state != FenceState::Lifted => {
            Claim::Held(Box::new(record.clone()))
        }
        Some(record) if record.state == FenceState::Lifted => Claim::Take(record.epoch + 1),
        Some(record) => Claim::Refused(Box::new(record.clone())),
    }
}

/// Whether a fence in one state may come into another. A lifted fence is nobody's any more: an attempt that comes late must
/// not promote under it. Once a promotion is asked for, the only way is forward: an attempt to lift that comes late must not
/// open the old primary.
pub fn may_become(state: FenceState, wanted: FenceState) -> bool {
    match (state, wanted) {
        (FenceState::Held, FenceState::Promoting | FenceState::Lifted) => true,
        (FenceState::Promoting, FenceState::Moved) => true,
        (state, wanted) => state == wanted,
    }
}

/// Reads the fence.
///
/// # Errors
/// The store's.
pub async fn read(store: &dyn ObjectStore, platform: &str) -> Result<Option<FenceRecord>, StoreError> {
    Ok(get_json(store, &key(platform)).await?.map(|(record, _)| record))
}

/// Takes the fence for a run, or finds that the run has it.
///
/// # Errors
/// Another run holds it, or the store cannot say.
pub async fn take(store: &dyn ObjectStore, platform: &str, wanted: FenceRecord) -> Result<FenceRecord, FenceError> {
    let existing = get_json::<FenceRecord>(store, &key(platform)).await?;
    match claim(existing.as_ref().map(|(record, _)| record), &wanted.run) {
        Claim::Held(record) => Ok(*record),
        Claim::Refused(record) => Err(FenceError::HeldByAnother(record)),
        Claim::Take(epoch) => {
            let record = FenceRecord { epoch, state: FenceState::Held, ..wanted };
            let precondition = existing.map_or(Precondition::Absent, |(_, etag)| Precondition::Unchanged(etag));
            put_json(store, &key(platform), &record, precondition).await?;
            Ok(record)
        }
    }
}

/// Moves the fence of a run to another state; already there is success.
///
/// # Errors
/// The run does not hold it, or the store cannot say.
pub async fn advance(
    store: &dyn ObjectStore,
    platform: &str,
    run: &str,
    state: FenceState,
    now: Timestamp,
) -> Result<Option<FenceRecord>, FenceError> {
    let Some((record, etag)) = get_json::<FenceRecord>(store, &key(platform)).await? else { return Ok(None) };
    if record.run != run || !may_become(record.state, state) {
        return Err(FenceError::HeldByAnother(Box::new(record)));
    }
    if record.state == state {
        return Ok(Some(record));
    }
    let record = FenceRecord { state, written_at: now, ..record };
    put_json(store, &key(platform), &record, Precondition::Unchanged(etag)).await?;
    Ok(Some(record))
}

/// The fence could not be taken or moved.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// One failover at a time.
    #[error("run `{}` holds the fence under epoch {} ({:?} since {})", .0.run, .0.epoch, .0.state, .0.written_at)]
    HeldByAnother(Box<FenceRecord>),
    /// The bucket failed.
    #[error("the fence object cannot be used")]
    Store(#[from] StoreError),
}

impl Classified for FenceError {
    fn fault(&self) -> Fault {
        match self {
            FenceError::HeldByAnother(_) => Fault::Refused,
            FenceError::Store(error) => error.fault(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            FenceError::HeldByAnother(record) if record.state == FenceState::Moved => {
                format!("`{}` already carries the platform; to go back, run the failback", record.to)
            }
            FenceError::HeldByAnother(record) => {
                format!("look at `drctl status {}` and end that run first", record.run)
            }
            FenceError::Store(error) => error.remedy(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(run: &str, state: FenceState) -> FenceRecord {
        let region = |code: &str| Region::try_from(code.to_owned()).unwrap();
        FenceRecord {
            epoch: 7,
            run: run.to_owned(),
            state,
            from: region("us-east-1"),
            to: region("us-west-2"),
            permit: Permit { system_identifier: "1".to_owned(), timeline: 1, replay_to: crate::lsn::Lsn(0) },
            written_at: Timestamp::UNIX_EPOCH,
        }
    }

    proptest! {
        /// Whatever runs do, however late: epochs never go back, a promotion that was asked for is never forgotten, and a
        /// fence changes hands only when it was lifted.
        #[test]
        fn a_fence_only_goes_forward(steps in proptest::collection::vec((0..2usize, 0..4usize), 1..60)) {
            let (runs, mut fence) = (["a", "b"], None::<FenceRecord>);
            for (run, step) in steps {
                let (run, before) = (runs[run], fence.clone());
                let wanted = [None, Some(FenceState::Promoting), Some(FenceState::Moved), Some(FenceState::Lifted)][step];
                match (wanted, claim(fence.as_ref(), run), &mut fence) {
                    (None, Claim::Take(epoch), fence) => {
                        *fence = Some(FenceRecord { epoch, ..record(run, FenceState::Held) });
                    }
                    (Some(wanted), _, Some(held)) if held.run == run && may_become(held.state, wanted) => {
                        held.state = wanted;
                    }
                    _ => {}
                }
                let (Some(before), Some(after)) = (before, &fence) else { continue };
                prop_assert!(after.epoch >= before.epoch);
                prop_assert!(after.run == before.run || before.state == FenceState::Lifted);
                if matches!(before.state, FenceState::Promoting | FenceState::Moved) {
                    prop_assert!(matches!(after.state, FenceState::Promoting | FenceState::Moved));
                    prop_assert!(!(before.state == FenceState::Moved && after.state == FenceState::Promoting));
                }
            }
        }
    }

    #[test]
    fn one_failover_at_a_time() {
        let situations = [
            ("nobody has ever taken it", None, "take 1"),
            ("this run took it and its answer was lost", Some(record("a", FenceState::Held)), "held"),
            ("this run has asked for the promotion", Some(record("a", FenceState::Promoting)), "held"),
            ("this run has promoted already", Some(record("a", FenceState::Moved)), "held"),
            ("another run is at work", Some(record("b", FenceState::Held)), "refused"),
            ("the platform has already moved", Some(record("b", FenceState::Moved)), "refused"),
            ("another run put everything back", Some(record("b", FenceState::Lifted)), "take 8"),
            ("this run put everything back and is tried again", Some(record("a", FenceState::Lifted)), "take 8"),
        ];
        for (situation, existing, expected) in situations {
            let claimed = match claim(existing.as_ref(), "a") {
                Claim::Take(epoch) => format!("take {epoch}"),
                Claim::Held(_) => "held".to_owned(),
                Claim::Refused(_) => "refused".to_owned(),
            };
            assert_eq!(claimed, expected, "{situation}");
        }
    }
}
