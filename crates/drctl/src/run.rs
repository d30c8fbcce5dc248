//! `drctl run`.

use crate::{cli::RunArgs, problem::Problem};

/// Runs a machine.
pub async fn run(args: RunArgs) -> Result<u8, Problem> {
    Err(Problem::new(format!("the machine `{}` cannot be run by this build; the functions are not linked in", args.machine)))
}
