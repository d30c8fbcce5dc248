//! Objects that are replicated, listed and asked for without their bytes.

use async_trait::async_trait;
use aws_sdk_s3::types;
use jiff::Timestamp;
use recovery::{
    replication::{HeadObject, ListedObject, Objects, ReplicationStatus},
    store::StoreError,
};

use crate::{s3::Bucket, trouble::Trouble};

fn timestamp(at: Option<&aws_sdk_s3::primitives::DateTime>) -> Timestamp {
    let at = at.and_then(|at| Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok());
    // S3 leaves it out of no object; one without would be the oldest.
    at.unwrap_or(Timestamp::UNIX_EPOCH)
}

/// `COMPLETE` in the API's model, `COMPLETED` in its answers.
fn status(status: &types::ReplicationStatus) -> Option<ReplicationStatus> {
    match status {
        types::ReplicationStatus::Complete | types::ReplicationStatus::Completed => Some(ReplicationStatus::Completed),
        types::ReplicationStatus::Failed => Some(ReplicationStatus::Failed),
        types::ReplicationStatus::Pending => Some(ReplicationStatus::Pending),
        types::ReplicationStatus::Replica => Some(ReplicationStatus::Replica),
        _ => None,
    }
}

#[async_trait]
impl Objects for Bucket {
    fn bucket(&self) -> &str {
        &self.name
    }

    async fn list(&self, after: Option<&str>, most: u16) -> Result<Vec<ListedObject>, StoreError> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .set_start_after(after.map(str::to_owned))
            .max_keys(i32::from(most));
        let answer = request.send().await.map_err(|error| self.error("", error.into()))?;
        let objects = answer.contents().iter().filter_map(|object| {
            Some(ListedObject { key: object.key()?.to_owned(), modified_at: timestamp(object.last_modified()) })
        });
        Ok(objects.collect())
    }

    async fn head(&self, key: &str) -> Result<Option<HeadObject>, StoreError> {
        let answer = match self.client.head_object().bucket(&self.name).key(key).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let trouble = Trouble::from(error);
                // An answer to HEAD has no body, and so no code beside its status.
                return if trouble.is_missing() { Ok(None) } else { Err(self.error(key, trouble)) };
            }
        };
        Ok(Some(HeadObject {
            modified_at: timestamp(answer.last_modified()),
            size_bytes: answer.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
            etag: answer.e_tag().unwrap_or_default().to_owned(),
            version: answer.version_id().map(str::to_owned),
            replication: answer.replication_status().and_then(status),
        }))
    }
}
