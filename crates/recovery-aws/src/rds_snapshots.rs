//! Snapshots that RDS takes, and their copies in the tertiary region under a key of that region.
//!
//! Each look does at most one thing: begin the snapshot, begin the copy, or find that both are there. The ids derive from
//! the backup's, so a repeated call names the same snapshot and is refused by RDS instead of making a second one.
//! A copy between regions needs a request that is signed for the region that it comes from; the copy must name a key of its
//! own region, since a key is worth nothing outside of its own.
//! <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_CopySnapshot.html>

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_rds::{Client, types::Tag};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use jiff::Timestamp;
use recovery::{
    backup::{BackupId, SnapshotCopy, Source, Tool},
    fault::Fault,
    plan::Region,
};
use recovery_datapath::{Made, Sink, TakeError, Taker};
use url::Url;

use crate::trouble::{Kind, Trouble};

/// How long the signed request is good; RDS uses it at once.
const EXPIRES: Duration = Duration::from_secs(600);

/// What is backed up: an instance, or an Aurora cluster by its ARN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Instance,
    Cluster,
}

/// A snapshot as RDS describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    arn: String,
    status: String,
    percent: i32,
    kms_key: Option<String>,
    taken_at: Option<Timestamp>,
    allocated_gib: u64,
    engine_version: String,
}

/// Snapshots of an instance or a cluster, copied to another region.
pub struct Snapshots {
    source: Client,
    source_region: Region,
    tertiary: Client,
    tertiary_region: Region,
    credentials: Option<SharedCredentialsProvider>,
    instance: String,
    kms_key: String,
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Of a server, behind a client of its region; the copies go behind a client of the tertiary region, under its key.
    pub fn new(
        (source, source_region): (Client, &Region),
        (tertiary, tertiary_region): (Client, &Region),
        credentials: Option<SharedCredentialsProvider>,
        instance: &str,
        kms_key: &str,
    ) -> Snapshots {
        Snapshots {
            source,
            source_region: source_region.clone(),
            tertiary,
            tertiary_region: tertiary_region.clone(),
            credentials,
            instance: instance.to_owned(),
            kms_key: kms_key.to_owned(),
        }
    }

    fn of(&self) -> Of {
        if self.instance.contains(":cluster:") { Of::Cluster } else { Of::Instance }
    }

    /// The API takes names here; the plan has the ARN.
    fn cluster(&self) -> &str {
        self.instance.rsplit_once(':').map_or(self.instance.as_str(), |(_, name)| name)
    }

    fn failed(&self, doing: &str, trouble: Trouble) -> TakeError {
        let fault = match trouble.kind {
            Kind::Unavailable | Kind::Precondition | Kind::Missing => Fault::Transient,
            Kind::Busy => Fault::NotYet,
            Kind::Denied | Kind::Limit => Fault::Refused,
            Kind::Invalid => Fault::Permanent,
        };
        TakeError::Source {
            doing: format!("{doing} of `{}`", self.instance),
            fault,
            remedy: "look at the instance and at the role's rights to its snapshots and to both keys".to_owned(),
            source: trouble.boxed(),
        }
    }

    async fn find(&self, client: &Client, id: &str) -> Result<Option<Snapshot>, TakeError> {
        const DOING: &str = "looking for the snapshot";
        let found = match self.of() {
            Of::Instance => match client.describe_db_snapshots().db_snapshot_identifier(id).send().await {
                Ok(answer) => answer.db_snapshots().first().map(|one| Snapshot {
                    arn: one.db_snapshot_arn().unwrap_or_default().to_owned(),
                    status: one.status().unwrap_or_default().to_owned(),
                    percent: one.percent_progress().unwrap_or_default(),
                    kms_key: one.kms_key_id().map(str::to_owned),
                    taken_at: moment(one.original_snapshot_create_time().or(one.snapshot_create_time())),
                    allocated_gib: one.allocated_storage().and_then(|gib| u64::try_from(gib).ok()).unwrap_or_default(),
                    engine_version: one.engine_version().unwrap_or_default().to_owned(),
                }),
                Err(error) => return self.none_if_missing(DOING, Trouble::from(error)),
            },
            Of::Cluster => match client.describe_db_cluster_snapshots().db_cluster_snapshot_identifier(id).send().await
            {
                Ok(answer) => answer.db_cluster_snapshots().first().map(|one| Snapshot {
                    arn: one.db_cluster_snapshot_arn().unwrap_or_default().to_owned(),
                    status: one.status().unwrap_or_default().to_owned(),
                    percent: one.percent_progress().unwrap_or_default(),
                    kms_key: one.kms_key_id().map(str::to_owned),
                    taken_at: moment(one.snapshot_create_time()),
                    allocated_gib: one.allocated_storage().and_then(|gib| u64::try_from(gib).ok()).unwrap_or_default(),
                    engine_version: one.engine_version().unwrap_or_default().to_owned(),
                }),
                Err(error) => return self.none_if_missing(DOING, Trouble::from(error)),
            },
        };
        Ok(found)
    }

    fn none_if_missing(&self, doing: &str, trouble: Trouble) -> Result<Option<Snapshot>, TakeError> {
        if trouble.kind == Kind::Missing { Ok(None) } else { Err(self.failed(doing, trouble)) }
    }

    async fn begin(&self, backup: &BackupId, id: &str) -> Result<(), TakeError> {
        const DOING: &str = "beginning the snapshot";
        let (client, tag) = (&self.source, Tag::builder().key("backup").value(backup.to_string()).build());
        let begun = match self.of() {
            Of::Instance => {
                let request = client.create_db_snapshot().db_instance_identifier(&self.instance);
                request.db_snapshot_identifier(id).tags(tag).send().await.map(drop).map_err(Trouble::from)
            }
            Of::Cluster => {
                let request = client.create_db_cluster_snapshot().db_cluster_identifier(self.cluster());
                request.db_cluster_snapshot_identifier(id).tags(tag).send().await.map(drop).map_err(Trouble::from)
            }
        };
        begun.or_else(|trouble| self.unless_there(DOING, trouble))
    }

    async fn copy(&self, backup: &BackupId, id: &str, source_arn: &str) -> Result<(), TakeError> {
        const DOING: &str = "beginning the copy";
        let (client, tag) = (&self.tertiary, Tag::builder().key("backup").value(backup.to_string()).build());
        let signed = self
            .presigned(id, source_arn)
            .await
            .map_err(|error| self.failed("signing the copy", Trouble::unexpected(recovery::fault::chain(&*error))))?;
        let begun = match self.of() {
            Of::Instance => {
                let request = client.copy_db_snapshot().source_db_snapshot_identifier(source_arn);
                let request = request.target_db_snapshot_identifier(id).kms_key_id(&self.kms_key).tags(tag);
                request.pre_signed_url(signed).send().await.map(drop).map_err(Trouble::from)
            }
            Of::Cluster => {
                let request = client.copy_db_cluster_snapshot().source_db_cluster_snapshot_identifier(source_arn);
                let request = request.target_db_cluster_snapshot_identifier(id).kms_key_id(&self.kms_key).tags(tag);
                request.pre_signed_url(signed).send().await.map(drop).map_err(Trouble::from)
            }
        };
        begun.or_else(|trouble| self.unless_there(DOING, trouble))
    }

    /// Another attempt began it, or our own did and its answer was lost.
    fn unless_there(&self, doing: &str, trouble: Trouble) -> Result<(), TakeError> {
        let there = trouble.code.as_deref().is_some_and(|code| code.contains("SnapshotAlreadyExists"));
        if there { Ok(()) } else { Err(self.failed(doing, trouble)) }
    }

    /// The same request, signed for the region that the snapshot is in.
    async fn presigned(&self, id: &str, arn: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let provider = self.credentials.as_ref().ok_or("there are no AWS credentials")?;
        let credentials = provider.provide_credentials().await?;
        let region = self.source_region.code();
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let mut url = Url::parse(&format!("https://rds.{region}.{suffix}/"))?;
        let (action, source, target) = match self.of() {
            Of::Instance => ("CopyDBSnapshot", "SourceDBSnapshotIdentifier", "TargetDBSnapshotIdentifier"),
            Of::Cluster => {
                ("CopyDBClusterSnapshot", "SourceDBClusterSnapshotIdentifier", "TargetDBClusterSnapshotIdentifier")
            }
        };
        url.query_pairs_mut().extend_pairs([
            ("Action", action),
            ("Version", "2014-10-31"),
            (source, arn),
            (target, id),
            ("KmsKeyId", &self.kms_key),
            ("DestinationRegion", self.tertiary_region.code()),
        ]);
        let identity = credentials.into();
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(EXPIRES);
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name("rds")
            .time(SystemTime::now())
            .settings(settings)
            .build()?;
        let request = SignableRequest::new("GET", url.as_str(), std::iter::empty(), SignableBody::Bytes(&[]))?;
        let (instructions, _) = sign(request, &params.into())?.into_parts();
        let (_, query) = instructions.into_parts();
        url.query_pairs_mut().extend_pairs(query);
        Ok(url.into())
    }
}

fn moment(time: Option<&aws_sdk_rds::primitives::DateTime>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::from_second(time.secs()).ok())
}

/// What RDS takes as an identifier: letters, digits and single hyphens.
fn identifier(backup: &BackupId) -> String {
    let text = format!("{}-{}", backup.subject, backup.to_string().rsplit('/').next().unwrap_or_default());
    let text: String = text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// `15.14` as `server_version_num` has it.
fn server_version(engine: &str) -> u32 {
    let mut parts = engine.split('.').map_while(|part| part.parse::<u32>().ok());
    parts.next().unwrap_or_default() * 10_000 + parts.next().unwrap_or_default()
}

#[async_trait]
impl Taker for Snapshots {
    async fn size_bytes(&self) -> Result<u64, TakeError> {
        // RDS moves them itself.
        Ok(0)
    }

    async fn take(&self, backup: &BackupId, _sink: &Sink) -> Result<Made, TakeError> {
        let id = identifier(backup);
        let refused = |says: String| TakeError::Refused {
            says,
            remedy: "look at the events of the instance; the next backup gets another id".to_owned(),
        };
        let under_way = |what: &str, snapshot: &Snapshot| {
            TakeError::NotYet(format!("the {what} `{id}` is {}, {} %", snapshot.status, snapshot.percent))
        };
        let (copy, region) = match self.find(&self.tertiary, &id).await? {
            Some(copy) if copy.status == "available" => (copy, self.tertiary_region.clone()),
            Some(copy) if copy.status == "failed" => return Err(refused(format!("the copy `{id}` has failed"))),
            Some(copy) => return Err(under_way("copy", &copy)),
            None => {
                return Err(match self.find(&self.source, &id).await? {
                    Some(original) if original.status == "available" => {
                        self.copy(backup, &id, &original.arn).await?;
                        TakeError::NotYet(format!("the copy `{id}` has been begun"))
                    }
                    Some(original) if original.status == "failed" => refused(format!("the snapshot `{id}` has failed")),
                    Some(original) => under_way("snapshot", &original),
                    None => {
                        self.begin(backup, &id).await?;
                        TakeError::NotYet(format!("the snapshot `{id}` has been begun"))
                    }
                });
            }
        };
        // What is encrypted under a key of a lost region cannot be opened.
        let kms_key = copy.kms_key.clone().ok_or_else(|| refused(format!("the copy `{id}` is not encrypted")))?;
        if kms_key.split(':').nth(3).is_some_and(|of| of != region.code()) {
            return Err(refused(format!("the copy `{id}` is under `{kms_key}`, a key of another region")));
        }
        Ok(Made {
            tool: Tool { name: "rds".to_owned(), version: copy.engine_version.clone() },
            source: Source::PostgreSql {
                instance: self.instance.clone(),
                system_identifier: None,
                timeline: None,
                server_version: server_version(&copy.engine_version),
                from_lsn: None,
                to_lsn: None,
                in_recovery: false,
                databases: Vec::new(),
                snapshots: vec![SnapshotCopy {
                    arn: copy.arn,
                    region,
                    kms_key,
                    taken_at: copy.taken_at.unwrap_or(backup.due_at),
                    allocated_gib: copy.allocated_gib,
                }],
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_rds_takes() {
        let id = |text: &str| identifier(&text.parse().unwrap());
        assert_eq!(id("snapshot/sparc-prod/20261126T020000Z"), "sparc-prod-20261126t020000z");
        assert_eq!(id("snapshot/sparc_prod--x/20261126T020000Z"), "sparc-prod-x-20261126t020000z");
        assert_eq!((server_version("15.14"), server_version("17.4-R1"), server_version("")), (150_014, 170_000, 0));
    }
}
