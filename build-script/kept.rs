//! What one build keeps for the next: beside cargo's own folders, so that every set of features finds it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, process};

/// The folder of that name in `target/release` or its like; without one, in `out`.
pub fn folder(out: &Path, name: &str) -> Result<PathBuf, String> {
    let build = out.ancestors().nth(2).filter(|folder| folder.ends_with("build"));
    let folder = build.and_then(Path::parent).unwrap_or(out).join(name);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Makes a file or folder that has its name only once it is whole: no interrupted build, nor one at work beside this,
/// shows half of it.
pub fn make(place: &Path, write: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let mut name = OsString::from(place);
    name.push(format!(".{}.part", process::id()));
    let part = PathBuf::from(name);
    write(&part)?;
    match fs::rename(&part, place) {
        // A build beside this one was faster, and made the same.
        Err(_) if place.is_dir() => fs::remove_dir_all(&part),
        renamed => renamed,
    }
    .map_err(|error| format!("{}: {error}", part.display()))
}
