//! `drctl backups`: what there is to restore from, what of it is proven, and whether that is as new as the plan asks.
//!
//! Read from the evidence bucket alone: what the backups bucket says of itself proves nothing.

use std::time::Duration;

use jiff::Timestamp;
use recovery::{
    backup::{BackupId, Catalogue, Finding, Known, LogStanding, Proof, Receipt, Standing},
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
    let standings = catalogue.all_standings(plan, now).await?;
    let is_good = standings.iter().all(|standing| standing.is_as_planned() && standing.log_is_whole());
    if json {
        println!("{}", serde_json::to_string_pretty(&standings).unwrap_or_default());
    } else {
        show(plan, &standings, now);
    }
    Ok(if is_good { exit::DONE } else { exit::FOUND })
}

fn show(plan: &Plan, standings: &[Standing], now: Timestamp) {
    let paint = Paint::stdout();
    println!("Backups of {}, as s3://{} has them at {}", plan.platform, plan.buckets.evidence, utc(now));
    let mut table = Table::default();
    table.row(["kind", "of", "newest", "age", "proven", "to", "proven at", "took", "is"]);
    for standing in standings {
        table.row(match &standing.log {
            Some(log) => of_log(plan, standing, log),
            None => of_backups(plan, standing),
        });
    }
    let painted = |row: usize, column: usize, cell: &str| match (row, column) {
        (0, _) => paint.bold(cell),
        (_, VERDICT) if standings.get(row - 1).is_some_and(Standing::is_as_planned) => paint.good(cell),
        (_, VERDICT) => paint.bad(cell),
        _ => cell.to_owned(),
    };
    print!("{}", table.lines(painted));
    for standing in standings.iter().filter(|standing| !standing.findings.is_empty()) {
        let of = match (&standing.newest, &standing.subject) {
            (Some(newest), _) => newest.backup.to_string(),
            (None, subject) => format!("the {} of `{}`", standing.kind, subject.as_deref().unwrap_or("nothing")),
        };
        println!("\n{}", paint.bad(&format!("{of} is not as it should be:")));
        tell(&standing.findings);
    }
}

const NONE: &str = "none";
const NOTHING: &str = "-";

fn verdict(plan: &Plan, standing: &Standing) -> String {
    plan.backups.policy(standing.kind).map_or_else(String::new, |policy| standing.verdict(policy))
}

fn of_backups(plan: &Plan, standing: &Standing) -> [String; 9] {
    let proven = standing.proven.as_ref();
    let or = |text: Option<String>, other: &str| text.unwrap_or_else(|| other.to_owned());
    [
        standing.kind.to_string(),
        or(standing.subject.clone(), NONE),
        or(standing.newest.as_ref().map(|newest| utc(newest.backup.due_at)), NONE),
        or(standing.age_seconds.map(|age| human_seconds(age as f64)), NONE),
        or(proven.map(|proven| utc(proven.verified.backup.due_at)), NONE),
        or(proven.map(|proven| proven.verified.rung.to_string()), NOTHING),
        or(proven.map(|proven| utc(proven.verified.proven_at)), NOTHING),
        or(proven.map(|proven| human_seconds(proven.took_seconds)), NOTHING),
        verdict(plan, standing),
    ]
}

/// The log is no series of backups: its newest is the moment that a restore can go to, and its proof the last time that it
/// was followed from a base backup to its end.
fn of_log(plan: &Plan, standing: &Standing, log: &LogStanding) -> [String; 9] {
    let or = |text: Option<String>, other: &str| text.unwrap_or_else(|| other.to_owned());
    let reaches_to = log.reach.as_ref().and_then(|reach| reach.reaches_to);
    let chain = log.chain.as_ref();
    let proven_at = chain.and_then(|chain| chain.proven_at);
    let from = chain.and_then(|chain| chain.base.as_ref()).map(|base| utc(base.due_at));
    [
        standing.kind.to_string(),
        or(standing.subject.clone(), NONE),
        or(reaches_to.map(utc), NONE),
        or(standing.age_seconds.map(|age| human_seconds(age as f64)), NONE),
        or(from.filter(|_| proven_at.is_some()).map(|from| format!("from {from}")), NOTHING),
        or(
            plan.backups
                .policy(standing.kind)
                .filter(|_| standing.unproven_seconds.is_some())
                .map(|p| p.proven_to.to_string()),
            NOTHING,
        ),
        or(proven_at.map(utc), NOTHING),
        NOTHING.to_owned(),
        verdict(plan, standing),
    ]
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
