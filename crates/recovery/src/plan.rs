//! The platform and its objectives, as `plans/sparc.toml` writes them.
//!
//! The plan is read once, checked whole, and never changed by a run. Connection details live here and only here: state
//! input carries names, so a recorded run shows choices and no addresses of secrets.

use std::{collections::BTreeSet, fmt, path::Path};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    backup::Backups,
    objective::{Priority, RecoveryPoint, Span},
};

/// Everything that the suite knows about one platform before anything goes wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Name of the platform; part of bucket keys, field managers and execution names.
    pub platform: String,
    /// Where the platform runs, where it goes, and where the suite itself runs.
    pub regions: Regions,
    /// What people may decide without asking, and what a standby must have to be promoted.
    pub failover: Policy,
    /// One per service that customers see.
    #[serde(rename = "objective")]
    pub objectives: Vec<Objective>,
    /// One per part of the infrastructure that services stand on.
    #[serde(rename = "component")]
    pub components: Vec<Component>,
    /// What may happen, and which machine answers it.
    #[serde(rename = "scenario")]
    pub scenarios: Vec<Scenario>,
    /// The database cluster and its standby.
    pub postgresql: PostgreSql,
    /// The clusters of both regions.
    pub kubernetes: Kubernetes,
    /// Questions that a recovered service must answer.
    #[serde(rename = "check")]
    pub checks: Vec<Check>,
    /// Names that customers use, and how they move.
    pub names: Names,
    /// Buckets by purpose.
    pub buckets: Buckets,
    /// What is backed up, how often, and how it is kept.
    pub backups: Backups,
    /// Who hears of it, by priority, and the links that every message carries.
    pub notification: Notification,
    /// Contradictions that somebody has looked at and lives with.
    #[serde(default, rename = "accepted", skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<Accepted>,
}

/// The three regions. The suite runs in the tertiary one, so it survives the loss of the other two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regions {
    /// Where the platform runs.
    pub primary: Region,
    /// Where it goes.
    pub secondary: Region,
    /// Where the suite, its evidence and the data-plane switch are.
    pub tertiary: Region,
}

/// An AWS Region code such as `us-east-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(String);

impl Region {
    /// The code, for example `us-east-1`.
    pub fn code(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Region {
    type Error = String;

    fn try_from(code: String) -> Result<Self, String> {
        let parts: Vec<&str> = code.split('-').collect();
        let [area, middle @ .., number] = parts.as_slice() else { return Err(not_a_region(&code)) };
        let lower = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
        let numbered = number.len() == 1 && number.bytes().all(|b| b.is_ascii_digit());
        if area.len() == 2 && lower(area) && !middle.is_empty() && middle.iter().all(lower) && numbered {
            Ok(Region(code))
        } else {
            Err(not_a_region(&code))
        }
    }
}

fn not_a_region(code: &str) -> String {
    format!("`{code}` is not an AWS Region; write for example \"us-east-1\"")
}

impl From<Region> for String {
    fn from(region: Region) -> String {
        region.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who confirms what cannot be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approval {
    /// A person, by a task token.
    Required,
    /// The plan itself: an alarm is enough.
    Automatic,
}

/// What people may decide without asking, and what a standby must have to be promoted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Whether a person confirms before the point of no return.
    pub approval: Approval,
    /// How many different people confirm it; more than one is refused with `approval = "automatic"`.
    #[serde(default = "one_person")]
    pub approvals: u8,
    /// Most data, in time, that an ungraceful promotion may lose without recorded consent.
    pub acceptable_loss: Span,
    /// Most data, in bytes of write-ahead log, that an ungraceful promotion may lose without recorded consent.
    pub acceptable_loss_bytes: u64,
    /// How long one look at a server may take. A partitioned host costs this much of the recovery time.
    pub look_timeout: Span,
    /// Whether the health-check flip alone moves the names, or records and CDN are edited afterwards too.
    pub edit_records: bool,
}

fn one_person() -> u8 {
    1
}

/// A service that customers see, and how soon it must be back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Short name, used in checks, reports and metrics.
    pub service: String,
    /// The name that people use.
    pub title: String,
    /// Longest time that it may be away.
    pub rto: Span,
    /// Most data that it may lose.
    pub rpo: RecoveryPoint,
    /// How urgent it is.
    pub priority: Priority,
    /// Components without which it does not work.
    pub needs: Vec<String>,
    /// Those of them whose loss of data is its loss of data.
    pub data: Vec<String>,
}

/// A part of the infrastructure, its targets, and the mechanism that is meant to reach them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Short name, used in `needs`.
    pub name: String,
    /// The name that people use.
    pub title: String,
    /// Longest time that it may be away.
    pub rto: Span,
    /// Most data that it may lose.
    pub rpo: RecoveryPoint,
    /// How it is kept recoverable.
    pub mechanism: Mechanism,
    /// How long its recovery takes by that mechanism, as last measured or as its vendor states.
    pub recovers_in: Span,
    /// Asked in the secondary region: answers with 200 once the component works there. The database, the cluster, objects
    /// and images are looked at in other ways and need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Url>,
}

/// How a component is kept recoverable; what it can lose follows from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Mechanism {
    /// A PostgreSQL standby that streams, with a WAL archive behind it.
    StreamingReplication {
        /// `archive_timeout`: the most that the archive alone can lose. Off is unbounded.
        archive_timeout: Option<Span>,
    },
    /// Copies at intervals: what came after the last one is lost.
    Snapshots {
        /// Time between two.
        every: Span,
        /// Where they lie, which decides how soon they can be read.
        storage_class: StorageClass,
    },
    /// S3 replication of each object.
    CrossRegionReplication {
        /// S3 Replication Time Control: 99.99 % of objects within 15 minutes.
        time_control: bool,
    },
    /// Replication by the registry itself.
    RegistryReplication {
        /// Longest lag that was seen.
        lag: Span,
    },
    /// Manifests in a bundle, applied to a cluster that stands by.
    RenderedBundle {
        /// Time between two renderings.
        every: Span,
    },
    /// Nothing is kept: filled again from its source.
    Rebuild,
}

/// S3 storage classes, by how soon an object can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StorageClass {
    /// Milliseconds.
    Standard,
    /// Milliseconds.
    StandardIa,
    /// Milliseconds.
    GlacierIr,
    /// Three to five hours by standard retrieval.
    Glacier,
    /// Twelve hours and more.
    DeepArchive,
}

/// As S3 writes it.
impl fmt::Display for StorageClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StorageClass::Standard => "STANDARD",
            StorageClass::StandardIa => "STANDARD_IA",
            StorageClass::GlacierIr => "GLACIER_IR",
            StorageClass::Glacier => "GLACIER",
            StorageClass::DeepArchive => "DEEP_ARCHIVE",
        })
    }
}

impl StorageClass {
    /// Slowest standard retrieval, in seconds.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html>
    pub const fn retrieval_seconds(self) -> u64 {
        match self {
            StorageClass::Standard | StorageClass::StandardIa | StorageClass::GlacierIr => 0,
            StorageClass::Glacier => 5 * 3600,
            StorageClass::DeepArchive => 12 * 3600,
        }
    }

    /// Days that are paid for even if an object is deleted sooner.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html>
    pub const fn minimum_days(self) -> u32 {
        match self {
            StorageClass::Standard => 0,
            StorageClass::StandardIa => 30,
            StorageClass::GlacierIr | StorageClass::Glacier => 90,
            StorageClass::DeepArchive => 180,
        }
    }
}

/// Something that may happen, and what answers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short name, used in events: `data-center-failure`.
    pub name: String,
    /// The name that people use.
    pub title: String,
    /// What is lost.
    pub impact: String,
    /// What is done.
    pub recovery: String,
    /// The machine in `statemachines/` that does it.
    pub machine: String,
    /// Longest time until the platform works again.
    pub rto: Span,
}

/// Which API promotes the standby. Never inferred: the three differ in what a repeated or lost call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// `pg_promote` on a server that we run.
    SelfManaged,
    /// `PromoteReadReplica` of Amazon RDS.
    Rds,
    /// `FailoverGlobalCluster` or `SwitchoverGlobalCluster` of an Aurora global database.
    AuroraGlobal,
}

/// The database cluster and its standby.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgreSql {
    /// Which API promotes the standby.
    pub driver: Driver,
    /// The databases in the cluster.
    pub databases: Vec<String>,
    /// The database that holds the heartbeat, and in which writes are attempted.
    pub probe_database: String,
    /// Certificate authorities that servers are verified against, PEM, relative to the plan file.
    pub ca_file: String,
    /// Secrets Manager name, in the tertiary region, of the role that fences and promotes.
    pub recovery_secret: String,
    /// Secrets Manager name, in the tertiary region, of the role that services write with.
    pub application_secret: String,
    /// Aurora global cluster identifier, for the driver `aurora-global`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_cluster: Option<String>,
    /// The server that takes writes.
    pub primary: Server,
    /// The server that follows it.
    pub standby: Server,
}

/// One PostgreSQL server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// RDS instance identifier, Aurora cluster ARN or the server's own name; what people read in messages.
    pub instance: String,
    /// The name in its certificate.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The clusters of both regions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// Namespace of the platform.
    pub namespace: String,
    /// Label selector of the Deployments that write to the database. Agents, gateways and operators are not writers.
    pub writers: String,
    /// Key in the evidence bucket of the rendered manifests of the recovery overlay.
    pub bundle: String,
    /// The cluster of the primary region.
    pub primary: Cluster,
    /// The cluster of the secondary region.
    pub secondary: Cluster,
    /// The size that the secondary cluster needs to carry the platform.
    pub capacity: Capacity,
}

/// One EKS cluster. The endpoint is recorded here so that no control-plane call is needed to reach it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// EKS cluster name; also what its tokens are signed for.
    pub name: String,
    /// API server.
    pub endpoint: Url,
    /// Its certificate authority, PEM, relative to the plan file.
    pub ca_file: String,
}

/// Nodes that the secondary cluster needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Managed node group.
    pub node_group: String,
    /// Lower bound given to EKS.
    pub minimum: u32,
    /// Nodes asked for.
    pub desired: u32,
    /// Upper bound given to EKS together with `desired`, which the API refuses above it.
    pub maximum: u32,
    /// Share of the desired nodes with which workloads may start; the rest arrives behind them.
    pub enough_percent: u32,
}

/// A question that a recovered service must answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The objective that it speaks for.
    pub service: String,
    /// Asked in the secondary region directly, before names move.
    pub url: Url,
    /// Answers within this time.
    pub within: Span,
}

/// Names that customers use, and how they move.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Route 53 hosted zone.
    pub hosted_zone: String,
    /// What customers ask; answered from outside when names have moved.
    pub public_url: Url,
    /// Object in the switch bucket whose presence makes the primary's inverted health check fail.
    pub switch_key: String,
    /// Longest time that a resolver keeps the old answer, and health checkers need to agree.
    pub propagation: Span,
    /// Records that are edited afterwards, where the control plane answers.
    #[serde(default, rename = "record", skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Record>,
    /// The CDN whose origin is edited afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdn: Option<Cdn>,
}

/// A record that is pointed at the secondary region once the platform is back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Fully qualified name.
    pub name: String,
    /// `CNAME`, `A` or `AAAA`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds that resolvers keep it.
    pub ttl_seconds: u32,
    /// What it points at in the secondary region.
    pub secondary_value: String,
}

/// A CloudFront distribution and the origin it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cdn {
    /// Distribution identifier.
    pub distribution: String,
    /// Origin identifier inside the distribution.
    pub origin: String,
    /// Domain name of the origin in the secondary region.
    pub secondary_domain: String,
}

/// Buckets by purpose.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buckets {
    /// Tertiary region: fence and lease, positions, notices, reports.
    pub evidence: String,
    /// Tertiary region: the object that inverted health checks watch.
    pub switch: String,
    /// Tertiary region: backups under Object Lock.
    pub backups: String,
    /// Archived write-ahead log.
    pub wal_archive: String,
    /// Customers' video.
    pub videos: String,
    /// Its copy.
    pub videos_replica: String,
    /// Id of the rule that copies it, whose metrics are read where replication time control is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub videos_rule: Option<String>,
}

/// Who hears of it, and the links that every message carries.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// Where people meet.
    pub war_room: Url,
    /// What customers read.
    pub status_page: Url,
    /// How often people hear something even when nothing has changed.
    pub update_every: Span,
    /// One SNS topic per priority, with the people behind it.
    #[serde(rename = "level")]
    pub levels: Vec<Level>,
}

/// The chain of one priority.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Which priority.
    pub priority: Priority,
    /// SNS topic in the tertiary region.
    pub topic_arn: String,
    /// People, in the order in which they are told.
    #[serde(rename = "contact")]
    pub contacts: Vec<Contact>,
}

/// One person or rota.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// Role, not a name: people change.
    pub role: String,
    /// How they are reached, in order.
    pub methods: Vec<Method>,
    /// How long after the start; zero is at once.
    pub after: Span,
}

/// How a person is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A call.
    Phone,
    /// A text message.
    Sms,
    /// Mail.
    Email,
    /// A chat channel.
    Slack,
    /// A pager.
    Pagerduty,
}

/// A contradiction that somebody has looked at and lives with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The contradiction's name as `drctl plan check` prints it.
    pub contradiction: String,
    /// Why it is acceptable.
    pub because: String,
}

/// The plan cannot be used: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}:{column}: {problem}")]
pub struct PlanError {
    /// The file as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Plan {
    /// Reads and validates a plan.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and column.
    pub fn parse(file: &str, text: &str) -> Result<Plan, PlanError> {
        let at = |offset: usize, problem: String| error_at(file, text, offset, problem);
        let plan: Plan = toml::from_str(text).map_err(|error| {
            let problem = error.message().lines().collect::<Vec<_>>().join("; ");
            at(error.span().map_or(0, |span| span.start), problem)
        })?;
        match plan.first_problem() {
            None => Ok(plan),
            Some(Problem { path, text: problem }) => Err(at(locate(text, &path), problem)),
        }
    }

    /// Reads a plan from a file.
    ///
    /// # Errors
    /// The file cannot be read, or [`Plan::parse`] refuses it.
    pub fn read(path: &Path) -> Result<Plan, PlanError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| PlanError {
            file: file.clone(),
            line: 1,
            column: 1,
            problem: format!("cannot be read ({error}); name a plan with --plan, for example plans/sparc.toml"),
        })?;
        Plan::parse(&file, &text)
    }

    /// The objective of a service.
    pub fn objective(&self, service: &str) -> Option<&Objective> {
        self.objectives.iter().find(|o| o.service == service)
    }

    /// The component of a name.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|c| c.name == name)
    }

    /// The chain of a priority.
    pub fn level(&self, priority: Priority) -> Option<&Level> {
        self.notification.levels.iter().find(|l| l.priority == priority)
    }

    fn first_problem(&self) -> Option<Problem> {
        let problem = |path: &[&dyn fmt::Display], text: String| {
            Some(Problem { path: path.iter().map(ToString::to_string).collect(), text })
        };
        let Regions { primary, secondary, tertiary } = &self.regions;
        if primary == secondary {
            return problem(
                &[&"regions", &"secondary"],
                format!("the secondary region is the primary region `{primary}`; name another one"),
            );
        }
        if tertiary == primary || tertiary == secondary {
            return problem(
                &[&"regions", &"tertiary"],
                format!("the tertiary region `{tertiary}` is lost together with one of the others; name a third one"),
            );
        }
        if !(1..=5).contains(&self.failover.approvals) {
            let asked = self.failover.approvals;
            return problem(
                &[&"failover", &"approvals"],
                format!("{asked} people cannot be asked in a night; ask for 1 to 5"),
            );
        }
        if self.failover.approvals > 1 && self.failover.approval == Approval::Automatic {
            return problem(
                &[&"failover", &"approvals"],
                "nobody is asked when approval is \"automatic\"; make it \"required\" or leave approvals out"
                    .to_owned(),
            );
        }
        let components: BTreeSet<&str> = self.components.iter().map(|c| c.name.as_str()).collect();
        for (i, component) in self.components.iter().enumerate() {
            if self.components[..i].iter().any(|other| other.name == component.name) {
                return problem(
                    &[&"component", &i, &"name"],
                    format!("component `{}` is named twice; keep one", component.name),
                );
            }
        }
        for (i, objective) in self.objectives.iter().enumerate() {
            if self.objectives[..i].iter().any(|other| other.service == objective.service) {
                return problem(
                    &[&"objective", &i, &"service"],
                    format!("service `{}` has two objectives; keep one", objective.service),
                );
            }
            for (list, names) in [("needs", &objective.needs), ("data", &objective.data)] {
                if let Some(unknown) = names.iter().find(|name| !components.contains(name.as_str())) {
                    return problem(
                        &[&"objective", &i, &list],
                        format!(
                            "`{}` needs `{unknown}`, which is no component; add a [[component]] or correct the name",
                            objective.service
                        ),
                    );
                }
            }
            if !self.checks.iter().any(|check| check.service == objective.service) {
                return problem(
                    &[&"objective", &i, &"service"],
                    format!("nothing asks whether `{}` works; add a [[check]] with this service", objective.service),
                );
            }
        }
        for (i, check) in self.checks.iter().enumerate() {
            if self.objective(&check.service).is_none() {
                return problem(
                    &[&"check", &i, &"service"],
                    format!(
                        "the check speaks for `{}`, which has no [[objective]]; add one or correct the name",
                        check.service
                    ),
                );
            }
        }
        let postgresql = &self.postgresql;
        if !postgresql.databases.contains(&postgresql.probe_database) {
            return problem(
                &[&"postgresql", &"probe_database"],
                format!("`{}` is not among the databases of the cluster; name one of them", postgresql.probe_database),
            );
        }
        if postgresql.driver == Driver::AuroraGlobal && postgresql.global_cluster.is_none() {
            return problem(
                &[&"postgresql", &"driver"],
                "the driver `aurora-global` needs the global cluster; add global_cluster = \"…\"".to_owned(),
            );
        }
        let same_server =
            (&postgresql.primary.host, postgresql.primary.port) == (&postgresql.standby.host, postgresql.standby.port);
        if same_server {
            return problem(
                &[&"postgresql", &"standby", &"host"],
                "the standby is the primary; name the server that follows it".to_owned(),
            );
        }
        let capacity = &self.kubernetes.capacity;
        if !(capacity.minimum <= capacity.desired && capacity.desired <= capacity.maximum && capacity.desired > 0) {
            return problem(
                &[&"kubernetes", &"capacity", &"desired"],
                format!(
                    "desired = {} is not between minimum = {} and maximum = {}; EKS refuses that, raise the maximum",
                    capacity.desired, capacity.minimum, capacity.maximum
                ),
            );
        }
        if !(1..=100).contains(&capacity.enough_percent) {
            return problem(
                &[&"kubernetes", &"capacity", &"enough_percent"],
                "a share is between 1 and 100 percent".to_owned(),
            );
        }
        for priority in [Priority::P0, Priority::P1, Priority::P2] {
            let people = self.level(priority).map_or(0, |level| level.contacts.len());
            if people == 0 {
                return problem(
                    &[&"notification", &"level"],
                    format!("nobody is told at {priority:?}; add a [[notification.level]] with at least one contact"),
                );
            }
        }
        for (i, level) in self.notification.levels.iter().enumerate() {
            let region = level.topic_arn.split(':').nth(3).unwrap_or_default();
            if region != tertiary.code() {
                return problem(
                    &[&"notification", &"level", &i, &"topic_arn"],
                    format!(
                        "`{}` is not an SNS topic in the tertiary region `{tertiary}`; messages must not depend on a region that may be lost",
                        level.topic_arn
                    ),
                );
            }
        }
        let (path, text) = self.backups.first_problem(self)?;
        Some(Problem { path, text })
    }
}

/// A problem with the value at `path` of a plan.
pub(crate) fn problem_at(file: &str, text: &str, path: &[String], problem: String) -> PlanError {
    error_at(file, text, locate(text, path), problem)
}

fn error_at(file: &str, text: &str, offset: usize, problem: String) -> PlanError {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    PlanError {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        problem,
    }
}

struct Problem {
    path: Vec<String>,
    text: String,
}

/// Byte offset of the value at `path`, or of the deepest part of it that is there.
fn locate(text: &str, path: &[String]) -> usize {
    let Ok(root) = toml::de::DeTable::parse(text) else { return 0 };
    let mut offset = 0;
    let mut here: Option<&toml::de::DeValue<'_>> = None;
    for (depth, key) in path.iter().enumerate() {
        let next = match (depth, here) {
            (0, _) => root.get_ref().get(key.as_str()),
            (_, Some(toml::de::DeValue::Table(table))) => table.get(key.as_str()),
            (_, Some(toml::de::DeValue::Array(array))) => key.parse().ok().and_then(|i: usize| array.get(i)),
            _ => None,
        };
        let Some(value) = next else { break };
        offset = value.span().start;
        here = Some(value.get_ref());
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPARC: &str = include_str!("../../../plans/sparc.toml");

    #[test]
    fn the_plan_of_the_platform_is_valid_and_survives_being_written() {
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        let written = toml::to_string(&plan).unwrap();
        let again = Plan::parse("written", &written).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), written);
    }

    #[test]
    fn several_people_are_not_asked_by_a_plan_that_asks_nobody() {
        let text = SPARC.replacen("approval = \"required\"", "approval = \"automatic\"", 1);
        let error = Plan::parse("p.toml", &text.replacen("approvals = 1", "approvals = 2", 1)).unwrap_err().to_string();
        assert!(error.contains("nobody is asked when approval is \"automatic\""), "{error}");
        assert!(Plan::parse("p.toml", &text).is_ok());
    }

    #[test]
    fn a_wrong_plan_is_refused_with_its_line_and_what_to_do() {
        let situations = [
            ("secondary = \"us-west-2\"", "secondary = \"us-esat\"", "`us-esat` is not an AWS Region"),
            ("secondary = \"us-west-2\"", "secondary = \"us-east-1\"", "the secondary region is the primary region"),
            ("approval = \"required\"", "aproval = \"required\"", "unknown field `aproval`"),
            ("approvals = 1", "approvals = 0", "0 people cannot be asked"),
            ("rto = \"15 min\"", "rto = \"soon\"", "`soon` is not a length of time"),
            ("desired = 50", "desired = 70", "desired = 70 is not between"),
            ("needs = [\"postgresql\", \"redis\"", "needs = [\"mysql\", \"redis\"", "`core-apis` needs `mysql`"),
            (
                "topic_arn = \"arn:aws:sns:eu-west-1:111122223333:sparc-recovery-p1",
                "topic_arn = \"arn:aws:sns:us-east-1:1:p1",
                "is not an SNS topic in the tertiary region",
            ),
            (
                "kms_key = \"arn:aws:kms:eu-west-1:",
                "kms_key = \"arn:aws:kms:us-east-1:",
                "is not a KMS key of the tertiary region `eu-west-1`",
            ),
            ("backup-trigger@sha256:", "backup-trigger:latest-", "does not name an image by its digest"),
            ("namespace = \"sparc-recovery\"", "namespace = \"Recovery\"", "`Recovery` is no name of Kubernetes"),
            ("kind = \"closure\"", "kind = 'cluster'", "is planned twice"),
            ("retention_days = 30", "retention_days = 0", "kept for 0 days"),
            ("proven_to = \"present\"", "proven_to = \"digests\"", "RDS lets nobody read a snapshot"),
            ("recovers = \"kubernetes\"", "recovers = \"kubernets\"", "which is no component; perhaps `kubernetes`"),
            ("name = \"sparc_prod\"", "name = \"sparc_prd\"", "which is no database of the cluster"),
            ("proven_to = \"structure\"", "proven_to = \"structur\"", "unknown variant `structur`"),
            ("namespaces = [\"*\"]", "namespaces = []", "a backup of no namespace is none"),
            (
                "cluster_resources = true",
                "volume = [{ namespace = \"kube-system\", claim = \"a\" }, { namespace = \"kube-system\", claim = \"a\" }]",
                "is named twice",
            ),
        ];
        for (right, wrong, expected) in situations {
            assert!(SPARC.contains(right), "{right}");
            let text = SPARC.replacen(right, wrong, 1);
            let line = text.lines().position(|line| line.contains(wrong)).unwrap() + 1;
            let error = Plan::parse("p.toml", &text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("p.toml:{line}:")) && error.contains(expected), "line {line}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
