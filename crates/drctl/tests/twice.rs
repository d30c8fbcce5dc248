//! Every function of a run invoked twice in a row: the second time changes nothing.
//!
//! Step Functions may invoke a function whose answer it lost, and so may a runner that was killed. Here every invocation
//! that succeeds is made again at once, with the same request, on the way back and on the way forward.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use asl::{
    Execution, ExecutionOutcome, ExecutionStatus, Machine, Settings, SystemClock, TaskCall, TaskHandler, TaskOutcome,
    Unobserved,
};
use async_trait::async_trait;
use lab::faults::{Script, Selector, Times};
use platform::{Ended, RECOVERED, REFUSED, World, happening_now};
use recovery::plan::Approval;
use recovery_aws::Aws;
use recovery_suite::{Linked, Suite};
use serde_json::Value;

/// The functions, each invoked twice.
struct Twice<'a> {
    linked: Linked,
    world: &'a World,
    /// One pair of invocations at a time: branches must not change the world between two looks at it.
    turn: tokio::sync::Mutex<()>,
    repeated: Mutex<BTreeMap<String, u32>>,
    differences: Mutex<Vec<String>>,
}

#[async_trait]
impl TaskHandler for Twice<'_> {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        let _turn = self.turn.lock().await;
        let first = self.linked.invoke(call.clone()).await;
        if matches!(first, TaskOutcome::Failure { .. }) {
            return first;
        }
        let state = call.state.to_string();
        let once = self.world.footprint().await;
        let second = self.linked.invoke(call).await;
        let twice = self.world.footprint().await;
        let mut differences = self.differences.lock().unwrap();
        if once != twice {
            differences.push(format!("{state} changed the world again: {once:#?} became {twice:#?}"));
        }
        if let TaskOutcome::Failure { error, cause } = &second {
            differences.push(format!("{state} failed the second time: {error:?} {cause:?}"));
        }
        *self.repeated.lock().unwrap().entry(state).or_default() += 1;
        second
    }
}

async fn run_twice(world: &World, suite: &Arc<Suite>, name: &str) -> (ExecutionOutcome, Vec<String>) {
    let file = platform::repository().join("statemachines/regional-failover.asl.json");
    let filled = asl::substitution::fill(&std::fs::read_to_string(file).unwrap(), &suite.substitutions()).unwrap();
    let machine = Arc::new(Machine::parse(&filled).unwrap());
    let event: Value = serde_json::from_str(&happening_now("manual-graceful")).unwrap();
    let settings = Settings::new("eu-west-1", "000000000000", "regional-failover", name);
    let twice = Twice {
        linked: Linked(Arc::clone(suite)),
        world,
        turn: tokio::sync::Mutex::default(),
        repeated: Mutex::default(),
        differences: Mutex::default(),
    };
    let execution = Execution::start(machine, event, settings);
    let ended = execution.run(&twice, &SystemClock, &mut Unobserved).await.unwrap();
    assert_eq!(twice.differences.into_inner().unwrap(), Vec::<String>::new());
    (ended, twice.repeated.into_inner().unwrap().into_keys().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_function_invoked_twice_in_a_row_gives_the_same_world() {
    let mut world = World::start(Approval::Automatic).await;
    let before = world.standing().await;
    let settings = recovery_lambda::Settings::read(world.platform.plan()).unwrap();
    let aws = Aws::from_environment(&settings.plan, world.platform.lab.env()).await;
    let suite = Suite::with(settings, aws).unwrap();

    // The services' role is locked out once, so nobody can say whether the primary is closed: the run is put back.
    let locked_out = Script::Reject { status: 503, code: "28P01".to_owned() };
    let write = Selector::operation("insert into recovery.write_attempt").of("postgres").at("primary");
    world.desk.lay(write, Times::First(1), locked_out);
    let (stopped, back) = run_twice(&world, &suite, "back").await;
    assert_eq!(stopped.error.as_deref(), Some("Recovery.Refused"), "{stopped:?}");
    let ended = Ended { name: "back".to_owned(), code: Some(REFUSED), said: format!("{stopped:?}") };
    world.has_not_moved(&ended, REFUSED, &before).await;
    for state in ["PlanFailover", "LiftFence", "ReleaseCapacity", "WriteReport", "NotifyOutcome"] {
        assert!(back.iter().any(|repeated| repeated == state), "{state} was not repeated: {back:?}");
    }

    let (moved, forward) = run_twice(&world, &suite, "forward").await;
    assert_eq!(moved.status, ExecutionStatus::Succeeded, "{moved:?}");
    assert_eq!(forward.len(), 15, "every Task state of the way forward: {forward:?}");
    let ended = Ended { name: "forward".to_owned(), code: Some(RECOVERED), said: format!("{moved:?}") };
    world.has_moved(&ended).await;

    let sent = world.platform.lab.aws.sent(&world.platform.lab.addresses().aws).await.unwrap();
    let mut subjects: Vec<&str> = sent.iter().filter_map(|message| message.subject.as_deref()).collect();
    let all = subjects.len();
    subjects.sort_unstable();
    subjects.dedup();
    // Both runs were declared.
    assert_eq!((subjects.len(), all), (5, 6), "people heard the same twice: {subjects:?}");
    assert_eq!(world.lost_writes().await, 0);
}
