//! `drctl status`: where runs stand, whose view that is, and how old.

use std::time::Duration;

use jiff::Timestamp;
use recovery::{
    failover::seconds_between,
    fault::chain,
    fence::{self, FenceRecord},
    notice::utc,
    objective::human_seconds,
    plan::Plan,
    run::Run,
};
use recovery_aws::Aws;
use serde_json::json;

use crate::{
    cli::StatusArgs,
    paint::{Paint, Table},
    plan::pretty,
    problem::{Problem, exit},
    run_folder::{RunCard, RunFolder, RunStatus},
    runs,
};

/// Longest wait for the evidence bucket.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says where runs stand.
pub async fn status(args: StatusArgs) -> Result<u8, Problem> {
    let folder = runs::folder(args.runs.runs_dir.as_deref());
    let Some(name) = &args.run else { return list(&folder, args.json) };
    let now = Timestamp::now();
    let local = runs::find(&folder, name)?;
    let fence = if args.local { None } else { Some(look_at_fence(&args).await) };
    let held = match &fence {
        Some(Ok(Some(record))) if record.run == *name => Some(record),
        _ => None,
    };
    if local.is_none() && held.is_none() {
        let elsewhere = match &fence {
            Some(Ok(_)) => ", and the fence is not its".to_owned(),
            Some(Err(why)) => format!(", and the fence cannot be read ({why})"),
            None => String::new(),
        };
        return Err(runs::unknown(&folder, name, &elsewhere));
    }
    if args.json {
        let view = local.as_ref().map(|run| {
            json!({
                "card": run.card().ok(),
                "worked_on": runs::is_worked_on(run),
                "record": run.record().ok(),
                "waits_for_approval": run.approval_request().ok(),
                "written_at": runs::written_at(run, "run.json"),
            })
        });
        let fence = match &fence {
            None => json!(null),
            Some(Ok(record)) => json!({"record": record, "read_at": now}),
            Some(Err(why)) => json!({"unknown": why}),
        };
        println!("{}", pretty(&json!({"run": name, "this_machine": view, "fence": fence}))?);
        return Ok(exit::DONE);
    }
    let paint = Paint::stdout();
    if let Some(run) = &local {
        print!("{}", in_words(run, now, paint));
    }
    match fence {
        None => {}
        Some(Ok(None)) => println!("\nThe fence object, read just now, says: no run has ever taken it."),
        Some(Ok(Some(record))) => println!("\nThe fence object, read just now, says: {}.", fence_words(&record)),
        Some(Err(why)) => println!("\nThe fence object cannot be read: {why}."),
    }
    Ok(exit::DONE)
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

async fn look_at_fence(args: &StatusArgs) -> Result<Option<FenceRecord>, String> {
    let plan = Plan::read(&args.plan.plan).map_err(|error| error.to_string())?;
    let look = async {
        let evidence = Aws::from_plan(&plan).await.evidence();
        fence::read(evidence.as_ref(), &plan.platform).await.map_err(|error| chain(&error))
    };
    let late = |_| format!("s3://{} did not answer within 5 s", plan.buckets.evidence);
    tokio::time::timeout(PATIENCE, look).await.map_err(late)?
}

fn list(folder: &std::path::Path, json: bool) -> Result<u8, Problem> {
    let all = runs::all(folder);
    if json {
        let states: Vec<_> = all
            .iter()
            .map(|(card, run)| {
                json!({"card": card, "worked_on": runs::is_worked_on(run), "waits_for_approval": run.approval_request().is_ok()})
            })
            .collect();
        println!("{}", pretty(&states)?);
        return Ok(exit::DONE);
    }
    if all.is_empty() {
        println!("no run has been started from this machine ({})", folder.display());
        return Ok(exit::DONE);
    }
    let (paint, mut table, now) = (Paint::stdout(), Table::default(), Timestamp::now());
    for (card, run) in &all {
        table.row([card.run.clone(), standing(run, card), card.machine.clone(), age(card.started_at, now)]);
    }
    print!(
        "{}",
        table.lines(|_, column, cell| match column {
            0 => paint.bold(cell),
            3 => paint.dim(cell),
            _ => cell.to_owned(),
        })
    );
    Ok(exit::DONE)
}

fn age(at: Timestamp, now: Timestamp) -> String {
    let seconds = seconds_between(at, now);
    let rounded = if seconds < 60.0 { seconds.round() } else { (seconds / 60.0).round() * 60.0 };
    format!("{} ago", human_seconds(rounded.max(0.0)))
}

/// A run whose runner is gone is not running, whatever its card says.
fn standing(run: &RunFolder, card: &RunCard) -> String {
    let state = card.state.as_ref().map_or_else(String::new, |state| format!(" in {state}"));
    match (card.status, runs::is_worked_on(run), run.approval_request().is_ok()) {
        (RunStatus::Running, true, true) => "waits for an approval".to_owned(),
        (RunStatus::Running, true, false) => format!("running{state}"),
        (RunStatus::Running, false, _) => format!("its runner ended{state}"),
        (RunStatus::Succeeded, ..) => "succeeded".to_owned(),
        (RunStatus::Failed, ..) => "did not recover".to_owned(),
        (RunStatus::TimedOut, ..) => format!("ran out of time{state}"),
        (RunStatus::Aborted, ..) => format!("interrupted{state}"),
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
    text.push_str(&format!("{}\n", paint.bold(&next(run, &state))));
    text
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
    let again = format!(
        "drctl run {} --event {} --plan {} --name {}",
        card.machine,
        card.event.display(),
        card.plan.display(),
        card.run
    );
    match (card.status, runs::is_worked_on(run), run.approval_request().is_ok()) {
        (RunStatus::Running, true, true) => format!(
            "Next: drctl approve {0} --by NAME --because WHY, or drctl reject {0} --by NAME --because WHY",
            card.run
        ),
        (RunStatus::Running, true, false) => "Next: wait; the runner is at work".to_owned(),
        (RunStatus::Running, false, _) | (RunStatus::Aborted | RunStatus::TimedOut, ..) => format!("Next: {again}"),
        (RunStatus::Succeeded | RunStatus::Failed, ..) => format!("Next: drctl report {}", card.run),
    }
}
