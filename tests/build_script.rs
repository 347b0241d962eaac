//! How the build finds torch, and what it says where it does not; and what it compiles the kernels for.

#[allow(dead_code, reason = "the build script calls the rest")]
#[path = "../build-script/archs.rs"]
mod archs;
#[allow(dead_code, reason = "the build script calls the rest")]
#[path = "../build-script/torch.rs"]
mod torch;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A folder that looks like libtorch to the build.
fn libtorch(name: &str, version: &str, files: &[&str]) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(root.join("lib")).unwrap();
    for file in files {
        fs::write(root.join("lib").join(file), "").unwrap();
    }
    fs::write(root.join("build-version"), version).unwrap();
    root
}

fn find(variables: &[(&str, &str)]) -> Result<Option<torch::Torch>, String> {
    torch::find(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

#[test]
fn a_libtorch_folder_is_described_by_its_files() {
    let cpu = libtorch("cpu", "2.11.0+cpu\n", &["libtorch_cpu.so"]);
    let found = find(&[("LIBTORCH", cpu.to_str().unwrap())]).unwrap().unwrap();
    assert_eq!((found.version.as_str(), found.cuda), ("2.11.0", None));
    assert_eq!(found.lib, cpu.join("lib"));
    assert_eq!(found.includes, [cpu.join("include"), cpu.join("include/torch/csrc/api/include")]);

    let cuda = libtorch("cuda", "2.11.1+cu130", &["libtorch_cpu.so", "libtorch_cuda.so"]);
    let found = find(&[("LIBTORCH", cuda.to_str().unwrap())]).unwrap().unwrap();
    assert_eq!((found.version.as_str(), found.cuda.as_deref()), ("2.11.1", Some("13.0")));
}

#[test]
fn another_minor_version_is_refused_unless_asked_for() {
    let old = libtorch("old", "2.1.0+cpu", &["libtorch_cpu.so"]);
    let root = old.to_str().unwrap();
    let error = find(&[("LIBTORCH", root)]).unwrap_err();
    assert!(error.starts_with("torch must be 2.11.x (tch 0.24 pairs with it), got 2.1.0 at "), "{error}");
    let bypassed = find(&[("LIBTORCH", root), ("LIBTORCH_BYPASS_VERSION_CHECK", "1")]);
    assert_eq!(bypassed.unwrap().unwrap().version, "2.1.0");
}

#[test]
fn a_folder_without_torch_is_named_with_the_way_to_mend_it() {
    let empty = libtorch("empty", "2.11.0", &[]);
    let error = find(&[("LIBTORCH", empty.to_str().unwrap())]).unwrap_err();
    assert!(error.contains(&format!("no libtorch_cpu.so in {}", empty.join("lib").display())), "{error}");
    assert!(error.contains("2.11.x") && error.contains("LIBTORCH_USE_PYTORCH=1"), "{error}");
}

#[test]
fn the_version_is_read_from_each_kind_of_file() {
    let header = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n";
    assert_eq!(torch::version_in(header).as_deref(), Some("2.11.0"));
    assert_eq!(torch::version_in("x = 1\n__version__ = '2.11.0+cu130'\n").as_deref(), Some("2.11.0+cu130"));
    assert_eq!(torch::version_in("2.11.0+cpu\n").as_deref(), Some("2.11.0+cpu"));
    assert_eq!(torch::version_in("none"), None);
    assert_eq!(torch::cuda_in("cu128").as_deref(), Some("12.8"));
    assert_eq!([torch::cuda_in("cpu"), torch::cuda_in("cu"), torch::cuda_in("")], [None, None, None]);
}

#[test]
fn devices_share_ptx_between_the_steps_of_a_text() {
    let steps = archs::steps(
        "#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900\n\
         #if (__CUDA_ARCH__>= 860 && __CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)",
    )
    .unwrap();
    assert_eq!(steps, BTreeSet::from([86, 90, 120]));
    let of_all = |steps: &BTreeSet<u32>| archs::CUBINS.map(|number| archs::family(number, &archs::CUBINS, steps));
    assert_eq!(of_all(&steps), [80, 86, 86, 90, 90, 120]);
    assert_eq!(of_all(&BTreeSet::from([90])), [80, 80, 80, 90, 90, 90]);
    assert_eq!(of_all(&BTreeSet::new()), [80; 6]);
    assert_eq!(archs::family(89, &[86, 89], &BTreeSet::new()), 86, "an NVRTC that does not know the first");

    for line in ["#if __CUDA_ARCH__ == 860", "#if __CUDA_ARCH__ <= 860", "#if __CUDA_ARCH__ >= LIMIT"] {
        let error = archs::steps(line).unwrap_err();
        assert!(error.ends_with(line) && error.contains(">= N or < N"), "{error}");
    }
}
