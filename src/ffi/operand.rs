//! What C++ passes becomes what the core takes: the only place where an address turns into a view.

use super::bridge::{self, Kind, MaxGap, Operand, Place};
use crate::device::{self, Stream};
use crate::error::{Error, Result};
use crate::ops::resample_mask;
use crate::tensor::{DType, View, ViewMut};
use crate::threads::{Serial, Threads};
use std::ops::Range;

/// What `parallel_rows` runs; it outlives the call, which waits for all rows.
pub struct Rows<'a>(&'a (dyn Fn(Range<usize>) + Sync));

impl Rows<'_> {
    pub fn run(&self, begin: usize, end: usize) {
        (self.0)(begin..end);
    }
}

/// Torch's own thread pool, so that `torch.set_num_threads` and single-threaded workers are honoured.
struct TorchThreads;

impl Threads for TorchThreads {
    fn run(&self, items: usize, grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        if items <= grain {
            return Serial.run(items, grain, body);
        }
        bridge::parallel_rows(items, grain, &Rows(body));
    }
}

pub(super) fn dtype(kind: Kind) -> Option<DType> {
    Some(match kind {
        Kind::F64 => DType::F64,
        Kind::F32 => DType::F32,
        Kind::F16 => DType::F16,
        Kind::BF16 => DType::BF16,
        Kind::I64 => DType::I64,
        Kind::I32 => DType::I32,
        Kind::I16 => DType::I16,
        Kind::I8 => DType::I8,
        Kind::U64 => DType::U64,
        Kind::U32 => DType::U32,
        Kind::U16 => DType::U16,
        Kind::U8 => DType::U8,
        Kind::Bool => DType::Bool,
        _ => return None,
    })
}

impl Operand {
    pub(super) fn optional(&self) -> Option<View<'_>> {
        let (sizes, strides) = (self.sizes.get(..self.rank)?, self.strides.get(..self.rank)?);
        // SAFETY: csrc/bridge.h makes an operand of a live tensor that its caller keeps for the call (and torch's
        // allocator until the stream has run), with that tensor's own sizes and strides.
        unsafe { View::from_raw(self.data as *const u8, dtype(self.kind)?, sizes, strides) }
    }

    pub(super) fn view(&self, name: &str) -> Result<View<'_>> {
        self.optional().ok_or_else(|| Error::Value(format!("{name} must be a tensor of at most 3 axes, got {self:?}")))
    }

    pub(super) fn output(&self) -> Result<ViewMut<'_>> {
        let wanted = || Error::Value(format!("output must be a dense tensor of at most 3 axes, got {self:?}"));
        let sizes = self.sizes.get(..self.rank).ok_or_else(wanted)?;
        // SAFETY: csrc allocates outputs and workspaces itself, dense, for this call alone.
        let view = unsafe { ViewMut::from_raw(self.data as *mut u8, dtype(self.kind).ok_or_else(wanted)?, sizes) };
        view.ok_or_else(wanted)
    }
}

impl Place {
    pub(super) fn place(&self) -> device::Place<'static> {
        if self.device < 0 {
            return device::Place::cpu(&TorchThreads);
        }
        // SAFETY: csrc passes tensors of this device only, with the device's current stream; torch's allocator keeps
        // their memory until the stream has run.
        unsafe { device::Place::cuda(Stream { device: self.device, handle: self.stream }) }
    }
}

impl MaxGap {
    pub(super) fn gap(&self) -> Option<resample_mask::MaxGap> {
        let gap = if self.whole {
            resample_mask::MaxGap::Ticks(self.ticks)
        } else {
            resample_mask::MaxGap::Number(self.number)
        };
        self.given.then_some(gap)
    }
}
