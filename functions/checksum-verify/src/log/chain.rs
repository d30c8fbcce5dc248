//! The segments that lead from the newest proven base backup to the newest moment, followed record by record.

use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{BackupId, Catalogue, Finding, Kind, LogChain, LogCursor, Policy, Reason, Rung, Source, log_chain_key},
    lsn::Lsn,
    plan::Plan,
    store::{StoreError, get_json},
};
use recovery_archive::wal::{Expected, History, SegmentName, Walk, segments};

use super::{
    archive::Archive,
    reach::{Here, here},
};
use crate::{World, findings::finding, prove};

/// Where a restore begins.
struct Base {
    backup: BackupId,
    system: String,
    timeline: u32,
    from: Lsn,
}

/// Follows the archive as far as one call may, from where the last look ended. Says how many segments are left.
///
/// # Errors
/// Storage fails.
pub(super) async fn follow(
    run: &str,
    policy: &Policy,
    plan: &Plan,
    world: &World<'_>,
    now: Timestamp,
) -> Result<(LogChain, u64), StoreError> {
    let before = get_json::<LogChain>(world.catalogue.evidence, &log_chain_key(policy.kind.subject(plan))).await?;
    let before = before.map(|(chain, _)| chain);
    let mut chain = LogChain {
        observed_at: now,
        by: run.to_owned(),
        base: None,
        proven_at: before.as_ref().and_then(|chain| chain.proven_at),
        needed: 0,
        findings: Vec::new(),
        cursor: before.and_then(|chain| chain.cursor),
    };
    let Some(base) = newest_proven_base(plan, world).await? else {
        let says = "no base backup is proven, so the log leads on from nothing".to_owned();
        chain.findings.push(finding(Rung::Present, Reason::Missing, None, says));
        return Ok((chain, 0));
    };
    chain.base = Some(base.backup.clone());
    match needed(&base, plan, world, now).await? {
        Err(found) => chain.findings.push(found),
        Ok(needed) => {
            chain.needed = needed.names.len() as u64;
            let gap = needed.gap();
            if gap.is_some() {
                chain.findings.extend(gap);
            } else if policy.proven_to < Rung::Structure {
                chain.proven_at = Some(now);
            } else {
                return walk(chain, &needed, &base, policy, world, now).await;
            }
        }
    }
    Ok((chain, 0))
}

/// The newest base backup that restore would take.
async fn newest_proven_base(plan: &Plan, world: &World<'_>) -> Result<Option<Base>, StoreError> {
    let Some(policy) = plan.backups.policy(Kind::Physical) else { return Ok(None) };
    let catalogue: Catalogue<'_> = world.catalogue;
    let known = catalogue.known(Kind::Physical, Kind::Physical.subject(plan)).await?;
    let Some(proven) = catalogue.newest_usable(&known, policy.proven_to.min(prove::HIGHEST)).await? else {
        return Ok(None);
    };
    let backup = proven.verified.backup;
    let looked = prove::manifest(&backup, plan, world).await?;
    let Some(manifest) = looked.manifest else { return Ok(None) };
    match manifest.source {
        Source::PostgreSql {
            system_identifier: Some(system), timeline: Some(timeline), from_lsn: Some(from), ..
        } => Ok(Some(Base { backup, system, timeline, from })),
        _ => Ok(None),
    }
}

/// What a restore from a base backup asks the archive for.
struct Needed {
    archive: Archive,
    history: History,
    timeline: u32,
    segment_bytes: u64,
    names: Vec<SegmentName>,
}

impl Needed {
    /// The first segment that is not there.
    fn gap(&self) -> Option<Finding> {
        let mut missing = self.names.iter().filter(|name| !self.archive.segments.contains_key(name));
        let first = missing.next()?;
        let (more, all) = (missing.count(), self.names.len());
        let says = format!("the segment `{first}` is not archived, and {more} more of {all}; a restore ends before it");
        Some(finding(Rung::Present, Reason::WalGap, Some(&self.archive.key(*first)), says))
    }
}

async fn needed(
    base: &Base,
    plan: &Plan,
    world: &World<'_>,
    now: Timestamp,
) -> Result<Result<Needed, Finding>, StoreError> {
    let Here { archive, timeline, .. } = match here(plan, world, now).await? {
        Ok(here) => here,
        Err(found) => return Ok(Err(found)),
    };
    if archive.system != base.system {
        let Base { backup, system, .. } = base;
        let says = format!("`{backup}` is of system {system}, and the log that is archived is of {}", archive.system);
        return Ok(Err(finding(Rung::Present, Reason::WalForeign, None, says)));
    }
    let timeline = timeline.max(base.timeline);
    let history = match archive.history(world.wal, timeline).await? {
        Ok(history) => history,
        Err(found) => return Ok(Err(found)),
    };
    if timeline != base.timeline && history.left_at(base.timeline).is_none_or(|left| left < base.from) {
        let Base { backup, timeline: own, .. } = base;
        let says = format!("`{backup}` is of timeline {own}, from which the log of timeline {timeline} does not come");
        return Ok(Err(finding(Rung::Present, Reason::WalForeign, None, says)));
    }
    let Some(newest) = archive.newest_of(timeline) else {
        let says = format!("no log of timeline {timeline} is archived");
        return Ok(Err(finding(Rung::Present, Reason::WalGap, None, says)));
    };
    let segment_bytes = match archive.segment_bytes(world.wal, newest).await? {
        Ok(bytes) => bytes,
        Err(found) => return Ok(Err(found)),
    };
    let end = Lsn(newest.start(segment_bytes).0 + segment_bytes);
    let names = segments(&history, timeline, base.from, end, segment_bytes).collect();
    Ok(Ok(Needed { archive, history, timeline, segment_bytes, names }))
}

/// Where a walk goes on, or that it begins anew.
fn cursor(chain: &LogChain, needed: &Needed, base: &Base, policy: &Policy, now: Timestamp) -> LogCursor {
    let anew = LogCursor {
        system_identifier: base.system.clone(),
        timeline: needed.timeline,
        segment_bytes: needed.segment_bytes,
        began_at: now,
        from: base.from,
        next: base.from,
        segments: 0,
        newest_object: None,
    };
    let Some(mut cursor) = chain.cursor.clone() else { return anew };
    // What was read long ago may have been damaged since.
    let again = SignedDuration::from_secs_f64(policy.proven_within.seconds() / 2.0);
    let is_usable = cursor.system_identifier == anew.system_identifier
        && cursor.segment_bytes == anew.segment_bytes
        && (cursor.from..=cursor.next).contains(&base.from)
        && now.duration_since(cursor.began_at) < again;
    if !is_usable {
        return anew;
    }
    if cursor.timeline != needed.timeline {
        // What was followed behind the fork is of a branch that is no longer ours.
        match needed.history.left_at(cursor.timeline) {
            Some(left) => cursor.next = cursor.next.min(left),
            None => return anew,
        }
        cursor.timeline = needed.timeline;
    }
    let written_since =
        needed.names.iter().map(|name| (name.start(needed.segment_bytes), name)).find(|(start, name)| {
            *start < cursor.next
                && needed.archive.segments.get(name).is_some_and(|place| place.modified_at > cursor.newest_object)
        });
    if let Some((start, _)) = written_since {
        // From the segment before it, so that its first record is seen behind the one before.
        let before = Lsn(start.0.saturating_sub(needed.segment_bytes));
        cursor.next = cursor.next.min(before.max(cursor.from));
    }
    if cursor.next < base.from { anew } else { cursor }
}

/// Follows the needed segments from the cursor on.
async fn walk(
    mut chain: LogChain,
    needed: &Needed,
    base: &Base,
    policy: &Policy,
    world: &World<'_>,
    now: Timestamp,
) -> Result<(LogChain, u64), StoreError> {
    let mut cursor = cursor(&chain, needed, base, policy, now);
    let bytes = needed.segment_bytes;
    let due: Vec<SegmentName> =
        needed.names.iter().filter(|name| name.start(bytes).0 + bytes > cursor.next.0).copied().collect();
    // The first one was read before, but for the end of its last record.
    let most = usize::try_from(world.log_budget_bytes / bytes).unwrap_or(usize::MAX).max(2);
    let expected =
        Expected { system_identifier: base.system.parse().ok(), major: None, history: Some(needed.history.clone()) };
    let mut walk = Walk::new(expected);
    for name in due.iter().take(most) {
        let (after, wrong) = needed.archive.walk(world.wal, *name, walk).await?;
        let Some(after) = after else {
            chain.findings.extend(wrong);
            chain.cursor = Some(cursor);
            return Ok((chain, 0));
        };
        walk = after;
        cursor.segments += 1;
        // A record that began before the first segment of this walk is no place to go on from.
        cursor.next = walk.followed().last.map_or(cursor.next, |last| last.max(cursor.next));
        let read = needed.archive.segments.get(name).and_then(|place| place.modified_at);
        cursor.newest_object = cursor.newest_object.max(read);
    }
    let left = due.len().saturating_sub(most) as u64;
    if left == 0 {
        chain.proven_at = Some(now);
    }
    chain.cursor = Some(cursor);
    Ok((chain, left))
}
