//! A platform with a server, an account, and what takes and proves backups between them.

#![allow(dead_code)] // each test binary uses its part
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use backup_trigger::backup_trigger;
use checksum_verify::{Error, LOG_BUDGET_BYTES, Response, World, checksum_verify};
use jiff::Timestamp;
use lab::{
    aws::{Aws as EmulatedAws, Seed},
    faults::{Desk, HttpProxy, Upstream},
    postgres::{Options, Pair, Passwords},
};
use recovery::{
    backup::{
        BackupId, BackupManifest, BackupTriggerRequest, Catalogue, ChecksumVerifyRequest, DirectoryFormat, Encoding,
        Kind, Policy, Proof, Receipt, Rung, SnapshotShelf, Taken,
    },
    plan::{Driver, Plan},
    store::{Precondition, put_json},
};
use recovery_aws::Aws;
use recovery_datapath::sha256;
use recovery_lambda::Settings;
use recovery_sites::Takers;

pub struct Platform {
    pub pair: Pair,
    pub emulated: EmulatedAws,
    pub desk: Desk,
    pub plan: Arc<Plan>,
    pub aws: Aws,
    takers: Takers,
    _proxy: HttpProxy,
}

/// Backups of both kinds from the primary; the logical ones in the directory format if one is named.
pub async fn platform(options: Options, encoding: Encoding, directory: Option<DirectoryFormat>) -> Platform {
    let passwords = Passwords::new();
    let pair = Pair::start(Options { passwords: Some(passwords.clone()), ..options }).await.unwrap();
    let emulated = EmulatedAws::start().await.unwrap();
    emulated.seed(&Seed { passwords: Some(passwords), ..Seed::default() }).await.unwrap();
    let desk = Desk::default();
    let proxy = HttpProxy::start(Upstream::plain(emulated.control_url()), desk.clone()).await.unwrap();
    emulated.route("S3", proxy.url());

    let mut plan = Plan::parse("plans/sparc.toml", include_str!("../../../../plans/sparc.toml")).unwrap();
    plan.postgresql.driver = Driver::SelfManaged;
    plan.postgresql.ca_file = pair.primary.data().join("authority.crt").display().to_string();
    plan.postgresql.primary.host = pair.primary.host().to_owned();
    plan.postgresql.primary.port = pair.primary.port();
    plan.backups.read_from = Taken::Primary;
    plan.backups.encoding = encoding;
    let logical = plan.backups.policy(Kind::Logical).unwrap().clone();
    let physical = Policy { kind: Kind::Physical, ..logical.clone() };
    plan.backups.policies = vec![Policy { directory, ..logical }, physical];
    let plan = Arc::new(plan);
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    let settings = Settings { plan: Arc::clone(&plan), folder: "/".into() };
    let takers = recovery_sites::takers(&settings, &aws).unwrap();
    Platform { pair, emulated, desk, plan, aws, takers, _proxy: proxy }
}

pub fn id(kind: Kind) -> BackupId {
    BackupId::new(kind, "sparc-prod", "2026-11-26T02:00:00Z".parse().unwrap()).unwrap()
}

/// Asks the function that takes backups.
pub async fn trigger(
    aws: &Aws,
    plan: &Plan,
    takers: &Takers,
    request: &BackupTriggerRequest,
) -> Result<backup_trigger::Response, backup_trigger::Error> {
    let (backups, evidence) = (aws.bucket(&plan.buckets.backups), aws.evidence());
    let world = backup_trigger::World {
        takers,
        parts: aws.backup_parts(),
        backups: &backups,
        evidence: &*evidence,
        list: &*aws.evidence_list(),
        authority: "",
        now: Timestamp::now,
        within: Duration::from_secs(300),
        stop: &tokio::sync::Notify::const_new(),
    };
    backup_trigger(request, plan, &world).await
}

/// Asks the function that proves them.
pub async fn ask(
    aws: &Aws,
    plan: &Plan,
    request: &ChecksumVerifyRequest,
    log_budget_bytes: u64,
    snapshots: &[&dyn SnapshotShelf],
) -> Result<Response, Error> {
    let (backups, wal) = (aws.backups(), aws.wal_archive());
    let (list, evidence) = (aws.evidence_list(), aws.evidence());
    let catalogue = Catalogue { list: &*list, evidence: &*evidence };
    let world = World { backups: &*backups, wal: &*wal, managed_log: None, log_budget_bytes, catalogue, snapshots };
    checksum_verify(request, plan, &world, Timestamp::now()).await
}

/// The request that a backup be taken.
pub fn to_take(backup: &BackupId) -> BackupTriggerRequest {
    BackupTriggerRequest::Take { run: "test".to_owned(), backup: backup.clone() }
}

/// The receipt that goes with a manifest, as whoever took the backup would have written it.
pub fn receipt(manifest: &BackupManifest) -> Receipt {
    Receipt {
        backup: manifest.id.clone(),
        manifest_sha256: sha256(&manifest.to_bytes()),
        manifest_version_id: None,
        completed_at: manifest.completed_at.unwrap(),
        retain_until: manifest.protection.retain_until,
    }
}

impl Platform {
    pub async fn trigger(
        &self,
        request: BackupTriggerRequest,
    ) -> Result<backup_trigger::Response, backup_trigger::Error> {
        trigger(&self.aws, &self.plan, &self.takers, &request).await
    }

    pub async fn take(&self, kind: Kind) -> Result<backup_trigger::Response, backup_trigger::Error> {
        self.trigger(to_take(&id(kind))).await
    }

    pub async fn prove(&self, kind: Kind) -> Proof {
        let request = ChecksumVerifyRequest::Prove { run: "test".to_owned(), backup: id(kind), rung: Rung::Structure };
        match ask(&self.aws, &self.plan, &request, LOG_BUDGET_BYTES, &[]).await.unwrap() {
            Response::Proof(proof) => *proof,
            other => unreachable!("a proof, not {other:?}"),
        }
    }

    pub async fn object(&self, key: &str) -> Vec<u8> {
        let mut body = self.aws.backups().open(key, None, None).await.unwrap().unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = body.chunk().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    pub async fn manifest(&self, kind: Kind) -> BackupManifest {
        let backup = id(kind);
        BackupManifest::read(&self.object(&backup.manifest_key()).await, &backup).unwrap()
    }

    /// Writes a manifest and its receipt.
    pub async fn publish(&self, manifest: &BackupManifest) {
        let (bucket, key) = (&self.plan.buckets.backups, manifest.id.manifest_key());
        self.emulated.put_object(bucket, &key, manifest.to_bytes()).await.unwrap();
        let (evidence, key) = (self.aws.evidence(), manifest.id.receipt_key());
        put_json(&*evidence, &key, &receipt(manifest), Precondition::None).await.unwrap();
    }
}
