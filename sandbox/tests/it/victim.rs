//! To come.
use std::process::ExitCode;

pub fn main(_: &[String]) -> ExitCode {
    ExitCode::FAILURE
}
