//! What people do to a run: from another process, on another machine, while it runs and after its end.

#![allow(clippy::unwrap_used)]

mod platform;

use std::{path::Path, process::Stdio, time::Duration};

use lab::faults::{Script, Selector, Times};
use platform::{Ended, INCOMPLETE, World, wait_for};
use recovery::plan::Approval;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// `drctl` on the machine that keeps its runs in this folder.
fn command(world: &World, runs: &Path, arguments: &[&str]) -> Command {
    let mut command = world.child(arguments);
    command.arg("--runs-dir").arg(runs).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn said(world: &World, runs: &Path, arguments: &[&str]) -> Ended {
    let child = command(world, runs, arguments).spawn().unwrap();
    world.end(arguments[1], child).await
}

const WHO: [&str; 4] = ["--by", "ann@sparc.com", "--because", "I have looked"];

/// What Ann does.
async fn ann(world: &World, runs: &Path, arguments: &[&str]) -> Ended {
    let arguments: Vec<&str> = arguments.iter().copied().chain(WHO).collect();
    said(world, runs, &arguments).await
}

fn home(world: &World, run: &str) -> std::path::PathBuf {
    world.folder(run).parent().unwrap().to_path_buf()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_default()).unwrap_or_default()
}

fn deeds(report: &Value) -> Vec<String> {
    let done = report["record"]["interventions"].as_array().cloned().unwrap_or_default();
    done.iter().map(|done| done["deed"]["kind"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the run's history has left a state.
async fn left(world: &World, run: &str, state: &str) {
    let exited = format!("\"name\":\"{state}\"");
    let history = world.folder(run).join("history.jsonl");
    let is_left = || {
        let text = std::fs::read_to_string(&history).unwrap_or_default();
        text.lines().any(|event| event.contains("StateExited\"") && event.contains(&exited))
    };
    wait_for(state, is_left).await;
}

/// Waits until the bucket has this many records of the run's journal.
async fn copied(world: &World, run: &str, records: u64) -> Value {
    loop {
        let head = world.evidence(&format!("runs/{run}/head.json")).await;
        let head: Value = head.map(|text| serde_json::from_str(&text).unwrap()).unwrap_or_default();
        if head["records"].as_u64().is_some_and(|copied| copied >= records) {
            return head;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_paused_a_step_is_left_out_and_it_goes_on() {
    let world = World::start(Approval::Automatic).await;
    let run = world.begin("paused", "manual-graceful");
    let runs = home(&world, "paused");
    wait_for("the run is known", || world.folder("paused").join("run.json").is_file()).await;

    let paused = ann(&world, &runs, &["pause", "paused"]).await;
    assert_eq!(paused.code, Some(0), "{}", paused.said);
    assert!(paused.said.contains("no further step is begun"), "{}", paused.said);
    let status = said(&world, &runs, &["status", "paused"]).await;
    assert!(status.said.contains("paused by ann@sparc.com"), "{}", status.said);
    assert!(status.said.contains("I have looked"), "{}", status.said);
    assert!(status.said.contains("Next: drctl continue paused"), "{}", status.said);
    let list = said(&world, &runs, &["status", "--local"]).await;
    assert!(list.said.contains("paused by ann@sparc.com"), "{}", list.said);
    // Another machine sees it too, and whose view that is.
    let other = TempDir::new().unwrap();
    copied(&world, "paused", 1).await;
    let status = said(&world, other.path(), &["status", "paused"]).await;
    assert!(status.said.contains("into the evidence bucket"), "{}", status.said);
    let elsewhere = ann(&world, other.path(), &["pause", "paused"]).await;
    assert_eq!(elsewhere.code, Some(2), "{}", elsewhere.said);
    assert!(elsewhere.said.contains("say it there"), "{}", elsewhere.said);

    for (state, why) in [
        ("PromoteReplica", "only a write that was committed says that it happened"),
        ("FencePrimary", "a promotion makes two primaries"),
        ("VerifyRecovery", "names must not move before"),
        ("IsPromoted", "is no Task"),
        ("EditRecord", "did you mean `EditRecords`?"),
    ] {
        let refused = ann(&world, &runs, &["skip", "paused", state]).await;
        assert_eq!(refused.code, Some(2), "{state}: {}", refused.said);
        assert!(refused.said.contains(why) && refused.said.trim().lines().count() == 1, "{state}: {}", refused.said);
    }
    let skipped = ann(&world, &runs, &["skip", "paused", "EditRecords"]).await;
    assert_eq!(skipped.code, Some(0), "{}", skipped.said);
    let working = said(&world, &runs, &["resume", "paused"]).await;
    assert!(working.code == Some(2) && working.said.contains("works on this run already"), "{}", working.said);

    let went_on = ann(&world, &runs, &["continue", "paused"]).await;
    assert_eq!(went_on.code, Some(0), "{}", went_on.said);
    let ended = world.end("paused", run).await;
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;
    assert!(!world.desk.calls().iter().any(|call| call.path.contains("rrset")), "a step that was skipped was done");
    let report = json(&world.folder("paused").join("report.json"));
    assert_eq!(deeds(&report), ["pause", "skip", "continue"]);
    let kept: Value = serde_json::from_str(&world.evidence("reports/paused/report.json").await.unwrap()).unwrap();
    assert_eq!(deeds(&kept), ["pause", "skip", "continue"], "the report that a function wrote says so too");
    let text = std::fs::read_to_string(world.folder("paused").join("report.md")).unwrap();
    assert!(text.contains("ann@sparc.com skipped `EditRecords`"), "{text}");
    let late = ann(&world, &runs, &["pause", "paused"]).await;
    assert!(late.code == Some(2) && late.said.contains("has ended"), "{}", late.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_takes_a_run_up_and_only_one_of_them_does() {
    let mut world = World::start(Approval::Automatic).await;
    // It dies in the middle of a step, with all that it has written in the bucket.
    world.desk.lay(Selector::request("PUT", "fence/").of("s3"), Times::Always, Script::Hold);
    let mut laptop = world.begin("moved", "manual-graceful");
    world.desk.wait_for_fired(1).await;
    let journal = world.folder("moved").join("journal");
    while copied(&world, "moved", 1).await["records"] != std::fs::read_to_string(&journal).unwrap().lines().count() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    laptop.kill().await.unwrap();
    world.desk.clear();
    world.desk.release();

    let machines = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let resume = |runs: &Path| -> Child {
        command(&world, runs, &["resume", "moved", "--by", "bob@sparc.com"]).spawn().unwrap()
    };
    let [one, other] = [resume(machines[0].path()), resume(machines[1].path())];
    let (one, other) = tokio::join!(world.end("moved", one), world.end("moved", other));
    let (winner, loser, at) = if one.code == Some(0) { (one, other, 0) } else { (other, one, 1) };
    assert_eq!(loser.code, Some(2), "both went on: {} and {}", winner.said, loser.said);
    assert!(loser.said.contains("works on run `moved`"), "{}", loser.said);
    world.has_moved(&winner).await;
    let promotions = || world.desk.calls().iter().filter(|call| call.operation.contains("pg_promote")).count();
    assert_eq!(promotions(), 1, "{}", winner.said);
    let report = json(&machines[at].path().join("moved/report.json"));
    assert_eq!(report["outcome"], "recovered");
    assert_eq!(deeds(&report), ["take-over"]);
    assert_eq!(report["record"]["interventions"][0]["by"], "bob@sparc.com");

    // A machine that has no run of its own sees it all the same.
    let elsewhere = TempDir::new().unwrap();
    let listed = command(&world, elsewhere.path(), &["status"]).output().await.unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let row = listed.lines().find(|line| line.trim_start().starts_with("moved ")).unwrap_or_else(|| panic!("{listed}"));
    assert!(row.contains("succeeded, by") && row.contains("regional-failover"), "{row}");

    // The laptop comes back, learns how it ended, and does nothing.
    let back = said(&world, &home(&world, "moved"), &["resume", "moved"]).await;
    assert_eq!(back.code, Some(0), "{}", back.said);
    assert_eq!(json(&world.folder("moved").join("report.json"))["outcome"], "recovered", "{}", back.said);
    assert_eq!(promotions(), 1, "{}", back.said);
    assert_eq!(world.lost_writes().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_has_lost_the_run_begins_no_further_step() {
    let mut world = World::start(Approval::Required).await;
    let laptop = world.begin("lost", "manual-graceful");
    wait_for("the run asks", || world.folder("lost").join("approval-request.json").is_file()).await;
    copied(&world, "lost", 6).await;
    // It sleeps long enough to be taken for gone.
    let pid = nix::unistd::Pid::from_raw(laptop.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let elsewhere = TempDir::new().unwrap();
    let taker = command(&world, elsewhere.path(), &["resume", "lost"]).spawn().unwrap();
    wait_for("it is taken over", || elsewhere.path().join("lost/approval-request.json").is_file()).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();

    let slept = world.end("lost", laptop).await;
    assert_eq!(slept.code, Some(1), "{}", slept.said);
    assert!(slept.said.contains("has taken run `lost` over"), "{}", slept.said);
    let approved = ann(&world, elsewhere.path(), &["approve", "lost"]).await;
    assert_eq!(approved.code, Some(0), "{}", approved.said);
    let ended = world.end("lost", taker).await;
    world.has_moved(&ended).await;
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_confirm_where_the_plan_asks_for_two() {
    let world = World::start_with(Approval::Required, &[("approvals = 1", "approvals = 2")]).await;
    let run = world.begin("two", "manual-graceful");
    let runs = home(&world, "two");
    wait_for("the run asks", || world.folder("two").join("approval-request.json").is_file()).await;

    let first = ann(&world, &runs, &["approve", "two"]).await;
    assert_eq!(first.code, Some(0), "{}", first.said);
    assert!(first.said.contains("one more person must confirm it"), "{}", first.said);
    let again = said(&world, &runs, &["approve", "two", "--by", " Ann@sparc.com", "--because", "twice"]).await;
    assert_eq!(again.code, Some(2), "{}", again.said);
    assert!(again.said.contains("it takes another person"), "{}", again.said);
    let status = said(&world, &runs, &["status", "two"]).await;
    assert!(status.said.contains("1 must still confirm; confirmed by ann@sparc.com"), "{}", status.said);

    // The second person sits somewhere else.
    let elsewhere = TempDir::new().unwrap();
    let second = ["approve", "two", "--by", "bob@sparc.com", "--because", "the status page agrees"];
    let second = said(&world, elsewhere.path(), &second).await;
    assert_eq!(second.code, Some(0), "{}", second.said);
    let ended = world.end("two", run).await;
    world.has_moved(&ended).await;
    let report = json(&world.folder("two").join("report.json"));
    let approval = &report["record"]["approval"];
    let mut people = [approval["by"].as_str().unwrap(), approval["seconded_by"][0]["by"].as_str().unwrap()];
    people.sort();
    assert_eq!(people, ["ann@sparc.com", "bob@sparc.com"]);
    let text = std::fs::read_to_string(world.folder("two").join("report.md")).unwrap();
    assert!(text.contains("ann@sparc.com") && text.contains("bob@sparc.com"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_goes_on_from_the_state_that_failed_and_its_copy_catches_up() {
    let mut world = World::start(Approval::Automatic).await;
    let reject = |code: &str| Script::Reject { status: 503, code: code.to_owned() };
    world.desk.lay(
        Selector::request("PATCH", "configmaps").of("kubernetes"),
        Times::Always,
        reject("ServiceUnavailable"),
    );
    world.desk.lay(Selector::request("PUT", "runs/").of("s3"), Times::Always, reject("ServiceUnavailable"));
    let ended = world.run("failed", "manual-graceful").await;
    assert_eq!(ended.code, Some(INCOMPLETE), "{}", ended.said);
    assert!(ended.said.contains("this folder has them all"), "it does not say that the copy is behind: {}", ended.said);
    let runs = home(&world, "failed");
    let redriven = ann(&world, &runs, &["redrive", "failed"]).await;
    assert_eq!(redriven.code, Some(2), "{}", redriven.said);
    assert!(
        redriven.said.contains("`FailoverIncomplete`") && redriven.said.contains("drctl retry"),
        "{}",
        redriven.said
    );
    let resumed = said(&world, &runs, &["resume", "failed"]).await;
    assert!(resumed.code == Some(2) && resumed.said.contains("drctl retry failed"), "{}", resumed.said);

    world.desk.clear();
    let retried = ann(&world, &runs, &["retry", "failed"]).await;
    world.has_moved(&retried).await;
    world.is_accounted_for(&Ended { name: "failed".to_owned(), ..retried }, "recovered").await;
    let report = json(&world.folder("failed").join("report.json"));
    assert_eq!(report["record"]["interventions"][0]["deed"]["state"], "DeployWorkloads");
    let promotions = world.desk.calls().iter().filter(|call| call.operation.contains("pg_promote")).count();
    assert_eq!(promotions, 1, "what had succeeded is not done again");
    let records = std::fs::read_to_string(world.folder("failed").join("journal")).unwrap().lines().count() as u64;
    let head = copied(&world, "failed", records).await;
    assert_eq!((head["card"]["status"].as_str(), head["records_there"].as_u64()), (Some("succeeded"), Some(records)));
    assert_eq!(world.lost_writes().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_runner_is_aborted_makes_no_call_and_is_redriven() {
    let mut world = World::start(Approval::Automatic).await;
    // The fence is asked for and nobody hears of it.
    world.desk.lay(Selector::request("PUT", "fence/").of("s3"), Times::Always, Script::Hold);
    let mut run = world.begin("aborted", "manual-graceful");
    world.desk.wait_for_fired(1).await;
    run.kill().await.unwrap();
    let runs = home(&world, "aborted");
    let status = said(&world, &runs, &["status", "aborted"]).await;
    assert!(status.said.contains("its runner ended"), "{}", status.said);
    assert!(status.said.contains("drctl resume aborted, or drctl abort aborted"), "{}", status.said);
    world.desk.clear();
    world.desk.release();
    let calls = |world: &World| world.desk.calls().iter().filter(|call| call.service == "postgres").count();
    let before = calls(&world);
    let aborted = ann(&world, &runs, &["abort", "aborted"]).await;
    assert_eq!(aborted.code, Some(130), "{}", aborted.said);
    assert!(aborted.said.contains("was not asked to take over"), "{}", aborted.said);
    assert_eq!(calls(&world), before, "an abort acts on nothing");
    let status = said(&world, &runs, &["status", "aborted"]).await;
    assert!(status.said.contains("ended by a person"), "{}", status.said);
    assert!(status.said.contains("ann@sparc.com aborted"), "{}", status.said);

    assert!(world.evidence("reports/aborted/report.json").await.is_some(), "no report of an aborted run");

    let redriven = ann(&world, &runs, &["redrive", "aborted"]).await;
    world.has_moved(&redriven).await;
    assert_eq!(deeds(&json(&world.folder("aborted").join("report.json"))), ["abort", "redrive"]);
    let again = ann(&world, &runs, &["redrive", "aborted"]).await;
    assert!(again.code == Some(2) && again.said.contains("has ended well"), "{}", again.said);
    assert_eq!(world.lost_writes().await, 0);
}

fn signal(runner: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(runner.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_told_to_end_ends_between_two_steps_and_a_closed_terminal_ends_nothing() {
    use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
    let mut world = World::start(Approval::Automatic).await;
    let runner = world.begin("told", "manual-graceful");
    let runs = home(&world, "told");
    left(&world, "told", "PlanFailover").await;
    signal(&runner, SIGTERM);
    let ended = world.end("told", runner).await;
    assert_eq!(ended.code, Some(130), "{}", ended.said);
    assert!(ended.said.contains("stopping after the step that is under way"), "{}", ended.said);
    assert!(world.evidence("reports/told/report.json").await.is_some(), "no report of a run that was ended");

    let redrive: Vec<&str> = ["redrive", "told"].into_iter().chain(WHO).collect();
    let mut redriven = command(&world, &runs, &redrive).spawn().unwrap();
    left(&world, "told", "MoveDatabase").await;
    drop((redriven.stdout.take(), redriven.stderr.take()));
    signal(&redriven, SIGHUP);
    let ended = world.end("told", redriven).await;
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_given_while_no_runner_lives_is_found_by_the_next_one() {
    let mut world = World::start(Approval::Required).await;
    let mut runner = world.begin("answered", "manual-graceful");
    let runs = home(&world, "answered");
    wait_for("the run asks", || world.folder("answered").join("approval-request.json").is_file()).await;
    copied(&world, "answered", 6).await;
    runner.kill().await.unwrap();

    // At this machine the answer would wait for a runner that nobody starts, so it says which command comes first.
    let here = ann(&world, &runs, &["approve", "answered"]).await;
    assert!(here.code == Some(2) && here.said.contains("drctl resume answered"), "{}", here.said);
    // Another machine cannot know; what is said there waits in the bucket.
    let elsewhere = TempDir::new().unwrap();
    let approved = ann(&world, elsewhere.path(), &["approve", "answered"]).await;
    assert_eq!(approved.code, Some(0), "{}", approved.said);
    let ended = said(&world, &runs, &["resume", "answered"]).await;
    let ended = Ended { name: "answered".to_owned(), ..ended };
    world.has_moved(&ended).await;
    assert_eq!(json(&world.folder("answered").join("report.json"))["record"]["approval"]["by"], "ann@sparc.com");
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_damaged_or_went_another_way_is_not_taken_up_unseen() {
    let mut world = World::start(Approval::Required).await;
    let mut laptop = world.begin("apart", "manual-graceful");
    let runs = home(&world, "apart");
    wait_for("the run asks", || world.folder("apart").join("approval-request.json").is_file()).await;
    let head = copied(&world, "apart", 6).await;
    laptop.kill().await.unwrap();

    // One letter of a record, the first line of a segment, a segment that is gone: each is told, and nothing is begun.
    let (bucket, aws) = (&world.platform.lab.addresses().aws.evidence_bucket, &world.platform.lab.aws);
    let attempt: jiff::Timestamp = head["attempt"].as_str().unwrap().parse().unwrap();
    let key = |number: u64| format!("runs/apart/{}/{number:06}", attempt.as_millisecond());
    let (first, last) = (key(1), key(head["segments"].as_u64().unwrap()));
    assert_ne!(first, last, "the journal so far is in one piece");
    let right = |key: String| async move { aws.object(bucket, &key).await.unwrap().unwrap() };
    let (beginning, end) = (right(first.clone()).await, right(last.clone()).await);
    let flipped = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        *bytes.iter_mut().rev().nth(20).unwrap() ^= 1;
        Some(String::from_utf8(bytes).unwrap())
    };
    let header = end.find('\n').unwrap();
    let damages = [
        (&first, flipped(&beginning), "is damaged"),
        (&last, flipped(&end), "records that its head names"),
        (&last, Some(end.replacen("{\"writer\"", "{\"riter\"", 1)), "is not of the expected form"),
        (&last, Some(end[..=header].to_owned()), "records that its head names"),
        (&last, None, "records that its head names"),
    ];
    let elsewhere = TempDir::new().unwrap();
    for (key, text, expected) in damages {
        match text {
            Some(text) => aws.put_object(bucket, key, text).await.unwrap(),
            None => aws.delete_object(bucket, key).await.unwrap(),
        }
        let refused = said(&world, elsewhere.path(), &["resume", "apart"]).await;
        assert_eq!(refused.code, Some(2), "{expected}: {}", refused.said);
        assert!(refused.said.contains(expected), "{expected}: {}", refused.said);
        assert_eq!(refused.said.trim().lines().count(), 1, "{}", refused.said);
        assert!(!elsewhere.path().join("apart/journal").exists(), "{expected}: it was adopted");
        aws.put_object(bucket, &first, beginning.clone()).await.unwrap();
        aws.put_object(bucket, &last, end.clone()).await.unwrap();
    }

    // Another machine takes it up and pauses it; this one, cut off from the bucket, ends it.
    let mut taker = command(&world, elsewhere.path(), &["resume", "apart"]).spawn().unwrap();
    wait_for("it asks there too", || elsewhere.path().join("apart/approval-request.json").is_file()).await;
    let paused = ann(&world, elsewhere.path(), &["pause", "apart"]).await;
    assert_eq!(paused.code, Some(0), "{}", paused.said);
    copied(&world, "apart", head["records"].as_u64().unwrap() + 1).await;
    taker.kill().await.unwrap();
    let away = Script::Reject { status: 503, code: "ServiceUnavailable".to_owned() };
    for method in ["GET", "PUT"] {
        world.desk.lay(Selector::request(method, "runs/").of("s3"), Times::Always, away.clone());
    }
    let aborted = ann(&world, &runs, &["abort", "apart"]).await;
    assert_eq!(aborted.code, Some(130), "{}", aborted.said);
    assert!(aborted.said.contains("going on from this disk"), "{}", aborted.said);
    world.desk.clear();

    let refused = ann(&world, &runs, &["redrive", "apart"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.said);
    assert!(refused.said.contains("went on in two places after record"), "{}", refused.said);
    assert!(refused.said.contains("drctl resume apart --from-bucket"), "{}", refused.said);
    let taken = command(&world, &runs, &["resume", "apart", "--from-bucket"]).spawn().unwrap();
    let pid = u64::from(taken.id().unwrap());
    wait_for("it is worked on here again", || json(&world.folder("apart").join("run.json"))["pid"] == pid).await;
    let went_on = ann(&world, &runs, &["continue", "apart"]).await;
    assert_eq!(went_on.code, Some(0), "{}", went_on.said);
    wait_for("it asks here again", || world.folder("apart").join("approval-request.json").is_file()).await;
    let approved = ann(&world, &runs, &["approve", "apart"]).await;
    assert_eq!(approved.code, Some(0), "{}", approved.said);
    let ended = world.end("apart", taken).await;
    world.has_moved(&ended).await;
    let kept = std::fs::read_dir(world.folder("apart")).unwrap().map(|entry| entry.unwrap().file_name());
    let journals = kept.filter(|name| name.to_string_lossy().starts_with("journal")).count();
    assert!(journals >= 2, "the journal that went the other way is not kept");
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}
