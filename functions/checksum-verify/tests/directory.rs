//! Dumps in the directory format: written by several processes through a scratch folder that never holds them, read back,
//! and restored by PostgreSQL's own tool.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

use std::{
    fs,
    path::Path,
    process::Output,
    sync::Arc,
    time::{Duration, Instant},
};

use backup_trigger::backup_trigger;
use checksum_verify::{LOG_BUDGET_BYTES, Response, World, checksum_verify};
use jiff::Timestamp;
use lab::{
    aws::{Aws as EmulatedAws, Seed},
    faults::{Desk, HttpProxy, Script, Selector, Times, Upstream},
    postgres::{Options, Pair, Passwords},
};
use recovery::{
    backup::{
        BackupId, BackupManifest, BackupTriggerRequest, Catalogue, ChecksumVerifyRequest, Content, DirectoryFormat,
        Encoding, Kind, Place, Policy, Proof, Reason, Receipt, Rung, Source, Taken,
    },
    fault::{Classified, Fault, chain},
    plan::{Driver, Plan},
    store::{Precondition, put_json},
};
use recovery_aws::Aws;
use recovery_datapath::sha256;
use recovery_lambda::Settings;
use recovery_sites::Takers;
use tokio::process::Command;

/// Less than a plan may say, so that little has to be written to fill it.
const SCRATCH: u64 = 16 << 20;
/// A table whose text is longer than the scratch and all parts in flight hold.
const LARGE: &str = "create table public.large as select repeat(md5(n::text), 250) t from generate_series(1, 15000) n";
/// What its text comes to.
const LARGE_BYTES: u64 = 15_000 * 8_000;

struct Platform {
    pair: Pair,
    emulated: EmulatedAws,
    desk: Desk,
    plan: Arc<Plan>,
    aws: Aws,
    takers: Takers,
    _proxy: HttpProxy,
}

async fn platform(encoding: Encoding) -> Platform {
    let passwords = Passwords::new();
    let pair = Pair::start(Options { passwords: Some(passwords.clone()), ..Options::default() }).await.unwrap();
    let emulated = EmulatedAws::start().await.unwrap();
    emulated.seed(&Seed { passwords: Some(passwords), ..Seed::default() }).await.unwrap();
    let desk = Desk::default();
    let proxy = HttpProxy::start(Upstream::plain(emulated.control_url()), desk.clone()).await.unwrap();
    emulated.route("S3", proxy.url());

    let mut plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    plan.postgresql.driver = Driver::SelfManaged;
    plan.postgresql.ca_file = pair.primary.data().join("authority.crt").display().to_string();
    plan.postgresql.primary.host = pair.primary.host().to_owned();
    plan.postgresql.primary.port = pair.primary.port();
    plan.backups.read_from = Taken::Primary;
    plan.backups.encoding = encoding;
    let logical = plan.backups.policy(Kind::Logical).unwrap().clone();
    let physical = Policy { kind: Kind::Physical, ..logical.clone() };
    let directory = Some(DirectoryFormat { jobs: 3, scratch_bytes: SCRATCH });
    plan.backups.policies = vec![Policy { directory, ..logical }, physical];
    let plan = Arc::new(plan);
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    let settings = Settings { plan: Arc::clone(&plan), folder: "/".into() };
    let takers = recovery_sites::takers(&settings, &aws).unwrap();
    Platform { pair, emulated, desk, plan, aws, takers, _proxy: proxy }
}

fn id(kind: Kind) -> BackupId {
    BackupId::new(kind, "sparc-prod", "2026-11-26T02:00:00Z".parse().unwrap()).unwrap()
}

impl Platform {
    async fn trigger(&self, request: BackupTriggerRequest) -> Result<backup_trigger::Response, backup_trigger::Error> {
        let (backups, evidence) = (self.aws.bucket(&self.plan.buckets.backups), self.aws.evidence());
        let world = backup_trigger::World {
            takers: &self.takers,
            parts: self.aws.backup_parts(),
            backups: &backups,
            evidence: &*evidence,
            list: &*self.aws.evidence_list(),
            authority: "",
            now: Timestamp::now,
            within: Duration::from_secs(300),
            stop: &tokio::sync::Notify::const_new(),
        };
        backup_trigger(&request, &self.plan, &world).await
    }

    async fn take(&self, kind: Kind) -> Result<backup_trigger::Response, backup_trigger::Error> {
        self.trigger(BackupTriggerRequest::Take { run: "test".to_owned(), backup: id(kind) }).await
    }

    async fn prove(&self) -> Proof {
        let (backups, wal) = (self.aws.backups(), self.aws.wal_archive());
        let (list, evidence) = (self.aws.evidence_list(), self.aws.evidence());
        let catalogue = Catalogue { list: &*list, evidence: &*evidence };
        let world = World {
            backups: &*backups,
            wal: &*wal,
            managed_log: None,
            log_budget_bytes: LOG_BUDGET_BYTES,
            catalogue,
            snapshots: &[],
        };
        let request =
            ChecksumVerifyRequest::Prove { run: "test".to_owned(), backup: id(Kind::Logical), rung: Rung::Structure };
        match checksum_verify(&request, &self.plan, &world, Timestamp::now()).await.unwrap() {
            Response::Proof(proof) => *proof,
            other => unreachable!("a proof, not {other:?}"),
        }
    }

    async fn object(&self, key: &str) -> Vec<u8> {
        let mut body = self.aws.backups().open(key, None, None).await.unwrap().unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = body.chunk().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    async fn manifest(&self) -> BackupManifest {
        let backup = id(Kind::Logical);
        BackupManifest::read(&self.object(&backup.manifest_key()).await, &backup).unwrap()
    }

    /// Writes a manifest and the receipt that goes with it, as whoever took the backup would have.
    async fn publish(&self, manifest: &BackupManifest) {
        let bytes = manifest.to_bytes();
        let receipt = Receipt {
            backup: manifest.id.clone(),
            manifest_sha256: sha256(&bytes),
            manifest_version_id: None,
            completed_at: manifest.completed_at.unwrap(),
            retain_until: manifest.protection.retain_until,
        };
        self.emulated.put_object(&self.plan.buckets.backups, &manifest.id.manifest_key(), bytes).await.unwrap();
        put_json(&*self.aws.evidence(), &manifest.id.receipt_key(), &receipt, Precondition::None).await.unwrap();
    }

    /// Puts a dump together as `pg_restore` wants it.
    async fn fetch(&self, manifest: &BackupManifest, database: &str, to: &Path) -> usize {
        let mut files = 0;
        for artifact in &manifest.artifacts {
            let file = match &artifact.content {
                Content::Dump { database: of, .. } if of == database => "toc.dat",
                Content::DumpData { database: of, file, .. } if of == database => file,
                _ => continue,
            };
            let plain = zstd::stream::decode_all(&*self.object(&artifact.key).await).unwrap();
            fs::write(to.join(file), plain).unwrap();
            files += 1;
        }
        files
    }

    async fn restore(&self, database: &str, from: &Path) -> Output {
        let socket = self.pair.folder().path().join("s");
        let mut restore = Command::new(self.pair.tools().program("pg_restore"));
        restore.args(["--format=directory", "--jobs=2", "--exit-on-error", "--username=postgres"]);
        restore.arg(format!("--dbname={database}")).arg("--host").arg(socket).arg(from);
        restore.env("PGPORT", self.pair.primary.port().to_string()).output().await.unwrap()
    }

    async fn large(&self) {
        self.pair.primary.admin_of("sparc_prod").await.unwrap().batch_execute(LARGE).await.unwrap();
    }

    async fn number(&self, database: &str, query: &str) -> i64 {
        self.pair.primary.admin_of(database).await.unwrap().query_one(query, &[]).await.unwrap().get(0)
    }
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
    let platform = platform(Encoding::Zstd).await;
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
    let manifest = platform.manifest().await;
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
    let proof = platform.prove().await;
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
        let proof = platform.prove().await;
        let [found] = proof.findings.as_slice() else { panic!("{:?}", proof.findings) };
        assert!(found.reason == reason && found.says.contains(says), "{found:?}");
        assert_eq!(proof.rung, Some(Rung::Digests));
    }
    platform.publish(&manifest).await;

    let folder = tempfile::tempdir().unwrap();
    assert!(platform.fetch(&manifest, "sparc_prod", folder.path()).await > 8);
    platform.pair.primary.execute("create database again").await.unwrap();
    let restored = platform.restore("again", folder.path()).await;
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_eq!(platform.number("again", "select count(*) from public.wide").await, 20_000);
    assert_eq!(platform.number("again", "select count(*) from pg_largeobject_metadata").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_takes_nothing_holds_the_processes_and_fills_no_disk() {
    // As it is, so that what is in flight is as long as it looks.
    let platform = platform(Encoding::Identity).await;
    platform.large().await;
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
    assert_eq!(platform.prove().await.rung, Some(Rung::Structure));
    assert_eq!(scratch(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_whose_sessions_are_ended_is_not_published_and_leaves_no_process() {
    // As it is, so that what is in flight is as long as it looks.
    let platform = platform(Encoding::Identity).await;
    platform.large().await;
    platform.desk.lay(Selector::request("PUT", "databases/sparc_prod/"), Times::Always, Script::Hold);
    let end = async {
        platform.desk.wait_for_fired(1).await;
        let query = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                      where application_name = 'sparc-backup' and query like 'COPY%'";
        while platform.number("sparc_prod", query).await == 0 {
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
    assert_eq!(platform.prove().await.rung, Some(Rung::Structure));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_tablespaces_is_refused_in_one_line_before_anything_begins() {
    let platform = platform(Encoding::Zstd).await;
    let place = platform.pair.primary.data().with_file_name("space");
    fs::create_dir(&place).unwrap();
    let owner = fs::metadata(platform.pair.primary.data()).unwrap();
    use std::os::unix::fs::MetadataExt;
    std::os::unix::fs::chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
    let make = format!("create tablespace fast location '{}'", place.display());
    platform.pair.primary.execute(&make).await.unwrap();
    let refused = platform.take(Kind::Physical).await.unwrap_err();
    let said = chain(&refused);
    assert_eq!(refused.fault(), Fault::Refused, "{said}");
    assert!(said.contains("the cluster has the tablespace `fast` in") && !said.contains('\n'), "{said}");
    assert!(refused.remedy().contains("take logical backups"), "{}", refused.remedy());
    let folder = platform.aws.backups().list(&id(Kind::Physical).folder(), None, None).await.unwrap();
    assert_eq!(folder.objects, [], "nothing was begun");
}
