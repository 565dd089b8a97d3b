//! Paths of a result that a client brings: whoever takes it from the cache will write there.
//!
//! ```text
//!   output_files, output_directories, output_*symlinks ─► path ─► absolute, NUL, above the input root: refused
//! ```
//! Paths are relative to the working directory of the command, which they may leave as far as the input root.
//! Limits: lexical only; what clients make of links among the outputs is theirs to decide.

use fulgurite_proto::reapi;
use tonic::Status;

/// How many directories a path goes up from where it begins; `None` if it is not relative, or no path.
fn climb(path: &str) -> Option<usize> {
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let (mut below, mut above) = (0_usize, 0_usize);
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." if below == 0 => above += 1,
            ".." => below -= 1,
            _ => below += 1,
        }
    }
    Some(above)
}

/// How far the outputs may go up from a working directory.
pub(super) fn depth(working_directory: &str) -> usize {
    let segments = working_directory.split('/').filter(|segment| !matches!(*segment, "" | "."));
    if climb(working_directory) == Some(0) && !working_directory.contains("..") {
        segments.count()
    } else {
        0
    }
}

/// How far up the outputs of a result go.
///
/// # Errors
/// INVALID_ARGUMENT for a path that is none, or not relative.
#[allow(deprecated, reason = "clients before REAPI 2.1 read these fields")]
pub(super) fn highest(result: &reapi::ActionResult) -> Result<usize, Status> {
    let files = result.output_files.iter().map(|file| &file.path);
    let directories = result.output_directories.iter().map(|directory| &directory.path);
    let links = [&result.output_symlinks, &result.output_file_symlinks, &result.output_directory_symlinks];
    let links = links.into_iter().flatten().map(|link| &link.path);
    let mut highest = 0;
    for path in files.chain(directories).chain(links) {
        let above = climb(path)
            .ok_or_else(|| Status::invalid_argument(format!("output path {path:?} is not a relative one")))?;
        highest = highest.max(above);
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::{climb, depth, highest};
    use fulgurite_proto::reapi;

    #[test]
    fn paths_climb_as_far_as_they_ever_go() {
        for (path, above) in
            [("a/b", 0), ("", 0), ("..", 1), ("a/../../b", 1), ("../../a/..", 2), ("a/..b", 0)]
        {
            assert_eq!(climb(path), Some(above), "{path}");
        }
        assert_eq!(climb("/a"), None);
        assert_eq!(climb("a\0"), None);
    }

    #[test]
    fn a_working_directory_is_as_deep_as_it_has_segments() {
        for (directory, deep) in [("", 0), ("a", 1), ("a//b/.", 2), ("../a", 0), ("a/../b", 0), ("/a/b", 0)] {
            assert_eq!(depth(directory), deep, "{directory}");
        }
    }

    #[test]
    #[allow(deprecated, reason = "clients before REAPI 2.1 read these fields")]
    fn paths_of_every_field_count() {
        let link = |path: &str| vec![reapi::OutputSymlink { path: path.to_owned(), ..Default::default() }];
        let of = |result: reapi::ActionResult| highest(&result).ok();
        let file = reapi::OutputFile { path: "../a".to_owned(), ..Default::default() };
        let directory = reapi::OutputDirectory { path: "../../a".to_owned(), ..Default::default() };
        assert_eq!(of(reapi::ActionResult::default()), Some(0));
        assert_eq!(of(reapi::ActionResult { output_files: vec![file], ..Default::default() }), Some(1));
        assert_eq!(
            of(reapi::ActionResult { output_directories: vec![directory], ..Default::default() }),
            Some(2)
        );
        assert_eq!(of(reapi::ActionResult { output_symlinks: link("/a"), ..Default::default() }), None);
        assert_eq!(of(reapi::ActionResult { output_file_symlinks: link("/a"), ..Default::default() }), None);
        assert_eq!(
            of(reapi::ActionResult { output_directory_symlinks: link("/a"), ..Default::default() }),
            None
        );
    }
}
