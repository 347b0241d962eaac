//! Tensors of a random case: typed bytes with sizes, strides and gaps between the elements.

use super::Random;
use robocache::{DType, Element, View};
use std::fmt;

/// How the elements of a tensor lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Dense,
    /// Dense, but the first element is not aligned to 16 bytes.
    Shifted,
    /// Rows with gaps between them, of a multiple of 16 bytes or not.
    Padded,
    /// The last two axes change places.
    Transposed,
    /// Every other element of the last axis.
    Sliced,
    /// The first axis but one runs backwards.
    Reversed,
    /// The first axis repeats one row.
    Expanded,
    /// The last axis repeats one element.
    ExpandedLast,
}

impl Layout {
    const ALL: [Layout; 8] = [
        Layout::Dense,
        Layout::Shifted,
        Layout::Padded,
        Layout::Transposed,
        Layout::Sliced,
        Layout::Reversed,
        Layout::Expanded,
        Layout::ExpandedLast,
    ];

    pub fn random(r: &mut Random) -> Layout {
        if r.one_in(3) { Layout::Dense } else { r.pick(&Layout::ALL) }
    }

    /// Not those that would undo the ascending order or a row's own length.
    pub fn of_times(r: &mut Random) -> Layout {
        r.pick(&[Layout::Dense, Layout::Dense, Layout::Shifted, Layout::Padded, Layout::Transposed, Layout::Sliced])
    }
}

/// A strided tensor and the memory it lies in.
#[derive(Clone)]
pub struct Array {
    pub bytes: Vec<u8>,
    pub dtype: DType,
    pub sizes: Vec<usize>,
    /// In elements.
    pub strides: Vec<isize>,
    /// In elements.
    pub start: usize,
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Array { dtype, sizes, strides, start, .. } = self;
        write!(f, "{} {sizes:?} strides {strides:?} from {start}", dtype.name())
    }
}

impl Array {
    /// `of` gives the low bits of the element at an index of the flattened tensor.
    pub fn new(
        r: &mut Random,
        dtype: DType,
        sizes: &[usize],
        layout: Layout,
        mut of: impl FnMut(&mut Random, usize) -> u64,
    ) -> Array {
        let rank = sizes.len();
        let last = rank - 1;
        // The order of axes from the slowest, the room of each, and the elements between two of the last.
        let mut axes: Vec<usize> = (0..rank).collect();
        let mut room = sizes.to_vec();
        let (mut between, mut start) = (1, 0);
        match layout {
            Layout::Shifted => start = 1 + r.below(3),
            Layout::Padded => room[last] += r.pick(&[1, 2, 8, 16]),
            Layout::Transposed if rank > 1 => axes.swap(last - 1, last),
            Layout::Sliced => between = 2,
            Layout::Expanded if rank > 1 => room[0] = 1,
            Layout::ExpandedLast => room[last] = 1,
            _ => {}
        }
        let mut strides = vec![0; rank];
        let mut step = between;
        for &axis in axes.iter().rev() {
            let repeats = room[axis] == 1 && sizes[axis] > 1;
            strides[axis] = if repeats { 0 } else { step as isize };
            step *= room[axis].max(1);
        }
        if layout == Layout::Reversed && rank > 1 && sizes[rank - 2] > 0 {
            let axis = rank - 2;
            start += (sizes[axis] - 1) * strides[axis].unsigned_abs();
            strides[axis] = -strides[axis];
        }
        let mut array = Array { bytes: Vec::new(), dtype, sizes: sizes.to_vec(), strides, start };
        let places = array.places();
        // Exactly up to the last element: an access beyond it is one outside the memory.
        let end = places.iter().max().map_or(array.start, |place| place + 1);
        array.bytes = vec![0x5a; end * dtype.size()];
        for (index, place) in places.into_iter().enumerate() {
            let bits = of(r, index).to_le_bytes();
            array.bytes[place * dtype.size()..][..dtype.size()].copy_from_slice(&bits[..dtype.size()]);
        }
        array
    }

    /// Where each element lies, in elements from the start of the memory.
    fn places(&self) -> Vec<usize> {
        let count = self.sizes.iter().product();
        let place = |mut index: usize| {
            let mut at = self.start as isize;
            for (size, stride) in self.sizes.iter().zip(&self.strides).rev() {
                at += (index % size) as isize * stride;
                index /= size;
            }
            usize::try_from(at).expect("an element lies in the memory")
        };
        (0..count).map(place).collect()
    }

    /// The elements in order, as any type of their size.
    pub fn elements<T: Copy>(&self) -> Vec<T> {
        let size = self.dtype.size();
        assert_eq!(size, size_of::<T>());
        let element = |place: usize| {
            let bytes = &self.bytes[place * size..][..size];
            // SAFETY: as many bytes as `T` has, of a type for which any bits are a value.
            unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
        };
        self.places().into_iter().map(element).collect()
    }

    /// The same tensor with `fill` in every byte that is not an element's, and `margin` elements of it on both sides.
    pub fn surrounded(&self, fill: u8, margin: usize) -> Array {
        let size = self.dtype.size();
        let mut bytes = vec![fill; self.bytes.len() + 2 * margin * size];
        for place in self.places() {
            bytes[(place + margin) * size..][..size].copy_from_slice(&self.bytes[place * size..][..size]);
        }
        Array { bytes, start: self.start + margin, ..self.clone() }
    }

    /// As `[B, S, D]`: with axes of size 1 where the tensor has none.
    pub fn with_axes(&self, sizes: [usize; 3]) -> Array {
        let mut own = self.sizes.iter().zip(&self.strides).peekable();
        let strides =
            sizes.iter().map(|size| own.next_if(|(found, _)| *found == size).map_or(0, |(_, stride)| *stride));
        let strides = strides.collect();
        assert_eq!(sizes.iter().product::<usize>(), self.sizes.iter().product::<usize>());
        Array { sizes: sizes.to_vec(), strides, bytes: self.bytes.clone(), ..*self }
    }

    /// The tensor in a copy of its memory.
    ///
    /// # Safety
    /// `memory` is a copy of `bytes`, aligned to 16, in memory of the place where it is used, and lives for `'a`.
    pub unsafe fn view<'a>(&self, memory: *const u8) -> View<'a> {
        let first = memory.wrapping_add(self.start * self.dtype.size());
        // SAFETY: every element lies in `bytes` (`new`), and the caller promises a copy.
        unsafe { View::from_raw(first, self.dtype, &self.sizes, &self.strides) }.expect("at most three axes")
    }

    /// A dense tensor of these elements.
    pub fn dense<T: Element>(elements: &[T], sizes: &[usize]) -> Array {
        assert_eq!(elements.len(), sizes.iter().product::<usize>());
        // SAFETY: plain numbers, read as the bytes that they are.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) };
        let strides = (0..sizes.len()).map(|axis| sizes[axis + 1..].iter().product::<usize>() as isize).collect();
        Array { bytes: bytes.to_vec(), dtype: T::DTYPE, sizes: sizes.to_vec(), strides, start: 0 }
    }
}

/// True where two results are the same bits; any not-a-number equals any other.
pub fn same(dtype: DType, a: &[u8], b: &[u8]) -> bool {
    let size = dtype.size();
    a.len() == b.len()
        && a.chunks(size).zip(b.chunks(size)).all(|(a, b)| a == b || is_nan(dtype, a) && is_nan(dtype, b))
}

/// The first element that differs, as its index and both sides' bytes.
pub fn difference(dtype: DType, a: &[u8], b: &[u8]) -> String {
    let size = dtype.size();
    let mut pairs = a.chunks(size).zip(b.chunks(size)).enumerate();
    match pairs.find(|(_, (a, b))| !same(dtype, a, b)) {
        Some((index, (a, b))) => format!("element {index} is {a:02x?}, expected {b:02x?}"),
        None => format!("{} bytes, expected {}", a.len(), b.len()),
    }
}

fn is_nan(dtype: DType, bytes: &[u8]) -> bool {
    let bits = bytes.iter().rev().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    match dtype {
        DType::F64 => f64::from_bits(bits).is_nan(),
        DType::F32 => f32::from_bits(bits as u32).is_nan(),
        DType::F16 => half::f16::from_bits(bits as u16).is_nan(),
        DType::BF16 => half::bf16::from_bits(bits as u16).is_nan(),
        _ => false,
    }
}
