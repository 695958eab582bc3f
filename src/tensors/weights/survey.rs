//! What a network asks for, learned by building it once from tensors that cost nothing.
//!
//! A placeholder is a variable of one element, stretched to the shape that the network wants: layers
//! treat it as a trained weight and keep it as it is, so no memory is taken however large the shape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor, Var};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

use super::Weights;
use super::decode::{NUMBERS, width};
use crate::tensors::header::{Entry, MAX_TENSORS, shown};

/// So many tensors of each kind are listed in an error.
const LISTED: usize = 12;

/// Hands out placeholders and notes what was asked for.
pub(super) struct Survey<'a> {
    pub(super) weights: &'a Weights,
    pub(super) wanted: &'a Mutex<Wanted>,
}

/// What a network asked for.
#[derive(Default)]
pub(super) struct Wanted {
    /// Shapes by name; the same tensor may be asked for twice.
    shapes: BTreeMap<String, BTreeSet<Vec<usize>>>,
    /// Why no placeholder could be handed out.
    pub(super) failure: Option<String>,
}

impl Survey<'_> {
    fn placeholder(
        &self,
        name: &str,
        shape: Result<&[usize], String>,
        dtype: DType,
        device: &Device,
    ) -> TensorResult<Tensor> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let what = shown(name);
        let problem = match shape {
            Err(problem) => problem,
            Ok(shape) if elements(shape).is_none() => format!(
                "tensor {what}: expected a shape whose elements can be counted, got {shape:?} from \
                 config.json"
            ),
            Ok(_) if wanted.shapes.len() >= MAX_TENSORS => format!(
                "tensor {what}: expected a network of at most {MAX_TENSORS} tensors, got more from \
                 config.json"
            ),
            Ok(shape) => {
                wanted.shapes.entry(name.to_owned()).or_default().insert(shape.to_vec());
                return Var::zeros((), dtype, device)?.as_tensor().broadcast_as(shape);
            }
        };
        wanted.failure = Some(problem.clone());
        Err(candle_core::Error::Msg(problem))
    }
}

impl SimpleBackend for Survey<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> TensorResult<Tensor> {
        self.placeholder(name, Ok(shape.dims()), dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> TensorResult<Tensor> {
        let entry = self.weights.entry(name);
        let shape = entry.map(|entry| entry.shape.as_slice()).ok_or_else(|| {
            format!("tensor {}: the network that config.json describes needs it", shown(name))
        });
        self.placeholder(name, shape, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.entry(name).is_some()
    }
}

/// Number of elements, if it and every stride and size in bytes fit.
fn elements(shape: &[usize]) -> Option<usize> {
    let product = shape.iter().try_fold(8usize, |product, &dim| product.checked_mul(dim.max(1)))?;
    isize::try_from(product).ok()?;
    Some(product / 8)
}

impl Wanted {
    /// One message with all that differs between the wishes and `weights`.
    pub(super) fn compare(&self, weights: &Weights) -> Option<String> {
        let (mut missing, mut others) = (Vec::new(), Vec::new());
        for (name, shapes) in &self.shapes {
            for shape in shapes {
                match weights.entry(name) {
                    None => missing.push(format!("{} {shape:?}", shown(name))),
                    Some(entry) => others.extend(differs(name, shape, entry)),
                }
            }
        }
        let unexpected: Vec<String> = weights
            .names()
            .filter(|(name, _)| !self.shapes.contains_key(*name))
            .map(|(name, shape)| format!("{} {shape:?}", shown(name)))
            .collect();
        if missing.is_empty() && unexpected.is_empty() && others.is_empty() {
            return None;
        }
        let mut message = "expected the tensors of the network that config.json describes; the \
                           weights and config.json are of different policies"
            .to_owned();
        for (what, list) in
            [("missing", missing), ("unexpected", unexpected), ("of another shape", others)]
        {
            if list.is_empty() {
                continue;
            }
            message += &format!("\n  {} {what}:", list.len());
            for line in list.iter().take(LISTED) {
                message += &format!("\n    {line}");
            }
            if list.len() > LISTED {
                message += &format!("\n    and {} more", list.len() - LISTED);
            }
        }
        Some(message)
    }
}

fn differs(name: &str, wanted: &[usize], entry: &Entry) -> Option<String> {
    let name = shown(name);
    if entry.shape != wanted {
        return Some(format!("{name}: expected {wanted:?}, got {:?}", entry.shape));
    }
    match width(entry.dtype) {
        Some(_) => None,
        None => Some(format!("{name}: expected {NUMBERS}, got {}", entry.dtype)),
    }
}
