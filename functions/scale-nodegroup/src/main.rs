//! The Lambda function `scale-nodegroup`.

use jiff::Timestamp;
use recovery_aws::Aws;
use recovery_lambda::{Error, serve};
use recovery_sites::{Side, workloads};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    serve(
        "scale-nodegroup",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            Ok((aws.secondary_node_group(), workloads(&settings, &aws, Side::Secondary)?))
        },
        |wiring, request| async move { scale_nodegroup::scale(request, &wiring.0, &wiring.1, Timestamp::now()).await },
    )
    .await
}
