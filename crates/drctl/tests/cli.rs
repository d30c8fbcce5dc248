//! The command line as a person meets it: what it prints, what it refuses, and with which exit code.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

fn repository() -> PathBuf {
    // The tests run in the package's folder; a plan and machines are named as in the README.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|folder| folder.join("plans/sparc.toml").is_file())
        .unwrap_or_else(|| panic!("run the tests inside the repository, plans/sparc.toml is part of them"))
        .to_path_buf()
}

fn drctl(runs: &TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_drctl"))
        .args(arguments)
        .current_dir(repository())
        .env("XDG_STATE_HOME", runs.path())
        .env_remove("RECOVERY_PLAN")
        .env_remove("RECOVERY_OPERATOR")
        // No test may find somebody's account.
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A file with one text in place of another one.
fn changed(folder: &TempDir, file: &str, right: &str, wrong: &str) -> String {
    let text = std::fs::read_to_string(repository().join(file)).unwrap();
    assert!(text.contains(right), "{file}: {right}");
    let path = folder.path().join(Path::new(file).file_name().unwrap());
    std::fs::write(&path, text.replacen(right, wrong, 1)).unwrap();
    path.display().to_string()
}

#[test]
fn wrong_input_is_one_line_with_exit_code_2_and_nothing_is_changed() {
    let files = TempDir::new().unwrap();
    let plan = |right, wrong| changed(&files, "plans/sparc.toml", right, wrong);
    let event = |right, wrong| changed(&files, "events/regional-failover/manual-graceful.json", right, wrong);
    let run = "regional-failover";
    let good = "events/regional-failover/manual-graceful.json";
    let no_region = plan("secondary = \"us-west-2\"", "secondary = \"us-wset\"");
    let region_event = event("\"lost_regions\": []", "\"lost_regions\": [\"eu-north-1\"]");
    let no_json = files.path().join("broken.json").display().to_string();
    std::fs::write(&no_json, "{\n  \"detail\": ").unwrap();
    let situations: Vec<(&str, Vec<&str>, Vec<&str>)> = vec![
        ("a plan that is not there", vec!["plan", "--plan", "nowhere.toml"], vec!["nowhere.toml", "--plan"]),
        (
            "a wrong region in the plan",
            vec!["plan", "check", "--plan", &no_region],
            vec![":7:13: ", "`us-wset` is not an AWS Region"],
        ),
        (
            "an unknown machine to show",
            vec!["machine", "show", "regional-failver"],
            vec!["did you mean `regional-failover`?"],
        ),
        (
            "an unknown machine to run",
            vec!["run", "regional-failver", "--event", good],
            vec!["did you mean `regional-failover`?"],
        ),
        (
            "an event that is not there",
            vec!["run", run, "--event", "nowhere.json"],
            vec!["`nowhere.json` cannot be read"],
        ),
        ("an event that is not JSON", vec!["run", run, "--event", &no_json], vec!["broken.json:2:", "not JSON"]),
        (
            "a wrong region in the event",
            vec!["run", run, "--event", &region_event],
            vec!["`eu-north-1` is none of the plan's regions"],
        ),
        (
            "a plan that is not there, to run",
            vec!["run", run, "--event", good, "--plan", "nowhere.toml"],
            vec!["nowhere.toml"],
        ),
        (
            "a name that cannot be a run's",
            vec!["run", run, "--event", good, "--name", "../x"],
            vec!["cannot be a run's name"],
        ),
        ("an unknown run", vec!["status", "failover-7", "--local"], vec!["there is no run `failover-7`"]),
        ("a name that leads out of the folder", vec!["report", "../../etc/passwd"], vec!["cannot be a run's name"]),
        (
            "an answer without a reason",
            vec!["approve", "failover-7", "--by", "x", "--because", " "],
            vec!["--because is empty"],
        ),
        (
            "something done without a reason",
            vec!["pause", "failover-7", "--by", "x", "--because", " "],
            vec!["--because is empty"],
        ),
        (
            "something done by nobody",
            vec!["abort", "failover-7", "--by", " ", "--because", "false alarm"],
            vec!["--by is empty"],
        ),
        (
            "an output that is not there",
            vec!["skip", "failover-7", "SwapDns", "--by", "x", "--because", "y", "--output", "nowhere.json"],
            vec!["`nowhere.json` cannot be read"],
        ),
        (
            "an unknown run to resume",
            vec!["resume", "failover-7"],
            vec!["there is no run `failover-7`", "head.json cannot be read"],
        ),
        (
            "an unknown run to redrive, with AWS away",
            vec!["redrive", "failover-7", "--by", "x", "--because", "y"],
            vec!["there is no run `failover-7`", "Step Functions cannot be asked"],
        ),
        ("nothing to replay", vec!["asl", "replay", "docs"], vec!["holds no recorded case"]),
    ];
    for (situation, arguments, expected) in situations {
        let runs = TempDir::new().unwrap();
        let output = drctl(&runs, &arguments);
        let line = err(&output);
        assert_eq!(output.status.code(), Some(2), "{situation}: {line}");
        assert!(line.starts_with("drctl: ") && line.trim_end().lines().count() == 1, "{situation}: {line}");
        for part in expected {
            assert!(line.contains(part), "{situation}: {line}");
        }
        assert_eq!(out(&output), "", "{situation}");
        assert_eq!(std::fs::read_dir(runs.path()).unwrap().count(), 0, "{situation}: something was written");
    }
}

#[test]
fn an_answer_to_an_unknown_run_is_refused_when_the_bucket_is_away_too() {
    let runs = TempDir::new().unwrap();
    let output = drctl(&runs, &["reject", "failover-7", "--by", "x", "--because", "the primary works"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("there is no run `failover-7`"), "{}", err(&output));
}

#[test]
fn open_contradictions_are_exit_code_1_and_none_is_exit_code_0() {
    let (runs, files) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let output = drctl(&runs, &["plan", "check", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["findings"]["open"][0]["name"], "rpo:live-video");
    assert_eq!(found["findings"]["accepted"][0]["because"].as_str().unwrap().split(' ').next(), Some("30"));

    // With every finding accepted, nothing is open.
    let text = std::fs::read_to_string(repository().join("plans/sparc.toml")).unwrap();
    let open = found["findings"]["open"].as_array().unwrap();
    let accepted: String = open
        .iter()
        .map(|one| format!("\n[[accepted]]\ncontradiction = {}\nbecause = \"for this test\"\n", one["name"]))
        .collect();
    let plan = files.path().join("plan.toml");
    std::fs::write(&plan, text + &accepted).unwrap();
    let output = drctl(&runs, &["plan", "check", "--plan", plan.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
}

#[test]
fn output_without_a_terminal_has_no_colour() {
    let runs = TempDir::new().unwrap();
    for arguments in
        [vec!["plan"], vec!["plan", "check"], vec!["machine", "list"], vec!["machine", "show", "regional-failover"]]
    {
        let output = drctl(&runs, &arguments);
        assert!(!output.stdout.contains(&0x1b), "{arguments:?}");
        assert!(out(&output).lines().count() > 0, "{arguments:?}");
    }
}

#[test]
fn machines_are_shown_with_the_reason_for_each_state() {
    let runs = TempDir::new().unwrap();
    let text = out(&drctl(&runs, &["machine", "show", "regional-failover"]));
    assert!(text.contains("Two primaries are worse than none"), "{text}");
    let drawing = out(&drctl(&runs, &["machine", "mermaid", "regional-failover"]));
    assert!(drawing.starts_with("flowchart TD\n") && drawing.contains("-.->|\"States.ALL\"|"), "{drawing}");
    let graph: Value =
        serde_json::from_slice(&drctl(&runs, &["machine", "show", "regional-failover", "--json"]).stdout).unwrap();
    assert_eq!(graph["graph"]["start"], "OpenRecord");
}

#[test]
fn every_command_has_an_example() {
    let runs = TempDir::new().unwrap();
    let commands: [&[&str]; 22] = [
        &["plan"],
        &["plan", "check"],
        &["machine", "list"],
        &["machine", "show"],
        &["machine", "mermaid"],
        &["machine", "check"],
        &["asl", "replay"],
        &["run"],
        &["resume"],
        &["pause"],
        &["continue"],
        &["abort"],
        &["retry"],
        &["skip"],
        &["redrive"],
        &["watch"],
        &["drill"],
        &["approve"],
        &["reject"],
        &["status"],
        &["report"],
        &["completion"],
    ];
    for command in commands {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let output = drctl(&runs, &arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(out(&output).contains("Example"), "{command:?}: {}", out(&output));
        assert!(out(&output).contains(&format!("drctl {}", command.join(" "))), "{command:?}");
    }
    assert!(out(&drctl(&runs, &["--help"])).contains("Exit codes:"));
}

#[test]
fn shells_can_complete_every_command() {
    let runs = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = out(&drctl(&runs, &["completion", shell]));
        assert!(script.contains("mermaid") && script.contains("approve") && script.contains("redrive"), "{shell}");
    }
}

#[test]
fn a_run_of_this_machine_is_found_answered_and_reported() {
    let runs = TempDir::new().unwrap();
    let folder = runs.path().join("drctl/runs/failover-7");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write(
        "run.json",
        r#"{"run": "failover-7", "machine": "regional-failover", "plan": "plans/sparc.toml", "event": "e.json",
            "status": "running", "started_at": "2026-11-23T03:02:11Z", "ended_at": null, "pid": 1, "state": "AwaitApproval"}"#,
    );
    write("report.md", "# Recovery report: sparc, recovered\n");
    write("report.html", "<!doctype html>");
    write(
        "approval-request.json",
        r#"{"task_token": "t-1", "state": "AwaitApproval", "asked_at": "2026-11-23T03:02:14Z"}"#,
    );

    // Nobody holds the folder: the runner is gone.
    let status = out(&drctl(&runs, &["status", "failover-7", "--local"]));
    assert!(status.contains("failover-7  its runner ended in AwaitApproval"), "{status}");
    assert!(status.contains("Next: drctl resume failover-7, or drctl abort failover-7"), "{status}");
    assert!(status.contains("drctl on this machine wrote this"), "{status}");
    let approve = ["approve", "failover-7", "--by", "sre", "--because", "it is gone", "--consent", "data-loss"];
    let output = drctl(&runs, &approve);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("its runner is gone"), "{}", err(&output));

    let who = ["--by", "sre", "--because", "wait"];
    let pause = drctl(&runs, &[&["pause", "failover-7"][..], &who].concat());
    assert_eq!(pause.status.code(), Some(2));
    assert!(err(&pause).contains("`drctl resume failover-7` first"), "{}", err(&pause));

    // A runner holds it.
    let lock = std::fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let list = out(&drctl(&runs, &["status"]));
    assert!(list.contains("failover-7  waits for an approval  regional-failover"), "{list}");
    assert!(list.contains("Step Functions cannot be asked: "), "{list}");
    for (state, why) in [("PromoteReplica", "cannot be skipped"), ("DeployWorkload", "did you mean `DeployWorkloads`?")]
    {
        let refused = drctl(&runs, &[&["skip", "failover-7", state][..], &who].concat());
        assert_eq!(refused.status.code(), Some(2));
        assert!(err(&refused).contains(why), "{}", err(&refused));
    }
    assert!(!folder.join("requests").exists(), "nothing was asked");
    let output = drctl(&runs, &approve);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let answer: Value = serde_json::from_slice(&std::fs::read(folder.join("approval.json")).unwrap()).unwrap();
    assert_eq!((&answer["task_token"], &answer["approve"]), (&Value::from("t-1"), &Value::from(true)));
    assert_eq!(answer["given"]["consents"][0]["to"], "data-loss");
    let again = drctl(&runs, &["reject", "failover-7", "--by", "sre", "--because", "no"]);
    assert!(err(&again).contains("was answered already"), "{}", err(&again));

    assert_eq!(out(&drctl(&runs, &["report", "failover-7"])), "# Recovery report: sparc, recovered\n");
    let page = out(&drctl(&runs, &["report", "failover-7", "--format", "html-path"]));
    assert_eq!(page.trim_end(), folder.join("report.html").display().to_string());
    let typo = drctl(&runs, &["status", "failover-8", "--local"]);
    assert!(err(&typo).contains("did you mean `failover-7`?"), "{}", err(&typo));
}

#[test]
fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is_one() {
    use std::process::Stdio;
    let runs = TempDir::new().unwrap();
    for arguments in
        [["machine", "show", "regional-failover"].as_slice(), &["plan"], &["plan", "--json"], &["completion", "bash"]]
    {
        let command = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_drctl"));
            command
                .args(arguments)
                .current_dir(repository())
                .env("XDG_STATE_HOME", runs.path())
                .env_remove("RECOVERY_PLAN");
            command.stdout(stdout).stderr(Stdio::piped()).output().unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let gone = command(writer.into());
        assert_eq!((gone.status.code(), err(&gone).as_str()), (Some(0), ""), "{arguments:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let full = command(full.into());
        assert_eq!(full.status.code(), Some(1), "{arguments:?}");
        assert!(err(&full).contains("standard output cannot be written"), "{arguments:?}: {}", err(&full));
    }
}
