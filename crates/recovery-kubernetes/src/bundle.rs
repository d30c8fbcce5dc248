//! A bundle of rendered manifests, as a pure matter: what is in it, in which order it goes out, what may not be in it.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

/// Whole bundle. Rendered overlays of platforms are some hundred KiB; beyond this somebody uploaded the wrong file.
const MOST_BYTES: usize = 8 << 20;
/// Objects in one bundle: each costs three requests.
const MOST_OBJECTS: usize = 500;
/// One object: etcd takes requests of 1.5 MiB by default, of which bookkeeping needs a part.
const MOST_BYTES_OF_AN_OBJECT: usize = 1 << 20;

/// A bundle that is not sent to any server.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Too many bytes.
    #[error("{what} has {bytes} bytes; at most {most} are taken")]
    TooLarge {
        /// The bundle or one object.
        what: String,
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// Too many objects.
    #[error("it has more than {MOST_OBJECTS} objects")]
    TooMany,
    /// Nothing in it.
    #[error("it has no objects")]
    Empty,
    /// Not YAML.
    #[error("document {document} is not YAML")]
    NotYaml {
        /// Counted from one.
        document: usize,
        /// Line and column.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// YAML, but no Kubernetes object.
    #[error("document {document} is no Kubernetes object: it has no {field}")]
    NotAnObject {
        /// Counted from one.
        document: usize,
        /// What is missing.
        field: &'static str,
    },
    /// The same object twice.
    #[error("{object} is in it twice")]
    Twice {
        /// For example `Deployment/core-apis`.
        object: String,
    },
    /// Values of a secret.
    #[error("{object} carries the values of a secret; a bundle refers to Secrets Manager instead (`ExternalSecret`)")]
    SecretValues {
        /// For example `Secret/database`.
        object: String,
    },
    /// A count that is none.
    #[error("{object} asks for {replicas} replicas")]
    BadReplicas {
        /// For example `Deployment/core-apis`.
        object: String,
        /// As it stands.
        replicas: String,
    },
}

/// One object, ready to be applied.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    /// As written; the platform's namespace is filled in when the kind turns out to be namespaced.
    pub namespace: Option<String>,
    /// The object without `replicas`, `status` and what only servers write.
    pub object: Value,
    /// What `replicas` said.
    pub replicas: Option<u32>,
}

impl Manifest {
    pub fn label(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }

    /// `apps/v1/Deployment`.
    pub fn full_kind(&self) -> String {
        format!("{}/{}", self.api_version, self.kind)
    }

    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    pub fn is_scaled(&self) -> bool {
        self.group() == "apps" && matches!(self.kind.as_str(), "Deployment" | "StatefulSet" | "ReplicaSet")
    }

    /// `apiVersion/kind` combinations that this object, a definition, will make the server serve.
    pub fn defines(&self) -> Vec<String> {
        if self.kind != "CustomResourceDefinition" {
            return Vec::new();
        }
        let spec = &self.object["spec"];
        let (group, kind) = (spec["group"].as_str().unwrap_or(""), spec["names"]["kind"].as_str().unwrap_or(""));
        let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
        versions.iter().filter_map(|v| v["name"].as_str()).map(|version| format!("{group}/{version}/{kind}")).collect()
    }

    fn rank(&self) -> u8 {
        recovery_export::rank(&self.kind)
    }
}

/// Reads a bundle and puts it in order.
pub(crate) fn parse(text: &str) -> Result<Vec<Manifest>, BundleError> {
    bounded("the bundle", text.len(), MOST_BYTES)?;
    let mut manifests = Vec::new();
    for (n, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let value = Value::deserialize(document).map_err(|source| BundleError::NotYaml { document: n + 1, source })?;
        match value {
            // What `---` at the end or a comment alone leaves.
            Value::Null => {}
            Value::Object(ref list) if list.get("kind").is_some_and(|kind| kind == "List") => {
                for item in list.get("items").and_then(Value::as_array).cloned().unwrap_or_default() {
                    manifests.push(manifest(n + 1, item)?);
                }
            }
            value => manifests.push(manifest(n + 1, value)?),
        }
        if manifests.len() > MOST_OBJECTS {
            return Err(BundleError::TooMany);
        }
    }
    if manifests.is_empty() {
        return Err(BundleError::Empty);
    }
    let mut seen = BTreeSet::new();
    for manifest in &manifests {
        if !seen.insert((manifest.full_kind(), manifest.namespace.clone(), manifest.name.clone())) {
            return Err(BundleError::Twice { object: manifest.label() });
        }
    }
    manifests.sort_by_key(Manifest::rank);
    Ok(manifests)
}

fn bounded(what: &str, bytes: usize, most: usize) -> Result<(), BundleError> {
    if bytes > most { Err(BundleError::TooLarge { what: what.to_owned(), bytes, most }) } else { Ok(()) }
}

fn manifest(document: usize, mut object: Value) -> Result<Manifest, BundleError> {
    let text = |value: &Value, field: &'static str| match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(BundleError::NotAnObject { document, field }),
    };
    let api_version = text(&object["apiVersion"], "apiVersion")?;
    let kind = text(&object["kind"], "kind")?;
    // `generateName` makes a new object with every apply, so it has no place in something that is repeated.
    let name = text(&object["metadata"]["name"], "metadata.name")?;
    let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
    let mut manifest = Manifest { api_version, kind, name, namespace, object: Value::Null, replicas: None };
    bounded(&manifest.label(), object.to_string().len(), MOST_BYTES_OF_AN_OBJECT)?;
    if manifest.kind == "Secret" && manifest.group().is_empty() {
        let filled = |field: &str| object[field].as_object().is_some_and(|values| !values.is_empty());
        if filled("data") || filled("stringData") {
            return Err(BundleError::SecretValues { object: manifest.label() });
        }
    }
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"] {
            metadata.remove(field);
        }
    }
    if manifest.is_scaled()
        && let Some(replicas) =
            object.get_mut("spec").and_then(Value::as_object_mut).and_then(|spec| spec.remove("replicas"))
    {
        let count = replicas.as_u64().and_then(|count| u32::try_from(count).ok());
        let bad = || BundleError::BadReplicas { object: manifest.label(), replicas: replicas.to_string() };
        manifest.replicas = Some(count.ok_or_else(bad)?);
    }
    manifest.object = object;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_goes_first_and_equals_keep_their_order() {
        let kinds = [
            "Deployment",
            "Ingress",
            "ExternalSecret",
            "Service",
            "Widget",
            "ConfigMap",
            "RoleBinding",
            "Role",
            "CustomResourceDefinition",
            "Namespace",
            "ServiceAccount",
        ];
        let text: Vec<String> =
            kinds.iter().map(|kind| format!("apiVersion: g/v1\nkind: {kind}\nmetadata: {{name: a}}\n")).collect();
        let order: Vec<String> = parse(&text.join("---\n")).unwrap().into_iter().map(|m| m.kind).collect();
        let expected = [
            "Namespace",
            "CustomResourceDefinition",
            "ServiceAccount",
            "Role",
            "RoleBinding",
            "ConfigMap",
            "ExternalSecret",
            "Service",
            "Widget",
            "Deployment",
            "Ingress",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn replicas_are_taken_out_of_what_is_applied() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, uid: x}\nspec: {replicas: 3, paused: false}\nstatus: {replicas: 2}\n";
        let manifest = parse(text).unwrap().remove(0);
        assert_eq!(manifest.replicas, Some(3));
        assert_eq!(manifest.object["spec"], serde_json::json!({"paused": false}));
        assert_eq!(manifest.object.get("status"), None);
        assert_eq!(manifest.object["metadata"], serde_json::json!({"name": "a"}));
    }

    #[test]
    fn a_list_is_its_items_and_empty_documents_are_nothing() {
        let text = "---\n# nothing\n---\nkind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n---\n";
        let names: Vec<String> = parse(text).unwrap().iter().map(Manifest::label).collect();
        assert_eq!(names, ["ConfigMap/a", "ConfigMap/b"]);
    }

    #[test]
    fn a_bundle_that_is_none_is_refused_in_one_sentence() {
        let situations = [
            ("", "it has no objects"),
            ("a: [", "document 1 is not YAML"),
            ("kind: X", "document 1 is no Kubernetes object: it has no apiVersion"),
            ("just words", "document 1 is no Kubernetes object: it has no apiVersion"),
            (
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: a-}",
                "document 1 is no Kubernetes object: it has no metadata.name",
            ),
            (
                "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {password: x}",
                "Secret/db carries the values of a secret; a bundle refers to Secrets Manager instead (`ExternalSecret`)",
            ),
            (
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}",
                "ConfigMap/a is in it twice",
            ),
            (
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: -1}",
                "Deployment/a asks for -1 replicas",
            ),
        ];
        for (text, expected) in situations {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_too_large_is_not_sent() {
        let large =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{x: {}}}", "y".repeat(1 << 20));
        assert!(matches!(parse(&large).unwrap_err(), BundleError::TooLarge { what, .. } if what == "ConfigMap/a"));
        assert!(matches!(parse(&"#".repeat(MOST_BYTES + 1)).unwrap_err(), BundleError::TooLarge { .. }));
    }
}
