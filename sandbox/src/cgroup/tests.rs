//! Tests on the real hierarchies of this machine.
