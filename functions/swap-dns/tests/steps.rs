//! Late, wrong, lost and repeated answers, on the lab's emulated AWS.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use lab::{
    aws::{Aws as EmulatedAws, Seed, Seeded},
    faults::{Desk, HttpProxy, Script, Selector, Times, Upstream},
};
use recovery::{
    fault::{Classified, Fault},
    names::{Answer, Prober},
    plan::Plan,
    run::FenceOutcome,
};
use recovery_aws::Aws;
use swap_dns::{Action, Error, Means, Request, Swapped, swap};
use url::Url;

fn event(situation: &str) -> Request {
    let path = format!("{}/../../events/swap-dns/{situation}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A second after the services of the event were asked.
fn soon() -> Timestamp {
    "2026-11-23T03:08:25Z".parse().unwrap()
}

/// Services that all answer alike.
struct Services {
    status: Option<u16>,
    region: &'static str,
}

const WELL: Services = Services { status: Some(200), region: "us-west-2" };

#[async_trait]
impl Prober for Services {
    async fn ask(&self, _url: &Url, _within: Duration) -> Answer {
        Answer {
            observed_at: soon(),
            status: self.status,
            took_seconds: 0.01,
            region: Some(self.region.to_owned()),
            error: self.status.is_none().then(|| "connection refused".to_owned()),
        }
    }
}

struct Account {
    emulated: EmulatedAws,
    seeded: Seeded,
    plan: Plan,
    aws: Aws,
    desk: Desk,
    _proxies: Vec<HttpProxy>,
}

/// An account with scripts in front of S3, Route 53 and CloudFront.
async fn account() -> Account {
    let emulated = EmulatedAws::start().await.unwrap();
    let seeded = emulated.seed(&Seed::default()).await.unwrap();
    let mut plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    plan.names.hosted_zone = seeded.hosted_zone.clone();
    let desk = Desk::new();
    let mut proxies = Vec::new();
    for service in ["S3", "ROUTE_53", "CLOUDFRONT"] {
        let proxy = HttpProxy::start(Upstream::plain(emulated.endpoint(service)), desk.clone()).await.unwrap();
        emulated.route(service, proxy.url());
        proxies.push(proxy);
    }
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    Account { emulated, seeded, plan, aws, desk, _proxies: proxies }
}

impl Account {
    async fn swap_with(&self, request: Request, services: &Services, now: Timestamp) -> Result<Swapped, Error> {
        let (switch, evidence) = (self.aws.switch(), self.aws.evidence());
        let (records, cdn) =
            (self.aws.records(&self.seeded.hosted_zone), self.aws.distribution(&self.seeded.distribution));
        let means = Means {
            switch: switch.as_ref(),
            evidence: evidence.as_ref(),
            prober: services,
            records: records.as_ref(),
            cdn: Some(cdn.as_ref()),
        };
        swap(request, &self.plan, &means, now).await
    }

    async fn swap(&self, request: Request) -> Result<Swapped, Error> {
        self.swap_with(request, &WELL, soon()).await
    }

    async fn is_thrown(&self) -> bool {
        let key = &self.seeded.switch_key;
        self.emulated.object(&self.seeded.switch_bucket, key).await.unwrap().is_some()
    }
}

#[test]
fn every_event_of_the_folder_is_a_request() {
    let folder = format!("{}/../../events/swap-dns", env!("CARGO_MANIFEST_DIR"));
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
async fn the_switch_is_thrown_once_and_then_it_is_there() {
    let account = account().await;
    let Swapped::Moved(first) = account.swap(event("switch-after-health")).await.unwrap() else { panic!("edited") };
    assert!(!first.already && account.is_thrown().await);
    // By now the services may be ill again: names that have moved stay moved.
    let ill = Services { status: Some(503), region: "us-west-2" };
    let later = "2026-11-23T04:00:00Z".parse().unwrap();
    let again = account.swap_with(event("switch-after-health"), &ill, later).await.unwrap();
    let Swapped::Moved(again) = again else { panic!("edited") };
    assert!(again.already);
    assert_eq!((again.at, again.switch), (first.at, first.switch));
}

#[tokio::test]
async fn a_lost_answer_does_not_throw_it_twice() {
    let account = account().await;
    account.desk.lay(Selector::request("PUT", "switch/"), Times::Always, Script::LoseAnswer);
    let lost = account.swap(event("switch-after-health")).await;
    // The SDK's own second attempt may meet the first one's object, which is success; else the machine tries again.
    assert!(lost.as_ref().err().is_none_or(|error| error.fault() == Fault::Transient), "{lost:?}");
    assert!(account.is_thrown().await);
    account.desk.clear();
    let Swapped::Moved(again) = account.swap(event("switch-after-health")).await.unwrap() else { panic!("edited") };
    assert!(again.already);
    assert_eq!(again.at, soon(), "the first attempt's object stays as it was");
}

#[tokio::test]
async fn names_stay_until_everything_is_proven() {
    let account = account().await;
    let request = |change: fn(&mut Request)| {
        let mut request = event("switch-after-health");
        change(&mut request);
        request
    };
    let situations = [
        ("nothing was promoted", request(|r| r.run.promotion = None)),
        ("nobody has fenced the primary", request(|r| r.run.fence = None)),
        (
            "the primary still writes and nobody answers for it",
            request(|r| r.run.fence.as_mut().unwrap().outcome = FenceOutcome::StillWritable),
        ),
        ("nobody has asked the services", request(|r| r.run.health = None)),
        (
            "a service was not asked",
            request(|r| {
                r.run.health.as_mut().unwrap().answers.pop();
            }),
        ),
        ("a service was ill", event("switch-with-an-ill-service")),
    ];
    for (situation, request) in situations {
        let refused = account.swap(request).await.unwrap_err();
        assert_eq!(refused.fault(), Fault::Refused, "{situation}: {refused:?}");
        assert!(refused.to_string().starts_with("not moving names: "), "{situation}: {refused}");
    }
    let late = "2026-11-23T03:14:00Z".parse().unwrap();
    let stale = account.swap_with(event("switch-after-health"), &WELL, late).await.unwrap_err();
    assert_eq!(stale.fault(), Fault::Refused, "{stale:?}");
    assert!(!account.is_thrown().await);
}

#[tokio::test]
async fn a_service_that_does_not_answer_at_the_moment_of_use_holds_the_switch() {
    let account = account().await;
    let situations = [
        ("it is ill", Services { status: Some(500), region: "us-west-2" }),
        ("it is silent", Services { status: None, region: "us-west-2" }),
        ("the lost region answers in its place", Services { status: Some(200), region: "us-east-1" }),
    ];
    for (situation, services) in situations {
        let held = account.swap_with(event("switch-after-health"), &services, soon()).await.unwrap_err();
        assert_eq!(held.fault(), Fault::NotYet, "{situation}: {held:?}");
    }
    assert!(!account.is_thrown().await);
    account.swap(event("switch-after-health")).await.unwrap();
}

#[tokio::test]
async fn record_changes_are_asked_for_once_and_awaited() {
    let account = account().await;
    let mut edited = None;
    for _ in 0..100 {
        match account.swap(event("edit-when-customers-are-back")).await {
            Ok(done) => {
                edited = Some(done);
                break;
            }
            Err(error) => assert_eq!(error.fault(), Fault::NotYet, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let Some(Swapped::Edited(edited)) = edited else { panic!("the change did not come into sync") };
    assert_eq!(edited.in_sync, ["origin.sparc.com CNAME"]);
    assert_eq!(edited.cdn.as_deref(), Some("origin.us-west-2.sparc.com"));
    let changes =
        account.desk.calls().iter().filter(|call| call.service == "route53" && call.path.contains("/rrset")).count();
    assert_eq!(changes, 1, "{:#?}", account.desk.calls());
}

#[tokio::test]
async fn a_cdn_that_cannot_be_edited_does_not_keep_records_from_being_edited() {
    let account = account().await;
    let away = Script::Reject { status: 503, code: "ServiceUnavailable".into() };
    account.desk.lay(Selector::any().of("cloudfront"), Times::Always, away);
    let request = event("edit-when-customers-are-back");
    assert_eq!(request.action, Action::Edit);
    let error = account.swap(request).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::Transient | Fault::NotYet), "{error:?}");
    let asked = account.desk.calls().iter().any(|call| call.service == "route53" && call.path.contains("/rrset"));
    assert!(asked, "the record was not edited");
}
