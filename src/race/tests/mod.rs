//! Tests of the pure parts: one transition after the other, and tables of choices.

mod policy;
mod step;
