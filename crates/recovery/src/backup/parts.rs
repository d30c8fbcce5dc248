//! What writing a large object in parts needs of a bucket: the multipart upload of S3, one call each.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Lock;
use crate::{plan::StorageClass, store::StoreError};

/// How an object is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keeping {
    /// KMS key; absent leaves it to the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// Storage class.
    pub storage_class: StorageClass,
    /// Object Lock mode.
    pub lock: Lock,
    /// Until when, unless the mode is [`Lock::Off`].
    pub retain_until: Timestamp,
    /// What lifecycle rules read.
    pub tags: BTreeMap<String, String>,
}

/// A part that the bucket holds, or an object that it has made of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its ETag; what completes an upload names each part by it.
    pub etag: String,
    /// Its length.
    pub size_bytes: u64,
    /// CRC64NVME of its bytes, base64, if the bucket says so.
    pub crc64nvme: Option<String>,
    /// The object's version, where the bucket keeps versions; of a part, none.
    pub version_id: Option<String>,
}

/// A bucket that takes objects in parts.
///
/// An upload that is not there (any more) is `None`, because it may have been completed by a call whose answer was lost.
#[async_trait]
pub trait PartStore: Send + Sync {
    /// The bucket's name.
    fn bucket(&self) -> &str;

    /// The newest upload of exactly this key that was begun and not ended.
    async fn unfinished(&self, key: &str) -> Result<Option<String>, StoreError>;

    /// Every upload below a prefix that was begun and not ended: key and id.
    async fn unfinished_below(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError>;

    /// Begins an upload with a full-object CRC64NVME; returns its id.
    async fn begin(&self, key: &str, keeping: &Keeping) -> Result<String, StoreError>;

    /// The parts that an upload has, by number; `None` if there is no such upload.
    async fn parts(&self, key: &str, upload: &str) -> Result<Option<BTreeMap<u32, Written>>, StoreError>;

    /// Writes a part; S3 compares the bytes with `crc64nvme`. A part of the same number is replaced. `None` if there is
    /// no such upload.
    async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        bytes: Bytes,
        crc64nvme: &str,
    ) -> Result<Option<Written>, StoreError>;

    /// Makes an object of parts; S3 compares length and CRC64NVME of the whole. `None` if there is no such upload.
    async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &BTreeMap<u32, Written>,
        whole: &Written,
    ) -> Result<Option<Written>, StoreError>;

    /// Ends an upload and frees its parts; one that is not there is success.
    async fn abort(&self, key: &str, upload: &str) -> Result<(), StoreError>;

    /// The object that a key has now, as its bucket describes it.
    async fn written(&self, key: &str) -> Result<Option<Written>, StoreError>;
}
