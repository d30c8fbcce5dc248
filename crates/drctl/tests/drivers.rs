//! `regional-failover` through the APIs of RDS, where the promoting call goes wrong in every way within one run.
//!
//! The lab's RDS acts on the real pair, so a promotion that happens twice, or late, or of the wrong kind, is seen on the
//! servers.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::time::{Duration, Instant};

use lab::faults::{Script, Selector, Times};
use platform::World;
use recovery::plan::{Approval, Driver};

/// A driver, the call that promotes, and the call that looks how far it is.
struct Api {
    driver: Driver,
    promotes: &'static str,
    looks: &'static str,
}

const RDS: Api = Api { driver: Driver::Rds, promotes: "PromoteReadReplica", looks: "DescribeDBInstances" };
const SWITCHOVER: Api =
    Api { driver: Driver::AuroraGlobal, promotes: "SwitchoverGlobalCluster", looks: "DescribeGlobalClusters" };
const FAILOVER: Api = Api { promotes: "FailoverGlobalCluster", ..SWITCHOVER };

/// A run in which the promoting call is rejected, then held past the caller's patience, then done without an answer, and
/// in which the looks at it are slow and rejected; the held call is done when everything is over.
async fn everything_goes_wrong_once(api: Api, event: &str) {
    let mut world = World::driven_by(api.driver, Approval::Automatic).await;
    let unavailable = || Script::Reject { status: 503, code: "ServiceUnavailable".to_owned() };
    let faults = [
        (api.promotes, 1, unavailable()),
        (api.promotes, 2, Script::Hold),
        (api.promotes, 3, Script::LoseAnswer),
        (api.looks, 1, Script::Slow(Duration::from_millis(1500))),
        (api.looks, 2, unavailable()),
    ];
    let laid = faults.map(|(operation, nth, script)| {
        let laid = world.desk.lay(Selector::operation(operation).of("rds"), Times::Nth(nth), script);
        (operation, nth, laid)
    });
    let is_graceful = event == "manual-graceful";
    if !is_graceful {
        world.platform.lab.lose_primary_region();
    }
    let asked_at = Instant::now();
    let ended = world.run("driven", event).await;
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;
    let calls = world.desk.calls();
    for (operation, nth, laid) in laid {
        let met = calls.iter().any(|call| call.fired_by == Some(laid));
        assert!(met, "call {nth} of {operation} did not meet its fault; {}", ended.said);
    }
    let asked_otherwise = ["PromoteReadReplica", "SwitchoverGlobalCluster", "FailoverGlobalCluster"]
        .into_iter()
        .filter(|operation| *operation != api.promotes)
        .find(|operation| calls.iter().any(|call| call.operation == *operation));
    assert_eq!(asked_otherwise, None, "the kind of promotion is said, never inferred; {}", ended.said);

    let rds = &world.platform.lab.rds;
    let refused = rds.refusals();
    world.desk.release();
    platform::wait_for("the held call is refused", || rds.refusals() > refused).await;
    assert_eq!(rds.promotions(), 1, "{}", ended.said);
    world.has_moved(&ended).await;
    world.load.wait_for_acknowledgements_of("standby", asked_at).await.unwrap();
    if is_graceful {
        assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
    } else {
        world.load.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_replica_is_promoted_once_in_a_graceful_move() {
    everything_goes_wrong_once(RDS, "manual-graceful").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_replica_is_promoted_once_when_its_region_is_lost() {
    everything_goes_wrong_once(RDS, "primary-region-alarm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_cluster_switches_over_once_and_loses_nothing() {
    everything_goes_wrong_once(SWITCHOVER, "manual-graceful").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_cluster_fails_over_once_when_its_region_is_lost() {
    everything_goes_wrong_once(FAILOVER, "primary-region-alarm").await;
}
