//! Compiles every kernel file for every architecture, in parallel, and writes the index that `src/cuda/images.rs`
//! includes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use crate::kept;
use crate::nvrtc::Nvrtc;

/// Machine code: A100, RTX 30, RTX 40, H100 and H200, B200, RTX 50 and RTX PRO.
const CUBINS: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// The floor as PTX, which the driver compiles for any other device.
const PTX: u32 = 80;

/// One kernel file, compiled for one architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Image {
    /// The file's name without `.cu`.
    pub kernel: String,
    /// `Arch::Sm(90)` or `Arch::Compute(80)`, as `src/cuda/images.rs` spells it.
    pub arch: String,
    /// Where the image was written: its size, then the image compressed.
    pub path: PathBuf,
}

/// zlib's best: images are packed once and shipped many times.
const LEVEL: u8 = 9;

/// Compiles `folder/*.cu`, unless an earlier build has done so already; with `only`, for these compute capabilities and no
/// others; with `lines`, for tools that show the source.
pub fn compile(nvrtc: &Nvrtc, folder: &Path, out: &Path, only: &[u32], lines: bool) -> Result<Vec<Image>, String> {
    let mut sources = files(folder)?;
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    let (cubins, missing) = cubins(&nvrtc.supported()?);
    if !missing.is_empty() {
        println!(
            "cargo::warning=NVRTC {} does not know the compute capabilities {missing:?}: such devices run the PTX, \
             which their driver compiles at first use",
            nvrtc.version(),
        );
    }
    let kept = kept::folder(out, "robocache-images")?;
    let options = options(folder, &nvrtc.includes, lines);
    let mut targets: Vec<_> =
        cubins.into_iter().map(|number| ("Sm", "sm", number)).chain([("Compute", "compute", PTX)]).collect();
    if !only.is_empty() {
        targets.retain(|(variant, _, number)| *variant == "Sm" && only.contains(number));
        if targets.len() != only.len() {
            return Err(format!("ROBOCACHE_CUDA must be 0 or some of {CUBINS:?} that this NVRTC knows, got {only:?}"));
        }
    }
    let jobs: Vec<_> = sources.iter().flat_map(|source| targets.iter().map(move |target| (source, *target))).collect();

    let run = |(source, (variant, prefix, number)): (&PathBuf, (&str, &str, u32))| -> Result<(Image, String), String> {
        let kernel = source.file_stem().and_then(|stem| stem.to_str()).ok_or("a kernel's name must be text")?;
        let text = read(source)?;
        let inputs = fingerprint(folder, source, &(nvrtc.version(), &options))?;
        let arch = format!("{prefix}_{number}");
        let image = Image {
            kernel: kernel.to_owned(),
            arch: format!("Arch::{variant}({number})"),
            path: kept.join(format!("{kernel}.{arch}.{inputs:016x}")),
        };
        if image.path.exists() {
            return Ok((image, String::new()));
        }
        let (bytes, log) = nvrtc.compile(&source.display().to_string(), &text, &arch, &options)?;
        let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
        packed.append(&mut miniz_oxide::deflate::compress_to_vec_zlib(&bytes, LEVEL));
        kept::make(&image.path, |part| write(part, &packed))?;
        Ok((image, log))
    };
    let results: Vec<_> = in_parallel(&jobs, run).into_iter().collect::<Result<_, _>>()?;

    // The same warnings come once for each architecture.
    let (images, logs): (Vec<_>, BTreeSet<_>) = results.into_iter().unzip();
    let lines = logs.iter().flat_map(|log| log.lines()).filter(|line| !line.trim().is_empty());
    lines.for_each(|line| println!("cargo::warning={line}"));
    Ok(images)
}

/// Writes `images.rs`: the table of the images' bytes, empty in a CPU-only build.
pub fn write_index(out: &Path, images: &[Image]) -> Result<(), String> {
    let mut text = String::from("static IMAGES: &[Image] = &[\n");
    for Image { kernel, arch, path } in images {
        writeln!(text, "    Image {{ file: {kernel:?}, arch: {arch}, packed: include_bytes!({path:?}) }},")
            .map_err(|error| error.to_string())?;
    }
    text.push_str("];\n");
    write(&out.join("images.rs"), text.as_bytes())
}

/// The files in a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// The compute capabilities to compile for, and those that this NVRTC does not know.
fn cubins(supported: &[u32]) -> (Vec<u32>, Vec<u32>) {
    CUBINS.into_iter().partition(|number| supported.contains(number))
}

fn options(folder: &Path, includes: &[PathBuf], lines: bool) -> Vec<String> {
    // No contraction: the CPU rounds after each operation, and both must give the same bits.
    let fixed = ["--fmad=false", "--std=c++17", "--device-as-default-execution-space"];
    // More than half of an image that has them.
    let lines = lines.then_some("--generate-line-info");
    let folders = [folder].into_iter().chain(includes.iter().map(PathBuf::as_path));
    let includes = folders.map(|folder| format!("--include-path={}", folder.display()));
    fixed.into_iter().chain(lines).map(str::to_owned).chain(includes).collect()
}

/// A number that changes with the file, with any header of the folder that it reaches, and with the compiler, so that an
/// edit of C++ or of another kernel leaves the image be.
fn fingerprint(folder: &Path, source: &Path, compiler: &impl Hash) -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    compiler.hash(&mut hasher);
    let (mut seen, mut ahead) = (BTreeSet::new(), vec![source.to_owned()]);
    while let Some(path) = ahead.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = read(&path)?;
        (&path, &text).hash(&mut hasher);
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.strip_suffix('"'));
        ahead.extend(names.map(|name| folder.join(name)));
    }
    Ok(hasher.finish())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs every job on as many threads as cargo grants, and returns the results in the jobs' order.
fn in_parallel<J: Copy + Sync, R: Send>(jobs: &[J], run: impl Fn(J) -> R + Sync) -> Vec<R> {
    let granted = env::var("NUM_JOBS").ok().and_then(|number| number.parse().ok()).unwrap_or(1);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs.len().min(granted) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    let result = run(*job);
                    done.lock().expect("no thread panics with the lock").push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panics with the lock");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}
