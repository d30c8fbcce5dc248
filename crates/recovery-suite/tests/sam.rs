//! What SAM, CloudFormation's linter and a scanner of policies say to the templates, and what `sam build` makes of them.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use lab::{
    aws::{Aws, TERTIARY},
    stack::{self, Stack, Tool},
};
use recovery_suite::FUNCTIONS;
use reqwest::Method;
use tempfile::TempDir;
use tokio::process::Command;

const TEMPLATES: [&str; 3] = ["template.yaml", "template-names.yaml", "template-replica.yaml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Runs a program to its end; it must be content.
async fn content(mut command: Command) -> String {
    let ended = command.current_dir(root()).output().await.unwrap();
    let said = [&*String::from_utf8_lossy(&ended.stdout), &*String::from_utf8_lossy(&ended.stderr)].concat();
    assert!(ended.status.success(), "{command:?}\n{said}");
    said
}

#[tokio::test]
async fn sam_and_the_linter_of_cloudformation_take_every_template() {
    let home = TempDir::new().unwrap();
    let mut lint = stack::tool(Tool::Sam, "cfn-lint", home.path()).await.unwrap();
    lint.args(TEMPLATES);
    content(lint).await;
    for template in TEMPLATES {
        let mut validate = stack::tool(Tool::Sam, "sam", home.path()).await.unwrap();
        // Rules of the names' template hold in us-east-1, but they are judged when it is deployed, not here.
        validate.args(["validate", "--lint", "--region", "eu-west-1", "--template-file", template]);
        content(validate).await;
    }
}

/// What a person may get wrong is said before anything is made, in the words of the template.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_are_refused_before_anything_is_made() {
    let aws = Aws::start().await.unwrap();
    let right: BTreeMap<String, String> = [
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
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let situations = [
        ("SecondaryRegion", "us-east-1", "a platform cannot move to where it was lost"),
        ("PrimaryRegion", "eu-west-1", "would stand in PrimaryRegion and be lost with it"),
        ("SwitchBucketName", "sparc-recovery-evidence", "health checkers may read the switch"),
        ("SubnetIds", "subnet-0a1b2c3d", "Give SubnetIds and SecurityGroupIds both, or neither"),
        ("HostedZone", "/hostedzone/Z0SPARCEXAMPLE", "must be a hosted zone's id without /hostedzone/"),
        ("RecoverySecret", "arn:aws:secretsmanager:eu-west-1:1:secret:a", "not its ARN and not the secret"),
        ("ReservedConcurrency", "1", "must be 2 to 100"),
    ];
    let folder = TempDir::new().unwrap();
    // Nothing is run: any program will do.
    let programs: BTreeMap<String, PathBuf> =
        FUNCTIONS.iter().map(|function| ((*function).to_owned(), PathBuf::from("/bin/true"))).collect();
    for (name, value, sentence) in situations {
        let mut parameters = right.clone();
        parameters.insert(name.to_owned(), value.to_owned());
        let stack = Stack { repository: root(), programs: programs.clone(), template: None, parameters };
        let refused = aws.deploy(&stack, folder.path()).await.unwrap_err().to_string();
        assert!(refused.contains(sentence), "{name}={value}: {refused}");
    }
    let buckets = aws.call("s3", TERTIARY, Method::GET, "/", &[], "").await.unwrap();
    assert!(!buckets.body.contains("sparc-recovery-evidence"), "{}", buckets.body);
}

#[tokio::test]
#[ignore = "installs a scanner of 300 MB; `make deploy-test` runs it"]
async fn the_scanner_of_policies_finds_nothing() {
    let home = TempDir::new().unwrap();
    for template in TEMPLATES {
        let mut scan = stack::tool(Tool::Checkov, "checkov", home.path()).await.unwrap();
        scan.args(["--config-file", ".checkov.yaml", "--file", template]);
        content(scan).await;
    }
}

#[tokio::test]
#[ignore = "compiles a release, ten minutes and more; `make deploy-test` runs it"]
async fn sam_build_makes_a_program_for_every_function() {
    let built = stack::built(&root()).await.unwrap();
    assert!(built.template.is_file());
    assert_eq!(built.programs.keys().map(String::as_str).collect::<BTreeSet<_>>(), FUNCTIONS.into());
    for (function, program) in &built.programs {
        let size = program.metadata().unwrap_or_else(|error| panic!("{}: {error}", program.display())).len();
        assert!(size < 20 << 20, "{function} has {size} bytes");
        println!("{function}: {:.1} MB", size as f64 / 1e6);
    }
    let layer = root().join(".aws-sam/build/PostgresToolsLayer");
    for file in ["bin/pg_dump", "bin/pg_restore", "bin/pg_basebackup", "bin/psql"] {
        assert!(layer.join(file).is_file(), "the layer has no {file}");
    }
}
