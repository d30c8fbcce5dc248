//! Each state of `regional-failover` under each fault, and a kill of the runner after each state.
//!
//! A world costs seconds, so one run meets a script in every state: each script is laid once on the characteristic calls
//! of all states, and every line of the table must have fired. Faults that stay are met one by one.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::time::{Duration, Instant};

use lab::faults::{Call, Script, Selector, Times};
use platform::{INCOMPLETE, RECOVERED, STOPPED, World};
use recovery::plan::Approval;
use serde_json::Value;
use tokio::process::Child;

/// A call without which a state cannot do its work.
struct Characteristic {
    state: &'static str,
    service: &'static str,
    operation: &'static str,
    path: &'static str,
    /// Which of the calls that fit; other states may speak to the same place before.
    nth: u32,
}

const fn call(
    state: &'static str,
    service: &'static str,
    operation: &'static str,
    path: &'static str,
    nth: u32,
) -> Characteristic {
    Characteristic { state, service, operation, path, nth }
}

/// Every Task state; `NotifyHealthy` and the others that only tell people are one function with one call.
const CALLS: [Characteristic; 18] = [
    call("PlanFailover reads the fence", "s3", "GET", "fence/sparc.json", 1),
    call("PlanFailover looks at the standby", "postgres", "pg_control_system", "", 2),
    call("PlanFailover looks at the node group", "eks", "GET", "node-groups", 1),
    call("FencePrimary takes the fence", "s3", "PUT", "fence/sparc.json", 1),
    call("FencePrimary closes the primary", "postgres", "default_transaction_read_only", "", 1),
    call("FencePrimary stops writers", "kubernetes", "PATCH", "deployments", 1),
    call("ScaleNodegroup asks for nodes", "eks", "POST", "update-config", 1),
    call("NotifyDeclared tells people", "sns", "Publish", "", 1),
    call("PromoteReplica promotes", "postgres", "pg_promote", "", 1),
    call("PromoteReplica proves it by a write", "postgres", "insert into recovery.write_attempt", "", 3),
    call("NotifyPromoted tells people", "sns", "Publish", "", 3),
    call("AwaitCapacity counts nodes", "kubernetes", "GET", "nodes", 1),
    call("DeployWorkloads applies the bundle", "kubernetes", "PATCH", "configmaps", 1),
    call("VerifyRecovery proves it by a write", "postgres", "insert into recovery.write_attempt", "", 5),
    call("SwapDns throws the switch", "s3", "PUT", "switch/", 1),
    call("EditRecords edits a record", "route53", "POST", "rrset", 1),
    call("EditRecords points the CDN", "cloudfront", "PUT", "distribution", 1),
    call("WriteReport keeps the report", "s3", "PUT", "reports/", 1),
];

fn selector(call: &Characteristic) -> Selector {
    if call.path.is_empty() {
        Selector::operation(call.operation).of(call.service)
    } else {
        Selector::request(call.operation, call.path).of(call.service)
    }
}

fn fits(row: &Characteristic, call: &Call) -> bool {
    call.service == row.service && call.operation.contains(row.operation) && call.path.contains(row.path)
}

/// One graceful run that meets the script in every state, and arrives.
async fn every_state_meets(
    in_a_row: impl Fn(&Characteristic) -> u32,
    script: impl Fn(&Characteristic) -> Script,
    release_every: Option<Duration>,
) {
    let mut world = World::start(Approval::Automatic).await;
    for row in &CALLS {
        for again in 0..in_a_row(row) {
            world.desk.lay(selector(row), Times::Nth(row.nth + again), script(row));
        }
    }
    let releasing = release_every.map(|every| {
        let desk = world.desk.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                desk.release();
            }
        })
    });
    let asked_at = Instant::now();
    let ended = world.run("swept", "manual-graceful").await;
    if let Some(releasing) = releasing {
        releasing.abort();
    }
    // What was held is done now, long after whoever asked for it.
    world.desk.release();
    let fired = world.desk.fired();
    for row in &CALLS {
        assert!(fired.iter().any(|call| fits(row, call)), "{} did not meet its fault; {}", row.state, ended.said);
    }
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;
    world.load.wait_for_acknowledgements_of("standby", asked_at).await.unwrap();
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_call_in_every_state_delays_the_run_and_stops_nothing() {
    let code = |row: &Characteristic| if row.service == "postgres" { "57P03" } else { "ServiceUnavailable" };
    // The AWS SDK tries twice by itself: two in a row reach the state machine's own retries.
    let in_a_row = |row: &Characteristic| if row.service == "postgres" { 1 } else { 2 };
    every_state_meets(in_a_row, |row| Script::Reject { status: 503, code: code(row).to_owned() }, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_in_every_state_does_nothing_twice() {
    every_state_meets(|_| 1, |_| Script::LoseAnswer, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_held_in_every_state_and_done_late_breaks_nothing() {
    every_state_meets(|_| 1, |_| Script::Hold, Some(Duration::from_secs(3))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_in_every_state_is_waited_for() {
    every_state_meets(|_| 1, |_| Script::Slow(Duration::from_millis(1500)), None).await;
}

/// Faults that stay, each in a run of its own, in one world: a run that stops in time leaves it as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_stays_stops_the_run_in_time_or_lets_it_go_on_but_never_back() {
    let mut world = World::start(Approval::Automatic).await;
    let before = world.standing().await;
    let reject = |code: &str| Script::Reject { status: 503, code: code.to_owned() };
    let in_time = [
        ("the-standby-cannot-be-seen", Selector::operation("pg_control_system").of("postgres"), "57P03"),
        ("the-fence-cannot-be-taken", Selector::request("PUT", "fence/sparc.json").of("s3"), "ServiceUnavailable"),
    ];
    for (situation, calls, code) in in_time {
        world.desk.lay(calls, Times::Always, reject(code));
        let ended = world.run(situation, "manual-graceful").await;
        world.desk.clear();
        world.has_not_moved(&ended, STOPPED, &before).await;
        world.is_accounted_for(&ended, "failed").await;
    }

    let asked_at = Instant::now();
    world.desk.lay(Selector::request("PUT", "switch/").of("s3"), Times::Always, reject("ServiceUnavailable"));
    let ended = world.run("stays", "manual-graceful").await;
    world.desk.clear();
    assert_eq!(ended.code, Some(INCOMPLETE), "{}", ended.said);
    world.nothing_is_broken(&ended).await;
    world.is_accounted_for(&ended, "incomplete").await;
    world.load.wait_for_acknowledgements_of("standby", asked_at).await.unwrap();
    assert!(!world.platform.lab.pair.standby.position().await.unwrap().in_recovery, "{}", ended.said);

    // The channel, the control plane of names and the reports' place stay silent: customers are served all the same.
    let silent = [
        ("NotifyOutcome", Selector::operation("Publish").of("sns")),
        ("EditRecords", Selector::request("POST", "rrset").of("route53")),
        ("WriteReport", Selector::request("PUT", "reports/").of("s3")),
    ];
    for (_, calls) in &silent {
        world.desk.lay(calls.clone(), Times::Always, reject("ServiceUnavailable"));
    }
    let ended = world.run("stays", "manual-graceful").await;
    assert_eq!(ended.code, Some(RECOVERED), "{}", ended.said);
    world.has_moved(&ended).await;
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(world.folder("stays").join(name)).unwrap()).unwrap()
    };
    let troubles = read("record.json")["troubles"].to_string();
    for (state, _) in silent {
        assert!(troubles.contains(&format!("\"{state}\"")), "{state} said nothing: {troubles}");
    }
    assert_eq!(read("report.json")["outcome"], "recovered", "the report is here if nowhere else");
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}

/// When the runner is killed, in the order of a run.
enum Kill {
    /// As soon as the engine has noted that a state was left.
    After(&'static str),
    /// As soon as this call is on its way, whatever becomes of it.
    During(Characteristic),
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_killed_after_every_side_effect_goes_on_under_the_same_name_and_promotes_once() {
    let mut world = World::start(Approval::Automatic).await;
    let asked_at = Instant::now();
    let kills = [
        Kill::After("PlanFailover"),
        Kill::During(call("FencePrimary takes the fence", "s3", "PUT", "fence/sparc.json", 1)),
        Kill::After("ScaleNodegroup"),
        Kill::After("FencePrimary"),
        Kill::During(call("PromoteReplica promotes", "postgres", "pg_promote", "", 1)),
        Kill::After("NotifyDeclared"),
        Kill::After("PromoteReplica"),
        Kill::After("NotifyPromoted"),
        Kill::After("AwaitCapacity"),
        Kill::During(call("DeployWorkloads applies the bundle", "kubernetes", "PATCH", "configmaps", 1)),
        Kill::After("DeployWorkloads"),
        Kill::After("VerifyRecovery"),
        Kill::After("NotifyHealthy"),
        Kill::During(call("SwapDns throws the switch", "s3", "PUT", "switch/", 1)),
        Kill::After("SwapDns"),
        Kill::After("VerifyReached"),
        Kill::After("EditRecords"),
        Kill::After("WriteReport"),
    ];
    killed_at_each(&world, &kills, "manual-graceful").await;
    world.load.wait_for_acknowledgements_of("standby", asked_at).await.unwrap();
    assert_eq!(world.lost_writes().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_killed_while_its_region_is_lost_promotes_once() {
    let mut world = World::start(Approval::Automatic).await;
    let lost_at = Instant::now();
    world.platform.lab.lose_primary_region();
    let kills = [
        Kill::During(call("FencePrimary takes the fence", "s3", "PUT", "fence/sparc.json", 1)),
        Kill::During(call("PromoteReplica promotes", "postgres", "pg_promote", "", 1)),
        Kill::After("PromoteReplica"),
        Kill::During(call("SwapDns throws the switch", "s3", "PUT", "switch/", 1)),
    ];
    killed_at_each(&world, &kills, "primary-region-alarm").await;
    world.load.wait_for_acknowledgements_of("standby", lost_at).await.unwrap();
    world.load.stop().await;
}

/// Begins one run again and again, kills it at each of these moments, and lets it arrive in the end.
async fn killed_at_each(world: &World, kills: &[Kill], event: &str) {
    for kill in kills {
        let mut run = world.begin("killed", event);
        reached(world, kill, &mut run).await;
        run.kill().await.unwrap();
    }
    let ended = world.run("killed", event).await;
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;
    let promotions = world.desk.calls().iter().filter(|call| call.operation.contains("pg_promote")).count();
    assert!(promotions >= 1, "the promotion goes through the desk");
}

/// Waits until it is time to kill; a run that ends before has not done what it is killed after.
async fn reached(world: &World, kill: &Kill, run: &mut Child) {
    let pid = run.id();
    let card = world.folder("killed").join("run.json");
    let history = world.folder("killed").join("history.jsonl");
    let is_ours = || {
        let card = std::fs::read_to_string(&card).unwrap_or_default();
        pid.is_some_and(|pid| card.contains(&format!("\"pid\": {pid}")))
    };
    platform::wait_for("the run begins", is_ours).await;
    match kill {
        Kill::After(state) => {
            let left = format!("\"name\":\"{state}\"");
            let is_left = || {
                let events = std::fs::read_to_string(&history).unwrap_or_default();
                events.lines().any(|event| event.contains("\"TaskStateExited\"") && event.contains(&left))
            };
            platform::wait_for(state, is_left).await;
        }
        Kill::During(row) => {
            platform::wait_for(row.state, || world.desk.calls().iter().any(|call| fits(row, call))).await;
        }
    }
    assert!(run.try_wait().unwrap().is_none(), "the run ended before it could be killed");
}
