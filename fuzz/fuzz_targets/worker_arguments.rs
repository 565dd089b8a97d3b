//! Arguments of an action: split and expanded, with files that the input holds. Every expansion ends.
#![no_main]
use fulgurite::worker::arguments::{ExpandError, Mode, expand, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Parts between zeros: the first is the command line, the others are files named 0, 1, 2, …
    let mut parts = bytes.split(|&byte| byte == 0);
    let line = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let line: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let files: Vec<&[u8]> = parts.collect();
    for mode in [Mode::Legacy, Mode::Strict] {
        let Ok(split) = split(&line, mode) else { continue };
        assert_eq!(split.startup.len() + split.flag_files.len(), line.len());
        let expanded = expand(&split.flag_files, &mut |name| {
            let file = name.parse::<usize>().ok().and_then(|index| files.get(index));
            file.map(|bytes| bytes.to_vec()).ok_or(ExpandError::NotDeclared)
        });
        // A file with lines has as many arguments or more; what is left is no file.
        if let Ok(expanded) = expanded {
            let is_file = |argument: &String| {
                argument.starts_with('@') && !argument.starts_with("@@") && !argument.contains("//")
            };
            assert!(!expanded.iter().any(is_file));
        }
    }
});
