//! What AWS allows an account in one region.

use serde_json::json;

use crate::{signed::Signed, trouble::Trouble};

/// A quota of a service, by the codes that Service Quotas gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// `ec2`, `eks`, `lambda`.
    pub service: &'static str,
    /// `L-…`.
    pub code: &'static str,
    /// As the console shows it.
    pub name: &'static str,
}

/// vCPUs of on-demand instances of the families A, C, D, H, I, M, R, T and Z.
/// <https://docs.aws.amazon.com/eks/latest/best-practices/known_limits_and_service_quotas.html>
pub const STANDARD_VCPUS: Quota =
    Quota { service: "ec2", code: "L-1216C47A", name: "Running On-Demand Standard instances" };
/// The same for spot instances.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-limits.html>
pub const STANDARD_SPOT_VCPUS: Quota =
    Quota { service: "ec2", code: "L-34B43A08", name: "All Standard Spot Instance Requests" };
/// Nodes in one managed node group.
/// <https://docs.aws.amazon.com/eks/latest/userguide/service-quotas.html>
pub const NODES_PER_GROUP: Quota = Quota { service: "eks", code: "L-BD136A63", name: "Nodes per managed node group" };
/// Invocations at the same time, of all functions of the account in a region.
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html>
pub const LAMBDA_CONCURRENCY: Quota = Quota { service: "lambda", code: "L-B99A9384", name: "Concurrent executions" };

/// Service Quotas of one region.
#[derive(Clone, Debug)]
pub struct ServiceQuotas {
    client: Signed,
}

impl ServiceQuotas {
    pub(crate) fn new(client: Signed) -> ServiceQuotas {
        ServiceQuotas { client }
    }

    /// The value that is applied to the account.
    ///
    /// # Errors
    /// The service's.
    pub async fn applied(&self, quota: Quota) -> Result<f64, Trouble> {
        let ask = json!({ "ServiceCode": quota.service, "QuotaCode": quota.code });
        let answer = self.client.call_json("GetServiceQuota", &ask).await?;
        answer["Quota"]["Value"]
            .as_f64()
            .ok_or_else(|| Trouble::unexpected(format!("Service Quotas answered without a value of {}", quota.code)))
    }
}
