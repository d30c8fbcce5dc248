//! Snapshots take their time, and are refused as AWS refuses them; moto has them at once and asks for little.
//!
//! What it holds to:
//! - a snapshot is `creating` with a percentage until it is `available`, or `failed`; an instance that is not `available` has
//!   none made of it <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBSnapshot.html>
//! - what is copied must be `available`; its copy is under a key of the region that it goes to, which must be enabled there
//!   <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CopyDBSnapshot.html>
//! - the call to that region holds a request that is signed for the other one
//!   <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_CopySnapshot.html>
//! - what is not `available` is not deleted
//!   <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_DeleteDBSnapshot.html>

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Layer, Refusal, between, each_element};
use crate::aws::{ACCOUNT, authorization};

/// The snapshots that were begun here, by ARN; what is not among them is as moto says.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    begun: HashMap<String, Begun>,
    held: bool,
    failing: Option<String>,
}

#[derive(Debug)]
struct Begun {
    at: Instant,
    takes: Duration,
    status: &'static str,
    fails: bool,
}

impl Snapshots {
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    pub(super) fn fail_next(&mut self, region: &str) {
        self.failing = Some(region.to_owned());
    }

    pub(super) fn spoil(&mut self, arn: &str) {
        let failed = Begun { at: Instant::now(), takes: Duration::ZERO, status: "available", fails: true };
        self.begun.insert(arn.to_owned(), failed);
    }

    pub(super) fn forget(&mut self, arn: &str) {
        self.begun.remove(arn);
    }

    /// What moto has done.
    pub(super) fn note(&mut self, action: &str, answer: &str, takes: Duration) {
        let Some(arn) = arn_of(answer) else { return };
        let status = match action {
            "CreateDBSnapshot" | "CreateDBClusterSnapshot" => "creating",
            "CopyDBSnapshot" | "CopyDBClusterSnapshot" => "copying",
            "DeleteDBSnapshot" | "DeleteDBClusterSnapshot" => {
                self.begun.remove(arn);
                return;
            }
            _ => return,
        };
        let fails = self.failing.take_if(|region| arn.split(':').nth(3) == Some(region.as_str())).is_some();
        self.begun.insert(arn.to_owned(), Begun { at: Instant::now(), takes, status, fails });
    }

    /// Status and percentage.
    fn of(&self, arn: &str) -> (&'static str, u32) {
        let Some(begun) = self.begun.get(arn) else { return ("available", 100) };
        let done = begun.at.elapsed().as_secs_f64() / begun.takes.as_secs_f64().max(f64::EPSILON);
        if self.held || done < 1.0 {
            return (begun.status, if done < 0.5 { 10 } else { 60 });
        }
        if begun.fails { ("failed", 60) } else { ("available", 100) }
    }

    pub(super) fn truth(&self, xml: &str) -> String {
        let told = each_element(xml, "DBSnapshot", |one| self.truth_of(one));
        each_element(&told, "DBClusterSnapshot", |one| self.truth_of(one))
    }

    fn truth_of(&self, snapshot: &str) -> String {
        let (Some(arn), Some(said)) = (arn_of(snapshot), between(snapshot, "<Status>", "</Status>")) else {
            return snapshot.to_owned();
        };
        let (status, percent) = self.of(arn);
        let told = match between(snapshot, "<PercentProgress>", "</PercentProgress>") {
            Some(said) => snapshot.replacen(&format!("<PercentProgress>{said}</PercentProgress>"), "", 1),
            None => snapshot.to_owned(),
        };
        let is = format!("<Status>{status}</Status><PercentProgress>{percent}</PercentProgress>");
        told.replacen(&format!("<Status>{said}</Status>"), &is, 1)
    }
}

/// The ARN of the first snapshot in an answer.
fn arn_of(xml: &str) -> Option<&str> {
    between(xml, "<DBSnapshotArn>", "</DBSnapshotArn>")
        .or_else(|| between(xml, "<DBClusterSnapshotArn>", "</DBClusterSnapshotArn>"))
}

impl Layer {
    /// Refuses what AWS would; everything else is moto's to answer.
    pub(super) async fn before_snapshots(
        &self,
        action: &str,
        region: &str,
        form: &HashMap<String, String>,
    ) -> Result<(), Refusal> {
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        let bad = |code: &'static str, why: String| Err(Refusal(StatusCode::BAD_REQUEST, code, why));
        match action {
            "CreateDBSnapshot" => match self.state().status.get(field("DBInstanceIdentifier")) {
                None => Ok(()),
                Some(status) => {
                    bad("InvalidDBInstanceState", format!("DB Instance is not in available state: {status}."))
                }
            },
            "CopyDBSnapshot" | "CopyDBClusterSnapshot" => {
                let (source, code) = match action {
                    "CopyDBSnapshot" => (field("SourceDBSnapshotIdentifier"), "InvalidDBSnapshotState"),
                    _ => (field("SourceDBClusterSnapshotIdentifier"), "InvalidDBClusterSnapshotStateFault"),
                };
                let (status, _) = self.state().snapshots.of(source);
                if status != "available" {
                    return bad(code, format!("Cannot copy the snapshot because it is {status}."));
                }
                let from = source.split(':').nth(3).unwrap_or(region);
                let signed = field("PreSignedUrl");
                // SigV4 in a query: the credential's scope names the region that it was signed for.
                let is_signed = signed.contains(&format!("%2F{from}%2Frds%2Faws4_request"))
                    && signed.contains(&format!("DestinationRegion={region}"));
                if from != region && !is_signed {
                    let why = format!("PreSignedUrl must be signed for {from} and name the destination region.");
                    return bad("InvalidParameterValue", why);
                }
                let key = field("KmsKeyId");
                if key.is_empty() || self.key_is_enabled(key, region).await {
                    return Ok(());
                }
                let why = format!("The KMS key [{key}] does not exist, is not enabled or you may not use it.");
                bad("KMSKeyNotAccessibleFault", why)
            }
            "DeleteDBSnapshot" | "DeleteDBClusterSnapshot" => {
                let (kind, name, code) = match action {
                    "DeleteDBSnapshot" => ("snapshot", field("DBSnapshotIdentifier"), "InvalidDBSnapshotState"),
                    _ => {
                        let name = field("DBClusterSnapshotIdentifier");
                        ("cluster-snapshot", name, "InvalidDBClusterSnapshotStateFault")
                    }
                };
                let arn = format!("arn:aws:rds:{region}:{ACCOUNT}:{kind}:{name}");
                match self.state().snapshots.of(&arn) {
                    ("available" | "failed", _) => Ok(()),
                    (status, _) => bad(code, format!("Cannot delete the snapshot because it is {status}.")),
                }
            }
            _ => Ok(()),
        }
    }

    /// What the lab's key service says of a key in a region.
    async fn key_is_enabled(&self, key: &str, region: &str) -> bool {
        let asked = self
            .http
            .post(&self.control)
            .header("authorization", authorization("kms", region))
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", "TrentService.DescribeKey")
            .body(json!({ "KeyId": key }).to_string());
        let Ok(answer) = asked.send().await else { return false };
        let text = answer.text().await.unwrap_or_default();
        let described: Value = serde_json::from_str(&text).unwrap_or_default();
        described["KeyMetadata"]["KeyState"] == "Enabled"
    }
}
