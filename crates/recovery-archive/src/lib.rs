//! Reads what PostgreSQL's backup tools write, from the first byte to the last, without keeping it.
//!
//! Each reader takes a stream, says what was in it, and finds what a digest cannot: an archive that ends early and was
//! digested like that, a table whose data never came, a log with a hole. They need memory for names and counts, not for
//! data, so an archive of any size is read in a few MiB.
//!
//! - [`custom`]: `pg_dump --format=custom`
//! - [`base`]: `pg_basebackup --format=tar`, with its `backup_manifest`
//! - [`wal`]: segments of the write-ahead log, page by page and record by record
//! - [`tar`] and [`decode`]: what those are wrapped in
//!
//! The forms are those of PostgreSQL 13 to 18. None of these tools is asked and none needs to be there.

pub mod base;
pub mod custom;
pub mod decode;
mod flaw;
mod source;
pub mod tar;
pub mod wal;

pub use flaw::Flaw;
