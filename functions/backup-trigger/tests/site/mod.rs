//! A pair, the account that its backups go to, and the function as the state machine calls it.

#![allow(clippy::unwrap_used, dead_code)] // each test binary that includes this module uses a part of it

use std::{sync::Arc, time::Duration};

use backup_trigger::{Error, Outcome, Request, Response, World, backup_trigger};
use jiff::Timestamp;
use lab::{
    backups::Databases,
    faults::{Desk, Selector},
};
use recovery::{
    backup::{Artifact, BackupId, BackupManifest, Encoding, Kind, Policy, Receipt, Taken},
    plan::{Driver, Plan},
    store::get_json,
};
use recovery_aws::Aws;
use recovery_datapath::{crc64nvme, sha256};
use recovery_lambda::Settings;
use recovery_sites::Takers;
use tokio::{process::Command, sync::Notify};

pub const BUCKET: &str = "sparc-backups-prod";

pub struct Platform {
    pub site: Databases,
    pub plan: Arc<Plan>,
    pub aws: Aws,
    pub takers: Takers,
    /// The function's clock.
    pub now: fn() -> Timestamp,
    /// What the function has for one backup.
    pub within: Duration,
}

/// Servers that we run ourselves, with logical and physical backups.
pub async fn platform(read_from: Taken) -> Platform {
    Platform::of(Driver::SelfManaged, |plan| {
        plan.backups.read_from = read_from;
        let logical = plan.backups.policy(Kind::Logical).unwrap().clone();
        plan.backups.policies = vec![logical.clone(), Policy { kind: Kind::Physical, ..logical }];
    })
    .await
}

pub fn id(kind: Kind) -> BackupId {
    BackupId::new(kind, "sparc-prod", "2026-11-26T02:00:00Z".parse().unwrap()).unwrap()
}

impl Platform {
    pub async fn of(driver: Driver, change: impl FnOnce(&mut Plan)) -> Platform {
        let site = Databases::start(driver).await.unwrap();
        let mut plan = site.account.plan.clone();
        change(&mut plan);
        let (plan, aws, takers) = wired(&site, plan).await;
        Platform { site, plan, aws, takers, now: Timestamp::now, within: Duration::from_secs(300) }
    }

    /// The plan was changed, and the function deployed again.
    pub async fn change(&mut self, change: impl FnOnce(&mut Plan)) {
        let mut plan = (*self.plan).clone();
        change(&mut plan);
        (self.plan, self.aws, self.takers) = wired(&self.site, plan).await;
    }

    pub fn desk(&self) -> &Desk {
        &self.site.account.desk
    }

    /// How many calls of S3 were made that fit.
    pub fn calls(&self, selector: &Selector) -> usize {
        self.desk().calls().iter().filter(|call| fits(selector, &call.operation, &call.path)).count()
    }

    pub async fn ask(&self, request: &Request) -> Result<Response, Error> {
        let backups = self.aws.bucket(BUCKET);
        let evidence = self.aws.evidence();
        let world = World {
            takers: &self.takers,
            parts: self.aws.backup_parts(),
            backups: &backups,
            evidence: &*evidence,
            list: &*self.aws.evidence_list(),
            authority: "",
            now: self.now,
            within: self.within,
            stop: &Notify::const_new(),
        };
        backup_trigger(request, &self.plan, &world).await
    }

    pub async fn take(&self, backup: &BackupId, run: &str) -> Result<Outcome, Error> {
        match self.ask(&Request::Take { run: run.to_owned(), backup: backup.clone() }).await? {
            Response::Outcome(outcome) => Ok(outcome),
            Response::Due(_) => unreachable!("take answers an outcome"),
        }
    }

    pub async fn object(&self, key: &str) -> Option<Vec<u8>> {
        let url = format!("{}/{BUCKET}/{key}", self.site.account.aws.control_url());
        let curl = Command::new("curl").args(["--silent", "--fail", &url]).output().await.unwrap();
        curl.status.success().then_some(curl.stdout)
    }

    /// The manifest as it was published, held to its receipt and its artifacts held to it; and their plain bytes.
    pub async fn published(&self, backup: &BackupId) -> (BackupManifest, Vec<(Artifact, Vec<u8>)>) {
        let bytes = self.object(&backup.manifest_key()).await.expect("there is a manifest");
        let manifest = BackupManifest::read(&bytes, backup).unwrap();
        let receipt = get_json::<Receipt>(&*self.aws.evidence(), &backup.receipt_key()).await.unwrap().unwrap().0;
        assert_eq!(receipt.manifest_sha256, sha256(&bytes));
        assert!(receipt.manifest_version_id.is_some());
        let mut artifacts = Vec::new();
        for artifact in manifest.artifacts.clone() {
            let stored = self.object(&artifact.key).await.unwrap();
            assert_eq!((stored.len() as u64, sha256(&stored)), (artifact.stored_bytes, artifact.stored_sha256.clone()));
            assert_eq!(artifact.encoding, Encoding::Zstd);
            assert!(artifact.version_id.is_some());
            let plain = zstd::stream::decode_all(&*stored).unwrap();
            assert_eq!((plain.len() as u64, sha256(&plain)), (artifact.plain_bytes, artifact.plain_sha256.clone()));
            assert_eq!(artifact.plain_crc64nvme.as_deref(), Some(&*crc64nvme(&plain)));
            artifacts.push((artifact, plain));
        }
        (manifest, artifacts)
    }

    /// How many versions of an object there are.
    pub async fn versions(&self, key: &str) -> usize {
        let url = format!("{}/{BUCKET}?versions&prefix={key}", self.site.account.aws.control_url());
        let curl = Command::new("curl").args(["--silent", "--fail", &url]).output().await.unwrap();
        String::from_utf8(curl.stdout).unwrap().matches("<VersionId>").count()
    }

    /// Uploads that were begun and not ended.
    pub async fn uploads(&self) -> usize {
        let url = format!("{}/{BUCKET}?uploads", self.site.account.aws.control_url());
        let curl = Command::new("curl").args(["--silent", "--fail", &url]).output().await.unwrap();
        let uploads = String::from_utf8(curl.stdout).unwrap();
        assert!(uploads.contains("ListMultipartUploadsResult"), "{uploads}");
        uploads.matches("<UploadId>").count()
    }

    pub async fn assert_nothing_is_published(&self, backup: &BackupId) {
        assert_eq!(self.object(&backup.manifest_key()).await, None);
        assert!(get_json::<Receipt>(&*self.aws.evidence(), &backup.receipt_key()).await.unwrap().is_none());
        assert_eq!(self.uploads().await, 0);
    }

    pub fn program(&self, name: &str) -> Command {
        Command::new(self.site.pair.tools().program(name))
    }
}

async fn wired(site: &Databases, plan: Plan) -> (Arc<Plan>, Aws, Takers) {
    let plan = Arc::new(plan);
    let aws = Aws::from_environment(&plan, site.account.aws.env()).await;
    let settings = Settings { plan: Arc::clone(&plan), folder: "/".into() };
    let takers = recovery_sites::takers(&settings, &aws).unwrap();
    (plan, aws, takers)
}

fn fits(selector: &Selector, operation: &str, path: &str) -> bool {
    selector.operation.as_deref().is_none_or(|part| operation.contains(part))
        && selector.path.as_deref().is_none_or(|part| path.contains(part))
}
