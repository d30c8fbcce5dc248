//! Server-side apply of a bundle: look, try the whole as a dry run, apply, set replicas.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersion;
use kube::discovery::{ApiGroup, ApiResource, Scope, pinned_group};
use recovery::cluster::Applied;
use serde_json::{Value, json};

use crate::FIELD_MANAGER;
use crate::bundle::{Manifest, parse};
use crate::connection::{Cluster, OnConflict};
use crate::error::Error;

/// A kind as the server serves it.
#[derive(Clone)]
struct Served {
    resource: ApiResource,
    namespaced: bool,
}

/// One object on its way.
struct Step {
    manifest: Manifest,
    /// `None` while its definition is part of the same bundle.
    served: Option<Served>,
    /// The object as it was.
    before: Option<Value>,
}

impl Cluster {
    /// Applies a bundle as `sparc-recovery`, in order of dependency, then sets replicas through the scale subresource:
    /// those named in `replicas`, and for Deployments that were not there those of their manifest. Counts of Deployments
    /// that are there already belong to somebody else and stay.
    ///
    /// Repeating it is safe: what is as it should be comes back as unchanged.
    ///
    /// # Errors
    /// A conflict, an unknown kind or an invalid object is found before anything is changed.
    pub async fn apply_bundle(&self, manifests: &str, replicas: &BTreeMap<String, u32>) -> Result<Applied, Error> {
        let bundle = |source| Error::Bundle { cluster: self.at.cluster.clone(), source };
        let mut steps = self.look(parse(manifests).map_err(bundle)?).await?;
        self.expect_scaled(&steps, replicas).await?;
        self.rehearse(&steps).await?;

        let mut applied = Applied::default();
        let mut kinds = HashMap::new();
        for step in &mut steps {
            if step.served.is_none() {
                step.served = self.served(&step.manifest, &mut kinds).await?;
            }
            let Some(served) = step.served.clone() else {
                return Err(Error::NotServedYet { cluster: self.at.cluster.clone(), kind: step.manifest.full_kind() });
            };
            let after = self.patch(&step.manifest, &served, false).await?;
            let label = step.manifest.label();
            match &step.before {
                None => applied.created.push(label),
                Some(before) if content(before) == content(&after) => applied.unchanged.push(label),
                Some(_) => applied.changed.push(label),
            }
        }
        self.set_replicas(&steps, replicas, &mut applied).await?;
        Ok(applied)
    }

    /// Resolves every kind and reads every object. Nothing is changed.
    async fn look(&self, manifests: Vec<Manifest>) -> Result<Vec<Step>, Error> {
        let defined: BTreeSet<String> = manifests.iter().flat_map(Manifest::defines).collect();
        let mut kinds = HashMap::new();
        let mut steps = Vec::with_capacity(manifests.len());
        for manifest in manifests {
            let served = self.served(&manifest, &mut kinds).await?;
            if served.is_none() && !defined.contains(&manifest.full_kind()) {
                return Err(Error::UnknownKind {
                    cluster: self.at.cluster.clone(),
                    kind: manifest.full_kind(),
                    object: manifest.label(),
                });
            }
            let before = match &served {
                Some(served) => {
                    let api = self.api(self.client().await?, served, &manifest);
                    let doing = format!("reading {}", manifest.label());
                    let found = self.ask(&doing, api.get_opt(&manifest.name)).await?;
                    found.map(|object| serde_json::to_value(object).unwrap_or_default())
                }
                None => None,
            };
            steps.push(Step { manifest, served, before });
        }
        Ok(steps)
    }

    /// A dry run of everything that the server can judge already. Conflicts are collected, so that a person sees them all.
    async fn rehearse(&self, steps: &[Step]) -> Result<(), Error> {
        let new_namespaces: BTreeSet<&str> = steps
            .iter()
            .filter(|step| step.manifest.kind == "Namespace" && step.before.is_none())
            .map(|step| step.manifest.name.as_str())
            .collect();
        let mut conflicts = Vec::new();
        for step in steps {
            let Some(served) = &step.served else { continue };
            let namespace = step.manifest.namespace.as_deref().unwrap_or(&self.at.namespace);
            if served.namespaced && new_namespaces.contains(namespace) {
                continue;
            }
            match self.patch(&step.manifest, served, true).await {
                Ok(_) => {}
                Err(Error::Conflict { objects, .. }) => conflicts.extend(objects),
                Err(error) => return Err(error),
            }
        }
        if conflicts.is_empty() {
            return Ok(());
        }
        Err(Error::Conflict { cluster: self.at.cluster.clone(), objects: conflicts })
    }

    async fn patch(&self, manifest: &Manifest, served: &Served, dry_run: bool) -> Result<Value, Error> {
        let api = self.api(self.client().await?, served, manifest);
        let params = PatchParams {
            dry_run,
            force: self.at.on_conflict == OnConflict::Take,
            field_manager: Some(FIELD_MANAGER.to_owned()),
            field_validation: None,
        };
        let label = manifest.label();
        let patch = Patch::Apply(&manifest.object);
        let answer = api.patch(&manifest.name, &params, &patch);
        let answer = self.ask(&format!("applying {label}"), answer).await.map_err(|error| error.about(&label))?;
        Ok(serde_json::to_value(answer).unwrap_or_default())
    }

    /// A count for a Deployment that exists neither here nor there is a mistake in the plan: find it before applying.
    async fn expect_scaled(&self, steps: &[Step], replicas: &BTreeMap<String, u32>) -> Result<(), Error> {
        for name in replicas.keys() {
            let in_bundle = steps.iter().any(|step| step.manifest.kind == "Deployment" && step.manifest.name == *name);
            if !in_bundle && self.deployment(name).await?.is_none() {
                return Err(Error::Missing {
                    cluster: self.at.cluster.clone(),
                    object: format!("Deployment/{name}, whose replicas are to be set"),
                });
            }
        }
        Ok(())
    }

    async fn set_replicas(
        &self,
        steps: &[Step],
        named: &BTreeMap<String, u32>,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let mut named = named.clone();
        let scaled = steps.iter().filter(|step| step.manifest.is_scaled());
        for Step { manifest, served, before } in scaled {
            let by_plan = if manifest.kind == "Deployment" { named.remove(&manifest.name) } else { None };
            let wanted = by_plan.or(if before.is_none() { manifest.replicas } else { None });
            if let (Some(wanted), Some(served)) = (wanted, served) {
                let api = self.api(self.client().await?, served, manifest);
                self.scale(&api, manifest.label(), &manifest.name, wanted, applied).await?;
            }
        }
        for (name, wanted) in named {
            let api = self.deployments().await?;
            self.scale(&api, format!("Deployment/{name}"), &name, wanted, applied).await?;
        }
        Ok(())
    }

    async fn scale<K>(
        &self,
        api: &Api<K>,
        label: String,
        name: &str,
        wanted: u32,
        applied: &mut Applied,
    ) -> Result<(), Error>
    where
        K: Clone + serde::de::DeserializeOwned,
    {
        let doing = format!("scaling {label}");
        let now = self.ask(&doing, api.get_scale(name)).await?;
        // An absent count is zero: servers leave zeroes out.
        let now = now.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        if u32::try_from(now).is_ok_and(|now| now == wanted) {
            return Ok(());
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"spec": {"replicas": wanted}}));
        self.ask(&doing, api.patch_scale(name, &params, &patch)).await?;
        if let Some(at) = applied.unchanged.iter().position(|unchanged| *unchanged == label) {
            applied.unchanged.remove(at);
        }
        if !applied.created.contains(&label) && !applied.changed.contains(&label) {
            applied.changed.push(label);
        }
        Ok(())
    }

    fn api(&self, client: Client, served: &Served, manifest: &Manifest) -> Api<DynamicObject> {
        if served.namespaced {
            let namespace = manifest.namespace.as_deref().unwrap_or(&self.at.namespace);
            Api::namespaced_with(client, namespace, &served.resource)
        } else {
            Api::all_with(client, &served.resource)
        }
    }

    /// How the server serves a kind, if it does. One question for each group and version.
    async fn served(
        &self,
        manifest: &Manifest,
        known: &mut HashMap<String, Option<ApiGroup>>,
    ) -> Result<Option<Served>, Error> {
        if !known.contains_key(&manifest.api_version) {
            let version: GroupVersion = manifest.api_version.parse().map_err(|_| Error::UnknownKind {
                cluster: self.at.cluster.clone(),
                kind: manifest.full_kind(),
                object: manifest.label(),
            })?;
            let client = self.client().await?;
            let doing = format!("asking which kinds `{}` has", manifest.api_version);
            let group = match self.ask(&doing, pinned_group(&client, &version)).await {
                Ok(group) => Some(group),
                Err(Error::Missing { .. }) => None,
                Err(error) => return Err(error),
            };
            known.insert(manifest.api_version.clone(), group);
        }
        let version = manifest.api_version.rsplit('/').next().unwrap_or_default();
        let found = known[&manifest.api_version].as_ref().and_then(|group| {
            group.versioned_resources(version).into_iter().find(|(resource, _)| resource.kind == manifest.kind)
        });
        Ok(found
            .map(|(resource, capabilities)| Served { resource, namespaced: capabilities.scope == Scope::Namespaced }))
    }
}

/// What an apply is about: without the server's bookkeeping, and without the status that controllers write meanwhile.
fn content(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["generation", "managedFields", "resourceVersion"] {
            metadata.remove(field);
        }
        // Written by the deployment controller of the cluster.
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("deployment.kubernetes.io/revision");
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    object
}
