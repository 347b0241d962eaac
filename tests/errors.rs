//! Wrong arguments are refused before any work, in the words of `tests/cases/resample_errors.json` (pytest's table too).

mod definition;
mod random;

use random::array::Array;
use random::encode;
use robocache::{
    DType, Error, Place, Serial, View, ViewMut, resample, resample_backward, resample_slope, resample_time_grad,
};
use serde_json::Value;

/// Cases of the table that a view can express; the others are torch's own types, devices and ranks above 3.
const LEAST_CASES: usize = 85;

const UNTOUCHED: u8 = 0x5a;

fn dtype_of(name: &str) -> DType {
    let all = random::FLOATING.into_iter().chain(random::INTEGERS);
    all.into_iter().find(|dtype| dtype.name() == name).unwrap_or_else(|| panic!("{name} is a type of the table only"))
}

/// Ones, or the data of the table.
fn tensor(spec: &Value) -> Array {
    let dtype = dtype_of(spec["dtype"].as_str().unwrap());
    let sizes: Vec<usize> =
        spec["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect();
    let number = |number: &Value| match dtype {
        DType::I64 => number.as_i64().unwrap() as u64,
        _ => encode(dtype, number.as_f64().unwrap()),
    };
    let elements: Vec<u64> = match spec["data"].as_array() {
        Some(data) => data.iter().map(number).collect(),
        None => vec![encode(dtype, 1.0); sizes.iter().product()],
    };
    let bytes = elements.iter().flat_map(|bits| bits.to_le_bytes()[..dtype.size()].to_vec()).collect();
    let strides = (0..sizes.len()).map(|axis| sizes[axis + 1..].iter().product::<usize>() as isize).collect();
    Array { bytes, dtype, sizes, strides, start: 0 }
}

/// Memory of an array, aligned for any type.
fn memory(array: &Array) -> Vec<u128> {
    let words = array.bytes.chunks(16).map(|chunk| {
        let mut word = [0; 16];
        word[..chunk.len()].copy_from_slice(chunk);
        u128::from_le_bytes(word)
    });
    words.collect()
}

/// The error of a case, and the bytes of the result that it must leave alone.
fn refused(case: &Value) -> (Error, Vec<u8>) {
    let arrays = ["values", "source_times", "target_times"].map(|name| tensor(&case[name]));
    let lengths = case.get("source_lengths").map(tensor);
    let kept = arrays.each_ref().map(memory);
    let kept_lengths = lengths.as_ref().map(memory);
    // SAFETY: each memory is a copy of its array's bytes.
    let view = |array: &Array, memory: &Vec<u128>| unsafe { array.view(memory.as_ptr().cast()) };
    let [values, source_times, target_times] = [0, 1, 2].map(|place| view(&arrays[place], &kept[place]));
    let source_lengths = lengths.as_ref().zip(kept_lengths.as_ref()).map(|(array, memory)| view(array, memory));

    // The result's size as far as the arguments have one: a wrong output must not be what is refused.
    let (shape, targets) = (&arrays[0].sizes, arrays[2].sizes.last().copied().unwrap_or(0));
    let samples_axis = if shape.len() == 3 || arrays[1].sizes.len() == 2 { 1 } else { 0 };
    let rest = shape.iter().enumerate().filter(|(axis, _)| *axis != samples_axis).map(|(_, size)| size);
    let elements = rest.product::<usize>() * targets;
    let mut output = vec![UNTOUCHED; elements * arrays[0].dtype.size() + 8];
    // SAFETY: the bytes were just allocated, and types without alignment of their own are not read by a refusal.
    let view = unsafe { ViewMut::from_raw(output.as_mut_ptr(), arrays[0].dtype, &[elements]) };
    let (mode, outside) = (case["mode"].as_str().unwrap(), case["outside"].as_str().unwrap());
    let result = resample(
        values,
        source_times,
        target_times,
        mode,
        outside,
        source_lengths,
        &mut view.unwrap(),
        &Place::cpu(&Serial),
    );
    (result.expect_err(case["name"].as_str().unwrap()), output)
}

#[test]
fn the_table_of_wrong_arguments() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/resample_errors.json");
    let table: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let rank = |case: &Value, name: &str| case[name]["shape"].as_array().map_or(0, Vec::len);
    let mut ran = 0;
    for case in table.as_array().unwrap() {
        let names = ["values", "source_times", "target_times", "source_lengths"];
        if case["torch_only"] == true || names.iter().any(|name| rank(case, name) > 3) {
            continue;
        }
        let (error, output) = refused(case);
        assert_eq!((error.kind(), error.text()), (case["kind"].as_str().unwrap(), case["text"].as_str().unwrap()));
        assert!(output.iter().all(|&byte| byte == UNTOUCHED), "{error}: something was written");
        ran += 1;
    }
    assert!(ran >= LEAST_CASES, "only {ran} cases of the table ran");
}

const VALUES: [f32; 12] = [0.0; 12];
const TIMES: [f64; 4] = [0.0, 1.0, 2.0, 3.0];
const TICKS: [i64; 4] = [0, 1, 2, 3];

fn dense<T: robocache::Element>(data: &[T], sizes: &[usize]) -> View<'static> {
    let count = sizes.iter().product::<usize>();
    View::new(Vec::leak(data[..count].to_vec()), sizes).unwrap()
}

fn text<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
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
        text(resample_backward(grad, times, times, "linear", "hold", None, false, output, workspace, &place))
    };
    let grad = dense(&VALUES, &[1, 4, 3]);
    let wanted = robocache::resample_backward_workspace(1, 4, 4).unwrap();
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
    assert!(robocache::resample_backward_workspace(usize::MAX, 2, 2).is_err());
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
}
