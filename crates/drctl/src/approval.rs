//! `drctl approve` and `drctl reject`: people's answers to a run that waits before the point of no return.
//!
//! A run on this machine asks in its folder and is answered there. Any other run has left its question in the evidence
//! bucket; answers are added to it under the condition that nobody else has written meanwhile, so two people can answer at
//! the same moment. A run on Step Functions is told when enough have confirmed; a run of `drctl` on another machine looks
//! there by itself. Either way an answer carries who, why and when, and becomes part of the run's record.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use recovery::{
    approval::{self, Decision, PendingApproval},
    fault::chain,
    incident::Consent,
    plan::Plan,
    run::ApprovalGiven,
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
};
use recovery_aws::Aws;
use serde_json::{Value, json};

use crate::{
    cli::{ApproveArgs, PlanFile, RejectArgs, RunsDir},
    control::{pending, refusal},
    copy::{self, Head},
    intervene::said,
    plan::pretty,
    problem::{Problem, exit},
    run_folder::{ApprovalAnswer, Confirmations, RunFolder},
    runs,
};

/// Longest wait for AWS.
const PATIENCE: Duration = Duration::from_secs(20);

struct Answer {
    run: String,
    plan: PlanFile,
    runs: RunsDir,
    json: bool,
    approve: bool,
    given: ApprovalGiven,
}

/// What an answer did.
struct Outcome {
    place: String,
    /// People who have to confirm beside those who have.
    missing: usize,
}

/// Confirms.
pub async fn approve(args: ApproveArgs) -> Result<u8, Problem> {
    let consents = args
        .consent
        .iter()
        .map(|to| Consent { to: (*to).into(), by: args.by.clone(), because: args.because.clone() })
        .collect();
    let given = given(args.by, args.because, consents);
    answer(Answer { run: args.run, plan: args.plan, runs: args.runs, json: args.json, approve: true, given }).await
}

/// Refuses.
pub async fn reject(args: RejectArgs) -> Result<u8, Problem> {
    let given = given(args.by, args.because, Vec::new());
    answer(Answer { run: args.run, plan: args.plan, runs: args.runs, json: args.json, approve: false, given }).await
}

fn given(by: String, because: String, consents: Vec<Consent>) -> ApprovalGiven {
    ApprovalGiven { by, because, at: Timestamp::now(), consents, seconded_by: Vec::new() }
}

async fn answer(answer: Answer) -> Result<u8, Problem> {
    said("--by", &answer.given.by)?;
    said("--because", &answer.given.because)?;
    let folder = runs::folder(answer.runs.runs_dir.as_deref());
    let outcome = match runs::find(&folder, &answer.run)? {
        Some(run) => answer_here(&run, &answer)?,
        None => answer_elsewhere(&folder, &answer).await?,
    };
    let (run, by, Outcome { place, missing }) = (&answer.run, &answer.given.by, outcome);
    let done = if answer.approve { "confirmed" } else { "refused" };
    if answer.json {
        let told = json!({"run": run, "answer": done, "missing": missing, "place": place, "given": answer.given});
        tell!("{}", pretty(&told)?);
    } else {
        tell!("{done} run `{run}` {place}, in the name of {by}");
        if missing > 0 {
            let people = if missing == 1 { "one more person".to_owned() } else { format!("{missing} more people") };
            tell!("{people} must confirm it before anything happens: drctl approve {run} --by NAME --because WHY");
        }
    }
    Ok(exit::DONE)
}

fn answer_here(run: &RunFolder, answer: &Answer) -> Result<Outcome, Problem> {
    let name = &answer.run;
    let unwritable = |error: std::io::Error| {
        Problem::input(format!("the answer cannot be written into `{}`: {error}", run.path().display()))
    };
    let Ok(question) = run.approval_request() else {
        return Err(Problem::input(format!("run `{name}` waits for nobody; see `drctl status {name}`")));
    };
    if !runs::is_worked_on(run) {
        return Err(Problem::input(format!(
            "run `{name}` asks, but its runner is gone; `drctl resume {name}`, then answer"
        )));
    }
    // Two people at one machine answer one after the other.
    let lock = std::fs::File::create(run.path().join("answers.lock")).map_err(unwritable)?;
    lock.lock().map_err(unwritable)?;
    let token = question.task_token.clone();
    if run.approval_answer().is_some_and(|earlier| earlier.task_token == token) {
        return Err(Problem::input(format!("run `{name}` was answered already; see `drctl status {name}`")));
    }
    let mut known = pending(&question, run.confirmations(&token));
    let missing = if answer.approve {
        match known.confirm(answer.given.clone()).map_err(|why| not_counted(name, &why))? {
            Decision::Open { missing } => missing,
            _ => 0,
        }
    } else {
        0
    };
    if answer.approve && question.needed > 1 {
        // The runner counts them, together with those of people on other machines.
        let kept = Confirmations { task_token: token, confirmed: known.confirmed };
        run.write_json("confirmations.json", &kept).map_err(unwritable)?;
    } else {
        let written = ApprovalAnswer { task_token: token, approve: answer.approve, given: answer.given.clone() };
        run.write_json("approval.json", &written).map_err(unwritable)?;
    }
    Ok(Outcome { place: "on this machine".to_owned(), missing })
}

fn not_counted(run: &str, why: &approval::NotCounted) -> Problem {
    Problem::input(format!("run `{run}`: {why}; see `drctl status {run}`"))
}

async fn answer_elsewhere(folder: &Path, answer: &Answer) -> Result<Outcome, Problem> {
    let plan = Plan::read(&answer.plan.plan)?;
    let region = &plan.regions.tertiary;
    let late = |_| {
        Problem::input(format!(
            "AWS in {region} did not answer within {} s; try again, the same answer counts only once",
            PATIENCE.as_secs()
        ))
    };
    tokio::time::timeout(PATIENCE, answer_in_bucket(folder, answer, &plan)).await.map_err(late)?
}

async fn answer_in_bucket(folder: &Path, answer: &Answer, plan: &Plan) -> Result<Outcome, Problem> {
    let name = &answer.run;
    let aws = Aws::from_plan(plan).await;
    let evidence = aws.evidence();
    let (pending, decision) = add(folder, evidence.as_ref(), answer).await?;
    let missing = match &decision {
        Decision::Open { missing } => *missing,
        _ => 0,
    };
    let head = get_json::<Head>(evidence.as_ref(), &copy::head_key(name)).await.ok().flatten().map(|(head, _)| head);
    if let Some(head) = head.filter(|head| head.question.as_ref() == Some(&pending.task_token)) {
        return Ok(Outcome { place: format!("in the bucket, where {} looks", head.writer.in_words()), missing });
    }
    let step_functions = aws.step_functions();
    let sent = match &decision {
        Decision::Open { .. } => {
            return Ok(Outcome { place: "on Step Functions".to_owned(), missing });
        }
        Decision::Confirmed(given) => step_functions.succeed(&pending.task_token, &as_output(given)?).await,
        Decision::Refused(given) => {
            let (error, cause) = refusal(given);
            step_functions.fail(&pending.task_token, error, &cause).await
        }
    };
    sent.map_err(|trouble| {
        Problem::input(format!(
            "run `{name}` did not take the answer ({}); it may have been answered or have ended, see `drctl status {name}`",
            chain(&trouble)
        ))
    })?;
    Ok(Outcome { place: "on Step Functions".to_owned(), missing: 0 })
}

/// Adds an answer to the question in the bucket, whoever else answers meanwhile.
async fn add(
    folder: &Path,
    evidence: &dyn ObjectStore,
    answer: &Answer,
) -> Result<(PendingApproval, Decision), Problem> {
    let name = &answer.run;
    let key = approval::key(name);
    let place = format!("s3://{}/{key}", evidence.bucket());
    loop {
        let (mut pending, etag) = match get_json::<PendingApproval>(evidence, &key).await {
            Ok(Some(found)) => found,
            Ok(None) => return Err(runs::unknown(folder, name, &format!(" and no question in {place}"))),
            Err(error) => return Err(runs::unknown(folder, name, &format!(", and {}", chain(&error)))),
        };
        let before = pending.clone();
        let decision = if answer.approve {
            pending.confirm(answer.given.clone()).map_err(|why| not_counted(name, &why))?
        } else {
            pending.refuse(answer.given.clone())
        };
        if pending == before {
            // It was counted before, and its way to the run may have been lost.
            return Ok((pending, decision));
        }
        match put_json(evidence, &key, &pending, Precondition::Unchanged(etag)).await {
            Ok(()) => return Ok((pending, decision)),
            // Somebody answered at the same moment, or the run asks anew.
            Err(StoreError::PreconditionFailed { .. }) => {}
            Err(error) => {
                return Err(Problem::input(format!("the answer is not kept in {place}: {}; try again", chain(&error))));
            }
        }
    }
}

fn as_output(given: &ApprovalGiven) -> Result<Value, Problem> {
    serde_json::to_value(given)
        .map_err(|error| Problem::input(format!("the answer cannot be written: {error}; report this as a defect")))
}
