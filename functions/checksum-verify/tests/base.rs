//! Base backups of servers of every major version: taken, proven, and started from.

#![allow(clippy::unwrap_used)]

mod site;

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Stdio};

use lab::postgres::{Options, Pair, Server, Tools};
use recovery::{
    backup::{Artifact, Content, Encoding, Kind, Reason, Rung, Source},
    fault::{Classified, Fault, chain},
};
use site::{Platform, id, platform};
use tokio::{io::AsyncWriteExt, process::Command};

const ROWS: &str = "create table public.kept as select n, md5(n::text) t from generate_series(1, 20000) n";

/// A folder of the server's own user, beside its data.
fn folder(pair: &Pair, name: &str) -> std::path::PathBuf {
    let place = pair.primary.data().with_file_name(name);
    fs::create_dir(&place).unwrap();
    own(pair, &place);
    place
}

/// Gives everything in a folder to the servers' user.
fn own(pair: &Pair, place: &Path) {
    let owner = fs::metadata(pair.standby.data()).unwrap();
    let who = format!("{}:{}", owner.uid(), owner.gid());
    let status = std::process::Command::new("chown").args(["-R", &who]).arg(place).status().unwrap();
    assert!(status.success());
}

async fn unpack(platform: &Platform, artifact: &Artifact, to: &Path) {
    let plain = zstd::stream::decode_all(&*platform.object(&artifact.key).await).unwrap();
    let mut untar = Command::new("tar");
    untar.arg("--extract").arg("--directory").arg(to).stdin(Stdio::piped());
    let mut untar = untar.spawn().unwrap();
    untar.stdin.take().unwrap().write_all(&plain).await.unwrap();
    assert!(untar.wait().await.unwrap().success());
}

async fn rows(server: &Server, table: &str) -> i64 {
    let client = server.admin_of("sparc_prod").await.unwrap();
    client.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_every_major_version_starts_from_its_base_backup_with_its_tablespaces_elsewhere() {
    let versions = tokio::task::spawn_blocking(Tools::of_every_major).await.unwrap().unwrap();
    let majors: Vec<u32> = versions.iter().map(Tools::major).collect();
    assert_eq!(majors, recovery::postgres_settings::VERSIONS.collect::<Vec<u32>>());
    for tools in versions {
        let version = tools.version().to_owned();
        let platform = platform(Options { tools: Some(tools), ..Options::default() }, Encoding::Zstd, None).await;
        let primary = &platform.pair.primary;
        let (fast, unused) = (folder(&platform.pair, "fast"), folder(&platform.pair, "unused"));
        primary.execute(&format!("create tablespace fast location '{}'", fast.display())).await.unwrap();
        primary.execute(&format!("create tablespace unused location '{}'", unused.display())).await.unwrap();
        let client = primary.admin_of("sparc_prod").await.unwrap();
        client.batch_execute(ROWS).await.unwrap();
        client.batch_execute("create table public.fast tablespace fast as table public.kept").await.unwrap();

        platform.take(Kind::Physical).await.unwrap_or_else(|error| panic!("{version}: {}", chain(&error)));
        let manifest = platform.manifest(Kind::Physical).await;
        assert_eq!((manifest.tool.name.as_str(), manifest.tool.version.as_str()), ("BASE_BACKUP", version.as_str()));
        let Source::PostgreSql { from_lsn, to_lsn, timeline, .. } = &manifest.source else { panic!("{version}") };
        assert!(from_lsn.is_some() && from_lsn < to_lsn && *timeline == Some(1), "{version}: {from_lsn:?} {to_lsn:?}");
        let [first, second, base] = manifest.artifacts.as_slice() else {
            panic!("{version}: {:?}", manifest.artifacts)
        };
        assert_eq!(base.content, Content::BaseBackup);
        let proof = platform.prove(Kind::Physical).await;
        assert_eq!((proof.rung, proof.findings.as_slice()), (Some(Rung::Structure), &[][..]), "{version}");

        // Everything is lost but the backup.
        drop(client);
        platform.pair.standby.stop().await.unwrap();
        primary.stop().await.unwrap();
        fs::remove_dir_all(&fast).unwrap();
        fs::remove_dir_all(primary.data()).unwrap();
        fs::create_dir(primary.data()).unwrap();
        unpack(&platform, base, primary.data()).await;
        let mut map = fs::read_to_string(primary.data().join("tablespace_map")).unwrap();
        for artifact in [first, second] {
            let Content::Tablespace { oid, location, listing } = &artifact.content else { panic!("{version}") };
            let files = listing.as_ref().unwrap().files;
            assert_eq!(files > 0, *location == fast.display().to_string(), "{version}: {files} files in {location}");
            assert!(artifact.key.ends_with(&format!("/{oid}.tar.zst")), "{version}: {}", artifact.key);
            let place = folder(&platform.pair, &oid.to_string());
            unpack(&platform, artifact, &place).await;
            own(&platform.pair, &place);
            map = map.replace(location, place.to_str().unwrap());
        }
        fs::write(primary.data().join("tablespace_map"), map).unwrap();
        own(&platform.pair, primary.data());
        std::process::Command::new("chmod").arg("0700").arg(primary.data()).status().unwrap();
        primary.start().await.unwrap_or_else(|error| panic!("{version}: {error}"));
        assert_eq!(
            (rows(primary, "public.kept").await, rows(primary, "public.fast").await),
            (20_000, 20_000),
            "{version}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_that_is_missing_or_another_one_is_found() {
    let platform = platform(Options::default(), Encoding::Zstd, None).await;
    let primary = &platform.pair.primary;
    for name in ["fast", "slow"] {
        let place = folder(&platform.pair, name);
        primary.execute(&format!("create tablespace {name} location '{}'", place.display())).await.unwrap();
        let client = primary.admin_of("sparc_prod").await.unwrap();
        client.batch_execute(&format!("create table public.{name} tablespace {name} as select 1 n")).await.unwrap();
    }
    platform.take(Kind::Physical).await.unwrap();
    let manifest = platform.manifest(Kind::Physical).await;
    let mut lacking = manifest.clone();
    lacking.artifacts.remove(0);
    // As if the contents had been described for each other.
    let mut swapped = manifest.clone();
    let other = swapped.artifacts[1].content.clone();
    swapped.artifacts[1].content = std::mem::replace(&mut swapped.artifacts[0].content, other);
    let mut undescribed = manifest.clone();
    if let Content::Tablespace { listing, .. } = &mut undescribed.artifacts[0].content {
        *listing = None;
    }
    for (changed, reasons) in [
        (&lacking, vec![(Reason::NotCovered, "is not in the backup")]),
        (&swapped, vec![(Reason::Structure, "are not the"), (Reason::Structure, "are not the")]),
        (
            &undescribed,
            vec![
                (Reason::NotChecked, "does not say what is in it"),
                (Reason::OtherContent, "lists other files of the tablespace"),
            ],
        ),
    ] {
        platform.publish(changed).await;
        let proof = platform.prove(Kind::Physical).await;
        assert_eq!(proof.findings.len(), reasons.len(), "{:?}", proof.findings);
        for (found, (reason, says)) in proof.findings.iter().zip(reasons) {
            assert!(found.reason == reason && found.says.contains(says), "{found:?}");
        }
        assert_eq!(proof.rung, Some(Rung::Digests));
    }
    platform.publish(&manifest).await;
    assert_eq!(platform.prove(Kind::Physical).await.rung, Some(Rung::Structure));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_that_the_server_finds_and_a_role_that_may_not_replicate_publish_nothing() {
    let platform = platform(Options::default(), Encoding::Zstd, None).await;
    let primary = &platform.pair.primary;
    primary.execute("alter role sparc_backup noreplication").await.unwrap();
    let error = platform.take(Kind::Physical).await.unwrap_err();
    let said = chain(&error);
    assert_eq!(error.fault(), Fault::Refused, "{said}");
    assert!(said.contains("must be superuser or replication role") || said.contains("REPLICATION"), "{said}");
    primary.execute("alter role sparc_backup replication").await.unwrap();

    let client = primary.admin_of("sparc_prod").await.unwrap();
    client.batch_execute(ROWS).await.unwrap();
    let file: String = client.query_one("select pg_relation_filepath('public.kept')", &[]).await.unwrap().get(0);
    drop(client);
    primary.execute("checkpoint").await.unwrap();
    let file = primary.data().join(file);
    let mut pages = fs::read(&file).unwrap();
    pages[3 * 8192 + 4000] ^= 1;
    fs::write(&file, pages).unwrap();
    let error = platform.take(Kind::Physical).await.unwrap_err();
    let said = chain(&error);
    assert!(said.contains("checksum verification failure"), "{said}");
    let folder = platform.aws.backups().list(&id(Kind::Physical).folder(), None, None).await.unwrap();
    assert_eq!(folder.objects, [], "something is published");
}
