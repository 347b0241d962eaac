//! The kernel images that the build embedded: what each was compiled for, and which of them a device runs.

use std::fmt;

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

/// A kernel file, compiled for one target.
pub(super) struct Image {
    pub(super) file: &'static str,
    pub(super) arch: Arch,
    /// Its size in 8 bytes, then the image compressed: machine code for six targets with line tables is large.
    packed: &'static [u8],
}

impl Image {
    /// The size of the image as the driver reads it, and its bytes, aligned to 16; `None` where the library is damaged.
    pub(super) fn unpack(&self) -> Option<(usize, Vec<u128>)> {
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
pub fn images() -> impl Iterator<Item = (&'static str, Arch)> {
    IMAGES.iter().map(|image| (image.file, image.arch))
}

/// Those of one kernel file.
pub(super) fn of(file: &str) -> impl Iterator<Item = &'static Image> + Clone {
    IMAGES.iter().filter(move |image| image.file == file)
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

#[cfg(test)]
mod tests {
    use super::Arch::{Compute, Sm};
    use super::*;
    use std::collections::BTreeMap;

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
}
