//! Lambda `verify-recovery`.

use jiff::Timestamp;
use recovery_aws::Aws;
use recovery_http::HttpProber;
use recovery_lambda::misconfigured;
use recovery_sites::databases;
use verify_recovery::{Request, Response, World, metric, verify_recovery};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), recovery_lambda::Error> {
    recovery_lambda::serve(
        "verify-recovery",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            let sites = databases(&settings, &aws)?;
            aws.warm().await;
            let prober = HttpProber::new().map_err(|error| misconfigured(&format!("TLS cannot be set up: {error}")))?;
            Ok((settings, aws, sites, prober))
        },
        |wiring, request: Request| async move {
            let (settings, aws, sites, prober) = &*wiring;
            let (evidence, objects, objects_copy, registry) =
                (aws.evidence(), aws.objects(), aws.objects_copy(), aws.registry());
            let world = World {
                primary: &*sites.primary,
                standby: &*sites.standby,
                prober,
                evidence: &*evidence,
                objects: &*objects,
                objects_copy: &*objects_copy,
                registry: &*registry,
            };
            let (plan, now) = (&settings.plan, Timestamp::now());
            let response = verify_recovery(&request, plan, &world, now).await?;
            if let Response::Watch(watch) = &response {
                // Lambda sends standard output to CloudWatch, which finds the metric in it.
                println!("{}", metric::embedded(watch, plan, now));
            }
            Ok::<_, verify_recovery::Error>(response)
        },
    )
    .await
}
