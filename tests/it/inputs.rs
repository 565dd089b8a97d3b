//! What the command sees: declared inputs and nothing else, or the whole exec root, which it cannot change.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::scene::{Scene, skip};

both! {
    compiles: compiles_as_root, compiles_as_user;
    shows_only_inputs: shows_only_inputs_as_root, shows_only_inputs_as_user;
    directory_input: directory_input_as_root, directory_input_as_user;
    inputs_from_a_file: inputs_from_a_file_as_root, inputs_from_a_file_as_user;
    inputs_from_stdin: inputs_from_stdin_as_root, inputs_from_stdin_as_user;
    inputs_with_nul: inputs_with_nul_as_root, inputs_with_nul_as_user;
    other_destination: other_destination_as_root, other_destination_as_user;
    whole_exec_root: whole_exec_root_as_root, whole_exec_root_as_user;
    inputs_are_private: inputs_are_private_as_root, inputs_are_private_as_user;
    private_files_are_readable: private_files_are_readable_as_root, private_files_are_readable_as_user;
    never_old_contents: never_old_contents_as_root, never_old_contents_as_user;
    symlinks_resolve_as_outside: symlinks_resolve_as_outside_as_root, symlinks_resolve_as_outside_as_user;
    odd_names: odd_names_as_root, odd_names_as_user;
}

fn compiles(scene: &Scene) {
    if !std::path::Path::new("/usr/bin/cc").exists() {
        return skip("", "there is no /usr/bin/cc");
    }
    scene.write("answer.h", "#define ANSWER 42\n");
    scene.write("main.c", "#include \"answer.h\"\nint main(void) { return ANSWER; }\n");
    let options = ["--input", "main.c", "--input", "answer.h", "--output", "main"];
    scene.run(&options, &["cc", "-o", "main", "main.c"]).silent();
    let answer = scene.command(scene.root().join("main")).status().unwrap();
    assert_eq!(answer.code(), Some(42));
}

fn shows_only_inputs(scene: &Scene) {
    scene.write("seen", "yes\n");
    scene.write("sub/hidden", "no\n");
    let done = scene.sh(&["--input", "seen"], "cat seen; cat sub/hidden; ls -A");
    let done = done.expect(0);
    assert_eq!(done.text(), "yes\nseen\n");
    assert!(done.stderr.contains("No such file") && done.stderr.lines().count() == 1, "{}", done.stderr);
}

fn directory_input(scene: &Scene) {
    scene.write("tree/a", "A");
    scene.write("tree/deep/er/b", "B");
    scene.make_dir("tree/empty");
    std::os::unix::fs::symlink("deep/er/b", scene.path("tree/link")).unwrap();
    scene.write("beside", "C");
    let done = scene.sh(&["--input", "tree"], "find . | sort; cat tree/a tree/deep/er/b tree/link");
    let expected =
        ".\n./tree\n./tree/a\n./tree/deep\n./tree/deep/er\n./tree/deep/er/b\n./tree/empty\n./tree/link\nABB";
    assert_eq!(done.silent().text(), expected);
}

fn inputs_from_a_file(scene: &Scene) {
    scene.write("a", "A");
    scene.write("d/b", "B");
    let list = scene.write("../list", "a\n\nd/b\n");
    let done = scene.sh(&["--inputs-from", list.to_str().unwrap()], "cat a d/b; ls");
    assert_eq!(done.silent().text(), "ABa\nd\n");
}

fn inputs_from_stdin(scene: &Scene) {
    scene.write("a", "A");
    scene.write("b", "B");
    let command = scene.run_command(&["--inputs-from", "-", "--input", "b"], &["/bin/ls"]);
    assert_eq!(scene.run_with_input(command, b"a\n").silent().text(), "a\nb\n");
}

fn inputs_with_nul(scene: &Scene) {
    scene.write("a\nb", "A");
    scene.write("c", "C");
    let command = scene.run_command(&["--inputs-from", "-"], &["/bin/sh", "-c", "cat 'a\nb' c"]);
    assert_eq!(scene.run_with_input(command, b"a\nb\0c\0").silent().text(), "AC");
}

fn other_destination(scene: &Scene) {
    scene.write("from", "F");
    let outside = scene.write("../outside", "O").canonicalize().unwrap();
    let absolute = format!("{}=deep/placed", outside.display());
    let done = scene.sh(&["--input", "from=to/here", "--input", &absolute], "cat to/here deep/placed; ls");
    assert_eq!(done.silent().text(), "FOdeep\nto\n");
}

fn whole_exec_root(scene: &Scene) {
    scene.write("old", "old");
    scene.write("gone", "still there");
    scene.write("dir/inner", "inner");
    let script = "cat old dir/inner && echo new > old && echo x > fresh && rm gone && mv dir moved && ls";
    assert_eq!(scene.sh(&[], script).silent().text(), "oldinnerfresh\nmoved\nold\n");
    assert_eq!(scene.names("."), ["dir", "gone", "old"]);
    assert_eq!((scene.read("old"), scene.read("gone")), ("old".to_owned(), "still there".to_owned()));
    assert_eq!(scene.read("dir/inner"), "inner");
}

fn inputs_are_private(scene: &Scene) {
    let path = scene.write("input", "original");
    let before = std::fs::metadata(&path).unwrap();
    let script = "echo changed > input && chmod 777 input && cat input && ln input other && rm input";
    assert_eq!(scene.sh(&["--input", "input"], script).silent().text(), "changed\n");
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!(scene.read("input"), "original");
    let facts = |meta: &std::fs::Metadata| (meta.mode(), meta.nlink(), meta.uid(), meta.ino(), meta.mtime());
    assert_eq!(facts(&before), facts(&after));
}

/// What the caller can read, the command can: it acts for the caller.
fn private_files_are_readable(scene: &Scene) {
    let path = scene.write("key", "key");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(scene.sh(&[], "cat key").silent().text(), "key");
    assert_eq!(scene.sh(&["--input", "key"], "cat key").silent().text(), "key");
}

fn never_old_contents(scene: &Scene) {
    for text in ["first", "other", "third"] {
        scene.write("input", text);
        assert_eq!(scene.sh(&["--input", "input"], "cat input; echo stale > input").silent().text(), text);
    }
}

fn symlinks_resolve_as_outside(scene: &Scene) {
    scene.write("real/file", "R");
    std::os::unix::fs::symlink("real", scene.path("alias")).unwrap();
    std::os::unix::fs::symlink("../alias/file", scene.path("real/back")).unwrap();
    let done = scene.sh(&["--input", "real", "--input", "alias"], "cat alias/back real/back alias/file");
    assert_eq!(done.silent().text(), "RRR");
    std::os::unix::fs::symlink("loop-b", scene.path("loop-a")).unwrap();
    std::os::unix::fs::symlink("loop-a", scene.path("loop-b")).unwrap();
    let done = scene.sh(&["--input", "loop-a", "--input", "loop-b"], "cat loop-a").expect(1);
    assert!(done.stderr.contains("loop-a"), "{}", done.stderr);
}

fn odd_names(scene: &Scene) {
    for name in ["-rf", " spaced ", "quo'te", "a=b", "\u{fc}\u{2603}"] {
        scene.write(name, "x");
    }
    let inputs =
        ["--input=-rf", "--input= spaced ", "--input=quo'te", "--input=a\\=b", "--input=\u{fc}\u{2603}"];
    let done = scene.sh(&inputs, "ls -A | wc -l; cp -- 'a=b' 'o ut'");
    assert_eq!(done.silent().text(), "5\n");
    scene.sh(&["--output", "o ut", "--input=-rf"], "cp -- -rf 'o ut'").silent();
    assert_eq!(scene.read("o ut"), "x");
}
