//! Buckets with backups in them: objects of any size are described, listed, marked, and read piece by piece.

use std::{collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use aws_sdk_s3::{
    primitives::ByteStream,
    types::{ChecksumMode, ObjectLockMode, StorageClass as S3Class, Tag, Tagging},
};
use bytes::{Buf, Bytes};
use jiff::Timestamp;
use recovery::{
    backup::{BackupStorage, Lock, ObjectBody, ObjectSummary, ObjectVersion, Page},
    plan::StorageClass,
    store::StoreError,
};

use crate::{
    s3::Bucket,
    trouble::{Kind, Trouble},
};

#[async_trait]
impl BackupStorage for Bucket {
    fn bucket(&self) -> &str {
        &self.name
    }

    async fn head(&self, key: &str, version_id: Option<&str>) -> Result<Option<ObjectVersion>, StoreError> {
        let asked = self
            .client
            .head_object()
            .bucket(&self.name)
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let seen = match asked {
            Ok(seen) => seen,
            // An answer to HEAD has no body, so no code either: 404 is all that there is.
            Err(error) => return self.absent(key, Trouble::from(error)).map(|()| None),
        };
        let class = seen.storage_class();
        let archived =
            matches!(class, Some(S3Class::Glacier | S3Class::DeepArchive)) && !is_brought_back(seen.restore());
        Ok(Some(ObjectVersion {
            key: key.to_owned(),
            version_id: seen.version_id.clone(),
            size_bytes: seen.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
            etag: seen.e_tag.clone().unwrap_or_default(),
            crc64nvme: seen.checksum_crc64_nvme.clone(),
            modified_at: seen.last_modified().and_then(timestamp),
            // S3 leaves it out where it is the standard one.
            storage_class: class.map_or(Some(StorageClass::Standard), storage_class),
            kms_key: seen.ssekms_key_id.clone(),
            lock: seen.object_lock_mode().map_or(Lock::Off, lock),
            retain_until: seen.object_lock_retain_until_date().and_then(timestamp),
            archived: archived || seen.archive_status().is_some(),
        }))
    }

    async fn open(
        &self,
        key: &str,
        version_id: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Option<Box<dyn ObjectBody>>, StoreError> {
        let bytes = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        let asked = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .set_range(bytes)
            .send()
            .await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => return self.absent(key, Trouble::from(error)).map(|()| None),
        };
        let left = answer.content_length.and_then(|length| u64::try_from(length).ok());
        // A server may pass over the range and send everything: RFC 9110, section 14.2.
        let skip = if answer.content_range.is_some() { 0 } else { range.map_or(0, |range| range.start) };
        Ok(Some(Box::new(Body { bucket: self.clone(), key: key.to_owned(), stream: answer.body, left, skip })))
    }

    async fn list(&self, prefix: &str, delimiter: Option<char>, next: Option<&str>) -> Result<Page, StoreError> {
        let answer = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(prefix)
            .set_delimiter(delimiter.map(String::from))
            .set_continuation_token(next.map(str::to_owned))
            .send()
            .await
            .map_err(|error| self.error(prefix, Trouble::from(error)))?;
        let objects = answer.contents().iter().filter_map(|object| {
            Some(ObjectSummary {
                key: object.key.clone()?,
                size_bytes: object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
                modified_at: object.last_modified().and_then(timestamp),
            })
        });
        Ok(Page {
            objects: objects.collect(),
            folders: answer.common_prefixes().iter().filter_map(|folder| folder.prefix.clone()).collect(),
            next: answer.next_continuation_token.clone(),
        })
    }

    async fn tags(&self, key: &str, version_id: Option<&str>) -> Result<Option<BTreeMap<String, String>>, StoreError> {
        let asked = self
            .client
            .get_object_tagging()
            .bucket(&self.name)
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .send()
            .await;
        match asked {
            Ok(answer) => Ok(Some(answer.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect())),
            Err(error) => self.absent(key, Trouble::from(error)).map(|()| None),
        }
    }

    async fn tag(
        &self,
        key: &str,
        version_id: Option<&str>,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let tag = |(name, value): (&String, &String)| Tag::builder().key(name).value(value).build();
        let set: Result<Vec<Tag>, _> = tags.iter().map(tag).collect();
        let tagging = set.and_then(|set| Tagging::builder().set_tag_set(Some(set)).build());
        let tagging = tagging.map_err(|error| self.error(key, Trouble::unexpected(error.to_string())))?;
        let sent = self
            .client
            .put_object_tagging()
            .bucket(&self.name)
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .tagging(tagging)
            .send()
            .await;
        sent.map(|_| ()).map_err(|error| self.error(key, Trouble::from(error)))
    }
}

impl Bucket {
    /// Whether an error only says that there is no such object, or no such version of it.
    fn absent(&self, key: &str, trouble: Trouble) -> Result<(), StoreError> {
        // A bucket that is not there is no answer to the question. HEAD cannot tell the two apart.
        if trouble.kind == Kind::Missing && !trouble.is("NoSuchBucket") {
            return Ok(());
        }
        Err(self.error(key, trouble))
    }
}

/// A body that must be as long as its answer promised.
struct Body {
    bucket: Bucket,
    key: String,
    stream: ByteStream,
    left: Option<u64>,
    /// Bytes before those that were asked for.
    skip: u64,
}

#[async_trait]
impl ObjectBody for Body {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let broke_off = |text: String| self.bucket.error(&self.key, Trouble::unexpected(text));
        loop {
            return match self.stream.next().await {
                Some(Ok(mut piece)) => {
                    self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                    let skipped = piece.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                    self.skip -= skipped as u64;
                    piece.advance(skipped);
                    if piece.is_empty() {
                        continue;
                    }
                    Ok(Some(piece))
                }
                Some(Err(error)) => Err(broke_off(format!("the answer broke off: {}", recovery::fault::chain(&error)))),
                None => match self.left {
                    Some(left) if left > 0 => Err(broke_off(format!("the answer ended {left} bytes early"))),
                    _ => Ok(None),
                },
            };
        }
    }
}

/// `ongoing-request="false", expiry-date="…"`
fn is_brought_back(restore: Option<&str>) -> bool {
    restore.is_some_and(|restore| restore.contains("ongoing-request=\"false\""))
}

fn timestamp(at: &aws_sdk_s3::primitives::DateTime) -> Option<Timestamp> {
    Timestamp::from_second(at.secs()).ok()
}

/// A mode that is not known here is taken for the one that can be lifted.
fn lock(mode: &ObjectLockMode) -> Lock {
    match mode {
        ObjectLockMode::Compliance => Lock::Compliance,
        _ => Lock::Governance,
    }
}

fn storage_class(class: &S3Class) -> Option<StorageClass> {
    match class {
        S3Class::Standard => Some(StorageClass::Standard),
        S3Class::StandardIa => Some(StorageClass::StandardIa),
        S3Class::GlacierIr => Some(StorageClass::GlacierIr),
        S3Class::Glacier => Some(StorageClass::Glacier),
        S3Class::DeepArchive => Some(StorageClass::DeepArchive),
        _ => None,
    }
}
