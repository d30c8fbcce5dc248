//! What reading, listing and marking backups needs of a bucket. Writing has its own datapath.

use std::{collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::Lock;
use crate::{plan::StorageClass, store::StoreError};

/// An object as its bucket describes it; nothing of it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Its key.
    pub key: String,
    /// Which version, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// Its length.
    pub size_bytes: u64,
    /// For conditional reads.
    pub etag: String,
    /// Full-object CRC64NVME, base64, where S3 keeps one.
    pub crc64nvme: Option<String>,
    /// By S3's clock.
    pub modified_at: Option<Timestamp>,
    /// Where it lies.
    pub storage_class: Option<StorageClass>,
    /// KMS key that it is encrypted with.
    pub kms_key: Option<String>,
    /// Object Lock: its mode. S3 says it only to who may read the retention.
    pub lock: Lock,
    /// Object Lock: nobody can delete it before.
    pub retain_until: Option<Timestamp>,
    /// It lies in cold storage and was not brought back.
    pub archived: bool,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSummary {
    /// Its key.
    pub key: String,
    /// Its length.
    pub size_bytes: u64,
    /// By S3's clock.
    pub modified_at: Option<Timestamp>,
}

/// A part of a listing, in order of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects.
    pub objects: Vec<ObjectSummary>,
    /// With a delimiter: what the keys begin with up to it, each once.
    pub folders: Vec<String>,
    /// Where the next part begins, if there is one.
    pub next: Option<String>,
}

/// The bytes of an object, piece by piece.
#[async_trait]
pub trait ObjectBody: Send {
    /// The next piece, or `None` at the end. An end before the promised length is an error, not an end.
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// A bucket with backups in it.
#[async_trait]
pub trait BackupStorage: Send + Sync {
    /// The bucket's name.
    fn bucket(&self) -> &str;

    /// Describes an object; `None` if there is none.
    async fn head(&self, key: &str, version_id: Option<&str>) -> Result<Option<ObjectVersion>, StoreError>;

    /// Opens an object, or a range of it; `None` if there is none. The range's end is exclusive.
    async fn open(
        &self,
        key: &str,
        version_id: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Option<Box<dyn ObjectBody>>, StoreError>;

    /// Lists keys with a prefix, from the page that `next` of the one before names; with `delimiter`, folders instead of
    /// what is in them.
    async fn list(&self, prefix: &str, delimiter: Option<char>, next: Option<&str>) -> Result<Page, StoreError>;

    /// The tags of an object; `None` if there is no such object.
    async fn tags(&self, key: &str, version_id: Option<&str>) -> Result<Option<BTreeMap<String, String>>, StoreError>;

    /// Replaces all tags of an object. Lifecycle rules read them; Object Lock does not hinder it.
    async fn tag(&self, key: &str, version_id: Option<&str>, tags: &BTreeMap<String, String>)
    -> Result<(), StoreError>;
}
