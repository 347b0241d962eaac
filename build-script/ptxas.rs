//! Finds ptxas, CUDA's assembler, and calls it: with it the kernels are compiled to PTX once for several devices, and
//! assembled for each. NVRTC does both for every device anew, and without ptxas it does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, process};

/// A ptxas that knows NVRTC's PTX.
pub struct Ptxas {
    program: PathBuf,
    /// `13.0.88`.
    pub version: String,
}

/// The ptxas of the folder that NVRTC's lies in, or of `CUDA_HOME`, if it is as new as NVRTC.
pub fn find(nvrtc_lib: &Path, nvrtc: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<Ptxas> {
    let home = variable("CUDA_HOME").or_else(|| variable("CUDA_PATH")).map(PathBuf::from);
    // Of the wheels, nvidia/cu13/{bin,lib}; nvidia/cuda_nvcc/bin beside nvidia/cuda_nvrtc/lib before CUDA 13.
    let beside = nvrtc_lib.ancestors().skip(1).take(2).flat_map(|folder| [folder.to_owned(), folder.join("cuda_nvcc")]);
    let programs = beside.chain(home).map(|folder| folder.join("bin/ptxas"));
    programs.filter(|program| program.is_file()).find_map(|program| {
        let output = Command::new(&program).arg("--version").output().ok()?;
        let version = version(&String::from_utf8_lossy(&output.stdout))?.to_owned();
        (release(&version)? >= release(nvrtc)?).then_some(Ptxas { program, version })
    })
}

/// `13.0.88`, of `Cuda compilation tools, release 13.0, V13.0.88`.
fn version(text: &str) -> Option<&str> {
    text.split(", V").nth(1)?.split_whitespace().next()
}

/// Major and minor number.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

impl Ptxas {
    /// Machine code for `sm_*`, and what the assembler had to say; with `lines`, for tools that show the source.
    pub fn assemble(&self, ptx: &Path, arch: &str, lines: bool) -> Result<(Vec<u8>, String), String> {
        let image = ptx.with_extension(format!("{arch}.{}", process::id()));
        let mut command = Command::new(&self.program);
        command.arg(ptx).args(["--gpu-name", arch, "--fmad=false"]).args(lines.then_some("--generate-line-info"));
        let text = |error| format!("{} for {arch}: {error}", ptx.display());
        let output = command.arg("--output-file").arg(&image).output().map_err(|error| text(error.to_string()))?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(text(format!("{} failed: {log}", self.program.display())));
        }
        let bytes = fs::read(&image).and_then(|bytes| fs::remove_file(&image).map(|()| bytes));
        Ok((bytes.map_err(|error| text(error.to_string()))?, log))
    }
}
