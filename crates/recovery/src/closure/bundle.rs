//! What a rendered bundle expects to find: a pure matter.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Region;

const RENDERED_AT: &str = "recovery.sparc/rendered-at";
/// Annotations with the ARN of a certificate, or several with commas: of the AWS Load Balancer Controller and of the
/// Service controller.
const CERTIFICATES: [&str; 2] =
    ["alb.ingress.kubernetes.io/certificate-arn", "service.beta.kubernetes.io/aws-load-balancer-ssl-cert"];
/// API groups of Kubernetes itself that have no dot in them.
const PLAIN_GROUPS: [&str; 5] = ["", "apps", "autoscaling", "batch", "policy"];

/// An object of a cluster by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// For example `v1`.
    pub api_version: String,
    /// For example `Secret`.
    pub kind: String,
    /// Absent for resources of the whole cluster.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Reference {
    /// `Secret/sparc-prod/database`.
    pub fn label(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}/{}", self.kind, self.name),
            None => format!("{}/{}", self.kind, self.name),
        }
    }
}

/// Who needs it.
type By = BTreeSet<String>;

/// What a bundle expects to find, each with the objects that need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleNeeds {
    /// Images.
    pub images: BTreeMap<String, By>,
    /// Names in Secrets Manager, from `ExternalSecret`s.
    pub secrets: BTreeMap<String, By>,
    /// ARNs of certificates of load balancers.
    pub certificates: BTreeMap<String, By>,
    /// Objects that it refers to and does not bring.
    pub objects: BTreeMap<Reference, By>,
    /// Kinds of other groups than Kubernetes' own, as `group/version/Kind`, whose definition it does not bring.
    pub kinds: BTreeMap<String, By>,
    /// The oldest rendering in it.
    pub rendered_at: Option<Timestamp>,
}

impl BundleNeeds {
    /// Reads a bundle as it would be applied in a region.
    ///
    /// # Errors
    /// It is not YAML, or empty.
    pub fn read(bytes: &[u8], region: &Region, namespace: &str) -> Result<BundleNeeds, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
        let text = text.replace("${REGION}", region.code());
        let mut reading = Reading { namespace, needs: BundleNeeds::default(), brings: BTreeSet::new() };
        let mut objects = 0_usize;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let value = Value::deserialize(document).map_err(|error| format!("it is not YAML: {error}"))?;
            match value["items"].as_array() {
                Some(items) if value["kind"] == "List" => items.iter().for_each(|item| reading.object(item)),
                _ if value.is_null() => continue,
                _ => reading.object(&value),
            }
            objects += 1;
        }
        if objects == 0 {
            return Err("it has no objects".to_owned());
        }
        Ok(reading.finish())
    }
}

struct Reading<'a> {
    namespace: &'a str,
    needs: BundleNeeds,
    /// What the bundle brings itself: objects, and kinds as `group/version/Kind`.
    brings: BTreeSet<Reference>,
}

fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn items<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

impl Reading<'_> {
    fn object(&mut self, object: &Value) {
        let (api_version, kind) = (text(object, "/apiVersion").unwrap_or("v1"), text(object, "/kind").unwrap_or("?"));
        let name = text(object, "/metadata/name").unwrap_or("?");
        let namespace = text(object, "/metadata/namespace").unwrap_or(self.namespace).to_owned();
        let label = format!("{kind}/{name}");
        self.brings.insert(Reference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: Some(namespace.clone()),
            name: name.to_owned(),
        });
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if !PLAIN_GROUPS.contains(&group) && !group.ends_with(".k8s.io") {
            note(&mut self.needs.kinds, format!("{api_version}/{kind}"), &label);
        }
        if let Some(Ok(at)) = text(&object["metadata"]["annotations"], &pointer(RENDERED_AT)).map(str::parse) {
            self.needs.rendered_at = Some(self.needs.rendered_at.map_or(at, |oldest: Timestamp| oldest.min(at)));
        }
        for annotation in CERTIFICATES {
            let arns = text(&object["metadata"]["annotations"], &pointer(annotation)).unwrap_or_default();
            for arn in arns.split(',').map(str::trim).filter(|arn| !arn.is_empty()) {
                note(&mut self.needs.certificates, arn.to_owned(), &label);
            }
        }
        match kind {
            "Pod" => self.pod(object, "/spec", &namespace, &label),
            "CronJob" => self.pod(object, "/spec/jobTemplate/spec/template/spec", &namespace, &label),
            "ExternalSecret" => self.external_secret(object, &namespace, name, &label),
            "Ingress" => {
                for tls in items(object, "/spec/tls") {
                    self.refer("v1", "Secret", text(tls, "/secretName"), &namespace, &label);
                }
            }
            "PersistentVolumeClaim" => self.storage_class(object, &label),
            _ => self.pod(object, "/spec/template/spec", &namespace, &label),
        }
        for claim in items(object, "/spec/volumeClaimTemplates") {
            self.storage_class(claim, &label);
        }
    }

    fn storage_class(&mut self, claim: &Value, label: &str) {
        if let Some(name) = text(claim, "/spec/storageClassName") {
            self.cluster_wide("storage.k8s.io/v1", "StorageClass", name, label);
        }
    }

    /// The secret that an operator makes from Secrets Manager of its own region.
    fn external_secret(&mut self, object: &Value, namespace: &str, name: &str, label: &str) {
        let made = text(object, "/spec/target/name").unwrap_or(name);
        self.brings.insert(Reference {
            api_version: "v1".to_owned(),
            kind: "Secret".to_owned(),
            namespace: Some(namespace.to_owned()),
            name: made.to_owned(),
        });
        let each = items(object, "/spec/data").filter_map(|one| text(one, "/remoteRef/key"));
        let whole = items(object, "/spec/dataFrom").filter_map(|one| text(one, "/extract/key"));
        for key in each.chain(whole) {
            note(&mut self.needs.secrets, key.to_owned(), label);
        }
        let store = text(object, "/spec/secretStoreRef/name");
        let api_version = text(object, "/apiVersion").unwrap_or_default();
        match (text(object, "/spec/secretStoreRef/kind"), store) {
            (Some("ClusterSecretStore"), Some(store)) => {
                self.cluster_wide(api_version, "ClusterSecretStore", store, label);
            }
            (_, store) => self.refer(api_version, "SecretStore", store, namespace, label),
        }
    }

    fn pod(&mut self, object: &Value, path: &str, namespace: &str, label: &str) {
        let Some(spec) = object.pointer(path) else { return };
        for containers in ["/containers", "/initContainers"] {
            for container in items(spec, containers) {
                if let Some(image) = text(container, "/image") {
                    note(&mut self.needs.images, image.to_owned(), label);
                }
                for variable in items(container, "/env") {
                    let held = |kind: &str| variable.pointer(&format!("/valueFrom/{kind}KeyRef")).cloned();
                    self.one_of(held("secret"), held("configMap"), namespace, label);
                }
                for from in items(container, "/envFrom") {
                    self.one_of(from.get("secretRef").cloned(), from.get("configMapRef").cloned(), namespace, label);
                }
            }
        }
        for volume in items(spec, "/volumes") {
            let secret = volume.get("secret").map(|secret| named(secret, "secretName"));
            self.one_of(secret, volume.get("configMap").cloned(), namespace, label);
            if let Some(claim) = text(volume, "/persistentVolumeClaim/claimName") {
                self.refer("v1", "PersistentVolumeClaim", Some(claim), namespace, label);
            }
            for source in items(volume, "/projected/sources") {
                self.one_of(source.get("secret").cloned(), source.get("configMap").cloned(), namespace, label);
            }
        }
        for pull in items(spec, "/imagePullSecrets") {
            self.refer("v1", "Secret", text(pull, "/name"), namespace, label);
        }
        let account = text(spec, "/serviceAccountName").filter(|name| *name != "default");
        self.refer("v1", "ServiceAccount", account, namespace, label);
        if let Some(class) = text(spec, "/priorityClassName").filter(|name| !name.starts_with("system-")) {
            self.cluster_wide("scheduling.k8s.io/v1", "PriorityClass", class, label);
        }
    }

    /// A reference to a Secret or a ConfigMap, unless a pod does without it.
    fn one_of(&mut self, secret: Option<Value>, config_map: Option<Value>, namespace: &str, label: &str) {
        for (kind, reference) in [("Secret", secret), ("ConfigMap", config_map)] {
            if let Some(reference) = reference.filter(|reference| reference["optional"] != true) {
                self.refer("v1", kind, text(&reference, "/name"), namespace, label);
            }
        }
    }

    fn refer(&mut self, api_version: &str, kind: &str, name: Option<&str>, namespace: &str, label: &str) {
        let Some(name) = name else { return };
        let reference = Reference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        };
        self.needs.objects.entry(reference).or_default().insert(label.to_owned());
    }

    fn cluster_wide(&mut self, api_version: &str, kind: &str, name: &str, label: &str) {
        let (api_version, kind, name) = (api_version.to_owned(), kind.to_owned(), name.to_owned());
        let reference = Reference { api_version, kind, namespace: None, name };
        self.needs.objects.entry(reference).or_default().insert(label.to_owned());
    }

    /// Takes away what the bundle brings itself, in whichever order it stands.
    fn finish(mut self) -> BundleNeeds {
        let brings = |object: &Reference| {
            self.brings.iter().any(|one| {
                let same_place = object.namespace.is_none() || one.namespace == object.namespace;
                one.kind == object.kind && one.name == object.name && same_place
            })
        };
        self.needs.objects.retain(|object, _| !brings(object));
        let definitions: BTreeSet<&str> = self
            .brings
            .iter()
            .filter(|one| one.kind == "CustomResourceDefinition")
            .map(|one| one.name.as_str())
            .collect();
        self.needs.kinds.retain(|kind, _| {
            // `widgets.sparc.example` defines `sparc.example/v1/Widget`.
            let group = kind.split('/').next().unwrap_or_default();
            !definitions.iter().any(|name| name.split_once('.').is_some_and(|(_, defined)| defined == group))
        });
        self.needs
    }
}

fn note(needs: &mut BTreeMap<String, By>, name: String, label: &str) {
    needs.entry(name).or_default().insert(label.to_owned());
}

/// A volume names its secret in a field of another name than everybody else.
fn named(reference: &Value, field: &str) -> Value {
    let mut reference = reference.clone();
    reference["name"] = reference[field].take();
    reference
}

/// `/` in a key stands as `~1` in a JSON pointer.
fn pointer(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> BundleNeeds {
        BundleNeeds::read(text.as_bytes(), &Region::try_from("us-west-2".to_owned()).unwrap(), "sparc-prod").unwrap()
    }

    fn labels(needs: &BundleNeeds) -> Vec<String> {
        needs.objects.keys().map(Reference::label).collect()
    }

    #[test]
    fn the_suites_own_bundle_needs_its_images_and_the_secret_that_stands_in_the_cluster() {
        let needs = read(include_str!("../../../../bundles/disaster-recovery.yaml"));
        assert_eq!(labels(&needs), ["Secret/sparc-prod/database"]);
        assert!(needs.images.keys().all(|image| image.contains(".dkr.ecr.us-west-2.")), "{:?}", needs.images);
        assert!(needs.images.len() >= 6, "{:?}", needs.images);
        assert_eq!(needs.rendered_at, Some("2026-11-23T02:45:00Z".parse().unwrap()));
        assert!(needs.kinds.is_empty() && needs.secrets.is_empty() && needs.certificates.is_empty());
    }

    #[test]
    fn what_a_pod_refers_to_is_needed_unless_the_bundle_brings_it_or_the_pod_does_without() {
        let needs = read(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a, namespace: other}\nspec:\n  volumeClaimTemplates: [{spec: {storageClassName: gp3}}]\n  template:\n    spec:\n      serviceAccountName: worker\n      priorityClassName: urgent\n      imagePullSecrets: [{name: pull}]\n      volumes:\n      - {secret: {secretName: tls}}\n      - {configMap: {name: brought}}\n      - {persistentVolumeClaim: {claimName: data}}\n      containers:\n      - image: x\n        envFrom: [{secretRef: {name: from, optional: true}}, {configMapRef: {name: settings}}]\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: brought, namespace: other}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n",
        );
        let expected = [
            "PriorityClass/urgent",
            "StorageClass/gp3",
            // The one that is brought is in the platform's namespace.
            "ConfigMap/other/settings",
            "PersistentVolumeClaim/other/data",
            "Secret/other/pull",
            "Secret/other/tls",
            "ServiceAccount/other/worker",
        ];
        assert_eq!(labels(&needs).into_iter().collect::<BTreeSet<_>>(), expected.map(str::to_owned).into());
        assert_eq!(needs.images.len(), 1);
    }

    #[test]
    fn an_external_secret_needs_its_source_and_brings_the_secret() {
        let needs = read(
            "apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata: {name: database}\nspec:\n  secretStoreRef: {kind: ClusterSecretStore, name: aws}\n  data: [{secretKey: password, remoteRef: {key: sparc/db}}]\n  dataFrom: [{extract: {key: sparc/all}}]\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, annotations: {alb.ingress.kubernetes.io/certificate-arn: \"arn:aws:acm:us-east-1:1:certificate/a, arn:aws:acm:us-west-2:1:certificate/b\"}}\nspec: {template: {spec: {containers: [{env: [{valueFrom: {secretKeyRef: {name: database, key: password}}}]}]}}}\n",
        );
        assert_eq!(labels(&needs), ["ClusterSecretStore/aws"]);
        assert_eq!(needs.secrets.keys().collect::<Vec<_>>(), ["sparc/all", "sparc/db"]);
        assert_eq!(needs.kinds.keys().collect::<Vec<_>>(), ["external-secrets.io/v1/ExternalSecret"]);
        assert_eq!(needs.certificates.len(), 2);
    }
}
