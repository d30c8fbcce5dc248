//! Runs on Step Functions as `drctl` sees, answers and ends them, on the lab's emulated AWS.

#![allow(clippy::unwrap_used)]

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lab::aws::{Aws as EmulatedAws, Seed, TERTIARY};
use notify::{Request, notify};
use recovery::{notice::Stage, plan::Plan, run::Run};
use recovery_aws::{
    Aws,
    step_functions::{Execution, Started},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A machine that opens a record, asks people, and ends with their answer.
fn machine(queue: &str) -> Value {
    json!({"QueryLanguage": "JSONata", "StartAt": "OpenRecord", "States": {
        "OpenRecord": {"Type": "Pass", "Assign": {"run": {
            "id": "{% $states.context.Execution.Name %}", "started_at": "{% $states.context.Execution.StartTime %}", "event": {}
        }}, "Next": "AwaitApproval"},
        "AwaitApproval": {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Arguments": {"QueueUrl": queue, "MessageBody": {"token": "{% $states.context.Task.Token %}"}},
            "TimeoutSeconds": 300, "Output": "{% $states.result %}", "End": true}
    }})
}

struct Cloud {
    emulated: EmulatedAws,
    plan: Plan,
    plan_file: PathBuf,
    aws: Aws,
    queue: String,
    machine: String,
    home: TempDir,
}

async fn cloud() -> Cloud {
    let emulated = EmulatedAws::start().await.unwrap();
    let seeded = emulated.seed(&Seed::default()).await.unwrap();
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(repository.join("plans/sparc.toml")).unwrap();
    let text = text.replacen("approvals = 1", "approvals = 2", 1);
    let home = TempDir::new().unwrap();
    let plan_file = home.path().join("plan.toml");
    std::fs::write(&plan_file, &text).unwrap();
    let mut plan = Plan::parse("plan.toml", &text).unwrap();
    for (level, topic) in plan.notification.levels.iter_mut().zip(&seeded.topics) {
        level.topic_arn = topic.clone();
    }
    let aws = Aws::from_environment(&plan, emulated.env()).await;
    let queue =
        emulated.json("sqs", TERTIARY, "AmazonSQS.CreateQueue", json!({"QueueName": "questions"})).await.unwrap();
    let queue = queue["QueueUrl"].as_str().unwrap().to_owned();
    let create = json!({
        "name": "sparc-regional-failover", "definition": machine(&queue).to_string(),
        "roleArn": "arn:aws:iam::111122223333:role/machine",
    });
    let made = emulated.json("states", TERTIARY, "AWSStepFunctions.CreateStateMachine", create).await.unwrap();
    let machine = made["stateMachineArn"].as_str().unwrap().to_owned();
    Cloud { emulated, plan, plan_file, aws, queue, machine, home }
}

impl Cloud {
    /// Starts an execution and lets the function that asks people do so.
    async fn asking(&self, run: &str) -> String {
        let started = self.aws.step_functions().start(&self.machine, run, &json!({})).await.unwrap();
        let Started::Running { arn } = started else { panic!("{started:?}") };
        let receive = json!({"QueueUrl": self.queue, "WaitTimeSeconds": 5});
        let token = loop {
            let answer =
                self.emulated.json("sqs", TERTIARY, "AmazonSQS.ReceiveMessage", receive.clone()).await.unwrap();
            let Some(message) = answer["Messages"].get(0) else { continue };
            let taken = json!({"QueueUrl": self.queue, "ReceiptHandle": message["ReceiptHandle"]});
            self.emulated.json("sqs", TERTIARY, "AmazonSQS.DeleteMessage", taken).await.unwrap();
            let body: Value = serde_json::from_str(message["Body"].as_str().unwrap()).unwrap();
            break body["token"].as_str().unwrap().to_owned();
        };
        let request = Request {
            run: Run::opened(run, Timestamp::now(), json!({})),
            stage: Stage::ApprovalNeeded,
            task_token: Some(token),
        };
        let (evidence, messenger) = (self.aws.evidence(), self.aws.messenger());
        notify(request, &self.plan, evidence.as_ref(), messenger.as_ref(), Timestamp::now()).await.unwrap();
        arn
    }

    async fn drctl(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output: Output = tokio::process::Command::new(env!("CARGO_BIN_EXE_drctl"))
            .args(arguments)
            .arg("--plan")
            .arg(&self.plan_file)
            .envs(self.emulated.env())
            .env("XDG_STATE_HOME", self.home.path())
            .current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    }

    async fn by(&self, who: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let arguments: Vec<&str> =
            arguments.iter().copied().chain(["--by", who, "--because", "the status page agrees"]).collect();
        self.drctl(&arguments).await
    }

    async fn ended(&self, arn: &str) -> Execution {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let execution = self.aws.step_functions().describe(arn).await.unwrap();
            if execution.status != "RUNNING" {
                return execution;
            }
            assert!(Instant::now() < deadline, "{execution:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn an_execution_waits_for_two_people_and_is_seen_from_anywhere() {
    let cloud = cloud().await;
    let arn = cloud.asking("cloud-7").await;
    let (code, said) = cloud.drctl(&["status", "cloud-7"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("cloud-7  running in AwaitApproval on Step Functions"), "{said}");
    assert!(said.contains("AWS said this 0 s ago"), "{said}");
    assert!(said.contains("was asked of 2, 2 must still confirm"), "{said}");
    let (_, list) = cloud.drctl(&["status"]).await;
    assert!(list.contains("cloud-7") && list.contains("running on Step Functions"), "{list}");

    let (code, said) = cloud.by("ann@sparc.com", &["approve", "cloud-7"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("one more person must confirm it"), "{said}");
    let (code, said) = cloud.by("ANN@sparc.com", &["approve", "cloud-7"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("it takes another person"), "{said}");
    assert_eq!(cloud.aws.step_functions().describe(&arn).await.unwrap().status, "RUNNING", "one person is not two");
    let (code, said) = cloud.by("bob@sparc.com", &["approve", "cloud-7", "--consent", "data-loss"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("on Step Functions"), "{said}");

    let execution = cloud.ended(&arn).await;
    assert_eq!(execution.status, "SUCCEEDED");
    let given = execution.output.unwrap();
    assert_eq!((&given["by"], &given["seconded_by"][0]["by"]), (&json!("ann@sparc.com"), &json!("bob@sparc.com")));
    assert_eq!(given["consents"][0]["by"], "bob@sparc.com");
    let (code, said) = cloud.by("cid@sparc.com", &["approve", "cloud-7"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("did not take the answer"), "{said}");
    let (_, said) = cloud.drctl(&["status", "cloud-7"]).await;
    assert!(said.contains("succeeded on Step Functions"), "{said}");
}

#[tokio::test]
async fn an_execution_is_refused_or_aborted_and_keeps_another_engine_away() {
    let cloud = cloud().await;
    let arn = cloud.asking("refused").await;
    let (code, said) = cloud.by("ann@sparc.com", &["reject", "refused"]).await;
    assert_eq!(code, Some(0), "one person is enough to refuse: {said}");
    let execution = cloud.ended(&arn).await;
    assert_eq!((execution.status.as_str(), execution.error.as_deref()), ("FAILED", Some("Recovery.Refused")));

    let arn = cloud.asking("aborted").await;
    let event = "events/regional-failover/manual-graceful.json";
    let (code, said) = cloud.drctl(&["run", "regional-failover", "--event", event]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("Step Functions runs `aborted` of regional-failover since"), "{said}");
    for (verb, why) in [("pause", "cannot do this"), ("retry", "cannot go back to a state")] {
        let (code, said) = cloud.by("ann@sparc.com", &[verb, "aborted"]).await;
        assert!(code == Some(2) && said.contains(why), "{said}");
    }
    let (code, said) = cloud.by("ann@sparc.com", &["abort", "aborted"]).await;
    assert_eq!(code, Some(0), "{said}");
    let execution = cloud.ended(&arn).await;
    assert_eq!((execution.status.as_str(), execution.error.as_deref()), ("ABORTED", Some("Recovery.Aborted")));
    assert!(execution.cause.unwrap().contains("aborted by ann@sparc.com: the status page agrees"));
    let evidence = &cloud.plan.buckets.evidence;
    let kept = cloud.emulated.object(evidence, "interventions/aborted.json").await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap()[0]["deed"]["kind"], "abort");
    let (_, said) = cloud.drctl(&["status", "aborted"]).await;
    assert!(said.contains("aborted on Step Functions"), "{said}");

    // The emulator knows no redrive; whatever Step Functions says to it, it is one line and changes nothing.
    let (code, said) = cloud.by("ann@sparc.com", &["redrive", "aborted"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}
