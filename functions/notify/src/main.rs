//! The Lambda function `notify`.

use jiff::Timestamp;
use recovery_aws::Aws;
use recovery_lambda::{Error, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    serve(
        "notify",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            aws.warm().await;
            Ok((settings.plan, aws.evidence(), aws.messenger()))
        },
        |wiring, request| async move {
            let (plan, evidence, messenger) = wiring.as_ref();
            notify::notify(request, plan, evidence.as_ref(), messenger.as_ref(), Timestamp::now()).await
        },
    )
    .await
}
