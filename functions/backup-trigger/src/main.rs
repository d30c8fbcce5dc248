//! Lambda `backup-trigger`, and with a backup and a run as its arguments the same in a Job of the cluster.

use std::{process::ExitCode, sync::Arc, time::Duration};

use backup_trigger::{Request, World, backup_trigger};
use jiff::Timestamp;
use recovery::fault::Failure;
use recovery_aws::Aws;
use recovery_lambda::Settings;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// Lambda ends after 15 minutes; an upload must be ended before.
const LAMBDA: Duration = Duration::from_secs(14 * 60);
/// A Job is ended by its own `activeDeadlineSeconds`, which is shorter.
const JOB: Duration = Duration::from_secs(24 * 3600);

struct Wiring {
    settings: Settings,
    aws: Aws,
    sites: recovery_sites::Takers,
    authority: String,
    within: Duration,
    stop: Arc<Notify>,
}

fn prepare(settings: Settings, aws: Aws, within: Duration) -> Result<Wiring, Failure> {
    let sites = recovery_sites::takers(&settings, &aws)?;
    let authority = settings.file(&settings.plan.kubernetes.secondary.ca_file)?;
    Ok(Wiring { settings, aws, sites, authority, within, stop: Arc::default() })
}

async fn handle(wiring: &Wiring, request: Request) -> Result<backup_trigger::Response, backup_trigger::Error> {
    let (backups, evidence) = (wiring.aws.bucket(&wiring.settings.plan.buckets.backups), wiring.aws.evidence());
    let world = World {
        takers: &wiring.sites,
        parts: wiring.aws.backup_parts(),
        backups: &backups,
        evidence: &*evidence,
        list: &*wiring.aws.evidence_list(),
        authority: &wiring.authority,
        now: Timestamp::now,
        within: wiring.within,
        stop: &wiring.stop,
    };
    backup_trigger(&request, &wiring.settings.plan, &world).await
}

/// Passes on that the pod is to go: it is evicted, its node is drained, its Job was deleted.
fn listen(stop: &Arc<Notify>) -> Result<(), Failure> {
    let mut asked = signal(SignalKind::terminate())
        .map_err(|error| recovery_lambda::misconfigured(&format!("the system tells nothing of signals: {error}")))?;
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        asked.recv().await;
        stop.notify_one();
    });
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let by_hand = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => None,
        [backup] => Some((*backup, "by-hand")),
        [backup, run] => Some((*backup, *run)),
        [_, _, more @ ..] => {
            eprintln!("backup-trigger: too many arguments, from `{}` on; they are a backup and a run", more.join(" "));
            return ExitCode::from(recovery_lambda::IN_VAIN);
        }
    };
    if let Some((backup, run)) = by_hand {
        return recovery_lambda::once(
            "backup-trigger",
            serde_json::json!({ "action": "take", "run": run, "backup": backup }),
            |settings: Settings| async move {
                let aws = Aws::from_plan(&settings.plan).await;
                let wiring = prepare(settings, aws, JOB)?;
                listen(&wiring.stop)?;
                Ok(wiring)
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
