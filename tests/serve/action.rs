//! Actions as tests describe them: a script, its inputs, its outputs.

use crate::client::{Client, named};
use crate::daemon::{PATIENCE, pids_with};
use fulgurite_proto::reapi;
use fulgurite_sandbox::testing::settles;
use prost::Message;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

/// An action that is not uploaded yet.
#[derive(Clone, Default)]
pub struct Order {
    pub command: reapi::Command,
    pub action: reapi::Action,
    pub inputs: Tree,
}

/// An input root.
#[derive(Clone, Default)]
pub struct Tree {
    files: BTreeMap<String, Leaf>,
    links: BTreeMap<String, String>,
    directories: BTreeMap<String, Tree>,
}

#[derive(Clone)]
struct Leaf {
    digest: reapi::Digest,
    /// `None`: the store has it.
    bytes: Option<Vec<u8>>,
    executable: bool,
    is_tool: bool,
}

impl Tree {
    /// Adds a file; the path may have directories.
    pub fn add(&mut self, path: &str, bytes: &[u8], executable: bool) {
        let leaf = Leaf { digest: named(bytes), bytes: Some(bytes.to_vec()), executable, is_tool: false };
        self.put(path, leaf);
    }

    /// Adds a file that the store has.
    pub fn add_known(&mut self, path: &str, digest: &reapi::Digest, executable: bool) {
        self.put(path, Leaf { digest: digest.clone(), bytes: None, executable, is_tool: false });
    }

    /// Adds a file that is marked as one of the tool.
    pub fn add_tool(&mut self, path: &str, bytes: &[u8]) {
        let leaf =
            Leaf { digest: named(bytes), bytes: Some(bytes.to_vec()), executable: false, is_tool: true };
        self.put(path, leaf);
    }

    /// Marks a file that is there as one of the tool.
    pub fn mark(&mut self, path: &str) {
        match path.split_once('/') {
            Some((first, rest)) => self.directories.get_mut(first).unwrap().mark(rest),
            None => self.files.get_mut(path).unwrap().is_tool = true,
        }
    }

    /// What is in a file at the top.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.files[name].bytes.clone().unwrap()).unwrap()
    }

    fn put(&mut self, path: &str, leaf: Leaf) {
        match path.split_once('/') {
            Some((first, rest)) => self.directories.entry(first.to_owned()).or_default().put(rest, leaf),
            None => drop(self.files.insert(path.to_owned(), leaf)),
        }
    }

    /// All its blobs, the root's last.
    pub fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = Vec::new();
        let mut directory = reapi::Directory::default();
        for (name, leaf) in &self.files {
            let mark = reapi::NodeProperty { name: "bazel_tool_input".to_owned(), value: String::new() };
            directory.files.push(reapi::FileNode {
                name: name.clone(),
                digest: Some(leaf.digest.clone()),
                is_executable: leaf.executable,
                node_properties: leaf
                    .is_tool
                    .then(|| reapi::NodeProperties { properties: vec![mark], ..Default::default() }),
            });
            blobs.extend(leaf.bytes.clone());
        }
        for (name, target) in &self.links {
            let (name, target) = (name.clone(), target.clone());
            directory.symlinks.push(reapi::SymlinkNode { name, target, node_properties: None });
        }
        for (name, below) in &self.directories {
            blobs.extend(below.blobs());
            let digest = blobs.last().map(|bytes| named(bytes));
            directory.directories.push(reapi::DirectoryNode { name: name.clone(), digest });
        }
        blobs.push(directory.encode_to_vec());
        blobs
    }
}

/// A word that no other action has.
fn word() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("order-{}-{}-end", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Order {
    /// A script for the shell, unlike any other; `$0` is a word that finds its processes.
    pub fn sh(script: &str) -> Order {
        Order::of(&["/bin/sh", "-c", script, &word()])
    }

    /// A script for Python.
    pub fn python(script: &str) -> Order {
        Order::of(&["/usr/bin/python3", "-c", script, &word()])
    }

    pub fn of(arguments: &[&str]) -> Order {
        let mut order = Order::default();
        order.command.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        order
    }

    pub fn outputs(mut self, paths: &[&str]) -> Order {
        self.command.output_paths = paths.iter().map(|path| (*path).to_owned()).collect();
        self
    }

    pub fn input(mut self, path: &str, bytes: &[u8]) -> Order {
        self.inputs.add(path, bytes, false);
        self
    }

    pub fn timeout(mut self, seconds: i64) -> Order {
        self.action.timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        self
    }

    pub fn uncached(mut self) -> Order {
        self.action.do_not_cache = true;
        self
    }

    pub fn property(mut self, name: &str, value: &str) -> Order {
        let property = reapi::platform::Property { name: name.to_owned(), value: value.to_owned() };
        self.action.platform.get_or_insert_default().properties.push(property);
        self
    }

    /// All its blobs, the action's last.
    pub fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = self.inputs.blobs();
        let mut action = self.action.clone();
        action.input_root_digest = blobs.last().map(|bytes| named(bytes));
        let command = self.command.encode_to_vec();
        action.command_digest = Some(named(&command));
        blobs.push(command);
        blobs.push(action.encode_to_vec());
        blobs
    }

    /// Uploads it with all that it needs; gives its name.
    pub fn upload(&self, client: &Client) -> reapi::Digest {
        let blobs = self.blobs();
        client.upload(&blobs);
        named(blobs.last().unwrap())
    }

    /// The word that its processes have among their arguments.
    pub fn word(&self) -> &str {
        self.command.arguments.last().unwrap()
    }

    /// A script that goes on only once [`Order::release`] is called: `before`, then wait, then `after`.
    pub fn held(before: &str, after: &str) -> Order {
        Order::sh(&format!("mkfifo gate || exit 1\n{before}\nread line < gate\n{after}"))
    }

    /// Waits until the script of [`Order::held`] waits, and gives its gate.
    fn gate(&self) -> rustix::fd::OwnedFd {
        let mut gate = None;
        let open = settles(PATIENCE, || {
            gate = pids_with(self.word()).iter().find_map(|pid| {
                let path = format!("/proc/{pid}/cwd/gate");
                // Opens only once somebody waits for what is written.
                rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
                    .ok()
            });
            gate.is_some()
        });
        assert!(open, "no action of the word {} waits", self.word());
        gate.unwrap()
    }

    /// Waits until it waits; it goes on waiting.
    pub fn until_held(&self) -> Held {
        Held(self.gate())
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.until_held().release();
    }
}

/// An action that waits; it goes on when this is dropped as well.
pub struct Held(rustix::fd::OwnedFd);

impl Held {
    pub fn release(self) {
        rustix::io::write(&self.0, b"go\n").unwrap();
    }
}
