//! `drctl status`: where runs stand, whose view that is, and how old.

use std::time::Duration;

use jiff::Timestamp;
use recovery::{
    approval::{self, PendingApproval},
    failover::seconds_between,
    fault::chain,
    fence::{self, FenceRecord},
    notice::utc,
    objective::human_seconds,
    plan::Plan,
    run::{ApprovalGiven, Run, RunFailure},
    store::{ObjectStore, StoreError, get_json},
};
use recovery_aws::{Aws, step_functions::Which};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    cli::StatusArgs,
    copy::{self, Head, Standing},
    deeds, machines,
    on_aws::{self, View},
    paint::{Paint, Table},
    plan::pretty,
    problem::{Problem, exit},
    run_folder::{RunCard, RunFolder, RunStatus},
    runs,
};

/// Longest wait for the evidence bucket.
const PATIENCE: Duration = Duration::from_secs(5);

/// What others than this machine say of a run, each with its reason if it says nothing.
struct Others {
    fence: Result<Option<FenceRecord>, String>,
    copy: Result<Option<Head>, String>,
    question: Result<Option<PendingApproval>, String>,
    aws: Result<Option<View>, String>,
}

/// Says where runs stand.
pub async fn status(args: StatusArgs) -> Result<u8, Problem> {
    let folder = runs::folder(args.runs.runs_dir.as_deref());
    let Some(name) = &args.run else { return list(&folder, &args).await };
    let now = Timestamp::now();
    let local = runs::find(&folder, name)?;
    let others = if args.local { None } else { Some(ask_others(&args, name).await) };
    if local.is_none() && !others.as_ref().is_some_and(|others| others.know(name)) {
        let elsewhere = others.as_ref().map_or_else(String::new, Others::say_nothing);
        return Err(runs::unknown(&folder, name, &elsewhere));
    }
    if args.json {
        let view = local.as_ref().map(|run| {
            json!({
                "card": run.card().ok(),
                "worked_on": runs::is_worked_on(run),
                "record": run.record().ok(),
                "waits_for_approval": run.approval_request().ok(),
                "interventions": deeds::of(run),
                "copy": run.read::<Standing>("copy.json").ok(),
                "written_at": runs::written_at(run, "run.json"),
            })
        });
        let others = others.as_ref().map(|others| others.as_json(now)).unwrap_or_default();
        tell!("{}", pretty(&json!({"run": name, "this_machine": view, "others": others}))?);
        return Ok(exit::DONE);
    }
    let paint = Paint::stdout();
    if let Some(run) = &local {
        show!("{}", in_words(run, now, paint));
    }
    if let Some(others) = others {
        others.tell(name, local.is_some(), now, paint);
    }
    Ok(exit::DONE)
}

/// Asks the evidence bucket and Step Functions at the same time, for as long as a person may wait.
async fn ask_others(args: &StatusArgs, name: &str) -> Others {
    let plan = match Plan::read(&args.plan.plan) {
        Ok(plan) => plan,
        Err(error) => {
            let why = error.to_string();
            return Others {
                fence: Err(why.clone()),
                copy: Err(why.clone()),
                question: Err(why.clone()),
                aws: Err(why),
            };
        }
    };
    let evidence = Aws::from_plan(&plan).await.evidence();
    let bucket = async {
        let store = evidence.as_ref();
        tokio::join!(
            in_time(&plan, fence::read(store, &plan.platform)),
            in_time(&plan, get::<Head>(store, copy::head_key(name))),
            in_time(&plan, get::<PendingApproval>(store, approval::key(name))),
        )
    };
    let ((fence, copy, question), aws) = tokio::join!(bucket, on_aws::view(&plan, name));
    Others { fence, copy, question, aws }
}

async fn get<T: DeserializeOwned>(store: &dyn ObjectStore, key: String) -> Result<Option<T>, StoreError> {
    Ok(get_json(store, &key).await?.map(|(value, _)| value))
}

async fn in_time<T>(plan: &Plan, look: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("s3://{} did not answer within {} s", plan.buckets.evidence, PATIENCE.as_secs())),
    }
}

impl Others {
    fn know(&self, name: &str) -> bool {
        matches!(&self.fence, Ok(Some(record)) if record.run == name)
            || matches!(&self.copy, Ok(Some(_)))
            || matches!(&self.aws, Ok(Some(_)))
    }

    /// Why none of them knows the run.
    fn say_nothing(&self) -> String {
        let mut parts = Vec::new();
        parts.push(match &self.fence {
            Ok(_) => "the fence is not its".to_owned(),
            Err(why) => format!("the fence cannot be read ({why})"),
        });
        parts.push(match &self.aws {
            Ok(_) => "Step Functions has no such execution".to_owned(),
            Err(why) => format!("Step Functions cannot be asked ({why})"),
        });
        format!(", {}", parts.join(", and "))
    }

    fn as_json(&self, now: Timestamp) -> Value {
        let of = |read: &Result<Value, String>| match read {
            Ok(value) => json!({"value": value, "read_at": now}),
            Err(why) => json!({"unknown": why}),
        };
        let aws = self.aws.as_ref().map(|view| view.as_ref().map(view_as_json)).map_err(Clone::clone);
        json!({
            "fence": of(&self.fence.as_ref().map(|fence| json!(fence)).map_err(Clone::clone)),
            "copy": of(&self.copy.as_ref().map(|head| json!(head)).map_err(Clone::clone)),
            // The token is what an answer is given with; whoever may read it reads it in the bucket.
            "question": of(&self.question.as_ref().map(|question| json!(question.as_ref().map(|question| json!({
                "asked_at": question.asked_at, "needed": question.needed,
                "confirmed": question.confirmed, "refused": question.refused,
            })))).map_err(Clone::clone)),
            "step_functions": of(&aws.map(|view| json!(view))),
        })
    }

    fn tell(&self, name: &str, is_here: bool, now: Timestamp, paint: Paint) {
        match &self.copy {
            Ok(Some(head)) if !is_here => show!("{}", head_in_words(head, now, paint)),
            _ => {}
        }
        match &self.aws {
            Ok(Some(view)) => {
                if is_here {
                    tell!();
                }
                show!("{}", view_in_words(view, now, paint));
            }
            Ok(None) => {}
            Err(why) => tell!("\nStep Functions cannot be asked: {why}."),
        }
        if let Ok(Some(question)) = &self.question
            && let approval::Decision::Open { missing } = question.decision()
        {
            tell!("\n{}", question_in_words(question.needed, &question.confirmed, missing));
        }
        match &self.fence {
            Ok(None) => tell!("\nThe fence object, read just now, says: no run has ever taken it."),
            Ok(Some(record)) => tell!("\nThe fence object, read just now, says: {}.", fence_words(record)),
            Err(why) => tell!("\nThe fence object cannot be read: {why}."),
        }
        if let (Ok(Some(head)), false) = (&self.copy, is_here)
            && !head.has_ended()
        {
            tell!("{}", paint.bold(&format!("Next: look at that machine; if it is gone, drctl resume {name}")));
        }
    }
}

fn question_in_words(needed: u8, confirmed: &[ApprovalGiven], missing: usize) -> String {
    let who: String = confirmed.iter().map(|given| format!("; confirmed by {}: {}", given.by, given.because)).collect();
    format!("The question of the point of no return was asked of {needed}, {missing} must still confirm{who}.")
}

/// How a run stands, as its runner on another machine last wrote it.
fn head_standing(head: &Head) -> String {
    match (head.card.status, &head.card.paused) {
        (RunStatus::Running, Some(by)) => format!("paused by {} ({})", by.by, by.because),
        (RunStatus::Running, None) => format!("running{}", in_state(&head.card)),
        (status, _) => ended(status, &head.card),
    }
}

/// A run as its runner on another machine last wrote it.
fn head_in_words(head: &Head, now: Timestamp, paint: Paint) -> String {
    let standing = head_standing(head);
    let mut text = format!("{}  {standing}\n", paint.bold(&head.run));
    let mut table = Table::default();
    table.row(["machine".to_owned(), head.card.machine.clone()]);
    table.row(["started".to_owned(), format!("{}, {}", utc(head.attempt), age(head.attempt, now))]);
    let whose = head.writer.in_words();
    table
        .row(["view".to_owned(), format!("{whose} wrote this into the evidence bucket {}", age(head.written_at, now))]);
    let copied = match head.records_there.saturating_sub(head.records) {
        0 => format!("all {} records", head.records),
        behind => format!("{} of {} records, {behind} behind", head.records, head.records_there),
    };
    table.row(["copy".to_owned(), copied]);
    text.push_str(&table.lines(|_, column, cell| if column == 0 { paint.dim(cell) } else { cell.to_owned() }));
    text
}

/// A run as Step Functions shows it.
fn view_in_words(view: &View, now: Timestamp, paint: Paint) -> String {
    let execution = &view.execution;
    let standing = match (execution.status.as_str(), view.states.last()) {
        ("RUNNING", Some(state)) => format!("running in {state}"),
        ("FAILED", _) => match &view.failed_in {
            Some(state) => format!("ended in {state}"),
            None => "failed".to_owned(),
        },
        (status, _) => status.to_lowercase().replace('_', " "),
    };
    let mut text = format!("{}  {standing} on Step Functions\n", paint.bold(&execution.name));
    let mut table = Table::default();
    table.row(["machine".to_owned(), view.machine.clone()]);
    table.row(["started".to_owned(), format!("{}, {}", utc(execution.started_at), age(execution.started_at, now))]);
    if let Some(at) = execution.stopped_at {
        table.row(["ended".to_owned(), utc(at)]);
    }
    if let (Some(error), cause) = (&execution.error, &execution.cause) {
        let failure =
            RunFailure { state: String::new(), error: error.clone(), cause: cause.clone().unwrap_or_default() };
        table.row(["error".to_owned(), format!("{error}: {}", failure.message())]);
    }
    if execution.redrives > 0 {
        table.row(["redriven".to_owned(), format!("{} times", execution.redrives)]);
    }
    let last = view
        .last
        .as_ref()
        .map_or_else(String::new, |(kind, at)| format!("; its last event, {kind}, came {}", age(*at, now)));
    table.row(["view".to_owned(), format!("AWS said this {}{last}", age(view.asked_at, now))]);
    text.push_str(&table.lines(|_, column, cell| if column == 0 { paint.dim(cell) } else { cell.to_owned() }));
    text.push('\n');
    match &view.record {
        Some(record) => world(record).iter().for_each(|line| text.push_str(&format!("{line}\n"))),
        None => text.push_str("Nothing is recorded of it yet.\n"),
    }
    let name = &execution.name;
    let next = match execution.status.as_str() {
        "RUNNING" => format!("Next: wait; drctl abort {name} ends it"),
        "SUCCEEDED" => format!("Next: drctl report {name}"),
        _ if view.failed_in.is_some() => {
            format!("Next: drctl report {name}; start a new execution to go on, every step looks before it acts")
        }
        _ => match &execution.not_redrivable {
            None => format!("Next: drctl redrive {name} --by NAME --because WHY"),
            Some(why) => format!("Next: start a new execution; this one is not redriven: {why}"),
        },
    };
    text.push_str(&format!("{}\n", paint.bold(&next)));
    text
}

fn view_as_json(view: &View) -> Value {
    let execution = &view.execution;
    json!({
        "arn": execution.arn, "machine": view.machine, "status": execution.status,
        "started_at": execution.started_at, "stopped_at": execution.stopped_at,
        "error": execution.error, "cause": execution.cause,
        "redrives": execution.redrives, "not_redrivable": execution.not_redrivable,
        "states": view.states, "failed_in": view.failed_in, "record": view.record,
        "last_event": view.last.as_ref().map(|(kind, at)| json!({"type": kind, "at": at})),
        "asked_at": view.asked_at,
    })
}

fn fence_words(record: &FenceRecord) -> String {
    format!(
        "run `{}` has it under epoch {}, {:?} since {}, from {} to {}",
        record.run,
        record.epoch,
        record.state,
        utc(record.written_at),
        record.from,
        record.to
    )
}

/// The most runs whose copies are read; a bucket is not asked for years of them.
const MOST_COPIES: usize = 100;

/// The runs that have a copy in the evidence bucket and are not here, the newest first.
async fn only_in_the_bucket(plan: &Plan, here: &[String]) -> Result<Vec<Head>, String> {
    let aws = Aws::from_plan(plan).await;
    let (list, evidence) = (aws.evidence_list(), aws.evidence());
    let look = async {
        let (mut names, mut next) = (Vec::new(), None);
        loop {
            let page = list.list(copy::RUNS_PREFIX, Some('/'), next.as_deref()).await?;
            let name = |folder: &String| folder.strip_prefix(copy::RUNS_PREFIX)?.strip_suffix('/').map(str::to_owned);
            names.extend(page.folders.iter().filter_map(name).filter(|name| !here.contains(name)));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        // Names end in a date where they come from events, so the last ones are the newest as a rule.
        let mut reading = tokio::task::JoinSet::new();
        for name in names.into_iter().rev().take(MOST_COPIES) {
            let evidence = std::sync::Arc::clone(&evidence);
            reading.spawn(async move { get::<Head>(&*evidence, copy::head_key(&name)).await });
        }
        let mut heads = Vec::new();
        while let Some(Ok(read)) = reading.join_next().await {
            heads.extend(read?);
        }
        heads.sort_by_key(|head| std::cmp::Reverse(head.attempt));
        Ok(heads)
    };
    in_time(plan, look).await
}

async fn list(folder: &std::path::Path, args: &StatusArgs) -> Result<u8, Problem> {
    let all = runs::all(folder);
    let names: Vec<String> = all.iter().map(|(card, _)| card.run.clone()).collect();
    let (on_aws, in_bucket) = if args.local {
        (None, None)
    } else {
        match Plan::read(&args.plan.plan) {
            Ok(plan) => {
                let machines = machines::names();
                let executions = on_aws::executions(&plan, &machines, Which::Newest, PATIENCE);
                let (on_aws, in_bucket) = tokio::join!(executions, only_in_the_bucket(&plan, &names));
                (Some(on_aws), Some(in_bucket))
            }
            Err(error) => (Some(Err(error.to_string())), Some(Err(error.to_string()))),
        }
    };
    if args.json {
        let here: Vec<_> = all
            .iter()
            .map(|(card, run)| {
                json!({"card": card, "worked_on": runs::is_worked_on(run), "waits_for_approval": run.approval_request().is_ok()})
            })
            .collect();
        let there = on_aws.as_ref().map(|listed| match listed {
            Ok(listed) => json!(
                listed
                    .iter()
                    .map(|(machine, run)| json!({
                        "run": run.name, "machine": machine, "status": run.status, "arn": run.arn,
                        "started_at": run.started_at, "stopped_at": run.stopped_at,
                    }))
                    .collect::<Vec<_>>()
            ),
            Err(why) => json!({"unknown": why}),
        });
        let copies = in_bucket.as_ref().map(|listed| match listed {
            Ok(heads) => json!(heads),
            Err(why) => json!({"unknown": why}),
        });
        tell!("{}", pretty(&json!({"this_machine": here, "evidence_bucket": copies, "step_functions": there}))?);
        return Ok(exit::DONE);
    }
    let (paint, mut table, now) = (Paint::stdout(), Table::default(), Timestamp::now());
    for (card, run) in &all {
        table.row([card.run.clone(), standing(run, card), card.machine.clone(), age(card.started_at, now)]);
    }
    for head in in_bucket.iter().flatten().flatten() {
        let standing = format!("{}, by {}", head_standing(head), head.writer.in_words());
        table.row([head.run.clone(), standing, head.card.machine.clone(), age(head.attempt, now)]);
    }
    for (machine, run) in on_aws.iter().flatten().flatten() {
        let standing = format!("{} on Step Functions", run.status.to_lowercase().replace('_', " "));
        table.row([run.name.clone(), standing, machine.clone(), age(run.started_at, now)]);
    }
    show!(
        "{}",
        table.lines(|_, column, cell| match column {
            0 => paint.bold(cell),
            3 => paint.dim(cell),
            _ => cell.to_owned(),
        })
    );
    if all.is_empty() {
        tell!("no run has been started from this machine ({})", folder.display());
    }
    if let Some(Err(why)) = in_bucket {
        tell!("the evidence bucket cannot be asked for runs of other machines: {why}");
    }
    match on_aws {
        Some(Err(why)) => tell!("Step Functions cannot be asked: {why}"),
        Some(Ok(listed)) if listed.is_empty() => tell!("Step Functions has no execution of these machines"),
        _ => {}
    }
    Ok(exit::DONE)
}

fn age(at: Timestamp, now: Timestamp) -> String {
    // A moment that another clock sees as yet to come is now.
    let seconds = seconds_between(at, now).max(0.0);
    let rounded = if seconds < 60.0 { seconds.round() } else { (seconds / 60.0).round() * 60.0 };
    format!("{} ago", human_seconds(rounded))
}

/// A run whose runner is gone is not running, whatever its card says.
fn standing(run: &RunFolder, card: &RunCard) -> String {
    match (card.status, runs::is_worked_on(run), &card.paused) {
        (RunStatus::Running, true, Some(by)) => format!("paused by {}{}", by.by, in_state(card)),
        (RunStatus::Running, true, None) if run.approval_request().is_ok() => "waits for an approval".to_owned(),
        (RunStatus::Running, true, None) => format!("running{}", in_state(card)),
        (RunStatus::Running, false, _) => format!("its runner ended{}", in_state(card)),
        (status, ..) => ended(status, card),
    }
}

fn in_state(card: &RunCard) -> String {
    card.state.as_ref().map_or_else(String::new, |state| format!(" in {state}"))
}

fn ended(status: RunStatus, card: &RunCard) -> String {
    match status {
        RunStatus::Running => format!("running{}", in_state(card)),
        RunStatus::Succeeded => "succeeded".to_owned(),
        RunStatus::Failed => "did not recover".to_owned(),
        RunStatus::TimedOut => format!("ran out of time{}", in_state(card)),
        RunStatus::Aborted => format!("ended by a person{}", in_state(card)),
    }
}

fn in_words(run: &RunFolder, now: Timestamp, paint: Paint) -> String {
    let Ok(state) = run.card() else {
        return format!("run.json cannot be read; look into {}\n", run.path().display());
    };
    let written = runs::written_at(run, "run.json").unwrap_or(state.started_at);
    let mut text = format!("{}  {}\n", paint.bold(&state.run), standing(run, &state));
    let mut table = Table::default();
    table.row(["machine".to_owned(), state.machine.clone()]);
    table.row(["event".to_owned(), state.event.display().to_string()]);
    table.row(["plan".to_owned(), state.plan.display().to_string()]);
    table.row(["started".to_owned(), format!("{}, {}", utc(state.started_at), age(state.started_at, now))]);
    if let Some(ended) = state.ended_at {
        table.row(["ended".to_owned(), utc(ended)]);
    }
    table.row(["view".to_owned(), format!("drctl on this machine wrote this {}", age(written, now))]);
    if let Ok(copy) = run.read::<Standing>("copy.json") {
        table.row(["copy".to_owned(), copy_in_words(&copy, now)]);
    }
    if let Some(by) = &state.paused {
        table.row(["paused".to_owned(), format!("{} by {}: {}", age(by.at, now), by.by, by.because)]);
    }
    text.push_str(&table.lines(|_, column, cell| if column == 0 { paint.dim(cell) } else { cell.to_owned() }));
    text.push('\n');
    match run.record() {
        Ok(record) => {
            for line in world(&record) {
                text.push_str(&format!("{line}\n"));
            }
        }
        Err(_) => text.push_str("Nothing is recorded of it yet.\n"),
    }
    for done in deeds::of(run) {
        text.push_str(&format!(
            "By hand at {}: {} {}: {}\n",
            utc(done.at),
            done.by,
            done.deed.in_words(),
            done.because
        ));
    }
    if let Ok(question) = run.approval_request() {
        let confirmed = run.confirmations(&question.task_token);
        let missing = usize::from(question.needed).saturating_sub(confirmed.len());
        text.push_str(&format!("{}\n", question_in_words(question.needed, &confirmed, missing)));
    }
    text.push_str(&format!("{}\n", paint.bold(&next(run, &state))));
    text
}

/// How far the copy in the bucket is.
fn copy_in_words(copy: &Standing, now: Timestamp) -> String {
    let place = format!("s3://{}", copy.bucket);
    match (&copy.taken_over_by, copy.records.saturating_sub(copy.copied)) {
        (Some(writer), _) => format!("{} has taken the run over", writer.in_words()),
        (None, 0) if copy.trouble.is_none() => format!("all {} records in {place}", copy.records),
        (None, behind) => format!(
            "{place} is {behind} of {} records behind{}{}",
            copy.records,
            copy.behind_since.map_or_else(String::new, |at| format!(" since {}", age(at, now))),
            copy.trouble.as_ref().map_or_else(String::new, |why| format!(": {why}"))
        ),
    }
}

/// What state the world is in, as far as a run's record says.
pub fn world(record: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |what: &str, at: Option<Timestamp>, seen: String| {
        lines.push(format!("{what}{}: {seen}", at.map_or_else(String::new, |at| format!(" at {}", utc(at)))));
    };
    let lifted = record.reversal.as_ref().and_then(|reversal| reversal.fence.as_ref());
    match (&record.fence, lifted) {
        (_, Some(lifted)) => say(
            "Fence lifted",
            Some(lifted.observed_at),
            if lifted.left.is_empty() { "nothing is left to do".to_owned() } else { lifted.left.join("; ") },
        ),
        (Some(fence), None) => {
            say("Fenced", Some(fence.observed_at), format!("the old primary is {}", fence_state(fence.outcome)))
        }
        (None, None) => {
            say("Not fenced", None, "the old primary was not closed by this run, as far as its record says".to_owned())
        }
    }
    match &record.promotion {
        Some(promotion) => say(
            "Promoted",
            Some(promotion.writable_at),
            format!("`{}` is the primary on timeline {}; nothing turns back", promotion.server, promotion.timeline),
        ),
        None => {
            say("Not promoted", None, "the standby was not promoted by this run, as far as its record says".to_owned())
        }
    }
    if let Some(health) = &record.health {
        let healthy = health.answers.iter().filter(|answer| answer.answer.is_healthy()).count();
        say("Services", Some(health.observed_at), format!("{healthy} of {} answered", health.answers.len()));
    }
    match (&record.names, &record.reached) {
        (_, Some(reached)) => say("Reached", Some(reached.answer.observed_at), format!("{} answers", reached.url)),
        (Some(names), None) => {
            say("Names", Some(names.at), format!("{} is thrown, not yet seen from outside", names.switch))
        }
        (None, None) => {}
    }
    if let Some(failure) = &record.failure {
        say("Failed", None, format!("{}: {}", failure.state, failure.message()));
    }
    lines
}

fn fence_state(outcome: recovery::run::FenceOutcome) -> &'static str {
    use recovery::run::FenceOutcome;
    match outcome {
        FenceOutcome::Closed => "closed, proven by a refused write",
        FenceOutcome::Unreachable => "out of reach, nothing is proven about it",
        FenceOutcome::StillWritable => "STILL WRITABLE, by consent",
    }
}

fn next(run: &RunFolder, card: &RunCard) -> String {
    let name = &card.run;
    match (card.status, runs::is_worked_on(run)) {
        (RunStatus::Running, true) if card.paused.is_some() => {
            format!("Next: drctl continue {name} --by NAME --because WHY, or drctl abort {name} …")
        }
        (RunStatus::Running, true) if run.approval_request().is_ok() => {
            format!(
                "Next: drctl approve {name} --by NAME --because WHY, or drctl reject {name} --by NAME --because WHY"
            )
        }
        (RunStatus::Running, true) => "Next: wait; the runner is at work".to_owned(),
        (RunStatus::Running, false) => format!("Next: drctl resume {name}, or drctl abort {name} …"),
        (RunStatus::Aborted | RunStatus::TimedOut, _) => {
            format!("Next: drctl redrive {name} --by NAME --because WHY goes on from there; drctl report {name}")
        }
        (RunStatus::Failed, _) => format!(
            "Next: drctl report {name}; repaired, drctl retry {name} --by NAME --because WHY goes on from the state that failed"
        ),
        (RunStatus::Succeeded, _) => format!("Next: drctl report {name}"),
    }
}
