//! Lambda `plan-failover`.

use plan_failover::{Request, World, plan_failover};
use recovery_aws::Aws;
use recovery_sites::{Side, databases, workloads};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), recovery_lambda::Error> {
    recovery_lambda::serve(
        "plan-failover",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            let (sites, writers) = (databases(&settings, &aws)?, workloads(&settings, &aws, Side::Primary)?);
            tokio::join!(aws.warm(), sites.primary.warm(), sites.standby.warm());
            Ok((settings, aws, sites, writers))
        },
        |wiring, request: Request| async move {
            let (settings, aws, sites, writers) = &*wiring;
            let (evidence, switch, node_group) = (aws.evidence(), aws.switch(), aws.secondary_node_group());
            let world = World {
                primary: &*sites.primary,
                standby: &*sites.standby,
                evidence: &*evidence,
                switch: &*switch,
                node_group: &node_group,
                primary_workloads: writers,
            };
            plan_failover(&request, &settings.plan, &world).await
        },
    )
    .await
}
