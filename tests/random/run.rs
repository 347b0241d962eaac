//! Runs a random case on a device and by the definition; both give the result's bytes.

use super::Case;
use super::array::{Array, difference, same};
use crate::definition::{Instant, Number, Problem, Wanted};
use half::{bf16, f16};
use robocache::{
    DType, Place, Result, Threads, View, ViewMut, resample, resample_backward, resample_backward_workspace,
    resample_curvature, resample_curvature_workspace, resample_mask, resample_slope, resample_tangent,
    resample_time_grad,
};
use std::cell::RefCell;
use std::fmt::Debug;

/// The operators that a case can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Resample,
    Slope,
    Tangent,
    Backward { slope: bool },
    Curvature,
    TimeGrad,
    Mask,
}

impl Op {
    /// What the types of a case allow.
    pub fn of(case: &Case) -> Vec<Op> {
        let mut all = vec![Op::Resample, Op::Mask];
        if case.values.dtype.is_floating() {
            all.extend([Op::Tangent, Op::Backward { slope: false }, Op::Backward { slope: true }, Op::Curvature]);
        }
        if case.has_slope() {
            all.extend([Op::Slope, Op::TimeGrad]);
        }
        all
    }

    /// True where the CPU refuses times out of order.
    pub fn checks_order(self) -> bool {
        matches!(self, Op::Resample | Op::Mask)
    }

    /// The type of its result.
    pub fn dtype(self, case: &Case) -> DType {
        match self {
            Op::TimeGrad => case.source_times.dtype,
            Op::Mask => DType::Bool,
            _ => case.values.dtype,
        }
    }

    fn output(self, case: &Case) -> [usize; 3] {
        match self {
            Op::Backward { .. } | Op::Curvature => [case.batch, case.samples, case.modes.len()],
            Op::TimeGrad => [case.batch, case.targets, 1],
            Op::Mask => [case.batch_of_times(), case.targets, 1],
            _ => [case.batch, case.targets, case.modes.len()],
        }
    }

    fn borrows(self) -> bool {
        matches!(self, Op::Backward { .. } | Op::Curvature)
    }
}

/// Memory and a place to run in; uploads live as long as the value.
pub trait Memory {
    /// A copy in this memory, aligned to 16.
    fn upload(&self, bytes: &[u8]) -> *mut u8;
    /// Waits for the place and copies back.
    fn download(&self, address: *const u8, bytes: usize) -> Vec<u8>;
    fn place(&self) -> Place<'_>;
}

/// This process's own memory.
pub struct Host<'t> {
    threads: &'t dyn Threads,
    kept: RefCell<Vec<Vec<u128>>>,
}

impl<'t> Host<'t> {
    pub fn new(threads: &'t dyn Threads) -> Self {
        Host { threads, kept: RefCell::default() }
    }
}

impl Memory for Host<'_> {
    fn upload(&self, bytes: &[u8]) -> *mut u8 {
        let mut memory = vec![0u128; bytes.len().div_ceil(16)];
        let address = memory.as_mut_ptr().cast::<u8>();
        // SAFETY: room for `bytes` was just made.
        unsafe { address.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.kept.borrow_mut().push(memory);
        address
    }

    fn download(&self, address: *const u8, bytes: usize) -> Vec<u8> {
        // SAFETY: `address` came from `upload` of as many bytes, and the place runs nothing after its call.
        unsafe { std::slice::from_raw_parts(address, bytes) }.to_vec()
    }

    fn place(&self) -> Place<'_> {
        Place::cpu(self.threads)
    }
}

/// Around the result and the workspace, and in them before the call.
const UNTOUCHED: u8 = 0x5a;
const GUARD: usize = 32;

/// Memory for a result, with guards on both sides.
pub struct Guarded<'m, M> {
    memory: &'m M,
    address: *mut u8,
    bytes: usize,
    shift: usize,
}

impl<'m, M: Memory> Guarded<'m, M> {
    /// `shift` bytes more on one side.
    pub fn new(memory: &'m M, bytes: usize, shift: usize) -> Self {
        Guarded { memory, address: memory.upload(&vec![UNTOUCHED; bytes + shift + 2 * GUARD]), bytes, shift }
    }

    pub fn view(&self, dtype: DType, sizes: &[usize]) -> ViewMut<'m> {
        assert!(sizes.iter().product::<usize>() * dtype.size() <= self.bytes);
        // SAFETY: the guarded memory has room for it, after the guard and the shift.
        unsafe { ViewMut::from_raw(self.address.wrapping_add(GUARD + self.shift), dtype, sizes) }.unwrap()
    }

    /// The result; panics where something was written outside it.
    pub fn finish(self, what: &dyn Debug) -> Vec<u8> {
        let found = self.memory.download(self.address, self.bytes + self.shift + 2 * GUARD);
        let (before, rest) = found.split_at(GUARD + self.shift);
        let (result, after) = rest.split_at(self.bytes);
        let kept = before.iter().chain(after).all(|&byte| byte == UNTOUCHED);
        assert!(kept, "something was written outside the memory of {what:?}");
        result.to_vec()
    }
}

/// The bytes of the result; panics where the call wrote outside it.
pub fn run(case: &Case, op: Op, memory: &impl Memory) -> Result<Vec<u8>> {
    // SAFETY: uploads are copies that live as long as `memory`.
    let view = |array: &Array| -> View { unsafe { array.view(memory.upload(&array.bytes)) } };
    let grad = view(&case.grad);
    let (source, target) = (view(&case.source_times), view(&case.target_times));
    let lengths = case.source_lengths.as_ref().map(view);
    let (dtype, sizes) = (op.dtype(case), op.output(case));
    let bytes = sizes.iter().product::<usize>() * dtype.size();
    let output = Guarded::new(memory, bytes, case.output_start * dtype.size());
    let borrowed = match op {
        Op::Backward { .. } => {
            resample_backward_workspace(case.batch, case.samples, case.targets, &case.mode, &memory.place())?
        }
        Op::Curvature => resample_curvature_workspace(case.batch, case.samples, case.targets)?,
        _ => 0,
    };
    let workspace = Guarded::new(memory, borrowed, 0);
    // Gradients are of all three axes.
    let sizes_of_values = [case.batch, case.samples, case.modes.len()];
    let of = |array: &Array| {
        if op.borrows() { view(&array.with_axes(sizes_of_values)) } else { view(array) }
    };
    let (values, tangent) = (of(&case.values), of(&case.tangent));
    let (mode, outside, place) = (case.mode.as_str(), case.outside, &memory.place());
    let out = &mut output.view(dtype, &sizes);
    let work = &mut workspace.view(DType::U8, &[borrowed]);
    match op {
        Op::Resample => resample(values, source, target, mode, outside, lengths, out, place),
        Op::Slope => resample_slope(values, source, target, mode, outside, lengths, out, place),
        Op::Tangent => resample_tangent(tangent, values, source, target, mode, outside, lengths, out, place),
        Op::Backward { slope } => {
            let bends = ["slerp", "pchip"].iter().any(|name| mode.contains(name));
            let values = (bends && !slope).then_some(values);
            resample_backward(grad, source, target, mode, outside, lengths, slope, values, out, work, place)
        }
        Op::Curvature => {
            resample_curvature(grad, tangent, values, source, target, mode, outside, lengths, out, work, place)
        }
        Op::TimeGrad => resample_time_grad(grad, values, source, target, mode, outside, lengths, out, place),
        Op::Mask => resample_mask(source, target, case.max_gap, lengths, out, place),
    }?;
    workspace.finish(&(op, case));
    Ok(output.finish(&(op, case)))
}

/// What is wrong with a result, by the definition.
pub fn fault(case: &Case, op: Op, found: &[u8]) -> Option<String> {
    match case.values.dtype {
        DType::F64 => fault_of::<f64>(case, op, found),
        DType::F32 => fault_of::<f32>(case, op, found),
        DType::F16 => fault_of::<f16>(case, op, found),
        DType::BF16 => fault_of::<bf16>(case, op, found),
        integer => match integer.size() {
            8 => fault_of::<u64>(case, op, found),
            4 => fault_of::<u32>(case, op, found),
            2 => fault_of::<u16>(case, op, found),
            _ => fault_of::<u8>(case, op, found),
        },
    }
}

fn fault_of<V: Number + Debug>(case: &Case, op: Op, found: &[u8]) -> Option<String> {
    match case.source_times.dtype {
        DType::F64 => fault_with::<V, f64>(case, op, found),
        DType::F32 => fault_with::<V, f32>(case, op, found),
        _ => fault_with::<V, i64>(case, op, found),
    }
}

fn fault_with<V: Number + Debug, T: Instant>(case: &Case, op: Op, found: &[u8]) -> Option<String> {
    let batch = if op == Op::Mask { case.batch_of_times() } else { case.batch };
    let arguments = Arguments::<V, T>::new(case, batch);
    let problem = arguments.problem(case);
    let (grad, tangent) = (case.grad.elements::<V>(), case.tangent.elements::<V>());
    let bits = |all: Vec<V>| all.into_iter().map(Wanted::Bits).collect::<Vec<_>>();
    match op {
        Op::Resample => first_fault(found, &problem.wanted()),
        Op::Slope => first_fault(found, &bits(problem.slope())),
        Op::Tangent => first_fault(found, &problem.tangent(&tangent)),
        Op::Backward { slope } => first_fault(found, &problem.wanted_backward(&grad, slope)),
        Op::Curvature => first_fault(found, &problem.curvature(&grad, &tangent)),
        Op::TimeGrad => {
            let (dtype, wanted) = (case.source_times.dtype, bytes_of(&problem.time_grad(&grad)));
            (!same(dtype, found, &wanted)).then(|| difference(dtype, found, &wanted))
        }
        Op::Mask => {
            let wanted = bytes_of(&problem.mask(case.max_gap));
            (found != wanted).then(|| difference(DType::Bool, found, &wanted))
        }
    }
}

/// What `resample` must give.
pub fn wanted<V: Number>(case: &Case) -> Vec<Wanted<V>> {
    match case.source_times.dtype {
        DType::F64 => Arguments::<V, f64>::new(case, case.batch).problem(case).wanted(),
        DType::F32 => Arguments::<V, f32>::new(case, case.batch).problem(case).wanted(),
        _ => Arguments::<V, i64>::new(case, case.batch).problem(case).wanted(),
    }
}

/// The first element that is not what it must be.
pub fn first_fault<V: Number + Debug>(found: &[u8], wanted: &[Wanted<V>]) -> Option<String> {
    let size = size_of::<V>();
    if found.len() != wanted.len() * size {
        return Some(format!("{} bytes, expected {}", found.len(), wanted.len() * size));
    }
    found.chunks(size).zip(wanted).enumerate().find_map(|(index, (bytes, wanted))| {
        // SAFETY: as many bytes as `V` has, of a type for which any bits are a value.
        let found = unsafe { bytes.as_ptr().cast::<V>().read_unaligned() };
        (!wanted.accepts(found)).then(|| format!("element {index} is {found:?}, expected {wanted:?}"))
    })
}

/// The elements of a case, for the definition.
struct Arguments<V, T> {
    values: Vec<V>,
    source_times: Vec<T>,
    target_times: Vec<T>,
    lengths: Vec<usize>,
}

impl<V: Number, T: Instant> Arguments<V, T> {
    fn new(case: &Case, batch: usize) -> Self {
        let rows = |times: &Array| {
            let row = times.elements::<T>();
            if times.sizes.len() == 1 { row.repeat(batch) } else { row }
        };
        let lengths = case.source_lengths.as_ref().map(|lengths| match lengths.dtype {
            DType::I32 => lengths.elements::<i32>().into_iter().map(|length| length as usize).collect(),
            _ => lengths.elements::<i64>().into_iter().map(|length| length as usize).collect::<Vec<_>>(),
        });
        Arguments {
            values: case.values.elements(),
            source_times: rows(&case.source_times),
            target_times: rows(&case.target_times),
            lengths: lengths.unwrap_or_else(|| vec![case.samples; batch]),
        }
    }

    fn problem<'a>(&'a self, case: &'a Case) -> Problem<'a, V, T> {
        Problem {
            values: &self.values,
            source_times: &self.source_times,
            target_times: &self.target_times,
            lengths: &self.lengths,
            modes: &case.modes,
            outside: case.outside,
            samples: case.samples,
            targets: case.targets,
        }
    }
}

fn bytes_of<T>(elements: &[T]) -> Vec<u8> {
    // SAFETY: plain numbers without padding, read as the bytes that they are.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) }.to_vec()
}
