//! A signal: values on a clock of their own, and how its channels are blended. `resample` takes one, `fuse` several.

use crate::error::{Error, Result};
use crate::ops::modes::Modes;
use crate::ops::timeline::{Caller, Timeline};
use crate::tensor::View;

/// Checked values, times and modes.
#[derive(Clone, Debug)]
pub struct Signal<'a> {
    /// `[B, S, D]`.
    pub values: View<'a>,
    /// `[B, S]` and `[B, T]`.
    pub timeline: Timeline<'a>,
    /// The mode of every channel.
    pub modes: Modes,
}

impl Signal<'_> {
    /// `D`.
    pub fn channels(&self) -> usize {
        self.values.size(2)
    }

    /// Rows of the result: `B * T`.
    pub fn rows(&self) -> usize {
        self.timeline.batch() * self.timeline.targets()
    }
}

/// Values as `[B, S, D]`, by the rule that gives times of one axis their meaning.
pub fn batched<'a>(caller: Caller, values: View<'a>, source_times: &View, target_times: &View) -> Result<View<'a>> {
    let (op, argument, shape) = (caller.op, caller.argument("values"), values.shape());
    let shared = source_times.rank() == 1 && target_times.rank() == 1;
    let values = match values.rank() {
        1 if shared => values.extend(2).repeat(1),
        2 if shared => values.repeat(1),
        2 => values.extend(3),
        3 => values,
        _ => {
            return Err(Error::Value(format!(
                "{op}: {argument} must have shape [B, S, D...] or [S, D...], got {shape}"
            )));
        }
    };
    if values.size(1) == 0 {
        return Err(Error::Value(format!("{op}: {argument} must have at least one sample, got shape {shape}")));
    }
    Ok(values)
}
