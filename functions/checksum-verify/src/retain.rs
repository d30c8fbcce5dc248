//! Marks what may expire, and never the last proven one of a subject.
//!
//! No object is deleted here: a lifecycle rule of the bucket expires objects with the tag, and Object Lock keeps their versions
//! until their date. What has no tag never expires. Snapshots of RDS have no lifecycle, so those are deleted, a day later.

use std::collections::BTreeMap;

use jiff::Timestamp;
use recovery::{
    backup::{BackupId, Kind, may_expire},
    plan::Plan,
    store::{Precondition, StoreError, put_json},
};
use serde::{Deserialize, Serialize};

use crate::{Error, World, snapshots};

/// The tag that the lifecycle rule looks for.
pub const RETENTION_TAG: &str = "recovery-retention";
/// Its value.
pub const EXPIRED: &str = "expired";
/// The field of the note in the evidence bucket.
pub(crate) const MARKED_AT: &str = "marked_at";
/// The most backups of one call; the next one takes the rest.
const MOST: usize = 100;

/// What may expire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retained {
    /// Marked by this call.
    pub expired: Vec<BackupId>,
    /// Kept although they are too old, because nothing newer is proven; a kind and a subject each.
    pub kept: Vec<String>,
    /// Snapshots that were deleted, by ARN.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Why snapshots were left that should have been deleted; the next call tries again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

pub(crate) async fn retain(at: Timestamp, plan: &Plan, world: &World<'_>) -> Result<Retained, Error> {
    let mut retained = Retained::default();
    for policy in &plan.backups.policies {
        for subject in world.catalogue.subjects(policy.kind).await? {
            let known = world.catalogue.known(policy.kind, &subject).await?;
            let usable = world.catalogue.newest_usable(&known, policy.proven_to).await?;
            let proven = usable.as_ref().map(|proven| &proven.verified.backup);
            let room = MOST.saturating_sub(retained.expired.len());
            for one in may_expire(policy, &known, proven, at).into_iter().take(room) {
                expire(&one.backup, at, world).await?;
                retained.expired.push(one.backup.clone());
            }
            let kept = |one: &BackupId| {
                let days = at.duration_since(one.due_at).as_hours() / 24;
                days > i64::from(policy.retention_days)
            };
            let has_old = known.iter().filter(|one| one.complete).any(|one| kept(&one.backup));
            if proven.is_none() && has_old || proven.is_some_and(kept) {
                retained.kept.push(label(policy.kind, &subject));
            }
        }
    }
    snapshots::remove(at, plan, world, &mut retained).await?;
    Ok(retained)
}

fn label(kind: Kind, subject: &str) -> String {
    format!("{kind}/{subject}")
}

/// Tags every object in the folder of a backup, the manifest last, and notes that in the evidence bucket.
async fn expire(backup: &BackupId, at: Timestamp, world: &World<'_>) -> Result<(), Error> {
    let (folder, manifest) = (backup.folder(), backup.manifest_key());
    let mut next = None;
    loop {
        let page = world.backups.list(&folder, None, next.as_deref()).await?;
        for object in page.objects.iter().filter(|object| object.key != manifest) {
            mark(&object.key, world).await?;
        }
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    mark(&manifest, world).await?;
    let note = BTreeMap::from([(MARKED_AT, at)]);
    match put_json(world.catalogue.evidence, &backup.expired_key(), &note, Precondition::Absent).await {
        // An earlier attempt got so far.
        Ok(()) | Err(StoreError::PreconditionFailed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Adds the tag to those that an object has; one that has gone needs none.
async fn mark(key: &str, world: &World<'_>) -> Result<(), Error> {
    let Some(mut tags) = world.backups.tags(key, None).await? else { return Ok(()) };
    if tags.insert(RETENTION_TAG.to_owned(), EXPIRED.to_owned()).as_deref() != Some(EXPIRED) {
        world.backups.tag(key, None, &tags).await?;
    }
    Ok(())
}
