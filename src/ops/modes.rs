//! How channels are blended and what lies outside: the texts `mode` and `outside`, read and checked.

use crate::error::{Error, Result};
use crate::tensor::DType;
use std::ops::Range;

/// How a channel is blended between the two samples of a bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `fma(w, v[i + 1] - v[i], v[i])`.
    Linear,
    /// `v[i]`: zero-order hold.
    Previous,
    /// `v[i + 1]`, or `v[i]` at the sample itself.
    Next,
    /// `v[i]` up to half of the bracket, then `v[i + 1]`.
    Nearest,
}

impl Mode {
    const ALL: [(&'static str, Mode); 4] =
        [("linear", Mode::Linear), ("previous", Mode::Previous), ("next", Mode::Next), ("nearest", Mode::Nearest)];

    fn parse(name: &str) -> Option<Mode> {
        Mode::ALL.iter().find(|(known, _)| *known == name).map(|&(_, mode)| mode)
    }

    /// The names of all modes, for error texts and `--help`.
    pub fn names() -> String {
        Mode::ALL.map(|(name, _)| name).join(", ")
    }

    /// The name in a mode string.
    pub fn name(self) -> &'static str {
        Mode::ALL[self as usize].0
    }

    /// True where the result is computed and not copied.
    pub fn blends(self) -> bool {
        self == Mode::Linear
    }
}

/// What a target before the first or after the last sample gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// The nearest end: a held sensor value is safer than an invented one.
    Hold,
    /// Not a number.
    Nan,
    /// Zero.
    Zero,
    /// The line of the end bracket.
    Extrapolate,
}

impl Outside {
    const ALL: [(&'static str, Outside); 4] = [
        ("hold", Outside::Hold),
        ("nan", Outside::Nan),
        ("zero", Outside::Zero),
        ("extrapolate", Outside::Extrapolate),
    ];

    /// The rule of that name.
    pub fn parse(op: &str, name: &str) -> Result<Outside> {
        Outside::ALL.iter().find(|(known, _)| *known == name).map(|&(_, rule)| rule).ok_or_else(|| {
            let names = Outside::ALL.map(|(name, _)| name).join(", ");
            Error::Value(format!("{op}: outside must be one of {names}, got \"{name}\""))
        })
    }
}

/// Neighbouring channels with one mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How they are blended.
    pub mode: Mode,
    /// Which channels they are.
    pub channels: Range<usize>,
}

/// The mode of every channel, as groups from left to right; neighbours differ in mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modes(Vec<Group>);

impl Modes {
    /// Reads `"linear"` or `"linear:7,previous:1,linear:*"` for that many channels.
    pub fn parse(op: &str, text: &str, channels: usize) -> Result<Modes> {
        let mode_of = |name: &str| {
            Mode::parse(name)
                .ok_or_else(|| Error::Value(format!("{op}: mode must be made of {}, got \"{name}\"", Mode::names())))
        };
        let mut groups: Vec<Group> = Vec::new();
        let mut push = |mode: Mode, channels: Range<usize>| match groups.last_mut() {
            Some(last) if last.mode == mode => last.channels.end = channels.end,
            _ => groups.push(Group { mode, channels }),
        };
        if !text.contains([':', ',']) {
            push(mode_of(text)?, 0..channels);
            return Ok(Modes(groups));
        }
        let grammar =
            || Error::Value(format!("{op}: mode must have groups NAME:WIDTH separated by commas, got \"{text}\""));
        let mut covered = 0usize;
        let mut parts = text.split(',').peekable();
        while let Some(part) = parts.next() {
            let (name, width) = part.split_once(':').ok_or_else(grammar)?;
            let mode = mode_of(name)?;
            let end = if width == "*" {
                if parts.peek().is_some() {
                    return Err(Error::Value(format!("{op}: mode must have * in the last group only, got \"{text}\"")));
                }
                channels.max(covered)
            } else {
                let digits = width.bytes().all(|byte| byte.is_ascii_digit()); // `parse` would take a sign
                let width: usize = width.parse().ok().filter(|&width| digits && width > 0).ok_or_else(grammar)?;
                covered.saturating_add(width)
            };
            push(mode, covered..end);
            covered = end;
        }
        if covered != channels {
            return Err(Error::Value(format!(
                "{op}: mode must cover the {channels} channels of values, got \"{text}\", which covers {covered}"
            )));
        }
        Ok(Modes(groups))
    }

    /// The channels that a mode text names before a trailing `*`; `None` where it has no `*`.
    pub fn named_channels(text: &str) -> Option<usize> {
        let (named, _) = text.rsplit_once(":*")?;
        let widths = named.split(',').filter_map(|part| part.split_once(':')?.1.parse::<usize>().ok());
        widths.reduce(usize::saturating_add).or(Some(0))
    }

    /// The groups from left to right.
    pub fn groups(&self) -> &[Group] {
        &self.0
    }

    /// The one mode of all channels, where there is one.
    pub fn uniform(&self) -> Option<Mode> {
        match self.0.as_slice() {
            [group] => Some(group.mode),
            _ => None,
        }
    }
}

/// Refuses what a value type or an outside rule does not go with, and reads both texts.
pub fn check_modes(op: &str, mode: &str, outside: &str, values: DType, channels: usize) -> Result<(Modes, Outside)> {
    let modes = Modes::parse(op, mode, channels)?;
    let outside = Outside::parse(op, outside)?;
    if !values.is_floating() {
        if let Some(group) = modes.groups().iter().find(|group| group.mode.blends()) {
            return Err(Error::Type(format!(
                "{op}: values must be float64, float32, float16 or bfloat16 for mode \"{}\", got {}",
                group.mode.name(),
                values.name()
            )));
        }
        if outside == Outside::Nan {
            return Err(Error::Value(format!("{op}: outside must be hold or zero for integer values, got \"nan\"")));
        }
    }
    if outside == Outside::Extrapolate
        && let Some(group) = modes.groups().iter().find(|group| group.mode != Mode::Linear)
    {
        return Err(Error::Value(format!(
            "{op}: outside \"extrapolate\" must go with mode linear only, got mode \"{}\"",
            group.mode.name()
        )));
    }
    Ok((modes, outside))
}
