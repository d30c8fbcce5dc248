//! What a runner keeps of a run while it happens: events, the record, who is asked, which steps are under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use asl::{EventType, HistoryEvent, Machine, Observer, ObserverError};
use async_trait::async_trait;
use recovery::{
    intervention::{self, Intervention},
    report::StateSpan,
    run::{Run, RunFailure},
};
use serde_json::Value;

use crate::{
    copy::lock,
    deeds,
    progress::Progress,
    run_folder::{ApprovalRequest, Hold, RunCard, RunFolder, RunStatus},
};

/// What several tasks of a runner know of its run.
pub struct Live {
    folder: RunFolder,
    /// How it stands; also written to the folder.
    pub card: Arc<Mutex<RunCard>>,
    /// Calls under way by state.
    under_way: Mutex<BTreeMap<String, u32>>,
    /// States whose last attempt failed and that have another one.
    failing: Mutex<BTreeSet<String>>,
    deeds: Mutex<Vec<Intervention>>,
}

impl Live {
    /// A run of which nothing has happened in this process.
    pub fn new(folder: &RunFolder, card: RunCard, deeds: Vec<Intervention>) -> Arc<Live> {
        Arc::new(Live {
            folder: folder.clone(),
            card: Arc::new(Mutex::new(card)),
            under_way: Mutex::default(),
            failing: Mutex::default(),
            deeds: Mutex::new(deeds),
        })
    }

    /// Writes the card into the folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self) -> std::io::Result<()> {
        let card = lock(&self.card).clone();
        self.folder.write_json("run.json", &card)
    }

    /// Has the card written soon, for those who look on.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn show(&self) -> std::io::Result<()> {
        let card = lock(&self.card).clone();
        self.folder.show_json("run.json", &card)
    }

    /// The states with a call under way.
    pub fn steps_under_way(&self) -> Vec<String> {
        lock(&self.under_way).keys().cloned().collect()
    }

    /// A state whose last attempt failed and that has another one.
    pub fn failing(&self) -> Option<String> {
        lock(&self.failing).first().cloned()
    }

    /// What people have done to the run.
    pub fn deeds(&self) -> Vec<Intervention> {
        lock(&self.deeds).clone()
    }

    /// Whether this was done already.
    pub fn has_done(&self, id: &str) -> bool {
        lock(&self.deeds).iter().any(|done| done.id == id)
    }

    /// Keeps what somebody has done.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn note(&self, done: Intervention) -> std::io::Result<()> {
        let mut deeds = lock(&self.deeds);
        intervention::merge(&mut deeds, [done]);
        deeds::note(&self.folder, &deeds)
    }

    /// Takes back what was asked for and did not come to pass.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn forget(&self, id: &str) -> std::io::Result<()> {
        let mut deeds = lock(&self.deeds);
        deeds.retain(|done| done.id != id);
        deeds::note(&self.folder, &deeds)
    }

    fn begins(&self, state: &str) {
        *lock(&self.under_way).entry(state.to_owned()).or_default() += 1;
        lock(&self.failing).remove(state);
    }

    fn ends(&self, state: &str, failed: bool) {
        let mut under_way = lock(&self.under_way);
        if let Some(calls) = under_way.get_mut(state) {
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                under_way.remove(state);
            }
        }
        if failed {
            lock(&self.failing).insert(state.to_owned());
        }
    }

    fn left(&self, state: &str) {
        lock(&self.under_way).remove(state);
        lock(&self.failing).remove(state);
    }
}

/// Keeps what happens before anything follows from it.
pub struct Recorder {
    folder: RunFolder,
    hold: Hold,
    live: Arc<Live>,
    /// People who have to confirm.
    needed: u8,
    progress: Progress,
    spans: Spans,
    record: Option<Value>,
    /// What the fence and the promotion answered: they join the record when the database has moved, and a run may end before.
    answers: BTreeMap<String, Value>,
}

#[async_trait]
impl Observer for Recorder {
    async fn record(&mut self, events: &[HistoryEvent]) -> Result<(), ObserverError> {
        for event in events {
            self.hold.append(event)?;
            self.progress.show(event);
            self.spans.note(event);
            self.follow(event)?;
            if let Some(run) = assigned_run(event) {
                self.folder.show_json("record.json", &run)?;
                self.record = Some(run);
            }
            if event.event_type.as_str().ends_with("StateEntered") {
                lock(&self.live.card).state = event.state.as_deref().map(str::to_owned);
            }
        }
        self.live.show()?;
        Ok(())
    }
}

impl Recorder {
    /// A recorder of a run of this machine.
    pub fn new(
        folder: &RunFolder,
        hold: Hold,
        live: Arc<Live>,
        machine: &Machine,
        needed: u8,
        progress: Progress,
    ) -> Recorder {
        let spans = Spans::new(machine);
        Recorder { folder: folder.clone(), hold, live, needed, progress, spans, record: None, answers: BTreeMap::new() }
    }

    /// The states that were left, for the report.
    pub fn spans(&self) -> &[StateSpan] {
        &self.spans.done
    }

    /// Takes what moves off the screen.
    pub fn end(&mut self) {
        self.progress.end();
    }

    fn follow(&mut self, event: &HistoryEvent) -> std::io::Result<()> {
        if event.event_type == EventType::ExecutionRedriven
            && let Some(Value::Object(record)) = &mut self.record
        {
            record.remove("failure");
        }
        let Some(state) = event.state.as_deref() else { return Ok(()) };
        match event.event_type {
            EventType::TaskScheduled | EventType::LambdaFunctionScheduled => self.live.begins(state),
            EventType::TaskSubmitted => {
                self.live.ends(state, false);
                self.ask_a_person(event)?;
            }
            EventType::TaskSucceeded | EventType::LambdaFunctionSucceeded => {
                self.live.ends(state, false);
                let answer = event.document("output").and_then(|output| output.value().get("Payload").cloned());
                if let Some(answer) = answer.filter(|_| matches!(state, "FencePrimary" | "PromoteReplica")) {
                    self.answers.insert(state.to_owned(), answer);
                }
            }
            EventType::TaskFailed
            | EventType::TaskTimedOut
            | EventType::LambdaFunctionFailed
            | EventType::LambdaFunctionTimedOut => self.live.ends(state, true),
            EventType::TaskStateSkipped | EventType::TaskStateExited | EventType::TaskStateAborted => {
                self.live.left(state);
            }
            _ => {}
        }
        Ok(())
    }

    /// A task was handed out with a token and now waits: that is a person's turn.
    fn ask_a_person(&mut self, event: &HistoryEvent) -> std::io::Result<()> {
        let Some(state) = event.state.as_deref() else { return Ok(()) };
        let Some(token) = self.spans.tokens.get(state) else { return Ok(()) };
        let (task_token, needed) = (token.clone(), self.needed);
        let request = ApprovalRequest { task_token, state: state.to_owned(), asked_at: event.timestamp, needed };
        self.folder.write_json("approval-request.json", &request)?;
        let whom = if needed > 1 { format!("{needed} people") } else { "a person".to_owned() };
        let run = lock(&self.live.card).run.clone();
        self.progress.say(&format!(
            "            waiting for {whom}: drctl approve {run} --by NAME --because WHY   (or: drctl reject {run} …)"
        ));
        Ok(())
    }

    /// The record at the end. A run that did not reach its report has its failure written here.
    pub fn record_at_the_end(&self, event: &Value, status: RunStatus, cause: Option<&str>) -> Run {
        let card = lock(&self.live.card).clone();
        let kept = self.record.clone().and_then(|value| serde_json::from_value::<Run>(value).ok());
        let mut record = kept.unwrap_or_else(|| Run::opened(&card.run, card.started_at, event.clone()));
        if record.failure.is_none() && matches!(status, RunStatus::TimedOut | RunStatus::Aborted) {
            let (error, cause) = match status {
                RunStatus::TimedOut => ("States.Timeout", "the machine's own deadline passed"),
                _ => ("Recovery.Interrupted", cause.unwrap_or("a person interrupted the run")),
            };
            let answer = |state: &str| self.answers.get(state).cloned();
            let fence = answer("FencePrimary").and_then(|answer| serde_json::from_value(answer).ok());
            let promotion = answer("PromoteReplica").and_then(|answer| serde_json::from_value(answer).ok());
            record.fence = record.fence.or(fence);
            record.promotion = record.promotion.or(promotion);
            let state = card.state.clone().unwrap_or_default();
            record.failure = Some(RunFailure { state, error: error.to_owned(), cause: cause.to_owned() });
        }
        intervention::merge(&mut record.interventions, self.live.deeds());
        record
    }
}

/// The variable `$run` as a state has just assigned it.
fn assigned_run(event: &HistoryEvent) -> Option<Value> {
    let variables = event.detail("assignedVariables")?.to_value();
    let run = variables.get("run")?;
    match run {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    }
}

/// Begin, end and attempts of each state, from the events.
struct Spans {
    comments: BTreeMap<String, String>,
    open: BTreeMap<String, StateSpan>,
    tokens: BTreeMap<String, String>,
    done: Vec<StateSpan>,
}

impl Spans {
    fn new(machine: &Machine) -> Spans {
        let graph = machine.graph();
        let comments = graph
            .all_states()
            .iter()
            .map(|state| (state.name.clone(), state.comment.clone().unwrap_or_default()))
            .collect();
        Spans { comments, open: BTreeMap::new(), tokens: BTreeMap::new(), done: Vec::new() }
    }

    fn note(&mut self, event: &HistoryEvent) {
        let Some(state) = event.state.as_deref() else { return };
        let kind = event.event_type.as_str();
        if kind.ends_with("StateEntered") {
            let comment = self.comments.get(state).cloned().unwrap_or_default();
            self.open.insert(
                state.to_owned(),
                StateSpan {
                    state: state.to_owned(),
                    comment,
                    began_at: event.timestamp,
                    ended_at: None,
                    attempts: 0,
                    trouble: None,
                    failed: false,
                },
            );
        } else if kind.ends_with("StateExited") {
            if let Some(mut span) = self.open.remove(state) {
                span.ended_at = Some(event.timestamp);
                self.done.push(span);
            }
        } else if let Some(span) = self.open.get_mut(state) {
            match event.event_type {
                EventType::TaskScheduled => {
                    span.attempts += 1;
                    let token = event
                        .document("parameters")
                        .and_then(|payload| payload.value().pointer("/Payload/task_token").cloned());
                    if let Some(Value::String(token)) = token {
                        self.tokens.insert(state.to_owned(), token);
                    }
                }
                EventType::TaskFailed | EventType::TaskTimedOut => {
                    span.failed = true;
                    let error = event.text("error").unwrap_or("States.Timeout").to_owned();
                    let cause = event.text("cause").unwrap_or_default().to_owned();
                    span.trouble = Some(RunFailure { state: state.to_owned(), error, cause }.message());
                }
                EventType::TaskSucceeded => span.failed = false,
                _ => {}
            }
        }
    }
}
