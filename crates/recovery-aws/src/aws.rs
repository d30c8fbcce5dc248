//! One configuration per region, made once per process.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_config::{
    BehaviorVersion, ConfigLoader, SdkConfig, environment::EnvironmentVariableCredentialsProvider, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_http_client::{
    Builder as HttpClientBuilder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::{
    sdk_config::Builder as SdkConfigBuilder,
    service_config::{LoadServiceConfig, ServiceConfigKey},
};
use recovery::{
    backup::{BackupStorage, ManagedLog, PartStore, Taken, WalArchive},
    database::Replica,
    holdings::Registry,
    names::{Distribution, Records},
    notice::Messenger,
    plan::{Driver, Plan, Region, Server},
    secrets::Secrets,
    store::ObjectStore,
};

use crate::{
    acm::CertificateManager,
    cloudformation::CloudFormation,
    cloudfront::CloudFrontDistribution,
    cloudwatch::{Rule, RuleMetrics},
    ec2::Ec2,
    ecr::Ecr,
    eks::ManagedNodeGroup,
    kms::Kms,
    rds::{AuroraGlobalReplica, RdsLog, RdsReplica},
    rds_shelf::RdsShelf,
    rds_snapshots::Snapshots,
    route53::HostedZone,
    s3::Bucket,
    secrets_manager::{SecretNames, SecretsManager},
    service_quotas::ServiceQuotas,
    signed::{Protocol, Service, Signed},
    sns::Topics,
    step_functions::StepFunctions,
};

/// Where the control planes of Route 53 and CloudFront live.
/// <https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/global-services.html>
const GLOBAL_HOME: &str = "us-east-1";

/// A host that does not answer at all costs this much.
const CONNECT: Duration = Duration::from_secs(2);
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
/// All attempts of one call together.
const OPERATION: Duration = Duration::from_secs(10);
/// The state machine tries again where an operator can see it; the SDK only bridges one lost packet.
const ATTEMPTS: u32 = 2;

/// The same for a part of a backup, which may be many megabytes on a slow way.
const PART_ATTEMPTS: u32 = 5;
const PART_ATTEMPT: Duration = Duration::from_secs(60);
const PART_OPERATION: Duration = Duration::from_secs(180);

/// The AWS account as the plan lays it out.
///
/// Endpoints are those of the named regions, STS included, unless `AWS_ENDPOINT_URL` or `AWS_ENDPOINT_URL_<SERVICE>` say
/// otherwise, which is the SDK's own mechanism and the only one. Cheap to clone parts out of; made once per process.
#[derive(Clone, Debug)]
pub struct Aws {
    plan: Arc<Plan>,
    /// The tertiary region's; the others differ in nothing but the region.
    config: SdkConfig,
    s3: aws_sdk_s3::Client,
    secrets: Arc<SecretsManager>,
}

impl Aws {
    /// Reads credentials and endpoint overrides as the SDK does, and the regions from the plan. Asks nobody yet.
    pub async fn from_plan(plan: &Plan) -> Aws {
        Aws::new(plan, loader(plan).load().await)
    }

    /// For a function of Lambda: credentials and endpoint overrides come from the environment, where Lambda puts them, and
    /// from nowhere else. What looks for them in profiles, containers and instances, an STS client among it, is thus no part of
    /// any function.
    pub fn in_lambda(plan: &Plan) -> Aws {
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(sdk_region(&plan.regions.tertiary))
            .http_client(http_client())
            .retry_config(retries())
            .timeout_config(timeouts())
            .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()));
        Aws::new(plan, with_endpoints(config, Environment(std::env::vars().collect())))
    }

    /// The same with an environment other than the process's own, such as the one of an emulated AWS: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_<SERVICE>` are read from it and nothing else is.
    pub async fn from_environment(plan: &Plan, environment: impl IntoIterator<Item = (String, String)>) -> Aws {
        let environment = Environment(environment.into_iter().collect());
        let get = |name: &str| environment.0.get(name).cloned();
        let key = |name: &str| get(name).unwrap_or_default();
        let credentials = Credentials::new(
            key("AWS_ACCESS_KEY_ID"),
            key("AWS_SECRET_ACCESS_KEY"),
            get("AWS_SESSION_TOKEN"),
            None,
            "environment",
        );
        let config = loader(plan)
            .credentials_provider(credentials.clone())
            .load()
            .await
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials));
        Aws::new(plan, with_endpoints(config, environment))
    }

    fn new(plan: &Plan, config: SdkConfig) -> Aws {
        let s3 = s3(&config);
        let secrets = Arc::new(SecretsManager::new(aws_sdk_secretsmanager::Client::new(&config)));
        Aws { plan: Arc::new(plan.clone()), config, s3, secrets }
    }

    /// The configuration of a region: credentials, HTTP client, timeouts, endpoint overrides.
    pub fn config(&self, region: &Region) -> SdkConfig {
        self.config_in(sdk_region(region))
    }

    fn config_in(&self, region: aws_config::Region) -> SdkConfig {
        self.config.clone().into_builder().region(region).build()
    }

    /// Resolves credentials and opens the first connection, so that the first request does not pay for it. What comes
    /// back does not matter: whoever needs it will ask again and report.
    pub async fn warm(&self) {
        if let Err(error) = self.evidence().get(&recovery::fence::key(&self.plan.platform)).await {
            tracing::debug!(error = %recovery::fault::chain(&error), "warming up found no evidence bucket");
        }
    }

    /// Any bucket of the tertiary region.
    pub fn bucket(&self, name: &str) -> Bucket {
        Bucket::new(self.s3.clone(), name)
    }

    /// Where backups are written: large parts, which take their time, and are worth trying again.
    pub fn backup_parts(&self) -> Arc<dyn PartStore> {
        Arc::new(Bucket::new(patient_s3(&self.config), &self.plan.buckets.backups))
    }

    /// The archive of the log.
    pub fn wal_segments(&self) -> Arc<dyn WalArchive> {
        Arc::new(Bucket::new(patient_s3(&self.config), &self.plan.buckets.wal_archive))
    }

    /// The evidence bucket: fence and lease, positions, notices, approvals, reports.
    pub fn evidence(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.bucket(&self.plan.buckets.evidence))
    }

    /// The evidence bucket as one that is listed: receipts and proofs of backups.
    pub fn evidence_list(&self) -> Arc<dyn BackupStorage> {
        Arc::new(self.backups_bucket(&self.plan.buckets.evidence))
    }

    /// The bucket of backups, in the tertiary region.
    pub fn backups(&self) -> Arc<dyn BackupStorage> {
        Arc::new(self.backups_bucket(&self.plan.buckets.backups))
    }

    /// The bucket of the archived write-ahead log, in the tertiary region.
    pub fn wal_archive(&self) -> Arc<dyn BackupStorage> {
        Arc::new(self.backups_bucket(&self.plan.buckets.wal_archive))
    }

    /// What is read there is digested by whoever reads it: a difference is a finding about the object, and not, as the SDK
    /// would have it, an answer that failed.
    fn backups_bucket(&self, name: &str) -> Bucket {
        let settings = s3_settings(&self.config)
            .response_checksum_validation(aws_sdk_s3::config::ResponseChecksumValidation::WhenRequired);
        Bucket::new(aws_sdk_s3::Client::from_conf(settings.build()), name)
    }

    /// The bucket that the inverted health checks watch.
    pub fn switch(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.bucket(&self.plan.buckets.switch))
    }

    /// Customers' objects in the primary region: only the watcher writes there, and nothing waits for it.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.videos())
    }

    /// Their copy in the secondary region.
    pub fn objects_copy(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.videos_copy())
    }

    /// The bucket of customers' objects, to be looked at.
    pub fn videos(&self) -> Bucket {
        Bucket::new(s3(&self.config(&self.plan.regions.primary)), &self.plan.buckets.videos)
    }

    /// The bucket of their copies, to be looked at.
    pub fn videos_copy(&self) -> Bucket {
        Bucket::new(s3(&self.config(&self.plan.regions.secondary)), &self.plan.buckets.videos_replica)
    }

    /// What S3 measures of their replication, if the plan names the rule.
    pub fn videos_metrics(&self) -> Option<RuleMetrics> {
        let (buckets, regions) = (&self.plan.buckets, &self.plan.regions);
        let service = Service { name: "monitoring", id: "CloudWatch", protocol: Protocol::Query("2010-08-01") };
        let client = |region| Signed::new(self.config(region), service);
        let (source, copy) = (buckets.videos.clone(), buckets.videos_replica.clone());
        let rule = Rule { source, copy, id: buckets.videos_rule.clone()? };
        Some(RuleMetrics::new(client(&regions.primary), client(&regions.secondary), rule))
    }

    /// The container registry of the secondary region.
    pub fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(self.registry_of(&self.plan.regions.secondary))
    }

    /// The container registry of a region, with all that it holds.
    pub fn registry_of(&self, region: &Region) -> Ecr {
        Ecr::new(aws_sdk_ecr::Client::new(&self.config(region)), region.code())
    }

    /// The key service of a region.
    pub fn keys(&self, region: &Region) -> Kms {
        Kms::new(aws_sdk_kms::Client::new(&self.config(region)), region.code())
    }

    /// The certificate manager of a region.
    pub fn certificates(&self, region: &Region) -> CertificateManager {
        let service = Service { name: "acm", id: "ACM", protocol: Protocol::Json("CertificateManager") };
        CertificateManager::new(Signed::new(self.config(region), service))
    }

    /// The names of the secrets of a region.
    pub fn secret_names(&self, region: &Region) -> SecretNames {
        SecretNames::new(aws_sdk_secretsmanager::Client::new(&self.config(region)), region.code())
    }

    /// Secrets Manager of the tertiary region, with a memory of its own.
    pub fn secrets(&self) -> Arc<dyn Secrets> {
        Arc::clone(&self.secrets) as Arc<dyn Secrets>
    }

    /// A managed node group.
    pub fn node_group(&self, region: &Region, cluster: &str, name: &str) -> ManagedNodeGroup {
        ManagedNodeGroup::new(aws_sdk_eks::Client::new(&self.config(region)), cluster, name)
    }

    /// The plan's node group in the secondary region.
    pub fn secondary_node_group(&self) -> ManagedNodeGroup {
        let kubernetes = &self.plan.kubernetes;
        self.node_group(&self.plan.regions.secondary, &kubernetes.secondary.name, &kubernetes.capacity.node_group)
    }

    /// A hosted zone. Its control plane lives in us-east-1: never on a path that blocks.
    pub fn records(&self, zone: &str) -> Arc<dyn Records> {
        let config = self.config_in(aws_config::Region::from_static(GLOBAL_HOME));
        Arc::new(HostedZone::new(aws_sdk_route53::Client::new(&config), zone))
    }

    /// A CDN distribution. Its control plane lives in us-east-1: never on a path that blocks.
    pub fn distribution(&self, id: &str) -> Arc<dyn Distribution> {
        let config = self.config_in(aws_config::Region::from_static(GLOBAL_HOME));
        Arc::new(CloudFrontDistribution::new(aws_sdk_cloudfront::Client::new(&config), id))
    }

    /// The plan's topics, one per priority, in the tertiary region.
    pub fn messenger(&self) -> Arc<dyn Messenger> {
        Arc::new(Topics::new(aws_sdk_sns::Client::new(&self.config), &self.plan.notification.levels))
    }

    /// The API that promotes the plan's standby, asked in the secondary region; `None` for a server that we run
    /// ourselves, which PostgreSQL's own adapter promotes.
    pub fn replica(&self) -> Option<Arc<dyn Replica>> {
        let postgresql = &self.plan.postgresql;
        let client = || aws_sdk_rds::Client::new(&self.config(&self.plan.regions.secondary));
        match postgresql.driver {
            Driver::SelfManaged => None,
            Driver::Rds => Some(Arc::new(RdsReplica::new(client(), &postgresql.standby.instance))),
            Driver::AuroraGlobal => Some(Arc::new(AuroraGlobalReplica::new(
                client(),
                // A plan without it is refused when it is read.
                postgresql.global_cluster.as_deref().unwrap_or_default(),
                &postgresql.standby.instance,
            ))),
        }
    }

    /// Snapshots of the server that the plan reads backups from, copied to the tertiary region; `None` for a server that we
    /// run ourselves.
    pub fn snapshots(&self) -> Option<Snapshots> {
        let [tertiary, source] = self.snapshot_shelves()?;
        let (plan, credentials) = (&self.plan, self.config.credentials_provider());
        let instance = &self.snapshotted().0.instance;
        let tertiary = (tertiary, &plan.regions.tertiary);
        Some(Snapshots::new(source, tertiary, credentials, instance, &plan.backups.kms_key))
    }

    /// Where snapshots of that server are: the tertiary region, and the region that they come from.
    pub fn snapshot_shelves(&self) -> Option<[RdsShelf; 2]> {
        let (server, region) = self.snapshotted();
        let shelf = |region: &Region| {
            RdsShelf::new(aws_sdk_rds::Client::new(&self.config(region)), region.code(), &server.instance)
        };
        let is_managed = self.plan.postgresql.driver != Driver::SelfManaged;
        is_managed.then(|| [shelf(&self.plan.regions.tertiary), shelf(region)])
    }

    fn snapshotted(&self) -> (&Server, &Region) {
        let (plan, regions) = (&self.plan, &self.plan.regions);
        match plan.backups.read_from {
            Taken::Primary => (&plan.postgresql.primary, &regions.primary),
            Taken::Standby => (&plan.postgresql.standby, &regions.secondary),
        }
    }

    /// What keeps the log of the plan's primary, asked in its own region; `None` for a server that we run ourselves, whose
    /// log is archived in a bucket.
    pub fn managed_log(&self) -> Option<Arc<dyn ManagedLog>> {
        let postgresql = &self.plan.postgresql;
        let client = || aws_sdk_rds::Client::new(&self.config(&self.plan.regions.primary));
        (postgresql.driver != Driver::SelfManaged)
            .then(|| Arc::new(RdsLog::new(client(), &postgresql.primary.instance)) as Arc<dyn ManagedLog>)
    }

    /// Step Functions of the tertiary region, where the machines are.
    pub fn step_functions(&self) -> StepFunctions {
        StepFunctions::new(aws_sdk_sfn::Client::new(&self.config))
    }

    /// CloudFormation of the tertiary region, where the suite is.
    pub fn cloudformation(&self) -> CloudFormation {
        let service = Service { name: "cloudformation", id: "CloudFormation", protocol: Protocol::Query("2010-05-15") };
        CloudFormation::new(Signed::new(self.config.clone(), service))
    }

    /// EC2 of a region.
    pub fn ec2(&self, region: &Region) -> Ec2 {
        let service = Service { name: "ec2", id: "EC2", protocol: Protocol::Query("2016-11-15") };
        Ec2::new(Signed::new(self.config(region), service))
    }

    /// Service Quotas of a region.
    pub fn service_quotas(&self, region: &Region) -> ServiceQuotas {
        let protocol = Protocol::Json("ServiceQuotasV20190624");
        let service = Service { name: "servicequotas", id: "Service Quotas", protocol };
        ServiceQuotas::new(Signed::new(self.config(region), service))
    }
}

fn loader(plan: &Plan) -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .region(sdk_region(&plan.regions.tertiary))
        .http_client(http_client())
        .retry_config(retries())
        .timeout_config(timeouts())
}

/// One for all services: each of its own would load the trust store and shake hands again.
fn http_client() -> SharedHttpClient {
    HttpClientBuilder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https()
}

fn retries() -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(ATTEMPTS)
        .with_initial_backoff(Duration::from_millis(200))
        .with_max_backoff(Duration::from_secs(1))
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(OPERATION)
        .build()
}

fn with_endpoints(mut config: SdkConfigBuilder, environment: Environment) -> SdkConfig {
    config.set_endpoint_url(environment.0.get("AWS_ENDPOINT_URL").cloned());
    config.service_config(environment).build()
}

/// Endpoint overrides by service, as the SDK looks them up in its own environment.
#[derive(Debug)]
struct Environment(HashMap<String, String>);

impl LoadServiceConfig for Environment {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key.service_id().to_uppercase().replace(' ', "_");
        self.0.get(&format!("{}_{service}", key.env())).cloned()
    }
}

fn sdk_region(region: &Region) -> aws_config::Region {
    aws_config::Region::new(region.code().to_owned())
}

fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    aws_sdk_s3::Client::from_conf(s3_settings(config).build())
}

fn s3_settings(config: &SdkConfig) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::config::Builder::from(config).force_path_style(is_s3_overridden(config))
}

/// A client for parts of backups. The SDK tries again what was lost or throttled; each part is idempotent.
fn patient_s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    let retry = RetryConfig::standard()
        .with_max_attempts(PART_ATTEMPTS)
        .with_initial_backoff(Duration::from_millis(200))
        .with_max_backoff(Duration::from_secs(10));
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(PART_ATTEMPT)
        .operation_timeout(PART_OPERATION)
        .build();
    let settings = aws_sdk_s3::config::Builder::from(config)
        .force_path_style(is_s3_overridden(config))
        .retry_config(retry)
        .timeout_config(timeouts);
    aws_sdk_s3::Client::from_conf(settings.build())
}

/// Emulators answer under one host name, so the bucket cannot be part of it.
fn is_s3_overridden(config: &SdkConfig) -> bool {
    endpoint_override(config, "S3").is_some() || config.endpoint_url().is_some()
}

/// The endpoint that is set for one service alone, by the service's id.
pub(crate) fn endpoint_override(config: &SdkConfig, service: &str) -> Option<String> {
    let key = ServiceConfigKey::builder().service_id(service).env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    config.service_config()?.load_config(key.ok()?)
}
