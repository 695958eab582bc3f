//! Solvers of `dx/dt = v(x, t)`: Runge–Kutta tableaux as data, time grids, and one integrator.
//!
//! No network, no policy and no path is known here: the field is a closure and the grid says where
//! to go. Which end is noise is the business of [`crate::flow::Path::ends`].

pub mod flow_map;
pub mod grid;
pub mod integrate;
pub mod solution;
pub mod tableau;

pub use integrate::{integrate, integrate_observed};
pub use solution::{Draw, Field, Observer, Solution};
pub use tableau::Tableau;
