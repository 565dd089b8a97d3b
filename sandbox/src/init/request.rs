//! The command of an action as it travels: one memfd that the action's process maps and executes from.
//!
//! ```text
//! u64 magic | u64 candidates | u64 arguments | u64 variables | u64 directory offset
//! candidates × u64 offset | (arguments + 1) × u64 offset, last 0 | (variables + 1) × u64 offset, last 0 | strings
//! ```
//! Native byte order: the receiver turns the offsets into pointers in place, so that nothing is copied or allocated
//! between the message and `execve`. Candidates are the paths to try for the program, in order, as execvp(3) does.
use crate::sys::{Errno, Result};
use std::ffi::{CStr, CString};

const MAGIC: u64 = 0x4655_4c52_4551_0001;
const HEADER: usize = 5;
const WORD: usize = 8;

/// The largest request; Linux itself refuses more than a quarter of the stack limit, 2 MiB by default.
pub const BYTES_MAX: usize = 8 << 20;

/// Lays out a request. `E2BIG` when it is larger than [`BYTES_MAX`].
pub fn encode(
    candidates: &[CString],
    arguments: &[CString],
    variables: &[CString],
    directory: &CStr,
) -> Result<Vec<u8>> {
    let words = HEADER + candidates.len() + arguments.len() + 1 + variables.len() + 1;
    let mut table: Vec<u64> = Vec::with_capacity(words);
    let mut strings: Vec<u8> = Vec::with_capacity(4096);
    let mut place = |text: &CStr| {
        let offset = words * WORD + strings.len();
        strings.extend_from_slice(text.to_bytes_with_nul());
        offset as u64
    };
    let directory = place(directory);
    let counts = [candidates.len(), arguments.len(), variables.len()];
    table.push(MAGIC);
    table.extend(counts.map(|count| count as u64));
    table.push(directory);
    table.extend(candidates.iter().map(|text| place(text)));
    table.extend(arguments.iter().map(|text| place(text)));
    table.push(0);
    table.extend(variables.iter().map(|text| place(text)));
    table.push(0);
    let mut bytes = Vec::with_capacity(words * WORD + strings.len());
    for word in table {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&strings);
    if bytes.len() > BYTES_MAX { Err(Errno::TOOBIG) } else { Ok(bytes) }
}

/// A request that is mapped, checked, and ready to execute from.
pub struct Request<'a> {
    words: &'a [u64],
    base: *const u8,
    counts: [usize; 3],
}

impl<'a> Request<'a> {
    /// Checks a mapped request and turns its offsets into addresses.
    ///
    /// `bytes` must be aligned to 8, which every mapping is.
    pub fn open(bytes: &'a mut [u8]) -> Result<Self> {
        let length = bytes.len();
        if length < (HEADER + 2) * WORD
            || bytes.last() != Some(&0)
            || !(bytes.as_ptr() as usize).is_multiple_of(WORD)
        {
            return Err(Errno::BADMSG);
        }
        let base = bytes.as_ptr();
        // SAFETY: the mapping is aligned (checked), writable and borrowed for 'a; u64 has no invalid values.
        let words =
            unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<u64>(), length / WORD) };
        let count = |index: usize| words.get(index).and_then(|word| usize::try_from(*word).ok());
        if words.first() != Some(&MAGIC) {
            return Err(Errno::BADMSG);
        }
        let (Some(candidates), Some(arguments), Some(variables)) = (count(1), count(2), count(3)) else {
            return Err(Errno::BADMSG);
        };
        if candidates.max(arguments).max(variables) > words.len() {
            return Err(Errno::BADMSG);
        }
        let end = HEADER + candidates + arguments + variables + 2;
        let strings_start = end * WORD;
        for (index, word) in words.get_mut(HEADER - 1..end).ok_or(Errno::BADMSG)?.iter_mut().enumerate() {
            let terminator =
                index == 1 + candidates + arguments || index == 2 + candidates + arguments + variables;
            let offset = usize::try_from(*word).map_err(|_| Errno::BADMSG)?;
            if terminator != (offset == 0) || (!terminator && !(strings_start..length).contains(&offset)) {
                return Err(Errno::BADMSG);
            }
            if !terminator {
                *word += base as u64;
            }
        }
        Ok(Request { words, base, counts: [candidates, arguments, variables] })
    }

    fn text(&self, index: usize) -> Result<&'a CStr> {
        let address = *self.words.get(index).ok_or(Errno::BADMSG)?;
        if address < self.base as u64 {
            return Err(Errno::BADMSG);
        }
        // SAFETY: `open` made this word the address of a byte inside the mapping, whose last byte is NUL, so a
        // terminator is met before its end; the mapping lives for 'a.
        Ok(unsafe { CStr::from_ptr(address as *const libc::c_char) })
    }

    /// The directory to change to.
    pub fn directory(&self) -> Result<&'a CStr> {
        self.text(HEADER - 1)
    }

    /// How many paths there are to try.
    #[must_use]
    pub fn candidates(&self) -> usize {
        self.counts[0]
    }

    /// Path number `index` to try.
    pub fn candidate(&self, index: usize) -> Result<&'a CStr> {
        if index < self.counts[0] { self.text(HEADER + index) } else { Err(Errno::BADMSG) }
    }

    /// The argument array for execve(2).
    #[must_use]
    pub fn arguments(&self) -> *const *const u8 {
        self.words[HEADER + self.counts[0]..].as_ptr().cast()
    }

    /// The environment array for execve(2).
    #[must_use]
    pub fn variables(&self) -> *const *const u8 {
        self.words[HEADER + self.counts[0] + self.counts[1] + 1..].as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn aligned(bytes: &[u8]) -> Vec<u64> {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        // SAFETY: `words` holds at least as many bytes, all of them initialized.
        unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), bytes.len()) }
            .copy_from_slice(bytes);
        words
    }

    fn with<R>(bytes: &[u8], length: usize, check: impl FnOnce(Result<Request<'_>>) -> R) -> R {
        let mut words = aligned(bytes);
        // SAFETY: `length` is at most the size of `words` in bytes.
        let view = unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), length) };
        check(Request::open(view))
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let bytes = encode(&[c("/bin/a"), c("/usr/bin/a")], &[c("a"), c("")], &[c("X=1")], c"/work").unwrap();
        with(&bytes, bytes.len(), |request| {
            let request = request.unwrap();
            assert_eq!(request.directory().unwrap(), c"/work");
            assert_eq!(request.candidates(), 2);
            assert_eq!(request.candidate(1).unwrap(), c"/usr/bin/a");
            assert!(request.candidate(2).is_err());
            assert_eq!(request.text(HEADER + 2).unwrap(), c"a");
            assert_eq!(request.text(HEADER + 3).unwrap(), c"");
            // SAFETY: `variables` points to an array of two words, the second of which is null.
            let (first, second) = unsafe { (*request.variables(), *request.variables().add(1)) };
            // SAFETY: the first variable is a NUL-terminated string inside the request.
            assert_eq!(unsafe { CStr::from_ptr(first.cast()) }, c"X=1");
            assert!(second.is_null());
        });
    }

    #[test]
    fn a_damaged_request_is_refused() {
        let bytes = encode(&[c("/bin/a")], &[c("a")], &[], c"/work").unwrap();
        for cut in 0..bytes.len() {
            // A cut that ends in NUL may still be whole enough to be read safely; all others are refused.
            with(&bytes[..cut], cut, |request| {
                if let Ok(request) = request {
                    assert!(request.directory().is_ok());
                }
            });
        }
        for at in 0..(HEADER + 5) * WORD {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            with(&damaged, damaged.len(), |request| {
                if let Ok(request) = request {
                    let _ = (request.directory().unwrap().to_bytes().len(), request.candidate(0).is_ok());
                }
            });
        }
    }
}
