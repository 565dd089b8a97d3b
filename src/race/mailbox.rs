//! Where a race hears from its branches, from its caller and from the gate.
//!
//! Invariants: nobody who sends ever waits: each sender has at most two messages, which bounds the box; what comes
//! after `close` goes back to its sender, who disposes of it; nothing in it is dropped unseen.

use super::limits::MAILBOX_MAX;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A box for messages.
#[derive(Debug)]
pub struct Mailbox<M> {
    state: Mutex<State<M>>,
    bell: Condvar,
}

#[derive(Debug)]
struct State<M> {
    messages: VecDeque<M>,
    closed: bool,
}

impl<M> Default for Mailbox<M> {
    fn default() -> Self {
        let state = State { messages: VecDeque::with_capacity(MAILBOX_MAX), closed: false };
        Mailbox { state: Mutex::new(state), bell: Condvar::new() }
    }
}

impl<M> Mailbox<M> {
    /// Puts a message in.
    ///
    /// # Errors
    /// The message, if nobody will read it.
    pub fn send(&self, message: M) -> Result<(), M> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed || state.messages.len() >= MAILBOX_MAX {
            return Err(message);
        }
        state.messages.push_back(message);
        self.bell.notify_one();
        Ok(())
    }

    /// Takes the oldest message; `None` when it is `until` and there is none.
    pub fn take(&self, until: Option<Instant>) -> Option<M> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(message) = state.messages.pop_front() {
                return Some(message);
            }
            state = match until {
                None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Nobody reads any more; gives what nobody has read.
    pub fn close(&self) -> Vec<M> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.messages.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_goes_back() {
        let mailbox = Mailbox::default();
        mailbox.send(1).unwrap();
        mailbox.send(2).unwrap();
        assert_eq!(mailbox.take(None), Some(1));
        assert_eq!(mailbox.close(), [2]);
        assert_eq!(mailbox.send(3), Err(3));
        assert_eq!(mailbox.take(Some(Instant::now())), None);
    }

    #[test]
    fn it_is_bounded() {
        let mailbox = Mailbox::default();
        let taken = (0..100).filter(|number| mailbox.send(*number).is_ok()).count();
        assert_eq!(taken, MAILBOX_MAX);
    }
}
