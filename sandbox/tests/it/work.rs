//! A worker that does what each line of its standard input says, and answers each with one line.
//!
//! `child N …` and `thread …` have the rest done by a child process and by another thread.
#![allow(unsafe_code)]
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Does what lines say until there are no more.
pub fn main() -> ExitCode {
    let mut desk = Desk::default();
    let mut staff = Staff { children: Vec::new(), thread: thread() };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return ExitCode::FAILURE };
        let answer = match staff.delegate(&line) {
            Some(answer) => answer,
            None => desk.answer(&line),
        };
        if writeln!(std::io::stdout(), "{answer}").and_then(|()| std::io::stdout().flush()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

type Colleague = (SyncSender<String>, Receiver<String>);

struct Staff {
    children: Vec<(ChildStdin, BufReader<ChildStdout>)>,
    thread: Colleague,
}

/// A thread with a desk of its own.
fn thread() -> Colleague {
    let (ask, asked) = sync_channel::<String>(1);
    let (answer, answered) = sync_channel(1);
    std::thread::spawn(move || {
        let mut desk = Desk::default();
        asked.into_iter().map(|line| answer.send(desk.answer(&line))).all(|sent| sent.is_ok())
    });
    (ask, answered)
}

impl Staff {
    fn delegate(&mut self, line: &str) -> Option<String> {
        let (who, rest) = line.split_once(' ')?;
        let through = |(ask, answered): &Colleague| {
            let _ = ask.send(rest.to_owned());
            answered.recv().unwrap_or_else(|_| "failed: no thread".to_owned())
        };
        match who {
            "thread" => Some(through(&self.thread)),
            "hire" => Some(said(self.hire(rest))),
            "child" => {
                let (number, rest) = rest.split_once(' ')?;
                let child = self.children.get_mut(number.parse::<usize>().ok()?)?;
                Some(said(ask(child, rest)))
            }
            _ => None,
        }
    }

    /// Starts a child in a directory.
    fn hire(&mut self, directory: &str) -> Result<String> {
        let mut child = std::process::Command::new(crate::fixture::PROBE)
            .args(["probe", "work"])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::other("no pipes"));
        };
        self.children.push((stdin, BufReader::new(stdout)));
        Ok((self.children.len() - 1).to_string())
    }
}

fn ask(child: &mut (ChildStdin, BufReader<ChildStdout>), line: &str) -> Result<String> {
    writeln!(child.0, "{line}")?;
    child.0.flush()?;
    let mut answer = String::new();
    child.1.read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

fn said(answer: Result<String>) -> String {
    match answer {
        Ok(text) => text.replace('\n', " ").trim_end().to_owned(),
        Err(error) => format!("failed: {error}"),
    }
}

/// What one keeps between lines.
#[derive(Default)]
struct Desk {
    held: Option<OwnedFd>,
    opened: Option<std::fs::File>,
    mapped: Option<Mapped>,
    hoard: Vec<Vec<u8>>,
    racing: Option<Racing>,
}

impl Desk {
    fn answer(&mut self, line: &str) -> String {
        said(self.obey(line))
    }

    fn obey(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let done = |()| "done".to_owned();
        match words.as_slice() {
            ["cat", path] => std::fs::read_to_string(path),
            ["list", path] => {
                let names = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
                let mut names = names.collect::<Result<Vec<_>>>()?;
                names.sort();
                Ok(names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(" "))
            }
            ["cwd"] => Ok(std::env::current_dir()?.display().to_string()),
            ["write", path, text] => std::fs::write(path, text).map(done),
            ["move", path, to] => std::fs::rename(path, to).map(done),
            ["mode", path, mode] => {
                let mode = u32::from_str_radix(mode, 8).unwrap_or(0);
                std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map(done)
            }
            ["hold", path] => {
                let flags = OFlags::DIRECTORY | OFlags::RDONLY;
                self.held = Some(rustix::fs::open(*path, flags, Mode::empty())?);
                Ok("done".to_owned())
            }
            ["held-cat", path] => {
                let mut text = String::new();
                self.held(path, OFlags::RDONLY)?.read_to_string(&mut text)?;
                Ok(text)
            }
            ["held-write", path, text] => {
                self.held(path, OFlags::WRONLY | OFlags::CREATE)?.write_all(text.as_bytes()).map(done)
            }
            ["open", path] => {
                self.opened = Some(std::fs::File::options().read(true).write(true).open(path)?);
                Ok("done".to_owned())
            }
            ["say", text] => self
                .opened
                .as_mut()
                .ok_or(Error::other("nothing is open"))?
                .write_all(text.as_bytes())
                .map(done),
            ["map"] => {
                let file = self.opened.take().ok_or(Error::other("nothing is open"))?;
                self.mapped = Some(Mapped::new(&file)?);
                Ok("done".to_owned())
            }
            ["poke", byte] => {
                let map = self.mapped.as_mut().ok_or(Error::other("nothing is mapped"))?;
                map.poke(byte.bytes().next().unwrap_or(b'?'));
                Ok("done".to_owned())
            }
            ["let-go"] => {
                (self.held, self.opened, self.mapped) = (None, None, None);
                Ok("done".to_owned())
            }
            ["hoard", mebibytes] => {
                self.hoard.push(vec![1; mebibytes.parse::<usize>().unwrap_or(0) << 20]);
                Ok("done".to_owned())
            }
            ["race", board, paths] => {
                let board = Arc::new(Shared::open(Path::new(board))?);
                self.racing = Some(Racing::start(&board, paths));
                Ok("done".to_owned())
            }
            ["raced"] => self.racing.take().ok_or(Error::other("nobody races"))?.end(),
            ["exit", code] => std::process::exit(code.parse().unwrap_or(1)),
            ["abort"] => std::process::abort(),
            _ => Err(Error::other(format!("what is {line:?}?"))),
        }
    }

    fn held(&self, path: &str, flags: OFlags) -> Result<std::fs::File> {
        let held = self.held.as_ref().ok_or(Error::other("nothing is held"))?;
        Ok(rustix::fs::openat(held, path, flags, Mode::from_raw_mode(0o644))?.into())
    }
}

/// The first page of a file, mapped writable and shared.
struct Mapped {
    address: *mut u8,
}

/// Bytes that are mapped.
const PAGE: usize = 4096;

impl Mapped {
    fn new(file: &std::fs::File) -> Result<Mapped> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the address is the kernel's choice, and nothing else knows the mapping.
        let address = unsafe { mmap(std::ptr::null_mut(), PAGE, protection, flags, file, 0) }?;
        Ok(Mapped { address: address.cast() })
    }

    fn poke(&mut self, byte: u8) {
        // SAFETY: the page is mapped writable, and the tests map no empty file.
        unsafe { self.address.write_volatile(byte) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and not used any more.
        let _ = unsafe { rustix::mm::munmap(self.address.cast(), PAGE) };
    }
}

/// Two words that a worker and its owner share: the view that is asked for, and the lowest one that may be found.
pub struct Shared {
    map: Mapped,
}

// SAFETY: the words are only touched as atomics.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps them from a file.
    pub fn open(path: &Path) -> Result<Shared> {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        Ok(Shared { map: Mapped::new(&file)? })
    }

    fn word(&self, number: usize) -> &AtomicU64 {
        // SAFETY: the page is mapped, aligned, and has more than two words, which are atomics for everybody.
        unsafe { AtomicU64::from_ptr(self.map.address.cast::<u64>().add(number)) }
    }

    /// Says what is asked for.
    pub fn ask(&self, number: u64) {
        self.word(0).store(number, Ordering::SeqCst);
    }

    /// Says that it is there, and nothing below it.
    pub fn answered(&self, number: u64) {
        self.word(1).store(number, Ordering::SeqCst);
    }

    fn now(&self) -> [u64; 2] {
        [self.word(0).load(Ordering::SeqCst), self.word(1).load(Ordering::SeqCst)]
    }
}

/// Threads that look for a view that should be gone.
struct Racing {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<std::result::Result<u64, String>>>,
}

impl Racing {
    fn start(board: &Arc<Shared>, paths: &str) -> Racing {
        let stop = Arc::new(AtomicBool::new(false));
        let run = |_| {
            let (board, stop) = (board.clone(), stop.clone());
            let paths: Vec<String> = paths.split(' ').map(str::to_owned).collect();
            std::thread::spawn(move || {
                let mut looked = 0;
                while !stop.load(Ordering::Relaxed) {
                    paths.iter().try_for_each(|path| look(&board, path))?;
                    looked += 1;
                }
                Ok(looked)
            })
        };
        Racing { threads: (0..2).map(run).collect(), stop }
    }

    fn end(self) -> Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        for thread in self.threads {
            let looked = thread.join().map_err(|_| Error::other("panicked"))?;
            total += looked.map_err(Error::other)?;
        }
        Ok(format!("looked {total} times by every path"))
    }
}

fn look(board: &Shared, path: &str) -> std::result::Result<(), String> {
    let [_, floor] = board.now();
    let found = std::fs::read_to_string(path);
    match found.as_deref().map(str::parse::<u64>) {
        Ok(Ok(found)) if found >= floor => Ok(()),
        Ok(found) => Err(format!("{path} is {found:?} when nothing below {floor} was to be found")),
        // Between two views there may be none.
        Err(_) if board.now()[0] != floor => Ok(()),
        Err(error) => Err(format!("{path} is not there, at {floor}: {error}")),
    }
}
