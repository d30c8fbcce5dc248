//! The whole lab: two of them, and how they end.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lab::load::{self, Load};
use lab::{Lab, Options};

async fn status(url: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap().status().as_u16()
}

/// Processes whose working directory is inside.
fn running_in(folder: &Path) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|e| std::fs::read_link(e.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_labs_stand_side_by_side_and_one_outlives_the_other() {
    let stages: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = stages.clone();
    let begun = Instant::now();
    let progress = Arc::new(move |progress: lab::Progress| {
        if let Some(took) = progress.done_after {
            told.lock().unwrap().push(format!("{} ({took:.1?})", progress.stage));
        }
    });
    let one = Lab::start(Options { progress, ..Options::default() }).await.unwrap();
    println!("one lab in {:.1?}: {:#?}", begun.elapsed(), stages.lock().unwrap());
    assert_eq!(stages.lock().unwrap().len(), 8);
    let other = Lab::start(Options::default()).await.unwrap();
    for lab in [&one, &other] {
        assert_eq!(status(&lab.addresses().public_url).await, 200);
    }
    assert_ne!(one.addresses().databases, other.addresses().databases);

    let folders = [one.pair.folder().path().to_owned(), one.folder().to_owned()];
    let cluster = one.secondary_cluster().unwrap().folder().to_owned();
    drop(one);
    for folder in folders {
        assert!(!folder.exists() && running_in(&folder) == 0, "{}", folder.display());
    }
    assert_eq!(running_in(&cluster), 0);
    assert_eq!(status(&other.addresses().public_url).await, 200);
    other.pair.primary.write("undisturbed").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_lost_and_recovered_by_hand() {
    let lab = Lab::start(Options::default()).await.unwrap();
    let mut load = Load::start(&lab.pair, load::Options::default()).await.unwrap();
    let names = lab.addresses();
    lab.lose_primary_region();
    let lost_at = Instant::now();
    assert_eq!(status(&names.public_url).await, 502);

    let replica = [("DBInstanceIdentifier", names.aws.instances[1].as_str())];
    let (accepted, answer) = lab.rds.query(names.regions[1], "PromoteReadReplica", &replica).await.unwrap();
    assert_eq!(accepted.as_u16(), 200, "{answer}");
    load.wait_for_acknowledgements_of("standby", lost_at).await.unwrap();
    // No Deployment runs there yet; what a rollout does is done by hand.
    for service in names.secondary_services.keys() {
        lab.secondary.mend_service(service);
    }
    while lab.edge.is_healthy(&names.aws.secondary_check) != Some(true) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.aws.put_object(&names.aws.switch_bucket, &names.aws.switch_key, "out").await.unwrap();
    lab.edge.wait_until_answer("api.sparc.com", "origin.us-west-2.sparc.com").await.unwrap();
    assert_eq!(status(&names.public_url).await, 200);
    for (service, url) in &names.secondary_services {
        assert_eq!(status(url).await, 200, "{service}");
    }
    load.stop().await;
    assert_eq!(lab.edge.ever_all_unhealthy(), None);
    assert!(lab.primary_cluster().is_none());
    assert!(load.two_primaries().is_none());
    println!(
        "outage {:.1?}, lost {:?}",
        load.gap(lost_at).unwrap().duration(),
        load.lost(&lab.pair.standby).await.unwrap()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_their_node_group_and_the_primary_runs_the_bundle() {
    let kubernetes = Some([lab::kubernetes::Flavour::Small; 2]);
    let lab = Lab::start(Options { kubernetes, ..Options::default() }).await.unwrap();
    let names = lab.addresses();
    let nodes = lab.nodes.as_ref().unwrap();
    assert_eq!(nodes.ready(), 2);
    let update = serde_json::json!({ "scalingConfig": { "minSize": 10, "maxSize": 60, "desiredSize": 50 } });
    let path = format!("/clusters/{}/node-groups/{}/update-config", names.aws.clusters[1], names.aws.node_group);
    let json = [("content-type", "application/json")];
    let region = names.regions[1];
    let asked = lab.aws.call("eks", region, reqwest::Method::POST, &path, &json, update.to_string()).await.unwrap();
    assert!(asked.status.is_success(), "{}", asked.body);
    while nodes.ready() < 50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let secondary = lab.secondary_cluster().unwrap();
    assert_eq!(secondary.admin().list("/api/v1/nodes", "").await.unwrap().len(), 50);

    let primary = lab.primary_cluster().unwrap();
    let running = primary.deployment("core-apis").await.unwrap().unwrap();
    assert_eq!(running["spec"]["replicas"], 12);
    assert!(secondary.deployment("core-apis").await.unwrap().is_none(), "nothing runs there yet");
    let bundle = lab.aws.object(&names.aws.evidence_bucket, names.bundle_key).await.unwrap().unwrap();
    assert!(bundle.contains("${DATABASE_HOST}"));
    assert_eq!(names.clusters.len(), 2);
}

/// Started by the tests below as a process of its own, to be ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other half of the tests that end an owner"]
async fn owner_that_waits_for_its_end() {
    let lab = Lab::start(Options::default()).await.unwrap();
    let cluster = lab.secondary_cluster().unwrap();
    let folders = [lab.pair.folder().path(), lab.folder(), cluster.folder()];
    let note: String = folders.iter().map(|folder| format!("{}\n", folder.display())).collect();
    std::fs::write(std::env::var_os("LAB_TEST_FOLDER_FILE").unwrap(), note).unwrap();
    assert!(std::env::var_os("LAB_TEST_PANIC").is_none(), "this is the panic that the test asks for");
    std::future::pending::<()>().await;
}

async fn ends(panics: bool, signal: Option<&str>) {
    let note = tempfile::NamedTempFile::new().unwrap();
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap());
    owner.args(["--ignored", "--exact", "owner_that_waits_for_its_end"]).env("LAB_TEST_FOLDER_FILE", note.path());
    if panics {
        owner.env("LAB_TEST_PANIC", "1");
    }
    let mut owner = owner.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let folders: Vec<PathBuf> = loop {
        let note = std::fs::read_to_string(note.path()).unwrap();
        if note.lines().count() == 3 && note.ends_with('\n') {
            break note.lines().map(PathBuf::from).collect();
        }
        assert!(Instant::now() < deadline, "the owner has made its lab");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    if let Some(signal) = signal {
        let pid = owner.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
    owner.wait().unwrap();
    for folder in &folders {
        while folder.exists() || running_in(folder) > 0 {
            assert!(Instant::now() < deadline, "{} is gone", folder.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_left_after_kill_9() {
    ends(false, Some("-KILL")).await;
}

#[tokio::test]
async fn nothing_is_left_after_an_interrupt() {
    ends(false, Some("-INT")).await;
}

#[tokio::test]
async fn nothing_is_left_after_a_panic() {
    ends(true, None).await;
}
