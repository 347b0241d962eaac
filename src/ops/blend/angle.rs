//! Angles in radians: moved by whole turns into `[-pi, pi)`, and blended along the shorter arc.

use crate::number::Compute;

/// Beyond this many radians an f32 no longer tells directions apart; an exact remainder keeps the result in range.
const FAR: f64 = 65536.0;

/// `angle` moved by whole turns into `[-pi, pi)`; one that lies there stays as it is. Infinities give NaN.
#[inline(always)]
pub fn wrap<C: Compute>(angle: C) -> C {
    let within = |angle: C| -C::PI <= angle && angle < C::PI;
    if within(angle) {
        return angle;
    }
    let far = C::from_f64(FAR);
    let near = if -far < angle && angle < far { angle } else { angle.remainder(C::TURN) };
    let turns = -(near * C::TURNS).round();
    let mut wrapped = turns.fma(C::TURN_REST, turns.fma(C::TURN, near));
    if wrapped >= C::PI {
        wrapped = wrapped - C::TURN;
    } else if wrapped < -C::PI {
        wrapped = wrapped + C::TURN;
    }
    // A turn that is itself rounded may end on pi.
    if wrapped >= C::PI { -C::PI } else { wrapped }
}

/// Part `weight` of the shorter arc from `left` to `right`; exactly opposite ones are joined clockwise.
#[inline(always)]
pub fn blend<C: Compute>(left: C, right: C, weight: C) -> C {
    let left = wrap(left);
    wrap(weight.fma(wrap(wrap(right) - left), left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::{PI, TAU};

    #[test]
    fn angles_in_range_stay_and_others_move_by_whole_turns() {
        for step in -4000..4000 {
            let angle = f64::from(step) * 0.01;
            let wrapped = wrap(angle);
            assert!((-PI..PI).contains(&wrapped));
            let turns = (angle - wrapped) / TAU;
            assert!((turns - turns.round()).abs() < 1e-14, "{angle} became {wrapped}");
            if (-PI..PI).contains(&angle) {
                assert_eq!(wrapped.to_bits(), angle.to_bits());
            }
            let single = wrap(angle as f32);
            assert!((-std::f32::consts::PI..std::f32::consts::PI).contains(&single));
        }
        assert_eq!(wrap(PI), -PI);
        assert_eq!(wrap(std::f32::consts::PI), -std::f32::consts::PI);
        assert!(wrap(-0.0f32).is_sign_negative());
    }

    #[test]
    fn any_number_ends_in_range_or_as_nan() {
        for bits in (0..=u32::MAX).step_by(4099) {
            let wrapped = wrap(f32::from_bits(bits));
            let finite = f32::from_bits(bits).is_finite();
            let range = -std::f32::consts::PI..std::f32::consts::PI;
            assert!(if finite { range.contains(&wrapped) } else { wrapped.is_nan() }, "{bits:#x} became {wrapped}");
        }
        for angle in [1e300, -1e300, f64::MAX, 65536.0, -65536.0, 1e17] {
            assert!((-PI..PI).contains(&wrap(angle)), "{angle}");
        }
    }

    #[test]
    fn the_arc_is_the_shorter_one() {
        assert!((blend(3.0f64, -3.0, 0.5).abs() - PI).abs() < 1e-12);
        assert!((blend(0.1, TAU + 0.3, 0.25) - 0.15).abs() < 1e-15);
        assert_eq!(blend(0.0, PI, 0.5), -PI / 2.0);
    }
}
