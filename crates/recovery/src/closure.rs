//! What a failover needs that is not there by itself: images, secrets, keys, certificates, the bundle, and what the bundle
//! expects to find in the cluster.
//!
//! The list is derived, not kept: from the plan and from the bundle that a failover would apply. Each need is then looked
//! for where the failover will look for it, never in the region that may be lost. What could not be looked at is unknown,
//! and unknown is not there.

mod bundle;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::ClusterError,
    envelope::KeyError,
    fault::chain,
    holdings::{Registry, RegistryError},
    plan::{Mechanism, Plan, Region},
    secrets::SecretError,
    store::ObjectStore,
};

pub use bundle::{BundleNeeds, Reference};

/// A certificate that ends within this time is renewed now, not during a failover.
const RENEW_WITHIN_DAYS: i64 = 30;

/// What kind of thing is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeedKind {
    /// The rendered manifests.
    Bundle,
    /// A container image, by digest.
    Image,
    /// A secret in Secrets Manager.
    Secret,
    /// A key of KMS.
    Key,
    /// A certificate, or the file of an authority.
    Certificate,
    /// An object that stands in the cluster beforehand.
    Object,
    /// A kind that the cluster must serve.
    Kind,
}

impl NeedKind {
    /// As people read it.
    pub const fn title(self) -> &'static str {
        match self {
            NeedKind::Bundle => "bundle",
            NeedKind::Image => "image",
            NeedKind::Secret => "secret",
            NeedKind::Key => "key",
            NeedKind::Certificate => "certificate",
            NeedKind::Object => "object",
            NeedKind::Kind => "kind",
        }
    }
}

/// One thing that a failover needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Need {
    /// What kind of thing.
    pub kind: NeedKind,
    /// Its name, as the place that holds it names it.
    pub name: String,
    /// Where it must be: a region, a cluster, a bucket, or beside the plan.
    pub place: String,
}

/// What was found of a need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Found {
    /// It is there.
    Present,
    /// It is not there, or not usable.
    Missing {
        /// What is wrong.
        why: String,
    },
    /// It could not be looked at.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// A need and what was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What is needed.
    #[serde(flatten)]
    pub need: Need,
    /// Who needs it.
    pub needed_by: BTreeSet<String>,
    /// What was found.
    #[serde(flatten)]
    pub found: Found,
}

/// The list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closure {
    /// The platform.
    pub platform: String,
    /// When it was looked at.
    pub observed_at: Timestamp,
    /// Every need, in order.
    pub items: Vec<Item>,
    /// How many there are.
    pub checked: u64,
    /// How many are there.
    pub present: u64,
    /// How many are not.
    pub missing: u64,
    /// How many could not be looked at.
    pub unknown: u64,
}

impl Closure {
    /// Whether everything is known to be there.
    pub fn is_closed(&self) -> bool {
        self.checked > 0 && self.present == self.checked
    }
}

/// Secrets Manager of one region, asked for what it has and never for what is in it.
#[async_trait]
pub trait SecretShelf: Send + Sync {
    /// Its region.
    fn region(&self) -> &str;
    /// Whether a secret is there and not on its way out.
    async fn holds(&self, name: &str) -> Result<bool, SecretError>;
}

/// KMS of one region.
#[async_trait]
pub trait KeyShelf: Send + Sync {
    /// Its region.
    fn region(&self) -> &str;
    /// What state a key is in (`Enabled`, `PendingDeletion`, …); `None` if there is none.
    async fn state(&self, key: &str) -> Result<Option<String>, KeyError>;
}

/// A certificate as the certificate manager describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedCertificate {
    /// `ISSUED`, `PENDING_VALIDATION`, `EXPIRED`, `REVOKED`, ….
    pub status: String,
    /// When it ends, once it was issued.
    pub ends_at: Option<Timestamp>,
}

/// The certificate manager did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the certificate `{arn}` cannot be asked for")]
pub struct CertificateError {
    /// Which.
    pub arn: String,
    /// Its words.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The certificate manager of one region.
#[async_trait]
pub trait CertificateShelf: Send + Sync {
    /// A certificate by its ARN; `None` if there is none.
    async fn certificate(&self, arn: &str) -> Result<Option<ManagedCertificate>, CertificateError>;
}

/// The cluster of the failover region, asked for what stands in it and never for what is in it.
#[async_trait]
pub trait ClusterObjects: Send + Sync {
    /// Its name.
    fn cluster(&self) -> &str;
    /// Whether an object is there; by its metadata alone.
    async fn holds(&self, object: &Reference) -> Result<bool, ClusterError>;
    /// Whether the server serves a kind (`group/version/Kind`).
    async fn serves(&self, kind: &str) -> Result<bool, ClusterError>;
}

/// The file of a certificate or an authority that the plan names.
#[derive(Clone, Debug)]
pub struct CertificateFile {
    /// As the plan names it.
    pub name: String,
    /// When the last certificate in it ends, or why that cannot be said. Which authority of several has signed a server is
    /// seen only by connecting.
    pub ends_at: Result<Timestamp, String>,
}

/// What is asked.
pub struct World<'a> {
    /// Evidence bucket, with the bundle.
    pub evidence: &'a dyn ObjectStore,
    /// Registry of the failover region.
    pub registry: &'a dyn Registry,
    /// Secrets of the failover region and of the tertiary one.
    pub secrets: &'a [&'a dyn SecretShelf],
    /// Keys, by the region that they must be in.
    pub keys: &'a [&'a dyn KeyShelf],
    /// Certificates of the failover region.
    pub certificates: &'a dyn CertificateShelf,
    /// Cluster of the failover region.
    pub cluster: &'a dyn ClusterObjects,
    /// Files that the plan names, as they lie beside it.
    pub files: &'a [CertificateFile],
}

/// A key that must be in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededKey {
    /// ARN or alias.
    pub key: String,
    /// The region.
    pub region: Region,
    /// Who needs it.
    pub needed_by: String,
}

/// Derives what a failover needs and looks for each. Nothing fails: what does not answer is unknown.
pub async fn look(plan: &Plan, keys: &[NeededKey], world: &World<'_>, now: Timestamp) -> Closure {
    let mut list = List::default();
    let bundle = look_for_bundle(plan, world, now, &mut list).await;
    look_for_images(plan, &bundle, world, &mut list).await;
    look_for_secrets(plan, &bundle, world, &mut list).await;
    look_for_keys(keys, world, &mut list).await;
    look_for_certificates(plan, &bundle, world, now, &mut list).await;
    look_into_cluster(&bundle, world, &mut list).await;
    list.closure(plan, now)
}

#[derive(Default)]
struct List(BTreeMap<Need, (BTreeSet<String>, Found)>);

impl List {
    fn add(&mut self, kind: NeedKind, name: &str, place: &str, needed_by: &BTreeSet<String>, found: Found) {
        let need = Need { kind, name: name.to_owned(), place: place.to_owned() };
        let entry = self.0.entry(need).or_insert_with(|| (BTreeSet::new(), found));
        entry.0.extend(needed_by.iter().cloned());
    }

    fn closure(self, plan: &Plan, now: Timestamp) -> Closure {
        let items: Vec<Item> =
            self.0.into_iter().map(|(need, (needed_by, found))| Item { need, needed_by, found }).collect();
        let count = |is: fn(&Found) -> bool| items.iter().filter(|item| is(&item.found)).count() as u64;
        Closure {
            platform: plan.platform.clone(),
            observed_at: now,
            checked: items.len() as u64,
            present: count(|found| matches!(found, Found::Present)),
            missing: count(|found| matches!(found, Found::Missing { .. })),
            unknown: count(|found| matches!(found, Found::Unknown { .. })),
            items,
        }
    }
}

fn by(one: &str) -> BTreeSet<String> {
    BTreeSet::from([one.to_owned()])
}

/// What an answer says: there, or not and why, or nothing.
fn found<E: std::error::Error>(answer: Result<bool, E>, why_missing: &str) -> Found {
    match answer {
        Ok(true) => Found::Present,
        Ok(false) => Found::Missing { why: why_missing.to_owned() },
        Err(error) => Found::Unknown { why: chain(&error) },
    }
}

async fn look_for_bundle(plan: &Plan, world: &World<'_>, now: Timestamp, list: &mut List) -> BundleNeeds {
    let key = &plan.kubernetes.bundle;
    let (contents, found) = match world.evidence.get(key).await {
        Err(error) => (None, Found::Unknown { why: chain(&error) }),
        Ok(None) => (None, Found::Missing { why: "there is no such object".to_owned() }),
        Ok(Some(object)) => {
            match BundleNeeds::read(&object.body, &plan.regions.secondary, &plan.kubernetes.namespace) {
                Err(why) => (None, Found::Missing { why }),
                Ok(contents) => {
                    let found = age(plan, &contents, now);
                    (Some(contents), found)
                }
            }
        }
    };
    list.add(NeedKind::Bundle, key, world.evidence.bucket(), &by("deploy-workloads"), found);
    contents.unwrap_or_default()
}

/// A bundle that is not rendered as often as the plan says would bring back an older platform.
fn age(plan: &Plan, contents: &BundleNeeds, now: Timestamp) -> Found {
    let every = plan.components.iter().find_map(|component| match &component.mechanism {
        Mechanism::RenderedBundle { every } => Some(every.0),
        _ => None,
    });
    let (Some(every), Some(rendered_at)) = (every, contents.rendered_at) else { return Found::Present };
    let age = rendered_at.duration_until(now).unsigned_abs();
    // The next one may be on its way.
    if age <= every * 2 {
        return Found::Present;
    }
    let minutes = |duration: std::time::Duration| duration.as_secs() / 60;
    Found::Missing {
        why: format!("it was rendered {} minutes ago, and should be every {} minutes", minutes(age), minutes(every)),
    }
}

async fn look_for_images(plan: &Plan, bundle: &BundleNeeds, world: &World<'_>, list: &mut List) {
    let names: Vec<String> = bundle.images.keys().cloned().collect();
    let place = plan.regions.secondary.code();
    let lost = format!(".dkr.ecr.{}.", plan.regions.primary.code());
    // One question for all; if it fails, one for each says which.
    let together = world.registry.missing(&names).await;
    for name in &names {
        let found = if name.contains(&lost) {
            Found::Missing { why: format!("it is pulled from the registry of {}", plan.regions.primary) }
        } else {
            let missing = match &together {
                Ok(missing) => Ok(missing.clone()),
                Err(_) => world.registry.missing(std::slice::from_ref(name)).await,
            };
            match missing {
                Err(error @ RegistryError::NotByDigest { .. }) => Found::Missing { why: error.to_string() },
                answer => found(answer.map(|missing| !missing.contains(name)), "the registry does not have it"),
            }
        };
        list.add(NeedKind::Image, name, place, &bundle.images[name], found);
    }
}

async fn look_for_secrets(plan: &Plan, bundle: &BundleNeeds, world: &World<'_>, list: &mut List) {
    let mut wanted: Vec<(&str, &Region, BTreeSet<String>)> = vec![
        (&plan.postgresql.recovery_secret, &plan.regions.tertiary, by("fence-primary, promote-replica")),
        (&plan.postgresql.application_secret, &plan.regions.tertiary, by("verify-recovery")),
    ];
    wanted.extend(bundle.secrets.iter().map(|(name, by)| (name.as_str(), &plan.regions.secondary, by.clone())));
    for (name, region, needed_by) in wanted {
        let found = match world.secrets.iter().find(|shelf| shelf.region() == region.code()) {
            Some(shelf) => found(shelf.holds(name).await, "there is no such secret"),
            None => Found::Unknown { why: format!("nobody asks Secrets Manager of {region}") },
        };
        list.add(NeedKind::Secret, name, region.code(), &needed_by, found);
    }
}

async fn look_for_keys(keys: &[NeededKey], world: &World<'_>, list: &mut List) {
    for NeededKey { key, region, needed_by } in keys {
        let found = match world.keys.iter().find(|shelf| shelf.region() == region.code()) {
            None => Found::Unknown { why: format!("nobody asks KMS of {region}") },
            Some(shelf) => match shelf.state(key).await {
                Ok(Some(state)) if state == "Enabled" => Found::Present,
                Ok(Some(state)) => Found::Missing { why: format!("its state is {state}") },
                answer => found(answer.map(|state| state.is_some()), "there is no such key"),
            },
        };
        list.add(NeedKind::Key, key, region.code(), &by(needed_by), found);
    }
}

async fn look_for_certificates(plan: &Plan, bundle: &BundleNeeds, world: &World<'_>, now: Timestamp, list: &mut List) {
    let files = [
        (&plan.postgresql.ca_file, "connections to PostgreSQL"),
        (&plan.kubernetes.primary.ca_file, "connections to the primary cluster"),
        (&plan.kubernetes.secondary.ca_file, "connections to the secondary cluster"),
    ];
    for (name, needed_by) in files {
        let found = match world.files.iter().find(|file| file.name == *name).map(|file| &file.ends_at) {
            None => Found::Unknown { why: "nobody has looked at it".to_owned() },
            Some(Err(why)) => Found::Missing { why: why.clone() },
            Some(Ok(ends_at)) => until(*ends_at, now),
        };
        list.add(NeedKind::Certificate, name, "the plan's folder", &by(needed_by), found);
    }
    for (arn, needed_by) in &bundle.certificates {
        let region = arn.split(':').nth(3).unwrap_or_default();
        let found = if region == plan.regions.secondary.code() {
            managed(world.certificates.certificate(arn).await, now)
        } else {
            Found::Missing {
                why: format!("a load balancer takes certificates of its own region, and this is of `{region}`"),
            }
        };
        list.add(NeedKind::Certificate, arn, plan.regions.secondary.code(), needed_by, found);
    }
}

/// What the certificate manager's answer is worth.
fn managed(answer: Result<Option<ManagedCertificate>, CertificateError>, now: Timestamp) -> Found {
    match answer {
        Err(error) => Found::Unknown { why: chain(&error) },
        Ok(None) => Found::Missing { why: "there is no such certificate".to_owned() },
        Ok(Some(ManagedCertificate { status, .. })) if status != "ISSUED" => {
            Found::Missing { why: format!("its status is {status}") }
        }
        Ok(Some(ManagedCertificate { ends_at: Some(ends_at), .. })) => until(ends_at, now),
        Ok(Some(_)) => Found::Unknown { why: "the certificate manager does not say when it ends".to_owned() },
    }
}

/// A certificate that ends soon is as good as none: nobody renews it during a failover.
fn until(ends_at: Timestamp, now: Timestamp) -> Found {
    if ends_at <= now {
        return Found::Missing { why: format!("it has ended at {ends_at}") };
    }
    if now.duration_until(ends_at).as_hours() < RENEW_WITHIN_DAYS * 24 {
        return Found::Missing { why: format!("it ends at {ends_at}, within {RENEW_WITHIN_DAYS} days: renew it now") };
    }
    Found::Present
}

async fn look_into_cluster(bundle: &BundleNeeds, world: &World<'_>, list: &mut List) {
    let place = world.cluster.cluster();
    for (object, needed_by) in &bundle.objects {
        let found =
            found(world.cluster.holds(object).await, "the cluster does not have it, and the bundle does not bring it");
        list.add(NeedKind::Object, &object.label(), place, needed_by, found);
    }
    for (kind, needed_by) in &bundle.kinds {
        let found = found(world.cluster.serves(kind).await, "the cluster does not serve it");
        list.add(NeedKind::Kind, kind, place, needed_by, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_present_only_while_it_is_issued_and_far_from_its_end() {
        let now: Timestamp = "2026-11-26T02:00:00Z".parse().unwrap();
        let certificate = |status: &str, ends_at: Option<&str>| {
            let ends_at = ends_at.map(|text| text.parse().unwrap());
            Ok(Some(ManagedCertificate { status: status.to_owned(), ends_at }))
        };
        let away = CertificateError { arn: "arn:x".to_owned(), source: "no answer".into() };
        let missing = |why: &str| Found::Missing { why: why.to_owned() };
        let unknown = |why: &str| Found::Unknown { why: why.to_owned() };
        let situations = [
            (certificate("ISSUED", Some("2027-06-01T00:00:00Z")), Found::Present),
            (
                certificate("ISSUED", Some("2026-12-01T00:00:00Z")),
                missing("it ends at 2026-12-01T00:00:00Z, within 30 days: renew it now"),
            ),
            (certificate("ISSUED", Some("2026-11-01T00:00:00Z")), missing("it has ended at 2026-11-01T00:00:00Z")),
            (certificate("ISSUED", None), unknown("the certificate manager does not say when it ends")),
            (certificate("PENDING_VALIDATION", None), missing("its status is PENDING_VALIDATION")),
            (certificate("EXPIRED", Some("2027-06-01T00:00:00Z")), missing("its status is EXPIRED")),
            (Ok(None), missing("there is no such certificate")),
            (Err(away), unknown("the certificate `arn:x` cannot be asked for: no answer")),
        ];
        for (answer, expected) in situations {
            let situation = format!("{answer:?}");
            assert_eq!(managed(answer, now), expected, "{situation}");
        }
    }
}
