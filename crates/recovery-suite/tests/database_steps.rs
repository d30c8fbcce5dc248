//! The steps around the point of no return, on a real PostgreSQL pair and emulated AWS: late, lost and repeated.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use lab::{
    faults::{Desk, Script, Selector, Times},
    kubernetes::Flavour,
    platform::{Options, Platform},
    postgres::{PROBE_DATABASE, Role},
};
use recovery::{
    fault::Failure,
    fence::{FenceRecord, FenceState},
    plan::{Approval, Driver, Plan},
    run::{Fence, FenceLifted, FenceOutcome, Promotion, Run},
};
use recovery_aws::Aws;
use recovery_lambda::Settings;
use recovery_suite::Suite;
use serde_json::{Value, json};

const RUN: &str = "steps";

/// A platform, the suite on it, and a run that has its plan.
struct World {
    platform: Platform,
    suite: Arc<Suite>,
    desk: Desk,
    plan: Plan,
    run: Run,
}

impl World {
    /// A platform in which somebody asks for a graceful move, and what was decided.
    async fn planned() -> World {
        let desk = Desk::new();
        let platform = Platform::start(Options {
            lab: lab::Options { heartbeat: None, kubernetes: Some([Flavour::Small; 2]), ..lab::Options::default() },
            driver: Driver::SelfManaged,
            approval: Approval::Automatic,
            plan: include_str!("../../../plans/sparc.toml").to_owned(),
            faults: Some(desk.clone()),
        })
        .await
        .unwrap();
        let settings = Settings::read(platform.plan()).unwrap();
        let plan = (*settings.plan).clone();
        let aws = Aws::from_environment(&plan, platform.lab.env()).await;
        let suite = Suite::with(settings, aws).unwrap();
        suite.invoke("verify-recovery", json!({ "action": "watch" })).await.unwrap();
        let event: Value =
            serde_json::from_str(include_str!("../../../events/regional-failover/manual-graceful.json")).unwrap();
        let now = Timestamp::now();
        let decided =
            suite.invoke("plan-failover", json!({ "run_id": RUN, "started_at": now, "event": event })).await.unwrap();
        let mut run = Run::opened(RUN, now, event);
        run.plan = Some(serde_json::from_value(decided).unwrap());
        World { platform, suite, desk, plan, run }
    }

    async fn close(&mut self) -> Result<Fence, Failure> {
        let closed = self.suite.invoke("fence-primary", json!({ "action": "close", "run": self.run })).await?;
        let fence: Fence = serde_json::from_value(closed).unwrap();
        self.run.fence = Some(fence.clone());
        Ok(fence)
    }

    async fn lift(&self) -> Result<FenceLifted, Failure> {
        let lifted = self.suite.invoke("fence-primary", json!({ "action": "lift", "run": self.run })).await?;
        Ok(serde_json::from_value(lifted).unwrap())
    }

    async fn promote(&self) -> Result<Promotion, Failure> {
        let promoted = self.suite.invoke("promote-replica", json!({ "run": self.run })).await?;
        Ok(serde_json::from_value(promoted).unwrap())
    }

    /// What the state machine does with `Recovery.NotYet` and `Recovery.Transient`.
    async fn promote_at_last(&self) -> Promotion {
        for _ in 0..100 {
            match self.promote().await {
                Ok(promotion) => return promotion,
                Err(failure)
                    if failure.error_type == "Recovery.NotYet" || failure.error_type == "Recovery.Transient" =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(failure) => panic!("{failure}"),
            }
        }
        panic!("the standby was not promoted");
    }

    async fn fence_object(&self) -> FenceRecord {
        let key = recovery::fence::key(&self.plan.platform);
        let text = self.platform.lab.aws.object(&self.plan.buckets.evidence, &key).await.unwrap().unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_is_proven_by_a_refused_write_and_put_back_as_it_was() {
    let mut world = World::planned().await;
    let pair = Arc::clone(&world.platform.lab.pair);
    let session = pair.primary.connect(Role::Application, PROBE_DATABASE).await.unwrap();
    session.batch_execute("begin; insert into audit_logs (action) values ('under way')").await.unwrap();

    let fence = world.close().await.unwrap();
    assert_eq!(fence.outcome, FenceOutcome::Closed);
    let stopped = fence.writers.as_ref().unwrap();
    assert!(stopped.iter().all(|writer| writer.replicas == 0 && writer.remembered.is_some()), "{stopped:?}");
    assert!(session.batch_execute("commit").await.is_err(), "a session of before has committed");
    assert!(pair.primary.write("late").await.is_err(), "the closed primary took a write");

    // Twice is the same as once: the same epoch, the same counts.
    let again = world.close().await.unwrap();
    assert_eq!((again.epoch, again.outcome), (fence.epoch, FenceOutcome::Closed));
    assert_eq!(again.writers.unwrap(), *stopped);

    for _ in 0..2 {
        let lifted = world.lift().await.unwrap();
        assert_eq!((lifted.stays, lifted.left), (None, Vec::new()));
    }
    pair.primary.write("after").await.unwrap();
    assert_eq!(world.fence_object().await.state, FenceState::Lifted);
    let cluster = world.platform.lab.primary_cluster().unwrap();
    for writer in stopped {
        let deployment = cluster.deployment(&writer.name).await.unwrap().unwrap();
        let before = writer.remembered.as_ref().map(|kept| u64::from(kept.replicas));
        assert_eq!(deployment["spec"]["replicas"].as_u64(), before, "{}", writer.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_promote_twice() {
    let mut world = World::planned().await;
    world.close().await.unwrap();
    world.desk.lay(Selector::operation("pg_promote").of("postgres"), Times::First(1), Script::LoseAnswer);

    let promotion = world.promote_at_last().await;
    assert_eq!(world.desk.fired().len(), 1);
    assert_eq!((promotion.timeline, promotion.loss.bytes), (2, Some(0)));

    let again = world.promote().await.unwrap();
    assert!(again.already);
    assert_eq!((again.timeline, again.ended_at), (2, promotion.ended_at));
    assert_eq!(world.fence_object().await.state, FenceState::Moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_promotion_was_asked_for_the_fence_stays() {
    let mut world = World::planned().await;
    world.close().await.unwrap();
    world.desk.lay(
        Selector::operation("pg_promote").of("postgres"),
        Times::Always,
        Script::Reject { status: 503, code: "57014".to_owned() },
    );
    let failure = world.promote().await.unwrap_err();
    assert_eq!(failure.error_type, "Recovery.NotYet", "{failure}");

    // Nothing was promoted, but from here nobody can know that it will not be.
    let lifted = world.lift().await.unwrap();
    assert!(lifted.stays.is_some(), "{lifted:?}");
    assert!(world.platform.lab.pair.primary.write("late").await.is_err(), "the fence was lifted");

    world.desk.clear();
    assert_eq!(world.promote_at_last().await.timeline, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_promotion_waits_for_the_last_byte() {
    let mut world = World::planned().await;
    let pair = Arc::clone(&world.platform.lab.pair);
    pair.cut_stream().await.unwrap();
    pair.primary.write("only on the primary").await.unwrap();
    let fence = world.close().await.unwrap();

    let failure = world.promote().await.unwrap_err();
    assert_eq!(failure.error_type, "Recovery.NotYet", "{failure}");
    assert!(failure.message.contains("bytes more"), "{failure}");
    assert_eq!(world.fence_object().await.state, FenceState::Held, "the point of no return was passed");

    pair.restore_stream().await.unwrap();
    let promotion = world.promote_at_last().await;
    assert!(promotion.ended_at >= fence.database.unwrap().lsn);
    assert_eq!(promotion.loss.seconds_at_most, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_for_another_system_promotes_nothing() {
    let mut world = World::planned().await;
    world.close().await.unwrap();
    if let Some(decided) = &mut world.run.plan {
        decided.permit.system_identifier = "42".to_owned();
    }
    let failure = world.promote().await.unwrap_err();
    assert_eq!(failure.error_type, "Recovery.Refused", "{failure}");
    assert!(failure.message.contains("the permit is for 42"), "{failure}");
    assert!(world.platform.lab.pair.standby.position().await.unwrap().in_recovery);
}
