//! The Job that takes a backup: what it is made from, and how it ended.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::plan::Plan;

/// Name of the ConfigMap with the plan and the files that it names.
pub const JOB_CONFIG: &str = "recovery-plan";

/// The plan's key in it, and its name below the volume.
pub const JOB_PLAN: &str = "plan.toml";

/// What a Job is made from, beside what stands in the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DueJob {
    /// Its name: the same for the same backup of the same run, so that one run makes one Job.
    pub name: String,
    /// The cluster that runs it, as EKS knows it.
    pub cluster: String,
    /// `https://…` of its API server.
    pub endpoint: String,
    /// Base64 of its certificate authority, PEM.
    pub certificate_authority: String,
    /// Namespace.
    pub namespace: String,
    /// Image, by digest.
    pub image: String,
    /// Service account, whose role may write backups.
    pub service_account: String,
    /// Memory, as Kubernetes writes it: enough for the parts of a backup of this size.
    pub memory: String,
    /// After so long the cluster ends it.
    pub deadline_seconds: u64,
    /// Files of the plan that it needs, as items of a ConfigMap volume.
    pub files: Vec<JobFile>,
}

/// One file of a ConfigMap volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// Key in the ConfigMap, which may have no slash.
    pub key: String,
    /// Where it lies below the volume.
    pub path: String,
}

impl JobFile {
    /// The plan, and what it names beside itself. What it names by an absolute path must be in the image.
    pub fn of_plan(plan: &Plan) -> Vec<JobFile> {
        let clusters = [&plan.kubernetes.primary, &plan.kubernetes.secondary].map(|cluster| &cluster.ca_file);
        let mut files = vec![JobFile { key: JOB_PLAN.to_owned(), path: JOB_PLAN.to_owned() }];
        for path in [&plan.postgresql.ca_file].into_iter().chain(clusters) {
            if Path::new(path).is_relative() && files.iter().all(|file| file.path != *path) {
                files.push(JobFile { key: path.replace('/', "."), path: path.clone() });
            }
        }
        files
    }
}

/// How a Job ended: well, if there is no error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobEnd {
    /// Name of the error, as Step Functions gives it: `EKS.409`, `States.TaskFailed`, `States.Timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What came with it, in the form of whoever said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_plan_has_a_key_of_its_own() {
        let mut plan = Plan::parse("plans/sparc.toml", include_str!("../../../../plans/sparc.toml")).unwrap();
        plan.kubernetes.primary.ca_file = "/etc/authority.pem".to_owned();
        let files = JobFile::of_plan(&plan);
        let files: Vec<(&str, &str)> = files.iter().map(|file| (file.key.as_str(), file.path.as_str())).collect();
        assert_eq!(
            files,
            [
                ("plan.toml", "plan.toml"),
                ("certificates.rds-global-bundle.pem", "certificates/rds-global-bundle.pem"),
                ("certificates.sparc-prod-us-west-2.pem", "certificates/sparc-prod-us-west-2.pem"),
            ]
        );
    }
}
