//! Replays recorded executions and says where they differ from ours.
//!
//! A case is a folder with `definition.json`, `input.json`, `mocks.json` (what the tasks answered) and `expected.json`
//! (how the execution ended and its events); `case.json` may name strings that match anything. Each case is run in virtual
//! time and compared on three levels: the outcome (status, output, error), the events (types and names of states), and
//! every detail with the event each one follows. Wording of causes is compared apart, since it is AWS's prose.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::core::{Core, Effect, Input, Settings};
use crate::definition::{Machine, ResourceKind};
use crate::history::{Detail, EventType, HistoryEvent};
use crate::jsonpath::same;
use crate::problem::Problem;
use crate::task::{ExecutionOutcome, TaskCall, TaskOutcome};

/// Steps after which a case is taken for one that never ends.
const MAX_STEPS: usize = 200_000;

/// Why a case could not be replayed at all.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file could not be read.
    #[error("could not read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{}` is not a file of a recorded case", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A case lacks a file.
    #[error("`{}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A folder holds no case.
    #[error("`{}` holds no recorded case", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

impl ReplayError {
    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            ReplayError::Read { .. } => "name a folder that can be read",
            ReplayError::Shape { .. } => "compare the file with one of the recorded cases, or record it again",
            ReplayError::Missing { .. } => "add the file: a case has definition.json and expected.json",
            ReplayError::Empty { .. } => {
                "name a folder with definition.json, input.json and expected.json in it or below it"
            }
        }
    }
}

/// How one level of a case compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// The same.
    Same,
    /// Not the same.
    Different,
    /// The recording does not have it.
    NotRecorded,
}

/// What a replay of one case showed.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The case's name.
    pub id: String,
    /// Status, output and error.
    pub outcome: Agreement,
    /// Types of events and names of states.
    pub events: Agreement,
    /// Every detail, with the event it follows.
    pub details: Agreement,
    /// The prose of causes.
    pub wording: Agreement,
    /// What differs, a sentence each.
    pub differences: Vec<String>,
}

impl CaseReport {
    /// Whether outcome and events are the same.
    pub fn agrees(&self) -> bool {
        self.outcome == Agreement::Same && self.events != Agreement::Different
    }

    /// Whether everything but prose is the same.
    pub fn agrees_in_detail(&self) -> bool {
        self.agrees() && self.details != Agreement::Different
    }
}

impl CaseReport {
    /// A case that could not be replayed, which counts as one that differs.
    fn unreadable(id: String, error: &ReplayError) -> CaseReport {
        let mut why = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            why.push_str(&format!(": {source}"));
        }
        CaseReport {
            id,
            outcome: Agreement::Different,
            events: Agreement::NotRecorded,
            details: Agreement::NotRecorded,
            wording: Agreement::NotRecorded,
            differences: vec![format!("not replayed: {why}; {}", error.remedy())],
        }
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |agreement: Agreement| match agreement {
            Agreement::Same => "same",
            Agreement::Different => "DIFFERS",
            Agreement::NotRecorded => "-",
        };
        write!(
            f,
            "{}: outcome {}, events {}, details {}",
            self.id,
            mark(self.outcome),
            mark(self.events),
            mark(self.details)
        )?;
        if let Some(first) = self.differences.first() {
            write!(f, ": {first}")?;
        }
        Ok(())
    }
}

/// Counts over many cases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Cases replayed.
    pub cases: usize,
    /// Cases with the same outcome.
    pub same_outcome: usize,
    /// Cases whose events were recorded.
    pub with_events: usize,
    /// Of those, cases with the same events.
    pub same_events: usize,
    /// Of those, cases with the same details.
    pub same_details: usize,
    /// Cases with causes in prose that are worded alike.
    pub same_wording: usize,
}

impl Summary {
    /// Counts reports.
    pub fn of(reports: &[CaseReport]) -> Summary {
        let count = |pick: &dyn Fn(&CaseReport) -> bool| reports.iter().filter(|report| pick(report)).count();
        Summary {
            cases: reports.len(),
            same_outcome: count(&|report| report.outcome == Agreement::Same),
            with_events: count(&|report| report.events != Agreement::NotRecorded),
            same_events: count(&|report| report.events == Agreement::Same),
            same_details: count(&|report| report.details == Agreement::Same),
            same_wording: count(&|report| report.wording != Agreement::Different),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cases: {} outcomes, {} of {} event sequences, {} of {} with every detail the same",
            self.cases, self.same_outcome, self.same_events, self.with_events, self.same_details, self.with_events
        )
    }
}

#[derive(Debug, Default, Deserialize)]
struct CaseFile {
    id: Option<String>,
    #[serde(default)]
    wildcards: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct MocksFile {
    #[serde(default)]
    tasks: Vec<Mock>,
}

#[derive(Debug, Deserialize)]
struct Mock {
    state: String,
    #[serde(default)]
    payload: Value,
    outcome: MockOutcome,
    submitted: Option<Value>,
    /// Who took up an activity's task.
    #[serde(rename = "workerName")]
    worker_name: Option<String>,
    #[serde(default)]
    trace: Vec<String>,
    #[serde(skip)]
    used: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum MockOutcome {
    Succeed {
        #[serde(default)]
        output: Value,
    },
    Fail {
        error: Option<String>,
        cause: Option<String>,
    },
    Timeout,
    Never,
}

#[derive(Debug, Deserialize)]
struct Expected {
    status: String,
    output: Option<Value>,
    error: Option<String>,
    cause: Option<String>,
    #[serde(default)]
    ordering: String,
    events: Option<Vec<ExpectedEvent>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExpectedEvent {
    previous_event_id: Option<u64>,
    #[serde(rename = "type")]
    event_type: String,
    state: Option<String>,
    #[serde(default)]
    details: Option<serde_json::Map<String, Value>>,
}

/// Replays every case in the given folders, or below them, in the order of their names. A case that cannot be read is
/// reported as one that differs, with the reason.
pub fn replay_all(folders: &[PathBuf]) -> Result<Vec<CaseReport>, ReplayError> {
    let mut cases = Vec::new();
    for folder in folders {
        let before = cases.len();
        collect(folder, 0, &mut cases)?;
        if cases.len() == before {
            return Err(ReplayError::Empty { path: folder.clone() });
        }
    }
    let replay =
        |case: &PathBuf| replay_case(case).unwrap_or_else(|error| CaseReport::unreadable(name_of(case), &error));
    Ok(cases.iter().map(replay).collect())
}

/// The files of a case. A folder that has any of them is meant to be one.
const CASE_FILES: [&str; 4] = ["case.json", "definition.json", "expected.json", "mocks.json"];

fn name_of(folder: &Path) -> String {
    folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn collect(folder: &Path, depth: usize, cases: &mut Vec<PathBuf>) -> Result<(), ReplayError> {
    if CASE_FILES.iter().any(|file| folder.join(file).is_file()) {
        cases.push(folder.to_owned());
        return Ok(());
    }
    let wrap = |source| ReplayError::Read { path: folder.to_owned(), source };
    let mut inside = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        // Deep enough for any arrangement of cases, and an end to links in a circle.
        if path.is_dir() && depth < 8 {
            inside.push(path);
        }
    }
    inside.sort();
    inside.iter().try_for_each(|path| collect(path, depth + 1, cases))
}

fn read_text(path: &Path) -> Result<String, ReplayError> {
    if !path.exists() {
        return Err(ReplayError::Missing { path: path.to_owned() });
    }
    fs::read_to_string(path).map_err(|source| ReplayError::Read { path: path.to_owned(), source })
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ReplayError> {
    serde_json::from_str(&read_text(path)?).map_err(|source| ReplayError::Shape { path: path.to_owned(), source })
}

fn read_json_if_there<T: for<'de> Deserialize<'de> + Default>(path: &Path) -> Result<T, ReplayError> {
    if path.is_file() { read_json(path) } else { Ok(T::default()) }
}

/// Replays one case.
pub fn replay_case(folder: &Path) -> Result<CaseReport, ReplayError> {
    let case: CaseFile = read_json_if_there(&folder.join("case.json"))?;
    let mocks: MocksFile = read_json_if_there(&folder.join("mocks.json"))?;
    let definition = read_text(&folder.join("definition.json"))?;
    // What `StartExecution` takes when it is given no input.
    let input = match folder.join("input.json") {
        path if path.is_file() => read_json(&path)?,
        _ => json!({}),
    };
    let expected: Expected = read_json(&folder.join("expected.json"))?;
    let id = case.id.unwrap_or_else(|| name_of(folder));
    let wildcards: Vec<String> =
        case.wildcards.iter().filter_map(|wildcard| wildcard.as_str().map(str::to_owned)).collect();
    let pattern = Pattern { wildcards };
    let mut tasks = mocks.tasks;
    name_workers(&mut tasks, expected.events.as_deref().unwrap_or_default());
    match run(&definition, input, tasks, &pattern, Stop::of(&expected)) {
        Ok((outcome, events)) => Ok(compare(id, &expected, outcome.as_ref(), &events, &pattern)),
        Err(problems) => {
            let mut report = CaseReport {
                id,
                outcome: Agreement::Different,
                events: if expected.events.is_some() { Agreement::Different } else { Agreement::NotRecorded },
                details: if expected.events.is_some() { Agreement::Different } else { Agreement::NotRecorded },
                wording: Agreement::NotRecorded,
                differences: Vec::new(),
            };
            report.differences.extend(problems.iter().map(|problem| format!("the definition is refused: {problem}")));
            Ok(report)
        }
    }
}

/// Who took up an activity's task is something that happened in the world, like the answer: where the answers do not say
/// it, the recorded events do.
fn name_workers(tasks: &mut [Mock], recorded: &[ExpectedEvent]) {
    let started = recorded.iter().filter(|event| event.event_type == "ActivityStarted");
    let names = started.map(|event| event.details.as_ref()?.get("workerName")?.as_str().map(str::to_owned));
    let of_activities = tasks.iter_mut().filter(|task| task.trace.iter().any(|event| event == "ActivityStarted"));
    for (task, name) in of_activities.zip(names) {
        task.worker_name = task.worker_name.take().or(name);
    }
}

/// The settings the recordings were made with.
fn settings() -> Settings {
    let mut settings = Settings::new("us-east-1", "111111111111", "ArnPart_0idx", "ExecArnPart_0idx");
    settings.role_arn = "arn:aws:iam::111111111111:role/snf_role_arn".to_owned();
    settings
}

/// Somebody stopped the recorded execution, which is a thing of the world too: when so many events had happened.
struct Stop {
    after: usize,
    input: Input,
}

impl Stop {
    fn of(expected: &Expected) -> Option<Stop> {
        if expected.status != "ABORTED" {
            return None;
        }
        let after = expected.events.as_ref().map_or(0, |events| events.len().saturating_sub(1));
        Some(Stop { after, input: Input::Stop { error: expected.error.clone(), cause: expected.cause.clone() } })
    }
}

type Ran = (Option<ExecutionOutcome>, Vec<HistoryEvent>);

fn run(
    definition: &str,
    input: Value,
    mut mocks: Vec<Mock>,
    pattern: &Pattern,
    mut stop: Option<Stop>,
) -> Result<Ran, Vec<Problem>> {
    let machine = Machine::parse(definition)?;
    let mut core = Core::new(Arc::new(machine), Arc::new(settings()));
    let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let mut events = Vec::new();
    let mut inputs = VecDeque::from([Input::Start(input.into())]);
    for _ in 0..MAX_STEPS {
        let next = match inputs.pop_front() {
            Some(input) => input,
            None => match (stop.take_if(|stop| events.len() >= stop.after), core.next_timer()) {
                (Some(stop), _) => stop.input,
                (None, Some(at)) => {
                    now = now.max(at);
                    Input::Clock
                }
                // Nothing will ever happen again: a recorded call that never returned.
                (None, None) => return Ok((None, events)),
            },
        };
        let progress = core.apply(now, next);
        events.extend(progress.events);
        if progress.more {
            inputs.push_front(Input::Continue);
        }
        for effect in progress.effects {
            match effect {
                Effect::Invoke(call) => answer(&call, &mut mocks, pattern, &mut inputs),
                Effect::Cancel { .. } => {}
                Effect::Done(outcome) => return Ok((Some(outcome), events)),
            }
        }
    }
    Ok((None, events))
}

/// The first unused answer of the state with this payload, else its first unused one, else its last.
fn pick<'a>(call: &TaskCall, mocks: &'a mut [Mock], pattern: &Pattern) -> Option<&'a mut Mock> {
    let of_state = |mock: &Mock| mock.state == *call.state;
    let index = mocks
        .iter()
        .position(|mock| of_state(mock) && !mock.used && pattern.matches(&mock.payload, call.payload.value()))
        .or_else(|| mocks.iter().position(|mock| of_state(mock) && !mock.used))
        .or_else(|| mocks.iter().rposition(of_state))?;
    mocks.get_mut(index)
}

fn answer(call: &TaskCall, mocks: &mut [Mock], pattern: &Pattern, inputs: &mut VecDeque<Input>) {
    let id = call.call;
    let Some(mock) = pick(call, mocks, pattern) else {
        let cause = format!("the recording has no answer for `{}`", call.state);
        inputs.push_back(Input::CallEnded { call: id, outcome: TaskOutcome::failure("Replay.NoAnswer", cause) });
        return;
    };
    mock.used = true;
    if call.resource.kind == ResourceKind::Activity {
        let left_alone = mock.trace.iter().any(|event| event == "ActivityScheduled")
            && !mock.trace.iter().any(|event| event == "ActivityStarted");
        if !left_alone {
            let worker = mock.worker_name.clone();
            inputs.push_back(Input::CallStarted { call: id, worker });
        }
    }
    let was_submitted = mock.submitted.is_some() || mock.trace.iter().any(|event| event == "TaskSubmitted");
    let submitted = mock.submitted.clone().unwrap_or(Value::Null);
    if let Some(token) = call.task_token.as_deref().filter(|_| was_submitted) {
        inputs.push_back(Input::CallEnded { call: id, outcome: TaskOutcome::success(submitted) });
        let token = token.to_owned();
        match mock.outcome.clone() {
            MockOutcome::Succeed { output } => inputs.push_back(Input::TokenSucceeded { token, output }),
            MockOutcome::Fail { error, cause } => inputs.push_back(Input::TokenFailed { token, error, cause }),
            MockOutcome::Timeout | MockOutcome::Never => {}
        }
        return;
    }
    if was_submitted {
        inputs.push_back(Input::CallSubmitted { call: id, output: submitted });
    }
    match mock.outcome.clone() {
        MockOutcome::Succeed { output } => {
            inputs.push_back(Input::CallEnded { call: id, outcome: TaskOutcome::success(output) });
        }
        MockOutcome::Fail { error, cause } => {
            inputs.push_back(Input::CallEnded { call: id, outcome: TaskOutcome::Failure { error, cause } });
        }
        MockOutcome::Timeout | MockOutcome::Never => {}
    }
}

/// What matches anything: recorded instants, tokens such as `<uuid:1>`, and the strings a case names.
struct Pattern {
    wildcards: Vec<String>,
}

impl Pattern {
    fn matches(&self, expected: &Value, found: &Value) -> bool {
        match (expected, found) {
            (Value::String(expected), _) if self.is_wild(expected) => true,
            (Value::String(expected), Value::String(found)) => self.text_matches(expected, found),
            (Value::Array(expected), Value::Array(found)) => {
                expected.len() == found.len()
                    && expected.iter().zip(found).all(|(expected, found)| self.matches(expected, found))
            }
            (Value::Object(expected), Value::Object(found)) => {
                expected.len() == found.len()
                    && expected
                        .iter()
                        .all(|(key, expected)| found.get(key).is_some_and(|found| self.matches(expected, found)))
            }
            _ => same(expected, found),
        }
    }

    fn is_wild(&self, text: &str) -> bool {
        matches!(text, "date" | "timestamp")
            || self.wildcards.iter().any(|wildcard| wildcard == text)
            || token(text).is_some_and(|length| length == text.len())
    }

    /// Texts are the same, tokens aside, or the same JSON.
    fn text_matches(&self, expected: &str, found: &str) -> bool {
        if self.glob(expected, found) {
            return true;
        }
        let structured =
            |text: &str| serde_json::from_str::<Value>(text).ok().filter(|value| value.is_object() || value.is_array());
        match (structured(expected), structured(found)) {
            (Some(expected), Some(found)) => self.matches(&expected, &found),
            _ => false,
        }
    }

    fn glob(&self, expected: &str, found: &str) -> bool {
        let mut literals = vec![String::new()];
        let mut rest = expected;
        while let Some(next) = rest.chars().next() {
            match token(rest) {
                Some(length) => {
                    literals.push(String::new());
                    rest = &rest[length..];
                }
                None => {
                    if let Some(literal) = literals.last_mut() {
                        literal.push(next);
                    }
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        let Some((first, others)) = literals.split_first() else { return false };
        let Some(mut found) = found.strip_prefix(first.as_str()) else { return false };
        let Some((last, middle)) = others.split_last() else { return found.is_empty() };
        for literal in middle {
            match found.find(literal.as_str()) {
                Some(at) => found = &found[at + literal.len()..],
                None => return false,
            }
        }
        found.ends_with(last.as_str())
    }
}

/// The length of a token such as `<uuid:1>`, or `<<task_token>:1>`, at the start of a text.
fn token(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('<')?;
    if let Some(length) = token(inner) {
        let number = inner[length..].strip_prefix(':')?;
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        return number[digits..].starts_with('>').then_some(length + digits + "<:>".len());
    }
    let end = inner.find('>')?;
    let name = &inner[..end];
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
    };
    let fits = match name.split_once(':') {
        Some((name, number)) => plain(name) && number.bytes().all(|byte| byte.is_ascii_digit()),
        None => plain(name) && name.len() > 2,
    };
    fits.then_some(end + 2)
}

fn is_prose(cause: &str) -> bool {
    !serde_json::from_str::<Value>(cause).is_ok_and(|value| value.is_object())
}

fn compare(
    id: String,
    expected: &Expected,
    outcome: Option<&ExecutionOutcome>,
    events: &[HistoryEvent],
    pattern: &Pattern,
) -> CaseReport {
    let mut report = CaseReport {
        id,
        outcome: Agreement::Same,
        events: Agreement::NotRecorded,
        details: Agreement::NotRecorded,
        wording: Agreement::NotRecorded,
        differences: Vec::new(),
    };
    let mut differ = |what: String| {
        report.outcome = Agreement::Different;
        report.differences.push(what);
    };
    match outcome {
        None => differ(format!("recorded {}, here it never ends", expected.status)),
        Some(found) => {
            if found.status.as_str() != expected.status {
                differ(format!(
                    "recorded {}, here {}: {} {}",
                    expected.status,
                    found.status,
                    found.error.as_deref().unwrap_or(""),
                    found.cause.as_deref().unwrap_or("")
                ));
            } else if found.error != expected.error {
                differ(format!("recorded error {:?}, here {:?}", expected.error, found.error));
            }
            let output = found.output.as_ref().map(|payload| payload.value());
            match (&expected.output, output) {
                (Some(expected), Some(found)) if !pattern.matches(expected, found) => {
                    differ(format!("recorded output {expected}, here {found}"))
                }
                (Some(expected), None) => differ(format!("recorded output {expected}, here none")),
                _ => {}
            }
            if let (Some(recorded), Some(found)) = (&expected.cause, &found.cause) {
                if !is_prose(recorded) && !pattern.text_matches(recorded, found) {
                    differ(format!("recorded cause {recorded}, here {found}"));
                } else if is_prose(recorded) {
                    report.wording =
                        if pattern.text_matches(recorded, found) { Agreement::Same } else { Agreement::Different };
                    if report.wording == Agreement::Different {
                        report.differences.push(format!("recorded cause worded {recorded:?}, here {found:?}"));
                    }
                }
            } else if expected.cause.is_some() != found.cause.is_some() && found.status.as_str() == expected.status {
                differ(format!("recorded cause {:?}, here {:?}", expected.cause, found.cause));
            }
        }
    }
    if let Some(recorded) = &expected.events {
        compare_events(&mut report, expected, recorded, events, pattern);
    }
    report
}

fn compare_events(
    report: &mut CaseReport,
    expected: &Expected,
    recorded: &[ExpectedEvent],
    found: &[HistoryEvent],
    pattern: &Pattern,
) {
    let names = |event: &HistoryEvent| (event.event_type.as_str().to_owned(), event.text("name").map(str::to_owned));
    let recorded_names: Vec<_> = recorded.iter().map(|event| (event.event_type.clone(), event.state.clone())).collect();
    // The test that made the recordings without ids sorted the events of branches, and lost the one that ends them.
    let lost = |event: &HistoryEvent| {
        event.event_type == EventType::ParallelStateSucceeded
            && expected.ordering == "multiset"
            && !recorded.iter().any(|event| event.event_type == "ParallelStateSucceeded")
    };
    let kept: Vec<HistoryEvent> = found.iter().filter(|event| !lost(event)).cloned().collect();
    let found = kept.as_slice();
    let found_names: Vec<_> = found.iter().map(names).collect();
    let in_order = recorded_names == found_names;
    let same = in_order || (expected.ordering != "total" && sorted(&recorded_names) == sorted(&found_names));
    report.events = if same { Agreement::Same } else { Agreement::Different };
    if !same {
        let at = recorded_names
            .iter()
            .zip(&found_names)
            .position(|(recorded, found)| recorded != found)
            .unwrap_or(recorded_names.len().min(found_names.len()));
        let show = |names: &[(String, Option<String>)]| {
            names
                .get(at)
                .map_or("nothing".to_owned(), |(kind, state)| format!("{kind} {}", state.as_deref().unwrap_or("")))
        };
        report.differences.push(format!(
            "event {}: recorded {}, here {}",
            at + 1,
            show(&recorded_names).trim(),
            show(&found_names).trim()
        ));
        report.details = Agreement::Different;
        return;
    }
    let mut differences = Vec::new();
    if in_order {
        for (index, (recorded, found)) in recorded.iter().zip(found).enumerate() {
            if let Some(previous) = recorded.previous_event_id
                && previous != found.previous_event_id
            {
                differences.push(format!(
                    "event {} {}: recorded after {previous}, here after {}",
                    index + 1,
                    recorded.event_type,
                    found.previous_event_id
                ));
            }
            if let Some(what) = detail_difference(recorded, found, pattern) {
                differences.push(format!("event {} {}: {what}", index + 1, recorded.event_type));
            }
        }
        if !differences.is_empty() && expected.ordering != "total" && same_as_a_tree(recorded, found, pattern) {
            differences.clear();
        }
    } else if !same_as_a_tree(recorded, found, pattern) {
        differences.push("the branches differ in their details".to_owned());
    }
    report.details = if differences.is_empty() { Agreement::Same } else { Agreement::Different };
    report.differences.extend(differences);
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list
}

/// Whether each recorded event can be given one of ours that says the same and follows one that was given to the recorded
/// predecessor. Siblings that differ in nothing but their order on the clock are exchangeable.
fn same_as_a_tree(recorded: &[ExpectedEvent], found: &[HistoryEvent], pattern: &Pattern) -> bool {
    if recorded.iter().any(|event| event.previous_event_id.is_none()) {
        let mut free: Vec<&HistoryEvent> = found.iter().collect();
        return recorded.iter().all(|recorded| {
            let at = free.iter().position(|found| matches_event(recorded, found, pattern));
            at.map(|at| free.swap_remove(at)).is_some()
        });
    }
    // Events that follow the end of several branches point to whichever ended last. Which one that was is chance, and is
    // not compared; what kind of event it was is compared for a Map, whose branches are alike.
    let map_joins = ["MapStateSucceeded", "MapStateExited", "MapIterationStarted"];
    let parallel_joins = ["ParallelStateSucceeded", "ParallelStateExited"];
    let kind_of_recorded = |id: u64| id.checked_sub(1).and_then(|at| recorded.get(at as usize));
    let kind_of_found = |id: u64| id.checked_sub(1).and_then(|at| found.get(at as usize));
    let alike = |a: u64, b: u64| match (kind_of_recorded(a), kind_of_found(b)) {
        (Some(a), Some(b)) => a.event_type == b.event_type.as_str(),
        (None, None) => true,
        _ => false,
    };
    let mut given: BTreeMap<u64, u64> = BTreeMap::from([(0, 0)]);
    let mut free: Vec<&HistoryEvent> = found.iter().collect();
    for (index, event) in recorded.iter().enumerate() {
        let previous = event.previous_event_id.unwrap_or(0);
        let kind = event.event_type.as_str();
        let at = free.iter().position(|candidate| {
            matches_event(event, candidate, pattern)
                && (given.get(&previous) == Some(&candidate.previous_event_id)
                    || parallel_joins.contains(&kind)
                    || (map_joins.contains(&kind) && alike(previous, candidate.previous_event_id)))
        });
        let Some(at) = at else { return false };
        let candidate = free.remove(at);
        given.insert(index as u64 + 1, candidate.id);
    }
    true
}

fn matches_event(recorded: &ExpectedEvent, found: &HistoryEvent, pattern: &Pattern) -> bool {
    recorded.event_type == found.event_type.as_str()
        && recorded.state.as_deref() == found.text("name")
        && detail_difference(recorded, found, pattern).is_none()
}

/// Fields that recordings leave out.
const UNRECORDED: [&str; 3] = ["inputDetails", "outputDetails", "roleArn"];

fn detail_difference(recorded: &ExpectedEvent, found: &HistoryEvent, pattern: &Pattern) -> Option<String> {
    let empty = serde_json::Map::new();
    let details = recorded.details.as_ref().unwrap_or(&empty);
    for (name, detail) in &found.details {
        if UNRECORDED.contains(name) {
            continue;
        }
        let value = match detail {
            Detail::Document(payload) => payload.value().clone(),
            Detail::Number(number) => json!(number),
            Detail::Text(text) => json!(&**text),
            Detail::Object(map) => Value::Object(map.clone()),
        };
        let Some(expected) = details.get(*name) else {
            return Some(format!("`{name}` is not in the recording, here {value}"));
        };
        let agrees = match (*name, expected, &value) {
            ("assignedVariables", Value::Object(expected), Value::Object(found)) => {
                expected.len() == found.len()
                    && expected.iter().all(|(key, expected)| {
                        found.get(key).is_some_and(|found| pattern.matches(&unwrapped(expected), &unwrapped(found)))
                    })
            }
            ("cause", Value::String(expected), Value::String(found)) => {
                pattern.text_matches(expected, found)
                    || (is_prose(expected) && recorded.event_type != "EvaluationFailed")
            }
            (_, expected, found) => pattern.matches(expected, found),
        };
        if !agrees {
            return Some(format!("`{name}` recorded {expected}, here {value}"));
        }
    }
    let missing = details.keys().find(|name| !UNRECORDED.contains(&name.as_str()) && found.detail(name).is_none())?;
    Some(format!("`{missing}` is in the recording, not here: {}", details[missing]))
}

/// A variable as JSON: recordings have some as text and some parsed.
fn unwrapped(value: &Value) -> Value {
    match value {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, value: &Value) {
        fs::write(folder.join(name), value.to_string()).unwrap();
    }

    fn case(folder: &Path, output: Value) {
        fs::create_dir_all(folder).unwrap();
        write(
            folder,
            "definition.json",
            &json!({"StartAt": "T", "States": {"T": {"Type": "Task", "Resource": "arn:aws:lambda:us-east-1:111111111111:function:f", "ResultPath": "$.r", "End": true}}}),
        );
        write(folder, "input.json", &json!({"a": 1}));
        write(
            folder,
            "mocks.json",
            &json!({"tasks": [{"state": "T", "payload": {"a": 1}, "outcome": {"kind": "succeed", "output": "x-123"}}]}),
        );
        write(
            folder,
            "expected.json",
            &json!({"status": "SUCCEEDED", "output": output, "ordering": "total", "events": [
                {"id": 1, "previousEventId": 0, "type": "ExecutionStarted", "details": {"input": {"a": 1}}},
                {"id": 2, "previousEventId": 0, "type": "TaskStateEntered", "state": "T", "details": {"input": {"a": 1}, "name": "T"}},
                {"id": 3, "previousEventId": 2, "type": "LambdaFunctionScheduled", "details": {"input": {"a": 1}, "resource": "arn:aws:lambda:us-east-1:111111111111:function:f"}},
                {"id": 4, "previousEventId": 3, "type": "LambdaFunctionStarted", "details": {}},
                {"id": 5, "previousEventId": 4, "type": "LambdaFunctionSucceeded", "details": {"output": "x-<uuid:1>"}},
                {"id": 6, "previousEventId": 5, "type": "TaskStateExited", "state": "T", "details": {"name": "T", "output": {"a": 1, "r": "date"}}},
                {"id": 7, "previousEventId": 6, "type": "ExecutionSucceeded", "details": {"output": {"a": 1, "r": "date"}}}
            ]}),
        );
    }

    #[test]
    fn a_case_that_agrees_is_told_from_one_that_does_not() {
        let folder = tempfile::tempdir().unwrap();
        case(&folder.path().join("good"), json!({"a": 1, "r": "x-<uuid:1>"}));
        case(&folder.path().join("bad"), json!({"a": 2, "r": "x-<uuid:1>"}));
        let reports = replay_all(&[folder.path().to_owned()]).unwrap();
        assert_eq!(reports.len(), 2);
        assert_eq!(
            (reports[0].outcome, reports[0].events, reports[0].details),
            (Agreement::Different, Agreement::Same, Agreement::Same)
        );
        assert!(reports[1].agrees_in_detail(), "{:?}", reports[1]);
        assert_eq!(Summary::of(&reports).same_outcome, 1);
        assert!(reports[0].to_string().starts_with("bad: outcome DIFFERS, events same, details same: recorded output"));
    }

    #[test]
    fn what_cannot_be_replayed_is_a_case_that_differs_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "b", "c", "d", "e"] {
            case(&at(name), json!({"a": 1, "r": "x-123"}));
        }
        fs::remove_file(at("a").join("expected.json")).unwrap();
        fs::remove_file(at("b").join("definition.json")).unwrap();
        write(&at("c"), "mocks.json", &json!({"tasks": [{"state": "T", "outcome": {"kind": "explode"}}]}));
        fs::write(at("d").join("expected.json"), "[").unwrap();
        write(&at("e"), "definition.json", &json!({"StartAt": "Nowhere", "States": {}}));
        let reports = replay_all(&[folder.path().to_owned()]).unwrap();
        let said: Vec<&str> = reports.iter().map(|report| report.differences[0].as_str()).collect();
        for (said, part) in said.iter().zip([
            "expected.json` is missing",
            "definition.json` is missing",
            "explode",
            "expected.json` is not",
            "refused",
        ]) {
            assert!(said.contains(part), "{said} does not say {part}");
        }
        assert!(reports.iter().all(|report| !report.agrees()));
        assert_eq!(Summary::of(&reports).same_outcome, 0);
    }

    #[test]
    fn without_an_input_a_run_is_started_with_an_empty_object() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("case");
        fs::create_dir_all(&at).unwrap();
        write(&at, "definition.json", &json!({"StartAt": "P", "States": {"P": {"Type": "Pass", "End": true}}}));
        write(&at, "expected.json", &json!({"status": "SUCCEEDED", "output": {}}));
        assert!(replay_case(&at).unwrap().agrees_in_detail());
    }

    #[test]
    fn an_execution_that_was_stopped_is_stopped_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("case");
        fs::create_dir_all(&at).unwrap();
        let states = json!({"V": {"Type": "Wait", "Seconds": 1, "Next": "W"}, "W": {"Type": "Wait", "Seconds": 60, "End": true}});
        write(&at, "definition.json", &json!({"StartAt": "V", "States": states}));
        let entered = |state: &str, previous: u64| json!({"type": "WaitStateEntered", "state": state, "previousEventId": previous, "details": {"input": {}, "name": state}});
        let events = json!([
            {"type": "ExecutionStarted", "previousEventId": 0, "details": {"input": {}}},
            entered("V", 0),
            {"type": "WaitStateExited", "state": "V", "previousEventId": 2, "details": {"name": "V", "output": {}}},
            entered("W", 3),
            {"type": "ExecutionAborted", "previousEventId": 0, "details": {"error": "E", "cause": "why"}}
        ]);
        let expected =
            json!({"status": "ABORTED", "error": "E", "cause": "why", "ordering": "total", "events": events});
        write(&at, "expected.json", &expected);
        let report = replay_case(&at).unwrap();
        assert!(report.agrees_in_detail(), "{report}");
    }

    #[test]
    fn an_activity_is_taken_up_by_the_worker_of_the_recording_or_by_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("case");
        fs::create_dir_all(&at).unwrap();
        let resource = "arn:aws:states:us-east-1:111111111111:activity:a";
        write(
            &at,
            "definition.json",
            &json!({"StartAt": "T", "States": {"T": {"Type": "Task", "Resource": resource, "TimeoutSeconds": 5, "End": true}}}),
        );
        let recorded = |trace: Value, worker: Value, last: Value| {
            write(
                &at,
                "mocks.json",
                &json!({"tasks": [{"state": "T", "workerName": worker, "trace": trace, "outcome": {"kind": "timeout"}}]}),
            );
            let mut events = vec![
                json!({"type": "ExecutionStarted", "previousEventId": 0, "details": {"input": {}}}),
                json!({"type": "TaskStateEntered", "state": "T", "previousEventId": 0, "details": {"input": {}, "name": "T"}}),
                json!({"type": "ActivityScheduled", "previousEventId": 2, "details": {"input": {}, "resource": resource, "timeoutInSeconds": 5}}),
            ];
            events.extend(last.as_array().unwrap().clone());
            let ordering =
                json!({"status": "FAILED", "error": "States.Timeout", "ordering": "total", "events": events});
            write(&at, "expected.json", &ordering);
            replay_case(&at).unwrap()
        };
        let by_worker = recorded(
            json!(["ActivityScheduled", "ActivityStarted", "ActivityTimedOut"]),
            json!("w"),
            json!([
                {"type": "ActivityStarted", "previousEventId": 3, "details": {"workerName": "w"}},
                {"type": "ActivityTimedOut", "previousEventId": 4, "details": {"error": "States.Timeout"}},
                {"type": "ExecutionFailed", "previousEventId": 5, "details": {"error": "States.Timeout"}}
            ]),
        );
        assert!(by_worker.agrees_in_detail(), "{by_worker}");
        let by_nobody = recorded(
            json!(["ActivityScheduled", "ActivityTimedOut"]),
            Value::Null,
            json!([
                {"type": "ActivityTimedOut", "previousEventId": 3, "details": {"error": "States.Timeout"}},
                {"type": "ExecutionFailed", "previousEventId": 4, "details": {"error": "States.Timeout"}}
            ]),
        );
        assert!(by_nobody.agrees_in_detail(), "{by_nobody}");
    }

    #[test]
    fn a_folder_without_cases_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(replay_all(&[folder.path().to_owned()]), Err(ReplayError::Empty { .. })));
    }

    #[test]
    fn tokens_match_anything_inside_a_text() {
        let pattern = Pattern { wildcards: vec!["start-time".to_owned()] };
        assert!(pattern.matches(&json!("a <uuid:12> b <token> c"), &json!("a 1 b 2 c")));
        assert!(pattern.matches(&json!("start-time"), &json!(5)));
        assert!(pattern.matches(&json!("<<task_token>:1>"), &json!("abc")));
        assert!(!pattern.matches(&json!("a <uuid:12>b"), &json!("a c")));
        assert!(pattern.matches(&json!("{\"a\": \"<uuid:1>\"}"), &json!("{\"a\":\"zzz\"}")));
        assert!(!pattern.matches(&json!("<b>"), &json!("x")));
    }
}
