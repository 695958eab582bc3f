//! Statistics of features, and the state files that hold them.
//!
//! LeRobot writes one safetensors file a normalising step, tensors named `<feature>.<stat>`, of every
//! feature of the dataset: `observation.state.mean`, `action.q01`, … A statistic broadcasts over its
//! feature as in NumPy: `[D]`, `[1]` and `[]` for a vector, `[C, 1, 1]` for a picture, and here also
//! `[horizon, D]` for an action whose every row of the chunk has its own scale.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::policy::config::{FeatureType, Features};
use crate::{Error, Result, tensors as files};

/// Longest state file, bytes: statistics are small.
const MAX_STATE: u64 = 16 << 20;

/// One statistic: numbers and the shape that they broadcast from.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistic {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Statistics of one feature by name: `mean`, `std`, `min`, `max`, `q01`, ….
pub type FeatureStats = BTreeMap<String, Statistic>;
/// Statistics by feature key.
pub type Stats = BTreeMap<String, FeatureStats>;

impl Statistic {
    /// The statistic of `shape`, row by row.
    ///
    /// # Errors
    /// When there are not as many values as the shape has elements.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Result<Self> {
        let len = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        if len != Some(values.len()) {
            return Err(Error::shape("statistic", shape, values.len()));
        }
        Ok(Self { shape, values })
    }

    /// One set of `dim` values for each row of a chunk.
    ///
    /// # Errors
    /// When the values are not whole rows.
    pub fn rows(values: Vec<f32>, dim: usize) -> Result<Self> {
        Self::new(vec![values.len() / dim.max(1), dim], values)
    }

    /// From a tensor of any type of number.
    ///
    /// # Errors
    /// When the tensor's type has no conversion to f32.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Self { shape: tensor.dims().to_vec(), values })
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The shape that the statistic has for a feature of `shape`: a picture's `[C]` is `[C, 1, 1]`,
    /// as in LeRobot 0.6.
    pub(super) fn shape_for(&self, shape: &[usize]) -> Vec<usize> {
        match (self.shape.as_slice(), shape) {
            (&[channels], [_, _, _]) => vec![channels, 1, 1],
            _ => self.shape.clone(),
        }
    }

    /// Whether its values broadcast to `shape`.
    pub(super) fn fits(&self, shape: &[usize]) -> bool {
        let own = self.shape_for(shape);
        let extra = own.len().saturating_sub(shape.len());
        let lead = shape.len().saturating_sub(own.len());
        own.iter().take(extra).all(|&n| n == 1)
            && own.iter().skip(extra).zip(shape.iter().skip(lead)).all(|(&n, &s)| n == s || n == 1)
    }

    /// Its values broadcast to `shape`; none if they do not.
    pub(super) fn spread(&self, shape: &[usize]) -> Option<Vec<f32>> {
        if !self.fits(shape) {
            return None;
        }
        let own = self.shape_for(shape);
        let mut strides = vec![0; shape.len()];
        let mut stride = 1;
        for (to, &n) in strides.iter_mut().rev().zip(own.iter().rev()) {
            *to = if n == 1 { 0 } else { stride };
            stride *= n;
        }
        let at = |mut flat: usize| {
            let mut index = 0;
            for (&n, &stride) in shape.iter().zip(&strides).rev() {
                index += flat % n * stride;
                flat /= n;
            }
            index
        };
        let len: usize = shape.iter().product();
        (0..len).map(|i| self.values.get(at(i)).copied()).collect()
    }
}

impl From<Vec<f32>> for Statistic {
    fn from(values: Vec<f32>) -> Self {
        Self { shape: vec![values.len()], values }
    }
}

/// Reads a state file.
///
/// # Errors
/// When it is missing, too long, no safetensors file, or a tensor is not named `<feature>.<stat>`.
pub(super) fn read(path: &Path) -> Result<Stats> {
    let bytes = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    if bytes > MAX_STATE {
        let message = format!("expected statistics of at most {MAX_STATE} bytes, got {bytes}");
        return Err(Error::config(path, message));
    }
    let tensors: BTreeMap<_, _> = files::load(path, &Device::Cpu)?.into_iter().collect();
    let mut stats = Stats::new();
    for (name, tensor) in tensors {
        let (key, stat) = match name.rsplit_once('.') {
            Some((key, stat)) if !key.is_empty() && !stat.is_empty() => (key, stat),
            _ => {
                let message = format!("tensor {name}: expected a name <feature>.<stat>");
                return Err(Error::config(path, message));
            }
        };
        let statistic = Statistic::from_tensor(&tensor)
            .map_err(|e| Error::config(path, format!("tensor {name}: {e}")))?;
        stats.entry(key.to_owned()).or_default().insert(stat.to_owned(), statistic);
    }
    Ok(stats)
}

/// Writes a state file; statistics of pictures with a value a channel get the shape `[C, 1, 1]`.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(path: &Path, stats: &Stats, features: &Features) -> Result<()> {
    let mut tensors = HashMap::new();
    for (key, feature) in stats {
        let picture = features.get(key).filter(|feature| feature.kind == FeatureType::Visual);
        let channels = picture.and_then(|feature| feature.shape.first().copied());
        for (name, statistic) in feature {
            let shape = match statistic.shape.as_slice() {
                &[n] if Some(n) == channels => vec![n, 1, 1],
                own => own.to_vec(),
            };
            let tensor = Tensor::from_slice(&statistic.values, shape, &Device::Cpu)?;
            tensors.insert(format!("{key}.{name}"), tensor);
        }
    }
    files::save(&tensors, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_broadcast_as_in_numpy() {
        let spread = |shape: &[usize], to: &[usize]| {
            let values = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
            Statistic::new(shape.to_vec(), values).unwrap().spread(to)
        };
        assert_eq!(spread(&[], &[2]).unwrap(), [0.0, 0.0]);
        assert_eq!(spread(&[1], &[3]).unwrap(), [0.0; 3]);
        assert_eq!(spread(&[2], &[2]).unwrap(), [0.0, 1.0]);
        assert_eq!(spread(&[1, 1, 2], &[2]).unwrap(), [0.0, 1.0]);
        assert_eq!(spread(&[2], &[2, 2]).unwrap(), [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(spread(&[2, 1], &[2, 2]).unwrap(), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(spread(&[2, 2], &[2, 2]).unwrap(), [0.0, 1.0, 2.0, 3.0]);
        let channels = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(spread(&[2, 1, 1], &[2, 2, 2]).unwrap(), channels);
        // Not along the columns, though there are as many.
        assert_eq!(spread(&[2], &[2, 2, 2]).unwrap(), channels);
        for (shape, to) in [
            (&[3][..], &[2][..]),
            (&[0], &[2]),
            (&[2, 2], &[2]),
            (&[2, 3], &[3, 2]),
            (&[4], &[2, 2]),
        ] {
            assert_eq!(spread(shape, to), None, "{shape:?} to {to:?}");
        }
        assert!(Statistic::new(vec![3], vec![0.0; 2]).is_err());
        assert!(Statistic::new(vec![usize::MAX, 2], vec![0.0; 2]).is_err());
        assert!(Statistic::rows(vec![0.0; 5], 2).is_err());
    }
}
