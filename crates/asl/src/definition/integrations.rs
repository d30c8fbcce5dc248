//! The optimised integrations of Step Functions, and how each may be waited for.
//! <https://docs.aws.amazon.com/step-functions/latest/dg/integrate-optimized.html>
//!
//! What is not in the table is not refused: services are added faster than tables. A service that is in it has these actions.

use super::{Resource, ResourceKind, nearest};

/// How an action can be waited for, beside its plain answer.
#[derive(Clone, Copy)]
struct Waits {
    job: bool,
    token: bool,
}

const ANSWER: Waits = Waits { job: false, token: false };
const JOB: Waits = Waits { job: true, token: false };
const TOKEN: Waits = Waits { job: false, token: true };
const BOTH: Waits = Waits { job: true, token: true };

/// Actions of a service.
type Actions = &'static [(&'static str, Waits)];

const SERVICES: &[(&str, Actions)] = &[
    ("apigateway", &[("invoke", TOKEN)]),
    (
        "athena",
        &[
            ("startQueryExecution", JOB),
            ("stopQueryExecution", ANSWER),
            ("getQueryExecution", ANSWER),
            ("getQueryResults", ANSWER),
        ],
    ),
    ("batch", &[("submitJob", JOB)]),
    ("databrew", &[("startJobRun", JOB)]),
    ("dynamodb", &[("getItem", ANSWER), ("putItem", ANSWER), ("updateItem", ANSWER), ("deleteItem", ANSWER)]),
    ("ecs", &[("runTask", BOTH)]),
    (
        "eks",
        &[
            ("call", ANSWER),
            ("runJob", JOB),
            ("createCluster", JOB),
            ("deleteCluster", JOB),
            ("createFargateProfile", JOB),
            ("deleteFargateProfile", JOB),
            ("createNodegroup", JOB),
            ("deleteNodegroup", JOB),
        ],
    ),
    ("events", &[("putEvents", TOKEN)]),
    ("glue", &[("startJobRun", JOB)]),
    ("http", &[("invoke", ANSWER)]),
    ("lambda", &[("invoke", TOKEN)]),
    ("mediaconvert", &[("createJob", JOB)]),
    ("sns", &[("publish", TOKEN)]),
    ("sqs", &[("sendMessage", TOKEN)]),
    ("states", &[("startExecution", BOTH)]),
];

/// Why Step Functions refuses a resource; `None` when it does not, or when that cannot be known here.
pub(super) fn refusal(resource: &Resource) -> Option<String> {
    let ResourceKind::Integration { service, action, .. } = &resource.kind else { return None };
    let (name, suffix) = match action.split_once('.') {
        Some((name, suffix)) => (name, Some(suffix)),
        None => (&**action, None),
    };
    if service.starts_with("aws-sdk:") {
        let waits = matches!(suffix, None | Some("waitForTaskToken"));
        return (!waits).then(|| {
            format!(
                "calls of the SDK do not wait for a job: remove `.{}`, or use the service's own integration",
                suffix.unwrap_or_default()
            )
        });
    }
    let (_, actions) = SERVICES.iter().find(|(known, _)| *known == &**service)?;
    let Some((_, waits)) = actions.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = actions.iter().map(|(known, _)| *known).collect();
        let hint = match nearest(name, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it has {}; others are called as `aws-sdk:{service}:…`", known.join(", ")),
        };
        return Some(format!("`{service}` has no action `{name}` here: {hint}"));
    };
    let fits = match suffix {
        None => true,
        Some("sync") => waits.job,
        Some("sync:2") => waits.job && &**service == "states",
        Some("waitForTaskToken") => waits.token,
        Some(_) => false,
    };
    (!fits).then(|| {
        let ways: Vec<&str> = [(waits.job, "`.sync`"), (waits.token, "`.waitForTaskToken`")]
            .into_iter()
            .filter_map(|(can, way)| can.then_some(way))
            .collect();
        let ways = if ways.is_empty() { "only its answer can be waited for".to_owned() } else { ways.join(" or ") };
        format!("`{service}:{name}` has no `.{}`: {ways}", suffix.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aws_runs_is_not_refused_and_what_it_does_not_know_is() {
        let refused = |name: &str| refusal(&Resource::parse(&format!("arn:aws:states:::{name}")).unwrap());
        for good in [
            "lambda:invoke",
            "lambda:invoke.waitForTaskToken",
            "states:startExecution.sync:2",
            "states:startExecution.waitForTaskToken",
            "ecs:runTask.sync",
            "eks:runJob.sync",
            "eks:call",
            "dynamodb:getItem",
            "aws-sdk:s3:listObjectsV2",
            "aws-sdk:sfn:startExecution.waitForTaskToken",
            "newservice:doIt.sync",
        ] {
            assert_eq!(refused(good), None, "{good}");
        }
        for (bad, part) in [
            ("lambda:invok", "did you mean `invoke`?"),
            ("lambda:invoke.sync", "`.waitForTaskToken`"),
            ("dynamodb:query", "`aws-sdk:dynamodb:…`"),
            ("dynamodb:getItem.sync", "only its answer"),
            ("eks:runJob.waitForTaskToken", "`.sync`"),
            ("sqs:sendMessage.sync:2", "`.waitForTaskToken`"),
            ("glue:startJobRun.sync:2", "`.sync`"),
            ("aws-sdk:glue:startJobRun.sync", "do not wait"),
        ] {
            assert!(refused(bad).is_some_and(|message| message.contains(part)), "{bad}: {:?}", refused(bad));
        }
    }
}
