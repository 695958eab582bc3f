//! `Σ w_i·x_i` in one pass: nearly all the arithmetic on tensors that samplers do.

use candle_core::{CpuStorage, DType, Storage, Tensor, WithDType};

use crate::{Error, Result};

/// `Σ w_i·x_i`; terms of weight 0 are left out and need not be finite.
///
/// On the CPU every operand is read once and the result written once. Tensors that carry gradients
/// or live elsewhere take one tensor operation a term.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ; when there is no term.
pub(crate) fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let Some((_, like)) = terms.first() else {
        return Err(Error::Invalid("a sum: expected at least one term, got none".into()));
    };
    if let Some((_, other)) = terms.iter().find(|(_, x)| x.dims() != like.dims()) {
        return Err(Error::shape("state and estimate", like.dims(), other.dims()));
    }
    let used: Vec<(f64, &Tensor)> = terms.iter().copied().filter(|(w, _)| *w != 0.0).collect();
    if used.is_empty() {
        return Ok(like.zeros_like()?);
    }
    let fused = match like.dtype() {
        DType::F32 => fuse::<f32>(&used)?,
        DType::F64 => fuse::<f64>(&used)?,
        _ => None,
    };
    fused.map_or_else(|| one_by_one(&used), Ok)
}

fn one_by_one(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (w, x) in terms {
        let term = if *w == 1.0 { (*x).clone() } else { x.affine(*w, 0.0)? };
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.ok_or_else(|| Error::Invalid("a sum: expected at least one term, got none".into()))
}

/// None where one pass is not possible: another device or dtype, gaps in memory, gradients.
fn fuse<T: WithDType>(terms: &[(f64, &Tensor)]) -> Result<Option<Tensor>> {
    let guards: Vec<_> = terms.iter().map(|(_, x)| x.storage_and_layout()).collect();
    let mut slices: Vec<(T, &[T])> = Vec::with_capacity(terms.len());
    for ((w, x), (storage, layout)) in terms.iter().zip(&guards) {
        let (Storage::Cpu(storage), Some((from, to)), false) =
            (&**storage, layout.contiguous_offsets(), x.track_op())
        else {
            return Ok(None);
        };
        match slice::<T>(storage) {
            Some(all) => slices.push((T::from_f64(*w), &all[from..to])),
            None => return Ok(None),
        }
    }
    let out: Vec<T> = match *slices {
        [(a, x)] => x.iter().map(|&x| a * x).collect(),
        [(a, x), (b, y)] => x.iter().zip(y).map(|(&x, &y)| a * x + b * y).collect(),
        [(a, x), (b, y), (c, z)] => {
            x.iter().zip(y).zip(z).map(|((&x, &y), &z)| a * x + b * y + c * z).collect()
        }
        [(a, x), (b, y), (c, z), (d, u), ref rest @ ..] => {
            let first = x.iter().zip(y).zip(z).zip(u);
            let mut out: Vec<T> =
                first.map(|(((&x, &y), &z), &u)| a * x + b * y + c * z + d * u).collect();
            for (w, x) in rest {
                out.iter_mut().zip(*x).for_each(|(out, &x)| *out += *w * x);
            }
            out
        }
        [] => return Ok(None),
    };
    let like = terms[0].1;
    Ok(Some(Tensor::from_vec(out, like.dims(), like.device())?))
}

fn slice<T: WithDType>(storage: &CpuStorage) -> Option<&[T]> {
    storage.as_slice::<T>().ok()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn one_pass_and_one_by_one_agree() {
        let row = |k: f64| {
            let values: Vec<f64> = (0..12).map(|i| (f64::from(i) * k).sin()).collect();
            Tensor::from_vec(values, (3, 4), &Device::Cpu).unwrap()
        };
        let rows: Vec<Tensor> = (1..=6).map(|k| row(f64::from(k))).collect();
        for n in 1..=6 {
            let terms: Vec<(f64, &Tensor)> =
                rows[..n].iter().enumerate().map(|(i, x)| (0.3 * i as f64 - 0.7, x)).collect();
            let gap = (combine(&terms).unwrap() - one_by_one(&terms).unwrap()).unwrap();
            let gap = gap.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(gap < 1e-15, "{n}: {gap}");
        }
        // Gaps in memory take the other road.
        let (x, y) = (rows[0].t().unwrap(), rows[1].t().unwrap().contiguous().unwrap());
        let sum = combine(&[(2.0, &x), (1.0, &y)]).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(sum[1][2], 2.0 * 9f64.sin() + 18f64.sin());
        // A weight of zero hides what is not finite, and shapes must fit.
        let bad = (&rows[0] * f64::NAN).unwrap();
        let sum = combine(&[(1.0, &rows[1]), (0.0, &bad)]).unwrap();
        assert_eq!(sum.to_vec2::<f64>().unwrap(), rows[1].to_vec2::<f64>().unwrap());
        assert!(matches!(combine(&[(1.0, &x), (1.0, &rows[0])]), Err(Error::Shape { .. })));
        assert!(combine(&[]).is_err());
    }

    #[test]
    fn gradients_pass() {
        let x = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let y = Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let loss = combine(&[(2.0, &y), (-0.5, x.as_tensor())]).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), [-0.5, -0.5]);
    }
}
