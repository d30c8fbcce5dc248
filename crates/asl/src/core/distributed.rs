//! Distributed Maps: a run of child executions, with items that may be read from storage and results that may go there.
//! <https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html>
//!
//! On AWS each iteration is an execution of its own, with its own history; here it is a frame that leaves no events and
//! sees nothing of the execution that started it. What Step Functions does in S3 on behalf of the state (`ItemReader`,
//! `ResultWriter`) is a call like any other, so that the handler decides where the objects are.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Children, Core, Effect, Frame, Given, MapState, Phase, Trouble, Turn, evaluation_trouble, failure_details,
    no_results, unexpected_type, while_executing,
};
use crate::definition::{
    Batcher, Distribution, Machine, Percentage, Resource, State, StateKind, Transformation, Writer,
};
use crate::history::{Detail, EventType, iso_instant};
use crate::items;
use crate::payload::{MAX_PAYLOAD_BYTES, Payload, size_bytes};
use crate::task::{TaskCall, TaskOutcome};
use crate::template::{Amount, Query, Spot};

/// Child executions that run at the same time.
const MAX_CONCURRENCY: u64 = 10_000;

/// What a child execution knows of itself: the context object it sees.
#[derive(Debug)]
pub(super) struct ChildExecution {
    name: String,
    arn: String,
    machine_name: String,
    machine_arn: String,
    input: Payload,
    started_at: Timestamp,
}

impl ChildExecution {
    pub(super) fn describe(&self, context: &mut Value) {
        context["Execution"]["Id"] = self.arn.as_str().into();
        context["Execution"]["Name"] = self.name.as_str().into();
        context["Execution"]["Input"] = self.input.value().clone();
        context["Execution"]["StartTime"] = iso_instant(self.started_at).into();
        context["StateMachine"]["Id"] = self.machine_arn.as_str().into();
        context["StateMachine"]["Name"] = self.machine_name.as_str().into();
    }
}

/// One run of a distributed Map.
#[derive(Debug)]
pub(super) struct MapRun {
    arn: String,
    id: String,
    /// The machine's name and the run's label, which are the name of the child executions' machine.
    machine_name: String,
    machine_arn: String,
    execution_prefix: String,
    /// The items are batches: what `ItemSelector` does has been done.
    pub(super) batched: bool,
    tolerance: Tolerance,
    /// How each child execution ended, when the results are to be written with that.
    records: Option<Vec<Value>>,
}

/// How many child executions may fail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    pub(super) count: Option<u64>,
    pub(super) percentage: Option<f64>,
}

/// A run waits for its items.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) call: u64,
    run: Box<MapRun>,
    arguments: Value,
    limit: u64,
    max_items: Option<u64>,
    /// What earlier pages of a listing gave.
    found: Vec<Value>,
}

/// A run has ended and its results are being written.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) call: u64,
    objects: VecDeque<Value>,
    result: Value,
}

impl MapRun {
    /// Notes how a child execution ended, if anybody will ask.
    pub(super) fn note(&mut self, slot: usize, child: &Frame, now: Timestamp, ended: Result<&Payload, &Trouble>) {
        let (Some(records), Some(own)) = (&mut self.records, &child.own) else { return };
        let mut record = json!({
            "ExecutionArn": own.arn,
            "Input": own.input.to_text(),
            "InputDetails": {"Included": true},
            "Name": own.name,
            "RedriveCount": 0,
            "StartDate": iso_instant(own.started_at),
            "StateMachineArn": self.machine_arn,
            "StopDate": iso_instant(now),
        });
        match ended {
            Ok(output) => {
                record["Output"] = output.to_text().into();
                record["OutputDetails"] = json!({"Included": true});
                record["Status"] = "SUCCEEDED".into();
            }
            Err(trouble) => {
                record["Error"] = trouble.error.as_deref().into();
                record["Cause"] = trouble.cause.as_deref().into();
                record["Status"] = "FAILED".into();
            }
        }
        if records.len() <= slot {
            records.resize(slot + 1, Value::Null);
        }
        records[slot] = record;
    }
}

impl Tolerance {
    /// Whether more child executions have failed than may; of both limits the one that is reached first counts.
    fn is_exceeded(self, failed: usize, total: usize) -> bool {
        if self.count.is_none() && self.percentage.is_none() {
            return failed > 0;
        }
        self.count.is_some_and(|count| failed as u64 > count)
            || self.percentage.is_some_and(|percentage| failed as f64 * 100.0 > percentage * total as f64)
    }
}

impl Core {
    /// The child execution of a distributed Map that a frame belongs to.
    pub(super) fn child_execution<'a>(&'a self, frame: &'a Frame) -> Option<&'a ChildExecution> {
        let mut holder = Some(frame);
        while let Some(current) = holder {
            if let Some(own) = &current.own {
                return Some(own);
            }
            holder = current.parent.and_then(|(parent, _)| self.frames.get(&parent));
        }
        None
    }

    pub(super) fn new_child_execution(&mut self, run: &MapRun, input: &Payload) -> Arc<ChildExecution> {
        let name = self.random.uuid();
        Arc::new(ChildExecution {
            arn: format!("{}:{name}", run.execution_prefix),
            name,
            machine_name: run.machine_name.clone(),
            machine_arn: run.machine_arn.clone(),
            input: input.clone(),
            started_at: self.now,
        })
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn start_run(
        &mut self,
        machine: &Machine,
        frame: &mut Frame,
        state: &State,
        map: &MapState,
        distribution: &Distribution,
        items: Vec<Value>,
        concurrency: u64,
        tolerance: Tolerance,
    ) -> Result<Turn, Trouble> {
        let limit = if concurrency == 0 { MAX_CONCURRENCY } else { concurrency.min(MAX_CONCURRENCY) };
        let reading = match &distribution.reader {
            None => None,
            Some(reader) => {
                let arguments = match &reader.arguments {
                    Some(template) => {
                        let field = Spot::Field("ItemReader");
                        self.fill(frame, state, template, Spot::Key(&field, reader.field), Given::default())?
                    }
                    None => json!({}).into(),
                };
                Some((reader, arguments.into_value(), self.max_items(frame, state, reader.max_items.as_ref())?))
            }
        };
        let label = distribution.label.as_deref().map_or_else(|| self.random.uuid(), str::to_owned);
        let id = self.random.uuid();
        let settings = &self.settings;
        let run = Box::new(MapRun {
            arn: format!("{}/{label}:{id}", before_name(&settings.execution_arn, "mapRun")),
            id,
            machine_name: format!("{}/{label}", settings.machine_name),
            machine_arn: format!("{}/{label}", settings.machine_arn),
            execution_prefix: format!("{}/{label}", before_name(&settings.execution_arn, "execution")),
            batched: distribution.batcher.is_some(),
            tolerance,
            records: distribution.writer.as_ref().filter(|writer| writer.keeps_records()).map(|_| Vec::new()),
        });
        let details = vec![("mapRunArn", Detail::Text(run.arn.as_str().into()))];
        self.emit(frame, EventType::MapRunStarted, state, details);
        let Some((reader, arguments, max_items)) = reading else {
            return self.start_child_executions(machine, frame, state, map, run, items, limit);
        };
        let max_items = match max_items {
            // R: a negative number is the reader's failure, zero is no limit.
            Some(count) if count < 0 => {
                self.run_failed(
                    frame,
                    state,
                    Trouble::named("States.ItemReaderFailed", "field MaxItems must be positive"),
                );
                return Ok(Turn::Blocked);
            }
            other => other.map(|count| count as u64).filter(|count| *count > 0),
        };
        let call = self.call_for_map(frame, state, &reader.resource, &arguments);
        frame.phase = Phase::Reading(Reading { call, run, arguments, limit, max_items, found: Vec::new() });
        Ok(Turn::Blocked)
    }

    /// Makes a call that Step Functions would make itself; it leaves no event.
    fn call_for_map(&mut self, frame: &Frame, state: &State, resource: &Resource, arguments: &Value) -> u64 {
        let call = self.number();
        self.calls.insert(call, frame.id);
        self.progress.effects.push(Effect::Invoke(TaskCall {
            call,
            state: Arc::clone(&state.name),
            resource: resource.clone(),
            payload: arguments.clone().into(),
            attempt: frame.retry_count,
            task_token: None,
            heartbeat_seconds: None,
            timeout_seconds: None,
            may_repeat: false,
            submissions: None,
            credentials: None,
            idempotency_key: format!(
                "{}{}/{}@{}.{}#{call}",
                self.settings.execution_name, frame.path, state.name, frame.entered, frame.retry_count
            ),
        }));
        call
    }

    /// A page of items has been read, or an object of results has been written.
    pub(super) fn map_call_ended(
        &mut self,
        machine: &Machine,
        frame: &mut Frame,
        state: &State,
        map: &MapState,
        outcome: TaskOutcome,
    ) {
        let Some(distribution) = &map.distribution else { return };
        match std::mem::replace(&mut frame.phase, Phase::Attempt) {
            Phase::Reading(reading) => {
                let ended = self.items_read(machine, frame, state, map, distribution, reading, outcome);
                if let Err(trouble) = ended {
                    frame.phase = Phase::Broken(trouble);
                    self.ready.push_back(frame.id);
                }
            }
            Phase::Writing(writing) => match outcome {
                TaskOutcome::Success { .. } => self.write_on(frame, state, distribution, writing),
                TaskOutcome::Failure { cause, .. } => {
                    let cause = cause.unwrap_or_default();
                    self.run_failed(frame, state, Trouble::named("States.ResultWriterFailed", cause));
                }
            },
            other => frame.phase = other,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn items_read(
        &mut self,
        machine: &Machine,
        frame: &mut Frame,
        state: &State,
        map: &MapState,
        distribution: &Distribution,
        mut reading: Reading,
        outcome: TaskOutcome,
    ) -> Result<(), Trouble> {
        let Some(reader) = &distribution.reader else { return Ok(()) };
        let page = match outcome {
            TaskOutcome::Success { output, .. } => items::read(&reader.format, &output),
            TaskOutcome::Failure { cause, .. } => Err(cause.unwrap_or_default()),
        };
        let page = match page {
            Ok(page) => page,
            Err(cause) => {
                self.run_failed(frame, state, Trouble::named("States.ItemReaderFailed", cause));
                return Ok(());
            }
        };
        reading.found.extend(page.items);
        let enough = reading.max_items.is_some_and(|most| reading.found.len() as u64 >= most);
        if let Some(token) = page.next.filter(|_| !enough) {
            reading.arguments["ContinuationToken"] = token.into();
            reading.call = self.call_for_map(frame, state, &reader.resource, &reading.arguments);
            frame.phase = Phase::Reading(reading);
            return Ok(());
        }
        if let Some(most) = reading.max_items {
            reading.found.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        }
        let Reading { run, found, limit, .. } = reading;
        self.start_child_executions(machine, frame, state, map, run, found, limit).map(drop)
    }

    #[allow(clippy::too_many_arguments)]
    fn start_child_executions(
        &mut self,
        machine: &Machine,
        frame: &mut Frame,
        state: &State,
        map: &MapState,
        run: Box<MapRun>,
        items: Vec<Value>,
        limit: u64,
    ) -> Result<Turn, Trouble> {
        let batcher = map.distribution.as_ref().and_then(|distribution| distribution.batcher.as_ref());
        let items = match batcher {
            Some(batcher) => self.batches(frame, state, map, batcher, items)?,
            None => items,
        };
        self.iterate(machine, frame, state, map, items, limit as usize, Some(run))
    }

    /// Puts items, as `ItemSelector` makes them, into as few batches as the limits allow.
    fn batches(
        &mut self,
        frame: &Frame,
        state: &State,
        map: &MapState,
        batcher: &Batcher,
        items: Vec<Value>,
    ) -> Result<Vec<Value>, Trouble> {
        let unlimited = usize::MAX as u64;
        let most_items =
            self.amount(frame, state, batcher.max_items.as_ref(), "MaxItemsPerBatch", 1)?.unwrap_or(unlimited);
        let most_bytes = self.amount(frame, state, batcher.max_bytes.as_ref(), "MaxInputBytesPerBatch", 1)?;
        let most_bytes = most_bytes.map_or(MAX_PAYLOAD_BYTES, |bytes| (bytes as usize).min(MAX_PAYLOAD_BYTES));
        let mut empty = serde_json::Map::new();
        if let Some(template) = &batcher.input {
            let field = Spot::Field("ItemBatcher");
            let input = self.fill(frame, state, template, Spot::Key(&field, "BatchInput"), Given::default())?;
            empty.insert("BatchInput".to_owned(), input.into_value());
        }
        empty.insert("Items".to_owned(), json!([]));
        let empty_bytes = size_bytes(&Value::Object(empty.clone()));
        let mut batches = Vec::new();
        let (mut batch, mut bytes) = (Vec::new(), empty_bytes);
        let mut close = |batch: &mut Vec<Value>| {
            let mut closed = empty.clone();
            closed.insert("Items".to_owned(), Value::Array(std::mem::take(batch)));
            batches.push(Value::Object(closed));
        };
        for (index, item) in items.into_iter().enumerate() {
            let item = match &map.selector {
                Some(template) => {
                    let given = Given { item: Some((index, &item)), ..Given::default() };
                    self.fill(frame, state, template, Spot::Field("ItemSelector"), given)?.into_value()
                }
                None => item,
            };
            let size = size_bytes(&item) + usize::from(!batch.is_empty());
            if !batch.is_empty() && (batch.len() as u64 >= most_items || bytes + size > most_bytes) {
                close(&mut batch);
                bytes = empty_bytes;
            }
            bytes += size;
            batch.push(item);
        }
        if !batch.is_empty() {
            close(&mut batch);
        }
        Ok(batches)
    }

    /// The whole run has failed, and with it the state.
    fn run_failed(&mut self, frame: &mut Frame, state: &State, trouble: Trouble) {
        self.emit(frame, EventType::MapRunFailed, state, failure_details(&trouble));
        frame.phase = Phase::Broken(trouble);
        self.ready.push_back(frame.id);
    }

    /// A child execution failed: the run goes on as long as its threshold allows.
    pub(super) fn child_run_failed(
        &mut self,
        machine: &Machine,
        mut frame: Frame,
        mut children: Children,
        slot: usize,
        child: &Frame,
        trouble: Trouble,
    ) {
        let (id, previous) = (frame.id, frame.previous);
        let state = &machine.groups[frame.group].states[frame.state];
        let mut gives_up = false;
        if let Some(run) = &mut children.run {
            run.note(slot, child, self.now, Err(&trouble));
            gives_up = run.tolerance.is_exceeded(children.failed, children.slots.len());
        }
        if gives_up {
            self.abort_children(machine, &mut frame, &children, previous);
            let cause = "The specified tolerated failure threshold was exceeded";
            self.run_failed(&mut frame, state, Trouble::named("States.ExceedToleratedFailureThreshold", cause));
        } else {
            children.finished += 1;
            let started = match &state.kind {
                StateKind::Map(map) => self.start_iterations(machine, &mut frame, state, map, &mut children, previous),
                _ => Ok(()),
            };
            match started {
                Ok(()) => self.settle(&mut frame, state, children, previous),
                Err(trouble) => {
                    self.abort_children(machine, &mut frame, &children, previous);
                    self.run_failed(&mut frame, state, trouble);
                }
            }
        }
        self.frames.insert(id, frame);
    }

    /// What ends a child execution does not end the execution that started it, however deep inside it happened.
    pub(super) fn child_execution_failed(&mut self, machine: &Machine, mut frame: Frame, trouble: Trouble) {
        while frame.own.is_none() {
            let Some(mut above) = frame.parent.and_then(|(parent, _)| self.frames.remove(&parent)) else { return };
            if let Phase::Children(children) = std::mem::replace(&mut above.phase, Phase::Attempt) {
                let previous = above.previous;
                self.abort_children(machine, &mut above, &children, previous);
            }
            frame = above;
        }
        if let Some((parent, slot)) = frame.parent {
            self.child_failed(machine, parent, slot, frame, trouble);
        }
    }

    /// All child executions have ended and enough of them well.
    pub(super) fn run_ended(&mut self, frame: &mut Frame, state: &State, run: MapRun, results: Vec<Value>) {
        let writer = match &state.kind {
            StateKind::Map(map) => map.distribution.as_ref().and_then(|distribution| distribution.writer.as_ref()),
            _ => None,
        };
        let Some(writer) = writer else {
            return self.run_succeeded(frame, state, Value::Array(results));
        };
        let records = run.records.clone().unwrap_or_default();
        let (succeeded, failed): (Vec<Value>, Vec<Value>) = records
            .into_iter()
            .filter(|record| record.is_object())
            .partition(|record| record["Status"] == json!("SUCCEEDED"));
        let succeeded = match writer.transformation {
            Transformation::None => succeeded,
            Transformation::Compact => results,
            Transformation::Flatten => results
                .into_iter()
                .flat_map(|result| match result {
                    Value::Array(inner) => inner,
                    other => vec![other],
                })
                .collect(),
        };
        let Some(export) = &writer.export else {
            let mut shown = succeeded;
            shown.extend(failed);
            return self.run_succeeded(frame, state, Value::Array(shown));
        };
        let arguments = match &export.arguments {
            Some(template) => {
                let field = Spot::Field("ResultWriter");
                self.fill(frame, state, template, Spot::Key(&field, export.field), Given::default())
            }
            None => Ok(json!({}).into()),
        };
        match arguments {
            Ok(arguments) => {
                let (objects, result) = exported(writer, &run, arguments.value(), &succeeded, &failed);
                self.write_objects(frame, state, &export.resource, objects, result);
            }
            Err(trouble) => self.run_failed(frame, state, trouble),
        }
    }

    fn write_on(&mut self, frame: &mut Frame, state: &State, distribution: &Distribution, writing: Writing) {
        let export = distribution.writer.as_ref().and_then(|writer| writer.export.as_ref());
        if let Some(export) = export {
            self.write_objects(frame, state, &export.resource, writing.objects, writing.result);
        }
    }

    /// Writes the next object, or ends the run with the result when there is none.
    fn write_objects(
        &mut self,
        frame: &mut Frame,
        state: &State,
        resource: &Resource,
        mut objects: VecDeque<Value>,
        result: Value,
    ) {
        match objects.pop_front() {
            Some(object) => {
                let call = self.call_for_map(frame, state, resource, &object);
                frame.phase = Phase::Writing(Writing { call, objects, result });
            }
            None => self.run_succeeded(frame, state, result),
        }
    }

    fn run_succeeded(&mut self, frame: &mut Frame, state: &State, result: Value) {
        self.map_succeeded(frame, state, true);
        self.return_results(frame, state, result);
    }

    /// `MaxItems`, which may be negative when a path names it.
    fn max_items(&mut self, frame: &Frame, state: &State, amount: Option<&Amount>) -> Result<Option<i64>, Trouble> {
        if let Some(Amount::Query(Query::Path(query))) = amount {
            let found = query.find(&self.view(frame, state, Given::default()));
            if let Some(number) = found.as_ref().and_then(Value::as_i64).filter(|number| *number < 0) {
                return Ok(Some(number));
            }
        }
        let found = self.amount(frame, state, amount, "MaxItems", 0)?;
        Ok(found.map(|count| i64::try_from(count).unwrap_or(i64::MAX)))
    }

    /// `ToleratedFailurePercentage`, a number from 0 to 100 that need not be whole.
    pub(super) fn percentage(
        &mut self,
        frame: &Frame,
        state: &State,
        percentage: Option<&Percentage>,
    ) -> Result<Option<f64>, Trouble> {
        const FIELD: &str = "ToleratedFailurePercentage";
        let query = match percentage {
            None => return Ok(None),
            Some(Percentage::Fixed(value)) => return Ok(Some(*value)),
            Some(Percentage::Query(query)) => query,
        };
        let start = while_executing(frame, state);
        match query {
            Query::Path(path) => {
                let view = self.view(frame, state, Given::default());
                let Some(value) = path.find(&view) else {
                    return Err(no_results(frame, state, path.missing(&view)));
                };
                let number = match &value {
                    Value::String(text) => text.parse().ok(),
                    other => other.as_f64(),
                };
                match number {
                    Some(number) if (0.0..=100.0).contains(&number) => Ok(Some(number)),
                    Some(_) => Err(Trouble::runtime(format!("{start}{FIELD} must be between 0 and 100."))),
                    None => Err(Trouble::runtime(format!(
                        "{start}The {FIELD}Path field refers to value \"{}\" which is not a valid float: {}",
                        super::shown(&value),
                        path.text()
                    ))),
                }
            }
            Query::Jsonata(expression) => {
                let value = self.answer(frame, state, query, Spot::Field(FIELD), Given::default())?;
                match value.as_f64() {
                    Some(number) if (0.0..=100.0).contains(&number) => Ok(Some(number)),
                    Some(_) => Err(evaluation_trouble(
                        format!("{start}{FIELD} must be between 0 and 100."),
                        Some(FIELD.to_owned()),
                    )),
                    None => Err(unexpected_type(frame, state, expression.source(), FIELD, "number", &value)),
                }
            }
        }
    }
}

/// The ARN of the machine's executions or Map runs, without the execution's own name.
fn before_name(execution_arn: &str, kind: &str) -> String {
    let prefix = execution_arn.rsplit_once(':').map_or(execution_arn, |(prefix, _)| prefix);
    prefix.replacen(":execution:", &format!(":{kind}:"), 1)
}

/// The objects that a `ResultWriter` puts, the manifest last, and what the state gives instead of the results.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html>
fn exported(
    writer: &Writer,
    run: &MapRun,
    arguments: &Value,
    succeeded: &[Value],
    failed: &[Value],
) -> (VecDeque<Value>, Value) {
    let bucket = &arguments["Bucket"];
    let prefix = match arguments["Prefix"].as_str() {
        Some(prefix) if !prefix.is_empty() => format!("{}/{}", prefix.trim_end_matches('/'), run.id),
        _ => run.id.clone(),
    };
    let mut objects = VecDeque::new();
    let mut files = json!({"FAILED": [], "PENDING": [], "SUCCEEDED": []});
    for (kind, results) in [("SUCCEEDED", succeeded), ("FAILED", failed)] {
        if results.is_empty() {
            continue;
        }
        let (ending, body) = if writer.lines {
            let lines: Vec<String> = results.iter().map(Value::to_string).collect();
            ("jsonl", lines.join("\n"))
        } else {
            ("json", Value::from(results.to_vec()).to_string())
        };
        let key = format!("{prefix}/{kind}_0.{ending}");
        files[kind] = json!([{"Key": key, "Size": body.len()}]);
        objects.push_back(json!({"Bucket": bucket, "Key": key, "Body": body}));
    }
    let key = format!("{prefix}/manifest.json");
    let manifest = json!({"DestinationBucket": bucket, "MapRunArn": run.arn, "ResultFiles": files});
    objects.push_back(json!({"Bucket": bucket, "Key": key, "Body": manifest.to_string()}));
    (objects, json!({"MapRunArn": run.arn, "ResultWriterDetails": {"Bucket": bucket, "Key": key}}))
}
