//! `drctl plan` and `drctl plan check`.

use std::{path::Path, sync::Arc};

use recovery::{
    contradictions::{self, Contradiction, Findings},
    objective::human_seconds,
    plan::{Approval, Driver, Mechanism, Method, Plan},
};
use recovery_lambda::Settings;
use serde_json::json;

use crate::{
    machines,
    paint::{Paint, Table},
    problem::{Problem, exit},
};

/// The plan and the folder that names in it start from, for the suite.
pub fn settings(file: &Path) -> Result<Settings, Problem> {
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(Settings { plan: Arc::new(Plan::read(file)?), folder })
}

/// Prints the plan.
pub fn show(file: &Path, json: bool) -> Result<u8, Problem> {
    let plan = Plan::read(file)?;
    if json {
        tell!("{}", pretty(&plan)?);
    } else {
        show!("{}", words(&plan, file, Paint::stdout()));
    }
    Ok(exit::DONE)
}

/// Checks the plan against itself.
pub fn check(file: &Path, json: bool) -> Result<u8, Problem> {
    let plan = Plan::read(file)?;
    let text = std::fs::read_to_string(file)
        .map_err(|error| Problem::input(format!("{}: cannot be read ({error}); check again", file.display())))?;
    let known = machines::names_beside(file);
    let findings = contradictions::check(&file.display().to_string(), &text, &plan, Some(&known))?;
    if json {
        tell!("{}", pretty(&json!({ "plan": file.display().to_string(), "findings": findings }))?);
    } else {
        show!("{}", findings_in_words(&findings, file, Paint::stdout()));
    }
    Ok(if findings.open.is_empty() { exit::DONE } else { exit::FOUND })
}

pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<String, Problem> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Problem::input(format!("this cannot be written as JSON: {error}; report this as a defect")))
}

fn findings_in_words(findings: &Findings, file: &Path, paint: Paint) -> String {
    let mut text = String::new();
    let entry = |mark: String, one: &Contradiction, after: String| {
        format!("{mark} {}\n    {}\n{after}", paint.bold(&one.name), one.says)
    };
    for one in &findings.open {
        text.push_str(&entry(paint.bad("open    "), one, format!("    → {}\n", one.change)));
    }
    for one in &findings.warnings {
        text.push_str(&entry(paint.doubt("warning "), one, format!("    → {}\n", one.change)));
    }
    for one in &findings.accepted {
        text.push_str(&entry(
            paint.dim("accepted"),
            &one.contradiction,
            format!("    {}\n", paint.dim(&format!("because {}", one.because))),
        ));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let count = |number: usize, noun: &str| match number {
        1 => format!("1 {noun}"),
        many => format!("{many} {noun}s"),
    };
    let summary = format!(
        "{}: {} open, {} accepted, {}",
        file.display(),
        count(findings.open.len(), "contradiction"),
        findings.accepted.len(),
        count(findings.warnings.len(), "warning")
    );
    text.push_str(&if findings.open.is_empty() { paint.good(&summary) } else { paint.bold(&summary) });
    text.push('\n');
    text
}

fn words(plan: &Plan, file: &Path, paint: Paint) -> String {
    let mut text = format!("{}  {}\n", paint.bold(&plan.platform), paint.dim(&file.display().to_string()));
    let mut section = |title: &str, table: Table, headed: bool| {
        text.push_str(&format!("\n{}\n", paint.bold(title)));
        text.push_str(&table.lines(|row, column, cell| match (headed && row == 0, column) {
            (true, _) => paint.dim(cell),
            (false, 0) => paint.bold(cell),
            (false, _) => cell.to_owned(),
        }));
    };

    let mut regions = Table::default();
    regions.row(["primary", plan.regions.primary.code(), "where the platform runs"]);
    regions.row(["secondary", plan.regions.secondary.code(), "where it goes"]);
    regions.row(["tertiary", plan.regions.tertiary.code(), "this suite, its evidence, the switch"]);
    section("Regions", regions, false);

    let policy = &plan.failover;
    let mut failover = Table::default();
    failover.row([
        "approval".to_owned(),
        match policy.approval {
            Approval::Required => "a person confirms the point of no return".to_owned(),
            Approval::Automatic => "an alarm is enough".to_owned(),
        },
    ]);
    failover.row([
        "acceptable loss".to_owned(),
        format!(
            "{} of writes, {} bytes of log; more needs recorded consent",
            policy.acceptable_loss, policy.acceptable_loss_bytes
        ),
    ]);
    failover.row(["one look".to_owned(), format!("{} at most", policy.look_timeout)]);
    failover.row([
        "records and CDN".to_owned(),
        if policy.edit_records { "edited afterwards, never waited for" } else { "left alone" }.to_owned(),
    ]);
    section("Failover", failover, false);

    let mut objectives = Table::default();
    objectives.row(["service", "", "within", "may lose", "needs"]);
    for objective in &plan.objectives {
        objectives.row([
            objective.service.clone(),
            format!("{:?}", objective.priority),
            objective.rto.to_string(),
            objective.rpo.to_string(),
            objective.needs.join(", "),
        ]);
    }
    section("Service objectives", objectives, true);

    let mut components = Table::default();
    components.row(["component", "within", "may lose", "recovers in", "by"]);
    for component in &plan.components {
        components.row([
            component.name.clone(),
            component.rto.to_string(),
            component.rpo.to_string(),
            component.recovers_in.to_string(),
            mechanism(&component.mechanism),
        ]);
    }
    section("Components", components, true);

    let mut scenarios = Table::default();
    scenarios.row(["scenario", "within", "machine", "what is done"]);
    for scenario in &plan.scenarios {
        scenarios.row([
            scenario.name.clone(),
            scenario.rto.to_string(),
            scenario.machine.clone(),
            format!("{}; {}", scenario.impact, scenario.recovery),
        ]);
    }
    section("Scenarios", scenarios, true);

    let mut places = Table::default();
    let postgresql = &plan.postgresql;
    let driver = match postgresql.driver {
        Driver::SelfManaged => "pg_promote",
        Driver::Rds => "RDS PromoteReadReplica",
        Driver::AuroraGlobal => "Aurora FailoverGlobalCluster",
    };
    let server = |server: &recovery::plan::Server| format!("{} at {}:{}", server.instance, server.host, server.port);
    places.row(["primary".to_owned(), server(&postgresql.primary)]);
    places.row(["standby".to_owned(), format!("{}, promoted by {driver}", server(&postgresql.standby))]);
    places.row(["databases".to_owned(), postgresql.databases.join(", ")]);
    for (side, cluster) in
        [("primary cluster", &plan.kubernetes.primary), ("secondary cluster", &plan.kubernetes.secondary)]
    {
        places.row([side.to_owned(), format!("{} at {}", cluster.name, cluster.endpoint)]);
    }
    let capacity = &plan.kubernetes.capacity;
    places.row([
        "capacity".to_owned(),
        format!(
            "{} nodes of `{}` (at most {}); workloads start at {} %",
            capacity.desired, capacity.node_group, capacity.maximum, capacity.enough_percent
        ),
    ]);
    places.row(["public name".to_owned(), plan.names.public_url.to_string()]);
    places.row([
        "switch".to_owned(),
        format!("s3://{}/{}, seen within {}", plan.buckets.switch, plan.names.switch_key, plan.names.propagation),
    ]);
    for record in &plan.names.records {
        places.row([
            "record".to_owned(),
            format!("{} {} → {}, TTL {} s", record.name, record.kind, record.secondary_value, record.ttl_seconds),
        ]);
    }
    places.row(["evidence".to_owned(), format!("s3://{}", plan.buckets.evidence)]);
    places.row([
        "backups".to_owned(),
        format!("s3://{}, log in s3://{}", plan.buckets.backups, plan.buckets.wal_archive),
    ]);
    section("What is where", places, false);

    let mut people = Table::default();
    for level in &plan.notification.levels {
        for contact in &level.contacts {
            let methods: Vec<&str> = contact.methods.iter().map(|method| method_name(*method)).collect();
            let after = match contact.after.seconds() {
                0.0 => "at once".to_owned(),
                seconds => format!("after {}", human_seconds(seconds)),
            };
            people.row([format!("{:?}", level.priority), contact.role.clone(), after, methods.join(", ")]);
        }
    }
    section("Who hears of it", people, false);
    text
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Phone => "phone",
        Method::Sms => "sms",
        Method::Email => "email",
        Method::Slack => "slack",
        Method::Pagerduty => "pagerduty",
    }
}

fn mechanism(mechanism: &Mechanism) -> String {
    recovery::report::mechanism_in_words(mechanism)
}

#[cfg(test)]
mod tests {
    use recovery::contradictions::check;

    use super::*;

    const SPARC: &str = include_str!("../../../plans/sparc.toml");

    #[test]
    fn the_printed_check_of_the_platforms_plan() {
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        let known = ["regional-failover".to_owned()];
        let findings = check("plans/sparc.toml", SPARC, &plan, Some(&known)).unwrap();
        let text = findings_in_words(&findings, Path::new("plans/sparc.toml"), Paint::stdout());
        let expected = "\
open     rpo:live-video
    `live-video` may lose nothing (real-time), but no component keeps its data: nothing replicates it, nothing measures it
    → name in `data` what keeps the data of `live-video`, or write rpo = \"rebuilt\" if there is none
open     machine:database-corruption
    the scenario `database-corruption` allows 45 min, but the machine `restore` that answers it does not exist
    → add statemachines/restore.asl.json, or name a machine that exists
";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("plans/sparc.toml: 4 contradictions open, 9 accepted, 0 warnings\n"), "{text}");
    }

    #[test]
    fn the_printed_plan_lines_up() {
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        let text = words(&plan, Path::new("plans/sparc.toml"), Paint::stdout());
        let expected = "
Service objectives
  service         within  may lose   needs
  core-apis   P0  15 min  5 min      postgresql, redis, kubernetes
  live-video  P0  30 min  real-time  kubernetes, redis
";
        assert!(text.contains(expected), "{text}");
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
    }
}
