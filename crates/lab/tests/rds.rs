//! The RDS API over real servers.

#![allow(clippy::unwrap_used)] // also in the functions that tests share

use std::sync::Arc;
use std::time::Duration;

use lab::aws::{Aws, PRIMARY, SECONDARY, Seed};
use lab::postgres::{self, Pair};
use lab::rds::{GLOBAL_CLUSTER, Options, Rds, cluster_arn};

const REPLICA: &str = "sparc-prod-replica-us-west-2";
const ID: [(&str, &str); 1] = [("DBInstanceIdentifier", REPLICA)];

async fn world() -> (Aws, Arc<Pair>, Rds) {
    world_where(Options::default()).await
}

async fn world_where(options: Options) -> (Aws, Arc<Pair>, Rds) {
    let (pair, aws) = tokio::join!(Pair::start(postgres::Options::default()), Aws::start());
    let (pair, aws) = (Arc::new(pair.unwrap()), aws.unwrap());
    aws.seed(&Seed::default()).await.unwrap();
    let rds = Rds::start(&aws, pair.clone(), options).await.unwrap();
    (aws, pair, rds)
}

fn text(xml: &str, name: &str) -> Option<String> {
    let begin = xml.find(&format!("<{name}>"))? + name.len() + 2;
    Some(xml[begin..begin + xml[begin..].find('<')?].to_owned())
}

#[tokio::test]
async fn promoting_the_replica_promotes_the_standby_and_takes_its_time() {
    // Long enough to be seen on a machine that is busy with other tests.
    let slow = Options { linger: Duration::from_secs(2), modifying: Duration::from_secs(2), ..Options::default() };
    let (aws, pair, rds) = world_where(slow).await;
    assert_eq!(aws.endpoint("RDS"), rds.url());
    let describe = async || rds.query(SECONDARY, "DescribeDBInstances", &ID).await.unwrap().1;
    let before = describe().await;
    assert_eq!(text(&before, "Address").as_deref(), Some("127.0.0.1"));
    assert!(before.contains(&format!("<Port>{}</Port>", pair.standby.port())), "{before}");

    let (status, answer) = rds.query(SECONDARY, "PromoteReadReplica", &ID).await.unwrap();
    assert_eq!((status.as_u16(), text(&answer, "DBInstanceStatus").as_deref()), (200, Some("available")), "{answer}");
    assert!(pair.standby.position().await.unwrap().in_recovery, "it has only been asked");
    let (status, again) = rds.query(SECONDARY, "PromoteReadReplica", &ID).await.unwrap();
    assert_eq!((status.as_u16(), text(&again, "Code").as_deref()), (400, Some("InvalidDBInstanceState")));

    let mut seen = Vec::new();
    loop {
        let now = describe().await;
        let state = (text(&now, "DBInstanceStatus").unwrap(), now.contains("ReadReplicaSourceDBInstanceIdentifier>"));
        if seen.last() != Some(&state) {
            seen.push(state.clone());
        }
        if state == ("available".to_owned(), false) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    println!("{seen:?}");
    assert_eq!(seen[0], ("available".to_owned(), true), "the status lags behind the call");
    assert!(seen.contains(&("modifying".to_owned(), true)) && seen.contains(&("rebooting".to_owned(), false)));
    pair.standby.write("promoted by RDS").await.unwrap();
    assert_eq!((pair.standby.position().await.unwrap().timeline, rds.promotions()), (2, 1));
    let (status, again) = rds.query(SECONDARY, "PromoteReadReplica", &ID).await.unwrap();
    assert_eq!((status.as_u16(), text(&again, "Code").as_deref()), (400, Some("InvalidDBInstanceState")));
}

#[tokio::test]
async fn refusals_are_those_of_aws() {
    let (_aws, pair, rds) = world().await;
    let refused = async |region: &str, action: &str, parameters: &[(&str, &str)]| {
        let (status, answer) = rds.query(region, action, parameters).await.unwrap();
        (status.as_u16(), text(&answer, "Code").unwrap_or(answer))
    };
    let code = |status: u16, code: &str| (status, code.to_owned());
    let promote = "PromoteReadReplica";
    assert_eq!(refused(PRIMARY, promote, &ID).await, code(404, "DBInstanceNotFound"), "another region");
    let primary = [("DBInstanceIdentifier", "sparc-prod")];
    assert_eq!(refused(PRIMARY, promote, &primary).await, code(400, "InvalidDBInstanceState"), "not a replica");
    rds.begin_backup(REPLICA);
    assert_eq!(refused(SECONDARY, promote, &ID).await, code(400, "InvalidDBInstanceState"), "in its backup");
    rds.end_backup(REPLICA);

    let target = cluster_arn(SECONDARY);
    let global =
        |global, target, more| [("GlobalClusterIdentifier", global), ("TargetDbClusterIdentifier", target), more];
    let failover = "FailoverGlobalCluster";
    let loss = ("AllowDataLoss", "true");
    assert_eq!(
        refused(SECONDARY, failover, &global("nobody", &target, loss)).await,
        code(404, "GlobalClusterNotFoundFault")
    );
    assert_eq!(
        refused(SECONDARY, failover, &global(GLOBAL_CLUSTER, "nobody", loss)).await,
        code(404, "DBClusterNotFoundFault")
    );
    let writer = cluster_arn(PRIMARY);
    assert_eq!(
        refused(SECONDARY, failover, &global(GLOBAL_CLUSTER, &writer, loss)).await,
        code(400, "InvalidDBClusterStateFault")
    );
    let both = [&global(GLOBAL_CLUSTER, &target, loss)[..], &[("Switchover", "true")]].concat();
    assert_eq!(refused(SECONDARY, failover, &both).await, code(400, "InvalidParameterCombination"));
    pair.primary.crash();
    let without = global(GLOBAL_CLUSTER, &target, ("AllowDataLoss", "false"));
    assert_eq!(
        refused(SECONDARY, failover, &without).await,
        code(400, "InvalidDBClusterStateFault"),
        "a switchover needs a primary"
    );
    assert!(pair.standby.position().await.unwrap().in_recovery);
    assert_eq!(rds.promotions(), 0);
}

#[tokio::test]
async fn a_global_cluster_switches_over_without_loss_and_its_writer_flag_moves_first() {
    let slow = Options { linger: Duration::from_secs(2), ..Options::default() };
    let (_aws, pair, rds) = world_where(slow).await;
    pair.primary.write("last before").await.unwrap();
    let target = cluster_arn(SECONDARY);
    let parameters = [("GlobalClusterIdentifier", GLOBAL_CLUSTER), ("TargetDbClusterIdentifier", target.as_str())];
    let (status, answer) = rds.query(SECONDARY, "SwitchoverGlobalCluster", &parameters).await.unwrap();
    assert_eq!(status.as_u16(), 200, "{answer}");
    let (status, again) = rds.query(SECONDARY, "SwitchoverGlobalCluster", &parameters).await.unwrap();
    assert_eq!((status.as_u16(), text(&again, "Code").as_deref()), (400, Some("InvalidGlobalClusterStateFault")));
    let mut seen = Vec::new();
    loop {
        let now = rds.query(SECONDARY, "DescribeGlobalClusters", &[]).await.unwrap().1;
        let writer = text(&now, "DBClusterArn").unwrap() == target;
        let moving = now.contains("<FailoverState>");
        if seen.last() != Some(&(writer, moving)) {
            seen.push((writer, moving));
        }
        if (writer, moving) == (true, false) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert_eq!(seen, [(false, true), (true, true), (true, false)]);
    assert!(!pair.primary.is_running());
    let row = "select count(*) from recovery.write_attempt where run = 'last before'";
    assert_eq!(pair.standby.admin().await.unwrap().query_one(row, &[]).await.unwrap().get::<_, i64>(0), 1);
    pair.standby.write("first after").await.unwrap();
}

#[tokio::test]
async fn what_the_layer_does_not_know_goes_to_moto() {
    let (_aws, _pair, rds) = world().await;
    let modify = [("DBInstanceIdentifier", REPLICA), ("BackupRetentionPeriod", "7"), ("ApplyImmediately", "true")];
    let (status, answer) = rds.query(SECONDARY, "ModifyDBInstance", &modify).await.unwrap();
    assert_eq!(status.as_u16(), 200, "{answer}");
    let (_, described) = rds.query(SECONDARY, "DescribeDBInstances", &ID).await.unwrap();
    assert_eq!(text(&described, "BackupRetentionPeriod").as_deref(), Some("7"));
    assert_eq!(text(&described, "Address").as_deref(), Some("127.0.0.1"), "with the truth put in");
}
