//! The machines of backups from the command line, on a platform whose clients go on writing: taken, proven, shown.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::{
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan};
use lab::aws::TERTIARY;
use platform::World;
use recovery::{
    backup::snapshot_id,
    plan::{Approval, Driver},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs a machine with an event, to its end.
async fn run(world: &World, folder: &TempDir, machine: &str, name: &str, event: &Value) -> Output {
    let file = folder.path().join(format!("{name}.json"));
    std::fs::write(&file, event.to_string()).unwrap();
    let arguments = ["run", machine, "--name", name, "--event", file.to_str().unwrap()];
    let runs = world.folder(name).with_file_name("");
    world.child(&arguments).arg("--runs-dir").arg(runs).output().await.unwrap()
}

async fn backups(world: &World) -> (Option<i32>, Value) {
    let shown = world.child(&["backups", "--json"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&shown.stderr);
    (shown.status.code(), serde_json::from_slice(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {said}")))
}

fn logical(standings: &Value) -> &Value {
    of_kind(standings, "logical")
}

fn of_kind<'a>(standings: &'a Value, kind: &str) -> &'a Value {
    standings.as_array().unwrap().iter().find(|standing| standing["kind"] == kind).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_taken_and_proven_by_its_machines_and_a_bad_one_is_told() {
    let world = World::start(Approval::Automatic).await;
    let folder = TempDir::new().unwrap();
    let (code, before) = backups(&world).await;
    assert_eq!((code, logical(&before)["newest"].is_null()), (Some(1), true), "{before}");

    let due = Timestamp::now() - 1.hour();
    let taken = run(&world, &folder, "nightly-backup", "night", &json!({"due_at": due, "kinds": ["logical"]})).await;
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let (_, standings) = backups(&world).await;
    assert_eq!(logical(&standings)["fresh"], true, "{standings}");
    assert_eq!(logical(&standings)["proven_in_time"], false, "complete is not proven: {standings}");

    let report = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(world.folder(name).join("report.json")).unwrap()).unwrap()
    };
    let night = report("night");
    assert_eq!((&night["form"], &night["outcome"], &night["due"]), (&json!("backups"), &json!("whole"), &json!(1)));
    assert!(night["taken"][0]["bytes_per_second"].as_f64().unwrap() > 0.0, "{night}");
    let kept: Value = serde_json::from_str(&world.evidence("reports/night/report.json").await.unwrap()).unwrap();
    assert_eq!(kept["taken"], night["taken"], "what the machine wrote is what this machine wrote");
    let said = String::from_utf8_lossy(&taken.stdout);
    assert!(said.contains("1 of 1 backups that were due are complete"), "{said}");

    let look = json!({"at": Timestamp::now(), "kinds": ["logical"]});
    let proven = run(&world, &folder, "verify-backups", "look-1", &look).await;
    assert!(proven.status.success(), "{}", String::from_utf8_lossy(&proven.stderr));
    assert_eq!(report("look-1")["proven"][0]["rung"], "structure");
    let (code, standings) = backups(&world).await;
    assert_eq!(code, Some(1), "the other kinds of the plan are missing");
    let standing = logical(&standings);
    assert_eq!(
        (&standing["proven_in_time"], &standing["proven"]["verified"]["rung"]),
        (&json!(true), &json!("structure"))
    );

    // The manifest is another's word by the next night: nobody believes it, the older proof still counts.
    let due = Timestamp::now() - 1.minute();
    let event = json!({"due_at": due, "kinds": ["logical"]});
    assert!(run(&world, &folder, "nightly-backup", "night-2", &event).await.status.success());
    let (_, standings) = backups(&world).await;
    let newest = logical(&standings)["newest"]["backup"].as_str().unwrap().to_owned();
    let aws = &world.platform.lab.aws;
    aws.put_object("sparc-backups-prod", &format!("backups/{newest}/manifest.json"), "{}").await.unwrap();
    let look = json!({"at": Timestamp::now(), "kinds": ["logical"]});
    let found = run(&world, &folder, "verify-backups", "look-2", &look).await;
    assert_eq!(found.status.code(), Some(5), "{}", String::from_utf8_lossy(&found.stderr));
    let told = world.evidence("notices/look-2/backups-unproven.json").await;
    assert!(told.is_some(), "people were told");
    let (_, standings) = backups(&world).await;
    let standing = logical(&standings);
    assert_eq!(standing["findings"][0]["reason"], "manifest-changed");
    assert_ne!(standing["proven"]["verified"]["backup"], json!(newest));
    assert_eq!(standing["proven_in_time"], true, "the one before is proven");

    let one = world.child(&["backups", &newest]).output().await.unwrap();
    let shown = String::from_utf8_lossy(&one.stdout);
    assert!(shown.contains("receipt") && shown.contains("proven to nothing"), "{shown}");
}

/// The machine asks once a minute; a person who watches it asks at once.
async fn hurried(world: &World, folder: &TempDir, event: &Value) -> (Output, usize) {
    let file = folder.path().join("night.json");
    std::fs::write(&file, event.to_string()).unwrap();
    let arguments = ["run", "nightly-backup", "--name", "night", "--event", file.to_str().unwrap()];
    let mut run = world.child(&arguments);
    run.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = run.spawn().unwrap();
    let (began, mut retried) = (Instant::now(), 0);
    while run.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(240), "the run does not end");
        let again = ["retry", "night", "TakeBackup", "--by", "ann@sparc.com", "--because", "RDS is done"];
        retried += usize::from(world.child(&again).output().await.unwrap().status.success());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (run.wait_with_output().await.unwrap(), retried)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_of_the_shipped_plan_is_taken_copied_proven_and_found_missing_when_somebody_deletes_it() {
    let world = World::driven_by(Driver::Rds, Approval::Automatic).await;
    let folder = TempDir::new().unwrap();
    let due = Timestamp::now() - 1.hour();
    let (taken, retried) = hurried(&world, &folder, &json!({"due_at": due, "kinds": ["snapshot"]})).await;
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(retried >= 2, "it was begun, and then copied");
    let (_, standings) = backups(&world).await;
    let standing = of_kind(&standings, "snapshot");
    assert_eq!((&standing["fresh"], &standing["proven_in_time"]), (&json!(true), &json!(false)), "{standings}");

    let look = |name: &'static str| {
        let event = json!({"at": Timestamp::now(), "kinds": ["snapshot"]});
        let (world, folder) = (&world, &folder);
        async move { run(world, folder, "verify-backups", name, &event).await }
    };
    let proven = look("look-1").await;
    assert!(proven.status.success(), "{}", String::from_utf8_lossy(&proven.stderr));
    let (_, standings) = backups(&world).await;
    let standing = of_kind(&standings, "snapshot");
    let rung = &standing["proven"]["verified"]["rung"];
    assert_eq!((&standing["proven_in_time"], rung), (&json!(true), &json!("present")), "{standings}");
    let backup = standing["newest"]["backup"].as_str().unwrap();

    let id = snapshot_id(&backup.parse().unwrap());
    let deleted = [("DBSnapshotIdentifier", id.as_str())];
    world.platform.lab.aws.query("rds", TERTIARY, "DeleteDBSnapshot", &deleted).await.unwrap();
    // It was proven a moment ago: the next look is due in half of the time that the plan gives a proof.
    let event = json!({"at": Timestamp::now() + 48.hours(), "kinds": ["snapshot"]});
    let missed = run(&world, &folder, "verify-backups", "look-2", &event).await;
    assert_eq!(missed.status.code(), Some(5), "{}", String::from_utf8_lossy(&missed.stderr));
    let (_, standings) = backups(&world).await;
    let standing = of_kind(&standings, "snapshot");
    assert_eq!(standing["findings"][0]["reason"], "missing", "{standings}");
    assert_eq!(standing["proven_in_time"], false, "{standings}");
    let lab = &world.platform.lab;
    let sent = lab.aws.sent(&lab.addresses().aws).await.unwrap();
    let says = format!("`{backup}`: the snapshot `{id}` is not in {TERTIARY}: somebody deleted it");
    assert!(sent.iter().any(|sent| sent.message.contains(&says)), "{sent:#?}");
}
