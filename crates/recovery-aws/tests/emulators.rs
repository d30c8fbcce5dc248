//! The adapters against the lab's emulated AWS, through the SDK as the suite uses it.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use lab::{
    aws::{Aws as EmulatedAws, SECONDARY, Seed, Seeded, TERTIARY},
    postgres::Pair,
    rds::{GLOBAL_CLUSTER, Options, Rds, cluster_arn},
};
use recovery::{
    closure::{CertificateShelf, KeyShelf, SecretShelf},
    cluster::{NodeGroup, NodeGroupSize},
    database::{DatabaseError, Manner, Replica, ReplicaRole},
    envelope::{DataKeys, KeyContext},
    fault::{Classified, Fault},
    holdings::MARKER_KEY,
    names::NamesError,
    notice::Notice,
    objective::Priority,
    plan::{Driver, Plan},
    registry::{self, HeldImage, RegistryContents},
    replication::{self, Look, ObjectReason},
    store::{Precondition, StoreError},
};
use recovery_aws::Aws;

/// The platform's plan with the identifiers that the emulators made up.
async fn account() -> (EmulatedAws, Seeded, Plan, Aws) {
    let emulated = EmulatedAws::start().await.unwrap();
    let seeded = emulated.seed(&Seed::default()).await.unwrap();
    let mut plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    plan.names.hosted_zone = seeded.hosted_zone.clone();
    if let Some(cdn) = &mut plan.names.cdn {
        cdn.distribution = seeded.distribution.clone();
    }
    for (level, topic) in plan.notification.levels.iter_mut().zip(&seeded.topics) {
        level.topic_arn = topic.clone();
    }
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    (emulated, seeded, plan, aws)
}

#[tokio::test]
async fn an_object_is_written_only_under_its_condition() {
    let (_emulated, _, _, aws) = account().await;
    let store = aws.evidence();
    let put = async |body: &str, precondition| {
        store.put("fence/test.json", "application/json", body.into(), precondition).await
    };
    assert!(store.get("fence/test.json").await.unwrap().is_none());
    put("1", Precondition::Absent).await.unwrap();
    let refused = put("2", Precondition::Absent).await.unwrap_err();
    assert!(matches!(refused, StoreError::PreconditionFailed { .. }), "{refused:?}");
    let first = store.get("fence/test.json").await.unwrap().unwrap();
    assert_eq!(first.body, b"1");
    put("3", Precondition::Unchanged(first.etag.clone())).await.unwrap();
    let refused = put("4", Precondition::Unchanged(first.etag)).await.unwrap_err();
    assert!(matches!(refused, StoreError::PreconditionFailed { .. }), "{refused:?}");
    assert_eq!(store.get("fence/test.json").await.unwrap().unwrap().body, b"3");
    store.delete("fence/test.json").await.unwrap();
    store.delete("fence/test.json").await.unwrap();
    assert!(store.get("fence/test.json").await.unwrap().is_none());
}

#[tokio::test]
async fn an_object_that_is_too_large_or_a_bucket_that_is_not_there_is_an_error() {
    let (_emulated, _, _, aws) = account().await;
    let store = aws.evidence();
    store.put("large", "text/plain", vec![b'x'; recovery_aws::s3::BOUND_BYTES + 1], Precondition::None).await.unwrap();
    assert!(matches!(store.get("large").await.unwrap_err(), StoreError::TooLarge { .. }));
    let nowhere = recovery::store::ObjectStore::get(&aws.bucket("nowhere"), "a").await.unwrap_err();
    assert!(matches!(nowhere, StoreError::Unavailable { .. }), "{nowhere:?}");
}

#[tokio::test]
async fn what_is_replicated_is_seen_in_the_secondary_region_and_what_is_not_is_missed() {
    let (emulated, _, _, aws) = account().await;
    aws.objects().put(MARKER_KEY, "application/json", "1".into(), Precondition::None).await.unwrap();
    assert_eq!(aws.objects_copy().get(MARKER_KEY).await.unwrap().unwrap().body, b"1");
    emulated.stop_replication().await.unwrap();
    aws.objects().put(MARKER_KEY, "application/json", "2".into(), Precondition::None).await.unwrap();
    assert_eq!(aws.objects_copy().get(MARKER_KEY).await.unwrap().unwrap().body, b"1", "it arrived nevertheless");

    let image = |name: &str| format!("111122223333.dkr.ecr.us-west-2.amazonaws.com/{name}");
    let there = image("sparc/auth@sha256:b78e3bbb8c44ed86b625c342a1a3d37202c4d87f222be4f271595810af84a93d");
    let other_digest = image("sparc/auth@sha256:0000000000000000000000000000000000000000000000000000000000000000");
    let no_repository = image("sparc/nothing@sha256:00");
    let missing = aws.registry().missing(&[there.clone(), other_digest.clone(), no_repository.clone()]).await.unwrap();
    assert_eq!(missing, [other_digest, no_repository]);
    let tagged = aws.registry().missing(&[image("sparc/auth:latest")]).await.unwrap_err();
    assert_eq!(tagged.fault(), Fault::Permanent, "{tagged:?}");
    emulated.forget_image("sparc/auth").await.unwrap();
    assert_eq!(aws.registry().missing(std::slice::from_ref(&there)).await.unwrap(), [there]);
}

#[tokio::test]
async fn a_sample_of_objects_says_what_arrived_and_what_nobody_replicates() {
    let (emulated, _, _, aws) = account().await;
    let put = async |key: &str, body: &str| {
        aws.objects().put(key, "video/mp4", body.into(), Precondition::None).await.unwrap();
    };
    for n in 0..30 {
        put(&format!("videos/{n:02}"), "1").await;
    }
    put("videos/changed", "1").await;
    emulated.stop_replication().await.unwrap();
    put("videos/changed", "22").await;
    put("videos/late", "3").await;
    aws.objects_copy().delete("videos/07").await.unwrap();

    let (source, copy) = (aws.videos(), aws.videos_copy());
    let now = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let look = Look { sample: 40, most_listed: 1000, after: None, salt: "b1", within: Duration::from_secs(900), now };
    let seen = replication::look(&source, &copy, &look).await.unwrap();
    assert_eq!((seen.source.as_str(), seen.copy.as_str()), ("sparc-videos-prod", "sparc-videos-backup"));
    assert_eq!((seen.listed, seen.checked, seen.valid, seen.wrong(), &seen.next), (32, 32, 29, 3, &None));
    let found: Vec<_> = seen.findings.iter().map(|finding| (finding.key.as_str(), finding.reason)).collect();
    assert_eq!(
        found,
        [
            ("videos/07", ObjectReason::Missing),
            ("videos/changed", ObjectReason::Different),
            ("videos/late", ObjectReason::NeverReplicated)
        ]
    );

    // In bounded pieces, the second going on where the first ended.
    let first = replication::look(&source, &copy, &Look { most_listed: 20, ..look.clone() }).await.unwrap();
    assert_eq!((first.listed, first.next.as_deref()), (20, Some("videos/19")));
    let second =
        replication::look(&source, &copy, &Look { after: first.next.as_deref(), ..look.clone() }).await.unwrap();
    assert_eq!((second.listed, second.wrong(), second.next), (12, 2, None));

    let nowhere = aws.bucket("nowhere");
    assert!(replication::look(&nowhere, &copy, &look).await.is_err(), "a bucket that is not there is no empty one");
}

#[tokio::test]
async fn two_registries_are_compared_by_digest() {
    let (emulated, _, plan, aws) = account().await;
    let images = async |region| aws.registry_of(region).images().await.unwrap();
    let source = images(&plan.regions.primary).await;
    assert!(source.len() >= 6 && source.iter().all(|image| image.digest.starts_with("sha256:")), "{source:?}");
    let now = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let compare = |copy: &[HeldImage]| {
        registry::compare(("us-east-1", &source), ("us-west-2", copy), Duration::from_secs(1800), now)
    };
    let whole = compare(&images(&plan.regions.secondary).await);
    assert_eq!((whole.checked, whole.valid, whole.missing), (source.len() as u64, source.len() as u64, 0));
    emulated.forget_image("sparc/auth").await.unwrap();
    let lacking = compare(&images(&plan.regions.secondary).await);
    assert_eq!((lacking.valid, lacking.missing), (source.len() as u64 - 1, 1));
    assert!(lacking.missing_images[0].starts_with("sparc/auth@sha256:"), "{lacking:?}");
    let empty = images(&plan.regions.tertiary).await;
    assert!(empty.is_empty());
}

#[tokio::test]
async fn a_data_key_is_opened_for_what_it_was_made_and_for_nothing_else() {
    let (emulated, seeded, plan, aws) = account().await;
    let arn = seeded.backups_key.as_str();
    let keys = aws.keys(&plan.regions.tertiary);
    let context = KeyContext::from([("backup".to_owned(), "b1".to_owned())]);
    let key = keys.key(arn).generate(&context).await.unwrap();
    assert_eq!(key.wrapped.key_arn, arn);
    assert_eq!(keys.key(arn).unwrap(&key.wrapped).await.unwrap(), key.plain);
    let mut other = key.wrapped.clone();
    other.context.insert("backup".to_owned(), "b2".to_owned());
    let refused = keys.key(arn).unwrap(&other).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Permanent, "{refused:?}");

    assert_eq!(keys.state(arn).await.unwrap().as_deref(), Some("Enabled"));
    let nothing = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000";
    assert_eq!(keys.state(nothing).await.unwrap(), None);
    let elsewhere = aws.keys(&plan.regions.secondary).state(arn).await;
    assert!(!matches!(elsewhere, Ok(Some(_))), "a key is of its own region: {elsewhere:?}");
    emulated.json("kms", TERTIARY, "TrentService.DisableKey", serde_json::json!({ "KeyId": arn })).await.unwrap();
    assert_eq!(keys.state(arn).await.unwrap().as_deref(), Some("Disabled"));
    assert!(keys.key(arn).generate(&context).await.is_err());
}

#[tokio::test]
async fn a_secret_is_there_or_not_and_is_not_read_for_it() {
    let (emulated, seeded, plan, aws) = account().await;
    let names = aws.secret_names(&plan.regions.tertiary);
    assert!(names.holds(&seeded.recovery_secret).await.unwrap());
    assert!(!names.holds("sparc/nothing").await.unwrap());
    assert!(!aws.secret_names(&plan.regions.secondary).holds(&seeded.recovery_secret).await.unwrap());
    let delete = serde_json::json!({ "SecretId": seeded.recovery_secret, "RecoveryWindowInDays": 7 });
    emulated.json("secretsmanager", TERTIARY, "secretsmanager.DeleteSecret", delete).await.unwrap();
    assert!(!names.holds(&seeded.recovery_secret).await.unwrap(), "it waits to be deleted");
}

#[tokio::test]
async fn secrets_are_credentials_and_a_missing_one_is_a_mistake() {
    let (_emulated, seeded, _, aws) = account().await;
    let credentials = aws.secrets().credentials(&seeded.recovery_secret).await.unwrap();
    assert_eq!(credentials.username, "sparc_recovery");
    assert!(!format!("{credentials:?}").contains(&credentials.password));
    let missing = aws.secrets().credentials("sparc/nothing").await.unwrap_err();
    assert_eq!(missing.fault(), Fault::Permanent, "{missing:?}");
}

#[tokio::test]
async fn a_node_group_is_resized_once_for_all_attempts() {
    let (_emulated, _, _, aws) = account().await;
    let nodes = aws.secondary_node_group();
    let before = nodes.look().await.unwrap();
    assert_eq!((before.desired, before.status.as_str()), (2, "ACTIVE"));
    let size = NodeGroupSize { minimum: 10, desired: 50, maximum: 60 };
    for _ in 0..2 {
        nodes.resize(size, "8d3a0f5e-0000-5000-8000-000000000000").await.unwrap();
    }
    let after = nodes.look().await.unwrap();
    assert_eq!((after.minimum, after.desired, after.maximum), (10, 50, 60));
}

#[tokio::test]
async fn a_record_is_changed_and_comes_into_sync() {
    let (_emulated, _, plan, aws) = account().await;
    let records = aws.records(&plan.names.hosted_zone);
    let record = plan.names.records.first().unwrap();
    let change = records.upsert(record, "run failover-1").await.unwrap();
    // Pending at first, as on AWS; how long is the emulator's business.
    for _ in 0..100 {
        if records.is_in_sync(&change).await.unwrap() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the change did not come into sync");
}

#[tokio::test]
async fn an_origin_is_pointed_once_and_the_rest_of_the_distribution_stays() {
    let (_emulated, seeded, plan, aws) = account().await;
    let cdn = plan.names.cdn.clone().unwrap();
    let distribution = aws.distribution(&seeded.distribution);
    assert!(distribution.point_origin(&cdn.origin, &cdn.secondary_domain).await.unwrap());
    assert!(!distribution.point_origin(&cdn.origin, &cdn.secondary_domain).await.unwrap());
    let wrong = distribution.point_origin("nothing", &cdn.secondary_domain).await.unwrap_err();
    assert!(matches!(wrong, NamesError::Invalid { .. }), "{wrong:?}");
}

#[tokio::test]
async fn a_message_reaches_the_topic_of_its_priority() {
    let (emulated, seeded, _, aws) = account().await;
    let notice = Notice { subject: "[P0] test".to_owned(), body: "Situation: test".to_owned() };
    let id = aws.messenger().send(Priority::P0, &notice).await.unwrap();
    assert!(!id.is_empty());
    let sent = emulated.sent(&seeded).await.unwrap();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].topic, seeded.topics[0]);
    assert_eq!(sent[0].subject.as_deref(), Some("[P0] test"));
}

#[tokio::test]
async fn a_read_replica_follows_and_an_unknown_one_is_refused() {
    let (emulated, _, plan, aws) = account().await;
    let replica = aws.replica().unwrap();
    assert_eq!(replica.role().await.unwrap(), ReplicaRole::Following);
    let mut elsewhere = plan.clone();
    elsewhere.postgresql.standby.instance = "nothing".to_owned();
    let unknown = Aws::from_environment(&elsewhere, emulated.env()).await.replica().unwrap().role().await.unwrap_err();
    assert!(matches!(unknown, DatabaseError::Refused { .. }), "{unknown:?}");
    let mut own = plan;
    own.postgresql.driver = Driver::SelfManaged;
    assert!(Aws::from_environment(&own, emulated.env()).await.replica().is_none());
}

/// Looks until the replica stands alone.
async fn wait_until_standalone(replica: &dyn Replica) {
    for _ in 0..300 {
        if replica.role().await.unwrap() == ReplicaRole::Standalone {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the replica was not promoted: {:?}", replica.role().await);
}

#[tokio::test]
async fn a_read_replica_is_promoted_once_however_often_it_is_asked() {
    let (emulated, _, plan, _) = account().await;
    let pair = Arc::new(Pair::start(lab::postgres::Options::default()).await.unwrap());
    let rds = Rds::start(&emulated, Arc::clone(&pair), Options::default()).await.unwrap();
    let replica = Aws::from_environment(&plan, emulated.env()).await.replica().unwrap();
    assert_eq!(replica.role().await.unwrap(), ReplicaRole::Following);
    replica.promote(Manner::Ungraceful).await.unwrap();
    wait_until_standalone(replica.as_ref()).await;
    replica.promote(Manner::Ungraceful).await.unwrap();
    assert_eq!(rds.promotions(), 1);
    pair.standby.write("after-the-promotion").await.unwrap();
}

#[tokio::test]
async fn rds_says_to_which_moment_it_can_restore_and_that_it_cannot() {
    let (emulated, _, plan, aws) = account().await;
    let log = aws.managed_log().unwrap();
    let restorable = log.restorable().await.unwrap();
    let behind = jiff::Timestamp::now().duration_since(restorable.to.expect("the seed keeps backups")).as_secs();
    assert!((-5..600).contains(&behind), "{restorable:?}");
    let mut other = plan.clone();
    other.postgresql.primary.instance = "not-there".to_owned();
    let aws = Aws::from_environment(&other, emulated.env()).await;
    let missing = aws.managed_log().unwrap().restorable().await.unwrap_err();
    assert_ne!(missing.fault(), Fault::Transient, "{missing:?}");
    other.postgresql.driver = Driver::SelfManaged;
    assert!(Aws::from_environment(&other, emulated.env()).await.managed_log().is_none());
}

#[tokio::test]
async fn an_aurora_global_cluster_fails_over_once_however_often_it_is_asked() {
    let (emulated, _, mut plan, _) = account().await;
    plan.postgresql.driver = Driver::AuroraGlobal;
    plan.postgresql.global_cluster = Some(GLOBAL_CLUSTER.to_owned());
    plan.postgresql.standby.instance = cluster_arn(SECONDARY);
    let pair = Arc::new(Pair::start(lab::postgres::Options::default()).await.unwrap());
    let rds = Rds::start(&emulated, Arc::clone(&pair), Options::default()).await.unwrap();
    let replica = Aws::from_environment(&plan, emulated.env()).await.replica().unwrap();
    assert_eq!(replica.role().await.unwrap(), ReplicaRole::Following);
    replica.promote(Manner::Ungraceful).await.unwrap();
    wait_until_standalone(replica.as_ref()).await;
    replica.promote(Manner::Ungraceful).await.unwrap();
    assert_eq!(rds.promotions(), 1);
    pair.standby.write("after-the-failover").await.unwrap();
}

#[tokio::test]
async fn an_aws_that_is_away_is_a_passing_trouble() {
    let plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let environment = [("AWS_ENDPOINT_URL", url.as_str()), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    let aws = Aws::from_environment(&plan, environment.map(|(k, v)| (k.to_owned(), v.to_owned()))).await;
    let away = aws.evidence().get("a").await.unwrap_err();
    assert_eq!(away.fault(), Fault::Transient, "{away:?}");
    let away = aws.secondary_node_group().look().await.unwrap_err();
    assert_eq!(away.fault(), Fault::Transient, "{away:?}");
    let away = aws.replica().unwrap().role().await.unwrap_err();
    assert_eq!(away.fault(), Fault::Transient, "{away:?}");
}

#[tokio::test]
async fn a_certificate_is_described_in_its_own_region_and_in_no_other() {
    let (emulated, _, plan, aws) = account().await;
    let asked = serde_json::json!({ "DomainName": "api.sparc.com" });
    let made = emulated.json("acm", SECONDARY, "CertificateManager.RequestCertificate", asked).await.unwrap();
    let arn = made["CertificateArn"].as_str().unwrap();
    let there = aws.certificates(&plan.regions.secondary);
    let found = there.certificate(arn).await.unwrap().unwrap();
    let year = jiff::SignedDuration::from_hours(364 * 24);
    assert!(found.status == "ISSUED" && found.ends_at.unwrap() > jiff::Timestamp::now() + year, "{found:?}");
    assert_eq!(there.certificate(&arn.replace("certificate/", "certificate/0")).await.unwrap(), None);
    assert_eq!(aws.certificates(&plan.regions.tertiary).certificate(arn).await.unwrap(), None);
}
