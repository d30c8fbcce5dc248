//! The Lambda `report`: the plan and the evidence bucket, wired to the library.

use std::sync::Arc;

use jiff::Timestamp;
use recovery::{
    backup::{BackupStorage, Catalogue},
    plan::Plan,
    store::ObjectStore,
};
use recovery_aws::Aws;
use recovery_lambda::Settings;
use report::{Request, write_report};

struct Wiring {
    plan: Arc<Plan>,
    evidence: Arc<dyn ObjectStore>,
    list: Arc<dyn BackupStorage>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), recovery_lambda::Error> {
    recovery_lambda::serve(
        "report",
        |settings: Settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            aws.warm().await;
            Ok(Wiring { plan: settings.plan, evidence: aws.evidence(), list: aws.evidence_list() })
        },
        |wiring: Arc<Wiring>, request: Request| async move {
            let catalogue = Catalogue { list: &*wiring.list, evidence: &*wiring.evidence };
            write_report(&request, &wiring.plan, catalogue, Timestamp::now()).await
        },
    )
    .await
}
