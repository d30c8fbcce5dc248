//! A question to people before the point of no return, and what their answers add up to.
//!
//! The question lies in the evidence bucket as long as it is open. One person can refuse; to confirm it takes as many
//! different people as the plan asks for. Every answer is kept by a conditional write before it is acted upon, so an
//! answer that was lost on its way can be given again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    plan::{Approval, Plan},
    run::{ApprovalGiven, Run, Seconded},
};

/// A question to people, as `drctl approve` finds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingApproval {
    /// The run that waits.
    pub run: String,
    /// What the engine takes the answer with.
    pub task_token: String,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// How many people have to confirm.
    #[serde(default = "one")]
    pub needed: u8,
    /// Who has confirmed so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confirmed: Vec<ApprovalGiven>,
    /// Who has refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<ApprovalGiven>,
}

fn one() -> u8 {
    1
}

/// Key of the question of a run in the evidence bucket.
pub fn key(run: &str) -> String {
    format!("approvals/{run}.json")
}

/// What the answers to a question add up to.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// More people have to confirm.
    Open {
        /// How many.
        missing: usize,
    },
    /// As many as are needed have confirmed.
    Confirmed(ApprovalGiven),
    /// Somebody has refused.
    Refused(ApprovalGiven),
}

/// Why an answer does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCounted {
    /// It takes somebody else.
    #[error("`{by}` has confirmed already at {at}; it takes another person")]
    SamePerson {
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// The question is closed.
    #[error("`{by}` has refused at {at}")]
    Refused {
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
    },
}

impl PendingApproval {
    /// What the answers so far add up to.
    pub fn decision(&self) -> Decision {
        if let Some(refused) = &self.refused {
            return Decision::Refused(refused.clone());
        }
        let missing = usize::from(self.needed.max(1)).saturating_sub(self.confirmed.len());
        match (missing, self.confirmed.split_first()) {
            (0, Some((first, others))) => Decision::Confirmed(together(first, others)),
            _ => Decision::Open { missing: missing.max(1) },
        }
    }

    /// Counts a confirmation. The same person again counts only once; if the question is decided by it, that is success,
    /// because the answer may have been lost on its way.
    ///
    /// # Errors
    /// It does not count.
    pub fn confirm(&mut self, given: ApprovalGiven) -> Result<Decision, NotCounted> {
        if let Some(refused) = &self.refused {
            return Err(NotCounted::Refused { by: refused.by.clone(), at: refused.at });
        }
        if let Some(before) = self.confirmed.iter().find(|before| is_same_person(&before.by, &given.by)) {
            return match self.decision() {
                Decision::Open { .. } => Err(NotCounted::SamePerson { by: before.by.clone(), at: before.at }),
                decided => Ok(decided),
            };
        }
        self.confirmed.push(given);
        Ok(self.decision())
    }

    /// Counts a refusal; the first one stays.
    pub fn refuse(&mut self, given: ApprovalGiven) -> Decision {
        self.refused.get_or_insert(given);
        self.decision()
    }
}

/// Whether two names are one person's: case and space around them make nobody another person.
pub fn is_same_person(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

/// One answer that carries all of them; what somebody takes upon themselves stays theirs.
fn together(first: &ApprovalGiven, others: &[ApprovalGiven]) -> ApprovalGiven {
    let seconded =
        |other: &ApprovalGiven| Seconded { by: other.by.clone(), because: other.because.clone(), at: other.at };
    let consents = [first].into_iter().chain(others).flat_map(|given| given.consents.clone()).collect();
    ApprovalGiven { consents, seconded_by: others.iter().map(seconded).collect(), ..first.clone() }
}

/// People who are missing from a run's approval, by what the plan asks for: checked again where it is used, because an
/// answer can be sent past `drctl`.
pub fn missing(plan: &Plan, run: &Run) -> usize {
    let asked = run.plan.as_ref().is_some_and(|decided| decided.approval == Approval::Required);
    // With one person the machine's own way through `AwaitApproval` is the proof.
    if !asked || plan.failover.approvals <= 1 {
        return 0;
    }
    let given = run.approval.iter();
    let mut people: Vec<String> = given
        .flat_map(|approval| [&approval.by].into_iter().chain(approval.seconded_by.iter().map(|other| &other.by)))
        .map(|by| by.trim().to_lowercase())
        .collect();
    people.sort();
    people.dedup();
    usize::from(plan.failover.approvals).saturating_sub(people.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::{Consent, Risk};

    fn given(by: &str) -> ApprovalGiven {
        ApprovalGiven {
            by: by.to_owned(),
            because: format!("{by} looked"),
            at: Timestamp::UNIX_EPOCH,
            consents: Vec::new(),
            seconded_by: Vec::new(),
        }
    }

    fn question(needed: u8) -> PendingApproval {
        let asked_at = Timestamp::UNIX_EPOCH;
        let (run, task_token) = ("a".to_owned(), "t".to_owned());
        PendingApproval { run, task_token, asked_at, needed, confirmed: Vec::new(), refused: None }
    }

    #[test]
    fn one_person_is_enough_unless_the_plan_asks_for_more() {
        assert_eq!(question(1).decision(), Decision::Open { missing: 1 });
        assert_eq!(question(0).decision(), Decision::Open { missing: 1 }, "nobody is never enough");
        assert_eq!(question(1).confirm(given("ann")), Ok(Decision::Confirmed(given("ann"))));
        assert_eq!(question(2).confirm(given("ann")), Ok(Decision::Open { missing: 1 }));
    }

    #[test]
    fn the_second_one_is_another_person() {
        let mut question = question(2);
        question.confirm(given("ann@sparc.com")).unwrap();
        for same in ["ann@sparc.com", " Ann@SPARC.com "] {
            let refused = question.confirm(given(same)).unwrap_err();
            assert!(refused.to_string().contains("it takes another person"), "{refused}");
        }
        let consents = vec![Consent { to: Risk::DataLoss, by: "bob".to_owned(), because: "on paper".to_owned() }];
        let Ok(Decision::Confirmed(both)) = question.confirm(ApprovalGiven { consents, ..given("bob") }) else {
            panic!("two people are two people")
        };
        assert_eq!((both.by.as_str(), both.seconded_by[0].by.as_str()), ("ann@sparc.com", "bob"));
        assert_eq!(both.consents[0].by, "bob", "what one of them takes upon themselves stays theirs");
        // An answer that was lost on its way is given again.
        assert_eq!(question.confirm(given("bob")), Ok(Decision::Confirmed(both)));
    }

    #[test]
    fn one_refusal_ends_it() {
        let mut question = question(2);
        question.confirm(given("ann")).unwrap();
        assert_eq!(question.refuse(given("bob")), Decision::Refused(given("bob")));
        assert_eq!(question.refuse(given("cid")), Decision::Refused(given("bob")), "the first one stays");
        assert!(question.confirm(given("cid")).unwrap_err().to_string().contains("`bob` has refused"));
    }

    #[test]
    fn a_question_of_before_asks_for_one() {
        let text = r#"{"run": "a", "task_token": "t", "asked_at": "2026-11-23T03:02:14Z"}"#;
        let question: PendingApproval = serde_json::from_str(text).unwrap();
        assert_eq!(question.needed, 1);
    }
}
