//! The function's own process behind Lambda's runtime interface: what a state machine gets to see.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use lab::{
    aws::{Aws, Seed},
    lambda::Function,
};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_notify");

fn event(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/notify").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn the_process_answers_like_lambda() {
    let aws = Aws::start().await.unwrap();
    let seeded = aws.seed(&Seed::default()).await.unwrap();
    let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plans/sparc.toml");
    let mut env = aws.env();
    env.push(("RECOVERY_PLAN".to_owned(), plan.display().to_string()));
    let function = Function::start(Path::new(BINARY), env).await.unwrap();

    let told = function.invoke(&event("declared.json")).await.unwrap();
    assert_eq!(told["stage"], "declared", "{told}");
    assert_eq!(aws.sent(&seeded).await.unwrap().len(), 1);

    // A wrong event is a mistake of a developer, by the name that machines match, and the process lives on.
    let refused = function.invoke(&json!({ "stage": "declared" })).await.unwrap();
    assert_eq!(refused["errorType"], "Recovery.Permanent", "{refused}");
    assert!(refused["errorMessage"].as_str().unwrap().contains("compare it with events/notify"), "{refused}");

    let again = function.invoke(&event("declared.json")).await.unwrap();
    assert_eq!(again["message"], told["message"], "the message went out twice");
    assert!(function.logged().contains("\"run.id\""), "{}", function.logged());
}

#[tokio::test]
async fn without_a_plan_every_event_is_answered_with_what_is_missing() {
    let env = vec![("RECOVERY_PLAN".to_owned(), "/nowhere/plan.toml".to_owned())];
    let function = Function::start(Path::new(BINARY), env).await.unwrap();
    let refused = function.invoke(&event("declared.json")).await.unwrap();
    assert_eq!(refused["errorType"], "Recovery.Permanent", "{refused}");
    assert!(refused["errorMessage"].as_str().unwrap().contains("/nowhere/plan.toml"), "{refused}");
}
