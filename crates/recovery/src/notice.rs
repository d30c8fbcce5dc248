//! Messages to people: one per stage, in the form that the communication plan gives them.

use async_trait::async_trait;
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{
    fault::{Classified, Fault},
    incident::Incident,
    objective::{Priority, human_seconds},
    plan::Plan,
    run::{BackupMissed, Run},
};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Recovery has begun.
    Declared,
    /// A person must confirm the point of no return.
    ApprovalNeeded,
    /// The database has moved.
    Promoted,
    /// Services answer in the secondary region.
    Healthy,
    /// Customers reach it.
    Recovered,
    /// A guard held; nothing has changed.
    Refused,
    /// It failed and was put back.
    Failed,
    /// It failed after the point of no return.
    Incomplete,
    /// Every backup that was due is complete.
    BackupsTaken,
    /// A backup that was due is missing.
    BackupsMissed,
    /// A backup is stale, or not as it was written.
    BackupsUnproven,
}

impl Stage {
    /// Every stage, for contract tests between the languages.
    pub const ALL: [Stage; 11] = [
        Stage::Declared,
        Stage::ApprovalNeeded,
        Stage::Promoted,
        Stage::Healthy,
        Stage::Recovered,
        Stage::Refused,
        Stage::Failed,
        Stage::Incomplete,
        Stage::BackupsTaken,
        Stage::BackupsMissed,
        Stage::BackupsUnproven,
    ];

    /// The stage's name as it stands in state machines and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Declared => "declared",
            Stage::ApprovalNeeded => "approval-needed",
            Stage::Promoted => "promoted",
            Stage::Healthy => "healthy",
            Stage::Recovered => "recovered",
            Stage::Refused => "refused",
            Stage::Failed => "failed",
            Stage::Incomplete => "incomplete",
            Stage::BackupsTaken => "backups-taken",
            Stage::BackupsMissed => "backups-missed",
            Stage::BackupsUnproven => "backups-unproven",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Stage::Declared => "Disaster Recovery Activated",
            Stage::ApprovalNeeded => "Approval needed: Disaster Recovery",
            Stage::Promoted => "Database has moved",
            Stage::Healthy => "Services answer in the failover region",
            Stage::Recovered => "Recovered",
            Stage::Refused => "Failover refused",
            Stage::Failed => "Failover stopped, nothing has moved",
            Stage::Incomplete => "Failover incomplete, act now",
            Stage::BackupsTaken => "Backups taken",
            Stage::BackupsMissed => "Backup missing",
            Stage::BackupsUnproven => "Backup not proven",
        }
    }

    /// Who hears of it. When the platform is away, the whole chain does, whatever the stage.
    pub const fn priority(self) -> Priority {
        match self {
            Stage::Declared
            | Stage::ApprovalNeeded
            | Stage::Promoted
            | Stage::Healthy
            | Stage::Recovered
            | Stage::Refused
            | Stage::Failed
            | Stage::Incomplete => Priority::P0,
            Stage::BackupsMissed | Stage::BackupsUnproven => Priority::P1,
            Stage::BackupsTaken => Priority::P2,
        }
    }
}

/// A message, ready to be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// At most 100 ASCII characters, which is SNS's bound.
    pub subject: String,
    /// Plain text.
    pub body: String,
}

/// Writes the message of a stage.
pub fn compose(plan: &Plan, run: &Run, stage: Stage, now: Timestamp) -> Notice {
    if matches!(stage, Stage::BackupsTaken | Stage::BackupsMissed | Stage::BackupsUnproven) {
        return about_backups(plan, run, stage);
    }
    let incident = Incident::from_event(&run.event, plan).ok();
    let place = plan.regions.primary.code();
    let mut subject = format!("[P0] {} - {place} ({})", stage.title(), plan.platform);
    subject.retain(|c| c.is_ascii() && !c.is_ascii_control());
    subject.truncate(100);

    let scenario = incident.as_ref().and_then(|incident| plan.scenarios.iter().find(|s| s.name == incident.scenario));
    let situation = match (&incident, scenario) {
        (Some(incident), Some(scenario)) => {
            format!("{} in {place} since {}: {}", scenario.title, utc(incident.began_at), incident.reason)
        }
        _ => "an event that is not understood asked for a failover".to_owned(),
    };
    let impact = scenario.map_or("not known", |scenario| scenario.impact.as_str());
    let eta = match (run.plan.as_ref(), stage) {
        (_, Stage::Recovered) => "restored".to_owned(),
        (_, Stage::Refused | Stage::Failed) => "not known: a person must decide".to_owned(),
        (Some(decided), _) => format!("Services expected to be restored by {}", utc(decided.due_at)),
        (None, _) => "not known yet".to_owned(),
    };
    let next = now.saturating_add(jiff::SignedDuration::try_from(plan.notification.update_every.0).unwrap_or_default());
    let body = format!(
        "Situation: {situation}\nImpact: {impact}\nActions: {}\nETA: {eta}\nWar Room: {}\nStatus Page: {}\n\nUpdates every {} or as situation changes; the next one by {}.\nRun: {}\n",
        actions(run, stage, now),
        plan.notification.war_room,
        plan.notification.status_page,
        plan.notification.update_every,
        utc(next.unwrap_or(now)),
        run.id,
    );
    Notice { subject, body }
}

fn actions(run: &Run, stage: Stage, now: Timestamp) -> String {
    let failed =
        run.failure.as_ref().map(|failure| format!("{}: {}", failure.state, failure.message())).unwrap_or_default();
    match stage {
        Stage::Declared => format!("DR procedures initiated at {}", utc(run.started_at)),
        Stage::ApprovalNeeded => format!("prepared; confirm with `drctl approve {} --by NAME --because WHY`", run.id),
        Stage::Promoted => match &run.promotion {
            Some(promotion) => format!(
                "`{}` takes writes since {}; {}",
                promotion.server,
                utc(promotion.writable_at),
                match promotion.loss.seconds_at_most {
                    Some(seconds) => format!("at most {} of writes lost", human_seconds(seconds)),
                    None => "how much was lost is not known".to_owned(),
                }
            ),
            None => "the standby was promoted".to_owned(),
        },
        Stage::Healthy => format!("all services answered at {}; names move next", utc(now)),
        Stage::Recovered => format!(
            "customers reach the failover region since {}",
            utc(run.reached.as_ref().map_or(now, |r| r.answer.observed_at))
        ),
        Stage::Refused => format!("nothing has changed; {failed}"),
        Stage::Failed => {
            let left: Vec<&str> = run
                .reversal
                .iter()
                .filter_map(|r| r.fence.as_ref())
                .flat_map(|f| f.left.iter().map(String::as_str))
                .collect();
            if left.is_empty() {
                format!("everything was put back; {failed}")
            } else {
                format!("left to do by hand: {}; {failed}", left.join("; "))
            }
        }
        Stage::Incomplete => format!("the database has moved and must not move back; {failed}"),
        // Written by `about_backups`.
        Stage::BackupsTaken | Stage::BackupsMissed | Stage::BackupsUnproven => failed,
    }
}

/// The most sentences of a message; a night in which everything fails has one cause.
const MOST_SENTENCES: usize = 20;

fn about_backups(plan: &Plan, run: &Run, stage: Stage) -> Notice {
    let priority = stage.priority();
    let mut subject = format!("[{priority:?}] {} ({})", stage.title(), plan.platform);
    subject.retain(|c| c.is_ascii() && !c.is_ascii_control());
    let mut sentences: Vec<String> = Vec::new();
    sentences.extend(run.failure.iter().map(|failure| format!("{}: {}", failure.state, failure.message())));
    if let Some(taken) = &run.backups {
        sentences
            .extend(taken.missed.iter().map(|missed| format!("`{}` was not taken: {}", missed.backup, missed.cause)));
        let (whole, due) = (taken.taken.len(), taken.due);
        sentences.push(format!("{whole} of {due} backups are complete"));
    }
    if let Some(proofs) = &run.proofs {
        sentences.extend(proofs.stale.iter().cloned());
        let unread = |missed: &BackupMissed| format!("`{}` could not be read: {}", missed.backup, missed.cause);
        sentences.extend(proofs.unread.iter().map(unread));
        let bad = proofs.proven.iter().filter(|proven| proven.findings > 0);
        sentences.extend(bad.map(|proven| {
            let says = proven.says.as_deref().unwrap_or("see its proof");
            format!("`{}`: {says} ({} of {} artifacts are valid)", proven.backup, proven.valid, proven.found)
        }));
        sentences.extend(proofs.log.iter().flat_map(|log| log.says.iter().cloned()));
    }
    sentences.extend(run.troubles.iter().map(|trouble| format!("{}: {}", trouble.state, trouble.message())));
    let more = sentences.len().saturating_sub(MOST_SENTENCES);
    sentences.truncate(MOST_SENTENCES);
    if more > 0 {
        sentences.push(format!("and {more} more"));
    }
    let body = format!("{}.\n\nWhat there is to restore from: drctl backups\nRun: {}\n", sentences.join(".\n"), run.id);
    Notice { subject, body }
}

/// A time in UTC as people read it.
pub fn utc(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A channel that reaches people.
#[async_trait]
pub trait Messenger: Send + Sync {
    /// Hands a message over and returns the channel's identifier for it.
    async fn send(&self, priority: Priority, notice: &Notice) -> Result<String, NoticeError>;
}

/// People could not be told.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// The plan has nobody for it.
    #[error("the plan names nobody at {0:?}")]
    Nobody(Priority),
    /// The channel failed.
    #[error("the topic `{topic}` did not take the message")]
    Channel {
        /// Which topic.
        topic: String,
        /// The service's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classified for NoticeError {
    fn fault(&self) -> Fault {
        match self {
            NoticeError::Nobody(_) => Fault::Permanent,
            NoticeError::Channel { .. } => Fault::Transient,
        }
    }

    fn remedy(&self) -> String {
        match self {
            NoticeError::Nobody(priority) => format!("add a [[notification.level]] for {priority:?}"),
            NoticeError::Channel { .. } => "call the people of the chain by phone".to_owned(),
        }
    }
}
