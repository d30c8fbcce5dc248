//! The command line: what can be asked, with an example for each.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use recovery::{backup::BackupId, incident::Risk};

use crate::{run::RunArgs, take_up::ResumeArgs};

const EXIT_CODES: &str = "Exit codes:
    0  done, nothing is wrong; a failover recovered
    1  done, and something was found: open contradictions, a machine with errors; or a run that another machine took over
    2  not done: a wrong plan, event, machine or name; one line says what, where and what to do; nothing was changed
    3  a run was refused: a guard held, nothing has changed
    4  a run failed before the point of no return and was put back
    5  a run failed after the point of no return: go on from here, never back
  130  a run was ended by a person

Environment:
  RECOVERY_PLAN      the plan, default plans/sparc.toml
  RECOVERY_OPERATOR  your name, for --by
  XDG_STATE_HOME     runs are kept in drctl/runs below it, default ~/.local/state
  NO_COLOR           any value: no colour";

const RUN_HELP: &str = "Ctrl-C once stops after the step that is under way and says what state the world is in and what to run next; twice stops at once.
A run of the same name goes on where it stopped: every step looks before it acts.

Exit codes: 0 recovered, 1 another machine has taken it over, 2 not started, 3 refused, 4 put back, 5 incomplete, 130 ended by a
person.

Examples:
  drctl run regional-failover --event events/regional-failover/manual-graceful.json
  drctl run regional-failover --event incident.json --name failover-2026-11-23 --plan plans/sparc.toml";

const RESUME_HELP: &str = "The journal on this disk is what counts. The evidence bucket has a copy, from which another machine takes the run up
when the first one gives no sign of life for seven seconds; while it lives, the run is refused here.

Exit codes: as `drctl run`; 2 if somebody else works on it, or the journal does not fit this program.

Examples:
  drctl resume failover-2026-11-23
  drctl resume failover-2026-11-23 --by sre-lead@sparc.com --plan plans/sparc.toml   # on another machine";

const RETRY_HELP: &str = "A run that has ended goes on from the state whose failure ended it, as if it had not failed. One that was put back has to be
started again: its decisions are stale.

Exit codes: as `drctl run` if the run had ended.

Examples:
  drctl retry failover-2026-11-23 --by sre-lead@sparc.com --because \"the registry is back\"
  drctl retry failover-2026-11-23 DeployWorkloads --by sre-lead@sparc.com --because \"the quota is raised\"";

const SKIP_HELP: &str = "A step can be skipped before its turn, while it is under way, and after its failure has ended the run. The record says that
nothing is known of it, unless --output says what was done by hand. These cannot be skipped: PlanFailover, AwaitApproval,
FencePrimary, PromoteReplica, VerifyRecovery, LiftFence, WriteReport.

Examples:
  drctl skip failover-2026-11-23 EditRecords --by sre-lead@sparc.com --because \"Route 53 hangs, traffic has moved\"
  drctl skip failover-2026-11-23 SwapDns --by sre-lead@sparc.com --because \"thrown by hand\" --output names.json";

const REDRIVE_HELP: &str = "On Step Functions this is RedriveExecution: within 14 days of the end, at most 1,000 times, at most 24,999 events, with the
definition it was started with; the machine's own time begins anew. Here it is the same from the journal. A run that its machine
has ended by a Fail state would only end again: use `drctl retry`, or start a new execution on Step Functions.

Exit codes: as `drctl run` for a run of this machine; 0 if Step Functions has taken it up.

Example:
  drctl redrive failover-2026-11-23 --by sre-lead@sparc.com --because \"aborted by mistake\"";

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
    #[command(after_help = RESUME_HELP)]
    Resume(ResumeArgs),
    /// Begin no further step of a run; what is under way is let finish
    #[command(after_help = "The run does not run out of its own time while it is paused; a question that is open does.

Example:
  drctl pause failover-2026-11-23 --by sre-lead@sparc.com --because \"the status page says they are back\"")]
    Pause(PauseArgs),
    /// Let a paused run go on
    #[command(
        after_help = "Example:\n  drctl continue failover-2026-11-23 --by sre-lead@sparc.com --because \"they are not\""
    )]
    Continue(ContinueArgs),
    /// End a run where it stands, on either engine, and say what state the world is in; nothing is undone
    #[command(
        after_help = "The step under way is let finish. What was done stays done: a promoted database is never turned back.

Examples:
  drctl abort failover-2026-11-23 --by sre-lead@sparc.com --because \"false alarm\"
  drctl redrive failover-2026-11-23 --by sre-lead@sparc.com --because \"it was not\""
    )]
    Abort(AbortArgs),
    /// Try a state again that failed: now, if it waits for its next attempt; else from where it was entered
    #[command(after_help = RETRY_HELP)]
    Retry(RetryArgs),
    /// Leave a step out, for a recorded reason; what guards the data cannot be left out
    #[command(after_help = SKIP_HELP)]
    Skip(SkipArgs),
    /// Take a run up after it was aborted, timed out or failed, on either engine, from what had not succeeded
    #[command(after_help = REDRIVE_HELP)]
    Redrive(RedriveArgs),
    /// Watch the primary from here, and write the alarm's event when it falls silent
    Watch(WatchArgs),
    /// Fail over for practice
    Drill(DrillArgs),
    /// Say what there is to restore from, what of it is proven, and whether that is as new as the plan asks
    Backups(BackupsArgs),
    /// What stands between the plan and the stack in the tertiary region
    Deploy(DeployArgs),
    /// List what a failover needs, each present or missing where it goes to
    #[command(after_help = CLOSURE_HELP)]
    Closure(ClosureArgs),
    /// Archive and fetch files of the write-ahead log, for archive_command and restore_command
    Wal(WalArgs),
    /// What PostgreSQL needs to be told, from the plan
    Postgres(PostgresArgs),
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

const CLOSURE_HELP: &str = "The list is derived from the plan and from the bundle in the evidence bucket. Images, secrets, keys, certificates and what the
bundle expects in the cluster are looked for in the region that a failover goes to and in the tertiary one, never in the primary.

Exit codes:
  0  everything is there
  1  something is missing, or could not be looked at
  2  the plan cannot be used

Example:
  drctl closure --json | jq '.items[] | select(.state != \"present\")'";

/// `drctl closure`.
#[derive(Debug, Args)]
pub struct ClosureArgs {
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `drctl deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DeployCommand,
}

/// `drctl deploy …`.
#[derive(Debug, Subcommand)]
pub enum DeployCommand {
    /// Print the parameters of template.yaml as the plan has them
    #[command(
        after_help = "Example:\n  sam deploy --parameter-overrides $(drctl deploy parameters) Detection=DISABLED"
    )]
    Parameters {
        /// The plan.
        #[command(flatten)]
        plan: PlanFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the ConfigMap that Jobs of backups read the plan from
    #[command(after_help = "Example:\n  drctl deploy job | kubectl --context sparc-prod-us-west-2 apply -f -")]
    Job {
        /// The plan.
        #[command(flatten)]
        plan: PlanFile,
    },
    /// Compare what is deployed with the plan, the platform and the account; changes nothing
    #[command(after_help = "Exit codes:
  0  a failover could start now
  1  something is not as the plan has it, or could not be seen; each line says what to do
  2  the plan cannot be used

Looked at: fence, switch, probe, replica and its lag, secrets, node group; the stack's state, parameters and drift (CloudFormation
takes up to two minutes for it) and its machines; quotas of EC2, EKS and Lambda, and free addresses in the node group's subnets. What else
runs in the account and counts against a quota is not subtracted.

Example:
  drctl deploy check --json | jq '.findings[] | select(.standing != \"good\")'")]
    Check {
        /// The plan.
        #[command(flatten)]
        plan: PlanFile,
        /// The suite's stack in the tertiary region
        #[arg(long, value_name = "NAME", default_value = "sparc-recovery")]
        stack: String,
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
    #[arg(long, value_name = "NAME", env = "RECOVERY_OPERATOR")]
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
    #[arg(long, value_name = "NAME", env = "RECOVERY_OPERATOR")]
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

/// A run, and who does something to it.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The run
    pub run: String,
    /// Who does it
    #[arg(long, value_name = "NAME", env = "RECOVERY_OPERATOR")]
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

/// `drctl pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// The run, who and why.
    #[command(flatten)]
    pub target: Target,
}

/// `drctl continue`.
#[derive(Debug, Args)]
pub struct ContinueArgs {
    /// The run, who and why.
    #[command(flatten)]
    pub target: Target,
}

/// `drctl abort`.
#[derive(Debug, Args)]
pub struct AbortArgs {
    /// The run, who and why.
    #[command(flatten)]
    pub target: Target,
}

/// `drctl retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The run, who and why.
    #[command(flatten)]
    pub target: Target,
    /// The state [default: the one that failed]
    pub state: Option<String>,
}

/// `drctl skip`.
#[derive(Debug, Args)]
pub struct SkipArgs {
    /// The run, who and why.
    #[command(flatten)]
    pub target: Target,
    /// The state whose work is left out
    pub state: String,
    /// What it would have answered, as JSON, if it was done by hand
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `drctl redrive`.
#[derive(Debug, Args)]
pub struct RedriveArgs {
    /// The run, who and why.
    #[command(flatten)]
    pub target: Target,
}

/// `drctl status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drctl status
  drctl status failover-2026-11-23
  drctl status failover-2026-11-23 --local --json")]
pub struct StatusArgs {
    /// The run; all runs of this machine, of the evidence bucket and of Step Functions if none is given
    pub run: Option<String>,
    /// Look at this machine only, not at Step Functions and the evidence bucket
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

/// `drctl backups`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes: 0 all are as planned, 1 one is missing, too old or not proven.

Examples:
  drctl backups
  drctl backups logical/sparc-prod/20261126T020000Z
  drctl backups --json | jq '.[] | select(.proven_in_time | not) | .kind'")]
pub struct BackupsArgs {
    /// One of them, with everything that was ever found out about it
    pub backup: Option<BackupId>,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
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

/// `drctl wal …`.
#[derive(Debug, Args)]
pub struct WalArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: WalCommand,
}

/// `drctl wal …`.
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Archive a file of the log; the same file twice is success, another one of its name is refused
    #[command(after_help = "Exit codes:
  0  it is in the archive
  1  it is not, and nothing was overwritten; PostgreSQL keeps it and offers it again
  2  the plan cannot be used

Example, in postgresql.conf:
  archive_command = 'drctl wal push %p --plan /etc/sparc/plan.toml'")]
    Push(WalPushArgs),
    /// Fetch a file of the log from the archive
    #[command(after_help = "Exit codes:
  0    it is where the server wants it
  1    the archive does not have it: a restore ends here
  254  not known, or not usable: the server does not start, instead of opening without the rest of its log

Example, in postgresql.conf:
  restore_command = 'drctl wal fetch %f %p --plan /etc/sparc/plan.toml'")]
    Fetch(WalFetchArgs),
}

/// `drctl wal push`.
#[derive(Debug, Args)]
pub struct WalPushArgs {
    /// The file, %p: relative to the server's data directory
    pub path: PathBuf,
    /// The server's data directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub pgdata: PathBuf,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
}

/// `drctl wal fetch`.
#[derive(Debug, Args)]
pub struct WalFetchArgs {
    /// The file's name, %f
    pub name: String,
    /// Where it goes, %p: relative to the server's data directory
    pub path: PathBuf,
    /// For a standby that streams: an archive that does not answer is asked again later, and is no reason to end
    #[arg(long)]
    pub standby: bool,
    /// The server's data directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub pgdata: PathBuf,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
}

/// `drctl postgres …`.
#[derive(Debug, Args)]
pub struct PostgresArgs {
    /// What to print.
    #[command(subcommand)]
    pub command: PostgresCommand,
}

/// `drctl postgres …`.
#[derive(Debug, Subcommand)]
pub enum PostgresCommand {
    /// Print the settings of a primary or a standby, for PostgreSQL 13 to 18
    #[command(after_help = "Example:
  drctl postgres config --role standby --major 17 --passfile /etc/sparc/replicator.pgpass > conf.d/sparc.conf")]
    Config(PostgresConfigArgs),
}

/// Which of two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ServerRole {
    /// Takes writes.
    Primary,
    /// Follows.
    Standby,
}

/// `drctl postgres config`.
#[derive(Debug, Args)]
pub struct PostgresConfigArgs {
    /// Which server
    #[arg(long, value_enum)]
    pub role: ServerRole,
    /// PostgreSQL's major version
    #[arg(long, value_name = "N")]
    pub major: u32,
    /// How the server's user calls this program
    #[arg(long, value_name = "COMMAND", default_value = "drctl")]
    pub drctl: String,
    /// Password file of the replication role
    #[arg(long, value_name = "FILE", default_value = "/etc/sparc/replicator.pgpass")]
    pub passfile: PathBuf,
    /// The replication role
    #[arg(long, value_name = "ROLE", default_value = "replicator")]
    pub replication_role: String,
    /// The slot that the primary keeps for the standby
    #[arg(long, value_name = "SLOT", default_value = "standby")]
    pub slot: String,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanFile,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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
