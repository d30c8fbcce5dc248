//! Backups that are too large for a Lambda, end to end: the machine on our engine makes a Job by a real kube-apiserver, with the
//! rights that the suite ships, and the lab's node runs the real program in it. What is killed, evicted, lost on the way or
//! refused for good ends in a backup that is proven, or in a message that says why there is none.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::{
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan};
use lab::{
    aws::{SECRET_KEY, TERTIARY},
    faults::{Script, Selector, Times},
    kubernetes::{Flavour, Image, Node, NodeOptions},
    stack,
};
use platform::{World, repository};
use recovery::plan::{Approval, Driver};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

const NAMESPACE: &str = "sparc-recovery";
const IMAGE: &str = "111122223333.dkr.ecr.us-west-2.amazonaws.com/sparc-recovery/backup-trigger";
const BUCKET: &str = "sparc-backups-prod";
/// The access key of the machine's role; the pods have the platform's own.
const STARTER: &str = "starter";

/// Longest wait for something that takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A platform whose backups are planned for Jobs, and a node that runs them.
struct Stage {
    world: World,
    node: Node,
    files: TempDir,
}

impl Stage {
    /// `scale`: seconds of the lab for a second of waiting between two pods.
    async fn start(scale: f64) -> Stage {
        let plan = std::fs::read_to_string(repository().join("plans/sparc.toml")).unwrap();
        let rate = "bytes_per_second = 60_000_000";
        assert!(plan.contains(rate));
        let plan = plan.replacen(rate, "bytes_per_second = 1_000", 1);
        let lab = lab::Options { kubernetes: Some([Flavour::Small, Flavour::Real]), ..World::options() };
        let program = tokio::task::spawn_blocking(|| stack::program(&repository(), "backup-trigger", "jobs"));
        let (world, program) = tokio::join!(World::with(Driver::SelfManaged, Approval::Automatic, plan, lab), program);
        let program = program.unwrap().unwrap();
        let cluster = world.platform.lab.secondary_cluster().unwrap();
        let image = Image { name: IMAGE.to_owned(), program, env: world.platform.lab.env() };
        let node = cluster.run_jobs(NodeOptions { images: vec![image], scale }).await.unwrap();
        for document in serde_yaml_ng::Deserializer::from_str(include_str!("../../../bundles/backup-job.yaml")) {
            let object = Value::deserialize(document).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap();
            let path = match object["kind"].as_str().unwrap() {
                "Namespace" => format!("/api/v1/namespaces/{name}"),
                "ServiceAccount" => format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}"),
                kind => {
                    format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/{}s/{name}", kind.to_lowercase())
                }
            };
            cluster.admin().apply(&path, "kubectl", &object).await.unwrap();
        }
        cluster.admit_as(STARTER, SECRET_KEY, "nightly-backup", &["sparc:backup-jobs"]);
        let config = world.child(&["deploy", "job"]).output().await.unwrap();
        assert!(config.status.success(), "{}", String::from_utf8_lossy(&config.stderr));
        let config: Value = serde_json::from_slice(&config.stdout).unwrap();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        cluster.admin().create(&path, &config).await.unwrap();
        Stage { world, node, files: TempDir::new().unwrap() }
    }

    /// `drctl` as whoever runs the machine: another identity than the pods'.
    fn drctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.child(arguments);
        command.env("AWS_ACCESS_KEY_ID", STARTER).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn begin(&self, machine: &str, name: &str, event: &Value) -> Child {
        let file = self.files.path().join(format!("{name}.json"));
        std::fs::write(&file, event.to_string()).unwrap();
        let arguments = ["run", machine, "--name", name, "--event", file.to_str().unwrap()];
        self.drctl(&arguments).arg("--runs-dir").arg(self.runs()).spawn().unwrap()
    }

    fn runs(&self) -> std::path::PathBuf {
        self.world.folder("any").parent().unwrap().to_path_buf()
    }

    fn history(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.world.folder(name).join("history.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn jobs(&self) -> Vec<Value> {
        let cluster = self.world.platform.lab.secondary_cluster().unwrap();
        cluster.admin().list(&format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs"), "").await.unwrap()
    }

    /// Waits until one pod runs that was not there before.
    async fn pod_beside(&self, before: &[String]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let running = self.node.running();
            if let Some(pod) = running.into_iter().find(|pod| !before.contains(pod)) {
                return pod;
            }
            assert!(Instant::now() < deadline, "no pod runs: {:?}", self.jobs().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn evict(&self, pod: &str) {
        let cluster = self.world.platform.lab.secondary_cluster().unwrap();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}");
        let (status, answer) = cluster.admin().ask(Method::DELETE, &path, "", None).await.unwrap();
        assert!((200..300).contains(&status), "{answer}");
    }

    /// Uploads that were begun and not ended.
    async fn uploads(&self) -> String {
        let path = format!("/{BUCKET}?uploads");
        let aws = &self.world.platform.lab.aws;
        let listed = aws.call("s3", TERTIARY, Method::GET, &path, &[], "").await.unwrap().body;
        assert!(listed.contains("ListMultipartUploadsResult"), "{listed}");
        listed
    }

    /// The backup is complete, was taken in a Job, is proven by the machine that proves, and nothing else is left of it.
    async fn is_whole(&self, backup: &str) {
        let aws = &self.world.platform.lab.aws;
        let manifest = aws.object(BUCKET, &format!("backups/{backup}/manifest.json")).await.unwrap().unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["taken_in"], "job");
        assert_eq!(manifest["artifacts"].as_array().unwrap().len(), 5, "{manifest}");
        let uploads = self.uploads().await;
        assert!(!uploads.contains("<UploadId>"), "{uploads}");
        let look = json!({"at": Timestamp::now(), "kinds": ["logical"]});
        let file = self.files.path().join("look.json");
        std::fs::write(&file, look.to_string()).unwrap();
        let arguments = ["run", "verify-backups", "--name", "look", "--event", file.to_str().unwrap()];
        let proven = self.world.child(&arguments).output().await.unwrap();
        assert!(proven.status.success(), "{}", said(&proven));
        let shown = self.world.child(&["backups", "--json"]).output().await.unwrap();
        let standings: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let logical = standings.as_array().unwrap().iter().find(|standing| standing["kind"] == "logical").unwrap();
        assert_eq!(
            (&logical["proven"]["verified"]["backup"], &logical["proven"]["verified"]["rung"]),
            (&json!(backup), &json!("structure")),
            "{standings}"
        );
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// When a backup is due, and its name.
fn due(minutes_ago: i64) -> (Value, String) {
    let at = Timestamp::from_second(Timestamp::now().as_second()).unwrap() - minutes_ago.minutes();
    let event = json!({"due_at": at, "kinds": ["logical"]});
    (event, format!("logical/sparc-prod/{}", at.strftime("%Y%m%dT%H%M%SZ")))
}

fn of_type<'a>(history: &'a [Value], kind: &str) -> Vec<&'a Value> {
    history.iter().filter(|event| event["type"] == kind).collect()
}

/// The pod is killed in the middle of a dump, and so is whoever runs the machine: what is taken up waits for the same Job, whose
/// next pod takes the backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pod_and_a_killed_runner_cost_time_and_make_no_second_job() {
    // The note of a killed attempt keeps others out for 90 s: the pods after it come 6, 13, 26 and 52 s apart.
    let stage = Stage::start(0.65).await;
    stage.world.platform.lab.pair.fill(48 << 20).await.unwrap();
    stage.world.platform.lab.pair.caught_up().await.unwrap();
    let desk = &stage.world.desk;
    desk.lay(Selector::request("PUT", "sparc_prod.dump.zst"), Times::First(4), Script::Hold);
    let (event, backup) = due(10);
    let mut runner = stage.begin("nightly-backup", "night", &event);
    desk.wait_for_fired(1).await;
    runner.kill().await.unwrap();
    let pod = stage.pod_beside(&[]).await;
    assert!(stage.node.kill(NAMESPACE, &pod));
    desk.clear();

    let resumed = stage.drctl(&["resume", "night"]).arg("--runs-dir").arg(stage.runs()).output().await.unwrap();
    assert!(resumed.status.success(), "{}", said(&resumed));
    let jobs = stage.jobs().await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!(jobs[0]["status"]["succeeded"], 1, "{}", jobs[0]["status"]);
    let posts = desk.calls().into_iter().filter(|call| call.operation == "POST" && call.path.contains("/jobs"));
    assert_eq!(posts.count(), 1, "a second Job was not even tried");

    let history = stage.history("night");
    let [scheduled] = of_type(&history, "TaskScheduled")
        .into_iter()
        .filter(|event| event["taskScheduledEventDetails"]["resourceType"] == "eks")
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    assert_eq!(scheduled["taskScheduledEventDetails"]["resource"], "runJob.sync");
    let of_the_job = |event: &&Value| {
        let details = event.as_object().unwrap().values().find(|value| value["resourceType"] == "eks");
        details.is_some()
    };
    let kinds: Vec<&str> = history.iter().filter(of_the_job).map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["TaskScheduled", "TaskStarted", "TaskSubmitted", "TaskSucceeded"]);
    let succeeded = history.iter().rfind(|event| event["type"] == "TaskSucceeded" && of_the_job(event)).unwrap();
    let output: Value =
        serde_json::from_str(succeeded["taskSucceededEventDetails"]["output"].as_str().unwrap()).unwrap();
    assert_eq!(output["kind"], "Job");
    let logs = output["logs"]["pods"].as_object().unwrap();
    let last = logs.values().map(|pod| pod["containers"]["backup-trigger"]["log"].as_str().unwrap());
    assert!(last.clone().any(|log| log.contains("\"manifest_key\"")), "{logs:?}");
    assert!(
        last.clone().any(|log| log.contains("is being taken by `night`")),
        "a pod came too early and said so: {logs:?}"
    );
    stage.is_whole(&backup).await;
}

/// First for good, then with luck: in one platform, for a backup that was once complete is measured, and no Job any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_for_good_is_told_by_name_and_one_whose_answer_is_lost_is_found() {
    let stage = Stage::start(0.02).await;
    let primary = &stage.world.platform.lab.pair.primary;
    primary.execute("revoke pg_read_all_data from sparc_backup").await.unwrap();
    stage.world.platform.lab.pair.caught_up().await.unwrap();

    let (event, backup) = due(20);
    let failed = stage.begin("nightly-backup", "in-vain", &event).wait_with_output().await.unwrap();
    assert_eq!(failed.status.code(), Some(5), "{}", said(&failed));
    assert!(stage.world.evidence("notices/in-vain/backups-missed.json").await.is_some());
    let at = &stage.world.platform.lab.addresses().aws;
    let sent = stage.world.platform.lab.aws.sent(at).await.unwrap();
    let told =
        sent.into_iter().find(|message| message.subject.as_deref().is_some_and(|s| s.contains("Backup missing")));
    let told = told.unwrap().message;
    for words in [&*format!("`{backup}` was not taken"), "BackoffLimitExceeded", "permission denied"] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    let history = stage.history("in-vain");
    let failed = of_type(&history, "TaskFailed");
    let of_the_job = failed.iter().find(|event| event["taskFailedEventDetails"]["resourceType"] == "eks").unwrap();
    assert_eq!(of_the_job["taskFailedEventDetails"]["error"], "States.TaskFailed");
    let cause = of_the_job["taskFailedEventDetails"]["cause"].as_str().unwrap();
    assert!(cause.contains("permission denied"), "its log is in the cause: {cause}");
    let aws = &stage.world.platform.lab.aws;
    assert_eq!(aws.object(BUCKET, &format!("backups/{backup}/manifest.json")).await.unwrap(), None);
    assert!(!stage.uploads().await.contains("<UploadId>"));

    primary.execute("grant pg_read_all_data to sparc_backup").await.unwrap();
    stage.world.platform.lab.pair.fill(24 << 20).await.unwrap();
    stage.world.platform.lab.pair.caught_up().await.unwrap();
    let desk = &stage.world.desk;
    let making = Selector::request("POST", "/jobs").of("kubernetes");
    desk.lay(making, Times::Nth(1), Script::LoseAnswer);
    let held = desk.lay(Selector::request("PUT", "sparc_prod.dump.zst"), Times::First(4), Script::Hold);
    let before = stage.jobs().await.len();
    let (event, backup) = due(10);
    let runner = stage.begin("nightly-backup", "lucky", &event);
    let deadline = Instant::now() + PATIENCE;
    while !desk.calls().iter().any(|call| call.fired_by == Some(held)) {
        assert!(Instant::now() < deadline, "its pod dumps");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pod = stage.pod_beside(&[]).await;
    stage.evict(&pod).await;
    platform::wait_for("the pod ends when it is asked", || !stage.node.running().contains(&pod)).await;
    // What it had sent arrives now, before the next one sends anything.
    desk.clear();
    let next = stage.pod_beside(std::slice::from_ref(&pod)).await;
    let ended = runner.wait_with_output().await.unwrap();
    assert!(ended.status.success(), "{}", said(&ended));
    assert_eq!(stage.jobs().await.len(), before + 1, "the Job whose answer was lost is the only one");
    let log = stage.node.log(NAMESPACE, &pod);
    assert!(log.contains("was asked to end"), "{log}");
    // Whoever was asked to end has let go: nobody waited for its silence.
    let log = stage.node.log(NAMESPACE, &next);
    assert!(log.contains("\"manifest_key\"") && !log.contains("is being taken by"), "{log}");
    stage.is_whole(&backup).await;
}
