//! `drctl wal` as a real server's `archive_command` and `restore_command`, and `drctl postgres config` as its settings.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lab::{
    aws::{Aws, Seed, TERTIARY},
    postgres::{Options, Pair, Server, Tools},
};
use recovery_archive::wal::{Expected, Walk};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

const BUCKET: &str = "sparc-wal-archive";
/// Archiving takes a server moments; a server that never does it fails here.
const PATIENCE: Duration = Duration::from_secs(60);

/// `drctl`, its plan and its way to an emulated AWS, where the server's own user can run and read them.
struct Archive {
    aws: Aws,
    folder: TempDir,
}

impl Archive {
    async fn start() -> Archive {
        let aws = Aws::start().await.unwrap();
        aws.seed(&Seed::default()).await.unwrap();
        let folder = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        fs::copy(env!("CARGO_BIN_EXE_drctl"), folder.path().join("drctl")).unwrap();
        let plan =
            include_str!("../../../plans/sparc.toml").replacen("driver = \"rds\"", "driver = \"self-managed\"", 1);
        fs::write(folder.path().join("plan.toml"), plan).unwrap();
        let archive = Archive { aws, folder };
        let exports: Vec<String> =
            archive.aws.env().iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        archive.script("drctl.sh", &format!("{}exec {} \"$@\"", exports.concat(), archive.path("drctl").display()));
        archive
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, words: &str) -> String {
        format!("{} wal {words} --plan {}", self.path("drctl.sh").display(), self.path("plan.toml").display())
    }

    async fn drctl(&self, words: &[&str]) -> Output {
        self.drctl_reaching(words, &self.aws.env()).await
    }

    async fn drctl_reaching(&self, words: &[&str], env: &[(String, String)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drctl"));
        command.args(words).args(["--plan", self.path("plan.toml").to_str().unwrap()]);
        command.envs(env.iter().cloned()).output().await.unwrap()
    }

    async fn object(&self, key: &str) -> Option<Vec<u8>> {
        let url = format!("{}/{BUCKET}/{key}", self.aws.control_url());
        let curl = Command::new("curl").args(["--silent", "--fail", &url]).output().await.unwrap();
        curl.status.success().then_some(curl.stdout)
    }
}

async fn text(server: &Server, query: &str) -> String {
    server.admin().await.unwrap().query_one(query, &[]).await.unwrap().get(0)
}

/// Ends the segment that is being written, and waits until it is archived; returns its name.
async fn archived(server: &Server) -> String {
    let name = text(server, "select pg_walfile_name(pg_current_wal_lsn())").await;
    server.execute("select pg_switch_wal()").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while text(server, "select coalesce((select last_archived_wal from pg_stat_archiver), '')").await < name {
        let failed = text(server, "select coalesce(last_failed_wal, '') from pg_stat_archiver").await;
        let log = fs::read_to_string(server.log()).unwrap();
        let said: Vec<&str> = log.lines().filter(|line| line.starts_with("drctl:")).collect();
        assert!(failed.is_empty(), "`{failed}` cannot be archived: {said:?}");
        assert!(Instant::now() < deadline, "`{name}` is never archived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    name
}

/// The least of a data directory that `drctl wal` looks at.
fn data_with(folder: &Path, control: &[u8], name: &str, segment: &[u8]) {
    fs::create_dir_all(folder.join("global")).unwrap();
    fs::create_dir_all(folder.join("pg_wal")).unwrap();
    fs::write(folder.join("global/pg_control"), control).unwrap();
    fs::write(folder.join("pg_wal").join(name), segment).unwrap();
}

fn append(server: &Server, text: &str) {
    let conf = server.data().join("postgresql.conf");
    fs::OpenOptions::new().append(true).open(conf).unwrap().write_all(text.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_archives_by_it_and_another_recovers_from_nothing_else() {
    let archive = Archive::start().await;
    let settings =
        vec![("archive_mode".to_owned(), "on".to_owned()), ("archive_command".to_owned(), archive.command("push %p"))];
    let pair = Pair::start(Options { settings, ..Options::default() }).await.unwrap();
    pair.standby.stop().await.unwrap();
    pair.primary.execute("create table public.kept as select generate_series(1, 1000) n").await.unwrap();
    let name = archived(&pair.primary).await;
    let end = pair.primary.position().await.unwrap().holds_to;

    // The log reaches it by the archive alone.
    append(&pair.standby, "primary_conninfo = ''\n");
    append(&pair.standby, &format!("restore_command = '{}'\n", archive.command("fetch %f %p --standby")));
    pair.standby.start().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while text(&pair.standby, "select (to_regclass('public.kept') is null)::text").await == "true" {
        assert!(Instant::now() < deadline, "the standby never sees what is in the archive; the log ended at {end}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rows: i64 =
        pair.standby.admin().await.unwrap().query_one("select count(*) from kept", &[]).await.unwrap().get(0);
    assert_eq!(rows, 1000);

    // What else may be handed over under that name.
    let data = pair.primary.data();
    let (control, segment) =
        (fs::read(data.join("global/pg_control")).unwrap(), fs::read(data.join("pg_wal").join(&name)).unwrap());
    let identifier = u64::from_le_bytes(control[..8].try_into().unwrap());
    let key = format!("wal/{identifier}/{}/{name}.zst", &name[..8]);
    let stored = archive.object(&key).await.expect("the key is as documented");
    let path = format!("pg_wal/{name}");
    let push = async |folder: &Path| archive.drctl(&["wal", "push", &path, "--pgdata", folder.to_str().unwrap()]).await;
    let other = archive.path("other");
    data_with(&other, &control, &name, &segment);
    assert_eq!(push(&other).await.status.code(), Some(0), "the same file twice is success");

    let mut changed = segment.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut foreign = control.clone();
    foreign[0] ^= 1;
    let zeros = vec![0; segment.len()];
    let situations: [(&str, &[u8], &[u8], &str); 4] = [
        ("another file of this name", &control, &changed, "holds another file of this name"),
        ("a server of another cluster", &foreign, &segment, "and this archive is of cluster"),
        ("a segment that is cut off", &control, &segment[..segment.len() / 2], "and its first page says 16777216"),
        ("a page of zeros", &control, &zeros, "no long header"),
    ];
    for (situation, control, segment, says) in situations {
        data_with(&other, control, &name, segment);
        let output = push(&other).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{situation}: {said}");
        assert!(said.contains(says) && said.trim().lines().count() == 1, "{situation}: {said}");
        assert_eq!(archive.object(&key).await.unwrap(), stored, "{situation}: the archive was changed");
    }
    // Recycled: the bytes of a later segment's name.
    let later = format!("{}{:08X}", &name[..16], u32::from_str_radix(&name[16..], 16).unwrap() + 7);
    data_with(&other, &control, &later, &segment);
    let output = archive.drctl(&["wal", "push", &format!("pg_wal/{later}"), "--pgdata", other.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("its first page is the one of"), "{output:?}");

    // PostgreSQL reads exit codes: only what is certainly not there may look like it.
    data_with(&other, &control, &name, &segment);
    let there = other.to_str().unwrap();
    let fetch = async |words: &[&str], env: &[(String, String)]| {
        let words: Vec<&str> = ["wal", "fetch"].iter().chain(words).copied().collect();
        archive.drctl_reaching(&words, env).await.status.code()
    };
    let env = archive.aws.env();
    let nowhere: Vec<(String, String)> = env
        .iter()
        .filter(|(name, _)| !name.starts_with("AWS_ENDPOINT_URL_"))
        .map(|(name, value)| {
            let value = if name == "AWS_ENDPOINT_URL" { "http://127.0.0.1:9" } else { value };
            (name.clone(), value.to_owned())
        })
        .collect();
    assert_eq!(fetch(&[&name, "pg_wal/RECOVERYXLOG", "--pgdata", there], &env).await, Some(0));
    assert_eq!(fs::read(other.join("pg_wal/RECOVERYXLOG")).unwrap(), segment);
    assert_eq!(fetch(&[&later, "pg_wal/RECOVERYXLOG", "--pgdata", there], &env).await, Some(1), "not there");
    assert_eq!(fetch(&["00000002.history", "pg_wal/RECOVERYHISTORY", "--pgdata", there], &env).await, Some(1));
    assert_eq!(fetch(&[&name, "pg_wal/X", "--pgdata", there], &nowhere).await, Some(254), "not reached");
    assert_eq!(fetch(&[&name, "pg_wal/X", "--pgdata", there, "--standby"], &nowhere).await, Some(1));
    assert_eq!(fetch(&[&name, "pg_wal/X", "--nonsense"], &env).await, Some(254), "a wrong argument");
    assert_eq!(fetch(&["nonsense", "pg_wal/X", "--pgdata", there], &env).await, Some(254), "a wrong name");
    // One bit of the archive.
    let mut damaged = stored.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let put = archive.aws.call("s3", TERTIARY, reqwest::Method::PUT, &format!("/{BUCKET}/{key}"), &[], damaged).await;
    assert!(put.unwrap().status.is_success());
    assert_eq!(fetch(&[&name, "pg_wal/X", "--pgdata", there], &env).await, Some(254), "damaged");
    assert!(!other.join("pg_wal/X").exists());
}

/// The settings that `drctl postgres config` prints, by name, and the file.
async fn config(archive: &Archive, role: &str, tools: &Tools, more: &[&str]) -> (BTreeMap<String, String>, String) {
    let (major, drctl) = (tools.major().to_string(), archive.path("drctl.sh"));
    let mut words = vec!["postgres", "config", "--role", role, "--major", &major, "--drctl", drctl.to_str().unwrap()];
    words.extend(more);
    let file = archive.drctl(&words).await;
    assert!(file.status.success(), "{file:?}");
    words.push("--json");
    let list: Vec<Value> = serde_json::from_slice(&archive.drctl(&words).await.stdout).unwrap();
    let field = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let list = list.iter().map(|one| (field(one, "name"), field(one, "value"))).collect();
    (list, String::from_utf8(file.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_start_with_the_settings_of_their_version_and_the_standby_follows() {
    let versions = tokio::task::spawn_blocking(Tools::of_every_major).await.unwrap().unwrap();
    let majors: Vec<u32> = versions.iter().map(Tools::major).collect();
    assert_eq!(majors, recovery::postgres_settings::VERSIONS.collect::<Vec<u32>>());
    for tools in versions {
        let archive = Archive::start().await;
        let pair = Pair::start(Options { tools: Some(tools.clone()), ..Options::default() }).await.unwrap();
        pair.standby.stop().await.unwrap();
        pair.primary.stop().await.unwrap();
        let plan = fs::read_to_string(archive.path("plan.toml")).unwrap();
        let plan = plan
            .replacen(
                "host = \"primary.db.sparc.com\"\nport = 5432",
                &format!("host = \"localhost\"\nport = {}", pair.primary.port()),
                1,
            )
            .replacen(
                "certificates/rds-global-bundle.pem",
                pair.standby.data().join("authority.crt").to_str().unwrap(),
                1,
            );
        fs::write(archive.path("plan.toml"), plan).unwrap();
        let passfile = pair.standby.data().join("upstream.pgpass");
        for (server, role) in [(&pair.primary, "primary"), (&pair.standby, "standby")] {
            let (list, file) = config(&archive, role, &tools, &["--passfile", passfile.to_str().unwrap()]).await;
            // What the server would log as it starts, if it did not know a name or a value.
            append(server, &file);
            server.start().await.unwrap_or_else(|error| panic!("{role} of {}: {error}", tools.version()));
            let wrong = "select coalesce(string_agg(name || ': ' || error, '; '), '') from pg_file_settings
                          where error is not null";
            assert_eq!(text(server, wrong).await, "", "{role} of {}", tools.version());
            for (name, value) in &list {
                let query = format!("select setting from pg_file_settings where name = '{name}' and applied");
                assert_eq!(text(server, &query).await, *value, "{role} of {}: {name}", tools.version());
            }
        }
        pair.primary.execute("create table public.kept as select 1 n").await.unwrap();
        pair.caught_up().await.unwrap_or_else(|error| panic!("{}: {error}", tools.version()));
        // The log of this version, as the reader of archives sees it.
        let name = archived(&pair.primary).await;
        let control = fs::read(pair.primary.data().join("global/pg_control")).unwrap();
        let system = u64::from_le_bytes(control[..8].try_into().unwrap());
        let stored = archive.object(&format!("wal/{system}/{}/{name}.zst", &name[..8])).await.unwrap();
        let expected = Expected { system_identifier: Some(system), major: Some(tools.major()), ..Expected::default() };
        let mut walk = Walk::new(expected);
        let plain = zstd::stream::read::Decoder::new(&*stored).unwrap();
        walk.segment(name.parse().unwrap(), plain).unwrap_or_else(|flaw| panic!("{}: {flaw}", tools.version()));
        let committed_at = walk.followed().committed_at.unwrap_or_else(|| panic!("no commit in {}", tools.version()));
        let age = Timestamp::now().duration_since(committed_at).as_secs();
        assert!((0..600).contains(&age), "{}: committed at {committed_at}", tools.version());
    }
}
