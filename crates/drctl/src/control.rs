//! What reaches a runner from outside while the engine works: interrupts, answers to its question, and what people ask of
//! the run from another process.

use std::{sync::Arc, time::Duration};

use asl::Handle;
use jiff::{SignedDuration, Timestamp};
use recovery::{
    approval::{self, Decision, PendingApproval},
    fault::Fault,
    intervention::{Deed, Intervention},
    run::ApprovalGiven,
    store::{ObjectStore, get_json},
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    copy::{Standing, lock},
    recorder::Live,
    requests::{self, Reply, Request},
    run_folder::{ApprovalRequest, RunFolder},
    steps,
};

/// How often a run looks whether somebody has asked or answered something. A person does not notice; a laptop does not
/// either.
const POLL: Duration = Duration::from_millis(200);
/// How often an open question is looked up in the evidence bucket, where people of other machines answer.
const POLL_ELSEWHERE: Duration = Duration::from_secs(1);
/// A copy that lacks records for this long is told of.
const BEHIND: SignedDuration = SignedDuration::from_secs(5);
/// Longest wait for the bucket at one look.
const PATIENCE: Duration = Duration::from_secs(5);

/// The outside of a run.
pub struct Control {
    /// The engine.
    pub handle: Handle,
    /// The run's folder.
    pub folder: RunFolder,
    /// What the recorder has seen.
    pub live: Arc<Live>,
    /// The machine's definition, for what may be skipped.
    pub definition: String,
    /// The evidence bucket.
    pub evidence: Arc<dyn ObjectStore>,
    /// How far the copy of the journal is.
    pub copy: watch::Receiver<Standing>,
    /// Say nothing to the terminal.
    pub silent: bool,
}

/// What the system tells a runner by signals.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over for as long as the process lives: Ctrl-C and `kill` ask for a safe end, and a terminal that
    /// closes ends nothing.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn take() -> std::io::Result<Signals> {
        // Once taken over, a signal never has its default effect again, listened to or not.
        let _ = signal(SignalKind::hangup())?;
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns when somebody wants the runner to end.
    async fn asked_to_end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// An end that waits for the step that is under way.
struct Ending {
    /// Whoever asked for it in another process.
    request: Option<Intervention>,
    error: &'static str,
    cause: String,
}

impl Control {
    /// Listens as long as the run lives.
    pub async fn listen(self, signals: Signals) {
        tokio::join!(self.listen_here(signals), self.listen_elsewhere());
    }

    async fn listen_here(&self, mut signals: Signals) {
        let mut poll = tokio::time::interval(POLL);
        let mut ending: Option<Ending> = None;
        let mut told_behind = false;
        loop {
            tokio::select! {
                () = signals.asked_to_end() => {
                    if ending.is_some() {
                        let cause = "interrupted twice".to_owned();
                        let _ = self.handle.stop(Some("Recovery.Interrupted".to_owned()), Some(cause)).await;
                    } else {
                        self.say("\nstopping after the step that is under way; press Ctrl-C again to leave it");
                        let _ = self.handle.pause().await;
                        let cause = "interrupted between two steps".to_owned();
                        ending = Some(Ending { request: None, error: "Recovery.Interrupted", cause });
                    }
                }
                _ = poll.tick() => {
                    self.tell_of_the_copy(&mut told_behind);
                    self.answer_here().await;
                    for request in requests::asked(&self.folder) {
                        self.act(request, &mut ending).await;
                    }
                    if let Some(now) = ending.take_if(|_| self.live.steps_under_way().is_empty()) {
                        self.end(now).await;
                    }
                }
            }
        }
    }

    fn say(&self, text: &str) {
        if !self.silent {
            aside!("{text}");
        }
    }

    /// Says once that the copy has fallen behind, and once that it has caught up.
    fn tell_of_the_copy(&self, told: &mut bool) {
        let copy = self.copy.borrow().clone();
        let behind = copy.behind_since.is_some_and(|since| Timestamp::now().duration_since(since) > BEHIND);
        match (behind, *told) {
            (true, false) => self.say(&format!(
                "            the copy in s3://{} lacks {} of {} records ({}); the run goes on, its journal is on this disk",
                copy.bucket,
                copy.records - copy.copied.min(copy.records),
                copy.records,
                copy.trouble.as_deref().unwrap_or("the bucket is slow")
            )),
            (false, true) => self.say(&format!("            the copy in s3://{} has caught up", copy.bucket)),
            _ => return,
        }
        *told = behind;
    }

    async fn end(&self, ending: Ending) {
        let Ending { request, error, cause } = ending;
        let handle = match &request {
            Some(request) => self.handle.with_note(note(request)),
            None => self.handle.clone(),
        };
        if let Some(request) = &request {
            // The run ends with the next line, so whoever asked is told before; the request stays until it has ended.
            let _ = self.live.note(request.clone());
        }
        let _ = handle.stop(Some(error.to_owned()), Some(cause)).await;
    }

    /// Does what another process asks, once, and says what became of it.
    async fn act(&self, request: Request, ending: &mut Option<Ending>) {
        let Request { mut intervention, answer } = request;
        if let Deed::Retry { state } = &mut intervention.deed
            && state.is_empty()
        {
            // Whoever asked means the one that failed.
            *state = self.live.failing().unwrap_or_default();
        }
        let id = intervention.id.clone();
        if ending.as_ref().and_then(|ending| ending.request.as_ref()).is_some_and(|asked| asked.id == id) {
            return;
        }
        if self.live.has_done(&id) {
            requests::reply(&self.folder, &id, &Reply { done: true, said: "it was done before".to_owned() });
            return;
        }
        let handle = self.handle.with_note(note(&intervention));
        let outcome = match &intervention.deed {
            Deed::Pause => match handle.pause().await {
                Ok(()) => {
                    lock(&self.live.card).paused = Some(intervention.clone());
                    Ok(self.what_goes_on("paused: no further step is begun"))
                }
                Err(error) => Err(error.to_string()),
            },
            Deed::Continue => match handle.unpause().await {
                Ok(()) => {
                    lock(&self.live.card).paused = None;
                    Ok("it goes on".to_owned())
                }
                Err(error) => Err(error.to_string()),
            },
            Deed::Retry { state } if state.is_empty() => {
                Err("no step of it has failed and waits for its next attempt".to_owned())
            }
            Deed::Retry { state } => match handle.retry(state).await {
                Ok(()) => Ok(format!("`{state}` is tried again now")),
                Err(error) => Err(format!("`{state}`: {}", recovery::fault::chain(&error))),
            },
            Deed::Skip { state } => self.skip(&handle, state, answer).await,
            Deed::Abort => {
                let _ = self.handle.pause().await;
                let cause = format!("aborted by {}: {}", intervention.by, intervention.because);
                self.say(&format!("\n{cause}; stopping after the step that is under way"));
                *ending = Some(Ending { request: Some(intervention), error: "Recovery.Aborted", cause });
                return;
            }
            Deed::Redrive | Deed::TakeOver { .. } => Err("this cannot be asked of a run that is at work".to_owned()),
        };
        let reply = match outcome {
            Ok(said) => {
                let kept = self.live.note(intervention.clone()).and_then(|()| self.live.save());
                let Intervention { by, because, deed, .. } = &intervention;
                self.say(&format!("            {by} {}: {because}", deed.in_words()));
                match kept {
                    Ok(()) => Reply { done: true, said },
                    Err(error) => Reply { done: true, said: format!("{said}; but it could not be noted: {error}") },
                }
            }
            Err(said) => Reply { done: false, said },
        };
        requests::reply(&self.folder, &id, &reply);
    }

    async fn skip(&self, handle: &Handle, state: &str, answer: Option<Value>) -> Result<String, String> {
        // Whoever asked has looked; the runner does not take their word for it.
        let step = steps::find(&self.definition, state).map_err(|problem| problem.to_string())?;
        step.may_be_skipped().map_err(|problem| problem.to_string())?;
        let under_way = self.live.steps_under_way().iter().any(|step| step == state);
        handle.skip(state, answer.unwrap_or_default()).await.map_err(|error| recovery::fault::chain(&error))?;
        Ok(if under_way {
            format!("`{state}` was under way and is left; what it has asked for may still happen")
        } else {
            format!("`{state}` is skipped, now or when its turn comes")
        })
    }

    fn what_goes_on(&self, said: &str) -> String {
        match self.live.steps_under_way().as_slice() {
            [] => said.to_owned(),
            steps => format!("{said}; under way, and let finish: {}", steps.join(", ")),
        }
    }

    /// Takes an answer that was given on this machine.
    async fn answer_here(&self) {
        if let Some(answer) = self.folder.approval_answer() {
            let decision =
                if answer.approve { Decision::Confirmed(answer.given) } else { Decision::Refused(answer.given) };
            let is_for_another =
                self.folder.approval_request().is_ok_and(|question| question.task_token != answer.task_token);
            if !is_for_another {
                self.decide(&answer.task_token, decision).await;
            }
            self.folder.forget_answer();
            return;
        }
        let Ok(question) = self.folder.approval_request() else { return };
        let confirmed = self.folder.confirmations(&question.task_token);
        if confirmed.len() >= usize::from(question.needed.max(1)) {
            let pending = pending(&question, confirmed);
            self.decide(&question.task_token, pending.decision()).await;
        }
    }

    /// Looks for answers of people on other machines, and counts those of this one with them.
    async fn listen_elsewhere(&self) {
        loop {
            tokio::time::sleep(POLL_ELSEWHERE).await;
            let Ok(question) = self.folder.approval_request() else { continue };
            let run = lock(&self.live.card).run.clone();
            let key = approval::key(&run);
            let look = get_json::<PendingApproval>(self.evidence.as_ref(), &key);
            let Ok(Ok(Some((mut there, _)))) = tokio::time::timeout(PATIENCE, look).await else { continue };
            if there.task_token != question.task_token {
                continue;
            }
            there.needed = there.needed.max(question.needed);
            for given in self.folder.confirmations(&question.task_token) {
                // The same person on two machines is one person.
                let _ = there.confirm(given);
            }
            self.decide(&question.task_token, there.decision()).await;
        }
    }

    /// Hands a decision to the engine. A token that is not known any more was answered or has run out.
    async fn decide(&self, token: &str, decision: Decision) {
        let _ = match decision {
            Decision::Open { .. } => return,
            Decision::Confirmed(given) => {
                self.handle.send_task_success(token, serde_json::to_value(&given).unwrap_or_default()).await
            }
            Decision::Refused(given) => {
                let (error, cause) = refusal(&given);
                self.handle.send_task_failure(token, Some(error.to_owned()), Some(cause)).await
            }
        };
        self.folder.withdraw_approval_request();
    }
}

/// A question of this machine with the answers that it has.
pub fn pending(question: &ApprovalRequest, confirmed: Vec<ApprovalGiven>) -> PendingApproval {
    PendingApproval {
        run: String::new(),
        task_token: question.task_token.clone(),
        asked_at: question.asked_at,
        needed: question.needed,
        confirmed,
        refused: None,
    }
}

/// Error and cause of a question that was refused, for either engine.
pub fn refusal(given: &ApprovalGiven) -> (&'static str, String) {
    let why = format!("rejected by {}: {}; ask them, then request the failover again", given.by, given.because);
    let error = Fault::Refused.error_type();
    (error, json!({ "errorType": error, "errorMessage": why }).to_string())
}

/// An intervention as it stands in the journal.
pub fn note(intervention: &Intervention) -> Value {
    serde_json::to_value(intervention).unwrap_or_default()
}
