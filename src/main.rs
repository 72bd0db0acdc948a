//! The binary: hand the command line over, turn the outcome into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    netring::command::run(std::env::args_os()).into()
}
