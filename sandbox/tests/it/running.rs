//! What a command gets and what it gives back: streams, environment, directory, exit code.
use crate::fixture::{Checked, Command, Fixture, c, check, contains, memory_file, same};
use crate::registry::{Test, test};
use fulgurite_sandbox::outcome::{End, Outcome};
use fulgurite_sandbox::sys::Errno;
use libtest_mimic::Failed;
use std::io::Read;
use std::os::fd::AsFd;

pub fn tests() -> Vec<Test> {
    vec![
        test("running::exit_codes_come_back", exit_codes_come_back),
        test("running::a_signal_is_reported_as_one", a_signal_is_reported_as_one),
        test("running::output_and_error_are_kept_apart", output_and_error_are_kept_apart),
        test("running::output_goes_through_a_pipe", output_goes_through_a_pipe),
        test("running::a_flood_of_output_arrives_whole", a_flood_of_output_arrives_whole),
        test("running::the_environment_is_exactly_what_was_given", the_environment_is_exactly_what_was_given),
        test("running::the_directory_is_the_one_asked_for", the_directory_is_the_one_asked_for),
        test("running::a_missing_directory_is_named", a_missing_directory_is_named),
        test("running::a_command_is_found_along_the_path", a_command_is_found_along_the_path),
        test("running::what_cannot_be_executed_says_why", what_cannot_be_executed_says_why),
        test("running::a_failed_start_does_not_cost_the_sandbox", a_failed_start_does_not_cost_the_sandbox),
        test("running::arguments_of_one_mebibyte_pass", arguments_of_one_mebibyte_pass),
        test("running::arguments_of_ten_mebibytes_are_refused", arguments_of_ten_mebibytes_are_refused),
        test("running::only_the_standard_streams_are_open", only_the_standard_streams_are_open),
        test("running::signals_are_as_a_shell_gives_them", signals_are_as_a_shell_gives_them),
        test("running::a_used_sandbox_wants_a_reset_first", a_used_sandbox_wants_a_reset_first),
    ]
}

fn exit_codes_come_back(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for code in [0, 1, 42, 255] {
        Command::sh(&format!("exit {code}")).run(&mut sandbox).ended(End::Exited(code))?;
        sandbox.reset()?;
    }
    Ok(())
}

fn a_signal_is_reported_as_one(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGABRT] {
        Command::sh(&format!("kill -{signal} $$")).run(&mut sandbox).ended(End::Signaled(signal))?;
        sandbox.reset()?;
    }
    Ok(())
}

fn output_and_error_are_kept_apart(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let ran = Command::sh("echo out; echo err >&2").run(&mut sandbox).ended(End::Exited(0))?;
    same((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"), "output and error")
}

fn output_goes_through_a_pipe(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let (mut reader, writer) = std::io::pipe()?;
    let collector = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    let errors = memory_file("stderr");
    // More than a pipe holds, so that somebody must read while the action runs.
    let command = Command::sh("head -c 300000 /dev/zero");
    let outcome = command.run_with(&mut sandbox, None, writer.as_fd(), errors.as_fd());
    drop(writer);
    let bytes = collector.join().map_err(|_| "the reader panicked")??;
    same(outcome.end, End::Exited(0), "end")?;
    // The end of file came: nobody inside, not even init, kept the other end.
    same(bytes.len(), 300_000, "bytes through the pipe")
}

fn a_flood_of_output_arrives_whole(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let file = tempfile::tempfile()?;
    let errors = memory_file("stderr");
    let command = Command::sh("head -c 268435456 /dev/zero");
    let outcome = command.run_with(&mut sandbox, None, file.as_fd(), errors.as_fd());
    same(outcome.end, End::Exited(0), "end")?;
    same(file.metadata()?.len(), 256 << 20, "bytes in the file")
}

fn the_environment_is_exactly_what_was_given(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut command = Command::new(&["/usr/bin/env"]);
    command.variables = ["B=2", "A=1", "EMPTY=", "SPACE= x ", "A=again"].map(c).to_vec();
    let text = command.run(&mut sandbox).succeeded()?;
    same(text.as_str(), "B=2\nA=1\nEMPTY=\nSPACE= x \nA=again", "environment")?;
    sandbox.reset()?;
    command.variables.clear();
    same(command.run(&mut sandbox).succeeded()?, String::new(), "environment")
}

fn the_directory_is_the_one_asked_for(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for directory in ["/work", "/tmp", "/", "/usr/bin"] {
        let mut command = Command::new(&["pwd"]);
        command.directory = c(directory);
        same(command.run(&mut sandbox).succeeded()?.as_str(), directory, "directory")?;
        sandbox.reset()?;
    }
    Ok(())
}

fn a_missing_directory_is_named(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut command = Command::new(&["pwd"]);
    command.directory = c("/work/missing");
    let outcome = command.run(&mut sandbox).outcome;
    let (errno, is_command) = not_started(&outcome)?;
    same((errno, is_command), (Errno::NOENT, false), "why")?;
    contains(&outcome.end.to_string(), "change to the working directory")
}

fn a_command_is_found_along_the_path(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let cases = [("PATH=/usr/bin", 0), ("PATH=/missing:/etc/passwd:/usr/bin", 0), ("X=1", 0)];
    for (variable, code) in cases {
        let mut command = Command::new(&["true"]);
        command.variables = vec![c(variable)];
        command.run(&mut sandbox).ended(End::Exited(code))?;
        sandbox.reset()?;
    }
    // An empty part of the path is the current directory, as for execvp(3).
    let mut command = Command::new(&["true"]);
    (command.variables, command.directory) = (vec![c("PATH=:/missing")], c("/usr/bin"));
    command.run(&mut sandbox).ended(End::Exited(0))?;
    sandbox.reset()?;
    // The first one that is there wins, even though it is not the one in /usr/bin.
    let mut command = Command::new(&["sh", "-c", "echo $0"]);
    command.variables = vec![c("PATH=/missing:/bin:/usr/bin")];
    same(command.run(&mut sandbox).succeeded()?.as_str(), "sh", "name")
}

/// Why the command did not start, and whether it is to blame itself.
fn not_started(outcome: &Outcome) -> Result<(Errno, bool), Failed> {
    match &outcome.end {
        End::NotStarted { failure, is_command } => Ok((failure.errno, *is_command)),
        other => Err(Failed::from(format!("expected not to start, got {other:?}"))),
    }
}

fn what_cannot_be_executed_says_why(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let cases: [(&[&str], Errno); 8] = [
        (&["surely-no-such-command"], Errno::NOENT),
        (&["/usr/bin/surely-no-such-command"], Errno::NOENT),
        (&["./missing"], Errno::NOENT),
        (&[""], Errno::NOENT),
        (&["/etc/passwd"], Errno::ACCESS),
        (&["/usr"], Errno::ACCESS),
        (&["/etc/passwd/x"], Errno::NOENT),
        (&["/dev/null"], Errno::ACCESS),
    ];
    for (arguments, errno) in cases {
        let outcome = Command::new(arguments).run(&mut sandbox).outcome;
        same(not_started(&outcome)?, (errno, true), format!("{arguments:?}"))?;
        contains(&outcome.end.to_string(), "cannot execute the command")?;
        sandbox.reset()?;
    }
    // A forbidden one along the path is remembered, if nothing better comes.
    let mut command = Command::new(&["passwd"]);
    command.variables = vec![c("PATH=/etc:/missing")];
    let outcome = command.run(&mut sandbox).outcome;
    same(not_started(&outcome)?, (Errno::ACCESS, true), "a file without x along the path")?;
    sandbox.reset()?;
    let outcome = Command { arguments: Vec::new(), ..Command::sh("") }.run(&mut sandbox).outcome;
    check(not_started(&outcome)?.1, "no command at all")
}

fn a_failed_start_does_not_cost_the_sandbox(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let init = sandbox.init_pid();
    for _ in 0..3 {
        not_started(&Command::new(&["/missing"]).run(&mut sandbox).outcome)?;
        check(sandbox.is_sound(), "a sandbox whose command was missing is sound")?;
        sandbox.reset()?;
    }
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded()?;
    same(sandbox.init_pid(), init, "pid of init")
}

fn arguments_of_one_mebibyte_pass(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let piece = "x".repeat(1023);
    let mut command = Command::sh("echo $#; env | wc -c");
    command.arguments.push(c("sh"));
    command.arguments.extend((0..512).map(|_| c(&piece)));
    command.variables.extend((0..512).map(|number| c(&format!("V{number}={piece}"))));
    let text = command.run(&mut sandbox).succeeded()?;
    let lines: Vec<&str> = text.lines().collect();
    same(lines.first().copied(), Some("512"), "arguments")?;
    let bytes: usize = lines.get(1).unwrap_or(&"").trim().parse().map_err(|_| "no number")?;
    check(bytes > 512 * 1024, format!("{bytes} bytes of environment"))
}

fn arguments_of_ten_mebibytes_are_refused(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut command = Command::new(&["/bin/true"]);
    command.arguments.extend((0..10 * 1024).map(|_| c(&"x".repeat(1023))));
    let outcome = command.run(&mut sandbox).outcome;
    check(!outcome.end.is_success(), "ten mebibytes of arguments were taken")?;
    let text = outcome.end.to_string().to_lowercase();
    check(text.contains("too long") || text.contains("too big"), format!("no clear reason: {text}"))?;
    // Fewer than our own limit, more than the kernel's.
    let mut sandbox = fixture.sandbox()?;
    command.arguments.truncate(4 * 1024);
    let outcome = command.run(&mut sandbox).outcome;
    same(not_started(&outcome)?, (Errno::TOOBIG, true), "four mebibytes")
}

fn only_the_standard_streams_are_open(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let text = Command::probe(&["descriptors"]).run(&mut sandbox).succeeded()?;
    same(text.as_str(), "0 1 2", "open descriptors")
}

fn signals_are_as_a_shell_gives_them(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let text = Command::new(&["/bin/cat", "/proc/self/status"]).run(&mut sandbox).succeeded()?;
    let lines =
        text.lines().filter(|line| ["SigBlk", "SigIgn", "SigCgt"].iter().any(|name| line.starts_with(name)));
    for line in lines.clone() {
        let mask = u64::from_str_radix(line.rsplit('\t').next().unwrap_or("?"), 16).map_err(|_| "no mask")?;
        // The C library's own two signals (32 and 33) are ignored in whatever posix_spawn(3) of glibc
        // started.
        check(mask & !(3 << 31) == 0, format!("not clear: {line}"))?;
    }
    same(lines.count(), 3, "lines")
}

fn a_used_sandbox_wants_a_reset_first(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded()?;
    let outcome = Command::new(&["/bin/true"]).run(&mut sandbox).outcome;
    check(matches!(outcome.end, End::Lost { .. }), format!("{outcome:?}"))?;
    contains(&outcome.end.to_string(), "not ready")?;
    sandbox.reset()?;
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}
