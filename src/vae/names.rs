//! What older files call the attention of an autoencoder.
//!
//! diffusers before 0.15 wrote `query`, `key`, `value` and `proj_attn`; files that were converted from
//! the original programs hold these four as 1×1 convolutions. Source: diffusers
//! `ModelMixin._fix_state_dict_keys_on_load`.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{DType, Device, Result as TensorResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::Result;
use crate::tensors::weights::Weights;

const STEM: &str = "diffusion_pytorch_model";

/// Builds a network from the weights of the folder `dir`, in f32 or, where only those are there, in
/// f16.
pub(super) fn load<T>(
    dir: &Path,
    device: &Device,
    mut build: impl FnMut(VarBuilder<'_>) -> Result<T>,
) -> Result<T> {
    let there = |name: String| dir.join(name).symlink_metadata().is_ok();
    let is = |stem: &str| {
        there(format!("{stem}.safetensors")) || there(format!("{stem}.safetensors.index.json"))
    };
    let half = format!("{STEM}.fp16");
    let stem = if !is(STEM) && is(&half) { &half } else { STEM };
    let weights = Weights::open_named(dir, stem)?.rename(|name| Some(renamed(name)))?;
    let is_point = |(name, shape): (&str, &[usize])| {
        (is_attention(name) && matches!(shape, [_, _, 1, 1])).then(|| name.to_owned())
    };
    let points: BTreeSet<String> = weights.names().filter_map(is_point).collect();
    weights.load(device, |vb| {
        let device = vb.device().clone();
        let points = Points { inner: vb, points: &points };
        build(VarBuilder::from_backend(Box::new(points), DType::F32, device))
    })
}

/// Today's name of a tensor.
fn renamed(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let new = |old: &str| match old {
        "query" => Some("to_q"),
        "key" => Some("to_k"),
        "value" => Some("to_v"),
        "proj_attn" => Some("to_out.0"),
        _ => None,
    };
    match *parts {
        [ref before @ .., "attentions", number, old, kind] => match new(old) {
            Some(new) => {
                let before: String = before.iter().map(|part| format!("{part}.")).collect();
                format!("{before}attentions.{number}.{new}.{kind}")
            }
            None => name.to_owned(),
        },
        _ => name.to_owned(),
    }
}

fn is_attention(name: &str) -> bool {
    let kinds = [".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight"];
    name.contains("attentions.") && kinds.iter().any(|kind| name.ends_with(kind))
}

/// Hands out 1×1 convolutions as the matrices that they are.
struct Points<'a> {
    inner: VarBuilder<'a>,
    points: &'a BTreeSet<String>,
}

impl SimpleBackend for Points<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        _: &Device,
    ) -> TensorResult<Tensor> {
        match *shape.dims() {
            [out, input] if self.points.contains(name) => {
                let shape = (out, input, 1, 1);
                // Squeezed, not reshaped: a placeholder must not be copied.
                self.inner.get_with_hints_dtype(shape, name, init, dtype)?.squeeze(3)?.squeeze(2)
            }
            _ => self.inner.get_with_hints_dtype(shape, name, init, dtype),
        }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> TensorResult<Tensor> {
        self.inner.get_unchecked_dtype(name, dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.inner.contains_tensor(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_become_todays() {
        for (old, new) in [
            (
                "encoder.mid_block.attentions.0.query.weight",
                "encoder.mid_block.attentions.0.to_q.weight",
            ),
            (
                "decoder.mid_block.attentions.0.proj_attn.bias",
                "decoder.mid_block.attentions.0.to_out.0.bias",
            ),
            (
                "encoder.down_blocks.1.attentions.2.key.bias",
                "encoder.down_blocks.1.attentions.2.to_k.bias",
            ),
            ("attentions.0.value.weight", "attentions.0.to_v.weight"),
            (
                "encoder.mid_block.attentions.0.group_norm.weight",
                "encoder.mid_block.attentions.0.group_norm.weight",
            ),
            ("quantize.embedding.weight", "quantize.embedding.weight"),
            ("key.weight", "key.weight"),
        ] {
            assert_eq!(renamed(old), new);
            assert_eq!(renamed(new), new);
        }
    }
}
