//! What is printed. Whoever looked on may have gone (`| head`, a closed terminal): that ends the printing, and never a
//! recovery. What cannot be written for another reason, a full disk, is told at the end and by the exit code.

use std::{
    fmt,
    io::{self, Write},
    sync::OnceLock,
};

/// Why standard output is incomplete.
static LOST: OnceLock<String> = OnceLock::new();

/// A line to standard output.
macro_rules! tell {
    () => { $crate::out::to_stdout(format_args!("\n")) };
    ($($text:tt)+) => { $crate::out::to_stdout(format_args!("{}\n", format_args!($($text)+))) };
}

/// Text that has its own line ends, to standard output.
macro_rules! show {
    ($($text:tt)+) => { $crate::out::to_stdout(format_args!($($text)+)) };
}

/// A line to standard error, beside what the command was asked for.
macro_rules! aside {
    ($($text:tt)+) => { $crate::out::to_stderr(format_args!("{}\n", format_args!($($text)+))) };
}

/// For the macros of this module.
pub fn to_stdout(text: fmt::Arguments) {
    let written = io::stdout().lock().write_fmt(text);
    if let Err(error) = written
        && !nobody_looks_on(&error)
    {
        let _ = LOST.set(error.to_string());
    }
}

/// For the macros of this module. There is no third place to say that standard error is gone.
pub fn to_stderr(text: fmt::Arguments) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Why what was printed is incomplete, if it is.
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// A pipe without a reader, or a terminal that was closed.
fn nobody_looks_on(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(EIO)
}
