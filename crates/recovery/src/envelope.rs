//! Envelope encryption: a data key for one backup, wrapped by a key that never leaves its service.
//!
//! The wrapped key travels with what it protects. Unwrapping asks for the same context again, so a wrapped key that was
//! taken out of one backup opens nothing of another.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::fault::{Classified, Fault};

/// What a data key is for, as pairs that the key service authenticates and logs. No secrets here.
pub type KeyContext = BTreeMap<String, String>;

/// 256 bits in the clear, for as long as a process works with them; never written, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct PlainKey([u8; 32]);

impl PlainKey {
    /// A key as its service gave it.
    pub fn new(bytes: [u8; 32]) -> PlainKey {
        PlainKey(bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey(…)")
    }
}

/// A data key as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// ARN of the key that wrapped it; who restores must be allowed `kms:Decrypt` with it.
    pub key_arn: String,
    /// The service's ciphertext, base64.
    pub ciphertext: String,
    /// What it was asked for; needed again to unwrap it.
    pub context: KeyContext,
}

/// A new data key, in both forms.
#[derive(Clone, Debug)]
pub struct DataKey {
    /// For use now.
    pub plain: PlainKey,
    /// For keeping.
    pub wrapped: WrappedKey,
}

/// Where data keys come from.
#[async_trait]
pub trait DataKeys: Send + Sync {
    /// A new data key for this context.
    async fn generate(&self, context: &KeyContext) -> Result<DataKey, KeyError>;
    /// The data key that was wrapped.
    async fn unwrap(&self, wrapped: &WrappedKey) -> Result<PlainKey, KeyError>;
}

/// A data key could not be had.
#[derive(Debug, thiserror::Error)]
#[error("the key `{key}` does not {doing}")]
pub struct KeyError {
    /// Alias or ARN.
    pub key: String,
    /// For example `give a data key`.
    pub doing: &'static str,
    /// Who acts next.
    pub fault: Fault,
    /// The service's words.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Classified for KeyError {
    fn fault(&self) -> Fault {
        self.fault
    }

    fn remedy(&self) -> String {
        match self.fault {
            Fault::Transient | Fault::NotYet => "ask again; nothing was written without it".to_owned(),
            Fault::Refused => format!(
                "allow the function's role kms:GenerateDataKey and kms:Decrypt on `{}`, and check that it is enabled",
                self.key
            ),
            Fault::Permanent => {
                format!("check that `{}` is the key of the tertiary region and that the backup is whole", self.key)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_clear_is_not_shown() {
        let plain = PlainKey::new([0x41; 32]);
        let key = DataKey {
            plain,
            wrapped: WrappedKey { key_arn: "arn".to_owned(), ciphertext: "xyz".to_owned(), context: KeyContext::new() },
        };
        let shown = format!("{key:?}");
        assert!(!shown.contains("65") && !shown.contains("41") && !shown.contains("AAAA"), "{shown}");
    }
}
