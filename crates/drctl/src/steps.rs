//! What a state does, by its definition: the function it calls and the action it asks for; and what it would have answered
//! if it is skipped.

use jiff::Timestamp;
use recovery::{
    intervention::why_not_skipped,
    notice::Stage,
    run::{CapacityReleased, NamesMoved, Noticed, Reached, RecordsEdited, Scaling, WorkloadRollout},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{machines::function_name, problem::Problem};

/// The work of a Task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state.
    pub state: String,
    /// The function's folder.
    pub function: String,
    /// `action`, or for messages `stage`, where it is fixed.
    pub action: Option<String>,
}

/// Finds a Task of a definition by its state's name.
///
/// # Errors
/// There is no such state, or it is no Task that calls a function.
pub fn find(definition: &str, state: &str) -> Result<Step, Problem> {
    let machine: Value = serde_json::from_str(definition)
        .map_err(|error| Problem::input(format!("the machine is not JSON: {error}; see `drctl machine check`")))?;
    let mut names = Vec::new();
    let Some(found) = look(&machine, state, &mut names) else {
        let hint = recovery::spelling::nearest(state, names.iter().map(String::as_str))
            .map_or_else(|| "see `drctl machine show`".to_owned(), |meant| format!("did you mean `{meant}`?"));
        return Err(Problem::input(format!("the machine has no state `{state}`; {hint}")));
    };
    let arn = found["Arguments"]["FunctionName"].as_str().or_else(|| found["Resource"].as_str()).unwrap_or_default();
    let placeholder = arn.trim_start_matches("${").trim_end_matches('}');
    if found["Type"] != "Task" || placeholder.is_empty() {
        return Err(Problem::input(format!("`{state}` is no Task; only the work of a Task can be skipped")));
    }
    let payload = &found["Arguments"]["Payload"];
    let action = payload["action"].as_str().or_else(|| payload["stage"].as_str());
    let action = action.filter(|text| !text.starts_with("{%")).map(str::to_owned);
    Ok(Step { state: state.to_owned(), function: function_name(placeholder), action })
}

fn look<'a>(machine: &'a Value, state: &str, names: &mut Vec<String>) -> Option<&'a Value> {
    for (name, found) in machine["States"].as_object()? {
        if name == state {
            return Some(found);
        }
        names.push(name.clone());
        let branches = found["Branches"].as_array().into_iter().flatten();
        for inner in branches.chain([&found["ItemProcessor"]]) {
            if let Some(found) = look(inner, state, names) {
                return Some(found);
            }
        }
    }
    None
}

impl Step {
    /// Refuses to skip what must not be left out, whoever asks.
    ///
    /// # Errors
    /// Why not, and what to do instead.
    pub fn may_be_skipped(&self) -> Result<(), Problem> {
        match why_not_skipped(&self.function, self.action.as_deref()) {
            None => Ok(()),
            Some(why) => Err(Problem::input(format!("`{}` cannot be skipped: {why}", self.state))),
        }
    }

    /// What the step is taken to have answered: what somebody says it did, or that nothing is known.
    ///
    /// # Errors
    /// It is not what this step answers, or must be said.
    pub fn answer(&self, said: Option<&str>, now: Timestamp) -> Result<Value, Problem> {
        let Some(said) = said else { return self.nothing_known(now) };
        let wrong = |error: serde_json::Error| {
            let place = format!("{}:{}", error.line(), error.column());
            Problem::input(format!(
                "--output:{place}: not what `{}` answers: {error}; see docs/report-schema.md",
                self.state
            ))
        };
        let read: fn(&str) -> Result<(), serde_json::Error> = match (self.function.as_str(), self.action.as_deref()) {
            ("notify", _) => is::<Noticed>,
            ("deploy-workloads", _) => is::<WorkloadRollout>,
            ("scale-nodegroup", Some("release")) => is::<CapacityReleased>,
            ("scale-nodegroup", _) => is::<Scaling>,
            ("swap-dns", Some("edit")) => is::<RecordsEdited>,
            ("swap-dns", _) => is::<NamesMoved>,
            ("verify-recovery", _) => is::<Reached>,
            _ => is::<Value>,
        };
        read(said).map_err(wrong)?;
        serde_json::from_str(said).map_err(wrong)
    }

    /// An empty field of the record counts as not done and not measured. A message that was not sent needs a line of its
    /// own, because messages are a list.
    fn nothing_known(&self, now: Timestamp) -> Result<Value, Problem> {
        if self.function != "notify" {
            return Ok(Value::Null);
        }
        let stage = Stage::ALL.into_iter().find(|stage| Some(stage.name()) == self.action.as_deref());
        let told = stage.map(|stage| Noticed { stage, message: "not sent: skipped".to_owned(), at: now });
        told.and_then(|told| serde_json::to_value(told).ok()).ok_or_else(|| {
            Problem::input(format!("what `{}` tells is not fixed; say with --output FILE what was told", self.state))
        })
    }
}

fn is<T: DeserializeOwned>(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<T>(text).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MACHINE: &str = include_str!("../../../statemachines/regional-failover.asl.json");

    #[test]
    fn every_task_of_the_failover_is_found_and_judged() {
        let may: Vec<&str> = [
            "PlanFailover",
            "AwaitApproval",
            "FencePrimary",
            "PromoteReplica",
            "ScaleNodegroup",
            "NotifyDeclared",
            "NotifyPromoted",
            "AwaitCapacity",
            "DeployWorkloads",
            "VerifyRecovery",
            "NotifyHealthy",
            "SwapDns",
            "VerifyReached",
            "EditRecords",
            "LiftFence",
            "ReleaseCapacity",
            "WriteReport",
            "NotifyOutcome",
        ]
        .into_iter()
        .filter(|state| find(MACHINE, state).unwrap().may_be_skipped().is_ok())
        .collect();
        assert_eq!(
            may,
            [
                "ScaleNodegroup",
                "NotifyDeclared",
                "NotifyPromoted",
                "AwaitCapacity",
                "DeployWorkloads",
                "NotifyHealthy",
                "SwapDns",
                "VerifyReached",
                "EditRecords",
                "ReleaseCapacity",
                "NotifyOutcome"
            ]
        );
    }

    #[test]
    fn what_is_no_task_is_told_with_what_was_meant() {
        assert!(find(MACHINE, "DeployWorkload").unwrap_err().to_string().contains("did you mean `DeployWorkloads`?"));
        assert!(find(MACHINE, "IsPromoted").unwrap_err().to_string().contains("is no Task"));
    }

    #[test]
    fn an_answer_has_the_form_of_the_step() {
        let now = Timestamp::UNIX_EPOCH;
        let step = |state: &str| find(MACHINE, state).unwrap();
        assert_eq!(step("DeployWorkloads").answer(None, now).unwrap(), Value::Null);
        assert_eq!(step("NotifyPromoted").answer(None, now).unwrap()["stage"], "promoted");
        assert!(step("NotifyOutcome").answer(None, now).unwrap_err().to_string().contains("--output FILE"));
        let wrong = step("SwapDns").answer(Some("{\n  \"switch\": 1}"), now).unwrap_err().to_string();
        assert!(wrong.starts_with("--output:2:"), "{wrong}");
        let right =
            r#"{"switch": "s3://sparc-switch/us-east-1-is-down", "already": false, "at": "2026-11-23T03:04:05Z"}"#;
        assert!(step("SwapDns").answer(Some(right), now).is_ok());
    }
}
