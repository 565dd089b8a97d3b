//! What an action sees of the host, and what it does not.
use crate::fixture::{Checked, Command, Fixture, PROBE, check, contains, same};
use crate::registry::{Test, test};
use fulgurite_sandbox::spec::{HostMount, Identity, RootView, SandboxSpec};
use libtest_mimic::Failed;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub fn tests() -> Vec<Test> {
    vec![
        test("views::the_root_shows_toolchains_and_nothing_else", the_root_shows_toolchains_and_nothing_else),
        test("views::users_are_made_up", users_are_made_up),
        test("views::identity_is_as_asked_for", identity_is_as_asked_for),
        test("views::secrets_of_etc_are_not_there", secrets_of_etc_are_not_there),
        test("views::proc_is_masked", proc_is_masked),
        test("views::devices_are_few_and_harmless", devices_are_few_and_harmless),
        test("views::a_read_only_mount_is_read_only_all_the_way", a_read_only_mount_is_read_only_all_the_way),
        test("views::a_writable_mount_reaches_the_host", a_writable_mount_reaches_the_host),
        test("views::a_writable_mount_of_its_owner_can_be_written", writable_mount_of_its_owner),
        test("views::a_mount_may_stand_for_tmp", a_mount_may_stand_for_tmp),
        test("views::hostile_targets_are_refused", hostile_targets_are_refused),
        test("views::a_directory_can_be_the_root", a_directory_can_be_the_root),
        test("views::a_hostile_root_directory_fails_closed", a_hostile_root_directory_fails_closed),
        test("views::too_many_mounts_are_refused", too_many_mounts_are_refused),
    ]
}

fn mount(source: &Path, target: &str, writable: bool) -> HostMount {
    HostMount { source: source.to_path_buf(), target: PathBuf::from(target), writable }
}

fn with_mounts(fixture: &Fixture, mounts: impl IntoIterator<Item = HostMount>) -> SandboxSpec {
    let mut spec = fixture.spec();
    spec.mounts.extend(mounts);
    spec
}

fn the_root_shows_toolchains_and_nothing_else(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let text = Command::new(&["ls", "-A", "/"]).run(&mut sandbox).succeeded()?;
    let known = "bin dev etc it lib lib32 lib64 libx32 opt proc sbin tmp usr work nix";
    let strange: Vec<&str> = text.lines().filter(|name| !known.split(' ').any(|k| k == *name)).collect();
    same(strange, Vec::new(), "strange entries of the root")?;
    sandbox.reset()?;
    let script =
        "for d in /home /root /run /sys /var /boot /mnt /srv /media; do [ -e $d ] && echo $d; done; true";
    same(Command::sh(script).run(&mut sandbox).succeeded()?.as_str(), "", "what must not be visible")
}

fn users_are_made_up(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let text = Command::sh("cat /etc/passwd /etc/group; id -un; id -gn").run(&mut sandbox).succeeded()?;
    let expected = "root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:1000:build:/tmp:/bin/sh\n\
                    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n\
                    root:x:0:\nbuild:x:1000:\nnogroup:x:65534:\nbuild\nbuild";
    same(text.as_str(), expected, "users")
}

fn identity_is_as_asked_for(fixture: &Fixture) -> Checked {
    let identity = Identity { uid: 1234, gid: 1357, name: "somebody".to_owned() };
    let mut sandbox = fixture.sandbox_of(&SandboxSpec { identity, ..fixture.spec() })?;
    let text = Command::sh("id -u; id -g; id -un; id -G").run(&mut sandbox).succeeded()?;
    same(text.as_str(), "1234\n1357\nsomebody\n1357", "identity")
}

fn secrets_of_etc_are_not_there(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let files = "shadow gshadow sudoers ssh hostname machine-id fstab mtab resolv.conf";
    let script = format!("for f in {files}; do [ -e /etc/$f ] && echo $f; done; true");
    same(Command::sh(&script).run(&mut sandbox).succeeded()?.as_str(), "", "files of the host")
}

fn proc_is_masked(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let script = "cat /proc/kcore /proc/keys /proc/kmsg /proc/kallsyms /proc/timer_list 2>/dev/null | wc -c; \
                  echo 1 > /proc/sys/kernel/panic; echo h > /proc/sysrq-trigger; ls /proc/acpi /proc/scsi";
    let ran = Command::sh(&format!("({script}) 2>/dev/null; ls /proc | grep -c '^[0-9]'")).run(&mut sandbox);
    let numbers: Vec<&str> = ran.stdout.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
    same(numbers.first().copied(), Some("0"), "bytes of masked files")?;
    let seen: u32 = numbers.last().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
    check(seen <= 6, format!("{seen} processes seen: {}", ran.stdout))?;
    sandbox.reset()?;
    // Nothing of init or of what made it may be read.
    let script = "cat /proc/1/environ /proc/1/maps /proc/1/auxv; ls /proc/1/fd /proc/1/root/ /proc/1/cwd/";
    let ran = Command::sh(&format!("({script}) 2>/dev/null | wc -c")).run(&mut sandbox);
    same(ran.succeeded()?.as_str(), "0", "bytes about init")
}

fn devices_are_few_and_harmless(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let text = Command::new(&["ls", "-A", "/dev"]).run(&mut sandbox).succeeded()?;
    let mut names: Vec<&str> = text.lines().collect();
    names.sort_unstable();
    let expected = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
    same(names.join(" ").as_str(), expected, "devices")?;
    sandbox.reset()?;
    let script = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x > /dev/null; \
                  (echo x > /dev/full) 2>/dev/null || echo full; \
                  mknod /tmp/n c 1 3 2>/dev/null || echo refused";
    same(Command::sh(script).run(&mut sandbox).succeeded()?.as_str(), "4\n4\nfull\nrefused", "devices")
}

fn a_read_only_mount_is_read_only_all_the_way(fixture: &Fixture) -> Checked {
    let directory = tempfile::tempdir()?;
    let (top, below) = (directory.path(), directory.path().join("sub"));
    std::fs::create_dir(&below)?;
    for path in [top, &below] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    std::fs::write(top.join("file"), "text")?;
    std::fs::set_permissions(top.join("file"), std::fs::Permissions::from_mode(0o666))?;
    let spec = with_mounts(fixture, [mount(top, "/data/in", false)]);
    let mut sandbox = fixture.sandbox_of(&spec)?;
    let script = "cat /data/in/file; for f in /data/in/file /data/in/new /data/in/sub/new; do \
                  (echo x > $f) 2>/dev/null && echo wrote $f; done; \
                  chmod 600 /data/in/file 2>/dev/null && echo mode; \
                  rm -f /data/in/file 2>/dev/null && echo gone; true";
    same(Command::sh(script).run(&mut sandbox).succeeded()?.as_str(), "text", "what could be done")?;
    same(std::fs::read_to_string(top.join("file"))?.as_str(), "text", "the file")
}

fn a_writable_mount_reaches_the_host(fixture: &Fixture) -> Checked {
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777))?;
    let spec = with_mounts(fixture, [mount(directory.path(), "/data/out", true)]);
    let mut sandbox = fixture.sandbox_of(&spec)?;
    Command::sh("echo hello > /data/out/file").run(&mut sandbox).succeeded()?;
    same(std::fs::read_to_string(directory.path().join("file"))?.as_str(), "hello\n", "the file")?;
    sandbox.reset()?;
    // No program that runs as somebody else can be left for the host.
    let script = "cp /bin/true /data/out/t && chmod 4755 /data/out/t 2>/dev/null; \
                  /data/out/t && stat -c %a /data/out/t";
    same(Command::sh(script).run(&mut sandbox).succeeded()?.as_str(), "755", "mode")?;
    let owner = std::fs::metadata(directory.path().join("t"))?.uid();
    let wanted = std::fs::metadata(directory.path())?.uid();
    check(owner == wanted, "what the action wrote belongs to the directory's owner")
}

/// A writable mount belongs to whoever owns it on the host; the action may write there all the same.
fn writable_mount_of_its_owner(fixture: &Fixture) -> Checked {
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    let spec = with_mounts(fixture, [mount(directory.path(), "/data/own", true)]);
    let mut sandbox = fixture.sandbox_of(&spec)?;
    Command::sh("echo hello > /data/own/file").run(&mut sandbox).succeeded()?;
    same(std::fs::read_to_string(directory.path().join("file"))?.as_str(), "hello\n", "the file")
}

fn a_mount_may_stand_for_tmp(fixture: &Fixture) -> Checked {
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777))?;
    let spec = with_mounts(fixture, [mount(directory.path(), "/tmp", true)]);
    let mut sandbox = fixture.sandbox_of(&spec)?;
    Command::sh("echo kept > /tmp/file").run(&mut sandbox).succeeded()?;
    sandbox.reset()?;
    same(Command::sh("cat /tmp/file").run(&mut sandbox).succeeded()?.as_str(), "kept", "a file of the host")
}

fn hostile_targets_are_refused(fixture: &Fixture) -> Checked {
    let targets = [
        "/../etc",
        "/a/../../etc",
        "..",
        "relative",
        "",
        "/",
        "/proc",
        "/proc/self",
        "/proc/sys/kernel",
        "/work",
        "/work/x",
        "/dev",
        "/dev/null",
        "/dev/pts",
        "/dev/fd/9",
        "/a/..",
    ];
    for target in targets {
        let spec = with_mounts(fixture, [mount(Path::new("/usr"), target, false)]);
        match fixture.runtime().template(&spec) {
            Ok(_) => return Err(format!("{target:?} was taken").into()),
            Err(error) => contains(&error.to_string(), "cannot mount")?,
        }
    }
    for source in ["usr", "../usr", ""] {
        let spec = with_mounts(fixture, [mount(Path::new(source), "/x", false)]);
        check(fixture.runtime().template(&spec).is_err(), format!("the source {source:?} was taken"))?;
    }
    Ok(())
}

/// A root with a shell: copies of a few files and of the libraries that they need.
fn small_root() -> Result<tempfile::TempDir, Failed> {
    let root = tempfile::tempdir()?;
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755))?;
    for program in ["/bin/sh", "/bin/ls", "/bin/cat", "/bin/true"] {
        copy(root.path(), Path::new(program))?;
        let listed = std::process::Command::new("ldd").arg(program).output()?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(root.path(), Path::new(library))?;
        }
    }
    std::fs::create_dir_all(root.path().join("etc"))?;
    std::fs::write(root.path().join("etc/os-release"), "ID=small\n")?;
    Ok(root)
}

fn copy(root: &Path, file: &Path) -> Checked {
    let to = root.join(file.strip_prefix("/")?);
    std::fs::create_dir_all(to.parent().ok_or("a file has a directory")?)?;
    if !to.exists() {
        std::fs::copy(file, &to)?;
    }
    Ok(())
}

fn a_directory_can_be_the_root(fixture: &Fixture) -> Checked {
    let root = small_root()?;
    let spec = SandboxSpec {
        root: RootView::Directory(root.path().to_path_buf()),
        mounts: Vec::new(),
        ..SandboxSpec::default()
    };
    let mut sandbox = fixture.sandbox_of(&spec)?;
    let script =
        "cat /etc/os-release; echo x > /tmp/x && cat /tmp/x; (echo x > /bin/canary) 2>/dev/null || echo no";
    let text = Command::sh(script).run(&mut sandbox).succeeded()?;
    same(text.as_str(), "ID=small\nx\nno", "inside")?;
    sandbox.reset()?;
    let text = Command::sh("for d in /usr/lib /home /opt; do [ -e $d ] && echo $d; done; ls /etc");
    contains(&text.run(&mut sandbox).succeeded()?, "os-release")
}

/// X30: the root directory comes from somebody else.
fn a_hostile_root_directory_fails_closed(fixture: &Fixture) -> Checked {
    let root = small_root()?;
    for name in ["dev", "proc", "tmp", "work", "sys"] {
        std::os::unix::fs::symlink("/etc", root.path().join(name))?;
    }
    std::os::unix::fs::symlink("/etc/shadow", root.path().join("etc/passwd"))?;
    std::os::unix::fs::symlink("../../../../etc", root.path().join("out"))?;
    let spec = SandboxSpec {
        root: RootView::Directory(root.path().to_path_buf()),
        mounts: Vec::new(),
        ..SandboxSpec::default()
    };
    let mut sandbox = fixture.sandbox_of(&spec)?;
    let script = "cat /etc/passwd /out/shadow /dev/shadow /tmp/shadow; ls /out/";
    let ran = Command::sh(&format!("({script}) 2>/dev/null")).run(&mut sandbox);
    check(!ran.stdout.contains("root:"), format!("the host's users are seen: {}", ran.stdout))?;
    check(ran.stdout.contains("os-release"), format!("the link leads elsewhere: {}", ran.stdout))?;
    sandbox.reset()?;
    // A link at the root that leads out, with a mount asked for below it.
    let target = HostMount { source: "/usr".into(), target: "/out/x".into(), writable: false };
    let spec = SandboxSpec { mounts: vec![target], ..spec };
    match fixture.runtime().template(&spec) {
        Err(error) => contains(&error.to_string(), "cannot"),
        Ok(_) => Err("a mount below a link was made".into()),
    }
}

fn too_many_mounts_are_refused(fixture: &Fixture) -> Checked {
    let mounts = (0..80).map(|number| mount(Path::new("/usr"), &format!("/m/{number}"), false));
    match fixture.runtime().template(&with_mounts(fixture, mounts)) {
        Err(error) => contains(&error.to_string(), "host mounts, at most"),
        Ok(_) => Err(format!("eighty mounts were taken beside {PROBE}").into()),
    }
}
