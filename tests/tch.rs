//! `robocache::tch`: values, gradients and errors on tch tensors, and a TorchScript policy run from Rust.

#![cfg(feature = "tch")]

use robocache::Error;
use robocache::tch::{ResampleOptions, resample};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tch::{Device, Kind, Tensor};

fn column(values: &[f64]) -> Tensor {
    Tensor::from_slice(values).reshape([-1, 1])
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).unwrap()
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
        return Some(Tensor::zeros(shape, (kind, Device::Cpu)));
    };
    let data = data.as_array().unwrap();
    // Integers as integers: nanoseconds of today have no room in f64.
    let tensor = match data.iter().map(Value::as_i64).collect::<Option<Vec<_>>>() {
        Some(integers) => Tensor::from_slice(&integers),
        None => Tensor::from_slice(&data.iter().map(|number| number.as_f64().unwrap()).collect::<Vec<_>>()),
    };
    Some(tensor.to_kind(kind).reshape(shape))
}

#[test]
fn errors_have_the_text_of_the_shared_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/resample_errors.json");
    let table: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut tried = 0;
    for row in table.as_array().unwrap() {
        let lengths = row.get("source_lengths").filter(|lengths| !lengths.is_null());
        let source_lengths = lengths.map(described);
        let tensors = ["values", "source_times", "target_times"].map(|name| described(&row[name]));
        let ([Some(values), Some(source_times), Some(target_times)], None | Some(Some(_))) =
            (&tensors, &source_lengths)
        else {
            continue;
        };
        let options = ResampleOptions {
            mode: row["mode"].as_str().unwrap(),
            outside: row["outside"].as_str().unwrap(),
            source_lengths: source_lengths.as_ref().and_then(Option::as_ref),
        };
        let error = resample(values, source_times, target_times, options).expect_err(&row["name"].to_string());
        assert_eq!((error.kind(), error.text()), (row["kind"].as_str().unwrap(), row["text"].as_str().unwrap()));
        tried += 1;
    }
    assert!(tried > 50, "only {tried} rows of the table could be tried");
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
    let imports = "import torch, robocache.nn; torch.ops.robocache.resample";
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
