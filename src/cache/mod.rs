//! The action cache: what came of actions that need not run again.
