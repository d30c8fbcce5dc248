//! What a run of backups claims: what was due, taken and missed, what was proven, and how everything stands against the
//! plan when it ended.
//!
//! Such a run recovers nothing, so it has no recovery time and no loss: [`BackupReport`] has a form of its own, which is
//! computed from the run's record and from what the evidence bucket says of all backups at that moment.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{StateSpan, Step, Trouble, timeline, words::count};
use crate::{
    backup::{BackupId, Finding, Kind, Reason, Rung, Standing},
    notice::utc,
    objective::human_seconds,
    plan::Plan,
    run::{BackupMissed, LogProven, Run},
};

/// Version of the form of a backup run's `report.json`.
pub const BACKUP_SCHEMA: u32 = 1;

/// What a run of backups claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Always `backups`: tells it from the report of a recovery.
    pub form: BackupForm,
    /// [`BACKUP_SCHEMA`].
    pub schema: u32,
    /// The plan's platform.
    pub platform: String,
    /// The run.
    pub run: String,
    /// When the run began.
    pub started_at: Timestamp,
    /// When the report was computed.
    pub written_at: Timestamp,
    /// How the run ended.
    pub outcome: BackupOutcome,
    /// The whole report in one sentence.
    pub sentence: String,
    /// How many backups were due; absent if the run takes none.
    pub due: Option<u64>,
    /// Those that were taken.
    pub taken: Vec<Taken>,
    /// Those that were not.
    pub missed: Vec<Missed>,
    /// Those that were read back.
    pub proven: Vec<Proven>,
    /// Those that could not be read.
    pub unread: Vec<Missed>,
    /// How the log stands, if the run looked.
    pub log: Option<LogProven>,
    /// How many backups were marked to expire; absent if the run marks none.
    pub expired: Option<u64>,
    /// How the backups of each policy stand, whoever took and proved them.
    pub policies: Vec<PolicyStanding>,
    /// Why that is not known.
    pub policies_unknown: Option<String>,
    /// Everything that is not as it should be, with what to do.
    pub findings: Vec<BackupFinding>,
    /// Each state of the machine, where somebody recorded them.
    pub timeline: Vec<Step>,
    /// The failure that decided the end, if one did.
    pub failure: Option<Trouble>,
    /// Failures that decided nothing.
    pub troubles: Vec<Trouble>,
    /// What a person does next, in order.
    pub next: Vec<String>,
    /// The record that this was computed from.
    pub record: Run,
}

/// Tells the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupForm {
    /// A run of backups.
    Backups,
}

/// How a run of backups ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupOutcome {
    /// Everything that was due is there, or everything that was looked at is as it should be.
    Whole,
    /// Something is missing, or not as it should be.
    Incomplete,
    /// The run itself failed; what it did not get to is not known.
    Failed,
}

/// A backup that was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Which.
    pub backup: BackupId,
    /// Its length before encoding.
    pub plain_bytes: u64,
    /// Its length as stored.
    pub stored_bytes: u64,
    /// From its beginning to its end.
    pub took_seconds: f64,
    /// Plain bytes in a second; absent if there was nothing to measure.
    pub bytes_per_second: Option<f64>,
}

/// A backup that was not taken or not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// Which.
    pub backup: BackupId,
    /// The error's name.
    pub error: String,
    /// What was tried, why it failed, what to do.
    pub message: String,
}

/// A backup that was read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Which.
    pub backup: BackupId,
    /// How far it was asked for.
    pub asked: Rung,
    /// How far it got.
    pub rung: Option<Rung>,
    /// Artifacts that its manifest names.
    pub found: u64,
    /// Those that were looked at.
    pub checked: u64,
    /// Those that are as they should be.
    pub valid: u64,
    /// How much is not as it should be.
    pub findings: u64,
}

/// How the backups of a policy stand against the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyStanding {
    /// Which kind.
    pub kind: Kind,
    /// Of what; absent if there is none at all.
    pub subject: Option<String>,
    /// The component that is recovered from it.
    pub recovers: String,
    /// When the newest one was due; of the log, the moment that a restore can go to.
    pub newest_at: Option<Timestamp>,
    /// How old that is; of the log, how much a restore lacked when it was last looked at.
    pub age_seconds: Option<f64>,
    /// How old it may be.
    pub fresh_within_seconds: f64,
    /// It is young enough.
    pub fresh: bool,
    /// When the newest proven one was due; of the log, when it was last followed to its end.
    pub proven_at: Option<Timestamp>,
    /// How old that is.
    pub proven_age_seconds: Option<f64>,
    /// How old it may be.
    pub proven_within_seconds: f64,
    /// It is proven, and young enough.
    pub proven_in_time: bool,
    /// How far it is proven.
    pub rung: Option<Rung>,
    /// How far it must be.
    pub proven_to: Rung,
    /// All of that in a few words.
    pub says: String,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFinding {
    /// Of which backup, or of which log.
    pub of: String,
    /// Why.
    pub reason: Reason,
    /// Which artifact.
    pub artifact: Option<String>,
    /// What was seen.
    pub says: String,
    /// What to do.
    pub remedy: String,
}

impl BackupReport {
    /// Computes the report of a run. `standings` is how all backups stand now, or why nobody knows.
    pub fn of(
        plan: &Plan,
        run: &Run,
        standings: Result<Vec<Standing>, String>,
        history: &[StateSpan],
        now: Timestamp,
    ) -> BackupReport {
        let (standings, policies_unknown) = match standings {
            Ok(standings) => (standings, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let backups = run.backups.as_ref();
        let proofs = run.proofs.as_ref();
        let mut report = BackupReport {
            form: BackupForm::Backups,
            schema: BACKUP_SCHEMA,
            platform: plan.platform.clone(),
            run: run.id.clone(),
            started_at: run.started_at,
            written_at: now,
            outcome: outcome(run),
            sentence: String::new(),
            due: backups.map(|backups| backups.due),
            taken: backups.into_iter().flat_map(|backups| &backups.taken).map(Taken::of).collect(),
            missed: backups.into_iter().flat_map(|backups| &backups.missed).map(Missed::of).collect(),
            proven: proofs.into_iter().flat_map(|proofs| &proofs.proven).map(Proven::of).collect(),
            unread: proofs.into_iter().flat_map(|proofs| &proofs.unread).map(Missed::of).collect(),
            log: proofs.and_then(|proofs| proofs.log.clone()),
            expired: proofs.and_then(|proofs| proofs.expired),
            policies: policies(plan, &standings),
            policies_unknown,
            findings: standings.iter().flat_map(findings).collect(),
            timeline: if history.is_empty() { Vec::new() } else { timeline::steps(run, history) },
            failure: run.failure.as_ref().map(Trouble::of),
            troubles: run.troubles.iter().map(Trouble::of).collect(),
            next: Vec::new(),
            record: run.clone(),
        };
        report.next = next(&report);
        report.sentence = sentence(&report);
        report
    }

    /// Plain bytes that were taken.
    pub fn plain_bytes(&self) -> u64 {
        self.taken.iter().map(|taken| taken.plain_bytes).sum()
    }

    /// Bytes that were stored.
    pub fn stored_bytes(&self) -> u64 {
        self.taken.iter().map(|taken| taken.stored_bytes).sum()
    }

    /// Policies that are kept, and all of them.
    pub fn policies_met(&self) -> (usize, usize) {
        (self.policies.iter().filter(|policy| policy.fresh && policy.proven_in_time).count(), self.policies.len())
    }
}

fn outcome(run: &Run) -> BackupOutcome {
    let whole = run.backups.iter().all(crate::run::BackupsTaken::is_whole)
        && run.proofs.iter().all(crate::run::BackupsProven::is_good);
    match run.failure {
        Some(_) => BackupOutcome::Failed,
        None if whole && run.troubles.is_empty() => BackupOutcome::Whole,
        None => BackupOutcome::Incomplete,
    }
}

impl Taken {
    fn of(taken: &crate::run::BackupTaken) -> Taken {
        let bytes = taken.plain_bytes as f64;
        let measured = taken.took_seconds > 0.0 && taken.plain_bytes > 0;
        Taken {
            backup: taken.backup.clone(),
            plain_bytes: taken.plain_bytes,
            stored_bytes: taken.stored_bytes,
            took_seconds: taken.took_seconds,
            bytes_per_second: measured.then(|| bytes / taken.took_seconds),
        }
    }
}

impl Missed {
    fn of(missed: &BackupMissed) -> Missed {
        let failure =
            crate::run::RunFailure { state: String::new(), error: missed.error.clone(), cause: missed.cause.clone() };
        Missed { backup: missed.backup.clone(), error: missed.error.clone(), message: failure.message() }
    }
}

impl Proven {
    fn of(proven: &crate::run::BackupProven) -> Proven {
        Proven {
            backup: proven.backup.clone(),
            asked: proven.asked,
            rung: proven.rung,
            found: proven.found,
            checked: proven.checked,
            valid: proven.valid,
            findings: proven.findings,
        }
    }
}

fn policies(plan: &Plan, standings: &[Standing]) -> Vec<PolicyStanding> {
    let of = |standing: &Standing| {
        let policy = plan.backups.policy(standing.kind)?;
        let seconds = |age: Option<i64>| age.map(|age| age as f64);
        let log = standing.log.as_ref();
        let reach = log.and_then(|log| log.reach.as_ref());
        Some(PolicyStanding {
            kind: standing.kind,
            subject: standing.subject.clone(),
            recovers: policy.recovers.clone(),
            newest_at: match log {
                Some(_) => reach.and_then(|reach| reach.reaches_to),
                None => standing.newest.as_ref().map(|newest| newest.backup.due_at),
            },
            age_seconds: match log {
                Some(_) => seconds(reach.and_then(crate::backup::LogReach::behind_seconds)),
                None => seconds(standing.age_seconds),
            },
            fresh_within_seconds: policy.fresh_within.seconds(),
            fresh: standing.fresh,
            proven_at: match log {
                Some(log) => log.chain.as_ref().and_then(|chain| chain.proven_at),
                None => standing.proven.as_ref().map(|proven| proven.verified.backup.due_at),
            },
            proven_age_seconds: seconds(standing.unproven_seconds),
            proven_within_seconds: policy.proven_within.seconds(),
            proven_in_time: standing.proven_in_time,
            rung: match log {
                Some(_) => standing.unproven_seconds.map(|_| policy.proven_to),
                None => standing.proven.as_ref().map(|proven| proven.verified.rung),
            },
            proven_to: policy.proven_to,
            says: standing.verdict(policy),
        })
    };
    standings.iter().filter_map(of).collect()
}

fn findings(standing: &Standing) -> Vec<BackupFinding> {
    let of = match (&standing.newest, &standing.subject) {
        (Some(newest), _) => newest.backup.to_string(),
        (None, Some(subject)) => format!("{}/{subject}", standing.kind),
        (None, None) => standing.kind.to_string(),
    };
    let one = |found: &Finding| BackupFinding {
        of: of.clone(),
        reason: found.reason,
        artifact: found.artifact.clone(),
        says: found.says.clone(),
        remedy: found.remedy.clone(),
    };
    standing.findings.iter().map(one).collect()
}

fn next(report: &BackupReport) -> Vec<String> {
    let mut next: Vec<String> = Vec::new();
    if let Some(failure) = &report.failure {
        let remedy =
            failure.message.rsplit_once("; ").map_or("look at it and start the run again", |(_, remedy)| remedy);
        next.push(format!("`{}` failed: {remedy}.", failure.state));
    }
    for missed in &report.missed {
        let remedy = missed.message.rsplit_once("; ").map_or("look at its error above", |(_, remedy)| remedy);
        next.push(format!("Take `{}` again: {remedy}.", missed.backup));
    }
    for unread in &report.unread {
        next.push(format!("Prove `{}` again: it could not be read, so nothing is known of it.", unread.backup));
    }
    for found in &report.findings {
        let line = format!("`{}`: {}.", found.of, found.remedy);
        if !next.contains(&line) {
            next.push(line);
        }
    }
    for policy in report.policies.iter().filter(|policy| !policy.fresh || !policy.proven_in_time) {
        let PolicyStanding { kind, says, .. } = policy;
        let Some(subject) = &policy.subject else {
            next.push(format!("Take a first {kind} backup: there is none."));
            continue;
        };
        let explained = report.findings.iter().any(|found| found.of.starts_with(&format!("{kind}/{subject}")));
        if !explained {
            let what = if *kind == Kind::Wal { "log".to_owned() } else { format!("{kind} backup") };
            next.push(format!("See to the {what} of `{subject}`: {says}."));
        }
    }
    if report.record.proofs.as_ref().is_some_and(|proofs| proofs.more) {
        next.push("Start verify-backups again: more was due than one run takes.".to_owned());
    }
    next
}

fn sentence(report: &BackupReport) -> String {
    let mut parts = Vec::new();
    if let Some(failure) = &report.failure {
        parts.push(format!("`{}` failed, and what it did not get to is not known", failure.state));
    }
    if let Some(due) = report.due {
        let taken = report.taken.len();
        let names: Vec<String> = report.missed.iter().map(|missed| format!("`{}`", missed.backup)).collect();
        parts.push(match names.as_slice() {
            [] => format!("{taken} of {due} backups that were due are complete"),
            [one] => format!("{taken} of {due} backups that were due are complete, {one} is missing"),
            [first, rest @ ..] => {
                format!(
                    "{taken} of {due} backups that were due are complete, {first} and {} more are missing",
                    rest.len()
                )
            }
        });
    }
    if report.record.proofs.is_some() {
        let bad = report.proven.iter().filter(|proven| proven.findings > 0).count();
        let read = count(report.proven.len() as u64, "backup");
        parts.push(match (bad, report.unread.len()) {
            (0, 0) => format!("{read} read back, all as they were written"),
            (bad, 0) => format!("{read} read back, {bad} not as they should be"),
            (bad, unread) => format!("{read} read back, {bad} not as they should be, and {unread} could not be read"),
        });
    }
    match (report.policies_met(), &report.policies_unknown) {
        (_, Some(_)) => parts.push("how backups stand against the plan is not known".to_owned()),
        ((_, 0), None) => {}
        ((met, all), None) if met == all => parts.push(format!("all {all} policies of the plan are kept")),
        ((met, all), None) => parts.push(format!("{met} of {all} policies of the plan are kept")),
    }
    let text = parts.join("; ");
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => format!("Nothing was due at {}.", utc(report.started_at)),
    }
}

/// The geometry of the picture: how old everything is, as a share of how old it may be.
#[derive(Debug, Serialize)]
pub(super) struct Ages {
    pub height: f64,
    pub rows: Vec<AgeRow>,
    /// Where the limit stands.
    pub limit_x: f64,
    /// The picture in words.
    pub description: String,
}

#[derive(Debug, Serialize)]
pub(super) struct AgeRow {
    pub y: f64,
    pub label: String,
    pub subject: String,
    pub bars: Vec<AgeBar>,
}

#[derive(Debug, Serialize)]
pub(super) struct AgeBar {
    pub y: f64,
    pub what: &'static str,
    pub width: f64,
    /// The bar is longer than the picture.
    pub beyond: bool,
    /// `met`, `missed`, or `unknown` where there is nothing to be old.
    pub class: &'static str,
    pub text: String,
    pub text_x: f64,
    pub title: String,
}

/// Where bars begin, what the limit's length is, and where the picture ends.
pub(super) const AGES_LEFT: f64 = 290.0;
const LIMIT: f64 = 380.0;
const LONGEST: f64 = 520.0;
const ROW: f64 = 54.0;
const TOP: f64 = 30.0;

pub(super) fn ages(report: &BackupReport) -> Option<Ages> {
    if report.policies.is_empty() {
        return None;
    }
    let rows = report.policies.iter().enumerate().map(|(i, policy)| {
        let y = TOP + i as f64 * ROW;
        let newest = if policy.kind == Kind::Wal { "behind" } else { "newest" };
        let subject = policy.subject.clone().unwrap_or_else(|| "none".to_owned());
        AgeRow {
            y,
            label: policy.kind.to_string(),
            // A long ARN or name would run into the bars.
            subject: if subject.chars().count() > 24 {
                format!("{}…", subject.chars().take(23).collect::<String>())
            } else {
                subject
            },
            bars: vec![
                bar(y + 9.0, newest, policy.age_seconds, policy.fresh_within_seconds, policy.fresh),
                bar(y + 30.0, "proven", policy.proven_age_seconds, policy.proven_within_seconds, policy.proven_in_time),
            ],
        }
    });
    let rows: Vec<AgeRow> = rows.collect();
    let (met, all) = report.policies_met();
    Some(Ages {
        height: TOP + rows.len() as f64 * ROW + 6.0,
        rows,
        limit_x: AGES_LEFT + LIMIT,
        description: format!("{met} of {all} policies are kept. The table below has every figure."),
    })
}

fn bar(y: f64, what: &'static str, age: Option<f64>, limit: f64, kept: bool) -> AgeBar {
    let length = age.map_or(LIMIT, |age| (age / limit.max(f64::EPSILON) * LIMIT).max(2.0));
    let width = (length.min(LONGEST) * 10.0).round() / 10.0;
    let text = match age {
        Some(age) => format!("{} of {}", human_seconds(age), human_seconds(limit)),
        None => "none".to_owned(),
    };
    AgeBar {
        y,
        what,
        width,
        beyond: length > LONGEST,
        class: match (age, kept) {
            (None, _) => "unknown",
            (Some(_), true) => "met",
            (Some(_), false) => "missed",
        },
        title: format!("{what}: {text}{}", if kept { "" } else { ", not as planned" }),
        text,
        text_x: AGES_LEFT + width.max(LIMIT) + 14.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backup::Newest,
        report::{backups_to_html, backups_to_markdown},
        run::{BackupTaken, BackupsTaken},
    };

    const SPARC: &str = include_str!("../../../../plans/sparc.toml");

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn night() -> Run {
        let taken = |id: &str, plain, stored, seconds| BackupTaken {
            backup: id.parse().unwrap(),
            plain_bytes: plain,
            stored_bytes: stored,
            took_seconds: seconds,
        };
        let mut run: Run = serde_json::from_value(serde_json::json!({
            "id": "nightly-2026-11-26", "started_at": "2026-11-26T02:00:02Z", "event": {"due_at": "2026-11-26T02:00:00Z"}
        }))
        .unwrap();
        run.backups = Some(BackupsTaken {
            due: 3,
            taken: vec![
                taken("logical/sparc-prod/20261126T020000Z", 48_000_000_000, 12_500_000_000, 812.4),
                taken("cluster/sparc-prod-us-east-1/20261126T020000Z", 1_400_000, 210_000, 3.2),
            ],
            missed: vec![BackupMissed {
                backup: "registry/sparc/20261126T020000Z".parse().unwrap(),
                error: "Recovery.Refused".to_owned(),
                cause: "{\"errorType\":\"Recovery.Refused\",\"errorMessage\":\"ECR forbids us listing; give the role ecr:DescribeImages\"}"
                    .to_owned(),
            }],
        });
        run
    }

    fn standings(plan: &Plan) -> Vec<Standing> {
        let now = at("2026-11-26T02:20:00Z");
        plan.backups
            .policies
            .iter()
            .map(|policy| {
                let mut standing = Standing::of_nothing(policy.kind);
                if policy.kind == Kind::Logical {
                    let backup: BackupId = "logical/sparc-prod/20261126T020000Z".parse().unwrap();
                    standing.subject = Some("sparc-prod".to_owned());
                    standing.age_seconds = Some(now.as_second() - backup.due_at.as_second());
                    standing.unproven_seconds = Some(180_000);
                    standing.fresh = true;
                    standing.proven_in_time = true;
                    standing.newest = Some(Newest { backup, completed_at: now, rung: None });
                }
                standing
            })
            .collect()
    }

    #[test]
    fn a_night_is_told_with_its_figures_and_what_to_do() {
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        let report = BackupReport::of(&plan, &night(), Ok(standings(&plan)), &[], at("2026-11-26T02:20:00Z"));
        assert_eq!(report.outcome, BackupOutcome::Incomplete);
        assert_eq!(
            report.sentence,
            "2 of 3 backups that were due are complete, `registry/sparc/20261126T020000Z` is missing; 1 of 7 policies of the plan are kept."
        );
        assert_eq!(report.next[0], "Take `registry/sparc/20261126T020000Z` again: give the role ecr:DescribeImages.");
        let rate = report.taken[0].bytes_per_second.unwrap();
        assert!((rate - 59_084_194.0).abs() < 1.0, "{rate}");
        assert_eq!(report, serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap());

        let text = backups_to_markdown(&report).unwrap();
        for words in ["# Backup report: sparc, incomplete", "48.0 GB", "59.1 MB/s", "## What to do next", "| logical |"]
        {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(!text.contains("Recovery time") && !text.contains("RTO"), "{text}");
        let html = backups_to_html(&report).unwrap();
        for words in ["<svg", "Ages against", "registry/sparc", "not as planned"] {
            assert!(html.contains(words), "{words}");
        }
        assert!(!html.contains("<script") && !html.contains("http://"), "self-contained");
    }

    #[test]
    fn what_is_not_known_is_said_and_not_passed_over() {
        let plan = Plan::parse("plans/sparc.toml", SPARC).unwrap();
        let mut run = night();
        run.backups = None;
        run.failure = Some(crate::run::RunFailure {
            state: "PlanBackups".to_owned(),
            error: "Recovery.Transient".to_owned(),
            cause: "{\"errorMessage\":\"the evidence bucket did not answer; try again\"}".to_owned(),
        });
        let report = BackupReport::of(&plan, &run, Err("no answer".to_owned()), &[], at("2026-11-26T02:20:00Z"));
        assert_eq!(report.outcome, BackupOutcome::Failed);
        assert!(report.sentence.contains("not known"), "{}", report.sentence);
        assert_eq!(report.next, ["`PlanBackups` failed: try again."]);
        assert!(backups_to_html(&report).unwrap().contains("no answer"));
    }
}
