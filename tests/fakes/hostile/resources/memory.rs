//! R03 and R04: memory, also the kinds that no process seems to own.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, End, errname};
use crate::walk;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const CHUNK: usize = 4 << 20;
const SECONDS: u64 = 60;
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What an eater works with: how much, until when, and where it counts.
struct Meal {
    bytes: u64,
    end: Instant,
    eaten: &'static AtomicU64,
}

impl Meal {
    fn over(&self) -> bool {
        self.eaten.load(SeqCst) >= self.bytes || Instant::now() > self.end
    }

    fn ate(&self, bytes: usize) {
        self.eaten.fetch_add(bytes as u64, SeqCst);
    }
}

/// Runs an eater in a child of its own, so that this process can tell of its death. The eater ends with `Ok` when it
/// got everything, and with the errno of a refusal.
fn eat(facts: &Facts, report: &mut Report, what: &str, eater: impl FnOnce(&Meal) -> Result<(), i32>) {
    let Some(limit) = facts.number("memory_limit") else { return report.skip("no fact memory_limit") };
    let Ok(shared) = sys::shared() else { return report.broke("inconclusive: no shared memory") };
    let meal = Meal {
        bytes: limit.saturating_mul(2),
        end: Instant::now() + Duration::from_secs(SECONDS),
        eaten: &shared[0],
    };
    let end = sys::in_child(SECONDS + 10, || {
        // Immunity, and the blame for someone else; both must fail.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
        match eater(&meal) {
            Ok(()) => b"all".to_vec(),
            Err(e) => errname(e).into_bytes(),
        }
    });
    let eaten = shared[0].load(SeqCst);
    let size = format!("{} MiB of {what}, limit {} MiB", eaten >> 20, limit >> 20);
    match end {
        End::Said(said) if said == b"all" => report.broke(format!("got {size}")),
        End::Said(said) => {
            report.check(eaten > limit, format!("refused only after {size}"));
            report.note(format!("{} after {size}", String::from_utf8_lossy(&said)));
        }
        End::Signal(libc::SIGKILL | libc::SIGBUS) => {
            report.held();
            report.note(format!("killed after {size}"));
        }
        End::Signal(s) => report.broke(format!("inconclusive: signal {s} after {size}")),
        End::Hung => report.broke(format!("inconclusive: hung after {size}")),
        End::NoFork(e) => report.broke(format!("inconclusive: fork {}", errname(e))),
    }
}

/// R03.
pub fn anonymous(facts: &Facts, report: &mut Report) {
    eat(facts, report, "anonymous memory", |meal| {
        while !meal.over() {
            let (rw, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a fresh mapping at an address of the kernel's choice; it is kept on purpose.
            let place = unsafe { libc::mmap(std::ptr::null_mut(), CHUNK, rw, kind, -1, 0) };
            if place == libc::MAP_FAILED {
                return Err(sys::errno());
            }
            touch(place.cast(), meal);
        }
        Ok(())
    });
}

/// Writes one word into every page of a chunk.
fn touch(place: *mut u8, meal: &Meal) {
    for offset in (0..CHUNK).step_by(4096) {
        // SAFETY: the offset is within the mapping of CHUNK bytes.
        unsafe { place.add(offset).cast::<usize>().write_volatile(offset | 1) };
        meal.ate(4096);
    }
}

/// R04-memfd.
pub fn memfd(facts: &Facts, report: &mut Report) {
    eat(facts, report, "memfds", |meal| {
        let mut all = Vec::new();
        while !meal.over() {
            let name = c"hostile";
            let fd = sys::own(sys::call(libc::SYS_memfd_create, &[name.as_ptr() as u64, 0])?)?;
            let mut file = File::from(fd);
            for _ in 0..16 {
                write(&mut file, meal)?;
            }
            all.push(file);
        }
        Ok(())
    });
}

fn write(file: &mut File, meal: &Meal) -> Result<(), i32> {
    let block = vec![0x5a; 1 << 20];
    for _ in 0..CHUNK >> 20 {
        if meal.over() {
            return Ok(());
        }
        file.write_all(&block).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
        meal.ate(block.len());
    }
    Ok(())
}

/// R04-tmpfs.
pub fn tmpfs(facts: &Facts, report: &mut Report) {
    let mut places = walk::writable(facts);
    places.extend(["/tmp", "/dev/shm", "/dev", "/run"].map(PathBuf::from));
    places.sort();
    places.dedup();
    places.retain(|p| sys::fs_type(p) == Some(TMPFS_MAGIC));
    for place in places {
        let path = place.join(".hostile-r04");
        let Ok(mut file) = File::create(&path) else { continue };
        eat(facts, report, &format!("tmpfs {}", place.display()), |meal| {
            while !meal.over() {
                write(&mut file, meal)?;
            }
            Ok(())
        });
        let _ = std::fs::remove_file(&path);
    }
    report.skip("no writable tmpfs, or no fact memory_limit");
}

/// R04-pipe.
pub fn pipes(facts: &Facts, report: &mut Report) {
    super::objects::raise_descriptors();
    eat(facts, report, "pipes", |meal| {
        let mut kept: Vec<(OwnedFd, OwnedFd)> = Vec::new();
        let block = vec![0x5a; 64 << 10];
        while !meal.over() {
            let (read, write) = std::io::pipe().map_err(|e| e.raw_os_error().unwrap_or(libc::EMFILE))?;
            let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
            let fd = write.as_raw_fd() as u64;
            let _ = sys::call(libc::SYS_fcntl, &[fd, libc::F_SETPIPE_SZ as u64, 1 << 20]);
            let _ = sys::call(libc::SYS_fcntl, &[fd, libc::F_SETFL as u64, libc::O_NONBLOCK as u64]);
            while let Ok(n) = sys::call(libc::SYS_write, &[fd, block.as_ptr() as u64, block.len() as u64]) {
                meal.ate(usize::try_from(n).unwrap_or(0));
            }
            kept.push((read, write));
        }
        Ok(())
    });
}

/// R04-sysv.
pub fn segments(facts: &Facts, report: &mut Report) {
    eat(facts, report, "SysV segments", |meal| {
        while !meal.over() {
            let id = sys::call(libc::SYS_shmget, &[0, CHUNK as u64, 0o1600])? as u64;
            let place = sys::call(libc::SYS_shmat, &[id, 0, 0]);
            // Marked for removal at once, or it would stay when this process is killed.
            let _ = sys::call(libc::SYS_shmctl, &[id, 0, 0]);
            touch(place? as *mut u8, meal);
        }
        Ok(())
    });
}
