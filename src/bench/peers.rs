//! The command lines of other sandboxes, where they are installed.
//!
//! Each shows the workload's directory as the place it starts in and hides or makes read-only the rest, with the
//! namespaces that it can have; bubblewrap gets the view that our own sandboxes give. Sources: bwrap(1), unshare(1),
//! the OCI runtime specification, and `linux-sandbox --help`.
use super::command::installed;
use super::error::BenchError;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The names of all peers, as reports have them.
pub const PEERS: [&str; 4] = ["bwrap", "unshare", "crun", "linux-sandbox"];

/// Directories that hold toolchains, where they exist.
const TOOLCHAIN: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt"];
/// What compilers and loaders need of /etc.
const ETC: [&str; 2] = ["/etc/alternatives", "/etc/ld.so.cache"];

/// The command line that runs `command` in `directory` under the peer `name`; `None` where it is not installed.
///
/// # Errors
/// When files that the peer needs can't be written.
pub fn wrap(
    name: &str,
    command: &[OsString],
    directory: &Path,
    state: &Path,
) -> Result<Option<Vec<OsString>>, BenchError> {
    let found = match name {
        "linux-sandbox" => linux_sandbox(),
        name => installed(name),
    };
    let Some(program) = found else { return Ok(None) };
    let mut line = vec![program.into_os_string()];
    match name {
        "bwrap" => line.extend(bubblewrap(&[(directory, true)])),
        "unshare" => line.extend(words(&["-Urpmn", "--fork", "--"])),
        "crun" => {
            line.extend(oci(command, directory, state)?);
            return Ok(Some(line));
        }
        _ => {
            let directory = directory.as_os_str();
            line.extend(["-W".into(), directory.into(), "-w".into(), directory.into()]);
            line.extend(words(&["-w", "/tmp", "-w", "/dev/shm", "-N", "--"]));
        }
    }
    line.extend_from_slice(command);
    Ok(Some(line))
}

/// The options of bubblewrap for the view that our own sandboxes give; the first directory appears as /work and is
/// where the command starts, the others appear where they are. Writable where the flag says so.
#[must_use]
pub fn bubblewrap(directories: &[(&Path, bool)]) -> Vec<OsString> {
    let mut line = words(&["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
    for path in TOOLCHAIN.iter().chain(&ETC) {
        match fs::read_link(path) {
            Ok(target) => line.extend(["--symlink".into(), target.into_os_string(), (*path).into()]),
            Err(_) if Path::new(path).exists() => line.extend(words(&["--ro-bind", path, path])),
            Err(_) => {}
        }
    }
    line.extend(words(&["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]));
    for (number, (directory, writable)) in directories.iter().enumerate() {
        let bind = if *writable { "--bind" } else { "--ro-bind" };
        let inside = if number == 0 { Path::new("/work") } else { directory };
        line.extend([bind.into(), directory.as_os_str().to_owned(), inside.as_os_str().to_owned()]);
    }
    line.extend(words(&["--chdir", "/work", "--setenv", "TMPDIR", "/tmp", "--"]));
    line
}

/// Bazel's sandbox: on the path, or where a Bazel has unpacked itself.
fn linux_sandbox() -> Option<PathBuf> {
    if let Some(found) = installed("linux-sandbox") {
        return Some(found);
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let users: Vec<PathBuf> =
        [home.join(".cache/bazel"), "/var/tmp".into()].iter().flat_map(|dir| below(dir, "_bazel_")).collect();
    let installs = users.iter().flat_map(|user| below(&user.join("install"), ""));
    installs
        .flat_map(|install| [install.join("linux-sandbox"), install.join("_embedded_binaries/linux-sandbox")])
        .find(|path| path.is_file())
}

fn below(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

/// Writes a bundle for an OCI runtime, and gives the options that run it.
fn oci(command: &[OsString], directory: &Path, state: &Path) -> Result<Vec<OsString>, BenchError> {
    let bundle = state.join("bundle");
    let failed = || BenchError::file(format!("write the bundle {}", bundle.display()));
    fs::create_dir_all(bundle.join("rootfs")).map_err(failed())?;
    let text = configuration(command, directory).to_string();
    fs::write(bundle.join("config.json"), text).map_err(failed())?;
    let options = ["--cgroup-manager=disabled".into(), "--root".into(), state.join("state").into_os_string()];
    let run = ["run".into(), "--bundle".into(), bundle.into_os_string(), "fulgurite-bench".into()];
    Ok(options.into_iter().chain(run).collect())
}

fn configuration(command: &[OsString], directory: &Path) -> Value {
    let bind = |from: &str, to: &str, read_only: bool| {
        let options = if read_only { json!(["rbind", "ro"]) } else { json!(["rbind", "rw"]) };
        json!({"destination": to, "type": "bind", "source": from, "options": options})
    };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}),
    ];
    let present = TOOLCHAIN.iter().chain(&ETC).filter(|path| Path::new(path).exists());
    mounts.extend(present.map(|path| bind(path, path, true)));
    mounts.push(bind(&directory.to_string_lossy(), "/work", false));
    let namespaces: Vec<Value> =
        ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind})).into();
    let arguments: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/work", "args": arguments,
            "env": [format!("PATH={}", super::command::PATH), "LC_ALL=C", "TMPDIR=/tmp"],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"}, "hostname": "fulgurite", "mounts": mounts,
        "linux": {"namespaces": namespaces},
    })
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_installed_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(wrap("no-such-peer", &[], dir.path(), dir.path()).unwrap(), None);
    }

    #[test]
    fn bubblewrap_starts_in_the_first_directory() {
        let line = bubblewrap(&[(Path::new("/a"), false), (Path::new("/b"), true)]);
        let text: Vec<_> = line.iter().map(|word| word.to_str().unwrap()).collect();
        let text = text.join(" ");
        assert!(text.starts_with("--unshare-all --die-with-parent --new-session "), "{text}");
        assert!(text.contains("--ro-bind /a /work --bind /b /b --chdir /work"), "{text}");
        assert!(text.contains("--ro-bind /usr /usr"), "{text}");
        assert!(text.ends_with(" --"), "{text}");
    }

    #[test]
    fn the_bundle_names_the_command_and_binds_its_directory() {
        let value = configuration(&words(&["/bin/true", "x"]), Path::new("/scratch/a"));
        assert_eq!(value["process"]["args"], json!(["/bin/true", "x"]));
        let mounts = value["mounts"].as_array().unwrap();
        assert!(
            mounts.iter().any(|mount| mount["source"] == "/scratch/a" && mount["destination"] == "/work")
        );
    }
}
