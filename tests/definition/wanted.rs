//! What an element of a result must be.

use super::number::Number;

/// One element: bits where the definition fixes every rounding, else a number and how far off it may be.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<V> {
    /// These bits; any not-a-number for a not-a-number.
    Bits(V),
    /// This number, but for `error` and the rounding to `V`.
    Near { number: f64, error: f64 },
    /// One of two angles, but for whole turns, `error` and the rounding to `V`; within half a turn of zero.
    Turned { angles: [f64; 2], error: f64 },
    /// A number in this range, but for the rounding to `V`.
    Within { low: f64, high: f64 },
    /// Anything: the arguments are beyond what is defined.
    Any,
}

impl<V: Number> Wanted<V> {
    pub fn nan() -> Wanted<V> {
        Wanted::Bits(V::nan())
    }

    /// The bits, where they are defined.
    pub fn bits(self) -> V {
        match self {
            Wanted::Bits(value) => value,
            _ => panic!("only a number is defined here, no bits"),
        }
    }

    pub fn accepts(&self, found: V) -> bool {
        let slack = |number: f64| V::ROUNDING[0] * number.abs() + V::ROUNDING[1];
        match *self {
            Wanted::Bits(wanted) => found.same(wanted),
            Wanted::Near { number, error } => {
                let found = found.wide();
                let apart = (found - number).abs();
                // Beyond the largest number of the type lies infinity.
                apart <= error + slack(number) || found.is_infinite() && number.abs() + error >= largest::<V>()
            }
            Wanted::Turned { angles, error } => {
                let found = found.wide();
                let half = half_turn::<V>();
                let range = V::narrow(-half).wide()..=V::narrow(half).wide();
                let apart = |angle: f64| {
                    let turns = (found - angle) / std::f64::consts::TAU;
                    (turns - turns.round()).abs() * std::f64::consts::TAU
                };
                range.contains(&found) && angles.iter().any(|&angle| apart(angle) <= error + slack(3.2))
            }
            Wanted::Within { low, high } => {
                let found = found.wide();
                low - slack(low) <= found && found <= high + slack(high)
            }
            Wanted::Any => true,
        }
    }
}

/// The compute type's half turn.
pub fn half_turn<V: Number>() -> f64 {
    if V::SINGLE { f64::from(std::f32::consts::PI) } else { std::f64::consts::PI }
}

fn largest<V: Number>() -> f64 {
    // f16 ends long before the others, whose ends no test reaches by a sum.
    if V::ROUNDING[0] == half::f16::ROUNDING[0] { 65_504.0 } else { 3.38e38 }
}
