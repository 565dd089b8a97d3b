//! Files that resist: written to by somebody else, linked elsewhere, too large, too deep, too many, badly named.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use super::{HandoffError, Scene, sha};
use crate::action::{DigestFunction, Handoff};
use crate::cas::Cas;
use crate::output::limits::HandoffLimits;
use crate::stage::remove_tree;
use crate::stage::tests::{chain, open};

#[test]
fn o04_names_are_kept_to_the_byte_or_the_action_is_refused() {
    let scene = Scene::new();
    let long = "n".repeat(255);
    let names = [
        "new\nline",
        "tab\t",
        "\u{1b}[31m",
        "-rf",
        " blank ",
        "...",
        "back\\slash",
        "%2e%2e",
        "$(id);*?",
        "\u{202e}bidi",
        "e\u{301}",
        "\u{e9}",
        "Case",
        "case",
        "CON",
        ".wh.f",
        ".wh..wh..opq",
        &long,
    ];
    for name in names {
        scene.write(&[(&format!("d/{name}"), name)]);
    }
    let done = scene.hand_off(&["d"]).unwrap();
    let mut expected: Vec<String> = names.iter().map(|name| format!("{name} = {name}")).collect();
    expected.sort();
    assert_eq!(scene.listing(&done.directories[0]), expected);
    fs::write(scene.upper.join(OsStr::from_bytes(b"d/\xff\x1b")), "").unwrap();
    scene.refused(&["d"], r#""d/\xFF\u{1b}": its name is not UTF-8"#);
    let scene = Scene::new();
    fs::create_dir_all(scene.upper.join(OsStr::from_bytes(b"d/\xffdir"))).unwrap();
    scene.refused(&["d"], "its name is not UTF-8");
    let scene = Scene::new();
    symlink(OsStr::from_bytes(b"\xff"), scene.upper.join("l")).unwrap();
    scene.refused(&["l"], "what it says is not UTF-8");
}

#[test]
fn o05_depth_and_width_are_done_or_refused_by_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // A descriptor a level; the program raises its limit as well.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    if maximum.is_some_and(|maximum| maximum < 8000) {
        eprintln!("SKIP o05_depth_and_width_are_done_or_refused_by_limit: only {maximum:?} descriptors");
        return;
    }
    let mut scene = Scene::in_memory();
    chain(open(&scene.upper).as_fd(), 6000);
    let done = scene.hand_off(&["d"]).unwrap();
    // The file at its end is empty, and that blob is always there.
    assert_eq!((scene.tree(&done.directories[0]).len(), done.handoff.known), (6000, 1));
    scene.limits = HandoffLimits { depth_max: 1000, ..HandoffLimits::DEFAULT };
    scene.refused(&["d"], "more than 1000 levels of directories");
    scene.limits = HandoffLimits { entries_max: 1000, ..HandoffLimits::DEFAULT };
    scene.refused(&["d"], "more than 1000 entries");
    remove_tree(open(scene.temp.path()).as_fd(), c"upper", u64::MAX).unwrap();
    let mut scene = Scene::new();
    for number in 0..60 {
        symlink(format!("l{}", number + 1), scene.upper.join(format!("l{number}"))).unwrap();
    }
    assert_eq!(scene.hand_off(&["l0"]).unwrap().symlinks[0].target, "l1");
    scene.limits = HandoffLimits { message_bytes_max: 100, ..HandoffLimits::DEFAULT };
    scene.refused(&[""], "more than 100 bytes of directories");
    // Outputs that overlap are counted as often as they are told.
    scene.limits = HandoffLimits::DEFAULT;
    let unlimited = scene.hand_off(&[""]).unwrap();
    let whole: u64 = scene.tree(&unlimited.directories[0])[0].len() as u64;
    scene.limits = HandoffLimits { message_bytes_max: whole, ..HandoffLimits::DEFAULT };
    assert!(scene.hand_off(&[""]).is_ok());
    scene.refused(&["", ""], "bytes of directories");
    scene.limits = HandoffLimits { entries_max: 60, ..HandoffLimits::DEFAULT };
    scene.refused(&[""], "more than 60 entries");
}

/// O05, O15: many files, by all threads, with the same answer whatever the order.
#[test]
fn o15_ten_thousand_files_in_one_directory() {
    let scene = Scene::in_memory();
    fs::create_dir(scene.upper.join("d")).unwrap();
    for number in 0..10_000 {
        fs::write(scene.upper.join(format!("d/f{number}")), format!("content {}", number / 2)).unwrap();
    }
    let done = scene.hand_off(&["d", "d/f77"]).unwrap();
    assert_eq!((done.handoff.renamed, done.handoff.known, done.handoff.copied), (5000, 5000, 0));
    assert_eq!(done.files[0].digest, sha(b"content 38"));
    let root = crate::action::decode::directory(super::SHA, &scene.tree(&done.directories[0])[0]).unwrap();
    assert_eq!(root.files.len(), 10_000);
    assert!(root.files.windows(2).all(|pair| pair[0].name < pair[1].name));
    assert!(root.files.iter().all(|file| scene.cas.contains(&file.digest)));
}

#[test]
fn o06_a_sparse_terabyte_is_refused_before_it_is_read() {
    let scene = Scene::new();
    let file = fs::File::create(scene.upper.join("huge")).unwrap();
    file.write_all_at(b"end", 1 << 40).unwrap();
    drop(file);
    scene.refused(&["huge"], "more than 68719476736 bytes");
    assert!(scene.upper.join("huge").exists());
}

#[test]
fn o06_a_sparse_gigabyte_stays_sparse() {
    let scene = Scene::new();
    let file = fs::File::create(scene.upper.join("sparse")).unwrap();
    file.write_all_at(b"end", (1 << 30) - 3).unwrap();
    drop(file);
    // BLAKE3: in a build without optimization SHA-256 of a gigabyte takes a minute.
    let upper = open(&scene.upper);
    let done = super::hand_off(&super::HandoffRequest {
        upper: upper.as_fd(),
        merged: None,
        command: &super::command(&["sparse"], crate::action::OutputKind::Any),
        inputs: &scene.inputs,
        marks: scene.marks,
        function: DigestFunction::Blake3,
        cas: &scene.cas,
        limits: scene.limits,
    })
    .unwrap();
    assert_eq!(done.handoff, Handoff { renamed: 1, ..Handoff::default() });
    let blob = scene.temp.path().join("store/objects").join(Cas::object_path(&done.files[0].digest));
    let stat = fs::metadata(blob).unwrap();
    assert_eq!(stat.len(), 1 << 30);
    assert!(stat.blocks() * 512 < 1 << 20, "{} blocks", stat.blocks());
}

#[test]
fn o07_linked_files_are_copied_and_no_set_id_bit_is_left() {
    let scene = Scene::new();
    scene.write(&[("a", "shared"), ("tool", "tool")]);
    fs::hard_link(scene.upper.join("a"), scene.upper.join("b")).unwrap();
    fs::hard_link(scene.upper.join("a"), scene.temp.path().join("elsewhere")).unwrap();
    fs::set_permissions(scene.upper.join("a"), fs::Permissions::from_mode(0o6777)).unwrap();
    fs::set_permissions(scene.upper.join("tool"), fs::Permissions::from_mode(0o4711)).unwrap();
    let done = scene.hand_off(&["a", "b", "tool"]).unwrap();
    assert_eq!((done.handoff.renamed, done.handoff.copied), (1, 2));
    for (file, content) in done.files.iter().zip([&b"shared"[..], b"shared", b"tool"]) {
        assert!(file.executable);
        assert_eq!(scene.blob(&file.digest), content);
        let blob = scene.temp.path().join("store/objects").join(Cas::object_path(&file.digest));
        let stat = fs::metadata(blob).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.nlink()), (0o444, 1));
    }
    // Writing through the link that is left changes nothing in the store.
    fs::write(scene.temp.path().join("elsewhere"), "poison").unwrap();
    assert_eq!(scene.blob(&done.files[0].digest), b"shared");
    assert_eq!(scene.upper.read_dir().unwrap().count(), 2, "no copy is left in the layer");
}

/// O08, O11, O16: whoever can still write to an output does not reach what is in the store.
#[test]
fn o16_what_somebody_can_write_to_is_copied() {
    let scene = Scene::new();
    scene.write(&[("open", "before"), ("both", "before"), ("closed", "closed")]);
    let mut open = fs::File::options().append(true).open(scene.upper.join("open")).unwrap();
    let both = fs::File::options().read(true).write(true).open(scene.upper.join("both")).unwrap();
    let done = scene.hand_off(&["open", "both", "closed"]).unwrap();
    assert_eq!((done.handoff.renamed, done.handoff.copied), (1, 2));
    open.write_all(b" after").unwrap();
    both.write_all_at(b"after!", 0).unwrap();
    for file in done.files.iter().filter(|file| file.path != "closed") {
        assert_eq!((file.digest, scene.blob(&file.digest)), (sha(b"before"), b"before".to_vec()));
    }
    assert_eq!(fs::read(scene.upper.join("open")).unwrap(), b"before after");
}

/// O17: two actions with the same output at once; all files twice, by as many threads as there are.
#[test]
fn o17_the_same_outputs_at_once_are_one_blob() {
    let (one, other) = (Scene::new(), Scene::new());
    for scene in [&one, &other] {
        for number in 0..50 {
            scene.write(&[(&format!("d/f{number}"), &"x".repeat(number * 1000 + 1))]);
        }
    }
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| one.hand_off(&["d"]).unwrap());
        let (upper, command) = (open(&other.upper), super::command(&["d"], crate::action::OutputKind::Any));
        let second = super::hand_off(&super::HandoffRequest {
            upper: upper.as_fd(),
            merged: None,
            command: &command,
            inputs: &other.inputs,
            marks: other.marks,
            function: super::SHA,
            cas: &one.cas,
            limits: other.limits,
        });
        (first.join().unwrap(), second.unwrap())
    });
    assert_eq!(first.directories, second.directories);
    assert_eq!(first.handoff.renamed + second.handoff.renamed, 50);
    assert_eq!(first.handoff.known + second.handoff.known, 50);
}

/// O20: nothing but the owner's executable bit means anything.
#[test]
fn o20_modes_mean_one_bit() {
    let scene = Scene::new();
    for (name, mode, executable) in [
        ("a", 0o000, false),
        ("b", 0o444, false),
        ("c", 0o011, false),
        ("d", 0o100, true),
        ("e", 0o755, true),
    ] {
        scene.write(&[(name, name)]);
        fs::set_permissions(scene.upper.join(name), fs::Permissions::from_mode(mode)).unwrap();
        let file = &scene.hand_off(&[name]).unwrap().files[0];
        assert_eq!((file.executable, scene.blob(&file.digest)), (executable, name.as_bytes().to_vec()));
    }
}

#[test]
fn o10_directories_without_permissions_are_walked() {
    let scene = Scene::new();
    scene.write(&[("d/deep/f", "f")]);
    for path in ["d/deep/f", "d/deep", "d"] {
        fs::set_permissions(scene.upper.join(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let done = scene.hand_off(&["d"]).unwrap();
    assert_eq!(scene.listing(&done.directories[0]), ["deep/", "deep/f = f"]);
}

#[test]
fn an_input_directory_that_is_not_known_is_our_failure() {
    let mut scene = Scene::new();
    fs::create_dir_all(scene.lower.join("in/sub")).unwrap();
    scene.inputs = super::Tree::of(&scene.lower);
    let root = scene.inputs.root;
    scene.inputs.known.retain(|digest, _| Some(*digest) == root);
    let error = scene.hand_off(&["in"]).unwrap_err();
    assert!(matches!(error, HandoffError::UnknownInput { .. }) && !error.is_the_actions());
}
