//! Secrets of an export, sealed one by one with AES-256-GCM under the export's data key.
//!
//! Each is bound to its place: whoever takes one sealed object for another, from another backup or another cluster, cannot
//! open it. Nonces are random; one data key seals the objects of one export, far below the 2³² that random nonces allow
//! (NIST SP 800-38D, 8.3).

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use recovery::cluster_state::{ExportIdentity, FORM};
use recovery::envelope::PlainKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who an object is; all that can be seen of a sealed one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectName {
    /// For example `apps/v1`.
    pub api_version: String,
    /// For example `Deployment`.
    pub kind: String,
    /// Absent for resources of the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// The name that stands in an object.
    pub(crate) fn of(object: &Value) -> Option<ObjectName> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
        Some(ObjectName {
            api_version: text("/apiVersion")?,
            kind: text("/kind")?,
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name")?,
        })
    }

    /// `apps/v1/Deployment`.
    pub fn full_kind(&self) -> String {
        format!("{}/{}", self.api_version, self.kind)
    }

    /// `Secret/sparc-prod/database`.
    pub fn label(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}/{}", self.kind, self.name),
            None => format!("{}/{}", self.kind, self.name),
        }
    }
}

/// A sealed object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sealed {
    /// Whose it is.
    pub of: ObjectName,
    /// 96 bits, base64.
    pub nonce: String,
    /// Ciphertext and tag, base64.
    pub sealed: String,
}

/// Seals and opens the objects of one export.
pub(crate) struct Seal {
    key: RandomizedNonceKey,
    place: String,
}

impl Seal {
    pub fn new(plain: &PlainKey, identity: &ExportIdentity, cluster: &str) -> Result<Seal, String> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, plain.bytes())
            .map_err(|_| "the data key is no AES-256 key".to_owned())?;
        // JSON, so that no two different places read alike.
        let place = serde_json::json!([FORM, identity.platform, identity.backup, cluster]).to_string();
        Ok(Seal { key, place })
    }

    fn bound_to(&self, of: &ObjectName) -> Aad<Vec<u8>> {
        let ObjectName { api_version, kind, namespace, name } = of;
        let object = serde_json::json!([self.place, api_version, kind, namespace, name]);
        Aad::from(object.to_string().into_bytes())
    }

    pub fn close(&self, of: ObjectName, object: &Value) -> Result<Sealed, String> {
        let mut bytes = object.to_string().into_bytes();
        let nonce = self
            .key
            .seal_in_place_append_tag(self.bound_to(&of), &mut bytes)
            .map_err(|_| format!("{} cannot be sealed", of.label()))?;
        Ok(Sealed { of, nonce: STANDARD.encode(nonce.as_ref()), sealed: STANDARD.encode(bytes) })
    }

    pub fn open(&self, sealed: &Sealed) -> Result<Value, String> {
        let label = sealed.of.label();
        let changed = || format!("{label} was sealed under another key or in another place, or has been changed");
        let nonce: [u8; NONCE_LEN] = STANDARD
            .decode(&sealed.nonce)
            .ok()
            .and_then(|nonce| nonce.try_into().ok())
            .ok_or_else(|| format!("the nonce of {label} is not 96 bits"))?;
        let mut bytes = STANDARD.decode(&sealed.sealed).map_err(|_| changed())?;
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), self.bound_to(&sealed.of), &mut bytes)
            .map_err(|_| changed())?;
        serde_json::from_slice(plain).map_err(|_| format!("{label} holds no JSON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(backup: &str, cluster: &str, key: u8) -> Seal {
        let identity = ExportIdentity {
            platform: "sparc".to_owned(),
            backup: format!("cluster/{backup}/20260102T030405Z").parse().unwrap(),
            began_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        };
        Seal::new(&PlainKey::new([key; 32]), &identity, cluster).unwrap()
    }

    fn secret(name: &str) -> (ObjectName, Value) {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "sparc", "name": name},
            "data": {"password": "Z2VoZWlt"}});
        (ObjectName::of(&object).unwrap(), object)
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_and_in_no_other() {
        let (of, object) = secret("database");
        let here = seal("b1", "east", 7);
        let sealed = here.close(of.clone(), &object).unwrap();
        assert!(!serde_json::to_string(&sealed).unwrap().contains("Z2VoZWlt"));
        assert_eq!(here.open(&sealed).unwrap(), object);
        assert_ne!(here.close(of, &object).unwrap().nonce, sealed.nonce, "a nonce is used once");
        for (what, other) in [
            ("another backup", seal("b2", "east", 7)),
            ("another cluster", seal("b1", "west", 7)),
            ("another key", seal("b1", "east", 8)),
        ] {
            assert!(other.open(&sealed).is_err(), "{what}");
        }
        let renamed = Sealed { of: secret("other").0, ..sealed.clone() };
        assert!(here.open(&renamed).is_err(), "swapped with another secret");
        let mut bytes = STANDARD.decode(&sealed.sealed).unwrap();
        bytes[3] ^= 1;
        let flipped = Sealed { sealed: STANDARD.encode(bytes), ..sealed };
        let said = here.open(&flipped).unwrap_err();
        assert!(said.starts_with("Secret/sparc/database was sealed under another key"), "{said}");
    }
}
