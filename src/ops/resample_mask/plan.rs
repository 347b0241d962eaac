//! The launch of `resample_mask`, made from plain numbers.

use crate::error::Result;
use crate::launch::Launch;
use crate::ops::rows_plan::{kernel_name, rows_of, rows_per_warp, warps};
use crate::tensor::DType;

/// A launch and how its warps divide the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The launch.
    pub launch: Launch,
    /// Rows of `[B * T]` that one warp handles.
    pub rows_per_warp: u32,
}

/// The plan for that many targets.
pub fn mask(batch: usize, targets: usize, times: DType) -> Result<Plan> {
    let rows = rows_of("resample_mask", batch, targets)?;
    let rows_per_warp = rows_per_warp(rows, 1, 1);
    let kernel = kernel_name!("resample_mask_", times);
    Ok(Plan { launch: warps("resample_mask", kernel, rows.div_ceil(u64::from(rows_per_warp)))?, rows_per_warp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_targets_share_a_warp() {
        let plan = mask(64, 4096, DType::I64).unwrap();
        assert_eq!((plan.launch.kernel, plan.rows_per_warp), ("resample_mask_i64", 32));
        assert_eq!(mask(1, 3, DType::F32).unwrap().launch.grid, [1, 1, 1]);
    }
}
