//! Who acts next when a step fails.
//!
//! State machines read nothing else of an error: `Retry` and `Catch` match the four names of [`Fault::error_type`] and
//! `States.ALL`. A [`Failure`] is what crosses the border of a function, the same in AWS Lambda and in `drctl`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who acts next when a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// Nobody: the state machine tries again with backoff.
    Transient,
    /// Nobody yet: the world is moving the right way, look again until the deadline.
    NotYet,
    /// An operator: a guard held, and only a person may lift it.
    Refused,
    /// A developer: the step cannot succeed with this input.
    Permanent,
}

impl Fault {
    /// Every fault, for contract tests between the languages.
    pub const ALL: [Fault; 4] = [Fault::Transient, Fault::NotYet, Fault::Refused, Fault::Permanent];

    /// The name that state machines match in `ErrorEquals`.
    pub const fn error_type(self) -> &'static str {
        match self {
            Fault::Transient => "Recovery.Transient",
            Fault::NotYet => "Recovery.NotYet",
            Fault::Refused => "Recovery.Refused",
            Fault::Permanent => "Recovery.Permanent",
        }
    }
}

/// An error that says who acts next and what the person on call does about it.
pub trait Classified: std::error::Error {
    /// Who acts next.
    fn fault(&self) -> Fault;
    /// One imperative sentence for the person on call.
    fn remedy(&self) -> String;
}

/// An error as it crosses the border of a function.
///
/// `message` holds the whole chain of causes and the remedy, because `errorMessage` is all that Step Functions keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of [`Fault::error_type`].
    #[serde(rename = "errorType")]
    pub error_type: String,
    /// What was tried, why it failed, and what to do.
    #[serde(rename = "errorMessage")]
    pub message: String,
}

impl Failure {
    /// A request that does not have the form that the function takes.
    pub fn bad_request(function: &str, error: &serde_json::Error) -> Self {
        Failure {
            error_type: Fault::Permanent.error_type().to_owned(),
            message: format!(
                "the request of `{function}` is not understood: {error}; compare it with events/{function}/*.json"
            ),
        }
    }

    /// A panic, which has one shared name wherever the function runs.
    pub fn panicked(function: &str, what: &str) -> Self {
        Failure {
            error_type: Fault::Permanent.error_type().to_owned(),
            message: format!("`{function}` panicked: {what}; report this as a defect"),
        }
    }
}

impl<E: Classified> From<&E> for Failure {
    fn from(error: &E) -> Self {
        Failure {
            error_type: error.fault().error_type().to_owned(),
            message: format!("{}; {}", chain(error), error.remedy()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error_type, self.message)
    }
}

/// The error and its causes in one line: `a: b: c`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.ends_with(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}
