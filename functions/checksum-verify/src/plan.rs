//! Which backups should be looked at, and how all of them stand.

use jiff::{SignedDuration, Timestamp};
use recovery::{
    backup::{BackupId, Finding, Kind, Known, Policy, Proof, Reason, Rung, Standing},
    plan::Plan,
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, World,
    findings::finding,
    prove::{self, HIGHEST},
};

/// The most backups and the most artifacts of one run: what it says stands in the state of the machine, which may have
/// 262,144 bytes. The next run takes the rest.
const MOST_BACKUPS: usize = 40;
const MOST_ARTIFACTS: usize = 400;

/// What should be looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// Backups without a proof, newest first, and the newest ones whose proof is too old.
    pub backups: Vec<ProofDue>,
    /// Their artifacts.
    pub artifacts: Vec<ArtifactDue>,
    /// How the backups of each policy stand.
    pub standings: Vec<Stood>,
    /// Stale or missing backups, a sentence each.
    pub findings: Vec<Finding>,
    /// More is due than one run takes.
    pub more: bool,
}

/// A backup that should be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofDue {
    /// Which.
    pub backup: BackupId,
    /// How far.
    pub rung: Rung,
}

/// An artifact that should be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactDue {
    /// Of which backup.
    pub backup: BackupId,
    /// Which, by key.
    pub key: String,
    /// How far.
    pub rung: Rung,
}

/// How the backups of one kind and subject stand, in the few figures that alarms are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stood {
    /// Which kind.
    pub kind: Kind,
    /// Of what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Seconds since the newest complete one was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
    /// Seconds since the newest proven one was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproven_seconds: Option<i64>,
    /// Younger than the plan asks for.
    pub fresh: bool,
    /// Proven, and younger than the plan asks for.
    pub proven_in_time: bool,
}

impl Stood {
    fn of(standing: Standing) -> Stood {
        let Standing { kind, subject, age_seconds, unproven_seconds, fresh, proven_in_time, .. } = standing;
        Stood { kind, subject, age_seconds, unproven_seconds, fresh, proven_in_time }
    }
}

pub(crate) async fn plan(at: Timestamp, kinds: &[Kind], plan: &Plan, world: &World<'_>) -> Result<Planned, Error> {
    let mut planned = Planned {
        backups: Vec::new(),
        artifacts: Vec::new(),
        standings: Vec::new(),
        findings: Vec::new(),
        more: false,
    };
    let wanted = |policy: &&Policy| kinds.is_empty() || kinds.contains(&policy.kind);
    for policy in plan.backups.policies.iter().filter(wanted) {
        if policy.kind == Kind::Wal {
            // The log has no manifests: it is looked at by `look-at-log` and `follow-log`, and said here as they found it.
            let standing = world.catalogue.log_standing(policy, plan, at).await?;
            planned.standings.push(Stood::of(standing));
            continue;
        }
        let mut subjects = world.catalogue.subjects(policy.kind).await?;
        let planned_subject = policy.kind.subject(plan).to_owned();
        if !subjects.contains(&planned_subject) {
            subjects.push(planned_subject);
        }
        for subject in subjects {
            let known = world.catalogue.known(policy.kind, &subject).await?;
            let standing = world.catalogue.standing(policy, &subject, &known, at).await?;
            due(policy, &known, &standing, at, world, &mut planned).await?;
            planned.findings.extend(stale(policy, &subject, &standing));
            planned.standings.push(Stood::of(standing));
        }
    }
    planned.more = planned.backups.len() > MOST_BACKUPS;
    planned.backups.truncate(MOST_BACKUPS);
    for due in &planned.backups {
        let looked = prove::manifest(&due.backup, plan, world).await?;
        let artifacts = looked.manifest.iter().flat_map(|manifest| &manifest.artifacts);
        let due = |key: &String| ArtifactDue { backup: due.backup.clone(), key: key.clone(), rung: due.rung };
        planned.artifacts.extend(artifacts.map(|artifact| due(&artifact.key)));
        if planned.artifacts.len() > MOST_ARTIFACTS {
            break;
        }
    }
    cut(&mut planned);
    Ok(planned)
}

/// Takes whole backups off the end until what is left is not too much; one that is too much by itself is taken alone.
fn cut(planned: &mut Planned) {
    while planned.artifacts.len() > MOST_ARTIFACTS && planned.backups.len() > 1 {
        let Some(last) = planned.backups.pop() else { return };
        planned.artifacts.retain(|artifact| artifact.backup != last.backup);
        planned.more = true;
    }
}

/// Every complete one without a proof; and the newest one, if its last proof is too low or too old.
async fn due(
    policy: &Policy,
    known: &[Known],
    standing: &Standing,
    at: Timestamp,
    world: &World<'_>,
    planned: &mut Planned,
) -> Result<(), Error> {
    let rung = policy.proven_to.min(HIGHEST);
    let newest = standing.newest.as_ref().map(|newest| &newest.backup);
    for one in known.iter().filter(|one| one.complete) {
        let is_due = if one.proofs.is_empty() {
            true
        } else if Some(&one.backup) == newest {
            let bound = SignedDuration::from_secs_f64(policy.proven_within.seconds() / 2.0);
            let too_old = |proof: &Proof| proof.rung < Some(rung) || at.duration_since(proof.proven_at) > bound;
            world.catalogue.last_proof(one).await?.is_none_or(|proof| too_old(&proof))
        } else {
            false
        };
        if is_due {
            planned.backups.push(ProofDue { backup: one.backup.clone(), rung });
        }
    }
    Ok(())
}

fn stale(policy: &Policy, subject: &str, standing: &Standing) -> Option<Finding> {
    if standing.fresh {
        return None;
    }
    let (kind, within) = (policy.kind, policy.fresh_within);
    let (reason, says) = match standing.age_seconds {
        None => (Reason::Missing, format!("there is no {kind} backup of `{subject}`")),
        Some(age) => {
            let hours = age as f64 / 3600.0;
            (
                Reason::Stale,
                format!("the newest {kind} backup of `{subject}` is {hours:.1} h old, the plan allows {within}"),
            )
        }
    };
    Some(finding(Rung::Present, reason, None, says))
}
