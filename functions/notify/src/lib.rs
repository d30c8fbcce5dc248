//! Tells people how far a run is, once per stage.
//!
//! Runs beside or between the other states of `regional-failover`, never in front of one that others wait for; only
//! `AwaitApproval` waits, and what it waits for is a person. A message cannot be taken back, so a marker in the evidence
//! bucket says that a stage has been told.
//!
//! Repeating is safe: the marker is looked at first. A message whose answer was lost is sent again, because hearing
//! something twice is better than not hearing it. The task token that an approval needs is stored before anybody is asked
//! for it.

use jiff::Timestamp;
use recovery::{
    approval::{self, PendingApproval},
    fault::{Classified, Fault, chain},
    notice::{Messenger, NoticeError, Stage, compose},
    plan::Plan,
    run::{Noticed, Run},
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
};
use serde::Deserialize;

/// What the state machine asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record so far.
    pub run: Run,
    /// What the message is about.
    pub stage: Stage,
    /// What an approval is answered with; only [`Stage::ApprovalNeeded`] has it.
    #[serde(default)]
    pub task_token: Option<String>,
}

/// Key of the marker of a stage in the evidence bucket.
pub fn marker_key(run: &str, stage: Stage) -> String {
    format!("notices/{run}/{}.json", stage.name())
}

/// Why nobody was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An approval cannot be answered without it.
    #[error("run `{0}` asks for an approval without a task token")]
    NoToken(String),
    /// Whether people were told, or what they answer with, cannot be kept.
    #[error("cannot keep track of the stage `{}` of run `{run}`", stage.name())]
    Evidence {
        /// Which run.
        run: String,
        /// Which stage.
        stage: Stage,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// The channel did not take it.
    #[error("cannot tell people that run `{run}` is at `{}`", stage.name())]
    Channel {
        /// Which run.
        run: String,
        /// Which stage.
        stage: Stage,
        /// Why not.
        #[source]
        source: NoticeError,
    },
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::NoToken(_) => Fault::Permanent,
            Error::Evidence { source, .. } => source.fault(),
            Error::Channel { source, .. } => source.fault(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::NoToken(_) => "call it with `waitForTaskToken` and pass `$states.context.Task.Token`".to_owned(),
            Error::Evidence { source, .. } => source.remedy(),
            Error::Channel { source, .. } => source.remedy(),
        }
    }
}

/// Sends the message of a stage, unless it has been sent.
///
/// # Errors
/// See [`Error`].
pub async fn notify(
    request: Request,
    plan: &Plan,
    evidence: &dyn ObjectStore,
    messenger: &dyn Messenger,
    now: Timestamp,
) -> Result<Noticed, Error> {
    let Request { run, stage, task_token } = request;
    let untracked = |source| Error::Evidence { run: run.id.clone(), stage, source };
    if stage == Stage::ApprovalNeeded {
        let task_token = task_token.ok_or_else(|| Error::NoToken(run.id.clone()))?;
        let question = PendingApproval {
            run: run.id.clone(),
            task_token,
            asked_at: now,
            needed: plan.failover.approvals,
            confirmed: Vec::new(),
            refused: None,
        };
        // Every attempt of the state has a token of its own, and only the newest one is waited for.
        put_json(evidence, &approval::key(&run.id), &question, Precondition::None).await.map_err(untracked)?;
    }
    let marker = marker_key(&run.id, stage);
    if let Some((told, _)) = get_json::<Noticed>(evidence, &marker).await.map_err(untracked)? {
        return Ok(told);
    }
    let sent = messenger.send(stage.priority(), &compose(plan, &run, stage, now)).await;
    let message = sent.map_err(|source| Error::Channel { run: run.id.clone(), stage, source })?;
    let told = Noticed { stage, message, at: now };
    if let Err(error) = put_json(evidence, &marker, &told, Precondition::Absent).await {
        // People know, which is what was asked for; at worst they will hear it again.
        tracing::warn!(run.id = %run.id, stage = stage.name(), "people were told, but not noted: {}", chain(&error));
    }
    Ok(told)
}
