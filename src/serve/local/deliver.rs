//! From a result to the tree: outputs are laid out from the store beside the tree, then published by renames.
//!
//! ```text
//!   result ─► layer on the tree's filesystem: by `execution.handoff` ─► Collected ─► commit::publish
//! ```
//! Invariants: only outputs that were declared are laid out, whoever made the result; a tree is checked as it is
//! decoded, so that no name in it leads elsewhere; nothing is visible before all of it is laid out.
//! Limits: an executable bit is kept, other permissions are 0644 and 0755; a file that is a hard link of a blob stays
//! the daemon's, with mode 0444, and an executable is never one.

use super::decode_result;
use super::outcome::outcome;
use super::ready::Ready;
use super::request::Asked;
use super::stream::Printed;
use crate::action::{Command, Digest, Directory, ExecPath, decode};
use crate::cas::Cas;
use crate::commit::{self, ClaimCell, Durability, Journal, PublishError, PublishOptions, Published, Side};
use crate::output::{Collected, CollectedOutput, HandoffWay, OutputKind, Placed, place};
use crate::serve::limits::{DIRECTORIES_LAID_MAX, PRINTED_BYTES_MAX, TREE_BYTES_MAX};
use crate::serve::reply::Done;
use crate::stage::limits::TreeLimits;
use crate::stage::{Layer, Owner, Places, beneath};
use bytes::Bytes;
use fulgurite_proto::{reapi, v1};
use prost::Message;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use tonic::{Code, Status};

/// What delivering needs.
pub(super) struct Delivery<'a> {
    pub(super) cas: &'a Cas,
    pub(super) places: &'a Places,
    pub(super) asked: &'a Asked,
    pub(super) command: &'a Command,
    pub(super) durability: Durability,
    /// How a file comes from the store into the tree.
    pub(super) handoff: HandoffWay,
}

/// Outputs that are laid out, and how that went.
#[derive(Default)]
struct Laid {
    outputs: Vec<CollectedOutput>,
    told: Vec<v1::Output>,
    files: u64,
    bytes: u64,
    bytes_copied: u64,
    hardlinked: u64,
    directories: usize,
}

/// How a file came, as the API names it.
fn handoff(placed: Placed) -> v1::Handoff {
    match placed {
        Placed::Reflinked => v1::Handoff::Reflink,
        Placed::Hardlinked => v1::Handoff::Hardlink,
        Placed::Copied(_) => v1::Handoff::Copy,
    }
}

fn io(what: impl std::fmt::Display) -> impl Fn(Errno) -> Status {
    move |errno| {
        let code = if errno == Errno::NOSPC { Code::ResourceExhausted } else { Code::Unavailable };
        Status::new(code, format!("cannot {what}: {errno}"))
    }
}

impl Delivery<'_> {
    /// Publishes what the result has, and says how the run ended.
    pub(super) fn deliver(
        &self,
        root: &OwnedFd,
        done: &Done,
    ) -> Result<(v1::ActionOutcome, Printed), Status> {
        let result = done.result.as_ref().map(decode_result).transpose()?;
        let printed = match &result {
            Some(result) => self.printed(result)?,
            None => Printed::default(),
        };
        let mut outcome = outcome(done, result.as_ref());
        let succeeded = matches!(outcome.end, Some(v1::action_outcome::End::ExitCode(0)));
        if let Some(result) = result.filter(|_| succeeded || self.asked.outputs_on_failure) {
            let (laid, published) = self.publish(root, &result, succeeded)?;
            outcome.outputs = laid.told;
            outcome.notes = published.leftovers;
        }
        Ok((outcome, printed))
    }

    pub(super) fn printed(&self, result: &reapi::ActionResult) -> Result<Printed, Status> {
        let read = |raw: &Bytes, digest: Option<&reapi::Digest>| match digest {
            Some(digest) if raw.is_empty() => self.blob(Some(digest), PRINTED_BYTES_MAX),
            _ => Ok(raw.clone()),
        };
        Ok(Printed {
            stdout: read(&result.stdout_raw, result.stdout_digest.as_ref())?,
            stderr: read(&result.stderr_raw, result.stderr_digest.as_ref())?,
        })
    }

    fn digest(sent: Option<&reapi::Digest>) -> Result<Digest, Status> {
        decode::digest(super::FUNCTION, "ActionResult", sent)
            .map_err(|error| crate::serve::status::of_message(&error))
    }

    fn blob(&self, digest: Option<&reapi::Digest>, bytes_max: u64) -> Result<Bytes, Status> {
        let digest = Self::digest(digest)?;
        if digest.is_empty() {
            return Ok(Bytes::new());
        }
        let read = self.cas.read(&digest, bytes_max);
        read.map(Bytes::from).map_err(|error| crate::serve::status::of_blob(&error))
    }

    fn publish(
        &self,
        root: &OwnedFd,
        result: &reapi::ActionResult,
        all_wanted: bool,
    ) -> Result<(Laid, Published), Status> {
        let ready = self.ready(root, result, all_wanted, PublishOptions::default())?;
        let told = ready.told.clone();
        let published = ready.publish(|prepared| {
            let claim = ClaimCell::new(0).claim(Side::Local).map_err(|_| PublishError::NotQuiet)?;
            commit::publish(claim, prepared)
        });
        Ok((Laid { told, ..Laid::default() }, published.map_err(|error| of_publish(&error))?))
    }

    /// Lays out what the result has beside the tree, and prepares its publication.
    pub(super) fn ready(
        &self,
        root: &OwnedFd,
        result: &reapi::ActionResult,
        all_wanted: bool,
        options: PublishOptions,
    ) -> Result<Ready, Status> {
        let stat = rustix::fs::fstat(root).map_err(io("read the exec root"))?;
        let is_root = rustix::process::geteuid().is_root();
        let owner = is_root.then_some(Owner { uid: stat.st_uid, gid: stat.st_gid });
        let mut places = self.places.clone();
        places.exec_root_parent = self.asked.exec_root.parent().map(std::path::Path::to_path_buf);
        let layer = Layer::create(&places, root.as_fd(), None)
            .map_err(|error| Status::unavailable(format!("cannot lay out the outputs: {error}")))?;
        let prepared = self.lay(result, layer.upper(), owner, all_wanted).and_then(|laid| {
            let upper = layer.upper().try_clone_to_owned();
            let upper =
                upper.map_err(|error| Status::unavailable(format!("cannot lay out the outputs: {error}")))?;
            let Laid { mut outputs, told, files, bytes, bytes_copied, .. } = laid;
            outputs.sort_by(|left, right| left.path.cmp(&right.path));
            let collected = Collected { upper, outputs, missing: Vec::new(), files, bytes, bytes_copied };
            let options = PublishOptions { owner, limits: TreeLimits::default(), ..options };
            let journal = Journal::open(layer.place(), self.durability)
                .map_err(|fault| Status::unavailable(fault.to_string()))?;
            let action = self.command.arguments.first().map_or(&b""[..], String::as_bytes);
            match commit::prepare(collected, root.as_fd(), &journal, action, &options) {
                Ok(prepared) => Ok((journal, prepared, told)),
                Err(error) => {
                    journal.close();
                    Err(of_publish(&error))
                }
            }
        });
        match prepared {
            Ok((journal, prepared, told)) => Ok(Ready { layer, journal, prepared, told }),
            Err(status) => {
                // What cannot be removed now is swept at the next start.
                let _ = layer.destroy();
                Err(status)
            }
        }
    }

    /// Lays out all outputs that were declared and that the result has.
    fn lay(
        &self,
        result: &reapi::ActionResult,
        upper: BorrowedFd<'_>,
        owner: Option<Owner>,
        all_wanted: bool,
    ) -> Result<Laid, Status> {
        let mut declared: HashMap<&str, &ExecPath> = self
            .command
            .outputs
            .iter()
            .filter_map(|output| Some((output.declared.as_str(), output.path.as_ref()?)))
            .collect();
        let mut take = |path: &str| {
            let unknown =
                || Status::internal(format!("the result has an output {path:?} that nobody declared"));
            declared.remove(path).ok_or_else(unknown)
        };
        let mut laid = Laid::default();
        for file in &result.output_files {
            self.lay_file(&mut laid, upper, take(&file.path)?, file, owner)?;
        }
        for link in result.output_symlinks.iter() {
            let path = take(&link.path)?;
            let (dir, name) = parent(upper, path, owner)?;
            symlink(&dir, &name, &link.target, owner).map_err(io(format!("lay out {path}")))?;
            laid.outputs.push(CollectedOutput { path: path.clone(), kind: OutputKind::Symlink });
            laid.tell(path, 0, v1::Handoff::Copy);
        }
        for directory in &result.output_directories {
            let path = take(&directory.path)?;
            self.lay_directory(&mut laid, upper, path, directory, owner)?;
        }
        if all_wanted && !declared.is_empty() {
            let mut missing: Vec<&str> = declared.into_keys().collect();
            missing.sort_unstable();
            return Err(Status::failed_precondition(format!(
                "the command succeeded and did not make {}",
                missing.join(", ")
            )));
        }
        self.check_kinds(&laid)?;
        Ok(laid)
    }

    fn check_kinds(&self, laid: &Laid) -> Result<(), Status> {
        for output in self.asked.outputs.iter().filter(|output| output.must_be_directory) {
            let found = laid.outputs.iter().find(|found| found.path == output.path);
            if found.is_some_and(|found| found.kind != OutputKind::Directory) {
                return Err(Status::failed_precondition(format!("output {}/ is no directory", output.path)));
            }
        }
        Ok(())
    }

    fn lay_file(
        &self,
        laid: &mut Laid,
        upper: BorrowedFd<'_>,
        path: &ExecPath,
        file: &reapi::OutputFile,
        owner: Option<Owner>,
    ) -> Result<(), Status> {
        let digest = Self::digest(file.digest.as_ref())?;
        let (dir, name) = parent(upper, path, owner)?;
        let placed = self.place(&dir, &name, &digest, file.is_executable, owner)?;
        laid.count(digest.size_bytes, placed);
        laid.outputs.push(CollectedOutput { path: path.clone(), kind: OutputKind::File });
        laid.tell(path, digest.size_bytes, handoff(placed));
        Ok(())
    }

    fn place(
        &self,
        dir: &OwnedFd,
        name: &CString,
        digest: &Digest,
        executable: bool,
        owner: Option<Owner>,
    ) -> Result<Placed, Status> {
        // One inode has one mode.
        let way = match self.handoff {
            HandoffWay::Hardlink if executable => HandoffWay::Auto,
            way => way,
        };
        let failed = |error: crate::output::HandoffError| match way {
            HandoffWay::Reflink | HandoffWay::Hardlink => Status::failed_precondition(format!(
                "{error} (hint: execution.handoff demands {way}, which needs the store and the tree on one \
                 filesystem that has them; \"auto\" does without)"
            )),
            _ => Status::unavailable(error.to_string()),
        };
        let placed = if digest.is_empty() {
            let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
            let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::EXCL | rustix::fs::OFlags::WRONLY;
            let made = rustix::fs::openat(dir, name.as_c_str(), flags | rustix::fs::OFlags::CLOEXEC, mode)
                .and_then(|file| rustix::fs::fchmod(file, mode));
            made.map_err(io(format!("lay out {name:?}")))?;
            Placed::Copied(0)
        } else {
            place(self.cas, digest, (dir.as_fd(), name), executable, way).map_err(failed)?
        };
        if placed != Placed::Hardlinked {
            own(dir, name, owner).map_err(io(format!("lay out {name:?}")))?;
        }
        Ok(placed)
    }

    fn lay_directory(
        &self,
        laid: &mut Laid,
        upper: BorrowedFd<'_>,
        path: &ExecPath,
        directory: &reapi::OutputDirectory,
        owner: Option<Owner>,
    ) -> Result<(), Status> {
        let before = (laid.bytes, laid.bytes_copied, laid.hardlinked);
        let source = Source::of(self, directory)?;
        let (dir, name) = parent(upper, path, owner)?;
        let top = make(&dir, &name, owner).map_err(io(format!("lay out {path}")))?;
        let mut ahead = vec![(top, source.top()?)];
        while let Some((dir, directory)) = ahead.pop() {
            laid.directories += 1;
            if laid.directories > DIRECTORIES_LAID_MAX || ahead.len() > OPEN_MAX {
                return Err(Status::resource_exhausted(format!("output {path} has too many directories")));
            }
            for file in &directory.files {
                let name = text(&file.name);
                let placed = self.place(&dir, &name, &file.digest, file.executable, owner)?;
                laid.count(file.digest.size_bytes, placed);
            }
            for link in &directory.symlinks {
                let failed = io(format!("lay out {path}"));
                symlink(&dir, &text(&link.name), &link.target, owner).map_err(failed)?;
            }
            for below in &directory.directories {
                let made = make(&dir, &text(&below.name), owner).map_err(io(format!("lay out {path}")))?;
                ahead.push((made, source.get(self, &below.digest)?));
            }
        }
        laid.outputs.push(CollectedOutput { path: path.clone(), kind: OutputKind::Directory });
        // The costliest that occurred.
        let how = match (laid.bytes_copied - before.1, laid.hardlinked - before.2) {
            (0, 0) => v1::Handoff::Reflink,
            (0, _) => v1::Handoff::Hardlink,
            _ => v1::Handoff::Copy,
        };
        laid.tell(path, laid.bytes - before.0, how);
        Ok(())
    }
}

/// Directories of one output that wait open to be filled.
const OPEN_MAX: usize = 4096;

/// Where the directories of an output come from: a Tree message, or the store.
enum Source {
    Tree { top: Box<Directory>, below: HashMap<Digest, Directory> },
    Store { top: Box<Directory> },
}

impl Source {
    fn of(delivery: &Delivery<'_>, directory: &reapi::OutputDirectory) -> Result<Source, Status> {
        if directory.tree_digest.is_none() && directory.root_directory_digest.is_some() {
            let digest = Delivery::digest(directory.root_directory_digest.as_ref())?;
            return Ok(Source::Store { top: Box::new(stored(delivery, &digest)?) });
        }
        let encoded = delivery.blob(directory.tree_digest.as_ref(), TREE_BYTES_MAX)?;
        let bad = |why: String| Status::internal(format!("output {:?}: {why}", directory.path));
        let tree = reapi::Tree::decode(encoded).map_err(|error| bad(error.to_string()))?;
        let checked = |sent: reapi::Directory| {
            decode::directory_message(super::FUNCTION, sent).map_err(|error| bad(error.to_string()))
        };
        let mut below = HashMap::new();
        for child in tree.children {
            // Canonical encoding is what REAPI demands of trees, since nothing else can name a child.
            let digest = Digest::of(super::FUNCTION, &child.encode_to_vec());
            below.insert(digest, checked(child)?);
        }
        let top = checked(tree.root.unwrap_or_default())?;
        Ok(Source::Tree { top: Box::new(top), below })
    }

    fn top(&self) -> Result<Directory, Status> {
        match self {
            Source::Tree { top, .. } | Source::Store { top } => Ok((**top).clone()),
        }
    }

    fn get(&self, delivery: &Delivery<'_>, digest: &Digest) -> Result<Directory, Status> {
        match self {
            Source::Tree { .. } if digest.is_empty() => Ok(Directory::default()),
            Source::Tree { below, .. } => {
                let missing = || Status::internal(format!("a tree lacks its directory {digest}"));
                below.get(digest).cloned().ok_or_else(missing)
            }
            Source::Store { .. } => stored(delivery, digest),
        }
    }
}

fn stored(delivery: &Delivery<'_>, digest: &Digest) -> Result<Directory, Status> {
    if digest.is_empty() {
        return Ok(Directory::default());
    }
    let bytes = delivery.cas.read(digest, TREE_BYTES_MAX);
    let bytes = bytes.map_err(|error| crate::serve::status::of_blob(&error))?;
    decode::directory(super::FUNCTION, &bytes).map_err(|error| Status::internal(error.to_string()))
}

impl Laid {
    fn count(&mut self, size_bytes: u64, placed: Placed) {
        self.files += 1;
        self.bytes += size_bytes;
        self.bytes_copied += placed.bytes_copied();
        self.hardlinked += u64::from(placed == Placed::Hardlinked);
    }

    fn tell(&mut self, path: &ExecPath, size_bytes: u64, handoff: v1::Handoff) {
        let path = path.as_os_str().as_bytes().to_vec();
        self.told.push(v1::Output { path, size_bytes, handoff: handoff as i32 });
    }
}

/// A checked name has no NUL.
fn text(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

/// The directory that a path lies in, made where it is not there, and the path's last name.
fn parent(
    upper: BorrowedFd<'_>,
    path: &ExecPath,
    owner: Option<Owner>,
) -> Result<(OwnedFd, CString), Status> {
    let failed = |errno| io(format!("lay out {path}"))(errno);
    let mut dir = beneath::open_dir(upper, c".").map_err(failed)?;
    let names: Vec<_> = path.components().collect();
    for name in &names[..names.len().saturating_sub(1)] {
        let name = CString::new(name.as_bytes()).unwrap_or_default();
        dir = make(&dir, &name, owner).map_err(failed)?;
    }
    Ok((dir, CString::new(path.file_name().as_bytes()).unwrap_or_default()))
}

/// Makes a directory, or finds it there, and opens it.
fn make(dir: &OwnedFd, name: &CString, owner: Option<Owner>) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(dir, name.as_c_str(), Mode::from_raw_mode(0o755)) {
        Ok(()) => own(dir, name, owner)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    beneath::open_dir(dir.as_fd(), name)
}

fn symlink(dir: &OwnedFd, name: &CString, target: &str, owner: Option<Owner>) -> Result<(), Errno> {
    rustix::fs::symlinkat(target, dir, name.as_c_str())?;
    own(dir, name, owner)
}

fn own(dir: &OwnedFd, name: &CString, owner: Option<Owner>) -> Result<(), Errno> {
    let Some(owner) = owner else { return Ok(()) };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name.as_c_str(), owner.user(), owner.group(), flags)
}

fn of_publish(error: &commit::PublishError) -> Status {
    match error.hint() {
        Some(hint) => Status::failed_precondition(format!("{error} (hint: {hint})")),
        None => Status::failed_precondition(error.to_string()),
    }
}
