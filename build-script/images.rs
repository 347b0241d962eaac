//! Compiles every kernel file for every architecture, in parallel, and writes the index that `src/cuda/images.rs`
//! includes.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use crate::archs::{self, CUBINS, PTX};
use crate::kept;
use crate::nvrtc::Nvrtc;
use crate::ptxas::Ptxas;

/// What an image is for: machine code for a compute capability, or PTX from one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    Sm(u32),
    Compute(u32),
}

impl fmt::Display for Arch {
    /// As the compilers spell it.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arch::Sm(number) => write!(to, "sm_{number}"),
            Arch::Compute(number) => write!(to, "compute_{number}"),
        }
    }
}

/// One kernel file, compiled for one architecture.
pub struct Image {
    /// The file's name without `.cu`.
    kernel: String,
    arch: Arch,
    /// Where the image was written: its size, then the image compressed.
    path: PathBuf,
}

/// The compilers, and how they are called.
pub struct Compilers {
    pub nvrtc: Nvrtc,
    /// With it PTX is compiled once for the devices that can share it.
    pub ptxas: Option<Ptxas>,
    /// For tools that show the source.
    pub lines: bool,
}

/// One kernel file.
struct Source {
    path: PathBuf,
    name: String,
    text: String,
    /// A number that changes with the file, with any header of the folder that it reaches, and with the compilers, so
    /// that an edit of C++ or of another kernel leaves its images be.
    inputs: u64,
    /// The compute capabilities from which on these are another text.
    steps: BTreeSet<u32>,
}

/// zlib's best: images are packed once and shipped many times.
const LEVEL: u8 = 9;

/// Compiles `folder/*.cu`, unless an earlier build has done so already; with `only`, for these compute capabilities and no
/// others.
pub fn compile(compilers: &Compilers, folder: &Path, out: &Path, only: &[u32]) -> Result<Vec<Image>, String> {
    let Compilers { nvrtc, ptxas, lines } = compilers;
    let (cubins, archs) = wanted(nvrtc, only)?;
    let options = options(folder, &nvrtc.includes, *lines);
    let versions = (nvrtc.version(), ptxas.as_ref().map(|ptxas| &ptxas.version), &options);
    let mut paths = files(folder)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    let sources: Vec<_> = paths.iter().map(|path| source(folder, path, &versions)).collect::<Result<_, _>>()?;

    let kept = kept::folder(out, "robocache-images")?;
    let place = |source: &Source, arch: Arch| kept.join(format!("{}.{arch}.{:016x}", source.name, source.inputs));
    let ptx_place = |source: &Source, family: u32| {
        kept.join(format!("{}.compute_{family}.{:016x}.ptx", source.name, source.inputs))
    };
    let family = |source: &Source, arch: Arch| match arch {
        Arch::Sm(number) => archs::family(number, &cubins, &source.steps),
        Arch::Compute(number) => number,
    };
    let every: Vec<_> = sources.iter().flat_map(|source| archs.iter().map(move |arch| (source, *arch))).collect();
    let mut missing: Vec<_> = every.iter().copied().filter(|(source, arch)| !place(source, *arch).exists()).collect();

    let mut texts: Vec<_> = missing.iter().map(|(source, arch)| (*source, family(source, *arch))).collect();
    texts.sort_by_key(|(source, family)| ptx_place(source, *family));
    texts.dedup_by_key(|(source, family)| ptx_place(source, *family));
    texts.retain(|(source, family)| ptxas.is_some() && !ptx_place(source, *family).exists());
    let mut logs = in_parallel(&texts, |(source, family)| {
        let (ptx, log) = nvrtc.compile(&source.path, &source.text, &Arch::Compute(family).to_string(), &options)?;
        kept::make(&ptx_place(source, family), |part| write(part, &ptx))?;
        Ok(log)
    })?;
    // The longest first, so that no thread ends long after the others.
    missing.sort_by_key(|(source, arch)| Reverse(size(&ptx_place(source, family(source, *arch)))));
    logs.extend(in_parallel(&missing, |(source, arch)| {
        let ptx = ptx_place(source, family(source, arch));
        let (mut bytes, log) = match (arch, ptxas) {
            (Arch::Sm(_), Some(ptxas)) => ptxas.assemble(&ptx, &arch.to_string(), *lines)?,
            (Arch::Compute(_), Some(_)) => (read(&ptx)?.into_bytes(), String::new()),
            (_, None) => nvrtc.compile(&source.path, &source.text, &arch.to_string(), &options)?,
        };
        if matches!(arch, Arch::Compute(_)) {
            // The driver finds the end of a text by it.
            bytes.push(0);
        }
        let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
        packed.append(&mut miniz_oxide::deflate::compress_to_vec_zlib(&bytes, LEVEL));
        kept::make(&place(source, arch), |part| write(part, &packed))?;
        Ok(log)
    })?);

    // The same warnings come once for each architecture.
    let lines: BTreeSet<_> = logs.iter().flat_map(|log| log.lines()).filter(|line| !line.trim().is_empty()).collect();
    lines.into_iter().for_each(|line| println!("cargo::warning={line}"));
    let image =
        |(source, arch): (&Source, Arch)| Image { kernel: source.name.clone(), arch, path: place(source, arch) };
    Ok(every.into_iter().map(image).collect())
}

/// The compute capabilities that this NVRTC knows of ours, and what is to be made.
fn wanted(nvrtc: &Nvrtc, only: &[u32]) -> Result<(Vec<u32>, Vec<Arch>), String> {
    let supported = nvrtc.supported()?;
    let (cubins, missing): (Vec<_>, Vec<_>) = CUBINS.into_iter().partition(|number| supported.contains(number));
    if !missing.is_empty() {
        println!(
            "cargo::warning=NVRTC {} does not know the compute capabilities {missing:?}: such devices run the PTX, \
             which their driver compiles at first use",
            nvrtc.version(),
        );
    }
    let mut archs: Vec<_> = cubins.iter().map(|number| Arch::Sm(*number)).chain([Arch::Compute(PTX)]).collect();
    if !only.is_empty() {
        archs.retain(|arch| only.iter().any(|number| *arch == Arch::Sm(*number)));
        if archs.len() != only.len() {
            return Err(format!("ROBOCACHE_CUDA must be 0 or some of {CUBINS:?} that this NVRTC knows, got {only:?}"));
        }
    }
    Ok((cubins, archs))
}

/// Writes `images.rs`: the table of the images' bytes, empty in a CPU-only build.
pub fn write_index(out: &Path, images: &[Image]) -> Result<(), String> {
    let mut text = String::from("static IMAGES: &[Image] = &[\n");
    for Image { kernel, arch, path } in images {
        writeln!(text, "    Image {{ file: {kernel:?}, arch: Arch::{arch:?}, packed: include_bytes!({path:?}) }},")
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

fn options(folder: &Path, includes: &[PathBuf], lines: bool) -> Vec<String> {
    // No contraction: the CPU rounds after each operation, and both must give the same bits.
    let fixed = ["--fmad=false", "--std=c++17", "--device-as-default-execution-space"];
    // More than half of an image that has them.
    let lines = lines.then_some("--generate-line-info");
    let folders = [folder].into_iter().chain(includes.iter().map(PathBuf::as_path));
    let includes = folders.map(|folder| format!("--include-path={}", folder.display()));
    fixed.into_iter().chain(lines).map(str::to_owned).chain(includes).collect()
}

fn source(folder: &Path, path: &Path, versions: &impl Hash) -> Result<Source, String> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a kernel's name must be text")?.to_owned();
    let mut hasher = DefaultHasher::new();
    versions.hash(&mut hasher);
    let (mut steps, mut seen, mut ahead) = (BTreeSet::new(), BTreeSet::new(), vec![path.to_owned()]);
    while let Some(path) = ahead.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = read(&path)?;
        (&path, &text).hash(&mut hasher);
        steps.append(&mut archs::steps(&text).map_err(|error| format!("{}: {error}", path.display()))?);
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.strip_suffix('"'));
        ahead.extend(names.map(|name| folder.join(name)));
    }
    Ok(Source { path: path.to_owned(), name, text: read(path)?, inputs: hasher.finish(), steps })
}

/// How long a file is, zero of none.
fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs every job on as many threads as cargo grants, and returns the results in the jobs' order.
fn in_parallel<J: Copy + Sync, R: Send>(
    jobs: &[J],
    run: impl Fn(J) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
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
