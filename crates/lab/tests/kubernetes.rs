//! Clusters of the lab: they end with their owner, stand side by side, and are what they say.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

use std::time::{Duration, Instant};

use lab::kubernetes::{Cluster, Flavour, Options};
use serde_json::json;

async fn cluster(flavour: Flavour) -> Cluster {
    match Cluster::start(Options { flavour, ..Options::new("sparc-west") }).await {
        Ok(cluster) => cluster,
        Err(error) => panic!("{error}; {}", error.remedy()),
    }
}

#[tokio::test]
async fn a_cluster_says_what_it_is_and_two_stand_side_by_side() {
    let (small, real) = tokio::join!(cluster(Flavour::Small), cluster(Flavour::Real));
    assert_eq!(small.kind(), "the lab's small Kubernetes API");
    assert!(real.kind().starts_with("real kube-apiserver v1."), "{}", real.kind());
    assert_ne!(small.endpoint(), real.endpoint());

    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "only-here"}});
    small.admin().create("/api/v1/namespaces/sparc/configmaps", &config).await.unwrap();
    assert_eq!(real.admin().get("/api/v1/namespaces/sparc/configmaps/only-here").await.unwrap(), None);
}

#[tokio::test]
async fn a_dropped_cluster_answers_no_more() {
    let small = cluster(Flavour::Small).await;
    let admin = small.admin().clone();
    assert!(admin.get("/api/v1/namespaces/sparc").await.unwrap().is_some());
    drop(small);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(admin.get("/api/v1/namespaces/sparc").await.is_err());
}

/// Processes whose working directory is inside.
fn running_in(folder: &std::path::Path) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .count()
}

/// Started by the test below as a process of its own, to be killed.
#[tokio::test]
#[ignore = "the other half of `a_killed_owner_leaves_no_api_server`"]
async fn owner_that_waits_to_be_killed() {
    let real = cluster(Flavour::Real).await;
    std::fs::write(std::env::var_os("LAB_TEST_FOLDER_FILE").unwrap(), real.folder().to_str().unwrap()).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_owner_leaves_no_api_server() {
    let note = tempfile::NamedTempFile::new().unwrap();
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "owner_that_waits_to_be_killed"])
        .env("LAB_TEST_FOLDER_FILE", note.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let folder = loop {
        let folder = std::fs::read_to_string(note.path()).unwrap();
        if !folder.is_empty() {
            break std::path::PathBuf::from(folder);
        }
        assert!(Instant::now() < deadline && owner.try_wait().unwrap().is_none(), "the owner has made its cluster");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(running_in(&folder), 2, "etcd and kube-apiserver run");
    owner.kill().unwrap();
    owner.wait().unwrap();
    while running_in(&folder) > 0 || folder.exists() {
        assert!(Instant::now() < deadline, "both are gone, and the folder");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
