//! What stands in the emulated account before anything happens: the platform as `plans/sparc.toml` describes it.

use std::collections::BTreeMap;

use futures::future::{try_join, try_join_all};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ACCOUNT, Aws, PRIMARY, SECONDARY, TERTIARY};
use crate::edge::PUBLIC_NAME;
use crate::error::{Error, Result};
use crate::postgres::{Passwords, Role};
use crate::rds::cluster_arn;
use crate::stack::{Companion, Stack};
use crate::{workloads, xml};

/// Buckets and their regions; all versioned.
const BUCKETS: [(&str, &str); 6] = [
    ("sparc-recovery-evidence", TERTIARY),
    ("sparc-recovery-switch", TERTIARY),
    ("sparc-backups-prod", TERTIARY),
    ("sparc-wal-archive", TERTIARY),
    ("sparc-videos-prod", PRIMARY),
    ("sparc-videos-backup", SECONDARY),
];
const PRIORITIES: [&str; 3] = ["p0", "p1", "p2"];
const QUEUE: &str = "sparc-recovery-sent";
const REPLICATION: &str = "videos-to-the-secondary-region";
const SWITCH_KEY: &str = "switch/us-east-1-is-out";
const RECOVERY_SECRET: &str = "sparc/postgresql/recovery";
const APPLICATION_SECRET: &str = "sparc/postgresql/application";
const BACKUP_SECRET: &str = "sparc/postgresql/backup";
const NODE_GROUP: &str = "workers";
const NAMES_STACK: &str = "sparc-recovery-names";
const REPLICA_STACK: &str = "sparc-recovery-replica";
const XMLNS: &str = r#"xmlns="https://route53.amazonaws.com/doc/2013-04-01/""#;
pub(crate) const INSTANCE: &str = "sparc-prod";
pub(crate) const REPLICA: &str = "sparc-prod-replica-us-west-2";

/// The key of the databases in a region. Nothing is ever encrypted with it.
fn database_key(region: &str) -> String {
    format!("arn:aws:kms:{region}:{ACCOUNT}:key/0db0db0d-0000-4000-8000-000000000000")
}

/// What the seeding needs to know of the rest of the lab.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    /// Passwords for the secrets; without them the secrets hold made-up ones.
    pub passwords: Option<Passwords>,
    /// The suite, deployed between what it refers to and what refers to it: its buckets and topics are the platform's.
    pub stack: Option<Stack>,
}

/// Names and ids of what was seeded. Fixed names are the plan's; ids are the emulators'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeded {
    /// Evidence: records, reports, bundles.
    pub evidence_bucket: String,
    /// The bucket of the switch object.
    pub switch_bucket: String,
    /// The object whose presence says that the primary region is out; absent in steady state.
    pub switch_key: String,
    /// Backups.
    pub backups_bucket: String,
    /// Archived log.
    pub wal_bucket: String,
    /// Videos in the primary region.
    pub videos_bucket: String,
    /// Their replica in the secondary.
    pub videos_replica_bucket: String,
    /// Topics in the tertiary region, P0 to P2.
    pub topics: [String; 3],
    /// The queue that is subscribed to all topics.
    pub queue_url: String,
    /// Secret of the role that fences and promotes, in the tertiary region.
    pub recovery_secret: String,
    /// Secret of the role that services write with, in the tertiary region.
    pub application_secret: String,
    /// ARN of the key of backups, in the tertiary region.
    pub backups_key: String,
    /// The zone `sparc.com`, without `/hostedzone/`.
    pub hosted_zone: String,
    /// The inverted health check on the switch object; the primary's record hangs on it.
    pub switch_check: String,
    /// The health check of the secondary region's API; the secondary's record hangs on it, unless the suite is deployed.
    pub secondary_check: String,
    /// The distribution; its origin is `api`.
    pub distribution: String,
    /// EKS clusters, primary and secondary.
    pub clusters: [String; 2],
    /// The node group in both.
    pub node_group: String,
    /// RDS instances, primary and replica.
    pub instances: [String; 2],
    /// Outputs of the suite's stack; empty without one.
    pub outputs: BTreeMap<String, String>,
}

/// A message that was published to one of the topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The topic's ARN.
    pub topic: String,
    /// Subject, where there was one.
    pub subject: Option<String>,
    /// The text.
    pub message: String,
}

impl Aws {
    /// Makes the platform's account. Once for each lab.
    pub async fn seed(&self, seed: &Seed) -> Result<Seeded> {
        let control = async {
            self.secrets(seed.passwords.as_ref()).await?;
            let (hosted_zone, secondary_check) = self.zone().await?;
            let distribution = self.distribution().await?;
            let (switch_check, outputs) = match &seed.stack {
                Some(stack) => self.suite(stack, &hosted_zone, &distribution).await?,
                None => (self.failover_pair(&hosted_zone, &secondary_check).await?, BTreeMap::new()),
            };
            self.buckets().await?;
            self.replication().await?;
            self.images().await?;
            let backups_key = self.make_key().await?;
            let (topics, queue_url) = self.topics().await?;
            Ok::<_, Error>((
                topics,
                queue_url,
                backups_key,
                hosted_zone,
                switch_check,
                secondary_check,
                distribution,
                outputs,
            ))
        };
        let moto = try_join(self.instances(), self.clusters());
        let ((topics, queue_url, backups_key, hosted_zone, switch_check, secondary_check, distribution, outputs), _) =
            try_join(control, moto).await?;
        Ok(Seeded {
            evidence_bucket: BUCKETS[0].0.into(),
            switch_bucket: BUCKETS[1].0.into(),
            switch_key: SWITCH_KEY.into(),
            backups_bucket: BUCKETS[2].0.into(),
            wal_bucket: BUCKETS[3].0.into(),
            videos_bucket: BUCKETS[4].0.into(),
            videos_replica_bucket: BUCKETS[5].0.into(),
            topics,
            queue_url,
            recovery_secret: RECOVERY_SECRET.into(),
            application_secret: APPLICATION_SECRET.into(),
            backups_key,
            hosted_zone,
            switch_check,
            secondary_check,
            distribution,
            clusters: [format!("sparc-prod-{PRIMARY}"), format!("sparc-prod-{SECONDARY}")],
            node_group: NODE_GROUP.into(),
            instances: [INSTANCE.into(), REPLICA.into()],
            outputs,
        })
    }

    /// The suite, with the ids that this account gave to zone and distribution, and the lab's own plan; and its companions in
    /// the other regions. Gives the switch's health check and the suite's outputs.
    async fn suite(&self, stack: &Stack, zone: &str, distribution: &str) -> Result<(String, BTreeMap<String, String>)> {
        let mut stack = stack.clone();
        stack.parameters.insert("HostedZone".to_owned(), zone.to_owned());
        stack.parameters.insert("Distribution".to_owned(), distribution.to_owned());
        // From where the lab's health checkers ask for the switch object, which nobody else may read.
        stack.parameters.insert("HealthCheckerRanges".to_owned(), "127.0.0.1/32".to_owned());
        // It is written later, before any function reads it.
        let plan = self.folder().path().join(crate::platform::PLAN);
        stack.parameters.insert("PlanFile".to_owned(), plan.display().to_string());
        let folder = self.folder().make("aws/stack", 0o700)?;
        let outputs = self.deploy(&stack, &folder).await?;
        let output = |name: &str| outputs.get(name).cloned().unwrap_or_default();
        let parameters = |named: &[(&str, String)]| -> BTreeMap<String, String> {
            named.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
        };
        let names = parameters(&[
            ("HostedZone", zone.to_owned()),
            ("PublicName", PUBLIC_NAME.to_owned()),
            ("PrimaryTarget", format!("origin.{PRIMARY}.sparc.com")),
            ("SecondaryTarget", format!("origin.{SECONDARY}.sparc.com")),
            ("SwitchHost", output("SwitchHost")),
            ("SwitchKey", output("SwitchKey")),
        ]);
        let replica = parameters(&[
            ("PrimaryRegion", PRIMARY.to_owned()),
            ("StandbyInstance", REPLICA.to_owned()),
            ("Email", "sre@sparc.com".to_owned()),
        ]);
        let companion = async |file: &str, name: &str, region: &str, parameters: &BTreeMap<String, String>| {
            let template = stack.repository.join(file);
            let companion = Companion { template: &template, name, region, parameters };
            self.deploy_companion(&companion, &folder).await
        };
        let made = companion("template-names.yaml", NAMES_STACK, PRIMARY, &names).await?;
        companion("template-replica.yaml", REPLICA_STACK, SECONDARY, &replica).await?;
        Ok((made.get("SwitchCheckId").cloned().unwrap_or_default(), outputs))
    }

    /// Makes a bucket; one that is there, and ours, is as good.
    pub(crate) async fn make_bucket(&self, bucket: &str, region: &str) -> Result<()> {
        let place = if region == PRIMARY {
            String::new()
        } else {
            format!(
                "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )
        };
        // Backups and the log are kept under Object Lock, which a bucket has from its beginning.
        let lock = [("x-amz-bucket-object-lock-enabled", "true")];
        let headers = if [BUCKETS[2].0, BUCKETS[3].0].contains(&bucket) { &lock[..] } else { &[] };
        let made = self.call("s3", region, Method::PUT, &format!("/{bucket}"), headers, place).await?;
        if made.status == StatusCode::CONFLICT && made.body.contains("BucketAlreadyOwnedByYou") {
            return Ok(());
        }
        made.or_refused("s3", "CreateBucket").map(drop)
    }

    async fn buckets(&self) -> Result<()> {
        try_join_all(BUCKETS.iter().map(async |(bucket, region)| {
            self.make_bucket(bucket, region).await?;
            let versioned = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
            let set = self.call("s3", region, Method::PUT, &format!("/{bucket}?versioning"), &[], versioned).await?;
            set.or_refused("s3", "PutBucketVersioning").map(drop)
        }))
        .await
        .map(drop)
    }

    /// Customers' videos are copied to the secondary region. The emulator copies before it answers; AWS takes its time.
    async fn replication(&self) -> Result<()> {
        let rule = format!(
            "<ReplicationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Role>arn:aws:iam::{ACCOUNT}:role/sparc-replication</Role><Rule><ID>{REPLICATION}</ID><Priority>1</Priority>\
             <Status>Enabled</Status><Filter><Prefix></Prefix></Filter>\
             <DeleteMarkerReplication><Status>Disabled</Status></DeleteMarkerReplication>\
             <Destination><Bucket>arn:aws:s3:::{}</Bucket></Destination></Rule></ReplicationConfiguration>",
            BUCKETS[5].0
        );
        let path = format!("/{}?replication", BUCKETS[4].0);
        let set = self.call("s3", PRIMARY, Method::PUT, &path, &[], rule).await?;
        set.or_refused("s3", "PutBucketReplication").map(drop)
    }

    /// Ends the replication of objects: what is written from now on does not arrive in the copy.
    pub async fn stop_replication(&self) -> Result<()> {
        let path = format!("/{}?replication", BUCKETS[4].0);
        let ended = self.call("s3", PRIMARY, Method::DELETE, &path, &[], "").await?;
        ended.or_refused("s3", "DeleteBucketReplication").map(drop)
    }

    /// The images of the bundle in the registries of both regions, under the digests that the bundle names.
    async fn images(&self) -> Result<()> {
        for region in [PRIMARY, SECONDARY] {
            try_join_all(workloads::images().into_iter().map(async |(repository, digest)| {
                let call = |operation: &str| format!("AmazonEC2ContainerRegistry_V20150921.{operation}");
                let name = json!({ "repositoryName": repository });
                self.json("ecr", region, &call("CreateRepository"), name).await?;
                // Nothing is ever pulled from it: what counts is that the digest is known.
                let image = json!({ "repositoryName": repository, "imageDigest": digest, "imageManifest": "{}" });
                self.json("ecr", region, &call("PutImage"), image).await
            }))
            .await?;
        }
        Ok(())
    }

    /// Makes a key in the tertiary region; returns its ARN.
    pub async fn make_key(&self) -> Result<String> {
        let made = self.json("kms", TERTIARY, "TrentService.CreateKey", json!({})).await?;
        let arn = made["KeyMetadata"]["Arn"].as_str();
        arn.map(str::to_owned).ok_or_else(|| Error::State(format!("KMS has made a key without an ARN: {made}")))
    }

    /// Takes an image out of the secondary region's registry, as if it had never been replicated.
    pub async fn forget_image(&self, repository: &str) -> Result<()> {
        let target = "AmazonEC2ContainerRegistry_V20150921.DeleteRepository";
        let repository = json!({ "repositoryName": repository, "force": true });
        self.json("ecr", SECONDARY, target, repository).await.map(drop)
    }

    async fn topics(&self) -> Result<([String; 3], String)> {
        let queue_arn = format!("arn:aws:sqs:{TERTIARY}:{ACCOUNT}:{QUEUE}");
        let statement = json!({ "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" },
                                "Action": "sqs:SendMessage", "Resource": queue_arn });
        let policy = json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
        let queue = json!({ "QueueName": QUEUE, "Attributes": { "Policy": policy } });
        let queue = self.json("sqs", TERTIARY, "AmazonSQS.CreateQueue", queue).await?;
        let queue_url = queue["QueueUrl"].as_str().unwrap_or_default().to_owned();
        let mut topics = Vec::new();
        for priority in PRIORITIES {
            let name = format!("sparc-recovery-{priority}");
            let made = self.query("sns", TERTIARY, "CreateTopic", &[("Name", &name)]).await?;
            let arn = xml::text(&made, "TopicArn").unwrap_or_default();
            let subscription = [("TopicArn", arn.as_str()), ("Protocol", "sqs"), ("Endpoint", &queue_arn)];
            self.query("sns", TERTIARY, "Subscribe", &subscription).await?;
            topics.push(arn);
        }
        let topics = topics.try_into().map_err(|_| Error::State("three priorities make three topics".into()))?;
        Ok((topics, queue_url))
    }

    /// Messages published since the last call, oldest first; each is returned once.
    pub async fn sent(&self, seeded: &Seeded) -> Result<Vec<Sent>> {
        let mut sent = Vec::new();
        loop {
            let ask = json!({ "QueueUrl": seeded.queue_url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0 });
            let got = self.json("sqs", TERTIARY, "AmazonSQS.ReceiveMessage", ask).await?;
            let messages = got["Messages"].as_array().cloned().unwrap_or_default();
            if messages.is_empty() {
                return Ok(sent);
            }
            for message in messages {
                let body = message["Body"].as_str().unwrap_or_default();
                let envelope: Value = serde_json::from_str(body).unwrap_or_default();
                let text = |name: &str| envelope[name].as_str().map(str::to_owned);
                sent.push(Sent {
                    topic: text("TopicArn").unwrap_or_default(),
                    subject: text("Subject"),
                    message: text("Message").unwrap_or_else(|| body.to_owned()),
                });
                let done = json!({ "QueueUrl": seeded.queue_url, "ReceiptHandle": message["ReceiptHandle"] });
                self.json("sqs", TERTIARY, "AmazonSQS.DeleteMessage", done).await?;
            }
        }
    }

    async fn secrets(&self, passwords: Option<&Passwords>) -> Result<()> {
        let secrets =
            [(RECOVERY_SECRET, Role::Recovery), (APPLICATION_SECRET, Role::Application), (BACKUP_SECRET, Role::Backup)];
        for (name, role) in secrets {
            let password = passwords.map_or("made-up", |passwords| passwords.of(role));
            let value = json!({ "username": role.name(), "password": password }).to_string();
            // The API wants a token, which SDKs fill in: a retry with the same one makes no second version.
            let token = uuid::Uuid::new_v4().to_string();
            let secret = json!({ "Name": name, "SecretString": value, "ClientRequestToken": token });
            self.json("secretsmanager", TERTIARY, "secretsmanager.CreateSecret", secret).await?;
        }
        Ok(())
    }

    async fn route53(&self, path: &str, body: String) -> Result<String> {
        let headers = [("content-type", "text/xml")];
        let answer = self.call("route53", PRIMARY, Method::POST, path, &headers, body).await?;
        answer.or_refused("route53", path)
    }

    async fn health_check(&self, reference: &str, config: String) -> Result<String> {
        let made = self
            .route53(
                "/2013-04-01/healthcheck",
                format!(
                    "<CreateHealthCheckRequest {XMLNS}><CallerReference>{reference}</CallerReference>\
                     <HealthCheckConfig>{config}</HealthCheckConfig></CreateHealthCheckRequest>"
                ),
            )
            .await?;
        Ok(xml::text(&made, "Id").unwrap_or_default())
    }

    /// Makes records: each with its name, its place in a failover pair, the region that it leads to, its health check.
    async fn records(&self, zone: &str, records: &[(&str, Option<&str>, &str, Option<&str>)]) -> Result<()> {
        let change = |(name, failover, region, check): &(&str, Option<&str>, &str, Option<&str>)| {
            let failover = failover.map_or_else(String::new, |role| {
                let set = role.to_lowercase();
                format!("<SetIdentifier>{set}</SetIdentifier><Failover>{role}</Failover>")
            });
            let check = check.map_or_else(String::new, |check| format!("<HealthCheckId>{check}</HealthCheckId>"));
            format!(
                "<Change><Action>CREATE</Action><ResourceRecordSet><Name>{name}</Name><Type>CNAME</Type>{failover}\
                 <TTL>60</TTL><ResourceRecords><ResourceRecord><Value>origin.{region}.sparc.com</Value></ResourceRecord>\
                 </ResourceRecords>{check}</ResourceRecordSet></Change>"
            )
        };
        let changes: String = records.iter().map(change).collect();
        let batch = format!(
            "<ChangeResourceRecordSetsRequest {XMLNS}><ChangeBatch><Changes>{changes}</Changes></ChangeBatch>\
             </ChangeResourceRecordSetsRequest>"
        );
        self.route53(&format!("/2013-04-01/hostedzone/{zone}/rrset"), batch).await.map(drop)
    }

    /// The zone with the plain record that a run may edit later, and the health check of the secondary region.
    async fn zone(&self) -> Result<(String, String)> {
        let zone = self
            .route53(
                "/2013-04-01/hostedzone",
                format!(
                    "<CreateHostedZoneRequest {XMLNS}><Name>sparc.com</Name><CallerReference>lab-zone</CallerReference>\
                     </CreateHostedZoneRequest>"
                ),
            )
            .await?;
        let zone = xml::text(&zone, "Id").unwrap_or_default().trim_start_matches("/hostedzone/").to_owned();
        let secondary = format!(
            "<Port>443</Port><Type>HTTPS</Type><ResourcePath>/healthz</ResourcePath>\
             <FullyQualifiedDomainName>core-apis.{SECONDARY}.sparc.com</FullyQualifiedDomainName>\
             <RequestInterval>10</RequestInterval><FailureThreshold>1</FailureThreshold>"
        );
        let secondary = self.health_check("lab-secondary", secondary).await?;
        self.records(&zone, &[("origin.sparc.com", None, PRIMARY, None)]).await?;
        Ok((zone, secondary))
    }

    /// What `template-names.yaml` makes where it is deployed: the pair of records that fails over, and the check of the switch.
    async fn failover_pair(&self, zone: &str, secondary_check: &str) -> Result<String> {
        // "Standby takes over primary": healthy while the object in the tertiary region is absent.
        // https://aws.amazon.com/blogs/networking-and-content-delivery/creating-disaster-recovery-mechanisms-using-amazon-route-53/
        let switch = format!(
            "<Port>443</Port><Type>HTTPS</Type><ResourcePath>/{SWITCH_KEY}</ResourcePath>\
             <FullyQualifiedDomainName>{}.s3.{TERTIARY}.amazonaws.com</FullyQualifiedDomainName>\
             <RequestInterval>10</RequestInterval><FailureThreshold>1</FailureThreshold><Inverted>true</Inverted>",
            BUCKETS[1].0
        );
        let switch = self.health_check("lab-switch", switch).await?;
        let pair = [
            (PUBLIC_NAME, Some("PRIMARY"), PRIMARY, Some(switch.as_str())),
            (PUBLIC_NAME, Some("SECONDARY"), SECONDARY, Some(secondary_check)),
        ];
        self.records(zone, &pair).await?;
        Ok(switch)
    }

    async fn distribution(&self) -> Result<String> {
        let config = format!(
            r#"<DistributionConfig xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/">
            <CallerReference>lab-distribution</CallerReference><Comment>SPARC</Comment><Enabled>true</Enabled>
            <Aliases><Quantity>1</Quantity><Items><CNAME>cdn.sparc.com</CNAME></Items></Aliases>
            <Origins><Quantity>1</Quantity><Items><Origin><Id>api</Id><DomainName>origin.{PRIMARY}.sparc.com</DomainName>
            <CustomOriginConfig><HTTPPort>80</HTTPPort><HTTPSPort>443</HTTPSPort>
            <OriginProtocolPolicy>https-only</OriginProtocolPolicy></CustomOriginConfig></Origin></Items></Origins>
            <DefaultCacheBehavior><TargetOriginId>api</TargetOriginId>
            <ViewerProtocolPolicy>https-only</ViewerProtocolPolicy></DefaultCacheBehavior></DistributionConfig>"#
        );
        let headers = [("content-type", "text/xml")];
        let answer =
            self.call("cloudfront", PRIMARY, Method::POST, "/2020-05-31/distribution", &headers, config).await?;
        let body = answer.or_refused("cloudfront", "CreateDistribution")?;
        xml::text(&body, "Id").ok_or_else(|| Error::State("a distribution without id".into()))
    }

    async fn instances(&self) -> Result<()> {
        let primary = [
            ("DBInstanceIdentifier", INSTANCE),
            ("Engine", "postgres"),
            ("EngineVersion", "15.10"),
            ("DBInstanceClass", "db.m6g.large"),
            ("AllocatedStorage", "100"),
            ("MasterUsername", "sparc_recovery"),
            // Nobody logs in with it: the servers behind are the lab's own.
            ("MasterUserPassword", "unused-by-the-lab"),
            ("BackupRetentionPeriod", "7"),
            ("StorageEncrypted", "true"),
            ("KmsKeyId", &database_key(PRIMARY)),
        ];
        self.query("rds", PRIMARY, "CreateDBInstance", &primary).await?;
        let source = format!("arn:aws:rds:{PRIMARY}:{ACCOUNT}:db:{INSTANCE}");
        let replica = [
            ("DBInstanceIdentifier", REPLICA),
            ("SourceDBInstanceIdentifier", source.as_str()),
            ("DBInstanceClass", "db.m6g.large"),
            ("KmsKeyId", &database_key(SECONDARY)),
        ];
        self.query("rds", SECONDARY, "CreateDBInstanceReadReplica", &replica).await?;
        for region in [PRIMARY, SECONDARY] {
            let arn = cluster_arn(region);
            let cluster = [
                ("DBClusterIdentifier", arn.rsplit(':').next().unwrap_or_default()),
                ("Engine", "aurora-postgresql"),
                ("EngineVersion", "15.10"),
                ("MasterUsername", "sparc_recovery"),
                ("MasterUserPassword", "unused-by-the-lab"),
                ("StorageEncrypted", "true"),
                ("KmsKeyId", &database_key(region)),
            ];
            self.query("rds", region, "CreateDBCluster", &cluster).await?;
        }
        Ok(())
    }

    /// Two subnets of a region with room for two thousand addresses each.
    async fn subnets(&self, region: &str) -> Result<Vec<String>> {
        let made = self.query("ec2", region, "CreateVpc", &[("CidrBlock", "10.20.0.0/16")]).await?;
        let network = xml::text(&made, "vpcId").unwrap_or_default();
        let mut subnets = Vec::new();
        for (zone, range) in [("a", "10.20.0.0/21"), ("b", "10.20.8.0/21")] {
            let zone = format!("{region}{zone}");
            let subnet = [("VpcId", network.as_str()), ("CidrBlock", range), ("AvailabilityZone", &zone)];
            let made = self.query("ec2", region, "CreateSubnet", &subnet).await?;
            subnets.push(xml::text(&made, "subnetId").unwrap_or_default());
        }
        Ok(subnets)
    }

    async fn clusters(&self) -> Result<()> {
        for (region, size) in [(PRIMARY, 20), (SECONDARY, 2)] {
            let name = format!("sparc-prod-{region}");
            let subnets = self.subnets(region).await?;
            let post = async |path: String, body: Value| -> Result<()> {
                let headers = [("content-type", "application/json")];
                let answer = self.call("eks", region, Method::POST, &path, &headers, body.to_string()).await?;
                answer.or_refused("eks", &path).map(drop)
            };
            post(
                "/clusters".into(),
                json!({ "name": name, "roleArn": format!("arn:aws:iam::{ACCOUNT}:role/sparc-eks"), "version": "1.33",
                        "resourcesVpcConfig": { "subnetIds": subnets } }),
            )
            .await?;
            post(
                format!("/clusters/{name}/node-groups"),
                json!({ "nodegroupName": NODE_GROUP, "subnets": subnets,
                        "nodeRole": format!("arn:aws:iam::{ACCOUNT}:role/sparc-nodes"),
                        "instanceTypes": ["m6i.2xlarge", "m6a.2xlarge", "m5.2xlarge"],
                        "scalingConfig": { "minSize": 2, "maxSize": 30, "desiredSize": size } }),
            )
            .await?;
        }
        Ok(())
    }
}
