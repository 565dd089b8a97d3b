//! Buck2's worker protocol.
