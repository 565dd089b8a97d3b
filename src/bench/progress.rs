//! A progress bar for long work, on a terminal only.
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use std::io::IsTerminal;

/// How often the bar may be drawn: drawing takes CPU time from what is measured.
const DRAWS_PER_SECOND: u8 = 5;

/// A bar of `steps` on standard error; an invisible one where that is no terminal, or `wanted` is false.
#[must_use]
pub fn bar(steps: usize, wanted: bool) -> ProgressBar {
    if !wanted || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}");
    // However the work ends, the bar goes.
    let bar = ProgressBar::with_draw_target(Some(steps as u64), target).with_finish(ProgressFinish::AndClear);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
