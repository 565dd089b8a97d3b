//! Answers from messages.

use super::Answer;
use crate::worker::junk::cut_note;
use crate::worker::limits::OUTPUT_KEPT_BYTES_MAX;
use fulgurite_proto::buck2::ExecuteResponse;

pub(super) fn answer(response: ExecuteResponse) -> Answer {
    let mut stderr = response.stderr;
    if stderr.len() > OUTPUT_KEPT_BYTES_MAX {
        let end = (0..=OUTPUT_KEPT_BYTES_MAX).rev().find(|&at| stderr.is_char_boundary(at));
        stderr.truncate(end.unwrap_or_default());
        // It may have been much longer.
        stderr.shrink_to_fit();
        stderr.push('\n');
        stderr.push_str(&cut_note());
    }
    Answer { exit_code: response.exit_code, stderr, timed_out_after_s: response.timed_out_after_s }
}
