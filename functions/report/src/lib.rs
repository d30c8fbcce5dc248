//! Turns a finished run into a report and keeps it.
//!
//! Runs as `WriteReport`, the last task on every path of every machine, failed ones too: a recovery that nobody can account
//! for is half a recovery. It asks for nothing but what people did to the run. What it says is computed from the run's
//! record, in which every step left its own times and positions, so the same record gives the same figures wherever they
//! are computed.
//!
//! A run of backups has a form of its own: what was taken, missed and proven, and how everything stands against the plan,
//! which is read from the receipts and proofs in the evidence bucket. That they cannot be read is said in the report.
//!
//! It writes three objects under `reports/<run>/` in the evidence bucket and may be repeated at any time: it overwrites its
//! own report and nothing else.

use jiff::Timestamp;
use recovery::{
    backup::Catalogue,
    fault::{Classified, Fault, chain},
    intervention::{self, Intervention},
    plan::Plan,
    report::{
        BackupReport, RecoveryReport, StateSpan, backups_to_html, backups_to_markdown, key, to_html, to_markdown,
    },
    run::{Run, RunOutcome},
    store::{ObjectStore, Precondition, StoreError, get_json, put_json},
};
use serde::{Deserialize, Serialize};

/// What kind of run it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// One that recovers the platform.
    #[default]
    Recovery,
    /// One that takes or proves backups.
    Backups,
}

/// The run that ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What kind of run it was.
    #[serde(default)]
    pub of: Of,
    /// Its record.
    pub run: Run,
    /// The states as the engine recorded them, where somebody has that; the record alone is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<StateSpan>,
}

/// The report that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// How the run ended; also the stage of the last message.
    pub outcome: RunOutcome,
    /// The report in one sentence.
    pub sentence: String,
    /// Service objectives that were met; of a run of backups, policies that are kept.
    pub objectives_met: usize,
    /// All of them.
    pub objectives: usize,
    /// Where the page lies, as `s3://bucket/key`.
    pub key: String,
}

/// There is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bucket did not take it.
    #[error("the report of run `{run}` is not kept")]
    Store {
        /// Which run.
        run: String,
        /// The bucket's words.
        #[source]
        source: StoreError,
    },
    /// Template and report do not fit.
    #[error("the report of run `{run}` cannot be rendered")]
    Render {
        /// Which run.
        run: String,
        /// The template's words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classified for Error {
    fn fault(&self) -> Fault {
        match self {
            Error::Store { source, .. } => source.fault(),
            Error::Render { .. } => Fault::Permanent,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Error::Store { source, .. } => source.remedy(),
            Error::Render { run, .. } => {
                format!("read the record of `{run}` in the execution's history, and report this as a defect")
            }
        }
    }
}

/// Adds what people did to the run. A report without it is better than none.
async fn with_interventions(mut run: Run, evidence: &dyn ObjectStore) -> Run {
    match get_json::<Vec<Intervention>>(evidence, &intervention::key(&run.id)).await {
        Ok(Some((done, _))) => intervention::merge(&mut run.interventions, done),
        Ok(None) => {}
        Err(error) => tracing::warn!(run.id = %run.id, "what people did to the run cannot be read: {}", chain(&error)),
    }
    run
}

/// Computes the report of a run and keeps it in the evidence bucket.
///
/// # Errors
/// The bucket does not take it, or it cannot be rendered.
pub async fn write_report(
    request: &Request,
    plan: &Plan,
    catalogue: Catalogue<'_>,
    now: Timestamp,
) -> Result<Written, Error> {
    let evidence = catalogue.evidence;
    let run = &with_interventions(request.run.clone(), evidence).await;
    let unrendered = |source| Error::Render { run: run.id.clone(), source: Box::new(source) };
    match request.of {
        Of::Recovery => {
            let report = RecoveryReport::of(plan, run, &request.history, now);
            let (markdown, html) = (to_markdown(&report).map_err(unrendered)?, to_html(&report).map_err(unrendered)?);
            let key = keep(run, &report, markdown, html, evidence).await?;
            let (objectives_met, objectives) = report.objectives_met();
            Ok(Written { outcome: report.outcome, sentence: report.sentence, objectives_met, objectives, key })
        }
        Of::Backups => {
            let standings = catalogue.all_standings(plan, now).await.map_err(|error| chain(&error));
            let report = BackupReport::of(plan, run, standings, &request.history, now);
            let markdown = backups_to_markdown(&report).map_err(unrendered)?;
            let html = backups_to_html(&report).map_err(unrendered)?;
            let key = keep(run, &report, markdown, html, evidence).await?;
            let (objectives_met, objectives) = report.policies_met();
            Ok(Written { outcome: run.outcome(), sentence: report.sentence, objectives_met, objectives, key })
        }
    }
}

/// Keeps a report in its three forms; says where its page lies.
async fn keep<T: Serialize + Sync>(
    run: &Run,
    report: &T,
    markdown: String,
    html: String,
    evidence: &dyn ObjectStore,
) -> Result<String, Error> {
    let unkept = |source| Error::Store { run: run.id.clone(), source };
    // The figures first: the other two are views of them.
    put_json(evidence, &key(&run.id, "json"), report, Precondition::None).await.map_err(unkept)?;
    for (form, content_type, body) in
        [("md", "text/markdown; charset=utf-8", markdown), ("html", "text/html; charset=utf-8", html)]
    {
        evidence.put(&key(&run.id, form), content_type, body.into_bytes(), Precondition::None).await.map_err(unkept)?;
    }
    Ok(format!("s3://{}/{}", evidence.bucket(), key(&run.id, "html")))
}
