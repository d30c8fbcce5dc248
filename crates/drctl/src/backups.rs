//! `drctl backups`: what there is to restore from, what of it is proven, and whether that is as new as the plan asks.
//!
//! Read from the evidence bucket alone: what the backups bucket says of itself proves nothing.

use std::time::Duration;

use jiff::Timestamp;
use recovery::{
    backup::{BackupId, Catalogue, Finding, Kind, Known, Policy, Proof, Receipt, Standing},
    fault::chain,
    notice::utc,
    objective::human_seconds,
    plan::Plan,
    store::StoreError,
};
use recovery_aws::Aws;
use serde::Serialize;

use crate::{
    cli::BackupsArgs,
    paint::{Paint, Table},
    problem::{Problem, exit},
};

/// The last column.
const VERDICT: usize = 8;

/// Longest wait for the evidence bucket.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of one backup.
#[derive(Debug, Serialize)]
struct One {
    backup: BackupId,
    receipt: Option<Receipt>,
    /// Marked to expire.
    expired: bool,
    /// Newest first.
    proofs: Vec<Proof>,
}

/// Prints how backups stand, or what is known of one.
pub async fn backups(args: BackupsArgs) -> Result<u8, Problem> {
    let plan = Plan::read(&args.plan.plan)?;
    let aws = Aws::from_plan(&plan).await;
    let (list, evidence) = (aws.evidence_list(), aws.evidence());
    let catalogue = Catalogue { list: &*list, evidence: &*evidence };
    let bucket = format!("s3://{}", plan.buckets.evidence);
    let look = async {
        match &args.backup {
            Some(backup) => one(catalogue, backup, args.json).await,
            None => all(catalogue, &plan, args.json).await,
        }
    };
    let late = |_| Problem::failed(format!("{bucket} did not answer within {} s; try again", PATIENCE.as_secs()));
    let unread = |error: StoreError| {
        Problem::failed(format!("{bucket} cannot be read: {}; see `drctl deploy check`", chain(&error)))
    };
    tokio::time::timeout(PATIENCE, look).await.map_err(late)?.map_err(unread)
}

async fn all(catalogue: Catalogue<'_>, plan: &Plan, json: bool) -> Result<u8, StoreError> {
    let now = Timestamp::now();
    let mut standings: Vec<(&Policy, Standing)> = Vec::new();
    // The archive of the log is proven with the base backup that it continues.
    for policy in plan.backups.policies.iter().filter(|policy| policy.kind != Kind::Wal) {
        standings.extend(catalogue.standings(policy, now).await?.into_iter().map(|standing| (policy, standing)));
    }
    let is_good = standings.iter().all(|(_, standing)| standing.fresh && standing.proven_in_time);
    if json {
        let plain: Vec<&Standing> = standings.iter().map(|(_, standing)| standing).collect();
        println!("{}", serde_json::to_string_pretty(&plain).unwrap_or_default());
    } else {
        show(plan, &standings, now);
    }
    Ok(if is_good { exit::DONE } else { exit::FOUND })
}

fn show(plan: &Plan, standings: &[(&Policy, Standing)], now: Timestamp) {
    let paint = Paint::stdout();
    println!("Backups of {}, as s3://{} has them at {}", plan.platform, plan.buckets.evidence, utc(now));
    let mut table = Table::default();
    table.row(["kind", "of", "newest", "age", "proven", "to", "proven at", "took", "is"]);
    for (policy, standing) in standings {
        let none = || "none".to_owned();
        let due = |backup: &BackupId| utc(backup.due_at);
        let age = |seconds: Option<i64>| seconds.map_or_else(none, |seconds| human_seconds(seconds as f64));
        let proven = standing.proven.as_ref();
        table.row([
            standing.kind.to_string(),
            standing.subject.clone().unwrap_or_else(none),
            standing.newest.as_ref().map_or_else(none, |newest| due(&newest.backup)),
            age(standing.age_seconds),
            proven.map_or_else(none, |proven| due(&proven.verified.backup)),
            proven.map_or_else(|| "-".to_owned(), |proven| proven.verified.rung.to_string()),
            proven.map_or_else(|| "-".to_owned(), |proven| utc(proven.verified.proven_at)),
            proven.map_or_else(|| "-".to_owned(), |proven| human_seconds(proven.took_seconds)),
            verdict(policy, standing),
        ]);
    }
    let is_good =
        |row: usize| standings.get(row - 1).is_some_and(|(_, standing)| standing.fresh && standing.proven_in_time);
    let painted = |row: usize, column: usize, cell: &str| match (row, column) {
        (0, _) => paint.bold(cell),
        (_, VERDICT) if is_good(row) => paint.good(cell),
        (_, VERDICT) => paint.bad(cell),
        _ => cell.to_owned(),
    };
    print!("{}", table.lines(painted));
    for (_, standing) in standings {
        let Some(newest) = standing.newest.as_ref().filter(|_| !standing.findings.is_empty()) else { continue };
        println!("\n{}", paint.bad(&format!("{} is not as it should be:", newest.backup)));
        tell(&standing.findings);
    }
}

/// Against the plan: how old the newest one and the newest proven one may be.
fn verdict(policy: &Policy, standing: &Standing) -> String {
    match (standing.fresh, standing.proven_in_time) {
        (true, true) => "as planned".to_owned(),
        (false, _) if standing.newest.is_none() => "missing".to_owned(),
        (false, _) => format!("older than {}", policy.fresh_within),
        (true, false) => format!("not proven to {} within {}", policy.proven_to, policy.proven_within),
    }
}

fn tell(findings: &[Finding]) {
    for found in findings {
        let what = found.artifact.as_deref().unwrap_or("the backup");
        println!("  {} rung, {what}: {}; {}", found.rung, found.says, found.remedy);
    }
}

async fn one(catalogue: Catalogue<'_>, backup: &BackupId, json: bool) -> Result<u8, StoreError> {
    let known = catalogue.known(backup.kind, &backup.subject).await?;
    let known = known.into_iter().find(|known| known.backup == *backup);
    let receipt = catalogue.receipt(backup).await?;
    let mut proofs = Vec::new();
    for key in known.iter().flat_map(|known| &known.proofs) {
        let only = Known { backup: backup.clone(), complete: true, expired: false, proofs: vec![key.clone()] };
        proofs.extend(catalogue.last_proof(&only).await?);
    }
    let one = One { backup: backup.clone(), receipt, expired: known.is_some_and(|known| known.expired), proofs };
    let is_good = one.receipt.is_some() && one.proofs.first().is_some_and(|proof| proof.findings.is_empty());
    if json {
        println!("{}", serde_json::to_string_pretty(&one).unwrap_or_default());
    } else {
        tell_one(&one);
    }
    Ok(if is_good { exit::DONE } else { exit::FOUND })
}

fn tell_one(one: &One) {
    let paint = Paint::stdout();
    println!("{}", paint.bold(&one.backup.to_string()));
    match &one.receipt {
        Some(receipt) => {
            println!("complete since {}, kept until {}", utc(receipt.completed_at), utc(receipt.retain_until))
        }
        None => println!("{}", paint.bad("never completed: there is no receipt of it")),
    }
    if one.expired {
        println!("{}", paint.doubt("marked to expire"));
    }
    if one.proofs.is_empty() {
        println!("{}", paint.doubt("not proven yet"));
    }
    for proof in &one.proofs {
        let counts = &proof.artifacts;
        println!(
            "{}: proven to {}, asked for {}; {} artifacts found, {} checked, {} valid; {} by {}",
            utc(proof.proven_at),
            proof.rung.map_or("nothing", |rung| rung.word()),
            proof.asked,
            counts.found,
            counts.checked,
            counts.valid,
            human_seconds(proof.took_seconds),
            proof.by,
        );
        tell(&proof.findings);
    }
}
