//! On a terminal: the command never gets hold of it, `enter` gives a terminal of its own, and closing it ends all.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::time::Timespec;

use crate::census::{self, Owner};
use crate::kept::{keep, remove};
use crate::scene::{Finished, Scene, skip};

both! {
    shell_on_a_terminal: shell_on_a_terminal_as_root, shell_on_a_terminal_as_user;
    command_gets_no_terminal: command_gets_no_terminal_as_root, command_gets_no_terminal_as_user;
    closing_the_terminal: closing_the_terminal_as_root, closing_the_terminal_as_user;
    control_c_on_a_terminal: control_c_on_a_terminal_as_root, control_c_on_a_terminal_as_user;
}

/// Our end of a terminal, and a program in a session of its own at the other end.
struct Session {
    ours: File,
    child: Child,
    seen: String,
    mark: String,
}

impl Session {
    fn start(scene: &Scene, command: &Command) -> Option<Session> {
        if !std::path::Path::new("/usr/bin/setsid").exists() {
            skip("", "there is no setsid(1)");
            return None;
        }
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let stdio = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let mut session = scene.command("/usr/bin/setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args()).env("TERM", "vt100");
        session.stdin(stdio(&theirs)).stdout(stdio(&theirs)).stderr(stdio(&theirs));
        let child = session.spawn().unwrap();
        Some(Session { ours: File::from(ours), child, seen: String::new(), mark: scene.mark.clone() })
    }

    fn send(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    /// Reads what comes next; false at the end.
    #[track_caller]
    fn read(&mut self) -> bool {
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        let count = poll(&mut [PollFd::new(&self.ours, PollFlags::IN)], Some(&patience)).unwrap();
        if count == 0 {
            census::kill(&self.mark);
            panic!("nothing more comes: {:?}", self.seen);
        }
        let mut buffer = [0; 4096];
        let Ok(count @ 1..) = self.ours.read(&mut buffer) else { return false };
        self.seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        true
    }

    /// Reads until this was on the screen.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            assert!(self.read(), "the end, before {text:?}: {}", self.seen);
        }
    }

    /// Reads until the other end is closed; gives the exit code and all that was on the screen.
    fn end(mut self) -> (i32, String) {
        while self.read() {}
        (Finished::of(self.child).code(), self.seen)
    }
}

fn shell_on_a_terminal(scene: &Scene) {
    let id = keep(scene, &[], "echo x > x; exit 3", 3);
    let Some(mut session) = Session::start(scene, &scene.fulgurite(&["enter", &id])) else {
        return remove(scene, &id);
    };
    session.send("test -t 0 && test -t 1 && test -t 2 && : < /dev/tty && echo terminal-$((1+0))=$TERM\n");
    session.wait_for("terminal-1=vt100");
    session.send("cat x; echo here-$((40+2))\n");
    session.wait_for("here-42");
    // The prompt may come before the answer, in the same line.
    assert!(session.seen.contains("x\r\nhere-42"), "{}", session.seen);
    // Job control: the terminal's own interrupt reaches the foreground, and the shell lives on.
    session.send("sed -u s/in/out/\n");
    session.send("it is in\n");
    session.wait_for("it is out");
    session.seen.clear();
    session.send("\u{3}");
    session.wait_for("$ ");
    session.send("echo again-$((2+1))\n");
    session.wait_for("again-3");
    session.send("exit 5\n");
    let (code, seen) = session.end();
    assert_eq!(code, 5, "{seen}");
    remove(scene, &id);
    census::settle(&scene.mark);
}

fn command_gets_no_terminal(scene: &Scene) {
    let script =
        "test -t 0 || test -t 1 || test -t 2 || echo none; (: < /dev/tty) 2>/dev/null || echo no tty";
    let command = scene.run_command(&["--stdin"], &["/bin/sh", "-c", script]);
    let Some(session) = Session::start(scene, &command) else { return };
    let (code, seen) = session.end();
    assert_eq!((code, seen.as_str()), (0, "none\r\nno tty\r\n"));
}

fn closing_the_terminal(scene: &Scene) {
    let script = "trap '' HUP; (setsid sleep 1000 &); echo ready; sleep 1000";
    let command = scene.run_command(&[], &["/bin/sh", "-c", script]);
    let Some(mut session) = Session::start(scene, &command) else { return };
    session.wait_for("ready");
    let Session { ours, child, .. } = session;
    let owner = Owner::of(&child);
    drop(ours);
    assert_eq!(Finished::of(child).code(), 129);
    let left = census::of(scene, Some(owner));
    assert!(left.is_empty(), "{left:#?}");
}

fn control_c_on_a_terminal(scene: &Scene) {
    let script = "trap '' INT; echo ready; sleep 1000";
    let command = scene.run_command(&[], &["/bin/sh", "-c", script]);
    let Some(mut session) = Session::start(scene, &command) else { return };
    session.wait_for("ready");
    session.send("\u{3}");
    let owner = Owner::of(&session.child);
    let (code, seen) = session.end();
    assert_eq!(code, 130, "{seen}");
    assert!(census::of(scene, Some(owner)).is_empty());
}
