//! Whether a backup that a Job takes is complete: what is known of it decides, and not what became of the Job.
//!
//! A Job may have been made by a call whose answer was lost, may be another run's, may be over when its end is not known yet.
//! The receipt says that the backup is complete, the note of its attempts that one of them is alive, or why the last one
//! ended. Only where neither says anything the end of the Job counts.

use jiff::Timestamp;
use recovery::{
    backup::{BackupId, JobEnd, Outcome},
    store::get_json,
};
use serde_json::Value;

use crate::{
    Error, World,
    progress::{Progress, SILENCE_SECONDS},
    take::complete,
};

/// Without a sign of life for so long, a Job that may be there has no attempt any more: its pods come back after 6 minutes at
/// the latest, and a node for them takes some more.
/// <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy>
const JOB_SILENCE_SECONDS: i64 = 20 * 60;

/// Answers of an API server after which there is no Job: the request was not understood or not allowed.
const NOT_MADE: [&str; 5] = ["EKS.400", "EKS.401", "EKS.403", "EKS.404", "EKS.422"];

/// What Step Functions calls a job of any service that has failed.
const FAILED: &str = "States.TaskFailed";

pub(crate) async fn confirm(
    backup: &BackupId,
    since: Timestamp,
    job: &JobEnd,
    world: &World<'_>,
) -> Result<Outcome, Error> {
    if let Some(done) = complete(backup, world).await? {
        return Ok(done);
    }
    let note = get_json::<Progress>(world.evidence, &backup.progress_key()).await?.map(|(note, _)| note);
    match seen(note.as_ref(), since, job, (world.now)()) {
        Seen::AtWork { by, seconds } => Err(Error::Taken { backup: backup.clone(), by, seconds }),
        Seen::Awaited { seconds } => Err(Error::Awaited { backup: backup.clone(), seconds }),
        Seen::Over => Err(Error::NotTaken { backup: backup.clone(), ended: how_it_ended(note.as_ref(), job) }),
    }
}

/// What there is to see of a backup that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// An attempt gives signs of life.
    AtWork { by: String, seconds: i64 },
    /// None does, and one may begin.
    Awaited { seconds: i64 },
    /// None will.
    Over,
}

fn seen(note: Option<&Progress>, since: Timestamp, job: &JobEnd, now: Timestamp) -> Seen {
    let age = |at: Timestamp| now.as_second() - at.as_second();
    if let Some(note) = note {
        let seconds = age(note.seen_at);
        // A manifest that only has to be published is published by the next attempt, if there is one.
        if seconds < SILENCE_SECONDS && note.ended.is_none() {
            return Seen::AtWork { by: note.by.clone(), seconds };
        }
    }
    let over = match job.error.as_deref() {
        None | Some(FAILED) => true,
        Some(error) => NOT_MADE.contains(&error),
    };
    let last = note.map_or(since, |note| note.seen_at.max(since));
    let seconds = age(last);
    if over || seconds >= JOB_SILENCE_SECONDS { Seen::Over } else { Seen::Awaited { seconds } }
}

/// In words: how the Job ended, and what its last attempt said.
fn how_it_ended(note: Option<&Progress>, job: &JobEnd) -> String {
    let cause: Value = job.cause.as_deref().and_then(|cause| serde_json::from_str(cause).ok()).unwrap_or_default();
    let job_ended = match job.error.as_deref() {
        None => "its Job ended well, but left no receipt".to_owned(),
        Some(error) => {
            match said(&cause).or_else(|| job.cause.as_deref().map(shortened)).filter(|cause| !cause.is_empty()) {
                Some(said) => format!("its Job ended with `{error}`: {said}"),
                None => format!("its Job ended with `{error}`"),
            }
        }
    };
    let attempt = match note {
        Some(Progress { ended: Some(failure), attempt, .. }) => Some(format!("attempt {attempt} ended with {failure}")),
        Some(note) => {
            Some(format!("attempt {} was last seen at {} and did not say why it ended", note.attempt, note.seen_at))
        }
        None => Some("no attempt has begun".to_owned()),
    };
    let log = last_words(&cause).filter(|_| note.is_none_or(|note| note.ended.is_none()));
    let log = log.map(|line| format!("its log ends with: {line}"));
    [Some(job_ended), attempt, log].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A cause that is not understood is too long for people: a whole Job, or one that was cut off.
fn shortened(cause: &str) -> String {
    cause[..cause.floor_char_boundary(300)].to_owned()
}

/// What a Job's conditions say, or the API server's refusal.
fn said(cause: &Value) -> Option<String> {
    let conditions = cause["status"]["conditions"].as_array().into_iter().flatten();
    let failed = conditions.clone().find(|condition| condition["type"] == "Failed" && condition["status"] == "True");
    let words = |value: &Value| {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        Some(format!("{}: {}", text("reason"), text("message"))).filter(|text| text.len() > 2)
    };
    failed.and_then(words).or_else(|| words(&cause["ResponseBody"]))
}

/// The last line of the log that came with the Job.
fn last_words(cause: &Value) -> Option<String> {
    let pods = cause["logs"]["pods"].as_object()?;
    let containers = pods.values().filter_map(|pod| pod["containers"].as_object()).flat_map(|all| all.values());
    let logs = containers.filter_map(|container| container["log"].as_str());
    logs.filter_map(|log| log.lines().rfind(|line| !line.trim().is_empty())).next_back().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use recovery::fault::{Failure, Fault};

    use super::*;

    const SINCE: &str = "2026-11-26T02:00:00Z";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(SINCE.parse::<Timestamp>().unwrap().as_second() + seconds).unwrap()
    }

    fn note(seen: i64, ended: bool) -> Progress {
        Progress {
            backup: "logical/sparc-prod/20261126T020000Z".parse().unwrap(),
            by: "night".to_owned(),
            attempt: 2,
            began_at: at(-600),
            seen_at: at(seen),
            keeping: None,
            ended: ended.then(|| Failure {
                error_type: Fault::Refused.error_type().to_owned(),
                message: "permission denied; grant it".to_owned(),
            }),
            manifest: None,
        }
    }

    fn ended(error: &str) -> JobEnd {
        JobEnd { error: (!error.is_empty()).then(|| error.to_owned()), cause: None }
    }

    #[test]
    fn an_attempt_that_lives_is_waited_for_and_silence_ends_it() {
        let at_work = |seconds| Seen::AtWork { by: "night".to_owned(), seconds };
        let situations = [
            ("the Job failed, another run's attempt lives", Some(note(0, false)), "States.TaskFailed", 60, at_work(60)),
            (
                "the Job failed, its attempt was killed just now",
                Some(note(0, false)),
                "States.TaskFailed",
                89,
                at_work(89),
            ),
            ("the Job failed, and its attempt was killed", Some(note(0, false)), "States.TaskFailed", 90, Seen::Over),
            ("the Job failed, and its attempt said why", Some(note(0, true)), "States.TaskFailed", 1, Seen::Over),
            ("the Job failed before an attempt", None, "States.TaskFailed", 1, Seen::Over),
            ("the Job ended well without a receipt", None, "", 1, Seen::Over),
            ("there is a Job of this name, not begun", None, "EKS.409", 600, Seen::Awaited { seconds: 600 }),
            ("there is a Job of this name, at work", Some(note(580, false)), "EKS.409", 600, at_work(20)),
            ("its pod failed and comes back", Some(note(300, true)), "EKS.409", 600, Seen::Awaited { seconds: 300 }),
            ("it does not come back", Some(note(300, true)), "EKS.409", 1500, Seen::Over),
            ("it was never begun", None, "EKS.409", 1200, Seen::Over),
            ("its end is not known", Some(note(580, false)), "States.Timeout", 600, at_work(20)),
            ("there is no Job", None, "EKS.401", 1, Seen::Over),
            ("there is no Job, and an older attempt lives", Some(note(-20, false)), "EKS.401", 1, at_work(21)),
        ];
        for (situation, note, error, now, expected) in situations {
            assert_eq!(seen(note.as_ref(), at(0), &ended(error), at(now)), expected, "{situation}");
        }
    }

    #[test]
    fn the_end_of_a_job_is_told_in_the_words_of_its_attempt_or_else_of_its_log() {
        let failed = serde_json::json!({
            "status": {"failed": 7, "conditions": [
                {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}
            ]},
            "logs": {"pods": {"p-1": {"containers": {"backup-trigger": {"log": "one\ntwo\n\n"}}}}},
        });
        let job = JobEnd { error: Some("States.TaskFailed".to_owned()), cause: Some(failed.to_string()) };
        let told = how_it_ended(Some(&note(0, true)), &job);
        assert_eq!(
            told,
            "its Job ended with `States.TaskFailed`: BackoffLimitExceeded: Job has reached the specified backoff limit; \
             attempt 2 ended with Recovery.Refused: permission denied; grant it"
        );
        let told = how_it_ended(None, &job);
        assert!(told.ends_with("backoff limit; no attempt has begun; its log ends with: two"), "{told}");

        let unauthorized = serde_json::json!({
            "ResponseBody": {"kind": "Status", "message": "Unauthorized", "reason": "Unauthorized", "code": 401},
            "StatusCode": 401, "StatusText": "Unauthorized",
        });
        let job = JobEnd { error: Some("EKS.401".to_owned()), cause: Some(unauthorized.to_string()) };
        assert!(
            how_it_ended(None, &job)
                .starts_with("its Job ended with `EKS.401`: Unauthorized: Unauthorized; no attempt")
        );
        let job = JobEnd { error: Some("States.Timeout".to_owned()), cause: None };
        assert!(how_it_ended(None, &job).starts_with("its Job ended with `States.Timeout`; no attempt"));
    }
}
