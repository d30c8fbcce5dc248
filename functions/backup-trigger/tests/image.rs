//! The image of the Job, built as its description has it and run as a node would run the pod.

#![allow(clippy::unwrap_used)]

mod site;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use lab::container::{Container, Engine};
use recovery::{
    backup::{BackupId, Content, Kind, Taken},
    plan::Plan,
};
use site::{Platform, id, platform};
use tempfile::TempDir;

const PLAN: &str = include_str!("../../../plans/sparc.toml");
/// More text than the scratch folder holds.
const LARGE: &str = "create table public.large as select repeat(md5(n::text), 250) t from generate_series(1, 12000) n";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// What the ConfigMap has: the plan of this platform, and the files that it names.
fn files(platform: &Platform) -> TempDir {
    let folder = TempDir::new_in("/var/tmp").unwrap();
    let (pair, plan) = (&platform.site.pair, &platform.plan);
    let mut text = PLAN.to_owned();
    for (old, new) in [
        ("driver = \"rds\"", "driver = \"self-managed\"".to_owned()),
        (
            "host = \"primary.db.sparc.com\"\nport = 5432",
            format!("host = \"localhost\"\nport = {}", pair.primary.port()),
        ),
        ("read_from = \"standby\"", "read_from = \"primary\"".to_owned()),
        (
            "kms_key = \"arn:aws:kms:eu-west-1:111122223333:key/11112222-3333-4444-5555-666677778888\"",
            format!("kms_key = \"{}\"", plan.backups.kms_key),
        ),
        ("kind = \"logical\"", "kind = \"logical\"\ndirectory = { jobs = 2, scratch_bytes = 67108864 }".to_owned()),
        ("kind = \"snapshot\"", "kind = \"physical\"".to_owned()),
    ] {
        assert!(text.contains(old), "{old}");
        text = text.replacen(old, &new, 1);
    }
    Plan::parse("plan.toml", &text).unwrap();
    fs::write(folder.path().join("plan.toml"), text).unwrap();
    fs::create_dir(folder.path().join("certificates")).unwrap();
    for name in ["rds-global-bundle", "sparc-prod-us-east-1", "sparc-prod-us-west-2"] {
        fs::copy(pair.authority().path(), folder.path().join(format!("certificates/{name}.pem"))).unwrap();
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs containers, which needs podman, runc and the rights to; `make deploy-test` runs it"]
async fn an_image_as_described_takes_backups_where_nothing_can_be_written_but_its_scratch() {
    let layers = root().join("layers/postgresql");
    let layer = tokio::task::spawn_blocking(move || lab::stack::layer(&layers, "PostgresToolsLayer"));
    let engine = Engine::start().await.unwrap();
    // What `sam build` leaves, with the program of this build.
    let context = TempDir::new_in("/var/tmp").unwrap();
    fs::create_dir(context.path().join("BackupTriggerFunction")).unwrap();
    let program = context.path().join("BackupTriggerFunction/bootstrap");
    fs::copy(env!("CARGO_BIN_EXE_backup-trigger"), &program).unwrap();
    let tools = context.path().join("PostgresToolsLayer");
    let copied = std::process::Command::new("cp").arg("-r").arg(layer.await.unwrap().unwrap()).arg(&tools).status();
    assert!(copied.unwrap().success());
    let description = root().join("functions/backup-trigger/Containerfile");
    engine.build(&description, context.path(), "localhost/backup-trigger").await.unwrap();

    let platform = platform(Taken::Primary).await;
    platform.site.pair.primary.admin_of("sparc_prod").await.unwrap().batch_execute(LARGE).await.unwrap();
    let (files, scratch) = (files(&platform), TempDir::new_in("/var/tmp").unwrap());
    // As an `emptyDir` is.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut env = platform.site.account.aws.env();
    env.push(("RECOVERY_PLAN".to_owned(), "/etc/recovery/plan.toml".to_owned()));
    let mounts = [(files.path(), "/etc/recovery", false), (scratch.path(), "/tmp", true)];

    for kind in [Kind::Logical, Kind::Physical] {
        let backup = id(kind);
        let arguments = [backup.to_string(), "by-a-container".to_owned()];
        let arguments = [&*arguments[0], &*arguments[1]];
        // As much as the function asks of a node for so little.
        let container = Container {
            image: "localhost/backup-trigger",
            arguments: &arguments,
            env: &env,
            memory_mib: 448,
            mounts: &mounts,
        };
        let ended = engine.run(&container).await.unwrap();
        let said = [String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr)].concat();
        assert!(ended.status.success(), "{}: {said}", ended.status);
        let (manifest, artifacts) = platform.published(&backup).await;
        match kind {
            Kind::Logical => {
                let of_large = |content: &Content| matches!(content, Content::DumpData { table: Some(table), .. } if table == "public.large");
                let (large, _) = artifacts.iter().find(|(artifact, _)| of_large(&artifact.content)).unwrap();
                assert!(large.plain_bytes > 90_000_000, "{} bytes", large.plain_bytes);
            }
            _ => assert_eq!(manifest.artifacts.len(), 1),
        }
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left in the scratch");

    // What is wrong with a pod is said in one line, and not tried again; and the bound on memory is one.
    let next =
        BackupId::new(Kind::Physical, "sparc-prod", "2026-11-27T02:00:00Z".parse().unwrap()).unwrap().to_string();
    for (argument, memory_mib, status) in [("no-backup", 448, 2), (&*next, 10, 137)] {
        let container = Container {
            image: "localhost/backup-trigger",
            arguments: &[argument],
            env: &env,
            memory_mib,
            mounts: &mounts,
        };
        let ended = engine.run(&container).await.unwrap();
        assert_eq!(ended.status.code(), Some(status), "{argument}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}
