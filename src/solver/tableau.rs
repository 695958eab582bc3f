//! Explicit Runge–Kutta methods as data.
//!
//! `k_i = v(x + h·Σ_{j<i} a_ij·k_j, t + c_i·h)` and `x ← x + h·Σ b_i·k_i`.
//! Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, section II.1.

use crate::{Error, Result};

/// The coefficients of one explicit method.
#[derive(Debug, PartialEq)]
pub struct Tableau {
    /// Name in configuration files and on the command line.
    pub name: &'static str,
    /// Order of convergence: halving the steps divides the error by `2^order`.
    pub order: u32,
    /// Where in the step each stage is evaluated, as a fraction of the step.
    pub c: &'static [f64],
    /// Row i: the weights of the stages before i in the state of stage i.
    pub a: &'static [&'static [f64]],
    /// Weights of the stages in the step.
    pub b: &'static [f64],
}

/// Euler's method, order 1: one evaluation a step.
pub const EULER: Tableau = Tableau { name: "euler", order: 1, c: &[0.0], a: &[&[]], b: &[1.0] };

/// The explicit midpoint method, order 2: two evaluations a step.
pub const MIDPOINT: Tableau =
    Tableau { name: "midpoint", order: 2, c: &[0.0, 0.5], a: &[&[], &[0.5]], b: &[0.0, 1.0] };

/// Heun's method (explicit trapezoid), order 2: two evaluations a step.
pub const HEUN: Tableau =
    Tableau { name: "heun", order: 2, c: &[0.0, 1.0], a: &[&[], &[1.0]], b: &[0.5, 0.5] };

/// The classical method of Kutta, order 4: four evaluations a step.
pub const RK4: Tableau = Tableau {
    name: "rk4",
    order: 4,
    c: &[0.0, 0.5, 0.5, 1.0],
    a: &[&[], &[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]],
    b: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
};

/// All methods, in order of cost.
pub const ALL: [&Tableau; 4] = [&EULER, &MIDPOINT, &HEUN, &RK4];

impl Tableau {
    /// The method called `name`.
    ///
    /// # Errors
    /// When there is none; the message lists the names.
    pub fn by_name(name: &str) -> Result<&'static Tableau> {
        ALL.into_iter().find(|tableau| tableau.name == name).ok_or_else(|| {
            let names = ALL.map(|tableau| tableau.name).join(", ");
            Error::Invalid(format!("solver: expected one of {names}, got {name:?}"))
        })
    }

    /// Evaluations of the field per step.
    pub fn evals(&self) -> usize {
        self.b.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tableaux_are_consistent_and_satisfy_their_order_conditions() {
        for tableau in ALL {
            let Tableau { name, order, c, a, b } = tableau;
            assert_eq!((c.len(), a.len(), tableau.evals()), (b.len(), b.len(), b.len()), "{name}");
            for (i, row) in a.iter().enumerate() {
                assert_eq!(row.len(), i, "{name}: explicit");
                assert!((row.iter().sum::<f64>() - c[i]).abs() < 1e-15, "{name}: row {i}");
            }
            let sum = |f: &dyn Fn(usize) -> f64| (0..b.len()).map(|i| b[i] * f(i)).sum::<f64>();
            let inner =
                |i: usize, f: &dyn Fn(usize) -> f64| (0..i).map(|j| a[i][j] * f(j)).sum::<f64>();
            // Every rooted tree up to order 4 (Hairer, Nørsett, Wanner I, table II.2.2).
            let conditions = [
                (1, sum(&|_| 1.0), 1.0),
                (2, sum(&|i| c[i]), 1.0 / 2.0),
                (3, sum(&|i| c[i].powi(2)), 1.0 / 3.0),
                (3, sum(&|i| inner(i, &|j| c[j])), 1.0 / 6.0),
                (4, sum(&|i| c[i].powi(3)), 1.0 / 4.0),
                (4, sum(&|i| c[i] * inner(i, &|j| c[j])), 1.0 / 8.0),
                (4, sum(&|i| inner(i, &|j| c[j].powi(2))), 1.0 / 12.0),
                (4, sum(&|i| inner(i, &|j| inner(j, &|k| c[k]))), 1.0 / 24.0),
            ];
            for (of, got, expected) in conditions {
                let holds = (got - expected).abs() < 1e-15;
                assert!(holds || of > *order, "{name}: a condition of order {of}: {got}");
            }
            let next = order + 1;
            let exact = conditions.iter().all(|&(of, got, want)| of != next || got == want);
            assert!(*order == 4 || !exact, "{name} is of a higher order than it says");
        }
    }

    #[test]
    fn names_find_their_method_and_the_error_lists_them() {
        for tableau in ALL {
            assert_eq!(Tableau::by_name(tableau.name).unwrap(), tableau);
        }
        let error = Tableau::by_name("RK4").unwrap_err().to_string();
        assert!(error.contains("euler, midpoint, heun, rk4") && error.contains("RK4"), "{error}");
    }
}
