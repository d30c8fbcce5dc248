//! The stack as CloudFormation has it, beside the plan.

use std::collections::BTreeMap;

use recovery::{fault::chain, plan::Plan};
use recovery_aws::{
    Aws,
    cloudformation::{Drift, Stack},
};

use super::{Finding, good, of_plan, unknown, wrong};

const DEPLOY_AGAIN: &str = "sam build && sam deploy --parameter-overrides $(drctl deploy parameters) Detection=…";

/// What was seen of the stack.
pub struct Looked {
    /// Its name.
    pub name: String,
    /// Its state and parameters.
    pub stack: Result<Stack, String>,
    /// What was changed past it; not asked for a stack that is not there.
    pub drift: Option<Result<Vec<Drift>, String>>,
}

/// Looks at the stack in the tertiary region.
pub async fn look(aws: &Aws, name: &str) -> Looked {
    let cloudformation = aws.cloudformation();
    let stack = cloudformation.stack(name).await.map_err(|trouble| chain(&trouble));
    let drift = match &stack {
        Ok(_) => Some(cloudformation.drift(name).await.map_err(|trouble| chain(&trouble))),
        Err(_) => None,
    };
    Looked { name: name.to_owned(), stack, drift }
}

/// What is not as the plan and the template have it.
pub fn judge(plan: &Plan, looked: &Looked) -> Vec<Finding> {
    let name = &looked.name;
    let stack = match &looked.stack {
        Ok(stack) => stack,
        Err(why) => {
            let remedy =
                format!("deploy it in {}, or name it with --stack if it is called otherwise", plan.regions.tertiary);
            return vec![unknown("stack", &format!("`{name}`: {why}"), remedy)];
        }
    };
    let status = &stack.status;
    let mut findings = vec![match status.as_str() {
        "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "IMPORT_COMPLETE" => good("stack", format!("`{name}` is {status}")),
        working if working.ends_with("_IN_PROGRESS") => {
            wrong("stack", format!("`{name}` is {working}"), "wait until its deployment has ended, then look again")
        }
        _ => wrong(
            "stack",
            format!("`{name}` is {status}: its last deployment did not succeed"),
            format!("read its events, mend what they name, and deploy again: {DEPLOY_AGAIN}"),
        ),
    }];
    findings.extend(parameters(plan, &stack.parameters));
    match &looked.drift {
        Some(Ok(drifted)) if drifted.is_empty() => {
            findings.push(good("drift", format!("nothing of `{name}` was changed past it")));
        }
        Some(Ok(drifted)) => findings.extend(drifted.iter().map(|drift| changed(name, drift))),
        Some(Err(why)) => findings.push(unknown(
            "drift",
            why,
            "allow cloudformation:DetectStackDrift and reading what the stack holds, then look again",
        )),
        None => {}
    }
    findings
}

fn parameters(plan: &Plan, deployed: &BTreeMap<String, String>) -> Vec<Finding> {
    let planned = of_plan(plan);
    let count = planned.len();
    let differ = planned.into_iter().filter_map(|(name, ours)| {
        let says = match deployed.get(name) {
            Some(theirs) if *theirs == ours => return None,
            Some(theirs) => format!("{name} is `{theirs}`, the plan has `{ours}`"),
            None => format!("the stack has no parameter {name}: it is of another version"),
        };
        Some(wrong("parameter", says, format!("deploy again: {DEPLOY_AGAIN}")))
    });
    let differ: Vec<Finding> = differ.collect();
    if differ.is_empty() {
        return vec![good("parameter", format!("all {count} that the plan decides are as it has them"))];
    }
    differ
}

fn changed(stack: &str, drift: &Drift) -> Finding {
    let resource = &drift.resource;
    if drift.status == "DELETED" {
        let says = format!("`{resource}` of `{stack}` was removed by hand");
        return wrong("drift", says, format!("deploy again, so that it is made anew: {DEPLOY_AGAIN}"));
    }
    let what = drift.properties.join(", ");
    wrong(
        "drift",
        format!("`{resource}` of `{stack}` was changed by hand: {what}"),
        "put the change into template.yaml or take it back; the next deployment may undo it",
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Standing;
    use super::*;

    fn deployed(plan: &Plan) -> Looked {
        let parameters = of_plan(plan).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let stack = Stack { status: "UPDATE_COMPLETE".to_owned(), parameters };
        Looked { name: "sparc-recovery".to_owned(), stack: Ok(stack), drift: Some(Ok(Vec::new())) }
    }

    #[test]
    fn a_stack_is_well_when_it_stands_as_the_plan_has_it_and_nobody_changed_it() {
        let plan = Plan::read(Path::new("../../plans/sparc.toml")).unwrap();
        type Change = fn(&mut Looked);
        let situations: [(&str, Change, Option<&str>); 6] = [
            ("as the plan has it", |_| {}, None),
            (
                "deployed from another plan",
                |looked| {
                    let stack = looked.stack.as_mut().unwrap();
                    stack.parameters.insert("NodeGroup".to_owned(), "spare".to_owned());
                },
                Some("NodeGroup is `spare`, the plan has `workers`"),
            ),
            (
                "deployed before a parameter was there",
                |looked| drop(looked.stack.as_mut().unwrap().parameters.remove("WalBucketName")),
                Some("the stack has no parameter WalBucketName"),
            ),
            (
                "its last deployment failed",
                |looked| looked.stack.as_mut().unwrap().status = "UPDATE_ROLLBACK_COMPLETE".to_owned(),
                Some("did not succeed"),
            ),
            (
                "changed by hand",
                |looked| {
                    let properties = vec!["/State".to_owned()];
                    let drift = Drift { resource: "ProbeSchedule".into(), status: "MODIFIED".into(), properties };
                    looked.drift = Some(Ok(vec![drift]));
                },
                Some("`ProbeSchedule` of `sparc-recovery` was changed by hand: /State"),
            ),
            (
                "a part of it removed by hand",
                |looked| {
                    let drift =
                        Drift { resource: "DeadLetters".into(), status: "DELETED".into(), properties: Vec::new() };
                    looked.drift = Some(Ok(vec![drift]));
                },
                Some("`DeadLetters` of `sparc-recovery` was removed by hand"),
            ),
        ];
        for (situation, change, expected) in situations {
            let mut looked = deployed(&plan);
            change(&mut looked);
            let findings = judge(&plan, &looked);
            let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.standing != Standing::Good).collect();
            match expected {
                None => assert!(bad.is_empty(), "{situation}: {bad:?}"),
                Some(words) => {
                    assert!(bad.len() == 1 && bad[0].says.contains(words), "{situation}: {bad:?}");
                    assert!(bad[0].remedy.is_some(), "{situation}");
                }
            }
        }
    }
}
