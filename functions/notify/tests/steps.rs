//! Late, wrong, lost and repeated answers, on the lab's emulated AWS.

#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use lab::{
    aws::{Aws as EmulatedAws, Seed, Seeded},
    faults::{Desk, HttpProxy, Script, Selector, Times, Upstream},
};
use notify::{Request, marker_key, notify};
use recovery::{
    approval::{self, PendingApproval},
    fault::{Classified, Fault},
    notice::Stage,
    plan::Plan,
    run::Noticed,
    store::get_json,
};
use recovery_aws::Aws;

fn event(situation: &str) -> Request {
    let path = format!("{}/../../events/notify/{situation}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn now() -> Timestamp {
    "2026-11-23T03:03:31Z".parse().unwrap()
}

struct Account {
    emulated: EmulatedAws,
    seeded: Seeded,
    plan: Plan,
    aws: Aws,
    desk: Desk,
    _proxies: Vec<HttpProxy>,
}

/// An account with scripts in front of S3 and SNS.
async fn account() -> Account {
    let emulated = EmulatedAws::start().await.unwrap();
    let seeded = emulated.seed(&Seed::default()).await.unwrap();
    let mut plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    for (level, topic) in plan.notification.levels.iter_mut().zip(&seeded.topics) {
        level.topic_arn = topic.clone();
    }
    let desk = Desk::new();
    let mut proxies = Vec::new();
    for service in ["S3", "SNS"] {
        let proxy = HttpProxy::start(Upstream::plain(emulated.endpoint(service)), desk.clone()).await.unwrap();
        emulated.route(service, proxy.url());
        proxies.push(proxy);
    }
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    Account { emulated, seeded, plan, aws, desk, _proxies: proxies }
}

impl Account {
    async fn notify(&self, request: Request) -> Result<Noticed, notify::Error> {
        notify(request, &self.plan, self.aws.evidence().as_ref(), self.aws.messenger().as_ref(), now()).await
    }

    async fn heard(&self) -> usize {
        self.emulated.sent(&self.seeded).await.unwrap().len()
    }

    async fn question(&self, run: &str) -> Option<PendingApproval> {
        get_json(self.aws.evidence().as_ref(), &approval::key(run)).await.unwrap().map(|(question, _)| question)
    }
}

#[test]
fn every_event_of_the_folder_is_a_request() {
    let folder = format!("{}/../../events/notify", env!("CARGO_MANIFEST_DIR"));
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
async fn a_stage_is_told_once_however_often_it_is_asked_for() {
    let account = account().await;
    let first = account.notify(event("declared")).await.unwrap();
    let again = account.notify(event("declared")).await.unwrap();
    assert_eq!(first, again);
    account.notify(event("recovered")).await.unwrap();
    assert_eq!(account.heard().await, 2, "one for each stage");
}

#[tokio::test]
async fn a_lost_answer_repeats_a_message_and_never_loses_one() {
    let account = account().await;
    account.desk.lay(Selector::operation("Publish").of("sns"), Times::Always, Script::LoseAnswer);
    let lost = account.notify(event("declared")).await.unwrap_err();
    assert_eq!(lost.fault(), Fault::Transient, "{lost:?}");
    account.desk.clear();
    account.notify(event("declared")).await.unwrap();
    assert!(account.heard().await >= 2);
    account.notify(event("declared")).await.unwrap();
    assert_eq!(account.heard().await, 0, "nobody hears it again once it is noted");
}

#[tokio::test]
async fn the_token_is_kept_before_anybody_is_asked_and_the_newest_one_counts() {
    let account = account().await;
    account.desk.lay(
        Selector::operation("Publish").of("sns"),
        Times::Always,
        Script::Reject { status: 503, code: "ServiceUnavailable".into() },
    );
    let request = event("approval-needed");
    let (run, token) = (request.run.id.clone(), request.task_token.clone().unwrap());
    let silent = account.notify(request).await.unwrap_err();
    assert_eq!(silent.fault(), Fault::Transient, "{silent:?}");
    assert_eq!(account.question(&run).await.unwrap().task_token, token);
    account.desk.clear();
    account.notify(event("approval-needed")).await.unwrap();
    let newer = Request { task_token: Some("newer".to_owned()), ..event("approval-needed") };
    account.notify(newer).await.unwrap();
    assert_eq!(account.question(&run).await.unwrap().task_token, "newer");
    assert_eq!(account.heard().await, 1);
    let without = Request { task_token: None, ..event("approval-needed") };
    assert_eq!(account.notify(without).await.unwrap_err().fault(), Fault::Permanent);
}

#[tokio::test]
async fn people_who_were_told_count_even_if_nobody_can_note_it() {
    let account = account().await;
    account.desk.lay(
        Selector::request("PUT", "notices/"),
        Times::Always,
        Script::Reject { status: 403, code: "AccessDenied".into() },
    );
    let request = event("declared");
    let marker = marker_key(&request.run.id, Stage::Declared);
    assert_eq!(account.notify(request).await.unwrap().stage, Stage::Declared);
    assert_eq!(account.heard().await, 1);
    assert!(account.aws.evidence().get(&marker).await.unwrap().is_none());
}
