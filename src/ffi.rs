//! The only bridge between C++ and Rust: one signature for each operator, in schema order, then where to run.
//!
//! C++ checks, allocates and calls; in `ffi/operand.rs`, and nowhere else, an address that torch gave becomes a view.
//! What the functions do is in `ffi/calls.rs` and `ffi/voxelize.rs`.

mod calls;
mod operand;
mod voxelize;

#[cxx::bridge(namespace = "robocache::core")]
#[allow(clippy::too_many_arguments, reason = "one signature for each operator, in schema order")]
#[cfg_attr(not(feature = "tch"), allow(dead_code))]
pub(crate) mod bridge {
    /// The type of a tensor's elements; `None` marks an absent optional tensor.
    #[derive(Debug)]
    enum Kind {
        None,
        F64,
        F32,
        F16,
        BF16,
        I64,
        I32,
        I16,
        I8,
        U64,
        U32,
        U16,
        U8,
        Bool,
    }

    /// A tensor of at most three axes by address; strides in elements.
    #[derive(Debug)]
    struct Operand {
        data: usize,
        kind: Kind,
        rank: usize,
        sizes: [usize; 3],
        strides: [isize; 3],
    }

    /// The longest bracket that a mask lets through.
    #[derive(Debug)]
    struct MaxGap {
        given: bool,
        whole: bool,
        ticks: i64,
        number: f64,
    }

    /// Where to run: the CPU with torch's threads (device -1), or a stream of a CUDA device.
    #[derive(Debug)]
    struct Place {
        device: i32,
        stream: usize,
    }

    /// What `tch_voxelize_sparse` returns: new `at::Tensor`s by address.
    struct SparseVoxels {
        coords: usize,
        values: usize,
        counts: usize,
        point_voxel: usize,
        num_voxels: usize,
    }

    extern "Rust" {
        fn resample(
            values: &Operand,
            source_times: &Operand,
            target_times: &Operand,
            mode: &str,
            outside: &str,
            source_lengths: &Operand,
            output: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn resample_slope(
            values: &Operand,
            source_times: &Operand,
            target_times: &Operand,
            mode: &str,
            outside: &str,
            source_lengths: &Operand,
            output: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn resample_tangent(
            tangent: &Operand,
            values: &Operand,
            source_times: &Operand,
            target_times: &Operand,
            mode: &str,
            outside: &str,
            source_lengths: &Operand,
            output: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn resample_backward(
            grad: &Operand,
            source_times: &Operand,
            target_times: &Operand,
            mode: &str,
            outside: &str,
            source_lengths: &Operand,
            slope: bool,
            values: &Operand,
            output: &Operand,
            workspace: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn resample_curvature(
            grad: &Operand,
            tangent: &Operand,
            values: &Operand,
            source_times: &Operand,
            target_times: &Operand,
            mode: &str,
            outside: &str,
            source_lengths: &Operand,
            output: &Operand,
            workspace: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn resample_backward_workspace(
            batch: usize,
            samples: usize,
            targets: usize,
            mode: &str,
            place: &Place,
        ) -> Result<usize>;
        fn resample_curvature_workspace(batch: usize, samples: usize, targets: usize) -> Result<usize>;
        fn resample_time_grad(
            grad: &Operand,
            values: &Operand,
            source_times: &Operand,
            target_times: &Operand,
            mode: &str,
            outside: &str,
            source_lengths: &Operand,
            output: &Operand,
            place: &Place,
        ) -> Result<()>;

        fn resample_mask(
            source_times: &Operand,
            target_times: &Operand,
            max_gap: &MaxGap,
            source_lengths: &Operand,
            output: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn fuse(
            values: &[Operand],
            source_times: &[Operand],
            target_times: &Operand,
            mode: &str,
            outside: &str,
            source_lengths: &Operand,
            output: &Operand,
            place: &Place,
        ) -> Result<()>;

        fn voxelize(
            points: &Operand,
            features: &Operand,
            origin: &[f64],
            voxel_size: &[f64],
            grid_size: &[i64],
            reduce: &str,
            lengths: &Operand,
            output: &Operand,
            workspace: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn voxelize_counted(
            points: &Operand,
            features: &Operand,
            origin: &[f64],
            voxel_size: &[f64],
            grid_size: &[i64],
            lengths: &Operand,
            output: &Operand,
            counts: &Operand,
            point_voxel: &Operand,
            workspace: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn voxelize_tangent(
            tangent: &Operand,
            points: &Operand,
            features: &Operand,
            origin: &[f64],
            voxel_size: &[f64],
            grid_size: &[i64],
            reduce: &str,
            lengths: &Operand,
            output: &Operand,
            workspace: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn voxelize_backward(
            grad: &Operand,
            points: &Operand,
            features: &Operand,
            origin: &[f64],
            voxel_size: &[f64],
            grid_size: &[i64],
            reduce: &str,
            lengths: &Operand,
            counts: &Operand,
            point_voxel: &Operand,
            output: &Operand,
            workspace: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn voxelize_counted_workspace(
            batch: usize,
            points: usize,
            channels: usize,
            grid_size: &[i64],
            item: usize,
            place: &Place,
        ) -> Result<usize>;
        /// Whether a recorded mean keeps the counts of its voxels for its gradient; -1 for sizes that are not known yet.
        fn keeps_counts(batch: i64, points: i64, channels: i64, grid_size: &[i64], item: usize, cuda: bool) -> bool;
        fn voxelize_workspace(
            batch: usize,
            points: usize,
            grid_size: &[i64],
            reduce: &str,
            backward: bool,
            place: &Place,
        ) -> Result<usize>;
        fn voxelize_sparse_rows(
            points: &Operand,
            origin: &[f64],
            voxel_size: &[f64],
            grid_size: &[i64],
            lengths: &Operand,
            order: &Operand,
            num_voxels: &Operand,
            workspace: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn voxelize_sparse_fill(
            points: &Operand,
            grid_size: &[i64],
            order: &Operand,
            num_voxels: &Operand,
            coords: &Operand,
            counts: &Operand,
            starts: &Operand,
            point_voxel: &Operand,
            workspace: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn voxelize_sparse_workspace(batch: usize, points: usize, grid_size: &[i64], place: &Place) -> Result<usize>;
        fn voxelize_sparse_values(
            features: &Operand,
            coords: &Operand,
            counts: &Operand,
            order: &Operand,
            starts: &Operand,
            reduce: &str,
            tangent: &Operand,
            output: &Operand,
            place: &Place,
        ) -> Result<()>;
        fn voxelize_sparse_backward(
            grad: &Operand,
            features: &Operand,
            coords: &Operand,
            counts: &Operand,
            order: &Operand,
            starts: &Operand,
            point_voxel: &Operand,
            reduce: &str,
            output: &Operand,
            place: &Place,
        ) -> Result<()>;

        /// Refuses a grid that points of that type cannot have.
        fn check_grid(
            op: &str,
            points: Kind,
            origin: &[f64],
            voxel_size: &[f64],
            grid_size: &[i64],
            sparse: bool,
        ) -> Result<()>;
        /// Refuses a dense result that no address could reach; -1 stands for a number that is not known yet.
        fn check_result(op: &str, grid_size: &[i64], batch: i64, channels: i64, item: usize) -> Result<()>;
        /// Refuses an unknown reduction.
        fn check_reduce(op: &str, reduce: &str) -> Result<()>;
        /// Refuses lengths outside `[0, points]`; host memory.
        fn check_lengths(op: &str, lengths: &Operand, points: usize) -> Result<()>;
        /// True for a reduction that reads features.
        fn reads_features(reduce: &str) -> bool;
        /// True for a reduction whose result is one point's feature.
        fn picks(reduce: &str) -> bool;

        /// Checks texts and types; `channels` is -1 where the number is not known yet.
        fn check_modes(op: &str, mode: &str, outside: &str, values: Kind, channels: i64) -> Result<()>;
        /// As `check_modes`, over the channels of all streams; gives each stream's own modes as a text.
        fn stream_modes(op: &str, mode: &str, outside: &str, values: Kind, widths: &[usize]) -> Result<Vec<String>>;
        /// True where derivatives by the values depend on the values.
        fn bends(mode: &str) -> bool;
        /// Channels that `mode` takes before any number that is left to `*`; -1 where the number of all of them
        /// decides, -2 where any number will do.
        fn named_channels(mode: &str) -> i64;
        /// Refuses a gap that is negative or NaN.
        fn check_max_gap(max_gap: &MaxGap) -> Result<()>;
        /// Checks host memory: ascending source times, lengths in range; `stream` is -1 where there is one only.
        fn check_times(op: &str, stream: i64, source_times: &Operand, source_lengths: &Operand) -> Result<()>;
        /// What this library is, as JSON.
        fn build_info() -> String;

        /// Rows that torch's thread pool runs in parts.
        type Rows<'a>;
        fn run(self: &Rows, begin: usize, end: usize);
    }

    unsafe extern "C++" {
        include!("bridge.h");

        /// Runs all rows on torch's thread pool.
        fn parallel_rows(items: usize, grain: usize, rows: &Rows);
    }

    unsafe extern "C++" {
        include!("tch.h");

        /// `robocache::resample` through the dispatcher, on `at::Tensor`s by address; a new tensor by address.
        ///
        /// # Safety
        /// Each address is a live `at::Tensor`; that of `source_lengths` may be 0.
        #[namespace = "robocache"]
        unsafe fn tch_resample(
            values: usize,
            source_times: usize,
            target_times: usize,
            mode: &str,
            outside: &str,
            source_lengths: usize,
        ) -> Result<usize>;

        /// `robocache::resample_mask` likewise.
        ///
        /// # Safety
        /// As for `tch_resample`.
        #[namespace = "robocache"]
        unsafe fn tch_resample_mask(
            source_times: usize,
            target_times: usize,
            max_gap: &MaxGap,
            source_lengths: usize,
        ) -> Result<usize>;

        /// `robocache::fuse` likewise; every address of the lists is a live `at::Tensor`.
        ///
        /// # Safety
        /// As for `tch_resample`.
        #[namespace = "robocache"]
        unsafe fn tch_fuse(
            values: &[usize],
            source_times: &[usize],
            target_times: usize,
            mode: &str,
            outside: &str,
            source_lengths: usize,
        ) -> Result<usize>;

        /// `robocache::voxelize` likewise.
        ///
        /// # Safety
        /// As for `tch_resample`, also for `features` and `lengths`.
        #[namespace = "robocache"]
        unsafe fn tch_voxelize(
            points: usize,
            features: usize,
            origin: &[f64],
            voxel_size: &[f64],
            grid_size: &[i64],
            reduce: &str,
            lengths: usize,
        ) -> Result<usize>;

        /// `robocache::voxelize_sparse` likewise.
        ///
        /// # Safety
        /// As for `tch_voxelize`.
        #[namespace = "robocache"]
        unsafe fn tch_voxelize_sparse(
            points: usize,
            features: usize,
            origin: &[f64],
            voxel_size: &[f64],
            grid_size: &[i64],
            reduce: &str,
            capacity: i64,
            lengths: usize,
        ) -> Result<SparseVoxels>;
    }
}

use calls::*;
use operand::Rows;
use voxelize::*;
