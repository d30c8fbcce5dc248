//! The cluster's fence: writers at zero, their former counts on them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use kube::api::{Api, ListParams, Patch, PatchParams};
use recovery::cluster::{Remembered, Writer};
use serde_json::{Value, json};

use crate::FIELD_MANAGER;
use crate::connection::Cluster;
use crate::error::Error;

/// The annotation that remembers a count: `{"replicas":3,"epoch":7}`.
pub const REPLICAS_BEFORE: &str = "recovery.sparc/replicas-before";

/// How often one writer is read when others keep changing it.
const MOST_LOOKS: u32 = 8;

/// A writer with what the domain's [`Writer`] leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterStatus {
    /// What the domain wants to know.
    pub writer: Writer,
    /// Pods that still run: a pod may write for its whole grace period after the count has become zero.
    pub running: u32,
    /// Horizontal autoscaler that is set on it. At zero replicas it pauses by itself (`ScalingActive: False`,
    /// kubernetes.io "Implicit maintenance-mode deactivation"), so it does not undo the fence.
    pub autoscaler: Option<String>,
}

impl Cluster {
    /// Reads the writers of the plan's label selector, in order of their names.
    pub async fn writer_statuses(&self) -> Result<Vec<WriterStatus>, Error> {
        let doing = format!("listing the Deployments labelled `{}`", self.at.writers);
        let deployments = self.deployments().await?;
        let found = self.ask(&doing, deployments.list(&ListParams::default().labels(&self.at.writers))).await?;
        let autoscalers = self.autoscalers().await?;
        let mut statuses: Vec<WriterStatus> = found
            .items
            .iter()
            .map(|deployment| {
                let writer = writer(deployment);
                let autoscaler =
                    autoscalers.iter().find(|(_, target)| *target == writer.name).map(|(name, _)| name.clone());
                let running = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
                WriterStatus { writer, running: u32::try_from(running).unwrap_or(0), autoscaler }
            })
            .collect();
        statuses.sort_by(|a, b| a.writer.name.cmp(&b.writer.name));
        Ok(statuses)
    }

    /// Scales every writer to zero and remembers its count under `epoch`. Repeating keeps the first counts.
    ///
    /// # Errors
    /// A writer is held by a later epoch: then nothing has been changed.
    pub async fn scale_to_zero(&self, epoch: u64) -> Result<Vec<Writer>, Error> {
        self.each_writer(|writer| {
            stop(writer, epoch).map_err(|held| Error::Superseded {
                cluster: self.at.cluster.clone(),
                writer: writer.name.clone(),
                epoch,
                held,
            })
        })
        .await
    }

    /// Gives writers that were stopped under `epoch` their counts back, and takes the annotation away.
    pub async fn restore_replicas(&self, epoch: u64) -> Result<Vec<Writer>, Error> {
        self.each_writer(|writer| Ok(restart(writer, epoch))).await
    }

    /// Reads, decides for all, then changes what must be changed, one request for each writer.
    async fn each_writer(
        &self,
        decide: impl Fn(&Writer) -> Result<Option<Change>, Error>,
    ) -> Result<Vec<Writer>, Error> {
        let deployments = self.deployments().await?;
        let doing = format!("listing the Deployments labelled `{}`", self.at.writers);
        let found = self.ask(&doing, deployments.list(&ListParams::default().labels(&self.at.writers))).await?;
        let mut decided = Vec::new();
        for deployment in found.items {
            let change = decide(&writer(&deployment))?;
            decided.push((deployment, change));
        }
        let mut writers = Vec::new();
        for (deployment, change) in decided {
            writers.push(self.change_writer(deployment, change, &decide).await?);
        }
        writers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(writers)
    }

    /// Changes one writer as decided. A controller that only reports progress changes the object's version too, several
    /// times a second while pods come and go; then the writer is read and judged again, a few times at most.
    async fn change_writer(
        &self,
        mut deployment: Deployment,
        mut change: Option<Change>,
        decide: impl Fn(&Writer) -> Result<Option<Change>, Error>,
    ) -> Result<Writer, Error> {
        let name = deployment.metadata.name.clone().unwrap_or_default();
        let doing = format!("scaling Deployment/{name}");
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let mut looks = 1;
        while let Some(wanted) = change {
            // With the version that was read: a count changed meanwhile is looked at again, not overwritten.
            let patch = Patch::Merge(wanted.patch(deployment.metadata.resource_version.as_deref()));
            let deployments = self.deployments().await?;
            deployment = match self.ask(&doing, deployments.patch(&name, &params, &patch)).await {
                Err(Error::Raced { .. }) if looks < MOST_LOOKS => self.ask(&doing, deployments.get(&name)).await?,
                Err(error) => return Err(error),
                Ok(changed) => return Ok(writer(&changed)),
            };
            looks += 1;
            change = decide(&writer(&deployment))?;
        }
        Ok(writer(&deployment))
    }

    pub(crate) async fn deployments(&self) -> Result<Api<Deployment>, Error> {
        Ok(Api::namespaced(self.client().await?, &self.at.namespace))
    }

    pub(crate) async fn deployment(&self, name: &str) -> Result<Option<Deployment>, Error> {
        let deployments = self.deployments().await?;
        self.ask(&format!("reading Deployment/{name}"), deployments.get_opt(name)).await
    }

    /// Names of autoscalers and of the Deployments that they scale.
    async fn autoscalers(&self) -> Result<Vec<(String, String)>, Error> {
        let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client().await?, &self.at.namespace);
        let found = match self.ask("listing autoscalers", autoscalers.list(&ListParams::default())).await {
            Ok(found) => found,
            // They only inform; a role without this right must still be able to fence.
            Err(Error::Forbidden { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let pairs = found.items.into_iter().filter_map(|autoscaler| {
            let target = autoscaler.spec.scale_target_ref;
            (target.kind == "Deployment").then_some((autoscaler.metadata.name?, target.name))
        });
        Ok(pairs.collect())
    }
}

/// A Deployment as a writer. An annotation that is not ours to read counts as none, and is overwritten by the next stop.
fn writer(deployment: &Deployment) -> Writer {
    let replicas = deployment.spec.replicas.unwrap_or(1);
    let annotation = deployment.metadata.annotations.as_ref().and_then(|all| all.get(REPLICAS_BEFORE));
    Writer {
        name: deployment.metadata.name.clone().unwrap_or_default(),
        replicas: u32::try_from(replicas).unwrap_or(0),
        remembered: annotation.and_then(|text| serde_json::from_str(text).ok()),
    }
}

/// What is to be changed on a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    /// `None` leaves the count alone.
    replicas: Option<u32>,
    /// `None` takes the annotation away.
    remember: Option<Remembered>,
}

impl Change {
    fn patch(&self, version: Option<&str>) -> Value {
        let remembered = self.remember.as_ref().map(|remembered| json!(remembered).to_string());
        let mut patch = json!({"metadata": {"annotations": {REPLICAS_BEFORE: remembered}}});
        if let Some(version) = version {
            patch["metadata"]["resourceVersion"] = json!(version);
        }
        if let Some(replicas) = self.replicas {
            patch["spec"] = json!({"replicas": replicas});
        }
        patch
    }
}

/// Decides how to stop a writer; `Err` is the later epoch that holds it.
fn stop(writer: &Writer, epoch: u64) -> Result<Option<Change>, u64> {
    let now = writer.replicas;
    let count = match &writer.remembered {
        Some(held) if held.epoch > epoch => return Err(held.epoch),
        Some(held) if held.epoch == epoch && now == 0 => return Ok(None),
        // Somebody started it again under our fence: the first count stands.
        Some(held) if held.epoch == epoch => held.replicas,
        // An earlier run stopped it and never gave it back: its count is the only one there is.
        Some(held) if now == 0 => held.replicas,
        Some(_) | None => now,
    };
    let replicas = (now != 0).then_some(0);
    Ok(Some(Change { replicas, remember: Some(Remembered { replicas: count, epoch }) }))
}

/// Decides how to start a writer again.
fn restart(writer: &Writer, epoch: u64) -> Option<Change> {
    let held = writer.remembered.as_ref().filter(|held| held.epoch == epoch)?;
    // Somebody has started it already: theirs is the later word.
    let replicas = (writer.replicas == 0 && held.replicas != 0).then_some(held.replicas);
    Some(Change { replicas, remember: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(replicas: u32, remembered: Option<(u32, u64)>) -> Writer {
        let remembered = remembered.map(|(replicas, epoch)| Remembered { replicas, epoch });
        Writer { name: "core-apis".to_owned(), replicas, remembered }
    }

    fn change(replicas: Option<u32>, remember: Option<(u32, u64)>) -> Option<Change> {
        let remember = remember.map(|(replicas, epoch)| Remembered { replicas, epoch });
        Some(Change { replicas, remember })
    }

    #[test]
    fn stopping_keeps_the_count_that_is_true() {
        let situations = [
            ("it runs", writer(3, None), Ok(change(Some(0), Some((3, 7))))),
            ("it never ran", writer(0, None), Ok(change(None, Some((0, 7))))),
            ("this run has stopped it", writer(0, Some((3, 7))), Ok(None)),
            ("somebody started it under our fence", writer(1, Some((3, 7))), Ok(change(Some(0), Some((3, 7))))),
            ("an earlier run left it stopped", writer(0, Some((3, 6))), Ok(change(None, Some((3, 7))))),
            ("it runs again after an earlier run", writer(4, Some((3, 6))), Ok(change(Some(0), Some((4, 7))))),
            ("a later run holds it", writer(0, Some((3, 8))), Err(8)),
        ];
        for (situation, writer, expected) in situations {
            assert_eq!(stop(&writer, 7), expected, "{situation}");
        }
    }

    #[test]
    fn restarting_gives_back_only_what_this_epoch_took() {
        let situations = [
            ("this run has stopped it", writer(0, Some((3, 7))), change(Some(3), None)),
            ("it was at zero before", writer(0, Some((0, 7))), change(None, None)),
            ("somebody has started it already", writer(5, Some((3, 7))), change(None, None)),
            ("it was given back", writer(3, None), None),
            ("another run holds it", writer(0, Some((3, 8))), None),
        ];
        for (situation, writer, expected) in situations {
            assert_eq!(restart(&writer, 7), expected, "{situation}");
        }
    }

    #[test]
    fn the_count_and_the_zero_travel_in_one_request() {
        let patch = change(Some(0), Some((3, 7))).unwrap().patch(Some("41"));
        let expected = json!({
            "metadata": {"annotations": {REPLICAS_BEFORE: r#"{"replicas":3,"epoch":7}"#}, "resourceVersion": "41"},
            "spec": {"replicas": 0},
        });
        assert_eq!(patch, expected);
    }
}
