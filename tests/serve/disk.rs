//! X20: the disk of the state directory is full. Actions fail and say so; the daemon lives, and works again when
//! there is room.

use crate::Alone;
use crate::action::Order;
use crate::client::{Client, code, missing_in, named};
use crate::daemon::{Daemon, Home};
use std::path::PathBuf;
use std::process::Command;
use tonic::Code;

pub const ALONE: &[Alone] =
    &[("disk::x20_a_full_disk", full), ("disk::x20_killed_while_it_is_full", killed_while_full)];

/// An ext4 image of our own, mounted.
struct Disk {
    dir: tempfile::TempDir,
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|out| out.status.success())
}

impl Disk {
    fn new(size: &str) -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk { dir };
        let (image, point) = (disk.path("image"), disk.path("mounted"));
        std::fs::create_dir(&point).unwrap();
        let (image, point) = (image.to_str().unwrap(), point.to_str().unwrap());
        let made = succeeds("truncate", &["-s", size, image])
            && succeeds("mkfs.ext4", &["-q", "-m", "0", "-N", "4000", image])
            && succeeds("mount", &["-o", "loop", image, point]);
        made.then_some(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Leaves no block free.
    fn fill(&self) {
        let path = self.path("mounted/filler");
        let of = format!("of={}", path.display());
        assert!(!succeeds("dd", &["if=/dev/zero", &of, "bs=4096", "oflag=append", "conv=notrunc"]));
    }

    fn free(&self) {
        std::fs::remove_file(self.path("mounted/filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds("umount", &[self.path("mounted").to_str().unwrap()]);
    }
}

/// Checks that a refusal is for want of room, and says so.
fn check_told(code: Code, message: &str) {
    assert!(matches!(code, Code::ResourceExhausted | Code::Unavailable), "{code:?}: {message}");
    assert!(["space", "room", "full"].iter().any(|word| message.contains(word)), "{message}");
}

/// Uploads and actions while there is no room: none may succeed with less than all of it.
fn check_full(disk: &Disk, client: &Client, daemon: &mut Daemon, prepared: &[Order]) {
    disk.fill();
    let status = client.try_upload(&[vec![7; 1 << 20]]).unwrap_err();
    check_told(status.code(), status.message());
    let mut failed = 0;
    for order in prepared {
        assert!(daemon.is_running());
        failed += 1;
        // The store makes room with what was not used for longest: that may be these.
        if let Err(status) = client.try_upload(&order.blobs()) {
            check_told(status.code(), status.message());
            continue;
        }
        disk.fill();
        let running = match client.try_execute(&named(order.blobs().last().unwrap()), false) {
            Ok(running) => running,
            Err(status) if status.code() == Code::FailedPrecondition => continue,
            Err(status) => {
                check_told(status.code(), status.message());
                continue;
            }
        };
        let response = running.response();
        let status = response.status.clone().unwrap_or_default();
        let result = response.result.clone().unwrap_or_default();
        match code(Some(&status)) {
            // There was just enough: then what it says is there.
            Code::Ok if result.exit_code == 0 => {
                // Unless it made room for others at once, as all that is not in use may; then nobody is served it.
                if client.cached(&named(order.blobs().last().unwrap())).is_some() {
                    client.check_complete(&result);
                }
                failed -= 1;
            }
            // The action met it itself, or its blobs made room for another's.
            Code::Ok => {}
            Code::FailedPrecondition => assert!(!missing_in(&status).is_empty(), "{status:?}"),
            other => check_told(other, &status.message),
        }
    }
    assert!(failed >= 2, "the disk is not full enough: {failed}");
    assert!(daemon.is_running());
}

fn full() {
    let Some(disk) = Disk::new("96M") else {
        return crate::skip("disk::full", "no image can be made or mounted");
    };
    let home = Home::within(&disk.path("mounted"));
    let mut daemon = home.start(&["--store-size-bytes-max", "1GiB"]);
    let client = daemon.client();
    let control = Order::sh("echo before; head -c 1000000 /dev/zero > out").outputs(&["out"]);
    assert_eq!(client.stdout(&client.succeed(&control)), "before\n");
    let prepared = [
        Order::sh("head -c 1000000 /dev/zero | tr '\\0' a > out || exit 1").outputs(&["out"]),
        Order::sh("head -c 1000000 /dev/zero | tr '\\0' b || exit 1"),
        Order::sh("cat in/a > out && head -c 300000 in/a >> out || exit 1").input("in/a", b"x20").outputs(&["out"]),
        Order::sh("mkdir out; i=0; while [ $i -lt 9 ]; do head -c 50000 /dev/zero > out/$i || exit 1; i=$((i+1)); done")
            .outputs(&["out"]),
    ];
    for order in &prepared {
        order.upload(&client);
    }
    check_full(&disk, &client, &mut daemon, &prepared);
    disk.free();
    for order in &prepared {
        // Uploads again what was evicted.
        let response = client.run(order);
        assert_eq!(code(response.status.as_ref()), Code::Ok, "{response:?}");
        client.check_complete(&response.result.clone().unwrap());
    }
    client.upload(&[vec![7; 1 << 20]]);
    drop(client);
    daemon.end(&home);
    home.check_blobs();
    let daemon = home.start(&[]);
    let client = daemon.client();
    client.succeed(&Order::sh("echo after"));
    drop(client);
    daemon.end(&home);
    home.check_blobs();
    drop(home);
}

/// Whatever a kill leaves of databases that could not be written, the next start takes it: on the full disk it may be
/// refused, in words, and with room it never is.
fn killed_while_full() {
    let Some(disk) = Disk::new("96M") else {
        return crate::skip("disk::killed_while_full", "no image can be made or mounted");
    };
    let home = Home::within(&disk.path("mounted"));
    for round in 0..8u32 {
        let daemon = home.start(&["--store-size-bytes-max", "1GiB"]);
        let client = daemon.client();
        let known = Order::sh("echo kept");
        client.succeed(&known);
        disk.fill();
        for number in 0..4 + round {
            // Results that wait for a commit that has no room, and blobs for a checkpoint.
            let order = Order::sh(&format!("echo {round} {number}"));
            if client.try_upload(&order.blobs()).is_ok()
                && let Ok(running) = client.try_execute(&named(order.blobs().last().unwrap()), false)
            {
                let _ = running.response();
            }
        }
        // Some rounds give the threads that write time to meet the full disk; which is not waited for.
        if round % 2 == 0 {
            let waits = Order::sh("/bin/sleep 1");
            if client.try_upload(&waits.blobs()).is_ok()
                && let Ok(running) = client.try_execute(&named(waits.blobs().last().unwrap()), false)
            {
                let _ = running.response();
            }
        }
        drop(client);
        daemon.kill();
        match home.try_start(&["--store-size-bytes-max", "1GiB"], &[]) {
            Ok(daemon) => daemon.kill(),
            Err(status) => {
                assert!(status.code().is_some(), "it did not end by itself: {status:?}: {}", home.said())
            }
        }
        disk.free();
        let daemon = home.start(&["--store-size-bytes-max", "1GiB"]);
        let client = daemon.client();
        client.succeed(&Order::sh("echo works"));
        drop(client);
        daemon.end(&home);
        home.check_blobs();
    }
    drop(home);
}
