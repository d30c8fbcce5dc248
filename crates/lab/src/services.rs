//! The platform's services in one region, as far as health checks see them.
//!
//! Each answers `/healthz` with 200 only if its database takes a committed write, and says in `x-served-by-region` where
//! it stands. Below it `/healthz/cache` stands for Redis: a cache in memory, filled from the database when somebody asks
//! and it is empty, and well if what is read back from it is what the database says. One listener carries all services of a region: a request names its service by the host
//! (`incidents.us-west-2.sparc.com`) or, where no resolver is at hand, by the path (`/incidents/healthz`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Result};
use crate::kubernetes::{Kubelet, Verdict, Workload};
use crate::ports;
use crate::postgres::{Pair, Role, Server};
use crate::tls::Authority;
use async_trait::async_trait;

/// The services and the database that each writes to; `live-video` keeps nothing.
pub const SERVICES: [(&str, Option<&str>); 6] = [
    ("core-apis", Some("sparc_auth")),
    ("live-video", None),
    ("incidents", Some("sparc_prod")),
    ("playback", Some("sparc_video")),
    ("analytics", Some("sparc_analytics")),
    ("audit-logs", Some("sparc_prod")),
];

/// The service that a bare `/healthz` asks for, as behind the public name.
const FRONT: &str = "core-apis";
const PATIENCE: Duration = Duration::from_secs(1);

/// The services of one region. Dropping it closes the listener.
#[derive(Debug)]
pub struct Region {
    name: String,
    port: u16,
    state: Arc<Mutex<Services>>,
    authority: Arc<Authority>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Services {
    databases: BTreeMap<String, Config>,
    broken: BTreeSet<String>,
    /// By service; gone with the region.
    cache: BTreeMap<String, i64>,
}

#[derive(Clone)]
struct Handler {
    region: String,
    state: Arc<Mutex<Services>>,
    connector: MakeRustlsConnect,
}

/// Starts and ends the services of a region with their Deployments: a service answers while its Deployment has replicas
/// and is not wired to the lost database.
#[derive(Clone)]
pub(crate) struct Wire {
    state: Arc<Mutex<Services>>,
    /// Port of a database that workloads of this region must not be wired to.
    lost_database: Option<u16>,
}

/// The kubelet of a region's cluster, whose services come later than the cluster.
pub(crate) struct WiredKubelet(pub(crate) Arc<OnceLock<Wire>>);

#[async_trait]
impl Kubelet for WiredKubelet {
    async fn run(&self, workload: &Workload) -> Verdict {
        let Some(wire) = self.0.get() else { return Verdict::NotYet };
        let wired_to = workload.env.get("PGPORT").and_then(|port| port.parse().ok());
        let works = workload.replicas > 0 && (wired_to.is_none() || wired_to != wire.lost_database);
        let mut state = lock(&wire.state);
        if works {
            state.broken.remove(&workload.name);
        } else {
            state.broken.insert(workload.name.clone());
        }
        Verdict::Running
    }
}

impl Region {
    /// What ties the services to Deployments. Until a Deployment runs, its service does not answer.
    pub(crate) fn wire_to_deployments(&self, lost_database: Option<u16>) -> Wire {
        lock(&self.state).broken.extend(SERVICES.iter().map(|(name, _)| (*name).to_owned()));
        Wire { state: self.state.clone(), lost_database }
    }

    /// Waits until every service has its Deployment, as long as a kubelet may take to look at them.
    pub(crate) async fn wait_for_deployments(&self) -> Result<()> {
        for _ in 0..500 {
            if lock(&self.state).broken.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Error::State(format!("services of {} have no Deployment: {:?}", self.name, lock(&self.state).broken)))
    }

    /// Starts the services of a region, writing to `server` as the application.
    pub async fn start(name: &str, pair: &Pair, server: &Server) -> Result<Self> {
        let region = Self {
            name: name.to_owned(),
            port: ports::free()?,
            state: Arc::default(),
            authority: pair.authority().clone(),
            listener: Mutex::new(None),
        };
        region.wire(server);
        region.light_up().await?;
        Ok(region)
    }

    /// Points the services at a database server.
    pub fn wire(&self, server: &Server) {
        let mut state = lock(&self.state);
        for (service, database) in SERVICES {
            if let Some(database) = database {
                let mut config = server.config(Role::Application, database);
                config.connect_timeout(PATIENCE).application_name(service);
                state.databases.insert(service.to_owned(), config);
            }
        }
    }

    /// Its name, for example `us-west-2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port of its listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where a service answers for its health.
    pub fn url(&self, service: &str) -> String {
        format!("http://127.0.0.1:{}/{service}/healthz", self.port)
    }

    /// Makes a service answer 503 whatever its database says.
    pub fn break_service(&self, service: &str) {
        lock(&self.state).broken.insert(service.to_owned());
    }

    /// Ends [`Region::break_service`].
    pub fn mend_service(&self, service: &str) {
        lock(&self.state).broken.remove(service);
    }

    /// Closes the listener: the region is gone, connections are refused.
    pub fn go_dark(&self) {
        lock(&self.state).cache.clear();
        if let Some(listener) = lock(&self.listener).take() {
            listener.abort();
        }
    }

    /// Opens the listener, again on the same port.
    pub async fn light_up(&self) -> Result<()> {
        self.go_dark();
        let handler =
            Handler { region: self.name.clone(), state: self.state.clone(), connector: self.authority.connector()? };
        let app = Router::new().fallback(answer).with_state(handler);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))
            .await
            .map_err(Error::system(format!("listen on 127.0.0.1:{} for {}", self.port, self.name)))?;
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        *lock(&self.listener) = Some(task);
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.go_dark();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(handler): State<Handler>, headers: HeaderMap, uri: Uri) -> impl IntoResponse {
    let region = [("x-served-by-region", handler.region.clone())];
    let path: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let host = headers.get("host").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let of_cache = path.last() == Some(&"cache");
    let known = |name: &str| SERVICES.iter().any(|(service, _)| *service == name);
    let service = match path.as_slice() {
        [service, "healthz"] | [service, "healthz", "cache"] => *service,
        ["healthz"] | ["healthz", "cache"] => host.split('.').next().filter(|name| known(name)).unwrap_or(FRONT),
        _ => return (StatusCode::NOT_FOUND, region, json!({ "error": "no such path" }).to_string()),
    };
    if !known(service) {
        return (StatusCode::NOT_FOUND, region, json!({ "error": format!("no service `{service}`") }).to_string());
    }
    let (database, broken) = {
        let state = lock(&handler.state);
        (state.databases.get(service).cloned(), state.broken.contains(service))
    };
    let outcome = match database {
        _ if broken => Err("broken by the lab".to_owned()),
        None => Ok(()),
        Some(config) => match tokio::time::timeout(PATIENCE, is_well(&handler, service, &config, of_cache)).await {
            Ok(is_well) => is_well,
            Err(_) => Err(format!("no answer from its database within {} s", PATIENCE.as_secs())),
        },
    };
    let (status, error) = match outcome {
        Ok(()) => (StatusCode::OK, None),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, Some(why)),
    };
    (status, region, json!({ "service": service, "region": handler.region, "error": error }).to_string())
}

/// Whether the service can write, or whether its cache says what its database says.
async fn is_well(handler: &Handler, service: &str, config: &Config, of_cache: bool) -> std::result::Result<(), String> {
    let said = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(db) => format!("{}: {}", db.code().code(), db.message()),
        None => error.to_string(),
    };
    let (client, connection) = config.connect(handler.connector.clone()).await.map_err(said)?;
    let connection = tokio::spawn(connection);
    if of_cache {
        let users = client.query_one("select count(*) from users", &[]).await;
        connection.abort();
        let users: i64 = users.map_err(said)?.get(0);
        let cached = *lock(&handler.state).cache.entry(service.to_owned()).or_insert(users);
        return if cached == users {
            Ok(())
        } else {
            Err(format!("{cached} users in the cache, {users} in the database"))
        };
    }
    let run = format!("healthz {service} {}", handler.region);
    let written = client
        .execute(
            "insert into recovery.write_attempt (run) values ($1)
             on conflict (run) do update set attempts = write_attempt.attempts + 1, written_at = clock_timestamp()",
            &[&run],
        )
        .await;
    connection.abort();
    written.map(drop).map_err(said)
}
