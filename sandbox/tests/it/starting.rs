//! Starting and stopping a runtime, in processes of their own.
use crate::fixture::{Checked, Fixture, check, contains};
use crate::registry::{Test, apart};
use libtest_mimic::Failed;
use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStdout, Stdio};

pub fn tests() -> Vec<Test> {
    vec![
        apart("starting::a_stopped_runtime_leaves_nothing", a_stopped_runtime_leaves_nothing),
        apart("starting::a_process_with_threads_is_refused", a_process_with_threads_is_refused),
        apart("starting::without_cgroups_limits_are_refused", without_cgroups_limits_are_refused),
    ]
}

/// A process that plays a role of [`crate::victim`]; killed when it goes out of scope.
pub struct Child {
    process: std::process::Child,
    output: BufReader<ChildStdout>,
}

/// Runs this binary once more with the same arguments and this variable set; says whether it was content.
pub fn another(variable: &str) -> bool {
    let binary = std::env::current_exe().unwrap_or_default();
    let mut command = std::process::Command::new(binary);
    command.args(std::env::args_os().skip(1)).env(variable, "1");
    command.status().is_ok_and(|status| status.success())
}

/// Starts a role.
pub fn victim(role: &[&str]) -> Result<Child, Failed> {
    let mut process = std::process::Command::new(std::env::current_exe()?)
        .arg("victim")
        .args(role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = process.stdout.take().ok_or("no output")?;
    Ok(Child { process, output: BufReader::new(output) })
}

impl Child {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it says this.
    pub fn wait_for(&mut self, wanted: &str) -> Checked {
        let mut line = String::new();
        while self.output.read_line(&mut line)? != 0 {
            if line.trim_end() == wanted {
                return Ok(());
            }
            check(!line.starts_with("failed"), line.clone())?;
            line.clear();
        }
        Err(format!("it ended before it said {wanted:?}").into())
    }

    /// Lets it end by itself, and gives all that it said.
    pub fn finish(&mut self) -> Result<String, Failed> {
        drop(self.process.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        let status = self.process.wait()?;
        check(status.success(), format!("{status}: {text}"))?;
        Ok(text)
    }

    /// Kills it at once.
    pub fn kill(&mut self) -> Checked {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn a_stopped_runtime_leaves_nothing(_: &Fixture) -> Checked {
    contains(&victim(&["stop"])?.finish()?, "nothing")
}

fn a_process_with_threads_is_refused(_: &Fixture) -> Checked {
    let text = victim(&["threads"])?.finish()?;
    contains(&text, "refused cannot fork the zygote: this process already has 2 threads")
}

fn without_cgroups_limits_are_refused(_: &Fixture) -> Checked {
    let text = victim(&["no-cgroups"])?.finish()?;
    contains(&text, "ran Exited(0) false")?;
    contains(&text, "limited cannot apply")?;
    contains(&text, "nothing")
}
