//! `robocache::tch`: values, gradients and errors on tch tensors, and a TorchScript policy run from Rust.

#![cfg(feature = "tch")]

use robocache::tch::{ResampleOptions, fuse, resample, resample_mask};
use robocache::{Error, MaxGap};
use serde_json::Value;
use std::f64::consts::TAU;
use std::path::{Path, PathBuf};
use std::process::Command;
use tch::{Device, Kind, Tensor};

fn column(values: &[f64]) -> Tensor {
    Tensor::from_slice(values).reshape([-1, 1])
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn refs(tensors: &[Tensor]) -> Vec<&Tensor> {
    tensors.iter().collect()
}

/// Numbers in `0..1`, the same in every run.
fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        // The constants of Knuth's MMIX generator; its high bits are the good ones.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn modes_and_ends_by_hand() {
    let times = Tensor::from_slice(&[0.0, 1.0, 2.0, 4.0]);
    let values = column(&[4.0, 10.0, 40.0, 20.0]);
    let targets = Tensor::from_slice(&[-1.0, 0.25, 1.0, 1.75, 3.0, 4.0, 5.0]);
    let rows: [(&str, &str, [f64; 7]); 6] = [
        ("linear", "hold", [4.0, 5.5, 10.0, 32.5, 30.0, 20.0, 20.0]),
        ("linear", "zero", [0.0, 5.5, 10.0, 32.5, 30.0, 20.0, 0.0]),
        ("linear", "extrapolate", [-2.0, 5.5, 10.0, 32.5, 30.0, 20.0, 10.0]),
        ("previous", "hold", [4.0, 4.0, 10.0, 10.0, 40.0, 20.0, 20.0]),
        ("next", "hold", [4.0, 10.0, 10.0, 40.0, 20.0, 20.0, 20.0]),
        ("nearest", "hold", [4.0, 4.0, 10.0, 40.0, 40.0, 20.0, 20.0]),
    ];
    for (mode, outside, expected) in rows {
        let options = ResampleOptions { mode, outside, ..Default::default() };
        let result = resample(&values, &times, &targets, options).unwrap();
        assert_eq!(result.size(), [7, 1]);
        assert_eq!(numbers(&result), expected, "{mode} {outside}");
    }
    let options = ResampleOptions { outside: "nan", ..Default::default() };
    let result = numbers(&resample(&values, &times, &targets, options).unwrap());
    assert!(result[0].is_nan() && result[6].is_nan());
    assert_eq!(result[1..6], [5.5, 10.0, 32.5, 30.0, 20.0]);
}

/// Whether numbers agree to rounding.
fn close(found: &[f64], expected: &[f64]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-15 * b.abs().max(1.0))
}

#[test]
fn curves_by_hand() {
    let at = |mode: &str, values: &Tensor, times: &[f64], targets: &[f64]| {
        let options = ResampleOptions { mode, ..Default::default() };
        numbers(&resample(values, &Tensor::from_slice(times), &Tensor::from_slice(targets), options).unwrap())
    };
    // The short way from 3 to -3 is TAU - 6, over the turn.
    let angles = at("angle", &column(&[3.0, -3.0]), &[0.0, 1.0], &[0.25, 0.75, 1.0]);
    assert!(close(&angles, &[3.0 + 0.25 * (TAU - 6.0), -3.0 - 0.25 * (TAU - 6.0), -3.0]), "{angles:?}");

    // Half a turn about z, of which a third is made.
    let turns = Tensor::from_slice(&[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]).reshape([2, 4]);
    let turned = at("slerp", &turns, &[0.0, 3.0], &[1.0, 3.0]);
    assert!(close(&turned, &[0.0, 0.0, 0.5, 0.75f64.sqrt(), 0.0, 0.0, 1.0, 0.0]), "{turned:?}");

    // The slope is 3/2 at the first sample (the three-point end) and 0 at the second, where the curve turns flat.
    assert_eq!(at("pchip", &column(&[0.0, 1.0, 1.0]), &[0.0, 1.0, 2.0], &[0.5, 1.5]), [0.6875, 1.0]);
}

#[test]
fn curves_have_two_derivatives() {
    let times = Tensor::from_slice(&[0.0, 1.0, 3.0]);
    let targets = Tensor::from_slice(&[0.25, 1.5, 2.0]);
    let values = [0.1, 0.2, 0.3, 0.9, 0.4, 0.1, -0.2, 0.8, 0.6, 0.5, 0.4, 0.3];
    for mode in ["pchip", "slerp"] {
        let options = ResampleOptions { mode, ..Default::default() };
        // The cosines keep the sum from being even in the outputs.
        let loss = |values: &Tensor| resample(values, &times, &targets, options).unwrap().cos().sum(Kind::Double);
        let leaf = |values: &[f64]| Tensor::from_slice(values).reshape([3, 4]).set_requires_grad(true);
        let first = |values: &[f64]| {
            let leaf = leaf(values);
            Tensor::run_backward(&[loss(&leaf)], &[&leaf], false, false).remove(0)
        };
        let x = leaf(&values);
        let gradient = Tensor::run_backward(&[loss(&x)], &[&x], true, true).remove(0);
        let second = numbers(&Tensor::run_backward(&[gradient.cos().sum(Kind::Double)], &[&x], false, false).remove(0));
        for (i, found) in second.iter().enumerate() {
            let step = 1e-6;
            let moved = |by: f64| {
                let mut values = values;
                values[i] += by;
                values
            };
            let difference = |call: &dyn Fn(&[f64]) -> f64| (call(&moved(step)) - call(&moved(-step))) / (2.0 * step);
            let slope = difference(&|values| numbers(&loss(&leaf(values)))[0]);
            assert!((slope - numbers(&gradient)[i]).abs() < 1e-8, "{mode} value {i}: {slope}");
            let curvature = difference(&|values| numbers(&first(values).cos().sum(Kind::Double))[0]);
            assert!((curvature - found).abs() < 1e-8, "{mode} value {i}: {curvature} against {found}");
        }
    }
}

#[test]
fn a_mask_ends_with_the_row_and_at_gaps() {
    let times = Tensor::from_slice(&[0i64, 10, 500]);
    let targets = Tensor::from_slice(&[-1i64, 0, 5, 10, 100, 500, 501]);
    let mask = |gap: Option<MaxGap>, lengths: Option<&Tensor>| {
        let result = resample_mask(&times, &targets, gap, lengths).unwrap();
        assert_eq!(result.kind(), Kind::Bool);
        (result.size(), numbers(&result))
    };
    let within = vec![0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0];
    let near = vec![0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0];
    assert_eq!(mask(None, None), (vec![7], within.clone()));
    assert_eq!(mask(Some(MaxGap::Ticks(490)), None).1, within);
    assert_eq!(mask(Some(MaxGap::Ticks(489)), None).1, near);
    assert_eq!(mask(Some(MaxGap::Number(489.9)), None).1, near);
    assert_eq!(mask(Some(MaxGap::Number(f64::INFINITY)), None).1, within);

    let lengths = Tensor::from_slice(&[3i32, 2]);
    let (size, rows) = mask(Some(MaxGap::Ticks(10)), Some(&lengths));
    assert_eq!((size, &rows[..7]), (vec![2, 7], &near[..]));
    assert_eq!(rows[7..], [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn fused_streams_are_the_resampled_ones_side_by_side() {
    let mut random = random(2);
    let mut made = |shape: &[i64]| {
        let numbers: Vec<f64> = (0..shape.iter().product::<i64>()).map(|_| random() - 0.5).collect();
        Tensor::from_slice(&numbers).reshape(shape)
    };
    let lengths = Tensor::from_slice(&[5i64, 1, 7, 2, 9, 3]).reshape([2, 3]); // [B, K], ragged
    let values: Vec<Tensor> = [[2, 5, 3], [2, 9, 4], [2, 7, 2]].iter().map(|shape| made(shape)).collect();
    let times: Vec<Tensor> = [5, 9, 7].iter().map(|&samples| made(&[2, samples]).sort(1, false).0).collect();
    let lengths_of = |stream: i64| lengths.select(1, stream);
    assert_eq!(numbers(&lengths_of(1)), [1.0, 9.0]);
    let targets = made(&[2, 40]) * 1.2;

    let modes = ["linear:2,angle:1", "slerp", "pchip:1,previous:1"];
    let alone: Vec<Tensor> = (0..3)
        .map(|stream| {
            let lengths = lengths_of(stream as i64);
            let options = ResampleOptions { mode: modes[stream], source_lengths: Some(&lengths), ..Default::default() };
            resample(&values[stream], &times[stream], &targets, options).unwrap()
        })
        .collect();
    let mode = "linear:2,angle:1,slerp:4,pchip:1,previous:*";
    let options = ResampleOptions { mode, source_lengths: Some(&lengths), ..Default::default() };
    let fused = fuse(&refs(&values), &refs(&times), &targets, options).unwrap();
    assert_eq!(fused.size(), [2, 40, 9]);
    assert!(fused.equal(&Tensor::cat(&alone, 2)));
}

#[test]
fn gradients_go_through_fuse_to_every_stream() {
    // As below for one stream; of the second, whose bracket has w = 1/2 and slope -2, channel 1 is copied.
    let first = column(&[8.0, 20.0]).set_requires_grad(true);
    let second = Tensor::from_slice(&[4.0, 1.0, 0.0, 2.0]).reshape([2, 2]).set_requires_grad(true);
    let times = [Tensor::from_slice(&[1.0, 5.0]), Tensor::from_slice(&[1.0, 3.0])];
    let times = times.map(|times| times.set_requires_grad(true));
    let target = Tensor::from_slice(&[2.0]).set_requires_grad(true);
    let options = ResampleOptions { mode: "linear:2,previous:1", ..Default::default() };
    let fused = fuse(&[&first, &second], &[&times[0], &times[1]], &target, options).unwrap();
    assert_eq!((fused.size(), numbers(&fused)), (vec![1, 3], vec![11.0, 2.0, 1.0]));

    let slope = Tensor::run_backward(&[fused.sum(Kind::Double)], &[&target], true, true);
    assert_eq!(numbers(&slope[0]), [3.0 - 2.0]);
    fused.sum(Kind::Double).backward();
    assert_eq!(numbers(&first.grad()), [0.75, 0.25]);
    assert_eq!(numbers(&second.grad()), [0.5, 1.0, 0.5, 0.0]);
    assert_eq!(numbers(&target.grad()), [1.0]);
    assert_eq!(numbers(&times[0].grad()), [-3.0 * 0.75, -3.0 * 0.25]);
    assert_eq!(numbers(&times[1].grad()), [1.0, 1.0]);

    // The slope is (v1 - v0) / 4 of the first stream and (v1 - v0) / 2 of the second.
    let again = Tensor::run_backward(&[slope[0].sum(Kind::Double)], &[&first, &second], false, false);
    assert_eq!(numbers(&again[0]), [-0.25, 0.25]);
    assert_eq!(numbers(&again[1]), [-0.5, 0.0, 0.5, 0.0]);
}

#[test]
fn lengths_cut_each_row() {
    let times = Tensor::from_slice(&[0i64, 10, 20]); // shared by both rows
    let values = Tensor::from_slice(&[0f32, 1.0, 2.0, 0.0, 1.0, 2.0]).reshape([2, 3, 1]);
    let lengths = Tensor::from_slice(&[3i64, 2]);
    let options = ResampleOptions { source_lengths: Some(&lengths), ..Default::default() };
    let result = resample(&values, &times, &Tensor::from_slice(&[5i64, 15]), options).unwrap();
    assert_eq!((result.size(), result.kind()), (vec![2, 2, 1], Kind::Float));
    assert_eq!(numbers(&result), [0.5, 1.5, 0.5, 1.0]);
}

/// The definition, one target and one channel at a time: blend by a fused multiply-add between the two samples around
/// the target, after a linear search for them.
fn definition(values: &[f64], times: &[f64], target: f64) -> f64 {
    let last = times.len() - 1;
    if target < times[0] {
        return values[0];
    }
    let i = (0..=last).rfind(|&i| times[i] <= target).unwrap();
    if i == last || times[i] == target {
        return values[i];
    }
    let weight = (target - times[i]) / (times[i + 1] - times[i]);
    weight.mul_add(values[i + 1] - values[i], values[i])
}

#[test]
fn random_rows_equal_the_definition_bit_for_bit() {
    let mut random = random(1);
    for samples in 1..40usize {
        let (targets, channels) = (25, 3);
        let mut times: Vec<f64> = (0..samples).map(|_| (random() * 100.0).floor() / 4.0).collect();
        times.sort_by(f64::total_cmp); // steps of a quarter: equal neighbours occur
        let values: Vec<f64> = (0..samples * channels).map(|_| random() - 0.5).collect();
        let at: Vec<f64> = (0..targets).map(|_| (random() * 240.0).floor() / 8.0 - 2.0).collect();

        let table = Tensor::from_slice(&values).reshape([samples as i64, channels as i64]);
        let result =
            resample(&table, &Tensor::from_slice(&times), &Tensor::from_slice(&at), ResampleOptions::default());
        let expected: Vec<f64> = at
            .iter()
            .flat_map(|&target| (0..channels).map(move |channel| (target, channel)))
            .map(|(target, channel)| {
                let signal: Vec<f64> = values.iter().skip(channel).step_by(channels).copied().collect();
                definition(&signal, &times, target)
            })
            .collect();
        let bits = |numbers: &[f64]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&numbers(&result.unwrap())), bits(&expected), "{samples} samples");
    }
}

#[test]
fn gradients_reach_values_and_times() {
    // One bracket, w = 1/4: result = v0 + (t - t0) / (t1 - t0) * (v1 - v0), slope 12 / 4 = 3.
    let values = column(&[8.0, 20.0]).set_requires_grad(true);
    let times = Tensor::from_slice(&[1.0, 5.0]).set_requires_grad(true);
    let target = Tensor::from_slice(&[2.0]).set_requires_grad(true);
    let result = resample(&values, &times, &target, ResampleOptions::default()).unwrap();
    assert_eq!(numbers(&result), [11.0]);
    result.sum(Kind::Double).backward();
    assert_eq!(numbers(&values.grad()), [0.75, 0.25]);
    assert_eq!(numbers(&target.grad()), [3.0]);
    assert_eq!(numbers(&times.grad()), [-3.0 * 0.75, -3.0 * 0.25]);
}

#[test]
fn gradients_can_be_differentiated_again() {
    let values = column(&[8.0, 20.0]).set_requires_grad(true);
    let times = Tensor::from_slice(&[1.0, 5.0]);
    let target = Tensor::from_slice(&[2.0]).set_requires_grad(true);
    let result = resample(&values, &times, &target, ResampleOptions::default()).unwrap();
    let slope = Tensor::run_backward(&[result.sum(Kind::Double)], &[&target], true, true);
    // The slope is (v1 - v0) / 4.
    slope[0].sum(Kind::Double).backward();
    assert_eq!(numbers(&values.grad()), [-0.25, 0.25]);
}

fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "float64" => Kind::Double,
        "float32" => Kind::Float,
        "float16" => Kind::Half,
        "bfloat16" => Kind::BFloat16,
        "int64" => Kind::Int64,
        "int32" => Kind::Int,
        "int16" => Kind::Int16,
        "int8" => Kind::Int8,
        "uint8" => Kind::Uint8,
        "bool" => Kind::Bool,
        "complex64" => Kind::ComplexFloat,
        _ => return None, // tch has no name for it
    })
}

/// The tensor that a row of the table of errors describes, where tch can make it.
fn described(row: &Value) -> Option<Tensor> {
    if row.get("device").is_some() {
        return None; // tch has no name for the meta device
    }
    let shape: Vec<i64> = row["shape"].as_array().unwrap().iter().map(|size| size.as_i64().unwrap()).collect();
    let kind = kind(row["dtype"].as_str().unwrap())?;
    let Some(data) = row.get("data") else {
        return Some(Tensor::ones(shape, (kind, Device::Cpu)));
    };
    let data = data.as_array().unwrap();
    // Integers as integers: nanoseconds of today have no room in f64.
    let tensor = match data.iter().map(Value::as_i64).collect::<Option<Vec<_>>>() {
        Some(integers) => Tensor::from_slice(&integers),
        None => Tensor::from_slice(&data.iter().map(|number| number.as_f64().unwrap()).collect::<Vec<_>>()),
    };
    Some(tensor.to_kind(kind).reshape(shape))
}

/// The tensors of an argument, one or a list; none where the row has no such argument.
fn tensors(row: &Value, name: &str) -> Option<Vec<Tensor>> {
    match row.get(name) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(described).collect(),
        Some(one) => Some(vec![described(one)?]),
    }
}

/// What the operator makes of a row of its table of errors, where tch can make the tensors.
fn tried(operator: &str, row: &Value) -> Option<robocache::Result<Tensor>> {
    let [values, source_times, targets, lengths] =
        ["values", "source_times", "target_times", "source_lengths"].map(|name| tensors(row, name));
    let (values, source_times, targets, lengths) = (values?, source_times?, targets?, lengths?);
    let text = |name: &str| row[name].as_str().unwrap();
    if operator == "resample_mask" {
        let gap = max_gap(&row["max_gap"])?;
        return Some(resample_mask(&source_times[0], &targets[0], gap, lengths.first()));
    }
    let options = ResampleOptions { mode: text("mode"), outside: text("outside"), source_lengths: lengths.first() };
    Some(match operator {
        "fuse" => fuse(&refs(&values), &refs(&source_times), &targets[0], options),
        _ => resample(&values[0], &source_times[0], &targets[0], options),
    })
}

/// The gap of a row, where it is a number or absent; complex numbers and the like are Python's alone.
fn max_gap(gap: &Value) -> Option<Option<MaxGap>> {
    match gap {
        Value::Null => Some(None),
        Value::Number(number) => {
            let whole = number.as_i64().map(MaxGap::Ticks);
            Some(Some(whole.unwrap_or(MaxGap::Number(number.as_f64()?))))
        }
        _ => None,
    }
}

#[test]
fn errors_have_the_text_of_the_shared_tables() {
    for (operator, least) in [("resample", 90), ("fuse", 50), ("resample_mask", 20)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cases/{operator}_errors.json"));
        let table: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut count = 0;
        for row in table.as_array().unwrap() {
            let Some(result) = tried(operator, row) else { continue };
            let error = result.expect_err(&row["name"].to_string());
            assert_eq!((error.kind(), error.text()), (row["kind"].as_str().unwrap(), row["text"].as_str().unwrap()));
            count += 1;
        }
        assert!(count >= least, "only {count} rows of the table of {operator} could be tried");
    }
}

#[test]
fn an_error_matches_by_variant() {
    let times = Tensor::from_slice(&[0.0, 1.0]);
    let result = resample(&column(&[1.0, 2.0, 3.0]), &times, &times, ResampleOptions::default());
    let text = "resample: source_times must have shape [3], got [2]";
    assert_eq!(result.unwrap_err(), Error::Value(text.to_owned()));
}

/// The Python whose torch this test is linked with, if it has the package installed.
fn python() -> Option<&'static str> {
    let imports = "import torch, robocache.nn; torch.ops.robocache.fuse";
    let runs =
        |python: &&str| Command::new(python).args(["-c", imports]).output().is_ok_and(|done| done.status.success());
    ["python3", "python"].into_iter().find(runs)
}

#[test]
fn a_module_runs_the_scripted_policy() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no python3 on PATH that imports torch and robocache, so there is no policy to run");
        return;
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("policy");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policy.py");
    let saved = Command::new(python).arg(script).arg(&folder).status().unwrap();
    assert!(saved.success(), "examples/policy.py must write to {}, got {saved}", folder.display());

    let policy = tch::CModule::load(folder.join("policy.pt")).unwrap();
    let named = Tensor::read_npz(folder.join("policy.npz")).unwrap();
    let get = |name: &str| &named.iter().find(|(found, _)| found == name).unwrap().1;
    let observation = ["joints", "joint_times", "camera", "camera_times", "now"].map(get);
    let actions = tch::no_grad(|| policy.forward_ts(&observation)).unwrap();
    // `equal` compares numbers, and no action is NaN or zero.
    assert!(actions.equal(get("actions")), "the actions must equal Python's");
}
