//! A CUDA device and its memory for the tests, or why there is none.

use crate::definition::Mode;
use crate::random::Case;
use crate::random::array::{difference, same};
use crate::random::run::{Host, Memory, Op, run};
use cudarc::driver::{result, sys};
use robocache::{Place, Serial, Stream};
use std::cell::RefCell;
use std::io::Write;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The first device, its primary context and two streams: the default one and another.
pub struct Device {
    context: usize,
    streams: [usize; 2],
    pub emulated: bool,
}

/// The device, or why there is none.
fn device() -> Result<&'static Device, &'static str> {
    static DEVICE: OnceLock<Result<Device, &'static str>> = OnceLock::new();
    let open = || {
        // SAFETY: loading the driver runs its constructors only.
        if !unsafe { sys::is_culib_present() } {
            return Err("no CUDA driver was found on this machine");
        }
        result::init().map_err(|_| "the CUDA driver could not start")?;
        let device = result::device::get(0).map_err(|_| "the CUDA driver has no device")?;
        // SAFETY: the device is the driver's own; its context is kept for the rest of the process.
        let context = unsafe { result::primary_ctx::retain(device) }.unwrap();
        // SAFETY: as above.
        unsafe { result::ctx::set_current(context) }.unwrap();
        let other = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        let emulated = result::device::get_name(device).unwrap() == "RoboCache emulator";
        Ok(Device { context: context.addr(), streams: [0, other.addr()], emulated })
    };
    DEVICE.get_or_init(open).as_ref().map_err(|why| *why)
}

/// The device with its context current on this thread; `None`, aloud, where a test must be skipped.
pub fn begin(test: &str) -> Option<&'static Device> {
    match device() {
        Ok(device) => {
            device.enter();
            Some(device)
        }
        Err(why) => {
            assert!(std::env::var("ROBOCACHE_REQUIRE_CUDA").as_deref() != Ok("1"), "{test} needs CUDA: {why}");
            skip(test, why);
            None
        }
    }
}

/// Past the capture of the test harness, which hides what a passing test prints.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// Device memory, each upload in an allocation of its own and of its exact size.
pub struct Gpu {
    stream: usize,
    kept: RefCell<Vec<sys::CUdeviceptr>>,
}

impl Device {
    /// Makes it current on this thread.
    pub fn enter(&self) {
        // SAFETY: a retained primary context.
        unsafe { result::ctx::set_current(self.context as sys::CUcontext) }.unwrap();
    }
}

impl Gpu {
    pub fn new(device: &Device, index: u64) -> Gpu {
        Gpu { stream: device.streams[index as usize % 2], kept: RefCell::default() }
    }
}

impl Memory for Gpu {
    /// Of no bytes a null address, as that of a tensor of torch's without elements.
    fn upload(&self, bytes: &[u8]) -> *mut u8 {
        if bytes.is_empty() {
            return std::ptr::null_mut();
        }
        // SAFETY: the context is current (`begin`); the allocation has room for the bytes.
        let address = unsafe {
            let address = result::malloc_sync(bytes.len()).unwrap();
            result::memcpy_htod_sync(address, bytes).unwrap();
            address
        };
        self.kept.borrow_mut().push(address);
        address as usize as *mut u8
    }

    fn download(&self, address: *const u8, bytes: usize) -> Vec<u8> {
        let mut found = vec![0; bytes];
        if bytes == 0 {
            return found;
        }
        // SAFETY: the stream is live; the address and size are within an upload.
        unsafe {
            result::stream::synchronize(self.stream as sys::CUstream).expect("the stream ran its work");
            result::memcpy_dtoh_sync(&mut found, address.addr() as sys::CUdeviceptr).unwrap();
        }
        found
    }

    fn place(&self) -> Place<'_> {
        // SAFETY: `run` uploads every view to this memory and keeps it until it has downloaded the result.
        unsafe { Place::cuda(Stream { device: 0, handle: self.stream }) }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        for address in self.kept.take() {
            // SAFETY: from `malloc_sync`, freed once; freeing waits for the device. The emulator then looks at guards.
            let freed = unsafe { result::free_sync(address) };
            assert!(freed.is_ok() || std::thread::panicking(), "{freed:?}");
        }
    }
}

/// The most runs of linear channels that a time gradient takes on CUDA.
pub const MOST_RUNS: usize = 224;

/// Every operator that the case has, here and there.
pub fn compare(device: &Device, index: u64, case: &Case) {
    let runs = case.modes.chunk_by(|a, b| a == b).filter(|run| run[0] == Mode::Linear).count();
    for op in Op::of(case).into_iter().filter(|&op| op != Op::TimeGrad || runs <= MOST_RUNS) {
        let wanted = run(case, op, &Host::new(&Serial)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
        let found = run(case, op, &Gpu::new(device, index)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
        let dtype = op.dtype(case);
        assert!(same(dtype, &found, &wanted), "case {index} {op:?}: {}\n{case:?}", difference(dtype, &found, &wanted));
    }
}

/// One test of this program, in a process of its own with another environment.
pub fn alone(test: &str, environment: &[(&str, Option<&str>)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored", "--nocapture"]);
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.output().unwrap()
}

pub fn assert_passed(output: &Output, what: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{what}:\n{text}\n{errors}");
}
