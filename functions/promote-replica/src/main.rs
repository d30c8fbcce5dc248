//! Lambda `promote-replica`.

use jiff::Timestamp;
use promote_replica::{Request, World, promote_replica};
use recovery_aws::Aws;
use recovery_sites::databases;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), recovery_lambda::Error> {
    recovery_lambda::serve(
        "promote-replica",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            let sites = databases(&settings, &aws)?;
            tokio::join!(aws.warm(), sites.standby.warm());
            Ok((settings, aws, sites))
        },
        |wiring, request: Request| async move {
            let (settings, aws, sites) = &*wiring;
            let evidence = aws.evidence();
            let world = World { standby: &*sites.standby, replica: &*sites.replica, evidence: &*evidence };
            promote_replica(&request.run, &settings.plan, &world, Timestamp::now()).await
        },
    )
    .await
}
