//! Writes the Java files that the demo and the benchmarks compile: `fulgurite-java-units DIRECTORY [COUNT]`.
use fulgurite::demo::java_units::{JAVA_UNITS, java_units};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count = arguments.get(1).map_or(Ok(JAVA_UNITS), |count| count.parse());
    let (Some(root), Ok(count), true) = (arguments.first(), count, arguments.len() <= 2) else {
        eprintln!("usage: fulgurite-java-units DIRECTORY [COUNT]");
        return ExitCode::from(3);
    };
    for unit in java_units(count) {
        if let Err(error) = unit.write(Path::new(root)) {
            eprintln!("fulgurite-java-units: {error}");
            return ExitCode::FAILURE;
        }
        println!("{}", unit.path.display());
    }
    ExitCode::SUCCESS
}
