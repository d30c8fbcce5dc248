//! `drctl drill --lab`: a whole regional failover on this machine, with a report.
//!
//! The lab is the platform; the recovery runs in processes of its own, as it would on a laptop: `drctl watch` detects,
//! `drctl run` recovers. Only this process knows the clients, so it adds to the report what they saw.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lab::{
    edge::PUBLIC_NAME,
    faults::{Desk, Script, Selector, Times},
    load::Load,
    platform::{Options, Platform},
    resolvers::Resolvers,
};
use recovery::{
    plan::{Approval, Driver, Plan},
    report::{Drill, FaultFired, LostWrite, NamesSeen, RecoveryReport, StandIn},
    run::RunOutcome,
};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{
    cli::{DrillArgs, DrillDriver},
    paint::Paint,
    problem::{Problem, exit},
    run::{Report, keep_report},
    run_folder::RunFolder,
    runs,
};

const PLAN: &str = include_str!("../../../plans/sparc.toml");
const GRACEFUL: &str = include_str!("../../../events/regional-failover/manual-graceful.json");

/// Between two looks of the detection, and silent looks until it alarms. On AWS it is one minute and three.
const DETECTION: (u64, usize) = (250, 3);
/// Writes that clients have been promised before anything happens.
const WARM_UP: usize = 500;
/// Customers' resolvers whose answers run out one after another.
const RESOLVERS: usize = 12;
/// Longest wait for a part of the drill that should take seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails over for practice.
pub async fn drill(args: DrillArgs) -> Result<u8, Problem> {
    let say = |text: &str| {
        if !args.json {
            tell!("{text}");
        }
    };
    let desk = faults(&args.fault)?;
    let name = format!("drill-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S"));
    let folder = RunFolder::new(&runs::folder(args.runs.runs_dir.as_deref()), &name)?;
    let paint = Paint::stdout();
    say(&paint.bold(&format!("Regional failover drill {name}: us-east-1 to us-west-2, on this machine")));
    say("");

    let platform = start(&args, desk.clone()).await?;
    let mut load = Load::start(&platform.lab.pair, lab::load::Options::default()).await.map_err(of_lab)?;
    let resolvers = Resolvers::start(&platform.lab.edge, PUBLIC_NAME, RESOLVERS);
    let event = platform.lab.folder().join("event.json");
    let mut watch =
        child(&platform, &["watch", "--every-ms", &DETECTION.0.to_string(), "--failures", &DETECTION.1.to_string()])
            .arg("--event")
            .arg(&event)
            .stdout(Stdio::null())
            .spawn()
            .map_err(unstarted)?;
    wait_for_writes(&platform, &load).await?;
    say(&format!("  {} writes acknowledged by us-east-1, heartbeats flow", load.count()));

    let began = Instant::now();
    if args.graceful {
        say(&paint.bold("  a person asks for a graceful move"));
        std::fs::write(&event, graceful(Timestamp::now()))
            .map_err(|error| Problem::failed(format!("the event cannot be written: {error}")))?;
    } else {
        say(&paint.bold("  us-east-1 is lost: its PostgreSQL is killed, its services go dark"));
        platform.lab.lose_primary_region();
        let ended = tokio::time::timeout(PATIENCE, watch.wait()).await;
        if !event.is_file() {
            return Err(Problem::failed(format!(
                "the detection did not alarm ({ended:?}); run `drctl watch` by hand to see why"
            )));
        }
        say(&format!("  alarm after {:.1} s: {} silent looks in a row", began.elapsed().as_secs_f64(), DETECTION.1));
    }
    say("");

    let mut run = child(&platform, &["run", "regional-failover", "--name", &name]);
    run.arg("--event").arg(&event).arg("--runs-dir").arg(runs_of(&folder));
    if args.json {
        run.stdout(Stdio::null());
    }
    let mut run: Child = run.spawn().map_err(unstarted)?;
    let interrupted = tokio::select! {
        ended = run.wait() => { ended.map_err(unstarted)?; false }
        // The child has the terminal's interrupt too, and says what state the world is in.
        _ = tokio::signal::ctrl_c() => { let _ = run.wait().await; true }
    };
    let _ = watch.kill().await;
    if interrupted {
        return Err(Problem::failed("the drill was interrupted; the lab is gone with it"));
    }
    finish(&args, &platform, &mut load, &resolvers, began, &folder, desk.as_ref()).await
}

/// Makes the platform and tells its stages.
async fn start(args: &DrillArgs, desk: Option<Desk>) -> Result<Platform, Problem> {
    let (quiet, began) = (args.json, Instant::now());
    let progress = Arc::new(move |stage: lab::Progress| {
        if let Some(took) = stage.done_after.filter(|_| !quiet) {
            tell!("  {:6.1} s  {:<42} {:.1} s", began.elapsed().as_secs_f64(), stage.stage, took.as_secs_f64());
        }
    });
    let options = Options {
        lab: lab::Options {
            // Clients are promised what lies on disk.
            postgres: lab::postgres::Options { flush: true, ..lab::postgres::Options::default() },
            progress,
            // The watcher writes the heartbeats.
            heartbeat: None,
            ..lab::Options::default()
        },
        driver: match args.driver {
            DrillDriver::SelfManaged => Driver::SelfManaged,
            DrillDriver::Rds => Driver::Rds,
            DrillDriver::AuroraGlobal => Driver::AuroraGlobal,
        },
        approval: if args.ask { Approval::Required } else { Approval::Automatic },
        plan: PLAN.to_owned(),
        faults: desk,
    };
    Platform::start(options).await.map_err(of_lab)
}

fn of_lab(error: lab::Error) -> Problem {
    Problem::failed(format!("{}; {}", recovery::fault::chain(&error), error.remedy()))
}

fn unstarted(error: std::io::Error) -> Problem {
    Problem::failed(format!("this program cannot be started again: {error}"))
}

/// This program again, in the platform's environment.
fn child(platform: &Platform, arguments: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("drctl"));
    let mut command = Command::new(program);
    command.args(arguments).arg("--plan").arg(platform.plan()).envs(platform.lab.env()).kill_on_drop(true);
    command
}

async fn wait_for_writes(platform: &Platform, load: &Load) -> Result<(), Problem> {
    let plan = Plan::read(platform.plan())?;
    let key = recovery::database::position_key(&plan.platform);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let position = platform.lab.aws.object(&plan.buckets.evidence, &key).await.map_err(of_lab)?;
        if load.count() >= WARM_UP && position.is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(Problem::failed("the platform took no writes or no heartbeat was kept; run `drctl watch` by hand to see why"))
}

fn graceful(now: Timestamp) -> String {
    let mut event: Value = serde_json::from_str(GRACEFUL).unwrap_or_default();
    event["time"] = now.to_string().into();
    event["id"] = format!("drill-{}", now.as_millisecond()).into();
    event["detail"]["began_at"] = now.to_string().into();
    event.to_string()
}

/// Adds the clients' view to the report.
async fn finish(
    args: &DrillArgs,
    platform: &Platform,
    load: &mut Load,
    resolvers: &Resolvers,
    began: Instant,
    folder: &RunFolder,
    desk: Option<&Desk>,
) -> Result<u8, Problem> {
    let (Ok(card), Ok(record)) = (folder.card(), folder.record()) else {
        return Err(Problem::failed(format!("the run left no record in {}", runs_of(folder).display())));
    };
    let moved = record.promotion.is_some();
    if moved {
        load.wait_for_acknowledgements_of("standby", began).await.map_err(of_lab)?;
    }
    load.stop().await;
    let lost = if moved { load.lost(&platform.lab.pair.standby).await.map_err(of_lab)? } else { Vec::new() };
    let gap = load.gap(began);
    let names = match record.reached {
        Some(_) => Some(names_seen(platform, resolvers).await?),
        None => None,
    };
    let plan = Plan::read(platform.plan())?;
    let drill = Drill {
        place: format!("one machine, PostgreSQL {}", platform.lab.pair.tools().version()),
        acknowledged_writes: load.acknowledged().iter().filter(|write| write.server == "primary").count() as u64,
        lost_writes: lost
            .iter()
            .map(|write| LostWrite {
                id: format!(
                    "client {} write {} attempt {}",
                    write.write.client, write.write.sequence, write.write.attempt
                ),
                acknowledged_at: write.at_time,
            })
            .collect(),
        client_gap_seconds: gap.as_ref().map(|gap| gap.duration().as_secs_f64()),
        last_write_before: gap.as_ref().map(|gap| gap.before.at_time),
        first_write_after: gap.as_ref().map(|gap| gap.after.at_time),
        names,
        faults: desk.map(fired).unwrap_or_default(),
        stand_ins: stand_ins(platform),
    };
    let report: RecoveryReport = folder.read("report.json")?;
    let report = report.with_drill(&plan, drill);
    let report = Box::new(report);
    keep_report(folder, &card, &record, &Report::Recovery(report.clone()))?;
    let place = kept(args.out.as_deref(), folder)?;
    if args.json {
        tell!("{}", crate::plan::pretty(&report)?);
    } else {
        tell(load, &report, platform, &place);
        let desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
        if desktop && std::io::stdout().is_terminal() {
            crate::report::open(&place)?;
        }
    }
    Ok(if record.outcome() == RunOutcome::Recovered { exit::DONE } else { exit::FOUND })
}

async fn names_seen(platform: &Platform, resolvers: &Resolvers) -> Result<NamesSeen, Problem> {
    let moved = resolvers.moved().await.map_err(of_lab)?;
    let scale = platform.lab.addresses().edge_scale;
    let later = moved.with_cache_at.duration_since(moved.without_cache_at).as_secs_f64();
    Ok(NamesSeen {
        name: PUBLIC_NAME.to_owned(),
        without_cache_at: moved.without_cache_at,
        with_cache_at: moved.with_cache_at,
        later_seconds: later / scale,
        resolvers: RESOLVERS,
        scale,
    })
}

fn runs_of(folder: &RunFolder) -> &Path {
    folder.path().parent().unwrap_or(folder.path())
}

fn kept(out: Option<&Path>, folder: &RunFolder) -> Result<PathBuf, Problem> {
    let Some(out) = out else { return Ok(folder.path().join("report.html")) };
    let unwritable = |error: std::io::Error| {
        Problem::failed(format!("{}: cannot be written ({error}); name another folder with --out", out.display()))
    };
    std::fs::create_dir_all(out).map_err(unwritable)?;
    for form in ["report.json", "report.md", "report.html"] {
        std::fs::copy(folder.path().join(form), out.join(form)).map_err(unwritable)?;
    }
    Ok(out.join("report.html"))
}

fn tell(load: &Load, report: &RecoveryReport, platform: &Platform, place: &Path) {
    let Some(drill) = &report.drill else { return };
    let (met, all) = report.objectives_met();
    tell!();
    tell!("objectives   {met} of {all} met");
    if let Some(gap) = drill.client_gap_seconds {
        tell!("clients      {gap:.2} s without an acknowledged write");
    }
    tell!("lost writes  {} of {} that us-east-1 had acknowledged", drill.lost_writes.len(), drill.acknowledged_writes);
    if let Some(names) = &drill.names {
        tell!(
            "names        the last of {} resolvers that keep answers followed {:.0} s later, by AWS's clock",
            names.resolvers,
            names.later_seconds
        );
    }
    tell!("two primaries with traffic  {}", load.two_primaries().map_or("never", |_| "YES"));
    tell!("all names unhealthy at once {}", platform.lab.edge.ever_all_unhealthy().map_or("never", |_| "YES"));
    tell!("report       {}", place.display());
}

fn stand_ins(platform: &Platform) -> Vec<StandIn> {
    let scale = platform.lab.addresses().edge_scale;
    let clusters =
        platform.lab.addresses().clusters.iter().map(|cluster| format!("{}: {}", cluster.name, cluster.kind));
    let clusters = clusters.collect::<Vec<_>>().join("; ");
    let pair = [
        ("Amazon EKS", clusters),
        ("Pods", "the lab's services, started and ended with their Deployments".to_owned()),
        ("Amazon S3, SNS, Secrets Manager, ECR, Route 53, CloudFront", "ministack, emulating three regions".to_owned()),
        (
            "Replication of objects",
            "ministack's, which copies before it answers; AWS takes seconds to minutes".to_owned(),
        ),
        ("Redis", "a cache in the lab's services, filled from the database when first asked".to_owned()),
        (
            "Amazon RDS and EKS node groups",
            "moto, with the lab's layer that acts on the real PostgreSQL pair".to_owned(),
        ),
        ("Route 53 health checkers and resolvers", format!("the lab's edge; one second of theirs takes {scale} s")),
    ];
    pair.into_iter().map(|(part, by)| StandIn { part: part.to_owned(), by }).collect()
}

fn fired(desk: &Desk) -> Vec<FaultFired> {
    let mut all: Vec<FaultFired> = Vec::new();
    for call in desk.fired() {
        let fault = format!(
            "{} {}: {}",
            call.service,
            call.operation,
            call.fired.as_ref().map(|script| format!("{script:?}")).unwrap_or_default()
        );
        match all.iter_mut().find(|known| known.fault == fault) {
            Some(known) => known.times += 1,
            None => all.push(FaultFired { fault, times: 1, first_at: Some(call.at) }),
        }
    }
    all
}

/// `SCRIPT:SERVICE:OPERATION[:NTH]`, laid on a desk.
fn faults(scripts: &[String]) -> Result<Option<Desk>, Problem> {
    if scripts.is_empty() {
        return Ok(None);
    }
    let desk = Desk::new();
    for text in scripts {
        let unknown = || {
            Problem::input(format!(
                "--fault `{text}` is not understood; write SCRIPT:SERVICE:OPERATION[:NTH], where SCRIPT is reject, lose-answer, hold or slow, for example lose-answer:postgres:pg_promote"
            ))
        };
        let parts: Vec<&str> = text.split(':').collect();
        let [script, service, operation, nth @ ..] = parts.as_slice() else { return Err(unknown()) };
        let script = match *script {
            "reject" => Script::Reject {
                status: 503,
                code: if *service == "postgres" { "57P03" } else { "ServiceUnavailable" }.to_owned(),
            },
            "lose-answer" => Script::LoseAnswer,
            "hold" => Script::Hold,
            "slow" => Script::Slow(Duration::from_secs(3)),
            _ => return Err(unknown()),
        };
        let times = match nth {
            [] => Times::First(1),
            ["always"] => Times::Always,
            [nth] => Times::Nth(nth.parse().map_err(|_| unknown())?),
            _ => return Err(unknown()),
        };
        desk.lay(Selector::operation(operation).of(service), times, script);
    }
    Ok(Some(desk))
}
