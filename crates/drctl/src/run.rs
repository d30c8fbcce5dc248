//! `drctl run` and everything that goes on with a run: a machine of the suite on this computer, with the suite's functions
//! linked in.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use asl::{
    Execution, ExecutionStatus, FileJournal, Input, Journal, JournalError, Machine, Record, Settings, SystemClock,
    TaskCall, TaskHandler, TaskOutcome,
};
use async_trait::async_trait;
use jiff::Timestamp;
use recovery::{
    backup::{Catalogue, Standing},
    fence::FenceState,
    intervention::{Deed, Intervention},
    plan::Plan,
    report::{BackupReport, RecoveryReport, backups_to_html, backups_to_markdown, to_html, to_markdown},
    run::{Run, RunOutcome},
    store::ObjectStore,
};
use recovery_aws::{Aws, step_functions::Which};
use recovery_suite::{Linked, Suite};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    control::{self, Control, Signals},
    copy::{self, Copying, Head, Writer, lock},
    deeds, machines, on_aws,
    problem::{Problem, exit},
    progress::Progress,
    recorder::{Live, Recorder},
    requests::{self, Reply},
    run_folder::{Hold, RunCard, RunFolder, RunStatus, default_runs},
    take_up::gone_from,
};

/// Longest wait at the start for the bucket and for Step Functions: a run does not need them to begin.
const COURTESY: Duration = Duration::from_secs(3);
/// Longest wait for the lease once the bucket answers: somebody else's silence is listened to.
const CLAIM: Duration = Duration::from_secs(20);
/// Longest wait at the end for how all backups stand.
const CATALOGUE: Duration = Duration::from_secs(30);
/// Longest wait at the end for the copy.
const LAST_COPY: Duration = Duration::from_secs(5);
/// Longest wait of a process that was asleep for the bucket's word on whose run it is.
const AFTER_SLEEP: Duration = Duration::from_secs(2);
/// Longest wait for steps under way when another machine has taken the run over.
const LET_FINISH: Duration = Duration::from_secs(60);

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

/// Name of the journal in a run's folder: every input of the engine, safe on disk before anything follows from it.
pub const JOURNAL: &str = "journal";

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
    // An event that starts nothing is the caller's mistake, and is told before anything is begun. Backups need no incident.
    if definition.text.contains("${PlanFailoverFunctionArn}") {
        recovery::incident::Incident::from_event(&event, &settings.plan)
            .map_err(|error| Problem::input(format!("{}: {}", args.event.display(), recovery::fault::chain(&error))))?;
    }
    let aside = refuse_beside_step_functions(&settings.plan, &args.machine).await?;
    let means = Means::gather(settings, &definition).await?;

    let hold = folder.hold()?;
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
        paused: None,
    };
    let seed = seed(&name);
    let writer = Writer::this(seed);
    let gone = gone_from(&folder, &writer);
    let evidence = means.suite.evidence();
    let claimed = claim_for_a_start(evidence.as_ref(), &head(&card, &writer), gone.as_deref()).await?;
    // What an earlier attempt was asked and answered is not for this one.
    folder.forget_answer();
    folder
        .put_aside(JOURNAL)
        .and_then(|()| folder.put_aside(requests::FOLDER))
        .map_err(|error| unwritable(&folder, &error))?;
    let mut settings = Settings::new(means.plan.regions.tertiary.code(), "000000000000", &args.machine, &name);
    settings.seed = seed;
    let journal = FileJournal::create(&folder.path().join(JOURNAL)).await.map_err(|error| of_journal(&error))?;
    let execution = Execution::start(Arc::clone(&means.machine), event.clone(), settings);
    let lease = Lease { writer, gone, claimed: claimed.then_some((0, 0)) };
    let deeds = deeds::of(&folder);
    let begun = Begun { folder, hold, card, deeds, event, lease, aside };
    drive(means, begun, Started::Anew(Box::new(execution), journal), args.json).await
}

/// Step Functions runs its own execution of the same machine: two engines at one platform. When it cannot be asked, the
/// run goes on, for that is what it is there for.
async fn refuse_beside_step_functions(plan: &Plan, machine: &str) -> Result<Option<String>, Problem> {
    let name = [machine.to_owned()];
    match on_aws::executions(plan, &name, Which::Running, COURTESY).await {
        Ok(running) => match running.first() {
            None => Ok(None),
            Some((_, execution)) => Err(Problem::input(format!(
                "Step Functions runs `{0}` of {machine} since {1}; look at `drctl status {0}`, and end it with `drctl abort {0}` before another engine begins",
                execution.name,
                recovery::notice::utc(execution.started_at)
            ))),
        },
        Err(why) => Ok(Some(format!("Step Functions could not be asked whether it runs the same machine ({why})"))),
    }
}

/// Takes the lease before a run begins, if the bucket answers; it is taken later if it does not.
async fn claim_for_a_start(store: &dyn ObjectStore, ours: &Head, gone: Option<&str>) -> Result<bool, Problem> {
    let key = copy::head_key(&ours.run);
    let answers = tokio::time::timeout(COURTESY, recovery::store::get_json::<Head>(store, &key)).await;
    if !matches!(answers, Ok(Ok(_))) {
        return Ok(false);
    }
    match tokio::time::timeout(CLAIM, copy::claim(store, ours, gone)).await {
        Ok(Ok(copy::Claim::Taken(_))) => Ok(true),
        Ok(Ok(copy::Claim::Held(head))) => Err(copy::held_elsewhere(&head)),
        _ => Ok(false),
    }
}

/// What the head of a run says before its first beat.
pub fn head(card: &RunCard, writer: &Writer) -> Head {
    Head {
        run: card.run.clone(),
        attempt: card.started_at,
        writer: writer.clone(),
        beat: 0,
        segments: 0,
        records: 0,
        records_there: 0,
        written_at: Timestamp::now(),
        card: card.clone(),
        question: None,
    }
}

/// Name of the file that says which process last wrote the copy from this folder.
pub const WRITER: &str = "writer.json";

/// The right to write the copy.
pub struct Lease {
    /// This process.
    pub writer: Writer,
    /// The process of this folder that wrote before and is gone.
    pub gone: Option<String>,
    /// Taken already: what the copy has, in objects and bytes.
    pub claimed: Option<(u64, u64)>,
}

/// A run that is held by this process.
pub struct Begun {
    /// Its folder.
    pub folder: RunFolder,
    /// The right to write into it.
    pub hold: Hold,
    /// What it is.
    pub card: RunCard,
    /// What people have done to it before.
    pub deeds: Vec<Intervention>,
    /// What started it.
    pub event: Value,
    /// The copy.
    pub lease: Lease,
    /// Something to say before the first step.
    pub aside: Option<String>,
}

/// What there is of a run.
pub enum Started {
    /// Nothing yet.
    Anew(Box<Execution>, FileJournal),
    /// Its journal.
    Before(Box<Journaled>),
}

/// A run as its journal has it.
pub struct Journaled {
    /// The records of the journal.
    pub records: Vec<Record>,
    /// Where they go on.
    pub journal: FileJournal,
    /// What is done before anything else, with who asked for it.
    pub first: Option<(Input, Option<Intervention>)>,
}

/// A journal whose copy follows it.
struct CopiedJournal {
    file: FileJournal,
    nudge: Arc<Notify>,
}

#[async_trait]
impl Journal for CopiedJournal {
    async fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.file.append(records).await?;
        self.nudge.notify_one();
        Ok(())
    }
}

/// The suite, as long as this machine holds the run: what another machine has taken over begins no further step here.
struct Gate<'a> {
    linked: Linked,
    copying: &'a Copying,
    inside: &'a AtomicUsize,
}

#[async_trait]
impl TaskHandler for Gate<'_> {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        self.copying.is_ours_after_sleep(AFTER_SLEEP).await;
        if self.copying.standing().taken_over_by.is_some() {
            std::future::pending::<()>().await;
        }
        self.inside.fetch_add(1, Ordering::SeqCst);
        let _leaving = Leaving(self.inside);
        self.linked.invoke(call).await
    }
}

/// Counts a call out also when it is dropped.
struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What to say of a journal that cannot be used.
pub fn of_journal(error: &JournalError) -> Problem {
    Problem::input(format!("{}; {}", recovery::fault::chain(error), error.remedy()))
}

/// What a run needs beside its event.
pub struct Means {
    /// The platform.
    pub plan: Arc<Plan>,
    /// The functions.
    pub suite: Arc<Suite>,
    /// The machine, filled in.
    pub machine: Arc<Machine>,
    /// Its definition as it was written.
    pub definition: String,
}

impl Means {
    /// Reads what the plan names and fills the machine in.
    ///
    /// # Errors
    /// Something cannot be used.
    pub async fn gather(
        settings: recovery_lambda::Settings,
        definition: &machines::Definition,
    ) -> Result<Means, Problem> {
        let plan = Arc::clone(&settings.plan);
        let suite = Suite::open(settings).await.map_err(|failure| Problem::input(failure.message))?;
        let not_a_machine = |problems: Vec<asl::Problem>| not_a_machine(&definition.name, &problems);
        let filled = asl::substitution::fill(&definition.text, &suite.substitutions()).map_err(not_a_machine)?;
        let machine = Machine::parse(&filled).map_err(not_a_machine)?;
        Ok(Means { plan, suite, machine: Arc::new(machine), definition: definition.text.clone() })
    }
}

/// Drives a run to its end, shows it and keeps it.
pub async fn drive(means: Means, begun: Begun, started: Started, json: bool) -> Result<ExitCode, Problem> {
    let Means { plan, suite, machine, definition } = means;
    let Begun { folder, hold, card, deeds, event, lease, aside } = begun;
    let evidence = suite.evidence();
    let aws = suite.aws().clone();
    let live = Live::new(&folder, card, deeds);
    live.save().and_then(|()| folder.write_json(WRITER, &lease.writer)).map_err(|error| unwritable(&folder, &error))?;
    recovery_lambda::log_to(folder.open_log().map_err(|error| unwritable(&folder, &error))?);
    if let Some(aside) = aside.filter(|_| !json) {
        aside!("{aside}");
    }
    // A run that is only ended here asks nothing of the platform.
    let only_ends =
        matches!(&started, Started::Before(before) if matches!(before.first, Some((Input::Stop { .. }, _))));
    if !only_ends {
        suite.warm().await;
    }
    let copying = Copying::start(copy::Work {
        store: Arc::clone(&evidence),
        folder: folder.clone(),
        journal: JOURNAL,
        card: Arc::clone(&live.card),
        writer: lease.writer,
        gone: lease.gone,
        claimed: lease.claimed,
    });
    let execution = match started {
        Started::Anew(execution, file) => execution.with_journal(CopiedJournal { file, nudge: copying.nudge() }),
        Started::Before(before) => {
            let Journaled { records, journal, first } = *before;
            let journal = CopiedJournal { file: journal, nudge: copying.nudge() };
            taken_up(&lock(&live.card).run.clone(), &machine, &records, journal, first)?
        }
    };
    let mut recorder = Recorder::new(
        &folder,
        hold,
        Arc::clone(&live),
        &machine,
        plan.failover.approvals,
        Progress::of(&machine, json),
    );
    let control = Control {
        handle: execution.handle(),
        folder: folder.clone(),
        live: Arc::clone(&live),
        definition,
        evidence: Arc::clone(&evidence),
        copy: copying.watch(),
        silent: json,
    };
    let signals = Signals::take()
        .map_err(|error| Problem::failed(format!("the system refuses to tell this process of signals: {error}")))?;
    let listening = tokio::spawn(control.listen(signals));
    let inside = AtomicUsize::new(0);
    let gate = Gate { linked: Linked(suite), copying: &copying, inside: &inside };
    let ended = tokio::select! {
        ended = execution.run(&gate, &SystemClock, &mut recorder) => Ok(ended),
        writer = taken_over_and_idle(&copying, &inside) => Err(writer),
    };
    listening.abort();
    recorder.end();
    let ended = match ended {
        Ok(ended) => {
            ended.map_err(|error| Problem::failed(format!("{}; {}", recovery::fault::chain(&error), error.remedy())))?
        }
        Err(writer) => {
            return Err(Problem::failed(format!(
                "{} has taken run `{}` over; this runner has stopped before its next step, look at `drctl status`",
                writer.in_words(),
                lock(&live.card).run
            )));
        }
    };
    folder.withdraw_approval_request();

    let status = match ended.status {
        ExecutionStatus::Succeeded => RunStatus::Succeeded,
        ExecutionStatus::TimedOut => RunStatus::TimedOut,
        ExecutionStatus::Aborted => RunStatus::Aborted,
        _ => RunStatus::Failed,
    };
    let asked = requests::asked(&folder);
    let aborts = asked.iter().filter(|request| request.intervention.deed == Deed::Abort);
    if status != RunStatus::Aborted {
        for request in aborts.clone() {
            live.forget(&request.intervention.id).map_err(|error| unwritable(&folder, &error))?;
        }
    }
    let record = recorder.record_at_the_end(&event, status, ended.cause.as_deref());
    {
        let mut card = lock(&live.card);
        (card.status, card.ended_at, card.paused) = (status, Some(Timestamp::now()), None);
    }
    let card = lock(&live.card).clone();
    let report = match machines::is_of_backups(&card.machine) {
        true => {
            let standings = standings(&aws, &plan).await;
            Report::Backups(Box::new(BackupReport::of(&plan, &record, standings, recorder.spans(), Timestamp::now())))
        }
        false => Report::Recovery(Box::new(RecoveryReport::of(&plan, &record, recorder.spans(), Timestamp::now()))),
    };
    keep_report(&folder, &card, &record, &report)?;
    for request in aborts {
        let said = match status {
            RunStatus::Aborted => state_of_the_world(&plan, &record),
            _ => "it had come to its end by itself; look at its report".to_owned(),
        };
        requests::reply(&folder, &request.intervention.id, &Reply { done: status == RunStatus::Aborted, said });
    }
    let copy = copying.finish(LAST_COPY).await;
    if json {
        tell!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        tell_the_end(&plan, &record, status, &report, &folder);
        if copy.copied < copy.records {
            tell!(
                "the copy in s3://{} lacks {} of {} records ({}); this folder has them all",
                copy.bucket,
                copy.records - copy.copied,
                copy.records,
                copy.trouble.as_deref().unwrap_or("the bucket is slow")
            );
        }
    }
    Ok(ExitCode::from(exit_code(&record, status)))
}

/// What a run claims, in the form of its kind.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// One that recovers the platform.
    Recovery(Box<RecoveryReport>),
    /// One that takes or proves backups.
    Backups(Box<BackupReport>),
}

/// How all backups stand, or why that is not known.
async fn standings(aws: &Aws, plan: &Plan) -> Result<Vec<Standing>, String> {
    let (list, evidence) = (aws.evidence_list(), aws.evidence());
    let catalogue = Catalogue { list: &*list, evidence: &*evidence };
    match tokio::time::timeout(CATALOGUE, catalogue.all_standings(plan, Timestamp::now())).await {
        Ok(standings) => standings.map_err(|error| recovery::fault::chain(&error)),
        Err(_) => Err(format!("s3://{} did not answer within {} s", plan.buckets.evidence, CATALOGUE.as_secs())),
    }
}

/// Replays a journal, and begins with what somebody asks for.
fn taken_up(
    run: &str,
    machine: &Arc<Machine>,
    records: &[Record],
    journal: impl Journal + 'static,
    first: Option<(Input, Option<Intervention>)>,
) -> Result<Execution, Problem> {
    // The observer begins anew, so it is shown everything that has happened.
    let execution = Execution::resume(Arc::clone(machine), records, journal, 0)
        .map_err(|error| Problem::input(format!("run `{run}`: {error}; {}", error.remedy())))?;
    match first {
        None => Ok(execution),
        Some((input, by)) => execution
            .beginning_with(input, by.as_ref().map(control::note))
            .map_err(|refusal| Problem::input(format!("run `{run}`: {refusal}; see `drctl status {run}`"))),
    }
}

/// Whether a journal can be taken up by this program with this machine, before anything is claimed.
///
/// # Errors
/// It cannot, with a line that says why.
pub fn check_journal(
    run: &str,
    machine: &Arc<Machine>,
    records: &[Record],
    first: Option<&Input>,
) -> Result<(), Problem> {
    taken_up(run, machine, records, Vec::new(), first.map(|input| (input.clone(), None))).map(drop)
}

/// Another machine has the run; what was begun here is let finish, but not for ever.
async fn taken_over_and_idle(copying: &Copying, inside: &AtomicUsize) -> Writer {
    let writer = copying.taken_over().await;
    let idle = async {
        while inside.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = tokio::time::timeout(LET_FINISH, idle).await;
    writer
}

/// Keeps a report in the run's folder in all its forms.
///
/// # Errors
/// The folder cannot be written, or a template does not fit.
pub fn keep_report(folder: &RunFolder, card: &RunCard, record: &Run, report: &Report) -> Result<(), Problem> {
    let rendered = match report {
        Report::Recovery(report) => to_markdown(report).and_then(|markdown| Ok((markdown, to_html(report)?))),
        Report::Backups(report) => {
            backups_to_markdown(report).and_then(|markdown| Ok((markdown, backups_to_html(report)?)))
        }
    };
    let (markdown, html) =
        rendered.map_err(|error| Problem::failed(format!("the report cannot be rendered: {error}")))?;
    folder
        .write_json("run.json", card)
        .and_then(|()| folder.write_json("record.json", record))
        .and_then(|()| folder.write_json("report.json", report))
        .and_then(|()| folder.write("report.md", markdown.as_bytes()))
        .and_then(|()| folder.write("report.html", html.as_bytes()))
        .map_err(|error| unwritable(folder, &error))
}

/// What to say when the run's folder cannot be written.
pub fn unwritable(folder: &RunFolder, error: &std::io::Error) -> Problem {
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
pub fn seed(name: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (name, Timestamp::now().as_nanosecond(), std::process::id()).hash(&mut hasher);
    hasher.finish()
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

fn tell_the_end(plan: &Plan, record: &Run, status: RunStatus, report: &Report, folder: &RunFolder) {
    tell!();
    if status == RunStatus::Aborted {
        tell!("ended by a person. {}", state_of_the_world(plan, record));
    }
    let (sentence, next) = match report {
        Report::Recovery(report) => (&report.sentence, &[][..]),
        Report::Backups(report) => (&report.sentence, report.next.as_slice()),
    };
    tell!("{sentence}");
    for step in next {
        tell!("  {step}");
    }
    if let Some(failure) = &record.failure {
        tell!("{}: {}", failure.state, failure.message());
    }
    tell!("report: {}", folder.path().join("report.html").display());
}

/// Where a run that a person ended leaves the platform, and how to go on.
pub fn state_of_the_world(plan: &Plan, record: &Run) -> String {
    let again = format!("`drctl redrive {}` goes on from here", record.id);
    let fence = record.fence.as_ref().map(|fence| fence.epoch);
    let standby = &plan.postgresql.standby.instance;
    match (&record.promotion, fence, &record.plan) {
        (Some(promotion), _, _) => format!("`{}` is the primary and must stay it; {again}.", promotion.server),
        (None, Some(epoch), _) => format!(
            "`{}` is fenced under epoch {epoch} and takes no writes, `{standby}` may have been asked to take over; {again}.",
            plan.postgresql.primary.instance
        ),
        (None, None, Some(_)) => {
            format!(
                "the database may be fenced (see the fence object, state {:?} or none) and `{standby}` was not asked to take over; {again}.",
                FenceState::Held
            )
        }
        (None, None, None) => "Nothing has changed.".to_owned(),
    }
}
