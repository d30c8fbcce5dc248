//! Objects in a bucket, with the conditional writes that leases are made of.

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use crate::fault::{Classified, Fault};

/// An object as it was read.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Its bytes, bounded by the adapter.
    pub body: Vec<u8>,
    /// Its version, for [`Precondition::Unchanged`].
    pub etag: String,
}

/// What must hold for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// No object has this key (`If-None-Match: *`).
    Absent,
    /// The object still has this ETag (`If-Match`).
    Unchanged(String),
}

/// One bucket.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// The bucket's name.
    fn bucket(&self) -> &str;
    /// Reads an object; `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<StoredObject>, StoreError>;
    /// Writes an object if the precondition holds.
    async fn put(
        &self,
        key: &str,
        content_type: &str,
        body: Vec<u8>,
        precondition: Precondition,
    ) -> Result<(), StoreError>;
    /// Removes an object; absent is success.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;
}

/// Reads a JSON object and its ETag.
///
/// # Errors
/// The store's, or [`StoreError::Malformed`] if the object is not of this form.
pub async fn get_json<T: DeserializeOwned>(
    store: &dyn ObjectStore,
    key: &str,
) -> Result<Option<(T, String)>, StoreError> {
    let Some(object) = store.get(key).await? else { return Ok(None) };
    let value = serde_json::from_slice(&object.body).map_err(|source| StoreError::Malformed {
        bucket: store.bucket().to_owned(),
        key: key.to_owned(),
        source,
    })?;
    Ok(Some((value, object.etag)))
}

/// Writes a JSON object if the precondition holds.
///
/// # Errors
/// The store's.
pub async fn put_json<T: Serialize>(
    store: &dyn ObjectStore,
    key: &str,
    value: &T,
    precondition: Precondition,
) -> Result<(), StoreError> {
    let body = serde_json::to_vec_pretty(value).map_err(|source| StoreError::Malformed {
        bucket: store.bucket().to_owned(),
        key: key.to_owned(),
        source,
    })?;
    store.put(key, "application/json", body, precondition).await
}

/// A bucket did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first, or an earlier attempt of ours did and its answer was lost.
    #[error("`s3://{bucket}/{key}` was written by somebody else")]
    PreconditionFailed {
        /// Which bucket.
        bucket: String,
        /// Which object.
        key: String,
    },
    /// The object is not of the form that it should have.
    #[error("`s3://{bucket}/{key}` is not of the expected form")]
    Malformed {
        /// Which bucket.
        bucket: String,
        /// Which object.
        key: String,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
    /// The object is larger than anything that belongs there.
    #[error("`s3://{bucket}/{key}` is larger than {bound_bytes} bytes")]
    TooLarge {
        /// Which bucket.
        bucket: String,
        /// Which object.
        key: String,
        /// The most that is read.
        bound_bytes: usize,
    },
    /// The role may not do this.
    #[error("access to `s3://{bucket}/{key}` is denied")]
    Denied {
        /// Which bucket.
        bucket: String,
        /// Which object.
        key: String,
        /// The service's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer, throttled, or a server error.
    #[error("`s3://{bucket}/{key}` cannot be reached")]
    Unavailable {
        /// Which bucket.
        bucket: String,
        /// Which object.
        key: String,
        /// The service's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classified for StoreError {
    fn fault(&self) -> Fault {
        match self {
            StoreError::PreconditionFailed { .. } | StoreError::Unavailable { .. } => Fault::Transient,
            StoreError::Denied { .. } => Fault::Refused,
            StoreError::Malformed { .. } | StoreError::TooLarge { .. } => Fault::Permanent,
        }
    }

    fn remedy(&self) -> String {
        match self {
            StoreError::PreconditionFailed { .. } => "look at who wrote it; the next attempt reads it again".to_owned(),
            StoreError::Malformed { bucket, key, .. } => format!("read `s3://{bucket}/{key}`, correct it or remove it"),
            StoreError::TooLarge { bucket, key, .. } => format!("find out what `s3://{bucket}/{key}` is and remove it"),
            StoreError::Denied { bucket, .. } => {
                // Without the right to list, S3 answers 403 for an object that is not there.
                format!("give the function's role access to `{bucket}`, s3:ListBucket included")
            }
            StoreError::Unavailable { bucket, .. } => format!("check that `{bucket}` exists in the tertiary region"),
        }
    }
}
