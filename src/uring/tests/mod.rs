//! The same battery over both backends, with real pipes and sockets; what only one of them has, beside it.

mod backpressure;
mod ending;
mod packets;
mod peers;
mod refused;
mod streams;

/// Makes a test of each function, once for each backend.
macro_rules! over_both {
    ($($name:ident),* $(,)?) => {
        mod over {
            $(mod $name {
                use super::super::Choice;

                #[test]
                fn uring() {
                    if crate::uring::tests::peers::has_ring(concat!(stringify!($name), "::uring")) {
                        super::super::$name(Choice::Uring);
                    }
                }

                #[test]
                fn epoll() {
                    super::super::$name(Choice::Epoll);
                }
            })*
        }
    };
}
use over_both;
