//! Snapshots of RDS and Aurora in one region: described, begun, copied to, deleted.
//!
//! A copy between regions needs a request that is signed for the region that it comes from, and a key of the region that it
//! goes to, since a key is worth nothing outside of its own.
//! <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_CopySnapshot.html>

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_rds::{
    Client,
    primitives::DateTime,
    types::{DbClusterSnapshot, DbSnapshot, Tag},
};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use jiff::Timestamp;
use recovery::{
    backup::{SNAPSHOT_PREFIX, Snapshot, SnapshotError, SnapshotShelf},
    fault::Fault,
};
use url::Url;

use crate::trouble::{Kind, Trouble};

/// How long the signed request is good; RDS uses it at once.
const EXPIRES: Duration = Duration::from_secs(600);

/// The tag that says of what moment the data of a copy is: of a cluster's snapshot RDS says only when the copy was made.
const TAKEN_AT: &str = "taken-at";

/// Whose snapshots they are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    Instance(String),
    /// Of Aurora.
    Cluster(String),
}

/// The snapshots of one region.
#[derive(Clone, Debug)]
pub struct RdsShelf {
    client: Client,
    region: String,
    of: Of,
}

impl RdsShelf {
    /// Of an instance by its name, or of an Aurora cluster by its ARN, behind a client of the region.
    pub fn new(client: Client, region: &str, instance: &str) -> RdsShelf {
        // The API takes names of clusters; the plan has the ARN.
        let of = match instance.rsplit_once(":cluster:") {
            Some((_, cluster)) => Of::Cluster(cluster.to_owned()),
            None => Of::Instance(instance.to_owned()),
        };
        RdsShelf { client, region: region.to_owned(), of }
    }

    /// The name of the instance or cluster.
    pub(crate) fn source(&self) -> &str {
        match &self.of {
            Of::Instance(name) | Of::Cluster(name) => name,
        }
    }

    /// Begins a snapshot. One that is there already is success: another attempt began it, or our own did and its answer was
    /// lost.
    pub(crate) async fn begin(&self, id: &str, tags: &BTreeMap<String, String>) -> Result<(), SnapshotError> {
        let client = &self.client;
        let begun = match &self.of {
            Of::Instance(name) => {
                let request = client.create_db_snapshot().db_instance_identifier(name).db_snapshot_identifier(id);
                request.set_tags(Some(listed(tags))).send().await.map(drop).map_err(Trouble::from)
            }
            Of::Cluster(name) => {
                let request = client.create_db_cluster_snapshot().db_cluster_identifier(name);
                let request = request.db_cluster_snapshot_identifier(id).set_tags(Some(listed(tags)));
                request.send().await.map(drop).map_err(Trouble::from)
            }
        };
        unless_there(begun).map_err(|trouble| self.failed(&format!("beginning the snapshot `{id}`"), trouble))
    }

    /// Begins a copy of a snapshot of another region, under a key of this one; as [`RdsShelf::begin`].
    pub(crate) async fn copy(
        &self,
        original: &Snapshot,
        from_region: &str,
        kms_key: &str,
        credentials: Option<&SharedCredentialsProvider>,
    ) -> Result<(), SnapshotError> {
        let (client, id) = (&self.client, original.id.as_str());
        let doing = format!("beginning the copy `{id}`");
        let signed = self.presigned(original, from_region, kms_key, credentials).await;
        let signed =
            signed.map_err(|error| self.failed(&doing, Trouble::unexpected(recovery::fault::chain(&*error))))?;
        // With tags of its own a copy gets none of the original's, whatever `CopyTags` says.
        let mut tags = original.tags.clone();
        tags.extend(original.taken_at.map(|taken_at| (TAKEN_AT.to_owned(), taken_at.to_string())));
        let tags = Some(listed(&tags));
        let begun = match &self.of {
            Of::Instance(_) => {
                let request = client.copy_db_snapshot().source_db_snapshot_identifier(&original.arn);
                let request = request.target_db_snapshot_identifier(id).kms_key_id(kms_key).set_tags(tags);
                request.pre_signed_url(signed).send().await.map(drop).map_err(Trouble::from)
            }
            Of::Cluster(_) => {
                let request = client.copy_db_cluster_snapshot().source_db_cluster_snapshot_identifier(&original.arn);
                let request = request.target_db_cluster_snapshot_identifier(id).kms_key_id(kms_key).set_tags(tags);
                request.pre_signed_url(signed).send().await.map(drop).map_err(Trouble::from)
            }
        };
        unless_there(begun).map_err(|trouble| self.failed(&doing, trouble))
    }

    /// The same request, signed for the region that the snapshot is in.
    async fn presigned(
        &self,
        original: &Snapshot,
        from_region: &str,
        kms_key: &str,
        credentials: Option<&SharedCredentialsProvider>,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let provider = credentials.ok_or("there are no AWS credentials")?;
        let identity = provider.provide_credentials().await?.into();
        let suffix = if from_region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let mut url = Url::parse(&format!("https://rds.{from_region}.{suffix}/"))?;
        let (action, source, target) = match self.of {
            Of::Instance(_) => ("CopyDBSnapshot", "SourceDBSnapshotIdentifier", "TargetDBSnapshotIdentifier"),
            Of::Cluster(_) => {
                ("CopyDBClusterSnapshot", "SourceDBClusterSnapshotIdentifier", "TargetDBClusterSnapshotIdentifier")
            }
        };
        url.query_pairs_mut().extend_pairs([
            ("Action", action),
            ("Version", "2014-10-31"),
            (source, &original.arn),
            (target, &original.id),
            ("KmsKeyId", kms_key),
            ("DestinationRegion", &self.region),
        ]);
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(EXPIRES);
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(from_region)
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

    fn failed(&self, doing: &str, trouble: Trouble) -> SnapshotError {
        // A snapshot that was there a moment ago; the next look finds out that it is not.
        let has_gone = trouble.code.as_deref().is_some_and(|code| code.contains("SnapshotNotFound"));
        let fault = match trouble.kind {
            Kind::Missing if has_gone => Fault::Transient,
            Kind::Unavailable | Kind::Precondition => Fault::Transient,
            Kind::Busy => Fault::NotYet,
            Kind::Denied | Kind::Limit => Fault::Refused,
            Kind::Missing | Kind::Invalid => Fault::Permanent,
        };
        let remedy = match &trouble {
            trouble if trouble.is("KMSKeyNotAccessibleFault") => {
                "look at the key in KMS: it must be enabled, in this region, and the role must be allowed to use it"
                    .to_owned()
            }
            Trouble { kind: Kind::Limit, .. } => {
                format!(
                    "delete snapshots in {} that nobody needs, or raise the quota of manual snapshots there",
                    self.region
                )
            }
            Trouble { kind: Kind::Denied, .. } => {
                format!(
                    "look at the role's rights to snapshots `{SNAPSHOT_PREFIX}*` in {} and to their keys",
                    self.region
                )
            }
            Trouble { kind: Kind::Missing, .. } => {
                format!("look whether `{}` is there under the name that the plan has", self.source())
            }
            _ => "look at the events of the instance; the next look tries again".to_owned(),
        };
        SnapshotError { doing: doing.to_owned(), region: self.region.clone(), fault, remedy, source: trouble.boxed() }
    }
}

fn unless_there(begun: Result<(), Trouble>) -> Result<(), Trouble> {
    begun.or_else(|trouble| {
        let there = trouble.code.as_deref().is_some_and(|code| code.contains("SnapshotAlreadyExists"));
        if there { Ok(()) } else { Err(trouble) }
    })
}

fn listed(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

fn named(tags: &[Tag]) -> BTreeMap<String, String> {
    let pair = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
    tags.iter().filter_map(pair).collect()
}

fn moment(time: Option<&DateTime>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::from_second(time.secs()).ok())
}

fn gib(allocated: Option<i32>) -> u64 {
    allocated.and_then(|gib| u64::try_from(gib).ok()).unwrap_or_default()
}

fn of_instance(one: &DbSnapshot) -> Snapshot {
    Snapshot {
        id: one.db_snapshot_identifier().unwrap_or_default().to_owned(),
        arn: one.db_snapshot_arn().unwrap_or_default().to_owned(),
        of: one.db_instance_identifier().unwrap_or_default().to_owned(),
        status: one.status().unwrap_or_default().to_owned(),
        percent: one.percent_progress().unwrap_or_default(),
        kms_key: one.kms_key_id().filter(|_| one.encrypted().unwrap_or_default()).map(str::to_owned),
        taken_at: moment(one.original_snapshot_create_time().or(one.snapshot_create_time())),
        allocated_gib: gib(one.allocated_storage()),
        engine_version: one.engine_version().unwrap_or_default().to_owned(),
        tags: named(one.tag_list()),
    }
}

fn of_cluster(one: &DbClusterSnapshot) -> Snapshot {
    let tags = named(one.tag_list());
    let taken_at = tags.get(TAKEN_AT).and_then(|text| text.parse().ok());
    Snapshot {
        id: one.db_cluster_snapshot_identifier().unwrap_or_default().to_owned(),
        arn: one.db_cluster_snapshot_arn().unwrap_or_default().to_owned(),
        of: one.db_cluster_identifier().unwrap_or_default().to_owned(),
        status: one.status().unwrap_or_default().to_owned(),
        percent: one.percent_progress().unwrap_or_default(),
        kms_key: one.kms_key_id().filter(|_| one.storage_encrypted().unwrap_or_default()).map(str::to_owned),
        taken_at: taken_at.or_else(|| moment(one.snapshot_create_time())),
        allocated_gib: gib(one.allocated_storage()),
        engine_version: one.engine_version().unwrap_or_default().to_owned(),
        tags,
    }
}

#[async_trait]
impl SnapshotShelf for RdsShelf {
    fn region(&self) -> &str {
        &self.region
    }

    async fn find(&self, id: &str) -> Result<Option<Snapshot>, SnapshotError> {
        let client = &self.client;
        let found = match self.of {
            Of::Instance(_) => {
                let asked = client.describe_db_snapshots().db_snapshot_identifier(id).send().await;
                asked.map(|answer| answer.db_snapshots().first().map(of_instance)).map_err(Trouble::from)
            }
            Of::Cluster(_) => {
                let asked = client.describe_db_cluster_snapshots().db_cluster_snapshot_identifier(id).send().await;
                asked.map(|answer| answer.db_cluster_snapshots().first().map(of_cluster)).map_err(Trouble::from)
            }
        };
        match found {
            Err(trouble) if trouble.is_missing() => Ok(None),
            Err(trouble) => Err(self.failed(&format!("looking for the snapshot `{id}`"), trouble)),
            Ok(found) => Ok(found),
        }
    }

    async fn ours(&self) -> Result<Vec<Snapshot>, SnapshotError> {
        let (client, mut found, mut marker) = (&self.client, Vec::new(), None);
        loop {
            let page = match self.of {
                Of::Instance(_) => {
                    let asked = client.describe_db_snapshots().snapshot_type("manual").set_marker(marker).send().await;
                    let page = asked.map_err(Trouble::from);
                    page.map(|page| (page.db_snapshots().iter().map(of_instance).collect::<Vec<_>>(), page.marker))
                }
                Of::Cluster(_) => {
                    let asked = client.describe_db_cluster_snapshots().snapshot_type("manual").set_marker(marker);
                    let page = asked.send().await.map_err(Trouble::from);
                    page.map(|page| {
                        (page.db_cluster_snapshots().iter().map(of_cluster).collect::<Vec<_>>(), page.marker)
                    })
                }
            };
            let (snapshots, next) = page.map_err(|trouble| self.failed("listing snapshots", trouble))?;
            found.extend(snapshots.into_iter().filter(|snapshot| snapshot.backup().is_some()));
            marker = next;
            if marker.is_none() {
                return Ok(found);
            }
        }
    }

    async fn shared_with(&self, id: &str) -> Result<Vec<String>, SnapshotError> {
        // The attribute that lists who may restore it.
        const RESTORE: &str = "restore";
        let client = &self.client;
        let accounts = match self.of {
            Of::Instance(_) => {
                let asked = client.describe_db_snapshot_attributes().db_snapshot_identifier(id).send().await;
                asked.map_err(Trouble::from).map(|answer| {
                    let all = answer.db_snapshot_attributes_result.and_then(|result| result.db_snapshot_attributes);
                    let restore = all.into_iter().flatten().filter(|one| one.attribute_name() == Some(RESTORE));
                    restore.flat_map(|one| one.attribute_values().to_vec()).collect::<Vec<_>>()
                })
            }
            Of::Cluster(_) => {
                let asked = client.describe_db_cluster_snapshot_attributes().db_cluster_snapshot_identifier(id);
                asked.send().await.map_err(Trouble::from).map(|answer| {
                    let all = answer.db_cluster_snapshot_attributes_result;
                    let all = all.and_then(|result| result.db_cluster_snapshot_attributes);
                    let restore = all.into_iter().flatten().filter(|one| one.attribute_name() == Some(RESTORE));
                    restore.flat_map(|one| one.attribute_values().to_vec()).collect()
                })
            }
        };
        accounts.map_err(|trouble| self.failed(&format!("asking who may restore the snapshot `{id}`"), trouble))
    }

    async fn delete(&self, id: &str) -> Result<(), SnapshotError> {
        let client = &self.client;
        let deleted = match self.of {
            Of::Instance(_) => {
                let request = client.delete_db_snapshot().db_snapshot_identifier(id);
                request.send().await.map(drop).map_err(Trouble::from)
            }
            Of::Cluster(_) => {
                let request = client.delete_db_cluster_snapshot().db_cluster_snapshot_identifier(id);
                request.send().await.map(drop).map_err(Trouble::from)
            }
        };
        match deleted {
            Err(trouble) if trouble.is_missing() => Ok(()),
            Err(trouble) => Err(self.failed(&format!("deleting the snapshot `{id}`"), trouble)),
            Ok(()) => Ok(()),
        }
    }
}
