//! What stands between users and regions: Route 53's health checkers and resolvers, in one listener.
//!
//! The edge reads records and health checks from the emulated Route 53 as they are configured there, probes what they
//! name, and forwards each request to the region that DNS would have answered. It is the data plane: when the control
//! plane does not answer, it goes on with what it last read.
//!
//! Like Route 53 and unlike intuition: when *every* record of a failover pair is unhealthy, it answers as if all were
//! healthy, which is the primary; that the pair was ever in this state is recorded, because a failover must not cause it.
//! <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/health-checks-how-route-53-chooses-records.html>
//!
//! Intervals are scaled: a check every 10 s with [`Options::scale`] 0.02 runs every 200 ms. What a report says about
//! propagation must be divided by the scale. Simplified against AWS: one checker where Route 53 has many and decides at
//! 18 %, and of the types only HTTP and HTTPS without string matching; HTTPS is probed in plain text, since Route 53 does
//! not verify certificates either. Requests are forwarded by an answer of the moment; what customers see who keep answers
//! is in [`resolvers`](crate::resolvers).

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use roxmltree::Document;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::aws::{Aws, PRIMARY};
use crate::error::{Error, Result};
use crate::ports;
use crate::xml::child;

/// The name that the platform is known by.
pub const PUBLIC_NAME: &str = "api.sparc.com";

/// How long resolvers keep an alias, which has no time to live of its own.
/// <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/resource-record-sets-choosing-alias-non-alias.html>
const ALIAS_TTL: Duration = Duration::from_secs(60);

/// How the edge is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seconds of the lab for a second of Route 53.
    pub scale: f64,
    /// The CloudFront distribution whose aliases lead to its first origin.
    pub distribution: Option<String>,
    /// Host names and the port on 127.0.0.1 where they live.
    pub hosts: HashMap<String, u16>,
}

/// A resource record as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Without the final dot.
    pub name: String,
    /// `PRIMARY`, `SECONDARY`, or none for a simple record.
    pub failover: Option<String>,
    /// Its first value, without the final dot.
    pub value: String,
    /// The health check it hangs on.
    pub check: Option<String>,
    /// How long resolvers keep it, in seconds of Route 53.
    pub ttl: Duration,
}

/// What a name leads to, and how long a resolver keeps that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The host; `None` if names lead in a circle.
    pub host: Option<String>,
    /// In time of the lab.
    pub kept_for: Duration,
}

/// The names of an edge, for somebody who asks for them.
#[derive(Debug, Clone)]
pub struct Names {
    world: Arc<Mutex<World>>,
    scale: f64,
}

impl Names {
    /// Asks for a name, as a resolver that has no answer.
    pub fn answer(&self, name: &str) -> Answered {
        let (host, ttl) = lock(&self.world).lead(name);
        Answered { host, kept_for: ttl.mul_f64(self.scale) }
    }
}

/// A change of what the edge sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What, in a sentence.
    pub what: String,
}

#[derive(Debug, Clone)]
struct Check {
    target: String,
    host: String,
    interval: Duration,
    threshold: u32,
    inverted: bool,
    disabled: bool,
}

#[derive(Debug)]
struct Health {
    healthy: bool,
    /// Consecutive observations that disagree with `healthy`.
    against: u32,
    due: Instant,
}

#[derive(Debug, Default)]
struct World {
    records: Vec<Record>,
    checks: HashMap<String, Check>,
    health: HashMap<String, Health>,
    all_unhealthy: Vec<String>,
    ever_all_unhealthy: Option<Instant>,
    events: Vec<Event>,
    in_flight: HashSet<String>,
}

/// The running edge. Dropping it closes the listener.
#[derive(Debug)]
pub struct Edge {
    port: u16,
    scale: f64,
    world: Arc<Mutex<World>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Forwarder {
    world: Arc<Mutex<World>>,
    hosts: Arc<HashMap<String, u16>>,
    http: reqwest::Client,
}

impl Edge {
    /// Starts it for a hosted zone; returns when every check has been probed.
    pub async fn start(aws: Arc<Aws>, hosted_zone: &str, options: Options) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            // Route 53 gives a target two seconds to answer.
            .timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::State(format!("no HTTP client: {e}")))?;
        let world = Arc::new(Mutex::new(World::default()));
        let port = ports::free()?;
        let forwarder = Forwarder { world: world.clone(), hosts: Arc::new(options.hosts), http: http.clone() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .map_err(Error::system(format!("listen on 127.0.0.1:{port} for the edge")))?;
        let app = Router::new().fallback(forward).with_state(forwarder.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        let (zone, distribution) = (hosted_zone.to_owned(), options.distribution);
        let checker = Checker { aws, zone, distribution, scale: options.scale, forwarder };
        checker.read().await?;
        let checking = tokio::spawn(async move { checker.run().await });
        let edge = Self { port, scale: options.scale, world, tasks: vec![serving, checking] };
        edge.wait_until("probe every check", |world| world.checks.keys().all(|id| world.health.contains_key(id)))
            .await?;
        Ok(edge)
    }

    /// Where it listens. Ask with a `Host`; without one of ours it stands for [`PUBLIC_NAME`].
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Seconds of the lab for a second of Route 53; belongs into every report of propagation.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The host that the name leads to now, for example `origin.us-west-2.sparc.com`.
    pub fn resolve(&self, name: &str) -> Option<String> {
        self.world().resolve(name)
    }

    /// Its names, for somebody who asks for them later.
    pub fn names(&self) -> Names {
        Names { world: self.world.clone(), scale: self.scale }
    }

    /// Whether a health check is healthy now, as Route 53 would count it.
    pub fn is_healthy(&self, check: &str) -> Option<bool> {
        self.world().health.get(check).map(|health| health.healthy)
    }

    /// When for the first time every record of a failover pair was unhealthy; `None` is what a test wants to see.
    pub fn ever_all_unhealthy(&self) -> Option<Instant> {
        self.world().ever_all_unhealthy
    }

    /// What changed, in order.
    pub fn events(&self) -> Vec<Event> {
        self.world().events.clone()
    }

    /// Waits until the name leads to this host.
    pub async fn wait_until_answer(&self, name: &str, host: &str) -> Result<()> {
        self.wait_until(&format!("answer {name} with {host}"), |world| world.resolve(name).as_deref() == Some(host))
            .await
    }

    async fn wait_until(&self, what: &str, done: impl Fn(&World) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done(&self.world()) {
            if Instant::now() > deadline {
                return Err(Error::State(format!("the edge does not {what}: {:?}", self.world())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn healthy(&self, record: &Record) -> bool {
        // A record without a check is always healthy.
        record.check.as_ref().and_then(|check| self.health.get(check)).is_none_or(|health| health.healthy)
    }

    fn resolve(&self, name: &str) -> Option<String> {
        self.lead(name).0
    }

    /// The host that a name leads to, and the shortest time to live on the way.
    fn lead(&self, name: &str) -> (Option<String>, Duration) {
        let mut ttl = ALIAS_TTL;
        let mut name = name.to_owned();
        // Chains of names are short; a loop of them must not be ours.
        for _ in 0..8 {
            let set: Vec<&Record> = self.records.iter().filter(|record| record.name == name).collect();
            let role = |role: &str| set.iter().find(|record| record.failover.as_deref() == Some(role));
            let chosen = match (role("PRIMARY"), role("SECONDARY")) {
                (Some(primary), Some(secondary)) if !self.healthy(primary) && self.healthy(secondary) => secondary,
                (Some(primary), _) => primary,
                (None, Some(secondary)) => secondary,
                (None, None) => match set.first() {
                    Some(record) => record,
                    None => return (Some(name), ttl),
                },
            };
            ttl = ttl.min(chosen.ttl);
            name = chosen.value.clone();
        }
        (None, ttl)
    }

    fn note(&mut self, what: String) {
        self.events.push(Event { at: Timestamp::now(), what });
    }

    fn note_pairs(&mut self) {
        let mut names: Vec<String> =
            self.records.iter().filter(|r| r.failover.is_some()).map(|r| r.name.clone()).collect();
        names.dedup();
        let lost: Vec<String> = names
            .into_iter()
            .filter(|name| self.records.iter().filter(|r| &r.name == name).all(|r| !self.healthy(r)))
            .collect();
        for name in &lost {
            if !self.all_unhealthy.contains(name) {
                self.ever_all_unhealthy.get_or_insert_with(Instant::now);
                self.events.push(Event { at: Timestamp::now(), what: format!("every record of {name} is unhealthy") });
            }
        }
        self.all_unhealthy = lost;
    }
}

#[derive(Clone)]
struct Checker {
    aws: Arc<Aws>,
    zone: String,
    distribution: Option<String>,
    scale: f64,
    forwarder: Forwarder,
}

impl Checker {
    async fn run(self) {
        let mut read_at = Instant::now();
        loop {
            // Seldom, for the emulator's sake: on AWS a change takes up to a minute to reach the resolvers.
            if read_at.elapsed() >= Duration::from_millis(250) {
                // Nothing is lost when the control plane does not answer: what was read last stays.
                let _ = self.read().await;
                read_at = Instant::now();
            }
            let due: Vec<(String, Check)> = {
                let mut world = lock(&self.forwarder.world);
                world.note_pairs();
                let now = Instant::now();
                let waits = |id: &str| world.health.get(id).is_some_and(|health| health.due > now);
                let due: Vec<_> = world
                    .checks
                    .iter()
                    .filter(|(id, _)| !world.in_flight.contains(*id) && !waits(id))
                    .map(|(id, check)| (id.clone(), check.clone()))
                    .collect();
                world.in_flight.extend(due.iter().map(|(id, _)| id.clone()));
                due
            };
            for (id, check) in due {
                // Each on its own: a target that hangs must not hold up the check of the switch.
                let (checker, world) = (self.clone(), self.forwarder.world.clone());
                tokio::spawn(async move {
                    let up = checker.probe(&check).await;
                    let mut world = lock(&world);
                    checker.count(&mut world, &id, &check, up);
                    world.note_pairs();
                    world.in_flight.remove(&id);
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn count(&self, world: &mut World, id: &str, check: &Check, up: bool) {
        // A disabled check counts as healthy, or as unhealthy if it is inverted.
        let seen = (up || check.disabled) != check.inverted;
        let due = Instant::now() + check.interval.mul_f64(self.scale);
        let health = world.health.entry(id.to_owned()).or_insert(Health { healthy: seen, against: 0, due });
        health.due = due;
        if health.healthy == seen {
            health.against = 0;
            return;
        }
        health.against += 1;
        if health.against >= check.threshold {
            health.healthy = seen;
            health.against = 0;
            let state = if seen { "healthy" } else { "unhealthy" };
            world.note(format!("the check of {} became {state}", check.target));
        }
    }

    async fn probe(&self, check: &Check) -> bool {
        if check.disabled {
            return true;
        }
        let path = path_of(&check.target, &check.host);
        let request = match check.host.split_once(".s3.") {
            // The bucket's public name; the emulator gets it in its path style.
            Some((bucket, _)) => self.forwarder.http.get(format!("{}/{bucket}{path}", self.aws.control_url())),
            None => match self.forwarder.hosts.get(&check.host) {
                Some(port) => {
                    self.forwarder.http.get(format!("http://127.0.0.1:{port}{path}")).header("host", &check.host)
                }
                None => return false,
            },
        };
        // "HTTP and HTTPS: a status of 2xx or 3xx"
        request.send().await.is_ok_and(|answer| answer.status().is_success() || answer.status().is_redirection())
    }

    async fn read(&self) -> Result<()> {
        let path = format!("/2013-04-01/hostedzone/{}/rrset", self.zone);
        let answer = self.aws.call("route53", PRIMARY, Method::GET, &path, &[], "").await?;
        let mut records = records(&answer.or_refused("route53", "ListResourceRecordSets")?);
        let mut checks = HashMap::new();
        for id in records.iter().filter_map(|record| record.check.clone()) {
            let path = format!("/2013-04-01/healthcheck/{id}");
            let answer = self.aws.call("route53", PRIMARY, Method::GET, &path, &[], "").await?;
            if let Some(check) = check(&answer.or_refused("route53", "GetHealthCheck")?) {
                checks.insert(id, check);
            }
        }
        if let Some(distribution) = &self.distribution {
            let path = format!("/2020-05-31/distribution/{distribution}/config");
            let answer = self.aws.call("cloudfront", PRIMARY, Method::GET, &path, &[], "").await?;
            records.extend(aliases(&answer.or_refused("cloudfront", "GetDistributionConfig")?));
        }
        let mut world = lock(&self.forwarder.world);
        if !world.records.is_empty() && world.records != records {
            world.note("the records or the distribution were edited".into());
        }
        (world.records, world.checks) = (records, checks);
        Ok(())
    }
}

fn path_of<'a>(target: &'a str, host: &str) -> &'a str {
    target.strip_prefix(host).unwrap_or("/")
}

fn records(xml: &str) -> Vec<Record> {
    let Ok(document) = Document::parse(xml) else { return Vec::new() };
    document
        .descendants()
        .filter(|node| node.tag_name().name() == "ResourceRecordSet")
        .filter(|set| matches!(child(*set, "Type"), Some("A" | "AAAA" | "CNAME")))
        .filter_map(|set| {
            let value = set.descendants().find(|node| matches!(node.tag_name().name(), "Value" | "DNSName"))?;
            Some(Record {
                name: child(set, "Name")?.trim_end_matches('.').to_owned(),
                failover: child(set, "Failover").map(str::to_owned),
                value: value.text()?.trim_end_matches('.').to_owned(),
                check: child(set, "HealthCheckId").map(str::to_owned),
                ttl: child(set, "TTL").and_then(|ttl| ttl.parse().ok()).map_or(ALIAS_TTL, Duration::from_secs),
            })
        })
        .collect()
}

/// A distribution as names: each alias leads to the first origin. Caching is left out; what counts here is the way.
fn aliases(xml: &str) -> Vec<Record> {
    let Some(origin) = crate::xml::text(xml, "DomainName") else { return Vec::new() };
    let aliases = crate::xml::texts(xml, "CNAME").into_iter();
    aliases.map(|name| Record { name, failover: None, value: origin.clone(), check: None, ttl: ALIAS_TTL }).collect()
}

fn check(xml: &str) -> Option<Check> {
    let document = Document::parse(xml).ok()?;
    let config = document.descendants().find(|node| node.tag_name().name() == "HealthCheckConfig")?;
    let host = child(config, "FullyQualifiedDomainName").or_else(|| child(config, "IPAddress"))?.to_owned();
    let yes = |name: &str| child(config, name).is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let number =
        |name: &str, otherwise: u64| child(config, name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    Some(Check {
        target: format!("{host}{}", child(config, "ResourcePath").unwrap_or("/")),
        host,
        interval: Duration::from_secs(number("RequestInterval", 30)),
        threshold: u32::try_from(number("FailureThreshold", 3)).unwrap_or(3),
        inverted: yes("Inverted"),
        disabled: yes("Disabled"),
    })
}

async fn forward(
    State(forwarder): State<Forwarder>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let host = headers.get("host").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = match host.split(':').next().unwrap_or_default() {
        // Where no resolver is at hand, the edge's own address stands for the public name.
        "127.0.0.1" | "localhost" => PUBLIC_NAME,
        name => name,
    };
    let Some(target) = lock(&forwarder.world).resolve(name) else {
        return (StatusCode::BAD_GATEWAY, format!("{name} leads in a circle")).into_response();
    };
    let Some(port) = forwarder.hosts.get(&target) else {
        return (StatusCode::BAD_GATEWAY, format!("{name} leads to {target}, which is nowhere")).into_response();
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = forwarder.http.request(method, format!("http://127.0.0.1:{port}{path}")).body(body);
    for (header, value) in headers.iter().filter(|(header, _)| *header != "host") {
        request = request.header(header, value);
    }
    request = request.header("host", name);
    match request.send().await {
        Ok(answer) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = answer.status();
            for (header, value) in answer.headers() {
                if header != "transfer-encoding" && header != "connection" {
                    response.headers_mut().insert(header, value.clone());
                }
            }
            if let Ok(value) = target.parse() {
                response.headers_mut().insert("x-lab-resolved-to", value);
            }
            *response.body_mut() = Body::from(answer.bytes().await.unwrap_or_default());
            response
        }
        Err(_) => (StatusCode::BAD_GATEWAY, format!("{name} leads to {target}, which does not answer")).into_response(),
    }
}
