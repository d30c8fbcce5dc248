//! Lambda `fence-primary`.

use fence_primary::{Request, World, fence_primary};
use jiff::Timestamp;
use recovery_aws::Aws;
use recovery_sites::{Side, databases, workloads};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), recovery_lambda::Error> {
    recovery_lambda::serve(
        "fence-primary",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            let (sites, writers) = (databases(&settings, &aws)?, workloads(&settings, &aws, Side::Primary)?);
            tokio::join!(aws.warm(), sites.primary.warm());
            Ok((settings, aws, sites, writers))
        },
        |wiring, request: Request| async move {
            let (settings, aws, sites, writers) = &*wiring;
            let evidence = aws.evidence();
            let world = World { primary: &*sites.primary, evidence: &*evidence, workloads: writers };
            fence_primary(&request, &settings.plan, &world, Timestamp::now()).await
        },
    )
    .await
}
