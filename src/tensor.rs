//! Strided views of memory that somebody else owns: the only form in which data reaches an operator.

use crate::error::{Error, Result};
use half::{bf16, f16};
use std::fmt;
use std::marker::PhantomData;

/// The type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DType {
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

impl DType {
    /// The name as PyTorch and NumPy spell it, for error texts.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "float64",
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::I64 => "int64",
            DType::I32 => "int32",
            DType::I16 => "int16",
            DType::I8 => "int8",
            DType::U64 => "uint64",
            DType::U32 => "uint32",
            DType::U16 => "uint16",
            DType::U8 => "uint8",
            DType::Bool => "bool",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// True for the types that can be blended.
    pub fn is_floating(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }
}

/// A Rust type that is the memory form of a [`DType`].
pub trait Element: Copy + Send + Sync + 'static {
    /// Its tag.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($ty:ty => $tag:ident),* $(,)?) => {
        $(impl Element for $ty { const DTYPE: DType = DType::$tag; })*
    };
}
elements! {
    f64 => F64, f32 => F32, f16 => F16, bf16 => BF16, i64 => I64, i32 => I32, i16 => I16, i8 => I8,
    u64 => U64, u32 => U32, u16 => U16, u8 => U8, bool => Bool,
}

/// Sizes of at most three axes, printed as `[2, 5, 3]`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    sizes: [usize; 3],
    rank: usize,
}

impl Shape {
    /// From the sizes of one to three axes (none: a scalar).
    pub fn new(sizes: &[usize]) -> Option<Self> {
        let mut all = [1; 3];
        all.get_mut(..sizes.len())?.copy_from_slice(sizes);
        Some(Shape { sizes: all, rank: sizes.len() })
    }

    /// The size of each axis.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sizes()).finish()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A strided view for reading, of one to three axes, in host or device memory.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: *const u8,
    dtype: DType,
    shape: Shape,
    strides: [isize; 3],
    memory: PhantomData<&'a [u8]>,
}

// SAFETY: a view only reads memory that its constructor promised stays valid and unwritten for 'a.
unsafe impl Send for View<'_> {}
// SAFETY: as above; shared reads of plain numbers do not race.
unsafe impl Sync for View<'_> {}

fn dense_strides(sizes: &[usize]) -> [isize; 3] {
    let mut strides = [0; 3];
    let mut step = 1;
    for axis in (0..sizes.len()).rev() {
        strides[axis] = step;
        step *= sizes[axis].max(1) as isize;
    }
    strides
}

impl<'a> View<'a> {
    /// A dense view of a slice; its length must be the product of `sizes`.
    pub fn new<T: Element>(data: &'a [T], sizes: &[usize]) -> Result<Self> {
        let shape = shape_of(data.len(), sizes)?;
        Ok(View {
            data: data.as_ptr().cast(),
            dtype: T::DTYPE,
            shape,
            strides: dense_strides(sizes),
            memory: PhantomData,
        })
    }

    /// A view of any memory, strides counted in elements.
    ///
    /// # Safety
    /// Every element that `sizes` and `strides` reach from `data` must be initialised memory of type `dtype`, of the
    /// device it is used on, valid and unwritten for `'a`.
    pub unsafe fn from_raw(data: *const u8, dtype: DType, sizes: &[usize], strides: &[isize]) -> Option<Self> {
        let shape = Shape::new(sizes)?;
        let mut all = [0; 3];
        all.get_mut(..strides.len())?.copy_from_slice(strides);
        Some(View { data, dtype, shape, strides: all, memory: PhantomData })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.rank
    }

    /// The size of an axis; 1 past the last.
    pub fn size(&self, axis: usize) -> usize {
        self.shape.sizes[axis]
    }

    /// Elements between neighbours of an axis; 0 past the last.
    pub fn stride(&self, axis: usize) -> isize {
        self.strides[axis]
    }

    /// The address of the first element.
    pub fn data(&self) -> *const u8 {
        self.data
    }

    /// The same memory with an axis put in front: size `size`, every index the same elements.
    pub(crate) fn repeat(self, size: usize) -> Self {
        let [a, b, _] = self.shape.sizes;
        let [sa, sb, _] = self.strides;
        let shape = Shape { sizes: [size, a, b], rank: self.shape.rank + 1 };
        View { shape, strides: [0, sa, sb], ..self }
    }

    /// A column of a matrix.
    pub(crate) fn column(self, index: usize) -> Self {
        debug_assert!(self.rank() == 2 && index < self.size(1));
        let offset = (index as isize * self.strides[1]).wrapping_mul(self.dtype.size() as isize);
        let shape = Shape { sizes: [self.size(0), 1, 1], rank: 1 };
        View { data: self.data.wrapping_offset(offset), shape, strides: [self.strides[0], 0, 0], ..self }
    }

    /// The same memory with axes of size 1 appended until there are `rank`.
    pub(crate) fn extend(self, rank: usize) -> Self {
        View { shape: Shape { rank, ..self.shape }, ..self }
    }

    /// The element at an offset counted in elements.
    ///
    /// # Safety
    /// `T` is the view's type, the memory is the host's, and the offset is one that indices within the shape reach.
    #[inline(always)]
    pub(crate) unsafe fn at<T: Element>(&self, offset: isize) -> *const T {
        debug_assert_eq!(T::DTYPE.size(), self.dtype.size());
        // SAFETY: the caller's promise.
        unsafe { self.data.cast::<T>().offset(offset) }
    }
}

/// A dense view for writing.
#[derive(Debug)]
pub struct ViewMut<'a> {
    data: *mut u8,
    dtype: DType,
    shape: Shape,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: the view is the only access to its memory for 'a.
unsafe impl Send for ViewMut<'_> {}
// SAFETY: a shared reference only hands out the address; who writes through it promises disjoint ranges.
unsafe impl Sync for ViewMut<'_> {}

impl<'a> ViewMut<'a> {
    /// A view of a slice; its length must be the product of `sizes`.
    pub fn new<T: Element>(data: &'a mut [T], sizes: &[usize]) -> Result<Self> {
        let shape = shape_of(data.len(), sizes)?;
        Ok(ViewMut { data: data.as_mut_ptr().cast(), dtype: T::DTYPE, shape, memory: PhantomData })
    }

    /// A view of any dense memory.
    ///
    /// # Safety
    /// `data` must hold as many elements of type `dtype` as `sizes` say, on the device it is used on, and nothing else
    /// may touch them for `'a`.
    pub unsafe fn from_raw(data: *mut u8, dtype: DType, sizes: &[usize]) -> Option<Self> {
        Some(ViewMut { data, dtype, shape: Shape::new(sizes)?, memory: PhantomData })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.sizes().iter().product()
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.elements() == 0
    }

    /// Refuses another size or type; the axes may be grouped as the caller likes.
    pub(crate) fn check(&self, op: &str, dtype: DType, elements: [usize; 3]) -> Result<()> {
        self.check_as(op, "output", dtype, elements)
    }

    /// The same of another result.
    pub(crate) fn check_as(&self, op: &str, name: &str, dtype: DType, elements: [usize; 3]) -> Result<()> {
        let wanted: usize = elements.iter().product();
        if self.dtype == dtype && self.elements() == wanted {
            return Ok(());
        }
        let (wanted, found) = (dtype.name(), self.dtype.name());
        let shape = self.shape;
        Err(Error::Value(format!("{op}: {name} must be {wanted} of shape {elements:?}, got {found} of shape {shape}")))
    }

    /// The address of the first element.
    pub fn data(&self) -> *mut u8 {
        self.data
    }
}

fn shape_of(len: usize, sizes: &[usize]) -> Result<Shape> {
    let shape = Shape::new(sizes)
        .ok_or_else(|| Error::Value(format!("view: sizes must be at most 3 numbers, got {}", sizes.len())))?;
    let elements = sizes.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
    if elements != Some(len) {
        return Err(Error::Value(format!("view: data must have as many elements as shape {shape}, got {len}")));
    }
    Ok(shape)
}
