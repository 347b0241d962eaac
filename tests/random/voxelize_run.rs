//! Runs a random cloud on a device and by the definition; both give the same named parts.

#![allow(dead_code)] // each test uses a part

use crate::clouds::{CloudCase, bits_of};
use crate::definition_voxelize::Float;
use crate::random::array::{Array, difference, same};
use crate::random::run::Memory;
use half::{bf16, f16};
use robocache::{
    Counted, DType, Element, Result, View, ViewMut, voxelize, voxelize_backward, voxelize_counted,
    voxelize_counted_workspace, voxelize_sparse_backward, voxelize_sparse_fill, voxelize_sparse_rows,
    voxelize_sparse_values, voxelize_sparse_workspace, voxelize_tangent, voxelize_workspace,
};
use std::fmt::Debug;

/// One result of a case.
pub struct Part {
    pub name: &'static str,
    pub dtype: DType,
    pub bytes: Vec<u8>,
}

impl Part {
    fn new<T: Element>(name: &'static str, elements: &[T]) -> Part {
        // SAFETY: plain numbers without padding, read as the bytes that they are.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) };
        Part { name, dtype: T::DTYPE, bytes: bytes.to_vec() }
    }
}

/// Panics at the first part that is not the same bits; any not-a-number equals any other.
pub fn assert_same(found: &[Part], wanted: &[Part], what: &dyn Debug) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!((found.name, found.dtype), (wanted.name, wanted.dtype));
        let difference = || difference(found.dtype, &found.bytes, &wanted.bytes);
        assert!(same(found.dtype, &found.bytes, &wanted.bytes), "{}: {}\n{what:?}", found.name, difference());
    }
}

const GUARD: usize = 32;
const UNTOUCHED: u8 = 0x5a;

/// Memory for a result or a workspace, full of `fill` before the call, with guards on both sides.
struct Room<'m, M> {
    memory: &'m M,
    address: *mut u8,
    start: usize,
    dtype: DType,
    sizes: Vec<usize>,
}

impl<'m, M: Memory> Room<'m, M> {
    /// `shift` elements behind an aligned address.
    fn new(memory: &'m M, dtype: DType, sizes: &[usize], shift: usize, fill: u8) -> Self {
        let (start, bytes) = (GUARD + shift * dtype.size(), sizes.iter().product::<usize>() * dtype.size());
        let mut all = vec![UNTOUCHED; start + bytes + GUARD];
        all[start..start + bytes].fill(fill);
        Room { memory, address: memory.upload(&all), start, dtype, sizes: sizes.to_vec() }
    }

    fn bytes(&self) -> usize {
        self.sizes.iter().product::<usize>() * self.dtype.size()
    }

    fn view_mut(&self) -> ViewMut<'m> {
        // SAFETY: room for these elements was just made; a call gets one view of it.
        unsafe { ViewMut::from_raw(self.address.wrapping_add(self.start), self.dtype, &self.sizes) }.unwrap()
    }

    fn view(&self) -> View<'m> {
        let strides: Vec<_> =
            (0..self.sizes.len()).map(|axis| self.sizes[axis + 1..].iter().product::<usize>() as isize).collect();
        // SAFETY: as above, and what wrote it was given to the same stream before.
        unsafe { View::from_raw(self.address.wrapping_add(self.start), self.dtype, &self.sizes, &strides) }.unwrap()
    }

    /// The result; panics where something was written outside it.
    fn finish(&self, name: &'static str, what: &dyn Debug) -> Part {
        let mut found = self.memory.download(self.address, self.start + self.bytes() + GUARD);
        let after = found.split_off(self.start + self.bytes());
        let bytes = found.split_off(self.start);
        let kept = found.iter().chain(&after).all(|&byte| byte == UNTOUCHED);
        assert!(kept, "something was written outside the memory of {name} of {what:?}");
        Part { name, dtype: self.dtype, bytes }
    }
}

/// `voxelize` of a case, and what its reduction has of derivatives; results and workspaces are full of `fill` before.
pub fn run_dense(case: &CloudCase, memory: &impl Memory, fill: u8) -> Result<Vec<Part>> {
    // SAFETY: uploads are copies that live as long as `memory`.
    let view = |array: &Array| -> View { unsafe { array.view(memory.upload(&array.bytes)) } };
    let (points, features, lengths) = (view(&case.points), view(&case.features), case.lengths.as_ref().map(view));
    let (origin, edges, size, reduce) = (&case.origin, &case.voxel_size, &case.grid_size, case.reduce);
    let place = &memory.place();
    let (batch, count, channels) = (case.batch, case.count, case.channels);
    let cells = size.iter().product::<i64>() as usize;
    let room = |dtype: DType, sizes: &[usize]| Room::new(memory, dtype, sizes, case.output_start, fill);
    let workspace = |backward: bool| -> Result<Room<_>> {
        let bytes = voxelize_workspace(batch, count, size, reduce, backward, place)?;
        Ok(Room::new(memory, DType::U8, &[bytes], 0, fill))
    };
    let (dtype, sizes) = match reduce {
        "occupancy" => (DType::Bool, vec![batch, cells]),
        "count" => (DType::I32, vec![batch, cells]),
        _ => (case.features.dtype, vec![batch, channels, cells]),
    };
    let (output, work) = (room(dtype, &sizes), workspace(false)?);
    let (out, borrowed) = (&mut output.view_mut(), &mut work.view_mut());
    // Counts need no features, and do not mind them.
    let given = (case.reads_features() || case.output_start == 0).then_some(features);
    voxelize(points, given, origin, edges, size, reduce, lengths, out, borrowed, place)?;
    work.finish("workspace", case);
    let mut parts = vec![output.finish("voxelize", case)];
    if case.reads_features() {
        let (output, work) = (room(dtype, &sizes), workspace(false)?);
        let (out, borrowed, tangent) = (&mut output.view_mut(), &mut work.view_mut(), view(&case.tangent));
        voxelize_tangent(tangent, points, features, origin, edges, size, reduce, lengths, out, borrowed, place)?;
        work.finish("workspace of the tangent", case);
        parts.push(output.finish("voxelize_tangent", case));

        let (output, work) = (room(dtype, &[batch, count, channels]), workspace(true)?);
        let (out, borrowed, grad) = (&mut output.view_mut(), &mut work.view_mut(), view(&case.grad));
        // A batch of one has features of two axes as well as of three.
        let given = matches!(reduce, "max" | "min").then_some(features);
        voxelize_backward(grad, points, given, origin, edges, size, reduce, lengths, None, out, borrowed, place)?;
        work.finish("workspace of the gradient", case);
        parts.push(output.finish("voxelize_backward", case));
    }
    if reduce == "mean" {
        let (output, counts, work) = (room(dtype, &sizes), room(DType::I32, &[batch, cells]), workspace(false)?);
        let cells_of_points = room(DType::I32, &[batch, count]);
        let (out, counted, borrowed) = (&mut output.view_mut(), &mut counts.view_mut(), &mut work.view_mut());
        let found = &mut cells_of_points.view_mut();
        // A batch of one has points and features of two axes as well as of three.
        voxelize_counted(points, features, origin, edges, size, lengths, out, counted, found, borrowed, place)?;
        work.finish("workspace of the counts", case);
        parts.extend([output.finish("voxelize_counted", case), counts.finish("counts", case)]);
        parts.push(cells_of_points.finish("point_voxel", case));

        let bytes = voxelize_counted_workspace(batch, count, channels, size, case.grad.dtype.size(), place)?;
        let (output, work) = (room(dtype, &[batch, count, channels]), Room::new(memory, DType::U8, &[bytes], 0, fill));
        let (out, borrowed, grad) = (&mut output.view_mut(), &mut work.view_mut(), view(&case.grad));
        let counted = Some(Counted { counts: counts.view(), point_voxel: cells_of_points.view() });
        voxelize_backward(grad, points, None, origin, edges, size, reduce, lengths, counted, out, borrowed, place)?;
        work.finish("workspace of the counted gradient", case);
        parts.push(output.finish("voxelize_backward of counts", case));
    }
    Ok(parts)
}

/// `voxelize_sparse` of a case, its steps and their derivatives.
pub fn run_sparse(case: &CloudCase, memory: &impl Memory, fill: u8) -> Result<Vec<Part>> {
    // SAFETY: uploads are copies that live as long as `memory`.
    let view = |array: &Array| -> View { unsafe { array.view(memory.upload(&array.bytes)) } };
    let (points, lengths) = (view(&case.points), case.lengths.as_ref().map(view));
    let (batch, count, channels) = (case.batch, case.count, case.channels);
    let (size, place) = (&case.sparse_size, &memory.place());
    let room = |dtype: DType, sizes: &[usize]| Room::new(memory, dtype, sizes, 0, fill);
    let bytes = voxelize_sparse_workspace(batch, count, size, place)?;
    let (order, number) = (room(DType::I32, &[batch, count]), room(DType::I64, &[1]));
    let work = room(DType::U8, &[bytes]);
    let (order_out, number_out, borrowed) = (&mut order.view_mut(), &mut number.view_mut(), &mut work.view_mut());
    let (origin, edges) = (&case.origin, &case.voxel_size);
    voxelize_sparse_rows(points, origin, edges, size, lengths, order_out, number_out, borrowed, place)?;

    let exact = || i64::from_le_bytes(number.finish("num_voxels", case).bytes.try_into().unwrap()) as usize;
    let rows = case.capacity.unwrap_or_else(exact);
    let (coords, counts, starts) = (room(DType::I32, &[rows, 4]), room(DType::I32, &[rows]), room(DType::I32, &[rows]));
    let point_voxel = room(DType::I64, &[batch, count]);
    voxelize_sparse_fill(
        points,
        size,
        order.view(),
        number.view(),
        &mut coords.view_mut(),
        &mut counts.view_mut(),
        &mut starts.view_mut(),
        &mut point_voxel.view_mut(),
        borrowed,
        place,
    )?;
    work.finish("workspace", case);
    let mut parts = vec![
        coords.finish("coords", case),
        counts.finish("counts", case),
        starts.finish("starts", case),
        point_voxel.finish("point_voxel", case),
        order.finish("order", case),
        number.finish("num_voxels", case),
    ];
    if !case.reads_features() {
        return Ok(parts);
    }
    let batched = |array: &Array| view(&array.with_axes([batch, count, channels]));
    let (features, tangent) = (batched(&case.features), batched(&case.tangent));
    let (order, starts, coords, counts) = (order.view(), starts.view(), coords.view(), counts.view());
    let dtype = case.features.dtype;
    for (name, tangent) in [("values", None), ("values_tangent", Some(tangent))] {
        let output = Room::new(memory, dtype, &[rows, channels], case.output_start, fill);
        let out = &mut output.view_mut();
        voxelize_sparse_values(features, coords, counts, order, starts, case.reduce, tangent, out, place)?;
        parts.push(output.finish(name, case));
    }
    let grad = view(&row_grad(case, rows));
    let given = matches!(case.reduce, "max" | "min").then_some(features);
    let output = Room::new(memory, dtype, &[batch, count, channels], case.output_start, fill);
    let (out, point_voxel) = (&mut output.view_mut(), point_voxel.view());
    voxelize_sparse_backward(grad, given, coords, counts, order, starts, point_voxel, case.reduce, out, place)?;
    parts.push(output.finish("values_backward", case));
    Ok(parts)
}

/// A gradient `[M, C]` made of the dense one, the rows apart or not.
fn row_grad(case: &CloudCase, rows: usize) -> Array {
    let (bits, channels) = (bits_of(&case.grad), case.channels);
    let gap = case.output_start;
    let size = case.grad.dtype.size();
    let mut bytes = Vec::new();
    for at in 0..rows * channels {
        // Without clouds there is no dense gradient, but there may be rows.
        let element = if bits.is_empty() { 0 } else { bits[at % bits.len()] };
        bytes.extend_from_slice(&element.to_le_bytes()[..size]);
        if (at + 1) % channels == 0 {
            bytes.extend(vec![UNTOUCHED; gap * size]);
        }
    }
    Array {
        bytes,
        dtype: case.grad.dtype,
        sizes: vec![rows, channels],
        strides: vec![(channels + gap) as isize, 1],
        start: 0,
    }
}

/// Runs `$body` with `$name` as the type of the features of a case.
macro_rules! with_features {
    ($case:expr, $name:ident => $body:expr) => {
        match $case.features.dtype {
            DType::F64 => {
                type $name = f64;
                $body
            }
            DType::F32 => {
                type $name = f32;
                $body
            }
            DType::F16 => {
                type $name = f16;
                $body
            }
            _ => {
                type $name = bf16;
                $body
            }
        }
    };
}

/// What `run_dense` must give.
pub fn wanted_dense(case: &CloudCase) -> Vec<Part> {
    let clouds = case.clouds(false);
    match case.reduce {
        "count" => vec![Part::new("voxelize", &clouds.counts())],
        "occupancy" => {
            let some: Vec<_> = clouds.counts().into_iter().map(|count| count > 0).collect();
            vec![Part::new("voxelize", &some)]
        }
        _ => with_features!(case, F => wanted_grids::<F>(case)),
    }
}

fn wanted_grids<F: Float + Element>(case: &CloudCase) -> Vec<Part> {
    let (clouds, channels, reduce) = (case.clouds(false), case.channels, case.reduce);
    let (features, tangent, grad) =
        (case.features.elements::<F>(), case.tangent.elements::<F>(), case.grad.elements::<F>());
    let (grid, gradient) =
        (clouds.grid(&features, None, channels, reduce), clouds.grid_backward(&grad, &features, channels, reduce));
    let mut parts = vec![
        Part::new("voxelize", &grid),
        Part::new("voxelize_tangent", &clouds.grid(&features, Some(&tangent), channels, reduce)),
        Part::new("voxelize_backward", &gradient),
    ];
    if reduce == "mean" {
        parts.extend([
            Part::new("voxelize_counted", &grid),
            Part::new("counts", &clouds.counts()),
            Part::new("point_voxel", &clouds.point_voxel()),
            Part::new("voxelize_backward of counts", &gradient),
        ]);
    }
    parts
}

/// What `run_sparse` must give.
pub fn wanted_sparse(case: &CloudCase) -> Vec<Part> {
    let rows = case.clouds(true).rows(case.capacity);
    let mut parts = vec![
        Part::new("coords", &rows.coords),
        Part::new("counts", &rows.counts),
        Part::new("starts", &rows.starts),
        Part::new("point_voxel", &rows.point_voxel),
        Part::new("order", &rows.order),
        Part::new("num_voxels", &[rows.num_voxels]),
    ];
    if case.reads_features() {
        parts.extend(with_features!(case, F => wanted_values::<F>(case, rows.counts.len())));
    }
    parts
}

fn wanted_values<F: Float + Element>(case: &CloudCase, rows: usize) -> Vec<Part> {
    let (clouds, channels, reduce) = (case.clouds(true), case.channels, case.reduce);
    let (features, tangent, grad) =
        (case.features.elements::<F>(), case.tangent.elements::<F>(), row_grad(case, rows).elements::<F>());
    vec![
        Part::new("values", &clouds.values(rows, &features, None, channels, reduce)),
        Part::new("values_tangent", &clouds.values(rows, &features, Some(&tangent), channels, reduce)),
        Part::new("values_backward", &clouds.values_backward(&grad, &features, channels, reduce)),
    ]
}
