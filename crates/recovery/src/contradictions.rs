//! Where the plan promises what its mechanisms cannot keep.
//!
//! An objective is a promise, a mechanism is what is there. Each rule here is a comparison of two figures of the plan, or
//! of a figure and a bound that a vendor states; the result has a stable name, both figures, and what to change. Nothing is
//! measured and nothing is asked: this is arithmetic that can be done on a quiet day.
//!
//! A contradiction that somebody has looked at can be accepted in the plan, by name and with a reason; an acceptance of
//! something that is no contradiction (any more) is an error, so that reasons do not outlive what they explain.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use crate::{
    backup::{Kind, Policy, Rung},
    objective::{Priority, RecoveryPoint, Span, human_seconds},
    plan::{Component, Driver, Mechanism, Objective, Plan, PlanError, problem_at},
    report::mechanism_in_words,
    spelling::nearest,
};

/// S3's service level for replication time control: 99.99 % of objects within 15 minutes.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/replication-time-control.html>
const REPLICATION_TIME_CONTROL: f64 = 15.0 * 60.0;

/// RDS ships the write-ahead log to S3 every five minutes, whatever `archive_timeout` somebody wishes for.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_PIT.html>
const RDS_ARCHIVE: f64 = 5.0 * 60.0;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The promise cannot be kept.
    Contradiction,
    /// It may be, but somebody should look.
    Warning,
}

/// One promise that a mechanism cannot keep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contradiction {
    /// Stable name, for `[[accepted]]`: `rto:core-apis:kubernetes`.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// The two sides in one sentence.
    pub says: String,
    /// The promise in seconds.
    pub promised_seconds: Option<f64>,
    /// What the other side gives in seconds; absent if it gives no bound.
    pub possible_seconds: Option<f64>,
    /// What to change.
    pub change: String,
}

/// A contradiction that somebody lives with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AcceptedContradiction {
    /// What.
    #[serde(flatten)]
    pub contradiction: Contradiction,
    /// Why it is acceptable, in the plan's words.
    pub because: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Findings {
    /// Contradictions that nobody has accepted.
    pub open: Vec<Contradiction>,
    /// Contradictions that somebody lives with.
    pub accepted: Vec<AcceptedContradiction>,
    /// What somebody should look at.
    pub warnings: Vec<Contradiction>,
}

/// Compares a plan with itself. `text` is what it was parsed from, for lines and columns; `machines` are the names of the
/// machines that exist, where somebody knows them.
///
/// # Errors
/// An entry of `[[accepted]]` names no contradiction.
pub fn check(file: &str, text: &str, plan: &Plan, machines: Option<&[String]>) -> Result<Findings, PlanError> {
    let mut found = Found::default();
    service_times(plan, &mut found);
    service_losses(plan, &mut found);
    components(plan, &mut found);
    scenarios(plan, machines, &mut found);
    policy(plan, &mut found);
    names(plan, &mut found);
    places(plan, &mut found);
    backups(plan, &mut found);
    sort(file, text, plan, found.0)
}

fn sort(file: &str, text: &str, plan: &Plan, found: Vec<Contradiction>) -> Result<Findings, PlanError> {
    for (i, accepted) in plan.accepted.iter().enumerate() {
        let problem = if !found.iter().any(|one| one.name == accepted.contradiction) {
            let names: BTreeSet<&str> = found.iter().map(|one| one.name.as_str()).collect();
            let hint = nearest(&accepted.contradiction, names.into_iter())
                .map_or_else(|| "remove the entry".to_owned(), |name| format!("remove the entry, or name `{name}`"));
            format!("`{}` is no contradiction of this plan; {hint}", accepted.contradiction)
        } else if plan.accepted[..i].iter().any(|other| other.contradiction == accepted.contradiction) {
            format!("`{}` is accepted twice; keep one", accepted.contradiction)
        } else if accepted.because.trim().is_empty() {
            format!("`{}` is accepted without a reason; say why in `because`", accepted.contradiction)
        } else {
            continue;
        };
        return Err(problem_at(file, text, &["accepted".into(), i.to_string(), "contradiction".into()], problem));
    }
    let mut findings = Findings::default();
    for one in found {
        match plan.accepted.iter().find(|accepted| accepted.contradiction == one.name) {
            Some(accepted) => {
                findings.accepted.push(AcceptedContradiction { contradiction: one, because: accepted.because.clone() })
            }
            None if one.severity == Severity::Warning => findings.warnings.push(one),
            None => findings.open.push(one),
        }
    }
    Ok(findings)
}

#[derive(Default)]
struct Found(Vec<Contradiction>);

impl Found {
    fn add(
        &mut self,
        severity: Severity,
        name: String,
        figures: (Option<f64>, Option<f64>),
        says: String,
        change: &str,
    ) {
        self.0.push(Contradiction {
            name,
            severity,
            says,
            promised_seconds: figures.0,
            possible_seconds: figures.1,
            change: change.to_owned(),
        });
    }

    fn contradiction(&mut self, name: String, promised: f64, possible: Option<f64>, says: String, change: &str) {
        self.add(Severity::Contradiction, name, (Some(promised), possible), says, change);
    }

    fn warning(&mut self, name: String, says: String, change: &str) {
        self.add(Severity::Warning, name, (None, None), says, change);
    }
}

fn needed<'a>(plan: &'a Plan, names: &'a [String]) -> impl Iterator<Item = &'a Component> {
    names.iter().filter_map(|name| plan.component(name))
}

/// A service cannot be back before what it needs.
fn service_times(plan: &Plan, found: &mut Found) {
    for objective in &plan.objectives {
        let Objective { service, rto, needs, .. } = objective;
        for component in needed(plan, needs) {
            if component.rto > *rto {
                found.contradiction(
                    format!("rto:{service}:{}", component.name),
                    rto.seconds(),
                    Some(component.rto.seconds()),
                    format!(
                        "`{service}` must be back in {rto}, but needs `{}`, whose own target is {} (its recovery is said to take {})",
                        component.name, component.rto, component.recovers_in
                    ),
                    &format!("lower the target of `{}` to {rto}, or raise the objective of `{service}`", component.name),
                );
            }
            if component.recovers_in > *rto {
                found.contradiction(
                    format!("recovers-in:{service}:{}", component.name),
                    rto.seconds(),
                    Some(component.recovers_in.seconds()),
                    format!(
                        "`{service}` must be back in {rto}, but the recovery of `{}` takes {}",
                        component.name, component.recovers_in
                    ),
                    &format!("make `{}` recover faster, or raise the objective of `{service}`", component.name),
                );
            }
        }
        // Components recover beside each other; customers come when the slowest is there and names have moved.
        let slowest = needed(plan, needs).max_by_key(|component| component.recovers_in);
        let Some(slowest) = slowest.filter(|component| component.recovers_in <= *rto) else { continue };
        let path = slowest.recovers_in.seconds() + plan.names.propagation.seconds();
        if path > rto.seconds() {
            found.contradiction(
                format!("propagation:{service}"),
                rto.seconds(),
                Some(path),
                format!(
                    "`{service}` must be back in {rto}, but `{}` recovers in {} and names take another {}",
                    slowest.name, slowest.recovers_in, plan.names.propagation
                ),
                &format!(
                    "shorten `names.propagation` (TTL and health checks), or make `{}` recover faster",
                    slowest.name
                ),
            );
        }
    }
}

/// A service cannot lose less than the parts that keep its data.
fn service_losses(plan: &Plan, found: &mut Found) {
    for objective in &plan.objectives {
        let Objective { service, rpo, data, .. } = objective;
        let Some(promised) = rpo.seconds() else { continue };
        if data.is_empty() {
            found.contradiction(
                format!("rpo:{service}"),
                promised,
                None,
                format!("`{service}` may lose {}, but no component keeps its data: nothing replicates it, nothing measures it", may_lose(*rpo)),
                &format!("name in `data` what keeps the data of `{service}`, or write rpo = \"rebuilt\" if there is none"),
            );
        }
        for component in needed(plan, data) {
            let target = component.rpo.seconds().unwrap_or(0.0);
            if target > promised {
                found.contradiction(
                    format!("rpo:{service}:{}", component.name),
                    promised,
                    Some(target),
                    format!(
                        "`{service}` may lose {}, but its data is in `{}`, which may lose {}",
                        may_lose(*rpo),
                        component.name,
                        may_lose(component.rpo)
                    ),
                    &format!("lower the rpo of `{}` to {rpo}, or raise that of `{service}`", component.name),
                );
            }
            let exposure = exposure(plan, component);
            // The component's own promise is broken already: said once, there.
            if exposure.exceeds(promised) && !exposure.exceeds(target) {
                found.contradiction(
                    format!("exposure:{service}:{}", component.name),
                    promised,
                    exposure.0,
                    format!(
                        "`{service}` may lose {}, but {} ({}) can lose {exposure}",
                        may_lose(*rpo),
                        quoted(&component.name),
                        mechanism_in_words(&component.mechanism)
                    ),
                    exposure_change(&component.mechanism),
                );
            }
        }
    }
}

fn quoted(name: &str) -> String {
    format!("`{name}`")
}

fn may_lose(rpo: RecoveryPoint) -> String {
    match rpo {
        RecoveryPoint::Within(span) => format!("at most {span}"),
        RecoveryPoint::RealTime => "nothing (real-time)".to_owned(),
        RecoveryPoint::Rebuilt => "everything (rebuilt)".to_owned(),
    }
}

/// The most that a mechanism can lose, in seconds; `None` is without bound.
#[derive(Clone, Copy)]
struct Exposure(Option<f64>);

impl Exposure {
    fn exceeds(self, promised: f64) -> bool {
        self.0.is_none_or(|seconds| seconds > promised)
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(seconds) => f.write_str(&human_seconds(seconds)),
            None => f.write_str("any amount"),
        }
    }
}

fn exposure(plan: &Plan, component: &Component) -> Exposure {
    Exposure(match &component.mechanism {
        // While the stream flows the loss is its lag; when it has broken, only the archive bounds it.
        Mechanism::StreamingReplication { archive_timeout } => match plan.postgresql.driver {
            Driver::Rds => archive_timeout.map(|span| span.seconds().max(RDS_ARCHIVE)),
            Driver::SelfManaged | Driver::AuroraGlobal => archive_timeout.map(Span::seconds),
        },
        Mechanism::Snapshots { every, .. } | Mechanism::RenderedBundle { every } => Some(every.seconds()),
        Mechanism::CrossRegionReplication { time_control: true } => Some(REPLICATION_TIME_CONTROL),
        Mechanism::CrossRegionReplication { time_control: false } | Mechanism::Rebuild => None,
        Mechanism::RegistryReplication { lag } => Some(lag.seconds()),
    })
}

fn exposure_change(mechanism: &Mechanism) -> &'static str {
    match mechanism {
        Mechanism::StreamingReplication { archive_timeout: None } => {
            "set `archive_timeout`, so that a broken stream has a bound"
        }
        Mechanism::StreamingReplication { .. } => "shorten `archive_timeout`, or raise the rpo",
        Mechanism::Snapshots { .. } => "replicate continuously or take snapshots more often, or raise the rpo",
        Mechanism::CrossRegionReplication { time_control: false } => {
            "turn on S3 Replication Time Control; without it replication has no bound"
        }
        Mechanism::CrossRegionReplication { .. } => "write to both regions, or raise the rpo to 15 min",
        Mechanism::RegistryReplication { .. } => "push images to both registries, or raise the rpo",
        Mechanism::RenderedBundle { .. } => "render the bundle more often, or on every change",
        Mechanism::Rebuild => "keep the data somewhere, or write rpo = \"rebuilt\"",
    }
}

/// A component cannot lose less, or be back sooner, than its mechanism allows.
fn components(plan: &Plan, found: &mut Found) {
    for component in &plan.components {
        let Component { name, rto, rpo, mechanism, recovers_in, .. } = component;
        if recovers_in > rto {
            found.contradiction(
                format!("recovers-in:{name}"),
                rto.seconds(),
                Some(recovers_in.seconds()),
                format!("`{name}` must be back in {rto}, but its recovery takes {recovers_in}"),
                &format!("make `{name}` recover faster, or raise its target"),
            );
        }
        if let Some(promised) = rpo.seconds() {
            let exposure = exposure(plan, component);
            if exposure.exceeds(promised) {
                found.contradiction(
                    format!("rpo:{name}"),
                    promised,
                    exposure.0,
                    format!(
                        "`{name}` may lose {}, but {} can lose {exposure}",
                        may_lose(*rpo),
                        mechanism_in_words(mechanism)
                    ),
                    exposure_change(mechanism),
                );
            }
        }
        if let Mechanism::Snapshots { storage_class, .. } = mechanism {
            let retrieval = storage_class.retrieval_seconds() as f64;
            if retrieval > rto.seconds() {
                found.contradiction(
                    format!("retrieval:{name}"),
                    rto.seconds(),
                    Some(retrieval),
                    format!(
                        "`{name}` must be back in {rto}, but reading from {} takes up to {}",
                        storage_class,
                        human_seconds(retrieval)
                    ),
                    "keep the newest snapshots in GLACIER_IR or STANDARD_IA",
                );
            }
        }
        if let (Mechanism::StreamingReplication { archive_timeout: Some(wished) }, Driver::Rds) =
            (mechanism, plan.postgresql.driver)
            && wished.seconds() < RDS_ARCHIVE
        {
            found.warning(
                format!("archive:{name}"),
                format!(
                    "`archive_timeout` of `{name}` is {wished}, but RDS ships its log every 5 min whatever is asked for"
                ),
                "write archive_timeout = \"5 min\", which is what protects a standby that lost its stream",
            );
        }
    }
}

/// A backup must be there, proven and readable while it can still help, and be of a kind that the driver allows.
fn backups(plan: &Plan, found: &mut Found) {
    for policy in &plan.backups.policies {
        let Policy { kind, every, fresh_within, proven_within, retention_days, storage_class, recovers, .. } = policy;
        let Some(component) = plan.component(recovers) else { continue };
        let retrieval = storage_class.retrieval_seconds() as f64;
        if retrieval > component.rto.seconds() {
            found.contradiction(
                format!("retrieval:{recovers}:{kind}"),
                component.rto.seconds(),
                Some(retrieval),
                format!(
                    "`{recovers}` must be back in {}, but reading its {kind} backup from {} takes up to {}",
                    component.rto,
                    storage_class,
                    human_seconds(retrieval)
                ),
                "keep backups in GLACIER_IR or STANDARD_IA while they are the ones to restore from",
            );
        }
        if *kind == Kind::Wal {
            log(plan, policy, component, found);
        }
        if every > fresh_within {
            found.contradiction(
                format!("fresh:{kind}"),
                fresh_within.seconds(),
                Some(every.seconds()),
                format!("a {kind} backup must be younger than {fresh_within}, but one is taken every {every}"),
                "take it more often, or raise `fresh_within` above `every`",
            );
        }
        if every > proven_within {
            found.contradiction(
                format!("proven:{kind}"),
                proven_within.seconds(),
                Some(every.seconds()),
                format!("a {kind} backup must be proven within {proven_within}, but one is taken every {every}"),
                "take it more often, or raise `proven_within` above `every`",
            );
        }
        let kept = f64::from(*retention_days) * 86_400.0;
        if proven_within.seconds() > kept {
            found.contradiction(
                format!("retention:{kind}"),
                proven_within.seconds(),
                Some(kept),
                format!("a {kind} backup counts as proven for {proven_within}, but is kept for {retention_days} days"),
                "raise `retention_days`, or lower `proven_within`",
            );
        }
        let driver = plan.postgresql.driver;
        let impossible = match (kind, driver) {
            (Kind::Snapshot, Driver::SelfManaged) => Some("a server that we run has no snapshots of RDS"),
            (Kind::Physical, Driver::Rds | Driver::AuroraGlobal) => Some("RDS lets nobody in who could copy files"),
            (
                Kind::Snapshot
                | Kind::Logical
                | Kind::Physical
                | Kind::Wal
                | Kind::Cluster
                | Kind::Objects
                | Kind::Registry
                | Kind::Closure,
                _,
            ) => None,
        };
        if let Some(why) = impossible {
            found.add(
                Severity::Contradiction,
                format!("driver:{kind}"),
                (None, None),
                format!("a {kind} backup is planned, but {why}"),
                "take another kind of backup, or change `postgresql.driver`",
            );
        }
        if *retention_days < storage_class.minimum_days() {
            found.warning(
                format!("minimum:{kind}"),
                format!(
                    "a {kind} backup is kept for {retention_days} days in {}, which is paid for {} days",
                    storage_class,
                    storage_class.minimum_days()
                ),
                "keep it longer, or in a class without that minimum",
            );
        }
    }
    if let [first, rest @ ..] = plan.backups.cluster.volumes.as_slice() {
        let others = if rest.is_empty() { String::new() } else { format!(" and {} others", rest.len()) };
        found.warning(
            "volumes:region".to_owned(),
            format!(
                "the snapshots of `{}`{others} lie in {}, where their storage is, and are lost with it",
                first.claim, plan.regions.primary
            ),
            "have the storage copy them to another region (for EBS: Data Lifecycle Manager), and accept this with that reason",
        );
    }
}

/// The most days that RDS keeps what a restore to a moment needs.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_WorkingWithAutomatedBackups.BackupRetention.html>
const RDS_RETENTION_DAYS: u32 = 35;

/// The log must reach as close to now as may be lost, from a backup that it can be played onto.
fn log(plan: &Plan, policy: &Policy, component: &Component, found: &mut Found) {
    let Policy { every, fresh_within, proven_to, retention_days, .. } = policy;
    let name = &component.name;
    let ours = plan.postgresql.driver == Driver::SelfManaged;
    if let Some(promised) = component.rpo.seconds() {
        if every.seconds() > promised {
            found.contradiction(
                format!("rpo:{name}:wal"),
                promised,
                Some(every.seconds()),
                format!("`{name}` may lose {}, but its log is to be kept every {every}", may_lose(component.rpo)),
                "keep the log more often, or raise the rpo",
            );
        } else if fresh_within.seconds() > promised + every.seconds() {
            found.warning(
                format!("fresh:{name}:wal"),
                format!(
                    "`{name}` may lose {}, but nobody is told before its log lies {fresh_within} behind",
                    may_lose(component.rpo)
                ),
                "lower `fresh_within` to the rpo and one `every` more",
            );
        }
    }
    if ours {
        let timeout = match component.mechanism {
            Mechanism::StreamingReplication { archive_timeout } => archive_timeout,
            _ => None,
        };
        if timeout.is_none_or(|timeout| timeout > *every) {
            let bound = timeout.map_or("nothing".to_owned(), |timeout| timeout.to_string());
            found.contradiction(
                "archive:wal".to_owned(),
                every.seconds(),
                timeout.map(Span::seconds),
                format!(
                    "a segment of the log is to be archived every {every}, but `archive_timeout` of `{name}` is {bound}"
                ),
                "set `archive_timeout` to what the policy's `every` says",
            );
        }
        match plan.backups.policy(Kind::Physical) {
            None => found.contradiction(
                "base:wal".to_owned(),
                every.seconds(),
                None,
                "the log is archived, but no base backup is planned that it could be played onto".to_owned(),
                "add a [[backups.policy]] of kind \"physical\"",
            ),
            Some(base) if base.retention_days > *retention_days => found.warning(
                "retention:wal".to_owned(),
                format!(
                    "base backups are kept for {} days, but the log that leads on from them for {retention_days}",
                    base.retention_days
                ),
                "keep both as long",
            ),
            Some(_) => {}
        }
        return;
    }
    if *proven_to > Rung::Present {
        found.contradiction(
            "proven-to:wal".to_owned(),
            policy.proven_within.seconds(),
            None,
            format!("the log is to be proven to `{proven_to}`, but RDS lets nobody read it"),
            "write proven_to = \"present\"; more is proven by restoring to a moment",
        );
    }
    if every.seconds() < RDS_ARCHIVE {
        found.warning(
            "archive:wal".to_owned(),
            format!("the log is to be kept every {every}, but RDS ships it every 5 min whatever is asked for"),
            "write every = \"5 min\"",
        );
    }
    if *retention_days > RDS_RETENTION_DAYS {
        found.contradiction(
            "retention:wal".to_owned(),
            f64::from(*retention_days) * 86_400.0,
            Some(f64::from(RDS_RETENTION_DAYS) * 86_400.0),
            format!(
                "the log is to be kept for {retention_days} days, but RDS keeps it for {RDS_RETENTION_DAYS} at most"
            ),
            "keep it for fewer days, or take snapshots that are kept longer",
        );
    }
}

/// A scenario cannot allow more than its services do, or be answered by what is not there.
fn scenarios(plan: &Plan, machines: Option<&[String]>, found: &mut Found) {
    let urgent: Vec<&Objective> =
        plan.objectives.iter().filter(|objective| objective.priority == Priority::P0).collect();
    let needed_by_urgent: BTreeSet<&str> =
        urgent.iter().flat_map(|objective| objective.needs.iter().map(String::as_str)).collect();
    for scenario in &plan.scenarios {
        let sooner: Vec<&&Objective> = urgent.iter().filter(|objective| objective.rto < scenario.rto).collect();
        if let Some(tightest) = sooner.iter().min_by_key(|objective| objective.rto) {
            let services: Vec<String> = sooner.iter().map(|o| format!("`{}` ({})", o.service, o.rto)).collect();
            found.contradiction(
                format!("scenario:{}", scenario.name),
                tightest.rto.seconds(),
                Some(scenario.rto.seconds()),
                format!(
                    "the scenario `{}` allows {}, but P0 services must be back sooner: {}",
                    scenario.name,
                    scenario.rto,
                    services.join(", ")
                ),
                "lower the scenario's rto, or say that the services' objectives do not hold in it",
            );
        }
        for component in plan.components.iter().filter(|c| needed_by_urgent.contains(c.name.as_str())) {
            if component.rto > scenario.rto {
                found.contradiction(
                    format!("scenario:{}:{}", scenario.name, component.name),
                    scenario.rto.seconds(),
                    Some(component.rto.seconds()),
                    format!(
                        "the scenario `{}` allows {}, but P0 services need `{}`, whose own target is {} (its recovery is said to take {})",
                        scenario.name, scenario.rto, component.name, component.rto, component.recovers_in
                    ),
                    &format!("lower the target of `{}`, or raise the scenario's rto", component.name),
                );
            }
        }
        if machines.is_some_and(|known| !known.contains(&scenario.machine)) {
            found.add(
                Severity::Contradiction,
                format!("machine:{}", scenario.name),
                (Some(scenario.rto.seconds()), None),
                format!(
                    "the scenario `{}` allows {}, but the machine `{}` that answers it does not exist",
                    scenario.name, scenario.rto, scenario.machine
                ),
                &format!("add statemachines/{}.asl.json, or name a machine that exists", scenario.machine),
            );
        }
    }
}

/// What may be lost without asking cannot be more than the promise.
fn policy(plan: &Plan, found: &mut Found) {
    let accepted = plan.failover.acceptable_loss;
    let databases: Vec<&str> = plan
        .components
        .iter()
        .filter(|component| matches!(component.mechanism, Mechanism::StreamingReplication { .. }))
        .map(|component| component.name.as_str())
        .collect();
    for objective in &plan.objectives {
        let Some(promised) = objective.rpo.seconds() else { continue };
        let in_database = objective.data.iter().any(|name| databases.contains(&name.as_str()));
        if in_database && accepted.seconds() > promised {
            found.contradiction(
                format!("acceptable-loss:{}", objective.service),
                promised,
                Some(accepted.seconds()),
                format!(
                    "`{}` may lose {}, but a failover may lose {accepted} without asking anybody",
                    objective.service,
                    may_lose(objective.rpo)
                ),
                "lower `failover.acceptable_loss`; more needs recorded consent",
            );
        }
    }
}

/// Names cannot move faster than resolvers forget.
fn names(plan: &Plan, found: &mut Found) {
    for record in &plan.names.records {
        let ttl = f64::from(record.ttl_seconds);
        if ttl > plan.names.propagation.seconds() {
            found.contradiction(
                format!("ttl:{}", record.name),
                plan.names.propagation.seconds(),
                Some(ttl),
                format!(
                    "names are said to move in {}, but resolvers keep `{}` for {}",
                    plan.names.propagation,
                    record.name,
                    human_seconds(ttl)
                ),
                "lower `ttl_seconds`, or raise `names.propagation`",
            );
        }
    }
}

/// Nothing that recovers may stand in the region that is lost, and regions must exist.
fn places(plan: &Plan, found: &mut Found) {
    let regions = [&plan.regions.primary, &plan.regions.secondary, &plan.regions.tertiary];
    for (role, region) in ["primary", "secondary", "tertiary"].into_iter().zip(regions) {
        if REGIONS.contains(&region.code()) {
            continue;
        }
        let hint = nearest(region.code(), REGIONS.into_iter()).map_or_else(
            || "correct it, or ignore this if it is new".to_owned(),
            |known| format!("did you mean `{known}`?"),
        );
        found.warning(
            format!("region:{role}"),
            format!("the {role} region `{region}` is none that this program knows"),
            &hint,
        );
    }
    let lost = plan.regions.primary.code();
    let mut needed: Vec<(String, String)> = vec![
        ("standby".to_owned(), plan.postgresql.standby.host.clone()),
        ("cluster".to_owned(), plan.kubernetes.secondary.endpoint.to_string()),
    ];
    needed.extend(plan.checks.iter().map(|check| (format!("check:{}", check.service), check.url.to_string())));
    let own = plan
        .components
        .iter()
        .filter_map(|part| Some((format!("check:{}", part.name), part.check.as_ref()?.to_string())));
    needed.extend(own);
    needed.extend(plan.names.records.iter().map(|r| (format!("record:{}", r.name), r.secondary_value.clone())));
    needed.extend(plan.names.cdn.iter().map(|cdn| ("cdn".to_owned(), cdn.secondary_domain.clone())));
    for (what, address) in needed.into_iter().filter(|(_, address)| address.contains(lost)) {
        found.add(
            Severity::Contradiction,
            format!("place:{what}"),
            (None, None),
            format!("`{address}` is needed when `{lost}` is lost, but its name says that it is there"),
            &format!("name what serves in `{}`", plan.regions.secondary),
        );
    }
}

/// Regions of the commercial, China and government partitions. AWS adds some every year, so an unknown one is a warning.
/// <https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html>
const REGIONS: [&str; 39] = [
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "cn-north-1",
    "cn-northwest-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "eusc-de-east-1",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-west-1",
    "us-west-2",
];

#[cfg(test)]
mod tests {
    use super::*;

    const SPARC: &str = include_str!("../../../plans/sparc.toml");

    fn all(text: &str) -> Vec<Contradiction> {
        let text = without_accepted(text);
        let plan = Plan::parse("p.toml", &text).unwrap();
        let findings = check("p.toml", &text, &plan, Some(&["regional-failover".to_owned()])).unwrap();
        findings.open.into_iter().chain(findings.warnings).collect()
    }

    fn without_accepted(text: &str) -> String {
        text.split("[[accepted]]").next().unwrap().to_owned()
    }

    fn with(right: &str, wrong: &str) -> String {
        assert!(SPARC.contains(right), "{right}");
        SPARC.replacen(right, wrong, 1)
    }

    /// A plan whose server is ours.
    fn ours(text: &str) -> String {
        text.replacen("driver = \"rds\"", "driver = \"self-managed\"", 1)
    }

    #[test]
    fn each_way_to_promise_too_much_is_found_by_name() {
        let situations = [
            (
                "daily snapshots under 30 minutes",
                with(
                    "{ kind = \"rendered-bundle\", every = \"15 min\" }",
                    "{ kind = \"snapshots\", every = \"24 h\", storage_class = \"STANDARD\" }",
                ),
                "rpo:kubernetes",
            ),
            (
                "replication without time control",
                with("time_control = true", "time_control = false"),
                "rpo:object-storage",
            ),
            (
                "cold backups under 30 minutes",
                with("storage_class = \"STANDARD_IA\" # a", "storage_class = \"GLACIER\" # a"),
                "retrieval:postgresql:snapshot",
            ),
            ("backups rarer than fresh", with("fresh_within = \"26 h\"", "fresh_within = \"23 h\""), "fresh:snapshot"),
            (
                "backups rarer than proven",
                with("proven_within = \"50 h\"", "proven_within = \"20 h\""),
                "proven:snapshot",
            ),
            ("deleted before proven", with("retention_days = 30", "retention_days = 2"), "retention:snapshot"),
            (
                "a class that costs longer than it keeps",
                with("retention_days = 30", "retention_days = 29"),
                "minimum:snapshot",
            ),
            (
                "snapshots that are lost with their region",
                with("cluster_resources = true", "volume = [{ namespace = \"sparc-prod\", claim = \"data\" }]"),
                "volumes:region",
            ),
            ("files of a managed server", with("kind = \"snapshot\"", "kind = \"physical\""), "driver:physical"),
            ("streaming without an archive", with("archive_timeout = \"5 min\"", ""), "rpo:postgresql"),
            (
                "an archive slower than the objective",
                with("archive_timeout = \"5 min\"", "archive_timeout = \"10 min\""),
                "rpo:postgresql",
            ),
            ("real-time without any mechanism", SPARC.to_owned(), "rpo:live-video"),
            ("a service faster than what it needs", SPARC.to_owned(), "rto:core-apis:kubernetes"),
            (
                "a recovery slower than its target",
                with("recovers_in = \"12 min\"", "recovers_in = \"50 min\""),
                "recovers-in:kubernetes",
            ),
            (
                "a recovery slower than a service's objective",
                with("recovers_in = \"12 min\"", "recovers_in = \"20 min\""),
                "recovers-in:core-apis:kubernetes",
            ),
            (
                "names that come too late",
                with("propagation = \"90 s\"", "propagation = \"4 min\""),
                "propagation:core-apis",
            ),
            (
                "a TTL longer than the names may take",
                with("ttl_seconds = 60", "ttl_seconds = 3600"),
                "ttl:origin.sparc.com",
            ),
            (
                "snapshots in an archive that takes hours",
                with(
                    "{ kind = \"registry-replication\", lag = \"30 min\" }",
                    "{ kind = \"snapshots\", every = \"1 h\", storage_class = \"GLACIER\" }",
                ),
                "retrieval:registry",
            ),
            (
                "loss without asking beyond the promise",
                with("acceptable_loss = \"5 min\"", "acceptable_loss = \"20 min\""),
                "acceptable-loss:core-apis",
            ),
            (
                "a component that may lose more than its service",
                with("rpo = \"15 min\"\nmechanism", "rpo = \"45 min\"\nmechanism"),
                "rpo:playback:object-storage",
            ),
            ("a scenario slower than the urgent services", SPARC.to_owned(), "scenario:data-center-failure"),
            ("a scenario faster than what it needs", SPARC.to_owned(), "scenario:data-center-failure:kubernetes"),
            ("a scenario without a machine", SPARC.to_owned(), "machine:ransomware"),
            (
                "a check in the lost region",
                with("https://playback.us-west-2.sparc.com", "https://playback.us-east-1.sparc.com"),
                "place:check:playback",
            ),
            (
                "a component's check in the lost region",
                with("https://core-apis.us-west-2.sparc.com", "https://core-apis.us-east-1.sparc.com"),
                "place:check:redis",
            ),
            (
                "a region that does not exist",
                with("tertiary = \"eu-west-1\"", "tertiary = \"eu-wset-1\"")
                    .replace("sns:eu-west-1", "sns:eu-wset-1")
                    .replace("kms:eu-west-1", "kms:eu-wset-1"),
                "region:tertiary",
            ),
            (
                "an archive that RDS does not give",
                with("archive_timeout = \"5 min\"", "archive_timeout = \"1 min\""),
                "archive:postgresql",
            ),
            (
                "log kept more rarely than may be lost",
                with("every = \"5 min\"", "every = \"10 min\""),
                "rpo:postgresql:wal",
            ),
            (
                "a log whose lateness nobody hears of",
                with("fresh_within = \"10 min\"", "fresh_within = \"1 h\""),
                "fresh:postgresql:wal",
            ),
            ("log kept more often than RDS does", with("every = \"5 min\"", "every = \"1 min\""), "archive:wal"),
            (
                "proof of a log that nobody can read",
                with("proven_to = \"present\" # RDS lets nobody read it", "proven_to = \"structure\" #"),
                "proven-to:wal",
            ),
            (
                "log that RDS does not keep so long",
                with(
                    "retention_days = 30\nstorage_class = \"STANDARD\"",
                    "retention_days = 90\nstorage_class = \"STANDARD\"",
                ),
                "retention:wal",
            ),
            ("an archive onto nothing", ours(SPARC), "base:wal"),
            (
                "an archive that is filled more rarely than planned",
                ours(&with("archive_timeout = \"5 min\"", "archive_timeout = \"10 min\"")),
                "archive:wal",
            ),
            (
                "an archive that ends before its base backups",
                ours(&with("kind = \"snapshot\"", "kind = \"physical\"").replacen(
                    "retention_days = 30\nstorage_class = \"STANDARD\"",
                    "retention_days = 7\nstorage_class = \"STANDARD\"",
                    1,
                )),
                "retention:wal",
            ),
            (
                "nothing kept where something may not be lost",
                with("mechanism = { kind = \"rebuild\" }", "mechanism = { kind = \"rebuild\" } # ").replacen(
                    "rpo = \"rebuilt\"",
                    "rpo = \"5 min\"",
                    1,
                ),
                "rpo:redis",
            ),
        ];
        for (situation, text, name) in situations {
            let found = all(&text);
            let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
            assert!(names.contains(&name), "{situation}: {names:?}");
            assert!(found.iter().all(|one| !one.change.is_empty() && !one.says.contains('\n')), "{situation}");
        }
    }

    #[test]
    fn a_mechanism_that_keeps_its_promise_is_not_reported() {
        let found = all(SPARC);
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        for absent in [
            "rpo:postgresql",
            "rpo:postgresql:wal",
            "archive:wal",
            "driver:wal",
            "rpo:kubernetes",
            "rpo:object-storage",
            "rpo:redis",
            "ttl:origin.sparc.com",
        ] {
            assert!(!names.contains(&absent), "{absent}: {names:?}");
        }
        let unique: BTreeSet<&&str> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
    }

    #[test]
    fn an_acceptance_of_nothing_is_an_error_with_its_line() {
        let plain = without_accepted(SPARC);
        let situations = [
            (
                "[[accepted]]\ncontradiction = \"rto:core-apis:kubernets\"\nbecause = \"x\"\n",
                "no contradiction of this plan; remove the entry, or name `rto:core-apis:kubernetes`",
            ),
            (
                "[[accepted]]\ncontradiction = \"nonsense\"\nbecause = \"x\"\n",
                "no contradiction of this plan; remove the entry",
            ),
            ("[[accepted]]\ncontradiction = \"rpo:live-video\"\nbecause = \" \"\n", "without a reason"),
        ];
        for (entry, expected) in situations {
            let text = format!("{plain}\n{entry}");
            let plan = Plan::parse("p.toml", &text).unwrap();
            let line = text.lines().position(|line| line.starts_with("contradiction")).unwrap() + 1;
            let error = check("p.toml", &text, &plan, None).unwrap_err().to_string();
            assert!(error.starts_with(&format!("p.toml:{line}:")) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_is_accepted_is_listed_with_its_reason_and_not_open() {
        let text = format!(
            "{}\n[[accepted]]\ncontradiction = \"rpo:live-video\"\nbecause = \"viewers see a cut\"\n",
            without_accepted(SPARC)
        );
        let plan = Plan::parse("p.toml", &text).unwrap();
        let findings = check("p.toml", &text, &plan, None).unwrap();
        assert!(!findings.open.iter().any(|one| one.name == "rpo:live-video"));
        assert_eq!(findings.accepted[0].because, "viewers see a cut");
    }
}
