//! Dumps in the directory format: written by several processes through a scratch folder that never holds them, read back,
//! and restored by PostgreSQL's own tool.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

mod site;

use std::{
    fs,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use lab::{
    faults::{Script, Selector, Times},
    postgres::Options,
};
use recovery::{
    backup::{
        BackupManifest, BackupTriggerRequest, Content, DirectoryFormat, Encoding, Kind, Place, Reason, Rung, Source,
    },
    fault::{Classified, Fault, chain},
};
use site::{Platform, id, platform};
use tokio::process::Command;

/// Less than a plan may say, so that little has to be written to fill it.
const SCRATCH: u64 = 16 << 20;
/// A table whose text is longer than the scratch and all parts in flight hold.
const LARGE: &str = "create table public.large as select repeat(md5(n::text), 250) t from generate_series(1, 15000) n";
/// What its text comes to.
const LARGE_BYTES: u64 = 15_000 * 8_000;

async fn dumped(encoding: Encoding) -> Platform {
    platform(Options::default(), encoding, Some(DirectoryFormat { jobs: 3, scratch_bytes: SCRATCH })).await
}

/// Puts a dump together as `pg_restore` wants it.
async fn fetch(platform: &Platform, manifest: &BackupManifest, database: &str, to: &Path) -> usize {
    let mut files = 0;
    for artifact in &manifest.artifacts {
        let file = match &artifact.content {
            Content::Dump { database: of, .. } if of == database => "toc.dat",
            Content::DumpData { database: of, file, .. } if of == database => file,
            _ => continue,
        };
        let plain = zstd::stream::decode_all(&*platform.object(&artifact.key).await).unwrap();
        fs::write(to.join(file), plain).unwrap();
        files += 1;
    }
    files
}

async fn restore(platform: &Platform, database: &str, from: &Path) -> Output {
    let socket = platform.pair.folder().path().join("s");
    let mut restore = Command::new(platform.pair.tools().program("pg_restore"));
    restore.args(["--format=directory", "--jobs=2", "--exit-on-error", "--username=postgres"]);
    restore.arg(format!("--dbname={database}")).arg("--host").arg(socket).arg(from);
    restore.env("PGPORT", platform.pair.primary.port().to_string()).output().await.unwrap()
}

async fn large(platform: &Platform) {
    platform.pair.primary.admin_of("sparc_prod").await.unwrap().batch_execute(LARGE).await.unwrap();
}

async fn number(platform: &Platform, database: &str, query: &str) -> i64 {
    platform.pair.primary.admin_of(database).await.unwrap().query_one(query, &[]).await.unwrap().get(0)
}

/// The scratch folders of this process.
fn scratch() -> Vec<std::path::PathBuf> {
    let mine = format!("sparc-dump-{}-", std::process::id());
    let is_mine = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&mine);
    fs::read_dir(std::env::temp_dir()).unwrap().map(|entry| entry.unwrap().path()).filter(is_mine).collect()
}

/// What the files in them occupy.
fn occupied() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = scratch().into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_dumped_by_several_processes_proven_and_restored() {
    let platform = dumped(Encoding::Zstd).await;
    let prepare = "create table public.wide (a bigint primary key, b text);
                   insert into public.wide select n, repeat(md5(n::text), 8) from generate_series(1, 20000) n;
                   create table public.empty (a int);
                   create table public.\"Odd \"\"name\" (a int);
                   insert into public.\"Odd \"\"name\" values (1), (2);
                   select lo_from_bytea(4711, 'a large object'); select lo_create(4712);
                   grant select on large object 4711, 4712 to sparc_backup";
    platform.pair.primary.admin_of("sparc_prod").await.unwrap().batch_execute(prepare).await.unwrap();
    let plan = BackupTriggerRequest::Plan {
        run: "test".to_owned(),
        due_at: id(Kind::Logical).due_at,
        kinds: vec![Kind::Logical],
    };
    let backup_trigger::Response::Due(due) = platform.trigger(plan).await.unwrap() else { panic!("an outcome") };
    assert_eq!(due.backups[0].place, Place::Job, "{due:?}");

    platform.take(Kind::Logical).await.unwrap();
    assert_eq!(scratch(), Vec::<std::path::PathBuf>::new(), "nothing is left on this machine");
    let manifest = platform.manifest(Kind::Logical).await;
    let table = |name: &str| {
        manifest.artifacts.iter().find(
            |one| matches!(&one.content, Content::DumpData { database, table: Some(table), .. } if database == "sparc_prod" && table == name),
        )
    };
    assert!(table("public.wide").is_some() && table("public.empty").is_some() && table("public.Odd \"name").is_some());
    let last = &manifest.artifacts.last().unwrap().content;
    assert!(matches!(last, Content::Dump { database, .. } if database == "sparc_analytics"), "contents last: {last}");
    let Source::PostgreSql { databases, .. } = &manifest.source else { panic!("{:?}", manifest.source) };
    assert_eq!(databases[0].tables.iter().find(|table| table.name == "public.wide").unwrap().rows, 20_000);
    let proof = platform.prove(Kind::Logical).await;
    assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Structure), &[][..]));

    // What no digest of a file sees: one that is named and not there, and other rows than the snapshot had.
    let is_wide =
        |content: &Content| matches!(content, Content::DumpData { table: Some(table), .. } if table == "public.wide");
    let mut lacking = manifest.clone();
    lacking.artifacts.retain(|artifact| !is_wide(&artifact.content));
    let mut more = manifest.clone();
    let Source::PostgreSql { databases, .. } = &mut more.source else { panic!("{:?}", more.source) };
    databases[0].tables.iter_mut().find(|table| table.name == "public.wide").unwrap().rows += 1;
    for (changed, reason, says) in [
        (&lacking, Reason::NotCovered, "which it names, is not in the backup"),
        (&more, Reason::Structure, "`public.wide` has 20000 rows in it and had 20001"),
    ] {
        platform.publish(changed).await;
        let proof = platform.prove(Kind::Logical).await;
        let [found] = proof.findings.as_slice() else { panic!("{:?}", proof.findings) };
        assert!(found.reason == reason && found.says.contains(says), "{found:?}");
        assert_eq!(proof.rung, Some(Rung::Digests));
    }
    platform.publish(&manifest).await;

    let folder = tempfile::tempdir().unwrap();
    assert!(fetch(&platform, &manifest, "sparc_prod", folder.path()).await > 8);
    platform.pair.primary.execute("create database again").await.unwrap();
    let restored = restore(&platform, "again", folder.path()).await;
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_eq!(number(&platform, "again", "select count(*) from public.wide").await, 20_000);
    assert_eq!(number(&platform, "again", "select count(*) from pg_largeobject_metadata").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_takes_nothing_holds_the_processes_and_fills_no_disk() {
    // As it is, so that what is in flight is as long as it looks.
    let platform = dumped(Encoding::Identity).await;
    large(&platform).await;
    platform.desk.lay(Selector::request("PUT", "databases/sparc_prod/"), Times::Always, Script::Hold);
    // Of the dump into this process's scratch folder: other tests hold theirs.
    let mine = format!("sparc-dump-{}-", std::process::id());
    let is_held = || {
        let ps = std::process::Command::new("ps").args(["-ww", "-C", "pg_dump", "-o", "stat=,args="]).output().unwrap();
        let said = String::from_utf8_lossy(&ps.stdout);
        said.lines().any(|process| process.starts_with('T') && process.contains(&mine))
    };
    let watch = async {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !is_held() {
            assert!(Instant::now() < deadline, "pg_dump is never held; {} bytes lie in the scratch", occupied());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // On a busy machine the processes write on until somebody looks; still it is less than half of the table.
        let most = occupied();
        assert!((1..=LARGE_BYTES / 2).contains(&most), "{most} bytes lie in the scratch");
        platform.desk.clear();
    };
    let (taken, ()) = tokio::join!(platform.take(Kind::Logical), watch);
    taken.unwrap();
    assert_eq!(platform.prove(Kind::Logical).await.rung, Some(Rung::Structure));
    assert_eq!(scratch(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_whose_sessions_are_ended_is_not_published_and_leaves_no_process() {
    // As it is, so that what is in flight is as long as it looks.
    let platform = dumped(Encoding::Identity).await;
    large(&platform).await;
    platform.desk.lay(Selector::request("PUT", "databases/sparc_prod/"), Times::Always, Script::Hold);
    let end = async {
        platform.desk.wait_for_fired(1).await;
        let query = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                      where application_name = 'sparc-backup' and query like 'COPY%'";
        while number(&platform, "sparc_prod", query).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        platform.desk.clear();
    };
    let (taken, ()) = tokio::join!(platform.take(Kind::Logical), end);
    let error = taken.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient, "{}", chain(&error));
    let key = id(Kind::Logical).manifest_key();
    assert!(platform.aws.backups().head(&key, None).await.unwrap().is_none(), "it is published");
    assert_eq!(scratch(), Vec::<std::path::PathBuf>::new());
    // The next attempt begins anew, and gets through; a slow bucket may have the machine ask once more.
    for attempt in 1.. {
        match platform.take(Kind::Logical).await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 4 && error.fault() == Fault::Transient, "{}", chain(&error)),
        }
    }
    assert_eq!(platform.prove(Kind::Logical).await.rung, Some(Rung::Structure));
}
