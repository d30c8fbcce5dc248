//! Each state of `regional-failover` under each fault, and a kill of the runner after each state.
//!
//! A world costs seconds, so one run meets a script in every state: each script is laid once on the characteristic calls
//! of all states, and every line of the tables must have fired while the run was in its state. Faults that stay are met
//! one by one. A Task state that has no line fails a test.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lab::faults::{Call, Laid, Script, Selector, Times};
use platform::{Ended, INCOMPLETE, RECOVERED, REFUSED, STOPPED, World};
use recovery::plan::Approval;
use serde_json::Value;
use tokio::process::Child;

/// A call without which a state cannot do its work.
#[derive(Clone, Copy)]
struct Characteristic {
    state: &'static str,
    does: &'static str,
    service: &'static str,
    operation: &'static str,
    path: &'static str,
    /// A part of the body, where the same call means something else in another state.
    body: &'static str,
    /// Which of the calls that fit; others may speak to the same place before.
    nth: u32,
}

impl Characteristic {
    const fn saying(self, body: &'static str) -> Self {
        Characteristic { body, ..self }
    }

    const fn nth(self, nth: u32) -> Self {
        Characteristic { nth, ..self }
    }

    fn selector(&self) -> Selector {
        Selector::operation(self.operation).of(self.service).at(self.path).saying(self.body)
    }

    fn fits(&self, call: &Call) -> bool {
        call.service == self.service && call.operation.contains(self.operation) && call.path.contains(self.path)
    }
}

const fn call(
    state: &'static str,
    does: &'static str,
    service: &'static str,
    operation: &'static str,
    path: &'static str,
) -> Characteristic {
    Characteristic { state, does, service, operation, path, body: "", nth: 1 }
}

const FENCE: &str = "fence/sparc.json";
const CLOSE: &str = "set default_transaction_read_only = on";
const OPEN: &str = "reset default_transaction_read_only";
const WRITE: &str = "insert into recovery.write_attempt";

/// The way forward. A runner warms its connections up, which looks at the fence and at both servers once.
const FORWARD: [Characteristic; 24] = [
    call("PlanFailover", "reads the fence", "s3", "GET", FENCE).nth(2),
    call("PlanFailover", "looks at the standby", "postgres", "pg_control_system", "standby").nth(2),
    call("PlanFailover", "looks at the node group", "eks", "GET", "node-groups"),
    call("FencePrimary", "takes the fence", "s3", "PUT", FENCE).saying("\"held\""),
    call("FencePrimary", "closes the primary", "postgres", CLOSE, "primary"),
    call("FencePrimary", "proves it by a write", "postgres", WRITE, "primary"),
    call("FencePrimary", "stops writers", "kubernetes", "PATCH", "deployments").saying("\"replicas\":0"),
    call("ScaleNodegroup", "asks for nodes", "eks", "POST", "update-config"),
    call("NotifyDeclared", "tells people", "sns", "Publish", "").saying("Disaster Recovery Activated"),
    call("PromoteReplica", "says that it promotes", "s3", "PUT", FENCE).saying("\"promoting\""),
    call("PromoteReplica", "promotes", "postgres", "pg_promote", "standby"),
    call("PromoteReplica", "proves it by a write", "postgres", WRITE, "standby"),
    call("PromoteReplica", "says that it promoted", "s3", "PUT", FENCE).saying("\"moved\""),
    call("NotifyPromoted", "tells people", "sns", "Publish", "").saying("Database has moved"),
    call("AwaitCapacity", "counts nodes", "kubernetes", "GET", "nodes"),
    call("DeployWorkloads", "reads the bundle", "s3", "GET", "bundles/"),
    call("DeployWorkloads", "applies the bundle", "kubernetes", "PATCH", "configmaps"),
    call("VerifyRecovery", "asks a service", "services", "GET", "playback/healthz"),
    call("NotifyHealthy", "tells people", "sns", "Publish", "").saying("Services answer in the failover region"),
    call("SwapDns", "throws the switch", "s3", "PUT", "switch/"),
    call("VerifyReached", "asks the public name", "outside", "GET", "healthz"),
    call("EditRecords", "edits a record", "route53", "POST", "rrset"),
    call("EditRecords", "points the CDN", "cloudfront", "PUT", "distribution"),
    call("WriteReport", "keeps the report", "s3", "PUT", "reports/"),
];

/// How a run ends, which is told to people in the words of its end.
const OUTCOME: Characteristic = call("NotifyOutcome", "tells people", "sns", "Publish", "");

/// The way back of a run that a person approved and a guard stopped after the fence was up.
const BACK: [Characteristic; 8] = [
    call("AwaitApproval", "keeps the question", "s3", "PUT", "approvals/"),
    call("AwaitApproval", "asks people", "sns", "Publish", "").saying("Approval needed"),
    call("LiftFence", "gives up the fence", "s3", "PUT", FENCE).saying("\"lifted\""),
    call("LiftFence", "opens the primary", "postgres", OPEN, "primary"),
    call("LiftFence", "restarts writers", "kubernetes", "PATCH", "deployments").saying("replicas-before\":null"),
    // The first is the fence's own proof, which stops the run.
    call("LiftFence", "proves it by a write", "postgres", WRITE, "primary").nth(2),
    call("ReleaseCapacity", "gives nodes back", "eks", "POST", "update-config").saying("\"minSize\":2"),
    call("WriteReport", "keeps the report", "s3", "PUT", "reports/"),
];

/// The Task states of a machine, those of branches included.
fn task_states(machine: &Value, into: &mut BTreeSet<String>) {
    for (name, state) in machine["States"].as_object().unwrap() {
        if state["Type"] == "Task" {
            into.insert(name.clone());
        }
        for branch in state["Branches"].as_array().into_iter().flatten() {
            task_states(branch, into);
        }
    }
}

#[test]
fn every_task_state_of_the_machine_meets_every_fault() {
    let file = platform::repository().join("statemachines/regional-failover.asl.json");
    let machine: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut states = BTreeSet::new();
    task_states(&machine, &mut states);
    let rows = FORWARD.iter().chain(&BACK).chain([&OUTCOME]).map(|row| row.state.to_owned());
    assert_eq!(states, rows.collect(), "the machine's Task states, and those that have a line in a table here");
}

/// A fault script, and how it is laid on a call.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Rejected,
    AnswerLost,
    Held,
    Slow,
}

impl Fault {
    fn script(self, row: &Characteristic) -> Script {
        match self {
            Fault::Rejected => {
                let code = if row.service == "postgres" { "57P03" } else { "ServiceUnavailable" };
                Script::Reject { status: 503, code: code.to_owned() }
            }
            Fault::AnswerLost => Script::LoseAnswer,
            Fault::Held => Script::Hold,
            Fault::Slow => Script::Slow(Duration::from_millis(1500)),
        }
    }

    /// The AWS SDK tries twice by itself: two in a row reach the state machine's own retries.
    fn in_a_row(self, row: &Characteristic) -> u32 {
        if self == Fault::Rejected && row.service != "postgres" { 2 } else { 1 }
    }

    /// Lays it on all of these calls.
    fn lay<'a>(self, world: &World, rows: impl Iterator<Item = &'a Characteristic>) -> Vec<(Characteristic, Laid)> {
        let mut laid = Vec::new();
        for row in rows {
            for again in 0..self.in_a_row(row) {
                let times = Times::Nth(row.nth + again);
                laid.push((*row, world.desk.lay(row.selector(), times, self.script(row))));
            }
        }
        laid
    }
}

/// Lets go of what is held, every three seconds, until the answer is dropped.
struct Releasing(tokio::task::JoinHandle<()>);

impl Releasing {
    fn start(world: &World) -> Self {
        let desk = world.desk.clone();
        Releasing(tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(3)).await;
                desk.release();
            }
        }))
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Every script that was laid down has acted, once, while the run was in the state that the table names.
fn all_have_fired(world: &World, ended: &Ended, laid: &[(Characteristic, Laid)]) {
    let calls = world.desk.calls();
    for (row, laid) in laid {
        let what = format!("{} {}", row.state, row.does);
        let fired: Vec<&Call> = calls.iter().filter(|call| call.fired_by == Some(*laid)).collect();
        let [met] = fired.as_slice() else { panic!("{what}: met its fault {} times; {}", fired.len(), ended.said) };
        let (from, to) = world.time_in(&ended.name, row.state);
        assert!(
            from <= met.at && met.at <= to,
            "{what}: met its fault at {}, in another state; {}",
            met.at,
            ended.said
        );
    }
}

/// One graceful run that meets the script in every state on its way, and arrives.
async fn every_state_meets(fault: Fault) {
    let mut world = World::start(Approval::Automatic).await;
    let outcome = OUTCOME.saying("Recovered -");
    let laid = fault.lay(&world, FORWARD.iter().chain([&outcome]));
    let releasing = Releasing::start(&world);
    let asked_at = Instant::now();
    let ended = world.run("swept", "manual-graceful").await;
    drop(releasing);
    // What was held is done now, long after whoever asked for it.
    world.desk.release();
    world.has_moved(&ended).await;
    all_have_fired(&world, &ended, &laid);
    world.is_accounted_for(&ended, "recovered").await;
    world.load.wait_for_acknowledgements_of("standby", asked_at).await.unwrap();
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_call_in_every_state_delays_the_run_and_stops_nothing() {
    every_state_meets(Fault::Rejected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_in_every_state_does_nothing_twice() {
    every_state_meets(Fault::AnswerLost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_held_in_every_state_and_done_late_breaks_nothing() {
    every_state_meets(Fault::Held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_in_every_state_is_waited_for() {
    every_state_meets(Fault::Slow).await;
}

/// A guard of the fence: services' own role is locked out, so nobody can say whether the primary is closed.
fn stop_at_the_fence(world: &World) {
    let locked_out = Script::Reject { status: 503, code: "28P01".to_owned() };
    world.desk.lay(Selector::operation(WRITE).of("postgres").at("primary"), Times::First(1), locked_out);
}

/// The way back, in one world: each run leaves it as it was, whatever goes wrong while it puts things back.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_puts_everything_back_under_every_fault() {
    let world = World::start(Approval::Required).await;
    let before = world.standing().await;
    let outcome = OUTCOME.saying("Failover refused");
    let faults =
        [("rejected", Fault::Rejected), ("lost", Fault::AnswerLost), ("held", Fault::Held), ("slow", Fault::Slow)];
    for (name, fault) in faults {
        stop_at_the_fence(&world);
        let laid = fault.lay(&world, BACK.iter().chain([&outcome]));
        let releasing = Releasing::start(&world);
        let run = world.begin(name, "manual-graceful");
        world.answer(name, "approve").await;
        let ended = world.end(name, run).await;
        drop(releasing);
        world.desk.clear();
        all_have_fired(&world, &ended, &laid);
        world.has_not_moved(&ended, REFUSED, &before).await;
        world.is_accounted_for(&ended, "refused").await;
    }
}

/// What cannot be put back is named in the report, and the run ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_put_back_is_left_to_a_person_by_name() {
    let world = World::start(Approval::Automatic).await;
    stop_at_the_fence(&world);
    let locked_out = |code: &str| Script::Reject { status: 403, code: code.to_owned() };
    world.desk.lay(Selector::operation(OPEN).of("postgres").at("primary"), Times::Always, locked_out("42501"));
    let capacity = Selector::request("POST", "update-config").saying("\"minSize\":2");
    world.desk.lay(capacity, Times::Always, locked_out("AccessDeniedException"));
    let ended = world.run("left", "manual-graceful").await;
    assert_eq!(ended.code, Some(REFUSED), "{}", ended.said);
    world.nothing_is_broken(&ended).await;
    world.is_accounted_for(&ended, "refused").await;
    let record: Value =
        serde_json::from_slice(&std::fs::read(world.folder("left").join("record.json")).unwrap()).unwrap();
    let left = record["reversal"]["fence"]["left"].to_string();
    assert!(left.contains("reset default_transaction_read_only"), "{left}");
    assert!(record["troubles"].to_string().contains("ReleaseCapacity"), "{}", record["troubles"]);

    // The next run goes on from there.
    world.desk.clear();
    let ended = world.run("moves", "manual-graceful").await;
    world.has_moved(&ended).await;
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
        Kill::During(call("FencePrimary", "takes the fence", "s3", "PUT", FENCE)),
        Kill::After("ScaleNodegroup"),
        Kill::After("FencePrimary"),
        Kill::During(call("PromoteReplica", "promotes", "postgres", "pg_promote", "")),
        Kill::After("NotifyDeclared"),
        Kill::After("PromoteReplica"),
        Kill::After("NotifyPromoted"),
        Kill::After("AwaitCapacity"),
        Kill::During(call("DeployWorkloads", "applies the bundle", "kubernetes", "PATCH", "configmaps")),
        Kill::After("DeployWorkloads"),
        Kill::After("VerifyRecovery"),
        Kill::After("NotifyHealthy"),
        Kill::During(call("SwapDns", "throws the switch", "s3", "PUT", "switch/")),
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
        Kill::During(call("FencePrimary", "takes the fence", "s3", "PUT", FENCE)),
        Kill::During(call("PromoteReplica", "promotes", "postgres", "pg_promote", "")),
        Kill::After("PromoteReplica"),
        Kill::During(call("SwapDns", "throws the switch", "s3", "PUT", "switch/")),
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
            platform::wait_for(row.does, || world.desk.calls().iter().any(|call| row.fits(call))).await;
        }
    }
    assert!(run.try_wait().unwrap().is_none(), "the run ended before it could be killed");
}
