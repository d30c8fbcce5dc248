//! The manifest of one backup: what it is made of and what it was made from.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupId, Lock, Place};
use crate::{
    lsn::Lsn,
    plan::{Region, StorageClass},
};

/// The form of the manifest that this code writes.
pub const MANIFEST_VERSION: u32 = 1;

/// A SHA-256 as 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// The text of a digest.
    pub fn of(digest: &[u8; 32]) -> Sha256Hex {
        Sha256Hex(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Sha256Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits { Ok(Sha256Hex(text)) } else { Err(format!("`{text}` is no SHA-256; it has 64 digits 0-9a-f")) }
    }
}

impl From<Sha256Hex> for String {
    fn from(digest: Sha256Hex) -> String {
        digest.0
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A digest of plain bytes that verification compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlainDigest {
    /// CRC64NVME: 22 GB/s on one core, where SHA-256 has 1.8.
    Crc64Nvme(String),
    /// SHA-256, for manifests that have no other.
    Sha256(Sha256Hex),
}

impl fmt::Display for PlainDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlainDigest::Crc64Nvme(crc) => write!(f, "CRC64NVME {crc}"),
            PlainDigest::Sha256(digest) => write!(f, "SHA-256 {digest}"),
        }
    }
}

/// How the stored bytes of an artifact come from its plain ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// They are the same.
    Identity,
    /// Zstandard frames, one after the other.
    Zstd,
    /// One gzip member.
    Gzip,
}

impl Encoding {
    /// What is put behind the name of an artifact.
    pub const fn suffix(self) -> &'static str {
        match self {
            Encoding::Identity => "",
            Encoding::Zstd => ".zst",
            Encoding::Gzip => ".gz",
        }
    }
}

/// Formats of `pg_dump`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DumpFormat {
    /// `--format=custom --compress=0`: the archive with a table of contents; compressed by us.
    Custom,
    /// `--format=plain`: SQL.
    Plain,
    /// `--format=directory --compress=0`: its table of contents; the data is in files beside it, [`Content::DumpData`].
    Directory,
}

/// Files in the order in which they were sent, by one digest of their names, lengths and checksums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileListing {
    /// How many.
    pub files: u64,
    /// SHA-256 of a line for each: its path in the cluster's folder, its length and its CRC-32C in hexadecimal digits, with
    /// a zero byte between them and a newline behind.
    pub sha256: Sha256Hex,
}

/// What an artifact holds, which decides how its structure is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Content {
    /// `pg_dump` of one database.
    Dump {
        /// Which.
        database: String,
        /// How it is written.
        format: DumpFormat,
    },
    /// One file of a dump in the directory format: the data of a table, a large object, or a list of large objects.
    DumpData {
        /// Of which database.
        database: String,
        /// Its name, as the table of contents has it.
        file: String,
        /// The table, as `schema.table`; absent if it is no table's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<String>,
    },
    /// `pg_dumpall --globals-only`: roles, memberships and tablespaces, as SQL.
    Globals,
    /// The tar file of a cluster as `pg_basebackup --format=tar` writes it, with `backup_manifest` as its last file.
    BaseBackup,
    /// The tar file of one of its tablespaces.
    Tablespace {
        /// Its number, which names the file and the line in `tablespace_map`.
        oid: u32,
        /// Where it lies on the server that was read.
        location: String,
        /// What `backup_manifest` lists of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listing: Option<FileListing>,
    },
    /// Resources of a Kubernetes cluster; secrets in it are sealed.
    ClusterResources,
    /// Volume snapshots of a Kubernetes cluster, by name and handle.
    VolumeSnapshots,
    /// Replication status of objects, by sample.
    ReplicationStatus,
    /// Digests of images in both regions.
    ImageDigests,
    /// What a failover needs, each present or missing.
    RecoveryClosure,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Dump { database, .. } => write!(f, "the dump of `{database}`"),
            Content::DumpData { database, file, .. } => write!(f, "the file `{file}` of the dump of `{database}`"),
            Content::Globals => f.write_str("the globals"),
            Content::BaseBackup => f.write_str("the base backup"),
            Content::Tablespace { location, .. } => write!(f, "the tablespace in `{location}`"),
            Content::ClusterResources => f.write_str("the cluster's resources"),
            Content::VolumeSnapshots => f.write_str("the volume snapshots"),
            Content::ReplicationStatus => f.write_str("the replication status"),
            Content::ImageDigests => f.write_str("the image digests"),
            Content::RecoveryClosure => f.write_str("the recovery closure"),
        }
    }
}

/// One object of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Key in the backups bucket, inside the backup's folder.
    pub key: String,
    /// What it holds.
    pub content: Content,
    /// The object's version, where the bucket keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Length before encoding.
    pub plain_bytes: u64,
    /// Length as stored.
    pub stored_bytes: u64,
    /// SHA-256 before encoding.
    pub plain_sha256: Sha256Hex,
    /// CRC64NVME before encoding, written as that of the stored bytes. Verification compares it and not the SHA-256: what is
    /// stored is proven by its own SHA-256, so all that is left to find is an encoder or a decoder that errs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_crc64nvme: Option<String>,
    /// SHA-256 as stored.
    pub stored_sha256: Sha256Hex,
    /// CRC64NVME of the stored bytes as S3 writes it: base64 of eight bytes, big-endian.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>
    pub crc64nvme: String,
    /// How the stored bytes come from the plain ones.
    pub encoding: Encoding,
}

impl Artifact {
    /// The digest by which the decoded bytes are known.
    pub fn plain_digest(&self) -> PlainDigest {
        match &self.plain_crc64nvme {
            Some(crc) => PlainDigest::Crc64Nvme(crc.clone()),
            None => PlainDigest::Sha256(self.plain_sha256.clone()),
        }
    }
}

/// What made the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `pg_dump`, `BASE_BACKUP`, `rds`, `kube`.
    pub name: String,
    /// As the tool says it: `15.14`.
    pub version: String,
}

/// What the backup was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A PostgreSQL cluster.
    #[serde(rename = "postgresql")]
    PostgreSql {
        /// The server's name in the plan.
        instance: String,
        /// Identifies the cluster since `initdb`; absent where the server does not say it (RDS).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        system_identifier: Option<String>,
        /// Timeline at the beginning; absent where the server does not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeline: Option<u32>,
        /// `server_version_num`: 150014.
        server_version: u32,
        /// Position that a restore begins at: of the oldest snapshot, or of the base backup's checkpoint.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_lsn: Option<Lsn>,
        /// Position that a restore must reach to be consistent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to_lsn: Option<Lsn>,
        /// Whether a standby was read.
        in_recovery: bool,
        /// One per database that is in the backup.
        databases: Vec<DatabaseFacts>,
        /// Snapshots that a managed service keeps for us, instead of artifacts.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        snapshots: Vec<SnapshotCopy>,
    },
    /// A Kubernetes cluster.
    Kubernetes {
        /// Name in the plan.
        cluster: String,
        /// As the API server says it.
        server_version: String,
        /// Objects by kind, `apps/v1/Deployment`.
        counts: BTreeMap<String, u64>,
    },
    /// A bucket that is replicated.
    Bucket {
        /// Which.
        bucket: String,
        /// Its copy.
        replica: String,
    },
    /// The platform as a whole: registry, closure.
    Platform {
        /// Regions that were looked at.
        regions: Vec<Region>,
    },
}

/// What a database held as of the snapshot that the backup was taken from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseFacts {
    /// Its name.
    pub name: String,
    /// The server's clock when the snapshot was taken. A snapshot is of one database, so each has its own moment; they
    /// are taken right after each other.
    pub as_of: Timestamp,
    /// End of the log at that moment, written or replayed.
    pub lsn: Lsn,
    /// `pg_database_size`.
    pub size_bytes: u64,
    /// One per ordinary table that is in the backup, by name.
    pub tables: Vec<TableFacts>,
    /// Tables whose data is left out on purpose, as the plan has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
}

/// What a table held as of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableFacts {
    /// `schema.table`, unquoted.
    pub name: String,
    /// Rows that the snapshot sees.
    pub rows: u64,
    /// Newest value of the column that the plan names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Timestamp>,
}

/// A snapshot that RDS keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCopy {
    /// ARN of the snapshot.
    pub arn: String,
    /// Where it is.
    pub region: Region,
    /// Key that it is encrypted with; a key of its own region.
    pub kms_key: String,
    /// When the snapshot that it copies was taken.
    pub taken_at: Timestamp,
    /// Allocated storage.
    pub allocated_gib: u64,
}

/// How the artifacts are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protection {
    /// Where the bucket is.
    pub region: Region,
    /// The bucket.
    pub bucket: String,
    /// Key that the artifacts are encrypted with; absent where the bucket's own key is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// Object Lock mode.
    pub lock: Lock,
    /// Nobody can delete it before; and nothing of ours does.
    pub retain_until: Timestamp,
    /// Storage class of the artifacts; the manifest itself is always readable at once.
    pub storage_class: StorageClass,
    /// How long it may take until an artifact can be read.
    pub retrieval_seconds: u64,
}

/// How far a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Artifacts are being written; there is no manifest.
    Uploading,
    /// Everything is written, nothing is proven: not usable yet.
    Complete,
}

/// One backup: written last, once, and never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupManifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// Which backup.
    pub id: BackupId,
    /// The plan's platform.
    pub platform: String,
    /// How far it is: `complete` in the backups bucket, `uploading` in the record of its progress.
    pub phase: Phase,
    /// When it was begun, by the clock of the function.
    pub began_at: Timestamp,
    /// When the last artifact was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Where it was taken: how long it took says how fast that place is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_in: Option<Place>,
    /// What made it.
    pub tool: Tool,
    /// What it was made from.
    pub source: Source,
    /// The objects, in the order in which they were written.
    pub artifacts: Vec<Artifact>,
    /// How they are kept.
    pub protection: Protection,
}

/// Why a manifest cannot be believed, before anything else is looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestProblem {
    /// It is not of the form.
    #[error("the manifest is not of the expected form: {0}")]
    Form(String),
    /// Written by something newer.
    #[error("the manifest has version {0}, this program reads {MANIFEST_VERSION}")]
    Version(u32),
    /// It lies in another backup's folder.
    #[error("the manifest is of `{found}` and lies in the folder of `{expected}`")]
    OtherBackup {
        /// What it says.
        found: BackupId,
        /// Where it lies.
        expected: BackupId,
    },
    /// It was published before it was complete.
    #[error("the manifest says that the backup is still uploading")]
    Uploading,
    /// A key outside the backup's folder, or twice.
    #[error("the manifest names `{0}` outside its folder or twice")]
    Key(String),
    /// Nothing is in it.
    #[error("the manifest has neither artifacts nor snapshots")]
    Empty,
}

impl BackupManifest {
    /// The bytes that are written, and that [`Receipt::manifest_sha256`] is of.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Every field serialises: no map has keys that are not text.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Reads the manifest of a backup.
    ///
    /// # Errors
    /// The first way in which it contradicts itself or where it was found.
    pub fn read(bytes: &[u8], expected: &BackupId) -> Result<BackupManifest, ManifestProblem> {
        // The version first: a newer form has fields that are unknown here.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let form = |error: serde_json::Error| ManifestProblem::Form(error.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(form)?;
        if version != MANIFEST_VERSION {
            return Err(ManifestProblem::Version(version));
        }
        let manifest: BackupManifest = serde_json::from_slice(bytes).map_err(form)?;
        if manifest.id != *expected {
            return Err(ManifestProblem::OtherBackup { found: manifest.id, expected: expected.clone() });
        }
        if manifest.phase != Phase::Complete {
            return Err(ManifestProblem::Uploading);
        }
        let folder = expected.folder();
        for (i, artifact) in manifest.artifacts.iter().enumerate() {
            let twice = manifest.artifacts[..i].iter().any(|other| other.key == artifact.key);
            if twice || !artifact.key.starts_with(&folder) || artifact.key == expected.manifest_key() {
                return Err(ManifestProblem::Key(artifact.key.clone()));
            }
        }
        let snapshots = match &manifest.source {
            Source::PostgreSql { snapshots, .. } => snapshots.len(),
            Source::Kubernetes { .. } | Source::Bucket { .. } | Source::Platform { .. } => 0,
        };
        if manifest.artifacts.is_empty() && snapshots == 0 {
            return Err(ManifestProblem::Empty);
        }
        Ok(manifest)
    }

    /// Length of all artifacts as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.artifacts.iter().map(|artifact| artifact.stored_bytes).sum()
    }

    /// Length of all artifacts before encoding.
    pub fn plain_bytes(&self) -> u64 {
        self.artifacts.iter().map(|artifact| artifact.plain_bytes).sum()
    }
}

/// Kept in the evidence bucket when a backup is complete: the manifest cannot vouch for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Which backup.
    pub backup: BackupId,
    /// SHA-256 of the manifest's bytes.
    pub manifest_sha256: Sha256Hex,
    /// Version of the manifest, where the bucket keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_version_id: Option<String>,
    /// When the last artifact was complete.
    pub completed_at: Timestamp,
    /// Nobody can delete the artifacts before.
    pub retain_until: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Kind;

    fn digest(n: u8) -> Sha256Hex {
        Sha256Hex::of(&[n; 32])
    }

    pub(crate) fn manifest() -> BackupManifest {
        let id = BackupId::new(Kind::Logical, "sparc-prod", "2026-11-26T02:00:00Z".parse().unwrap()).unwrap();
        BackupManifest {
            version: MANIFEST_VERSION,
            platform: "sparc".to_owned(),
            phase: Phase::Complete,
            began_at: id.due_at,
            completed_at: Some(id.due_at),
            taken_in: None,
            tool: Tool { name: "pg_dump".to_owned(), version: "15.14".to_owned() },
            source: Source::PostgreSql {
                instance: "sparc-prod".to_owned(),
                system_identifier: Some("7000000000000000001".to_owned()),
                timeline: Some(1),
                server_version: 150_014,
                from_lsn: Some("0/3000148".parse().unwrap()),
                to_lsn: Some("0/3000148".parse().unwrap()),
                in_recovery: false,
                databases: vec![DatabaseFacts {
                    name: "sparc_prod".to_owned(),
                    as_of: id.due_at,
                    lsn: "0/3000148".parse().unwrap(),
                    size_bytes: 8_000_000,
                    tables: vec![TableFacts { name: "public.incident".to_owned(), rows: 3, newest: Some(id.due_at) }],
                    excluded: Vec::new(),
                }],
                snapshots: Vec::new(),
            },
            artifacts: vec![Artifact {
                key: id.artifact_key("sparc_prod.dump.zst"),
                content: Content::Dump { database: "sparc_prod".to_owned(), format: DumpFormat::Custom },
                version_id: None,
                plain_bytes: 100,
                stored_bytes: 50,
                plain_sha256: digest(1),
                plain_crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
                stored_sha256: digest(2),
                crc64nvme: "AAAAAAAAAAA=".to_owned(),
                encoding: Encoding::Zstd,
            }],
            protection: Protection {
                region: "eu-west-1".to_owned().try_into().unwrap(),
                bucket: "sparc-backups-prod".to_owned(),
                kms_key: None,
                lock: Lock::Compliance,
                retain_until: "2026-12-26T02:00:00Z".parse().unwrap(),
                storage_class: StorageClass::GlacierIr,
                retrieval_seconds: 0,
            },
            id,
        }
    }

    #[test]
    fn a_manifest_survives_being_written() {
        let manifest = manifest();
        assert_eq!(BackupManifest::read(&manifest.to_bytes(), &manifest.id).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_that_contradicts_its_place_is_not_read() {
        let good = manifest();
        let read = |change: &dyn Fn(&mut BackupManifest)| {
            let mut changed = good.clone();
            change(&mut changed);
            BackupManifest::read(&changed.to_bytes(), &good.id).unwrap_err()
        };
        assert_eq!(read(&|m| m.version = 2), ManifestProblem::Version(2));
        assert_eq!(read(&|m| m.phase = Phase::Uploading), ManifestProblem::Uploading);
        assert_eq!(read(&|m| m.artifacts.clear()), ManifestProblem::Empty);
        assert!(matches!(read(&|m| m.artifacts[0].key = "backups/x".to_owned()), ManifestProblem::Key(_)));
        assert!(matches!(read(&|m| m.artifacts.push(m.artifacts[0].clone())), ManifestProblem::Key(_)));
        assert!(matches!(read(&|m| m.id.subject = "other".to_owned()), ManifestProblem::OtherBackup { .. }));
        let mut unknown: serde_json::Value = serde_json::from_slice(&good.to_bytes()).unwrap();
        unknown["artifacts"][0]["note"] = "x".into();
        let bytes = serde_json::to_vec(&unknown).unwrap();
        assert!(matches!(BackupManifest::read(&bytes, &good.id), Err(ManifestProblem::Form(_))));
    }
}
