//! What a backup has stored so far, for whoever reads the log of a long one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use recovery::{
    backup::{Keeping, PartStore, Written},
    store::StoreError,
};

/// A bucket whose parts are counted as they arrive.
pub(crate) struct Counted {
    bucket: Arc<dyn PartStore>,
    bytes: AtomicU64,
}

impl Counted {
    pub(crate) fn new(bucket: Arc<dyn PartStore>) -> Arc<Counted> {
        Arc::new(Counted { bucket, bytes: AtomicU64::new(0) })
    }

    /// Bytes that were sent and have arrived; parts that an earlier attempt left are not among them.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl PartStore for Counted {
    fn bucket(&self) -> &str {
        self.bucket.bucket()
    }

    async fn unfinished(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.bucket.unfinished(key).await
    }

    async fn unfinished_below(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.bucket.unfinished_below(prefix).await
    }

    async fn begin(&self, key: &str, keeping: &Keeping) -> Result<String, StoreError> {
        self.bucket.begin(key, keeping).await
    }

    async fn parts(&self, key: &str, upload: &str) -> Result<Option<BTreeMap<u32, Written>>, StoreError> {
        self.bucket.parts(key, upload).await
    }

    async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        bytes: Bytes,
        crc64nvme: &str,
    ) -> Result<Option<Written>, StoreError> {
        let length = bytes.len() as u64;
        let written = self.bucket.put_part(key, upload, number, bytes, crc64nvme).await?;
        self.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(written)
    }

    async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &BTreeMap<u32, Written>,
        whole: &Written,
    ) -> Result<Option<Written>, StoreError> {
        self.bucket.complete(key, upload, parts, whole).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        self.bucket.abort(key, upload).await
    }

    async fn written(&self, key: &str) -> Result<Option<Written>, StoreError> {
        self.bucket.written(key).await
    }
}
