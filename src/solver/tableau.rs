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
    /// What adaptive stepping needs; None where the method has no error estimate.
    pub embedded: Option<Embedded>,
}

/// A second method in the same stages. The stage after the last is the field at the new state,
/// which is the first stage of the next step.
#[derive(Debug, PartialEq)]
pub struct Embedded {
    /// Weights of the error: the step minus one of a lower order.
    pub error: &'static [f64],
    /// Weights of the state in the middle of the step, of order 4 or more.
    pub mid: &'static [f64],
}

/// Euler's method, order 1: one evaluation a step.
pub const EULER: Tableau =
    Tableau { name: "euler", order: 1, c: &[0.0], a: &[&[]], b: &[1.0], embedded: None };

/// The explicit midpoint method, order 2: two evaluations a step.
pub const MIDPOINT: Tableau = Tableau {
    name: "midpoint",
    order: 2,
    c: &[0.0, 0.5],
    a: &[&[], &[0.5]],
    b: &[0.0, 1.0],
    embedded: None,
};

/// Heun's method (explicit trapezoid), order 2: two evaluations a step.
pub const HEUN: Tableau = Tableau {
    name: "heun",
    order: 2,
    c: &[0.0, 1.0],
    a: &[&[], &[1.0]],
    b: &[0.5, 0.5],
    embedded: None,
};

/// The classical method of Kutta, order 4: four evaluations a step.
pub const RK4: Tableau = Tableau {
    name: "rk4",
    order: 4,
    c: &[0.0, 0.5, 0.5, 1.0],
    a: &[&[], &[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]],
    b: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
    embedded: None,
};

/// The pair of Dormand and Prince (1980), order 5 with an error of order 4: six evaluations a step.
/// Error and middle are Shampine's (1986), as in torchdiffeq: its error is two thirds of the pair's
/// own, and the middle's weights are rational approximations of it.
pub const DOPRI5: Tableau = Tableau {
    name: "dopri5",
    order: 5,
    c: &[0.0, 0.2, 0.3, 0.8, 8.0 / 9.0, 1.0],
    a: &[
        &[],
        &[0.2],
        &[3.0 / 40.0, 9.0 / 40.0],
        &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
        &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
        &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    ],
    b: &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
    embedded: Some(Embedded {
        error: &[
            71.0 / 86400.0,
            0.0,
            -142.0 / 50085.0,
            71.0 / 2880.0,
            -5751.0 / 169_600.0,
            44.0 / 1575.0,
            -1.0 / 60.0,
        ],
        mid: &[
            0.5 * 6_025_192_743.0 / 30_085_553_152.0,
            0.0,
            0.5 * 51_252_292_925.0 / 65_400_821_598.0,
            -0.5 * 2_691_868_925.0 / 45_128_329_728.0,
            0.5 * 187_940_372_067.0 / 1_594_534_317_056.0,
            -0.5 * 1_776_094_331.0 / 19_743_644_256.0,
            0.5 * 11_237_099.0 / 235_043_384.0,
        ],
    }),
};

/// All methods, in order of cost.
pub const ALL: [&Tableau; 5] = [&EULER, &MIDPOINT, &HEUN, &RK4, &DOPRI5];

impl Tableau {
    /// The method called `name`.
    ///
    /// # Errors
    /// When there is none; the message lists the names.
    pub fn by_name(name: &str) -> Result<&'static Tableau> {
        ALL.into_iter().find(|tableau| tableau.name == name).ok_or_else(|| {
            let names = ALL.map(|tableau| tableau.name).join(", ");
            Error::Unknown { what: "solver".into(), expected: names, got: name.into() }
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
            let Tableau { name, order, c, a, b, .. } = tableau;
            assert_eq!((c.len(), a.len(), tableau.evals()), (b.len(), b.len(), b.len()), "{name}");
            for (i, row) in a.iter().enumerate() {
                assert_eq!(row.len(), i, "{name}: explicit");
                assert!((row.iter().sum::<f64>() - c[i]).abs() < 1e-15, "{name}: row {i}");
            }
            let sum = |f: &dyn Fn(usize) -> f64| (0..b.len()).map(|i| b[i] * f(i)).sum::<f64>();
            let inner =
                |i: usize, f: &dyn Fn(usize) -> f64| (0..i).map(|j| a[i][j] * f(j)).sum::<f64>();
            let nest = |i: usize| inner(i, &|j| c[j]);
            let twice = |i: usize| inner(i, &nest);
            // Every rooted tree up to order 5 (Hairer, Nørsett, Wanner I, table II.2.2).
            let conditions = [
                (1, sum(&|_| 1.0), 1.0),
                (2, sum(&|i| c[i]), 1.0 / 2.0),
                (3, sum(&|i| c[i].powi(2)), 1.0 / 3.0),
                (3, sum(&nest), 1.0 / 6.0),
                (4, sum(&|i| c[i].powi(3)), 1.0 / 4.0),
                (4, sum(&|i| c[i] * nest(i)), 1.0 / 8.0),
                (4, sum(&|i| inner(i, &|j| c[j].powi(2))), 1.0 / 12.0),
                (4, sum(&twice), 1.0 / 24.0),
                (5, sum(&|i| c[i].powi(4)), 1.0 / 5.0),
                (5, sum(&|i| c[i].powi(2) * nest(i)), 1.0 / 10.0),
                (5, sum(&|i| c[i] * inner(i, &|j| c[j].powi(2))), 1.0 / 15.0),
                (5, sum(&|i| c[i] * twice(i)), 1.0 / 30.0),
                (5, sum(&|i| nest(i).powi(2)), 1.0 / 20.0),
                (5, sum(&|i| inner(i, &|j| c[j].powi(3))), 1.0 / 20.0),
                (5, sum(&|i| inner(i, &|j| c[j] * nest(j))), 1.0 / 40.0),
                (5, sum(&|i| inner(i, &|j| inner(j, &|k| c[k].powi(2)))), 1.0 / 60.0),
                (5, sum(&|i| inner(i, &twice)), 1.0 / 120.0),
            ];
            for (of, got, expected) in conditions {
                let holds = (got - expected).abs() < 1e-15;
                assert!(holds || of > *order, "{name}: a condition of order {of}: {got}");
            }
            let next = order + 1;
            let exact = conditions.iter().all(|&(of, got, want)| of != next || got == want);
            assert!(*order == 5 || !exact, "{name} is of a higher order than it says");
        }
    }

    #[test]
    fn the_error_is_of_order_4_and_the_middle_is_the_middle() {
        let Tableau { c, a, b, embedded, .. } = &DOPRI5;
        let Embedded { error, mid } = embedded.as_ref().unwrap();
        // With the field at the new state as a seventh stage, whose row is b.
        let c = [c, &[1.0][..]].concat();
        let rows: Vec<&[f64]> = a.iter().copied().chain([*b]).collect();
        let inner = |i: usize, f: &dyn Fn(usize) -> f64| {
            rows[i].iter().enumerate().map(|(j, w)| w * f(j)).sum::<f64>()
        };
        let sum = |w: &[f64], f: &dyn Fn(usize) -> f64| (0..7).map(|i| w[i] * f(i)).sum::<f64>();
        let nest = |i: usize| inner(i, &|j| c[j]);
        let twice = |i: usize| inner(i, &nest);
        type Tree<'a> = (i32, f64, &'a dyn Fn(usize) -> f64);
        let trees: [Tree<'_>; 8] = [
            (1, 1.0, &|_| 1.0),
            (2, 2.0, &|i| c[i]),
            (3, 3.0, &|i| c[i].powi(2)),
            (3, 6.0, &nest),
            (4, 4.0, &|i| c[i].powi(3)),
            (4, 8.0, &|i| c[i] * nest(i)),
            (4, 12.0, &|i| inner(i, &|j| c[j].powi(2))),
            (4, 24.0, &twice),
        ];
        for (order, density, tree) in trees {
            assert!(sum(error, tree).abs() < 1e-16, "order {order}, density {density}");
            let half = 0.5f64.powi(order) / density;
            assert!((sum(mid, tree) - half).abs() < 1e-12, "order {order}, density {density}");
        }
        // Not of order 5, or it would measure nothing.
        assert!(sum(error, &|i| c[i].powi(4)).abs() > 1e-4);
    }

    #[test]
    fn names_find_their_method_and_the_error_lists_them() {
        for tableau in ALL {
            assert_eq!(Tableau::by_name(tableau.name).unwrap(), tableau);
        }
        let error = Tableau::by_name("RK4").unwrap_err().to_string();
        assert!(
            error.contains("euler, midpoint, heun, rk4, dopri5") && error.contains("RK4"),
            "{error}"
        );
    }
}
