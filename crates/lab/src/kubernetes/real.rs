//! A real kube-apiserver with etcd, on two ports of 127.0.0.1 each, in the lab's folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::admin::Admin;
use super::serve::serve;
use super::tokens::TokenCheck;
use crate::error::{Error, Result, tail};
use crate::folder::Folder;
use crate::process::{Launch, Process};
use crate::tls::Authority;
use crate::{cache, ports};

/// Ready within 7 s on two idle cores; several builds may run beside us.
const PATIENCE: Duration = Duration::from_secs(90);

/// The folder with `kube-apiserver` and `etcd`: `KUBEBUILDER_ASSETS` (envtest's convention), else what
/// `lab/build-kube-apiserver` has put into the cache.
pub fn assets() -> Option<PathBuf> {
    let has_both = |folder: &PathBuf| folder.join("kube-apiserver").is_file() && folder.join("etcd").is_file();
    let named = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).filter(has_both);
    named.or_else(|| {
        let entries = std::fs::read_dir(cache::folder().ok()?).ok()?;
        let built = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("kubernetes-"));
        built.map(|entry| entry.path()).filter(has_both).max()
    })
}

pub(super) async fn start(
    binaries: &Path,
    folder: &Folder,
    authority: &Authority,
    check: Arc<TokenCheck>,
    admin_token: &str,
    stop: &CancellationToken,
) -> Result<(String, String, Vec<Process>)> {
    let home = folder.make("kubernetes", 0o700)?;
    let write = |name: &str, text: &str| {
        let path = home.join(name);
        std::fs::write(&path, text).map_err(Error::system(format!("write {}", path.display())))?;
        Ok::<String, Error>(path.display().to_string())
    };
    let (certificate, key) = authority.sign(&["localhost", "127.0.0.1", "kubernetes.default.svc"])?;
    let certificate = write("server.pem", &certificate)?;
    let key = write("server.key", &key)?;
    let accounts = KeyPair::generate()
        .map_err(|error| Error::Certificate { name: "service accounts".into(), reason: error.to_string() })?;
    let accounts_public = write("accounts.pub", &accounts.public_key_pem())?;
    let accounts = write("accounts.key", &accounts.serialize_pem())?;
    let tokens = write("tokens.csv", &format!("{admin_token},lab-admin,lab-admin,\"system:masters\"\n"))?;

    let webhook_port = serve(reviews(check), authority, stop).await?;
    let webhook = write(
        "webhook.json",
        &json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {
                "server": format!("https://127.0.0.1:{webhook_port}/token"), "certificate-authority": authority.path(),
            }}],
            "users": [{"name": "lab", "user": {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        })
        .to_string(),
    )?;

    let (endpoint, servers) = ports::anew(|| async {
        let (etcd_port, peer_port, port) = (ports::free()?, ports::free()?, ports::free()?);
        let etcd_log = home.join("etcd.log");
        let (etcd_url, peer_url) = (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{peer_port}"));
        let mut etcd = Process::start(Launch {
            program: &binaries.join("etcd"),
            args: vec![
                "--name=lab".into(),
                format!("--data-dir={}", home.join(format!("etcd-{etcd_port}")).display()),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=lab={peer_url}"),
            ],
            env: Vec::new(),
            working_directory: &home,
            log: &etcd_log,
            account: None,
            death_signal: "KILL",
        })?;
        let log = home.join("kube-apiserver.log");
        let mut api = Process::start(Launch {
            program: &binaries.join("kube-apiserver"),
            args: vec![
                format!("--etcd-servers={etcd_url}"),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                format!("--secure-port={port}"),
                format!("--tls-cert-file={certificate}"),
                format!("--tls-private-key-file={key}"),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={accounts_public}"),
                format!("--service-account-signing-key-file={accounts}"),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                "--endpoint-reconciler-type=none".into(),
                "--authorization-mode=RBAC".into(),
                "--anonymous-auth=false".into(),
                format!("--token-auth-file={tokens}"),
                format!("--authentication-token-webhook-config-file={webhook}"),
                "--authentication-token-webhook-version=v1".into(),
                // There is no controller that makes service accounts for new namespaces, and our pods need none.
                "--disable-admission-plugins=ServiceAccount".into(),
            ],
            env: Vec::new(),
            working_directory: &home,
            log: &log,
            account: None,
            death_signal: "KILL",
        })?;

        let endpoint = format!("https://127.0.0.1:{port}");
        let admin = Admin::new(&endpoint, admin_token, authority)?;
        let asked = Instant::now();
        loop {
            if let Ok(Some(_)) = admin.get("/readyz").await {
                break;
            }
            for (program, process, log) in [("etcd", &mut etcd, &etcd_log), ("kube-apiserver", &mut api, &log)] {
                if !process.is_running() {
                    return Err(Error::Program { program: program.into(), said: tail(log) });
                }
            }
            if asked.elapsed() > PATIENCE {
                return Err(Error::NotReady {
                    server: "kube-apiserver".into(),
                    seconds: PATIENCE.as_secs(),
                    said: tail(&log),
                    log,
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok((endpoint, vec![api, etcd]))
    })
    .await?;
    Ok((format!("real kube-apiserver {}", version(&binaries.join("kube-apiserver"))), endpoint, servers))
}

/// What the binary says of itself: `Kubernetes v1.20.2`.
fn version(program: &Path) -> String {
    let said =
        std::process::Command::new(program).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.split_whitespace().last().unwrap_or("of an unknown version").to_owned()
}

/// The authentication webhook: kube-apiserver sends a `TokenReview` for every token that it does not know itself.
fn reviews(check: Arc<TokenCheck>) -> Router {
    Router::new().route(
        "/token",
        post(move |Json(mut review): Json<Value>| async move {
            let token = review["spec"]["token"].as_str().unwrap_or_default().to_owned();
            review["status"] = match check.caller(&token, Timestamp::now()) {
                Ok(caller) => json!({
                    "authenticated": true,
                    "user": {"username": caller.user, "uid": caller.user, "groups": caller.groups},
                }),
                Err(refusal) => {
                    tracing::info!(%refusal, "the lab's cluster refuses a token");
                    json!({"authenticated": false, "error": refusal.to_string()})
                }
            };
            // Answered without the token in it.
            review["spec"] = json!({});
            Json(review)
        }),
    )
}
