//! The launch of embedded kernels: with `cuda/driver.rs` the only caller of the CUDA driver.
//!
//! Torch owns memory, contexts and streams. This module adds a kernel to a stream of torch's, and nothing else.
//! The driver is loaded at run time, so one library serves machines with and without it.

mod driver;
mod images;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Mutex, PoisonError, RwLock};

use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use crate::error::{Error, Result};
use crate::launch::Launch;
use driver::{Current, Device, Relaxed, describe, open, start};
use images::Arch;
pub use images::images;

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
        images::choose(device.capability, images::of(self.file).map(|image| image.arch))
    }

    fn library(&self, loaded: &mut Loaded, device: Device) -> Result<sys::CUlibrary> {
        let arch = self.arch(device).ok_or_else(|| self.no_image(device))?;
        let image = images::of(self.file).find(|image| image.arch == arch).ok_or_else(|| self.no_image(device))?;
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
        if images().next().is_none() {
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

/// Lets a launch begin when every block of the kernel ahead has begun, not when it is done (programmatic dependent
/// launch). Machine code for 9.0 and later waits by itself for what is ahead to be done before it touches memory.
const EARLY: sys::CUlaunchAttribute = sys::CUlaunchAttribute {
    id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
    pad: [0; 4],
    value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
};

#[cfg(test)]
mod tests {
    use super::*;

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
