//! The emulated AWS, as far as the lab relies on it.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

use std::time::Instant;

use lab::aws::{Aws, PRIMARY, SECONDARY, Seed, TERTIARY};
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn the_account_stands_as_the_plan_describes_it() {
    let begun = Instant::now();
    let aws = Aws::start().await.unwrap();
    let started = begun.elapsed();
    let seeded = aws.seed(&Seed::default()).await.unwrap();
    println!("started in {started:?}, seeded after {:?}: {seeded:#?}", begun.elapsed());

    let secret = json!({ "SecretId": seeded.recovery_secret });
    let secret = aws.json("secretsmanager", TERTIARY, "secretsmanager.GetSecretValue", secret).await.unwrap();
    assert!(secret["SecretString"].as_str().unwrap().contains("sparc_recovery"));

    let check = format!("/2013-04-01/healthcheck/{}", seeded.switch_check);
    let check = aws.call("route53", PRIMARY, Method::GET, &check, &[], "").await.unwrap();
    assert!(check.body.contains("<Inverted>true</Inverted>"), "{}", check.body);

    let topic = [("TopicArn", seeded.topics[0].as_str()), ("Subject", "drill"), ("Message", "hello")];
    aws.query("sns", TERTIARY, "Publish", &topic).await.unwrap();
    let sent = aws.sent(&seeded).await.unwrap();
    assert_eq!((sent.len(), sent[0].message.as_str(), sent[0].topic.as_str()), (1, "hello", seeded.topics[0].as_str()));
    assert!(aws.sent(&seeded).await.unwrap().is_empty(), "each is returned once");

    assert_eq!(aws.object(&seeded.switch_bucket, &seeded.switch_key).await.unwrap(), None);
    aws.put_object(&seeded.switch_bucket, &seeded.switch_key, "out").await.unwrap();
    assert_eq!(aws.keys(&seeded.switch_bucket).await.unwrap().as_slice(), std::slice::from_ref(&seeded.switch_key));
    aws.delete_object(&seeded.switch_bucket, &seeded.switch_key).await.unwrap();
    assert_eq!(aws.object(&seeded.switch_bucket, &seeded.switch_key).await.unwrap(), None);

    let group = format!("/clusters/{}/node-groups/{}", seeded.clusters[1], seeded.node_group);
    let group = aws.call("eks", SECONDARY, Method::GET, &group, &[], "").await.unwrap();
    assert!(group.body.contains("\"desiredSize\": 2"), "{}", group.body);
    let replica = aws.query("rds", SECONDARY, "DescribeDBInstances", &[]).await.unwrap();
    assert!(replica.contains("ReadReplicaSourceDBInstanceIdentifier"));
}

#[tokio::test]
async fn nothing_of_the_emulators_listens_beyond_the_loopback() {
    let aws = Aws::start().await.unwrap();
    let ports: Vec<String> = [aws.control_url(), aws.moto_url()]
        .map(|url| format!(":{:04X} ", url.rsplit(':').next().unwrap().parse::<u16>().unwrap()))
        .into();
    let listeners: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|file| {
            std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
        })
        // State 0A is LISTEN.
        .filter(|line| line.contains(" 0A ") && ports.iter().any(|port| line.contains(port.as_str())))
        .collect();
    assert_eq!(listeners.len(), 2, "{listeners:#?}");
    assert!(listeners.iter().all(|line| line.contains(" 0100007F:")), "{listeners:#?}");
    assert!(aws.env().iter().any(|(name, value)| name == "AWS_ENDPOINT_URL_RDS" && value == aws.moto_url()));
}
