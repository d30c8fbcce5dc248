//! The Lambda function `deploy-workloads`.

use jiff::Timestamp;
use recovery_aws::Aws;
use recovery_lambda::{Error, serve};
use recovery_sites::{Side, workloads};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    serve(
        "deploy-workloads",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            aws.warm().await;
            let cluster = workloads(&settings, &aws, Side::Secondary)?;
            Ok((settings.plan, aws.evidence(), cluster))
        },
        |wiring, request| async move {
            let (plan, evidence, cluster) = wiring.as_ref();
            deploy_workloads::deploy(request, plan, evidence.as_ref(), cluster, Timestamp::now()).await
        },
    )
    .await
}
