//! `drctl pause`, `continue`, `abort`, `retry`, `skip` and `redrive`: what a person does to a run, from any process.
//!
//! A run with a runner on this machine is asked through its folder. One that has ended, or whose runner is gone, is taken
//! up from its journal. One on Step Functions is reached through the API, which knows an abort and a redrive and nothing
//! else. Who, when and why is kept before it is done.

use std::{path::Path, process::ExitCode, time::Duration};

use asl::Input;
use jiff::Timestamp;
use recovery::{
    fault::chain,
    intervention::{Deed, Intervention},
    plan::Plan,
};
use recovery_aws::{Aws, step_functions::Redriven};
use serde_json::{Value, json};

use crate::{
    cli::{AbortArgs, ContinueArgs, PauseArgs, RedriveArgs, RetryArgs, SkipArgs, Target},
    copy::{self, Head},
    deeds, machines, on_aws,
    plan::pretty,
    problem::{Problem, exit},
    requests::{self, Request},
    run::state_of_the_world,
    run_folder::{RunCard, RunFolder, RunStatus},
    runs, steps,
    take_up::{Beginning, ResumeArgs, take_up},
};

/// Longest wait for a runner's word.
const REPLY: Duration = Duration::from_secs(10);
/// Longest wait for a runner that lets a step finish before it ends.
const END: Duration = Duration::from_secs(120);
/// Longest wait for AWS.
const PATIENCE: Duration = Duration::from_secs(20);

/// Begins no further step.
pub async fn pause(args: PauseArgs) -> Result<ExitCode, Problem> {
    let deed = args.target.deed(Deed::Pause)?;
    match found(&args.target).await? {
        Found::AtWork(folder, _) => ask(&args.target, &folder, deed, None, REPLY).await,
        other => Err(other.not_at_work(&args.target.run)),
    }
}

/// Lets a paused run go on.
pub async fn go_on(args: ContinueArgs) -> Result<ExitCode, Problem> {
    let deed = args.target.deed(Deed::Continue)?;
    match found(&args.target).await? {
        Found::AtWork(folder, card) => {
            if card.paused.is_none() {
                return Err(Problem::input(format!(
                    "run `{0}` is not paused; see `drctl status {0}`",
                    args.target.run
                )));
            }
            ask(&args.target, &folder, deed, None, REPLY).await
        }
        other => Err(other.not_at_work(&args.target.run)),
    }
}

/// Ends a run where it stands. Nothing is put back, and nothing that was done is undone.
pub async fn abort(args: AbortArgs) -> Result<ExitCode, Problem> {
    let deed = args.target.deed(Deed::Abort)?;
    match found(&args.target).await? {
        Found::AtWork(folder, _) => ask(&args.target, &folder, deed, None, END).await,
        Found::WithoutRunner => {
            let cause = format!("aborted by {}: {}", deed.by, deed.because);
            let input = Input::Stop { error: Some("Recovery.Aborted".to_owned()), cause: Some(cause) };
            take_up(resuming(&args.target), Some(Beginning { input, intervention: deed })).await
        }
        Found::OnAws(view) if view.execution.status == "RUNNING" => abort_on_aws(&args.target, &view, &deed).await,
        other => Err(other.not_at_work(&args.target.run)),
    }
}

/// Tries a state again that failed: now, if it waits for its next attempt; from where it was entered, if the run has ended.
pub async fn retry(args: RetryArgs) -> Result<ExitCode, Problem> {
    let run = &args.target.run;
    let deed = |state: &str| args.target.deed(Deed::Retry { state: state.to_owned() });
    match found(&args.target).await? {
        Found::AtWork(folder, _) => {
            ask(&args.target, &folder, deed(args.state.as_deref().unwrap_or_default())?, None, REPLY).await
        }
        Found::Ended(folder, card) => {
            let record = folder.record()?;
            if record.reversal.is_some() {
                return Err(Problem::input(format!(
                    "run `{run}` was put back, so what it had decided is stale; start it again with `drctl run {} --name {run} --event …`, it looks at the world anew",
                    card.machine
                )));
            }
            let failed = record.failure.as_ref().map(|failure| failure.state.clone());
            let state = args.state.clone().or(failed).ok_or_else(|| {
                Problem::input(format!(
                    "run `{run}` says of no state that it failed; name one, see `drctl report {run}`"
                ))
            })?;
            let input = Input::Retry { state: state.clone() };
            take_up(resuming(&args.target), Some(Beginning { input, intervention: deed(&state)? })).await
        }
        Found::OnAws(_) => Err(Problem::input(format!(
            "run `{run}` is Step Functions', which cannot go back to a state whose failure the machine has caught; `drctl redrive {run}` takes up one that was aborted or timed out, else start a new execution: every step looks before it acts"
        ))),
        other => Err(other.not_at_work(run)),
    }
}

/// Leaves a step out.
pub async fn skip(args: SkipArgs) -> Result<ExitCode, Problem> {
    let run = &args.target.run;
    let deed = args.target.deed(Deed::Skip { state: args.state.clone() })?;
    let said = match &args.output {
        None => None,
        Some(file) => Some(read(file)?),
    };
    let prepared = |card: &RunCard| -> Result<Value, Problem> {
        let step = steps::find(&machines::find(&card.machine)?.text, &args.state)?;
        step.may_be_skipped()?;
        step.answer(said.as_deref(), Timestamp::now())
    };
    match found(&args.target).await? {
        Found::AtWork(folder, card) => {
            let answer = prepared(&card)?;
            ask(&args.target, &folder, deed, Some(answer), REPLY).await
        }
        Found::Ended(_, card) => {
            let input = Input::Skip { state: args.state.clone(), answer: prepared(&card)? };
            take_up(resuming(&args.target), Some(Beginning { input, intervention: deed })).await
        }
        Found::OnAws(_) => Err(Problem::input(format!(
            "run `{run}` is Step Functions', which skips nothing; `drctl abort {run}`, then `drctl run` from here can"
        ))),
        other => Err(other.not_at_work(run)),
    }
}

/// Takes a run up after its end from what had not succeeded, as Step Functions does.
pub async fn redrive(args: RedriveArgs) -> Result<ExitCode, Problem> {
    let run = &args.target.run;
    let deed = args.target.deed(Deed::Redrive)?;
    match found(&args.target).await? {
        Found::Ended(_, card) => {
            refuse_deliberate_end(run, &card)?;
            take_up(resuming(&args.target), Some(Beginning { input: Input::Redrive, intervention: deed })).await
        }
        Found::OnAws(view) => redrive_on_aws(&args.target, &view, &deed).await,
        Found::AtWork(..) => Err(Problem::input(format!("run `{run}` is at work; see `drctl status {run}`"))),
        other => Err(other.not_at_work(run)),
    }
}

/// A redrive of a run that its machine has ended by a Fail state enters that state again and changes nothing, on AWS too.
fn refuse_deliberate_end(run: &str, card: &RunCard) -> Result<(), Problem> {
    if card.status != RunStatus::Failed {
        return Ok(());
    }
    let machine = machines::find(&card.machine)?.parse()?;
    let graph = machine.graph();
    let ended_in = graph.all_states().into_iter().find(|state| Some(&state.name) == card.state.as_ref());
    match ended_in {
        Some(state) if state.kind == "Fail" => Err(Problem::input(format!(
            "run `{run}` was ended by its machine in `{}`, where a redrive would end it again; `drctl retry {run}` goes on from the state that failed",
            state.name
        ))),
        _ => Ok(()),
    }
}

/// Where a run is.
enum Found {
    /// A process of this machine works on it.
    AtWork(RunFolder, RunCard),
    /// It has not ended, and its runner is gone.
    WithoutRunner,
    /// It has ended on this machine.
    Ended(RunFolder, RunCard),
    /// Another machine has it.
    Elsewhere(Box<Head>),
    /// Step Functions has it.
    OnAws(Box<on_aws::View>),
}

impl Found {
    fn not_at_work(&self, run: &str) -> Problem {
        Problem::input(match self {
            Found::AtWork(_, card) => format!("run `{run}` is at work in {}; see `drctl status {run}`", place(card)),
            Found::WithoutRunner => format!("the runner of run `{run}` is gone; `drctl resume {run}` first"),
            Found::Ended(..) => format!("run `{run}` has ended; see `drctl status {run}`"),
            Found::Elsewhere(head) => format!(
                "run `{run}` is the one of {}; say it there, or, if that machine is gone, `drctl resume {run}` here first",
                head.writer.in_words()
            ),
            Found::OnAws(view) if view.execution.status == "RUNNING" => format!(
                "run `{run}` is Step Functions', which cannot do this; `drctl abort {run}` ends it, `drctl redrive {run}` takes it up again"
            ),
            Found::OnAws(view) => {
                format!("run `{run}` has ended on Step Functions ({}); see `drctl status {run}`", view.execution.status)
            }
        })
    }
}

fn place(card: &RunCard) -> &str {
    card.state.as_deref().unwrap_or("its first state")
}

async fn found(target: &Target) -> Result<Found, Problem> {
    let runs_dir = runs::folder(target.runs.runs_dir.as_deref());
    if let Some(folder) = runs::find(&runs_dir, &target.run)? {
        let card = folder.card()?;
        return Ok(match (card.status, runs::is_worked_on(&folder)) {
            (_, true) => Found::AtWork(folder, card),
            (RunStatus::Running, false) => Found::WithoutRunner,
            _ => Found::Ended(folder, card),
        });
    }
    let plan = Plan::read(&target.plan.plan)?;
    let evidence = Aws::from_plan(&plan).await.evidence();
    let key = copy::head_key(&target.run);
    let copy = tokio::time::timeout(PATIENCE, recovery::store::get_json::<Head>(evidence.as_ref(), &key)).await;
    if let Ok(Ok(Some((head, _)))) = &copy {
        return Ok(Found::Elsewhere(Box::new(head.clone())));
    }
    let elsewhere = match on_aws::view(&plan, &target.run).await {
        Ok(Some(view)) => return Ok(Found::OnAws(Box::new(view))),
        Ok(None) => format!(", nor on Step Functions in {}", plan.regions.tertiary),
        Err(why) => format!(", and Step Functions cannot be asked: {why}"),
    };
    Err(runs::unknown(&runs_dir, &target.run, &elsewhere))
}

impl Target {
    /// What is done, by whom and why.
    ///
    /// # Errors
    /// The words are empty.
    fn deed(&self, deed: Deed) -> Result<Intervention, Problem> {
        said("--by", &self.by)?;
        said("--because", &self.because)?;
        Ok(deeds::asked(deed, self.by.trim(), self.because.trim()))
    }
}

/// Refuses empty words.
pub fn said(name: &str, words: &str) -> Result<(), Problem> {
    if words.trim().is_empty() {
        return Err(Problem::input(format!("{name} is empty; it becomes part of the record, say it in words")));
    }
    Ok(())
}

fn resuming(target: &Target) -> ResumeArgs {
    ResumeArgs {
        run: target.run.clone(),
        from_bucket: false,
        by: target.by.clone(),
        // Another plan than that of the run is named to `drctl resume` alone.
        plan: None,
        runs_dir: target.runs.runs_dir.clone(),
        json: target.json,
    }
}

/// Asks the runner, and says what became of it.
async fn ask(
    target: &Target,
    folder: &RunFolder,
    intervention: Intervention,
    answer: Option<Value>,
    patience: Duration,
) -> Result<ExitCode, Problem> {
    let (id, deed) = (intervention.id.clone(), intervention.deed.clone());
    requests::ask(folder, &Request { intervention, answer }).map_err(|error| {
        Problem::input(format!("`{}` cannot be written: {error}; nothing was asked", folder.path().display()))
    })?;
    let ended = async {
        while runs::is_worked_on(folder) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Its last word may have come with its end.
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let reply = tokio::select! {
        reply = requests::wait(folder, &id, patience) => reply,
        () = ended => requests::wait(folder, &id, Duration::from_millis(200)).await,
    };
    match reply {
        Some(reply) if reply.done => {
            if target.json {
                tell!("{}", pretty(&json!({"run": target.run, "deed": deed, "done": true, "said": reply.said}))?);
            } else {
                tell!("run `{}`: {}", target.run, reply.said);
            }
            Ok(ExitCode::from(exit::DONE))
        }
        Some(reply) => Err(Problem::input(format!("run `{}`: {}", target.run, reply.said))),
        None if runs::is_worked_on(folder) => Err(Problem::failed(format!(
            "the runner of `{0}` has not answered yet; it will do it after the step that is under way, see `drctl status {0}`",
            target.run
        ))),
        None => {
            requests::withdraw(folder, &id);
            Err(Problem::input(format!(
                "the runner of `{0}` ended before it could do this; see `drctl status {0}`",
                target.run
            )))
        }
    }
}

async fn abort_on_aws(target: &Target, view: &on_aws::View, deed: &Intervention) -> Result<ExitCode, Problem> {
    let plan = Plan::read(&target.plan.plan)?;
    let stop = async {
        let aws = Aws::from_plan(&plan).await;
        keep(&aws, target, deed).await?;
        let cause = format!("aborted by {}: {}", deed.by, deed.because);
        let stopped = aws.step_functions().stop(&view.execution.arn, "Recovery.Aborted", &cause).await;
        stopped.map_err(|trouble| not_done(target, &chain(&trouble)))
    };
    tokio::time::timeout(PATIENCE, stop).await.map_err(|_| late(&plan))??;
    let world = match &view.record {
        Some(record) => state_of_the_world(&plan, record),
        None => format!("what it had done is not known; see `drctl status {}`", target.run),
    };
    tell(target, deed, &format!("aborted on Step Functions. {world} A step that was under way may still act."))
}

async fn redrive_on_aws(target: &Target, view: &on_aws::View, deed: &Intervention) -> Result<ExitCode, Problem> {
    let plan = Plan::read(&target.plan.plan)?;
    let run = &target.run;
    if matches!(view.execution.status.as_str(), "RUNNING" | "PENDING_REDRIVE") {
        return Err(Problem::input(format!("run `{run}` is at work on Step Functions; see `drctl status {run}`")));
    }
    if let Some(state) = &view.failed_in {
        return Err(Problem::input(format!(
            "run `{run}` was ended by its machine in `{state}`, where a redrive would end it again; start a new execution, every step looks before it acts"
        )));
    }
    let redrive = async {
        let aws = Aws::from_plan(&plan).await;
        keep(&aws, target, deed).await?;
        let redriven = aws.step_functions().redrive(&view.execution.arn, &deed.id).await;
        match redriven.map_err(|trouble| not_done(target, &chain(&trouble)))? {
            Redriven::At(at) => Ok(at),
            Redriven::Refused(why) => {
                let _ = deeds::forget(aws.evidence().as_ref(), run, &deed.id).await;
                Err(Problem::input(format!(
                    "Step Functions does not redrive `{run}`: {why}; start a new execution, every step looks before it acts"
                )))
            }
        }
    };
    let at = tokio::time::timeout(PATIENCE, redrive).await.map_err(|_| late(&plan))??;
    tell(target, deed, &format!("goes on on Step Functions since {}", recovery::notice::utc(at)))
}

/// Who, when and why is kept before it is done.
async fn keep(aws: &Aws, target: &Target, deed: &Intervention) -> Result<(), Problem> {
    let kept = deeds::keep(aws.evidence().as_ref(), &target.run, std::slice::from_ref(deed)).await;
    kept.map_err(|error| {
        Problem::input(format!("nothing was done, because it could not be noted: {}; try again", chain(&error)))
    })
}

fn tell(target: &Target, deed: &Intervention, said: &str) -> Result<ExitCode, Problem> {
    if target.json {
        tell!("{}", pretty(&json!({"run": target.run, "deed": deed.deed, "done": true, "said": said}))?);
    } else {
        tell!("run `{}`: {said}", target.run);
    }
    Ok(ExitCode::from(exit::DONE))
}

fn not_done(target: &Target, why: &str) -> Problem {
    Problem::input(format!("Step Functions did not do it ({why}); see `drctl status {}`", target.run))
}

fn late(plan: &Plan) -> Problem {
    Problem::failed(format!(
        "AWS in {} did not answer within {} s; whether it was done is not known, see `drctl status`",
        plan.regions.tertiary,
        PATIENCE.as_secs()
    ))
}

fn read(file: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(file)
        .map_err(|error| Problem::input(format!("`{}` cannot be read: {error}; name a file of JSON", file.display())))
}
