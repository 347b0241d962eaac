//! Wrong arguments are refused before any work, in the words of `tests/cases/*_errors.json`.
//!
//! The tables are also those of pytest, C++ and tch. A row is a call by its arguments' names, `kind` and `text` of the
//! error, and a `name` of its own:
//! * a tensor is its `shape`, `dtype` and `data`, ones where there is none; `fuse` has lists of them as `values` and
//!   `source_times`;
//! * `source_lengths`, and for `resample_mask` `max_gap`, are optional; `mode` and `outside` are not;
//! * `torch_only` marks what a view cannot say: torch's own types, and a tensor on another `device`;
//! * `cpu_only` marks what is found in the data, which only the CPU looks at.

mod definition;
mod random;

use random::array::Array;
use random::encode;
use robocache::{
    DType, Error, MaxGap, Place, Result, Serial, View, ViewMut, fuse, resample, resample_backward, resample_curvature,
    resample_mask, resample_slope, resample_tangent, resample_time_grad,
};
use serde_json::Value;

/// Cases of each table that views can express; the others are `torch_only` or of ranks above 3.
const LEAST_CASES: [(&str, usize); 3] = [("resample", 105), ("fuse", 60), ("resample_mask", 28)];

const UNTOUCHED: u8 = 0x5a;

fn dtype_of(name: &str) -> DType {
    let all = random::FLOATING.into_iter().chain(random::INTEGERS);
    all.into_iter().find(|dtype| dtype.name() == name).unwrap_or_else(|| panic!("{name} is a type of the table only"))
}

/// Ones, or the data of the table, in memory aligned for any type.
fn tensor(spec: &Value) -> (Array, Vec<u128>) {
    let dtype = dtype_of(spec["dtype"].as_str().unwrap());
    let sizes: Vec<usize> = shape(spec);
    let number = |number: &Value| match dtype {
        DType::I64 => number.as_i64().unwrap() as u64,
        _ => encode(dtype, number.as_f64().unwrap()),
    };
    let elements: Vec<u64> = match spec["data"].as_array() {
        Some(data) => data.iter().map(number).collect(),
        None => vec![encode(dtype, 1.0); sizes.iter().product()],
    };
    let bytes: Vec<u8> = elements.iter().flat_map(|bits| bits.to_le_bytes()[..dtype.size()].to_vec()).collect();
    let strides = (0..sizes.len()).map(|axis| sizes[axis + 1..].iter().product::<usize>() as isize).collect();
    let words = bytes.chunks(16).map(|chunk| {
        let mut word = [0; 16];
        word[..chunk.len()].copy_from_slice(chunk);
        u128::from_le_bytes(word)
    });
    let memory = words.collect();
    (Array { bytes, dtype, sizes, strides, start: 0 }, memory)
}

fn shape(spec: &Value) -> Vec<usize> {
    spec["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect()
}

/// One tensor, or the tensors of a list; none where the case does not name the argument.
fn specs<'c>(case: &'c Value, argument: &str) -> Vec<&'c Value> {
    match case.get(argument) {
        None => vec![],
        Some(Value::Array(list)) => list.iter().collect(),
        Some(spec) => vec![spec],
    }
}

/// The arguments of a case.
struct Arguments(Vec<(Array, Vec<u128>)>);

impl Arguments {
    fn new(case: &Value, argument: &str) -> Arguments {
        Arguments(specs(case, argument).into_iter().map(tensor).collect())
    }

    fn views(&self) -> Vec<View<'_>> {
        // SAFETY: each memory is a copy of its array's bytes.
        self.0.iter().map(|(array, memory)| unsafe { array.view(memory.as_ptr().cast()) }).collect()
    }

    fn last_axes(&self) -> usize {
        self.0.iter().map(|(array, _)| array.sizes.last().copied().unwrap_or(0)).sum()
    }
}

/// The elements of the result as far as the arguments have one: a wrong output must not be what is refused.
fn elements(op: &str, values: &Arguments, source: &Arguments, target: &Arguments, lengths: &Arguments) -> usize {
    let rank = |arguments: &Arguments| arguments.0.first().map_or(0, |(array, _)| array.sizes.len());
    let first = |arguments: &Arguments| arguments.0.first().and_then(|(array, _)| array.sizes.first()).copied();
    match op {
        "resample" => {
            let samples_axis = if rank(values) == 3 || rank(source) == 2 { 1 } else { 0 };
            let sizes = values.0[0].0.sizes.iter().enumerate();
            sizes.filter(|(axis, _)| *axis != samples_axis).map(|(_, size)| size).product::<usize>()
                * target.last_axes()
        }
        "fuse" => {
            let batch = if rank(values) == 3 { first(values).unwrap_or(0) } else { 1 };
            batch * target.last_axes() * values.last_axes()
        }
        _ => {
            let batched = [source, target].into_iter().find(|times| rank(times) == 2);
            batched.or((rank(lengths) == 1).then_some(lengths)).and_then(first).unwrap_or(1) * target.last_axes()
        }
    }
}

/// The error of a case, and the bytes of the result that it must leave alone.
fn refused(op: &str, case: &Value) -> (Error, Vec<u8>) {
    let [values, source, target, lengths] =
        ["values", "source_times", "target_times", "source_lengths"].map(|name| Arguments::new(case, name));
    let dtype = if op == "resample_mask" { DType::Bool } else { values.0.first().map_or(DType::F32, |(v, _)| v.dtype) };
    let elements = elements(op, &values, &source, &target, &lengths);
    let mut output = vec![UNTOUCHED; elements * dtype.size() + 8];
    // SAFETY: the bytes were just allocated, and types without alignment of their own are not read by a refusal.
    let out = &mut unsafe { ViewMut::from_raw(output.as_mut_ptr(), dtype, &[elements]) }.unwrap();
    let text = |name: &str| case[name].as_str().unwrap_or_default();
    let (mode, outside, place) = (text("mode"), text("outside"), &Place::cpu(&Serial));
    let (values, source, lengths) = (values.views(), source.views(), lengths.views().first().copied());
    let target = target.views()[0];
    let max_gap = case.get("max_gap").map(|gap| match gap.as_i64() {
        Some(ticks) => MaxGap::Ticks(ticks),
        None => MaxGap::Number(gap.as_f64().unwrap()),
    });
    let result = match op {
        "resample" => resample(values[0], source[0], target, mode, outside, lengths, out, place),
        "fuse" => fuse(&values, &source, target, mode, outside, lengths, out, place),
        _ => resample_mask(source[0], target, max_gap, lengths, out, place),
    };
    (result.expect_err(text("name")), output)
}

#[test]
fn the_tables_of_wrong_arguments() {
    for (op, least) in LEAST_CASES {
        let path = format!("{}/tests/cases/{op}_errors.json", env!("CARGO_MANIFEST_DIR"));
        let table: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let names = ["values", "source_times", "target_times", "source_lengths"];
        let fits = |case: &Value| {
            case["torch_only"] != true
                && names.iter().all(|name| specs(case, name).into_iter().all(|spec| shape(spec).len() <= 3))
        };
        let mut ran = 0;
        for case in table.as_array().unwrap().iter().filter(|case| fits(case)) {
            let (error, output) = refused(op, case);
            let wanted = (case["kind"].as_str().unwrap(), case["text"].as_str().unwrap());
            assert_eq!((error.kind(), error.text()), wanted, "{}", case["name"]);
            assert!(output.iter().all(|&byte| byte == UNTOUCHED), "{error}: something was written");
            ran += 1;
        }
        assert!(ran >= least, "only {ran} cases of the table of {op} ran");
    }
}

const VALUES: [f32; 12] = [0.0; 12];
const TIMES: [f64; 4] = [0.0, 1.0, 2.0, 3.0];
const TICKS: [i64; 4] = [0, 1, 2, 3];

fn dense<T: robocache::Element>(data: &[T], sizes: &[usize]) -> View<'static> {
    let count = sizes.iter().product::<usize>();
    View::new(Vec::leak(data[..count].to_vec()), sizes).unwrap()
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    format!("{}: {error}", error.kind())
}

#[test]
fn a_view_holds_as_many_elements_as_its_sizes_say() {
    assert_eq!(
        text(View::new(&[0f32; 5], &[2, 3])),
        "ValueError: view: data must have as many elements as shape [2, 3], got 5"
    );
    assert_eq!(text(View::new(&[0f32; 1], &[1; 4])), "ValueError: view: sizes must be at most 3 numbers, got 4");
    assert!(View::new(&[0u8; 0], &[usize::MAX, 2]).is_err());
    assert!(ViewMut::new(&mut [0u8; 3], &[2]).is_err());
}

#[test]
fn an_output_of_another_size_or_type_is_refused() {
    let call = |output: &mut ViewMut| {
        let (values, times, targets) = (dense(&VALUES, &[1, 4, 3]), dense(&TIMES, &[4]), dense(&TIMES, &[2]));
        resample(values, times, targets, "linear", "hold", None, output, &Place::cpu(&Serial))
    };
    let small = call(&mut ViewMut::new(&mut [0f32; 5], &[5]).unwrap());
    assert_eq!(
        text(small),
        "ValueError: resample: output must be float32 of shape [1, 2, 3], got float32 of shape [5]"
    );
    let wide = call(&mut ViewMut::new(&mut [0f64; 6], &[2, 3]).unwrap());
    assert_eq!(
        text(wide),
        "ValueError: resample: output must be float32 of shape [1, 2, 3], got float64 of shape [2, 3]"
    );
}

#[test]
fn derivatives_are_of_floating_numbers() {
    let place = Place::cpu(&Serial);
    let (times, ticks) = (dense(&TIMES, &[4]), dense(&TICKS, &[4]));
    let (values, integers) = (dense(&VALUES, &[1, 4, 3]), dense(&[1i32; 12], &[1, 4, 3]));
    let slope = |values: View, times: View| {
        let mut output = [0f32; 12];
        let output = &mut ViewMut::new(&mut output, &[12]).unwrap();
        text(resample_slope(values, times, times, "previous", "hold", None, output, &place))
    };
    assert_eq!(slope(integers, times), "TypeError: resample_slope: values must be floating point, got int32");
    assert_eq!(slope(values, ticks), "TypeError: resample_slope: source_times must be floating point, got int64");

    let gradient = |grad: View, times: View| {
        let mut output = [0f64; 4];
        let output = &mut ViewMut::new(&mut output, &[4]).unwrap();
        text(resample_time_grad(grad, values, times, times, "linear", "hold", None, output, &place))
    };
    let half = dense(&[half::f16::ZERO; 12], &[1, 4, 3]);
    assert_eq!(gradient(half, times), "TypeError: resample_time_grad: grad must be float32 (as values), got float16");
    let short = dense(&VALUES, &[1, 3, 3]);
    assert_eq!(gradient(short, times), "ValueError: resample_time_grad: grad must have shape [1, 4, 3], got [1, 3, 3]");
    assert!(gradient(values, ticks).starts_with("TypeError: resample_time_grad: source_times must be floating"));
}

#[test]
fn a_backward_checks_its_gradient_and_workspace() {
    let backward = |grad: View, words: usize, offset: usize| {
        let mut memory = vec![0u128; words + 1];
        // SAFETY: the offset is less than the one word more than the size says.
        let workspace =
            &mut unsafe { ViewMut::from_raw(memory.as_mut_ptr().cast::<u8>().add(offset), DType::U8, &[words * 16]) }
                .unwrap();
        let mut output = [0f32; 12];
        let output = &mut ViewMut::new(&mut output, &[1, 4, 3]).unwrap();
        let times = dense(&TIMES, &[4]);
        let place = Place::cpu(&Serial);
        text(resample_backward(grad, times, times, "linear", "hold", None, false, None, output, workspace, &place))
    };
    let grad = dense(&VALUES, &[1, 4, 3]);
    let wanted = robocache::resample_backward_workspace(1, 4, 4, "linear", &Place::cpu(&Serial)).unwrap();
    assert_eq!(
        backward(grad, 1, 0),
        format!("ValueError: resample_backward: workspace must have at least {wanted} bytes, got 16")
    );
    assert_eq!(
        backward(grad, wanted.div_ceil(16), 8),
        "ValueError: resample_backward: workspace must be aligned to 16 bytes"
    );
    let integers = dense(&[0i16; 12], &[1, 4, 3]);
    assert_eq!(backward(integers, 100, 0), "TypeError: resample_backward: grad must be floating point, got int16");
    let short = dense(&VALUES, &[1, 2, 3]);
    assert_eq!(backward(short, 100, 0), "ValueError: resample_backward: grad must have shape [1, 4, 3], got [1, 2, 3]");
    let flat = dense(&VALUES, &[4, 3]);
    assert!(backward(flat, 100, 0).starts_with("ValueError: resample_backward: grad must have shape"));
    assert!(robocache::resample_backward_workspace(usize::MAX, 2, 2, "linear", &Place::cpu(&Serial)).is_err());
    assert!(robocache::resample_curvature_workspace(usize::MAX, 2, 2).is_err());
}

#[test]
fn derivatives_need_values_and_directions_of_one_kind() {
    let place = Place::cpu(&Serial);
    let (times, values) = (dense(&TIMES, &[4]), dense(&VALUES, &[1, 4, 3]));
    let mut memory = vec![0u128; 200];
    let mut gather = |grad: View, values: Option<View>, tangent: Option<View>, mode: &str| {
        // SAFETY: the workspace has that many bytes.
        let work = unsafe { ViewMut::from_raw(memory.as_mut_ptr().cast(), DType::U8, &[3200]) };
        let (mut output, work) = ([0f32; 12], &mut work.unwrap());
        let out = &mut ViewMut::new(&mut output, &[1, 4, 3]).unwrap();
        text(match (values, tangent) {
            (Some(values), Some(tangent)) => {
                resample_curvature(grad, tangent, values, times, times, mode, "hold", None, out, work, &place)
            }
            _ => resample_backward(grad, times, times, mode, "hold", None, false, values, out, work, &place),
        })
    };
    assert_eq!(
        gather(values, None, None, "linear:2,pchip:1"),
        "ValueError: resample_backward: values must be given for mode \"pchip\", got none"
    );
    let (short, wide) = (dense(&VALUES, &[1, 3, 3]), dense(&[0f64; 12], &[1, 4, 3]));
    let shape = "must have shape [1, 4, 3], got [1, 3, 3]";
    assert_eq!(gather(values, Some(short), None, "pchip"), format!("ValueError: resample_backward: values {shape}"));
    assert_eq!(
        gather(values, Some(wide), None, "pchip"),
        "TypeError: resample_backward: values must be float32 (as grad), got float64"
    );
    let found = gather(values, Some(values), Some(short), "pchip");
    assert_eq!(found, format!("ValueError: resample_curvature: tangent {shape}"));
    let found = gather(values, Some(values), Some(wide), "pchip");
    assert_eq!(found, "TypeError: resample_curvature: tangent must be float32 (as grad), got float64");

    let tangent = |tangent: View, values: View| {
        let mut output = [0f32; 12];
        let out = &mut ViewMut::new(&mut output, &[12]).unwrap();
        text(resample_tangent(tangent, values, times, times, "previous", "hold", None, out, &place))
    };
    assert_eq!(tangent(short, values), format!("ValueError: resample_tangent: tangent {shape}"));
    let found = tangent(wide, values);
    assert_eq!(found, "TypeError: resample_tangent: tangent must be float32 (as values), got float64");
    let integers = dense(&[1i32; 12], &[1, 4, 3]);
    let found = tangent(integers, integers);
    assert_eq!(found, "TypeError: resample_tangent: values must be floating point, got int32");
}

#[test]
fn a_gap_that_is_no_number_is_refused() {
    let mask = |gap: MaxGap| {
        let mut output = [false; 4];
        let out = &mut ViewMut::new(&mut output, &[4]).unwrap();
        let times = dense(&TIMES, &[4]);
        resample_mask(times, times, Some(gap), None, out, &Place::cpu(&Serial))
    };
    for (number, found) in [(f64::NAN, "nan"), (f64::NEG_INFINITY, "-inf"), (-1e-3, "-0.001")] {
        let wanted = format!("ValueError: resample_mask: max_gap must be at least 0, got {found}");
        assert_eq!(text(mask(MaxGap::Number(number))), wanted);
    }
    assert_eq!(mask(MaxGap::Number(-0.0)), Ok(()));
    assert_eq!(mask(MaxGap::Number(f64::INFINITY)), Ok(()));
}

#[test]
fn a_backward_with_scalar_times_is_refused() {
    let (mut output, mut workspace) = ([0f32; 3], [0u8; 0]);
    let result = resample_backward(
        dense(&VALUES, &[1, 1, 3]),
        dense(&TIMES, &[]),
        dense(&TIMES, &[1]),
        "linear",
        "hold",
        None,
        false,
        None,
        &mut ViewMut::new(&mut output, &[1, 1, 3]).unwrap(),
        &mut ViewMut::new(&mut workspace, &[0]).unwrap(),
        &Place::cpu(&Serial),
    );
    assert_eq!(text(result), "ValueError: resample_backward: source_times must have shape [B, S] or [S], got []");
}

#[test]
fn a_backward_to_no_samples_is_an_empty_gradient() {
    let (mut output, mut workspace) = ([0f32; 0], [0u128; 20]);
    // SAFETY: the workspace has that many bytes.
    let workspace = unsafe { ViewMut::from_raw(workspace.as_mut_ptr().cast(), DType::U8, &[320]) };
    let result = resample_backward(
        dense(&VALUES, &[1, 2, 3]),
        dense(&TIMES, &[0]),
        dense(&TIMES, &[2]),
        "linear",
        "hold",
        None,
        false,
        None,
        &mut ViewMut::new(&mut output, &[1, 0, 3]).unwrap(),
        &mut workspace.unwrap(),
        &Place::cpu(&Serial),
    );
    assert_eq!(result, Ok(()));
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    // SAFETY: this build never touches the stream.
    let place = unsafe { Place::cuda(robocache::Stream { device: 0, handle: 0 }) };
    let mut output = [0f32; 6];
    let output = &mut ViewMut::new(&mut output, &[2, 3]).unwrap();
    let (values, times, targets) = (dense(&VALUES, &[1, 4, 3]), dense(&TIMES, &[4]), dense(&TIMES, &[2]));
    assert_eq!(
        text(resample(values, times, targets, "linear", "hold", None, output, &place)),
        "NotImplementedError: resample: this build has no CUDA; build robocache with feature cuda"
    );
    assert_eq!(
        text(fuse(&[values], &[times], targets, "linear", "hold", None, output, &place)),
        "NotImplementedError: fuse: this build has no CUDA; build robocache with feature cuda"
    );
    let mut output = [false; 2];
    let output = &mut ViewMut::new(&mut output, &[2]).unwrap();
    assert_eq!(
        text(resample_mask(times, targets, None, None, output, &place)),
        "NotImplementedError: resample_mask: this build has no CUDA; build robocache with feature cuda"
    );
}
