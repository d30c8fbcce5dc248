//! `drctl asl replay`: the engine against recorded runs of AWS.

use std::path::PathBuf;

use asl::replay::{Summary, replay_all};
use serde_json::json;

use crate::{
    paint::Paint,
    plan::pretty,
    problem::{Problem, exit},
};

/// Replays the cases in and below the folders.
pub fn replay(folders: &[PathBuf], json: bool) -> Result<u8, Problem> {
    let reports = replay_all(folders)
        .map_err(|error| Problem::input(format!("{}; {}", recovery::fault::chain(&error), error.remedy())))?;
    let summary = Summary::of(&reports);
    if json {
        tell!("{}", pretty(&json!({"summary": summary, "cases": reports}))?);
    } else {
        let paint = Paint::stdout();
        for report in &reports {
            let line = report.to_string();
            tell!(
                "{}",
                match (report.agrees(), report.agrees_in_detail()) {
                    (true, true) => line,
                    (true, false) => paint.doubt(&line),
                    (false, _) => paint.bad(&line),
                }
            );
        }
        tell!("{summary}");
    }
    Ok(if reports.iter().all(asl::replay::CaseReport::agrees_in_detail) { exit::DONE } else { exit::FOUND })
}
