//! Runs a machine: the pure core of [`crate::core`], surrounded by a clock, a handler of tasks and an observer.
//!
//! The order of things is the point. Events reach the observer, and the observer returns, before any effect that follows
//! from them is started; an observer that writes to disk has thus written *before* a function is invoked. Calls are
//! polled inside [`Execution::run`], so nothing outlives it: when a task times out or the execution is stopped its future
//! is dropped at the next point where it waits. A handler whose work must not be cut short spawns it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{AbortHandle, Abortable, Aborted};
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::core::{Core, Effect, Input, Progress, Refusal, Settings};
use crate::definition::Machine;
use crate::history::HistoryEvent;
use crate::journal::{ENGINE_VERSION, Journal, JournalError, Record};
use crate::task::{ExecutionOutcome, Submission, TaskCall, TaskOutcome};

/// Does what Task states ask for.
#[async_trait]
pub trait TaskHandler: Send + Sync {
    /// Makes a call and tells how it ended. Timeouts are the runner's: a call that takes too long is dropped.
    async fn invoke(&self, call: TaskCall) -> TaskOutcome;
}

/// Sees every event as it happens.
#[async_trait]
pub trait Observer: Send {
    /// Takes new events, in order. What follows from them is not started before this returns; an error ends the run.
    async fn record(&mut self, events: &[HistoryEvent]) -> Result<(), ObserverError>;
}

/// Why an observer could not take an event.
pub type ObserverError = Box<dyn std::error::Error + Send + Sync>;

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

#[async_trait]
impl Observer for Unobserved {
    async fn record(&mut self, _events: &[HistoryEvent]) -> Result<(), ObserverError> {
        Ok(())
    }
}

/// Keeps every event.
#[async_trait]
impl Observer for Vec<HistoryEvent> {
    async fn record(&mut self, events: &[HistoryEvent]) -> Result<(), ObserverError> {
        self.extend_from_slice(events);
        Ok(())
    }
}

/// Why a run ended without an outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An event could not be recorded; nothing that follows from it was started.
    #[error("could not record an event of the execution")]
    Observer(#[source] ObserverError),
    /// The journal could not be written; nothing that follows from what it did not take was done.
    #[error("could not write the journal of the execution")]
    Journal(#[source] JournalError),
    /// The execution has neither work nor timers left. This is a defect of the interpreter.
    #[error("the execution is waiting for nothing in `{0}`")]
    Stuck(String),
}

impl RunError {
    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            RunError::Observer(_) => "make room or repair the place the history is written to, then resume the run",
            RunError::Journal(error) => error.remedy(),
            RunError::Stuck(_) => {
                "keep the history of the run and report it: the interpreter lost track of the machine"
            }
        }
    }
}

/// Why a control was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No task waits for this token: it was answered, timed out, or never existed.
    #[error("no task waits for this token")]
    UnknownToken,
    /// The execution has ended.
    #[error("the execution has ended")]
    Ended,
    /// The execution does not stand where this could be done.
    #[error("this cannot be done where the execution stands")]
    Refused(#[source] Refusal),
}

#[derive(Debug)]
struct Command {
    input: Input,
    note: Option<Value>,
    answer: oneshot::Sender<Result<(), ControlError>>,
}

/// Controls a running execution from another task.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    note: Option<Value>,
}

impl Handle {
    /// The same handle for something that is kept in the journal with a note: who, why, when.
    pub fn with_note(&self, note: Value) -> Handle {
        Handle { commands: self.commands.clone(), note: Some(note) }
    }

    /// Ends the task that waits for this token, with a result.
    pub async fn send_task_success(&self, token: &str, output: Value) -> Result<(), ControlError> {
        self.send(Input::TokenSucceeded { token: token.to_owned(), output }).await
    }

    /// Ends the task that waits for this token, with a failure.
    pub async fn send_task_failure(
        &self,
        token: &str,
        error: Option<String>,
        cause: Option<String>,
    ) -> Result<(), ControlError> {
        self.send(Input::TokenFailed { token: token.to_owned(), error, cause }).await
    }

    /// Tells that the holder of this token is still at work.
    pub async fn send_task_heartbeat(&self, token: &str) -> Result<(), ControlError> {
        self.send(Input::TokenHeartbeat { token: token.to_owned() }).await
    }

    /// Stops the execution: it ends as `ABORTED`, calls in flight are dropped.
    pub async fn stop(&self, error: Option<String>, cause: Option<String>) -> Result<(), ControlError> {
        self.send(Input::Stop { error, cause }).await
    }

    /// Enters no further state. Calls in flight go on, their answers are recorded, deadlines keep running.
    pub async fn pause(&self) -> Result<(), ControlError> {
        self.send(Input::Pause).await
    }

    /// Goes on after a pause.
    pub async fn unpause(&self) -> Result<(), ControlError> {
        self.send(Input::Unpause).await
    }

    /// Makes the next attempt at a state that failed without waiting for its time.
    pub async fn retry(&self, state: &str) -> Result<(), ControlError> {
        self.send(Input::Retry { state: state.to_owned() }).await
    }

    /// Leaves out the work of a Task, whether it is under way or yet to come; see [`Input::Skip`].
    pub async fn skip(&self, state: &str, answer: Value) -> Result<(), ControlError> {
        self.send(Input::Skip { state: state.to_owned(), answer }).await
    }

    async fn send(&self, input: Input) -> Result<(), ControlError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command { input, note: self.note.clone(), answer }).map_err(|_| ControlError::Ended)?;
        answered.await.map_err(|_| ControlError::Ended)?
    }
}

/// Why an execution cannot be resumed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The journal has no first record: nothing was ever done.
    #[error("the journal is empty: the run was never started")]
    NeverStarted,
    /// The machine is not the one the run was started with.
    #[error("the run was started with another definition (its digest begins with {0})")]
    OtherDefinition(String),
    /// The journal is from an engine that would have done something else.
    #[error("the journal was written by version {0} of the engine, this is version {ENGINE_VERSION}")]
    OtherEngine(u32),
}

impl ResumeError {
    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            ResumeError::NeverStarted => "start the run anew",
            ResumeError::OtherDefinition(_) => {
                "take the definition the run was started with, or abort the run and start a new one"
            }
            ResumeError::OtherEngine(_) => "resume with the `drctl` that started the run",
        }
    }
}

/// An execution that is about to run.
pub struct Execution {
    core: Core,
    /// What the core is given first, with a note; nothing when a run goes on where it stood.
    first: Option<(Input, Option<Value>)>,
    /// Events of a resumed run that the observer has not seen.
    unseen: Vec<HistoryEvent>,
    /// Calls of a resumed run without an answer.
    open: Vec<TaskCall>,
    /// The core has more to do before it needs an input.
    more: bool,
    ended: Option<ExecutionOutcome>,
    settings: Arc<Settings>,
    definition: String,
    journal: Option<Box<dyn Journal>>,
    continued: u64,
    now: Timestamp,
    commands: mpsc::UnboundedReceiver<Command>,
    sender: mpsc::UnboundedSender<Command>,
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("name", &self.settings.execution_name)
            .field("states", &self.core.current_states())
            .finish_non_exhaustive()
    }
}

type Call<'a> = Pin<Box<dyn Future<Output = (u64, Result<TaskOutcome, Aborted>)> + Send + 'a>>;

impl Execution {
    /// Prepares an execution of a machine; [`Execution::run`] starts it.
    pub fn start(machine: Arc<Machine>, input: Value, settings: Settings) -> Execution {
        let (sender, commands) = mpsc::unbounded_channel();
        let settings = Arc::new(settings);
        let definition = machine.digest().to_owned();
        Execution {
            core: Core::new(machine, Arc::clone(&settings)),
            first: Some((Input::Start(input.into()), None)),
            unseen: Vec::new(),
            open: Vec::new(),
            more: false,
            ended: None,
            settings,
            definition,
            journal: None,
            continued: 0,
            now: Timestamp::UNIX_EPOCH,
            commands,
            sender,
        }
    }

    /// Writes a journal of the execution, from which [`Execution::resume`] goes on.
    pub fn with_journal(mut self, journal: impl Journal + 'static) -> Execution {
        self.journal = Some(Box::new(journal));
        self
    }

    /// Takes up an execution from the records of its journal and goes on writing it.
    ///
    /// The observer is given the events after `seen`, the id of the last one that it has; 0 for all.
    pub fn resume(
        machine: Arc<Machine>,
        records: &[Record],
        journal: impl Journal + 'static,
        seen: u64,
    ) -> Result<Execution, ResumeError> {
        let Some(Record::Started { engine, definition, settings }) = records.first() else {
            return Err(ResumeError::NeverStarted);
        };
        if *engine != ENGINE_VERSION {
            return Err(ResumeError::OtherEngine(*engine));
        }
        if definition != machine.digest() {
            return Err(ResumeError::OtherDefinition(definition.chars().take(12).collect()));
        }
        let mut execution = Execution::start(machine, Value::Null, settings.clone()).with_journal(journal);
        let mut open: BTreeMap<u64, TaskCall> = BTreeMap::new();
        let mut intended: HashSet<u64> = HashSet::new();
        for record in &records[1..] {
            match record {
                Record::Started { .. } => {}
                Record::Intent { calls } => intended.extend(calls.iter().map(|(call, _)| *call)),
                Record::Happened { at, continued, input, .. } => {
                    for _ in 0..*continued {
                        execution.replay(execution.now, Input::Continue, seen, &mut open);
                    }
                    if let Input::CallEnded { call, .. } = input {
                        open.remove(call);
                    }
                    execution.continued = 0;
                    execution.replay(*at, input.clone(), seen, &mut open);
                    execution.first = None;
                }
            }
        }
        if execution.first.is_some() {
            return Err(ResumeError::NeverStarted);
        }
        execution.open =
            open.into_values().map(|call| TaskCall { may_repeat: intended.contains(&call.call), ..call }).collect();
        Ok(execution)
    }

    fn replay(&mut self, at: Timestamp, input: Input, seen: u64, open: &mut BTreeMap<u64, TaskCall>) {
        self.now = at;
        let Progress { events, effects, more } = self.core.apply(at, input);
        self.more = more;
        self.unseen.extend(events.into_iter().filter(|event| event.id > seen));
        for effect in effects {
            match effect {
                Effect::Invoke(call) => drop(open.insert(call.call, call)),
                Effect::Cancel { call } => drop(open.remove(&call)),
                Effect::Done(_) => {}
            }
        }
        self.ended = self.core.outcome().cloned();
    }

    /// Does this first, before anything else is done, with a note for the journal: how an execution that has ended is
    /// redriven, and how one without a runner is stopped.
    ///
    /// # Errors
    /// It does not fit where the execution stands.
    pub fn beginning_with(mut self, input: Input, note: Option<Value>) -> Result<Execution, Refusal> {
        self.core.accepts(&input)?;
        self.first = Some((input, note));
        Ok(self)
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<&ExecutionOutcome> {
        self.ended.as_ref()
    }

    /// The states that failed since the execution began, also those whose failure was caught.
    pub fn failed_states(&self) -> impl Iterator<Item = &str> {
        self.core.failed_states()
    }

    /// A handle for other tasks.
    pub fn handle(&self) -> Handle {
        Handle { commands: self.sender.clone(), note: None }
    }

    /// The states that are being worked on, outermost first.
    pub fn current_states(&self) -> Vec<Arc<str>> {
        self.core.current_states()
    }

    /// The records of an input; the first one also says how the run was started.
    fn records_of(&mut self, input: &Input, note: Option<Value>) -> Vec<Record> {
        let continued = std::mem::take(&mut self.continued);
        let happened = Record::Happened { at: self.now, continued, input: input.clone(), note };
        match input {
            Input::Start(_) => vec![
                Record::Started {
                    engine: ENGINE_VERSION,
                    definition: self.definition.clone(),
                    settings: (*self.settings).clone(),
                },
                happened,
            ],
            _ => vec![happened],
        }
    }

    /// Runs to the end.
    pub async fn run(
        mut self,
        handler: &dyn TaskHandler,
        clock: &dyn Clock,
        observer: &mut dyn Observer,
    ) -> Result<ExecutionOutcome, RunError> {
        // From here on only handles keep the channel open.
        let (_, unused) = mpsc::unbounded_channel();
        let mut commands = std::mem::replace(&mut self.commands, unused);
        let (closed, _) = mpsc::unbounded_channel();
        drop(std::mem::replace(&mut self.sender, closed));
        let mut calls: FuturesUnordered<Call<'_>> = FuturesUnordered::new();
        // One sender is kept, so the channel never closes.
        let (submissions, mut submitted) = mpsc::unbounded_channel::<Submission>();
        let mut aborts: HashMap<u64, AbortHandle> = HashMap::new();
        let mut listening = true;
        let unseen = std::mem::take(&mut self.unseen);
        if !unseen.is_empty() {
            observer.record(&unseen).await.map_err(RunError::Observer)?;
        }
        if self.first.is_none()
            && let Some(outcome) = self.ended.take()
        {
            return Ok(outcome);
        }
        // No call is polled before these have been taken.
        let mut waiting: VecDeque<(Input, Option<Value>)> = self.first.take().into_iter().collect();
        let repeated: Vec<TaskCall> = std::mem::take(&mut self.open);
        waiting.extend(repeated.iter().map(|call| (Input::CallRepeated { call: call.call }, None)));
        let mut effects: Vec<Effect> = repeated.into_iter().map(Effect::Invoke).collect();
        self.write(intents(&effects)).await?;
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Invoke(call) => {
                        let id = call.call;
                        let (abort, registration) = AbortHandle::new_pair();
                        aborts.insert(id, abort);
                        let call = TaskCall { submissions: Some(submissions.clone()), ..call };
                        let work = Abortable::new(surviving(handler, call), registration);
                        calls.push(Box::pin(async move { (id, work.await) }));
                    }
                    Effect::Cancel { call } => {
                        if let Some(abort) = aborts.remove(&call) {
                            abort.abort();
                        }
                    }
                    Effect::Done(outcome) => return Ok(outcome),
                }
            }
            let (mut answer, mut note) = (None, None);
            let next = if let Some((input, noted)) = waiting.pop_front() {
                note = noted;
                input
            } else if self.more {
                // Let others have a turn, and let commands through: a machine may go round without ever waiting.
                tokio::task::yield_now().await;
                match commands.try_recv() {
                    Ok(command) => accept(&self.core, command, &mut answer, &mut note),
                    Err(_) => Input::Continue,
                }
            } else {
                let timer = self.core.next_timer();
                if timer.is_none() && calls.is_empty() && !listening {
                    let states: Vec<String> = self.core.current_states().iter().map(|name| name.to_string()).collect();
                    return Err(RunError::Stuck(states.join(", ")));
                }
                tokio::select! {
                    biased;
                    command = commands.recv(), if listening => match command {
                        Some(command) => accept(&self.core, command, &mut answer, &mut note),
                        None => {
                            listening = false;
                            continue;
                        }
                    },
                    // Before the answers: what was started is told before how it ended.
                    Some((call, output)) = submitted.recv(), if !calls.is_empty() => Input::CallSubmitted { call, output },
                    Some((call, outcome)) = calls.next(), if !calls.is_empty() => {
                        aborts.remove(&call);
                        match outcome {
                            Ok(outcome) => Input::CallEnded { call, outcome },
                            Err(Aborted) => continue,
                        }
                    },
                    () = async { match timer { Some(at) => clock.sleep_until(at).await, None => std::future::pending().await } } => Input::Clock,
                }
            };
            let mut records = Vec::new();
            if matches!(next, Input::Continue) {
                if !self.more {
                    continue;
                }
                // Goes on at the time of what it goes on from, so that replaying needs no record of it.
                self.continued += 1;
            } else {
                self.now = self.now.max(clock.now());
                if self.journal.is_some() {
                    records = self.records_of(&next, note);
                }
            }
            // The core only thinks; what it thinks is acted upon when the input and the calls that follow from it are
            // safe, with one sync for both.
            let progress = self.core.apply(self.now, next);
            self.more = progress.more;
            records.extend(intents(&progress.effects));
            self.write(records).await?;
            if let Some(answer) = answer {
                // Whoever asked may have gone away.
                let _: Result<(), _> = answer.send(Ok(()));
            }
            if !progress.events.is_empty() {
                observer.record(&progress.events).await.map_err(RunError::Observer)?;
            }
            effects = progress.effects;
        }
    }

    async fn write(&mut self, records: Vec<Record>) -> Result<(), RunError> {
        match &mut self.journal {
            Some(journal) if !records.is_empty() => journal.append(&records).await.map_err(RunError::Journal),
            _ => Ok(()),
        }
    }
}

/// The record of calls that are about to be made.
fn intents(effects: &[Effect]) -> Vec<Record> {
    let calls: Vec<(u64, String)> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Invoke(call) => Some((call.call, call.idempotency_key.clone())),
            _ => None,
        })
        .collect();
    if calls.is_empty() { Vec::new() } else { vec![Record::Intent { calls }] }
}

/// Makes a call; a handler that panics fails its task like a function whose process died, and the run goes on.
async fn surviving(handler: &dyn TaskHandler, call: TaskCall) -> TaskOutcome {
    // Nothing of ours is shared with the handler, so nothing of ours can be left half done.
    AssertUnwindSafe(handler.invoke(call)).catch_unwind().await.unwrap_or_else(|payload| {
        let message = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = message.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        TaskOutcome::function_failed("Runtime.ExitError", &format!("the handler panicked: {message}"))
    })
}

/// The input a command amounts to. One that is taken is answered when it is safe, one that is refused at once.
fn accept(
    core: &Core,
    command: Command,
    later: &mut Option<oneshot::Sender<Result<(), ControlError>>>,
    noted: &mut Option<Value>,
) -> Input {
    let Command { input, note, answer } = command;
    let fits = match &input {
        Input::TokenSucceeded { token, .. } | Input::TokenFailed { token, .. } | Input::TokenHeartbeat { token }
            if !core.awaits_token(token) =>
        {
            Err(ControlError::UnknownToken)
        }
        input => core.accepts(input).map_err(ControlError::Refused),
    };
    match fits {
        Ok(()) => {
            (*later, *noted) = (Some(answer), note);
            input
        }
        Err(error) => {
            // Whoever asked may have gone away.
            let _: Result<(), _> = answer.send(Err(error));
            Input::Continue
        }
    }
}
