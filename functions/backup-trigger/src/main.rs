//! Lambda `backup-trigger`, and with a backup as its only argument the same in a Job of the cluster.

use std::{process::ExitCode, time::Duration};

use backup_trigger::{Request, World, backup_trigger};
use jiff::Timestamp;
use recovery::fault::Failure;
use recovery_aws::Aws;
use recovery_lambda::Settings;

/// Lambda ends after 15 minutes; an upload must be ended before.
const LAMBDA: Duration = Duration::from_secs(14 * 60);
/// A Job is ended by its own `activeDeadlineSeconds`; this is for one artifact.
const JOB: Duration = Duration::from_secs(24 * 3600);

struct Wiring {
    settings: Settings,
    aws: Aws,
    sites: recovery_sites::Takers,
    within: Duration,
}

fn prepare(settings: Settings, aws: Aws, within: Duration) -> Result<Wiring, Failure> {
    let sites = recovery_sites::takers(&settings, &aws)?;
    Ok(Wiring { settings, aws, sites, within })
}

async fn handle(wiring: &Wiring, request: Request) -> Result<backup_trigger::Response, backup_trigger::Error> {
    let (backups, evidence) = (wiring.aws.bucket(&wiring.settings.plan.buckets.backups), wiring.aws.evidence());
    let world = World {
        takers: &wiring.sites,
        parts: wiring.aws.backup_parts(),
        backups: &backups,
        evidence: &*evidence,
        now: Timestamp::now,
        within: wiring.within,
    };
    backup_trigger(&request, &wiring.settings.plan, &world).await
}

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(backup) = std::env::args().nth(1) {
        return recovery_lambda::once(
            "backup-trigger",
            serde_json::json!({ "action": "take", "run": "job", "backup": backup }),
            |settings: Settings| async move {
                let aws = Aws::from_plan(&settings.plan).await;
                prepare(settings, aws, JOB)
            },
            |wiring, request: Request| async move { handle(&wiring, request).await },
        )
        .await;
    }
    let served = recovery_lambda::serve(
        "backup-trigger",
        |settings: Settings| async move {
            let aws = Aws::in_lambda(&settings.plan);
            let wiring = prepare(settings, aws, LAMBDA)?;
            wiring.aws.warm().await;
            Ok(wiring)
        },
        |wiring, request: Request| async move { handle(&wiring, request).await },
    )
    .await;
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("backup-trigger: {error}; start it in Lambda, or name a backup");
            ExitCode::FAILURE
        }
    }
}
