//! The RDS API over the lab's real PostgreSQL: a thin layer in front of moto.
//!
//! moto knows instances, parameter groups and snapshots, but its promotion promotes nothing, keeps the replica's source
//! and may be repeated, and it has no global clusters that fail over. This layer answers those calls itself, acts on the
//! servers of the pair, and lets states take their time as AWS describes them; everything else goes to moto. Endpoints
//! in moto's answers are replaced by those of the real servers.
//!
//! What it holds to:
//! - promotion is asynchronous, reboots the instance and is refused while a backup runs
//!   <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_ReadRepl.Promote.html>
//! - `DBInstanceNotFound`, `InvalidDBInstanceState`
//!   <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_PromoteReadReplica.html>
//! - `available`, `modifying`, `rebooting`, `backing-up`
//!   <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html>
//! - `AllowDataLoss` and `Switchover` exclude each other; without either the call is a switchover
//!   <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_FailoverGlobalCluster.html>
//! - `pending`, `failing-over`, `switching-over`
//!   <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_FailoverState.html>
//!
//! Snapshots, which moto has at once, are in `snapshots`.

mod snapshots;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::aws::{ACCOUNT, Aws, INSTANCE, PRIMARY, REPLICA, SECONDARY, authorization, region_of};
use crate::error::{Error, Result};
use crate::postgres::Pair;
use crate::rds::snapshots::Snapshots;
use crate::xml;

/// How long states take. On AWS minutes, here parts of a second; the order is what matters.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the status still reads `available` after the call was accepted.
    pub linger: Duration,
    /// How long it reads `modifying` before the server is touched.
    pub modifying: Duration,
    /// Restart the server after its promotion, as RDS does.
    pub reboot: bool,
    /// How long a snapshot is being made, and a copy of one.
    pub snapshot: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(150),
            modifying: Duration::from_millis(250),
            reboot: true,
            snapshot: Duration::from_millis(200),
        }
    }
}

/// The Aurora global cluster of the lab, over the same pair.
pub const GLOBAL_CLUSTER: &str = "sparc-global";

/// The cluster of the global cluster in a region.
pub fn cluster_arn(region: &str) -> String {
    format!("arn:aws:rds:{region}:{ACCOUNT}:cluster:sparc-prod-{region}")
}

/// The running layer. Dropping it closes the listener.
#[derive(Debug)]
pub struct Rds {
    url: String,
    layer: Layer,
    listener: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Layer {
    moto: String,
    control: String,
    http: reqwest::Client,
    pair: Arc<Pair>,
    options: Options,
    state: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The status that the layer says instead of moto's, by instance.
    status: HashMap<String, &'static str>,
    /// Instances whose replica source is gone.
    standalone: Vec<String>,
    global: Global,
    snapshots: Snapshots,
    promotions: u32,
    refusals: u32,
}

#[derive(Debug)]
struct Global {
    writer: &'static str,
    status: &'static str,
    /// `pending`, `failing-over`, `switching-over`, with the target region and whether loss is allowed.
    moving: Option<(&'static str, &'static str, bool)>,
}

impl Default for Global {
    fn default() -> Self {
        Self { writer: PRIMARY, status: "available", moving: None }
    }
}

/// A refusal in RDS's words.
struct Refusal(StatusCode, &'static str, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        let body = format!(
            "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{}</Message></Error>\
             <RequestId>lab</RequestId></ErrorResponse>",
            xml::escape(&message)
        );
        (status, [("content-type", "text/xml")], body).into_response()
    }
}

const XMLNS: &str = "http://rds.amazonaws.com/doc/2014-10-31/";

impl Rds {
    /// Starts the layer and routes `RDS` in `aws` to it. The account must be seeded.
    pub async fn start(aws: &Aws, pair: Arc<Pair>, options: Options) -> Result<Self> {
        let failed = || Error::system("listen on 127.0.0.1 for the RDS layer");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed())?;
        let url = format!("http://127.0.0.1:{}", listener.local_addr().map_err(failed())?.port());
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(|e| Error::State(format!("no HTTP client for moto: {e}")))?;
        let (moto, control) = (aws.moto_url().to_owned(), aws.control_url().to_owned());
        let layer = Layer { moto, control, http, pair, options, state: Arc::default() };
        let app = Router::new().fallback(answer).with_state(layer.clone());
        let listener = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        aws.route("RDS", &url);
        Ok(Self { url, layer, listener })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often a real server was promoted through the API. More than one is a defect of somebody.
    pub fn promotions(&self) -> u32 {
        self.layer.state().promotions
    }

    /// How many calls were refused that would have moved the writer.
    pub fn refusals(&self) -> u32 {
        self.layer.state().refusals
    }

    /// Lets an instance be in its backup: it reads `backing-up`, and promotion is refused.
    pub fn begin_backup(&self, instance: &str) {
        self.layer.state().status.insert(instance.to_owned(), "backing-up");
    }

    /// Ends [`Rds::begin_backup`].
    pub fn end_backup(&self, instance: &str) {
        self.layer.state().status.remove(instance);
    }

    /// Lets every snapshot and copy stay under way, until [`Rds::finish_snapshots`].
    pub fn hold_snapshots(&self) {
        self.layer.state().snapshots.hold(true);
    }

    /// Ends [`Rds::hold_snapshots`].
    pub fn finish_snapshots(&self) {
        self.layer.state().snapshots.hold(false);
    }

    /// Lets the next snapshot or copy that is begun in a region come to nothing.
    pub fn fail_next_snapshot(&self, region: &str) {
        self.layer.state().snapshots.fail_next(region);
    }

    /// Lets RDS say of a snapshot that it has failed.
    pub fn spoil_snapshot(&self, arn: &str) {
        self.layer.state().snapshots.spoil(arn);
    }

    /// Forgets what was said of a snapshot that was deleted past this layer.
    pub fn forget_snapshot(&self, arn: &str) {
        self.layer.state().snapshots.forget(arn);
    }

    /// Calls the layer as an SDK would; status and XML.
    pub async fn query(&self, region: &str, action: &str, parameters: &[(&str, &str)]) -> Result<(StatusCode, String)> {
        let body = form(action, parameters);
        let failed =
            |e: reqwest::Error| Error::Aws { service: "rds".into(), operation: action.into(), said: e.to_string() };
        let answer = self
            .layer
            .http
            .post(&self.url)
            .header("authorization", authorization("rds", region))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
            .await
            .map_err(failed)?;
        Ok((answer.status(), answer.text().await.map_err(failed)?))
    }
}

impl Drop for Rds {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn answer(State(layer): State<Layer>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let region = region_of(authorization).unwrap_or(PRIMARY).to_owned();
    let action = form.get("Action").map_or("", String::as_str);
    let answered = match action {
        "PromoteReadReplica" => layer.promote(&region, &form).await,
        "DescribeGlobalClusters" => layer.describe_global(&form),
        "FailoverGlobalCluster" | "SwitchoverGlobalCluster" => layer.move_writer(action, &form),
        _ => {
            if let Err(refusal) = layer.before_snapshots(action, &region, &form).await {
                return refusal.into_response();
            }
            return layer.forward(method, &uri, &headers, body, action).await;
        }
    };
    match answered {
        Ok(body) => (StatusCode::OK, [("content-type", "text/xml")], body).into_response(),
        Err(refusal) => {
            layer.state().refusals += u32::from(action != "DescribeGlobalClusters");
            refusal.into_response()
        }
    }
}

impl Layer {
    fn state(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn forward(&self, method: Method, uri: &Uri, headers: &HeaderMap, body: Bytes, action: &str) -> Response {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = self.http.request(method, format!("{}{path}", self.moto)).body(body);
        for (name, value) in headers {
            if !matches!(name.as_str(), "host" | "connection" | "content-length" | "transfer-encoding") {
                request = request.header(name, value);
            }
        }
        let unavailable = |e: reqwest::Error| {
            Refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", e.to_string()).into_response()
        };
        match request.send().await {
            Ok(answer) => {
                let status = answer.status();
                match answer.text().await {
                    Ok(text) => {
                        if status.is_success() {
                            self.state().snapshots.note(action, &text, self.options.snapshot);
                        }
                        (status, [("content-type", "text/xml")], self.truth(&text)).into_response()
                    }
                    Err(error) => unavailable(error),
                }
            }
            Err(error) => unavailable(error),
        }
    }

    /// moto's answer with what is really so.
    fn truth(&self, xml: &str) -> String {
        let told = each_element(xml, "DBInstance", |instance| self.truth_of(instance));
        self.state().snapshots.truth(&told)
    }

    fn truth_of(&self, instance: &str) -> String {
        let mut told = instance.to_owned();
        let Some(id) = between(instance, "<DBInstanceIdentifier>", "</DBInstanceIdentifier>") else { return told };
        let server = match id {
            INSTANCE => &self.pair.primary,
            REPLICA => &self.pair.standby,
            _ => return told,
        };
        if let Some(endpoint) = between(instance, "<Endpoint>", "</Endpoint>") {
            let real = format!("<Address>{}</Address><Port>{}</Port>", server.host(), server.port());
            told = told.replacen(endpoint, &real, 1);
        }
        let known = self.state();
        if let (Some(status), Some(said)) =
            (known.status.get(id), between(instance, "<DBInstanceStatus>", "</DBInstanceStatus>"))
        {
            let element = |status: &str| format!("<DBInstanceStatus>{status}</DBInstanceStatus>");
            told = told.replacen(&element(said), &element(status), 1);
        }
        if known.standalone.iter().any(|standalone| standalone == id) {
            const OPEN: &str = "<ReadReplicaSourceDBInstanceIdentifier>";
            const CLOSE: &str = "</ReadReplicaSourceDBInstanceIdentifier>";
            if let (Some(begin), Some(end)) = (told.find(OPEN), told.find(CLOSE)) {
                told.replace_range(begin..end + CLOSE.len(), "");
            }
        }
        told
    }

    async fn promote(&self, region: &str, form: &HashMap<String, String>) -> std::result::Result<String, Refusal> {
        let id = form.get("DBInstanceIdentifier").map_or("", String::as_str).to_lowercase();
        let missing = || Refusal(StatusCode::NOT_FOUND, "DBInstanceNotFound", format!("DBInstance {id} not found."));
        let instance = self.described(region, &id).await.ok_or_else(missing)?;
        let refused = |why: String| Refusal(StatusCode::BAD_REQUEST, "InvalidDBInstanceState", why);
        if id != REPLICA {
            return Err(refused("DB Instance is not a read replica.".into()));
        }
        {
            let mut known = self.state();
            if known.standalone.contains(&id) {
                return Err(refused("DB Instance is not a read replica.".into()));
            }
            match known.status.get(&id) {
                None => {}
                Some(status) => return Err(refused(format!("DB Instance is not in available state: {status}."))),
            }
            // Still `available` to whoever looks at once, but already taken.
            known.status.insert(id.clone(), "available");
        }
        let layer = self.clone();
        tokio::spawn(async move { layer.carry_out_promotion(&id).await });
        Ok(format!(
            "<PromoteReadReplicaResponse xmlns=\"{XMLNS}\"><PromoteReadReplicaResult>{instance}\
             </PromoteReadReplicaResult><ResponseMetadata><RequestId>lab</RequestId></ResponseMetadata>\
             </PromoteReadReplicaResponse>"
        ))
    }

    async fn carry_out_promotion(&self, id: &str) {
        let set = |status: &'static str| {
            self.state().status.insert(id.to_owned(), status);
        };
        tokio::time::sleep(self.options.linger).await;
        set("modifying");
        tokio::time::sleep(self.options.modifying).await;
        if self.promote_standby().await.is_err() {
            // What RDS calls a server that it cannot bring into the wanted state.
            return set("failed");
        }
        self.state().standalone.push(id.to_owned());
        if self.options.reboot {
            set("rebooting");
            if self.pair.standby.restart().await.is_err() {
                return set("failed");
            }
        }
        self.state().status.remove(id);
    }

    async fn promote_standby(&self) -> Result<()> {
        self.state().promotions += 1;
        self.pair.standby.execute("select pg_promote(false)").await?;
        self.pair.standby.wait_for_promotion().await
    }

    /// The instance as `DescribeDBInstances` would show it in this region.
    async fn described(&self, region: &str, id: &str) -> Option<String> {
        let body = form("DescribeDBInstances", &[("DBInstanceIdentifier", id)]);
        let answer = self
            .http
            .post(&self.moto)
            .header("authorization", authorization("rds", region))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
            .await
            .ok()?;
        let told = self.truth(&answer.text().await.ok()?);
        let block = between(&told, "<DBInstance>", "</DBInstance>")?;
        Some(format!("<DBInstance>{block}</DBInstance>"))
    }

    fn describe_global(&self, form: &HashMap<String, String>) -> std::result::Result<String, Refusal> {
        self.global_named(form.get("GlobalClusterIdentifier").map(String::as_str))?;
        Ok(format!(
            "<DescribeGlobalClustersResponse xmlns=\"{XMLNS}\"><DescribeGlobalClustersResult><GlobalClusters>\
             <GlobalClusterMember>{}</GlobalClusterMember></GlobalClusters></DescribeGlobalClustersResult>\
             <ResponseMetadata><RequestId>lab</RequestId></ResponseMetadata></DescribeGlobalClustersResponse>",
            self.global_xml()
        ))
    }

    fn global_named(&self, name: Option<&str>) -> std::result::Result<(), Refusal> {
        match name {
            None | Some(GLOBAL_CLUSTER) => Ok(()),
            Some(name) => Err(Refusal(
                StatusCode::NOT_FOUND,
                "GlobalClusterNotFoundFault",
                format!("The global cluster {name} does not exist."),
            )),
        }
    }

    fn global_xml(&self) -> String {
        let known = self.state();
        let global = &known.global;
        let (writer, reader) = (cluster_arn(global.writer), cluster_arn(other(global.writer)));
        let moving = global.moving.map_or(String::new(), |(status, to, loss)| {
            format!(
                "<FailoverState><Status>{status}</Status><FromDbClusterArn>{}</FromDbClusterArn>\
                 <ToDbClusterArn>{}</ToDbClusterArn><IsDataLossAllowed>{loss}</IsDataLossAllowed></FailoverState>",
                cluster_arn(other(to)),
                cluster_arn(to)
            )
        });
        format!(
            "<GlobalClusterIdentifier>{GLOBAL_CLUSTER}</GlobalClusterIdentifier>\
             <GlobalClusterArn>arn:aws:rds::{ACCOUNT}:global-cluster:{GLOBAL_CLUSTER}</GlobalClusterArn>\
             <Status>{}</Status><Engine>aurora-postgresql</Engine><EngineVersion>15.10</EngineVersion>\
             <StorageEncrypted>true</StorageEncrypted><DeletionProtection>true</DeletionProtection>\
             <GlobalClusterMembers>\
             <GlobalClusterMember><DBClusterArn>{writer}</DBClusterArn><Readers><member>{reader}</member></Readers>\
             <IsWriter>true</IsWriter></GlobalClusterMember>\
             <GlobalClusterMember><DBClusterArn>{reader}</DBClusterArn><Readers/><IsWriter>false</IsWriter>\
             </GlobalClusterMember></GlobalClusterMembers>{moving}",
            global.status
        )
    }

    fn move_writer(&self, action: &str, form: &HashMap<String, String>) -> std::result::Result<String, Refusal> {
        let yes = |name: &str| form.get(name).is_some_and(|value| value == "true");
        let bad = |code: &'static str, why: &str| Refusal(StatusCode::BAD_REQUEST, code, why.to_owned());
        let (loss, switchover) = (yes("AllowDataLoss"), yes("Switchover"));
        if loss && switchover {
            return Err(bad(
                "InvalidParameterCombination",
                "AllowDataLoss can't be specified together with Switchover.",
            ));
        }
        self.global_named(form.get("GlobalClusterIdentifier").map(String::as_str).or(Some("")))?;
        let target = form.get("TargetDbClusterIdentifier").map_or("", String::as_str);
        let target =
            [PRIMARY, SECONDARY].into_iter().find(|region| cluster_arn(region) == target).ok_or_else(|| {
                Refusal(StatusCode::NOT_FOUND, "DBClusterNotFoundFault", format!("DBCluster {target} not found."))
            })?;
        // Without AllowDataLoss the call is a switchover, whatever it is called.
        let graceful = action == "SwitchoverGlobalCluster" || !loss;
        {
            let mut known = self.state();
            if known.global.moving.is_some() || known.global.status != "available" {
                return Err(bad(
                    "InvalidGlobalClusterStateFault",
                    "The global cluster is already failing over or switching over.",
                ));
            }
            if known.global.writer == target {
                return Err(bad(
                    "InvalidDBClusterStateFault",
                    "The target DB cluster is already the primary DB cluster.",
                ));
            }
            if target == PRIMARY {
                return Err(bad(
                    "InvalidDBClusterStateFault",
                    "The lab moves its writer once, to the secondary region.",
                ));
            }
            if graceful && !self.pair.primary.is_running() {
                // A switchover waits for the primary; for a dead one AWS points to the failover.
                return Err(bad(
                    "InvalidDBClusterStateFault",
                    "The primary DB cluster isn't available for a switchover.",
                ));
            }
            known.global.moving = Some(("pending", target, loss));
        }
        let layer = self.clone();
        tokio::spawn(async move { layer.carry_out_move(graceful, target, loss).await });
        Ok(format!(
            "<{action}Response xmlns=\"{XMLNS}\"><{action}Result><GlobalCluster>{}</GlobalCluster></{action}Result>\
             <ResponseMetadata><RequestId>lab</RequestId></ResponseMetadata></{action}Response>",
            self.global_xml()
        ))
    }

    async fn carry_out_move(&self, graceful: bool, target: &'static str, loss: bool) {
        tokio::time::sleep(self.options.linger).await;
        let moving = if graceful { "switching-over" } else { "failing-over" };
        {
            let mut known = self.state();
            known.global.moving = Some((moving, target, loss));
            known.global.status = moving;
        }
        tokio::time::sleep(self.options.modifying).await;
        let moved = async {
            if graceful {
                // A fast shutdown sends the whole log to the standby before it ends, so nothing is lost.
                self.pair.primary.stop().await?;
            }
            self.promote_standby().await
        };
        if moved.await.is_ok() {
            // The flag moves before the rest is in place.
            self.state().global.writer = target;
        }
        tokio::time::sleep(self.options.linger).await;
        let mut known = self.state();
        known.global.moving = None;
        known.global.status = "available";
    }
}

/// XML with every element of a name replaced by what is really so.
fn each_element(xml: &str, name: &str, truth: impl Fn(&str) -> String) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut told = String::with_capacity(xml.len());
    let mut rest = xml;
    while let Some(begin) = rest.find(&open) {
        let Some(end) = rest[begin..].find(&close).map(|end| begin + end + close.len()) else { break };
        told.push_str(&rest[..begin]);
        told.push_str(&truth(&rest[begin..end]));
        rest = &rest[end..];
    }
    told.push_str(rest);
    told
}

fn form(action: &str, parameters: &[(&str, &str)]) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", action).append_pair("Version", "2014-10-31").extend_pairs(parameters);
    form.finish()
}

fn other(region: &str) -> &'static str {
    if region == PRIMARY { SECONDARY } else { PRIMARY }
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let begin = text.find(open)? + open.len();
    let end = text[begin..].find(close)? + begin;
    Some(&text[begin..end])
}
