//! Which objects belong into a backup, and what of them another cluster can take: a pure matter.

use serde_json::{Map, Value};

/// What another server gives anew, or refuses: an apply with a `uid` or `resourceVersion` of another cluster is a conflict,
/// and an object whose owner does not exist by its `uid` is deleted by the garbage collector.
const METADATA_OF_A_SERVER: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Annotations that controllers write about one cluster's volumes, nodes and revisions.
const ANNOTATIONS_OF_A_CLUSTER: [&str; 9] = [
    "autoscaling.alpha.kubernetes.io/conditions",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deployment.kubernetes.io/revision",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
];

/// What [`kubernetes.io`](https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection)
/// puts on volumes by itself.
const FINALIZERS_OF_VOLUMES: [&str; 3] =
    ["kubernetes.io/pv-protection", "kubernetes.io/pvc-protection", "external-attacher/"];

/// Kinds that hold data, and so are taken although something else made them.
const HOLD_DATA: [&str; 3] = ["ConfigMap", "PersistentVolumeClaim", "Secret"];

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(name)?.as_str()
}

fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"].get(name)?.as_str()
}

/// Why an object is left out of a backup; `None` if it belongs into it. `object` has `apiVersion` and `kind`.
pub(crate) fn left_out(object: &Value) -> Option<&'static str> {
    let kind = text(object, "/kind");
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Some("being deleted");
    }
    if kind == "Secret" && text(object, "/type") == "kubernetes.io/service-account-token" {
        // Signed by this cluster's own key for an account of this cluster.
        return Some("token of a service account");
    }
    let mut owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    if !HOLD_DATA.contains(&kind) && owners.any(|owner| owner["controller"] == true) {
        return Some("made by its owner");
    }
    let by_the_server = label(object, "kubernetes.io/bootstrapping").is_some()
        || label(object, "kube-aggregator.kubernetes.io/automanaged").is_some()
        || annotation(object, "apf.kubernetes.io/autoupdate-spec") == Some("true")
        || (kind == "Service" && namespace == "default" && name == "kubernetes")
        || (kind == "Endpoints" && namespace == "default" && name == "kubernetes")
        || (kind == "EndpointSlice" && namespace == "default" && name == "kubernetes")
        || (kind == "ConfigMap" && name == "kube-root-ca.crt")
        || (kind == "PriorityClass" && name.starts_with("system-"))
        // Flow control is of the server's own version where nothing says that it may be changed.
        || (matches!(kind, "FlowSchema" | "PriorityLevelConfiguration")
            && matches!(name, "exempt" | "catch-all"))
        || (kind.starts_with("ClusterRole") && name.starts_with("system:"));
    by_the_server.then_some("made by the server")
}

/// The object as another cluster can take it.
pub(crate) fn portable(mut object: Value) -> Value {
    let kind = text(&object, "/kind").to_owned();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in METADATA_OF_A_SERVER {
            metadata.remove(field);
        }
        remove_each(metadata, "annotations", &ANNOTATIONS_OF_A_CLUSTER);
    }
    match kind.as_str() {
        "Namespace" => remove(&mut object, "spec", &["finalizers"]),
        "Service" => of_a_service(&mut object),
        "ServiceAccount" => {
            // Tokens that the server has made for it.
            if let Some(fields) = object.as_object_mut() {
                fields.remove("secrets");
            }
        }
        "PersistentVolumeClaim" => {
            // Bound anew: to a volume from a snapshot, or to an empty one.
            remove(&mut object, "spec", &["volumeName"]);
            without_finalizers(&mut object);
        }
        "PersistentVolume" => {
            if let Some(claim) = object.pointer_mut("/spec/claimRef").and_then(Value::as_object_mut) {
                claim.remove("uid");
                claim.remove("resourceVersion");
            }
            without_finalizers(&mut object);
        }
        "Job" => of_a_job(&mut object),
        "Pod" => of_a_pod(&mut object),
        _ => {}
    }
    object
}

fn remove(object: &mut Value, field: &str, names: &[&str]) {
    if let Some(fields) = object.get_mut(field).and_then(Value::as_object_mut) {
        for name in names {
            fields.remove(*name);
        }
        if fields.is_empty()
            && let Some(object) = object.as_object_mut()
        {
            object.remove(field);
        }
    }
}

fn remove_each(parent: &mut Map<String, Value>, field: &str, names: &[&str]) {
    if let Some(fields) = parent.get_mut(field).and_then(Value::as_object_mut) {
        for name in names {
            fields.remove(*name);
        }
        if fields.is_empty() {
            parent.remove(field);
        }
    }
}

/// Addresses are the cluster's to give. A headless service says so itself (`None`).
fn of_a_service(object: &mut Value) {
    if text(object, "/spec/clusterIP") != "None" {
        remove(object, "spec", &["clusterIP", "clusterIPs"]);
    }
    remove(object, "spec", &["healthCheckNodePort"]);
    // Behind a load balancer nobody asks for these by number; a `NodePort` service is asked for by nothing else.
    if text(object, "/spec/type") == "LoadBalancer"
        && let Some(ports) = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut)
    {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
}

/// The selector of a Job is its own `uid`, unless somebody has taken that upon themselves.
fn of_a_job(object: &mut Value) {
    if object["spec"]["manualSelector"] == true {
        return;
    }
    remove(object, "spec", &["selector"]);
    if let Some(metadata) = object.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut) {
        let own = ["controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];
        remove_each(metadata, "labels", &own);
        metadata.remove("creationTimestamp");
    }
}

/// A pod of nobody's: without the node it ran on and the token it was given.
fn of_a_pod(object: &mut Value) {
    remove(object, "spec", &["nodeName"]);
    let is_token = |name: &str| name.starts_with("kube-api-access-") || name.contains("-token-");
    if let Some(volumes) = object.pointer_mut("/spec/volumes").and_then(Value::as_array_mut) {
        volumes.retain(|volume| !is_token(text(volume, "/name")));
    }
    for containers in ["/spec/containers", "/spec/initContainers"] {
        for container in object.pointer_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                mounts.retain(|mount| !is_token(text(mount, "/name")));
            }
        }
    }
}

fn without_finalizers(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        let own = |name: &str| FINALIZERS_OF_VOLUMES.iter().any(|own| name.starts_with(own));
        finalizers.retain(|finalizer| !finalizer.as_str().is_some_and(own));
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// Where an object that is no Secret seems to hold one in the clear; never what.
///
/// A guess by names and forms, and so only a reason to seal more than was asked for, never to seal less.
pub(crate) fn secret_in_the_clear(object: &Value) -> Option<String> {
    match text(object, "/kind") {
        // Schemas speak of passwords and hold none.
        "CustomResourceDefinition" => None,
        _ => walk(object, ""),
    }
}

fn walk(value: &Value, place: &str) -> Option<String> {
    match value {
        Value::Object(fields) => {
            // `{name: DB_PASSWORD, value: …}`, as containers write their environment.
            if let (Some(name), Some(Value::String(held))) =
                (fields.get("name").and_then(Value::as_str), fields.get("value"))
                && !held.is_empty()
                && names_a_secret(name)
            {
                return Some(format!("{place}.{name}"));
            }
            fields.iter().find_map(|(name, held)| {
                let here = format!("{place}.{name}");
                match held {
                    Value::String(held) if !held.is_empty() && names_a_secret(name) => Some(here),
                    // What `kubectl apply` remembers is a whole object of its own.
                    Value::String(held) if name == "kubectl.kubernetes.io/last-applied-configuration" => {
                        walk(&serde_json::from_str(held).unwrap_or_default(), &here)
                    }
                    held => walk(held, &here),
                }
            })
        }
        Value::Array(items) => items.iter().enumerate().find_map(|(n, item)| walk(item, &format!("{place}[{n}]"))),
        Value::String(held) if looks_like_a_secret(held) => Some(place.to_owned()),
        _ => None,
    }
}

/// `DB_PASSWORD`, `apiKey`, `client-secret`; not `passwordSecretName`, which says where one is.
fn names_a_secret(name: &str) -> bool {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    let refers = ["name", "names", "ref", "path", "file", "key", "mode", "policy", "seconds", "type", "class", "store"];
    let secret = ["password", "passwd", "pgpass", "privatekey", "accesskey", "apikey", "clientsecret", "authtoken"];
    if ["apikey", "privatekey", "accesskey"].iter().any(|end| plain.ends_with(end)) {
        return true;
    }
    let refers = refers.iter().any(|end| plain.ends_with(end));
    !refers && (secret.iter().any(|part| plain.contains(part)) || plain == "secret" || plain.ends_with("token"))
}

fn looks_like_a_secret(held: &str) -> bool {
    if held.contains("PRIVATE KEY-----") {
        return true;
    }
    // `postgresql://sparc:…@host`
    let Some((_, rest)) = held.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
    let Some((user, _)) = authority.rsplit_once('@') else { return false };
    user.split_once(':').is_some_and(|(_, password)| !password.is_empty() && !password.starts_with("$("))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_one_cluster_knows_is_taken_away() {
        let situations = [
            (
                "bookkeeping of the server",
                json!({"kind": "ConfigMap", "metadata": {"name": "a", "uid": "1", "resourceVersion": "2", "generation": 3,
                    "creationTimestamp": "x", "managedFields": [], "selfLink": "/a", "labels": {"b": "c"},
                    "ownerReferences": [{"uid": "4"}]}, "data": {"k": "v"}, "status": {"x": 1}}),
                json!({"kind": "ConfigMap", "metadata": {"name": "a", "labels": {"b": "c"}}, "data": {"k": "v"}}),
            ),
            (
                "an address that was given",
                json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1",
                    "clusterIPs": ["10.0.0.1"], "healthCheckNodePort": 30001, "ports": [{"port": 80, "nodePort": 30002}]}}),
                json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
            ),
            (
                "an address that was not wanted, and a port that was",
                json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "NodePort", "clusterIP": "None", "ports": [{"nodePort": 30002}]}}),
                json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "NodePort", "clusterIP": "None", "ports": [{"nodePort": 30002}]}}),
            ),
            (
                "a claim's volume",
                json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "a", "finalizers": ["kubernetes.io/pvc-protection"],
                    "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "pvc-1", "accessModes": ["ReadWriteOnce"]}}),
                json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "a"}, "spec": {"accessModes": ["ReadWriteOnce"]}}),
            ),
            (
                "a job's own uid",
                json!({"kind": "Job", "metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"controller-uid": "1"}},
                    "template": {"metadata": {"labels": {"controller-uid": "1", "app": "b"}}, "spec": {}}}}),
                json!({"kind": "Job", "metadata": {"name": "a"}, "spec": {"template": {"metadata": {"labels": {"app": "b"}}, "spec": {}}}}),
            ),
            (
                "a namespace",
                json!({"kind": "Namespace", "metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
                json!({"kind": "Namespace", "metadata": {"name": "a"}}),
            ),
        ];
        for (situation, before, after) in situations {
            assert_eq!(portable(before), after, "{situation}");
        }
    }

    #[test]
    fn what_comes_back_by_itself_is_left_out_and_what_holds_data_is_not() {
        let owned = json!([{"controller": true, "uid": "1"}]);
        let situations = [
            (
                "a pod of a replica set",
                json!({"kind": "Pod", "metadata": {"ownerReferences": owned}}),
                Some("made by its owner"),
            ),
            ("a pod of nobody's", json!({"kind": "Pod", "metadata": {}}), None),
            (
                "a secret that an operator made",
                json!({"kind": "Secret", "metadata": {"ownerReferences": owned}, "type": "Opaque"}),
                None,
            ),
            (
                "a token of this cluster",
                json!({"kind": "Secret", "metadata": {}, "type": "kubernetes.io/service-account-token"}),
                Some("token of a service account"),
            ),
            (
                "on its way out",
                json!({"kind": "ConfigMap", "metadata": {"deletionTimestamp": "x"}}),
                Some("being deleted"),
            ),
            (
                "the server's own address",
                json!({"kind": "Service", "metadata": {"namespace": "default", "name": "kubernetes"}}),
                Some("made by the server"),
            ),
            (
                "somebody's service of that name",
                json!({"kind": "Service", "metadata": {"namespace": "sparc", "name": "kubernetes"}}),
                None,
            ),
            (
                "a role that the server starts with",
                json!({"kind": "ClusterRole", "metadata": {"name": "view", "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}}),
                Some("made by the server"),
            ),
            ("a role of the platform", json!({"kind": "ClusterRole", "metadata": {"name": "sparc"}}), None),
        ];
        for (situation, object, expected) in situations {
            assert_eq!(left_out(&object), expected, "{situation}");
        }
    }

    #[test]
    fn a_secret_in_the_clear_is_found_by_its_place_and_a_reference_is_none() {
        let container = |env: Value| json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "a", "env": [env]}]}}}});
        let found = [
            (
                container(json!({"name": "DB_PASSWORD", "value": "x"})),
                ".spec.template.spec.containers[0].env[0].DB_PASSWORD",
            ),
            (
                container(json!({"name": "DATABASE_URL", "value": "postgresql://sparc:geheim@db/sparc"})),
                ".spec.template.spec.containers[0].env[0].value",
            ),
            (json!({"kind": "ConfigMap", "data": {"api-key": "x"}}), ".data.api-key"),
            (json!({"kind": "ConfigMap", "data": {"AWS_SECRET_ACCESS_KEY": "x"}}), ".data.AWS_SECRET_ACCESS_KEY"),
            (json!({"kind": "ConfigMap", "data": {"tls": "-----BEGIN EC PRIVATE KEY-----\n"}}), ".data.tls"),
            (
                json!({"kind": "X", "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"password\":\"x\"}}"}}}),
                ".metadata.annotations.kubectl.kubernetes.io/last-applied-configuration.data.password",
            ),
        ];
        for (object, place) in found {
            assert_eq!(secret_in_the_clear(&object).as_deref(), Some(place));
        }
        let clean = [
            container(
                json!({"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "database", "key": "password"}}}),
            ),
            container(json!({"name": "DATABASE_URL", "value": "postgresql://sparc:$(PGPASSWORD)@db/sparc"})),
            container(json!({"name": "PASSWORD_FILE", "value": "/run/secret"})),
            json!({"kind": "Ingress", "spec": {"tls": [{"secretName": "web"}]}}),
            json!({"kind": "ExternalSecret", "spec": {"data": [{"secretKey": "password", "remoteRef": {"key": "sparc/db"}}]}}),
            json!({"kind": "CustomResourceDefinition", "spec": {"password": "x"}}),
            json!({"kind": "ConfigMap", "data": {"url": "https://sparc.com/a:b@c"}}),
        ];
        for object in clean {
            assert_eq!(secret_in_the_clear(&object), None, "{object}");
        }
    }
}
