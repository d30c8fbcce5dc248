//! `drctl deploy`: what stands between the plan and the stack in the tertiary region.

mod room;
mod stack;

use std::path::Path;

use jiff::Timestamp;
use recovery::{
    backup::{JOB_CONFIG, JOB_PLAN, JobFile},
    database::ReplicaRole,
    failover::seconds_between,
    fault::chain,
    fence::FenceState,
    objective::human_seconds,
    plan::{Driver, Plan},
    survey::{Sighting, Survey},
};
use recovery_suite::Suite;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    cli::PlanFile,
    machines::{self, Definition, function_name},
    paint::{Paint, Table},
    plan::{pretty, settings},
    problem::{Problem, exit},
};

/// The probe looks every minute; twice that and it has missed one.
const PROBE_SECONDS: f64 = 150.0;
/// A standby that lost its stream may sleep so long before it notices a promotion request.
const RETRY_MILLISECONDS: u64 = 1000;

/// Prints the parameters of `template.yaml` as the plan has them.
pub fn parameters(file: &Path, json: bool) -> Result<u8, Problem> {
    let parameters = of_plan(&Plan::read(file)?);
    if json {
        let object: Map<String, Value> =
            parameters.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        tell!("{}", pretty(&object)?);
    } else {
        for (name, value) in parameters {
            tell!("{name}={value}");
        }
    }
    Ok(exit::DONE)
}

/// Prints the ConfigMap that Jobs of backups read the plan from, for the cluster that runs them.
pub fn job(file: &Path) -> Result<u8, Problem> {
    let settings = settings(file)?;
    let mut data = Map::new();
    for JobFile { key, path } in JobFile::of_plan(&settings.plan) {
        let place = if path == JOB_PLAN { file.to_owned() } else { settings.folder.join(&path) };
        let text = std::fs::read_to_string(&place).map_err(|error| {
            Problem::input(format!("`{}`, which the plan names, cannot be read: {error}", place.display()))
        })?;
        data.insert(key, text.into());
    }
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": JOB_CONFIG, "namespace": settings.plan.backups.job.namespace },
        "data": data,
    });
    tell!("{}", pretty(&map)?);
    Ok(exit::DONE)
}

/// Every parameter that the plan decides, in the template's order.
fn of_plan(plan: &Plan) -> Vec<(&'static str, String)> {
    let (postgresql, names, buckets) = (&plan.postgresql, &plan.names, &plan.buckets);
    let none = || "none".to_owned();
    // An Aurora standby is named by its cluster's ARN, and policies by the cluster.
    let standby = postgresql.standby.instance.rsplit(':').next().unwrap_or_default().to_owned();
    vec![
        ("Platform", plan.platform.clone()),
        ("PrimaryRegion", plan.regions.primary.code().to_owned()),
        ("SecondaryRegion", plan.regions.secondary.code().to_owned()),
        ("EvidenceBucketName", buckets.evidence.clone()),
        ("SwitchBucketName", buckets.switch.clone()),
        ("BackupsBucketName", buckets.backups.clone()),
        ("WalBucketName", buckets.wal_archive.clone()),
        ("VideosBucketName", buckets.videos.clone()),
        ("VideosReplicaBucketName", buckets.videos_replica.clone()),
        ("SwitchKey", names.switch_key.clone()),
        ("RecoverySecret", postgresql.recovery_secret.clone()),
        ("ApplicationSecret", postgresql.application_secret.clone()),
        ("BackupSecret", plan.backups.secret.clone()),
        ("StandbyInstance", standby),
        (
            "GlobalCluster",
            match postgresql.driver {
                Driver::AuroraGlobal => postgresql.global_cluster.clone().unwrap_or_else(none),
                Driver::Rds | Driver::SelfManaged => none(),
            },
        ),
        ("SecondaryCluster", plan.kubernetes.secondary.name.clone()),
        ("NodeGroup", plan.kubernetes.capacity.node_group.clone()),
        ("HostedZone", names.hosted_zone.clone()),
        ("Distribution", names.cdn.as_ref().map_or_else(none, |cdn| cdn.distribution.clone())),
    ]
}

/// Compares what is deployed with the plan, and the account with what a failover asks of it.
pub async fn check(plan: PlanFile, stack: &str, json: bool) -> Result<u8, Problem> {
    let settings = settings(&plan.plan)?;
    let plan = settings.plan.clone();
    let suite = Suite::open(settings).await.map_err(|failure| Problem::input(failure.message))?;
    let (survey, replica, secrets, deployed, stack, room) = tokio::join!(
        suite.survey(),
        suite.replica_role(),
        secrets(&suite, &plan),
        deployed(&suite, &plan),
        stack::look(suite.aws(), stack),
        room::look(suite.aws(), &plan)
    );
    let replica = replica.map_err(|error| chain(&error));
    let looked = Looked { survey, replica, secrets, machines: deployed?, stack, room };
    let findings = judge(&plan, &looked, Timestamp::now());
    let well = findings.iter().all(|finding| finding.standing == Standing::Good);
    if json {
        tell!("{}", pretty(&json!({ "well": well, "findings": findings }))?);
    } else {
        show!("{}", in_words(&findings, Paint::stdout()));
    }
    Ok(if well { exit::DONE } else { exit::FOUND })
}

/// What was seen, all of it at about the same time.
struct Looked {
    survey: Survey,
    replica: Result<ReplicaRole, String>,
    /// Whether each secret of the plan can be read in the tertiary region, by its name.
    secrets: Vec<(String, Result<(), String>)>,
    /// Each machine with its definition as Step Functions has it.
    machines: Vec<(Definition, Result<String, String>)>,
    stack: stack::Looked,
    room: room::Looked,
}

async fn secrets(suite: &Suite, plan: &Plan) -> Vec<(String, Result<(), String>)> {
    let mut read = Vec::new();
    for name in [&plan.postgresql.recovery_secret, &plan.postgresql.application_secret] {
        let credentials = suite.aws().secrets().credentials(name).await;
        read.push((name.clone(), credentials.map(drop).map_err(|error| chain(&error))));
    }
    read
}

async fn deployed(suite: &Suite, plan: &Plan) -> Result<Vec<(Definition, Result<String, String>)>, Problem> {
    let step_functions = suite.aws().step_functions();
    let mut machines = Vec::new();
    for name in machines::names() {
        let arn = machine_arn(plan, &name);
        let definition =
            step_functions.definition(&arn).await.map_err(|trouble| format!("`{arn}`: {}", chain(&trouble)));
        machines.push((machines::find(&name)?, definition));
    }
    Ok(machines)
}

/// Machines are called after the platform, and are in the account of the plan's topics.
fn machine_arn(plan: &Plan, machine: &str) -> String {
    let account = plan.notification.levels.first().and_then(|level| level.topic_arn.split(':').nth(4));
    let (region, platform) = (plan.regions.tertiary.code(), &plan.platform);
    format!("arn:aws:states:{region}:{}:stateMachine:{platform}-{machine}", account.unwrap_or_default())
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Standing {
    /// As the plan has it.
    Good,
    /// Otherwise.
    Wrong,
    /// It could not be seen, which is no better.
    Unknown,
}

/// One thing that was compared.
#[derive(Debug, PartialEq, Serialize)]
struct Finding {
    standing: Standing,
    what: &'static str,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

fn good(what: &'static str, says: String) -> Finding {
    Finding { standing: Standing::Good, what, says, remedy: None }
}

fn wrong(what: &'static str, says: String, remedy: impl Into<String>) -> Finding {
    Finding { standing: Standing::Wrong, what, says, remedy: Some(remedy.into()) }
}

fn unknown(what: &'static str, why: &str, remedy: impl Into<String>) -> Finding {
    Finding { standing: Standing::Unknown, what, says: why.to_owned(), remedy: Some(remedy.into()) }
}

/// What is not as it must be for a failover that starts now.
fn judge(plan: &Plan, looked: &Looked, now: Timestamp) -> Vec<Finding> {
    let mut findings = vec![fence(plan, &looked.survey), switch(plan, &looked.survey), probe(&looked.survey, now)];
    findings.extend(standby(plan, looked));
    findings.extend(nodes(plan, &looked.survey));
    for (name, read) in &looked.secrets {
        findings.push(match read {
            Ok(()) => good("secret", format!("`{name}` can be read in {}", plan.regions.tertiary)),
            Err(why) => unknown(
                "secret",
                why,
                format!("replicate `{name}` to {} and allow its key there", plan.regions.tertiary),
            ),
        });
    }
    for (ours, theirs) in &looked.machines {
        findings.push(machine(plan, ours, theirs));
    }
    findings.extend(stack::judge(plan, &looked.stack));
    let present = looked.survey.node_group.seen().map(|group| group.desired);
    let deployed = looked.stack.stack.as_ref().ok();
    let reserved = deployed.and_then(|stack| stack.parameters.get("ReservedConcurrency")?.parse().ok());
    findings.extend(room::judge(plan, &looked.room, present, reserved));
    findings
}

fn fence(plan: &Plan, survey: &Survey) -> Finding {
    match &survey.fence {
        Sighting::Unknown(why) => {
            unknown("fence", why, format!("a failover begins with s3://{}; make it readable", plan.buckets.evidence))
        }
        Sighting::Seen(None) => good("fence", "no run has ever taken it".to_owned()),
        Sighting::Seen(Some(record)) if record.state == FenceState::Lifted => {
            good("fence", format!("lifted by run `{}`", record.run))
        }
        Sighting::Seen(Some(record)) => wrong(
            "fence",
            format!("run `{}` holds it: {:?}, from {} to {}", record.run, record.state, record.from, record.to),
            "end that run, or fail back; until then another failover is refused",
        ),
    }
}

fn switch(plan: &Plan, survey: &Survey) -> Finding {
    let object = format!("s3://{}/{}", plan.buckets.switch, plan.names.switch_key);
    match &survey.switched {
        Sighting::Unknown(why) => unknown("switch", why, format!("customers are moved by {object}; make it readable")),
        Sighting::Seen(false) => good("switch", format!("{object} is absent: customers reach the primary")),
        Sighting::Seen(true) => wrong(
            "switch",
            format!("{object} is there: customers are sent to {}", plan.regions.secondary),
            "find out who wrote it; remove it only when the primary serves",
        ),
    }
}

fn probe(survey: &Survey, now: Timestamp) -> Finding {
    const REMEDY: &str = "deploy with Detection=ENABLED, and read the log of verify-recovery";
    match &survey.position {
        Sighting::Unknown(why) => unknown("probe", why, REMEDY),
        Sighting::Seen(None) => wrong("probe", "no position of the primary was ever kept".to_owned(), REMEDY),
        Sighting::Seen(Some(position)) => {
            let age = seconds_between(position.heartbeat.written_at, now);
            let says = format!("the last heartbeat was kept {} ago", human_seconds(age.max(0.0)));
            if age <= PROBE_SECONDS { good("probe", says) } else { wrong("probe", says, REMEDY) }
        }
    }
}

fn standby(plan: &Plan, looked: &Looked) -> Vec<Finding> {
    let name = &plan.postgresql.standby.instance;
    let role = match &looked.replica {
        Ok(ReplicaRole::Following) => good("replica", format!("`{name}` follows")),
        Ok(ReplicaRole::Changing(state)) => wrong(
            "replica",
            format!("`{name}` is {state}"),
            "wait until it is available; keep its backup window away from the busiest hours",
        ),
        Ok(ReplicaRole::Standalone) => {
            wrong("replica", format!("`{name}` follows nobody"), "make it a replica of the primary again")
        }
        Err(why) => unknown("replica", why, format!("look at `{name}` in {}", plan.regions.secondary)),
    };
    let status = match &looked.survey.standby {
        Sighting::Unknown(why) => {
            return vec![role, unknown("lag", why, "functions must reach the standby: subnets, secrets, authority")];
        }
        Sighting::Seen(status) => status,
    };
    let mut findings = vec![role];
    if let Some(position) = looked.survey.position.seen().and_then(Option::as_ref) {
        let behind = position.lsn.bytes_since(status.holds_to);
        let says = format!("`{name}` lacks {behind} bytes of the last position that was kept");
        let limit = plan.failover.acceptable_loss_bytes;
        findings.push(if behind <= limit {
            good("lag", says)
        } else {
            wrong("lag", format!("{says}; the plan accepts {limit}"), "find out why the standby is behind")
        });
    }
    if status.retrieve_retry_ms > RETRY_MILLISECONDS {
        findings.push(wrong(
            "promotion",
            format!(
                "`wal_retrieve_retry_interval` of `{name}` is {} ms: so long a promotion may sleep",
                status.retrieve_retry_ms
            ),
            "set it to 200 ms in the standby's parameter group",
        ));
    }
    findings
}

fn nodes(plan: &Plan, survey: &Survey) -> Vec<Finding> {
    let capacity = &plan.kubernetes.capacity;
    let group = match &survey.node_group {
        Sighting::Unknown(why) => {
            return vec![unknown(
                "nodes",
                why,
                format!("look at `{}` in {}", capacity.node_group, plan.regions.secondary),
            )];
        }
        Sighting::Seen(group) => group,
    };
    let name = &capacity.node_group;
    let sizes =
        format!("`{name}` is {}, {} to {} nodes, {} wanted", group.status, group.minimum, group.maximum, group.desired);
    let mut findings = vec![if group.status == "ACTIVE" {
        good("nodes", sizes)
    } else {
        wrong("nodes", sizes, "wait until it is ACTIVE; EKS refuses to scale it now")
    }];
    if group.maximum < capacity.desired {
        findings.push(wrong(
            "nodes",
            format!("at most {} nodes are allowed, a failover wants {}", group.maximum, capacity.desired),
            format!(
                "raise the maximum of `{name}` now: a failover does it too, and finds out then what stands against it"
            ),
        ));
    }
    if group.desired < capacity.minimum {
        findings.push(wrong(
            "nodes",
            format!("{} nodes stand by, the plan counts on {}", group.desired, capacity.minimum),
            format!("keep {} nodes of `{name}` warm, or correct [kubernetes.capacity]", capacity.minimum),
        ));
    }
    for issue in &group.issues {
        findings.push(wrong("nodes", issue.clone(), format!("mend `{name}` before it is needed")));
    }
    findings
}

fn machine(plan: &Plan, ours: &Definition, theirs: &Result<String, String>) -> Finding {
    let remedy = "deploy again: sam build && sam deploy";
    let text = match theirs {
        Err(why) => return unknown("machine", why, remedy),
        Ok(text) => text,
    };
    let name = format!("{}-{}", plan.platform, ours.name);
    let (Ok(ours), Ok(theirs)) = (serde_json::from_str(&ours.text), serde_json::from_str(text)) else {
        return wrong("machine", format!("`{name}` is no JSON here or there"), remedy);
    };
    if is_deployed(&plan.platform, &ours, &theirs) {
        good("machine", format!("`{name}` is deployed as it is here"))
    } else {
        wrong("machine", format!("`{name}` is deployed in another version than it is here"), remedy)
    }
}

/// The same, with functions in place of their substitutions.
fn is_deployed(platform: &str, ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .all(|(key, value)| theirs.get(key).is_some_and(|other| is_deployed(platform, value, other)))
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(one, other)| is_deployed(platform, one, other))
        }
        (Value::String(ours), Value::String(theirs)) if ours.starts_with("${") => {
            let substitution = ours.trim_start_matches("${").trim_end_matches('}');
            theirs.ends_with(&format!(":function:{platform}-{}", function_name(substitution)))
        }
        (ours, theirs) => ours == theirs,
    }
}

fn in_words(findings: &[Finding], paint: Paint) -> String {
    let mut table = Table::default();
    for finding in findings {
        let mark = match finding.standing {
            Standing::Good => "ok",
            Standing::Wrong => "wrong",
            Standing::Unknown => "unknown",
        };
        let remedy = finding.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        table.row([mark.to_owned(), finding.what.to_owned(), format!("{}{remedy}", finding.says)]);
    }
    let mut text = table.lines(|row, column, cell| match (findings[row].standing, column) {
        (Standing::Good, 0) => paint.good(cell),
        (Standing::Wrong, 0) => paint.bad(cell),
        (Standing::Unknown, 0) => paint.doubt(cell),
        _ => cell.to_owned(),
    });
    let count = findings.iter().filter(|finding| finding.standing != Standing::Good).count();
    text.push_str(&match count {
        0 => paint.good("a failover could start now\n"),
        1 => paint.bold("1 thing stands against a failover\n"),
        many => paint.bold(&format!("{many} things stand against a failover\n")),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployed_machine_is_compared_without_its_arns() {
        let ours = json!({ "A": { "FunctionName": "${PlanFailoverFunctionArn}", "Next": "B" } });
        let theirs = |arn: &str, next: &str| json!({ "A": { "FunctionName": arn, "Next": next } });
        let arn = "arn:aws:lambda:eu-west-1:111122223333:function:sparc-plan-failover";
        assert!(is_deployed("sparc", &ours, &theirs(arn, "B")));
        assert!(!is_deployed("sparc", &ours, &theirs(arn, "C")), "another way");
        assert!(!is_deployed("sparc", &ours, &theirs(&arn.replace("plan", "no"), "B")), "another function");
        assert!(!is_deployed("other", &ours, &theirs(arn, "B")), "another platform's function");
    }

    #[test]
    fn what_cannot_be_seen_counts_as_not_well() {
        let plan = Plan::read(Path::new("../../plans/sparc.toml")).unwrap();
        let dark = || "no answer within 2 s".to_owned();
        let survey = Survey {
            observed_at: Timestamp::UNIX_EPOCH,
            primary: Sighting::Unknown(dark()),
            standby: Sighting::Unknown(dark()),
            position: Sighting::Unknown(dark()),
            fence: Sighting::Unknown(dark()),
            switched: Sighting::Unknown(dark()),
            node_group: Sighting::Unknown(dark()),
            writers: Sighting::Unknown(dark()),
        };
        let looked = Looked {
            survey,
            replica: Err(dark()),
            secrets: vec![("a".to_owned(), Err(dark()))],
            machines: Vec::new(),
            stack: stack::Looked { name: "a".to_owned(), stack: Err(dark()), drift: None },
            room: room::Looked { nodes: Err(dark()), per_group: Err(dark()), concurrency: Err(dark()) },
        };
        let findings = judge(&plan, &looked, Timestamp::UNIX_EPOCH);
        assert_eq!(findings.len(), 10);
        for finding in findings {
            assert_eq!(finding.standing, Standing::Unknown, "{finding:?}");
            assert!(finding.remedy.is_some(), "{finding:?}");
        }
    }
}
