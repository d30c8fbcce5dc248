//! The report function on a bucket in memory that behaves as S3 does: late, refusing, repeated.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path, sync::Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::{
    fault::{Classified, Fault},
    plan::Plan,
    report::RecoveryReport,
    run::RunOutcome,
    store::{ObjectStore, Precondition, StoreError, StoredObject},
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
    let written = write_report(&request(), &plan(), &bucket, now()).await.unwrap();
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
    write_report(&request(), &plan(), &bucket, now()).await.unwrap();
    let first = bucket.objects.lock().unwrap().clone();
    write_report(&request(), &plan(), &bucket, now()).await.unwrap();
    assert_eq!(*bucket.objects.lock().unwrap(), first);
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_is_asked_again() {
    let bucket = Bucket { refuses: Some(".html"), ..Bucket::default() };
    let error = write_report(&request(), &plan(), &bucket, now()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient);
    // The figures are kept even then.
    assert!(bucket.objects.lock().unwrap().keys().any(|key| key.ends_with("report.json")));
}
