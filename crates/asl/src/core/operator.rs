//! What a person does to an execution: pause it, take it up again after its end, try a state again, leave one out.
//!
//! AWS knows only the redrive. The others are inputs like any other: they stand in the journal and are replayed from it.

use super::*;

impl Core {
    /// Whether an input of an operator fits the execution as it stands; inputs that fit no more change nothing.
    pub fn accepts(&self, input: &Input) -> Result<(), Refusal> {
        match input {
            Input::Redrive if self.outcome.is_none() => Err(Refusal::NotEnded),
            Input::Redrive => self.may_reopen(),
            Input::Retry { state } if self.outcome.is_none() => match self.waiting_for_a_retry(state) {
                Some(_) => Ok(()),
                None => Err(Refusal::NotFailed),
            },
            Input::Skip { state, .. } if !self.has_task(state) => Err(Refusal::NoSuchTask),
            Input::Retry { state } | Input::Skip { state, .. } if self.outcome.is_some() => {
                self.may_reopen()?;
                if self.failures.contains_key(state.as_str()) { Ok(()) } else { Err(Refusal::NotFailed) }
            }
            _ => Ok(()),
        }
    }

    /// The states that failed since the execution began, also those whose failure was caught.
    pub fn failed_states(&self) -> impl Iterator<Item = &str> {
        self.failures.keys().map(|name| &**name)
    }

    fn may_reopen(&self) -> Result<(), Refusal> {
        if self.outcome.as_ref().is_some_and(|outcome| outcome.status == ExecutionStatus::Succeeded) {
            return Err(Refusal::Succeeded);
        }
        if self.redrives >= MAX_REDRIVES || self.last_event + 1 >= self.settings.max_events {
            return Err(Refusal::Exhausted);
        }
        Ok(())
    }

    /// An execution that is paused does not run out of its own time; its calls and tokens do.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        let own = self.timers.iter().find(|(_, timer)| matches!(timer, Timer::Execution)).map(|(key, _)| *key);
        if let Some(key) = own {
            self.timers.remove(&key);
            self.time_left = Some(key.0.duration_since(self.now));
        }
    }

    pub(super) fn unpause(&mut self) {
        self.paused = false;
        if let Some(left) = self.time_left.take() {
            let at = self.now.checked_add(left).unwrap_or(Timestamp::MAX);
            let number = self.number();
            self.timers.insert((at, number), Timer::Execution);
        }
    }

    pub(super) fn redrive(&mut self) {
        if self.accepts(&Input::Redrive).is_err() {
            return;
        }
        let event = self.reopen();
        let mut stopped: Vec<Frame> = std::mem::take(&mut self.stopped).into_values().collect();
        stopped.sort_by_key(|frame| frame.id);
        for frame in stopped {
            self.revive(frame, event);
        }
        self.count_variables();
    }

    /// Takes back the end, and gives the execution its whole time again, as AWS does.
    fn reopen(&mut self) -> u64 {
        self.outcome = None;
        self.paused = false;
        self.time_left = None;
        self.redrives += 1;
        self.redriven_at = Some(self.now);
        self.limit_time();
        let details = vec![("redriveCount", Detail::Number(self.redrives))];
        self.event(self.last_event, EventType::ExecutionRedriven, None, details)
    }

    /// What was under way begins again without having been left; what was done and not yet left is not done again.
    fn revive(&mut self, mut frame: Frame, event: u64) {
        if let Some(remains) = frame.remains.take() {
            let Remains { children, frames } = *remains;
            frame.phase = Phase::Children(children);
            self.frames.insert(frame.id, frame);
            for child in frames {
                self.revive(child, event);
            }
            return;
        }
        frame.phase = match frame.phase {
            Phase::Children(children) => Phase::Children(children),
            unspoiled @ (Phase::Enter | Phase::Returned(_) | Phase::Woken) => unspoiled,
            _ => {
                frame.retries.fill(0);
                frame.retry_count = 0;
                frame.token = None;
                Phase::Attempt
            }
        };
        if !matches!(frame.phase, Phase::Children(_)) {
            frame.entering = None;
            frame.previous = event;
            self.ready.push_back(frame.id);
        }
        self.frames.insert(frame.id, frame);
    }

    fn count_variables(&mut self) {
        let seen = self.frames.values().filter(|frame| !frame.silent);
        self.variables_bytes = seen.flat_map(|frame| frame.variables.values()).map(Payload::size_bytes).sum();
    }

    pub(super) fn retry(&mut self, state: &str) {
        if self.outcome.is_some() {
            self.return_to(state);
        } else if let Some((id, timer)) = self.waiting_for_a_retry(state) {
            self.timers.remove(&timer);
            if let Some(frame) = self.frames.get_mut(&id) {
                frame.phase = Phase::Attempt;
                self.ready.push_back(id);
            }
        }
    }

    fn waiting_for_a_retry(&self, state: &str) -> Option<(FrameId, TimerKey)> {
        self.frames_in(state).find_map(|frame| match frame.phase {
            Phase::Sleeping { timer, own: false } => Some((frame.id, timer)),
            _ => None,
        })
    }

    /// Goes back to where the machine stood when this state failed.
    fn return_to(&mut self, state: &str) {
        if self.accepts(&Input::Retry { state: state.to_owned() }).is_err() {
            return;
        }
        let Some(Standing { state, input, variables }) = self.failures.get(state).cloned() else { return };
        self.stopped.clear();
        let event = self.reopen();
        let id = self.number();
        let mut frame = self.new_frame(id, None, Arc::from(""), 0, state, input, event);
        frame.variables = variables;
        self.frames.insert(id, frame);
        self.count_variables();
        self.ready.push_back(id);
    }

    /// Remembers where the machine's own frame stands, whichever frame inside it has failed.
    pub(super) fn note_failure(&mut self, frame: &Frame, state: &State) {
        let mut root = frame;
        while let Some(outer) = root.parent.and_then(|(parent, _)| self.frames.get(&parent)) {
            root = outer;
        }
        let standing = Standing { state: root.state, input: root.input.clone(), variables: root.variables.clone() };
        self.failures.insert(Arc::clone(&state.name), standing);
    }

    pub(super) fn skip(&mut self, name: &str, answer: Value) {
        if self.accepts(&Input::Skip { state: name.to_owned(), answer: Value::Null }).is_err() {
            return;
        }
        if self.outcome.is_some() {
            self.skips.insert(Arc::from(name), answer);
            self.return_to(name);
            return;
        }
        let under_way = self.frames_in(name).find_map(|frame| match frame.phase {
            Phase::Calling(_) | Phase::Sleeping { own: false, .. } => Some(frame.id),
            _ => None,
        });
        let Some(mut frame) = under_way.and_then(|id| self.frames.remove(&id)) else {
            self.skips.insert(Arc::from(name), answer);
            return;
        };
        if let Phase::Sleeping { timer, .. } = frame.phase {
            self.timers.remove(&timer);
        }
        self.end_call(&mut frame, true);
        let machine = Arc::clone(&self.machine);
        let state = &machine.groups[frame.group].states[frame.state];
        if let StateKind::Task(task) = &state.kind {
            self.skipped(&mut frame, state, task, answer);
            self.ready.push_back(frame.id);
        }
        self.frames.insert(frame.id, frame);
    }

    pub(super) fn skipped(&mut self, frame: &mut Frame, state: &State, task: &Task, answer: Value) {
        let answer = if task.resource.is_lambda_invoke() && !task.resource.waits_for_token() {
            crate::task::invocation(answer, &self.idempotency_key(frame, state))
        } else {
            answer
        };
        let answer = Payload::from(answer);
        let mut details = vec![("name", Detail::Text(Arc::clone(&state.name)))];
        push_output(&mut details, answer.clone());
        self.emit(frame, EventType::TaskStateSkipped, state, details);
        frame.phase = Phase::Returned(answer);
    }

    fn frames_in<'a>(&'a self, state: &'a str) -> impl Iterator<Item = &'a Frame> {
        let name = |frame: &Frame| &self.machine.groups[frame.group].states[frame.state].name;
        let mut frames: Vec<&Frame> = self.frames.values().filter(|frame| &**name(frame) == state).collect();
        frames.sort_by_key(|frame| frame.id);
        frames.into_iter()
    }

    fn has_task(&self, name: &str) -> bool {
        let states = self.machine.groups.iter().flat_map(|group| &group.states);
        states.into_iter().any(|state| &*state.name == name && matches!(state.kind, StateKind::Task(_)))
    }
}
