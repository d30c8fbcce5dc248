//! Late, wrong, lost and repeated answers, on the lab's emulated AWS.

#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use jiff::Timestamp;
use lab::{
    aws::{Aws as EmulatedAws, Seed},
    faults::{Desk, HttpProxy, Script, Selector, Times, Upstream},
};
use recovery::{
    cluster::{Applied, Bundle, ClusterError, NodeGroup, NodeGroupSize, Rollout, Workloads, Writer},
    fault::{Classified, Fault},
    plan::Plan,
};
use recovery_aws::{Aws, eks::ManagedNodeGroup};
use scale_nodegroup::{Error, Request, Scaled, scale};

fn event(situation: &str) -> Request {
    let path = format!("{}/../../events/scale-nodegroup/{situation}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const BEFORE: NodeGroupSize = NodeGroupSize { minimum: 2, desired: 2, maximum: 60 };
const AFTER: NodeGroupSize = NodeGroupSize { minimum: 10, desired: 50, maximum: 60 };

/// A cluster of which only the number of Ready nodes is of interest.
struct Nodes(u32);

#[async_trait]
impl Workloads for Nodes {
    async fn writers(&self) -> Result<Vec<Writer>, ClusterError> {
        unreachable!("nobody asks for writers")
    }
    async fn stop_writers(&self, _epoch: u64) -> Result<Vec<Writer>, ClusterError> {
        unreachable!("nobody stops writers")
    }
    async fn restart_writers(&self, _epoch: u64) -> Result<Vec<Writer>, ClusterError> {
        unreachable!("nobody restarts writers")
    }
    async fn apply(&self, _bundle: &Bundle) -> Result<Applied, ClusterError> {
        unreachable!("nobody applies anything")
    }
    async fn rollouts(&self, _names: &[String]) -> Result<Vec<Rollout>, ClusterError> {
        unreachable!("nobody asks for rollouts")
    }
    async fn ready_nodes(&self, _node_group: &str) -> Result<u32, ClusterError> {
        Ok(self.0)
    }
}

struct Account {
    _emulated: EmulatedAws,
    nodes: ManagedNodeGroup,
    desk: Desk,
    _proxy: HttpProxy,
}

/// An account with scripts in front of EKS, and its node group at the size that the events know.
async fn account() -> Account {
    let emulated = EmulatedAws::start().await.unwrap();
    emulated.seed(&Seed::default()).await.unwrap();
    let plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    let desk = Desk::new();
    let proxy = HttpProxy::start(Upstream::plain(emulated.endpoint("EKS")), desk.clone()).await.unwrap();
    emulated.route("EKS", proxy.url());
    let nodes = Aws::from_environment(&plan, emulated.env()).await.secondary_node_group();
    nodes.resize(BEFORE, "seed").await.unwrap();
    Account { _emulated: emulated, nodes, desk, _proxy: proxy }
}

impl Account {
    async fn scale(&self, situation: &str, ready: u32) -> Result<Scaled, Error> {
        scale(event(situation), &self.nodes, &Nodes(ready), Timestamp::UNIX_EPOCH).await
    }

    async fn size(&self) -> NodeGroupSize {
        let status = self.nodes.look().await.unwrap();
        NodeGroupSize { minimum: status.minimum, desired: status.desired, maximum: status.maximum }
    }

    fn requests(&self) -> usize {
        self.desk.calls().iter().filter(|call| call.path.contains("/update-config")).count()
    }
}

#[test]
fn every_event_of_the_folder_is_a_request() {
    let folder = format!("{}/../../events/scale-nodegroup", env!("CARGO_MANIFEST_DIR"));
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let request: Result<Request, _> = serde_json::from_slice(&std::fs::read(&path).unwrap());
        assert!(request.is_ok(), "{}: {:?}", path.display(), request.err());
        read += 1;
    }
    assert!(read > 0);
}

#[tokio::test]
async fn a_size_is_asked_for_once_and_given_back_once() {
    let account = account().await;
    let asked = account.requests();
    for _ in 0..2 {
        let Scaled::Requested(status) = account.scale("request-beside-the-database", 0).await.unwrap() else {
            panic!("not a request")
        };
        assert_eq!(status.desired, 50);
    }
    assert_eq!((account.size().await, account.requests() - asked), (AFTER, 1));
    for _ in 0..2 {
        let Scaled::Released(released) = account.scale("release-after-a-stop", 0).await.unwrap() else {
            panic!("not a release")
        };
        assert_eq!(released.desired, 2);
    }
    assert_eq!((account.size().await, account.requests() - asked), (BEFORE, 2));
}

#[tokio::test]
async fn a_lost_answer_is_found_done_by_the_next_attempt() {
    let account = account().await;
    account.desk.lay(Selector::request("POST", "/update-config"), Times::Always, Script::LoseAnswer);
    let lost = account.scale("request-beside-the-database", 0).await.unwrap_err();
    assert_eq!(lost.fault(), Fault::Transient, "{lost:?}");
    account.desk.clear();
    account.scale("request-beside-the-database", 0).await.unwrap();
    assert_eq!(account.size().await, AFTER);
}

#[tokio::test]
async fn ready_nodes_are_counted_and_enough_are_enough() {
    let account = account().await;
    let early = account.scale("await-after-the-promotion", 29).await.unwrap_err();
    assert_eq!(early.fault(), Fault::NotYet);
    assert_eq!(early.to_string(), "29 of 50 nodes of `workers` are Ready, 30 are enough to go on");
    assert_eq!(account.size().await, AFTER, "whoever waits asks first");
    let Scaled::Ready(scaling) = account.scale("await-after-the-promotion", 30).await.unwrap() else {
        panic!("not awaited")
    };
    assert_eq!((scaling.ready, scaling.desired), (30, 50));
}

#[tokio::test]
async fn an_eks_that_is_away_or_busy_stops_nobody_who_has_enough_nodes() {
    let account = account().await;
    let reject = |status, code: &str| Script::Reject { status, code: code.into() };
    account.desk.lay(Selector::any().of("eks"), Times::Always, reject(503, "ServiceUnavailableException"));
    let Scaled::Ready(scaling) = account.scale("await-after-the-promotion", 34).await.unwrap() else {
        panic!("not awaited")
    };
    assert!(scaling.issues[0].contains("ServiceUnavailableException"), "{:?}", scaling.issues);
    let away = account.scale("await-after-the-promotion", 12).await.unwrap_err();
    assert_eq!(away.fault(), Fault::Transient, "{away:?}");
    account.desk.clear();

    account.desk.lay(Selector::request("POST", "/update-config"), Times::Always, reject(409, "ResourceInUseException"));
    let busy = account.scale("request-beside-the-database", 0).await.unwrap_err();
    assert_eq!(busy.fault(), Fault::NotYet, "{busy:?}");
    let busy = account.scale("await-after-the-promotion", 12).await.unwrap_err();
    assert!(busy.fault() == Fault::NotYet && busy.to_string().contains("12 of 50"), "{busy}");
    account.desk.clear();

    account.desk.lay(
        Selector::request("POST", "/update-config"),
        Times::Always,
        reject(400, "ResourceLimitExceededException"),
    );
    let quota = account.scale("await-after-the-promotion", 12).await.unwrap_err();
    assert_eq!(quota.fault(), Fault::Refused, "{quota:?}");
}
