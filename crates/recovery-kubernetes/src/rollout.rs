//! How far a Deployment is, and why it does not get further.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ListParams};
use recovery::cluster::Rollout;

use crate::connection::Cluster;
use crate::error::Error;

impl Cluster {
    /// Reads the rollouts of these Deployments, in the order of the names.
    pub async fn rollout_status(&self, names: &[String]) -> Result<Vec<Rollout>, Error> {
        let mut rollouts = Vec::with_capacity(names.len());
        for name in names {
            let Some(deployment) = self.deployment(name).await? else {
                rollouts.push(Rollout {
                    name: name.clone(),
                    desired: 0,
                    available: 0,
                    complete: false,
                    stuck: Some(format!("there is no Deployment `{name}` in namespace `{}`", self.at.namespace)),
                });
                continue;
            };
            let mut rollout = judge(name, &deployment);
            if !rollout.complete {
                // What a pod says is closer to the cause than what the Deployment says of its deadline.
                if let Some(reason) = self.why_pods_wait(&deployment).await? {
                    rollout.stuck = Some(match rollout.stuck {
                        Some(stuck) => format!("{reason}; {stuck}"),
                        None => reason,
                    });
                }
            }
            rollouts.push(rollout);
        }
        Ok(rollouts)
    }

    async fn why_pods_wait(&self, deployment: &Deployment) -> Result<Option<String>, Error> {
        let selector = selector(&deployment.spec.selector);
        let pods: Api<Pod> = Api::namespaced(self.client().await?, &self.at.namespace);
        match self.ask("listing pods", pods.list(&ListParams::default().labels(&selector))).await {
            Ok(mut pods) => {
                // The newest first: what an attempt before this one died of is history.
                pods.items.sort_by(|a, b| b.metadata.creation_timestamp.cmp(&a.metadata.creation_timestamp));
                Ok(pods.items.iter().find_map(why_waiting))
            }
            // They only explain; a role without this right can still see how far it is.
            Err(Error::Forbidden { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The same judgement as `kubectl rollout status` (Deployments; kubectl `polymorphichelpers/rollout_status.go`): numbers
/// count only when the controller has seen the current generation.
fn judge(name: &str, deployment: &Deployment) -> Rollout {
    let count = |number: Option<i32>| u32::try_from(number.unwrap_or(0)).unwrap_or(0);
    let desired = u32::try_from(deployment.spec.replicas.unwrap_or(1)).unwrap_or(0);
    let status = deployment.status.clone().unwrap_or_default();
    let seen = status.observed_generation >= deployment.metadata.generation && deployment.metadata.generation.is_some();
    let (total, updated, available) =
        (count(status.replicas), count(status.updated_replicas), count(status.available_replicas));
    let complete = seen && updated >= desired && total <= updated && available >= updated;
    let conditions = status.conditions.unwrap_or_default();
    let stuck = conditions.iter().find_map(|condition| {
        let failed = match condition.type_.as_deref().unwrap_or_default() {
            "Progressing" => condition.reason.as_deref() == Some("ProgressDeadlineExceeded"),
            // A quota or an admission webhook that refuses the pods.
            "ReplicaFailure" => condition.status.as_deref() == Some("True"),
            _ => false,
        };
        let (reason, message) = (condition.reason.as_deref()?, condition.message.as_deref().unwrap_or_default());
        failed.then(|| sentence(reason, message))
    });
    Rollout {
        name: name.to_owned(),
        desired,
        // Of the new revision: available pods of the old one do not count.
        available: if seen { available.min(updated) } else { 0 },
        complete,
        // The condition is about what the controller has seen, which may be the generation before.
        stuck: if complete || !seen { None } else { stuck },
    }
}

fn sentence(reason: &str, message: &str) -> String {
    if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") }
}

/// Why a pod does not become ready, when it is not only young.
fn why_waiting(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or("?");
    let status = pod.status.as_ref()?;
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unschedulable {
        let why = sentence("Unschedulable", condition.message.as_deref().unwrap_or_default());
        return Some(format!("pod `{name}` {why}"));
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        // `ContainerCreating` and `PodInitializing` are what every start goes through.
        if matches!(reason, "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let why = sentence(reason, waiting.message.as_deref().unwrap_or_default());
        Some(format!("container `{}` of pod `{name}` {why}", container.name))
    })
}

/// A selector as the query that lists take.
fn selector(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let matching = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.clone().unwrap_or_default().join(",");
        match expression.operator.as_str() {
            "In" => format!("{} in ({values})", expression.key),
            "NotIn" => format!("{} notin ({values})", expression.key),
            "DoesNotExist" => format!("!{}", expression.key),
            _ => expression.key.clone(),
        }
    });
    equal.chain(matching).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(status: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "core-apis", "generation": 4},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "core-apis"}}, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_complete_when_all_of_the_seen_generation_is_available() {
        let deadline = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
            "message": "ReplicaSet \"core-apis-1\" has timed out progressing."}]);
        let quota = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]);
        let of = |seen: u32, total: u32, updated: u32, available: u32| json!({"observedGeneration": seen, "replicas": total, "updatedReplicas": updated, "availableReplicas": available});
        let with = |mut status: Value, conditions: &Value| {
            status["conditions"] = conditions.clone();
            status
        };
        let situations = [
            ("all there", of(4, 3, 3, 3), true, 3, None),
            ("numbers of the generation before", of(3, 3, 3, 3), false, 0, None),
            ("one pod is missing", of(4, 3, 3, 2), false, 2, None),
            ("old pods still serve", of(4, 4, 1, 4), false, 1, None),
            ("an old pod is still ending", of(4, 4, 3, 3), false, 3, None),
            ("nobody has looked at it", json!({}), false, 0, None),
            (
                "past its deadline",
                with(of(4, 3, 3, 0), &deadline),
                false,
                0,
                Some("ProgressDeadlineExceeded: ReplicaSet \"core-apis-1\" has timed out progressing."),
            ),
            ("no quota for its pods", with(of(4, 0, 0, 0), &quota), false, 0, Some("FailedCreate: exceeded quota")),
            ("past the deadline of the generation before", with(of(3, 3, 3, 0), &deadline), false, 0, None),
        ];
        for (situation, status, complete, available, stuck) in situations {
            let rollout = judge("core-apis", &deployment(status));
            let seen = (rollout.complete, rollout.available, rollout.stuck.as_deref());
            assert_eq!(seen, (complete, available, stuck), "{situation}");
        }
    }

    #[test]
    fn a_waiting_pod_says_why_unless_it_is_only_young() {
        let waiting = |reason: &str, message: &str| {
            json!({"containerStatuses": [{"name": "api", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": message}}}]})
        };
        let unschedulable = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient cpu."}]});
        let situations = [
            (waiting("ContainerCreating", ""), None),
            (
                waiting("ImagePullBackOff", "Back-off pulling image"),
                Some("container `api` of pod `p` ImagePullBackOff: Back-off pulling image"),
            ),
            (waiting("CrashLoopBackOff", ""), Some("container `api` of pod `p` CrashLoopBackOff")),
            (unschedulable, Some("pod `p` Unschedulable: 0/2 nodes are available: 2 Insufficient cpu.")),
        ];
        for (status, expected) in situations {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
            assert_eq!(why_waiting(&pod).as_deref(), expected);
        }
    }
}
