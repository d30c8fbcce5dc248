//! `drctl run`: a machine of the suite on this computer, with the suite's functions linked in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use asl::{
    EventType, Execution, ExecutionStatus, FileJournal, Handle, HistoryEvent, JournalError, Machine, Observer,
    ObserverError, Settings, SystemClock,
};
use async_trait::async_trait;
use jiff::Timestamp;
use recovery::{
    fault::Fault,
    fence::FenceState,
    plan::Plan,
    report::{RecoveryReport, StateSpan, to_html, to_markdown},
    run::{Run, RunFailure, RunOutcome},
};
use recovery_suite::{Linked, Suite};
use serde_json::Value;

use crate::{
    machines,
    problem::{Problem, exit},
    progress::Progress,
    run_folder::{ApprovalRequest, Hold, RunCard, RunFolder, RunStatus, default_runs},
};

/// How often a run looks whether somebody has answered it. A person does not notice; a laptop does not either.
const ANSWER_POLL: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Machine in `statemachines/`, for example `regional-failover`
    pub machine: String,
    /// Event that starts it, for example events/regional-failover/primary-region-alarm.json
    #[arg(long, value_name = "FILE")]
    pub event: PathBuf,
    /// Name of the run; the same name continues what an earlier attempt began [default: from the event's id]
    #[arg(long, value_name = "RUN")]
    pub name: Option<String>,
    /// The platform
    #[arg(long, value_name = "FILE", env = "RECOVERY_PLAN", default_value = "plans/sparc.toml")]
    pub plan: PathBuf,
    /// Where runs are kept [default: ~/.local/state/drctl/runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<PathBuf>,
    /// Print the record of the run as JSON instead of progress
    #[arg(long)]
    pub json: bool,
}

/// What to take up again.
#[derive(Clone, Debug, clap::Args)]
pub struct ResumeArgs {
    /// Name of the run
    pub run: String,
    /// The platform [default: the plan that the run was started with]
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Where runs are kept [default: ~/.local/state/drctl/runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<PathBuf>,
    /// Print the report of the run as JSON instead of progress
    #[arg(long)]
    pub json: bool,
}

/// Name of the journal in a run's folder: every input of the engine, safe on disk before anything follows from it.
const JOURNAL: &str = "journal";

/// Runs a machine to its end.
///
/// # Errors
/// Something that was given cannot be used (nothing has changed), or the run's folder failed on the way.
pub async fn run(args: RunArgs) -> Result<ExitCode, Problem> {
    let settings = crate::plan::settings(&args.plan)?;
    let event = read_event(&args.event)?;
    let definition = machines::find(&args.machine)?;
    let name = args.name.clone().unwrap_or_else(|| name_from(&args.machine, &event));
    let folder = RunFolder::new(&args.runs_dir.clone().unwrap_or_else(default_runs), &name)?;
    // An event that starts nothing is the caller's mistake, and is told before anything is begun.
    recovery::incident::Incident::from_event(&event, &settings.plan)
        .map_err(|error| Problem::input(format!("{}: {}", args.event.display(), recovery::fault::chain(&error))))?;
    let means = Means::gather(settings, &definition).await?;

    let hold = folder.hold()?;
    folder.put_aside(JOURNAL).map_err(|error| unwritable(&folder, &error))?;
    let card = RunCard {
        run: name.clone(),
        machine: args.machine.clone(),
        plan: args.plan.clone(),
        event: args.event.clone(),
        status: RunStatus::Running,
        started_at: Timestamp::now(),
        ended_at: None,
        pid: std::process::id(),
        state: None,
    };
    let mut settings = Settings::new(means.plan.regions.tertiary.code(), "000000000000", &args.machine, &name);
    settings.seed = seed(&name);
    let journal = FileJournal::create(&folder.path().join(JOURNAL)).await.map_err(|error| of_journal(&error))?;
    let execution = Execution::start(Arc::clone(&means.machine), event.clone(), settings).with_journal(journal);
    drive(means, folder, hold, card, execution, event, args.json).await
}

/// Takes up a run whose runner was killed, from its journal: what was answered is not asked again.
///
/// # Errors
/// There is no such run, it has ended, or its journal does not fit this machine.
pub async fn resume(args: ResumeArgs) -> Result<ExitCode, Problem> {
    let runs = args.runs_dir.clone().unwrap_or_else(default_runs);
    let folder = crate::runs::find(&runs, &args.run)?.ok_or_else(|| crate::runs::unknown(&runs, &args.run, ""))?;
    let card = folder.card()?;
    if card.status != RunStatus::Running {
        return Err(Problem::input(format!(
            "run `{0}` has ended; there is nothing to take up, but `drctl run {1} --name {0} --event …` goes on from the world as it is",
            args.run, card.machine
        )));
    }
    let settings = crate::plan::settings(args.plan.as_ref().unwrap_or(&card.plan))?;
    let means = Means::gather(settings, &machines::find(&card.machine)?).await?;
    let hold = folder.hold()?;
    let event = folder.record().map(|record| record.event).unwrap_or_default();
    let (journal, records) =
        FileJournal::open(&folder.path().join(JOURNAL)).await.map_err(|error| of_journal(&error))?;
    // The observer begins anew, so it is shown everything that has happened.
    let execution = Execution::resume(Arc::clone(&means.machine), &records, journal, 0).map_err(|error| {
        Problem::input(format!("run `{}`: {}; {}", args.run, recovery::fault::chain(&error), error.remedy()))
    })?;
    let card = RunCard { pid: std::process::id(), ..card };
    drive(means, folder, hold, card, execution, event, args.json).await
}

fn of_journal(error: &JournalError) -> Problem {
    Problem::input(format!("{}; {}", recovery::fault::chain(error), error.remedy()))
}

/// What a run needs beside its event.
struct Means {
    plan: Arc<Plan>,
    suite: Arc<Suite>,
    machine: Arc<Machine>,
}

impl Means {
    async fn gather(settings: recovery_lambda::Settings, definition: &machines::Definition) -> Result<Means, Problem> {
        let plan = Arc::clone(&settings.plan);
        let suite = Suite::open(settings).await.map_err(|failure| Problem::input(failure.message))?;
        let not_a_machine = |problems: Vec<asl::Problem>| not_a_machine(&definition.name, &problems);
        let filled = asl::substitution::fill(&definition.text, &suite.substitutions()).map_err(not_a_machine)?;
        let machine = Machine::parse(&filled).map_err(not_a_machine)?;
        Ok(Means { plan, suite, machine: Arc::new(machine) })
    }
}

/// Drives an execution to its end, shows it and keeps it.
async fn drive(
    means: Means,
    folder: RunFolder,
    hold: Hold,
    card: RunCard,
    execution: Execution,
    event: Value,
    json: bool,
) -> Result<ExitCode, Problem> {
    let Means { plan, suite, machine } = means;
    folder.write_json("run.json", &card).map_err(|error| unwritable(&folder, &error))?;
    recovery_lambda::log_to(folder.open_log().map_err(|error| unwritable(&folder, &error))?);
    suite.warm().await;
    let in_flight = Arc::new(AtomicI64::new(0));
    let mut recorder = Recorder {
        folder: folder.clone(),
        hold,
        card,
        progress: Progress::of(&machine, json),
        spans: Spans::new(&machine),
        record: None,
        in_flight: Arc::clone(&in_flight),
    };
    let control = tokio::spawn(control(execution.handle(), folder.clone(), in_flight, json));
    let handler = Linked(suite);
    let ended = execution.run(&handler, &SystemClock, &mut recorder).await;
    control.abort();
    recorder.progress.end();
    folder.withdraw_approval_request();
    let ended =
        ended.map_err(|error| Problem::failed(format!("{}; {}", recovery::fault::chain(&error), error.remedy())))?;

    let status = match ended.status {
        ExecutionStatus::Succeeded => RunStatus::Succeeded,
        ExecutionStatus::TimedOut => RunStatus::TimedOut,
        ExecutionStatus::Aborted => RunStatus::Aborted,
        _ => RunStatus::Failed,
    };
    let record = recorder.record(&recorder.card.run, &event, status);
    recorder.card.status = status;
    recorder.card.ended_at = Some(Timestamp::now());
    let report = RecoveryReport::of(&plan, &record, &recorder.spans.done, Timestamp::now());
    write_report(&folder, &recorder.card, &record, &report)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        tell_the_end(&plan, &record, status, &report, &folder);
    }
    Ok(ExitCode::from(exit_code(&record, status)))
}

/// Keeps a report in the run's folder in all its forms.
///
/// # Errors
/// The folder cannot be written, or a template does not fit.
pub fn write_report(folder: &RunFolder, card: &RunCard, record: &Run, report: &RecoveryReport) -> Result<(), Problem> {
    let unrendered = |error| Problem::failed(format!("the report cannot be rendered: {error}"));
    let (markdown, html) = (to_markdown(report).map_err(unrendered)?, to_html(report).map_err(unrendered)?);
    folder
        .write_json("run.json", card)
        .and_then(|()| folder.write_json("record.json", record))
        .and_then(|()| folder.write_json("report.json", report))
        .and_then(|()| folder.write("report.md", markdown.as_bytes()))
        .and_then(|()| folder.write("report.html", html.as_bytes()))
        .map_err(|error| unwritable(folder, &error))
}

fn unwritable(folder: &RunFolder, error: &std::io::Error) -> Problem {
    Problem::failed(format!(
        "`{}` cannot be written: {error}; name another folder with --runs-dir",
        folder.path().display()
    ))
}

fn read_event(path: &Path) -> Result<Value, Problem> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Problem::input(format!("the event `{}` cannot be read: {error}; see events/regional-failover/", path.display()))
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Problem::input(format!("{}:{}:{}: not JSON: {error}", path.display(), error.line(), error.column()))
    })
}

fn not_a_machine(name: &str, problems: &[asl::Problem]) -> Problem {
    let first = problems.first().map(ToString::to_string).unwrap_or_default();
    let more = if problems.len() > 1 {
        format!(" (and {} more; see `drctl machine check`)", problems.len() - 1)
    } else {
        String::new()
    };
    Problem::input(format!("statemachines/{name}.asl.json:{first}{more}"))
}

/// One name per incident, so that a repeated event finds the run that it has started.
fn name_from(machine: &str, event: &Value) -> String {
    let id = event.get("id").and_then(Value::as_str).unwrap_or("unnamed");
    let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(48).collect();
    format!("{machine}-{id}").chars().take(80).collect()
}

/// Jitter and tokens differ between attempts at the same run.
fn seed(name: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (name, Timestamp::now().as_nanosecond(), std::process::id()).hash(&mut hasher);
    hasher.finish()
}

/// Answers of people and interrupts, while the engine works.
async fn control(handle: Handle, folder: RunFolder, in_flight: Arc<AtomicI64>, silent: bool) {
    let mut interrupts = 0;
    let mut poll = tokio::time::interval(ANSWER_POLL);
    let say = |text: &str| {
        if !silent {
            eprintln!("{text}");
        }
    };
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {
                interrupts += 1;
                if interrupts == 1 {
                    say("\nstopping after the step that is under way; press Ctrl-C again to leave it");
                    let _ = handle.pause().await;
                } else {
                    let _ = handle.stop(Some("Recovery.Interrupted".to_owned()), Some("interrupted twice".to_owned())).await;
                }
            }
            _ = poll.tick() => {
                if interrupts > 0 && in_flight.load(Ordering::SeqCst) <= 0 {
                    let cause = "interrupted between two steps".to_owned();
                    let _ = handle.stop(Some("Recovery.Interrupted".to_owned()), Some(cause)).await;
                }
                answer(&handle, &folder).await;
            }
        }
    }
}

async fn answer(handle: &Handle, folder: &RunFolder) {
    let Some(answer) = folder.approval_answer() else { return };
    let token = answer.task_token;
    // A token that is not known any more was answered or has run out; either way the answer is used up.
    let _ = if answer.approve {
        handle.send_task_success(&token, serde_json::to_value(&answer.given).unwrap_or_default()).await
    } else {
        let why = format!(
            "rejected by {}: {}; ask them, then request the failover again",
            answer.given.by, answer.given.because
        );
        let cause = serde_json::json!({ "errorType": Fault::Refused.error_type(), "errorMessage": why }).to_string();
        handle.send_task_failure(&token, Some(Fault::Refused.error_type().to_owned()), Some(cause)).await
    };
    let _ = std::fs::remove_file(folder.path().join("approval.json"));
    folder.withdraw_approval_request();
}

/// Keeps what happens before anything follows from it.
struct Recorder {
    folder: RunFolder,
    hold: Hold,
    card: RunCard,
    progress: Progress,
    spans: Spans,
    record: Option<Value>,
    in_flight: Arc<AtomicI64>,
}

#[async_trait]
impl Observer for Recorder {
    async fn record(&mut self, events: &[HistoryEvent]) -> Result<(), ObserverError> {
        for event in events {
            self.hold.append(event)?;
            self.progress.show(event);
            self.spans.note(event);
            match event.event_type {
                EventType::TaskScheduled | EventType::LambdaFunctionScheduled => {
                    self.in_flight.fetch_add(1, Ordering::SeqCst);
                }
                EventType::TaskSubmitted => self.ask_a_person(event)?,
                EventType::TaskSucceeded
                | EventType::TaskFailed
                | EventType::TaskTimedOut
                | EventType::LambdaFunctionSucceeded
                | EventType::LambdaFunctionFailed
                | EventType::LambdaFunctionTimedOut => {
                    self.in_flight.fetch_sub(1, Ordering::SeqCst);
                }
                _ => {}
            }
            if let Some(run) = assigned_run(event) {
                self.folder.show_json("record.json", &run)?;
                self.record = Some(run);
            }
            if event.event_type.as_str().ends_with("StateEntered") {
                self.card.state = event.state.as_deref().map(str::to_owned);
            }
        }
        self.folder.show_json("run.json", &self.card)?;
        Ok(())
    }
}

impl Recorder {
    /// A task was handed out with a token and now waits: that is a person's turn.
    fn ask_a_person(&mut self, event: &HistoryEvent) -> std::io::Result<()> {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let Some(state) = event.state.as_deref() else { return Ok(()) };
        let Some(token) = self.spans.tokens.get(state) else { return Ok(()) };
        let request = ApprovalRequest { task_token: token.clone(), state: state.to_owned(), asked_at: event.timestamp };
        self.folder.write_json("approval-request.json", &request)?;
        self.progress.say(&format!(
            "            waiting for a person: drctl approve {run} --by NAME --because WHY   (or: drctl reject {run} …)",
            run = self.card.run
        ));
        Ok(())
    }

    /// The record at the end. A run that did not reach its report has its failure written here.
    fn record(&self, name: &str, event: &Value, status: RunStatus) -> Run {
        let kept = self.record.clone().and_then(|value| serde_json::from_value::<Run>(value).ok());
        let mut record = kept.unwrap_or_else(|| Run::opened(name, self.card.started_at, event.clone()));
        if record.failure.is_none() && matches!(status, RunStatus::TimedOut | RunStatus::Aborted) {
            let (error, cause) = match status {
                RunStatus::TimedOut => ("States.Timeout", "the machine's own deadline passed"),
                _ => ("Recovery.Interrupted", "a person interrupted the run"),
            };
            let state = self.card.state.clone().unwrap_or_default();
            record.failure = Some(RunFailure { state, error: error.to_owned(), cause: cause.to_owned() });
        }
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

fn exit_code(record: &Run, status: RunStatus) -> u8 {
    match (record.outcome(), status) {
        (_, RunStatus::Aborted) => exit::INTERRUPTED,
        (RunOutcome::Recovered, _) => exit::DONE,
        (RunOutcome::Refused, _) => exit::REFUSED,
        (RunOutcome::Failed, _) => exit::STOPPED,
        (RunOutcome::Incomplete, _) => exit::INCOMPLETE,
    }
}

fn tell_the_end(plan: &Plan, record: &Run, status: RunStatus, report: &RecoveryReport, folder: &RunFolder) {
    println!();
    if status == RunStatus::Aborted {
        println!("interrupted. {}", state_of_the_world(plan, record));
    }
    println!("{}", report.sentence);
    if let Some(failure) = &record.failure {
        println!("{}: {}", failure.state, failure.message());
    }
    println!("report: {}", folder.path().join("report.html").display());
}

/// Where an interrupted run leaves the platform, and how to go on.
fn state_of_the_world(plan: &Plan, record: &Run) -> String {
    let again = format!("start it again with --name {} to go on from here", record.id);
    let fence = record.fence.as_ref().map(|fence| fence.epoch);
    match (&record.promotion, fence, &record.plan) {
        (Some(promotion), _, _) => format!("`{}` is the primary and must stay it; {again}.", promotion.server),
        (None, Some(epoch), _) => format!(
            "`{}` is fenced under epoch {epoch} and takes no writes, `{}` may have been asked to take over; {again}.",
            plan.postgresql.primary.instance, plan.postgresql.standby.instance
        ),
        (None, None, Some(_)) => {
            format!(
                "the database may be fenced (see the fence object, state {:?} or none) and was not promoted; {again}.",
                FenceState::Held
            )
        }
        (None, None, None) => "Nothing has changed.".to_owned(),
    }
}
