//! Commands: whatever decodes names outputs below the input root only.
#![no_main]
use fulgurite::action::decode;
use libfuzzer_sys::fuzz_target;
use std::path::Component;

fuzz_target!(|bytes: &[u8]| {
    let Ok(command) = decode::command(bytes) else { return };
    assert!(command.arguments.iter().all(|argument| !argument.contains('\0')));
    let paths = command.outputs.iter().filter_map(|output| output.path.as_ref());
    for path in paths.chain(&command.working_directory) {
        assert!(path.as_path().components().all(|part| matches!(part, Component::Normal(_))));
    }
});
