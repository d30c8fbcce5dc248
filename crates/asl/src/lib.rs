//! Parses, checks and runs Amazon States Language machines as AWS Step Functions does.
//!
//! The recovery suite's machines run on Step Functions, and from `drctl` when Step Functions cannot be reached. This crate
//! is the second engine. It knows nothing of recovery: a [`Machine`] is compiled from its definition, an [`Execution`]
//! runs it with a [`TaskHandler`] that does what its Task states ask for, a [`Clock`], and an [`Observer`] that sees every
//! [`HistoryEvent`] before anything that follows from it is done.
//!
//! Inside is a pure core ([`core::Core`]) that takes inputs and gives events and effects; it can be driven without tokio,
//! replayed from a log, and run in virtual time.

pub mod check;
pub mod clock;
pub mod core;
pub mod definition;
pub mod execution;
pub mod graph;
pub mod history;
pub mod journal;
pub mod jsonata;
pub mod payload;
pub mod problem;
pub mod random;
pub mod replay;
pub mod source;
pub mod substitution;
pub mod task;

mod choice;
mod hashing;
mod intrinsics;
mod items;
mod jsonpath;
mod moment;
mod template;

pub use clock::{Clock, SystemClock, VirtualClock};
pub use core::{Input, Refusal, Settings};
pub use definition::{Machine, QueryLanguage, Resource, ResourceKind};
pub use execution::{
    ControlError, Execution, Handle, Observer, ObserverError, ResumeError, RunError, TaskHandler, Unobserved,
};
pub use history::{Detail, EventType, HistoryEvent};
pub use journal::{FileJournal, Journal, JournalError, Record};
pub use payload::Payload;
pub use problem::{Problem, Severity};
pub use task::{ExecutionOutcome, ExecutionStatus, FunctionCall, TaskCall, TaskOutcome};
