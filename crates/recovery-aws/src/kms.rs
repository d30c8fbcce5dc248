//! Keys of one region: data keys for what is sealed before it leaves the process, and the state of keys.

use async_trait::async_trait;
use aws_sdk_kms::{Client, primitives::Blob, types::DataKeySpec};
use base64::{Engine, engine::general_purpose::STANDARD};
use recovery::{
    closure::KeyShelf,
    envelope::{DataKey, DataKeys, KeyContext, KeyError, PlainKey, WrappedKey},
    fault::Fault,
};

use crate::trouble::{Kind, Trouble};

/// The key service of one region.
#[derive(Clone, Debug)]
pub struct Kms {
    client: Client,
    region: String,
}

impl Kms {
    /// Behind a client of its region.
    pub fn new(client: Client, region: &str) -> Kms {
        Kms { client, region: region.to_owned() }
    }

    /// Data keys that are wrapped by this key.
    pub fn key(&self, id: &str) -> KmsKey {
        KmsKey { client: Client::clone(&self.client), id: id.to_owned() }
    }
}

#[async_trait]
impl KeyShelf for Kms {
    fn region(&self) -> &str {
        &self.region
    }

    async fn state(&self, key: &str) -> Result<Option<String>, KeyError> {
        let answer = match self.client.describe_key().key_id(key).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let trouble = Trouble::from(error);
                return if trouble.is_missing() { Ok(None) } else { Err(failed(key, "say how it is", trouble)) };
            }
        };
        Ok(answer.key_metadata().and_then(|key| key.key_state()).map(|state| state.as_str().to_owned()))
    }
}

/// One key that wraps data keys.
#[derive(Clone, Debug)]
pub struct KmsKey {
    client: Client,
    id: String,
}

#[async_trait]
impl DataKeys for KmsKey {
    async fn generate(&self, context: &KeyContext) -> Result<DataKey, KeyError> {
        let doing = "give a data key";
        let request = self
            .client
            .generate_data_key()
            .key_id(&self.id)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(context.clone().into_iter().collect()));
        let answer = request.send().await.map_err(|error| failed(&self.id, doing, error.into()))?;
        let lacks = |what: &str| failed(&self.id, doing, Trouble::unexpected(format!("KMS answered without {what}")));
        let plain = plain(answer.plaintext()).ok_or_else(|| lacks("256 bits"))?;
        let ciphertext = answer.ciphertext_blob().ok_or_else(|| lacks("the wrapped key"))?;
        let key_arn = answer.key_id().ok_or_else(|| lacks("the key's name"))?.to_owned();
        let wrapped = WrappedKey { key_arn, ciphertext: STANDARD.encode(ciphertext), context: context.clone() };
        Ok(DataKey { plain, wrapped })
    }

    async fn unwrap(&self, wrapped: &WrappedKey) -> Result<PlainKey, KeyError> {
        let doing = "open a data key";
        let ciphertext = STANDARD.decode(&wrapped.ciphertext).map_err(|error| KeyError {
            key: wrapped.key_arn.clone(),
            doing,
            fault: Fault::Permanent,
            source: Box::new(error),
        })?;
        let request = self
            .client
            .decrypt()
            // Named, so that a wrapped key of somebody else's is refused and not opened.
            .key_id(&wrapped.key_arn)
            .ciphertext_blob(Blob::new(ciphertext))
            .set_encryption_context(Some(wrapped.context.clone().into_iter().collect()));
        let answer = request.send().await.map_err(|error| failed(&wrapped.key_arn, doing, error.into()))?;
        plain(answer.plaintext())
            .ok_or_else(|| failed(&wrapped.key_arn, doing, Trouble::unexpected("KMS answered without 256 bits")))
    }
}

fn plain(bytes: Option<&Blob>) -> Option<PlainKey> {
    bytes?.as_ref().try_into().ok().map(PlainKey::new)
}

fn failed(key: &str, doing: &'static str, trouble: Trouble) -> KeyError {
    let fault = match trouble.kind {
        Kind::Unavailable | Kind::Precondition | Kind::Busy => Fault::Transient,
        Kind::Denied | Kind::Limit => Fault::Refused,
        // A disabled key, one that waits for its deletion, or a ciphertext that is not of this key and context.
        Kind::Missing | Kind::Invalid => Fault::Permanent,
    };
    KeyError { key: key.to_owned(), doing, fault, source: trouble.boxed() }
}
