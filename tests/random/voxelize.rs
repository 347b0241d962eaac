//! Random calls of `voxelize` and `voxelize_sparse`: clouds, grids, layouts and features that a test runs anywhere.

#![allow(dead_code)] // each test uses a part

use crate::definition_voxelize::Clouds;
use crate::random::array::{Array, Layout};
use crate::random::{FLOATING, Random, decode, encode};
use robocache::DType;

pub const REDUCTIONS: [&str; 6] = ["mean", "max", "sum", "min", "occupancy", "count"];

/// What the points of a case are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Around the grid and in it.
    Even,
    /// On faces of voxels, and one step of the type beside them.
    Faces,
    /// All in one voxel.
    Heavy,
    /// In three voxels.
    Few,
    Outside,
    /// Any bits.
    Wild,
}

const SPREADS: [Spread; 4] = [Spread::Even, Spread::Faces, Spread::Heavy, Spread::Few];

/// What the features of a case are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    Small,
    /// The same numbers of both signs, and small ones beside them.
    Cancelling,
    /// Of every exponent.
    Wide,
    /// A few numbers again and again, zeros of both signs among them.
    Ties,
    /// Any bits: infinities and NaN too.
    Wild,
}

const VALUES: [Values; 5] = [Values::Small, Values::Cancelling, Values::Wide, Values::Ties, Values::Wild];

/// The arguments of a call.
#[derive(Clone, Debug)]
pub struct CloudCase {
    /// `[B, N, 3]`, or `[N, 3]`.
    pub points: Array,
    /// `[B, N, C]`, or `[N, C]`.
    pub features: Array,
    /// As the features.
    pub tangent: Array,
    /// `[B, C, cells]`.
    pub grad: Array,
    pub origin: Vec<f64>,
    /// 1 or 3 numbers.
    pub voxel_size: Vec<f64>,
    pub grid_size: Vec<i64>,
    /// Of the sparse grid: the same, or too large to be dense.
    pub sparse_size: Vec<i64>,
    pub reduce: &'static str,
    pub lengths: Option<Array>,
    /// Rows of the sparse grid; as many as there are voxels where there is none.
    pub capacity: Option<usize>,
    pub batch: usize,
    pub count: usize,
    pub channels: usize,
    /// Elements between the start of a result's memory and the result.
    pub output_start: usize,
    pub spread: Spread,
    pub values: Values,
}

/// The sizes of a case.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub batch: usize,
    pub count: usize,
    pub channels: usize,
}

impl Sizes {
    fn random(r: &mut Random) -> Sizes {
        let some = [3 + r.below(30), 3 + r.below(60), 30 + r.below(300), 30 + r.below(300), 200 + r.below(500)];
        let channels = [1, 1, 2, 3, 1 + r.below(20), 8, 9];
        let batch = if r.one_in(12) { 0 } else { r.pick(&[1, 1, 2, 2, 3]) };
        let count = if r.one_in(8) { r.below(3) } else { r.pick(&some) };
        // More than one launch takes.
        let count = if r.one_in(5) { 2049 + r.below(600) } else { count };
        let channels = if r.one_in(16) { 0 } else { r.pick(&channels) };
        // Large in one way at a time, so that thousands of cases take seconds.
        let room = 2_000 / (count * batch).max(1) + 1;
        Sizes { batch, count, channels: channels.min(room) }
    }
}

/// Voxels along each axis.
fn random_grid(r: &mut Random) -> Vec<i64> {
    let axis = |r: &mut Random| 1 + r.below(8) as i64;
    match r.below(8) {
        0 => vec![1, 1, 1],
        1 => vec![1, 1 + r.below(700) as i64, 1],
        2 => vec![2, 3, 100 + r.below(200) as i64],
        // More voxels than a block of any launch takes, an odd number of them or not.
        3 if r.one_in(2) => r.pick(&[[17, 19, 16], [11, 13, 9], [1, 1, 2049]]).to_vec(),
        4 => vec![4, 2, 8],
        _ => vec![axis(r), axis(r), axis(r)],
    }
}

impl CloudCase {
    /// Case number `index`: types and reductions in turn, the rest at random.
    pub fn random(index: u64) -> CloudCase {
        let mut r = Random(index ^ 0x70_78e1);
        let sizes = Sizes::random(&mut r);
        let (points, features) = (FLOATING[index as usize % 4], FLOATING[index as usize / 4 % 4]);
        let reduce = REDUCTIONS[index as usize / 16 % 6];
        let spread = if r.one_in(10) { r.pick(&[Spread::Outside, Spread::Wild]) } else { r.pick(&SPREADS) };
        let values = r.pick(&VALUES);
        CloudCase::new(&mut r, [points, features], reduce, sizes, spread, values)
    }

    pub fn new(
        r: &mut Random,
        [points_dtype, dtype]: [DType; 2],
        reduce: &'static str,
        sizes: Sizes,
        spread: Spread,
        values: Values,
    ) -> CloudCase {
        let Sizes { batch, count, channels } = sizes;
        let grid_size = random_grid(r);
        let far = [vec![1 << 21; 3], vec![1 << 21, 1 << 20, 3], vec![300, 2000, 500]];
        let sparse_size = if r.one_in(3) { far[r.below(3)].clone() } else { grid_size.clone() };
        let (origin, voxel_size) = random_frame(r, points_dtype);
        let frame = Frame { origin: &origin, voxel_size: &voxel_size, size: &grid_size };
        let coordinates = random_points(r, points_dtype, batch * count, &frame, spread);

        let single = batch == 1 && r.one_in(3);
        let shape = |width: usize| if single { vec![count, width] } else { vec![batch, count, width] };
        let layout = Layout::random(r);
        let points = Array::new(r, points_dtype, &shape(3), layout, |_, at| coordinates[at]);
        let array = |r: &mut Random, shape: &[usize], kind| {
            let numbers = random_features(r, dtype, shape.iter().product(), channels, kind);
            let layout = Layout::random(r);
            Array::new(r, dtype, shape, layout, |_, at| numbers[at])
        };
        let features = array(r, &shape(channels), values);
        let kind = r.pick(&VALUES);
        let tangent = array(r, &shape(channels), kind);
        let kind = r.pick(&VALUES);
        let cells = grid_size.iter().product::<i64>() as usize;
        let grad = array(r, &[batch, channels, cells], kind);
        let (lengths_dtype, layout) = (r.pick(&[DType::I32, DType::I64]), Layout::of_times(r));
        let lengths = r.one_in(2).then(|| {
            Array::new(r, lengths_dtype, &[batch], layout, |r, _| match r.below(8) {
                0 => 0,
                1..4 => count as u64,
                _ => r.below(count + 1) as u64,
            })
        });
        let capacities = [0, 1, 1 + r.below(8), batch * count / 2, batch * count, batch * count + 7];
        CloudCase {
            points,
            features,
            tangent,
            grad,
            origin,
            voxel_size,
            grid_size,
            sparse_size,
            reduce,
            lengths,
            capacity: r.one_in(2).then(|| r.pick(&capacities)),
            batch,
            count,
            channels,
            output_start: if r.one_in(4) { 1 + r.below(3) } else { 0 },
            spread,
            values,
        }
    }

    /// True where the reduction has features to read, and so derivatives.
    pub fn reads_features(&self) -> bool {
        !matches!(self.reduce, "occupancy" | "count")
    }

    /// Lengths of any size: what CUDA does not check and must survive.
    pub fn with_garbage(mut self, r: &mut Random) -> CloudCase {
        let dtype = r.pick(&[DType::I32, DType::I64]);
        let layout = Layout::of_times(r);
        self.lengths = Some(Array::new(r, dtype, &[self.batch], layout, |r, _| r.bits()));
        self
    }

    /// The dense grid, or the sparse one, for the definition.
    pub fn clouds(&self, sparse: bool) -> Clouds {
        let numbers = numbers_of(&self.points);
        let lengths = self.lengths.as_ref().map(|lengths| match lengths.dtype {
            DType::I32 => lengths.elements::<i32>().into_iter().map(|length| length as usize).collect(),
            _ => lengths.elements::<i64>().into_iter().map(|length| length as usize).collect::<Vec<_>>(),
        });
        Clouds {
            points: numbers.as_chunks().0.to_vec(),
            count: self.count,
            lengths: lengths.unwrap_or_else(|| vec![self.count; self.batch]),
            single: self.points.dtype != DType::F64,
            origin: [0, 1, 2].map(|axis| self.origin[axis]),
            voxel_size: [0, 1, 2].map(|axis| edge(&self.voxel_size, axis)),
            size: [0, 1, 2].map(|axis| if sparse { self.sparse_size[axis] } else { self.grid_size[axis] }),
        }
    }

    /// The points in another order within each cloud, and their features with them; it wants no lengths.
    pub fn shuffled(&self, r: &mut Random) -> CloudCase {
        assert!(self.lengths.is_none());
        let mut order: Vec<usize> = (0..self.batch * self.count).collect();
        for cloud in 0..self.batch {
            for place in (1..self.count).rev() {
                order.swap(cloud * self.count + place, cloud * self.count + r.below(place + 1));
            }
        }
        let moved = |r: &mut Random, array: &Array, width: usize| {
            let elements = bits_of(array);
            let at = |_: &mut Random, at: usize| elements[order[at / width] * width + at % width];
            Array::new(r, array.dtype, &array.sizes, Layout::Dense, at)
        };
        CloudCase {
            points: moved(r, &self.points, 3),
            features: moved(r, &self.features, self.channels),
            tangent: moved(r, &self.tangent, self.channels),
            ..self.clone()
        }
    }
}

fn edge(voxel_size: &[f64], axis: usize) -> f64 {
    voxel_size[if voxel_size.len() == 1 { 0 } else { axis }]
}

/// The low bits of the elements in order.
pub fn bits_of(array: &Array) -> Vec<u64> {
    match array.dtype.size() {
        8 => array.elements(),
        4 => array.elements::<u32>().into_iter().map(u64::from).collect(),
        _ => array.elements::<u16>().into_iter().map(u64::from).collect(),
    }
}

fn numbers_of(array: &Array) -> Vec<f64> {
    bits_of(array).into_iter().map(|bits| decode(array.dtype, bits)).collect()
}

/// An origin and the edges of a voxel, which that type can hold.
fn random_frame(r: &mut Random, dtype: DType) -> (Vec<f64>, Vec<f64>) {
    let scale = r.pick(&[1.0, 1.0, 1.0, 1e-3, 1e4]);
    let edge = |r: &mut Random| scale * r.pick(&[0.1, 0.25, 0.3, 1.0, 0.05, 2.0]);
    let origins = [vec![0.0; 3], vec![-0.5 * scale, -0.25 * scale, 0.0], vec![-1.7 * scale, 0.1, 3.3 * scale]];
    let edges = match r.below(24) {
        0 => vec![if dtype == DType::F64 { 5e-324 } else { 1e-40 }],
        1 => vec![1e30, 1e-30, 0.5],
        2..12 => vec![edge(r)],
        _ => vec![edge(r), edge(r), edge(r)],
    };
    (origins[r.below(3)].clone(), edges)
}

struct Frame<'a> {
    origin: &'a [f64],
    voxel_size: &'a [f64],
    size: &'a [i64],
}

/// The coordinates of that many points.
fn random_points(r: &mut Random, dtype: DType, count: usize, frame: &Frame, spread: Spread) -> Vec<u64> {
    const SPECIAL: [f64; 9] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 5e-324, -1e-40, 3.4e38, -1e300];
    let special = r.one_in(3);
    let homes: [[usize; 3]; 3] =
        std::array::from_fn(|_| std::array::from_fn(|axis| r.below(frame.size[axis] as usize)));
    let mut all = Vec::new();
    for _ in 0..count {
        let home = homes[if spread == Spread::Heavy { 0 } else { r.below(3) }];
        for (axis, &home) in home.iter().enumerate() {
            let size = frame.size[axis] as f64;
            let place = match spread {
                Spread::Faces => r.below(frame.size[axis] as usize + 2) as f64 - if r.one_in(8) { 1.0 } else { 0.0 },
                Spread::Heavy | Spread::Few => home as f64 + 0.2 + 0.6 * r.unit(),
                Spread::Outside => size * 3.0 + 9.0 + r.unit(),
                _ => (r.unit() * 1.2 - 0.1) * size,
            };
            let number = frame.origin[axis] + place * edge(frame.voxel_size, axis);
            let bits = encode(dtype, number);
            all.push(match spread {
                _ if special && r.one_in(12) => encode(dtype, r.pick(&SPECIAL)),
                Spread::Wild => r.bits(),
                // The neighbours of a number have the neighbouring bits.
                Spread::Faces if number != 0.0 => bits.wrapping_add(r.pick(&[0, 0, 1, u64::MAX])),
                _ => bits,
            });
        }
    }
    all
}

/// That many features in order, `channels` for each point.
fn random_features(r: &mut Random, dtype: DType, count: usize, channels: usize, values: Values) -> Vec<u64> {
    const TIES: [f64; 7] = [0.0, -0.0, 1.0, -1.0, 1.0, f64::NAN, f64::NEG_INFINITY];
    const SPECIAL: [f64; 6] = [-0.0, f64::INFINITY, 5e-324, -1e-45, 6e-8, 6.5e4];
    let (sign, infinity) = match dtype {
        DType::F64 => (1 << 63, 0x7ff << 52),
        DType::F32 => (1 << 31, 0xff << 23),
        DType::F16 => (1 << 15, 0x1f << 10),
        _ => (1 << 15, 0xff << 7),
    };
    let mask = sign | (sign - 1);
    let ties = &TIES[..r.pick(&[2, 4, 7])];
    let mut all: Vec<u64> = Vec::new();
    for at in 0..count {
        let small = encode(dtype, r.unit() * 6.0 - 3.0);
        let wide = match r.bits() & mask {
            bits if bits & infinity == infinity => bits & !infinity,
            bits => bits,
        };
        let bits = match values {
            Values::Small if r.one_in(40) => encode(dtype, r.pick(&SPECIAL)),
            Values::Small => small,
            Values::Cancelling if at >= channels && r.one_in(2) => all[at - channels] ^ sign,
            Values::Cancelling if r.one_in(2) => wide,
            Values::Cancelling => small,
            Values::Wide => wide,
            Values::Ties => encode(dtype, r.pick(ties)),
            Values::Wild => r.bits() & mask,
        };
        all.push(bits);
    }
    all
}
