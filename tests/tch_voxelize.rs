//! `robocache::tch::voxelize` and `voxelize_sparse`: values, gradients and errors on tch tensors.

#![cfg(feature = "tch")]

use robocache::Error;
use robocache::tch::{SparseVoxels, VoxelizeOptions, VoxelizeSparseOptions, resample, voxelize, voxelize_sparse};
use serde_json::Value;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const ORIGIN: [f64; 3] = [-1.0, 0.0, 0.5];
const EDGES: [f64; 3] = [0.5, 0.25, 1.0];
const SIZE: [i64; 3] = [4, 3, 2];

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.to_kind(Kind::Int64).reshape([-1])).unwrap()
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

fn reduced(points: &Tensor, features: &Tensor, reduce: &str) -> Tensor {
    let options = VoxelizeOptions { reduce, ..Default::default() };
    voxelize(points, Some(features), &ORIGIN, &EDGES, &SIZE, options).unwrap()
}

/// A cloud around the grid, some of it outside, with two features that are whole: their sums are exact in any order.
fn cloud(count: usize, seed: u64) -> (Vec<[f64; 3]>, Vec<[f64; 2]>) {
    let mut random = random(seed);
    // Eighths: many points lie on faces.
    let mut coordinate = |low: f64, length: f64| low + (random() * 8.0 * (length + 1.0)).floor() / 8.0 - 0.5;
    let points = (0..count).map(|_| [coordinate(-1.0, 2.0), coordinate(0.0, 0.75), coordinate(0.5, 2.0)]).collect();
    let mut random = self::random(seed + 1);
    let features = (0..count).map(|_| [(random() * 200.0).floor() - 100.0, (random() * 9.0).floor()]).collect();
    (points, features)
}

/// The definition: each point's voxel, in row-major order of the grid.
fn cell(point: [f64; 3]) -> Option<usize> {
    let mut index = 0;
    for axis in 0..3 {
        let along = ((point[axis] - ORIGIN[axis]) / EDGES[axis]).floor();
        if !(0.0..SIZE[axis] as f64).contains(&along) {
            return None;
        }
        index = index * SIZE[axis] as usize + along as usize;
    }
    Some(index)
}

fn tensor<const WIDTH: usize>(rows: &[[f64; WIDTH]]) -> Tensor {
    Tensor::from_slice(rows.as_flattened()).reshape([rows.len() as i64, WIDTH as i64])
}

/// The definition of `reduce`, one voxel and one channel at a time.
fn definition(points: &[[f64; 3]], features: &[[f64; 2]], reduce: &str) -> Vec<f64> {
    let voxels = SIZE.iter().product::<i64>() as usize;
    let held = |voxel: usize, channel: usize| {
        let inside = points.iter().zip(features).filter(move |(point, _)| cell(**point) == Some(voxel));
        inside.map(|(_, feature)| feature[channel]).collect::<Vec<_>>()
    };
    let channels = if matches!(reduce, "occupancy" | "count") { 0..1 } else { 0..2 };
    let every = channels.flat_map(|channel| (0..voxels).map(move |voxel| (voxel, channel)));
    every
        .map(|(voxel, channel)| held(voxel, channel))
        .map(|held| match reduce {
            "occupancy" => f64::from(!held.is_empty()),
            "count" => held.len() as f64,
            _ if held.is_empty() => 0.0,
            "sum" => held.iter().sum(),
            "mean" => held.iter().sum::<f64>() / held.len() as f64,
            "max" => held.iter().copied().reduce(f64::max).unwrap(),
            _ => held.iter().copied().reduce(f64::min).unwrap(),
        })
        .collect()
}

const REDUCTIONS: [&str; 6] = ["occupancy", "count", "sum", "mean", "max", "min"];

#[test]
fn random_clouds_equal_the_definition() {
    for count in [0, 1, 7, 200] {
        let (points, features) = cloud(count, count as u64);
        let (points_tensor, features_tensor) = (tensor(&points), tensor(&features));
        for reduce in REDUCTIONS {
            let result = reduced(&points_tensor, &features_tensor, reduce);
            let kind = match reduce {
                "occupancy" => Kind::Bool,
                "count" => Kind::Int,
                _ => Kind::Double,
            };
            let size: &[i64] = if kind == Kind::Double { &[2, 4, 3, 2] } else { &[4, 3, 2] };
            assert_eq!((result.size().as_slice(), result.kind()), (size, kind), "{reduce}");
            assert_eq!(numbers(&result), definition(&points, &features, reduce), "{reduce} of {count} points");
        }
    }
}

#[test]
fn the_default_is_the_occupancy_of_a_grid_without_features() {
    let points = tensor(&[[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [f64::NAN, 0.0, 0.0], [-0.1, 0.0, 0.0]]);
    let occupied = voxelize(&points, None, &[0.0; 3], &[1.0], &[3, 1, 1], VoxelizeOptions::default()).unwrap();
    assert_eq!(occupied, Tensor::from_slice(&[true, true, false]).reshape([3, 1, 1]));
}

fn rows(points: &Tensor, features: Option<&Tensor>, options: VoxelizeSparseOptions<'_>) -> SparseVoxels {
    voxelize_sparse(points, features, &ORIGIN, &EDGES, &SIZE, options).unwrap()
}

#[test]
fn rows_hold_what_the_dense_grid_holds() {
    let (points, features) = cloud(60, 3);
    let (points_tensor, features_tensor) = (tensor(&points), tensor(&features));
    for reduce in ["sum", "mean", "max", "min"] {
        let options = VoxelizeSparseOptions { reduce, ..Default::default() };
        let found = rows(&points_tensor, Some(&features_tensor), options);
        let counts = definition(&points, &features, "count");
        let occupied: Vec<usize> = (0..counts.len()).filter(|&voxel| counts[voxel] > 0.0).collect();
        assert_eq!(integers(&found.num_voxels), [occupied.len() as i64]);
        let place = |voxel: usize| [0, voxel / 6, voxel / 2 % 3, voxel % 2].map(|number| number as i64);
        assert_eq!(integers(&found.coords), occupied.iter().flat_map(|&voxel| place(voxel)).collect::<Vec<_>>());
        assert_eq!(numbers(&found.counts), occupied.iter().map(|&voxel| counts[voxel]).collect::<Vec<_>>());

        let grid = definition(&points, &features, reduce);
        let value = |&voxel: &usize| [grid[voxel], grid[counts.len() + voxel]];
        assert_eq!(numbers(&found.values), occupied.iter().flat_map(value).collect::<Vec<_>>(), "{reduce}");
        let row = |point: &[f64; 3]| cell(*point).map_or(-1, |voxel| occupied.binary_search(&voxel).unwrap() as i64);
        assert_eq!(integers(&found.point_voxel), points.iter().map(row).collect::<Vec<_>>());
        let kinds = [&found.coords, &found.counts, &found.point_voxel, &found.num_voxels].map(Tensor::kind);
        assert_eq!(kinds, [Kind::Int, Kind::Int, Kind::Int64, Kind::Int64]);
    }
}

#[test]
fn a_capacity_fixes_the_number_of_rows() {
    let points = tensor(&[[0.0, 0.5, 1.0], [-1.0, 0.0, 0.5], [0.0, 0.5, 1.0], [5.0, 0.0, 1.0]]);
    let features = tensor(&[[1.0], [2.0], [4.0], [8.0]]);
    let with = |capacity| {
        let options = VoxelizeSparseOptions { reduce: "sum", capacity: Some(capacity), lengths: None };
        rows(&points, Some(&features), options)
    };
    let roomy = with(3);
    assert_eq!(integers(&roomy.coords), [0, 0, 0, 0, 0, 2, 2, 0, -1, -1, -1, -1]);
    assert_eq!(numbers(&roomy.values), [2.0, 5.0, 0.0]);
    assert_eq!(integers(&roomy.counts), [1, 2, 0]);
    assert_eq!(integers(&roomy.point_voxel), [1, 0, 1, -1]);
    assert_eq!(integers(&roomy.num_voxels), [2]);

    let tight = with(1);
    assert_eq!(numbers(&tight.values), [2.0]);
    assert_eq!(integers(&tight.point_voxel), [-1, 0, -1, -1]);
    assert_eq!(integers(&tight.num_voxels), [2]);

    let without = rows(&points, None, VoxelizeSparseOptions::default());
    assert_eq!(without.values.size(), [2, 0]);
}

#[test]
fn lengths_cut_each_cloud() {
    let points = Tensor::zeros([2, 3, 3], (Kind::Float, Device::Cpu));
    let lengths = Tensor::from_slice(&[3i64, 1]);
    let options = VoxelizeOptions { reduce: "count", lengths: Some(&lengths) };
    let counts = voxelize(&points, None, &[0.0; 3], &[1.0], &[1, 1, 1], options).unwrap();
    assert_eq!(counts, Tensor::from_slice(&[3i32, 1]).reshape([2, 1, 1, 1]));

    let options = VoxelizeSparseOptions { lengths: Some(&lengths), ..Default::default() };
    let found = voxelize_sparse(&points, None, &[0.0; 3], &[1.0], &[1, 1, 1], options).unwrap();
    assert_eq!(integers(&found.point_voxel), [0, 0, 0, 1, -1, -1]);
}

#[test]
fn gradients_reach_the_features_of_points_in_the_grid() {
    // Points 0, 1 and 3 share a voxel, point 2 has its own, point 4 is outside.
    let points = tensor(&[[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.9, 0.7, 1.5], [0.2, 0.1, 0.5], [9.0, 0.0, 0.0]]);
    let expected = [
        ("sum", [1.0, 1.0, 1.0, 1.0, 0.0]),
        ("mean", [1.0 / 3.0, 1.0 / 3.0, 1.0, 1.0 / 3.0, 0.0]),
        ("max", [0.0, 1.0, 1.0, 0.0, 0.0]), // of two that hold the extremum the first
        ("min", [1.0, 0.0, 1.0, 0.0, 0.0]),
    ];
    for (reduce, gradient) in expected {
        let features = tensor(&[[-4.0], [7.0], [1.0], [7.0], [9.0]]).set_requires_grad(true);
        reduced(&points, &features, reduce).sum(Kind::Double).backward();
        assert_eq!(numbers(&features.grad()), gradient, "{reduce}");

        let features = tensor(&[[-4.0], [7.0], [1.0], [7.0], [9.0]]).set_requires_grad(true);
        let options = VoxelizeSparseOptions { reduce, ..Default::default() };
        let found = rows(&points, Some(&features), options);
        found.values.sum(Kind::Double).backward();
        assert_eq!(numbers(&features.grad()), gradient, "rows of {reduce}");
    }
}

#[test]
fn gradients_can_be_differentiated_again() {
    // mean(f)^2 has the gradient 2 / 2 * mean for both points of the voxel; the sum of the two is f0 + f1.
    let points = tensor(&[[0.0, 0.0, 1.0], [0.1, 0.0, 1.0]]);
    let features = tensor(&[[3.0], [5.0]]).set_requires_grad(true);
    let loss = reduced(&points, &features, "mean").square().sum(Kind::Double);
    let gradient = Tensor::run_backward(&[loss], &[&features], true, true);
    assert_eq!(numbers(&gradient[0]), [4.0, 4.0]);
    let again = Tensor::run_backward(&[gradient[0].sum(Kind::Double)], &[&features], false, false);
    assert_eq!(numbers(&again[0]), [1.0, 1.0]);
}

#[test]
fn a_grid_of_a_resampled_pose_follows_its_derivative() {
    // Other operators of the crate record into the same graph.
    let times = Tensor::from_slice(&[0.0, 4.0]);
    let heights = tensor(&[[8.0], [20.0]]).set_requires_grad(true);
    let sampled = resample(&heights, &times, &Tensor::from_slice(&[1.0, 3.0]), Default::default()).unwrap();
    let points = tensor(&[[0.0, 0.0, 1.0], [0.1, 0.0, 1.0]]);
    reduced(&points, &sampled, "sum").sum(Kind::Double).backward();
    assert_eq!(numbers(&heights.grad()), [1.0, 1.0]);
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
        "uint8" => Kind::Uint8,
        "bool" => Kind::Bool,
        "complex64" => Kind::ComplexFloat,
        _ => return None, // tch has no name for it
    })
}

/// The tensor that a row of the table of errors describes: `Err` where tch cannot make it.
fn described(row: Option<&Value>) -> Result<Option<Tensor>, ()> {
    let Some(row) = row.filter(|row| !row.is_null()) else { return Ok(None) };
    let (false, Some(kind)) = (row.get("device").is_some(), kind(row["dtype"].as_str().unwrap())) else {
        return Err(()); // tch has no name for the meta device
    };
    let shape: Vec<i64> = row["shape"].as_array().unwrap().iter().map(|size| size.as_i64().unwrap()).collect();
    let tensor = match row["data"].as_array() {
        Some(data) => {
            let integers = data.iter().map(|number| number.as_i64().unwrap()).collect::<Vec<_>>();
            Tensor::from_slice(&integers).to_kind(kind).reshape(shape)
        }
        None => Tensor::ones(shape, (kind, Device::Cpu)),
    };
    Ok(Some(tensor))
}

fn floats(row: &Value) -> Vec<f64> {
    let number = |number: &Value| match number.as_str() {
        Some(text) => text.parse().unwrap(), // JSON has no number for "nan" and "inf"
        None => number.as_f64().unwrap(),
    };
    row.as_array().unwrap().iter().map(number).collect()
}

/// What the operator makes of a row of its table of errors, where tch can make the arguments.
fn tried(operator: &str, row: &Value) -> Result<robocache::Result<()>, ()> {
    let tensor = |name: &str| described(row.get(name));
    let (points, features, lengths) = (tensor("points")?.unwrap(), tensor("features")?, tensor("lengths")?);
    let (origin, edges) = (floats(&row["origin"]), floats(&row["voxel_size"]));
    let size: Vec<i64> = row["grid_size"].as_array().unwrap().iter().map(|size| size.as_i64().unwrap()).collect();
    let (features, lengths) = (features.as_ref(), lengths.as_ref());
    let reduce = row["reduce"].as_str().unwrap();
    if operator == "voxelize" {
        let options = VoxelizeOptions { reduce, lengths };
        return Ok(voxelize(&points, features, &origin, &edges, &size, options).map(drop));
    }
    let capacity = match row.get("capacity").and_then(Value::as_i64) {
        None | Some(-1) => None,
        Some(rows) => Some(usize::try_from(rows).map_err(drop)?), // a wrong one has no form in Rust
    };
    let options = VoxelizeSparseOptions { reduce, capacity, lengths };
    Ok(voxelize_sparse(&points, features, &origin, &edges, &size, options).map(drop))
}

#[test]
fn errors_have_the_text_of_the_shared_tables() {
    for (operator, least) in [("voxelize", 85), ("voxelize_sparse", 35)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cases/{operator}_errors.json"));
        let table: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut count = 0;
        for row in table.as_array().unwrap() {
            let Ok(result) = tried(operator, row) else { continue };
            let error = result.expect_err(&row["name"].to_string());
            assert_eq!((error.kind(), error.text()), (row["kind"].as_str().unwrap(), row["text"].as_str().unwrap()));
            count += 1;
        }
        assert!(count >= least, "only {count} rows of the table of {operator} could be tried");
    }
}

#[test]
fn an_error_matches_by_variant() {
    let points = tensor(&[[0.0, 0.0, 0.0]]);
    let result = voxelize(&points, None, &[0.0; 3], &[0.0], &[1, 1, 1], VoxelizeOptions::default());
    let text = "voxelize: voxel_size must be positive and finite in float64, got 0.0 at axis 0";
    assert_eq!(result.unwrap_err(), Error::Value(text.to_owned()));
    // More rows than any address can name: torch refuses, nothing aborts.
    let options = VoxelizeSparseOptions { capacity: Some(usize::MAX), ..Default::default() };
    let refused = voxelize_sparse(&points, None, &[0.0; 3], &[1.0], &[1, 1, 1], options);
    assert!(matches!(refused, Err(Error::Runtime(_))), "{refused:?}");
}
