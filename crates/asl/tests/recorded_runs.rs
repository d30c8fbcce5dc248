//! Replays the executions that were recorded on AWS, when they are there.
//!
//! The recordings stand beside the repository, in `../shared/asl-corpus` seen from its root, or where `ASL_CORPUS` says;
//! they are not part of it.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use asl::replay::{Agreement, Summary, replay_all};

fn corpus() -> Option<PathBuf> {
    let folder = match std::env::var_os("ASL_CORPUS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/asl-corpus"),
    };
    folder.is_dir().then_some(folder)
}

#[test]
fn recorded_runs_end_as_they_did_on_aws() {
    let Some(folder) = corpus() else {
        eprintln!("SKIPPED: no recorded runs at ../shared/asl-corpus; set ASL_CORPUS to a folder that has them");
        return;
    };
    let reports = replay_all(&[folder]).unwrap();
    for report in &reports {
        if !report.agrees_in_detail() || report.wording == Agreement::Different {
            println!("{report}");
        }
    }
    let summary = Summary::of(&reports);
    println!("{summary}");
    assert!(summary.same_outcome * 100 >= summary.cases * 99, "{summary}");
    assert!(summary.same_events * 100 >= summary.with_events * 98, "{summary}");
}

#[test]
fn the_checker_finds_no_errors_in_machines_that_aws_accepted_and_ran_to_their_end() {
    let Some(folder) = corpus() else {
        eprintln!("SKIPPED: no recorded runs at ../shared/asl-corpus; set ASL_CORPUS to a folder that has them");
        return;
    };
    let mut wrong = Vec::new();
    for report in replay_all(std::slice::from_ref(&folder)).unwrap() {
        let case = folder.join(&report.id);
        let expected = std::fs::read_to_string(case.join("expected.json")).unwrap();
        if !expected.contains("\"SUCCEEDED\"") {
            continue;
        }
        for problem in asl::check::check(&std::fs::read_to_string(case.join("definition.json")).unwrap()) {
            if problem.severity == asl::Severity::Error {
                wrong.push(format!("{}: {problem}", report.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
