//! Backups of real servers into an emulated bucket: what is in them, and what is not published.

#![allow(clippy::unwrap_used)]

mod site;

use std::{path::Path, process::Stdio, time::Duration};

use backup_trigger::{Outcome, Request, Response};
use jiff::Timestamp;
use lab::{
    faults::{Script, Selector, Times},
    postgres::{Pair, Server},
};
use recovery::{
    backup::{BackupId, Content, Kind, Place, Source, Taken},
    fault::{Classified, Fault, chain},
};
use site::{Platform, id, platform};
use tempfile::TempDir;
use tokio::process::Command;

async fn fed(mut command: Command, input: &[u8]) -> (bool, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let feeding = tokio::spawn(async move {
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, &input).await;
    });
    let output = child.wait_with_output().await.unwrap();
    feeding.await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

async fn number(server: &Server, database: &str, query: &str) -> i64 {
    server.admin_of(database).await.unwrap().query_one(query, &[]).await.unwrap().get(0)
}

async fn prepare(pair: &Pair) {
    let client = pair.primary.admin_of("sparc_prod").await.unwrap();
    client
        .batch_execute(
            "create table public.incident (id int primary key, opened_at timestamptz, note text);
             insert into public.incident select n, timestamptz '2026-11-25 10:00Z' + n * interval '1 s', repeat('x', 50)
               from generate_series(1, 5000) n;
             create unlogged table public.scratch as select generate_series(1, 10) n;
             create table \"Odd \"\"name\" (n int)",
        )
        .await
        .unwrap();
    pair.caught_up().await.unwrap();
}

#[tokio::test]
async fn a_logical_backup_holds_every_database_as_of_its_own_snapshot_and_can_be_restored() {
    let mut platform = platform(Taken::Primary).await;
    prepare(&platform.site.pair).await;
    platform
        .change(|plan| {
            plan.backups.databases[0].newest_by.insert("public.incident".to_owned(), "opened_at".to_owned());
            plan.backups.databases[0].exclude_data_of.push("public.scratch".to_owned());
        })
        .await;

    let backup = id(Kind::Logical);
    let outcome = platform.take(&backup, "nightly").await.unwrap();
    // Rows that come later are in neither.
    let late = "insert into public.incident values (0, now(), 'late')";
    platform.site.pair.primary.admin_of("sparc_prod").await.unwrap().batch_execute(late).await.unwrap();

    let (manifest, artifacts) = platform.published(&backup).await;
    assert_eq!((outcome.artifacts, outcome.already), (5, false));
    assert_eq!((outcome.plain_bytes, outcome.stored_bytes), (manifest.plain_bytes(), manifest.stored_bytes()));
    let Source::PostgreSql { databases, system_identifier, timeline, from_lsn, to_lsn, in_recovery, .. } =
        &manifest.source
    else {
        panic!("{:?}", manifest.source)
    };
    assert_eq!((*in_recovery, *timeline, system_identifier.is_some()), (false, Some(1), true));
    assert!(from_lsn <= to_lsn && from_lsn.is_some());
    let names: Vec<&str> = databases.iter().map(|database| database.name.as_str()).collect();
    assert_eq!(names, ["sparc_prod", "sparc_auth", "sparc_video", "sparc_analytics"]);
    let prod = &databases[0];
    let table = |name: &str| prod.tables.iter().find(|table| table.name == name).unwrap();
    assert_eq!(table("public.incident").rows, 5000);
    assert_eq!(table("public.incident").newest, Some("2026-11-25T11:23:20Z".parse().unwrap()));
    assert_eq!(table("public.Odd \"name").rows, 0);
    assert_eq!(prod.excluded, ["public.scratch"]);

    for (artifact, plain) in &artifacts {
        match &artifact.content {
            Content::Globals => {
                let text = String::from_utf8(plain.clone()).unwrap();
                for role in ["sparc_app", "sparc_recovery", "replicator", "sparc_backup"] {
                    assert!(text.contains(&format!("CREATE ROLE {role};")), "{role}");
                }
            }
            Content::Dump { database, .. } => {
                let mut list = platform.program("pg_restore");
                list.args(["--list"]);
                let (good, said) = fed(list, plain).await;
                assert!(good && said.contains(&format!("dbname: {database}")), "{said}");
            }
            other => panic!("{other}"),
        }
    }
    // Into a database of another name, and counted there.
    let (_, dump) = &artifacts[1];
    platform.site.pair.primary.execute("create database again").await.unwrap();
    let mut restore = platform.program("pg_restore");
    let socket = platform.site.pair.folder().path().join("s");
    restore.args(["--exit-on-error", "--username=postgres", "--dbname=again", "--host"]).arg(socket);
    restore.env("PGPORT", platform.site.pair.primary.port().to_string());
    let (good, said) = fed(restore, dump).await;
    assert!(good, "{said}");
    let rows = number(&platform.site.pair.primary, "again", "select count(*) from public.incident").await;
    assert_eq!(u64::try_from(rows).unwrap(), table("public.incident").rows);

    let again = platform.take(&backup, "nightly").await.unwrap();
    assert_eq!(again, Outcome { already: true, ..outcome });
}

#[tokio::test]
async fn a_standby_is_read_without_what_only_its_primary_has() {
    let platform = platform(Taken::Standby).await;
    prepare(&platform.site.pair).await;
    let backup = id(Kind::Logical);
    platform.take(&backup, "nightly").await.unwrap();
    let (manifest, artifacts) = platform.published(&backup).await;
    let Source::PostgreSql { databases, in_recovery, instance, .. } = &manifest.source else {
        panic!("{:?}", manifest.source)
    };
    assert_eq!((*in_recovery, instance.as_str()), (true, platform.plan.postgresql.standby.instance.as_str()));
    assert_eq!(databases[0].excluded, ["public.scratch"]);
    assert_eq!(artifacts.len(), 5);
}

#[tokio::test]
async fn a_physical_backup_verifies_with_the_tool_of_postgresql() {
    let platform = platform(Taken::Standby).await;
    prepare(&platform.site.pair).await;
    let backup = id(Kind::Physical);
    platform.take(&backup, "nightly").await.unwrap();
    let (manifest, artifacts) = platform.published(&backup).await;
    let Source::PostgreSql { timeline, from_lsn, to_lsn, system_identifier, .. } = &manifest.source else {
        panic!("{:?}", manifest.source)
    };
    assert_eq!((*timeline, system_identifier.is_some()), (Some(1), true));
    assert!(from_lsn.is_some() && from_lsn <= to_lsn);
    let [(artifact, plain)] = artifacts.as_slice() else { panic!("{artifacts:?}") };
    assert_eq!(artifact.content, Content::BaseBackup);
    let folder = TempDir::new().unwrap();
    unpack(plain, folder.path()).await;
    let mut verify = platform.program("pg_verifybackup");
    verify.arg(folder.path());
    let (good, said) = fed(verify, b"").await;
    assert!(good && said.contains("backup successfully verified"), "{said}");
}

async fn unpack(tar: &[u8], folder: &Path) {
    let mut untar = Command::new("tar");
    untar.arg("--extract").arg("--directory").arg(folder);
    let (good, said) = fed(untar, tar).await;
    assert!(good, "{said}");
}

/// Takes a backup whose parts are held, ends the sessions that send it, and lets go: nothing may be published, and the
/// next attempt gets through.
async fn ended_midway(platform: &Platform, server: &Server, backup: &BackupId, key: &str, sessions: &str, says: &str) {
    platform.desk().lay(Selector::request("PUT", key), Times::Always, Script::Hold);
    let end = async {
        platform.desk().wait_for_fired(1).await;
        let sessions = format!("from pg_stat_activity where application_name = 'sparc-backup' and {sessions}");
        // They send what they can get rid of and then wait for us.
        while number(server, "sparc_prod", &format!("select count(pg_terminate_backend(pid)) {sessions}")).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while number(server, "sparc_prod", &format!("select count(*) {sessions}")).await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        platform.desk().clear();
    };
    let (taken, ()) = tokio::join!(platform.take(backup, "nightly"), end);
    let error = taken.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient, "{error:?}");
    assert!(chain(&error).contains(says), "{}", chain(&error));
    platform.assert_nothing_is_published(backup).await;
    platform.take(backup, "nightly").await.unwrap();
}

#[tokio::test]
async fn a_dump_whose_session_is_ended_is_not_published_and_the_next_attempt_is() {
    let platform = platform(Taken::Primary).await;
    // More than the pipe and all parts in flight hold, so that the dump cannot end before its session does.
    platform.site.pair.fill(96 * 1024 * 1024).await.unwrap();
    let (backup, primary) = (id(Kind::Logical), &platform.site.pair.primary);
    let says = "the dump of `sparc_prod` failed";
    ended_midway(&platform, primary, &backup, "sparc_prod.dump.zst", "query like 'COPY%'", says).await;
    let (_, artifacts) = platform.published(&backup).await;
    assert_eq!(artifacts.len(), 5);
}

#[tokio::test]
async fn a_base_backup_whose_connection_is_ended_is_not_published_and_the_next_attempt_is() {
    let platform = platform(Taken::Standby).await;
    platform.site.pair.fill(96 * 1024 * 1024).await.unwrap();
    platform.site.pair.caught_up().await.unwrap();
    let (backup, standby) = (id(Kind::Physical), &platform.site.pair.standby);
    let says = "the base backup failed";
    ended_midway(&platform, standby, &backup, "base.tar.zst", "backend_type = 'walsender'", says).await;
    let (_, artifacts) = platform.published(&backup).await;
    assert_eq!(artifacts.len(), 1);
}

#[tokio::test]
async fn two_attempts_do_not_take_one_backup_and_a_lost_receipt_is_no_second_one() {
    let platform = platform(Taken::Primary).await;
    let backup = id(Kind::Logical);
    platform.site.account.desk.lay(Selector::request("PUT", "globals.sql.zst"), Times::Nth(1), Script::Hold);
    platform.site.account.desk.lay(Selector::request("PUT", "receipt.json"), Times::Nth(1), Script::LoseAnswer);
    let second = async {
        platform.site.account.desk.wait_for_fired(1).await;
        let second = platform.take(&backup, "again").await;
        platform.site.account.desk.release();
        second
    };
    let (first, second) = tokio::join!(platform.take(&backup, "nightly"), second);
    let second = second.unwrap_err();
    assert_eq!(second.fault(), Fault::NotYet);
    assert!(second.to_string().contains("is being taken by `nightly`"), "{second}");
    let first = first.unwrap();
    assert_eq!(platform.site.account.desk.fired().len(), 2, "{:?}", platform.site.account.desk.fired());
    platform.published(&backup).await;
    assert_eq!(platform.take(&backup, "again").await.unwrap(), Outcome { already: true, ..first });
}

#[tokio::test]
async fn what_is_planned_says_where_and_why_and_what_is_not_planned_is_refused() {
    let mut platform = platform(Taken::Primary).await;
    let due_at: Timestamp = "2026-11-26T02:00:00Z".parse().unwrap();
    let plan = |kinds: Vec<Kind>| Request::Plan { run: "nightly".to_owned(), due_at, kinds };
    let Response::Due(due) = platform.ask(&plan(Vec::new())).await.unwrap() else { panic!("an outcome") };
    let kinds: Vec<Kind> = due.backups.iter().map(|due| due.backup.kind).collect();
    assert_eq!(kinds, [Kind::Logical, Kind::Physical]);
    assert!(due.backups.iter().all(|due| due.place == Place::Lambda && due.size_bytes.unwrap() > 1_000_000));

    platform.change(|plan| plan.backups.bytes_per_second = 1_000).await;
    let Response::Due(due) = platform.ask(&plan(vec![Kind::Physical])).await.unwrap() else { panic!("an outcome") };
    assert_eq!((due.backups.len(), due.backups[0].place), (1, Place::Job));
    let because = &due.backups[0].because;
    assert!(
        because.contains("assumed by the plan") && because.contains("more than the 12 min that a Lambda has"),
        "{because}"
    );
    let job = due.backups[0].job.as_ref().unwrap();
    assert_eq!((job.namespace.as_str(), job.cluster.as_str()), ("sparc-recovery", "sparc-prod-us-west-2"));

    // Once one was taken, its own figures count and not the plan's.
    let earlier = BackupId::new(Kind::Physical, "sparc-prod", "2026-11-25T02:00:00Z".parse().unwrap()).unwrap();
    // What is over within a second measures nothing.
    platform.desk().lay(Selector::request("PUT", "base.tar"), Times::Nth(1), Script::Slow(Duration::from_millis(1500)));
    platform.take(&earlier, "nightly").await.unwrap();
    let Response::Due(due) = platform.ask(&plan(vec![Kind::Physical])).await.unwrap() else { panic!("an outcome") };
    let because = &due.backups[0].because;
    assert!(because.contains("measured on `physical/sparc-prod/20261125T020000Z`"), "{because}");
    assert_eq!((due.backups[0].place, due.backups[0].job.as_ref()), (Place::Lambda, None), "{because}");

    let refused = platform.ask(&plan(vec![Kind::Cluster])).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Permanent);
    let other = BackupId::new(Kind::Logical, "other", due_at).unwrap();
    let refused = platform.take(&other, "nightly").await.unwrap_err();
    assert!(refused.to_string().contains("is of `other`, and the plan's is `sparc-prod`"), "{refused}");
}
