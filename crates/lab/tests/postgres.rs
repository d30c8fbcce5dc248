//! The pair and the write load, on real servers.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

use std::time::{Duration, Instant};

use lab::load::{self, Load};
use lab::postgres::{DATABASES, Options, Pair, Role};

async fn pair() -> Pair {
    Pair::start(Options::default()).await.unwrap()
}

#[tokio::test]
async fn a_pair_streams_from_the_start() {
    let begun = Instant::now();
    let pair = pair().await;
    println!("a pair in {:?} with PostgreSQL {}", begun.elapsed(), pair.tools().version());
    let (primary, standby) = (pair.primary.position().await.unwrap(), pair.standby.position().await.unwrap());
    assert!(!primary.in_recovery && standby.in_recovery);
    assert_eq!(primary.system_identifier, standby.system_identifier);
    assert_eq!((primary.timeline, standby.timeline), (1, 1));
    pair.primary.write("first").await.unwrap();
    pair.caught_up().await.unwrap();
    assert!(pair.standby.write("second").await.is_err(), "a standby takes no writes");
    let slots =
        pair.primary.admin().await.unwrap().query("select from pg_replication_slots where active", &[]).await.unwrap();
    assert_eq!(slots.len(), 1, "the standby streams through the slot");
}

#[tokio::test]
async fn every_database_is_open_to_the_application_by_tls_and_password_only() {
    let pair = pair().await;
    for database in DATABASES {
        let client = pair.primary.connect(Role::Application, database).await.unwrap();
        let row = client
            .query_one(
                "select ssl, (select count(*) from incidents) from pg_stat_ssl where pid = pg_backend_pid()",
                &[],
            )
            .await
            .unwrap();
        assert!(row.get::<_, bool>(0));
        assert_eq!(row.get::<_, i64>(1), 50);
        assert!(
            client.batch_execute("alter system set work_mem = '8MB'").await.is_err(),
            "the application is nobody special"
        );
    }
    let mut wrong = pair.primary.config(Role::Application, "sparc_prod");
    wrong.password("guessed");
    assert!(wrong.connect(pair.authority().connector().unwrap()).await.is_err());
    let mut plain = pair.primary.config(Role::Application, "sparc_prod");
    plain.ssl_mode(tokio_postgres::config::SslMode::Disable);
    assert!(plain.connect(tokio_postgres::NoTls).await.is_err(), "nothing but TLS");
}

#[tokio::test]
async fn a_crashed_primary_leaves_a_standby_that_can_be_promoted() {
    let pair = pair().await;
    let mut load = Load::start(&pair, load::Options::default()).await.unwrap();
    load.wait_for_acknowledgements_of("primary", Instant::now()).await.unwrap();
    let crashed = Instant::now();
    pair.primary.crash();
    assert!(!pair.primary.is_running());
    pair.standby.execute("select pg_promote(false)").await.unwrap();
    load.wait_for_acknowledgements_of("standby", crashed).await.unwrap();
    load.stop().await;
    assert_eq!(pair.standby.position().await.unwrap().timeline, 2);
    let gap = load.gap(crashed).unwrap();
    assert_eq!((gap.before.server, gap.after.server), ("primary", "standby"));
    println!(
        "kill to first acknowledgement {:?}, lost {}",
        gap.duration(),
        load.lost(&pair.standby).await.unwrap().len()
    );
    assert!(load.two_primaries().is_none());

    // The crashed primary comes back as what it was: this is what fences are for.
    pair.primary.start().await.unwrap();
    let returned = pair.primary.position().await.unwrap();
    assert_eq!((returned.in_recovery, returned.timeline), (false, 1));
    pair.primary.write("split").await.unwrap();
    assert!(load.lost(&pair.primary).await.unwrap().iter().all(|a| a.server == "standby"), "what it promised, it has");
}

#[tokio::test]
async fn a_frozen_primary_answers_nobody_until_it_thaws() {
    let pair = pair().await;
    pair.primary.freeze();
    let asked = tokio::time::timeout(Duration::from_millis(300), pair.primary.write("hanging")).await;
    assert!(asked.is_err(), "no answer, no refusal");
    pair.primary.thaw();
    pair.primary.write("thawed").await.unwrap();
}

#[tokio::test]
async fn traffic_on_two_primaries_is_seen() {
    let pair = pair().await;
    let mut load = Load::start(&pair, load::Options::default()).await.unwrap();
    pair.standby.execute("select pg_promote(false)").await.unwrap();
    pair.standby.wait_for_promotion().await.unwrap();
    assert!(load.two_primaries().is_none(), "nobody has left the first one");
    // The first one goes, some clients move on, and it comes back unfenced: those that lose the second one return to it.
    let crashed = Instant::now();
    pair.primary.crash();
    load.wait_for_acknowledgements_of("standby", crashed).await.unwrap();
    pair.primary.start().await.unwrap();
    let returned = Instant::now();
    pair.standby.crash();
    load.wait_for_acknowledgements_of("primary", returned).await.unwrap();
    load.stop().await;
    assert_eq!(load.two_primaries().map(|a| a.server), Some("primary"));
}

#[tokio::test]
async fn writes_that_the_standby_has_not_received_are_named_as_lost() {
    let pair = pair().await;
    let mut load = Load::start(&pair, load::Options::default()).await.unwrap();
    pair.cut_stream().await.unwrap();
    let cut = Instant::now();
    load.wait_for_acknowledgements_of("primary", cut).await.unwrap();
    pair.primary.crash();
    pair.standby.execute("select pg_promote(false)").await.unwrap();
    load.wait_for_acknowledgements_of("standby", cut).await.unwrap();
    load.stop().await;
    let lost = load.lost(&pair.standby).await.unwrap();
    assert!(!lost.is_empty() && lost.iter().all(|a| a.server == "primary"));
    let record = tempfile::NamedTempFile::new().unwrap();
    load.write_record(record.path()).unwrap();
    assert_eq!(std::fs::read_to_string(record.path()).unwrap().lines().count(), load.count());
}

#[tokio::test]
async fn a_backlog_is_received_or_lacking_as_the_test_asks() {
    let pair = pair().await;
    pair.pause_replay().await.unwrap();
    let end = pair.fill(5_000_000).await.unwrap();
    pair.standby.wait_for_receipt(end).await.unwrap();
    let standby = pair.standby.position().await.unwrap();
    assert!(u64::from(standby.holds_to) - u64::from(standby.replayed_to) > 4_000_000, "{standby:?}");
    pair.resume_replay().await.unwrap();
    pair.standby.wait_for_replay(end).await.unwrap();

    pair.cut_stream().await.unwrap();
    let end = pair.fill(1_000_000).await.unwrap();
    assert!(pair.standby.position().await.unwrap().holds_to < end);
    pair.restore_stream().await.unwrap();
    pair.standby.wait_for_replay(end).await.unwrap();
}

#[tokio::test]
async fn strangers_differ_in_system_or_in_timeline() {
    let pair = pair().await;
    let ours = pair.standby.position().await.unwrap();
    let system = pair.standby_of_another_system().await.unwrap();
    let timeline = pair.standby_on_another_timeline().await.unwrap();
    let (system, timeline) = (system.position().await.unwrap(), timeline.position().await.unwrap());
    assert!(system.in_recovery && timeline.in_recovery);
    assert_ne!(system.system_identifier, ours.system_identifier);
    assert_eq!(timeline.system_identifier, ours.system_identifier);
    assert_eq!((system.timeline, timeline.timeline), (1, 2));
}

#[tokio::test]
async fn a_promoted_synchronous_standby_inherits_the_setting_and_hangs() {
    let pair = Pair::start(Options { synchronous: true, ..Options::default() }).await.unwrap();
    pair.primary.write("synchronous").await.unwrap();
    pair.primary.crash();
    pair.standby.execute("select pg_promote(false)").await.unwrap();
    pair.standby.wait_for_promotion().await.unwrap();
    let write = tokio::time::timeout(Duration::from_millis(500), pair.standby.write("hanging")).await;
    assert!(write.is_err());
    pair.standby.execute("alter system set synchronous_standby_names = ''").await.unwrap();
    pair.standby.execute("select pg_reload_conf()").await.unwrap();
    pair.standby.write("alone").await.unwrap();
}

#[tokio::test]
async fn the_heart_goes_on_after_the_primary_came_back() {
    let pair = pair().await;
    let beats = async || -> i64 {
        pair.primary
            .admin()
            .await
            .unwrap()
            .query_one("select number from recovery.heartbeat", &[])
            .await
            .unwrap()
            .get(0)
    };
    let _heart = pair.beat(Duration::from_millis(5)).unwrap();
    while beats().await < 3 {}
    pair.primary.restart().await.unwrap();
    let before = beats().await;
    while beats().await < before + 3 {}
}

#[tokio::test]
async fn nothing_is_left_when_the_pair_is_dropped() {
    let pair = pair().await;
    pair.standby.freeze();
    pair.primary.crash();
    let folder = pair.folder().path().to_owned();
    drop(pair);
    assert!(!folder.exists());
    assert_eq!(running_in(&folder), 0);
}

/// Processes whose working directory is inside.
fn running_in(folder: &std::path::Path) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|e| std::fs::read_link(e.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .count()
}

/// Started by the test below as a process of its own, to be killed.
#[tokio::test]
#[ignore = "the other half of `a_killed_owner_leaves_nothing`"]
async fn owner_that_waits_to_be_killed() {
    let pair = pair().await;
    pair.standby.freeze();
    std::fs::write(std::env::var_os("LAB_TEST_FOLDER_FILE").unwrap(), pair.folder().path().to_str().unwrap()).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_owner_leaves_nothing() {
    let note = tempfile::NamedTempFile::new().unwrap();
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "owner_that_waits_to_be_killed"])
        .env("LAB_TEST_FOLDER_FILE", note.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let folder = loop {
        let folder = std::fs::read_to_string(note.path()).unwrap();
        if !folder.is_empty() {
            break std::path::PathBuf::from(folder);
        }
        assert!(Instant::now() < deadline && owner.try_wait().unwrap().is_none(), "the owner has made its pair");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(running_in(&folder) > 5, "two servers run");
    owner.kill().unwrap();
    owner.wait().unwrap();
    while running_in(&folder) > 0 || folder.exists() {
        assert!(Instant::now() < deadline, "the frozen standby too is gone, and the folder");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
