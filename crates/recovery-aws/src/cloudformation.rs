//! A stack as it is deployed: its state, its parameters, and what was changed past it.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    signed::{Signed, every, members, parsed, text},
    trouble::{Kind, Trouble},
};

/// One look whether a detection of drift has ended, and how many of them are taken.
const LOOK: Duration = Duration::from_secs(2);
const LOOKS: u32 = 60;

/// CloudFormation of one region.
#[derive(Clone, Debug)]
pub struct CloudFormation {
    client: Signed,
}

/// A stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// `CREATE_COMPLETE`, `UPDATE_ROLLBACK_COMPLETE`, …
    pub status: String,
    /// Parameters as they were given or defaulted.
    pub parameters: BTreeMap<String, String>,
}

/// A resource that is not as the stack made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Its name in the template.
    pub resource: String,
    /// `MODIFIED` or `DELETED`.
    pub status: String,
    /// The properties that differ.
    pub properties: Vec<String>,
}

impl CloudFormation {
    pub(crate) fn new(client: Signed) -> CloudFormation {
        CloudFormation { client }
    }

    /// A stack by its name.
    ///
    /// # Errors
    /// The service's; [`Kind::Missing`] if there is none.
    pub async fn stack(&self, name: &str) -> Result<Stack, Trouble> {
        let answer = self.client.call("DescribeStacks", &named(name)).await.map_err(missing)?;
        let document = parsed("CloudFormation", &answer)?;
        let stack = members(document.root(), "Stacks").next();
        let stack = stack.ok_or_else(|| Trouble::unexpected("CloudFormation answered without a stack"))?;
        let parameters = members(stack, "Parameters").filter_map(|parameter| {
            let value = text(parameter, "ParameterValue").unwrap_or_default();
            Some((text(parameter, "ParameterKey")?.to_owned(), value.to_owned()))
        });
        let status = text(stack, "StackStatus").unwrap_or("UNKNOWN").to_owned();
        Ok(Stack { status, parameters: parameters.collect() })
    }

    /// Lets CloudFormation compare every resource of a stack with what the stack made, which takes it up to two minutes and
    /// changes none, and gives those that differ. Resources of types that it cannot compare are passed over.
    /// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-stack-drift.html>
    ///
    /// # Errors
    /// The service's; [`Kind::Unavailable`] if the detection fails or does not end.
    pub async fn drift(&self, stack: &str) -> Result<Vec<Drift>, Trouble> {
        let started = self.client.call("DetectStackDrift", &named(stack)).await.map_err(missing)?;
        let id = field("StackDriftDetectionId", &started)?;
        let ask = [("StackDriftDetectionId".to_owned(), id)];
        for look in 0.. {
            let answer = self.client.call("DescribeStackDriftDetectionStatus", &ask).await?;
            match field("DetectionStatus", &answer)?.as_str() {
                "DETECTION_COMPLETE" => break,
                "DETECTION_IN_PROGRESS" if look < LOOKS => tokio::time::sleep(LOOK).await,
                other => return Err(Trouble::unexpected(format!("the detection of drift is {other}"))),
            }
        }
        let mut filter = named(stack);
        for (index, status) in ["MODIFIED", "DELETED"].into_iter().enumerate() {
            filter.push((format!("StackResourceDriftStatusFilters.member.{}", index + 1), status.to_owned()));
        }
        let answer = self.client.call("DescribeStackResourceDrifts", &filter).await?;
        let document = parsed("CloudFormation", &answer)?;
        let drifted = members(document.root(), "StackResourceDrifts").map(|resource| Drift {
            resource: text(resource, "LogicalResourceId").unwrap_or_default().to_owned(),
            status: text(resource, "StackResourceDriftStatus").unwrap_or_default().to_owned(),
            properties: every(resource, "PropertyPath").filter_map(|path| path.text()).map(str::to_owned).collect(),
        });
        Ok(drifted.collect())
    }
}

fn named(stack: &str) -> Vec<(String, String)> {
    vec![("StackName".to_owned(), stack.to_owned())]
}

fn field(name: &'static str, answer: &str) -> Result<String, Trouble> {
    let document = parsed("CloudFormation", answer)?;
    let found = every(document.root(), name).next().and_then(|node| node.text()).map(str::to_owned);
    found.ok_or_else(|| Trouble::unexpected(format!("CloudFormation answered without {name}")))
}

/// CloudFormation calls a stack that is not there a `ValidationError`, as it does a wrong name.
fn missing(trouble: Trouble) -> Trouble {
    if trouble.is("ValidationError") && trouble.text.contains("does not exist") {
        Trouble { kind: Kind::Missing, ..trouble }
    } else {
        trouble
    }
}
