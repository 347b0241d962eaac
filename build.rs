//! Builds what cargo does not: the CUDA kernels (feature `cuda`) and the C++ torch library (feature `torch`).
//!
//! Each step is a module in `build-script/`; this file decides which of them run and tells cargo what they found.

#[path = "build-script/archs.rs"]
mod archs;
#[path = "build-script/images.rs"]
mod images;
#[path = "build-script/kept.rs"]
mod kept;
#[path = "build-script/nvrtc.rs"]
mod nvrtc;
#[path = "build-script/ptxas.rs"]
mod ptxas;
#[path = "build-script/torch.rs"]
mod torch;

#[cfg(feature = "torch")]
#[path = "build-script/library.rs"]
mod library;

use std::env;
use std::path::PathBuf;

use torch::Torch;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build-script");
    println!("cargo::rustc-check-cfg=cfg(robocache_cuda)");
    if let Err(text) = build() {
        for line in text.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<(), String> {
    let features = (cfg!(feature = "torch"), cfg!(feature = "cuda"));
    if features == (false, false) {
        return Ok(());
    }
    let torch = match torch::find(&variable)? {
        None if cfg!(feature = "torch") => return Err(torch::NOT_FOUND.to_owned()),
        torch => torch,
    };
    if let Some(torch) = &torch {
        println!("cargo::rerun-if-changed={}", torch.version_file.display());
        println!("cargo::rustc-env=ROBOCACHE_TORCH_VERSION={}", torch.version);
        if let Some(cuda) = &torch.cuda {
            println!("cargo::rustc-env=ROBOCACHE_TORCH_CUDA={cuda}");
        }
    }
    if cfg!(feature = "cuda") {
        embed_kernels(torch.as_ref())?;
    }
    #[cfg(feature = "torch")]
    library::build(torch.as_ref().ok_or(torch::NOT_FOUND)?, &out()?)?;
    Ok(())
}

/// Compiles the kernels, or says why this build has none: a CPU-only library is never a surprise.
fn embed_kernels(torch: Option<&Torch>) -> Result<(), String> {
    let out = out()?;
    println!("cargo::rerun-if-changed=kernels");
    let wanted = variable("ROBOCACHE_CUDA").unwrap_or_default();
    if wanted == "0" {
        println!("cargo::warning=CPU-only library: ROBOCACHE_CUDA=0 leaves the CUDA kernels out");
        return images::write_index(&out, &[]);
    }
    if cfg!(feature = "torch")
        && let Some(torch) = torch
        && torch.cuda.is_none()
    {
        println!("cargo::warning=CPU-only library: torch {} at {} has no CUDA", torch.version, torch.root.display());
        return images::write_index(&out, &[]);
    }
    let nvrtc = nvrtc::find(torch.map(|torch| torch.root.as_path()), &variable)?;
    let only: Vec<u32> = wanted.split(',').filter_map(|number| number.trim().parse().ok()).collect();
    println!("cargo::rustc-env=ROBOCACHE_NVRTC_VERSION={}", nvrtc.version());
    let ptxas = ptxas::find(&nvrtc.lib, &nvrtc.version(), &variable);
    let compilers = images::Compilers { nvrtc, ptxas, lines: variable("ROBOCACHE_LINE_INFO").is_some() };
    let images = images::compile(&compilers, "kernels".as_ref(), &out, &only)?;
    images::write_index(&out, &images)?;
    println!("cargo::rustc-cfg=robocache_cuda");
    Ok(())
}

/// The folder for what this script makes.
fn out() -> Result<PathBuf, String> {
    Ok(env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?.into())
}

/// An environment variable that is set and not empty; cargo runs this script again when it changes.
fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}
