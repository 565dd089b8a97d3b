//! The layer takes what an action writes; the input tree stays as it was.
use crate::fixture::{Checked, Command, Fixture, c, check, same};
use crate::registry::{Test, test};
use fulgurite_sandbox::layer::{self, Layers};
use fulgurite_sandbox::sandbox::Sandbox;
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use tempfile::TempDir;

pub fn tests() -> Vec<Test> {
    vec![
        test("overlay::writes_go_to_the_layer", writes_go_to_the_layer),
        test("overlay::the_input_tree_stays_as_it_was", the_input_tree_stays_as_it_was),
        test("overlay::a_removed_input_is_a_whiteout", a_removed_input_is_a_whiteout),
        test("overlay::directories_without_any_permission", directories_without_any_permission),
        test("overlay::the_next_action_sees_its_own_layer", the_next_action_sees_its_own_layer),
        test("overlay::nothing_is_mounted_at_work_after_a_reset", nothing_is_mounted_at_work_after_a_reset),
        test("overlay::devices_and_set_id_mean_nothing_there", devices_and_set_id_mean_nothing_there),
        test("overlay::a_full_tmp_is_the_actions_own_trouble", a_full_tmp_is_the_actions_own_trouble),
    ]
}

/// An input tree, and the two directories of a layer.
struct Trees {
    all: TempDir,
}

impl Trees {
    fn new() -> Result<Self, Failed> {
        let trees = Trees { all: tempfile::tempdir()? };
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(trees.all.path().join(name))?;
        }
        let lower = trees.all.path().join("lower");
        std::fs::create_dir(lower.join("sub"))?;
        std::fs::write(lower.join("one"), "one\n")?;
        std::fs::write(lower.join("two"), "two\n".repeat(2000))?;
        std::fs::write(lower.join("sub/three"), "three\n")?;
        std::os::unix::fs::symlink("one", lower.join("link"))?;
        Ok(trees)
    }

    fn open(&self, name: &str) -> Result<OwnedFd, Failed> {
        let path = self.all.path().join(name);
        let path = c(path.to_str().ok_or("a temporary directory with a plain name")?);
        Ok(layer::open_directory(rustix::fs::CWD, &path)?)
    }

    /// The overlay for the actions of this sandbox.
    fn mount(&self, fixture: &Fixture, sandbox: &Sandbox) -> Result<OwnedFd, Failed> {
        let runtime = fixture.runtime();
        let (lower, upper, work) = (self.open("lower")?, self.open("upper")?, self.open("work")?);
        let id = sandbox.action_id();
        if runtime.features().privileged {
            std::os::unix::fs::fchown(&upper, Some(id), Some(id))?;
        }
        let mapped = runtime.map_owner(lower.as_fd(), id)?;
        let shown = mapped.as_ref().unwrap_or(&lower);
        let layers = Layers { lower: shown.as_fd(), upper: upper.as_fd(), work: work.as_fd() };
        if mapped.is_none() {
            return Ok(layer::overlay(&layers, runtime.features())?);
        }
        let all = self.open("")?;
        Ok(layer::overlay_on_detached(&layers, all.as_fd(), c"mapped", runtime.features())?)
    }

    /// Runs a script at /work and gives its output.
    fn run(&self, fixture: &Fixture, sandbox: &mut Sandbox, script: &str) -> Result<String, Failed> {
        let mount = self.mount(fixture, sandbox)?;
        Command::sh(script).run_on(sandbox, Some(mount.as_fd())).succeeded()
    }

    /// Every path of a tree with what there is to know about it, times included.
    fn facts(&self, name: &str) -> Result<BTreeMap<String, String>, Failed> {
        let mut facts = BTreeMap::new();
        collect(&self.all.path().join(name), &mut facts)?;
        Ok(facts)
    }
}

fn collect(directory: &Path, facts: &mut BTreeMap<String, String>) -> Checked {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let meta = std::fs::symlink_metadata(&path)?;
        let content = if meta.is_file() { std::fs::read(&path)? } else { Vec::new() };
        let (mode, owner, size) = (meta.mode(), meta.uid(), meta.len());
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        let fact = format!("{mode:o} {owner} {size} {times:?} {}", String::from_utf8_lossy(&content));
        facts.insert(path.to_string_lossy().into_owned(), fact);
        if meta.is_dir() {
            collect(&path, facts)?;
        }
    }
    Ok(())
}

fn writes_go_to_the_layer(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let trees = Trees::new()?;
    let script =
        "cat one sub/three link; echo new > new; mkdir made; echo deep > made/deep; stat -c %u one new";
    let text = trees.run(fixture, &mut sandbox, script)?;
    same(text.as_str(), "one\nthree\none\n1000\n1000", "inside")?;
    let upper = trees.all.path().join("upper");
    same(std::fs::read_to_string(upper.join("new"))?.as_str(), "new\n", "the new file")?;
    same(std::fs::read_to_string(upper.join("made/deep"))?.as_str(), "deep\n", "the deep file")?;
    for name in ["new", "made", "made/deep"] {
        let owner = std::fs::metadata(upper.join(name))?.uid();
        let expected = if fixture.runtime().features().privileged {
            sandbox.action_id()
        } else {
            rustix::process::geteuid().as_raw()
        };
        same(owner, expected, format!("owner of {name}"))?;
    }
    check(!upper.join("one").exists(), "reading copied a file up")
}

fn the_input_tree_stays_as_it_was(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let attempts = [
        "echo more >> one",
        "echo x > sub/three",
        "chmod 777 one sub && chmod 000 two",
        "truncate -s 0 two && truncate -s 100000 one",
        "echo other > o && mv o one && mv one two",
        "mv sub moved 2>/dev/null || cp -r sub moved",
        "rm -rf sub one two link",
        "/it probe map two",
        "touch -d 2001-01-01 one two sub",
        "ln one hard && echo x >> hard",
        "rm link && ln -s /etc link && rm one && mkdir one",
        "exec 3<>two; echo x >&3; exec 4>>one; echo y >&4",
    ];
    for script in attempts {
        let trees = Trees::new()?;
        let before = trees.facts("lower")?;
        trees.run(fixture, &mut sandbox, script).map_err(|error| format!("{script}: {error:?}"))?;
        same(trees.facts("lower")?, before, format!("the input tree after {script:?}"))?;
        check(!trees.facts("upper")?.is_empty(), format!("nothing in the layer after {script:?}"))?;
        sandbox.reset()?;
    }
    Ok(())
}

fn a_removed_input_is_a_whiteout(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let trees = Trees::new()?;
    trees.run(fixture, &mut sandbox, "rm one; rm -r sub; mkdir sub; [ ! -e one ] && [ ! -e sub/three ]")?;
    let upper = trees.all.path().join("upper");
    let meta = std::fs::symlink_metadata(upper.join("one"))?;
    check(meta.file_type().is_char_device() && meta.rdev() == 0, "no whiteout of the file")?;
    same(std::fs::read_dir(upper.join("sub"))?.count(), 0, "entries of the new directory")
}

fn directories_without_any_permission(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let trees = Trees::new()?;
    let script = "mkdir -p a/b/c && echo x > a/b/c/d && chmod 000 a/b/c a/b a one";
    trees.run(fixture, &mut sandbox, script)?;
    sandbox.reset()?;
    // What the action closed to itself is no obstacle for whoever cleans up after it.
    let path = trees.all.path().to_path_buf();
    if !fixture.runtime().features().privileged {
        for directory in ["a", "a/b", "a/b/c"] {
            let inner = path.join("upper").join(directory);
            std::fs::set_permissions(inner, std::fs::Permissions::from_mode(0o700))?;
        }
    }
    trees.all.close()?;
    check(!path.exists(), "it is still there")
}

fn the_next_action_sees_its_own_layer(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let (first, second) = (Trees::new()?, Trees::new()?);
    first.run(fixture, &mut sandbox, "echo mine > mine; rm one")?;
    sandbox.reset()?;
    let text = second.run(fixture, &mut sandbox, "ls; cat one")?;
    same(text.as_str(), "link\none\nsub\ntwo\none", "what the second one sees")?;
    sandbox.reset()?;
    // A layer can be looked at again, with another directory for overlayfs itself: it is marked as volatile.
    std::fs::remove_dir_all(first.all.path().join("work"))?;
    std::fs::create_dir(first.all.path().join("work"))?;
    let text = first.run(fixture, &mut sandbox, "ls; cat mine")?;
    same(text.as_str(), "link\nmine\nsub\ntwo\nmine", "the first layer, again")
}

fn nothing_is_mounted_at_work_after_a_reset(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for _ in 0..3 {
        let trees = Trees::new()?;
        trees.run(fixture, &mut sandbox, "echo x > x")?;
        sandbox.reset()?;
        let path = trees.all.path().to_path_buf();
        trees.all.close()?;
        check(!path.exists(), "the layer is still in use")?;
        let text = Command::sh("ls -A /work; grep -c ' /work ' /proc/self/mountinfo; true").run(&mut sandbox);
        same(text.succeeded()?.as_str(), "0", "what is at /work")?;
        sandbox.reset()?;
    }
    Ok(())
}

fn devices_and_set_id_mean_nothing_there(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let trees = Trees::new()?;
    let lower = trees.all.path().join("lower");
    std::fs::copy("/usr/bin/id", lower.join("id"))?;
    std::fs::set_permissions(lower.join("id"), std::fs::Permissions::from_mode(0o6755))?;
    let text = trees.run(fixture, &mut sandbox, "./id -u; mknod null c 1 3 2>/dev/null || echo refused")?;
    same(text.as_str(), "1000\nrefused", "who a set-id program is")
}

fn a_full_tmp_is_the_actions_own_trouble(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    // /tmp is as large as the spec says; what does not fit is the writer's error and costs nobody else
    // anything.
    let mut spec = fixture.spec();
    (spec.tmp_bytes_max, spec.tmp_inodes_max) = (1 << 20, 64);
    let mut small = fixture.sandbox_of(&spec)?;
    let script = "head -c 4194304 /dev/zero > /tmp/x 2>/dev/null || echo full; rm /tmp/x; \
                  i=0; while : > /tmp/$i; do i=$((i+1)); done 2>/dev/null; [ $i -lt 64 ] && echo few";
    let ran = Command::sh(script).run(&mut small);
    check(ran.stdout.starts_with("full"), format!("{ran:?}"))?;
    small.reset()?;
    Command::sh("echo x > /tmp/x").run(&mut small).succeeded()?;
    Command::sh("head -c 4194304 /dev/zero > /tmp/x").run(&mut sandbox).succeeded().map(drop)
}
