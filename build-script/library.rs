//! Compiles `csrc/` and the bridge in `src/ffi.rs`, and links them with torch: the registered operators.

use std::fs;
use std::path::{Path, PathBuf};

use crate::torch::Torch;

/// Compiles and links the C++ library.
pub fn build(torch: &Torch) -> Result<(), String> {
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-changed=src/ffi.rs");
    let mut build = cxx_build::bridge("src/ffi.rs");
    build
        .files(sources("csrc".as_ref())?)
        .includes(["csrc", "csrc/include"])
        .std("c++20")
        .define("_GLIBCXX_USE_CXX11_ABI", torch.cxx11_abi.as_str())
        // at::parallel_for is a template: without OpenMP here it runs on one thread.
        .flag("-fopenmp")
        .warnings(true)
        .extra_warnings(true)
        // The registrations are constructors that nothing calls by name: an ordinary archive would drop them.
        .link_lib_modifier("+whole-archive");
    for include in &torch.includes {
        // As system headers, so that warnings are about this library's code only.
        build.flag("-isystem").flag(include);
    }
    build
        .try_compile("robocache_csrc")
        .map_err(|error| format!("csrc/ must compile against torch {}, the compiler said\n{error}", torch.version))?;

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

fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut sources: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cpp"));
    sources.sort();
    Ok(sources)
}

/// The OpenMP runtime that torch brings: `libgomp.so.1` in a wheel, `libgomp-HASH.so.1` in an unpacked libtorch.
fn gomp(lib: &Path) -> Option<String> {
    let names = fs::read_dir(lib).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("libgomp") && name.contains(".so")).min()
}
