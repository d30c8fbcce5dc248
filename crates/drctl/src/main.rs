//! The operator's command line.
//!
//! It recovers the platform from a laptop when AWS's own control plane is gone, with the same machines and the same
//! functions linked in. It also reads the plan, draws machines, answers runs that wait for a person and shows reports.
//! What it cannot do it says in one line: what, where, and what to do.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

#[macro_use]
mod out;

mod approval;
mod backups;
mod cli;
mod closure;
mod control;
mod copy;
mod deeds;
mod deploy;
mod drill;
mod intervene;
mod machine;
mod machines;
mod mermaid;
mod on_aws;
mod paint;
mod plan;
mod postgres;
mod problem;
mod progress;
mod recorder;
mod replay;
mod report;
mod requests;
mod run;
mod run_folder;
mod runs;
mod status;
mod steps;
mod take_up;
mod views;
mod wal;
mod watch;

use cli::{AslCommand, Cli, Command, DeployCommand, MachineCommand, PlanCommand, PostgresCommand, WalCommand};
use problem::{Problem, exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // PostgreSQL would take clap's own code for a file that the archive does not have.
        Err(error) if error.use_stderr() && wal::is_fetch(std::env::args_os()) => {
            eprintln!("{error}");
            return ExitCode::from(exit::UNKNOWN);
        }
        Err(error) => error.exit(),
    };
    match act(cli.command) {
        Ok(code) => code,
        Err(problem) => {
            let paint = paint::Paint::stderr();
            aside!("{} {problem}", paint.bad("drctl:"));
            problem.exit_code()
        }
    }
}

fn act(command: Command) -> Result<ExitCode, Problem> {
    let done = match command {
        Command::Plan(args) => match args.command {
            None => plan::show(&args.plan.plan, args.json),
            Some(PlanCommand::Check { plan, json }) => plan::check(&plan.plan, json),
        },
        Command::Machine(args) => match args.command {
            MachineCommand::List { json } => machine::list(json),
            MachineCommand::Show { machine, json } => machine::show(&machine, json),
            MachineCommand::Mermaid { machine } => machine::draw(&machine),
            MachineCommand::Check { machines, json } => machine::check(&machines, json),
        },
        Command::Asl(args) => match args.command {
            AslCommand::Replay { folders, json } => replay::replay(&folders, json),
        },
        Command::Run(args) => return waiting(run::run(args)),
        Command::Resume(args) => return waiting(take_up::resume(args)),
        Command::Pause(args) => return waiting(intervene::pause(args)),
        Command::Continue(args) => return waiting(intervene::go_on(args)),
        Command::Abort(args) => return waiting(intervene::abort(args)),
        Command::Retry(args) => return waiting(intervene::retry(args)),
        Command::Skip(args) => return waiting(intervene::skip(args)),
        Command::Redrive(args) => return waiting(intervene::redrive(args)),
        Command::Backups(args) => waiting(backups::backups(args)),
        Command::Watch(args) => waiting(watch::watch(args)),
        Command::Drill(args) => waiting(drill::drill(args)),
        Command::Deploy(args) => match args.command {
            DeployCommand::Parameters { plan, json } => deploy::parameters(&plan.plan, json),
            DeployCommand::Job { plan } => deploy::job(&plan.plan),
            DeployCommand::Check { plan, stack, json } => waiting(deploy::check(plan, &stack, json)),
        },
        Command::Closure(args) => waiting(closure::show(args)),
        Command::Wal(args) => match args.command {
            WalCommand::Push(args) => waiting(wal::push(args)),
            WalCommand::Fetch(args) => waiting(wal::fetch(args)),
        },
        Command::Postgres(args) => match args.command {
            PostgresCommand::Config(args) => postgres::config(&args),
        },
        Command::Approve(args) => waiting(approval::approve(args)),
        Command::Reject(args) => waiting(approval::reject(args)),
        Command::Status(args) => waiting(status::status(args)),
        Command::Report(args) => waiting(report::show(args)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "drctl", &mut script);
            show!("{}", String::from_utf8_lossy(&script));
            Ok(exit::DONE)
        }
    };
    match (done, out::lost()) {
        (Ok(exit::DONE), Some(why)) => Err(Problem::failed(format!(
            "standard output cannot be written ({why}), so what was printed is incomplete; make room and repeat"
        ))),
        (done, _) => done.map(ExitCode::from),
    }
}

/// Runs what talks to the world.
fn waiting<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::input(format!("this process cannot have threads: {error}; raise its limits")))?
        .block_on(work)
}
