//! The Lambda function `swap-dns`.

use jiff::Timestamp;
use recovery_aws::Aws;
use recovery_http::HttpProber;
use recovery_lambda::{Error, misconfigured, serve};
use swap_dns::Means;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    serve(
        "swap-dns",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            aws.warm().await;
            let prober = HttpProber::new().map_err(|error| misconfigured(&recovery::fault::chain(&error)))?;
            Ok((settings.plan, aws, prober))
        },
        |wiring, request| async move {
            let (plan, aws, prober) = wiring.as_ref();
            let (switch, evidence) = (aws.switch(), aws.evidence());
            let records = aws.records(&plan.names.hosted_zone);
            let cdn = plan.names.cdn.as_ref().map(|cdn| aws.distribution(&cdn.distribution));
            let means = Means {
                switch: switch.as_ref(),
                evidence: evidence.as_ref(),
                prober,
                records: records.as_ref(),
                cdn: cdn.as_deref(),
            };
            swap_dns::swap(request, plan, &means, Timestamp::now()).await
        },
    )
    .await
}
