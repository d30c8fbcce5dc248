//! `drctl postgres config`: the settings of a primary or a standby, for its version.

use recovery::{
    plan::Plan,
    postgres_settings::{AsFile, Machine, Role, settings},
};

use crate::{
    cli::{PostgresConfigArgs, ServerRole},
    problem::{Problem, exit},
};

/// Prints the settings.
pub fn config(args: &PostgresConfigArgs) -> Result<u8, Problem> {
    let plan = Plan::read(&args.plan.plan)?;
    let role = match args.role {
        ServerRole::Primary => Role::Primary,
        ServerRole::Standby => Role::Standby,
    };
    // The plan names the file relative to itself; a server needs it from the root.
    let folder = std::path::absolute(&args.plan.plan).map_err(Problem::input)?;
    let ca_file = folder.parent().unwrap_or(&folder).join(&plan.postgresql.ca_file);
    let machine = Machine {
        drctl: &args.drctl,
        plan_file: &folder,
        ca_file: &ca_file,
        passfile: &args.passfile,
        replication_role: &args.replication_role,
        slot: &args.slot,
    };
    let list = settings(&plan, role, args.major, &machine).map_err(Problem::input)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&list).map_err(Problem::failed)?);
    } else {
        print!("{}", AsFile { role, version: args.major, settings: &list });
    }
    Ok(exit::DONE)
}
