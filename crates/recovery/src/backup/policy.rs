//! The plan's section `[backups]`: what is backed up, how often, and how it is kept.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Encoding, Kind, Rung};
use crate::{
    cluster_state::{EVERY_NAMESPACE, Selection, VolumeSelection},
    objective::Span,
    plan::{Plan, StorageClass},
    spelling::nearest,
};

/// What is backed up, how often, and how it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backups {
    /// Secrets Manager name, in the tertiary region, of the role that reads databases for backups.
    pub secret: String,
    /// Key of the tertiary region that backups and snapshot copies are encrypted with; by ARN, so that its region is seen.
    pub kms_key: String,
    /// Object Lock mode of the artifacts.
    pub lock: Lock,
    /// Which server is read: the standby, so that customers do not notice, or the primary.
    pub read_from: Taken,
    /// How artifacts are compressed.
    #[serde(default = "zstd")]
    pub encoding: Encoding,
    /// Bytes of a database that a backup is taken to move in a second until one has been measured; sizes over it decide
    /// between Lambda and Job.
    pub bytes_per_second: u64,
    /// Where what is too large for a Lambda runs.
    pub job: JobSettings,
    /// One per kind that is taken.
    #[serde(rename = "policy")]
    pub policies: Vec<Policy>,
    /// Databases that need something of their own; every database of the plan is backed up, named here or not.
    #[serde(default, rename = "database", skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<DatabaseBackup>,
    /// What of the cluster is taken; everything but what is Kubernetes' own if left out.
    #[serde(default)]
    pub cluster: Selection,
}

fn zstd() -> Encoding {
    Encoding::Zstd
}

/// Which server a backup is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Taken {
    /// The server that takes writes.
    Primary,
    /// The server that follows it. A dump there is cancelled by a recovery conflict unless
    /// `hot_standby_feedback` or `max_standby_streaming_delay` allow for it.
    Standby,
}

/// S3 Object Lock.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lock {
    /// Nobody can delete before the date, the account's root included.
    Compliance,
    /// Who has `s3:BypassGovernanceRetention` can.
    Governance,
    /// Nothing is locked.
    Off,
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lock::Compliance => "compliance",
            Lock::Governance => "governance",
            Lock::Off => "off",
        })
    }
}

/// The Job that takes what is too large for a Lambda, in the cluster that a failover goes to: it stands beside the standby
/// that is read, and it is there when the primary region is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSettings {
    /// Image with the same program, by digest.
    pub image: String,
    /// Namespace in that cluster.
    pub namespace: String,
    /// Service account whose role may write backups.
    pub service_account: String,
}

/// How one kind of backup is taken and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Which kind.
    pub kind: Kind,
    /// Time between two.
    pub every: Span,
    /// Age of the newest complete one from which people are told.
    pub fresh_within: Span,
    /// Age of the newest proven one from which people are told.
    pub proven_within: Span,
    /// How much must be proven for it to count as proven.
    pub proven_to: Rung,
    /// How long each is kept; the last proven one is kept longer if there is no other.
    #[serde(default = "thirty")]
    pub retention_days: u32,
    /// Where artifacts lie, which decides how soon they can be read.
    pub storage_class: StorageClass,
    /// The component that is recovered from it; what it takes to read it must fit its objective.
    pub recovers: String,
    /// Databases whose backups of this kind are taken; absent means all of the plan. Only of kind `logical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases: Option<Vec<String>>,
    /// Dumps are written in the directory format, by several processes; absent means the custom format, by one. Only of kind
    /// `logical`, and always in a Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryFormat>,
}

/// `pg_dump --format=directory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryFormat {
    /// How many processes read the server at once.
    pub jobs: u32,
    /// How much of the dump may wait in the scratch folder; `pg_dump` is held while there is more.
    pub scratch_bytes: u64,
}

impl DirectoryFormat {
    const MOST_JOBS: u32 = 64;
    /// Below this the processes are held all the time.
    const LEAST_SCRATCH: u64 = 64 << 20;
    const LEAST_FOR_A_JOB: u64 = 8 << 20;

    fn problem(self) -> Option<(&'static str, String)> {
        let DirectoryFormat { jobs, scratch_bytes } = self;
        if jobs == 0 || jobs > Self::MOST_JOBS {
            let text = format!("a dump by {jobs} processes is none; write 1 to {}", Self::MOST_JOBS);
            return Some(("jobs", text));
        }
        let least = Self::LEAST_SCRATCH.max(u64::from(jobs) * Self::LEAST_FOR_A_JOB);
        (scratch_bytes < least).then(|| {
            (
                "scratch_bytes",
                format!("{scratch_bytes} bytes of scratch hold {jobs} processes all the time; write {least} or more"),
            )
        })
    }
}

fn thirty() -> u32 {
    30
}

/// What one database needs of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseBackup {
    /// Which.
    pub name: String,
    /// Tables whose data is left out of logical backups, as `schema.table`; their definitions are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_data_of: Vec<String>,
    /// Column that says how new a row is, by `schema.table`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub newest_by: BTreeMap<String, String>,
}

impl JobSettings {
    /// The first thing that is wrong, and its field.
    fn first_problem(&self) -> Option<(&'static str, String)> {
        let digest = self.image.split_once("@sha256:").map(|(_, digest)| digest);
        let by_digest = digest.is_some_and(|digest| {
            digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        if !by_digest {
            return Some((
                "image",
                format!(
                    "`{}` does not name an image by its digest, so what reads every database could be replaced; end it with @sha256: and 64 digits",
                    self.image
                ),
            ));
        }
        for (field, name) in [("namespace", &self.namespace), ("service_account", &self.service_account)] {
            let label = (1..=63).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !name.starts_with('-')
                && !name.ends_with('-');
            if !label {
                let text = format!("`{name}` is no name of Kubernetes; it has lower-case letters, digits and hyphens");
                return Some((field, text));
            }
        }
        None
    }
}

impl Backups {
    /// The policy of a kind.
    pub fn policy(&self, kind: Kind) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.kind == kind)
    }

    /// The first thing in this section that is wrong, and its path in the plan.
    pub(crate) fn first_problem(&self, plan: &Plan) -> Option<(Vec<String>, String)> {
        let at = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
        let tertiary = &plan.regions.tertiary;
        let in_region = self.kms_key.split(':').nth(2) == Some("kms")
            && self.kms_key.split(':').nth(3) == Some(tertiary.code())
            && self.kms_key.split(':').nth(5).is_some_and(|key| key.starts_with("key/"));
        if !in_region {
            return Some((
                at("backups.kms_key"),
                format!(
                    "`{}` is not a KMS key of the tertiary region `{tertiary}`; a backup whose key is lost with its region is none, write the ARN of a key there",
                    self.kms_key
                ),
            ));
        }
        if self.bytes_per_second == 0 {
            return Some((
                at("backups.bytes_per_second"),
                "a backup that moves 0 bytes in a second never ends; write what was measured".to_owned(),
            ));
        }
        if let Some((field, text)) = self.job.first_problem() {
            return Some((at(&format!("backups.job.{field}")), text));
        }
        let database = |name: &String| plan.postgresql.databases.contains(name);
        for (i, policy) in self.policies.iter().enumerate() {
            let kind = policy.kind;
            if self.policies[..i].iter().any(|other| other.kind == kind) {
                return Some((at(&format!("backups.policy.{i}.kind")), format!("`{kind}` is planned twice; keep one")));
            }
            if policy.retention_days == 0 {
                return Some((
                    at(&format!("backups.policy.{i}.retention_days")),
                    format!("a backup of kind `{kind}` is kept for 0 days; keep it for at least 1"),
                ));
            }
            if kind == Kind::Snapshot && matches!(policy.proven_to, Rung::Digests | Rung::Structure) {
                return Some((
                    at(&format!("backups.policy.{i}.proven_to")),
                    "RDS lets nobody read a snapshot; write `present`, or `restored` where each is restored".to_owned(),
                ));
            }
            if plan.component(&policy.recovers).is_none() {
                let known = plan.components.iter().map(|component| component.name.as_str());
                let hint =
                    nearest(&policy.recovers, known).map_or_else(String::new, |name| format!("; perhaps `{name}`"));
                return Some((
                    at(&format!("backups.policy.{i}.recovers")),
                    format!("`{kind}` recovers `{}`, which is no component{hint}", policy.recovers),
                ));
            }
            if let Some(directory) = policy.directory {
                if kind != Kind::Logical {
                    let text = format!("a backup of kind `{kind}` is no dump; leave `directory` out");
                    return Some((at(&format!("backups.policy.{i}.directory")), text));
                }
                if let Some((field, text)) = directory.problem() {
                    return Some((at(&format!("backups.policy.{i}.directory.{field}")), text));
                }
            }
            if let Some(databases) = &policy.databases {
                let text = if kind != Kind::Logical {
                    format!("a backup of kind `{kind}` is of the whole cluster; leave `databases` out")
                } else if databases.is_empty() {
                    "a logical backup of no database is none; name one or leave `databases` out".to_owned()
                } else if let Some(unknown) = databases.iter().find(|name| !database(name)) {
                    format!("`{unknown}` is no database of the cluster; correct it or add it to `postgresql.databases`")
                } else {
                    continue;
                };
                return Some((at(&format!("backups.policy.{i}.databases")), text));
            }
        }
        for (i, own) in self.databases.iter().enumerate() {
            let text = if !database(&own.name) {
                format!("the backup names `{}`, which is no database of the cluster; correct it", own.name)
            } else if self.databases[..i].iter().any(|other| other.name == own.name) {
                format!("`{}` is named twice; keep one", own.name)
            } else {
                continue;
            };
            return Some((at(&format!("backups.database.{i}.name")), text));
        }
        self.cluster_problem().map(|(path, text)| (at(&path), text))
    }

    fn cluster_problem(&self) -> Option<(String, String)> {
        let Selection { namespaces, volumes, .. } = &self.cluster;
        if namespaces.is_empty() {
            let text = "a backup of no namespace is none; name one or write \"*\"".to_owned();
            return Some(("backups.cluster.namespaces".to_owned(), text));
        }
        for (i, VolumeSelection { namespace, claim, .. }) in volumes.iter().enumerate() {
            let text = if !namespaces.iter().any(|one| one == namespace || one == EVERY_NAMESPACE) {
                format!(
                    "`{namespace}` is not among the namespaces, so the claim `{claim}` would not be in the backup; add it"
                )
            } else if volumes[..i].iter().any(|other| (&other.namespace, &other.claim) == (namespace, claim)) {
                format!("the claim `{claim}` of `{namespace}` is named twice; keep one")
            } else {
                continue;
            };
            return Some((format!("backups.cluster.volume.{i}.claim"), text));
        }
        None
    }

    /// What a database needs of its own.
    pub fn database(&self, name: &str) -> Option<&DatabaseBackup> {
        self.databases.iter().find(|database| database.name == name)
    }
}
