//! Environment, working directory, network, mounts, root, identity, strategy.

use std::net::TcpListener;

use crate::scene::{MARK, Scene};

both! {
    exact_environment: exact_environment_as_root, exact_environment_as_user;
    inherited_environment: inherited_environment_as_root, inherited_environment_as_user;
    working_directory: working_directory_as_root, working_directory_as_user;
    networks: networks_as_root, networks_as_user;
    writable_directories: writable_directories_as_root, writable_directories_as_user;
    mounts: mounts_as_root, mounts_as_user;
    bad_mounts: bad_mounts_as_root, bad_mounts_as_user;
    given_root: given_root_as_root, given_root_as_user;
    fake_root: fake_root_as_root, fake_root_as_user;
    ordinary_identity: ordinary_identity_as_root, ordinary_identity_as_user;
    private_tmp: private_tmp_as_root, private_tmp_as_user;
    own_proc: own_proc_as_root, own_proc_as_user;
    standalone: standalone_as_root, standalone_as_user;
    explains: explains_as_root, explains_as_user;
}

fn variables(text: &[u8]) -> Vec<String> {
    let mut all: Vec<String> = text
        .split(|byte| *byte == 0)
        .filter(|variable| !variable.is_empty())
        .map(|variable| String::from_utf8_lossy(variable).into_owned())
        .collect();
    all.sort();
    all
}

fn exact_environment(scene: &Scene) {
    let mark = format!("{MARK}={}", scene.mark);
    let standard = ["HOME=/tmp", "PATH=/usr/local/bin:/usr/bin:/bin", "TMPDIR=/tmp"];
    let mut expected = vec![mark.as_str()];
    expected.extend(standard);
    expected.sort_unstable();
    assert_eq!(variables(&scene.run(&[], &["env", "-0"]).silent().stdout), expected);

    let options =
        ["--env", "HOME=/nowhere", "--env", "EMPTY=", "--env", "MULTI=a\nb=c", "--env", "EMPTY=twice"];
    let mut expected =
        vec![mark.as_str(), "EMPTY=twice", "HOME=/nowhere", "MULTI=a\nb=c", standard[1], standard[2]];
    expected.sort_unstable();
    assert_eq!(variables(&scene.run(&options, &["env", "-0"]).silent().stdout), expected);
    for wrong in ["NOVALUE", "=value", ""] {
        scene.run(&["--env", wrong], &["true"]).one_line(125, &["--env", "NAME=VALUE"]);
    }
}

fn inherited_environment(scene: &Scene) {
    let run = |options: &[&str]| {
        let mut command = scene.run_command(options, &["env", "-0"]);
        command.env("WANTED", "w").env("SECRET", "s");
        variables(&scene.finish(command.spawn().unwrap()).silent().stdout)
    };
    let has = |all: &[String], variable: &str| all.iter().any(|other| other == variable);
    let one = run(&["--inherit-env=WANTED", "--inherit-env=UNSET", "--inherit-env=PATH"]);
    assert!(has(&one, "WANTED=w") && !has(&one, "SECRET=s"), "{one:?}");
    assert!(!one.iter().any(|variable| variable.starts_with("UNSET")), "{one:?}");
    assert!(has(&one, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), "{one:?}");
    let all = run(&["--inherit-env", "--env", "SECRET=mine"]);
    assert!(has(&all, "WANTED=w") && has(&all, "SECRET=mine") && !has(&all, "SECRET=s"), "{all:?}");
}

fn working_directory(scene: &Scene) {
    scene.make_dir("sub");
    assert_eq!(scene.run(&[], &["pwd"]).silent().text(), "/work\n");
    assert_eq!(scene.run(&["--chdir", "sub"], &["pwd"]).silent().text(), "/work/sub\n");
    scene.run(&["--chdir", "../.."], &["pwd"]).one_line(125, &["--chdir ../.. leads out"]);
    scene.run(&["--chdir", "/etc"], &["pwd"]).one_line(125, &["--chdir /etc leads out"]);
    scene.run(&["--chdir", "nowhere"], &["pwd"]).one_line(125, &["/work/nowhere"]);
    let mut elsewhere = scene.run_command(&["--exec-root", "exec", "--output", "o"], &["touch", "o"]);
    elsewhere.current_dir(scene.dir());
    scene.finish(elsewhere.spawn().unwrap()).silent();
    assert_eq!(scene.names("."), ["o", "sub"]);
}

/// Names of interfaces with their state, and whether the listener of the host can be reached.
fn look_at_network(scene: &Scene, network: &str, port: u16) -> (String, bool) {
    let script = format!(
        "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \\n'; echo; \
         (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo reached; true"
    );
    let done = scene.run(&["--network", network], &["/bin/bash", "-c", &script]).silent().text();
    let (names, rest) = done.split_once('\n').unwrap();
    (names.to_owned(), rest == "reached\n")
}

fn networks(scene: &Scene) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(look_at_network(scene, "none", port), ("lo".to_owned(), false));
    assert_eq!(look_at_network(scene, "loopback", port), ("lo".to_owned(), false));
    assert!(look_at_network(scene, "host", port).1);
    // Loopback of its own works, and with none it is down: its address cannot be reached at all.
    let state = |network: &str| {
        let script = "(exec 3<>/dev/tcp/127.0.0.1/9) 2>&1 | grep -o -e unreachable -e refused | head -n 1";
        scene.run(&["--network", network], &["/bin/bash", "-c", script]).silent().text()
    };
    assert_eq!((state("none"), state("loopback")), ("unreachable\n".to_owned(), "refused\n".to_owned()));
}

fn writable_directories(scene: &Scene) {
    let cache = scene.dir().join("cache");
    std::fs::create_dir(&cache).unwrap();
    scene.own(&cache);
    let place = format!("{}=/cache", cache.display());
    scene.sh(&["--writable", &place], "echo one > /cache/one").silent();
    assert_eq!(std::fs::read_to_string(cache.join("one")).unwrap(), "one\n");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(cache.join("one")).unwrap().uid(), scene.uid());
    let plain = cache.to_str().unwrap();
    let script = format!("cat {plain}/one && echo two > {plain}/one; exit 3");
    scene.sh(&["--writable", plain], &script).one_line(3, &["exited with code 3"]);
    // In place means that it stays although the command failed.
    assert_eq!(std::fs::read_to_string(cache.join("one")).unwrap(), "two\n");
}

fn mounts(scene: &Scene) {
    let data = scene.dir().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "F").unwrap();
    scene.own(&data);
    scene.own(&data.join("file"));
    let plain = data.to_str().unwrap();
    let script = format!("cat {plain}/file; echo x > {plain}/file || echo x > {plain}/new || echo refused");
    let done = scene.sh(&["--mount", plain], &script).expect(0);
    assert_eq!(done.text(), "Frefused\n");
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "F");
    let placed = format!("{plain}/file=/opt-data/deep/f");
    assert_eq!(scene.sh(&["--mount", &placed], "cat /opt-data/deep/f").silent().text(), "F");
}

fn bad_mounts(scene: &Scene) {
    let check = |mount: &str, parts: &[&str]| scene.run(&["--mount", mount], &["true"]).one_line(125, parts);
    check("/no/such/place", &["cannot open --mount /no/such/place"]);
    check("/etc=relative", &["relative"]);
    check("/etc=/work/etc", &["/work/etc"]);
    check("/etc=/x/../../y", &["/x/../../y"]);
    check("/etc=/", &["cannot mount /"]);
    check("=", &["--mount"]);
    scene.run(&["--writable", "/no/such/place"], &["true"]).one_line(125, &["--writable /no/such/place"]);
}

fn given_root(scene: &Scene) {
    let root = scene.dir().join("rootfs");
    for dir in ["", "bin", "etc", "lib", "lib64"] {
        std::fs::create_dir(root.join(dir)).unwrap();
    }
    copy_with_libraries("/bin/sh", &root);
    std::fs::write(root.join("etc/only-here"), "R").unwrap();
    let options = ["--rootfs", root.to_str().unwrap()];
    let script = "read -r line < /etc/only-here || :; echo \"$line\"; [ -e /usr ] || echo no usr; echo w > /work/w; \
                  (echo x > /etc/only-here) 2> /dev/null || echo refused";
    let done = scene.run(&options, &["/bin/sh", "-c", script]).silent();
    assert_eq!(done.text(), "R\nno usr\nrefused\n");
    scene.run(&options, &["/usr/bin/env"]).one_line(127, &["/usr/bin/env"]);
    scene.run(&["--rootfs", "/no/such/root"], &["true"]).one_line(125, &["/no/such/root"]);
}

/// Copies a program and what `ldd` says that it loads.
fn copy_with_libraries(program: &str, root: &std::path::Path) {
    std::fs::copy(program, root.join(program.trim_start_matches('/'))).unwrap();
    let listed = std::process::Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(library, target).unwrap();
    }
}

fn fake_root(scene: &Scene) {
    let script =
        "id -u; id -g; id -un; echo x > /etc/passwd || mknod n c 1 3 || mount -t tmpfs t /tmp || echo weak";
    let done = scene.sh(&["--fake-root"], script).expect(0);
    assert_eq!(done.text(), "0\n0\nroot\nweak\n");
    scene.sh(&["--fake-root", "--output", "o"], "echo > o").silent();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(scene.root().join("o")).unwrap().uid(), scene.uid());
}

fn ordinary_identity(scene: &Scene) {
    let done = scene.sh(&[], "id -u; id -un; id -g; cat /proc/sys/kernel/hostname; umask").silent();
    assert_eq!(done.text(), "1000\nbuild\n1000\nfulgurite\n0022\n");
}

fn private_tmp(scene: &Scene) {
    let outside = std::env::temp_dir().join(format!("{}-outside", scene.mark));
    std::fs::write(&outside, "outside").unwrap();
    let inside = std::env::temp_dir().join(format!("{}-inside", scene.mark));
    let script = format!(
        "ls -A /tmp /dev/shm; echo i > {0}; echo s > /dev/shm/{1}; cat /tmp/{1}-outside",
        format_args!("/tmp/{}-inside", scene.mark),
        scene.mark
    );
    let done = scene.sh(&[], &script);
    std::fs::remove_file(&outside).unwrap();
    let done = done.expect(1);
    assert_eq!(done.text(), "/dev/shm:\n\n/tmp:\n");
    assert!(!inside.exists());
    assert!(!std::path::Path::new("/dev/shm").join(&scene.mark).exists());
}

fn own_proc(scene: &Scene) {
    let script = "readlink /proc/self/../$$/stat >/dev/null; \
                  [ \"$$\" = \"$(cut -d' ' -f1 /proc/$$/stat)\" ] && echo own; \
                  ls /proc | grep -c '^[0-9]'";
    let done = scene.sh(&[], script).silent().text();
    let (own, count) = done.split_once('\n').unwrap();
    assert_eq!(own, "own");
    assert!(count.trim().parse::<u32>().unwrap() <= 6, "{count}");
}

fn standalone(scene: &Scene) {
    scene.write("old", "old");
    let options = ["--strategy", "standalone"];
    scene.sh(&options, "echo new > old; echo made > made").silent();
    assert_eq!((scene.read("old"), scene.read("made")), ("new\n".to_owned(), "made\n".to_owned()));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(scene.root().join("made")).unwrap().uid(), scene.uid());
    let script = "echo before > partly; exec sleep 1000";
    scene.sh(&["--strategy", "standalone", "--timeout", "0.3"], script).one_line(124, &["timed out"]);
    assert_eq!(scene.read("partly"), "before\n");
    let options = ["--strategy", "standalone", "--output", "never"];
    scene.sh(&options, "true").one_line(125, &["did not make \"never\""]);
    scene.run(&["--strategy", "standalone", "--input", "old"], &["true"]).one_line(125, &["--input"]);
}

fn explains(scene: &Scene) {
    scene.write("in", "");
    let arguments = ["explain", "--input", "in", "--output", "out", "--", "cc", "-c"];
    let done = scene.finish(scene.fulgurite(&arguments).spawn().unwrap()).silent().text();
    for part in ["/work", "1 declared inputs", "publish: \"out\"", "seccomp", "limits: none"] {
        assert!(done.contains(part), "{part} is not in:\n{done}");
    }
    assert_eq!(scene.names("."), ["in"]);
}
