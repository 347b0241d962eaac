//! Runs a random case on a device and by the definition; both give the result's bytes.

use super::Case;
use super::array::Array;
use crate::definition::{Instant, Number, Problem};
use half::{bf16, f16};
use robocache::{
    DType, Place, Result, Threads, View, ViewMut, resample, resample_backward, resample_backward_workspace,
    resample_slope, resample_time_grad,
};
use std::cell::RefCell;

/// The operators that a case can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Resample,
    Slope,
    Backward { slope: bool },
    TimeGrad,
}

impl Op {
    /// What the types of a case allow.
    pub fn of(case: &Case) -> Vec<Op> {
        let mut all = vec![Op::Resample];
        if case.values.dtype.is_floating() {
            all.push(Op::Backward { slope: false });
            all.push(Op::Backward { slope: true });
        }
        if case.has_slope() {
            all.extend([Op::Slope, Op::TimeGrad]);
        }
        all
    }

    /// The type of its result.
    pub fn dtype(self, case: &Case) -> DType {
        if self == Op::TimeGrad { case.source_times.dtype } else { case.values.dtype }
    }

    fn output(self, case: &Case) -> [usize; 3] {
        match self {
            Op::Backward { .. } => [case.batch, case.samples, case.modes.len()],
            Op::TimeGrad => [case.batch, case.targets, 1],
            _ => [case.batch, case.targets, case.modes.len()],
        }
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

/// The bytes of the result; panics where the call wrote outside it.
pub fn run(case: &Case, op: Op, memory: &impl Memory) -> Result<Vec<u8>> {
    // SAFETY: uploads are copies that live as long as `memory`.
    let view = |array: &Array| -> View { unsafe { array.view(memory.upload(&array.bytes)) } };
    let (values, grad) = (view(&case.values), view(&case.grad));
    let (source_times, target_times) = (view(&case.source_times), view(&case.target_times));
    let source_lengths = case.source_lengths.as_ref().map(view);

    let guarded = |bytes: usize| memory.upload(&vec![UNTOUCHED; bytes + 2 * GUARD]);
    let (dtype, sizes) = (op.dtype(case), op.output(case));
    let bytes = sizes.iter().product::<usize>() * dtype.size();
    let shift = case.output_start * dtype.size();
    let result = guarded(bytes + shift);
    // SAFETY: the guarded memory has room for the shift and the result.
    let output = &mut unsafe { ViewMut::from_raw(result.wrapping_add(GUARD + shift), dtype, &sizes) }.unwrap();
    let borrowed = match op {
        Op::Backward { .. } => resample_backward_workspace(case.batch, case.samples, case.targets)?,
        _ => 0,
    };
    let workspace = guarded(borrowed);
    let place = memory.place();
    let (mode, outside) = (case.mode.as_str(), case.outside);
    match op {
        Op::Resample => resample(values, source_times, target_times, mode, outside, source_lengths, output, &place),
        Op::Slope => resample_slope(values, source_times, target_times, mode, outside, source_lengths, output, &place),
        Op::Backward { slope } => {
            // SAFETY: the guarded memory has room for it.
            let workspace =
                &mut unsafe { ViewMut::from_raw(workspace.wrapping_add(GUARD), DType::U8, &[borrowed]) }.unwrap();
            resample_backward(
                grad,
                source_times,
                target_times,
                mode,
                outside,
                source_lengths,
                slope,
                output,
                workspace,
                &place,
            )
        }
        Op::TimeGrad => {
            resample_time_grad(grad, values, source_times, target_times, mode, outside, source_lengths, output, &place)
        }
    }?;
    for (address, bytes, shift) in [(result, bytes, shift), (workspace, borrowed, 0)] {
        let found = memory.download(address, bytes + shift + 2 * GUARD);
        let (before, after) = (&found[..GUARD + shift], &found[GUARD + shift + bytes..]);
        assert!(before.iter().chain(after).all(|&byte| byte == UNTOUCHED), "{op:?} wrote outside its memory: {case:?}");
    }
    Ok(memory.download(result.wrapping_add(GUARD + shift), bytes))
}

/// The bytes that the definition gives.
pub fn expected(case: &Case, op: Op) -> Vec<u8> {
    match case.values.dtype {
        DType::F64 => expected_of::<f64>(case, op),
        DType::F32 => expected_of::<f32>(case, op),
        DType::F16 => expected_of::<f16>(case, op),
        DType::BF16 => expected_of::<bf16>(case, op),
        integer => match integer.size() {
            8 => expected_of::<u64>(case, op),
            4 => expected_of::<u32>(case, op),
            2 => expected_of::<u16>(case, op),
            _ => expected_of::<u8>(case, op),
        },
    }
}

fn expected_of<V: Number>(case: &Case, op: Op) -> Vec<u8> {
    match case.source_times.dtype {
        DType::F64 => expected_with::<V, f64>(case, op),
        DType::F32 => expected_with::<V, f32>(case, op),
        _ => expected_with::<V, i64>(case, op),
    }
}

fn expected_with<V: Number, T: Instant>(case: &Case, op: Op) -> Vec<u8> {
    let rows = |times: &Array| {
        let row = times.elements::<T>();
        if times.sizes.len() == 1 { row.repeat(case.batch) } else { row }
    };
    let lengths = case.source_lengths.as_ref().map(|lengths| match lengths.dtype {
        DType::I32 => lengths.elements::<i32>().into_iter().map(|length| length as usize).collect(),
        _ => lengths.elements::<i64>().into_iter().map(|length| length as usize).collect::<Vec<_>>(),
    });
    let problem = Problem {
        values: &case.values.elements::<V>(),
        source_times: &rows(&case.source_times),
        target_times: &rows(&case.target_times),
        lengths: &lengths.unwrap_or_else(|| vec![case.samples; case.batch]),
        modes: &case.modes,
        outside: case.outside,
        samples: case.samples,
        targets: case.targets,
    };
    match op {
        Op::Resample => bytes_of(&problem.resample()),
        Op::Slope => bytes_of(&problem.slope()),
        Op::Backward { slope } => bytes_of(&problem.backward(&case.grad.elements::<V>(), slope)),
        Op::TimeGrad => bytes_of(&problem.time_grad(&case.grad.elements::<V>())),
    }
}

fn bytes_of<T>(elements: &[T]) -> Vec<u8> {
    // SAFETY: plain numbers without padding, read as the bytes that they are.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) }.to_vec()
}
