//! One output file into the store.
//!
//! ```text
//!   the layer's own, one link, nobody can write ──> the store: owner, mode, hash, rename                Renamed, Known
//!   several links, or somebody can write        ──> a copy beside it, which is then taken               Copied
//!   content in another layer (metacopy)         ──> hashed through the overlay; copied if not there     Known, Copied
//! ```
//! Invariants: what is hashed is what is stored; the read lease stands until the file is in the store; no set-id bit
//! and no attribute of the action's gets there (the store's own rule). An inode that has another name is left as it is.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::HandoffError;
use super::view::View;
use crate::action::{Digest, DigestFunction, Handoff, Hasher};
use crate::cas::{Adopted, Cas, CasError, Sealed};
use crate::output::seal::list_attributes;
use crate::stage::beneath;
use crate::stage::contents::{Transfer, transfer};
use crate::stage::limits::NAME_TRIES_MAX;
use crate::stage::replicate::permissions;
use fulgurite_sandbox::sys::lease;

/// A file that has been seen and waits to be taken.
pub(super) struct Job {
    /// Where its digest goes.
    pub index: usize,
    /// The directory that it lies in.
    pub dir: Arc<OwnedFd>,
    pub name: CString,
    /// What it was when it was seen.
    pub stat: Stat,
    /// Below the input root.
    pub path: PathBuf,
    /// `dir` belongs to the overlay.
    pub through: bool,
}

/// Where files go.
pub(super) struct Taker<'a> {
    pub view: View<'a>,
    pub cas: &'a Cas,
    pub function: DigestFunction,
    /// Numbers the copies.
    pub copies: AtomicU64,
}

impl Taker<'_> {
    /// Takes one file, and counts how.
    pub fn take(&self, job: &Job, done: &mut Handoff) -> Result<Digest, HandoffError> {
        let fault = |tried| move |why| HandoffError::io(tried, job.path.clone(), why);
        let file = open(job).map_err(fault("open"))?;
        let stat = rustix::fs::fstat(&file).map_err(fault("inspect"))?;
        let same = (stat.st_dev, stat.st_ino) == (job.stat.st_dev, job.stat.st_ino);
        if !same || beneath::kind(&stat) != FileType::RegularFile {
            let why = "it was replaced while it was collected";
            return Err(HandoffError::Refused { path: job.path.clone(), why });
        }
        if job.through {
            return self.take_through(job, file, done);
        }
        let attributes = list_attributes(file.as_fd()).map_err(fault("list the attributes of"))?;
        let metacopy = self.view.marks.metacopy().to_bytes();
        if attributes.split(|byte| *byte == 0).any(|name| name == metacopy) {
            return self.take_through(job, self.view.open_merged(&job.path, false)?, done);
        }
        // Where there are no leases, quiet alone has to do. What holds it stands until the file is in the store.
        let lease = lease::read(file.as_fd());
        if stat.st_nlink != 1 || lease == Err(Errno::AGAIN) {
            return self.take_copy(job, file.as_fd(), &stat, done);
        }
        let is_leased = lease.is_ok();
        let sealed = Sealed { dir: job.dir.as_fd(), name: &job.name, file: file.as_fd(), is_leased };
        match self.cas.adopt(self.function, &sealed) {
            Ok((digest, adopted)) => {
                count(done, adopted, &digest);
                Ok(digest)
            }
            // The directory does not let it go: append-only, or somebody else's and sticky.
            Err(CasError::Io { errno: Errno::PERM | Errno::ACCESS, .. }) => {
                self.take_copy(job, file.as_fd(), &stat, done)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what lies in a layer that is not ours to take from. After quiet nobody changes it; if somebody did, the
    /// store's own check of the digest would tell.
    fn take_through(&self, job: &Job, file: OwnedFd, done: &mut Handoff) -> Result<Digest, HandoffError> {
        let mut file = File::from(file);
        let mut hasher = Hasher::new(self.function);
        self.each_piece(job, &mut file, |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        let digest = hasher.finish();
        if self.cas.contains(&digest) {
            done.known += 1;
            return Ok(digest);
        }
        let mut writer = self.cas.writer(digest)?;
        self.each_piece(job, &mut file, |piece| writer.write(piece))?;
        writer.finish()?;
        done.copied += 1;
        done.bytes_copied += digest.size_bytes;
        Ok(digest)
    }

    fn each_piece(
        &self,
        job: &Job,
        file: &mut File,
        mut take: impl FnMut(&[u8]) -> Result<(), CasError>,
    ) -> Result<(), HandoffError> {
        let fault = |error: std::io::Error| {
            HandoffError::io("read", job.path.clone(), Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        file.rewind().map_err(fault)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => take(&buffer[..length])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fault(error)),
            }
        }
    }

    /// Makes a file of our own of it, and takes that.
    fn take_copy(
        &self,
        job: &Job,
        file: BorrowedFd<'_>,
        stat: &Stat,
        done: &mut Handoff,
    ) -> Result<Digest, HandoffError> {
        let upper = self.view.upper;
        let (name, copy) = self.free_name().map_err(|why| HandoffError::io("copy", job.path.clone(), why))?;
        let taken = (|| {
            let fault = |tried| move |why| HandoffError::io(tried, job.path.clone(), why);
            let size = stat.st_size.unsigned_abs();
            let how = transfer(file, copy.as_fd(), size, size).map_err(fault("copy"))?;
            rustix::fs::fchmod(&copy, BLOB_MODE).map_err(fault("change the mode of the copy of"))?;
            drop(copy);
            let copy = beneath::open_file(upper, &name).map_err(fault("open the copy of"))?;
            let sealed = Sealed { dir: upper, name: &name, file: copy.as_fd(), is_leased: false };
            let (digest, adopted) = self.cas.adopt(self.function, &sealed)?;
            done.copied += 1;
            done.bytes_copied += match how {
                Transfer::Shared => 0,
                Transfer::Copied(bytes) => bytes,
            };
            if adopted == Adopted::Copied {
                done.bytes_copied += digest.size_bytes;
            }
            Ok((digest, adopted))
        })();
        if !matches!(taken, Ok((_, Adopted::Renamed))) {
            // It stays in the layer at worst, and goes with it.
            let _ = rustix::fs::unlinkat(upper, &name, AtFlags::empty());
        }
        taken.map(|(digest, _)| digest)
    }

    /// A new file in the layer's top directory, which has been listed by now if it is listed at all.
    fn free_name(&self) -> Result<(CString, OwnedFd), Errno> {
        for _ in 0..NAME_TRIES_MAX {
            let number = self.copies.fetch_add(1, Ordering::Relaxed);
            let name = CString::new(format!(".fulgurite-copy-{number}")).unwrap_or_default();
            match beneath::create_file(self.view.upper, &name) {
                Err(Errno::EXIST) => {}
                answer => return answer.map(|file| (name, file)),
            }
        }
        Err(Errno::EXIST)
    }
}

/// What a blob may be used for: reading.
const BLOB_MODE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

fn open(job: &Job) -> Result<OwnedFd, Errno> {
    match beneath::open_file(job.dir.as_fd(), &job.name) {
        Err(Errno::ACCESS) if !job.through => {
            let mode = (beneath::mode(&job.stat) & permissions()) | Mode::RUSR;
            let name: &CStr = &job.name;
            beneath::change_mode(job.dir.as_fd(), name, mode)?;
            beneath::open_file(job.dir.as_fd(), name)
        }
        answer => answer,
    }
}

/// Counts how a file came into the store.
pub(in crate::output) fn count(done: &mut Handoff, adopted: Adopted, digest: &Digest) {
    match adopted {
        Adopted::Renamed => done.renamed += 1,
        Adopted::Known => done.known += 1,
        Adopted::Copied => {
            done.copied += 1;
            done.bytes_copied += digest.size_bytes;
        }
    }
}
