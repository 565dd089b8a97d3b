//! `bench handoff`: what it takes to move an output, by its size.
//!
//! | case | one operation is |
//! |---|---|
//! | `rename` | the floor: a file of the layer sealed (mode, attributes, read lease) and renamed, not hashed |
//! | `reflink`, `hardlink`, `copy` | a blob placed in a tree in this way, not hashed |
//! | `handed-off` | the whole: walk, seal, hash (its phase `hash` is that alone), rename into the store |
//!
//! On an XFS image, which can reflink, and an ext4 image, which cannot. Files are written out before they are measured:
//! a reflink of a file that is still dirty writes it out first. What a case makes is removed before the next one runs.
//! `bytes_copied` comes from the counters of the code that is measured.
use super::case::Sample;
use super::cpu::TreeCpu;
use super::error::BenchError;
use super::filesystem::{Filesystem, FilesystemKind};
use super::progress;
use super::report::{CaseReport, HostReport, Report, Series};
use super::scratch::open_directory;
use super::statistics::shuffled;
use crate::action::{
    Command, CommandOutput, Digest, DigestFunction, ExecPath, Hasher, OutputDirectoryFormat, OutputKind,
};
use crate::cas::{Cas, CasOptions};
use crate::output::limits::HandoffLimits;
use crate::output::{self, HandoffRequest, HandoffWay, Marks, NoInputs};
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sys::lease;
use indicatif::ProgressBar;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The cases, the floor first.
const CASES: [&str; 5] = ["rename", "reflink", "hardlink", "copy", "handed-off"];
/// Sizes, with the rounds of each: what is large is slow, and steady.
const SIZES: [(u64, usize); 6] =
    [(1 << 10, 100), (16 << 10, 100), (256 << 10, 60), (4 << 20, 30), (64 << 20, 8), (1 << 30, 3)];
/// Rounds before those that count.
const ROUNDS_BEFORE: usize = 1;
/// The filesystems: one that can reflink, and one that cannot.
const KINDS: [FilesystemKind; 2] = [FilesystemKind::Xfs, FilesystemKind::Ext4];
/// Room in the store: nothing is evicted while it is measured.
const STORE_BYTES_MAX: u64 = 1 << 40;
const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// What to measure.
#[derive(Clone, Debug)]
pub struct HandoffBench {
    /// Files larger than this are left out.
    pub bytes_max: u64,
    /// Where the sparse files of the filesystems lie.
    pub images: PathBuf,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

/// Measures.
///
/// # Errors
/// [`BenchError`]. A filesystem that cannot be made is left out, unless it is the last one.
pub fn run(runtime: &Runtime, bench: &HandoffBench) -> Result<Report, BenchError> {
    let sizes: Vec<_> = SIZES.into_iter().filter(|(bytes, _)| *bytes <= bench.bytes_max).collect();
    let rounds: usize = sizes.iter().map(|(_, rounds)| rounds + ROUNDS_BEFORE).sum();
    let bar = progress::bar(rounds * CASES.len() * KINDS.len(), bench.progress);
    let cpu = TreeCpu::new(runtime);
    let (mut cases, mut made, mut failed) = (Vec::new(), Vec::new(), None);
    let load = HostReport::now(runtime, String::new()).load;
    for kind in KINDS {
        bar.set_message(kind.name());
        let volume = match Filesystem::make(kind, &bench.images) {
            Ok(volume) => volume,
            Err(error) => {
                failed = Some(error);
                continue;
            }
        };
        for (bytes, rounds) in &sizes {
            cases.extend(Bout::new(&volume, *bytes, &cpu)?.run(kind.name(), *rounds, &bar)?);
        }
        made.push(volume.description().to_owned());
    }
    bar.finish_and_clear();
    if let (true, Some(error)) = (made.is_empty(), failed) {
        return Err(error);
    }
    let filesystem = made.join(", ");
    Ok(Report { bench: "handoff", host: HostReport { load, ..HostReport::now(runtime, filesystem) }, cases })
}

/// All cases of one size on one filesystem.
struct Bout<'a> {
    bytes: u64,
    cpu: &'a TreeCpu,
    volume: PathBuf,
    layer: OwnedFd,
    tree: OwnedFd,
    cas: Cas,
    /// In the store, to be placed.
    blob: Digest,
    /// Makes every file that is handed off another one.
    serial: u64,
    copied: BTreeMap<&'static str, u64>,
}

impl<'a> Bout<'a> {
    fn new(volume: &Filesystem, bytes: u64, cpu: &'a TreeCpu) -> Result<Self, BenchError> {
        let path = volume.path().join(format!("size-{bytes}"));
        for name in ["layer", "tree", "store"] {
            let made = path.join(name);
            fs::create_dir_all(&made).map_err(BenchError::file(format!("make {}", made.display())))?;
        }
        let open = |name| open_directory(&path.join(name)).map_err(BenchError::file(format!("open {name}")));
        let options = CasOptions { dir: path.join("store"), size_bytes_max: STORE_BYTES_MAX };
        let cas = Cas::open(&options).map_err(broken)?;
        let (layer, tree) = (open("layer")?, open("tree")?);
        let blob = Digest::empty(FUNCTION);
        let (serial, copied) = (0, BTreeMap::new());
        let mut bout = Bout { bytes, cpu, volume: path, layer, tree, cas, blob, serial, copied };
        bout.write("source")?;
        bout.write("blob")?;
        settle(&bout.volume)?;
        bout.blob = bout.hand_off("blob")?.0;
        Ok(bout)
    }

    fn run(
        mut self,
        filesystem: &str,
        rounds: usize,
        bar: &ProgressBar,
    ) -> Result<Vec<CaseReport>, BenchError> {
        let mut series: Vec<Series> = CASES.iter().map(|_| Series::default()).collect();
        for round in 0..ROUNDS_BEFORE + rounds {
            for index in shuffled(CASES.len(), round) {
                bar.inc(1);
                let Some(series) = series.get_mut(index).filter(|series| series.error.is_none()) else {
                    continue;
                };
                match self.once(CASES[index]) {
                    Ok(sample) if round >= ROUNDS_BEFORE => series.samples.push(Some(sample)),
                    Ok(_) => {}
                    Err(error) => series.error = Some(error.to_string()),
                }
            }
        }
        let params =
            BTreeMap::from([("bytes", self.bytes.to_string()), ("filesystem", filesystem.to_owned())]);
        let floor = series.first().cloned().unwrap_or_default();
        let reports = CASES.iter().zip(&series).map(|(name, series)| {
            let mut report = series.report(name, params.clone(), &floor);
            if let (None, Some(copied)) = (&report.error, self.copied.get(name)) {
                report.parts.insert("bytes_copied".to_owned(), *copied as f64);
            }
            report
        });
        let reports = reports.collect();
        let volume = self.volume.clone();
        drop(self);
        fs::remove_dir_all(volume).map_err(BenchError::file("clear the volume"))?;
        Ok(reports)
    }

    fn once(&mut self, case: &'static str) -> Result<Sample, BenchError> {
        let way = match case {
            "rename" => return self.rename(),
            "handed-off" => return self.whole(),
            "reflink" => HandoffWay::Reflink,
            "hardlink" => HandoffWay::Hardlink,
            _ => HandoffWay::Copy,
        };
        let (placed, mut sample) = self.measure(|bout| {
            output::place(&bout.cas, &bout.blob, (bout.tree.as_fd(), c"placed"), false, way).map_err(broken)
        })?;
        sample.phases.clear();
        self.copied.insert(case, placed.bytes_copied());
        rustix::fs::unlinkat(&self.tree, c"placed", AtFlags::empty())
            .map_err(io("remove what was placed"))?;
        Ok(sample)
    }

    /// What handing off does to a file of the layer, without hashing it.
    fn rename(&mut self) -> Result<Sample, BenchError> {
        let ((), sample) = self.measure(|bout| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file =
                rustix::fs::openat(&bout.layer, c"source", flags, Mode::empty()).map_err(io("open"))?;
            rustix::fs::fstat(&file).map_err(io("inspect"))?;
            rustix::fs::flistxattr(&file, &mut [0u8; 1024][..]).map_err(io("list the attributes of"))?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444)).map_err(io("change the mode of"))?;
            lease::read(file.as_fd()).map_err(io("seal"))?;
            let flags = RenameFlags::NOREPLACE;
            rustix::fs::renameat_with(&bout.layer, c"source", &bout.tree, c"moved", flags)
                .map_err(io("rename"))
        })?;
        self.copied.insert("rename", 0);
        rustix::fs::renameat(&self.tree, c"moved", &self.layer, c"source").map_err(io("rename back"))?;
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::chmodat(&self.layer, c"source", mode, AtFlags::empty())
            .map_err(io("change the mode of"))?;
        Ok(sample)
    }

    /// A new file handed off; its blob is removed again.
    fn whole(&mut self) -> Result<Sample, BenchError> {
        self.write("output")?;
        settle(&self.volume)?;
        let started = Instant::now();
        let path = self.volume.join("layer/output");
        hash(&path)?;
        let hashing = started.elapsed();
        let ((digest, copied), mut sample) = self.measure(|bout| bout.hand_off("output"))?;
        sample.phases.push(("hash", hashing));
        self.copied.insert("handed-off", copied);
        let blob = Cas::object_path(&digest);
        rustix::fs::unlinkat(self.cas.objects(), blob.as_str(), AtFlags::empty())
            .map_err(io("remove the blob"))?;
        Ok(sample)
    }

    fn measure<T>(
        &mut self,
        work: impl FnOnce(&Self) -> Result<T, BenchError>,
    ) -> Result<(T, Sample), BenchError> {
        let begun = self.cpu.begin();
        let started = Instant::now();
        let done = work(self);
        let latency = started.elapsed();
        let cpu = self.cpu.end(&begun, || {});
        Ok((done?, Sample { latency, cpu, phases: Vec::new() }))
    }

    fn hand_off(&self, name: &str) -> Result<(Digest, u64), BenchError> {
        let request = HandoffRequest {
            upper: self.layer.as_fd(),
            merged: None,
            command: &command(name),
            inputs: &NoInputs,
            marks: Marks::Trusted,
            function: FUNCTION,
            cas: &self.cas,
            limits: HandoffLimits::DEFAULT,
        };
        let done = output::hand_off(&request).map_err(broken)?;
        let file = done.files.first().ok_or_else(|| broken("the output is not there"))?;
        if done.handoff.renamed != 1 {
            return Err(broken(format!("the output was not renamed: {:?}", done.handoff)));
        }
        Ok((file.digest, done.handoff.bytes_copied))
    }

    /// A file that no other one equals.
    fn write(&mut self, name: &str) -> Result<(), BenchError> {
        self.serial += 1;
        let path = self.volume.join("layer").join(name);
        let failed = || BenchError::file(format!("write {}", path.display()));
        let mut file = File::create(&path).map_err(failed())?;
        let mut block = vec![0x5a; 1 << 20];
        let mut left = self.bytes;
        while left > 0 {
            let length = left.min(block.len() as u64);
            block[..8].copy_from_slice(&(self.serial << 32 | left >> 10).to_le_bytes());
            let length = usize::try_from(length).unwrap_or(0);
            file.write_all(&block[..length]).map_err(failed())?;
            left -= length as u64;
        }
        Ok(())
    }
}

/// Reads and hashes a file, as the store does it.
fn hash(path: &Path) -> Result<Digest, BenchError> {
    let failed = || BenchError::file(format!("read {}", path.display()));
    let mut file = File::open(path).map_err(failed())?;
    let (mut hasher, mut buffer) = (Hasher::new(FUNCTION), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer).map_err(failed())? {
            0 => return Ok(hasher.finish()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// Writes everything out, so that no measurement pays for what an earlier one wrote.
fn settle(directory: &Path) -> Result<(), BenchError> {
    let directory = open_directory(directory).map_err(BenchError::file("open the directory to sync"))?;
    rustix::fs::syncfs(&directory).map_err(io("write out"))
}

fn command(output: &str) -> Command {
    let path = ExecPath::new(output).ok();
    Command {
        arguments: Vec::new(),
        environment: Vec::new(),
        outputs: vec![CommandOutput { declared: output.to_owned(), path, kind: OutputKind::Any }],
        outputs_are_typed: false,
        working_directory: None,
        platform: Vec::new(),
        output_properties: Vec::new(),
        output_directory_format: OutputDirectoryFormat::TreeOnly,
    }
}

fn broken(why: impl ToString) -> BenchError {
    BenchError::File { what: "hand off".to_owned(), why: std::io::Error::other(why.to_string()) }
}

fn io(what: &'static str) -> impl Fn(rustix::io::Errno) -> BenchError {
    move |why| BenchError::File { what: format!("{what} a file of the measurement"), why: why.into() }
}

/// The report for people.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = format!("{}\n", report.host);
    let mut shown = None;
    for case in &report.cases {
        if shown != Some(&case.params) {
            shown = Some(&case.params);
            let param = |name| case.params.get(name).map_or("", String::as_str);
            let _ = writeln!(
                text,
                "\n{} bytes on {}; times in microseconds",
                param("bytes"),
                param("filesystem")
            );
            let _ = writeln!(
                text,
                "{:<12} {:>5} {:>11} {:>11} {:>11} {:>11} {:>13}",
                "case", "n", "p50", "p95", "CPU", "of it hash", "bytes copied"
            );
        }
        if let Some(error) = &case.error {
            let _ = writeln!(text, "{:<12} failed: {error}", case.name);
            continue;
        }
        let micros = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
        let part = |name: &str| case.parts.get(name).copied();
        let _ = writeln!(
            text,
            "{:<12} {:>5} {:>11} {:>11} {:>11} {:>11} {:>13}",
            case.name,
            case.n,
            micros(case.p50_us),
            micros(case.p95_us),
            micros(case.cpu_us),
            micros(part("hash_p50_us")),
            micros(part("bytes_copied")),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_what_failed_and_what_was_copied() {
        let params = BTreeMap::from([("bytes", "1024".to_owned()), ("filesystem", "ext4".to_owned())]);
        let mut copy =
            CaseReport { name: "copy".to_owned(), params: params.clone(), n: 3, ..CaseReport::default() };
        copy.parts.insert("bytes_copied".to_owned(), 1024.0);
        let error = Some("not supported".to_owned());
        let reflink = CaseReport { name: "reflink".to_owned(), params, error, ..CaseReport::default() };
        let host = HostReport {
            kernel: "6.18".to_owned(),
            cores: 2,
            cgroup: "v2",
            filesystem: "ext4".to_owned(),
            load: 0.0,
        };
        let text = table(&Report { bench: "handoff", host, cases: vec![reflink, copy] });
        assert!(text.contains("1024 bytes on ext4") && text.contains("failed: not supported"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("copy") && line.ends_with("1024")), "{text}");
    }
}
