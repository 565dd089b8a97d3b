//! Splitting and expanding, by Bazel's rules.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn expand_in(files: &[(&str, &[u8])], arguments: &[&str]) -> Result<Vec<String>, ArgumentsError> {
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    expand(&strings(arguments), &mut |name| {
        files.get(name).map(|bytes| bytes.to_vec()).ok_or(ExpandError::NotDeclared)
    })
}

#[test]
fn splits_every_spelling_in_order() {
    let line = strings(&[
        "tool",
        "@f",
        "-x",
        "--flagfile=g",
        "-flagfile=h",
        "@@x",
        "@r//p:n",
        "flagfile=i",
        "---flagfile=j",
        "@",
        "--flagfile=",
        "@a\nb",
        "@a\u{2028}",
    ]);
    let split = split(&line, Mode::Legacy).unwrap();
    assert_eq!(split.flag_files, strings(&["@f", "--flagfile=g", "-flagfile=h", "@@x", "@r//p:n"]));
    let startup = ["tool", "-x", "flagfile=i", "---flagfile=j", "@", "--flagfile=", "@a\nb", "@a\u{2028}"];
    assert_eq!(split.startup, strings(&startup));
}

#[test]
fn strict_mode_takes_one_at_the_end() {
    let check = |line: &[&str], expected: Result<&[&str], ArgumentsError>| {
        let found = split(&strings(line), Mode::Strict).map(|split| split.startup);
        assert_eq!(found, expected.map(strings), "{line:?}");
    };
    check(&["tool", "@f"], Ok(&["tool"]));
    check(&["tool", "@@x", "-flagfile=f"], Ok(&["tool", "@@x"]));
    check(&["tool"], Err(ArgumentsError::NoFlagFile));
    check(&["tool", "@@x"], Err(ArgumentsError::NoFlagFile));
    check(&["tool", "@f", "-x"], Err(ArgumentsError::FlagFileNotLast));
    check(&["tool", "@f", "@@x"], Err(ArgumentsError::FlagFileNotLast));
    check(&["tool", "@f", "--flagfile=g"], Err(ArgumentsError::FlagFileBeforeEnd));
    check(&["@f"], Err(ArgumentsError::NoStartup));
}

#[test]
fn says_what_bazel_says() {
    let no_flag_file = split(&strings(&["tool"]), Mode::Legacy).unwrap_err();
    assert_eq!(
        no_flag_file.for_action("Javac"),
        "Worker strategy cannot execute this Javac action, because the command-line arguments do not contain \
         exactly one @flagfile or --flagfile="
    );
    let undeclared = expand_in(&[], &["@gone"]).unwrap_err();
    assert_eq!(
        undeclared.for_action("Javac"),
        "Failed to read @-argument 'gone': file is not a declared input"
    );
    let unreadable = ExpandError::Unreadable { file: "/x/f".to_owned(), why: "no such file".to_owned() };
    let error = expand(&strings(&["@f"]), &mut |_| Err(unreadable.clone())).unwrap_err();
    assert_eq!(error.to_string(), "Failed to read @-argument 'f' from file '/x/f'.: no such file");
}

#[test]
fn expands_at_files_alone() {
    let files: &[(&str, &[u8])] = &[
        ("f", b"-a\n@g\n@@x\n@r//p:n\n--flagfile=g\n\nb c \n"),
        ("g", b"1\r\n2\r3"),
        ("empty", b""),
        ("blank", b"\n"),
    ];
    let check = |arguments: &[&str], expected: &[&str]| {
        assert_eq!(expand_in(files, arguments), Ok(strings(expected)), "{arguments:?}");
    };
    check(&["@f"], &["-a", "1", "2", "3", "@@x", "@r//p:n", "--flagfile=g", "", "b c "]);
    check(
        &["--flagfile=f", "-flagfile=f", "@@f", "@//f", "f"],
        &["--flagfile=f", "-flagfile=f", "@@f", "@//f", "f"],
    );
    check(&["@g", "@g"], &["1", "2", "3", "1", "2", "3"]);
    check(&["@empty"], &[]);
    check(&["@blank"], &[""]);
}

#[test]
fn refuses_what_does_not_end() {
    let cycle = expand_in(&[("a", b"@b"), ("b", b"x\n@c"), ("c", b"@b")], &["@a"]).unwrap_err();
    let chain = strings(&["b", "c", "b"]);
    assert_eq!(cycle, ArgumentsError::Cycle { argument: "b".to_owned(), chain });
    assert!(cycle.to_string().ends_with("it includes itself: b -> c -> b"));

    // Another name every time: no cycle that could be seen.
    let deeper = expand(&strings(&["@f"]), &mut |name| Ok(format!("@./{name}").into_bytes())).unwrap_err();
    assert!(matches!(deeper, ArgumentsError::TooLarge { depth, .. } if depth == EXPANSION_DEPTH_MAX + 1));
    assert!(deeper.to_string().contains("33 of at most 32 files deep"), "{deeper}");
    assert!(deeper.to_string().contains("of at most 67108864 bytes"), "{deeper}");

    // Two of the next in each: 2^30 files.
    let wide = expand(&strings(&["@0"]), &mut |name| {
        let next = name.parse::<u32>().unwrap() + 1;
        Ok(if next > 30 { Vec::new() } else { format!("@{next}\n@{next}").into_bytes() })
    });
    assert!(matches!(wide, Err(ArgumentsError::TooLarge { files, .. }) if files == EXPANSION_FILES_MAX + 1));
}

#[test]
fn refuses_what_is_too_large() {
    let large = expand(&strings(&["@f"]), &mut |_| Ok(vec![b'a'; EXPANSION_BYTES_MAX + 1]));
    assert!(matches!(large, Err(ArgumentsError::TooLarge { bytes, .. }) if bytes > EXPANSION_BYTES_MAX));
    let many = expand(&strings(&["@f"]), &mut |_| Ok(vec![b'\n'; EXPANSION_ARGUMENTS_MAX + 1]));
    assert!(
        matches!(many, Err(ArgumentsError::TooLarge { arguments, .. }) if arguments > EXPANSION_ARGUMENTS_MAX)
    );
    let long = format!("@{}", "n".repeat(1 << 20));
    assert!(expand_in(&[], &[&long]).unwrap_err().to_string().len() < 1000);
}

#[test]
fn refuses_what_is_no_text() {
    let error = expand_in(&[("f", b"ab\xffc")], &["@f"]).unwrap_err();
    assert!(error.to_string().ends_with("it is no UTF-8 at byte 2"), "{error}");
}

proptest! {
    #[test]
    fn nothing_is_lost_or_moved(line in prop::collection::vec("(@|@@|-?-flagfile=)?[a-c/]{0,3}", 0..12)) {
        for mode in [Mode::Legacy, Mode::Strict] {
            let Ok(split) = split(&line, mode) else { continue };
            let mut startup = split.startup.iter().peekable();
            let mut flag_files = split.flag_files.iter().peekable();
            for argument in &line {
                let from = if startup.peek() == Some(&argument) { &mut startup } else { &mut flag_files };
                prop_assert_eq!(from.next(), Some(argument));
            }
            prop_assert_eq!(startup.next(), None);
            prop_assert_eq!(flag_files.next(), None);
        }
    }

    #[test]
    fn lines_without_files_come_back(expected in prop::collection::vec("[^@\r\n][^\r\n]{0,8}", 0..20)) {
        let text = expected.join("\n");
        let found = expand(&strings(&["@f"]), &mut |_| Ok(text.clone().into_bytes()));
        prop_assert_eq!(found, Ok(expected));
    }
}

#[test]
fn a_number_splits_where_nothing_is_expanded() {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let split = split_at(&words("worker -f build @x out"), Some(2)).unwrap();
    assert_eq!((split.startup, split.flag_files), (words("worker -f"), words("build @x out")));
    let whole = split_at(&words("worker -f"), Some(2)).unwrap();
    assert!(whole.flag_files.is_empty());
    let files = split_at(&words("worker @x -f"), None).unwrap();
    assert_eq!((files.startup, files.flag_files), (words("worker -f"), words("@x")));
    assert_eq!(split_at(&words("worker"), Some(0)), Err(ArgumentsError::NoStartup));
    let error = split_at(&words("worker x"), Some(3)).unwrap_err();
    assert_eq!(error, ArgumentsError::TooFew { asked: 3, there: 2 });
    assert!(
        error.for_action("Test").contains("cannot execute this Test action, because the command line has 2")
    );
    assert_eq!(split_at(&words("worker x"), None), Err(ArgumentsError::NoFlagFile));
}
