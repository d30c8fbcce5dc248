//! What people did to a run beside answering it, and what they may leave out.
//!
//! Interventions are kept with the run, by whom, when and why, and stand in its report. What may be skipped is decided by
//! the work of a step, not by its name in a machine: a step whose proof others rest on cannot be left out, whoever asks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that a person did to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervention {
    /// Names it; the same one twice is one.
    pub id: String,
    /// What was done.
    pub deed: Deed,
    /// Who did it, as they said.
    pub by: String,
    /// In their words.
    pub because: String,
    /// When they asked for it.
    pub at: Timestamp,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Deed {
    /// No further step was begun.
    Pause,
    /// It went on.
    Continue,
    /// It was ended.
    Abort,
    /// A state that had failed was tried again.
    Retry {
        /// Which.
        state: String,
    },
    /// A step was left out.
    Skip {
        /// Which.
        state: String,
    },
    /// It was taken up after its end from what had not succeeded.
    Redrive,
    /// Another machine took it up.
    TakeOver {
        /// The machine that had worked on it.
        from: String,
    },
}

impl Deed {
    /// As people say it.
    pub fn in_words(&self) -> String {
        match self {
            Deed::Pause => "paused".to_owned(),
            Deed::Continue => "let it go on".to_owned(),
            Deed::Abort => "aborted".to_owned(),
            Deed::Retry { state } => format!("tried `{state}` again"),
            Deed::Skip { state } => format!("skipped `{state}`: it was not done by this run"),
            Deed::Redrive => "redrove it after its end".to_owned(),
            Deed::TakeOver { from } => format!("took it over from {from}"),
        }
    }
}

/// Key of the interventions of a run in the evidence bucket.
pub fn key(run: &str) -> String {
    format!("interventions/{run}.json")
}

/// Adds interventions to those that are known, each once, in the order in which they were asked for.
pub fn merge(known: &mut Vec<Intervention>, more: impl IntoIterator<Item = Intervention>) {
    for one in more {
        if !known.iter().any(|other| other.id == one.id) {
            known.push(one);
        }
    }
    known.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
}

/// Why a step may not be skipped, by its function and action; `None` if it may.
///
/// What is not known may not: a step that nobody has thought about is not one to leave out at three in the morning.
pub fn why_not_skipped(function: &str, action: Option<&str>) -> Option<&'static str> {
    match (function, action) {
        ("plan-failover", _) => Some("every later step does what it decides; correct what it refuses and retry it"),
        ("fence-primary", Some("lift")) => {
            Some("it alone knows whether a promotion may still happen; opening the old primary unseen makes two")
        }
        ("fence-primary", _) => {
            Some("without a proven fence a promotion makes two primaries; retry it or abort the run")
        }
        ("promote-replica", _) => Some(
            "only a write that was committed says that it happened; if it was done by hand, retry it and it will see",
        ),
        ("verify-recovery", Some("health")) => {
            Some("names must not move before the services and a write were seen to work; repair them and retry it")
        }
        ("report", _) => Some("every path ends in a report"),
        ("notify", Some("approval-needed")) => Some("a question is answered by `drctl approve` or `drctl reject`"),
        // Left out, these cost convenience, capacity or a measurement, and the report says so.
        ("scale-nodegroup" | "deploy-workloads" | "swap-dns" | "notify", _) | ("verify-recovery", Some("reached")) => {
            None
        }
        _ => Some("nobody has decided that it may be left out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(id: &str, second: i64) -> Intervention {
        let at = Timestamp::from_second(second).unwrap();
        Intervention { id: id.to_owned(), deed: Deed::Pause, by: "ann".to_owned(), because: "wait".to_owned(), at }
    }

    #[test]
    fn what_is_told_twice_happened_once() {
        let mut known = vec![done("b", 2)];
        merge(&mut known, [done("a", 1), done("b", 2), done("c", 3)]);
        assert_eq!(known.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn no_guard_can_be_skipped() {
        let guards = [
            ("plan-failover", None),
            ("fence-primary", Some("close")),
            ("fence-primary", Some("lift")),
            ("promote-replica", None),
            ("verify-recovery", Some("health")),
            ("verify-recovery", None),
            ("report", None),
            ("notify", Some("approval-needed")),
            ("restore-database", None),
        ];
        for (function, action) in guards {
            assert!(why_not_skipped(function, action).is_some(), "{function} {action:?}");
        }
        let others = [
            ("scale-nodegroup", Some("await")),
            ("deploy-workloads", None),
            ("swap-dns", Some("switch")),
            ("swap-dns", Some("edit")),
            ("verify-recovery", Some("reached")),
            ("notify", Some("promoted")),
        ];
        for (function, action) in others {
            assert_eq!(why_not_skipped(function, action), None, "{function} {action:?}");
        }
    }
}
