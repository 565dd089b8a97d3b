//! A worker that does what each line of its standard input says, and answers each with one line.
//!
//! `child N …` and `thread …` have the rest done by a child process and by another thread.
#![allow(unsafe_code)]
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::process::{ChildStdin, ChildStdout, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

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
