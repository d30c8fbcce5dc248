//! The two drivers that promote through an API of RDS, asked in the region of the standby.
//!
//! They are two because they share nothing but the word: a read replica is promoted by a call that is refused when it is
//! repeated; an Aurora global database has one call that loses nothing and another that may. Which one is meant is said,
//! never inferred. What the API says is not the proof: that is a committed write.

use async_trait::async_trait;
use aws_sdk_rds::{
    Client,
    primitives::DateTime,
    types::{DbCluster, DbInstance, FailoverStatus, GlobalCluster},
};
use jiff::Timestamp;
use recovery::{
    backup::{ManagedLog, Restorable},
    database::{DatabaseError, Manner, Replica, ReplicaRole},
};

use crate::trouble::{Kind, Trouble};

fn database_error(server: &str, doing: &'static str, trouble: Trouble) -> DatabaseError {
    let server = server.to_owned();
    match trouble.kind {
        Kind::Unavailable | Kind::Precondition => DatabaseError::Unreachable { server, source: trouble.boxed() },
        Kind::Denied => DatabaseError::Denied { server, source: trouble.boxed() },
        Kind::Busy => DatabaseError::Failed { server, doing, source: trouble.boxed() },
        Kind::Missing | Kind::Limit | Kind::Invalid => DatabaseError::Refused { server, why: trouble.to_string() },
    }
}

/// A read replica of RDS for PostgreSQL.
#[derive(Clone, Debug)]
pub struct RdsReplica {
    client: Client,
    instance: String,
}

impl RdsReplica {
    /// An instance behind a client of its region.
    pub fn new(client: Client, instance: &str) -> RdsReplica {
        RdsReplica { client, instance: instance.to_owned() }
    }

    fn error(&self, doing: &'static str, trouble: Trouble) -> DatabaseError {
        database_error(&self.instance, doing, trouble)
    }
}

/// What an instance is. Right after `PromoteReadReplica` the status may still read `available` and the source may still
/// be there; a promoted instance goes through `modifying`, `rebooting` and a first `backing-up`, during which it works.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_ReadRepl.Promote.html>
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html>
fn instance_role(instance: &DbInstance) -> ReplicaRole {
    let follows = instance.read_replica_source_db_instance_identifier().is_some()
        || instance.read_replica_source_db_cluster_identifier().is_some();
    let status = instance.db_instance_status().unwrap_or("unknown");
    match (follows, status) {
        (true, "available") => ReplicaRole::Following,
        (false, "available" | "backing-up" | "storage-optimization" | "storage-config-upgrade") => {
            ReplicaRole::Standalone
        }
        (_, other) => ReplicaRole::Changing(other.to_owned()),
    }
}

#[async_trait]
impl Replica for RdsReplica {
    async fn role(&self) -> Result<ReplicaRole, DatabaseError> {
        const LOOKING: &str = "looking at the instance";
        let answer = self.client.describe_db_instances().db_instance_identifier(&self.instance).send().await;
        let answer = answer.map_err(|error| self.error(LOOKING, error.into()))?;
        let instance = answer
            .db_instances()
            .first()
            .ok_or_else(|| self.error(LOOKING, Trouble::unexpected("RDS answered without an instance")))?;
        Ok(instance_role(instance))
    }

    async fn promote(&self, _manner: Manner) -> Result<(), DatabaseError> {
        const PROMOTING: &str = "promoting the read replica";
        // No backup retention here: changing it at the promotion starts a backup before the instance takes writes.
        let Err(error) = self.client.promote_read_replica().db_instance_identifier(&self.instance).send().await else {
            return Ok(());
        };
        let trouble = Trouble::from(error);
        if trouble.kind != Kind::Busy {
            return Err(self.error(PROMOTING, trouble));
        }
        // `InvalidDBInstanceState` is the answer to a second call too, and the first one's answer may have been lost.
        match self.role().await? {
            ReplicaRole::Standalone | ReplicaRole::Changing(_) => Ok(()),
            ReplicaRole::Following => Err(self.error(PROMOTING, trouble)),
        }
    }
}

/// The secondary cluster of an Aurora global database.
#[derive(Clone, Debug)]
pub struct AuroraGlobalReplica {
    client: Client,
    global: String,
    cluster: String,
}

impl AuroraGlobalReplica {
    /// A global cluster behind a client of the secondary region, and the ARN of its cluster there.
    pub fn new(client: Client, global: &str, cluster: &str) -> AuroraGlobalReplica {
        AuroraGlobalReplica { client, global: global.to_owned(), cluster: cluster.to_owned() }
    }

    fn error(&self, doing: &'static str, trouble: Trouble) -> DatabaseError {
        database_error(&self.global, doing, trouble)
    }
}

/// What a member of a global cluster is; `None` if it is not a member. The writer flag moves before everything else is in
/// place, so a failover that is under way counts for more than it.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_FailoverState.html>
fn member_role(global: &GlobalCluster, cluster: &str) -> Option<ReplicaRole> {
    let member = global.global_cluster_members().iter().find(|member| member.db_cluster_arn() == Some(cluster))?;
    if let Some(status) = global.failover_state().and_then(|state| state.status()) {
        return Some(match status {
            FailoverStatus::Pending => ReplicaRole::Changing("pending".to_owned()),
            other => ReplicaRole::Changing(other.as_str().to_owned()),
        });
    }
    let status = global.status().unwrap_or("unknown");
    Some(match (member.is_writer().unwrap_or(false), status) {
        (true, "available") => ReplicaRole::Standalone,
        (false, "available") => ReplicaRole::Following,
        (_, other) => ReplicaRole::Changing(other.to_owned()),
    })
}

#[async_trait]
impl Replica for AuroraGlobalReplica {
    async fn role(&self) -> Result<ReplicaRole, DatabaseError> {
        const LOOKING: &str = "looking at the global cluster";
        let answer = self.client.describe_global_clusters().global_cluster_identifier(&self.global).send().await;
        let answer = answer.map_err(|error| self.error(LOOKING, error.into()))?;
        let global = answer
            .global_clusters()
            .iter()
            .find(|global| global.global_cluster_identifier() == Some(&self.global))
            .ok_or_else(|| self.error(LOOKING, Trouble::unexpected("RDS answered without the global cluster")))?;
        member_role(global, &self.cluster).ok_or_else(|| DatabaseError::Refused {
            server: self.global.clone(),
            why: format!("`{}` is not one of its clusters", self.cluster),
        })
    }

    async fn promote(&self, manner: Manner) -> Result<(), DatabaseError> {
        const PROMOTING: &str = "moving the writer of the global cluster";
        let (global, cluster) = (&self.global, &self.cluster);
        let sent = match manner {
            Manner::Graceful => {
                let request = self.client.switchover_global_cluster();
                let request = request.global_cluster_identifier(global).target_db_cluster_identifier(cluster);
                request.send().await.map(|_| ()).map_err(Trouble::from)
            }
            // Without AllowDataLoss this call is a switchover, which waits for a primary that is gone.
            Manner::Ungraceful => {
                let request = self.client.failover_global_cluster();
                let request = request.global_cluster_identifier(global).target_db_cluster_identifier(cluster);
                request.allow_data_loss(true).send().await.map(|_| ()).map_err(Trouble::from)
            }
        };
        let Err(trouble) = sent else { return Ok(()) };
        // A repeated call finds the cluster changing or the target already the writer, which is an invalid state too.
        if !matches!(trouble.kind, Kind::Busy | Kind::Invalid) {
            return Err(self.error(PROMOTING, trouble));
        }
        match self.role().await? {
            ReplicaRole::Standalone | ReplicaRole::Changing(_) => Ok(()),
            ReplicaRole::Following => Err(self.error(PROMOTING, trouble)),
        }
    }
}

/// The log that RDS or Aurora keeps of a server, in that server's region.
#[derive(Clone, Debug)]
pub struct RdsLog {
    client: Client,
    /// An instance's name, or a cluster's ARN.
    server: String,
}

impl RdsLog {
    /// Of an instance, or of a cluster by its ARN, behind a client of its region.
    pub fn new(client: Client, server: &str) -> RdsLog {
        RdsLog { client, server: server.to_owned() }
    }

    async fn of_instance(&self) -> Result<Option<Restorable>, Trouble> {
        let answer = self.client.describe_db_instances().db_instance_identifier(&self.server).send().await?;
        Ok(answer
            .db_instances()
            .first()
            .map(|one| restorable(one.backup_retention_period(), None, one.latest_restorable_time())))
    }

    async fn of_cluster(&self) -> Result<Option<Restorable>, Trouble> {
        let answer = self.client.describe_db_clusters().db_cluster_identifier(&self.server).send().await?;
        let of = |one: &DbCluster| {
            restorable(one.backup_retention_period(), one.earliest_restorable_time(), one.latest_restorable_time())
        };
        Ok(answer.db_clusters().first().map(of))
    }
}

/// Without retention nothing is kept, whatever time is said.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_DBInstance.html>
fn restorable(retention_days: Option<i32>, from: Option<&DateTime>, to: Option<&DateTime>) -> Restorable {
    let moment = |at: &DateTime| Timestamp::new(at.secs(), at.subsec_nanos().cast_signed()).ok();
    let kept = retention_days != Some(0);
    Restorable { from: from.and_then(moment).filter(|_| kept), to: to.and_then(moment).filter(|_| kept) }
}

#[async_trait]
impl ManagedLog for RdsLog {
    fn name(&self) -> &str {
        &self.server
    }

    async fn restorable(&self) -> Result<Restorable, DatabaseError> {
        const LOOKING: &str = "asking to which moment it can be restored";
        let error = |trouble| database_error(&self.server, LOOKING, trouble);
        let found = if self.server.contains(":cluster:") { self.of_cluster().await } else { self.of_instance().await };
        found.map_err(error)?.ok_or_else(|| error(Trouble::unexpected("RDS answered without the server")))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::types::{FailoverState, GlobalClusterMember};

    use super::*;

    #[test]
    fn an_instance_is_promoted_only_when_its_source_is_gone_and_it_works() {
        let changing = |status: &str| ReplicaRole::Changing(status.to_owned());
        let situations = [
            ("a replica that follows", true, "available", ReplicaRole::Following),
            ("a replica whose promotion has begun", true, "modifying", changing("modifying")),
            ("a replica in its backup, which cannot be promoted now", true, "backing-up", changing("backing-up")),
            ("promoted, and restarting for it", false, "rebooting", changing("rebooting")),
            ("promoted, and in its first backup, which does not stop it", false, "backing-up", ReplicaRole::Standalone),
            ("promoted", false, "available", ReplicaRole::Standalone),
        ];
        for (situation, follows, status, expected) in situations {
            let source = follows.then(|| "arn:aws:rds:us-east-1:111122223333:db:sparc-prod".to_owned());
            let instance = DbInstance::builder()
                .set_read_replica_source_db_instance_identifier(source)
                .db_instance_status(status)
                .build();
            assert_eq!(instance_role(&instance), expected, "{situation}");
        }
    }

    #[test]
    fn a_global_cluster_has_moved_only_when_its_failover_has_ended() {
        let changing = |status: &str| ReplicaRole::Changing(status.to_owned());
        let situations = [
            ("it follows", false, None, "available", ReplicaRole::Following),
            ("a failover is asked for", false, Some(FailoverStatus::Pending), "available", changing("pending")),
            (
                "the writer flag has moved first",
                true,
                Some(FailoverStatus::FailingOver),
                "failing-over",
                changing("failing-over"),
            ),
            ("the cluster is not available yet", true, None, "failing-over", changing("failing-over")),
            ("it has moved", true, None, "available", ReplicaRole::Standalone),
        ];
        for (situation, writer, state, status, expected) in situations {
            let global = GlobalCluster::builder()
                .global_cluster_members(
                    GlobalClusterMember::builder().db_cluster_arn("arn:b").is_writer(writer).build(),
                )
                .set_failover_state(state.map(|state| FailoverState::builder().status(state).build()))
                .status(status)
                .build();
            assert_eq!(member_role(&global, "arn:b"), Some(expected), "{situation}");
            assert_eq!(member_role(&global, "arn:c"), None, "{situation}");
        }
    }

    #[test]
    fn what_is_not_retained_can_be_restored_to_no_moment() {
        let at = DateTime::from_secs(1_795_000_000);
        let (to, moment) = (Some(&at), Timestamp::from_second(1_795_000_000).ok());
        assert_eq!(restorable(Some(30), None, to), Restorable { from: None, to: moment });
        assert_eq!(restorable(Some(0), None, to), Restorable { from: None, to: None });
        assert_eq!(restorable(Some(30), None, None), Restorable { from: None, to: None }, "nothing was shipped yet");
    }
}
