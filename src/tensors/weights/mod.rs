//! The tensors of a checkpoint, handed to a network that must want them all.
//!
//! ```text
//! open: headers ─► names, shapes ┐
//! load: build(placeholders) ─► wishes ─ compare ─► build(tensors, read one at a time)
//! ```
//!
//! candle-nn's own backends read everything first, stop at the first tensor that does not fit, and
//! say nothing of what nobody asked for, so a network of two blocks would load from a file of four.
//! Here the network is built once from placeholders, everything that differs is said in one error,
//! and only then is memory taken: the weights, and one tensor.

mod decode;
mod source;
mod survey;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::tensors::header::{Entry, shown};
use crate::{Error, Result};
use source::{ModelFile, Source};
use survey::{Survey, Wanted};

/// So many bytes are read at once; a multiple of every element's size.
const CHUNK: usize = 1 << 18;

/// A checkpoint on disk: open files whose headers are checked.
pub struct Weights {
    source: Source,
}

impl Weights {
    /// Opens `model.safetensors`, or `model.safetensors.index.json` and its shards, of the folder
    /// `dir`. Only headers are read.
    ///
    /// # Errors
    /// When there are no such files, there are only pickles, a file breaks a rule of
    /// `tensors::header`, or the index and its shards contradict each other.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_named(dir, "model")
    }

    /// As [`Weights::open`] with another file name: `diffusion_pytorch_model`, `model.fp16`, …
    ///
    /// # Errors
    /// As there.
    pub fn open_named(dir: &Path, stem: &str) -> Result<Self> {
        Ok(Self { source: Source::open(dir, stem)? })
    }

    /// As [`Weights::open`] with the index of the shards named by the caller.
    ///
    /// # Errors
    /// As there.
    pub fn open_index(dir: &Path, index: &Path) -> Result<Self> {
        Ok(Self { source: Source::sharded(dir, index)? })
    }

    /// The file that stands for the weights: `model.safetensors`, or the index.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// The safetensors files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.source.files.iter().map(|file| file.path.as_path())
    }

    /// Names and shapes, in the order of names.
    pub fn names(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let tensors = self.source.tensors.iter();
        tensors.map(|(name, (_, entry))| (name.as_str(), entry.shape.as_slice()))
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Number of elements of all tensors.
    pub fn parameters(&self) -> usize {
        self.source.tensors.values().map(|(_, entry)| entry.elements()).sum()
    }

    /// Length of all files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.source.files.iter().map(|file| file.bytes).sum()
    }

    /// The free text of the files.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.source.metadata
    }

    /// Gives every tensor the name that `rename` makes of its own, and forgets those for which it
    /// says none.
    ///
    /// # Errors
    /// When two tensors get the same name.
    pub fn rename(mut self, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, slot) in std::mem::take(&mut self.source.tensors) {
            let Some(new) = rename(&name) else { continue };
            let what = shown(&new);
            if let Some((_, before)) = tensors.insert(new, slot) {
                let message = format!(
                    "tensor {what}: expected one tensor of this name, got two: {} and {}",
                    shown(&before.name),
                    shown(&name)
                );
                return Err(Error::config(self.path(), message));
            }
        }
        self.source.tensors = tensors;
        Ok(self)
    }

    /// Reads one tensor as f32.
    ///
    /// # Errors
    /// When there is none, it holds no numbers, a value is not finite in f32, or the file cannot be
    /// read.
    pub fn read(&self, name: &str, device: &Device) -> Result<Tensor> {
        let Some((number, entry)) = self.source.tensors.get(name) else {
            let message = format!("tensor {}: expected, but missing", shown(name));
            return Err(Error::config(self.path(), message));
        };
        let values = match self.source.files.get(*number) {
            Some(file) => read_values(file, entry)?,
            None => Vec::new(),
        };
        Ok(Tensor::from_vec(values, entry.shape.as_slice(), device)?)
    }

    /// Reads all tensors, by name.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn read_all(&self, device: &Device) -> Result<HashMap<String, Tensor>> {
        self.names().map(|(name, _)| Ok((name.to_owned(), self.read(name, device)?))).collect()
    }

    /// Builds a network from the weights. `build` runs twice: with placeholders, which tells what it
    /// asks for, and, when that is exactly what the files hold, with the tensors. So it may not look
    /// at values, nor copy a tensor that tracks gradients.
    ///
    /// # Errors
    /// Lists every tensor that is missing, unexpected or of another shape; names the first that is
    /// not finite; and whatever `build` says.
    pub fn load<T>(
        &self,
        device: &Device,
        mut build: impl FnMut(VarBuilder<'_>) -> Result<T>,
    ) -> Result<T> {
        let of_file = |message: String| Error::config(self.path(), message);
        let wanted = Mutex::new(Wanted::default());
        let survey = Survey { weights: self, wanted: &wanted };
        let built =
            build(VarBuilder::from_backend(Box::new(survey), DType::F32, device.clone())).map(drop);
        let wanted = wanted.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = built {
            return Err(of_file(wanted.failure.unwrap_or_else(|| error.to_string())));
        }
        if let Some(message) = wanted.compare(self) {
            return Err(of_file(message));
        }
        let failure = Mutex::new(None);
        let stream = Stream { weights: self, failure: &failure };
        let built = build(VarBuilder::from_backend(Box::new(stream), DType::F32, device.clone()));
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        built.map_err(|error| failure.unwrap_or_else(|| of_file(error.to_string())))
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.source.tensors.get(name).map(|(_, entry)| entry)
    }
}

/// Reads tensors when they are asked for.
struct Stream<'a> {
    weights: &'a Weights,
    /// The error as it was: tensors' own errors carry only text.
    failure: &'a Mutex<Option<Error>>,
}

impl SimpleBackend for Stream<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> TensorResult<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.dims() == shape.dims() {
            return Ok(tensor);
        }
        // Not `bail!`: that adds a backtrace to the message.
        let (expected, got) = (shape.dims(), tensor.dims());
        Err(candle_core::Error::Msg(format!("{name}: expected {expected:?}, got {got:?}")))
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> TensorResult<Tensor> {
        match self.weights.read(name, device) {
            Ok(tensor) => tensor.to_dtype(dtype),
            Err(error) => {
                let text = candle_core::Error::Msg(error.to_string());
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
                Err(text)
            }
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains(name)
    }
}

/// The values of `entry` in `model`, whose size its header was checked against.
fn read_values(model: &ModelFile, entry: &Entry) -> Result<Vec<f32>> {
    let of_tensor = |message: String| {
        Error::config(&model.path, format!("tensor {}: {message}", shown(&entry.name)))
    };
    let io = |e| Error::io(&model.path, e);
    if decode::width(entry.dtype).is_none() {
        let (expected, got) = (decode::NUMBERS, entry.dtype);
        return Err(of_tensor(format!("expected {expected}, got {got}")));
    }
    let mut file = model.file.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(SeekFrom::Start(model.data_start + entry.start)).map_err(io)?;
    let mut left = (entry.end - entry.start) as usize;
    let mut values = Vec::with_capacity(entry.elements());
    let mut buffer = vec![0; left.min(CHUNK)];
    while left > 0 {
        let part = &mut buffer[..left.min(CHUNK)];
        file.read_exact(part).map_err(io)?;
        let first = values.len();
        decode::append(entry.dtype, part, &mut values);
        if let Some((at, value)) = decode::not_finite(&values[first..]) {
            let index = index(first + at, &entry.shape);
            return Err(of_tensor(format!(
                "expected values that are finite in f32, got {value} at {index:?}; the training \
                 diverged or the file is damaged"
            )));
        }
        left -= part.len();
    }
    Ok(values)
}

/// Place of element `at` along every dimension.
fn index(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&dim| {
            let place = at % dim.max(1);
            at /= dim.max(1);
            place
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests;
