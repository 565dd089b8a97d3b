//! N06: System V objects, message queues, shared memory.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys;

/// N06.
pub fn objects(facts: &Facts, report: &mut Report) {
    by_key(facts, report);
    by_index(report);
    for table in ["shm", "sem", "msg"] {
        let text = std::fs::read_to_string(format!("/proc/sysvipc/{table}")).unwrap_or_default();
        let lines = text.lines().skip(1).count();
        report.check(lines > 0, format!("/proc/sysvipc/{table} lists {lines} objects"));
    }
    for directory in ["/dev/shm", "/dev/mqueue", "/run/shm", "/run/lock"] {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        let first = names.first().cloned().unwrap_or_default();
        report.check(!names.is_empty(), format!("{directory} has {} entries, such as {first}", names.len()));
    }
    let mut queues = vec!["fulgurite".to_string(), "test".to_string()];
    queues.extend(facts.get("mqueue_name").map(|n| n.trim_start_matches('/').to_string()));
    for queue in queues {
        let name = sys::cpath(&queue);
        for flags in [libc::O_RDONLY, libc::O_RDWR] {
            let opened = sys::call(libc::SYS_mq_open, &[name.as_ptr() as u64, flags as u64, 0, 0]);
            report.check(opened.is_ok(), format!("opened message queue {queue}"));
        }
    }
}

fn by_key(facts: &Facts, report: &mut Report) {
    let mut keys = vec![0x1234, 0x5432_1000_u64 & 0x7fff_ffff, 1];
    match facts.number("sysv_shm_key") {
        Some(key) => keys.insert(0, key),
        None => report.note("no fact sysv_shm_key"),
    }
    for key in keys {
        let segment = sys::call(libc::SYS_shmget, &[key, 0, 0]);
        report.check(segment.is_ok(), format!("SysV segment with key {key:#x}"));
        if let Ok(id) = segment
            && let Ok(address) = sys::call(libc::SYS_shmat, &[id as u64, 0, libc::SHM_RDONLY as u64])
        {
            report.broke(format!("attached segment {id}"));
            let _ = sys::call(libc::SYS_shmdt, &[address as u64]);
        }
        report.check(
            sys::call(libc::SYS_semget, &[key, 0, 0]).is_ok(),
            format!("SysV semaphore with key {key:#x}"),
        );
        report.check(sys::call(libc::SYS_msgget, &[key, 0]).is_ok(), format!("SysV queue with key {key:#x}"));
    }
}

/// Index statistics need no right to the object; the kernel answers for whatever is in the namespace.
fn by_index(report: &mut Report) {
    const STAT_ANY: [(&str, i64, u64); 3] = [
        ("segment", libc::SYS_shmctl, 15),
        ("queue", libc::SYS_msgctl, 13),
        ("semaphore", libc::SYS_semctl, 20),
    ];
    let mut buffer = [0u64; 64];
    for (what, number, command) in STAT_ANY {
        for index in 0..64u64 {
            let place = buffer.as_mut_ptr() as u64;
            let args = if number == libc::SYS_semctl {
                [index, 0, command, place]
            } else {
                [index, command, place, 0]
            };
            report.check(sys::call(number, &args).is_ok(), format!("{what} at index {index}"));
        }
    }
}
