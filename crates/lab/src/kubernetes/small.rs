//! The small API: what the recovery path asks of a Kubernetes API, kept in memory.
//!
//! It is for the drill on a machine without a kube-apiserver, and for tests that want fifty clusters rather than one. It has
//! discovery, create, read, list with label selectors, merge patch, server-side apply with conflicts, dry runs, status and
//! scale subresources, definitions of further kinds, generations, optimistic locking and role-based access. It has no
//! watch, no schema validation beyond a few rules of Deployments, and no admission. The contract suite that it shares with
//! the real server is the measure of what it must get right.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{self, Managers};
use super::rights::{Wish, allowed};
use super::tokens::TokenCheck;

/// A kind that is served.
#[derive(Clone, Debug)]
struct Kind {
    group: String,
    version: String,
    kind: String,
    plural: String,
    namespaced: bool,
}

/// Group, version, kind, plural, namespaced.
const KINDS: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "Namespace", "namespaces", false),
    ("", "v1", "Node", "nodes", false),
    ("", "v1", "ConfigMap", "configmaps", true),
    ("", "v1", "Secret", "secrets", true),
    ("", "v1", "Service", "services", true),
    ("", "v1", "ServiceAccount", "serviceaccounts", true),
    ("", "v1", "Pod", "pods", true),
    ("", "v1", "Event", "events", true),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
    ("apps", "v1", "Deployment", "deployments", true),
    ("apps", "v1", "StatefulSet", "statefulsets", true),
    ("apps", "v1", "DaemonSet", "daemonsets", true),
    ("batch", "v1", "Job", "jobs", true),
    ("batch", "v1", "CronJob", "cronjobs", true),
    ("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", true),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", true),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", true),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", true),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", false),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", false),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", false),
];

/// Kind, namespace (empty for the cluster's own), name.
type Key = (String, String, String);

struct Stored {
    object: Value,
    managers: Managers,
}

#[derive(Default)]
struct World {
    kinds: Vec<Kind>,
    objects: BTreeMap<Key, Stored>,
    version: u64,
}

/// The API.
pub(super) struct Api {
    check: Arc<TokenCheck>,
    admin_token: String,
    world: Mutex<World>,
}

/// A refusal in the server's form.
struct Refused {
    code: u16,
    reason: &'static str,
    message: String,
    causes: Vec<Value>,
}

fn refused(code: u16, reason: &'static str, message: impl Into<String>) -> Refused {
    Refused { code, reason, message: message.into(), causes: Vec::new() }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
            "reason": self.reason, "code": self.code, "details": {"causes": self.causes},
        });
        answer(self.code, &status)
    }
}

fn answer(code: u16, body: &Value) -> Response {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Everything of one request.
struct Asked {
    user: String,
    groups: Vec<String>,
    method: Method,
    query: BTreeMap<String, String>,
    form: String,
    agent: String,
    body: Value,
}

/// What a path names.
struct Target {
    kind: Kind,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

pub(super) fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(serve).with_state(api)
}

async fn serve(State(api): State<Arc<Api>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    api.handle(method, &uri, &headers, &body).unwrap_or_else(IntoResponse::into_response)
}

impl Api {
    pub(super) fn new(check: Arc<TokenCheck>, admin_token: &str) -> Arc<Self> {
        let kinds = KINDS.iter().map(|&(group, version, kind, plural, namespaced)| Kind {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced,
        });
        let mut world = World { kinds: kinds.collect(), ..World::default() };
        for name in ["default", "kube-system"] {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let key = ("Namespace".to_owned(), String::new(), name.to_owned());
            world.objects.insert(key, Stored { object, managers: Managers::new() });
        }
        Arc::new(Api { check, admin_token: admin_token.to_owned(), world: Mutex::new(world) })
    }

    fn handle(&self, method: Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Response, Refused> {
        let text =
            |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (user, groups) = self.who(text(header::AUTHORIZATION))?;
        let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let body = if body.is_empty() {
            Value::Null
        } else {
            // Apply patches may be YAML, of which JSON is a part.
            serde_yaml_ng::from_slice(body).map_err(|error| refused(400, "BadRequest", error.to_string()))?
        };
        let asked = Asked {
            user,
            groups,
            method,
            query,
            form: text(header::CONTENT_TYPE).to_owned(),
            agent: text(header::USER_AGENT).split('/').next().unwrap_or_default().to_owned(),
            body,
        };
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
        match segments.as_slice() {
            ["readyz" | "livez" | "healthz"] => Ok("ok".into_response()),
            ["version"] => Ok(answer(200, &json!({"major": "1", "minor": "small", "gitVersion": "v1.0.0-small"}))),
            ["api"] => Ok(answer(200, &json!({"kind": "APIVersions", "versions": ["v1"]}))),
            ["api", version] => world.discover("", version).map(|list| answer(200, &list)),
            ["apis"] => Ok(answer(200, &world.groups())),
            ["apis", group, version] => world.discover(group, version).map(|list| answer(200, &list)),
            ["api", version, rest @ ..] => {
                let target = world.target("", version, rest)?;
                world.act(&asked, &target).map(|(code, body)| answer(code, &body))
            }
            ["apis", group, version, rest @ ..] => {
                let target = world.target(group, version, rest)?;
                world.act(&asked, &target).map(|(code, body)| answer(code, &body))
            }
            _ => Err(refused(404, "NotFound", "the server could not find the requested resource")),
        }
    }

    fn who(&self, authorization: &str) -> Result<(String, Vec<String>), Refused> {
        let unknown = || refused(401, "Unauthorized", "Unauthorized");
        let token = authorization.strip_prefix("Bearer ").ok_or_else(unknown)?;
        if token == self.admin_token {
            return Ok(("lab-admin".to_owned(), vec!["system:masters".to_owned()]));
        }
        match self.check.caller(token, Timestamp::now()) {
            Ok(caller) => Ok((caller.user, caller.groups)),
            Err(refusal) => {
                tracing::info!(%refusal, "the lab's cluster refuses a token");
                Err(unknown())
            }
        }
    }
}

impl World {
    fn groups(&self) -> Value {
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for kind in self.kinds.iter().filter(|kind| !kind.group.is_empty()) {
            let of_group = versions.entry(&kind.group).or_default();
            if !of_group.contains(&kind.version.as_str()) {
                of_group.push(&kind.version);
            }
        }
        let groups = versions.into_iter().map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.iter().map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
            json!({"name": group, "preferredVersion": versions[0], "versions": versions})
        });
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()})
    }

    fn discover(&self, group: &str, version: &str) -> Result<Value, Refused> {
        let verbs = json!(["create", "delete", "get", "list", "patch", "update"]);
        let mut resources = Vec::new();
        for kind in self.kinds.iter().filter(|kind| kind.group == group && kind.version == version) {
            let resource = |name: String, kind_name: &str| json!({"name": name, "singularName": "", "namespaced": kind.namespaced, "kind": kind_name, "verbs": verbs});
            resources.push(resource(kind.plural.clone(), &kind.kind));
            resources.push(resource(format!("{}/status", kind.plural), &kind.kind));
            if is_scaled(kind) {
                resources.push(resource(format!("{}/scale", kind.plural), "Scale"));
            }
        }
        if resources.is_empty() {
            return Err(refused(404, "NotFound", "the server could not find the requested resource"));
        }
        let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}))
    }

    fn target(&self, group: &str, version: &str, rest: &[&str]) -> Result<Target, Refused> {
        let (namespace, rest) = match rest {
            // `namespaces/x/status` is about the namespace, every other third part is about something in it.
            ["namespaces", namespace, third, ..] if !matches!(*third, "status" | "finalize") => {
                (Some(*namespace), &rest[2..])
            }
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(*name), None),
            [plural, name, subresource] => (plural, Some(*name), Some(*subresource)),
            _ => return Err(refused(404, "NotFound", "the server could not find the requested resource")),
        };
        let kind =
            self.kinds.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == **plural);
        let kind =
            kind.ok_or_else(|| refused(404, "NotFound", "the server could not find the requested resource"))?.clone();
        let owned = |text: &str| text.to_owned();
        Ok(Target { kind, namespace: namespace.map(owned), name: name.map(owned), subresource: subresource.map(owned) })
    }

    fn act(&mut self, asked: &Asked, target: &Target) -> Result<(u16, Value), Refused> {
        let is_apply = asked.form.starts_with("application/apply-patch");
        let verb = match asked.method.as_str() {
            "GET" if target.name.is_some() => "get",
            "GET" => "list",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => {
                return Err(refused(
                    405,
                    "MethodNotAllowed",
                    "the server does not allow this method on the requested resource",
                ));
            }
        };
        self.authorize(asked, target, verb)?;
        let key = |name: &str| -> Key {
            (target.kind.kind.clone(), target.namespace.clone().unwrap_or_default(), name.to_owned())
        };
        match (verb, target.name.as_deref()) {
            ("list", _) => Ok((200, self.list(asked, target)?)),
            ("create", None) => {
                let name = asked.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if self.objects.contains_key(&key(&name)) {
                    return Err(refused(
                        409,
                        "AlreadyExists",
                        format!("{} already exists", named(&target.kind, &name)),
                    ));
                }
                let managers = fields::update(&json!({}), &asked.body, &Managers::new(), &manager(asked));
                self.write(asked, target, key(&name), asked.body.clone(), managers).map(|object| (201, object))
            }
            ("delete", Some(name)) => {
                let gone = self.objects.remove(&key(name)).ok_or_else(|| not_found(&target.kind, name))?;
                if target.kind.kind == "Namespace" {
                    self.objects.retain(|(_, namespace, _), _| namespace != name);
                }
                Ok((200, gone.object))
            }
            (_, Some(name)) => {
                let found = self.objects.get(&key(name)).map(|stored| (stored.object.clone(), stored.managers.clone()));
                match (verb, found) {
                    ("patch", None) if is_apply && target.subresource.is_none() => {
                        self.authorize(asked, target, "create")?;
                        let (object, managers) = applied(asked, &json!({}), &Managers::new())?;
                        self.write(asked, target, key(name), object, managers).map(|object| (201, object))
                    }
                    (_, None) => Err(not_found(&target.kind, name)),
                    (_, Some((live, managers))) => match target.subresource.as_deref() {
                        None => self.change(asked, target, key(name), verb, live, managers),
                        Some("status") => {
                            let mut object = live.clone();
                            if verb == "patch" {
                                fields::merge(
                                    &mut object,
                                    &json!({"status": asked.body["status"]}),
                                    asked.form.contains("strategic"),
                                );
                            } else if verb == "update" {
                                object["status"] = asked.body["status"].clone();
                            }
                            if verb != "get" {
                                object = self.store(asked, key(name), object, managers);
                            }
                            Ok((200, object))
                        }
                        Some("scale") if is_scaled(&target.kind) => {
                            self.scale(asked, target, key(name), verb, live, managers)
                        }
                        Some(_) => Err(refused(404, "NotFound", "the server could not find the requested resource")),
                    },
                }
            }
            _ => {
                Err(refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource"))
            }
        }
    }

    fn change(
        &mut self,
        asked: &Asked,
        target: &Target,
        key: Key,
        verb: &str,
        live: Value,
        managers: Managers,
    ) -> Result<(u16, Value), Refused> {
        let (object, managers) = match verb {
            "get" => return Ok((200, live)),
            "patch" if asked.form.starts_with("application/apply-patch") => applied(asked, &live, &managers)?,
            _ => {
                let wanted = &asked.body["metadata"]["resourceVersion"];
                if wanted.is_string() && *wanted != live["metadata"]["resourceVersion"] {
                    let message = format!(
                        "Operation cannot be fulfilled on {}: the object has been modified; please apply your changes to the latest version and try again",
                        named(&target.kind, &key.2)
                    );
                    return Err(refused(409, "Conflict", message));
                }
                let mut object = if verb == "update" { asked.body.clone() } else { live.clone() };
                if verb == "patch" {
                    fields::merge(&mut object, &asked.body, asked.form.contains("strategic"));
                }
                let managers = fields::update(&live, &object, &managers, &manager(asked));
                (object, managers)
            }
        };
        self.write(asked, target, key, object, managers).map(|object| (200, object))
    }

    fn scale(
        &mut self,
        asked: &Asked,
        target: &Target,
        key: Key,
        verb: &str,
        live: Value,
        managers: Managers,
    ) -> Result<(u16, Value), Refused> {
        let mut object = live.clone();
        if verb != "get" {
            let Some(replicas) = asked.body["spec"]["replicas"].as_u64() else {
                return Err(refused(
                    422,
                    "Invalid",
                    "spec.replicas: Invalid value: must be greater than or equal to 0",
                ));
            };
            object["spec"]["replicas"] = json!(replicas);
            // As 1.20 does: a scale tells nobody whose the count is now.
            object = self.write(asked, target, key, object, managers)?;
        }
        let metadata = &object["metadata"];
        let scale = json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "resourceVersion": metadata["resourceVersion"]},
            "spec": {"replicas": object["spec"]["replicas"]},
            "status": {"replicas": object["status"]["replicas"].as_u64().unwrap_or(0)},
        });
        Ok((200, scale))
    }

    /// Checks and completes an object of the main resource, and stores it unless this is a dry run.
    fn write(
        &mut self,
        asked: &Asked,
        target: &Target,
        key: Key,
        mut object: Value,
        managers: Managers,
    ) -> Result<Value, Refused> {
        let (kind, name) = (&target.kind, key.2.clone());
        if kind.namespaced && !self.objects.contains_key(&("Namespace".to_owned(), String::new(), key.1.clone())) {
            return Err(refused(404, "NotFound", format!("namespaces \"{}\" not found", key.1)));
        }
        if kind.namespaced && object["metadata"]["namespace"].as_str().is_some_and(|namespace| namespace != key.1) {
            return Err(refused(
                400,
                "BadRequest",
                "the namespace of the object does not match the namespace on the request",
            ));
        }
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':'))
        {
            return Err(invalid(kind, &name, "metadata.name", "must be a lowercase RFC 1123 subdomain"));
        }
        let api_version =
            if kind.group.is_empty() { kind.version.clone() } else { format!("{}/{}", kind.group, kind.version) };
        if object["apiVersion"].as_str().is_some_and(|given| given != api_version)
            || object["kind"].as_str().is_some_and(|given| given != kind.kind)
        {
            return Err(refused(400, "BadRequest", "the kind of the object does not match the request"));
        }
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind.kind);
        object["metadata"]["name"] = json!(name);
        if kind.namespaced {
            object["metadata"]["namespace"] = json!(key.1);
        }
        if kind.kind == "Deployment" {
            complete_deployment(kind, &mut object)?;
        }
        let live = self.objects.get(&key).map(|stored| &stored.object);
        match live {
            None => {
                // A counter names an object for good as well as a random number does, and is the same in every run.
                object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.version + 1));
                object["metadata"]["creationTimestamp"] =
                    json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
                object["metadata"]["generation"] = json!(1);
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("status");
                }
            }
            Some(live) => {
                let generation = live["metadata"]["generation"].as_u64().unwrap_or(1);
                let moved = u64::from(live["spec"] != object["spec"]);
                for field in ["uid", "creationTimestamp"] {
                    object["metadata"][field] = live["metadata"][field].clone();
                }
                object["metadata"]["generation"] = json!(generation + moved);
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("status");
                    if let Some(status) = live.get("status") {
                        fields.insert("status".to_owned(), status.clone());
                    }
                }
            }
        }
        if asked.query.get("dryRun").is_some_and(|dry| dry == "All") {
            return Ok(object);
        }
        if kind.kind == "CustomResourceDefinition" {
            self.define(&object);
        }
        Ok(self.store(asked, key, object, managers))
    }

    fn store(&mut self, asked: &Asked, key: Key, mut object: Value, managers: Managers) -> Value {
        if asked.query.get("dryRun").is_some_and(|dry| dry == "All") {
            return object;
        }
        object["metadata"]["managedFields"] =
            fields::rendered(&managers, object["apiVersion"].as_str().unwrap_or_default());
        let live = self.objects.get(&key).map(|stored| &stored.object);
        let version = live.map(|live| live["metadata"]["resourceVersion"].clone()).unwrap_or_default();
        object["metadata"]["resourceVersion"] = version;
        // A write that changes nothing gives no new version.
        if live != Some(&object) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        self.objects.insert(key, Stored { object: object.clone(), managers });
        object
    }

    fn define(&mut self, definition: &Value) {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for version in spec["versions"].as_array().into_iter().flatten() {
            let kind = Kind {
                group: text(&spec["group"]),
                version: text(&version["name"]),
                kind: text(&spec["names"]["kind"]),
                plural: text(&spec["names"]["plural"]),
                namespaced: spec["scope"] == "Namespaced",
            };
            if !self
                .kinds
                .iter()
                .any(|there| there.group == kind.group && there.version == kind.version && there.kind == kind.kind)
            {
                self.kinds.push(kind);
            }
        }
    }

    fn list(&self, asked: &Asked, target: &Target) -> Result<Value, Refused> {
        let selector = asked.query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let wanted = requirements(selector);
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|((kind, namespace, _), _)| {
                *kind == target.kind.kind && target.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            })
            .map(|(_, stored)| &stored.object)
            .filter(|object| wanted.iter().all(|requirement| requirement.holds(&object["metadata"]["labels"])))
            .collect();
        let api_version = if target.kind.group.is_empty() {
            target.kind.version.clone()
        } else {
            format!("{}/{}", target.kind.group, target.kind.version)
        };
        Ok(json!({
            "kind": format!("{}List", target.kind.kind), "apiVersion": api_version,
            "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
        }))
    }

    fn authorize(&self, asked: &Asked, target: &Target, verb: &str) -> Result<(), Refused> {
        let resource = match &target.subresource {
            Some(subresource) => format!("{}/{subresource}", target.kind.plural),
            None => target.kind.plural.clone(),
        };
        let wish = Wish {
            user: &asked.user,
            groups: &asked.groups,
            verb,
            group: &target.kind.group,
            resource: &resource,
            namespace: target.namespace.as_deref(),
            name: target.name.as_deref(),
        };
        let objects = |kind: &str, namespace: Option<&str>| {
            let of = |(key, stored): (&Key, &Stored)| {
                (key.0 == kind && namespace.is_none_or(|namespace| namespace == key.1)).then(|| stored.object.clone())
            };
            self.objects.iter().filter_map(of).collect()
        };
        if allowed(&wish, objects) {
            return Ok(());
        }
        let what = match &target.name {
            Some(name) => named(&target.kind, name),
            None => format!("{}{}", target.kind.plural, dotted(&target.kind.group)),
        };
        let place = match &target.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let message = format!(
            "{what} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {place}",
            asked.user, target.kind.group
        );
        Err(refused(403, "Forbidden", message))
    }
}

/// Server-side apply as a request has it.
fn applied(asked: &Asked, live: &Value, managers: &Managers) -> Result<(Value, Managers), Refused> {
    let Some(manager) = asked.query.get("fieldManager") else {
        return Err(refused(422, "Invalid", "fieldManager: Required value: is required for apply patch"));
    };
    let force = asked.query.get("force").is_some_and(|force| force == "true");
    fields::apply(live, managers, &asked.body, manager, force).map_err(|conflicts| {
        let causes = conflicts.iter().map(|(manager, field)| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{manager}\""), "field": field})
        });
        let message = format!("Apply failed with {} conflicts", conflicts.len());
        Refused { causes: causes.collect(), ..refused(409, "Conflict", message) }
    })
}

fn manager(asked: &Asked) -> String {
    match asked.query.get("fieldManager") {
        Some(manager) => manager.clone(),
        None if asked.agent.is_empty() => "unknown".to_owned(),
        None => asked.agent.clone(),
    }
}

/// Defaults and the checks that a wrong bundle fails most often.
fn complete_deployment(kind: &Kind, object: &mut Value) -> Result<(), Refused> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let Some(selector) = object["spec"]["selector"]["matchLabels"].as_object() else {
        return Err(invalid(kind, &name, "spec.selector", "Required value"));
    };
    let labels = &object["spec"]["template"]["metadata"]["labels"];
    if !selector.iter().all(|(label, value)| labels[label] == *value) {
        return Err(invalid(
            kind,
            &name,
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ));
    }
    let containers = object["spec"]["template"]["spec"]["containers"].as_array();
    if containers.is_none_or(|containers| containers.is_empty() || containers.iter().any(|c| !c["image"].is_string())) {
        return Err(invalid(kind, &name, "spec.template.spec.containers", "Required value"));
    }
    for (field, value) in [("replicas", 1), ("progressDeadlineSeconds", 600)] {
        if object["spec"][field].is_null() {
            object["spec"][field] = json!(value);
        }
    }
    Ok(())
}

fn is_scaled(kind: &Kind) -> bool {
    kind.group == "apps" && matches!(kind.kind.as_str(), "Deployment" | "StatefulSet")
}

fn dotted(group: &str) -> String {
    if group.is_empty() { String::new() } else { format!(".{group}") }
}

fn named(kind: &Kind, name: &str) -> String {
    format!("{}{} \"{name}\"", kind.plural, dotted(&kind.group))
}

fn not_found(kind: &Kind, name: &str) -> Refused {
    refused(404, "NotFound", format!("{} not found", named(kind, name)))
}

fn invalid(kind: &Kind, name: &str, field: &str, why: &str) -> Refused {
    let message = format!("{}{} \"{name}\" is invalid: {field}: {why}", kind.kind, dotted(&kind.group));
    let causes = vec![json!({"reason": "FieldValueInvalid", "message": why, "field": field})];
    Refused { causes, ..refused(422, "Invalid", message) }
}

/// One part of a label selector.
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        let is_one_of =
            |key: &str, values: &[String]| labels[key].as_str().is_some_and(|value| values.iter().any(|v| v == value));
        match self {
            Requirement::In(key, values) => is_one_of(key, values),
            Requirement::NotIn(key, values) => !is_one_of(key, values),
            Requirement::Exists(key) => !labels[key].is_null(),
            Requirement::Absent(key) => labels[key].is_null(),
        }
    }
}

fn requirements(selector: &str) -> Vec<Requirement> {
    let mut parts = Vec::new();
    let (mut depth, mut part) = (0, String::new());
    for c in selector.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part);
    let values = |text: &str| text.trim().trim_matches(['(', ')']).split(',').map(|v| v.trim().to_owned()).collect();
    let read = |part: &str| {
        let part = part.trim();
        let key = |text: &str| text.trim().to_owned();
        if let Some((name, rest)) = part.split_once(" notin ") {
            Requirement::NotIn(key(name), values(rest))
        } else if let Some((name, rest)) = part.split_once(" in ") {
            Requirement::In(key(name), values(rest))
        } else if let Some((name, value)) = part.split_once("!=") {
            Requirement::NotIn(key(name), vec![key(value)])
        } else if let Some((name, value)) = part.split_once('=') {
            Requirement::In(key(name), vec![key(value.trim_start_matches('='))])
        } else if let Some(name) = part.strip_prefix('!') {
            Requirement::Absent(key(name))
        } else {
            Requirement::Exists(key(part))
        }
    };
    parts.iter().filter(|part| !part.trim().is_empty()).map(|part| read(part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_selectors_select_as_kubernetes_does() {
        let labels = json!({"app": "api", "writes": "true"});
        let situations = [
            ("", true),
            ("app=api", true),
            ("app==api,writes", true),
            ("app in (web, api),writes=true", true),
            ("app notin (api)", false),
            ("app!=web", true),
            ("!writes", false),
            ("tier", false),
        ];
        for (selector, expected) in situations {
            assert_eq!(
                requirements(selector).iter().all(|requirement| requirement.holds(&labels)),
                expected,
                "{selector}"
            );
        }
    }
}
