//! Runs on Step Functions, as somebody finds them who knows a run's name.

use std::time::Duration;

use jiff::Timestamp;
use recovery::{fault::chain, plan::Plan, run::Run};
use recovery_aws::{
    Aws,
    step_functions::{Execution, ExecutionListed, HistoryEvent, MachineListed, StepFunctions, Which},
};

use crate::machines;

/// Longest wait for Step Functions where somebody waits for the answer.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// Most pages of a history that are read; AWS's bound of events is twenty-five of them.
const PAGES: usize = 25;

/// What Step Functions says of a run.
#[derive(Clone, Debug)]
pub struct View {
    /// As `DescribeExecution` shows it.
    pub execution: Execution,
    /// The machine's name on AWS.
    pub machine: String,
    /// States that were entered and not left.
    pub states: Vec<String>,
    /// The Fail state by which the machine has ended it.
    pub failed_in: Option<String>,
    /// The type of the last event, and when.
    pub last: Option<(String, Timestamp)>,
    /// The run's record as its last state left it.
    pub record: Option<Run>,
    /// When AWS was asked.
    pub asked_at: Timestamp,
}

/// Whether a name that a template may have completed is the machine's: `regional-failover`, `sparc-regional-failover`,
/// `RegionalFailoverStateMachine-A1B2`.
fn is_named(listed: &str, machine: &str) -> bool {
    let letters = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    letters(listed).contains(&letters(machine))
}

async fn machines_of(step_functions: &StepFunctions, of: &[String]) -> Result<Vec<MachineListed>, String> {
    let listed = step_functions.machines().await.map_err(|trouble| chain(&trouble))?;
    Ok(listed.into_iter().filter(|listed| of.iter().any(|name| is_named(&listed.name, name))).collect())
}

/// Finds the execution of a run among the machines of the suite.
///
/// # Errors
/// AWS's words, or that it did not answer in time.
pub async fn find(plan: &Plan, run: &str) -> Result<Option<(StepFunctions, Execution, String)>, String> {
    let look = async {
        let step_functions = Aws::from_plan(plan).await.step_functions();
        for machine in machines_of(&step_functions, &machines::names()).await? {
            match step_functions.describe(&machine.execution(run)).await {
                Ok(execution) => return Ok(Some((step_functions, execution, machine.name))),
                Err(trouble) if trouble.is_missing() => {}
                Err(trouble) => return Err(chain(&trouble)),
            }
        }
        Ok(None)
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| Err(late(plan, PATIENCE)))
}

/// What Step Functions says of a run, if it has it.
///
/// # Errors
/// As [`find`].
pub async fn view(plan: &Plan, run: &str) -> Result<Option<View>, String> {
    let look = async {
        let Some((step_functions, execution, machine)) = find(plan, run).await? else { return Ok(None) };
        let history = history(&step_functions, &execution.arn).await?;
        let record = history.iter().rev().find_map(|event| serde_json::from_str(event.assigned.get("run")?).ok());
        Ok(Some(View {
            failed_in: failed_in(&history),
            states: not_left(&history),
            last: history.last().map(|event| (event.kind.clone(), event.at)),
            record,
            execution,
            machine,
            asked_at: Timestamp::now(),
        }))
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| Err(late(plan, PATIENCE)))
}

fn late(plan: &Plan, patience: Duration) -> String {
    format!("Step Functions in {} did not answer within {} s", plan.regions.tertiary, patience.as_secs())
}

async fn history(step_functions: &StepFunctions, arn: &str) -> Result<Vec<HistoryEvent>, String> {
    let mut events = Vec::new();
    let mut page = None;
    for _ in 0..PAGES {
        let (more, next) = step_functions.history(arn, page).await.map_err(|trouble| chain(&trouble))?;
        events.extend(more);
        page = next;
        if page.is_none() {
            break;
        }
    }
    Ok(events)
}

/// The states that were entered and neither left nor aborted.
fn not_left(history: &[HistoryEvent]) -> Vec<String> {
    let mut states: Vec<String> = Vec::new();
    for event in history {
        let Some(state) = &event.state else { continue };
        if event.kind.ends_with("StateEntered") {
            states.push(state.clone());
        } else if event.kind.ends_with("StateExited")
            && let Some(at) = states.iter().rposition(|open| open == state)
        {
            states.remove(at);
        }
    }
    states
}

/// The Fail state that came right before the end.
fn failed_in(history: &[HistoryEvent]) -> Option<String> {
    let [.., before, last] = history else { return None };
    (last.kind == "ExecutionFailed" && before.kind == "FailStateEntered").then(|| before.state.clone()).flatten()
}

/// Executions of the suite's machines: those that run, or the newest of each.
///
/// # Errors
/// As [`find`].
pub async fn executions(
    plan: &Plan,
    machines: &[String],
    which: Which,
    patience: Duration,
) -> Result<Vec<(String, ExecutionListed)>, String> {
    let look = async {
        let step_functions = Aws::from_plan(plan).await.step_functions();
        let mut found = Vec::new();
        for machine in machines_of(&step_functions, machines).await? {
            let listed = step_functions.executions(&machine.arn, which).await.map_err(|trouble| chain(&trouble))?;
            found.extend(listed.into_iter().map(|execution| (machine.name.clone(), execution)));
        }
        Ok(found)
    };
    tokio::time::timeout(patience, look).await.unwrap_or_else(|_| Err(late(plan, patience)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_its_name_however_a_template_completes_it() {
        for listed in ["regional-failover", "sparc-regional-failover", "RegionalFailoverStateMachine-A1b2C3"] {
            assert!(is_named(listed, "regional-failover"), "{listed}");
        }
        assert!(!is_named("nightly-backup", "regional-failover"));
    }

    #[test]
    fn a_state_that_was_not_left_is_where_the_run_stands() {
        let event = |kind: &str, state: &str| HistoryEvent {
            id: 0,
            previous: 0,
            at: Timestamp::UNIX_EPOCH,
            kind: kind.to_owned(),
            state: Some(state.to_owned()),
            assigned: Default::default(),
            error: None,
            cause: None,
        };
        let history = [
            event("TaskStateEntered", "A"),
            event("TaskStateExited", "A"),
            event("ParallelStateEntered", "B"),
            event("TaskStateEntered", "C"),
        ];
        assert_eq!(not_left(&history), ["B", "C"]);
    }
}
