//! Grids by name: the field's timestep spacings over a training table, and all others as data.
//!
//! diffusers rounds differently from scheduler to scheduler, so a spacing needs the [`Family`]. All
//! grids end at the data (t = −1 of a table).
//!
//! | spacing | DDPM, DDIM | Euler, Heun | DPM-Solver |
//! |---|---|---|---|
//! | linspace | round(linspace(0, N − 1, n)) | not rounded | round(linspace(0, N − 1, n + 1)), without 0 |
//! | leading | i·⌊N/n⌋ + offset | the same | i·⌊N/(n + 1)⌋ + offset, from i = 1 |
//! | trailing | round(N − i·N/n) − 1 | the same | the same |
//!
//! Halves are rounded to even, as numpy does. With one step, linspace of the first two families
//! starts at 0, where hardly any noise is: so it does there. Source: Lin et al. 2024, table 2.

use serde::{Deserialize, Serialize};

use super::grid;
use crate::flow::Path;
use crate::{Error, Result};

/// How timesteps are spread over the training table: diffusers' `timestep_spacing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Both ends of the table are in.
    Linspace,
    /// From the least noisy end in equal whole steps; the noisiest steps are left out.
    #[default]
    Leading,
    /// From the noisiest end in equal steps.
    Trailing,
}

/// Whose rounding a spacing has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// DDPM and DDIM.
    #[default]
    Ddpm,
    /// EulerDiscrete, EulerAncestral and Heun.
    Euler,
    /// DPMSolverMultistep.
    DpmSolver,
}

/// `steps + 1` times over a table of `train_steps`, from the noise to −1, the data.
///
/// # Errors
/// [`Error::Range`] when there are no steps, more than the table has, or `offset` leads out of it.
pub fn spaced(
    spacing: Spacing,
    family: Family,
    train_steps: usize,
    steps: usize,
    offset: usize,
) -> Result<Vec<f64>> {
    // A leading or linspace grid of DPM-Solver has one point more, which it drops.
    let extra = usize::from(family == Family::DpmSolver && spacing != Spacing::Trailing);
    if steps == 0 || steps + extra > train_steps {
        let expected = format!("1 to {}: the table has {train_steps}", train_steps - extra);
        return Err(Error::range("steps", expected, steps as f64));
    }
    let (n, count) = (train_steps as f64, steps + extra);
    let time = |i: usize| match spacing {
        Spacing::Leading => ((count - 1 - i) * (train_steps / count) + offset) as f64,
        Spacing::Trailing => (n - i as f64 * (n / steps as f64)).round_ties_even() - 1.0,
        Spacing::Linspace if count == 1 => 0.0,
        Spacing::Linspace => {
            let last = count - 1;
            let t = if i == 0 { n - 1.0 } else { (last - i) as f64 * ((n - 1.0) / last as f64) };
            if family == Family::Euler { t } else { t.round_ties_even() }
        }
    };
    let mut times: Vec<f64> = (0..steps).map(time).collect();
    if times[0] > n - 1.0 {
        let expected = format!("an offset that keeps {} in the table of {train_steps}", times[0]);
        return Err(Error::range("steps_offset", expected, offset as f64));
    }
    times.push(-1.0);
    grid::validate(&times)?;
    Ok(times)
}

/// A grid as data: what a configuration file names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Grid {
    /// Equal steps in the path's own time.
    #[default]
    Uniform,
    /// Over the training table of a discrete path.
    Spaced {
        /// How.
        spacing: Spacing,
        /// Whose rounding.
        #[serde(default)]
        family: Family,
        /// diffusers' `steps_offset`, of leading grids.
        #[serde(default)]
        offset: usize,
    },
    /// [`grid::karras`]; absent ends are those of the table.
    Karras {
        /// Deviation at the first time.
        #[serde(default)]
        sigma_max: Option<f64>,
        /// Deviation at the last time but one.
        #[serde(default)]
        sigma_min: Option<f64>,
        /// The exponent; 7 if absent.
        #[serde(default = "seven")]
        rho: f64,
    },
    /// [`grid::exponential`]; absent ends are those of the table.
    Exponential {
        /// Deviation at the first time.
        #[serde(default)]
        sigma_max: Option<f64>,
        /// Deviation at the last time but one.
        #[serde(default)]
        sigma_min: Option<f64>,
    },
    /// Equal steps of the inside time, shifted: SD3.
    Shift {
        /// The shift; 1 leaves the times as they are.
        shift: f64,
    },
    /// The same with a shift by the number of tokens: Flux.
    DynamicShift {
        /// Number of tokens.
        tokens: usize,
        /// The line that gives μ.
        #[serde(default)]
        line: grid::DynamicShift,
    },
    /// These times, whatever the number of steps.
    Explicit {
        /// The path's own times.
        times: Vec<f64>,
    },
}

fn seven() -> f64 {
    7.0
}

impl Grid {
    /// The names that need no more than a name.
    pub const NAMES: [&str; 6] =
        ["uniform", "leading", "trailing", "linspace", "karras", "exponential"];

    /// The grid called `name`, with the field's default values.
    ///
    /// # Errors
    /// [`Error::Unknown`] when there is none; the message lists the names.
    pub fn by_name(name: &str) -> Result<Self> {
        let spaced = |spacing| Self::Spaced { spacing, family: Family::Ddpm, offset: 0 };
        let (sigma_max, sigma_min) = (None, None);
        Ok(match name {
            "uniform" => Self::Uniform,
            "leading" => spaced(Spacing::Leading),
            "trailing" => spaced(Spacing::Trailing),
            "linspace" => spaced(Spacing::Linspace),
            "karras" => Self::Karras { sigma_max, sigma_min, rho: seven() },
            "exponential" => Self::Exponential { sigma_max, sigma_min },
            _ => {
                return Err(Error::Unknown {
                    what: "grid".into(),
                    expected: Self::NAMES.join(", "),
                    got: name.into(),
                });
            }
        })
    }

    /// The times on `path`, from noise to data: `steps + 1` of them.
    ///
    /// # Errors
    /// When there is no such grid on this path.
    pub fn times(&self, path: &Path, steps: usize) -> Result<Vec<f64>> {
        let (noise, data) = path.ends();
        let ends = |max: &Option<f64>, min: &Option<f64>| {
            // The table's first step is the least noise that there is.
            let least = if let Path::Discrete(_) = path { path.at(0.0).sigma_hat() } else { 0.0 };
            (max.unwrap_or_else(|| path.at(noise).sigma_hat()), min.unwrap_or(least))
        };
        let shifted = |shift: f64| {
            let times = grid::shifted(&grid::uniform(1.0, 0.0, steps)?, shift)?;
            Ok(times.into_iter().map(|u| path.own_time(u)).collect())
        };
        let times = match self {
            Self::Uniform => grid::uniform(noise, data, steps),
            Self::Spaced { spacing, family, offset } => match path {
                Path::Discrete(table) => spaced(*spacing, *family, table.steps(), steps, *offset),
                _ => Err(Error::Invalid(format!(
                    "grid {spacing:?}: expected a discrete path, whose table it walks, got {path:?}"
                ))),
            },
            Self::Karras { sigma_max, sigma_min, rho } => {
                let (max, min) = ends(sigma_max, sigma_min);
                grid::times_of(path, &grid::karras(steps, max, min, *rho)?)
            }
            Self::Exponential { sigma_max, sigma_min } => {
                let (max, min) = ends(sigma_max, sigma_min);
                grid::times_of(path, &grid::exponential(steps, max, min)?)
            }
            Self::Shift { shift } => shifted(*shift),
            Self::DynamicShift { tokens, line } => shifted(line.shift(*tokens)),
            Self::Explicit { times } => grid::explicit(times),
        }?;
        grid::validate_on(&times, path)?;
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Discrete;

    #[test]
    fn spacings_are_those_of_the_field_notes() {
        // diffusers 0.42.1.
        let of = |spacing, family, n, offset| spaced(spacing, family, 1000, n, offset).unwrap();
        let leading = of(Spacing::Leading, Family::Ddpm, 20, 1);
        assert_eq!((leading[0], leading[1], leading[18], leading[19]), (951.0, 901.0, 51.0, 1.0));
        let trailing = of(Spacing::Trailing, Family::Ddpm, 3, 0);
        assert_eq!(trailing, [999.0, 666.0, 332.0, -1.0]);
        let euler = of(Spacing::Linspace, Family::Euler, 3, 0);
        assert_eq!(euler, [999.0, 499.5, 0.0, -1.0]);
        // 499.5 rounds to even.
        let ddpm = of(Spacing::Linspace, Family::Ddpm, 3, 0);
        assert_eq!(ddpm, [999.0, 500.0, 0.0, -1.0]);
        let dpm = of(Spacing::Linspace, Family::DpmSolver, 2, 0);
        assert_eq!(dpm, [999.0, 500.0, -1.0]);
        let dpm = of(Spacing::Leading, Family::DpmSolver, 4, 0);
        assert_eq!(dpm, [800.0, 600.0, 400.0, 200.0, -1.0]);
        let all = of(Spacing::Leading, Family::Ddpm, 1000, 0);
        assert_eq!((all.len(), all[0], all[999]), (1001, 999.0, 0.0));
    }

    #[test]
    fn nonsense_is_refused() {
        for (steps, family) in [(0, Family::Ddpm), (1001, Family::Ddpm), (1000, Family::DpmSolver)]
        {
            let grid = spaced(Spacing::Leading, family, 1000, steps, 0);
            assert!(matches!(grid, Err(Error::Range { .. })), "{steps}");
        }
        let error = spaced(Spacing::Leading, Family::Ddpm, 1000, 1000, 1).unwrap_err().to_string();
        assert!(error.contains("steps_offset"), "{error}");
        let error = Grid::by_name("Karras").unwrap_err().to_string();
        assert!(error.contains("uniform, leading") && error.contains("\"Karras\""), "{error}");
        assert!(matches!(Grid::Uniform.times(&Path::Straight, 0), Err(Error::Grid { .. })));
        let straight = |grid: Grid| grid.times(&Path::Straight, 5).is_err();
        assert!(straight(Grid::by_name("leading").unwrap()));
        assert!(straight(Grid::by_name("karras").unwrap()));
        assert!(straight(Grid::Shift { shift: -1.0 }));
        assert!(straight(Grid::Explicit { times: vec![1.0, 1.5] }));
        assert!(serde_json::from_str::<Grid>(r#"{"shift":{"shift":3,"by":2}}"#).is_err());
    }

    #[test]
    fn grids_are_data() {
        let table = Path::Discrete(Discrete::new(Default::default()).unwrap());
        for name in Grid::NAMES {
            let grid = Grid::by_name(name).unwrap();
            let times = grid.times(&table, 7).unwrap();
            assert_eq!((times.len(), times[7]), (8, -1.0), "{name}");
            let text = serde_json::to_string(&grid).unwrap();
            assert_eq!(serde_json::from_str::<Grid>(&text).unwrap(), grid, "{text}");
        }
        let read: Grid = serde_json::from_str(r#"{"shift":{"shift":3.0}}"#).unwrap();
        let (a, b) = (read.times(&Path::Straight, 4).unwrap(), [1.0, 0.9, 0.75, 0.5, 0.0]);
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-15), "{a:?}");
        let reversed = read.times(&Path::StraightReversed, 4).unwrap();
        assert!(reversed.iter().zip(b).all(|(a, b)| (a - 1.0 + b).abs() < 1e-15));
        let read: Grid = serde_json::from_str(r#"{"dynamic_shift":{"tokens":4096}}"#).unwrap();
        let first = read.times(&Path::Straight, 2).unwrap()[1];
        assert!((first - 1.15f64.exp() / (1.15f64.exp() + 1.0)).abs() < 1e-15);
    }
}
