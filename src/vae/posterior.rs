//! What an encoder says of a latent: a Gaussian per element.
//!
//! ```text
//! z = mean + e^(logvar/2)·noise        KL to the standard normal = ½·Σ (mean² + e^logvar − 1 − logvar)
//! ```
//!
//! Source: Kingma, Welling 2014, appendix B; the bounds of logvar as in diffusers
//! `DiagonalGaussianDistribution`.

use candle_core::{D, Tensor};

use crate::{Error, Result};

/// A Gaussian with a mean and a variance for every element of the latents.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// `[b, c, h, w]`.
    pub mean: Tensor,
    /// Logarithm of the variance, `[b, c, h, w]`, between −30 and 20.
    pub logvar: Tensor,
}

impl Posterior {
    /// From the `moments` `[b, 2c, h, w]`: means, then logarithms of variances.
    pub(super) fn new(moments: &Tensor) -> Result<Self> {
        let channels = moments.dim(1)? / 2;
        let mean = moments.narrow(1, 0, channels)?.contiguous()?;
        let logvar = moments.narrow(1, channels, channels)?.contiguous()?;
        Ok(Self { mean, logvar: logvar.clamp(-30f64, 20f64)? })
    }

    /// A latent, by standard normal `noise` of the shape of the mean.
    ///
    /// # Errors
    /// When the noise has another shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        if noise.dims() != self.mean.dims() {
            let expected = self.mean.dims();
            return Err(Error::shape("noise of a posterior", expected, noise.dims()));
        }
        let std = self.logvar.affine(0.5, 0.0)?.exp()?;
        Ok((&self.mean + (std * noise)?)?)
    }

    /// The most probable latent: the mean.
    pub fn mode(&self) -> Tensor {
        self.mean.clone()
    }

    /// Kullback-Leibler divergence to the standard normal, summed over a latent: `[b]`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn kl(&self) -> Result<Tensor> {
        let terms = ((self.mean.sqr()? + self.logvar.exp()?)? - &self.logvar)?;
        Ok(terms.affine(0.5, -0.5)?.flatten_from(1)?.sum(D::Minus1)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_divergence_is_that_of_gaussians_and_the_variance_is_bounded() {
        let moments = |mean: f32, logvar: f32| {
            let values = vec![mean, mean, logvar, logvar];
            Posterior::new(&Tensor::from_vec(values, (1, 2, 1, 2), &Device::Cpu).unwrap()).unwrap()
        };
        let kl = |mean, logvar| moments(mean, logvar).kl().unwrap().to_vec1::<f32>().unwrap()[0];
        assert_eq!(kl(0.0, 0.0), 0.0);
        assert_eq!(kl(2.0, 0.0), 4.0);
        let expected = 2f32.exp() - 1.0 - 2.0;
        assert!((kl(0.0, 2.0) - expected).abs() < 1e-5);
        for (logvar, bound) in [(-1e9, -30.0), (1e9, 20.0), (3.0, 3.0)] {
            let got = moments(0.0, logvar).logvar.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(got, [bound; 2]);
        }
        let noise = Tensor::full(2f32, (1, 1, 1, 2), &Device::Cpu).unwrap();
        let z = moments(1.0, 4f32.ln()).sample(&noise).unwrap();
        for z in z.flatten_all().unwrap().to_vec1::<f32>().unwrap() {
            assert!((z - 5.0).abs() < 1e-6);
        }
        assert!(moments(0.0, 0.0).sample(&noise.squeeze(0).unwrap()).is_err());
    }
}
