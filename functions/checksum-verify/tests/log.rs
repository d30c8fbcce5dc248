//! The archive of a real server's log, in an emulated bucket: followed to its end, and each damage found and named.
//!
//! The server's segments have 1 MiB, so that there are many of them: nothing here may believe in 16.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

mod site;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use checksum_verify::{Error, LOG_BUDGET_BYTES, Response};
use jiff::{Timestamp, ToSpan};
use lab::{
    aws::{Aws as EmulatedAws, Seed},
    postgres::{Options, Pair, Passwords, Server},
};
use recovery::{
    backup::{BackupId, ChecksumVerifyRequest, Keeping, Kind, LogFound, Policy, Reason, Rung, Taken, log_chain_key},
    database::{Archiver, Heartbeat, PrimaryPosition, position_key},
    fault::{Classified, Fault},
    plan::{Driver, Plan, StorageClass},
    store::{Precondition, put_json},
};
use recovery_aws::Aws;
use recovery_datapath::wal;
use recovery_lambda::Settings;

const MIB: u64 = 1 << 20;

struct Platform {
    pair: Pair,
    emulated: EmulatedAws,
    plan: Arc<Plan>,
    aws: Aws,
    settings: Settings,
    system: u64,
}

/// Gives a stopped server segments of another length.
fn shorten_segments(pair: &Pair) {
    let data = pair.primary.data();
    let owner = fs::metadata(data).unwrap();
    let mut command = Command::new("setpriv");
    let (uid, gid) = (owner.uid().to_string(), owner.gid().to_string());
    command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--"]);
    command.arg(pair.tools().program("pg_resetwal")).args(["--wal-segsize=1", "-D"]).arg(data);
    let done = command.current_dir(data).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

async fn platform() -> Platform {
    let passwords = Passwords::new();
    let pair = Pair::start(Options { passwords: Some(passwords.clone()), ..Options::default() }).await.unwrap();
    pair.standby.stop().await.unwrap();
    pair.primary.stop().await.unwrap();
    shorten_segments(&pair);
    pair.primary.start().await.unwrap();
    let emulated = EmulatedAws::start().await.unwrap();
    emulated.seed(&Seed { passwords: Some(passwords), ..Seed::default() }).await.unwrap();

    let mut plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    plan.postgresql.driver = Driver::SelfManaged;
    plan.postgresql.ca_file = pair.primary.data().join("authority.crt").display().to_string();
    plan.postgresql.primary.host = pair.primary.host().to_owned();
    plan.postgresql.primary.port = pair.primary.port();
    plan.backups.read_from = Taken::Primary;
    let logical = plan.backups.policy(Kind::Logical).unwrap().clone();
    let log = Policy { proven_to: Rung::Structure, ..plan.backups.policy(Kind::Wal).unwrap().clone() };
    plan.backups.policies = vec![Policy { kind: Kind::Physical, ..logical }, log];
    let plan = Arc::new(plan);
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    let settings = Settings { plan: Arc::clone(&plan), folder: "/".into() };
    let system = wal::system_identifier(pair.primary.data()).unwrap();
    Platform { pair, emulated, plan, aws, settings, system }
}

/// Files of the server's log that are complete: older than the one that is being written.
async fn complete(server: &Server) -> Vec<PathBuf> {
    let admin = server.admin().await.unwrap();
    let listed = "select name from pg_ls_waldir()
                   where name ~ '^[0-9A-F]{24}$' and name < pg_walfile_name(pg_current_wal_lsn()) or name ~ 'history$'
                   order by 1";
    let rows = admin.query(listed, &[]).await.unwrap();
    rows.iter().map(|row| server.data().join("pg_wal").join(row.get::<_, String>(0))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl Platform {
    /// A base backup, proven as far as reading goes.
    async fn base(&self, due: &str) -> BackupId {
        let backup = BackupId::new(Kind::Physical, "sparc-prod", due.parse().unwrap()).unwrap();
        let takers = recovery_sites::takers(&self.settings, &self.aws).unwrap();
        site::trigger(&self.aws, &self.plan, &takers, &site::to_take(&backup)).await.unwrap();
        let prove =
            ChecksumVerifyRequest::Prove { run: "test".to_owned(), backup: backup.clone(), rung: Rung::Structure };
        let Response::Proof(proof) = self.ask(prove, LOG_BUDGET_BYTES).await.unwrap() else { unreachable!("a proof") };
        assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Structure), &[][..]));
        backup
    }

    async fn ask(&self, request: ChecksumVerifyRequest, log_budget_bytes: u64) -> Result<Response, Error> {
        site::ask(&self.aws, &self.plan, &request, log_budget_bytes, &[]).await
    }

    async fn follow_within(&self, budget: u64) -> Result<LogFound, Error> {
        let request = ChecksumVerifyRequest::FollowLog { run: "test".to_owned() };
        match self.ask(request, budget).await? {
            Response::Log(found) => Ok(*found),
            other => unreachable!("the log, not {other:?}"),
        }
    }

    async fn follow(&self) -> LogFound {
        self.follow_within(LOG_BUDGET_BYTES).await.unwrap()
    }

    /// The same, of what nobody has followed before.
    async fn follow_anew(&self) -> LogFound {
        self.aws.evidence().delete(&log_chain_key("sparc-prod")).await.unwrap();
        self.follow().await
    }

    async fn look(&self) -> LogFound {
        let request = ChecksumVerifyRequest::LookAtLog { run: "test".to_owned() };
        match self.ask(request, LOG_BUDGET_BYTES).await.unwrap() {
            Response::Log(found) => *found,
            other => unreachable!("the log, not {other:?}"),
        }
    }

    /// Writes some segments and ends the last one.
    async fn write(&self, segments: u64) {
        self.pair.primary.execute("create table if not exists public.filled (a text)").await.unwrap();
        for _ in 0..segments {
            let rows = "insert into public.filled select repeat(md5(random()::text), 20) from generate_series(1, 1000);
                        select pg_switch_wal()";
            self.pair.primary.execute(rows).await.unwrap();
        }
    }

    /// Archives what is complete, as `drctl wal push` does.
    async fn archive(&self) -> Vec<PathBuf> {
        let files = complete(&self.pair.primary).await;
        let keeping = Keeping {
            kms_key: None,
            storage_class: StorageClass::Standard,
            lock: recovery::backup::Lock::Off,
            retain_until: Timestamp::now(),
            tags: BTreeMap::new(),
        };
        for file in &files {
            wal::push(&*self.aws.wal_segments(), file, self.system, &keeping).await.unwrap();
        }
        files
    }

    fn key(&self, name: &str) -> String {
        format!("wal/{}/{}/{name}.zst", self.system, &name[..8])
    }

    async fn put(&self, name: &str, plain: &[u8]) {
        let stored = zstd::stream::encode_all(plain, 1).unwrap();
        self.emulated.put_object(&self.plan.buckets.wal_archive, &self.key(name), stored).await.unwrap();
    }

    async fn delete(&self, name: &str) {
        self.emulated.delete_object(&self.plan.buckets.wal_archive, &self.key(name)).await.unwrap();
    }

    /// What the watcher keeps of the primary.
    async fn seen(&self, ahead_bytes: u64, archiver: Option<Archiver>) {
        let position = self.pair.primary.position().await.unwrap();
        let seen = PrimaryPosition {
            observed_at: Timestamp::now(),
            system_identifier: self.system.to_string(),
            timeline: position.timeline,
            lsn: recovery::lsn::Lsn(u64::from(position.holds_to) + ahead_bytes),
            heartbeat: Heartbeat { number: 1, written_at: Timestamp::now() },
            archiver,
        };
        let key = position_key(&self.plan.platform);
        put_json(&*self.aws.evidence(), &key, &seen, Precondition::None).await.unwrap();
    }
}

fn reasons(found: &LogFound) -> Vec<Reason> {
    found.chain.iter().flat_map(|chain| &chain.findings).map(|found| found.reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_followed_over_many_calls_and_each_damage_of_it_is_named() {
    let platform = platform().await;
    // Before anything is there, that is what is said.
    let nothing = platform.follow().await;
    assert!(!nothing.fresh && reasons(&nothing) == [Reason::Missing], "{nothing:?}");
    let base = platform.base("2026-11-26T02:00:00Z").await;
    let nothing = platform.follow().await;
    assert_eq!(reasons(&nothing), [Reason::WalGap], "{nothing:?}");

    platform.write(12).await;
    let files = platform.archive().await;
    platform.seen(0, None).await;
    let whole = platform.follow().await;
    let chain = whole.chain.as_ref().unwrap();
    assert!(whole.fresh && whole.says.is_empty() && chain.proven_at.is_some(), "{whole:?}");
    assert_eq!((chain.base.as_ref(), chain.cursor.as_ref().unwrap().segment_bytes), (Some(&base), MIB));
    assert!(chain.needed >= 12, "{chain:?}");
    let reaches_to = whole.reach.as_ref().unwrap().reaches_to.unwrap();
    assert!(Timestamp::now().duration_since(reaches_to).as_secs() < 120, "{reaches_to}");

    // In small steps: each call goes on where the last one ended.
    platform.aws.evidence().delete(&log_chain_key("sparc-prod")).await.unwrap();
    let mut calls = 0;
    let stepwise = loop {
        calls += 1;
        assert!(calls < 30, "it never ends");
        match platform.follow_within(3 * MIB).await {
            Ok(found) => break found,
            Err(error) => assert_eq!(error.fault(), Fault::NotYet, "{error}"),
        }
    };
    assert!(calls >= 5, "{calls} calls");
    assert_eq!(stepwise.says, Vec::<String>::new());
    // What was followed is not followed again.
    let followed = |found: &LogFound| found.chain.as_ref().unwrap().cursor.as_ref().unwrap().segments;
    let before = followed(&stepwise);
    platform.write(1).await;
    platform.archive().await;
    let more = followed(&platform.follow().await) - before;
    assert!((1..=3).contains(&more), "{more} segments for one that is new");

    let names: Vec<String> = files.iter().map(|file| name(file)).collect();
    let (at, other) = (&names[names.len() - 3], &names[names.len() - 5]);
    let plain = |name: &str| fs::read(platform.pair.primary.data().join("pg_wal").join(name)).unwrap();
    let original = plain(at);
    let mut flipped = original.clone();
    flipped[9000] ^= 1;
    let mut foreign = original.clone();
    foreign[24] ^= 1;
    let mut later_branch = original.clone();
    later_branch[8192 + 4] = 9;
    let damages: [(&str, Vec<u8>, &[Reason], &str); 5] = [
        ("one bit", flipped, &[Reason::Structure], "checksum"),
        ("of another system", foreign, &[Reason::WalForeign], "it is the log of system"),
        ("of another timeline", later_branch, &[Reason::WalForeign], "is of timeline 9"),
        ("cut off", original[..original.len() / 2].to_vec(), &[Reason::Truncated], "it ends after"),
        ("another segment under its name", plain(other), &[Reason::Structure], "recycled or is another's"),
    ];
    for (damage, bytes, expected, says) in damages {
        platform.put(at, &bytes).await;
        let found = platform.follow_anew().await;
        assert_eq!(reasons(&found), expected, "{damage}: {found:?}");
        let finding = &found.chain.as_ref().unwrap().findings[0];
        assert_eq!(finding.artifact.as_deref(), Some(&*platform.key(at)), "{damage}");
        assert!(finding.says.contains(says), "{damage}: {}", finding.says);
        assert!(found.says[0].contains(&finding.remedy), "what to do is said: {:?}", found.says);
    }
    // Two that were exchanged are two wrong ones; the first is named, and when it is right the second is.
    platform.put(at, &plain(other)).await;
    platform.put(other, &original).await;
    let found = platform.follow_anew().await;
    let named = |found: &LogFound| found.chain.as_ref().unwrap().findings[0].artifact.clone().unwrap();
    assert_eq!(named(&found), platform.key(other));
    platform.put(other, &plain(other)).await;
    assert_eq!(named(&platform.follow_anew().await), platform.key(at));
    platform.put(at, &original).await;
    assert_eq!(reasons(&platform.follow_anew().await), []);

    // Written over after it was followed: S3's clock has seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    platform.put(at, &plain(other)).await;
    assert_eq!(reasons(&platform.follow().await), [Reason::Structure], "what was followed is looked at again");
    platform.put(at, &original).await;
    assert_eq!(reasons(&platform.follow().await), []);

    // Gone, and what an old primary had left of it is no replacement.
    platform.delete(at).await;
    platform.put(&format!("{at}.partial"), &original).await;
    let gap = platform.follow().await;
    assert_eq!((reasons(&gap), named(&gap)), (vec![Reason::WalGap], platform.key(at)));
    assert!(gap.chain.as_ref().unwrap().findings[0].says.contains("and 0 more of"), "{gap:?}");
    let told = platform.look().await;
    assert!(told.says.iter().any(|says| says.contains(at)), "the next look tells of it too: {told:?}");
    // Who takes a base backup now starts behind the gap.
    platform.base("2026-11-26T03:00:00Z").await;
    platform.write(2).await;
    platform.archive().await;
    // Archiving again put the segment back where the server still had it.
    platform.delete(at).await;
    let behind = platform.follow().await;
    assert!(behind.says.is_empty() && behind.chain.as_ref().unwrap().proven_at.is_some(), "{behind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_promotion_the_new_branch_is_followed_and_the_old_one_passed_over() {
    let platform = platform().await;
    platform.base("2026-11-26T02:00:00Z").await;
    platform.write(3).await;
    platform.archive().await;
    assert_eq!(platform.follow().await.says, Vec::<String>::new());

    // The old branch goes on for a while, as it does on a primary that was cut off.
    platform.write(2).await;
    let cut_off: Vec<(String, Vec<u8>)> =
        platform.archive().await.iter().map(|file| (name(file), fs::read(file).unwrap())).collect();
    let primary = &platform.pair.primary;
    primary.stop().await.unwrap();
    let owner = fs::metadata(primary.data()).unwrap();
    let signal = primary.data().join("standby.signal");
    fs::write(&signal, "").unwrap();
    std::os::unix::fs::chown(&signal, Some(owner.uid()), Some(owner.gid())).unwrap();
    primary.start().await.unwrap();
    primary.execute("select pg_promote()").await.unwrap();
    primary.wait_for_promotion().await.unwrap();
    platform.write(3).await;
    let files = platform.archive().await;
    assert!(files.iter().any(|file| name(file) == "00000002.history"), "{files:?}");
    // Log of the old branch that the new one never had.
    let (_, bytes) = cut_off.last().unwrap();
    platform.put("0000000100000000000000FF", bytes).await;

    let followed = platform.follow().await;
    let chain = followed.chain.as_ref().unwrap();
    assert_eq!((followed.says.as_slice(), chain.cursor.as_ref().unwrap().timeline), (&[][..], 2), "{followed:?}");
    assert!(followed.reach.as_ref().unwrap().segment.as_ref().unwrap().starts_with("00000002"));

    // A segment of the new branch with the pages of the old one.
    let newest = followed.reach.as_ref().unwrap().segment.clone().unwrap();
    let original = fs::read(primary.data().join("pg_wal").join(&newest)).unwrap();
    let mut of_the_old = original.clone();
    for page in of_the_old.chunks_mut(8192).filter(|page| page[4] == 2) {
        page[4] = 1;
    }
    platform.put(&newest, &of_the_old).await;
    let found = platform.follow_anew().await;
    assert_eq!(reasons(&found), [Reason::WalForeign], "{found:?}");
    platform.put(&newest, &original).await;

    platform.delete("00000002.history").await;
    let found = platform.follow_anew().await;
    assert!(found.says.iter().any(|says| says.contains("the history of timeline 2 is not archived")), "{found:?}");
    assert_eq!(reasons(&found), [Reason::WalGap]);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_the_log_reaches_is_the_newest_commit_and_not_the_newest_arrival() {
    let platform = platform().await;
    let nothing = platform.look().await;
    assert!(!nothing.fresh && nothing.says[0].contains("no log is archived"), "{nothing:?}");
    platform.write(2).await;
    platform.archive().await;

    // The primary has written nothing more: all that there is is archived, whenever it was committed.
    platform.seen(0, None).await;
    let position = platform.pair.primary.position().await.unwrap();
    let idle = platform.look().await;
    let reach = idle.reach.unwrap();
    assert!(reach.missing_bytes.unwrap() < MIB, "{reach:?}, {position:?}");
    // It has gone on, and its archiver is stuck.
    let stuck = Archiver {
        last_archived_at: Some(Timestamp::now() - 2.hours()),
        last_failed_at: Some(Timestamp::now() - 5.seconds()),
        last_failed: Some("0000000100000000000000AA".to_owned()),
        failures: 42,
    };
    platform.seen(100 * MIB, Some(stuck)).await;
    let found = platform.look().await;
    let reach = found.reach.as_ref().unwrap();
    assert!(reach.missing_bytes.unwrap() >= 99 * MIB, "{reach:?}");
    assert!(found.says.iter().any(|says| says.contains("cannot archive `0000000100000000000000AA`")), "{found:?}");
    assert!(found.says[0].contains("read the lines of `drctl:` in its log"), "{found:?}");

    // A primary of another system has no log here.
    let other = PrimaryPosition {
        observed_at: Timestamp::now(),
        system_identifier: "7564197031122334455".to_owned(),
        timeline: 1,
        lsn: recovery::lsn::Lsn(MIB),
        heartbeat: Heartbeat { number: 1, written_at: Timestamp::now() },
        archiver: None,
    };
    let key = position_key(&platform.plan.platform);
    put_json(&*platform.aws.evidence(), &key, &other, Precondition::None).await.unwrap();
    let found = platform.look().await;
    assert!(!found.fresh && found.says[0].contains("no log of system 7564197031122334455"), "{found:?}");
}
