//! Wrong arguments of `voxelize` and `voxelize_sparse` are refused before any work, in the words of
//! `tests/cases/voxelize_errors.json` and `voxelize_sparse_errors.json`.
//!
//! A row of a table is a call by its arguments' names, as in `tests/errors.rs`: `points`, and where given `features` and
//! `lengths`, are tensors; `origin`, `voxel_size` and `grid_size` are numbers, of which "nan" and "inf" are strings.

mod definition;
mod random;

use random::encode;
use robocache::{
    Counted, DType, Element, Place, Result, Serial, View, ViewMut, voxelize, voxelize_backward, voxelize_counted,
    voxelize_sparse_backward, voxelize_sparse_fill, voxelize_sparse_rows, voxelize_sparse_values,
    voxelize_sparse_workspace, voxelize_tangent, voxelize_workspace,
};
use serde_json::Value;

/// Cases of each table that views can express. Features, the reduction and the capacity of a sparse call are other calls'
/// arguments here; C++ checks them by the same functions.
const LEAST_CASES: [(&str, usize); 2] = [("voxelize", 80), ("voxelize_sparse", 20)];
const UNTOUCHED: u8 = 0x5a;

/// Ones, or the data of the table, in memory aligned for any type.
struct Tensor {
    dtype: DType,
    sizes: Vec<usize>,
    memory: Vec<u128>,
}

impl Tensor {
    fn new(spec: &Value) -> Tensor {
        let mut all = random::FLOATING.into_iter().chain(random::INTEGERS);
        let name = spec["dtype"].as_str().unwrap();
        let dtype = all.find(|dtype| dtype.name() == name).unwrap_or_else(|| panic!("{name} is a type of torch only"));
        let sizes = shape(spec);
        let elements: Vec<u64> = match spec["data"].as_array() {
            Some(data) => data.iter().map(|number| encode(dtype, number.as_f64().unwrap())).collect(),
            None => vec![encode(dtype, 1.0); sizes.iter().product()],
        };
        let bytes: Vec<u8> = elements.iter().flat_map(|bits| bits.to_le_bytes()[..dtype.size()].to_vec()).collect();
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u128::from(byte));
        Tensor { dtype, sizes, memory: bytes.chunks(16).map(word).collect() }
    }

    fn view(&self) -> View<'_> {
        let strides: Vec<_> =
            (0..self.sizes.len()).map(|axis| self.sizes[axis + 1..].iter().product::<usize>() as isize).collect();
        // SAFETY: `new` made as many elements of that type.
        unsafe { View::from_raw(self.memory.as_ptr().cast(), self.dtype, &self.sizes, &strides) }.unwrap()
    }
}

fn shape(spec: &Value) -> Vec<usize> {
    spec["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect()
}

fn numbers(spec: &Value) -> Vec<f64> {
    let number = |number: &Value| match number.as_str() {
        Some(text) => text.parse().unwrap(),
        None => number.as_f64().unwrap(),
    };
    spec.as_array().unwrap().iter().map(number).collect()
}

/// The result of a case, and the bytes that a refusal must leave alone.
fn called(op: &str, case: &Value) -> (Result<()>, Vec<u8>) {
    let tensor = |name: &str| case.get(name).filter(|spec| !spec.is_null()).map(Tensor::new);
    let (points, features, lengths) = (tensor("points").unwrap(), tensor("features"), tensor("lengths"));
    let (origin, edges) = (numbers(&case["origin"]), numbers(&case["voxel_size"]));
    let size: Vec<i64> = case["grid_size"].as_array().unwrap().iter().map(|size| size.as_i64().unwrap()).collect();
    let mut memory = vec![u128::from_le_bytes([UNTOUCHED; 16]); 4096];
    let bytes = memory.len() * 16 / 4;
    let mut rooms = memory.chunks_exact_mut(bytes / 16).map(|room| room.as_mut_ptr().cast::<u8>());
    // SAFETY: each room has so many bytes, and a refusal touches none.
    let mut room = |dtype: DType, sizes: &[usize]| unsafe {
        assert!(sizes.iter().product::<usize>() * dtype.size() <= bytes);
        ViewMut::from_raw(rooms.next().unwrap(), dtype, sizes).unwrap()
    };
    let place = Place::cpu(&Serial);
    let (points, lengths) = (points.view(), lengths.as_ref().map(Tensor::view));
    let workspace = &mut room(DType::U8, &[bytes]);
    let result = if op == "voxelize" {
        let reduce = case["reduce"].as_str().unwrap();
        let features = features.as_ref().map(Tensor::view);
        let out = &mut room(DType::F32, &[1, 1, 7]);
        voxelize(points, features, &origin, &edges, &size, reduce, lengths, out, workspace, &place)
    } else {
        let count = points.shape().sizes().iter().rev().skip(1).product();
        let (order, number) = (&mut room(DType::I32, &[count]), &mut room(DType::I64, &[1]));
        voxelize_sparse_rows(points, &origin, &edges, &size, lengths, order, number, workspace, &place)
    };
    (result, memory.iter().flat_map(|word| word.to_le_bytes()).collect())
}

#[test]
fn the_tables_of_wrong_arguments() {
    for (op, least) in LEAST_CASES {
        let path = format!("{}/tests/cases/{op}_errors.json", env!("CARGO_MANIFEST_DIR"));
        let table: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let elsewhere = ["features", "reduce", "capacity"].map(|name| format!("voxelize_sparse: {name} must"));
        let fits = |case: &&Value| {
            let text = case["text"].as_str().unwrap();
            case["torch_only"] != true && !elsewhere.iter().any(|start| text.starts_with(start))
        };
        let mut ran = 0;
        for case in table.as_array().unwrap().iter().filter(fits) {
            let (result, output) = called(op, case);
            let error = result.expect_err(case["name"].as_str().unwrap());
            let wanted = (case["kind"].as_str().unwrap(), case["text"].as_str().unwrap());
            assert_eq!((error.kind(), error.text()), wanted, "{}", case["name"]);
            assert!(output.iter().all(|&byte| byte == UNTOUCHED), "{error}: something was written");
            ran += 1;
        }
        assert!(ran >= least, "only {ran} cases of the table of {op} ran");
    }
}

const NUMBERS: [f32; 96] = [0.0; 96];

fn dense<T: Element>(data: &[T], sizes: &[usize]) -> View<'static> {
    let count = sizes.iter().product::<usize>();
    View::new(Vec::leak(data[..count].to_vec()), sizes).unwrap()
}

fn text(result: Result<()>) -> String {
    let error = result.unwrap_err();
    format!("{}: {error}", error.kind())
}

/// A workspace of that many bytes, `offset` behind an aligned address.
fn workspace(bytes: usize, offset: usize) -> ViewMut<'static> {
    let memory = Vec::leak(vec![0u128; bytes.div_ceil(16) + 1]);
    // SAFETY: one word more was allocated, and the memory is never freed.
    unsafe { ViewMut::from_raw(memory.as_mut_ptr().cast::<u8>().add(offset), DType::U8, &[bytes]) }.unwrap()
}

const GRID: ([f64; 3], [f64; 1], [i64; 3]) = ([0.0; 3], [0.5], [2, 2, 2]);

/// `voxelize` of two clouds of five points with three features, into that output and workspace.
fn forward(output: &mut ViewMut, workspace: &mut ViewMut) -> Result<()> {
    let (points, features) = (dense(&NUMBERS, &[2, 5, 3]), Some(dense(&NUMBERS, &[2, 5, 3])));
    let (origin, edges, size) = GRID;
    voxelize(points, features, &origin, &edges, &size, "mean", None, output, workspace, &Place::cpu(&Serial))
}

#[test]
fn an_output_or_workspace_of_another_kind_is_refused() {
    let bytes = voxelize_workspace(2, 5, &GRID.2, "mean", false, &Place::cpu(&Serial)).unwrap();
    let mut output = [7f32; 48];
    let short = forward(&mut ViewMut::new(&mut output[..47], &[47]).unwrap(), &mut workspace(bytes, 0));
    let wanted = "output must be float32 of shape [2, 3, 8], got float32 of shape [47]";
    assert_eq!(text(short), format!("ValueError: voxelize: {wanted}"));
    let wide = forward(&mut ViewMut::new(&mut [0f64; 48], &[48]).unwrap(), &mut workspace(bytes, 0));
    let wanted = "output must be float32 of shape [2, 3, 8], got float64 of shape [48]";
    assert_eq!(text(wide), format!("ValueError: voxelize: {wanted}"));
    for (found, offset) in [(bytes - 1, 0), (bytes, 8), (0, 0)] {
        let result = forward(&mut ViewMut::new(&mut output, &[48]).unwrap(), &mut workspace(found, offset));
        let short = format!("workspace must have at least {bytes} bytes, got {found}");
        let wanted = if offset == 0 { short } else { "workspace must be aligned to 16 bytes".to_owned() };
        assert_eq!(text(result), format!("ValueError: voxelize: {wanted}"));
    }
    assert_eq!(output, [7.0; 48]);
    assert_eq!(forward(&mut ViewMut::new(&mut output, &[2, 24]).unwrap(), &mut workspace(bytes, 0)), Ok(()));
}

#[test]
fn a_cloud_has_no_more_points_than_counts_can_say() {
    // One point, repeated: a refusal reads none of them.
    let all = 1usize << 31;
    // SAFETY: every index is the same three numbers.
    let points = unsafe { View::from_raw(NUMBERS.as_ptr().cast(), DType::F32, &[1, all, 3], &[0, 0, 1]) }.unwrap();
    let (origin, edges, size) = GRID;
    let (mut output, mut number) = ([0u8; 8], [0i64]);
    let (out, number) = (&mut ViewMut::new(&mut output, &[8]).unwrap(), &mut ViewMut::new(&mut number, &[1]).unwrap());
    let (work, place) = (&mut workspace(16, 0), Place::cpu(&Serial));
    let wanted = "points must have at most 2147483647 points a cloud, got 2147483648";
    let dense = voxelize(points, None, &origin, &edges, &size, "count", None, out, work, &place);
    assert_eq!(text(dense), format!("ValueError: voxelize: {wanted}"));
    let sparse = voxelize_sparse_rows(points, &origin, &edges, &size, None, out, number, work, &place);
    assert_eq!(text(sparse), format!("ValueError: voxelize_sparse: {wanted}"));
}

#[test]
fn derivatives_check_their_gradient_and_direction() {
    let (points, features) = (dense(&NUMBERS, &[2, 5, 3]), dense(&NUMBERS, &[2, 5, 3]));
    let ((origin, edges, size), place) = (GRID, Place::cpu(&Serial));
    let counted = |grad: View, features: Option<View>, reduce: &str, counted: Option<Counted>| {
        let out = &mut ViewMut::new(Vec::leak(vec![0f32; 30]), &[30]).unwrap();
        let work = &mut workspace(4096, 0);
        text(voxelize_backward(
            grad, points, features, &origin, &edges, &size, reduce, None, counted, out, work, &place,
        ))
    };
    let backward = |grad: View, features: Option<View>, reduce: &str| counted(grad, features, reduce, None);
    let grad = dense(&NUMBERS, &[2, 3, 8]);
    let named = |text: &str| format!("ValueError: voxelize_backward: {text}");
    let wanted = named("features must be given where reduce is \"max\", got none");
    assert_eq!(backward(grad, None, "max"), wanted);
    let wanted = named("reduce must read features, got \"count\"");
    assert_eq!(backward(grad, Some(features), "count"), wanted);
    assert_eq!(
        backward(dense(&NUMBERS, &[2, 3, 7]), None, "sum"),
        named("grad must have shape [2, 3, 8], got [2, 3, 7]")
    );
    assert_eq!(
        backward(dense(&NUMBERS, &[2, 2, 8]), Some(features), "min"),
        named("grad must have shape [2, 3, 8], got [2, 2, 8]")
    );
    let found = backward(dense(&[0i32; 48], &[2, 3, 8]), None, "sum");
    assert_eq!(found, "TypeError: voxelize_backward: grad must be float64, float32, float16 or bfloat16, got int32");
    assert!(backward(dense(&[0f64; 48], &[2, 3, 8]), Some(features), "max").contains("voxelize_backward: grad must"));
    let (counts, voxels) = (dense(&[1i32; 16], &[2, 8]), dense(&[0i32; 10], &[2, 5]));
    let known = |counts: View<'static>, point_voxel: View<'static>| Some(Counted { counts, point_voxel });
    let (few, wide) = (dense(&[1i32; 14], &[2, 7]), dense(&[1i64; 16], &[2, 8]));
    let wanted = named("counts must be none where reduce is not \"mean\", got some");
    assert_eq!(counted(grad, None, "sum", known(counts, voxels)), wanted);
    let wanted = |what: &str| named(&format!("counts must be int32, dense and of shape [2, 8], got {what}"));
    assert_eq!(counted(grad, None, "mean", known(few, voxels)), wanted("int32 of shape [2, 7]"));
    assert_eq!(counted(grad, None, "mean", known(wide, voxels)), wanted("int64 of shape [2, 8]"));
    let wanted = named("point_voxel must be int32, dense and of shape [2, 5], got int32 of shape [2, 7]");
    assert_eq!(counted(grad, None, "mean", known(counts, few)), wanted);
    let (out, work) = (&mut ViewMut::new(Vec::leak(vec![0f32; 48]), &[48]).unwrap(), &mut workspace(4096, 0));
    let [few, right] = [15, 16].map(|count| ViewMut::new(Vec::leak(vec![0i32; count]), &[count]).unwrap());
    for (mut counts, wanted) in [
        (few, "counts must be int32 of shape [2, 8, 1], got int32 of shape [15]"),
        (right, "point_voxel must be int32 of shape [2, 5, 1], got int32 of shape [9]"),
    ] {
        let found = &mut ViewMut::new(Vec::leak(vec![0i32; 9]), &[9]).unwrap();
        let refused =
            voxelize_counted(points, features, &origin, &edges, &size, None, out, &mut counts, found, work, &place);
        assert_eq!(text(refused), format!("ValueError: voxelize_counted: {wanted}"));
    }
    let (out, counts, found) = (
        &mut ViewMut::new(Vec::leak(vec![0f32; 0]), &[0]).unwrap(),
        &mut ViewMut::new(Vec::leak(vec![0i32; 0]), &[0]).unwrap(),
        &mut ViewMut::new(Vec::leak(vec![0i32; 0]), &[0]).unwrap(),
    );
    let (many, none) = ([1i64 << 11, 1 << 11, 1 << 9], dense(&NUMBERS, &[0, 5, 3]));
    let refused = voxelize_counted(none, none, &origin, &edges, &many, None, out, counts, found, work, &place);
    let wanted = "grid_size must make at most 2147483647 voxels, got 2147483648";
    assert_eq!(text(refused), format!("ValueError: voxelize_counted: {wanted}"));

    let tangent = |tangent: View, reduce: &str| {
        let out = &mut ViewMut::new(Vec::leak(vec![0f32; 48]), &[48]).unwrap();
        let work = &mut workspace(4096, 0);
        text(voxelize_tangent(tangent, points, features, &origin, &edges, &size, reduce, None, out, work, &place))
    };
    let named = |text: &str| format!("ValueError: voxelize_tangent: {text}");
    let wanted = "tangent must be float32 of shape [2, 5, 3], got float32 of shape [2, 5, 2]";
    assert_eq!(tangent(dense(&NUMBERS, &[2, 5, 2]), "max"), named(wanted));
    let wanted = "tangent must be float32 of shape [2, 5, 3], got float64 of shape [2, 5, 3]";
    assert_eq!(tangent(dense(&[0f64; 30], &[2, 5, 3]), "sum"), named(wanted));
    assert_eq!(tangent(features, "occupancy"), named("reduce must read features, got \"occupancy\""));
}

#[test]
fn the_steps_of_a_sparse_grid_check_each_others_results() {
    let (points, features) = (dense(&NUMBERS, &[2, 5, 3]), dense(&NUMBERS, &[2, 5, 3]));
    let place = Place::cpu(&Serial);
    let bytes = voxelize_sparse_workspace(2, 5, &GRID.2, &place).unwrap();
    let integers = [0i32; 40];
    let (order, coords, row) = (dense(&integers, &[2, 5]), dense(&integers, &[2, 4]), dense(&integers, &[2]));
    let number = dense(&[2i64], &[1]);
    let fill = |order: View, bytes: usize, rows: usize| {
        let (coords, point_voxel) = (&mut [0i32; 8], &mut [0i64; 10]);
        let (counts, starts) = (&mut vec![0i32; rows], &mut [0i32; 2]);
        text(voxelize_sparse_fill(
            points,
            &GRID.2,
            order,
            number,
            &mut ViewMut::new(coords, &[2, 4]).unwrap(),
            &mut ViewMut::new(counts, &[rows]).unwrap(),
            &mut ViewMut::new(starts, &[2]).unwrap(),
            &mut ViewMut::new(point_voxel, &[2, 5]).unwrap(),
            &mut workspace(bytes, 0),
            &place,
        ))
    };
    let named = |text: &str| format!("ValueError: voxelize_sparse: {text}");
    let wanted = named("order must be int32, dense, of 10 elements, got int32 of shape [2, 4]");
    assert_eq!(fill(coords, bytes, 2), wanted);
    let wanted = named(&format!("workspace must have at least {bytes} bytes, got 16"));
    assert_eq!(fill(order, 16, 2), wanted);
    let wanted = named("output must be int32 of shape [3, 4, 1], got int32 of shape [2, 4]");
    assert_eq!(fill(order, bytes, 3), wanted);

    let values = |features: View, coords: View, reduce: &str, elements: usize| {
        let out = &mut ViewMut::new(Vec::leak(vec![0f32; elements]), &[elements]).unwrap();
        text(voxelize_sparse_values(features, coords, row, order, row, reduce, None, out, &place))
    };
    let named = |text: &str| format!("ValueError: voxelize_sparse_values: {text}");
    assert_eq!(values(features, coords, "count", 6), named("reduce must read features, got \"count\""));
    let wanted = named("coords must be int32, dense, of 8 elements, got int32 of shape [2]");
    assert_eq!(values(features, row, "mean", 6), wanted);
    let flat = dense(&NUMBERS, &[10, 3]);
    let wanted = named("features must be floating of shape [B, N, C], got float32 of shape [10, 3]");
    assert_eq!(values(flat, coords, "mean", 6), wanted);
    let wanted = named("output must be float32 of shape [2, 3, 1], got float32 of shape [5]");
    assert_eq!(values(features, coords, "mean", 5), wanted);

    let backward = |grad: View, features: Option<View>, point_voxel: View, reduce: &str| {
        let out = &mut ViewMut::new(Vec::leak(vec![0f32; 30]), &[30]).unwrap();
        text(voxelize_sparse_backward(grad, features, coords, row, order, row, point_voxel, reduce, out, &place))
    };
    let named = |text: &str| format!("ValueError: voxelize_sparse_backward: {text}");
    let (grad, voxels) = (dense(&NUMBERS, &[2, 3]), dense(&[0i64; 10], &[2, 5]));
    let wanted = named("features must be given where reduce is \"min\", got none");
    assert_eq!(backward(grad, None, voxels, "min"), wanted);
    let wanted = named("point_voxel must have the shape [B, N] of order, [2, 5], got [10]");
    assert_eq!(backward(grad, None, dense(&[0i64; 10], &[10]), "sum"), wanted);
    let wanted = named("grad must be floating of shape [2, C], got float32 of shape [3, 3]");
    assert_eq!(backward(dense(&NUMBERS, &[3, 3]), None, voxels, "sum"), wanted);
    let wanted = named("features must be float32 of shape [2, 5, 3], got float32 of shape [2, 5, 2]");
    assert_eq!(backward(grad, Some(dense(&NUMBERS, &[2, 5, 2])), voxels, "max"), wanted);
}

#[test]
fn rows_that_no_call_wrote_read_nothing_outside() {
    let place = Place::cpu(&Serial);
    let features = dense(&[1f32; 30], &[2, 5, 3]);
    let order = dense(&[0, 1, 2, 3, 4, 0, 1, 99, -1, 4], &[2, 5]);
    for (cloud, start, count) in [(2, 0, 1), (-1, 0, 1), (0, 5, 1), (0, 0, 6), (0, -1, 2), (0, 1, -1), (1, 2, 2)] {
        let (coords, counts, starts) =
            (dense(&[cloud, 0, 0, 0], &[1, 4]), dense(&[count], &[1]), dense(&[start], &[1]));
        for reduce in ["sum", "max"] {
            let mut output = [7f32; 3];
            let out = &mut ViewMut::new(&mut output, &[1, 3]).unwrap();
            voxelize_sparse_values(features, coords, counts, order, starts, reduce, None, out, &place).unwrap();
            assert_eq!(output, [0.0; 3], "{cloud} {start} {count} {reduce}");
        }
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    // SAFETY: this build never touches the stream.
    let place = unsafe { Place::cuda(robocache::Stream { device: 0, handle: 0 }) };
    let points = dense(&NUMBERS, &[2, 5, 3]);
    let (origin, edges, size) = GRID;
    let mut output = [0i32; 16];
    let (out, work) = (&mut ViewMut::new(&mut output, &[16]).unwrap(), &mut workspace(1 << 14, 0));
    let result = voxelize(points, None, &origin, &edges, &size, "count", None, out, work, &place);
    let wanted = "this build has no CUDA; build robocache with feature cuda";
    assert_eq!(text(result), format!("NotImplementedError: voxelize: {wanted}"));
    let (order, number) = (&mut [0i32; 10], &mut [0i64]);
    let (order, number) = (&mut ViewMut::new(order, &[10]).unwrap(), &mut ViewMut::new(number, &[1]).unwrap());
    let result = voxelize_sparse_rows(points, &origin, &edges, &size, None, order, number, work, &place);
    assert_eq!(text(result), format!("NotImplementedError: voxelize_sparse: {wanted}"));
}
