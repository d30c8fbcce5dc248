//! The command line: what can be asked, with an example for each.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use recovery::incident::Risk;

use crate::run::{ResumeArgs, RunArgs};

const EXIT_CODES: &str = "Exit codes:
    0  done, nothing is wrong; a failover recovered
    1  done, and something was found: open contradictions, a machine with errors
    2  not done: a wrong plan, event, machine or name; one line says what, where and what to do; nothing was changed
    3  a run was refused: a guard held, nothing has changed
    4  a run failed before the point of no return and was put back
    5  a run failed after the point of no return: go on from here, never back
  130  a run was interrupted

Environment:
  RECOVERY_PLAN   the plan, default plans/sparc.toml
  XDG_STATE_HOME  runs are kept in drctl/runs below it, default ~/.local/state
  NO_COLOR        any value: no colour";

const RUN_HELP: &str = "Ctrl-C once stops after the step that is under way and says what state the world is in and what to run next; twice stops at once.
A run of the same name goes on where it stopped: every step looks before it acts.

Exit codes: 0 recovered, 2 not started, 3 refused, 4 put back, 5 incomplete, 130 interrupted.

Examples:
  drctl run regional-failover --event events/regional-failover/manual-graceful.json
  drctl run regional-failover --event incident.json --name failover-2026-11-23 --plan plans/sparc.toml";

/// Recovers the platform from a laptop, with the functions and machines that also run on AWS.
#[derive(Debug, Parser)]
#[command(name = "drctl", version, after_help = EXIT_CODES, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the plan: objectives, scenarios, what is where; or check it
    Plan(PlanArgs),
    /// List, show, draw or check state machines
    Machine(MachineArgs),
    /// Compare the engine with recorded runs of AWS
    Asl(AslArgs),
    /// Run a state machine here, when Step Functions cannot be reached
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Take up a run whose runner was killed, from its journal; nothing that was answered is asked again
    #[command(after_help = "Example:\n  drctl resume failover-2026-11-23")]
    Resume(ResumeArgs),
    /// Watch the primary from here, and write the alarm's event when it falls silent
    Watch(WatchArgs),
    /// Fail over for practice
    Drill(DrillArgs),
    /// Confirm the point of no return of a run that waits for it
    Approve(ApproveArgs),
    /// Refuse the point of no return of a run that waits for it
    Reject(RejectArgs),
    /// Say where runs stand, whose view that is and how old
    Status(StatusArgs),
    /// Show the report of a run
    Report(ReportArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  drctl completion bash > ~/.local/share/bash-completion/completions/drctl")]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// The plan to use.
#[derive(Debug, Clone, Args)]
pub struct PlanFile {
    /// The plan
    #[arg(long, value_name = "FILE", env = "RECOVERY_PLAN", default_value = "plans/sparc.toml", global = true)]
    pub plan: PathBuf,
}

/// Where runs are kept.
#[derive(Debug, Clone, Args)]
pub struct RunsDir {
    /// Where runs are kept [default: $XDG_STATE_HOME/drctl/runs or ~/.local/state/drctl/runs]
    #[arg(long, value_name = "DIR", global = true)]
    pub runs_dir: Option<PathBuf>,
}

/// `drctl plan`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  drctl plan\n  drctl plan --plan plans/sparc.toml --json | jq .objective"
)]
pub struct PlanArgs {
    /// Check instead of printing.
    #[command(subcommand)]
    pub command: Option<PlanCommand>,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `drctl plan …`.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Compute where objectives contradict mechanisms, and what to change
    #[command(after_help = "Exit codes:
  0  no contradiction is open
  1  contradictions are open
  2  the plan cannot be used; one line says what, where and what to do

Example:
  drctl plan check --plan plans/sparc.toml

Accept one in the plan, with a reason:
  [[accepted]]
  contradiction = \"rto:core-apis:kubernetes\"
  because = \"a warm cluster stands by\"")]
    Check {
        /// The plan.
        #[command(flatten)]
        plan: PlanFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `drctl machine`.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: MachineCommand,
}

/// `drctl machine …`.
#[derive(Debug, Subcommand)]
pub enum MachineCommand {
    /// List the machines of ./statemachines, or those that this program carries
    #[command(after_help = "Example:\n  drctl machine list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a machine state by state, with the reason for each
    #[command(after_help = "Example:\n  drctl machine show regional-failover")]
    Show {
        /// A name from `machine list`, or a file.
        machine: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Draw a machine as a Mermaid flowchart; ways taken after a failure are dashed
    #[command(after_help = "Example:\n  drctl machine mermaid regional-failover > docs/regional-failover.mmd")]
    Mermaid {
        /// A name from `machine list`, or a file.
        machine: String,
    },
    /// Check machines: what Step Functions would reject, and what people regret
    #[command(
        after_help = "Exit codes:\n  0  no errors\n  1  errors\n  2  no such machine\n\nExample:\n  drctl machine check"
    )]
    Check {
        /// Names from `machine list`, or files; all if none is given.
        machines: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `drctl asl`.
#[derive(Debug, Args)]
pub struct AslArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AslCommand,
}

/// `drctl asl …`.
#[derive(Debug, Subcommand)]
pub enum AslCommand {
    /// Replay recorded runs and compare outcome, events and details
    #[command(after_help = "Exit codes:
  0  every outcome and event sequence is the same
  1  some differ
  2  there is nothing to replay

Example:
  drctl asl replay recorded/choice_operators recorded/timeouts")]
    Replay {
        /// Folders with definition.json, input.json and expected.json in them or below them.
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What somebody takes upon themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsentTo {
    /// The old primary may go on taking writes
    StillWritable,
    /// More may be lost than the plan accepts
    DataLoss,
}

impl From<ConsentTo> for Risk {
    fn from(to: ConsentTo) -> Risk {
        match to {
            ConsentTo::StillWritable => Risk::StillWritable,
            ConsentTo::DataLoss => Risk::DataLoss,
        }
    }
}

/// `drctl approve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drctl approve failover-2026-11-23 --by sre-lead@sparc.com --because \"us-east-1 is gone, status page agrees\"
  drctl approve failover-2026-11-23 --by cto@sparc.com --because \"incidents are on paper\" --consent data-loss")]
pub struct ApproveArgs {
    /// The run that waits
    pub run: String,
    /// Who confirms
    #[arg(long, value_name = "NAME")]
    pub by: String,
    /// Why, for the record
    #[arg(long, value_name = "WHY")]
    pub because: String,
    /// A risk that is taken with it
    #[arg(long, value_name = "RISK")]
    pub consent: Vec<ConsentTo>,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
    /// Where runs are kept.
    #[command(flatten)]
    pub runs: RunsDir,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `drctl reject`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  drctl reject failover-2026-11-23 --by sre-lead@sparc.com --because \"the primary works\""
)]
pub struct RejectArgs {
    /// The run that waits
    pub run: String,
    /// Who refuses
    #[arg(long, value_name = "NAME")]
    pub by: String,
    /// Why, for the record
    #[arg(long, value_name = "WHY")]
    pub because: String,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
    /// Where runs are kept.
    #[command(flatten)]
    pub runs: RunsDir,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `drctl status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drctl status
  drctl status failover-2026-11-23
  drctl status failover-2026-11-23 --local --json")]
pub struct StatusArgs {
    /// The run; all runs of this machine if none is given
    pub run: Option<String>,
    /// Look at this machine only, not at the fence in the evidence bucket
    #[arg(long)]
    pub local: bool,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
    /// Where runs are kept.
    #[command(flatten)]
    pub runs: RunsDir,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// The text
    Md,
    /// The figures, docs/report-schema.md
    Json,
    /// Where the page lies
    HtmlPath,
}

/// `drctl report`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drctl report failover-2026-11-23
  drctl report failover-2026-11-23 --open
  drctl report failover-2026-11-23 --format json | jq .services")]
pub struct ReportArgs {
    /// The run
    pub run: String,
    /// Open the page in a browser
    #[arg(long)]
    pub open: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "md")]
    pub format: ReportFormat,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
    /// Where runs are kept.
    #[command(flatten)]
    pub runs: RunsDir,
}

/// `drctl watch`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  drctl watch
  drctl watch --every-ms 5000 --failures 3 --event alarm.json && drctl run regional-failover --event alarm.json")]
pub struct WatchArgs {
    /// Milliseconds between two looks
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..))]
    pub every_ms: u64,
    /// Silent looks in a row until it is an alarm
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub failures: usize,
    /// Where the alarm's event is written
    #[arg(long, value_name = "FILE")]
    pub event: Option<PathBuf>,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Which API promotes the standby in a drill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DrillDriver {
    /// pg_promote on a server that we run
    #[default]
    SelfManaged,
    /// PromoteReadReplica, with the time that RDS takes
    Rds,
    /// FailoverGlobalCluster or SwitchoverGlobalCluster
    AuroraGlobal,
}

/// `drctl drill`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes:
  0  the platform was recovered
  1  it was not; the report says why
  2  the drill could not start: a missing tool or port is named with the command that fixes it

Examples:
  drctl drill --lab
  drctl drill --lab --graceful
  drctl drill --lab --fault lose-answer:postgres:pg_promote
  drctl drill --lab --driver rds --fault lose-answer:rds:PromoteReadReplica")]
pub struct DrillArgs {
    /// On this machine: a real PostgreSQL pair, emulated AWS, everything on 127.0.0.1
    #[arg(long, required = true)]
    pub lab: bool,
    /// Move while the primary lives, instead of killing it
    #[arg(long)]
    pub graceful: bool,
    /// Which API promotes the standby
    #[arg(long, value_enum, default_value_t)]
    pub driver: DrillDriver,
    /// Wait for `drctl approve` before the point of no return
    #[arg(long)]
    pub ask: bool,
    /// A scripted fault, SCRIPT:SERVICE:OPERATION[:NTH]; may be given several times
    #[arg(long, value_name = "SCRIPT")]
    pub fault: Vec<String>,
    /// Where the report goes [default: the run's folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where runs are kept.
    #[command(flatten)]
    pub runs: RunsDir,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
