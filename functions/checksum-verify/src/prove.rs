//! One backup, up the ladder.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{
        ArtifactProof, BackupId, BackupManifest, BackupStorage, Content, Counts, Finding, Kind, Proof, Reason, Rung,
        Sha256Hex, Source,
    },
    plan::Plan,
    store::{Precondition, StoreError, get_json, put_json},
};
use sha2::{Digest, Sha256};

use crate::{Error, World, artifact::prove_artifact, findings::finding, snapshots};

/// The largest manifest that is read: some ten thousand tables.
pub const MANIFEST_BOUND: usize = 4 << 20;
/// The highest rung that this function reaches. The higher ones need a server, which the machine `restore` starts.
pub const HIGHEST: Rung = Rung::Structure;

/// A manifest that is the one of the receipt, or what is wrong with it.
pub(crate) struct Looked {
    pub(crate) manifest: Option<BackupManifest>,
    sha256: Option<Sha256Hex>,
    pub(crate) findings: Vec<Finding>,
}

impl Looked {
    fn wrong(sha256: Option<Sha256Hex>, reason: Reason, key: &str, says: String) -> Looked {
        Looked { manifest: None, sha256, findings: vec![finding(Rung::Present, reason, Some(key), says)] }
    }
}

/// Reads the manifest of a backup, which must be the one that its receipt is of.
///
/// # Errors
/// Storage fails.
pub(crate) async fn manifest(backup: &BackupId, plan: &Plan, world: &World<'_>) -> Result<Looked, StoreError> {
    let key = backup.manifest_key();
    let Some(receipt) = world.catalogue.receipt(backup).await? else {
        let says = "there is no receipt: the backup was never completed".to_owned();
        return Ok(Looked::wrong(None, Reason::Missing, &key, says));
    };
    // The newest version, and not the one of the receipt: it is what people and programs read.
    let Some(bytes) = whole(world.backups, &key).await? else {
        return Ok(Looked::wrong(None, Reason::Missing, &key, "the manifest is not there".to_owned()));
    };
    let sha256 = Sha256Hex::of(&Sha256::digest(&bytes).into());
    if sha256 != receipt.manifest_sha256 {
        let says = format!("the manifest has SHA-256 {sha256}, its receipt {}", receipt.manifest_sha256);
        return Ok(Looked::wrong(Some(sha256), Reason::ManifestChanged, &key, says));
    }
    match BackupManifest::read(&bytes, backup) {
        Err(problem) => Ok(Looked::wrong(Some(sha256), Reason::ManifestUnreadable, &key, problem.to_string())),
        Ok(manifest) => {
            let findings = covers(&manifest, plan);
            Ok(Looked { manifest: Some(manifest), sha256: Some(sha256), findings })
        }
    }
}

async fn whole(storage: &dyn BackupStorage, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(mut body) = storage.open(key, None, None).await? else { return Ok(None) };
    let mut bytes = Vec::new();
    while let Some(piece) = body.chunk().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MANIFEST_BOUND {
            let (bucket, key) = (storage.bucket().to_owned(), key.to_owned());
            return Err(StoreError::TooLarge { bucket, key, bound_bytes: MANIFEST_BOUND });
        }
    }
    Ok(Some(bytes))
}

/// What the plan wants in a backup, and is not in it.
fn covers(manifest: &BackupManifest, plan: &Plan) -> Vec<Finding> {
    let missing = |says: String| finding(Rung::Present, Reason::NotCovered, None, says);
    let has = |wanted: &dyn Fn(&Content) -> bool| manifest.artifacts.iter().any(|artifact| wanted(&artifact.content));
    match (manifest.id.kind, &manifest.source) {
        (Kind::Logical, Source::PostgreSql { databases, .. }) => {
            let policy = plan.backups.policy(Kind::Logical).and_then(|policy| policy.databases.as_ref());
            let wanted = policy.unwrap_or(&plan.postgresql.databases);
            let mut found = Vec::new();
            for name in wanted {
                if !has(&|content: &Content| matches!(content, Content::Dump { database, .. } if database == name)) {
                    found.push(missing(format!("the plan's database `{name}` is not in it")));
                } else if !databases.iter().any(|facts| facts.name == *name) {
                    found.push(missing(format!("the manifest says nothing of what `{name}` held")));
                }
            }
            if !has(&|content: &Content| *content == Content::Globals) {
                found.push(missing("the globals are not in it: roles and grants would be lost".to_owned()));
            }
            found
        }
        (Kind::Physical, _) if !has(&|content: &Content| *content == Content::BaseBackup) => {
            vec![missing("there is no base backup in it".to_owned())]
        }
        _ => Vec::new(),
    }
}

/// Proves a backup, artifact after artifact, and keeps the proof.
///
/// # Errors
/// Storage fails, or the rung is not one that this function reaches.
pub(crate) async fn prove(
    run: &str,
    backup: &BackupId,
    rung: Rung,
    plan: &Plan,
    world: &World<'_>,
    now: Timestamp,
) -> Result<Proof, Error> {
    let began = Instant::now();
    let looked = manifest(backup, plan, world).await?;
    let mut parts = Vec::new();
    if let Some(manifest) = &looked.manifest {
        for artifact in &manifest.artifacts {
            parts.push(prove_artifact(world.backups, manifest, artifact, rung).await?);
        }
    }
    keep(run, backup, rung, looked, parts, world, now, began).await
}

/// Proves one artifact and keeps what was found for [`conclude`].
///
/// # Errors
/// Storage fails, or the manifest does not have it.
pub(crate) async fn prove_one(
    run: &str,
    backup: &BackupId,
    key: &str,
    rung: Rung,
    plan: &Plan,
    world: &World<'_>,
) -> Result<ArtifactProof, Error> {
    let looked = manifest(backup, plan, world).await?;
    let found = looked.manifest.as_ref().and_then(|manifest| {
        let artifact = manifest.artifacts.iter().find(|artifact| artifact.key == key)?;
        Some((manifest, artifact))
    });
    let Some((manifest, artifact)) = found else {
        return Err(Error::NoArtifact { backup: backup.clone(), key: key.to_owned() });
    };
    let proof = prove_artifact(world.backups, manifest, artifact, rung).await?;
    put_json(world.catalogue.evidence, &backup.part_key(run, key), &proof, Precondition::None).await?;
    Ok(proof)
}

/// Puts together what [`prove_one`] found, and keeps the proof. What nobody looked at is a finding.
///
/// # Errors
/// Storage fails.
pub(crate) async fn conclude(
    run: &str,
    backup: &BackupId,
    rung: Rung,
    plan: &Plan,
    world: &World<'_>,
    now: Timestamp,
) -> Result<Proof, Error> {
    let began = Instant::now();
    let looked = manifest(backup, plan, world).await?;
    let mut parts = Vec::new();
    for artifact in looked.manifest.iter().flat_map(|manifest| &manifest.artifacts) {
        let kept = get_json::<ArtifactProof>(world.catalogue.evidence, &backup.part_key(run, &artifact.key)).await?;
        parts.push(kept.map_or_else(
            || ArtifactProof {
                key: artifact.key.clone(),
                rung: None,
                asked: rung,
                read_bytes: 0,
                findings: vec![finding(
                    Rung::Present,
                    Reason::NotChecked,
                    Some(&artifact.key),
                    format!("{} was not looked at by run `{run}`", artifact.content),
                )],
            },
            |(part, _)| part,
        ));
    }
    keep(run, backup, rung, looked, parts, world, now, began).await
}

#[expect(clippy::too_many_arguments, reason = "the fields of a proof")]
async fn keep(
    run: &str,
    backup: &BackupId,
    rung: Rung,
    looked: Looked,
    parts: Vec<ArtifactProof>,
    world: &World<'_>,
    now: Timestamp,
    began: Instant,
) -> Result<Proof, Error> {
    let (mut findings, mut parts) = (looked.findings, parts);
    let is_whole = looked.manifest.is_some() && findings.is_empty();
    let of_artifacts = parts.len();
    if let Some(manifest) = &looked.manifest {
        // By whoever concludes: they are a question each, and nothing to be read beside others.
        parts.extend(snapshots::prove(manifest, rung, world).await?);
    }
    let lowest = parts.iter().map(|part| part.rung).min().unwrap_or(Some(rung.min(HIGHEST)));
    let reached = lowest.filter(|_| is_whole);
    let checked = |part: &&ArtifactProof| part.findings.iter().all(|found| found.reason != Reason::NotChecked);
    let wanted = |index: usize| rung.min(if index < of_artifacts { HIGHEST } else { snapshots::HIGHEST });
    let valid = |(index, part): &(usize, &ArtifactProof)| part.rung >= Some(wanted(*index));
    let count = |parts: usize| u64::try_from(parts).unwrap_or(u64::MAX);
    let stored = |key: &str| {
        let of = looked.manifest.iter().flat_map(|manifest| &manifest.artifacts).find(|artifact| artifact.key == key);
        of.map_or(0, |artifact| artifact.stored_bytes)
    };
    let artifacts = Counts {
        found: count(parts.len()),
        checked: count(parts.iter().filter(checked).count()),
        valid: count(parts.iter().enumerate().filter(valid).count()),
    };
    let bytes = Counts {
        found: parts.iter().map(|part| stored(&part.key)).sum(),
        checked: parts.iter().map(|part| part.read_bytes).sum(),
        valid: parts.iter().enumerate().filter(valid).map(|(_, part)| part.read_bytes).sum(),
    };
    findings.extend(parts.into_iter().flat_map(|part| part.findings));
    let took = began.elapsed();
    let proven_at = now.saturating_add(took).unwrap_or(now);
    let latest = proven_at.saturating_add(SignedDuration::from_mins(1)).unwrap_or(proven_at);
    let proof = Proof {
        backup: backup.clone(),
        manifest_sha256: looked.sha256,
        rung: reached,
        asked: rung,
        proven_at,
        took_seconds: took.as_secs_f64(),
        by: run.to_owned(),
        artifacts,
        bytes,
        findings,
    };
    let mut proof = proof;
    // Added, never replaced: keys are of a second, and two looks may end in one.
    while let Err(error) =
        put_json(world.catalogue.evidence, &backup.proof_key(proof.proven_at), &proof, Precondition::Absent).await
    {
        let taken = matches!(error, StoreError::PreconditionFailed { .. }) && proof.proven_at < latest;
        if !taken {
            return Err(error.into());
        }
        proof.proven_at = proof.proven_at.saturating_add(SignedDuration::from_secs(1)).unwrap_or(latest);
    }
    for found in &proof.findings {
        let (reason, artifact) = (found.reason, found.artifact.as_deref().unwrap_or("the backup"));
        tracing::warn!(backup.id = %backup, ?reason, artifact, "`{backup}` is not as it should be: {artifact}: {}", found.says);
    }
    Ok(proof)
}
