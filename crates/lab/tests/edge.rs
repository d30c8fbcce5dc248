//! Services behind health checks, and the edge that stands in for Route 53.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

use std::collections::HashMap;
use std::sync::Arc;

use lab::aws::{Aws, PRIMARY, SECONDARY, Seed, Seeded};
use lab::edge::{Edge, Options};
use lab::postgres::{self, Pair};
use lab::resolvers::Resolvers;
use lab::services::{Region, SERVICES};

struct World {
    edge: Edge,
    primary: Region,
    secondary: Region,
    seeded: Seeded,
    aws: Arc<Aws>,
    pair: Pair,
}

async fn world() -> World {
    let (pair, aws) = tokio::join!(Pair::start(postgres::Options::default()), Aws::start());
    let (pair, aws) = (pair.unwrap(), Arc::new(aws.unwrap()));
    let seeded = aws.seed(&Seed::default()).await.unwrap();
    let primary = Region::start(PRIMARY, &pair, &pair.primary).await.unwrap();
    let secondary = Region::start(SECONDARY, &pair, &pair.standby).await.unwrap();
    let hosts = HashMap::from([
        (format!("origin.{PRIMARY}.sparc.com"), primary.port()),
        (format!("origin.{SECONDARY}.sparc.com"), secondary.port()),
        (format!("core-apis.{SECONDARY}.sparc.com"), secondary.port()),
    ]);
    let edge = Edge::start(
        aws.clone(),
        &seeded.hosted_zone,
        Options { scale: 0.01, distribution: Some(seeded.distribution.clone()), hosts },
    )
    .await
    .unwrap();
    World { edge, primary, secondary, seeded, aws, pair }
}

async fn get(url: &str, host: &str) -> (u16, Option<String>, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).header("host", host).send().await.unwrap();
    let region = answer.headers().get("x-served-by-region").map(|v| v.to_str().unwrap().to_owned());
    (answer.status().as_u16(), region, answer.text().await.unwrap())
}

#[tokio::test]
async fn traffic_moves_when_the_switch_object_appears_and_the_other_side_takes_writes() {
    let world = world().await;
    let ask = || async { get(&format!("{}/healthz", world.edge.url()), "api.sparc.com").await };
    assert_eq!(ask().await.0, 200);
    assert_eq!(ask().await.1.as_deref(), Some(PRIMARY));
    assert_eq!(world.edge.resolve("cdn.sparc.com").as_deref(), Some("origin.us-east-1.sparc.com"));
    for (service, database) in SERVICES {
        let (status, _, body) = get(&world.secondary.url(service), "127.0.0.1").await;
        // A standby refuses writes: 25006, read-only transaction.
        assert_eq!(status == 503 && body.contains("25006"), database.is_some(), "{service} {status} {body}");
    }

    world.pair.primary.crash();
    world.primary.go_dark();
    assert_eq!(ask().await.0, 502, "names have not moved by themselves");
    world.pair.standby.execute("select pg_promote(false)").await.unwrap();
    world.pair.standby.wait_for_promotion().await.unwrap();
    while world.edge.is_healthy(&world.seeded.secondary_check) != Some(true) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(world.edge.resolve("api.sparc.com").unwrap(), "origin.us-east-1.sparc.com");
    let resolvers = Resolvers::start(&world.edge, "api.sparc.com", 12);
    world.aws.put_object(&world.seeded.switch_bucket, &world.seeded.switch_key, "out").await.unwrap();
    world.edge.wait_until_answer("api.sparc.com", "origin.us-west-2.sparc.com").await.unwrap();
    let (status, region, _) = ask().await;
    assert_eq!((status, region.as_deref()), (200, Some(SECONDARY)));
    assert_eq!(world.edge.ever_all_unhealthy(), None);
    let moved = resolvers.moved().await.unwrap();
    assert!(moved.with_cache_at >= moved.without_cache_at, "{moved:?}");
    println!("{:#?}", world.edge.events());
}

#[tokio::test]
async fn flipping_onto_an_unhealthy_side_sends_everybody_back_to_the_primary_and_is_recorded() {
    let world = world().await;
    world.aws.put_object(&world.seeded.switch_bucket, &world.seeded.switch_key, "out").await.unwrap();
    while world.edge.ever_all_unhealthy().is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (status, region, _) = get(&format!("{}/healthz", world.edge.url()), "api.sparc.com").await;
    assert_eq!((status, region.as_deref()), (200, Some(PRIMARY)), "as if all were healthy");
}

#[tokio::test]
async fn a_broken_service_says_so_and_its_neighbours_do_not() {
    let pair = Pair::start(postgres::Options::default()).await.unwrap();
    let region = Region::start(PRIMARY, &pair, &pair.primary).await.unwrap();
    region.break_service("playback");
    assert_eq!(get(&region.url("playback"), "x").await.0, 503);
    assert_eq!(get(&region.url("incidents"), "x").await.0, 200);
    region.mend_service("playback");
    assert_eq!(get(&region.url("playback"), "x").await.0, 200);
    assert_eq!(get(&region.url("nothing-of-ours"), "x").await.0, 404);
    pair.primary.freeze();
    assert_eq!(get(&region.url("incidents"), "x").await.0, 503, "a hanging database is an answer within a second");
}
