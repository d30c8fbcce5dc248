//! `regional-failover` with each of its events, on a platform that is alive.
//!
//! Every test makes the world that its event speaks of, and looks at the world that is left. A run that ends in time
//! leaves its world as it was, so one world serves several events.

#![allow(clippy::unwrap_used)] // steps that several tests share stand outside of `#[test]` functions

mod platform;

use std::time::Instant;

use platform::{REFUSED, World};
use recovery::plan::Approval;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_region_is_left_and_nothing_moves_twice() {
    let mut world = World::start(Approval::Automatic).await;
    let lost_at = Instant::now();
    world.platform.lab.lose_primary_region();

    let ended = world.run("alarm", "primary-region-alarm").await;
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;
    world.load.wait_for_acknowledgements_of("standby", lost_at).await.unwrap();

    for component in ["postgresql", "redis", "object-storage", "kubernetes", "registry"] {
        let (verdict, because) = world.loss_of("alarm", component);
        assert_eq!(verdict, "met", "{component}: {because}");
    }

    let moved = world.standing().await;
    let again = world.run("alarm", "primary-region-alarm").await;
    world.has_moved(&again).await;
    assert_eq!(world.standing().await, moved, "{}", again.said);
    let other = world.run("another", "primary-region-alarm").await;
    assert_eq!(other.code, Some(REFUSED), "{}", other.said);
    world.is_accounted_for(&other, "refused").await;
    assert_eq!(world.standing().await, moved, "{}", other.said);
    world.nothing_is_broken(&other).await;
    world.load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_works_stays_until_a_person_asks_for_a_graceful_move_that_loses_nothing() {
    let mut world = World::start(Approval::Automatic).await;
    let before = world.standing().await;
    for event in ["primary-still-writable", "primary-region-alarm", "two-regions-lost"] {
        let name = format!("not-{event}");
        let ended = world.run(&name, event).await;
        world.has_not_moved(&ended, REFUSED, &before).await;
        world.is_accounted_for(&ended, "refused").await;
    }

    let asked_at = Instant::now();
    let ended = world.run("graceful", "manual-graceful").await;
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;
    world.load.wait_for_acknowledgements_of("standby", asked_at).await.unwrap();
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_behind_is_promoted_only_with_consent() {
    let mut world = World::start(Approval::Automatic).await;
    world.platform.lab.pair.cut_stream().await.unwrap();
    // The plan accepts 64 MiB of log.
    world.platform.lab.pair.fill(72 << 20).await.unwrap();
    // Objects and an image stay behind too.
    world.platform.lab.aws.stop_replication().await.unwrap();
    world.platform.lab.aws.forget_image("sparc/playback").await.unwrap();
    // The first may have left its marker before the copying stopped; the second cannot.
    world.heartbeats().await;
    world.heartbeats().await;
    world.platform.lab.lose_primary_region();
    let before = world.standing().await;

    let refused = world.run("behind", "standby-behind").await;
    world.has_not_moved(&refused, REFUSED, &before).await;
    world.is_accounted_for(&refused, "refused").await;
    assert!(refused.said.contains("not promoting: "), "{}", refused.said);

    let consented = world.run("consented", "standby-behind-consented").await;
    world.has_moved(&consented).await;
    world.is_accounted_for(&consented, "recovered").await;
    let (_, because) = world.loss_of("consented", "object-storage");
    assert!(because.contains(", at least ") && because.contains("heartbeat"), "{because}");
    let (verdict, because) = world.loss_of("consented", "registry");
    assert_eq!(verdict, "unknown", "{because}");
    assert!(because.contains("sparc/playback@sha256:"), "{because}");
    world.load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_asks_a_person_does_what_the_person_says() {
    let mut world = World::start(Approval::Required).await;
    let before = world.standing().await;

    let run = world.begin("rejected", "manual-graceful");
    world.answer("rejected", "reject").await;
    let ended = world.end("rejected", run).await;
    world.has_not_moved(&ended, REFUSED, &before).await;
    world.is_accounted_for(&ended, "refused").await;

    let run = world.begin("approved", "manual-graceful");
    world.answer("approved", "approve").await;
    let ended = world.end("approved", run).await;
    world.has_moved(&ended).await;
    world.is_accounted_for(&ended, "recovered").await;
    assert_eq!(world.lost_writes().await, 0, "{}", ended.said);
}
