//! How channels are blended and what lies outside: the texts `mode` and `outside`, read and checked.

use crate::error::{Error, Result};
use crate::tensor::DType;
use std::ops::Range;

/// Channels of a quaternion.
pub const QUATERNION: usize = 4;

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
    /// Linear along the shorter arc, in radians, wrapped to `[-pi, pi)`.
    Angle,
    /// Spherical linear between unit quaternions along the shorter arc, 4 channels at a time.
    Slerp,
    /// Monotone cubic through the samples around the bracket.
    Pchip,
}

impl Mode {
    const ALL: [(&'static str, Mode); 7] = [
        ("linear", Mode::Linear),
        ("previous", Mode::Previous),
        ("next", Mode::Next),
        ("nearest", Mode::Nearest),
        ("angle", Mode::Angle),
        ("slerp", Mode::Slerp),
        ("pchip", Mode::Pchip),
    ];

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Mode> {
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
        !matches!(self, Mode::Previous | Mode::Next | Mode::Nearest)
    }

    /// True where the derivative by the values depends on the values.
    pub fn bends(self) -> bool {
        matches!(self, Mode::Slerp | Mode::Pchip)
    }

    /// True where the kernels need the blending of its own that only some launches are compiled with.
    pub fn is_curved(self) -> bool {
        self.bends() || self == Mode::Angle
    }

    /// Channels that are blended together.
    pub fn width(self) -> usize {
        if self == Mode::Slerp { QUATERNION } else { 1 }
    }
}

/// True where a text names a mode of that kind.
pub fn names_any(text: &str, kind: impl Fn(Mode) -> bool) -> bool {
    text.split(',').any(|part| Mode::parse(part.split(':').next().unwrap_or(part)).is_some_and(&kind))
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
    /// Reads `"linear"` or `"linear:7,slerp:4,linear:*"` for that many channels.
    pub fn parse(op: &str, text: &str, channels: usize) -> Result<Modes> {
        Ok(Modes::merged(written(op, text, channels)?))
    }

    /// Reads a text over the channels of several streams end to end: the modes of each, its own channels from 0.
    pub fn of_streams(op: &str, text: &str, widths: &[usize]) -> Result<Vec<Modes>> {
        if is_plain(text) {
            return widths.iter().map(|&width| Modes::parse(op, text, width)).collect();
        }
        let total = widths.iter().fold(0usize, |sum, &width| sum.saturating_add(width));
        let groups = written(op, text, total)?;
        let mut start = 0;
        let mut modes = Vec::with_capacity(widths.len());
        for (stream, &width) in widths.iter().enumerate() {
            let end = start + width;
            let crosses = |group: &&Group| {
                group.mode == Mode::Slerp && (start..end).contains(&group.channels.start) && group.channels.end > end
            };
            if groups.iter().any(|group| crosses(&group)) {
                let next = stream + 1;
                return Err(Error::Value(format!(
                    "{op}: mode must keep each slerp group within one stream, got \"{text}\", \
                     whose slerp group crosses into values[{next}]"
                )));
            }
            let own = groups.iter().map(|group| Group {
                mode: group.mode,
                channels: group.channels.start.clamp(start, end) - start..group.channels.end.clamp(start, end) - start,
            });
            modes.push(Modes::merged(own.filter(|group| !group.channels.is_empty()).collect()));
            start = end;
        }
        Ok(modes)
    }

    fn merged(groups: Vec<Group>) -> Modes {
        let mut merged: Vec<Group> = Vec::with_capacity(groups.len());
        for group in groups {
            match merged.last_mut() {
                Some(last) if last.mode == group.mode => last.channels.end = group.channels.end,
                _ => merged.push(group),
            }
        }
        Modes(merged)
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

    /// True where some group is of a mode for which `which` holds.
    pub fn any(&self, which: impl Fn(Mode) -> bool) -> bool {
        self.0.iter().any(|group| which(group.mode))
    }

    /// A text that [`Modes::parse`] reads as these modes.
    pub fn text(&self) -> String {
        match self.0.as_slice() {
            [] => Mode::Linear.name().to_owned(),
            [group] => group.mode.name().to_owned(),
            groups => {
                let parts: Vec<_> =
                    groups.iter().map(|group| format!("{}:{}", group.mode.name(), group.channels.len())).collect();
                parts.join(",")
            }
        }
    }
}

/// True for a text of one mode for all channels.
pub fn is_plain(text: &str) -> bool {
    !text.contains([':', ','])
}

/// The groups as they were written, neighbours of one mode apart.
fn written(op: &str, text: &str, channels: usize) -> Result<Vec<Group>> {
    let mode_of = |name: &str| {
        Mode::parse(name)
            .ok_or_else(|| Error::Value(format!("{op}: mode must be made of {}, got \"{name}\"", Mode::names())))
    };
    let whole = |mode: Mode, width: usize, found: &dyn Fn() -> String| {
        if width.is_multiple_of(mode.width()) {
            return Ok(());
        }
        let found = found();
        Err(Error::Value(format!("{op}: mode must give slerp whole quaternions of 4 channels, got {found}")))
    };
    if is_plain(text) {
        let mode = mode_of(text)?;
        whole(mode, channels, &|| format!("\"{text}\" for {channels} channels"))?;
        return Ok(vec![Group { mode, channels: 0..channels }]);
    }
    let grammar =
        || Error::Value(format!("{op}: mode must have groups NAME:WIDTH separated by commas, got \"{text}\""));
    let mut groups = Vec::new();
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
        groups.push(Group { mode, channels: covered..end });
        covered = end;
    }
    if covered != channels {
        return Err(Error::Value(format!(
            "{op}: mode must cover the {channels} channels of values, got \"{text}\", which covers {covered}"
        )));
    }
    for group in &groups {
        whole(group.mode, group.channels.len(), &|| {
            if text.ends_with('*') { format!("\"{text}\" for {channels} channels") } else { format!("\"{text}\"") }
        })?;
    }
    Ok(groups)
}

/// Refuses what a value type or an outside rule does not go with, and reads both texts.
pub fn check_modes(op: &str, mode: &str, outside: &str, values: DType, channels: usize) -> Result<(Modes, Outside)> {
    let modes = Modes::parse(op, mode, channels)?;
    let outside = check_outside(op, std::slice::from_ref(&modes), outside, values)?;
    Ok((modes, outside))
}

/// As [`check_modes`], for the channels of several streams end to end.
pub fn check_stream_modes(
    op: &str,
    mode: &str,
    outside: &str,
    values: DType,
    widths: &[usize],
) -> Result<(Vec<Modes>, Outside)> {
    let modes = Modes::of_streams(op, mode, widths)?;
    let outside = check_outside(op, &modes, outside, values)?;
    Ok((modes, outside))
}

fn check_outside(op: &str, modes: &[Modes], outside: &str, values: DType) -> Result<Outside> {
    let outside = Outside::parse(op, outside)?;
    let groups = || modes.iter().flat_map(Modes::groups);
    if !values.is_floating() {
        if let Some(group) = groups().find(|group| group.mode.blends()) {
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
        && let Some(group) = groups().find(|group| group.mode != Mode::Linear)
    {
        return Err(Error::Value(format!(
            "{op}: outside \"extrapolate\" must go with mode linear only, got mode \"{}\"",
            group.mode.name()
        )));
    }
    Ok(outside)
}
