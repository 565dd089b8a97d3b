//! Failpoints: places where a test makes the program die, or makes a system call fail.
//!
//! ```text
//!   FULGURITE_FAILPOINT=name            die (SIGKILL to ourselves) when the place is reached
//!   FULGURITE_FAILPOINT=name:3          … for the third time
//!   FULGURITE_FAILPOINT=name:3=5        in place of that, fail with errno 5 (EIO), that one time
//! ```
//! The variable is read once. `arm` does the same for the calling thread alone, so that tests of one process do not
//! meet. Invariant: a build without `test-fakes` has none of this: [`hit`] is then nothing at all.

use rustix::io::Errno;

/// Passes, fails, or does not return: as the test asked for this place.
///
/// # Errors
/// What the test asked for.
#[cfg(not(any(test, feature = "test-fakes")))]
#[inline(always)]
pub fn hit(_name: &'static str) -> Result<(), Errno> {
    Ok(())
}

#[cfg(any(test, feature = "test-fakes"))]
pub use armed::{Armed, arm, hit};

#[cfg(any(test, feature = "test-fakes"))]
mod armed {
    use super::Errno;
    use std::cell::RefCell;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The variable that arms one place of a whole process.
    const VARIABLE: &str = "FULGURITE_FAILPOINT";

    /// What was asked for.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Order {
        name: String,
        /// At which visit, from one.
        visit: u64,
        /// The error; none is death.
        errno: Option<Errno>,
    }

    thread_local! {
        static OF_THREAD: RefCell<Vec<(Order, u64)>> = const { RefCell::new(Vec::new()) };
    }

    /// Passes, fails, or does not return: as the test asked for this place.
    ///
    /// # Errors
    /// What the test asked for.
    pub fn hit(name: &'static str) -> Result<(), Errno> {
        static OF_PROCESS: OnceLock<Option<Order>> = OnceLock::new();
        static VISITS: AtomicU64 = AtomicU64::new(0);
        let order = OF_PROCESS.get_or_init(|| std::env::var(VARIABLE).ok().and_then(|text| parse(&text)));
        if let Some(order) = order
            && order.name == name
            && VISITS.fetch_add(1, Ordering::Relaxed) + 1 == order.visit
        {
            obey(order)?;
        }
        let due = OF_THREAD.with_borrow_mut(|orders| {
            let (order, visits) = orders.iter_mut().find(|(order, _)| order.name == name)?;
            *visits += 1;
            (*visits == order.visit).then(|| order.clone())
        });
        due.map_or(Ok(()), |order| obey(&order))
    }

    /// A place is armed for the calling thread until this is dropped.
    #[derive(Debug)]
    #[must_use = "the place is disarmed again once this is dropped"]
    pub struct Armed {
        name: &'static str,
    }

    /// Makes the calling thread fail with `errno` at its `visit`th visit (from one) to a place.
    pub fn arm(name: &'static str, visit: u64, errno: Errno) -> Armed {
        let order = Order { name: name.to_owned(), visit, errno: Some(errno) };
        OF_THREAD.with_borrow_mut(|orders| orders.push((order, 0)));
        Armed { name }
    }

    impl Drop for Armed {
        fn drop(&mut self) {
            OF_THREAD.with_borrow_mut(|orders| orders.retain(|(order, _)| order.name != self.name));
        }
    }

    fn obey(order: &Order) -> Result<(), Errno> {
        match order.errno {
            Some(errno) => Err(errno),
            None => loop {
                // Not abort(3): nothing may run after this instruction, as when the machine's operator kills us.
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            },
        }
    }

    fn parse(text: &str) -> Option<Order> {
        let (place, errno) = match text.split_once('=') {
            Some((place, errno)) => (place, Some(Errno::from_raw_os_error(errno.parse().ok()?))),
            None => (text, None),
        };
        let (name, visit) = match place.split_once(':') {
            Some((name, visit)) => (name, visit.parse().ok()?),
            None => (place, 1),
        };
        Some(Order { name: name.to_owned(), visit, errno })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn check(text: &str, expected: Option<(&str, u64, Option<Errno>)>) {
            let parsed = parse(text);
            let parsed = parsed.as_ref().map(|order| (order.name.as_str(), order.visit, order.errno));
            assert_eq!(parsed, expected, "{text}");
        }

        #[test]
        fn orders_are_read() {
            check("cas.link", Some(("cas.link", 1, None)));
            check("cas.link:3", Some(("cas.link", 3, None)));
            check("cas.link:3=5", Some(("cas.link", 3, Some(Errno::IO))));
            check("cas.link=28", Some(("cas.link", 1, Some(Errno::NOSPC))));
            check("cas.link:x", None);
            check("cas.link=EIO", None);
        }

        #[test]
        fn an_armed_place_fails_once_and_only_there() {
            let armed = arm("tests.here", 2, Errno::IO);
            assert_eq!(hit("tests.here"), Ok(()));
            assert_eq!(hit("tests.there"), Ok(()));
            assert_eq!(hit("tests.here"), Err(Errno::IO));
            assert_eq!(hit("tests.here"), Ok(()));
            drop(armed);
            assert_eq!(hit("tests.here"), Ok(()));
        }
    }
}
