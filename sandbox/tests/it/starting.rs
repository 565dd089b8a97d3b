//! To come.
use crate::fixture::Test;

pub fn tests() -> Vec<Test> {
    Vec::new()
}
