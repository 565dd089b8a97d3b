//! Plans as text, compared with what was reviewed: `BLESS=1` writes them anew.
use crate::fixture::{Checked, Fixture, check};
use crate::registry::{Test, pure};
use fulgurite_sandbox::harden::Level;
use fulgurite_sandbox::host::{EntryKind, Features, HostEntry, Support};
use fulgurite_sandbox::plan::compile::compile;
use fulgurite_sandbox::spec::{HostMount, Identity, Network, SandboxSpec};
use libtest_mimic::Failed;
use std::path::PathBuf;

pub fn tests() -> Vec<Test> {
    vec![
        pure("snapshots::a_host_that_has_everything", a_host_that_has_everything),
        pure("snapshots::an_ordinary_user_without_the_rest", an_ordinary_user_without_the_rest),
        pure("snapshots::a_spec_with_everything", a_spec_with_everything),
    ]
}

fn entries() -> Vec<HostEntry> {
    let entry = |at: &str, kind| HostEntry { source: format!("/{at}"), at: at.to_owned(), kind };
    vec![
        entry("usr", EntryKind::Directory),
        entry("bin", EntryKind::Symlink("usr/bin".to_owned())),
        entry("lib64", EntryKind::Directory),
        entry("etc/alternatives", EntryKind::Directory),
        entry("etc/ld.so.cache", EntryKind::File),
    ]
}

fn shown(spec: &SandboxSpec, features: &Features) -> Result<String, Failed> {
    let (plan, enforcement) = compile(spec, features, &entries())?;
    Ok(format!("{plan}enforced: {enforcement}\n"))
}

fn compare(name: &str, text: &str) -> Checked {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text)?;
    }
    let expected = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}; BLESS=1 writes it", path.display()))?;
    let (found, wanted): (Vec<&str>, Vec<&str>) = (text.lines().collect(), expected.lines().collect());
    let first = found.iter().zip(&wanted).position(|(a, b)| a != b).unwrap_or(found.len().min(wanted.len()));
    let line = |lines: &[&str]| lines.get(first).copied().unwrap_or("(end)").to_owned();
    let message = format!(
        "{name} differs from line {} on:\n  reviewed: {}\n  now:      {}\nBLESS=1 takes the new text",
        first + 1,
        line(&wanted),
        line(&found)
    );
    check(text == expected, message)
}

fn a_host_that_has_everything(_: &Fixture) -> Checked {
    compare("everything.txt", &shown(&SandboxSpec::default(), &Features::everything())?)
}

fn an_ordinary_user_without_the_rest(_: &Fixture) -> Checked {
    let no = |why: &str| Support::No { why: why.to_owned(), remedy: None };
    let features = Features {
        privileged: false,
        two_ids: false,
        landlock_abi: Err("the kernel is built without it".to_owned()),
        cgroup_v2: false,
        shares_memory_cgroup: true,
        idmapped_mounts: no("only the host's root can make them"),
        overlay_detached_layers: no("before Linux 6.15"),
        ..Features::everything()
    };
    compare("ordinary-user.txt", &shown(&SandboxSpec::default(), &features)?)
}

fn a_spec_with_everything(_: &Fixture) -> Checked {
    let mount = |source: &str, target: &str, writable| HostMount {
        source: PathBuf::from(source),
        target: PathBuf::from(target),
        writable,
    };
    let mut spec = SandboxSpec {
        mounts: vec![mount("/srv/sdk", "/sdk/v1", false), mount("/srv/cache", "/cache", true)],
        network: Network::Host,
        identity: Identity { uid: 0, gid: 0, name: "root".to_owned() },
        host_name: "builder".to_owned(),
        tmp_bytes_max: 1 << 20,
        umask: 0o077,
        ..SandboxSpec::default()
    };
    spec.hardening.seccomp = Level::Off;
    spec.hardening.file_bytes_max = Some(1 << 30);
    compare("everything-asked.txt", &shown(&spec, &Features::everything())?)
}
