//! Limits on the data estimate, as denoisers around a denoiser.
//!
//! A limit changes `data`; the noise is then either kept, as DDIM does, or made anew from the state,
//! `noise = (x_t − α·data)/σ`, as DDPM's posterior mean does (diffusers' DDIM:
//! `use_clipped_model_output`). Sources: Ho et al. 2020 (clipping), Saharia et al. 2022 (Imagen:
//! dynamic thresholding); names and defaults are diffusers'.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::denoiser::Denoiser;
use super::path::Path;
use super::target::Estimate;
use crate::{Error, Result};

/// What the data estimate is limited to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Limit {
    /// Every number to ±`range`: `clip_sample`, `clip_sample_range`.
    Clip {
        /// Largest size of a number.
        range: f64,
    },
    /// Every sample to ±s, and then divided by s; s is the quantile of its sizes, from 1 up to `max`.
    Dynamic {
        /// Share of the numbers that stays as it is: `dynamic_thresholding_ratio`, usually 0.995.
        ratio: f64,
        /// Largest s: `sample_max_value`; 1 clips to ±1.
        max: f64,
    },
}

impl Limit {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Range`] for the first that is outside its range.
    pub fn validate(self) -> Result<()> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        match self {
            Self::Clip { range } if !positive(range) => {
                Err(Error::range("clip_sample_range", "a number above 0", range))
            }
            Self::Dynamic { ratio, .. } if !(0.0..=1.0).contains(&ratio) => {
                Err(Error::range("dynamic_thresholding_ratio", "0 to 1", ratio))
            }
            Self::Dynamic { max, .. } if !positive(max) => {
                Err(Error::range("sample_max_value", "a number above 0", max))
            }
            _ => Ok(()),
        }
    }

    /// The limited data `[b, ..]`; every sample by itself.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn apply(self, data: &Tensor) -> Result<Tensor> {
        match self {
            Self::Clip { range } => Ok(data.clamp(-range, range)?),
            Self::Dynamic { ratio, max } => {
                let rows = data.dims().first().copied().unwrap_or(1).max(1);
                let flat = data.reshape((rows, data.elem_count() / rows))?;
                let scales: Vec<f64> = flat
                    .to_dtype(DType::F64)?
                    .to_vec2::<f64>()?
                    .into_iter()
                    .map(|row| quantile(row, ratio).max(1.0).min(max))
                    .collect();
                let scale =
                    Tensor::from_vec(scales, (rows, 1), data.device())?.to_dtype(data.dtype())?;
                let scale = scale.broadcast_as(flat.shape())?;
                let limited = flat.minimum(&scale)?.maximum(&scale.neg()?)?;
                Ok((limited / scale)?.reshape(data.shape())?)
            }
        }
    }
}

/// The quantile of the sizes, linear between two of them.
fn quantile(mut row: Vec<f64>, ratio: f64) -> f64 {
    row.iter_mut().for_each(|x| *x = x.abs());
    row.sort_by(f64::total_cmp);
    let Some(last) = row.len().checked_sub(1) else { return 0.0 };
    let place = ratio * last as f64;
    let low = (place.floor() as usize).min(last);
    let high = (low + 1).min(last);
    row[low] + (row[high] - row[low]) * (place - low as f64)
}

/// What becomes of the noise estimate when the data estimate is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residue {
    /// It stays what the network said: DDIM.
    #[default]
    Kept,
    /// It is what the state holds beside the limited data: DDPM.
    Recomputed,
}

/// A denoiser whose data estimate is limited.
///
/// # Errors
/// The limit's numbers are checked here; the result fails where `denoiser` does.
pub fn limited<'a>(
    path: &'a Path,
    limit: Limit,
    residue: Residue,
    denoiser: &'a mut Denoiser<'_>,
) -> Result<impl FnMut(&Tensor, f64) -> Result<Estimate> + 'a> {
    limit.validate()?;
    Ok(move |x: &Tensor, t: f64| {
        let Estimate { data, noise } = denoiser(x, t)?;
        let (data, coef) = (limit.apply(&data)?, path.at(t));
        match residue {
            // Without noise in the state there is nothing to make anew.
            Residue::Recomputed if coef.sigma > 0.0 => Estimate::from_data(&coef, x, &data),
            _ => Ok(Estimate { data, noise }),
        }
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn rows() -> Tensor {
        Tensor::new(&[[0.1, -0.2, 0.4, -0.3, 0.0], [3.0, -1.0, 0.5, 2.0, -4.0]], &Device::Cpu)
            .unwrap()
    }

    #[test]
    fn clipping_keeps_or_recomputes_the_noise() {
        let path = Path::Straight;
        let x = rows();
        for (residue, want) in [(Residue::Kept, 5.0), (Residue::Recomputed, -6.0)] {
            // The noise is 5 and the data 2·x − 5: 1 and −13 of the numbers looked at.
            let mut inner = |x: &Tensor, _: f64| {
                let noise = x.affine(0.0, 5.0)?;
                Ok(Estimate { data: ((x / 0.5)? - &noise)?, noise })
            };
            let limit = Limit::Clip { range: 2.0 };
            let mut outer = limited(&path, limit, residue, &mut inner).unwrap();
            let estimate = outer(&x, 0.5).unwrap();
            let data = estimate.data.to_vec2::<f64>().unwrap();
            assert_eq!((data[1][0], data[1][4]), (1.0, -2.0));
            let got = estimate.noise.to_vec2::<f64>().unwrap();
            assert_eq!(got[1][0], 5.0);
            // −4 = ½·(−2) + ½·(−6)
            assert_eq!(got[1][4], want);
        }
    }

    #[test]
    fn dynamic_thresholds_are_each_sample_s_own() {
        let limit = Limit::Dynamic { ratio: 0.5, max: 10.0 };
        let out = limit.apply(&rows()).unwrap().to_vec2::<f64>().unwrap();
        // Sizes below 1 stay; the median size of the second row is 2.
        assert_eq!(out[0], [0.1, -0.2, 0.4, -0.3, 0.0]);
        assert_eq!(out[1], [1.0, -0.5, 0.25, 1.0, -1.0]);
        let alone = limit.apply(&rows().narrow(0, 1, 1).unwrap()).unwrap();
        assert_eq!(alone.to_vec2::<f64>().unwrap()[0], out[1]);
        // Between two numbers it is linear, as torch.quantile.
        assert_eq!(quantile(vec![1.0, -3.0, 2.0, 4.0], 0.5), 2.5);
        let out = Limit::Dynamic { ratio: 1.0, max: 1.0 }.apply(&rows()).unwrap();
        assert_eq!(out.to_vec2::<f64>().unwrap()[1], [1.0, -1.0, 0.5, 1.0, -1.0]);
    }

    #[test]
    fn limits_have_ranges() {
        for limit in [
            Limit::Clip { range: 0.0 },
            Limit::Dynamic { ratio: 1.1, max: 1.0 },
            Limit::Dynamic { ratio: 0.9, max: f64::NAN },
        ] {
            assert!(matches!(limit.validate(), Err(Error::Range { .. })), "{limit:?}");
        }
    }
}
