//! What is known of backups, read from the evidence bucket: which are complete, which are proven, which may go.
//!
//! Nothing here trusts the backups bucket: a backup that somebody put there has no receipt, one that was changed has no
//! proof of its manifest.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{BackupId, BackupStorage, EVIDENCE_PREFIX, Finding, Kind, Policy, Proof, Receipt, VerifiedBackup};
use crate::store::{ObjectStore, StoreError, get_json};

/// What the keys of the evidence bucket say of one backup; nothing of it has been read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub backup: BackupId,
    /// It has a receipt, and has not been let go.
    pub complete: bool,
    /// Its artifacts were marked to expire.
    pub expired: bool,
    /// Keys of its proofs, newest first.
    pub proofs: Vec<String>,
}

/// How the backups of one kind and subject stand at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Which kind.
    pub kind: Kind,
    /// Of what; absent if there is no backup of this kind at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The newest complete one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Newest>,
    /// The newest one that is proven as far as the plan asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<Proven>,
    /// What the last look at the newest one found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// Seconds since the newest complete one was due; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
    /// Seconds since the newest proven one was due; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproven_seconds: Option<i64>,
    /// The newest one is younger than `fresh_within`.
    pub fresh: bool,
    /// The newest proven one is younger than `proven_within`.
    pub proven_in_time: bool,
}

/// The newest complete backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Newest {
    /// Which.
    pub backup: BackupId,
    /// When its last artifact was complete.
    pub completed_at: Timestamp,
    /// How far it is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<super::Rung>,
}

/// The newest proven backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    /// What restore takes.
    pub verified: VerifiedBackup,
    /// How long it took to prove it.
    pub took_seconds: f64,
}

/// The catalogue of backups.
#[derive(Clone, Copy)]
pub struct Catalogue<'a> {
    /// Lists the evidence bucket.
    pub list: &'a dyn BackupStorage,
    /// Reads it.
    pub evidence: &'a dyn ObjectStore,
}

impl Catalogue<'_> {
    /// Of what there are backups of a kind.
    ///
    /// # Errors
    /// The bucket cannot be listed.
    pub async fn subjects(&self, kind: Kind) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{EVIDENCE_PREFIX}{kind}/");
        let (mut subjects, mut next) = (Vec::new(), None);
        loop {
            let page = self.list.list(&prefix, Some('/'), next.as_deref()).await?;
            let subject = |folder: &String| folder.strip_prefix(&prefix)?.strip_suffix('/').map(str::to_owned);
            subjects.extend(page.folders.iter().filter_map(subject));
            next = page.next;
            if next.is_none() {
                return Ok(subjects);
            }
        }
    }

    /// The backups of a kind and subject, newest first.
    ///
    /// # Errors
    /// The bucket cannot be listed.
    pub async fn known(&self, kind: Kind, subject: &str) -> Result<Vec<Known>, StoreError> {
        let prefix = format!("{EVIDENCE_PREFIX}{kind}/{subject}/");
        let (mut known, mut next): (BTreeMap<BackupId, Known>, _) = (BTreeMap::new(), None);
        loop {
            let page = self.list.list(&prefix, None, next.as_deref()).await?;
            for object in page.objects {
                let Some(backup) = BackupId::of_key(&object.key) else { continue };
                let of = |backup: &BackupId| Known {
                    backup: backup.clone(),
                    complete: false,
                    expired: false,
                    proofs: Vec::new(),
                };
                let entry = known.entry(backup.clone()).or_insert_with(|| of(&backup));
                if object.key == backup.receipt_key() {
                    entry.complete = true;
                } else if object.key == backup.expired_key() {
                    entry.expired = true;
                } else if object.key.starts_with(&backup.proofs_prefix()) {
                    // Keys come in order, and a proof's key is its moment.
                    entry.proofs.insert(0, object.key);
                }
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        let alone = |known: Known| Known { complete: known.complete && !known.expired, ..known };
        Ok(known.into_values().rev().map(alone).collect())
    }

    /// What was written of a backup when it was complete.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn receipt(&self, backup: &BackupId) -> Result<Option<Receipt>, StoreError> {
        Ok(get_json(self.evidence, &backup.receipt_key()).await?.map(|(receipt, _)| receipt))
    }

    /// What was last proven of a backup.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn last_proof(&self, known: &Known) -> Result<Option<Proof>, StoreError> {
        let Some(key) = known.proofs.first() else { return Ok(None) };
        Ok(get_json(self.evidence, key).await?.map(|(proof, _)| proof))
    }

    /// The newest backup that is proven as far as `needed` by its last proof: what a restore begins with.
    ///
    /// # Errors
    /// The evidence cannot be read.
    pub async fn newest_usable(&self, known: &[Known], needed: super::Rung) -> Result<Option<Proven>, StoreError> {
        for one in known.iter().filter(|one| one.complete) {
            let Some(proof) = self.last_proof(one).await? else { continue };
            let Some(receipt) = self.receipt(&one.backup).await? else { continue };
            if let Ok(verified) = VerifiedBackup::from_proof(&proof, &receipt, needed) {
                return Ok(Some(Proven { verified, took_seconds: proof.took_seconds }));
            }
        }
        Ok(None)
    }

    /// How the backups of a policy stand, one line per subject, and one without a subject if there are none.
    ///
    /// # Errors
    /// The evidence cannot be read.
    pub async fn standings(&self, policy: &Policy, at: Timestamp) -> Result<Vec<Standing>, StoreError> {
        let mut standings = Vec::new();
        for subject in self.subjects(policy.kind).await? {
            let known = self.known(policy.kind, &subject).await?;
            standings.push(self.standing(policy, &subject, &known, at).await?);
        }
        if standings.is_empty() {
            standings.push(Standing::of_nothing(policy.kind));
        }
        Ok(standings)
    }

    /// How the backups of one subject stand.
    ///
    /// # Errors
    /// The evidence cannot be read.
    pub async fn standing(
        &self,
        policy: &Policy,
        subject: &str,
        known: &[Known],
        at: Timestamp,
    ) -> Result<Standing, StoreError> {
        let mut standing = Standing { subject: Some(subject.to_owned()), ..Standing::of_nothing(policy.kind) };
        if let Some(newest) = known.iter().find(|one| one.complete) {
            let proof = self.last_proof(newest).await?;
            let receipt = self.receipt(&newest.backup).await?;
            standing.newest = receipt.map(|receipt| Newest {
                backup: newest.backup.clone(),
                completed_at: receipt.completed_at,
                rung: proof.as_ref().and_then(|proof| proof.rung),
            });
            standing.findings = proof.map(|proof| proof.findings).unwrap_or_default();
            standing.age_seconds = Some(age(&newest.backup, at));
        }
        standing.proven = self.newest_usable(known, policy.proven_to).await?;
        standing.unproven_seconds = standing.proven.as_ref().map(|proven| age(&proven.verified.backup, at));
        let within = |age: Option<i64>, bound: f64| age.is_some_and(|age| age as f64 <= bound);
        standing.fresh = within(standing.age_seconds, policy.fresh_within.seconds());
        standing.proven_in_time = within(standing.unproven_seconds, policy.proven_within.seconds());
        Ok(standing)
    }
}

impl Standing {
    fn of_nothing(kind: Kind) -> Standing {
        Standing {
            kind,
            subject: None,
            newest: None,
            proven: None,
            findings: Vec::new(),
            age_seconds: None,
            unproven_seconds: None,
            fresh: false,
            proven_in_time: false,
        }
    }
}

fn age(backup: &BackupId, at: Timestamp) -> i64 {
    at.as_second() - backup.due_at.as_second()
}

/// Which backups may be let go: complete, older than the policy keeps them, and older than the last proven one. As long as
/// nothing is proven, nothing goes.
pub fn may_expire<'a>(policy: &Policy, known: &'a [Known], proven: Option<&BackupId>, at: Timestamp) -> Vec<&'a Known> {
    let Some(proven) = proven else { return Vec::new() };
    let kept = SignedDuration::from_hours(24 * i64::from(policy.retention_days));
    let too_old = |one: &&Known| at.duration_since(one.backup.due_at) > kept;
    let older_than_the_proven = |one: &&Known| one.backup.due_at < proven.due_at;
    known.iter().filter(|one| one.complete).filter(too_old).filter(older_than_the_proven).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    const SPARC: &str = include_str!("../../../../plans/sparc.toml");

    #[test]
    fn what_is_old_goes_and_the_last_proven_one_never_does() {
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        let policy = plan.backups.policy(Kind::Logical).unwrap();
        let id = |day: &str| {
            BackupId::new(Kind::Logical, "sparc-prod", format!("{day}T02:00:00Z").parse().unwrap()).unwrap()
        };
        let days = ["2026-11-26", "2026-11-01", "2026-10-20", "2026-10-01", "2026-09-01"];
        let known: Vec<Known> = days
            .map(|day| Known { backup: id(day), complete: day != "2026-10-01", expired: false, proofs: Vec::new() })
            .into();
        let at = "2026-11-26T06:00:00Z".parse().unwrap();
        let gone = |proven: Option<&str>| -> Vec<String> {
            let proven = proven.map(id);
            may_expire(policy, &known, proven.as_ref(), at).into_iter().map(|one| one.backup.to_string()).collect()
        };
        let (october, september) = ("logical/sparc-prod/20261020T020000Z", "logical/sparc-prod/20260901T020000Z");
        assert_eq!(gone(Some("2026-11-26")), [october, september]);
        assert_eq!(gone(Some("2026-10-20")), [september], "the last proven one is older than 30 days and stays");
        assert!(gone(Some("2026-09-01")).is_empty());
        assert!(gone(None).is_empty(), "nothing is proven, so nothing goes");
    }
}
