//! Standard streams: apart, byte-exact, and none of them ours.

use std::fs::File;
use std::io::Read;

use crate::scene::Scene;

/// More than any pipe holds.
const FLOOD_BYTES: u64 = 100_000_000;

both! {
    kept_apart: kept_apart_as_root, kept_apart_as_user;
    byte_exact: byte_exact_as_root, byte_exact_as_user;
    flood_to_a_file: flood_to_a_file_as_root, flood_to_a_file_as_user;
    stdin_is_empty_unless_asked_for: stdin_is_empty_as_root, stdin_is_empty_as_user;
    closed_stdout: closed_stdout_as_root, closed_stdout_as_user;
    three_descriptors: three_descriptors_as_root, three_descriptors_as_user;
}

fn kept_apart(scene: &Scene) {
    let done = scene.sh(&[], "echo out; echo err >&2; echo out2; printf end; printf err2 >&2").expect(0);
    assert_eq!((done.text().as_str(), done.stderr.as_str()), ("out\nout2\nend", "err\nerr2"));
}

fn byte_exact(scene: &Scene) {
    let every: Vec<u8> = (0..=255u8).cycle().take(70_000).collect();
    scene.write("bytes", &every);
    assert_eq!(scene.run(&["--input", "bytes"], &["cat", "bytes"]).silent().stdout, every);
}

fn flood_to_a_file(scene: &Scene) {
    let path = scene.dir().join("flood");
    let mut command = scene.run_command(&[], &["head", "-c", &FLOOD_BYTES.to_string(), "/dev/zero"]);
    command.stdout(File::create(&path).unwrap());
    scene.finish(command.spawn().unwrap()).silent();
    let mut file = File::open(&path).unwrap();
    let (mut buffer, mut total) = (vec![0u8; 1 << 20], 0);
    while let count @ 1.. = file.read(&mut buffer).unwrap() {
        assert!(buffer[..count].iter().all(|byte| *byte == 0));
        total += count as u64;
    }
    assert_eq!(total, FLOOD_BYTES);
}

fn stdin_is_empty_unless_asked_for(scene: &Scene) {
    let command = scene.run_command(&[], &["/bin/cat"]);
    assert_eq!(scene.run_with_input(command, b"secret").silent().text(), "");
    let command = scene.run_command(&["--stdin"], &["/bin/cat"]);
    assert_eq!(scene.run_with_input(command, b"a\0b\n\xff").silent().stdout, b"a\0b\n\xff");
}

fn closed_stdout(scene: &Scene) {
    // A closed descriptor must not be filled by one of ours.
    let program = scene.program();
    for closed in [">&-", "2>&-", "<&-", "<&- >&- 2>&-"] {
        let script = format!("exec \"$0\" run --output out -- /bin/sh -c 'echo x; echo made > out' {closed}");
        let mut command = scene.command("/bin/sh");
        command.arg("-c").arg(script).arg(&program);
        let done = scene.finish(command.spawn().unwrap());
        // To write to a descriptor that is closed may fail the command; that is its own affair.
        assert!([0, 1, 2, 125].contains(&done.code()), "{closed}: {done:?}");
        assert!(done.code() != 125 || done.stderr.lines().count() <= 1, "{closed}: {done:?}");
        assert!(done.code() != 0 || scene.read("out") == "made\n", "{closed}: {done:?}");
        let _ = std::fs::remove_file(scene.root().join("out"));
    }
}

fn three_descriptors(scene: &Scene) {
    let done = scene.run(&[], &["/bin/ls", "/proc/self/fd"]).silent();
    // The fourth is that of the listing itself.
    assert_eq!(done.text(), "0\n1\n2\n3\n");
}
