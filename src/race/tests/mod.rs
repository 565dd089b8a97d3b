//! Tests of the pure parts: one transition after the other, and tables of choices;
//! and of the driver, with branches that do what the test says.

mod drive;
mod policy;
mod puppet;
mod sharing;
mod step;
