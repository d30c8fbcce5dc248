//! The functions of the suite in one process, behind the engine's handler: what lets a laptop run the cloud's plan.
//!
//! Requests, results and failures pass as the same JSON as in Lambda, through the same border
//! ([`recovery_lambda::answer`]), so a machine cannot tell where it runs.

mod jobs;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use asl::{TaskCall, TaskHandler, TaskOutcome};
use async_trait::async_trait;
use jiff::Timestamp;
use recovery::{
    backup::{Catalogue, SnapshotShelf},
    closure::Closure,
    cluster::NodeGroup,
    database::{DatabaseError, ReplicaRole},
    fault::{Failure, Fault, chain},
    store::ObjectStore,
    survey::Survey,
};
use recovery_aws::Aws;
use recovery_http::HttpProber;
use recovery_kubernetes::Cluster;
use recovery_lambda::{Settings, answer, misconfigured};
use recovery_sites::{Databases, Side, Takers, databases, takers, workloads};
use serde_json::Value;
use tokio::sync::Notify;
use tracing::info;

/// Every function by its folder's name.
pub const FUNCTIONS: [&str; 11] = [
    "plan-failover",
    "fence-primary",
    "promote-replica",
    "scale-nodegroup",
    "deploy-workloads",
    "verify-recovery",
    "swap-dns",
    "notify",
    "report",
    "backup-trigger",
    "checksum-verify",
];

/// How long an artifact may take to be written: what a Lambda would have.
const WHOLE_BACKUP: Duration = Duration::from_secs(14 * 60);

/// How long one invocation may take; no function's `Timeout` in `template.yaml` is longer.
fn invocation_limit(function: &str) -> Duration {
    // What moves whole backups has all the time that Lambda gives.
    match function {
        "backup-trigger" | "checksum-verify" => Duration::from_secs(900),
        _ => Duration::from_secs(60),
    }
}

/// The functions and everything that they act on.
pub struct Suite {
    settings: Settings,
    aws: Aws,
    databases: Databases,
    primary_cluster: Cluster,
    secondary_cluster: Cluster,
    prober: HttpProber,
    takers: Takers,
    /// Certificate authority of the cluster that runs Jobs.
    authority: String,
}

impl Suite {
    /// Puts the suite together; nothing is connected yet.
    ///
    /// # Errors
    /// Something that the plan names beside itself cannot be used.
    pub async fn open(settings: Settings) -> Result<Arc<Suite>, Failure> {
        let aws = Aws::from_plan(&settings.plan).await;
        Suite::with(settings, aws)
    }

    /// Puts the suite together on an AWS that is reached in another way than this process's environment says.
    ///
    /// # Errors
    /// As [`Suite::open`].
    pub fn with(settings: Settings, aws: Aws) -> Result<Arc<Suite>, Failure> {
        Ok(Arc::new(Suite {
            databases: databases(&settings, &aws)?,
            primary_cluster: workloads(&settings, &aws, Side::Primary)?,
            secondary_cluster: workloads(&settings, &aws, Side::Secondary)?,
            takers: takers(&settings, &aws)?,
            authority: settings.file(&settings.plan.kubernetes.secondary.ca_file)?,
            prober: HttpProber::new().map_err(|error| misconfigured(&chain(&error)))?,
            settings,
            aws,
        }))
    }

    /// Connects ahead of the first request, as a Lambda does in its init.
    pub async fn warm(&self) {
        tokio::join!(self.aws.warm(), self.databases.primary.warm(), self.databases.standby.warm());
    }

    /// The evidence bucket, as the functions use it.
    pub fn evidence(&self) -> Arc<dyn ObjectStore> {
        self.aws.evidence()
    }

    /// Looks for everything that a failover needs, where it will look for it.
    pub async fn closure(&self, now: Timestamp) -> Closure {
        recovery_sites::closure(&self.settings, &self.aws, &self.secondary_cluster, now).await
    }

    /// What fills the `${…FunctionArn}` of a machine.
    pub fn substitutions(&self) -> BTreeMap<String, String> {
        let region = self.settings.plan.regions.tertiary.code();
        let arn = |function: &str| format!("arn:aws:lambda:{region}:000000000000:function:{function}");
        FUNCTIONS.iter().map(|function| (format!("{}FunctionArn", pascal_case(function)), arn(function))).collect()
    }

    /// Answers one request of a function, as Lambda would.
    ///
    /// # Errors
    /// What the function failed with.
    pub async fn invoke(self: &Arc<Self>, function: &str, payload: Value) -> Result<Value, Failure> {
        let suite = Arc::clone(self);
        match function {
            "plan-failover" => {
                let handle = |suite: Arc<Suite>, request| async move { suite.plan_failover(request).await };
                answer("plan-failover", suite, handle, payload).await
            }
            "fence-primary" => {
                let handle = |suite: Arc<Suite>, request: fence_primary::Request| async move {
                    let (evidence, primary) = (suite.aws.evidence(), &*suite.databases.primary);
                    let world =
                        fence_primary::World { primary, evidence: &*evidence, workloads: &suite.primary_cluster };
                    fence_primary::fence_primary(&request, &suite.settings.plan, &world, Timestamp::now()).await
                };
                answer("fence-primary", suite, handle, payload).await
            }
            "promote-replica" => {
                let handle = |suite: Arc<Suite>, request: promote_replica::Request| async move {
                    let (evidence, Databases { standby, replica, .. }) = (suite.aws.evidence(), &suite.databases);
                    let world =
                        promote_replica::World { standby: &**standby, replica: &**replica, evidence: &*evidence };
                    promote_replica::promote_replica(&request.run, &suite.settings.plan, &world, Timestamp::now()).await
                };
                answer("promote-replica", suite, handle, payload).await
            }
            "scale-nodegroup" => {
                let handle = |suite: Arc<Suite>, request| async move {
                    let nodes = suite.aws.secondary_node_group();
                    scale_nodegroup::scale(request, &nodes, &suite.secondary_cluster, Timestamp::now()).await
                };
                answer("scale-nodegroup", suite, handle, payload).await
            }
            "deploy-workloads" => {
                let handle = |suite: Arc<Suite>, request| async move {
                    let (evidence, plan) = (suite.aws.evidence(), &suite.settings.plan);
                    let cluster = &suite.secondary_cluster;
                    deploy_workloads::deploy(request, plan, &*evidence, cluster, Timestamp::now()).await
                };
                answer("deploy-workloads", suite, handle, payload).await
            }
            "verify-recovery" => {
                let handle = |suite: Arc<Suite>, request: verify_recovery::Request| async move {
                    let (evidence, Databases { primary, standby, .. }) = (suite.aws.evidence(), &suite.databases);
                    let (objects, objects_copy) = (suite.aws.objects(), suite.aws.objects_copy());
                    let world = verify_recovery::World {
                        primary: &**primary,
                        standby: &**standby,
                        prober: &suite.prober,
                        evidence: &*evidence,
                        objects: &*objects,
                        objects_copy: &*objects_copy,
                        registry: &*suite.aws.registry(),
                    };
                    verify_recovery::verify_recovery(&request, &suite.settings.plan, &world, Timestamp::now()).await
                };
                answer("verify-recovery", suite, handle, payload).await
            }
            "swap-dns" => {
                let handle = |suite: Arc<Suite>, request| async move { suite.swap_dns(request).await };
                answer("swap-dns", suite, handle, payload).await
            }
            "notify" => {
                let handle = |suite: Arc<Suite>, request| async move {
                    let (evidence, messenger) = (suite.aws.evidence(), suite.aws.messenger());
                    notify::notify(request, &suite.settings.plan, &*evidence, &*messenger, Timestamp::now()).await
                };
                answer("notify", suite, handle, payload).await
            }
            "report" => {
                let handle = |suite: Arc<Suite>, request: report::Request| async move {
                    let (list, evidence) = (suite.aws.evidence_list(), suite.aws.evidence());
                    let catalogue = Catalogue { list: &*list, evidence: &*evidence };
                    report::write_report(&request, &suite.settings.plan, catalogue, Timestamp::now()).await
                };
                answer("report", suite, handle, payload).await
            }
            "backup-trigger" => {
                let handle = |suite: Arc<Suite>, request| async move {
                    let plan = &suite.settings.plan;
                    let (backups, evidence) = (suite.aws.bucket(&plan.buckets.backups), suite.aws.evidence());
                    let world = backup_trigger::World {
                        takers: &suite.takers,
                        parts: suite.aws.backup_parts(),
                        backups: &backups,
                        evidence: &*evidence,
                        list: &*suite.aws.evidence_list(),
                        authority: &suite.authority,
                        now: Timestamp::now,
                        within: WHOLE_BACKUP,
                        stop: &Notify::const_new(),
                    };
                    backup_trigger::backup_trigger(&request, plan, &world).await
                };
                answer("backup-trigger", suite, handle, payload).await
            }
            "checksum-verify" => {
                let handle = |suite: Arc<Suite>, request| async move {
                    let (backups, wal) = (suite.aws.backups(), suite.aws.wal_archive());
                    let (list, evidence) = (suite.aws.evidence_list(), suite.aws.evidence());
                    let catalogue = Catalogue { list: &*list, evidence: &*evidence };
                    let shelves = suite.aws.snapshot_shelves();
                    let snapshots: Vec<&dyn SnapshotShelf> =
                        shelves.iter().flatten().map(|shelf| shelf as &dyn SnapshotShelf).collect();
                    let managed_log = suite.aws.managed_log();
                    let world = checksum_verify::World {
                        backups: &*backups,
                        wal: &*wal,
                        managed_log: managed_log.as_deref(),
                        log_budget_bytes: checksum_verify::LOG_BUDGET_BYTES,
                        catalogue,
                        snapshots: &snapshots,
                    };
                    checksum_verify::checksum_verify(&request, &suite.settings.plan, &world, Timestamp::now()).await
                };
                answer("checksum-verify", suite, handle, payload).await
            }
            unknown => Err(misconfigured(&format!("no function is called `{unknown}`"))),
        }
    }

    async fn plan_failover(
        &self,
        request: plan_failover::Request,
    ) -> Result<recovery::failover::FailoverPlan, plan_failover::Error> {
        let (evidence, switch, node_group) = (self.aws.evidence(), self.aws.switch(), self.aws.secondary_node_group());
        let world = self.before_a_failover(&*evidence, &*switch, &node_group);
        plan_failover::plan_failover(&request, &self.settings.plan, &world).await
    }

    /// Looks at everything that a failover would look at first, and changes nothing.
    pub async fn survey(&self) -> Survey {
        let (evidence, switch, node_group) = (self.aws.evidence(), self.aws.switch(), self.aws.secondary_node_group());
        let world = self.before_a_failover(&*evidence, &*switch, &node_group);
        plan_failover::survey(&self.settings.plan, &world).await
    }

    fn before_a_failover<'a>(
        &'a self,
        evidence: &'a dyn ObjectStore,
        switch: &'a dyn ObjectStore,
        node_group: &'a dyn NodeGroup,
    ) -> plan_failover::World<'a> {
        plan_failover::World {
            primary: &*self.databases.primary,
            standby: &*self.databases.standby,
            evidence,
            switch,
            node_group,
            primary_workloads: &self.primary_cluster,
        }
    }

    /// What the API that promotes the standby says of it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn replica_role(&self) -> Result<ReplicaRole, DatabaseError> {
        self.databases.replica.role().await
    }

    /// The account as the plan lays it out.
    pub fn aws(&self) -> &Aws {
        &self.aws
    }

    async fn swap_dns(&self, request: swap_dns::Request) -> Result<swap_dns::Swapped, swap_dns::Error> {
        let names = &self.settings.plan.names;
        let (switch, evidence) = (self.aws.switch(), self.aws.evidence());
        let records = self.aws.records(&names.hosted_zone);
        let cdn = names.cdn.as_ref().map(|cdn| self.aws.distribution(&cdn.distribution));
        let means = swap_dns::Means {
            switch: &*switch,
            evidence: &*evidence,
            prober: &self.prober,
            records: &*records,
            cdn: cdn.as_deref(),
        };
        swap_dns::swap(request, &self.settings.plan, &means, Timestamp::now()).await
    }
}

/// The suite as the engine calls it.
pub struct Linked(pub Arc<Suite>);

#[async_trait]
impl TaskHandler for Linked {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        if jobs::is_for_a_job(&call) {
            return jobs::run(&call, &self.0.settings, &self.0.aws).await;
        }
        let Some(function) = call.function() else {
            let arn = &call.resource.arn;
            return TaskOutcome::failure(
                "States.Runtime",
                format!("`{arn}` is neither a function nor a Job; nothing else is linked in"),
            );
        };
        let name = function.function.rsplit(':').next().unwrap_or_default().to_owned();
        let payload = function.payload.clone();
        let began_at = Timestamp::now();
        let began = Instant::now();
        let limit = invocation_limit(&name);
        let answered = tokio::time::timeout(limit, self.0.invoke(&name, payload)).await;
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (state, seconds) = (&*call.state, began.elapsed().as_secs_f64());
        info!(call = call.call, state, function = name, %began_at, took_us, "`{name}` took {seconds:.3} s");
        match answered {
            Ok(Ok(result)) => call.function_answered(result),
            Ok(Err(failure)) => TaskOutcome::function_failed(&failure.error_type, &failure.message),
            Err(_) => {
                let text = format!("`{name}` did not answer within {} s", limit.as_secs());
                TaskOutcome::function_failed("Sandbox.Timedout", &text)
            }
        }
    }
}

/// The errors that functions raise, for contract tests between the languages.
pub fn error_types() -> Vec<&'static str> {
    Fault::ALL.iter().map(|fault| fault.error_type()).collect()
}

fn pascal_case(name: &str) -> String {
    let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
    name.split('-').filter(|part| !part.is_empty()).map(capital).collect()
}
