//! `drctl approve` and `drctl reject`: a person's answer to a run that waits before the point of no return.
//!
//! A run on this machine asks in its folder and is answered there. A run on Step Functions leaves its task token in the
//! evidence bucket and is answered through the API. Either way the answer carries who, why and when, and becomes part of the
//! run's record.

use std::time::Duration;

use jiff::Timestamp;
use notify::{PendingApproval, approval_key};
use recovery::{
    fault::{Fault, chain},
    incident::Consent,
    plan::Plan,
    run::ApprovalGiven,
    store::get_json,
};
use recovery_aws::Aws;
use serde_json::{Value, json};

use crate::{
    cli::{ApproveArgs, PlanFile, RejectArgs, RunsDir},
    plan::pretty,
    problem::{Problem, exit},
    run_folder::{ApprovalAnswer, RunFolder},
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

/// Confirms.
pub async fn approve(args: ApproveArgs) -> Result<u8, Problem> {
    let consents = args
        .consent
        .iter()
        .map(|to| Consent { to: (*to).into(), by: args.by.clone(), because: args.because.clone() })
        .collect();
    let given = ApprovalGiven { by: args.by, because: args.because, at: Timestamp::now(), consents };
    answer(Answer { run: args.run, plan: args.plan, runs: args.runs, json: args.json, approve: true, given }).await
}

/// Refuses.
pub async fn reject(args: RejectArgs) -> Result<u8, Problem> {
    let given = ApprovalGiven { by: args.by, because: args.because, at: Timestamp::now(), consents: Vec::new() };
    answer(Answer { run: args.run, plan: args.plan, runs: args.runs, json: args.json, approve: false, given }).await
}

async fn answer(answer: Answer) -> Result<u8, Problem> {
    for (name, words) in [("--by", &answer.given.by), ("--because", &answer.given.because)] {
        if words.trim().is_empty() {
            return Err(Problem::input(format!(
                "{name} is empty; the answer becomes part of the record, say it in words"
            )));
        }
    }
    let folder = runs::folder(answer.runs.runs_dir.as_deref());
    let place = match runs::find(&folder, &answer.run)? {
        Some(run) => answer_here(&run, &answer)?,
        None => answer_on_aws(&folder, &answer).await?,
    };
    let done = if answer.approve { "confirmed" } else { "refused" };
    if answer.json {
        println!("{}", pretty(&json!({"run": answer.run, "answer": done, "place": place, "given": answer.given}))?);
    } else {
        println!("{done} run `{}` {place}, in the name of {}", answer.run, answer.given.by);
    }
    Ok(exit::DONE)
}

fn answer_here(run: &RunFolder, answer: &Answer) -> Result<&'static str, Problem> {
    let name = &answer.run;
    let Ok(question) = run.approval_request() else {
        return Err(Problem::input(format!("run `{name}` waits for nobody; see `drctl status {name}`")));
    };
    if !runs::is_worked_on(run) {
        return Err(Problem::input(format!(
            "run `{name}` asks, but its runner is gone; start it again with the same name, then answer"
        )));
    }
    if run.approval_answer().is_some_and(|earlier| earlier.task_token == question.task_token) {
        return Err(Problem::input(format!("run `{name}` was answered already; see `drctl status {name}`")));
    }
    let written =
        ApprovalAnswer { task_token: question.task_token, approve: answer.approve, given: answer.given.clone() };
    run.write_json("approval.json", &written).map_err(|error| {
        Problem::input(format!("the answer cannot be written into `{}`: {error}", run.path().display()))
    })?;
    Ok("on this machine")
}

async fn answer_on_aws(folder: &std::path::Path, answer: &Answer) -> Result<&'static str, Problem> {
    let name = &answer.run;
    let plan = Plan::read(&answer.plan.plan)?;
    let send = async {
        let aws = Aws::from_plan(&plan).await;
        let key = approval_key(name);
        let place = format!("s3://{}/{key}", plan.buckets.evidence);
        let pending = match get_json::<PendingApproval>(aws.evidence().as_ref(), &key).await {
            Ok(Some((pending, _))) => pending,
            Ok(None) => return Err(runs::unknown(folder, name, &format!(" and no question in {place}"))),
            Err(error) => return Err(runs::unknown(folder, name, &format!(", and {}", chain(&error)))),
        };
        let step_functions = aws.step_functions();
        let sent = if answer.approve {
            step_functions.succeed(&pending.task_token, &given(&answer.given)?).await
        } else {
            let cause = json!({
                "errorType": Fault::Refused.error_type(),
                "errorMessage": format!("{} refused: {}", answer.given.by, answer.given.because),
            });
            step_functions.fail(&pending.task_token, Fault::Refused.error_type(), &cause.to_string()).await
        };
        sent.map_err(|trouble| {
            Problem::input(format!(
                "run `{name}` did not take the answer ({}); it may have been answered or have ended, see `drctl status {name}`",
                chain(&trouble)
            ))
        })?;
        Ok("on Step Functions")
    };
    let region = &plan.regions.tertiary;
    let late = |_| {
        Problem::input(format!("AWS in {region} did not answer within 20 s; try again, nothing is known of the answer"))
    };
    tokio::time::timeout(PATIENCE, send).await.map_err(late)?
}

fn given(given: &ApprovalGiven) -> Result<Value, Problem> {
    serde_json::to_value(given)
        .map_err(|error| Problem::input(format!("the answer cannot be written: {error}; report this as a defect")))
}
