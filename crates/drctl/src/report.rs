//! `drctl report`: the report of a run of this machine, or of one whose evidence is in the bucket.

use std::{path::PathBuf, process::Stdio, time::Duration};

use recovery::{plan::Plan, report::key};
use recovery_aws::Aws;

use crate::{
    cli::{ReportArgs, ReportFormat},
    problem::{Problem, exit},
    runs,
};

/// Longest wait for the evidence bucket.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints or opens a report.
pub async fn show(args: ReportArgs) -> Result<u8, Problem> {
    let folder = runs::folder(args.runs.runs_dir.as_deref());
    let local = runs::find(&folder, &args.run)?;
    let here =
        |form: &str| local.as_ref().map(|run| run.path().join(format!("report.{form}"))).filter(|path| path.is_file());
    let form = match args.format {
        ReportFormat::Md => "md",
        ReportFormat::Json => "json",
        ReportFormat::HtmlPath => "html",
    };
    if args.open || args.format == ReportFormat::HtmlPath {
        let page = match here("html") {
            Some(page) => page,
            None => fetched(&args, &folder).await?,
        };
        tell!("{}", page.display());
        if args.open {
            open(&page)?;
        }
        return Ok(exit::DONE);
    }
    let text = match here(form) {
        Some(path) => std::fs::read_to_string(&path).map_err(|error| {
            Problem::input(format!("{}: cannot be read ({error}); run the machine again", path.display()))
        })?,
        None => String::from_utf8_lossy(&from_bucket(&args, &folder, form).await?).into_owned(),
    };
    tell!("{}", text.trim_end());
    Ok(exit::DONE)
}

/// Brings the page from the bucket to this machine.
async fn fetched(args: &ReportArgs, folder: &std::path::Path) -> Result<PathBuf, Problem> {
    let body = from_bucket(args, folder, "html").await?;
    let path = std::env::temp_dir().join(format!("drctl-report-{}.html", args.run));
    std::fs::write(&path, body)
        .map_err(|error| Problem::input(format!("{}: cannot be written ({error}); set TMPDIR", path.display())))?;
    Ok(path)
}

async fn from_bucket(args: &ReportArgs, folder: &std::path::Path, form: &str) -> Result<Vec<u8>, Problem> {
    let unknown = |why: &str| runs::unknown(folder, &args.run, why);
    let Ok(plan) = Plan::read(&args.plan.plan) else {
        return Err(unknown(&format!(
            ", and {} cannot be read to look in its evidence bucket",
            args.plan.plan.display()
        )));
    };
    let look = async {
        let evidence = Aws::from_plan(&plan).await.evidence();
        let place = format!("s3://{}/{}", evidence.bucket(), key(&args.run, form));
        match evidence.get(&key(&args.run, form)).await {
            Ok(Some(object)) => Ok(object.body),
            Ok(None) => Err(unknown(&format!(" and no {place}"))),
            Err(error) => Err(unknown(&format!(", and {place} cannot be read ({})", recovery::fault::chain(&error)))),
        }
    };
    let late = |_| unknown(&format!(", and s3://{} did not answer within 10 s", plan.buckets.evidence));
    tokio::time::timeout(PATIENCE, look).await.map_err(late)?
}

/// Hands a page to whatever shows pages here.
/// Opens a page with whatever this desktop opens pages with.
pub fn open(page: &std::path::Path) -> Result<(), Problem> {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    std::process::Command::new(opener)
        .arg(page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(|_| ())
        .map_err(|error| {
            Problem::input(format!(
                "`{opener}` cannot be started ({error}); open {} in a browser yourself",
                page.display()
            ))
        })
}
