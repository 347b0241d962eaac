//! Compiles `csrc/` and the bridge in `src/ffi.rs`, and links them with torch: the registered operators.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kept;
use crate::torch::Torch;

/// Compiles the C++ library, unless an earlier build has done so already, and links it.
pub fn build(torch: &Torch, out: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-changed=src/ffi.rs");
    let mut build = cxx_build::bridge("src/ffi.rs");
    build
        .files(files("csrc", "cpp")?)
        .includes(["csrc", "csrc/include"])
        .std("c++20")
        .define("_GLIBCXX_USE_CXX11_ABI", torch.cxx11_abi.as_str())
        // at::parallel_for is a template: without OpenMP here it runs on one thread.
        .flag("-fopenmp")
        .warnings(true)
        .extra_warnings(true);
    for include in &torch.includes {
        // As system headers, so that warnings are about this library's code only.
        build.flag("-isystem").flag(include);
    }
    // The same for every set of features: the C++ knows of none.
    let objects = kept::folder(out, "robocache-objects")?.join(format!("{:016x}", fingerprint(torch, &build, out)?));
    if !objects.exists() {
        kept::make(&objects, |part| {
            let compiled = build.out_dir(part).try_compile_intermediates();
            compiled.map(drop).map_err(|error| {
                format!("csrc/ must compile against torch {}, the compiler said\n{error}", torch.version)
            })
        })?;
    }
    cc::Build::new()
        .cpp(true)
        .cpp_link_stdlib(None) // cxx links it
        .objects(files(&objects, "o")?)
        // The registrations are constructors that nothing calls by name: an ordinary archive would drop them.
        .link_lib_modifier("+whole-archive")
        .try_compile("robocache_csrc")
        .map_err(|error| format!("the objects of csrc/ must make an archive: {error}"))?;

    let lib = torch.lib.display();
    println!("cargo::rustc-link-search=native={lib}");
    println!("cargo::rustc-link-lib=dylib=torch_cpu");
    println!("cargo::rustc-link-lib=dylib=c10");
    match gomp(&torch.lib) {
        // A second OpenMP runtime would not know torch.set_num_threads.
        Some(own) => println!("cargo::rustc-link-lib=dylib:+verbatim={own}"),
        None => println!("cargo::rustc-link-lib=dylib=gomp"),
    }
    // Tests, examples and C++ programs find torch without LD_LIBRARY_PATH; under Python it is loaded before.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,librobocache.so");
    Ok(())
}

/// A number that changes with what is compiled, with the compiler and its options, and with torch.
fn fingerprint(torch: &Torch, build: &cc::Build, out: &Path) -> Result<u64, String> {
    let compiler = build.try_get_compiler().map_err(|error| format!("a C++ compiler is needed: {error}"))?;
    let version = Command::new(compiler.path()).arg("--version").output();
    let version = version.map_err(|error| format!("{}: {error}", compiler.path().display()))?.stdout;
    let mut hasher = DefaultHasher::new();
    (&torch.version, compiler.path(), version).hash(&mut hasher);
    // The bridge's folder has another name in each build; what is in it counts.
    let own = |argument: &str| argument.contains(&*out.to_string_lossy());
    let arguments = compiler.args().iter().map(|argument| argument.to_string_lossy());
    arguments.filter(|argument| !own(argument)).for_each(|argument| argument.hash(&mut hasher));
    for folder in [Path::new("csrc"), &out.join("cxxbridge/sources"), &out.join("cxxbridge/include")] {
        for path in below(folder)? {
            let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            (path.strip_prefix(folder).ok(), text).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

/// The files with that ending in a folder, by name.
fn files(folder: impl AsRef<Path>, ending: &str) -> Result<Vec<PathBuf>, String> {
    let mut files = entries(folder.as_ref())?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    files.sort();
    Ok(files)
}

/// All files below a folder, by name.
fn below(folder: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let (mut files, mut ahead) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = ahead.pop() {
        let (folders, found): (Vec<_>, Vec<_>) = entries(&folder)?.into_iter().partition(|path| path.is_dir());
        ahead.extend(folders);
        files.extend(found);
    }
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// The OpenMP runtime that torch brings: `libgomp.so.1` in a wheel, `libgomp-HASH.so.1` in an unpacked libtorch.
fn gomp(lib: &Path) -> Option<String> {
    let names = fs::read_dir(lib).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("libgomp") && name.contains(".so")).min()
}
