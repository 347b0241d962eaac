//! CUDA's driver and the images of the kernels: no driver, no device, no context, and the capabilities of devices.
//!
//! As in `tests/cuda.rs`, each test is skipped aloud without a driver.

#![cfg(feature = "cuda")]

mod definition;
mod device;
mod random;

use cudarc::driver::{result, sys};
use device::{Gpu, alone, assert_passed, begin, compare, skip};
use random::run::Memory;
use random::{Case, FLOATING};
use robocache::{DType, Error, Place, Stream, View, ViewMut, resample};

/// The smallest call on a stream; its answer is 1.5.
fn smallest(memory: &Gpu) -> Result<f32, Error> {
    let values = memory.upload(&[1f32, 2.0].map(f32::to_le_bytes).concat());
    let times = memory.upload(&[0f64, 1.0].map(f64::to_le_bytes).concat());
    let target = memory.upload(&0.5f64.to_le_bytes());
    let output = memory.upload(&[0; 4]);
    smallest_at([values, times, target, output], memory)?;
    Ok(f32::from_le_bytes(memory.download(output, 4).try_into().unwrap()))
}

fn smallest_at([values, times, target, output]: [*mut u8; 4], memory: &Gpu) -> Result<(), Error> {
    // SAFETY: the caller's memory holds two values, two times, one target and one result.
    let (values, times, target, output) = unsafe {
        (
            View::from_raw(values, DType::F32, &[2], &[1]).unwrap(),
            View::from_raw(times, DType::F64, &[2], &[1]).unwrap(),
            View::from_raw(target, DType::F64, &[1], &[1]).unwrap(),
            &mut ViewMut::from_raw(output, DType::F32, &[1]).unwrap(),
        )
    };
    resample(values, times, target, "linear", "hold", None, output, &memory.place())
}

#[test]
fn a_thread_without_a_context_launches_and_stays_without() {
    let Some(device) = begin("a_thread_without_a_context_launches_and_stays_without") else { return };
    let launch = || {
        let memory = Gpu::new(device, 0);
        let addresses = [&[0u8; 8][..], &[0; 16], &[0; 8], &[0; 4]].map(|bytes| memory.upload(bytes));
        // SAFETY: no context is current after this, as on a new thread.
        unsafe { result::ctx::set_current(std::ptr::null_mut()) }.unwrap();
        smallest_at(addresses, &memory).unwrap();
        assert_eq!(result::ctx::get_current().unwrap(), None);
        device.enter();
        memory.download(addresses[3], 4)
    };
    assert_eq!(launch(), [0; 4]);
}

/// The error of a call that must be refused before anything is written.
fn refused(place: &Place) -> Error {
    let (values, times, target, mut output) = ([1f32, 2.0], [0f64, 1.0], [0.5f64], [7f32]);
    let result = resample(
        View::new(&values, &[2]).unwrap(),
        View::new(&times, &[2]).unwrap(),
        View::new(&target, &[1]).unwrap(),
        "linear",
        "hold",
        None,
        &mut ViewMut::new(&mut output, &[1]).unwrap(),
        place,
    );
    assert_eq!(output, [7.0]);
    result.unwrap_err()
}

#[test]
fn a_device_that_is_not_there_is_the_drivers_error() {
    let Some(_) = begin("a_device_that_is_not_there_is_the_drivers_error") else { return };
    // SAFETY: no such device, so nothing runs.
    let error = refused(&unsafe { Place::cuda(Stream { device: 99, handle: 0 }) });
    assert_eq!(error.kind(), "RuntimeError");
    assert!(error.text().starts_with("resample: the driver could not find the device of resample_f64_f32"), "{error}");
    assert!(error.text().contains("CUDA_ERROR_INVALID_DEVICE"), "{error}");
}

#[test]
fn a_machine_without_a_driver_says_so() {
    // Without the emulator's folder there is none, unless this machine has a real one.
    let output = alone("without_a_driver", &[("LD_LIBRARY_PATH", None), ("ROBOCACHE_REQUIRE_CUDA", None)]);
    assert_passed(&output, "without a driver");
}

#[test]
#[ignore = "run by a_machine_without_a_driver_says_so"]
fn without_a_driver() {
    // SAFETY: loading the driver runs its constructors only.
    if unsafe { sys::is_culib_present() } {
        return skip("without_a_driver", "this machine has a CUDA driver");
    }
    // SAFETY: without a driver nothing runs.
    let error = refused(&unsafe { Place::cuda(Stream { device: 0, handle: 0 }) });
    assert_eq!(error, Error::Unsupported("resample: no CUDA driver was found on this machine".to_owned()));
}

#[test]
fn every_compute_capability_finds_its_image() {
    let Some(device) = begin("every_compute_capability_finds_its_image") else { return };
    if !device.emulated {
        return skip("every_compute_capability_finds_its_image", "a real device has the capability that it has");
    }
    for capability in ["8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"] {
        let output = alone("one_capability", &[("ROBOCACHE_EMULATOR_CAPABILITY", Some(capability))]);
        assert_passed(&output, capability);
    }
    let output = alone("an_old_device_is_refused", &[("ROBOCACHE_EMULATOR_CAPABILITY", Some("7.5"))]);
    assert_passed(&output, "7.5");
}

#[test]
#[ignore = "run by every_compute_capability_finds_its_image"]
fn one_capability() {
    let Some(device) = begin("one_capability") else { return };
    assert_eq!(smallest(&Gpu::new(device, 0)), Ok(1.5));
    (0..20).for_each(|index| compare(device, index, &Case::random(index, &FLOATING)));
}

#[test]
#[ignore = "run by every_compute_capability_finds_its_image"]
fn an_old_device_is_refused() {
    let Some(device) = begin("an_old_device_is_refused") else { return };
    let text = "resample: cuda:0 must have compute capability 8.0 or higher, got 7.5";
    assert_eq!(smallest(&Gpu::new(device, 0)), Err(Error::Unsupported(text.to_owned())));
}
