//! Which compute capabilities the kernels are compiled for, and which of them can share PTX.

use std::collections::BTreeSet;

/// Machine code: A100, RTX 30, RTX 40, H100 and H200, B200, RTX 50 and RTX PRO.
pub const CUBINS: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// The floor as PTX, which the driver compiles for any other device.
pub const PTX: u32 = 80;

/// The compute capabilities from which on a text is another one, by its comparisons of `__CUDA_ARCH__`.
///
/// # Errors
///
/// Names the line of a comparison that is not `>=` or `<`: what is the same from one number up to the next can be
/// compiled once for all of them.
pub fn steps(text: &str) -> Result<BTreeSet<u32>, String> {
    let mut steps = BTreeSet::new();
    for line in text.lines() {
        for rest in line.split("__CUDA_ARCH__").skip(1) {
            let rest = rest.trim_start();
            if !rest.starts_with(['<', '>', '=', '!']) {
                continue;
            }
            let number = rest.strip_prefix(">=").or_else(|| rest.strip_prefix('<')).map(str::trim_start);
            let digits = number.map(|text| text.split(|at: char| !at.is_ascii_digit()).next().unwrap_or_default());
            let step = digits.and_then(|digits| digits.parse::<u32>().ok());
            steps.insert(step.ok_or_else(|| format!("compare __CUDA_ARCH__ by >= N or < N: {line}"))? / 10);
        }
    }
    Ok(steps)
}

/// The lowest of the `known` compute capabilities whose PTX serves this one too, as no step lies between them.
pub fn family(number: u32, known: &[u32], steps: &BTreeSet<u32>) -> u32 {
    let serves = |lower: &u32| *lower <= number && !steps.iter().any(|step| lower < step && *step <= number);
    known.iter().copied().find(serves).unwrap_or(number)
}
