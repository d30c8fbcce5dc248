//! One backup, from the note that it is begun to its receipt.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{
        BackupId, BackupManifest, Encoding, Keeping, MANIFEST_VERSION, ManifestProblem, Outcome, Phase, Policy,
        Protection, Receipt,
    },
    fault::{Classified, Fault},
    plan::{Plan, StorageClass},
    store::{Precondition, StoreError, get_json, put_json},
};
use recovery_datapath::{Made, Options, Parts, Produced, Sink, sha256, store};
use tracing::info;

use crate::{
    Error, World,
    progress::{Held, SILENCE_SECONDS},
};

/// Time between two signs of life.
const SIGN: Duration = Duration::from_secs(SILENCE_SECONDS.unsigned_abs() / 3);

pub(crate) async fn take(run: &str, backup: &BackupId, plan: &Plan, world: &World<'_>) -> Result<Outcome, Error> {
    let kind = backup.kind;
    let policy = plan.backups.policy(kind).ok_or(Error::NotPlanned { kind })?;
    let planned = kind.subject(plan);
    if backup.subject != planned {
        let (found, planned) = (backup.subject.clone(), planned.to_owned());
        return Err(Error::OtherSubject { backup: backup.clone(), found, planned });
    }
    if let Some(done) = complete(backup, world).await? {
        return Ok(done);
    }
    let taker = world.takers.get(&kind).ok_or(Error::NoTaker { kind })?;
    let mut held = Held::take(world.evidence, backup, run, (world.now)()).await?;
    let manifest = match held.progress.manifest.clone() {
        Some(manifest) => manifest,
        None => {
            let protection = protection(backup, policy, plan);
            let keeping = keeping(backup, policy, &protection);
            if let Err(error) = held.keep(&*world.parts, &keeping, (world.now)()).await {
                held.let_go().await;
                return Err(error);
            }
            let sink = Sink::new(backup, world.parts.clone(), plan.backups.encoding, keeping, world.within);
            let made = alive(taker.take(backup, &sink), &mut held, world).await;
            let made = match made {
                Ok(Ok(made)) => made,
                Ok(Err(source)) => {
                    held.let_go().await;
                    return Err(Error::Take { backup: backup.clone(), source });
                }
                Err(error) => return Err(error),
            };
            let manifest = manifest(backup, plan, &held, made, sink, protection, (world.now)());
            held.renew((world.now)(), Some(manifest.clone())).await?;
            manifest
        }
    };
    publish(&manifest, world).await?;
    let outcome = outcome(&manifest, false);
    info!(
        backup = %backup,
        backup.plain_bytes = outcome.plain_bytes,
        backup.stored_bytes = outcome.stored_bytes,
        backup.seconds = outcome.took_seconds,
        "the backup `{backup}` is complete"
    );
    Ok(outcome)
}

/// What an earlier attempt has completed.
async fn complete(backup: &BackupId, world: &World<'_>) -> Result<Option<Outcome>, Error> {
    let Some((receipt, _)) = get_json::<Receipt>(world.evidence, &backup.receipt_key()).await? else { return Ok(None) };
    let unreadable = |source| Error::Unreadable { backup: backup.clone(), source };
    let form = |text: &str| unreadable(ManifestProblem::Form(text.to_owned()));
    let object = world.backups.get(&backup.manifest_key()).await?;
    let object = object.ok_or_else(|| form("there is a receipt and no manifest"))?;
    if sha256(&object.body) != receipt.manifest_sha256 {
        return Err(form("it is not the one that the receipt names"));
    }
    let manifest = BackupManifest::read(&object.body, backup).map_err(unreadable)?;
    Ok(Some(outcome(&manifest, true)))
}

/// Runs something that may take long, and gives signs of life meanwhile. That somebody else took over ends it.
async fn alive<T>(work: impl Future<Output = T>, held: &mut Held<'_>, world: &World<'_>) -> Result<T, Error> {
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(SIGN, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => match held.renew((world.now)(), None).await {
                Err(error) if error.fault() != Fault::Transient || matches!(error, Error::TakenOver { .. }) => {
                    return Err(error);
                }
                // The next sign is due before anybody takes this one's absence for death.
                Err(error) => tracing::warn!("no sign of life: {}", recovery::fault::chain(&error)),
                Ok(()) => {}
            },
        }
    }
}

/// Counted from when it was due, so that every attempt means the same date.
fn retain_until(backup: &BackupId, policy: &Policy) -> Timestamp {
    let days = SignedDuration::from_hours(24 * i64::from(policy.retention_days));
    backup.due_at.checked_add(days).unwrap_or(Timestamp::MAX)
}

fn protection(backup: &BackupId, policy: &Policy, plan: &Plan) -> Protection {
    Protection {
        region: plan.regions.tertiary.clone(),
        bucket: plan.buckets.backups.clone(),
        kms_key: Some(plan.backups.kms_key.clone()),
        lock: plan.backups.lock,
        retain_until: retain_until(backup, policy),
        storage_class: policy.storage_class,
        retrieval_seconds: policy.storage_class.retrieval_seconds(),
    }
}

fn keeping(backup: &BackupId, policy: &Policy, protection: &Protection) -> Keeping {
    Keeping {
        kms_key: protection.kms_key.clone(),
        storage_class: policy.storage_class,
        lock: protection.lock,
        retain_until: protection.retain_until,
        tags: BTreeMap::from([("kind".to_owned(), backup.kind.to_string())]),
    }
}

fn manifest(
    backup: &BackupId,
    plan: &Plan,
    held: &Held<'_>,
    made: Made,
    sink: Sink,
    protection: Protection,
    now: Timestamp,
) -> BackupManifest {
    BackupManifest {
        version: MANIFEST_VERSION,
        id: backup.clone(),
        platform: plan.platform.clone(),
        phase: Phase::Complete,
        began_at: held.progress.began_at,
        completed_at: Some(now),
        tool: made.tool,
        source: made.source,
        artifacts: sink.into_artifacts(),
        protection,
    }
}

/// The manifest, and then its receipt.
async fn publish(manifest: &BackupManifest, world: &World<'_>) -> Result<(), Error> {
    let backup = &manifest.id;
    let bytes = manifest.to_bytes();
    let protection = &manifest.protection;
    let options = Options {
        encoding: Encoding::Identity,
        keeping: Keeping {
            kms_key: protection.kms_key.clone(),
            // Always readable at once, wherever the artifacts lie.
            storage_class: StorageClass::Standard,
            lock: protection.lock,
            retain_until: protection.retain_until,
            tags: BTreeMap::from([("kind".to_owned(), backup.kind.to_string())]),
        },
        parts: Parts::for_about(0),
        within: Duration::from_secs(300),
        whole: |_| Ok(()),
    };
    let produced = Produced::by_memory("the manifest", bytes.clone());
    let stored = store(&world.parts, &backup.manifest_key(), produced, &options).await;
    let stored = stored.map_err(|source| Error::Manifest { backup: backup.clone(), source })?;
    let receipt = Receipt {
        backup: backup.clone(),
        manifest_sha256: sha256(&bytes),
        manifest_version_id: stored.version_id,
        completed_at: manifest.completed_at.unwrap_or(manifest.began_at),
        retain_until: protection.retain_until,
    };
    match put_json(world.evidence, &backup.receipt_key(), &receipt, Precondition::Absent).await {
        Ok(()) => Ok(()),
        // Our own, whose answer was lost, or that of an attempt that published the same.
        Err(error @ StoreError::PreconditionFailed { .. }) => {
            let there = get_json::<Receipt>(world.evidence, &backup.receipt_key()).await?;
            let same = there.is_some_and(|(there, _)| there.manifest_sha256 == receipt.manifest_sha256);
            if same { Ok(()) } else { Err(error.into()) }
        }
        Err(error) => Err(error.into()),
    }
}

fn outcome(manifest: &BackupManifest, already: bool) -> Outcome {
    let ended = manifest.completed_at.unwrap_or(manifest.began_at);
    Outcome {
        backup: manifest.id.clone(),
        manifest_key: manifest.id.manifest_key(),
        manifest_sha256: sha256(&manifest.to_bytes()),
        artifacts: manifest.artifacts.len() as u64,
        plain_bytes: manifest.plain_bytes(),
        stored_bytes: manifest.stored_bytes(),
        took_seconds: ended.duration_since(manifest.began_at).as_secs_f64(),
        already,
    }
}
