//! What a voxel says of its points.

use crate::error::{Error, Result};
use crate::tensor::DType;

/// What a voxel says of its points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Whether it has any.
    Occupancy,
    /// How many.
    Count,
    /// The exact sum of their features, rounded once.
    Sum,
    /// The exact sum divided by their number, rounded once.
    Mean,
    /// The greatest feature.
    Max,
    /// The least feature.
    Min,
}

impl Reduce {
    /// Reads the text.
    pub fn read(op: &str, text: &str) -> Result<Reduce> {
        Ok(match text {
            "occupancy" => Reduce::Occupancy,
            "count" => Reduce::Count,
            "sum" => Reduce::Sum,
            "mean" => Reduce::Mean,
            "max" => Reduce::Max,
            "min" => Reduce::Min,
            _ => {
                return Err(Error::Value(format!(
                    "{op}: reduce must be \"occupancy\", \"count\", \"sum\", \"mean\", \"max\" or \"min\", got {text:?}"
                )));
            }
        })
    }

    /// True where features are read.
    pub fn reads_features(self) -> bool {
        !matches!(self, Reduce::Occupancy | Reduce::Count)
    }

    /// True where one point's feature is the result.
    pub fn picks(self) -> bool {
        matches!(self, Reduce::Max | Reduce::Min)
    }

    /// The type of the result for features of that type.
    pub fn output(self, features: DType) -> DType {
        match self {
            Reduce::Occupancy => DType::Bool,
            Reduce::Count => DType::I32,
            _ => features,
        }
    }
}
