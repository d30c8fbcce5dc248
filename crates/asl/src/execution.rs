//! Runs a machine: the pure core of [`crate::core`], surrounded by a clock, a handler of tasks and an observer.
//!
//! The order of things is the point. Events reach the observer, and the observer returns, before any effect that follows
//! from them is started; an observer that writes to disk has thus written *before* a function is invoked. Calls are
//! polled inside [`Execution::run`], so nothing outlives it: when a task times out or the execution is stopped its future
//! is dropped at the next point where it waits. A handler whose work must not be cut short spawns it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{AbortHandle, Abortable, Aborted};
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::core::{Core, Effect, Input, Progress, Settings};
use crate::definition::Machine;
use crate::history::HistoryEvent;
use crate::payload::Payload;
use crate::task::{ExecutionOutcome, TaskCall, TaskOutcome};

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
    /// The execution has neither work nor timers left. This is a defect of the interpreter.
    #[error("the execution is waiting for nothing in `{0}`")]
    Stuck(String),
}

impl RunError {
    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            RunError::Observer(_) => "make room or repair the place the history is written to, then resume the run",
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
}

#[derive(Debug)]
struct Command {
    input: Input,
    answer: oneshot::Sender<Result<(), ControlError>>,
}

/// Controls a running execution from another task.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
}

impl Handle {
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

    async fn send(&self, input: Input) -> Result<(), ControlError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command { input, answer }).map_err(|_| ControlError::Ended)?;
        answered.await.map_err(|_| ControlError::Ended)?
    }
}

/// An execution that is about to run.
#[derive(Debug)]
pub struct Execution {
    core: Core,
    input: Payload,
    commands: mpsc::UnboundedReceiver<Command>,
    sender: mpsc::UnboundedSender<Command>,
}

type Call<'a> = Pin<Box<dyn Future<Output = (u64, Result<TaskOutcome, Aborted>)> + Send + 'a>>;

impl Execution {
    /// Prepares an execution of a machine; [`Execution::run`] starts it.
    pub fn start(machine: Arc<Machine>, input: Value, settings: Settings) -> Execution {
        let (sender, commands) = mpsc::unbounded_channel();
        Execution { core: Core::new(machine, Arc::new(settings)), input: input.into(), commands, sender }
    }

    /// A handle for other tasks.
    pub fn handle(&self) -> Handle {
        Handle { commands: self.sender.clone() }
    }

    /// Runs to the end.
    pub async fn run(
        self,
        handler: &dyn TaskHandler,
        clock: &dyn Clock,
        observer: &mut dyn Observer,
    ) -> Result<ExecutionOutcome, RunError> {
        let Execution { mut core, input, mut commands, sender } = self;
        // From here on only handles keep the channel open.
        drop(sender);
        let mut calls: FuturesUnordered<Call<'_>> = FuturesUnordered::new();
        let mut aborts: HashMap<u64, AbortHandle> = HashMap::new();
        let mut next = Input::Start(input);
        let mut listening = true;
        loop {
            let Progress { events, effects, more } = core.apply(clock.now(), next);
            if !events.is_empty() {
                observer.record(&events).await.map_err(RunError::Observer)?;
            }
            for effect in effects {
                match effect {
                    Effect::Invoke(call) => {
                        let id = call.call;
                        let (abort, registration) = AbortHandle::new_pair();
                        aborts.insert(id, abort);
                        let work = Abortable::new(handler.invoke(call), registration);
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
            if more {
                // Let others have a turn, and let commands through: a machine may go round without ever waiting.
                tokio::task::yield_now().await;
                next = match commands.try_recv() {
                    Ok(command) => accept(&core, command),
                    Err(_) => Input::Continue,
                };
                continue;
            }
            let timer = core.next_timer();
            if timer.is_none() && calls.is_empty() && !listening {
                let states: Vec<String> = core.current_states().iter().map(|name| name.to_string()).collect();
                return Err(RunError::Stuck(states.join(", ")));
            }
            next = tokio::select! {
                biased;
                command = commands.recv(), if listening => match command {
                    Some(command) => accept(&core, command),
                    None => {
                        listening = false;
                        Input::Continue
                    }
                },
                Some((call, outcome)) = calls.next(), if !calls.is_empty() => {
                    aborts.remove(&call);
                    match outcome {
                        Ok(outcome) => Input::CallEnded { call, outcome },
                        Err(Aborted) => Input::Continue,
                    }
                },
                () = async { match timer { Some(at) => clock.sleep_until(at).await, None => std::future::pending().await } } => Input::Clock,
            };
        }
    }
}

/// Answers a command and gives the input it amounts to.
fn accept(core: &Core, command: Command) -> Input {
    let Command { input, answer } = command;
    let known = match &input {
        Input::TokenSucceeded { token, .. } | Input::TokenFailed { token, .. } | Input::TokenHeartbeat { token } => {
            core.awaits_token(token)
        }
        _ => true,
    };
    // Whoever asked may have gone away.
    let _ = answer.send(if known { Ok(()) } else { Err(ControlError::UnknownToken) });
    if known { input } else { Input::Continue }
}
