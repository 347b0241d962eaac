//! Embedded kernel images, their look-up and their launch: the only caller of the CUDA driver.
//!
//! Torch owns memory, contexts and streams. This module adds a kernel to a stream of torch's, and nothing else.
//! The driver is loaded at run time, so one library serves machines with and without it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::error::{Error, Result};
use crate::launch::Launch;

/// What an image was compiled for, with 9.0 written as 90.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(robocache_cuda), allow(dead_code, reason = "a CPU-only build embeds no image"))]
pub enum Arch {
    /// Machine code for one compute capability.
    Sm(u32),
    /// PTX, which the driver compiles for a device of at least this capability.
    #[allow(dead_code)] // a library for some compute capabilities only has no PTX
    Compute(u32),
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arch::Sm(number) => write!(f, "sm_{number}"),
            Arch::Compute(number) => write!(f, "compute_{number}"),
        }
    }
}

struct Image {
    file: &'static str,
    arch: Arch,
    /// Its size in 8 bytes, then the image compressed: machine code for six targets with line tables is large.
    packed: &'static [u8],
}

impl Image {
    /// The size of the image as the driver reads it, and its bytes, aligned to 16; `None` where the library is damaged.
    fn unpack(&self) -> Option<(usize, Vec<u128>)> {
        let (size, packed) = self.packed.split_first_chunk::<8>()?;
        let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
        let bytes = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(packed, size).ok()?;
        let mut aligned = vec![0u128; size.div_ceil(16)];
        // SAFETY: the numbers' own bytes, for which any bits are a value.
        let room = unsafe { std::slice::from_raw_parts_mut(aligned.as_mut_ptr().cast::<u8>(), size) };
        (bytes.len() == size).then(|| room.copy_from_slice(&bytes))?;
        Some((size, aligned))
    }
}

// `static IMAGES: &[Image]`, written by build.rs.
include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The embedded images: kernel file (without `.cu`) and what it was compiled for.
#[cfg_attr(not(feature = "torch"), allow(dead_code, reason = "only the torch library's build info lists them"))]
pub fn images() -> impl Iterator<Item = (&'static str, Arch)> {
    IMAGES.iter().map(|image| (image.file, image.arch))
}

/// The image that a device runs: machine code of its own generation, the newest that it understands, else PTX.
pub fn choose(capability: u32, available: impl Iterator<Item = Arch> + Clone) -> Option<Arch> {
    // Orin's GPU runs only machine code made for it, although its number continues that of the desktop's.
    const ORIN: u32 = 87;
    let runs = |number: u32| {
        number == capability || capability != ORIN && number / 10 == capability / 10 && number < capability
    };
    let cubins = available.clone().filter(|arch| matches!(arch, Arch::Sm(number) if runs(*number)));
    let ptx = available.filter(|arch| matches!(arch, Arch::Compute(number) if *number <= capability));
    cubins.max().or_else(|| ptx.max())
}

/// A kernel that is ready to launch on one device.
#[derive(Clone, Copy)]
struct Ready {
    function: sys::CUfunction,
    context: sys::CUcontext,
    /// Its launch may come before the kernels ahead of it are done: it waits for them itself (`begin` in the kernels).
    overlaps: bool,
}

// SAFETY: both are handles that live as long as the process (nothing here releases them) and that the driver lets any
// thread use.
unsafe impl Send for Ready {}
// SAFETY: as for `Send`.
unsafe impl Sync for Ready {}

/// A device with its primary context, the one that torch uses.
#[derive(Clone, Copy)]
struct Device {
    capability: u32,
    context: sys::CUcontext,
    /// The driver lets a kernel begin before those ahead of it are done, also in a graph that is captured.
    overlaps: bool,
}

/// What the driver has been asked for so far.
struct Loaded {
    devices: BTreeMap<i32, Device>,
    libraries: BTreeMap<(&'static str, Arch), sys::CUlibrary>,
}

// SAFETY: handles that live as long as the process and that the driver lets any thread use.
unsafe impl Send for Loaded {}

/// A kernel that this thread has launched.
#[derive(Clone, Copy)]
struct Recent {
    device: i32,
    file: &'static str,
    kernel: &'static str,
    ready: Ready,
}

/// Kernels that a thread remembers; one that shares its place with another is looked up in `READY`.
const RECENT_PLACES: usize = 64;

thread_local! {
    /// By the addresses of their names: no lock is taken and no text compared, which a tiny call would notice.
    static RECENT: [Cell<Option<Recent>>; RECENT_PLACES] = const { [const { Cell::new(None) }; RECENT_PLACES] };
}

/// Kernels by device, file and name, for the first launch of each on a thread.
static READY: RwLock<BTreeMap<(i32, &str, &str), Ready>> = RwLock::new(BTreeMap::new());

static LOADED: Mutex<Loaded> = Mutex::new(Loaded { devices: BTreeMap::new(), libraries: BTreeMap::new() });

/// Adds a kernel of the file `file` to a stream of torch's on `device`; a grid without blocks adds nothing.
///
/// `stream` is the `CUstream` as a number. `launch.shared_bytes` is at most 48 KiB, what a kernel may have unasked.
///
/// # Errors
///
/// [`Error::Unsupported`] without a driver, a device or an image for it; [`Error::Runtime`] with the driver's own name
/// of the error if it refuses.
///
/// # Safety
///
/// The kernel takes one struct by value, laid out as `P`. Every address in `params` is memory of `device` that stays
/// valid until the stream has run the kernel, and large enough for what the kernel does with it under `launch`.
/// `stream` is a live stream of the primary context of `device`.
pub unsafe fn launch<P: Copy>(
    op: &'static str,
    device: i32,
    stream: usize,
    file: &'static str,
    launch: &Launch,
    params: &P,
) -> Result<()> {
    if launch.grid.contains(&0) {
        return Ok(());
    }
    let work = Work { op, device, file, kernel: launch.kernel };
    let ready = work.recent()?;
    let _current = Current::switch_to(ready.context).map_err(|error| work.refused("launch", error))?;
    let [x, y, z] = launch.grid;
    let [width, height, depth] = launch.block;
    let mut early: sys::CUlaunchAttribute = EARLY;
    let config = sys::CUlaunchConfig {
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: width,
        blockDimY: height,
        blockDimZ: depth,
        sharedMemBytes: launch.shared_bytes,
        hStream: stream as sys::CUstream,
        attrs: &mut early,
        numAttrs: u32::from(ready.overlaps),
    };
    let mut params = [ptr::from_ref(params).cast_mut().cast::<c_void>()];
    // SAFETY: the caller's promises; the driver copies the one parameter before it returns and only reads it.
    unsafe { sys::cuLaunchKernelEx(&config, ready.function, params.as_mut_ptr(), ptr::null_mut()) }
        .result()
        .map_err(|error| work.refused("launch", error))
}

/// Which kernel where, and for whom: the words of an error.
#[derive(Clone, Copy)]
struct Work {
    op: &'static str,
    device: i32,
    file: &'static str,
    kernel: &'static str,
}

impl Work {
    fn recent(&self) -> Result<Ready> {
        let same = |found: &Recent| {
            found.device == self.device && ptr::eq(found.file, self.file) && ptr::eq(found.kernel, self.kernel)
        };
        // Names are some 16 bytes long and lie side by side.
        let place = self.kernel.as_ptr().addr() / 16 % RECENT_PLACES;
        RECENT.with(|recent| match recent[place].get().filter(same) {
            Some(found) => Ok(found.ready),
            None => {
                let &Work { device, file, kernel, .. } = self;
                let ready = self.ready()?;
                recent[place].set(Some(Recent { device, file, kernel, ready }));
                Ok(ready)
            }
        })
    }

    fn ready(&self) -> Result<Ready> {
        let key = (self.device, self.file, self.kernel);
        if let Some(ready) = READY.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*ready);
        }
        start().as_ref().map_err(|text| Error::Unsupported(format!("{}: {text}", self.op)))?;
        // One thread loads at a time; another that wants the same kernel then finds its library loaded.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        // Loading allocates, which the stream of a graph capture on this thread would otherwise forbid.
        let _relaxed = Relaxed::start().map_err(|error| self.refused("load", error))?;
        let device = self.device(&mut loaded)?;
        let library = self.library(&mut loaded, device)?;
        let name = CString::new(self.kernel).map_err(|_| self.missing())?;
        let mut kernel = ptr::null_mut();
        // SAFETY: the library is loaded, the name ends in NUL, and a handle is written.
        let code = unsafe { sys::cuLibraryGetKernel(&mut kernel, library, name.as_ptr()) };
        match code.result() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)) => return Err(self.missing()),
            code => code.map_err(|error| self.refused("find", error))?,
        }
        // A launch takes the kernel of a library in place of a function, and runs it in the current context.
        let overlaps = device.overlaps && matches!(self.arch(device), Some(Arch::Sm(number)) if number >= 90);
        let ready = Ready { function: kernel.cast(), context: device.context, overlaps };
        READY.write().unwrap_or_else(PoisonError::into_inner).insert(key, ready);
        Ok(ready)
    }

    fn device(&self, loaded: &mut Loaded) -> Result<Device> {
        if let Some(device) = loaded.devices.get(&self.device) {
            return Ok(*device);
        }
        let device = open(self.device).map_err(|error| self.refused("find the device of", error))?;
        loaded.devices.insert(self.device, device);
        Ok(device)
    }

    /// What the image that the device runs was compiled for.
    fn arch(&self, device: Device) -> Option<Arch> {
        choose(device.capability, IMAGES.iter().filter(|image| image.file == self.file).map(|image| image.arch))
    }

    fn library(&self, loaded: &mut Loaded, device: Device) -> Result<sys::CUlibrary> {
        let arch = self.arch(device).ok_or_else(|| self.no_image(device))?;
        let is_it = |image: &&Image| image.file == self.file && image.arch == arch;
        let image = IMAGES.iter().find(is_it).ok_or_else(|| self.no_image(device))?;
        if let Some(library) = loaded.libraries.get(&(image.file, image.arch)) {
            return Ok(*library);
        }
        let mut library = ptr::null_mut();
        let none = ptr::null_mut();
        let damaged = || {
            let Work { op, file, .. } = self;
            Error::Runtime(format!("{op}: the {} image of {file}.cu must be whole, got a damaged library", image.arch))
        };
        // The driver may read it in place, as long as the process runs.
        let unpacked = image.unpack().ok_or_else(damaged)?.1.leak();
        // SAFETY: the image is a whole cubin, or PTX that ends in NUL, in memory that stays; there are no options.
        let code = unsafe {
            let bytes = unpacked.as_ptr().cast();
            sys::cuLibraryLoadData(&mut library, bytes, ptr::null_mut(), none, 0, ptr::null_mut(), ptr::null_mut(), 0)
        };
        code.result().map_err(|error| self.refused(&format!("load the {} image of", image.arch), error))?;
        loaded.libraries.insert((image.file, image.arch), library);
        Ok(library)
    }

    fn no_image(&self, device: Device) -> Error {
        let Work { op, device: index, .. } = self;
        if IMAGES.is_empty() {
            return Error::Unsupported(format!(
                "{op}: this library was built without CUDA kernels, got a tensor on cuda:{index}"
            ));
        }
        let (major, minor) = (device.capability / 10, device.capability % 10);
        Error::Unsupported(format!(
            "{op}: cuda:{index} must have compute capability 8.0 or higher, got {major}.{minor}"
        ))
    }

    fn missing(&self) -> Error {
        let Work { op, file, kernel, .. } = self;
        Error::Unsupported(format!("{op}: the images of {file}.cu must hold the kernel {kernel}, found none"))
    }

    fn refused(&self, what: &str, error: DriverError) -> Error {
        let Work { op, device, kernel, .. } = self;
        Error::Runtime(format!("{op}: the driver could not {what} {kernel} on cuda:{device}: {}", describe(error)))
    }
}

/// `CUDA_ERROR_INVALID_VALUE (invalid argument)`.
fn describe(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", name.to_string_lossy(), text.to_string_lossy()),
        _ => format!("{:?}", error.0),
    }
}

/// Loads the driver once; the text of the error has no operator's name in front.
fn start() -> &'static std::result::Result<(), String> {
    static STARTED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    STARTED.get_or_init(|| {
        // SAFETY: loading the driver runs its constructors, as torch's own load of it does.
        if !unsafe { sys::is_culib_present() } {
            return Err("no CUDA driver was found on this machine".to_owned());
        }
        // cudarc panics on a function that the driver lacks. This is the newest of those called here (CUDA 12.0).
        // SAFETY: the driver is there, so this does not panic, and the address is only looked up.
        if unsafe { sys::culib().get::<*const c_void>(b"cuLibraryGetKernel\0") }.is_err() {
            return Err("the CUDA driver must be of CUDA 12.0 or later, got an older one".to_owned());
        }
        result::init().map_err(|error| format!("the CUDA driver could not start: {}", describe(error)))
    })
}

/// Asks the driver about a device and keeps its primary context alive for the rest of the process.
fn open(index: i32) -> std::result::Result<Device, DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(index)?;
    // SAFETY: the driver has just given this device.
    let (major, minor, context) = unsafe {
        let attribute = |name| result::device::get_attribute(device, name);
        (attribute(MAJOR)?, attribute(MINOR)?, result::primary_ctx::retain(device)?)
    };
    let mut version = 0;
    // SAFETY: a number is written.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    let overlaps = version >= OVERLAPPING_DRIVER;
    Ok(Device { capability: major.unsigned_abs() * 10 + minor.unsigned_abs(), context, overlaps })
}

/// CUDA 12.3, the first whose graph captures keep launches that begin early.
const OVERLAPPING_DRIVER: i32 = 12_030;

/// Lets a launch begin when every block of the kernel ahead has begun, not when it is done (programmatic dependent
/// launch). Machine code for 9.0 and later waits by itself for what is ahead to be done before it touches memory.
const EARLY: sys::CUlaunchAttribute = sys::CUlaunchAttribute {
    id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
    pad: [0; 4],
    value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
};

/// The context that was current on this thread, put back when dropped.
struct Current {
    previous: Option<sys::CUcontext>,
}

impl Current {
    /// Torch has made the device's context current, except on a thread that has not touched CUDA yet.
    fn switch_to(context: sys::CUcontext) -> std::result::Result<Option<Current>, DriverError> {
        let previous = result::ctx::get_current()?;
        if previous == Some(context) {
            return Ok(None);
        }
        // SAFETY: a retained primary context, which stays alive.
        unsafe { result::ctx::set_current(context) }?;
        Ok(Some(Current { previous }))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // SAFETY: it was current when this began; null leaves none current. A failure would show at the next call.
        let _ = unsafe { result::ctx::set_current(self.previous.unwrap_or(ptr::null_mut())) };
    }
}

/// This thread may call what a graph capture elsewhere in the process forbids, until this is dropped.
struct Relaxed {
    mode: sys::CUstreamCaptureMode,
}

impl Relaxed {
    fn start() -> std::result::Result<Relaxed, DriverError> {
        let mut relaxed = Relaxed { mode: sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED };
        relaxed.exchange()?;
        Ok(relaxed)
    }

    fn exchange(&mut self) -> std::result::Result<(), DriverError> {
        // SAFETY: the driver swaps this thread's mode with the one in the variable.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut self.mode) }.result()
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        // Swaps the thread's own mode back; a failure would show at the next call.
        let _ = self.exchange();
    }
}

#[cfg(test)]
mod tests {
    use super::Arch::{Compute, Sm};
    use super::*;

    const BUILT: [Arch; 7] = [Sm(80), Sm(86), Sm(89), Sm(90), Sm(100), Sm(120), Compute(80)];

    #[test]
    fn a_device_runs_the_newest_machine_code_that_it_understands() {
        let cases = [
            (75, None),
            (80, Some(Sm(80))),
            (86, Some(Sm(86))),
            (87, Some(Compute(80))), // Orin
            (89, Some(Sm(89))),
            (90, Some(Sm(90))),
            (100, Some(Sm(100))),
            (103, Some(Sm(100))),
            (110, Some(Compute(80))),
            (120, Some(Sm(120))),
            (121, Some(Sm(120))),
        ];
        for (capability, expected) in cases {
            assert_eq!(choose(capability, BUILT.into_iter()), expected, "capability {capability}");
        }
        assert_eq!(choose(90, [].into_iter()), None);
    }

    #[test]
    fn every_file_is_built_for_the_same_targets_and_images_are_whole() {
        let mut files: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for image in IMAGES {
            files.entry(image.file).or_default().push(image.arch);
            let (size, unpacked) = image.unpack().expect("whole");
            // SAFETY: the numbers' own bytes.
            let bytes = unsafe { std::slice::from_raw_parts(unpacked.as_ptr().cast::<u8>(), size) };
            match image.arch {
                Sm(_) => assert!(bytes.starts_with(b"\x7fELF")),
                Compute(_) => assert_eq!(bytes.last(), Some(&0)),
            }
        }
        let mut targets = files.values();
        if let Some(first) = targets.next() {
            assert!(targets.all(|each| each == first));
        }
    }

    #[test]
    fn a_machine_without_a_driver_is_told_so() {
        let shape = Launch { kernel: "none", grid: [1, 1, 1], block: [1, 1, 1], shared_bytes: 0 };
        // SAFETY: no image has this file, so nothing is launched.
        let error = unsafe { launch("resample", 0, 0, "none", &shape, &0_u8) }.unwrap_err();
        assert!(error.text().starts_with("resample: "), "{error}");
        let empty = Launch { grid: [0, 1, 1], ..shape };
        // SAFETY: a grid without blocks launches nothing.
        assert_eq!(unsafe { launch("resample", 0, 0, "none", &empty, &0_u8) }, Ok(()));
    }
}
