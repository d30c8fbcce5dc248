//! Lambda `checksum-verify`.

use checksum_verify::{LOG_BUDGET_BYTES, Response, World, checksum_verify, metric};
use jiff::Timestamp;
use recovery::backup::{Catalogue, ChecksumVerifyRequest, SnapshotShelf};
use recovery_aws::Aws;

#[tokio::main]
async fn main() -> Result<(), recovery_lambda::Error> {
    recovery_lambda::serve(
        "checksum-verify",
        |settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            aws.warm().await;
            Ok((settings, aws))
        },
        |wiring, request: ChecksumVerifyRequest| async move {
            let (settings, aws) = &*wiring;
            let (backups, wal, list, evidence) =
                (aws.backups(), aws.wal_archive(), aws.evidence_list(), aws.evidence());
            let catalogue = Catalogue { list: &*list, evidence: &*evidence };
            let shelves = aws.snapshot_shelves();
            let snapshots: Vec<&dyn SnapshotShelf> =
                shelves.iter().flatten().map(|shelf| shelf as &dyn SnapshotShelf).collect();
            let managed_log = aws.managed_log();
            let world = World {
                backups: &*backups,
                wal: &*wal,
                managed_log: managed_log.as_deref(),
                log_budget_bytes: LOG_BUDGET_BYTES,
                catalogue,
                snapshots: &snapshots,
            };
            let (plan, now) = (&settings.plan, Timestamp::now());
            let response = checksum_verify(&request, plan, &world, now).await?;
            let lines = match &response {
                Response::Planned(planned) => metric::embedded(&planned.standings, plan, now),
                Response::Log(found) => metric::of_log(found, plan, now).into_iter().collect(),
                _ => Vec::new(),
            };
            // Lambda sends standard output to CloudWatch, which finds the metrics in it.
            for line in lines {
                println!("{line}");
            }
            Ok::<_, checksum_verify::Error>(response)
        },
    )
    .await
}
