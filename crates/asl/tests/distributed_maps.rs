//! Distributed Maps: child executions of their own, items from storage, batches, results that are written.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use asl::{
    Execution, ExecutionOutcome, ExecutionStatus, HistoryEvent, Machine, Settings, TaskCall, TaskHandler, TaskOutcome,
    VirtualClock,
};
use async_trait::async_trait;
use serde_json::{Value, json};

/// Storage that gives its answers in order and keeps what it was asked.
#[derive(Default)]
struct Storage {
    answers: Mutex<VecDeque<TaskOutcome>>,
    asked: Mutex<Vec<(String, Value)>>,
}

impl Storage {
    fn of(answers: Vec<Value>) -> Storage {
        let answers = Mutex::new(answers.into_iter().map(TaskOutcome::success).collect());
        Storage { answers, ..Storage::default() }
    }
}

#[async_trait]
impl TaskHandler for Storage {
    async fn invoke(&self, call: TaskCall) -> TaskOutcome {
        self.asked.lock().unwrap().push((call.resource.arn.to_string(), call.payload.value().clone()));
        let answer = self.answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| TaskOutcome::failure("S3.NoSuchKeyException", "there is no such object"))
    }
}

struct Run {
    outcome: ExecutionOutcome,
    events: Vec<HistoryEvent>,
}

impl Run {
    fn output(&self) -> &Value {
        assert_eq!(self.outcome.status, ExecutionStatus::Succeeded, "{:?}", self.outcome);
        self.outcome.output.as_ref().unwrap().value()
    }

    fn shape(&self) -> Vec<(u64, u64, &'static str)> {
        self.events.iter().map(|event| (event.id, event.previous_event_id, event.event_type.as_str())).collect()
    }

    fn failure(&self) -> (&str, &str) {
        assert_eq!(self.outcome.status, ExecutionStatus::Failed, "{:?}", self.outcome);
        (self.outcome.error.as_deref().unwrap_or(""), self.outcome.cause.as_deref().unwrap_or(""))
    }
}

/// A distributed Map in this language whose child executions run `inner`, with more fields.
fn map(language: &str, inner: Value, fields: Value) -> Value {
    let mut state = json!({"Type": "Map", "End": true, "ItemProcessor": {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "StartAt": "I", "States": {"I": inner}}});
    for (key, value) in fields.as_object().unwrap() {
        state[key] = value.clone();
    }
    json!({"QueryLanguage": language, "StartAt": "M", "States": {"M": state}})
}

fn same() -> Value {
    json!({"Type": "Pass", "End": true})
}

async fn run(definition: Value, input: Value, storage: &Storage) -> Run {
    let machine = Machine::parse(&definition.to_string()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let clock = VirtualClock::at("2026-01-02T03:04:05.678Z".parse().unwrap());
    let mut events = Vec::new();
    let settings = Settings::new("us-east-1", "111122223333", "Machine", "run");
    let outcome = Execution::start(Arc::new(machine), input, settings).run(storage, &clock, &mut events).await.unwrap();
    Run { outcome, events }
}

#[tokio::test]
async fn the_run_has_its_own_events_and_the_states_inside_have_none() {
    let run =
        run(map("JSONata", same(), json!({"Items": [1, 2], "Label": "Nodes"})), json!({}), &Storage::default()).await;
    assert_eq!(run.output(), &json!([1, 2]));
    assert_eq!(
        run.shape(),
        [
            (1, 0, "ExecutionStarted"),
            (2, 0, "MapStateEntered"),
            (3, 2, "MapStateStarted"),
            (4, 3, "MapRunStarted"),
            (5, 4, "MapRunSucceeded"),
            (6, 5, "MapStateSucceeded"),
            (7, 4, "MapStateExited"),
            (8, 7, "ExecutionSucceeded"),
        ]
    );
    let arn = run.events[3].text("mapRunArn").unwrap();
    assert!(arn.starts_with("arn:aws:states:us-east-1:111122223333:mapRun:Machine/Nodes:"), "{arn}");
}

#[tokio::test]
async fn a_child_execution_sees_itself_and_nothing_of_the_one_that_started_it() {
    let inner = json!({"Type": "Pass", "End": true, "Output": {
        "machine": "{% $states.context.StateMachine.Name %}", "input": "{% $states.context.Execution.Input %}",
        "item": "{% $exists($states.context.Map) %}", "outer": "{% $exists($outer) %}"}});
    let mut definition = map(
        "JSONata",
        inner,
        json!({"Items": ["a"], "Label": "L", "ItemSelector": {"v": "{% $states.context.Map.Item.Value & $outer %}"}}),
    );
    definition["StartAt"] = json!("P");
    definition["States"]["P"] = json!({"Type": "Pass", "Assign": {"outer": "!"}, "Next": "M"});
    let run = run(definition, json!({}), &Storage::default()).await;
    assert_eq!(run.output(), &json!([{"machine": "Machine/L", "input": {"v": "a!"}, "item": false, "outer": false}]));
}

#[tokio::test]
async fn what_ends_a_child_execution_is_a_failed_item_however_deep_it_happened() {
    let broken = json!({"Type": "Parallel", "End": true, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "I"}], "Branches": [
        {"StartAt": "A", "States": {"A": {"Type": "Pass", "InputPath": "$.missing", "End": true}}},
        {"StartAt": "B", "States": {"B": {"Type": "Wait", "Seconds": 60, "End": true}}}]});
    let fields = json!({"ItemsPath": "$.items", "ToleratedFailurePercentagePath": "$.percentage"});
    let definition = map("JSONPath", broken, fields);
    let tolerant =
        run(definition.clone(), json!({"items": [{"missing": 1}, {}], "percentage": 50.0}), &Storage::default()).await;
    assert_eq!(tolerant.output(), &json!([[1, {"missing": 1}]]));
    let strict = run(definition, json!({"items": [{"missing": 1}, {}], "percentage": 49.9}), &Storage::default()).await;
    assert_eq!(
        strict.failure(),
        ("States.ExceedToleratedFailureThreshold", "The specified tolerated failure threshold was exceeded")
    );
    let types: Vec<&str> = strict.events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types[4..], ["MapRunFailed", "MapStateFailed", "ExecutionFailed"]);
}

#[tokio::test]
async fn thresholds_that_are_no_numbers_end_the_execution_after_the_map_has_started() {
    let start = "An error occurred while executing the state 'M' (entered at the event id #2). ";
    for (fields, input, cause) in [
        (json!({"ToleratedFailureCountPath": "$.n"}), json!(-1), "ToleratedFailureCount cannot be negative."),
        (
            json!({"ToleratedFailureCountPath": "$.n"}),
            json!({}),
            "The ToleratedFailureCountPath field refers to value \"{}\" which is not a valid integer: $.n",
        ),
        (
            json!({"ToleratedFailurePercentagePath": "$.n"}),
            json!("x"),
            "The ToleratedFailurePercentagePath field refers to value \"x\" which is not a valid float: $.n",
        ),
        (
            json!({"ToleratedFailurePercentagePath": "$.n"}),
            json!(100.1),
            "ToleratedFailurePercentage must be between 0 and 100.",
        ),
        (
            json!({"ToleratedFailurePercentagePath": "$.none"}),
            json!(1),
            "Invalid path '$.none' : No results for path: $['none']",
        ),
    ] {
        let mut fields = fields;
        fields["ItemsPath"] = json!("$.items");
        let run = run(map("JSONPath", same(), fields), json!({"items": [0], "n": input}), &Storage::default()).await;
        assert_eq!(run.failure(), ("States.Runtime", format!("{start}{cause}").as_str()));
        assert_eq!(run.shape()[2..], [(3, 2, "MapStateStarted"), (4, 3, "ExecutionFailed")]);
    }
}

fn reader(resource: &str, config: Value) -> Value {
    json!({"Resource": format!("arn:aws:states:::s3:{resource}"), "Arguments": {"Bucket": "{% $states.input.bucket %}"}, "ReaderConfig": config})
}

#[tokio::test]
async fn items_are_read_from_objects() {
    for (config, body, items) in [
        (json!({"InputType": "JSON"}), "[1, 2]", json!([1, 2])),
        (json!({"InputType": "JSON", "ItemsPointer": "/a"}), r#"{"a": [3]}"#, json!([3])),
        (json!({"InputType": "JSON", "MaxItems": 1}), "[1, 2]", json!([1])),
        (json!({"InputType": "JSON", "MaxItems": "{% 0 %}"}), "[1, 2]", json!([1, 2])),
        (json!({"InputType": "JSONL"}), "{\"a\": 1}\n2", json!([{"a": 1}, 2])),
        (json!({"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW"}), "a,b\n1,2\n", json!([{"a": "1", "b": "2"}])),
        (
            json!({"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["x"], "CSVDelimiter": "TAB"}),
            "1\t2\n",
            json!([{"x": "1"}]),
        ),
    ] {
        let storage = Storage::of(vec![json!({"Body": body})]);
        let definition = map("JSONata", same(), json!({"ItemReader": reader("getObject", config)}));
        let run = run(definition, json!({"bucket": "b"}), &storage).await;
        assert_eq!(run.output(), &items);
        assert_eq!(run.events[2].detail("length"), Some(&asl::Detail::Number(0)));
        let asked = storage.asked.lock().unwrap();
        assert_eq!(*asked, [("arn:aws:states:::s3:getObject".to_owned(), json!({"Bucket": "b"}))]);
    }
}

#[tokio::test]
async fn a_listing_is_read_page_by_page() {
    let storage = Storage::of(vec![
        json!({"Contents": [{"Key": "a"}, {"Key": "b"}], "NextContinuationToken": "t"}),
        json!({"Contents": [{"Key": "c"}]}),
    ]);
    let definition = map("JSONata", same(), json!({"ItemReader": reader("listObjectsV2", json!({}))}));
    let run = run(definition, json!({"bucket": "b"}), &storage).await;
    assert_eq!(run.output(), &json!([{"Key": "a"}, {"Key": "b"}, {"Key": "c"}]));
    assert_eq!(storage.asked.lock().unwrap()[1].1, json!({"Bucket": "b", "ContinuationToken": "t"}));
}

#[tokio::test]
async fn a_reader_that_fails_fails_the_run_and_can_be_caught() {
    let by_path = |path: &str| {
        json!({"ItemReader": {"Resource": "arn:aws:states:::s3:getObject", "Parameters": {"Bucket": "b", "Key": "k"},
            "ReaderConfig": {"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW", "MaxItemsPath": path}}})
    };
    let missing = run(map("JSONPath", same(), by_path("$.n")), json!({"n": 1}), &Storage::default()).await;
    assert_eq!(missing.failure(), ("States.ItemReaderFailed", "there is no such object"));
    assert_eq!(
        missing.shape()[3..],
        [(4, 3, "MapRunStarted"), (5, 4, "MapRunFailed"), (6, 5, "MapStateFailed"), (7, 6, "ExecutionFailed")]
    );
    let negative = run(map("JSONPath", same(), by_path("$.n")), json!({"n": -1}), &Storage::default()).await;
    assert_eq!(negative.failure(), ("States.ItemReaderFailed", "field MaxItems must be positive"));
    let broken = run(map("JSONPath", same(), by_path("$.n")), json!({"n": 1.5}), &Storage::default()).await;
    assert_eq!(broken.failure().0, "States.Runtime");
    assert!(
        broken
            .failure()
            .1
            .ends_with("The MaxItemsPath field refers to value \"1.5\" which is not a valid integer: $.n")
    );

    let mut fields = by_path("$.n");
    fields["Catch"] = json!([{"ErrorEquals": ["States.ItemReaderFailed"], "Next": "C"}]);
    let mut definition = map("JSONPath", same(), fields);
    definition["States"]["C"] = json!({"Type": "Pass", "Result": "caught", "End": true});
    let storage = Storage::of(vec![json!({"Body": "a,a\n1,2"})]);
    assert_eq!(run(definition, json!({"n": 1}), &storage).await.output(), &json!("caught"));
}

#[tokio::test]
async fn items_are_put_into_batches_after_they_were_selected() {
    let fields = json!({"Items": [1, 2, 3, 4, 5], "ItemSelector": {"n": "{% $states.context.Map.Item.Value * 10 %}"},
        "ItemBatcher": {"MaxItemsPerBatch": "{% $states.input.most %}", "BatchInput": {"for": "{% $states.input.who %}"}}});
    let by_count = run(map("JSONata", same(), fields), json!({"most": 2, "who": "us"}), &Storage::default()).await;
    assert_eq!(
        by_count.output(),
        &json!([
            {"BatchInput": {"for": "us"}, "Items": [{"n": 10}, {"n": 20}]},
            {"BatchInput": {"for": "us"}, "Items": [{"n": 30}, {"n": 40}]},
            {"BatchInput": {"for": "us"}, "Items": [{"n": 50}]}
        ])
    );
    // {"Items":["aaaaa","aaaaa"]} has 27 bytes.
    let fields = json!({"ItemsPath": "$.items", "ItemBatcher": {"MaxInputBytesPerBatchPath": "$.bytes"}});
    let definition = map("JSONPath", same(), fields);
    let input = |bytes: u64| json!({"items": ["aaaaa", "aaaaa", "aaaaa"], "bytes": bytes});
    let wide = run(definition.clone(), input(27), &Storage::default()).await;
    assert_eq!(wide.output(), &json!([{"Items": ["aaaaa", "aaaaa"]}, {"Items": ["aaaaa"]}]));
    let narrow = run(definition, input(26), &Storage::default()).await;
    assert_eq!(narrow.output().as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn results_are_shown_in_the_form_the_writer_asks_for() {
    let fields = |transformation: &str| json!({"Items": [[1], [2, 3]], "ResultWriter": {"WriterConfig": {"Transformation": transformation}}});
    let compact = run(map("JSONata", same(), fields("COMPACT")), json!({}), &Storage::default()).await;
    assert_eq!(compact.output(), &json!([[1], [2, 3]]));
    let flat = run(map("JSONata", same(), fields("FLATTEN")), json!({}), &Storage::default()).await;
    assert_eq!(flat.output(), &json!([1, 2, 3]));
    let whole = run(map("JSONata", same(), fields("NONE")), json!({}), &Storage::default()).await;
    let first = &whole.output()[0];
    assert_eq!(
        (&first["Input"], &first["Output"], &first["Status"]),
        (&json!("[1]"), &json!("[1]"), &json!("SUCCEEDED"))
    );
    assert!(
        first["ExecutionArn"].as_str().unwrap().starts_with("arn:aws:states:us-east-1:111122223333:execution:Machine/")
    );
}

#[tokio::test]
async fn results_are_written_and_the_manifest_comes_last() {
    let inner =
        json!({"Type": "Choice", "Choices": [{"Condition": "{% $states.input = 2 %}", "Next": "F"}], "Default": "S"});
    let mut definition = map(
        "JSONata",
        inner,
        json!({"Items": [1, 2], "ToleratedFailureCount": 1, "Label": "L",
        "ResultWriter": {"Resource": "arn:aws:states:::s3:putObject", "Arguments": {"Bucket": "out", "Prefix": "jobs"},
            "WriterConfig": {"Transformation": "COMPACT", "OutputType": "JSONL"}}}),
    );
    let states = &mut definition["States"]["M"]["ItemProcessor"]["States"];
    states["F"] = json!({"Type": "Fail", "Error": "Odd", "Cause": "why"});
    states["S"] = json!({"Type": "Succeed"});
    let storage = Storage::of(vec![json!({}), json!({}), json!({})]);
    let ran = run(definition.clone(), json!({}), &storage).await;
    let asked = storage.asked.lock().unwrap().clone();
    let id = ran.events[3].text("mapRunArn").unwrap().rsplit_once(':').unwrap().1;
    let keys: Vec<&str> = asked.iter().map(|(_, object)| object["Key"].as_str().unwrap()).collect();
    let prefix = format!("jobs/{id}");
    assert_eq!(
        keys,
        [format!("{prefix}/SUCCEEDED_0.jsonl"), format!("{prefix}/FAILED_0.jsonl"), format!("{prefix}/manifest.json")]
    );
    assert_eq!(asked[0].1["Body"], json!("1"));
    let failed: Value = serde_json::from_str(asked[1].1["Body"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&failed["Error"], &failed["Cause"], &failed["Status"]),
        (&json!("Odd"), &json!("why"), &json!("FAILED"))
    );
    let details = json!({"Bucket": "out", "Key": format!("{prefix}/manifest.json")});
    assert_eq!(ran.output()["ResultWriterDetails"], details);

    let unwritten = run(definition, json!({}), &Storage::default()).await;
    assert_eq!(unwritten.failure(), ("States.ResultWriterFailed", "there is no such object"));
}

#[tokio::test]
async fn a_map_without_items_still_has_a_run() {
    let run = run(map("JSONata", same(), json!({"Items": []})), json!({}), &Storage::default()).await;
    assert_eq!(run.output(), &json!([]));
    assert!(run.events.iter().any(|event| event.event_type.as_str() == "MapRunSucceeded"));
}
