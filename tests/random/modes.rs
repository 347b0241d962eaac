//! Random mode texts.

use super::Random;
use crate::definition::Mode;

const NAMES: [(&str, Mode, usize); 7] = [
    ("previous", Mode::Previous, 1),
    ("next", Mode::Next, 1),
    ("nearest", Mode::Nearest, 1),
    ("linear", Mode::Linear, 1),
    ("angle", Mode::Angle, 1),
    ("pchip", Mode::Pchip, 1),
    ("slerp", Mode::Slerp, 4),
];

/// A mode's name and how many channels have it.
pub type Group = (&'static str, usize);

/// Which modes a case may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Those for values that are not floating.
    Copies,
    /// These and `linear`.
    Lines,
    All,
}

impl Allowed {
    pub fn random(r: &mut Random, floating: bool) -> Allowed {
        match floating {
            false => Allowed::Copies,
            true if r.one_in(3) => Allowed::Lines,
            true => Allowed::All,
        }
    }

    fn names(self) -> &'static [(&'static str, Mode, usize)] {
        &NAMES[..match self {
            Allowed::Copies => 3,
            Allowed::Lines => 4,
            Allowed::All => 7,
        }]
    }
}

/// Groups for that many channels from left to right; sometimes one, sometimes more than one launch holds.
pub fn random_groups(r: &mut Random, channels: usize, allowed: Allowed, most: usize) -> Vec<Group> {
    let names = allowed.names();
    let fitting = |width: usize| names.iter().filter(move |(.., unit)| width >= *unit);
    let mut groups = Vec::new();
    let mut left = channels;
    let widest = if r.one_in(3) { channels } else { r.pick(&[1, 2, 9, 64]) };
    while left > 0 {
        let all: Vec<_> = fitting(left).collect();
        let &(name, _, unit) = if allowed != Allowed::Copies && r.one_in(4) { &NAMES[3] } else { r.pick(&all) };
        let wanted = 1 + r.below(widest.min(left / unit).max(1));
        let width = if groups.len() + 1 == most && unit == 1 { left } else { unit * wanted.min(left / unit) };
        if groups.len() + 1 < most || width == left {
            groups.push((name, width));
            left -= width;
        }
    }
    groups
}

/// One mode for all channels, where one fits them.
pub fn random_plain(r: &mut Random, widths: &[usize], allowed: Allowed) -> &'static str {
    let fitting: Vec<_> =
        allowed.names().iter().filter(|(.., unit)| widths.iter().all(|width| width.is_multiple_of(*unit))).collect();
    if allowed == Allowed::Lines && r.one_in(2) { "linear" } else { r.pick(&fitting).0 }
}

/// The mode of each channel.
pub fn modes_of(groups: &[Group]) -> Vec<Mode> {
    let mode = |name: &str| NAMES.iter().find(|(known, ..)| *known == name).expect("a mode's name").1;
    groups.iter().flat_map(|&(name, width)| vec![mode(name); width]).collect()
}

/// The groups as text; the last sometimes takes what is left.
pub fn text_of(r: &mut Random, groups: &[Group]) -> String {
    let star = r.one_in(2);
    let last = groups.len().saturating_sub(1);
    let text = |(place, &(name, width)): (usize, &Group)| {
        if star && place == last { format!("{name}:*") } else { format!("{name}:{width}") }
    };
    groups.iter().enumerate().map(text).collect::<Vec<_>>().join(",")
}
