//! The tensors of a checkpoint, and which of them the network asked for.
//!
//! candle-nn's own backend hands out what is asked for and says nothing of the rest, so a network of
//! two blocks would load from a file of four. Here every tensor has to be used.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::{Error, Result, tensors};

/// A checkpoint in memory. Clones share it.
#[derive(Clone)]
pub(super) struct Weights(Arc<Inner>);

struct Inner {
    tensors: HashMap<String, Tensor>,
    used: Mutex<BTreeSet<String>>,
}

impl Weights {
    /// Reads a safetensors file whose values are all finite.
    ///
    /// # Errors
    /// When the file is missing, is no safetensors file, or has a NaN or an infinity.
    pub(super) fn read(path: &Path, device: &Device) -> Result<Self> {
        let tensors = tensors::load(path, device)?;
        let mut names: Vec<_> = tensors.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        for (name, tensor) in names {
            // A sum is finite only if every element is; overflow would need values near 1e38.
            let sum = tensor.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?;
            if !sum.is_finite() {
                let message = format!("tensor {name}: expected finite values, got NaN or infinity");
                return Err(Error::config(path, message));
            }
        }
        Ok(Self(Arc::new(Inner { tensors, used: Mutex::default() })))
    }

    /// A builder that hands the tensors out.
    pub(super) fn builder(&self, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, device.clone())
    }

    /// The first tensor, by name, that nothing has asked for.
    pub(super) fn unused(&self) -> Option<String> {
        let used = self.0.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.tensors.keys().filter(|name| !used.contains(*name)).min().cloned()
    }

    fn find(&self, name: &str, dtype: DType, device: &Device) -> TensorResult<Option<Tensor>> {
        let Some(tensor) = self.0.tensors.get(name) else { return Ok(None) };
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        tensor.to_dtype(dtype)?.to_device(device).map(Some)
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> TensorResult<Tensor> {
        let got = match self.find(name, dtype, device)? {
            Some(tensor) if tensor.dims() == shape.dims() => return Ok(tensor),
            Some(tensor) => format!("{:?}", tensor.dims()),
            None => "nothing".to_owned(),
        };
        // Not `bail!`: that adds a backtrace to the message.
        let expected = shape.dims();
        Err(candle_core::Error::Msg(format!("{name}: expected {expected:?}, got {got}")))
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> TensorResult<Tensor> {
        let missing = || candle_core::Error::Msg(format!("{name}: expected, but missing"));
        self.find(name, dtype, device)?.ok_or_else(missing)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }
}
