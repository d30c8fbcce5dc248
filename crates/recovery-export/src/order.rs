//! The order in which objects of a cluster are applied.

/// Later kinds need earlier ones. Custom resources come before workloads, because most of them (secret references,
/// certificates) are what a workload waits for.
pub fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "PriorityClass" | "StorageClass" | "ResourceQuota" | "LimitRange" => 2,
        "ServiceAccount" => 3,
        "Role" | "ClusterRole" => 4,
        "RoleBinding" | "ClusterRoleBinding" => 5,
        "ConfigMap" => 6,
        "Secret" | "SecretStore" | "ClusterSecretStore" => 7,
        "ExternalSecret" => 8,
        "PersistentVolume" | "PersistentVolumeClaim" => 9,
        "NetworkPolicy" => 10,
        "Service" => 11,
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "CronJob" | "Pod" => 13,
        "HorizontalPodAutoscaler" | "PodDisruptionBudget" | "Ingress" => 14,
        // A webhook whose workload is not up yet would refuse everything that follows.
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" | "APIService" => 15,
        _ => 12,
    }
}
