//! Buckets: objects are read and written, never the buckets themselves, because what configures a
//! bucket depends on us-east-1.
//! <https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/global-services.html>

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    primitives::{ByteStream, SdkBody},
};
use recovery::store::{ObjectStore, Precondition, StoreError, StoredObject};

use crate::trouble::{Kind, Trouble};

/// Most bytes of an object that are read: records and bundles, not backups.
pub const BOUND_BYTES: usize = 1024 * 1024;

/// One bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub(crate) client: Client,
    pub(crate) name: String,
}

impl Bucket {
    /// A bucket behind a client of its region.
    pub fn new(client: Client, name: &str) -> Bucket {
        Bucket { client, name: name.to_owned() }
    }

    pub(crate) fn error(&self, key: &str, trouble: Trouble) -> StoreError {
        let (bucket, key) = (self.name.clone(), key.to_owned());
        match trouble.kind {
            Kind::Precondition => StoreError::PreconditionFailed { bucket, key },
            Kind::Denied => StoreError::Denied { bucket, key, source: trouble.boxed() },
            Kind::Unavailable | Kind::Missing | Kind::Busy | Kind::Limit | Kind::Invalid => {
                StoreError::Unavailable { bucket, key, source: trouble.boxed() }
            }
        }
    }

    fn too_large(&self, key: &str) -> StoreError {
        StoreError::TooLarge { bucket: self.name.clone(), key: key.to_owned(), bound_bytes: BOUND_BYTES }
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    fn bucket(&self) -> &str {
        &self.name
    }

    async fn get(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        let answer = match self.client.get_object().bucket(&self.name).key(key).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let trouble = Trouble::from(error);
                // `NoSuchBucket` is a 404 too, and no answer to the question.
                return if trouble.is("NoSuchKey") { Ok(None) } else { Err(self.error(key, trouble)) };
            }
        };
        let etag = answer.e_tag.clone().unwrap_or_default();
        let mut body = Vec::new();
        let mut stream = answer.body;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| {
                self.error(
                    key,
                    Trouble::unexpected(format!("the answer broke off: {}", recovery::fault::chain(&error))),
                )
            })?;
            if body.len() + chunk.len() > BOUND_BYTES {
                return Err(self.too_large(key));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(StoredObject { body, etag }))
    }

    async fn put(
        &self,
        key: &str,
        content_type: &str,
        body: Vec<u8>,
        precondition: Precondition,
    ) -> Result<(), StoreError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .content_type(content_type)
            .body(ByteStream::new(SdkBody::from(body)));
        let request = match precondition {
            Precondition::None => request,
            Precondition::Absent => request.if_none_match("*"),
            Precondition::Unchanged(etag) => request.if_match(etag),
        };
        request.send().await.map(|_| ()).map_err(|error| {
            let trouble = Trouble::from(error);
            // If-Match on an object that has gone is a 404 on AWS: it is not the object that was read.
            if trouble.is("NoSuchKey") {
                return StoreError::PreconditionFailed { bucket: self.name.clone(), key: key.to_owned() };
            }
            self.error(key, trouble)
        })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let sent = self.client.delete_object().bucket(&self.name).key(key).send().await;
        sent.map(|_| ()).map_err(|error| self.error(key, Trouble::from(error)))
    }
}
