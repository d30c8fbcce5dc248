//! A real PostgreSQL pair, emulated AWS and scripted faults on one machine.

mod error;
mod folder;
mod ports;
mod process;
mod python;
mod xml;

pub mod aws;
pub mod cache;
pub mod edge;
pub mod faults;
pub mod kubernetes;
pub mod load;
pub mod postgres;
pub mod rds;
pub mod services;
pub mod tls;

pub use error::{Error, Result};
pub use folder::Folder;
