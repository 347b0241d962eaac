//! Finds NVRTC, CUDA's run-time compiler, and calls it: no CUDA toolkit is needed beside a torch with CUDA.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, mem, ptr};

use crate::torch;

const NOT_FOUND: &str = "\
NVRTC, which compiles the CUDA kernels, was not found beside torch or in CUDA_HOME. Either
  install it into the same Python, in the CUDA version of torch: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime
  (for CUDA 12: nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12), or
  set CUDA_HOME to a CUDA toolkit (12.8 or later knows every architecture), or
  set ROBOCACHE_CUDA=0 to build a CPU-only library on purpose";

const ASK_PYTHON: &str = "\
import sysconfig
print(sysconfig.get_path('purelib'))
print(sysconfig.get_path('platlib'))
";

type Program = *mut c_void;

/// A loaded NVRTC and the CUDA headers that go with it.
pub struct Nvrtc {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    arch_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    archs: unsafe extern "C" fn(*mut c_int) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log: Getter,
    cubin: Getter,
    ptx: Getter,
    /// The folder that it was found in.
    pub lib: PathBuf,
    /// Folders of `cuda_fp16.h` and its like.
    pub includes: Vec<PathBuf>,
}

/// A pair of NVRTC functions that return a buffer: its size, then its bytes.
#[derive(Clone, Copy)]
struct Getter {
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    bytes: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

/// Where NVRTC may be: a folder of libraries and the headers that belong to them.
struct Place {
    lib: PathBuf,
    includes: Vec<PathBuf>,
}

/// Loads the NVRTC beside torch, else the one in the Python environment, else the one of `CUDA_HOME`.
pub fn find(torch: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Result<Nvrtc, String> {
    let cuda_home = variable("CUDA_HOME").or_else(|| variable("CUDA_PATH")).map(PathBuf::from);
    let mut headers_only = None;
    for place in places(torch, cuda_home.as_deref(), variable) {
        let Some(library) = newest(&place.lib, "libnvrtc") else {
            continue;
        };
        let includes: Vec<_> =
            place.includes.into_iter().filter(|folder| folder.join("cuda_fp16.h").exists()).collect();
        if includes.is_empty() {
            headers_only = Some(format!(
                "NVRTC is at {}, but the CUDA headers (cuda_fp16.h) are not beside it: pip install nvidia-cuda-runtime \
                 in the same version, or set CUDA_HOME",
                library.display()
            ));
            continue;
        }
        return load(&library, newest(&place.lib, "libnvrtc-builtins").as_deref(), place.lib, includes);
    }
    Err(headers_only.unwrap_or_else(|| NOT_FOUND.to_owned()))
}

fn places(torch: Option<&Path>, cuda_home: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Vec<Place> {
    let home_includes: Vec<_> = cuda_home.iter().map(|home| home.join("include")).collect();
    let mut places = Vec::new();
    for site in sites(torch, variable) {
        // nvidia/cu13/{lib,include} since CUDA 13; nvidia/cuda_nvrtc/lib and nvidia/cuda_runtime/include before.
        let mut parts: Vec<_> = fs::read_dir(site.join("nvidia"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        parts.sort();
        for part in &parts {
            let includes = [part.join("include"), site.join("nvidia/cuda_runtime/include")];
            places.push(Place {
                lib: part.join("lib"),
                includes: includes.into_iter().chain(home_includes.clone()).collect(),
            });
        }
    }
    // An unpacked libtorch carries NVRTC among its own libraries, but no CUDA headers.
    places.extend(torch.map(|root| Place { lib: root.join("lib"), includes: home_includes.clone() }));
    for lib in ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"] {
        places.extend(cuda_home.map(|home| Place { lib: home.join(lib), includes: home_includes.clone() }));
    }
    places
}

/// Folders that may hold the `nvidia` package: the one around torch, or those of the Python that would be asked for it.
fn sites(torch: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(torch) = torch {
        return torch.parent().map(Path::to_owned).into_iter().collect();
    }
    let output = Command::new(torch::python(variable)).args(["-c", ASK_PYTHON]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(PathBuf::from).collect()
}

/// The file `STEM.so*` or `STEM-HASH.so*` in a folder with the highest name; `.alt.` builds are another flavour.
fn newest(folder: &Path, stem: &str) -> Option<PathBuf> {
    let fits = |name: &str| {
        let rest = name.strip_prefix(stem)?;
        let rest = match rest.strip_prefix('-') {
            Some(hash) if !hash.starts_with("builtins") => &hash[hash.find('.')?..],
            _ => rest,
        };
        rest.starts_with(".so").then_some(())
    };
    let mut names: Vec<OsString> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name()).collect();
    names.retain(|name| name.to_str().is_some_and(|name| fits(name).is_some()));
    names.sort();
    names.pop().map(|name| folder.join(name))
}

fn load(library: &Path, builtins: Option<&Path>, lib: PathBuf, includes: Vec<PathBuf>) -> Result<Nvrtc, String> {
    // NVRTC asks for its builtins by bare name, which the linker answers with a library that is loaded already.
    if let Some(builtins) = builtins {
        open(builtins, libc::RTLD_NOW | libc::RTLD_GLOBAL)?;
    }
    let handle = open(library, libc::RTLD_NOW | libc::RTLD_LOCAL)?;
    // SAFETY: the handle is open and never closed, and each type is the one that nvrtc.h declares for that name.
    unsafe {
        let pair = |size, bytes| -> Result<Getter, String> {
            Ok(Getter { size: symbol(handle, size)?, bytes: symbol(handle, bytes)? })
        };
        Ok(Nvrtc {
            version: symbol(handle, c"nvrtcVersion")?,
            error_string: symbol(handle, c"nvrtcGetErrorString")?,
            arch_count: symbol(handle, c"nvrtcGetNumSupportedArchs")?,
            archs: symbol(handle, c"nvrtcGetSupportedArchs")?,
            create: symbol(handle, c"nvrtcCreateProgram")?,
            compile: symbol(handle, c"nvrtcCompileProgram")?,
            destroy: symbol(handle, c"nvrtcDestroyProgram")?,
            log: pair(c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?,
            cubin: pair(c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?,
            ptx: pair(c"nvrtcGetPTXSize", c"nvrtcGetPTX")?,
            lib,
            includes,
        })
    }
}

fn open(library: &Path, flags: c_int) -> Result<*mut c_void, String> {
    let path = CString::new(library.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: the path ends in NUL; loading NVRTC runs its constructors, which is what a link against it would do.
    let handle = unsafe { libc::dlopen(path.as_ptr(), flags) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: dlopen has just failed on this thread, so dlerror returns a text.
    let reason = unsafe { CStr::from_ptr(libc::dlerror()) };
    Err(format!("{} could not be loaded: {}", library.display(), reason.to_string_lossy()))
}

/// # Safety
///
/// `handle` is an open library and `F` is the type of the function that it calls `name`.
unsafe fn symbol<F: Copy>(handle: *mut c_void, name: &CStr) -> Result<F, String> {
    // SAFETY: the caller's promise.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("NVRTC has no {}: version 11.2 or later is needed", name.to_string_lossy()));
    }
    const { assert!(mem::size_of::<F>() == mem::size_of::<*mut c_void>()) };
    // SAFETY: a function pointer has the size of an address (asserted), and its type is the caller's promise.
    Ok(unsafe { mem::transmute_copy(&address) })
}

impl Nvrtc {
    /// `13.0`.
    pub fn version(&self) -> String {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two integers to write.
        let code = unsafe { (self.version)(&mut major, &mut minor) };
        if code == 0 { format!("{major}.{minor}") } else { "unknown".to_owned() }
    }

    /// The compute capabilities that it compiles for, as `90` for 9.0.
    pub fn supported(&self) -> Result<Vec<u32>, String> {
        let mut count = 0;
        // SAFETY: one integer to write.
        self.check(unsafe { (self.arch_count)(&mut count) })?;
        let mut archs = vec![0; usize::try_from(count).map_err(|error| error.to_string())?];
        // SAFETY: room for as many integers as NVRTC has just named.
        self.check(unsafe { (self.archs)(archs.as_mut_ptr()) })?;
        Ok(archs.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect())
    }

    /// Compiles one source: machine code for `sm_*`, PTX for `compute_*`.
    /// Returns the image and what the compiler had to say.
    pub fn compile(
        &self,
        path: &Path,
        source: &str,
        arch: &str,
        options: &[String],
    ) -> Result<(Vec<u8>, String), String> {
        let name = path.display().to_string();
        let text = |text: &str| CString::new(text).map_err(|error| format!("{name}: {error}"));
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        let arch_option = text(&format!("--gpu-architecture={arch}"))?;
        let mut pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        pointers.push(arch_option.as_ptr());
        let count = c_int::try_from(pointers.len()).map_err(|error| error.to_string())?;
        let (name, source) = (text(&name)?, text(source)?);
        let mut program = ptr::null_mut();
        // SAFETY: both texts end in NUL and outlive the program, and no headers are passed.
        self.check(unsafe {
            (self.create)(&mut program, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null())
        })?;
        // SAFETY: the program was just made and `pointers` holds `count` texts that end in NUL.
        let code = unsafe { (self.compile)(program, count, pointers.as_ptr()) };
        let log =
            self.get(self.log, program).map(|log| String::from_utf8_lossy(&log).trim_matches(['\0', '\n']).to_owned());
        let image = match self.check(code) {
            Ok(()) if arch.starts_with("sm_") => self.get(self.cubin, program),
            // It ends with NUL, which an assembler does not know.
            Ok(()) => self.get(self.ptx, program).map(|mut text| {
                text.pop();
                text
            }),
            Err(error) => {
                Err(format!("{} for {arch}: {error}\n{}", name.to_string_lossy(), log.clone().unwrap_or_default()))
            }
        };
        // SAFETY: the program is not used again.
        unsafe { (self.destroy)(&mut program) };
        Ok((image?, log?))
    }

    fn get(&self, getter: Getter, program: Program) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: the program is alive, and a size is written.
        self.check(unsafe { (getter.size)(program, &mut size) })?;
        let mut bytes = vec![0_u8; size];
        // SAFETY: room for as many bytes as NVRTC has just named.
        self.check(unsafe { (getter.bytes)(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC returns a static text for every number.
        Err(unsafe { CStr::from_ptr((self.error_string)(code)) }.to_string_lossy().into_owned())
    }
}
