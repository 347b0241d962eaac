//! Finds torch by the variables that tch's own build script reads, in its order, so that the two always agree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The only minor version that works: tch 0.24 is generated from it, and torch keeps no C++ ABI between minor versions.
const VERSION: &str = "2.11";

pub const NOT_FOUND: &str = "\
torch was not found, and the feature `torch` needs it: version 2.11.x (tch 0.24 pairs with it). Either
  set LIBTORCH_USE_PYTORCH=1 with the torch of the `python3` on PATH (pip install torch==2.11.0), or
  set LIBTORCH to an unpacked libtorch 2.11.0 (https://pytorch.org/get-started/locally, C++, cxx11 ABI)";

// Reads version.py instead of importing torch: milliseconds instead of seconds, and it works where a driver is broken.
const ASK_PYTHON: &str = "\
import importlib.util, os, runpy
spec = importlib.util.find_spec('torch')
if spec and spec.origin:
    print(os.path.dirname(os.path.realpath(spec.origin)))
";

/// One torch installation.
#[derive(Debug, PartialEq, Eq)]
pub struct Torch {
    /// `2.11.0`, without the local part.
    pub version: String,
    /// The CUDA version it was built with (`13.0`), or `unknown`; `None` in a CPU-only build.
    pub cuda: Option<String>,
    /// The folder that holds `lib`: the libtorch folder, or the Python package.
    pub root: PathBuf,
    /// Include folders, in order.
    pub includes: Vec<PathBuf>,
    /// The folder of `libtorch_cpu.so`.
    pub lib: PathBuf,
    /// `1` or `0`: the value of `_GLIBCXX_USE_CXX11_ABI`.
    pub cxx11_abi: String,
    /// Changes when another torch is installed in the same place.
    pub version_file: PathBuf,
}

/// The torch that the variables name: `None` if they name none, an error if it is not there or of another version.
pub fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Torch>, String> {
    let python = variable("LIBTORCH_USE_PYTORCH").is_some();
    let (root, include, lib) = if python {
        let root = root_of_python(variable)?;
        (root.clone(), root.clone(), root)
    } else {
        let root = match variable("LIBTORCH") {
            Some(root) => PathBuf::from(root),
            None if Path::new("/usr/lib/libtorch.so").exists() => PathBuf::from("/usr"),
            None => return Ok(None),
        };
        let part = |name| variable(name).map_or_else(|| root.clone(), PathBuf::from);
        (root.clone(), part("LIBTORCH_INCLUDE"), part("LIBTORCH_LIB"))
    };
    let torch = describe(&root, &include.join("include"), &lib.join("lib"))?;
    if variable("LIBTORCH_BYPASS_VERSION_CHECK").is_none() {
        check_version(&torch.version, &root)?;
    }
    let cxx11_abi = if python { None } else { variable("LIBTORCH_CXX11_ABI") };
    Ok(Some(Torch { cxx11_abi: cxx11_abi.unwrap_or(torch.cxx11_abi), ..torch }))
}

/// The Python that tch asks: `python` in an active virtual environment, else `python3`.
pub fn python(variable: &dyn Fn(&str) -> Option<String>) -> &'static str {
    if variable("VIRTUAL_ENV").is_some() { "python" } else { "python3" }
}

fn root_of_python(variable: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, String> {
    let python = python(variable);
    let output = Command::new(python)
        .args(["-c", ASK_PYTHON])
        .output()
        .map_err(|error| format!("LIBTORCH_USE_PYTORCH is set, but `{python}` could not be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last() {
        Some(root) if output.status.success() => Ok(PathBuf::from(root)),
        _ => Err(format!(
            "LIBTORCH_USE_PYTORCH is set, but `{python}` has no torch: pip install torch==2.11.0\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

fn describe(root: &Path, include: &Path, lib: &Path) -> Result<Torch, String> {
    if !lib.join("libtorch_cpu.so").exists() {
        return Err(format!(
            "no libtorch_cpu.so in {}: LIBTORCH must name a libtorch folder\n{NOT_FOUND}",
            lib.display()
        ));
    }
    let header = include.join("torch/headeronly/version.h");
    let (version_file, full) = [root.join("version.py"), root.join("build-version"), header]
        .into_iter()
        .find_map(|file| fs::read_to_string(&file).ok().and_then(|text| Some((file, version_in(&text)?))))
        .ok_or_else(|| format!("no version.py, build-version or version.h of torch in {}", root.display()))?;
    let (version, local) = full.split_once('+').unwrap_or((&full, ""));
    let cuda = lib.join("libtorch_cuda.so").exists().then(|| cuda_in(local).unwrap_or_else(|| "unknown".to_owned()));
    Ok(Torch {
        version: version.to_owned(),
        cuda,
        root: root.to_owned(),
        includes: vec![include.to_owned(), include.join("torch/csrc/api/include")],
        lib: lib.to_owned(),
        // Every published 2.11 has the new ABI.
        cxx11_abi: "1".to_owned(),
        version_file,
    })
}

/// The version in the text of `version.py`, `build-version` or `version.h`.
pub fn version_in(text: &str) -> Option<String> {
    let define = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("#define TORCH_VERSION_{name} ")))?;
        line.rsplit(' ').next().map(str::to_owned)
    };
    if let (Some(major), Some(minor), Some(patch)) = (define("MAJOR"), define("MINOR"), define("PATCH")) {
        return Some(format!("{major}.{minor}.{patch}"));
    }
    if let Some(line) = text.lines().find_map(|line| line.strip_prefix("__version__ = ")) {
        return Some(line.trim_matches(['\'', '"']).to_owned());
    }
    let line = text.trim();
    line.starts_with(|first: char| first.is_ascii_digit()).then(|| line.to_owned())
}

/// `13.0` from the local version `cu130`.
pub fn cuda_in(local: &str) -> Option<String> {
    let digits = local.strip_prefix("cu")?;
    let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
    (digits.parse::<u32>().is_ok() && !major.is_empty()).then(|| format!("{major}.{minor}"))
}

/// Refuses a torch of another minor version.
pub fn check_version(version: &str, root: &Path) -> Result<(), String> {
    let same = version.strip_prefix(VERSION).is_some_and(|rest| rest.starts_with('.'));
    if same {
        return Ok(());
    }
    Err(format!(
        "torch must be {VERSION}.x (tch 0.24 pairs with it), got {version} at {}: pip install torch=={VERSION}.0, \
         or set LIBTORCH_BYPASS_VERSION_CHECK=1 to try it all the same",
        root.display()
    ))
}
