//! Our own matrix product for the CPU: f32 rows times a weight that was packed once.
//!
//! ```text
//! weight [n, k] ─ pack ─► panels of 16 outputs, blocks of at most 128 of k      (panels.rs)
//! rows: a matrix, or what each output of a convolution sees, never copied       (rows.rs)
//! block of k × 96 rows × panel: tiles of up to 6 rows in registers               (tile.rs)
//! shared among threads by rows, or by panels where the rows are few             (multiply.rs)
//! ```
//!
//! The order of the additions of one output depends on k alone: inside a block one chain of fused
//! multiply-adds, and the blocks one after the other. So a sample has the same bits in any batch, with
//! any number of threads. Compiled for AVX2, AVX-512 and NEON at once; the machine decides at run time.
//! The shape of the tiles and blocks is that of Goto, van de Geijn 2008 and of BLIS.

mod meter;
mod multiply;
mod panels;
mod rows;
mod tile;

pub use meter::Work;
pub(super) use meter::count;
pub(super) use multiply::{Target, by_rows, multiply};
pub use panels::Storage;
pub(super) use panels::{Layout, Panels};
pub(super) use rows::{Matrix, Rows, Window, Windows};
