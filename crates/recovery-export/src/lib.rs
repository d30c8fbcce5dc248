//! The state of a cluster as an export: written object by object, read line by line, without a cluster in sight.
//!
//! Three things decide its form. What a restore needs first stands first, in the order in which a bundle is applied, so
//! that an export is applied as it is read. Secrets are sealed one by one, and so is every object that seems to hold a
//! secret in the clear; the rest can be read, compared and searched. And the last line counts, so that an export that
//! broke off cannot be taken for a small cluster.

mod check;
mod order;
mod portable;
mod reader;
mod seal;
mod writer;

use recovery::cluster_state::{ExportHeader, ExportSummary};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::ExportCheck;
pub use order::rank;
pub use reader::{Entry, ExportReader};
pub use seal::ObjectName;
use seal::Sealed;
pub use writer::{ExportWriter, is_of_kubernetes, names};

/// One line of an export.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Line {
    Export(ExportHeader),
    Object(Value),
    Sealed(Sealed),
    End(ExportSummary),
}
