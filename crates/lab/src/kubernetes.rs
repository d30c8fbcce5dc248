//! A Kubernetes API for tests and for the drill.
//!
//! Where a kube-apiserver is to be had it is the real one, with etcd: what the adapter relies on (server-side apply, field
//! managers, RBAC, the scale subresource) is the server's own judgement. Where it is not, a small API of ours stands in,
//! and says so ([`Cluster::kind`]). Both take the same tokens, keep the same rights and are driven by the same
//! [`Kubelet`], and one contract suite runs against both.
//!
//! Nothing runs containers here, but a [`Node`] runs Jobs as processes. A controller of the lab makes rollouts happen as far as the API can show them: pods with
//! their states, observed generations, replicas that become ready or do not. What a Deployment *does* is decided by the
//! test or the drill through [`Kubelet`], which hears of every workload with its image and environment.
//!
//! People come in as they do on EKS: a presigned `GetCallerIdentity` whose signature is computed again here, for this
//! cluster's name and no other, with the regional STS and no other.

mod admin;
mod fields;
mod kubelet;
mod node;
mod real;
mod rights;
mod serve;
mod small;
mod tokens;

use std::sync::{Arc, RwLock};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::process::Process;
use crate::tls::Authority;

pub use admin::Admin;
pub use kubelet::{EverythingRuns, Kubelet, Stuck, Verdict, Workload};
pub use node::{Image, Node, NodeOptions};
pub use real::assets;
pub use tokens::{Caller, Refusal, TokenCheck};

/// The user that the recovery role is mapped to.
pub const RECOVERY_USER: &str = "sparc-recovery";

/// Which server to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// The real one, or an error that names the command which makes it available.
    Real,
    /// The small one.
    Small,
    /// The real one where its binaries are on this machine, else the small one.
    #[default]
    RealIfThere,
}

/// What the cluster is to be.
pub struct Options {
    /// EKS cluster name: tokens are good only when signed for it.
    pub name: String,
    /// Region whose STS must have signed, for example `us-west-2`.
    pub region: String,
    /// The platform's namespace, made at the start.
    pub namespace: String,
    /// Which server.
    pub flavour: Flavour,
    /// Access key of the recovery role, which gets the rights that recovery needs and no others.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// What decides how workloads fare.
    pub kubelet: Arc<dyn Kubelet>,
}

impl Options {
    /// A cluster in `us-west-2` with the namespace `sparc`, the emulated AWS's credentials, and workloads that all run.
    pub fn new(name: &str) -> Self {
        Options {
            name: name.to_owned(),
            region: "us-west-2".to_owned(),
            namespace: "sparc".to_owned(),
            flavour: Flavour::default(),
            access_key_id: "test".to_owned(),
            secret_access_key: "test".to_owned(),
            kubelet: Arc::new(EverythingRuns),
        }
    }
}

/// A running cluster. Dropping it ends everything that it started.
pub struct Cluster {
    kind: String,
    endpoint: String,
    admin: Admin,
    ca_pem: String,
    namespace: String,
    check: Arc<TokenCheck>,
    stop: CancellationToken,
    // In this order: the servers end before their folder is removed.
    _servers: Vec<Process>,
    folder: Folder,
}

/// Whoever recovers the platform.
fn recovery(access_key_id: &str, secret_access_key: &str) -> Caller {
    Caller {
        access_key_id: access_key_id.to_owned(),
        secret_access_key: secret_access_key.to_owned(),
        user: RECOVERY_USER.to_owned(),
        groups: vec!["sparc:recovery".to_owned()],
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    /// Starts a cluster and waits until it is ready: the namespace is there and the recovery role has its rights.
    ///
    /// # Errors
    /// The binaries are missing although the real server is wanted, or a server does not come up.
    pub async fn start(options: Options) -> Result<Self> {
        let folder = Folder::new()?;
        let authority = Authority::new(folder.path())?;
        let stop = CancellationToken::new();
        // Held from here on: an error below ends what was started so far.
        let guard = stop.clone().drop_guard();
        let check = Arc::new(TokenCheck {
            cluster: options.name.clone(),
            region: options.region.clone(),
            callers: RwLock::default(),
        });
        check.admit(recovery(&options.access_key_id, &options.secret_access_key));
        let admin_token = format!("lab-admin-{}", uuid::Uuid::new_v4());
        let real = match options.flavour {
            Flavour::Small => None,
            Flavour::RealIfThere => assets(),
            Flavour::Real => Some(assets().ok_or_else(|| Error::Missing {
                program: "kube-apiserver".into(),
                purpose: "the Kubernetes adapter is proved against a real API server".into(),
                install: "run `lab/build-kube-apiserver` (5 CPU-minutes, once), or set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd".into(),
            })?),
        };
        let (kind, endpoint, servers) = match real {
            Some(binaries) => real::start(&binaries, &folder, &authority, check.clone(), &admin_token, &stop).await?,
            None => {
                let api = small::Api::new(check.clone(), &admin_token);
                let port = serve::serve(small::router(api), &authority, &stop).await?;
                ("the lab's small Kubernetes API".to_owned(), format!("https://127.0.0.1:{port}"), Vec::new())
            }
        };
        let admin = Admin::new(&endpoint, &admin_token, &authority)?;
        let cluster = Cluster {
            kind,
            endpoint,
            admin,
            ca_pem: authority.pem().to_owned(),
            namespace: options.namespace,
            check,
            stop: guard.disarm(),
            _servers: servers,
            folder,
        };
        cluster.give_rights().await?;
        kubelet::start(cluster.admin.clone(), options.kubelet, &cluster.stop);
        Ok(cluster)
    }

    /// What it is, for reports: `real kube-apiserver v1.20.2` or `the lab's small Kubernetes API`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// `https://127.0.0.1:…`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The authority of its certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Where its servers work; gone when the cluster is.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The platform's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Lets the bearer of an access key in as the recovery role, as an access entry does.
    pub fn admit(&self, access_key_id: &str, secret_access_key: &str) {
        self.check.admit(recovery(access_key_id, secret_access_key));
    }

    /// Lets the bearer of an access key in as a user of these groups, as another access entry does.
    pub fn admit_as(&self, access_key_id: &str, secret_access_key: &str, user: &str, groups: &[&str]) {
        self.check.admit(Caller {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            user: user.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        });
    }

    /// Starts a node that runs the Jobs of this cluster.
    ///
    /// # Errors
    /// It cannot serve logs, or the cluster does not take it.
    pub async fn run_jobs(&self, options: NodeOptions) -> Result<Node> {
        Node::start(self.admin.clone(), options).await
    }

    /// A hand that may do everything.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Makes a namespace in which the recovery role has the same rights as in the platform's.
    pub async fn add_namespace(&self, name: &str) -> Result<()> {
        self.admin
            .create("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await?;
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{name}");
        let role = |api_groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": api_groups, "resources": resources, "verbs": verbs});
        let change = ["get", "create", "patch"];
        self.admin
            .create(
                &format!("{rbac}/roles"),
                &json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "sparc-recovery"},
                    "rules": [
                        role(&["apps"], &["deployments", "statefulsets"], &["get", "list", "create", "patch"]),
                        role(&["apps"], &["deployments/scale", "statefulsets/scale"], &["get", "patch"]),
                        role(&[""], &["configmaps", "services", "serviceaccounts"], &change),
                        role(&["batch"], &["jobs"], &change),
                        role(&["networking.k8s.io"], &["ingresses", "networkpolicies"], &change),
                        role(&["policy"], &["poddisruptionbudgets"], &change),
                        role(&["external-secrets.io", "sparc.example"], &["*"], &change),
                        role(&["autoscaling"], &["horizontalpodautoscalers"], &["get", "list", "create", "patch"]),
                        role(&[""], &["pods"], &["list"]),
                    ],
                }),
            )
            .await?;
        self.admin
            .create(
                &format!("{rbac}/rolebindings"),
                &json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "sparc-recovery"},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sparc-recovery"},
                    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": RECOVERY_USER}],
                }),
            )
            .await?;
        Ok(())
    }

    async fn give_rights(&self) -> Result<()> {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        self.admin
            .create(
                &format!("{rbac}/clusterroles"),
                &json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "sparc-recovery"},
                    "rules": [
                        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "create", "patch"]},
                        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
                        {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["get", "create", "patch"]},
                    ],
                }),
            )
            .await?;
        self.admin
            .create(
                &format!("{rbac}/clusterrolebindings"),
                &json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "sparc-recovery"},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sparc-recovery"},
                    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": RECOVERY_USER}],
                }),
            )
            .await?;
        self.add_namespace(&self.namespace).await
    }

    /// Makes the cluster have this many ready nodes of a managed node group, as when EKS has scaled it.
    pub async fn set_ready_nodes(&self, node_group: &str, ready: u32) -> Result<()> {
        self.admin.set_ready_nodes(node_group, ready).await
    }

    /// A Deployment of the platform's namespace as it is now.
    pub async fn deployment(&self, name: &str) -> Result<Option<Value>> {
        self.admin.get(&format!("/apis/apps/v1/namespaces/{}/deployments/{name}", self.namespace)).await
    }
}
