//! What is known of backups, read from the evidence bucket: which are complete, which are proven, which may go.
//!
//! Nothing here trusts the backups bucket: a backup that somebody put there has no receipt, one that was changed has no
//! proof of its manifest.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    BackupId, BackupStorage, EVIDENCE_PREFIX, Finding, Kind, LOOKS_SECONDS, LogChain, LogReach, Policy, Proof, Receipt,
    Rung, VerifiedBackup, log_chain_key, log_reach_key,
};
use crate::{
    plan::{Driver, Plan},
    store::{ObjectStore, StoreError, get_json},
};

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
    /// What was seen of the log; only of kind `wal`, which is no series of backups. Its age is what a restore would lack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStanding>,
}

/// How the log stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogStanding {
    /// How far it reaches, as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<LogReach>,
    /// How far an archive was followed, as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<LogChain>,
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
    pub rung: Option<Rung>,
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
    pub async fn newest_usable(&self, known: &[Known], needed: Rung) -> Result<Option<Proven>, StoreError> {
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

    /// How everything of the plan stands, policy by policy.
    ///
    /// # Errors
    /// The evidence cannot be read.
    pub async fn all_standings(&self, plan: &Plan, at: Timestamp) -> Result<Vec<Standing>, StoreError> {
        let mut all = Vec::new();
        for policy in &plan.backups.policies {
            match policy.kind {
                Kind::Wal => all.push(self.log_standing(policy, plan, at).await?),
                _ => all.extend(self.standings(policy, at).await?),
            }
        }
        Ok(all)
    }

    /// How the log of the plan's database stands.
    ///
    /// # Errors
    /// The evidence cannot be read.
    pub async fn log_standing(&self, policy: &Policy, plan: &Plan, at: Timestamp) -> Result<Standing, StoreError> {
        let subject = policy.kind.subject(plan);
        let reach = get_json::<LogReach>(self.evidence, &log_reach_key(subject)).await?.map(|(reach, _)| reach);
        let chain = get_json::<LogChain>(self.evidence, &log_chain_key(subject)).await?.map(|(chain, _)| chain);
        Ok(Standing::of_log(policy, plan.postgresql.driver, subject, LogStanding { reach, chain }, at))
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
    /// Everything is as the plan asks for.
    pub fn is_as_planned(&self) -> bool {
        self.fresh && self.proven_in_time
    }

    /// Nothing is known to be wrong with the log; of other kinds, true.
    pub fn log_is_whole(&self) -> bool {
        self.log.is_none() || self.findings.is_empty()
    }

    /// Against the plan, in a few words.
    pub fn verdict(&self, policy: &Policy) -> String {
        let Policy { fresh_within, proven_within, proven_to, .. } = policy;
        match (self.fresh, self.proven_in_time, &self.log) {
            (true, true, _) => "as planned".to_owned(),
            (false, _, Some(LogStanding { reach: Some(LogReach { reaches_to: Some(_), .. }), .. })) => {
                format!("not known to lie less than {fresh_within} behind")
            }
            (true, false, Some(_)) => format!("not followed to {proven_to} within {proven_within}"),
            (false, ..) if self.newest.is_none() => "missing".to_owned(),
            (false, ..) => format!("older than {fresh_within}"),
            (true, false, None) => format!("not proven to {proven_to} within {proven_within}"),
        }
    }

    pub(crate) fn of_nothing(kind: Kind) -> Standing {
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
            log: None,
        }
    }

    /// What RDS says is proof of being present and of nothing more; an archive is proven when it was followed to its end.
    pub fn of_log(policy: &Policy, driver: Driver, subject: &str, log: LogStanding, at: Timestamp) -> Standing {
        let since = |moment: Timestamp| (at.as_second() - moment.as_second()).max(0);
        let mut standing = Standing { subject: Some(subject.to_owned()), ..Standing::of_nothing(policy.kind) };
        if let Some(reach) = &log.reach {
            standing.age_seconds = reach.reaches_to.map(since);
            let behind = reach.behind_seconds().is_some_and(|behind| behind as f64 <= policy.fresh_within.seconds());
            // What nobody looks at any more is not known to be fresh, however fresh it was.
            standing.fresh = behind && since(reach.observed_at) <= LOOKS_MISSED * LOOKS_SECONDS;
            standing.findings.extend(reach.findings.iter().cloned());
        }
        let proven_at = match driver {
            Driver::SelfManaged => log.chain.as_ref().and_then(|chain| chain.proven_at),
            Driver::Rds | Driver::AuroraGlobal if policy.proven_to > Rung::Present => None,
            Driver::Rds | Driver::AuroraGlobal => {
                log.reach.as_ref().filter(|reach| reach.reaches_to.is_some()).map(|reach| reach.observed_at)
            }
        };
        standing.unproven_seconds = proven_at.map(since);
        standing.proven_in_time =
            standing.unproven_seconds.is_some_and(|age| age as f64 <= policy.proven_within.seconds());
        standing.findings.extend(log.chain.iter().flat_map(|chain| chain.findings.iter().cloned()));
        standing.log = Some(log);
        standing
    }
}

/// After so many looks that did not come, nobody looks.
const LOOKS_MISSED: i64 = 3;

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
    fn the_log_is_fresh_while_somebody_looks_and_proven_when_it_was_followed() {
        use super::super::LogKeeper;
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        let policy = plan.backups.policy(Kind::Wal).unwrap();
        let at: Timestamp = "2026-11-26T06:00:00Z".parse().unwrap();
        let before = |seconds: i64| Timestamp::from_second(at.as_second() - seconds).unwrap();
        let stands = |driver, looked: i64, reaches: Option<i64>, proven: Option<i64>| {
            let reach = LogReach {
                observed_at: before(looked),
                by: "watch".to_owned(),
                keeper: LogKeeper::Archive("sparc-wal-archive".to_owned()),
                reaches_to: reaches.map(before),
                reaches_from: None,
                segment: None,
                missing_bytes: None,
                findings: Vec::new(),
            };
            let chain = LogChain {
                observed_at: at,
                by: "verify".to_owned(),
                base: None,
                proven_at: proven.map(before),
                needed: 0,
                findings: Vec::new(),
                cursor: None,
            };
            let log = LogStanding { reach: Some(reach), chain: Some(chain) };
            let standing = Standing::of_log(policy, driver, "sparc-prod", log, at);
            (standing.fresh, standing.proven_in_time)
        };
        let ours = Driver::SelfManaged;
        assert_eq!(stands(ours, 60, Some(300), Some(3600)), (true, true));
        assert_eq!(stands(ours, 800, Some(1000), Some(3600)), (true, true), "judged as of the look");
        assert_eq!(stands(ours, 60, Some(900), Some(3600)), (false, true), "14 min behind");
        assert_eq!(stands(ours, 1000, Some(1000), Some(3600)), (false, true), "nobody has looked since");
        assert_eq!(stands(ours, 60, None, None), (false, false));
        assert_eq!(stands(ours, 60, Some(60), Some(200_000)), (true, false));
        assert_eq!(stands(Driver::Rds, 60, Some(300), None), (true, true), "RDS says so, which is all that can be had");
    }

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
