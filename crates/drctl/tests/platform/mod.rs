//! A platform to fail over, and what must be true of it however a run ends.
//!
//! Everything in it is real or emulated, nothing is pretended: PostgreSQL under write load, two clusters, the AWS of three
//! regions, and `drctl` as a process of its own, as on a laptop. A run is judged by the world that it leaves, by its exit
//! code, and by the report that it owes on every path.

// Each test binary that includes this module uses a part of it.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lab::{aws, faults::Desk, kubernetes::Flavour, load::Load, nodes, platform::Options, platform::Platform};
use recovery::{
    fence::{FenceRecord, FenceState},
    plan::{Approval, Driver},
};
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Exit codes of `drctl run`, as its help lists them.
pub const RECOVERED: i32 = 0;
pub const REFUSED: i32 = 3;
pub const STOPPED: i32 = 4;
pub const INCOMPLETE: i32 = 5;

/// Longest wait for something that takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run that stops in time must leave as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    node_group: Value,
    /// Replicas by Deployment of the primary cluster; none once its region is lost.
    writers: Option<BTreeMap<String, u64>>,
    records: Vec<String>,
}

/// Everything that a step may change, without what moves by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    node_group: Value,
    writers: Option<BTreeMap<String, u64>>,
    fence: Option<(FenceState, u64)>,
    switch: Option<String>,
    promoted: bool,
    timeline: u32,
    /// Generation by Deployment of the secondary cluster: it counts every change of what is wanted.
    deployments: BTreeMap<String, u64>,
    evidence: Vec<String>,
}

/// A platform, its customers, and the desk on which faults are laid.
pub struct World {
    pub platform: Platform,
    pub desk: Desk,
    pub load: Load,
    runs: TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub name: String,
    pub code: Option<i32>,
    pub said: String,
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|folder| folder.join("plans/sparc.toml").is_file())
        .unwrap_or_else(|| panic!("run the tests inside the repository, plans/sparc.toml is part of them"))
        .to_path_buf()
}

impl World {
    /// A platform that works, customers who write to it, and a detection that has kept a position of its primary.
    pub async fn start(approval: Approval) -> World {
        World::of(Driver::SelfManaged, approval, &[]).await
    }

    /// The same, promoted by this driver.
    pub async fn driven_by(driver: Driver, approval: Approval) -> World {
        World::of(driver, approval, &[]).await
    }

    /// The same with other words in its plan.
    pub async fn start_with(approval: Approval, changes: &[(&str, &str)]) -> World {
        World::of(Driver::SelfManaged, approval, changes).await
    }

    async fn of(driver: Driver, approval: Approval, changes: &[(&str, &str)]) -> World {
        let mut plan = std::fs::read_to_string(repository().join("plans/sparc.toml")).unwrap();
        for (right, other) in changes {
            assert!(plan.contains(right), "{right}");
            plan = plan.replacen(right, other, 1);
        }
        let lab = lab::Options { kubernetes: Some([Flavour::Small; 2]), ..Self::options() };
        let world = World::with(driver, approval, plan, lab).await;
        world.heartbeats().await;
        world
    }

    /// A lab in which somebody else writes the heartbeats, and nodes are there at once.
    pub fn options() -> lab::Options {
        lab::Options {
            heartbeat: None,
            // Waiting for nodes is not what is looked at here.
            nodes: nodes::Options { batch: 60, every: Duration::from_millis(100), ..nodes::Options::default() },
            ..lab::Options::default()
        }
    }

    /// A platform that works, and customers who write to it.
    pub async fn with(driver: Driver, approval: Approval, plan: String, lab: lab::Options) -> World {
        let desk = Desk::new();
        let options = Options { lab, driver, approval, plan, faults: Some(desk.clone()) };
        let platform = Platform::start(options).await.unwrap();
        let load = Load::start(&platform.lab.pair, lab::load::Options::default()).await.unwrap();
        World { platform, desk, load, runs: TempDir::new().unwrap() }
    }

    /// Lets the detection look until it has kept a position that is newer than this moment.
    pub async fn heartbeats(&self) {
        let since = Timestamp::now();
        let mut watch = self.child(&["watch", "--every-ms", "100"]).stdout(Stdio::null()).spawn().unwrap();
        let key = recovery::database::position_key("sparc");
        let bucket = &self.platform.lab.addresses().aws.evidence_bucket;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let kept = self.platform.lab.aws.object(bucket, &key).await.unwrap();
            let kept = kept.map(|text| serde_json::from_str::<Value>(&text).unwrap());
            let newest = kept.as_ref().and_then(|kept| kept["heartbeat"]["written_at"].as_str()?.parse().ok());
            if newest.is_some_and(|at: Timestamp| at > since) {
                break;
            }
            assert!(Instant::now() < deadline, "the detection keeps no position: {kept:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        watch.kill().await.unwrap();
    }

    /// `drctl`, with the platform's plan, environment and folder of runs.
    pub fn child(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drctl"));
        command
            .args(arguments)
            .arg("--plan")
            .arg(self.platform.plan())
            .envs(self.platform.lab.env())
            .env("XDG_STATE_HOME", self.runs.path())
            .current_dir(repository())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts a run and does not wait for it.
    pub fn begin(&self, name: &str, event: &str) -> Child {
        let file = self.runs.path().join(format!("{event}.json"));
        std::fs::write(&file, happening_now(event)).unwrap();
        let mut run = self.child(&["run", "regional-failover", "--name", name]);
        run.arg("--event").arg(file).arg("--runs-dir").arg(self.runs.path());
        run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for the end of a run.
    pub async fn end(&self, name: &str, run: Child) -> Ended {
        let output = run.wait_with_output().await.unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ended { name: name.to_owned(), code: output.status.code(), said }
    }

    /// A run from its beginning to its end.
    pub async fn run(&self, name: &str, event: &str) -> Ended {
        let run = self.begin(name, event);
        self.end(name, run).await
    }

    /// A person's answer, as soon as the run asks.
    pub async fn answer(&self, name: &str, answer: &str) {
        let question = self.folder(name).join("approval-request.json");
        wait_for("the run asks a person", || question.is_file()).await;
        let mut command = self.child(&[answer, name, "--by", "sre-lead@sparc.com", "--because", "I have looked"]);
        let output = command.arg("--runs-dir").arg(self.runs.path()).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// When a run was in a state, by its history: from the entry to the exit, or to the end of the run.
    pub fn time_in(&self, name: &str, state: &str) -> (Timestamp, Timestamp) {
        let history = std::fs::read_to_string(self.folder(name).join("history.jsonl")).unwrap();
        let events = history.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let moment = |details: &str| {
            let of_state = |event: &Value| event[details]["name"] == state;
            events.clone().find(of_state).map(|event| event["timestamp"].as_str().unwrap().parse().unwrap())
        };
        let entered = moment("stateEnteredEventDetails").unwrap_or_else(|| panic!("{name} never came to {state}"));
        // The history has milliseconds.
        let exited = moment("stateExitedEventDetails").map(|at: Timestamp| at + jiff::SignedDuration::from_millis(1));
        (entered, exited.unwrap_or(Timestamp::MAX))
    }

    /// The folder of a run.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.runs.path().join(name)
    }

    /// The platform as it stands.
    pub async fn standing(&self) -> Standing {
        let lab = &self.platform.lab;
        let at = &lab.addresses().aws;
        let path = format!("/clusters/{}/node-groups/{}", at.clusters[1], at.node_group);
        let group = lab.aws.call("eks", aws::SECONDARY, Method::GET, &path, &[], "").await.unwrap();
        let group: Value = serde_json::from_str(&group.body).unwrap();
        let writers = match lab.primary_cluster() {
            None => None,
            Some(cluster) => {
                let path = format!("/apis/apps/v1/namespaces/{}/deployments", cluster.namespace());
                let all = cluster.admin().list(&path, "").await.unwrap();
                let replicas = |object: &Value| {
                    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                    (name, object["spec"]["replicas"].as_u64().unwrap())
                };
                Some(all.iter().map(replicas).collect())
            }
        };
        let records = ["origin.sparc.com", "api.sparc.com"].map(|name| format!("{:?}", lab.edge.resolve(name)));
        Standing { node_group: group["nodegroup"]["scalingConfig"].clone(), writers, records: records.to_vec() }
    }

    /// What steps have changed so far.
    pub async fn footprint(&self) -> Footprint {
        let lab = &self.platform.lab;
        let Standing { node_group, writers, .. } = self.standing().await;
        let standby = lab.pair.standby.position().await.unwrap();
        let cluster = lab.secondary_cluster().unwrap();
        let path = format!("/apis/apps/v1/namespaces/{}/deployments", cluster.namespace());
        let generation = |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            (name, object["metadata"]["generation"].as_u64().unwrap())
        };
        Footprint {
            node_group,
            writers,
            fence: self.fence().await.map(|fence| (fence.state, fence.epoch)),
            switch: self.switch().await,
            promoted: !standby.in_recovery,
            timeline: standby.timeline,
            deployments: cluster.admin().list(&path, "").await.unwrap().iter().map(generation).collect(),
            evidence: lab.aws.keys(&lab.addresses().aws.evidence_bucket).await.unwrap(),
        }
    }

    /// The switch object, while it is there.
    pub async fn switch(&self) -> Option<String> {
        let at = &self.platform.lab.addresses().aws;
        self.platform.lab.aws.object(&at.switch_bucket, &at.switch_key).await.unwrap()
    }

    /// An object of the evidence bucket.
    pub async fn evidence(&self, key: &str) -> Option<String> {
        let bucket = &self.platform.lab.addresses().aws.evidence_bucket;
        self.platform.lab.aws.object(bucket, key).await.unwrap()
    }

    /// The fence object.
    pub async fn fence(&self) -> Option<FenceRecord> {
        let text = self.evidence(&recovery::fence::key("sparc")).await?;
        Some(serde_json::from_str(&text).unwrap())
    }

    /// What holds at every moment and after every run.
    pub async fn nothing_is_broken(&self, ended: &Ended) {
        let lab = &self.platform.lab;
        assert_eq!(self.load.two_primaries(), None, "two primaries took writes; {}", ended.said);
        assert_eq!(lab.edge.ever_all_unhealthy(), None, "no side was healthy; {}", ended.said);
        if self.switch().await.is_some() {
            assert!(!lab.pair.standby.position().await.unwrap().in_recovery, "names moved first; {}", ended.said);
            let written = lab.pair.standby.execute("select 1 / count(*) from recovery.write_attempt").await;
            assert!(written.is_ok(), "names moved before a write; {}", ended.said);
        }
    }

    /// The report that is owed on every path, here and in the bucket, and the last message.
    pub async fn is_accounted_for(&self, ended: &Ended, stage: &str) {
        let report = std::fs::read_to_string(self.folder(&ended.name).join("report.json"));
        let report: Value = serde_json::from_str(&report.unwrap_or_else(|e| panic!("{e}; {}", ended.said))).unwrap();
        assert_eq!(report["outcome"], stage, "{}", ended.said);
        let kept = self.evidence(&format!("reports/{}/report.json", ended.name)).await;
        let kept: Value = serde_json::from_str(&kept.unwrap_or_else(|| panic!("no report; {}", ended.said))).unwrap();
        assert_eq!(kept["outcome"], stage, "{}", ended.said);
        let told = self.evidence(&format!("notices/{}/{stage}.json", ended.name)).await;
        assert!(told.is_some(), "nobody heard that the run is {stage}; {}", ended.said);
    }

    /// The measured loss of a component, from the report of a run: its verdict, and what it comes from.
    pub fn loss_of(&self, name: &str, component: &str) -> (String, String) {
        let report = std::fs::read(self.folder(name).join("report.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        let all = report["components"].as_array().unwrap();
        let rpo = &all.iter().find(|one| one["name"] == component).unwrap()["rpo"];
        (rpo["verdict"].as_str().unwrap().to_owned(), rpo["because"].as_str().unwrap().to_owned())
    }

    /// Customers are in the other region, moved once.
    pub async fn has_moved(&self, ended: &Ended) {
        assert_eq!(ended.code, Some(RECOVERED), "{}", ended.said);
        self.nothing_is_broken(ended).await;
        let lab = &self.platform.lab;
        assert!(self.switch().await.is_some(), "{}", ended.said);
        let standby = lab.pair.standby.position().await.unwrap();
        assert!(!standby.in_recovery, "{}", ended.said);
        assert_eq!(standby.timeline, 2, "promoted once; {}", ended.said);
        lab.pair.standby.write("after-the-failover").await.unwrap();
        let fence = self.fence().await.unwrap();
        assert_eq!(fence.state, FenceState::Moved, "{}", ended.said);
    }

    /// It ended in time: a refused or stopped run leaves the world as it was.
    pub async fn has_not_moved(&self, ended: &Ended, code: i32, before: &Standing) {
        assert_eq!(ended.code, Some(code), "{}", ended.said);
        self.nothing_is_broken(ended).await;
        let lab = &self.platform.lab;
        assert_eq!(&self.standing().await, before, "{}", ended.said);
        assert_eq!(self.switch().await, None, "{}", ended.said);
        let standby = lab.pair.standby.position().await.unwrap();
        assert!(standby.in_recovery && standby.timeline == 1, "{standby:?}; {}", ended.said);
        let fence = self.fence().await;
        assert!(fence.as_ref().is_none_or(|fence| fence.state == FenceState::Lifted), "{fence:?}; {}", ended.said);
        if lab.pair.primary.is_running() {
            lab.pair.primary.write("after-a-stop").await.unwrap();
        }
    }

    /// Acknowledged writes that the new primary does not have.
    pub async fn lost_writes(&mut self) -> usize {
        self.load.stop().await;
        self.load.lost(&self.platform.lab.pair.standby).await.unwrap().len()
    }
}

/// An event of `events/regional-failover/` as if it had been sent now, with the impairment a few seconds ago.
pub fn happening_now(event: &str) -> String {
    event_now("regional-failover", event)
}

/// The same of any machine's events.
pub fn event_now(machine: &str, event: &str) -> String {
    let file = repository().join(format!("events/{machine}/{event}.json"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let now = Timestamp::now();
    let before = now - jiff::SignedDuration::from_secs(2);
    let mut event: Value = serde_json::from_str(&text).unwrap();
    event["time"] = now.to_string().into();
    let detail = &mut event["detail"];
    if detail["began_at"].is_string() {
        detail["began_at"] = before.to_string().into();
    }
    if let Some(data) = detail["state"]["reasonData"].as_str() {
        let mut data: Value = serde_json::from_str(data).unwrap();
        for point in data["evaluatedDatapoints"].as_array_mut().unwrap() {
            point["timestamp"] = before.to_string().into();
        }
        data["startDate"] = before.to_string().into();
        detail["state"]["reasonData"] = data.to_string().into();
        detail["state"]["timestamp"] = now.to_string().into();
    }
    event.to_string()
}

/// Waits until something is true.
pub async fn wait_for(what: &str, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
