//! Every instruction set of this machine gives the bits of the plain loop.

use super::derivatives::{Adjoint, Backward, TimeGradient};
use super::{cpu_backward, signal_of};
use crate::number::Compute;
use crate::ops::modes::check_modes;
use crate::ops::resample::plan::{Held, Workspace};
use crate::ops::signal_cpu::{self, Read};
use crate::ops::timeline::Timeline;
use crate::simd::{Blend, Level};
use crate::tensor::View;
use crate::threads::Serial;
use half::{bf16, f16};

const SAMPLES: usize = 9;
const TARGETS: usize = 23;
/// Around the widths of vectors of every level and the block of the backward.
const WIDTHS: [usize; 12] = [1, 3, 7, 8, 15, 16, 17, 33, 64, 65, 255, 300];

/// Numbers of every kind: small, huge, denormal, signed zeros, infinite and none.
fn numbers<V: Blend>(count: usize) -> Vec<V> {
    let number = |place: usize| match place % 29 {
        5 => 0.0,
        7 => -0.0,
        11 => 1e-40,
        13 => 6e4,
        17 if place.is_multiple_of(4) => f64::NAN,
        19 if place % 4 == 1 => f64::INFINITY,
        _ => ((place * 7 + 1) as f64).sin() * 3.0,
    };
    (0..count).map(|place| V::narrow(V::Compute::from_f64(number(place)))).collect()
}

fn bits<V: Blend>(output: &[V]) -> Vec<u64> {
    // Any NaN equals any other.
    output.iter().map(|v| v.widen().to_f64()).map(|v| if v.is_nan() { f64::NAN } else { v }.to_bits()).collect()
}

/// The results of all operators at one level; `step` is the distance between channels in memory.
fn results<V: Blend>(level: Level, mode: &str, width: usize, step: usize) -> [Vec<u64>; 7] {
    let (values, grad) = (numbers::<V>(SAMPLES * width * step), numbers::<V>(TARGETS * width * step));
    let times: Vec<f64> = (0..SAMPLES).map(|sample| (sample as f64).powf(1.3)).collect();
    let targets: Vec<f64> = (0..TARGETS).map(|target| (target * 5 % TARGETS) as f64 * 0.9 - 2.0).collect();
    let strided = |data: &[V], rows: usize| {
        let strides = [0, (width * step) as isize, step as isize];
        // SAFETY: `data` holds `rows` rows of `width * step` elements and outlives the call below.
        unsafe { View::from_raw(data.as_ptr().cast(), V::DTYPE, &[1, rows, width], &strides) }.unwrap()
    };
    let (source, target) = (View::new(&times, &[SAMPLES]).unwrap(), View::new(&targets, &[TARGETS]).unwrap());
    let tangent = numbers::<V>(SAMPLES * width * step + 3);
    let (values, tangent) = (strided(&values, SAMPLES), strided(&tangent[3..], SAMPLES));
    let signal = || signal_of("resample", values, source, target, mode, "hold", None).unwrap();

    let aligned = |read: Read| {
        let mut output = numbers::<V>(TARGETS * width);
        signal_cpu::forward(&[signal()], read, output.as_mut_ptr().cast(), &Serial, level);
        bits(&output)
    };
    let gathered = |adjoint: Adjoint| {
        let (modes, outside) = check_modes("resample", mode, "hold", V::DTYPE, width).unwrap();
        let timeline = Timeline::new("resample", 1, SAMPLES, source, target, None, outside).unwrap();
        let timeline = timeline.with_spans_for(&modes);
        let plan = Workspace::new(1, SAMPLES, TARGETS, Held::Order).unwrap();
        let mut memory = vec![0u128; plan.bytes / 16];
        // SAFETY: the same bytes as a slice of bytes.
        let workspace = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), plan.bytes) };
        let mut output = numbers::<V>(SAMPLES * width);
        let backward = Backward { grad: strided(&grad, TARGETS), timeline, modes, adjoint };
        cpu_backward::backward(&backward, output.as_mut_ptr().cast(), workspace, &plan, &Serial, level);
        bits(&output)
    };
    let mut sums = vec![0f64; TARGETS];
    let gradient = TimeGradient { grad: strided(&grad, TARGETS), signal: signal() };
    cpu_backward::time_gradient(&gradient, sums.as_mut_ptr().cast(), &Serial, level);
    [
        aligned(Read::Value),
        aligned(Read::Slope),
        aligned(Read::Tangent(&tangent)),
        gathered(Adjoint::Value(Some(values))),
        gathered(Adjoint::Slope),
        gathered(Adjoint::Curvature { values, tangent }),
        bits(&sums),
    ]
}

/// The modes that fit a width.
fn modes(width: usize) -> Vec<&'static str> {
    let mut modes = vec!["linear", "angle", "pchip"];
    if width.is_multiple_of(4) {
        modes.push("slerp");
    }
    if width > 30 {
        modes.push("linear:9,nearest:8,slerp:8,pchip:3,angle:*");
    }
    modes
}

fn every_level_agrees<V: Blend>() {
    for width in WIDTHS {
        for (step, mode) in [1, 2].into_iter().flat_map(|step| modes(width).into_iter().map(move |mode| (step, mode))) {
            let plain = results::<V>(Level::Base, mode, width, step);
            for level in Level::available() {
                let found = results::<V>(level, mode, width, step);
                assert_eq!(found, plain, "{:?} {mode} {width} by {step} {level:?}", V::DTYPE);
            }
        }
    }
}

#[test]
fn every_level_gives_the_same_bits() {
    every_level_agrees::<f64>();
    every_level_agrees::<f32>();
    every_level_agrees::<f16>();
    every_level_agrees::<bf16>();
}
