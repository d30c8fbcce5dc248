//! To which moment a restore can go.

use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{BackupStorage, Finding, LOOKS_SECONDS, LogKeeper, LogReach, ManagedLog, Reason, Rung},
    database::{PrimaryPosition, position_key},
    lsn::Lsn,
    notice::utc,
    plan::Plan,
    store::{StoreError, get_json},
};
use recovery_archive::wal::{Expected, SegmentName, Walk};

use super::archive::{self, Archive};
use crate::{Error, World, findings::finding};

/// How many segments are searched for a commit, from the newest back; on an idle server the log is full of other things.
const LOOK_BACK: usize = 8;

/// What the archive of the plan's server is, and where on it the newest log is due.
pub(super) struct Here {
    pub(super) archive: Archive,
    pub(super) timeline: u32,
    /// The primary, if it was seen a moment ago.
    position: Option<PrimaryPosition>,
}

/// Finds the archive of the server that the primary was last seen to be.
///
/// # Errors
/// Storage fails.
pub(super) async fn here(plan: &Plan, world: &World<'_>, now: Timestamp) -> Result<Result<Here, Finding>, StoreError> {
    let kept = get_json::<PrimaryPosition>(world.catalogue.evidence, &position_key(&plan.platform)).await?;
    let kept = kept.map(|(position, _)| position);
    let wal = world.wal;
    let none = |says: String| Ok(Err(finding(Rung::Present, Reason::WalGap, None, says)));
    let systems = archive::systems(wal).await?;
    let system = match (&kept, systems.as_slice()) {
        (Some(position), _) => position.system_identifier.clone(),
        (None, [only]) => only.clone(),
        (None, []) => return none(format!("no log is archived in `s3://{}`", wal.bucket())),
        (None, several) => {
            let says = format!(
                "log of {} systems is archived in `s3://{}`, and which is the plan's is not known: the primary was never seen",
                several.len(),
                wal.bucket()
            );
            return Ok(Err(finding(Rung::Present, Reason::NotChecked, None, says)));
        }
    };
    let archive = Archive::list(wal, &system).await?;
    let Some(newest) = archive.newest_timeline() else {
        return none(format!("no log of system {system} is archived in `s3://{}`", wal.bucket()));
    };
    // Who was seen long ago says nothing of now: after a failover the watcher may not reach the new primary yet.
    let position = kept.filter(|seen| now.duration_since(seen.observed_at) <= SignedDuration::from_secs(LOOKS_SECONDS));
    let seen_on = position.as_ref().map(|position| position.timeline);
    let timeline = seen_on.filter(|timeline| archive.newest_of(*timeline).is_some()).unwrap_or(newest);
    Ok(Ok(Here { archive, timeline, position }))
}

/// How far an archive reaches: the newest commit in it, or further if the primary has written no more than that.
///
/// The time at which a segment arrived says nothing: after an outage the archive catches up, and what arrives now is old.
///
/// # Errors
/// Storage fails.
pub(super) async fn of_archive(
    run: &str,
    plan: &Plan,
    world: &World<'_>,
    now: Timestamp,
) -> Result<LogReach, StoreError> {
    let mut reach = LogReach {
        observed_at: now,
        by: run.to_owned(),
        keeper: LogKeeper::Archive(world.wal.bucket().to_owned()),
        reaches_to: None,
        reaches_from: None,
        segment: None,
        missing_bytes: None,
        findings: Vec::new(),
    };
    let Here { archive, timeline, position } = match here(plan, world, now).await? {
        Ok(here) => here,
        Err(found) => {
            reach.findings.push(found);
            return Ok(reach);
        }
    };
    if let Some((file, since)) = position.as_ref().and_then(|seen| seen.archiver.as_ref()?.stuck_on()) {
        reach.findings.push(Finding {
            rung: Rung::Present,
            reason: Reason::Stale,
            artifact: None,
            says: format!("the primary cannot archive `{file}`, last tried at {}", utc(since)),
            remedy: "read the lines of `drctl:` in its log; it keeps what it cannot archive until its disk is full"
                .to_owned(),
        });
    }
    if let Some(end) = newest_commit(world.wal, &archive, timeline, &mut reach).await? {
        let seen = position.filter(|seen| seen.timeline == timeline);
        reach.missing_bytes = seen.as_ref().map(|seen| seen.lsn.0.saturating_sub(end.0));
        if let Some(seen) = seen.filter(|_| reach.missing_bytes == Some(0)) {
            reach.reaches_to = reach.reaches_to.max(Some(seen.observed_at));
        }
    }
    Ok(reach)
}

/// Finds the newest commit and notes it; says where the newest segment that is whole ends.
async fn newest_commit(
    wal: &dyn BackupStorage,
    archive: &Archive,
    timeline: u32,
    reach: &mut LogReach,
) -> Result<Option<Lsn>, StoreError> {
    let history = match archive.history(wal, timeline).await? {
        Ok(history) => history,
        Err(found) => {
            reach.findings.push(found);
            return Ok(None);
        }
    };
    let names: Vec<SegmentName> =
        archive.segments.keys().rev().filter(|name| name.timeline == timeline).take(LOOK_BACK).copied().collect();
    let mut end = None;
    for name in names {
        let expected =
            Expected { system_identifier: archive.system.parse().ok(), major: None, history: Some(history.clone()) };
        let (walk, wrong) = archive.walk(wal, name, Walk::new(expected)).await?;
        reach.findings.extend(wrong);
        let Some(followed) = walk.map(|walk| walk.followed()) else { continue };
        if end.is_none() {
            end = followed.segment_bytes.map(|bytes| Lsn(name.start(bytes).0 + bytes));
            reach.segment = Some(name.to_string());
        }
        if followed.committed_at.is_some() {
            reach.reaches_to = followed.committed_at;
            break;
        }
    }
    Ok(end)
}

/// How far RDS can restore.
///
/// # Errors
/// It does not answer.
pub(super) async fn of_managed(run: &str, managed: &dyn ManagedLog, now: Timestamp) -> Result<LogReach, Error> {
    let restorable = managed.restorable().await?;
    let off = restorable.to.is_none().then(|| Finding {
        rung: Rung::Present,
        reason: Reason::Missing,
        artifact: None,
        says: format!("RDS can restore `{}` to no moment: automated backups are off", managed.name()),
        remedy: "set its backup retention period to at least a day".to_owned(),
    });
    Ok(LogReach {
        observed_at: now,
        by: run.to_owned(),
        keeper: LogKeeper::Rds(managed.name().to_owned()),
        reaches_to: restorable.to,
        reaches_from: restorable.from,
        segment: None,
        missing_bytes: None,
        findings: off.into_iter().collect(),
    })
}
