//! Resource names: what is parsed is written and parsed as the same.
#![no_main]
use fulgurite::serve::name::{Compression, parse_read, parse_write, subject};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(name) = std::str::from_utf8(bytes) else { return };
    let _ = fulgurite::serve::fuzzing::is_operation(name);
    if let Ok(read) = parse_read(name) {
        assert!(read.instance.split('/').all(|part| !part.is_empty()) || read.instance.is_empty());
        if read.compression == Compression::Identity {
            let instance =
                if read.instance.is_empty() { String::new() } else { format!("{}/", read.instance) };
            let function = read.digest.function.name();
            let (hash, size) = (read.digest.hex(), read.digest.size_bytes);
            let again = parse_read(&format!("{instance}blobs/{function}/{hash}/{size}"));
            assert_eq!(again.as_ref(), Ok(&read));
            assert!(subject(&read.digest).starts_with("blobs/"));
        }
    }
    if let Ok(write) = parse_write(name) {
        assert!(!write.upload.is_empty() && !write.upload.contains('/'));
    }
});
