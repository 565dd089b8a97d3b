//! Outputs that an action shapes to mislead whoever collects them: what is collected is what was there when all was
//! quiet, no byte of the host, and the same at a second look.

use crate::Shared;
use crate::action::Order;
use crate::client::{Client, code};
use crate::daemon::{Home, pids_with};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use tonic::Code;

pub const SHARED: &[Shared] = &[
    ("planting::o01_symlinks_to_the_host", symlinks),
    ("planting::o02_an_output_directory_that_is_exchanged", exchanged),
    ("planting::o03_special_files", special_files),
    ("planting::o04_odd_names", odd_names),
    ("planting::o06_sparse_files", sparse),
    ("planting::o08_a_descendant_that_goes_on_writing", goes_on),
    ("planting::o10_hard_to_collect_or_remove", hard),
    ("planting::o11_descriptors_handed_outside", handed_outside),
    ("planting::o13_outputs_of_another_kind", other_kinds),
];

/// Whether scripts for Python can run; says so if not.
fn has_python(name: &str) -> bool {
    let found = Path::new("/usr/bin/python3").exists();
    if !found {
        crate::skip(&format!("planting::{name}"), "there is no /usr/bin/python3");
    }
    found
}

fn symlinks(client: &Client, home: &Home) {
    let host = home.path("secret");
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("canary"), "o01: of the host").unwrap();
    let host = host.display();
    let script = format!(
        "ln -s {host} dir; ln -s {host}/canary file; ln -s ../../../../../../../..{host}/canary up
         ln -s /proc/self/environ magic; ln -s loop loop; ln -s /dev/zero zero; ln -s /proc/1/root root
         mkdir tree; ln -s {host} tree/in; ln -s /etc tree/etc"
    );
    let names = ["dir", "file", "loop", "magic", "root", "up", "zero"];
    let result = client.succeed(&Order::sh(&script).outputs(&[&names[..], &["tree"]].concat()));
    let links: Vec<&str> = result.output_symlinks.iter().map(|link| link.path.as_str()).collect();
    assert_eq!(links, names);
    assert_eq!(result.output_symlinks[0].target, host.to_string());
    assert_eq!(result.output_symlinks[3].target, "/proc/self/environ");
    assert!(result.output_files.is_empty());
    let tree = client.tree(&result, "tree");
    assert_eq!((tree.len(), tree[0].symlinks.len(), tree[0].files.len()), (1, 2, 0));
    assert!(
        !client.missing(&[crate::client::named(b"o01: of the host")]).is_empty(),
        "a byte of the host was read"
    );
    // A path through one of them.
    for (target, path) in [(host.to_string(), "way/canary"), ("/etc".to_owned(), "way/passwd")] {
        let order = Order::sh(&format!("rmdir way && ln -s {target} way")).outputs(&[path]);
        let response = client.run(&order);
        assert_eq!(code(response.status.as_ref()), Code::FailedPrecondition, "{response:?}");
        assert!(response.result.unwrap_or_default().output_files.is_empty());
    }
}

fn exchanged(client: &Client, home: &Home) {
    if !has_python("exchanged") {
        return;
    }
    let host = home.path("exchanged");
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("honest"), "o02: of the host").unwrap();
    let script = format!(
        "import os, ctypes
os.mkdir('out'); open('out/honest', 'w').write('honest')
os.symlink('{host}', 'trap')
libc = ctypes.CDLL(None, use_errno=True)
turn = lambda: libc.renameat2(-100, b'out', -100, b'trap', 2)
assert turn() == 0 and turn() == 0
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        while True: turn()
for _ in range(1000): turn()
",
        host = host.display()
    );
    for _ in 0..10 {
        let order = Order::python(&script).outputs(&["out"]);
        let result = client.succeed(&order);
        assert_eq!(pids_with(order.word()), Vec::<u32>::new());
        match (result.output_directories.len(), result.output_symlinks.len()) {
            (1, 0) => {
                let tree = client.tree(&result, "out");
                assert_eq!(tree[0].files.len(), 1, "{tree:?}");
                assert_eq!(client.read(tree[0].files[0].digest.as_ref().unwrap()), b"honest");
            }
            (0, 1) => assert_eq!(result.output_symlinks[0].target, host.display().to_string()),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        !client.missing(&[crate::client::named(b"o02: of the host")]).is_empty(),
        "a byte of the host was read"
    );
}

fn special_files(client: &Client, _: &Home) {
    for make in ["mkfifo out", "mkdir out && mkfifo out/pipe"] {
        let response = client.run(&Order::sh(make).outputs(&["out"]));
        assert_eq!(code(response.status.as_ref()), Code::FailedPrecondition, "{make}: {response:?}");
        assert!(response.message.contains("out"), "{}", response.message);
    }
    // What is not declared does not matter.
    client.succeed(&Order::sh("mkfifo pipe; ln -s pipe out").outputs(&["out"]));
}

fn odd_names(client: &Client, _: &Home) {
    let names = [
        " blank ",
        "-rf",
        "...",
        "a\nb",
        "a\tb",
        "a\\b",
        "a%2fb",
        "$(id)",
        "nul.",
        ".wh.x",
        "CON",
        "a",
        "A",
        "\u{202e}",
        "e\u{301}",
        "\u{e9}",
        "\u{1b}[31m",
    ];
    let long = "n".repeat(255);
    let mut order =
        Order::of(&["/bin/sh", "-c", "mkdir out && cd out && for f; do printf '%s' \"$f\" > \"./$f\"; done"]);
    order.command.arguments.push("sh".to_owned());
    order.command.arguments.extend(names.iter().map(|name| (*name).to_owned()).chain([long.clone()]));
    let result = client.succeed(&order.clone().outputs(&["out"]));
    let tree = client.tree(&result, "out");
    let mut expected: Vec<&str> = names.iter().copied().chain([long.as_str()]).collect();
    expected.sort_unstable();
    let found: Vec<&str> = tree[0].files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(found, expected);
    for file in &tree[0].files {
        assert_eq!(client.read(file.digest.as_ref().unwrap()), file.name.as_bytes());
    }
    // What no message of the protocol can hold is refused as a whole.
    let response = client
        .run(&Order::sh("mkdir out && : > \"out/$(printf '\\377')\" && : > out/fine").outputs(&["out"]));
    assert_eq!(code(response.status.as_ref()), Code::FailedPrecondition, "{response:?}");
}

fn sparse(client: &Client, _: &Home) {
    let response =
        client.run(&Order::sh("truncate -s 1T out && truncate -s 1T other").outputs(&["other", "out"]));
    assert_ne!(code(response.status.as_ref()), Code::Ok, "{response:?}");
    assert!(!response.message.is_empty());
}

fn goes_on(client: &Client, _: &Home) {
    if !has_python("goes_on") {
        return;
    }
    let script = "import mmap, os, signal
def fresh(name, size):
    f = open(name, 'w+b'); f.write(b'a' * size); f.flush(); return f
mapped, written, ready = fresh('mapped', 65536), fresh('written', 10), os.pipe()
if os.fork() == 0:
    os.setsid()
    for number in range(1, 32):
        if number not in (9, 19, 32, 33): signal.signal(number, signal.SIG_IGN)
    memory, count = mmap.mmap(mapped.fileno(), 65536), 0
    while True:
        count += 1
        memory[count % 65536] = count % 256
        os.write(written.fileno(), b'x')
        if count == 1000: os.write(ready[1], b'!')
        if count > 1000: open('late%d' % (count % 3), 'w').write('late')
os.read(ready[0], 1)
print('over')
";
    for _ in 0..3 {
        let order = Order::python(script).outputs(&["mapped", "written"]);
        let result = client.succeed(&order);
        assert_eq!(pids_with(order.word()), Vec::<u32>::new());
        // Whole, and the same at a second look: `read` compares with the name.
        for _ in 0..2 {
            assert_eq!(client.output(&result, "mapped").len(), 65536);
            assert!(client.output(&result, "written").starts_with(&[b'a'; 10]));
        }
    }
}

fn hard(client: &Client, home: &Home) {
    let script = "mkdir -p out/closed out/readonly keep
         echo x > out/closed/f; echo y > out/readonly/f; echo z > out/dark
         chmod 000 out/dark out/closed; chmod 555 out/readonly; chmod 6755 out/readonly/f
         chattr +i out/dark 2>/dev/null; touch -d @-2000000000 out/readonly/f; touch -d @9000000000 out
         d=keep; for i in 1 2 3 4 5 6 7 8 9; do d=$d/$i; mkdir $d; done; chmod 000 keep/1";
    let order = Order::sh(script).outputs(&["out"]);
    let result = client.succeed(&order);
    let tree = client.tree(&result, "out");
    assert_eq!(tree[0].files.len(), 1);
    assert_eq!(client.read(tree[0].files[0].digest.as_ref().unwrap()), b"z\n");
    assert_eq!(tree[0].directories.len(), 2);
    client.check_complete(&result);
    home.check_blobs();
}

fn handed_outside(client: &Client, home: &Home) {
    if !has_python("handed_outside") {
        return;
    }
    let path = home.path("listener");
    let by_path = UnixListener::bind(&path).unwrap();
    let name = format!("fulgurite-o11-{}", std::process::id());
    let by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let script = format!(
        "import os, socket
out = open('out', 'w'); out.write('honest'); out.flush()
fds = [out.fileno(), os.open('.', os.O_RDONLY), os.open('/', os.O_RDONLY)]
for address in ['{path}', '\\0{name}', '/proc/1/root{path}', '/proc/self/root{path}']:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(address); socket.send_fds(s, [b'x'], fds); print('SENT', address)
    except OSError as e:
        print('refused', e.errno)
",
        path = path.display()
    );
    let result = client.succeed(&Order::python(&script).outputs(&["out"]));
    let said = client.stdout(&result);
    assert_eq!(said.matches("refused").count(), 4, "{said}");
    for listener in [by_path, by_name] {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    assert_eq!(client.output(&result, "out"), b"honest");
}

#[allow(deprecated, reason = "what older clients send")]
fn other_kinds(client: &Client, _: &Home) {
    // Missing, and below a file: left out.
    let result =
        client.succeed(&Order::sh("rmdir file && echo x > file").outputs(&["file", "file/below", "missing"]));
    assert_eq!((result.output_files.len(), result.output_directories.len()), (1, 0));
    assert_eq!(client.output(&result, "file"), b"x\n");
    let mut directory = Order::sh("mkdir out");
    directory.command.output_files = vec!["out".to_owned()];
    let mut file = Order::sh("rmdir out 2>/dev/null; echo x > out");
    file.command.output_directories = vec!["out".to_owned()];
    for order in [directory, file] {
        let response = client.run(&order);
        assert_eq!(code(response.status.as_ref()), Code::FailedPrecondition, "{response:?}");
        assert!(response.message.contains("out"), "{}", response.message);
    }
}
