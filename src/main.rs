//! The `fulgurite` command.
use std::process::ExitCode;

fn main() -> ExitCode {
    fulgurite::cli::main()
}
