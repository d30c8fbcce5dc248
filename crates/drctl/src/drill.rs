//! `drctl drill`.

use crate::{cli::DrillArgs, problem::Problem};

/// Fails over for practice.
pub async fn drill(_: DrillArgs) -> Result<u8, Problem> {
    Err(Problem::new("no drill can be run by this build; the lab is not linked in"))
}
