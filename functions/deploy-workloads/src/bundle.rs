//! The bundle as a pure matter: placeholders are filled, and what cannot work without the lost region, or would carry a
//! secret into it, is found before anything is applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use jiff::Timestamp;
use recovery::{
    fault::{Classified, Fault},
    plan::Region,
};
use regex::Regex;
use serde::Deserialize;
use serde_yaml_ng::Value;

/// When the bundle was rendered, on any of its objects.
const RENDERED_AT: &str = "recovery.sparc/rendered-at";
/// How many replicas a Deployment had when the bundle was rendered.
const REPLICAS: &str = "recovery.sparc/replicas";

static PLACEHOLDER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\$\{([^}]*)\}").ok());

/// What of a bundle concerns this step.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Contents {
    /// Deployments by name, as they stand in it.
    pub deployments: Vec<String>,
    /// Replicas by Deployment, from their annotations.
    pub replicas: BTreeMap<String, u32>,
    /// The oldest rendering in it.
    pub rendered_at: Option<Timestamp>,
    /// Images of its workloads.
    pub images: BTreeSet<String>,
}

/// Why a bundle cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleProblem {
    /// Not text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// A placeholder that nobody fills.
    #[error("line {line} asks for `{name}`, known are {known}")]
    UnknownPlaceholder {
        /// What stands between the braces.
        name: String,
        /// From one.
        line: usize,
        /// What could stand there, in backticks.
        known: String,
    },
    /// Not YAML.
    #[error("it is not YAML: {0}")]
    NotYaml(String),
    /// An annotation that cannot be read.
    #[error("{object} has the annotation `{annotation}: {value}`, which is not understood")]
    BadAnnotation {
        /// For example `Deployment/core-apis`.
        object: String,
        /// Its key.
        annotation: &'static str,
        /// As it stands.
        value: String,
    },
    /// Something that is gone with the region.
    #[error("{} of the region `{region}`, which is lost", needs.join("; "))]
    NeedsLostRegion {
        /// Who needs what.
        needs: Vec<String>,
        /// The region.
        region: Region,
    },
    /// A secret in the clear.
    #[error("{} in the clear", places.join("; "))]
    SecretInTheClear {
        /// Where; never what.
        places: Vec<String>,
    },
}

impl Classified for BundleProblem {
    fn fault(&self) -> Fault {
        match self {
            BundleProblem::NotText
            | BundleProblem::UnknownPlaceholder { .. }
            | BundleProblem::NotYaml(_)
            | BundleProblem::BadAnnotation { .. } => Fault::Permanent,
            BundleProblem::NeedsLostRegion { .. } | BundleProblem::SecretInTheClear { .. } => Fault::Refused,
        }
    }

    fn remedy(&self) -> String {
        match self {
            BundleProblem::NotText | BundleProblem::NotYaml(_) => {
                "render the recovery overlay again and upload it".to_owned()
            }
            BundleProblem::UnknownPlaceholder { name, .. } => {
                format!("remove `${{{name}}}` from the recovery overlay, or fill it when it is rendered")
            }
            BundleProblem::BadAnnotation { annotation, .. } => format!("correct `{annotation}` where it is rendered"),
            BundleProblem::NeedsLostRegion { .. } => {
                "name what was replicated to the failover region, and upload the bundle again".to_owned()
            }
            BundleProblem::SecretInTheClear { .. } => {
                "refer to Secrets Manager with an `ExternalSecret` and `secretKeyRef`, then change the secret"
                    .to_owned()
            }
        }
    }
}

/// Fills the placeholders of a template.
pub(crate) fn render(template: &[u8], values: &BTreeMap<&str, &str>) -> Result<String, BundleProblem> {
    let template = std::str::from_utf8(template).map_err(|_| BundleProblem::NotText)?;
    let Some(placeholder) = PLACEHOLDER.as_ref() else { return Err(BundleProblem::NotText) };
    let mut rendered = String::with_capacity(template.len());
    let mut copied = 0;
    for found in placeholder.captures_iter(template) {
        let (Some(whole), Some(name)) = (found.get(0), found.get(1)) else { continue };
        let Some(value) = values.get(name.as_str()) else {
            let known: Vec<String> = values.keys().map(|name| format!("`${{{name}}}`")).collect();
            return Err(BundleProblem::UnknownPlaceholder {
                name: name.as_str().to_owned(),
                line: template[..whole.start()].matches('\n').count() + 1,
                known: known.join(", "),
            });
        };
        rendered.push_str(&template[copied..whole.start()]);
        rendered.push_str(value);
        copied = whole.end();
    }
    rendered.push_str(&template[copied..]);
    Ok(rendered)
}

/// Reads what concerns this step, and refuses what cannot work or must not be.
pub(crate) fn inspect(manifests: &str, lost: &Region) -> Result<Contents, BundleProblem> {
    let mut contents = Contents::default();
    let (mut needs, mut places) = (Vec::new(), Vec::new());
    for document in serde_yaml_ng::Deserializer::from_str(manifests) {
        let value = Value::deserialize(document).map_err(|error| BundleProblem::NotYaml(error.to_string()))?;
        let items = match value.get("items").and_then(Value::as_sequence) {
            Some(items) if text(&value, "kind") == Some("List") => items.clone(),
            _ => vec![value],
        };
        for object in items.iter().filter(|object| !object.is_null()) {
            read(object, &mut contents)?;
            let label = label(object);
            look_for_lost(object, lost, &label, &mut needs);
            look_for_secrets(object, &label, &mut places);
        }
    }
    if !needs.is_empty() {
        return Err(BundleProblem::NeedsLostRegion { needs, region: lost.clone() });
    }
    if !places.is_empty() {
        return Err(BundleProblem::SecretInTheClear { places });
    }
    Ok(contents)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn name(object: &Value) -> &str {
    object.get("metadata").and_then(|metadata| text(metadata, "name")).unwrap_or("unnamed")
}

fn label(object: &Value) -> String {
    format!("{}/{}", text(object, "kind").unwrap_or("unknown"), name(object))
}

fn read(object: &Value, contents: &mut Contents) -> Result<(), BundleProblem> {
    let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let annotation = |key: &'static str| annotations.and_then(|annotations| text(annotations, key)).map(|v| (key, v));
    let bad = |(annotation, value): (&'static str, &str)| BundleProblem::BadAnnotation {
        object: label(object),
        annotation,
        value: value.to_owned(),
    };
    if let Some(found) = annotation(RENDERED_AT) {
        let at: Timestamp = found.1.parse().map_err(|_| bad(found))?;
        contents.rendered_at = Some(contents.rendered_at.map_or(at, |oldest| oldest.min(at)));
    }
    for_each_image(object, &mut |image| {
        contents.images.insert(image.to_owned());
    });
    if text(object, "kind") == Some("Deployment") {
        contents.deployments.push(name(object).to_owned());
        if let Some(found) = annotation(REPLICAS) {
            contents.replicas.insert(name(object).to_owned(), found.1.parse().map_err(|_| bad(found))?);
        }
    }
    Ok(())
}

/// Images, keys and secrets are regional: what is named in the lost region cannot be pulled, decrypted or read.
fn look_for_lost(value: &Value, lost: &Region, label: &str, found: &mut Vec<String>) {
    for_each_text(value, &mut |text| {
        let image = text.contains(&format!(".dkr.ecr.{lost}."));
        let arn = ["secretsmanager", "kms", "ssm", "s3", "sqs", "sns"]
            .iter()
            .any(|service| text.contains(&format!(":{service}:{lost}:")));
        let host = text.contains(&format!(".{lost}.amazonaws.com")) && !image;
        if image || arn || host {
            found.push(format!("{label} needs `{text}`"));
        }
    });
}

/// The images of a workload: those of containers and of init containers.
fn for_each_image(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::Mapping(fields) => {
            for (key, field) in fields {
                match (key.as_str(), field) {
                    (Some("containers" | "initContainers"), Value::Sequence(containers)) => {
                        containers.iter().filter_map(|container| text(container, "image")).for_each(&mut *visit);
                    }
                    _ => for_each_image(field, visit),
                }
            }
        }
        Value::Sequence(items) => items.iter().for_each(|item| for_each_image(item, visit)),
        Value::Tagged(tagged) => for_each_image(&tagged.value, visit),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn for_each_text(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Sequence(items) => items.iter().for_each(|item| for_each_text(item, visit)),
        Value::Mapping(fields) => fields.values().for_each(|field| for_each_text(field, visit)),
        Value::Tagged(tagged) => for_each_text(&tagged.value, visit),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whatever is written into a manifest can be read by everybody who may list Deployments, and stays in etcd.
fn look_for_secrets(object: &Value, label: &str, places: &mut Vec<String>) {
    match text(object, "kind") {
        Some("Secret") => {
            let filled = |field: &str| object.get(field).and_then(Value::as_mapping).is_some_and(|map| !map.is_empty());
            if filled("data") || filled("stringData") {
                places.push(format!("{label} carries a secret"));
            }
        }
        Some("ConfigMap") => {
            for (key, value) in object.get("data").and_then(Value::as_mapping).into_iter().flatten() {
                if let (Some(key), Some(value)) = (key.as_str(), value.as_str())
                    && is_secret(key, value)
                {
                    places.push(format!("{label} carries `{key}`"));
                }
            }
        }
        _ => look_for_literals(object, label, places),
    }
}

fn look_for_literals(value: &Value, label: &str, places: &mut Vec<String>) {
    match value {
        Value::Mapping(fields) => {
            if let (Some(name), Some(literal)) = (text(value, "name"), text(value, "value"))
                && is_secret(name, literal)
            {
                places.push(format!("{label} carries `{name}`"));
            }
            fields.values().for_each(|field| look_for_literals(field, label, places));
        }
        Value::Sequence(items) => items.iter().for_each(|item| look_for_literals(item, label, places)),
        Value::Tagged(tagged) => look_for_literals(&tagged.value, label, places),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A name that says secret with a value that is one, or a URL with a password in it. A name that ends in what a secret is
/// found by, a file or an ARN, is none.
fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let words = ["PASSWORD", "PASSWD", "PGPASS", "SECRET", "TOKEN", "API_KEY", "APIKEY", "PRIVATE_KEY", "CREDENTIAL"];
    let reference = ["_FILE", "_PATH", "_NAME", "_ARN", "_ID", "_REF", "_DIR", "_TTL", "_SECONDS"];
    let says_so = words.iter().any(|word| name.contains(word)) && !reference.iter().any(|end| name.ends_with(end));
    let in_url = value.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, pass)| !pass.is_empty()))
    });
    !value.is_empty() && (says_so || in_url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Region {
        Region::try_from("us-east-1".to_owned()).unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_unknown_ones_are_named_with_their_line() {
        let values = BTreeMap::from([("DATABASE_HOST", "db.example"), ("REGION", "us-west-2")]);
        let rendered = render(b"a: ${DATABASE_HOST}\nb: $(POD_NAME) $5 ${REGION}-x\n", &values).unwrap();
        assert_eq!(rendered, "a: db.example\nb: $(POD_NAME) $5 us-west-2-x\n");
        let problem = render(b"a: 1\nb: ${DATABASE_PASSWORD}\n", &values).unwrap_err().to_string();
        assert_eq!(problem, "line 2 asks for `DATABASE_PASSWORD`, known are `${DATABASE_HOST}`, `${REGION}`");
        assert_eq!(render(&[0xff, 0xfe], &values), Err(BundleProblem::NotText));
    }

    #[test]
    fn deployments_their_counts_and_the_oldest_rendering_are_read() {
        let text = "\
kind: Deployment
metadata: {name: a, annotations: {recovery.sparc/replicas: '4', recovery.sparc/rendered-at: '2026-11-23T02:00:00Z'}}
---
# nothing
---
kind: List
items:
- {kind: Deployment, metadata: {name: b, annotations: {recovery.sparc/rendered-at: '2026-11-23T01:00:00Z'}}}
- {kind: Service, metadata: {name: a}}
";
        let contents = inspect(text, &lost()).unwrap();
        assert_eq!(contents.deployments, ["a", "b"]);
        assert_eq!(contents.replicas, BTreeMap::from([("a".to_owned(), 4)]));
        assert_eq!(contents.rendered_at, Some("2026-11-23T01:00:00Z".parse().unwrap()));
    }

    #[test]
    fn what_is_gone_with_the_region_is_not_needed() {
        let situations = [
            (
                "{kind: Deployment, metadata: {name: a}, spec: {template: {spec: {containers: [{image: 111122223333.dkr.ecr.us-east-1.amazonaws.com/a@sha256:0}]}}}}",
                true,
            ),
            (
                "{kind: Deployment, metadata: {name: a}, spec: {template: {spec: {initContainers: [{image: 111122223333.dkr.ecr.us-east-1.amazonaws.com/a@sha256:0}]}}}}",
                true,
            ),
            (
                "{kind: ExternalSecret, metadata: {name: a}, spec: {key: 'arn:aws:secretsmanager:us-east-1:111122223333:secret:x'}}",
                true,
            ),
            ("{kind: ConfigMap, metadata: {name: a}, data: {queue: 'https://sqs.us-east-1.amazonaws.com/1/q'}}", true),
            (
                "{kind: Deployment, metadata: {name: a}, spec: {template: {spec: {containers: [{image: 111122223333.dkr.ecr.us-west-2.amazonaws.com/a@sha256:0}]}}}}",
                false,
            ),
            ("{kind: ConfigMap, metadata: {name: a}, data: {replaces: us-east-1}}", false),
        ];
        for (text, refused) in situations {
            let result = inspect(text, &lost());
            assert_eq!(matches!(result, Err(BundleProblem::NeedsLostRegion { .. })), refused, "{text}: {result:?}");
        }
    }

    #[test]
    fn secrets_are_referred_to_and_never_written() {
        let container = |env: &str| {
            format!(
                "{{kind: Deployment, metadata: {{name: a}}, spec: {{template: {{spec: {{containers: [{{env: [{env}]}}]}}}}}}}}"
            )
        };
        let situations = [
            (container("{name: DB_PASSWORD, value: hunter2}"), true),
            (container("{name: DATABASE_URL, value: 'postgres://app:hunter2@db/sparc'}"), true),
            (container("{name: DATABASE_URL, value: 'postgres://db/sparc?sslmode=verify-full'}"), false),
            (container("{name: DB_PASSWORD, valueFrom: {secretKeyRef: {name: database, key: password}}}"), false),
            (container("{name: DB_PASSWORD_FILE, value: /run/secrets/password}"), false),
            ("{kind: Secret, metadata: {name: a}, data: {password: aHVudGVyMg==}}".to_owned(), true),
            ("{kind: ConfigMap, metadata: {name: a}, data: {api-key: hunter2}}".to_owned(), true),
            ("{kind: ConfigMap, metadata: {name: a}, data: {database-host: db}}".to_owned(), false),
        ];
        for (text, refused) in situations {
            let result = inspect(&text, &lost());
            assert_eq!(matches!(result, Err(BundleProblem::SecretInTheClear { .. })), refused, "{text}: {result:?}");
            assert!(!format!("{result:?}").contains("hunter2"), "the refusal tells the secret");
        }
    }
}
