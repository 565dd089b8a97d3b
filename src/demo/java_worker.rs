//! The Java worker of `tests/fakes/java_worker`, built where it is needed: a JDK, 17 or later, is all that it takes.
//!
//! Its sources are in this program, so that the demo and the benchmark need no checkout.
use super::error::DemoError;
use crate::bench::BenchError;
use crate::bench::command::installed;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to get what is missing.
const REMEDY: &str = "install a JDK, 17 or later: apt-get install openjdk-17-jdk-headless";

/// Flags of a JVM that compiles small files: what makes it start soon and get warm soon.
pub const JAVA_FLAGS: [&str; 3] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];

macro_rules! sources {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../tests/fakes/java_worker/src/", $name)))),*]
    };
}

const SOURCES: [(&str, &str); 12] = sources! {
    "ArgumentFiles.java" "Cancellation.java" "Compilation.java" "JarOutput.java" "Json.java" "JsonWire.java"
    "Main.java" "ProtoWire.java" "Reply.java" "Server.java" "Wire.java" "Work.java"
};

/// A JDK.
#[derive(Clone, Debug)]
pub struct Jdk {
    /// `bin/java`, where it really is: sandboxes need not know what alternatives a distribution has.
    pub java: PathBuf,
    /// `bin/javac`.
    pub javac: PathBuf,
    jar: PathBuf,
}

impl Jdk {
    /// Looks for one.
    ///
    /// # Errors
    /// [`BenchError::NoProgram`].
    pub fn find() -> Result<Self, BenchError> {
        let find = |name: &str| {
            let found = installed(name).and_then(|path| fs::canonicalize(path).ok());
            found.ok_or_else(|| BenchError::NoProgram { name: name.to_owned(), remedy: REMEDY })
        };
        Ok(Jdk { java: find("java")?, javac: find("javac")?, jar: find("jar")? })
    }

    /// Builds the worker in `directory`, and gives its archive.
    ///
    /// # Errors
    /// [`DemoError`], with what the compiler says.
    pub fn build_worker(&self, directory: &Path) -> Result<PathBuf, DemoError> {
        let (sources, classes) = (directory.join("worker-src"), directory.join("worker-classes"));
        let failed = |path: &Path| DemoError::file(format!("write {}", path.display()));
        fs::create_dir(&sources).map_err(failed(&sources))?;
        let mut compile = Command::new(&self.javac);
        compile.args(["--release", "17", "-d"]).arg(&classes);
        for (name, text) in SOURCES {
            let path = sources.join(name);
            fs::write(&path, text).map_err(failed(&path))?;
            compile.arg(path);
        }
        call("compile the Java worker", &mut compile)?;
        let archive = directory.join("java_worker.jar");
        let mut pack = Command::new(&self.jar);
        pack.args(["--create", "--main-class", "Main", "--file"])
            .arg(&archive)
            .arg("-C")
            .arg(&classes)
            .arg(".");
        call("pack the Java worker", &mut pack)?;
        Ok(archive)
    }
}

fn call(what: &str, command: &mut Command) -> Result<(), DemoError> {
    let output = command.env("LC_ALL", "C").output().map_err(DemoError::file(what))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = format!("{}: {}", output.status, said.lines().next().unwrap_or_default());
    Err(DemoError::file(what)(std::io::Error::other(why)))
}
