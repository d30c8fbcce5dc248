//! A redrive as it goes over the wire: no emulator knows `RedriveExecution`, so this is compared with AWS's reference.
//! <https://docs.aws.amazon.com/step-functions/latest/apireference/API_RedriveExecution.html>

#![allow(clippy::unwrap_used)]

use recovery::plan::Plan;
use recovery_aws::{Aws, step_functions::Redriven};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Answers one request, and gives its head and body.
async fn answering(listener: &TcpListener, status: &str, body: &str) -> (String, Value) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    let (head, body_at) = loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        assert!(read > 0, "the request broke off");
        request.extend_from_slice(&chunk[..read]);
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break (String::from_utf8(request[..at].to_vec()).unwrap().to_lowercase(), at + 4);
        }
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
    while request.len() < body_at + length {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        request.extend_from_slice(&chunk[..read]);
    }
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    (head, serde_json::from_slice(&request[body_at..]).unwrap())
}

#[tokio::test]
async fn a_redrive_names_the_execution_and_what_makes_it_one_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let plan = Plan::parse("plans/sparc.toml", include_str!("../../../plans/sparc.toml")).unwrap();
    let environment =
        [("AWS_ENDPOINT_URL", url.as_str()), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let step_functions = Aws::from_environment(&plan, environment).await.step_functions();
    let arn = "arn:aws:states:eu-west-1:111122223333:execution:regional-failover:failover-7";

    let (redriven, (head, body)) = tokio::join!(
        step_functions.redrive(arn, "17-redrive-1"),
        answering(&listener, "200 OK", r#"{"redriveDate": 1763953455.5}"#)
    );
    assert_eq!(redriven.unwrap(), Redriven::At("2025-11-24T03:04:15.5Z".parse().unwrap()));
    assert!(head.contains("x-amz-target: awsstepfunctions.redriveexecution"), "{head}");
    assert_eq!(body, json!({"executionArn": arn, "clientToken": "17-redrive-1"}));

    let refusal = r#"{"__type": "ExecutionNotRedrivable", "message": "Execution has exceeded the redrivable period"}"#;
    let (refused, _) =
        tokio::join!(step_functions.redrive(arn, "17-redrive-1"), answering(&listener, "400 Bad Request", refusal));
    let Redriven::Refused(why) = refused.unwrap() else { panic!("it is refused") };
    assert!(why.contains("exceeded the redrivable period"), "{why}");
}
