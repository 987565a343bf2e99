//! `xl`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    xl::main(std::env::args_os())
}
