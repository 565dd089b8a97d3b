//! The doors of the daemon: REAPI services over TCP and Unix sockets.
