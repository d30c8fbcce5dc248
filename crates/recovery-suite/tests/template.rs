//! `template.yaml` against what it deploys: functions, machines, and the table of calls, both ways.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use lab::aws::Aws;
use recovery_aws::calls::{CALLS, Call, Home};
use recovery_suite::FUNCTIONS;
use serde_json::{Map, Value, json};
use serde_yaml_ng::Value as Yaml;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A template as JSON, its short intrinsics written out: `!Sub x` as `{"Fn::Sub": "x"}`.
fn template(name: &str) -> Value {
    fn plain(yaml: Yaml) -> Value {
        match yaml {
            Yaml::Tagged(tagged) => {
                let tag = tagged.tag.to_string();
                let name = tag.trim_start_matches('!');
                let name = if matches!(name, "Ref" | "Condition") { name.to_owned() } else { format!("Fn::{name}") };
                json!({ name: plain(tagged.value) })
            }
            Yaml::Sequence(items) => items.into_iter().map(plain).collect(),
            Yaml::Mapping(entries) => {
                let key = |key: Yaml| key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
                Value::Object(entries.into_iter().map(|(name, value)| (key(name), plain(value))).collect())
            }
            scalar => serde_json::to_value(scalar).unwrap(),
        }
    }
    plain(serde_yaml_ng::from_slice(&fs::read(root().join(name)).unwrap()).unwrap())
}

fn resources(template: &Value) -> &Map<String, Value> {
    template["Resources"].as_object().unwrap()
}

fn of_type<'a>(template: &'a Value, kind: &str) -> BTreeMap<&'a str, &'a Value> {
    let all = resources(template).iter().filter(|(_, resource)| resource["Type"] == kind);
    all.map(|(name, resource)| (name.as_str(), &resource["Properties"])).collect()
}

fn pascal(folder: &str) -> String {
    let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
    folder.split('-').map(capital).collect()
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |many| many.iter().collect())
}

fn statements(policy: &Value) -> Vec<&Value> {
    policy["PolicyDocument"]["Statement"].as_array().unwrap().iter().collect()
}

fn actions(statement: &Value) -> BTreeSet<String> {
    list(&statement["Action"]).into_iter().map(|action| action.as_str().unwrap().to_owned()).collect()
}

/// The machines of `statemachines/`: file name without ending, and their tasks as function, action and deadline.
fn machines() -> BTreeMap<String, Vec<(String, Option<u64>)>> {
    fn tasks(states: &Value, found: &mut Vec<(String, Option<u64>)>) {
        for state in states.as_object().unwrap().values() {
            for branch in state["Branches"].as_array().into_iter().flatten() {
                tasks(&branch["States"], found);
            }
            if let Some(inner) = state["ItemProcessor"].get("States") {
                tasks(inner, found);
            }
            let Some(arn) = state["Arguments"]["FunctionName"].as_str() else { continue };
            let name = arn.strip_prefix("${").unwrap().strip_suffix("FunctionArn}").unwrap();
            // A callback waits for a person, not for the function.
            let waits = state["Resource"].as_str().unwrap().ends_with(".waitForTaskToken");
            found.push((name.to_owned(), state["TimeoutSeconds"].as_u64().filter(|_| !waits)));
        }
    }
    let mut machines = BTreeMap::new();
    for entry in fs::read_dir(root().join("statemachines")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().trim_end_matches(".asl.json").to_owned();
        let machine: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        tasks(&machine["States"], &mut found);
        machines.insert(name, found);
    }
    machines
}

#[test]
fn every_function_is_deployed_under_its_own_name_log_and_role() {
    let template = template("template.yaml");
    let deployed = of_type(&template, "AWS::Serverless::Function");
    let expected: BTreeSet<String> = FUNCTIONS.iter().map(|folder| format!("{}Function", pascal(folder))).collect();
    assert_eq!(deployed.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), expected);
    for folder in FUNCTIONS {
        let name = pascal(folder);
        let function = deployed[format!("{name}Function").as_str()];
        let metadata = &template["Resources"][format!("{name}Function")]["Metadata"];
        assert_eq!(metadata["BuildMethod"], "rust-cargolambda", "{folder}");
        assert_eq!(metadata["BuildProperties"]["Binary"], folder);
        assert_eq!(function["FunctionName"], json!({ "Fn::Sub": format!("${{Platform}}-{folder}") }));
        assert_eq!(function["Role"], json!({ "Fn::GetAtt": format!("{name}Role.Arn") }));
        assert_eq!(function["LoggingConfig"]["LogGroup"], json!({ "Ref": format!("{name}LogGroup") }));
        let log = of_type(&template, "AWS::Logs::LogGroup")[format!("{name}LogGroup").as_str()];
        assert_eq!(log["LogGroupName"], json!({ "Fn::Sub": format!("/aws/lambda/${{Platform}}-{folder}") }));
        assert_eq!(log["RetentionInDays"], json!({ "Ref": "LogRetentionDays" }), "{folder}");
        let own = &of_type(&template, "AWS::IAM::Role")[format!("{name}Role").as_str()]["Policies"][0];
        assert_eq!(own["PolicyName"], "runtime", "{folder}");
        let writes = statements(own)[0];
        assert_eq!(actions(writes), BTreeSet::from(["logs:CreateLogStream".into(), "logs:PutLogEvents".into()]));
        assert_eq!(writes["Resource"], json!({ "Fn::GetAtt": format!("{name}LogGroup.Arn") }), "{folder}");
    }
}

/// What the README tells people to try.
#[test]
fn the_readme_invokes_every_function_with_an_event_that_is_there() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut invoked = BTreeSet::new();
    for line in readme.lines().filter_map(|line| line.strip_prefix("sam local invoke ")) {
        let (function, event) = line.split_once(" --event ").unwrap();
        let function = function.trim().strip_suffix("Function").unwrap();
        assert!(root().join(event).is_file(), "{event}");
        let folder = FUNCTIONS.iter().find(|folder| pascal(folder) == function);
        let folder = folder.unwrap_or_else(|| panic!("there is no function {function}"));
        assert!(event.starts_with(&format!("events/{folder}/")), "{function} with {event}");
        invoked.insert(*folder);
    }
    assert_eq!(invoked, FUNCTIONS.into());
}

/// A function that is still at work when its state has given it up would be invoked a second time beside itself.
#[test]
fn no_function_outlives_the_deadline_of_a_state_that_calls_it() {
    let template = template("template.yaml");
    let deployed = of_type(&template, "AWS::Serverless::Function");
    for (machine, tasks) in machines() {
        for (function, deadline) in tasks {
            let timeout = deployed[format!("{function}Function").as_str()]["Timeout"].as_u64().unwrap();
            let deadline = deadline.unwrap_or(u64::MAX);
            assert!(timeout <= deadline, "{machine}: {function} may take {timeout} s, its state waits {deadline} s");
        }
    }
}

#[test]
fn every_machine_is_deployed_with_exactly_the_functions_that_it_calls() {
    let template = template("template.yaml");
    let deployed = of_type(&template, "AWS::Serverless::StateMachine");
    let machines = machines();
    let names: BTreeSet<String> = machines.keys().map(|name| format!("{}Machine", pascal(name))).collect();
    assert_eq!(deployed.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), names);
    for (name, tasks) in machines {
        let machine = deployed[format!("{}Machine", pascal(&name)).as_str()];
        assert_eq!(machine["DefinitionUri"], format!("statemachines/{name}.asl.json"));
        let called: BTreeSet<String> = tasks.into_iter().map(|(function, _)| function).collect();
        let arn = |function: &String| json!({ "Fn::GetAtt": format!("{function}Function.Arn") });
        let expected: Map<String, Value> =
            called.iter().map(|function| (format!("{function}FunctionArn"), arn(function))).collect();
        assert_eq!(machine["DefinitionSubstitutions"], Value::Object(expected), "{name}");

        let role = of_type(&template, "AWS::IAM::Role")[format!("{}Role", pascal(&name)).as_str()];
        assert_eq!(machine["Role"], json!({ "Fn::GetAtt": format!("{}Role.Arn", pascal(&name)) }));
        let invoke = statements(&role["Policies"][0]);
        assert_eq!(invoke.len(), 1, "{name}");
        // Items of a distributed Map are executions of the same machine, and of no other.
        let children = role["Policies"].as_array().unwrap().get(1).map(statements).unwrap_or_default();
        let may: BTreeSet<String> = children.iter().flat_map(|statement| actions(statement)).collect();
        let text = fs::read_to_string(root().join(format!("statemachines/{name}.asl.json"))).unwrap();
        let distributed = text.contains("\"DISTRIBUTED\"");
        let needed = ["states:DescribeExecution", "states:StartExecution", "states:StopExecution"].map(str::to_owned);
        assert_eq!(may, if distributed { needed.into() } else { BTreeSet::new() }, "{name}");
        for statement in children {
            assert!(
                statement["Resource"].to_string().contains(&format!("${{Platform}}-{name}")),
                "{name}: {statement}"
            );
        }
        assert_eq!(actions(invoke[0]), BTreeSet::from(["lambda:InvokeFunction".to_owned()]));
        let allowed: BTreeSet<String> = list(&invoke[0]["Resource"]).iter().map(|arn| arn.to_string()).collect();
        assert_eq!(allowed, called.iter().map(|function| arn(function).to_string()).collect(), "{name}");
        assert_eq!(machine["Logging"]["Level"], "ALL", "{name}");
        assert_eq!(machine["Tracing"]["Enabled"], true, "{name}");
    }
}

/// What IAM asks of a caller for one call of the table.
fn permissions(call: &Call) -> Vec<String> {
    let own = |service: &str| format!("{service}:{}", call.operation);
    let also = |action: String, more: &[&str]| {
        more.iter().map(|one| (*one).to_owned()).chain([action]).collect::<Vec<String>>()
    };
    match call.service {
        // Without ListBucket an object that is not there is answered with 403, and "no fence" becomes "refused".
        // Backups are read in the version that their manifest names.
        "S3" if matches!(call.operation, "GetObject" | "HeadObject") => {
            let version = (call.function == "checksum-verify").then_some("s3:GetObjectVersion");
            // What S3 says of a lock it says only to who may ask for it.
            // https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html
            let lock = version.filter(|_| call.operation == "HeadObject").map(|_| "s3:GetObjectRetention");
            let more = ["s3:ListBucket", "kms:Decrypt"].into_iter().chain(version).chain(lock).collect::<Vec<_>>();
            also("s3:GetObject".to_owned(), &more)
        }
        "S3" if call.operation == "PutObject" => also(own("s3"), &["kms:GenerateDataKey"]),
        "S3" if call.operation == "ListObjectsV2" => vec!["s3:ListBucket".to_owned()],
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html#mpuAndPermissions
        "S3" if call.operation == "CreateMultipartUpload" => {
            // What is written is tagged and locked by the same call, under a key.
            let also_asked = ["s3:PutObjectTagging", "s3:PutObjectRetention", "kms:GenerateDataKey", "kms:Decrypt"];
            also("s3:PutObject".to_owned(), &also_asked)
        }
        "S3" if matches!(call.operation, "UploadPart" | "CompleteMultipartUpload") => vec!["s3:PutObject".to_owned()],
        "S3" if call.operation == "ListParts" => vec!["s3:ListMultipartUploadParts".to_owned()],
        "S3" if call.operation == "ListMultipartUploads" => vec!["s3:ListBucketMultipartUploads".to_owned()],
        "S3" => vec![own("s3")],
        "SecretsManager" => also(own("secretsmanager"), &["kms:Decrypt"]),
        "SNS" => also(own("sns"), &["kms:Decrypt", "kms:GenerateDataKey"]),
        "ECR" => vec![own("ecr")],
        "KMS" => vec![own("kms")],
        "EKS" => vec![own("eks")],
        "ACM" => vec![own("acm")],
        "CloudWatch" => vec![own("cloudwatch")],
        // Tags that are set as something is made are set by another action.
        // https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonrds.html
        "RDS" if call.operation.starts_with("Create") => also(own("rds"), &["rds:AddTagsToResource"]),
        // A copy is encrypted under a key of where it goes.
        "RDS" if call.operation.starts_with("Copy") => {
            also(own("rds"), &["rds:AddTagsToResource", "kms:CreateGrant", "kms:DescribeKey"])
        }
        "RDS" => vec![own("rds")],
        "Route53" => vec![own("route53")],
        "CloudFront" => vec![own("cloudfront")],
        // Whoever has credentials may ask who they are.
        "STS" => Vec::new(),
        other => panic!("say in this test what IAM asks for {other}"),
    }
}

#[test]
fn every_role_allows_the_calls_of_its_function_and_no_others() {
    let template = template("template.yaml");
    let roles = of_type(&template, "AWS::IAM::Role");
    for function in FUNCTIONS {
        let needed: BTreeSet<String> =
            CALLS.iter().filter(|call| call.function == function).flat_map(permissions).collect();
        let role = roles[format!("{}Role", pascal(function)).as_str()];
        let calls = role["Policies"].as_array().unwrap().iter().find(|policy| policy["PolicyName"] == "calls");
        let allowed: BTreeSet<String> = calls.map(statements).into_iter().flatten().flat_map(actions).collect();
        assert_eq!(needed, allowed, "{function}: left what the table of calls needs, right what its role allows");
    }
}

/// The pod of a Job may do less than the function whose work it does, in one cluster, and nothing in other regions.
#[test]
fn the_role_of_a_job_allows_a_part_of_what_its_function_may() {
    let template = template("template.yaml");
    let roles = of_type(&template, "AWS::IAM::Role");
    let of = |role: &str| -> BTreeSet<String> {
        let policies = roles[role]["Policies"].as_array().unwrap();
        let calls = policies.iter().find(|policy| policy["PolicyName"] == "calls").unwrap();
        statements(calls).into_iter().flat_map(actions).collect()
    };
    let (job, function) = (of("BackupJobRole"), of("BackupTriggerRole"));
    assert!(job.is_subset(&function) && job != function, "{job:?}");
    // What writing the artifacts of a database asks for, by the table of calls, is all there.
    let writes = ["S3", "SecretsManager"];
    let needed = CALLS.iter().filter(|call| {
        call.function == "backup-trigger"
            && call.home == Home::Tertiary
            && writes.contains(&call.service)
            && call.operation != "DescribeSecret"
            && call.action != Some("plan")
    });
    assert_eq!(job, needed.flat_map(permissions).collect());
    let text = roles["BackupJobRole"]["Policies"].to_string();
    assert!(!text.contains("SecondaryRegion") && !text.contains("RecoverySecret"), "{text}");
    let trust = &roles["BackupJobRole"]["AssumeRolePolicyDocument"]["Statement"][0];
    assert_eq!(trust["Principal"]["Service"], "pods.eks.amazonaws.com");
    assert!(trust["Condition"].to_string().contains("cluster/${SecondaryCluster}"), "{trust}");
}

/// A permission that reaches into another region is one that the table of calls has there.
#[test]
fn roles_reach_other_regions_only_where_the_table_of_calls_does() {
    let template = template("template.yaml");
    let roles = of_type(&template, "AWS::IAM::Role");
    for function in FUNCTIONS {
        let role = roles[format!("{}Role", pascal(function)).as_str()];
        let calls = role["Policies"].as_array().unwrap().iter().find(|policy| policy["PolicyName"] == "calls");
        for statement in calls.map(statements).into_iter().flatten() {
            for action in actions(statement) {
                let makes = |call: &&Call| call.function == function && permissions(call).contains(&action);
                let homes: Vec<Home> = CALLS.iter().filter(makes).map(|call| call.home).collect();
                // What names no resource may be bound to regions all the same.
                let resource = format!("{}{}", statement["Resource"], statement["Condition"]);
                let global = action.starts_with("route53:") || action.starts_with("cloudfront:");
                // An Aurora global cluster has no region in its ARN, its member has.
                let (primary, secondary) = (resource.contains("PrimaryRegion"), resource.contains("SecondaryRegion"));
                // Only backups ask the region that may be lost, while it is there: what is in it, and to which moment RDS can
                // restore there.
                let of_backups = matches!(function, "backup-trigger" | "checksum-verify");
                assert!(!primary || of_backups, "{function}: {action} reaches into the lost region");
                assert!(!primary || homes.contains(&Home::Primary), "{function}: {action} on {resource}");
                assert!(!secondary || homes.contains(&Home::Secondary), "{function}: {action} on {resource}");
                // Names of buckets have no region.
                let elsewhere = !homes.contains(&Home::Tertiary) && !global && !action.starts_with("s3:");
                assert!(
                    !elsewhere || primary || secondary,
                    "{function}: {action} on {resource}, which is in no other region"
                );
                assert_eq!(global, homes.contains(&Home::UsEast1), "{function}: {action} on {resource}");
            }
        }
    }
}

#[test]
fn nothing_is_allowed_on_everything_where_a_resource_can_be_named() {
    // What names no resources, says AWS: X-Ray, the deliveries of logs, and metrics.
    let unnamed = |action: &str| ["xray:", "logs:", "cloudwatch:"].iter().any(|service| action.starts_with(service));
    let template = template("template.yaml");
    let mut policies = Vec::new();
    for role in of_type(&template, "AWS::IAM::Role").into_values() {
        policies.extend(role["Policies"].as_array().into_iter().flatten());
    }
    policies.extend(of_type(&template, "AWS::IAM::ManagedPolicy").into_values());
    assert!(policies.len() > FUNCTIONS.len());
    for statement in policies.into_iter().flat_map(statements) {
        for action in actions(statement) {
            assert!(!action.contains('*'), "{action}");
            let everything = list(&statement["Resource"]).contains(&&json!("*"));
            assert!(!everything || unnamed(&action), "{action} on everything");
        }
    }
}

/// The rule of the dead regions, for the template: what stands in it needs neither of the two, nor a control plane that lives
/// in one of them, to be there or to be used. Health checks and records are therefore in a template of their own.
#[test]
fn the_stack_needs_neither_of_the_regions_that_may_be_lost() {
    let text = fs::read_to_string(root().join("template.yaml")).unwrap();
    let template = template("template.yaml");
    for (name, resource) in resources(&template) {
        let kind = resource["Type"].as_str().unwrap();
        for elsewhere in ["AWS::Route53", "AWS::CloudFront", "AWS::GlobalAccelerator", "AWS::WAF"] {
            assert!(!kind.starts_with(elsewhere), "{name} is a {kind}, which another region's control plane keeps");
        }
        let properties = resource["Properties"].to_string();
        // Looking at the lost region is what detection is for; nothing else here may name it.
        let looks = ["PrimaryImpairedAlarm", "ProbeSilentAlarm", "Dashboard"].contains(&name.as_str());
        // Backups are taken and looked at over there while it lives, and nothing waits for them.
        let looks = looks || ["BackupTriggerRole", "ChecksumVerifyRole"].contains(&name.as_str());
        assert!(looks || !properties.contains("PrimaryRegion"), "{name} names the lost region");
        // Only what functions may do over there.
        assert!(
            kind == "AWS::IAM::Role" || !properties.contains("SecondaryRegion"),
            "{name} names the secondary region"
        );
    }
    for region in ["us-east-1", "us-west-2"] {
        let named = text.lines().filter(|line| line.contains(region) && !line.contains("such as"));
        // The switch object is named after the region that is out.
        let named: Vec<&str> = named.filter(|line| !line.contains("switch/")).collect();
        assert!(named.is_empty(), "{region} is written into the template: {named:?}");
    }
    // `sts.amazonaws.com` and its kind answer from us-east-1.
    for service in ["sts", "s3", "iam", "route53"] {
        assert!(!text.contains(&format!("{service}.amazonaws.com")), "the global endpoint of {service}");
    }
}

#[test]
fn what_is_kept_stays_when_the_stack_goes() {
    let kept = ["AWS::S3::Bucket", "AWS::KMS::Key", "AWS::Logs::LogGroup", "AWS::SQS::Queue", "AWS::S3::BucketPolicy"];
    let template = template("template.yaml");
    let mut buckets = 0;
    for (name, resource) in resources(&template) {
        let kind = resource["Type"].as_str().unwrap();
        if kept.contains(&kind) {
            assert_eq!(resource["DeletionPolicy"], "Retain", "{name}");
            assert_eq!(resource["UpdateReplacePolicy"], "Retain", "{name}");
        }
        if kind == "AWS::S3::Bucket" {
            let bucket = &resource["Properties"];
            buckets += 1;
            assert_eq!(bucket["VersioningConfiguration"]["Status"], "Enabled", "{name}");
            assert!(bucket["LifecycleConfiguration"].is_object(), "{name}");
            let block = bucket["PublicAccessBlockConfiguration"].as_object().unwrap();
            assert!(block.len() == 4 && block.values().all(|on| *on == true), "{name}");
            // The switch must be removable, and readable without a key.
            assert_eq!(name == "SwitchBucket", bucket["ObjectLockConfiguration"].is_null(), "{name}");
            assert!(
                !bucket.to_string().contains("\"GLACIER\"") && !bucket.to_string().contains("DEEP_ARCHIVE"),
                "{name}"
            );
        }
    }
    assert_eq!(buckets, 4);
}

#[test]
fn a_wrong_parameter_is_refused_with_a_sentence() {
    for name in ["template.yaml", "template-names.yaml", "template-replica.yaml"] {
        for (parameter, form) in template(name)["Parameters"].as_object().unwrap() {
            assert!(form["Description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}: {parameter}");
            let bounded = ["AllowedPattern", "AllowedValues", "MinValue"].iter().any(|bound| !form[*bound].is_null());
            assert!(bounded, "{name}: {parameter} takes anything");
            let says = form["ConstraintDescription"].as_str();
            assert!(says.is_some_and(|says| says.starts_with("must be")), "{name}: {parameter}");
        }
        for (rule, assertions) in template(name)["Rules"].as_object().unwrap() {
            for assertion in assertions["Assertions"].as_array().unwrap() {
                assert!(assertion["AssertDescription"].as_str().unwrap().ends_with('.'), "{name}: {rule}");
            }
        }
    }
}

/// Names and values of parameters.
type Values = &'static [(&'static str, &'static str)];

/// Parameters that every template takes, by template and the region that it belongs to.
const RIGHT: [(&str, &str, Values); 3] = [
    (
        "template.yaml",
        "eu-west-1",
        &[
            ("PrimaryRegion", "us-east-1"),
            ("SecondaryRegion", "us-west-2"),
            ("EvidenceBucketName", "sparc-recovery-evidence"),
            ("SwitchBucketName", "sparc-recovery-switch"),
            ("BackupsBucketName", "sparc-backups-prod"),
            ("WalBucketName", "sparc-wal-archive"),
            ("VideosBucketName", "sparc-videos-prod"),
            ("VideosReplicaBucketName", "sparc-videos-backup"),
            ("SwitchKey", "switch/us-east-1-is-out"),
            ("RecoverySecret", "sparc/postgresql/recovery"),
            ("ApplicationSecret", "sparc/postgresql/application"),
            ("BackupSecret", "sparc/postgresql/backup"),
            ("StandbyInstance", "sparc-prod-replica-us-west-2"),
            ("SecondaryCluster", "sparc-prod-us-west-2"),
            ("NodeGroup", "workers"),
            ("HostedZone", "Z0SPARCEXAMPLE"),
        ],
    ),
    (
        "template-names.yaml",
        "us-east-1",
        &[
            ("HostedZone", "Z0SPARCEXAMPLE"),
            ("PublicName", "api.sparc.com"),
            ("PrimaryTarget", "origin.us-east-1.sparc.com"),
            ("SecondaryTarget", "origin.us-west-2.sparc.com"),
            ("SwitchHost", "sparc-recovery-switch.s3.eu-west-1.amazonaws.com"),
            ("SwitchKey", "switch/us-east-1-is-out"),
        ],
    ),
    (
        "template-replica.yaml",
        "us-west-2",
        &[
            ("PrimaryRegion", "us-east-1"),
            ("StandbyInstance", "sparc-prod-replica-us-west-2"),
            ("Email", "sre@sparc.com"),
        ],
    ),
];

/// A value that each parameter refuses.
const WRONG: &[(&str, &str)] = &[
    ("Platform", "S"),
    ("PlanFile", "plans/sparc.toml"),
    ("PrimaryRegion", "Virginia"),
    ("SecondaryRegion", "us-west"),
    ("EvidenceBucketName", "Evidence"),
    ("SwitchBucketName", "switch.with.dots"),
    ("BackupsBucketName", "b"),
    ("WalBucketName", "-wal-"),
    ("VideosBucketName", "videos_prod"),
    ("VideosReplicaBucketName", "s3://videos"),
    ("SwitchKey", "us-east-1-is-out"),
    ("RecoverySecret", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:sparc"),
    ("ApplicationSecret", "two words"),
    ("BackupSecret", "two words"),
    ("SecretsKeyArn", "alias/secrets"),
    ("StandbyInstance", "arn:aws:rds:us-west-2:111122223333:db:replica"),
    ("GlobalCluster", "two words"),
    ("SecondaryCluster", "a/b"),
    ("NodeGroup", "a b"),
    ("HostedZone", "/hostedzone/Z0SPARCEXAMPLE"),
    ("Distribution", "d111111abcdef8.cloudfront.net"),
    ("Architecture", "riscv"),
    ("Detection", "on"),
    ("Backups", "nightly"),
    ("ReservedConcurrency", "1"),
    ("SubnetIds", "subnet-0a1b2c3d,vpc-0a1b2c3d"),
    ("SecurityGroupIds", "default"),
    ("LogRetentionDays", "100"),
    ("EvidenceRetentionDays", "0"),
    ("BackupRetentionDays", "3651"),
    ("HealthCheckerRanges", "everywhere"),
    ("PublicName", "sparc.com"),
    ("PrimaryTarget", "https://origin.sparc.com"),
    ("SecondaryTarget", "10.0.0.1"),
    ("SwitchHost", "sparc-recovery-switch.s3.amazonaws.com"),
    ("TimeToLive", "5"),
    ("AlarmTopicArn", "arn:aws:sns:eu-west-1:111122223333:alarms"),
    ("AcceptableLagSeconds", "10"),
    ("FreeStorageBytes", "1"),
    ("Email", "nobody"),
];

/// Each template's own parameters and rules, asked of CloudFormation with one of them wrong at a time. What they would make does
/// not matter here.
#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_parameter_is_refused_in_the_words_of_its_template() {
    let aws = Aws::start().await.unwrap();
    let create = async |file: &str, region: &str, change: &[(&str, &str)]| {
        let (_, _, right) = RIGHT.iter().find(|(name, ..)| *name == file).unwrap();
        let mut parameters: BTreeMap<&str, &str> = right.iter().copied().collect();
        parameters.extend(change.iter().copied());
        let whole = template(file);
        let asked = json!({
            "Parameters": whole["Parameters"], "Rules": whole["Rules"],
            "Resources": { "Nothing": { "Type": "AWS::CloudFormation::WaitConditionHandle" } }
        });
        let name = format!("{}-{region}-{}", file.trim_end_matches(".yaml"), change.len());
        let mut form = vec![("StackName".to_owned(), name), ("TemplateBody".to_owned(), asked.to_string())];
        for (index, (name, value)) in parameters.into_iter().enumerate() {
            let member = format!("Parameters.member.{}", index + 1);
            form.push((format!("{member}.ParameterKey"), name.to_owned()));
            form.push((format!("{member}.ParameterValue"), value.to_owned()));
        }
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let made = aws.query("cloudformation", region, "CreateStack", &form).await;
        // The refusal as a person reads it, not as XML writes it.
        made.map_err(|refused| refused.to_string().replace("&#x27;", "'"))
    };
    for (file, region, _) in RIGHT {
        create(file, region, &[]).await.unwrap();
        for (parameter, form) in template(file)["Parameters"].as_object().unwrap() {
            let wrong = WRONG.iter().find(|(name, _)| name == parameter);
            let (_, wrong) = wrong.unwrap_or_else(|| panic!("say in this test what {parameter} of {file} refuses"));
            let refused = create(file, region, &[(parameter, wrong)]).await.unwrap_err();
            // The emulator has words of its own for a value that is not in a list.
            let listed = !form["AllowedValues"].is_null();
            let says = if listed { "AllowedValues" } else { form["ConstraintDescription"].as_str().unwrap() };
            assert!(refused.contains(says) && refused.contains(parameter.as_str()), "{parameter}={wrong}: {refused}");
        }
    }
    let rules: [(&str, &str, Values, &str); 11] = [
        ("template.yaml", "eu-west-1", &[("SecondaryRegion", "us-east-1")], "cannot move to where it was lost"),
        ("template.yaml", "us-east-1", &[], "would stand in PrimaryRegion and be lost with it"),
        ("template.yaml", "us-west-2", &[], "would stand in SecondaryRegion and be lost with it"),
        ("template.yaml", "eu-west-1", &[("SwitchBucketName", "sparc-recovery-evidence")], "nobody else's evidence"),
        ("template.yaml", "eu-west-1", &[("WalBucketName", "sparc-backups-prod")], "kept for different times"),
        ("template.yaml", "eu-west-1", &[("SubnetIds", "subnet-0a1b2c3d")], "both, or neither"),
        ("template.yaml", "eu-west-1", &[("SecurityGroupIds", "sg-0a1b2c3d")], "both, or neither"),
        ("template-names.yaml", "us-east-1", &[("SecondaryTarget", "origin.us-east-1.sparc.com")], "would move nobody"),
        ("template-names.yaml", "us-east-1", &[("PrimaryTarget", "api.sparc.com")], "is its own target"),
        ("template-names.yaml", "eu-west-1", &[], "Deploy template-names.yaml in us-east-1"),
        ("template-replica.yaml", "us-east-1", &[], "This stack would stand in PrimaryRegion"),
    ];
    for (file, region, change, sentence) in rules {
        let refused = create(file, region, change).await.unwrap_err();
        assert!(refused.contains(sentence), "{file} in {region} with {change:?}: {refused}");
    }
}

#[test]
fn the_alarm_counts_what_the_probe_emits_and_the_rule_waits_for_it() {
    use verify_recovery::metric;
    let template = template("template.yaml");
    let alarm = of_type(&template, "AWS::CloudWatch::Alarm")["PrimaryImpairedAlarm"];
    assert_eq!(alarm["Namespace"], metric::NAMESPACE);
    assert_eq!(alarm["MetricName"], metric::PRIMARY_IMPAIRED);
    let plan = recovery::plan::Plan::read(&root().join("plans/sparc.toml")).unwrap();
    let named: BTreeSet<&str> =
        alarm["Dimensions"].as_array().unwrap().iter().map(|one| one["Name"].as_str().unwrap()).collect();
    let emitted = metric::dimensions(&plan);
    assert_eq!(named, emitted.keys().map(String::as_str).collect());
    assert_eq!(alarm["TreatMissingData"], "missing", "a probe that is gone must not move the platform");
    let rule = of_type(&template, "AWS::Events::Rule")["StartFailoverRule"];
    assert_eq!(rule["EventPattern"]["detail-type"], json!([recovery::incident::ALARM]));
    assert_eq!(rule["EventPattern"]["resources"], json!([{ "Fn::GetAtt": "PrimaryImpairedAlarm.Arn" }]));
    let schedule = of_type(&template, "AWS::Scheduler::Schedule")["ProbeSchedule"];
    let input: Value = serde_json::from_str(schedule["Target"]["Input"].as_str().unwrap()).unwrap();
    serde_json::from_value::<verify_recovery::Request>(input).unwrap();
}

#[test]
fn the_alarms_on_backups_count_what_the_verification_emits_and_the_bucket_expires_what_it_marks() {
    use checksum_verify::{EXPIRED, RETENTION_TAG, metric};
    use recovery::backup::{ChecksumVerifyRequest, LOOKS_SECONDS, LogFound, LogKeeper, LogReach};
    let template = template("template.yaml");
    let plan = recovery::plan::Plan::read(&root().join("plans/sparc.toml")).unwrap();
    let emitted = &metric::embedded(&[], &plan, jiff::Timestamp::UNIX_EPOCH)[0];
    let directive = &emitted["_aws"]["CloudWatchMetrics"][0];
    let alarms = of_type(&template, "AWS::CloudWatch::Alarm");
    let reach = LogReach {
        observed_at: jiff::Timestamp::UNIX_EPOCH,
        by: String::new(),
        keeper: LogKeeper::Rds(String::new()),
        reaches_to: None,
        reaches_from: None,
        segment: None,
        missing_bytes: None,
        findings: Vec::new(),
    };
    let found = LogFound { reach: Some(reach), ..LogFound::default() };
    let of_log = metric::of_log(&found, &plan, jiff::Timestamp::UNIX_EPOCH).unwrap();
    let of_log = &of_log["_aws"]["CloudWatchMetrics"][0];
    for (name, metric, directive) in [
        ("BackupStaleAlarm", metric::STALE, directive),
        ("BackupUnprovenAlarm", metric::UNPROVEN, directive),
        ("LogStaleAlarm", metric::LOG_STALE, of_log),
    ] {
        let alarm = alarms[name];
        assert_eq!((&alarm["Namespace"], &alarm["MetricName"]), (&directive["Namespace"], &json!(metric)));
        assert!(directive["Metrics"].as_array().unwrap().iter().any(|one| one["Name"] == metric), "{directive}");
        let named: Vec<&Value> = alarm["Dimensions"].as_array().unwrap().iter().map(|one| &one["Name"]).collect();
        assert_eq!(json!([named]), directive["Dimensions"], "{name}");
        assert_eq!(alarm["TreatMissingData"], "breaching", "{name}: nobody looked, so nothing is known");
    }
    let rules = &of_type(&template, "AWS::S3::Bucket")["BackupsBucket"]["LifecycleConfiguration"]["Rules"];
    for rule in rules.as_array().unwrap().iter().filter(|rule| !rule["ExpirationInDays"].is_null()) {
        assert_eq!(rule["TagFilters"], json!([{ "Key": RETENTION_TAG, "Value": EXPIRED }]), "{rule}");
    }
    let schedules = of_type(&template, "AWS::Scheduler::Schedule");
    let looks = &schedules["LogSchedule"];
    let minutes = format!("rate({} minutes)", LOOKS_SECONDS / 60);
    assert_eq!(looks["ScheduleExpression"], json!(minutes), "who judges freshness knows when looks come");
    serde_json::from_str::<ChecksumVerifyRequest>(looks["Target"]["Input"].as_str().unwrap()).unwrap();
    assert_eq!(looks["Target"]["Arn"], json!({ "Fn::GetAtt": "ChecksumVerifyFunction.Arn" }));
    let started = [
        ("NightlyBackupSchedule", "nightly-backup"),
        ("ClusterBackupSchedule", "nightly-backup"),
        ("RegistryBackupSchedule", "nightly-backup"),
        ("VerifyBackupsSchedule", "verify-backups"),
    ];
    for (schedule, machine) in started {
        let input: Value = serde_json::from_str(schedules[schedule]["Target"]["Input"].as_str().unwrap()).unwrap();
        let text = fs::read_to_string(root().join(format!("statemachines/{machine}.asl.json"))).unwrap();
        for field in input.as_object().unwrap().keys() {
            assert!(text.contains(&format!("$run.event.{field}")), "{machine} passes over `{field}`");
        }
    }
}

/// Everything that calls something asynchronously says where an undeliverable call goes.
#[test]
fn nothing_undelivered_is_lost() {
    let template = template("template.yaml");
    let dead_letters = json!({ "Arn": { "Fn::GetAtt": "DeadLetters.Arn" } });
    for (name, rule) in of_type(&template, "AWS::Events::Rule") {
        for target in rule["Targets"].as_array().unwrap() {
            assert_eq!(target["DeadLetterConfig"], dead_letters, "{name}");
        }
    }
    for (name, schedule) in of_type(&template, "AWS::Scheduler::Schedule") {
        assert_eq!(schedule["Target"]["DeadLetterConfig"], dead_letters, "{name}");
        assert!(schedule["Target"]["RetryPolicy"].is_object(), "{name}");
        assert!(schedule["ScheduleExpressionTimezone"].is_string(), "{name}");
    }
}
