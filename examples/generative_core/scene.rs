//! The data of the page, and helpers from tensors to points of a plot.

use std::f64::consts::PI;

use candle_core::{Device, Tensor};
use pathline::Result;
use pathline::flow::{GaussianMixture, Noise, Path};
use pathline::plot::{Layer, Scale};

pub(crate) type Point = (f64, f64);

/// Seed of everything on the page.
pub(crate) const SEED: u64 = 7;

/// Half the width of a 2-D window.
pub(crate) const WINDOW: f64 = 2.6;

/// Components on each of the two half circles.
pub(crate) const MOON: usize = 40;

/// The inside convention: noise at t = 1.
pub(crate) const STRAIGHT: Path = Path::Straight;
pub(crate) const VP: Path = Path::Vp { beta_min: 0.1, beta_max: 20.0 };

/// Two half circles that reach into each other, with a deviation of 0.08.
pub(crate) fn moons() -> Result<GaussianMixture> {
    let angle = |i: usize| PI * i as f64 / (MOON - 1) as f64;
    let upper = (0..MOON).map(|i| vec![1.3 * angle(i).cos() - 0.65, 1.3 * angle(i).sin() - 0.3]);
    let lower = (0..MOON).map(|i| vec![1.3 * angle(i).cos() + 0.65, 0.3 - 1.3 * angle(i).sin()]);
    GaussianMixture::isotropic(upper.chain(lower).collect(), 0.08)
}

/// Three round heaps of different weight.
pub(crate) fn heaps() -> Result<GaussianMixture> {
    let means = vec![vec![-1.3, 0.9], vec![1.4, 0.7], vec![0.1, -1.4]];
    GaussianMixture::new(vec![0.3, 0.3, 0.4], means, vec![0.25, 0.4, 0.3])
}

/// Three heaps on a line.
pub(crate) fn line() -> Result<GaussianMixture> {
    let means = vec![vec![-1.5], vec![0.3], vec![1.6]];
    GaussianMixture::new(vec![0.35, 0.25, 0.4], means, vec![0.12, 0.1, 0.2])
}

pub(crate) fn noise() -> Noise {
    Noise::new(SEED)
}

/// `n` rows of `d` standard normals, f64.
pub(crate) fn normals(draw: u64, n: usize, d: usize) -> Result<Tensor> {
    let like = Tensor::zeros((n, d), candle_core::DType::F64, &Device::Cpu)?;
    noise().normal_like(0, draw, &like)
}

/// Rows `[n, 2]` as points.
pub(crate) fn points(x: &Tensor) -> Result<Vec<Point>> {
    Ok(x.to_vec2::<f64>()?.into_iter().map(|row| (row[0], row[1])).collect())
}

/// Points as rows.
pub(crate) fn rows(points: &[Point]) -> Result<Tensor> {
    let flat: Vec<f64> = points.iter().flat_map(|&(x, y)| [x, y]).collect();
    Ok(Tensor::from_vec(flat, (points.len(), 2), &Device::Cpu)?)
}

/// `n²` points of a square lattice, row by row from the left bottom.
pub(crate) fn lattice(n: usize, reach: f64) -> Vec<Point> {
    let at = |i: usize| reach * (2.0 * i as f64 / (n - 1) as f64 - 1.0);
    (0..n * n).map(|k| (at(k % n), at(k / n))).collect()
}

/// The window of all 2-D pictures, without numbers.
pub(crate) fn window() -> [Scale; 2] {
    [Scale::bare(-WINDOW, WINDOW), Scale::bare(-WINDOW, WINDOW)]
}

/// The density at time t over the window, its root so that the thin parts can be seen too.
pub(crate) fn heat(data: &GaussianMixture, path: &Path, t: f64) -> Result<Layer> {
    const N: usize = 121;
    let log = data.log_density(path, &rows(&lattice(N, WINDOW))?, t)?.to_vec1::<f64>()?;
    let most = log.iter().fold(f64::NEG_INFINITY, |most, v| most.max(*v));
    let values = log.iter().map(|v| 0.85 * (0.5 * (v - most)).exp()).collect();
    Ok(Layer::heat([(-WINDOW, -WINDOW), (WINDOW, WINDOW)], N, values))
}

/// `count` numbers from `from` to `to`.
pub(crate) fn spread(from: f64, to: f64, count: usize) -> Vec<f64> {
    (0..count).map(|i| from + (to - from) * i as f64 / (count - 1) as f64).collect()
}

/// Grid points of a run, one polyline a row of the state.
#[derive(Default)]
pub(crate) struct Trails(pub(crate) Vec<Vec<Point>>);

impl Trails {
    /// An observer's step: appends each row of `x` `[n, 2]`.
    pub(crate) fn record(&mut self, x: &Tensor) -> Result<()> {
        let here = points(x)?;
        self.0.resize(here.len(), Vec::new());
        self.0.iter_mut().zip(here).for_each(|(trail, point)| trail.push(point));
        Ok(())
    }

    pub(crate) fn ends(&self) -> Vec<Point> {
        self.0.iter().filter_map(|trail| trail.last().copied()).collect()
    }

    pub(crate) fn starts(&self) -> Vec<Point> {
        self.0.iter().filter_map(|trail| trail.first().copied()).collect()
    }
}
