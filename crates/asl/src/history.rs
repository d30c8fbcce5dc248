//! The event history of an execution, with the names and shapes that `GetExecutionHistory` gives.
//! <https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html>

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::payload::Payload;

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident => $details:expr,)*) => {
        /// What happened. The names are those of `HistoryEventType`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventType {
            $($(#[$doc])* #[allow(missing_docs)] $name,)*
        }

        impl EventType {
            /// The name of `HistoryEventType`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(EventType::$name => stringify!($name),)*
                }
            }

            /// The member under which `GetExecutionHistory` puts the details; `None` for events that have none.
            pub fn details_key(self) -> Option<&'static str> {
                match self {
                    $(EventType::$name => $details,)*
                }
            }

            /// The event type of this name.
            pub fn from_name(name: &str) -> Option<EventType> {
                match name {
                    $(stringify!($name) => Some(EventType::$name),)*
                    _ => None,
                }
            }
        }
    };
}

const ENTERED: Option<&str> = Some("stateEnteredEventDetails");
const EXITED: Option<&str> = Some("stateExitedEventDetails");

event_types! {
    ActivityFailed => Some("activityFailedEventDetails"),
    ActivityScheduled => Some("activityScheduledEventDetails"),
    ActivityStarted => Some("activityStartedEventDetails"),
    ActivitySucceeded => Some("activitySucceededEventDetails"),
    ActivityTimedOut => Some("activityTimedOutEventDetails"),
    ChoiceStateEntered => ENTERED,
    ChoiceStateExited => EXITED,
    EvaluationFailed => Some("evaluationFailedEventDetails"),
    ExecutionAborted => Some("executionAbortedEventDetails"),
    ExecutionFailed => Some("executionFailedEventDetails"),
    ExecutionRedriven => Some("executionRedrivenEventDetails"),
    ExecutionStarted => Some("executionStartedEventDetails"),
    ExecutionSucceeded => Some("executionSucceededEventDetails"),
    ExecutionTimedOut => Some("executionTimedOutEventDetails"),
    FailStateEntered => ENTERED,
    LambdaFunctionFailed => Some("lambdaFunctionFailedEventDetails"),
    LambdaFunctionScheduled => Some("lambdaFunctionScheduledEventDetails"),
    LambdaFunctionStarted => None,
    LambdaFunctionSucceeded => Some("lambdaFunctionSucceededEventDetails"),
    LambdaFunctionTimedOut => Some("lambdaFunctionTimedOutEventDetails"),
    MapIterationAborted => Some("mapIterationAbortedEventDetails"),
    MapIterationFailed => Some("mapIterationFailedEventDetails"),
    MapIterationStarted => Some("mapIterationStartedEventDetails"),
    MapIterationSucceeded => Some("mapIterationSucceededEventDetails"),
    MapRunAborted => None,
    MapRunFailed => Some("mapRunFailedEventDetails"),
    MapRunStarted => Some("mapRunStartedEventDetails"),
    MapRunSucceeded => None,
    MapStateAborted => None,
    MapStateEntered => ENTERED,
    MapStateExited => EXITED,
    MapStateFailed => None,
    MapStateStarted => Some("mapStateStartedEventDetails"),
    MapStateSucceeded => None,
    ParallelStateAborted => None,
    ParallelStateEntered => ENTERED,
    ParallelStateExited => EXITED,
    ParallelStateFailed => None,
    ParallelStateStarted => None,
    ParallelStateSucceeded => None,
    PassStateEntered => ENTERED,
    PassStateExited => EXITED,
    SucceedStateEntered => ENTERED,
    SucceedStateExited => EXITED,
    TaskFailed => Some("taskFailedEventDetails"),
    TaskScheduled => Some("taskScheduledEventDetails"),
    TaskStarted => Some("taskStartedEventDetails"),
    TaskStateAborted => None,
    TaskStateEntered => ENTERED,
    TaskStateExited => EXITED,
    /// Ours: a person let the Task's work be left out. AWS has no such event, and no such control.
    TaskStateSkipped => Some("taskStateSkippedEventDetails"),
    TaskSubmitted => Some("taskSubmittedEventDetails"),
    TaskSucceeded => Some("taskSucceededEventDetails"),
    TaskTimedOut => Some("taskTimedOutEventDetails"),
    WaitStateAborted => None,
    WaitStateEntered => ENTERED,
    WaitStateExited => EXITED,
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One value among the details of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Detail {
    /// A name, an error, a cause.
    Text(Arc<str>),
    /// A document; AWS gives it as text.
    Document(Payload),
    /// A count, an index, seconds.
    Number(u64),
    /// A structure that AWS gives as such.
    Object(Map<String, Value>),
}

impl Detail {
    /// As `GetExecutionHistory` gives it: documents are strings of JSON.
    pub fn to_value(&self) -> Value {
        match self {
            Detail::Text(text) => Value::from(text.as_ref()),
            Detail::Document(payload) => Value::String(payload.to_text()),
            Detail::Number(number) => Value::from(*number),
            Detail::Object(map) => Value::Object(map.clone()),
        }
    }
}

/// One event of a history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEvent {
    /// Counts from 1 within the execution.
    pub id: u64,
    /// The event this one follows on its branch; 0 for the first.
    pub previous_event_id: u64,
    /// When it happened.
    pub timestamp: Timestamp,
    /// What happened.
    pub event_type: EventType,
    /// The details by AWS's field names, without the member that wraps them.
    pub details: Vec<(&'static str, Detail)>,
    /// The state this event belongs to. Not part of AWS's form, where only some events name it.
    pub state: Option<Arc<str>>,
}

impl HistoryEvent {
    /// A detail by AWS's field name.
    pub fn detail(&self, field: &str) -> Option<&Detail> {
        self.details.iter().find(|(name, _)| *name == field).map(|(_, detail)| detail)
    }

    /// A detail that is text: `name`, `error`, `cause`, `resource`, …
    pub fn text(&self, field: &str) -> Option<&str> {
        match self.detail(field)? {
            Detail::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A detail that is a document: `input`, `output`, `parameters`.
    pub fn document(&self, field: &str) -> Option<&Payload> {
        match self.detail(field)? {
            Detail::Document(payload) => Some(payload),
            _ => None,
        }
    }

    /// The details as one JSON object in AWS's form.
    pub fn details_value(&self) -> Value {
        Value::Object(self.details.iter().map(|(name, detail)| ((*name).to_owned(), detail.to_value())).collect())
    }
}

impl Serialize for HistoryEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("previousEventId", &self.previous_event_id)?;
        map.serialize_entry("timestamp", &iso_instant(self.timestamp))?;
        map.serialize_entry("type", self.event_type.as_str())?;
        if let Some(key) = self.event_type.details_key()
            && !self.details.is_empty()
        {
            map.serialize_entry(key, &self.details_value())?;
        }
        map.end()
    }
}

/// `2026-01-02T03:04:05.678Z`: always three digits after the point, as the context object has it.
pub fn iso_instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
