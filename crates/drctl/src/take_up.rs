//! `drctl resume`, and what goes on with a run that has ended: redrive, retry, skip, abort without a runner.
//!
//! A run is taken up from the journal on this disk, or from its copy in the evidence bucket when this machine never had
//! it, or when another one has gone on with it. Two machines never take it up at once: the lease decides, and two journals
//! that went different ways are not mixed.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use asl::{FileJournal, Input, Record};
use recovery::{
    fault::chain,
    intervention::{self, Deed, Intervention},
    store::{ObjectStore, get_json},
};

use crate::{
    copy::{self, Claim, Compared, Head, Writer},
    deeds::{self, Pause},
    machines,
    problem::Problem,
    run::{
        Begun, JOURNAL, Journaled, Lease, Means, Started, WRITER, check_journal, drive, head, of_journal, seed,
        unwritable,
    },
    run_folder::{RunCard, RunFolder, RunStatus, default_runs},
    runs,
};

/// Longest wait for the bucket before this machine goes on by itself.
const COURTESY: Duration = Duration::from_secs(5);
/// Longest wait for everything that the bucket is asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to take up again.
#[derive(Clone, Debug, clap::Args)]
pub struct ResumeArgs {
    /// Name of the run
    pub run: String,
    /// Take up what the evidence bucket has, and put aside what this machine has
    #[arg(long)]
    pub from_bucket: bool,
    /// Who takes it up, where it is another machine's
    #[arg(long, value_name = "NAME", env = "RECOVERY_OPERATOR", default_value = "nobody named")]
    pub by: String,
    /// The platform [default: the plan that the run was started with, else plans/sparc.toml]
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Where runs are kept [default: ~/.local/state/drctl/runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<PathBuf>,
    /// Print the report of the run as JSON instead of progress
    #[arg(long)]
    pub json: bool,
}

/// Takes up a run whose runner was killed, on this machine or another: what was answered is not asked again.
///
/// # Errors
/// There is no such run, it has ended, somebody works on it, or its journal does not fit this program.
pub async fn resume(args: ResumeArgs) -> Result<ExitCode, Problem> {
    take_up(args, None).await
}

/// What a run that has ended, or has no runner, begins with.
pub struct Beginning {
    /// For the engine.
    pub input: Input,
    /// Who asks for it and why.
    pub intervention: Intervention,
}

/// Where a journal is taken from.
enum Source {
    /// This disk; the bucket is away, for this reason.
    DiskAlone(String),
    /// This disk; the bucket has nothing of this attempt.
    Disk,
    /// Both, and the lease decides.
    Both(Box<Head>),
    /// The bucket.
    Bucket(Box<Head>),
}

/// Takes up a run, with something to be done first.
///
/// # Errors
/// As [`resume`].
pub async fn take_up(args: ResumeArgs, beginning: Option<Beginning>) -> Result<ExitCode, Problem> {
    let runs_dir = args.runs_dir.clone().unwrap_or_else(default_runs);
    let folder = RunFolder::new(&runs_dir, &args.run)?;
    let here = folder.card().ok();
    let plan_file = args.plan.clone().or_else(|| here.as_ref().map(|card| card.plan.clone()));
    let plan_file = plan_file.unwrap_or_else(|| PathBuf::from("plans/sparc.toml"));
    let settings = crate::plan::settings(&plan_file)?;
    let evidence = recovery_aws::Aws::from_plan(&settings.plan).await.evidence();
    let source = source(&args, &runs_dir, here.as_ref(), evidence.as_ref()).await?;
    let card = match &source {
        Source::Bucket(head) => RunCard { plan: plan_file.clone(), ..head.card.clone() },
        _ => here.clone().ok_or_else(|| runs::unknown(&runs_dir, &args.run, ""))?,
    };
    refuse_by_status(&card, beginning.as_ref())?;
    let means = Means::gather(settings, &machines::find(&card.machine)?).await?;

    // What cannot be taken up is told before anything is claimed or written.
    let disk = std::fs::read(folder.path().join(JOURNAL)).unwrap_or_default();
    let text = match &source {
        Source::Bucket(_) => in_time(copy::read(evidence.as_ref(), &card.run, card.started_at)).await?.text,
        _ => disk.clone(),
    };
    let records = records_of(&card.run, &text)?;
    if let Source::Bucket(head) = &source {
        // On a disk a last line may be torn; a copy is made of whole ones.
        let missing = head.records.saturating_sub(records.len() as u64);
        if missing > 0 {
            return Err(cut_short(evidence.as_ref(), head, missing));
        }
    }
    let first = beginning.as_ref().map(|beginning| &beginning.input);
    check_journal(&card.run, &means.machine, &records, first)?;

    let hold = folder.hold()?;
    let writer = Writer::this(seed(&card.run));
    let (gone, mut aside) = (gone_from(&folder, &writer), None);
    let mut lease = Lease { writer: writer.clone(), gone: gone.clone(), claimed: None };
    let (mut taken_from, mut done_elsewhere) = (None, Vec::new());
    match &source {
        Source::DiskAlone(why) => {
            aside = Some(format!(
                "the evidence bucket cannot be asked whether another machine has taken the run up ({why}); going on from this disk"
            ));
        }
        Source::Disk => {}
        Source::Both(there) | Source::Bucket(there) => {
            // Until it is decided whose journal goes on, the head tells how the run stands there, not here.
            let (records, card_there) = (there.records, there.card.clone());
            let ours = Head { records, card: card_there, question: there.question.clone(), ..head(&card, &writer) };
            let claim = in_time(copy::claim(evidence.as_ref(), &ours, gone.as_deref())).await?;
            let last = match claim {
                Claim::Held(other) => return Err(copy::held_elsewhere(&other)),
                Claim::Taken(last) => last.unwrap_or_else(|| there.clone()),
            };
            let copied =
                in_time(copy::close_against_others(evidence.as_ref(), &card.run, card.started_at, &writer)).await?;
            lease.claimed = Some((copied.segments, copied.text.len() as u64));
            let adopt = match (&source, copy::compare(&disk, &copied.text)) {
                (Source::Bucket(_), _) | (_, Compared::SecondIsAhead) => true,
                (_, Compared::Same | Compared::FirstIsAhead) => false,
                (_, Compared::Apart(records)) if !args.from_bucket => {
                    return Err(Problem::input(format!(
                        "run `{0}` went on in two places after record {records}: here, and by {1}; others see that one, `drctl resume {0} --from-bucket` takes it up and puts this one aside",
                        card.run,
                        last.writer.in_words()
                    )));
                }
                (_, Compared::Apart(_)) => true,
            };
            let kept = in_time(get_json::<Vec<Intervention>>(evidence.as_ref(), &intervention::key(&card.run))).await?;
            done_elsewhere = kept.map(|(done, _)| done).unwrap_or_default();
            if adopt {
                adopt_copy(&folder, &copied.text)?;
            }
            if Some(&last.writer.nonce) != gone.as_ref() && !last.has_ended() {
                taken_from = Some(last.writer);
            }
        }
    }
    let (journal, records) =
        FileJournal::open(&folder.path().join(JOURNAL)).await.map_err(|error| of_journal(&error))?;
    let (mut done, pause) = deeds::in_journal(&records);
    intervention::merge(&mut done, deeds::of(&folder).into_iter().chain(done_elsewhere));
    if let Some(from) = taken_from {
        let deed = Deed::TakeOver { from: from.in_words() };
        done.push(deeds::asked(deed, &args.by, "its runner gave no sign of life"));
    }
    let first = match (beginning, &pause) {
        (Some(Beginning { input, intervention }), _) => {
            intervention::merge(&mut done, [intervention.clone()]);
            Some((input, Some(intervention)))
        }
        (None, Some(Pause::OnTheWayToItsEnd)) => Some((Input::Unpause, None)),
        (None, _) => None,
    };
    let paused = match pause {
        Some(Pause::Asked(by)) if first.is_none() => Some(by),
        _ => None,
    };
    if let Some(by) = &paused {
        aside = Some(format!(
            "the run is paused by {} ({}); `drctl continue {}` lets it go on",
            by.by, by.because, card.run
        ));
    }
    deeds::note(&folder, &done).map_err(|error| unwritable(&folder, &error))?;
    let card = RunCard { pid: std::process::id(), status: RunStatus::Running, ended_at: None, paused, ..card };
    let event = event_of(&records);
    let begun = Begun { folder, hold, card, deeds: done, event, lease, aside };
    drive(means, begun, Started::Before(Box::new(Journaled { records, journal, first })), args.json).await
}

/// The process that wrote the copy from this folder: it is gone, for this one has the folder's lock. In a folder that was
/// brought here from another machine it says nothing.
pub fn gone_from(folder: &RunFolder, this: &Writer) -> Option<String> {
    let before = folder.read::<Writer>(WRITER).ok()?;
    (before.host == this.host).then_some(before.nonce)
}

async fn source(
    args: &ResumeArgs,
    runs_dir: &std::path::Path,
    here: Option<&RunCard>,
    evidence: &dyn ObjectStore,
) -> Result<Source, Problem> {
    let key = copy::head_key(&args.run);
    let look = tokio::time::timeout(COURTESY, get_json::<Head>(evidence, &key)).await;
    let away = |why: String| match here {
        Some(_) if !args.from_bucket => Ok(Source::DiskAlone(why)),
        _ => Err(runs::unknown(
            runs_dir,
            &args.run,
            &format!(", and s3://{}/{key} cannot be read: {why}", evidence.bucket()),
        )),
    };
    match (look, here) {
        (Err(_), _) => away(format!("no answer within {} s", COURTESY.as_secs())),
        (Ok(Err(error)), _) => away(chain(&error)),
        (Ok(Ok(None)), Some(_)) => Ok(Source::Disk),
        (Ok(Ok(None)), None) => {
            let elsewhere = format!(" and nothing of it in s3://{}/{key}", evidence.bucket());
            Err(runs::unknown(runs_dir, &args.run, &elsewhere))
        }
        (Ok(Ok(Some((head, _)))), None) => Ok(Source::Bucket(Box::new(head))),
        (Ok(Ok(Some((head, _)))), Some(card)) if head.attempt == card.started_at => {
            Ok(if args.from_bucket { Source::Bucket(Box::new(head)) } else { Source::Both(Box::new(head)) })
        }
        (Ok(Ok(Some((head, _)))), Some(_)) if args.from_bucket => Ok(Source::Bucket(Box::new(head))),
        (Ok(Ok(Some((head, _)))), Some(card)) if head.attempt < card.started_at => Ok(Source::Disk),
        (Ok(Ok(Some((head, _)))), Some(_)) => Err(Problem::input(format!(
            "run `{0}` was started again at {1} by {2}; `drctl resume {0} --from-bucket` takes that one up and puts this one aside",
            args.run,
            recovery::notice::utc(head.attempt),
            head.writer.in_words()
        ))),
    }
}

/// Waits for the bucket, but not for ever.
async fn in_time<T>(work: impl Future<Output = Result<T, recovery::store::StoreError>>) -> Result<T, Problem> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error @ recovery::store::StoreError::Malformed { .. })) => {
            Err(Problem::input(format!("{}; it is damaged: restore an earlier version of that object", chain(&error))))
        }
        Ok(Err(error)) => Err(Problem::input(format!("{}; try again", chain(&error)))),
        Err(_) => Err(Problem::input(format!(
            "the evidence bucket did not answer within {} s; try again",
            PATIENCE.as_secs()
        ))),
    }
}

fn refuse_by_status(card: &RunCard, beginning: Option<&Beginning>) -> Result<(), Problem> {
    let run = &card.run;
    match (card.status, beginning) {
        (RunStatus::Running, _) => Ok(()),
        (RunStatus::Succeeded, _) => Err(Problem::input(format!(
            "run `{run}` has ended well; there is nothing to take up, see `drctl report {run}`"
        ))),
        (_, Some(_)) => Ok(()),
        (RunStatus::Failed, None) => Err(Problem::input(format!(
            "run `{run}` has ended; `drctl retry {run}` goes on from the state that failed, `drctl run {} --name {run} --event …` from the world as it is",
            card.machine
        ))),
        (RunStatus::Aborted | RunStatus::TimedOut, None) => {
            Err(Problem::input(format!("run `{run}` has ended; `drctl redrive {run}` goes on from where it was ended")))
        }
    }
}

/// What was answered in those records is unknown, so nothing goes on from such a copy.
fn cut_short(evidence: &dyn ObjectStore, head: &Head, missing: u64) -> Problem {
    Problem::input(format!(
        "the copy of run `{0}` in s3://{1}/runs/{0}/ lacks {missing} of the {2} records that its head names, or they are damaged; restore an earlier version of its last segments, or resume on {3}",
        head.run,
        evidence.bucket(),
        head.records,
        head.writer.host
    ))
}

fn records_of(run: &str, text: &[u8]) -> Result<Vec<Record>, Problem> {
    let name = PathBuf::from(format!("the journal of {run}"));
    asl::journal::records(&name, text).map_err(|error| of_journal(&error))
}

/// Puts the copy in place of the journal, whole or not at all; what was there is kept beside it.
fn adopt_copy(folder: &RunFolder, text: &[u8]) -> Result<(), Problem> {
    let written = folder.put_aside(JOURNAL).and_then(|()| {
        folder.write(JOURNAL, text)?;
        std::fs::File::open(folder.path().join(JOURNAL))?.sync_all()
    });
    written.map_err(|error| unwritable(folder, &error))
}

/// What started the run, as its journal has it.
fn event_of(records: &[Record]) -> serde_json::Value {
    let start = records.iter().find_map(|record| match record {
        Record::Happened { input: Input::Start(payload), .. } => Some(payload.value().clone()),
        _ => None,
    });
    start.unwrap_or_default()
}
