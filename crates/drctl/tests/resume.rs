//! A run whose runner was killed, taken up from its journal.

#![allow(clippy::unwrap_used)]

mod platform;

use std::process::Stdio;

use platform::World;
use recovery::plan::Approval;
use tokio::process::Child;

const RUN: &str = "resumed";

/// Takes up the run in a process of its own.
fn resume(world: &World) -> Child {
    let mut resume = world.child(&["resume", RUN]);
    resume.arg("--runs-dir").arg(world.folder(RUN).parent().unwrap());
    resume.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until this runner has noted that a state was left.
async fn left(world: &World, runner: &Child, state: &str) {
    let ours = format!("\"pid\": {}", runner.id().unwrap());
    let exited = format!("\"name\":\"{state}\"");
    let read = |name: &str| std::fs::read_to_string(world.folder(RUN).join(name)).unwrap_or_default();
    let is_left = || {
        let history = read("history.jsonl");
        read("run.json").contains(&ours)
            && history.lines().any(|event| event.contains("StateExited\"") && event.contains(&exited))
    };
    platform::wait_for(state, is_left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_goes_on_from_its_journal_and_asks_nothing_twice() {
    let mut world = World::start(Approval::Automatic).await;
    let mut runner = world.begin(RUN, "manual-graceful");
    for state in ["PlanFailover", "PromoteReplica", "DeployWorkloads", "SwapDns"] {
        left(&world, &runner, state).await;
        runner.kill().await.unwrap();
        runner = resume(&world);
    }
    let ended = world.end(RUN, runner).await;
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;

    let calls = world.desk.calls();
    let count = |operation: &str| calls.iter().filter(|call| call.operation.contains(operation)).count();
    assert_eq!(count("pg_promote"), 1, "the answer of the promotion was in the journal; {}", ended.said);
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);

    let again = world.end(RUN, resume(&world)).await;
    assert_eq!(again.code, Some(2), "{}", again.said);
    assert!(again.said.contains("has ended"), "{}", again.said);
}
