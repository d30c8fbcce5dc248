//! drctl
mod machines; mod problem; mod progress; mod run; mod run_folder;
use clap::Parser;
#[derive(Parser)] enum Cli { Run(run::RunArgs) }
#[tokio::main] async fn main() -> std::process::ExitCode { match Cli::parse() { Cli::Run(a) => match run::run(a).await { Ok(c) => c, Err(p) => { eprintln!("drctl: {p}"); p.exit_code() } } } }
