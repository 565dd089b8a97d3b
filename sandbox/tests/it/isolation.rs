//! Nothing of a run is there for the next one.
use crate::fixture::{Checked, Command, Fixture, c, check, same};
use crate::registry::{Test, test};
use fulgurite_sandbox::sandbox::Sandbox;
use fulgurite_sandbox::spec::{Identity, SandboxSpec};

pub fn tests() -> Vec<Test> {
    vec![
        test("isolation::tmp_and_shm_are_empty_again", tmp_and_shm_are_empty_again),
        test("isolation::what_came_and_went_leaves_no_trace", what_came_and_went_leaves_no_trace),
        test("isolation::a_segment_of_shared_memory_is_gone", a_segment_of_shared_memory_is_gone),
        test("isolation::no_message_queue_is_left", no_message_queue_is_left),
        test("isolation::an_abstract_socket_is_gone", an_abstract_socket_is_gone),
        test("isolation::ports_and_waiting_connections_are_gone", ports_and_waiting_connections_are_gone),
        test("isolation::umask_directory_and_pid_start_over", umask_directory_and_pid_start_over),
        test("isolation::the_host_name_cannot_be_changed", the_host_name_cannot_be_changed),
        test("isolation::the_view_cannot_be_written", the_view_cannot_be_written),
        test("isolation::mounts_do_not_pile_up_inside", mounts_do_not_pile_up_inside),
        test("isolation::two_sandboxes_do_not_see_each_other", two_sandboxes_do_not_see_each_other),
        test("isolation::an_action_that_is_root_inside_is_not_outside", root_inside_is_not_root_outside),
    ]
}

fn ask(sandbox: &mut Sandbox, arguments: &[&str], expected: &str) -> Checked {
    let text = Command::probe(arguments).run(sandbox).succeeded()?;
    same(text.as_str(), expected, format!("{arguments:?}"))
}

fn tmp_and_shm_are_empty_again(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let fill =
        "for d in /tmp /dev/shm; do mkdir -p $d/a/b; echo x > $d/a/b/c; ln -s / $d/l; chmod 0 $d/a/b; done";
    for _ in 0..2 {
        Command::sh(fill).run(&mut sandbox).succeeded()?;
        sandbox.reset()?;
        let text = Command::sh("ls -A /tmp /dev/shm /work; stat -c %a /tmp /dev/shm").run(&mut sandbox);
        same(text.succeeded()?.as_str(), "/dev/shm:\n\n/tmp:\n\n/work:\n1777\n1777", "what is left")?;
        sandbox.reset()?;
    }
    Ok(())
}

/// A private mount that looks unused may be kept; one that tells what was done in it may not.
fn what_came_and_went_leaves_no_trace(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    // Times in files are as coarse as the kernel's tick on some kernels, hence the short nap.
    let look =
        "stat -c '%y %z %h %s %b' /tmp /dev/shm; stat -f -c '%f %d' /tmp /dev/shm; ls -A /tmp /dev/shm";
    let attempts =
        ["> D/x; rm D/x", "mkdir D/x; rmdir D/x", "> D/x; mv D/x D/y; rm D/y", "ln -s / D/x; rm D/x"];
    for attempt in attempts {
        let act = |place: &str| format!("({})", attempt.replace('D', place));
        let script = format!("sleep 0.02; {}; {}; {look}", act("/tmp"), act("/dev/shm"));
        let left = Command::sh(&script).run(&mut sandbox).succeeded()?;
        sandbox.reset()?;
        let found = Command::sh(look).run(&mut sandbox).succeeded()?;
        let both = left.lines().zip(found.lines()).take(2);
        let same_times = both.filter(|(before, after)| before == after).count();
        same(same_times, 0, format!("mounts that tell of {attempt:?}: {left} then {found}"))?;
        sandbox.reset()?;
    }
    Ok(())
}

fn a_segment_of_shared_memory_is_gone(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for _ in 0..2 {
        ask(&mut sandbox, &["leave", "segment"], "present")?;
        sandbox.reset()?;
        ask(&mut sandbox, &["find", "segment"], "absent")?;
        sandbox.reset()?;
    }
    Ok(())
}

fn no_message_queue_is_left(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for _ in 0..2 {
        // The table of resource limits leaves no bytes for queues; were there any, they would have to be
        // gone.
        ask(&mut sandbox, &["leave", "queue"], "refused")?;
        sandbox.reset()?;
        ask(&mut sandbox, &["find", "queue"], "absent")?;
        sandbox.reset()?;
    }
    Ok(())
}

fn an_abstract_socket_is_gone(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for _ in 0..2 {
        ask(&mut sandbox, &["leave", "socket"], "present")?;
        sandbox.reset()?;
        ask(&mut sandbox, &["find", "socket"], "absent")?;
        sandbox.reset()?;
    }
    Ok(())
}

fn ports_and_waiting_connections_are_gone(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for _ in 0..2 {
        ask(&mut sandbox, &["leave", "port"], "2 connections, port taken")?;
        sandbox.reset()?;
        ask(&mut sandbox, &["find", "port"], "0 connections, port free")?;
        sandbox.reset()?;
        // Counters of the device say what others did, too.
        let text = Command::sh("grep lo: /proc/net/dev").run(&mut sandbox).succeeded()?;
        let counters = text.split(':').nth(1).unwrap_or("?");
        check(counters.split_whitespace().all(|counter| counter == "0"), format!("counters: {counters}"))?;
        sandbox.reset()?;
    }
    Ok(())
}

fn umask_directory_and_pid_start_over(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let expected = "uid 1000 gid 1000 umask 0022 in /work pid 2";
    for _ in 0..4 {
        let mut command = Command::probe(&["identity"]);
        command.variables.push(c("STALE=1"));
        same(command.run(&mut sandbox).succeeded()?.as_str(), expected, "identity")?;
        sandbox.reset()?;
        let script =
            "umask 0; cd /; export STALE=2; for i in 1 2 3 4 5; do (true) & done; wait; [ -z \"$OLD\" ]";
        Command::sh(script).run(&mut sandbox).succeeded()?;
        sandbox.reset()?;
        let text = Command::sh("env | grep -c STALE; true").run(&mut sandbox).succeeded()?;
        same(text.as_str(), "0", "variables of the run before")?;
        sandbox.reset()?;
    }
    Ok(())
}

fn the_host_name_cannot_be_changed(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let script = "hostname changed 2>/dev/null; echo changed > /proc/sys/kernel/hostname; uname -n";
    let ran = Command::sh(script).run(&mut sandbox);
    same(ran.stdout.trim(), "fulgurite", "host name")
}

fn the_view_cannot_be_written(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let places = "/ /etc /usr /usr/bin /bin /dev /proc /proc/sys /lib /work";
    let script = format!("for d in {places}; do (echo x > $d/canary) 2>/dev/null && echo $d; done; true");
    same(Command::sh(&script).run(&mut sandbox).succeeded()?.as_str(), "", "places that could be written")
}

fn mounts_do_not_pile_up_inside(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut counts = Vec::new();
    for _ in 0..6 {
        counts.push(Command::sh("wc -l < /proc/self/mountinfo").run(&mut sandbox).succeeded()?);
        sandbox.reset()?;
    }
    counts.dedup();
    same(counts.len(), 1, format!("different numbers of mounts: {counts:?}"))
}

fn two_sandboxes_do_not_see_each_other(fixture: &Fixture) -> Checked {
    let (mut one, mut other) = (fixture.sandbox()?, fixture.sandbox()?);
    if fixture.runtime().features().privileged {
        check(one.action_id() != other.action_id(), "two sandboxes have one id outside")?;
    }
    // What the first run leaves is there until its reset; the other sandbox must not see it.
    ask(&mut one, &["leave", "segment"], "present")?;
    ask(&mut other, &["find", "segment"], "absent")?;
    other.reset()?;
    let text = Command::sh("ls /proc | grep -c '^[0-9]'").run(&mut other).succeeded()?;
    check(text.parse::<u32>().is_ok_and(|count| count <= 5), format!("{text} processes seen"))
}

fn root_inside_is_not_root_outside(fixture: &Fixture) -> Checked {
    let identity = Identity { uid: 0, gid: 0, name: "root".to_owned() };
    let spec = SandboxSpec { identity, ..fixture.spec() };
    let mut sandbox = fixture.sandbox_of(&spec)?;
    let text = Command::sh("id -u; id -un; grep CapEff /proc/self/status").run(&mut sandbox).succeeded()?;
    same(text.as_str(), "0\nroot\nCapEff:\t0000000000000000", "identity")?;
    sandbox.reset()?;
    let ran = Command::sh("mount -t tmpfs x /tmp || chown 1 /work || cat /etc/shadow").run(&mut sandbox);
    check(!ran.outcome.end.is_success(), "root inside did what only root may")
}
