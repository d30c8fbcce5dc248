//! Snapshots that RDS keeps for a backup, instead of artifacts.
//!
//! Nobody can read one, so what proves it is what RDS says of it in the region that it was copied to. More is proven by
//! restoring it. Manual snapshots stay until somebody deletes them, so those of expired backups are deleted here: a day after
//! the mark, and only while a newer backup is proven.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{
        ArtifactProof, BackupId, BackupManifest, Finding, Kind, Known, Reason, Rung, Snapshot, SnapshotCopy,
        SnapshotShelf, Source,
    },
    fault::chain,
    plan::Plan,
    store::get_json,
};

use crate::{Error, Retained, World, findings::finding};

/// The highest rung that asking reaches.
pub(crate) const HIGHEST: Rung = Rung::Present;
/// Time between the mark and the removal: S3 has its lifecycle's days, and somebody may still object here too.
const GRACE: SignedDuration = SignedDuration::from_hours(24);
/// The most snapshots that one call deletes; the next one takes the rest.
const MOST: usize = 100;
/// Whom RDS calls everybody.
const EVERYBODY: &str = "all";

/// Asks for every snapshot of a manifest.
///
/// # Errors
/// RDS does not answer: nothing is known of them then.
pub(crate) async fn prove(
    manifest: &BackupManifest,
    asked: Rung,
    world: &World<'_>,
) -> Result<Vec<ArtifactProof>, Error> {
    let Source::PostgreSql { instance, snapshots, .. } = &manifest.source else { return Ok(Vec::new()) };
    let mut proofs = Vec::new();
    for copy in snapshots {
        let findings = match shelf(copy.region.code(), world) {
            None => {
                let says = format!("the plan's server is not one of RDS, so nobody asks for it in {}", copy.region);
                vec![finding(Rung::Present, Reason::NotChecked, Some(&copy.arn), says)]
            }
            Some(shelf) => look(manifest, instance, copy, shelf).await?,
        };
        let rung = findings.is_empty().then_some(Rung::Present);
        proofs.push(ArtifactProof { key: copy.arn.clone(), rung, asked, read_bytes: 0, findings });
    }
    Ok(proofs)
}

fn shelf<'a>(region: &str, world: &World<'a>) -> Option<&'a dyn SnapshotShelf> {
    world.snapshots.iter().find(|shelf| shelf.region() == region).copied()
}

async fn look(
    manifest: &BackupManifest,
    instance: &str,
    copy: &SnapshotCopy,
    shelf: &dyn SnapshotShelf,
) -> Result<Vec<Finding>, Error> {
    let id = name(&copy.arn);
    let Some(seen) = shelf.find(id).await? else {
        let says = format!("the snapshot `{id}` is not in {}: somebody deleted it", copy.region);
        return Ok(vec![Finding {
            remedy: format!("take a new backup now; ask CloudTrail in {} who deleted `{id}`", copy.region),
            ..finding(Rung::Present, Reason::Missing, Some(&copy.arn), says)
        }]);
    };
    let mut findings = compare(manifest, instance, copy, &seen);
    let others = shelf.shared_with(id).await?;
    if others.iter().any(|other| other == EVERYBODY) {
        let says = format!("the snapshot `{id}` is public: everybody may restore it");
        findings.push(finding(Rung::Present, Reason::Exposed, Some(&copy.arn), says));
    } else if !others.is_empty() {
        let says = format!("the snapshot `{id}` may be restored by the accounts {}", others.join(", "));
        findings.push(finding(Rung::Present, Reason::Exposed, Some(&copy.arn), says));
    }
    Ok(findings)
}

/// The last part of an ARN.
fn name(arn: &str) -> &str {
    arn.rsplit_once(':').map_or(arn, |(_, name)| name)
}

/// What RDS says beside what was written.
fn compare(manifest: &BackupManifest, instance: &str, copy: &SnapshotCopy, seen: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |reason, says: String| findings.push(finding(Rung::Present, reason, Some(&copy.arn), says));
    if seen.arn != copy.arn {
        found(Reason::OtherContent, format!("there is `{}` under its name, written was `{}`", seen.arn, copy.arn));
    }
    if !seen.is_whole() {
        found(Reason::Unusable, format!("RDS says that it is {}, {} %", seen.status, seen.percent));
    }
    match &seen.kms_key {
        None => found(Reason::Protection, "it is not encrypted".to_owned()),
        Some(key) if *key != copy.kms_key => {
            found(Reason::Protection, format!("it is under the key `{key}`, written was `{}`", copy.kms_key));
        }
        Some(_) => {}
    }
    let of = name(instance);
    if seen.of != of {
        found(Reason::OtherContent, format!("it is of `{}`, the backup is of `{of}`", seen.of));
    }
    if seen.engine_version != manifest.tool.version {
        let (is, was) = (&seen.engine_version, &manifest.tool.version);
        found(Reason::OtherContent, format!("it is of version {is}, written was {was}"));
    }
    if seen.allocated_gib != copy.allocated_gib {
        let (is, was) = (seen.allocated_gib, copy.allocated_gib);
        found(Reason::OtherContent, format!("it is of {is} GiB of storage, written was {was}"));
    }
    if let Some(taken_at) = seen.taken_at.filter(|taken_at| *taken_at != copy.taken_at) {
        found(Reason::OtherContent, format!("it was taken at {taken_at}, written was {}", copy.taken_at));
    }
    if seen.backup().as_ref() != Some(&manifest.id) {
        found(Reason::OtherContent, format!("its tags do not say that it is of `{}`", manifest.id));
    }
    findings
}

/// Deletes the snapshots of backups that were marked to expire, and those that no backup came of. What cannot be deleted now
/// is told, and deleted by a later call.
///
/// # Errors
/// The evidence cannot be read.
pub(crate) async fn remove(
    at: Timestamp,
    plan: &Plan,
    world: &World<'_>,
    retained: &mut Retained,
) -> Result<(), Error> {
    let Some(policy) = plan.backups.policy(Kind::Snapshot) else { return Ok(()) };
    let kept = SignedDuration::from_hours(24 * i64::from(policy.retention_days));
    let mut subjects: BTreeMap<String, (Vec<Known>, Option<BackupId>)> = BTreeMap::new();
    for shelf in world.snapshots {
        let snapshots = match shelf.ours().await {
            Ok(snapshots) => snapshots,
            Err(error) => {
                leave(retained, chain(&error));
                continue;
            }
        };
        for snapshot in snapshots {
            let Some(backup) = snapshot.backup().filter(|backup| backup.kind == Kind::Snapshot) else { continue };
            if !subjects.contains_key(&backup.subject) {
                let known = world.catalogue.known(Kind::Snapshot, &backup.subject).await?;
                let proven = world.catalogue.newest_usable(&known, policy.proven_to).await?;
                subjects.insert(backup.subject.clone(), (known, proven.map(|proven| proven.verified.backup)));
            }
            let Some((known, proven)) = subjects.get(&backup.subject) else { continue };
            // Asked again at the moment of deletion: what was proven when it was marked may be bad by now.
            if proven.as_ref().is_none_or(|proven| proven.due_at <= backup.due_at) {
                continue;
            }
            let may_go = match known.iter().find(|known| known.backup == backup) {
                Some(known) if known.complete => false,
                Some(known) if known.expired => {
                    was_marked(&backup, world).await?.is_some_and(|then| then + GRACE <= at)
                }
                // Nothing was ever published of it: the copy failed, or its run gave up.
                Some(_) | None => at.duration_since(backup.due_at) > kept,
            };
            if !may_go || retained.removed.len() >= MOST {
                continue;
            }
            match shelf.delete(&snapshot.id).await {
                Ok(()) => {
                    tracing::info!(snapshot.arn, backup = %backup, "deleted the snapshot `{}`", snapshot.arn);
                    retained.removed.push(snapshot.arn);
                }
                Err(error) => leave(retained, chain(&error)),
            }
        }
    }
    Ok(())
}

fn leave(retained: &mut Retained, why: String) {
    tracing::warn!("snapshots are left: {why}");
    retained.left.push(why);
}

/// When a backup was marked to expire.
async fn was_marked(backup: &BackupId, world: &World<'_>) -> Result<Option<Timestamp>, Error> {
    let note = get_json::<BTreeMap<String, Timestamp>>(world.catalogue.evidence, &backup.expired_key()).await?;
    Ok(note.and_then(|(note, _)| note.get(crate::retain::MARKED_AT).copied()))
}
