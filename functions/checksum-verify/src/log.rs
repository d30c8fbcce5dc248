//! The log that leads from a base backup to now: how far it reaches, and whether a restore would meet a hole in it.
//!
//! A restore that meets a hole ends there and promotes, and says nothing (seen on PostgreSQL 15 with pgBackRest 2.45, whose
//! `verify` does not find the hole either). So the names in the archive are compared with those that the history of
//! timelines asks for, and the segments are followed record by record. One call follows as much as it has time for and notes
//! where it was; the next one goes on there.

mod archive;
mod chain;
mod reach;

use jiff::Timestamp;
use recovery::{
    backup::{
        Finding, Kind, LogChain, LogFound, LogReach, LogStanding, Policy, Standing, log_chain_key, log_reach_key,
    },
    objective::human_seconds,
    plan::{Driver, Plan},
    store::{Precondition, get_json, put_json},
};

use crate::{Error, World};

/// What one call may read of an archive, before encoding. At 100 MB a second this is well within a Lambda's time.
pub const LOG_BUDGET_BYTES: u64 = 8 << 30;

/// Says how far the log reaches, and keeps it.
///
/// # Errors
/// Storage fails, or RDS does not answer: nothing is known then.
pub(crate) async fn look(run: &str, plan: &Plan, world: &World<'_>, now: Timestamp) -> Result<LogFound, Error> {
    let Some(policy) = plan.backups.policy(Kind::Wal) else { return Ok(LogFound::default()) };
    let subject = Kind::Wal.subject(plan);
    let reach = match (plan.postgresql.driver, world.managed_log) {
        (Driver::SelfManaged, _) => reach::of_archive(run, plan, world, now).await?,
        (Driver::Rds | Driver::AuroraGlobal, Some(managed)) => reach::of_managed(run, managed, now).await?,
        (Driver::Rds | Driver::AuroraGlobal, None) => return Err(Error::NoManagedLog),
    };
    put_json(world.catalogue.evidence, &log_reach_key(subject), &reach, Precondition::None).await?;
    // A hole that was found an hour ago is told until it is gone.
    let chain = get_json::<LogChain>(world.catalogue.evidence, &log_chain_key(subject)).await?.map(|(chain, _)| chain);
    Ok(found(policy, plan, LogStanding { reach: Some(reach), chain }, now))
}

/// Says how far the log reaches, and follows an archive as far as one call gets.
///
/// # Errors
/// As [`look`]; and [`Error::NotFollowed`] while there is more to follow.
pub(crate) async fn follow(run: &str, plan: &Plan, world: &World<'_>, now: Timestamp) -> Result<LogFound, Error> {
    let Some(policy) = plan.backups.policy(Kind::Wal) else { return Ok(LogFound::default()) };
    let looked = look(run, plan, world, now).await?;
    if plan.postgresql.driver != Driver::SelfManaged {
        return Ok(looked);
    }
    let (chain, left) = chain::follow(run, policy, plan, world, now).await?;
    put_json(world.catalogue.evidence, &log_chain_key(Kind::Wal.subject(plan)), &chain, Precondition::None).await?;
    if left > 0 {
        return Err(Error::NotFollowed { left, needed: chain.needed });
    }
    Ok(found(policy, plan, LogStanding { reach: looked.reach, chain: Some(chain) }, now))
}

fn found(policy: &Policy, plan: &Plan, log: LogStanding, now: Timestamp) -> LogFound {
    let subject = Kind::Wal.subject(plan);
    let standing = Standing::of_log(policy, plan.postgresql.driver, subject, log, now);
    let say = |found: &Finding| format!("{}; {}", found.says, found.remedy);
    let mut says: Vec<String> = standing.findings.iter().map(say).collect();
    let log = standing.log.unwrap_or(LogStanding { reach: None, chain: None });
    let behind = log.reach.as_ref().and_then(LogReach::behind_seconds);
    if let Some(behind) = behind.filter(|_| !standing.fresh) {
        says.push(format!(
            "the log of `{subject}` lies {} behind, the plan allows {}; see what keeps its server from archiving",
            human_seconds(behind as f64),
            policy.fresh_within
        ));
    }
    LogFound { subject: Some(subject.to_owned()), reach: log.reach, chain: log.chain, fresh: standing.fresh, says }
}
