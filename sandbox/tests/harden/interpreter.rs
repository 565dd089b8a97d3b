//! A reference interpreter of classic BPF as seccomp runs it. Strict: it panics on everything that the kernel
//! would refuse at install (unknown instructions, odd offsets, jumps or falls off the end).

use fulgurite_sandbox::harden::seccomp::{SockFilter, SyscallData};

/// What a run gave.
pub struct Run {
    /// `SECCOMP_RET_*`.
    pub value: u32,
    /// Instructions executed.
    pub steps: usize,
}

/// Runs a program on one syscall.
pub fn run(program: &[SockFilter], data: &SyscallData) -> Run {
    let bytes = encode(data);
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0usize);
    loop {
        let SockFilter { code, jt, jf, k } = program[at];
        steps += 1;
        at += 1;
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        match code {
            0x20 => {
                let offset = usize::try_from(k).unwrap();
                assert!(offset % 4 == 0 && offset + 4 <= bytes.len(), "load of {offset}");
                accumulator = u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
            }
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => at += branch(accumulator == k),
            0x35 => at += branch(accumulator >= k),
            0x06 => return Run { value: k, steps },
            other => panic!("instruction {other:#x} at {}", at - 1),
        }
    }
}

/// Checks every jump, also on paths that no input takes, as the kernel does before it accepts a program.
pub fn check(program: &[SockFilter]) {
    assert!(!program.is_empty() && program.len() < 4096);
    for (at, SockFilter { code, jt, jf, k }) in program.iter().copied().enumerate() {
        let farthest = match code {
            0x05 => usize::try_from(k).unwrap(),
            0x15 | 0x35 => usize::from(jt.max(jf)),
            _ => continue,
        };
        assert!(at + 1 + farthest < program.len(), "jump at {at} leaves the program");
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06));
}

/// `struct seccomp_data` in memory, little-endian.
fn encode(data: &SyscallData) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0..4].copy_from_slice(&data.number.to_le_bytes());
    bytes[4..8].copy_from_slice(&data.arch.to_le_bytes());
    bytes[8..16].copy_from_slice(&data.instruction_pointer.to_le_bytes());
    for (slot, arg) in bytes[16..].chunks_exact_mut(8).zip(data.args) {
        slot.copy_from_slice(&arg.to_le_bytes());
    }
    bytes
}
