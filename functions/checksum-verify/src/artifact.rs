//! One artifact, up the ladder as far as it goes.

use recovery::{
    backup::{
        Artifact, ArtifactProof, BackupManifest, BackupStorage, Finding, Lock, ObjectVersion, Protection, Reason, Rung,
    },
    fault::chain,
    store::StoreError,
};
use recovery_archive::Flaw;

use crate::{
    findings::finding,
    stream::{Algorithm, Pass, Subject, pass},
    structure::{self, Facts},
};

/// Looks at one artifact, as far as `rung` and at most to its structure.
///
/// # Errors
/// The storage fails: nothing is known of the artifact then.
pub async fn prove_artifact(
    storage: &dyn BackupStorage,
    manifest: &BackupManifest,
    artifact: &Artifact,
    rung: Rung,
) -> Result<ArtifactProof, StoreError> {
    let mut proof =
        ArtifactProof { key: artifact.key.clone(), rung: None, asked: rung, read_bytes: 0, findings: Vec::new() };
    let version = artifact.version_id.as_deref();
    let seen = storage.head(&artifact.key, version).await?;
    proof.findings = present(artifact, &manifest.protection, seen.as_ref());
    if !proof.findings.is_empty() {
        return Ok(proof);
    }
    proof.rung = Some(Rung::Present);
    if rung == Rung::Present {
        return Ok(proof);
    }
    let (content, wanted) = (artifact.content.clone(), rung);
    let read = move |stream: &mut dyn std::io::Read| {
        if wanted >= Rung::Structure { structure::read(&content, stream) } else { structure::bytes(stream) }
    };
    let subject = Subject {
        key: &artifact.key,
        version_id: version,
        size_bytes: artifact.stored_bytes,
        encoding: artifact.encoding,
        plain: Algorithm::from(&artifact.plain_digest()),
    };
    let passed = pass(storage, subject, read).await?;
    let Some(passed) = passed else {
        proof.rung = None;
        proof.findings = present(artifact, &manifest.protection, None);
        return Ok(proof);
    };
    proof.read_bytes = passed.stored_bytes;
    proof.findings = digests(manifest, artifact, &passed);
    if !proof.findings.is_empty() {
        return Ok(proof);
    }
    proof.rung = Some(Rung::Digests);
    if rung == Rung::Digests {
        return Ok(proof);
    }
    let at = |reason, says| finding(Rung::Structure, reason, Some(&artifact.key), says);
    proof.findings = match &passed.structure {
        Err(flaw) => vec![at(why(flaw), format!("{}: {}", artifact.content, chain(flaw)))],
        Ok(facts) => {
            let compared = structure::compare(artifact, manifest, facts);
            compared.into_iter().map(|(reason, says)| at(reason, format!("{}: {says}", artifact.content))).collect()
        }
    };
    if proof.findings.is_empty() {
        proof.rung = Some(Rung::Structure);
    }
    Ok(proof)
}

fn why(flaw: &Flaw) -> Reason {
    match flaw {
        Flaw::Truncated { .. } => Reason::Truncated,
        Flaw::Foreign { .. } => Reason::WalForeign,
        Flaw::Malformed { .. } | Flaw::Unreadable { .. } => Reason::Structure,
        Flaw::Unsupported(_) => Reason::NotChecked,
    }
}

fn present(artifact: &Artifact, protection: &Protection, seen: Option<&ObjectVersion>) -> Vec<Finding> {
    let at = |reason, says: String| vec![finding(Rung::Present, reason, Some(&artifact.key), says)];
    let Some(seen) = seen else {
        let version = artifact.version_id.as_ref().map_or_else(String::new, |version| format!(" in version {version}"));
        return at(Reason::Missing, format!("{} is not there{version}", artifact.content));
    };
    if seen.size_bytes != artifact.stored_bytes {
        let (is, was) = (seen.size_bytes, artifact.stored_bytes);
        return at(Reason::Truncated, format!("{} has {is} bytes and was written with {was}", artifact.content));
    }
    if let Some(checksum) = seen.crc64nvme.as_ref().filter(|checksum| **checksum != artifact.crc64nvme) {
        let says =
            format!("S3 keeps the CRC64NVME {checksum} for {}, written was {}", artifact.content, artifact.crc64nvme);
        return at(Reason::StoredDigest, says);
    }
    if let Some(weaker) = weaker(protection, seen) {
        return at(Reason::Protection, format!("{} {weaker}", artifact.content));
    }
    if seen.archived {
        return at(Reason::NotChecked, format!("{} lies in cold storage and cannot be read", artifact.content));
    }
    Vec::new()
}

/// How an object is kept less well than its manifest says. What was made stricter later is no finding, nor is another class
/// that is read as soon.
fn weaker(written: &Protection, seen: &ObjectVersion) -> Option<String> {
    if let Some(key) = written.kms_key.as_ref().filter(|key| seen.kms_key.as_ref() != Some(*key)) {
        let is = seen.kms_key.as_ref().map_or("no key of KMS".to_owned(), |key| format!("`{key}`"));
        return Some(format!("is under {is}, written was `{key}`"));
    }
    let strength = |lock| match lock {
        Lock::Off => 0,
        Lock::Governance => 1,
        Lock::Compliance => 2,
    };
    if strength(seen.lock) < strength(written.lock) {
        return Some(format!("is under the lock `{}`, written was `{}`", seen.lock, written.lock));
    }
    if written.lock != Lock::Off && seen.retain_until.is_none_or(|until| until < written.retain_until) {
        let is = seen.retain_until.map_or("without a date".to_owned(), |until| format!("until {until}"));
        return Some(format!("is locked {is}, written was until {}", written.retain_until));
    }
    match seen.storage_class {
        Some(class) if class.retrieval_seconds() <= written.retrieval_seconds => None,
        Some(class) => Some(format!("lies in {class}, which is read later than {}", written.storage_class)),
        None => Some("lies in a storage class that this program does not know".to_owned()),
    }
}

fn digests(manifest: &BackupManifest, artifact: &Artifact, passed: &Pass<Facts>) -> Vec<Finding> {
    let at = |reason, says| vec![finding(Rung::Digests, reason, Some(&artifact.key), says)];
    if passed.stored_sha256 != artifact.stored_sha256 {
        let other = manifest.artifacts.iter().find(|other| other.stored_sha256 == passed.stored_sha256);
        if let Some(other) = other {
            return at(Reason::OtherContent, format!("it holds the bytes of `{}`", other.key));
        }
        let says = format!(
            "{} bytes were read with SHA-256 {}, written was {}",
            passed.stored_bytes, passed.stored_sha256, artifact.stored_sha256
        );
        return at(Reason::StoredDigest, says);
    }
    match &passed.plain {
        Err(error) => at(Reason::Encoding, format!("it does not decode: {error}")),
        Ok((bytes, digest)) if *digest != artifact.plain_digest() || *bytes != artifact.plain_bytes => {
            let (were, written) = (artifact.plain_bytes, artifact.plain_digest());
            let says = format!("it decodes to {bytes} bytes with {digest}, backed up were {were} with {written}");
            at(Reason::PlainDigest, says)
        }
        Ok(_) => Vec::new(),
    }
}
