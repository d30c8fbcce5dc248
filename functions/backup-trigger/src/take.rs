//! One backup, from the note that it is begun to its receipt.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{
        BackupId, BackupManifest, Encoding, Keeping, MANIFEST_VERSION, ManifestProblem, Outcome, Phase, Policy,
        Protection, Receipt,
    },
    fault::{Classified, Fault},
    objective::human_seconds,
    plan::{Plan, StorageClass},
    store::{Precondition, StoreError, get_json, put_json},
};
use recovery_datapath::{Made, Options, Parts, Produced, Sink, sha256, store};
use tracing::info;

use crate::{
    Error, World,
    counted::Counted,
    place::human_bytes,
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
                held.let_go(&error, (world.now)()).await;
                return Err(error);
            }
            let parts = Counted::new(world.parts.clone());
            let sink = Sink::new(backup, parts.clone(), plan.backups.encoding, keeping, world.within);
            let made = alive(taker.take(backup, &sink), &mut held, &parts, world).await;
            let made = match made {
                Ok(made) => made.map_err(|source| Error::Take { backup: backup.clone(), source }),
                Err(error) => Err(error),
            };
            let made = match made {
                Ok(made) => made,
                // Whoever took over writes the note.
                Err(error @ Error::TakenOver { .. }) => return Err(error),
                Err(error) => {
                    held.let_go(&error, (world.now)()).await;
                    return Err(error);
                }
            };
            let manifest = manifest(plan, &held, made, sink, protection, world);
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
pub(crate) async fn complete(backup: &BackupId, world: &World<'_>) -> Result<Option<Outcome>, Error> {
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

/// Runs something that may take long, and gives signs of life meanwhile, in the note and in the log. That somebody else took
/// over ends it, and so does whoever asks this process to end: what has arrived stays where it is for the next attempt.
async fn alive<T>(
    work: impl Future<Output = T>,
    held: &mut Held<'_>,
    parts: &Counted,
    world: &World<'_>,
) -> Result<T, Error> {
    let backup = held.progress.backup.clone();
    let began = Instant::now();
    tokio::pin!(work);
    loop {
        let done = tokio::select! {
            done = tokio::time::timeout(SIGN, &mut work) => done,
            () = world.stop.notified() => return Err(Error::Stopped { backup }),
        };
        if let Ok(done) = done {
            return Ok(done);
        }
        let (stored_bytes, seconds) = (parts.bytes(), began.elapsed().as_secs());
        info!(
            backup = %backup,
            backup.stored_bytes = stored_bytes,
            backup.seconds = seconds,
            "`{backup}`: {} stored in {}", human_bytes(stored_bytes), human_seconds(seconds as f64)
        );
        match held.renew((world.now)(), None).await {
            Err(error) if error.fault() != Fault::Transient || matches!(error, Error::TakenOver { .. }) => {
                return Err(error);
            }
            // The next sign is due before anybody takes this one's absence for death.
            Err(error) => tracing::warn!("no sign of life: {}", recovery::fault::chain(&error)),
            Ok(()) => {}
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
    plan: &Plan,
    held: &Held<'_>,
    made: Made,
    sink: Sink,
    protection: Protection,
    world: &World<'_>,
) -> BackupManifest {
    BackupManifest {
        version: MANIFEST_VERSION,
        id: held.progress.backup.clone(),
        platform: plan.platform.clone(),
        phase: Phase::Complete,
        began_at: held.progress.began_at,
        completed_at: Some((world.now)()),
        taken_in: Some(world.place()),
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
