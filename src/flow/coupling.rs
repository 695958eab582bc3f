//! Couplings: which noise belongs to which data sample of a minibatch.
//!
//! ```text
//! independent    noise i with data i
//! exact          min over π of Σ |noise_i − data_π(i)|²                          OT-CFM
//! conditional    the same, with w·|y_i − y_π(i)|² added, or within classes only   C²OT
//! entropic       min over plans of ⟨P, |noise_i − data_j|²⟩ + reg·⟨P, ln P⟩       SB-CFM, reg = 2σ²
//! ```
//!
//! Minibatch OT straightens the paths, but with a condition it skews the noise: data of condition y
//! then meet only the noise near them, while sampling draws all of it. The conditional cost keeps
//! the noise of each condition whole. There the condition of noise i is that of data i before the
//! exchange, so noise and condition are independent.
//!
//! torchcfm samples pairs from the plan with replacement; here the exact plan, which is a permutation
//! over n, is taken as it is: every noise and every data sample is used once. The expected pairs are
//! the same. From the entropic plan every noise sample draws one data sample from its row of the
//! plan.
//!
//! Sources: Tong et al. 2024 (OT-CFM, SB-CFM), Pooladian et al. 2023 (multisample flow matching),
//! Cheng and Schwing 2025 (C²OT), Cuturi 2013 (Sinkhorn).

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::assignment::{Distances, assign};
use super::noise::Noise;
use crate::{Error, Result};

/// How the noise of a minibatch is paired with its data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Coupling {
    /// As they come.
    #[default]
    Independent,
    /// Optimal transport of the minibatch.
    Exact,
    /// Optimal transport that keeps the noise of every condition whole.
    Conditional(ConditionCost),
    /// A draw from the entropic plan.
    Entropic {
        /// Weight of the entropy, in units of the squared distance.
        reg: f64,
    },
}

/// What it costs to give noise another condition than it came with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ConditionCost {
    /// Infinitely much: an exchange happens only between equal conditions.
    Class,
    /// `weight·|y_i − y_j|²`.
    Weight {
        /// In units of squared state per squared condition.
        weight: f64,
    },
    /// The weight of each minibatch is such that this share of all pairs (i, j) costs no more than
    /// the state alone of pair (i, i). C²OT finds it by bisection, here it is an order statistic.
    Ratio {
        /// The share; C²OT's script uses 0.05.
        share: f64,
    },
}

impl Coupling {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Names the one that is out of range.
    pub fn validate(&self) -> Result<()> {
        let check = |what: &str, value: f64, fits: bool, expected: &str| {
            let what = format!("coupling: {what}");
            if fits { Ok(()) } else { Err(Error::range(what, expected, value)) }
        };
        match *self {
            Self::Entropic { reg } => {
                check("reg", reg, reg > 0.0 && reg.is_finite(), "a number above 0")
            }
            Self::Conditional(ConditionCost::Weight { weight }) => {
                check("weight", weight, (0.0..1e12).contains(&weight), "a number from 0 to 1e12")
            }
            Self::Conditional(ConditionCost::Ratio { share }) => {
                check("share", share, share > 0.0 && share <= 1.0, "a number in (0, 1]")
            }
            _ => Ok(()),
        }
    }

    /// For every noise row the data row that it is paired with: take `index_select` of the data and
    /// of the condition. `noise` and `data` are `[n, ..]` of one shape, `condition` is `[n, ..]`.
    /// Only the entropic plan is random: it reads draw number `draw` of `draws`.
    ///
    /// # Errors
    /// When a number is out of range, the shapes do not fit, a condition is needed and missing, or
    /// a coordinate is not finite.
    pub fn pair(
        &self,
        noise: &Tensor,
        data: &Tensor,
        condition: Option<&Tensor>,
        draws: &Noise,
        draw: u64,
    ) -> Result<Vec<u32>> {
        self.validate()?;
        if noise.dims() != data.dims() || noise.rank() == 0 {
            return Err(Error::shape("coupling: data", noise.dims(), data.dims()));
        }
        let n = noise.dims()[0];
        let dims = (noise.elem_count() / n.max(1)).max(1);
        if *self == Self::Independent {
            return Ok((0..n as u32).collect());
        }
        let distances = Distances::new(&flat(noise)?, &flat(data)?, dims)?;
        match self {
            Self::Conditional(cost) => {
                let condition = condition.ok_or_else(|| {
                    Error::Invalid("coupling: expected a condition, got none".into())
                })?;
                if condition.dims().first() != Some(&n) {
                    return Err(Error::shape("coupling: condition", [n], condition.dims()));
                }
                conditional(&distances, &flat(condition)?, cost)
            }
            Self::Entropic { reg } => entropic(&distances, *reg, draws, draw),
            _ => narrow(&assign(n, &mut |i, out| distances.row(i, out))?.columns),
        }
    }
}

fn flat(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn narrow(columns: &[usize]) -> Result<Vec<u32>> {
    Ok(columns.iter().map(|&j| j as u32).collect())
}

fn conditional(states: &Distances, condition: &[f64], cost: &ConditionCost) -> Result<Vec<u32>> {
    let n = states.len();
    let conditions = Distances::new(condition, condition, (condition.len() / n.max(1)).max(1))?;
    let weight = match cost {
        ConditionCost::Class => return within_classes(states, condition),
        ConditionCost::Weight { weight } => *weight,
        ConditionCost::Ratio { share } => weight_of_share(states, &conditions, *share),
    };
    let mut extra = vec![0.0; n];
    let columns = assign(n, &mut |i, out| {
        states.row(i, out);
        conditions.row(i, &mut extra);
        for (out, extra) in out.iter_mut().zip(&extra) {
            *out += weight * extra;
        }
    });
    narrow(&columns?.columns)
}

/// One assignment for each class: the same as an infinite cost between classes, and cheaper.
fn within_classes(states: &Distances, condition: &[f64]) -> Result<Vec<u32>> {
    let n = states.len();
    let width = (condition.len() / n.max(1)).max(1);
    let mut members: std::collections::BTreeMap<Vec<u64>, Vec<usize>> = Default::default();
    for (i, class) in condition.chunks(width).enumerate() {
        // Adding 0 makes one number of the two zeros.
        members.entry(class.iter().map(|y| (y + 0.0).to_bits()).collect()).or_default().push(i);
    }
    let mut out = vec![0; n];
    let mut row = vec![0.0; n];
    for class in members.values() {
        let found = assign(class.len(), &mut |i, costs| {
            states.row(class[i], &mut row);
            for (cost, &j) in costs.iter_mut().zip(class) {
                *cost = row[j];
            }
        })?;
        for (&i, &j) in class.iter().zip(&found.columns) {
            out[i] = class[j] as u32;
        }
    }
    Ok(out)
}

/// The weight w for which `M_ij + w·C_ij ≤ M_ii` holds for `share` of all pairs: each pair with
/// `M_ij ≤ M_ii` stops to fulfil it at `w = (M_ii − M_ij)/C_ij`, so w is an order statistic of those.
/// 0 when even without a weight fewer pairs fulfil it.
pub fn weight_of_share(states: &Distances, conditions: &Distances, share: f64) -> f64 {
    let n = states.len();
    let (mut state, mut condition) = (vec![0.0; n], vec![0.0; n]);
    let mut limits = Vec::new();
    for i in 0..n {
        states.row(i, &mut state);
        conditions.row(i, &mut condition);
        let own = state[i];
        let pairs = state.iter().zip(&condition).filter(|(m, _)| **m <= own);
        limits.extend(pairs.map(|(m, c)| if *c > 0.0 { (own - m) / c } else { f64::INFINITY }));
    }
    let wanted = (share * (n * n) as f64).ceil().max(1.0) as usize;
    if limits.len() < wanted {
        return 0.0;
    }
    let (_, weight, _) = limits.select_nth_unstable_by(wanted - 1, |a, b| b.total_cmp(a));
    // With more equal conditions than that, any weight will do.
    weight.min(1e8)
}

/// Sinkhorn's iteration in logarithms, until the column sums are 1/n to 1e-6 or 2,000 rounds.
fn entropic(distances: &Distances, reg: f64, draws: &Noise, draw: u64) -> Result<Vec<u32>> {
    let n = distances.len();
    let plan = sinkhorn(distances, reg)?;
    let uniforms = draws.uniforms(0, draw, n);
    let pick = |i: usize| {
        let row = &plan[i * n..(i + 1) * n];
        let mut left = uniforms[i] * row.iter().sum::<f64>();
        let found = row.iter().position(|p| {
            left -= p;
            left < 0.0
        });
        found.unwrap_or(n - 1) as u32
    };
    Ok((0..n).map(pick).collect())
}

/// The entropic plan `[n, n]` between uniform weights: its rows sum to 1/n.
///
/// # Errors
/// When a distance is not finite.
pub fn sinkhorn(distances: &Distances, reg: f64) -> Result<Vec<f64>> {
    let n = distances.len();
    let mut plan = vec![0.0; n * n];
    for (i, row) in plan.chunks_mut(n.max(1)).enumerate() {
        distances.row(i, row);
        row.iter_mut().for_each(|cost| *cost /= -reg);
    }
    if let Some(bad) = plan.iter().position(|cost| !cost.is_finite()) {
        let what = format!("coupling: distance of noise {} and data {}", bad / n, bad % n);
        return Err(Error::range(what, "a finite number", -plan[bad] * reg));
    }
    let log_weight = -(n as f64).ln();
    let (mut f, mut g) = (vec![0.0; n], vec![0.0; n]);
    for _ in 0..2000 {
        for (f, row) in f.iter_mut().zip(plan.chunks(n)) {
            *f = log_weight - log_sum_exp(row.iter().zip(&g).map(|(k, g)| k + g));
        }
        let mut worst = 0.0f64;
        for (j, g) in g.iter_mut().enumerate() {
            let column = plan.iter().skip(j).step_by(n);
            let next = log_weight - log_sum_exp(column.zip(&f).map(|(k, f)| k + f));
            worst = worst.max((next - *g).abs());
            *g = next;
        }
        if worst < 1e-9 {
            break;
        }
    }
    for (f, row) in f.iter().zip(plan.chunks_mut(n.max(1))) {
        row.iter_mut().zip(&g).for_each(|(k, g)| *k = (*k + f + g).exp());
    }
    Ok(plan)
}

fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    most + terms.map(|term| (term - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Shares of scipy, POT and torchcfm: tests/golden/coupling.py.
    fn golden() -> serde_json::Value {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/coupling.json");
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    fn tensor(golden: &serde_json::Value, key: &str, width: usize) -> Tensor {
        let values = numbers(&golden[key]);
        let n = values.len() / width;
        Tensor::from_vec(values, (n, width), &Device::Cpu).unwrap()
    }

    fn cost(noise: &Tensor, data: &Tensor, columns: &[u32]) -> f64 {
        let data = data.index_select(&Tensor::new(columns, &Device::Cpu).unwrap(), 0).unwrap();
        let squares = (noise - data).unwrap().sqr().unwrap().sum_all().unwrap();
        squares.to_scalar::<f64>().unwrap()
    }

    #[test]
    fn plans_are_those_of_scipy_pot_and_torchcfm() {
        let golden = golden();
        let (noise, data) = (tensor(&golden, "noise", 3), tensor(&golden, "data", 3));
        let (y, class) = (tensor(&golden, "condition", 1), tensor(&golden, "classes", 1));
        let draws = Noise::new(0);
        let pair = |coupling: Coupling, y: Option<&Tensor>| -> Vec<f64> {
            let columns = coupling.pair(&noise, &data, y, &draws, 0).unwrap();
            columns.into_iter().map(f64::from).collect()
        };
        let exact = pair(Coupling::Exact, None);
        assert_eq!(exact, numbers(&golden["exact"]));
        assert_eq!(exact, numbers(&golden["torchcfm_exact"]));
        let columns: Vec<u32> = exact.iter().map(|j| *j as u32).collect();
        let total = cost(&noise, &data, &columns);
        let n = golden["n"].as_f64().unwrap();
        assert!((total - golden["exact_cost"].as_f64().unwrap()).abs() < 1e-11);
        assert!((total / n - golden["emd2"].as_f64().unwrap()).abs() < 1e-12);
        let weight = golden["weight"].as_f64().unwrap();
        let weighted = Coupling::Conditional(ConditionCost::Weight { weight });
        assert_eq!(pair(weighted, Some(&y)), numbers(&golden["weighted"]));
        let by_class = pair(Coupling::Conditional(ConditionCost::Class), Some(&class));
        assert_eq!(by_class, numbers(&golden["by_class"]));
        let integers = numbers(&golden["integers"]);
        let found = super::super::assignment::assign_matrix(&integers, 40, 40).unwrap();
        assert_eq!(found.cost, golden["integer_cost"].as_f64().unwrap());
    }

    #[test]
    fn the_entropic_plan_is_that_of_pot() {
        let golden = golden();
        let (noise, data) = (numbers(&golden["noise"]), numbers(&golden["data"]));
        let distances = Distances::new(&noise, &data, 3).unwrap();
        let plan = sinkhorn(&distances, golden["reg"].as_f64().unwrap()).unwrap();
        let worst = plan.iter().zip(numbers(&golden["sinkhorn"])).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0.0, f64::max);
        println!("largest difference to POT's plan: {worst:e}");
        assert!(worst < 1e-9, "{worst:e}");
        // Drawn pairs follow the plan: over many draws noise 0 meets data j as often as it says.
        let (noise, data) = (tensor(&golden, "noise", 3), tensor(&golden, "data", 3));
        let coupling = Coupling::Entropic { reg: golden["reg"].as_f64().unwrap() };
        let first = coupling.pair(&noise, &data, None, &Noise::new(1), 5).unwrap();
        assert_eq!(first, coupling.pair(&noise, &data, None, &Noise::new(1), 5).unwrap());
        assert_ne!(first, coupling.pair(&noise, &data, None, &Noise::new(1), 6).unwrap());
        let exact = Coupling::Exact.pair(&noise, &data, None, &Noise::new(1), 5).unwrap();
        assert!(cost(&noise, &data, &first) > cost(&noise, &data, &exact));
    }

    #[test]
    fn a_conditional_coupling_keeps_the_noise_of_each_condition_whole() {
        // Noise ±1 and data ±1, where the class is the sign of the data.
        let n = 400;
        let noise = Noise::new(2).normal(0, 0, n);
        let side = Noise::new(2).permutation(1, n);
        let class: Vec<f32> = side.iter().map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let tensor = |x: Vec<f32>| Tensor::from_vec(x, (n, 1), &Device::Cpu).unwrap();
        let (noise, data, y) = (tensor(noise), tensor(class.clone()), tensor(class.clone()));
        let mean = |coupling: Coupling| -> f64 {
            let columns = coupling.pair(&noise, &data, Some(&y), &Noise::new(0), 0).unwrap();
            let noise = noise.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let of_class = noise.iter().zip(&columns).filter(|(_, j)| class[**j as usize] > 0.0);
            of_class.map(|(x, _)| f64::from(*x)).sum::<f64>() / (n / 2) as f64
        };
        let whole = mean(Coupling::Conditional(ConditionCost::Class));
        assert!(whole.abs() < 0.15, "{whole}");
        // The broken twin is plain minibatch OT: class 1 meets the upper half of the noise only.
        let skewed = mean(Coupling::Exact);
        assert!(skewed > 0.6, "{skewed}");
        let heavy = mean(Coupling::Conditional(ConditionCost::Weight { weight: 1e6 }));
        assert!((heavy - whole).abs() < 1e-12);
        assert_eq!(mean(Coupling::Conditional(ConditionCost::Weight { weight: 0.0 })), skewed);
    }

    #[test]
    fn the_weight_gives_the_share_of_pairs() {
        let n = 60;
        let normal = |k: u64| -> Vec<f64> {
            Noise::new(k).normal(0, 0, 2 * n).into_iter().map(f64::from).collect()
        };
        let states = Distances::new(&normal(0), &normal(1), 2).unwrap();
        let conditions = Distances::new(&normal(2)[..n], &normal(2)[..n], 1).unwrap();
        for share in [0.05, 0.2] {
            let weight = weight_of_share(&states, &conditions, share);
            let (mut m, mut c) = (vec![0.0; n], vec![0.0; n]);
            let mut count = 0;
            for i in 0..n {
                states.row(i, &mut m);
                conditions.row(i, &mut c);
                count += (0..n).filter(|&j| m[j] + weight * (1.0 - 1e-12) * c[j] <= m[i]).count();
            }
            assert_eq!(count, (share * (n * n) as f64).ceil() as usize, "weight {weight}");
        }
        assert_eq!(weight_of_share(&states, &conditions, 0.99), 0.0);
    }

    #[test]
    fn bad_input_is_one_typed_error_each() {
        let x = |n: usize| Tensor::zeros((n, 2), DType::F32, &Device::Cpu).unwrap();
        let noise = Noise::new(0);
        let pair = |coupling: &Coupling, data: &Tensor, y: Option<&Tensor>| {
            coupling.pair(&x(4), data, y, &noise, 0).unwrap_err()
        };
        assert!(matches!(pair(&Coupling::Exact, &x(5), None), Error::Shape { .. }));
        let class = Coupling::Conditional(ConditionCost::Class);
        assert!(matches!(pair(&class, &x(4), None), Error::Invalid(_)));
        assert!(matches!(pair(&class, &x(4), Some(&x(3))), Error::Shape { .. }));
        let bad = (x(4) * f64::NAN).unwrap();
        assert!(matches!(pair(&Coupling::Exact, &bad, None), Error::Range { .. }));
        let entropic = |reg| Coupling::Entropic { reg };
        assert!(matches!(pair(&entropic(1.0), &bad, None), Error::Range { .. }));
        for coupling in [
            entropic(0.0),
            entropic(f64::NAN),
            Coupling::Conditional(ConditionCost::Ratio { share: 0.0 }),
            Coupling::Conditional(ConditionCost::Weight { weight: -1.0 }),
        ] {
            assert!(matches!(pair(&coupling, &x(4), Some(&x(4))), Error::Range { .. }));
        }
        let json = serde_json::to_string(&Coupling::Conditional(ConditionCost::Class)).unwrap();
        assert_eq!(serde_json::from_str::<Coupling>(&json).unwrap(), class);
    }
}
