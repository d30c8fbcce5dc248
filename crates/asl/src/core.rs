//! The interpreter: a pure function from a state of the execution and one input to a new state, events and effects.
//!
//! Nothing in here reads a clock, draws a random number that was not seeded, or waits. [`Core::apply`] takes what
//! happened (a call ended, the clock moved, somebody returned a token) and the time at which it happened; it gives the
//! history events that follow and what is to be done in the world. Replaying the same inputs with the same times gives
//! the same execution, which is what the journal, the tests with virtual time and the crash tests rest on.
//!
//! An execution is a tree of *frames*. A frame walks through one group of states: the machine itself, one branch of a
//! Parallel, one iteration of a Map. A frame whose state is a Parallel or Map waits for its children; there is no
//! recursion, and a thousand iterations cost a thousand small structures. Frames that can move stand in a queue;
//! `apply` moves a bounded number of states before it returns, so that a machine that never ends cannot hold its caller.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::definition::{
    Catcher, Condition, Flow, InputPath, Machine, MapState, Next, QueryLanguage, Resource, ResourceKind, ResultPath,
    Retrier, State, StateKind, Task, Wait,
};
use crate::history::{Detail, EventType, HistoryEvent, iso_instant};
use crate::jsonata::{Bindings, EvaluationError, Surroundings};
use crate::jsonpath::PathError;
use crate::payload::{MAX_PAYLOAD_BYTES, Payload};
use crate::random::Random;
use crate::task::{ExecutionOutcome, ExecutionStatus, TaskCall, TaskOutcome};
use crate::template::{Amount, Query, Spot, Template};

mod operator;

/// States that one call of [`Core::apply`] enters at most.
const TURNS_PER_STEP: usize = 256;
/// Iterations of an inline Map that run at the same time.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/state-map-inline.html>
const MAX_INLINE_CONCURRENCY: u64 = 40;
/// Events an execution of a standard workflow may have.
pub const MAX_EVENTS: u64 = 25_000;
/// How often an execution may be redriven.
/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_RedriveExecution.html>
const MAX_REDRIVES: u64 = 1_000;
/// Seconds an execution may take, whatever the machine says: a year.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
const MAX_EXECUTION_SECONDS: i64 = 31_536_000;
/// Bytes that all variables of an execution may have together.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html>
const MAX_VARIABLES_BYTES: usize = 10 * 1024 * 1024;

/// Who and where an execution is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The execution's name.
    pub execution_name: String,
    /// The execution's ARN; `$states.context.Execution.Id`.
    pub execution_arn: String,
    /// The machine's name.
    pub machine_name: String,
    /// The machine's ARN.
    pub machine_arn: String,
    /// The role the execution would have on AWS.
    pub role_arn: String,
    /// The region it runs as.
    pub region: String,
    /// Where everything random comes from; different for each execution, kept in its journal.
    pub seed: u64,
    /// The most events before the execution fails; [`MAX_EVENTS`] on AWS.
    pub max_events: u64,
}

impl Settings {
    /// The settings of an execution in an account and region, with the ARNs that AWS would give.
    pub fn new(region: &str, account: &str, machine_name: &str, execution_name: &str) -> Settings {
        Settings {
            execution_name: execution_name.to_owned(),
            execution_arn: format!("arn:aws:states:{region}:{account}:execution:{machine_name}:{execution_name}"),
            machine_name: machine_name.to_owned(),
            machine_arn: format!("arn:aws:states:{region}:{account}:stateMachine:{machine_name}"),
            role_arn: format!("arn:aws:iam::{account}:role/{machine_name}"),
            region: region.to_owned(),
            seed: 0,
            max_events: MAX_EVENTS,
        }
    }
}

/// Something that happened to an execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// It is started with this document.
    Start(Payload),
    /// Nothing new; go on with what [`Progress::more`] left.
    Continue,
    /// A call ended.
    CallEnded {
        /// The call.
        call: u64,
        /// How.
        outcome: TaskOutcome,
    },
    /// A `.sync` call has started its job; the call goes on.
    CallSubmitted {
        /// The call.
        call: u64,
        /// What the service answered.
        output: Value,
    },
    /// A worker has taken up an activity's task; until then the task is only scheduled.
    CallStarted {
        /// The call.
        call: u64,
        /// What the worker calls itself.
        worker: Option<String>,
    },
    /// A call whose answer was lost is made again; its deadline begins anew.
    CallRepeated {
        /// The call.
        call: u64,
    },
    /// Time has passed; timers that are due fire.
    Clock,
    /// A task token was returned with a result.
    TokenSucceeded {
        /// The token.
        token: String,
        /// The result.
        output: Value,
    },
    /// A task token was returned with a failure.
    TokenFailed {
        /// The token.
        token: String,
        /// The error's name.
        error: Option<String>,
        /// What happened.
        cause: Option<String>,
    },
    /// The holder of a task token is still at work.
    TokenHeartbeat {
        /// The token.
        token: String,
    },
    /// Stop the execution.
    Stop {
        /// The error's name.
        error: Option<String>,
        /// Why.
        cause: Option<String>,
    },
    /// Enter no further state and call nothing until [`Input::Unpause`].
    Pause,
    /// Go on.
    Unpause,
    /// Go on from the states that did not succeed, after an end that was no success; finished branches stay finished.
    /// <https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html>
    Redrive,
    /// Make another attempt at a state that failed: at once, if it waits for its next attempt; after an end that was no
    /// success from where the state was entered, also if the machine caught its failure.
    Retry {
        /// The state.
        state: String,
    },
    /// Do not do the work of a Task; it ends as if it had answered this. One that is under way is dropped, one that is yet
    /// to come will not be begun, and one that failed goes on after it.
    Skip {
        /// The state.
        state: String,
        /// What its call would have answered.
        answer: Value,
    },
}

/// Why an input of an operator does not fit the execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Redriving is for executions that have ended.
    #[error("the execution has not ended")]
    NotEnded,
    /// There is nothing to take up.
    #[error("the execution has succeeded")]
    Succeeded,
    /// AWS's limits on redrives and events.
    #[error("the execution was redriven too often, or its history is full")]
    Exhausted,
    /// No state of this name failed or waits for its next attempt.
    #[error("the state did not fail and does not wait for another attempt")]
    NotFailed,
    /// There is no Task of this name.
    #[error("the machine has no Task of this name")]
    NoSuchTask,
}

/// Something to be done in the world.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Make this call and answer with [`Input::CallEnded`].
    Invoke(TaskCall),
    /// The answer of this call is no longer wanted.
    Cancel {
        /// The call.
        call: u64,
    },
    /// The execution has ended.
    Done(ExecutionOutcome),
}

/// What followed from an input.
#[derive(Debug, Default)]
pub struct Progress {
    /// New events, in order.
    pub events: Vec<HistoryEvent>,
    /// What to do, after the events are safe.
    pub effects: Vec<Effect>,
    /// More can follow without new input: apply [`Input::Continue`].
    pub more: bool,
}

type FrameId = u64;

mod distributed;

use distributed::{ChildExecution, MapRun, Reading, Tolerance, Writing};

/// One execution of a machine.
#[derive(Debug)]
pub struct Core {
    machine: Arc<Machine>,
    settings: Arc<Settings>,
    now: Timestamp,
    started_at: Timestamp,
    input: Payload,
    random: Random,
    frames: HashMap<FrameId, Frame>,
    ready: VecDeque<FrameId>,
    timers: BTreeMap<(Timestamp, u64), Timer>,
    calls: HashMap<u64, FrameId>,
    tokens: HashMap<Arc<str>, FrameId>,
    next_number: u64,
    last_event: u64,
    paused: bool,
    /// What was left of the execution's own time when it was paused.
    time_left: Option<SignedDuration>,
    /// How often it was redriven, and when last.
    redrives: u64,
    redriven_at: Option<Timestamp>,
    /// The frames of an execution that ended without success.
    stopped: HashMap<FrameId, Frame>,
    /// Where the machine itself stood when a state failed, by the state's name.
    failures: HashMap<Arc<str>, Standing>,
    /// Answers of Tasks that somebody has decided to skip, by name.
    skips: HashMap<Arc<str>, Value>,
    /// The bytes of all variables, those of child executions apart.
    variables_bytes: usize,
    /// The history is full; the execution fails before anything else is done.
    overflowed: bool,
    outcome: Option<ExecutionOutcome>,
    progress: Progress,
}

#[derive(Debug, Clone, Copy)]
enum Timer {
    /// A Wait is over, or a retry is due.
    Wake(FrameId),
    TaskTimeout(FrameId),
    Heartbeat(FrameId),
    Execution,
}

type TimerKey = (Timestamp, u64);

/// Where the machine's own frame stood: enough to enter its state again.
#[derive(Debug, Clone)]
struct Standing {
    state: usize,
    input: Payload,
    variables: HashMap<Arc<str>, Payload>,
}

/// What a failed Parallel or Map had at work, for a redrive.
#[derive(Debug)]
struct Remains {
    children: Children,
    frames: Vec<Frame>,
}

/// One walk through one group of states.
#[derive(Debug)]
struct Frame {
    id: FrameId,
    parent: Option<(FrameId, usize)>,
    /// Names the frame within the execution: state names and slots from the root.
    path: Arc<str>,
    group: usize,
    state: usize,
    /// The state's input as it came in.
    input: Payload,
    /// What `InputPath` makes of it, in JSONPath states that have one.
    effective: Option<Payload>,
    variables: HashMap<Arc<str>, Payload>,
    /// The item and index, when this frame is an iteration of a Map.
    item: Option<(usize, Payload)>,
    /// The last event of this branch.
    previous: u64,
    /// The event of entering the state, until something follows it: what fails on the way in points before it.
    entering: Option<u64>,
    entered: u64,
    entered_at: Timestamp,
    retries: Vec<u64>,
    retry_count: u64,
    token: Option<Arc<str>>,
    /// Children of a distributed Map leave no events in their parent's history.
    silent: bool,
    remains: Option<Box<Remains>>,
    /// What a child execution of a distributed Map knows of itself; its frame is the root of that execution.
    own: Option<Arc<ChildExecution>>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Enter,
    /// Do the state's work, first or again.
    Attempt,
    Calling(Calling),
    /// A distributed Map reads its items.
    Reading(Reading),
    /// A distributed Map writes its results.
    Writing(Writing),
    /// Waiting for a timer: `true` when it is a Wait state's own.
    Sleeping {
        timer: TimerKey,
        own: bool,
    },
    Children(Children),
    /// The work is done, with this result.
    Returned(Payload),
    /// A Wait is over.
    Woken,
    Broken(Trouble),
}

#[derive(Debug)]
struct Calling {
    call: u64,
    timeout: Option<TimerKey>,
    /// The seconds of the timeout.
    seconds: Option<u64>,
    heartbeat: Option<(TimerKey, u64)>,
    /// Somebody is at work on it; an activity waits for a worker first.
    started: bool,
    /// The call itself has ended, the token is still out.
    submitted: bool,
    /// The token came back before the call ended.
    early: Option<TokenAnswer>,
}

#[derive(Debug)]
enum TokenAnswer {
    Success(Value),
    Failure { error: Option<String>, cause: Option<String> },
}

#[derive(Debug)]
struct Children {
    slots: Vec<Slot>,
    /// The first slot that has not been started.
    next: usize,
    running: usize,
    finished: usize,
    limit: usize,
    /// The items of a Map, taken out one by one.
    items: Option<Vec<Value>>,
    /// Iterations that failed.
    failed: usize,
    /// The run of a distributed Map: its iterations are executions of their own, which leave no events here.
    run: Option<Box<MapRun>>,
}

#[derive(Debug)]
enum Slot {
    Idle,
    Running(FrameId),
    Finished(Payload),
    Failed,
}

/// Why a state failed.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    error: Option<Arc<str>>,
    cause: Option<Arc<str>>,
    kind: TroubleKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TroubleKind {
    /// A JSONata evaluation failed, in this field if it is known.
    Evaluation(Option<String>),
    /// A call or a state inside failed, or a Fail state was reached.
    Failure,
    /// A heartbeat was missed; reported as `States.Timeout` and also matched as `States.HeartbeatTimeout`.
    Heartbeat,
    /// Ends the execution, whatever Retry and Catch say.
    Fatal,
}

impl Trouble {
    fn named(error: &str, cause: impl Into<Arc<str>>) -> Trouble {
        Trouble { error: Some(error.into()), cause: Some(cause.into()), kind: TroubleKind::Failure }
    }

    /// `States.Runtime` is never retried and never caught.
    fn runtime(cause: impl Into<Arc<str>>) -> Trouble {
        Trouble { kind: TroubleKind::Fatal, ..Trouble::named("States.Runtime", cause) }
    }

    /// Data that is too large between states ends the execution.
    fn oversize(cause: String) -> Trouble {
        Trouble { kind: TroubleKind::Fatal, ..Trouble::named("States.DataLimitExceeded", cause) }
    }

    fn matches(&self, pattern: &str) -> bool {
        if self.kind == TroubleKind::Fatal {
            return false;
        }
        let error = self.error.as_deref();
        match pattern {
            "States.ALL" => true,
            "States.TaskFailed" => error != Some("States.Timeout"),
            "States.HeartbeatTimeout" => self.kind == TroubleKind::Heartbeat || error == Some(pattern),
            _ => error == Some(pattern),
        }
    }
}

/// What a frame does after a turn.
enum Turn {
    Again,
    Blocked,
    Ended(Payload),
    Failed(Trouble),
    /// The whole execution fails.
    Fatal(Trouble),
}

/// What an evaluation can see.
struct View<'a> {
    core: &'a Core,
    frame: &'a Frame,
    state: &'a State,
    input: &'a Value,
    result: Option<&'a Value>,
    error: Option<&'a Value>,
    item: Option<(usize, &'a Value)>,
    context: OnceCell<Value>,
}

impl Bindings for View<'_> {
    fn input(&self) -> &Value {
        self.input
    }
    fn context(&self) -> &Value {
        self.context.get_or_init(|| self.core.context_object(self.frame, self.state, self.item))
    }
    fn result(&self) -> Option<&Value> {
        self.result
    }
    fn error_output(&self) -> Option<&Value> {
        self.error
    }
    fn variable(&self, name: &str) -> Option<&Value> {
        let mut frame = Some(self.frame);
        while let Some(current) = frame {
            if let Some(value) = current.variables.get(name) {
                return Some(value.value());
            }
            // A child execution of a distributed Map does not see the variables of the one that started it.
            if current.own.is_some() {
                return None;
            }
            frame = current.parent.and_then(|(parent, _)| self.core.frames.get(&parent));
        }
        None
    }
}

/// What besides the state's input an evaluation is given.
#[derive(Clone, Copy, Default)]
struct Given<'a> {
    result: Option<&'a Value>,
    error: Option<&'a Value>,
    item: Option<(usize, &'a Value)>,
    /// Instead of the state's raw input, in JSONPath.
    input: Option<&'a Value>,
}

impl Core {
    /// An execution that has not been started.
    pub fn new(machine: Arc<Machine>, settings: Arc<Settings>) -> Core {
        let random = Random::seeded(settings.seed);
        Core {
            machine,
            settings,
            now: Timestamp::UNIX_EPOCH,
            started_at: Timestamp::UNIX_EPOCH,
            input: Value::Null.into(),
            random,
            frames: HashMap::new(),
            ready: VecDeque::new(),
            timers: BTreeMap::new(),
            calls: HashMap::new(),
            tokens: HashMap::new(),
            next_number: 0,
            last_event: 0,
            paused: false,
            time_left: None,
            redrives: 0,
            redriven_at: None,
            stopped: HashMap::new(),
            failures: HashMap::new(),
            skips: HashMap::new(),
            variables_bytes: 0,
            overflowed: false,
            outcome: None,
            progress: Progress::default(),
        }
    }

    /// When the clock has to be looked at next.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.keys().next().map(|(at, _)| (*at).min(self.last_moment()))
    }

    /// No execution goes on after this.
    fn last_moment(&self) -> Timestamp {
        let year = SignedDuration::from_secs(MAX_EXECUTION_SECONDS);
        self.started_at.checked_add(year).unwrap_or(Timestamp::MAX)
    }

    /// Whether somebody waits for this token.
    pub fn awaits_token(&self, token: &str) -> bool {
        self.tokens.contains_key(token)
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&ExecutionOutcome> {
        self.outcome.as_ref()
    }

    /// Whether it has been paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The states that are being worked on, outermost first.
    pub fn current_states(&self) -> Vec<Arc<str>> {
        let mut frames: Vec<&Frame> = self.frames.values().collect();
        frames.sort_by_key(|frame| frame.id);
        frames.iter().map(|frame| Arc::clone(&self.machine.groups[frame.group].states[frame.state].name)).collect()
    }

    /// Takes one input at the time it happened.
    pub fn apply(&mut self, now: Timestamp, input: Input) -> Progress {
        // A clock that was set back must not turn the history around.
        self.now = self.now.max(now);
        let reopens = matches!(input, Input::Redrive | Input::Retry { .. } | Input::Skip { .. });
        if self.outcome.is_none() || reopens {
            self.take(input);
            self.run();
            if self.overflowed && self.outcome.is_none() {
                self.fail_for_its_length();
            }
        }
        std::mem::take(&mut self.progress)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Start(payload) => self.start(payload),
            Input::Continue => {}
            Input::CallEnded { call, outcome } => self.call_ended(call, outcome),
            Input::CallSubmitted { call, output } => self.call_submitted(call, output),
            Input::CallStarted { call, worker } => self.call_started(call, worker),
            Input::CallRepeated { call } => self.call_repeated(call),
            Input::Clock => self.fire_timers(),
            Input::TokenSucceeded { token, output } => self.token_answered(&token, TokenAnswer::Success(output)),
            Input::TokenFailed { token, error, cause } => {
                self.token_answered(&token, TokenAnswer::Failure { error, cause })
            }
            Input::TokenHeartbeat { token } => self.heartbeat(&token),
            Input::Stop { error, cause } => self.stop(error, cause),
            Input::Pause => self.pause(),
            Input::Unpause => self.unpause(),
            Input::Redrive => self.redrive(),
            Input::Retry { state } => self.retry(&state),
            Input::Skip { state, answer } => self.skip(&state, answer),
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    // ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    fn event(
        &mut self,
        previous: u64,
        event_type: EventType,
        state: Option<&Arc<str>>,
        details: Vec<(&'static str, Detail)>,
    ) -> u64 {
        // The last event that AWS records is the one that ends the execution.
        if self.last_event + 1 >= self.settings.max_events && !is_terminal(event_type) {
            self.overflowed = true;
            return self.last_event;
        }
        self.last_event += 1;
        self.progress.events.push(HistoryEvent {
            id: self.last_event,
            previous_event_id: previous,
            timestamp: self.now,
            event_type,
            details,
            state: state.cloned(),
        });
        self.last_event
    }

    /// An event that the branch goes on from.
    fn emit(&mut self, frame: &mut Frame, event_type: EventType, state: &State, details: Vec<(&'static str, Detail)>) {
        self.arrive(frame);
        if !frame.silent {
            frame.previous = self.event(frame.previous, event_type, Some(&state.name), details);
        }
    }

    /// An event beside the branch: the next one points to the same predecessor.
    fn emit_aside(
        &mut self,
        frame: &mut Frame,
        event_type: EventType,
        state: &State,
        details: Vec<(&'static str, Detail)>,
    ) -> u64 {
        self.arrive(frame);
        if frame.silent { frame.previous } else { self.event(frame.previous, event_type, Some(&state.name), details) }
    }

    /// From here on events point to the one that entered the state.
    fn arrive(&mut self, frame: &mut Frame) {
        if let Some(entered) = frame.entering.take() {
            frame.previous = entered;
        }
    }

    // ── the whole execution ─────────────────────────────────────────────────────────────────────────────────────────

    fn start(&mut self, payload: Payload) {
        if self.last_event > 0 {
            return;
        }
        self.started_at = self.now;
        self.input = payload.clone();
        self.event(
            0,
            EventType::ExecutionStarted,
            None,
            vec![
                ("input", Detail::Document(payload.clone())),
                ("inputDetails", untruncated()),
                ("roleArn", Detail::Text(self.settings.role_arn.as_str().into())),
            ],
        );
        self.limit_time();
        let id = self.number();
        let machine = Arc::clone(&self.machine);
        let frame = self.new_frame(id, None, Arc::from(""), 0, machine.groups[0].start, payload, 0);
        self.frames.insert(id, frame);
        self.ready.push_back(id);
    }

    fn limit_time(&mut self) {
        if let Some(seconds) = self.machine.timeout_seconds {
            let at = self.after(seconds as f64);
            let number = self.number();
            self.timers.insert((at, number), Timer::Execution);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn new_frame(
        &self,
        id: FrameId,
        parent: Option<(FrameId, usize)>,
        path: Arc<str>,
        group: usize,
        state: usize,
        input: Payload,
        previous: u64,
    ) -> Frame {
        Frame {
            id,
            parent,
            path,
            group,
            state,
            input,
            effective: None,
            variables: HashMap::new(),
            item: None,
            previous,
            entering: None,
            entered: 0,
            entered_at: self.now,
            retries: Vec::new(),
            retry_count: 0,
            token: None,
            silent: false,
            remains: None,
            own: None,
            phase: Phase::Enter,
        }
    }

    fn after(&self, seconds: f64) -> Timestamp {
        let whole = SignedDuration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(SignedDuration::MAX);
        self.now.checked_add(whole).unwrap_or(Timestamp::MAX)
    }

    fn run(&mut self) {
        let mut budget = TURNS_PER_STEP;
        while self.outcome.is_none() && !self.paused && !self.overflowed {
            let Some(id) = self.ready.pop_front() else {
                break;
            };
            let Some(frame) = self.frames.remove(&id) else {
                continue;
            };
            self.run_frame(frame, &mut budget);
            if budget == 0 {
                break;
            }
        }
        self.progress.more = self.outcome.is_none() && !self.paused && !self.ready.is_empty();
    }

    fn fail_for_its_length(&mut self) {
        let cause =
            format!("The execution reached the maximum number of history events ({}).", self.settings.max_events);
        self.finish_failed(self.last_event, Trouble::runtime(cause));
    }

    fn run_frame(&mut self, mut frame: Frame, budget: &mut usize) {
        let machine = Arc::clone(&self.machine);
        loop {
            let turn = self.turn(&machine, &mut frame);
            if self.overflowed {
                return;
            }
            match turn {
                Turn::Again => {
                    *budget = budget.saturating_sub(1);
                    if *budget == 0 {
                        self.ready.push_front(frame.id);
                        self.frames.insert(frame.id, frame);
                        return;
                    }
                }
                Turn::Blocked => {
                    self.frames.insert(frame.id, frame);
                    return;
                }
                Turn::Ended(output) => match frame.parent {
                    None => return self.finish_succeeded(frame.previous, output),
                    Some((parent, slot)) => {
                        return self.child_ended(&machine, parent, slot, frame, output);
                    }
                },
                Turn::Failed(trouble) => match frame.parent {
                    None => {
                        let previous = frame.previous;
                        self.frames.insert(frame.id, frame);
                        return self.finish_failed(previous, trouble);
                    }
                    Some((parent, slot)) => {
                        return self.child_failed(&machine, parent, slot, frame, trouble);
                    }
                },
                Turn::Fatal(trouble) if frame.silent => return self.child_execution_failed(&machine, frame, trouble),
                Turn::Fatal(trouble) => {
                    self.arrive(&mut frame);
                    let previous = frame.previous;
                    self.frames.insert(frame.id, frame);
                    return self.finish_failed(previous, trouble);
                }
            }
        }
    }

    fn finish(&mut self, outcome: ExecutionOutcome) {
        let mut open: Vec<u64> = self.calls.drain().map(|(call, _)| call).collect();
        open.sort_unstable();
        self.progress.effects.extend(open.into_iter().map(|call| Effect::Cancel { call }));
        self.stopped = std::mem::take(&mut self.frames);
        if outcome.status == ExecutionStatus::Succeeded {
            self.stopped.clear();
        }
        self.ready.clear();
        self.timers.clear();
        self.tokens.clear();
        self.outcome = Some(outcome.clone());
        self.progress.effects.push(Effect::Done(outcome));
    }

    fn finish_succeeded(&mut self, previous: u64, output: Payload) {
        self.event(
            previous,
            EventType::ExecutionSucceeded,
            None,
            vec![("output", Detail::Document(output.clone())), ("outputDetails", untruncated())],
        );
        self.finish(ExecutionOutcome {
            status: ExecutionStatus::Succeeded,
            output: Some(output),
            error: None,
            cause: None,
        });
    }

    fn finish_failed(&mut self, previous: u64, trouble: Trouble) {
        self.event(previous, EventType::ExecutionFailed, None, failure_details(&trouble));
        self.finish(ExecutionOutcome {
            status: ExecutionStatus::Failed,
            output: None,
            error: trouble.error.as_deref().map(str::to_owned),
            cause: trouble.cause.as_deref().map(str::to_owned),
        });
    }

    /// Like the end by time, the end by hand comes from outside: its event follows none, and the states that were at work
    /// leave no trace (measured on AWS for a Wait: three events).
    fn stop(&mut self, error: Option<String>, cause: Option<String>) {
        let mut details = Vec::new();
        details.extend(error.as_deref().map(|text| ("error", Detail::Text(text.into()))));
        details.extend(cause.as_deref().map(|text| ("cause", Detail::Text(text.into()))));
        self.event(0, EventType::ExecutionAborted, None, details);
        self.finish(ExecutionOutcome { status: ExecutionStatus::Aborted, output: None, error, cause });
    }

    fn time_out(&mut self) {
        // The error stands in the event only; `DescribeExecution` gives the status and nothing else.
        self.event(0, EventType::ExecutionTimedOut, None, vec![("error", Detail::Text("States.Timeout".into()))]);
        self.finish(ExecutionOutcome { status: ExecutionStatus::TimedOut, output: None, error: None, cause: None });
    }

    // ── inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────

    fn fire_timers(&mut self) {
        while self.outcome.is_none() {
            let Some((&key, &timer)) = self.timers.iter().next() else {
                return;
            };
            if key.0.min(self.last_moment()) > self.now {
                return;
            }
            if key.0 > self.last_moment() {
                return self.time_out();
            }
            self.timers.remove(&key);
            match timer {
                Timer::Execution => self.time_out(),
                Timer::Wake(id) => {
                    if let Some(frame) = self.frames.get_mut(&id)
                        && let Phase::Sleeping { own, .. } = frame.phase
                    {
                        frame.phase = if own { Phase::Woken } else { Phase::Attempt };
                        self.ready.push_back(id);
                    }
                }
                Timer::TaskTimeout(id) => self.task_timed_out(id, TroubleKind::Failure),
                Timer::Heartbeat(id) => self.task_timed_out(id, TroubleKind::Heartbeat),
            }
        }
    }

    fn task_timed_out(&mut self, id: FrameId, kind: TroubleKind) {
        let Some(mut frame) = self.frames.remove(&id) else {
            return;
        };
        let machine = Arc::clone(&self.machine);
        let state = &machine.groups[frame.group].states[frame.state];
        if let (Phase::Calling(_), StateKind::Task(task)) = (&frame.phase, &state.kind) {
            self.end_call(&mut frame, true);
            let error: Arc<str> = "States.Timeout".into();
            let (event_type, mut details) = task_event(&task.resource, TaskMoment::TimedOut);
            details.push(("error", Detail::Text(Arc::clone(&error))));
            self.emit(&mut frame, event_type, state, details);
            frame.phase = Phase::Broken(Trouble { error: Some(error), cause: None, kind });
            self.ready.push_back(id);
        }
        self.frames.insert(id, frame);
    }

    /// Forgets a call, its timers and its token.
    fn end_call(&mut self, frame: &mut Frame, cancel: bool) {
        if let Phase::Reading(Reading { call, .. }) | Phase::Writing(Writing { call, .. }) = &frame.phase
            && self.calls.remove(call).is_some()
            && cancel
        {
            self.progress.effects.push(Effect::Cancel { call: *call });
        }
        if let Phase::Calling(calling) = &frame.phase {
            if let Some(key) = calling.timeout {
                self.timers.remove(&key);
            }
            if let Some((key, _)) = calling.heartbeat {
                self.timers.remove(&key);
            }
            if self.calls.remove(&calling.call).is_some() && cancel {
                self.progress.effects.push(Effect::Cancel { call: calling.call });
            }
        }
        if let Some(token) = frame.token.take() {
            self.tokens.remove(&token);
        }
    }

    fn call_ended(&mut self, call: u64, outcome: TaskOutcome) {
        let Some(id) = self.calls.remove(&call) else {
            return;
        };
        let Some(mut frame) = self.frames.remove(&id) else {
            return;
        };
        let machine = Arc::clone(&self.machine);
        let state = &machine.groups[frame.group].states[frame.state];
        if let StateKind::Map(map) = &state.kind {
            self.map_call_ended(&machine, &mut frame, state, map, outcome);
        } else if let StateKind::Task(task) = &state.kind {
            self.note_start(&mut frame, state, task, None);
            match outcome {
                TaskOutcome::Failure { error, cause } => self.task_failed(&mut frame, state, task, error, cause),
                TaskOutcome::Success { output, submitted } => {
                    if task.resource.waits_for_token() {
                        self.submitted(&mut frame, state, task, output);
                    } else {
                        if let Some(submitted) = submitted {
                            self.note_submission(&mut frame, state, task, submitted);
                        }
                        self.task_succeeded(&mut frame, state, task, output);
                    }
                }
            }
        }
        self.frames.insert(id, frame);
    }

    fn call_repeated(&mut self, call: u64) {
        let Some(&id) = self.calls.get(&call) else { return };
        let Some(frame) = self.frames.get(&id) else { return };
        let Phase::Calling(Calling { timeout, heartbeat, seconds, .. }) = &frame.phase else { return };
        let (timeout, heartbeat, seconds) = (*timeout, *heartbeat, *seconds);
        let renewed_timeout = timeout.zip(seconds).map(|(key, seconds)| {
            self.timers.remove(&key);
            let renewed = (self.after(seconds as f64), self.number());
            self.timers.insert(renewed, Timer::TaskTimeout(id));
            renewed
        });
        let renewed_heartbeat = heartbeat.map(|(key, seconds)| {
            self.timers.remove(&key);
            let renewed = (self.after(seconds as f64), self.number());
            self.timers.insert(renewed, Timer::Heartbeat(id));
            (renewed, seconds)
        });
        if let Some(Frame { phase: Phase::Calling(calling), .. }) = self.frames.get_mut(&id) {
            calling.timeout = renewed_timeout;
            calling.heartbeat = renewed_heartbeat;
        }
    }

    fn call_started(&mut self, call: u64, worker: Option<String>) {
        let Some(&id) = self.calls.get(&call) else { return };
        let Some(mut frame) = self.frames.remove(&id) else { return };
        let machine = Arc::clone(&self.machine);
        let state = &machine.groups[frame.group].states[frame.state];
        if let StateKind::Task(task) = &state.kind {
            self.note_start(&mut frame, state, task, worker);
        }
        self.frames.insert(id, frame);
    }

    /// The event of a worker that takes up an activity's task, once. An answer shows that there was one.
    fn note_start(&mut self, frame: &mut Frame, state: &State, task: &Task, worker: Option<String>) {
        let Phase::Calling(calling) = &mut frame.phase else { return };
        if std::mem::replace(&mut calling.started, true) {
            return;
        }
        let (event_type, mut details) = task_event(&task.resource, TaskMoment::Started);
        details.extend(worker.map(|worker| ("workerName", Detail::Text(worker.into()))));
        self.emit(frame, event_type, state, details);
    }

    fn call_submitted(&mut self, call: u64, output: Value) {
        let Some(&id) = self.calls.get(&call) else { return };
        let Some(mut frame) = self.frames.remove(&id) else { return };
        let machine = Arc::clone(&self.machine);
        let state = &machine.groups[frame.group].states[frame.state];
        if let StateKind::Task(task) = &state.kind {
            self.note_submission(&mut frame, state, task, output);
        }
        self.frames.insert(id, frame);
    }

    /// The event of work that goes on elsewhere, once: a runner that was resumed may find the job that it had started.
    fn note_submission(&mut self, frame: &mut Frame, state: &State, task: &Task, output: Value) {
        let Phase::Calling(calling) = &mut frame.phase else { return };
        if std::mem::replace(&mut calling.submitted, true) {
            return;
        }
        let (event_type, mut details) = task_event(&task.resource, TaskMoment::Submitted);
        push_output(&mut details, output.into());
        self.emit(frame, event_type, state, details);
    }

    /// The call that hands out the token has ended; the token is still out.
    fn submitted(&mut self, frame: &mut Frame, state: &State, task: &Task, output: Value) {
        self.note_submission(frame, state, task, output);
        let Phase::Calling(calling) = &mut frame.phase else {
            return;
        };
        match calling.early.take() {
            Some(TokenAnswer::Success(output)) => self.task_succeeded(frame, state, task, output),
            Some(TokenAnswer::Failure { error, cause }) => self.task_failed(frame, state, task, error, cause),
            None => {}
        }
    }

    fn task_succeeded(&mut self, frame: &mut Frame, state: &State, task: &Task, output: Value) {
        let output = Payload::from(output);
        if output.is_oversize() {
            let what = match &task.resource.kind {
                ResourceKind::Integration { service, .. } => service.as_ref(),
                _ => task.resource.arn.as_ref(),
            };
            let cause = oversize_result(what);
            return self.task_failed(frame, state, task, Some("States.DataLimitExceeded".to_owned()), Some(cause));
        }
        self.end_call(frame, false);
        let (event_type, mut details) = task_event(&task.resource, TaskMoment::Succeeded);
        push_output(&mut details, output.clone());
        self.emit(frame, event_type, state, details);
        frame.phase = Phase::Returned(output);
        self.ready.push_back(frame.id);
    }

    fn task_failed(
        &mut self,
        frame: &mut Frame,
        state: &State,
        task: &Task,
        error: Option<String>,
        cause: Option<String>,
    ) {
        self.end_call(frame, true);
        let trouble = Trouble { error: error.map(Arc::from), cause: cause.map(Arc::from), kind: TroubleKind::Failure };
        let (event_type, mut details) = task_event(&task.resource, TaskMoment::Failed);
        details.extend(failure_details(&trouble));
        self.emit(frame, event_type, state, details);
        frame.phase = Phase::Broken(trouble);
        self.ready.push_back(frame.id);
    }

    fn token_answered(&mut self, token: &str, answer: TokenAnswer) {
        let Some(&id) = self.tokens.get(token) else {
            return;
        };
        let Some(mut frame) = self.frames.remove(&id) else {
            return;
        };
        let machine = Arc::clone(&self.machine);
        let state = &machine.groups[frame.group].states[frame.state];
        if let (Phase::Calling(calling), StateKind::Task(task)) = (&mut frame.phase, &state.kind) {
            if calling.submitted {
                match answer {
                    TokenAnswer::Success(output) => self.task_succeeded(&mut frame, state, task, output),
                    TokenAnswer::Failure { error, cause } => self.task_failed(&mut frame, state, task, error, cause),
                }
            } else if calling.early.is_none() {
                // The answer overtook the call that handed out the token. The call is let finish: it may still be at work.
                calling.early = Some(answer);
            }
        }
        self.frames.insert(id, frame);
    }

    fn heartbeat(&mut self, token: &str) {
        let Some(&id) = self.tokens.get(token) else {
            return;
        };
        let Some(Frame { phase: Phase::Calling(calling), .. }) = self.frames.get(&id) else {
            return;
        };
        let Some((key, seconds)) = calling.heartbeat else {
            return;
        };
        self.timers.remove(&key);
        let renewed = (self.after(seconds as f64), self.number());
        self.timers.insert(renewed, Timer::Heartbeat(id));
        if let Some(Frame { phase: Phase::Calling(calling), .. }) = self.frames.get_mut(&id) {
            calling.heartbeat = Some((renewed, seconds));
        }
    }

    // ── one turn of one frame ───────────────────────────────────────────────────────────────────────────────────────

    fn turn(&mut self, machine: &Machine, frame: &mut Frame) -> Turn {
        let state = &machine.groups[frame.group].states[frame.state];
        match std::mem::replace(&mut frame.phase, Phase::Attempt) {
            Phase::Enter => {
                frame.retries.clear();
                frame.retries.resize(state.retry.len(), 0);
                frame.retry_count = 0;
                frame.entered_at = self.now;
                frame.token = None;
                if !frame.silent {
                    let details = vec![
                        ("name", Detail::Text(Arc::clone(&state.name))),
                        ("input", Detail::Document(frame.input.clone())),
                        ("inputDetails", untruncated()),
                    ];
                    let id = self.event(frame.previous, entered_type(&state.kind), Some(&state.name), details);
                    frame.entered = id;
                    frame.entering = Some(id);
                } else {
                    frame.entered = self.number();
                }
                self.attempt(machine, frame, state)
            }
            Phase::Attempt => self.attempt(machine, frame, state),
            Phase::Returned(result) => match self.conclude(frame, state, Some(result)) {
                Ok(turn) => turn,
                Err(trouble) => self.handle(frame, state, trouble),
            },
            Phase::Woken => match self.conclude(frame, state, None) {
                Ok(turn) => turn,
                Err(trouble) => self.handle(frame, state, trouble),
            },
            Phase::Broken(trouble) => self.handle(frame, state, trouble),
            waiting @ (Phase::Calling(_)
            | Phase::Reading(_)
            | Phase::Writing(_)
            | Phase::Sleeping { .. }
            | Phase::Children(_)) => {
                frame.phase = waiting;
                Turn::Blocked
            }
        }
    }

    fn attempt(&mut self, machine: &Machine, frame: &mut Frame, state: &State) -> Turn {
        frame.remains = None;
        let outcome = self.set_effective_input(frame, state).and_then(|()| match &state.kind {
            StateKind::Pass { result } => self.pass(frame, state, result.as_ref()),
            StateKind::Task(task) => self.task(frame, state, task),
            StateKind::Choice { .. } => self.choice(frame, state),
            StateKind::Wait(wait) => self.wait(frame, state, wait),
            StateKind::Succeed => self.conclude(frame, state, None),
            StateKind::Fail { error, cause } => self.fail(frame, state, error.as_ref(), cause.as_ref()),
            StateKind::Parallel { branches } => self.parallel(machine, frame, state, branches),
            StateKind::Map(map) => self.map(machine, frame, state, map),
        });
        match outcome {
            Ok(turn) => turn,
            Err(trouble) => self.handle(frame, state, trouble),
        }
    }

    fn set_effective_input(&mut self, frame: &mut Frame, state: &State) -> Result<(), Trouble> {
        frame.effective = None;
        if let Some(path) = &state.flow.input_path {
            frame.effective = Some(self.through(frame, state, path, &frame.input)?);
        }
        Ok(())
    }

    /// Applies an `InputPath` or `OutputPath` to a document.
    fn through(
        &mut self,
        frame: &Frame,
        state: &State,
        path: &InputPath,
        document: &Payload,
    ) -> Result<Payload, Trouble> {
        match path {
            InputPath::Nothing => Ok(json!({}).into()),
            InputPath::Path(query) if query.is_identity() => Ok(document.clone()),
            InputPath::Path(query) => {
                let given = Given { input: Some(document.value()), ..Given::default() };
                let mut random = std::mem::take(&mut self.random);
                let found = query.evaluate(&self.view(frame, state, given), &mut random);
                self.random = random;
                found.map(Payload::from).map_err(|error| no_results(frame, state, error))
            }
        }
    }

    /// The output of a state that has no result: its input, by way of `InputPath` and `OutputPath`.
    fn plain_output(&mut self, frame: &Frame, state: &State) -> Result<Payload, Trouble> {
        let input = frame.effective.clone().unwrap_or_else(|| frame.input.clone());
        match &state.flow.output_path {
            None => Ok(input),
            Some(path) => self.through(frame, state, path, &input),
        }
    }

    fn pass(&mut self, frame: &mut Frame, state: &State, result: Option<&Payload>) -> Result<Turn, Trouble> {
        if state.language == QueryLanguage::JSONata {
            return self.conclude(frame, state, None);
        }
        let result = match result {
            Some(result) => result.clone(),
            None => self.arguments(frame, state)?,
        };
        self.conclude(frame, state, Some(result))
    }

    fn task(&mut self, frame: &mut Frame, state: &State, task: &Task) -> Result<Turn, Trouble> {
        if let Some(answer) = self.skips.remove(&state.name) {
            self.skipped(frame, state, task, answer);
            return Ok(Turn::Again);
        }
        if task.resource.waits_for_token() {
            frame.token = Some(self.random.token().into());
        }
        let payload = self.arguments(frame, state)?;
        let timeout = self.amount(frame, state, task.timeout.as_ref(), "TimeoutSeconds", 1)?;
        let heartbeat = self.amount(frame, state, task.heartbeat.as_ref(), "HeartbeatSeconds", 1)?;
        let credentials = match &task.credentials {
            Some(template) => Some(self.fill(frame, state, template, Spot::Field("Credentials"), Given::default())?),
            None => None,
        };
        fits_as_input(state, &payload)?;
        self.schedule(frame, state, task, &payload, timeout, heartbeat, credentials.as_ref());
        if self.overflowed {
            return Ok(Turn::Blocked);
        }
        let call = self.number();
        let timeout_key = timeout.map(|seconds| {
            let key = (self.after(seconds as f64), self.number());
            self.timers.insert(key, Timer::TaskTimeout(frame.id));
            key
        });
        let listens = task.resource.waits_for_token() || task.resource.kind == ResourceKind::Activity;
        let heartbeat_key = heartbeat.filter(|_| listens).map(|seconds| {
            let key = (self.after(seconds as f64), self.number());
            self.timers.insert(key, Timer::Heartbeat(frame.id));
            (key, seconds)
        });
        if let Some(token) = &frame.token {
            self.tokens.insert(Arc::clone(token), frame.id);
        }
        self.calls.insert(call, frame.id);
        frame.phase = Phase::Calling(Calling {
            call,
            timeout: timeout_key,
            seconds: timeout,
            heartbeat: heartbeat_key,
            started: task.resource.kind != ResourceKind::Activity,
            submitted: false,
            early: None,
        });
        self.progress.effects.push(Effect::Invoke(TaskCall {
            call,
            state: Arc::clone(&state.name),
            resource: task.resource.clone(),
            payload,
            attempt: frame.retry_count,
            task_token: frame.token.clone(),
            heartbeat_seconds: heartbeat,
            timeout_seconds: timeout,
            may_repeat: false,
            submissions: None,
            credentials,
            idempotency_key: self.idempotency_key(frame, state),
        }));
        Ok(Turn::Blocked)
    }

    fn idempotency_key(&self, frame: &Frame, state: &State) -> String {
        let (name, redrives) = (&self.settings.execution_name, self.redrives);
        let key = format!("{name}{}/{}@{}.{}", frame.path, state.name, frame.entered, frame.retry_count);
        if redrives == 0 { key } else { format!("{key}+{redrives}") }
    }

    #[allow(clippy::too_many_arguments)]
    fn schedule(
        &mut self,
        frame: &mut Frame,
        state: &State,
        task: &Task,
        payload: &Payload,
        timeout: Option<u64>,
        heartbeat: Option<u64>,
        credentials: Option<&Payload>,
    ) {
        let (event_type, mut details) = task_event(&task.resource, TaskMoment::Scheduled);
        match task.resource.kind {
            ResourceKind::Function | ResourceKind::Activity => {
                details.push(("resource", Detail::Text(Arc::clone(&task.resource.arn))));
                details.push(("input", Detail::Document(payload.clone())));
                details.push(("inputDetails", untruncated()));
            }
            _ => {
                details.push(("region", Detail::Text(self.settings.region.as_str().into())));
                details.push(("parameters", Detail::Document(payload.clone())));
            }
        }
        details.extend(timeout.map(|seconds| ("timeoutInSeconds", Detail::Number(seconds))));
        details.extend(heartbeat.map(|seconds| ("heartbeatInSeconds", Detail::Number(seconds))));
        if let Some(role) = credentials.and_then(|credentials| credentials.value().get("RoleArn")) {
            let mut object = serde_json::Map::new();
            object.insert("roleArn".to_owned(), role.clone());
            details.push(("taskCredentials", Detail::Object(object)));
        }
        self.emit(frame, event_type, state, details);
        if task.resource.kind != ResourceKind::Activity {
            let (event_type, details) = task_event(&task.resource, TaskMoment::Started);
            self.emit(frame, event_type, state, details);
        }
    }

    fn choice(&mut self, frame: &mut Frame, state: &State) -> Result<Turn, Trouble> {
        let StateKind::Choice { rules, default } = &state.kind else {
            return Ok(Turn::Blocked);
        };
        for (index, rule) in rules.iter().enumerate() {
            let holds = match &rule.condition {
                Condition::Constant(value) => *value,
                Condition::Jsonata(expression) => {
                    let choices = Spot::Field("Choices");
                    let at = Spot::Index(&choices, index);
                    let spot = Spot::Key(&at, "Condition");
                    let query = Query::Jsonata(expression.clone());
                    match self.answer(frame, state, &query, spot, Given::default())? {
                        Value::Bool(value) => value,
                        other => {
                            return Err(unexpected_type(
                                frame,
                                state,
                                expression.source(),
                                &spot.spell(),
                                "boolean",
                                &other,
                            ));
                        }
                    }
                }
                Condition::Tree(test) => {
                    let holds = test.holds(&self.view(frame, state, Given::default()));
                    holds.map_err(|missing| {
                        let start = while_executing(frame, state);
                        Trouble::runtime(format!(
                            "{start}Invalid path '{}': The choice state's condition path references an invalid value.",
                            missing.0
                        ))
                    })?
                }
            };
            if holds {
                let choices = Spot::Field("Choices");
                let at = Spot::Index(&choices, index);
                let assigned =
                    self.assignments(frame, state, rule.assign.as_deref(), Spot::Key(&at, "Assign"), Given::default())?;
                let output = match &rule.output {
                    Some(template) => self.fill(frame, state, template, Spot::Key(&at, "Output"), Given::default())?,
                    None => self.plain_output(frame, state)?,
                };
                return self.leave(frame, state, output, assigned, Next::State(rule.next));
            }
        }
        let Some(default) = default else {
            let cause = format!(
                "{}Failed to transition out of the state. The state does not point to a next state.",
                while_executing(frame, state)
            );
            // The documentation names States.NoChoiceMatched; this is what AWS gives. See
            // docs/decisions/2026-11-25-a-choice-without-a-match-is-a-runtime-error.md.
            return Err(Trouble::runtime(cause));
        };
        let assigned =
            self.assignments(frame, state, state.assign.as_deref(), Spot::Field("Assign"), Given::default())?;
        let output = match &state.flow.output {
            Some(template) => self.fill(frame, state, template, Spot::Field("Output"), Given::default())?,
            None => self.plain_output(frame, state)?,
        };
        self.leave(frame, state, output, assigned, Next::State(*default))
    }

    fn wait(&mut self, frame: &mut Frame, state: &State, wait: &Wait) -> Result<Turn, Trouble> {
        let until = match wait {
            Wait::Seconds(amount) => {
                let seconds = self.amount(frame, state, Some(amount), "Seconds", 0)?.unwrap_or(0);
                self.after(seconds as f64)
            }
            Wait::Timestamp(Template::Query(Query::Path(query))) => {
                let start = while_executing(frame, state);
                let Some(value) = query.find(&self.view(frame, state, Given::default())) else {
                    let cause = format!(
                        "{start}The TimestampPath parameter does not reference an input value: {}",
                        query.text()
                    );
                    return Err(Trouble::runtime(cause));
                };
                match value.as_str().and_then(crate::moment::parse) {
                    Some(moment) => moment,
                    None => {
                        let (path, value) = (query.text(), shown(&value));
                        let cause = format!(
                            "{start}The TimestampPath parameter does not reference a valid ISO-8601 extended offset date-time format string: {path} == {value}"
                        );
                        return Err(Trouble::runtime(cause));
                    }
                }
            }
            Wait::Timestamp(template) => {
                let value = self.fill(frame, state, template, Spot::Field("Timestamp"), Given::default())?;
                self.arrive(frame);
                match value.value().as_str().and_then(crate::moment::parse) {
                    Some(moment) => moment,
                    None => {
                        let shown = shown(value.value());
                        let cause = format!(
                            "{}The Timestamp field cannot be parsed as an ISO-8601 extended offset date-time format string: {shown}",
                            while_executing(frame, state)
                        );
                        return Err(evaluation_trouble(cause, Some("Timestamp".to_owned())));
                    }
                }
            }
        };
        self.arrive(frame);
        if until <= self.now {
            return self.conclude(frame, state, None);
        }
        let timer = (until, self.number());
        self.timers.insert(timer, Timer::Wake(frame.id));
        frame.phase = Phase::Sleeping { timer, own: true };
        Ok(Turn::Blocked)
    }

    fn fail(
        &mut self,
        frame: &mut Frame,
        state: &State,
        error: Option<&Template>,
        cause: Option<&Template>,
    ) -> Result<Turn, Trouble> {
        let mut part = |template: Option<&Template>,
                        field: &'static str,
                        path_field: &'static str|
         -> Result<Option<Arc<str>>, Trouble> {
            let Some(template) = template else {
                return Ok(None);
            };
            let spot = match template {
                Template::Query(Query::Path(_)) => path_field,
                _ => field,
            };
            let value = self.fill(frame, state, template, Spot::Field(spot), Given::default())?;
            match value.value() {
                Value::String(text) => Ok(Some(text.as_str().into())),
                other if state.language == QueryLanguage::JSONPath => {
                    let cause = format!(
                        "{}The {spot} field must refer to a string value but was: {other}",
                        while_executing(frame, state)
                    );
                    Err(Trouble::runtime(cause))
                }
                other => {
                    let source = match template {
                        Template::Query(Query::Jsonata(expression)) => expression.source().to_owned(),
                        _ => String::new(),
                    };
                    Err(unexpected_type(frame, state, &source, field, "string", other))
                }
            }
        };
        let error = part(error, "Error", "ErrorPath")?;
        let cause = part(cause, "Cause", "CausePath")?;
        self.arrive(frame);
        Ok(Turn::Failed(Trouble { error, cause, kind: TroubleKind::Failure }))
    }

    fn parallel(
        &mut self,
        machine: &Machine,
        frame: &mut Frame,
        state: &State,
        branches: &[usize],
    ) -> Result<Turn, Trouble> {
        let input = self.arguments(frame, state)?;
        fits_as_input(state, &input)?;
        self.emit(frame, EventType::ParallelStateStarted, state, Vec::new());
        let mut slots = Vec::with_capacity(branches.len());
        for (slot, &group) in branches.iter().enumerate() {
            let child = self.child(machine, frame, state, slot, group, input.clone(), frame.previous);
            slots.push(Slot::Running(child));
        }
        let running = slots.len();
        frame.phase = Phase::Children(Children {
            slots,
            next: running,
            running,
            finished: 0,
            limit: running,
            items: None,
            failed: 0,
            run: None,
        });
        Ok(Turn::Blocked)
    }

    #[allow(clippy::too_many_arguments)]
    fn child(
        &mut self,
        machine: &Machine,
        parent: &Frame,
        state: &State,
        slot: usize,
        group: usize,
        input: Payload,
        previous: u64,
    ) -> FrameId {
        let id = self.number();
        let path = format!("{}/{}[{slot}]", parent.path, state.name);
        let mut frame = self.new_frame(
            id,
            Some((parent.id, slot)),
            path.into(),
            group,
            machine.groups[group].start,
            input,
            previous,
        );
        frame.silent = parent.silent;
        self.frames.insert(id, frame);
        self.ready.push_back(id);
        id
    }

    fn map(&mut self, machine: &Machine, frame: &mut Frame, state: &State, map: &MapState) -> Result<Turn, Trouble> {
        let reads = map.distribution.as_ref().is_some_and(|distribution| distribution.reader.is_some());
        let items = if reads { Vec::new() } else { self.items(frame, state, map)? };
        let wanted = self.amount(frame, state, map.max_concurrency.as_ref(), "MaxConcurrency", 0)?.unwrap_or(0);
        self.emit(frame, EventType::MapStateStarted, state, vec![("length", Detail::Number(items.len() as u64))]);
        let tolerated_count = self.amount(frame, state, map.tolerated_count.as_ref(), "ToleratedFailureCount", 0)?;
        let tolerated_percentage = self.percentage(frame, state, map.tolerated_percentage.as_ref())?;
        if let Some(distribution) = &map.distribution {
            let tolerance = Tolerance { count: tolerated_count, percentage: tolerated_percentage };
            return self.start_run(machine, frame, state, map, distribution, items, wanted, tolerance);
        }
        // Thresholds are a matter of distributed Maps; an inline Map fails with its first iteration.
        let limit = if wanted == 0 { MAX_INLINE_CONCURRENCY } else { wanted.min(MAX_INLINE_CONCURRENCY) };
        self.iterate(machine, frame, state, map, items, limit as usize, None)
    }

    /// Starts the iterations of a Map whose items are known.
    #[allow(clippy::too_many_arguments)]
    fn iterate(
        &mut self,
        machine: &Machine,
        frame: &mut Frame,
        state: &State,
        map: &MapState,
        items: Vec<Value>,
        limit: usize,
        run: Option<Box<MapRun>>,
    ) -> Result<Turn, Trouble> {
        let mut children = Children {
            slots: Vec::with_capacity(items.len()),
            next: 0,
            running: 0,
            finished: 0,
            limit,
            items: Some(items),
            failed: 0,
            run,
        };
        children.slots.resize_with(children.items.as_ref().map_or(0, Vec::len), || Slot::Idle);
        if children.slots.is_empty() {
            self.settle(frame, state, children, frame.previous);
            return Ok(Turn::Blocked);
        }
        let previous = frame.previous;
        if let Err(trouble) = self.start_iterations(machine, frame, state, map, &mut children, previous) {
            // Those that have been started must not go on without the Map.
            self.abort_children(machine, frame, &children, previous);
            return Err(trouble);
        }
        frame.phase = Phase::Children(children);
        Ok(Turn::Blocked)
    }

    /// Starts as many iterations as may run; `previous` is the event that made room for them.
    fn start_iterations(
        &mut self,
        machine: &Machine,
        frame: &mut Frame,
        state: &State,
        map: &MapState,
        children: &mut Children,
        previous: u64,
    ) -> Result<(), Trouble> {
        while children.next < children.slots.len() && children.running < children.limit {
            let slot = children.next;
            children.next += 1;
            let item = match &mut children.items {
                Some(items) => std::mem::take(&mut items[slot]),
                None => Value::Null,
            };
            let batched = children.run.as_ref().is_some_and(|run| run.batched);
            let input = match &map.selector {
                Some(template) if !batched => {
                    let given = Given { item: Some((slot, &item)), ..Given::default() };
                    self.fill(frame, state, template, Spot::Field("ItemSelector"), given)?
                }
                _ => item.clone().into(),
            };
            fits_as_input(state, &input)?;
            let own = children.run.as_ref().map(|run| self.new_child_execution(run, &input));
            let silent = frame.silent || own.is_some();
            let started = if silent {
                previous
            } else {
                self.event(previous, EventType::MapIterationStarted, Some(&state.name), iteration_details(state, slot))
            };
            let child = self.child(machine, frame, state, slot, map.group, input, started);
            if let Some(child) = self.frames.get_mut(&child) {
                child.item = own.is_none().then(|| (slot, item.into()));
                child.own = own;
                child.silent = silent;
            }
            children.slots[slot] = Slot::Running(child);
            children.running += 1;
        }
        Ok(())
    }

    fn items(&mut self, frame: &mut Frame, state: &State, map: &MapState) -> Result<Vec<Value>, Trouble> {
        let input = frame.effective.clone().unwrap_or_else(|| frame.input.clone());
        let (value, path) = match &map.items {
            Some(Template::Query(Query::Path(query))) => {
                (self.through(frame, state, &InputPath::Path(query.clone()), &input)?, query.text())
            }
            Some(template) => {
                let filled = self.fill(frame, state, template, Spot::Field("Items"), Given::default())?;
                if let Template::Query(Query::Jsonata(expression)) = template
                    && !filled.value().is_array()
                {
                    return Err(unexpected_type(frame, state, expression.source(), "Items", "array", filled.value()));
                }
                (filled, "$")
            }
            None => (input, "$"),
        };
        match (value.into_value(), state.language) {
            (Value::Array(items), _) => Ok(items),
            (other, QueryLanguage::JSONata) => {
                let cause =
                    format!("{}Map state input must be an array but was: {other}", while_executing(frame, state));
                Err(evaluation_trouble(cause, None))
            }
            (_, QueryLanguage::JSONPath) => {
                let cause = format!("{}Reference path \"{path}\" must point to array.", while_executing(frame, state));
                Err(Trouble::runtime(cause))
            }
        }
    }

    // ── leaving a state ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Computes output and variables and leaves the state.
    fn conclude(&mut self, frame: &mut Frame, state: &State, result: Option<Payload>) -> Result<Turn, Trouble> {
        let next = if matches!(state.kind, StateKind::Succeed) { Next::End } else { state.next };
        if state.language == QueryLanguage::JSONPath {
            return self.conclude_by_path(frame, state, result, next);
        }
        let given = Given { result: result.as_ref().map(Payload::value), ..Given::default() };
        let assigned = self.assignments(frame, state, state.assign.as_deref(), Spot::Field("Assign"), given)?;
        let output = match &state.flow.output {
            Some(template) => self.fill(frame, state, template, Spot::Field("Output"), given)?,
            None => result.clone().unwrap_or_else(|| frame.input.clone()),
        };
        self.leave(frame, state, output, assigned, next)
    }

    /// ResultSelector, Assign, ResultPath onto the raw input, OutputPath.
    fn conclude_by_path(
        &mut self,
        frame: &mut Frame,
        state: &State,
        result: Option<Payload>,
        next: Next,
    ) -> Result<Turn, Trouble> {
        let Flow { result_selector, result_path, output_path, .. } = &state.flow;
        let Some(result) = result else {
            let assigned =
                self.assignments(frame, state, state.assign.as_deref(), Spot::Field("Assign"), Given::default())?;
            let output = self.plain_output(frame, state)?;
            return self.leave(frame, state, output, assigned, next);
        };
        let selected = match result_selector {
            None => result,
            Some(template) => {
                let given = Given { input: Some(result.value()), ..Given::default() };
                self.fill(frame, state, template, Spot::Field("ResultSelector"), given)?
            }
        };
        let given = Given { input: Some(selected.value()), ..Given::default() };
        let assigned = self.assignments(frame, state, state.assign.as_deref(), Spot::Field("Assign"), given)?;
        let output = place_result(frame, state, result_path.as_ref(), selected)?;
        let output = match output_path {
            None => output,
            Some(path) => self.through(frame, state, path, &output)?,
        };
        self.leave(frame, state, output, assigned, next)
    }

    fn leave(
        &mut self,
        frame: &mut Frame,
        state: &State,
        output: Payload,
        assigned: Vec<(Arc<str>, Payload)>,
        next: Next,
    ) -> Result<Turn, Trouble> {
        if output.is_oversize() {
            return Err(Trouble::oversize(oversize_result(&state.name)));
        }
        let variables_bytes = self.variables_with(frame, state, &assigned)?;
        if let Some(exited) = exited_type(&state.kind) {
            let mut details = vec![
                ("name", Detail::Text(Arc::clone(&state.name))),
                ("output", Detail::Document(output.clone())),
                ("outputDetails", untruncated()),
            ];
            if !assigned.is_empty() {
                // AWS gives each variable as JSON text, without the space that separates the parts of the others.
                let variables =
                    assigned.iter().map(|(name, value)| (name.to_string(), Value::String(value.to_text()))).collect();
                details.push(("assignedVariables", Detail::Object(variables)));
                details.push(("assignedVariablesDetails", untruncated()));
            }
            self.emit(frame, exited, state, details);
        }
        frame.variables.extend(assigned);
        frame.remains = None;
        self.variables_bytes = variables_bytes;
        match next {
            Next::State(index) => {
                frame.state = index;
                frame.input = output;
                frame.phase = Phase::Enter;
                Ok(Turn::Again)
            }
            Next::End | Next::Nowhere => Ok(Turn::Ended(output)),
        }
    }

    /// The bytes of all variables after an assignment, if they are not too many.
    fn variables_with(&self, frame: &Frame, state: &State, assigned: &[(Arc<str>, Payload)]) -> Result<usize, Trouble> {
        let together: usize = assigned.iter().map(|(_, value)| value.size_bytes()).sum();
        if together > MAX_PAYLOAD_BYTES {
            let cause = format!(
                "The variables that the state '{}' assigns exceed the maximum number of bytes service limit.",
                state.name
            );
            return Err(Trouble::oversize(cause));
        }
        if frame.silent || assigned.is_empty() {
            return Ok(self.variables_bytes);
        }
        let replaced: usize =
            assigned.iter().filter_map(|(name, _)| frame.variables.get(name)).map(Payload::size_bytes).sum();
        let bytes = (self.variables_bytes + together).saturating_sub(replaced);
        if bytes > MAX_VARIABLES_BYTES {
            let cause = format!(
                "With those that the state '{}' assigns, the variables of the execution exceed the maximum number of bytes service limit.",
                state.name
            );
            return Err(Trouble::oversize(cause));
        }
        Ok(bytes)
    }

    /// The variables of a frame end with it.
    fn forget_variables(&mut self, frame: &Frame) {
        if !frame.silent {
            let bytes: usize = frame.variables.values().map(Payload::size_bytes).sum();
            self.variables_bytes = self.variables_bytes.saturating_sub(bytes);
        }
    }

    // ── children ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn child_ended(&mut self, machine: &Machine, parent: FrameId, slot: usize, child: Frame, output: Payload) {
        self.forget_variables(&child);
        let Some(mut frame) = self.frames.remove(&parent) else {
            return;
        };
        let state = &machine.groups[frame.group].states[frame.state];
        let map = match &state.kind {
            StateKind::Map(map) => Some(map.as_ref()),
            _ => None,
        };
        // R: the next iteration follows the last event inside this one, the end of the Map follows the event of its success.
        let mut ended = child.previous;
        if map.is_some() && !child.silent {
            ended = self.event(
                child.previous,
                EventType::MapIterationSucceeded,
                Some(&state.name),
                iteration_details(state, slot),
            );
        }
        if let Phase::Children(mut children) = std::mem::replace(&mut frame.phase, Phase::Attempt) {
            if let Some(run) = &mut children.run {
                run.note(slot, &child, self.now, Ok(&output));
            }
            children.slots[slot] = Slot::Finished(output);
            children.running -= 1;
            children.finished += 1;
            let outcome = match map {
                Some(map) => self.start_iterations(machine, &mut frame, state, map, &mut children, child.previous),
                None => Ok(()),
            };
            match outcome {
                Err(trouble) => {
                    self.abort_children(machine, &mut frame, &children, child.previous);
                    frame.previous = child.previous;
                    frame.phase = Phase::Broken(trouble);
                    self.ready.push_back(parent);
                }
                Ok(()) => self.settle(&mut frame, state, children, ended),
            }
        }
        self.frames.insert(parent, frame);
    }

    /// Goes on when all children have ended.
    fn settle(&mut self, frame: &mut Frame, state: &State, children: Children, previous: u64) {
        if children.finished < children.slots.len() {
            frame.phase = Phase::Children(children);
            return;
        }
        frame.previous = previous;
        let results = children.slots.into_iter().filter_map(|slot| match slot {
            Slot::Finished(output) => Some(output.into_value()),
            _ => None,
        });
        let results: Vec<Value> = results.collect();
        match (children.run, &state.kind) {
            (Some(run), _) => return self.run_ended(frame, state, *run, results),
            (None, StateKind::Map(_)) => self.map_succeeded(frame, state, false),
            (None, _) => {
                self.emit_aside(frame, EventType::ParallelStateSucceeded, state, Vec::new());
            }
        }
        self.return_results(frame, state, Value::Array(results));
    }

    /// What the children gave together is the result of their state; too much of it is a failure that can be caught.
    fn return_results(&mut self, frame: &mut Frame, state: &State, results: Value) {
        let results = Payload::from(results);
        frame.phase = if results.is_oversize() {
            Phase::Broken(Trouble::named("States.DataLimitExceeded", oversize_result(&state.name)))
        } else {
            Phase::Returned(results)
        };
        self.ready.push_back(frame.id);
    }

    /// The events beside the branch that say that a Map is done: that of its run, if it is distributed, and its own.
    fn map_succeeded(&mut self, frame: &mut Frame, state: &State, distributed: bool) {
        let mut previous = frame.previous;
        if distributed {
            previous = self.emit_aside(frame, EventType::MapRunSucceeded, state, Vec::new());
        }
        if !frame.silent {
            self.event(previous, EventType::MapStateSucceeded, Some(&state.name), Vec::new());
        }
    }

    fn child_failed(&mut self, machine: &Machine, parent: FrameId, slot: usize, child: Frame, trouble: Trouble) {
        self.forget_variables(&child);
        let Some(mut frame) = self.frames.remove(&parent) else {
            return;
        };
        let state = &machine.groups[frame.group].states[frame.state];
        if matches!(state.kind, StateKind::Map(_)) && !child.silent {
            self.event(
                child.previous,
                EventType::MapIterationFailed,
                Some(&state.name),
                iteration_details(state, slot),
            );
        }
        if let Phase::Children(mut children) = std::mem::replace(&mut frame.phase, Phase::Attempt) {
            children.slots[slot] = Slot::Failed;
            children.running -= 1;
            children.failed += 1;
            if children.run.is_some() {
                return self.child_run_failed(machine, frame, children, slot, &child, trouble);
            }
            // R: the state that failed is aborted like those of its siblings.
            let inner = &machine.groups[child.group].states[child.state];
            self.abort_state(&child, inner, child.previous);
            let mut frames = self.abort_children(machine, &mut frame, &children, child.previous);
            frame.previous = child.previous;
            children.slots[slot] = Slot::Running(child.id);
            children.running += 1;
            children.failed -= 1;
            frames.push(child);
            frame.remains = Some(Box::new(Remains { children, frames }));
            frame.phase = Phase::Broken(Trouble { kind: TroubleKind::Failure, ..trouble });
            self.ready.push_back(parent);
        }
        self.frames.insert(parent, frame);
    }

    /// Ends the children that are still at work, and theirs; every event points to the one that made it necessary. Gives
    /// them back as a redrive would take them up.
    fn abort_children(
        &mut self,
        machine: &Machine,
        frame: &mut Frame,
        children: &Children,
        previous: u64,
    ) -> Vec<Frame> {
        let mut aborted = Vec::new();
        let state = &machine.groups[frame.group].states[frame.state];
        for (slot, child) in children.slots.iter().enumerate() {
            let Slot::Running(id) = child else { continue };
            let Some(mut child) = self.frames.remove(id) else {
                continue;
            };
            let inner = &machine.groups[child.group].states[child.state];
            self.forget_variables(&child);
            self.end_call(&mut child, true);
            if let Phase::Sleeping { timer, .. } = child.phase {
                self.timers.remove(&timer);
            }
            child.phase = match std::mem::replace(&mut child.phase, Phase::Attempt) {
                Phase::Children(children) => {
                    let frames = self.abort_children(machine, &mut child, &children, previous);
                    child.remains = Some(Box::new(Remains { children, frames }));
                    Phase::Attempt
                }
                unspoiled @ (Phase::Enter | Phase::Returned(_) | Phase::Woken) => unspoiled,
                _ => Phase::Attempt,
            };
            if !child.silent {
                if matches!(state.kind, StateKind::Map(_)) {
                    let details = iteration_details(state, slot);
                    self.event(previous, EventType::MapIterationAborted, Some(&state.name), details);
                }
                self.abort_state(&child, inner, previous);
            }
            aborted.push(child);
        }
        aborted
    }

    /// Notes that a state will not be left: it was at work, or it has just failed.
    fn abort_state(&mut self, frame: &Frame, state: &State, previous: u64) {
        // A branch that had not entered a state yet has nothing to abort.
        if frame.entered > 0
            && !frame.silent
            && let Some(aborted) = aborted_type(&state.kind)
        {
            self.event(previous, aborted, Some(&state.name), Vec::new());
        }
    }

    // ── failure ─────────────────────────────────────────────────────────────────────────────────────────────────────

    fn handle(&mut self, frame: &mut Frame, state: &State, trouble: Trouble) -> Turn {
        if let TroubleKind::Evaluation(location) = &trouble.kind
            && !frame.silent
        {
            let mut details = failure_details(&trouble);
            details.extend(location.as_deref().map(|location| ("location", Detail::Text(location.into()))));
            details.push(("state", Detail::Text(Arc::clone(&state.name))));
            // Not `emit`: what fails on the way into a state points before the event that entered it.
            frame.entering = None;
            frame.previous = self.event(frame.previous, EventType::EvaluationFailed, Some(&state.name), details);
        }
        if trouble.kind == TroubleKind::Fatal {
            return Turn::Fatal(trouble);
        }
        for (index, retrier) in state.retry.iter().enumerate() {
            if !retrier.errors.iter().any(|pattern| trouble.matches(pattern)) {
                continue;
            }
            if frame.retries[index] >= retrier.max_attempts {
                break;
            }
            frame.retries[index] += 1;
            frame.retry_count += 1;
            let delay = self.delay(retrier, frame.retries[index]);
            self.arrive(frame);
            let timer = (self.after(delay), self.number());
            self.timers.insert(timer, Timer::Wake(frame.id));
            frame.phase = Phase::Sleeping { timer, own: false };
            return Turn::Blocked;
        }
        self.note_failure(frame, state);
        if let Some((index, catcher)) = state
            .catch
            .iter()
            .enumerate()
            .find(|(_, catcher)| catcher.errors.iter().any(|pattern| trouble.matches(pattern)))
        {
            self.fail_compound(frame, state);
            return match self.caught(frame, state, index, catcher, &trouble) {
                Ok(turn) => turn,
                // What goes wrong while an error is handled is nobody's to handle.
                Err(Trouble { kind: TroubleKind::Fatal, error, cause }) => {
                    Turn::Fatal(Trouble { kind: TroubleKind::Fatal, error, cause })
                }
                Err(trouble) => {
                    if let TroubleKind::Evaluation(location) = &trouble.kind
                        && !frame.silent
                    {
                        let mut details = failure_details(&trouble);
                        details.extend(location.as_deref().map(|location| ("location", Detail::Text(location.into()))));
                        details.push(("state", Detail::Text(Arc::clone(&state.name))));
                        self.emit(frame, EventType::EvaluationFailed, state, details);
                    }
                    Turn::Failed(trouble)
                }
            };
        }
        self.arrive(frame);
        self.fail_compound(frame, state);
        Turn::Failed(trouble)
    }

    fn fail_compound(&mut self, frame: &mut Frame, state: &State) {
        match state.kind {
            StateKind::Map(_) => self.emit(frame, EventType::MapStateFailed, state, Vec::new()),
            StateKind::Parallel { .. } => self.emit(frame, EventType::ParallelStateFailed, state, Vec::new()),
            _ => {}
        }
    }

    /// Seconds before the n-th retry: interval × rate^(n−1), at most the maximum, then jitter.
    fn delay(&mut self, retrier: &Retrier, attempt: u64) -> f64 {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let mut delay = retrier.interval_seconds as f64 * retrier.backoff_rate.powi(exponent);
        if let Some(most) = retrier.max_delay_seconds {
            delay = delay.min(most as f64);
        }
        // A year and more is as good as never, and keeps the arithmetic finite.
        delay = delay.min(31_622_400.0);
        if retrier.full_jitter { delay * self.random.fraction() } else { delay }
    }

    fn caught(
        &mut self,
        frame: &mut Frame,
        state: &State,
        index: usize,
        catcher: &Catcher,
        trouble: &Trouble,
    ) -> Result<Turn, Trouble> {
        let text = |part: &Option<Arc<str>>| part.as_deref().map_or(Value::Null, Value::from);
        let error_output = Payload::from(json!({"Error": text(&trouble.error), "Cause": text(&trouble.cause)}));
        let input = (state.language == QueryLanguage::JSONPath).then(|| error_output.value());
        let given = Given { error: Some(error_output.value()), input, ..Given::default() };
        let catches = Spot::Field("Catch");
        let at = Spot::Index(&catches, index);
        let assigned = self.assignments(frame, state, catcher.assign.as_deref(), Spot::Key(&at, "Assign"), given)?;
        let output = match &catcher.output {
            Some(template) => self.fill(frame, state, template, Spot::Key(&at, "Output"), given)?,
            None => place_result(frame, state, catcher.result_path.as_ref(), error_output.clone())?,
        };
        self.leave(frame, state, output, assigned, Next::State(catcher.next))
    }

    // ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn arguments(&mut self, frame: &Frame, state: &State) -> Result<Payload, Trouble> {
        match &state.flow.arguments {
            Some(template) => self.fill(frame, state, template, Spot::Field("Arguments"), Given::default()),
            None => Ok(frame.effective.clone().unwrap_or_else(|| frame.input.clone())),
        }
    }

    fn amount(
        &mut self,
        frame: &Frame,
        state: &State,
        amount: Option<&Amount>,
        field: &'static str,
        least: u64,
    ) -> Result<Option<u64>, Trouble> {
        let query = match amount {
            None => return Ok(None),
            Some(Amount::Fixed(value)) => return Ok(Some(*value)),
            Some(Amount::Query(Query::Path(query))) => {
                let view = self.view(frame, state, Given::default());
                let found = query.find(&view);
                // R: only the times of a Wait have a sentence of their own for a path that names nothing.
                if found.is_none() && field != "Seconds" {
                    return Err(no_results(frame, state, query.missing(&view)));
                }
                return amount_by_path(found, query.text(), field, least)
                    .map(Some)
                    .map_err(|cause| Trouble::runtime(format!("{}{cause}", while_executing(frame, state))));
            }
            Some(Amount::Query(query)) => query,
        };
        let value = self.answer(frame, state, query, Spot::Field(field), Given::default())?;
        let source = match query {
            Query::Jsonata(expression) => expression.source(),
            Query::Path(query) => query.text(),
        };
        match value.as_u64().filter(|number| *number >= least && *number <= 99_999_999) {
            Some(number) => Ok(Some(number)),
            None if value.is_number() => {
                let start = while_executing(frame, state);
                let cause = format!(
                    "{start}The JSONata expression '{source}' specified for the field '{field}' returned a value that is out of range: {value}"
                );
                Err(evaluation_trouble(cause, Some(field.to_owned())))
            }
            None => Err(unexpected_type(frame, state, source, field, "number", &value)),
        }
    }

    fn assignments(
        &mut self,
        frame: &Frame,
        state: &State,
        assign: Option<&[(Arc<str>, Template)]>,
        spot: Spot<'_>,
        given: Given<'_>,
    ) -> Result<Vec<(Arc<str>, Payload)>, Trouble> {
        let Some(assign) = assign else {
            return Ok(Vec::new());
        };
        let mut assigned = Vec::with_capacity(assign.len());
        for (name, template) in assign {
            assigned.push((Arc::clone(name), self.fill(frame, state, template, Spot::Key(&spot, name), given)?));
        }
        Ok(assigned)
    }

    fn fill(
        &mut self,
        frame: &Frame,
        state: &State,
        template: &Template,
        spot: Spot<'_>,
        given: Given<'_>,
    ) -> Result<Payload, Trouble> {
        if let Template::Literal(payload) = template {
            return Ok(payload.clone());
        }
        let mut random = std::mem::take(&mut self.random);
        let outcome = {
            let view = self.view(frame, state, given);
            let now = self.now;
            template.fill_payload(spot, &mut |query, spot| evaluate(&view, query, spot, now, &mut random))
        };
        self.random = random;
        outcome
    }

    fn answer(
        &mut self,
        frame: &Frame,
        state: &State,
        query: &Query,
        spot: Spot<'_>,
        given: Given<'_>,
    ) -> Result<Value, Trouble> {
        let mut random = std::mem::take(&mut self.random);
        let outcome = {
            let view = self.view(frame, state, given);
            evaluate(&view, query, spot, self.now, &mut random)
        };
        self.random = random;
        outcome
    }

    fn view<'a>(&'a self, frame: &'a Frame, state: &'a State, given: Given<'a>) -> View<'a> {
        View {
            core: self,
            frame,
            state,
            input: given.input.unwrap_or_else(|| frame.effective.as_ref().unwrap_or(&frame.input).value()),
            result: given.result,
            error: given.error,
            item: given.item,
            context: OnceCell::new(),
        }
    }

    fn context_object(&self, frame: &Frame, state: &State, item: Option<(usize, &Value)>) -> Value {
        let mut context = json!({
            "Execution": {
                "Id": self.settings.execution_arn,
                "Input": self.input.value(),
                "Name": self.settings.execution_name,
                "RoleArn": self.settings.role_arn,
                "StartTime": iso_instant(self.started_at),
                "RedriveCount": self.redrives,
            },
            "State": {"EnteredTime": iso_instant(frame.entered_at), "Name": &*state.name},
            "StateMachine": {"Id": self.settings.machine_arn, "Name": self.settings.machine_name},
        });
        if let Some(at) = self.redriven_at {
            context["Execution"]["RedriveTime"] = iso_instant(at).into();
        }
        if let Some(child) = self.child_execution(frame) {
            child.describe(&mut context);
        }
        // R: only states that can be retried have the counter.
        if matches!(state.kind, StateKind::Task(_) | StateKind::Parallel { .. } | StateKind::Map(_)) {
            context["State"]["RetryCount"] = frame.retry_count.into();
        }
        let Value::Object(members) = &mut context else {
            return context;
        };
        if let Some(token) = &frame.token {
            members.insert("Task".to_owned(), json!({"Token": &**token}));
        }
        let mut holder = Some(frame);
        let mut item = item.map(|(index, value)| (index, value.clone()));
        while let Some(current) = holder
            && item.is_none()
            && current.own.is_none()
        {
            item = current.item.as_ref().map(|(index, payload)| (*index, payload.value().clone()));
            holder = current.parent.and_then(|(parent, _)| self.frames.get(&parent));
        }
        if let Some((index, value)) = item {
            members.insert("Map".to_owned(), json!({"Item": {"Index": index, "Value": value}}));
        }
        context
    }
}

fn evaluate(
    view: &View<'_>,
    query: &Query,
    spot: Spot<'_>,
    now: Timestamp,
    random: &mut Random,
) -> Result<Value, Trouble> {
    match query {
        Query::Jsonata(expression) => expression.evaluate(view, Surroundings { now, random }).map_err(|error| {
            let field = spot.spell();
            let start = format!(
                "{}The JSONata expression '{}' specified for the field '{field}' ",
                while_executing(view.frame, view.state),
                expression.source()
            );
            let cause = match error {
                EvaluationError::Undefined => format!("{start}returned nothing (undefined)."),
                EvaluationError::Function => {
                    format!("{start}returned an unsupported result type.")
                }
                EvaluationError::Thrown(message) => format!("{start}threw an error during evaluation. {message}"),
                EvaluationError::Exhausted(message) => format!("{start}threw an error during evaluation: {message}"),
            };
            evaluation_trouble(cause, Some(field))
        }),
        // An index past the end gives null in a payload template, where any other miss is an error (measured on AWS).
        Query::Path(query) if query.passes_an_end(view) => Ok(Value::Null),
        Query::Path(query) => query.evaluate(view, random).map_err(|error| path_trouble(view, spot, error)),
    }
}

/// A path in a payload template that names nothing, or an intrinsic function that failed.
fn path_trouble(view: &View<'_>, spot: Spot<'_>, error: PathError) -> Trouble {
    let start = while_executing(view.frame, view.state);
    match error {
        PathError::Missing { path, .. } => {
            let field = match spot {
                Spot::Field(name) => name.to_owned(),
                Spot::Key(_, key) => format!("{key}.$"),
                Spot::Index(..) => spot.spell(),
            };
            let input = view.input;
            Trouble::runtime(format!(
                "{start}The JSONPath '{path}' specified for the field '{field}' could not be found in the input '{input}'"
            ))
        }
        PathError::MissingArgument { function, path } => {
            let cause = format!(
                "The JsonPath argument for the field '{path}' could not be found in the input '{}'",
                view.input
            );
            Trouble::runtime(format!("{start}The function '{function}' had the following error: {cause}"))
        }
        PathError::Intrinsic { function, message } => Trouble::named(
            "States.IntrinsicFailure",
            format!("{start}The function '{function}' had the following error: {message}"),
        ),
    }
}

/// An `InputPath`, `OutputPath` or `ItemsPath` that names nothing.
fn no_results(frame: &Frame, state: &State, error: PathError) -> Trouble {
    let start = while_executing(frame, state);
    match error {
        PathError::Missing { path, reason } => Trouble::runtime(format!("{start}Invalid path '{path}' : {reason}")),
        PathError::MissingArgument { path, .. } => Trouble::runtime(format!("{start}Invalid path '{path}'")),
        PathError::Intrinsic { message, .. } => Trouble::named("States.IntrinsicFailure", format!("{start}{message}")),
    }
}

/// Puts a result where `ResultPath` says, into the raw input; without one it replaces the input.
fn place_result(frame: &Frame, state: &State, path: Option<&ResultPath>, result: Payload) -> Result<Payload, Trouble> {
    match path {
        None => Ok(result),
        Some(ResultPath::Discard) => Ok(frame.input.clone()),
        Some(ResultPath::Path(reference)) if reference.is_root() => Ok(result),
        Some(ResultPath::Path(reference)) => match reference.place(frame.input.value(), result.into_value()) {
            Ok(document) => Ok(document.into()),
            Err(why) => {
                Err(Trouble::named("States.ResultPathMatchFailure", format!("{}{why}", while_executing(frame, state))))
            }
        },
    }
}

/// A number that a `…Path` field names; the sentences are those of Step Functions.
fn amount_by_path(found: Option<Value>, path: &str, field: &str, least: u64) -> Result<u64, String> {
    let Some(value) = found else {
        return Err(format!("The {field}Path parameter does not reference an input value: {path}"));
    };
    // R: text that reads as a number is taken for one.
    let number = match &value {
        Value::String(text) => text.parse::<i64>().ok(),
        other => other.as_i64(),
    };
    match number {
        Some(number) if number < 0 && field.starts_with("Tolerated") => Err(format!("{field} cannot be negative.")),
        Some(number) if number < 0 || (number as u64) < least => {
            Err(format!("The {field}Path parameter references a negative value: {path} == {number}"))
        }
        Some(number) => Ok(number as u64),
        None if field.ends_with("Seconds") => {
            Err(format!("The {field}Path parameter cannot be parsed as a long value: {path} == {}", shown(&value)))
        }
        None => Err(format!(
            "The {field}Path field refers to value \"{}\" which is not a valid integer: {path}",
            shown(&value)
        )),
    }
}

/// A value as it stands in a sentence: strings without quotes.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn evaluation_trouble(cause: String, location: Option<String>) -> Trouble {
    Trouble { kind: TroubleKind::Evaluation(location), ..Trouble::named("States.QueryEvaluationError", cause) }
}

fn unexpected_type(frame: &Frame, state: &State, source: &str, field: &str, expected: &str, value: &Value) -> Trouble {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let cause = format!(
        "{}The JSONata expression '{source}' specified for the field '{field}' returned an unexpected result type. Expected '{expected}', but was '{kind}' for value: {value}",
        while_executing(frame, state)
    );
    evaluation_trouble(cause, Some(field.to_owned()))
}

fn while_executing(frame: &Frame, state: &State) -> String {
    format!(
        "An error occurred while executing the state '{}' (entered at the event id #{}). ",
        state.name, frame.entered
    )
}

fn oversize_result(what: &str) -> String {
    format!(
        "The state/task '{what}' returned a result with a size exceeding the maximum number of bytes service limit."
    )
}

fn fits_as_input(state: &State, input: &Payload) -> Result<(), Trouble> {
    if input.is_oversize() {
        return Err(Trouble::oversize(format!(
            "The state/task '{}' was given an input with a size exceeding the maximum number of bytes service limit.",
            state.name
        )));
    }
    Ok(())
}

fn untruncated() -> Detail {
    let mut details = serde_json::Map::new();
    details.insert("truncated".to_owned(), Value::Bool(false));
    Detail::Object(details)
}

fn push_output(details: &mut Vec<(&'static str, Detail)>, output: Payload) {
    details.push(("output", Detail::Document(output)));
    details.push(("outputDetails", untruncated()));
}

fn failure_details(trouble: &Trouble) -> Vec<(&'static str, Detail)> {
    let mut details = Vec::with_capacity(2);
    details.extend(trouble.error.as_ref().map(|error| ("error", Detail::Text(Arc::clone(error)))));
    details.extend(trouble.cause.as_ref().map(|cause| ("cause", Detail::Text(Arc::clone(cause)))));
    details
}

fn iteration_details(state: &State, index: usize) -> Vec<(&'static str, Detail)> {
    vec![("name", Detail::Text(Arc::clone(&state.name))), ("index", Detail::Number(index as u64))]
}

#[derive(Clone, Copy)]
enum TaskMoment {
    Scheduled,
    Started,
    Submitted,
    Succeeded,
    Failed,
    TimedOut,
}

/// The event type of a moment in a task's life and the details that every such event carries.
fn task_event(resource: &Resource, moment: TaskMoment) -> (EventType, Vec<(&'static str, Detail)>) {
    let (service, action) = match &resource.kind {
        ResourceKind::Function => {
            let event_type = match moment {
                TaskMoment::Scheduled => EventType::LambdaFunctionScheduled,
                TaskMoment::Started => EventType::LambdaFunctionStarted,
                TaskMoment::Submitted | TaskMoment::Succeeded => EventType::LambdaFunctionSucceeded,
                TaskMoment::Failed => EventType::LambdaFunctionFailed,
                TaskMoment::TimedOut => EventType::LambdaFunctionTimedOut,
            };
            return (event_type, Vec::new());
        }
        ResourceKind::Activity => {
            let event_type = match moment {
                TaskMoment::Scheduled => EventType::ActivityScheduled,
                TaskMoment::Started => EventType::ActivityStarted,
                TaskMoment::Submitted | TaskMoment::Succeeded => EventType::ActivitySucceeded,
                TaskMoment::Failed => EventType::ActivityFailed,
                TaskMoment::TimedOut => EventType::ActivityTimedOut,
            };
            return (event_type, Vec::new());
        }
        ResourceKind::Integration { service, action, .. } => (Arc::clone(service), Arc::clone(action)),
        ResourceKind::Other => (Arc::from("other"), Arc::clone(&resource.arn)),
    };
    let event_type = match moment {
        TaskMoment::Scheduled => EventType::TaskScheduled,
        TaskMoment::Started => EventType::TaskStarted,
        TaskMoment::Submitted => EventType::TaskSubmitted,
        TaskMoment::Succeeded => EventType::TaskSucceeded,
        TaskMoment::Failed => EventType::TaskFailed,
        TaskMoment::TimedOut => EventType::TaskTimedOut,
    };
    (event_type, vec![("resourceType", Detail::Text(service)), ("resource", Detail::Text(action))])
}

fn is_terminal(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::ExecutionSucceeded
            | EventType::ExecutionFailed
            | EventType::ExecutionTimedOut
            | EventType::ExecutionAborted
    )
}

fn entered_type(kind: &StateKind) -> EventType {
    match kind {
        StateKind::Pass { .. } => EventType::PassStateEntered,
        StateKind::Task(_) => EventType::TaskStateEntered,
        StateKind::Choice { .. } => EventType::ChoiceStateEntered,
        StateKind::Wait(_) => EventType::WaitStateEntered,
        StateKind::Succeed => EventType::SucceedStateEntered,
        StateKind::Fail { .. } => EventType::FailStateEntered,
        StateKind::Parallel { .. } => EventType::ParallelStateEntered,
        StateKind::Map(_) => EventType::MapStateEntered,
    }
}

fn exited_type(kind: &StateKind) -> Option<EventType> {
    Some(match kind {
        StateKind::Pass { .. } => EventType::PassStateExited,
        StateKind::Task(_) => EventType::TaskStateExited,
        StateKind::Choice { .. } => EventType::ChoiceStateExited,
        StateKind::Wait(_) => EventType::WaitStateExited,
        StateKind::Succeed => EventType::SucceedStateExited,
        StateKind::Fail { .. } => return None,
        StateKind::Parallel { .. } => EventType::ParallelStateExited,
        StateKind::Map(_) => EventType::MapStateExited,
    })
}

fn aborted_type(kind: &StateKind) -> Option<EventType> {
    match kind {
        StateKind::Task(_) => Some(EventType::TaskStateAborted),
        StateKind::Wait(_) => Some(EventType::WaitStateAborted),
        StateKind::Parallel { .. } => Some(EventType::ParallelStateAborted),
        StateKind::Map(_) => Some(EventType::MapStateAborted),
        _ => None,
    }
}
