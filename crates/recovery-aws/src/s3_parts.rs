//! Large objects in parts: multipart uploads with a full-object checksum, one call each; and files of the log, which are
//! written once.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_s3::{
    primitives::{ByteStream, DateTime, SdkBody},
    types::{
        ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart, ObjectLockMode,
        ServerSideEncryption, StorageClass,
    },
};
use bytes::Bytes;
use recovery::{
    backup::{Keeping, Lock, PartStore, WalArchive, Written},
    plan,
    store::StoreError,
};

use crate::{s3::Bucket, trouble::Trouble};

/// Lays on a request how its object is kept. What makes an object takes these words whether it makes it at once or of parts,
/// and the SDK has no trait for that.
macro_rules! kept {
    ($request:expr, $keeping:expr) => {{
        let keeping: &Keeping = $keeping;
        let has_key = keeping.kms_key.is_some();
        let mode = lock_mode(keeping.lock);
        let until = mode.is_some().then(|| DateTime::from_secs(keeping.retain_until.as_second()));
        $request
            .storage_class(storage_class(keeping.storage_class))
            .set_tagging(tagging(&keeping.tags))
            .set_ssekms_key_id(keeping.kms_key.clone())
            .set_server_side_encryption(has_key.then_some(ServerSideEncryption::AwsKms))
            // A bucket key spares KMS a call for each object of a backup.
            .set_bucket_key_enabled(has_key.then_some(true))
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until)
    }};
}

#[async_trait]
impl PartStore for Bucket {
    fn bucket(&self) -> &str {
        &self.name
    }

    async fn unfinished(&self, key: &str) -> Result<Option<String>, StoreError> {
        let sent = self.client.list_multipart_uploads().bucket(&self.name).prefix(key).send().await;
        let answer = sent.map_err(|error| self.error(key, Trouble::from(error)))?;
        let uploads = answer.uploads().iter().filter(|upload| upload.key() == Some(key));
        let newest = uploads.max_by_key(|upload| upload.initiated().map(DateTime::as_nanos));
        Ok(newest.and_then(|upload| upload.upload_id().map(str::to_owned)))
    }

    async fn unfinished_below(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        let (mut found, mut key_marker, mut upload_marker) = (Vec::new(), None, None);
        loop {
            let request = self.client.list_multipart_uploads().bucket(&self.name).prefix(prefix);
            let request = request.set_key_marker(key_marker).set_upload_id_marker(upload_marker);
            let answer = request.send().await.map_err(|error| self.error(prefix, Trouble::from(error)))?;
            let uploads = answer.uploads().iter();
            found.extend(uploads.filter_map(|one| Some((one.key()?.to_owned(), one.upload_id()?.to_owned()))));
            key_marker = answer.next_key_marker().map(str::to_owned);
            upload_marker = answer.next_upload_id_marker().map(str::to_owned);
            if !answer.is_truncated().unwrap_or_default() || key_marker.is_none() {
                return Ok(found);
            }
        }
    }

    async fn begin(&self, key: &str, keeping: &Keeping) -> Result<String, StoreError> {
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .content_type("application/octet-stream")
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject);
        let request = kept!(request, keeping);
        let answer = request.send().await.map_err(|error| self.error(key, Trouble::from(error)))?;
        let upload = answer.upload_id().map(str::to_owned);
        upload.ok_or_else(|| self.error(key, Trouble::unexpected("CreateMultipartUpload gave no upload id")))
    }

    async fn parts(&self, key: &str, upload: &str) -> Result<Option<BTreeMap<u32, Written>>, StoreError> {
        let mut parts = BTreeMap::new();
        let mut marker = None;
        loop {
            let request = self.client.list_parts().bucket(&self.name).key(key).upload_id(upload);
            let answer = match request.set_part_number_marker(marker.take()).send().await {
                Ok(answer) => answer,
                Err(error) => {
                    let trouble = Trouble::from(error);
                    return if trouble.is("NoSuchUpload") { Ok(None) } else { Err(self.error(key, trouble)) };
                }
            };
            for part in answer.parts() {
                let Some(number) = part.part_number().and_then(|number| u32::try_from(number).ok()) else { continue };
                let written = Written {
                    etag: part.e_tag().unwrap_or_default().to_owned(),
                    size_bytes: part.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
                    crc64nvme: part.checksum_crc64_nvme().map(str::to_owned),
                    version_id: None,
                };
                parts.insert(number, written);
            }
            marker = answer.next_part_number_marker().map(str::to_owned);
            if !answer.is_truncated().unwrap_or_default() || marker.is_none() {
                return Ok(Some(parts));
            }
        }
    }

    async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        bytes: Bytes,
        crc64nvme: &str,
    ) -> Result<Option<Written>, StoreError> {
        let size_bytes = bytes.len() as u64;
        let sent = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .checksum_crc64_nvme(crc64nvme)
            .body(ByteStream::new(SdkBody::from(bytes)))
            .customize()
            // TLS guards the way and the checksum the bytes: a third digest of every byte would guard nothing more.
            .disable_payload_signing()
            .send()
            .await;
        match sent {
            Ok(answer) => Ok(Some(Written {
                etag: answer.e_tag().unwrap_or_default().to_owned(),
                size_bytes,
                crc64nvme: Some(crc64nvme.to_owned()),
                version_id: None,
            })),
            Err(error) => {
                let trouble = Trouble::from(error);
                if trouble.is("NoSuchUpload") { Ok(None) } else { Err(self.error(key, trouble)) }
            }
        }
    }

    async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &BTreeMap<u32, Written>,
        whole: &Written,
    ) -> Result<Option<Written>, StoreError> {
        let parts = parts.iter().map(|(number, part)| {
            CompletedPart::builder()
                .part_number(i32::try_from(*number).unwrap_or(i32::MAX))
                .e_tag(&part.etag)
                .set_checksum_crc64_nvme(part.crc64nvme.clone())
                .build()
        });
        let sent = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build())
            .set_checksum_crc64_nvme(whole.crc64nvme.clone())
            .checksum_type(ChecksumType::FullObject)
            .set_mpu_object_size(i64::try_from(whole.size_bytes).ok())
            .send()
            .await;
        match sent {
            Ok(answer) => Ok(Some(Written {
                etag: answer.e_tag().unwrap_or_default().to_owned(),
                version_id: answer.version_id().map(str::to_owned),
                ..whole.clone()
            })),
            Err(error) => {
                let trouble = Trouble::from(error);
                if trouble.is("NoSuchUpload") { Ok(None) } else { Err(self.error(key, trouble)) }
            }
        }
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        match self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(upload).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let trouble = Trouble::from(error);
                if trouble.is("NoSuchUpload") { Ok(()) } else { Err(self.error(key, trouble)) }
            }
        }
    }

    async fn written(&self, key: &str) -> Result<Option<Written>, StoreError> {
        let request = self.client.head_object().bucket(&self.name).key(key).checksum_mode(ChecksumMode::Enabled);
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let trouble = Trouble::from(error);
                // A HEAD has no body that could tell a missing key from a missing bucket; other calls will.
                return if trouble.is_missing() { Ok(None) } else { Err(self.error(key, trouble)) };
            }
        };
        Ok(Some(Written {
            etag: answer.e_tag().unwrap_or_default().to_owned(),
            size_bytes: answer.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
            crc64nvme: answer.checksum_crc64_nvme().map(str::to_owned),
            version_id: answer.version_id().map(str::to_owned),
        }))
    }
}

#[async_trait]
impl WalArchive for Bucket {
    fn bucket(&self) -> &str {
        &self.name
    }

    async fn put_new(&self, key: &str, bytes: Vec<u8>, crc64nvme: &str, keeping: &Keeping) -> Result<bool, StoreError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .if_none_match("*")
            .content_type("application/zstd")
            .checksum_crc64_nvme(crc64nvme)
            .body(ByteStream::new(SdkBody::from(bytes)));
        let request = kept!(request, keeping);
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) => match self.error(key, Trouble::from(error)) {
                StoreError::PreconditionFailed { .. } => Ok(false),
                other => Err(other),
            },
        }
    }

    async fn get_whole(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let answer = match self.client.get_object().bucket(&self.name).key(key).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let trouble = Trouble::from(error);
                return if trouble.is("NoSuchKey") { Ok(None) } else { Err(self.error(key, trouble)) };
            }
        };
        let whole = answer.body.collect().await.map_err(|error| {
            let text = format!("the answer broke off: {}", recovery::fault::chain(&error));
            self.error(key, Trouble::unexpected(text))
        })?;
        Ok(Some(whole.to_vec()))
    }
}

fn storage_class(class: plan::StorageClass) -> StorageClass {
    match class {
        plan::StorageClass::Standard => StorageClass::Standard,
        plan::StorageClass::StandardIa => StorageClass::StandardIa,
        plan::StorageClass::GlacierIr => StorageClass::GlacierIr,
        plan::StorageClass::Glacier => StorageClass::Glacier,
        plan::StorageClass::DeepArchive => StorageClass::DeepArchive,
    }
}

fn lock_mode(lock: Lock) -> Option<ObjectLockMode> {
    match lock {
        Lock::Compliance => Some(ObjectLockMode::Compliance),
        Lock::Governance => Some(ObjectLockMode::Governance),
        Lock::Off => None,
    }
}

/// As the header has them: a query string.
fn tagging(tags: &BTreeMap<String, String>) -> Option<String> {
    let text = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(tags).finish();
    (!tags.is_empty()).then_some(text)
}
