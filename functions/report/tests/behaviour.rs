//! The report function on a bucket in memory that behaves as S3 does: late, refusing, repeated.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::{
    backup::{BackupStorage, Catalogue, ObjectBody, ObjectSummary, ObjectVersion, Page, Receipt, Sha256Hex},
    fault::{Classified, Fault},
    plan::Plan,
    report::{BackupOutcome, BackupReport, RecoveryReport},
    run::RunOutcome,
    store::{ObjectStore, Precondition, StoreError, StoredObject, put_json},
};
use report::{Request, write_report};

#[derive(Default)]
struct Bucket {
    objects: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    /// Keys that are not taken.
    refuses: Option<&'static str>,
}

#[async_trait]
impl ObjectStore for Bucket {
    fn bucket(&self) -> &str {
        "evidence"
    }

    async fn get(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        let objects = self.objects.lock().unwrap();
        Ok(objects.get(key).map(|(_, body)| StoredObject { body: body.clone(), etag: String::new() }))
    }

    async fn put(&self, key: &str, content_type: &str, body: Vec<u8>, _: Precondition) -> Result<(), StoreError> {
        if self.refuses.is_some_and(|end| key.ends_with(end)) {
            let source = Box::new(std::io::Error::other("SlowDown"));
            return Err(StoreError::Unavailable { bucket: "evidence".to_owned(), key: key.to_owned(), source });
        }
        self.objects.lock().unwrap().insert(key.to_owned(), (content_type.to_owned(), body));
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }
}

/// Lists what is there; nothing here reads a backup.
#[async_trait]
impl BackupStorage for Bucket {
    fn bucket(&self) -> &str {
        "evidence"
    }

    async fn head(&self, key: &str, _: Option<&str>) -> Result<Option<ObjectVersion>, StoreError> {
        unreachable!("a report describes no object: {key}")
    }

    async fn open(
        &self,
        key: &str,
        _: Option<&str>,
        _: Option<Range<u64>>,
    ) -> Result<Option<Box<dyn ObjectBody>>, StoreError> {
        unreachable!("a report reads no backup: {key}")
    }

    async fn list(&self, prefix: &str, delimiter: Option<char>, _: Option<&str>) -> Result<Page, StoreError> {
        if self.refuses == Some("list") {
            let source = Box::new(std::io::Error::other("SlowDown"));
            return Err(StoreError::Unavailable { bucket: "evidence".to_owned(), key: prefix.to_owned(), source });
        }
        let mut page = Page::default();
        for (key, (_, body)) in self.objects.lock().unwrap().range(prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            match delimiter.and_then(|delimiter| rest.split_once(delimiter)) {
                Some((folder, _)) => {
                    let folder = format!("{prefix}{folder}/");
                    if page.folders.last() != Some(&folder) {
                        page.folders.push(folder);
                    }
                }
                None => page.objects.push(ObjectSummary {
                    key: key.clone(),
                    size_bytes: body.len() as u64,
                    modified_at: None,
                }),
            }
        }
        Ok(page)
    }

    async fn tags(&self, key: &str, _: Option<&str>) -> Result<Option<BTreeMap<String, String>>, StoreError> {
        unreachable!("a report reads no tags: {key}")
    }

    async fn tag(&self, key: &str, _: Option<&str>, _: &BTreeMap<String, String>) -> Result<(), StoreError> {
        unreachable!("a report marks nothing: {key}")
    }
}

impl Bucket {
    fn catalogue(&self) -> Catalogue<'_> {
        Catalogue { list: self, evidence: self }
    }
}

fn plan() -> Plan {
    Plan::read(Path::new("../../plans/sparc.toml")).unwrap()
}

fn request() -> Request {
    let event = std::fs::read_to_string("../../events/report/refused.json").unwrap();
    serde_json::from_str(&event).unwrap()
}

fn now() -> Timestamp {
    "2026-11-23T03:02:30Z".parse().unwrap()
}

#[tokio::test]
async fn a_refused_run_ends_in_a_report_of_three_forms() {
    let bucket = Bucket::default();
    let written = write_report(&request(), &plan(), bucket.catalogue(), now()).await.unwrap();
    assert_eq!(written.outcome, RunOutcome::Refused);
    assert_eq!(written.key, "s3://evidence/reports/failover-2026-11-23T03-02/report.html");
    let objects = bucket.objects.lock().unwrap();
    let kinds: Vec<(&str, &str)> =
        objects.iter().map(|(key, (kind, _))| (key.rsplit('/').next().unwrap(), kind.as_str())).collect();
    assert_eq!(
        kinds,
        [
            ("report.html", "text/html; charset=utf-8"),
            ("report.json", "application/json"),
            ("report.md", "text/markdown; charset=utf-8"),
        ]
    );
    let json = &objects["reports/failover-2026-11-23T03-02/report.json"].1;
    let report: RecoveryReport = serde_json::from_slice(json).unwrap();
    assert_eq!(report.sentence, written.sentence);
}

#[tokio::test]
async fn a_repeated_report_is_the_same_report() {
    let bucket = Bucket::default();
    write_report(&request(), &plan(), bucket.catalogue(), now()).await.unwrap();
    let first = bucket.objects.lock().unwrap().clone();
    write_report(&request(), &plan(), bucket.catalogue(), now()).await.unwrap();
    assert_eq!(*bucket.objects.lock().unwrap(), first);
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_is_asked_again() {
    let bucket = Bucket { refuses: Some(".html"), ..Bucket::default() };
    let error = write_report(&request(), &plan(), bucket.catalogue(), now()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient);
    // The figures are kept even then.
    assert!(bucket.objects.lock().unwrap().keys().any(|key| key.ends_with("report.json")));
}

fn of_a_night() -> Request {
    let event = std::fs::read_to_string("../../events/report/backups.json").unwrap();
    serde_json::from_str(&event).unwrap()
}

#[tokio::test]
async fn a_night_of_backups_is_reported_beside_how_everything_stands() {
    let bucket = Bucket::default();
    let night = "2026-11-26T02:20:00Z".parse().unwrap();
    let Request { run, .. } = of_a_night();
    let taken = run.backups.unwrap().taken.remove(0).backup;
    let receipt = Receipt {
        backup: taken.clone(),
        manifest_sha256: Sha256Hex::of(&[7; 32]),
        manifest_version_id: None,
        completed_at: night,
        retain_until: night,
    };
    put_json(&bucket, &taken.receipt_key(), &receipt, Precondition::None).await.unwrap();
    let written = write_report(&of_a_night(), &plan(), bucket.catalogue(), night).await.unwrap();
    assert_eq!((written.outcome, written.objectives_met), (RunOutcome::Incomplete, 0));
    let read =
        |form: &str| bucket.objects.lock().unwrap()[&format!("reports/nightly-2026-11-26/report.{form}")].1.clone();
    let report: BackupReport = serde_json::from_slice(&read("json")).unwrap();
    assert_eq!((report.outcome, report.taken.len(), report.missed.len()), (BackupOutcome::Incomplete, 1, 1));
    let logical = report.policies.iter().find(|policy| Some(policy.newest_at) == Some(Some(taken.due_at))).unwrap();
    assert!(logical.fresh && !logical.proven_in_time, "complete is not proven: {logical:?}");
    let html = String::from_utf8(read("html")).unwrap();
    assert!(html.contains("Backup report") && !html.contains("Recovery time"));
}

#[tokio::test]
async fn a_catalogue_that_cannot_be_read_is_said_in_the_report() {
    let bucket = Bucket { refuses: Some("list"), ..Bucket::default() };
    let written = write_report(&of_a_night(), &plan(), bucket.catalogue(), now()).await.unwrap();
    assert!(written.sentence.contains("is not known"), "{}", written.sentence);
}
