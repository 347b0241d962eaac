//! What is asked of the CUDA driver but launches: whether it is there, its devices, the context and capture mode of a
//! thread.

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

/// A device with its primary context, the one that torch uses.
#[derive(Clone, Copy)]
pub(super) struct Device {
    pub(super) capability: u32,
    pub(super) context: sys::CUcontext,
    /// The driver lets a kernel begin before those ahead of it are done, also in a graph that is captured.
    pub(super) overlaps: bool,
}

/// `CUDA_ERROR_INVALID_VALUE (invalid argument)`.
pub(super) fn describe(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", name.to_string_lossy(), text.to_string_lossy()),
        _ => format!("{:?}", error.0),
    }
}

/// Loads the driver once; the text of the error has no operator's name in front.
pub(super) fn start() -> &'static std::result::Result<(), String> {
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
pub(super) fn open(index: i32) -> std::result::Result<Device, DriverError> {
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

/// The context that was current on this thread, put back when dropped.
pub(super) struct Current {
    previous: Option<sys::CUcontext>,
}

impl Current {
    /// Torch has made the device's context current, except on a thread that has not touched CUDA yet.
    pub(super) fn switch_to(context: sys::CUcontext) -> std::result::Result<Option<Current>, DriverError> {
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
pub(super) struct Relaxed {
    mode: sys::CUstreamCaptureMode,
}

impl Relaxed {
    pub(super) fn start() -> std::result::Result<Relaxed, DriverError> {
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
