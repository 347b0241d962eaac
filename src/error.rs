//! The one error type: what a caller did wrong, in words that every runtime repeats.

use std::fmt;

/// Why an operator refused its arguments or could not run.
///
/// The text names the operator, the argument, what must hold and what was found; the variant says which Python
/// exception it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A wrong value or shape: `ValueError`.
    Value(String),
    /// A wrong element type: `TypeError`.
    Type(String),
    /// No such backend in this build or on this machine: `NotImplementedError`.
    Unsupported(String),
    /// Something that should have worked did not, as a driver's refusal: `RuntimeError`.
    Runtime(String),
}

impl Error {
    /// The name of the Python exception that this error becomes.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Value(_) => "ValueError",
            Error::Type(_) => "TypeError",
            Error::Unsupported(_) => "NotImplementedError",
            Error::Runtime(_) => "RuntimeError",
        }
    }

    /// The text without the kind.
    pub fn text(&self) -> &str {
        match self {
            Error::Value(text) | Error::Type(text) | Error::Unsupported(text) | Error::Runtime(text) => text,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Error {}

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
